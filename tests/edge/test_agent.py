"""The loop with a fake session, and with a toy bundle in ONNX Runtime."""

import io
import threading
import time

import msgspec
import numpy as np
import pytest
from msgspec import UNSET
from msgspec.structs import replace
from PIL import Image

from deepfusion_edge import agent as agent_module
from deepfusion_edge.agent import run_agent
from deepfusion_edge.bundle.manifest import Manifest, parse_manifest
from deepfusion_edge.bundle.store import install
from deepfusion_edge.config import AgentConfig, FolderSource, Model, Mqtt, Run
from deepfusion_edge.erosion import sample
from deepfusion_edge.errors import InputError, ModelError, TrustError, UnreachableError
from deepfusion_edge.fusion import Outputs, Threshold, Thresholds
from deepfusion_edge.line import Line
from deepfusion_edge.observer import Observer
from deepfusion_edge.outbox import DATABASE, Outbox
from deepfusion_edge.report.payload import Alert, Decision
from deepfusion_edge.runtime.base import Session
from deepfusion_edge.source.base import Source

NOW = "2026-06-01T00:00:00Z"


def png(colour=(255, 0, 0)):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(buffer, "PNG")
    return buffer.getvalue()


class FakeSession(Session):
    """Certain of class 0; feature variance is the image's mean blue; remembers its factors."""

    provider = "FakeProvider"

    def __init__(self):
        self.factors = []

    def run(self, image, factors):
        self.factors.append(factors)
        blue = float(image[0, 2].mean())
        if float(image[0, 1].mean()) > 0.9:
            blue = float("nan")
        fused = np.array([1.0, 0.0, 0.0], np.float32)
        return Outputs(fused, np.tile(fused, (len(factors), 1)), blue)


@pytest.fixture
def manifest(make_bundle, tmp_path) -> Manifest:
    never = Threshold(suspect=None, reject=None)
    limits = Thresholds(
        feature_variance=Threshold(suspect=0.4, reject=0.8),
        disagreement=never,
        false_positive_rate=0.01,
        calibration_images=100,
    )
    bundle = make_bundle(tmp_path / "made", thresholds=limits)
    return parse_manifest((bundle / "manifest.json").read_bytes())


@pytest.fixture
def frames(tmp_path):
    folder = tmp_path / "frames"
    folder.mkdir()
    return folder


@pytest.fixture
def make_config(tmp_path, frames):
    state = tmp_path / "state"
    state.mkdir()

    def make(port=1, *, seed=None, members=None, mode="replay", drain_timeout_s=0.0):
        source = FolderSource(name="cam", path=str(frames), mode=mode, poll_interval_s=0.05)
        return AgentConfig(
            state_dir=str(state),
            sources=(source,),
            mqtt=Mqtt(port=port, client_id="line-1"),
            model=Model(seed=seed, members=members),
            run=Run(drain_timeout_s=drain_timeout_s),
        )

    return make


def events(config):
    with Outbox(_state(config), max_events=10**6, max_bytes=2**30, ttl_s=None) as box:
        kept = box.peek(10**6)
    return [
        msgspec.json.decode(e.body, type=Alert if e.channel == "alert" else Decision) for e in kept
    ]


def _state(config):
    return agent_module.Path(config.state_dir)


def run_offline(config, manifest, session=None):
    """Run without a broker and return what the outbox keeps."""
    session = session or FakeSession()
    with pytest.raises(UnreachableError) as caught:
        run_agent(config, stop=threading.Event(), load=lambda _: Line(manifest, "ab" * 32, session))
    kept = events(config)
    assert f"{len(kept)} events are kept" in caught.value.what
    assert "127.0.0.1:1" in caught.value.what
    assert "next run" in caught.value.remedy
    return kept


