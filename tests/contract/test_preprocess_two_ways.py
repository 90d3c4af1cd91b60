"""torch = ONNX Runtime for preprocessing, bit for bit, in a graph that the device accepts."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from deepfusion_export.onnx import export
from deepfusion_toolkit.preprocess import BitDepth, Jpeg, Median, Preprocessor, ResizePad

SIZE = (43, 66)
ALL = (ResizePad(share=0.9), Median(), Jpeg(quality=75), BitDepth(bits=5))


@pytest.fixture(scope="module", params=[ALL, (Jpeg(quality=30),)], ids=["all", "jpeg"])
def routes(request):
    torch.set_num_threads(1)
    chain = Preprocessor(request.param, SIZE)
    data = export(
        chain,
        (torch.full((1, 3, *SIZE), 0.5),),
        input_names=("image",),
        output_names=("prepared",),
        dynamic=(None,),
        name="preprocessing",
    )
    assert {node.domain for node in onnx.load_from_string(data).graph.node} == {""}
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return chain, lambda image: session.run(None, {"image": image})[0]


def pictures():
    """Frames of 8 bits, and what an attacker or a probe may send: anything in [0, 1]."""
    draw = np.random.default_rng(0)
    for _ in range(8):
        yield draw.integers(0, 256, (1, 3, *SIZE)).astype(np.float32) / np.float32(255)
        yield draw.random((1, 3, *SIZE), dtype=np.float32)
        yield draw.integers(0, 2, (1, 3, *SIZE)).astype(np.float32)
    yield np.zeros((1, 3, *SIZE), np.float32)
    yield np.full((1, 3, *SIZE), 0.5, np.float32)


def test_both_routes_give_the_same_image(routes):
    """Sums that depend on their order would fall to another step in one of a few blocks."""
    chain, runtime = routes
    for image in pictures():
        ours = chain(torch.from_numpy(image)).numpy()
        assert np.array_equal(runtime(image), ours)
        assert not np.array_equal(ours, image) or not image.any()
