"""A graph in parts: what all members have in common, and what comes without fusion and scores."""

import onnx
from onnx.utils import Extractor

from deepfusion_edge.runtime.base import INPUTS, OUTPUTS


def prefix(graph: bytes) -> bytes | None:
    """The part that is computed once: image -> what the members' own part takes from it.

    None where members begin at the image.
    """
    model = onnx.load_from_string(graph)
    image, factors = INPUTS
    common, own = {image}, {factors}
    for node in model.graph.node:
        if own & set(node.input):
            own.update(node.output)
        elif common & set(node.input):
            common.update(node.output)
    wanted = sorted(
        {
            name
            for node in model.graph.node
            if set(node.output) & own
            for name in node.input
            if name in common and name != image
        }
    )
    return _part(model, [image], wanted) if wanted else None


def without_scores(graph: bytes) -> bytes:
    """Members' probabilities alone: no fusion, no feature variance."""
    return _part(onnx.load_from_string(graph), list(INPUTS), [OUTPUTS[1]])


def _part(model: onnx.ModelProto, inputs: list[str], outputs: list[str]) -> bytes:
    typed = onnx.shape_inference.infer_shapes(model)
    part = Extractor(typed).extract_model(inputs, outputs)
    return bytes(part.SerializeToString())
