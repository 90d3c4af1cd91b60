"""Signed commands that must not be carried out: each is told by its status, with a code."""

import json
from collections.abc import Callable
from typing import Any

from benchmarks.prove.hostile.case import Case
from benchmarks.prove.hostile.world import NOW_S, World, envelope, flipped
from deepfusion_edge.bundle.envelope import public_pem, seal
from deepfusion_edge.bundle.manifest import canonical
from deepfusion_edge.commands.ledger import MAX_PENDING
from deepfusion_edge.config import Mqtt, Sparkplug
from deepfusion_edge.report.messages import Incoming
from deepfusion_edge.report.payload import AgentState
from deepfusion_edge.report.sparkplug import SparkplugProfile
from deepfusion_edge.sparkplug.node import REBIRTH
from deepfusion_edge.sparkplug.payload import DataType, Metric, Payload, encode, value_of

_DAY_S = 86_400
_SHA = "0" * 64


def _signed(action: dict[str, object] | None = None, **changes: Any) -> Callable[[World], str]:
    return lambda world: world.command(world.sign(action, **changes))


def _by(change: Callable[[World, bytes], bytes]) -> Callable[[World], str]:
    return lambda world: world.command(change(world, world.sign()))


def _wrong(_world: World, message: bytes) -> bytes:
    box = envelope(message)
    box["signatures"][0]["sig"] = flipped(box["signatures"][0]["sig"])
    return canonical(box)


def _other_payload(world: World, message: bytes) -> bytes:
    other = envelope(world.sign({"type": "restart"}))
    return canonical(envelope(message) | {"payload": other["payload"]})


def _manifest(world: World, _message: bytes) -> bytes:
    return world.members()["manifest.sig"]


def _unsigned(_world: World, message: bytes) -> bytes:
    return canonical(envelope(message) | {"signatures": []})


def _loose(value: object) -> bytes:
    return json.dumps(value).encode()


def _twice(value: object) -> bytes:
    return canonical(value).replace(b'"id":"c-1"', b'"id":"c-0","id":"c-1"')


def _two_keys(world: World) -> str:
    other = world.file(public_pem(world.other.public_key()), "other.pub")
    keys = [{"file": str(path), "actions": ["set-members"]} for path in (world.trust, other)]
    return _with_keys(world, keys, world.sign(signers=(world.publisher, world.other)))


def _not_allowed(world: World) -> str:
    keys = [{"file": str(world.trust), "actions": ["snapshot"]}]
    return _with_keys(world, keys, world.sign({"type": "restart"}))


def _with_keys(world: World, keys: object, message: bytes) -> str:
    with world.outbox() as box:
        desk = world.desk(box, commands={"keys": keys})
        desk.take(Incoming("deepfusion/line-1/command", message, retained=False, qos=1))
        (event,) = box.peek(10)
    told = json.loads(event.body)
    return f"status {told['state']} {told['code']}: {told['reason']}"


def _replayed(world: World) -> str:
    message = world.sign()
    return world.command(message, message)


def _after_restart(world: World) -> str:
    message = world.sign()
    world.command(message)
    return world.command(message)


def _reordered(world: World) -> str:
    return world.command(world.sign(sequence=5, id="c-5"), world.sign(sequence=4, id="c-4"))


def _many(world: World) -> str:
    messages = [world.sign(sequence=n, id=f"c-{n}") for n in range(1, MAX_PENDING + 2)]
    return world.command(*messages)


def _used_up(world: World) -> str:
    """Send a command again that was refused because too many waited."""
    messages = [world.sign(sequence=n, id=f"c-{n}") for n in range(1, MAX_PENDING + 2)]
    world.command(*messages)
    ledger = world.agent / "commands.json"
    content = json.loads(ledger.read_bytes())
    ledger.write_bytes(canonical(content | {"pending": []}))
    return world.command(messages[-1])


def _two_installations(world: World) -> str:
    return world.command(
        world.sign(_install(), id="c-1", sequence=1), world.sign(_install(), id="c-2", sequence=2)
    )


