"""The coverage table: six families hold the laws and run, and a lost factor is seen."""

from importlib.util import find_spec

import msgspec
import pytest
import torch
from torch import nn

from benchmarks.cli import main
from benchmarks.coverage import command, laws, measure, page
from benchmarks.coverage.catalogue import Architecture, architectures
from benchmarks.coverage.laws import all_sites, examine, silent_sites
from benchmarks.coverage.lively import enliven, images
from benchmarks.coverage.measure import Row, lively_classifier, row_of, spread
from deepfusion_edge.erosion import Site
from deepfusion_export.parity import TOLERANCES
from deepfusion_toolkit.models import Classifier
from deepfusion_toolkit.surgery import erode, insert
from tests.toolkit import tiny_nets

LAWS = {  # small and quick to trace
    "timm:mixer_s32_224": (16, 16, 17),
    "timm:convnext_atto": (12, 12, 17),
    "timm:mobilevit_xxs": (21, 34, 53),
}
ROWS_OF = {  # quick to export, too
    "timm:resnet18 (.pt2)": (8, 17, 20),
    "torchvision:squeezenet1_1": (0, 26, 0),
    "timm:deit_tiny_patch16_224 (.pt2)": (24, 12, 25),
}
LONG = {"timm:convnext_atto", "timm:mobilevit_xxs", "timm:deit_tiny_patch16_224 (.pt2)"}
needs_timm = pytest.mark.skipif(find_spec("timm") is None, reason="extra timm is not installed")


def few_first(specs):
    return [pytest.param(s, marks=[pytest.mark.long] if s in LONG else []) for s in specs]


def architecture(spec: str) -> Architecture:
    return next(a for a in architectures() if a.spec == spec)


def test_the_table_has_forty_networks_of_fifteen_families():
    known = list(architectures())
    assert len({a.spec for a in known}) == len(known) >= 40
    assert len({a.family for a in known}) >= 15


@needs_timm
@pytest.mark.slow
@pytest.mark.parametrize("spec", few_first(LAWS))
def test_networks_of_other_libraries_hold_the_laws(spec):
    found = examine(*lively_classifier(architecture(spec)))
    assert found.sites == LAWS[spec]
    assert found.hold


@needs_timm
@pytest.mark.slow
@pytest.mark.parametrize("spec", few_first(ROWS_OF))
def test_networks_of_other_libraries_are_exported_and_run(spec):
    row = row_of(architecture(spec))
    assert row.failure == ""
    assert row.sites == ROWS_OF[spec]
    assert row.onnx <= TOLERANCES["members"].absolute
    assert row.tensorrt == ()
    assert row.passed


def tiny(family: str = "residual") -> tuple[Classifier, torch.Tensor]:
    torch.manual_seed(0)
    core = tiny_nets.FAMILIES[family]().eval()
    seen = images(8, tiny_nets.SIZE)
    enliven(core, seen)
    return Classifier(core, name=family, size=tiny_nets.SIZE), seen


@pytest.mark.parametrize(("family", "waiting"), [("residual", 1), ("transformer", 0)])
def test_lively_weights_let_every_factor_be_felt(family, waiting):
    found = examine(*tiny(family))
    assert found.hold
    assert found.waiting == waiting


