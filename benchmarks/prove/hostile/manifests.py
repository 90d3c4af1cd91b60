"""Manifests that the publisher himself signed, and that break a rule."""

import json
from collections.abc import Callable

from benchmarks.prove.hostile.case import Case, trust
from benchmarks.prove.hostile.world import World, compact
from deepfusion_edge.bundle.envelope import seal
from deepfusion_edge.bundle.manifest import MAX_MANIFEST_BYTES, parse_manifest

_DEEP = b"[" * 100_000


def _manifest(spell: Callable[[bytes], bytes]) -> Callable[[World], str]:
    """Let the publisher sign a manifest that is spelled otherwise."""

    def drive(world: World) -> str:
        members = world.members()
        payload = spell(members["manifest.json"])
        members |= {"manifest.json": payload, "manifest.sig": seal(payload, [world.publisher])}
        return world.install(world.pack(members))

    return drive


def _set(*path: str | int, to: object) -> Callable[[World], str]:
    """Let the publisher sign a manifest with one value changed."""

    def spell(payload: bytes) -> bytes:
        content = json.loads(payload)
        place = content
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = to
        return compact(content)

    return _manifest(spell)


def _replace(old: bytes, new: bytes) -> Callable[[World], str]:
    return _manifest(lambda payload: payload.replace(old, new, 1))


def _broken(name: str, *path: str | int, to: object, says: str) -> Case:
    return trust(name, "form of a manifest", _set(*path, to=to), f"manifest is not valid: .*{says}")


def _whole(name: str, guard: str, *path: str | int, to: object, says: str) -> Case:
    return trust(name, guard, _set(*path, to=to), f"manifest is not valid: {says}")


_SITE = {"name": "colour", "kind": "activation", "channels": 3, "strength": 0.2}


CASES = (
    trust(
        "a manifest of another schema",
        "schema of a manifest",
        _set("schema", to=2),
        "manifest is not valid.*schema",
    ),
    trust(
        "a manifest with a field more",
        "fields of a manifest",
        _set("run", to="/bin/sh"),
        "unknown field `run`",
    ),
    _broken("a sequence beyond 2^53", "sequence", to=2**53, says="sequence"),
    _broken(
        "a sequence of 400 digits", "sequence", to=10**400, says="sequence|number|out of range"
    ),
    _broken("a class without an end", "classes", 0, to="x" * 201, says="classes"),
    _broken("a picture of 2^31 rows", "preprocess", "height", to=2**31, says="height"),
    _broken("65 members", "erosion", "members", to=65, says="members"),
    _broken("a strength of one", "erosion", "sites", 0, "strength", to=1.0, says="strength"),
    _broken("a tolerance of everything", "tolerance", to=1e9, says="tolerance"),
    _broken("a file of a negative size", "files", 0, "size", to=-1, says="size"),
    trust(
        "a number that is none (NaN)",
        "form of a manifest",
        _replace(b'"tolerance":0.0001', b'"tolerance":NaN'),
        "manifest is not valid",
    ),
    trust(
        "a number without an end (1e999)",
        "form of a manifest",
        _replace(b'"tolerance":0.0001', b'"tolerance":1e999'),
        "manifest is not valid",
    ),
    trust(
        "a manifest that is not UTF-8",
        "form of a manifest",
        _replace(b'"red"', b'"\xff\xfe"'),
        "manifest is not valid",
    ),
    trust(
        "a manifest nested a hundred thousand deep",
        "depth of JSON",
        _manifest(lambda _p: b'{"classes":' + _DEEP),
        "manifest is not valid",
    ),
    trust(
        "a manifest with blanks",
        "spelling of a manifest",
        _manifest(lambda p: p + b" "),
        "manifest is not in canonical form",
    ),
    trust(
        "a manifest with one field twice",
        "spelling of a manifest",
        _replace(b'"id":"line"', b'"id":"other","id":"line"'),
        "manifest is not in canonical form",
    ),
    trust(
        "a manifest with escapes",
        "spelling of a manifest",
        _replace(b'"red"', b'"\\u0072ed"'),
        "manifest is not in canonical form",
    ),
    trust(
        "a manifest of five megabytes",
        "size of a manifest",
        lambda _w: str(parse_manifest(b" " * (MAX_MANIFEST_BYTES + 1))),
        "manifest has 4194305 bytes, at most",
    ),
    _whole(
        "files in no order",
        "order of files",
        "files",
        0,
        "path",
        to="zz.bin",
        says="files are not sorted",
    ),
    _whole(
        "no model",
        "files of a bundle",
        "files",
        1,
        "path",
        to="other.onnx",
        says="files must name model.onnx",
    ),
    _whole(
        "files of more than 2 GB",
        "size of all files",
        "files",
        1,
        "size",
        to=2**31,
        says="files have [0-9]* bytes, at most",
    ),
    _whole(
        "one site twice",
        "names of sites",
        "erosion",
        "sites",
        to=[_SITE, _SITE],
        says="a site is named twice",
    ),
    _whole(
        "one class twice",
        "names of classes",
        "classes",
        to=["red", "red", "blue"],
        says="a class is named twice",
    ),
    _whole(
        "a class without a name",
        "empty names of classes",
        "classes",
        to=["", "red", "blue"],
        says="a class has no name",
    ),
    _whole(
        "an end before the beginning",
        "times of a manifest",
        "expires",
        to="2026-01-01T00:00:00Z",
        says="expires is not after created",
    ),
    trust(
        "a date that is none",
        "dates",
        _set("created", to="2026-13-01T00:00:00Z"),
        "'2026-13-01T00:00:00Z' is not a UTC time",
    ),
)
