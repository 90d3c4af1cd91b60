"""``deepfusion-agent sign`` and ``send``: the person who commands; heavy imports are lazy."""

import argparse
import json
import secrets
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepfusion_edge import console
from deepfusion_edge.errors import CommandError, UsageError

if TYPE_CHECKING:
    from deepfusion_edge.commands.answers import NodeAnswers
    from deepfusion_edge.commands.message import Action
    from deepfusion_edge.commands.status import CommandStatus
    from deepfusion_edge.config import Mqtt

Parser = Any
"""An ``argparse.ArgumentParser``: its sub-parsers have no public type."""


def add_sign(sign: Parser, shared: argparse.ArgumentParser) -> None:
    """Describe ``sign ACTION``."""
    actions = sign.add_subparsers(required=True, metavar="ACTION", dest="action")

    def add(name: str, text: str) -> Parser:
        made = actions.add_parser(name, parents=[shared], help=text, description=text)
        made.set_defaults(command=_sign)
        made.add_argument(
            "--agent", required=True, metavar="BASE/ID", help="base_topic/client_id of the agent"
        )
        made.add_argument(
            "--key", type=Path, required=True, metavar="KEY.PEM", help="private key that signs"
        )
        made.add_argument("--out", type=Path, required=True, metavar="FILE", help="to write")
        made.add_argument(
            "--valid-s",
            type=float,
            default=600.0,
            metavar="SECONDS",
            help="how long the agent may take it, up to seven days (default: 600)",
        )
        made.add_argument(
            "--id", metavar="NAME", help="default: action, time and six random digits"
        )
        made.add_argument(
            "--sequence",
            type=int,
            metavar="N",
            help="above those of this key before (default: milliseconds since 1970)",
        )
        return made

    add("set-members", "Run K members a frame.").add_argument(
        "members", metavar="K", help="1 to 64, or 'configured'"
    )
    add("set-policy", "Let the bundle's adaptive policy choose, or not.").add_argument(
        "policy", choices=["on", "off", "configured"]
    )
    add("snapshot", "Keep the last frame and its verdict on the device.").add_argument(
        "--source", metavar="NAME", help="default: whichever was last"
    )
    install = add("install", "Fetch a bundle and install it.")
    install.add_argument("bundle", type=Path, metavar="LINE.DFB", help="to name its hash")
    install.add_argument(
        "--url", metavar="URL", help="where the agent fetches it (default: chunks over MQTT)"
    )
    install.add_argument("--chunk-bytes", type=int, metavar="N", help="default: 131072")
    add("roll-back", "Return to the bundle before; ends an installation that is under way.")
    add("restart", "End the agent in order, to be started again.")


def add_send(send: Parser) -> None:
    """Describe ``send``."""
    send.add_argument("file", type=Path, metavar="FILE", help="that 'sign' wrote")
    send.add_argument("--bundle", type=Path, metavar="LINE.DFB", help="if it goes in chunks")
    send.add_argument("--host", default="127.0.0.1", help="of the broker (default: 127.0.0.1)")
    send.add_argument("--port", type=int, help="default: 1883, with TLS 8883")
    send.add_argument("--protocol", choices=["3.1.1", "5"], default="5")
    send.add_argument("--username", metavar="NAME")
    send.add_argument("--password-file", metavar="FILE")
    send.add_argument("--password-env", metavar="VARIABLE")
    send.add_argument("--tls", action="store_true", help="use the system's authorities")
    for name in ("ca", "cert", "key"):
        send.add_argument(f"--{name}-file", metavar="FILE.PEM", help="implies --tls")
    send.add_argument(
        "--sparkplug",
        metavar="GROUP/NODE",
        help="group and edge node of an agent with that profile, which answers there",
    )
    send.add_argument(
        "--wait-s",
        type=float,
        default=900.0,
        metavar="SECONDS",
        help="how long the agent may take to the end, probation included (default: 900)",
    )


