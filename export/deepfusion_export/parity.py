"""torch = ONNX Runtime = numpy, within a table of tolerances, before anything is signed.

========================  =========================================================
fused, members            1e-5, absolute, on probabilities
disagreement              1e-5 nats, absolute
feature_variance          1e-3 of its value, and 1e-9 absolute (float32 sums)
base (the plain networks) 1e-5, absolute: members without erosion are the base models
image                     1e-5, absolute, on what a graph that takes frames makes of them
========================  =========================================================

The numpy route is the device's own ``fusion.py`` in float64 on torch's logits and features. Torch
runs without oneDNN, whose convolutions round two to three times as much: against float64, VGG-11's
probabilities are off by 1.4e-5 with it, 4.8e-6 without, and ONNX Runtime's by 8e-7.
"""

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch
from torch.backends import mkldnn

from deepfusion_edge import erosion, fusion
from deepfusion_edge.errors import ParityError
from deepfusion_edge.fusion import Array, Outputs
from deepfusion_edge.runtime.ort import OrtSession
from deepfusion_export.frames import Form, Preparation, reference
from deepfusion_export.onnx import FusedGraph
from deepfusion_toolkit.defence import Defended
from deepfusion_toolkit.models import Classifier


class Tolerance(NamedTuple):
    """``|a - b| <= absolute + relative * |b|``."""

    absolute: float
    relative: float = 0.0


TOLERANCES = {
    "fused": Tolerance(1e-5),
    "members": Tolerance(1e-5),
    "disagreement": Tolerance(1e-5),
    "feature_variance": Tolerance(1e-9, 1e-3),
    "base": Tolerance(1e-5),
    "image": Tolerance(1e-5),
}
_IMAGES = 3
"""Frames, and images in one run, that are compared."""


class Parity(NamedTuple):
    """What was compared, and the largest difference of each output over all routes.

    Attributes:
        cases: pairs of an image and a draw of factors.
        members: the values of K.
        largest: output -> largest absolute difference.
    """

    cases: int
    members: tuple[int, ...]
    largest: dict[str, float]


def check(
    model_bytes: bytes,
    defended: Defended,
    models: Sequence[Classifier],
    *,
    members: int,
    images: npt.NDArray[np.float32] | None = None,
    seed: int = 0,
) -> Parity:
    """Run the same inputs through every route and compare.

    Args:
        model_bytes: the ONNX graph.
        defended: what it was exported from.
        models: the plain networks, in the defence's order.
        members: the plan's K; 1 and 3 are tried as well.
        images: RGB [N, 3, H, W] in [0, 1] to use beside noise, a ramp, black and white.
        seed: of the noise and the factors.

    Raises:
        ParityError: naming output, routes, difference and K.
        ModelError: ONNX Runtime does not take or run the graph.
    """
    session = OrtSession(model_bytes)
    graph = FusedGraph(defended).eval()
    largest = dict.fromkeys(TOLERANCES, 0.0)
    counts = tuple(sorted({1, 3, members}))
    cases = 0
    for at, image in enumerate(_images(defended.size, images, seed)):
        for k in counts:
            factors = erosion.sample(defended.sites, seed=seed, stream=at, members=k)
            found = session.run(image, factors)
            mine, reference = _torch(graph, image, factors), _numpy(defended, image, factors)
            routes = (("ONNX Runtime", found), ("torch", mine))
            for route, outputs in routes:
                _compare(outputs, reference, f"{route} and numpy, K = {k}", largest)
            _compare(found, mine, f"ONNX Runtime and torch, K = {k}", largest)
            cases += 1
        plain = np.repeat(_bases(defended, models, image), 2, axis=0)
        clean = session.run(image, erosion.identity(defended.sites, 2))
        between = "the graph without erosion and the model"
        _hold("base", clean.members, plain, between, largest)
        _hold("base", clean.fused, fusion.fuse(plain, defended.rule), between, largest)
    return Parity(cases, counts, largest)


def check_frames(
    part: bytes, whole: bytes, defended: Defended, form: Form, *, members: int, seed: int = 0
) -> float:
    """Hold a graph that takes frames against torch, numpy and Pillow.

    Args:
        part: the preparation alone, from ``frames.preparation``.
        whole: the graph behind it, in FP32.
        defended: for one image, what the graph was exported from.
        form: of the bundle, with a size of frames.
        members: K.
        seed: of frames and factors.

    Returns:
        The largest difference of a prepared image's value.

    Raises:
        ParityError: naming output, routes and difference.
        ModelError: ONNX Runtime does not take or run a graph.
    """
    session, prepare = OrtSession(whole), Preparation(defended.size, form.color)
    alone = onnxruntime.InferenceSession(part, providers=["CPUExecutionProvider"])
    graph = FusedGraph(defended).eval()
    largest = dict.fromkeys(TOLERANCES, 0.0)
    shape = (1, *(form.frame or defended.size), 3)
    for at in range(_IMAGES):
        drawn = erosion.uniform(seed, at, math.prod(shape)).reshape(shape)
        # noise, and flat frames: all black, all white
        frame = (
            (256 * drawn).astype(np.uint8) if at == 0 else np.full(shape, -at % 2 * 255, np.uint8)
        )
        (image,) = alone.run(None, {"image": frame})
        with torch.no_grad():
            by_torch = prepare(torch.from_numpy(frame)).numpy()
        _hold("image", image, by_torch, "ONNX Runtime and torch, frames", largest)
        pillow = reference(frame, defended.size, form.color)
        _hold("image", image, pillow, "ONNX Runtime and Pillow, frames", largest)
        factors = erosion.sample(defended.sites, seed=seed, stream=at, members=members)
        found = session.run(frame, factors)
        # of the image that the graph made: a stage that rounds tells neighbours apart
        _compare(found, _torch(graph, image, factors), "ONNX Runtime and torch, frames", largest)
        _compare(found, _numpy(defended, image, factors), "ONNX Runtime and numpy, frames", largest)
    return largest["image"]


