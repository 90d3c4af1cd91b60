"""The life of a bundle on probation: starts are counted, then it is kept or the old one returns."""

from contextlib import suppress
from pathlib import Path

from msgspec.structs import replace

from deepfusion_edge.bundle.files import replace_link, sync_directory, writing
from deepfusion_edge.bundle.installed import Installed
from deepfusion_edge.bundle.layout import (
    BUNDLES,
    CURRENT,
    PREVIOUS,
    PROBATION,
    Hook,
    locked,
    no_hook,
    note_bundle,
    read_bundle,
    read_highest,
    read_probation,
    record_highest,
    save_probation,
    sweep,
)
from deepfusion_edge.bundle.probation import Record
from deepfusion_edge.errors import StorageError, TrustError

KEEP_STEPS = ("noted", "kept", "ended")
FALL_BACK_STEPS = ("noted", "fallen-back", "ended")
"""The steps of the two ends of a probation, as ``hook`` hears of them."""


def count_start(state: Path, more: int = 1) -> Record | None:
    """Count a start of the agent, or with -1 its orderly end, if a bundle is on probation.

    Raises:
        TrustError: the record is damaged.
        StorageError: the state directory cannot be written, or an installation runs.
    """
    if read_probation(state) is None:
        return None
    with locked(state):
        record = read_probation(state)
        if record is not None:
            record = replace(record, starts=max(0, record.starts + more))
            save_probation(state, record)
        return record


def tidy(state: Path) -> None:
    """Remove what an interruption left, unless an installation runs: that one does it too.

    Raises:
        TrustError: a link or a record is damaged.
    """
    if state.is_dir():
        with suppress(StorageError), locked(state):
            sweep(state)


def keep(state: Path, *, now: str, why: str, hook: Hook = no_hook) -> None:
    """End the current bundle's probation: it stays, and the one before becomes ``previous``.

    Does nothing where no bundle is on probation.

    Raises:
        TrustError: the record is damaged.
        StorageError: the state directory cannot be written, or an installation runs.
    """
    with locked(state):
        record = read_probation(state)
        if record is None:
            return
        note_bundle(state, read_bundle(state, record.candidate), now, "kept", why)
        hook("noted")
        replace_link(state / PREVIOUS, f"{BUNDLES}/{record.fallback}")
        hook("kept")
        _end(state)
        hook("ended")


def fall_back(state: Path, *, now: str, why: str, hook: Hook = no_hook) -> Installed | None:
    """End the current bundle's probation: return to the one before, which it never replaced.

    Returns:
        The bundle that is current again; None where no bundle is on probation.

    Raises:
        TrustError: the record is damaged, or the bundle before was changed on the disk.
        StorageError: the state directory cannot be written, or an installation runs.
    """
    with locked(state):
        record = read_probation(state)
        if record is None:
            return None
        installed = read_bundle(state, record.fallback)
        highest = read_highest(state)
        if highest is not None:  # an installation cut short has not recorded it
            record_highest(state, highest)
        with suppress(TrustError):  # a damaged candidate is one more reason
            note_bundle(state, read_bundle(state, record.candidate), now, "rolled back", why)
        hook("noted")
        replace_link(state / CURRENT, f"{BUNDLES}/{record.fallback}")
        hook("fallen-back")
        _end(state)
        hook("ended")
        return installed


def _end(state: Path) -> None:
    with writing(state / PROBATION):
        (state / PROBATION).unlink()
    sync_directory(state)
    sweep(state)
