"""Which runtime judges, and that no engine judges that was not built for exactly this."""

import logging
import re
import sys
import threading
from dataclasses import replace

import msgspec
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from deepfusion_edge import erosion
from deepfusion_edge.agent import run_agent
from deepfusion_edge.bundle.store import install
from deepfusion_edge.config import AgentConfig, FolderSource, Model, Mqtt, Run
from deepfusion_edge.errors import ModelError, UnreachableError
from deepfusion_edge.fusion import Threshold, Thresholds
from deepfusion_edge.line import load_line
from deepfusion_edge.outbox import Outbox
from deepfusion_edge.policy import Policy, Trend, Usual
from deepfusion_edge.report.payload import Alert
from deepfusion_edge.runtime import choice
from deepfusion_edge.runtime.choice import open_engine, open_session, span_of
from deepfusion_edge.runtime.engine import Span
from deepfusion_edge.runtime.engine_cache import EngineCache
from deepfusion_edge.runtime.trt import Libraries
from tests.edge.fake_tensorrt import FakeGpu, fake_cuda, fake_tensorrt

NOW = "2026-06-01T00:00:00Z"
SPAN = Span(1, 4, 4)


@pytest.fixture
def state(tmp_path):
    return tmp_path / "state"


@pytest.fixture
def installed(make_bundle, keys, tmp_path, state):
    bundle = make_bundle(tmp_path / "line.dfb")
    return install(bundle, state, [keys.public], now=NOW, probe=False)


@pytest.fixture
def cache(state):
    return EngineCache(state / "engines")


@pytest.fixture
def fake():
    return FakeGpu()


def machine(fake, version="10.3.0", **settings):
    return Libraries(fake_tensorrt(fake, version, **settings), fake_cuda(fake))


def engine_file(cache):
    (path,) = cache.folder.glob("*.engine")
    return path


def test_an_engine_is_built_once_and_answers_as_it_did(installed, cache, fake):
    image = np.full((1, 3, 8, 8), 0.5, np.float32)
    factors = erosion.sample(installed.manifest.erosion.sites, seed=1, stream=2, members=3)
    first = open_engine(installed, SPAN, cache, machine(fake)).run(image, factors)
    again = open_engine(installed, SPAN, cache, machine(fake)).run(image, factors)
    np.testing.assert_array_equal(first.members, again.members)
    assert fake.builds == 1
    assert engine_file(cache).stem == installed.bundle_hash[:16]
    assert cache.folder.stat().st_mode & 0o777 == 0o700
    assert engine_file(cache).stat().st_mode & 0o777 == 0o600


def other_bundle(installed):
    return replace(installed, bundle_hash=installed.bundle_hash[:16] + "0" * 48)


def other_precision(installed):
    return replace(
        installed, manifest=msgspec.structs.replace(installed.manifest, precision="fp16")
    )


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"version": "10.4.0"}, "tensorrt was '10.3.0', is '10.4.0'"),
        ({"fake": FakeGpu(name="Thor")}, "gpu was 'Orin"),
        ({"fake": FakeGpu(capability=(8, 6))}, r"8.7\)', is 'Orin \(compute capability 8.6\)'"),
        ({"span": Span(1, 2, 4)}, "members was '1..4, tuned for 4', is '1..4, tuned for 2'"),
        ({"span": Span(1, 4, 8)}, "members was"),
        ({"installed": other_bundle}, "bundle was"),
        ({"installed": other_precision}, "precision was 'fp32', is 'fp16'"),
    ],
)
def test_a_stale_engine_is_built_again_and_says_why(installed, cache, fake, caplog, change, why):
    open_engine(installed, SPAN, cache, machine(fake))
    there = change.get("fake", fake)
    before = there.builds
    bundle = change.get("installed", lambda same: same)(installed)
    version = change.get("version", "10.3.0")
    for _ in range(2):
        open_engine(bundle, change.get("span", SPAN), cache, machine(there, version))
    assert there.builds == before + 1
    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert any(re.search(why, text) for text in warnings), warnings


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1],
        lambda data: data[:-1] + bytes([data[-1] ^ 1]),
        lambda data: data.partition(b"\n")[2],
        lambda _: b"",
        lambda _: b"[" * 100_000,
        lambda data: b"{}" + data[data.index(b"\n") :],
    ],
)
def test_a_damaged_engine_is_built_again(installed, cache, fake, caplog, damage):
    open_engine(installed, SPAN, cache, machine(fake))
    path = engine_file(cache)
    path.write_bytes(damage(path.read_bytes()))
    open_engine(installed, SPAN, cache, machine(fake))
    assert fake.builds == 2
    assert "it is damaged" in caplog.text


