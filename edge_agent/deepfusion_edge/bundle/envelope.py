"""Who vouches for a manifest or a command: a DSSE v1 envelope with Ed25519 signatures. Pure.

The signature covers the kind of the payload too: what was signed as one kind is none of another.

The envelope has one spelling: sorted keys, no blanks, padded standard base64, signatures in the
order of their key ids. Every signature in it must be of a trusted key and right, so that there is
no byte in the file which nobody judges. Format: https://github.com/secure-systems-lab/dsse.
"""

import base64
import binascii
import hashlib
from collections.abc import Mapping, Sequence
from typing import Annotated, NamedTuple

import msgspec
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from deepfusion_edge.bundle.manifest import MALFORMED, MAX_MANIFEST_BYTES, PAYLOAD_TYPE, canonical
from deepfusion_edge.errors import TrustError, UsageError

PublicKey = Ed25519PublicKey
PrivateKey = Ed25519PrivateKey
"""For those who only hand keys on."""

MAX_ENVELOPE_BYTES = 2 * MAX_MANIFEST_BYTES
MAX_SIGNATURES = 16
MAX_KEY_BYTES = 16_384


class Kind(NamedTuple):
    """What an envelope may hold.

    Attributes:
        type: DSSE's payload type.
        name: of the envelope, in error texts.
        max_bytes: of the envelope.
        remedy: what to do about one that is refused.
    """

    type: str
    name: str
    max_bytes: int
    remedy: str


BUNDLE = Kind(
    PAYLOAD_TYPE,
    "manifest.sig",
    MAX_ENVELOPE_BYTES,
    "fetch the bundle again from where it was made",
)


