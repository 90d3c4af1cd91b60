"""AutoAttack by pyautoattack (MIT); this file alone imports it.

Croce & Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse
parameter-free attacks" (ICML 2020), in the L-infinity norm: APGD on cross-entropy and on the DLR
loss, FAB (Croce & Hein, ICML 2020) and Square (Andriushchenko et al., ECCV 2020). Each part attacks
the images that the ones before it did not fool.
"""

import logging
import sys
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from deepfusion_edge.errors import ModelError
from deepfusion_toolkit.attacks.parts import STANDARD, Effort, Plan


def library() -> Any:  # noqa: ANN401 - a class without type hints
    """Import the library's class.

    Raises:
        ModelError: it is not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the library's own deprecations, not the user's
            from pyautoattack import AutoAttack
    except ImportError as error:
        raise ModelError(
            f"AutoAttack needs the package pyautoattack ({error})",
            "pip install deepfusion-toolkit[baselines]",
        ) from error
    return AutoAttack


def run(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    eps: float,
    *,
    seed: int,
    plan: Plan,
    effort: Effort = STANDARD,
    heard: list[str] | None = None,
) -> Tensor:
    """Attack one batch, drawing from torch's global generator.

    Args:
        model: [N, 3, H, W] in [0, 1] -> logits [N, C].
        images: clean, [N, 3, H, W] in [0, 1].
        labels: [N], the true classes.
        eps: budget in units of 1/255.
        seed: given to each of the attacks.
        plan: see ``plan_for``.
        effort: see ``Effort``.
        heard: the library's doubts about the network are added here, each once.

    Returns:
        [N, 3, H, W]: fooling images, and the clean ones where none was found.
    """
    battery = _quiet(model, images, eps, seed, plan.version, effort.iterations, heard)
    battery.attacks_to_run = list(plan.parts)
    battery.fab.n_iter = effort.iterations
    battery.square.n_queries = effort.queries
    battery.apgd_targeted.n_target_classes = battery.fab.n_target_classes = plan.targets
    watcher = sys.gettrace()  # the library's check for dynamic defences takes it away
    try:
        found, _ = battery.run_standard_evaluation(
            images.contiguous(), labels, batch_size=max(len(images), 1)
        )
    finally:
        sys.settrace(watcher)
    return torch.as_tensor(found)


def apgd(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    eps: float,
    *,
    loss: str,
    steps: int,
    eot: int,
    seed: int,
) -> Tensor:
    """APGD alone, on a network that may draw at every call, from torch's global generator.

    Args:
        model: [N, 3, H, W] in [0, 1] -> logits [N, C].
        images: clean, [N, 3, H, W] in [0, 1].
        labels: [N], the true classes.
        eps: budget in units of 1/255.
        loss: "ce" or, for three classes and more, "dlr".
        steps: at least 1.
        eot: calls that each gradient is averaged over.
        seed: of the library.

    Returns:
        [N, 3, H, W]: the points of highest loss, whether they fool one draw or not.
    """
    one = _quiet(model, images, eps, seed, "standard", steps, None).apgd
    one.loss, one.eot_iter = loss, eot
    return torch.as_tensor(one.perturb(images.contiguous(), labels, best_loss=True))


def _quiet(
    model: nn.Module,
    images: Tensor,
    eps: float,
    seed: int,
    version: str,
    iterations: int,
    heard: list[str] | None,
) -> Any:  # noqa: ANN401 - a class without type hints
    """Give the library's attacks with so many iterations, whose doubts go to ``heard``."""
    battery = library()(
        model, norm="Linf", eps=eps / 255, seed=seed, version=version, device=images.device
    )
    battery.verbose = False
    ear = _ear([] if heard is None else heard)
    battery.logger = battery.apgd.logger = battery.apgd_targeted.logger = ear
    for one in (battery.apgd, battery.apgd_targeted):
        one.n_iter = iterations
        one.n_iter_2 = max(int(0.22 * iterations), 1)  # the library's own schedule
        one.n_iter_min = max(int(0.06 * iterations), 1)
        one.size_decr = max(int(0.03 * iterations), 1)
    return battery


def _ear(heard: list[str]) -> logging.Logger:
    """Give a logger of our own: the library's would print its warnings once per image."""

    class Ear(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said = record.getMessage()
            # said of the plain DLR loss too, which can do with three
            if "not possible to use the targeted DLR" not in said and said not in heard:
                heard.append(said)

    logger = logging.Logger("auto-attack", logging.WARNING)  # noqa: LOG001 - not the shared one
    logger.addHandler(Ear())
    return logger
