"""A user's ONNX file: the same scores as ONNX Runtime, the same sites, or a refusal that helps."""

import math
import warnings

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn
from torch.nn import functional

from deepfusion_edge.erosion import identity
from deepfusion_edge.errors import InputError, ModelError, UsageError
from deepfusion_toolkit.models import Classifier, load
from deepfusion_toolkit.models.onnx_file import split_spec
from deepfusion_toolkit.models.onnx_file.file import IMAGENET
from deepfusion_toolkit.surgery import DEFAULT_STRENGTH, erode, find_sites
from deepfusion_toolkit.surgery.graph import quiet, trace
from tests.toolkit import tiny_nets

KINDS = ("skip", "activation", "norm")


def export(net, path, size, *, opset=17, free=False, dynamo=False):
    """As users do it, in the ways that torch has had."""
    image = torch.zeros(2 if dynamo else 1, 3, *size)
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if dynamo:
            shapes = ({0: torch.export.Dim.DYNAMIC},)
            torch.onnx.export(
                net, (image,), path, dynamo=True, opset_version=20, dynamic_shapes=shapes,
                verbose=False,
            )  # fmt: skip
        else:
            axes = {"image": {0: "N"}, "scores": {0: "N"}} if free else {}
            torch.onnx.export(
                net, (image,), path, dynamo=False, opset_version=opset, dynamic_axes=axes,
                input_names=["image"], output_names=["scores"],
            )  # fmt: skip
    return path


def counts(model):
    sites = find_sites(trace(model.core, model.size), KINDS, DEFAULT_STRENGTH)
    return [sum(site.kind == kind for site in sites) for kind in KINDS], sites


@pytest.mark.parametrize("free", [False, True], ids=["one-image", "free-batch"])
def test_a_file_is_the_network_that_it_was_exported_from(tiny, tmp_path, free):
    own = load(str(export(tiny.core, tmp_path / "net.onnx", tiny.size, free=free)))
    data, _ = tiny_nets.images(5, seed=1)
    with torch.no_grad():
        torch.testing.assert_close(own(data), tiny(data), rtol=1e-4, atol=1e-4)
    (skips, activations, _), sites = counts(own)
    assert [skips, activations] == counts(tiny)[0][:2]  # exporters fold norms away
    eroded = erode(own, sites)
    factors = torch.from_numpy(identity(sites, 3))
    factors[1:] *= 0.8
    with torch.no_grad():
        members = eroded(data[:1], factors).logits
    torch.testing.assert_close(members[0], own(data[:1])[0], rtol=1e-4, atol=1e-4)
    assert float((members[1] - members[0]).abs().max()) > 1e-3


def test_the_new_exporter_keeps_its_weights_in_a_file_beside(tiny_residual, tmp_path):
    path = export(tiny_residual.core, tmp_path / "net.onnx", tiny_residual.size, dynamo=True)
    model = onnx.load(path)
    onnx.save(model, path, save_as_external_data=True, location="net.bin", size_threshold=0)
    data, _ = tiny_nets.images(2, seed=1)
    own = load(str(path))
    with torch.no_grad():
        torch.testing.assert_close(own(data), tiny_residual(data), rtol=1e-4, atol=1e-4)
    assert own.spec == str(path)


class Acts(nn.Module):
    """Every activation that exporters of some release spell out."""

    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(3 if n == 0 else 6, 6, 1) for n in range(5))
        self.head = nn.Linear(6, 4)

    def forward(self, x):
        acts = (functional.silu, functional.hardswish, functional.gelu, functional.relu6,
                functional.leaky_relu)  # fmt: skip
        for conv, act in zip(self.convs, acts, strict=True):
            x = act(conv(x))
        return self.head(x.mean((2, 3)))


@pytest.mark.parametrize("opset", [9, 11, 13, 17])
def test_spelled_out_activations_are_found(tmp_path, opset):
    torch.manual_seed(0)
    own = load(str(export(Acts(), tmp_path / "acts.onnx", (8, 8), opset=opset)))
    assert counts(own)[0] == [0, 5, 0]


