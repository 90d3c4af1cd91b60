"""The ``.dfb`` file: a stored zip in exactly one byte form, or a directory with the same members.

The form follows from the members' names and contents alone: ``manifest.json``, ``manifest.sig``,
then the rest sorted by name; no compression, flags, extra fields, comments, gaps or zip64; dates of
1980; regular files of mode 0644. The reader does not parse a zip, it derives what must come next
from the signed manifest and compares. So every trick of the format (a second member of the same
name, ``..``, a link, a bomb, bytes before, between or behind) is a difference and is refused.
"""

import hashlib
import os
import stat
import struct
import tempfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

from deepfusion_edge.bundle.envelope import MAX_ENVELOPE_BYTES
from deepfusion_edge.bundle.manifest import (
    MANIFEST,
    MAX_BUNDLE_BYTES,
    MAX_MANIFEST_BYTES,
    SIGNATURE,
    Part,
)
from deepfusion_edge.errors import InputError, ModelError, StorageError, TrustError

CHUNK = 2**20
MAX_CONTAINER_BYTES = MAX_BUNDLE_BYTES + MAX_MANIFEST_BYTES + MAX_ENVELOPE_BYTES + 2**16

_LOCAL = struct.Struct("<4sHHHHHIIIHH")
_CENTRAL = struct.Struct("<4sHHHHHHIIIHHHHHII")
_END = struct.Struct("<4sHHHHIIH")
_VERSION = 20
_MADE_ON_UNIX = (3 << 8) | _VERSION
_DATE_1980 = 0x0021
_MODE = (stat.S_IFREG | 0o644) << 16
_AGAIN = "copy the bundle again from where it was made"


class _Entry(NamedTuple):
    name: str
    size: int
    crc: int
    offset: int

    def local(self) -> bytes:
        name = self.name.encode("ascii")
        return name_after(
            _LOCAL.pack(
                b"PK\x03\x04", _VERSION, 0, 0, 0, _DATE_1980,
                self.crc, self.size, self.size, len(name), 0,
            ),
            name,
        )  # fmt: skip

    def central(self) -> bytes:
        name = self.name.encode("ascii")
        return name_after(
            _CENTRAL.pack(
                b"PK\x01\x02", _MADE_ON_UNIX, _VERSION, 0, 0, 0, _DATE_1980,
                self.crc, self.size, self.size, len(name), 0, 0, 0, 0, _MODE, self.offset,
            ),
            name,
        )  # fmt: skip
