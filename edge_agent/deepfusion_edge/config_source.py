"""Sections ``sources[]`` of the configuration, one struct a kind. Pure.

A URL is never quoted in an error: cameras take passwords in it.
"""

import re
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta, Struct
from msgspec.structs import replace

from deepfusion_edge.errors import UsageError
from deepfusion_edge.image import MAX_BYTES, MAX_PIXELS
from deepfusion_edge.topics import check_text, check_topic

SCHEMES = ("rtsp", "rtsps", "http", "https")

PathText = Annotated[str, Meta(min_length=1, max_length=4000)]
Seconds = Annotated[float, Meta(gt=0.0, le=86_400.0)]
VariableName = Annotated[str, Meta(pattern="^[A-Za-z_][A-Za-z0-9_]*$", max_length=200)]
Queue = Annotated[int, Meta(ge=1, le=64)]
BackPressure = Literal["wait", "drop-oldest", "drop-late"]
"""What happens to frames that come faster than they are judged.

``wait``         the source waits: nothing is dropped, and what a camera shows may grow old
``drop-oldest``  at most ``queue`` frames wait; the oldest one makes room
``drop-late``    as ``drop-oldest``, and what is older than ``late_s`` at its turn is dropped
"""

_URL = re.compile(r"^([a-z]+)://([^/?#\s]+)([/?#]\S*)?$")
_DEVICE = re.compile(r"^/dev/[A-Za-z0-9_.:/+-]+$")
_MANY_PIXELS = 4096 * 2304


class FolderSource(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="folder"):
    """PNG and JPEG files of a folder.

    Attributes:
        name: level of the topic ``decision/<name>``; unique.
        mode: ``replay`` (sorted, once) or ``watch`` (new files, for ever).
        pattern: shell pattern of the file names taken, among ``.png``, ``.jpg`` and ``.jpeg``.
        recursive: also the folders below.
        poll_interval_s: how often a watched folder is listed.
        back_pressure: files wait.
        own_process: whether a process of its own reads the folder, so that a network share which
            hangs holds up nobody else; ``auto``: if the folder is on one.
        read_timeout_s: a listing or a file that takes such a process longer makes the source lost;
            it is tried again until the share answers.
        max_bytes, max_pixels: larger images are reported, not decoded.
    """

    name: str
    path: PathText
    mode: Literal["replay", "watch"] = "replay"
    pattern: Annotated[str, Meta(min_length=1, max_length=200)] = "*"
    recursive: bool = False
    poll_interval_s: Seconds = 1.0
    back_pressure: Literal["wait"] = "wait"
    own_process: Literal["auto", "always", "never"] = "auto"
    read_timeout_s: Seconds = 30.0
    max_bytes: Annotated[int, Meta(ge=1, le=MAX_BYTES)] = MAX_BYTES
    max_pixels: Annotated[int, Meta(ge=1, le=MAX_PIXELS)] = MAX_PIXELS


class VideoSource(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="video"):
    """Frames of a video file, once.

    Attributes:
        pace: ``fast`` (as they are judged) or ``real-time`` (as they were recorded).
        back_pressure, queue, late_s: see :data:`BackPressure`.
        open_timeout_s, read_timeout_s: after these the reader is killed and the source ends.
        max_pixels: a video of larger frames is refused.
    """

    name: str
    path: PathText
    pace: Literal["fast", "real-time"] = "fast"
    back_pressure: BackPressure = "wait"
    queue: Queue = 2
    late_s: Seconds = 1.0
    open_timeout_s: Seconds = 15.0
    read_timeout_s: Seconds = 5.0
    max_pixels: Annotated[int, Meta(ge=1, le=MAX_PIXELS)] = _MANY_PIXELS


