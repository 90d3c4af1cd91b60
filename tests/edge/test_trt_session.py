"""TensorRT behind the protocol, on a fake GPU: buffers, shapes, contexts, and what goes wrong."""

import sys
import types

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from deepfusion_edge import erosion
from deepfusion_edge.errors import ModelError
from deepfusion_edge.runtime import trt
from deepfusion_edge.runtime.base import Session
from deepfusion_edge.runtime.engine import Span, build
from deepfusion_edge.runtime.ort import OrtSession
from deepfusion_edge.runtime.trt import Gpu, Libraries, TrtSession
from tests.edge.fake_tensorrt import FakeGpu, fake_cuda, fake_tensorrt

SPAN = Span(1, 2, 5)
SITES = [erosion.Site(name="a", kind="skip", channels=6, strength=0.5)]


@pytest.fixture
def model(toy):
    return toy(6, 4, (8, 8))


@pytest.fixture
def image():
    return erosion.uniform(1, 0, 3 * 64).reshape(1, 3, 8, 8).astype(np.float32)


def factors_of(members, stream=0):
    return erosion.sample(SITES, seed=3, stream=stream, members=members)


def load(model, fake=None, library=None, span=SPAN):
    fake = fake or FakeGpu()
    library = library or fake_tensorrt(fake)
    libraries = Libraries(library, fake_cuda(fake))
    gpu = Gpu(libraries.cuda)
    with gpu.current():
        built = build(libraries.trt, model.SerializeToString(), span)
    return TrtSession(built.engine, libraries=libraries, gpu=gpu)


def test_it_computes_what_onnx_runtime_computes_for_every_k(model, image):
    session: Session = load(model)
    reference = OrtSession(model.SerializeToString(), threads=1)
    for stream, members in enumerate((5, 1, 3, 2, 5, 1)):
        factors = factors_of(members, stream)
        found, wanted = session.run(image, factors), reference.run(image, factors)
        np.testing.assert_array_equal(found.fused, wanted.fused)
        np.testing.assert_array_equal(found.members, wanted.members)
        assert found.feature_variance == wanted.feature_variance


def test_outputs_are_copies_that_the_next_frame_does_not_change(model, image):
    session = load(model)
    first = session.run(image, factors_of(3))
    before = first.members.copy()
    session.run(image[:, :, ::-1] / 2, factors_of(3, stream=9))
    np.testing.assert_array_equal(first.members, before)


def test_frames_that_are_views_of_something_else_are_copied_right(model, image):
    session = load(model)
    wide = np.asfortranarray(np.repeat(factors_of(4), 2, axis=0))[::2]
    mirrored = image[:, :, :, ::-1]
    assert not wide.flags.c_contiguous
    wanted = OrtSession(model.SerializeToString()).run(mirrored, wide)
    np.testing.assert_array_equal(session.run(mirrored, wide).members, wanted.members)


def test_no_context_is_left_current(model, image):
    fake = FakeGpu()
    session = load(model, fake)
    assert fake.current == []
    session.run(image, factors_of(2))
    with pytest.raises(ModelError):
        session.run(image, factors_of(6))
    assert fake.current == []
    assert fake.pushes == 3


def test_the_provider_names_version_and_gpu(model):
    assert load(model).provider == "TensorRT 10.3.0 on Orin (compute capability 8.7)"


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda i, f: (i[:, :, 1:], f), r"image is float32 \(1, 3, 7, 8\)"),
        (lambda i, f: (i.astype(np.float64), f), "image is float64"),
        (lambda i, f: (i, f[:, 1:]), r"factors are float32 \(2, 5\), not float32 \[1..5, 6\]"),
        (lambda i, f: (i, f[0]), r"factors are float32 \(6,\)"),
        (lambda i, f: (i, f[:0]), r"factors are float32 \(0, 6\)"),
        (lambda i, f: (i, f.astype(np.float16)), "factors are float16"),
        (lambda i, f: (i, np.repeat(f, 3, axis=0)), r"\(6, 6\), not float32 \[1..5, 6\]"),
    ],
)
def test_shapes_that_do_not_fit_never_reach_the_gpu(model, image, change, text):
    session = load(model)
    with pytest.raises(ModelError, match=text):
        session.run(*change(image, factors_of(2)))


def test_a_gpu_that_fails_is_a_model_error(model, image, monkeypatch):
    session = load(model)

    def lost(*_args):
        raise RuntimeError("an illegal memory access\nwas encountered")

    monkeypatch.setattr(type(session._stream), "synchronize", lost)
    with pytest.raises(ModelError, match="does not run: an illegal memory access was"):
        session.run(image, factors_of(2))
    monkeypatch.setattr(session._context, "execute_async_v3", lambda _handle: False)
    with pytest.raises(ModelError, match="does not run: no reason was given"):
        session.run(image, factors_of(2))