def test_accept_suspect_and_reject(make_config, manifest, frames):
    for name, blue in (("a", 0), ("b", 128), ("c", 255)):
        (frames / f"{name}.png").write_bytes(png((0, 0, blue)))
    first, second, alert_2, third, alert_3 = run_offline(make_config(), manifest)
    assert [d.state for d in (first, second, third)] == ["accept", "suspect", "reject"]
    assert [d.frame for d in (first, second, third)] == ["a.png", "b.png", "c.png"]
    assert [d.sequence for d in (first, second, third)] == [0, 1, 2]
    assert [(a.kind, a.decision) for a in (alert_2, alert_3)] == [
        ("suspect", second.id),
        ("reject", third.id),
    ]
    assert (first.class_name, first.bundle, first.bundle_sequence) == ("red", "ab" * 32, 1)
    assert len({e.id for e in (first, second, alert_2, third, alert_3)}) == 5


def test_a_corrupt_image_between_good_ones_is_an_alert(make_config, manifest, frames):
    (frames / "a.png").write_bytes(png())
    (frames / "b.png").write_bytes(png()[:45])
    (frames / "c.png").write_bytes(b"no image")
    (frames / "d.png").write_bytes(png())
    first, alert, second, another = run_offline(make_config(), manifest)
    assert [(a.kind, a.frame) for a in (alert, another)] == [
        ("unreadable", "b.png"),
        ("unreadable", "c.png"),
    ]
    assert [d.frame for d in (first, second)] == ["a.png", "d.png"]


@pytest.mark.parametrize(
    ("content", "kind"),
    [(b"no image", "unreadable"), (png((0, 255, 0)), "model")],
    ids=["unreadable", "model"],
)
def test_a_source_that_keeps_failing_does_not_fill_the_outbox(
    make_config, manifest, frames, content, kind
):
    for n in range(40):
        (frames / f"{n:02d}.png").write_bytes(content)
    (frames / "z.png").write_bytes(png((0, 0, 255)))
    first, decision, reject, rest = run_offline(make_config(), manifest)
    assert (first.kind, first.frame, first.suppressed) == (kind, "00.png", UNSET)
    assert (decision.state, reject.kind) == ("reject", "reject")  # of a verdict: never left out
    assert (rest.kind, rest.frame, rest.suppressed) == (kind, "39.png", 38)
    assert first.time <= rest.since <= rest.time


def test_a_frame_without_finite_scores_is_rejected_not_accepted(make_config, manifest, frames):
    (frames / "a.png").write_bytes(png((0, 255, 0)))
    (frames / "b.png").write_bytes(png())
    alert, decision = run_offline(make_config(), manifest)
    assert (alert.kind, alert.frame) == ("model", "a.png")
    assert decision.frame == "b.png"


@pytest.mark.parametrize("seed", [None, 7])
@pytest.mark.parametrize("members", [None, 2])
def test_the_published_record_replays_the_factors(make_config, manifest, frames, seed, members):
    for n in range(4):
        (frames / f"{n}.png").write_bytes(png())
    session = FakeSession()
    kept = run_offline(make_config(seed=seed, members=members), manifest, session)
    used = session.factors[1:]  # the first is the warm-up
    assert len(used) == 4
    for record, factors in zip(kept, used, strict=True):
        again = sample(
            manifest.erosion.sites, seed=record.seed, stream=record.stream, members=record.members
        )
        assert np.array_equal(again, factors)
        assert record.members == (members or manifest.erosion.members)
    assert len({(r.seed, r.stream) for r in kept}) == 4


def test_members_of_all_bases_are_counted_and_rows_replayed(make_config, manifest, frames):
    (frames / "a.png").write_bytes(png())
    two = replace(manifest, erosion=replace(manifest.erosion, bases=2))

    class TwoBases(FakeSession):
        def run(self, image, factors):
            outputs = super().run(image, factors)
            return outputs._replace(members=np.tile(outputs.members, (2, 1)))

    session = TwoBases()
    (record,) = run_offline(make_config(members=3), two, session)
    assert record.members == 6
    again = sample(
        two.erosion.sites, seed=record.seed, stream=record.stream, members=record.members // 2
    )
    assert np.array_equal(again, session.factors[1])
    with pytest.raises(ModelError, match=r"members \(3, 3\) for 3 classes and 6 members"):
        run_offline(make_config(members=3), two)


