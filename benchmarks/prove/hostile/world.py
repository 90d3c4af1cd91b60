"""A small device for one case: an installed bundle, keys, and the doors hostile input comes by."""

import base64
import hashlib
import json
import logging
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.prove.hostile import toy
from deepfusion_edge import image
from deepfusion_edge.alerts import Alerts
from deepfusion_edge.bundle import store
from deepfusion_edge.bundle.container import pack
from deepfusion_edge.bundle.envelope import PrivateKey, key_id, public_pem, seal
from deepfusion_edge.bundle.installed import Installed
from deepfusion_edge.commands.desk import Desk
from deepfusion_edge.commands.machine import Swap
from deepfusion_edge.commands.message import COMMAND
from deepfusion_edge.commands.window import Window
from deepfusion_edge.config import AgentConfig, Model, parse_config
from deepfusion_edge.judging import Judge
from deepfusion_edge.line import Line
from deepfusion_edge.outbox import Outbox
from deepfusion_edge.report.messages import Incoming
from deepfusion_edge.runtime.ort import OrtSession
from deepfusion_edge.source.base import Frame

NOW, NOW_S = "2026-06-01T00:01:00Z", 1780272060.0
ISSUED, UNTIL = "2026-06-01T00:00:00Z", "2026-06-01T01:00:00Z"
AGENT = "deepfusion/line-1"
ALL = ("set-members", "set-policy", "snapshot", "install", "roll-back", "restart")

_OURS = {
    "bundles", "current", "previous", "trust", "probation.json", "highest.json", "history.json",
    "lock", "commands.json", "incoming", "engines", "snapshots", "outbox.sqlite",
    "outbox.sqlite-wal", "outbox.sqlite-shm", "outbox.lock", "outbox.reserve",
}  # fmt: skip
"""What may lie in the agent's folder."""


def key(number: int) -> PrivateKey:
    """Make one of the corpus's keys, always the same."""
    return PrivateKey.from_private_bytes(hashlib.sha256(b"%d" % number).digest())


class _Machine:
    """An agent that does what commands ask, and nothing else."""

    def load(self, _installed: Installed) -> Swap:
        return lambda then: then()

    def choose(self, _model: Model) -> None:
        return

    def restart(self, _reason: str) -> None:
        return


