"""The last frame and its verdict, kept on the device and nowhere else."""

import hashlib
from pathlib import Path

import msgspec

from deepfusion_edge.bundle.files import replace_file, writing
from deepfusion_edge.commands.ledger import Result
from deepfusion_edge.config_commands import Commands
from deepfusion_edge.errors import InputError, UsageError
from deepfusion_edge.image import encode_png, read_header
from deepfusion_edge.observer import Judged
from deepfusion_edge.report.payload import rfc3339

_PREFIX = "snapshot-"


def keep_snapshot(rules: Commands, command: str, judged: Judged | None) -> Result:
    """Write the frame as its source gave it (pixels as PNG) and a JSON with the verdict.

    Args:
        rules: of the configuration.
        command: id of the command; names the files.
        judged: the frame; None if there is none.

    Returns:
        What is told of it: file name, size, SHA-256, source, frame and verdict. Never the picture.

    Raises:
        UsageError: the configuration has no place for snapshots.
        InputError: there is no frame.
        StorageError: the place cannot be written.
    """
    if rules.snapshot_dir is None:
        raise UsageError("this device keeps no snapshots", "set commands.snapshot_dir there")
    if judged is None or judged.pixels is None:
        raise InputError("no frame was judged yet", "try again when the line moves")
    frame = judged.frame
    if isinstance(frame.content, bytes):
        data, suffix = frame.content, read_header(frame.content).format.lower()
    else:
        data, suffix = encode_png(judged.pixels), "png"
    folder = Path(rules.snapshot_dir)
    with writing(folder):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    picture = folder / f"{_PREFIX}{command}.{suffix}"
    result: Result = {
        "file": picture.name,
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "source": frame.source,
        "frame": frame.name,
        "captured": rfc3339(frame.captured_s),
        "event": judged.event,
        "state": judged.verdict.state if judged.verdict else None,
        "class": judged.class_name,
    }
    _make_room(folder, rules.max_snapshots - 1, command)
    replace_file(picture, data)
    replace_file(picture.with_suffix(".json"), msgspec.json.encode(result))
    return result


def _make_room(folder: Path, left: int, command: str) -> None:
    """Remove the oldest snapshots, picture and words together, until so many are left."""
    with writing(folder):
        found: dict[str, list[Path]] = {}
        for path in folder.glob(f"{_PREFIX}*"):
            found.setdefault(path.stem, []).append(path)
        found.pop(f"{_PREFIX}{command}", None)
        by_age = sorted(found.values(), key=lambda paths: paths[0].lstat().st_mtime)
        for paths in by_age[: max(0, len(by_age) - left)]:
            for path in paths:
                path.unlink()
