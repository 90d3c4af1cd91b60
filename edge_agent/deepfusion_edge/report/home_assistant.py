"""Home Assistant finds the agent by retained configuration topics. Pure.

Source: https://www.home-assistant.io/integrations/mqtt/#mqtt-discovery
"""

import re
from collections.abc import Iterator
from hashlib import sha256

import msgspec

from deepfusion_edge import __version__
from deepfusion_edge.config import HomeAssistant
from deepfusion_edge.report.messages import Message
from deepfusion_edge.report.payload import AgentState

_ID = re.compile("[^a-zA-Z0-9_-]")


def discovery(config: HomeAssistant, prefix: str, state: AgentState) -> Iterator[Message]:
    """Announce the agent's state, its outbox, and verdict and disagreement of every source.

    Args:
        config: the prefix that Home Assistant listens to.
        prefix: of the agent's topics, with the slash at the end.
        state: for the agent's name and its sources.
    """
    node = _identifier(f"{prefix}")
    device = {
        "identifiers": [node],
        "name": state.agent,
        "manufacturer": "deepfusion",
        "model": "edge agent",
        "sw_version": __version__,
    }
    shared = {
        "device": device,
        "availability_topic": prefix + "state",
        "availability_template": "{{ value_json.state }}",
        "payload_available": "online",
        "payload_not_available": "offline",
    }

    def sensor(kind: str, key: str, **fields: object) -> Message:
        body = {"unique_id": f"{node}_{key}", "object_id": f"{node}_{key}", **shared, **fields}
        return Message(
            f"{config.discovery_prefix}/{kind}/{node}/{key}/config",
            msgspec.json.encode(body),
            retain=True,
        )

    # Without availability: a sensor that is not available could never say offline.
    online = sensor(
        "binary_sensor",
        "online",
        name="Online",
        device_class="connectivity",
        state_topic=prefix + "state",
        value_template="{{ value_json.state }}",
        payload_on="online",
        payload_off="offline",
    )
    body = msgspec.json.decode(online.body)
    for field in shared.keys() - {"device"}:
        del body[field]
    yield online._replace(body=msgspec.json.encode(body))
    yield sensor(
        "sensor",
        "outbox",
        name="Outbox",
        state_topic=prefix + "state",
        value_template="{{ value_json.counters.kept if value_json.counters else none }}",
        unit_of_measurement="events",
        state_class="measurement",
        entity_category="diagnostic",
    )
    yield sensor(
        "sensor",
        "reason",
        name="State",
        state_topic=prefix + "state",
        value_template="{{ value_json.reason }}",
        entity_category="diagnostic",
    )
    for source in state.sources or ():
        key, topic = _identifier(source), f"{prefix}decision/{source}"
        yield sensor(
            "sensor",
            f"{key}_verdict",
            name=f"{source} verdict",
            state_topic=topic,
            value_template="{{ value_json.state }}",
            json_attributes_topic=topic,
        )
        yield sensor(
            "sensor",
            f"{key}_disagreement",
            name=f"{source} disagreement",
            state_topic=topic,
            value_template="{{ value_json.disagreement }}",
            unit_of_measurement="nat",
            state_class="measurement",
        )


def _identifier(name: str) -> str:
    """Spell a name with what Home Assistant allows; another name never gets the same spelling."""
    plain = _ID.sub("_", name.strip("/"))
    return plain if plain == name else f"{plain}_{sha256(name.encode()).hexdigest()[:8]}"
