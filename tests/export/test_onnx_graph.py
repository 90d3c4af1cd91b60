"""One graph for every K, with the shared prefix computed once."""

import numpy as np
import onnx
import pytest
import torch

from deepfusion_edge import erosion, fusion
from deepfusion_edge.bundle.onnx_check import check_onnx
from deepfusion_edge.runtime.ort import OrtSession
from deepfusion_export.onnx import FusedGraph, to_onnx
from deepfusion_toolkit.defence import Defended
from deepfusion_toolkit.surgery import Seen


def image_of(case, seed=0):
    height, width = case.model.size
    values = erosion.uniform(seed, 0, 3 * height * width)
    return values.astype(np.float32).reshape(1, 3, height, width)


def ancestors(graph, names):
    """Everything that the named values depend on."""
    made = {output: node for node in graph.node for output in node.output}
    found, todo = set(), list(names)
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            todo += made[name].input if name in made else ()
    return found


@pytest.mark.parametrize("k", [1, 2, 3, 8, 32])
def test_one_graph_serves_every_number_of_members(case, k):
    session = OrtSession(case.graph, threads=1)
    image = image_of(case)
    factors = erosion.sample(case.plan.sites, seed=7, stream=k, members=k)
    together = session.run(image, factors)
    apart = [session.run(image, factors[i : i + 1]).members[0] for i in range(k)]
    np.testing.assert_allclose(together.members, np.stack(apart), atol=1e-6)
    np.testing.assert_allclose(together.fused, fusion.fuse(together.members), atol=1e-6)
    assert len(np.unique(together.members[:, 0])) == k


def test_members_without_erosion_are_the_model_itself(case):
    image = image_of(case)
    outputs = OrtSession(case.graph).run(image, erosion.identity(case.plan.sites, 3))
    with torch.no_grad():
        plain = torch.softmax(case.model(torch.from_numpy(image)), 1).numpy()[0]
    np.testing.assert_allclose(outputs.fused, plain, atol=1e-6)
    assert outputs.feature_variance < 1e-12


def test_the_prefix_is_computed_once(case):
    """Nothing that depends on the image alone has a batch other than one, and nothing widens it."""
    inferred = onnx.shape_inference.infer_shapes(onnx.load_from_string(case.graph))
    graph = inferred.graph
    shapes = {
        value.name: [d.dim_value or d.dim_param for d in value.type.tensor_type.shape.dim]
        for value in graph.value_info
    }
    shared = [
        node
        for node in graph.node
        if "image" in (above := ancestors(graph, node.output)) and "factors" not in above
    ]
    assert {"Conv", "MatMul", "Gemm"} & {node.op_type for node in shared}
    assert not {"Expand", "Tile"} & {node.op_type for node in shared}
    assert all(shapes[node.output[0]][0] == 1 for node in shared)
    widened = [n for n in graph.node if n.op_type in {"Expand", "Tile"} and n not in shared]
    assert not widened


def test_factors_get_their_shape_by_unsqueeze(case):
    graph = onnx.load_from_string(case.graph).graph
    from_factors = [n for n in graph.node if "image" not in ancestors(graph, n.output)]
    kinds = {node.op_type for node in from_factors if "factors" in ancestors(graph, node.output)}
    assert "Unsqueeze" in kinds
    assert "Reshape" not in kinds


def test_the_graph_passes_the_devices_check_and_names_no_file_of_this_machine(case):
    check_onnx(case.graph)
    for trace in (b"site-packages", b".py", b"deepfusion_toolkit"):
        assert trace not in case.graph


class Dead(torch.nn.Module):
    """Features that are zero for every member, as a dead layer gives on a black image."""

    size, width, sites, name, several = (4, 4), 5, (), "dead", False

    def forward(self, image, factors):
        zero = factors[:, :3] * 0
        return Seen(zero + image.mean(), zero, ())


def test_dead_features_have_a_variance_of_zero_not_nan_in_torch_and_in_the_exported_graph():
    """An optimiser that takes 1e-12 for zero would divide zero by zero."""
    defended = Defended(Dead())
    outputs = FusedGraph(defended)(torch.rand(1, 3, 4, 4), torch.rand(3, 5))
    assert float(outputs.feature_variance) == 0.0
    session = OrtSession(to_onnx(defended, 3))
    outputs = session.run(np.zeros((1, 3, 4, 4), np.float32), np.ones((3, 5), np.float32))
    assert outputs.feature_variance == 0.0
