"""Defences whose robust accuracy is known: a linear net, the same behind a step, eroded ones."""

from functools import cache

import torch

from deepfusion_edge.fusion import MEAN
from deepfusion_toolkit.defence import Defended
from deepfusion_toolkit.models import Classifier
from deepfusion_toolkit.plan import Base, Plan
from deepfusion_toolkit.surgery import erode, find_sites, prefix_share
from deepfusion_toolkit.surgery.graph import trace
from deepfusion_toolkit.threats import Case, Images, Jury, Settings
from deepfusion_toolkit.threats.ledger import Ledger
from tests.toolkit import attack_nets as nets

CLASSES = 4
SMALL = {"steps": 10, "eot": (1, 2), "redraws": 2, "queries": 10, "forms": False, "sweep": False}


class Rounding(nets.Linear):
    """The same scores for an image and its neighbours: gradients are zero everywhere."""

    def forward(self, image):
        return super().forward((image * 64).round() / 64)


@cache
def problem(count=8):
    """Weights, 8-bit images, labels of which the last is wrong, and distances in 1/255."""
    draw = torch.Generator().manual_seed(1)
    weight = 0.05 * torch.randn(CLASSES, nets.PIXELS, generator=draw)
    pixels = torch.randint(77, 178, (count, 3, *nets.SIZE), generator=draw).to(torch.uint8)
    logits = (pixels.flatten(1) / 255 + 1) @ weight.T
    labels = logits.argmax(1)
    gaps = logits.gather(1, labels[:, None]) - logits
    reach = (weight[labels][:, None] - weight[None]).norm(p=1, dim=2)
    distances = 255 * (gaps / reach).scatter(1, labels[:, None], float("inf")).amin(1)
    labels[-1] = (labels[-1] + 1) % CLASSES
    return weight, pixels, labels.tolist(), distances


@cache
def plain(make=nets.Linear, noise=0.0):
    weight = problem()[0]
    draw = torch.Generator().manual_seed(2)
    moved = weight + noise * torch.randn(weight.shape, generator=draw)
    return Classifier(make(moved), name=make.__name__.lower(), size=nets.SIZE)


def images():
    _, pixels, labels, _ = problem()
    return Images(pixels, labels, [f"{n}.png" for n in range(len(labels))])


@cache
def defence(model, strength=0.0, thresholds=None, members=2):
    """The model with its activation eroded, and its plan; made once, tracing takes a second."""
    traced = trace(model.core, model.size)
    eroded = erode(model, find_sites(traced, ("activation",), {"activation": strength}))
    plan = Plan(
        schema=2,
        classes=tuple("abcd")[: model.classes],
        height=model.size[0],
        width=model.size[1],
        bases=(Base.of(model, eroded.sites),),
        preprocess=(),
        members=members,
        fusion=MEAN,
        prefix_share=prefix_share(eroded.graph_module),
        thresholds=thresholds,
        settings={},
        figures={},
    )
    return Defended(eroded), plan


def case(model=None, strength=0.0, thresholds=None, state=None, members=2, **settings):
    model = plain() if model is None else model
    chosen = Settings(**SMALL | settings)
    defended, plan = defence(model, strength, thresholds, members)
    jury = Jury(defended, plan, chosen.seed, chosen.redraws, chosen.batch)
    return Case(model, model, jury, images(), chosen, Ledger(state, "test"), (0,))