def _install(**changes: object) -> dict[str, object]:
    plain: dict[str, object] = {"type": "install", "bytes": 2000, "sha256": _SHA}
    return plain | {"url": "https://files.plant/x", "chunks": None} | changes


def _flood(world: World) -> str:
    """Send a thousand messages that are no commands."""
    with world.outbox() as box:
        desk = world.desk(box)
        for number in range(1000):
            payload = b"%d" % number
            desk.take(Incoming("deepfusion/line-1/command", payload, retained=False, qos=1))
        count = len(box.peek(1000))
    return f"status: {count} of 1000 refusals were told"


def _sparkplug(*messages: tuple[bytes, bool], host: bool = False) -> Callable[[World], str]:
    """Hand payloads to a node that was born, on its command topic or its host's STATE."""

    def drive(world: World) -> str:
        config = Mqtt(
            client_id="line-1",
            profile="sparkplug",
            sparkplug=Sparkplug(primary_host="scada" if host else None),
        )
        node = SparkplugProfile(
            config,
            lambda: AgentState(agent="line-1", time="", state="online", reason=""),
            next_bd_seq=lambda: 0,
            now=lambda: NOW_S,
        )
        node.connected()
        if host:
            online = b'{"online":true,"timestamp":1000}'
            node.subscriptions[0].take(Incoming("spBv1.0/STATE/scada", online, False, 1))
        list(node.due(0.0))
        listen = node.subscriptions[0]
        for payload, retained in messages:
            if len(payload) <= listen.max_bytes:
                listen.take(Incoming(listen.topic, payload, retained, 1))
        return f"log: {'ready' if node.ready else 'not ready'}: {world.log}"

    return drive


def _rebirth(name: str = REBIRTH) -> bytes:
    asked = Metric(name, None, 1, DataType.BOOLEAN, value_of(DataType.BOOLEAN, True))
    return encode(Payload(1, (asked,), 0))


def _refused(
    name: str, guard: str, drive: Callable[[World], str], code: str, says: str = ""
) -> Case:
    return Case(name, guard, drive, f"status refused {code}: .*{says}")


def _malformed(name: str, action: dict[str, object] | None = None, **changes: object) -> Case:
    return _refused(name, "form of a command", _signed(action, **changes), "malformed")


