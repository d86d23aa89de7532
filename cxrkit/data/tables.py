"""The one reader of text tables: any dialect -> text columns and the line number of each row.

Every manifest, label file and `films.csv` is read here. Nothing is guessed in silence: what is
ambiguous is refused, what is likely is read and said. `Problems` gathers all wrong cells of a
table, so that one message names them together.
"""

from __future__ import annotations

import csv
import difflib
import io
import itertools
import re
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

SEPARATORS = (",", ";", "\t", "|")
SHOWN = 20  # problems that a message lists; the others are counted
LONGEST_CELL = 2**24  # letters; a run-length mask of a large image is a long cell
csv.field_size_limit(LONGEST_CELL)  # holds for the whole process

# what spreadsheets, pandas, R and people write where nothing is known; case does not matter
BLANKS = frozenset(
    "na n/a n.a. #n/a #na <na> nan nat null none nil - -- – — ? . unknown unk missing".split()
) | {"not available", "not known"}

# first bytes of files that are no text table -> what to do
NO_TEXT = {
    b"PK\x03\x04": "an Excel workbook or a zip archive: save the sheet as CSV UTF-8",
    b"\xd0\xcf\x11\xe0": "an Excel workbook: save the sheet as CSV UTF-8",
    b"\x1f\x8b": "packed by gzip: unpack it",
    b"PAR1": "a Parquet file: write it as CSV",
    b"%PDF": "a PDF file: copy its table into a CSV file",
    b"<!doctype": "a web page, no table: the download failed; fetch the file again",
    b"<html": "a web page, no table: the download failed; fetch the file again",
    b"version https://git-lfs": "a pointer of Git LFS, no table: run git lfs pull",
}
BYTE_ORDER_MARKS = {
    b"\xef\xbb\xbf": "utf-8",
    b"\xff\xfe\x00\x00": "utf-32-le",
    b"\x00\x00\xfe\xff": "utf-32-be",
    b"\xff\xfe": "utf-16-le",
    b"\xfe\xff": "utf-16-be",
}  # UTF-32 before UTF-16, which begins alike


@dataclass(frozen=True)
class Form:
    """How a table was written.

    Attributes:
        encoding: of the text.
        separator: between the cells.
        declared: whether a line such as `sep=;` names the separator.
        comments: line numbers of the lines that begin with "#".
    """

    encoding: str
    separator: str
    declared: bool = False
    comments: tuple[int, ...] = ()


# line numbers (N,), and the clean cells of each column, object (N,); the header comes first
Columns = tuple[np.ndarray, list[np.ndarray]]


@dataclass
class Problems:
    """Wrong cells of one or several tables, gathered so that one message names them all."""

    found: list[tuple[str, float, str]] = field(default_factory=list)  # file, row, sentence

    def add(
        self,
        rows: pd.DataFrame,
        bad: pd.Series,
        column: str,
        why: str | Callable[[object], str],
        values: pd.Series | None = None,
    ) -> None:
        """Note every row that is True in `bad`.

        Args:
            rows: with `_file` and `_row`.
            bad: bool, one a row.
            column: as the user knows it.
            why: end of the sentence that begins with row, column and value; or a function that
                gives it for the value.
            values: the wrong values; default the column of `rows`.
        """
        if not bad.any():
            return
        shown = (rows[column] if values is None else values)[bad]
        places = zip(rows.loc[bad, "_file"], rows.loc[bad, "_row"], shown, strict=True)
        for file, row, value in places:
            text = "blank" if pd.isna(value) else repr(value)
            sentence = why if isinstance(why, str) else why(value)
            self.found.append((str(file), row, f"column {column}: {text} {sentence}"))

    def say(self, file: str | Path, row: float, sentence: str) -> None:
        """Note one problem of a line as a whole."""
        self.found.append((str(file), row, sentence))

    def message(self) -> str:
        """All of it: the first 20 by file and row, and how many more there are."""
        # one cell may be wrong in two ways; the same sentence stands once
        found = sorted(dict.fromkeys(self.found), key=lambda problem: problem[:2])
        lines = [f"{file}, row {row:.0f}, {sentence}" for file, row, sentence in found[:SHOWN]]
        if len(found) > SHOWN:
            lines.append(f"and {len(found) - SHOWN} more of {len(found)} problems")
        return "\n".join(lines)

    def raise_if_any(self) -> None:
        """Raise ValueError with the message, if anything was noted."""
        if self.found:
            raise ValueError(self.message())


