"""A small web server for the status page, ``/metrics`` and ``/healthz``: GET alone, few at a time.

Nothing that arrives is acted upon, so there is nothing to forge; what remains is reading by those
who should not. Hence the loopback address by default, host names checked against DNS rebinding, and
a content security policy that lets the page load nothing from elsewhere.
"""

import contextlib
import ipaddress
import logging
import re
import socket
import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

from deepfusion_edge.config import Http
from deepfusion_edge.console import one_line
from deepfusion_edge.health.metrics import CONTENT_TYPE
from deepfusion_edge.health.seeing import Seeing, page

log = logging.getLogger(__name__)

MOST_VISITORS = 16
VISIT_S = 10.0
SILENCE_S = 5.0
RETRY_S = 10.0
TURN_S = 0.25

JSON = "application/json"
PAGES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self';"
        " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Reply(NamedTuple):
    """Status, type and body of an answer."""

    status: HTTPStatus
    kind: str
    body: bytes


def allowed(host: str, names: tuple[str, ...]) -> bool:
    """Whether a ``Host`` header names this device: ``localhost``, an IP address, or a known name.

    A web site that lets its own name point here (DNS rebinding) comes with that name.
    """
    match = re.fullmatch(r"(\[[0-9A-Fa-f:.]{2,45}\]|[^:\[\]]{1,253})(:\d{1,5})?", host)
    if match is None:
        return False
    name = match[1].strip("[]").lower()
    if name in {"localhost", *(known.lower() for known in names)}:
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def answer(seeing: Seeing, path: str) -> Reply:
    """Find what a path shows."""
    if path in PAGES:
        name, kind = PAGES[path]
        return Reply(HTTPStatus.OK, kind, page(name))
    if path == "/status.json":
        return Reply(HTTPStatus.OK, JSON, seeing.status())
    if path == "/metrics":
        return Reply(HTTPStatus.OK, CONTENT_TYPE, seeing.metrics())
    if path == "/healthz":
        health = seeing.healthz()
        status = HTTPStatus.OK if health.well else HTTPStatus.SERVICE_UNAVAILABLE
        return Reply(status, JSON, health.body)
    picture = re.fullmatch(r"/picture/(\d{1,15})", path)
    body = seeing.picture(int(picture[1])) if picture else None
    if body is not None:
        return Reply(HTTPStatus.OK, "image/jpeg", body)
    return Reply(HTTPStatus.NOT_FOUND, "text/plain", b"not found\n")


def serve(
    http: Http,
    seeing: Seeing,
    finish: threading.Event,
    *,
    listening: Callable[[int], None] = lambda _port: None,
) -> None:
    """Serve in the caller's thread until ``finish`` is set.

    A port that cannot be had is said once and tried again: the line goes on without a page.

    Args:
        http: where to listen.
        seeing: what is shown.
        finish: ends it.
        listening: told the port, once there is one.
    """
    if not ipaddress.ip_address(http.host).is_loopback:
        log.warning(
            "status page: http.host %s is not this device alone: everybody who reaches it sees"
            " frames and figures, without a password",
            http.host,
        )
    said = ""
    while not finish.is_set():
        try:
            server = _Server(http, seeing)
        except OSError as error:
            reason = f"{http.host} port {http.port}: {error.strerror or error}"
            if reason != said:
                log.warning("status page: cannot listen on %s; trying again", reason)
            said = reason
            finish.wait(RETRY_S)
            continue
        with server:
            port = int(server.server_address[1])
            log.info("status page: http://%s:%d/", server.shown_host, port)
            listening(port)
            while not finish.is_set():
                server.handle_request()  # waits TURN_S for one
                server.dismiss()
        return


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = MOST_VISITORS
    timeout = TURN_S

    def __init__(self, http: Http, seeing: Seeing) -> None:
        version = ipaddress.ip_address(http.host).version
        self.address_family = socket.AF_INET6 if version == 6 else socket.AF_INET  # noqa: PLR2004
        self.shown_host = f"[{http.host}]" if version == 6 else http.host  # noqa: PLR2004
        self.names, self.seeing = http.names, seeing
        self._visits: dict[int, tuple[float, socket.socket]] = {}
        self._mutex = threading.Lock()
        super().__init__((http.host, http.port), _Visit)

    def server_bind(self) -> None:
        # The parent looks its own name up here, which may ask a name server and wait for it.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = self.shown_host, int(self.server_address[1])

    def verify_request(self, request: Any, client_address: Any) -> bool:  # noqa: ANN401, ARG002
        """Take a visitor in, unless the house is full."""
        with self._mutex:
            if len(self._visits) >= MOST_VISITORS:
                return False
            self._visits[id(request)] = time.monotonic(), request
        return True

    def shutdown_request(self, request: Any) -> None:  # noqa: ANN401
        super().shutdown_request(request)
        with self._mutex:
            self._visits.pop(id(request), None)

    def dismiss(self) -> None:
        """End visits that take too long, however busily they trickle."""
        since = time.monotonic() - VISIT_S
        with self._mutex:
            late = [request for begun, request in self._visits.values() if begun < since]
        for request in late:
            with contextlib.suppress(OSError):
                request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401
        """Say nothing of visitors that break off; the parent would print a traceback."""


class _Visit(BaseHTTPRequestHandler):
    server: _Server
    server_version, sys_version = "deepfusion-agent", ""
    timeout = SILENCE_S

    def do_GET(self) -> None:
        hosts = self.headers.get_all("Host", [])
        if len(hosts) != 1 or not allowed(hosts[0], self.server.names):
            text = b"this name is not among http.names of the agent's configuration\n"
            self._send(Reply(HTTPStatus.MISDIRECTED_REQUEST, "text/plain", text))
            return
        try:
            reply = answer(self.server.seeing, self.path.partition("?")[0])
        except Exception:
            log.exception("status page: %s", one_line(self.path)[:100])
            reply = Reply(HTTPStatus.INTERNAL_SERVER_ERROR, "text/plain", b"see the agent's log\n")
        self._send(reply)

    def refuse(self) -> None:
        """Answer a method that would change something."""
        self._send(Reply(HTTPStatus.METHOD_NOT_ALLOWED, "text/plain", b"GET alone\n"))

    do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do_TRACE = refuse  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the parent's name
        log.debug("status page: %s", one_line(format % args))

    def _send(self, reply: Reply) -> None:
        self.send_response(reply.status)
        self.send_header("Content-Type", reply.kind)
        self.send_header("Content-Length", str(len(reply.body)))
        if reply.status == HTTPStatus.METHOD_NOT_ALLOWED:
            self.send_header("Allow", "GET")
        for name, value in HEADERS.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(reply.body)
