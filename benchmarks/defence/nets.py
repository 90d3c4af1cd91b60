"""What the protocol needs before anything is attacked: images, trained nets, a hardened one."""

import argparse
from pathlib import Path
from typing import NamedTuple

from benchmarks.defence.command import Case
from deepfusion_toolkit import attacks, models
from deepfusion_toolkit import join as joining
from deepfusion_toolkit import plan as plans
from deepfusion_toolkit.craft import craft
from deepfusion_toolkit.data import folder, render
from deepfusion_toolkit.data.folder import Dataset
from deepfusion_toolkit.harden import Settings, harden
from deepfusion_toolkit.models import Classifier
from deepfusion_toolkit.plan import Plan
from deepfusion_toolkit.training import train


class Prepared(NamedTuple):
    """A data set with its nets, all trained on ``train`` alone.

    Attributes:
        test: images that neither training nor hardening has seen.
        target: undefended.
        hardened: the same net after hardening against ``surrogates``.
        held_out: the attacker's nets, which hardening has not seen.
    """

    test: Dataset
    target: Classifier
    hardened: Classifier
    plan: Plan
    held_out: list[Classifier]


def prepare(case: Case, args: argparse.Namespace) -> Prepared:
    """Render, train and harden what is not there yet.

    Raises:
        InputError, ModelError: the folder is no data set, or hardening fails.
    """
    work = args.work / case.name
    root = case.root
    if root is None:
        root = work / "data"
        if not root.is_dir():
            render(root, seed=args.seed, per_class={"train": 250, "test": 60})
    training, test = folder.load(root / "train"), folder.load(root / "test")
    size = training.size(training.items[0])

    def net(family: str, number: int) -> Classifier:
        path = work / f"{family}.pt2"
        if not path.is_file():
            train(training, family, path, epochs=args.epochs, seed=args.seed + number)
        return models.load(str(path), image_size=size)

    families = [args.target, *args.surrogate, *args.held_out]
    trained = [net(family, number) for number, family in enumerate(families)]
    surrogates = trained[1 : 1 + len(args.surrogate)]
    out, plan_path = work / "hardened.pt2", work / "plan.json"
    if not plan_path.is_file():
        settings = Settings(eps=max(case.eps), epochs=args.harden_epochs, seed=args.seed)
        target = models.load(str(work / f"{args.target}.pt2"), image_size=size)
        harden(target, training, surrogates, out, plan_path, settings, resume=True)
    hardened = models.load(str(out), image_size=size)
    plan = plans.read(plan_path, hardened)
    if (root / "calibration").is_dir():
        plan = _calibrated(root / "calibration", hardened, plan, work / "calibrated.json")
    return Prepared(test, trained[0], hardened, plan, trained[1 + len(args.surrogate) :])


def _calibrated(images: Path, hardened: Classifier, plan: Plan, out: Path) -> Plan:
    """Set the limits anew on clean images that no net has seen, as `deepfusion join` does."""
    if not out.is_file():
        rate = plan.thresholds.false_positive_rate if plan.thresholds else 0.0
        settings = joining.Settings(
            members=plan.members, fusion=plan.fusion, false_positive_rate=rate, unseen=True
        )
        joining.join([hardened], [plan], folder.load(images), out, settings)
    return plans.read(out, hardened)


def sets_of(case: Case, ready: Prepared, args: argparse.Namespace) -> list[Path]:
    """Craft every attack at every budget on the held-out nets; finished sets are kept."""
    chosen = folder.subset(ready.test, limit=args.images, seed=args.seed)
    found = []
    for eps in case.eps:
        for name in args.attacks:
            out = args.work / case.name / "sets" / f"{name}-{eps:g}"
            settings = attacks.settings_for(
                name,
                passes=args.passes,
                surrogates=len(ready.held_out),
                eps=eps,
                seed=args.seed,
                side=models.smallest_side(ready.held_out),
            )
            craft(chosen, ready.held_out, out, settings, name=name, resume=out.is_dir())
            found.append(out)
    return found
