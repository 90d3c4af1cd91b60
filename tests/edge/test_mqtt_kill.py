"""An agent's outbox and publisher, killed without warning, over and over, with a real mosquitto."""

import json
import os
import random
import signal
import subprocess
import sys
import textwrap

import pytest

from deepfusion_edge.outbox import read_counters

PROGRAM = textwrap.dedent(
    """
    import json, sys, threading, time
    from pathlib import Path
    from deepfusion_edge.config import Mqtt
    from deepfusion_edge.outbox import Outbox
    from deepfusion_edge.report.payload import AgentState
    from deepfusion_edge.report.publisher import Publisher

    state = AgentState(agent="line-1", state="online", reason="running")
    box = Outbox(Path(sys.argv[1]), max_events=10**6, max_bytes=2**28, ttl_s=None)
    publisher = Publisher(Mqtt(port=int(sys.argv[2]), client_id="line-1"), box, lambda: state)
    finish = threading.Event()
    thread = threading.Thread(target=publisher.run, args=(finish,), kwargs={"drain_timeout_s": 60})
    thread.start()
    for source in range(10**9 if sys.argv[3] == "forever" else 0):
        where = f"decision/cam{source % 3}"
        name = box.put(where, lambda n: json.dumps(n).encode(), now_s=time.time())
        print(where, name, flush=True)
        time.sleep(0.0005)
    finish.set()
    thread.join()
    """
)


@pytest.mark.slow
def test_what_was_acknowledged_arrives_once_by_its_id_and_in_order(broker, listen, tmp_path):
    listener = listen(broker)
    luck = random.Random(3)
    told = {}
    for _ in range(8):
        with subprocess.Popen(
            [sys.executable, "-c", PROGRAM, tmp_path, str(broker.port), "forever"],
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout is not None
            lines = [process.stdout.readline() for _ in range(luck.randrange(50, 400))]
            if luck.random() < 0.4:
                broker.stop()
                lines += [process.stdout.readline() for _ in range(50)]
                broker.start()
                lines += [process.stdout.readline() for _ in range(50)]
            os.kill(process.pid, signal.SIGKILL)
            lines += [line for line in process.stdout if line.endswith("\n")]
        for line in lines:
            where, name = line.split()
            told.setdefault(where, []).append(name)
    drain = [sys.executable, "-c", PROGRAM, tmp_path, str(broker.port), "drain"]
    subprocess.run(drain, check=True, timeout=120)
    counters = read_counters(tmp_path, now_s=0)
    assert counters is not None
    assert (counters.kept, counters.dropped) == (0, 0)
    for where, names in told.items():
        listener.wait(lambda w=where, n=names: n[-1] in map(json.loads, listener.bodies(w)), 30)
        got = list(dict.fromkeys(map(json.loads, listener.bodies(where))))
        assert set(names) <= set(got)
        numbers = [int(name.split("-")[1]) for name in got]
        assert numbers == sorted(numbers)
