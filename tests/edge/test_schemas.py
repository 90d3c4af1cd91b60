"""The JSON schemas that the package ships: what our structs give, and what ajv says of our JSON."""

import importlib
import inspect
import json
from pathlib import Path

import msgspec
import pytest

import deepfusion_edge.report
from deepfusion_edge.commands.status import CommandStatus
from deepfusion_edge.erosion import MAX_SEED
from deepfusion_edge.report.device import Clock, Device, Zone
from deepfusion_edge.report.payload import (
    AgentState,
    BundleRef,
    Decision,
    SourceState,
    Subject,
    alert,
    encode,
    rfc3339,
)

FOLDER = Path(deepfusion_edge.report.__file__).parent / "schema"
STRUCTS = {
    "decision": ("deepfusion_edge.report.payload", "Decision"),
    "alert": ("deepfusion_edge.report.payload", "Alert"),
    "state": ("deepfusion_edge.report.payload", "AgentState"),
    "command-status": ("deepfusion_edge.commands.status", "CommandStatus"),
}


def strict(node):
    """Everything is always said: a field with a default is required too."""
    if isinstance(node, dict):
        # A field without a default that is not required is left out where it has nothing to say.
        said = {n for n, value in node.get("properties", {}).items() if "default" in value}
        node = {key: strict(value) for key, value in node.items() if key != "default"}
        if "properties" in node:
            node["required"] = sorted(said | set(node.get("required", ())))
        if "description" in node:  # Python 3.13 takes the indentation out by itself
            node["description"] = inspect.cleandoc(node["description"])
        return node
    return [strict(item) for item in node] if isinstance(node, list) else node


def generate(name):
    module, struct = STRUCTS[name]
    schema = strict(msgspec.json.schema(getattr(importlib.import_module(module), struct)))
    head = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:deepfusion:{name}:1",
    }
    return json.dumps(head | schema, indent=2, ensure_ascii=False) + "\n"


@pytest.mark.parametrize("name", STRUCTS)
def test_the_shipped_schema_is_what_the_struct_gives(name, request):
    """``pytest --update-goldens`` writes them; a change that breaks readers is schema 2."""
    path = FOLDER / f"{name}.v1.json"
    if request.config.getoption("--update-goldens"):
        path.write_text(generate(name))
    assert path.read_text() == generate(name)


def test_no_schema_is_left_over():
    assert {path.name for path in FOLDER.iterdir()} == {f"{name}.v1.json" for name in STRUCTS}


DECISION = Decision(
    id="line-1-ab-1",
    agent="line-1",
    source="cam",
    frame="1.png",
    sequence=0,
    time=rfc3339(1.25),
    bundle="ab" * 32,
    bundle_sequence=3,
    label=0,
    class_name="ok",
    confidence=1.0,
    state="accept",
    feature_variance=0.0,
    disagreement=0.0,
    members=1,
    seed=MAX_SEED,
    stream=0,
    latency_ms=0.0,
)
ALERT = alert("a", agent="line-1", kind="outbox", reason="x", time_s=0.0)
SUMMED_UP = alert(
    "a",
    agent="line-1",
    kind="unreadable",
    reason="x",
    time_s=1.0,
    subject=Subject("cam", "1.png", 0, 1.0),
    suppressed=3,
    since=rfc3339(0.0),
)
STATE = AgentState(agent="line-1", state="offline", reason="connection lost")
FULL_STATE = AgentState(
    agent="line-1",
    state="online",
    reason="running",
    time=rfc3339(0),
    bundle=BundleRef("line", "ab" * 32, 1),
    provider="CPUExecutionProvider",
    counters={"kept": 1, "oldest_age_s": 0.5},
    sources={"cam": SourceState(state="connected")},
    device=Device(
        zones=(Zone("gpu-thermal", 50.0, 97.0),),
        clocks=(Clock("cpu0", 1500.0, None, 0.5),),
        power_mode="MAXN",
        throttled=("hot",),
    ),
)
STATUS = CommandStatus(
    id="line-1-ab-2",
    agent="line-1",
    time=rfc3339(0),
    command="c-1",
    digest="ab" * 32,
    action="snapshot",
    key="cd" * 32,
    state="done",
    result={"file": "a.png"},
    missing=(1, 2),
)
GOOD = {
    "decision": [DECISION],
    "alert": [SUMMED_UP, ALERT],
    "state": [STATE, FULL_STATE],
    "command-status": [STATUS],
}


def validate(node, name, values):
    schema = json.loads((FOLDER / f"{name}.v1.json").read_text())
    with node("validate.mjs") as process:
        out, _ = process.communicate(json.dumps({"schema": schema, "values": values}), timeout=60)
    assert process.returncode == 0
    return json.loads(out)


@pytest.mark.parametrize("name", GOOD)
def test_ajv_takes_what_we_send(node, name):
    values = [json.loads(encode(event)) for event in GOOD[name]]
    assert validate(node, name, values) == [None] * len(values)


@pytest.mark.parametrize("name", GOOD)
def test_ajv_refuses_what_we_do_not_send(node, name):
    good = json.loads(encode(GOOD[name][-1]))
    bad = [{key: value for key, value in good.items() if key != left} for left in good]
    bad += [good | {"schema": 2}, good | {"time": 0}, good | {"agent": None}, [], None]
    if name == "decision":
        bad += [
            good | {"time": "today"},
            good | {"state": "maybe"},
            good | {"label": -1},
            good | {"bundle": "AB"},
        ]
    if name == "alert":
        bad += [good | {"suppressed": 0}, good | {"suppressed": None}, good | {"since": "today"}]
    assert all(validate(node, name, bad))


def test_every_schema_is_tried():
    assert set(GOOD) == set(STRUCTS)
