"""Cameras whose reader hangs, dies, floods and lies; real videos and a real network camera."""

import http.server
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from deepfusion_edge.config import CameraSource, VideoSource
from deepfusion_edge.errors import InputError, UsageError
from deepfusion_edge.source import open_source
from deepfusion_edge.source.camera import Camera

cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed: pip install .[camera]")
FAKE = (sys.executable, str(Path(__file__).with_name("fake_reader.py")))
PATIENCE_S = 60.0
VARIABLE = "CAMERA"
SECRET = "s3cret /of the@line"  # noqa: S105 - of a camera that is not there


@pytest.fixture
def make():
    """``make(way, **options)`` -> Camera with a fake reader."""
    made = []

    def build(way, *, command=None, **options):
        options = {
            "back_pressure": "wait",
            "open_timeout_s": 20.0,
            "read_timeout_s": 20.0,
        } | options
        config = CameraSource(name="cam", **({"device": 0} | options))
        made.append(Camera(config, command=command or (*FAKE, way), first_delay_s=0.02))
        return made[-1]

    yield build
    for camera in made:
        camera.close()


def wait(camera, condition, *, take=False):
    """Tend a camera until the condition holds; returns the frames taken meanwhile."""
    deadline, frames, turns = time.monotonic() + PATIENCE_S, [], iter(camera)
    while not condition():
        assert time.monotonic() < deadline, (camera.state, len(frames))
        if take:
            frame = next(turns, None)
            if frame is not None:
                frames.append(frame)
        else:
            camera.tend()
        time.sleep(0.002)
    return frames


def collect(source):
    deadline, frames = time.monotonic() + PATIENCE_S, []
    for frame in source:
        assert time.monotonic() < deadline, source.state
        if frame is None:
            time.sleep(0.002)
        else:
            frames.append(frame)
    return frames


def test_frames_come_in_order_out_of_shared_memory(make):
    camera = make("waits")
    frames = []
    assert camera.state.state == "connecting"
    frames += wait(camera, lambda: camera._sequence > 300, take=True)
    assert len(frames) >= 298
    assert [frame.sequence for frame in frames] == list(range(len(frames)))
    assert [frame.content[0, 0, 0] for frame in frames] == [n % 256 for n in range(len(frames))]
    assert frames[0].content.shape == (2, 4, 3)
    assert frames[7].captured_s == 1007.0
    assert (camera.state.state, camera.state.dropped) == ("connected", 0)


def test_a_reader_that_waits_for_us_is_not_lost(make):
    camera = make("waits", read_timeout_s=0.2, queue=1)
    wait(camera, lambda: camera.state.state == "connected")
    end = time.monotonic() + 1.0
    wait(camera, lambda: time.monotonic() > end)
    assert camera.state.state == "connected"
    assert len(camera._waiting) == 2
    assert camera.state.reconnects == 0


