"""DSSE envelopes and key files: known values, then every way to be wrong."""

import base64
import json

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from deepfusion_edge.bundle import envelope as dsse
from deepfusion_edge.errors import TrustError, UsageError

pytestmark = pytest.mark.processor

# RFC 8032, section 7.1, test 1.
SEED = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
PUBLIC = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
MANIFEST = b'{"a":1}'


@pytest.fixture(scope="module")
def three():
    keys = [Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32) for n in (1, 2, 3)]
    return {dsse.key_id(key.public_key()): key for key in keys}


def public(keys):
    return {name: key.public_key() for name, key in keys.items()}


def spelled(value) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def test_pae_is_the_example_of_the_specification():
    made = dsse.pae("http://example.com/HelloWorld", b"hello world")
    assert made == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"


def test_key_id_is_the_start_of_the_hash_of_the_raw_key():
    import hashlib

    key = Ed25519PrivateKey.from_private_bytes(SEED).public_key()
    assert key.public_bytes_raw().hex() == PUBLIC
    assert dsse.key_id(key) == hashlib.sha256(bytes.fromhex(PUBLIC)).hexdigest()[:16]


def test_seal_writes_plain_dsse_that_an_independent_reader_accepts(three):
    sealed = json.loads(dsse.seal(MANIFEST, list(three.values())))
    assert base64.b64decode(sealed["payload"]) == MANIFEST
    kind = sealed["payloadType"].encode()
    message = b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(MANIFEST), MANIFEST)
    for signature in sealed["signatures"]:
        three[signature["keyid"]].public_key().verify(base64.b64decode(signature["sig"]), message)


def test_key_files_go_round(three):
    for key in three.values():
        again = dsse.load_private_key(dsse.private_pem(key))
        assert again.private_bytes_raw() == key.private_bytes_raw()
        assert dsse.load_public_key(dsse.public_pem(key.public_key())) == key.public_key()
    assert dsse.generate().private_bytes_raw() != dsse.generate().private_bytes_raw()


def test_two_of_three_keys_suffice_where_two_are_asked(three):
    names = sorted(three)
    for pair in ((0, 1), (0, 2), (1, 2)):
        sealed = dsse.seal(MANIFEST, [three[names[n]] for n in pair])
        dsse.open_envelope(sealed, MANIFEST, public(three), 2)
    alone = dsse.seal(MANIFEST, [three[names[0]]])
    dsse.open_envelope(alone, MANIFEST, public(three), 1)
    with pytest.raises(TrustError, match="1 trusted signatures, 2 are needed"):
        dsse.open_envelope(alone, MANIFEST, public(three), 2)


@pytest.mark.parametrize("threshold", [0, -1, 4])
def test_a_threshold_that_cannot_be_met_is_refused(three, threshold):
    with pytest.raises(UsageError, match="signatures are asked"):
        dsse.open_envelope(b"", MANIFEST, public(three), threshold)


def test_seal_refuses_no_key_and_a_key_twice(three):
    key = next(iter(three.values()))
    for keys in ([], [key, key]):
        with pytest.raises(UsageError, match="different"):
            dsse.seal(MANIFEST, keys)


def test_a_signer_who_is_not_trusted_is_refused_even_beside_one_who_is(three):
    names = sorted(three)
    sealed = dsse.seal(MANIFEST, list(three.values()))
    one = {names[1]: three[names[1]].public_key()}
    with pytest.raises(TrustError, match=f"signed by key {names[0]}, trusted here: {names[1]}"):
        dsse.open_envelope(sealed, MANIFEST, one, 1)


def _wrong_signature(box):
    raw = bytearray(base64.b64decode(box["signatures"][1]["sig"]))
    raw[7] ^= 1
    box["signatures"][1]["sig"] = base64.b64encode(raw).decode()


def _swap(box):
    box["signatures"].reverse()


def _twice(box):
    box["signatures"][1] = box["signatures"][0]


def _other_payload(box):
    box["payload"] = base64.b64encode(MANIFEST + b" ").decode()


def _other_type(box):
    box["payloadType"] = "application/x"


def _loose_base64(box):
    sig = box["signatures"][0]["sig"]
    assert sig.endswith("==")
    box["signatures"][0]["sig"] = sig[:-3] + chr(ord(sig[-3]) + 1) + "=="


def _no_base64(box):
    box["signatures"][0]["sig"] = "*"


def _empty(box):
    box["signatures"] = []


def _more(box):
    box["extra"] = 1


def _newline_in_keyid(box):
    box["signatures"][0]["keyid"] += "\n"


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (_wrong_signature, "is wrong"),
        (_swap, "order of their key ids"),
        (_twice, "order of their key ids"),
        (_other_payload, "differs from manifest.json"),
        (_other_type, "envelope is of type"),
        (_loose_base64, "base64 that is not canonical"),
        (_no_base64, "text that is not base64"),
        (_empty, "not a DSSE envelope"),
        (_more, "not a DSSE envelope"),
        (_newline_in_keyid, "not a DSSE envelope"),
    ],
)
def test_each_change_of_an_envelope_has_its_own_refusal(three, change, text):
    box = json.loads(dsse.seal(MANIFEST, list(three.values())))
    dsse.open_envelope(spelled(box), MANIFEST, public(three), 1)
    change(box)
    with pytest.raises(TrustError, match=text):
        dsse.open_envelope(spelled(box), MANIFEST, public(three), 1)


def test_another_spelling_of_the_same_envelope_is_refused(three):
    sealed = dsse.seal(MANIFEST, list(three.values()))
    for other in (sealed + b"\n", json.dumps(json.loads(sealed)).encode()):
        with pytest.raises(TrustError, match="not in canonical form"):
            dsse.open_envelope(other, MANIFEST, public(three), 1)


def test_oversized_and_deep_envelopes_are_refused(three):
    for data, text in (
        (b" " * (dsse.MAX_ENVELOPE_BYTES + 1), "at most"),
        (b"[" * 100_000, "not a DSSE envelope"),
    ):
        with pytest.raises(TrustError, match=text):
            dsse.open_envelope(data, MANIFEST, public(three), 1)


def _rsa_keys():
    key = rsa.generate_private_key(65537, 2048)
    pem = serialization.Encoding.PEM
    return (
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
        key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo),
    )


def test_wrong_key_files_are_named_for_what_they_are():
    ours = dsse.generate()
    private, shared = dsse.private_pem(ours), dsse.public_pem(ours.public_key())
    locked = ours.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"x"),
    )
    rsa_private, rsa_public = _rsa_keys()
    for load, data, text in (
        (dsse.load_public_key, private, "a private key was given"),
        (dsse.load_public_key, rsa_public, "the public key is RSA"),
        (dsse.load_public_key, b"garbage", "not a public key"),
        (dsse.load_public_key, b"", "not a public key"),
        (dsse.load_public_key, b" " * 20_000, "at most"),
        (dsse.load_private_key, shared, "a public key was given"),
        (dsse.load_private_key, rsa_private, "the private key is RSA"),
        (dsse.load_private_key, locked, "encrypted"),
        (dsse.load_private_key, b"garbage", "not a private key"),
        (dsse.load_private_key, b" " * 20_000, "at most"),
    ):
        with pytest.raises(TrustError, match=text):
            load(data)
