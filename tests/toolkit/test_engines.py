"""Several processes make the files of one, also when workers die; Ctrl-C leaves nobody behind."""

import os
import pickle
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from functools import cache

import pytest
import torch

from deepfusion_edge import errors
from deepfusion_edge.errors import ModelError, UnreachableError, UsageError
from deepfusion_toolkit.attacks import Settings
from deepfusion_toolkit.cli import main
from deepfusion_toolkit.craft import craft
from deepfusion_toolkit.data import folder
from deepfusion_toolkit.engines import ENGINES, Local, Processes, engine_for
from deepfusion_toolkit.models import load
from deepfusion_toolkit.names import ENGINES as NAMES
from deepfusion_toolkit.sources import Source
from tests.toolkit import attack_nets as nets
from tests.toolkit.engine_jobs import THREE, Sabotaged, made, wait_for

QUICK = Settings(eps=16, steps=2, feature_weight=0.0)


@cache
def surrogate():
    return load(THREE)


@pytest.fixture
def data(tmp_path):
    return nets.random_folder(tmp_path / "clean")


def run(data, out, engine=None, **options):
    return craft(folder.load(data), [surrogate()], out, QUICK, batch=2, engine=engine, **options)


def straight(data, tmp_path):
    run(data, tmp_path / "straight")
    return made(tmp_path / "straight")


def test_every_engine_has_a_name_that_users_type():
    assert set(ENGINES) == set(NAMES)


@pytest.mark.slow
def test_a_worker_that_is_killed_is_replaced(data, tmp_path, capsys):
    """Two workers, one killed half-way: the bytes of a run here."""
    wanted, out = straight(data, tmp_path), tmp_path / "out"
    run(data, out, Sabotaged(Processes(2), "c1/1.png", tmp_path / "once"), threads=1)
    assert (tmp_path / "once").exists()
    assert made(out) == wanted
    said = capsys.readouterr().err
    assert "craft: engine processes, 2 workers, threads of each: 1" in said
    assert "a worker was lost (signal 9), its images are given to another" in said


@pytest.mark.slow
def test_images_that_kill_every_worker_end_the_run_which_can_be_resumed(data, tmp_path):
    wanted, out = straight(data, tmp_path), tmp_path / "out"
    with pytest.raises(UnreachableError, match="3 workers were lost on") as caught:
        run(data, out, Sabotaged(Processes(1), "c1/1.png"), threads=1)
    assert "c1/1.png" in str(caught.value)
    assert "signal 9" in str(caught.value)
    kept = sorted(made(out))
    assert {"journal.jsonl", "c0/0.png", "c0/1.png"} < set(kept)
    assert "c1/1.png" not in kept
    run(data, out, resume=True)
    assert made(out) == wanted


@pytest.mark.slow
def test_a_run_resumed_elsewhere_keeps_its_threads(data, tmp_path):
    """Where the work was done is no part of a set; with how many threads is."""
    out = tmp_path / "out"
    interrupted(data, out, threads=2)
    with pytest.raises(errors.InputError, match="other settings"):
        run(data, out, resume=True, threads=1)
    finished = run(data, out, Processes(1), resume=True)
    assert finished.head.threads == 2
    assert b"processes" not in made(out)["manifest.json"]
    run(data, tmp_path / "straight", threads=2)
    assert made(out) == made(tmp_path / "straight")


def interrupted(data, out, **options):
    class Cut(Local):
        def run(self, *args, **rest):
            yield next(iter(super().run(*args, **rest)))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(data, out, Cut(), **options)


def test_threads_are_put_back(data, tmp_path):
    before = torch.get_num_threads()
    run(data, tmp_path / "out", threads=before + 1)
    assert torch.get_num_threads() == before


def command(data, out, *more, spec=THREE):
    argv = ("craft", "--data", data, "--surrogate", spec, "--out", out, "--batch", 1, *more)
    return [str(a) for a in (*argv, "--feature-weight", 0)]


