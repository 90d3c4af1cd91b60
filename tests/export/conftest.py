"""Two tiny classifiers of different families with randomised norms, their plans and bundles."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from deepfusion_edge.bundle.envelope import generate, private_pem, public_pem
from deepfusion_export.onnx import to_onnx
from deepfusion_toolkit.defence import Defended
from deepfusion_toolkit.models import Classifier, save
from deepfusion_toolkit.plan import Base, Plan, write
from deepfusion_toolkit.surgery import (
    DEFAULT_STRENGTH,
    erode,
    find_sites,
    prefix_share,
)
from deepfusion_toolkit.surgery.graph import trace

SIZE = (16, 20)
CLASSES = ("ok", "scratch", "dent", "stain")
MEMBERS = 4


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _conv(inputs: int, outputs: int, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    )


class Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.second = _conv(channels, channels), _conv(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return functional.silu(self.second(functional.relu(self.first(x))) + x)


class ResNet(nn.Module):
    """Batch norms and sums of maps."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = _conv(3, 8)
        self.blocks = nn.Sequential(*(Residual(8) for _ in range(3)))
        self.head = nn.Linear(8, len(CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(functional.relu(self.stem(x))).mean((2, 3)))


class Mixer(nn.Module):
    """Patches become tokens: layer norms, permutations and matrix products."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 12, 4, 4)
        self.norms = nn.ModuleList(nn.LayerNorm(12) for _ in range(3))
        self.mixes = nn.ModuleList(
            nn.Sequential(nn.Linear(12, 24), nn.GELU(), nn.Linear(24, 12)) for _ in range(3)
        )
        self.head = nn.Linear(12, len(CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        y = self.patch(x).flatten(2).transpose(1, 2)
        for norm, mix in zip(self.norms, self.mixes, strict=True):
            y = y + mix(norm(y))
        return self.head(y.mean(1))


@dataclass(frozen=True)
class Case:
    model: Classifier
    plan: Plan
    defended: Defended
    graph: bytes


def make_model(family: Callable[[], nn.Module], seed: int = 0) -> Classifier:
    torch.manual_seed(seed)
    net = family()
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, (nn.BatchNorm2d, nn.LayerNorm)):
                module.weight.uniform_(0.5, 1.5)
                module.bias.uniform_(-0.3, 0.3)
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.uniform_(-0.3, 0.3)
                module.running_var.uniform_(0.5, 1.5)
        net.head.weight.mul_(5)
    return Classifier(net, name=family.__name__.lower(), size=SIZE)


def make_plan(model: Classifier) -> Plan:
    """Erode the second half of the network, all kinds, stronger than usual."""
    strength = {"skip": 0.4, "activation": 0.2, "norm": 0.2}
    assert set(strength) == set(DEFAULT_STRENGTH)
    sites = find_sites(trace(model.core, SIZE), ("skip", "activation", "norm"), strength)
    sites = sites[len(sites) // 2 :]
    return Plan(
        schema=2,
        classes=CLASSES,
        height=SIZE[0],
        width=SIZE[1],
        bases=(Base.of(model, sites),),
        preprocess=(),
        members=MEMBERS,
        fusion="mean-probabilities",
        prefix_share=prefix_share(erode(model, sites).graph_module),
        thresholds=None,
        settings={},
        figures={},
    )


@pytest.fixture(scope="session", params=[ResNet, Mixer], ids=["resnet", "mixer"])
def case(request: pytest.FixtureRequest) -> Case:
    """A model, its plan, and what was exported from them; once a session, it takes seconds."""
    model = make_model(request.param)
    plan = make_plan(model)
    defended = Defended.of([model], plan)
    return Case(model, plan, defended, to_onnx(defended, MEMBERS))


@dataclass(frozen=True)
class Files:
    """What a user has on the disk before ``deepfusion-export bundle``."""

    model: Path
    plan: Path
    key: Path
    public: Path


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("line")
    found = Files(*(folder / name for name in ("line.pt2", "plan.json", "key.pem", "key.pub")))
    save(make_model(ResNet).core, SIZE, found.model)
    from deepfusion_toolkit.models import load

    write(make_plan(load(str(found.model))), found.plan)
    key = generate()
    found.key.write_bytes(private_pem(key))
    found.key.chmod(0o600)
    found.public.write_bytes(public_pem(key.public_key()))
    return found
