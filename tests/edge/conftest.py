"""Small signed bundles made with plain onnx helpers, without torch.

The graph is a toy with a known answer: its features are the mean red, green and blue of the image,
so that with the defaults the class is the strongest colour.
"""

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from onnx import TensorProto, helper, numpy_helper

from benchmarks.prove.faults import storage
from benchmarks.prove.faults.claim import NotPossibleError
from deepfusion_edge import erosion, fusion
from deepfusion_edge.bundle.container import pack
from deepfusion_edge.bundle.envelope import generate, key_id, private_pem, public_pem, seal
from deepfusion_edge.bundle.manifest import (
    GOLDEN,
    MANIFEST,
    MODEL,
    SIGNATURE,
    Erosion,
    Golden,
    Manifest,
    Preprocess,
    canonical,
    part,
)
from deepfusion_edge.erosion import Site
from deepfusion_edge.outbox import Outbox
from deepfusion_edge.policy import Policy
from tests.edge.mqtt_parts import Listener

COLOURS = ("red", "green", "blue")
SITES = (Site(name="colour", kind="activation", channels=3, strength=0.2),)
GAIN = 20.0


@dataclass(frozen=True)
class Keys:
    """A signing key, its id, and the two files that ``deepfusion-export keygen`` would write."""

    private: Ed25519PrivateKey
    private_path: Path
    public: Path

    @property
    def id(self) -> str:
        return key_id(self.private.public_key())


@pytest.fixture
def make_keys(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Keys]:
    def make() -> Keys:
        folder = tmp_path_factory.mktemp("keys")
        private = generate()
        (folder / "line.key").write_bytes(private_pem(private))
        (folder / "line.pub").write_bytes(public_pem(private.public_key()))
        return Keys(private, folder / "line.key", folder / "line.pub")

    return make


@pytest.fixture
def keys(make_keys: Callable[[], Keys]) -> Keys:
    """The key pair that ``make_bundle`` signs with."""
    return make_keys()


