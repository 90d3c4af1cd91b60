"""What hangs, dies or takes all memory: cameras, inferences, probes, the agent itself."""

import json
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from unittest.mock import patch

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from benchmarks.prove.bundles import Maker
from benchmarks.prove.faults.claim import Fault, need
from benchmarks.prove.faults.publishing import until
from deepfusion_edge.bundle import store
from deepfusion_edge.bundle.manifest import MODEL
from deepfusion_edge.bundle.trial import Limits
from deepfusion_edge.config import CameraSource, FolderSource
from deepfusion_edge.errors import InputError, ModelError, StorageError, StuckError
from deepfusion_edge.feed import Feed, Prepared
from deepfusion_edge.outbox import read_counters
from deepfusion_edge.report.payload import SourceState
from deepfusion_edge.source.base import Frame
from deepfusion_edge.source.camera import Camera
from deepfusion_edge.source.folder import Folder

NOW = "2026-06-01T00:00:00Z"
OPEN_S, PROBE_S, MEMORY_BYTES = 0.5, 0.05, 2 * 2**30
"""Limits: a fault takes each of them out by making it too large."""
_LOST_IN_S = 5.0
_HUNGRY = 700_000_000  # float32: 2.8 GB
_FRAMES, _WATCHDOG_S = 20, 1.0
_SILENT = (sys.executable, "-c", "import time; time.sleep(600)")
_RUN = ("-m", "deepfusion_edge.cli", "run")


def _camera(_maker: Maker, work: Path) -> str:
    pictures = pictures_in(work / "frames", _FRAMES)
    config = CameraSource(name="camera", device=0, open_timeout_s=OPEN_S)
    folder = FolderSource(name="folder", path=str(pictures), mode="watch", poll_interval_s=0.02)
    told: list[SourceState] = []

    def changed(name: str, state: SourceState) -> None:
        if name == "camera":
            told.append(state)

    feed = Feed([Camera(config, command=_SILENT), Folder(folder)], _unread, changed=changed)
    finish, taken = threading.Event(), 0
    thread = threading.Thread(target=feed.run, args=(finish,), daemon=True)
    thread.start()
    try:
        deadline = time.monotonic() + _LOST_IN_S
        while time.monotonic() < deadline and not any(one.state == "lost" for one in told):
            taken += feed.take(0.05) is not None
    finally:
        finish.set()
        thread.join()
    need(taken == _FRAMES, f"{taken} of {_FRAMES} frames of the other source were taken")
    lost = [one.reason for one in told if one.state == "lost"]
    need(bool(lost), f"the camera is not said to be lost after {_LOST_IN_S:g} s")
    return f"{lost[0]}; all {taken} frames of the other source were taken meanwhile"


def _inference(maker: Maker, work: Path, faults: str = "hang-at-8") -> str:
    faults += _UNWATCHED.get("faults", "")
    config = agent_config(maker, work)
    command = [sys.executable, "-m", "benchmarks.prove.faults.child", faults, "run"]
    with start([*command, "--config", str(config)], work) as agent:
        try:
            code = agent.wait(30 * _WATCHDOG_S if not _UNWATCHED else 8 * _WATCHDOG_S)
        except subprocess.TimeoutExpired:
            agent.kill()
            need(holds=False, otherwise=f"it hangs after {8 * _WATCHDOG_S:g} s")
    need(code == StuckError.exit_code, f"exit code {code}")
    return f"exit code {code}, and the alert waits in the outbox"


_UNWATCHED: dict[str, str] = {}
"""``faults`` to add when the watchdog is taken out."""


def _killed(maker: Maker, work: Path, options: Sequence[str] = ("--supervise",)) -> str:
    options = _ALONE.get("options", options)
    config = agent_config(maker, work)
    state = work / "state"
    command = [sys.executable, *_RUN, *options, "--config", str(config)]
    with start(command, work) as agent:
        try:
            until(lambda: _received(state) >= _FRAMES, "it does not judge", 60)
            victim = _child_of(agent.pid) if options else agent.pid
            os.kill(victim, 9)
            before = _received(state)
            pictures_in(work / "frames", 2 * _FRAMES)
            until(lambda: _received(state) > before, "it does not judge any more", 15)
        finally:
            agent.terminate()
            agent.wait(30)
    return "another process judges again"


_ALONE: dict[str, Sequence[str]] = {}
"""``options`` to run with when the supervisor is taken out."""


def _hungry_probe(maker: Maker, work: Path) -> str:
    store.install(maker.make(1), work / "state", [maker.public], now=NOW, probe=False)
    bundle = maker.make(2, name="hungry", parts={MODEL: _hungry(maker.part(MODEL))})
    told = _refused(maker, bundle, work / "state", Limits(memory_bytes=MEMORY_BYTES))
    most = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    need(most <= MEMORY_BYTES, f"a subprocess took {most / 2**30:.1f} GiB")
    return f"{told}; the old bundle serves"


