"""The Adversarial Robustness Toolbox (ART, MIT): this file alone imports it."""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from deepfusion_edge.errors import ModelError
from deepfusion_toolkit.attacks.mean_logits import MeanLogits
from deepfusion_toolkit.attacks.one_by_one import Attack


def evasion() -> Any:  # noqa: ANN401 - a module without type hints
    """Import ART's evasion attacks.

    Raises:
        ModelError: ART is not installed.
    """
    return _library()[0]


def attack_with(make: Callable[[object], Any], model: MeanLogits) -> Attack:
    """Wrap an attack of ART for ``one_by_one``.

    Args:
        make: ART's estimator -> its attack.
        model: what is attacked, as that estimator.

    Raises:
        ModelError: ART is not installed.
    """
    _, estimators = _library()

    def attack(image: Tensor, label: Tensor, _seed: int) -> Tensor:
        classes = model.classes(image)
        estimator = estimators.PyTorchClassifier(
            model=model,
            loss=nn.CrossEntropyLoss(),
            input_shape=tuple(image.shape[1:]),
            nb_classes=classes,
            clip_values=(0.0, 1.0),
            device_type="cpu" if image.device.type == "cpu" else "gpu",
        )
        found = make(estimator).generate(
            x=image.cpu().numpy(), y=functional.one_hot(label.cpu(), classes).float().numpy()
        )
        return torch.from_numpy(found)

    return attack


def _library() -> tuple[Any, Any]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the library's own deprecations, not the user's
            from art.attacks import evasion
            from art.estimators import classification
    except ImportError as error:
        raise ModelError(
            f"the attacks of Carlini and Wagner need adversarial-robustness-toolbox ({error})",
            "pip install deepfusion-toolkit[baselines]",
        ) from error
    return evasion, classification
