"""What a disk holds if the power goes at any moment: a folder watched operation by operation.

A file system promises little before fsync returns: a name may be there or not, a file may have its
name and not its content. So each moment has three images, and what is built must live with all:

=========  ==================================================================================
``kept``   everything done so far is there: the process was killed, the system lives
``torn``   all names are there, but of content that was not synchronised only the first half
``lost``   only what was synchronised is there: names by the folder's fsync, content by the file's
=========  ==================================================================================

A moment is just before an operation that changes names, or content by opening a file for writing,
and just before and after an fsync; Python's audit events and a wrapper of ``os.fsync`` tell them
all, whatever code does them.
"""

import hashlib
import os
import shutil
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

IMAGES = ("kept", "torn", "lost")
_CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.symlink", "os.link"}
_CHANGES |= {"os.truncate", "os.chmod"}
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC

_watching: list["Disk"] = []
_hooked: list[bool] = []


class Moment(NamedTuple):
    """The three images just before an operation.

    Attributes:
        operation: what was about to be done, for people.
        images: kind -> folder, as :data:`IMAGES`.
    """

    operation: str
    images: dict[str, Path]


class Disk:
    """A folder whose every change is followed while the context is open.

    Attributes:
        moments: all so far; the last one is the end.
    """

    def __init__(self, root: Path, into: Path) -> None:
        """Name the folder; what it holds when the context is entered is on the disk.

        Args:
            root: the folder.
            into: new folder for the images.
        """
        self.moments: list[Moment] = []
        self._root, self._into = root, into
        self._content: dict[int, bytes] = {}
        self._names: dict[int, dict[str, tuple[int, str]]] = {}
        self._pins: dict[int, int] = {}  # an inode that is held open is not given to another file
        self._busy = False

    def __enter__(self) -> Self:
        if not _hooked:
            sys.addaudithook(_hear)  # for ever: Python takes none back
            _hooked.append(True)
        self._into.mkdir(parents=True)
        self._pin()
        for inode in self._pins:
            self._sync(inode)
        _watching.append(self)
        self._fsync = os.fsync
        os.fsync = self._synchronise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.fsync = self._fsync
        _watching.remove(self)
        self.note("the end")
        for pin in self._pins.values():
            os.close(pin)

    def note(self, operation: str) -> None:
        """Keep the three images of this moment."""
        if self._busy:
            return
        self._busy = True
        try:
            self._pin()
            folder = self._into / f"{len(self.moments):04}"
            images = {kind: folder / kind for kind in IMAGES}
            shutil.copytree(self._root, images["kept"], symlinks=True)
            self._draw(images["torn"], self._root.stat().st_ino, durable=False)
            self._draw(images["lost"], self._root.stat().st_ino, durable=True)
            self.moments.append(Moment(operation, images))
        finally:
            self._busy = False

    def _synchronise(self, fd: Any) -> None:  # noqa: ANN401 - a number, or what has one
        number = fd if isinstance(fd, int) else fd.fileno()
        inode = os.fstat(number).st_ino
        self.note("fsync")
        if inode in self._pins:
            self._busy = True
            self._sync(inode)
            self._busy = False

    def _pinned(self, inode: int) -> Path:
        return Path(f"/proc/self/fd/{self._pins[inode]}")

    def _sync(self, inode: int) -> None:
        path = self._pinned(inode)
        mode = path.stat().st_mode
        if stat.S_ISREG(mode):
            self._content[inode] = path.read_bytes()
        elif stat.S_ISDIR(mode):
            self._names[inode] = _listing(path)

    def _pin(self) -> None:
        for path in (self._root, *self._root.rglob("*")):
            with suppress(FileNotFoundError):
                inode = path.lstat().st_ino
                if inode not in self._pins and not path.is_symlink():
                    self._pins[inode] = os.open(path, os.O_PATH | os.O_NOFOLLOW)

    def _draw(self, target: Path, inode: int, *, durable: bool) -> None:
        """Make the folder ``inode`` as the disk has it."""
        target.mkdir(parents=True)
        here = self._pinned(inode)
        names = self._names.get(inode, {}) if durable else _listing(here)
        for name, (child, link) in names.items():
            path = target / name
            if link:
                path.symlink_to(link)
            elif self._pinned(child).is_dir():
                self._draw(path, child, durable=durable)
            elif child in self._content:
                path.write_bytes(self._content[child])
            else:
                whole = self._pinned(child).read_bytes()
                path.write_bytes(b"" if durable else whole[: len(whole) // 2])

    def hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Take an audit event; only those of this folder matter, and those without a path."""
        if changes_names(event, arguments):
            path = arguments[0]
            place = Path("a file" if isinstance(path, int) else os.fsdecode(path))
            if not place.is_absolute() or place.is_relative_to(self._root):
                self.note(f"{event} {place.name}")


def changes_names(event: str, arguments: tuple[Any, ...]) -> bool:
    """Whether an audit event is of an operation that changes names, or opens a file to write."""
    writes = event == "open" and isinstance(arguments[2], int) and bool(arguments[2] & _WRITES)
    return writes or event in _CHANGES


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
    for disk in tuple(_watching):
        disk.hear(event, arguments)


def _listing(folder: Path) -> dict[str, tuple[int, str]]:
    """Name -> (inode, target of a link or nothing)."""
    found = {}
    for entry in os.scandir(folder):
        link = str(Path(entry.path).readlink()) if entry.is_symlink() else ""
        found[entry.name] = (entry.inode(), link)
    return found


def fingerprint(folder: Path) -> str:
    """Hash names, links and contents of a folder; equal folders need one check."""
    whole = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            content = b"link " + os.fsencode(path.readlink())
        else:
            content = b"folder" if path.is_dir() else b"file " + path.read_bytes()
        name = os.fsencode(path.relative_to(folder))
        whole.update(f"{len(name)} {len(content)} ".encode() + name + content)
    return whole.hexdigest()


@contextmanager
def without_fsync(*, of: Callable[[int], bool]) -> Iterator[None]:
    """Let ``os.fsync`` do nothing for files whose mode ``of`` takes: a guard taken out."""
    real = os.fsync

    def fake(fd: Any) -> None:  # noqa: ANN401 - as os.fsync
        number = fd if isinstance(fd, int) else fd.fileno()
        if not of(os.fstat(number).st_mode):
            real(number)

    os.fsync = fake
    try:
        yield
    finally:
        os.fsync = real
