"""Which folders are on a network share, told without touching them."""

import os
import re
from pathlib import Path

_TABLE = Path("/proc/self/mountinfo")
_SHARES = {
    *("afs", "autofs", "beegfs", "ceph", "cifs", "davfs", "glusterfs", "lustre"),
    *("nfs", "nfs4", "smb3", "smbfs"),
}


def is_share(path: str, *, table: str | None = None) -> bool:
    """Say whether a path lies on a file system that another machine, or a program, answers for.

    A symbolic link on the way is not followed: that could hang already.

    Args:
        path: absolute, or from the working directory.
        table: text of ``/proc/self/mountinfo``; None reads it.
    """
    if table is None:
        try:
            table = _TABLE.read_text(encoding="utf-8", errors="surrogateescape")
        except OSError:
            return False
    here = os.path.abspath(path)  # noqa: PTH100 - resolve() would touch it
    longest, found = -1, ""
    for line in table.splitlines():
        before, _, after = line.partition(" - ")
        fields = before.split(" ")
        if len(fields) < 5 or not after:  # noqa: PLR2004 - the fifth is the mount point
            continue
        point = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), fields[4]).rstrip("/")
        # Of two mounts on one point, the later one is seen.
        if (here == point or here.startswith(f"{point}/")) and len(point) >= longest:
            longest, found = len(point), after.split(" ")[0]
    return found in _SHARES or found.startswith("fuse.")
