"""From starting the agent's process to its first verdict at a subscriber."""

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

_PATIENCE_S = 120.0


def measure(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Start so often, each time a new process; the file cache is warm after the first.

    Raises:
        UnreachableError: no verdict came.
    """
    bundle = bundle_of(options.model, options.members, work.parent)
    frames = work / "frames"
    frames.mkdir(parents=True)
    (frames / "a.jpg").write_bytes(photographs(1, CAMERA)[0])
    taken: list[float] = []
    with Rig(work / "rig") as rig, progress("start", options.starts) as advance:
        folder = {"kind": "folder", "name": "cam", "path": str(frames), "mode": "watch"}
        source = folder | {"poll_interval_s": 0.05}
        config = rig.config(rig.install(bundle), source, threads=options.threads)
        for _ in range(options.starts):
            came = threading.Event()

            def heard(_topic: str, _body: bytes, came: threading.Event = came) -> None:
                came.set()

            with Subscriber(rig.broker.port, f"deepfusion/{AGENT}/decision/#", heard):
                begun = time.perf_counter()
                agent = rig.agent(config, work / "agent.log")
                if not came.wait(_PATIENCE_S):
                    agent.kill()
                    raise UnreachableError("no verdict came", f"see {work / 'agent.log'}")
                taken.append(time.perf_counter() - begun)
            stop(agent)
            advance(1)
    return {"first_verdict_s": float(np.median(taken)), "starts_s": taken, "model": options.model}
