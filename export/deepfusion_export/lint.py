"""Will the device's runtimes take a graph? Reasons and remedies, node by node, not a boolean.

What ONNX Runtime says is tried out. What TensorRT would say is looked up (``tensorrt_rules``): no
objection is no promise, an engine is built on the device. What the agent says is its own check.
"""

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from onnx import ModelProto

from deepfusion_edge.bundle.files import reading
from deepfusion_edge.bundle.onnx_check import check_onnx
from deepfusion_edge.errors import ModelError
from deepfusion_edge.runtime.base import INPUTS
from deepfusion_export import tensorrt_rules
from deepfusion_export.onnx_walk import custom_nodes, external_tensors, input_names, label, parsed
from deepfusion_toolkit.models import Classifier
from deepfusion_toolkit.plan import Plan

ONNX_RUNTIME, AGENT = "ONNX Runtime", "agent"
RUNTIMES = (ONNX_RUNTIME, *tensorrt_rules.RELEASES, AGENT)
_REPEATS = 3


class Finding(NamedTuple):
    """One objection.

    Attributes:
        runtime: who objects, one of ``RUNTIMES``.
        refused: False if it runs, but not as one would think.
        node: which node, tensor or input; "" for the whole file.
        what: the rule and the value that broke it.
        remedy: what to do.
    """

    runtime: str
    refused: bool
    node: str
    what: str
    remedy: str

    @property
    def line(self) -> str:
        """For people: who refuses what, and what to do."""
        place = f"{self.node}: " if self.node else ""
        verb = "refuses" if self.refused else "warns"
        return f"{self.runtime} {verb}: {place}{self.what}; {self.remedy}"


def read_onnx(path: Path) -> bytes:
    """Read an ``.onnx`` file.

    Raises:
        InputError: it is missing, cannot be read, or is no ONNX file.
    """
    with reading(path), path.open("rb") as stream:
        data = stream.read()
    parsed(data, str(path))
    return data


def example(models: Sequence[Classifier], plan: Plan | None) -> bytes:
    """Export what is to be linted: the plan's graph, or one eroded in every way the network allows.

    Without a plan, the first and the last site of each kind are eroded.

    Raises:
        ModelError: the plan is for other models, a network has no site, or cannot be exported.
    """
    from deepfusion_export.onnx import to_onnx
    from deepfusion_toolkit.defence import Defended
    from deepfusion_toolkit.surgery import DEFAULT_STRENGTH, erode, find_sites
    from deepfusion_toolkit.surgery.graph import trace

    if plan is not None:
        return to_onnx(Defended.of(models, plan), plan.members)
    bases = []
    for model in models:
        try:
            sites = find_sites(trace(model.core, model.size), DEFAULT_STRENGTH, DEFAULT_STRENGTH)
        except ModelError as error:
            raise ModelError(f"{model.name}: {error.what}", error.remedy) from error
        own = [[s for s in sites if s.kind == kind] for kind in DEFAULT_STRENGTH]
        ends = {site for found in own if found for site in (found[0], found[-1])}
        bases.append(erode(model, [site for site in sites if site in ends]))
    return to_onnx(Defended(*bases), 2)


def lint(model_bytes: bytes, runtimes: Collection[str] = RUNTIMES) -> list[Finding]:
    """List everything that the runtimes object to.

    Args:
        model_bytes: an ONNX model, of this product or not.
        runtimes: some of ``RUNTIMES``.

    Raises:
        InputError: the bytes are no ONNX model.
    """
    model = parsed(model_bytes, "the model")
    found: list[Finding] = []
    if ONNX_RUNTIME in runtimes:
        found += _of_onnx_runtime(model, model_bytes)
    for name in tensorrt_rules.RELEASES:
        if name in runtimes:
            found += _of_tensorrt(model, name)
    if AGENT in runtimes:
        found += _of_agent(model, model_bytes)
    return found


def folded(found: Sequence[Finding]) -> list[Finding]:
    """For people: the same thing is said about three nodes, then the others are counted."""
    kept: dict[tuple[str, str], list[Finding]] = {}
    for finding in found:
        kept.setdefault((finding.runtime, finding.what), []).append(finding)
    shown = []
    for same in kept.values():
        shown += same[:_REPEATS]
        if len(same) > _REPEATS:
            rest = f"and {len(same) - _REPEATS} nodes more"
            shown.append(same[-1]._replace(node=rest))
    return shown


def _of_onnx_runtime(model: ModelProto, data: bytes) -> Iterator[Finding]:
    outside = external_tensors(model)
    for tensor in outside:
        place = next((e.value for e in tensor.external_data if e.key == "location"), "?")
        what = f"its data is in another file ({place})"
        yield Finding(
            ONNX_RUNTIME, True, f"tensor '{tensor.name}'", what, "save the model as one file"
        )
    if outside:
        return
    import onnxruntime

    onnxruntime.disable_telemetry_events()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # noqa: BLE001 - its exceptions share no base class but this one
        custom = [label(node) for node in custom_nodes(model)][:_REPEATS]
        text = " ".join(str(error).split())[:300]
        remedy = "use operators of the ONNX standard" if custom else "export the model again"
        yield Finding(ONNX_RUNTIME, True, ", ".join(custom), text, remedy)


def _of_tensorrt(model: ModelProto, name: str) -> Iterator[Finding]:
    for place, objection in tensorrt_rules.of_model(model, tensorrt_rules.RELEASES[name]):
        yield Finding(name, objection.refused, place, objection.what, objection.remedy)


def _of_agent(model: ModelProto, data: bytes) -> Iterator[Finding]:
    names = input_names(model)
    if names != sorted(INPUTS):
        what = f"its inputs are {', '.join(names) or 'none'}, not {', '.join(INPUTS)}"
        remedy = "give it to 'deepfusion harden' and 'bundle' as --model: they make the graph"
        yield Finding(AGENT, True, "", what, remedy)
        yield from _of_scores(model)
        return
    try:
        check_onnx(data)
    except ModelError as error:
        yield Finding(AGENT, True, "", error.what, error.remedy)


def _of_scores(model: ModelProto) -> Iterator[Finding]:
    """A plain network ought to give class scores [N, C]."""
    for value in model.graph.output:
        sizes = [d.dim_value for d in value.type.tensor_type.shape.dim]
        if len(sizes) != 2 or sizes[1] == 1 or len(model.graph.output) > 1:  # noqa: PLR2004
            shown = ", ".join(str(size or "?") for size in sizes)
            what = "it is not the one output [N, C] of a classifier"
            place = f"output '{value.name}' [{shown}]"
            yield Finding(AGENT, True, place, what, "give a network of class scores")
