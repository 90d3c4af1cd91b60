"""A power cut after every step of an update: what is served is whole, and the update ends."""

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from deepfusion_edge.bundle.history import read_history
from deepfusion_edge.bundle.layout import read_probation
from deepfusion_edge.bundle.store import install, load_current
from deepfusion_edge.commands.ledger import read_ledger
from deepfusion_edge.commands.message import Chunks, Install, RollBack
from deepfusion_edge.config_commands import Updates
from tests.edge.command_parts import NOW, Signer, make_config
from tests.edge.power_cut_agent import DIED

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
CHUNK = 2048


@pytest.fixture(scope="module")
def zygote():
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "tests.edge.power_cut_agent"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )

    def run(order) -> int:
        process.stdin.write(json.dumps(order) + "\n")
        process.stdin.flush()
        return int(process.stdout.readline())

    yield run
    process.stdin.close()
    process.wait(30)
    process.stdout.close()


class Device:
    """A state directory with bundles 1 and 2, and the agent that is to get bundle 3."""

    def __init__(self, folder, zygote, make_bundle, keys):
        self._folder, self._zygote = folder, zygote
        self.state, self._clean = folder / "state", folder / "clean"
        self.signer = Signer(folder / "keys")
        for sequence in (1, 2):
            made = make_bundle(folder / f"{sequence}.dfb", sequence=sequence)
            install(made, self._clean, [keys.public], now=NOW, probe=False)
        self.bundle = make_bundle(folder / "3.dfb", sequence=3)
        self.order = {"fails": False, "unfit": [], "chunk_bytes": None, "updates": {}}
        self.order |= {"patience_s": 60, "orderly": False}

    def reset(self):
        shutil.rmtree(self.state, ignore_errors=True)
        shutil.copytree(self._clean, self.state, symlinks=True)

    def command(self, action):
        (self._folder / "message").write_bytes(self.signer.sign(action))

    def install_by_chunks(self):
        data = self.bundle.read_bytes()
        parts = [data[at : at + CHUNK] for at in range(0, len(data), CHUNK)]
        chunks = Chunks(CHUNK, tuple(hashlib.sha256(one).hexdigest() for one in parts))
        digest = hashlib.sha256(data).hexdigest()
        self.command(Install(len(data), digest, None, chunks))
        self.order["chunk_bytes"] = CHUNK

    def run(self, cut=0) -> int:
        updates = msgspec.convert(self.order["updates"], Updates)
        config = make_config(
            self.state, self.signer, updates=msgspec.structs.replace(updates, min_free_bytes=0)
        )
        answer = self._folder / "answer"
        answer.unlink(missing_ok=True)
        code = self._zygote(
            {
                **self.order,
                "config": msgspec.to_builtins(config),
                "message": str(self._folder / "message"),
                "bundle": str(self.bundle),
                "answer": str(answer),
                "cut": cut,
            }
        )
        self.answer = json.loads(answer.read_text()) if answer.exists() else None
        return code

    def check_serves(self, *sequences):
        """What is current is whole and one of these, and so is what a roll-back would give."""
        assert load_current(self.state, now=NOW).manifest.sequence in sequences

    def check_ended(self, state, sequence):
        assert self.answer["states"][-1] == state, self.answer
        (done,) = read_ledger(self.state).recent
        assert done.state == state
        assert read_ledger(self.state).pending == ()
        self.check_serves(sequence)
        assert read_probation(self.state) is None
        assert not (self.state / "probation.json").exists()
        assert list((self.state / "incoming").glob("*")) == []
        assert not list(self.state.glob("staging-*"))
        names = {(self.state / link).resolve().name for link in ("current", "previous")}
        assert {path.name for path in (self.state / "bundles").iterdir()} == names
        return done


@pytest.fixture
def device(tmp_path, zygote, make_bundle, keys):
    return Device(tmp_path, zygote, make_bundle, keys)


def steps_of(device):
    """Run it once without a cut."""
    device.reset()
    assert device.run() == 0
    return device.answer["steps"]


