"""What judges frames: an installed bundle, loaded into a runtime."""

import time
from pathlib import Path
from typing import NamedTuple

from deepfusion_edge.bundle.installed import Installed
from deepfusion_edge.bundle.manifest import Manifest
from deepfusion_edge.config import AgentConfig
from deepfusion_edge.errors import ModelError
from deepfusion_edge.runtime.base import Session

CPU = "CPUExecutionProvider"


class Line(NamedTuple):
    """What judges frames.

    Attributes:
        manifest: the bundle's, verified.
        digest: SHA-256 (hex) that names the bundle in every record.
        session: its graph.
        fallback: why the graph is not on the GPU although it was to be; None if nothing is wrong.
    """

    manifest: Manifest
    digest: str
    session: Session
    fallback: str | None = None


def load_line(config: AgentConfig) -> Line:
    """Load the installed bundle of ``state_dir``, verified again, into the configured runtime.

    Raises:
        InputError: nothing is installed.
        TrustError: what is installed is damaged or expired.
        ModelError: the runtime is not there, does not take the graph, gives other outputs, or is
            on the CPU although the configuration requires a GPU.
    """
    from deepfusion_edge.bundle.store import load_current

    return open_line(load_current(Path(config.state_dir), now=utc_now()), config)


def open_line(installed: Installed, config: AgentConfig) -> Line:
    """Load a verified bundle into the configured runtime.

    Raises:
        TrustError, InputError: it was changed on the disk meanwhile.
        ModelError: as for :func:`load_line`.
    """
    from deepfusion_edge.runtime.choice import open_session, span_of
    from deepfusion_edge.runtime.engine_cache import ENGINES

    chosen = config.model
    opened = open_session(
        installed,
        chosen.runtime,
        span_of(installed, members=chosen.members, policy=chosen.policy),
        Path(config.state_dir, ENGINES),
        threads=chosen.threads,
    )
    line = Line(installed.manifest, installed.bundle_hash, opened.session, opened.fallback)
    check_provider(line, require_gpu=chosen.require_gpu)
    return line


def check_provider(line: Line, *, require_gpu: bool) -> None:
    """Refuse a graph that runs on the CPU where a GPU is required.

    Raises:
        ModelError: it does.
    """
    if require_gpu and line.session.provider == CPU:
        why = f" ({line.fallback})" if line.fallback else ""
        raise ModelError(
            f"model.require_gpu is true, but the graph runs on {CPU}{why}",
            "repair what keeps it from the GPU, or set model.require_gpu to false",
        )


def utc_now() -> str:
    """Return the time as manifests spell it: UTC, whole seconds."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
