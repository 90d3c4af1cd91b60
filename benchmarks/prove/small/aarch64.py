"""``python -m benchmarks.prove.small.aarch64 FILE.md``: wheels for aarch64, as a table in a page.

pip resolves the requirements of the device's wheel, with ONNX Runtime, for the Pythons of JetPack;
nothing may be built from source. The table stands between two comments of the page.
"""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

from benchmarks.prove.faults.claim import NotPossibleError
from deepfusion_edge import console
from deepfusion_edge.errors import UsageError

PYTHONS = {"3.10": 35, "3.12": 39}
"""Python of JetPack 6 and 7 -> minor version of the glibc of their Ubuntu."""
BEGIN, END = "<!-- wheels for aarch64: begin -->", "<!-- end -->"
_PROJECT = Path(__file__).parents[3] / "edge_agent" / "pyproject.toml"
_PATIENCE_S = 300.0
_OLDEST_GLIBC = 17


def requirements(python: str) -> list[str]:
    """Return what the device's wheel with ``[ort]`` requires on a Python version."""
    project = tomllib.loads(_PROJECT.read_text())["project"]
    lines = [*project["dependencies"], *project["optional-dependencies"]["ort"]]
    older = python == "3.10"
    return [line.partition(";")[0].strip() for line in lines if ";" not in line or older]


def resolve(python: str, work: Path) -> dict[str, str]:
    """Ask pip which wheels it would install; returns package -> version.

    Raises:
        NotPossibleError: pip finds none, or reaches no registry; with its last line.
    """
    glibc = range(_OLDEST_GLIBC, PYTHONS[python] + 1)
    platforms = [f"manylinux_2_{minor}_aarch64" for minor in glibc] + ["manylinux2014_aarch64"]
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--report", "-"]
    command += ["--disable-pip-version-check", "--target", str(work), "--ignore-installed"]
    command += ["--only-binary=:all:", "--python-version", python, "--implementation", "cp"]
    command += [word for platform in platforms for word in ("--platform", platform)]
    done = subprocess.run(
        [*command, *requirements(python)],
        capture_output=True,
        text=True,
        timeout=_PATIENCE_S,
        check=False,
    )
    if done.returncode:
        last = (done.stderr.strip() or "no word").splitlines()[-1]
        raise NotPossibleError(f"pip: {last}")
    found = json.loads(done.stdout)["install"]
    return {one["metadata"]["name"].lower(): one["metadata"]["version"] for one in found}


def table(found: dict[str, dict[str, str]]) -> str:
    """Spell Python -> package -> version as a Markdown table."""
    names = sorted({name for versions in found.values() for name in versions})
    head = ["| package | " + " | ".join(f"Python {python}" for python in found) + " |"]
    head.append("|---" * (len(found) + 1) + "|")
    rows = (
        f"| {name} | " + " | ".join(one.get(name, "not needed") for one in found.values()) + " |"
        for name in names
    )
    return "\n".join([*head, *rows])


def replaced(text: str, new: str) -> str:
    """Put a table between the two comments of a page.

    Raises:
        UsageError: they are not there.
    """
    pattern = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
    if not pattern.search(text):
        raise UsageError(f"the page has no {BEGIN!r} and {END!r}", "put both where the table goes")
    return pattern.sub(lambda _: f"{BEGIN}\n{new}\n{END}", text)


def main() -> int:
    """Write the table."""
    import tempfile

    page = Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as work:
        found = {python: resolve(python, Path(work, python)) for python in PYTHONS}
    page.write_text(replaced(page.read_text(), table(found)))
    return 0


if __name__ == "__main__":
    sys.exit(console.run(main))
