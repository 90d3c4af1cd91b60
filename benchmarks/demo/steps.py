"""Steps that follow each other, each skipped when it was finished before with the same settings."""

import hashlib
import importlib
import json
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from deepfusion_edge.errors import InputError, StorageError
from deepfusion_toolkit import __version__
from deepfusion_toolkit.files import write_bytes

MARKER = ".deepfusion-journey"
PROGRAMS = {"deepfusion": "deepfusion_toolkit.cli", "deepfusion-export": "deepfusion_export.cli"}


class Stopped(Exception):  # noqa: N818 - the command has told its error already
    """A command ended with this exit code and has said why."""

    def __init__(self, code: int) -> None:
        super().__init__(f"exit code {code}")
        self.code = code


@dataclass(frozen=True)
class Step:
    """One stretch of the way.

    Attributes:
        name: unique, a file name.
        title: for people.
        settings: whatever decides about the result, as JSON or text.
        outputs: what it leaves; removed before it starts anew.
        run: does it; True asks to continue what an interrupted run of the same settings left.
        resumable: whether it can continue.
        command: as typed, for the report; empty if it is none.
    """

    name: str
    title: str
    settings: object
    outputs: Sequence[Path]
    run: Callable[[bool], None]
    resumable: bool = False
    command: str = ""


def command(
    name: str,
    title: str,
    words: Sequence[str | Path],
    outputs: Sequence[Path],
    *,
    depends: object = None,
    resumable: bool = False,
) -> Step:
    """Make a step of a command line whose first word is the program.

    Args:
        name: as in :class:`Step`.
        title: as in :class:`Step`.
        words: program, sub-command and options.
        outputs: as in :class:`Step`.
        depends: what else decides about the result, for instance the state of input files.
        resumable: whether the command knows ``--resume``.
    """
    program, *options = map(str, words)

    def run(resume: bool) -> None:
        call(program, [*options, "--resume"] if resume else options)

    line = shlex.join([program, *options])
    return Step(name, title, [line, depends], outputs, run, resumable, line)


def call(program: str, options: Sequence[str]) -> None:
    """Run one of our command lines in this process, after showing it.

    Raises:
        Stopped: it failed, and has said why.
    """
    print("$ " + shlex.join([program, *options]), flush=True)
    code: int = importlib.import_module(PROGRAMS[program]).main(list(options))
    if code:
        raise Stopped(code)


def prepare(out: Path, *, fresh: bool) -> None:
    """Make the folder of a journey, or find the one that was begun.

    Args:
        out: a folder that is new, empty, or of an earlier journey.
        fresh: remove what the earlier journey left; only a folder with its marker is touched.

    Raises:
        InputError: the folder holds something else.
        StorageError: it cannot be written.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())) and not (out / MARKER).is_file():
        raise InputError(f"{out} is not empty and not of this command", "choose another --out")
    try:
        if fresh and out.exists():
            for path in out.iterdir():
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                elif path.name != MARKER:  # last, so that an interrupted removal can be repeated
                    path.unlink()
        out.mkdir(parents=True, exist_ok=True)
        (out / MARKER).touch()
    except OSError as error:
        raise StorageError(
            f"{error.filename or out} cannot be written ({error.strerror})", "choose another --out"
        ) from error


def follow(steps: Sequence[Step], out: Path) -> dict[str, float]:
    """Run all steps in order; what is finished with the same settings, and before it, is kept.

    Returns:
        Name -> seconds, also of the steps that were finished before.

    Raises:
        Stopped, DeepFusionError: a step failed; the finished ones stay finished.
    """
    took: dict[str, float] = {}
    digest = hashlib.sha256(__version__.encode()).hexdigest()
    for number, step in enumerate(steps, start=1):
        digest = _digest(digest, step)
        stamp = out / ".steps" / f"{step.name}.json"
        before = _read(stamp)
        same = before.get("digest") == digest
        head = f"[{number}/{len(steps)}] {step.title}"
        if same and before.get("done") and all(path.exists() for path in step.outputs):
            took[step.name] = float(str(before.get("seconds", 0)))
            print(f"{head}: finished before", flush=True)
            continue
        resume = same and step.resumable and any(path.exists() for path in step.outputs)
        if not resume:
            _remove(step.outputs)
        for path in step.outputs:
            path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(stamp, json.dumps({"digest": digest, "done": False}).encode())
        print(head, flush=True)
        begun = time.perf_counter()
        step.run(resume)
        took[step.name] = round(time.perf_counter() - begun, 1)
        done = {"digest": digest, "done": True, "seconds": took[step.name]}
        write_bytes(stamp, json.dumps(done).encode())
    sys.stdout.flush()
    return took


def identity(path: Path) -> list[object]:
    """Describe a file or folder that is not ours, so that a change of it is noticed.

    Raises:
        InputError: it is not there.
    """
    if not path.exists():
        raise InputError(f"{path} does not exist", "check the path")
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    stats = [(p.stat().st_size, p.stat().st_mtime_ns) for p in files]
    text = json.dumps([[p.as_posix() for p in files], stats])
    return [str(path), len(files), hashlib.sha256(text.encode()).hexdigest()]


def _digest(before: str, step: Step) -> str:
    text = json.dumps([before, step.name, step.settings], default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _read(stamp: Path) -> dict[str, object]:
    try:
        found = json.loads(stamp.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _remove(paths: Sequence[Path]) -> None:
    for path in paths:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
