"""The whole evaluation: every threat asked for, the sweep, the ablation, and what to doubt."""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from deepfusion_toolkit.adaptive import Adaptive
from deepfusion_toolkit.attacks import battery
from deepfusion_toolkit.defence import Defended
from deepfusion_toolkit.models import Classifier
from deepfusion_toolkit.names import THREATS
from deepfusion_toolkit.plan import Plan, fingerprint
from deepfusion_toolkit.threats import ablation, query, transfer, white_box
from deepfusion_toolkit.threats.attackers import KNOWS, Attackers, identity_of
from deepfusion_toolkit.threats.case import Attack, Case, Images
from deepfusion_toolkit.threats.doubts import doubts
from deepfusion_toolkit.threats.fixed_draw import FixedRow, fixed_draw
from deepfusion_toolkit.threats.ledger import Ledger
from deepfusion_toolkit.threats.outcome import Jury, Outcome
from deepfusion_toolkit.threats.result import (
    Row,
    SweepPoint,
    ThreatStudy,
    clean_of,
    row_of,
)
from deepfusion_toolkit.threats.settings import Settings
from deepfusion_toolkit.threats.sweep import sweep
from deepfusion_toolkit.threats.white_box import Climbed, Point


class Findings(NamedTuple):
    """The study, and what a page shows of it: outcomes in the order of its rows.

    Attributes:
        before: the originals of the attacked images.
        clean: all clean images.
    """

    study: ThreatStudy
    outcomes: list[Outcome]
    case: Case
    clean: Outcome


