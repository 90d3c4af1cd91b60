"""An update from its command to its end: chunks, probation, and everything that may go wrong."""

import hashlib
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepfusion_edge.bundle.history import HISTORY, MAX_ENTRIES, Entry, note, read_history
from deepfusion_edge.bundle.layout import read_probation
from deepfusion_edge.bundle.probation import FEWEST, Baseline, Seen, baseline, decide
from deepfusion_edge.bundle.proving import count_start, fall_back, keep
from deepfusion_edge.bundle.store import install, load_current, roll_back
from deepfusion_edge.commands import update as update_module
from deepfusion_edge.commands.message import Chunks, Install, RollBack, SetMembers
from deepfusion_edge.commands.start import begin
from deepfusion_edge.config_commands import Probation, Updates
from deepfusion_edge.errors import ModelError, TrustError, UsageError
from deepfusion_edge.report.messages import Incoming
from tests.edge.command_parts import NOW, NOW_S, TOPIC, Office, Signer, make_config

SIZE = 1024


def wait(condition, timeout_s=30.0):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


class Plant:
    """A device with bundles 1 and 2, and somebody who sends bundle 3."""

    def __init__(self, tmp_path, make_bundle, keys):
        self.folder, self.make_bundle, self.keys = tmp_path, make_bundle, keys
        self.state = tmp_path / "state"
        self.signer = Signer(tmp_path / "keys")
        self.updates = {}
        for sequence in (1, 2):
            self.put(sequence)

    def put(self, sequence, *, expires="2036-01-01T00:00:00Z", **options):
        path = self.folder / f"{sequence}.dfb"
        bundle = self.make_bundle(path, sequence=sequence, expires=expires)
        return install(bundle, self.state, [self.keys.public], now=NOW, probe=False, **options)

    def office(self, **options):
        rules = Updates(**{"min_free_bytes": 0, "idle_timeout_s": 0.3, **self.updates})
        return Office(make_config(self.state, self.signer, updates=rules), **options)

    def bundle(self, sequence=3, **settings):
        self.data = self.make_bundle(
            self.folder / f"new-{sequence}.dfb", sequence=sequence, **settings
        ).read_bytes()
        self.parts = [self.data[at : at + SIZE] for at in range(0, len(self.data), SIZE)]

    def order(self, office, *, sequence=1, **changes):
        digests = tuple(hashlib.sha256(one).hexdigest() for one in self.parts)
        action = Install(
            **{
                "bytes": len(self.data),
                "sha256": hashlib.sha256(self.data).hexdigest(),
                "url": None,
                "chunks": Chunks(SIZE, digests),
                **changes,
            }
        )
        return office.take(self.signer.sign(action, sequence=sequence))

    def send(self, office, *indexes, name="c-1"):
        for at in indexes or range(len(self.parts)):
            topic = f"{TOPIC}/chunk/{name}/{at}"
            office.desk.take_chunk(Incoming(topic, self.parts[at], retained=False, qos=1))

    def install(self, office):
        """Go on to the probation."""
        self.order(office)
        wait(lambda: asked(office))
        self.send(office)
        wait(lambda: {"probation", "failed"} & set(office.states("c-1")))

    def serves(self):
        return load_current(self.state, now=NOW).manifest.sequence


def asked(office, name="c-1"):
    statuses = office.statuses()
    return [tuple(s["missing"]) for s in statuses if s["missing"] and s["command"] == name]


def ended(office, name="c-1"):
    wait(lambda: {"done", "failed"} & set(office.states(name)))
    return next(
        s for s in office.statuses() if s["state"] in {"done", "failed"} and s["command"] == name
    )


@pytest.fixture
def plant(tmp_path, make_bundle, keys):
    made = Plant(tmp_path, make_bundle, keys)
    made.bundle()
    return made


