"""A bundle by URL: what is asked for, what is refused, and what a bad server can do."""

import hashlib
import http.server
import logging
import shutil
import ssl
import subprocess
import threading
import time
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepfusion_edge.commands import fetch as fetch_module
from deepfusion_edge.commands.fetch import Progress, check_url, fetch
from deepfusion_edge.commands.incoming import Incoming, Pieces, clear
from deepfusion_edge.commands.machine import Halted
from deepfusion_edge.commands.message import Chunks
from deepfusion_edge.config_commands import Updates
from deepfusion_edge.errors import (
    InputError,
    StorageError,
    TrustError,
    UnreachableError,
    UsageError,
)

DATA = bytes(range(256)) * 1000
SHA = hashlib.sha256(DATA).hexdigest()


class Asked(NamedTuple):
    path: str
    headers: dict[str, str]


class Usage(NamedTuple):
    total: int
    used: int
    free: int


class Server:
    """A web server that does to each request what ``plan`` says next; the last entry stays."""

    def __init__(self, plan=(), context=None):
        self.asked, self.plan = [], list(plan)
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                outer.asked.append(Asked(self.path, dict(self.headers)))
                step = outer.plan.pop(0) if len(outer.plan) > 1 else outer.plan[0]
                step(self)

            def log_message(self, *_):
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = False  # so that closing waits for them
        self._server.handle_error = lambda *_: None  # clients hang up here
        self.scheme = "http"
        if context is not None:
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
            self.scheme = "https"
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    @property
    def url(self):
        return f"{self.scheme}://127.0.0.1:{self.port}/line.dfb?token=s3cret"

    def close(self):
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def answer(handler, status, body=b"", **headers):
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)


def whole(handler, data=DATA):
    begin = handler.headers.get("Range")
    if begin is None:
        answer(handler, 200, data, Content_Length=len(data))
        return
    at = int(begin.removeprefix("bytes=").removesuffix("-"))
    kept = data[at:]
    place = f"bytes {at}-{len(data) - 1}/{len(data)}"
    answer(handler, 206, kept, Content_Length=len(kept), Content_Range=place)


def cut(count):
    def step(handler):
        """Promise everything from where it was asked, send so many bytes of it, and hang up."""
        at = int((handler.headers.get("Range") or "bytes=0-").removeprefix("bytes=").strip("-"))
        handler.send_response(206 if at else 200)
        handler.send_header("Content-Length", len(DATA) - at)
        if at:
            handler.send_header("Content-Range", f"bytes {at}-{len(DATA) - 1}/{len(DATA)}")
        handler.end_headers()
        handler.wfile.write(DATA[at : at + count])

    return step


def status(code):
    return lambda handler: answer(handler, code, b"secret words", Content_Length=12)


def redirect(target, code=302):
    return lambda handler: answer(handler, code, Location=target, Content_Length=0)


@pytest.fixture
def serve():
    made = []

    def make(*plan, context=None):
        made.append(Server(plan, context))
        return made[-1]

    yield make
    for server in made:
        server.close()


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(fetch_module, "FIRST_DELAY_S", 0.01)


@pytest.fixture
def file(tmp_path):
    return Incoming(tmp_path, "c-1", len(DATA), SHA)


@pytest.fixture
def get(file):
    def call(url, *, between=lambda: None, **rules):
        rules = {"timeout_s": 5.0, "idle_timeout_s": 2.0, **rules}
        fetch(url, file, Updates(**rules), Progress(between, time.sleep))

    return call


