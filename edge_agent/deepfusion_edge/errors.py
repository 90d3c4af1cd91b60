"""Every error a user can meet, with its exit code; the command line turns it into one line, once.

Exit codes are the same for all three programs; ``console.EXIT_CODES`` says what each means.
"""


class DeepFusionError(Exception):
    """A user's mistake or a broken environment.

    Attributes:
        what: the rule and the value that broke it.
        remedy: what to do.
    """

    exit_code = 1

    def __init__(self, what: str, remedy: str) -> None:
        self.what = what
        self.remedy = remedy
        super().__init__(f"{what}; {remedy}")

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        """Survive pickling: an error of a worker process is its parent's."""
        return type(self), (self.what, self.remedy)


class UsageError(DeepFusionError):
    """An option or a configuration value breaks a rule."""

    exit_code = 2


class InputError(DeepFusionError):
    """A file, folder or image is missing, empty, corrupt or too large."""

    exit_code = 3


class ModelError(DeepFusionError):
    """The network cannot be used, or does not fit the data or the plan."""

    exit_code = 4


class TrustError(DeepFusionError):
    """A bundle, key or signature is not to be trusted."""

    exit_code = 5


class ParityError(DeepFusionError):
    """Two runtimes disagree; nothing was written."""

    exit_code = 6


class UnreachableError(DeepFusionError):
    """A broker or another service does not answer."""

    exit_code = 7


class StorageError(DeepFusionError):
    """The disk is full or a folder cannot be written."""

    exit_code = 8


class StuckError(DeepFusionError):
    """The judging thread does not move, and the process ended itself."""

    exit_code = 9

    @classmethod
    def after(cls, limit_s: float) -> "StuckError":
        """For a thread that did not move for so many seconds."""
        return cls(
            f"nothing moved for {limit_s:g} s (model.watchdog_s): an inference or the disk hangs",
            "the process ends with exit code 9; 'run --supervise' or systemd starts it again",
        )


class RestartError(DeepFusionError):
    """A restart was asked for; nothing is wrong."""

    exit_code = 10

    @classmethod
    def because(cls, reason: str) -> "RestartError":
        """For a restart that was asked for with this reason."""
        return cls(
            f"restart asked for ({reason})",
            "the process ends with exit code 10; 'run --supervise' or systemd starts it again",
        )


class CommandError(DeepFusionError):
    """A device refused a command, or could not carry it out."""

    exit_code = 11
