"""Resident memory over a replay as long as two hours, at the pace of the small net.

Frames are JPEG files of 640x480 that arrive on an MQTT topic: they go through broker, queue,
decoder, graph, outbox and back. 36,000 of them are two hours at five a second.
"""

import argparse
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.agent.rig import AGENT, Rig, bundle_of, photographs, stop
from benchmarks.agent.speed import CAMERA
from benchmarks.agent.subscriber import Subscriber
from deepfusion_edge.errors import UnreachableError
from deepfusion_toolkit.report import progress

IMAGES = "bench/images"
WARM_UP = 0.1
"""Share of the frames before memory is compared: pools and caches fill."""
_WINDOW = 8
_SAMPLES = 400
_STALL_S = 20.0


class _Arrived:
    """Counts decisions."""

    def __init__(self) -> None:
        self.count = 0
        self.changed = threading.Condition()

    def heard(self, _topic: str, _body: bytes) -> None:
        with self.changed:
            self.count += 1
            self.changed.notify_all()


def measure(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Publish frames, eight ahead of their decisions, and look at the agent's memory meanwhile.

    Raises:
        UnreachableError: decisions stopped coming.
    """
    bundle = bundle_of("small", options.members, work.parent)
    pictures = photographs(16, CAMERA)
    arrived, sizes = _Arrived(), []
    with Rig(work / "rig") as rig:
        source = {"kind": "mqtt", "name": "cam", "topic": IMAGES, "queue": 2 * _WINDOW}
        config = rig.config(rig.install(bundle), source)
        decisions = f"deepfusion/{AGENT}/decision/#"
        with Subscriber(rig.broker.port, decisions, arrived.heard) as client:
            agent = rig.agent(config, work / "agent.log")
            try:
                _wait_until_ready(client, arrived, pictures[0])
                begun = time.monotonic()
                every = max(1, options.replay // _SAMPLES)
                with progress("memory", options.replay) as advance:
                    for number in range(options.replay):
                        _wait_for(arrived, number - _WINDOW)
                        client.publish(IMAGES, pictures[number % len(pictures)])
                        if number % every == 0:
                            sizes.append(_rss_bytes(agent.pid))
                            advance(every)
                seconds = time.monotonic() - begun
            finally:
                stop(agent)
    warm = sizes[int(WARM_UP * len(sizes)) :]
    tenth = max(1, len(warm) // 10)
    first, last = float(np.median(warm[:tenth])), float(np.median(warm[-tenth:]))
    return {
        "rss_growth": last / first - 1,
        "rss_mib": {"first": first / 2**20, "last": last / 2**20, "most": max(sizes) / 2**20},
        "frames": options.replay,
        "seconds": seconds,
        "rss_samples_mib": [round(size / 2**20, 2) for size in sizes],
    }


def _wait_until_ready(client: Subscriber, arrived: _Arrived, picture: bytes) -> None:
    deadline = time.monotonic() + 60
    while not arrived.count:
        if time.monotonic() > deadline:
            raise UnreachableError("no verdict came", "see agent.log")
        client.publish(IMAGES, picture)
        time.sleep(0.2)
    time.sleep(1)
    arrived.count = 0


def _wait_for(arrived: _Arrived, count: int) -> None:
    with arrived.changed:
        if not arrived.changed.wait_for(lambda: arrived.count >= count, _STALL_S):
            raise UnreachableError(
                f"{arrived.count} decisions came, {count} were awaited", "see agent.log"
            )


def _rss_bytes(pid: int) -> int:
    pages = int(Path("/proc", str(pid), "statm").read_text().split()[1])
    return pages * 4096