def test_without_a_seed_each_frame_has_its_own_and_runs_differ(make_config, manifest, frames):
    for n in range(3):
        (frames / f"{n}.png").write_bytes(png())
    kept = run_offline(make_config(), manifest) and run_offline(make_config(), manifest)
    assert len(kept) == 6
    assert len({r.seed for r in kept}) == 6
    assert {r.stream for r in kept} == {0}


def test_with_a_seed_runs_repeat(make_config, manifest, frames):
    (frames / "a.png").write_bytes(png())
    run_offline(make_config(seed=3), manifest)
    first, second = run_offline(make_config(seed=3), manifest)
    assert (first.seed, first.stream) == (second.seed, second.stream)
    assert first.seed == 3


def test_kept_events_go_out_with_the_next_run(make_config, make_broker, manifest, frames):
    (frames / "a.png").write_bytes(png())
    assert len(run_offline(make_config(), manifest)) == 1
    broker = make_broker()
    config = make_config(broker.port, drain_timeout_s=10)
    summary = run_agent(
        config, stop=threading.Event(), load=lambda _: Line(manifest, "ab" * 32, FakeSession())
    )
    assert (summary.frames, summary.accepted, summary.sent, summary.kept) == (1, 1, 2, 0)
    assert summary.latency_ms_p50 is not None
    assert events(config) == []


def test_a_real_bundle_in_onnx_runtime(make_config, make_bundle, keys, tmp_path, frames, broker):
    install(make_bundle(tmp_path / "line.dfb"), tmp_path / "state", [keys.public], now=NOW)
    (frames / "a.png").write_bytes(png((0, 255, 0)))
    summary = run_agent(make_config(broker.port, drain_timeout_s=10), stop=threading.Event())
    assert (summary.frames, summary.sent, summary.kept) == (1, 1, 0)


def test_nothing_installed(make_config, frames):
    (frames / "a.png").write_bytes(png())
    config = make_config()
    with pytest.raises(InputError, match="no bundle installed"):
        run_agent(config, stop=threading.Event())
    (alert,) = events(config)
    assert alert.kind == "bundle"


def test_a_bundle_that_cannot_be_used_is_an_alert_and_an_error(make_config, frames):
    (frames / "a.png").write_bytes(png())

    def load(_):
        raise TrustError("signature is wrong", "install another")

    config = make_config()
    with pytest.raises(TrustError):
        run_agent(config, stop=threading.Event(), load=load)
    (alert,) = events(config)
    assert (alert.kind, alert.reason) == ("bundle", "signature is wrong; install another")


def test_a_graph_of_another_size_does_not_start(make_config, make_bundle, tmp_path, frames):
    (frames / "a.png").write_bytes(png())
    bundle = make_bundle(tmp_path / "two", classes=("red", "green"))
    two = parse_manifest((bundle / "manifest.json").read_bytes())
    with pytest.raises(ModelError, match="2 classes"):
        run_agent(
            make_config(), stop=threading.Event(), load=lambda _: Line(two, "a", FakeSession())
        )


def test_a_corrupt_outbox_is_reported(make_config, manifest, frames):
    (frames / "a.png").write_bytes(png())
    config = make_config()
    (_state(config) / DATABASE).write_bytes(b"garbage" * 1000)
    alert, decision = run_offline(config, manifest)
    assert (alert.kind, decision.frame) == ("outbox", "a.png")


