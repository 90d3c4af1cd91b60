"""Cases that do not hold, one for each way of failing: the pool has to see every one of them."""

import os
import pickle
import subprocess
import time
from pathlib import Path

from benchmarks.prove.hostile.case import Case
from deepfusion_edge.errors import InputError, TrustError


def refuses(what="no", remedy="do that"):
    def drive(_world):
        raise InputError(what, remedy)

    return drive


def crashes(_world):
    raise KeyError("?")


def dies(_world):
    os.abort()


def exits(_world):
    raise SystemExit(0)


def hangs(_world):
    time.sleep(60)


def spins(_world):
    while True:
        pass


def eats(_world):
    return f"took {len(bytearray(600 * 2**20))}"  # in one piece: a slow machine would hang instead


def writes(world):
    (world.root / "evil.txt").write_text("x")
    return "taken"


def links(world):
    (world.root.parent / "evil").symlink_to("/etc/passwd")
    return "taken"


def swallows(world):
    try:
        writes(world)
    except Exception:  # noqa: BLE001 - as a careless product would
        return "taken"


def unpickles(_world):
    pickle.loads(pickle.dumps(Path("x")))  # noqa: S301 - the offence
    return "taken"


def starts(_world):
    subprocess.run(["true"], check=False)  # noqa: S607 - the offence
    return "taken"


def connects(_world):
    import socket

    socket.create_connection(("192.0.2.1", 80), 1)
    return "taken"


def leaves(world):
    (world.agent / "staging-old").mkdir()
    return "taken"


def installs(world):
    return world.install(world.pack(world.members()))


def breaks(world):
    (world.agent / "current").unlink()
    return "taken"


def distrusts(_world):
    raise TrustError("no", "do that")


CASES = (
    Case("is taken", "", lambda _world: "taken", "no", "InputError"),
    Case("is refused otherwise", "", distrusts, "no", "InputError"),
    Case("says something else", "", refuses("yes"), "never", "InputError"),
    Case("says no remedy", "", refuses(remedy=" "), "no", "InputError"),
    Case("says no cause", "", refuses(what=""), "", "InputError"),
    Case("crashes", "", crashes, "no", "InputError"),
    Case("dies", "", dies, "taken"),
    Case("exits", "", exits, "taken"),
    Case("hangs", "", hangs, "taken"),
    Case("spins", "", spins, "taken"),
    Case("eats", "", eats, "taken"),
    Case("writes", "", writes, "taken"),
    Case("links", "", links, "taken"),
    Case("swallows", "", swallows, "taken"),
    Case("unpickles", "", unpickles, "taken"),
    Case("starts", "", starts, "taken"),
    Case("connects", "", connects, "taken"),
    Case("leaves", "", leaves, "taken"),
    Case("installs", "", installs, "installed"),
    Case("breaks", "", breaks, "taken"),
    Case("takes nothing", "", lambda _world: "taken", "taken", leaves="new"),
    Case("holds", "", refuses(), "no", "InputError"),
)
