"""The eight rules of trust, each with its own text, and the order in which they apply."""

import json

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepfusion_edge.bundle.envelope import seal
from deepfusion_edge.bundle.manifest import (
    MANIFEST,
    MAX_MANIFEST_BYTES,
    Manifest,
    canonical,
    parse_manifest,
    parse_utc,
)
from deepfusion_edge.bundle.verify import authentic, trust
from deepfusion_edge.errors import TrustError

pytestmark = pytest.mark.processor

NOW = "2026-06-01T00:00:00Z"


@pytest.fixture
def manifest(make_bundle, tmp_path) -> Manifest:
    return parse_manifest((make_bundle(tmp_path / "plain") / MANIFEST).read_bytes())


@pytest.fixture
def judge(keys, manifest):
    def call(*, now=NOW, installed=None, **changes):
        data = canonical(msgspec.structs.replace(manifest, **changes))
        trusted = {keys.id: keys.private.public_key()}
        return trust(data, seal(data, [keys.private]), keys=trusted, now=now, installed=installed)

    return call


def test_a_good_manifest_is_returned(judge, manifest):
    assert judge() == manifest
    assert judge(installed=("line", 1), sequence=2).sequence == 2


def test_size_comes_before_everything(keys):
    trusted = {keys.id: keys.private.public_key()}
    with pytest.raises(TrustError, match="bytes, at most"):
        authentic(b" " * (MAX_MANIFEST_BYTES + 1), b"", keys=trusted)


def test_signature_comes_before_the_manifest_is_looked_at(keys, make_keys):
    trusted, other = {keys.id: keys.private.public_key()}, make_keys()
    garbage = b"not json"
    with pytest.raises(TrustError, match=f"signed by key {other.id}"):
        authentic(garbage, seal(garbage, [other.private]), keys=trusted)
    with pytest.raises(TrustError, match="manifest is not valid"):
        authentic(garbage, seal(garbage, [keys.private]), keys=trusted)


def test_expiry_is_exclusive(judge):
    expires = "2027-01-01T00:00:00Z"
    judge(expires=expires, now="2026-12-31T23:59:59Z")
    with pytest.raises(TrustError, match="expired on 2027-01-01"):
        judge(expires=expires, now=expires)


def test_a_day_of_wrong_clock_is_tolerated_and_no_more(judge):
    judge(created="2026-06-02T00:00:00Z")
    with pytest.raises(TrustError, match="created on 2026-06-02T00:00:01Z, but it is"):
        judge(created="2026-06-02T00:00:01Z")
    with pytest.raises(TrustError, match="set the device's clock"):
        judge(now="1970-01-01T00:00:00Z")


def test_another_line_is_refused_before_its_sequence(judge):
    with pytest.raises(TrustError, match="is for 'line', this device follows 'other'"):
        judge(installed=("other", 7))


def test_sequences_only_grow(judge):
    with pytest.raises(TrustError, match="sequence 3 of 'line' has been installed already"):
        judge(sequence=3, installed=("line", 3))
    with pytest.raises(TrustError, match="sequence 2 is older than 3"):
        judge(sequence=2, installed=("line", 3))


def test_expiry_comes_before_id_and_sequence(judge):
    with pytest.raises(TrustError, match="expired"):
        judge(now="2040-01-01T00:00:00Z", installed=("other", 9))


@given(number=st.integers(1, 10**6), highest=st.integers(1, 10**6))
@settings(deadline=None, max_examples=30)
def test_exactly_larger_sequences_pass(number, highest):
    from deepfusion_edge.bundle.verify import _check_successor

    manifest = msgspec.structs.replace(_bare(), sequence=number)
    try:
        _check_successor(manifest, "line", highest)
        passed = True
    except TrustError:
        passed = False
    assert passed == (number > highest)


def _bare() -> Manifest:
    return msgspec.convert(_GOOD, Manifest)


_GOOD = {
    "schema": 1,
    "id": "line",
    "sequence": 1,
    "created": "2026-01-01T00:00:00Z",
    "expires": "2036-01-01T00:00:00Z",
    "runtime": "onnx",
    "classes": ["ok", "scratch"],
    "preprocess": {"height": 8, "width": 8},
    "erosion": {
        "sites": [{"name": "a", "kind": "skip", "channels": 1, "strength": 0.1}],
        "members": 2,
    },
    "fusion": "mean-probabilities",
    "thresholds": None,
    "tolerance": 0.001,
    "files": [
        {"path": "golden/probe.json", "size": 1, "sha256": "0" * 64},
        {"path": "model.onnx", "size": 1, "sha256": "0" * 64},
    ],
    "provenance": {},
}


def _set(*path_and_value):
    *path, value = path_and_value

    def change(data):
        for key in path[:-1]:
            data = data[key]
        data[path[-1]] = value

    return change


