"""Disks that are full or may not be written."""

import contextlib
import errno
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path
from unittest.mock import patch

from benchmarks.prove.bundles import Maker
from benchmarks.prove.faults.claim import Fault, NotPossibleError, need
from deepfusion_edge import console
from deepfusion_edge.bundle import files, layout, store, trust
from deepfusion_edge.errors import DeepFusionError, StorageError
from deepfusion_edge.outbox import Outbox

NOW = "2026-06-01T00:00:00Z"
_EVENTS, _BEFORE = 6000, 1000


@contextlib.contextmanager
def small_disk(folder: Path, size: str = "16m") -> Iterator[Path]:
    """Mount a tmpfs on a new folder.

    Raises:
        NotPossibleError: only root may, on Linux.
    """
    folder.mkdir(parents=True)
    tool = shutil.which("mount")
    if tool is None:
        raise NotPossibleError("no mount command for a small tmpfs")
    command = [tool, "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode:
        raise NotPossibleError(f"a small tmpfs cannot be mounted here: {made.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run([shutil.which("umount") or "umount", "--lazy", str(folder)], check=True)


def fill(disk: Path) -> None:
    """Take every block that is left."""
    file = os.open(disk / "somebody", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    try:
        for size in (2**16, 4096, 1):
            while True:
                try:
                    os.write(file, b"x" * size)
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    break
    finally:
        os.close(file)


def _install_on_a_full_disk(maker: Maker, work: Path) -> str:
    with small_disk(work / "disk", "4m") as disk:
        state = disk / "state"
        _install(maker, state, 1)
        fill(disk)
        refused = _refusal(lambda: _install(maker, state, 2))
        _serves(state, 1)
        need(not list(state.glob("staging-*")), "a staging folder is left on the full disk")
        (disk / "somebody").unlink()
        _install(maker, state, 2)
        _serves(state, 2)
    return f"refused in one line ({refused}), then installed once there was space"


def _read_only(maker: Maker, work: Path) -> str:
    with small_disk(work / "disk", "4m") as disk:
        state = disk / "state"
        _install(maker, state, 1)
        _remount(disk, "ro")
        try:
            told = [
                _refusal(lambda: _install(maker, state, 2)),
                _refusal(lambda: store.roll_back(state, now=NOW), DeepFusionError),
            ]
            code = console.run(lambda: _open(state))
            need(code == StorageError.exit_code, f"the outbox gave exit code {code}")
            _serves(state, 1)
        finally:
            _remount(disk, "rw")
    return f"{told[0]}; exit code 8; the bundle still loads"


def _outbox_on_a_full_disk(_maker: Maker, work: Path) -> str:
    with (
        small_disk(work / "disk") as disk,
        Outbox(disk, max_events=10**6, max_bytes=2**30, ttl_s=None) as box,
    ):
        for number in range(_EVENTS):
            if number == _BEFORE:
                fill(disk)
            body = f"{number:08}".encode() + b"x" * 400
            box.put("alert", lambda _, body=body: body, now_s=0.0)  # type: ignore[misc]
        kept = [int(event.body[:8]) for event in box.peek(10**6)]
        counters = box.counters(now_s=0)
        need(kept == list(range(_EVENTS - len(kept), _EVENTS)), "a gap, or not the newest events")
        need(len(kept) >= _BEFORE * 0.8, f"only {len(kept)} kept")
        need(counters.dropped == _EVENTS - len(kept), "what was dropped is not counted")
        need(counters.disk_full == 1, "nobody is told that the disk is full")
    return f"{_EVENTS} put, the newest {len(kept)} kept, {counters.dropped} counted as dropped"


def _install(maker: Maker, state: Path, sequence: int) -> None:
    bundle = maker.make(sequence)
    store.install(bundle, state, [maker.public], now=NOW, probe=False)


def _serves(state: Path, sequence: int) -> None:
    found = store.load_current(state, now=NOW).manifest.sequence
    need(found == sequence, f"{found} is current, not {sequence}")


def _refusal(act: Callable[[], object], kind: type[DeepFusionError] = StorageError) -> str:
    try:
        act()
    except kind as error:
        return error.what.rsplit("/", 1)[-1]
    need(holds=False, otherwise="it was not refused")
    return ""


def _open(state: Path) -> int:
    with Outbox(state, max_events=10, max_bytes=2**20, ttl_s=None):
        return 0


def _remount(disk: Path, how: str) -> None:
    tool = shutil.which("mount") or "mount"
    subprocess.run([tool, "-o", f"remount,{how}", str(disk)], check=True, capture_output=True)


def _untranslated() -> ExitStack:
    stack = ExitStack()
    for module in (files, layout, store, trust):
        stack.enter_context(patch.object(module, "writing", nullcontext))
    return stack


def _without_the_limit() -> AbstractContextManager[object]:
    return patch.object(Outbox, "_limit", lambda *_: None)


def _without_own_space() -> AbstractContextManager[object]:
    return patch.object(Outbox, "_secure_space", lambda *_: None)


FAULTS = (
    Fault(
        "Disk full during an installation",
        "refused in one line, the old bundle stays, and it works once there is space",
        "the translation of the system's errors",
        _install_on_a_full_disk,
        _untranslated,
    ),
    Fault(
        "State directory read-only",
        "install, roll-back and outbox end with a storage error, the bundle still loads",
        "the translation of the system's errors",
        _read_only,
        _untranslated,
    ),
    Fault(
        "Disk full under the outbox",
        "the newest events are kept, in order, and what went is counted",
        "the cap on the file's size",
        _outbox_on_a_full_disk,
        _without_the_limit,
    ),
    Fault(
        "Disk full under a new outbox",
        "the same",
        "the space it owns from the beginning",
        _outbox_on_a_full_disk,
        _without_own_space,
    ),
)