def study(
    plain: Classifier,
    defended: Defended,
    plan: Plan,
    clean: Images,
    attacked: Sequence[int],
    attackers: Attackers,
    threats: Sequence[str],
    settings: Settings,
    state: Path | None = None,
) -> Findings:
    """Evaluate a defence.

    Args:
        plain: the target without erosion.
        defended: the target with its plan.
        plan: its members and thresholds.
        clean: all clean test images; false positives are counted on them.
        attacked: numbers of those that are attacked.
        attackers: see ``Attackers``.
        threats: of ``names.THREATS``.
        settings: how hard attackers try.
        state: a file that keeps finished rows.

    Raises:
        InputError: the state file is damaged or of another evaluation.
        UsageError: fewer passes than an attack needs.
        ModelError: a network's numbers are not finite, or pyautoattack is not installed.
    """
    if {"white-box", "query"} & set(threats):
        battery.library()  # told before anything is done
    jury = Jury(defended, plan, settings.seed, settings.redraws, settings.batch)
    images = clean.only(attacked)
    identity = identity_of(plan, clean, images, attackers, settings)
    shown = tuple(range(0, len(images), max(1, len(images) // 3)))[:3]
    undefended = attackers.undefended or plain
    case = Case(plain, undefended, jury, images, settings, Ledger(state, identity), shown)
    judged = case.ledger.recall(
        "clean", Outcome, lambda: case.judged("clean", clean.pixels, clean, [], shown=True)
    )
    return _Evaluation(case, clean, judged, list(attacked), attackers).run(threats, state)


class _Evaluation:
    """Rows as they are found."""

    def __init__(
        self,
        case: Case,
        clean: Images,
        judged: Outcome,
        attacked: Sequence[int],
        attackers: Attackers,
    ) -> None:
        self.case, self.clean, self.judged, self.attackers = case, clean, judged, attackers
        self.before = _part(judged, attacked)
        self.rows: list[Row] = []
        self.outcomes: list[Outcome] = []
        self.fixed: list[FixedRow] = []
        self.points: list[Point] = []
        self.flat: dict[str, bool] = {}
        self.swept: list[SweepPoint] = []
        self.sets: list[Attack] = []
        self.adaptive: dict[str, Adaptive] = {}

    def run(self, threats: Sequence[str], state: Path | None) -> Findings:
        case, settings = self.case, self.case.settings
        self._policy("clean", self.clean.pixels, self.clean)
        for threat in (name for name in THREATS if name in threats):
            if threat == "white-box":
                self._white_box(state)
            elif threat == "query":
                self._query()
            else:
                self._transfer(threat)
        forms: list[ablation.FormRow] = []
        if settings.forms:
            eps = settings.eps if "white-box" in threats else ()
            forms = ablation.compare(case, self.attackers.ensemble, self.sets, eps)
        plan = case.jury.plan
        rate = plan.thresholds.false_positive_rate if plan.thresholds else None
        clean = clean_of(self.judged.judged, self.judged.undefended, self.clean.labels, rate)
        surrogates = [*self.attackers.surrogates, *self.attackers.hardened]
        before = self.attackers.undefended
        own = {base.model for base in plan.bases}
        grey = [m.name for m in surrogates if fingerprint(m.core) in own]
        found = ThreatStudy(
            schema=1,
            target=case.plain.name,
            undefended=None if before is None else before.name,
            members=plan.members,
            surrogates=[m.name for m in surrogates],
            knows={name: KNOWS[name] for name in THREATS if name in threats},
            cost=ablation.cost(plan, plan.members),
            latency=next((f.latency for f in forms if f.eroded == plan.members), None),
            images=len(case.images),
            redraws=settings.redraws,
            seed=settings.seed,
            clean=clean,
            rows=self.rows,
            fixed=self.fixed,
            ladder=self.points,
            flat=self.flat,
            sweep=self.swept,
            adaptive=self.adaptive,
            ablation=forms,
            settings={name: _listed(value) for name, value in asdict(settings).items()},
            warnings=doubts(
                clean,
                self.rows,
                self.fixed,
                self.swept,
                self.flat,
                grey,
                settings.tolerance,
                hardened_only=before is None,
            ),
        )
        return Findings(found, self.outcomes, case, self.judged)

    def _add(
        self,
        attack: Attack,
        outcome: Outcome,
        effort: dict[str, int | float | str] | None = None,
    ) -> None:
        row = row_of(
            attack,
            outcome,
            self.case.images.labels,
            before=self.before,
            clean=self.judged.judged,
            effort=effort,
        )
        self.rows.append(row)
        self.outcomes.append(outcome)
        self.swept.append(SweepPoint(row.threat, row.attack, row.eps, row.robust.value))

    def _transfer(self, threat: str) -> None:
        case = self.case
        if threat == "transfer":
            for one in self.attackers.sets:
                self._given(*one)
        make = transfer.oblivious if threat == "transfer" else transfer.aware
        own = self.attackers.hardened if threat == "transfer-aware" else ()
        models = transfer.Surrogates(own or self.attackers.surrogates, case.jury.plan)
        if not models.models:
            return
        for eps in case.settings.eps:
            for attack in make(case, models, eps):
                self._add(attack, case.attacked(attack))
                self.sets.append(attack)
                if case.jury.plan.policy is not None:
                    self._policy(attack.key, case.set_of(attack), case.images)
        if case.settings.sweep:
            last, outcome = self.sets[-1], self.outcomes[-1]

            def same(eps: float) -> Attack:
                found = next(a for a in make(case, models, eps) if a.name == last.name)
                return found._replace(blind=False)  # no other model is asked about it

            self.swept += sweep(case, same, last.eps, outcome, sees=False)

    def _policy(self, key: str, pixels: Tensor, images: Images) -> None:
        found = self.case.adaptive(key, pixels, images)
        if found is not None:
            self.adaptive[key] = found

    def _given(self, name: str, eps: float, images: Images, numbers: Sequence[int]) -> None:
        digest = hashlib.sha256(images.pixels.numpy().tobytes()).hexdigest()[:16]
        attack = Attack("transfer", f"set {name}", eps, {"sha256": digest}, lambda x, _y, _keys: x)
        key = attack.key
        outcome = self.case.ledger.recall(
            key, Outcome, lambda: self.case.judged(key, images.pixels, images, [])
        )
        before = _part(self.judged, numbers)
        row = row_of(attack, outcome, images.labels, before=before, clean=self.judged.judged)
        self.rows.append(row)
        self.outcomes.append(outcome)
        self._policy(key, images.pixels, images)

    def _white_box(self, state: Path | None) -> None:
        case, settings = self.case, self.case.settings
        for eps in settings.eps:
            climbed = white_box.climb(case, eps)
            self.points += climbed.points
            self.flat[f"{eps:g}"] = climbed.flat
            attacks = list(dict.fromkeys(point.attack for point in climbed.points))
            effort = {"eot": climbed.last.eot, "steps": climbed.last.steps}
            named = Attack("white-box", " + ".join(attacks), eps, {}, lambda x, _y, _keys: x)
            self._add(named, climbed.outcome, {**effort, "restarts": climbed.last.restarts})
            rung = _averaged(climbed)
            evading = white_box.pgd(case, rung, eps, evading=white_box.WEIGHTS[-1])
            self._add(
                evading, white_box.evade(case, eps, rung), {"eot": rung.eot, "steps": rung.steps}
            )
            self.swept.pop()  # it is not after accuracy alone
            self.fixed.append(fixed_draw(case, eps, state))
        if settings.sweep:
            rung = _averaged(climbed)
            self.swept += sweep(
                case, lambda e: white_box.pgd(case, rung, e), eps, climbed.outcome, sees=True
            )

    def _query(self) -> None:
        case = self.case
        for eps in case.settings.eps:
            attack = query.square(case, eps)
            self._add(attack, case.attacked(attack))
        if case.settings.sweep:
            self.swept += sweep(
                case, lambda e: query.square(case, e), eps, self.outcomes[-1], sees=True
            )


def _averaged(climbed: Climbed) -> white_box.Rung:
    """The first rung whose gradients are means, or the last one."""
    first = next((p for p in climbed.points if p.eot > 1), climbed.points[-1])
    return white_box.Rung(first.eot, first.steps, first.restarts)


def _part(outcome: Outcome, numbers: Sequence[int]) -> Outcome:
    return Outcome(
        outcome.key, outcome.judged.only(numbers), [outcome.undefended[n] for n in numbers]
    )


def _listed(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value