_FILE = {"path": "zz.bin", "size": 1, "sha256": "0" * 64}


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (_set("schema", 2), "schema"),
        (_set("preprocess", "color", "BGR"), "BGR where the device prepares images"),
        (_set("preprocess", "color", "GBR"), r"\$.preprocess.color"),
        (_set("preprocess", "resize", "nearest"), r"\$.preprocess.resize"),
        (_set("preprocess", "images", 1), r"\$.preprocess.images"),
        (_set("preprocess", "images", 65), r"\$.preprocess.images"),
        (_set("unknown", 1), "unknown field"),
        (_set("id", "Line"), r"\$.id"),
        (_set("id", "line\n"), r"\$.id"),
        (_set("id", "a/b"), r"\$.id"),
        (_set("sequence", 0), r"\$.sequence"),
        (_set("sequence", 2**53), r"\$.sequence"),
        (_set("created", "2026-13-01T00:00:00Z"), "not a UTC time"),
        (_set("created", "2026-01-01T00:00:00Z\n"), r"\$.created"),
        (_set("expires", "2026-01-01T00:00:00Z"), "expires is not after created"),
        (_set("classes", ["ok"]), r"\$.classes"),
        (_set("classes", ["ok", "ok"]), "a class is named twice"),
        (_set("classes", ["ok", ""]), "a class has no name"),
        (_set("tolerance", 0.5), r"\$.tolerance"),
        (_set("erosion", "sites", 0, "strength", 1.0), "strength"),
        (_set("erosion", "members", 65), "members"),
        (_set("fusion", "majority"), r"\$.fusion"),
        (_set("erosion", "bases", 0), "bases"),
        (_set("erosion", "bases", 17), "bases"),
        (_set("files", 1, "path", "model.onnx\n"), "path"),
        (_set("files", 1, "path", "../model.onnx"), "path"),
        (_set("files", 1, "path", "/model.onnx"), "path"),
        (_set("files", 1, "path", "Model.onnx"), "path"),
        (_set("files", 1, "path", "other.onnx"), "must name model.onnx"),
        (_set("files", 0, _FILE), "not sorted"),
        (_set("files", 1, "size", 2**31 + 1), "size"),
        (_set("files", 1, "size", 2**31), "files have"),
        (_set("provenance", {"a": [1]}), "provenance"),
    ],
)
def test_each_broken_manifest_names_its_rule(change, text):
    parse_manifest(canonical(msgspec.convert(_GOOD, Manifest)))
    data = json.loads(canonical(msgspec.convert(_GOOD, Manifest)))
    change(data)
    with pytest.raises(TrustError, match=text):
        parse_manifest(json.dumps(data, sort_keys=True, separators=(",", ":")).encode())


def _with(**changes) -> bytes:
    return canonical({**json.loads(canonical(msgspec.convert(_GOOD, Manifest))), **changes})


def test_names_may_not_repeat_and_the_manifest_may_not_list_itself():
    site = {"name": "a", "kind": "skip", "channels": 1, "strength": 0.1}
    twice = {"sites": [site, site], "members": 2, "bases": 1, "sampler": "philox4x64-raw-1"}
    with pytest.raises(TrustError, match="a site is named twice"):
        parse_manifest(_with(erosion=twice))
    files = [*_GOOD["files"], {**_FILE, "path": "manifest.json"}]
    with pytest.raises(TrustError, match="name the manifest itself"):
        parse_manifest(_with(files=sorted(files, key=lambda file: file["path"])))


@pytest.mark.parametrize(("size", "taken"), [(2**20, True), (2**20 + 1, False)])
def test_a_bill_of_materials_has_its_size(size, taken):
    bom = {**_FILE, "path": "bom.json", "size": size}
    data = _with(files=[bom, *_GOOD["files"]])
    if taken:
        assert parse_manifest(data).files[0].path == "bom.json"
    else:
        with pytest.raises(TrustError, match=f"bom.json has {size} bytes, at most"):
            parse_manifest(data)


def test_other_spellings_of_the_same_manifest_are_refused():
    good = canonical(msgspec.convert(_GOOD, Manifest))
    for other in (
        good + b"\n",
        good.replace(b'"tolerance":0.001', b'"tolerance":1e-3'),
        good.replace(b'"schema":1', b'"schema":1,"schema":1'),
        good.replace(b'"scratch"', b'"\\u0073cratch"'),
    ):
        with pytest.raises(TrustError, match="not in canonical form"):
            parse_manifest(other)


@pytest.mark.parametrize(
    "data", [b"", b"[" * 100_000, b'{"a":' * 50_000, b"\xff", b"null", b'{"a\xff":1}']
)
def test_garbage_is_a_trust_error(data):
    with pytest.raises(TrustError, match="manifest is not valid"):
        parse_manifest(data)


@pytest.mark.parametrize("text", ["", "2026-1-01T00:00:00Z", "2026-01-01T00:00:00+00:00", "now"])
def test_times_have_one_spelling(text):
    with pytest.raises(TrustError, match="not a UTC time"):
        parse_utc(text)


def test_times_agree_with_the_standard_library():
    assert parse_utc(NOW).isoformat() == "2026-06-01T00:00:00+00:00"
