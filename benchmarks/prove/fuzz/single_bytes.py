"""Every change of a single byte of what was signed must be refused."""

import random
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from benchmarks.prove.fuzz.targets import TARGETS, admitted
from benchmarks.prove.hostile.world import NOW, key
from deepfusion_edge.bundle.envelope import public_pem
from deepfusion_edge.bundle.store import verify
from deepfusion_edge.errors import DeepFusionError

FLIPS = (*(1 << bit for bit in range(8)), 0xFF)


class Changes(NamedTuple):
    """How many changes were tried, and which were accepted: places and flips."""

    tried: int
    accepted: tuple[tuple[int, int], ...]


def changes(data: bytes, *, sample: int | None, seed: int) -> Iterator[tuple[int, int, bytes]]:
    """Give copies with one byte changed, each bit alone and all at once.

    Args:
        data: what was signed.
        sample: so many of them, drawn; None: all.
        seed: of the draw.

    Returns:
        Place, flip and copy.
    """
    places = [(at, flip) for at in range(len(data)) for flip in FLIPS]
    if sample is not None:
        places = random.Random(seed).sample(places, min(sample, len(places)))  # noqa: S311
    for at, flip in places:
        changed = bytearray(data)
        changed[at] ^= flip
        yield at, flip, bytes(changed)


def look(
    data: bytes, accepts: Callable[[bytes], bool], *, sample: int | None = None, seed: int = 0
) -> Changes:
    """Try changes of single bytes.

    Args:
        data: what was signed, and is accepted.
        accepts: whether it would be taken.
        sample: as for :func:`changes`.
        seed: as for :func:`changes`.

    Raises:
        ValueError: not even ``data`` is accepted, so nothing would be shown.
    """
    if not accepts(data):
        raise ValueError("the unchanged bytes are refused")
    tried, accepted = 0, []
    for at, flip, changed in changes(data, sample=sample, seed=seed):
        tried += 1
        if accepts(changed):
            accepted.append((at, flip))
    return Changes(tried, tuple(accepted))


def bundle(*, sample: int | None, seed: int) -> Changes:
    """Change a signed bundle, a ``.dfb`` file of some kilobytes."""
    with tempfile.TemporaryDirectory(prefix="deepfusion-bytes-") as name:
        path, trusted = Path(name, "line.dfb"), Path(name, "key.pub")
        trusted.write_bytes(public_pem(key(1).public_key()))

        def accepts(data: bytes) -> bool:
            path.write_bytes(data)
            try:
                verify(path, [trusted], now=NOW, probe=False)
            except DeepFusionError:
                return False
            return True

        (good,) = TARGETS["bundle"].seeds()
        return look(good, accepts, sample=sample, seed=seed)


def command(*, sample: int | None, seed: int) -> Changes:
    """Change a signed command."""
    return look(TARGETS["command"].seeds()[0], admitted, sample=sample, seed=seed)
