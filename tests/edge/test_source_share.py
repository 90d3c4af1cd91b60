"""A folder on a share that hangs: a process of its own reads it, and nobody else waits."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import msgspec
import pytest

from deepfusion_edge.agent import run_agent
from deepfusion_edge.config import AgentConfig, FolderSource, Mqtt, Run
from deepfusion_edge.errors import InputError
from deepfusion_edge.line import Line
from deepfusion_edge.observer import Observer
from deepfusion_edge.outbox import Outbox
from deepfusion_edge.report.payload import Alert, Decision
from deepfusion_edge.source import file_process, files
from deepfusion_edge.source.folder import Folder
from deepfusion_edge.source.mounts import is_share
from tests.edge.test_agent import FakeSession, manifest, png  # noqa: F401 - a fixture

FAKE = str(Path(__file__).with_name("fake_share.py"))


@pytest.fixture
def share(tmp_path, monkeypatch):
    """A folder whose reader hangs at the gates that a test makes."""
    (tmp_path / "gates").mkdir()
    (tmp_path / "share").mkdir()
    command = (sys.executable, "-I", "-S", FAKE, files.__file__, str(tmp_path / "gates"))
    monkeypatch.setattr(file_process, "COMMAND", command)
    return tmp_path / "share"


def gate(share, name):
    os.mkfifo(share.parent / "gates" / name)


def let_go(share, name):
    """The server is back: what waits goes on, and nothing waits any more."""
    path = share.parent / "gates" / name
    path.rename(path.with_name("opened"))
    os.close(os.open(path.with_name("opened"), os.O_RDWR))
    path.with_name("opened").unlink()


@pytest.fixture
def open_folder():
    made = []

    def make(path, **options):
        given = {"read_timeout_s": 20.0, "poll_interval_s": 0.05, "own_process": "always"} | options
        made.append(Folder(FolderSource(name="cam", path=str(path), **given)))
        return made[-1]

    yield make
    for one in made:
        one.close()
        assert getattr(one._files, "_process", None) is None


def until(frames, wanted, *, seconds=20.0):
    """Go on until ``wanted()``; returns the frames. No step may take long."""
    found, end = [], time.monotonic() + seconds
    while not wanted():
        assert time.monotonic() < end
        begun = time.monotonic()
        frame = next(frames)
        assert time.monotonic() - begun < 5  # it would hang for ever
        if frame is None:
            time.sleep(0.002)
        else:
            found.append(frame)
    return found


def replayed(source):
    return [frame for frame in source if frame is not None]


@pytest.mark.parametrize("names", [["b.png", "a.JPG", "sub/c.jpeg"], ["\udcff.png"]])
def test_a_process_reads_what_the_agent_reads(open_folder, tmp_path, names):
    root = tmp_path / "frames"
    (root / "sub").mkdir(parents=True)
    for name in names:
        (root / name).write_bytes(os.fsencode(name) * 10**5)  # more than a pipe holds
    plain = replayed(open_folder(root, recursive=True, own_process="never"))
    apart = open_folder(root, recursive=True)
    assert apart.connection == "connecting"
    assert [frame[:3] for frame in replayed(apart)] == [frame[:3] for frame in plain]
    assert apart.connection == "ended"


def test_too_large_missing_and_empty_are_told_as_ever(open_folder, tmp_path):
    (tmp_path / "a.png").write_bytes(b"123456789")
    (frame,) = replayed(open_folder(tmp_path, max_bytes=8))
    assert "more than 8 bytes" in frame.content.what
    (frame,) = replayed(open_folder(tmp_path, pattern="x*"))
    assert isinstance(frame.content, InputError)
    gone = open_folder(tmp_path / "gone", mode="watch")
    (frame,) = until(iter(gone), lambda: gone.connection == "lost")
    assert "No such file" in gone.reason


def test_a_listing_that_hangs_makes_the_source_lost_until_it_answers(open_folder, share):
    gate(share, "listing")
    (share / "a.png").write_bytes(b"a")
    source = open_folder(share, mode="watch", read_timeout_s=1.0)
    frames = iter(source)
    assert until(frames, lambda: source.connection == "lost") == []
    assert source.reason == "no answer for 1 s"
    let_go(share, "listing")
    until(frames, lambda: source.tally.reconnects == 1)
    (frame,) = until(frames, lambda: source._sequence == 1)
    assert frame.content == b"a"
    assert (source.connection, source.reason) == ("connected", "")


def test_an_answer_that_is_late_but_in_time_loses_nothing(open_folder, share):
    gate(share, "a.png")
    (share / "a.png").write_bytes(b"a")
    source = open_folder(share, read_timeout_s=20.0)
    frames = iter(source)
    until(frames, lambda: source._files._path == "a.png")
    for _ in range(20):
        assert next(frames) is None
        time.sleep(0.01)
    first = source._files._process
    let_go(share, "a.png")
    (frame,) = replayed(frames)
    assert (frame.content, source.tally.reconnects) == (b"a", 0)
    assert source._files._process is first


def test_a_file_that_hangs_keeps_the_others_waiting_once(open_folder, share):
    for n, name in enumerate("abc"):
        (share / f"{name}.png").write_bytes(name.encode())
        os.utime(share / f"{name}.png", (n, n))
    gate(share, "a.png")
    source = open_folder(share, mode="watch", read_timeout_s=1.0)
    frames = iter(source)
    seen = until(frames, lambda: source._sequence == 2)
    assert [frame.content for frame in seen] == [b"b", b"c"]
    let_go(share, "a.png")
    (frame,) = until(frames, lambda: source._sequence == 3)
    assert (frame.name, frame.content) == ("a.png", b"a")


def test_a_replay_waits_for_the_share_and_keeps_its_order(open_folder, share):
    for name in "ab":
        (share / f"{name}.png").write_bytes(name.encode())
    gate(share, "a.png")
    source = open_folder(share, read_timeout_s=1.0)
    frames = iter(source)
    assert until(frames, lambda: source.connection == "lost") == []
    let_go(share, "a.png")
    assert [frame.content for frame in replayed(frames)] == [b"a", b"b"]


def test_readers_that_cannot_be_killed_are_few(open_folder, share, monkeypatch):
    gate(share, "listing")
    killed = []
    monkeypatch.setattr(subprocess.Popen, "kill", lambda hanging: killed.append(hanging))  # noqa: PLW0108 - a method
    source = open_folder(share, mode="watch", read_timeout_s=0.1)
    until(iter(source), lambda: "cannot be killed" in source.reason)
    assert source.reason.startswith(f"{file_process.MOST_UNKILLED} readers hang")
    assert len(killed) == file_process.MOST_UNKILLED
    let_go(share, "listing")
    for process in killed:
        process.wait(10)


@pytest.mark.parametrize("code", ["", "import os; os.write(1, b'x' * 99)", "raise SystemExit(1)"])
def test_a_reader_that_misbehaves_is_replaced(open_folder, share, monkeypatch, code):
    monkeypatch.setattr(file_process, "COMMAND", (sys.executable, "-I", "-S", "-c", code))
    source = open_folder(share, mode="watch")
    frames = iter(source)
    until(frames, lambda: source.reason in {"its reader ended", "its reader sent garbage"})
    monkeypatch.undo()
    source._files._command = file_process.COMMAND
    until(frames, lambda: source.connection == "connected")


def test_the_reader_ends_with_the_agent(tmp_path):
    code = f"""
