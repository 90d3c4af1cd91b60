"""An embedded MQTT broker, **for the demo only**: loopback, one user, nothing kept.

``python -m benchmarks.demo.broker`` reads ``user:password`` from the first line of stdin, prints
the port it listens on, and ends when stdin closes, so that it never outlives whoever started it.
A plant uses a real broker, for example mosquitto.
"""

import asyncio
import contextlib
import logging
import secrets
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from deepfusion_edge.errors import UnreachableError

LABEL = "amqtt, embedded, demo only"
USER = "demo"
HOST = "127.0.0.1"
STOP_TIMEOUT_S = 10.0
_TRIES = 5
_CHECKOUT = Path(__file__).resolve().parents[2]


class Address(NamedTuple):
    """Where the broker is and who may speak to it."""

    host: str
    port: int
    user: str
    password: str


@contextmanager
def running(log: Path) -> Iterator[Address]:
    """Run a broker in its own process, with a fresh password, while the block runs.

    Args:
        log: what the broker says is written there.

    Raises:
        UnreachableError: it did not start.
    """
    password = secrets.token_urlsafe(18)
    command = [sys.executable, "-m", "benchmarks.demo.broker"]
    with log.open("wb") as said:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, cwd=_CHECKOUT
        )
        try:
            yield Address(HOST, _introduce(process, password, log), USER, password)
        finally:
            _stop(process)


def _introduce(process: subprocess.Popen[bytes], password: str, log: Path) -> int:
    """Tell the broker its user and hear its port; that it never answers ends its stdout."""
    assert process.stdin is not None  # noqa: S101 - for the type checker
    assert process.stdout is not None  # noqa: S101 - for the type checker
    try:
        process.stdin.write(f"{USER}:{password}\n".encode())
        process.stdin.flush()
        line = process.stdout.readline()
    except BrokenPipeError:
        line = b""
    if not line.strip().isdigit():
        said = [text for text in log.read_text(errors="replace").splitlines() if text.strip()]
        raise UnreachableError(
            f"the embedded broker did not start ({said[-1] if said else 'it said nothing'})",
            "install it with: pip install amqtt",
        )
    return int(line)


def _stop(process: subprocess.Popen[bytes]) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(BrokenPipeError):  # what it never read
                pipe.close()
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def main() -> int:
    """Serve until stdin closes."""
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    user, _, password = sys.stdin.readline().rstrip("\n").partition(":")
    if not user or not password:
        sys.stderr.write("error: no user:password on the first line of stdin; give one\n")
        return 2
    asyncio.run(_serve(user, password))
    return 0


async def _serve(user: str, password: str) -> None:
    from amqtt.broker import Broker

    for left in reversed(range(_TRIES)):
        port = _free_port()
        broker = Broker(
            {
                "listeners": {"default": {"type": "tcp", "bind": f"{HOST}:{port}"}},
                "plugins": {
                    "benchmarks.demo.one_user.OneUser": {"user": user, "password": password}
                },
            }
        )
        try:
            await broker.start()
            break
        except Exception:  # somebody else took the port meanwhile
            if not left:
                raise
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.read)
    await broker.shutdown()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    sys.exit(main())
