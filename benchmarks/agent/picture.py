"""``python -m benchmarks.agent.picture OUT.png``: the status page of a living agent, for the docs.

The agent judges the images of folders, in drawn order, for as long as is asked; then Chromium
looks at its page. A bundle with thresholds shows suspect and rejected frames too.
"""

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

from benchmarks.agent.rig import Rig, stop
from deepfusion_edge import console
from deepfusion_edge.bundle import store
from deepfusion_edge.errors import InputError
from deepfusion_edge.line import utc_now
from deepfusion_edge.source.files import SUFFIXES
from deepfusion_toolkit.report.terminal import progress

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
_SIZE = (1280, 1180)
_COLOURS = 256
_PORT = 9464


def main() -> int:
    """Run the agent, look, and write the picture."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.agent.picture", description=__doc__)
    parser.add_argument("out", type=Path, metavar="OUT.png")
    parser.add_argument("--bundle", type=Path, required=True, metavar="FILE.dfb")
    parser.add_argument("--trust", type=Path, required=True, metavar="KEY.pub")
    parser.add_argument("--images", type=Path, action="append", required=True, metavar="FOLDER")
    parser.add_argument("--seconds", type=float, default=300.0, help="(default: %(default)s)")
    parser.add_argument("--rate", type=float, default=1.5, help="frames/s (default: %(default)s)")
    options = parser.parse_args()
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        raise InputError("no Chromium on this machine", "install it: apt-get install chromium")
    files = [
        file
        for folder in options.images
        for file in sorted(folder.rglob("*"))
        if file.suffix.lower() in SUFFIXES
    ]
    if not files:
        raise InputError("no folder of --images holds a PNG or JPEG image", "give others")
    random.Random(0).shuffle(files)  # noqa: S311 - an order, no secret
    with tempfile.TemporaryDirectory() as work, Rig(Path(work, "rig")) as rig:
        frames, state = Path(work, "frames"), Path(work, "state")
        frames.mkdir()
        store.install(options.bundle, state, [options.trust], now=utc_now())
        source = {"kind": "folder", "name": "belt", "path": str(frames), "mode": "watch"}
        config = rig.config(state, source | {"poll_interval_s": 0.2})
        content = json.loads(config.read_text()) | {"http": {"port": _PORT}}
        content["mqtt"]["client_id"] = "line-3"
        config.write_text(json.dumps(content))
        agent = rig.agent(config, options.out.with_suffix(".log"))
        shown = max(1, round(options.seconds * options.rate))
        with progress("frames for the picture", shown) as advance:
            for number in range(shown):
                file = files[number % len(files)]
                ready = frames / f".{number:06}"
                shutil.copy(file, ready)
                ready.rename(frames / f"{number:06}-{file.parent.name}{file.suffix}")
                time.sleep(1 / options.rate)
                advance(1)
        look(program, Path(work, "profile"), options.out)
        stop(agent)
    return 0


def look(program: str, profile: Path, out: Path) -> None:
    """Write what a browser shows, with few colours so that the file is small.

    Raises:
        InputError: it showed nothing.
    """
    done = subprocess.run(
        [
            *(program, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"),
            *("--disable-dev-shm-usage", "--hide-scrollbars", f"--user-data-dir={profile}"),
            *(f"--window-size={_SIZE[0]},{_SIZE[1]}", "--virtual-time-budget=5000"),
            *(f"--screenshot={out.absolute()}", f"http://127.0.0.1:{_PORT}/"),
        ],
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    if done.returncode or not out.exists():
        raise InputError(f"Chromium ended with {done.returncode}", done.stderr.strip()[-200:])
    with Image.open(out) as picture:
        small = picture.convert("RGB").quantize(_COLOURS)
    small.save(out, optimize=True)


if __name__ == "__main__":
    sys.exit(console.run(main))