import sys, time
from deepfusion_edge.config import FolderSource
from deepfusion_edge.source.folder import Folder
source = Folder(FolderSource(name="c", path={str(tmp_path)!r}, mode="watch", own_process="always"))
frames = iter(source)
while source.connection != "connected":
    next(frames)
print(source._files._process.pid, flush=True)
time.sleep(60)
"""
    agent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    with agent:
        reader = int(agent.stdout.readline())
        assert Path(f"/proc/{reader}").exists()
        agent.kill()
    end = time.monotonic() + 10
    while Path(f"/proc/{reader}").exists() and time.monotonic() < end:
        if Path(f"/proc/{reader}/stat").read_text().rsplit(") ", 1)[-1].startswith("Z"):
            break
        time.sleep(0.02)
    else:
        assert not Path(f"/proc/{reader}").exists()


TABLE = r"""
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 0:40 / /mnt/plant rw,relatime - nfs4 nas:/plant rw
31 30 0:41 / /mnt/plant/local rw - ext4 /dev/sdb1 rw
32 22 0:42 / /mnt/two\040words rw master:3 propagate_from:2 - cifs //nas/x rw
33 22 0:43 / /mnt/mine rw - fuse.sshfs host: rw
34 22 8:2 / /mnt/stick rw - fuseblk /dev/sdc1 rw
35 22 0:44 / /mnt/later rw - ext4 /dev/sdd1 rw
36 22 0:45 / /mnt/later rw - nfs nas:/later rw
nonsense
"""


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/mnt/plant", True),
        ("/mnt/plant/camera1", True),
        ("/mnt/plant/../plant/x", True),
        ("/mnt/plantation", False),
        ("/mnt/plant/local/x", False),
        ("/mnt/two words/x", True),
        ("/mnt/mine", True),
        ("/mnt/stick", False),
        ("/mnt/later/x", True),
        ("/", False),
    ],
)
def test_a_share_is_known_by_its_mount_alone(path, expected):
    assert is_share(path, table=TABLE) is expected


def test_by_default_a_process_reads_shares_alone(tmp_path, monkeypatch):
    config = FolderSource(name="cam", path=str(tmp_path), mode="watch")
    assert type(Folder(config)._files) is file_process.OwnFiles
    monkeypatch.setattr("deepfusion_edge.source.folder.is_share", lambda _: True)
    assert type(Folder(config)._files) is file_process.FileProcess


def test_a_hung_share_holds_up_neither_the_others_nor_the_end(tmp_path, share, manifest):  # noqa: F811
    gate(share, "listing")
    local, state = tmp_path / "local", tmp_path / "state"
    local.mkdir()
    state.mkdir()
    (share / "s.png").write_bytes(png())
    plain = {"mode": "watch", "poll_interval_s": 0.05, "read_timeout_s": 2.0}
    config = AgentConfig(
        state_dir=str(state),
        sources=(
            FolderSource(name="share", path=str(share), own_process="always", **plain),
            FolderSource(name="local", path=str(local), **plain),
        ),
        mqtt=Mqtt(port=1, client_id="line-1"),
        run=Run(drain_timeout_s=0.0),
    )
    heard, stop = [], threading.Event()

    class Ear(Observer):
        def judged(self, judged):
            heard.append(judged.frame.name)

        def alert(self, alert):
            heard.append(alert.reason)

    def wait(what):
        end = time.monotonic() + 40
        while what not in heard:
            assert time.monotonic() < end, heard
            time.sleep(0.01)

    lost, back = "share is lost: no answer for 2 s", "share is connected again"

    def live():
        wait(lost)
        for n in range(3):
            (local / f"{n}.png").write_bytes(png())
            wait(f"{n}.png")
        let_go(share, "listing")
        wait("s.png")
        wait(back)
        gate(share, "listing")
        heard.remove(lost)
        wait(lost)

    failures = []

    def play():
        try:
            live()
        except BaseException as error:  # noqa: BLE001 - shown by the test
            failures.append(error)
        ended.append(time.monotonic())
        stop.set()

    ended = []
    player = threading.Thread(target=play)
    player.start()
    run_agent(
        config,
        stop=stop,
        load=lambda _: Line(manifest, "ab" * 32, FakeSession()),
        observers=[Ear()],
    )
    assert time.monotonic() - ended[0] < 5
    player.join()
    assert not failures
    with Outbox(state, max_events=10**6, max_bytes=2**30, ttl_s=None) as box:
        events = [(e.channel, e.body) for e in box.peek(10**6)]
    alerts = [msgspec.json.decode(body, type=Alert) for at, body in events if at == "alert"]
    decided = [msgspec.json.decode(body, type=Decision) for at, body in events if at != "alert"]
    assert [(a.kind, a.reason) for a in alerts] == [("source", r) for r in (lost, back, lost)]
    assert [d.frame for d in decided] == ["0.png", "1.png", "2.png", "s.png"]
