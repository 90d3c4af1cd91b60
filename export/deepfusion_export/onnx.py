"""One ONNX graph for all members: image [1, 3, H, W], factors [K, F] -> fused, members, variance.

For several cameras: image [N, 3, H, W], factors [N, K, F], and results with N in front.

K is free: the image's batch of one broadcasts at the first eroded multiplication, so everything
before it is computed once. Several bases, each with K members, are one graph too. Softmax, fusion
and scores are in the graph, in float32, as the device's ``fusion.py`` defines them.
"""

import contextlib
import io
import logging
import re
import warnings
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from deepfusion_edge.errors import ModelError
from deepfusion_edge.runtime.base import INPUTS, OUTPUTS
from deepfusion_toolkit.defence import Defended, Fused

OPSET = 20
MAX_MEMBERS = 64
MAX_IMAGES = 64
_NODE = re.compile(r"translating node %(\w+)")
Dynamic = tuple[dict[int, torch.export.Dim] | None, ...]


class FusedGraph(nn.Module):
    """What is exported: the defence for one image, without the dimension that counts images."""

    def __init__(self, defended: Defended) -> None:
        super().__init__()
        self.defended = defended

    def forward(self, image: Tensor, factors: Tensor) -> Fused:
        """RGB [1, 3, H, W] in [0, 1] of the defence's own size and factors [K, F]."""
        return self.defended.combined(self.defended.look(self.defended.prepared(image), factors))


class Probabilities(nn.Module):
    """The plain network: image [1, 3, H, W] -> probabilities [1, C]."""

    def __init__(self, core: nn.Module) -> None:
        super().__init__()
        self.core = core

    def forward(self, image: Tensor) -> Tensor:
        """RGB [1, 3, H, W] in [0, 1] of the model's own size -> [1, C]."""
        return torch.softmax(self.core(image), dim=1)


def to_onnx(defended: Defended, members: int) -> bytes:
    """Export a defended model; the weights are inside, K is free between 1 and 64.

    Args:
        defended: eroded models and fusion rule; made with ``several``, N is free between 1 and 64.
        members: how many are usual; the graph is traced with at least two.

    Raises:
        ModelError: torch cannot export the network.
    """
    members, width = max(2, members), sum(defended.widths)
    free = torch.export.Dim("K", min=1, max=MAX_MEMBERS)
    graph: nn.Module = FusedGraph(defended)
    images, factors = 1, torch.ones(members, width)
    dynamic: Dynamic = (None, {0: free})
    if defended.several:
        count = torch.export.Dim("N", min=1, max=MAX_IMAGES)
        graph, images, factors = defended, 2, torch.ones(2, members, width)
        dynamic = ({0: count}, {0: count, 1: free})
    return export(
        graph.eval(),
        (torch.full((images, 3, *defended.size), 0.5), factors),
        input_names=INPUTS,
        output_names=OUTPUTS,
        dynamic=dynamic,
        name=defended.name,
    )


def plain_to_onnx(core: nn.Module, size: tuple[int, int], name: str) -> bytes:
    """Export the plain network for one image, to measure against.

    Raises:
        ModelError: torch cannot export the network.
    """
    image = torch.full((1, 3, *size), 0.5)
    return export(
        Probabilities(core),
        (image,),
        input_names=INPUTS[:1],
        output_names=("probabilities",),
        dynamic=(None,),
        name=name,
    )


def export(
    module: nn.Module,
    inputs: tuple[Tensor, ...],
    *,
    input_names: Sequence[str],
    output_names: Sequence[str],
    dynamic: Dynamic,
    name: str,
) -> bytes:
    """Export any module: one file with the weights inside and nothing of this machine.

    Args:
        module: in evaluation mode.
        inputs: examples, which also give the fixed sizes.
        input_names: of the graph's inputs.
        output_names: of its outputs.
        dynamic: for each input the dimensions that stay free.
        name: for messages.

    Raises:
        ModelError: torch cannot export it.
    """
    try:
        with quiet(), torch.no_grad():
            program = torch.onnx.export(
                module,
                inputs,
                dynamo=True,
                opset_version=OPSET,
                input_names=list(input_names),
                output_names=list(output_names),
                dynamic_shapes=dynamic,
                external_data=False,
                optimize=True,
                verbose=False,
            )
            proto = program.model_proto if program is not None else None
            data = b"" if proto is None else proto.SerializeToString()
        return _without_notes(data)
    except Exception as error:  # the exporter raises dozens of kinds, and protobuf its own
        said = list(_chain(error))  # the outer ones say which step failed and at which node
        first = (said[-1].strip().splitlines() or [type(error).__name__])[0]
        node = next((found[1] for text in said if (found := _NODE.search(text))), None)
        place = f" at node '{node}'" if node else ""
        raise ModelError(
            f"{name} cannot be exported to ONNX{place} ({first[:300]})",
            "use layers that torch.onnx knows, and less than 2 GB of weights",
        ) from error


def _chain(error: BaseException | None) -> Iterator[str]:
    while error is not None:
        yield str(error) or type(error).__name__
        error = error.__cause__


def _without_notes(data: bytes) -> bytes:
    """Drop the exporter's notes: they name files of this machine, and no runtime reads them."""
    import onnx

    model = onnx.load_from_string(data)
    graph = model.graph
    values = (*graph.input, *graph.output, *graph.value_info, *graph.initializer, *graph.node)
    for item in (model, graph, *values):
        item.ClearField("metadata_props")
        item.ClearField("doc_string")
    model.producer_name, model.producer_version = "deepfusion-export", ""
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString(deterministic=True))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the exporter's progress, notes and warnings away from people who only use it."""
    loggers = [logging.getLogger(name) for name in ("torch", "onnxscript", "onnx_ir")]
    before = [logger.level for logger in loggers]
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, before, strict=True):
                logger.setLevel(level)
