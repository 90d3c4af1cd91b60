"""Reading an ONNX file: what is refused, what its input is, and whether torch computes the same."""

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from deepfusion_edge.errors import InputError, ModelError, UsageError
from deepfusion_toolkit.models.classifier import Classifier, Normalised
from deepfusion_toolkit.models.onnx_file.net import KNOWN, OnnxNet
from deepfusion_toolkit.models.onnx_file.patterns import Step

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
TOLERANCE = 1e-5
"""Of the largest score, or of one if that is smaller."""
_CHECKED = 3
_RGB, _DIMENSIONS = 3, 4
_FLOAT = 1
_FREE = "export it for a free batch (dynamic_axes), or give it as a .pt2 file"
_REMEDY = "export the network again"
_CONTROL = {"If", "Loop", "Scan"}
_ENDINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "": lambda scores: scores,
    "Softmax": lambda scores: scores.softmax(-1),
    "LogSoftmax": lambda scores: scores.log_softmax(-1),
}

Normalisation = tuple[tuple[float, ...], tuple[float, ...]]


def split_spec(spec: str) -> tuple[Path, Normalisation | None]:
    """Split ``FILE.onnx``, ``FILE.onnx@imagenet`` or ``FILE.onnx@MEAN/STD``.

    MEAN and STD are three numbers each, with commas: the network takes ``(image - MEAN) / STD`` of
    images in [0, 1]. Without them it takes these images as they are.

    Raises:
        UsageError: what follows the ``@`` is neither.
    """
    if spec.endswith(".onnx"):
        return Path(spec), None
    path, _, said = spec.rpartition("@")
    if said == "imagenet":
        return Path(path), IMAGENET
    try:
        mean, std = (tuple(float(n) for n in part.split(",")) for part in said.split("/"))
    except ValueError:
        mean, std = (), ()
    if len(mean) != _RGB or len(std) != _RGB or not all(s > 0 for s in std):
        raise UsageError(
            f"'@{said}' of model '{spec}' is no normalisation",
            "write FILE.onnx@imagenet, or FILE.onnx@0.5,0.5,0.5/0.25,0.25,0.25 (mean/std)",
        )
    return Path(path), (mean, std)


def load_onnx(path: Path, normalisation: Normalisation | None = None) -> Classifier:
    """Take in a classifier from an ONNX file.

    Args:
        path: the file; weights beside it are read too, from its own folder alone.
        normalisation: means and standard deviations of RGB in [0, 1]; see ``split_spec``.

    Raises:
        InputError: it is missing, cannot be read, or is no ONNX file.
        ModelError: it has control flow, unknown operators, another input than images of one size or
            another result than class scores, or torch and ONNX Runtime compute different scores.
    """
    model = _read(path)
    net, size = _net(model, path)
    _require_same(net, model, path, size)
    core: nn.Module = net
    if normalisation is not None:
        core = Normalised(net, *normalisation)
    return Classifier(core, name=path.stem, size=size)


def _read(path: Path) -> "ModelProto":
    import onnx

    try:
        model = onnx.load(path, load_external_data=False)
    except OSError as error:
        raise InputError(f"model file {path}: {error.strerror}", "check the path") from error
    except Exception as error:  # protobuf's and onnx's own share no base class
        raise InputError(f"{path} is no ONNX file", _REMEDY) from error
    root = path.resolve().parent
    for tensor in _tensors(model.graph):
        if onnx.external_data_helper.uses_external_data(tensor):
            place = next((e.value for e in tensor.external_data if e.key == "location"), "")
            beside = (root / place).resolve()
            if not place or beside.parent != root or not beside.is_file():
                raise ModelError(
                    f"{path}: weights '{tensor.name}' lie in '{place}', which is no file beside it",
                    "save the model as one file: onnx.save(onnx.load(...), 'whole.onnx')",
                )
    try:
        onnx.load_external_data_for_model(model, str(root))
    except Exception as error:  # onnx raises several kinds for a file that is too short
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(f"{path}: weights cannot be read ({first[:200]})", _REMEDY) from error
    try:
        onnx.checker.check_model(model)
    except Exception as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path} is no ONNX file ({first[:200]})", _REMEDY) from error
    return model


def _tensors(graph: "GraphProto") -> Iterator["TensorProto"]:
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)


def _label(node: "NodeProto") -> str:
    return f"'{node.name or (node.output[0] if node.output else '?')}'"


def _net(model: "ModelProto", path: Path) -> tuple[OnnxNet, tuple[int, int]]:
    from onnx import helper, numpy_helper

    graph = model.graph
    _require_known(graph, path)
    constants = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    steps = []
    for node in graph.node:
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        attributes = {
            key: value.decode() if isinstance(value, bytes) else value
            for key, value in attributes.items()
        }
        if node.op_type == "Constant":
            constants[node.output[0]] = _constant(attributes, path)
            continue
        if node.op_type == "ConstantOfShape" and "value" in attributes:
            attributes["value"] = numpy_helper.to_array(attributes["value"])
        steps.append(Step(node.op_type, _label(node), [*node.input], [*node.output], attributes))
    image, fixed, size, channels_last = _image(graph, constants, path)
    if len(graph.output) != 1:
        names = ", ".join(value.name for value in graph.output)
        raise ModelError(
            f"{path} has {len(graph.output)} outputs ({names})", "keep the scores alone"
        )
    result, ending = _scores(steps, graph.output[0].name)
    opset = next(o.version for o in model.opset_import if o.domain in {"", "ai.onnx"})
    net = OnnxNet(
        steps,
        constants,
        opset=opset,
        image=image,
        result=result,
        ending=ending,
        fixed=fixed,
        channels_last=channels_last,
    )
    return net, size


