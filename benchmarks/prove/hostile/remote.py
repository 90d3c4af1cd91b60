"""Configuration and addresses that come from afar: what they may name, and what never."""

import http.server
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from benchmarks.prove.hostile.case import Case, usage
from benchmarks.prove.hostile.world import World
from deepfusion_edge.commands.fetch import Address, Progress, check_url, fetch
from deepfusion_edge.commands.incoming import Incoming as File
from deepfusion_edge.config_commands import Updates
from deepfusion_edge.health.server import allowed
from deepfusion_edge.report.messages import Incoming


def _url(url: str, **rules: object) -> Callable[[World], str]:
    def drive(world: World) -> str:
        updates = world.config(updates=rules).updates
        return f"would ask {check_url(url, updates)}"

    return drive


def _redirected(target: str, scheme: str = "https") -> Callable[[World], str]:
    def drive(_world: World) -> str:
        origin = Address(scheme, "files.plant", 443, "/line.dfb")
        return f"would ask {check_url(target, Updates(http_hosts=('files.plant',)), origin)}"

    return drive


def _config(**changes: object) -> Callable[[World], str]:
    return lambda world: str(world.config(**changes))


def _camera(**fields: object) -> Callable[[World], str]:
    plain = {"kind": "camera", "name": "cam"}
    return lambda world: str(world.config(sources=[plain | fields]))


class _Server(http.server.BaseHTTPRequestHandler):
    """Says nothing of its own."""

    def log_message(self, *_: object) -> None:
        return


@contextmanager
def _served(answer: Callable[[_Server], None]) -> Iterator[int]:
    handler = type("Handler", (_Server,), {"do_GET": answer})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield int(server.server_address[1])
        server.shutdown()


def _fetched(answer: Callable[[_Server], None], size: int = 1000) -> Callable[[World], str]:
    """Fetch a file of so many bytes from a server that is not what it seems."""

    def drive(world: World) -> str:
        file = File(world.agent, "c-1", size, "0" * 64)
        with _served(answer) as port:
            rules = Updates(timeout_s=2.0, idle_timeout_s=0.5)
            progress = Progress(lambda: None, lambda _seconds: None)
            fetch(f"http://127.0.0.1:{port}/line.dfb?token=secret", file, rules, progress)
        return "fetched"

    return drive


def _sends(content: bytes, **headers: str) -> Callable[[_Server], None]:
    def answer(server: _Server) -> None:
        server.send_response(200)
        for name, value in headers.items():
            server.send_header(name.replace("_", "-"), value)
        server.end_headers()
        server.wfile.write(content)

    return answer


def _round(server: _Server) -> None:
    server.send_response(302)
    server.send_header("Location", "/again")
    server.end_headers()


def _away(server: _Server) -> None:
    server.send_response(302)
    server.send_header("Location", "https://evil.example/line.dfb")
    server.end_headers()


def _absent(server: _Server) -> None:
    server.send_response(404)
    server.end_headers()


def _silent(_server: _Server) -> None:
    time.sleep(3)


def _host(name: str) -> Callable[[World], str]:
    return lambda _world: (
        f"{name!r} is {'allowed' if allowed(name, ('line.plant',)) else 'refused'}"
    )


def _too_large(world: World) -> str:
    return _installed(world, 10_000_000, max_bytes=1_000_000)


def _no_room(world: World) -> str:
    return _installed(world, 2**31, min_free_bytes=2**50)


def _installed(world: World, size: int, **updates: int) -> str:
    """Command an installation and let the desk begin it."""
    action = {
        "type": "install",
        "bytes": size,
        "sha256": "0" * 64,
        "url": "https://127.0.0.1:1/x",
        "chunks": None,
    }
    with world.outbox() as box:
        desk, stop = world.desk(box, updates=updates), threading.Event()
        desk.take(Incoming("deepfusion/line-1/command", world.sign(action), False, 1))
        thread = threading.Thread(target=desk.run, args=(stop,))
        thread.start()
        deadline = time.monotonic() + 3
        told: dict[str, str] = {}
        while time.monotonic() < deadline and told.get("state") != "failed":
            time.sleep(0.02)
            told = [json.loads(event.body) for event in box.peek(100)][-1]
        stop.set()
        thread.join()
    return f"status {told['state']}: {told['reason']}"


_SCHEME = "the URL is not https"
_UNKNOWN = "unknown field"
_KEYS = "keys that a configuration has"

