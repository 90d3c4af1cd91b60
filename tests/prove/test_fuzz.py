"""Fuzzing finds what is planted and nothing else; no changed byte of what is signed is taken."""

import argparse
import importlib.util
import random

import pytest

from benchmarks.prove.fuzz import measure, single_bytes, targets, worker
from benchmarks.prove.fuzz.targets import TARGETS, FoundError, Target
from benchmarks.prove.hostile import probes, toy

DRAWS = 200


@pytest.mark.parametrize("name", TARGETS)
def test_nothing_but_documented_errors(name, tmp_path):
    assert worker.plain(name, DRAWS, 1, tmp_path) == {"draws": DRAWS, "failure": ""}


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_are_accepted_so_that_fuzzing_begins_inside(name, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(targets, "suppress", lambda *_: _Noting(seen))
    target = TARGETS[name]
    run = target.begin(tmp_path)
    for seed in target.seeds():
        run(seed)
    assert seen == []


class _Noting:
    def __init__(self, seen):
        self._seen = seen

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        self._seen.extend([error] if error else [])
        return False


def test_a_planted_fault_is_found_and_kept(tmp_path, monkeypatch):
    def run(data):
        if b"\xff" in data:
            raise IndexError("planted")

    monkeypatch.setitem(TARGETS, "planted", Target(lambda: [b"seed"], lambda _work: run))
    found = worker.plain("planted", 5000, 0, tmp_path)
    assert "IndexError: planted" in found["failure"]
    (kept,) = tmp_path.glob("crash-*")
    assert b"\xff" in kept.read_bytes()


def test_draws_are_those_of_the_seed():
    seeds = [b"one", b"two"]
    first, again, other = (
        [worker.mutated(seeds, random.Random(n)) for _ in range(5)] for n in (1, 1, 2)
    )
    assert first == again != other


def test_what_is_taken_wrongly_is_found(monkeypatch, tmp_path):
    monkeypatch.setattr(targets, "check_onnx", lambda _data: None)
    with pytest.raises(FoundError, match="weights outside"):
        TARGETS["graph"].begin(tmp_path)(_outside())
    monkeypatch.setattr(targets, "admitted", lambda _message: True)
    with pytest.raises(FoundError, match="nobody signed"):
        TARGETS["command"].begin(tmp_path)(b"forged")
    monkeypatch.setattr(targets, "verify", lambda *_, **__: None)
    with pytest.raises(FoundError, match="nobody signed"):
        TARGETS["bundle"].begin(tmp_path)(b"forged")


def _outside():
    model = toy.graph()
    model.graph.initializer[0].external_data.add(key="location", value="w.bin")
    return toy.spelled(model)


@pytest.mark.parametrize("look", [single_bytes.bundle, single_bytes.command])
def test_a_changed_byte_is_refused(look):
    found = look(sample=150, seed=3)
    assert found == single_bytes.Changes(150, ())


def test_an_accepted_change_is_found_and_doing_nothing_does_not_pass():
    found = single_bytes.look(b"ab", lambda data: data[1:] == b"b")
    assert found.tried == 2 * len(single_bytes.FLIPS)
    assert {at for at, _ in found.accepted} == {0}
    with pytest.raises(ValueError, match="unchanged bytes are refused"):
        single_bytes.look(b"ab", lambda _data: False)


def test_what_libfuzzer_prints_is_read():
    said = "#2\tINITED cov: 12 ft: 13 corp: 1/2b\n#20000\tDONE   cov: 62 ft: 199 corp: 68/731b\n"
    assert measure._read(said, 0, "") == measure.Fuzzed(20_000, 62, "", "")
    assert measure._read(said + "crash", 77, "crash-1").failure.endswith("crash")
    assert measure._read("", 1, "").failure == "it ended with code 1"
    assert measure._read("no module", 1, "").failure == "no module"


def test_a_target_that_failed_fails_its_row():
    options = argparse.Namespace(seed=5)
    bad = measure.Fuzzed(7, 0, "Traceback\nIndexError", "crash-1")
    row = measure.row_of("key", bad, guided=False, options=options)
    assert (row.state, row.lines) == ("failed", ("crash-1", "Traceback", "IndexError"))
    good = measure.row_of("key", bad._replace(failure=""), guided=True, options=options)
    assert (good.state, good.seen) == ("held", "7 inputs (atheris, by coverage, seed 5)")


@pytest.mark.skipif(
    importlib.util.find_spec("atheris") is None, reason="atheris is not made for this machine"
)
def test_a_target_led_by_coverage_runs_in_a_process_of_its_own(tmp_path):
    found = measure.fuzz("Sparkplug", tmp_path, guided=True, short=True, seed=0)
    assert found.failure == ""
    assert found.draws >= 100
    assert found.cover > 20


def test_a_target_without_coverage_runs_in_a_process_of_its_own(tmp_path):
    found = measure.fuzz("Host header", tmp_path, guided=False, short=True, seed=0)
    assert found == measure.Fuzzed(measure.SHORT_PLAIN, 0, "", "")


def test_a_graph_of_nan_is_none_that_the_structure_refuses(tmp_path):
    TARGETS["graph"].begin(tmp_path)(probes.model_of_nan())