def _slow_probe(maker: Maker, work: Path) -> str:
    store.install(maker.make(1), work / "state", [maker.public], now=NOW, probe=False)
    return _refused(maker, maker.make(2), work / "state", Limits(timeout_s=PROBE_S))


def _refused(maker: Maker, bundle: Path, state: Path, limits: Limits) -> str:
    try:
        store.install(bundle, state, [maker.public], now=NOW, limits=limits)
    except ModelError as error:
        served = store.load_current(state, now=NOW).manifest.sequence
        need(served == 1, f"{served} is current")
        return error.what
    need(holds=False, otherwise="it was installed")
    return ""


def _hungry(model: bytes) -> bytes:
    """The same outputs, by way of a tensor of some gigabytes that no shape gives away."""
    made = onnx.load_model_from_string(model)
    graph = made.graph
    for node in graph.node:
        node.output[:] = [f"{n}_0" if n == "feature_variance" else n for n in node.output]
        node.input[:] = [f"{n}_0" if n == "feature_variance" else n for n in node.input]
    size = numpy_helper.from_array(np.array([_HUNGRY], np.int64), "hungry_size")
    zero = helper.make_tensor("hungry_zero", TensorProto.FLOAT, [1], [0.0])
    graph.initializer.append(size)
    graph.node.extend(
        [
            helper.make_node("ConstantOfShape", ["hungry_size"], ["hungry"], value=zero),
            helper.make_node("ReduceMax", ["hungry"], ["hungry_max"], keepdims=0),
            helper.make_node("Add", ["feature_variance_0", "hungry_max"], ["feature_variance"]),
        ]
    )
    return bytes(made.SerializeToString(deterministic=True))


def pictures_in(folder: Path, count: int) -> Path:
    """Have ``count`` small pictures in a folder, each whole from its first moment."""
    folder.mkdir(exist_ok=True)
    for number in range(count):
        path = folder / f"{number:04}.png"
        if not path.exists():
            part = folder / ".part"
            Image.new("RGB", (8, 8), (number, 0, 0)).save(part, "PNG")
            part.rename(path)
    return folder


def agent_config(maker: Maker, work: Path) -> Path:
    """Install bundle 1 and configure an agent that watches ``work/frames``; no broker answers."""
    state = work / "state"
    store.install(maker.make(1), state, [maker.public], now=NOW, probe=False)
    frames = pictures_in(work / "frames", _FRAMES)
    source = {"kind": "folder", "name": "cam", "path": str(frames), "mode": "watch"}
    config = {
        "state_dir": str(state),
        "sources": [source | {"poll_interval_s": 0.05}],
        "mqtt": {"port": 1, "client_id": "line-1"},
        "model": {"threads": 1, "watchdog_s": _WATCHDOG_S},
        "run": {"drain_timeout_s": 0.5},
        "http": {"port": 0},
    }
    path = work / "agent.json"
    path.write_text(json.dumps(config))
    return path


def start(command: Sequence[str], work: Path) -> "subprocess.Popen[bytes]":
    """Start a process whose output goes to ``work/log``."""
    with (work / "log").open("ab") as log:
        return subprocess.Popen(list(command), stdout=log, stderr=log)


def _unread(frame: Frame) -> Prepared:
    return Prepared(frame, InputError("nobody looks at it", "nothing to do"), 0.0)


def _received(state: Path) -> int:
    try:
        counters = read_counters(state, now_s=0.0)
    except StorageError:  # the agent is making it
        return 0
    return 0 if counters is None else counters.received


def _child_of(pid: int) -> int:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(children[0])


_HERE = sys.modules[__name__]
FAULTS = (
    Fault(
        "Camera that hangs",
        "it is said to be lost, and the other source is judged meanwhile",
        "the time-out of its reader",
        _camera,
        lambda: patch.object(_HERE, "OPEN_S", 600.0),
    ),
    Fault(
        "Inference that never returns",
        "the process ends itself with exit code 9",
        "the watchdog",
        _inference,
        lambda: patch.dict(_UNWATCHED, faults=",without-watchdog"),
    ),
    Fault(
        "Agent killed, as when memory runs out",
        "its supervisor starts it again, and frames are judged",
        "the supervisor",
        _killed,
        lambda: patch.dict(_ALONE, options=()),
    ),
    Fault(
        "Model that takes all memory when probed",
        "refused within the limit, and the old bundle serves",
        "the probe's limit of memory",
        _hungry_probe,
        lambda: patch.object(_HERE, "MEMORY_BYTES", 2**40),
    ),
    Fault(
        "Model that takes too long when probed",
        "refused in time, and the old bundle serves",
        "the probe's limit of time",
        _slow_probe,
        lambda: patch.object(_HERE, "PROBE_S", 600.0),
    ),
)
