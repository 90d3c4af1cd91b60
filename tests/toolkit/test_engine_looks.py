"""``evaluate`` by workers: what one process says."""

import msgspec
import pytest

from deepfusion_edge.errors import ModelError
from deepfusion_toolkit import sets as attacked
from deepfusion_toolkit.data import folder
from deepfusion_toolkit.engines import Processes
from deepfusion_toolkit.harden import Settings, harden
from deepfusion_toolkit.models import load
from deepfusion_toolkit.plan import read
from deepfusion_toolkit.study import study
from tests.toolkit import attack_nets as nets
from tests.toolkit.engine_jobs import OTHER, THREE

LEARNER = "tests.toolkit.attack_nets:learner"


class Here:
    """An engine that opens the job in this process, as a worker would."""

    name, workers, threads = "here", 1, 1

    def __init__(self):
        self.asked = []

    def run(self, job, chunks, **_):
        work = job.open("cpu")
        self.asked += [(c.judge, i.file) for c in chunks for i in c.dataset.items]
        for chunk in reversed(chunks):
            yield chunk, work(chunk, print)


def test_the_same_study_with_originals_asked_once(tmp_path):
    clean = nets.random_folder(tmp_path / "clean", each=20)
    sets = attacked.load(
        [nets.random_folder(tmp_path / n, each=20, seed=s) for s, n in ((1, "a"), (2, "b"))]
    )
    targets, originals = [load(THREE), load(OTHER)], folder.load(clean)
    wanted = study(sets, originals, targets)
    engine = Here()
    assert msgspec.json.encode(study(sets, originals, targets, engine=engine)) == (
        msgspec.json.encode(wanted)
    )
    assert len(engine.asked) == 2 * 3 * 60  # two targets; originals and two sets
    assert study(sets, None, targets, engine=engine) == study(sets, None, targets)


def test_two_processes_say_what_one_says(tmp_path, capfd):
    sets = attacked.load([nets.random_folder(tmp_path / "a", each=20)])
    clean = folder.load(nets.random_folder(tmp_path / "clean", each=20))
    targets = [load(THREE), load(OTHER)]
    wanted = study(sets, clean, targets)
    capfd.readouterr()
    assert study(sets, clean, targets, engine=Processes(2), threads=1) == wanted
    said = capfd.readouterr().err.splitlines()
    assert said[0] == "evaluate: engine processes, 2 workers, threads of each: 1"
    assert any(line.startswith("judging: 240/240 in ") for line in said)


def test_a_fused_target_too(tmp_path):
    squares = nets.squares(tmp_path / "squares", each=3)
    settings = Settings(epochs=0, members=2, max_clean_drop=1.0, false_positive_rate=0)
    out = tmp_path / "net.pt2"
    harden(load(LEARNER), folder.load(squares), [], out, tmp_path / "plan.json", settings)
    targets = [load(str(out))]
    plan, sets = read(tmp_path / "plan.json", targets[0]), attacked.load([squares])
    wanted = study(sets, None, targets, plan=plan, seed=3)
    assert study(sets, None, targets, plan=plan, seed=3, engine=Here()) == wanted
    out.rename(tmp_path / "moved.pt2")
    with pytest.raises(ModelError, match=r"net\.pt2 does not exist"):
        study(sets, None, targets, engine=Here())
