"""Judging as a job for workers: they look at images, the parent counts."""

import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from deepfusion_toolkit.data.folder import Dataset
from deepfusion_toolkit.engines import Engine, Work, announced
from deepfusion_toolkit.evaluate import BATCH, Judge, Look, Said, fused, predict
from deepfusion_toolkit.plan import Plan
from deepfusion_toolkit.report.terminal import progress
from deepfusion_toolkit.sources import Source


@dataclass(frozen=True)
class Glance:
    """A chunk of a study: images for one judge, known by its number."""

    judge: int
    dataset: Dataset


@dataclass(frozen=True)
class LookJob:
    """Judge images by plain targets, and if there is a plan by all of them, fused."""

    targets: tuple[Source, ...]
    plan: Plan | None
    seed: int

    def open(self, device: str) -> Work[Glance, list[Said]]:  # noqa: ARG002 - judged on the CPU
        """Load a target when it is first asked for."""

        @cache
        def look(number: int) -> Look:
            if number == len(self.targets) and self.plan is not None:
                loaded = [target.load() for target in self.targets]
                return fused(loaded, self.plan, self.seed, shown=False)
            model = self.targets[number].load()
            return lambda dataset: [Said(label) for label in predict(model, dataset, shown=False)]

        return lambda glance, _notify: look(glance.judge)(glance.dataset)

    def names(self, chunk: Glance) -> list[str]:
        """Files of a chunk."""
        return [str(chunk.dataset.root / item.file) for item in chunk.dataset.items]


def looked_at(
    asked: Sequence[Judge],
    pairs: Sequence[tuple[Dataset, Dataset | None]],
    job: LookJob,
    engine: Engine,
    threads: int,
) -> list[Judge]:
    """Let workers look at everything that these judges will be asked about.

    Args:
        asked: judges in the job's order.
        pairs: each set with its originals.
        job: with the judges' models.
        engine: not ``local``.
        threads: of torch in each worker.

    Returns:
        The same judges, who know their answers.
    """
    chunks = [g for number in range(len(asked)) for g in _glances(number, pairs)]
    known: dict[tuple[int, Path, str], Said] = {}
    _say(announced(engine, threads))
    results = engine.run(job, chunks, threads=threads, notify=_say, here=lambda: job.open("cpu"))
    total = sum(len(glance.dataset) for glance in chunks)
    with progress("judging", total) as advance, closing(results):
        for glance, said in results:
            root = glance.dataset.root
            for item, one in zip(glance.dataset.items, said, strict=True):
                known[glance.judge, root, item.file] = one
            advance(len(said))

    def answers(number: int) -> Look:
        return lambda shown: [known[number, shown.root.absolute(), i.file] for i in shown.items]

    return [Judge(j.name, j.models, answers(n), fused=j.fused) for n, j in enumerate(asked)]


def _glances(number: int, pairs: Sequence[tuple[Dataset, Dataset | None]]) -> list[Glance]:
    """Chunks in the batches of ``evaluate.predict``, an original only once."""
    seen: set[tuple[Path, str]] = set()
    found: list[Glance] = []
    for dataset, before in pairs:
        if before is not None:
            new = tuple(i for i in before.items if (before.root, i.file) not in seen)
            seen |= {(before.root, i.file) for i in new}
            found += _batches(number, replace(before, items=new))
        found += _batches(number, dataset)
    return found


def _batches(number: int, dataset: Dataset) -> list[Glance]:
    root, items = dataset.root.absolute(), dataset.items
    return [
        Glance(number, replace(dataset, root=root, items=items[at : at + BATCH]))
        for at in range(0, len(items), BATCH)
    ]


def _say(line: str) -> None:
    sys.stderr.write(f"evaluate: {line}\n")
