"""The state directory: where bundles lie, which links and records point to them, and its lock.

``bundle.store`` draws it; only what takes the lock changes anything here.
"""

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from deepfusion_edge.bundle.files import make_folder, reading, replace_file, writing
from deepfusion_edge.bundle.history import Entry, Result, note
from deepfusion_edge.bundle.installed import Installed, read_installed
from deepfusion_edge.bundle.manifest import MALFORMED, canonical
from deepfusion_edge.bundle.probation import Record
from deepfusion_edge.bundle.trust import choose_policy
from deepfusion_edge.errors import StorageError, TrustError

BUNDLES, CURRENT, PREVIOUS = "bundles", "current", "previous"
PROBATION, HIGHEST, STAGING = "probation.json", "highest.json", "staging-"

Hook = Callable[[str], None]


class Highest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The line this device follows and the highest sequence it ever installed."""

    id: str
    sequence: int


def no_hook(_step: str) -> None:
    """Hear of a step and do nothing."""


def read_probation(state: Path) -> Record | None:
    """Return the probation of the current bundle; None if it is on none.

    A record of a bundle that is not current is what an interrupted installation left.

    Raises:
        TrustError: the record is damaged.
    """
    path = state / PROBATION
    with reading(path):
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None  # there is none, it has ended, or another one begins this moment
    try:
        record = msgspec.json.decode(content, type=Record)
    except MALFORMED as error:
        raise TrustError(
            f"{path} is damaged: {error}", "remove it to keep the current bundle, or restore it"
        ) from error
    return record if record.candidate == name_of(state / CURRENT) else None


def save_probation(state: Path, record: Record) -> None:
    """Write a probation down before it begins."""
    replace_file(state / PROBATION, canonical(record))


def name_of(link: Path) -> str | None:
    """Return the name of the bundle a link points to, if there is a link."""
    return target_of(link).partition("/")[2] if link.is_symlink() else None


def target_of(link: Path) -> str:
    """Read a link and accept only what this file writes: ``bundles/<16 hex digits>``."""
    with reading(link):
        target = str(link.readlink())
    folder, _, name = target.partition("/")
    if folder != BUNDLES or len(name) != 16 or set(name) - set("0123456789abcdef"):  # noqa: PLR2004
        raise TrustError(f"{link} points to {target!a}", "remove this link")
    return target


def read_bundle(state: Path, name: str) -> Installed:
    """Verify one of the bundles again; its expiry is not looked at."""
    return read_installed(state / BUNDLES / name, choose_policy(state, {}, None))


def note_bundle(state: Path, installed: Installed, now: str, result: Result, why: str = "") -> None:
    """Tell the history of a bundle."""
    manifest, digest = installed.manifest, installed.bundle_hash
    note(state, Entry(now, manifest.id, manifest.sequence, digest, result, why))


def sweep(state: Path) -> None:
    """Remove bundles that nothing names, and what interrupted installations left."""
    trial = read_probation(state)
    names = {name_of(state / CURRENT), name_of(state / PREVIOUS), trial and trial.fallback}
    kept = {state / BUNDLES / name for name in names if name}
    if trial is None:
        (state / PROBATION).unlink(missing_ok=True)
    stale = [*state.glob(f"{STAGING}*"), *(state / BUNDLES).glob("*")]
    for folder in stale:
        if folder not in kept:
            shutil.rmtree(folder, ignore_errors=True)


def read_highest(state: Path) -> Highest | None:
    """Return the highest sequence by record and by links, which an interruption can set apart."""
    found: list[Highest] = []
    if (state / HIGHEST).exists():
        with reading(state / HIGHEST):
            content = (state / HIGHEST).read_bytes()
        try:
            found.append(msgspec.json.decode(content, type=Highest))
        except MALFORMED as error:
            raise TrustError(
                f"{state / HIGHEST} is damaged: {error}",
                "restore the file, or start again with an empty state directory",
            ) from error
    policy = None
    for link in (state / CURRENT, state / PREVIOUS):
        if link.is_symlink():
            policy = policy or choose_policy(state, {}, None)
            with suppress(TrustError):  # a damaged bundle must not stop the one that repairs it
                manifest = read_installed(
                    state / target_of(link), policy, check_files=False
                ).manifest
                found.append(Highest(manifest.id, manifest.sequence))
    return max(found, key=lambda one: one.sequence, default=None)


def record_highest(state: Path, highest: Highest) -> None:
    """Keep the highest sequence ever installed."""
    replace_file(state / HIGHEST, canonical(highest))


@contextmanager
def locked(state: Path) -> Iterator[None]:
    """Hold the lock of the state directory, which is made when missing.

    Raises:
        StorageError: another process holds it, or the directory cannot be written.
    """
    make_folder(state)
    with writing(state):
        descriptor = os.open(state / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StorageError(
                f"another installation is changing {state}", "wait for it to end, then try again"
            ) from error
        yield
    finally:
        os.close(descriptor)
