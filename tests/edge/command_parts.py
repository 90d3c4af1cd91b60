"""What tests of commands share: a signer, an agent that is not one, and a desk with both."""

import hashlib
import json
import threading
from dataclasses import dataclass, field
from pathlib import Path

from deepfusion_edge.bundle.envelope import generate, key_id, public_pem
from deepfusion_edge.commands.desk import Desk
from deepfusion_edge.commands.machine import Halted
from deepfusion_edge.commands.message import Command, Restart, sign
from deepfusion_edge.commands.window import Window
from deepfusion_edge.config import AgentConfig, FolderSource, Mqtt
from deepfusion_edge.config_commands import CommandKey, Commands, Updates
from deepfusion_edge.errors import ModelError
from deepfusion_edge.fusion import Verdict
from deepfusion_edge.observer import Judged, Timing
from deepfusion_edge.outbox import Outbox
from deepfusion_edge.report.messages import Incoming
from deepfusion_edge.source.base import Frame

AGENT = "deepfusion/line-1"
TOPIC = f"{AGENT}/command"
ISSUED, NOW, EXPIRES = "2026-06-01T00:00:00Z", "2026-06-01T00:01:00Z", "2026-06-01T01:00:00Z"
NOW_S = 1780272060.0
ALL = ("set-members", "set-policy", "snapshot", "install", "roll-back", "restart")


def command(action=None, *, sequence=1, **changes) -> Command:
    plain = {
        "schema": 1,
        "id": f"c-{sequence}",
        "agent": AGENT,
        "sequence": sequence,
        "issued": ISSUED,
        "expires": EXPIRES,
        "action": action or Restart(),
    }
    return Command(**{**plain, **changes})


@dataclass
class Signer:
    """A key on the device's allow-list."""

    folder: Path
    actions: tuple[str, ...] = ALL
    key: object = field(default_factory=generate)

    def __post_init__(self):
        self.folder.mkdir(parents=True, exist_ok=True)
        self.id = key_id(self.key.public_key())
        self.file = self.folder / f"{self.id}.pub"
        self.file.write_bytes(public_pem(self.key.public_key()))

    def entry(self) -> CommandKey:
        return CommandKey(str(self.file), self.actions)

    def sign(self, action=None, **changes) -> bytes:
        return sign(command(action, **changes), self.key)


class FakeMachine:
    """Does what it is asked and remembers it; ``unfit`` are sequences that do not load or run."""

    def __init__(self):
        self.loaded, self.judging, self.models, self.restarts = [], [], [], []
        self.unfit_to_load, self.unfit_to_run, self.halted = set(), set(), False

    def load(self, installed):
        sequence = installed.manifest.sequence
        self.loaded.append(sequence)
        if sequence in self.unfit_to_load:
            raise ModelError(f"{sequence} does not load", "look")

        def swap(then):
            if self.halted:
                raise Halted
            if sequence in self.unfit_to_run:
                raise ModelError(f"{sequence} does not run", "look")
            self.judging.append(sequence)
            then()

        return swap

    def choose(self, model):
        if model.members == 64:
            raise ModelError("64 is too many", "take less")
        self.models.append((model.members, model.policy))

    def restart(self, reason):
        self.restarts.append(reason)


def make_config(state: Path, *signers: Signer, snapshot_dir=None, updates=None, port=1, **mqtt):
    return AgentConfig(
        state_dir=str(state),
        sources=(FolderSource(name="cam", path=str(state)),),
        mqtt=Mqtt(client_id="line-1", port=port, **mqtt),
        commands=Commands(
            keys=tuple(signer.entry() for signer in signers),
            snapshot_dir=snapshot_dir and str(snapshot_dir),
            max_snapshots=2,
        ),
        updates=updates or Updates(min_free_bytes=0),
    )


class Office:
    """A desk with its outbox; ``work()`` lets it run until nothing more can be done at once."""

    def __init__(self, config, *, now_s=NOW_S, machine=None, hook=lambda _step: None, probe=False):
        self.config, self.now_s = config, now_s
        self.machine, self.window = machine or FakeMachine(), Window()
        self.outbox = Outbox(Path(config.state_dir), max_events=10_000, max_bytes=2**26, ttl_s=None)
        try:
            self.desk = Desk(
                config,
                self.outbox,
                self.machine,
                self.window,
                now=lambda: self.now_s,
                hook=hook,
                probe=probe,
            )
        except BaseException:
            self.outbox.close()
            raise
        self._stop = threading.Event()
        self._thread = None
        self._told = None

    def take(self, message: bytes, *, retained=False) -> dict:
        """Hand a message in and return what is said of it at once."""
        before = len(self.statuses())
        self.desk.take(Incoming(TOPIC, message, retained, 1))
        digest = hashlib.sha256(message).hexdigest()
        told = [
            status
            for status in self.statuses()[before:]
            if status["digest"] == digest and status["state"] in {"accepted", "refused"}
        ]
        assert len(told) <= 1
        return told[0] if told else {}

    def statuses(self) -> list[dict]:
        """What was told, also after the end."""
        if self._told is not None:
            return self._told
        return [
            json.loads(event.body)
            for event in self.outbox.peek(10_000)
            if event.channel == "command/status"
        ]

    def states(self, name) -> list[str]:
        return [
            status["phase"] or status["state"]
            for status in self.statuses()
            if status["command"] == name
        ]

    def frames(self, count, *, state="accept", latency_ms=10.0, problem=None):
        for at in range(count):
            self.window.judged(judged(at, state=state, latency_ms=latency_ms, problem=problem))

    def __enter__(self):
        self._thread = threading.Thread(target=self.desk.run, args=(self._stop,))
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        if self._thread:
            self._thread.join(30)
            assert not self._thread.is_alive()
        self.close()

    def close(self):
        self._told = self.statuses()
        self.outbox.close()


def judged(
    at=0, *, source="cam", content=None, pixels=True, state="accept", latency_ms=10.0, problem=None
):
    import numpy as np

    verdict = Verdict(
        label=0, confidence=1.0, feature_variance=0.0, disagreement=0.0, state=state, members=4
    )
    array = np.full((2, 3, 3), at % 256, np.uint8)
    return Judged(
        Frame(source, f"{at}.png", array if content is None else content, 1.0, at, 100),
        array if pixels else None,
        None if problem else verdict,
        "red",
        problem,
        f"event-{at}",
        Timing(1.0, latency_ms, latency_ms, latency_ms),
    )
