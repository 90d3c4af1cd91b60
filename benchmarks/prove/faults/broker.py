"""Brokers that are gone, deaf, slow, or say what is not so."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from unittest.mock import patch

from benchmarks.agent.mosquitto import Mosquitto
from benchmarks.agent.subscriber import Subscriber
from benchmarks.prove.bundles import Maker
from benchmarks.prove.faults.claim import Fault, need
from benchmarks.prove.faults.publishing import publishing, put, until
from benchmarks.prove.faults.scripted_broker import ACCEPTED, ScriptedBroker, connack
from benchmarks.prove.faults.slow import SlowRoad
from deepfusion_edge.outbox import Outbox
from deepfusion_edge.report import mqtt
from deepfusion_edge.report.publisher import Publisher

_REFUSALS = (0x81, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x97)
_NONSENSE = (
    b"",
    b"\x20",
    b"\x20\x7f",
    b"\x20\x02\x00\x63",
    b"\x30\x02\x00\x00",
    b"HTTP/1.1 400\r\n",
)
_EVENTS, _WINDOW, _TRIES = 300, 20, 2


def _box(work: Path, name: str = "state") -> Outbox:
    (work / name).mkdir(parents=True, exist_ok=True)
    return Outbox(work / name, max_events=10_000, max_bytes=2**24, ttl_s=None)


def _gone_and_lying(_maker: Maker, work: Path) -> str:
    """Nobody listens; then somebody takes events and never confirms; then a broker."""
    heard: list[bytes] = []
    real = Mosquitto(work / "broker")
    with _box(work) as box:
        with publishing(real.port, box):
            put(box, 0, _EVENTS // 2)
            time.sleep(0.3)
        need(box.kept == _EVENTS // 2, f"{box.kept} kept while nobody listened")
        with (
            ScriptedBroker([ACCEPTED["5"]], deaf=True) as liar,
            publishing(liar.port, box, max_in_flight=_WINDOW),
        ):
            put(box, _EVENTS // 2, _EVENTS)
            until(lambda: b"event-0" in liar.taken, "nothing was sent")
            time.sleep(0.3)
        need(box.kept == _EVENTS, f"{_EVENTS - box.kept} forgotten without a confirmation")
        real.start()
        try:
            with (
                Subscriber(
                    real.port, "deepfusion/line-1/decision/#", lambda _, body: heard.append(body)
                ),
                publishing(real.port, box),
            ):
                until(lambda: len(set(heard)) == _EVENTS, f"{len(set(heard))} arrived")
        finally:
            real.stop()
    order = [int(body[6:]) for body in dict.fromkeys(heard)]
    need(order == list(range(_EVENTS)), "out of order")
    return f"{_EVENTS} events kept, then all arrived, in order"


def _deaf(_maker: Maker, work: Path) -> str:
    """It takes what is sent and confirms nothing: judging must not wait, nor memory fill."""
    with (
        _box(work) as box,
        ScriptedBroker([ACCEPTED["5"]], deaf=True) as broker,
        publishing(broker.port, box, max_in_flight=_WINDOW),
    ):
        until(lambda: broker.connections > 0, "no connection")
        begun = time.monotonic()
        put(box, 0, 1000)
        took_s = time.monotonic() - begun
        until(lambda: b"event-0" in broker.taken, "nothing was sent")
        time.sleep(0.5)
        sent = broker.taken.count(b"event-")
        need(sent <= _WINDOW, f"{sent} events are under way, {_WINDOW} may be")
        need(box.kept == 1000, f"{box.kept} of 1000 kept")  # noqa: PLR2004 - as put
        need(took_s < 5, f"1000 events took {took_s:.1f} s")  # noqa: PLR2004 - hangs are minutes
    return f"1000 events stored in {took_s:.2f} s, {sent} under way"


def _slow(_maker: Maker, work: Path) -> str:
    heard: list[bytes] = []
    broker = Mosquitto(work / "broker")
    broker.start()
    try:
        with (
            _box(work) as box,
            SlowRoad(broker.port) as road,
            Subscriber(
                broker.port, "deepfusion/line-1/decision/#", lambda _, body: heard.append(body)
            ),
            publishing(road.port, box),
        ):
            until(lambda: road.connections > 0, "no connection")
            begun = time.monotonic()
            put(box, 0, _EVENTS)
            stored_s = time.monotonic() - begun
            until(lambda: not box.kept, f"{box.kept} of {_EVENTS} events are left")
            took_s = time.monotonic() - begun
            need(road.connections == 1, f"{road.connections} connections instead of one")
    finally:
        broker.stop()
    order = [int(body[6:]) for body in dict.fromkeys(heard)]
    need(order == list(range(_EVENTS)), "out of order")
    need(stored_s < took_s / 2, f"storing took {stored_s:.1f} s of {took_s:.1f} s")
    return f"{_EVENTS} events stored in {stored_s:.2f} s, delivered in {took_s:.1f} s"


def _refuses(_maker: Maker, work: Path) -> str:
    answers = [connack("5", code) for code in _REFUSALS] + list(_NONSENSE)
    with _box(work) as box:
        put(box, 0, 1)
        for answer in answers:
            with ScriptedBroker([answer]) as broker, publishing(broker.port, box):
                until(lambda broker=broker: broker.connections >= _TRIES, "given up")  # type: ignore[misc]
            need(box.kept == 1, "the event is gone")
        with ScriptedBroker([ACCEPTED["5"]]) as broker, publishing(broker.port, box):
            time.sleep(1.2)
            tries = broker.connections
    need(tries <= 6, f"{tries} tries in 1.2 s")  # noqa: PLR2004 - delays of .25, .5, 1 s, jittered
    return f"{len(answers)} bad answers: kept and tried again, {tries} tries in 1.2 s"


def _two_of_one_name(_maker: Maker, work: Path) -> str:
    told = _Told()
    logging.getLogger("deepfusion_edge").addHandler(told)
    broker = Mosquitto(work / "broker")
    broker.start()
    try:
        with (
            _box(work) as box,
            _box(work, "other") as other,
            publishing(broker.port, other),
            publishing(broker.port, box),
        ):
            until(lambda: any("client_id unique?" in line for line in told.lines), "not told")
            put(box, 0, 1)
            until(lambda: not box.kept, "not delivered", 60)
    finally:
        broker.stop()
        logging.getLogger("deepfusion_edge").removeHandler(told)
    return "told 'is mqtt.client_id unique?', and delivered"


class _Told(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@contextmanager
def _forgets_when_sent() -> Iterator[None]:
    real = Publisher._fill_window  # noqa: SLF001 - the guard in question

    def eager(self: Publisher) -> None:
        real(self)
        self._acks += self._sent.values()
        self._sent.clear()

    with patch.object(Publisher, "_fill_window", eager):
        yield


@contextmanager
def _no_window() -> Iterator[None]:
    real: Callable[..., None] = mqtt.Connection._on_connect  # noqa: SLF001 - the guard in question

    def wide(self: mqtt.Connection, *arguments: object) -> None:
        real(self, *arguments)
        self.window = 10_000

    with patch.object(mqtt.Connection, "_on_connect", wide):
        yield


def _hammers() -> AbstractContextManager[object]:
    return patch.object(mqtt, "FIRST_DELAY_S", 0.001)


FAULTS = (
    Fault(
        "Broker gone, then one that takes and never confirms",
        "every event is kept, and arrives in order once a broker is there",
        "forgetting on confirmation alone",
        _gone_and_lying,
        _forgets_when_sent,
    ),
    Fault(
        "Broker that confirms nothing",
        "events are stored at once, and no more than the window is under way",
        "the window",
        _deaf,
        _no_window,
    ),
    Fault(
        "Broker on a slow road, 40 KB/s and 50 ms late",
        "judging does not wait, the connection stays, every event arrives in order",
        "the time a broker may take to answer",
        _slow,
        lambda: patch.object(mqtt, "CONNECT_TIMEOUT_S", 0.01),
    ),
    Fault(
        "Broker that refuses, hangs up or talks nonsense",
        "the event is kept, it is tried again, and not hammered",
        "the growing delay",
        _refuses,
        _hammers,
    ),
    Fault(
        "Two agents of one name",
        "a person is told why, and events arrive",
        "the count of short connections",
        _two_of_one_name,
        lambda: patch.object(mqtt, "SUSPICIOUS", 10**6),
    ),
)
