"""What is fuzzed: a function of bytes each, the seeds it begins with, and what must hold.

A target lets through nothing but the errors that the product documents. Where something is
accepted, an independent rule looks whether it should have been.
"""

import io
import json
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from benchmarks.prove.hostile import toy
from benchmarks.prove.hostile.world import AGENT, ALL, NOW, compact, key, name_of, png
from deepfusion_edge.bundle.container import pack
from deepfusion_edge.bundle.envelope import load_public_key, public_pem, seal
from deepfusion_edge.bundle.manifest import GOLDEN, MANIFEST, MODEL, parse_manifest
from deepfusion_edge.bundle.onnx_check import check_onnx
from deepfusion_edge.bundle.store import verify
from deepfusion_edge.commands.fetch import check_url
from deepfusion_edge.commands.gate import Admitted, Holder, Past, admit
from deepfusion_edge.commands.message import COMMAND
from deepfusion_edge.config import parse_config
from deepfusion_edge.config_commands import Updates
from deepfusion_edge.errors import DeepFusionError
from deepfusion_edge.health.server import allowed
from deepfusion_edge.image import decode, read_header
from deepfusion_edge.probe import read_golden
from deepfusion_edge.source.wire import Garbage, Kind, Message, unpack
from deepfusion_edge.source.wire import pack as pack_message
from deepfusion_edge.sparkplug import payload as sparkplug
from deepfusion_edge.sparkplug.node import REBIRTH
from deepfusion_edge.sparkplug.wire import WireError
from deepfusion_edge.starter import configuration
from deepfusion_export.onnx_walk import external_tensors, parsed

_KEY = key(1)
_HOLDERS = {name_of(_KEY): Holder(_KEY.public_key(), frozenset(ALL))}
_PIXELS = 2**14

Run = Callable[[bytes], None]


class FoundError(AssertionError):
    """Something was accepted that must not be."""


class Target(NamedTuple):
    """One reader of what a stranger wrote.

    Attributes:
        seeds: good inputs to begin with.
        begin: takes an empty folder and gives the function that is called with each input.
    """

    seeds: Callable[[], Sequence[bytes]]
    begin: Callable[[Path], Run]


def _refusing(run: Run, *errors: type[Exception]) -> Callable[[Path], Run]:
    """Let the documented errors pass."""

    def guarded(data: bytes) -> None:
        with suppress(DeepFusionError, *errors):
            run(data)

    return lambda _work: guarded


def _members() -> dict[str, bytes]:
    return toy.members([_KEY])


def _bundle(work: Path) -> Run:
    trusted, path = work / "key.pub", work / "line.dfb"
    trusted.write_bytes(public_pem(_KEY.public_key()))
    pack(path, _members())
    good = path.read_bytes()

    def run(data: bytes) -> None:
        path.write_bytes(data)
        try:
            verify(path, [trusted], now=NOW, probe=False)
        except DeepFusionError:
            return
        if data != good:
            raise FoundError("a bundle that nobody signed was verified")

    return run


def _bundle_seeds() -> Sequence[bytes]:
    with tempfile.TemporaryDirectory() as name:
        path = Path(name, "line.dfb")
        pack(path, _members())
        return [path.read_bytes()]


def _graph(data: bytes) -> None:
    check_onnx(data)
    if external_tensors(parsed(data, "the graph")):  # what protobuf refuses, no runtime loads
        raise FoundError("a graph with weights outside of its file was taken")


def _golden(data: bytes) -> None:
    read_golden(data, parse_manifest(_members()[MANIFEST]))


def _picture(data: bytes) -> None:
    header = read_header(data)
    pixels = decode(data, max_pixels=_PIXELS)
    if pixels.shape != (header.height, header.width, 3):
        raise FoundError(f"{header} became {pixels.shape}")


def admitted(message: bytes) -> bool:
    """Whether an agent would carry this message out."""
    answer = admit(message, retained=False, agent=AGENT, holders=_HOLDERS, past=Past(), now=NOW)
    return isinstance(answer, Admitted)


def _judge(message: bytes) -> None:
    if admitted(message) and message not in _messages():
        raise FoundError("a command that nobody signed was admitted")


def _signed(payload: bytes) -> None:
    taken = admitted(seal(payload, [_KEY], COMMAND))
    if taken and compact(json.loads(payload)) != payload:
        raise FoundError("a command was admitted that is not spelled canonically")


def _payloads() -> Sequence[bytes]:
    actions: Sequence[dict[str, object]] = (
        {"type": "set-members", "members": 4},
        {"type": "set-policy", "policy": False},
        {"type": "snapshot", "source": None},
        {"type": "restart"},
        {
            "type": "install",
            "bytes": 2000,
            "sha256": "0" * 64,
            "url": None,
            "chunks": {"bytes": 1024, "sha256": ["0" * 64] * 2},
        },
    )
    plain: dict[str, object] = {
        "schema": 1,
        "id": "c-1",
        "agent": AGENT,
        "sequence": 1,
        "issued": "2026-06-01T00:00:00Z",
        "expires": "2026-06-01T01:00:00Z",
    }
    return [compact(plain | {"action": action}) for action in actions]


