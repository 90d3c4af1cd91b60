"""The bill of materials in a bundle: what it names is what is installed, and it is signed."""

import hashlib
import json
import re
import zipfile
from importlib.metadata import PackageNotFoundError, requires, version

import pytest

from deepfusion_edge.bundle import store
from deepfusion_edge.bundle.container import pack
from deepfusion_edge.bundle.envelope import generate, public_pem
from deepfusion_edge.bundle.manifest import MAX_SBOM_BYTES, SBOM
from deepfusion_edge.errors import TrustError
from deepfusion_export import bundle
from deepfusion_export import sbom as sbom_module
from deepfusion_export.sbom import ROOT, sbom

CREATED = "2026-01-31T12:00:00Z"


@pytest.fixture
def made(case):
    return json.loads(sbom("line", 3, CREATED, case.graph, case.plan))


def test_it_names_the_bundle_its_model_and_its_weights(case, made):
    assert (made["bomFormat"], made["specVersion"], made["version"]) == ("CycloneDX", "1.6", 1)
    assert made["metadata"]["timestamp"] == CREATED
    about = made["metadata"]["component"]
    assert (about["name"], about["version"]) == ("line", "3")
    assert about["hashes"][0]["content"] == hashlib.sha256(case.graph).hexdigest()
    (weights,) = [one for one in made["components"] if one["type"] == "machine-learning-model"]
    assert weights["hashes"] == [{"alg": "SHA-256", "content": case.plan.bases[0].model}]


def test_it_names_every_package_that_is_required_with_its_version(made):
    found = {one["name"]: one["version"] for one in made["components"] if one["type"] == "library"}
    assert {"torch", "onnx", "onnxruntime", "numpy", "cryptography", "cffi", "msgspec"} <= set(
        found
    )
    assert found == {name: version(name) for name in found}
    assert "pytest" not in found  # of an extra
    for name in found:
        for line in requires(name) or ():
            if "extra ==" in line:
                continue
            needed = re.split(r"[^\w.-]", line)[0].lower().replace("_", "-")
            try:
                version(needed)
            except PackageNotFoundError:
                continue
            assert needed in found, line


def test_every_reference_is_of_something_that_is_there_once(made):
    named = [one["bom-ref"] for one in made["components"] if "bom-ref" in one] + ["bundle"]
    assert len(set(named)) == len(named)
    edges = {one["ref"]: one["dependsOn"] for one in made["dependencies"]}
    assert set(edges) <= set(named)
    assert {ref for needs in edges.values() for ref in needs} <= set(named)
    toolkit = f"pkg:pypi/{ROOT}@{version(ROOT)}"
    assert edges["bundle"] == ["weights-0", toolkit]
    assert len(edges[toolkit]) > 8
    assert re.fullmatch(r"urn:uuid:[0-9a-f-]{36}", made["serialNumber"])


def test_a_local_version_is_escaped(made):
    torch = next(one for one in made["components"] if one["name"] == "torch")
    assert torch["purl"] == "pkg:pypi/torch@" + version("torch").replace("+", "%2B")


def test_the_same_arguments_give_the_same_bytes_and_other_ones_another_serial(case, made):
    again = sbom("line", 3, CREATED, case.graph, case.plan)
    assert json.loads(again) == made
    other = json.loads(sbom("line", 4, CREATED, case.graph, case.plan))
    assert other["serialNumber"] != made["serialNumber"]


def test_it_is_a_signed_member_that_the_device_installs(case, monkeypatch, tmp_path):
    monkeypatch.setattr(bundle, "to_onnx", lambda *_: case.graph)
    key, out = generate(), tmp_path / "line.dfb"
    (tmp_path / "key.pub").write_bytes(public_pem(key.public_key()))
    dates = {"created": CREATED, "expires": "2027-01-31T12:00:00Z"}
    bundle.build([case.model], case.plan, keys=[key], id="line", sequence=3, out=out, **dates)
    keys, now = [tmp_path / "key.pub"], "2026-06-01T00:00:00Z"
    installed = store.install(out, tmp_path / "state", keys, now=now, probe=False)
    content = installed.member_bytes(SBOM)
    assert content == sbom("line", 3, CREATED, case.graph, case.plan)
    assert len(content) < MAX_SBOM_BYTES / 10
    with zipfile.ZipFile(out) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    pack(out, {**parts, SBOM: content.replace(b'"line"', b'"lime"')})
    with pytest.raises(TrustError, match=r"bom\.json is not the signed file"):
        store.verify(out, keys, now=now, probe=False)


def test_a_package_that_is_not_here_is_left_out(monkeypatch):
    asked = []

    def missing(name):
        asked.append(name)
        raise PackageNotFoundError(name)

    monkeypatch.setattr(sbom_module, "distribution", missing)
    assert list(sbom_module._installed("somebody")) == []
    assert asked == ["somebody"]
