"""``python -m benchmarks.prove.faults.child FAULT[,FAULT] ARGUMENTS``: the agent with a fault.

``hang-at-N``: the N-th inference never returns. ``without-watchdog``: nobody notices.
"""

import os
import sys
import time
from typing import Any
from unittest.mock import patch

from deepfusion_edge import cli
from deepfusion_edge.runtime.ort import OrtSession
from deepfusion_edge.watchdog import Watchdog


def hang(at: int) -> None:
    """Let the ``at``-th inference of this process sleep for an hour."""
    real, runs = OrtSession.run, [0]

    def run(self: OrtSession, *arguments: Any) -> Any:  # noqa: ANN401 - handed on
        runs[0] += 1
        if runs[0] == at:
            time.sleep(3600)
        return real(self, *arguments)

    patch.object(OrtSession, "run", run).start()


def main() -> int:
    """Build the faults in, then be the agent."""
    for fault in sys.argv[1].split(","):
        if fault == "without-watchdog":
            patch.object(Watchdog, "stuck", property(lambda _: False)).start()
        else:
            hang(int(fault.removeprefix("hang-at-")))
    return cli.main(sys.argv[2:])


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)
