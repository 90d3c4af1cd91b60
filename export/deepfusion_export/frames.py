"""A camera's frames in front of a graph: colour order, resizing and scaling are the graph's work.

The part is an ONNX graph of its own, joined to the finished one in any precision; itself it is
float32. Resizing is Pillow's filter without its rounding to whole steps of 1/255 in between.
"""

from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx
import torch
from msgspec import UNSET
from onnx import ModelProto
from PIL import Image
from torch import Tensor, nn

from deepfusion_edge.bundle.manifest import Preprocess
from deepfusion_edge.errors import ModelError, UsageError
from deepfusion_edge.runtime.base import INPUTS
from deepfusion_export.onnx import MAX_IMAGES, export
from deepfusion_toolkit.models import resized
from deepfusion_toolkit.models.resize import rows_resized
from deepfusion_toolkit.plan import Plan

Color = Literal["RGB", "BGR"]
Frames = npt.NDArray[np.uint8]
_PREFIX, _MADE = "frame/", "prepared"


class Form(NamedTuple):
    """What a bundle's graph takes.

    Attributes:
        frame: (height, width) of the camera's frames, for a graph that takes these as uint8
            [N, H, W, 3]; None for one that takes RGB [N, 3, H, W] in [0, 1] of the plan's size.
        color: of the channels of ``frame``.
        images: most images of one run.
    """

    frame: tuple[int, int] | None = None
    color: Color = "RGB"
    images: int = 1

    @property
    def several(self) -> bool:
        """Whether the graph takes several images."""
        return self.images > 1

    def said(self, plan: Plan) -> Preprocess:
        """Spell it as the manifest does."""
        images = self.images if self.several else UNSET
        if self.frame is None:
            return Preprocess(height=plan.height, width=plan.width, images=images)
        height, width = self.frame
        return Preprocess(
            height=height, width=width, color=self.color, resize="in-graph", images=images
        )


class Preparation(nn.Module):
    """Frames, uint8 [N, H, W, 3], to RGB [N, 3, height, width] in [0, 1]."""

    def __init__(self, size: tuple[int, int], color: Color) -> None:
        super().__init__()
        self.size, self.color = size, color

    def forward(self, frames: Tensor) -> Tensor:
        """Resize by the definition where nothing is exported, by matrices in a graph."""
        height, width = self.size
        (_, old_height, old_width, _) = frames.shape
        values = frames.to(torch.float32)
        if torch.compiler.is_exporting() and (old_height, old_width) != self.size:
            # rows first, in the layout of the frame: the largest step has no transposition
            if old_height != height:
                values = rows_resized(values.flatten(2), height).unflatten(2, (old_width, 3))
            columns = values.permute(0, 3, 2, 1)
            image = (rows_resized(columns, width) if old_width != width else columns).mT
        else:
            image = resized(values.permute(0, 3, 1, 2), self.size)
        if self.color == "BGR":
            image = image.flip(1)
        return image / 255


def reference(frame: Frames, size: tuple[int, int], color: Color) -> npt.NDArray[np.float32]:
    """Prepare one frame [1, H, W, 3] with numpy and Pillow's filter for numbers that are not whole.

    Returns:
        RGB [1, 3, height, width] in [0, 1].
    """
    height, width = size
    planes = []
    for channel in range(3):
        plane = Image.fromarray(frame[0, :, :, channel].astype(np.float32))
        planes.append(np.asarray(plane.resize((width, height), Image.Resampling.BILINEAR)))
    image = np.stack(planes if color == "RGB" else planes[::-1])[None]
    return np.asarray(image / np.float32(255), dtype=np.float32)


def preparation(form: Form, size: tuple[int, int]) -> bytes:
    """Export what comes before a graph that takes frames: ``image`` -> ``prepared``.

    Args:
        form: of the bundle, with a size of frames.
        size: (height, width) of what the graph behind takes.

    Raises:
        UsageError: the form has no frames.
        ModelError: torch cannot export it.
    """
    if form.frame is None:
        raise UsageError("no size of frames", "give --frame WIDTHxHEIGHT")
    images, free = 1, None
    if form.several:
        images, free = 2, {0: torch.export.Dim("N", min=1, max=MAX_IMAGES)}
    return export(
        Preparation(size, form.color).eval(),
        (torch.zeros((images, *form.frame, 3), dtype=torch.uint8),),
        input_names=INPUTS[:1],
        output_names=(_MADE,),
        dynamic=(free,),
        name="the preparation of frames",
    )


def put_before(graph: bytes, part: bytes) -> bytes:
    """Let a graph take camera frames.

    Args:
        graph: takes RGB [1 or N, 3, height, width] in [0, 1], in any precision.
        part: from ``preparation``.

    Raises:
        ModelError: the result is no valid ONNX model.
    """
    model = onnx.load_from_string(graph)
    before = onnx.compose.add_prefix(onnx.load_from_string(part), _PREFIX)
    image, made = INPUTS[0], _PREFIX + _MADE
    _rename(before, {_PREFIX + image: image})
    _rename(model, {image: made})
    nodes = [*before.graph.node, *model.graph.node]
    inputs = [*before.graph.input, *(v for v in model.graph.input if v.name == INPUTS[1])]
    del model.graph.node[:], model.graph.input[:], model.graph.value_info[:]
    model.graph.node.extend(nodes)
    model.graph.input.extend(inputs)
    model.graph.initializer.extend(before.graph.initializer)
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:  # onnx's and protobuf's share no base class
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"the graph cannot take frames ({first[:300]})", "leave out --frame"
        ) from error
    return bytes(model.SerializeToString(deterministic=True))


def _rename(model: ModelProto, names: dict[str, str]) -> None:
    """Give values of a graph other names, as inputs of the graph and of its nodes."""
    for value in model.graph.input:
        value.name = names.get(value.name, value.name)
    for node in model.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
