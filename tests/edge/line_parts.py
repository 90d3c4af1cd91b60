"""A real agent with frames that come all the time, and a person with a key."""

import io
import json
import signal
import subprocess
import sys
import threading

from PIL import Image

from deepfusion_edge import cli


class Line:
    """An agent as a process, frames that come all the time, and a person with a key."""

    def __init__(self, folder, broker, keys):
        self.folder, self.broker, self.keys = folder, broker, keys
        self.state, self.frames = folder / "state", folder / "frames"
        self.frames.mkdir()
        self.operator = keys
        self._feeding = threading.Event()
        self._count = 0
        self._process = None
        self.options = ["--supervise"]
        self.config = {
            "state_dir": "state",
            "sources": [
                {
                    "kind": "folder",
                    "name": "cam",
                    "path": "frames",
                    "mode": "watch",
                    "poll_interval_s": 0.02,
                }
            ],
            "mqtt": {"port": broker.port, "client_id": "line-1"},
            "commands": {
                "keys": [
                    {
                        "file": str(keys.public),
                        "actions": [
                            *("set-members", "set-policy", "snapshot"),
                            *("install", "roll-back", "restart"),
                        ],
                    }
                ],
                "snapshot_dir": "snapshots",
            },
            "updates": {
                "min_free_bytes": 0,
                "idle_timeout_s": 2,
                "probation": {"frames": 60, "latency_factor": 1000.0},
            },
        }

    def start(self):
        (self.folder / "agent.json").write_text(json.dumps(self.config))
        self._feeding.clear()
        with (self.folder / "log").open("ab") as log:
            self._process = self._open(log)
        self._feeder = threading.Thread(target=self._feed)
        self._feeder.start()

    def _open(self, log):
        return subprocess.Popen(
            [
                *(sys.executable, "-m", "deepfusion_edge.cli", "run", *self.options),
                *("--config", self.folder / "agent.json", "--log-level", "warning"),
            ],
            stdout=subprocess.DEVNULL,
            stderr=log,
        )

    def _feed(self):
        stream = io.BytesIO()
        Image.new("RGB", (8, 8), (255, 0, 0)).save(stream, "PNG")
        while not self._feeding.wait(0.02):
            self._count += 1
            (self.frames / "part").write_bytes(stream.getvalue())
            (self.frames / "part").rename(self.frames / f"{self._count:06}.png")

    def stop(self, number=signal.SIGTERM):
        self._feeding.set()
        self._feeder.join()
        self._process.send_signal(number)
        self._process.wait(40)

    def sign(self, *words, name, keys=None):
        out = self.folder / f"{name}.cmd"
        words = ["sign", *map(str, words), "--agent", "deepfusion/line-1", "--id", name]
        words += [
            "--key",
            str((keys or self.keys).private_path),
            "--out",
            str(out),
            "--log-level",
            "error",
        ]
        assert cli.main(words) == 0
        return out

    def send(self, file, *words) -> int:
        words = ["--port", str(self.broker.port), "--wait-s", "120", "--json", *map(str, words)]
        return cli.main(["send", str(file), *words])