def read_table(path: str | Path, separator: str = "") -> pd.DataFrame:
    """Table file of any dialect -> text columns.

    Encoding (UTF-8, UTF-16, UTF-32, else Windows-1252, which is said), separator (comma, semicolon,
    tab, bar), `sep=`, comment lines, blank lines, blank rows, line ends and quotes of every kind do
    not matter. Cells lose outer spaces; words such as "NA" stay (see `without_blanks`).

    Args:
        path: of the file.
        separator: taken where the header fits several.

    Returns:
        Object columns of str, blank = NaN; and `_file` and `_row`, the line of the file on which
        a row begins, for messages.

    Raises:
        ValueError: it is no table, or its rows do not fit its header; the message names the file
            and all such rows.
    """
    return read_with_form(path, separator)[0]


def read_with_form(path: str | Path, separator: str = "") -> tuple[pd.DataFrame, Form]:
    """As `read_table`; also how the table was written."""
    text, encoding = _decode(path)
    lines, declared = _without_declaration(list(io.StringIO(text, newline="")))
    chosen = declared or _separator(path, lines, separator)
    comments: list[int] = []
    rows, columns = _plain_columns(lines, chosen) or _careful_columns(path, lines, chosen, comments)
    table = _frame(path, rows, columns)
    inside = [row for row in comments if row > rows[0]]
    if inside:
        warnings.warn(
            f"{path}: {len(inside)} lines below the header begin with # and are taken as comments "
            f"(row {', '.join(map(str, inside[:SHOWN]))}); put quotes around a cell that does",
            stacklevel=3,
        )
    if encoding == "cp1252":
        _say_encoding(path, table)
    return table, Form(encoding, chosen, bool(declared), tuple(comments))


def _decode(path: str | Path) -> tuple[str, str]:
    """The text of a file, and its encoding."""
    data = Path(path).read_bytes()
    for start, what in NO_TEXT.items():
        if data[: len(start)].lower() == start.lower():
            raise ValueError(f"{path}: not a readable table: it is {what}")
    encoding = _encoding(path, data)
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        row = data[: error.start].decode(encoding, "ignore").count("\n") + 1
        raise ValueError(
            f"{path}, row {row}: not a readable table: no {encoding} text; save it as CSV UTF-8"
        ) from None
    if "\0" in text:
        raise ValueError(f"{path}: not a readable table: it holds zero bytes; export it again")
    return text.lstrip("\ufeff"), encoding


def _encoding(path: str | Path, data: bytes) -> str:
    """By the byte order mark; else UTF-8, if it is; else UTF-16 by its zeros; else Windows-1252."""
    for mark, encoding in BYTE_ORDER_MARKS.items():
        if data.startswith(mark):
            return encoding
    zeros = data[1::2].count(0), data[::2].count(0)
    if max(zeros) > len(data) / 4:  # text with Western letters has them in every second byte
        return "utf-16-le" if zeros[0] > zeros[1] else "utf-16-be"
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        row = data[: error.start].count(b"\n") + 1
        if any(ord(letter) > 127 for letter in data.decode("utf-8", "ignore")):
            raise ValueError(
                f"{path}, row {row}: not a readable table: it mixes UTF-8 with another encoding; "
                "save it as CSV UTF-8"
            ) from None
        return "cp1252"
    return "utf-8"


