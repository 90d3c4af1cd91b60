"""The pool: transfer examples of training images, crafted once and kept on disk.

A file holds a batch, uint8 [N, 3, H, W] as ``.npy``. Its name is the hash of everything that
decides about it, so an interrupted run goes on where it was, and other settings find other files.
"""

import hashlib
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import torch
from torch import Tensor

from deepfusion_edge.erosion import stream_of
from deepfusion_toolkit import attacks
from deepfusion_toolkit.files import write_bytes
from deepfusion_toolkit.harden.copies import side_by_side, twin
from deepfusion_toolkit.harden.images import Images, partly
from deepfusion_toolkit.harden.settings import Settings
from deepfusion_toolkit.models import Classifier, smallest_side
from deepfusion_toolkit.names import DEEP_FUSION
from deepfusion_toolkit.plan import fingerprint
from deepfusion_toolkit.report.terminal import progress
from deepfusion_toolkit.sources import HERE
from deepfusion_toolkit.surgery import ErodedModel

TOGETHER = ((DEEP_FUSION, 1), ("di", 1), ("pgn", 2))
ALONE = ((DEEP_FUSION, 1), ("mi", 1))
"""Attacks on all surrogates at once and on each alone, and their cost in ``steps``."""
SIZES = (1.0, 0.5)
"""Budgets of a source's batches in turn, as shares of the largest."""
BATCH = 32


class Source(NamedTuple):
    """Where transfer examples come from: an attack, the surrogates it sees, its budget of passes.

    PubDef (Sitawarin et al., ICLR 2024) calls this pair a source.
    """

    name: str
    attack: str
    surrogates: tuple[int, ...]
    passes: int


class Examples(NamedTuple):
    """Attacked images of one source: uint8 [M, 3, H, W], and which clean images they were [M]."""

    pixels: Tensor
    origin: Tensor


class Pairs(NamedTuple):
    """Clean images and the same ones attacked, [N, 3, H, W] in [0, 1], and which they are [N]."""

    clean: Tensor
    attacked: Tensor
    origin: Tensor


def pairs_of(
    images: Images,
    examples: Sequence[Examples],
    odds: Sequence[float],
    count: int,
    draw: torch.Generator,
) -> Pairs:
    """Draw examples of likely sources beside their own clean images."""
    source = torch.multinomial(torch.tensor(odds), count, replacement=True, generator=draw)
    place = torch.rand(count, generator=draw).tolist()
    chosen = [examples[s] for s in source.tolist()]
    at = [int(p * len(e.origin)) for p, e in zip(place, chosen, strict=True)]
    origin = torch.stack([e.origin[n] for e, n in zip(chosen, at, strict=True)])
    full = torch.stack([e.pixels[n] for e, n in zip(chosen, at, strict=True)]) / 255
    clean = images.pixels[origin] / 255
    return Pairs(clean, partly(clean, full, draw), origin)


def sources_of(surrogates: Sequence[Classifier], steps: int) -> list[Source]:
    """Every attack on all surrogates together and on each alone."""
    everyone = tuple(range(len(surrogates)))
    pairs = [(attack, rounds, everyone) for attack, rounds in TOGETHER]
    pairs += [(attack, rounds, (n,)) for attack, rounds in ALONE for n in everyone]
    return [
        Source(f"{attack} on {_named(surrogates, seen)}", attack, seen, rounds * steps * len(seen))
        for attack, rounds, seen in dict.fromkeys(pairs)  # one surrogate alone is all of them
    ]


def _named(surrogates: Sequence[Classifier], members: Sequence[int]) -> str:
    names = [model.name for model in surrogates]
    shown = [f"{names[n]} {n + 1}" if names.count(names[n]) > 1 else names[n] for n in members]
    return " and ".join(shown) if len(members) < len(names) or len(names) == 1 else "all"


class _Job(NamedTuple):
    """A batch to craft: settings, surrogates by their numbers, clean images, its file."""

    attack: attacks.Settings
    surrogates: tuple[int, ...]
    part: Images
    path: Path


class _Seat(NamedTuple):
    """A place to craft at."""

    number: int
    device: str


