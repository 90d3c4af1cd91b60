"""The device's part: an agent in its own process judges folders and reports to the broker."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.demo import broker, witness
from benchmarks.demo.summary import decisions
from deepfusion_edge.errors import DeepFusionError, InputError, UnreachableError
from deepfusion_toolkit.data.folder import SUFFIXES
from deepfusion_toolkit.report import progress

AGENT = "demo-line"
PASSWORD_ENV = "DEEPFUSION_DEMO_PASSWORD"  # noqa: S105 - the variable's name
DELIVERY_TIMEOUT_S = 120.0


class AgentError(DeepFusionError):
    """The agent's process ended with an error of its own, whose code is taken over."""

    def __init__(self, what: str, remedy: str, code: int) -> None:
        super().__init__(what, remedy)
        self.exit_code = code


def config(state: Path, sources: Mapping[str, Path], address: broker.Address) -> dict[str, object]:
    """Make what ``agent.json`` holds; the password is read from the environment, not from there.

    Args:
        state: the agent's state folder.
        sources: name -> folder of images, replayed once.
        address: the broker.
    """
    return {
        "state_dir": str(state.absolute()),
        "sources": [
            {"kind": "folder", "name": name, "path": str(path.absolute()), "recursive": True}
            for name, path in sources.items()
        ],
        "mqtt": {
            "host": address.host,
            "port": address.port,
            "client_id": AGENT,
            "username": address.user,
            "password_env": PASSWORD_ENV,
            "protocol": "3.1.1",
        },
        "model": {"threads": 1},
        "run": {"drain_timeout_s": DELIVERY_TIMEOUT_S},
    }


def count_images(folder: Path) -> int:
    """Count what the agent's folder source will replay.

    Raises:
        InputError: the folder is missing or holds no image.
    """
    found = sum(
        path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
        for path in folder.rglob("*")
    )
    if not found:
        raise InputError(f"{folder} holds no PNG or JPEG image", "check the step that wrote it")
    return found


def call_agent(
    words: Sequence[str | Path], log: Path, env: Mapping[str, str] | None = None
) -> None:
    """Run ``deepfusion-agent`` with these words, as a user would; what it says goes to ``log``.

    Raises:
        AgentError: it refused; its own line and exit code.
    """
    here = Path(sys.executable).with_name("deepfusion-agent")
    program = str(here) if here.exists() else shutil.which("deepfusion-agent")
    if program is None:
        raise InputError(
            "deepfusion-agent is not installed", "install it: pip install ./edge_agent"
        )
    arguments = [str(word) for word in words]
    print("$ " + shlex.join(["deepfusion-agent", *arguments]), flush=True)
    with log.open("ab") as said:
        done = subprocess.run(
            [program, *arguments],
            stdout=said,
            stderr=said,
            env={**os.environ, **(env or {})},
            check=False,
        )
    if done.returncode:
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
        last = lines[-1].removeprefix("error: ") if lines else "it said nothing"
        raise AgentError(
            f"deepfusion-agent {arguments[0]} ended with code {done.returncode}: {last}",
            f"see {log}",
            done.returncode,
        )


def replay(
    out: Path, state: Path, sources: Mapping[str, Path]
) -> tuple[list[witness.Received], dict[str, object]]:
    """Replay folders through the installed agent; return what a second MQTT client received.

    Args:
        out: where ``agent.json``, ``agent.log`` and ``broker.log`` are written.
        state: where a bundle is installed.
        sources: name -> folder of images.

    Returns:
        The messages in the order of their arrival, and the agent's configuration.

    Raises:
        DeepFusionError: broker or agent failed, or decisions are missing.
    """
    frames = sum(count_images(folder) for folder in sources.values())
    with (
        progress("decisions received over MQTT", frames) as advance,
        broker.running(out / "broker.log") as address,
    ):

        def count(message: witness.Received) -> None:
            if is_decision(message):
                advance(1)

        settings = config(state, sources, address)
        (out / "agent.json").write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
        with witness.Witness(address, count) as second:
            call_agent(
                ["run", "--config", out / "agent.json", "--log-level", "warning"],
                out / "agent.log",
                {PASSWORD_ENV: address.password},
            )
            # The agent ends when the broker has confirmed; the second delivery may take longer.
            second.wait_for(
                lambda got: sum(map(is_decision, got)) >= frames and is_offline(got[-1]), 10.0
            )
    received = second.messages
    arrived = sum(map(len, decisions(received).values()))
    if arrived < frames:
        raise UnreachableError(
            f"{arrived} decisions arrived over MQTT for {frames} frames",
            f"see {out / 'agent.log'} and {out / 'broker.log'}",
        )
    return received, settings


def is_decision(message: witness.Received) -> bool:
    """Tell whether a message is a decision on a frame."""
    return f"/{AGENT}/decision/" in message.topic


def is_offline(message: witness.Received) -> bool:
    """Tell whether a message is the agent's goodbye."""
    return message.topic.endswith(f"/{AGENT}/state") and b'"offline"' in message.payload
