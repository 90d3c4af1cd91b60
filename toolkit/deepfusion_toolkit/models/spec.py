"""SPEC -> Classifier: a .pt2 or .onnx file, ``timm:NAME``, ``module.path:factory``, a zoo name."""

import warnings
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from deepfusion_edge.errors import ModelError, UsageError
from deepfusion_toolkit.models import zoo
from deepfusion_toolkit.models.classifier import Classifier, Normalised
from deepfusion_toolkit.models.onnx_file import load_onnx, split_spec
from deepfusion_toolkit.models.vision import import_vision
from deepfusion_toolkit.report.terminal import progress
from deepfusion_toolkit.surgery.graph import quiet


class Sized(Protocol):
    """Anything with an input size (height, width)."""

    size: tuple[int, int]


FORMS = (
    "a .pt2 file, an .onnx file (with @imagenet or @MEAN/STD behind it where it takes normalised"
    " images), timm:NAME, module.path:factory, or one of " + ", ".join(zoo.NAMES)
)


def load(spec: str, *, image_size: tuple[int, int] | None = None) -> Classifier:
    """Load a classifier.

    Args:
        spec: see the module's line; a ``.pt2`` file takes [N, 3, H, W] in [0, 1], batch dynamic; an
            ``.onnx`` file too, or behind it stands what it takes (``onnx_file.split_spec``).
        image_size: (height, width) for a factory whose module has no ``input_size``.

    Raises:
        UsageError: the spec has none of the known forms.
        ModelError: it does not load, or is no classifier.
    """
    model = _loaded(spec, image_size)
    is_file = spec.endswith(".pt2") or _is_onnx(spec)
    model.spec = str(Path(spec).absolute()) if is_file else spec
    return model


def load_all(
    specs: Sequence[str], *, image_size: tuple[int, int] | None = None
) -> list[Classifier]:
    """Load classifiers one after the other, with a progress line.

    Args:
        specs: as ``load`` reads them.
        image_size: see ``load``.

    Raises:
        UsageError, ModelError: see ``load``.
    """
    with progress("loading models", len(specs)) as advance:
        loaded = []
        for spec in specs:
            loaded.append(load(spec, image_size=image_size))
            advance(1)
    return loaded


def _loaded(spec: str, image_size: tuple[int, int] | None) -> Classifier:
    if spec in zoo.NAMES:
        return zoo.load(spec)
    if spec.startswith("timm:"):
        return from_timm(spec.removeprefix("timm:"))
    if spec.endswith(".pt2"):
        return _from_pt2(Path(spec))
    if _is_onnx(spec):
        return load_onnx(*split_spec(spec))
    if ":" in spec:
        return _from_factory(spec, image_size)
    raise UsageError(f"model '{spec}' is none of the known forms", f"give {FORMS}")


def _is_onnx(spec: str) -> bool:
    return spec.endswith(".onnx") or ".onnx@" in spec


def _from_pt2(path: Path) -> Classifier:
    if not path.is_file():
        raise ModelError(f"model file {path} does not exist", "check the path")
    if not zipfile.is_zipfile(path):
        raise ModelError(f"{path} is not a .pt2 file", "write it with torch.export.save")
    try:
        with quiet():
            program = torch.export.load(path)
            module = program.module()
    except Exception as error:  # torch raises many kinds for a broken archive
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"{path} cannot be loaded ({first[:200]})", "write it again with torch.export.save"
        ) from error
    shapes = [
        node.meta["val"].shape
        for node in program.graph.nodes
        if node.name in program.graph_signature.user_inputs
        and hasattr(node.meta.get("val"), "shape")
    ]
    if len(shapes) != 1 or len(shapes[0]) != 4 or shapes[0][1] != 3:  # noqa: PLR2004
        raise ModelError(
            f"{path} takes inputs of shapes {[tuple(s) for s in shapes]}",
            "export a classifier with one input [N, 3, H, W]",
        )
    if isinstance(shapes[0][0], int):
        raise ModelError(
            f"{path} is fixed to a batch of {shapes[0][0]}",
            "export it with a dynamic batch dimension",
        )
    if not all(isinstance(n, int) for n in shapes[0][2:]):
        raise ModelError(
            f"{path} takes images of any size", "export it with a fixed height and width"
        )
    height, width = (int(n) for n in shapes[0][2:])
    return Classifier(module, name=path.stem, size=(height, width))


