"""Disk space that is kept for the moment when there is none left."""

import contextlib
import errno
import os
from pathlib import Path

FULL = {errno.ENOSPC, errno.EDQUOT}


class Reserve:
    """A file of zeros that is deleted when its space is needed.

    Attributes:
        held: whether the space is there.
    """

    def __init__(self, path: Path, size: int) -> None:
        """Name the file; nothing is written before :meth:`take`."""
        self._path, self._size = path, size
        self.held = False

    def take(self) -> bool:
        """Occupy the space, if the disk has it, and say whether it is held."""
        if not self.held:
            try:
                fill(self._path, self._size)
            except OSError as error:
                self.give()
                if error.errno not in FULL:
                    raise
                return False
            self.held = True
        return True

    def give(self) -> None:
        """Leave the space to others."""
        self._path.unlink(missing_ok=True)
        self.held = False


def fill(path: Path, size: int) -> None:
    """Make a file at least ``size`` bytes long, its blocks really allocated, its content kept.

    Raises:
        OSError: the disk is full (what was allocated so far stays), or refuses.
    """
    with contextlib.closing(_File(path)) as file:
        missing = size - os.fstat(file.number).st_size
        if missing > 0:
            os.lseek(file.number, 0, os.SEEK_END)
            while missing > 0:
                missing -= os.write(file.number, bytes(min(missing, 2**16)))
            os.fsync(file.number)


class _File:
    def __init__(self, path: Path) -> None:
        self.number = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def close(self) -> None:
        os.close(self.number)
