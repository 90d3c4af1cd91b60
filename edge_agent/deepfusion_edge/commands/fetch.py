"""A bundle from a web server: https, or http from where the configuration allows it.

The URL comes from a signed command, but is looked at with distrust all the same. No proxy of the
environment is used, no credentials are sent, and a URL is never logged or told further than its
host: its path and query may hold a token.
"""

import http.client
import logging
import os
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, NamedTuple
from urllib.parse import urljoin, urlsplit

from deepfusion_edge.bundle.files import writing
from deepfusion_edge.commands.incoming import INCOMING, Incoming
from deepfusion_edge.config_commands import Updates
from deepfusion_edge.errors import InputError, TrustError, UnreachableError, UsageError

log = logging.getLogger(__name__)

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
MAX_REDIRECTS = 3
FIRST_DELAY_S, LONGEST_DELAY_S = 0.5, 30.0
_BLOCK = 2**16
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_AGAIN_LATER = frozenset({408, 425, 429, 500, 502, 503, 504})
_NEW_COMMAND = "correct the URL and sign a new command"


class Address(NamedTuple):
    """A URL that may be asked.

    Attributes:
        path: with its query.
    """

    scheme: str
    host: str
    port: int
    path: str

    @property
    def words(self) -> str:
        """What may be told of it."""
        return f"{self.scheme}://{self.host}:{self.port}"


class Progress(NamedTuple):
    """What a transfer asks of its surroundings.

    Attributes:
        between: called often; what it raises ends the transfer.
        wait: waits so many seconds, or less when the agent stops.
    """

    between: Callable[[], None]
    wait: Callable[[float], object]


def check_url(url: str, rules: Updates, origin: Address | None = None) -> Address:
    """Read a URL and refuse what the configuration does not allow.

    Args:
        url: as it came.
        rules: of the configuration.
        origin: who redirected to it, if somebody did.

    Raises:
        UsageError: naming the rule; the text holds nothing of the URL but its host.
    """
    if not url.isascii() or not url.isprintable() or " " in url or "\\" in url:
        raise UsageError("the URL has a character that no URL has", _NEW_COMMAND)
    try:
        parts = urlsplit(url)
        host, port = (parts.hostname or "").lower(), parts.port
    except ValueError:
        raise UsageError("the URL cannot be read", _NEW_COMMAND) from None
    if parts.scheme not in {"https", "http"} or not host:
        raise UsageError("the URL is not https:// (or http://) with a host", _NEW_COMMAND)
    if parts.username is not None or parts.password is not None:
        raise UsageError("the URL holds a user name or a password", "use a URL without")
    if parts.fragment:
        raise UsageError("the URL has a fragment (#...)", _NEW_COMMAND)
    if parts.scheme == "http" and host not in LOOPBACK and host not in rules.http_hosts:
        raise UsageError(
            f"http from {host} is not allowed here",
            "serve the bundle by https, or name the host in updates.http_hosts",
        )
    if parts.scheme == "https" and rules.hosts is not None and host not in rules.hosts:
        raise UsageError(f"{host} is not in updates.hosts", "name it there, or use another server")
    if origin is not None:
        if parts.scheme == "http" and origin.scheme == "https":
            raise UsageError(f"{origin.host} redirects from https to http", _NEW_COMMAND)
        if host != origin.host and host not in (rules.hosts or ()):
            raise UsageError(
                f"{origin.host} redirects to {host}, which is not in updates.hosts",
                "name it there, or use the URL that it redirects to",
            )
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Address(parts.scheme, host, port or (443 if parts.scheme == "https" else 80), path)


def fetch(url: str, file: Incoming, rules: Updates, progress: Progress) -> None:
    """Fetch a file; goes on where an earlier transfer was cut, and tries again until its time ends.

    Raises:
        UsageError: the URL, or one that it redirects to, is not allowed.
        InputError: the server does not have the file, or one of another size.
        TrustError: the file is not the one whose hash was signed.
        UnreachableError: the server does not answer, or not in time.
        StorageError: the disk refuses.
    """
    address = check_url(url, rules)
    deadline = time.monotonic() + rules.timeout_s
    delay_s, resumed = FIRST_DELAY_S, file.there > 0
    while True:
        before = file.there
        if before == file.size and file.finish():
            return
        try:
            _transfer(address, file, rules, progress, deadline)
        except (OSError, http.client.HTTPException) as error:
            problem = _problem(error)
        else:
            if file.finish():
                return
            if not resumed:
                raise TrustError(
                    f"what {address.words} serves is not the file whose SHA-256 was signed",
                    "serve the bundle the command was signed for, then send a new command",
                )
            resumed, problem = False, "what an earlier transfer left was damaged"
        if file.there > before:
            delay_s = FIRST_DELAY_S
        left_s = deadline - time.monotonic()
        if left_s <= delay_s:
            raise UnreachableError(
                f"{address.words}: {problem}, and updates.timeout_s of {rules.timeout_s:g} s is"
                " over",
                "check the server, then send a new command",
            )
        log.warning("fetching from %s: %s; trying again", address.words, problem)
        progress.wait(delay_s)
        progress.between()
        delay_s = min(2 * delay_s, LONGEST_DELAY_S)


