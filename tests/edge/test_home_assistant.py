"""Home Assistant's discovery: what it is told, and that the topics and templates lead somewhere."""

import json

import pytest
from jinja2 import Environment, StrictUndefined
from msgspec.structs import replace

from deepfusion_edge.config import HomeAssistant
from deepfusion_edge.report.home_assistant import discovery
from deepfusion_edge.report.payload import AgentState, SourceState
from tests.edge.mqtt_parts import publisher_for, put_decision, running, wait

STATE = AgentState(
    agent="line-1",
    state="online",
    reason="running",
    counters={"kept": 3},
    sources={"cam": SourceState(state="connected"), "Tür 2": SourceState(state="connected")},
)


def told(prefix="deepfusion/line-1/", state=STATE):
    found = list(discovery(HomeAssistant(), prefix, state))
    assert all(message.retain and message.qos == 1 for message in found)
    return {message.topic: json.loads(message.body) for message in found}


def test_every_sensor_has_an_own_id_and_one_device():
    found = told()
    ids = [body["unique_id"] for body in found.values()]
    assert len(found) == len(set(ids)) == 3 + 2 * 2
    assert len({json.dumps(body["device"]) for body in found.values()}) == 1
    for topic in found:
        parts = topic.split("/")
        assert (parts[0], parts[-1], len(parts)) == ("homeassistant", "config", 5)
        assert parts[1] in {"sensor", "binary_sensor"}
        assert all(c.isascii() and (c.isalnum() or c in "_-") for c in "".join(parts[2:4]))


def test_names_that_spell_alike_do_not_meet():
    sources = {name: SourceState(state="connected") for name in ("a b", "a_b", "a.b")}
    assert len(told(state=replace(STATE, sources=sources))) == 3 + 2 * 3
    first, second = told("deepfusion/line/1/"), told("deepfusion/line_1/")
    assert not set(first) & set(second)


@pytest.mark.parametrize("protocol", ["3.1.1", "5"])
def test_the_topics_and_templates_give_values(broker, listen, outbox, protocol):
    listener = listen(broker)
    state = STATE
    put_decision(outbox, 0)
    publisher = publisher_for(
        broker,
        outbox,
        describe=lambda: state,
        home_assistant=HomeAssistant(),
        protocol=protocol,
        state_interval_s=0.2,
    )
    with running(publisher):
        wait(lambda: not outbox.kept)
        listener.wait(lambda: listener.bodies("line-1/state"))
        announced = len(listener.bodies("/config"))
        state = replace(STATE, sources={**STATE.sources, "new": SourceState(state="connected")})
        listener.wait(lambda: len(listener.bodies("/config")) == 2 * announced + 2)
    listener.wait(lambda: json.loads(listener.bodies("line-1/state")[-1])["state"] == "offline")
    said = {topic: json.loads(body) for topic, body, _ in listener.messages}
    values = {}
    templates = Environment(undefined=StrictUndefined, autoescape=False)  # noqa: S701 - no HTML
    for topic, body in said.items():
        if not topic.startswith("homeassistant/") or body["state_topic"] not in said:
            continue
        value = {"value_json": said[body["state_topic"]]}
        values[body["name"]] = templates.from_string(body["value_template"]).render(value)
        if "availability_topic" in body:
            value = {"value_json": said[body["availability_topic"]]}
            shown = templates.from_string(body["availability_template"]).render(value)
            assert shown == body["payload_not_available"]  # it was stopped
    assert values == {
        "Online": "offline",
        "Outbox": "None",
        "State": "stopped",
        "cam verdict": "accept",
        "cam disagreement": "0.02",
    }
    retained = listen(broker, topic="homeassistant/#")
    retained.wait(lambda: len(retained.messages) == announced + 2)
    assert all(flag for _, _, flag in retained.messages)


def test_without_being_asked_nothing_is_announced(broker, listen, outbox):
    listener = listen(broker)
    with running(publisher_for(broker, outbox, describe=lambda: STATE)):
        listener.wait(lambda: listener.bodies("/state"))
    assert not [topic for topic, _, _ in listener.messages if "homeassistant" in topic]
