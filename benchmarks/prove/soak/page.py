"""The page of the soak: what the agent took and gave over the year, as lines over its days."""

import html
from collections.abc import Sequence
from typing import NamedTuple

from benchmarks.prove.result import Part
from benchmarks.prove.soak.calendar import Day
from benchmarks.prove.soak.plant import Sample

_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 900.0, 190.0, 64.0, 24.0, 10.0
_COLOURS = ("#1f5fa8", "#b3541e")
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
       color: #1b1b1b; background: #fff; }
table { border-collapse: collapse; width: 100%; } td, th { padding: .3rem .6rem; text-align: left;
       border-bottom: 1px solid #ddd; vertical-align: top; }
svg { width: 100%; height: auto; } svg text { font-size: 12px; fill: #555; }
.failed { color: #a11; font-weight: 600; }
"""


class Line(NamedTuple):
    """One quantity over the days."""

    label: str
    points: Sequence[tuple[float, float]]


def page(part: Part, samples: Sequence[Sample], days: Sequence[Day]) -> str:
    """Build the page, whole in one file.

    Args:
        part: what was claimed and seen.
        samples: in order of time.
        days: of the calendar that was lived through.

    Returns:
        HTML text; every text in it is escaped.
    """

    def line(label: str, name: str) -> Line:
        return Line(label, [(one.day, float(getattr(one, name))) for one in samples])

    charts = (
        ("Resident memory of the agent, MiB", [line("RSS", "rss_mib")]),
        ("Files of the state directory without bundles, KiB", [line("files", "files_kib")]),
        ("Events that wait in the outbox", [line("waiting", "waiting")]),
        ("Events", [line("stored", "stored"), line("delivered", "delivered")]),
    )
    rows = "".join(
        f'<tr><td>{_text(row.claim)}</td><td class="{row.state}">{_text(row.state)}</td>'
        f"<td>{_text(row.seen)}</td></tr>"
        for row in part.rows
    )
    drawn = "".join(f"<h2>{_text(title)}</h2>{chart(lines, days)}" for title, lines in charts)
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>The soak</title>'
        '<meta name="viewport" content="width=device-width"><link rel="icon" href="data:,">'
        f"<style>{_STYLE}</style><h1>{len(days)} days</h1>"
        "<p>A real agent and a real broker. Each day the broker goes away; each week a bundle is"
        " installed from afar (short marks), each month a bad one is refused (long marks).</p>"
        f"<table><tr><th>claim</th><th>state</th><th>seen</th></tr>{rows}</table>{drawn}</html>\n"
    )


def chart(lines: Sequence[Line], days: Sequence[Day]) -> str:
    """Draw lines over the days, from zero up, as SVG; nothing where there are no points."""
    most = max((value for one in lines for _, value in one.points), default=0.0)
    top, last = (most or 1.0) * 1.05, float(max(len(days), 1))

    def x_of(day: float) -> float:
        return round(_LEFT + (_WIDTH - _LEFT) * day / last, 1)

    def y_of(value: float) -> float:
        return round(_TOP + (_HEIGHT - _TOP - _BOTTOM) * (1 - value / top), 1)

    floor = y_of(0.0)
    digits = 0 if most >= 1000 else 1  # noqa: PLR2004 - wide enough as it is
    parts = [f'<path d="M{_LEFT},{floor}H{_WIDTH}" stroke="#999"/>']
    for value in (0.0, most / 2, most):
        parts.append(f'<text x="0" y="{y_of(value) + 4}">{value:,.{digits}f}</text>')
        parts.append(f'<path d="M{_LEFT},{y_of(value)}H{_WIDTH}" stroke="#eee"/>')
    for day in days:
        if day.update or day.bad:
            length = 12 if day.bad else 5
            parts.append(f'<path d="M{x_of(day.number)},{floor}v{length}" stroke="#777"/>')
    for colour, one in zip(_COLOURS, lines, strict=False):
        points = " ".join(f"{x_of(day)},{y_of(value)}" for day, value in one.points)
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}"/>')
    legend = " · ".join(_text(one.label) for one in lines) if len(lines) > 1 else ""
    parts.append(f'<text x="{_LEFT + 8}" y="{_TOP + 8}">{legend}</text>')
    ends = f'<text x="{_LEFT}" y="{_HEIGHT - 4}">day 0</text>'
    ends += f'<text x="{_WIDTH}" y="{_HEIGHT - 4}" text-anchor="end">day {len(days)}</text>'
    return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img">{"".join(parts)}{ends}</svg>'


def _text(value: object) -> str:
    return html.escape(str(value))
