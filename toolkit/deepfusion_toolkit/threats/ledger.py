"""A state file that remembers finished rows: the same call goes on where it was interrupted."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import msgspec

from deepfusion_edge.errors import InputError, StorageError
from deepfusion_toolkit.files import MALFORMED, write_bytes

T = TypeVar("T")


class _Head(msgspec.Struct, forbid_unknown_fields=True):
    identity: str


class _Line(msgspec.Struct, forbid_unknown_fields=True):
    key: str
    value: msgspec.Raw


class Ledger:
    """Results by key; with a file, also those of earlier runs.

    The file has one line for each result, behind a head that says what they belong to. A line that
    was cut off counts as not written.
    """

    def __init__(self, path: Path | None, identity: str) -> None:
        """Open or begin the file.

        Raises:
            InputError: it is damaged or belongs to another defence, other images or another seed.
            StorageError: it cannot be written.
        """
        self.path = path
        self._known: dict[str, msgspec.Raw] = {}
        if path is None:
            return
        head = msgspec.json.encode(_Head(identity))
        if path.exists():
            self._read(path, identity)
        lines = [msgspec.json.encode(_Line(key, value)) for key, value in self._known.items()]
        write_bytes(path, b"\n".join([head, *lines, b""]))

    def _read(self, path: Path, identity: str) -> None:
        try:
            first, *lines = path.read_bytes().split(b"\n")
            head = msgspec.json.decode(first, type=_Head)
            for line in lines[:-1]:  # what follows the last newline was cut off
                one = msgspec.json.decode(line, type=_Line)
                self._known[one.key] = msgspec.Raw(bytes(one.value))
        except OSError as error:
            raise InputError(
                f"{path} cannot be read ({error.strerror})", "choose another file"
            ) from error
        except MALFORMED as error:
            raise InputError(
                f"{path} is damaged ({error})", "remove it or choose another"
            ) from error
        if head.identity != identity:
            raise InputError(
                f"{path} belongs to another defence, other images or another seed",
                "choose another file",
            )

    def recall(self, key: str, kind: type[T], make: Callable[[], T]) -> T:
        """Give the result of a key, made now if it is not known yet.

        Raises:
            InputError: the file holds something else under this key.
            StorageError: the file cannot be written.
        """
        if key not in self._known:
            value = msgspec.Raw(msgspec.json.encode(make()))
            self._known[key] = value
            self._append(msgspec.json.encode(_Line(key, value)))
        try:
            return msgspec.json.decode(self._known[key], type=kind)
        except MALFORMED as error:
            raise InputError(f"{self.path} is damaged ({error})", "remove it") from error

    def _append(self, line: bytes) -> None:
        if self.path is None:
            return
        try:
            with self.path.open("ab") as file:
                file.write(line + b"\n")
        except OSError as error:
            raise StorageError(
                f"cannot write {self.path} ({error.strerror})", "free space or choose another file"
            ) from error
