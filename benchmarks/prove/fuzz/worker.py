"""``python -m benchmarks.prove.fuzz.worker``: one target, one engine, in a process of its own."""

import argparse
import hashlib
import json
import random
import sys
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path

_ENDS = (b"\x00", b"\xff", b"\x7f", b"\x80", b"{", b"}", b"[", b'"', b"\\", b"..", b"/", b"\n")
_LONGEST = 2**16


def main() -> int:
    """Fuzz; with the engine ``plain`` print JSON, with ``guided`` what libFuzzer prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target")
    parser.add_argument("--engine", choices=["plain", "guided"], default="plain")
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--seconds", type=int, default=60, help="at most, of guided")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="an empty folder")
    options = parser.parse_args()
    if options.engine == "guided":
        _guided(options)
        return 0
    found = plain(options.target, options.draws, options.seed, options.out)
    sys.stdout.write(json.dumps(found) + "\n")
    return 0


def plain(name: str, draws: int, seed: int, out: Path) -> dict[str, object]:
    """Call a target with changed seeds; returns how often, and the first input that it failed on.

    Args:
        name: of the target.
        draws: how many inputs.
        seed: of all draws.
        out: where that input is kept.
    """
    from benchmarks.prove.fuzz.targets import TARGETS

    target, chance = TARGETS[name], random.Random(seed)  # noqa: S311 - seeded on purpose
    run, seeds = target.begin(out), list(target.seeds())
    for at in range(draws):
        data = seeds[at] if at < len(seeds) else mutated(seeds, chance)
        try:
            run(data)
        except Exception:  # noqa: BLE001 - what is looked for
            (out / f"crash-{hashlib.sha256(data).hexdigest()[:16]}").write_bytes(data)
            return {"draws": at + 1, "failure": traceback.format_exc()[-1000:]}
    return {"draws": draws, "failure": ""}


def mutated(seeds: Sequence[bytes], chance: random.Random) -> bytes:
    """Change a seed in one to four places."""
    data = bytearray(chance.choice(seeds))
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(data) + 1)
        length = min(chance.choice((1, 1, 2, 4, 16, 256)), len(data) - at)
        match chance.randrange(6):
            case 0 if at < len(data):
                data[at] ^= 1 << chance.randrange(8)
            case 1:
                data[at : at + length] = chance.randbytes(length)
            case 2:
                data[at:at] = chance.choice(_ENDS) * chance.choice((1, 1, 2, 9, 5000))
            case 3:
                del data[at : at + length]
            case 4:
                data[at:at] = data[at : at + length] * chance.choice((1, 2, 50))
            case _:
                other = chance.choice(seeds)
                data[at:] = other[chance.randrange(len(other) + 1) :]
        del data[_LONGEST:]
    return bytes(data)


def _guided(options: argparse.Namespace) -> None:
    import atheris

    with atheris.instrument_imports(include=["deepfusion_edge"]):
        from benchmarks.prove.fuzz.targets import TARGETS
    target = TARGETS[options.target]
    corpus = options.out / "corpus"
    corpus.mkdir()
    for number, seed in enumerate(target.seeds()):
        (corpus / f"seed-{number}").write_bytes(seed)
    with tempfile.TemporaryDirectory() as work:
        flags = [
            sys.argv[0],
            f"-runs={options.draws}",
            f"-max_total_time={options.seconds}",
            f"-seed={options.seed + 1}",  # 0 asks libFuzzer for one of its own
            f"-artifact_prefix={options.out}/",
            "-max_len=16384",
            "-timeout=5",
            "-rss_limit_mb=1024",
            str(corpus),
        ]
        atheris.Setup(flags, target.begin(Path(work)))
        atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
