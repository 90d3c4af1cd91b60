"""A broker that misbehaves as it is told: it answers CONNECT with bytes of the test's choice."""

import contextlib
import socket
import threading

from tests.conftest import free_port


class ScriptedBroker:
    """Listens on ``port``; ``script`` holds one list of answers a connection, the last for ever.

    A connection's answers are given one for each chunk that the client sends; then it is closed.
    """

    def __init__(self, *script):
        self.host, self.port = "127.0.0.1", free_port()
        self.connections = 0
        self._script = script
        self._server = socket.create_server((self.host, self.port))
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self):
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

    def close(self):
        self._ends.set()
        self._thread.join()
        self._server.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
