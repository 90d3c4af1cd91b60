"""The page and the tables of a study: every figure is there, marked, and nothing from outside."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from deepfusion_toolkit import sets as attacked
from deepfusion_toolkit.data import folder
from deepfusion_toolkit.plan import fingerprint
from deepfusion_toolkit.report import ablation
from deepfusion_toolkit.report.evaluation import page_of
from deepfusion_toolkit.report.evaluation_table import print_study
from deepfusion_toolkit.study import study
from tests.toolkit import attack_nets as nets


class Words(HTMLParser):
    def __init__(self, html):
        super().__init__()
        self.kinds, self.headings, self.words, self.images = [], [], [], 0
        self._heading = False
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self._heading = tag == "h2"
        self.images += tag == "img"
        if tag == "section":
            self.kinds.append(dict(attrs)["class"])

    def handle_data(self, data):
        word = " ".join(data.split())
        if word:
            self.words.append(word)
            if self._heading:
                self.headings.append(word)


@pytest.fixture
def made(tmp_path):
    """A clean folder, a set with a manifest made on the first of two targets, and one without."""
    clean = nets.squares(tmp_path / "clean", each=2)
    seen, unseen = (nets.classifier(make) for make in (nets.learner, nets.public))
    rng = np.random.default_rng(0)
    for name, eps in (("mine", 4), ("<b>theirs", 30)):
        loaded = folder.load(clean)
        for item in loaded.items:
            pixels = loaded.read(item).astype(int)
            change = rng.choice([-eps, eps], pixels.shape)
            nets.picture(tmp_path / name / item.file, np.clip(pixels + change, 0, 255))
    head = (
        '{"head": {"attack": "example", "eps": 4, "passes_per_image": 17, "taps": [],'
        ' "given": {"step_size": 2},'
        f' "surrogates": ["learner"], "fingerprints": ["{fingerprint(seen.core)}"]}}}}'
    )
    (tmp_path / "mine" / "manifest.json").write_text(head)
    sets = attacked.load([tmp_path / "mine", tmp_path / "<b>theirs"])
    return sets, folder.load(clean), [seen, unseen]


def test_the_page_shows_every_part(made, tmp_path):
    file = tmp_path / "a.json"
    file.write_text(
        '{"title": "Parts", "columns": ["part", "mean"], "rows": [["all", 0.5], ["none", null]],'
        ' "notes": ["first", "second"]}'
    )
    sets, clean, targets = made
    found = study(sets, clean, targets)
    html = page_of(found, sets, clean, ablation.read(file))
    page = Words(html)
    expected = ["text", "heatmap", "bars", "table", "table", "table", "strip", "strip"]
    expected += ["settings", "settings"]
    assert page.kinds == (["warnings"] if found.warnings else []) + expected
    assert {"Attack success", "Black-box mean of each set", "Parts"} <= set(page.headings)
    assert "How mine was made" in page.headings
    assert "Images of <b>theirs" in page.headings
    assert page.images == 2 * 6 * 3
    assert page.words.count("white-box") == 1 + 6  # its cell, and each image of that set
    assert "surrogates unknown" in page.words
    assert "eps 4/255, 17 passes per image" in page.words
    assert "eps: -, passes per image: -" in page.words
    assert page.words[page.words.index("given step size") + 1] == "2"
    assert {"first", "second", fingerprint(targets[0].core)} <= set(page.words)
    assert f"SSIM {found.sets[0].ssim:.3f}, 6 images" in page.words
    for row in found.sets:
        for result in row.targets:
            assert f"{result.success.hits} of {result.success.total}" in page.words
            assert f"all: {100 * result.success_all.value:.1f} %" in page.words
    assert not re.search(r"https?://|//cdn|@import|url\(|<script|<b>theirs", html)


def test_pictures_are_shared_out_over_many_sets(made):
    sets, clean, targets = made
    many = [*sets, *sets, *sets]
    found = study(many, clean, targets)
    assert Words(page_of(found, many, clean)).images == 6 * 2 * 3


def test_without_originals_success_is_of_all_images(made, capsys):
    sets, _, targets = made
    found = study(sets, None, targets)
    page = Words(page_of(found, sets, None))
    assert "strip" not in page.kinds
    assert page.images == 0
    assert f"SSIM -, {found.sets[0].images} images" in page.words
    print_study(found)
    assert "attack success of all images" in capsys.readouterr().out


def test_a_mean_that_cannot_be_says_why(made, capsys):
    sets, clean, (seen, unseen) = made
    print_study(study(sets[:1], clean, [seen]))
    assert "no black-box target" in capsys.readouterr().out
    labels = unseen(folder.stack(clean, clean.items)).argmax(1).tolist()
    wrong = [replace(i, label=(y + 1) % 3) for i, y in zip(clean.items, labels, strict=True)]
    turned = replace(clean, items=tuple(wrong))
    one = replace(sets[0], dataset=replace(turned, root=sets[0].dataset.root))
    print_study(study([one], turned, [seen, unseen]))
    assert "never right when clean" in capsys.readouterr().out


def test_the_terminal_shows_the_matrix(made, capsys):
    sets, clean, targets = made
    found = study(sets, clean, targets)
    print_study(found)
    out = capsys.readouterr().out
    head = next(line for line in out.splitlines() if "black-box mean" in line)
    assert head.split() == ["set", "learner", "public", "black-box", "mean"]
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert any(line.startswith("mine 6 example learner 4.000 ") for line in lines)
    assert any(line.startswith("17 passes per image") for line in lines)
    assert out.count("white-box") == 1
    own = next(row for row in found.sets if row.name == "mine")
    for result in own.targets:
        assert f"{result.success.hits} of {result.success.total}" in out
    assert f"SSIM {own.ssim:.3f}" in out
