"""Wheels that can be made again, and advisories that are read or said to be missing."""

import json

import pytest

from benchmarks.prove.supply import audit, wheels
from deepfusion_edge.errors import InputError, UnreachableError


@pytest.mark.parametrize("name", wheels.WHEELS)
def test_two_builds_of_a_wheel_have_the_same_bytes(name, tmp_path):
    first, second = wheels.twice(wheels.WHEELS[name], tmp_path)
    assert first == second


def test_without_fixed_times_they_have_not(tmp_path):
    first, second = wheels.twice("edge_agent", tmp_path, reproducible=False)
    assert first != second


def package(name, *advisories):
    found = [{"id": one, "fix_versions": ["2", "3"]} for one in advisories]
    return {"name": name, "version": "1", "vulns": found}


def answer(*packages):
    return json.dumps({"dependencies": packages, "fixes": []})


def test_advisories_are_read():
    assert audit.read(answer(package("a"), package("b", "CVE-1"))) == [
        audit.Advisory("b", "1", "CVE-1", "2 3")
    ]
    assert audit.read(answer(package("a"))) == []


def test_what_is_known_is_said_although_others_were_not_judged():
    left_out = {"name": "a", "skip_reason": "not found"}
    assert [one.name for one in audit.read(answer(left_out, package("b", "CVE-1")))] == ["CVE-1"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "Name or service not known"),
        ("{}", "Name or service not known"),
        (answer({"name": "a", "skip_reason": "not found"}), "1 of 1 .*a: not found"),
        (answer({"name": "a", "skip_reason": "not found"}, package("b")), "1 of 2"),
    ],
)
def test_what_was_not_judged_is_said(text, why):
    with pytest.raises(UnreachableError, match=why):
        audit.read(text, "line\nName or service not known\n")


def test_every_pin_is_asked_for_without_its_local_part(tmp_path):
    program, seen = tmp_path / "pip-audit", tmp_path / "seen"
    program.write_text(f'#!/bin/sh\ncp "${{8}}" {seen}\necho "$@" > {seen}.words\n')
    program.chmod(0o755)
    pins = tmp_path / "pins.txt"
    pins.write_text("# why\ntorch==2.13.0+cpu\nnumpy==2.0\n")
    with pytest.raises(UnreachableError):
        audit.audit(pins, str(program))
    assert seen.read_text() == "# why\ntorch==2.13.0\nnumpy==2.0\n"


def test_without_the_program_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(audit.shutil, "which", lambda *_, **__: None)
    with pytest.raises(InputError, match="make audit"):
        audit.audit()
