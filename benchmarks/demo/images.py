"""Where a journey's images come from: rendered, photographs of a package, or a user's folder."""

import io
import shutil
import tempfile
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

from PIL import Image

from deepfusion_edge.errors import InputError, StorageError
from deepfusion_edge.image import decode
from deepfusion_toolkit import data


def collect(source: Path, out: Path, *, limit: int | None, seed: int) -> None:
    """Copy a data set, or a balanced draw of it, in its own layout; ``out`` appears complete.

    Raises:
        InputError: the folder is no data set.
        StorageError: the copy cannot be written.
    """
    found = data.load(source)
    chosen = data.subset(found, limit=limit, seed=seed) if limit is not None else found
    files = ((item.file, (source / item.file).read_bytes()) for item in chosen.items)
    rows = [
        f"{_quoted(i.file)},{i.label},{'' if i.target is None else i.target}" for i in chosen.items
    ]
    _write(out, files, ["file,label,target", *rows] if found.layout == "labels.csv" else None)


def photographs(out: Path) -> None:
    """Write the twenty ImageNet pictures of the package foolbox, with their labels, to ``out``.

    Raises:
        InputError: the package is not there, or has other files.
        StorageError: the folder cannot be written.
    """
    # Found, not imported: foolbox would import what nobody here needs.
    spec = find_spec("foolbox")
    if spec is None or spec.origin is None:
        raise InputError(
            "the photographs are in the package foolbox, which is not installed",
            "pip install --no-deps foolbox",
        )
    found = sorted(
        path
        for path in (Path(spec.origin).parent / "data").glob("imagenet_*")
        if path.stem.rpartition("_")[2].isdigit()
    )
    if not found:
        raise InputError(
            "this version of the package foolbox has no photographs",
            "pip install --no-deps foolbox==3.3.4",
        )
    rows = [f"{path.stem}.png,{int(path.stem.rpartition('_')[2])}" for path in found]
    # As PNG: the attack is measured against exactly these pixels.
    files = ((f"{path.stem}.png", _png(path.read_bytes())) for path in found)
    _write(out, files, ["file,label", *rows])


def class_names(count: int) -> tuple[str, ...] | None:
    """Name the thousand ImageNet classes, if the package timm is there to look them up."""
    spec = find_spec("timm") if count == 1000 else None  # noqa: PLR2004
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent / "data" / "_info"
    try:
        synsets = (folder / "imagenet_synsets.txt").read_text(encoding="utf-8").split()
        lines = (folder / "imagenet_synset_to_lemma.txt").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    words = dict(line.split("\t", 1) for line in lines if "\t" in line)
    names = tuple(words.get(synset, synset).split(",")[0] for synset in synsets)
    return names if len(names) == count else None


def _png(content: bytes) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(decode(content)).save(buffer, "PNG")
    return buffer.getvalue()


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"' if any(c in name for c in ',"\n') else name


def _write(out: Path, files: Iterable[tuple[str, bytes]], labels: list[str] | None) -> None:
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as staging:
            whole = Path(staging) / out.name
            whole.mkdir()
            for name, content in files:
                (whole / name).parent.mkdir(parents=True, exist_ok=True)
                (whole / name).write_bytes(content)
            if labels is not None:
                (whole / "labels.csv").write_text("\n".join([*labels, ""]), encoding="utf-8")
            if out.exists():
                shutil.rmtree(out)
            whole.replace(out)
    except OSError as error:
        raise StorageError(
            f"{out} cannot be written ({error.strerror})", "free space or choose another --out"
        ) from error
