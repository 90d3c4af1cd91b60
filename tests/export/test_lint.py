"""Each rule on a graph that breaks it and nothing else, and every bad input in one line."""

import json

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from deepfusion_edge.errors import InputError, ModelError
from deepfusion_export.cli import RUNTIMES as NAMES
from deepfusion_export.cli import main
from deepfusion_export.lint import AGENT, ONNX_RUNTIME, RUNTIMES, folded, lint, read_onnx
from deepfusion_toolkit.models import save

HERE = "tests.export.test_lint"
BOTH = ("TensorRT 10.3", "TensorRT 11")
OLD = BOTH[:1]


def value(name, *shape, kind=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, kind, shape)


def graph_of(*nodes, weights=(), opset=20, extra=(), inputs=None, outputs=None, functions=()):
    """A graph with the device's inputs and outputs, around some nodes that read ``image``."""
    rest = [
        helper.make_node("Flatten", ["image"], ["flat"]),
        helper.make_node("Softmax", ["flat"], ["members"]),
        helper.make_node("ReduceMean", ["members"], ["fused"], keepdims=0, noop_with_empty_axes=0),
        helper.make_node("ReduceMax", ["factors"], ["feature_variance"], keepdims=0),
    ]
    made = helper.make_graph(
        [*nodes, *rest],
        "graph",
        inputs or [value("image", 1, 3, 8, 8), value("factors", "K", 4)],
        outputs or [value("members", "K", 192), value("fused"), value("feature_variance")],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in weights],
    )
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in extra)]
    model = helper.make_model(made, opset_imports=opsets, ir_version=9, functions=functions)
    return model.SerializeToString()


def node(kind, inputs="image", outputs="y", **attributes):
    return helper.make_node(kind, inputs.split(","), outputs.split(","), name="odd", **attributes)


def said(graph, *runtimes):
    """Who says what about the odd node or tensor."""
    return [(f.runtime, f.refused, f.what) for f in lint(graph, runtimes or RUNTIMES)]


def test_a_graph_of_this_product_meets_no_objection(case):
    assert lint(case.graph) == []


def test_the_graph_that_the_rules_are_tried_on_meets_none():
    assert lint(graph_of()) == []


ONE = np.float32([1.0])
AXES = np.int64([1])
RULES = {
    "unknown operator": (graph_of(node("NonMaxSuppression2")), BOTH, "NonMaxSuppression2 is not s"),
    "unsupported": (graph_of(node("Bernoulli")), BOTH, "Bernoulli is not supported"),
    "too new an operator": (
        graph_of(node("RMSNormalization", "image,w"), weights=[("w", np.ones(8, np.float32))]),
        OLD,
        "is known from TensorRT 10.15 on",
    ),
    "too high an opset": (graph_of(opset=21), OLD, "opset 21 is outside of 9 to 20"),
    "too low an opset": (graph_of(opset=8), BOTH, "opset 8 is outside of 9"),
    "indices of a pool": (
        graph_of(node("MaxPool", outputs="y,i", kernel_shape=[2, 2])), BOTH, "only the first output"
    ),
    "dilated pool": (
        graph_of(node("MaxPool", kernel_shape=[2, 2], dilations=[1, 2])), BOTH, "1, 2, not 1"
    ),
    "cubic resize": (
        graph_of(
            node("Resize", "image,,s", mode="cubic"), weights=[("s", np.float32([1, 1, 2, 2]))]
        ),
        BOTH,
        "mode of Resize is cubic, not nearest or linear",
    ),
    "antialiased resize": (
        graph_of(
            node("Resize", "image,,s", mode="linear", antialias=1),
            weights=[("s", np.float32([1, 1, 2, 2]))],
        ),
        BOTH,
        "antialias of Resize is 1, not 0",
    ),
    "axes that are computed": (
        graph_of(
            helper.make_node("Shape", ["image"], ["axes"], start=1, end=2),
            node("ReduceSum", "image,axes"),
        ),
        BOTH,
        "input 2 of ReduceSum is computed",
    ),
    "zero point": (
        graph_of(
            node("QuantizeLinear", "image,s,z"),
            weights=[("s", np.float32(0.1)), ("z", np.int8(3))],
        ),
        BOTH,
        "QuantizeLinear has a zero point",
    ),
    "dropout that trains": (
        graph_of(
            node("Dropout", "image,r,t"), weights=[("r", np.float32(0.5)), ("t", np.bool_(True))]
        ),
        BOTH,
        "Dropout in training mode",
    ),
    "weights of a strange type": (graph_of(weights=[("w", np.uint16([1]))]), BOTH, "type UINT16"),
    "an open image size": (
        graph_of(inputs=[value("image", 1, 3, "H", 8), value("factors", "K", 4)]),
        BOTH,
        "a size other than K is left open",
    ),
    "open factors": (
        graph_of(inputs=[value("image", 1, 3, 8, 8), value("factors", "K", "F")]),
        BOTH,
        "a size other than K is left open",
    ),
}  # fmt: skip
ALLOWED = {
    "pool": node("MaxPool", kernel_shape=[2, 2], dilations=[1, 1]),
    "resize": node("Resize", "image,,s", mode="linear", antialias=0),
    "reduce": node("ReduceSum", "image,axes"),
    "quantise": node("QuantizeLinear", "image,scale,zero"),
    "dropout": node("Dropout", "image,ratio,off"),
    "gelu": node("Gelu"),
}
WEIGHTS = [
    ("s", np.float32([1, 1, 2, 2])), ("axes", AXES), ("scale", np.float32(0.1)),
    ("zero", np.int8(0)), ("ratio", np.float32(0.5)), ("off", np.bool_(False)),
]  # fmt: skip


