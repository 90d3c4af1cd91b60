"""A graph that computes something else than its model is refused."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from deepfusion_edge.errors import ParityError
from deepfusion_export import parity


def perturbed(graph: bytes, change) -> bytes:
    """Change the largest weight tensor."""
    model = onnx.load_from_string(graph)
    weight = max(model.graph.initializer, key=lambda item: len(item.raw_data))
    values = numpy_helper.to_array(weight).copy()
    weight.CopyFrom(numpy_helper.from_array(change(values), weight.name))
    return model.SerializeToString()


def check(case, graph):
    return parity.check(graph, case.defended, [case.model], members=case.plan.members)


def test_an_honest_graph_passes_with_figures(case):
    figures = check(case, case.graph)
    assert figures.members == (1, 3, 4)
    assert figures.cases == 12
    assert set(figures.largest) == set(parity.TOLERANCES)
    assert all(0 <= value < 1e-4 for value in figures.largest.values())
    assert figures.largest["members"] > 0  # two routes really ran


def test_further_images_are_compared_too(case):
    images = np.full((2, 3, *case.model.size), 0.5, np.float32)
    figures = parity.check(case.graph, case.defended, [case.model], members=1, images=images)
    assert figures.members == (1, 3)
    assert figures.cases == 12


@pytest.mark.parametrize("change", [lambda w: w * 1.01, lambda w: w * 0], ids=["1 %", "zero"])
def test_a_changed_weight_is_refused_by_name_distance_and_members(case, change):
    with pytest.raises(ParityError, match=r"differs by .* between ONNX Runtime and .*K = 1"):
        check(case, perturbed(case.graph, change))


def test_a_graph_of_another_base_model_is_refused(case):
    class Other:
        def __call__(self, image):
            return case.model(image).flip(1)

    with pytest.raises(ParityError, match="base differs"):
        parity.check(case.graph, case.defended, [Other()], members=1)


@pytest.mark.parametrize("output", sorted(parity.TOLERANCES))
def test_every_line_of_the_table_bites(output):
    row = parity.TOLERANCES[output]
    allowed = row.absolute + row.relative * 0.5
    parity._hold(output, [0.5 + 0.9 * allowed], [0.5], "a and b", dict.fromkeys([output], 0.0))
    for wrong in (0.5 + 1.1 * allowed, float("nan")):
        with pytest.raises(ParityError, match=output):
            parity._hold(output, [wrong], [0.5], "a and b", dict.fromkeys([output], 0.0))