class Signature(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One signature: the id of the key that made it and the 64 bytes in base64."""

    keyid: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{16}\Z")]
    sig: str


class Envelope(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """A DSSE envelope: payload in base64, its type, and who signed."""

    payload: str
    payload_type: str
    signatures: Annotated[
        tuple[Signature, ...], msgspec.Meta(min_length=1, max_length=MAX_SIGNATURES)
    ]


def generate() -> Ed25519PrivateKey:
    """Make a new signing key from the operating system's random numbers."""
    return Ed25519PrivateKey.generate()


def key_id(key: Ed25519PublicKey) -> str:
    """Return the first 16 hex digits of the SHA-256 of the raw public key."""
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()[:16]


def private_pem(key: Ed25519PrivateKey) -> bytes:
    """Spell a private key as unencrypted PKCS#8 PEM; the file that holds it must be mode 0600."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def public_pem(key: Ed25519PublicKey) -> bytes:
    """Spell a public key as SubjectPublicKeyInfo PEM."""
    return key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def load_private_key(data: bytes) -> Ed25519PrivateKey:
    """Read a private key (PKCS#8 PEM, unencrypted).

    Raises:
        TrustError: not a PEM private key, encrypted, or not Ed25519.
    """
    remedy = "give the private key file that 'deepfusion-export keygen' wrote"
    if len(data) > MAX_KEY_BYTES:
        raise TrustError(f"key file has {len(data)} bytes, at most {MAX_KEY_BYTES}", remedy)
    if b"PUBLIC KEY" in data:
        raise TrustError("a public key was given where the private key is needed", remedy)
    try:
        key = serialization.load_pem_private_key(data, password=None)
    except TypeError as error:
        raise TrustError("the private key is encrypted, which is not supported", remedy) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise TrustError("not a private key in PEM form", remedy) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise TrustError(f"the private key is {_kind(key)}, only Ed25519 signs bundles", remedy)
    return key


def load_public_key(data: bytes) -> Ed25519PublicKey:
    """Read a public key (SubjectPublicKeyInfo PEM).

    Raises:
        TrustError: not a PEM public key, a private key, or not Ed25519.
    """
    remedy = "give the .pub file that 'deepfusion-export keygen' wrote"
    if len(data) > MAX_KEY_BYTES:
        raise TrustError(f"key file has {len(data)} bytes, at most {MAX_KEY_BYTES}", remedy)
    if b"PRIVATE KEY" in data:
        raise TrustError("a private key was given where only the public key belongs", remedy)
    try:
        key = serialization.load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise TrustError("not a public key in PEM form", remedy) from error
    if not isinstance(key, Ed25519PublicKey):
        raise TrustError(f"the public key is {_kind(key)}, only Ed25519 is trusted", remedy)
    return key


def _kind(key: object) -> str:
    return type(key).__name__.lstrip("_").removesuffix("PublicKey").removesuffix("PrivateKey")


def pae(payload_type: str, payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding: the bytes that are really signed."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def seal(payload: bytes, private_keys: Sequence[Ed25519PrivateKey], kind: Kind = BUNDLE) -> bytes:
    """Sign a manifest, or a payload of another kind, with every key given; spell the envelope.

    Raises:
        UsageError: no key, a key twice, or more than 16 keys.
    """
    by_id = {key_id(key.public_key()): key for key in private_keys}
    if len(by_id) != len(private_keys) or not 1 <= len(by_id) <= MAX_SIGNATURES:
        raise UsageError(
            f"{len(private_keys)} signing keys, {len(by_id)} of them different",
            f"give 1 to {MAX_SIGNATURES} different keys",
        )
    message = pae(kind.type, payload)
    signatures = tuple(
        Signature(keyid=name, sig=_base64(by_id[name].sign(message))) for name in sorted(by_id)
    )
    return canonical(Envelope(_base64(payload), kind.type, signatures))


def open_envelope(
    envelope_bytes: bytes,
    manifest_bytes: bytes,
    trusted: Mapping[str, Ed25519PublicKey],
    threshold: int,
) -> None:
    """Return only if at least ``threshold`` trusted keys, and nobody else, signed the manifest.

    Args:
        envelope_bytes: the file ``manifest.sig``.
        manifest_bytes: the file ``manifest.json``, which must equal the envelope's payload.
        trusted: public keys by key id.
        threshold: how many different trusted signatures are needed, 1 to ``len(trusted)``.

    Raises:
        UsageError: no trusted key, or a threshold that cannot be met.
        TrustError: the envelope is malformed, not canonical, of another type or payload; it has a
            signature of an unknown key, a wrong one, or too few.
    """
    if not 1 <= threshold <= len(trusted):
        raise UsageError(
            f"{threshold} signatures are asked of {len(trusted)} trusted keys",
            "set the threshold to between 1 and the number of trusted keys",
        )
    envelope = _parse(envelope_bytes, BUNDLE)
    if _unbase64(envelope.payload, BUNDLE) != manifest_bytes:
        raise TrustError("the signed manifest differs from manifest.json", BUNDLE.remedy)
    names = _check_signatures(envelope, trusted, BUNDLE)
    if len(names) < threshold:
        raise TrustError(
            f"{len(names)} trusted signatures, {threshold} are needed",
            "have the bundle signed by more of the trusted keys",
        )


def unseal(
    envelope_bytes: bytes, trusted: Mapping[str, Ed25519PublicKey], kind: Kind
) -> tuple[bytes, list[str]]:
    """Return the payload of an envelope and the ids of the trusted keys that signed it, all right.

    Raises:
        TrustError: the envelope is too large, malformed, not canonical or of another kind; it has a
            signature of an unknown key, or a wrong one.
    """
    envelope = _parse(envelope_bytes, kind)
    names = _check_signatures(envelope, trusted, kind)
    return _unbase64(envelope.payload, kind), names


def _check_signatures(
    envelope: Envelope, trusted: Mapping[str, Ed25519PublicKey], kind: Kind
) -> list[str]:
    names = [signature.keyid for signature in envelope.signatures]
    if names != sorted(set(names)):
        raise TrustError("signatures are not in the order of their key ids", kind.remedy)
    message = pae(kind.type, _unbase64(envelope.payload, kind))
    for signature in envelope.signatures:
        key = trusted.get(signature.keyid)
        if key is None:
            raise TrustError(
                f"signed by key {signature.keyid}, trusted here: {', '.join(sorted(trusted))}",
                "use what your own publisher signed, or trust the public key that belongs to it",
            )
        try:
            key.verify(_unbase64(signature.sig, kind), message)
        except InvalidSignature as error:
            raise TrustError(
                f"the signature of key {signature.keyid} is wrong", kind.remedy
            ) from error
    return names


def _parse(data: bytes, kind: Kind) -> Envelope:
    if len(data) > kind.max_bytes:
        raise TrustError(
            f"{kind.name} has {len(data)} bytes, at most {kind.max_bytes} are read", kind.remedy
        )
    try:
        envelope = msgspec.json.decode(data, type=Envelope)
        respelled = canonical(envelope)
    except MALFORMED as error:
        raise TrustError(f"{kind.name} is not a DSSE envelope: {error}", kind.remedy) from error
    if respelled != data:
        raise TrustError(f"{kind.name} is not in canonical form", kind.remedy)
    if envelope.payload_type != kind.type:
        raise TrustError(f"envelope is of type {envelope.payload_type!a}", kind.remedy)
    return envelope


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _unbase64(text: str, kind: Kind) -> bytes:
    """Decode base64 in its one canonical spelling (otherwise the last digit could vary)."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise TrustError(f"{kind.name} holds text that is not base64", kind.remedy) from error
    if _base64(data) != text:
        raise TrustError(f"{kind.name} holds base64 that is not canonical", kind.remedy)
    return data
