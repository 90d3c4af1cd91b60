"""How an agent starts with what commands left; a bundle on probation may be unfit to start."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from msgspec.structs import replace

from deepfusion_edge.bundle.proving import count_start, fall_back, tidy
from deepfusion_edge.commands.ledger import read_ledger
from deepfusion_edge.config import AgentConfig
from deepfusion_edge.errors import DeepFusionError

log = logging.getLogger(__name__)

Ready = TypeVar("Ready")


def chosen(config: AgentConfig) -> AgentConfig:
    """Return the configuration with what commands chose; as it is where commands are off."""
    if not config.commands.keys:
        return config
    try:
        settings = read_ledger(Path(config.state_dir)).settings
    except DeepFusionError:
        return config  # the desk says so, and takes no commands
    return replace(config, model=settings.apply(config.model))


def begin(
    config: AgentConfig, ready: Callable[[], Ready], *, now: str, told: Callable[[str], None]
) -> Ready:
    """Make the line ready to judge; a bundle on probation that cannot be is rolled back.

    Args:
        config: of the agent.
        ready: loads the current bundle and warms it up.
        now: UTC.
        told: called with the reason, if the bundle was rolled back.

    Raises:
        DeepFusionError: what ``ready`` raises, if there is nothing to return to.
    """
    state, boots = Path(config.state_dir), config.updates.probation.boots
    record = count_start(state)
    if record is not None and record.starts - 1 > boots:
        why = f"the agent died {record.starts - 1} times on probation, {boots} are allowed"
        if fall_back(state, now=now, why=why) is not None:
            told(f"bundle {record.candidate} was rolled back: {why}")
            record = None
    tidy(state)
    try:
        return ready()
    except DeepFusionError as error:
        if record is None or fall_back(state, now=now, why=str(error)) is None:
            raise
        told(f"bundle {record.candidate} was rolled back: {error}")
        return ready()


def end(config: AgentConfig) -> None:
    """Note that the agent ends in order: that start does not count against the bundle."""
    try:
        count_start(Path(config.state_dir), -1)
    except DeepFusionError as error:
        log.warning("%s", error)
