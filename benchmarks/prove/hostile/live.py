"""An agent that runs: hostile pictures, commands, bundles by a broker; a good frame after."""

import hashlib
import json
import queue
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.agent.subscriber import Subscriber
from benchmarks.prove.result import Row
from deepfusion_edge.errors import DeepFusionError, UnreachableError

_PATIENCE_S = 60.0
_TRIES, _AGAIN_S = 12, 5.0
_CLAIM = "an agent that runs tells of each by an event, and judges on with the same bundle"


class Met(NamedTuple):
    """What the running agent showed."""

    row: Row
    cases: int = 0
    failed: int = 0


class _Hostile(NamedTuple):
    """What is sent, and what an event or the state must say then."""

    name: str
    send: Callable[["Rig"], None]
    says: str


class Rig:
    """The agent, its broker, and everything that it published."""

    def __init__(
        self, world: Any, client: Subscriber, heard: "queue.Queue[dict[str, Any]]"
    ) -> None:
        self.world, self._client, self._heard = world, client, heard
        self._sequence = int(time.time() * 1000)

    def picture(self, content: bytes) -> None:
        """Publish a picture."""
        self._client.publish("plant/cam", content)

    def command(self, action: dict[str, object] | None = None, **changes: object) -> bytes:
        """Sign a command for now, right but for the changes, and publish it."""
        self._sequence += 1
        now = time.time()
        plain = {
            "id": f"c-{self._sequence}",
            "sequence": self._sequence,
            "issued": _utc(now - 1),
            "expires": _utc(now + 600),
        }
        message: bytes = self.world.sign(action, **(plain | changes))
        self.message(message)
        return message

    def message(self, message: bytes) -> None:
        """Publish to the command topic."""
        self._client.publish("deepfusion/line-1/command", message)

    def bundle(self, content: bytes) -> None:
        """Command the installation of these bytes, and send them in one chunk."""
        digest = hashlib.sha256(content).hexdigest()
        chunks = {"bytes": 2**20, "sha256": [digest]}
        action = {"type": "install", "bytes": len(content), "sha256": digest, "url": None}
        name = f"c-{self._sequence + 1}"
        self.command(action | {"chunks": chunks})
        self.wait(lambda event: bool(event.get("missing")))
        self._client.publish(f"deepfusion/line-1/command/chunk/{name}/0", content)

    def wait(
        self, wanted: Callable[[dict[str, Any]], bool], seconds: float = _PATIENCE_S
    ) -> dict[str, Any]:
        """Wait for an event.

        Raises:
            UnreachableError: it does not come.
        """
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            try:
                event = self._heard.get(timeout=left)
            except queue.Empty:
                break
            if wanted(event):
                return event
        raise UnreachableError("the agent does not tell of it", "see its log")

    def judged(self, picture: bytes) -> str:
        """Publish a good frame until it is judged; returns the bundle's digest.

        Raises:
            UnreachableError: it is not.
        """
        for _ in range(_TRIES):
            self.picture(picture)
            with suppress(UnreachableError):
                event = self.wait(lambda event: event.get("class") == "green", _AGAIN_S)
                return str(event["bundle"])
        raise UnreachableError("a good frame is not judged any more", "see its log")


def measure(work: Path) -> Met:
    """Start broker and agent, send what is hostile, and look."""
    if shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin") is None and not shutil.which(
        "mosquitto"
    ):
        return Met(Row(_CLAIM, "not possible", "mosquitto is not installed: make broker"))
    lines, failed = [], 0
    with _rig(work) as rig:
        from benchmarks.prove.hostile.world import png

        good = png(8, 8)
        for hostile in _all():
            problem, said = _attempt(rig, hostile, good)
            failed += bool(problem)
            lines.append(f"{hostile.name}: {f'FAILED, {problem}: ' if problem else ''}{said}")
    count = len(lines)
    row = Row(
        _CLAIM,
        "failed" if failed else "held",
        f"{count - failed} of {count}",
        "",
        tuple(lines),
    )
    return Met(row, count, failed)


def _attempt(rig: Rig, hostile: _Hostile, good: bytes) -> tuple[str, str]:
    said = ""

    def tells(event: dict[str, Any]) -> bool:
        nonlocal said
        text = " ".join(str(event.get(key) or "") for key in ("kind", "state", "code", "reason"))
        sources = event.get("sources") or {}
        text += "".join(f" {one['refused']} {one['reason']}" for one in sources.values())
        if hostile.says in text:
            said = text.strip()
            return True
        return False

    try:
        hostile.send(rig)
        rig.wait(tells)
        if rig.judged(good) != rig.world.digest:
            return "another bundle judges", said
    except DeepFusionError as error:
        return str(error), said
    return "", said


