"""docs/mqtt.md: its examples are messages, its configurations are read, its list is true."""

import json
import re
from pathlib import Path

import msgspec
import pytest

from deepfusion_edge.config import Mqtt, parse_config
from deepfusion_edge.report.payload import AgentState, Alert, Decision
from tests.edge.sparkplug_checker import CHECKS

TEXT = (Path(__file__).parents[2] / "docs" / "mqtt.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


@pytest.mark.parametrize(
    ("example", "struct"),
    list(zip(blocks("json"), (Decision, Alert, Alert, AgentState), strict=True)),
)
def test_the_examples_are_what_the_agent_says(example, struct):
    event = msgspec.json.decode(example, type=struct)
    assert msgspec.to_builtins(event) == json.loads(example)


@pytest.mark.parametrize("example", blocks("toml"))
def test_the_configurations_are_read(example):
    whole = 'state_dir = "state"\nsources = [{kind = "folder", name = "a", path = "b"}]\n' + example
    config = parse_config(whole.encode(), Path("folder"), form="toml")
    assert config.mqtt != Mqtt()


def test_the_assertions_are_those_that_are_checked():
    listed = TEXT.split("(`tck-id-...`):")[1].split("Not checked:")[0]
    assert set(re.findall(r"`([^`]+)`", listed)) == set(CHECKS)