def from_timm(name: str, *, weights: bool = True) -> Classifier:
    """Load a network of timm's; without ``weights`` they are drawn, which is all a clock needs.

    Raises:
        ModelError: timm is not installed, has no such network, or no weights for it here.
    """
    try:
        timm = import_vision("timm")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the library's own deprecations, not the user's
            known = timm.is_model(name)
            net: nn.Module | None = timm.create_model(name, pretrained=weights) if known else None
    except ImportError as error:
        raise ModelError(
            f"timm:{name} needs the package timm ({error})", "pip install deepfusion-toolkit[timm]"
        ) from error
    except (OSError, RuntimeError, ValueError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"timm:{name} has no weights here ({first[:200]})",
            "download them once, or use a .pt2 file",
        ) from error
    if net is None:
        raise ModelError(f"timm has no model '{name}'", "list them with timm.list_models()")
    config: dict[str, Any] = timm.data.resolve_model_data_config(net)
    _, height, width = config["input_size"]
    core = Normalised(net, config["mean"], config["std"])
    return Classifier(core, name=name, size=(height, width))


def _from_factory(spec: str, image_size: tuple[int, int] | None) -> Classifier:
    module_name, _, attribute = spec.partition(":")
    try:
        factory: Callable[[], nn.Module] = getattr(import_vision(module_name), attribute)
    except Exception as error:  # a user's module can raise anything
        raise ModelError(
            f"model '{spec}' cannot be imported ({_named(error)})",
            "give module.path:factory on the Python path",
        ) from error
    if not callable(factory):
        raise ModelError(
            f"'{spec}' is of type {type(factory).__name__}, not a factory",
            "give a function that returns a torch.nn.Module",
        )
    try:
        net = factory()
    except Exception as error:  # so can its factory
        raise ModelError(
            f"the factory '{spec}' breaks ({_named(error)})",
            "repair it: it is called without arguments",
        ) from error
    if not isinstance(net, nn.Module):
        raise ModelError(
            f"'{spec}' returned {type(net).__name__}, not a torch.nn.Module", "return the model"
        )
    size = getattr(net, "input_size", None) or image_size
    if size is None:
        raise ModelError(
            f"'{spec}' does not say its input size", "set an attribute input_size = (height, width)"
        )
    return Classifier(net, name=attribute, size=(int(size[0]), int(size[1])))


def _named(error: Exception) -> str:
    first = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {first[:200]}"


def smallest_side(models: Sequence[Classifier]) -> int:
    """Return the shortest side of the models' inputs, in pixels."""
    return min(min(model.size) for model in models)


def largest_size(models: Sequence[Sized]) -> tuple[int, int]:
    """Return the smallest (height, width), in pixels, that no model's input exceeds."""
    return max(m.size[0] for m in models), max(m.size[1] for m in models)


def require_same_classes(
    models: Sequence[Classifier], classes: Sequence[str] | None, highest: int = 0
) -> None:
    """Refuse models whose outputs do not fit each other or the data set's classes.

    Args:
        models: any number, none included.
        classes: the data set's names, None if it has numbers only.
        highest: the highest class number that the data set uses.

    Raises:
        ModelError: naming the model and both counts.
    """
    if not models:
        return
    wanted = len(classes) if classes is not None else models[0].classes
    source = "the data set has" if classes is not None else f"{models[0].name} has"
    for model in models:
        if model.classes != wanted:
            raise ModelError(
                f"model {model.name} has {model.classes} outputs, {source} {wanted} classes",
                "use a model trained on these classes",
            )
        if highest >= model.classes:
            raise ModelError(
                f"the data set has the label {highest}, model {model.name} has {model.classes} "
                "outputs",
                "use the model's own class numbers, counted from 0",
            )