def test_an_error_of_a_worker_is_one_line(data, tmp_path, capsys):
    two = ("--engine", "processes", "--workers", 1)
    fickle = "tests.toolkit.engine_jobs:fickle"
    assert main(command(data, tmp_path / "out", *two, spec=fickle)) == ModelError.exit_code
    said = capsys.readouterr().err
    assert "Traceback" not in said
    line = said.splitlines()[-1]
    assert line.startswith(f"error: model {fickle} has other weights in a worker; ")


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "killpg"), reason="needs process groups")
def test_ctrl_c_leaves_no_process_and_the_rest_is_done_here(tmp_path):
    data, out = nets.random_folder(tmp_path / "clean", each=12), tmp_path / "out"
    long = ("--steps", 50, "--batch", 2)  # many short chunks: the signal comes between them
    argv = command(data, out, *long, "--engine", "processes", "--workers", 2, "--threads", 1)
    # a shell's background job ignores the signal, and hands that down to its children
    heard = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    script = heard + "from deepfusion_toolkit.cli import main; sys.exit(main(sys.argv[1:]))"
    process = subprocess.Popen(
        [sys.executable, "-c", script, *argv], stderr=subprocess.PIPE, start_new_session=True
    )
    journal = out / "journal.jsonl"
    try:
        assert wait_for(
            lambda: journal.is_file() and len(journal.read_bytes().split(b"\n")) > 3, 60
        )
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all of them
        _, said = process.communicate(timeout=30)
        assert process.returncode == 130, said
        assert b"Traceback" not in said
        assert said.splitlines()[-1] == b"interrupted; finished work is kept"
        assert wait_for(lambda: group_is_empty(process.pid), 10)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert not (out / "manifest.json").exists()
    assert main(command(data, out, *long, "--resume")) == 0
    assert main(command(data, tmp_path / "straight", *long, "--threads", 1)) == 0
    assert made(out) == made(tmp_path / "straight")


def group_is_empty(group):
    with suppress(ProcessLookupError):
        os.killpg(group, 0)
        return False
    return True


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "killpg"), reason="needs process groups")
def test_workers_end_with_a_parent_that_is_killed(tmp_path):
    data, out = nets.random_folder(tmp_path / "clean", each=40), tmp_path / "out"
    argv = command(data, out, "--steps", 30, "--engine", "processes", "--workers", 1)
    script = "import sys; from deepfusion_toolkit.cli import main; sys.exit(main(sys.argv[1:]))"
    process = subprocess.Popen(
        [sys.executable, "-c", script, *argv], stderr=subprocess.DEVNULL, start_new_session=True
    )
    journal = out / "journal.jsonl"
    try:
        assert wait_for(lambda: journal.is_file() and journal.read_bytes().count(b"\n") > 1, 60)
        process.kill()
        process.wait()
        assert wait_for(lambda: group_is_empty(process.pid), 10)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (("--workers", "2"), "--workers 2 with the engine local"),
        (("--workers", "0"), "workers must be at least 1"),
        (("--threads", "0"), "threads must be at least 1"),
        (("--ray-address", "x:1"), "--ray-address with the engine local"),
        (("--engine", "ray", "--ray-address", "x:1"), "--ray-address without --workers"),
    ],
)
def test_options_that_contradict_each_other(more, says, data, tmp_path, capsys):
    for argv in (
        command(data, tmp_path / "out", *more),
        ["evaluate", "--data", str(data), "--target", THREE, *more],
    ):
        assert main(argv) == UsageError.exit_code
        assert says in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "out").exists()
    with pytest.raises(UsageError, match="there is no engine 'cloud'"):
        engine_for("cloud")


def test_a_model_of_this_process_alone_cannot_be_shared(data, tmp_path):
    model = nets.classifier(nets.three)
    with pytest.raises(UsageError, match="three was made in this process"):
        craft(folder.load(data), [model], tmp_path / "out", QUICK, engine=Processes(2))
    assert not (tmp_path / "out").exists()


def test_a_worker_with_other_versions_is_refused():
    source = Source.of(surrogate())
    assert pickle.loads(pickle.dumps(source)).load().name == "three"  # noqa: S301 - our own
    other = Source(source.spec, source.size, source.fingerprint, ("0", "1.0"))
    with pytest.raises(ModelError, match=r"this process has 0 and 1\.0"):
        other.load()


@pytest.mark.parametrize(
    "kind", [k for k in vars(errors).values() if isinstance(k, type)], ids=lambda k: k.__name__
)
def test_errors_survive_pickling(kind):
    again = pickle.loads(pickle.dumps(kind("what", "remedy")))  # noqa: S301 - our own
    assert type(again) is kind
    assert (again.what, again.remedy, str(again)) == ("what", "remedy", "what; remedy")


def test_workers_are_started_beside_the_main_thread(data, tmp_path):
    """Signals belong to the main thread; a library may be called from another."""
    found = []
    thread = threading.Thread(
        target=lambda: found.append(run(data, tmp_path / "out", Processes(1), threads=1))
    )
    thread.start()
    thread.join()
    assert len(found[0].images) == 9
