"""The sections ``commands`` and ``updates`` of the agent's configuration. Pure."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from deepfusion_edge.config_source import PathText, Seconds

ActionName = Literal["set-members", "set-policy", "snapshot", "install", "roll-back", "restart"]


class CommandKey(Struct, frozen=True, forbid_unknown_fields=True):
    """A key that may command this agent.

    Attributes:
        file: its public half, ``.pub``; may be the bundles' publisher's or another.
        actions: what it may ask for, nothing else.
    """

    file: PathText
    actions: Annotated[tuple[ActionName, ...], Meta(min_length=1, max_length=16)]


class Commands(Struct, frozen=True, forbid_unknown_fields=True):
    """Who may command this agent from afar; without keys, nobody, and nothing is subscribed.

    Attributes:
        snapshot_dir: where snapshots are kept; None: none are made.
        max_snapshots: beyond it the oldest are removed.
    """

    keys: Annotated[tuple[CommandKey, ...], Meta(max_length=16)] = ()
    snapshot_dir: PathText | None = None
    max_snapshots: Annotated[int, Meta(ge=1, le=1000)] = 20


class Probation(Struct, frozen=True, forbid_unknown_fields=True):
    """When a bundle that was installed from afar is kept, and when it is rolled back.

    Attributes:
        frames, duration_s: it is kept after so many frames, or after so long and 10 frames at
            least, whichever is first.
        latency_factor: median latency it may reach, times that of the bundle before.
        reject_margin: how much larger its share of rejected frames may be.
        boots: how often the agent may die or lose power meanwhile.
    """

    frames: Annotated[int, Meta(ge=10, le=10_000_000)] = 200
    duration_s: Seconds = 600.0
    latency_factor: Annotated[float, Meta(ge=1.0, le=1000.0)] = 3.0
    reject_margin: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.2
    boots: Annotated[int, Meta(ge=0, le=100)] = 3


Host = Annotated[str, Meta(pattern=r"^[a-z0-9]([a-z0-9.:-]*[a-z0-9])?\Z", max_length=253)]


class Updates(Struct, frozen=True, forbid_unknown_fields=True):
    """How a bundle may come from afar.

    Attributes:
        max_bytes: larger bundles are refused before anything is fetched.
        min_free_bytes: of the disk with ``state_dir``, that an update must leave.
        hosts: from which alone bundles are fetched by https, and to which one may redirect; None:
            any, without redirects to others.
        http_hosts: from which also http is taken; loopback always is.
        ca_file: who may have signed their certificates; None: the system's authorities.
        timeout_s: for all of a transfer.
        idle_timeout_s: a connection that brings nothing for so long is given up, then tried again;
            so often are missing chunks asked for.
    """

    max_bytes: Annotated[int, Meta(ge=2**10, le=2**31)] = 2**31
    min_free_bytes: Annotated[int, Meta(ge=0, le=2**50)] = 2**28
    hosts: Annotated[tuple[Host, ...], Meta(max_length=100)] | None = None
    http_hosts: Annotated[tuple[Host, ...], Meta(max_length=100)] = ()
    ca_file: PathText | None = None
    timeout_s: Seconds = 3600.0
    idle_timeout_s: Seconds = 30.0
    probation: Probation = Probation()