class CameraSource(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="camera"):
    """A camera; exactly one of ``device``, ``url`` and ``pipeline``.

    Attributes:
        device: V4L2: a number, or a path below ``/dev``.
        url: ``rtsp``, ``rtsps``, ``http`` or ``https``, without user name and password.
        pipeline: GStreamer, ending in ``appsink``; ``{username}`` and ``{password}`` are filled in.
        username, password_file, password_env: of the camera.
        transport: of RTSP.
        width, height, fps: what a V4L2 device is asked for; None leaves it as it is.
        back_pressure, queue, late_s: see :data:`BackPressure`.
        open_timeout_s, read_timeout_s: after these the reader is killed, and connects again.
        max_pixels: larger frames are refused.
    """

    name: str
    device: Annotated[int, Meta(ge=0, le=255)] | PathText | None = None
    url: PathText | None = None
    pipeline: PathText | None = None
    username: Annotated[str, Meta(min_length=1, max_length=1000)] | None = None
    password_file: PathText | None = None
    password_env: VariableName | None = None
    transport: Literal["tcp", "udp"] = "tcp"
    width: Annotated[int, Meta(ge=1, le=16_384)] | None = None
    height: Annotated[int, Meta(ge=1, le=16_384)] | None = None
    fps: Annotated[float, Meta(gt=0.0, le=1000.0)] | None = None
    back_pressure: BackPressure = "drop-oldest"
    queue: Queue = 2
    late_s: Seconds = 1.0
    open_timeout_s: Seconds = 15.0
    read_timeout_s: Seconds = 5.0
    max_pixels: Annotated[int, Meta(ge=1, le=MAX_PIXELS)] = _MANY_PIXELS


class MqttSource(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="mqtt"):
    """PNG or JPEG images that arrive on a topic of the agent's own broker.

    Attributes:
        topic: without wildcards.
        qos: the highest to receive with.
        retained: what to do with an image that the broker kept from an earlier time.
        back_pressure: a broker cannot be made to wait without making the verdicts wait.
        queue: images that wait; the oldest one makes room.
        late_s: counted from their arrival.
        max_bytes, max_pixels: larger images are refused.
    """

    name: str
    topic: Annotated[str, Meta(min_length=1, max_length=1600)]
    qos: Literal[0, 1, 2] = 1
    retained: Literal["refuse", "take"] = "refuse"
    back_pressure: Literal["drop-oldest", "drop-late"] = "drop-oldest"
    queue: Annotated[int, Meta(ge=1, le=1000)] = 16
    late_s: Seconds = 1.0
    max_bytes: Annotated[int, Meta(ge=1, le=MAX_BYTES)] = 8 * 2**20
    max_pixels: Annotated[int, Meta(ge=1, le=MAX_PIXELS)] = MAX_PIXELS


SourceSection = FolderSource | VideoSource | CameraSource | MqttSource


def check_source(field: str, section: SourceSection) -> None:
    """Refuse a section that breaks a rule which its types cannot say; its name is not looked at.

    Raises:
        UsageError: naming ``field`` and the rule.
    """
    if isinstance(section, MqttSource):
        check_topic(f"{field}.topic", section.topic)
    elif isinstance(section, CameraSource):
        _check_camera(field, section)
    else:
        check_text(f"{field}.path", section.path)


def _check_camera(field: str, camera: CameraSource) -> None:
    given = [n for n in ("device", "url", "pipeline") if getattr(camera, n) is not None]
    if len(given) != 1:
        raise UsageError(
            f"{field} has {' and '.join(given) or 'none'} of device, url and pipeline",
            "set exactly one of them",
        )
    for name in ("device", "url", "pipeline", "username", "password_file"):
        check_text(f"{field}.{name}", str(getattr(camera, name) or ""))
    if isinstance(camera.device, str) and (
        not _DEVICE.match(camera.device) or ".." in camera.device
    ):
        raise UsageError(f"{field}.device is no path below /dev", "write /dev/video0, or 0")
    keep_out = "use username with password_file or password_env"
    if camera.url is not None:
        found = _URL.match(camera.url)
        if found is None or found[1] not in SCHEMES:
            raise UsageError(
                f"{field}.url is no URL of the schemes {', '.join(SCHEMES)}",
                "write rtsp://host/path",
            )
        if "@" in found[2]:
            raise UsageError(f"{field}.url holds a user name or password", keep_out)
    if camera.pipeline is not None and re.search(r"://[^/\s]*@", camera.pipeline):
        raise UsageError(f"{field}.pipeline holds a user name or password", keep_out)
    if camera.password_file is not None and camera.password_env is not None:
        raise UsageError(f"{field}.password_file and password_env are both set", "set one of them")
    if camera.username is None and (camera.password_file or camera.password_env):
        raise UsageError(f"{field} has a password but no username", "set username")


def resolve_source(section: SourceSection, folder: Path) -> SourceSection:
    """Make the paths of a section absolute; relative ones count from ``folder``."""
    if isinstance(section, (FolderSource, VideoSource)):
        return replace(section, path=str(folder / section.path))
    if isinstance(section, CameraSource) and section.password_file is not None:
        return replace(section, password_file=str(folder / section.password_file))
    return section
