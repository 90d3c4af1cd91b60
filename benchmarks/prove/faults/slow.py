"""A slow road to a broker: few bytes at a time, late, in both directions."""

import contextlib
import select
import socket
import threading
import time
from types import TracebackType
from typing import Self

_BYTES, _DELAY_S = 2048, 0.05


class SlowRoad:
    """Passes one connection after the other on to a port; about 40 KB/s, 50 ms late.

    Attributes:
        port: where it listens, on loopback.
        connections: how many there were.
    """

    def __init__(self, port: int) -> None:
        self.connections = 0
        self._target = port
        self._server = socket.create_server(("127.0.0.1", 0))
        self._server.settimeout(0.05)
        self.port = int(self._server.getsockname()[1])
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while not self._ends.is_set():
            with contextlib.suppress(OSError):
                client, _ = self._server.accept()
                self.connections += 1
                with client, socket.create_connection(("127.0.0.1", self._target), 5) as broker:
                    self._pass_on(client, broker)

    def _pass_on(self, client: socket.socket, broker: socket.socket) -> None:
        other = {client: broker, broker: client}
        while not self._ends.is_set():
            readable, _, _ = select.select([client, broker], [], [], 0.05)
            for one in readable:
                chunk = one.recv(_BYTES)
                if not chunk:
                    return
                time.sleep(_DELAY_S)
                other[one].sendall(chunk)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ends.set()
        self._thread.join()
        self._server.close()
