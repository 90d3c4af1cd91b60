"""Parts of others: mqtt.js listens, sparkplug-payload reads our bytes and writes its own."""

import base64
import json
import time

import pytest

from deepfusion_edge.config import Sparkplug
from deepfusion_edge.sparkplug.node import REBIRTH
from deepfusion_edge.sparkplug.payload import (
    DataType,
    Kind,
    Metric,
    Payload,
    Value,
    decode,
    encode,
    value_of,
)
from tests.edge.mqtt_parts import publisher_for, put_decision, running, wait

TYPES = {
    "Int32": (DataType.INT32, -5),
    "Int64": (DataType.INT64, 2**53 - 1),
    "UInt64": (DataType.UINT64, 2**63),
    "Float": (DataType.FLOAT, 0.5),
    "Double": (DataType.DOUBLE, 0.1),
    "Boolean": (DataType.BOOLEAN, True),
    "String": (DataType.STRING, "Gehäuse"),
}


def listening(node, broker, version):
    process = node("listen.mjs", f"mqtt://127.0.0.1:{broker.port}", version)
    assert json.loads(process.stdout.readline()) == "ready"
    return process


def heard(process, done):
    """Read messages until ``done(all of them)``."""
    found = []
    while not done(found):
        message = json.loads(process.stdout.readline())
        found.append((message["topic"], base64.b64decode(message["body"]), message["retain"]))
    process.kill()
    process.communicate()
    return found


def read(node, bodies):
    with node("decode.mjs") as process:
        out, _ = process.communicate("\n".join(body.hex() for body in bodies), timeout=60)
    assert process.returncode == 0
    return json.loads(out)


@pytest.mark.parametrize(("protocol", "version"), [("3.1.1", "4"), ("5", "5")])
def test_mqtt_js_receives_every_event_in_order(node, broker, outbox, protocol, version):
    process = listening(node, broker, version)
    for frame in range(50):
        put_decision(outbox, frame)
    with running(publisher_for(broker, outbox, protocol=protocol)):
        wait(lambda: not outbox.kept)
    found = heard(process, lambda m: m[-1:] and b'"stopped"' in m[-1][1])
    decisions = [json.loads(body) for topic, body, _ in found if "/decision/" in topic]
    assert [decision["sequence"] for decision in decisions] == list(range(50))
    assert len({decision["id"] for decision in decisions}) == 50


def test_sparkplug_payload_reads_every_type(node):
    metrics = [
        Metric(name, at, 5, datatype, value_of(datatype, content))
        for at, (name, (datatype, content)) in enumerate(TYPES.items(), 1)
    ]
    metrics += [Metric("null", 99, 5, DataType.STRING)]
    body = encode(Payload(1_700_000_000_000, tuple(metrics), 255))
    (found,) = read(node, [body])
    assert (found["timestamp"], found["seq"]) == ("1700000000000", "255")
    for metric, (name, (_, content)) in zip(found["metrics"], TYPES.items(), strict=False):
        assert (metric["name"], metric["type"]) == (name, name)
        expected = str(content) if name.endswith("Int64") else content
        assert metric["value"] == expected
    assert found["metrics"][-1]["value"] is None


def test_we_read_what_sparkplug_payload_writes(node):
    metrics = [
        {"name": REBIRTH, "type": "Boolean", "value": True, "timestamp": 7},
        {"name": "n", "alias": 3, "type": "Int32", "value": -5},
        {"name": "s", "type": "String", "value": "Gehäuse", "isHistorical": True},
    ]
    with node("encode.mjs") as process:
        text = json.dumps({"timestamp": 1234, "seq": 9, "metrics": metrics})
        out, _ = process.communicate(text, timeout=60)
    payload = decode(bytes.fromhex(out))
    assert (payload.timestamp_ms, payload.seq) == (1234, 9)
    rebirth, number, text = payload.metrics
    assert (rebirth.name, rebirth.value, rebirth.timestamp_ms) == (
        REBIRTH,
        Value(Kind.BOOLEAN, content=True),
        7,
    )
    assert (number.alias, number.value) == (3, Value(Kind.INT, 2**32 - 5))
    assert (text.historical, text.value) == (True, Value(Kind.STRING, "Gehäuse"))


def test_a_host_of_others_reads_births_and_data(node, broker, outbox):
    process = listening(node, broker, "5")
    put_decision(outbox, 0)
    publisher = publisher_for(
        broker, outbox, profile="sparkplug", sparkplug=Sparkplug(group_id="plant")
    )
    with running(publisher):
        wait(lambda: not outbox.kept)
        put_decision(outbox, 1)
        wait(lambda: not outbox.kept)
    found = heard(process, lambda m: m[-1:] and "NDEATH" in m[-1][0])
    verbs = [topic.split("/")[2] for topic, _, _ in found]
    assert verbs == ["NBIRTH", "DBIRTH", "DDATA", "DDATA", "NDEATH"]
    birth, device, old, new, death = read(node, [body for _, body, _ in found])
    assert [one["seq"] for one in (birth, device, old, new)] == ["0", "1", "2", "3"]
    names = {m["alias"]: m["name"] for m in (*birth["metrics"], *device["metrics"]) if "alias" in m}
    told = [names[metric["alias"]] for metric in new["metrics"]]
    assert told == [name for name in names.values() if name.startswith("decision/")]
    assert all(metric["isHistorical"] for metric in old["metrics"])
    assert not any(metric.get("isHistorical") for metric in new["metrics"])
    stamps = {int(metric["timestamp"]) for metric in new["metrics"]}
    assert abs(stamps.pop() - 1000 * time.time()) < 60_000
    assert [metric["name"] for metric in death["metrics"]] == ["bdSeq"]
    assert death["metrics"][0]["value"] == birth["metrics"][0]["value"]