def _require_known(graph: "GraphProto", path: Path) -> None:
    foreign = [n for n in graph.node if n.domain not in {"", "ai.onnx"}]
    unknown = [n for n in graph.node if n.op_type not in {*KNOWN, "Constant"}]
    for node in (*foreign, *unknown):
        others = sorted({n.op_type for n in (*foreign, *unknown)} - {node.op_type})
        also = f"; also unknown: {', '.join(others)}" if others else ""
        kind = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
        plain = "is no operator of classifiers that can be eroded"
        what = "is control flow, which cannot be eroded" if node.op_type in _CONTROL else plain
        raise ModelError(
            f"{path}: node {_label(node)} ({kind}) {what}{also}",
            "export the network without it, or give it as a .pt2 file",
        )


def _constant(attributes: dict[str, Any], path: Path) -> np.ndarray[Any, Any]:
    from onnx import numpy_helper

    ((name, value),) = attributes.items()
    if name == "value":
        return np.asarray(numpy_helper.to_array(value))
    floats: dict[str, type[np.generic]] = {"value_float": np.float32, "value_floats": np.float32}
    kinds = {**floats, "value_int": np.int64, "value_ints": np.int64}
    if name not in kinds:
        raise ModelError(f"{path} has a constant of {name}", _REMEDY)
    return np.asarray(value, dtype=kinds[name])


def _image(
    graph: "GraphProto", constants: dict[str, Any], path: Path
) -> tuple[str, int | None, tuple[int, int], bool]:
    """Name of the input, the batch if it is fixed, the size, and whether channels are last."""
    inputs = [value for value in graph.input if value.name not in constants]
    if len(inputs) != 1:
        names = ", ".join(value.name for value in inputs)
        raise ModelError(
            f"{path} has {len(inputs)} inputs ({names})", "export it with images alone"
        )
    kind = inputs[0].type.tensor_type
    sizes = [d.dim_value if d.HasField("dim_value") else None for d in kind.shape.dim]
    shown = ", ".join("?" if size is None else str(size) for size in sizes)
    if kind.elem_type != _FLOAT:
        raise ModelError(f"{path} takes no float32 images", "export the float32 network")
    if len(sizes) != _DIMENSIONS or _RGB not in (sizes[1], sizes[3]):
        raise ModelError(f"{path} takes [{shown}]", "give a network for images [N, 3, H, W]")
    channels_last = sizes[1] != _RGB
    height, width = sizes[1:3] if channels_last else sizes[2:4]
    if not height or not width:
        raise ModelError(
            f"{path} takes images of any size [{shown}]",
            "fix it: python -m onnxruntime.tools.make_dynamic_shape_fixed --input_name"
            f" {inputs[0].name} --input_shape 1,3,224,224 IN.onnx OUT.onnx",
        )
    if sizes[0] not in (None, 1):
        raise ModelError(f"{path} is fixed to a batch of {sizes[0]}", "export it for a free batch")
    return inputs[0].name, sizes[0], (height, width), channels_last


def _scores(steps: list[Step], result: str) -> tuple[str, str]:
    """The logits, and which softmax was taken off at the very end: "" for none."""
    last = next((step for step in steps if result in step.outputs), None)
    if last is None or last.kind not in _ENDINGS:
        return result, ""
    return last.inputs[0], last.kind


def _require_same(net: OnnxNet, model: "ModelProto", path: Path, size: tuple[int, int]) -> None:
    """Run a few images through both; they have to agree, and to be class scores.

    Raises:
        ModelError: they do not.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        images = torch.rand(_CHECKED, 3, *size, generator=torch.Generator().manual_seed(0))
        given = images.permute(0, 2, 3, 1) if net.channels_last else images
        parts = [given] if net.fixed is None else [one[None] for one in given]
        name = session.get_inputs()[0].name
        feeds = [{name: part.contiguous().numpy()} for part in parts]
        wanted = np.concatenate([session.run(None, feed)[0] for feed in feeds])
    except Exception as error:  # onnxruntime's exceptions share no base class but this one
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(f"ONNX Runtime does not run {path} ({first[:200]})", _REMEDY) from error
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's notes on its own operators
        try:
            found = net(images)
        except ModelError as error:
            merges = net.fixed is not None and _computes(net, images[:1])
            raise ModelError(f"{path}: {error.what}", _FREE if merges else error.remedy) from error
    found = _ENDINGS[net.ending](found)
    if wanted.ndim != 2 or wanted.shape[1] < 2:  # noqa: PLR2004 - images and classes
        shape = ", ".join(map(str, wanted.shape[1:]))
        raise ModelError(
            f"{path} gives [N, {shape}], class scores are [N, C]", "give a network of class scores"
        )
    scale = max(1.0, float(np.abs(wanted).max()))
    same = tuple(found.shape) == wanted.shape
    apart = float(np.abs(found.numpy() - wanted).max()) if same else float("inf")
    if not apart <= TOLERANCE * scale:
        raise ModelError(
            f"{path}: torch and ONNX Runtime differ by {apart:.3g} in scores up to {scale:.3g}",
            _FREE,
        )


def _computes(net: OnnxNet, images: torch.Tensor) -> bool:
    try:
        net(images)
    except ModelError:
        return False
    return True
