"""``deepfusion-export engine``: the device's checks, then an engine, or a real parser's word."""

import json
import sys

import pytest

from deepfusion_edge.bundle import store
from deepfusion_edge.bundle.envelope import load_private_key
from deepfusion_edge.runtime import choice
from deepfusion_edge.runtime.choice import open_engine, span_of
from deepfusion_edge.runtime.engine import Span, build
from deepfusion_edge.runtime.engine_cache import EngineCache
from deepfusion_edge.runtime.trt import Libraries
from deepfusion_export import bundle
from deepfusion_export.cli import main
from tests.edge.fake_tensorrt import FakeGpu, fake_cuda, fake_tensorrt

DATES = {"created": "2026-01-31T12:00:00Z", "expires": "2036-01-31T12:00:00Z"}
NOW = "2026-06-01T00:00:00Z"
quiet = pytest.mark.filterwarnings("ignore:.*Timing cache:DeprecationWarning")


@pytest.fixture
def line(case, files, monkeypatch, tmp_path):
    """A bundle on the disk, from the case's graph, which was exported already."""
    monkeypatch.setattr(bundle, "to_onnx", lambda *_: case.graph)
    out = tmp_path / "line.dfb"
    keys = [load_private_key(files.key.read_bytes())]
    bundle.build([case.model], case.plan, keys=keys, id="line", sequence=1, out=out, **DATES)
    return out


def engine(line, files, *options):
    return main(["engine", str(line), "--trust", str(files.public), *map(str, options)])


@pytest.fixture
def fake(monkeypatch):
    gpu = FakeGpu()
    libraries = Libraries(fake_tensorrt(gpu), fake_cuda(gpu))
    monkeypatch.setattr(choice, "load_libraries", lambda: libraries)
    return gpu


@quiet
def test_real_graphs_are_taken_by_a_real_tensorrt(case):
    """Convolutions and tokens, with one and with many members."""
    rtx = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is for x86-64 alone")
    assert len(build(rtx, case.graph, Span(1, 4, 32)).engine) > 1000


@quiet
def test_check_needs_no_gpu_and_keeps_nothing(line, files, tmp_path, capsys):
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is for x86-64 alone")
    before = sorted(tmp_path.iterdir())
    assert engine(line, files, "--check", "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert said["library"].startswith("tensorrt_rtx ")
    assert (said["precision"], said["members"]) == ("fp32", "1..4, tuned for 4")
    assert sorted(tmp_path.iterdir()) == before


def test_an_engine_that_was_made_here_is_what_the_agent_finds(line, files, fake, tmp_path, capsys):
    assert engine(line, files, "--out", tmp_path / "engines", "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert said["provider"].startswith("TensorRT 10.3.0 on Orin")
    assert fake.builds == 1
    installed = store.install(line, tmp_path / "state", [files.public], now=NOW, probe=False)
    (tmp_path / "engines").rename(tmp_path / "state" / "engines")
    span = span_of(installed, members=None, policy=True)
    open_engine(installed, span, EngineCache(tmp_path / "state" / "engines"))
    assert fake.builds == 1


def test_what_cannot_be_built_is_one_line_with_its_code(line, files, tmp_path, capsys, monkeypatch):
    other = tmp_path / "other"
    assert main(["keygen", "--out", str(other)]) == 0
    capsys.readouterr()
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    stranger = type("Files", (), {"public": other.with_suffix(".pub")})
    cases = [
        (files, line, ["--out", tmp_path / "e"], 4, "TensorRT is not there"),
        (files, line, ["--check"], 4, "neither TensorRT nor tensorrt_rtx"),
        (stranger, line, ["--check"], 5, "sign"),
        (files, tmp_path / "none.dfb", ["--check"], 3, "none.dfb"),
        (files, line, [], 2, "--out"),
        (files, line, ["--check", "--members", "65"], 2, "--members"),
    ]
    for given, path, options, code, text in cases:
        assert engine(path, given, *options) == code
        last = capsys.readouterr().err.splitlines()[-1]
        assert last.startswith("error: ")
        assert text in last
    assert not (tmp_path / "e").exists()


@pytest.mark.usefixtures("fake")
def test_a_folder_that_cannot_be_written_is_a_storage_error(line, files, tmp_path, capsys):
    (tmp_path / "engines").write_text("a file")
    assert engine(line, files, "--out", tmp_path / "engines") == 8
    assert "cannot write" in capsys.readouterr().err
