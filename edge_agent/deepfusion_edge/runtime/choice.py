"""Which runtime judges, by the configuration; TensorRT's engine is probed before it may.

``ort``   ONNX Runtime on the CPU
``trt``   TensorRT or nothing: what is missing or differs is an error
``auto``  TensorRT where it works, otherwise ONNX Runtime, and the caller is told why
"""

import logging
from pathlib import Path
from typing import Literal, NamedTuple

from deepfusion_edge.bundle.installed import Installed
from deepfusion_edge.bundle.manifest import GOLDEN, Manifest
from deepfusion_edge.errors import ModelError
from deepfusion_edge.probe import probe, read_golden
from deepfusion_edge.runtime.base import Session
from deepfusion_edge.runtime.engine import Span, build
from deepfusion_edge.runtime.engine_cache import EngineCache
from deepfusion_edge.runtime.ort import OrtSession
from deepfusion_edge.runtime.trt import Gpu, Libraries, TrtSession, load_libraries

log = logging.getLogger(__name__)

RuntimeName = Literal["ort", "trt", "auto"]


class Opened(NamedTuple):
    """A loaded graph, and why it is not on the GPU although it was to be, if so."""

    session: Session
    fallback: str | None = None


def open_session(
    installed: Installed, runtime: RuntimeName, span: Span, engines: Path, *, threads: int = 0
) -> Opened:
    """Load a bundle's graph.

    Args:
        installed: the bundle, verified.
        runtime: see the module's text.
        span: which numbers of members will run.
        engines: folder of the engine cache.
        threads: of ONNX Runtime.

    Raises:
        ModelError: the runtime that is asked for is not there, or computes something else.
        TrustError, InputError: the model file was changed or cannot be read.
    """
    fallback = None
    if runtime != "ort":
        cache = EngineCache(engines)
        try:
            session = open_engine(installed, span, cache)
        except ModelError as error:
            if runtime == "trt":
                raise
            fallback = f"not on the GPU: {error.what}"
        else:
            cache.forget_others({path.name for path in installed.directory.parent.iterdir()})
            return Opened(session)
    return Opened(OrtSession(installed.model_bytes(), threads=threads), fallback)


def open_engine(
    installed: Installed, span: Span, cache: EngineCache, libraries: Libraries | None = None
) -> TrtSession:
    """Load the bundle's engine from the cache, or build it (minutes) and keep it.

    Either has to answer the bundle's golden probe; a kept one that does not is built again.

    Raises:
        ModelError: no TensorRT, PyCUDA or GPU, or the engine is refused or computes something else.
    """
    libraries = libraries or load_libraries()
    gpu = Gpu(libraries.cuda)
    machine = {"tensorrt": str(libraries.trt.__version__), "gpu": gpu.name}
    stamp = machine | {
        "bundle": installed.bundle_hash,
        "precision": installed.manifest.precision,
        "members": str(span),
    }
    kept = cache.engine(stamp)
    if kept is not None:
        try:
            return _probed(kept, installed, libraries, gpu)
        except ModelError as error:
            log.warning("the kept engine is not used: %s", error.what)
    log.info("building a TensorRT engine for K = %s; this can take minutes", span)
    with gpu.current():
        built = build(libraries.trt, installed.model_bytes(), span, timing=cache.timing(machine))
    log.info("built in %.0f s, %d bytes", built.seconds, len(built.engine))
    session = _probed(built.engine, installed, libraries, gpu)
    cache.keep_timing(machine, built.timing)
    cache.keep_engine(stamp, built.engine)
    return session


def span_of(installed: Installed, *, members: int | None, policy: bool) -> Span:
    """Tell which numbers of members the agent will run: the policy's, the largest, the probe's.

    Args:
        installed: the bundle.
        members: K of the configuration; None takes the bundle's.
        policy: whether the bundle's policy may choose.
    """
    manifest = installed.manifest
    most = members or manifest.erosion.members
    begins = manifest.policy if policy and members is None else None
    golden = read_golden(installed.member_bytes(GOLDEN), manifest)
    return Span(1, begins.start if begins else most, max(most, golden.members))


def _probed(engine: bytes, installed: Installed, libraries: Libraries, gpu: Gpu) -> TrtSession:
    manifest: Manifest = installed.manifest
    session = TrtSession(engine, libraries=libraries, gpu=gpu)
    probe(session, read_golden(installed.member_bytes(GOLDEN), manifest), manifest)
    return session
