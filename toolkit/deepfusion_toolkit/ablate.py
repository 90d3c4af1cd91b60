"""What each part of deep fusion earns: every part switched, one at a time, at the same passes."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import msgspec

from deepfusion_toolkit.attacks import Settings, cost, settings_for
from deepfusion_toolkit.names import TRANSFORMS
from deepfusion_toolkit.report.terminal import progress
from deepfusion_toolkit.statistics import Mean
from deepfusion_toolkit.transfer import Kept, Trial


class Earning(msgspec.Struct, frozen=True):
    """One line of the table.

    Attributes:
        passes: the budget per image, all surrogates counted; ``spent`` is what was used of it.
        part: which part was switched, and how.
        success: black-box mean over images that the targets have right when clean.
        points: of that mean above the attack as chosen, in percentage points.
    """

    passes: int
    spent: int
    part: str
    success: Mean | None
    points: float | None


def variants(chosen: Settings, passes: int, surrogates: int) -> Iterator[tuple[str, Settings]]:
    """The attack as chosen, then with each part taken out or put in, steps filling the budget."""
    yield "as chosen", chosen
    switched: list[tuple[str, dict[str, Any]]] = []
    switches: tuple[tuple[str, str, Any, Any], ...] = (
        ("erosion", "erosion", 0.0, 0.5),
        ("feature-space term", "feature_weight", 0.0, 0.5),
        ("shortcut gradients", "residual", 1.0, 0.5),
        ("minigroups of one", "group", 0, 1),
        ("gradient memory", "decay", 0.0, 1.0),
        ("Nesterov", "nesterov", False, True),
        ("smoothed gradients (TI)", "kernel", 0, 5),
        ("neighbours", "radius", 0.0, 1.0),
    )
    for name, field, off, on in switches:
        is_off = getattr(chosen, field) == off
        switched.append(
            (f"{'with' if is_off else 'without'} {name}", {field: on if is_off else off})
        )
    for name in TRANSFORMS:
        there = name in chosen.transforms
        names = tuple(t for t in chosen.transforms if t != name) + (() if there else (name,))
        switched.append((f"{'without' if there else 'with'} {name}", {"transforms": names}))
    if chosen.feature_weight:
        switched.append(("adaptive weights switched", {"adaptive": not chosen.adaptive}))
    for name, change in switched:
        changed = replace(chosen, **change)
        once = cost(replace(changed, steps=1), surrogates)
        yield name, replace(changed, steps=max(1, passes // once))


def ablate(
    trial: Trial, budgets: Sequence[int], *, eps: float, targeted: bool = False, seed: int = 0
) -> list[Earning]:
    """Measure every variant at every budget; each costs the whole set of images once.

    Raises:
        UsageError: a budget below one pass of each surrogate.
    """
    count = len(trial.surrogates)
    lines: list[Earning] = []
    plans = []
    for passes in budgets:
        common = {"passes": passes, "surrogates": count, "eps": eps}
        chosen = settings_for("deep-fusion", **common, targeted=targeted, seed=seed)  # type: ignore[arg-type]
        plans.append((passes, list(variants(chosen, passes, count))))
    total = sum(len(made) for _, made in plans) * len(trial.dataset)
    with progress("ablation", total) as advance:
        for passes, made in plans:
            first: float | None = None
            for name, settings in made:
                kept: Kept = {}
                trial.craft(settings, kept, lambda new: advance(len(new)))
                success = trial.success(settings, kept)
                value = None if success is None else success.value
                first = value if first is None else first
                points = None if value is None or first is None else 100 * (value - first)
                lines.append(Earning(passes, cost(settings, count), name, success, points))
    return lines


def as_table(lines: Sequence[Earning], trial: Trial, eps: float) -> dict[str, object]:
    """The form that ``deepfusion evaluate --ablation`` reads."""
    surrogates = ", ".join(m.name for m in trial.surrogates)
    targets = ", ".join(m.name for m in trial.targets)
    note = (
        f"{surrogates} to {targets}, epsilon {eps:g}/255, {len(trial.dataset)} images; success "
        "over images right when clean, mean of targets, 95 % bootstrap; points against the attack "
        "as chosen at the same budget."
    )
    return {
        "title": "What each part earns",
        "columns": ["passes", "spent", "part", "success %", "low", "high", "points"],
        "rows": [
            [
                line.passes,
                line.spent,
                line.part,
                *(
                    [None, None, None]
                    if line.success is None
                    else [
                        round(100 * v, 1)
                        for v in (line.success.value, line.success.low, line.success.high)
                    ]
                ),
                None if line.points is None else round(line.points, 1),
            ]
            for line in lines
        ],
        "notes": [note],
    }
