"""Which message says what: the ``json`` profile. Pure.

Topics, below ``<base_topic>/<client_id>/``: ``state`` (retained, also the Last Will),
``decision/<source>`` and ``alert``.
"""

from collections.abc import Callable

from deepfusion_edge.config import Mqtt
from deepfusion_edge.report.messages import Message
from deepfusion_edge.report.payload import AgentState, encode


class JsonProfile:
    """Events as they are, confirmed one by one; the retained state says online or offline."""

    def __init__(self, config: Mqtt, describe: Callable[[], AgentState]) -> None:
        """Publish as ``config.client_id``; ``describe`` gives the state while online."""
        self._agent, self._describe = config.client_id, describe
        self.prefix = f"{config.base_topic}/{config.client_id}/"

    def will(self) -> Message:
        """What the broker says when the connection is lost."""
        return self._offline("connection lost")

    def state(self) -> Message:
        """What is said after every connecting, and again from time to time."""
        return Message(self.prefix + "state", encode(self._describe()), retain=True)

    def event(self, channel: str, body: bytes) -> Message:
        """Spell an event of the outbox."""
        return Message(self.prefix + channel, body)

    def goodbye(self) -> Message:
        """What is said before an orderly end."""
        return self._offline("stopped")

    def _offline(self, reason: str) -> Message:
        state = AgentState(agent=self._agent, state="offline", reason=reason)
        return Message(self.prefix + "state", encode(state), retain=True)
