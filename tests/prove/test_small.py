"""One core and one gigabyte: the same verdicts; another one, or too little memory, is noticed."""

import io
import os
import shutil
import sys

import pytest
from PIL import Image

from benchmarks.prove.bundles import Maker
from benchmarks.prove.faults.claim import BrokenError, NotPossibleError
from benchmarks.prove.small import aarch64, emulated
from benchmarks.prove.small.verdicts import decide, limited, same
from deepfusion_edge.errors import UsageError
from tests.edge.conftest import keys, make_bundle, make_keys  # noqa: F401 - fixtures

GIB = 2**30


@pytest.fixture(scope="module")
def pictures():
    made = []
    for colour in ((200, 0, 0), (0, 200, 0), (0, 0, 200)):
        buffer = io.BytesIO()
        Image.new("RGB", (8, 8), colour).save(buffer, "JPEG")
        made.append(buffer.getvalue())
    return made


@pytest.fixture
def maker(tmp_path, make_bundle):  # noqa: F811 - the fixture
    return Maker(make_bundle(tmp_path / "base.dfb"), tmp_path / "bundles")


def test_one_core_and_a_gigabyte_give_the_right_verdicts(maker, pictures, tmp_path):
    bound = decide(maker, pictures, tmp_path / "bound", prepare=limited(GIB))
    assert [one["class"] for one in bound] == ["red", "green", "blue"]
    assert same(bound, bound) == 0
    for name, value in (("label", 9), ("state", "reject"), ("seed", 8), ("confidence", 0.9)):
        with pytest.raises(BrokenError):
            same(bound, [*bound[:2], {**bound[2], name: value}])
    with pytest.raises(BrokenError, match="2 decisions instead of 3"):
        same(bound, bound[:2])


def test_too_little_memory_is_noticed(maker, pictures, tmp_path):
    with pytest.raises(BrokenError, match="the agent ended with"):
        decide(maker, pictures, tmp_path / "bound", prepare=limited(GIB // 8))


def test_the_limits_are_those_of_the_process_alone():
    child = os.fork()
    if child == 0:
        limited(GIB)()
        os._exit(len(os.sched_getaffinity(0)))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1


def test_requirements_are_those_of_the_devices_wheel():
    assert "msgspec>=0.19" in aarch64.requirements("3.12")
    assert "onnxruntime>=1.20" in aarch64.requirements("3.12")
    assert "tomli>=2" in aarch64.requirements("3.10")
    assert "tomli>=2" not in aarch64.requirements("3.12")


def test_the_table_takes_its_place_in_the_page():
    found = {"3.10": {"numpy": "2.2", "tomli": "2"}, "3.12": {"numpy": "2.5"}}
    page = f"before\n{aarch64.BEGIN}\nold\n{aarch64.END}\nafter\n"
    new = aarch64.replaced(page, aarch64.table(found))
    assert new.startswith("before\n")
    assert new.endswith("\nafter\n")
    assert "| tomli | 2 | not needed |" in new
    assert "old" not in new
    assert aarch64.replaced(new, aarch64.table(found)) == new
    with pytest.raises(UsageError, match="the page has no"):
        aarch64.replaced("nothing", "table")


@pytest.fixture
def native(tmp_path):
    """Give what ``emulated`` runs the tests with, on this processor and in no other root."""
    emulated.copy(tmp_path / "work")
    return (shutil.which("env"),), sys.executable, tmp_path / "work"


def test_the_agents_tests_run_in_a_copy_and_notice_a_wrong_line(native):
    env, python, folder = native
    passed, said = emulated.run(env, python, folder, ("tests/edge/test_fusion_rules.py",))
    assert passed > 10
    assert said.startswith(f"{passed} passed")
    emulated.unnoticed(folder, env, python, folder)
    with pytest.raises(BrokenError, match="FAILED tests/edge/test_fusion_rules"):
        emulated.run(env, python, folder, ("tests/edge/test_fusion_rules.py",))


def test_a_wrong_line_that_nothing_notices_is_a_failure(native, monkeypatch):
    env, python, folder = native
    monkeypatch.setattr(emulated, "WRONG", "\n")
    with pytest.raises(BrokenError, match="is not noticed"):
        emulated.unnoticed(folder, env, python, folder)


def test_tests_that_do_not_end_are_a_failure(tmp_path, monkeypatch):
    monkeypatch.setattr(emulated, "_PATIENCE_S", 0.2)
    sleeper = (sys.executable, "-c", "import time; time.sleep(60)")
    with pytest.raises(BrokenError, match="did not end"):
        emulated.run(sleeper, "python", tmp_path, ())


def test_without_a_folder_of_that_processor_nothing_is_claimed(tmp_path, monkeypatch):
    monkeypatch.delenv(emulated.ROOT, raising=False)
    with pytest.raises(NotPossibleError, match="names no folder"):
        emulated.root()
    monkeypatch.setenv(emulated.ROOT, str(tmp_path))
    with pytest.raises(NotPossibleError, match="chroot"):
        emulated.root()
    with pytest.raises(NotPossibleError, match="chroot"):
        emulated.own_tests(tmp_path)
