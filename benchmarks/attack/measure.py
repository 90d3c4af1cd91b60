"""From options to figures: load, attack, judge, time, and tell."""

import argparse
import platform
import tempfile
from dataclasses import asdict, replace
from pathlib import Path

import msgspec
import torch

from benchmarks.attack import page, protocol, speed
from benchmarks.demo import images as pictures
from deepfusion_edge.erosion import stream_of
from deepfusion_toolkit import models
from deepfusion_toolkit.attacks import settings_for
from deepfusion_toolkit.data import folder
from deepfusion_toolkit.files import write_bytes
from deepfusion_toolkit.models import smallest_side
from deepfusion_toolkit.names import DEEP_FUSION
from deepfusion_toolkit.plan import fingerprint
from deepfusion_toolkit.report import table, write_html
from deepfusion_toolkit.report.sections import Cell
from deepfusion_toolkit.transfer import Trial

SURROGATES = ("efficientnet-lite1", "efficientnet-lite2")
TARGETS = ("efficientnet-lite0",)
BUDGETS = ((20, None), (80, None), (320, None))


def run(args: argparse.Namespace, methods: list[str]) -> int:
    """Run the protocol; figures that were kept from an earlier run are not made again."""
    with tempfile.TemporaryDirectory() as spare:
        data = args.data
        if data is None:
            data = Path(spare) / "photographs"
            pictures.photographs(data)
        return _run(args, methods, data)


def _run(args: argparse.Namespace, methods: list[str], data: Path) -> int:
    whole = folder.load(data)
    wanted = dict(args.budget or BUDGETS)
    size = whole.size(whole.items[0])
    surrogates = models.load_all(args.surrogate or SURROGATES, image_size=size)
    used = {fingerprint(m.core) for m in surrogates}
    loaded = models.load_all(args.target or TARGETS, image_size=size)
    targets = [t for t in loaded if fingerprint(t.core) not in used]
    # one seeded order: fewer images are the first ones of more
    order = sorted(whole.items, key=lambda item: stream_of("order", args.seed, item.file))
    most = max([args.targeted_images, *(n or len(whole) for n in wanted.values())])
    dataset = replace(whole, items=tuple(order[:most]))
    trial = Trial(dataset, surrogates, targets, args.batch)
    study = protocol.Study(trial, args.state)
    budgets = {b: min(n or len(dataset), len(dataset)) for b, n in wanted.items()}
    figures = protocol.untargeted(study, methods, budgets, args.eps, args.seed)
    aimed = []
    if args.targeted_images:
        eps = args.targeted_eps or args.eps
        aimed = protocol.targeted(study, args.targeted_steps, eps, args.targeted_images, args.seed)
    summary: dict[str, object] = dict(protocol.summary(figures, aimed))
    measured = _speed(args, trial) if args.rounds else None
    if measured is not None:
        summary["throughput_over_floor"] = measured.throughput_over_floor
        summary["peak_memory_over_bare"] = measured.peak_memory_over_bare
    result = {
        "summary": summary,
        "eps": args.eps,
        "seed": args.seed,
        "data": data.name if args.data else "photographs of the package foolbox",
        "surrogates": [m.name for m in surrogates],
        "targets": [m.name for m in targets],
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, "
        f"torch {torch.__version__}",
        "speed": measured,
        "figures": [_plain(f) for f in figures],
        "targeted": [_plain(f) for f in aimed],
    }
    write_bytes(args.json, msgspec.json.format(msgspec.json.encode(result), indent=1) + b"\n")
    columns, rows = page.columns(targets), [page.row(f) for f in (*figures, *aimed)]
    table(f"black-box success at epsilon {args.eps:g}/255", columns, rows)
    cells: list[list[Cell]] = [[k, "-" if v is None else str(v)] for k, v in summary.items()]
    table("summary", ["figure", "value"], cells)
    if args.html:
        write_html(args.html, page.make(result, figures, aimed, targets))
    return 0


def _speed(args: argparse.Namespace, trial: Trial) -> speed.Speed:
    count = len(trial.surrogates)
    passes = 4 * count
    items = trial.dataset.items[: args.batch]
    images = folder.stack(trial.dataset, items)
    labels = torch.tensor([i.label for i in items])
    settings = settings_for(
        DEEP_FUSION,
        passes=passes,
        surrogates=count,
        eps=args.eps,
        seed=args.seed,
        side=smallest_side(trial.surrogates),
    )
    return speed.measure(trial.surrogates, images, labels, settings, passes, args.rounds)


def _plain(figure: protocol.Figure) -> dict[str, object]:
    found: dict[str, object] = msgspec.to_builtins(figure)
    return {**found, "settings": asdict(figure.settings)}