def graph_of(nodes, *, weights=(), image=("N", 3, 4, 4), out=("N", 5), opset=17, kind=1, more=()):
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [value("x", kind, image), *more],
        [value("y", TensorProto.FLOAT, out)],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in weights],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def saved(model, tmp_path):
    onnx.save(model, tmp_path / "user.onnx")
    return str(tmp_path / "user.onnx")


W = ("w", np.random.default_rng(0).normal(size=(48, 5)).astype(np.float32))
node = helper.make_node


def plain(*, tail=(), end="y"):
    """Flatten, multiply, and what comes behind."""
    return [
        node("Flatten", ["x"], ["flat"], name="flatten"),
        node("MatMul", ["flat", "w"], [end], name="head"),
        *tail,
    ]


def test_a_softmax_at_the_end_is_taken_off(tmp_path):
    bare = load(saved(graph_of(plain(), weights=[W]), tmp_path))
    image = torch.rand(2, 3, 4, 4)
    for kind in ("Softmax", "LogSoftmax"):
        nodes = plain(tail=[node(kind, ["s"], ["y"])], end="s")
        own = load(saved(graph_of(nodes, weights=[W]), tmp_path))
        torch.testing.assert_close(own(image), bare(image))


def test_images_with_channels_last_are_turned(tmp_path):
    nodes = [node("Transpose", ["x"], ["t"], perm=[0, 3, 1, 2]), *plain()]
    nodes[1].input[0] = "t"
    own = load(saved(graph_of(nodes, weights=[W], image=("N", 4, 4, 3)), tmp_path))
    bare = load(saved(graph_of(plain(), weights=[W]), tmp_path))
    image = torch.rand(2, 3, 4, 4)
    torch.testing.assert_close(own(image), bare(image))
    assert own.size == (4, 4)


def test_normalisation_is_said_behind_the_file(tmp_path):
    path = saved(graph_of(plain(), weights=[W]), tmp_path)
    bare, image = load(path), torch.rand(2, 3, 4, 4)
    mean, std = (torch.tensor(v).reshape(1, 3, 1, 1) for v in IMAGENET)
    torch.testing.assert_close(load(f"{path}@imagenet")(image), bare((image - mean) / std))
    own = load(f"{path}@0.5,0.5,0.5/0.25,0.25,0.25")
    torch.testing.assert_close(own(image), bare((image - 0.5) / 0.25))
    assert own.spec == f"{path}@0.5,0.5,0.5/0.25,0.25,0.25"
    for odd in ("@", "@x", "@1,2,3", "@1,2,3/1,2", "@1,2,3/0,1,1", "@1,2,3/-1,1,1"):
        with pytest.raises(UsageError, match="no normalisation"):
            split_spec(path + odd)