def _transfer(
    address: Address, file: Incoming, rules: Updates, progress: Progress, deadline: float
) -> None:
    for _ in range(MAX_REDIRECTS + 1):
        connection = _connect(address, rules)
        try:
            target = _ask(connection, address, file, progress, deadline)
        finally:
            connection.close()
        if target is None:
            return
        address = check_url(urljoin(f"{address.words}{address.path}", target), rules, address)
    raise UsageError(f"{address.host} redirects more than {MAX_REDIRECTS} times", _NEW_COMMAND)


def _connect(address: Address, rules: Updates) -> http.client.HTTPConnection:
    timeout_s = rules.idle_timeout_s
    if address.scheme == "http":
        return http.client.HTTPConnection(address.host, address.port, timeout=timeout_s)
    if rules.ca_file is not None and not Path(rules.ca_file).is_file():
        raise UsageError(f"updates.ca_file {rules.ca_file} is no file", "correct the configuration")
    context = ssl.create_default_context(cafile=rules.ca_file)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return http.client.HTTPSConnection(
        address.host, address.port, timeout=timeout_s, context=context
    )


def _ask(
    connection: http.client.HTTPConnection,
    address: Address,
    file: Incoming,
    progress: Progress,
    deadline: float,
) -> str | None:
    """Ask once and write what comes; returns where the server redirects to, if it does."""
    begin = file.there if file.there < file.size else 0
    headers = {"Accept-Encoding": "identity", "User-Agent": "deepfusion-agent"}
    if begin:
        headers["Range"] = f"bytes={begin}-"
    connection.request("GET", address.path, headers=headers)
    with connection.getresponse() as answer:  # it outlives the connection's own close
        if answer.status in _REDIRECTS:
            return answer.getheader("Location") or ""
        if answer.status in _AGAIN_LATER:
            raise http.client.HTTPException(f"answers with status {answer.status}")
        if answer.status not in {200, 206}:
            raise InputError(f"{address.words} answers with status {answer.status}", _NEW_COMMAND)
        if answer.status == http.HTTPStatus.OK:
            begin = 0
        elif not (answer.getheader("Content-Range") or "").startswith(f"bytes {begin}-"):
            raise http.client.HTTPException("answers with another part than was asked for")
        _check_size(answer, address, file.size - begin)
        descriptor = file.open()
        with os.fdopen(descriptor, "r+b", buffering=0) as stream:
            with writing(file.path):
                stream.truncate(begin)
            stream.seek(begin)
            _copy(answer, stream, file.size - begin, progress, deadline)
    return None


def _check_size(answer: http.client.HTTPResponse, address: Address, expected: int) -> None:
    if (answer.getheader("Content-Encoding") or "identity") != "identity":
        raise InputError(f"{address.words} compresses what it serves", "switch that off there")
    if answer.length is not None and answer.length != expected:
        raise InputError(
            f"{address.words} would send {answer.length} bytes where {expected} were signed",
            "serve the bundle the command was signed for, then send a new command",
        )


def _copy(
    answer: http.client.HTTPResponse,
    stream: BinaryIO,
    expected: int,
    progress: Progress,
    deadline: float,
) -> None:
    """Write as many bytes as were signed; a server that sends more is not read to its end."""
    left = expected
    while left:
        progress.between()
        if time.monotonic() >= deadline:
            raise TimeoutError
        block = memoryview(answer.read1(min(left, _BLOCK)))
        if not block:
            raise http.client.IncompleteRead(b"", left)
        left -= len(block)
        while block:
            with writing(Path(INCOMING)):
                block = block[stream.write(block) :]


def _problem(error: Exception) -> str:
    """Say what went wrong without repeating what the server or the URL said."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({error.verify_message}), see updates.ca_file"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, http.client.IncompleteRead):
        return "the connection ended early"
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    return str(error) if str(error).startswith("answers with ") else type(error).__name__