CASES = (
    usage("a command of the shell", _KEYS, _config(run={"command": "curl x | sh"}), _UNKNOWN),
    usage("a hook before the start", _KEYS, _config(on_start="/bin/sh"), _UNKNOWN),
    usage("a plug-in to load", _KEYS, _config(plugins=["evil.py"]), _UNKNOWN),
    usage(
        "a runtime of another name",
        "choices of a configuration",
        _config(model={"runtime": "/tmp/evil.so"}),
        "Invalid enum value",
    ),
    usage(
        "a web address for a folder",
        "choices of a configuration",
        _config(sources=[{"kind": "exec", "name": "a", "path": "x"}]),
        "Invalid value",
    ),
    usage(
        "a camera that is a file",
        "schemes of a camera",
        _camera(url="file:///etc/passwd"),
        "is no URL of the schemes",
    ),
    usage(
        "a camera with FFmpeg's own tricks",
        "schemes of a camera",
        _camera(url="concat:/etc/passwd|x"),
        "is no URL of the schemes",
    ),
    usage(
        "a device that is a file",
        "devices of a camera",
        _camera(device="/etc/shadow"),
        "is no path below /dev",
    ),
    usage(
        "a device that climbs out of /dev",
        "ways out of /dev",
        _camera(device="/dev/../etc/shadow"),
        "is no path below /dev",
    ),
    usage(
        "a camera with a device and a URL",
        "one of a camera's three",
        _camera(device=0, url="rtsp://a/b"),
        "device and url of device",
    ),
    usage(
        "a page for everybody by a name",
        "address of the page",
        _config(http={"host": "evil.example"}),
        "is no IP address",
    ),
    usage(
        "a port beyond the last", "ranges of a configuration", _config(mqtt={"port": 65536}), "port"
    ),
    usage(
        "an outbox without an end",
        "ranges of a configuration",
        _config(outbox={"max_bytes": 2**60}),
        "max_bytes",
    ),
    usage(
        "an action that nobody has",
        "choices of a configuration",
        _config(commands={"keys": [{"file": "a", "actions": ["shell"]}]}),
        "Invalid enum value",
    ),
    usage("a URL of a file", "schemes of a URL", _url("file:///etc/passwd"), _SCHEME),
    usage("a URL of FTP", "schemes of a URL", _url("ftp://files.plant/x"), _SCHEME),
    usage("a URL without a host", "schemes of a URL", _url("https:///x"), _SCHEME),
    usage(
        "http from another machine",
        "hosts for http",
        _url("http://169.254.169.254/latest"),
        "http from 169.254.169.254 is not allowed",
    ),
    usage(
        "a host that is not listed",
        "hosts for https",
        _url("https://evil.example/x", hosts=["files.plant"]),
        "evil.example is not in updates.hosts",
    ),
    usage(
        "a URL with a line break",
        "signs of a URL",
        _url("https://a/x\r\nHost: b"),
        "a character that no URL has",
    ),
    usage(
        "a URL with a backslash",
        "signs of a URL",
        _url("https://files.plant\\@evil.example/"),
        "a character that no URL has",
    ),
    usage(
        "a host spelled in another script",
        "signs of a URL",
        _url("https://f\u0456les.plant/x"),
        "a character that no URL has",
    ),
    usage("a URL with a fragment", "fragments of a URL", _url("https://a/x#y"), "has a fragment"),
    usage(
        "a port that is none", "ports of a URL", _url("https://a:99999/x"), "the URL cannot be read"
    ),
    usage(
        "a redirect to another host",
        "redirects to others",
        _redirected("https://evil.example/x"),
        "redirects to evil.example, which is not in",
    ),
    usage(
        "a redirect from https to http",
        "redirects to http",
        _redirected("http://files.plant/x"),
        "redirects from https to http",
    ),
    usage("a redirect to a file", "schemes of a URL", _redirected("file:///etc/passwd"), _SCHEME),
    usage(
        "a server that redirects to others",
        "redirects to others",
        _fetched(_away),
        "redirects to evil.example",
    ),
    usage(
        "a server that redirects for ever",
        "number of redirects",
        _fetched(_round),
        "redirects more than 3 times",
    ),
    Case(
        "a server that has nothing",
        "status of a server",
        _fetched(_absent),
        "answers with status 404",
        "InputError",
    ),
    Case(
        "a server that announces more",
        "announced size",
        _fetched(_sends(bytes(2000), Content_Length="2000")),
        "would send 2000 bytes where 1000 were signed",
        "InputError",
    ),
    Case(
        "a server that compresses",
        "compression by a server",
        _fetched(_sends(bytes(1000), Content_Encoding="gzip")),
        "compresses what it serves",
        "InputError",
    ),
    Case(
        "a server that sends without an end",
        "hash of what was fetched",
        _fetched(_sends(bytes(2**22))),
        "is not the file whose SHA-256 was signed",
        "TrustError",
    ),
    Case(
        "a server that says nothing",
        "time of a server",
        _fetched(_silent),
        "no answer in time, and updates.timeout_s of 2 s is over",
        "UnreachableError",
    ),
    Case(
        "a bundle larger than this device takes",
        "largest update",
        _too_large,
        "status failed: a bundle of 10000000 bytes, updates.max_bytes is 1000000",
    ),
    Case(
        "a bundle for which there is no room",
        "room for an update",
        _no_room,
        "status failed: .* bytes are free for a bundle of 2147483648",
    ),
    Case(
        "a web site that points its name here",
        "names of the page",
        _host("evil.example"),
        "refused",
    ),
    Case(
        "a web site with a name like an address",
        "names of the page",
        _host("127.0.0.1.evil.example"),
        "refused",
    ),
    Case(
        "a Host header with a line break",
        "form of a Host header",
        _host("localhost\r\nX: y"),
        "refused",
    ),
)
