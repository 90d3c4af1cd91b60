"""Folders that are no bundle: links, pipes, more files, fewer files."""

import os
from collections.abc import Callable
from pathlib import Path

from benchmarks.prove.hostile.case import Case, trust
from benchmarks.prove.hostile.world import World
from deepfusion_edge.bundle.manifest import MANIFEST, MODEL, SIGNATURE


def _in_folder(world: World, change: Callable[[Path], object]) -> str:
    folder = world.folder(world.members())
    change(folder)
    return world.install(folder)


def _linked(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).rename(folder.parent / "elsewhere")
        (folder / name).symlink_to(folder.parent / "elsewhere")

    return change


def _piped(folder: Path) -> None:
    (folder / MANIFEST).unlink()
    os.mkfifo(folder / MANIFEST)


def _large(folder: Path) -> None:
    os.truncate(folder / MANIFEST, 2**30)


def _as_fifo(folder: Path) -> None:
    (folder / MODEL).unlink()
    os.mkfifo(folder / MODEL)


def _missing(*names: str) -> Callable[[World], str]:
    def drive(world: World) -> str:
        members = {n: c for n, c in world.members().items() if n not in names}
        return world.install(world.folder(members))

    return drive


CASES = (
    trust(
        "a folder with a file more",
        "names in a folder",
        lambda w: _in_folder(w, lambda f: (f / "golden" / "run.sh").write_bytes(b"x")),
        "run.sh' is not named in the manifest",
    ),
    trust(
        "a folder with a linked folder in it",
        "links in a folder",
        lambda w: _in_folder(w, _linked("golden")),
        "is not named in the manifest",
    ),
    trust(
        "a folder whose model is a link",
        "link as a member",
        lambda w: _in_folder(w, _linked(MODEL)),
        f"{MODEL} is a link",
    ),
    trust(
        "a folder whose manifest is a pipe",
        "pipe as a member",
        lambda w: _in_folder(w, _piped),
        "manifest.json is not a plain file",
    ),
    trust(
        "a folder whose model is a pipe",
        "plain file as a member",
        lambda w: _in_folder(w, _as_fifo),
        "model.onnx is not a plain file",
    ),
    trust(
        "a folder with a manifest of a gigabyte",
        "size in a folder",
        lambda w: _in_folder(w, _large),
        "is not a plain file of at most",
    ),
    Case(
        "a folder without a model", "hash of a file", _missing(MODEL), "No such file", "InputError"
    ),
    Case(
        "a folder without a signature",
        "signed manifest",
        _missing(SIGNATURE),
        "cannot read .*manifest.sig",
        "InputError",
    ),
)