def check_several(model_bytes: bytes, defended: Defended, *, members: int, seed: int = 0) -> float:
    """Hold a graph for several images against torch, which runs one after the other.

    Args:
        model_bytes: the ONNX graph, for images [N, 3, H, W] in [0, 1].
        defended: for one image, the same defence.
        members: K.
        seed: of images and factors.

    Returns:
        The largest difference of a member's probability.

    Raises:
        ParityError, ModelError: as ``check``.
    """
    session, graph = OrtSession(model_bytes), FusedGraph(defended).eval()
    largest = dict.fromkeys(TOLERANCES, 0.0)
    images = np.concatenate(list(_images(defended.size, None, seed))[:_IMAGES])
    factors = np.stack(
        [
            erosion.sample(defended.sites, seed=seed, stream=at, members=members)
            for at in range(len(images))
        ]
    )
    found = session.run_several(images, factors)
    for image, rows, outputs in zip(images, factors, found, strict=True):
        mine = _torch(graph, image[None], rows)
        _compare(outputs, mine, f"ONNX Runtime and torch, N = {len(images)}", largest)
    return largest["members"]


def _images(
    size: tuple[int, int], given: npt.NDArray[np.float32] | None, seed: int
) -> Iterator[Array]:
    shape = (1, 3, *size)
    yield erosion.uniform(seed, 0, 3 * size[0] * size[1]).astype(np.float32).reshape(shape)
    ramp = np.linspace(0, 1, size[1], dtype=np.float32)
    yield np.ascontiguousarray(np.broadcast_to(ramp, shape))
    yield np.zeros(shape, np.float32)
    yield np.ones(shape, np.float32)
    for image in () if given is None else given:
        yield np.ascontiguousarray(image[None], dtype=np.float32)


@contextmanager
def plain_torch() -> Iterator[None]:
    """No gradients, and torch's own kernels instead of oneDNN's; see the module's text."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that an Intel GPU is missing, of which nothing is asked
        with torch.no_grad(), mkldnn.flags(enabled=False):
            yield


def _torch(graph: FusedGraph, image: Array, factors: Array) -> Outputs:
    with plain_torch():
        fused, members, variance = graph(torch.from_numpy(image), torch.from_numpy(factors))
    return Outputs(fused.numpy(), members.numpy(), float(variance))


def _numpy(defended: Defended, image: Array, factors: Array) -> Outputs:
    with plain_torch():
        prepared = defended.prepared(torch.from_numpy(image))
        looks = defended.look(prepared, torch.from_numpy(factors))
    members = np.concatenate([softmax(look.logits.numpy()) for look in looks])
    variances = [fusion.feature_variance(look.features.numpy()) for look in looks]
    return Outputs(fusion.fuse(members, defended.rule), members, float(np.mean(variances)))


def _bases(defended: Defended, models: Sequence[Classifier], image: Array) -> Array:
    with plain_torch():
        prepared = defended.prepared(torch.from_numpy(image))
        return np.concatenate([softmax(model(prepared).numpy()) for model in models])


def softmax(logits: npt.NDArray[Any]) -> Array:
    """Logits [K, C] -> probabilities [K, C], computed in float64."""
    wide = logits.astype(np.float64)
    powers = np.exp(wide - wide.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True), dtype=np.float32)


def _compare(a: Outputs, b: Outputs, routes: str, largest: dict[str, float]) -> None:
    _hold("fused", a.fused, b.fused, routes, largest)
    _hold("members", a.members, b.members, routes, largest)
    _hold("feature_variance", [a.feature_variance], [b.feature_variance], routes, largest)
    scores = (fusion.disagreement(a.members), fusion.disagreement(b.members))
    _hold("disagreement", scores[:1], scores[1:], routes, largest)


def _hold(
    output: str,
    a: Array | Sequence[float],
    b: Array | Sequence[float],
    routes: str,
    largest: dict[str, float],
) -> None:
    left, right = np.asarray(a, np.float64), np.asarray(b, np.float64)
    same_shape = left.shape == right.shape
    difference = np.abs(left - right) if same_shape else np.array([np.inf])
    allowed = TOLERANCES[output].absolute + TOLERANCES[output].relative * np.abs(right)
    # "not <=" so that NaN is refused too
    if not same_shape or not (difference <= allowed).all():
        raise ParityError(
            f"{output} differs by {difference.max():.3g} between {routes}"
            f" (at most {float(np.min(allowed)):.3g} is allowed)",
            "nothing was written; use a network without layers that round (fake quantisation)",
        )
    largest[output] = max(largest[output], float(difference.max()))
