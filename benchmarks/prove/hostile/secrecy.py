"""Secrets: what is said of an error must not hold them, and must stay on one line."""

import io
import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr
from pathlib import Path

from benchmarks.prove.hostile.case import Case, usage
from benchmarks.prove.hostile.world import World, compact
from deepfusion_edge import cli
from deepfusion_edge.bundle.envelope import load_private_key, load_public_key, private_pem
from deepfusion_edge.commands.fetch import check_url
from deepfusion_edge.config import CameraSource
from deepfusion_edge.config_commands import Updates
from deepfusion_edge.report import payload
from deepfusion_edge.secret import MAX_SECRET_BYTES, read_secret
from deepfusion_edge.source.reader_process import ReaderProcess
from deepfusion_edge.source.target import camera_target
from deepfusion_edge.source.wire import Order

_SECRET = "hunter2!"


class LeakError(Exception):
    """A secret was told."""


def _kept(drive: Callable[[World], str], secret: str = _SECRET) -> Callable[[World], str]:
    """Drive, and look for a secret in what was said and logged, and in where it came from."""

    def driven(world: World) -> str:
        try:
            said = drive(world)
        except Exception as error:
            if any(secret in text for text in _texts(error)):
                raise LeakError("the error, or what it came from, holds the secret") from None
            raise
        if secret in said + world.log:
            raise LeakError(said)
        return said

    return driven


def _texts(error: BaseException | None) -> Iterator[str]:
    """Give what a traceback and whoever looks into an error can tell, and the errors before it."""
    while error is not None:
        yield str(error)
        if isinstance(error, UnicodeDecodeError):
            yield str(error.object)
        hidden = error.__suppress_context__
        error = error.__cause__ if hidden else error.__context__


def _camera(**fields: object) -> Callable[[World], str]:
    plain = {"kind": "camera", "name": "cam"}
    return _kept(lambda world: str(world.config(sources=[plain | fields])))


def _file(content: bytes) -> Callable[[World], str]:
    def drive(world: World) -> str:
        path = world.file(content, "password")
        return str(read_secret("mqtt.", file=str(path), variable=None))

    return _kept(drive)


def _redacted(text: str, **camera: object) -> Callable[[World], str]:
    def drive(_world: World) -> str:
        section = CameraSource(name="cam", username="plant", **camera)  # type: ignore[arg-type]
        target = camera_target(section, _SECRET)
        return target.redact(text.replace("?", str(target.value)))

    return _kept(drive)


def _command_line(*arguments: str) -> Callable[[World], str]:
    """Call the program, and keep what it writes to the terminal."""

    def drive(_world: World) -> str:
        with redirect_stderr(io.StringIO()) as told:
            code = cli.main(list(arguments))
        lines = told.getvalue().splitlines()
        return f"exit code {code}, {len(lines)} line: {lines}"

    return drive


def _mqtt(**mqtt: object) -> Callable[[World], str]:
    def drive(world: World) -> str:
        config = world.config(mqtt={"client_id": "a", **mqtt})
        return str(
            read_secret("mqtt.", file=config.mqtt.password_file, variable=config.mqtt.password_env)
        )

    return _kept(drive)


def _password_as_key(world: World) -> str:
    path = world.file(
        compact({"state_dir": "s", "sources": [], "mqtt": {"password": _SECRET}}), "agent.json"
    )
    return str(cli.read_config(path))


def _log_line(world: World) -> str:
    """Let the program's own log tell a text with line breaks."""
    with redirect_stderr(io.StringIO()) as told:
        path = world.file(
            compact({"state_dir": "s", "sources": [], "a\nERROR forged": 1}), "a.json"
        )
        cli.main(["run", "--config", str(path)])
    lines = told.getvalue().splitlines()
    return f"{len(lines)} line: {lines}"


def _forged_log(_world: World) -> str:
    formatter = cli._OneLine("%(message)s")
    record = logging.LogRecord("a", 30, "", 0, "camera %s", ("x\n2026 ERROR forged\x1b[2J",), None)
    return f"log: {formatter.format(record)!r}"


def _reason(_world: World) -> str:
    """Let a frame's error hold line breaks: the alert has one line."""
    alert = payload.alert(
        "id", agent="a", kind="model", reason="a\nforged\x1b[2J" + "x" * 9000, time_s=0
    )
    return f"alert: {json.loads(payload.encode(alert))['reason']!r}"


def _environment(_world: World) -> str:
    """Look for another's password in the environment of a camera's reader."""
    os.environ["BROKER_PASSWORD"] = _SECRET
    order = Order(
        parent=0,
        memory=0,
        slots=1,
        slot_bytes=4096,
        kind="device",
        target=255,
        wait=False,
        open_timeout_ms=1,
        read_timeout_ms=1,
    )
    reader = ReaderProcess(order, variables={})
    try:
        said = Path(f"/proc/{reader.process.pid}/environ").read_bytes()
    finally:
        reader.kill()
        reader.process.wait(4)
    if _SECRET.encode() in said:
        raise LeakError("the password of another is in the reader's environment")
    return f"{len(said) > 10} environment without it"


