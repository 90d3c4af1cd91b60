"""The command line as a user meets it: whole processes, one line of error, exit codes."""

import io
import json
import os
import signal
import subprocess
import sys
import time

import pytest
from PIL import Image

from deepfusion_edge import __version__, cli, console
from deepfusion_edge.config import Mqtt
from deepfusion_edge.errors import InputError, UsageError

AGENT = [sys.executable, "-m", "deepfusion_edge.cli"]


def png(colour=(255, 0, 0)):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def line(tmp_path, make_bundle, keys, capsys):
    """A state folder with an installed bundle, and three frames."""
    bundle = make_bundle(tmp_path / "line.dfb")
    state = tmp_path / "state"
    code = cli.main(["install", str(bundle), "--trust", str(keys.public), "--state", str(state)])
    assert code == 0
    assert "installed: id line, sequence 1" in capsys.readouterr().out
    (tmp_path / "frames").mkdir()
    for n in range(3):
        (tmp_path / "frames" / f"{n}.png").write_bytes(png())
    return tmp_path


def write_config(folder, port, *, mode="replay", drain_timeout_s=10, **mqtt):
    source = {"kind": "folder", "name": "cam", "path": "frames", "mode": mode}
    value = {
        "state_dir": "state",
        "sources": [source | {"poll_interval_s": 0.05}],
        "mqtt": {"port": port, "client_id": "line-1", **mqtt},
        "run": {"drain_timeout_s": drain_timeout_s},
    }
    path = folder / "agent.json"
    path.write_text(json.dumps(value))
    return path


def run(*arguments, **options):
    command = [*AGENT, *map(str, arguments)]
    return subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=60, **options
    )


def test_run_publishes_and_sums_up(line, broker):
    done = run("run", "--config", write_config(line, broker.port), "--json")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary.pop("latency_ms_p50") > 0
    assert summary == {
        "frames": 3,
        "accepted": 3,
        "suspect": 0,
        "rejected": 0,
        "unreadable": 0,
        "escalated": 0,
        "sent": 3,
        "kept": 0,
    }
    assert sum("accept cam/" in text for text in done.stderr.splitlines()) == 3