def test_missing_chunks_are_asked_for_again(plant):
    with plant.office() as office:
        plant.order(office)
        wait(lambda: asked(office))
        count = len(plant.parts)
        assert asked(office) == [tuple(range(count))]
        plant.send(office, *reversed(range(0, count, 2)))
        wait(lambda: len(asked(office)) > 1)
        assert asked(office)[-1] == tuple(range(1, count, 2))
        plant.send(office, *range(1, count, 2))
        wait(lambda: "probation" in office.states("c-1"))
        assert plant.serves() == 3
        office.frames(200)
        result = ended(office)["result"]
        assert (result["bundle"], result["bundle_sequence"]) == ("line", 3)
    assert office.machine.judging == [3]


def test_chunks_that_never_come_end_it(plant):
    plant.updates = {"timeout_s": 0.5}
    with plant.office() as office:
        plant.order(office)
        wait(lambda: asked(office))
        plant.send(office, 0)
        assert "chunks did not arrive within" in ended(office)["reason"]
    assert list((plant.state / "incoming").iterdir()) == []
    assert plant.serves() == 2
    assert read_history(plant.state)[-1].result == "refused"


def test_forged_chunks_and_strange_topics_change_nothing(plant):
    with plant.office() as office:
        plant.order(office)
        wait(lambda: asked(office))
        for end in ("c-1/0", "c-1/-1", "c-1/99999", "c-1/x", "c-1/٣", "c-2/0", "../0"):
            message = Incoming(f"{TOPIC}/chunk/{end}", b"forged", retained=False, qos=1)
            office.desk.take_chunk(message)
        plant.send(office)
        wait(lambda: "probation" in office.states("c-1"))


