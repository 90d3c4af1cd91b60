"""The engine that is no other process: this one."""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager

import torch

from deepfusion_toolkit.engines.base import C, Job, Notify, R, Work


class Local:
    """One chunk after the other, with the models that are loaded already."""

    name, workers = "local", 1

    @property
    def threads(self) -> int:
        """Return torch's own choice."""
        return torch.get_num_threads()

    def run(
        self,
        job: Job[C, R],  # noqa: ARG002 - for engines elsewhere
        chunks: Sequence[C],
        *,
        threads: int,
        notify: Notify,
        here: Callable[[], Work[C, R]],
    ) -> Generator[tuple[C, R]]:
        """See ``base.Engine.run``; errors come as they are."""
        with threads_of(threads):
            work = here()
            for chunk in chunks:
                yield chunk, work(chunk, notify)


@contextmanager
def threads_of(threads: int) -> Iterator[None]:
    """Let torch use so many threads inside."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
