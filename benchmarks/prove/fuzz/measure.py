"""Fuzzes each target in a process of its own, then changes every single byte of what is signed."""

import argparse
import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.prove.fuzz import single_bytes
from benchmarks.prove.fuzz.targets import TARGETS
from benchmarks.prove.result import Part, Row
from deepfusion_toolkit.report import progress

PLAIN, SHORT_PLAIN = 20_000, 300
GUIDED, SHORT_GUIDED = 2_000_000, 3_000
GUIDED_S, SHORT_GUIDED_S = 60, 5
SHORT_BYTES = 300
_PATIENCE_S = 900.0


class Fuzzed(NamedTuple):
    """What one target showed.

    Attributes:
        draws: inputs it was called with.
        cover: places of the product's code that were reached; 0 where nobody counted.
        failure: the end of what was printed when it failed; empty if it did not.
        kept: the file with the input that it failed on.
    """

    draws: int
    cover: int
    failure: str
    kept: str


def measure(options: argparse.Namespace, work: Path) -> Part:
    """Fuzz all targets, led by coverage where atheris is installed."""
    guided = importlib.util.find_spec("atheris") is not None
    found: dict[str, Fuzzed] = {}
    with progress("fuzz", len(TARGETS)) as advance:
        for number, name in enumerate(TARGETS):
            out = work / f"target-{number:02d}"
            out.mkdir()
            found[name] = fuzz(name, out, guided=guided, short=options.short, seed=options.seed)
            advance(1)
    rows = [row_of(name, one, guided=guided, options=options) for name, one in found.items()]
    sample = SHORT_BYTES if options.short else None
    tried = accepted = 0
    for what, look in (("bundle", single_bytes.bundle), ("command", single_bytes.command)):
        seen = look(sample=sample, seed=options.seed)
        tried, accepted = tried + seen.tried, accepted + len(seen.accepted)
        rows.append(
            Row(
                f"a signed {what} with one byte changed is refused",
                "failed" if seen.accepted else "held",
                f"{seen.tried - len(seen.accepted)} of {seen.tried}"
                + ("" if sample is None else f", drawn with seed {options.seed}"),
                "signature, spelling of base64, directory of a zip",
                tuple(f"byte {at}, changed by {flip:#04x}" for at, flip in seen.accepted),
            )
        )
    figures = {
        "fuzz_draws": sum(one.draws for one in found.values()),
        "fuzz_failures": sum(bool(one.failure) for one in found.values()),
        "byte_mutations": tried,
        "byte_mutations_accepted": accepted,
    }
    return Part(tuple(rows), figures)


def fuzz(name: str, out: Path, *, guided: bool, short: bool, seed: int) -> Fuzzed:
    """Fuzz one target in a process of its own.

    Args:
        name: of the target.
        out: an empty folder, for what it fails on.
        guided: by coverage.
        short: seconds instead of minutes.
        seed: of all draws.
    """
    draws = (SHORT_GUIDED if short else GUIDED) if guided else SHORT_PLAIN if short else PLAIN
    command = [sys.executable, "-m", "benchmarks.prove.fuzz.worker", name, "--out", str(out)]
    command += ["--draws", str(draws), "--seed", str(seed)]
    command += ["--seconds", str(SHORT_GUIDED_S if short else GUIDED_S)]
    command += ["--engine", "guided" if guided else "plain"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_PATIENCE_S, check=False
        )
    except subprocess.TimeoutExpired:
        return Fuzzed(0, 0, f"did not end within {_PATIENCE_S:g} s", "")
    kept = ", ".join(path.name for path in out.glob("*-*") if path.is_file())
    if guided:
        return _read(done.stderr, done.returncode, kept)
    if done.returncode:
        return Fuzzed(0, 0, done.stderr[-1000:], kept)
    answer = json.loads(done.stdout)
    return Fuzzed(int(answer["draws"]), 0, str(answer["failure"]), kept)


def _read(said: str, code: int, kept: str) -> Fuzzed:
    """Read what libFuzzer prints: ``#1234  DONE  cov: 56 ...``."""
    steps = re.findall(r"^#(\d+)\s+\S+.*?cov: (\d+)", said, re.MULTILINE)
    draws, cover = (int(number) for number in (steps[-1] if steps else (0, 0)))
    failed = code != 0 or not draws
    failure = said[-1500:] or f"it ended with code {code}" if failed else ""
    return Fuzzed(draws, cover, failure, kept)


def row_of(name: str, found: Fuzzed, *, guided: bool, options: argparse.Namespace) -> Row:
    """Put a target into words."""
    engine = "atheris, by coverage" if guided else "changed seeds, without coverage"
    reached = f", {found.cover} places reached" if found.cover else ""
    lines: Sequence[str] = [found.kept, *found.failure.splitlines()] if found.failure else ()
    return Row(
        f"{name}: only documented refusals",
        "failed" if found.failure else "held",
        f"{found.draws} inputs{reached} ({engine}, seed {options.seed})",
        "",
        tuple(lines),
    )
