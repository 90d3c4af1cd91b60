"""What one Sparkplug edge node said, taken apart: sessions, messages, payloads."""

import json
from dataclasses import dataclass, field

from deepfusion_edge.sparkplug.payload import decode
from deepfusion_edge.sparkplug.wire import WireError
from tests.edge.mqtt_tap import Connect, Delivered, Publish

VERBS = ("NBIRTH", "NDATA", "NDEATH", "DBIRTH", "DDATA", "DDEATH")


@dataclass
class Said:
    """A message of the node."""

    topic: str
    verb: str
    device: str | None
    payload: object
    qos: int
    retain: bool


@dataclass
class Session:
    """From one CONNECT to the next."""

    connect: Connect
    steps: list = field(default_factory=list)

    @property
    def said(self):
        return [step for step in self.steps if isinstance(step, Said)]

    def of(self, *verbs):
        return [said for said in self.said if said.verb in verbs]


class Recording:
    """What was said, in sessions; who the node is, and whom it waits for."""

    def __init__(self, steps, group, node, host=None):
        self.group, self.node, self.host = group, node, host
        self.sessions = []
        for step in steps:
            if isinstance(step, Connect):
                self.sessions.append(Session(step))
            else:
                made = said_from(step) if isinstance(step, Publish) else step
                self.sessions[-1].steps.append(made)

    def all(self, *verbs):
        return [said for session in self.sessions for said in session.of(*verbs)]

    def topic(self, verb, device=None):
        return f"spBv1.0/{self.group}/{verb}/{self.node}" + (f"/{device}" if device else "")


def said_from(step):
    levels = step.topic.split("/")
    verb = levels[2] if len(levels) > 2 else ""
    try:
        payload = decode(step.body)
    except WireError as error:
        payload = error
    device = levels[4] if len(levels) > 4 else None
    return Said(step.topic, verb, device, payload, step.qos, step.retain)


def metric(said, name):
    return next((m for m in said.payload.metrics if m.name == name), None)


def will(session):
    return None if session.connect.will is None else said_from(session.connect.will)


def host_state(recording, step):
    if isinstance(step, Delivered) and step.topic == f"spBv1.0/STATE/{recording.host}":
        return json.loads(step.body)
    return None
