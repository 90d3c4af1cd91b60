"""The command of the proof: parts, exit code, JSON and page."""

import json

import pytest

from benchmarks.cli import main
from benchmarks.prove import measure
from benchmarks.prove.command import PARTS
from benchmarks.prove.result import Part, Row

HELD = Row("a claim", "held", "17 of 17", "a guard", ("one <b>line</b>", "another"))
FAILED = Row("another claim", "failed", "16 of 17")
ABSENT = Row("a third claim", "not possible", "no broker is installed")


@pytest.fixture
def prove(tmp_path, monkeypatch):
    """``prove(part=[rows], options=[...])`` -> exit code, JSON and page."""

    def run(options=(), **parts):
        made = {
            name: lambda _options, _work, rows=rows: Part(tuple(rows), {"hostile_cases": 3})
            for name, rows in parts.items()
        }
        monkeypatch.setattr(measure, "MEASURES", made)
        code = main(["prove", "--json", str(tmp_path / "prove.json"), *options])
        found = json.loads((tmp_path / "prove.json").read_bytes())
        page = tmp_path / "prove.html"
        return code, found, page.read_text() if page.exists() else ""

    return run


def test_the_parser_knows_every_part():
    assert tuple(measure.MEASURES) == PARTS


def test_rows_become_a_table_a_file_and_a_page(prove, capfd):
    code, found, page = prove(one=[HELD, ABSENT], two=[HELD])
    assert code == 0
    assert found["summary"]["hostile_cases"] == 6
    assert found["summary"]["guards_surviving"] is None
    assert found["summary"]["not_possible_here"] == ["a third claim: no broker is installed"]
    assert found["parts"]["one"]["rows"][0]["lines"] == list(HELD.lines)
    assert "one &lt;b&gt;line&lt;/b&gt;" in page
    assert "no broker is installed" in page
    said = capfd.readouterr().out
    assert "17 of 17" in said
    assert "another" not in said  # lines are for the page


def test_a_claim_that_does_not_hold_fails_the_command(prove):
    code, _, page = prove(one=[HELD, FAILED])
    assert code == 1
    assert "1 of 2" in page


def test_what_was_proved_is_kept_until_it_is_asked_for_again(prove):
    prove(one=[FAILED], two=[HELD])
    assert prove(one=[HELD], two=[HELD])[0] == 1
    assert prove(one=[HELD], two=[HELD], options=["--again"])[0] == 0


def test_the_page_goes_where_it_is_asked_to(prove, tmp_path):
    prove(one=[HELD], options=["--html", str(tmp_path / "other.html")])
    assert (tmp_path / "other.html").exists()
