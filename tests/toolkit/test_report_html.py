import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from deepfusion_edge.errors import StorageError
from deepfusion_toolkit import report
from deepfusion_toolkit.report.pictures import data_uri

EVIL = "<script>alert('x')</script>\"><img src=x onerror=1>"
GREY = np.full((8, 8, 3), 100, dtype=np.uint8)


def every_section(text):
    said = report.Prediction(text, text, right=False, note=text)
    return [
        report.Text(text, heading=text),
        report.Figures([report.Figure(text, text, text, "bad")], heading=text),
        report.Table([text, "n"], [[text, 1]], heading=text, note=text),
        report.Warnings([text], heading=text),
        report.HeatMap(
            text,
            [text],
            [report.HeatRow(text, [report.HeatCell(0.5, [text], text)], [text])],
            heading=text,
            note=text,
        ),
        report.Bars([report.Bar(text, 0.5, 0.4, 0.6, 10, note=text)], heading=text, note=text),
        report.Strip(
            [report.PictureRow(text, [report.Picture(GREY, text, [said])])], heading=text, note=text
        ),
        report.Messages([report.Message(text, text, text)], heading=text, note=text),
        report.Settings({text: text}, heading=text),
    ]


class Reader(HTMLParser):
    def __init__(self, html):
        super().__init__()
        self.tags, self.words = [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words.append(data)


def test_hostile_text_is_shown_and_never_markup():
    html = report.page(EVIL, every_section(EVIL), subtitle=EVIL, footer=EVIL)
    read = Reader(html)
    names = {tag for tag, _ in read.tags}
    assert "script" not in names
    assert not any(key.startswith("on") for _, attrs in read.tags for key in attrs)
    images = [attrs for tag, attrs in read.tags if tag == "img"]
    assert len(images) == 1
    assert images[0]["src"].startswith("data:image/png;base64,")
    assert images[0]["alt"] == f"{EVIL}: {EVIL}"
    assert sum(EVIL in word for word in read.words) > 20


def test_the_page_needs_nothing_from_outside():
    html = report.page("A", every_section("b"))
    assert not re.search(r"https?://|//cdn|@import|url\(", html)
    assert not {tag for tag, _ in Reader(html).tags} & {"script", "link", "iframe", "object"}
    assert "default-src 'none'" in html


def test_tables_have_headers_and_numbers_to_the_right():
    rows = [["Clean", report.share(56, 60), 0.12345], ["Attacked", report.share(0, 0), 2.0]]
    tags = Reader(report.page("A", [report.Table(["Images", "Right", "Score"], rows)])).tags
    heads = [attrs for tag, attrs in tags if tag == "th"]
    assert [h["scope"] for h in heads] == ["col", "col", "col", "row", "row"]
    assert [h.get("class") for h in heads[:3]] == [None, "number", "number"]
    with pytest.raises(ValueError, match="1 cells under 2 columns"):
        report.page("A", [report.Table(["a", "b"], [["x"]])])


def test_a_column_without_a_cell_is_no_column_of_numbers():
    tags = Reader(report.page("A", [report.Table(["a", "b", "c"], [["x", "", 1], ["y", "", ""]])]))
    heads = [attrs.get("class") for tag, attrs in tags.tags if tag == "th"]
    assert heads[:3] == [None, None, "number"]


def test_a_share_keeps_its_counts():
    assert report.share(56, 60) == "93.3 % (56 of 60)"
    assert report.share(0, 0) == "- (0 of 0)"


def test_bars_are_as_long_as_their_shares():
    bars = [report.Bar("half", 0.5, 0.25, 0.75, 40), report.Bar("x" * 99, 1.0)]
    html = report.page("A", [report.Bars(bars, heading="H")])
    widths = [float(a["width"]) for tag, a in Reader(html).tags if tag == "rect"]
    assert widths[1] == 2 * widths[0]
    intervals = [a["d"] for tag, a in Reader(html).tags if tag == "path"]
    left = float(next(a["x"] for tag, a in Reader(html).tags if tag == "rect"))
    assert len(intervals) == 1
    assert intervals[0].startswith(f"M{left + widths[1] / 4} ")
    assert "n = 40" in html
    label = next(a["aria-label"] for tag, a in Reader(html).tags if tag == "svg")
    assert label.startswith("H: half 50.0 %;")


@pytest.mark.parametrize("wrong", [{"value": 1.2}, {"low": -0.1}, {"high": float("nan")}])
def test_a_share_out_of_range_is_refused(wrong):
    bar = report.Bar(**{"label": "b", "value": 0.5, "low": 0.1, "high": 0.9, **wrong})
    with pytest.raises(ValueError, match=r"must be in \[0, 1\]"):
        report.page("A", [report.Bars([bar])])


def heat(*values):
    cells = [report.HeatCell(v, ["of 4"], "white-box" if v == 1 else "") for v in values]
    columns = [f"t{n}" for n in range(len(values))]
    return report.HeatMap("set", columns, [report.HeatRow("s", cells, ["eps 8"])])


def test_a_heat_map_is_as_dark_as_its_shares():
    html = report.page("A", [heat(0.25, None, 1.0)])
    cells = [attrs for tag, attrs in Reader(html).tags if tag == "td"]
    assert [c["style"] for c in cells] == ["--heat: 0.250", "--heat: 0.000", "--heat: 1.000"]
    assert [c["class"] for c in cells] == ["heat", "heat empty", "heat marked"]
    words = [w.strip() for w in Reader(html).words if w.strip()]
    assert [w for w in words if w in {"25.0 %", "-", "100.0 %"}] == ["25.0 %", "-", "100.0 %"]
    assert words.count("white-box") == 1
    heads = [attrs["scope"] for tag, attrs in Reader(html).tags if tag == "th"]
    assert heads == ["col", "col", "col", "col", "row"]


@pytest.mark.parametrize("wrong", [1.01, -0.1, float("nan")])
def test_a_heat_map_refuses_what_is_no_share(wrong):
    with pytest.raises(ValueError, match=r"s must be in \[0, 1\]"):
        report.page("A", [heat(0.5, wrong)])


def test_a_heat_map_refuses_ragged_rows():
    ragged = report.HeatMap("set", ["a", "b"], heat(0.5).rows)
    with pytest.raises(ValueError, match="1 cells under 2 columns"):
        report.page("A", [ragged])


def luminance(colour):
    """Relative luminance of 8-bit sRGB, WCAG 2.2."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one, two):
    darker, lighter = sorted(luminance([c / 255 for c in colour]) for colour in (one, two))
    return (lighter + 0.05) / (darker + 0.05)


def test_figures_in_the_heat_map_can_be_read():
    """Ink on every shade has the contrast 4.5, in light, in dark and on paper."""
    html = report.page("A", [])
    schemes = [dict(re.findall(r"--([a-z-]+): ([^;]+);", s)) for s in html.split(":root {")[1:]]
    assert len(schemes) == 3
    for scheme in schemes:
        ink, card = (rgb(scheme[name]) for name in ("ink", "card"))
        hot = [int(c) for c in scheme["hot"].split()]
        for step in range(11):
            shade = [h * step / 10 + c * (1 - step / 10) for h, c in zip(hot, card, strict=True)]
            assert contrast(ink, shade) >= 4.5, (scheme["hot"], step)


def rgb(colour):
    """``#1b2126`` or ``#fff`` to three numbers."""
    digits = colour.removeprefix("#")
    whole = digits if len(digits) == 6 else "".join(2 * d for d in digits)
    return [int(whole[at : at + 2], 16) for at in (0, 2, 4)]


def test_contrast_known_values():
    assert contrast((0, 0, 0), (255, 255, 255)) == pytest.approx(21)
    assert contrast((119, 119, 119), (255, 255, 255)) == pytest.approx(4.48, abs=0.01)


def test_right_and_wrong_are_said_in_words_too():
    said = [report.Prediction("m", "ok", right=True), report.Prediction("m", "dent", right=False)]
    row = report.PictureRow("r", [report.Picture(GREY, "c", said)])
    tags = Reader(report.page("A", [report.Strip([row])])).tags
    assert [a["class"] for tag, a in tags if tag == "li"] == ["right", "wrong"]
    marks = [a["aria-label"] for _, a in tags if a.get("class") == "mark"]
    assert marks == ["right", "wrong"]


def test_paragraphs_split_at_empty_lines():
    assert report.page("A", [report.Text("one\n\ntwo\nthree")]).count("<p>") == 2


def test_perturbation_known_values():
    clean = np.array([[[0, 100, 250]]], dtype=np.uint8)
    attacked = np.array([[[16, 98, 250]]], dtype=np.uint8)
    assert report.perturbation(clean, attacked, 4).tolist() == [[[192, 120, 128]]]
    assert report.perturbation(clean, attacked, 100).tolist() == [[[255, 0, 128]]]
    assert report.perturbation(clean, clean, 8).tolist() == [[[128, 128, 128]]]
    with pytest.raises(ValueError, match="no difference"):
        report.perturbation(clean, GREY, 1)
    with pytest.raises(ValueError, match="above 0"):
        report.perturbation(clean, attacked, 0)


@pytest.mark.parametrize(
    ("size", "shown"), [((64, 64), (192, 192)), ((224, 200), (224, 200)), ((900, 450), (448, 224))]
)
def test_pictures_are_enlarged_unsmoothed_or_reduced(size, shown):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (size[1], size[0], 3)).astype(np.uint8)
    with Image.open(io.BytesIO(base64.b64decode(data_uri(pixels).split(",")[1]))) as image:
        assert image.size == shown
        if size == (64, 64):
            assert np.array_equal(np.asarray(image)[1::3, 1::3], pixels)


def test_writing_replaces_the_whole_file_or_nothing(tmp_path):
    target = tmp_path / "sub" / "report.html"
    report.write_html(target, "old")
    report.write_html(target, "näw")
    assert target.read_text(encoding="utf-8") == "näw"
    with pytest.raises(UnicodeEncodeError):
        report.write_html(target, "\ud800")
    assert target.read_text(encoding="utf-8") == "näw"
    assert [p.name for p in target.parent.iterdir()] == ["report.html"]
    with pytest.raises(StorageError, match="cannot be written"):
        report.write_html(target / "below.html", "x")


def test_settings_are_spelled_for_people():
    made = report.page("p", [report.Settings({"nets": ["one", "two"], "points": 34.49838})])
    assert "<dd>one, two</dd>" in made
    assert "<dd>34.5</dd>" in made
