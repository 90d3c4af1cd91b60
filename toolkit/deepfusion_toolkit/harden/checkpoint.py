"""What an interrupted hardening goes on from: one file, written after every epoch."""

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from zipfile import BadZipFile

import msgspec
import torch
from torch import Tensor

from deepfusion_edge.errors import InputError, UsageError
from deepfusion_toolkit.files import write_bytes
from deepfusion_toolkit.harden.judge import Figures
from deepfusion_toolkit.harden.noticing import Round

Identity = Mapping[str, Any]
"""Names and values of everything that decides about training."""


class Epoch(msgspec.Struct, frozen=True):
    """What one epoch brought.

    Attributes:
        number: from 1.
        loss: mean over its steps.
        figures: on held-out images.
        kept: whether the clean accuracy is within the budget.
    """

    number: int
    loss: float
    figures: Figures
    kept: bool


@dataclass
class State:
    """Training after so many epochs.

    Attributes:
        weights, averaged: of the model, see ``Learner``.
        optimiser: AdamW's own state.
        rounds: of the detector, before the first epoch.
        epochs: what each brought.
        best: weights of the best epoch, and its number from 1; none before the first.
        soft: softened labels [N, C] of the training images, once distillation has made them.
    """

    weights: list[Tensor]
    averaged: list[Tensor]
    optimiser: dict[str, Any]
    rounds: list[Round] = field(default_factory=list)
    epochs: list[Epoch] = field(default_factory=list)
    best: list[Tensor] = field(default_factory=list)
    best_number: int = 0
    soft: Tensor | None = None


def save(state: State, identity: Identity, path: Path) -> None:
    """Write the file whole or leave the last one.

    Raises:
        StorageError: the folder cannot be written.
    """
    buffer = io.BytesIO()
    torch.save(
        {
            "identity": msgspec.json.encode(identity),
            "rounds": msgspec.json.encode(state.rounds),
            "epochs": msgspec.json.encode(state.epochs),
            "weights": [t.cpu() for t in state.weights],
            "averaged": [t.cpu() for t in state.averaged],
            "optimiser": state.optimiser,
            "best": state.best,
            "best_number": state.best_number,
            "soft": state.soft,
        },
        buffer,
    )
    write_bytes(path, buffer.getvalue())


def load(path: Path, identity: Identity) -> State | None:
    """Read what an interrupted run left; None if it left nothing.

    Raises:
        InputError: the file is damaged.
        UsageError: the run had other settings, data or models; the first one is named.
    """
    if not path.is_file():
        return None
    try:
        raw = torch.load(path, weights_only=True)
        found = msgspec.json.decode(raw["identity"], type=dict[str, Any])
        state = State(
            weights=raw["weights"],
            averaged=raw["averaged"],
            optimiser=raw["optimiser"],
            rounds=msgspec.json.decode(raw["rounds"], type=list[Round]),
            epochs=msgspec.json.decode(raw["epochs"], type=list[Epoch]),
            best=raw["best"],
            best_number=raw["best_number"],
            soft=raw["soft"],
        )
    except (
        OSError, EOFError, RuntimeError, KeyError, TypeError, UnpicklingError, BadZipFile,
        msgspec.DecodeError,
    ) as error:  # fmt: skip
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"checkpoint {path} is damaged ({first[:200]})", "remove it, or leave out --resume"
        ) from error
    wanted = msgspec.json.decode(msgspec.json.encode(identity), type=dict[str, Any])
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name):
            raise UsageError(
                f"the hardening in {path.parent} was begun with {name} {found.get(name)}, "
                f"this one has {wanted.get(name)}",
                "give the same options, another --work, or leave out --resume",
            )
    return state
