"""What becomes of commands: the answers, the ledger, and what is left after a power cut."""

import hashlib
import json
import threading
import time

import numpy as np
import pytest
from PIL import Image

from deepfusion_edge.bundle.store import install
from deepfusion_edge.commands import desk as desk_module
from deepfusion_edge.commands.ledger import LEDGER, MAX_PENDING, read_ledger
from deepfusion_edge.commands.message import (
    COMMAND,
    Restart,
    RollBack,
    SetMembers,
    SetPolicy,
    Snapshot,
)
from deepfusion_edge.commands.start import chosen
from deepfusion_edge.errors import InputError, StorageError, TrustError
from tests.edge.command_parts import NOW, NOW_S, Office, Signer, judged, make_config


@pytest.fixture
def state(tmp_path):
    folder = tmp_path / "state"
    folder.mkdir()
    return folder


@pytest.fixture
def signer(tmp_path):
    return Signer(tmp_path / "keys")


@pytest.fixture
def office(state, signer, tmp_path):
    """``office(...)`` -> an Office on the one state directory, closed in the end."""
    made = []

    def make(*, config=None, **options):
        config = config or make_config(state, signer, snapshot_dir=tmp_path / "snapshots")
        made.append(Office(config, **options))
        return made[-1]

    yield make
    for one in made:
        one.close()


def wait(condition, timeout_s=30.0):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def ends(office, name):
    return [s for s in office.states(name) if s in {"done", "failed", "refused"}]


def test_a_command_is_accepted_run_and_done(office, signer, state):
    there = office()
    message = signer.sign(SetMembers(3))
    told = there.take(message)
    assert (told["state"], told["command"], told["action"]) == ("accepted", "c-1", "set-members")
    assert (told["schema"], told["agent"], told["key"]) == (1, "line-1", signer.id)
    assert told["digest"] == hashlib.sha256(message).hexdigest()
    assert told["id"].startswith("line-1-")
    assert told["time"] == "2026-06-01T00:01:00.000Z"
    with there:
        wait(lambda: ends(there, "c-1"))
        assert there.states("c-1") == ["accepted", "running", "done"]
        assert there.statuses()[-1]["result"] == {"members": 3, "policy": True}
        assert len({status["id"] for status in there.statuses()}) == 3
    assert there.machine.models == [(3, True)]
    assert read_ledger(state).settings.members == 3
    assert oct((state / LEDGER).stat().st_mode & 0o777) == "0o600"


def test_choices_hold_after_a_restart_until_they_are_taken_back(office, signer, state):
    with office() as there:
        there.take(signer.sign(SetMembers(3)))
        there.take(signer.sign(SetPolicy(policy=False), sequence=2))
        wait(lambda: ends(there, "c-2"))
    config = there.config
    assert (chosen(config).model.members, chosen(config).model.policy) == (3, False)
    assert chosen(make_config(state)).model.members is None  # without keys, commands rule nothing
    with office() as there:
        there.take(signer.sign(SetMembers(None), sequence=3))
        wait(lambda: ends(there, "c-3"))
    assert (chosen(config).model.members, chosen(config).model.policy) == (None, False)


def test_what_the_line_cannot_do_fails_and_is_not_kept(office, signer, state):
    with office() as there:
        there.take(signer.sign(SetMembers(64)))
        wait(lambda: ends(there, "c-1"))
        assert there.states("c-1")[-1] == "failed"
        assert "64 is too many" in there.statuses()[-1]["reason"]
    assert read_ledger(state).settings.members is None


def test_a_second_time_is_refused_even_after_a_restart(office, signer):
    message = signer.sign(SetMembers(3))
    with office() as there:
        there.take(message)
        assert there.take(message)["code"] == "duplicate"
        wait(lambda: "done" in there.states("c-1"))
        assert there.take(message)["code"] == "duplicate"
    with office() as there:
        assert there.take(message)["code"] == "duplicate"
        assert there.take(signer.sign(SetMembers(4), id="new"))["code"] == "sequence"
    assert there.machine.models == []


def test_an_old_command_is_refused_when_its_id_was_forgotten(office, signer):
    first = signer.sign(SetMembers(2))
    with office() as there:
        there.take(first)
        for sequence in range(2, 70):
            there.take(signer.sign(SetMembers(3), sequence=sequence))
            wait(lambda sequence=sequence: ends(there, f"c-{sequence}"))
        assert there.take(first)["code"] == "sequence"