def _messages() -> Sequence[bytes]:
    return [seal(payload, [_KEY], COMMAND) for payload in _payloads()]


def _payload(data: bytes) -> None:
    found = sparkplug.decode(data)
    again = sparkplug.decode(sparkplug.encode(found))
    if repr(again) != repr(found):  # a NaN is not equal to itself
        raise FoundError(f"{found} is spelled as {again}")


def _metrics() -> Sequence[bytes]:
    kinds: dict[sparkplug.DataType, float | str] = {
        sparkplug.DataType.INT32: -1,
        sparkplug.DataType.INT64: 2**40,
        sparkplug.DataType.DOUBLE: 0.5,
        sparkplug.DataType.FLOAT: 0.5,
        sparkplug.DataType.BOOLEAN: True,
        sparkplug.DataType.STRING: "text",
    }
    metrics = tuple(
        sparkplug.Metric(REBIRTH, 7, 1, kind, sparkplug.value_of(kind, value), historical=True)
        for kind, value in kinds.items()
    )
    return [
        sparkplug.encode(sparkplug.Payload(1, metrics, 5)),
        sparkplug.encode(sparkplug.Payload(1, ())),
    ]


def _json(data: bytes) -> None:
    parse_config(data, Path("lines"))


def _toml(data: bytes) -> None:
    parse_config(data, Path("lines"), form="toml")


def _configuration() -> Sequence[bytes]:
    camera = {"kind": "camera", "name": "b", "url": "rtsp://cam/1", "username": "u"}
    return [
        compact(
            {
                "state_dir": "state",
                "sources": [
                    {"kind": "folder", "name": "a", "path": "frames"},
                    camera | {"password_env": "CAMERA"},
                    {"kind": "mqtt", "name": "c", "topic": "plant/c"},
                ],
                "mqtt": {"client_id": "line-1", "tls": {"ca_file": "ca.pem"}},
                "commands": {"keys": [{"file": "a.pub", "actions": ["restart"]}]},
                "http": {"names": ["line.plant"]},
            }
        )
    ]


def _address(data: bytes) -> None:
    address = check_url(data.decode(errors="replace"), Updates(hosts=("files.plant",)))
    if address.host not in {"files.plant", "localhost", "127.0.0.1", "::1"}:
        raise FoundError(f"{address.host} may be asked")
    if any(sign <= " " for sign in address.path) or not address.path.startswith("/"):
        raise FoundError(f"the path {address.path!r} may be asked for")


def _host(data: bytes) -> None:
    name = data.decode("latin-1")
    if allowed(name, ("line.plant",)) and any(sign <= " " for sign in name):
        raise FoundError(f"the host {name!r} is allowed")


def _message(data: bytes) -> None:
    rest = bytearray(data)
    while (message := unpack(rest)) is not None:
        if not 0 <= message.captured_s < 5e9:  # noqa: PLR2004 - the far future
            raise FoundError(f"{message} was heard")


TARGETS = {
    "bundle": Target(_bundle_seeds, _bundle),
    "manifest": Target(
        lambda: [_members()[MANIFEST]], _refusing(lambda d: _drop(parse_manifest(d)))
    ),
    "graph": Target(lambda: [_members()[MODEL]], _refusing(_graph)),
    "probe": Target(lambda: [_members()[GOLDEN]], _refusing(_golden)),
    "image header": Target(
        lambda: [png(8, 8), _jpeg()], _refusing(lambda d: _drop(read_header(d)))
    ),
    "image": Target(lambda: [png(8, 8), _jpeg()], _refusing(_picture)),
    "command": Target(_messages, _refusing(_judge)),
    "signed payload": Target(_payloads, _refusing(_signed)),
    "key": Target(
        lambda: [public_pem(_KEY.public_key())], _refusing(lambda d: _drop(load_public_key(d)))
    ),
    "Sparkplug": Target(_metrics, _refusing(_payload, WireError)),
    "configuration in JSON": Target(_configuration, _refusing(_json)),
    "configuration in TOML": Target(lambda: [_starter()], _refusing(_toml)),
    "URL": Target(lambda: [b"https://files.plant:8443/a/b.dfb?token=x"], _refusing(_address)),
    "Host header": Target(lambda: [b"line.plant:9464", b"[::1]:80"], _refusing(_host)),
    "reader": Target(
        lambda: [pack_message(Message(Kind.FRAME, 1, 8, 8, 0, 1.0, "text"))],
        _refusing(_message, Garbage),
    ),
}


def _drop(_value: object) -> None:
    """Throw a result away."""


def _jpeg() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "JPEG")
    return buffer.getvalue()


def _starter() -> bytes:
    lines = configuration("line-1").splitlines()
    return "\n".join(line for line in lines if not line.startswith("#")).encode()