CASES = (
    _refused(
        "retained by the broker",
        "retained commands",
        lambda w: w.command(w.sign(), retained=True),
        "retained",
        "clear it",
    ),
    _refused("not signed", "number of signatures", _by(_unsigned), "untrusted", "not a DSSE"),
    _refused("not an envelope", "form of an envelope", _by(lambda _w, _m: b"restart"), "untrusted"),
    _refused(
        "a command without an envelope",
        "form of an envelope",
        _by(lambda _w, _m: canonical({"action": {"type": "restart"}, "id": "c-1"})),
        "untrusted",
    ),
    _refused(
        "signed by a stranger",
        "key of a signature",
        lambda w: w.command(w.sign(signers=(w.other,))),
        "untrusted",
        "signed by key",
    ),
    _refused("a wrong signature", "signature", _by(_wrong), "untrusted", "is wrong"),
    _refused(
        "the payload of another command", "signature", _by(_other_payload), "untrusted", "is wrong"
    ),
    _refused(
        "a bundle's signature",
        "type of an envelope",
        _by(_manifest),
        "untrusted",
        "envelope is of type",
    ),
    _refused(
        "a bundle's type, signed as one",
        "type of an envelope",
        lambda w: w.command(seal(canonical({"a": 1}), [w.publisher])),
        "untrusted",
        "envelope is of type",
    ),
    _refused(
        "signed by two keys",
        "one key a command",
        _two_keys,
        "untrusted",
        "2 keys signed it, one must",
    ),
    _refused(
        "300 KB",
        "size of an envelope",
        _signed(padding="x" * 300_000),
        "untrusted",
        "at most 262144",
    ),
    _refused(
        "spelled with blanks",
        "spelling of a command",
        _signed(spell=_loose),
        "malformed",
        "not in canonical form",
    ),
    _refused(
        "with one field twice",
        "spelling of a command",
        _signed(spell=_twice),
        "malformed",
        "not in canonical form",
    ),
    _refused(
        "an action that nobody has",
        "names of actions",
        _signed({"type": "format-disk"}),
        "unknown-action",
        "actions are",
    ),
    _refused(
        "an action in capitals",
        "names of actions",
        _signed({"type": "RESTART"}),
        "unknown-action",
    ),
    _malformed("an action with a program to run", {"type": "restart", "command": "rm -rf /"}),
    _malformed("no members", {"type": "set-members", "members": 0}),
    _malformed("members as a text", {"type": "set-members", "members": "all"}),
    _malformed("an installation of nothing", _install(url=None)),
    _malformed(
        "an installation in two ways", _install(chunks={"bytes": 1024, "sha256": [_SHA] * 2})
    ),
    _malformed(
        "an installation in too few chunks",
        _install(url=None, chunks={"bytes": 1024, "sha256": [_SHA]}),
    ),
    _malformed("a negative size", _install(bytes=-1)),
    _malformed("a sequence of 400 digits", sequence=10**400),
    _malformed("a sequence that is no whole number", sequence=1.5),
    _malformed("a date that is none", issued="2026-02-30T00:00:00Z"),
    _malformed("another schema", schema=2),
    _malformed("a field more", approved=True),
    _refused(
        "for another agent", "agent of a command", _signed(agent="deepfusion/line-2"), "wrong-agent"
    ),
    _refused(
        "for everybody",
        "agent of a command",
        _signed(agent="#"),
        "wrong-agent",
    ),
    _refused(
        "by a key that may not", "actions of a key", _not_allowed, "unauthorised", "only snapshot"
    ),
    _refused(
        "that holds for a month",
        "validity of a command",
        _signed(expires="2026-07-01T00:00:00Z"),
        "validity",
        "up to 7 days",
    ),
    _refused(
        "that ended before it began",
        "validity of a command",
        _signed(expires="2026-05-01T00:00:00Z"),
        "validity",
    ),
    _refused(
        "that has expired",
        "expiry of a command",
        lambda w: w.command(w.sign(), now_s=NOW_S + _DAY_S),
        "expired",
        "expired on",
    ),
    _refused(
        "from the future",
        "beginning of a command",
        lambda w: w.command(w.sign(), now_s=NOW_S - _DAY_S),
        "not-yet-valid",
        "set the clock",
    ),
    _refused("sent twice", "ids that were taken", _replayed, "duplicate", "c-1 was taken before"),
    _refused("sent again after a restart", "ids that were taken", _after_restart, "duplicate"),
    _refused("out of order", "sequence of a command", _reordered, "sequence", "is not above 5"),
    _refused("a ninth that waits", "commands that wait", _many, "busy", "8 commands wait already"),
    _refused("sent again after it was refused as busy", "commands used up", _used_up, "sequence"),
    _refused(
        "a second installation", "one installation", _two_installations, "busy", "is under way"
    ),
    Case("a thousand that are none", "refusals that are told", _flood, "status: 20 of 1000"),
    Case(
        "a rebirth that was retained",
        "retained rebirths",
        _sparkplug((_rebirth(), True)),
        "log: ready: .*retained command .* is ignored",
    ),
    Case(
        "an unknown command of Sparkplug",
        "names of Sparkplug's commands",
        _sparkplug((_rebirth("Node Control/Format"), False)),
        "log: ready: .*is not known; ignored",
    ),
    Case(
        "a command of Sparkplug that is none",
        "errors of Sparkplug",
        _sparkplug((b"\x12\xff\xff\xff", False)),
        "log: ready: .*is no Sparkplug payload",
    ),
    Case(
        "a host's state from before",
        "time of a host's state",
        _sparkplug((b'{"online":false,"timestamp":999}', False), host=True),
        "log: ready: $",
    ),
    Case(
        "a host's state nested a hundred thousand deep",
        "form of a host's state",
        _sparkplug((b'{"online":' + b"[" * 900, False), host=True),
        "log: ready: .*is no STATE",
    ),
)
