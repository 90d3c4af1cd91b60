"""What one part of the proof found: rows for people, figures for the summary."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

State = Literal["held", "failed", "not possible"]


@dataclass(frozen=True)
class Row:
    """One claim and what was seen.

    ``state`` is ``not possible`` only where this machine cannot show it; ``seen`` then says why.
    ``guard`` names what was taken out to see the claim fail, and is empty where nothing was.
    ``lines`` is what the claim is made of, one text each: for the JSON and the page.
    """

    claim: str
    state: State
    seen: str
    guard: str = ""
    lines: tuple[str, ...] = ()


@dataclass(frozen=True)
class Part:
    """All rows of a part, and the figures that it gives to ``summary``."""

    rows: tuple[Row, ...]
    figures: Mapping[str, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return what ``prove.json`` keeps of the part."""
        return {"rows": [asdict(row) for row in self.rows], "figures": dict(self.figures)}

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> "Part":
        """Read what :meth:`to_json` wrote.

        Raises:
            KeyError, TypeError: it has another form.
        """
        rows = (row | {"lines": tuple(row.get("lines", ()))} for row in found["rows"])
        return cls(tuple(Row(**row) for row in rows), dict(found["figures"]))
