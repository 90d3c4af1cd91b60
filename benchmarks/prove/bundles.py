"""Bundles of one model with any sequence, dates or flaws, signed in milliseconds."""

import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from msgspec.structs import replace

from deepfusion_edge.bundle.container import pack
from deepfusion_edge.bundle.envelope import PrivateKey, generate, public_pem, seal
from deepfusion_edge.bundle.manifest import MANIFEST, SIGNATURE, Manifest, canonical, part
from deepfusion_edge.bundle.manifest import parse_manifest as parse

CREATED, EXPIRES = "2026-01-01T00:00:00Z", "2099-01-01T00:00:00Z"


class Maker:
    """Signs variants of one bundle.

    Attributes:
        private, public: the signing key, and the file with its public half.
        folder: where variants are written.
    """

    def __init__(self, bundle: Path, folder: Path, private: PrivateKey | None = None) -> None:
        """Read a ``.dfb`` file; its own signature is not looked at.

        Args:
            bundle: what all variants are made of.
            folder: made when missing.
            private: who signs; a new key by default.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.private = private or generate()
        self.public = folder / "publisher.pub"
        self.public.write_bytes(public_pem(self.private.public_key()))
        with zipfile.ZipFile(bundle) as archive:
            self._parts = {name: archive.read(name) for name in archive.namelist()}
        self._manifest = parse(self._parts.pop(MANIFEST))
        del self._parts[SIGNATURE]

    def part(self, path: str) -> bytes:
        """Return a member of the bundle that all are made of."""
        return self._parts[path]

    def make(
        self,
        sequence: int,
        *,
        name: str = "",
        change: Callable[[Manifest], Manifest] = lambda manifest: manifest,
        parts: Mapping[str, bytes] | None = None,
        keys: Sequence[PrivateKey] = (),
    ) -> Path:
        """Write a variant and return its path.

        Args:
            sequence: of the variant.
            name: of the file, without suffix; the sequence by default.
            change: what else differs in the manifest.
            parts: members to replace or add.
            keys: who signs instead.
        """
        contents = {**self._parts, **(parts or {})}
        files = tuple(part(path, contents[path]) for path in sorted(contents))
        plain = replace(
            self._manifest, sequence=sequence, files=files, created=CREATED, expires=EXPIRES
        )
        payload = canonical(change(plain))
        contents |= {MANIFEST: payload, SIGNATURE: seal(payload, list(keys) or [self.private])}
        path = self.folder / f"{name or sequence}.dfb"
        pack(path, contents)
        return path