def test_sequences_are_counted_for_each_key(office, signer, state, tmp_path):
    other = Signer(tmp_path / "other", actions=("restart",))
    there = office(config=make_config(state, signer, other))
    assert there.take(signer.sign(sequence=9))["state"] == "accepted"
    assert there.take(other.sign(sequence=2))["state"] == "accepted"
    assert there.take(signer.sign(sequence=8))["code"] == "sequence"
    refused = there.take(other.sign(SetMembers(1), sequence=10))
    assert (refused["code"], refused["key"]) == ("unauthorised", other.id)


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (lambda _: b"garbage", "untrusted"),
        (lambda _: b"[" * 200_000, "untrusted"),
        (lambda _: b" " * (COMMAND.max_bytes + 1), "untrusted"),
        (lambda s: s.sign(agent="deepfusion/line-2"), "wrong-agent"),
        (lambda s: s.sign(expires="2026-06-01T00:00:59Z"), "expired"),
        (lambda s: s.sign(issued="2026-06-01T00:07:00Z"), "not-yet-valid"),
    ],
)
def test_refusals_are_told_and_change_nothing(office, signer, state, make, code):
    there = office()
    told = there.take(make(signer))
    assert (told["state"], told["code"]) == ("refused", code)
    assert told["reason"]
    assert not (state / LEDGER).exists()
    with there:
        pass
    assert there.machine.__dict__ == type(there.machine)().__dict__


def test_a_retained_command_is_refused_and_told(office, signer):
    told = office().take(signer.sign(), retained=True)
    assert (told["code"], told["command"]) == ("retained", None)


def test_a_stranger_cannot_fill_the_outbox(office, signer, monkeypatch):
    there = office()
    for at in range(500):
        there.desk.take(desk_module.Incoming("t", b"%d" % at, False, 1))
    told = there.statuses()
    assert len(told) == desk_module.MAX_TOLD
    clock = time.monotonic()
    monkeypatch.setattr(
        desk_module.time, "monotonic", lambda: clock + 1.5 * desk_module.TOLD_EVERY_S
    )
    assert there.take(b"x")["reason"].startswith("(480 refusals before were not told)")
    assert there.take(b"y") == {}
    assert there.take(signer.sign())["state"] == "accepted"  # commands are not held back


def test_only_so_many_wait_and_a_refused_one_is_used_up(office, signer, state):
    there = office()
    for sequence in range(1, MAX_PENDING + 1):
        assert there.take(signer.sign(SetMembers(2), sequence=sequence))["state"] == "accepted"
    late = signer.sign(SetMembers(5), sequence=50)
    assert there.take(late)["code"] == "busy"
    with there:
        wait(lambda: not read_ledger(state).pending)
        assert there.take(late)["code"] == "sequence"
    assert (5, True) not in there.machine.models


def test_a_command_that_cannot_be_written_down_is_not_taken(office, signer, state, monkeypatch):
    there = office()

    def full(*_):
        raise StorageError("cannot write: disk full", "free some space")

    with monkeypatch.context() as patch:
        patch.setattr("deepfusion_edge.commands.ledger.replace_file", full)
        told = there.take(signer.sign())
    assert (told["code"], told["state"]) == ("storage", "refused")
    assert read_ledger(state).pending == ()
    assert there.take(signer.sign())["state"] == "accepted"


def test_a_full_disk_while_running_is_waited_for(office, signer, monkeypatch):
    monkeypatch.setattr(desk_module, "RETRY_S", 0.05)
    there = office()
    there.take(signer.sign(SetMembers(3)))
    fail = threading.Event()
    keep = desk_module.LedgerFile.end

    def end(self, *arguments):
        if not fail.is_set():
            fail.set()
            raise StorageError("cannot write: disk full", "free some space")
        keep(self, *arguments)

    monkeypatch.setattr(desk_module.LedgerFile, "end", end)
    with there:
        wait(lambda: ends(there, "c-1"))
    assert there.states("c-1")[-1] == "done"
    assert set(there.machine.models) == {(3, True)}


def test_a_damaged_ledger_switches_commands_off(office, signer, state):
    (state / LEDGER).write_bytes(b'{"schema":1,"highest":')
    with pytest.raises(StorageError, match=r"commands.json is damaged.*seven days"):
        office()
    config = make_config(state, signer)
    assert chosen(config) is config


def test_keys_are_read_when_the_agent_starts(office, signer, state):
    signer.file.write_bytes(b"no key")
    with pytest.raises(TrustError, match=r"\.pub: not a public key"):
        office()
    signer.file.unlink()
    with pytest.raises(InputError, match="cannot read"):
        office()
    assert office(config=make_config(state)).desk.subscriptions == ()


def test_a_restart_is_done_when_the_agent_is_back(office, signer):
    with office() as there:
        there.take(signer.sign(Restart()))
        wait(lambda: there.machine.restarts)
        assert there.machine.restarts == ["command c-1"]
    assert there.states("c-1") == ["accepted", "running"]
    with office() as there:
        wait(lambda: ends(there, "c-1"))
    assert there.states("c-1")[-1] == "done"
    assert there.machine.restarts == []
    with office() as again:
        time.sleep(0.3)
    assert again.machine.restarts == []


def test_what_was_accepted_before_a_power_cut_is_done_after_it(office, signer):
    there = office()
    there.take(signer.sign(SetMembers(3)))
    there.close()  # the worker never ran
    with office() as there:
        wait(lambda: ends(there, "c-1"))
    assert there.machine.models == [(3, True)]


