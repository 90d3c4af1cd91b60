"""torch = ONNX Runtime = Pillow for what a graph makes of a camera's frame."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image

from deepfusion_edge.bundle.manifest import Preprocess
from deepfusion_edge.image import as_input, to_input
from deepfusion_export import tensorrt_rules
from deepfusion_export.frames import Form, Preparation, preparation, reference
from deepfusion_toolkit.models.resize import rows_resized, triangles

SIZE = (24, 40)
FORMS = {
    "shrunk": Form((97, 130)),
    "other-order": Form((97, 130), "BGR"),
    "one-side": Form((24, 81)),
    "other-side": Form((50, 40)),
    "mixed": Form((12, 111)),
    "enlarged": Form((11, 17)),
    "as-it-is": Form(SIZE),
    "several": Form((97, 130), images=4),
}


@pytest.fixture(scope="module", params=FORMS.values(), ids=FORMS)
def exported(request):
    data = preparation(request.param, SIZE)
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return request.param, data, session


def frames(form, count, seed=0):
    draw = np.random.default_rng(seed)
    return draw.integers(0, 256, (count, *form.frame, 3), dtype=np.uint8)


def test_three_routes_give_the_same_image(exported):
    form, _, session = exported
    given = frames(form, 3 if form.several else 1)
    (found,) = session.run(None, {"image": given})
    by_torch = Preparation(SIZE, form.color)(torch.from_numpy(given)).numpy()
    by_pillow = np.concatenate([reference(one[None], SIZE, form.color) for one in given])
    assert found.shape == (len(given), 3, *SIZE)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, by_torch, atol=1e-5)  # its weights are float32
    np.testing.assert_allclose(found, by_pillow, atol=1e-6)


def test_it_is_what_the_device_would_make_but_for_the_rounding_of_pixels(exported):
    """The device resizes 8-bit pixels in two passes, each of which rounds."""
    form, _, session = exported
    draw = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    height, width = form.frame
    smooth = np.asarray(Image.fromarray(draw).resize((width, height), Image.Resampling.BILINEAR))
    said = Preprocess(height=height, width=width, color=form.color, resize="in-graph")
    (found,) = session.run(None, {"image": as_input(smooth, said)})
    difference = np.abs(found - to_input(smooth, *SIZE))
    assert difference.max() < 1.6 / 255
    assert form.frame != SIZE or difference.max() == 0


def test_the_operators_are_those_that_every_runtime_has(exported):
    form, data, _ = exported
    if form.several:
        pytest.skip("engines are built for one image a run")
    model = onnx.load_from_string(data)
    for release in tensorrt_rules.RELEASES.values():
        assert [o for _, o in tensorrt_rules.of_model(model, release) if o.refused] == []


@pytest.mark.parametrize(
    ("old", "new"), [(97, 24), (24, 97), (30, 15), (7, 7), (5, 1), (1280, 224)]
)
def test_matrices_are_torchs_own_antialiased_resize(old, new):
    column = torch.rand(1, 3, old, 2, generator=torch.Generator().manual_seed(0))
    wanted = torch.nn.functional.interpolate(column, (new, 2), mode="bilinear", antialias=True)
    torch.testing.assert_close(rows_resized(column, new), wanted, rtol=0, atol=1e-5)
    assert np.allclose(np.sum(triangles(old, new), axis=1), 1)
