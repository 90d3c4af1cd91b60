"""For all tests: a real MQTT broker on a free loopback port; what needs a GPU is left out."""

import contextlib
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.planted import pytest_runtest_makereport  # noqa: F401 - a hook

_INSTALL = (
    "mosquitto is not installed: `apt-get install mosquitto` (Debian, Ubuntu), `brew install"
    " mosquitto` (macOS); or set DEEPFUSION_NO_BROKER=1 to leave out the tests that need it"
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--gpu", action="store_true", help="run the tests marked gpu too")
    parser.addoption("--long", action="store_true", help="run the tests marked long too")
    parser.addoption(
        "--update-goldens", action="store_true", help="write files that tests compare, anew"
    )


def pytest_report_header(config: pytest.Config) -> str:
    if config.getoption("--gpu"):
        return "gpu: tests marked gpu are run; they fail where there is no GPU"
    return "gpu: tests marked gpu are left out; 'make test-gpu' runs them on a machine with a GPU"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    unasked = [name for name in ("gpu", "long") if not config.getoption(f"--{name}")]
    left_out = [item for item in items if any(map(item.get_closest_marker, unasked))]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


class Broker:
    """A mosquitto process with its own configuration in its own folder."""

    def __init__(self, program: str, folder: Path, *, port: int, options: str):
        self.host, self.port = "127.0.0.1", port
        self.folder, self._program = folder, program
        self._process: subprocess.Popen[bytes] | None = None
        self.config = folder / "mosquitto.conf"
        self.config.write_text(
            f"listener {port} 127.0.0.1\nallow_zero_length_clientid true\n{options}"
        )

    def start(self) -> None:
        with (self.folder / "mosquitto.log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._program, "-c", str(self.config)], stdout=log, stderr=log
            )
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                break
            with contextlib.suppress(OSError), socket.create_connection((self.host, self.port), 1):
                return
            time.sleep(0.02)
        raise RuntimeError(f"mosquitto did not start:\n{self.log()}")

    def stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.terminate()
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(5)
            self._process = None

    def freeze(self) -> None:
        """Keep connections open, and accept new ones, without ever answering."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def log(self) -> str:
        return (self.folder / "mosquitto.log").read_text(errors="replace")

    def _signal(self, number: int) -> None:
        assert self._process is not None, "the broker is not running"
        self._process.send_signal(number)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def make_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Broker]]:
    """``make_broker(username=, password=, options=, started=True, disk=)`` -> Broker."""
    if os.environ.get("DEEPFUSION_NO_BROKER") == "1":
        pytest.skip("DEEPFUSION_NO_BROKER=1: no test that speaks MQTT runs")
    program = shutil.which(
        "mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"
    )
    if program is None:
        pytest.fail(_INSTALL, pytrace=False)
    made: list[Broker] = []

    def make(
        *,
        username: str = "line",
        password: str | None = None,
        options: str = "",
        started: bool = True,
        disk: Path | None = None,
    ) -> Broker:
        folder = tmp_path_factory.mktemp("broker")
        options += f"persistence true\npersistence_location {disk or folder}/\n"
        # mosquitto drops its rights when root starts it, and could then not read its own files.
        options += "user root\n" if os.geteuid() == 0 else ""
        if password is None:
            options += "allow_anonymous true\n"
        else:
            file = folder / "passwords"
            file.write_text(f"{username}:{password}\n")
            file.chmod(0o600)
            tool = Path(program).with_name("mosquitto_passwd")
            tool = tool if tool.exists() else Path(shutil.which("mosquitto_passwd") or tool)
            subprocess.run([tool, "-U", file], check=True, capture_output=True)
            options += f"allow_anonymous false\npassword_file {file}\n"
        broker = Broker(program, folder, port=free_port(), options=options)
        made.append(broker)
        if started:
            broker.start()
        return broker

    yield make
    for broker in made:
        broker.stop()


@pytest.fixture(scope="session")
def node() -> Callable[..., subprocess.Popen[str]]:
    """``node(script, *arguments)`` -> process that runs a script of tests/npm; pipes are text.

    The packages are those of package-lock.json, installed once, without their install scripts.
    """
    tools = [shutil.which(name) for name in ("node", "npm")]
    if None in tools:
        pytest.skip("node and npm are not installed: no independent part to compare with")
    ours = Path(__file__).parent / "npm"
    folder = ours.parents[1] / ".npm_cache"
    folder.mkdir(exist_ok=True)
    wanted, marker = ours / "package-lock.json", folder / ".installed"
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several test processes, one installation
        for file in ours.iterdir():
            copy = folder / file.name  # not again: another process may be reading it
            if not copy.exists() or copy.read_bytes() != file.read_bytes():
                copy.write_bytes(file.read_bytes())
        if not marker.exists() or marker.read_bytes() != wanted.read_bytes():
            command = [str(tools[1]), "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
            try:
                done = subprocess.run(
                    command, cwd=folder, capture_output=True, text=True, timeout=300, check=False
                )
            except subprocess.TimeoutExpired:
                pytest.skip("npm ci took longer than 300 s: its registry does not answer")
            if done.returncode:
                pytest.skip(f"npm ci failed: {' '.join(done.stderr.split())[-300:]}")
            marker.write_bytes(wanted.read_bytes())

    def run(script: str, *arguments: str) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        return subprocess.Popen(
            [str(tools[0]), script, *arguments], cwd=folder, stdin=pipe, stdout=pipe, text=True
        )

    return run


@pytest.fixture
def broker(make_broker: Callable[..., Broker]) -> Broker:
    """Anonymous and running."""
    return make_broker()
