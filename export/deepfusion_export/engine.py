"""A bundle's TensorRT engine, ahead of the device's own build; trusted and probed as there."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from deepfusion_edge.bundle import store
from deepfusion_edge.bundle.installed import Installed
from deepfusion_edge.errors import StorageError
from deepfusion_edge.runtime.choice import open_engine, span_of
from deepfusion_edge.runtime.engine import Span
from deepfusion_edge.runtime.engine_cache import EngineCache
from deepfusion_edge.runtime.trt import try_build


class Wanted(NamedTuple):
    """A bundle to trust, and how the agent will run it.

    Attributes:
        bundle: a ``.dfb`` file or a directory.
        keys: public key files that it must be signed with.
        now: UTC, as ``2026-01-31T12:00:00Z``.
        threshold: how many keys must have signed; as for ``store.install``.
        members: K of the agent's configuration; None takes the bundle's.
        policy: whether the agent follows the bundle's policy.
        step: hears what is done next, a line each.
    """

    bundle: Path
    keys: Sequence[Path]
    now: str
    threshold: int | None = None
    members: int | None = None
    policy: bool = True
    step: Callable[[str], None] = lambda _text: None

    @contextmanager
    def trusted(self) -> Iterator[tuple[Installed, Span]]:
        """Install it into a folder of its own for a while, with every check of a device.

        Raises:
            DeepFusionError: as ``store.install``.
        """
        with tempfile.TemporaryDirectory() as folder:
            state = Path(folder, "state")
            found = store.install(
                self.bundle, state, self.keys, threshold=self.threshold, now=self.now
            )
            yield found, span_of(found, members=self.members, policy=self.policy)


def make(wanted: Wanted, out: Path) -> dict[str, object]:
    """Build an engine for this machine's GPU and put it into an engine cache.

    Args:
        wanted: the bundle.
        out: folder of the cache; an engine for the same stamp that is there is probed and kept.

    Returns:
        What was made, for people and machines.

    Raises:
        DeepFusionError: as ``store.install``, and ModelError: no TensorRT, PyCUDA or GPU, or the
            engine computes something else than the bundle.
        StorageError: the folder cannot be written.
    """
    with wanted.trusted() as (installed, span):
        cache = EngineCache(out)
        wanted.step(f"building a TensorRT engine for K = {span}; this can take minutes")
        session = open_engine(installed, span, cache)
        path = cache.path_of(installed.bundle_hash)
        if not path.is_file():
            raise StorageError(f"cannot write {path}", "make the folder writable")
        return {
            "engine": str(path),
            "bytes": path.stat().st_size,
            "provider": session.provider,
            "precision": installed.manifest.precision,
            "members": str(span),
        }


def check(wanted: Wanted) -> dict[str, object]:
    """Ask TensorRT, or tensorrt_rtx where it is not installed, whether it takes the bundle.

    Result and errors are those of ``make``, without a folder and without a GPU.
    """
    with wanted.trusted() as (installed, span):
        wanted.step(f"parsing and building for K = {span}")
        library, built = try_build(installed.model_bytes(), span)
        return {
            "library": library,
            "bytes": len(built.engine),
            "seconds": round(built.seconds, 1),
            "precision": installed.manifest.precision,
            "members": str(span),
        }
