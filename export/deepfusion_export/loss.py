"""What a lower precision costs, measured on labelled images against the FP32 graph."""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from deepfusion_edge import erosion, fusion
from deepfusion_edge.bundle.manifest import Precision
from deepfusion_edge.errors import ParityError, UsageError
from deepfusion_edge.fusion import Array, Outputs, Thresholds
from deepfusion_edge.runtime.ort import OrtSession
from deepfusion_export.precision import Feed
from deepfusion_toolkit.data import folder
from deepfusion_toolkit.data.folder import Dataset, Item
from deepfusion_toolkit.plan import Plan

CALIBRATION_IMAGES = 100
"""With n images, a new one leaves the range of an activation with probability 1 / (n + 1)."""
LEAST: dict[Precision, float] = {"fp32": 1e-3, "fp16": 5e-3, "int8": 2e-2}
"""Tolerance of the golden probe: other processors round otherwise, errors do more."""
WIDEST = 0.1
"""Tolerance beyond which the probe says nothing; the manifest's own limit."""
_SEED = 3


class Loss(NamedTuple):
    """A graph against the FP32 graph, with the same factors for the same image.

    Attributes:
        images: how many were compared.
        accuracy, accuracy_fp32: shares of images whose fused class is the label.
        alarms, alarms_fp32: shares of images that are suspect or rejected.
        agreement: share of images with the same fused class.
        fused, members: largest differences of probabilities.
        feature_variance: largest difference, relative where the score is above 1.
    """

    images: int
    accuracy: float
    accuracy_fp32: float
    alarms: float
    alarms_fp32: float
    agreement: float
    fused: float
    members: float
    feature_variance: float

    @property
    def lost(self) -> float:
        """Accuracy that is gone, or clean images that are now alarms: the larger share."""
        return max(self.accuracy_fp32 - self.accuracy, self.alarms - self.alarms_fp32, 0.0)


def require_calibration(images: Dataset) -> None:
    """Refuse too few images to set the ranges of activations.

    Raises:
        UsageError: saying how many are needed.
    """
    if len(images) < CALIBRATION_IMAGES:
        raise UsageError(
            f"--calibration {images.root} has {len(images)} image{'s' * (len(images) != 1)},"
            f" INT8 needs {CALIBRATION_IMAGES}",
            "add images of the line as it runs, or use --precision fp16",
        )


def require_measurable(images: Dataset, max_loss: float) -> None:
    """Refuse too few labelled images to see a loss of ``max_loss``.

    Raises:
        UsageError: saying how many are needed.
    """
    needed = images_to_measure(max_loss)
    if len(images) < needed:
        raise UsageError(
            f"--data {images.root} has {len(images)} image{'s' * (len(images) != 1)},"
            f" a loss of {max_loss:g} is seen on {needed} or more",
            "add labelled images, or raise --max-loss",
        )


def images_to_measure(max_loss: float) -> int:
    """Of how many images one more error is at most ``max_loss``."""
    return CALIBRATION_IMAGES if max_loss == 0 else math.ceil(1 / max_loss)


def feed(images: Dataset, item: Item, plan: Plan, purpose: str) -> tuple[Array, Array]:
    """Read an image and draw K members' factors, which depend on the purpose and the file alone."""
    return _image(images, item, plan), _factors(item, plan, purpose)


def calibration(images: Dataset, plan: Plan, *, several: bool = False) -> Iterator[Feed]:
    """Give each image with a draw of K members' factors, as a frame meets them on the device.

    Args:
        images: of the line as it runs.
        plan: whose members' factors are drawn.
        several: whether the graph takes several images.
    """
    for item in images.items:
        image, factors = feed(images, item, plan, "calibration")
        yield {"image": image, "factors": factors[None] if several else factors}


def measure(
    graph: bytes, fp32: bytes, plan: Plan, images: Dataset, *, limits: Thresholds | None = None
) -> Loss:
    """Run both graphs on every image.

    Args:
        graph: in the lower precision.
        fp32: the same in FP32.
        plan: its limits judge what the FP32 graph says.
        images: labelled and clean.
        limits: judge what the other one says; None: the plan's do.

    Raises:
        InputError: an image cannot be read.
        ModelError: a graph does not run.
    """
    low, high = OrtSession(graph), OrtSession(fp32)
    pairs: list[tuple[Outputs, Outputs]] = []
    for item in images.items:
        image, factors = feed(images, item, plan, "loss")
        pairs.append((low.run(image, factors), high.run(image, factors)))
    labels = np.array([item.label for item in images.items])
    ours, theirs = ([pair[side] for pair in pairs] for side in (0, 1))
    mine, full = _labels(ours), _labels(theirs)
    return Loss(
        images=len(pairs),
        accuracy=float((mine == labels).mean()),
        accuracy_fp32=float((full == labels).mean()),
        alarms=_alarms(ours, limits or plan.thresholds),
        alarms_fp32=_alarms(theirs, plan.thresholds),
        agreement=float((mine == full).mean()),
        fused=max(_furthest(a.fused, b.fused) for a, b in pairs),
        members=max(_furthest(a.members, b.members) for a, b in pairs),
        feature_variance=max(
            abs(a.feature_variance - b.feature_variance) / max(1.0, b.feature_variance)
            for a, b in pairs
        ),
    )


def require_small(loss: Loss, precision: Precision, max_loss: float) -> None:
    """Refuse a precision that loses more than the user allows.

    Raises:
        ParityError: naming accuracies and shares of alarms.
    """
    if loss.lost > max_loss:
        raise ParityError(
            f"{precision} loses {loss.lost:.4f}, --max-loss is {max_loss:g}: accuracy"
            f" {loss.accuracy_fp32:.4f} becomes {loss.accuracy:.4f}, alarms on these images"
            f" {loss.alarms_fp32:.4f} become {loss.alarms:.4f}",
            "use fp16 or fp32, calibrate with more images, or raise --max-loss",
        )


def tolerance(precision: Precision, low: Outputs, fp32: Outputs) -> float:
    """Choose what the golden probe allows: as much as rounding to this precision changed it.

    A device sums in another order than the exporter, so it rounds otherwise, but not more.

    Args:
        precision: of the bundle.
        low: the probe's outputs in this precision.
        fp32: the probe's outputs in FP32.
    """
    variance = abs(low.feature_variance - fp32.feature_variance)
    relative = variance / max(1.0, abs(fp32.feature_variance))
    return min(WIDEST, max(LEAST[precision], _furthest(low.fused, fp32.fused), relative))


def _image(images: Dataset, item: Item, plan: Plan) -> Array:
    found = folder.images_as_input(images, [item], plan.height, plan.width).numpy()
    return np.asarray(found, dtype=np.float32)


def _factors(item: Item, plan: Plan, purpose: str) -> Array:
    stream = erosion.stream_of(purpose, item.file)
    return erosion.sample(plan.sites, seed=_SEED, stream=stream, members=plan.members)


def _labels(outputs: Sequence[Outputs]) -> Array:
    return np.array([int(output.fused.argmax()) for output in outputs])


def _alarms(outputs: Sequence[Outputs], limits: Thresholds | None) -> float:
    states = [fusion.judge(output, limits).state for output in outputs]
    return sum(state != "accept" for state in states) / len(states)


def _furthest(a: Array, b: Array) -> float:
    return float(np.abs(a - b).max())
