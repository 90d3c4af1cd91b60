"""``python -m benchmarks.prove.supply.audit``: known vulnerabilities of what is pinned.

The advisories come from the network; where there is none, it says so and ends with 7. Local version
parts (``+cpu``) are left out, because advisories know none.
"""

import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from deepfusion_edge import console
from deepfusion_edge.errors import InputError, UnreachableError

PINS = Path(__file__).parents[3] / "constraints.txt"
_PATIENCE_S = 300.0


class Advisory(NamedTuple):
    """One known vulnerability of a pinned version."""

    package: str
    version: str
    name: str
    fixed_in: str


def audit(pins: Path = PINS, program: str | None = None) -> list[Advisory]:
    """Ask pip-audit about every pin.

    Args:
        pins: lines ``name==version``.
        program: pip-audit; found beside the interpreter or on the path by default.

    Raises:
        InputError: it is not installed.
        UnreachableError: it got no advisories; with its last line.
    """
    program = program or shutil.which("pip-audit", path=_path())
    if program is None:
        raise InputError("pip-audit is not installed", "run: make audit")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "pins.txt")
        file.write_text(re.sub(r"\+\w+", "", pins.read_text()))
        command = [program, "--no-deps", "--disable-pip", "--progress-spinner", "off"]
        command += ["--format", "json", "--requirement", str(file)]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=_PATIENCE_S, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise UnreachableError("pip-audit got no answer", "try again later") from error
    return read(done.stdout, done.stderr)


def read(answer: str, errors: str = "") -> list[Advisory]:
    """Read what pip-audit wrote.

    Raises:
        UnreachableError: it is no list of packages; or a package was left out, and of the others
            nothing is known.
    """
    try:
        packages = json.loads(answer)["dependencies"]
        left_out = [
            f"{one['name']}: {one['skip_reason']}" for one in packages if "vulns" not in one
        ]
        found = [
            Advisory(one["name"], one["version"], each["id"], " ".join(each["fix_versions"]))
            for one in packages
            for each in one.get("vulns", ())
        ]
    except (ValueError, KeyError, TypeError) as error:
        last = (errors.strip() or "it says nothing").splitlines()[-1]
        raise UnreachableError(
            f"pip-audit got no advisories: {last}", "run it where the network can be reached"
        ) from error
    if left_out and not found:
        raise UnreachableError(
            f"{len(left_out)} of {len(packages)} packages were not judged: {left_out[0]}",
            "see its advisories",
        )
    return found


def main() -> int:
    """Print what is known; 1 if there is anything."""
    found = audit()
    for one in found:
        print(f"{one.package} {one.version}: {one.name}, fixed in {one.fixed_in or 'no version'}")
    print(f"{len(found)} known vulnerabilities of the pinned versions")
    return int(bool(found))


def _path() -> str:
    import os

    return f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"


if __name__ == "__main__":
    sys.exit(console.run(main))