def _pem(world: World) -> str:
    return str(load_public_key(private_pem(world.publisher)))


CASES = (
    usage(
        "a password in a camera's URL",
        "passwords in a URL",
        _camera(url=f"rtsp://plant:{_SECRET}@cam/1"),
        "holds a user name or password",
    ),
    usage(
        "a password in a URL of no known scheme",
        "schemes of a camera",
        _camera(url=f"gopher://plant:{_SECRET}@cam"),
        "is no URL of the schemes",
    ),
    usage(
        "a password in a pipeline",
        "passwords in a pipeline",
        _camera(pipeline=f"rtspsrc location=rtsp://plant:{_SECRET}@cam ! appsink"),
        "holds a user name or password",
    ),
    usage(
        "a password without a user name",
        "user name of a camera",
        _camera(url="rtsp://cam/1", password_env="CAMERA"),
        "a password but no username",
    ),
    usage(
        "a password in two places",
        "one place of a password",
        _mqtt(username="a", password_file="x", password_env="Y"),
        "are both set",
    ),
    usage(
        "a password for nobody",
        "user name of a broker",
        _mqtt(password_env="Y"),
        "a password but no mqtt.username",
    ),
    usage(
        "a password in the configuration itself",
        "keys that a configuration has",
        _kept(_password_as_key),
        "unknown field",
    ),
    usage(
        "a variable that is not set",
        "variable of a password",
        _mqtt(username="a", password_env="NOT_SET_ANYWHERE"),
        "is not set",
    ),
    usage(
        "a password in the URL of a bundle",
        "passwords in the URL of a bundle",
        _kept(lambda _w: str(check_url(f"https://plant:{_SECRET}@files.plant/x", Updates()))),
        "holds a user name or a password",
    ),
    usage(
        "a token in a URL that is refused",
        "hosts for http",
        _kept(lambda _w: str(check_url(f"http://files.plant/x?token={_SECRET}", Updates()))),
        "http from files.plant is not allowed",
    ),
    usage(
        "a token in a URL that cannot be read",
        "ports of a URL",
        _kept(lambda _w: str(check_url(f"https://files.plant:{_SECRET}/x", Updates()))),
        "the URL cannot be read",
    ),
    Case(
        "a password file that is not UTF-8",
        "cause of a password's error",
        _file(_SECRET.encode() + b"\xff"),
        "is not UTF-8",
        "InputError",
    ),
    Case("an empty password file", "size of a password", _file(b"\n"), "has 0 bytes", "InputError"),
    Case(
        "a password file without an end",
        "size of a password",
        _file(_SECRET.encode() * MAX_SECRET_BYTES),
        "has 4097 bytes",
        "InputError",
    ),
    Case(
        "a private key where the public one belongs",
        "private keys in public places",
        _kept(_pem, "BEGIN PRIVATE"),
        "a private key was given where only the public key belongs",
        "TrustError",
    ),
    Case(
        "a key file of a megabyte",
        "size of a key",
        lambda _w: str(load_public_key(b"PUBLIC KEY" * 100_000)),
        "key file has 1000000 bytes, at most",
        "TrustError",
    ),
    Case(
        "a private key that is none",
        "form of a private key",
        _kept(lambda _w: str(load_private_key(_SECRET.encode()))),
        "not a private key in PEM form",
        "TrustError",
    ),
    Case(
        "a camera's error that quotes its URL",
        "redaction",
        _redacted("cannot open ?", url="rtsp://cam/1"),
        r"cannot open \*\*\*",
    ),
    Case(
        "a camera's error that quotes its password",
        "redaction",
        _redacted(f"bad login {_SECRET}", url="rtsp://cam/1"),
        r"bad login \*\*\*",
    ),
    Case(
        "a pipeline's error that quotes its password",
        "redaction",
        _redacted("cannot link ?", pipeline="rtspsrc user-pw={password} ! appsink"),
        r"cannot link .*\*\*\*",
    ),
    Case(
        "another's password in a reader's environment",
        "environment of a reader",
        _environment,
        "True environment without it",
    ),
    Case(
        "a line break in a key of the configuration", "one line of an error", _log_line, "^1 line: "
    ),
    Case(
        "a line break in what is logged",
        "one line of the log",
        _forged_log,
        r"log: 'camera x 2026 ERROR forged\?\[2J'",
    ),
    Case("a line break in an alert", "one line of an alert", _reason, r"alert: 'a forged\?\[2Jx+'"),
)