ROWS = np.random.default_rng(1).normal(size=(3, 3, 3, 3)).astype(np.float32)
ONES = np.array([1, 1, 1], np.float32)
SIZES = np.array([0, 0, -1], np.int64)
CASES = {
    "conv-same": ([node("Conv", ["x", "k"], ["a"], auto_pad="SAME_UPPER", strides=[2, 2])], 17),
    "conv-uneven": ([node("Conv", ["x", "k"], ["a"], pads=[0, 0, 1, 1])], 17),
    "conv-dilated": ([node("Conv", ["x", "k"], ["a"], pads=[2, 2, 2, 2], dilations=[2, 2])], 17),
    "batch-norm": ([node("BatchNormalization", ["x", "o", "o", "b", "v"], ["a"])], 17),
    "max-pool": ([node("MaxPool", ["x"], ["a"], kernel_shape=[2, 2], pads=[0, 0, 1, 1])], 17),
    "max-ceil": ([node("MaxPool", ["x"], ["a"], kernel_shape=[3, 3], strides=[2, 2],
                       ceil_mode=1)], 17),
    "average-pool": ([node("AveragePool", ["x"], ["a"], kernel_shape=[3, 3],
                           pads=[1, 1, 1, 1])], 17),
    "average-counted": ([node("AveragePool", ["x"], ["a"], kernel_shape=[3, 3],
                              pads=[1, 1, 0, 0], count_include_pad=1)], 17),
    "instance-norm": ([node("InstanceNormalization", ["x", "o", "b"], ["a"])], 17),
    "layer-norm": ([node("LayerNormalization", ["x", "four"], ["a"], epsilon=0.1)], 17),
    "clip": ([node("Clip", ["x", "low", "high"], ["a"])], 17),
    "clip-old": ([node("Clip", ["x"], ["a"], min=0.2, max=0.7)], 9),
    "softmax-old": ([node("Softmax", ["x"], ["a"], axis=1)], 11),
    "softmax": ([node("Softmax", ["x"], ["a"], axis=1)], 13),
    "pad-old": ([node("Pad", ["x"], ["a"], pads=[0, 0, 1, 0, 0, 0, 0, 2], value=0.5)], 9),
    # as timm's padding to the same size is exported: scalars, a floor at 0, pairs in reverse
    "pad-computed": ([node("Sub", ["half", "high"], ["t"]), node("Clip", ["t", "none"], ["c"]),
                      node("Ceil", ["half"], ["d"]), node("Clip", ["d", "low", "high"], ["e"]),
                      node("Cast", ["c"], ["f"], to=7), node("Cast", ["e"], ["g"], to=7),
                      node("Unsqueeze", ["f", "zero1"], ["h"]),
                      node("Unsqueeze", ["g", "zero1"], ["i"]),
                      node("Concat", ["i", "h", "h", "h", "i", "h", "h", "h"], ["j"], axis=0),
                      node("Slice", ["j", "minus", "least", "zero1", "minus"], ["k8"]),
                      node("Pad", ["x", "k8", "half"], ["a"])], 13),
    "pad-reflect": ([node("Pad", ["x", "pads"], ["a"], mode="reflect")], 17),
    "reduce-old": ([node("ReduceMean", ["x"], ["a"], axes=[2], keepdims=1)], 13),
    "reduce": ([node("ReduceMean", ["x", "two"], ["a"], keepdims=0)], 18),
    "reduce-l2": ([node("ReduceL2", ["x"], ["a"], axes=[1])], 13),
    "slice-old": ([node("Slice", ["x"], ["a"], starts=[1], ends=[9], axes=[2])], 9),
    "slice": ([node("Slice", ["x", "one", "nine", "two", "two"], ["a"])], 13),
    "split": ([node("Split", ["x"], ["b1", "b2"], axis=2),
               node("Mul", ["b1", "b2"], ["a"])], 13),
    "gather": ([node("Gather", ["x", "turn"], ["a"], axis=1)], 13),
    "gather-one": ([node("Gather", ["x", "scalar"], ["a"], axis=2)], 13),
    "squeeze": ([node("Unsqueeze", ["x"], ["u"], axes=[1, 3]),
                 node("Squeeze", ["u"], ["a"], axes=[1, 3])], 11),
    "reshape-zero": ([node("Reshape", ["x", "sizes"], ["a"])], 13),
    "expand": ([node("Shape", ["x"], ["s"]), node("Expand", ["half", "s"], ["e"]),
                node("Mul", ["x", "e"], ["a"])], 13),
    "shape-sums": ([node("Shape", ["x"], ["s"]), node("Gather", ["s", "zero"], ["n"]),
                    node("Unsqueeze", ["n", "zero1"], ["nu"]),
                    node("Concat", ["nu", "minus"], ["to"], axis=0),
                    node("Reshape", ["x", "to"], ["a"])], 13),
    "prelu": ([node("Sub", ["x", "half"], ["m"]), node("PRelu", ["m", "slope"], ["a"])], 13),
    "elu": ([node("Sub", ["x", "half"], ["m"]), node("Elu", ["m"], ["a"], alpha=0.3)], 13),
    "hard-sigmoid": ([node("HardSigmoid", ["x"], ["a"], alpha=0.3)], 13),
    "where": ([node("Less", ["x", "half"], ["c"]), node("Where", ["c", "x", "low"], ["a"])], 13),
    "folded": ([node("Add", ["half", "low"], ["c"]), node("Mul", ["x", "c"], ["a"])], 13),
    "power": ([node("Pow", ["x", "high"], ["p"]), node("Sqrt", ["p"], ["a"])], 13),
    "dropout": ([node("Dropout", ["x"], ["a"])], 13),
    "global": ([node("GlobalMaxPool", ["x"], ["g"]), node("Add", ["x", "g"], ["a"])], 13),
    "max": ([node("Max", ["x", "half", "low"], ["a"])], 13),
    "gemm": ([node("Reshape", ["x", "sizes2"], ["r"]),
              node("Gemm", ["r", "square", "one48"], ["a"], alpha=0.5, beta=2.0, transB=1)], 13),
    "tile": ([node("Tile", ["x", "twice"], ["a"])], 13),
}  # fmt: skip
CONSTANTS = {
    "k": ROWS, "o": ONES, "b": 0.3 * ONES, "v": 2 * ONES, "four": np.full(4, 1.5, np.float32),
    "low": np.float32(0.2), "high": np.float32(3), "half": np.float32(0.5),
    "pads": np.array([0, 0, 1, 1, 0, 0, 2, 0]), "two": np.array([2]), "one": np.array([1]),
    "nine": np.array([9]), "turn": np.array([2, 0]), "scalar": np.array(1), "sizes": SIZES,
    "zero": np.array(0), "zero1": np.array([0]), "minus": np.array([-1]),
    "none": np.float32(0), "least": np.array([-(2**63) + 1]),
    "slope": np.array([0.1, 0.2, 0.3], np.float32).reshape(3, 1, 1), "sizes2": np.array([-1, 48]),
    "square": np.random.default_rng(2).normal(size=(48, 48)).astype(np.float32),
    "one48": np.ones(48, np.float32), "twice": np.array([1, 1, 2, 1]),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("batch", ["N", 1], ids=["free", "fixed"])
def test_operators_are_those_of_onnx_runtime(name, batch, tmp_path):
    """Loading compares the scores; here they are also compared for other images."""
    nodes, opset = CASES[name]
    used = {i for n in nodes for i in n.input}
    weights = [(key, value) for key, value in CONSTANTS.items() if key in used]
    probe = graph_of(nodes, weights=weights, image=(1, 3, 4, 4), out=None, opset=opset)
    probe.graph.output[0].name = "a"
    shape = run(probe, np.zeros((1, 3, 4, 4), np.float32)).shape
    head = np.random.default_rng(3).normal(size=(math.prod(shape[1:]), 5)).astype(np.float32)
    tail = [node("Flatten", ["a"], ["flat"]), node("MatMul", ["flat", "head"], ["y"])]
    weights += [("head", head)]
    model = graph_of([*nodes, *tail], weights=weights, image=(batch, 3, 4, 4),
                     out=(batch, 5), opset=opset)  # fmt: skip
    own = load(saved(model, tmp_path))
    for seed in range(2):
        image = np.random.default_rng(seed).random((1, 3, 4, 4), dtype=np.float32)
        with torch.no_grad():
            found = own(torch.from_numpy(image)).numpy()
        np.testing.assert_allclose(found, run(model, image), rtol=1e-5, atol=1e-5)


def run(model, image):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    data = model.SerializeToString()
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": image})[0]


def with_branch():
    value = helper.make_tensor_value_info("t", TensorProto.FLOAT, None)
    branch = helper.make_graph([node("Identity", ["flat"], ["t"])], "b", [], [value])
    nodes = plain()
    nodes.insert(1, node("If", ["c"], ["z"], name="choice", then_branch=branch, else_branch=branch))
    nodes[2].input[0] = "z"
    return graph_of(nodes, weights=[W, ("c", np.array(True))])


def unknown():
    nodes = plain(end="s")
    nodes += [node("Einsum", ["s"], ["t"], name="odd-sum", equation="ij->ij")]
    nodes += [node("Hardmax", ["t"], ["y"])]
    return graph_of(nodes, weights=[W])


def foreign():
    nodes = plain(tail=[node("Gelu", ["s"], ["y"], name="own", domain="com.user")], end="s")
    model = graph_of(nodes, weights=[W])
    model.opset_import.append(helper.make_opsetid("com.user", 1))
    return model


def two_outputs():
    model = graph_of(plain(), weights=[W])
    model.graph.output.append(helper.make_tensor_value_info("flat", TensorProto.FLOAT, ("N", 48)))
    return model


def merged():
    """Written for one image in a way that no other batch has."""
    nodes = [node("Reshape", ["x", "to"], ["r"], name="merge"), *plain()]
    nodes[1] = node("Flatten", ["r"], ["f0"])
    nodes[2] = node("Reshape", ["f0", "back"], ["flat"])
    nodes.append(node("MatMul", ["flat", "w"], ["y"]))
    sizes = [("to", np.array([3, 1, 4, 4])), ("back", np.array([1, 48]))]
    return graph_of(nodes, weights=[W, *sizes], image=(1, 3, 4, 4), out=(1, 5))


second = helper.make_tensor_value_info("mask", TensorProto.FLOAT, (1,))
REFUSED = {
    "control-flow": (with_branch, r"node 'choice' \(If\) is control flow, which cannot be eroded"),
    "unknown": (unknown, r"node 'odd-sum' \(Einsum\).*also unknown: Hardmax"),
    "custom": (foreign, r"node 'own' \(com.user.Gelu\) is no operator"),
    "two-outputs": (two_outputs, r"2 outputs \(y, flat\)"),
    "two-inputs": (lambda: graph_of(plain(), weights=[W], more=[second]), r"2 inputs \(x, mask\)"),
    "any-size": (
        lambda: graph_of(plain(), weights=[W], image=("N", 3, "H", "W")),
        r"images of any size \[\?, 3, \?, \?\].*make_dynamic_shape_fixed --input_name x",
    ),
    "grey": (lambda: graph_of(plain(), weights=[W], image=("N", 1, 12, 4)), "takes .*1, 12, 4"),
    "flat": (lambda: graph_of(plain(), weights=[W], image=("N", 48)), r"takes \[\?, 48\]"),
    "half": (lambda: graph_of(plain(), weights=[W], kind=TensorProto.FLOAT16), "no float32"),
    "batch-of-four": (lambda: graph_of(plain(), weights=[W], image=(4, 3, 4, 4)), "a batch of 4"),
    "no-scores": (
        lambda: graph_of([node("Relu", ["x"], ["y"])], out=("N", 3, 4, 4)),
        r"gives \[N, 3, 4, 4\], class scores are \[N, C\]",
    ),
    "merged": (merged, r"does not compute.*free batch"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_taken_in_is_named_with_its_remedy(name, tmp_path):
    make, text = REFUSED[name]
    with pytest.raises(ModelError, match=text) as caught:
        load(saved(make(), tmp_path))
    assert "\n" not in str(caught.value)
    assert "user.onnx" in caught.value.what


def test_what_is_no_onnx_file_is_an_input_error(tmp_path):
    for name, data in (("text", b"hello"), ("empty", b""), ("cut", None)):
        path = tmp_path / f"{name}.onnx"
        whole = graph_of(plain(), weights=[W]).SerializeToString()
        path.write_bytes(whole[: len(whole) // 2] if data is None else data)
        with pytest.raises(InputError, match="is no ONNX file"):
            load(str(path))
    with pytest.raises(InputError, match="No such file"):
        load(str(tmp_path / "none.onnx"))


@pytest.mark.parametrize("place", ["../secret.bin", "/etc/passwd", "sub/w.bin", "none.bin", "link"])
def test_weights_are_read_from_the_files_own_folder_alone(tmp_path, place):
    folder = tmp_path / "in"
    (folder / "sub").mkdir(parents=True)
    for path in (tmp_path / "secret.bin", folder / "sub" / "w.bin"):
        path.write_bytes(W[1].tobytes())
    (folder / "link").symlink_to(tmp_path / "secret.bin")
    model = graph_of(plain(), weights=[W])
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=place)
    (folder / "user.onnx").write_bytes(model.SerializeToString())
    with pytest.raises((ModelError, InputError)) as caught:
        load(str(folder / "user.onnx"))
    assert "no file beside it" in caught.value.what or "is no ONNX file" in caught.value.what


def test_weights_that_are_cut_short_are_refused(tmp_path):
    model = graph_of(plain(), weights=[W])
    onnx.save(model, tmp_path / "user.onnx", save_as_external_data=True, location="w.bin",
              size_threshold=0)  # fmt: skip
    (tmp_path / "w.bin").write_bytes(b"\0" * 16)
    with pytest.raises(ModelError, match=r"user\.onnx"):
        load(str(tmp_path / "user.onnx"))


def test_a_difference_to_onnx_runtime_is_refused(tmp_path, monkeypatch):
    """An operator that computes otherwise never gets into a plan."""
    from deepfusion_toolkit.models.onnx_file import net

    monkeypatch.setitem(
        net.OPERATORS, "MatMul", lambda call: call.tensor() @ call.tensor(1) * 1.001
    )
    with pytest.raises(ModelError, match=r"torch and ONNX Runtime differ by .* in scores up to"):
        load(saved(graph_of(plain(), weights=[W]), tmp_path))


def test_its_weights_can_be_trained(tiny_residual, tmp_path):
    own = load(str(export(tiny_residual.core, tmp_path / "net.onnx", tiny_residual.size)))
    assert isinstance(own, Classifier)
    theirs = sum(p.numel() for p in tiny_residual.core.parameters() if p.ndim > 1)
    assert sum(p.numel() for p in own.core.parameters() if p.ndim > 1) == theirs


def strided(order=(0, 1, 2)):
    """As torch's newer exporter writes a pooled map: indices over all images' values in a row."""
    nodes = [
        node("ReduceMean", ["x"], ["m"], axes=[2, 3], keepdims=1),
        node("Reshape", ["m", "minus"], ["flat"]),
        node("Shape", ["x"], ["s"]),
        node("Gather", ["s", "zero"], ["n"]),
        node("Range", ["zero", "n", "one"], ["r"], name="count"),
        node("Mul", ["r", "three"], ["t"]),
        node("Unsqueeze", ["t", "axes"], ["u"]),
        node("Add", ["u", "columns"], ["i"]),
        node("Gather", ["flat", "i"], ["g"], axis=0),
        node("Gather", ["flat", "i"], ["g2"], axis=0),
        node("Add", ["g", "g2"], ["g3"]),
        node("Relu", ["g3"], ["a"]),
        node("Flatten", ["a"], ["f"]),
        node("MatMul", ["f", "small"], ["y"]),
    ]
    weights = [
        ("minus", np.array([-1])), ("zero", np.array(0)), ("one", np.array(1)),
        ("three", np.array(3)), ("axes", np.array([1, 2, 3])),
        ("columns", np.array(order).reshape(1, 3, 1, 1)), ("small", W[1][:3]),
    ]  # fmt: skip
    return graph_of(nodes, weights=weights)


def test_a_view_by_strides_is_a_reshape_that_members_can_follow(tmp_path):
    model = strided()
    own = load(saved(model, tmp_path))
    (_, activations, _), sites = counts(own)
    assert activations == 1
    image = torch.rand(1, 3, 4, 4)
    eroded = erode(own, sites)
    factors = torch.tensor([[1.0, 1, 1], [0.5, 1, 1], [1, 1, 0]])
    with torch.no_grad():
        members = eroded(image, factors).logits
    wanted = 2 * image.mean((2, 3)) * factors @ torch.from_numpy(W[1][:3])
    torch.testing.assert_close(members, wanted)
    np.testing.assert_allclose(own(image).numpy(), run(model, image.numpy()), rtol=1e-5, atol=1e-6)


def test_indices_that_count_images_in_another_way_are_refused_by_name(tmp_path):
    own = load(saved(strided(order=(2, 1, 0)), tmp_path))
    with pytest.raises(ModelError, match=r"node 'count' \(Range\) counts the images of a batch"):
        trace(own.core, own.size)
