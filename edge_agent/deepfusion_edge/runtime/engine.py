"""From an ONNX graph to a TensorRT engine, with the calls that TensorRT 10.3 and 11 share.

The module ``tensorrt`` is an argument, so that ``tensorrt_rtx``, which builds without a GPU, serves
for a check. Precision lies in the graph: the network is strongly typed, no builder flag converts.
"""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from deepfusion_edge.errors import DeepFusionError, ModelError
from deepfusion_edge.runtime.base import REPLACE, check_names, one_line

log = logging.getLogger(__name__)

_CHECK_TARGET = "SM86"
_ONE_IMAGE = 2  # dimensions of factors [K, F]


class Span(NamedTuple):
    """The numbers of members K that one engine serves, and the one it is tuned for."""

    least: int
    usual: int
    most: int

    def __str__(self) -> str:
        return f"{self.least}..{self.most}, tuned for {self.usual}"


class Built(NamedTuple):
    """A serialised engine, the timing cache after its build, and how long that took."""

    engine: bytes
    timing: bytes
    seconds: float


def build(trt: Any, model: bytes, span: Span, *, timing: bytes = b"") -> Built:  # noqa: ANN401
    """Parse a graph and build an engine for this machine's GPU.

    Args:
        trt: the module ``tensorrt``.
        model: an ONNX model that passed ``bundle.onnx_check``.
        span: which K it has to serve.
        timing: a timing cache of the same TensorRT and GPU; empty for none.

    Raises:
        ModelError: TensorRT does not take the graph, or cannot build for this machine.
    """
    begun = time.perf_counter()
    logger = make_logger(trt)
    with translated("TensorRT does not build the engine", logger):
        builder = trt.Builder(logger)
        network = builder.create_network(_strongly_typed(trt))
        _parse(trt.OnnxParser(network, logger), network, model)
        config = builder.create_builder_config()
        _configure(trt, builder, config, network, span)
        cache = config.create_timing_cache(timing) or config.create_timing_cache(b"")
        if cache is not None:
            config.set_timing_cache(cache, ignore_mismatch=False)
        engine = builder.build_serialized_network(network, config)
        if engine is None:
            raise ModelError(
                f"TensorRT does not build the engine: {logger.reason()}",
                "free some GPU memory, or use 'ort' as the runtime",
            )
        kept = config.get_timing_cache()
        timed = b"" if kept is None else bytes(kept.serialize())
        return Built(bytes(engine), timed, time.perf_counter() - begun)


def make_logger(trt: Any) -> Any:  # noqa: ANN401 - a class of a module without type information
    """Make a TensorRT logger that remembers its newest error and passes all on as debug lines."""

    class Logger(trt.ILogger):  # type: ignore[misc] # no type information
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self._newest = "no reason was given"

        def log(self, severity: object, msg: str) -> None:
            log.debug("TensorRT: %s", msg)
            if severity in {trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR}:
                self._newest = one_line(msg)

        def reason(self) -> str:
            return self._newest

    return Logger()


@contextmanager
def translated(what: str, logger: Any = None) -> Iterator[None]:  # noqa: ANN401
    """Turn what TensorRT and PyCUDA raise, which share no base class, into ModelError."""
    try:
        yield
    except DeepFusionError:
        raise
    except Exception as error:
        reason = one_line(error) if logger is None else f"{one_line(error)} ({logger.reason()})"
        raise ModelError(f"{what}: {reason}", "check the GPU's driver, or use 'ort'") from error


def _strongly_typed(trt: Any) -> int:  # noqa: ANN401
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)  # it may go once nothing else is left


def _parse(parser: Any, network: Any, model: bytes) -> None:  # noqa: ANN401
    if not parser.parse(model):
        problems = [parser.get_error(at) for at in range(parser.num_errors)]
        reasons = [
            f"operator {problem.node_operator() or '?'} {problem.node_name()!a}: {problem.desc()}"
            for problem in problems
        ]
        raise ModelError(
            f"TensorRT does not take the graph: {one_line('; '.join(reasons))}", REPLACE
        )
    check_names(
        [network.get_input(at).name for at in range(network.num_inputs)],
        [network.get_output(at).name for at in range(network.num_outputs)],
    )


def _configure(trt: Any, builder: Any, config: Any, network: Any, span: Span) -> None:  # noqa: ANN401
    inputs = [network.get_input(at) for at in range(network.num_inputs)]
    (factors,) = (tuple(found.shape) for found in inputs if found.name == "factors")
    if len(factors) > _ONE_IMAGE:
        raise ModelError(
            "the graph takes several images a run, engines are built for one",
            "export the bundle without --images, or use 'ort'",
        )
    width = factors[1]
    profile = builder.create_optimization_profile()
    profile.set_shape("factors", *((members, width) for members in span))
    if config.add_optimization_profile(profile) < 0:
        raise ModelError(f"TensorRT refuses K = {span}", REPLACE)
    config.clear_flag(trt.BuilderFlag.TF32)  # its 10 bits of mantissa would not be fp32
    if hasattr(config, "set_compute_capability"):  # tensorrt_rtx names its GPU, or needs one
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(trt.ComputeCapability, _CHECK_TARGET), 0)
