"""Attacked sets to compare: loaded, told apart by name, and held against originals and targets."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from deepfusion_edge.errors import DeepFusionError, InputError, UsageError
from deepfusion_toolkit.data.folder import Dataset, highest_label
from deepfusion_toolkit.files import MALFORMED
from deepfusion_toolkit.journal import MANIFEST, load_attacked
from deepfusion_toolkit.models import Classifier, require_same_classes


class Origin(msgspec.Struct, frozen=True):
    """What a manifest's head says of a set's making; None or empty where it says nothing.

    Attributes:
        attack: name of the attack.
        eps: budget, in units of 1/255.
        surrogates: names of the models that the attack was made on.
        fingerprints: hashes of their weights, see ``plan.fingerprint``.
        passes_per_image: forward and backward passes that one image cost.
    """

    attack: str | None = None
    eps: float | None = None
    surrogates: list[str] = []
    fingerprints: list[str] = []
    passes_per_image: int | None = None

    def used(self, name: str, fingerprint: str) -> bool:
        """Whether the set was made on this model; its name counts where no weights are listed."""
        if self.fingerprints:
            return fingerprint in self.fingerprints
        return name in self.surrogates


@dataclass(frozen=True)
class AttackedSet:
    """One attacked set.

    Attributes:
        name: of its folder; the whole path where two folders have one name.
        dataset: its images, with target classes if the attack had some.
        head: the manifest's head as it stands there; None for a set of another tool.
        origin: the same, as far as it is understood.
    """

    name: str
    dataset: Dataset
    head: Mapping[str, object] | None = None
    origin: Origin = field(default_factory=Origin)


def load(paths: Sequence[Path]) -> list[AttackedSet]:
    """Load sets, of ``craft`` or of other tools, in the order given.

    Raises:
        UsageError: a folder is given twice.
        InputError: see ``data.folder.load``.
    """
    resolved = [path.resolve() for path in paths]
    for path, real in zip(paths, resolved, strict=True):
        if resolved.count(real) > 1:
            raise UsageError(f"the set {path} is given twice", "name every --data once")
    names = [real.name for real in resolved]
    found = []
    for path, name in zip(paths, names, strict=True):
        head, origin = _head(path / MANIFEST)
        shown = name if names.count(name) == 1 else str(path)
        found.append(AttackedSet(shown, load_attacked(path), head, origin))
    return found


def require_fitting(
    sets: Sequence[AttackedSet], clean: Dataset | None, targets: Sequence[Classifier]
) -> None:
    """Refuse sets that cannot be compared with each other or judged by these targets.

    Raises:
        InputError: two folders name their classes differently.
        ModelError: a target has another number of classes.
    """
    folders = [*([clean] if clean is not None else []), *(s.dataset for s in sets)]
    named = [dataset for dataset in folders if dataset.classes is not None]
    for dataset in named[1:]:
        if dataset.classes != named[0].classes:
            raise InputError(
                f"{dataset.root} has the classes {_names(dataset)}, "
                f"{named[0].root} has {_names(named[0])}",
                "compare sets that were crafted from one data set",
            )
    for one in sets:
        with naming(one):
            require_same_classes(targets, one.dataset.classes, highest_label(one.dataset))


@contextmanager
def naming(one: AttackedSet) -> Iterator[None]:
    """Put the set's folder in front of what a user's error says."""
    try:
        yield
    except DeepFusionError as error:
        root = str(one.dataset.root)
        if root in error.what:
            raise
        raise type(error)(f"{root}: {error.what}", error.remedy) from error


def _names(dataset: Dataset, shown: int = 8) -> str:
    names = dataset.classes or ()
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


def _head(manifest: Path) -> tuple[dict[str, object] | None, Origin]:
    """Read a manifest's head; one that another tool wrote differently is as good as none."""
    try:
        head = msgspec.json.decode(manifest.read_bytes(), type=dict[str, object])["head"]
        return msgspec.convert(head, dict[str, object]), msgspec.convert(head, Origin)
    except (OSError, KeyError, *MALFORMED):
        return None, Origin()
