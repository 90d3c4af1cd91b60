"""The erosion plan: what hardening decided about one or more models, for evaluation and export."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import torch
from msgspec import Meta
from torch import nn

from deepfusion_edge.erosion import MAX_BASES, Site
from deepfusion_edge.errors import InputError, ModelError
from deepfusion_edge.fusion import FusionRule, Thresholds
from deepfusion_edge.policy import Policy
from deepfusion_toolkit.files import MALFORMED, write_bytes
from deepfusion_toolkit.models import Classifier, largest_size
from deepfusion_toolkit.preprocess import Stage
from deepfusion_toolkit.surgery import Work

SCHEMA = 2


class Base(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One of the models whose eroded members are fused.

    Attributes:
        name: for people.
        model: fingerprint of its weights.
        sites: where and how strongly its members are eroded.
    """

    name: str
    model: str
    sites: Annotated[tuple[Site, ...], Meta(min_length=1)]

    @classmethod
    def of(cls, model: Classifier, sites: Sequence[Site]) -> "Base":
        """Describe a classifier and its sites."""
        return cls(model.name, fingerprint(model.core), tuple(sites))


class Plan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Schema 2 of ``plan.json``.

    Attributes:
        classes: names in the order of the outputs.
        height, width: of frames, in pixels: the largest input among the bases.
        bases: the models, in the order in which they are given everywhere.
        preprocess: stages between a frame and the bases, in order.
        members: K, how many members of each base are fused.
        fusion: by which rule.
        prefix_share: share of multiply-adds that the members have in common.
        thresholds: calibrated on held-out clean images; None without calibration.
        settings: how the plan was made, for people and for re-running.
        figures: what was measured while making it.
        policy: when fewer than all members judge; None: never.
        network_cost: what the bases cost, each run once, in runs of what was hardened: above 1
            where hardening put a detector beside them.
    """

    schema: Literal[2]
    classes: Annotated[tuple[str, ...], Meta(min_length=2)]
    height: Annotated[int, Meta(ge=1)]
    width: Annotated[int, Meta(ge=1)]
    bases: Annotated[tuple[Base, ...], Meta(min_length=1, max_length=MAX_BASES)]
    preprocess: Annotated[tuple[Stage, ...], Meta(max_length=16)]
    members: Annotated[int, Meta(ge=1, le=64)]
    fusion: FusionRule
    prefix_share: Annotated[float, Meta(ge=0.0, le=1.0)]
    thresholds: Thresholds | None
    settings: dict[str, str | bool | int | float | list[str] | None]
    figures: dict[str, float | int]
    policy: Policy | None = None
    network_cost: Annotated[float, Meta(ge=1.0)] = 1.0

    @property
    def work(self) -> Work:
        """What its members cost by multiply-adds; the factors' own part is not in it."""
        return Work(self.prefix_share, network=self.network_cost)

    @property
    def sites(self) -> tuple[Site, ...]:
        """All sites in the order of the factors; among several bases, their names are numbered."""
        if len(self.bases) == 1:
            return self.bases[0].sites
        return tuple(
            msgspec.structs.replace(site, name=f"{number}/{site.name}")
            for number, base in enumerate(self.bases)
            for site in base.sites
        )


class _Head(msgspec.Struct):
    schema: int


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


def read(path: Path, *models: Classifier) -> Plan:
    """Read a plan and hold it against the models it is used with, in the plan's order.

    Raises:
        InputError: the file is missing or no plan of this schema.
        ModelError: it was made for other models.
    """
    try:
        data = path.read_bytes()
        schema = msgspec.json.decode(data, type=_Head).schema
        if schema != SCHEMA:
            raise InputError(
                f"{path} is an erosion plan of schema {schema}, this version reads {SCHEMA}",
                "make it again with deepfusion harden",
            )
        plan = msgspec.json.decode(data, type=Plan)
    except OSError as error:
        raise InputError(
            f"plan {path} cannot be read ({error.strerror})", "check the path"
        ) from error
    except MALFORMED as error:
        raise InputError(
            f"{path} is no erosion plan ({error})", "make it with deepfusion harden"
        ) from error
    require_fit(plan, models, f"plan {path}")
    return plan


def require_fit(plan: Plan, models: Sequence[Classifier], source: str = "the plan") -> None:
    """Refuse models that are not the plan's, or not in its order.

    Args:
        plan: from ``read`` or a hardening.
        models: what it is to be used with.
        source: what messages call the plan.

    Raises:
        ModelError: naming the difference.
    """
    names = ", ".join(base.name for base in plan.bases)
    remedy = "use the model and the plan that one hardening wrote"
    if len(models) != len(plan.bases):
        raise ModelError(
            f"{source} is for {names}, not for {', '.join(m.name for m in models)}",
            "give the plan's models in the plan's order",
        )
    wanted, found = [b.model for b in plan.bases], [fingerprint(m.core) for m in models]
    if wanted != found and sorted(wanted) == sorted(found):
        raise ModelError(
            f"{source} has its models in the order {names}",
            "give the plan's models in the plan's order",
        )
    for model, one, other in zip(models, wanted, found, strict=True):
        if one != other:
            raise ModelError(f"{source} was made for other weights than {model.name}", remedy)
        if len(plan.classes) != model.classes:
            raise ModelError(
                f"{source} names {len(plan.classes)} classes, {model.name} has {model.classes}"
                " outputs",
                remedy,
            )
    if (plan.height, plan.width) != (size := largest_size(models)):
        raise ModelError(
            f"{source} is for {plan.height}x{plan.width} pixels, {names} take {size[0]}x{size[1]}",
            remedy,
        )
