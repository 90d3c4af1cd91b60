"""Who may import whom: what import-linter cannot say, and that each of its contracts bites."""

import ast
import os
import shutil
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EDGE = ROOT / "edge_agent" / "deepfusion_edge"
CODE = {
    "deepfusion_edge": EDGE,
    "deepfusion_toolkit": ROOT / "toolkit" / "deepfusion_toolkit",
    "deepfusion_export": ROOT / "export" / "deepfusion_export",
    "benchmarks": ROOT / "benchmarks",
}

PURE = (
    "bundle/envelope.py",
    "bundle/manifest.py",
    "bundle/probation.py",
    "bundle/verify.py",
    "commands/gate.py",
    "commands/message.py",
    "commands/status.py",
    "config.py",
    "config_commands.py",
    "config_source.py",
    "erosion.py",
    "errors.py",
    "fusion.py",
    "health/checks.py",
    "image.py",
    "policy.py",
    "report/messages.py",
    "report/device.py",
    "report/payload.py",
    "report/home_assistant.py",
    "report/profile.py",
    "report/sparkplug.py",
    "sparkplug/node.py",
    "sparkplug/payload.py",
    "sparkplug/wire.py",
    "source/wire.py",
    "topics.py",
)
IMPURE_MODULES = {
    "asyncio",
    "http",
    "multiprocessing",
    "os",
    "random",
    "secrets",
    "select",
    "signal",
    "socket",
    "sqlite3",
    "ssl",
    "subprocess",
    "tempfile",
    "threading",
    "time",
    "urllib",
    "uuid",
}
IMPURE_CALLS = {"now", "utcnow", "today", "open_code", "read_bytes", "read_text"}

HOMES = {
    "cv2": "source/reader.py",
    "PIL": "image.py",
    "cryptography": "bundle/*.py",
    "msgspec": "*",
    "numpy": "*",
    "onnxruntime": "runtime/ort.py",
    "paho": "report/mqtt.py",
    "prometheus_client": "health/metrics.py",
    "pycuda": "runtime/trt.py",
    "tensorrt": "runtime/trt.py",
    "tensorrt_rtx": "runtime/trt.py",
}
IMPORT_NAMES = {
    "adversarial-robustness-toolbox": "art",
    "opencv-python-headless": "cv2",
    "paho-mqtt": "paho",
    "pillow": "PIL",
    "scikit-image": "skimage",
}


