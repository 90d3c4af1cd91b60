"""JSON, TOML and protobuf that are too large, too deep, of another version, or hardly numbers."""

from collections.abc import Callable

from benchmarks.prove.hostile.case import Case, usage
from benchmarks.prove.hostile.world import World, compact
from deepfusion_edge.bundle.history import read_history
from deepfusion_edge.config import MAX_CONFIG_BYTES, parse_config
from deepfusion_edge.source.wire import Garbage, Kind, Message, pack, unpack
from deepfusion_edge.sparkplug.payload import MAX_BYTES, decode
from deepfusion_edge.sparkplug.wire import WireError

_DEEP = b"[" * 100_000


def _config(content: bytes, form: str = "json") -> Callable[[World], str]:
    toml = form == "toml"
    return lambda world: str(parse_config(content, world.root, form="toml" if toml else "json"))


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


_TEXT = "form of a configuration"


CASES = (
    usage(
        "a configuration of two megabytes",
        "size of a configuration",
        _config(b" " * (MAX_CONFIG_BYTES + 1)),
        "configuration has 1048577 bytes, at most",
    ),
    usage(
        "a configuration nested a hundred thousand deep",
        "depth of a configuration",
        _config(b'{"sources":' + _DEEP),
        "configuration: ",
    ),
    usage(
        "a TOML nested ten thousand deep",
        "depth of a configuration",
        _config(b"a = " + b"[" * 10_000, "toml"),
        "configuration: ",
    ),
    usage("a configuration that is a list", _TEXT, _config(b"[]"), "Expected `object`"),
    usage(
        "a configuration cut off", _TEXT, _config(b'{"state_dir":"a'), "configuration: .*truncated"
    ),
    usage(
        "a configuration with a mark of byte order",
        _TEXT,
        _config(b"\xef\xbb\xbf{}"),
        "configuration: ",
    ),
    usage(
        "a port of a thousand digits",
        _TEXT,
        _config(compact({"state_dir": "a", "sources": [], "mqtt": {"port": 10**1000}})),
        "configuration: ",
    ),
    usage(
        "no source",
        _TEXT,
        _config(compact({"state_dir": "a", "sources": []})),
        "configuration: .*sources",
    ),
    Case(
        "a command nested fifty thousand deep",
        "depth of JSON",
        _command(lambda _p: b'{"action":{"type":"restart","x":' + b"[" * 50_000),
        "status refused malformed",
    ),
    Case(
        "an envelope nested a hundred thousand deep",
        "depth of JSON",
        lambda w: w.command(_DEEP),
        "status refused untrusted: .*not a DSSE envelope",
    ),
    Case(
        "a command with a NaN",
        "form of a command",
        _command(lambda p: p.replace(b'"members":2', b'"members":NaN')),
        "status refused malformed",
    ),
    Case(
        "a ledger of another schema",
        "form of the ledger",
        _state("commands.json", b'{"schema":2}', lambda w: w.command(w.sign())),
        "commands.json is damaged",
        "StorageError",
    ),
    Case(
        "a ledger of 17 MB",
        "size of the ledger",
        _state("commands.json", b" " * (2**24 + 1), lambda w: w.command(w.sign())),
        "more than 16777216 bytes",
        "StorageError",
    ),
    Case(
        "a history that is none",
        "form of a history",
        _state("history.json", _DEEP, _history),
        "0 entries, installed sequence 2",
        leaves="new",
    ),
    Case(
        "a Sparkplug payload of two megabytes",
        "size of Sparkplug",
        _sparkplug(bytes(MAX_BYTES + 1)),
        "refused: payload has 1048577 bytes",
    ),
    Case(
        "six thousand metrics",
        "number of metrics",
        _sparkplug(b"\x12\x00" * 6000),
        "refused: more than 5000 metrics",
    ),
    Case(
        "a number of 70 bits",
        "bits of a number",
        _sparkplug(b"\x08" + b"\xff" * 9 + b"\x7f"),
        "refused: a number has more than 64 bits",
    ),
    Case(
        "a number that is cut off",
        "end of Sparkplug's numbers",
        _sparkplug(b"\x08\x80"),
        "refused: a number is cut off",
    ),
    Case(
        "a field beyond the end",
        "end of Sparkplug's fields",
        _sparkplug(b"\x12\x7fx"),
        "refused: field 2 is cut off",
    ),
    Case("field 0", "numbers of fields", _sparkplug(b"\x00\x01"), "refused: field number 0"),
    Case("a group", "wire of Sparkplug", _sparkplug(b"\x0b\x0c"), "refused: wire type 3"),
    Case(
        "a name that is not UTF-8",
        "UTF-8 of Sparkplug",
        _sparkplug(_field(2, _field(1, b"\xff"))),
        "refused: field 1 is not UTF-8",
    ),
    Case(
        "a text where a number belongs",
        "numbers of Sparkplug",
        _sparkplug(_field(1, b"now")),
        "refused: field 1 is no number",
    ),
    Case(
        "a number where a text belongs",
        "texts of Sparkplug",
        _sparkplug(b"\x10\x01"),
        "refused: field 2 is a number",
    ),
    Case(
        "a value of another kind",
        "kinds of values",
        _sparkplug(_field(2, b"\x60\x01")),
        "refused: FLOAT has wire type 0",
    ),
    Case("a reader that says noise", "magic of a reader", _reader(bytes(range(64))), "garbage"),
    Case(
        "a reader's text without an end",
        "magic of a reader",
        _reader(_frame()[:6] + b"\xff\xff" + bytes(30)),
        "garbage",
    ),
    Case(
        "a reader's time that is none",
        "time of a reader",
        _reader(_frame(captured_s=float("nan"))),
        "garbage",
    ),
    Case(
        "a reader's time in the year 9999",
        "time of a reader",
        _reader(_frame(captured_s=2.5e11)),
        "garbage",
    ),
)