def _say_encoding(path: str | Path, table: pd.DataFrame) -> None:
    """Warn that a table was taken as Windows-1252, and show a cell by which one sees it."""
    cells = [*table.columns, *table.drop(columns=["_file", "_row"]).stack()]
    letters = [cell for cell in cells if isinstance(cell, str) and not cell.isascii()]
    example = f", for example {letters[0]!r}" if letters else ""
    warnings.warn(
        f"{path}: no UTF-8 text; read as Windows-1252 (Western European){example}. If that is "
        "wrong, save it as CSV UTF-8",
        stacklevel=4,
    )


def _without_declaration(lines: list[str]) -> tuple[list[str], str]:
    """The lines with a first `sep=;` of Excel made blank, and the separator that it names."""
    for i, line in enumerate(lines):
        found = re.fullmatch(r'\s*"?sep=(.)"?[\s,;|]*', line, re.IGNORECASE)
        if found:
            return [*lines[:i], "\n", *lines[i + 1 :]], found[1]
        if line.strip():
            break
    return lines, ""


def _separator(path: str | Path, lines: list[str], preferred: str) -> str:
    """The separator by which most rows are as wide as the header; of equals, the widest header.

    One that does not cut the header at all is taken only where none does.
    """
    scores = {}
    for separator in SEPARATORS:
        widths = _widths(lines, separator) or [0]
        fitting = sum(width == widths[0] for width in widths)
        scores[separator] = widths[0] > 1, fitting, widths[0], separator == preferred
    best = max(scores.values())
    equal = [separator for separator, score in scores.items() if score == best]
    if best[0] and len(equal) > 1:
        raise ValueError(
            f"{path}: not a readable table: {equal} separate its columns equally well; write "
            f"sep={equal[0]} as the first line"
        )
    return equal[0]


def _widths(lines: list[str], separator: str, count: int = 100) -> list[int]:
    """How many cells each of the first records has, as far as its quotes can be read."""
    widths = []
    try:
        for _, cells in itertools.islice(_records(lines, separator, []), count):
            widths.append(len(cells))
    except csv.Error:
        pass  # reading the whole table says so
    return widths


class _Lines:
    """Lines for csv.reader, without comments; knows on which line the present record began.

    A line inside of a quoted cell is no comment, whatever it begins with: the reader asks for lines
    only while a record is open.
    """

    def __init__(self, lines: Sequence[str], comments: list[int]) -> None:
        self.lines = enumerate(lines, 1)
        self.comments = comments
        self.first = 0  # 0 = no record is open

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        number, line = next(self.lines)
        while not self.first and line.lstrip().startswith("#"):
            self.comments.append(number)
            number, line = next(self.lines)
        self.first = self.first or number
        return line


def _records(
    lines: Sequence[str], separator: str, comments: list[int]
) -> Iterator[tuple[int, list[str]]]:
    """(line number, cells) of each record that has any cell filled; notes lines of comments."""
    source = _Lines(lines, comments)
    try:
        for cells in csv.reader(source, delimiter=separator, strict=True, skipinitialspace=True):
            if "".join(cells).strip():
                yield source.first, cells
            source.first = 0
    except csv.Error as error:
        raise csv.Error(f"the quotes of row {source.first} do not close ({error})") from None


def _clean(cell: str) -> str:
    """A cell without outer spaces and without Excel's wrapping of text, `="0012"`."""
    cell = cell.strip().strip("\ufeff\u200b")
    if cell.startswith('="') and cell.endswith('"'):
        return cell[2:-1].strip()
    return cell


def _plain_columns(lines: Sequence[str], separator: str) -> Columns | None:
    """What `_careful_columns` gives, a few times as fast; None where a line needs care.

    Without quotes and comments, and with as many separators on every line, a line is a record, and
    the parser of pandas cuts it as `csv` does.
    """
    last = len(lines)
    while last and not lines[last - 1].strip():
        last -= 1
    lines = lines[:last]
    text, width = "".join(lines), lines[0].count(separator) if lines else 0
    if not width or any(mark in text for mark in ('"', "\ufeff", "\u200b")):
        return None
    for line in lines:
        if line.count(separator) != width or line.lstrip().startswith("#"):
            return None
        if len(line) > LONGEST_CELL:  # `csv` says so in words
            return None
    cells = pd.read_csv(
        io.StringIO(text),
        sep=separator,
        header=None,
        index_col=False,
        dtype=object,
        na_filter=False,
        quoting=csv.QUOTE_NONE,
        skip_blank_lines=False,
        low_memory=False,
    )
    if len(cells) != len(lines):
        return None
    columns = [_column(cells[i].to_numpy()) for i in cells]
    filled = ~np.logical_and.reduce([pd.isna(column) for column in columns])
    rows = np.flatnonzero(filled) + 1
    return (rows, [column[filled] for column in columns]) if len(rows) else None


