"""Two builds of a wheel, of copies with other paths and times: the same bytes?"""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.prove.faults.claim import NotPossibleError

ROOT = Path(__file__).parents[3]
WHEELS = {"deepfusion-toolkit": ".", "deepfusion-edge": "edge_agent"}
"""Distribution -> folder of its pyproject.toml."""
_KEPT = (
    "toolkit",
    "export",
    "edge_agent",
    "pyproject.toml",
    "hatch_build.py",
    "README.md",
    "LICENSE",
)
_BUILD = "import sys; from hatchling.build import build_wheel; print(build_wheel(sys.argv[1]))"


def twice(folder: str, work: Path, *, reproducible: bool = True) -> tuple[str, str]:
    """Build a wheel from two copies of the sources; returns the SHA-256 (hex) of both.

    Args:
        folder: of the pyproject.toml, below the root.
        work: new folder.
        reproducible: False tells hatchling to keep the files' own times: the guard taken out.

    Raises:
        NotPossibleError: hatchling is not installed, or refuses; with its last line.
    """
    first, second = (
        _built(folder, work / name, moment, reproducible=reproducible)
        for name, moment in (("a", 1_700_000_000), ("another place", 1_750_000_000))
    )
    return first, second


def _built(folder: str, work: Path, moment: int, *, reproducible: bool) -> str:
    source = work / "source"
    source.mkdir(parents=True)
    for name in _KEPT:
        path = ROOT / name
        if path.is_dir():
            shutil.copytree(path, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(path, source / name)
    for path in source.rglob("*"):
        os.utime(path, (moment, moment))
    settings = source / folder / "pyproject.toml"
    if not reproducible:
        plain = settings.read_text()
        head = "[tool.hatch.build.targets.wheel]\n"
        settings.write_text(plain.replace(head, f"{head}reproducible = false\n"))
    command = [sys.executable, "-c", _BUILD, str(work)]
    done = subprocess.run(command, cwd=source / folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NotPossibleError(f"hatchling: {done.stderr.strip().splitlines()[-1]}")
    (wheel,) = work.glob("*.whl")
    return hashlib.sha256(wheel.read_bytes()).hexdigest()
