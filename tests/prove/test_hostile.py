"""The corpus of hostile input holds, and a case that does not hold is seen."""

import pytest

from benchmarks.prove.guards.catalogue import GUARDS
from benchmarks.prove.hostile import KINDS, measure, pool
from tests.prove.bad_cases import CASES as BAD


@pytest.mark.parametrize("kind", KINDS)
def test_every_case_is_refused_or_handled(kind, tmp_path):
    found = list(pool.run(pool.Wanted(kinds=(kind,)), tmp_path))
    assert [f"{one.name}: {one.problem}" for one in found if one.problem] == []
    assert len(found) == len(pool.cases_of(kind))
    row = measure.row_of(kind, found)
    assert row.state == "held"
    assert len(row.lines) == len(found)


def test_the_corpus_is_large_and_each_case_has_a_name_of_its_own():
    names = [f"{kind}: {case.name}" for kind in KINDS for case in pool.cases_of(kind)]
    assert len(names) == len(set(names)) >= 400


def test_every_case_rests_on_a_guard_that_exists_and_every_guard_has_a_case():
    resting = {case.guard for kind in KINDS for case in pool.cases_of(kind)}
    assert resting - {""} == set(GUARDS)


PROBLEMS = {
    "is taken": "no error instead of InputError",
    "is refused otherwise": "TrustError instead of InputError",
    "says something else": "does not say 'never'",
    "says no remedy": "no cause or no remedy",
    "says no cause": "no cause or no remedy",
    "crashes": "crashed with KeyError",
    "dies": "the process ended with -6",
    "exits": "did not begin: SystemExit",
    "hangs": "hung for 1 s",
    "spins": "hung for 1 s",
    "eats": "crashed with MemoryError",
    "writes": "evil.txt (open)",
    "links": "evil (os.symlink)",
    "swallows": "evil.txt (open)",
    "unpickles": "unpickled something",
    "starts": "started true",
    "connects": "connected to 192.0.2.1",
    "leaves": "left staging-old in the agent's folder",
    "installs": "afterwards another bundle serves",
    "breaks": "afterwards nothing serves",
    "takes nothing": "it was not taken",
    "holds": "",
}


def test_each_way_of_failing_is_seen_and_ends_one_case_alone(tmp_path):
    wanted = pool.Wanted(kinds=("tests.prove.bad_cases",), seconds=1.0)
    found = {one.name: one.problem for one in pool.run(wanted, tmp_path)}
    assert list(found) == [case.name for case in BAD] == list(PROBLEMS)
    assert {name: text for name, text in PROBLEMS.items() if text not in found[name]} == {}
    assert found["holds"] == ""


def test_a_group_that_cannot_begin_says_so(tmp_path):
    with pytest.raises(pool.GroupError, match="No module named 'tests"):
        list(pool.run(pool.Wanted(kinds=("tests.prove.nothing",)), tmp_path))


def test_a_failed_case_fails_its_row():
    from benchmarks.prove.hostile.case import Outcome

    good = Outcome("archives", "a", "size of a file", "", "exit code 5: no")
    bad = Outcome("archives", "b", "size of a file", "crashed", "")
    row = measure.row_of("archives", [good, bad])
    assert (row.state, row.seen) == ("failed", "1 of 2 (1 by an error)")
    assert "FAILED, crashed" in row.lines[1]
