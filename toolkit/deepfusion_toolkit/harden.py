"""Hardening: choose sites and strength, then train with erosion on and transfer examples in.

The lesson of PubDef (ICLR 2024): against black-box attackers, train on transfer examples from
public surrogates. Erosion makes the trained model fusable and measurable; alone it is nearly no
defence.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from deepfusion_edge.erosion import Kind, Site, sample, stream_of
from deepfusion_edge.errors import ModelError, UsageError
from deepfusion_edge.fusion import MEAN, FusionRule
from deepfusion_toolkit import __version__, attacks
from deepfusion_toolkit import plan as plans
from deepfusion_toolkit.calibrate import calibrate, require_images
from deepfusion_toolkit.data import folder
from deepfusion_toolkit.data.folder import Dataset, highest_label
from deepfusion_toolkit.defence import Defended, scaled, verdicts
from deepfusion_toolkit.models import Classifier, require_same_classes, save, smallest_side
from deepfusion_toolkit.names import DEEP_FUSION
from deepfusion_toolkit.preprocess import Stage, parse
from deepfusion_toolkit.report.terminal import progress
from deepfusion_toolkit.surgery import ErodedModel, erode, find_sites, prefix_share, share_before
from deepfusion_toolkit.surgery.graph import adapt_batch_norm, trace
from deepfusion_toolkit.training import accuracy, pixels_of, split

LADDER = (2.0, 1.0, 0.5, 0.25, 0.1)
"""Strengths that are tried, as multiples of the default ones, strongest first."""
BASE: dict[Kind, float] = {"skip": 0.4, "activation": 0.1, "norm": 0.1}


@dataclass(frozen=True)
class Settings:
    """How to harden.

    Attributes:
        eps: budget of the transfer examples, in 1/255.
        steps: of the attack that makes them.
        epochs: of fine-tuning; 0 only chooses sites and strength, and calibrates.
        members: K.
        fusion: how their predictions are fused.
        preprocess: stages before the network, as ``preprocess.parse`` reads them.
        shared: least share of the multiply-adds that members have in common, in [0, 1).
        max_clean_drop: how much accuracy erosion may cost before training, in [0, 1].
        false_positive_rate: of the flags, on clean images; 0: no thresholds, nothing is flagged.
        rate: learning rate.
        crafted: at most so many transfer examples.
        seed: of everything drawn.
    """

    eps: float = 16.0
    steps: int = 10
    epochs: int = 6
    members: int = 8
    fusion: FusionRule = MEAN
    preprocess: Sequence[str] = ()
    shared: float = 0.5
    max_clean_drop: float = 0.02
    false_positive_rate: float = 0.01
    rate: float = 3e-3
    crafted: int = 2000
    seed: int = 0

    def __post_init__(self) -> None:
        attacks.Settings(eps=self.eps, steps=self.steps)
        _ = self.stages
        for name, value, low, high in (
            ("epochs", self.epochs, 0, 1000),
            ("members", self.members, 1, 64),
            ("shared", self.shared, 0, 0.99),
            ("max-clean-drop", self.max_clean_drop, 0, 1),
            ("false-positive-rate", self.false_positive_rate, 0, 0.5),
            ("rate", self.rate, 1e-7, 1),
            ("crafted", self.crafted, 1, 10_000_000),
        ):
            if not low <= value <= high:
                raise UsageError(
                    f"{name} must be in [{low}, {high}], is {value}", f"change --{name}"
                )

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The preprocessing, read."""
        return tuple(map(parse, self.preprocess))


def harden(
    model: Classifier,
    dataset: Dataset,
    surrogates: Sequence[Classifier],
    out: Path,
    plan_out: Path,
    settings: Settings,
) -> plans.Plan:
    """Write a hardened model and its erosion plan.

    Raises:
        ModelError: data, model and surrogates do not fit, or there is nothing to erode.
        InputError: too few images to keep back, or to calibrate on.
    """
    require_same_classes([model, *surrogates], dataset.classes, highest_label(dataset))
    classes = dataset.classes or tuple(str(n) for n in range(model.classes))
    training = settings.epochs > 0
    kept, held_out = split(dataset) if training else (dataset, dataset)
    rate = settings.false_positive_rate
    if rate:
        require_images(len(held_out), rate)
    pixels, labels = pixels_of(held_out, model.size)
    before = accuracy(model, pixels, labels)
    sites = choose(model, pixels, labels, before, settings)
    eroded = erode(model, sites)
    defended = Defended(eroded, rule=settings.fusion, stages=settings.stages)
    figures: dict[str, float | int] = {"clean_accuracy_before": before, "held_out": len(held_out)}
    if training:
        examples = transfer_examples(surrogates, kept, settings)
        _fine_tune(defended, eroded, kept, examples, settings)
        _require_shared_weights(model, eroded)
    judged = verdicts(
        defended, held_out, members=settings.members, thresholds=None, seed=settings.seed
    )
    hits = sum(v.label == i.label for v, i in zip(judged, held_out.items, strict=True))
    figures |= {"fused_accuracy": hits / len(held_out), "accuracy": accuracy(model, pixels, labels)}
    save(model.core, model.size, out)
    thresholds = calibrate(judged, rate) if rate else None
    plan = plans.Plan(
        schema=2,
        classes=classes,
        height=model.size[0],
        width=model.size[1],
        bases=(plans.Base.of(model, sites),),
        preprocess=settings.stages,
        members=settings.members,
        fusion=settings.fusion,
        prefix_share=prefix_share(eroded.graph_module),
        thresholds=thresholds,
        settings={
            **asdict(settings),
            "preprocess": list(settings.preprocess),
            "version": __version__,
            "torch": str(torch.__version__),
            "surrogates": [s.name for s in surrogates],
        },
        figures=figures,
    )
    plans.write(plan, plan_out)
    return plan


