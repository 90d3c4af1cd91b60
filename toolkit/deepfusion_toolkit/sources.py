"""Models that a worker loads again: the same weights, the same versions, or an error."""

from dataclasses import dataclass

import torch

from deepfusion_edge.errors import ModelError, UsageError
from deepfusion_toolkit import __version__
from deepfusion_toolkit.models import Classifier, load
from deepfusion_toolkit.plan import fingerprint

HERE = (__version__, str(torch.__version__))
"""Versions that a result depends on."""


@dataclass(frozen=True)
class Source:
    """A model that another process can load again.

    Attributes:
        spec: see ``models.spec``; a file's path is absolute.
        size: (height, width) for a factory that does not say it.
        fingerprint: hash of the weights.
        versions: of this program and of torch.
    """

    spec: str
    size: tuple[int, int]
    fingerprint: str
    versions: tuple[str, str] = HERE

    @classmethod
    def of(cls, model: Classifier) -> "Source":
        """Describe a model.

        Raises:
            UsageError: it was not loaded from a SPEC.
        """
        if model.spec is None:
            raise UsageError(
                f"model {model.name} was made in this process, others cannot load it",
                "save it as a .pt2 file and load that, or use the engine local",
            )
        return cls(model.spec, model.size, fingerprint(model.core))

    def load(self) -> Classifier:
        """Load it in a worker.

        Raises:
            ModelError: it does not load here, or is not the parent's.
        """
        if self.versions != HERE:
            raise ModelError(
                f"a worker has deepfusion {HERE[0]} and torch {HERE[1]}, "
                f"this process has {self.versions[0]} and {self.versions[1]}",
                "install the same versions on every node",
            )
        model = load(self.spec, image_size=self.size)
        if fingerprint(model.core) != self.fingerprint:
            raise ModelError(
                f"model {self.spec} has other weights in a worker",
                "make the file the same on every node; seed a factory's random numbers",
            )
        return model
