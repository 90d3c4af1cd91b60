"""What a hostile case is, and what must hold after it."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from benchmarks.prove.hostile.world import World
from deepfusion_edge.errors import DeepFusionError

Drive = Callable[[World], str]
Leaves = Literal["same", "new", "breaks"]

MAX_BYTES = 512 * 2**20


@dataclass(frozen=True)
class Case:
    """One hostile input and how the product answers it.

    Attributes:
        name: what is hostile about it.
        guard: what refuses it, a key of ``benchmarks.prove.guards.catalogue.GUARDS``; empty where
            the product has no code that would do what is asked.
        drive: makes the input, hands it to a public entry point, and returns what was said;
            or lets that entry point's error through.
        says: regular expression that must be found in what was said: the cause.
        error: name of the error's class; empty where it is handled and told as an event instead.
        leaves: what serves afterwards: the ``same`` bundle, a ``new`` one that was installed by
            right, or nothing is asked of a case that ``breaks`` the installed one itself.
    """

    name: str
    guard: str
    drive: Drive
    says: str
    error: str = ""
    leaves: Leaves = "same"


def trust(name: str, guard: str, drive: Drive, says: str, *, leaves: Leaves = "same") -> Case:
    """Make a case that is refused because it is not to be trusted."""
    return Case(name, guard, drive, says, "TrustError", leaves)


def usage(name: str, guard: str, drive: Drive, says: str) -> Case:
    """Make a case that is refused because it breaks a rule of the configuration."""
    return Case(name, guard, drive, says, "UsageError")


def model(name: str, guard: str, drive: Drive, says: str) -> Case:
    """Make a case that is refused because the graph cannot be used."""
    return Case(name, guard, drive, says, "ModelError")


def storage(name: str, guard: str, drive: Drive, says: str) -> Case:
    """Make a case that ends because the disk or the folder refuses."""
    return Case(name, guard, drive, says, "StorageError")


class Outcome(NamedTuple):
    """What one case showed.

    Attributes:
        problem: why it failed; empty if it held.
        said: what the product said, one line.
        seconds: from start to answer, without waiting for a processor.
        bytes: of memory that the drive took at most, what it started included.
    """

    kind: str
    name: str
    guard: str
    problem: str
    said: str
    seconds: float = 0.0
    bytes: int = 0


def attempt(case: Case, world: World) -> tuple[str, str]:
    """Drive a case; returns what is wrong with the answer (empty: nothing), and the answer."""
    try:
        said = case.drive(world)
        name = ""
    except DeepFusionError as error:
        name = type(error).__name__
        said = f"exit code {error.exit_code}: {error}"
        if not error.what.strip() or not error.remedy.strip():
            return "the error has no cause or no remedy", said
    except Exception as error:
        return f"crashed with {type(error).__name__}: {error}", ""
    if name != case.error:
        return f"{name or 'no error'} instead of {case.error or 'an answer'}", said
    if re.search(case.says, said) is None:
        return f"does not say {case.says!r} but {said[:600]!r}", said
    return left_behind(case, world), said


def left_behind(case: Case, world: World) -> str:
    """Say what a case changed that it must not; empty if nothing."""
    found = world.strangers()
    if found:
        return f"left {', '.join(found)} in the agent's folder"
    if case.leaves == "breaks":
        return ""
    try:
        serving = world.serving()
    except Exception as error:
        return f"afterwards nothing serves: {error}"
    if (serving == world.digest) != (case.leaves == "same"):
        return "afterwards another bundle serves" if case.leaves == "same" else "it was not taken"
    return ""
