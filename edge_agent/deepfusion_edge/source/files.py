"""Listing and reading a folder; also run as a program, by a process that may hang in its place.

It needs the standard library alone, so that the process is small and there at once. Each line of
its standard input is a request, ``[root, path, pattern, recursive, max_bytes]`` in JSON; ``path``
null asks for the listing. Each answer is a head (:data:`HEAD`: what it is, its size) and a body.
"""

import fnmatch
import json
import os
import signal
import stat
import struct
import sys
from typing import NamedTuple

SUFFIXES = (".png", ".jpg", ".jpeg")
HEAD = struct.Struct("<cQ")
LISTING, CONTENT, ERROR = b"L", b"C", b"E"
"""Bodies: ``{path: [mtime_ns, size]}``; bytes of a file; errno, text and file name of an error."""


class Version(NamedTuple):
    """Which content of a file this is, without reading it."""

    mtime_ns: int
    size: int


Listing = dict[str, Version]
"""Matching files by their path below the root."""


def listing(root: str, *, pattern: str, recursive: bool) -> Listing:
    """List the images of a folder.

    Raises:
        OSError: it cannot be listed.
    """
    found: Listing = {}
    folders = [""]
    while folders:
        folder = folders.pop()
        try:
            entries = list(os.scandir(os.path.join(root, folder)))  # noqa: PTH118 - as text
        except FileNotFoundError:
            if folder:
                continue
            raise
        for entry in entries:
            path = f"{folder}/{entry.name}" if folder else entry.name
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                folders += [path] * recursive
            elif entry.name.lower().endswith(SUFFIXES) and fnmatch.fnmatchcase(entry.name, pattern):
                version = _version(entry)
                if version is not None:
                    found[path] = version
    return found


def content(root: str, path: str, *, max_bytes: int) -> bytes:
    """Read a file; one byte more than ``max_bytes`` says that it has more.

    Raises:
        OSError: it cannot be read.
    """
    # O_NONBLOCK: a pipe that took the place of the file must not hang the line.
    whole = os.path.join(root, path)  # noqa: PTH118 - as above
    with os.fdopen(os.open(whole, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        return file.read(max_bytes + 1)


def _version(entry: "os.DirEntry[str]") -> Version | None:
    try:
        info = entry.stat()
    except OSError:  # vanished, or a link to nowhere
        return None
    return Version(info.st_mtime_ns, info.st_size) if stat.S_ISREG(info.st_mode) else None


def main() -> None:
    """Answer requests until there are no more: the agent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the agent's to hear
    for line in sys.stdin.buffer:
        root, path, pattern, recursive, max_bytes = json.loads(line)
        try:
            if path is None:
                found = listing(root, pattern=pattern, recursive=recursive)
                kind, body = LISTING, json.dumps(found).encode()
            else:
                kind, body = CONTENT, content(root, path, max_bytes=max_bytes)
        except OSError as error:
            kind = ERROR
            body = json.dumps([error.errno, error.strerror, error.filename]).encode()
        try:
            sys.stdout.buffer.write(HEAD.pack(kind, len(body)) + body)
            sys.stdout.buffer.flush()
        except BrokenPipeError:
            os._exit(0)


if __name__ == "__main__":
    main()
