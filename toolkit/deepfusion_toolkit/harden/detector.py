"""A detector subnetwork beside the classifier: what the scores are read from.

To be right about an attacked image and to notice that it is one are opposite lessons: the first
asks features to ignore the perturbation, the second to show it. One set of weights pays for both;
of its own, a few thousand notice attacks after seconds of training (Metzen et al., ICLR 2017,
branch such a net off the classifier). It is part of the network that is saved, so erosion,
evaluation, export and device need to know nothing of it.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from deepfusion_edge.erosion import stream_of
from deepfusion_toolkit.models import Classifier
from deepfusion_toolkit.surgery.cost import multiply_adds
from deepfusion_toolkit.surgery.graph import Traced, trace

CHANNELS = (8, 12, 16)
"""Of its convolutions, each of stride 2: a perturbation is in the pixels, and everywhere."""
FEATURES = 32
"""Values that the score is the relative variance of; two members drop the same ones of few."""
CALM = 16.0
"""The features where nothing is seen. Growth far beyond it says no more; training makes what is
noticed grow by 10 to 40."""
SILENT = 1e-5
"""Growth of the features below which float32 says nothing of it."""
PREFIX = "detector."
"""Of its weights' names in the network."""


class Detector(nn.Module):
    """Three convolutions, a mean over the image, a linear layer.

    Its features are CALM on a clean image and grow with what it sees of a perturbation. The growth
    is eroded, so the features' relative variance over members grows with it.

    Its early activations come before the classifier in the graph and its last one behind it, so
    members that are eroded late share its convolutions too.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 3
        for outputs in CHANNELS:
            conv = nn.Conv2d(inputs, outputs, 3, 2, 1, bias=False)
            norm = nn.BatchNorm2d(outputs)
            norm.num_batches_tracked = None  # nobody reads it, and a fingerprint would
            layers += [conv, norm, nn.ReLU()]
            inputs = outputs
        self.maps = nn.Sequential(*layers)
        self.head = nn.Sequential(nn.Linear(inputs, FEATURES), nn.Softplus())
        self.unheard: Tensor
        self.register_buffer("unheard", torch.zeros(FEATURES, classes))

    def seen(self, image: Tensor) -> Tensor:
        """RGB [N, 3, H, W] in [0, 1] -> what is seen of perturbations, [N, CHANNELS[-1]]."""
        maps: Tensor = self.maps((image - 0.5) / 0.5)
        return maps.mean((2, 3))

    def forward(self, image: Tensor) -> Tensor:
        """How sure it is that images are attacked: RGB [N, 3, H, W] in [0, 1] -> logits [N]."""
        growth: Tensor = self.head(self.seen(image)).mean(1).clamp_min(SILENT)
        return growth + (-(-growth).expm1()).log()  # softplus undone, of large values too

    def joined(self, logits: Tensor, seen: Tensor) -> Tensor:
        """Logits [N, C], unchanged; the features become the input of their last weighted layer.

        The weights are zeros: classes do not depend on the detector, nor it on their gradient. That
        layer's input is what every network's scores are read from (``surgery.sites.penultimate``).
        """
        return torch.addmm(logits, CALM + self.head(seen), self.unheard)


class Watched(nn.Module):
    """A network and the detector beside it."""

    def __init__(self, net: nn.Module, detector: Detector) -> None:
        super().__init__()
        self.net = net
        self.detector = detector

    def forward(self, image: Tensor) -> Tensor:
        """RGB [N, 3, H, W] in [0, 1] -> logits [N, C] of the network."""
        seen = self.detector.seen(image)
        return self.detector.joined(self.net(image), seen)

    def train(self, mode: bool = True) -> "Watched":  # noqa: ARG002 - nn.Module's signature
        """Stay in evaluation mode, as exported networks do; training changes the traced graph."""
        self.training = False
        return self


class Beside(NamedTuple):
    """A classifier with a detector.

    Attributes:
        model: gives the same logits as before.
        network: multiply-adds of it, in those of the network without the detector; at least 1.
    """

    model: Classifier
    network: float


def watched(model: Classifier, seed: int) -> Beside:
    """Put a detector beside a classifier, whose weights are shared; one that has it keeps it.

    Args:
        model: any classifier.
        seed: of the detector's first weights.
    """
    if not any(map(belongs, model.core.state_dict())):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stream_of("detector", seed) % 2**63)
            detector = Detector(model.classes).eval()
        core = Watched(model.core, detector)
        model = Classifier(core, name=model.name, size=model.size)
    return Beside(model, _network(trace(model.core, model.size)))


def detector_of(model: Classifier) -> Detector:
    """A copy of the detector beside a classifier, to be trained."""
    copy, weights = Detector(model.classes), model.core.state_dict()
    with torch.no_grad():
        for name, weight in copy.state_dict().items():
            weight.copy_(weights[PREFIX + name])
    return copy


def replace_detector(model: Classifier, trained: Detector) -> None:
    """Give the detector beside a classifier the weights of a trained one, in place."""
    weights = model.core.state_dict()
    with torch.no_grad():
        for name, weight in trained.state_dict().items():
            weights[PREFIX + name].copy_(weight)


def belongs(name: str) -> bool:
    """Whether a weight of a network, by its name, is the detector's."""
    return name.startswith(PREFIX)


def is_detectors(traced: Traced) -> int:
    """Bit set over ``traced.inside``: what is computed with a detector's weights alone."""
    own = _weighted(traced)
    found = 0
    for at, node in enumerate(traced.inside):
        above = traced.ancestors[node] & traced.weighted
        if above and not above & ~own:
            found |= 1 << at
    return found


def _weighted(traced: Traced) -> int:
    """Bit set of the convolutions and products with a detector's weights."""
    return sum(
        1 << at
        for at, node in enumerate(traced.inside)
        if traced.weighted >> at & 1
        and any(a.op == "get_attr" and belongs(str(a.target)) for a in node.all_input_nodes)
    )


def _network(traced: Traced) -> float:
    work = [multiply_adds(node) for node in traced.inside]
    added = _weighted(traced)
    own = sum(w for at, w in enumerate(work) if not added >> at & 1)
    return sum(work) / own if own else 1.0