@contextmanager
def _rig(work: Path) -> Iterator[Rig]:
    from benchmarks.agent.mosquitto import Mosquitto
    from benchmarks.agent.rig import stop
    from benchmarks.prove.hostile.world import World

    world = World(work)
    world.begin()
    broker = Mosquitto(work / "broker")
    broker.start()
    config = world.file(_configuration(world, broker.port), "agent.json")
    heard: queue.Queue[dict[str, Any]] = queue.Queue()
    command = [sys.executable, "-m", "deepfusion_edge.cli", "run", "--config", str(config)]
    with (work / "agent.log").open("wb") as log:
        agent = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            with Subscriber(
                broker.port, "deepfusion/line-1/#", lambda _topic, body: _hear(heard, body)
            ) as client:
                rig = Rig(world, client, heard)
                rig.wait(lambda event: event.get("state") == "online")
                yield rig
        finally:
            stop(agent, _PATIENCE_S)
            broker.stop()


def _hear(heard: "queue.Queue[dict[str, Any]]", body: bytes) -> None:
    try:
        event = json.loads(body)
    except ValueError:
        return  # a command or a chunk of ours
    if isinstance(event, dict):
        heard.put(event)


def _configuration(world: Any, port: int) -> bytes:
    return json.dumps(
        {
            "state_dir": str(world.agent),
            "sources": [
                {"kind": "mqtt", "name": "cam", "topic": "plant/cam", "max_pixels": 10_000}
            ],
            "mqtt": {"client_id": "line-1", "port": port, "state_interval_s": 0.5},
            "model": {"threads": 1},
            "commands": {
                "keys": [{"file": str(world.trust), "actions": ["install", "set-members"]}]
            },
            "updates": {"min_free_bytes": 0, "idle_timeout_s": 1.0},
            "run": {"drain_timeout_s": 5.0},
        }
    ).encode()


def _all() -> tuple[_Hostile, ...]:
    from benchmarks.prove.hostile import graphs, images, probes, toy
    from benchmarks.prove.hostile.world import png

    def bundle(**changes: Any) -> Callable[[Rig], None]:
        return lambda rig: rig.bundle(rig.world.pack(rig.world.members(**changes)).read_bytes())

    def by_stranger(rig: Rig) -> None:
        members = toy.members([rig.world.other], sequence=2)
        rig.bundle(rig.world.pack(members).read_bytes())

    def padded(rig: Rig) -> None:
        rig.bundle(rig.world.pack(rig.world.members()).read_bytes() + b"evil")

    def replayed(rig: Rig) -> None:
        message = rig.command()
        rig.wait(lambda event: event.get("state") == "done")
        rig.message(message)

    nan, outside = probes.model_of_nan(), graphs.model_outside()
    return (
        _Hostile("a GIF", lambda r: r.picture(images.gif()), "not a PNG or JPEG"),
        _Hostile(
            "a picture of too many pixels", lambda r: r.picture(png(101, 100)), "at most 10000"
        ),
        _Hostile("a picture cut off", lambda r: r.picture(png(64, 64)[:-40]), "corrupt image"),
        _Hostile("a picture of two sizes", lambda r: r.picture(images.two_sizes()), "when it is"),
        _Hostile("noise as a command", lambda r: r.message(b"\xff\x00"), "untrusted"),
        _Hostile(
            "a stranger's command",
            lambda r: r.message(r.world.sign(signers=(r.world.other,))),
            "signed by key",
        ),
        _Hostile("an old command", lambda r: r.message(r.world.sign()), "expired"),
        _Hostile(
            "a command that the key may not",
            lambda r: _do(r.command({"type": "restart"})),
            "unauthorised",
        ),
        _Hostile("a command sent twice", replayed, "duplicate"),
        _Hostile("a bundle of a stranger", by_stranger, "trusted here"),
        _Hostile("a bundle with bytes behind it", padded, "not the one canonical directory"),
        _Hostile("a bundle with weights outside", bundle(model=outside), "keeps weights outside"),
        _Hostile("a bundle of NaN", bundle(model=nan), "not a finite number"),
        _Hostile("a bundle of an old sequence", bundle(sequence=1), "has been installed already"),
        _Hostile(
            "a bundle that has expired",
            bundle(change=lambda m: m.update(expires="2026-02-01T00:00:00Z")),
            "the bundle expired on",
        ),
    )


def _do(_answer: object) -> None:
    """Throw an answer away."""


def _utc(time_s: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time_s))
