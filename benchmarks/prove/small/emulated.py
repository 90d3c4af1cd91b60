"""The agent's own tests, by the Python of a folder with another processor's system.

Those marked ``processor`` are run: what they hold is numbers, bytes and packages with machine code.
Tests of processes, sockets, clocks and brokers are left out: there an emulator says more of itself.
"""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import deepfusion_edge
from benchmarks.prove.faults.claim import BrokenError, NotPossibleError, need

ROOT = "DEEPFUSION_AARCH64_ROOT"
"""Names a folder with an aarch64 Debian; docs/install-jetson.md says how it is made."""
SITE = "/srv/site"
"""Packages in that folder."""
WRONG = "\n\ndef fuse(members, *_, **__):\n    return members[0]\n"
_SELECTED = ("-m", "processor and not slow", "tests/edge")
_NOTICING = ("tests/edge/test_fusion_rules.py",)
_NEEDED = "import pytest, hypothesis, onnx"
_LEAST = 200
_PATIENCE_S = 1800.0
_CHECKOUT = Path(__file__).parents[3]
_INSIDE = (  # a mount namespace: what is mounted goes with the process
    'mount --bind /dev "$0/dev" && mount -t proc proc "$0/proc" && exec chroot "$0" "$@"'
)


def root() -> Path:
    """Return the folder, if its Python runs here.

    Raises:
        NotPossibleError: none is named, or nothing can be run in it.
    """
    named = os.environ.get(ROOT)
    if named is None:
        raise NotPossibleError(f"{ROOT} names no folder with an aarch64 system")
    _try((*python_in(Path(named)), "-c", "pass"), named)
    return Path(named)


def python_in(root: Path) -> tuple[str, ...]:
    """Return what runs the folder's Python with its packages."""
    tool = shutil.which("chroot", path=f"{os.environ.get('PATH', '')}:/usr/sbin") or "chroot"
    return (tool, str(root), "/usr/bin/env", f"PYTHONPATH={SITE}", "/usr/bin/python3")


def own_tests(root: Path) -> str:
    """Run the tests of this checkout, and see that a wrong line of the agent is noticed.

    Returns:
        How many passed.

    Raises:
        NotPossibleError: the folder lacks pytest, or nothing can be mounted.
        BrokenError: a test failed, few were run, or the wrong line was not noticed.
    """
    _try((*python_in(root), "-c", _NEEDED), "the folder")
    prefix = ("unshare", "--mount", "sh", "-c", _INSIDE, str(root))
    _try((*prefix, "/usr/bin/env", "true"), "unshare")
    place = Path(tempfile.mkdtemp(dir=root / "srv"))
    try:
        copy(place / "work")
        inside = Path("/") / place.relative_to(root) / "work"
        passed, said = run((*prefix, "/usr/bin/env"), "/usr/bin/python3", inside, _SELECTED)
        need(passed >= _LEAST, f"only {passed} tests were run: {said}")
        unnoticed(place / "work", (*prefix, "/usr/bin/env"), "/usr/bin/python3", inside)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return said


def copy(folder: Path) -> None:
    """Copy what the tests need into a new folder: the agent, its tests, and what makes bundles."""
    for source in (
        Path(deepfusion_edge.__path__[0]),
        _CHECKOUT / "tests",
        _CHECKOUT / "benchmarks",
        _CHECKOUT / "docs",
    ):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(source, folder / source.name, ignore=ignored)
    shutil.copy(_CHECKOUT / "pyproject.toml", folder)


def unnoticed(outside: Path, env: Sequence[str], python: str, inside: Path) -> None:
    """Put a wrong line into the copy and run the tests that are to notice it.

    Raises:
        BrokenError: they pass.
    """
    with (outside / "deepfusion_edge" / "fusion.py").open("a") as file:
        file.write(WRONG)
    try:
        run(env, python, inside, _NOTICING)
    except BrokenError:
        return
    raise BrokenError("a wrong line in fusion.py is not noticed")


def run(env: Sequence[str], python: str, inside: Path, words: Sequence[str]) -> tuple[int, str]:
    """Run pytest in a copy; returns how many tests passed, and its last line.

    Args:
        env: runs ``env``.
        python: the interpreter.
        inside: the copy, as that process names it.
        words: which tests.

    Raises:
        BrokenError: a test failed, or they did not end.
    """
    settings = (f"PYTHONPATH={inside}:{SITE}", "DEEPFUSION_NO_BROKER=1", "OMP_NUM_THREADS=1")
    pytest = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "--hypothesis-profile=ci")
    command = (*env, "-C", str(inside), *settings, "PYTHONDONTWRITEBYTECODE=1", python, *pytest)
    try:
        done = subprocess.run(
            (*command, *words), capture_output=True, text=True, timeout=_PATIENCE_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise BrokenError(f"the tests did not end in {_PATIENCE_S:g} s") from error
    lines = (done.stdout.strip() or done.stderr.strip() or "no word").splitlines()
    said = re.sub(r" in [\d.]+s.*", "", lines[-1].strip("= "))
    failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    need(done.returncode == 0, "; ".join((said, *failed[:3])))
    passed = re.search(r"(\d+) passed", said)
    return (int(passed[1]) if passed else 0), said


def _try(command: Sequence[str], what: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, check=False)
    except OSError as error:
        raise NotPossibleError(f"{command[0]}: {error}") from error
    if done.returncode:
        last = (done.stderr.decode(errors="replace").strip() or "no word").splitlines()[-1]
        raise NotPossibleError(f"{what}: {last}")
