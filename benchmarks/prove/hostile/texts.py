"""JSON, TOML and protobuf that are too large, too deep, of another version, or hardly numbers."""

import json
from collections.abc import Callable

from benchmarks.prove.hostile.case import Case
from benchmarks.prove.hostile.world import World, compact
from deepfusion_edge.bundle.envelope import seal
from deepfusion_edge.bundle.history import read_history
from deepfusion_edge.bundle.manifest import MAX_MANIFEST_BYTES, parse_manifest
from deepfusion_edge.config import MAX_CONFIG_BYTES, parse_config
from deepfusion_edge.source.wire import Garbage, Kind, Message, pack, unpack
from deepfusion_edge.sparkplug.payload import MAX_BYTES, decode
from deepfusion_edge.sparkplug.wire import WireError

_DEEP = b"[" * 100_000


def _manifest(spell: Callable[[bytes], bytes]) -> Callable[[World], str]:
    """Let the publisher sign a manifest that is spelled otherwise."""

    def drive(world: World) -> str:
        members = world.members()
        payload = spell(members["manifest.json"])
        members |= {"manifest.json": payload, "manifest.sig": seal(payload, [world.publisher])}
        return world.install(world.pack(members))

    return drive


def _set(*path: str | int, to: object) -> Callable[[World], str]:
    """Let the publisher sign a manifest with one value changed."""

    def spell(payload: bytes) -> bytes:
        content = json.loads(payload)
        place = content
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = to
        return compact(content)

    return _manifest(spell)


def _replace(old: bytes, new: bytes) -> Callable[[World], str]:
    return _manifest(lambda payload: payload.replace(old, new, 1))


def _config(content: bytes, form: str = "json") -> Callable[[World], str]:
    toml = form == "toml"
    return lambda world: str(
        parse_config(content, world.root, form="toml" if toml else "json")
    )


def _command(spell: Callable[[bytes], bytes]) -> Callable[[World], str]:
    return lambda world: world.command(world.sign(spell=lambda value: spell(compact(value))))


def _state(name: str, content: bytes, then: Callable[[World], str]) -> Callable[[World], str]:
    def drive(world: World) -> str:
        (world.agent / name).write_bytes(content)
        return then(world)

    return drive


def _history(world: World) -> str:
    said = f"{len(read_history(world.agent))} entries"
    return f"{said}, {world.install(world.pack(world.members()))}"


def _sparkplug(data: bytes) -> Callable[[World], str]:
    def drive(_world: World) -> str:
        try:
            return f"read {len(decode(data).metrics)} metrics"
        except WireError as error:
            return f"refused: {error}"

    return drive


def _reader(data: bytes) -> Callable[[World], str]:
    """Let a camera's reader say something that none says."""

    def drive(_world: World) -> str:
        try:
            return f"heard {unpack(bytearray(data))}"
        except Garbage:
            return "garbage: the reader is killed"

    return drive


def _frame(**fields: float) -> bytes:
    return pack(Message(Kind.FRAME, **fields))  # type: ignore[arg-type]


def _field(number: int, content: bytes) -> bytes:
    return bytes([number << 3 | 2, len(content)]) + content


def _trust(name: str, guard: str, drive: Callable[[World], str], says: str) -> Case:
    return Case(name, guard, drive, says, "TrustError")


def _broken(name: str, *path: str | int, to: object, says: str) -> Case:
    return _trust(name, "form of a manifest", _set(*path, to=to), f"manifest is not valid: .*{says}")


def _whole(name: str, guard: str, *path: str | int, to: object, says: str) -> Case:
    return _trust(name, guard, _set(*path, to=to), f"manifest is not valid: {says}")


def _usage(name: str, guard: str, drive: Callable[[World], str], says: str) -> Case:
    return Case(name, guard, drive, says, "UsageError")


_SITE = {"name": "colour", "kind": "activation", "channels": 3, "strength": 0.2}
_TEXT = "form of a configuration"

