"""The status server over real sockets: what it answers, to whom, and whom it puts up with."""

import http.client
import json
import logging
import socket
import threading
import time

import pytest

from deepfusion_edge.config import Http
from deepfusion_edge.health import server as server_module
from deepfusion_edge.health.server import HEADERS, allowed, serve
from tests.edge.health_parts import Made, judged, seeing_of, served, tell


@pytest.fixture
def made():
    return Made()


@pytest.fixture
def seeing(made):
    return seeing_of(made)


@pytest.fixture
def port(seeing):
    with served(seeing) as port:
        yield port


def ask(port, path="/", *, method="GET", host=None, address="127.0.0.1"):
    link = http.client.HTTPConnection(address, port, timeout=30)
    try:
        link.request(method, path, headers={"Host": host or f"{address}:{port}"})
        answer = link.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()
    finally:
        link.close()


def raw(port, data):
    with socket.create_connection(("127.0.0.1", port), 30) as link:
        link.sendall(data)
        return b"".join(iter(lambda: link.recv(65536), b""))


@pytest.mark.parametrize(
    ("path", "kind", "part"),
    [
        ("/", "text/html; charset=utf-8", b"<!doctype html>"),
        ("/page.css", "text/css; charset=utf-8", b"prefers-color-scheme"),
        ("/page.js", "text/javascript; charset=utf-8", b"use strict"),
        ("/icon.svg", "image/svg+xml", b"<svg"),
        ("/status.json", "application/json", b'"schema":1'),
        ("/metrics", "text/plain; version=0.0.4; charset=utf-8", b"# TYPE deepfusion_up gauge"),
        ("/healthz?from=somewhere", "application/json", b'"ok"'),
        ("/picture/1", "image/jpeg", b"JFIF"),
    ],
)
def test_everything_that_is_there(seeing, port, path, kind, part):
    tell(seeing, judged("suspect"))
    status, headers, body = ask(port, path)
    assert (status, headers["Content-Type"]) == (200, kind)
    assert part in body
    assert int(headers["Content-Length"]) == len(body)
    assert HEADERS.items() <= headers.items()
    assert "Python" not in headers["Server"]


@pytest.mark.parametrize(
    "path",
    [
        "/picture/1",
        "/picture/-1",
        "/picture/99999999999999999999",
        "/picture/1%00",
        "/../page.css",
        "/page/../page.css",
        "/page.html",
        "/etc/passwd",
        "http://evil.example/",
        "*",
    ],
)
def test_nothing_else_is_there(port, path):
    status, headers, body = ask(port, path)
    assert (status, headers["Content-Type"], body) == (404, "text/plain", b"not found\n")
    assert HEADERS.items() <= headers.items()


def test_the_page_may_load_nothing_from_elsewhere(port):
    _, headers, _ = ask(port)
    rules = dict(rule.split(" ", 1) for rule in headers["Content-Security-Policy"].split("; "))
    assert rules.pop("default-src") == "'none'"
    assert {rules.pop(f"{kind}-src") for kind in ("script", "style", "img", "connect")} == {
        "'self'"
    }
    assert set(rules) == {"base-uri", "form-action", "frame-ancestors"}
    assert set(rules.values()) == {"'none'"}
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"


@pytest.mark.parametrize("method", ["HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"])
def test_get_alone(port, method):
    status, headers, body = ask(port, "/status.json", method=method)
    assert (status, headers["Allow"]) == (405, "GET")
    assert b"schema" not in body


def test_an_unknown_method_is_refused(port):
    assert ask(port, method="BREW")[0] == 501


@pytest.mark.parametrize(
    ("host", "names", "answer"),
    [
        ("localhost", (), True),
        ("LOCALHOST:9464", (), True),
        ("127.0.0.1:9464", (), True),
        ("[::1]:9464", (), True),
        ("192.168.7.3", (), True),
        ("evil.example", (), False),
        ("evil.example:9464", (), False),
        ("127.0.0.1.evil.example", (), False),
        ("localhost.evil.example", (), False),
        ("line-3.plant", ("line-3.plant",), True),
        ("Line-3.Plant:80", ("line-3.plant",), True),
        ("xline-3.plant", ("line-3.plant",), False),
        ("", (), False),
        ("127.0.0.1:9464:1", (), False),
        ("[::1", (), False),
        ("user@localhost", (), False),
        ("local\u017fhost", (), False),
    ],
)
def test_whose_names_are_answered(host, names, answer):
    assert allowed(host, names) is answer


@pytest.mark.parametrize("path", ["/", "/status.json", "/metrics", "/healthz", "/picture/1"])
def test_a_rebound_name_sees_nothing(seeing, port, path):
    tell(seeing, judged("suspect"))
    status, _, body = ask(port, path, host="evil.example")
    assert status == 421
    assert b"http.names" in body
    assert b"line-3" not in body


