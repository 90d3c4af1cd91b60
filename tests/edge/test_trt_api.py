"""The runner uses nothing that TensorRT 10.3 or 11 lacks: the fake may offer no more than both."""

import ast
import inspect
import json
from pathlib import Path

import pytest

from deepfusion_edge.runtime import engine, trt
from tests.edge.fake_tensorrt import FakeGpu, fake_cuda, fake_tensorrt

API = json.loads(Path(__file__).with_name("tensorrt_api.json").read_text())
OBJECTS = {
    *("trt", "builder", "network", "config", "parser", "profile", "cache", "kept", "engine"),
    *(
        "problem",
        "_engine",
        "_context",
        "_runtime",
        "_stream",
        "_cuda",
        "cuda",
        "device",
        "ComputeCapability",
    ),
    *("BuilderFlag", "DataType", "ILogger", "NetworkDefinitionCreationFlag", "TensorIOMode"),
}
"""What variables and attributes that hold TensorRT's and PyCUDA's objects are called."""
RTX_ONLY = {"ComputeCapability", "num_compute_capabilities", "set_compute_capability"}
"""Asked for only where it is there, by ``hasattr``."""


def offered(value) -> set[str]:
    return {name for name in vars(value) if not name.startswith("_")}


def beyond(classes: dict[str, type], known: dict[str, list[str]]) -> set[str]:
    """``Class.name`` of everything that is offered and not known."""
    return {
        f"{name}.{attribute}"
        for name, found in classes.items()
        for attribute in offered(found)
        if attribute not in known.get(name, [])
    }


@pytest.mark.parametrize("version", sorted(API["versions"]))
def test_the_fake_offers_only_what_this_version_has(version):
    known = API["versions"][version]
    classes = {
        name: found
        for name, found in vars(fake_tensorrt(FakeGpu())).items()
        if isinstance(found, type)
    }
    assert set(classes) <= set(known)
    assert beyond(classes, known) == set()
    classes["IExecutionContext"] = type("Old", (), {"execute_async_v2": None, "name": ""})
    assert beyond(classes, known) == {"IExecutionContext.execute_async_v2"}


def test_the_fake_offers_only_what_pycuda_has():
    known = API["pycuda"]["names"]
    cuda = fake_cuda(FakeGpu())
    assert set(vars(cuda)) <= set(known["driver"])
    classes = {name: found for name, found in vars(cuda).items() if name in known}
    assert beyond(classes, known) == set()


def attributes(source: str) -> set[str]:
    """Names that a source asks TensorRT's and PyCUDA's objects for."""
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Attribute)]
    holders = {node: getattr(node.value, "attr", getattr(node.value, "id", "")) for node in nodes}
    return {node.attr for node, holder in holders.items() if holder in OBJECTS}


def test_every_name_in_the_source_is_in_both_versions():
    """The second route: what no test reaches is found too."""
    source = inspect.getsource(engine) + inspect.getsource(trt)
    cuda = {name for names in API["pycuda"]["names"].values() for name in names}
    shared = set.intersection(
        *(
            {*known, *(name for names in known.values() for name in names)}
            for known in API["versions"].values()
        )
    )
    used = attributes(source)
    assert {"execute_async_v3", "build_serialized_network", "TF32", "mem_alloc"} <= used
    assert used - cuda - shared == RTX_ONLY | {"__version__", "__init__"}
    for gone in ("trt.BuilderFlag.FP16", "config.int8_calibrator", "parser.supports_model"):
        assert attributes(f"{source}\nvalue = {gone}") - used - shared


def test_the_list_says_where_it_comes_from():
    assert "tensorrt-cu12-bindings 10.3.0" in API["source"]
    assert sorted(API["versions"]) == ["10.3.0", "11.4.0.106"]