def test_a_watching_agent_goes_on_until_it_is_stopped(make_config, manifest, frames, broker):
    stop = threading.Event()
    config = make_config(broker.port, mode="watch", drain_timeout_s=10)

    def feed():
        for n in range(3):
            (frames / f"{n}.part").write_bytes(png())
            (frames / f"{n}.part").rename(frames / f"{n}.png")
            time.sleep(0.2)
        time.sleep(0.3)
        stop.set()

    feeder = threading.Thread(target=feed)
    feeder.start()
    line = Line(manifest, "ab" * 32, FakeSession())
    summary = run_agent(config, stop=stop, load=lambda _: line)
    feeder.join()
    assert (summary.frames, summary.sent, summary.kept) == (3, 3, 0)


def test_a_publisher_that_breaks_ends_the_run(make_config, manifest, frames, monkeypatch):
    (frames / "a.png").write_bytes(png())

    def broken(*_, **__):
        raise RuntimeError("broken")

    monkeypatch.setattr(agent_module.Publisher, "run", broken)
    with pytest.raises(RuntimeError, match="broken"):
        run_agent(
            make_config(mode="watch"),
            stop=threading.Event(),
            load=lambda _: Line(manifest, "a", FakeSession()),
        )


def test_sources_take_turns(make_config, manifest, frames, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    for folder in (frames, other):
        for n in range(2):
            (folder / f"{n}.png").write_bytes(png())
    config = make_config()
    second = FolderSource(name="two", path=str(other))
    config = msgspec.structs.replace(config, sources=(*config.sources, second))
    kept = run_offline(config, manifest)
    assert [(d.source, d.sequence) for d in kept] == [
        ("cam", 0),
        ("two", 0),
        ("cam", 1),
        ("two", 1),
    ]


class Flapping(Source):
    """Lost and tried again three times, then there, then gone for good."""

    STEPS = ("connecting", "lost", "reconnecting", "lost", "reconnecting", "connected", "ended")

    def __init__(self, section):
        super().__init__(section.name, poll_interval_s=0.02)
        self.reason = "no frame for 5 s"

    def __iter__(self):
        for step in self.STEPS:
            self.connection = step
            yield None


def test_a_lost_source_is_said_once_and_its_return_once(make_config, manifest, frames, monkeypatch):
    (frames / "a.png").write_bytes(png())
    monkeypatch.setattr(agent_module, "open_source", Flapping)
    lost, back = run_offline(make_config(), manifest)
    assert (lost.kind, lost.reason) == ("source", "cam is lost: no frame for 5 s")
    assert (back.kind, back.reason) == ("source", "cam is connected again")


def test_observers_hear_of_sources_alerts_frames_and_the_state(
    make_config, manifest, frames, broker
):
    heard = []

    class Ear(Observer):
        def judged(self, judged):
            heard.append(("judged", judged.frame.name))

        def source(self, name, state):
            heard.append((name, state.state))

        def alert(self, alert):
            heard.append(("alert", alert.kind))

        def state(self, state):
            heard.append(("state", state.state))

    (frames / "a.png").write_bytes(png())
    (frames / "b.png").write_bytes(b"no image")
    run_agent(
        make_config(broker.port, drain_timeout_s=10),
        stop=threading.Event(),
        load=lambda _: Line(manifest, "ab" * 32, FakeSession()),
        observers=[Ear()],
    )
    assert [what for what in heard if what[0] == "judged"] == [
        ("judged", "a.png"),
        ("judged", "b.png"),
    ]
    assert ("alert", "unreadable") in heard
    assert ("cam", "ended") in heard
    assert ("state", "online") in heard


def test_frames_that_were_taken_are_judged_when_the_run_is_stopped(make_config, manifest, frames):
    for n in range(3):
        (frames / f"{n}.png").write_bytes(png())
    stop = threading.Event()

    class Stopping(FakeSession):
        def run(self, image, factors):
            if len(self.factors) == 1:  # the first frame; the second one is held ready by then
                time.sleep(0.5)
                stop.set()
            return super().run(image, factors)

    config = make_config()
    summary = run_agent(config, stop=stop, load=lambda _: Line(manifest, "a", Stopping()))
    assert (summary.frames, summary.kept) == (2, 2)
    assert [decision.frame for decision in events(config)] == ["0.png", "1.png"]
