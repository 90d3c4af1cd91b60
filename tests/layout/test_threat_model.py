"""The threat model names tests that are there, and every attacker and asset it speaks of."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "threat-model.md").read_text()
CONTROLS = TEXT.partition("## What each control stops")[2].partition("\n## ")[0]


def named(text: str) -> list[tuple[str, str]]:
    return re.findall(r"`([\w/]+\.py)::(test_\w+)`", text)


def missing(text: str) -> list[str]:
    found = []
    for file, name in named(text):
        path = ROOT / "tests" / file
        if not path.is_file() or f"def {name}(" not in path.read_text():
            found.append(f"{file}::{name}")
    return found


def test_every_test_that_is_named_is_there():
    assert len(named(TEXT)) > 30
    assert missing(TEXT) == []


def test_a_test_that_is_not_there_is_noticed():
    gone = "`edge/test_outbox.py::test_gone` and `edge/test_none.py::test_time_to_live`"
    assert missing(gone) == [
        "edge/test_outbox.py::test_gone",
        "edge/test_none.py::test_time_to_live",
    ]


def test_every_control_has_a_test():
    rows = [line for line in CONTROLS.splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 20
    assert [row for row in rows if not named(row)] == []


def test_attackers_and_assets_are_those_of_the_tables():
    for letter in "AT":
        defined = set(re.findall(rf"^\| ({letter}\d) \|", TEXT, flags=re.MULTILINE))
        assert set(re.findall(rf"\b{letter}\d\b", TEXT)) == defined
        assert len(defined) >= 5


def test_the_security_page_leads_there():
    assert "docs/threat-model.md" in (ROOT / "SECURITY.md").read_text()
