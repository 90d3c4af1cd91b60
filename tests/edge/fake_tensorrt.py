"""A TensorRT and a PyCUDA without a GPU: what the runner uses, computed by ONNX Runtime.

They are as strict as the real ones where a mistake would show only on a device: nothing works
without a current context, a stream's work is done when it is synchronised and not before, device
memory is reached by its address alone, and an engine loads only where it was built.
"""

import json
import types
from math import prod

import numpy as np
import onnx
import onnxruntime

HEAD = b"fake engine\n"


class FakeCudaError(Exception):
    pass


class FakeGpu:
    """What one machine has: device memory, and the contexts that are current."""

    def __init__(self, name="Orin", capability=(8, 7)):
        self.name, self.capability = name, capability
        self.memory, self.streams, self.current = {}, {}, []
        self.builds = self.pushes = 0

    def require_context(self):
        if not self.current:
            raise FakeCudaError("invalid device context")


def _devices(gpu):
    class Context:
        def push(self):
            gpu.current.append(self)
            gpu.pushes += 1

        @staticmethod
        def pop():
            gpu.current.pop()

    class Device:
        def __init__(self, number):
            assert number == 0

        def name(self):
            return gpu.name

        def compute_capability(self):
            return gpu.capability

        def retain_primary_context(self):
            return Context()

    def init():
        if gpu is None:
            raise FakeCudaError("cuInit failed: no CUDA-capable device is detected")

    return {"Context": Context, "Device": Device, "init": init}


def _memory(gpu):
    class DeviceAllocation:
        def __init__(self, size):
            self._address = 4096 + sum(len(block) for block in gpu.memory.values())
            gpu.memory[self._address] = bytearray(size)

        def __int__(self):
            return self._address

    def mem_alloc(size):
        gpu.require_context()
        return DeviceAllocation(size)

    def pagelocked_empty(shape, dtype):
        gpu.require_context()
        return np.full(shape, np.nan if np.issubdtype(dtype, np.floating) else 255, dtype)

    return {
        "DeviceAllocation": DeviceAllocation,
        "mem_alloc": mem_alloc,
        "pagelocked_empty": pagelocked_empty,
    }


def _streams(gpu):
    class Stream:
        def __init__(self):
            gpu.require_context()
            self._work = []
            self.handle = id(self)
            gpu.streams[self.handle] = self

        def synchronize(self):
            gpu.require_context()
            while self._work:
                self._work.pop(0)()

    def memcpy_htod_async(target, source, stream):
        assert source.flags.c_contiguous
        block = gpu.memory[int(target)]

        def copy():
            block[: source.nbytes] = source.tobytes()

        stream._work.append(copy)

    def memcpy_dtoh_async(target, source, stream):
        block = gpu.memory[int(source)]

        def copy():
            target[:] = np.frombuffer(block[: target.nbytes], target.dtype)

        stream._work.append(copy)

    return {
        "Stream": Stream,
        "memcpy_dtoh_async": memcpy_dtoh_async,
        "memcpy_htod_async": memcpy_htod_async,
    }


def fake_cuda(gpu):
    """``pycuda.driver`` for one GPU; ``gpu=None`` has no driver."""
    return types.SimpleNamespace(
        Error=FakeCudaError, **_devices(gpu), **_memory(gpu), **_streams(gpu)
    )


class ILogger:
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)


class NetworkDefinitionCreationFlag:
    STRONGLY_TYPED = 1


class BuilderFlag:
    TF32 = 7


class DataType:
    FLOAT, HALF, UINT8 = 0, 1, 5


class TensorIOMode:
    NONE, INPUT, OUTPUT = range(3)


class ITensor:
    def __init__(self, value):
        kind = value.type.tensor_type
        self.name = value.name
        self.shape = tuple(d.dim_value or -1 for d in kind.shape.dim)
        kinds = {onnx.TensorProto.FLOAT: DataType.FLOAT, onnx.TensorProto.UINT8: DataType.UINT8}
        self.dtype = kinds.get(kind.elem_type, DataType.HALF)


class INetworkDefinition:
    def __init__(self):
        self._model, self._inputs, self._outputs = b"", [], []

    num_inputs = property(lambda self: len(self._inputs))
    num_outputs = property(lambda self: len(self._outputs))

    def get_input(self, at):
        return self._inputs[at]

    def get_output(self, at):
        return self._outputs[at]


class ParserError:
    def __init__(self, text):
        self._text = text

    def desc(self):
        return self._text

    def node_operator(self):
        return ""

    def node_name(self):
        return ""


class OnnxParser:
    def __init__(self, network, logger):
        self._network, self._logger, self._errors = network, logger, []

    num_errors = property(lambda self: len(self._errors))

    def get_error(self, at):
        return self._errors[at]

    def parse(self, model):
        try:
            graph = onnx.load_from_string(model).graph
            onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
        except Exception as error:  # noqa: BLE001 - any reason becomes a parser error, as there
            self._errors.append(ParserError(f"cannot parse:\n{error}"))
            return False
        self._network._model = model
        self._network._inputs = [ITensor(value) for value in graph.input]
        self._network._outputs = [ITensor(value) for value in graph.output]
        return True


class IOptimizationProfile:
    def __init__(self):
        self._shapes = {}

    def set_shape(self, name, low, usual, high):
        if not all(a <= b <= c for a, b, c in zip(low, usual, high, strict=True)):
            raise RuntimeError("Shape provided for max is inconsistent with other shapes.")
        self._shapes[name] = (tuple(low), tuple(usual), tuple(high))


class ITimingCache:
    def __init__(self, content):
        self._content = content

    def serialize(self):
        return self._content