def choose(
    model: Classifier, pixels: Tensor, labels: Tensor, before: float, settings: Settings
) -> tuple[Site, ...]:
    """Late sites (members share their prefix) at the strongest erosion that keeps accuracy."""
    traced = trace(model.core, model.size)
    found = find_sites(traced, ("skip", "activation"), BASE)
    first = next(
        (n for n in range(len(found)) if share_before(traced, found[n:]) >= settings.shared),
        len(found) - 1,
    )
    late = found[first:]
    with progress("choosing erosion strength", len(LADDER)) as advance:
        for factor in LADDER:
            sites = scaled(late, factor)
            tried = Defended(erode(model, sites), rule=settings.fusion, stages=settings.stages)
            fused = _fused_accuracy(tried, pixels, labels, settings)
            advance(1)
            if fused >= before - settings.max_clean_drop:
                return sites
    return scaled(late, LADDER[-1])


def _fused_accuracy(
    defended: Defended, pixels: Tensor, labels: Tensor, settings: Settings
) -> float:
    hits = 0
    with torch.no_grad():
        for index, (pixel, label) in enumerate(zip(pixels, labels, strict=True)):
            stream = stream_of("choose", index)
            factors = sample(
                defended.sites, seed=settings.seed, stream=stream, members=settings.members
            )
            seen = defended(pixel[None] / 255, torch.from_numpy(factors)[None])
            hits += int(seen.fused.argmax() == label)
    return hits / len(labels)


def transfer_examples(
    surrogates: Sequence[Classifier], dataset: Dataset, settings: Settings
) -> dict[str, Tensor]:
    """Craft deep-fusion examples of training images, uint8 [3, H, W] by file name."""
    chosen = folder.subset(dataset, limit=settings.crafted, seed=settings.seed)
    attack = attacks.settings_for(
        DEEP_FUSION,
        passes=settings.steps * len(surrogates),
        surrogates=len(surrogates),
        eps=settings.eps,
        seed=settings.seed,
        side=smallest_side(surrogates),
    )
    prepared = attacks.prepare(surrogates, attack)
    made: dict[str, Tensor] = {}
    with progress("crafting transfer examples", len(chosen)) as advance:
        for group in folder.groups_by_size(chosen, chosen.items).values():
            for at in range(0, len(group), 32):
                items = group[at : at + 32]
                clean = folder.stack(chosen, items)
                labels = torch.tensor([i.label for i in items])
                names = [i.file for i in items]
                x = attacks.attack(prepared, clean, labels, names, attack).images
                for item, saved in zip(
                    items, attacks.quantise(x, clean, settings.eps), strict=True
                ):
                    made[item.file] = saved
                advance(len(items))
    return made


def _fine_tune(
    defended: Defended,
    eroded: ErodedModel,
    dataset: Dataset,
    examples: dict[str, Tensor],
    settings: Settings,
) -> None:
    """Clean and attacked images in equal parts, the perturbation scaled at random, erosion on."""
    pixels, labels = pixels_of(dataset, eroded.size)
    attacked = pixels.clone()
    for index, item in enumerate(dataset.items):
        if item.file in examples:
            image = examples[item.file][None] / 255
            attacked[index] = torch.round(eroded.fit(image)[0] * 255).to(torch.uint8)
    weights = [p for p in eroded.parameters() if p.is_floating_point()]
    for weight in weights:
        weight.requires_grad_(True)
    adapt_batch_norm(eroded.graph_module, True)
    draw = torch.Generator().manual_seed(settings.seed)
    batch = 32
    steps = settings.epochs * -(-len(labels) // batch)
    optimiser = torch.optim.AdamW(weights, lr=settings.rate, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    step = 0
    with progress("hardening", steps) as advance:
        for _ in range(settings.epochs):
            for chosen in torch.randperm(len(labels), generator=draw).split(batch):
                clean = pixels[chosen] / 255
                part = torch.rand((len(chosen), 1, 1, 1), generator=draw)
                part = torch.where(part < 0.5, 1.0, 2 * part - 1)  # noqa: PLR2004 - half at full size
                moved = clean + part * (attacked[chosen] / 255 - clean)
                images = torch.cat([clean, moved]).contiguous(memory_format=torch.channels_last)
                stream = stream_of("harden", step)
                factors = sample(
                    eroded.sites, seed=settings.seed, stream=stream, members=len(images)
                )
                seen = eroded(defended.prepared(images), torch.from_numpy(factors))
                logits = seen.logits
                loss = functional.cross_entropy(logits, labels[chosen].repeat(2))
                if not torch.isfinite(loss):
                    raise ModelError(
                        f"hardening diverged at step {step} (loss {float(loss.detach())})",
                        "lower --rate",
                    )
                optimiser.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(weights, 1.0)
                optimiser.step()
                schedule.step()
                step += 1
                advance(1)
    adapt_batch_norm(eroded.graph_module, False)
    for weight in weights:
        weight.requires_grad_(False)


def _require_shared_weights(model: Classifier, eroded: ErodedModel) -> None:
    """What was trained must be what is saved."""
    image = torch.full((1, 3, *model.size), 0.5)
    with torch.no_grad():
        apart = (model(image) - eroded(image, torch.ones(1, eroded.width)).logits).abs().max()
    if not apart < 1e-3:  # noqa: PLR2004 - float32 noise is far below; NaN fails too
        raise ModelError(
            f"hardened weights of {model.name} did not reach the model (apart by {apart:g})",
            "report this with the model's origin",
        )
