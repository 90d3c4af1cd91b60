"""Imports of what a user's model comes from, torchvision beside a CPU build of torch included."""

import importlib
import sys
import warnings
from types import ModuleType

from torch import library

_OPERATORS = ("nms", "qnms")
_kept: list[library.Library] = []  # a library's operators go when the object goes


def import_vision(name: str) -> ModuleType:
    """Import a module that may need torchvision, quietly.

    With a CPU build of torch, torchvision fails to import until its operators have a schema.

    Raises:
        ImportError: it is not installed, or something it needs is not.
    """
    _define_missing_operators()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the library's own deprecations, not the user's
        return importlib.import_module(name)


def _define_missing_operators() -> None:
    try:
        importlib.import_module("torchvision")
    except ModuleNotFoundError:
        return
    except RuntimeError:
        operators = library.Library("torchvision", "FRAGMENT")
        for operator in _OPERATORS:
            operators.define(
                f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            )
        _kept.append(operators)
        for name in [n for n in sys.modules if n.split(".")[0] == "torchvision"]:
            del sys.modules[name]  # what the failed import left behind
