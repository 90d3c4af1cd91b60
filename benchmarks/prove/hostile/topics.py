"""Names that become levels of topics, paths or file names."""

import hashlib
import json
import threading
import time
from collections.abc import Callable

from paho.mqtt.client import MQTTMessage

from benchmarks.prove.hostile.case import Case
from benchmarks.prove.hostile.world import AGENT, World, compact
from deepfusion_edge.config import Mqtt, parse_config
from deepfusion_edge.report.messages import Incoming, Subscription
from deepfusion_edge.report.mqtt import Connection

_LEVELS = {
    "a plus": "line+1",
    "a hash": "line#",
    "a slash": "a/b",
    "a dollar": "$SYS",
    "a NUL character": "line\0",
    "a line break": "line\nfalse line",
    "an escape sequence": "line\x1b[2J",
    "a text that runs from right to left": "line\u202egpj",
}


def _client(name: str) -> Callable[[World], str]:
    return lambda world: str(world.config(mqtt={"client_id": name}))


def _topic(topic: str) -> Callable[[World], str]:
    return lambda world: str(world.config(mqtt={"client_id": "a", "base_topic": topic}))


def _source(**fields: object) -> Callable[[World], str]:
    plain = {"kind": "folder", "name": "cam", "path": "inbox"}
    return lambda world: str(world.config(sources=[plain | fields]))


def _level(name: str, guard: str, drive: Callable[[World], str], says: str) -> Case:
    return Case(name, guard, drive, says, "UsageError")


def _bad_utf8(world: World) -> str:
    data = compact({"state_dir": "agent", "sources": [], "mqtt": {"client_id": "?"}})
    return str(parse_config(data.replace(b"?", b"\xff\xfe"), world.root))


def _surrogate(world: World) -> str:
    text = '[mqtt]\nclient_id = "\\ud800"\n'
    return str(parse_config(text.encode(), world.root, form="toml"))


def _arrived(topic: bytes, payload: bytes = b"x", *, fails: bool = False) -> Callable[[World], str]:
    """Let a connection hear a message, and a good one after it."""

    def drive(world: World) -> str:
        taken: list[str] = []

        def take(incoming: Incoming) -> None:
            if fails and not taken:
                taken.append("?")
                raise ValueError("a defect in what listens")
            taken.append(incoming.topic)

        listen = [Subscription("plant/#", 1, take, 100)]
        connection = Connection(
            Mqtt(), password=None, will=None, subscriptions=listen, confirmed=lambda *_: None
        )
        hear = connection._client.on_message
        if hear is None:
            return "nobody listens"
        for name, body in ((topic, payload), (b"plant/good", b"x")):
            message = MQTTMessage(0, name)
            message.payload = body
            hear(connection._client, None, message)
        return f"log: {[name for name in taken if name != '?']}: {world.log}"

    return drive


def _member(path: str) -> Callable[[World], str]:
    """Sign a manifest that names a file of that path."""

    def change(manifest: dict[str, object]) -> None:
        files = manifest["files"]
        if isinstance(files, list):
            files.append(files[0] | {"path": path})
            files.sort(key=lambda file: str(file["path"]))

    def drive(world: World) -> str:
        members = world.members(change=change)
        path_of = world.inbox / "hostile"
        folder = world.folder(members)
        target = (path_of / path).resolve()
        if target.is_relative_to(world.inbox.resolve()) and not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(members["golden/probe.json"])
        return world.install(folder)

    return drive


def _id(name: object) -> Callable[[World], str]:
    return lambda world: world.command(world.sign(id=name))


def _snapshot(name: str) -> Callable[[World], str]:
    action = {"type": "snapshot", "source": None}
    return lambda world: world.command(world.sign(action, id=name))


def _line(name: str) -> Callable[[World], str]:
    def change(manifest: dict[str, object]) -> None:
        manifest["id"] = name

    return lambda world: world.install(world.pack(world.members(change=change)))


def _chunk(*topics: str) -> Callable[[World], str]:
    """Hand chunks of a bundle that is waited for to the desk, under these ends of topics."""

    def drive(world: World) -> str:
        content = world.pack(world.members()).read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        action = {
            "type": "install",
            "bytes": len(content),
            "sha256": digest,
            "url": None,
            "chunks": {"bytes": 2**20, "sha256": [digest]},
        }
        with world.outbox() as box:
            desk, stop = world.desk(box), threading.Event()
            desk.take(Incoming(f"{AGENT}/command", world.sign(action), retained=False, qos=1))
            thread = threading.Thread(target=desk.run, args=(stop,))
            thread.start()
            deadline = time.monotonic() + 3
            told: list[dict[str, object]] = []
            while time.monotonic() < deadline and not any(one["missing"] for one in told):
                time.sleep(0.02)
                told = [json.loads(event.body) for event in box.peek(100)]
            for topic in topics:
                payload = b"evil" if topic == "c-1/0" else content
                desk.take_chunk(Incoming(f"{AGENT}/command/chunk/{topic}", payload, False, 1))
            time.sleep(0.1)
            stop.set()
            thread.join()
            parts = list((world.agent / "incoming").glob("*.part"))
            empty = all(not any(path.read_bytes()) for path in parts)
            told = [json.loads(event.body) for event in box.peek(100)]
        if told[-1]["state"] != "running" or not parts or not empty:
            return f"a chunk was taken: {told[-1]}"
        return "status running: no chunk was taken"

    return drive


