"""Engines that lose their workers, jobs that kill them, and a net that is never the same."""

import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from deepfusion_toolkit.data.folder import Item
from deepfusion_toolkit.engines import Engine, Job
from tests.toolkit import attack_nets as nets

THREE, OTHER = "tests.toolkit.attack_nets:three", "tests.toolkit.attack_nets:other_three"


def fickle() -> nn.Module:
    """Other weights in every process."""
    net = nets.three()
    with torch.no_grad():
        net.head.bias.fill_(os.getpid() % 1000)
    return net


@dataclass(frozen=True)
class Deadly:
    """A job that kills its worker on one image: once if there is a place to remember it."""

    job: Job[Sequence[Item], Any]
    file: str
    once: Path | None = None

    def open(self, device: str) -> Callable[..., Any]:
        work = self.job.open(device)

        def deadly(chunk: Sequence[Item], notify: Callable[[str], None]) -> Any:
            if self.file in self.names(chunk) and not (self.once and self.once.exists()):
                if self.once:
                    self.once.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return work(chunk, notify)

        return deadly

    def names(self, chunk: Sequence[Item]) -> list[str]:
        return self.job.names(chunk)


class Sabotaged:
    """A real engine whose jobs are deadly; counts what it finished."""

    def __init__(self, engine: Engine, file: str, once: Path | None = None) -> None:
        self.name, self.workers, self.threads = engine.name, engine.workers, engine.threads
        self.engine, self.file, self.once = engine, file, once

    def run(self, job, chunks, **rest):
        return self.engine.run(Deadly(job, self.file, self.once), chunks, **rest)


def made(root: Path) -> dict[str, bytes]:
    """Everything in a folder, by name."""
    return {
        str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()
    }


def wait_for(happened: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if happened():
            return True
        time.sleep(0.02)
    return False