@pytest.mark.parametrize(
    ("way", "reason"),
    [
        ("hangs-at-once", "no connection for 0.5 s"),
        ("opens-and-hangs", "no frame for 0.3 s"),
        ("two-and-hangs", "no frame for 0.3 s"),
        ("two-and-dies", "its reader failed (3)"),
        ("two-and-crashes", "its reader was ended by signal 11"),
        ("cannot-open", "cannot open 0"),
        ("noise", "its reader sent garbage"),
        ("endless-noise", "its reader sent garbage"),
        ("opens-for-ever", "its reader sent garbage"),
        ("slot-out-of-range", "its reader sent garbage"),
        ("slot-twice", "its reader sent garbage"),
        ("larger-than-slot", "its reader sent garbage"),
        ("too-large", "its reader sent garbage"),
        ("no-size", "its reader sent garbage"),
        ("no-time", "its reader sent garbage"),
        ("far-future", "its reader sent garbage"),
        ("long-text", "its reader sent garbage"),
        ("unknown-kind", "its reader sent garbage"),
        ("frame-before-opened", "its reader sent garbage"),
    ],
)
def test_a_reader_that_misbehaves_is_killed_and_replaced(make, way, reason):
    open_s = 0.5 if way == "hangs-at-once" else 20.0
    read_s = 0.3 if reason.startswith("no frame") else 20.0
    camera = make(way, open_timeout_s=open_s, read_timeout_s=read_s)
    readers = set()

    def second():
        if camera._reader is not None:
            readers.add(camera._reader.process.pid)
        return len(readers) == 2

    wait(camera, second, take=True)
    assert camera.state.reason == reason
    assert camera.state.state in {"reconnecting", "connected", "lost"}
    camera.close()
    for pid in readers:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_back_off_doubles_and_begins_anew_after_a_long_connection(monkeypatch):
    monkeypatch.setattr("random.uniform", lambda _low, high: high)
    clock = [1000.0]
    camera = Camera(
        CameraSource(name="cam", device=0),
        command=("/nowhere/reader",),
        monotonic=lambda: clock[0],
        first_delay_s=0.5,
    )
    delays = []
    for _ in range(9):
        camera.tend()
        assert camera.state.state == "lost"
        delays.append(camera._next_try - clock[0])
        clock[0] = camera._next_try
    assert delays == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]
    camera.connection, camera._since = "connected", clock[0] - 31
    camera._fail("once more")
    assert camera._next_try - clock[0] == 0.5


def test_losses_and_returns_are_counted(make):
    camera = make("two-and-dies")
    frames = wait(camera, lambda: camera.state.reconnects == 2, take=True)
    assert len(frames) >= 4
    assert [frame.sequence for frame in frames] == list(range(len(frames)))


def test_frames_of_a_dead_reader_are_still_given(make):
    camera = make("five", queue=8)
    wait(camera, lambda: camera.state.state == "ended")
    frames = collect(camera)
    assert [frame.content[0, 0, 0] for frame in frames] == [0, 1, 2, 3, 4]


def test_drop_oldest_keeps_the_newest_and_counts(make):
    camera = make("waits", back_pressure="drop-oldest", queue=3)
    wait(camera, lambda: camera.tally.dropped > 50)
    held = [waiting.sequence for waiting in camera._waiting]
    assert len(held) == 3
    assert held == list(range(held[0], held[0] + 3))
    assert camera.tally.dropped == held[0]
    frame = next(frame for frame in camera if frame is not None)
    assert frame.content[0, 0, 0] == frame.sequence % 256


def test_what_the_reader_left_out_is_counted_and_seen_in_the_sequence(make):
    camera = make("skips")
    frames = collect(camera)
    assert [frame.sequence for frame in frames] == [0, 5]
    assert camera.tally.dropped == 6


def test_a_camera_that_hangs_stalls_nobody(make, tmp_path):
    from deepfusion_edge.config import FolderSource
    from deepfusion_edge.feed import Feed, Prepared
    from deepfusion_edge.source.folder import Folder

    for n in range(20):
        (tmp_path / f"{n:02}.png").write_bytes(b"x")
    hung = make("opens-and-hangs", read_timeout_s=600.0, back_pressure="drop-oldest")
    folder = Folder(FolderSource(name="folder", path=str(tmp_path)))
    feed = Feed([hung, folder], lambda frame: Prepared(frame, frame.content, 0.0))
    finish = threading.Event()
    feeder = threading.Thread(target=feed.run, args=(finish,))
    feeder.start()
    taken, deadline = [], time.monotonic() + PATIENCE_S
    while len(taken) < 20:
        assert time.monotonic() < deadline
        prepared = feed.take(0.1)
        taken += [prepared] if prepared is not None else []
    finish.set()
    feeder.join(10)
    assert not feeder.is_alive()
    assert {prepared.frame.source for prepared in taken} == {"folder"}


