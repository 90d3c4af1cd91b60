"""What changes the state directory, and what must be true of it whenever it was cut short."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

from benchmarks.prove.bundles import Maker
from benchmarks.prove.faults.claim import need
from deepfusion_edge.bundle import store
from deepfusion_edge.bundle.layout import (
    BUNDLES,
    CURRENT,
    PREVIOUS,
    STAGING,
    name_of,
    read_highest,
    read_probation,
)
from deepfusion_edge.bundle.probation import Baseline
from deepfusion_edge.bundle.proving import count_start, fall_back, keep, tidy
from deepfusion_edge.commands.gate import Admitted
from deepfusion_edge.commands.ledger import LedgerFile, ended, read_ledger
from deepfusion_edge.commands.message import Command, Restart

NOW = "2026-06-01T00:00:00Z"
_OLDEST, _OLD, _NEW = 1, 2, 3
"""Sequences."""
_WHY = "to see what a power cut leaves"
Act = Callable[[Path], object]


class Procedure(NamedTuple):
    """One thing that is done to a state directory.

    Attributes:
        name: for people.
        prepare: makes what is there before, from an empty place.
        act: does it; what it leaves when cut short is looked at.
        check: of the state directory a power cut left, and whether ``act`` had returned; raises
            BrokenError.
    """

    name: str
    prepare: Act
    act: Act
    check: Callable[[Path, bool], None]


class _Device:
    """What is done with three bundles, and what is looked at afterwards."""

    def __init__(self, maker: Maker) -> None:
        self._keys = [maker.public]
        self._bundles = {sequence: maker.make(sequence) for sequence in (_OLDEST, _OLD, _NEW)}

    def install(self, state: Path, sequence: int = _NEW, *, proving: bool = False) -> None:
        baseline = Baseline(rejected=0.0) if proving else None
        bundle = self._bundles[sequence]
        store.install(bundle, state, self._keys, now=NOW, probe=False, probation=baseline)

    def two(self, state: Path) -> None:
        self.install(state, _OLDEST)
        self.install(state, _OLD)

    def three(self, state: Path) -> None:
        self.two(state)
        self.install(state, proving=True)

    def unrecorded(self, state: Path) -> None:
        with patch.object(store, "record_highest"):
            self.three(state)

    def first(self, state: Path, over: bool) -> None:
        if not (state / CURRENT).is_symlink():
            need(not over, "it was installed, and is gone")
            self.install(state, _OLDEST)
        _serves(state, _OLDEST)
        _clean(state)

    def replaced(self, state: Path, over: bool, *, proving: bool) -> None:
        served = _serves(state, *([_NEW] if over else [_OLD, _NEW]))
        if served == _NEW and proving:
            need(read_probation(state) is not None, "the new one serves, and is on no probation")
        between_its_links = name_of(state / PREVIOUS) == name_of(state / CURRENT)
        if served == _NEW or not between_its_links:
            _returns(state, _OLDEST, _OLD)
        if served == _OLD:
            self.install(state, proving=proving)
        _serves(state, _NEW)
        _returns(state, _OLD)
        need(_highest(state) == _NEW, f"highest is {_highest(state)}")
        _clean(state)


def all_procedures(maker: Maker) -> tuple[Procedure, ...]:
    """List installation, swap, probation, its ends, roll-back, start count and commands."""
    device = _Device(maker)
    keeping = partial(keep, now=NOW, why=_WHY)
    falling = partial(fall_back, now=NOW, why=_WHY)
    return (
        Procedure(
            "first installation", _nothing, partial(device.install, sequence=_OLDEST), device.first
        ),
        Procedure(
            "installation by hand",
            device.two,
            device.install,
            partial(device.replaced, proving=False),
        ),
        Procedure(
            "installation and swap on probation",
            device.two,
            partial(device.install, proving=True),
            partial(device.replaced, proving=True),
        ),
        Procedure("start counted on probation", device.three, count_start, _counted),
        Procedure("kept after probation", device.three, keeping, _kept),
        Procedure("rolled back on probation", device.three, falling, _fallen),
        Procedure(
            "rolled back after an installation cut short", device.unrecorded, falling, _used_up
        ),
        Procedure("roll-back by hand", device.two, partial(store.roll_back, now=NOW), _rolled),
        Procedure("a command taken, begun and ended", Path.mkdir, _command, _check_command),
    )


def _kept(state: Path, over: bool) -> None:
    _serves(state, _NEW)
    need(not over or read_probation(state) is None, "still on probation")
    keep(state, now=NOW, why=_WHY)
    _serves(state, _NEW)
    _returns(state, _OLD)
    _clean(state)


def _fallen(state: Path, over: bool) -> None:
    _serves(state, *([_OLD] if over else [_OLD, _NEW]))
    fall_back(state, now=NOW, why=_WHY)
    _serves(state, _OLD)
    _returns(state, _OLDEST)
    _clean(state)


def _used_up(state: Path, over: bool) -> None:
    _fallen(state, over)
    need(_highest(state) == _NEW, "it could be installed again")


def _rolled(state: Path, over: bool) -> None:
    if _serves(state, *([_OLDEST] if over else [_OLDEST, _OLD])) == _OLD:
        store.roll_back(state, now=NOW)
    _serves(state, _OLDEST)
    _clean(state)


def _counted(state: Path, over: bool) -> None:
    _serves(state, _NEW)
    record = read_probation(state)
    need(record is not None and record.starts in ([2] if over else [1, 2]), f"{record}")
    _returns(state, _OLD)
    _clean(state)


def _highest(state: Path) -> int:
    found = read_highest(state)
    return 0 if found is None else found.sequence


def _nothing(_state: Path) -> None:
    """There is no state directory yet."""


def _serves(state: Path, *sequences: int) -> int:
    """What is current is whole, and one of these."""
    served = store.load_current(state, now=NOW).manifest.sequence
    need(served in sequences, f"{served} is current, not one of {sequences}")
    return served


def _returns(state: Path, *sequences: int) -> None:
    """What a roll-back would give is whole, and one of these."""
    found = store.read_previous(state).manifest.sequence
    need(found in sequences, f"{found} is previous, not one of {sequences}")


def _clean(state: Path) -> None:
    """The next start leaves nothing that nobody names."""
    tidy(state)
    trial = read_probation(state)
    names = {name_of(state / CURRENT), name_of(state / PREVIOUS), trial and trial.fallback}
    there = {path.name for path in (state / BUNDLES).iterdir()}
    need(there == names - {None}, f"{there} are there, {names} are named")
    need(not list(state.glob(f"{STAGING}*")), "a staging folder is left")


_SENT = Command(
    schema=1,
    id="c-1",
    agent="a/b",
    sequence=7,
    issued=NOW,
    expires="2026-06-02T00:00:00Z",
    action=Restart(),
)


def _command(state: Path) -> None:
    ledger = LedgerFile(state)
    ledger.consume(Admitted(_SENT, "ab" * 8, "cd" * 32, NOW), keep=True)
    pending = ledger.move(_SENT.id, "running")
    ledger.end(ended(pending, "done", NOW))


def _check_command(state: Path, over: bool) -> None:
    found = read_ledger(state)
    taken = found.highest == {"ab" * 8: 7}
    need(taken or not over, "the sequence is forgotten: a replay would be taken")
    need(taken == bool(found.pending or found.recent), "taken, and neither pending nor ended")
    need(not (found.pending and found.recent), "pending and ended at once")
    if not taken:
        _command(state)
        need(bool(read_ledger(state).recent), "it cannot be taken again")
