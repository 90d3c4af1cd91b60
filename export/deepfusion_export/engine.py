"""A bundle's TensorRT engine, ahead of the device's own build; trusted and probed as there."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from deepfusion_edge.bundle import store
from deepfusion_edge.bundle.installed import Installed
from deepfusion_edge.errors import StorageError
from deepfusion_edge.runtime.choice import open_engine, span_of
from deepfusion_edge.runtime.engine_cache import EngineCache
from deepfusion_edge.runtime.trt import try_build


def make(
    bundle: Path,
    keys: Sequence[Path],
    *,
    out: Path,
    now: str,
    threshold: int | None = None,
    members: int | None = None,
    policy: bool = True,
    step: Callable[[str], None] = lambda _text: None,
) -> dict[str, object]:
    """Build an engine for this machine's GPU and put it into an engine cache.

    Args:
        bundle: a ``.dfb`` file or a directory.
        keys: public key files that the bundle must be signed with.
        out: folder of the cache; an engine for the same stamp that is there is probed and kept.
        now: UTC, as ``2026-01-31T12:00:00Z``.
        threshold: how many keys must have signed.
        members: K of the agent's configuration; None takes the bundle's.
        policy: whether the agent follows the bundle's policy.
        step: hears what is done next, a line each.

    Returns:
        What was made, for people and machines.

    Raises:
        DeepFusionError: as ``store.install``, and ModelError: no TensorRT, PyCUDA or GPU, or the
            engine computes something else than the bundle.
        StorageError: the folder cannot be written.
    """
    with _trusted(bundle, keys, threshold, now) as installed:
        span = span_of(installed, members=members, policy=policy)
        cache = EngineCache(out)
        step(f"building a TensorRT engine for K = {span}; this can take minutes")
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


def check(
    bundle: Path,
    keys: Sequence[Path],
    *,
    now: str,
    threshold: int | None = None,
    members: int | None = None,
    policy: bool = True,
    step: Callable[[str], None] = lambda _text: None,
) -> dict[str, object]:
    """Ask TensorRT, or tensorrt_rtx where it is not installed, whether it takes the bundle.

    Arguments, result and errors are those of ``make``, without a folder and without a GPU.
    """
    with _trusted(bundle, keys, threshold, now) as installed:
        span = span_of(installed, members=members, policy=policy)
        step(f"parsing and building for K = {span}")
        library, built = try_build(installed.model_bytes(), span)
        return {
            "library": library,
            "bytes": len(built.engine),
            "seconds": round(built.seconds, 1),
            "precision": installed.manifest.precision,
            "members": str(span),
        }


@contextmanager
def _trusted(
    bundle: Path, keys: Sequence[Path], threshold: int | None, now: str
) -> Iterator[Installed]:
    """Install the bundle into a folder of its own for a while, with every check of a device."""
    with tempfile.TemporaryDirectory() as folder:
        yield store.install(bundle, Path(folder, "state"), keys, threshold=threshold, now=now)
