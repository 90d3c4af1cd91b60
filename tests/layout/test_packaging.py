"""The two distributions agree, and the files keep the house rules."""

import re
import subprocess
import sys
import tomllib
import zipfile
from itertools import chain
from pathlib import Path

import pytest

import deepfusion_edge

ROOT = Path(__file__).parents[2]
TOOLKIT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EDGE = tomllib.loads((ROOT / "edge_agent" / "pyproject.toml").read_text())["project"]

MAX_LINES = 500
FOLDERS = ("toolkit", "export", "edge_agent", "benchmarks", "tests", "docs", ".ci")
TOP = (
    "Makefile",
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "pyproject.toml",
    "hatch_build.py",
)
SUFFIXES = {".py", ".md", ".toml", ".html", ".json", ".j2", ".css", ".js", ".sh", ""}
FORBIDDEN = {
    "a path of somebody's machine": re.compile(
        r"(?<![\w.])/(?:ho[m]e|ro[o]t|Use[r]s|wo[r]k|op[t])/"
    ),
    "a package index": re.compile(r"(?:ind[e]x|extra-ind[e]x|find)-(?:url|links)|/sim[p]le/"),
    "unfinished work": re.compile(r"\b(?:TO[D]O|FIX[M]E|XX[X])\b"),
}


def texts() -> list[Path]:
    found = [ROOT / name for name in TOP]
    for folder in FOLDERS:
        found += [
            path
            for path in (ROOT / folder).rglob("*")
            if path.is_file() and path.suffix in SUFFIXES and "__pycache__" not in path.parts
        ]
    return found


def offences(text: str) -> set[str]:
    return {name for name, pattern in FORBIDDEN.items() if pattern.search(text)}


def build(folder: Path, call: str, into: Path) -> dict[str, str]:
    """Build one wheel with hatchling; return its text files by name."""
    script = f"import sys; from hatchling.build import {call}; print({call}(sys.argv[1]))"
    command = [sys.executable, "-c", script, str(into)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    with zipfile.ZipFile(into / done.stdout.split()[-1]) as wheel:
        return {
            name: wheel.read(name).decode() if name.endswith(("METADATA", "LICENSE")) else ""
            for name in wheel.namelist()
        }


def requirements(files: dict[str, str]) -> list[str]:
    metadata = next(text for name, text in files.items() if name.endswith("METADATA"))
    return [line.split(": ", 1)[1] for line in metadata.splitlines() if "Requires-Dist" in line]


def test_the_toolkit_repeats_the_agents_requirements():
    ort = EDGE["optional-dependencies"]["ort"]
    assert set(EDGE["dependencies"] + ort) <= set(TOOLKIT["dependencies"])


def test_one_version_everywhere():
    assert TOOLKIT["version"] == EDGE["version"]
    assert deepfusion_edge.__version__ == TOOLKIT["version"]
    assert f"## [{TOOLKIT['version']}]" in (ROOT / "CHANGELOG.md").read_text()


def test_both_licences_are_the_same_text():
    licence = (ROOT / "LICENSE").read_text()
    assert "Apache License" in licence
    assert (ROOT / "edge_agent" / "LICENSE").read_text() == licence


def test_a_real_toolkit_wheel_holds_two_packages_and_needs_the_agent(tmp_path):
    files = build(ROOT, "build_wheel", tmp_path)
    top = {name.split("/")[0] for name in files if ".dist-info/" not in name}
    assert top == {"deepfusion_toolkit", "deepfusion_export"}
    assert f"deepfusion-edge=={TOOLKIT['version']}" in requirements(files)
    assert not [name for name in files if name.endswith((".pt2", ".pth", ".onnx", ".pem"))]


def test_an_editable_toolkit_does_not_ask_for_the_agents_wheel(tmp_path):
    needs = requirements(build(ROOT, "build_editable", tmp_path))
    assert "numpy>=1.26" in needs
    assert not [line for line in needs if line.startswith("deepfusion-edge")]


def test_the_agents_wheel_holds_one_package_and_its_licence(tmp_path):
    files = build(ROOT / "edge_agent", "build_wheel", tmp_path)
    assert {name.split("/")[0] for name in files if ".dist-info/" not in name} == {
        "deepfusion_edge"
    }
    assert "deepfusion_edge/py.typed" in files
    assert "deepfusion_edge/report/schema/decision.v1.json" in files
    assert any("Apache License" in text for text in files.values())


def test_every_pin_is_exact_and_torch_is_the_one_with_a_cpu_build():
    lines = [
        line
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9_.-]+==[\w.]+", line)] == []
    assert "torch==2.13.0" in lines
    pinned = {line.split("==")[0].lower().replace("_", "-") for line in lines}
    wanted = list(chain(TOOLKIT["dependencies"], *TOOLKIT["optional-dependencies"].values()))
    assert {re.split(r"[>=<]", line)[0].strip() for line in wanted} <= pinned


@pytest.mark.parametrize("path", texts(), ids=lambda path: str(path.relative_to(ROOT)))
def test_house_rules(path):
    text = path.read_text()
    assert len(text.splitlines()) <= MAX_LINES
    assert offences(text) == set()


@pytest.mark.parametrize(
    ("line", "offence"),
    [
        ("open('/ho{}me/someone/x')", "a path of somebody's machine"),
        ("pip install --ind{}ex-url x", "a package index"),
        ("# TO{}DO: later", "unfinished work"),
    ],
)
def test_a_broken_house_rule_is_seen(line, offence):
    assert offences(line.replace("{}", "")) == {offence}
    assert offences("see /usr/sbin/mosquitto, {root}/data and framework/") == set()


def test_ci_runs_make_test_and_nothing_else():
    script = ROOT / ".ci" / "run"
    commands = [line for line in script.read_text().splitlines() if line and line[0] != "#"]
    assert commands == ["set -euo pipefail", 'cd "$(dirname "$0")/.."', "make test"]
    assert script.stat().st_mode & 0o100
