"""Tables as people write them: any usual encoding and separator, or a refusal that names the file and the row."""

from __future__ import annotations

import codecs
import csv
import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..io import UnreadableError

SEPARATORS = ",;\t|"
ABSENT = ("", "n/a", "na", "nan", "none", "null", "-")  # how tables say that nothing is known (BIDS: n/a)
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Line:
    """One row: what stands in each column, and where it stands."""

    path: Path
    number: int  # in the file, the header is 1
    cells: Mapping[str, str]

    def get(self, column: str) -> str:
        """The text of a cell; '' where the column is missing or says that nothing is known."""
        text = self.cells.get(column, "")
        return "" if text.lower() in ABSENT else text

    def fault(self, text: str, next_step: str) -> UnreadableError:
        """An error that names the file and the row."""
        return UnreadableError(text, next_step, f"{self.path}:{self.number}")


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under named columns (lower case), and what was odd about the file."""

    path: Path
    columns: tuple[str, ...]
    lines: tuple[Line, ...]
    remark: str = ""  # what had to be guessed


def read_table(path: Path, expected: Sequence[str] = ()) -> Table:
    """The table in a file; `expected` columns help to tell the separator. Raises UnreadableError naming file and
    row.
    """
    text, remark = _decoded(path)
    stated = re.match(r'"?sep=(.)"?\r?\n', text)  # how spreadsheets say it
    text = text[stated.end() :] if stated else text
    separator = stated[1] if stated else _separator(text, path, expected)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    try:
        rows = [(reader.line_num, row) for row in reader]
    except csv.Error as error:
        raise UnreadableError(
            f"is no table ({error}).", "Save it again as CSV.", f"{path}:{reader.line_num}"
        ) from error
    filled = [(number, row) for number, row in rows if any(cell.strip() for cell in row)]
    if not filled:
        raise UnreadableError(
            "is an empty table.", "Write a row of column names, then a row a file or patient.", str(path)
        )
    columns = _columns(path, filled[0][1])
    lines = tuple(_line(path, number, columns, row, separator) for number, row in filled[1:])
    return Table(path, columns, lines, remark)


def number_of(text: str) -> float | None:
    """The finite number that a text is, or None."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def value_of(text: str) -> float | str:
    """A number where the text is one; leading zeros keep it text, as in identifiers."""
    number = number_of(text)
    padded = len(text) > 1 and text[0] == "0" and text.isdigit()
    return text if number is None or padded else number


def _decoded(path: Path) -> tuple[str, str]:
    """(text, remark)."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UnreadableError(
            f"cannot be opened ({error.strerror}).", "Check its name and permissions.", str(path)
        ) from error
    encoding = next((name for mark, name in _MARKS if content.startswith(mark)), "utf-8")
    try:
        if encoding == "utf-8" and b"\0" in content:
            encoding = "utf-16-le" if content[1:2] == b"\0" else "utf-16-be"
        return content.decode(encoding), ""
    except UnicodeDecodeError as error:
        if encoding != "utf-8" or b"\0" in content:
            raise UnreadableError(f"is no text in {encoding}.", "Save it again as UTF-8.", str(path)) from error
    try:
        return content.decode("cp1252"), "is not UTF-8; its letters are read as Windows-1252."
    except UnicodeDecodeError as error:
        raise UnreadableError("is text in an unknown encoding.", "Save it again as UTF-8.", str(path)) from error


def _separator(text: str, path: Path, expected: Sequence[str]) -> str:
    """What makes most of the expected columns out of the first line, then what makes most columns."""
    first = next((line for line in text.splitlines() if line.strip()), "")
    preferred = "\t" if path.suffix.lower() == ".tsv" else ","

    def worth(separator: str) -> tuple[int, int, bool]:
        names = [n.strip().lower() for n in next(csv.reader([first], delimiter=separator), [])]
        return len(set(names) & set(expected)), len(names), separator == preferred

    return max(SEPARATORS, key=worth)


def _columns(path: Path, header: Sequence[str]) -> tuple[str, ...]:
    columns = tuple(name.strip().lower() for name in header)
    named = [c for c in columns if c]
    if twice := sorted({c for c in named if named.count(c) > 1}):
        raise UnreadableError(f"names the column {twice[0]} twice.", "Take one of them out.", f"{path}:1")
    return columns


def _line(path: Path, number: int, columns: Sequence[str], row: Sequence[str], separator: str) -> Line:
    if (len(row) != len(columns) and any(cell.strip() for cell in row[len(columns) :])) or len(row) < len(columns):
        raise UnreadableError(
            f"has {len(row)} cells, expected {len(columns)} ({', '.join(columns)}).",
            "Fill the row: an empty cell is two separators side by side.", f"{path}:{number}",
        )  # fmt: skip
    cells = (_plain_number(cell.strip(), separator) for cell in row)
    return Line(path, number, {c: cell for c, cell in zip(columns, cells, strict=False) if c})


def _plain_number(cell: str, separator: str) -> str:
    """Where semicolons part the columns, a comma is a decimal point: 3,5 is 3.5."""
    swapped = cell.replace(",", ".")
    return swapped if separator == ";" and cell.count(",") == 1 and number_of(swapped) is not None else cell


def lacking(table: Table, needed: Iterable[str]) -> list[str]:
    """Columns that a table should have and has not."""
    return sorted(set(needed) - set(table.columns))
