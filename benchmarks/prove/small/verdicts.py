"""What an agent decides about a folder of frames, wherever its process runs."""

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.prove.bundles import Maker
from benchmarks.prove.faults.claim import BrokenError, need
from deepfusion_edge.bundle import store
from deepfusion_edge.line import utc_now
from deepfusion_edge.outbox import Outbox

HERE = (sys.executable,)
_COMPARED = ("label", "state", "members", "seed", "stream")
_TOLERANCE = 1e-3
_UNDELIVERED = 7
_PATIENCE_S = 420.0


def decide(
    maker: Maker,
    pictures: Sequence[bytes],
    outside: Path,
    *,
    inside: Path | None = None,
    command: Sequence[str] = HERE,
    prepare: Callable[[], None] | None = None,
) -> list[dict[str, Any]]:
    """Let an agent judge all pictures once, with a fixed seed and without a broker.

    Args:
        maker: of the bundle.
        pictures: JPEG or PNG.
        outside: new folder for frames, state and configuration.
        inside: the same folder as the agent's process names it.
        command: the Python that runs it.
        prepare: called in the new process before the program.

    Returns:
        One decision a picture, as it would be published.

    Raises:
        BrokenError: the agent ended otherwise than for want of a broker.
    """
    inside = inside or outside
    (outside / "frames").mkdir(parents=True)
    for number, picture in enumerate(pictures):
        (outside / "frames" / f"{number:04}.jpg").write_bytes(picture)
    store.install(maker.make(1), outside / "state", [maker.public], now=utc_now())
    config = {
        "state_dir": str(inside / "state"),
        "sources": [{"kind": "folder", "name": "cam", "path": str(inside / "frames")}],
        "mqtt": {"port": 1, "client_id": "small"},
        "model": {"threads": 1, "seed": 7, "watchdog_s": 300.0},
        "run": {"drain_timeout_s": 0.5},
    }
    (outside / "agent.json").write_text(json.dumps(config))
    words = [*command, "-m", "deepfusion_edge.cli", "run", "--config", str(inside / "agent.json")]
    done = subprocess.run(
        words, capture_output=True, timeout=_PATIENCE_S, check=False, preexec_fn=prepare
    )
    if done.returncode != _UNDELIVERED:
        last = (done.stderr.decode(errors="replace").strip() or "no word").splitlines()[-1]
        raise BrokenError(f"the agent ended with {done.returncode}: {last}")
    with Outbox(outside / "state", max_events=10**6, max_bytes=2**30, ttl_s=None) as box:
        events = [json.loads(event.body) for event in box.peek(10**6)]
    return [event for event in events if "seed" in event]


def same(ours: Sequence[dict[str, Any]], theirs: Sequence[dict[str, Any]]) -> float:
    """Compare decisions; returns the largest difference of a score.

    Raises:
        BrokenError: another number of decisions, another verdict, or a score that differs.
    """
    need(len(ours) == len(theirs) > 0, f"{len(theirs)} decisions instead of {len(ours)}")
    most = 0.0
    for one, other in zip(ours, theirs, strict=True):
        for name in _COMPARED:
            need(
                one[name] == other[name],
                f"{name} of {one['frame']}: {other[name]}, not {one[name]}",
            )
        for name in ("confidence", "disagreement", "feature_variance"):
            most = max(most, abs(one[name] - other[name]))
    need(most <= _TOLERANCE, f"a score differs by {most:.3g}")
    return most


def limited(memory_bytes: int) -> Callable[[], None]:
    """Keep a process on one core, and its address space within ``memory_bytes``."""

    def prepare() -> None:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))

    return prepare
