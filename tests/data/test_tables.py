"""Tables in any usual encoding and separator, or one line that names file and row."""

from pathlib import Path

import pytest

from fabrica.data.tables import read_table, value_of
from fabrica.io import UnreadableError

ROWS = "file,patient,contrast,days\na.nii,m\u00fcller,T1w,3\nb.nii,p2,T2w,\n"


def _written(path: Path, text: str, encoding: str) -> Path:
    path.write_bytes(text.encode(encoding))
    return path


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "cp1252"])
def test_any_usual_table_is_read(tmp_path: Path, encoding: str, separator: str) -> None:
    table = read_table(_written(tmp_path / "t.csv", ROWS.replace(",", separator), encoding), ("file", "patient"))
    assert table.columns == ("file", "patient", "contrast", "days")
    assert [line.get("patient") for line in table.lines] == ["m\u00fcller", "p2"]
    assert bool(table.remark) == (encoding == "cp1252")
    assert [line.number for line in table.lines] == [2, 3]


def test_quotes_blank_lines_and_capitals(tmp_path: Path) -> None:
    text = 'File , Patient\r\n\r\n"a, b.nii","p\n1"\r\n,\r\n'
    (line,) = read_table(_written(tmp_path / "t.csv", text, "utf-8")).lines
    assert line.get("file") == "a, b.nii"
    assert line.get("patient") == "p\n1"


@pytest.mark.parametrize("word", ["n/a", "N/A", "NA", "nan", "NaN", "", "null"])
def test_what_says_nothing_is_nothing(tmp_path: Path, word: str) -> None:
    (line,) = read_table(_written(tmp_path / "t.tsv", f"patient\tage\nx\t{word}\n", "utf-8")).lines
    assert line.get("age") == ""


def test_a_decimal_comma_where_semicolons_part_columns(tmp_path: Path) -> None:
    (line,) = read_table(_written(tmp_path / "t.csv", "patient;edss;note\nx;3,5;a, b\n", "utf-8")).lines
    assert (line.get("edss"), line.get("note")) == ("3.5", "a, b")
    (other,) = read_table(_written(tmp_path / "u.csv", 'patient,edss\nx,"3,5"\n', "utf-8")).lines
    assert other.get("edss") == "3,5"


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("a,b\n1\n", ":2", "has 1 cells, expected 2"), ("a,b\n1,2,3\n", ":2", "has 3 cells, expected 2"), ("a,a\n1,2\n", ":1", "names the column a twice"),
        ("", "", "is an empty table"), ("\n \n", "", "is an empty table"),
    ],
)  # fmt: skip
def test_what_is_no_table_names_file_and_row(tmp_path: Path, text: str, place: str, words: str) -> None:
    with pytest.raises(UnreadableError, match=words) as caught:
        read_table(_written(tmp_path / "t.csv", text, "utf-8"))
    assert caught.value.file == f"{tmp_path / 't.csv'}{place}"


def test_bytes_that_are_no_text_are_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(b"a,b\n\x81\x00,2\n")
    with pytest.raises(UnreadableError, match=r"t.csv: is no text"):
        read_table(tmp_path / "t.csv")
    with pytest.raises(UnreadableError, match=r"none.csv: cannot be opened"):
        read_table(tmp_path / "none.csv")


def test_what_spreadsheets_write(tmp_path: Path) -> None:
    """A line that names the separator; UTF-16 without its mark."""
    stated = read_table(_written(tmp_path / "a.csv", "sep=;\npatient;age\nx;3,5\n", "utf-8"))
    assert stated.lines[0].get("age") == "3.5"
    bare = read_table(_written(tmp_path / "b.csv", "patient,age\nx,3\n", "utf-16-le"))
    assert (bare.columns, bare.lines[0].get("age")) == (("patient", "age"), "3")


def test_values() -> None:
    assert [value_of(t) for t in ("3", "-2.5e3", "007", "inf", "F")] == [3.0, -2500.0, "007", "inf", "F"]