class Hidden(nn.Module):
    """What random weights hide: a scale of 1e-6 and a norm that starts at zero."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.norm, self.head = nn.BatchNorm2d(6), nn.Linear(6, 4)
        self.gamma = nn.Parameter(torch.full((6, 1, 1), 1e-6))
        nn.init.zeros_(self.norm.weight)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        y = torch.relu(self.conv(x))
        return self.head((x + self.gamma * self.norm(y)).mean((2, 3)))


def test_what_fresh_weights_hide_is_seen_with_lively_ones():
    fresh, lively = Hidden().eval(), Hidden().eval()
    seen = images(8, (8, 8))
    enliven(lively, seen)
    silent = {}
    for name, net in (("fresh", fresh), ("lively", lively)):
        model = Classifier(net, name=name, size=(8, 8))
        sites = all_sites(model)
        silent[name] = silent_sites(erode(model, sites), sites, seen)
    assert any(name.startswith("activation:") for name in silent["fresh"])
    assert silent["lively"] == []
    assert float(lively.gamma.min()) > 0.4


def test_a_lost_factor_is_silent_and_fails(monkeypatch):
    model, seen = tiny()
    site = all_sites(model)[-1]
    whole = insert._multiply

    def forgetful(traced, found, place, column):
        return place if found.name == site.name else whole(traced, found, place, column)

    monkeypatch.setattr(insert, "_multiply", forgetful)
    found = examine(model, seen)
    assert found.silent == (site.name,)
    assert not found.hold


def test_members_that_differ_and_numbers_that_are_none_break_the_laws():
    good = laws.Laws((1, 1, 1), 1e-6, 1e-6, (), 0)
    assert good.hold
    for broken in (
        good._replace(unchanged=2 * laws.TOLERANCE),
        good._replace(together=2 * laws.TOLERANCE),
        good._replace(unchanged=float("nan")),
        good._replace(silent=("skip:add",)),
    ):
        assert not broken.hold


def test_sites_are_spread_from_the_first_to_the_last():
    sites = [Site(f"skip:{i}", "skip", 3, 0.2) for i in range(9)]
    sites += [Site("norm:only", "norm", 3, 0.2)]
    assert [s.name for s in spread(sites)] == ["skip:0", "skip:3", "skip:5", "skip:8", "norm:only"]


NOT_THERE = Architecture("None", "timm", "no_such_net", 32, {}, saved=False)


@needs_timm
def test_what_fails_is_a_row_that_says_why(monkeypatch):
    row = row_of(NOT_THERE)
    assert "no_such_net" in row.failure
    assert not row.passed
    monkeypatch.setattr(measure, "lively_classifier", lambda _: tiny())
    monkeypatch.setitem(TOLERANCES, "members", TOLERANCES["members"]._replace(absolute=0.0))
    row = row_of(NOT_THERE)
    assert "ONNX Runtime and torch differ by" in row.failure
    assert row.sites is not None


ROWS = {
    "timm:a": Row("A", "timm:a", 64, 1.25, (1, 2, 3), 1e-6, 2e-6, (), 3e-6, (), waiting=2),
    "timm:b": Row("B", "timm:b", 32, 0.5, failure="the network cannot be traced"),
    "timm:c": Row(
        *("B", "timm:c", 32, 0.5, (0, 1, 0), 0.0, 0.0, (), 0.0, ("TensorRT 11 refuses: x; y",)),
        waiting=0,
    ),
}


def test_the_page_says_what_passes_what_fails_and_what_is_objected_to():
    text = page.as_markdown(list(ROWS.values()))
    assert "**2 of 3 networks of 2 families pass.**" in text
    assert (
        "| A | `timm:a` | 64 | 1.2 | 1 + 2 + 3 | 2 | 1.0e-06 | 2.0e-06 | 3.0e-06 | no objection |"
        in text
    )
    assert "| B | `timm:b` | 32 | 0.5 | - | - | - | - | - | not checked |" in text
    assert "1 of 2 networks have such a site, 2 at most." in text
    assert "| 1 refused |" in text
    assert "- `timm:b`: the network cannot be traced" in text
    assert "- TensorRT 11 refuses: x; y" in text
    assert "not measured" not in text
    assert "not measured\n\n`timm:d`, `timm:e`\n" in page.as_markdown([], ["timm:d", "timm:e"])


def test_rows_that_are_not_measured_again_are_kept(tmp_path, monkeypatch, capsys):
    known = [Architecture("A", "timm", name, 64, {}, saved=False) for name in "abc"]
    monkeypatch.setattr("benchmarks.coverage.catalogue.architectures", lambda: iter(known))
    again = msgspec.structs.replace(ROWS["timm:b"], failure="", onnx=0.0)
    monkeypatch.setattr("benchmarks.coverage.measure.row_of", lambda _: again)
    file, table = tmp_path / "c.json", tmp_path / "c.md"
    file.write_bytes(page.as_json(list(ROWS.values())))
    words = ["coverage", "--json", str(file), "--markdown", str(table)]
    assert main([*words, "--only", "timm:b"]) == 0
    assert page.read(file) == ROWS | {"timm:b": again}
    assert "3 of 3 networks" in table.read_text()
    monkeypatch.setattr("benchmarks.coverage.measure.row_of", lambda a: ROWS[a.spec])
    assert main(words) == 0
    assert page.read(file) == ROWS
    assert main([*words, "--only", "none"]) == 2
    file.write_text("{")
    assert main([*words, "--only", "timm:b"]) == 3
    assert "holds no coverage" in capsys.readouterr().err


def test_a_saved_network_is_the_one_that_was_saved():
    assert command.__doc__
    wanted = Architecture("None", "tiny", "net", 32, {}, saved=True)
    build = {"tiny": lambda _: tiny_nets.FAMILIES["residual"]()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("benchmarks.coverage.catalogue._LIBRARIES", build)
        loaded, seen = lively_classifier(wanted)
        plain, _ = lively_classifier(wanted._replace(saved=False))
    assert isinstance(loaded.core, torch.fx.GraphModule)
    torch.testing.assert_close(loaded(seen), plain(seen), rtol=1e-4, atol=1e-5)
