"""The part ``small``: one core and one gigabyte; the device's package and its tests on aarch64."""

import argparse
import platform
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.agent.rig import bundle_of, photographs
from benchmarks.prove.bundles import Maker
from benchmarks.prove.faults.claim import BrokenError, NotPossibleError, need
from benchmarks.prove.result import Part, Row
from benchmarks.prove.small import aarch64, emulated
from benchmarks.prove.small.verdicts import decide, limited, same

_GIB, _TOO_LITTLE = 2**30, 2**27
_FRAMES, _FEW = 100, 10
_MEMORY = "seven eighths of the memory"


def measure(options: argparse.Namespace, work: Path) -> Part:
    """Judge the same frames here, within limits, and on another processor.

    Args:
        options: ``short`` judges fewer frames, ``seed`` draws them.
        work: new folder.
    """
    maker = Maker(bundle_of("small", 2, work).path, work / "bundles")
    pictures = photographs(_FEW if options.short else _FRAMES, (64, 64), seed=options.seed)

    def within() -> str:
        free = decide(maker, pictures, work / "free")
        bound = decide(maker, pictures, work / "bound", prepare=limited(_GIB))
        most = same(free, bound)
        return f"{len(bound)} frames, the same verdicts, scores within {most:.1g}"

    def too_little() -> str:
        try:
            decide(maker, pictures, work / "too little", prepare=limited(_TOO_LITTLE))
        except BrokenError as error:
            return f"with {_TOO_LITTLE // 2**20} MiB: {error}"
        need(holds=False, otherwise=f"{_TOO_LITTLE // 2**20} MiB were enough: is there a limit?")
        return ""

    def other_processor() -> str:
        root = emulated.root()
        few = pictures[:_FEW]
        place = Path(tempfile.mkdtemp(dir=root / "srv"))
        try:
            inside = Path("/") / place.relative_to(root) / "work"
            theirs = decide(
                maker, few, place / "work", inside=inside, command=emulated.python_in(root)
            )
        finally:
            shutil.rmtree(place, ignore_errors=True)
        most = same(decide(maker, few, work / "native"), theirs)
        return f"{len(theirs)} frames on aarch64 and {platform.machine()}: scores within {most:.1g}"

    rows = [
        _row("The agent judges right with one core and 1 GiB of address space", within, _MEMORY),
        _row("With an eighth of it, it ends and judges nothing", too_little, _MEMORY),
        _row("The device's package judges the same on aarch64 (emulated)", other_processor),
        _row(
            "The agent's own tests of numbers, bytes and native packages pass there",
            lambda: emulated.own_tests(emulated.root()),
            "the fusion of members",
        ),
    ]
    rows += [
        _row(
            f"Every requirement has a wheel for aarch64, Python {python}",
            lambda python=python: _wheels(python, work),  # type: ignore[misc]
        )
        for python in aarch64.PYTHONS
    ]
    surviving = int(rows[1].state == "failed")
    return Part(tuple(rows), {"guards_mutated": 1, "guards_surviving": surviving})


def _row(claim: str, show: Callable[[], str], guard: str = "") -> Row:
    try:
        return Row(claim, "held", show(), guard)
    except NotPossibleError as error:
        return Row(claim, "not possible", str(error), guard)
    except BrokenError as error:
        return Row(claim, "failed", str(error), guard)


def _wheels(python: str, work: Path) -> str:
    found = aarch64.resolve(python, work / f"wheels-{python}")
    return ", ".join(f"{name} {version}" for name, version in sorted(found.items()))
