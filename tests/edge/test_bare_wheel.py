"""The device's wheel in bare environments: no torch, no toolkit, on Python 3.10 to 3.13."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
RUNNING = f"{sys.version_info.major}.{sys.version_info.minor}"
VERSIONS = sorted({RUNNING, "3.10", "3.12", "3.13"})
LONG = {"3.11", "3.12"}
"""In between: left to the long tests."""
MOST_INSTALLED_MB = 220
UNREACHABLE = (
    "Failed to establish a new connection",
    "Temporary failure in name resolution",
    "Cannot connect to proxy",
    "Read timed out",
    "Network is unreachable",
)
PROBE = """
import importlib, json, pkgutil, sys
from importlib.util import find_spec
import deepfusion_edge
names = [m.name for m in pkgutil.walk_packages(deepfusion_edge.__path__, "deepfusion_edge.")]
for name in names:
    if not name.endswith("__main__"):
        importlib.import_module(name)
strangers = ("torch", "onnx", "onnxscript", "jinja2", "rich", "deepfusion_toolkit")
print(json.dumps({
    "python": "%d.%d" % sys.version_info[:2],
    "modules": names,
    "strangers": [name for name in strangers if find_spec(name)],
}))
"""


def run(*command: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if k not in {"PYTHONPATH", "VIRTUAL_ENV"}}
    words = [str(word) for word in command]
    return subprocess.run(words, cwd=cwd, env=clean, capture_output=True, text=True, check=False)


def interpreter(version: str) -> str | None:
    """Find a Python of this version that really runs (a pyenv shim may exist and refuse)."""
    candidates = [sys.executable if version == RUNNING else None, shutil.which(f"python{version}")]
    if shutil.which("pyenv"):
        prefix = run("pyenv", "prefix", version).stdout.strip()
        candidates.append(f"{prefix}/bin/python{version}" if prefix else None)
    question = "import sys, ensurepip, venv; print('%d.%d' % sys.version_info[:2])"
    for candidate in candidates:
        if candidate and Path(candidate).exists():
            answer = run(candidate, "-c", question)
            if answer.returncode == 0 and answer.stdout.strip() == version:
                return candidate
    return None


@pytest.fixture(scope="session")
def device_wheel(tmp_path_factory):
    into = tmp_path_factory.mktemp("wheel")
    script = "import sys; from hatchling.build import build_wheel; print(build_wheel(sys.argv[1]))"
    done = run(sys.executable, "-c", script, into, cwd=ROOT / "edge_agent")
    assert done.returncode == 0, done.stderr
    return into / done.stdout.split()[-1]


def versions():
    return [pytest.param(v, marks=[pytest.mark.long] if v in LONG else []) for v in VERSIONS]


@pytest.fixture(scope="session", params=versions())
def bare(request, device_wheel, tmp_path_factory):
    """Give the scripts folder of a virtual environment that holds the device's wheel alone."""
    python = interpreter(request.param)
    if python is None:
        pytest.skip(f"no Python {request.param} that runs was found on this machine")
    folder = tmp_path_factory.mktemp(f"bare-{request.param}") / "venv"
    made = run(python, "-m", "venv", folder)
    assert made.returncode == 0, made.stdout + made.stderr
    install = ["-m", "pip", "--disable-pip-version-check", "install", "-q", "--retries", "1"]
    if request.param == "3.10":
        # the last ONNX Runtime for it brings sympy, which nothing here imports: compiled, it would
        # be 20 MB too much, so the documents ask for this option there
        install.append("--no-compile")
    done = run(folder / "bin" / "python", *install, f"{device_wheel}[ort]")
    if done.returncode != 0 and any(sign in done.stderr for sign in UNREACHABLE):
        pytest.skip("pip cannot reach a package registry, so no bare environment can be filled")
    assert done.returncode == 0, done.stderr
    return folder / "bin"


@pytest.mark.slow
def test_every_module_imports_without_the_toolkits_packages(bare):
    done = run(bare / "python", "-I", "-c", PROBE)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["strangers"] == []
    assert found["python"] in VERSIONS
    assert "deepfusion_edge.cli" in found["modules"]


@pytest.mark.slow
def test_with_onnx_runtime_it_fits_on_a_device(bare):
    (site,) = bare.parent.glob("lib/python*/site-packages")
    files = [
        path
        for path in site.rglob("*")
        if path.is_file()
        and not path.is_symlink()
        and path.relative_to(site).parts[0].split("-")[0] not in {"pip", "setuptools"}
    ]
    megabytes = sum(path.stat().st_size for path in files) / 1e6
    assert 50 < megabytes <= MOST_INSTALLED_MB


@pytest.mark.slow
def test_init_writes_a_configuration_that_this_python_reads(bare, tmp_path):
    done = run(bare / "deepfusion-agent", "init", tmp_path / "line", "--json")
    assert done.returncode == 0, done.stderr
    files = json.loads(done.stdout)["files"]
    done = run(bare / "deepfusion-agent", "run", "--config", files[0])
    assert done.returncode == 3, done.stderr  # nothing is installed yet, but the file was read
    assert "no bundle installed" in done.stderr
    unit = next(Path(path) for path in files if path.endswith(".service")).read_text()
    assert f"ExecStart={bare / 'deepfusion-agent'} run --supervise" in unit


@pytest.mark.slow
def test_the_agent_says_its_version(bare):
    done = run(bare / "deepfusion-agent", "--version")
    assert done.returncode == 0, done.stderr
    assert (ROOT / "edge_agent" / "pyproject.toml").read_text().count(done.stdout.split()[-1]) == 1


@pytest.mark.slow
def test_a_bundle_is_installed_and_frames_reach_the_broker(
    bare, make_bundle, keys, broker, tmp_path
):
    bundle = make_bundle(tmp_path / "line.dfb")
    state, agent = tmp_path / "state", bare / "deepfusion-agent"
    done = run(agent, "install", bundle, "--trust", keys.public, "--state", state)
    assert done.returncode == 0, done.stderr
    frames = tmp_path / "frames"
    frames.mkdir()
    for name, colour in (("a.png", "red"), ("b.png", "blue")):
        Image.new("RGB", (8, 8), colour).save(frames / name)
    config = {
        "state_dir": str(state),
        "sources": [{"kind": "folder", "name": "camera", "path": str(frames)}],
        "mqtt": {"host": broker.host, "port": broker.port, "client_id": "bare"},
    }
    (tmp_path / "agent.json").write_text(json.dumps(config))
    done = run(agent, "run", "--config", tmp_path / "agent.json", "--json")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert (summary["frames"], summary["unreadable"], summary["kept"]) == (2, 0, 0)
    assert summary["sent"] >= 2
