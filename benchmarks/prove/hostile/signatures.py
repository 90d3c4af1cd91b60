"""Bundles that nobody trusted has signed, or not this one."""

from collections.abc import Callable

from benchmarks.prove.hostile.case import Case, trust
from benchmarks.prove.hostile.world import World, envelope, flipped, name_of
from deepfusion_edge.bundle import store
from deepfusion_edge.bundle.container import open_bundle
from deepfusion_edge.bundle.envelope import public_pem, seal
from deepfusion_edge.bundle.manifest import MANIFEST, SIGNATURE, canonical
from deepfusion_edge.bundle.store import verify
from deepfusion_edge.bundle.trust import Policy
from deepfusion_edge.bundle.verify import authentic
from deepfusion_edge.commands.message import COMMAND


def _signed(world: World, change: Callable[[World, dict[str, bytes]], None]) -> str:
    members = world.members()
    change(world, members)
    return world.install(world.pack(members))


def _by_stranger(world: World, members: dict[str, bytes]) -> None:
    members[SIGNATURE] = seal(members[MANIFEST], [world.other])


def _by_two(world: World, members: dict[str, bytes]) -> None:
    members[SIGNATURE] = seal(members[MANIFEST], [world.publisher, world.other])


def _wrong(_world: World, members: dict[str, bytes]) -> None:
    box = envelope(members[SIGNATURE])
    box["signatures"][0]["sig"] = flipped(box["signatures"][0]["sig"])
    members[SIGNATURE] = canonical(box)


def _borrowed(world: World, members: dict[str, bytes]) -> None:
    members[SIGNATURE] = world.members(sequence=3)[SIGNATURE]


def _as_command(world: World, members: dict[str, bytes]) -> None:
    members[SIGNATURE] = seal(members[MANIFEST], [world.publisher], COMMAND)


def _spaced(_world: World, members: dict[str, bytes]) -> None:
    members[SIGNATURE] += b"\n"


def _unsigned(_world: World, members: dict[str, bytes]) -> None:
    box = envelope(members[SIGNATURE])
    members[SIGNATURE] = canonical(box | {"signatures": []})


def _loose(_world: World, members: dict[str, bytes]) -> None:
    box = envelope(members[SIGNATURE])
    sig = box["signatures"][0]["sig"]
    box["signatures"][0]["sig"] = sig[:-3] + chr(ord(sig[-3]) + 1) + "=="
    members[SIGNATURE] = canonical(box)


def _not_base64(_world: World, members: dict[str, bytes]) -> None:
    box = envelope(members[SIGNATURE])
    sig = box["signatures"][0]["sig"]
    box["signatures"][0]["sig"] = f"{sig[:20]}\n{sig[20:]}"
    members[SIGNATURE] = canonical(box)


def _two_needed(world: World, *, twice: bool) -> str:
    members = world.members()
    if twice:
        box = envelope(members[SIGNATURE])
        members[SIGNATURE] = canonical(box | {"signatures": box["signatures"] * 2})
    keys = [world.trust, world.inbox / "other.pub"]
    keys[1].write_bytes(public_pem(world.other.public_key()))
    manifest = verify(world.pack(members), keys, threshold=2, now="2026-06-01T00:00:00Z")
    return f"verified sequence {manifest.sequence}"


def _threshold(world: World) -> str:
    policy = Policy({name_of(world.publisher): world.publisher.public_key()}, 0)
    with open_bundle(world.pack(world.members())) as source:
        authentic(source.manifest, source.envelope, keys=policy.keys, threshold=policy.threshold)
    return "no signature was asked for"


def _stranger_key(world: World) -> str:
    stranger = world.file(public_pem(world.other.public_key()), "stranger.pub")
    members = world.members()
    _by_stranger(world, members)
    path = world.pack(members)
    store.install(path, world.agent, [stranger], now="2026-06-01T00:00:00Z", probe=False)
    return "installed"


CASES = (
    trust(
        "signed by a stranger",
        "key of a signature",
        lambda w: _signed(w, _by_stranger),
        "signed by key .*, trusted here",
    ),
    trust(
        "signed by a stranger too",
        "key of a signature",
        lambda w: _signed(w, _by_two),
        "signed by key .*, trusted here",
    ),
    trust(
        "a stranger's key is brought along",
        "pinned keys",
        _stranger_key,
        "key [0-9a-f]{16} is not pinned here",
    ),
    trust(
        "a wrong signature", "signature", lambda w: _signed(w, _wrong), "the signature of key .* is"
    ),
    trust(
        "the signature of another manifest",
        "signed manifest",
        lambda w: _signed(w, _borrowed),
        "the signed manifest differs from manifest.json",
    ),
    trust(
        "a signature that was made for a command",
        "type of an envelope",
        lambda w: _signed(w, _as_command),
        "envelope is of type",
    ),
    trust(
        "no signature",
        "number of signatures",
        lambda w: _signed(w, _unsigned),
        "is not a DSSE envelope",
    ),
    trust(
        "an envelope spelled otherwise",
        "spelling of an envelope",
        lambda w: _signed(w, _spaced),
        "manifest.sig is not in canonical form",
    ),
    trust(
        "base64 spelled otherwise",
        "spelling of base64",
        lambda w: _signed(w, _loose),
        "base64 that is not canonical",
    ),
    trust(
        "base64 with a line break",
        "digits of base64",
        lambda w: _signed(w, _not_base64),
        "text that is not base64",
    ),
    trust(
        "one signature twice where two are needed",
        "order of signatures",
        lambda w: _two_needed(w, twice=True),
        "not in the order of their key ids",
    ),
    trust(
        "one signature where two are needed",
        "threshold",
        lambda w: _two_needed(w, twice=False),
        "1 trusted signatures, 2 are needed",
    ),
    Case(
        "no signature is asked for",
        "least threshold",
        _threshold,
        "0 signatures are asked of 1",
        "UsageError",
    ),
)
