"""Timing one subject after the other: members, stages, cold start; and the summary over all."""

import argparse
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import onnxruntime

from benchmarks.coverage import page as coverage
from benchmarks.latency import compare, page, stages, subjects
from benchmarks.latency.command import RUNTIMES
from benchmarks.latency.footprint import Footprint, footprint
from benchmarks.latency.subjects import Subject
from deepfusion_edge import erosion
from deepfusion_edge.errors import ModelError
from deepfusion_edge.image import to_input
from deepfusion_edge.runtime.ort import CPU, OrtSession
from deepfusion_toolkit.files import write_bytes
from deepfusion_toolkit.report import progress, table, write_html
from deepfusion_toolkit.surgery import members_cost
from deepfusion_toolkit.timing import Timing, interleaved

if TYPE_CHECKING:
    from deepfusion_edge.fusion import Array

PLAIN = "plain model"
GOAL = 8
"""Members that goals are stated for."""
ONE_BY_ONE = (4, GOAL)
_TOLERANCE = 1e-4
_SCHEMA = 2

Call = Callable[[], object]


class Stages(msgspec.Struct, frozen=True):
    """Where the time of ``GOAL`` members goes, in plain inferences but for the first.

    Attributes:
        preprocess_ms: a camera's frame, uint8, to the graph's input.
        prefix: what all members have in common; 0 where they begin at the image.
        tail: the members' own part.
        fuse: fusion and scores.
    """

    preprocess_ms: float
    prefix: float
    tail: float
    fuse: float


class Run(msgspec.Struct, frozen=True):
    """One subject on one runtime.

    Attributes:
        subject, plain_model: what was timed, beside what.
        provider, threads: of ONNX Runtime; 0 threads: as many as it likes.
        input: height and width.
        prefix_share: of the multiply-adds; None if unknown.
        variants: by name; a ratio is to the plain model in the same round.
        floors: ``1 + (K - 1)(1 - share)`` for each K.
        predicted: the same with the factors' own multiplications, as hardening predicts costs.
        stages: see ``Stages``.
        cold: see ``Footprint``.
    """

    subject: str
    plain_model: str
    verified: bool
    provider: str
    threads: int
    input: tuple[int, int]
    prefix_share: float | None
    bytes: int
    variants: dict[str, Timing]
    floors: dict[int, float]
    predicted: dict[int, float]
    stages: Stages
    cold: Footprint

    def ratio(self, members: int) -> float:
        """Measured cost of so many members, in plain inferences."""
        return self.variants[together(members)].ratio


def together(members: int) -> str:
    """Name of a variant."""
    return f"{members} member{'s' * (members > 1)}, one graph"


def one_by_one(members: int) -> str:
    """Name of a variant."""
    return f"{members} runs of one member"


def run(options: argparse.Namespace) -> int:
    """Measure everything, write everything, return the exit code."""
    before = compare.read(options.compare) if options.compare else None
    shown = page.forms_of(options.threats) if options.threats else []
    covered = list(coverage.read(options.coverage).values()) if options.coverage else None
    counts: dict[str, float | None] = {
        "architectures_ok": None if covered is None else sum(row.passed for row in covered),
        "architectures_tried": None if covered is None else len(covered),
    }
    offered = onnxruntime.get_available_providers()
    runs = []
    for subject in _subjects(options):
        for provider in (name for name in RUNTIMES if name in offered):
            for threads in options.threads:
                one = measure(subject, options, provider, threads)
                table(page.title(one, options.rounds), page.COLUMNS, page.rows(one))
                runs.append(one)
    figures = summary(runs) | counts
    result = {
        "schema": _SCHEMA,
        "summary": figures,
        "rounds": options.rounds,
        "frame": options.frame,
        "machine": page.machine(),
        "not_run": [name for name in RUNTIMES if name not in offered],
        "runs": runs,
    }
    write_bytes(options.json, msgspec.json.format(msgspec.json.encode(result), indent=1) + b"\n")
    table("summary", ("figure", "value"), page.words(figures))
    changes = compare.rows(before, runs) if before else []
    if before:
        table(f"against {options.compare}", compare.COLUMNS, changes)
    if options.markdown:
        write_bytes(options.markdown, page.markdown(runs, options.rounds).encode())
    if options.html:
        write_html(options.html, page.make(runs, figures, result, changes, shown))
    return 0


