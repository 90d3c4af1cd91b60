"""Errors become one line and an exit code here, once, for all three command lines."""

import errno
import os
import sys
from collections.abc import Callable

from deepfusion_edge.errors import DeepFusionError, InputError, StorageError

INTERRUPTED = 130
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}

EXIT_CODES = """\
exit codes:
  0    done
  2    usage: an option or a configuration value breaks a rule
  3    input: a file, folder or image is missing, empty, corrupt or too large
  4    model: the network cannot be used, or does not fit data or plan
  5    trust: a bundle, key or signature is not to be trusted
  6    parity: two runtimes disagree, nothing was written
  7    unreachable: a broker or another service does not answer
  8    storage: the disk is full or a folder cannot be written
  9    stuck: the agent did not move in time and ended itself
  10   restart: the agent ended because a command asked for it
  11   command: a device refused it, or could not carry it out
  130  interrupted by the user; finished work is kept
"""
"""For argparse's ``epilog`` (with ``RawDescriptionHelpFormatter``)."""


def run(main: Callable[[], int]) -> int:
    """Call ``main`` and return its exit code; a user's error becomes one line on stderr.

    A reader that goes away (``... | head``) is no error. Anything else that is not foreseen is a
    defect of this program and keeps its traceback.
    """
    try:
        code = main()
        sys.stdout.flush()
    except DeepFusionError as error:
        return _report(error)
    except KeyboardInterrupt:
        _say("interrupted; finished work is kept")
        return INTERRUPTED
    except BrokenPipeError:
        # The interpreter flushes stdout once more when it ends: give it a place to flush to.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        return _report(error_from_os(error))
    return code


def error_from_os(error: OSError) -> DeepFusionError:
    """Translate what the operating system refused: a missing file is input, the rest is storage."""
    reason = error.strerror or str(error) or type(error).__name__
    what = f"{error.filename}: {reason}" if error.filename else reason
    if isinstance(error, (FileNotFoundError, IsADirectoryError, NotADirectoryError)):
        return InputError(what, "check the path")
    if error.errno in _FULL:
        return StorageError(what, "free some space and start again")
    if error.errno == errno.EROFS:
        return StorageError(what, "choose a folder that can be written")
    if isinstance(error, PermissionError):
        return StorageError(what, "check who owns it and its permissions")
    return StorageError(what, "check the disk and the path, then start again")


def one_line(text: str) -> str:
    """Fold a text to one printable line, so that no name or message can forge a second one."""
    folded = " ".join(text.split())
    return "".join(c if c.isprintable() else "?" for c in folded)


def _report(error: DeepFusionError) -> int:
    _say(f"error: {error}")
    return error.exit_code


def _say(text: str) -> None:
    try:
        sys.stderr.write(one_line(text) + "\n")
        sys.stderr.flush()
    except (OSError, UnicodeEncodeError):
        return  # nobody can be told; the exit code still says it
