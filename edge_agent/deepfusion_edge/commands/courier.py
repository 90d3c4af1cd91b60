"""Takes a signed command to a broker, its bundle after it, and tells what becomes of it."""

import logging
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from deepfusion_edge.bundle.manifest import MALFORMED
from deepfusion_edge.commands.answers import Answers, TopicAnswers
from deepfusion_edge.commands.message import Chunks, Install
from deepfusion_edge.commands.signing import Signed, install_action
from deepfusion_edge.commands.status import CommandStatus
from deepfusion_edge.config import Mqtt
from deepfusion_edge.errors import InputError, UnreachableError
from deepfusion_edge.report.messages import Message
from deepfusion_edge.report.mqtt import Connection

log = logging.getLogger(__name__)

WINDOW = 16
ENDS = frozenset({"done", "failed", "refused"})


class Courier:
    """One command on its way."""

    def __init__(
        self,
        config: Mqtt,
        signed: Signed,
        bundle: Path | None,
        told: Callable[[CommandStatus], None],
        *,
        answers: Answers | None = None,
        password: str | None = None,
    ) -> None:
        """Prepare; nothing is sent before :meth:`deliver`.

        Args:
            config: the broker; ``client_id`` is the courier's own.
            signed: the command.
            bundle: the ``.dfb`` file whose chunks the command names; None if it names none.
            told: hears of every status of this command.
            answers: where statuses are heard; None: on the agent's own topic.
            password: never logged.

        Raises:
            InputError: a TLS file is missing, or the bundle is another one than was signed.
        """
        self._signed, self._bundle, self._told = signed, bundle, told
        self._chunks = _chunks(signed, bundle)
        self._answers = answers or TopicAnswers(signed.command.agent)
        self._topic = f"{signed.command.agent}/command"
        self._under_way: set[int] = set()
        self._refusal: str | None = None
        self._wanted: list[int] = []
        self._asked = self._accepted = False
        self._end: CommandStatus | None = None
        self._connection = Connection(
            config,
            password=password,
            will=None,
            subscriptions=self._answers.subscriptions(self._take),
            confirmed=self._confirmed,
            clean=True,
        )

    def deliver(self, *, wait_s: float, connect_s: float = 15.0) -> CommandStatus:
        """Send, and wait for the end; returns the last status.

        Args:
            wait_s: how long the agent may take altogether.
            connect_s: how long the broker may.

        Raises:
            UnreachableError: the broker or the agent does not answer in time.
            InputError: the broker refuses to pass the command on.
        """
        connection = self._connection
        begun = time.monotonic()
        try:
            while not connection.up:
                if time.monotonic() - begun > connect_s:
                    raise UnreachableError(
                        f"broker {connection.address} does not answer ({connection.reason})",
                        "check the broker's address, user name and TLS files",
                    )
                connection.step()
            question = self._answers.question(int(1000 * time.time()))
            if question is not None:
                connection.send(question)
            self._send(self._topic, self._signed.message)
            while self._end is None:
                if time.monotonic() - begun > wait_s:
                    raise self._silent(wait_s)
                if self._refusal is not None:
                    raise InputError(
                        f"the broker refuses to pass on {self._topic} ({self._refusal})",
                        "allow this user to publish there",
                    )
                self._send_chunks()
                connection.step()
            return self._end
        finally:
            connection.close(None)

    def _send(self, topic: str, body: bytes) -> None:
        self._under_way.add(self._connection.send(Message(topic, body)))

    def _send_chunks(self) -> None:
        if self._chunks is None or self._bundle is None:
            return
        with self._bundle.open("rb") as stream:
            while self._wanted and len(self._under_way) < WINDOW and self._connection.up:
                index = self._wanted.pop(0)
                stream.seek(index * self._chunks.bytes)
                name = self._signed.command.id
                self._send(f"{self._topic}/chunk/{name}/{index}", stream.read(self._chunks.bytes))

    def _confirmed(self, number: int, refusal: str | None) -> None:
        self._under_way.discard(number)
        self._refusal = self._refusal or refusal

    def _take(self, body: bytes) -> None:
        try:
            status = msgspec.json.decode(body, type=CommandStatus)
        except MALFORMED as error:
            log.debug("no status: %s", error)
            return
        if status.digest != self._signed.digest:
            return
        self._told(status)
        if status.missing and not self._wanted and self._chunks is not None:
            # Asked for the first time all are missing; a status has room for some of them only.
            every = range(len(self._chunks.sha256))
            self._wanted = list(status.missing if self._asked else every)
            self._asked = True
        again = status.code == "duplicate" and self._accepted  # delivered twice by the broker
        self._accepted = self._accepted or status.state == "accepted"
        if status.state in ENDS and not again:
            self._end = status

    def _silent(self, wait_s: float) -> UnreachableError:
        agent = self._signed.command.agent
        return UnreachableError(
            f"{agent} did not end the command within {wait_s:g} s",
            f"it may still do so until the command expires: its statuses are {self._answers.place};"
            f" {self._answers.otherwise}",
        )


def _chunks(signed: Signed, bundle: Path | None) -> Chunks | None:
    """Return the chunks to send, if the command names any and the bundle is the one signed."""
    action = signed.command.action
    chunks = action.chunks if isinstance(action, Install) else None
    if chunks is None:
        if bundle is not None:
            raise InputError("the command names no chunks", "leave --bundle out")
        return None
    if bundle is None:
        raise InputError("the command names a bundle in chunks", "give it with --bundle")
    if install_action(bundle, None, chunks.bytes) != action:
        raise InputError(f"{bundle} is not the bundle that was signed", "sign a command for it")
    return chunks