def test_a_bundle_is_fetched(serve, get, file, caplog, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    server = serve(whole)
    with caplog.at_level(logging.DEBUG):
        get(server.url)
    assert file.whole
    assert file.path.read_bytes() == DATA
    assert file.path.stat().st_mode & 0o777 == 0o600
    (asked,) = server.asked
    assert asked.path == "/line.dfb?token=s3cret"
    assert asked.headers["Accept-Encoding"] == "identity"
    assert not {"Authorization", "Cookie", "Range"} & set(asked.headers)
    assert "s3cret" not in caplog.text


def test_it_goes_on_where_it_was_cut(serve, get, file, caplog):
    server = serve(cut(100_000), status(503), cut(50_000), whole)
    get(server.url)
    assert file.whole
    asked = [one.headers.get("Range") for one in server.asked]
    assert asked == [None, "bytes=100000-", "bytes=100000-", "bytes=150000-"]
    assert "s3cret" not in caplog.text


def test_a_server_without_ranges_begins_again(serve, get, file):
    get(serve(cut(1000), lambda h: answer(h, 200, DATA, Content_Length=len(DATA))).url)
    assert file.whole


def test_what_an_earlier_start_left_is_used_or_thrown_away(serve, get, file, tmp_path):
    part = tmp_path / "incoming" / "c-1.part"
    part.parent.mkdir()
    part.write_bytes(DATA[:1000])
    server = serve(whole)
    get(server.url)
    assert server.asked[0].headers["Range"] == "bytes=1000-"
    file.path.unlink()
    part.write_bytes(bytes(1000))  # pages that never reached the disk
    get(server.url)
    assert file.whole
    file.path.unlink()
    part.write_bytes(DATA)
    asked = len(server.asked)
    get(server.url)
    assert len(server.asked) == asked
    file.path.unlink()
    part.write_bytes(DATA + b"more")
    get(server.url)
    assert file.whole


@pytest.mark.parametrize(
    ("step", "error", "text"),
    [
        (status(404), InputError, "answers with status 404"),
        (status(401), InputError, "answers with status 401"),
        (lambda h: whole(h, DATA + b"x"), InputError, "would send 256001 bytes where 256000"),
        (lambda h: whole(h, DATA[:-1]), InputError, "would send 255999 bytes where 256000"),
        (lambda h: whole(h, DATA[:-1] + b"x"), TrustError, "is not the file whose SHA-256"),
        (
            lambda h: answer(h, 200, DATA, Content_Length=len(DATA), Content_Encoding="gzip"),
            InputError,
            "compresses",
        ),
        (redirect("http://example.com/x"), UsageError, "http from example.com is not allowed"),
        (redirect("https://example.com/x"), UsageError, "redirects to example.com, which is not"),
        (redirect("file:///etc/passwd"), UsageError, "not https://"),
        (redirect("/again"), UsageError, "more than 3 times"),
        (redirect("//user:pass@127.0.0.1/"), UsageError, "a user name or a password"),
    ],
)
def test_what_a_server_may_not_do(serve, get, file, step, error, text):
    with pytest.raises(error, match=text) as caught:
        get(serve(step).url)
    assert not file.path.exists()
    for secret in ("s3cret", "secret words", "pass@", "/line.dfb"):
        assert secret not in str(caught.value)


def test_more_than_was_signed_is_never_read(serve, tmp_path):
    def endless(handler):
        handler.send_response(200)
        handler.end_headers()
        while True:
            handler.wfile.write(DATA)

    with pytest.raises(TrustError):  # the first bytes are right in number, and wrong
        fetch(
            serve(endless).url,
            Incoming(tmp_path, "c-2", 1000, SHA),
            Updates(timeout_s=5.0),
            Progress(lambda: None, time.sleep),
        )
    assert list((tmp_path / "incoming").iterdir()) == []


@pytest.mark.parametrize(
    "step",
    [
        status(503),
        cut(0),
        lambda _: time.sleep(1.0),
        lambda h: h.wfile.write(b"garbage\r\n\r\n"),
        lambda h: h.wfile.write(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n"),
        lambda h: answer(h, 206, DATA, Content_Range="bytes 5-9/10"),
    ],
)
def test_a_server_that_does_not_serve_is_given_up_in_time(serve, get, step):
    begun = time.monotonic()
    with pytest.raises(UnreachableError, match=r"updates.timeout_s of 0.4 s is over"):
        get(serve(step).url, timeout_s=0.4, idle_timeout_s=0.1)
    assert time.monotonic() - begun < 5


def test_a_server_that_dribbles_is_given_up_in_time(serve, get):
    def dribble(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", len(DATA))
        handler.end_headers()
        for at in range(100):
            handler.wfile.write(DATA[at : at + 1])
            time.sleep(0.02)

    with pytest.raises(UnreachableError, match="no answer in time"):
        get(serve(dribble).url, timeout_s=0.5, idle_timeout_s=1.0)


def test_nobody_listens(get):
    with pytest.raises(UnreachableError, match="Connection refused"):
        get("http://127.0.0.1:1/x", timeout_s=0.2)


def test_an_agent_that_stops_lets_go(serve, get, file):
    def halt():
        if file.there:
            raise Halted

    with pytest.raises(Halted):
        get(serve(whole).url, between=halt)
    assert 0 < file.there < len(DATA)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed: no certificate can be made")
    folder = tmp_path_factory.mktemp("tls")
    words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
    words += " -subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1 -keyout key.pem -out c.pem"
    subprocess.run(["openssl", *words.split()], cwd=folder, check=True, capture_output=True)  # noqa: S607
    return folder


def test_https_is_checked_against_the_configured_authority(serve, get, file, certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "c.pem", certificate / "key.pem")
    server = serve(whole, context=context)
    with pytest.raises(UnreachableError, match=r"certificate is not trusted.*updates.ca_file"):
        get(server.url, timeout_s=0.5)
    with pytest.raises(UsageError, match="is no file"):
        get(server.url, ca_file="/nowhere")
    get(server.url, ca_file=str(certificate / "c.pem"))
    assert file.whole


def test_https_does_not_lead_to_http(serve, get, certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "c.pem", certificate / "key.pem")
    plain = serve(whole)
    server = serve(redirect(plain.url), context=context)
    with pytest.raises(UsageError, match="from https to http"):
        get(server.url, ca_file=str(certificate / "c.pem"))
    assert plain.asked == []


def test_a_redirect_to_an_allowed_host_is_followed(serve, get, file):
    target = serve(whole)
    server = serve(redirect(target.url.replace("127.0.0.1", "localhost")))
    with pytest.raises(UsageError, match=r"localhost, which is not in updates\.hosts"):
        get(server.url)
    get(server.url, hosts=("localhost",))
    assert file.whole


@pytest.mark.parametrize(
    ("url", "rules", "text"),
    [
        ("http://example.com/x", {}, "updates.http_hosts"),
        ("http://127.0.0.1.example.com/x", {}, "updates.http_hosts"),
        ("http://localhost.:80/x", {}, "updates.http_hosts"),
        ("https://example.com/x", {"hosts": ("other.example",)}, "not in updates.hosts"),
        ("https://example.com/x", {"hosts": ()}, "not in updates.hosts"),
        ("ftp://example.com/x", {}, "not https"),
        ("file:///etc/passwd", {}, "not https"),
        ("//example.com/x", {}, "not https"),
        ("https:///x", {}, "with a host"),
        ("https://u@example.com/x", {}, "user name"),
        ("https://:p@example.com/x", {}, "user name"),
        ("https://example.com\\@evil/x", {}, "no URL has"),
        ("https://example.com/a b", {}, "no URL has"),
        ("https://example.com/a\r\nHost: evil", {}, "no URL has"),
        ("https://exämple.com/", {}, "no URL has"),
        ("https://example.com/x#y", {}, "fragment"),
        ("https://example.com:99999/x", {}, "cannot be read"),
        ("https://[::1/x", {}, "cannot be read"),
    ],
)
def test_urls_that_are_refused(url, rules, text):
    with pytest.raises(UsageError, match=text):
        check_url(url, Updates(**rules))


def test_urls_that_are_taken():
    allowed = Updates(http_hosts=("files.plant",), hosts=("example.com",))
    assert check_url("http://FILES.plant/a?b=c", allowed)[:3] == ("http", "files.plant", 80)
    assert check_url("https://example.com", allowed) == ("https", "example.com", 443, "/")
    assert check_url("http://[::1]:8080/x", Updates()) == ("http", "::1", 8080, "/x")


@given(st.text(max_size=60) | st.text(max_size=40).map("https://".__add__))
@settings(max_examples=300, deadline=None)
def test_no_url_raises_anything_else_or_leads_elsewhere(url):
    try:
        found = check_url(url, Updates(hosts=("a.example",)))
    except UsageError:
        return
    assert found.host in {"a.example", *fetch_module.LOOPBACK}


class TestPieces:
    """Chunks in any order, twice, forged, and over a power cut."""

    SIZE = 1000

    @pytest.fixture
    def parts(self):
        return [DATA[at : at + self.SIZE] for at in range(0, len(DATA), self.SIZE)]

    @pytest.fixture
    def chunks(self, parts):
        return Chunks(self.SIZE, tuple(hashlib.sha256(one).hexdigest() for one in parts))

    def test_in_any_order_and_twice(self, file, parts, chunks):
        pieces = Pieces(file, chunks)
        for at in reversed(range(len(parts))):
            assert pieces.put(at, parts[at])
            assert not pieces.put(at, parts[at])
        assert pieces.missing == ()
        pieces.close()
        assert file.finish()
        assert file.path.read_bytes() == DATA

    def test_what_is_not_signed_is_not_written(self, file, parts, chunks):
        pieces = Pieces(file, chunks)
        for at, content in ((0, parts[1]), (0, b""), (0, parts[0] + b"x"), (len(parts), b"x")):
            assert not pieces.put(at, content)
        assert len(pieces.missing) == len(parts)
        pieces.close()
        assert not pieces.put(0, parts[0])

    def test_what_has_arrived_is_found_again(self, file, parts, chunks, tmp_path):
        pieces = Pieces(file, chunks)
        for at in range(0, len(parts), 2):
            pieces.put(at, parts[at])
        pieces.close()
        with (tmp_path / "incoming" / "c-1.part").open("r+b") as stream:
            stream.write(b"damage")  # of the first one
        again = Pieces(file, chunks)
        assert again.missing == (0, *range(1, len(parts), 2))
        again.close()


def test_a_nearly_full_disk_is_noticed_before(file, monkeypatch):
    free = 2 * len(DATA) + 500
    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage(10**9, 0, free))
    file.room(500)
    with pytest.raises(StorageError, match=r"are free.*updates.min_free_bytes of 501"):
        file.room(501)


def test_a_disk_that_fills_meanwhile_is_a_storage_error(serve, get, file):
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(StorageError, match="File too large"):
            get(serve(whole).url)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    clear(file.path.parent.parent)
    assert list(file.path.parent.iterdir()) == []
