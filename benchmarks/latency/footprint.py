"""A graph in a process of its own: from nothing to the first answer, and the memory it took."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import msgspec

from benchmarks.latency.subjects import Subject

STATUS = Path("/proc/self/status")
_SCRIPT = """
import sys, time
start = time.perf_counter()
import json
import numpy as np
from pathlib import Path
from deepfusion_edge.runtime.ort import OrtSession
graph, height, width, factors, members, threads, provider = sys.argv[1:]
before = time.perf_counter()
session = OrtSession(Path(graph).read_bytes(), threads=int(threads), provider=provider)
session.run(
    np.full((1, 3, int(height), int(width)), 0.5, np.float32),
    np.ones((int(members), int(factors)), np.float32),
)
done = time.perf_counter()
status = Path("/proc/self/status")
lines = status.read_text().splitlines() if status.exists() else []
peak = next((int(line.split()[1]) for line in lines if line.startswith("VmHWM")), None)
print(json.dumps({"import_s": before - start, "first_answer_s": done - before, "peak_kib": peak}))
"""


class Footprint(msgspec.Struct, frozen=True):
    """What one process took.

    Attributes:
        import_s: for numpy, ONNX Runtime and the agent's runtime.
        first_answer_s: to load the graph and run it once: the cold start.
        peak_memory_mib: of the whole process; None where the system does not say.
    """

    import_s: float
    first_answer_s: float
    peak_memory_mib: float | None


def footprint(subject: Subject, members: int, threads: int, provider: str) -> Footprint:
    """Load and run once in a fresh process.

    Raises:
        subprocess.CalledProcessError: it dies.
    """
    height, width = subject.size
    count = sum(site.channels for site in subject.sites)
    with tempfile.TemporaryDirectory() as folder:
        graph = Path(folder, "model.onnx")
        graph.write_bytes(subject.graph)
        words = (graph, height, width, count, members, threads, provider)
        done = subprocess.run(
            [sys.executable, "-c", _SCRIPT, *map(str, words)],
            check=True,
            capture_output=True,
            text=True,
        )
    seen = json.loads(done.stdout)
    peak = seen["peak_kib"]
    return Footprint(
        seen["import_s"], seen["first_answer_s"], None if peak is None else peak / 1024
    )
