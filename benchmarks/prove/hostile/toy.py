"""A graph that knows the strongest colour of an image, and a signed bundle around it."""

import json
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from deepfusion_edge import erosion, fusion
from deepfusion_edge.bundle.envelope import PrivateKey, seal
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

COLOURS = ("red", "green", "blue")
SIDE = 8
SITES = (erosion.Site(name="colour", kind="activation", channels=3, strength=0.2),)
CREATED, EXPIRES = "2026-01-01T00:00:00Z", "2036-01-01T00:00:00Z"
_GAIN = np.eye(3, dtype=np.float32) * 20


def graph() -> onnx.ModelProto:
    """Build image [1, 3, 8, 8], factors [K, 3] -> fused, members, feature_variance."""
    node, value, real = helper.make_node, helper.make_tensor_value_info, TensorProto.FLOAT
    constants = {
        "gain": _GAIN,
        "tiny": np.float32(fusion.TINY),
        "plane": np.array([2, 3], np.int64),
        "first": np.array([0], np.int64),
    }
    nodes = [
        node("ReduceMean", ["image", "plane"], ["mean"], keepdims=0),
        node("Mul", ["mean", "factors"], ["features"]),
        node("MatMul", ["features", "gain"], ["logits"]),
        node("Softmax", ["logits"], ["members"], axis=-1),
        node("ReduceMean", ["members", "first"], ["fused"], keepdims=0),
        node("ReduceMean", ["features", "first"], ["centre"], keepdims=1),
        node("Sub", ["features", "centre"], ["off"]),
        node("Mul", ["off", "off"], ["square"]),
        node("ReduceMean", ["square", "first"], ["variance"], keepdims=0),
        node("ReduceSum", ["variance"], ["spread"], keepdims=0),
        node("Mul", ["centre", "centre"], ["power"]),
        node("ReduceSum", ["power"], ["size"], keepdims=0),
        node("Add", ["size", "tiny"], ["positive"]),
        node("Div", ["spread", "positive"], ["feature_variance"]),
    ]
    inputs = [value("image", real, [1, 3, SIDE, SIDE]), value("factors", real, ["K", 3])]
    outputs = [
        value("fused", real, [3]),
        value("members", real, ["K", 3]),
        value("feature_variance", real, []),
    ]
    weights = [numpy_helper.from_array(np.asarray(a), name) for name, a in constants.items()]
    made = helper.make_graph(nodes, "colours", inputs, outputs, weights)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def spelled(model: onnx.ModelProto) -> bytes:
    """Spell a graph, always alike."""
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def golden() -> Golden:
    """Compute the health probe by the reference rules in numpy."""
    image = erosion.uniform(5, 0, 3 * SIDE * SIDE).reshape(3, -1).astype(np.float32)
    features = image.mean(axis=1) * erosion.sample(SITES, seed=6, stream=0, members=4)
    logits = features @ _GAIN
    power = np.exp(logits - logits.max(axis=1, keepdims=True))
    fused = fusion.fuse(power / power.sum(axis=1, keepdims=True))
    return Golden(
        image_seed=5,
        factor_seed=6,
        members=4,
        fused=tuple(float(value) for value in fused),
        feature_variance=fusion.feature_variance(features),
    )


def members(
    signers: Sequence[PrivateKey],
    *,
    sequence: int = 1,
    model: bytes | None = None,
    probe: bytes | None = None,
    extra: Mapping[str, bytes] | None = None,
    change: Callable[[dict[str, object]], None] = lambda _manifest: None,
    spell: Callable[[object], bytes] = canonical,
) -> dict[str, bytes]:
    """Make the members of a bundle that is right but for what is asked.

    Args:
        signers: who signs.
        sequence: of the bundle.
        model: other content than the right graph.
        probe: other content than the right probe.
        extra: further members, named in the manifest.
        change: changes the manifest, as a dictionary, before it is signed.
        spell: writes it.
    """
    contents = {MODEL: model or spelled(graph()), GOLDEN: probe or canonical(golden())}
    contents |= extra or {}
    manifest = Manifest(
        schema=1,
        id="line",
        sequence=sequence,
        created=CREATED,
        expires=EXPIRES,
        runtime="onnx",
        classes=COLOURS,
        preprocess=Preprocess(height=SIDE, width=SIDE),
        erosion=Erosion(sites=SITES, members=4),
        fusion="mean-probabilities",
        thresholds=None,
        tolerance=1e-4,
        files=tuple(part(name, contents[name]) for name in sorted(contents)),
        provenance={},
    )
    content = _plain(manifest)
    change(content)
    payload = spell(content)
    return {MANIFEST: payload, SIGNATURE: seal(payload, signers), **contents}


def _plain(manifest: Manifest) -> dict[str, object]:
    found: dict[str, object] = json.loads(canonical(manifest))
    return found