def test_the_password_reaches_the_reader_and_nobody_else(make, tmp_path, monkeypatch):
    (tmp_path / "password").write_text(SECRET + "\n")
    monkeypatch.setenv("BROKER_PASSWORD", "of-the-broker")
    secrets = {
        "url": "rtsp://127.0.0.1:1/stream",
        "username": "line",
        "password_file": str(tmp_path / "password"),
        "device": None,
    }
    camera = make("hangs-at-once", **secrets)
    wait(camera, lambda: camera._reader is not None)
    process = Path("/proc", str(camera._reader.process.pid))
    if process.exists():
        told = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
        assert b"s3cret" not in told
        assert b"of-the-broker" not in told
    talks = make("cannot-open", **secrets)  # it says what it was to open
    wait(talks, lambda: talks.state.state == "lost")
    assert talks.state.reason == "cannot open ***"


@pytest.mark.parametrize(
    ("options", "value"),
    [
        ({"url": "rtsp://h:8554/a?b"}, "rtsp://line:s3cret%20%2Fof%20the%40line@h:8554/a?b"),
        (
            {"pipeline": "rtspsrc user-id={username} user-pw={password} ! appsink"},
            'rtspsrc user-id="line" user-pw="s3cret /of the@line" ! appsink',
        ),
    ],
)
def test_where_the_password_goes(make, monkeypatch, options, value):
    monkeypatch.setenv(VARIABLE, SECRET)
    camera = make("five", device=None, username="line", password_env=VARIABLE, **options)
    assert camera._target.value == value


def test_a_password_that_is_not_there_is_an_error(make, monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    with pytest.raises(UsageError, match="CAMERA is not set"):
        make("five", device=None, url="rtsp://h/", username="line", password_env=VARIABLE)


def test_a_reader_ends_with_the_agent(tmp_path):
    """SIGKILL leaves no time for anything: the reader must notice by itself."""
    script = tmp_path / "agent.py"
    script.write_text(
        textwrap.dedent(f"""
        import sys, time
        from deepfusion_edge.config import VideoSource
        from deepfusion_edge.source.camera import Camera
        camera = Camera(VideoSource(name="a", path={str(_video(tmp_path, 500))!r}, queue=1))
        while camera.state.state != "connected":
            camera.tend()
            time.sleep(0.01)
        print(camera._reader.process.pid, flush=True)
        time.sleep(600)
        """)
    )
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE) as agent:
        reader = int(agent.stdout.readline())
        os.kill(reader, 0)
        agent.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + PATIENCE_S
    while Path("/proc", str(reader)).exists() and "Z" not in _state(reader):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _state(pid):
    try:
        return Path("/proc", str(pid), "stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return "Z"


def _video(folder, count, *, size=(64, 48), fps=25.0):
    """Frame n is of red 4 n, green 40 and blue 200."""
    path = folder / f"{count}.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), fps, size)
    assert writer.isOpened()
    for n in range(count):
        writer.write(np.full((size[1], size[0], 3), (200, 40, 4 * n % 256), np.uint8))
    writer.release()
    return path


def test_a_real_video_gives_each_frame_once_in_order_in_red_green_blue(tmp_path):
    source = open_source(VideoSource(name="video", path=str(_video(tmp_path, 40))))
    frames = collect(source)
    source.close()
    assert (source.state.state, source.state.reason) == ("ended", "")
    assert [frame.sequence for frame in frames] == list(range(40))
    colours = np.array([frame.content.mean(axis=(0, 1)) for frame in frames])
    assert frames[0].content.shape == (48, 64, 3)
    assert np.abs(colours[:, 0] - 4 * np.arange(40)).max() < 6
    assert np.abs(colours[:, 1:] - [40, 200]).max() < 6


def test_a_video_in_real_time_drops_what_is_not_taken(tmp_path):
    path = _video(tmp_path, 30, fps=60.0)
    config = VideoSource(
        name="v", path=str(path), pace="real-time", back_pressure="drop-oldest", queue=2
    )
    source = open_source(config)
    begun = time.monotonic()
    wait(source, lambda: source.state.state == "ended")
    assert time.monotonic() - begun > 0.4
    assert [frame.sequence for frame in collect(source)] == [28, 29]
    assert source.tally.dropped == 28
    source.close()


def test_a_video_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match="no file"):
        open_source(VideoSource(name="v", path=str(tmp_path / "a.avi")))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"no video at all", "cannot be opened"),
        (b"", "cannot be opened"),
        (None, "frames of 64x48 pixels, at most"),
    ],
)
def test_a_video_that_cannot_be_used_ends_with_its_reason(tmp_path, content, reason):
    path = _video(tmp_path, 3)
    if content is not None:
        path.write_bytes(content)
    source = open_source(VideoSource(name="v", path=str(path), max_pixels=1000))
    assert collect(source) == []
    source.close()
    assert source.state.state == "lost"
    assert reason in source.state.reason


