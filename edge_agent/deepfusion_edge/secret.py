"""Passwords, read from where the configuration says, and never told to anybody."""

import os

from deepfusion_edge.errors import InputError, UsageError

MAX_SECRET_BYTES = 4096


def read_secret(field: str, *, file: str | None, variable: str | None) -> str | None:
    """Read a password from an environment variable or a file; None if neither is named.

    Args:
        field: what the names of the keys begin with: ``mqtt.``.
        file: path; a line break at its end is no part of the password.
        variable: name of the environment variable.

    Raises:
        UsageError: the variable is not set.
        InputError: the file is missing, too long, empty or not UTF-8.
    """
    if variable is not None:
        value = os.environ.get(variable)
        if not value:
            raise UsageError(f"environment variable {variable} is not set", "export it")
        return value
    if file is None:
        return None
    where = f"{field}password_file {file}"
    try:
        with open(file, "rb") as opened:  # noqa: PTH123 - a configured text, any path
            data = opened.read(MAX_SECRET_BYTES + 1).rstrip(b"\r\n")
        password = data.decode()
    except OSError as error:
        raise InputError(f"{where}: {error.strerror}", "check path and permissions") from error
    except UnicodeDecodeError:
        # `from None`: the decoder's error quotes what it read.
        raise InputError(f"{where} is not UTF-8", "write the password into it") from None
    if not 1 <= len(data) <= MAX_SECRET_BYTES:
        raise InputError(f"{where} has {len(data)} bytes", "write the password into it")
    return password
