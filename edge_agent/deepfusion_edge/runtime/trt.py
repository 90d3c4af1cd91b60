"""TensorRT behind the ``Session`` protocol; the only file that imports tensorrt and pycuda.

Buffers lie in the GPU's memory at fixed addresses, large enough for the largest K, and are bound
by the tensors' names. The primary CUDA context is current only while this file works, so that no
context is left behind when the process ends. Not thread-safe; any one thread at a time will do.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from typing import Any, NamedTuple

import numpy as np
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
from deepfusion_edge.runtime.engine import Built, Span, build, make_logger, translated

NAME = "TensorRT"
_INSTALL = "install JetPack's python3-libnvinfer (or TensorRT) and pycuda, or use 'ort'"


class Libraries(NamedTuple):
    """The modules ``tensorrt`` and ``pycuda.driver``."""

    trt: Any
    cuda: Any


class Gpu:
    """The first GPU.

    Attributes:
        name: model and compute capability; engines are for one of these.
    """

    def __init__(self, cuda: Any) -> None:  # noqa: ANN401 - a module without type information
        """Find the GPU.

        Raises:
            ModelError: there is none, or no driver for it.
        """
        with translated("no GPU can be used"):
            cuda.init()
            device = cuda.Device(0)
            major, minor = device.compute_capability()
            self.name = f"{device.name()} (compute capability {major}.{minor})"
            self._context = device.retain_primary_context()

    @contextmanager
    def current(self) -> Iterator[None]:
        """Make the GPU's primary context this thread's own for a while."""
        self._context.push()
        try:
            yield
        finally:
            self._context.pop()


class _Buffer(NamedTuple):
    """A tensor's page-locked memory on the host, flat, and its memory on the GPU."""

    host: npt.NDArray[Any]
    device: Any