class _Log(logging.Handler):
    """Everything the product logged."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


class World:
    """Folders, keys and doors.

    Attributes:
        agent: the agent's folder, with bundle ``line``, sequence 1, installed.
        inbox: where hostile files are made.
        temp: for temporary files.
        publisher, other: keys; the device trusts the publisher, for bundles and for commands.
        digest: of the installed bundle.
        log: lines that the product logged.
    """

    publisher, other = key(1), key(2)

    def __init__(self, root: Path) -> None:
        self.root = root
        self.agent, self.inbox, self.temp = root / "agent", root / "inbox", root / "tmp"
        for folder in (self.inbox, self.temp):
            folder.mkdir(parents=True)
        tempfile.tempdir = str(self.temp)
        self.trust = self.inbox / "publisher.pub"
        self.trust.write_bytes(public_pem(self.publisher.public_key()))
        self._log = _Log()
        logging.getLogger("deepfusion_edge").addHandler(self._log)

    def begin(self, template: "World | None" = None) -> None:
        """Have a bundle installed: anew, or as it is in another world."""
        if template is None:
            good = self.pack(toy.members([self.publisher]))
            store.install(good, self.agent, [self.trust], now=NOW, probe=False)
            good.unlink()
        else:
            shutil.copytree(template.agent, self.agent, symlinks=True)
        self.digest = store.load_current(self.agent, now=NOW).bundle_hash

    @property
    def log(self) -> str:
        """What the product logged so far."""
        return "\n".join(self._log.lines)

    def file(self, content: bytes, name: str = "hostile.dfb") -> Path:
        """Put a file into the inbox."""
        path = self.inbox / name
        path.write_bytes(content)
        return path

    def pack(self, members: Mapping[str, bytes], name: str = "hostile.dfb") -> Path:
        """Put a ``.dfb`` file into the inbox."""
        pack(self.inbox / name, members)
        return self.inbox / name

    def folder(self, members: Mapping[str, bytes]) -> Path:
        """Put a bundle into the inbox as a folder."""
        made = self.inbox / "hostile"
        for name, content in members.items():
            (made / name).parent.mkdir(parents=True, exist_ok=True)
            (made / name).write_bytes(content)
        return made

    def members(self, **changes: Any) -> dict[str, bytes]:
        """Make a bundle that follows the installed one, by the publisher."""
        return toy.members([self.publisher], **({"sequence": 2} | changes))

    def install(self, bundle: Path, *, probe: bool = False, **options: Any) -> str:
        """Install a bundle over the one that serves."""
        given: dict[str, Any] = {"now": NOW, "probe": probe} | options
        installed = store.install(bundle, self.agent, (), **given)
        return f"installed sequence {installed.manifest.sequence}"

    def config(self, **changes: object) -> AgentConfig:
        """Read a configuration as JSON, right but for the changes."""
        plain: dict[str, object] = {
            "state_dir": "agent",
            "sources": [{"kind": "folder", "name": "cam", "path": "inbox"}],
            "mqtt": {"client_id": "line-1"},
            "commands": {
                "keys": [{"file": str(self.trust), "actions": list(ALL)}],
                "snapshot_dir": "agent/snapshots",
            },
            "updates": {"min_free_bytes": 0},
        }
        return parse_config(json.dumps(plain | changes).encode(), self.root)

    def outbox(self) -> Outbox:
        """Open the agent's outbox."""
        return Outbox(self.agent, max_events=1000, max_bytes=2**24, ttl_s=None)

    def judge(self, content: bytes, **limits: int) -> str:
        """Let the agent judge a frame, and a good one after it; returns the alert."""
        with self.outbox() as box:
            config = self.config()
            telling = Alerts(config, box, now=lambda: NOW_S)
            judge = Judge(config, self._line(), box, alerts=telling, now=lambda: NOW_S)
            frame = Frame("cam", "hostile", content, NOW_S, 0, limits.get("max_pixels", 64_000_000))
            judge.take(judge.prepare(frame))
            green = np.zeros((toy.SIDE, toy.SIDE, 3), np.uint8)
            green[..., 1] = 255
            judge.take(judge.prepare(frame._replace(content=green, sequence=1)))
            told = [json.loads(event.body) for event in box.peek(10)]
        first, after = ([one for one in told if one["sequence"] == n] for n in (0, 1))
        if [one["class"] for one in after if "class" in one] != ["green"]:
            return f"the next frame was not judged: {after}"
        # Of a hundred clean frames one is flagged, by a draw that is secret: no matter here.
        judged = [f"judged as {one['class']}" for one in first if "class" in one]
        return (judged or [f"alert {one['kind']}: {one['reason']}" for one in first])[0]

    def sign(
        self,
        action: Mapping[str, object] | None = None,
        *,
        signers: tuple[PrivateKey, ...] | None = None,
        spell: Callable[[object], bytes] | None = None,
        **changes: object,
    ) -> bytes:
        """Sign a command, right but for the changes; fields may break any rule."""
        plain: dict[str, object] = {
            "schema": 1,
            "id": "c-1",
            "agent": AGENT,
            "sequence": 1,
            "issued": ISSUED,
            "expires": UNTIL,
            "action": action or {"type": "set-members", "members": 2},
        }
        payload = (spell or compact)(plain | changes)
        return seal(payload, signers or (self.publisher,), COMMAND)

    def desk(self, box: Outbox, *, now_s: float = NOW_S, **config: object) -> Desk:
        """Open the agent's command desk."""
        return Desk(
            self.config(**config), box, _Machine(), Window(), now=lambda: now_s, probe=False
        )

    def command(self, *messages: bytes, retained: bool = False, now_s: float = NOW_S) -> str:
        """Hand messages to the agent's desk; returns the status of the last one."""
        with self.outbox() as box:
            desk = self.desk(box, now_s=now_s)
            for message in messages:
                desk.take(Incoming(f"{AGENT}/command", message, retained, 1))
            told = [json.loads(event.body) for event in box.peek(1000)]
        if not told:
            return "nothing was told"
        last = told[-1]
        code = f" {last['code']}" if last["code"] else ""
        return f"status {last['state']}{code}: {last['reason']}"

    def serving(self) -> str:
        """Judge a green image with what is installed; returns the bundle's digest."""
        line = self._line()
        pixels = np.zeros((1, 3, toy.SIDE, toy.SIDE), np.float32)
        pixels[:, 1] = 1
        outputs = line.session.run(pixels, np.ones((4, 3), np.float32))
        if int(outputs.fused.argmax()) != toy.COLOURS.index("green"):
            raise RuntimeError("green is not green any more")
        return line.digest

    def strangers(self) -> list[str]:
        """Name what lies in the agent's folder and does not belong there, or beside it."""
        found = [path.name for path in self.agent.iterdir() if path.name not in _OURS]
        return found + [path.name for path in self.temp.iterdir()]

    def _line(self) -> Line:
        current = store.load_current(self.agent, now=NOW)
        return Line(
            current.manifest, current.bundle_hash, OrtSession(current.model_bytes(), threads=1)
        )


def compact(value: object) -> bytes:
    """Spell JSON as the product does, whatever its rules say of the content."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def png(width: int, height: int, colour: tuple[int, int, int] = (0, 255, 0)) -> bytes:
    """Make a plain picture."""
    pixels = np.empty((height, width, 3), np.uint8)
    pixels[:] = colour
    return image.encode_png(pixels)


def name_of(private: PrivateKey) -> str:
    """Return a key's id."""
    return key_id(private.public_key())


def envelope(content: bytes) -> dict[str, Any]:
    """Read an envelope to change it."""
    found: dict[str, Any] = json.loads(content)
    return found


def flipped(text: str) -> str:
    """Change one bit of base64's content."""
    raw = bytearray(base64.b64decode(text))
    raw[7] ^= 1
    return base64.b64encode(raw).decode()