def test_nan_is_found(model, image):
    with pytest.raises(ModelError, match="not a finite number"):
        load(model).run(image, np.full((2, 6), np.nan, np.float32))


def test_an_engine_from_elsewhere_is_refused(model):
    engine = load(model, FakeGpu())
    assert engine
    here = FakeGpu()
    libraries = Libraries(fake_tensorrt(here), fake_cuda(here))
    gpu = Gpu(libraries.cuda)
    there = FakeGpu(name="Xavier")
    with Gpu(fake_cuda(there)).current():
        foreign = build(fake_tensorrt(there), model.SerializeToString(), SPAN).engine
    for data in (b"", b"garbage", foreign):
        with pytest.raises(ModelError, match=r"does not load the engine: .*version mismatch"):
            TrtSession(data, libraries=libraries, gpu=gpu)


def test_an_engine_of_other_types_is_refused(model):
    def halved(data):
        changed = onnx.load_from_string(data)
        changed.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT16
        last = changed.graph.node[5]
        last.output[0] = "wide"
        cast = onnx.helper.make_node("Cast", ["wide"], ["fused"], to=TensorProto.FLOAT16)
        changed.graph.node.append(cast)
        return changed.SerializeToString()

    fake = FakeGpu()
    with pytest.raises(ModelError, match="fused of the engine are not float32"):
        load(model, fake, fake_tensorrt(fake, engine_of=halved))


def framed(model):
    """The toy behind what makes RGB in [0, 1] of 8-bit frames."""
    graph, helper = model.graph, onnx.helper
    graph.input[0].CopyFrom(helper.make_tensor_value_info("image", TensorProto.UINT8, (1, 8, 8, 3)))
    graph.node[0].input[0] = "scaled"
    before = [
        helper.make_node("Cast", ["image"], ["wide"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["wide"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Div", ["planes", "most"], ["scaled"]),
    ]
    graph.initializer.append(onnx.numpy_helper.from_array(np.float32(255), "most"))
    nodes = [*before, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    return model


def test_frames_of_8_bits_go_to_the_gpu_as_they_are(model):
    session = load(framed(model))
    reference = OrtSession(model.SerializeToString(), threads=1)
    frame = (256 * erosion.uniform(2, 0, 192)).astype(np.uint8).reshape(1, 8, 8, 3)
    for members in (5, 2):
        found = session.run(frame, factors_of(members))
        np.testing.assert_array_equal(
            found.members, reference.run(frame, factors_of(members)).members
        )
    for wrong in (frame.astype(np.float32), frame[:, 1:]):
        with pytest.raises(ModelError, match=r"not uint8 \(1, 8, 8, 3\)"):
            session.run(wrong, factors_of(2))


def test_a_graph_for_several_images_has_no_engine(model):
    value = onnx.helper.make_tensor_value_info("factors", TensorProto.FLOAT, ("N", "K", 6))
    model.graph.input[1].CopyFrom(value)
    with pytest.raises(ModelError, match=r"several images a run.*without --images"):
        load(model)


def test_a_graph_of_other_names_is_refused(model):
    renamed = onnx.ModelProto()
    renamed.CopyFrom(model)
    for node in renamed.graph.node:
        for names in (node.input, node.output):
            names[:] = ["pixels" if name == "image" else name for name in names]
    renamed.graph.input[0].name = "pixels"
    with pytest.raises(ModelError, match="inputs are factors, pixels, not image, factors"):
        load(renamed)


def test_a_graph_that_is_not_taken_is_refused_with_the_parsers_reason(model):
    model.graph.node[4].op_type = "Softmaxx"
    with pytest.raises(ModelError, match=r"does not take the graph: .*: cannot parse") as caught:
        load(model)
    assert "\n" not in str(caught.value)


def test_a_build_that_fails_says_why(model):
    fake = FakeGpu()
    with pytest.raises(ModelError, match="does not build the engine: out of memory"):
        load(model, fake, fake_tensorrt(fake, refuse="out of\nmemory"))
    with pytest.raises(ModelError, match="inconsistent with other shapes"):
        load(model, span=Span(4, 2, 5))


def test_a_machine_without_a_gpu_says_so():
    with pytest.raises(ModelError, match="no GPU can be used: cuInit failed"):
        Gpu(fake_cuda(None))


@pytest.mark.parametrize(
    ("missing", "text"), [("tensorrt", "TensorRT is not there"), ("pycuda", "PyCUDA is not there")]
)
def test_missing_libraries_are_named_with_a_remedy(monkeypatch, missing, text):
    for name in ("tensorrt", "pycuda", "pycuda.driver"):
        there = None if name.startswith(missing) else types.ModuleType(name)
        monkeypatch.setitem(sys.modules, name, there)
    with pytest.raises(ModelError, match=f"{text} .*pycuda"):
        trt.load_libraries()
