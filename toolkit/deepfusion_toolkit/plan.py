"""The erosion plan: what hardening decided about a model, read by evaluation and export."""

import hashlib
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import torch
from msgspec import Meta
from torch import nn

from deepfusion_edge.erosion import Site
from deepfusion_edge.errors import InputError, ModelError
from deepfusion_edge.fusion import FusionRule, Thresholds
from deepfusion_toolkit.files import MALFORMED, write_bytes
from deepfusion_toolkit.models import Classifier


class Plan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Schema 1 of ``plan.json``.

    Attributes:
        model: fingerprint of the weights that the plan was made for.
        classes: names in the order of the outputs.
        height, width: the model's input size in pixels.
        sites: where and how strongly members are eroded.
        members: K, how many members are fused.
        fusion: by which rule.
        prefix_share: share of multiply-adds that the members have in common.
        thresholds: calibrated on held-out clean images; None without calibration.
        settings: how the plan was made, for people and for re-running.
        figures: what was measured while making it.
    """

    schema: Literal[1]
    model: str
    classes: Annotated[tuple[str, ...], Meta(min_length=2)]
    height: Annotated[int, Meta(ge=1)]
    width: Annotated[int, Meta(ge=1)]
    sites: Annotated[tuple[Site, ...], Meta(min_length=1)]
    members: Annotated[int, Meta(ge=1, le=64)]
    fusion: FusionRule
    prefix_share: Annotated[float, Meta(ge=0.0, le=1.0)]
    thresholds: Thresholds | None
    settings: dict[str, str | int | float | list[str] | None]
    figures: dict[str, float | int]


def fingerprint(core: nn.Module) -> str:
    """Hash all parameters and buffers, in hex: the same weights give the same plan."""
    digest = hashlib.sha256()
    for tensor in [*core.parameters(), *core.buffers()]:
        digest.update(str((tuple(tensor.shape), tensor.dtype)).encode())
        digest.update(
            tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        )
    return digest.hexdigest()


def write(plan: Plan, path: Path) -> None:
    """Write ``plan.json``, readable, all or nothing."""
    write_bytes(path, msgspec.json.format(msgspec.json.encode(plan), indent=1) + b"\n")


def read(path: Path, model: Classifier) -> Plan:
    """Read a plan and hold it against the model it is used with.

    Raises:
        InputError: the file is missing or no plan.
        ModelError: it was made for other weights.
    """
    try:
        plan = msgspec.json.decode(path.read_bytes(), type=Plan)
    except OSError as error:
        raise InputError(
            f"plan {path} cannot be read ({error.strerror})", "check the path"
        ) from error
    except MALFORMED as error:
        raise InputError(
            f"{path} is no erosion plan ({error})", "make it with deepfusion harden"
        ) from error
    if plan.model != fingerprint(model.core):
        raise ModelError(
            f"plan {path} was made for other weights than {model.name}",
            "use the model and the plan that one hardening wrote",
        )
    return plan
