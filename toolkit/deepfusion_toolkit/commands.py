"""What each command of ``deepfusion`` does: options in, library calls, a table or JSON out."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import fields

import msgspec
import torch

from deepfusion_edge import console
from deepfusion_edge.erosion import MAX_SEED
from deepfusion_edge.errors import UsageError
from deepfusion_toolkit import ablate as ablation
from deepfusion_toolkit import attacks, data, engines, journal, memory, models, parts, training
from deepfusion_toolkit import craft as crafting
from deepfusion_toolkit import harden as hardening
from deepfusion_toolkit import join as joining
from deepfusion_toolkit import plan as plans
from deepfusion_toolkit import sets as attacked
from deepfusion_toolkit import study as judging
from deepfusion_toolkit.data import folder
from deepfusion_toolkit.files import write_bytes
from deepfusion_toolkit.label_order import require_fitting_labels
from deepfusion_toolkit.models import Classifier, smallest_side
from deepfusion_toolkit.names import DEEP_FUSION
from deepfusion_toolkit.options import THREAT_OPTIONS
from deepfusion_toolkit.report import ablation as tables
from deepfusion_toolkit.report import table, write_html
from deepfusion_toolkit.report.evaluation import page_of
from deepfusion_toolkit.report.evaluation_table import print_study
from deepfusion_toolkit.report.hardening import page_of as page_of_hardening
from deepfusion_toolkit.report.hardening import print_hardening
from deepfusion_toolkit.report.terminal import progress
from deepfusion_toolkit.transfer import Trial


def render(args: argparse.Namespace) -> int:
    """``deepfusion data render``."""
    _at_least_one(train=args.train, test=args.test)
    counts = {"train": args.train, "test": args.test}
    total = sum(counts.values()) * len(data.CLASSES)
    with progress("rendering", total) as advance:
        data.render(
            args.out,
            seed=_seed(args),
            per_class=counts,
            size=args.size,
            progress=lambda _done, _total: advance(1),
        )
    sys.stdout.write(f"{args.out}: {total} images of {len(data.CLASSES)} classes\n")
    return 0


def train(args: argparse.Namespace) -> int:
    """``deepfusion train``."""
    _at_least_one(epochs=args.epochs)
    dataset = folder.load(args.data)
    accuracy = training.train(dataset, args.arch, args.out, epochs=args.epochs, seed=_seed(args))
    if args.json:
        _print({"model": str(args.out), "held_out_accuracy": accuracy})
    else:
        sys.stdout.write(f"{args.out}: {accuracy:.1%} of held-out images right\n")
    return 0


def craft(args: argparse.Namespace) -> int:
    """``deepfusion craft``."""
    if args.batch is not None:
        _at_least_one(batch=args.batch)
    _attack(args)  # mistakes are told before anything is loaded
    device = _device(args.device)
    engine = _engine(args, device)
    dataset = _limited(args, _seed(args))
    surrogates = _models(args.surrogate, dataset)
    require_fitting_labels(surrogates, dataset, _seed(args))
    settings = _attack(args, smallest_side(surrogates))
    made = crafting.craft(
        dataset,
        surrogates,
        args.out,
        settings,
        name=args.attack,
        batch=_batch(args, surrogates, settings, device),
        resume=args.resume,
        device=device,
        engine=engine,
        threads=args.threads,
    )
    if args.json:
        _print(
            {
                "out": str(args.out),
                "images": len(made.images),
                "largest_change": max(c.linf for c in made.images),
                "head": made.head,
            }
        )
    else:
        sys.stdout.write(
            f"{args.out}: {len(made.images)} images, none further than "
            f"{max(c.linf for c in made.images)}/255, {made.head.passes_per_image} passes each\n"
        )
    return 0


def _limited(args: argparse.Namespace, seed: int) -> folder.Dataset:
    """Load --data; with --limit, so many of its images, balanced over classes."""
    dataset = folder.load(args.data)
    if args.limit is None:
        return dataset
    _at_least_one(limit=args.limit)
    dataset = folder.subset(dataset, limit=args.limit, seed=seed)
    if dataset.classes and len({i.label for i in dataset.items}) < len(dataset.classes):
        raise UsageError(
            f"limit {args.limit} leaves one of {len(dataset.classes)} classes without an image",
            f"give --limit {len(dataset.classes)} or more",
        )
    return dataset


def ablate(args: argparse.Namespace) -> int:
    """``deepfusion ablate``."""
    _at_least_one(batch=args.batch)
    budgets = args.passes or [20]
    for passes in budgets:
        attacks.settings_for(
            DEEP_FUSION, passes=passes, surrogates=len(args.surrogate), eps=args.eps
        )
    dataset = _limited(args, _seed(args))
    loaded = _models([*args.surrogate, *args.target], dataset)
    count = len(args.surrogate)
    trial = Trial(dataset, loaded[:count], loaded[count:], args.batch)
    lines = ablation.ablate(trial, budgets, eps=args.eps, targeted=args.targeted, seed=_seed(args))
    made = ablation.as_table(lines, trial, args.eps)
    if args.out:
        write_bytes(args.out, msgspec.json.format(msgspec.json.encode(made), indent=1) + b"\n")
    if args.json:
        _print(lines)
    else:
        columns, rows = made["columns"], made["rows"]
        table(f"{args.data}: {len(dataset)} images", columns, rows)  # type: ignore[arg-type]
    return 0


def _attack(args: argparse.Namespace, side: int = 224) -> attacks.Settings:
    """What --attack, --passes and the single parts ask for; --steps alone is a budget too."""
    count, passes = len(args.surrogate), args.passes
    if passes is None:
        rounds = args.steps if args.steps is not None else (300 if args.targeted else 10)
        _at_least_one(steps=rounds)
        passes = rounds * count
    settings = attacks.settings_for(
        args.attack,
        passes=passes,
        surrogates=count,
        eps=args.eps,
        targeted=args.targeted,
        seed=_seed(args),
        side=side,
    )
    settings = parts.chosen(args, settings)
    if args.passes is not None and (spent := attacks.cost(settings, count)) > passes:
        raise UsageError(
            f"these parts cost {spent} passes an image, the budget is {passes}",
            "lower --steps or --samples, or raise --passes",
        )
    return settings


def _batch(
    args: argparse.Namespace,
    surrogates: Sequence[Classifier],
    settings: attacks.Settings,
    device: str,
) -> int:
    """--batch; without it, what a set to resume had, or what fits into memory."""
    if args.batch is not None:
        return int(args.batch)
    begun = journal.begun_with(args.out) if args.resume else None
    return begun.batch if begun else memory.fitting(surrogates, settings, device)


def _device(name: str) -> str:
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:  # no such word, or a torch without CUDA
        raise UsageError(f"device '{name}' is not there", "use --device cpu") from error
    return name


def _engine(args: argparse.Namespace, device: str = "cpu") -> engines.Engine:
    if args.threads is not None:
        _at_least_one(threads=args.threads)
    return engines.engine_for(args.engine, args.workers, device, args.ray_address)


def evaluate(args: argparse.Namespace) -> int:
    """``deepfusion evaluate``."""
    if args.threat:
        from deepfusion_toolkit.threats import command

        with engines.threads_of(args.threads or engines.Local().threads):
            return command.run(args, _seed(args), _models)
    for name in THREAT_OPTIONS:
        if getattr(args, name) not in (None, []):
            raise UsageError(
                f"--{name.replace('_', '-')} without --threat", "say which threat, or leave it out"
            )
    if not args.data:
        raise UsageError("evaluate without --data", "give an attacked set, or a --threat")
    if args.ablation and not args.html:
        raise UsageError("--ablation without --html", "say where to write the page")
    engine = _engine(args)
    ablation = tables.read(args.ablation) if args.ablation else None
    sets = attacked.load(args.data)
    clean = folder.load(args.clean) if args.clean else None
    targets = _models(args.target, sets[0].dataset)
    plan = plans.read(args.plan, *targets) if args.plan else None
    result = judging.study(
        sets, clean, targets, plan=plan, seed=_seed(args), engine=engine, threads=args.threads
    )
    if args.json:
        write_bytes(args.json, msgspec.json.format(msgspec.json.encode(result), indent=1) + b"\n")
    if args.html:
        write_html(args.html, page_of(result, sets, clean, ablation))
    print_study(result)
    for doubt in result.warnings:
        sys.stderr.write(f"warning: {console.one_line(doubt)}\n")
    return 0


def harden(args: argparse.Namespace) -> int:
    """``deepfusion harden``."""
    given = {f.name: getattr(args, f.name) for f in fields(hardening.Settings)}
    settings = hardening.Settings(**{**given, "seed": _seed(args)})
    _at_least_one(crafted=args.crafted, steps=args.steps)
    devices = [*map(_device, args.device.split(","))]
    if settings.epochs and settings.method == "transfer" and not args.surrogate:
        raise UsageError(
            "training needs at least one --surrogate", "name public models, or set --epochs 0"
        )
    dataset = folder.load(args.data)
    model, *surrogates = _models([args.model, *args.surrogate], dataset)
    result = hardening.harden(
        model,
        dataset,
        surrogates,
        args.out,
        args.plan,
        settings,
        work=args.work,
        resume=args.resume,
        devices=devices,
    )
    if args.html:
        write_html(args.html, page_of_hardening(result, args.model, dataset))
    if args.json:
        _print({"model": str(args.out), "plan": str(args.plan), **result.as_json()})
    else:
        print_hardening(result, f"{args.out} and {args.plan}")
    for doubt in result.doubts:
        sys.stderr.write(f"warning: {console.one_line(doubt)}\n")
    return 0


def join(args: argparse.Namespace) -> int:
    """``deepfusion join``."""
    if len(args.model) != len(args.plan):
        raise UsageError(
            f"{len(args.model)} models and {len(args.plan)} plans", "give one --plan for each model"
        )
    given = {f.name: getattr(args, f.name) for f in fields(joining.Settings)}
    settings = joining.Settings(**{**given, "seed": _seed(args)})
    dataset = folder.load(args.data)
    loaded = _models(args.model, dataset)
    read = [plans.read(path, model) for path, model in zip(args.plan, loaded, strict=True)]
    plan, missed = joining.join(loaded, read, dataset, args.out, settings)
    if args.json:
        _print({"plan": str(args.out), **plan.figures})
    else:
        rows = [[name.replace("_", " "), value] for name, value in plan.figures.items()]
        rows += [["members", f"{len(plan.bases)}x{plan.members}"]]
        rows += [["shared work", f"{plan.prefix_share:.0%}"]]
        table(f"{args.out}", ["on held-out clean images", ""], rows)
    for doubt in missed:
        sys.stderr.write(f"warning: {console.one_line(doubt)}\n")
    return 0


def _models(specs: Sequence[str], dataset: folder.Dataset) -> list[Classifier]:
    return models.load_all(specs, image_size=dataset.size(dataset.items[0]))


def _seed(args: argparse.Namespace) -> int:
    seed = int(args.seed)
    if not 0 <= seed <= MAX_SEED:
        raise UsageError(f"seed must be in [0, {MAX_SEED}], is {seed}", "change --seed")
    return seed


def _at_least_one(**values: int) -> None:
    for name, value in values.items():
        if value < 1:
            raise UsageError(f"{name} must be at least 1, is {value}", f"change --{name}")


def _print(value: object) -> None:
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(value), indent=1).decode() + "\n")