def _careful_columns(
    path: str | Path, lines: Sequence[str], separator: str, comments: list[int]
) -> Columns:
    """Columns of a table of any form, by `csv`; notes lines of comments.

    Raises:
        ValueError: the quotes do not close, or a row is wider than the header.
    """
    try:
        records = list(_records(lines, separator, comments))
    except csv.Error as error:
        raise ValueError(f"{path}: not a readable table: {error}") from None
    if not records:
        raise ValueError(f"{path}: not a readable table: it is empty")
    problems, width = Problems(), len(records[0][1])
    for row, cells in records:
        if "".join(cells[width:]).strip():
            problems.say(
                path, row, f"has {len(cells)} cells, the header {width}: put a cell that holds "
                "the separator between quotes"
            )  # fmt: skip
    problems.raise_if_any()
    rows = np.array([row for row, _ in records], dtype=int)
    cells = zip(*(_padded(cells, width) for _, cells in records), strict=True)
    return rows, [_column(column) for column in cells]


def _frame(path: str | Path, rows: np.ndarray, columns: list[np.ndarray]) -> pd.DataFrame:
    """Columns -> a table named by their first cells, with `_file` and `_row`."""
    header = ["" if pd.isna(column[0]) else str(column[0]) for column in columns]
    names = [" ".join(name.split()) for name in header]
    if not any(letter.isalnum() for name in names for letter in name):
        raise ValueError(f"{path}: not a readable table: it has no header")
    named = _named(path, names, [column[1:] for column in columns])
    table = pd.DataFrame(named, index=range(len(rows) - 1), dtype=object)
    return table.assign(_file=str(path), _row=rows[1:])


def _named(path: str | Path, names: list[str], columns: list[np.ndarray]) -> dict[str, np.ndarray]:
    """Columns by name; one without a name is "column 1" where it is filled, else left out.

    pandas writes its row numbers into such a column.
    """
    named = {}
    for i, (name, cells) in enumerate(zip(names, columns, strict=True), 1):
        if not name and pd.isna(cells).all():
            continue
        name = name or f"column {i}"
        if name in named:
            raise ValueError(f"{path}: two columns have the name {name!r}; keep one")
        named[name] = cells
    return named


def _padded(cells: list[str], width: int) -> list[str]:
    """A record in the width of the header; spreadsheets leave out the last blank cells."""
    return cells if len(cells) == width else (cells + [""] * width)[:width]


def _column(cells: Sequence[str] | np.ndarray) -> np.ndarray:
    """Clean cells, object (N,), blank = NaN; each distinct text is cleaned once."""
    codes, distinct = pd.factorize(np.array(cells, dtype=object))
    clean = np.array([_clean(cell) or np.nan for cell in distinct], dtype=object)
    return clean[codes]


# cells


def without_blanks(column: pd.Series, keep: Collection[str] = ()) -> pd.Series:
    """A text column with words such as "NA", "nan", "None", "-", "unknown" as NaN.

    Args:
        column: text, NaN unknown.
        keep: words that mean something here, in lower case.
    """
    words = [
        value
        for value in column.dropna().unique()
        if isinstance(value, str) and value.strip().casefold() in BLANKS - set(keep)
    ]
    return column.mask(column.isin(words), np.nan) if words else column


