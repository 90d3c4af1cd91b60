"""Faults brought about: what must hold does, and breaks when its guard is taken out."""

from contextlib import nullcontext

import pytest

from benchmarks.prove.bundles import Maker
from benchmarks.prove.command import PARTS
from benchmarks.prove.faults import broker, claim, clock, hanging, storage
from benchmarks.prove.measure import MEASURES
from tests.edge.conftest import keys, make_bundle, make_keys  # noqa: F401 - fixtures

QUICK = (*storage.FAULTS, *clock.FAULTS, broker.FAULTS[1], hanging.FAULTS[0], hanging.FAULTS[4])


@pytest.fixture
def maker(tmp_path, make_bundle):  # noqa: F811 - the fixture
    return Maker(make_bundle(tmp_path / "base.dfb"), tmp_path / "bundles")


@pytest.mark.parametrize("fault", QUICK, ids=lambda fault: f"{fault.fault}-{fault.guard}")
def test_a_fault_is_survived_and_its_guard_is_needed(fault, maker, tmp_path):
    (row,), figures = claim.rows([fault], maker, tmp_path / "work")
    if row.state == "not possible":
        pytest.skip(row.seen)
    assert row.state == "held", row
    assert row.guard == fault.guard
    assert figures == {
        "fault_points": 1,
        "faults_failed": 0,
        "guards_mutated": 1,
        "guards_surviving": 0,
    }


def always(_maker, _work):
    return "as it should be"


def never(_maker, _work):
    raise claim.BrokenError("broken")


def nowhere(_maker, _work):
    raise claim.NotPossibleError("no tool")


@pytest.mark.parametrize(
    ("show", "state", "seen", "failed"),
    [
        (never, "failed", "broken", 1),
        (always, "failed", "nothing was noticed without", 1),
        (nowhere, "not possible", "no tool", 0),
    ],
)
def test_a_claim_that_breaks_and_a_guard_that_nobody_misses_are_told(
    maker, tmp_path, show, state, seen, failed
):
    fault = claim.Fault("a fault", "something", "a guard", show, nullcontext)
    (row,), figures = claim.rows([fault], maker, tmp_path / "work")
    assert (row.state, figures["faults_failed"]) == (state, failed)
    assert seen in row.seen


def test_each_part_can_be_chosen():
    assert tuple(MEASURES) == PARTS
