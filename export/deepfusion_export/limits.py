"""Limits of the scores for a lowered graph: set anew on images of their own, if there are enough.

INT8 moves both scores, so limits that were calibrated on FP32 flag another share of clean images.
Every second image of ``--data`` sets the limits anew, at the plan's own false-positive rate; the
others measure what the precision costs, alarms included, so no image judges limits that it set.
"""

from collections.abc import Sequence
from dataclasses import replace

import msgspec

from deepfusion_edge import fusion
from deepfusion_edge.errors import InputError
from deepfusion_edge.fusion import Verdict
from deepfusion_edge.runtime.ort import OrtSession
from deepfusion_export import loss
from deepfusion_toolkit.calibrate import calibrate, images_needed
from deepfusion_toolkit.data.folder import Dataset
from deepfusion_toolkit.plan import Plan
from deepfusion_toolkit.policy import GOAL, allowance, limited


def halves(images: Dataset) -> tuple[Dataset, Dataset]:
    """Split images, every second one: to set limits, and to measure."""
    return replace(images, items=images.items[::2]), replace(images, items=images.items[1::2])


def enough(plan: Plan, images: Dataset, max_loss: float) -> bool:
    """Whether half of these images can set the plan's limits, and the other half show the loss."""
    if plan.thresholds is None or len(images) < 2:  # noqa: PLR2004 - two halves
        return False
    needed = images_needed(plan.thresholds.false_positive_rate)
    fewest = loss.images_to_measure(max_loss)
    return len(images) // 2 >= max(needed, fewest)


def set_anew(graph: bytes, plan: Plan, images: Dataset) -> Plan:
    """Calibrate the plan's thresholds and policy on the graph that will judge.

    Args:
        graph: in the lower precision.
        plan: with thresholds.
        images: clean, of the line as it runs; see ``enough``.

    Raises:
        InputError: an image cannot be read, or they are too few for the policy's limits.
        ModelError: the graph does not run.
    """
    if plan.thresholds is None:
        raise InputError("a plan without thresholds", "calibrate it: deepfusion harden")
    rate = plan.thresholds.false_positive_rate
    full = _judged(graph, plan, images, plan.members)
    policy = None
    if plan.policy is not None:
        start = plan.policy.start
        allowed = allowance(start, plan.members, plan.work, GOAL)
        first = _judged(graph, plan, images, start)
        policy = limited(first, full, start=start, allowed=allowed, rate=rate)
    return msgspec.structs.replace(plan, thresholds=calibrate(full, rate), policy=policy)


def _judged(graph: bytes, plan: Plan, images: Dataset, members: int) -> Sequence[Verdict]:
    session = OrtSession(graph)
    found = []
    for item in images.items:
        image, factors = loss.feed(images, item, plan, "limits")
        found.append(fusion.judge(session.run(image, factors[:members]), None))
    return found