def test_an_engine_that_others_may_write_is_built_again(installed, cache, fake, caplog):
    open_engine(installed, SPAN, cache, machine(fake))
    engine_file(cache).chmod(0o660)
    open_engine(installed, SPAN, cache, machine(fake))
    assert fake.builds == 2
    assert "another user may have written it" in caplog.text


def wrong(data):
    """Compute something else: the last class always wins."""
    model = onnx.load_from_string(data)
    for tensor in model.graph.initializer:
        if tensor.name == "head":
            values = numpy_helper.to_array(tensor)[:, ::-1]
            tensor.CopyFrom(numpy_helper.from_array(values.copy(), "head"))
    return model.SerializeToString()


def test_an_engine_that_fails_the_golden_probe_never_judges(installed, cache, fake, caplog):
    with pytest.raises(ModelError, match="golden probe: fused probabilities differ"):
        open_engine(installed, SPAN, cache, machine(fake, engine_of=wrong))
    assert not cache.folder.exists()
    stamp = {}
    keep = cache.keep_engine
    cache.keep_engine = lambda wanted, content: (stamp.update(wanted), keep(wanted, content))
    open_engine(installed, SPAN, cache, machine(fake))
    head, model = engine_file(cache).read_bytes().split(b"\n", 1)[1].split(b"\n", 2)[1:]
    forged = b"fake engine\n" + head + b"\n" + wrong(model)
    keep(stamp, forged)
    before = fake.builds
    open_engine(installed, SPAN, cache, machine(fake))
    assert fake.builds == before + 1
    assert "the kept engine is not used: golden probe" in caplog.text


def test_the_tolerance_of_the_probe_is_the_manifests(installed, cache, fake):
    """A graph that rounds more passes only where the signed manifest says that it may."""

    def rounded(data):
        model = onnx.load_from_string(data)
        for tensor in model.graph.initializer:
            if tensor.name == "head":
                values = numpy_helper.to_array(tensor) * np.float32(1.02)
                tensor.CopyFrom(numpy_helper.from_array(values, "head"))
        return model.SerializeToString()

    with pytest.raises(ModelError, match=r"golden probe.*tolerance 0.0001"):
        open_engine(installed, SPAN, cache, machine(fake, engine_of=rounded))
    manifest = msgspec.structs.replace(installed.manifest, tolerance=0.05)
    open_engine(
        replace(installed, manifest=manifest), SPAN, cache, machine(fake, engine_of=rounded)
    )


