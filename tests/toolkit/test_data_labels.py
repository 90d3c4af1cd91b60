import csv
import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepfusion_edge.errors import InputError
from deepfusion_toolkit.data.labels import MAX_LABEL, Row, parse_labels

NAMES = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Zl", "Zp", "Zs"]), min_size=1
).filter(lambda name: name.strip() == name and set(name) - set("./"))
FILES = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
CLASSES = st.integers(0, MAX_LABEL)


def written(header, rows):
    out = io.StringIO(newline="")
    writer = csv.writer(out)
    writer.writerow(header)
    writer.writerows(rows)
    return out.getvalue()


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_what_csv_writes_is_read_back(data):
    header = data.draw(st.permutations(["file", "label", "target", "author"]))
    names = data.draw(st.lists(NAMES, min_size=1, max_size=5, unique=True))
    names = [name for name in names if "/" not in name] or ["a.png"]
    rows = [
        Row(f"images/{name}", data.draw(CLASSES), data.draw(st.none() | CLASSES)) for name in names
    ]
    lines = [
        [{**row._asdict(), "author": 'O"Neill, "Ann"'}[column] for column in header] for row in rows
    ]
    text = written(header, lines)
    assert parse_labels(text) == tuple(rows)
    assert parse_labels("\ufeff" + text) == tuple(rows)


@settings(deadline=None, max_examples=200)
@given(st.text(max_size=80) | FILES.map(lambda f: f"file,label\n{f},1\n"))
def test_any_text_gives_rows_or_one_input_error(text):
    try:
        rows = parse_labels(text)
    except InputError as refused:
        said = refused.what
    else:
        said = "labels.csv"
        assert len({row.file for row in rows}) == len(rows)
        for row in rows:
            assert not row.file.startswith("/")
            assert ".." not in row.file.split("/")
    assert "labels.csv" in said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no column 'file'"),
        ("label,target\n1,2\n", "no column 'file'"),
        ("file,target\na.png,2\n", "no column 'label'"),
        ("file,label,label\na.png,1,2\n", "names the column 'label' twice"),
        ("file,label\n", "lists no image"),
        ("file,label\na.png,cat\n", "line 2: label 'cat' is not an integer"),
        ("file,label\na.png,1.0\n", "line 2: label '1.0'"),
        ("file,label\na.png,-1\n", "line 2: label '-1'"),
        ("file,label\na.png,\n", "line 2: label ''"),
        ("file,label\na.png,\u0661\n", "line 2: label '\u0661'"),
        ("file,label\na.png,1000000\n", "line 2: label '1000000'"),
        ("file,label,target\na.png,1,x\n", "line 2: target 'x'"),
        ("file,label\na.png,1\nb.png\n", "line 3 has 1 fields, the header has 2"),
        ("file,label\na.png,1\n./a.png,2\n", "line 3: 'a.png' is listed already in line 2"),
        ("file,label\n../a.png,1\n", "not a path inside the folder"),
        ("file,label\nx/../../a.png,1\n", "not a path inside the folder"),
        ("file,label\n/etc/passwd,1\n", "not a path inside the folder"),
        ("file,label\n.,1\n", "not a path inside the folder"),
        ("file,label\n,1\n", "not a path inside the folder"),
        ('file,label\n"a.png,1\n', "not readable as CSV"),
    ],
)
def test_each_broken_rule_is_named(text, said):
    with pytest.raises(InputError) as caught:
        parse_labels(text)
    assert said in caught.value.what
    assert "\n" not in str(caught.value)


def test_an_empty_target_is_none_and_blank_lines_are_skipped():
    rows = parse_labels("label,file,target\n7, a.png ,\n\n8,b/c.jpg,9\n")
    assert rows == (Row("a.png", 7, None), Row("b/c.jpg", 8, 9))