def test_without_a_broker_exit_7_and_the_next_run_delivers(line, make_broker):
    broker = make_broker(started=False)
    config = write_config(line, broker.port, drain_timeout_s=0.5)
    done = run("run", "--config", config, "--log-level", "error")
    assert done.returncode == 7
    (text,) = done.stderr.splitlines()
    assert text.startswith(f"error: broker 127.0.0.1:{broker.port} does not answer")
    assert "3 events are kept" in text
    status = run("status", "--state", line / "state", "--json")
    assert json.loads(status.stdout)["outbox"]["kept"] == 3
    _, outbox = run("status", "--state", line / "state").stdout.splitlines()
    assert outbox.startswith("outbox: received 3, sent 0, dropped 0, expired 0, kept 3, oldest_age")
    broker.start()
    done = run("run", "--config", write_config(line, broker.port), "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["sent"] == 6


def test_a_wrong_password_is_said_and_not_shown(line, make_broker):
    broker = make_broker(password="right")  # noqa: S106
    login = {"username": "line", "password_env": "LINE_PASSWORD"}
    config = write_config(line, broker.port, drain_timeout_s=0.5, **login)
    done = run(
        "run",
        "--config",
        config,
        "--log-level",
        "debug",
        env=os.environ | {"LINE_PASSWORD": "n0t-it"},
    )
    assert done.returncode == 7
    assert "check mqtt.username and the password" in done.stderr.splitlines()[-1]
    assert "n0t-it" not in done.stderr + done.stdout
    unset = run("run", "--config", config)
    assert unset.returncode == 2
    assert "LINE_PASSWORD" in unset.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_ends_a_watching_agent_in_order(line, broker, number, code):
    config = write_config(line, broker.port, mode="watch")
    with subprocess.Popen(
        [*AGENT, "run", "--config", config, "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        seen = 0
        while seen < 3:
            text = process.stderr.readline()
            assert text, "the agent ended"
            seen += "accept cam/" in text
        process.send_signal(number)
        out, _ = process.communicate(timeout=20)
    assert process.returncode == code
    assert json.loads(out)["sent"] == 3
    assert json.loads(out)["kept"] == 0


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        ((), 2, "COMMAND"),
        (("run",), 2, "--config"),
        (("run", "--config", "missing.json"), 3, "missing.json"),
        (("install", "missing.dfb", "--state", "s", "--trust", "missing.pub"), 3, "missing.pub"),
        (("status", "--state", "nowhere"), 3, "no bundle installed"),
        (("rollback", "--state", "nowhere"), 3, "no previous bundle"),
    ],
)
def test_a_mistake_is_one_line_and_a_code(arguments, code, says, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(list(arguments)) == code
    (text,) = capsys.readouterr().err.splitlines()
    assert text.startswith("error: ")
    assert says in text
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b"[" * 9999, b'{"state_dir": 1}'])
def test_a_broken_configuration_is_one_line(content, tmp_path, capsys):
    path = tmp_path / "agent.json"
    path.write_bytes(content)
    assert cli.main(["run", "--config", str(path)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_verify_accepts_and_refuses(line, make_keys, keys, capsys):
    bundle = str(line / "line.dfb")
    assert cli.main(["verify", bundle, "--trust", str(keys.public), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["sequence"] == 1
    assert cli.main(["verify", bundle, "--trust", str(make_keys().public)]) == 5
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_rollback_returns_to_the_bundle_before(line, make_bundle, capsys):
    second = make_bundle(line / "second.dfb", sequence=2)
    state = str(line / "state")
    assert cli.main(["install", str(second), "--state", state]) == 0
    assert cli.main(["rollback", "--state", state, "--json"]) == 0
    assert '"sequence": 1' in capsys.readouterr().out
    assert cli.main(["status", "--state", state, "--json"]) == 0
    status = json.loads(capsys.readouterr().out)
    assert (status["sequence"], status["outbox"]) == (1, None)


def test_status_before_the_outbox_has_its_tables(line, capsys):
    (line / "state" / "outbox.sqlite").touch()  # as an agent leaves it for some milliseconds
    assert cli.main(["status", "--state", str(line / "state"), "--json"]) == 0
    said = capsys.readouterr()
    assert (json.loads(said.out)["outbox"], said.err) == (None, "")
    assert cli.main(["status", "--state", str(line / "state")]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("installed: id line, sequence 1, ")
    assert first.endswith(", probation no")
    assert second == "outbox: nothing yet"


def test_version_and_help(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["--version"])
    assert ended.value.code == 0
    assert __version__ in capsys.readouterr().out
    begun = time.monotonic()
    done = run("--help")
    assert time.monotonic() - begun < 2
    assert done.returncode == 0
    assert "130  interrupted" in done.stdout


def test_help_loads_nothing_heavy():
    program = (
        "import sys; from deepfusion_edge import cli; cli.build_parser();"
        "print(*{'numpy', 'PIL', 'paho', 'onnxruntime', 'cryptography'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == ""


def test_passwords_are_read_from_files_and_never_quoted(tmp_path):
    path = tmp_path / "secret"
    mqtt = Mqtt(username="u", password_file=str(path))
    with pytest.raises(InputError):
        cli.read_password(mqtt)
    path.write_bytes(b"top secret\n")
    assert cli.read_password(mqtt) == "top secret"
    for content in (b"", b"\n", b"x" * 5000, b"quoted \xff"):
        path.write_bytes(content)
        with pytest.raises(InputError) as caught:
            cli.read_password(mqtt)
        assert "quoted" not in str(caught.value)
        assert caught.value.__cause__ is None
    assert cli.read_password(Mqtt()) is None


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UsageError("a", "b"), 2),
        (FileNotFoundError(2, "No such file", "x"), 3),
        (OSError(28, "No space left on device", "x"), 8),
        (PermissionError(13, "Permission denied", "x"), 8),
        (OSError(30, "Read-only file system"), 8),
        (OSError("no number"), 8),
        (KeyboardInterrupt(), 130),
    ],
)
def test_errors_are_translated_once(error, code, capsys):
    def fail():
        raise error

    assert console.run(fail) == code
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_defect_keeps_its_traceback():
    def fail():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        console.run(fail)


def test_a_name_cannot_forge_a_second_line(capsys):
    def fail():
        raise InputError("file 'a\nerror: all is well\x1b[2K'", "rename it")

    assert console.run(fail) == 3
    (text,) = capsys.readouterr().err.splitlines()
    assert "\x1b" not in text


def test_a_reader_that_goes_away_is_no_error():
    program = (
        "import sys; from deepfusion_edge import console;"
        "sys.exit(console.run(lambda: [print('x' * 99) for _ in range(9999)] and 0))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(20) == 0
