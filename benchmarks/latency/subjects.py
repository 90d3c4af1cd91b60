"""What is timed: a bundle's graph, or a model eroded from its last stage; the plain one beside."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from benchmarks.latency.command import KINDS
from benchmarks.latency.plain import without_erosion
from deepfusion_edge import erosion
from deepfusion_edge.bundle import store
from deepfusion_edge.bundle.container import open_bundle
from deepfusion_edge.bundle.manifest import MODEL, parse_manifest
from deepfusion_edge.bundle.onnx_check import check_onnx
from deepfusion_edge.erosion import Kind, Site
from deepfusion_edge.errors import ModelError
from deepfusion_edge.line import utc_now
from deepfusion_export.onnx import plain_to_onnx, to_onnx
from deepfusion_toolkit import models
from deepfusion_toolkit.defence import Defended
from deepfusion_toolkit.harden.places import BASE
from deepfusion_toolkit.models import Classifier
from deepfusion_toolkit.models.spec import from_timm
from deepfusion_toolkit.surgery import Work, erode, find_sites, share_before, work_of
from deepfusion_toolkit.surgery.graph import trace
from deepfusion_toolkit.surgery.rows import shape_of
from deepfusion_toolkit.surgery.sites import locate

MAP = 4
"""Dimensions of [N, C, H, W]."""


class Subject(NamedTuple):
    """One eroded graph and the plain one.

    Attributes:
        name: for tables.
        graph: ONNX, image [1, 3, H, W] and factors [K, F] in.
        plain: ONNX, image in, probabilities [B, C] out.
        sites: what the factors mean.
        size: (height, width) of the image.
        work: what members cost by the model that hardening uses; None if the bundle does not say.
        source: of the plain graph, in words.
        verified: whether a signature was checked.
    """

    name: str
    graph: bytes
    plain: bytes
    sites: tuple[Site, ...]
    size: tuple[int, int]
    work: Work | None
    source: str
    verified: bool


def of_bundle(path: Path, trust: Sequence[Path], spec: str | None) -> Subject:
    """Read manifest and graph; the signature is checked only where keys are given.

    Raises:
        DeepFusionError: the bundle is not one, is not trusted, or not of this model.
    """
    if trust:
        store.verify(path, list(trust), now=utc_now(), probe=False)
    with tempfile.TemporaryDirectory() as name, open_bundle(path) as source:
        manifest = parse_manifest(source.manifest)
        source.copy(manifest.files, Path(name))
        graph = Path(name, MODEL).read_bytes()
    check_onnx(graph)
    said = manifest.preprocess
    if said.framed or said.images:
        raise ModelError(
            f"{path} takes {'frames' if said.framed else 'several images'}, not one prepared image",
            "export it without --frame and --images, and time that",
        )
    size = (said.height, said.width)
    sites = tuple(manifest.erosion.sites)
    if spec is None:
        plain = without_erosion(graph, erosion.width(sites))
    else:
        model = models.load(spec)
        if model.size != size:
            raise ModelError(
                f"{model.name} takes {model.size[0]}x{model.size[1]}, the bundle "
                f"{size[0]}x{size[1]}",
                "give the model that the bundle was exported from",
            )
        plain = plain_to_onnx(model.core, model.size, model.name)
    share = manifest.provenance.get("prefix_share")
    return Subject(
        f"{manifest.id} {manifest.sequence}",
        graph,
        plain,
        sites,
        size,
        None
        if share is None
        else Work(float(share), float(manifest.provenance.get("eroded", 0.0))),
        spec or "the bundle's graph without erosion",
        bool(trust),
    )


def of_model(
    spec: str, members: int, share: float | None = None, kinds: Sequence[Kind] = KINDS
) -> Subject:
    """Erode a model from its last stage on, or from where a share of the work lies before.

    Args:
        spec: see ``models.load``; ``timm:NAME`` with random weights.
        members: K, for the graph's example.
        share: of the multiply-adds, at least so much before the first site; None: last stage.
        kinds: of the sites.

    Raises:
        ModelError: it cannot be loaded, has nothing to erode, or cannot be exported.
    """
    model = _fresh(spec.removeprefix("timm:")) if spec.startswith("timm:") else models.load(spec)
    sites = last_stage(model, kinds) if share is None else later_than(model, share, kinds)
    eroded = erode(model, sites)
    place = "" if share is None else f" from {share:g}"
    place += "" if tuple(kinds) == KINDS else f", {' and '.join(kinds)}"
    return Subject(
        spec.removeprefix("timm:") + place,
        to_onnx(Defended(eroded), members),
        plain_to_onnx(model.core, model.size, model.name),
        eroded.sites,
        model.size,
        work_of(trace(model.core, model.size), eroded.sites),
        spec,
        verified=False,
    )


def _fresh(name: str) -> Classifier:
    torch.manual_seed(0)
    return from_timm(name, weights=False)


def last_stage(model: Classifier, kinds: Sequence[Kind] = KINDS) -> tuple[Site, ...]:
    """Sites on maps of the smallest size, and what follows them.

    A network without maps, of tokens all through, is eroded in its last quarter.

    Raises:
        ModelError: the network has nothing to erode.
    """
    traced = trace(model.core, model.size)
    sites = find_sites(traced, kinds, BASE)
    shapes = [shape_of(found.node) or () for found in locate(traced, sites)]
    sides = [shape[2:] for shape in shapes if len(shape) == MAP and shape[2:] != (1, 1)]
    if not sides:
        return tuple(sites[3 * len(sites) // 4 :])
    first = next(n for n, shape in enumerate(shapes) if shape[2:] == sides[-1])
    return tuple(sites[first:])


def later_than(model: Classifier, share: float, kinds: Sequence[Kind] = KINDS) -> tuple[Site, ...]:
    """Sites with at least this share of the multiply-adds before them.

    Raises:
        ModelError: there are none.
    """
    traced = trace(model.core, model.size)
    sites = find_sites(traced, kinds, BASE)
    for n in range(len(sites)):
        if share_before(traced, sites[n:]) >= share:
            return tuple(sites[n:])
    raise ModelError(f"{model.name} has no site behind {share:g} of its work", "lower --share")


def image_of(subject: Subject) -> "np.ndarray[tuple[int, ...], np.dtype[np.float32]]":
    """One image [1, 3, H, W], the same every time."""
    height, width = subject.size
    pixels = erosion.uniform(0, 0, 3 * height * width).astype(np.float32)
    return pixels.reshape(1, 3, height, width)