def test_the_last_end_is_told_again_after_a_restart(office, signer):
    with office() as there:
        there.take(signer.sign(SetMembers(3)))
        wait(lambda: ends(there, "c-1"))
    with office() as there:
        wait(lambda: there.states("c-1").count("done") == 2)
    assert there.machine.models == []


class TestSnapshot:
    def test_the_last_frame_is_kept_as_it_came(self, office, signer, tmp_path):
        Image.new("RGB", (4, 4), (9, 8, 7)).save(tmp_path / "a.jpg")
        data = (tmp_path / "a.jpg").read_bytes()
        with office() as there:
            there.window.judged(judged(1, content=data))
            there.take(signer.sign(Snapshot(None)))
            wait(lambda: ends(there, "c-1"))
            result = there.statuses()[-1]["result"]
        assert result["sha256"] == hashlib.sha256(data).hexdigest()
        assert (result["file"], result["bytes"]) == ("snapshot-c-1.jpeg", len(data))
        assert (result["source"], result["frame"], result["state"]) == ("cam", "1.png", "accept")
        folder = tmp_path / "snapshots"
        assert (folder / "snapshot-c-1.jpeg").read_bytes() == data
        assert json.loads((folder / "snapshot-c-1.json").read_bytes()) == result
        assert (folder / "snapshot-c-1.jpeg").stat().st_mode & 0o777 == 0o600
        told = json.dumps(there.statuses())
        assert data.hex() not in told  # the picture never leaves

    def test_pixels_are_kept_without_loss(self, office, signer, tmp_path):
        with office() as there:
            there.window.judged(judged(7))
            there.window.judged(judged(0, pixels=False))  # one that could not be read
            there.take(signer.sign(Snapshot("cam")))
            wait(lambda: ends(there, "c-1"))
        kept = Image.open(tmp_path / "snapshots" / "snapshot-c-1.png")
        assert np.array_equal(np.asarray(kept), np.full((2, 3, 3), 7, np.uint8))

    def test_only_so_many_are_kept(self, office, signer, tmp_path):
        (tmp_path / "snapshots").mkdir()
        (tmp_path / "snapshots" / "other.txt").write_text("not ours")
        with office() as there:
            there.window.judged(judged(1))
            for sequence in (1, 2, 3):
                there.take(signer.sign(Snapshot(None), sequence=sequence))
                wait(lambda sequence=sequence: ends(there, f"c-{sequence}"))
        kept = {path.name for path in (tmp_path / "snapshots").iterdir()}
        pairs = {f"snapshot-c-{n}.{suffix}" for n in (2, 3) for suffix in ("png", "json")}
        assert kept == {"other.txt", *pairs}

    @pytest.mark.parametrize("source", ["other", "../cam"])
    def test_without_a_frame_there_is_nothing(self, office, signer, source):
        with office() as there:
            there.window.judged(judged(1))
            there.take(signer.sign(Snapshot(source)))
            wait(lambda: ends(there, "c-1"))
        assert "no frame was judged" in there.statuses()[-1]["reason"]

    def test_without_a_place_none_is_made(self, office, signer, state):
        with office(config=make_config(state, signer)) as there:
            there.window.judged(judged(1))
            there.take(signer.sign(Snapshot(None)))
            wait(lambda: ends(there, "c-1"))
        assert "set commands.snapshot_dir" in there.statuses()[-1]["reason"]


class TestRollBack:
    @pytest.fixture
    def put(self, make_bundle, keys, state, tmp_path):
        def call(sequence, **settings):
            path = make_bundle(tmp_path / f"{sequence}.dfb", sequence=sequence, **settings)
            return install(path, state, [keys.public], now=NOW, probe=False)

        return call

    def test_the_bundle_before_returns(self, office, signer, put, state):
        first, _ = put(1), put(2)
        with office() as there:
            there.take(signer.sign(RollBack()))
            wait(lambda: ends(there, "c-1"))
            assert there.statuses()[-1]["result"] == {"bundle": first.directory.name}
        assert there.machine.judging == [1]
        assert (state / "current").resolve().name == first.directory.name

    def test_without_one_it_fails(self, office, signer, put):
        put(1)
        with office() as there:
            there.take(signer.sign(RollBack()))
            wait(lambda: ends(there, "c-1"))
        assert "no previous bundle" in there.statuses()[-1]["reason"]

    @pytest.mark.parametrize("unfit", ["unfit_to_load", "unfit_to_run", "expired"])
    def test_a_bundle_that_cannot_judge_is_not_returned_to(self, office, signer, put, state, unfit):
        put(1, expires="2026-06-01T00:02:00Z")
        second = put(2)
        there = office(now_s=NOW_S + 60 * (unfit == "expired"))
        getattr(there.machine, unfit, set()).add(1)
        with there:
            there.take(signer.sign(RollBack()))
            wait(lambda: ends(there, "c-1"))
        assert there.states("c-1")[-1] == "failed"
        assert there.machine.judging == []
        assert (state / "current").resolve().name == second.directory.name