def test_a_disk_that_fills_while_chunks_come(plant, monkeypatch):
    with plant.office() as office:
        plant.order(office)
        wait(lambda: asked(office))

        def full(*_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("os.pwrite", full)
        plant.send(office, 0)
        assert "No space left" in ended(office)["reason"]
    assert plant.serves() == 2


@pytest.mark.parametrize(
    ("updates", "text"),
    [
        ({"max_bytes": 1024}, "updates.max_bytes is 1024"),
        ({"min_free_bytes": 2**50}, "are free for a bundle"),
    ],
)
def test_what_would_be_too_much_is_refused_before_anything_comes(plant, updates, text):
    plant.updates = updates
    with plant.office() as office:
        plant.order(office)
        assert text in ended(office)["reason"]
    assert not list((plant.state / "incoming").glob("*.part"))


def test_a_url_that_is_not_allowed_is_not_asked(plant):
    with plant.office() as office:
        plant.order(office, url="http://example.com/x?token=s3cret", chunks=None)
        reason = ended(office)["reason"]
    assert "updates.http_hosts" in reason
    assert "s3cret" not in reason


def test_one_at_a_time(plant):
    with plant.office() as office:
        plant.order(office)
        assert plant.order(office, sequence=2)["code"] == "busy"
        wait(lambda: asked(office))
        plant.send(office)
        wait(lambda: "probation" in office.states("c-1"))
        assert plant.order(office, sequence=3)["code"] == "busy"
        office.take(plant.signer.sign(SetMembers(3), sequence=4))  # others go on
        assert ended(office, "c-4")["state"] == "done"


def test_quick_commands_go_on_during_a_transfer_and_a_roll_back_ends_it(plant):
    with plant.office() as office:
        plant.order(office)
        wait(lambda: asked(office))
        office.take(plant.signer.sign(SetMembers(3), sequence=2))
        assert ended(office, "c-2")["state"] == "done"
        office.take(plant.signer.sign(RollBack(), sequence=3))
        assert ended(office, "c-3")["reason"] == "installation c-1 was ended"
        assert "ended by roll-back c-3" in ended(office)["reason"]
    assert plant.serves() == 2
    assert list((plant.state / "incoming").iterdir()) == []


def test_a_roll_back_on_probation_returns_to_the_bundle_before(plant):
    with plant.office() as office:
        plant.install(office)
        assert plant.serves() == 3
        office.take(plant.signer.sign(RollBack(), sequence=2))
        assert ended(office, "c-2")["state"] == "done"
        assert ended(office)["state"] == "failed"
    assert plant.serves() == 2
    assert office.machine.judging == [3, 2]
    assert roll_back(plant.state).manifest.sequence == 1  # untouched by the whole affair


@pytest.mark.parametrize(
    ("bad", "text"),
    [
        ({"problem": "broken"}, "the graph failed on"),
        ({"state": "reject"}, "rejects 100.0% of"),
        ({"latency_ms": 31.0}, "median latency 31 ms"),
    ],
)
def test_probation_ends_badly(plant, bad, text):
    with plant.office() as office:
        office.frames(100)
        plant.install(office)
        office.frames(60, **bad)
        reason = ended(office)["reason"]
        assert reason.startswith("rolled back: ")
        assert text in reason
    assert plant.serves() == 2
    assert read_probation(plant.state) is None
    assert office.machine.judging == [3, 2]
    last = read_history(plant.state)[-1]
    assert (last.result, last.sequence) == ("rolled back", 3)
    assert text in last.reason
    with plant.office() as office:
        plant.order(office, sequence=5)
        wait(lambda: asked(office, "c-5"))
        plant.send(office, name="c-5")
        assert "installed already" in ended(office, "c-5")["reason"]


def test_probation_ends_well_with_the_same_faults_as_before(plant):
    with plant.office() as office:
        for _ in range(10):
            office.frames(9, state="accept")
            office.frames(9, state="reject")
        plant.install(office)
        for _ in range(15):
            office.frames(9)
            office.frames(9, state="reject")
        assert ended(office)["state"] == "done"
    assert plant.serves() == 3
    assert roll_back(plant.state).manifest.sequence == 2


def test_a_bundle_that_does_not_run_beside_the_others_is_taken_back(plant):
    office = plant.office()
    office.machine.unfit_to_run.add(3)
    with office:
        plant.install(office)
        assert "3 does not run" in ended(office)["reason"]
    assert plant.serves() == 2


def test_where_there_is_nothing_to_return_to_the_new_bundle_stays(plant):
    office = plant.office()
    with office:
        plant.install(office)
        office.machine.unfit_to_load.add(2)
        office.frames(20, problem="broken")
        reason = ended(office)["reason"]
        assert "it stays, because the bundle before cannot be used: 2 does not load" in reason
    assert plant.serves() == 3
    assert read_probation(plant.state) is None


def test_an_expired_bundle_is_not_returned_to(plant):
    plant.put(3, expires="2026-06-01T00:02:00Z")
    plant.bundle(4)
    with plant.office() as office:
        plant.install(office)
        office.now_s += 60
        office.frames(20, problem="broken")
        assert "cannot be used: the bundle expired" in ended(office)["reason"]
    assert plant.serves() == 4
    assert office.machine.judging == [4]


def test_a_bundle_signed_by_a_stranger_never_serves(plant, make_keys):
    plant.bundle(signers=[make_keys().private])
    with plant.office() as office:
        plant.install(office)
        assert "signed by key" in ended(office)["reason"]
    assert plant.serves() == 2
    assert office.machine.loaded == []


def test_an_install_by_hand_meanwhile_ends_the_probation(plant):
    with plant.office() as office:
        plant.install(office)
        plant.put(4)
        assert "by hand" in ended(office)["reason"]
    assert plant.serves() == 4
    assert office.machine.judging == [3, 4]
    assert roll_back(plant.state).manifest.sequence == 2  # 3 was never kept


def test_a_roll_back_by_hand_on_probation_reaches_the_agent_that_runs(plant):
    with plant.office() as office:
        plant.install(office)
        office.frames(1)
        assert roll_back(plant.state, now=NOW).manifest.sequence == 2
        assert "rolled back: by hand" in ended(office)["reason"]
    assert office.machine.judging == [3, 2]


def test_a_defect_ends_the_command_and_not_the_agent(plant, monkeypatch, caplog):
    def defect(*_, **__):
        raise KeyError("a defect")

    with plant.office() as office:
        with monkeypatch.context() as patch:
            patch.setattr(office.machine, "choose", defect)
            office.take(plant.signer.sign(SetMembers(3)))
            assert "a defect of the agent (KeyError)" in ended(office)["reason"]
        office.take(plant.signer.sign(SetMembers(3), sequence=2))
        assert ended(office, "c-2")["state"] == "done"
        with monkeypatch.context() as patch:
            patch.setattr(update_module, "decide", defect)
            plant.order(office, sequence=3)
            wait(lambda: asked(office, "c-3"))
            plant.send(office, name="c-3")
            assert "rolled back: a defect" in ended(office, "c-3")["reason"]
    assert "KeyError: 'a defect'" in caplog.text
    assert plant.serves() == 2


def test_an_interrupted_phase_is_not_tried_for_ever(plant, monkeypatch):
    monkeypatch.setattr(update_module, "MAX_STARTS", 2)
    office = plant.office()
    plant.order(office)
    office.close()
    for _ in range(3):
        with plant.office() as office:
            wait(lambda office=office: asked(office) or "failed" in office.states("c-1"))
    assert "fetching was interrupted 2 times" in ended(office)["reason"]


class TestDecide:
    rules = Probation(frames=200, duration_s=600.0, latency_factor=3.0, reject_margin=0.2)
    before = Baseline(rejected=0.1, latency_ms=10.0)

    def what(self, before=None, **seen):
        plain = {"frames": 60, "failed": 0, "rejected": 0.1, "latency_ms": 10.0, "elapsed_s": 5.0}
        return decide(self.rules, before or self.before, Seen(**{**plain, **seen})).what

    def test_what_waits_what_stays_and_what_goes(self):
        assert self.what() == "wait"
        assert self.what(frames=199) == "wait"
        assert self.what(frames=200) == "keep"
        assert self.what(frames=FEWEST, elapsed_s=600.0) == "keep"
        assert self.what(frames=FEWEST - 1, elapsed_s=1e6) == "wait"  # a line that stands still
        assert self.what(frames=1, failed=1) == "drop"
        assert self.what(rejected=0.3) == "wait"
        assert self.what(rejected=0.301) == "drop"
        assert self.what(rejected=1.0, frames=49) == "wait"  # too few to tell
        assert self.what(rejected=1.0, frames=10, elapsed_s=600.0) == "drop"
        assert self.what(latency_ms=30.0) == "wait"
        assert self.what(latency_ms=30.1) == "drop"

    def test_without_a_baseline(self):
        assert self.what(Baseline(), rejected=0.2, latency_ms=1e6) == "wait"
        assert self.what(Baseline(), rejected=0.21) == "drop"
        assert baseline(Seen(9, 0, 0.5, 1.0, 1.0)) == Baseline()
        assert baseline(Seen(10, 0, 0.5, 7.0, 1.0)) == Baseline(0.5, 7.0)

    @given(
        frames=st.integers(0, 10_000),
        failed=st.integers(0, 3),
        rejected=st.floats(0, 1),
        latency_ms=st.floats(0, 1e6),
        elapsed_s=st.floats(0, 1e6),
    )
    def test_a_fault_is_never_kept_and_an_end_never_waits(
        self, frames, failed, rejected, latency_ms, elapsed_s
    ):
        what = self.what(
            frames=frames, failed=failed, rejected=rejected, latency_ms=latency_ms,
            elapsed_s=elapsed_s,
        )  # fmt: skip
        fault = failed or rejected > 0.1 + 0.2 or latency_ms > 30
        assert not (fault and what == "keep")
        assert not (frames >= 200 and what == "wait")
        assert not (what == "drop" and not fault)


class TestStore:
    def test_links_during_and_after_a_probation(self, plant):
        first, second = plant.put(3).directory.name, None
        assert (plant.state / "current").resolve().name == first
        second = plant.put(4, probation=Baseline()).directory.name
        assert (plant.state / "current").resolve().name == second
        assert read_probation(plant.state).fallback == first
        assert len(list((plant.state / "bundles").iterdir())) == 3
        with pytest.raises(UsageError, match="still on probation"):
            plant.put(5, probation=Baseline())
        keep(plant.state, now=NOW, why="well")
        assert (plant.state / "previous").resolve().name == first
        keep(plant.state, now=NOW, why="again")  # nothing to do
        assert fall_back(plant.state, now=NOW, why="late") is None

    def test_starts_are_counted_only_on_probation(self, plant):
        assert count_start(plant.state) is None
        plant.put(3, probation=Baseline())
        assert [count_start(plant.state, n).starts for n in (1, 1, -1, -1, -1, -1)] == [
            2, 3, 2, 1, 0, 0,
        ]  # fmt: skip

    def test_a_bundle_that_cannot_start_is_rolled_back_at_once(self, plant):
        config, told = make_config(plant.state, plant.signer), []

        def ready():
            if plant.serves() == 3:
                raise ModelError("no memory", "buy some")
            return plant.serves()

        assert begin(config, ready, now=NOW, told=told.append) == 2
        plant.put(3, probation=Baseline())
        assert begin(config, ready, now=NOW, told=told.append) == 2
        assert len(told) == 1
        assert "no memory" in told[0]
        plant.put(4)
        plant.put(5)

        def broken():
            raise ModelError("no memory", "buy some")

        with pytest.raises(ModelError):
            begin(config, broken, now=NOW, told=told.append)
        assert plant.serves() == 5  # without a probation nothing is rolled back

    def test_a_damaged_bundle_is_not_fallen_back_to(self, plant):
        plant.put(3, probation=Baseline())
        fallback = plant.state / "bundles" / read_probation(plant.state).fallback
        (fallback / "model.onnx").write_bytes(b"x")
        with pytest.raises(TrustError, match="damaged"):
            fall_back(plant.state, now=NOW, why="no")
        assert plant.serves() == 3

    def test_a_damaged_record_is_named(self, plant):
        plant.put(3, probation=Baseline())
        (plant.state / "probation.json").write_bytes(b"{}")
        with pytest.raises(TrustError, match=r"probation.json is damaged.*remove it to keep"):
            read_probation(plant.state)

    def test_the_history_is_bounded_and_never_in_the_way(self, plant, tmp_path):
        for at in range(MAX_ENTRIES + 5):
            note(tmp_path, Entry(NOW, "line", at, f"{at:064}", "installed"))
        assert [one.sequence for one in read_history(tmp_path)] == [*range(5, MAX_ENTRIES + 5)]
        (tmp_path / HISTORY).write_bytes(b"[{}]")
        assert read_history(tmp_path) == ()
        (plant.state / HISTORY).unlink()
        (plant.state / HISTORY).mkdir()
        assert plant.put(3).manifest.sequence == 3


def test_a_clock_at_1970_does_not_bring_old_commands_back(plant):
    with plant.office() as office:
        office.take(plant.signer.sign(SetMembers(3)))
        ended(office)
    with plant.office(now_s=10.0) as office:
        late = plant.signer.sign(
            SetMembers(4), sequence=2, issued="2026-05-01T00:00:00Z", expires="2026-05-02T00:00:00Z"
        )
        assert office.take(late)["code"] == "expired"
        assert office.take(plant.signer.sign(SetMembers(4), sequence=3))["state"] == "accepted"
        assert ended(office, "c-3")["state"] == "done"
    assert NOW_S > 10
