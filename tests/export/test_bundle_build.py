"""A built bundle is what the device installs, and nothing is left where building was refused."""

import msgspec
import numpy as np
import pytest
import torch
from msgspec.structs import replace

from deepfusion_edge import erosion
from deepfusion_edge.bundle import store
from deepfusion_edge.bundle.envelope import generate, public_pem
from deepfusion_edge.errors import ModelError, ParityError, StorageError, TrustError, UsageError
from deepfusion_edge.fusion import Threshold, Thresholds
from deepfusion_edge.policy import Policy, Trend, Usual
from deepfusion_edge.runtime.ort import OrtSession
from deepfusion_export import bundle
from deepfusion_export.onnx import FusedGraph

DATES = {"created": "2026-01-31T12:00:00Z", "expires": "2027-01-31T12:00:00Z"}
NOW = "2026-06-01T00:00:00Z"


@pytest.fixture
def built(case, monkeypatch, tmp_path):
    """Build with the case's graph, which was exported already."""
    monkeypatch.setattr(bundle, "to_onnx", lambda *_: case.graph)
    keys = [generate()]
    (tmp_path / "key.pub").write_bytes(public_pem(keys[0].public_key()))
    folder = tmp_path / "out"
    folder.mkdir()

    def build(**values):
        settings = {"keys": keys, "id": "line", "sequence": 3, **DATES, **values}
        plan = settings.pop("plan", case.plan)
        out = settings.pop("out", folder / "line.dfb")
        return bundle.build(settings.pop("models", [case.model]), plan, out=out, **settings)

    build.out, build.public = folder / "line.dfb", tmp_path / "key.pub"
    return build


def test_the_device_installs_it_and_computes_what_torch_computes(case, built, tmp_path):
    manifest = built()
    assert [path.name for path in built.out.parent.iterdir()] == ["line.dfb"]
    installed = store.install(built.out, tmp_path / "state", [built.public], now=NOW)
    assert installed.manifest == manifest
    factors = erosion.sample(manifest.erosion.sites, seed=5, stream=6, members=4)
    image = np.random.default_rng(0).random((1, 3, *case.model.size), np.float32)
    ours = OrtSession(installed.model_bytes(), threads=1).run(image, factors)
    with torch.no_grad():
        theirs = FusedGraph(case.defended)(torch.from_numpy(image), torch.from_numpy(factors))
    np.testing.assert_allclose(ours.members, theirs.members.numpy(), atol=1e-5)
    np.testing.assert_allclose(ours.fused, theirs.fused.numpy(), atol=1e-5)
    assert ours.feature_variance == pytest.approx(float(theirs.feature_variance), rel=1e-3)


def test_the_policy_travels_with_the_thresholds_that_it_needs(case, built):
    never = Threshold(None, None)
    limits = Thresholds(never, never, 0.01, 1000)
    policy = Policy(2, limits, Usual(0.1, 0.2), Usual(0.1, 0.2), Trend(0.1, 0.5, 0.2))
    plan = replace(case.plan, thresholds=limits, policy=policy)
    assert built(plan=plan).policy == policy
    for change in ({"thresholds": None}, {"policy": replace(policy, start=case.plan.members)}):
        with pytest.raises(UsageError, match="policy"):
            built(plan=replace(plan, **change))


def test_provenance_says_where_it_comes_from(case, built):
    provenance = built().provenance
    assert provenance["model_sha256"] == case.plan.bases[0].model
    assert provenance["prefix_share"] == case.plan.prefix_share
    assert {"version_torch", "version_onnx", "version_onnxruntime", "plan_sha256"} <= set(
        provenance
    )
    assert {"parity_fused", "parity_members", "parity_cases"} <= set(provenance)


def test_the_same_input_gives_the_same_bytes(built):
    built()
    first = built.out.read_bytes()
    built()
    assert built.out.read_bytes() == first


def test_one_changed_byte_is_refused(built):
    built()
    data = bytearray(built.out.read_bytes())
    for at in range(0, len(data), len(data) // 12):
        broken = data.copy()
        broken[at] ^= 1
        built.out.write_bytes(broken)
        with pytest.raises(TrustError):
            store.verify(built.out, [built.public], now=NOW, probe=False)


def refused(built, error, match, **values):
    with pytest.raises(error, match=match):
        built(**values)
    assert list(built.out.parent.iterdir()) == []


def test_a_plan_for_something_else_is_refused(case, built):
    other = msgspec.structs.replace
    base = other(case.plan.bases[0], model="0" * 64)
    refused(built, ModelError, "other weights", plan=other(case.plan, bases=(base,)))
    refused(built, ModelError, "is for .*, not for", models=[case.model, case.model])
    refused(built, ModelError, "17x20 pixels", plan=other(case.plan, height=17))
    three = other(case.plan, classes=case.plan.classes[:3])
    refused(built, ModelError, "3 classes, .* 4 outputs", plan=three)


def test_what_the_device_would_refuse_is_refused_before_the_work(case, built, monkeypatch):
    monkeypatch.setattr(bundle.Defended, "of", lambda *_: pytest.fail("too late"))
    refused(built, UsageError, "id", id="Line 1")
    refused(built, UsageError, "expires", expires=DATES["created"])
    refused(built, UsageError, "0 signing keys", keys=[])
    twice = msgspec.structs.replace(case.plan, classes=("a", "a", "b", "c"))
    refused(built, UsageError, "class is named twice", plan=twice)


def test_a_graph_that_differs_leaves_nothing(built, monkeypatch):
    def differs(*_args, **_settings):
        raise ParityError("fused differs", "nothing was written")

    built()
    before = built.out.read_bytes()
    monkeypatch.setattr(bundle.parity, "check", differs)
    with pytest.raises(ParityError):
        built()
    assert built.out.read_bytes() == before
    built.out.unlink()
    refused(built, ParityError, "fused")


def test_the_last_check_is_the_devices_own(built, monkeypatch):
    """A golden probe that the graph does not reproduce never leaves the workshop."""
    honest = bundle._golden
    wrong = lambda outputs, plan: msgspec.structs.replace(  # noqa: E731
        honest(outputs, plan), fused=(1.0, 0.0, 0.0, 0.0)
    )
    monkeypatch.setattr(bundle, "_golden", wrong)
    refused(built, ModelError, "golden probe")


def test_a_missing_folder_is_a_storage_error(built, tmp_path):
    with pytest.raises(StorageError, match="cannot write"):
        built(out=tmp_path / "none" / "line.dfb")
