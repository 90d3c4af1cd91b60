"""``deepfusion-agent``: init, install, verify, run, status, rollback; heavy imports are lazy."""

import argparse
import json
import logging
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from deepfusion_edge import __version__, cli_commands, console
from deepfusion_edge.errors import UsageError

if TYPE_CHECKING:
    from deepfusion_edge.bundle.manifest import Manifest
    from deepfusion_edge.config import AgentConfig, Mqtt


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code."""
    return console.run(lambda: _main(argv))


def read_config(path: Path) -> "AgentConfig":
    """Read the configuration file: TOML if its name ends in ``.toml``, JSON otherwise.

    Raises:
        UsageError: a field breaks a rule.
        OSError: the file cannot be read.
    """
    from deepfusion_edge.config import MAX_CONFIG_BYTES, parse_config

    with path.open("rb") as file:
        data = file.read(MAX_CONFIG_BYTES + 1)
    is_toml = path.suffix.lower() == ".toml"
    return parse_config(data, path.absolute().parent, form="toml" if is_toml else "json")


def read_password(mqtt: "Mqtt") -> str | None:
    """Read the broker's password from where the configuration says; None if it says nowhere.

    Raises:
        UsageError: the variable is not set.
        InputError: the file is missing, too long, empty or not UTF-8.
    """
    from deepfusion_edge.secret import read_secret

    return read_secret("mqtt.", file=mqtt.password_file, variable=mqtt.password_env)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message, f"see {self.prog} --help")


class _OneLine(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return console.one_line(super().format(record))


def _main(argv: list[str] | None) -> int:
    options = build_parser().parse_args(argv)
    command: Callable[[argparse.Namespace], int] = options.command
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_OneLine("%(asctime)s %(levelname)s %(message)s"))
    logger = logging.getLogger("deepfusion_edge")
    before = logger.level
    logger.setLevel(options.log_level.upper())
    logger.addHandler(handler)
    try:
        return command(options)
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)


def build_parser() -> argparse.ArgumentParser:
    """Describe commands and options; imports nothing heavy."""
    style = argparse.RawDescriptionHelpFormatter
    parser = _Parser(
        prog="deepfusion-agent",
        description="Judge frames with an erosion-model ensemble and report over MQTT.",
        epilog=console.EXIT_CODES,
        formatter_class=style,
    )
    parser.add_argument("--version", action="version", version=f"deepfusion-agent {__version__}")
    shared = _Parser(add_help=False)
    shared.add_argument("--json", action="store_true", help="print the result as one JSON object")
    shared.add_argument(
        "--log-level",
        choices=["debug", "info", "warning", "error"],
        default="info",
        help="what goes to stderr (default: info, a line an event)",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(
        name: str, command: Callable[[argparse.Namespace], int], text: str, *aliases: str
    ) -> _Parser:
        made = commands.add_parser(
            name,
            aliases=aliases,
            parents=[shared],
            help=text,
            description=text,
            epilog=console.EXIT_CODES,
            formatter_class=style,
        )
        made.set_defaults(command=command)
        return made

    init = add("init", _init, "Write a commented configuration, a systemd unit and dashboards.")
    init.add_argument("folder", type=Path, metavar="DIR", help="of the new line")
    init.add_argument(
        "--user",
        default="deepfusion",
        metavar="NAME",
        help="who the systemd unit runs as (default: deepfusion)",
    )
    install = add("install", _install, "Verify a bundle, probe it and make it the current one.")
    verify = add("verify", _verify, "Check and probe a bundle as install does; change nothing.")
    for made in (install, verify):
        made.add_argument("bundle", type=Path, metavar="BUNDLE")
        made.add_argument(
            "--trust",
            type=Path,
            action="append",
            default=[],
            metavar="KEY.PUB",
            help="public key that may sign, one option a key; pinned by the first installation",
        )
        made.add_argument(
            "--threshold", type=int, metavar="N", help="how many keys must have signed (default 1)"
        )
    verify.add_argument(
        "--state", type=Path, metavar="DIR", help="also apply the rules of this state folder"
    )
    run = add("run", _run, "Judge the frames of the configured sources and publish the verdicts.")
    run.add_argument("--config", type=Path, required=True, metavar="AGENT.TOML")
    run.add_argument(
        "--supervise",
        action="store_true",
        help="start again what ends badly (not 0, 2, 7, 130); after 5 in 60 s more slowly",
    )
    status = add("status", _status, "Say what is installed and what waits in the outbox.")
    rollback = add(
        "rollback", _rollback, "Make the bundle before the current one current again.", "roll-back"
    )
    for made in (install, status, rollback):
        made.add_argument(
            "--state", type=Path, required=True, metavar="DIR", help="the agent's state folder"
        )
    sign = add("sign", cli_commands.send, "Sign a command to an agent; see 'sign ACTION --help'.")
    cli_commands.add_sign(sign, shared)
    cli_commands.add_send(
        add("send", cli_commands.send, "Hand a signed command to a broker; wait for its end.")
    )
    return parser


def _init(options: argparse.Namespace) -> int:
    from deepfusion_edge.starter import CONFIG, write_start

    files = [str(path) for path in write_start(options.folder, user=options.user)]
    if options.json:
        sys.stdout.write(json.dumps({"files": files}) + "\n")
        return 0
    state = options.folder / "state"
    for line in (
        *(f"written: {path}" for path in files),
        f"next: deepfusion-agent install BUNDLE --trust KEY.PUB --state {state}",
        f"then: deepfusion-agent run --config {options.folder / CONFIG}",
    ):
        sys.stdout.write(console.one_line(line) + "\n")
    return 0


def _install(options: argparse.Namespace) -> int:
    from deepfusion_edge.bundle.store import install
    from deepfusion_edge.line import utc_now

    installed = install(
        options.bundle, options.state, options.trust, threshold=options.threshold, now=utc_now()
    )
    _say(options, _words(installed.manifest) | {"digest": installed.bundle_hash}, "installed")
    return 0


def _verify(options: argparse.Namespace) -> int:
    from deepfusion_edge.bundle.store import verify
    from deepfusion_edge.line import utc_now

    manifest = verify(
        options.bundle,
        options.trust,
        threshold=options.threshold,
        now=utc_now(),
        state=options.state,
    )
    _say(options, _words(manifest), "verified")
    return 0


def _run(options: argparse.Namespace) -> int:
    config = read_config(options.config)
    if options.supervise:
        from deepfusion_edge.supervise import supervise

        return supervise(_again(options))
    from deepfusion_edge.agent import run_agent

    password = read_password(config.mqtt)
    stop = threading.Event()
    received: list[int] = []

    def on_signal(number: int, _: FrameType | None) -> None:
        received.append(number)
        stop.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a second Ctrl-C ends at once

    before = {
        number: signal.signal(number, on_signal) for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        summary = run_agent(config, stop=stop, password=password)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    _say(options, summary._asdict(), "done")
    if signal.SIGINT in received:
        raise KeyboardInterrupt
    return 0


def _again(options: argparse.Namespace) -> list[str]:
    """Spell the command line that runs the agent without a supervisor."""
    command = [sys.executable, "-m", "deepfusion_edge.cli", "run"]
    command += ["--config", str(options.config), "--log-level", options.log_level]
    return command + ["--json"] * options.json


def _status(options: argparse.Namespace) -> int:
    from deepfusion_edge.bundle.layout import read_probation
    from deepfusion_edge.bundle.store import load_current
    from deepfusion_edge.line import utc_now
    from deepfusion_edge.outbox import read_counters

    installed = load_current(options.state, now=utc_now())
    found = _words(installed.manifest) | {"digest": installed.bundle_hash}
    found["probation"] = read_probation(options.state) is not None
    counters = read_counters(options.state, now_s=time.time())
    outbox = counters._asdict() if counters else None
    if not options.json:
        outbox = outbox or {"nothing": "yet"}
    _say(options, {**found, "outbox": outbox}, "installed")
    return 0


def _rollback(options: argparse.Namespace) -> int:
    from deepfusion_edge.bundle.store import roll_back
    from deepfusion_edge.line import utc_now

    installed = roll_back(options.state, now=utc_now())
    _say(options, _words(installed.manifest) | {"digest": installed.bundle_hash}, "rolled back")
    return 0


def _words(manifest: "Manifest") -> dict[str, object]:
    return {
        "id": manifest.id,
        "sequence": manifest.sequence,
        "created": manifest.created,
        "expires": manifest.expires,
        "classes": len(manifest.classes),
        "members": manifest.erosion.members,
        "precision": manifest.precision,
    }


def _say(options: argparse.Namespace, result: dict[str, object], verb: str) -> None:
    if options.json:
        sys.stdout.write(json.dumps(result) + "\n")
        return
    lines = {verb: {key: value for key, value in result.items() if not isinstance(value, dict)}}
    lines |= {key: value for key, value in result.items() if isinstance(value, dict)}
    for head, values in lines.items():
        text = ", ".join(f"{key} {_word(value)}" for key, value in values.items())
        sys.stdout.write(console.one_line(f"{head}: {text}") + "\n")


def _word(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    sys.exit(main())
