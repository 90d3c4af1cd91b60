"""One data set after the other: nets, sets, threats, the policy; then what is held to goals."""

import argparse
import platform
from collections.abc import Iterable, Sequence
from dataclasses import replace

import msgspec
import torch

from benchmarks.defence import nets, page
from benchmarks.defence.command import Case
from deepfusion_toolkit.data import folder
from deepfusion_toolkit.defence import Defended
from deepfusion_toolkit.files import write_bytes
from deepfusion_toolkit.report import table, write_html
from deepfusion_toolkit.threats import Attackers, Settings, ThreatStudy, study
from deepfusion_toolkit.threats.command import given_sets, images_of

TRANSFER = ("transfer", "transfer-aware")


class Found(msgspec.Struct, frozen=True):
    """One data set.

    Attributes:
        threats: transfer, oblivious and aware, on all attacked images; ``undefended`` is the
            target before hardening.
        close: white-box and query on fewer of them; None if left out.
    """

    name: str
    threats: ThreatStudy
    close: ThreatStudy | None


def run(args: argparse.Namespace, cases: Sequence[Case]) -> int:
    """Measure, print, write."""
    found = [_measure(case, args) for case in cases]
    figures = summary(found)
    result = {
        "summary": figures,
        "target": args.target,
        "surrogates": args.surrogate,
        "held_out": args.held_out,
        "attacks": args.attacks,
        "passes": args.passes,
        "seed": args.seed,
        "machine": f"{platform.machine()}, torch {torch.__version__}",
        "data": found,
    }
    write_bytes(args.json, msgspec.json.format(msgspec.json.encode(result), indent=1) + b"\n")
    for one in found:
        table(f"{one.name}: accuracy under attack", page.COLUMNS, page.rows(one))
    table("summary", ["figure", "value"], [[k, page.number(v)] for k, v in figures.items()])
    if args.html:
        write_html(args.html, page.make(found, figures, result))
    return 0


def _measure(case: Case, args: argparse.Namespace) -> Found:
    ready = nets.prepare(case, args)
    paths = nets.sets_of(case, ready, args)
    clean = images_of(ready.test, ready.hardened.size)
    numbers = {key: n for n, key in enumerate(clean.keys)}
    defended = Defended.of([ready.hardened], ready.plan)
    few = Settings(
        eps=case.eps,
        attack=tuple(args.attacks),
        passes=args.passes,
        steps=args.steps,
        queries=args.queries,
        sweep=False,
        forms=False,
        batch=32,
        seed=args.seed,
    )

    def look(threats: Sequence[str], limit: int, attackers: Attackers) -> ThreatStudy:
        chosen = folder.subset(ready.test, limit=limit, seed=args.seed)
        return study(
            ready.hardened,
            defended,
            ready.plan,
            clean,
            [numbers[item.file] for item in chosen.items],
            attackers,
            threats,
            replace(few, limit=limit),
            args.work / case.name / f"{threats[0]}.state",
        ).study

    given = list(given_sets(paths, ready.test, ready.hardened.size, numbers))
    # the sets are the oblivious attacker's; the aware one crafts anew, through the same defence
    blind = look(
        TRANSFER,
        args.images,
        Attackers(hardened=ready.held_out, sets=given, undefended=ready.target),
    )
    close = None
    if args.white_box_images:
        close = look(
            ("white-box", "query"), args.white_box_images, Attackers(undefended=ready.target)
        )
    return Found(case.name, blind, close)


def summary(found: Sequence[Found]) -> dict[str, float | int | None]:
    """The figures that are held against a goal: the worst over data sets, attacks and budgets."""
    kept, undefended, drop, auroc, error, cost, loss = [], [], [], [], [], [], []
    white: list[float] = []
    for one in found:
        blind, clean = one.threats, one.threats.clean
        kept += _ratios((row.robust.value, row.clean.value) for row in blind.rows)
        for eps in {row.eps for row in blind.rows}:
            here = [r for r in blind.rows if r.eps == eps and r.threat == "transfer"]
            # the strongest attack there is
            left = _ratios((r.undefended.value, r.undefended_clean.value) for r in here)
            undefended += [min(left)] if left else []
        drop.append(100 * (clean.undefended.value - clean.fused.value))
        auroc += [row.detection[0].auroc for row in blind.rows]
        if clean.named_rate is not None:
            error.append(100 * abs(clean.flagged.value - clean.named_rate))
        if one.close is not None:
            white += [row.robust.value for row in one.close.rows if row.threat == "white-box"]
        if not one.threats.adaptive:  # all K judge every frame
            cost.append(one.threats.cost)
            loss.append(0.0)
        for name, seen in one.threats.adaptive.items():
            if name == "clean":
                cost.append(seen.policy.cost)
            else:
                loss.append(100 * (seen.always.accuracy.value - seen.policy.accuracy.value))
    return {
        "robust_over_clean_min": min(kept, default=None),
        "undefended_over_clean_max": max(undefended, default=None),
        "clean_drop_points": max(drop, default=None),
        "detection_auroc_min": min(auroc, default=None),
        "false_positive_rate_error_points": max(error, default=None),
        "adaptive_policy_cost": max(cost, default=None),
        "adaptive_policy_robust_loss_points": max(loss, default=None),
        "white_box_eot_robust": min(white, default=None),
        "n_images": min((one.threats.images for one in found), default=0),
    }


def _ratios(pairs: Iterable[tuple[float, float]]) -> list[float]:
    return [found for part, whole in pairs if (found := page.ratio(part, whole)) is not None]
