"""All that can be seen of an agent, as bytes for whoever asks: page, Prometheus, health check."""

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

import msgspec

from deepfusion_edge import __version__
from deepfusion_edge.config import Http
from deepfusion_edge.errors import StorageError
from deepfusion_edge.health.board import Board
from deepfusion_edge.health.checks import Vitals, ailments
from deepfusion_edge.health.metrics import Metrics, Now
from deepfusion_edge.observer import Observer
from deepfusion_edge.report.device import Device
from deepfusion_edge.report.payload import AgentState, rfc3339

STORE_AGE_S = 5.0
"""How often the disk is written to, at most, only to learn whether it can be."""

Value = TypeVar("Value")


class Living(NamedTuple):
    """What a running agent is asked; each may be called from any thread.

    Attributes:
        describe: what the retained state would say now.
        silent_s: seconds since the judging thread last said that it moves.
        unfed_s: seconds since the sources were last looked at.
        broker: why there is no connection to the broker; None: there is one.
        store: writes to the outbox, or raises StorageError.
        history: bundles that were installed, newest first, as structs or dictionaries.
    """

    describe: Callable[[], AgentState]
    silent_s: Callable[[], float]
    unfed_s: Callable[[], float]
    broker: Callable[[], str | None]
    store: Callable[[], None]
    history: Callable[[], Sequence[object]] = tuple


class Lately(Generic[Value]):
    """What was read a moment ago, read again when it has grown old; for any thread."""

    def __init__(
        self,
        read: Callable[[], Value],
        *,
        age_s: float,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._read, self._age_s, self._monotonic = read, age_s, monotonic
        self._mutex = threading.Lock()
        self._kept: tuple[float, Value] | None = None

    def __call__(self) -> Value:
        """Read, or remember."""
        with self._mutex:
            moment = self._monotonic()
            if self._kept is None or moment >= self._kept[0] + self._age_s:
                self._kept = moment, self._read()
            return self._kept[1]


class Answer(NamedTuple):
    """What a visitor gets: whether all is well, and the body."""

    well: bool
    body: bytes


class Seeing:
    """The agent as seen from outside.

    Attributes:
        observers: who must be told what the loop does.
    """

    def __init__(
        self,
        living: Living,
        http: Http,
        *,
        stuck_s: float,
        now: Callable[[], float] = time.time,
    ) -> None:
        """Prepare.

        Args:
            living: the agent.
            http: what may be shown.
            stuck_s: an inference that takes longer makes the agent unhealthy.
            now: seconds since 1970.
        """
        self._living, self._http, self._stuck_s = living, http, stuck_s
        self._now = now
        self._storing = Lately(self._store, age_s=STORE_AGE_S)
        self._board = Board(thumbnails=http.thumbnails, now=now)
        self._metrics = Metrics(self.now)
        self.observers: tuple[Observer, ...] = (self._board, self._metrics)

    def now(self) -> Now:
        """Look at everything once."""
        living = self._living
        state = living.describe()
        vitals = Vitals(
            state=state,
            warm=state.bundle is not None,
            silent_s=living.silent_s(),
            stuck_s=self._stuck_s,
            unfed_s=living.unfed_s(),
            stale_s=self._http.stale_s,
            outbox=self._storing(),
        )
        return Now(state, state.device or Device(), living.broker(), ailments(vitals))

    def metrics(self) -> bytes:
        """Answer ``/metrics``."""
        return self._metrics.exposition()

    def healthz(self) -> Answer:
        """Answer ``/healthz``."""
        wrong = self.now().ailments
        body = {"status": "unhealthy" if wrong else "ok", "reasons": list(wrong)}
        return Answer(not wrong, msgspec.json.encode(body))

    def status(self) -> bytes:
        """Answer ``/status.json``: all that the page shows."""
        now, moment = self.now(), self._now()
        return msgspec.json.encode(
            {
                "schema": 1,
                "version": __version__,
                "time": rfc3339(moment),
                "time_s": moment,
                "begun": rfc3339(self._board.begun_s),
                "uptime_s": max(0.0, moment - self._board.begun_s),
                "state": now.state,
                "broker": now.broker,
                "ailments": now.ailments,
                "device": now.device,
                "thumbnails": self._http.thumbnails,
                "history": list(self._living.history()),
                **self._board.show(),
            }
        )

    def picture(self, number: int) -> bytes | None:
        """Answer ``/picture/<number>``: a JPEG, or None if it is not on the board."""
        return self._board.picture(number)

    def _store(self) -> str | None:
        try:
            self._living.store()
        except StorageError as error:
            return error.what
        return None


def page(name: str) -> bytes:
    """Read a file of the status page that ships with this package."""
    return (Path(__file__).parent / "page" / name).read_bytes()