class _Camera(http.server.BaseHTTPRequestHandler):
    """Sends JPEG images as cameras do, and stops when told."""

    def do_GET(self):
        self.server.asked.append(self.path)
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        _, jpeg = cv2.imencode(".jpg", np.full((48, 64, 3), (200, 40, 120), np.uint8))
        part = b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(jpeg)
        try:
            while not self.server.over.is_set():
                if not self.server.silent.is_set():
                    self.wfile.write(part + jpeg.tobytes() + b"\r\n")
                time.sleep(0.02)
        except OSError:
            return

    def log_message(self, *_):
        pass


@pytest.fixture
def network_camera():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Camera)
    server.daemon_threads = True
    server.asked, server.over, server.silent = [], threading.Event(), threading.Event()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.over.set()
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_network_camera_that_falls_silent_is_connected_again(network_camera):
    url = f"http://127.0.0.1:{network_camera.server_port}/video.mjpg"
    camera = Camera(
        CameraSource(name="net", url=url, read_timeout_s=3.0, open_timeout_s=30.0),
        first_delay_s=0.05,
    )
    frames = wait(camera, lambda: camera._sequence > 3, take=True)
    assert np.abs(frames[0].content.mean(axis=(0, 1)) - [120, 40, 200]).max() < 6
    network_camera.silent.set()
    wait(camera, lambda: camera.state.state == "lost", take=True)
    network_camera.silent.clear()
    wait(camera, lambda: camera.state.reconnects == 1, take=True)
    camera.close()
    assert len(network_camera.asked) == 2


def test_a_playlist_in_the_place_of_a_video_fetches_nothing(tmp_path, network_camera):
    path = tmp_path / "video.m3u8"
    url = f"http://127.0.0.1:{network_camera.server_port}/a.ts"
    path.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{url}\n#EXT-X-ENDLIST\n")
    source = open_source(VideoSource(name="v", path=str(path)))
    assert collect(source) == []
    source.close()
    assert source.state.state == "lost"
    assert network_camera.asked == []


def test_what_is_missing_is_said():
    device = Camera(CameraSource(name="v4l", device="/dev/video250"))
    wait(device, lambda: device.state.state == "lost")
    assert "cannot be opened" in device.state.reason
    device.close()
    if cv2.CAP_GSTREAMER not in cv2.videoio_registry.getBackends():
        pipeline = Camera(CameraSource(name="gst", pipeline="videotestsrc ! appsink"))
        wait(pipeline, lambda: pipeline.state.state == "lost")
        assert "built without GSTREAMER" in pipeline.state.reason
        pipeline.close()


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_opencv_is_told_its_limits_and_the_transport_before_it_is_loaded(make, transport):
    camera = make("five", device=None, url="rtsp://h/", transport=transport)
    assert camera._target.variables(1000) == {
        "OPENCV_IO_MAX_IMAGE_PIXELS": "1000",
        "OPENCV_LOG_LEVEL": "SILENT",
        "OPENCV_FFMPEG_CAPTURE_OPTIONS": f"rtsp_transport;{transport}",
    }
    assert "OPENCV_FFMPEG_CAPTURE_OPTIONS" not in make("five")._target.variables(1000)
