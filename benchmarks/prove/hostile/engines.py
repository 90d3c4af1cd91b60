"""TensorRT engines in the agent's cache that were built for another time, place or graph."""

import json
import os
from collections.abc import Callable
from pathlib import Path

from benchmarks.prove.hostile.case import Case
from benchmarks.prove.hostile.world import World
from deepfusion_edge.errors import ModelError
from deepfusion_edge.runtime.engine_cache import EngineCache

_STAMP = {
    "bundle": "5e" * 32,
    "tensorrt": "10.3.0",
    "gpu": "Orin (SM 87)",
    "precision": "fp16",
    "members": "1..8, tuned for 4",
}


def _kept(change: Callable[[Path], object], **stamp: str) -> Callable[[World], str]:
    """Keep an engine, change its file, and ask for one with a stamp."""

    def drive(world: World) -> str:
        cache = EngineCache(world.agent / "engines")
        cache.keep_engine(_STAMP, b"engine")
        if cache.engine(_STAMP) != b"engine":
            raise ModelError("the cache keeps nothing", "look at it")
        change(cache.path_of(_STAMP["bundle"]))
        found = cache.engine(_STAMP | stamp)
        return f"log: engine {found!r}: {world.log}"

    return drive


def _head(**changes: object) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        first, _, content = path.read_bytes().partition(b"\n")
        path.write_bytes(json.dumps(json.loads(first) | changes).encode() + b"\n" + content)

    return change


def _other(world: World) -> str:
    """Put the engine of one bundle in the place of another's."""
    cache = EngineCache(world.agent / "engines")
    other = _STAMP | {"bundle": "ab" * 32}
    cache.keep_engine(_STAMP, b"engine")
    cache.path_of(_STAMP["bundle"]).rename(cache.path_of(other["bundle"]))
    return f"log: engine {cache.engine(other)!r}: {world.log}"


def _in_bundle(world: World) -> str:
    """Give an engine where the graph belongs."""
    model = b"ftrt" + bytes(200)
    return world.install(world.pack(world.members(model=model)))


def _stale(name: str, says: str, **stamp: str) -> Case:
    return Case(
        name, "stamp of an engine", _kept(lambda _path: None, **stamp), f"engine None: .*{says}"
    )


def _damaged(
    name: str, guard: str, change: Callable[[Path], object], says: str = "it is damaged"
) -> Case:
    return Case(name, guard, _kept(change), f"engine None: .*{says}")


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _append(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"evil")


def _swap(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-6] + b"eviler")


CASES = (
    _stale("of another TensorRT", "tensorrt was '10.3.0', is '10.7.0'", tensorrt="10.7.0"),
    _stale("of another GPU", "gpu was 'Orin .SM 87.', is 'H200", gpu="H200 (SM 90)"),
    _stale("of another precision", "precision was 'fp16', is 'fp32'", precision="fp32"),
    _stale("of other members", "members was", members="1..32, tuned for 8"),
    Case(
        "of another bundle, renamed",
        "stamp of an engine",
        _other,
        "engine None: .*bundle was '5e5e.*', is 'abab",
    ),
    _damaged(
        "with a stamp that lacks a name",
        "stamp of an engine",
        _head(stamp={"bundle": "5e" * 32}),
        "gpu was None",
    ),
    _damaged("with a field more in its head", "fields of an engine", _head(evil=1)),
    _damaged("with bytes appended", "hash of an engine", _append),
    _damaged("with other content", "hash of an engine", _swap),
    _damaged("cut off", "hash of an engine", lambda p: p.write_bytes(p.read_bytes()[:-1])),
    _damaged("without a head", "form of an engine", lambda p: p.write_bytes(b"engine")),
    _damaged("empty", "form of an engine", lambda p: p.write_bytes(b"")),
    _damaged(
        "with a head nested a hundred thousand deep",
        "form of an engine",
        lambda p: p.write_bytes(b'{"stamp":' + b"[" * 100_000 + b"\nengine"),
    ),
    _damaged(
        "that others may write",
        "owner of an engine",
        lambda p: p.chmod(0o666),
        "another user may have written it",
    ),
    _damaged(
        "of another user",
        "owner of an engine",
        lambda p: os.chown(p, 12345, 12345) if os.geteuid() == 0 else p.chmod(0o622),
        "another user may have written it",
    ),
    _damaged(
        "a folder in its place",
        "",
        _folder,
        "Is a directory",
    ),
    Case("in the place of a graph", "check of a graph", _in_bundle, "model (is|has)", "ModelError"),
)
