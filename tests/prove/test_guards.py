"""Guards can be taken out, and the corpus notices."""

import ast
from pathlib import Path

import pytest

import deepfusion_edge
from benchmarks.prove.guards import measure
from benchmarks.prove.guards.catalogue import GROUPS, GUARDS
from benchmarks.prove.guards.guard import Guard, NotFoundError, without
from benchmarks.prove.hostile import pool

PACKAGE = Path(deepfusion_edge.__file__).parent


@pytest.mark.parametrize("name", GUARDS)
def test_each_guard_stands_in_the_source_and_can_be_taken_out(name):
    guard = GUARDS[name]
    source = PACKAGE.joinpath(*guard.module.split(".")).with_suffix(".py").read_text()
    assert ast.dump(ast.parse(without(source, guard))) != ast.dump(ast.parse(source))


def test_no_two_guards_have_one_name():
    assert len(GUARDS) == sum(map(len, GROUPS.values())) >= 200


def test_a_dozen_guards_drawn_by_a_seed_are_noticed(tmp_path):
    names = measure.sample(7, measure.SHORT)
    assert names == measure.sample(7, measure.SHORT) != measure.sample(8, measure.SHORT)
    taken = list(measure.without_each(names, tmp_path))
    assert [one.guard for one in taken] == list(names)
    assert [one.guard for one in taken if not one.fails] == []


def test_a_survivor_fails_its_row_unless_it_is_explained(monkeypatch):
    name = "signature"
    (group,) = (group for group, guards in GROUPS.items() if name in guards)
    noticed = measure.Taken(name, "archives: a", "no error instead of TrustError")
    assert measure._row(group, [noticed]).state == "held"
    assert measure._row(group, []) is None
    survivor = measure.Taken(name, "", "no case noticed")
    row = measure._row(group, [survivor])
    assert (row.state, row.guard) == ("failed", name)
    assert row.seen == "0 of 1 (0 backed by another guard)"
    monkeypatch.setitem(GUARDS, name, GUARDS[name]._replace(spare="the runtime refuses it too"))
    assert measure._row(group, [survivor]).state == "held"


def test_a_change_that_takes_nothing_out_survives(tmp_path, monkeypatch):
    name = "size of a configuration"
    monkeypatch.setitem(GUARDS, name, Guard("config", "at most 1 MiB", "at most 1 GiB"))
    (taken,) = measure.without_each([name], tmp_path)
    assert (taken.fails, taken.how) == ("", "no case noticed")


def test_a_guard_that_is_not_there_any_more_survives_and_says_so(tmp_path, monkeypatch):
    name = "size of a configuration"
    monkeypatch.setitem(GUARDS, name, Guard("config", "if nothing:", "if False:"))
    (taken,) = measure.without_each([name], tmp_path)
    assert taken.fails == ""
    assert "'if nothing:' is 0 times in config" in taken.how


def test_words_must_be_there_once_or_be_told_apart():
    source = "if a:\n    one\nif a:\n    two\n"
    with pytest.raises(NotFoundError, match="2 times"):
        without(source, Guard("x", "if a:", "if False:"))
    changed = without(source, Guard("x", "if a:", "if False:", before="two"))
    assert changed == "if a:\n    one\nif False:\n    two\n"
    for before in ("three", "a:"):
        with pytest.raises(NotFoundError, match="times in x"):
            without(source, Guard("x", "if a:", "if False:", before=before))
    with pytest.raises(NotFoundError, match="is not in x"):
        without(source, Guard("x", "two", "", before="one"))


def test_a_case_that_stops_the_run_is_the_last(tmp_path):
    wanted = pool.Wanted(kinds=("tests.prove.bad_cases",), stop=True)
    assert [one.name for one in pool.run(wanted, tmp_path)] == ["is taken"]
