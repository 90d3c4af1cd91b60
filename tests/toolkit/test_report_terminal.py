import io

import pytest

from deepfusion_toolkit.report import progress, table


class Screen(io.StringIO):
    def isatty(self):
        return True


def test_a_log_gets_a_line_now_and_then():
    out, now = io.StringIO(), [0.0]
    with progress("Crafting", 10, stream=out, clock=lambda: now[0]) as advance:
        for _ in range(10):
            now[0] += 2.0
            advance(1)
    assert out.getvalue().splitlines() == [
        "Crafting: 3/10, about 14 s left",
        "Crafting: 6/10, about 8 s left",
        "Crafting: 9/10, about 2 s left",
        "Crafting: 10/10 in 20.0 s",
    ]


def test_what_an_earlier_run_did_says_nothing_of_the_time_left():
    out, now = io.StringIO(), [0.0]
    with progress("Crafting", 100, done=90, stream=out, clock=lambda: now[0]) as advance:
        for _ in range(10):
            now[0] += 3.0
            advance(1)
    assert out.getvalue().splitlines()[0] == "Crafting: 92/100, about 24 s left"
    assert out.getvalue().splitlines()[-1] == "Crafting: 100/100 in 30.0 s"
    screen = Screen()
    with progress("Crafting", 4, done=3, stream=screen) as advance:
        advance(1)
    assert "4/4" in screen.getvalue()


def test_an_interrupted_job_does_not_claim_an_end():
    out = io.StringIO()
    with pytest.raises(KeyboardInterrupt), progress("Crafting", 10, stream=out):
        raise KeyboardInterrupt
    assert out.getvalue() == ""


def test_a_terminal_gets_a_bar():
    out = Screen()
    with progress("Crafting [bold]", 4, stream=out) as advance:
        advance(4)
    assert "4/4" in out.getvalue()
    assert "Crafting [bold]" in out.getvalue()


def test_progress_goes_to_stderr_and_tables_to_stdout(capsys):
    with progress("Work", 1) as advance:
        advance(1)
    table("Result", ["Images", "Right"], [["clean", 0.12345]])
    said = capsys.readouterr()
    assert said.err.startswith("Work: 1/1")
    assert "0.123" in said.out
    assert "Work" not in said.out


def test_cells_are_shown_as_they_are_and_never_cut():
    out, name = io.StringIO(), "[red]" + "x" * 200
    table("T [b]", ["a", "b"], [[name, 1], ["short", "93.3 % (56 of 60)"]], stream=out)
    assert name in out.getvalue()
    assert "T [b]" in out.getvalue()
    with pytest.raises(ValueError, match="1 cells under 2 columns"):
        table("T", ["a", "b"], [["x"]], stream=out)
