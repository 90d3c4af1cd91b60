"""A publisher in a thread, for as long as a fault takes."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

from benchmarks.prove.faults.claim import need
from deepfusion_edge.config import Mqtt
from deepfusion_edge.outbox import Outbox
from deepfusion_edge.report.payload import AgentState
from deepfusion_edge.report.publisher import Publisher

PATIENCE_S = 20.0


@contextlib.contextmanager
def publishing(
    port: int,
    outbox: Outbox,
    *,
    max_in_flight: int = 100,
    client_id: str = "line-1",
    now: Callable[[], float] = time.time,
    before: Callable[[], None] = lambda: None,
) -> Iterator[Publisher]:
    """Publish what the outbox holds.

    Args:
        port: of the broker, on loopback.
        outbox: whose events.
        max_in_flight: as configured.
        client_id: as configured.
        now: the device's clock.
        before: called between making the publisher and starting it.
    """
    config = Mqtt(port=port, client_id=client_id, max_in_flight=max_in_flight, state_interval_s=0.2)

    def describe() -> AgentState:
        return AgentState(agent=client_id, state="online", reason="running")

    publisher = Publisher(config, outbox, describe, now=now)
    before()
    finish = threading.Event()
    thread = threading.Thread(
        target=publisher.run, args=(finish,), kwargs={"drain_timeout_s": 0.1}, daemon=True
    )
    thread.start()
    try:
        yield publisher
    finally:
        finish.set()
        thread.join(PATIENCE_S)


def until(holds: Callable[[], bool], otherwise: str, patience_s: float = PATIENCE_S) -> None:
    """Wait for a claim; raises BrokenError when it does not come true in time."""
    deadline = time.monotonic() + patience_s
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.02)
    need(holds(), otherwise)


def put(outbox: Outbox, first: int, last: int) -> None:
    """Put events with the numbers from ``first`` to below ``last``."""
    for number in range(first, last):
        body = f"event-{number}".encode()
        outbox.put("decision/cam", lambda _, body=body: body, now_s=time.time())  # type: ignore[misc]
