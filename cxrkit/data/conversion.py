"""A hospital's own table -> `films.csv` in the kit's form; every step of it is said.

`read_manifest` takes no table in another form, because only its owner knows what its commas, dates
and comments mean. Here the owner sees what was taken as what, and keeps the table as it was.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping
from pathlib import Path

import pandas as pd

from cxrkit.config.vocabulary import BRIXIA, FINDINGS, SECOND, ZONES
from cxrkit.data import manifests, schema, tables
from cxrkit.data.labels import ALIASES, SUMS, meant, plain, six_digits
from cxrkit.data.tables import Problems, to_dates, to_numbers, without_blanks
from cxrkit.storage.atomic import write_atomic

NAME = "films.csv"
KEPT = "films_original.csv"
# what a user calls the order of a date -> its forms
ORDERS = {
    "ymd": ("%Y-%m-%d", "%Y/%m/%d", "%Y.%m.%d", "%Y%m%d"),
    "dmy": ("%d.%m.%Y", "%d/%m/%Y", "%d-%m-%Y"),
    "mdy": ("%m/%d/%Y", "%m-%d-%Y"),
}
NUMBERS = (*FINDINGS, *ZONES, *BRIXIA, *SECOND, *SUMS, "visit")

Say = Callable[[str], object]


def convert(
    folder: str | Path,
    table: str = NAME,
    columns: Mapping[str, str] | None = None,
    dates: str = "",
    lost_zeros: bool = False,
    say: Say = print,
) -> pd.DataFrame:
    """Write `films.csv` from a table in another form; nothing is written where a cell is wrong.

    A table that is itself called films.csv is kept as films_original.csv.

    Args:
        folder: of the images.
        table: file in the folder.
        columns: ours -> theirs, for columns that are called otherwise.
        dates: "dmy", "mdy" or "ymd", where the dates of `visit` fit several.
        lost_zeros: the six digits of `array` and `brixia` became numbers: put zeros in front.
        say: called with each sentence on what was taken as what.

    Returns:
        The rows as they were written, and `_file` and `_row` of the first table.

    Raises:
        ValueError: columns or cells are wrong or ambiguous; the message names file and rows.
        FileExistsError: a file would be overwritten.
    """
    folder = Path(folder)
    source, kept = folder / table, folder / KEPT
    blocking = kept if table == NAME else folder / NAME
    if blocking.exists():
        raise FileExistsError(f"{blocking} is there and is not overwritten; rename it first")
    raw, form = tables.read_with_form(source)
    _say_form(form, say)
    rows = _renamed(raw, source, columns or {}, say)
    rows = _with_points(rows, form, say)
    if "visit" in rows:
        rows["visit"] = _visits(rows, dates, say)
    if lost_zeros:
        rows = _padded(rows, say)
    checked = manifests.checked(schema.load("local"), rows, folder)
    ours = rows.drop(columns=["_file", "_row"])
    # a bare # at the start of a line would make a comment of it
    marked = ours.iloc[:, 0].str.startswith("#").eq(True).any()
    quoting = csv.QUOTE_ALL if marked else csv.QUOTE_MINIMAL
    text = ours.to_csv(index=False, lineterminator="\n", quoting=quoting)
    ready = folder / f"{NAME}.new"
    write_atomic(ready, text.encode())  # a full disk shows here, while the table has its name
    if table == NAME:
        source.rename(kept)
        say(f"the table as it was is kept as {kept}")
    ready.rename(folder / NAME)
    say(f"{folder / NAME}: {len(rows)} images of {checked['group_id'].nunique()} patients")
    return rows


def _say_form(form: tables.Form, say: Say) -> None:
    """What the table looked like."""
    name = {"\t": "a tab", ",": "a comma", ";": "a semicolon"}.get(form.separator, form.separator)
    say(f"read as {form.encoding} text with {name} between the columns")
    if form.comments:
        say(f"left out: {len(form.comments)} lines that begin with #")


def _renamed(raw: pd.DataFrame, path: Path, columns: Mapping[str, str], say: Say) -> pd.DataFrame:
    """The columns that the kit reads, under our names."""
    known = sorted({str(name) for name in ALIASES["column"].values()})
    given = {theirs: ours for ours, theirs in columns.items()}
    for theirs, ours in given.items():
        if ours not in known:
            raise ValueError(f"unknown column {ours!r}{meant(ours, known)}; known: {known}")
        if theirs not in raw:
            raise ValueError(f"{path}: no column {theirs!r}; it has {_theirs(raw)}")
    names = {}
    for theirs in _theirs(raw):
        ours = given.get(theirs, ALIASES["column"].get(plain(theirs), theirs))
        # what the user names goes before what is called so by chance
        names[theirs] = theirs + " " if theirs not in given and ours in columns else ours
    rows = raw.rename(columns=names)
    manifests.check_columns(path, rows, raw)
    for theirs, ours in names.items():
        if ours not in known:
            say(f"column {theirs!r} is left out{meant(theirs, known)}")
        elif ours != theirs:
            say(f"column {theirs!r} becomes {ours}")
    return rows[[c for c in rows if c in known or c in ("_file", "_row")]]


def _theirs(raw: pd.DataFrame) -> list[str]:
    return [str(c) for c in raw if not str(c).startswith("_")]


def _with_points(rows: pd.DataFrame, form: tables.Form, say: Say) -> pd.DataFrame:
    """Numbers with a decimal comma -> with a point, where the comma does not separate columns."""
    for column in rows.columns.intersection(NUMBERS):
        pointed = rows[column].map(tables.with_point, na_action="ignore")
        changed = (pointed != rows[column]) & rows[column].notna()
        if changed.any():
            first = rows.loc[changed, column].iloc[0], pointed[changed].iloc[0]
            say(f"column {column}: {changed.sum()} decimal commas, such as {first[0]} = {first[1]}")
            rows = rows.assign(**{column: pointed})
    return rows


def _visits(rows: pd.DataFrame, order: str, say: Say) -> pd.Series:
    """Numbers of `visit` as they are; dates -> days since the first date of the patient."""
    visit = without_blanks(rows["visit"])
    numbers = to_numbers(visit)
    small = numbers.abs() <= manifests.LAST_DAY
    if (small | visit.isna()).all():
        return visit
    forms = [f for f in tables.date_forms(visit) if not order or f in ORDERS[order]]
    if len(forms) > 1:
        raise ValueError(
            f"{rows['_file'].iloc[0]}: column visit: {visit.dropna().iloc[0]!r} may be of the form "
            f"{' or '.join(forms)}; give --dates dmy, mdy or ymd"
        )
    if not forms:
        _refuse_mixture(rows, visit, order)
    who = without_blanks(rows["patient_id" if "patient_id" in rows else "group_id"])
    days = tables.days_since_first(to_dates(visit, forms[0]), who)
    say(f"column visit: dates of the form {forms[0]} become days since the patient's first image")
    return days.map(tables.whole, na_action="ignore")


def _refuse_mixture(rows: pd.DataFrame, visit: pd.Series, order: str) -> None:
    """Raise ValueError with the cells that do not have the form of most."""
    allowed = ORDERS[order] if order else tuple(tables.DATES)
    fitting = {form: to_dates(visit, form).notna() for form in allowed}
    best = max(fitting, key=lambda form: int(fitting[form].sum()))
    numbers = to_numbers(visit).abs() <= manifests.LAST_DAY
    problems = Problems()
    if fitting[best].sum() >= numbers.sum():
        why = f"is no date of the form {best}, which most cells have"
        problems.add(rows, visit.notna() & ~fitting[best], "visit", why)
    else:
        problems.add(rows, visit.notna() & ~numbers, "visit", "is no number, as other cells are")
    problems.raise_if_any()


def _padded(rows: pd.DataFrame, say: Say) -> pd.DataFrame:
    """Packed digits with the zeros in front that a number column loses."""
    for column in rows.columns.intersection(list(SUMS.values())):
        text = without_blanks(rows[column])
        digits = text.map(lambda cell: six_digits(cell)[0], na_action="ignore")
        # a column that kept one zero in front was text: a short cell in it lacks some other digit
        kept = digits.str.match("0.").eq(True) & (digits.str.len() == 6)
        short = digits.str.len().between(1, 5)
        if kept.any() and short.any():
            row = rows.loc[kept, "_row"].iloc[0]
            raise ValueError(
                f"{rows['_file'].iloc[0]}: column {column}: row {row} kept its zero in front, so "
                f"the short cells (row {rows.loc[short, '_row'].iloc[0]}) lack another digit; "
                "correct them by hand"
            )
        if short.any():
            say(f"column {column}: zeros put in front of {short.sum()} numbers")
            rows = rows.assign(**{column: text.where(~short, digits.str.zfill(6))})
    return rows
