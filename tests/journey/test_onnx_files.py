"""The table of ONNX files: a network goes there and back, and what a user is refused is a row."""

import msgspec
import pytest
import torch

from benchmarks.cli import main
from benchmarks.coverage import round_trip
from benchmarks.coverage import round_trip_page as page
from benchmarks.coverage.catalogue import Architecture, architectures
from benchmarks.coverage.round_trip import EXPORTERS, NETWORKS, File, Row, files, rows_of
from deepfusion_export.parity import TOLERANCES
from tests.toolkit import tiny_nets

TINY = Architecture("None", "tiny", "net", tiny_nets.SIZE[0], {}, saved=False)


@pytest.fixture
def tiny(monkeypatch):
    """A network of this size is what every architecture is."""
    build = {"tiny": lambda _: tiny_nets.FAMILIES["residual"]()}
    monkeypatch.setattr("benchmarks.coverage.catalogue._LIBRARIES", build)


def test_every_network_of_the_table_is_written_in_every_way():
    names = [file.name for file in files()]
    assert len(set(names)) == len(names) == len(NETWORKS) * len(EXPORTERS)
    assert {file.architecture.name for file in files()} <= {a.name for a in architectures()}


@pytest.mark.usefixtures("tiny")
def test_a_network_goes_there_and_back():
    rows = list(rows_of(TINY, list(EXPORTERS)))
    assert [row.exporter for row in rows] == list(EXPORTERS)
    for row in rows:
        assert row.failure == ""
        assert row.same
        assert row.sites[1] > 0
        assert row.parity <= TOLERANCES["members"].absolute


@pytest.mark.usefixtures("tiny")
def test_what_the_command_refuses_is_said_in_its_words(monkeypatch):
    monkeypatch.setitem(
        TOLERANCES, "members", TOLERANCES["members"]._replace(absolute=0.0, relative=0.0)
    )
    (row,) = rows_of(TINY, [next(iter(EXPORTERS))])
    assert row.parity is None
    assert row.failure.startswith("exit code 6, error: ")


@pytest.mark.usefixtures("tiny")
def test_a_file_that_is_not_taken_in_and_an_exporter_that_breaks_are_rows(monkeypatch):
    def merges(core, size, path):
        class Flat(torch.nn.Module):
            def forward(self, x):
                return core(x.reshape(1, 3, *size).expand(2, -1, -1, -1)).reshape(-1, 1)

        round_trip._export(Flat(), torch.zeros(1, 3, *size), path, dynamo=False)

    def breaks(*_):
        raise RuntimeError("no kernel\nand more")

    monkeypatch.setitem(EXPORTERS, "merges", merges)
    monkeypatch.setitem(EXPORTERS, "breaks", breaks)
    merged, broken = rows_of(TINY, ["merges", "breaks"])
    assert merged.found is broken.found is None
    assert merged.failure.startswith("net.onnx")
    assert broken.failure == "RuntimeError: no kernel"


def test_a_network_that_is_not_there_is_a_row_for_each_of_its_files():
    rows = list(rows_of(TINY._replace(library="none"), list(EXPORTERS)))
    assert [(row.sites, row.failure) for row in rows] == [(None, "KeyError: 'none'")] * len(rows)
    assert len(rows) == len(EXPORTERS)


ROWS = [
    Row("a", "old", (1, 2, 3), (1, 2, 0), 1e-6),
    Row("a", "new", (1, 2, 3), (1, 1, 0), 2e-6),
    Row("b", "old", (1, 2, 3), failure="node 'x' does not compute; export it again"),
]


def test_the_page_says_what_became_a_bundle_what_differs_and_what_is_refused():
    text = page.as_markdown(ROWS, ["c, old"])
    assert "**2 of 3 files of 2 networks became a bundle; 1 of them with other skips" in text
    assert "| `timm:a` | old | 1 + 2 + 3 | 1 + 2 + 0 | 1.0e-06 |" in text
    assert "| `timm:b` | old | 1 + 2 + 3 | - | - |" in text
    assert "- b, old: node 'x' does not compute; export it again" in text
    assert text.endswith("not measured\n\nc, old\n")
    text = page.as_markdown(ROWS[:1])
    assert "**1 of 1 files of 1 networks became a bundle.**" in text
    assert "refused, in" not in text


def test_rows_that_are_not_measured_again_are_kept(tmp_path, monkeypatch, capsys):
    known = [File(TINY._replace(name=row.network), row.exporter) for row in ROWS]
    monkeypatch.setattr(round_trip, "files", lambda: iter(known))
    again = msgspec.structs.replace(ROWS[2], failure="", found=(1, 2, 0), parity=0.0)
    monkeypatch.setattr(round_trip, "rows_of", lambda *_: iter([again]))
    file, table = tmp_path / "files.json", tmp_path / "files.md"
    file.write_bytes(page.as_json(ROWS))
    words = ["onnx-files", "--json", str(file), "--markdown", str(table)]
    assert main([*words, "--only", "b, old"]) == 0
    assert list(page.read(file).values()) == [*ROWS[:2], again]
    assert "**3 of 3 files" in table.read_text()
    assert main([*words, "--only", "none"]) == 2
    file.write_text("{")
    assert main([*words, "--only", "b, old"]) == 3
    assert "holds no ONNX files" in capsys.readouterr().err