def _weights(width: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    mix = np.zeros((3, width), np.float32)
    mix[np.arange(width) % 3, np.arange(width)] = 1
    head = np.zeros((width, classes), np.float32)
    head[np.arange(width), np.arange(width) % classes] = GAIN
    return mix, head


def toy_model(width: int, classes: int, image: tuple[int, int]) -> onnx.ModelProto:
    """Build image [1, 3, H, W], factors [K, width] -> fused, members, feature_variance."""
    mix, head = _weights(width, classes)
    axes = {"hw": [2, 3], "zero": [0]}
    constants = {
        "mix": mix,
        "head": head,
        "tiny": np.float32(fusion.TINY),
        **{name: np.array(value, np.int64) for name, value in axes.items()},
    }
    node = helper.make_node
    nodes = [
        node("ReduceMean", ["image", "hw"], ["mean"], keepdims=0),
        node("MatMul", ["mean", "mix"], ["plain"]),
        node("Mul", ["plain", "factors"], ["features"]),
        node("MatMul", ["features", "head"], ["logits"]),
        node("Softmax", ["logits"], ["members"], axis=-1),
        node("ReduceMean", ["members", "zero"], ["fused"], keepdims=0),
        node("ReduceMean", ["features", "zero"], ["centre"], keepdims=1),
        node("Sub", ["features", "centre"], ["off"]),
        node("Mul", ["off", "off"], ["square"]),
        node("ReduceMean", ["square", "zero"], ["variance"], keepdims=0),
        node("ReduceSum", ["variance"], ["spread"], keepdims=0),
        node("Mul", ["centre", "centre"], ["power"]),
        node("ReduceSum", ["power"], ["size"], keepdims=0),
        node("Add", ["size", "tiny"], ["positive"]),
        node("Div", ["spread", "positive"], ["feature_variance"]),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "toy",
        [
            value("image", TensorProto.FLOAT, [1, 3, *image]),
            value("factors", TensorProto.FLOAT, ["K", width]),
        ],
        [
            value("fused", TensorProto.FLOAT, [classes]),
            value("members", TensorProto.FLOAT, ["K", classes]),
            value("feature_variance", TensorProto.FLOAT, []),
        ],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    opset = [helper.make_opsetid("", 18)]
    return helper.make_model(graph, opset_imports=opset, ir_version=9)


def toy_outputs(image: np.ndarray, factors: np.ndarray, width: int, classes: int) -> fusion.Outputs:
    """Compute what the toy graph computes, by the reference rules in numpy."""
    mix, head = _weights(width, classes)
    features = (image.mean(axis=(2, 3)) @ mix) * factors
    logits = features @ head
    power = np.exp(logits - logits.max(axis=1, keepdims=True))
    members = power / power.sum(axis=1, keepdims=True)
    return fusion.Outputs(fusion.fuse(members), members, fusion.feature_variance(features))


def toy_golden(sites: Sequence[Site], classes: int, image: tuple[int, int]) -> Golden:
    pixels = erosion.uniform(5, 0, 3 * image[0] * image[1]).reshape(1, 3, *image)
    factors = erosion.sample(sites, seed=6, stream=0, members=4)
    outputs = toy_outputs(pixels.astype(np.float32), factors, erosion.width(sites), classes)
    return Golden(
        image_seed=5,
        factor_seed=6,
        members=4,
        fused=tuple(float(value) for value in outputs.fused),
        feature_variance=outputs.feature_variance,
    )


@pytest.fixture
def make_bundle(keys: Keys) -> Callable[..., Path]:
    """``make_bundle(path, id=, sequence=, sites=, classes=, mutate=, ...)`` -> path.

    A path without a suffix becomes a directory bundle. ``mutate(manifest)`` returns the manifest to
    sign; ``model``, ``golden`` and ``extra`` replace or add members; ``signers`` are private keys.
    """

    def make(
        path: Path,
        *,
        id: str = "line",  # noqa: A002 - as the manifest names it
        sequence: int = 1,
        sites: Sequence[Site] = SITES,
        classes: Sequence[str] = COLOURS,
        image: tuple[int, int] = (8, 8),
        members: int = 4,
        created: str = "2026-01-01T00:00:00Z",
        expires: str = "2036-01-01T00:00:00Z",
        thresholds: fusion.Thresholds | None = None,
        policy: Policy | None = None,
        mutate: Callable[[Manifest], Manifest] = lambda manifest: manifest,
        model: bytes | None = None,
        golden: Golden | None = None,
        extra: dict[str, bytes] | None = None,
        signers: Sequence[Ed25519PrivateKey] | None = None,
    ) -> Path:
        if model is None:
            toy = toy_model(erosion.width(sites), len(classes), image)
            model = toy.SerializeToString(deterministic=True)
        probe = canonical(golden or toy_golden(sites, len(classes), image))
        contents = {MODEL: model, GOLDEN: probe, **(extra or {})}
        manifest = Manifest(
            schema=1,
            id=id,
            sequence=sequence,
            created=created,
            expires=expires,
            runtime="onnx",
            classes=tuple(classes),
            preprocess=Preprocess(height=image[0], width=image[1]),
            erosion=Erosion(sites=tuple(sites), members=members),
            fusion="mean-probabilities",
            thresholds=thresholds,
            tolerance=1e-4,
            files=tuple(part(name, contents[name]) for name in sorted(contents)),
            provenance={"tool": "tests", "model": hashlib.sha256(model).hexdigest()},
            policy=policy,
        )
        payload = canonical(mutate(manifest))
        contents[MANIFEST] = payload
        contents[SIGNATURE] = seal(payload, [keys.private] if signers is None else signers)
        if path.suffix:
            pack(path, contents)
        else:
            for name, content in contents.items():
                (path / name).parent.mkdir(parents=True, exist_ok=True)
                (path / name).write_bytes(content)
        return path

    return make


@pytest.fixture
def toy() -> Callable[..., onnx.ModelProto]:
    """``toy(width, classes, (height, width))`` -> the toy graph."""
    return toy_model


@pytest.fixture
def toy_reference() -> Callable[..., fusion.Outputs]:
    """``toy_reference(image, factors, width, classes)`` -> what the toy graph must give."""
    return toy_outputs


@pytest.fixture
def listen() -> Iterator[Callable[..., Listener]]:
    """``listen(broker, topic=, username=, password=)`` -> Listener."""
    with contextlib.ExitStack() as stack:

        def make(broker, **options):
            listener = Listener(broker, **options)
            stack.callback(listener.close)
            return listener

        yield make


@pytest.fixture
def outbox(tmp_path: Path) -> Iterator[Outbox]:
    with Outbox(tmp_path, max_events=10_000, max_bytes=2**24, ttl_s=None) as box:
        yield box


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs of 16 MiB."""
    with contextlib.ExitStack() as stack:
        try:
            disk = stack.enter_context(storage.small_disk(tmp_path / "disk"))
        except NotPossibleError as error:
            pytest.skip(str(error))
        yield disk