def to_numbers(column: pd.Series, decimal_comma: bool = False) -> pd.Series:
    """A text column -> float; NaN where it is blank or no finite number.

    Args:
        column: text, NaN unknown.
        decimal_comma: read "1,5" as 1.5. "1,500" stays unread: it may be 1500.
    """
    if decimal_comma:
        column = column.map(with_point, na_action="ignore")
    codes, distinct = pd.factorize(column)  # each distinct text is read once
    numbers = pd.to_numeric(pd.Series(distinct, dtype=object), errors="coerce").astype(float)
    found = np.append(numbers.where(np.isfinite(numbers)), np.nan)[codes]  # code -1 = blank
    return pd.Series(found, index=column.index, name=column.name)


def with_point(text: object) -> object:
    """A number with a decimal comma, "1,5", with a point; any other text as it is."""
    found = re.fullmatch(r"\s*([+-]?\d+),(\d{1,2}|\d{4,})\s*", str(text))
    return f"{found[1]}.{found[2]}" if found else text


def whole(number: float) -> str:
    """A number as a person writes it: "3" for 3.0."""
    return f"{number:.0f}" if float(number).is_integer() else f"{number}"


def nearest(word: str, words: Iterable[str]) -> str:
    """The most similar of several words, ", is 'x' meant?"; blank where none is near."""
    folded = {other.casefold(): other for other in words}
    near = difflib.get_close_matches(word.casefold(), folded, 1, 0.7)
    return f"; is {folded[near[0]]!r} meant?" if near else ""


# dates

# forms of a day as people write it -> what a cell of the form looks like; a time may follow
DATES = {
    "%Y-%m-%d": r"\d{4}-\d{1,2}-\d{1,2}",
    "%Y/%m/%d": r"\d{4}/\d{1,2}/\d{1,2}",
    "%Y.%m.%d": r"\d{4}\.\d{1,2}\.\d{1,2}",
    "%Y%m%d": r"\d{8}",
    "%d.%m.%Y": r"\d{1,2}\.\d{1,2}\.\d{4}",
    "%d/%m/%Y": r"\d{1,2}/\d{1,2}/\d{4}",
    "%m/%d/%Y": r"\d{1,2}/\d{1,2}/\d{4}",
    "%d-%m-%Y": r"\d{1,2}-\d{1,2}-\d{4}",
    "%m-%d-%Y": r"\d{1,2}-\d{1,2}-\d{4}",
}
# no time zone: the times order the images of one patient, and follow the clock of one hospital
CLOCK = r"(?:[T ]+(\d{1,2}):(\d{2})(?::(\d{2})(?:\.\d*)?)?)?"


def to_dates(column: pd.Series, form: str) -> pd.Series:
    """Text -> time stamps; NaT where it is blank or not of the form.

    Args:
        column: text, NaN unknown.
        form: of the day, a key of DATES or another that `strptime` takes; a time may follow.
    """
    parts = column.astype("str").str.strip().str.extract(rf"^({DATES.get(form, '.*?')}){CLOCK}$")
    days = pd.to_datetime(parts[0], format=form, errors="coerce")
    hours, minutes, seconds = (pd.to_numeric(parts[i]).fillna(0) for i in (1, 2, 3))
    real = (hours < 24) & (minutes < 60) & (seconds < 60)
    return (days + pd.to_timedelta(3600 * hours + 60 * minutes + seconds, unit="s")).where(real)


def date_forms(column: pd.Series) -> list[str]:
    """The forms of DATES that fit every filled cell; of those that mean the same days, one.

    Args:
        column: text, NaN unknown.
    """
    filled, found = column.dropna(), {}
    for form in DATES:
        dates = to_dates(filled, form)
        if len(dates) and dates.notna().all():
            found.setdefault(tuple(dates), form)
    return list(found.values())


def days_since_first(dates: pd.Series, patients: pd.Series) -> pd.Series:
    """Days since the first date of the same patient, float; NaN where a date or patient is unknown.

    Args:
        dates: time stamps.
        patients: of the same rows.
    """
    first = dates.groupby(patients).transform("min")
    return (dates - first).dt.total_seconds() / 86400
