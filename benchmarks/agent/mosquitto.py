"""A mosquitto of one's own, without anything else."""

import contextlib
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

from deepfusion_edge.errors import InputError, UnreachableError

_PATIENCE_S = 20.0


class Mosquitto:
    """A broker on a loopback port that may be stopped and started; it keeps sessions on disk."""

    def __init__(self, folder: Path) -> None:
        """Find the program.

        Raises:
            InputError: it is not installed.
        """
        program = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
        if program is None:
            raise InputError("mosquitto is not installed", "run: make broker")
        folder.mkdir(parents=True, exist_ok=True)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        as_root = "user root\n" if os.geteuid() == 0 else ""
        self._config = folder / "mosquitto.conf"
        self._config.write_text(
            f"listener {self.port} 127.0.0.1\nallow_anonymous true\nmax_queued_messages 0\n"
            f"persistence true\npersistence_location {folder}/\nlog_type warning\n{as_root}"
        )
        self._program = program
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it listens.

        Raises:
            UnreachableError: it does not.
        """
        self._process = subprocess.Popen(
            [self._program, "-c", str(self._config)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + _PATIENCE_S
        while time.monotonic() < deadline:
            with (
                contextlib.suppress(OSError),
                socket.create_connection(("127.0.0.1", self.port), 1),
            ):
                return
            time.sleep(0.02)
        raise UnreachableError("mosquitto does not start", f"see {self._config}")

    def stop(self) -> None:
        """End it in order: it writes its sessions."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(_PATIENCE_S)
            self._process = None
