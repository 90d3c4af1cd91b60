"""The text of a ``labels.csv`` to rows: pure, every broken rule named with its line."""

import csv
import io
import re
from pathlib import PurePosixPath
from typing import NamedTuple

from deepfusion_edge.errors import InputError

MAX_LABEL = 999_999
"""No classifier has more classes; a larger number is a wrong column."""

_HEADER = "the first line must name the columns: file,label or file,label,target"
_CLASS_NUMBER = re.compile(r"[0-9]{1,6}", re.ASCII)


class Row(NamedTuple):
    """One line: path relative to the folder (posix), class number, target class or None."""

    file: str
    label: int
    target: int | None


def parse_labels(text: str) -> tuple[Row, ...]:
    """Parse ``file,label[,target]`` in any column order; other columns are ignored.

    Args:
        text: the whole file, with or without a byte-order mark.

    Returns:
        The rows in file order, at least one; paths are normalised, relative and unique.

    Raises:
        InputError: a column is missing or named twice, a line has another number of fields than
            the header, a class is not an integer in [0, 999999], a path leaves the folder or is
            listed twice, or there is no row at all.
    """
    reader = csv.reader(io.StringIO(text.removeprefix("\ufeff"), newline=""), strict=True)
    rows: list[Row] = []
    seen: dict[str, int] = {}
    try:
        header = [name.strip() for name in next(reader, [])]
        column = _columns(header)
        for fields in reader:
            if not fields:
                continue
            row = _row(fields, column, len(header), reader.line_num)
            if row.file in seen:
                raise InputError(
                    f"labels.csv line {reader.line_num}: {row.file!r} is listed already in line "
                    f"{seen[row.file]}",
                    "keep one line for each file",
                )
            seen[row.file] = reader.line_num
            rows.append(row)
    except csv.Error as error:
        raise InputError(
            f"labels.csv line {reader.line_num}: not readable as CSV ({error})", "correct the line"
        ) from error
    if not rows:
        raise InputError("labels.csv lists no image", "add one line for each image")
    return tuple(rows)


def _columns(header: list[str]) -> dict[str, int]:
    for name in ("file", "label"):
        if name not in header:
            raise InputError(f"labels.csv has no column {name!r}", _HEADER)
    column: dict[str, int] = {
        name: header.index(name) for name in ("file", "label", "target") if name in header
    }
    for name in column:
        if header.count(name) > 1:
            raise InputError(f"labels.csv names the column {name!r} twice", _HEADER)
    return column


def _row(fields: list[str], column: dict[str, int], width: int, line: int) -> Row:
    if len(fields) != width:
        raise InputError(
            f"labels.csv line {line} has {len(fields)} fields, the header has {width}",
            "correct the line (quote a file name that holds a comma)",
        )
    target = fields[column["target"]].strip() if "target" in column else ""
    return Row(
        _relative(fields[column["file"]].strip(), line),
        _class_number(fields[column["label"]].strip(), "label", line),
        _class_number(target, "target", line) if target else None,
    )


def _relative(name: str, line: int) -> str:
    path = PurePosixPath(name)
    if not name or path.is_absolute() or ".." in path.parts or "\0" in name or not path.parts:
        raise InputError(
            f"labels.csv line {line}: file {name!r} is not a path inside the folder",
            "give a path relative to the folder, without '..'",
        )
    return path.as_posix()


def _class_number(text: str, name: str, line: int) -> int:
    if not _CLASS_NUMBER.fullmatch(text):
        raise InputError(
            f"labels.csv line {line}: {name} {text[:40]!r} is not an integer in [0, {MAX_LABEL}]",
            "give the number of the class, counted from 0",
        )
    return int(text)
