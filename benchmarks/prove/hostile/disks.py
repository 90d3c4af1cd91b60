"""Disks that are full, folders that are not what they were, and files that somebody changed."""

import fcntl
import json
import os
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from benchmarks.prove.hostile.case import Case, storage, trust
from benchmarks.prove.hostile.world import NOW, World, png
from deepfusion_edge.bundle import store
from deepfusion_edge.bundle.envelope import public_pem
from deepfusion_edge.bundle.files import replace_file
from deepfusion_edge.bundle.history import Entry, note
from deepfusion_edge.bundle.manifest import MODEL
from deepfusion_edge.commands.incoming import Incoming as File
from deepfusion_edge.errors import DeepFusionError
from deepfusion_edge.report.messages import Incoming
from deepfusion_edge.runtime.engine_cache import EngineCache


@contextmanager
def _full(bytes_left: int) -> Iterator[None]:
    """Let no file grow beyond so many bytes, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_left, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def _install_full(bytes_left: int) -> Callable[[World], str]:
    def drive(world: World) -> str:
        path = world.pack(world.members())
        with _full(bytes_left):
            return world.install(path)

    return drive


def _command_full(world: World) -> str:
    """Let the ledger not be written: the command is not taken."""
    message = world.sign()
    with world.outbox() as box:
        desk = world.desk(box)
        with _full(100):
            desk.take(Incoming("deepfusion/line-1/command", message, retained=False, qos=1))
        if (world.agent / "commands.json").exists():
            return "it was written"
        desk.take(Incoming("deepfusion/line-1/command", message, retained=False, qos=1))
        told = [json.loads(event.body) for event in box.peek(10)]
    return f"status {told[-1]['state']}; log: {world.log}"


def _engine_full(world: World) -> str:
    cache = EngineCache(world.agent / "engines")
    with _full(10):
        cache.keep_engine({"bundle": "0" * 64}, b"engine")
    return f"engine {cache.engine({'bundle': '0' * 64})!r}: {world.log}"


def _history_full(world: World) -> str:
    with _full(10):
        note(world.agent, Entry(NOW, "line", 1, None, "refused", "x"))
    return f"log: {world.log}"


def _changed(path: str, content: bytes | None) -> Callable[[World], str]:
    """Change a file of the bundle that serves, and start with it."""

    def drive(world: World) -> str:
        file = world.agent / "current" / path
        if content is None:
            file.unlink()
        else:
            file.write_bytes(content)
        store.load_current(world.agent, now=NOW)
        return "it serves"

    return drive


def _after_return(world: World) -> str:
    """Return to the bundle before a damaged one."""
    world.install(world.pack(world.members()))
    (world.agent / "current" / MODEL).write_bytes(b"evil")
    try:
        store.load_current(world.agent, now=NOW)
    except DeepFusionError:
        store.roll_back(world.agent)
    return f"serves {world.serving() == world.digest}"


def _return_to_damaged(world: World) -> str:
    """Refuse to return to a bundle that was changed meanwhile."""
    old = (world.agent / "current").resolve()
    world.install(world.pack(world.members()))
    (old / MODEL).write_bytes(b"evil")
    store.roll_back(world.agent)
    return "returned"


def _link(target: str) -> Callable[[World], str]:
    def drive(world: World) -> str:
        current = world.agent / "current"
        good = current.readlink()
        current.unlink()
        current.symlink_to(target)
        try:
            store.load_current(world.agent, now=NOW)
        finally:
            current.unlink()
            current.symlink_to(good)
        return "it serves"

    return drive


def _state(name: str, content: bytes) -> Callable[[World], str]:
    """Damage a record of the state folder, and install."""

    def drive(world: World) -> str:
        file = world.agent / name
        before = file.read_bytes() if file.exists() else None
        file.write_bytes(content)
        try:
            return world.install(world.pack(world.members()))
        finally:
            if before is None:
                file.unlink(missing_ok=True)
            else:
                file.write_bytes(before)

    return drive


def _key_added(world: World) -> str:
    """Put a stranger's key beside the pinned ones."""
    added = world.agent / "trust" / "stranger.pem"
    added.write_bytes(public_pem(world.other.public_key()))
    try:
        return world.install(world.pack(world.members()))
    finally:
        added.unlink()


def _locked(world: World) -> str:
    path = world.pack(world.members())
    with (world.agent / "lock").open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return world.install(path)


def _no_folder(world: World) -> str:
    """Give a file where the state folder has to be."""
    file = world.file(b"", "state")
    store.install(world.pack(world.members()), file, [world.trust], now=NOW, probe=False)
    return "installed"


def _below_a_file(world: World) -> str:
    state = world.file(b"", "file") / "state"
    store.install(world.pack(world.members()), state, [world.trust], now=NOW, probe=False)
    return "installed"


def _empty(world: World) -> str:
    store.load_current(world.inbox, now=NOW)
    return "it serves"


def _part_link(world: World) -> str:
    """Put a link where the first bytes of a transfer will be written."""
    victim = world.inbox / "victim"
    victim.write_bytes(b"precious")
    (world.agent / "incoming").mkdir()
    (world.agent / "incoming" / "c-1.part").symlink_to(victim)
    try:
        os.close(File(world.agent, "c-1", 10, "0" * 64).open())
    finally:
        (world.agent / "incoming" / "c-1.part").unlink()
    return "opened"


