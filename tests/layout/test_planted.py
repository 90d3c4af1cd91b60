"""A test that writes a planted secret fails, wherever it writes it."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.planted import PLANTED, leaks

ROOT = Path(__file__).parents[2]
TESTS = """
import logging, os, sys

import pytest

SECRET = "the-s3cret-of-a-camera"

@pytest.fixture
def untidy():
    yield
    print(SECRET)

def test_silent(): assert SECRET
def test_print(): print(SECRET)
def test_error(): sys.stderr.write(SECRET)
def test_child(): os.system("echo " + SECRET)
def test_log(): logging.getLogger("x").warning("connecting with %s", SECRET)
def test_teardown(untidy): pass
"""


def test_every_way_of_writing_a_secret_is_noticed(tmp_path):
    (tmp_path / "conftest.py").write_text("from tests.planted import pytest_runtest_makereport\n")
    (tmp_path / "test_writing.py").write_text(TESTS)
    command = [sys.executable, "-m", "pytest", "-q", "-rfE", "-p", "no:cacheprovider", tmp_path]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    told = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    names = {line.split("::")[1].split()[0] for line in told}
    assert names == {"test_print", "test_error", "test_child", "test_log", "test_teardown"}, told
    assert "a secret was written" in done.stdout


@pytest.mark.parametrize("mark", PLANTED)
def test_each_mark_is_looked_for(mark):
    assert leaks([("log", "fine"), ("stdout", f"x{mark}x")]) == [f"{mark!r} in stdout"]
    assert leaks([("log", "a secret, but no planted one")]) == []