class IBuilderConfig:
    def __init__(self):
        self._flags, self._profiles, self._timing = {BuilderFlag.TF32}, [], None

    def clear_flag(self, flag):
        self._flags.discard(flag)

    def add_optimization_profile(self, profile):
        self._profiles.append(profile)
        return len(self._profiles) - 1

    def create_timing_cache(self, content):
        return ITimingCache(content) if content.startswith(b"timed") or not content else None

    def set_timing_cache(self, cache, ignore_mismatch):
        assert not ignore_mismatch
        self._timing = cache
        return True

    def get_timing_cache(self):
        return self._timing


def fake_tensorrt(gpu, version="10.3.0", *, engine_of=lambda model: model, refuse=""):
    """The module ``tensorrt`` on a GPU.

    ``engine_of(model)`` may build something else than the graph says; ``refuse`` is the reason why
    no engine can be built.
    """

    class Builder:
        def __init__(self, logger):
            gpu.require_context()
            self._logger = logger

        def create_network(self, flags=0):
            assert flags == 1 << NetworkDefinitionCreationFlag.STRONGLY_TYPED
            return INetworkDefinition()

        def create_builder_config(self):
            return IBuilderConfig()

        def create_optimization_profile(self):
            return IOptimizationProfile()

        def build_serialized_network(self, network, config):
            if refuse:
                self._logger.log(ILogger.ERROR, refuse)
                return None
            assert BuilderFlag.TF32 not in config._flags
            gpu.builds += 1
            config._timing._content += b"timed"
            (profile,) = config._profiles
            head = {"version": version, "gpu": gpu.name, "shapes": profile._shapes}
            return HEAD + json.dumps(head).encode() + b"\n" + engine_of(network._model)

    class Runtime:
        def __init__(self, logger):
            self._logger = logger

        def deserialize_cuda_engine(self, data):
            gpu.require_context()
            if data.startswith(HEAD):
                text, _, model = data.removeprefix(HEAD).partition(b"\n")
                head = json.loads(text)
                if (head["version"], head["gpu"]) == (version, gpu.name):
                    return ICudaEngine(gpu, head["shapes"], model)
            self._logger.log(ILogger.ERROR, "Serialization assertion failed:\nversion mismatch")
            return None

    return types.SimpleNamespace(
        __version__=version,
        Builder=Builder,
        BuilderFlag=BuilderFlag,
        DataType=DataType,
        IBuilderConfig=IBuilderConfig,
        ICudaEngine=ICudaEngine,
        IExecutionContext=IExecutionContext,
        ILogger=ILogger,
        INetworkDefinition=INetworkDefinition,
        IOptimizationProfile=IOptimizationProfile,
        ITensor=ITensor,
        ITimingCache=ITimingCache,
        NetworkDefinitionCreationFlag=NetworkDefinitionCreationFlag,
        OnnxParser=OnnxParser,
        ParserError=ParserError,
        Runtime=Runtime,
        TensorIOMode=TensorIOMode,
    )


class ICudaEngine:
    def __init__(self, gpu, shapes, model):
        self._gpu, self._shapes = gpu, shapes
        graph = onnx.load_from_string(model).graph
        self._tensors = {value.name: ITensor(value) for value in (*graph.input, *graph.output)}
        self._inputs = {value.name for value in graph.input}
        self._session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])

    num_io_tensors = property(lambda self: len(self._tensors))

    def get_tensor_name(self, at):
        return list(self._tensors)[at]

    def get_tensor_mode(self, name):
        return TensorIOMode.INPUT if name in self._inputs else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name):
        return self._tensors[name].dtype

    def get_tensor_shape(self, name):
        return self._tensors[name].shape

    def get_tensor_profile_shape(self, name, profile):
        assert profile == 0
        return self._shapes[name]

    def create_execution_context(self):
        self._gpu.require_context()
        return IExecutionContext(self)


class IExecutionContext:
    def __init__(self, engine):
        self._engine, self._shapes, self._addresses = engine, {}, {}

    def _kind(self, name):
        framed = self._engine.get_tensor_dtype(name) == DataType.UINT8
        return np.dtype(np.uint8 if framed else np.float32)

    def set_input_shape(self, name, shape):
        profile = self._engine._shapes.get(name)
        if profile is None:
            fits = tuple(shape) == self._engine.get_tensor_shape(name)
        else:
            low, _, high = profile
            fits = all(a <= b <= c for a, b, c in zip(low, shape, high, strict=True))
        if fits:
            self._shapes[name] = tuple(shape)
        return fits

    def get_tensor_shape(self, name):
        if name in self._engine._inputs:
            return self._shapes.get(name, self._engine.get_tensor_shape(name))
        zeros = {key: np.zeros(shape, self._kind(key)) for key, shape in self._shapes.items()}
        return self._engine._session.run([name], zeros)[0].shape

    def set_tensor_address(self, name, address):
        size = self._kind(name).itemsize * prod(self.get_tensor_shape(name))
        if len(self._engine._gpu.memory[address]) < size:
            return False
        self._addresses[name] = address
        return True

    def execute_async_v3(self, handle):
        gpu = self._engine._gpu
        gpu.require_context()
        if set(self._addresses) != set(self._engine._tensors):
            return False
        shapes = dict(self._shapes)

        def execute():
            feeds = {
                name: np.frombuffer(
                    gpu.memory[self._addresses[name]], self._kind(name), prod(shape)
                ).reshape(shape)
                for name, shape in shapes.items()
            }
            names = [name for name in self._engine._tensors if name not in feeds]
            for name, values in zip(names, self._engine._session.run(names, feeds), strict=True):
                data = np.asarray(values, np.float32).tobytes()
                gpu.memory[self._addresses[name]][: len(data)] = data

        gpu.streams[handle]._work.append(execute)
        return True