def _stale(world: World) -> str:
    """Leave what an interrupted installation leaves, and install."""
    staging = world.agent / "staging-old"
    shutil.copytree((world.agent / "current").resolve(), staging)
    shutil.copytree(staging, world.agent / "bundles" / ("e" * 16))
    said = world.install(world.pack(world.members()))
    left = [p.name for p in world.agent.glob("staging-*")]
    left += [p.name for p in (world.agent / "bundles").glob("e*")]
    return f"{said}, left {left}"


def _outbox(world: World) -> str:
    """Find noise where the outbox was."""
    (world.agent / "outbox.sqlite").write_bytes(b"noise" * 5000)
    said = world.judge(png(8, 8))
    for path in world.agent.glob("outbox.corrupt*"):
        said += f"; moved to {path.name}"
        path.unlink()
    return said


def _outbox_of_another(world: World) -> str:
    with world.outbox():
        return world.judge(png(8, 8))


def _snapshot_full(world: World) -> str:
    kept = world.inbox / "snapshot.json"
    kept.write_bytes(b"old")
    try:
        with _full(10):
            replace_file(kept, bytes(100))
    finally:
        if kept.read_bytes() != b"old":
            raise RuntimeError("half a file")
    return "written"


_TOO_LARGE = "cannot write .*File too large; free some space"
CASES = (
    storage("a full disk, after 100 bytes", "errors of writing", _install_full(100), _TOO_LARGE),
    storage("a full disk, after the manifest", "errors of writing", _install_full(900), _TOO_LARGE),
    Case(
        "a full disk under the ledger",
        "commands that cannot be kept",
        _command_full,
        "status accepted; log: .*refused .storage.",
    ),
    Case(
        "a full disk under the engines",
        "engines that cannot be kept",
        _engine_full,
        "engine None: .*is not kept",
    ),
    Case(
        "a full disk under the history",
        "history that cannot be kept",
        _history_full,
        "log: bundle history: cannot write",
    ),
    storage(
        "a full disk under a file that is replaced",
        "replacing whole files",
        _snapshot_full,
        _TOO_LARGE,
    ),
    storage(
        "a state folder that is a file", "errors of writing", _no_folder, "cannot write .*state: "
    ),
    storage(
        "a state folder below a file",
        "errors of writing",
        _below_a_file,
        "cannot write .*state: Not a directory",
    ),
    storage(
        "two installations at once",
        "lock of the state",
        _locked,
        "another installation is changing",
    ),
    Case("nothing installed", "installed bundle", _empty, "no bundle installed in", "InputError"),
    trust(
        "a model that was changed where it lies",
        "hash of a file",
        _changed(MODEL, b"evil"),
        "is damaged .model.onnx is not the signed file",
        leaves="breaks",
    ),
    trust(
        "a model that is gone",
        "damage to a bundle",
        _changed(MODEL, None),
        "is damaged .cannot read",
        leaves="breaks",
    ),
    trust(
        "a manifest that was changed where it lies",
        "signed manifest",
        _changed("manifest.json", b"{}"),
        "is damaged .the signed manifest differs",
        leaves="breaks",
    ),
    trust(
        "a manifest of a gigabyte where it lies",
        "size of a read manifest",
        _changed("manifest.json", bytes(5 * 2**20)),
        "is damaged .manifest has 4194305 bytes, at most",
        leaves="breaks",
    ),
    Case("a damaged bundle, and the one before", "hash of a file", _after_return, "serves True"),
    trust(
        "a return to a damaged bundle",
        "hash of a file",
        _return_to_damaged,
        "is damaged",
        leaves="new",
    ),
    trust(
        "current points out of the folder",
        "target of a link",
        _link("../../etc"),
        "points to '../../etc'; remove this link",
    ),
    trust(
        "current points to an absolute path",
        "target of a link",
        _link("/etc/passwd"),
        "points to '/etc/passwd'",
    ),
    trust(
        "current points to a name of letters",
        "target of a link",
        _link("bundles/../../../evil.d"),
        "points to",
    ),
    trust(
        "current points to nothing",
        "damage to a bundle",
        _link("bundles/" + "0" * 16),
        "is damaged",
    ),
    trust(
        "a record of sequences that is noise",
        "form of the highest sequence",
        _state("highest.json", b"\xff\x00"),
        "highest.json is damaged",
    ),
    trust(
        "a record of a probation that is noise",
        "form of a probation",
        _state("probation.json", b"{"),
        "probation.json is damaged",
    ),
    trust(
        "a probation that names a path",
        "names in a probation",
        _state(
            "probation.json",
            b'{"candidate":"../../etc","fallback":"../../etc","begun":"2026-06-01T00:00:00Z"}',
        ),
        "probation.json is damaged",
    ),
    trust(
        "a policy of trust that is noise",
        "form of the policy",
        _state("trust/policy.json", b"{}"),
        "policy.json is damaged",
    ),
    trust(
        "a policy that asks for no signature",
        "form of the policy",
        _state("trust/policy.json", b'{"keys":[],"threshold":0}'),
        "policy.json is damaged",
    ),
    trust(
        "a stranger's key beside the pinned ones",
        "keys of the policy",
        _key_added,
        "the pinned keys in .* do not fit",
    ),
    storage(
        "a link where a transfer will be written",
        "link of a transfer",
        _part_link,
        "cannot write .*c-1.part: Too many levels",
    ),
    Case(
        "what an interrupted installation left",
        "sweeping",
        _stale,
        r"installed sequence 2, left \[\]",
        leaves="new",
    ),
    Case(
        "noise where the outbox was",
        "corrupt outbox",
        _outbox,
        "judged as green; moved to outbox.corrupt.sqlite",
    ),
    storage(
        "two agents with one outbox", "lock of the outbox", _outbox_of_another, "outbox|another"
    ),
)
