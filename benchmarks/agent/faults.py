"""Kills of the agent and restarts of the broker at random moments: lost, twice, out of order?

The outbox numbers its events without gaps, and a number is given only with the event that is
stored: after the last drain, every number up to the last must have arrived, as the ids say.
"""

import argparse
import contextlib
import json
import random
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.agent.rig import AGENT, Rig, bundle_of, photographs, stop
from benchmarks.agent.subscriber import Subscriber
from deepfusion_edge.errors import StorageError, UnreachableError
from deepfusion_edge.outbox import DATABASE, read_counters
from deepfusion_toolkit.report import progress

IMAGES = 400
_ALIVE_S = (0.05, 1.5)
"""After its first verdict of a life, the agent is killed within this time."""
_PATIENCE_S = 120.0
_STIR_S = 1.0


class Heard:
    """Every delivery, in order of arrival."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.changed = threading.Condition()

    def __call__(self, _topic: str, body: bytes) -> None:
        """Note one."""
        with self.changed:
            self.bodies.append(body)
            self.changed.notify_all()


def measure(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Kill and restart as often as asked, then let the agent drain and count.

    Raises:
        UnreachableError: the agent gives no verdicts, or cannot deliver in the end.
    """
    chance = random.Random(options.seed)  # noqa: S311 - moments, not secrets
    bundle = bundle_of("small", options.members, work.parent)
    frames = work / "frames"
    frames.mkdir(parents=True)
    for number, picture in enumerate(photographs(IMAGES, (64, 64))):
        (frames / f"{number:05}.jpg").write_bytes(picture)
    heard = Heard()
    plan = ["kill"] * options.kills + ["restart"] * options.restarts
    chance.shuffle(plan)
    with Rig(work / "rig") as rig:
        folder = {"kind": "folder", "name": "cam", "path": str(frames), "mode": "watch"}
        state = rig.install(bundle)
        config = rig.config(state, folder | {"poll_interval_s": 0.05})
        log = work / "agent.log"
        with Subscriber(rig.broker.port, f"deepfusion/{AGENT}/#", heard):
            agent = rig.agent(config, log)
            with progress("faults", len(plan)) as advance:
                for act in plan:
                    _wait_for_more(state, frames)
                    time.sleep(chance.uniform(*_ALIVE_S))
                    if act == "kill":
                        agent.kill()
                        agent.wait()
                        agent = rig.agent(config, log)
                    else:
                        rig.broker.stop()
                        time.sleep(chance.uniform(0.0, 0.5))
                        rig.broker.start()
                    advance(1)
            _wait_for_more(state, frames)
            stop(agent)
            _wait_for_quiet(heard)
    counters = read_counters(state, now_s=time.time())
    if counters is None or counters.kept:
        raise UnreachableError("events are left in the outbox", f"see {log}")
    stored = {f"{AGENT}-{token_of(state)}-{n}" for n in range(1, counters.received + 1)}
    figures = judge(heard.bodies, stored)
    return figures | {
        "kills": options.kills,
        "broker_restarts": options.restarts,
        "stored": counters.received,
        "dropped": counters.dropped + counters.expired,
        "seed": options.seed,
    }


def judge(deliveries: Iterable[bytes], stored: set[str]) -> dict[str, Any]:
    """Count what was lost, arrived twice under two ids, and changed its order.

    Args:
        deliveries: bodies of all messages, in order of arrival; those without an id are no events.
        stored: ids that the outbox gave.

    Returns:
        ``lost``: stored ids that never arrived. ``duplicated_after_ids``: decisions that are there
        twice although each id was taken once. ``reordered``: decisions that arrived, for the first
        time, after a later one of their source. ``delivered_twice``: repetitions that ids tell.
    """
    first: dict[str, dict[str, Any]] = {}
    repetitions, arrivals = 0, []
    for body in deliveries:
        event = json.loads(body)
        if "id" not in event:
            continue
        if event["id"] in first:
            repetitions += 1
        else:
            first[event["id"]] = event
            arrivals += [event] if "seed" in event else []
    draws = Counter((e["source"], e["frame"], e["seed"], e["stream"]) for e in arrivals)
    newest: dict[str, int] = {}
    reordered = 0
    for event in arrivals:
        number = int(event["id"].rsplit("-", 1)[1])
        reordered += number < newest.get(event["source"], 0)
        newest[event["source"]] = max(number, newest.get(event["source"], 0))
    return {
        "lost": len(stored - set(first)),
        "duplicated_after_ids": sum(count - 1 for count in draws.values()),
        "reordered": reordered,
        "delivered_twice": repetitions,
        "arrived": len(first),
        "unknown": len(set(first) - stored),
    }


def token_of(state: Path) -> str:
    """Return what the names of this outbox begin with."""
    with contextlib.closing(sqlite3.connect(state / DATABASE)) as database:
        return str(database.execute("SELECT token FROM origin").fetchone()[0])


def _wait_for_more(state: Path, frames: Path) -> None:
    """Wait until the outbox has received something new: the agent lives and judges."""
    deadline, before = time.monotonic() + _PATIENCE_S, _received(state)
    stirred = time.monotonic()
    while _received(state) <= before:
        if time.monotonic() > deadline:
            raise UnreachableError("the agent gives no verdicts", "see agent.log")
        if time.monotonic() > stirred + _STIR_S:
            stirred = time.monotonic()
            for file in frames.iterdir():
                file.touch()  # it has judged them all: these are new ones
        time.sleep(0.02)


def _received(state: Path) -> int:
    try:
        counters = read_counters(state, now_s=0.0)
    except StorageError:  # the agent is making it
        return 0
    return 0 if counters is None else counters.received


def _wait_for_quiet(heard: Heard) -> None:
    """Wait until nothing has arrived for two seconds."""
    with heard.changed:
        count = -1
        while count != len(heard.bodies):
            count = len(heard.bodies)
            heard.changed.wait_for(lambda count=count: len(heard.bodies) != count, 2.0)  # type: ignore[misc]
