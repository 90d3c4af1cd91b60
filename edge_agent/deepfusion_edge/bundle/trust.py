"""Whom this device trusts: public keys that a person gave once, then pinned in the state."""

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from deepfusion_edge.bundle.envelope import MAX_KEY_BYTES, key_id, load_public_key, public_pem
from deepfusion_edge.bundle.files import reading, sync_directory, write_synced, writing
from deepfusion_edge.bundle.manifest import MALFORMED, canonical
from deepfusion_edge.errors import TrustError, UsageError

_TRUST, _RULE = "trust", "policy.json"
_START_AGAIN = "restore the folder, or start again with an empty state directory"

Keys = Mapping[str, Ed25519PublicKey]


class Policy(NamedTuple):
    """Trusted keys by key id, and how many of them must have signed."""

    keys: Keys
    threshold: int


class _Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    keys: tuple[str, ...]
    threshold: Annotated[int, msgspec.Meta(ge=1)]


def read_keys(paths: Sequence[Path]) -> Keys:
    """Read public key files.

    Raises:
        InputError: a file cannot be read.
        TrustError: a file is not an Ed25519 public key in PEM form.
    """
    return {key_id(key): key for key in map(_read_key, paths)}


def _read_key(path: Path) -> Ed25519PublicKey:
    with reading(path), path.open("rb") as stream:
        data = stream.read(MAX_KEY_BYTES + 1)
    try:
        return load_public_key(data)
    except TrustError as error:
        raise TrustError(f"{path}: {error.what}", error.remedy) from error


def choose_policy(state: Path | None, given: Keys, threshold: int | None) -> Policy:
    """Return the pinned policy, or on a fresh device what is given.

    Raises:
        UsageError: a fresh device and no key, or a threshold that the keys cannot meet.
        TrustError: a key or a threshold other than the pinned ones is given, or the pinned keys
            were damaged.
    """
    if state is not None and (state / _TRUST).is_dir():
        pinned = _read_policy(state / _TRUST)
        unknown = sorted(set(given) - set(pinned.keys))
        if unknown:
            raise TrustError(
                f"key {unknown[0]} is not pinned here, {', '.join(sorted(pinned.keys))} is",
                "use a pinned key, or another state directory for another publisher",
            )
        if threshold not in {None, pinned.threshold}:
            raise TrustError(
                f"{threshold} signatures are asked for, {pinned.threshold} is pinned here",
                "leave the threshold out",
            )
        return pinned
    policy = Policy(given, 1 if threshold is None else threshold)
    if not given:
        raise UsageError("no trusted key", "name the publisher's public key with --trust")
    if not 1 <= policy.threshold <= len(given):
        raise UsageError(
            f"{policy.threshold} signatures are asked of {len(given)} trusted keys",
            "set the threshold to between 1 and the number of trusted keys",
        )
    return policy


def _read_policy(folder: Path) -> Policy:
    with reading(folder / _RULE):
        content = (folder / _RULE).read_bytes()
    try:
        rule = msgspec.json.decode(content, type=_Rule)
    except MALFORMED as error:
        raise TrustError(f"{folder / _RULE} is damaged: {error}", _START_AGAIN) from error
    keys = read_keys(sorted(folder.glob("*.pem")))
    if tuple(sorted(keys)) != rule.keys or rule.threshold > len(keys):
        raise TrustError(f"the pinned keys in {folder} do not fit {_RULE}", _START_AGAIN)
    return Policy(keys, rule.threshold)


def pin_policy(state: Path, policy: Policy) -> None:
    """Keep the policy in ``state/trust``, all of it or nothing; does nothing when there is one.

    Raises:
        StorageError: the state directory cannot be written.
    """
    folder = state / _TRUST
    if folder.is_dir():
        return
    with writing(folder):
        staging = Path(tempfile.mkdtemp(prefix="staging-", dir=state))
        try:
            for name, key in policy.keys.items():
                write_synced(staging / f"{name}.pem", [public_pem(key)])
            rule = _Rule(tuple(sorted(policy.keys)), policy.threshold)
            write_synced(staging / _RULE, [canonical(rule)])
            sync_directory(staging)
            staging.rename(folder)
            sync_directory(state)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
