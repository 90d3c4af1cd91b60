"""Robust accuracy of one network: AutoAttack with full access to it."""

import hashlib
from dataclasses import replace
from pathlib import Path

import msgspec
import torch
from torch import Tensor

from deepfusion_edge.erosion import stream_of
from deepfusion_edge.errors import InputError
from deepfusion_toolkit.attacks.battery import run
from deepfusion_toolkit.attacks.one_by_one import seeded
from deepfusion_toolkit.attacks.parts import STANDARD, Effort, Part, Version, plan_for
from deepfusion_toolkit.attacks.projections import into_ball
from deepfusion_toolkit.attacks.settings import Settings
from deepfusion_toolkit.files import MALFORMED, write_bytes
from deepfusion_toolkit.models import Classifier
from deepfusion_toolkit.plan import fingerprint
from deepfusion_toolkit.report.terminal import progress
from deepfusion_toolkit.statistics import Share, share


class Robustness(msgspec.Struct, frozen=True):
    """What AutoAttack leaves standing.

    Attributes:
        clean: share of images classified as labelled.
        robust: share of images that are, and stay so under every part.
        survivors: which ones those are, in the order of the images.
        parts: the attacks that ran, in order.
        standing: how many images each of them left; if Square, which needs no gradient, still
            fools some, gradients mislead the others.
        note: what differs from the paper's version, empty if nothing does.
        doubts: the library's warnings about the network, such as gradients of zero.
    """

    clean: Share
    robust: Share
    survivors: list[bool]
    parts: list[Part]
    standing: list[int]
    note: str
    doubts: list[str]


class _State(msgspec.Struct, forbid_unknown_fields=True):
    identity: str
    clean: list[bool]
    survivors: list[bool]
    standing: list[int]
    doubts: list[str]


def robust_accuracy(
    model: Classifier,
    images: Tensor,
    labels: Tensor,
    eps: float,
    *,
    seed: int = 0,
    version: Version = "standard",
    effort: Effort = STANDARD,
    batch: int = 32,
    state: Path | None = None,
) -> Robustness:
    """Run AutoAttack (Croce & Hein, ICML 2020; L-infinity) against a network, part by part.

    Args:
        model: the network, white box.
        images: clean, [N, 3, H, W] in [0, 1].
        labels: [N], the true classes.
        eps: budget in units of 1/255, in [1, 255].
        seed: of all random numbers; they depend on the batches too.
        version: "standard" or, several times longer, "plus".
        effort: see ``Effort``.
        batch: images at a time.
        state: a file that remembers finished parts: the same call goes on where it was interrupted.
            (The library's own state file cannot be read back in 0.2.0.)

    Raises:
        UsageError: epsilon or the version is none.
        ModelError: pyautoattack is not installed.
        InputError: the state file is damaged or belongs to another call.
    """
    Settings(eps=eps, seed=seed)  # refuses what no attack may have
    plan = plan_for(model.classes, version)
    identity = _identity(model, images, labels, [eps, seed, version, batch, effort])
    now = _resumed(state, identity)
    if now is None:
        right = _right(model, images, labels, batch)
        now = _State(identity, right, list(right), [], [])
    begun = len(now.standing)
    with progress(f"AutoAttack on {model.name}", len(plan.parts), done=begun) as advance:
        for part in plan.parts[len(now.standing) :]:
            left = [index for index, stands in enumerate(now.survivors) if stands]
            alone = replace(plan, parts=(part,))
            for at in range(0, len(left), batch):
                chosen = left[at : at + batch]
                clean, truth = images[chosen], labels[chosen]
                own = stream_of("robust-accuracy", seed, part, at) % 2**32
                with seeded(own):
                    found = run(
                        model,
                        clean,
                        truth,
                        eps,
                        seed=own,
                        plan=alone,
                        effort=effort,
                        heard=now.doubts,
                    )
                stand = _right(model, into_ball(found, clean, eps / 255), truth, batch)
                for index, stands in zip(chosen, stand, strict=True):
                    now.survivors[index] = stands
            now.standing.append(sum(now.survivors))
            if state is not None:
                write_bytes(state, msgspec.json.encode(now))
            advance(1)
    return Robustness(
        clean=share(sum(now.clean), len(now.clean)),
        robust=share(sum(now.survivors), len(now.survivors)),
        survivors=now.survivors,
        parts=list(plan.parts),
        standing=now.standing,
        note=plan.note,
        doubts=now.doubts,
    )


def _right(model: Classifier, images: Tensor, labels: Tensor, batch: int) -> list[bool]:
    with torch.no_grad():
        guesses = [model(chunk).argmax(1) for chunk in images.split(batch)]
    return [bool(right) for right in torch.cat(guesses) == labels]


def _identity(model: Classifier, images: Tensor, labels: Tensor, rest: object) -> str:
    """Hash everything that decides about the result."""
    text = hashlib.sha256(fingerprint(model.core).encode())
    for tensor in (images, labels):
        text.update(str(tuple(tensor.shape)).encode())
        text.update(tensor.cpu().contiguous().numpy().tobytes())
    text.update(msgspec.json.encode(rest))
    return text.hexdigest()


def _resumed(state: Path | None, identity: str) -> _State | None:
    if state is None or not state.is_file():
        return None
    try:
        there = msgspec.json.decode(state.read_bytes(), type=_State)
    except MALFORMED as error:
        raise InputError(f"{state} is damaged ({error})", "remove it or choose another") from error
    if there.identity != identity:
        raise InputError(
            f"{state} belongs to other images, another model or other settings",
            "choose another file",
        )
    return there
