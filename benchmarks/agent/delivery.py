"""Outbox and draining: our own delivery, and what paho alone reaches at the same broker."""

import argparse
import itertools
import threading
import time
from pathlib import Path
from typing import Any, Self

import numpy as np
from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion

from benchmarks.agent.rig import AGENT, Rig
from deepfusion_edge.config import Mqtt
from deepfusion_edge.errors import StorageError
from deepfusion_edge.fusion import Verdict
from deepfusion_edge.outbox import Outbox
from deepfusion_edge.report import payload
from deepfusion_edge.report.publisher import Publisher
from deepfusion_toolkit.report import progress

TOPIC = f"deepfusion/{AGENT}/decision/cam"
ROUNDS = 3
PAHO_WINDOW = 20
"""How many messages paho leaves unconfirmed by itself."""
PAHO_QUEUE = 50_000
"""Messages handed to paho at once: it names them by 16 bits, and loses what has the same name."""
_PATIENCE_S = 600.0
_VERDICT = Verdict(
    state="accept",
    label=1,
    confidence=0.987654321,
    feature_variance=0.0123456,
    disagreement=0.00123456,
    members=8,
)
_BUNDLE = payload.BundleRef(id="line", digest="ab" * 32, sequence=17)


def decision(number: int, name: str) -> bytes:
    """Spell a decision as the agent does."""
    subject = payload.Subject("cam", f"frame-{number:08}.jpg", number, 1_700_000_000.0 + number)
    return payload.encode(
        payload.decision(
            f"{AGENT}-{name}",
            agent=AGENT,
            subject=subject,
            bundle=_BUNDLE,
            classes=("good", "scratched"),
            verdict=_VERDICT,
            draw=payload.Draw(seed=2**52 + number, stream=0),
            latency_ms=41.125,
        )
    )


def outbox(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Put events as fast as it goes while they are delivered; the last PUBACK stops the clock."""
    with Rig(work / "rig") as rig, _opened(work / "state") as box, progress("outbox", 1) as advance:
        delivery = _Delivery(rig, box)
        with delivery:
            begun = time.perf_counter()
            _fill(box, options.events)
            put_s = time.perf_counter() - begun
            delivery.wait_until_empty()
            total_s = time.perf_counter() - begun
        advance(1)
    return {
        "outbox_events_per_s": options.events / total_s,
        "put_per_s": options.events / put_s,
        "events": options.events,
    }


def drain(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Deliver a backlog, by turns with paho delivering as many messages from memory.

    Paho runs with its own window of unconfirmed messages and with ours; the better one counts.
    """
    windows = {"paho's window": PAHO_WINDOW, "our window": Mqtt().max_in_flight}
    taken: dict[str, list[float]] = {name: [] for name in ("ours", *windows)}
    names = list(taken)
    with Rig(work / "rig") as rig, progress("drain", ROUNDS * len(names)) as advance:
        for number in range(ROUNDS):
            for name in names[number % len(names) :] + names[: number % len(names)]:
                if name == "ours":
                    taken[name].append(_by_us(rig, options.backlog, work / f"state-{number}"))
                else:
                    taken[name].append(_by_paho(rig, options.backlog, windows[name]))
                advance(1)
    ours = np.array(taken["ours"])
    ratios = {name: float(np.median(np.array(taken[name]) / ours)) for name in windows}
    return {
        "drain_over_paho": min(ratios.values()),
        "drain_over_paho_by_window": ratios,
        "per_s": {name: options.backlog / float(np.median(s)) for name, s in taken.items()},
        "seconds": taken,
        "backlog": options.backlog,
        "windows": windows,
    }


def _opened(folder: Path) -> Outbox:
    folder.mkdir(parents=True)
    return Outbox(folder, max_events=10_000_000, max_bytes=2**32, ttl_s=None)


def _fill(box: Outbox, count: int) -> None:
    for number in range(count):
        box.put(
            "decision/cam",
            lambda name, number=number: decision(number, name),  # type: ignore[misc]
            now_s=time.time(),
        )


def _by_us(rig: Rig, count: int, folder: Path) -> float:
    with _opened(folder) as box:
        _fill(box, count)
        delivery = _Delivery(rig, box)
        with delivery:
            delivery.wait_until_connected()
            begun = time.perf_counter()
            delivery.wait_until_empty()
            return time.perf_counter() - begun


class _Delivery:
    """The agent's publisher in a thread."""

    def __init__(self, rig: Rig, box: Outbox) -> None:
        state = payload.AgentState(agent=AGENT, state="online", reason="running")
        config = Mqtt(port=rig.broker.port, client_id=AGENT)
        self._box, self._finish = box, threading.Event()
        self._publisher = Publisher(config, box, lambda: state)
        self._thread = threading.Thread(
            target=self._publisher.run, args=(self._finish,), kwargs={"drain_timeout_s": 60.0}
        )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._finish.set()
        self._thread.join()

    def wait_until_connected(self) -> None:
        while not self._publisher.answered:
            time.sleep(0.001)

    def wait_until_empty(self) -> None:
        deadline = time.monotonic() + _PATIENCE_S
        while self._box.kept:
            if time.monotonic() > deadline:
                raise StorageError(f"{self._box.kept} events were not delivered", "run again")
            time.sleep(0.005)


def _by_paho(rig: Rig, count: int, window: int) -> float:
    """Hand all messages to paho and wait for every PUBACK."""
    bodies = [decision(number, f"paho-{number}") for number in range(count)]
    acked, done, ready = itertools.count(1), threading.Event(), threading.Event()
    room = threading.Semaphore(PAHO_QUEUE)

    def published(*_: object) -> None:
        room.release()
        if next(acked) == count:
            done.set()

    client = paho.Client(CallbackAPIVersion.VERSION2, client_id="paho", protocol=paho.MQTTv5)
    client.max_inflight_messages_set(window)
    client.on_connect = lambda *_: ready.set()
    client.on_publish = published
    client.connect("127.0.0.1", rig.broker.port)
    client.loop_start()
    try:
        ready.wait(_PATIENCE_S)
        begun = time.perf_counter()
        for body in bodies:
            if not room.acquire(timeout=_PATIENCE_S):
                break
            client.publish(TOPIC, body, 1)
        if not done.wait(_PATIENCE_S):
            raise StorageError("paho lost messages on the way to the broker", "run again")
        return time.perf_counter() - begun
    finally:
        client.disconnect()
        client.loop_stop()
