"""What goes over a connection: messages out, subscriptions and what they bring in. Pure."""

from collections.abc import Callable
from typing import NamedTuple

MAX_INCOMING_BYTES = 2**20


class Message(NamedTuple):
    """One message to publish; also a Last Will."""

    topic: str
    body: bytes
    qos: int = 1
    retain: bool = False


class Incoming(NamedTuple):
    """One message that a subscription brought.

    Attributes:
        retained: the broker kept it from an earlier time: it is no news, and no command.
    """

    topic: str
    payload: bytes
    retained: bool
    qos: int


class Subscription(NamedTuple):
    """What to listen to.

    Attributes:
        topic: filter, wildcards allowed.
        qos: the highest to receive with.
        take: called in the publisher's thread, so it must not block; what it raises is logged.
        max_bytes: larger payloads never reach ``take``.
    """

    topic: str
    qos: int
    take: Callable[[Incoming], None]
    max_bytes: int = MAX_INCOMING_BYTES