CASES = (
    _trust("a manifest of another schema", "schema of a manifest", _set("schema", to=2), "manifest is not valid.*schema"),
    _trust("a manifest with a field more", "fields of a manifest", _set("run", to="/bin/sh"), "unknown field `run`"),
    _broken("a sequence beyond 2^53", "sequence", to=2**53, says="sequence"),
    _broken("a sequence of 400 digits", "sequence", to=10**400, says="sequence|number|out of range"),
    _broken("a class without an end", "classes", 0, to="x" * 201, says="classes"),
    _broken("a picture of 2^31 rows", "preprocess", "height", to=2**31, says="height"),
    _broken("65 members", "erosion", "members", to=65, says="members"),
    _broken("a strength of one", "erosion", "sites", 0, "strength", to=1.0, says="strength"),
    _broken("a tolerance of everything", "tolerance", to=1e9, says="tolerance"),
    _broken("a file of a negative size", "files", 0, "size", to=-1, says="size"),
    _trust("a number that is none (NaN)", "form of a manifest", _replace(b'"tolerance":0.0001', b'"tolerance":NaN'), "manifest is not valid"),
    _trust("a number without an end (1e999)", "form of a manifest", _replace(b'"tolerance":0.0001', b'"tolerance":1e999'), "manifest is not valid"),
    _trust("a manifest that is not UTF-8", "form of a manifest", _replace(b'"red"', b'"\xff\xfe"'), "manifest is not valid"),
    _trust("a manifest nested a hundred thousand deep", "depth of JSON", _manifest(lambda _p: b'{"classes":' + _DEEP), "manifest is not valid"),
    _trust("a manifest with blanks", "spelling of a manifest", _manifest(lambda p: p + b" "), "manifest is not in canonical form"),
    _trust("a manifest with one field twice", "spelling of a manifest", _replace(b'"id":"line"', b'"id":"other","id":"line"'), "manifest is not in canonical form"),
    _trust("a manifest with escapes", "spelling of a manifest", _replace(b'"red"', b'"\\u0072ed"'), "manifest is not in canonical form"),
    _trust("a manifest of five megabytes", "size of a manifest", lambda _w: str(parse_manifest(b" " * (MAX_MANIFEST_BYTES + 1))), "manifest has 4194305 bytes, at most"),
    _whole("files in no order", "order of files", "files", 0, "path", to="zz.bin", says="files are not sorted"),
    _whole("no model", "files of a bundle", "files", 1, "path", to="other.onnx", says="files must name model.onnx"),
    _whole("files of more than 2 GB", "size of all files", "files", 1, "size", to=2**31, says="files have [0-9]* bytes, at most"),
    _whole("one site twice", "names of sites", "erosion", "sites", to=[_SITE, _SITE], says="a site is named twice"),
    _whole("one class twice", "names of classes", "classes", to=["red", "red", "blue"], says="a class is named twice"),
    _whole("a class without a name", "empty names of classes", "classes", to=["", "red", "blue"], says="a class has no name"),
    _whole("an end before the beginning", "times of a manifest", "expires", to="2026-01-01T00:00:00Z", says="expires is not after created"),
    _trust("a date that is none", "dates", _set("created", to="2026-13-01T00:00:00Z"), "'2026-13-01T00:00:00Z' is not a UTC time"),
    _usage("a configuration of two megabytes", "size of a configuration", _config(b" " * (MAX_CONFIG_BYTES + 1)), "configuration has 1048577 bytes, at most"),
    _usage("a configuration nested a hundred thousand deep", "depth of a configuration", _config(b'{"sources":' + _DEEP), "configuration: "),
    _usage("a TOML nested ten thousand deep", "depth of a configuration", _config(b"a = " + b"[" * 10_000, "toml"), "configuration: "),
    _usage("a configuration that is a list", _TEXT, _config(b"[]"), "Expected `object`"),
    _usage("a configuration cut off", _TEXT, _config(b'{"state_dir":"a'), "configuration: .*truncated"),
    _usage("a configuration with a mark of byte order", _TEXT, _config(b"\xef\xbb\xbf{}"), "configuration: "),
    _usage("a port of a thousand digits", _TEXT, _config(compact({"state_dir": "a", "sources": [], "mqtt": {"port": 10**1000}})), "configuration: "),
    _usage("no source", _TEXT, _config(compact({"state_dir": "a", "sources": []})), "configuration: .*sources"),
    Case("a command nested fifty thousand deep", "depth of JSON", _command(lambda _p: b'{"action":{"type":"restart","x":' + b"[" * 50_000), "status refused malformed"),
    Case("an envelope nested a hundred thousand deep", "depth of JSON", lambda w: w.command(_DEEP), "status refused untrusted: .*not a DSSE envelope"),
    Case("a command with a NaN", "form of a command", _command(lambda p: p.replace(b'"members":2', b'"members":NaN')), "status refused malformed"),
    Case("a ledger of another schema", "form of the ledger", _state("commands.json", b'{"schema":2}', lambda w: w.command(w.sign())), "commands.json is damaged", "StorageError"),
    Case("a ledger of 17 MB", "size of the ledger", _state("commands.json", b" " * (2**24 + 1), lambda w: w.command(w.sign())), "more than 16777216 bytes", "StorageError"),
    Case("a history that is none", "form of a history", _state("history.json", _DEEP, _history), "0 entries, installed sequence 2", leaves="new"),
    Case("a Sparkplug payload of two megabytes", "size of Sparkplug", _sparkplug(bytes(MAX_BYTES + 1)), "refused: payload has 1048577 bytes"),
    Case("six thousand metrics", "number of metrics", _sparkplug(b"\x12\x00" * 6000), "refused: more than 5000 metrics"),
    Case("a number of 70 bits", "bits of a number", _sparkplug(b"\x08" + b"\xff" * 9 + b"\x7f"), "refused: a number has more than 64 bits"),
    Case("a number that is cut off", "end of Sparkplug's numbers", _sparkplug(b"\x08\x80"), "refused: a number is cut off"),
    Case("a field beyond the end", "end of Sparkplug's fields", _sparkplug(b"\x12\x7fx"), "refused: field 2 is cut off"),
    Case("field 0", "numbers of fields", _sparkplug(b"\x00\x01"), "refused: field number 0"),
    Case("a group", "wire of Sparkplug", _sparkplug(b"\x0b\x0c"), "refused: wire type 3"),
    Case("a name that is not UTF-8", "UTF-8 of Sparkplug", _sparkplug(_field(2, _field(1, b"\xff"))), "refused: field 1 is not UTF-8"),
    Case("a text where a number belongs", "numbers of Sparkplug", _sparkplug(_field(1, b"now")), "refused: field 1 is no number"),
    Case("a number where a text belongs", "texts of Sparkplug", _sparkplug(b"\x10\x01"), "refused: field 2 is a number"),
    Case("a value of another kind", "kinds of values", _sparkplug(_field(2, b"\x60\x01")), "refused: FLOAT has wire type 0"),
    Case("a reader that says noise", "magic of a reader", _reader(bytes(range(64))), "garbage"),
    Case("a reader's text without an end", "magic of a reader", _reader(_frame()[:6] + b"\xff\xff" + bytes(30)), "garbage"),
    Case("a reader's time that is none", "time of a reader", _reader(_frame(captured_s=float("nan"))), "garbage"),
    Case("a reader's time in the year 9999", "time of a reader", _reader(_frame(captured_s=2.5e11)), "garbage"),
)
