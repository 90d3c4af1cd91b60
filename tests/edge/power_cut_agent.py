"""An agent that loses power after a given step: real desk, store and ledger, and a fake loop.

``python -m tests.edge.power_cut_agent`` reads one order a line and answers with the exit code of a
forked child: importing everything anew for each of some hundred starts would take minutes.
"""

import json
import os
import sys
import time
import traceback
from pathlib import Path

import msgspec

from deepfusion_edge.bundle.layout import read_probation
from deepfusion_edge.bundle.store import load_current
from deepfusion_edge.commands import start
from deepfusion_edge.config import AgentConfig
from deepfusion_edge.report.messages import Incoming
from tests.edge.command_parts import NOW, TOPIC, Office

DIED = 9


def agent(order: dict) -> None:
    steps: list[str] = []

    def hook(step: str) -> None:
        steps.append(step)
        if order["cut"] == len(steps):
            os._exit(DIED)

    config = msgspec.json.decode(json.dumps(order["config"]), type=AgentConfig)
    state, told = Path(config.state_dir), []
    start.begin(config, lambda: load_current(state, now=NOW), now=NOW, told=told.append)
    office = Office(config, hook=hook)
    office.machine.unfit_to_load |= set(order["unfit"])
    message = Path(order["message"]).read_bytes()
    # A broker delivers again what was not confirmed before the power was cut.
    office.desk.take(Incoming(TOPIC, message, retained=False, qos=1))
    begun = time.monotonic()
    deadline = begun + 60
    with office:
        while not {"done", "failed"} & set(office.states("c-1")):
            assert time.monotonic() < deadline, office.statuses()
            trial = read_probation(state) is not None
            if trial and time.monotonic() - begun > order["patience_s"]:
                if order["orderly"]:
                    break
                os._exit(DIED)
            bad = order["fails"] and trial
            office.frames(60, problem="broken" if bad else None)
            send(office, order)
            time.sleep(0.005)
    start.end(config)
    answer = {"steps": steps, "told": told, "states": office.states("c-1")}
    Path(order["answer"]).write_text(json.dumps(answer))


def send(office: Office, order: dict) -> None:
    size = order["chunk_bytes"]
    data = Path(order["bundle"]).read_bytes() if size else b""
    for at in range(0, len(data), size or 1):
        topic = f"{TOPIC}/chunk/c-1/{at // size}"
        chunk = data[at : at + size]
        office.desk.take_chunk(Incoming(topic, chunk, retained=False, qos=1))


def main() -> None:
    for line in sys.stdin:
        order = json.loads(line)
        child = os.fork()
        if child == 0:
            try:
                agent(order)
                os._exit(0)
            except BaseException:  # noqa: BLE001 - shown, and told by the code
                traceback.print_exc()
                os._exit(1)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
