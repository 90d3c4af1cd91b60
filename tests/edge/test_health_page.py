"""The status page in a real browser: what it shows, that it follows, and that no name is markup."""

import shutil
import subprocess
from html.parser import HTMLParser

import pytest

from deepfusion_edge.bundle.history import Entry
from tests.edge.health_parts import NOW, Made, judged, seeing_of, served, tell, tell_alert

EVIL = "<script>document.title='pwned'</script><img src=x onerror=\"document.title='pwned'\">.png"
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


class Page(HTMLParser):
    """Elements with their attributes, and the text below each element with an id."""

    VOID = frozenset({"meta", "link", "img", "br"})

    def __init__(self, text):
        super().__init__()
        self.elements, self.texts, self._open = [], {}, []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.elements.append((tag, found))
        if tag not in self.VOID:
            self._open.append((tag, found.get("id")))

    def handle_endtag(self, tag):
        while self._open and self._open.pop()[0] != tag:
            continue

    def handle_data(self, data):
        for _, name in self._open:
            if name is not None:
                self.texts[name] = self.texts.get(name, "") + data

    def all(self, tag):
        return [found for name, found in self.elements if name == tag]


@pytest.fixture(scope="module")
def browse(tmp_path_factory):
    """``browse(port)`` -> the page after its scripts have run for five seconds of its own time."""
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip("no Chromium on this machine (Debian: apt-get install chromium)")
    profile = tmp_path_factory.mktemp("profile")

    def look(port, path="/"):
        done = subprocess.run(
            [
                *(program, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"),
                *("--disable-dev-shm-usage", f"--user-data-dir={profile}"),
                *("--virtual-time-budget=5000", "--dump-dom", f"http://127.0.0.1:{port}{path}"),
            ],
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return Page(done.stdout)

    return look


def test_the_page_shows_what_happens(browse):
    made = Made()
    made.history = [
        Entry("2026-06-01T00:00:00Z", "pcb", 7, "ab" * 32, "kept", "200 frames"),
        Entry("2026-05-01T00:00:00Z", None, None, None, "refused", "signature is wrong"),
    ]
    seeing = seeing_of(made)
    tell(seeing, *(judged(name=f"{n}.png", at=NOW - 60 * n) for n in range(5)))
    tell(seeing, judged("reject", name="bad.png"), judged("unreadable", problem="truncated"))
    tell_alert(seeing, "reject", "bridge 0.9")
    tell_alert(seeing, "unreadable", "no image", suppressed=1234, since="2027-01-15T07:59:00.000Z")
    with served(seeing) as port:
        page = browse(port)
    texts = page.texts
    assert texts["level"] == "Judging"
    assert texts["agent"] == "line-3"
    assert "bad.png" in texts["notable"]
    assert "0.png" not in texts["notable"]
    assert "4.png" in texts["last"]
    assert "truncated" in texts["last"]
    for part in ("cam", "connected", "ended"):
        assert part in texts["sources"]
    assert "bridge 0.9" in texts["alerts"]
    assert "and 1,234 more since" in texts["alerts"].replace("\u202f", ",")
    for part in ("cpu-thermal", "58.3 of 99 °C", "15W", "no sign of it"):
        assert part in texts["device"]
    for part in ("connected", "Waiting", "3"):
        assert part in texts["outbox"]
    assert "ab" * 32 in texts["bundle"]
    for part in ("kept", "200 frames", "refused", "signature is wrong", "abababababab"):
        assert part in texts["history"]
    assert "17 ms" in texts["figures"]
    pictures = [found["src"] for found in page.all("img")]
    assert pictures
    assert all(src.startswith("/picture/") for src in pictures)
    assert len(page.all("svg")) == 2


def test_an_agent_that_begins_shows_empty_states_and_says_why(browse):
    made = Made()
    made.state = type(made.state)(
        agent="new", state="online", reason="starting", device=made.state.device
    )
    with served(seeing_of(made)) as port:
        texts = browse(port).texts
    assert texts["level"] == "Needs help"
    assert "warming up" in texts["reasons"]
    assert "No frame was judged yet." in texts["last"]
    assert "No bundle judges yet." in texts["bundle"]
    assert "No bundle was changed" in texts["history"]


def test_a_hostile_name_is_text(browse):
    made = Made()
    made.state = type(made.state)(agent=EVIL, state="online", reason=EVIL, device=made.state.device)
    made.broker = EVIL
    made.source = None
    made.history = [Entry(EVIL, EVIL, 1, EVIL, EVIL, EVIL)]
    seeing = seeing_of(made)
    tell(seeing, judged("reject", name=EVIL), judged("unreadable", name=EVIL, problem=EVIL))
    tell_alert(seeing, "reject", EVIL)
    with served(seeing) as port:
        page = browse(port)
    assert "pwned" not in page.texts.get("level", "")
    assert [found.get("src") for found in page.all("script")] == ["/page.js"]
    assert all(found["src"].startswith("/picture/") for found in page.all("img"))
    for place in ("agent", "notable", "last", "alerts", "outbox", "history"):
        assert EVIL in page.texts[place], place


def test_the_page_follows_by_itself(browse):
    asked = []
    made = Made()
    seeing = seeing_of(made)
    show = seeing.status

    def status():
        asked.append(1)
        tell(seeing, judged(name=f"poll-{len(asked)}.png"))
        return show()

    seeing.status = status
    with served(seeing) as port:
        texts = browse(port).texts
    assert len(asked) >= 2
    assert f"poll-{len(asked)}.png" in texts["last"]


def test_pictures_that_are_off_say_so(browse):
    seeing = seeing_of(Made(), thumbnails=False)
    tell(seeing, judged("suspect"))
    with served(seeing) as port:
        page = browse(port)
    assert page.all("img") == []
    assert "pictures are off" in page.texts["notable"]
