"""A table from a file, for the page of a study: what each part of a method earns."""

from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from deepfusion_edge.errors import InputError
from deepfusion_toolkit.files import MALFORMED
from deepfusion_toolkit.report.sections import Cell, Table

_FORM = 'give {"title": "...", "columns": ["..."], "rows": [["...", 0.5]], "notes": ["..."]}'


class Ablation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file's form; a cell is a text, a number or null, as many in each row as columns."""

    title: str
    columns: Annotated[list[str], Meta(min_length=1)]
    rows: list[list[str | int | float | None]]
    notes: list[str] = []


def read(path: Path) -> Table:
    """Read the file as a section of a page; null is shown as a dash.

    Raises:
        InputError: it cannot be read, has another form, or a row has too many or too few cells.
    """
    try:
        found = msgspec.json.decode(path.read_bytes(), type=Ablation)
    except OSError as error:
        raise InputError(
            f"ablation {path} cannot be read ({error.strerror})", "check the path"
        ) from error
    except MALFORMED as error:
        raise InputError(f"{path} is no ablation table ({error})", _FORM) from error
    for number, row in enumerate(found.rows, 1):
        if len(row) != len(found.columns):
            raise InputError(
                f"{path}: row {number} has {len(row)} cells under {len(found.columns)} columns",
                "give every row one cell for each column",
            )
    rows: list[list[Cell]] = [["-" if c is None else c for c in row] for row in found.rows]
    return Table(found.columns, rows, heading=found.title, note="\n\n".join(found.notes))
