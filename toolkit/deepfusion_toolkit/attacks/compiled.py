"""Compiled surrogates: what compiles them, and what a user hears when that fails."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from deepfusion_edge.errors import ModelError

BACKEND = "inductor"
"""Torch's own; it needs a C++ compiler on a CPU."""


@contextmanager
def compiling(active: bool) -> Iterator[None]:
    """Turn a failure of torch's compiler into one line.

    Raises:
        ModelError: a surrogate cannot be compiled.
    """
    if not active:
        yield
        return
    from torch._dynamo.exc import TorchDynamoException  # seconds to import, and only wanted here

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # the compiler's own, of itself
            yield
    except TorchDynamoException as error:
        raise ModelError(
            f"a surrogate cannot be compiled ({' '.join(str(error).split())[:300]})",
            "install a C++ compiler, or leave out --compile",
        ) from error