def _sign(options: argparse.Namespace) -> int:
    from deepfusion_edge.bundle.files import write_synced
    from deepfusion_edge.bundle.signing import read_private_keys, readable_by_others
    from deepfusion_edge.commands.signing import make

    if options.out.exists():
        raise UsageError(f"--out {options.out} exists", "choose another name")
    (key,) = read_private_keys([options.key])
    for path in readable_by_others([options.key]):
        _progress(f"warning: others may read {path}; run 'chmod 600' on it")
    signed = make(
        _action(options),
        options.agent,
        key,
        now_s=time.time(),
        valid_s=options.valid_s,
        name=options.id,
        sequence=options.sequence,
    )
    write_synced(options.out, [signed.message])
    command = signed.command
    result = {
        "file": str(options.out),
        "id": command.id,
        "agent": command.agent,
        "action": options.action,
        "sequence": command.sequence,
        "expires": command.expires,
        "digest": signed.digest,
    }
    _say(options, result, "signed")
    return 0


def _action(options: argparse.Namespace) -> "Action":
    from deepfusion_edge.commands import message as said
    from deepfusion_edge.commands.signing import CHUNK_BYTES, install_action

    def members() -> "Action":
        text = options.members
        if text == "configured":
            return said.SetMembers(None)
        if not text.isascii() or not text.isdigit():
            raise UsageError(f"K is {text!a}", "give a number from 1 to 64, or 'configured'")
        return said.SetMembers(int(text))  # its range is checked with the whole command

    chosen = {"on": True, "off": False, "configured": None}
    makers: dict[str, Callable[[], Action]] = {
        "set-members": members,
        "set-policy": lambda: said.SetPolicy(chosen[options.policy]),
        "snapshot": lambda: said.Snapshot(options.source),
        "install": lambda: install_action(
            options.bundle, options.url, options.chunk_bytes or CHUNK_BYTES
        ),
        "roll-back": said.RollBack,
        "restart": said.Restart,
    }
    return makers[options.action]()


def send(options: argparse.Namespace) -> int:
    """Send a signed command and wait for its end."""
    from deepfusion_edge.commands.courier import Courier
    from deepfusion_edge.commands.signing import read_signed, warnings_of
    from deepfusion_edge.secret import read_secret

    signed = read_signed(options.file)
    for warning in warnings_of(signed, time.time()):
        _progress(f"warning: {warning}")
    config = _broker(options)
    password = read_secret("--", file=options.password_file, variable=options.password_env)

    def told(status: "CommandStatus") -> None:
        where = status.phase or status.state
        _progress(f"{where}{': ' if status.reason else ''}{status.reason}")

    answers = _node(options.sparkplug) if options.sparkplug is not None else None
    courier = Courier(config, signed, options.bundle, told, answers=answers, password=password)
    end = courier.deliver(wait_s=options.wait_s)
    if end.state != "done":
        code = f" ({end.code})" if end.code else ""
        raise CommandError(
            f"{signed.command.agent}: {end.state}{code}: {end.reason}",
            "docs/commands.md says what each refusal means",
        )
    _say(options, {"id": signed.command.id, "state": end.state, **end.result}, "done")
    return 0


def _broker(options: argparse.Namespace) -> "Mqtt":
    from deepfusion_edge.config import Mqtt, Tls

    files = {f"{name}_file": getattr(options, f"{name}_file") for name in ("ca", "cert", "key")}
    tls = Tls(**files) if options.tls or any(files.values()) else None
    if (options.cert_file is None) != (options.key_file is None):
        raise UsageError("--cert-file and --key-file go together", "give both or none")
    if options.password_file and options.password_env:
        raise UsageError("--password-file and --password-env are both given", "give one of them")
    return Mqtt(
        host=options.host,
        port=options.port or (8883 if tls else 1883),
        client_id=f"deepfusion-send-{secrets.token_hex(4)}",
        username=options.username,
        protocol=options.protocol,
        tls=tls,
    )


def _node(text: str) -> "NodeAnswers":
    from deepfusion_edge.commands.answers import NodeAnswers
    from deepfusion_edge.topics import check_level

    group, _, node = text.partition("/")
    check_level("--sparkplug GROUP", group)
    check_level("--sparkplug NODE", node)
    return NodeAnswers(group, node)


def _progress(text: str) -> None:
    sys.stderr.write(console.one_line(text) + "\n")
    sys.stderr.flush()


def _say(options: argparse.Namespace, result: dict[str, Any], verb: str) -> None:
    if options.json:
        sys.stdout.write(json.dumps(result) + "\n")
        return
    text = ", ".join(f"{key} {value}" for key, value in result.items())
    sys.stdout.write(console.one_line(f"{verb}: {text}") + "\n")
