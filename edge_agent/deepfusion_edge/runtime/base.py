"""What the agent asks of an inference runtime: one call, one frame."""

from typing import Protocol

import numpy as np
import numpy.typing as npt

from deepfusion_edge.erosion import Factors
from deepfusion_edge.fusion import Outputs

INPUTS = ("image", "factors")
OUTPUTS = ("fused", "members", "feature_variance")
"""Names in the exported graph: image [1, 3, H, W] and factors [K, F] in; [C], [M, C] and [] out.

M is K times the number of base models in the graph.
"""


class Session(Protocol):
    """A loaded bundle graph.

    Attributes:
        provider: the execution provider that really runs, as the runtime names it.
    """

    provider: str

    def run(self, image: npt.NDArray[np.float32], factors: Factors) -> Outputs:
        """Run image float32 [1, 3, H, W] in [0, 1] through K members given by factors [K, F]."""
        ...
