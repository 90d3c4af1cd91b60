"""On a real GPU: TensorRT agrees with ONNX Runtime, and its engine is kept and found again."""

import numpy as np
import pytest

from deepfusion_edge import erosion
from deepfusion_edge.bundle.store import install
from deepfusion_edge.config import AgentConfig, FolderSource, Model
from deepfusion_edge.line import load_line
from deepfusion_edge.runtime.choice import open_engine, span_of
from deepfusion_edge.runtime.engine_cache import EngineCache
from deepfusion_edge.runtime.ort import OrtSession

pytestmark = pytest.mark.gpu
NOW = "2026-06-01T00:00:00Z"


@pytest.fixture
def installed(make_bundle, keys, tmp_path):
    bundle = make_bundle(tmp_path / "line.dfb", members=8)
    return install(bundle, tmp_path / "state", [keys.public], now=NOW)


def test_tensorrt_agrees_with_onnx_runtime(installed, tmp_path):
    span = span_of(installed, members=None, policy=True)
    session = open_engine(installed, span, EngineCache(tmp_path / "engines"))
    reference = OrtSession(installed.model_bytes(), threads=1)
    sites = installed.manifest.erosion.sites
    for stream, members in enumerate((1, 8, 3, 8)):
        image = erosion.uniform(7, stream, 3 * 64).reshape(1, 3, 8, 8).astype(np.float32)
        factors = erosion.sample(sites, seed=1, stream=stream, members=members)
        found, wanted = session.run(image, factors), reference.run(image, factors)
        np.testing.assert_allclose(found.fused, wanted.fused, atol=1e-4)
        np.testing.assert_allclose(found.members, wanted.members, atol=1e-4)
        assert found.feature_variance == pytest.approx(wanted.feature_variance, rel=1e-2, abs=1e-6)


def test_the_engine_is_kept_and_found_again(installed, tmp_path, caplog):
    cache = EngineCache(tmp_path / "engines")
    span = span_of(installed, members=None, policy=True)
    with caplog.at_level("INFO"):
        open_engine(installed, span, cache)
    assert "building a TensorRT engine" in caplog.text
    caplog.clear()
    with caplog.at_level("INFO"):
        open_engine(installed, span, cache)
    assert caplog.text == ""


def test_the_agent_judges_on_the_gpu(installed, tmp_path):
    assert installed
    config = AgentConfig(
        state_dir=str(tmp_path / "state"),
        sources=(FolderSource(name="cam", path=str(tmp_path)),),
        model=Model(runtime="trt"),
    )
    line = load_line(config)
    assert line.session.provider.startswith("TensorRT")
    assert line.fallback is None