def imports(source: str) -> set[str]:
    """Top-level names of everything that is imported, in functions too."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add(str(node.module).split(".")[0])
    return found


def impurities(source: str) -> set[str]:
    found = imports(source) & IMPURE_MODULES
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Name) and node.func.id in {"open", "input", "print"}:
                found.add(node.func.id)
            elif isinstance(node.func, ast.Attribute) and node.func.attr in IMPURE_CALLS:
                found.add(node.func.attr)
    return found


def away_from_home(relative: str, source: str) -> set[str]:
    """Third-party packages that this file of the device must not import."""
    foreign = imports(source) - sys.stdlib_module_names - {"deepfusion_edge"}
    return {name for name in foreign if not fnmatch(relative, HOMES.get(name, "nowhere"))}


@pytest.mark.parametrize("relative", PURE)
def test_pure_modules_take_time_and_bytes_as_arguments(relative):
    assert impurities((EDGE / relative).read_text()) == set()


@pytest.mark.parametrize(
    "line",
    [
        "import time",
        "from os import environ",
        "def f():\n    import socket",
        "import urllib.request",
        "from datetime import datetime\nNOW = datetime.now()",
        "SECRET = open('key').read()",
        "from pathlib import Path\nTEXT = Path('a').read_text()",
    ],
)
def test_an_impure_line_is_seen(line):
    assert impurities((EDGE / "fusion.py").read_text() + line)


@pytest.mark.parametrize("path", sorted(EDGE.rglob("*.py")), ids=lambda p: str(p.relative_to(EDGE)))
def test_third_party_packages_stay_at_home(path):
    assert away_from_home(path.relative_to(EDGE).as_posix(), path.read_text()) == set()


@pytest.mark.parametrize(
    "package",
    ["cv2", "onnxruntime", "paho.mqtt.client", "pycuda.driver", "requests", "tensorrt", "torch"],
)
def test_a_stray_package_is_seen(package):
    source = (EDGE / "runtime" / "base.py").read_text() + f"def f():\n    import {package}\n"
    assert away_from_home("runtime/base.py", source) == {package.split(".")[0]}


def test_only_the_agent_starts_threads():
    starters = {
        path.relative_to(EDGE).as_posix()
        for path in EDGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("Thread", "Worker"))
    }
    assert starters <= {"agent.py", "worker.py"}


@pytest.mark.parametrize("package", ["deepfusion_toolkit", "deepfusion_export", "benchmarks"])
def test_imported_packages_are_declared(package):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    chosen = [extras[name] for name in ("zoo", "timm", "demo", "baselines", "ray", "prove")]
    lines = sum(chosen, project["dependencies"])
    names = [line.split(">")[0].split("=")[0].strip() for line in lines]
    declared = {IMPORT_NAMES.get(name, name.replace("-", "_")) for name in names}
    used = set().union(*(imports(path.read_text()) for path in CODE[package].rglob("*.py")))
    assert used - sys.stdlib_module_names - set(CODE) <= declared


def test_nobody_imports_tests():
    for folder in CODE.values():
        for path in folder.rglob("*.py"):
            assert not imports(path.read_text()) & {"tests", "conftest", "pytest"}, path


def test_every_module_of_the_device_has_a_layer():
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    lines = next(c["layers"] for c in contracts["contracts"] if c["id"] == "edge-layers")
    layers = {name.strip(" ()") for line in lines for name in line.split(":")}
    for path in EDGE.rglob("*.py"):
        if path.name not in {"__init__.py", "__main__.py"}:
            name = ".".join(path.relative_to(EDGE).with_suffix("").parts)
            assert any(name == layer or name.startswith(f"{layer}.") for layer in layers), name


@pytest.mark.parametrize("package", ["deepfusion_toolkit", "deepfusion_export", "deepfusion_edge"])
def test_help_loads_nothing_heavy(package):
    script = (
        f"import sys, {package}.cli as cli; cli.build_parser().format_help(); "
        "print(*{'art', 'onnx', 'onnxruntime', 'paho', 'pyautoattack', 'ray', 'timm', 'torch'}"
        " & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []


def lint_copy(folder: Path, contract: str, file: str = "", line: str = "") -> tuple[int, str]:
    """Run one contract on a copy of the packages with a line added to one file."""
    for name, source in CODE.items():
        parent = folder / source.relative_to(ROOT).parent
        shutil.copytree(source, parent / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    if file:
        with (folder / file).open("a") as stream:
            stream.write(f"\n{line}\n")
    done = subprocess.run(
        [
            *(
                sys.executable,
                "-c",
                "from importlinter.cli import lint_imports_command as run; run()",
            ),
            *("--no-logo", "--no-cache", "--contract", contract),
        ],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(["toolkit", "export", "edge_agent", "."])},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


EDGE_AT = "edge_agent/deepfusion_edge"


@pytest.mark.parametrize(
    ("contract", "file", "line"),
    [
        ("edge-alone", f"{EDGE_AT}/errors.py", "import torch"),
        ("edge-alone", f"{EDGE_AT}/cli.py", "import deepfusion_toolkit"),
        (
            "nobody-imports-benchmarks",
            "toolkit/deepfusion_toolkit/__init__.py",
            "import benchmarks",
        ),
        ("toolkit-below-export", "toolkit/deepfusion_toolkit/cli.py", "import deepfusion_export"),
        (
            "toolkit-uses-edge",
            "toolkit/deepfusion_toolkit/cli.py",
            "from deepfusion_edge.bundle import manifest",
        ),
        ("export-uses-edge", "export/deepfusion_export/cli.py", "import deepfusion_edge.agent"),
        ("edge-layers", f"{EDGE_AT}/errors.py", "import deepfusion_edge.fusion"),
        ("edge-layers", f"{EDGE_AT}/fusion.py", "import deepfusion_edge.runtime.base"),
        ("edge-layers", f"{EDGE_AT}/runtime/base.py", "import deepfusion_edge.agent"),
        ("one-home-each", f"{EDGE_AT}/runtime/base.py", "import onnxruntime"),
        ("one-home-each", f"{EDGE_AT}/agent.py", "import paho.mqtt.client"),
        ("one-home-each", f"{EDGE_AT}/source/camera.py", "import cv2"),
        ("one-home-each", f"{EDGE_AT}/runtime/engine.py", "import tensorrt"),
        ("one-home-each", f"{EDGE_AT}/runtime/choice.py", "import pycuda.driver"),
        ("one-home-each", f"{EDGE_AT}/agent.py", "import prometheus_client"),
        (
            "baselines-one-home-each",
            "toolkit/deepfusion_toolkit/attacks/carlini_wagner.py",
            "from art.attacks import evasion",
        ),
        (
            "baselines-one-home-each",
            "toolkit/deepfusion_toolkit/attacks/auto_attack.py",
            "import pyautoattack",
        ),
        ("baselines-one-home-each", "benchmarks/__init__.py", "import foolbox"),
        ("ray-one-home", "toolkit/deepfusion_toolkit/engines/processes.py", "import ray"),
    ],
)
def test_each_contract_bites(tmp_path, contract, file, line):
    (tmp_path / "clean").mkdir()
    code, output = lint_copy(tmp_path / "clean", contract)
    assert code == 0, output
    (tmp_path / "broken").mkdir()
    code, output = lint_copy(tmp_path / "broken", contract, file, line)
    assert code == 1
    assert "BROKEN" in output
