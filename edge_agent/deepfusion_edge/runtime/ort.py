"""ONNX Runtime behind the ``Session`` protocol; the only file that imports onnxruntime."""

from typing import Any

import numpy.typing as npt

from deepfusion_edge.erosion import Factors
from deepfusion_edge.errors import ModelError
from deepfusion_edge.fusion import Outputs
from deepfusion_edge.image import GraphImage
from deepfusion_edge.runtime.base import (
    INPUTS,
    OUTPUTS,
    REPLACE,
    check_names,
    checked_outputs,
    one_line,
)

CPU = "CPUExecutionProvider"
_FATAL = 4
_SEVERAL = 3  # dimensions of factors [N, K, F]


class OrtSession:
    """A loaded graph.

    Attributes:
        provider: the execution provider that really runs.
        several: whether the graph takes several images, so that ``run_several`` can be called.
    """

    def __init__(self, model_bytes: bytes, *, threads: int = 0, provider: str = CPU) -> None:
        """Load a graph.

        Args:
            model_bytes: an ONNX model that passed ``bundle.onnx_check``.
            threads: threads within one operator; 0 lets ONNX Runtime choose.
            provider: execution provider, as ONNX Runtime names it; no other is fallen back to.

        Raises:
            ModelError: ONNX Runtime is missing, has no such provider, or does not take the graph.
        """
        runtime = _import()
        available = runtime.get_available_providers()
        if provider not in available:
            raise ModelError(
                f"ONNX Runtime has no {provider}, only {', '.join(available)}",
                "choose one of these, or install the ONNX Runtime build that has it",
            )
        runtime.disable_telemetry_events()
        options = runtime.SessionOptions()
        options.log_severity_level = _FATAL
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        try:
            self._session = runtime.InferenceSession(model_bytes, options, providers=[provider])
        except Exception as error:  # its exceptions share no base class but this one
            raise ModelError(
                f"ONNX Runtime does not take the model: {one_line(error)}", REPLACE
            ) from error
        self._session.disable_fallback()
        self.provider = str(self._session.get_providers()[0])
        if self.provider != provider:
            raise ModelError(
                f"ONNX Runtime runs on {self.provider} instead of {provider}",
                "repair the driver, or configure the provider that is there",
            )
        inputs = {value.name: value for value in self._session.get_inputs()}
        check_names(list(inputs), [value.name for value in self._session.get_outputs()])
        self.several = len(inputs[INPUTS[1]].shape) == _SEVERAL

    def run(self, image: GraphImage, factors: Factors) -> Outputs:
        """Run one image, as the graph takes it, through K members given by factors [K, F].

        Raises:
            ModelError: the shapes do not fit the graph, or an output is not finite.
        """
        if self.several:
            return self.run_several(image, factors[None])[0]
        return checked_outputs(*self._run(image, factors), rows=len(factors))

    def run_several(self, images: GraphImage, factors: Factors) -> list[Outputs]:
        """Run N images, as the graph takes them, each through K members: factors [N, K, F].

        Raises:
            ModelError: the graph takes one image, the shapes do not fit it, or an output is not
                finite.
        """
        if not self.several:
            raise ModelError("the graph takes one image", "export the bundle with --images N")
        found = self._run(images, factors)
        if {len(values) for values in found if values.ndim} != {len(images)}:
            shapes = ", ".join(str(values.shape) for values in found)
            raise ModelError(f"outputs have the shapes {shapes} for N = {len(images)}", REPLACE)
        rows = factors.shape[1]
        return [checked_outputs(*own, rows=rows) for own in zip(*found, strict=True)]

    def _run(self, image: GraphImage, factors: Factors) -> tuple[npt.NDArray[Any], ...]:
        feeds = dict(zip(INPUTS, (image, factors), strict=True))
        try:
            fused, members, variance = self._session.run(list(OUTPUTS), feeds)
        except Exception as error:  # its exceptions share no base class but this one
            raise ModelError(f"the model does not run: {one_line(error)}", REPLACE) from error
        return fused, members, variance


def _import() -> Any:  # noqa: ANN401 - a module without type information
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise ModelError(
            f"ONNX Runtime is not installed ({one_line(error)})",
            "run 'pip install deepfusion-edge[ort]'",
        ) from error
    except ImportError as error:
        raise ModelError(
            f"ONNX Runtime cannot be loaded ({one_line(error)})",
            "give it more memory, or install it again",
        ) from error
    return onnxruntime