class TrtSession:
    """A loaded engine.

    Attributes:
        provider: TensorRT, its version and the GPU.
    """

    def __init__(self, engine: bytes, *, libraries: Libraries, gpu: Gpu) -> None:
        """Load an engine that ``build`` made.

        Raises:
            ModelError: it is for another TensorRT or GPU, or is no engine of a bundle.
        """
        trt, self._cuda, self._gpu = libraries.trt, libraries.cuda, gpu
        self.provider = f"{NAME} {trt.__version__} on {gpu.name}"
        self._logger = make_logger(trt)
        with gpu.current(), translated("TensorRT does not load the engine", self._logger):
            self._runtime = trt.Runtime(self._logger)
            self._engine = self._runtime.deserialize_cuda_engine(engine)
            if self._engine is None:
                raise ModelError(
                    f"TensorRT does not load the engine: {self._logger.reason()}",
                    "it was built for another TensorRT or GPU: build it again",
                )
            self._check(trt)
            least, _, most = self._engine.get_tensor_profile_shape("factors", 0)
            self._least, self._most = tuple(least), tuple(most)
            self._image = tuple(self._engine.get_tensor_shape("image"))
            framed = self._engine.get_tensor_dtype("image") == trt.DataType.UINT8
            self._pixel = np.dtype(np.uint8 if framed else np.float32)
            self._context = self._engine.create_execution_context()
            self._stream = self._cuda.Stream()
            self._buffers = self._allocate()

    def run(self, image: GraphImage, factors: Factors) -> Outputs:
        """Run one image, as the graph takes it, through K members given by factors [K, F].

        Raises:
            ModelError: the shapes do not fit the engine, the GPU fails, or an output is not finite.
        """
        if image.shape != self._image or image.dtype != self._pixel:
            raise ModelError(
                f"the model does not run: image is {image.dtype} {image.shape},"
                f" not {self._pixel} {self._image}",
                REPLACE,
            )
        (least, width), (most, _) = self._least, self._most
        fits = factors.ndim == 2 and factors.shape[1] == width and least <= len(factors) <= most  # noqa: PLR2004
        if not fits or factors.dtype != np.float32:
            raise ModelError(
                f"the model does not run: factors are {factors.dtype} {factors.shape},"
                f" not float32 [{least}..{most}, {width}]",
                "run at most as many members as the engine was built for",
            )
        with self._gpu.current(), translated("the model does not run", self._logger):
            found = self._execute({"image": image, "factors": factors})
        return checked_outputs(*found, rows=len(factors))

    def _execute(self, inputs: dict[str, npt.NDArray[Any]]) -> tuple[npt.NDArray[np.float32], ...]:
        for name, values in inputs.items():
            buffer = self._buffers[name]
            filled = buffer.host[: values.size]
            filled[:] = values.ravel()
            self._set_shape(name, values.shape)
            self._cuda.memcpy_htod_async(buffer.device, filled, self._stream)
        if not self._context.execute_async_v3(self._stream.handle):
            raise ModelError(
                f"the model does not run: {self._logger.reason()}", "check the GPU and its driver"
            )
        views = []
        for name in OUTPUTS:
            buffer, shape = self._buffers[name], self._shape(name)
            view = buffer.host[: prod(shape)]
            self._cuda.memcpy_dtoh_async(view, buffer.device, self._stream)
            views.append((view, shape))
        self._stream.synchronize()
        return tuple(view.reshape(shape).copy() for view, shape in views)

    def _check(self, trt: Any) -> None:  # noqa: ANN401 - a module without type information
        engine = self._engine
        names = [engine.get_tensor_name(at) for at in range(engine.num_io_tensors)]
        inputs = [n for n in names if engine.get_tensor_mode(n) == trt.TensorIOMode.INPUT]
        check_names(inputs, [name for name in names if name not in inputs])
        kinds = {name: engine.get_tensor_dtype(name) for name in names}
        if kinds["image"] == trt.DataType.UINT8:
            del kinds["image"]
        others = [name for name, kind in kinds.items() if kind != trt.DataType.FLOAT]
        if others:
            raise ModelError(f"{', '.join(others)} of the engine are not float32", REPLACE)

    def _allocate(self) -> dict[str, _Buffer]:
        """Bind buffers that are large enough for the most members."""
        self._set_shape("image", self._image)
        self._set_shape("factors", self._most)
        buffers = {}
        for name in (*INPUTS, *OUTPUTS):
            kind = self._pixel if name == "image" else np.dtype(np.float32)
            host = self._cuda.pagelocked_empty((prod(self._shape(name)),), kind)
            device = self._cuda.mem_alloc(host.nbytes)
            if not self._context.set_tensor_address(name, int(device)):
                raise ModelError(f"TensorRT refuses a buffer for {name}", REPLACE)
            buffers[name] = _Buffer(host, device)
        return buffers

    def _set_shape(self, name: str, shape: tuple[int, ...]) -> None:
        if not self._context.set_input_shape(name, shape):
            raise ModelError(f"TensorRT refuses {name} of shape {shape}", REPLACE)

    def _shape(self, name: str) -> tuple[int, ...]:
        shape = tuple(self._context.get_tensor_shape(name))
        if min(shape, default=0) < 0:
            raise ModelError(f"{name} has no shape that follows from the inputs", REPLACE)
        return shape


def load_libraries() -> Libraries:
    """Import TensorRT and PyCUDA.

    Raises:
        ModelError: one of them is missing or cannot be loaded.
    """
    try:
        import tensorrt
    except ImportError as error:
        raise ModelError(f"TensorRT is not there ({one_line(error)})", _INSTALL) from error
    try:
        import pycuda.driver
    except ImportError as error:
        raise ModelError(f"PyCUDA is not there ({one_line(error)})", _INSTALL) from error
    return Libraries(tensorrt, pycuda.driver)


def try_build(model: bytes, span: Span) -> tuple[str, Built]:
    """Ask TensorRT whether it takes a graph, and build an engine that is not kept.

    ``tensorrt_rtx``, which needs no GPU, stands in where ``tensorrt`` is not installed.

    Returns:
        Library and version, and what it built.

    Raises:
        ModelError: neither is installed, or the graph is refused.
    """
    try:
        import tensorrt as found
    except ImportError:
        try:
            import tensorrt_rtx as found
        except ImportError as error:
            raise ModelError(
                f"neither TensorRT nor tensorrt_rtx is there ({one_line(error)})",
                "run 'pip install tensorrt-rtx', which needs no GPU",
            ) from error
    return f"{found.__name__} {found.__version__}", build(found, model, span)