def _subjects(options: argparse.Namespace) -> list[Subject]:
    found = [subjects.of_bundle(path, options.trust, options.plain) for path in options.bundle]
    places = (None, *options.share)
    return found + [
        subjects.of_model(spec, GOAL, at, options.kinds) for spec in options.model for at in places
    ]


def measure(subject: Subject, options: argparse.Namespace, provider: str, threads: int) -> Run:
    """Time one subject in this process, every variant once a round.

    Raises:
        ModelError: a graph does not run, or the plain one is of another model.
    """
    calls = _calls(subject, options.members, provider, threads)
    frame = np.zeros((options.frame[1], options.frame[0], 3), np.uint8)
    calls["preprocess"] = partial(to_input, frame, *subject.size)
    with progress(f"timing {subject.name}", options.rounds + 3) as advance:
        timings = interleaved(calls, base=PLAIN, rounds=options.rounds, after_round=advance)
    whole = timings[together(GOAL)].ratio
    scored = timings.pop("members alone").ratio
    common = timings.pop("common part").ratio if "common part" in timings else 0.0
    parts = Stages(
        preprocess_ms=timings.pop("preprocess").median_ms,
        prefix=common,
        tail=max(0.0, scored - common),
        fuse=max(0.0, whole - scored),
    )
    work = subject.work
    return Run(
        subject=subject.name,
        plain_model=subject.source,
        verified=subject.verified,
        provider=provider,
        threads=threads,
        input=subject.size,
        prefix_share=None if work is None else work.shared,
        bytes=len(subject.graph),
        variants=timings,
        floors={} if work is None else {k: members_cost(k, work.shared) for k in options.members},
        predicted={} if work is None else {k: work.cost(k) for k in options.members},
        stages=parts,
        cold=footprint(subject, GOAL, threads, provider),
    )


def _calls(
    subject: Subject, members: tuple[int, ...], provider: str, threads: int
) -> dict[str, Call]:
    image = subjects.image_of(subject)
    session = OrtSession(subject.graph, threads=threads, provider=provider)
    plain = session_of(subject.plain, threads, provider)
    clean = session.run(image, erosion.identity(subject.sites, 1)).members
    (said,) = plain(image=image)
    difference = float(np.abs(said - clean).max())
    if not difference <= _TOLERANCE:
        raise ModelError(
            f"the plain model differs by {difference:.3g} from the bundle without erosion",
            "give the model that the bundle was exported from as --plain",
        )
    drawn = {
        k: erosion.sample(subject.sites, seed=0, stream=k, members=k)
        for k in {*members, *ONE_BY_ONE}
    }
    calls: dict[str, Call] = {PLAIN: partial(plain, image=image)}
    calls |= {together(k): partial(session.run, image, drawn[k]) for k in members}
    for k in ONE_BY_ONE:
        rows = [drawn[k][i : i + 1] for i in range(k)]
        calls[one_by_one(k)] = partial(_one_by_one, session, image, rows)
    calls[f"drawing {GOAL} rows of factors"] = partial(
        erosion.sample, subject.sites, seed=1, stream=0, members=GOAL
    )
    scored = session_of(stages.without_scores(subject.graph), threads, provider)
    calls["members alone"] = partial(scored, image=image, factors=drawn[GOAL])
    common = stages.prefix(subject.graph)
    if common is not None:
        calls["common part"] = partial(session_of(common, threads, provider), image=image)
    return calls


def _one_by_one(session: OrtSession, image: "Array", rows: "list[Array]") -> None:
    for factors in rows:
        session.run(image, factors)


def session_of(graph: bytes, threads: int, provider: str = CPU) -> "Callable[..., list[Array]]":
    """Load any graph with the device's settings; call it with its inputs by name."""
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads, settings.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(graph, settings, providers=[provider])

    def call(**feeds: "Array") -> "list[Array]":
        outputs: list[Array] = session.run(None, feeds)
        return outputs

    return call


def summary(runs: list[Run]) -> dict[str, Mapping[str, float] | float | None]:
    """What is held against goals: on one CPU thread, or the first thread count that was run."""
    first = runs[0].threads
    few = [r for r in runs if r.provider == CPU and r.threads == first]
    errors = [abs(cost / r.ratio(k) - 1) for r in few for k, cost in r.predicted.items() if k > 1]
    return {
        "k8_over_floor": {
            r.subject: r.ratio(GOAL) / r.floors[GOAL] for r in few if GOAL in r.floors
        },
        "k8_over_plain": {r.subject: r.ratio(GOAL) for r in few},
        "cost_model_error": float(np.mean(errors)) if errors else None,
    }
