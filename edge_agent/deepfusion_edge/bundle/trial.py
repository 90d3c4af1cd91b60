"""The golden probe of a staged bundle, run where it can do no harm: in a limited subprocess."""

import json
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import deepfusion_edge
from deepfusion_edge.errors import ModelError, StorageError

_MODULE = "deepfusion_edge.probe"
_REPLACE = "export the bundle again, or keep the one that is installed"


class Limits(NamedTuple):
    """What a probe may take.

    Attributes:
        memory_bytes: address space; runtimes reserve far more than they use.
        timeout_s: wall-clock seconds from start to result.
    """

    memory_bytes: int = 4 * 2**30
    timeout_s: float = 60.0


DEFAULT_LIMITS = Limits()


def try_model(directory: Path, limits: Limits = DEFAULT_LIMITS) -> None:
    """Load the bundle's model in a subprocess and compare its outputs with the golden ones.

    The subprocess starts in the folder that holds this package, because Python puts the working
    directory first among the places it imports from.

    Raises:
        ModelError: the model does not load, gives other outputs, crashes, or breaks a limit.
        StorageError: no subprocess can be started.
    """
    command = [sys.executable, "-m", _MODULE, str(directory.resolve())]
    command += ["--memory-bytes", str(limits.memory_bytes)]
    try:
        done = subprocess.run(
            command,
            cwd=Path(deepfusion_edge.__file__).parent.parent,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=limits.timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ModelError(
            f"the golden probe took longer than {limits.timeout_s:g} s", _REPLACE
        ) from error
    except OSError as error:
        raise StorageError(f"cannot start the golden probe: {error}", "free some memory") from error
    try:
        answer = json.loads(done.stdout.splitlines()[-1])
        passed, what, remedy = answer["ok"], str(answer["what"]), str(answer["remedy"])
    except (IndexError, KeyError, TypeError, ValueError):
        passed, what, remedy = False, _ending(done.returncode), _REPLACE
    if passed is not True or done.returncode != 0:
        raise ModelError(what or _ending(done.returncode), remedy or _REPLACE)


def _ending(code: int) -> str:
    how = f"was ended by signal {-code}" if code < 0 else f"ended with code {code}"
    return f"the golden probe {how} and no result (crash, or out of its memory limit)"
