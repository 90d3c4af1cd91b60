"""What every part needs: a mosquitto of its own, bundles, a configuration, an agent's process."""

import functools
import json
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from benchmarks.agent.mosquitto import Mosquitto
from benchmarks.latency.subjects import last_stage
from deepfusion_edge.bundle import store
from deepfusion_edge.bundle.envelope import generate, public_pem
from deepfusion_edge.line import utc_now
from deepfusion_export.bundle import build
from deepfusion_toolkit import models
from deepfusion_toolkit.models import Classifier
from deepfusion_toolkit.plan import Base, Plan
from deepfusion_toolkit.surgery import erode, prefix_share

AGENT = "bench"


class Rig:
    """Broker and work folder of one part."""

    def __init__(self, work: Path) -> None:
        self.work = work
        self.broker = Mosquitto(work / "broker")
        self._agents: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        self.broker.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for agent in self._agents:  # those that an error left behind
            agent.kill()
            agent.wait()
        self.broker.stop()

    def install(self, bundle: "Bundle") -> Path:
        """Make a state folder with a bundle installed."""
        state = self.work / "state"
        store.install(bundle.path, state, [bundle.key], now=utc_now())
        return state

    def config(self, state: Path, source: Mapping[str, object], **model: object) -> Path:
        """Write the agent's configuration and return its path."""
        path = self.work / "agent.json"
        content = {
            "state_dir": str(state),
            "sources": [source],
            "mqtt": {"port": self.broker.port, "client_id": AGENT},
            "model": {"threads": 1} | model,
            "outbox": {"max_events": 10_000_000, "max_bytes": 2**32},
            "run": {"drain_timeout_s": 600.0},
            "http": {"port": 0},
        }
        path.write_text(json.dumps(content))
        return path

    def agent(self, config: Path, log: Path) -> "subprocess.Popen[bytes]":
        """Start ``deepfusion-agent run`` as a user would; what it says is appended to ``log``."""
        with log.open("ab") as file:
            agent = subprocess.Popen(
                [sys.executable, "-m", "deepfusion_edge.cli", "run", "--config", str(config)],
                stdout=file,
                stderr=file,
            )
        self._agents.append(agent)
        return agent


def stop(agent: "subprocess.Popen[bytes]", timeout_s: float = 600.0) -> None:
    """End an agent in order: it drains."""
    agent.send_signal(signal.SIGTERM)
    agent.wait(timeout_s)


class Bundle:
    """A signed bundle of a model, eroded from its last stage on, and the key to trust."""

    def __init__(self, model: Classifier, members: int, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        eroded = erode(model, last_stage(model))
        height, width = model.size
        with torch.no_grad():
            classes = model(torch.zeros(1, 3, height, width)).shape[1]
        plan = Plan(
            schema=2,
            classes=tuple(f"class-{n}" for n in range(classes)),
            height=height,
            width=width,
            bases=(Base.of(model, eroded.sites),),
            preprocess=(),
            members=members,
            fusion="mean-probabilities",
            prefix_share=prefix_share(eroded.graph_module),
            thresholds=None,
            settings={},
            figures={},
        )
        private = generate()
        self.path, self.key, self.members = folder / "line.dfb", folder / "line.pub", members
        self.key.write_bytes(public_pem(private.public_key()))
        build(
            [model],
            plan,
            keys=[private],
            id="bench",
            sequence=1,
            created=utc_now(),
            expires="2099-01-01T00:00:00Z",
            out=self.path,
        )


class _Small(nn.Module):
    """Four convolutions: an inference of about a millisecond, so that the rest is what is timed."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.body = nn.ModuleList(
            nn.Sequential(nn.Conv2d(8, 8, 3, 1, 1), nn.BatchNorm2d(8), nn.ReLU()) for _ in range(3)
        )
        self.head = nn.Linear(8, 4)

    def forward(self, image: Tensor) -> Tensor:
        y = self.stem(image)
        for block in self.body:
            y = y + block(y)
        logits: Tensor = self.head(y.mean((2, 3)))
        return logits


def small() -> Classifier:
    """Make the small net, 64x64, with drawn weights."""
    torch.manual_seed(0)
    return Classifier(_Small().eval(), name="small", size=(64, 64))


@functools.cache
def bundle_of(spec: str, members: int, work: Path) -> Bundle:
    """Make the bundle of a model SPEC, or of the ``small`` net, once a process."""
    model = small() if spec == "small" else models.load(spec)
    return Bundle(model, members, work / f"bundle-{spec.replace('/', '_')}")


def photographs(count: int, size: tuple[int, int], *, seed: int = 0) -> list[bytes]:
    """Make JPEG images of (width, height) that are as hard to decode as photographs."""
    import io

    random = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        coarse = random.integers(0, 256, (size[1] // 16, size[0] // 16, 3), np.uint8)
        image = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)
        noise = random.integers(-8, 9, (size[1], size[0], 3))
        pixels = np.clip(np.asarray(image).astype(int) + noise, 0, 255).astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=88)
        made.append(buffer.getvalue())
    return made
