"""A Ray cluster of this machine makes the files of one process, also when a worker dies."""

import importlib.util
import os
import socket
import subprocess
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path

import pytest

from deepfusion_edge.errors import ModelError, UnreachableError, UsageError
from deepfusion_toolkit.attacks import Settings
from deepfusion_toolkit.craft import craft
from deepfusion_toolkit.data import folder
from deepfusion_toolkit.engines import RayCluster, ray_cluster
from deepfusion_toolkit.models import load
from tests.toolkit import attack_nets as nets
from tests.toolkit.engine_jobs import THREE, Sabotaged, made

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None,
    reason="Ray is not installed: pip install deepfusion-toolkit[ray]",
)
QUICK = Settings(eps=16, steps=2, feature_weight=0.0)


@cache
def surrogate(spec=THREE):
    return load(spec)


@pytest.fixture
def data(tmp_path):
    return nets.random_folder(tmp_path / "clean")


def run(data, out, engine=None, spec=THREE):
    dataset = folder.load(data)
    return craft(dataset, [surrogate(spec)], out, QUICK, batch=2, engine=engine, threads=1)


@needs_ray
@pytest.mark.slow
def test_two_workers_one_killed_half_way(data, tmp_path, capfd):
    run(data, tmp_path / "straight")
    run(data, tmp_path / "out", Sabotaged(RayCluster(2), "c1/1.png", tmp_path / "once"))
    assert (tmp_path / "once").exists()
    assert made(tmp_path / "out") == made(tmp_path / "straight")
    said = capfd.readouterr().err
    assert "craft: engine ray, 2 workers, threads of each: 1" in said
    assert "a worker was lost (" in said


@needs_ray
@pytest.mark.slow
def test_an_error_of_a_worker_is_the_parents(data, tmp_path):
    with pytest.raises(ModelError, match="fickle has other weights in a worker"):
        run(data, tmp_path / "out", RayCluster(1), "tests.toolkit.engine_jobs:fickle")


@needs_ray
@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the sockets of Linux")
def test_a_cluster_of_ones_own_is_heard_on_the_loopback_alone():
    script = (
        "from deepfusion_toolkit.engines.ray_cluster import _connected\n"
        "from tests.toolkit.test_engine_ray import heard\n"
        "with _connected(None, 1): print(*heard())\n"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == {"127.0.0.1"}


def heard():
    """Addresses on which this process and its offspring listen."""
    family = {str(os.getpid())}
    parents = {p.parent.name: stat(p) for p in Path("/proc").glob("[0-9]*/stat")}
    while new := {pid for pid, parent in parents.items() if parent in family} - family:
        family |= new
    links = {link(fd) for pid in family for fd in Path("/proc", pid, "fd").glob("*")}
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path("/proc/net", table).read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A" and f"socket:[{words[9]}]" in links:
                raw = bytes.fromhex(words[1].split(":")[0])
                mapped = table == "tcp" or raw[8:12] == b"\xff\xff\0\0"
                found.add(socket.inet_ntoa(raw[-4:][::-1]) if mapped else "every address")
    return found


def stat(path):
    """Parent of a process; it may end meanwhile."""
    with suppress(OSError):
        return path.read_text().rpartition(")")[2].split()[1]
    return ""


def link(path):
    with suppress(OSError):
        return str(path.readlink())
    return ""


@needs_ray
@pytest.mark.slow
def test_a_cluster_that_is_too_small(data, tmp_path, monkeypatch):
    """It would keep everybody waiting."""
    monkeypatch.setitem(os.environ, "CUDA_VISIBLE_DEVICES", "")
    engine = RayCluster(1, "cuda")
    with pytest.raises(UsageError, match="the Ray cluster has 0 GPUs, 1 workers need 1"):
        run(data, tmp_path / "out", engine)


@needs_ray
@pytest.mark.slow
def test_nobody_at_the_address(data, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(UnreachableError, match=f"no Ray cluster at {address}"):
        run(data, tmp_path / "out", RayCluster(1, address=address))


def test_without_ray_it_says_how_to_get_it(data, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setattr(ray_cluster, "PRIVATE", {})
    with pytest.raises(ModelError, match="the engine ray needs Ray") as caught:
        run(data, tmp_path / "out", RayCluster(1))
    assert caught.value.remedy == "pip install deepfusion-toolkit[ray]"
