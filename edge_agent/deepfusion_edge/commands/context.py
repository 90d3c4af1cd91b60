"""What carrying out commands needs, in one place."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from deepfusion_edge.bundle.layout import Hook
from deepfusion_edge.commands.ledger import LedgerFile, Pending, Result, Settings, ended
from deepfusion_edge.commands.machine import Machine
from deepfusion_edge.commands.status import CommandStatus, ending
from deepfusion_edge.commands.window import Window
from deepfusion_edge.config import AgentConfig


@dataclass(frozen=True)
class Context:
    """Shared by the commands of one agent.

    Attributes:
        tell: puts a status into the outbox.
        moment: UTC now; never before the moment that a trusted signer vouched for.
        hook: called after each step that a power cut may come after.
    """

    config: AgentConfig
    ledger: LedgerFile
    machine: Machine
    window: Window
    tell: Callable[[CommandStatus], None]
    moment: Callable[[], str]
    hook: Hook

    @property
    def state(self) -> Path:
        """The state directory."""
        return Path(self.config.state_dir)

    def end(
        self,
        pending: Pending,
        state: Literal["done", "failed"],
        reason: str,
        result: Result | None = None,
        settings: Settings | None = None,
    ) -> None:
        """Write down how a command ended, then tell it.

        Raises:
            StorageError: it cannot be written; then it has not ended.
        """
        done = ended(pending, state, self.moment(), reason, result)
        self.ledger.end(done, settings)
        self.hook("done")
        self.tell(ending(done))