def cut_everywhere(device, steps, check):
    """Cut after each step, then again after the first step of the start that follows."""
    for cut, step in enumerate(steps, 1):
        for again in (0, 1):
            device.reset()
            assert device.run(cut) == DIED, step
            device.check_serves(2, 3)
            if again and device.run(again) == DIED:
                device.check_serves(2, 3)
            if device.answer is None:
                assert device.run() == 0, step
            check(step)


def test_a_good_bundle_is_kept(device):
    device.install_by_chunks()
    steps = steps_of(device)
    # Chunks are asked for by another 'fetching', unless all came before anybody could ask.
    told = list(dict.fromkeys(device.answer["states"]))
    assert told == ["accepted", "fetching", "installing", "probation", "done"]
    known = "accepted fetching fetched installing staged probed pinned published aimed proven"
    known += " probation previous current recorded swept swapped probation noted kept ended done"
    assert steps == known.split()

    def check(step):
        done = device.check_ended("done", 3)
        assert done.result["bundle_sequence"] == 3
        assert (device.state / "previous" / "manifest.json").exists(), step
        assert read_history(device.state)[-1].result == "kept"

    cut_everywhere(device, steps, check)


def test_a_bundle_that_fails_on_probation_is_rolled_back(device):
    device.install_by_chunks()
    device.order["fails"] = True
    steps = steps_of(device)
    assert steps[-4:] == ["noted", "fallen-back", "ended", "done"]

    def check(step):
        done = device.check_ended("failed", 2)
        assert "the graph failed on" in done.reason, step
        assert "rolled back" in done.reason, step
        assert read_history(device.state)[-1].result == "rolled back"
        assert (device.state / "previous").resolve() != (device.state / "current").resolve()
        assert json.loads((device.state / "highest.json").read_bytes())["sequence"] == 3

    cut_everywhere(device, steps, check)


def test_a_bundle_that_does_not_load_never_serves(device):
    device.install_by_chunks()
    device.order["unfit"] = [3]

    def check(step):
        assert "3 does not load" in device.check_ended("failed", 2).reason, step
        assert read_history(device.state)[-1].result == "refused"

    cut_everywhere(device, steps_of(device), check)


def test_a_roll_back_is_done_once(device):
    device.command(RollBack())
    steps = steps_of(device)
    assert steps == ["accepted", "running", "aimed", "rolled-back", "done"]
    (device.state / "incoming").mkdir()
    for cut in range(1, len(steps) + 1):
        device.reset()
        (device.state / "incoming").mkdir()
        assert device.run(cut) == DIED
        assert load_current(device.state, now=NOW).manifest.sequence in {1, 2}
        assert device.run() == 0
        device.check_ended("done", 1)


def test_an_agent_that_dies_too_often_on_probation_returns_to_the_old_bundle(device):
    """Three starts may die where two are allowed: the fourth begins with the old bundle."""
    device.install_by_chunks()
    device.order["updates"] = {"probation": {"frames": 10_000_000, "boots": 2}}
    device.order["patience_s"] = 0.2
    device.reset()
    assert device.run(cut=16) == DIED  # swapped in
    for starts in (2, 3):
        assert device.run() == DIED
        assert read_probation(device.state).starts == starts
        device.check_serves(3)
    assert device.run() == 0
    assert "the agent died 3 times on probation, 2 are allowed" in device.answer["told"][0]
    done = device.check_ended("failed", 2)
    assert "died 3 times" in done.reason
    assert read_history(device.state)[-1].result == "rolled back"


def test_an_orderly_end_does_not_count_against_the_bundle(device):
    device.install_by_chunks()
    device.order["updates"] = {"probation": {"frames": 10_000_000, "boots": 0}}
    device.order |= {"patience_s": 0.2, "orderly": True}
    device.reset()
    for _ in range(3):
        assert device.run() == 0
        assert read_probation(device.state).starts == 0
    device.check_serves(3)
    device.order["orderly"] = False
    assert device.run() == DIED
    assert read_probation(device.state).starts == 1
    assert device.run() == 0
    device.check_ended("failed", 2)
