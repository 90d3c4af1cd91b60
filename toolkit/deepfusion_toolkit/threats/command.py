"""``deepfusion evaluate --threat``: options in, a study, tables, JSON and a page out."""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from pathlib import Path

import msgspec
import torch

from deepfusion_edge import console
from deepfusion_edge.errors import UsageError
from deepfusion_toolkit import plan as plans
from deepfusion_toolkit import sets as attacked
from deepfusion_toolkit.data import folder
from deepfusion_toolkit.data.folder import Dataset, highest_label
from deepfusion_toolkit.defence import Defended
from deepfusion_toolkit.evaluate import originals
from deepfusion_toolkit.files import write_bytes
from deepfusion_toolkit.models import Classifier, require_same_classes
from deepfusion_toolkit.report import write_html
from deepfusion_toolkit.report.threat_tables import print_threats
from deepfusion_toolkit.report.threats import page_of
from deepfusion_toolkit.threats.attackers import Attackers
from deepfusion_toolkit.threats.case import Images
from deepfusion_toolkit.threats.settings import Settings
from deepfusion_toolkit.threats.study import study
from deepfusion_toolkit.training import pixels_of

Load = Callable[[Sequence[str], Dataset], list[Classifier]]


def run(args: argparse.Namespace, seed: int, load: Load) -> int:
    """Evaluate a defence against the threats asked for.

    Raises:
        UsageError: options that do not go together.
        InputError, ModelError: data, plan and models do not fit.
    """
    _require(args)
    settings = settings_of(args, seed)
    dataset = folder.load(args.clean)
    before = [] if args.undefended is None else [args.undefended]
    specs = [args.target, args.surrogate, args.hardened_surrogate, args.ensemble, before]
    loaded = load([spec for part in specs for spec in part], dataset)
    require_same_classes(loaded, dataset.classes, highest_label(dataset))
    models = iter(loaded)
    groups = [[next(models) for _ in part] for part in specs]
    targets, surrogates, hardened, ensemble, undefended = groups
    plan = plans.read(args.plan, *targets)
    defended = Defended.of(targets, plan)
    clean = images_of(dataset, defended.size)
    numbers = {key: n for n, key in enumerate(clean.keys)}
    chosen = folder.subset(dataset, limit=settings.limit, seed=seed)
    given = list(given_sets(args.data or (), dataset, defended.size, numbers))
    found = study(
        targets[0],
        defended,
        plan,
        clean,
        [numbers[item.file] for item in chosen.items],
        Attackers(surrogates, hardened, given, ensemble, next(iter(undefended), None)),
        args.threat,
        settings,
        args.resume,
    )
    if args.json:
        encoded = msgspec.json.encode(found.study)
        write_bytes(args.json, msgspec.json.format(encoded, indent=1) + b"\n")
    if args.html:
        write_html(args.html, page_of(found, dataset.classes))
    print_threats(found.study)
    for doubt in found.study.warnings:
        sys.stderr.write(f"warning: {console.one_line(doubt)}\n")
    return 0


def settings_of(args: argparse.Namespace, seed: int) -> Settings:
    """What was given on the command line; the rest is the default."""
    given = {f.name: getattr(args, f.name) for f in fields(Settings) if f.name != "seed"}
    for name, value in given.items():
        if isinstance(value, list):
            given[name] = tuple(value if name == "attack" else sorted(set(value)))
    return Settings(**{n: v for n, v in given.items() if v is not None}, seed=seed)


def images_of(dataset: Dataset, size: tuple[int, int]) -> Images:
    """Read images as the device does, at the defence's size, with the keys of its factors."""
    pixels, labels = pixels_of(dataset, size)
    return Images(pixels, labels.tolist(), [item.file for item in dataset.items])


def given_sets(
    paths: Sequence[Path],
    clean: Dataset,
    size: tuple[int, int],
    numbers: dict[str, int],
) -> Iterator[tuple[str, float, Images, list[int]]]:
    """Attacked sets with their originals' numbers; epsilon as stated, or as seen."""
    if not paths:
        return
    loaded = attacked.load(paths)
    for one in loaded:
        with attacked.naming(one):
            before = originals(one.dataset, clean)
            images = images_of(one.dataset, size)
            known = images_of(before, size)
        change = (images.pixels.int() - known.pixels.int()).abs().amax()
        eps = one.origin.eps or float(torch.clamp_min(change, 1))
        judged = Images(images.pixels, images.labels, known.keys)
        yield one.name, eps, judged, [numbers[key] for key in known.keys]


def _require(args: argparse.Namespace) -> None:
    blind = {"transfer", "transfer-aware"} & set(args.threat)
    bring = bool(args.surrogate or args.hardened_surrogate)
    rules = [
        (args.plan is not None, "--threat without --defence", "give the erosion plan"),
        (args.clean is not None, "--threat without --clean", "give the clean test images"),
        (args.engine == "local", f"--threat with --engine {args.engine}", "leave --engine out"),
        (args.ablation is None, "--threat with --ablation", "leave it out, --forms compares"),
        (
            "transfer" not in blind or bool(args.surrogate or args.data),
            "--threat transfer has nothing to craft on",
            "give --surrogate models, or attacked sets as --data",
        ),
        (
            "transfer-aware" not in blind or bring,
            "--threat transfer-aware has nothing to craft on",
            "give --surrogate or --hardened-surrogate models",
        ),
    ]
    for holds, what, remedy in rules:
        if not holds:
            raise UsageError(what, remedy)
