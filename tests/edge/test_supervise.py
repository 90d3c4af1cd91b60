"""Starting again what ends badly, with real processes and real signals."""

import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from deepfusion_edge import cli
from deepfusion_edge.errors import StorageError
from deepfusion_edge.supervise import BackOff, supervise

PATIENCE_S = 60.0


class AtOnce(BackOff):
    def delay_s(self, _):
        return 0.0


@pytest.fixture
def script(tmp_path):
    """``script(body)`` -> command that runs it; ``n`` counts its starts."""

    def make(body):
        path = tmp_path / "script.py"
        path.write_text(
            f"import os, signal, sys, time\nfrom pathlib import Path\n"
            f"log = Path({str(tmp_path / 'starts')!r})\n"
            "log.write_text(log.read_text() + 'x' if log.exists() else 'x')\n"
            f"n = len(log.read_text())\n{textwrap.dedent(body)}"
        )
        return [sys.executable, str(path)]

    return make


def starts(folder):
    path = folder / "starts"
    return len(path.read_text()) if path.exists() else 0


@pytest.mark.parametrize("code", [0, 2, 7, 130])
def test_what_is_final_is_not_started_again(script, tmp_path, code):
    assert supervise(script(f"sys.exit({code})"), back_off=AtOnce()) == code
    assert starts(tmp_path) == 1


@pytest.mark.parametrize(
    "bad",
    ["sys.exit(9)", "sys.exit(1)", "sys.exit(10)", "os.kill(os.getpid(), signal.SIGSEGV)"],
)
def test_what_ends_badly_is_started_until_it_is_well(script, tmp_path, bad):
    command = script(f"if n < 4:\n    {bad}\n")
    assert supervise(command, back_off=AtOnce()) == 0
    assert starts(tmp_path) == 4


def test_five_in_a_minute_then_slower_and_quick_again_after_a_calm_time():
    back_off = BackOff()
    now, delays = 0.0, []
    for _ in range(12):
        delays.append(back_off.delay_s(now))
        now += delays[-1] + 1
    assert delays == [0.5, 0.5, 0.5, 0.5, 10, 20, 40, 80, 160, 300, 300, 300]
    assert back_off.delay_s(now + 1000) == 0.5


def test_rare_failures_are_always_answered_quickly():
    back_off = BackOff()
    assert {back_off.delay_s(20.0 * n) for n in range(100)} == {0.5}


def test_what_cannot_be_started_is_an_error():
    with pytest.raises(StorageError, match="cannot be started"):
        supervise(["/nowhere/agent"])


SUPERVISOR = """
import logging, sys
from deepfusion_edge.supervise import supervise
sys.exit(supervise(sys.argv[1:]))
"""


def started(command, folder):
    supervisor = subprocess.Popen([sys.executable, "-c", SUPERVISOR, *command])
    deadline = time.monotonic() + PATIENCE_S
    while not (folder / "ready").exists():
        assert time.monotonic() < deadline
        assert supervisor.poll() is None
        time.sleep(0.02)
    return supervisor


READY = "Path(log.parent, 'ready').write_text(str(os.getpid()))\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_are_passed_on_once_and_the_agent_ends_in_its_own_time(script, tmp_path, number):
    command = script(
        f"""
        heard = []
        signal.signal({int(number)}, lambda *_: heard.append(1))
        {READY.strip()}
        while not heard:
            time.sleep(0.01)
        time.sleep(0.3)
        sys.exit(40 + len(heard))
        """
    )
    supervisor = started(command, tmp_path)
    supervisor.send_signal(number)
    assert supervisor.wait(PATIENCE_S) == 41
    assert starts(tmp_path) == 1


def test_a_stop_while_it_waits_to_start_again_ends_at_once(script, tmp_path):
    supervisor = started(script(READY + "sys.exit(9)"), tmp_path)
    deadline = time.monotonic() + PATIENCE_S
    while starts(tmp_path) < 5:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(0.2)  # now it waits for 10 s
    begun = time.monotonic()
    supervisor.terminate()
    assert supervisor.wait(PATIENCE_S) == 0
    assert time.monotonic() - begun < 5


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is of Linux")
def test_the_agent_ends_when_its_supervisor_is_killed(script, tmp_path):
    supervisor = started(script(READY + "time.sleep(600)"), tmp_path)
    agent = int((tmp_path / "ready").read_text())
    supervisor.kill()
    supervisor.wait()
    deadline = time.monotonic() + PATIENCE_S
    while _runs(agent):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _runs(pid):
    try:
        return Path("/proc", str(pid), "stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_the_option_runs_the_same_command_without_itself(tmp_path, monkeypatch):
    config = tmp_path / "agent.json"
    config.write_text(
        '{"state_dir": "a", "sources": [{"kind": "folder", "name": "a", "path": "a"}]}'
    )
    seen = []
    monkeypatch.setattr("deepfusion_edge.supervise.supervise", lambda c: seen.append(c) or 0)
    assert cli.main(["run", "--config", str(config), "--supervise", "--json"]) == 0
    (command,) = seen
    assert command[:4] == [sys.executable, "-m", "deepfusion_edge.cli", "run"]
    assert "--supervise" not in command
    assert vars(cli.build_parser().parse_args(command[3:]))["config"] == config
    assert "--json" in command
