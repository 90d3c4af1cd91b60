"""What OpenCV is given to open, with the password in it; nothing of that is ever told. Pure."""

from collections.abc import Mapping
from typing import Literal, NamedTuple
from urllib.parse import quote

from deepfusion_edge.config import CameraSource


class Target(NamedTuple):
    """What to open.

    Attributes:
        kind: which backend of OpenCV opens it.
        value: device number, path, URL or pipeline.
        options: FFmpeg's, as OpenCV spells them.
        secrets: what no text may contain.
    """

    kind: Literal["device", "url", "pipeline", "file"]
    value: int | str
    options: str = ""
    secrets: tuple[str, ...] = ()

    def variables(self, max_pixels: int) -> Mapping[str, str]:
        """Give the environment that OpenCV reads its limits and options from."""
        limits = {"OPENCV_IO_MAX_IMAGE_PIXELS": str(max_pixels), "OPENCV_LOG_LEVEL": "SILENT"}
        return limits | ({"OPENCV_FFMPEG_CAPTURE_OPTIONS": self.options} if self.options else {})

    def redact(self, text: str) -> str:
        """Take every secret out of a text."""
        for secret in self.secrets:
            text = text.replace(secret, "***")
        return text


def camera_target(camera: CameraSource, password: str | None) -> Target:
    """Open a camera, with user name and password where its kind wants them."""
    user, word = camera.username or "", password or ""
    if camera.device is not None:
        return Target("device", camera.device)
    secrets = tuple(
        sorted({s for s in (word, quote(word, safe=""), _quoted(word)[1:-1]) if s}, key=len)[::-1]
    )
    if camera.pipeline is not None:
        filled = camera.pipeline.replace("{username}", _quoted(user))
        return Target("pipeline", filled.replace("{password}", _quoted(word)), secrets=secrets)
    assert camera.url is not None  # noqa: S101 - the configuration was checked
    scheme, _, rest = camera.url.partition("://")
    login = quote(user, safe="") + (":" + quote(word, safe="") if word else "")
    url = f"{scheme}://{login}@{rest}" if login else camera.url
    options = f"rtsp_transport;{camera.transport}" if scheme in {"rtsp", "rtsps"} else ""
    return Target("url", url, options=options, secrets=(url, *secrets))


def _quoted(text: str) -> str:
    """Spell a text as a string of a GStreamer pipeline."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
