"""Images that arrive on an MQTT topic: the publisher's connection brings them, the feeder takes."""

import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator

from deepfusion_edge.config import MqttSource
from deepfusion_edge.errors import InputError
from deepfusion_edge.image import read_header
from deepfusion_edge.report.messages import Incoming, Subscription
from deepfusion_edge.source.base import Frame, Source

_POLL_S = 1.0


class MqttImages(Source):
    """A bounded queue between the publisher's thread, which must not wait, and the feeder's.

    What is no PNG or JPEG by its header, has too many pixels, or was retained is refused before it
    waits; what is too large never gets here (:class:`Subscription`).
    """

    def __init__(self, config: MqttSource, *, now: Callable[[], float] = time.time) -> None:
        super().__init__(config.name, poll_interval_s=_POLL_S)
        self.connection = "connecting"
        self.late_s = config.late_s if config.back_pressure == "drop-late" else None
        self._config, self._now = config, now
        self._waiting: deque[Frame] = deque()
        self._sequence = 0
        self._mutex = threading.Lock()
        self._bell, self._ringer = os.pipe()
        os.set_blocking(self._bell, False)
        os.set_blocking(self._ringer, False)
        self._closed = False
        self.subscription = Subscription(config.topic, config.qos, self.take, config.max_bytes)

    def __iter__(self) -> Iterator[Frame | None]:
        while not self._closed:
            with contextlib.suppress(BlockingIOError):
                os.read(self._bell, 2**16)  # before the look: what comes later rings again
            with self._mutex:
                frame = self._waiting.popleft() if self._waiting else None
            yield frame

    def fileno(self) -> int | None:
        """Give the bell that the publisher's thread rings."""
        return None if self._closed else self._bell

    def close(self) -> None:
        """Take no more; what waits is lost, and counted as dropped."""
        with self._mutex:
            if not self._closed:
                self._closed = True
                self.tally.dropped += len(self._waiting)
                self._waiting.clear()
                self.connection = "ended"
                os.close(self._bell)
                os.close(self._ringer)

    def take(self, incoming: Incoming) -> None:
        """Queue one image; called by the publisher's thread."""
        problem = self._problem(incoming)
        with self._mutex:
            if self._closed:
                return
            if problem is not None:
                self.tally.refused += 1
                self.reason = f"the last image refused: {problem}"
                return
            if len(self._waiting) == self._config.queue:
                self._waiting.popleft()
                self.tally.dropped += 1
            self._waiting.append(self._frame(incoming.payload))
            self._sequence += 1
            self.connection = "connected"
            with contextlib.suppress(BlockingIOError):
                os.write(self._ringer, b"!")

    def _problem(self, incoming: Incoming) -> str | None:
        if incoming.retained and self._config.retained == "refuse":
            return "it was retained"
        try:
            header = read_header(incoming.payload)
        except InputError as error:
            return error.what
        if header.width * header.height > self._config.max_pixels:
            return f"{header.width}x{header.height} pixels, at most {self._config.max_pixels}"
        return None

    def _frame(self, content: bytes) -> Frame:
        return Frame(
            source=self.name,
            name=f"{self._sequence:08d}",
            content=content,
            captured_s=self._now(),
            sequence=self._sequence,
            max_pixels=self._config.max_pixels,
        )
