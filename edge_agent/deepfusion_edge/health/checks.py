"""Is the agent well? Reasons, not a boolean. Pure."""

from typing import NamedTuple

from deepfusion_edge.report.payload import AgentState


class Vitals(NamedTuple):
    """What a health check looks at.

    Attributes:
        state: what the retained state would say now.
        warm: whether the graph has run once.
        silent_s: since the judging thread last said that it moves, in seconds.
        stuck_s: from then on it counts as stuck.
        unfed_s: since the sources were last looked at, in seconds.
        stale_s: from then on they count as stale.
        outbox: why events cannot be stored; None: they can.
    """

    state: AgentState
    warm: bool
    silent_s: float
    stuck_s: float
    unfed_s: float
    stale_s: float
    outbox: str | None


def ailments(vitals: Vitals) -> tuple[str, ...]:
    """Say what is wrong, one line each; nothing if the agent is well.

    A broker that is away is no ailment: events wait in the outbox for it. Nor is a source that has
    no frame, as long as it is there and asked.
    """
    found = []
    if not vitals.warm:
        found.append("warming up: no frame is judged yet")
    if vitals.silent_s >= vitals.stuck_s:
        found.append(f"inference is stuck for {vitals.silent_s:.0f} s")
    sources = vitals.state.sources or {}
    for name, source in sources.items():
        if source.state not in {"connected", "ended"}:
            why = f" ({source.reason})" if source.reason else ""
            found.append(f"source {name} is {source.state}{why}")
    if vitals.warm and vitals.unfed_s >= vitals.stale_s:
        found.append(f"sources were not looked at for {vitals.unfed_s:.0f} s")
    if vitals.outbox is not None:
        found.append(f"outbox: {vitals.outbox}")
    return tuple(found)
