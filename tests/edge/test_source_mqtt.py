"""Images from a topic: what is refused, what makes room, and the whole way through mosquitto."""

import io
import json
import threading

import msgspec
import numpy as np
import pytest
from PIL import Image

from deepfusion_edge.agent import run_agent
from deepfusion_edge.bundle.manifest import parse_manifest
from deepfusion_edge.config import AgentConfig, Mqtt, MqttSource, Run
from deepfusion_edge.feed import Feed, Prepared
from deepfusion_edge.fusion import Outputs
from deepfusion_edge.line import Line
from deepfusion_edge.report.messages import Incoming
from deepfusion_edge.report.payload import Decision
from deepfusion_edge.runtime.base import Session
from deepfusion_edge.source import open_source


def png(size=(8, 8), kind="PNG"):
    buffer = io.BytesIO()
    Image.new("RGB", size, (255, 0, 0)).save(buffer, kind)
    return buffer.getvalue()


def source(**options):
    return open_source(MqttSource(name="cam", topic="line/camera", **options))


def bring(source, *payloads, retained=False):
    for payload in payloads:
        source.take(Incoming("line/camera", payload, retained, 1))


@pytest.fixture
def images():
    made = source(queue=3)
    yield made
    made.close()


def waiting(images):
    found = []
    for frame in images:
        if frame is None:
            return found
        found.append(frame)
    return found


def test_images_come_in_order_with_names_of_their_own(images):
    assert images.state.state == "connecting"
    bring(images, png(), png(kind="JPEG"))
    frames = waiting(images)
    assert [(f.source, f.name, f.sequence) for f in frames] == [
        ("cam", "00000000", 0),
        ("cam", "00000001", 1),
    ]
    assert frames[0].content == png()
    assert images.state.state == "connected"


def test_the_oldest_makes_room_and_is_counted(images):
    bring(images, *[png()] * 10)
    assert [frame.sequence for frame in waiting(images)] == [7, 8, 9]
    assert images.state.dropped == 7


def test_what_is_no_image_is_refused_before_it_waits():
    images = source(max_pixels=100)
    bring(images, b"", b"no image", png()[:20], png((11, 10)))
    bring(images, png(), retained=True)
    assert waiting(images) == []
    assert (images.state.refused, images.state.dropped) == (5, 0)
    assert "retained" in images.state.reason
    bring(images, png((10, 10)))
    assert len(waiting(images)) == 1
    images.close()


def test_retained_images_are_taken_where_the_user_says_so():
    images = source(retained="take")
    bring(images, png(), retained=True)
    assert len(waiting(images)) == 1
    images.close()


def test_after_the_end_nothing_is_taken_and_what_waited_is_counted(images):
    bring(images, png(), png())
    images.close()
    images.close()
    bring(images, png())
    assert images.state.dropped == 2
    assert images.state.state == "ended"
    assert waiting(images) == []


def test_the_feeder_wakes_at_once(images):
    feed = Feed([images], lambda frame: Prepared(frame, frame.content, 0.0))
    finish = threading.Event()
    feeder = threading.Thread(target=feed.run, args=(finish,))
    feeder.start()
    try:
        for n in range(50):
            bring(images, png())
            prepared = feed.take(10.0)
            assert prepared is not None
            assert prepared.frame.sequence == n
    finally:
        finish.set()
        feeder.join(10)
    assert not feeder.is_alive()


class Certain(Session):
    provider = "FakeProvider"

    def run(self, image, factors):
        fused = np.array([1.0, 0.0, 0.0], np.float32)
        return Outputs(fused, np.tile(fused, (len(factors), 1)), float(image[0, 2].mean()))


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_from_a_topic_to_a_verdict(broker, listen, make_bundle, tmp_path, protocol):
    state = tmp_path / "state"
    state.mkdir()
    manifest = parse_manifest((make_bundle(tmp_path / "made") / "manifest.json").read_bytes())
    config = AgentConfig(
        state_dir=str(state),
        sources=(MqttSource(name="cam", topic="line/camera", max_bytes=2000),),
        mqtt=Mqtt(port=broker.port, client_id="line-1", protocol=protocol, state_interval_s=0.2),
        run=Run(drain_timeout_s=10),
    )
    listener = listen(broker)
    listener.publish("line/camera", png(), qos=1, retain=True)
    stop, summaries = threading.Event(), []
    agent = threading.Thread(
        target=lambda: summaries.append(
            run_agent(config, stop=stop, load=lambda _: Line(manifest, "ab" * 32, Certain()))
        )
    )
    agent.start()
    try:
        listener.wait(lambda: listener.bodies("/state"), 30)
        for payload in (png(), b"no image", bytes(3000), png(kind="JPEG")):
            listener.publish("line/camera", payload, qos=1)
        listener.wait(lambda: len(listener.bodies("decision/cam")) == 2, 30)
        listener.wait(
            lambda: json.loads(listener.bodies("/state")[-1])["sources"]["cam"]["taken"] == 2, 30
        )
    finally:
        stop.set()
        agent.join(30)
    said = json.loads(listener.bodies("/state")[-2])["sources"]["cam"]
    assert (said["state"], said["refused"]) == ("connected", 2)  # retained, and no image
    decisions = [msgspec.json.decode(b, type=Decision) for b in listener.bodies("decision/cam")]
    assert [(d.sequence, d.state) for d in decisions] == [(0, "accept"), (1, "accept")]
    assert summaries[0].frames == 2
