"""Pickles and what holds them: whoever loads one runs a program. None is loaded, wherever it is."""

import io
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.prove.hostile.case import Case
from benchmarks.prove.hostile.world import World
from deepfusion_edge.bundle.manifest import GOLDEN
from deepfusion_edge.cli import read_config
from deepfusion_edge.commands.desk import read_holders
from deepfusion_edge.runtime.engine_cache import EngineCache


class _Program:
    """Writes a file when it is loaded."""

    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return Path, ("loaded",)


def _pickle() -> bytes:
    return pickle.dumps(_Program())


def _pt() -> bytes:
    """Make what ``torch.save`` writes: a zip with a pickle."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", _pickle())
        archive.writestr("archive/version", b"3\n")
    return buffer.getvalue()


def _pt2() -> bytes:
    """Make what ``torch.export.save`` writes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("serialized_exported_program.json", b"{}")
        archive.writestr("serialized_state_dict.pt", _pt())
    return buffer.getvalue()


def _npy() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([_Program()], dtype=object), allow_pickle=True)
    return buffer.getvalue()


def _npz() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, weights=np.array([_Program()], dtype=object))
    return buffer.getvalue()


_KINDS = {
    "a pickle": _pickle,
    "a .pt": _pt,
    "a .pt2": _pt2,
    "a .npy with objects": _npy,
    "a .npz with objects": _npz,
}


def _file(make: Callable[[], bytes]) -> Callable[[World], str]:
    return lambda world: world.install(world.file(make()))


def _model(make: Callable[[], bytes]) -> Callable[[World], str]:
    return lambda world: world.install(world.pack(world.members(model=make())))


def _extra(world: World) -> str:
    """Add a member that the manifest names: it is installed by right, and never read."""
    extra = {"weights.pkl": _pickle(), "weights.pt": _pt(), "weights.npy": _npy()}
    said = world.install(world.pack(world.members(extra=extra)), probe=True)
    world.serving()
    return said


def _probe(world: World) -> str:
    return world.install(world.pack(world.members(probe=_pickle())), probe=True)


def _config(world: World) -> str:
    return str(read_config(world.file(_pickle(), "agent.toml")))


def _key(world: World) -> str:
    file = world.file(_pickle(), "key.pub")
    keys = [{"file": str(file), "actions": ["restart"]}]
    return str(read_holders(world.config(commands={"keys": keys})))


def _engine(world: World) -> str:
    cache = EngineCache(world.agent / "engines")
    stamp = {"bundle": "0" * 64}
    cache.keep_engine(stamp, b"engine")
    cache.path_of(stamp["bundle"]).write_bytes(_pickle())
    return f"engine {cache.engine(stamp)!r}: {world.log}"


def _ledger(world: World) -> str:
    (world.agent / "commands.json").write_bytes(_pickle())
    return world.command(world.sign())


CASES = (
    *(
        Case(
            f"{name} as a bundle",
            "magic of a member"
            if name in {"a pickle", "a .npy with objects"}
            else "name of a member",
            _file(make),
            "is not a bundle as deepfusion-export writes it",
            "TrustError",
        )
        for name, make in _KINDS.items()
    ),
    *(
        Case(
            f"{name} as model.onnx",
            "check of a graph",
            _model(make),
            "^exit code 4: model (is|has)",
            "ModelError",
        )
        for name, make in _KINDS.items()
    ),
    Case("members more that nobody reads", "", _extra, "installed sequence 2", leaves="new"),
    Case(
        "a pickle as the probe", "form of the probe", _probe, f"{GOLDEN} is not valid", "ModelError"
    ),
    Case(
        "a pickle as the configuration",
        "form of a configuration",
        _config,
        "configuration: ",
        "UsageError",
    ),
    Case(
        "a pickle as a key",
        "form of a public key",
        _key,
        "not a public key in PEM form",
        "TrustError",
    ),
    Case("a pickle as an engine", "form of an engine", _engine, "engine None: .*is damaged"),
    Case(
        "a pickle as the ledger of commands",
        "form of the ledger",
        _ledger,
        "commands.json is damaged",
        "StorageError",
    ),
    Case(
        "a pickle as a picture",
        "formats of images",
        lambda w: w.judge(_pickle()),
        "alert unreadable: not a PNG or JPEG",
    ),
    Case(
        "a pickle as a command",
        "form of an envelope",
        lambda w: w.command(_pickle()),
        "status refused untrusted: command is not a DSSE envelope",
    ),
)