class Workshop:
    """Surrogates at work, each prepared once for all attacks that want it alike.

    Several devices craft batches side by side; an image is the same whichever crafts it.

    Attributes:
        sources: what examples are crafted with.
    """

    def __init__(
        self,
        surrogates: Sequence[Classifier],
        settings: Settings,
        folder: Path,
        devices: Sequence[str] = ("cpu",),
    ) -> None:
        self.sources = sources_of(surrogates, settings.steps)
        self._surrogates, self._settings = surrogates, settings
        self._folder, self._seats = folder, [_Seat(n, device) for n, device in enumerate(devices)]
        self._prepared: dict[tuple[object, ...], ErodedModel] = {}
        self._weights = [fingerprint(model.core) for model in surrogates]

    def craft(self, images: Images, each: int, what: str) -> list[Examples]:
        """Attack ``each`` images for every source, drawn by the seed; read what is there already.

        Args:
            images: clean.
            each: at most so many of them for one source.
            what: is crafted, for the progress line.

        Raises:
            ModelError: a surrogate gives no finite numbers.
            StorageError: the folder cannot be written; what is finished stays.
        """
        picked = [_ranked(images, s, self._settings.seed)[:each] for s in self.sources]
        total = sum(len(p) * s.passes for p, s in zip(picked, self.sources, strict=True))
        made = []
        with progress(f"crafting {what} (passes)", total) as advance:
            for source, chosen in zip(self.sources, picked, strict=True):
                starts = range(0, len(chosen), BATCH)
                parts = [images.some(chosen[at : at + BATCH]) for at in starts]
                jobs = [self._job(source, part, number) for number, part in enumerate(parts)]
                pixels = []
                for some in self._crafted(jobs):
                    pixels += some
                    advance(sum(map(len, some)) * source.passes)
                made.append(Examples(torch.cat(pixels), torch.tensor(chosen)))
        return made

    def _job(self, source: Source, part: Images, number: int) -> _Job:
        attack = attacks.settings_for(
            source.attack,
            passes=source.passes,
            surrogates=len(source.surrogates),
            eps=max(1.0, self._settings.eps * SIZES[number % len(SIZES)]),
            seed=self._settings.seed,
            side=smallest_side([self._surrogates[n] for n in source.surrogates]),
        )
        about = [*HERE, *(self._weights[n] for n in source.surrogates)]
        path = self._folder / f"{_digest(about, attack, part)}.npy"
        return _Job(attack, source.surrogates, part, path)

    def _crafted(self, jobs: Sequence[_Job]) -> Iterator[list[Tensor]]:
        """Pixels of the batches in order, as many at a time as there are devices."""
        for at in range(0, len(jobs), len(self._seats)):
            some = jobs[at : at + len(self._seats)]
            kept = [_kept(job.path, job.part.pixels) for job in some]
            missing = [job for job, pixels in zip(some, kept, strict=True) if pixels is None]
            ready = [*map(self._prepare, self._seats, missing)]  # tracing is not for threads
            made = iter(side_by_side(_craft, [s.device for s in self._seats], ready))
            yield [next(made) if pixels is None else pixels for pixels in kept]

    def _prepare(self, seat: _Seat, job: _Job) -> tuple[_Job, list[ErodedModel]]:
        attack, found = job.attack, []
        wanted = (attack.erosion, attack.kinds, attack.residual, attack.taps_features)
        for number in job.surrogates:
            alike = (seat, number, *wanted)
            if alike not in self._prepared:
                surrogate = self._surrogates[number]
                # moving what is eroded moves the surrogate's own weights
                own = twin(surrogate) if seat.number else surrogate
                (made,) = attacks.prepare([own], attack)
                self._prepared[alike] = made.to(seat.device)
            found.append(self._prepared[alike])
        return job, found


def _craft(device: str, ready: tuple[_Job, list[ErodedModel]]) -> Tensor:
    job, surrogates = ready
    clean, labels = (job.part.pixels / 255).to(device), job.part.labels.to(device)
    made = attacks.attack(surrogates, clean, labels, job.part.keys, job.attack)
    pixels = attacks.quantise(made.images.cpu(), clean.cpu(), job.attack.eps)
    write_bytes(job.path, _encoded(pixels))
    return pixels


def _ranked(images: Images, source: Source, seed: int) -> list[int]:
    """All images in an order of the source's own, so that sources share few."""
    order = [stream_of("pool", seed, source.name, key) for key in images.keys]
    return sorted(range(len(order)), key=order.__getitem__)


def _digest(about: Sequence[str], attack: attacks.Settings, part: Images) -> str:
    text = hashlib.sha256(msgspec.json.encode([about, attack, part.keys, part.labels.tolist()]))
    text.update(str(tuple(part.pixels.shape)).encode())
    text.update(part.pixels.contiguous().numpy().tobytes())
    return text.hexdigest()


def _kept(path: Path, clean: Tensor) -> Tensor | None:
    """A batch from disk; None if it is not there or not whole."""
    try:
        found = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    if found.shape != tuple(clean.shape) or found.dtype != np.uint8:
        return None
    return torch.from_numpy(found)


def _encoded(pixels: Tensor) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, pixels.contiguous().numpy(), allow_pickle=False)
    return buffer.getvalue()