def test_the_timing_cache_is_kept_for_this_version_and_gpu_alone(installed, cache, fake):
    sizes = []
    for version, span in (("10.3.0", SPAN), ("10.3.0", Span(1, 2, 4)), ("10.4.0", SPAN)):
        open_engine(installed, span, cache, machine(fake, version))
        content = (cache.folder / "timing.cache").read_bytes().partition(b"\n")[2]
        sizes.append(len(content) // len(b"timed"))
    assert sizes == [1, 2, 1]


def test_a_timing_cache_that_tensorrt_refuses_is_begun_anew(installed, cache, fake):
    stamp = {"tensorrt": "10.3.0", "gpu": "Orin (compute capability 8.7)"}
    cache.keep_timing(stamp, b"of another builder")
    open_engine(installed, SPAN, cache, machine(fake))
    assert cache.timing(stamp) == b"timed"


def test_a_folder_that_cannot_be_written_costs_a_build_not_the_run(installed, state, fake, caplog):
    (state / "engines").write_text("a file where the folder should be")
    cache = EngineCache(state / "engines")
    for _ in range(2):
        open_engine(installed, SPAN, cache, machine(fake))
    assert fake.builds == 2
    assert "is not kept" in caplog.text


def test_the_span_is_what_the_agent_will_run(make_bundle, keys, tmp_path):
    never = Threshold(None, None)
    limits = Thresholds(never, never, 0.01, 1000)
    policy = Policy(2, limits, Usual(0.1, 0.2), Usual(0.1, 0.2), Trend(0.1, 0.5, 0.2))
    bundle = make_bundle(tmp_path / "p.dfb", members=6, thresholds=limits, policy=policy)
    found = install(bundle, tmp_path / "other", [keys.public], now=NOW, probe=False)
    assert span_of(found, members=None, policy=True) == (1, 2, 6)
    assert span_of(found, members=None, policy=False) == (1, 6, 6)
    assert span_of(found, members=8, policy=True) == (1, 8, 8)
    assert span_of(found, members=3, policy=True) == (1, 3, 4)  # the golden probe runs four


@pytest.fixture
def on_gpu(monkeypatch, fake):
    monkeypatch.setattr(choice, "load_libraries", lambda: machine(fake))


@pytest.fixture
def no_tensorrt(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)


@pytest.mark.usefixtures("on_gpu")
def test_on_a_gpu_trt_and_auto_use_it_and_ort_does_not(installed, state, fake):
    for runtime in ("trt", "auto"):
        opened = open_session(installed, runtime, SPAN, state / "engines")
        assert opened.session.provider.startswith("TensorRT 10.3.0 on Orin")
        assert opened.fallback is None
    before = fake.builds
    opened = open_session(installed, "ort", SPAN, state / "engines")
    assert (opened.session.provider, opened.fallback) == ("CPUExecutionProvider", None)
    assert fake.builds == before


@pytest.mark.usefixtures("no_tensorrt")
def test_without_tensorrt_trt_refuses_and_auto_says_that_it_fell_back(installed, state):
    with pytest.raises(ModelError, match="TensorRT is not there"):
        open_session(installed, "trt", SPAN, state / "engines")
    opened = open_session(installed, "auto", SPAN, state / "engines")
    assert opened.session.provider == "CPUExecutionProvider"
    assert opened.fallback.startswith("not on the GPU: TensorRT is not there")


@pytest.mark.usefixtures("on_gpu")
def test_engines_of_bundles_that_are_gone_are_removed(
    installed, make_bundle, tmp_path, state, cache
):
    open_session(installed, "trt", SPAN, cache.folder)
    names = {installed.bundle_hash[:16]}
    for sequence in (2, 3):
        bundle = make_bundle(tmp_path / f"{sequence}.dfb", sequence=sequence)
        newer = install(bundle, state, [], now=NOW, probe=False)
        open_session(newer, "trt", SPAN, cache.folder)
        names.add(newer.bundle_hash[:16])
    kept = {path.stem for path in cache.folder.glob("*.engine")}
    assert kept == names - {installed.bundle_hash[:16]}


def configured(state, frames, runtime):
    return AgentConfig(
        state_dir=str(state),
        sources=(FolderSource(name="cam", path=str(frames)),),
        mqtt=Mqtt(port=1),
        model=Model(runtime=runtime),
        run=Run(drain_timeout_s=0.0),
    )


def alerts(state):
    with Outbox(state, max_events=10**6, max_bytes=2**30, ttl_s=None) as box:
        kept = box.peek(100)
    return [msgspec.json.decode(e.body, type=Alert) for e in kept if e.channel == "alert"]


@pytest.mark.usefixtures("no_tensorrt")
@pytest.mark.parametrize(("runtime", "kind"), [("auto", "runtime"), ("trt", "bundle")])
def test_subscribers_hear_that_the_gpu_is_not_used(installed, state, tmp_path, runtime, kind):
    from PIL import Image

    assert installed
    frames = tmp_path / "frames"
    frames.mkdir()
    Image.new("RGB", (8, 8)).save(frames / "a.png")
    wanted = ModelError if runtime == "trt" else UnreachableError
    with pytest.raises(wanted):
        run_agent(configured(state, frames, runtime), stop=threading.Event())
    (alert,) = alerts(state)
    assert alert.kind == kind
    assert "TensorRT is not there" in alert.reason


@pytest.mark.usefixtures("on_gpu")
def test_the_agent_loads_the_engine_that_its_configuration_asks_for(installed, state, tmp_path):
    line = load_line(configured(state, tmp_path, "trt"))
    assert line.session.provider.startswith("TensorRT")
    assert line.digest == installed.bundle_hash
    assert [p.name for p in (state / "engines").glob("*.engine")] == [
        f"{installed.bundle_hash[:16]}.engine"
    ]
