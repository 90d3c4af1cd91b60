"""A broker that misbehaves as it is told: it answers CONNECT with bytes of the caller's choice."""

import contextlib
import socket
import threading
from collections.abc import Sequence
from types import TracebackType
from typing import Self

ACCEPTED = {"3.1.1": b"\x20\x02\x00\x00", "5": b"\x20\x03\x00\x00\x00"}


def connack(protocol: str, code: int) -> bytes:
    """Spell the refusal ``code`` of a protocol version."""
    return b"\x20\x02\x00" + bytes([code]) if protocol == "3.1.1" else bytes([32, 3, 0, code, 0])


class ScriptedBroker:
    """Listens on ``port``; ``script`` holds one list of answers a connection, the last for ever.

    A connection's answers are given one for each chunk that the client sends; then it is closed,
    or, if it is ``deaf``, read and never answered any more.

    Attributes:
        connections: how many there were.
        taken: bytes read from deaf connections after their answers.
    """

    def __init__(self, *script: Sequence[bytes], deaf: bool = False) -> None:
        self.connections = 0
        self.taken = bytearray()
        self._script, self._deaf = script, deaf
        self._server = socket.create_server(("127.0.0.1", 0))
        self.host, self.port = self._server.getsockname()
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        self._server.settimeout(0.05)
        while not self._ends.is_set():
            with contextlib.suppress(TimeoutError):
                client, _ = self._server.accept()
                answers = self._script[min(self.connections, len(self._script) - 1)]
                self.connections += 1
                with client, contextlib.suppress(OSError):
                    client.settimeout(5)
                    for answer in answers:
                        client.recv(2**16)
                        client.sendall(answer)
                    self._listen(client)

    def _listen(self, client: socket.socket) -> None:
        client.settimeout(0.05)
        while self._deaf and not self._ends.is_set():
            with contextlib.suppress(TimeoutError):
                chunk = client.recv(2**16)
                if not chunk:
                    return
                self.taken += chunk

    def close(self) -> None:
        """End all connections."""
        self._ends.set()
        self._thread.join()
        self._server.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
