"""A line with its broker, web server and frames: a real agent's process, updated from afar."""

import contextlib
import functools
import http.server
import itertools
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from benchmarks.agent.mosquitto import Mosquitto
from benchmarks.prove.bundles import Maker
from deepfusion_edge.bundle import store
from deepfusion_edge.commands.courier import Courier
from deepfusion_edge.commands.signing import install_action, make
from deepfusion_edge.commands.status import CommandStatus
from deepfusion_edge.config import Mqtt
from deepfusion_edge.line import utc_now
from deepfusion_edge.outbox import read_counters

AGENT = "soak"
PROBATION_FRAMES = 20
_RING = 400
"""So many frames may wait: a file that is touched again before it was read is one frame."""
_MODULE = "benchmarks.prove.soak.agent"


class Sample(NamedTuple):
    """How the agent is at a moment of the year.

    Attributes:
        day: with its fraction.
        rss_mib: of the process.
        files_kib: of the state directory, without bundles.
        bundles_kib: of the bundles in it.
        waiting: events in the outbox.
        stored: events since the beginning.
        delivered: the same, those that came twice counted twice.
    """

    day: float
    rss_mib: float
    files_kib: float
    bundles_kib: float
    waiting: int
    stored: int
    delivered: int


class Frames:
    """Pictures that are new again and again, in a ring of files; each touch is a frame.

    Attributes:
        given: how many frames there were.
    """

    def __init__(self, folder: Path, pictures: list[bytes], per_second: float) -> None:
        folder.mkdir()
        self._paths = [folder / f"{number:04}.jpg" for number in range(_RING)]
        for path, picture in zip(self._paths, itertools.cycle(pictures), strict=False):
            path.write_bytes(picture)
        self.given = _RING
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(1 / per_second,), daemon=True)

    def start(self) -> None:
        """Begin; what lies there already is the first round."""
        self._thread.start()

    def stop(self) -> None:
        """End; no frame comes any more."""
        self._stop.set()
        self._thread.join()

    def _run(self, pause_s: float) -> None:
        for path in itertools.cycle(self._paths):
            if self._stop.wait(pause_s):
                return
            os.utime(path)
            self.given += 1


class Plant:
    """One line; use it as a context."""

    def __init__(self, maker: Maker, work: Path, pictures: list[bytes], per_second: float) -> None:
        """Install bundle 1; nothing runs before the context is entered."""
        work.mkdir(parents=True, exist_ok=True)
        self.work, self.state, self._maker = work, work / "state", maker
        self.broker = Mosquitto(work / "broker")
        self.frames = Frames(work / "frames", pictures, per_second)
        self._sequence = 1
        store.install(maker.make(1), self.state, [maker.public], now=utc_now())
        handler = functools.partial(_Handler, directory=str(maker.folder))
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._serving = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._config = self._write_config(work / "frames")
        self.agent: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.broker.start()
        self._serving.start()
        with (self.work / "agent.log").open("ab") as log:
            command = [sys.executable, "-m", _MODULE, "run", "--config", str(self._config)]
            self.agent = subprocess.Popen(command, stdout=log, stderr=log)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.frames.stop()
        if self.agent is not None and self.agent.poll() is None:
            self.agent.kill()
            self.agent.wait()
        self._server.shutdown()
        self._server.server_close()
        self.broker.stop()

    def order(self, bundle: Path, sequence: int, wait_s: float = 120.0) -> CommandStatus:
        """Command the agent to install a bundle from the web server; returns how it ended."""
        url = f"http://127.0.0.1:{self._server.server_address[1]}/{bundle.name}"
        signed = make(
            install_action(bundle, url),
            f"deepfusion/{AGENT}",
            self._maker.private,
            now_s=time.time(),
            valid_s=600,
            sequence=sequence,
        )
        config = Mqtt(port=self.broker.port, client_id=f"courier-{sequence}")
        return Courier(config, signed, None, lambda _status: None).deliver(wait_s=wait_s)

    def sample(self, day: float, delivered: int) -> Sample:
        """Look at the process, its files and its outbox."""
        assert self.agent is not None  # noqa: S101 - entered
        pages = int(Path("/proc", str(self.agent.pid), "statm").read_text().split()[1])
        bundles = _bytes_of(self.state / "bundles")
        counters = read_counters(self.state, now_s=time.time())
        kept, received = (0, 0) if counters is None else (counters.kept, counters.received)
        files = _bytes_of(self.state) - bundles
        rss = pages * os.sysconf("SC_PAGE_SIZE")
        return Sample(day, rss / 2**20, files / 2**10, bundles / 2**10, kept, received, delivered)

    def _write_config(self, frames: Path) -> Path:
        source = {"kind": "folder", "name": "cam", "path": str(frames), "mode": "watch"}
        config = {
            "state_dir": str(self.state),
            "sources": [source | {"poll_interval_s": 0.1}],
            "mqtt": {"port": self.broker.port, "client_id": AGENT, "state_interval_s": 1.0},
            "model": {"threads": 1},
            "run": {"drain_timeout_s": 120.0},
            "http": {"port": 0},
            "commands": {"keys": [{"file": str(self._maker.public), "actions": ["install"]}]},
            "updates": {
                "min_free_bytes": 0,
                "probation": {"frames": PROBATION_FRAMES, "latency_factor": 1000.0},
            },
        }
        path = self.work / "agent.json"
        path.write_text(json.dumps(config))
        return path


class _Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing."""


def _bytes_of(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # it was just removed
            total += path.lstat().st_size
    return total
