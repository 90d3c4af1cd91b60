"""What commands from afar do with the loop: load beside it, and change it between two frames."""

from collections.abc import Callable
from concurrent.futures import CancelledError

from msgspec.structs import replace

from deepfusion_edge.bundle.installed import Installed
from deepfusion_edge.commands.machine import Halted, Swap
from deepfusion_edge.config import AgentConfig, Model
from deepfusion_edge.control import Control
from deepfusion_edge.judging import Judge
from deepfusion_edge.line import open_line


class Remote:
    """Implements ``commands.machine.Machine``; called by the thread that carries commands out."""

    def __init__(self, config: AgentConfig, control: Control[Judge]) -> None:
        self._config, self._control = config, control

    def load(self, installed: Installed) -> Swap:
        """See ``Machine``."""
        line = open_line(installed, self._config)

        def swap(then: Callable[[], None]) -> None:
            def use(judge: Judge) -> None:
                judge.use(line)
                then()
                if line.fallback is not None:
                    judge.alerts.tell("runtime", line.fallback)

            self._ask(use)

        return swap

    def choose(self, model: Model) -> None:
        """See ``Machine``."""
        self._ask(lambda judge: judge.choose(members=model.members, adaptive=model.policy))
        self._config = replace(self._config, model=model)

    def restart(self, reason: str) -> None:
        """See ``Machine``."""
        self._control.restart(reason)

    def _ask(self, action: Callable[[Judge], None]) -> None:
        try:
            self._control.request(action).result()
        except CancelledError:
            raise Halted from None
