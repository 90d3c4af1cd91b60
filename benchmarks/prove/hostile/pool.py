"""Cases in processes of their own: a crash, a hang or a full memory is seen, and ends one case.

A server process that has loaded the libraries, but nothing of ours, forks a process for a group of
cases: it takes a guard out, if it is to, then imports the product. That one forks once a case.
"""

import importlib
import json
import multiprocessing
import os
import resource
import select
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from benchmarks.prove.guards.guard import Guard, take_out
from benchmarks.prove.hostile import KINDS

if TYPE_CHECKING:
    from benchmarks.prove.hostile.case import Case, Outcome
    from benchmarks.prove.hostile.world import World

_LIBRARIES = [
    "cryptography.hazmat.primitives.asymmetric.ed25519",
    "cryptography.hazmat.primitives.serialization",
    "http.client",
    "logging",
    "msgspec",
    "numpy",
    "onnx",
    "onnxruntime",
    "paho.mqtt.client",
    "PIL.JpegImagePlugin",
    "PIL.PngImagePlugin",
    "sqlite3",
    "statistics",
    "urllib.request",
]
_START_S, _LONGEST_S = 120.0, 300.0
_TURN_S = 0.1


class GroupError(RuntimeError):
    """The processes that run the cases could not begin, or are gone."""


class Wanted(NamedTuple):
    """Which cases to run, and how.

    Attributes:
        kinds: modules of the corpus.
        names: of cases; empty: all of these kinds.
        guard: taken out first; None: nothing is.
        stop: end with the first case that fails.
        seconds: after these a case hangs.
    """

    kinds: tuple[str, ...] = tuple(KINDS)
    names: frozenset[str] = frozenset()
    guard: Guard | None = None
    stop: bool = False
    seconds: float = 5.0


def run(wanted: Wanted, work: Path) -> "Iterator[Outcome]":
    """Run cases one after the other.

    Args:
        wanted: which.
        work: an empty folder.

    Raises:
        GroupError: the group cannot be started, for instance because a guard is not found.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_LIBRARIES)
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_group, args=(theirs, wanted, work), daemon=True)
    process.start()
    theirs.close()
    try:
        while True:
            if not ours.poll(_START_S + wanted.seconds):
                raise GroupError("the processes of the cases do not answer")
            try:
                found = ours.recv()
            except EOFError:
                raise GroupError("the processes of the cases ended early") from None
            if found is None:
                return
            if isinstance(found, str):
                raise GroupError(found)
            yield found
    finally:
        ours.close()
        process.terminate()
        process.join(_START_S)


def cases_of(kind: str) -> "Sequence[Case]":
    """Import the cases of a kind, or of any other module."""
    name = f"benchmarks.prove.hostile.{kind}" if kind in KINDS else kind
    found: Sequence[Case] = importlib.import_module(name).CASES
    return found


def _group(answers: Connection, wanted: Wanted, work: Path) -> None:
    try:
        if wanted.guard is not None:
            take_out(wanted.guard)
        from benchmarks.prove.hostile.world import World

        template = World(work / "template")
        template.begin()
        for at, (kind, case) in enumerate(_chosen(wanted)):
            outcome = _forked(kind, case, work / f"{at:03d}", template, wanted.seconds)
            answers.send(outcome)
            if wanted.stop and outcome.problem:
                break
        answers.send(None)
    except Exception as error:
        answers.send(f"{type(error).__name__}: {error}")


def _chosen(wanted: Wanted) -> "Iterator[tuple[str, Case]]":
    for kind in wanted.kinds:
        for case in cases_of(kind):
            if not wanted.names or case.name in wanted.names:
                yield kind, case


def _forked(kind: str, case: "Case", root: Path, template: "World", seconds: float) -> "Outcome":
    from benchmarks.prove.hostile.case import MAX_BYTES, Outcome

    reader, writer = os.pipe()
    begun = time.monotonic()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _in_child(case, root, template, writer)
    os.close(writer)
    data, hangs, queued = b"", False, _Queued(child)
    while True:
        if not select.select([reader], [], [], _TURN_S)[0]:
            took = time.monotonic() - begun
            hangs = took - queued.seconds() > seconds or took > _LONGEST_S
            if hangs:
                break
            continue
        chunk = os.read(reader, 2**16)
        if not chunk:
            break
        data += chunk
    os.close(reader)
    if hangs:
        os.killpg(child, signal.SIGKILL)
    took = time.monotonic() - begun - queued.seconds()
    status = os.waitpid(child, 0)[1]
    if hangs:
        return Outcome(kind, case.name, case.guard, f"hung for {seconds:g} s", "", took)
    if not data:
        how = os.waitstatus_to_exitcode(status)
        return Outcome(kind, case.name, case.guard, f"the process ended with {how}", "", took)
    found = json.loads(data)
    problem, used = found["problem"], found["bytes"]
    if not problem and used > MAX_BYTES:
        problem = f"took {used / 2**20:.0f} MB of memory"
    return Outcome(kind, case.name, case.guard, problem, found["said"], took, used)


class _Queued:
    """For how long a process, and those it started, could run and had no processor.

    On a busy machine that is no hanging. Source: the second number of ``/proc/PID/schedstat``, in
    nanoseconds.
    """

    def __init__(self, child: int) -> None:
        self._seconds = {child: 0.0}

    def seconds(self) -> float:
        """Look again; what has ended counts as it was last seen."""
        for process in list(self._seconds):
            folder = Path(f"/proc/{process}")
            with suppress(OSError, ValueError, IndexError):
                self._seconds[process] = int((folder / "schedstat").read_text().split()[1]) / 1e9
                below = (folder / "task" / str(process) / "children").read_text()
                for one in below.split():
                    self._seconds.setdefault(int(one), 0.0)
        return sum(self._seconds.values())


def _in_child(case: "Case", root: Path, template: "World", writer: int) -> None:
    code = 1
    try:
        os.setpgid(0, 0)
        nowhere = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(nowhere, descriptor)
        try:
            answer = _answer(case, root, template)
        except BaseException as error:
            answer = {"problem": f"did not begin: {error!r}", "said": "", "bytes": 0}
        os.write(writer, json.dumps(answer).encode())
        code = 0
    finally:
        os._exit(code)


def _answer(case: "Case", root: Path, template: "World") -> dict[str, object]:
    from benchmarks.prove.hostile.case import attempt
    from benchmarks.prove.hostile.watch import Watch
    from benchmarks.prove.hostile.world import World

    _limit()
    root.mkdir()
    os.chdir(root)
    watch = Watch([root / "agent", root / "inbox", root / "tmp"])
    world = World(root)
    world.begin(template)
    held = _of_status("VmRSS")
    problem, said = attempt(case, world)
    problem = "; ".join(watch.offences) or problem
    return {
        "problem": problem,
        "said": said[:1000],
        "bytes": _most_bytes() - held,
    }


def _limit() -> None:
    """Leave half a gigabyte of address space; the soft limit, so that a probe sets its own."""
    from benchmarks.prove.hostile.case import MAX_BYTES

    _forget_most_bytes()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    used = _of_status("VmSize")
    if used:
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        resource.setrlimit(resource.RLIMIT_AS, (used + MAX_BYTES, hard))


def _most_bytes() -> int:
    """Return the most memory this process held and, added, the largest one that it started."""
    below = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    return _of_status("VmHWM") + below


def _forget_most_bytes() -> None:
    """Begin to count anew: what the parent once held is not this case's."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _of_status(name: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return 0
