"""One row of the table: a network with random weights, eroded, exported and run."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec
import torch
from torch import Tensor

from benchmarks.coverage.catalogue import Architecture, build
from benchmarks.coverage.laws import KINDS, TOLERANCE, all_sites, examine
from benchmarks.coverage.lively import enliven, images
from deepfusion_edge import erosion
from deepfusion_edge.erosion import Site
from deepfusion_edge.errors import DeepFusionError
from deepfusion_edge.runtime.ort import OrtSession
from deepfusion_export.lint import folded, lint
from deepfusion_export.onnx import to_onnx
from deepfusion_export.parity import TOLERANCES, plain_torch
from deepfusion_export.tensorrt_rules import RELEASES
from deepfusion_toolkit.defence import Defended
from deepfusion_toolkit.models import Classifier, load, save
from deepfusion_toolkit.models.classifier import Normalised
from deepfusion_toolkit.surgery import erode

_PER_KIND, _MEMBERS, _LARGE = 4, 3, 128


class Row(msgspec.Struct, frozen=True):
    """What was found for one architecture.

    Attributes:
        family, spec, side: which network, at which image size in pixels.
        millions: of parameters.
        sites: skips, activations, norms.
        waiting: how many of them are multiplied behind a pooling, see ``surgery.place``.
        unchanged, together: see ``laws.Laws``; None where a step before failed.
        silent: names of sites with a factor that changes nothing.
        onnx: largest difference of a member's probability, ONNX Runtime against torch.
        tensorrt: what lint says TensorRT would refuse, a line each; None: not exported.
        failure: why the row is not complete, "" if it is.
    """

    family: str
    spec: str
    side: int
    millions: float = 0.0
    sites: tuple[int, int, int] | None = None
    unchanged: float | None = None
    together: float | None = None
    silent: tuple[str, ...] = ()
    onnx: float | None = None
    tensorrt: tuple[str, ...] | None = None
    failure: str = ""
    waiting: int | None = None

    @property
    def passed(self) -> bool:
        """Whether all laws and the parity hold."""
        return not self.failure and self.onnx is not None


def row_of(architecture: Architecture) -> Row:
    """Measure one architecture; what fails is said in the row."""
    row = Row(architecture.family, architecture.spec, architecture.side)
    try:
        model, seen = lively_classifier(architecture)
        row = msgspec.structs.replace(
            row, millions=sum(p.numel() for p in model.parameters()) / 1e6
        )
        row = _with_laws(row, model, seen)
        return row if row.failure else with_onnx(row, model, seen)
    except (DeepFusionError, ImportError) as error:
        return msgspec.structs.replace(row, failure=str(error))
    except Exception as error:  # noqa: BLE001 - the table says what broke, and goes on
        first = (str(error).strip().splitlines() or [""])[0]
        return msgspec.structs.replace(row, failure=f"{type(error).__name__}: {first[:200]}")


def lively_classifier(architecture: Architecture) -> tuple[Classifier, Tensor]:
    """The network with weights that show erosion, and the images that they were set with."""
    size = (architecture.side, architecture.side)
    torch.manual_seed(0)
    core = Normalised(build(architecture), (0.5,) * 3, (0.25,) * 3).eval()
    seen = images(16 if architecture.side <= _LARGE else 4, size)
    enliven(core, seen)
    if not architecture.saved:
        return Classifier(core, name=architecture.name, size=size), seen
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"{architecture.name}.pt2")
        save(core, size, path)
        return load(str(path)), seen


def _with_laws(row: Row, model: Classifier, seen: Tensor) -> Row:
    found = examine(model, seen)
    failure = ""
    if found.silent:
        failure = f"a factor changes nothing: {', '.join(found.silent[:3])}"
    elif not found.hold:
        failure = f"a law is broken by more than {TOLERANCE:g}"
    return msgspec.structs.replace(
        row,
        sites=found.sites,
        waiting=found.waiting,
        unchanged=found.unchanged,
        together=found.together,
        silent=found.silent,
        failure=failure,
    )


def with_onnx(row: Row, model: Classifier, seen: Tensor) -> Row:
    """Export a classifier eroded at some sites of each kind, run it, and add that to its row.

    Raises:
        ModelError: torch or ONNX Runtime do not take the network.
    """
    sites = spread(all_sites(model))
    eroded = erode(model, sites)
    graph = to_onnx(Defended(eroded), _MEMBERS)
    session = OrtSession(graph, threads=1)
    apart = 0.0
    for at, members in enumerate((1, _MEMBERS)):
        factors = erosion.sample(sites, seed=0, stream=at, members=members)
        image = seen[at : at + 1]
        with plain_torch():
            mine = eroded(image, torch.from_numpy(factors)).logits.softmax(1)
        found = torch.from_numpy(session.run(image.numpy(), factors).members)
        apart = max(apart, float((found - mine).abs().max()))
    allowed = TOLERANCES["members"].absolute
    failure = "" if apart <= allowed else f"ONNX Runtime and torch differ by {apart:.1e}"
    objections = tuple(f.line for f in folded(lint(graph, RELEASES)))
    return msgspec.structs.replace(row, onnx=apart, tensorrt=objections, failure=failure)


def spread(sites: Sequence[Site], count: int = _PER_KIND) -> tuple[Site, ...]:
    """Of each kind the first site, the last, and some in between."""
    chosen: set[Site] = set()
    for kind in KINDS:
        own = [site for site in sites if site.kind == kind]
        steps = min(count, len(own))
        chosen |= {own[round(i * (len(own) - 1) / max(steps - 1, 1))] for i in range(steps)}
    return tuple(site for site in sites if site in chosen)