_NO_CHUNK = "no chunk was taken"
CASES = (
    *(
        _level(
            f"a client id with {what}", "signs of a level", _client(name), "has one of . # / . or"
        )
        for what, name in _LEVELS.items()
    ),
    _level("an empty client id", "size of a level", _client(""), "has 0 bytes, must have 1 to 200"),
    _level("a client id of 201 bytes", "size of a level", _client("x" * 201), "has 201 bytes"),
    _level("a topic with an empty level", "size of a level", _topic("a//b"), "has 0 bytes"),
    _level(
        "a topic of nine levels",
        "levels of a topic",
        _topic("a/" * 8 + "b"),
        "has 9 levels, at most 8",
    ),
    _level("a topic of everything", "signs of a level", _topic("#"), "has one of"),
    _level(
        "a source with a topic in its name",
        "names of sources",
        _source(name="../../etc"),
        "has one of",
    ),
    _level(
        "two sources of one name",
        "twice the same source",
        lambda w: str(w.config(sources=[{"kind": "folder", "name": "a", "path": "x"}] * 2)),
        "'a' is there twice",
    ),
    _level(
        "a source that listens to everything",
        "topic of a source",
        lambda w: str(w.config(sources=[{"kind": "mqtt", "name": "a", "topic": "plant/#"}])),
        "has one of",
    ),
    _level(
        "a path with a NUL character",
        "NUL in a path",
        _source(path="frames\0.png"),
        "has a NUL character",
    ),
    _level(
        "a client id that is not UTF-8", "form of a configuration", _bad_utf8, "configuration: "
    ),
    _level("half a surrogate pair", "form of a configuration", _surrogate, "configuration: "),
    _level(
        "a host id of Sparkplug with a wildcard",
        "ids of Sparkplug",
        lambda w: str(w.config(mqtt={"profile": "sparkplug", "sparkplug": {"primary_host": "+"}})),
        "mqtt.sparkplug.primary_host '.' has one of",
    ),
    Case(
        "a message whose topic is not UTF-8",
        "UTF-8 of a topic",
        _arrived(b"plant/\xff\xfe"),
        r"\['plant/good'\]: .*not UTF-8 is ignored",
    ),
    Case(
        "a message larger than was asked for",
        "size of a message",
        _arrived(b"plant/x", bytes(101)),
        r"\['plant/good'\]: .*has 101 bytes, at most 100",
    ),
    Case(
        "a message that a listener fails on",
        "errors of a listener",
        _arrived(b"plant/x", fails=True),
        r"\['plant/good'\]: .*failed on a message",
    ),
    Case(
        "a member named ../../evil.txt",
        "paths of a manifest",
        _member("../../evil.txt"),
        "manifest is not valid.*files.*path",
        "TrustError",
    ),
    Case(
        "a member with an absolute path",
        "paths of a manifest",
        _member("/evil.txt"),
        "manifest is not valid.*files.*path",
        "TrustError",
    ),
    Case(
        "a member in capitals",
        "paths of a manifest",
        _member("Model.onnx"),
        "manifest is not valid.*files.*path",
        "TrustError",
    ),
    Case(
        "a member named like the manifest",
        "the manifest in itself",
        _member("manifest.json"),
        "files name the manifest itself",
        "TrustError",
    ),
    Case(
        "a product line named ../../etc",
        "id of a manifest",
        _line("../../etc"),
        "manifest is not valid.*id",
        "TrustError",
    ),
    Case(
        "a command named ../../evil",
        "id of a command",
        _snapshot("../../evil"),
        "status refused malformed",
    ),
    Case(
        "a command with a slash in its id",
        "id of a command",
        _id("a/b"),
        "status refused malformed",
    ),
    Case(
        "a command with a line break in its id",
        "id of a command",
        _id("a\n"),
        "status refused malformed",
    ),
    Case("a command whose id is a number", "id of a command", _id(7), "status refused malformed"),
    Case(
        "a chunk with a path as its number",
        "number of a chunk",
        _chunk("c-1/..", "c-1/-1", "c-1/\u0661"),
        _NO_CHUNK,
    ),
    Case(
        "a chunk of a number beyond the last",
        "chunks that are missing",
        _chunk("c-1/1", "c-1/9999"),
        _NO_CHUNK,
    ),
    Case("a chunk of another command", "command of a chunk", _chunk("c-2/0"), _NO_CHUNK),
    Case("a chunk of other content", "hash of a chunk", _chunk("c-1/0"), _NO_CHUNK),
)
