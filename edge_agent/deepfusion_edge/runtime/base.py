"""What the agent asks of an inference runtime: one call, one frame."""

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from deepfusion_edge.erosion import Factors
from deepfusion_edge.errors import ModelError
from deepfusion_edge.fusion import Outputs
from deepfusion_edge.image import GraphImage

INPUTS = ("image", "factors")
OUTPUTS = ("fused", "members", "feature_variance")
"""Names in the exported graph: image and factors [K, F] in; [C], [M, C] and [] out.

``image`` is float32 [1, 3, H, W] or uint8 [1, H, W, 3], as the manifest's ``Preprocess`` says. M is
K times the number of base models in the graph. A graph for several images has N in front of all of
these, N in the place of 1.
"""

REPLACE = "export the bundle again"


class Session(Protocol):
    """A loaded bundle graph.

    Attributes:
        provider: the execution provider that really runs, as the runtime names it.
    """

    provider: str

    def run(self, image: GraphImage, factors: Factors) -> Outputs:
        """Run one image, as the graph takes it, through K members given by factors [K, F]."""
        ...


def checked_outputs(
    fused: npt.NDArray[Any], members: npt.NDArray[Any], variance: npt.NDArray[Any], *, rows: int
) -> Outputs:
    """Accept what a runtime returned for ``rows`` rows of factors.

    Raises:
        ModelError: the shapes are not [C], [a multiple of K, C] and [], or a number is not finite.
    """
    per_row, rest = divmod(len(members), rows) if members.ndim else (0, 0)
    if (
        fused.ndim != 1
        or members.shape[1:] != fused.shape
        or not per_row
        or rest
        or variance.size != 1
    ):
        raise ModelError(
            f"outputs have the shapes {fused.shape}, {members.shape}, {variance.shape}"
            f" for K = {rows}, not [C], [a multiple of K, C], []",
            REPLACE,
        )
    if not all(np.isfinite(value).all() for value in (fused, members, variance)):
        raise ModelError("an output of the model is not a finite number", REPLACE)
    return Outputs(
        np.asarray(fused, dtype=np.float32),
        np.asarray(members, dtype=np.float32),
        float(variance.reshape(())),
    )


def check_names(inputs: list[str], outputs: list[str]) -> None:
    """Accept a graph only if it has the names of ``INPUTS`` and ``OUTPUTS``.

    Raises:
        ModelError: it has others.
    """
    for kind, wanted, found in (("inputs", INPUTS, inputs), ("outputs", OUTPUTS, outputs)):
        if sorted(found) != sorted(wanted):
            raise ModelError(
                f"the model's {kind} are {', '.join(sorted(found))}, not {', '.join(wanted)}",
                REPLACE,
            )


def one_line(said: object) -> str:
    """Spell a foreign error or message on one line of at most 300 characters."""
    return " ".join(str(said).split())[:300]
