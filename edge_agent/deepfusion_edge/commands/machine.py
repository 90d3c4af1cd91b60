"""What commands may do with the agent that runs; the agent implements it, tests do too."""

from collections.abc import Callable
from typing import Protocol

from deepfusion_edge.bundle.installed import Installed
from deepfusion_edge.config import Model

Swap = Callable[[Callable[[], None]], None]
"""Judge by what was loaded, from the next frame on; the argument is called at that moment."""


class Halted(Exception):  # noqa: N818 - not an error: the agent stops, or the command was ended
    """What is under way goes on after the next start, or never."""


class Machine(Protocol):
    """The running agent, as seen by the thread that carries commands out."""

    def load(self, installed: Installed) -> Swap:
        """Load a bundle beside the one that judges, as the configuration and commands say.

        The swap may raise ModelError, after which the old bundle judges on, and Halted.

        Raises:
            TrustError: the bundle has expired, or was changed on the disk.
            ModelError: the runtime does not take it.
        """
        ...

    def choose(self, model: Model) -> None:
        """Run so many members, with a policy or without, from the next frame on.

        Raises:
            ModelError: the graph does not run so; what was chosen before stays.
            Halted: the agent stops.
        """
        ...

    def restart(self, reason: str) -> None:
        """End the agent in order, to be started again."""
        ...
