"""One user's ONNX file: written by an exporter, taken in, eroded, and packed by the command."""

import contextlib
import io
import json
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import torch
from torch import nn

from benchmarks.coverage.catalogue import Architecture, architectures
from benchmarks.coverage.laws import KINDS, all_sites
from benchmarks.coverage.measure import lively_classifier, spread
from deepfusion_edge.errors import DeepFusionError
from deepfusion_export import cli
from deepfusion_toolkit import models, plan
from deepfusion_toolkit.models import Classifier
from deepfusion_toolkit.plan import Base, Plan
from deepfusion_toolkit.surgery import share_before
from deepfusion_toolkit.surgery.graph import quiet, trace

NETWORKS = (
    *("resnet18", "densenet121", "tf_efficientnetv2_b0", "efficientnet_lite0"),
    *("mobilenetv3_small_050", "ghostnet_050", "convnext_atto", "efficientvit_b0"),
    *("vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "mobilevit_xxs", "mixer_s32_224"),
)
"""Of timm; sizes and options are those of the coverage table."""
_MEMBERS = 3
_INPUT, _SCORES = "image", "scores"


class _RefusedError(Exception):
    """What the command said last."""


class File(NamedTuple):
    """One network and how it is written."""

    architecture: Architecture
    exporter: str

    @property
    def name(self) -> str:
        """Unique in the table."""
        return f"{self.architecture.name}, {self.exporter}"


class Row(msgspec.Struct, frozen=True):
    """What became of one file.

    Attributes:
        network, exporter: which file.
        sites: skips, activations, norms of the network itself.
        found: the same of the file; None if it was not taken in.
        parity: largest difference of a member's probability as ``bundle`` reports it.
        failure: the error that a user sees, "" for none.
    """

    network: str
    exporter: str
    sites: tuple[int, int, int] | None = None
    found: tuple[int, int, int] | None = None
    parity: float | None = None
    failure: str = ""

    @property
    def name(self) -> str:
        """As ``File.name``."""
        return f"{self.network}, {self.exporter}"

    @property
    def same(self) -> bool:
        """Whether the file has the network's skips and activations; norms an exporter may fold."""
        mine, its = self.sites, self.found
        return mine is not None and its is not None and mine[:2] == its[:2]


def files() -> Iterator[File]:
    """All of them, in the table's order."""
    known = {a.name: a for a in architectures() if a.library == "timm" and not a.saved}
    for name in NETWORKS:
        for exporter in EXPORTERS:
            yield File(known[name], exporter)


def rows_of(architecture: Architecture, exporters: Sequence[str]) -> Iterator[Row]:
    """Write one network in each way, take each file in, and pack it; what fails is in its row."""
    try:
        model = lively_classifier(architecture)[0]
        sites = _counts(model)
    except Exception as error:  # noqa: BLE001 - a library is missing, or has another release
        yield from (Row(architecture.name, each, failure=_said(error)) for each in exporters)
        return
    for exporter in exporters:
        row = Row(architecture.name, exporter, sites)
        with tempfile.TemporaryDirectory(prefix="deepfusion-bench-") as folder:
            path = Path(folder, "net.onnx")
            try:
                EXPORTERS[exporter](model.core, model.size, path)
                own = models.load(str(path))
                row = msgspec.structs.replace(row, found=_counts(own))
                row = msgspec.structs.replace(row, parity=_packed(own, path))
            except Exception as error:  # noqa: BLE001 - exporters raise dozens of kinds
                said = _said(error).replace(f"{path.parent}/", "")
                row = msgspec.structs.replace(row, failure=said)
        yield row


def _said(error: Exception) -> str:
    """What a user sees of it."""
    if isinstance(error, (DeepFusionError, _RefusedError)):
        return str(error)
    first = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {first[:200]}"


def _counts(model: Classifier) -> tuple[int, int, int]:
    counts = [sum(site.kind == kind for site in all_sites(model)) for kind in KINDS]
    return counts[0], counts[1], counts[2]


def _packed(model: Classifier, path: Path) -> float:
    """Let ``deepfusion-export bundle`` make a bundle of the file, as a user does.

    Raises:
        _RefusedError: in the command's own words.
    """
    chosen = spread(all_sites(model))
    decided = Plan(
        schema=2,
        classes=tuple(f"class {n}" for n in range(model.classes)),
        height=model.size[0],
        width=model.size[1],
        bases=(Base.of(model, chosen),),
        preprocess=(),
        members=_MEMBERS,
        fusion="mean-probabilities",
        prefix_share=share_before(trace(model.core, model.size), chosen),
        thresholds=None,
        settings={},
        figures={},
    )
    plan.write(decided, path.with_name("plan.json"))
    _command("keygen", "--out", path.with_name("key"))
    said = _command(
        *("bundle", "--model", path, "--plan", path.with_name("plan.json")),
        *("--key", path.with_name("key.pem"), "--out", path.with_name("line.dfb")),
    )
    return float(json.loads(said)["parity"]["members"])


def _command(*words: object) -> str:
    """Run ``deepfusion-export`` and give its JSON."""
    told, warned = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(told), contextlib.redirect_stderr(warned):
        code = cli.main([*map(str, words), "--json"])
    if code:
        raise _RefusedError(f"exit code {code}, {warned.getvalue().strip().splitlines()[-1]}")
    return told.getvalue()


def _script(core: nn.Module, size: tuple[int, int], path: Path) -> None:
    _export(core, torch.zeros(1, 3, *size), path, dynamo=False, opset_version=17)


def _script_free(core: nn.Module, size: tuple[int, int], path: Path) -> None:
    axes = {_INPUT: {0: "N"}, _SCORES: {0: "N"}}
    image = torch.zeros(1, 3, *size)
    _export(core, image, path, dynamo=False, opset_version=17, dynamic_axes=axes)


def _new(core: nn.Module, size: tuple[int, int], path: Path) -> None:
    free = ({0: torch.export.Dim.DYNAMIC},)
    image = torch.zeros(2, 3, *size)
    _export(core, image, path, dynamo=True, opset_version=20, dynamic_shapes=free, verbose=False)


def _export(core: nn.Module, image: torch.Tensor, path: Path, **how: Any) -> None:  # noqa: ANN401 - torch's own options
    with quiet(), warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # both exporters warn of their own parts
        torch.onnx.export(core, (image,), path, input_names=[_INPUT], output_names=[_SCORES], **how)


EXPORTERS: dict[str, Callable[[nn.Module, tuple[int, int], Path], None]] = {
    "TorchScript, one image": _script,
    "TorchScript, free batch": _script_free,
    "torch.export, free batch": _new,
}