@pytest.mark.parametrize("hosts", [b"", b"Host: localhost\r\nHost: evil.example\r\n"])
def test_exactly_one_name(port, hosts):
    assert b" 421 " in raw(port, b"GET / HTTP/1.0\r\n" + hosts + b"\r\n").splitlines()[0]


def test_health_tells_its_reasons(made, port):
    assert ask(port, "/healthz")[0] == 200
    made.source(state="lost", reason="no frame for 10 s")
    made.silent_s = 20.0
    status, _, body = ask(port, "/healthz")
    assert (status, json.loads(body)) == (
        503,
        {
            "status": "unhealthy",
            "reasons": ["inference is stuck for 20 s", "source cam is lost (no frame for 10 s)"],
        },
    )


def test_a_defect_is_an_answer_without_details_and_the_server_goes_on(made, port, caplog):
    caplog.set_level(logging.CRITICAL, "deepfusion_edge")
    kept, made.state = made.state, None
    status, _, body = ask(port, "/status.json")
    assert (status, body) == (500, b"see the agent's log\n")
    made.state = kept
    assert ask(port, "/status.json")[0] == 200


@pytest.mark.parametrize(
    "data",
    [
        b"\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n",
        b"GET /" + b"a" * 70_000 + b" HTTP/1.0\r\n\r\n",
        b"GET / HTTP/1.0\r\n" + b"a: b\r\n" * 200 + b"\r\n",
        b"GET / HTTP/1.0\r\nHost: localhost\xff\r\n\r\n",
    ],
)
def test_nonsense_is_answered_or_dropped_and_the_server_goes_on(port, data):
    assert b" 200 " not in raw(port, data)[:40]
    assert ask(port)[0] == 200


def test_a_full_house_turns_visitors_away_and_late_ones_are_dismissed(seeing, monkeypatch):
    monkeypatch.setattr(server_module, "MOST_VISITORS", 3)
    monkeypatch.setattr(server_module, "VISIT_S", 1.0)
    with served(seeing) as port:
        links = [socket.create_connection(("127.0.0.1", port), 30) for _ in range(3)]
        stop = threading.Event()

        def trickle():
            while not stop.wait(0.05):
                for link in links:
                    try:
                        link.send(b"G")
                    except OSError:
                        return

        begun = time.monotonic()
        thread = threading.Thread(target=trickle)
        thread.start()
        for link in links:  # each is closed although it never falls silent
            try:
                assert link.recv(1000) == b""
            except ConnectionResetError:
                continue
        stop.set()
        thread.join()
        assert time.monotonic() - begun >= 1.0
        for link in links:
            link.close()
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            try:
                status = ask(port)[0]
            except (OSError, http.client.HTTPException):
                continue
            assert status == 200
            return
        pytest.fail("the house stays full")


def _turned_away(port):
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            ask(port)
        except (OSError, http.client.HTTPException):
            return True
    return False


def test_one_too_many_is_turned_away(seeing, monkeypatch):
    monkeypatch.setattr(server_module, "MOST_VISITORS", 2)
    with served(seeing) as port:
        links = [socket.create_connection(("127.0.0.1", port), 30) for _ in range(2)]
        try:
            assert _turned_away(port)
        finally:
            for link in links:
                link.close()


def test_a_port_that_is_taken_is_tried_again(seeing, monkeypatch, caplog):
    monkeypatch.setattr(server_module, "RETRY_S", 0.05)
    taken = socket.create_server(("127.0.0.1", 0))
    port = taken.getsockname()[1]
    finish, known = threading.Event(), threading.Event()
    thread = threading.Thread(
        target=serve,
        args=(Http(port=port), seeing, finish),
        kwargs={"listening": lambda _: known.set()},
    )
    with caplog.at_level(logging.WARNING, "deepfusion_edge"):
        thread.start()
        try:
            assert not known.wait(0.5)
            taken.close()
            assert known.wait(20)
        finally:
            finish.set()
            thread.join(20)
    said = [r.getMessage() for r in caplog.records if "cannot listen" in r.getMessage()]
    assert len(said) == 1
    assert f"port {port}" in said[0]


def test_an_address_for_everybody_is_warned_of(seeing, caplog):
    with (
        caplog.at_level(logging.WARNING, "deepfusion_edge"),
        served(seeing, Http(host="0.0.0.0", port=0)) as port,  # noqa: S104 - what is warned of
    ):
        assert ask(port)[0] == 200
    assert "without a password" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING, "deepfusion_edge"), served(seeing) as port:
        assert ask(port)[0] == 200
    assert caplog.text == ""


@pytest.mark.skipif(not socket.has_ipv6, reason="this Python has no IPv6")
def test_ipv6(seeing):
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6 loopback address")
    with served(seeing, Http(host="::1", port=0)) as port:
        assert ask(port, address="::1", host=f"[::1]:{port}")[0] == 200
