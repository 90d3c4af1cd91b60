"""Frame rate with everything on against the bare ONNX Runtime loop, in interleaved rounds."""

import argparse
import logging
import shutil
import threading
import time
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from benchmarks.agent.rig import Rig, bundle_of, photographs
from deepfusion_edge import erosion
from deepfusion_edge.agent import run_agent
from deepfusion_edge.bundle.container import open_bundle
from deepfusion_edge.bundle.manifest import MODEL, parse_manifest
from deepfusion_edge.cli import read_config
from deepfusion_edge.errors import ModelError
from deepfusion_edge.observer import Judged, Observer
from deepfusion_toolkit.report import progress

CAMERA = (640, 480)
QUIET = 1.2
"""A round is quiet if the bare loop's own p99 is at most so many times its p50."""
_PATIENCE_S = 600.0


class _Stopwatch(Observer):
    """When each verdict came and what it took."""

    def __init__(self) -> None:
        self.moments: list[float] = []
        self.judged_ones: list[Judged] = []
        self.came = threading.Condition()

    def judged(self, judged: Judged) -> None:
        """Note the moment."""
        with self.came:
            self.moments.append(time.perf_counter())
            self.judged_ones.append(judged._replace(pixels=None))
            self.came.notify_all()


class _Bare:
    """The loop that does nothing but run the graph."""

    def __init__(self, path: Path, folder: Path, threads: int) -> None:
        with open_bundle(path) as source:
            manifest = parse_manifest(source.manifest)
            source.copy(manifest.files, folder)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        self._session = onnxruntime.InferenceSession(
            str(folder / MODEL), options, providers=["CPUExecutionProvider"]
        )
        size, plan = manifest.preprocess, manifest.erosion
        self._feeds = {
            "image": np.full((1, 3, size.height, size.width), 0.5, np.float32),
            "factors": erosion.sample(plan.sites, seed=0, stream=0, members=plan.members),
        }

    def run(self, count: int) -> list[float]:
        """Run so often and return what each run took, in ms."""
        taken = []
        for _ in range(count):
            begun = time.perf_counter()
            self._session.run(None, self._feeds)
            taken.append(1000 * (time.perf_counter() - begun))
        return taken


def measure(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Time both by turns; the agent has its log, outbox, broker and a folder of JPEG files.

    Raises:
        ModelError: the agent gave no verdict for a frame.
    """
    bundle = bundle_of(options.model, options.members, work.parent)
    frames, watch, stop = work / "frames", _Stopwatch(), threading.Event()
    frames.mkdir(parents=True)
    pictures = photographs(8, CAMERA)
    handler = logging.FileHandler(work / "agent.log")
    logger = logging.getLogger("deepfusion_edge")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    with Rig(work / "rig") as rig:
        folder = {"kind": "folder", "name": "cam", "path": str(frames), "mode": "watch"}
        source = folder | {"poll_interval_s": 0.05}
        path = rig.config(rig.install(bundle), source, threads=options.threads)
        (work / "graph").mkdir()
        bare = _Bare(bundle.path, work / "graph", options.threads)
        agent = threading.Thread(
            target=run_agent,
            args=(read_config(path),),
            kwargs={"stop": stop, "observers": [watch]},
        )
        agent.start()
        try:
            rounds = _rounds(options, bare, watch, frames, pictures)
        finally:
            stop.set()
            agent.join()
            logger.removeHandler(handler)
            handler.close()
    return _figures(options, rounds, watch)


def _rounds(
    options: argparse.Namespace,
    bare: _Bare,
    watch: _Stopwatch,
    frames: Path,
    pictures: list[bytes],
) -> list[tuple[float, float, list[float]]]:
    """(agent's frames/s, bare runs/s, bare ms) of each round after the first, which warms up."""
    found = []
    with progress("speed", options.rounds + 1) as advance:
        for number in range(options.rounds + 1):
            if number % 2:
                agents = _feed(options.frames, number, watch, frames, pictures)
                taken = bare.run(options.frames)
            else:
                taken = bare.run(options.frames)
                agents = _feed(options.frames, number, watch, frames, pictures)
            if number:
                found.append((agents, 1000 * len(taken) / sum(taken), taken))
            else:
                watch.judged_ones.clear()
            advance(1)
    return found


def _feed(count: int, number: int, watch: _Stopwatch, frames: Path, pictures: list[bytes]) -> float:
    """Put frames before the watching agent; returns frames/s from the first verdict to the last."""
    watch.moments.clear()
    aside = frames.with_name(f"round-{number}")
    aside.mkdir()
    for n in range(count):
        (aside / f"{number:04}-{n:05}.jpg").write_bytes(pictures[n % len(pictures)])
    for file in sorted(aside.iterdir()):
        file.rename(frames / file.name)
    with watch.came:
        if not watch.came.wait_for(lambda: len(watch.moments) >= count, _PATIENCE_S):
            raise ModelError(f"{len(watch.moments)} of {count} frames were judged", "see agent.log")
    for file in frames.iterdir():
        file.unlink()
    shutil.rmtree(aside)
    return (count - 1) / (watch.moments[-1] - watch.moments[0])


def _figures(
    options: argparse.Namespace,
    rounds: list[tuple[float, float, list[float]]],
    watch: _Stopwatch,
) -> dict[str, Any]:
    ratios = [agent / bare for agent, bare, _ in rounds]
    total = [judged.timing.total_ms for judged in watch.judged_ones]
    infer = [judged.timing.infer_ms for judged in watch.judged_ones]
    bare = [value for _, _, taken in rounds for value in taken]
    each = [total[n : n + options.frames] for n in range(0, len(total), options.frames)]
    quiet = [
        of_agent
        for of_agent, (_, _, of_bare) in zip(each, rounds, strict=True)
        if _tail(of_bare) <= QUIET
    ]
    return {
        "fps_over_bare": float(np.median(ratios)),
        "fps_over_bare_rounds": ratios,
        "fps": float(np.median([agent for agent, _, _ in rounds])),
        "bare_fps": float(np.median([bare for _, bare, _ in rounds])),
        "p99_over_p50": _tail(total),
        "p99_over_p50_in_quiet_rounds": _tail(list(chain(*quiet))) if quiet else None,
        "quiet_rounds": len(quiet),
        "latency_ms": _spread(total),
        "infer_ms": _spread(infer),
        "prepare_ms": _spread([judged.timing.prepare_ms for judged in watch.judged_ones]),
        "bare_ms": _spread(bare),
        "bare_p99_over_p50": _tail(bare),
        "frames": len(total),
        "rounds": options.rounds,
        "members": options.members,
        "threads": options.threads,
        "model": options.model,
        "camera": CAMERA,
    }


def _tail(values: list[float]) -> float:
    return float(np.percentile(values, 99) / np.median(values))


def _spread(values: list[float]) -> dict[str, float]:
    return {f"p{q}": float(np.percentile(values, q)) for q in (50, 95, 99)}
