"""What the tables are made from, as JSON: rows, and the libraries they were measured with."""

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

import msgspec

from deepfusion_edge.errors import InputError
from deepfusion_toolkit.files import MALFORMED

R = TypeVar("R", bound=msgspec.Struct)


class _File(msgspec.Struct):
    schema: int
    versions: dict[str, str]
    rows: list[msgspec.Raw]


def as_json(rows: Sequence[msgspec.Struct], libraries: Sequence[str]) -> bytes:
    """Everything that was measured, and with which versions of these libraries."""
    encoded = [msgspec.Raw(msgspec.json.encode(row)) for row in rows]
    file = _File(1, {name: version(name) for name in libraries}, encoded)
    return msgspec.json.format(msgspec.json.encode(file), indent=1) + b"\n"


def read(path: Path, kind: type[R], what: str) -> list[R]:
    """The rows of an earlier run; none if there was none.

    Args:
        path: of the JSON.
        kind: of a row.
        what: the rows are, for the message.

    Raises:
        InputError: the file holds none of them.
    """
    if not path.exists():
        return []
    try:
        file = msgspec.json.decode(path.read_bytes(), type=_File)
        return [msgspec.json.decode(row, type=kind) for row in file.rows]
    except (OSError, *MALFORMED) as error:
        raise InputError(
            f"{path} holds no {what} ({error})", "remove it, or name another"
        ) from error
