"""What a case must not do, seen by the interpreter's own audit events, and stopped.

Writing outside of three folders, unpickling, starting another program than the agent's own two, and
connecting to another machine. SQLite and libraries in C write without an event; the folders are
looked at afterwards too.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CHANGES = {
    "os.mkdir": ((0, 2),),
    "os.rename": ((0, 2), (1, 3)),
    "os.link": ((1, 3),),
    "os.symlink": ((1, 2),),
    "os.remove": ((0, 1),),
    "os.rmdir": ((0, 1),),
    "os.truncate": ((0, None),),
    "os.chmod": ((0, 2),),
}
"""Event -> where its arguments hold a path that changes, and the folder it counts from."""
_OURS = {"deepfusion_edge.probe", "deepfusion_edge.source.reader"}
_HERE = {"127.0.0.1", "::1", "localhost"}


class OffenceError(RuntimeError):
    """Something that no hostile input may bring the agent to do."""


class Watch:
    """An audit hook; it cannot be taken out again, so it belongs into a process of its own.

    Attributes:
        offences: what was tried, one line each.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        """Begin.

        Args:
            folders: where writing is allowed.
        """
        self.offences: list[str] = []
        self._allowed = tuple(folder.resolve() for folder in folders)
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[object, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if isinstance(flags, int) and flags & _WRITES:
                self._check(event, path)
        elif event in _CHANGES:
            for at, folder in _CHANGES[event]:
                self._check(event, arguments[at], -1 if folder is None else arguments[folder])
        elif event == "pickle.find_class":
            self._refuse("unpickled something")
        elif event in {"os.system", "os.exec", "os.posix_spawn", "os.spawn"}:
            self._refuse(f"started a program ({event})")
        elif event == "subprocess.Popen":
            self._check_program(arguments[1])
        elif event == "socket.connect":
            self._check_address(arguments[1])

    def _check(self, event: str, path: object, folder: object = -1) -> None:
        if not isinstance(path, str | bytes | os.PathLike):
            return  # a descriptor: it was judged when it was opened
        base = Path.cwd() if folder == -1 else Path(f"/proc/self/fd/{folder}")
        whole = base / os.fsdecode(path)
        # A link's last name is what changes, not what it points to; opening goes on to that.
        where = whole.resolve() if event == "open" else whole.parent.resolve() / whole.name
        if where == Path(os.devnull):
            return
        if not any(where.is_relative_to(one) for one in self._allowed):
            self._refuse(f"wrote {where} ({event})")

    def _check_program(self, command: object) -> None:
        words = [str(word) for word in command] if isinstance(command, Sequence) else []
        if words[1:2] != ["-m"] or words[2] not in _OURS:
            self._refuse(f"started {' '.join(words)[:100]}")

    def _check_address(self, address: object) -> None:
        if isinstance(address, tuple) and address[0] not in _HERE:
            self._refuse(f"connected to {address[0]}")

    def _refuse(self, what: str) -> None:
        self.offences.append(what)
        raise OffenceError(what)