@pytest.mark.parametrize("rule", RULES)
def test_what_a_release_of_tensorrt_refuses_is_said(rule):
    graph, releases, text = RULES[rule]
    found = [f for f in lint(graph, BOTH) if text in f.what]
    assert [f.runtime for f in found] == list(releases)
    assert all(f.refused for f in found)
    assert [f for f in lint(graph, BOTH) if text not in f.what] == []


@pytest.mark.parametrize("name", ALLOWED)
def test_the_same_operators_within_the_rules_are_not_objected_to(name):
    assert lint(graph_of(ALLOWED[name], weights=WEIGHTS)) == []


def branch(name):
    made = helper.make_node("Constant", [], [name], value=numpy_helper.from_array(ONE))
    return helper.make_graph([made], name, [], [value(name, 1)])


WARNINGS = {
    "control flow": (
        graph_of(
            node("If", "on", then_branch=branch("a"), else_branch=branch("b")),
            weights=[("on", np.bool_(True))],
        ),
        "under conditions only",
    ),
    "random numbers": (graph_of(node("RandomNormalLike")), "ignores its seed"),
    "doubles": (graph_of(weights=[("w", np.float64([1]))]), "cast down to FLOAT"),
}


@pytest.mark.parametrize("name", WARNINGS)
def test_what_builds_but_differs_is_a_warning(name):
    graph, text = WARNINGS[name]
    found = lint(graph)
    assert [(f.runtime, f.refused) for f in found] == [(name, False) for name in BOTH]
    assert all(text in f.what and " warns: " in f.line for f in found)


def test_nodes_of_branches_and_of_the_models_own_functions_are_judged_too():
    inner = helper.make_graph([node("Bernoulli", "image", "a")], "a", [], [value("a", 1)])
    graph = graph_of(
        node("If", "on", then_branch=inner, else_branch=branch("b")),
        weights=[("on", np.bool_(True))],
    )
    refused = [f.what for f in lint(graph, OLD) if f.refused]
    assert refused == ["the operator Bernoulli is not supported"]
    body = [helper.make_node("Bernoulli", ["x"], ["y"])]
    opsets = [helper.make_opsetid("", 20)]
    function = helper.make_function("own", "Mine", ["x"], ["y"], body, opsets)
    graph = graph_of(node("Mine", domain="own"), extra=["own"], functions=[function])
    assert [f.what for f in lint(graph)] == ["the operator Bernoulli is not supported"] * 2


def test_a_custom_operator_is_named_to_all():
    found = lint(graph_of(node("Sharpen", domain="acme"), extra=["acme"]))
    assert [f.runtime for f in found] == list(RUNTIMES)
    assert all(f.refused for f in found)
    for finding in found:
        assert "Sharpen" in finding.line
        assert "acme" in finding.line
    assert all("'odd' (Sharpen)" in f.node for f in found[:3])


def test_the_same_thing_is_said_three_times_and_counted():
    graph = graph_of(*(helper.make_node("Bernoulli", ["image"], [f"y{i}"]) for i in range(9)))
    assert len(lint(graph, OLD)) == 9
    shown = folded(lint(graph, OLD))
    assert len(shown) == 4
    assert shown[-1].node == "and 6 nodes more"


def test_a_plain_network_is_no_ensemble():
    inputs, outputs = [value("pixels", 1, 3, 8, 8)], [value("maps", 1, 3, 8, 8)]
    made = helper.make_graph([helper.make_node("Relu", ["pixels"], ["maps"])], "g", inputs, outputs)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    found = lint(model.SerializeToString())
    assert [f.runtime for f in found] == [AGENT, AGENT]
    assert "its inputs are pixels, not image, factors" in found[0].what
    assert found[1].node == "output 'maps' [1, 3, 8, 8]"
    assert "not the one output [N, C]" in found[1].what


def test_weights_in_another_file_are_named(tmp_path):
    weights = [("w", np.ones(2000, np.float32))]
    model = onnx.load_model_from_string(graph_of(weights=weights))
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="m.bin")
    found = lint(read_onnx(tmp_path / "m.onnx"), (ONNX_RUNTIME, AGENT))
    assert [f.runtime for f in found] == [ONNX_RUNTIME, AGENT]
    assert found[0].node == "tensor 'w'"
    assert "m.bin" in found[0].what
    assert "outside of its file" in found[1].what


@pytest.mark.parametrize("content", [b"", b"\x00\x01 not a model", b"PK\x03\x04", b"\x08\x07"])
def test_what_is_no_onnx_file_is_refused(tmp_path, content):
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"m\.onnx is no ONNX file"):
        read_onnx(path)


RICH = graph_of(*ALLOWED.values(), weights=WEIGHTS)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(at=st.integers(0, len(RICH) - 1), byte=st.integers(0, 255))
def test_a_damaged_file_is_linted_or_refused(at, byte):
    damaged = RICH[:at] + bytes([byte]) + RICH[at + 1 :]
    try:
        found = lint(damaged, (*BOTH, AGENT))
    except InputError:
        return
    assert all(f.what and f.remedy for f in found)


# --- the command ---


class Net(nn.Module):
    """A classifier with one thing wrong."""

    input_size = (8, 8)

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 3)

    def forward(self, x):
        return self.head(torch.relu(self.first(x)).mean((2, 3)))


class Branches(Net):
    def forward(self, x):
        scores = super().forward(x)
        return scores if float(scores.sum()) > 0 else scores * 2


class Linear(Net):
    def forward(self, x):
        return self.head(self.first(x).mean((2, 3)))


class Maps(Net):
    def forward(self, x):
        return self.first(x)


@torch.library.custom_op("deepfusion_tests::sharpen", mutates_args=())
def sharpen(x: torch.Tensor) -> torch.Tensor:
    return x * 2


@sharpen.register_fake
def _(x):
    return torch.empty_like(x)


class Custom(Net):
    def forward(self, x):
        return sharpen(super().forward(x))


def run(capsys, *words):
    code = main(["lint", *map(str, words)])
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return code, captured.out, captured.err.splitlines()


@pytest.mark.parametrize(
    ("spec", "code", "text"),
    [
        (f"{HERE}:Branches", 4, "Branches: the network cannot be traced by torch.export at test_l"),
        (f"{HERE}:Linear", 4, "Linear: the network has no site"),
        (f"{HERE}:Maps", 4, "model Maps gives (2, 4, 6, 6) for two images, class scores are"),
        (f"{HERE}:Custom", 4, "deepfusion_tests.sharpen"),
        (f"{HERE}:Custom", 4, "Custom cannot be exported to ONNX at node 'sharpen"),
        (f"{HERE}:Nothing", 4, "cannot be imported"),
        ("none.pt2", 4, "does not exist"),
        ("none.onnx", 3, "cannot read none.onnx"),
        ("resnet", 2, "none of the known forms"),
    ],
)
def test_what_cannot_be_linted_is_one_line(capsys, spec, code, text):
    found, out, lines = run(capsys, spec)
    assert (found, out) == (code, "")
    assert [line.split()[0] for line in lines[:-1]] in ([], ["loading"], ["loading", "exporting"])
    assert lines[-1].startswith("error: ")
    assert text in lines[-1], lines[-1]


def test_a_network_and_a_plan_are_linted_as_they_would_be_exported(files, capsys):
    for options in ((), ("--plan", files.plan)):
        code, out, lines = run(capsys, files.model, *options)
        assert code == 0
        assert out.splitlines() == [f"{name}: nothing is refused" for name in RUNTIMES]
        assert [line.split()[0] for line in lines] == ["loading", "exporting"]


def test_a_plan_of_another_model_is_refused(files, tmp_path, capsys):
    save(Net().eval(), (8, 8), tmp_path / "net.pt2")
    code, _, lines = run(capsys, tmp_path / "net.pt2", "--plan", files.plan)
    assert (code, "other weights" in lines[-1]) == (4, True)


def test_findings_for_machines_and_the_chosen_runtimes(tmp_path, capsys):
    path = tmp_path / "m.onnx"
    path.write_bytes(graph_of(node("Bernoulli")))
    code, out, _ = run(capsys, path, "--json")
    result = json.loads(out)
    assert code == ModelError.exit_code
    wanted = {name: name not in BOTH for name in RUNTIMES}
    assert result["runtimes"] == wanted
    first = result["findings"][0]
    assert (first["runtime"], first["refused"], first["node"]) == (
        OLD[0], True, "node 'odd' (Bernoulli)",
    )  # fmt: skip
    code, out, _ = run(capsys, path, "--runtime", "onnxruntime", "--runtime", "agent")
    assert code == 0
    assert out.splitlines() == ["ONNX Runtime: nothing is refused", "agent: nothing is refused"]
    code, out, _ = run(capsys, path, "--runtime", "tensorrt-11")
    assert code == 4
    assert out.startswith("TensorRT 11 refuses: node 'odd' (Bernoulli): the operator Bernoulli")


def test_an_onnx_file_with_a_plan_is_a_model(tmp_path, files, capsys):
    path = tmp_path / "m.onnx"
    path.write_bytes(graph_of())
    code, out, lines = run(capsys, path, "--plan", files.plan)
    assert (code, out) == (4, "")
    assert str(path) in lines[-1]


def test_an_unknown_runtime_is_a_usage_error(files, capsys):
    assert run(capsys, files.model, "--runtime", "tpu")[0] == 2


def test_the_commands_names_are_those_of_lint():
    assert tuple(NAMES.values()) == RUNTIMES
