"""One reader that turns any dataset into the same checked table, one row an image.

A dataset is `data_manifests/<name>.json` (`schema.Manifest`) and, for the public images,
`<name>.csv` beside it: one row an image with its address, hashes, group and split. Park et al.
(section 4) do not say how patients were split; here it is by group.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd

from cxrkit.config import vocabulary
from cxrkit.config.choices import Choices
from cxrkit.config.vocabulary import BRIXIA, COLUMNS, FINDINGS, OLDEST, PATIENT, SECOND, ZONES
from cxrkit.data import schema, tables
from cxrkit.data.labels import (
    ALIASES,
    RULES,
    SUMS,
    age,
    cause,
    diagnosis,
    digits,
    meant,
    plain,
    standard_terms,
)
from cxrkit.data.patients import one_spelling
from cxrkit.data.schema import Cut, Manifest, load, manifest_dir
from cxrkit.data.tables import Problems, nearest, read_table, to_numbers, without_blanks
from cxrkit.storage.locations import data_root

# of 400 tried, the image counts nearest to 70/10/20 in every public source; no label was looked at
SALT = "cxrkit-83"
PREPARED = "labels.csv"  # of a prepared copy of public images (--mirror): a row an image, by `file`


def folder_of(name: str, root: str | Path | None = None) -> Path:
    """Folder of a dataset: <root>/<name> where that exists, else `root`, taken as its own folder.

    Args:
        name: of the dataset.
        root: folder of all datasets or of this one; default `data_root`.
    """
    inside = data_root(root) / name
    if inside.is_dir() or root is None:
        return inside
    return data_root(root)


def image_list(name: str) -> pd.DataFrame | None:
    """The public images of a dataset as its CSV lists them, or None where there is no list.

    Args:
        name: of the dataset.

    Returns:
        Text columns, one row an image.

    Raises:
        ValueError: a path leaves the folder of the dataset.
    """

    def leaves(path: str) -> bool:
        return PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts

    path = manifest_dir() / f"{name}.csv"
    if not path.exists():
        return None
    table, problems = read_table(path), Problems()
    outside = table["path"].fillna("..").map(leaves)
    problems.add(table, outside, "path", "is no path inside the dataset's folder")
    problems.raise_if_any()
    return table


def read_manifest(
    name: str,
    root: str | Path | None = None,
    choices: Choices = Choices(),
    apart: bool = True,
) -> pd.DataFrame:
    """Read a dataset into the one table form; images of every view are kept (see `select_views`).

    Args:
        name: of the dataset (`schema.names`).
        root: folder of all datasets or of this one; default CXRKIT_DATA, else `data/` of the store.
        choices: `uncertain` is read.
        apart: refuse a group that is in two splits.

    Returns:
        One row an image with the columns `vocabulary.COLUMNS`; unknown = NaN, paths absolute.

    Raises:
        ValueError: a value is wrong; the message names file, row and column.
        FileNotFoundError: the data are missing; the message says how to obtain them.

    Example:
        >>> import tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> table = Path(folder.name) / "films.csv"
        >>> rows = pd.DataFrame({"path": ["a.png"], "patient_id": ["P1"], "view": ["PA"]})
        >>> rows.to_csv(table, index=False)
        >>> read_manifest("local", folder.name)[["patient_id", "view"]].to_numpy().tolist()
        [['P1', 'PA']]
        >>> folder.cleanup()
    """
    return numbered_rows(name, root, choices, apart)[list(COLUMNS)]


def read_patients(name: str, root: str | Path | None = None) -> pd.DataFrame:
    """Sex and age of the patients of a dataset, as far as its tables say: one row an image.

    Args:
        name: of the dataset (`schema.names`).
        root: as for `read_manifest`.

    Returns:
        `path`, absolute; `sex`, F or M; `age` in years; unknown = NaN.

    Raises:
        ValueError: a value is wrong; the message names file, row and column.
        FileNotFoundError: the data are missing; the message says how to obtain them.
    """
    table = numbered_rows(name, root)[["path", *PATIENT]]
    return _with_prepared(table, folder_of(name, root))


def _with_prepared(table: pd.DataFrame, folder: Path) -> pd.DataFrame:
    """Sex and age filled from the labels.csv of a prepared copy, where there is one."""
    file = folder / PREPARED
    if not file.is_file():
        return table
    rows = read_table(file)
    if not {"file", *PATIENT} <= set(rows):
        return table
    rows = rows.drop_duplicates("file").set_index("file")
    rows.index = [os.path.join(folder, name) for name in rows.index]
    sex = standard_terms("sex", without_blanks(rows["sex"]), strict=False)
    found = {"sex": sex, "age": age(without_blanks(rows["age"]))}
    filled = {
        name: table[name].astype(object).fillna(table["path"].map(values))
        for name, values in found.items()
    }
    return table.assign(**filled).astype({"age": float})


def numbered_rows(
    name: str,
    root: str | Path | None = None,
    choices: Choices = Choices(),
    apart: bool = True,
) -> pd.DataFrame:
    """As `read_manifest`, with `_file` and `_row` behind, for messages about a row."""
    spec, folder = load(name), folder_of(name, root)
    rows = _rows(spec, folder)
    labels = [table for table in spec.tables if table.key and (folder / table.file).exists()]
    for table in labels:
        rows = _join(rows, table, folder)
    if not labels and any(table.key for table in spec.tables):
        warnings.warn(
            f"{name}: no label file in {folder}, labels stay unknown; run: cxrkit data fetch "
            f"{name}",
            stacklevel=3,
        )
    return checked(spec, rows, folder, choices, apart)


def checked(
    spec: Manifest,
    rows: pd.DataFrame,
    folder: Path,
    choices: Choices = Choices(),
    apart: bool = True,
) -> pd.DataFrame:
    """Raw rows -> the table form, checked.

    Args:
        spec: of the dataset.
        rows: text under our column names, behind `_file` and `_row`.
        folder: of the dataset.
        choices: `uncertain` is read.
        apart: refuse a group that is in two splits.

    Raises:
        ValueError: as `check`.
    """
    problems = Problems()
    return check(_to_table_form(spec, rows, folder, choices, problems), apart, problems)


def _rows(spec: Manifest, folder: Path) -> pd.DataFrame:
    """Raw rows: of the list in data_manifests, of the files that match `glob`, or of the tables."""
    rows = image_list(spec.name)
    if rows is not None:
        return rows
    if spec.reader:
        rows = _read_tree(spec, folder)
    else:
        rows = _found_rows(spec, folder) if spec.glob else _listed_rows(spec, folder)
    if not len(rows):
        raise FileNotFoundError(
            f"{spec.name}: no images listed in {folder}. How to obtain them: {spec.obtain}"
        )
    if spec.repeats:
        return _once(rows, "path", spec.name)
    return rows.reset_index(drop=True)


def _once(rows: pd.DataFrame, key: str, name: str) -> pd.DataFrame:
    """The first row of each `key`; cells in which its rows contradict each other become unknown.

    Args:
        rows: with `_file` and `_row`.
        key: column by which rows belong together.
        name: of the table or dataset, for the warning.
    """
    repeated = rows[rows[key].duplicated(keep=False)]
    first = rows.drop_duplicates(key, ignore_index=True)
    if repeated.empty:
        return first
    theirs = repeated.drop(columns=["_file", "_row"]).groupby(key)
    torn = theirs.nunique() > 1  # a blank contradicts nothing
    lines = []
    for column in torn.columns[torn.any()]:
        of = first[key].isin(torn.index[torn[column]])
        first[column] = first[column].mask(of, np.nan)
        for value in first.loc[of, key]:
            same = repeated[repeated[key] == value]
            cells = zip(same["_row"], same[column], strict=True)
            places = ", ".join(f"row {row} {what!r}" for row, what in cells)
            lines.append(f"{value}: column {column}: {places}")
    if lines:
        more = f"\nand {len(lines) - tables.SHOWN} more" * (len(lines) > tables.SHOWN)
        warnings.warn(
            f"{name}: rows of one image disagree in {len(lines)} cells, which are taken as "
            "unknown:\n" + "\n".join(lines[: tables.SHOWN]) + more,
            stacklevel=2,
        )
    return first


def _read_tree(spec: Manifest, folder: Path) -> pd.DataFrame:
    """The rows that the dataset's own reader finds in a tree (`public_trees.READERS`)."""
    readers = importlib.import_module("cxrkit.data.public_trees").READERS
    return readers[vocabulary.known(spec.reader, readers, "reader")](spec, folder)


def _found_rows(spec: Manifest, folder: Path) -> pd.DataFrame:
    """A row for each file that matches `glob`, with the named groups of `pattern`."""
    found = sorted(path.relative_to(folder).as_posix() for path in folder.glob(spec.glob))
    paths = pd.Series(found, dtype="str")
    return paths.str.extract(spec.pattern).assign(
        path=paths, _file=str(folder), _row=np.arange(1, len(paths) + 1)
    )


def _listed_rows(spec: Manifest, folder: Path) -> pd.DataFrame:
    """The rows of all tables that list images."""
    parts = []
    for table in spec.tables:
        if not table.key and (folder / table.file).exists():
            parts.append(read_columns(table, folder))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def read_columns(table: schema.Table, folder: Path) -> pd.DataFrame:
    """Their columns -> ours: by the table's map, or, where that is empty, by names and aliases.

    Args:
        table: its description in the manifest.
        folder: that holds the file.

    Returns:
        Our columns, `_file` and `_row`.

    Raises:
        ValueError: a column is missing, or two mean the same; the message names the file.
    """
    path = folder / table.file
    raw, form = tables.read_with_form(path, table.separator)
    if not table.columns:
        _refuse_other_forms(path, form)
        return _columns_by_name(raw, table, path)
    table = _without_absent(raw, table)
    _check_theirs(raw, table, path)
    ours = raw[["_file", "_row"]].copy()
    for name, theirs in table.columns.items():
        ours[name] = _column(raw, name, theirs)
    if "visit" in ours and form.separator != ",":
        ours["visit"] = ours["visit"].map(tables.with_point, na_action="ignore")
    if table.dates:
        ours["visit"] = _days(ours, table.dates)
    return ours


def _refuse_other_forms(path: Path, form: tables.Form) -> None:
    """Raise ValueError where a table of the user's own has another form than docs/data.md says.

    What stands in it could be read; whether commas of its numbers, its dates and its comments mean
    what the kit would take them for, only its owner knows.
    """
    reasons = []
    if form.declared:
        reasons.append("it begins with a line sep=, which is no header")
    if form.separator != ",":
        name = "a tab" if form.separator == "\t" else repr(form.separator)
        reasons.append(f"{name} stands between its columns, not a comma")
    if form.comments:
        rows = ", ".join(map(str, form.comments[:5]))
        reasons.append(f"it has comments, lines that begin with # (row {rows})")
    if reasons:
        raise ValueError(
            f"{path}: {'; '.join(reasons)}. To have it rewritten: cxrkit data convert {path.parent}"
        )


def _columns_by_name(raw: pd.DataFrame, table: schema.Table, path: Path) -> pd.DataFrame:
    """Columns under our own names or their aliases -> ours; says which are read by an alias."""
    theirs = [c for c in raw if not c.startswith("_")]
    names = {c: ALIASES["column"].get(plain(c), c) for c in theirs}
    ours = raw.rename(columns=names)
    check_columns(path, ours, raw)
    _say_columns(path, names, table.unread)
    return ours


def check_columns(path: Path, ours: pd.DataFrame, raw: pd.DataFrame) -> None:
    """Raise ValueError where two columns mean the same, or one is missing that every row needs.

    Args:
        path: of the table.
        ours: the table under our names.
        raw: the same under theirs.
    """
    for name in ours.columns[ours.columns.duplicated()]:
        both = raw.columns[ours.columns == name].tolist()
        raise ValueError(f"{path}: the columns {both} all mean {name!r}; keep one")
    theirs = [c for c in raw if not c.startswith("_")]
    for needed, why in ((("path",), ""), (("patient_id", "group_id"), ": splits need it")):
        if not set(needed) & set(ours.columns):
            near = [c for c in theirs if meant(c, needed)]
            hint = ""
            if near:
                hint = f"; is {near[0]!r} meant? Rename it, or rewrite the table: cxrkit data "
                hint += f"convert {path.parent} --column {needed[0]}={near[0]!r}"
            raise ValueError(f"{path}: no column {needed[0]!r}{why}; it has {theirs}{hint}")


def _say_columns(path: Path, names: dict[str, str], unread: list[str]) -> None:
    """Warn of columns that are read by another name than ours, and of those that nobody reads."""
    known = sorted({str(name) for name in ALIASES["column"].values()})
    aliases = [c for c in names if names[c] in known and not _same_name(c, names[c])]
    other = [c for c in names if names[c] not in known and c not in unread]
    lines = [f"column {c!r} is read as {names[c]}" for c in aliases]
    lines += [f"column {c!r} is not read{meant(c, known)}" for c in other]
    if lines:
        warnings.warn(f"{path}: " + "; ".join(lines), stacklevel=2)


def _same_name(theirs: str, ours: str) -> bool:
    """Whether a name is ours but for case, spaces and hyphens: "Patient ID"."""
    return theirs.casefold().replace(" ", "_").replace("-", "_") == ours.casefold()


def _sources(theirs: str | list[str] | Cut) -> list[str]:
    """The columns of theirs from which one of ours is made."""
    if isinstance(theirs, list):
        return theirs
    return [theirs.column if isinstance(theirs, Cut) else theirs]


def _without_absent(raw: pd.DataFrame, table: schema.Table) -> schema.Table:
    """The table's description without sex and age, where a release does not give them."""
    columns = {
        name: theirs
        for name, theirs in table.columns.items()
        if name not in PATIENT or set(_sources(theirs)) <= set(raw)
    }
    return table.model_copy(update={"columns": columns})


def _check_theirs(raw: pd.DataFrame, table: schema.Table, path: Path) -> None:
    """Raise ValueError where a column of the table's map is missing; suggests the nearest."""
    known = [c for c in raw if not c.startswith("_")]
    wanted = [column for theirs in table.columns.values() for column in _sources(theirs)]
    for column in wanted:
        if column not in known:
            hint = nearest(column, known)
            raise ValueError(f"{path}: no column {column!r}; it has {known}{hint}")


def _column(raw: pd.DataFrame, name: str, theirs: str | list[str] | Cut) -> pd.Series:
    """One column of ours: theirs, the first not blank of several, or cut out of theirs."""
    value = raw[_sources(theirs)].bfill(axis=1).iloc[:, 0]
    if not isinstance(theirs, Cut):
        return value
    # one form of paths, so that a pattern need not know of Windows
    cut = value.str.replace("\\", "/").str.extract(theirs.pattern, expand=False)
    problems = Problems()
    why = f"holds no {name}, which has the form {theirs.pattern}"
    problems.add(raw, value.notna() & cut.isna(), theirs.column, why, value)
    problems.raise_if_any()
    return cut


def _days(rows: pd.DataFrame, dates: str) -> pd.Series:
    """Dates of `visit` -> days since the first image of the patient."""
    parsed = tables.to_dates(rows["visit"], dates)
    problems = Problems()
    wrong = rows["visit"].notna() & parsed.isna()
    problems.add(rows, wrong, "visit", f"is no date of the form {dates}")
    problems.raise_if_any()
    return tables.days_since_first(parsed, rows["patient_id"])


def _join(rows: pd.DataFrame, table: schema.Table, folder: Path) -> pd.DataFrame:
    """Fill what is unknown in `rows` from an annotation file, by the public name of the image."""
    keyed = table.model_copy(update={"columns": {**table.columns, "key": table.key}})
    labels = read_columns(keyed, folder)
    labels["key"] = labels["key"].map(_file_name, na_action="ignore")
    labels = _once(labels.dropna(subset="key"), "key", str(folder / table.file))
    labels = labels.drop(columns=["_file", "_row"]).set_index("key")
    public = rows["source_path"].fillna(rows["path"]) if "source_path" in rows else rows["path"]
    found = labels.reindex(public.map(_file_name)).set_axis(rows.index)
    filled = {c: rows[c].fillna(found[c]) if c in rows else found[c] for c in found}
    return rows.assign(**filled)


def _file_name(path: str) -> str:
    return PurePosixPath(path).name


def _to_table_form(
    spec: Manifest, rows: pd.DataFrame, folder: Path, choices: Choices, problems: Problems
) -> pd.DataFrame:
    """Raw rows -> the columns of the table form, behind `_file` and `_row`."""
    rows = _with_all_columns(spec, rows)
    out = rows[["_file", "_row", "lesion_mask"]].assign(
        dataset=spec.name, site=rows["site"].fillna(spec.name)
    )
    out["path"] = rows["path"].map(spec.path.format, na_action="ignore")
    out["patient_id"] = one_spelling(rows, rows["patient_id"].fillna(rows["group_id"]), problems)
    group = (spec.group or spec.name + ":{}").format
    given = one_spelling(rows, rows["group_id"], problems)
    out["group_id"] = given.fillna(out["patient_id"].map(group, na_action="ignore"))
    hashed = out["group_id"].map(split_of, na_action="ignore")
    out["split"] = standard_terms("split", rows["split"]).astype(object).fillna(hashed)
    out["view"] = standard_terms("view", rows["view"])
    supine = rows["view"].map(lambda view: "supine" in view.lower(), na_action="ignore")
    out["supine"] = supine.eq(True)
    # the user's own words for findings name no cause
    out["diagnosis"] = diagnosis(rows, spec.words, spec.rule != "named")
    out["cause"] = cause(rows, spec.rule != "named")
    out["visit"] = rows["visit"]
    # a word of a public set that says no sex or age is unknown; a user's own is refused
    strict = spec.rule == "named"
    out["sex"] = standard_terms("sex", rows["sex"], strict=strict)
    out["age"] = age(rows["age"])
    if strict:
        odd = rows["age"].notna() & ~out["age"].le(OLDEST)
        problems.add(rows, odd, "age", f"is no age in years from 0 to {OLDEST}")
    out["lung_mask"] = rows["lung_mask"].fillna(_fetched_masks(rows))
    for column in ("path", "lung_mask", "lesion_mask"):
        out[column] = _paths(folder, out, column, problems)
    findings = RULES[spec.rule](rows, spec.findings, choices, problems)
    severity = [
        digits(rows, "array", ZONES, problems),
        digits(rows, "brixia", BRIXIA, problems),
        digits(rows, "brixia2", SECOND, problems),
    ]
    return pd.concat([out, findings, *severity], axis=1)


def _with_all_columns(spec: Manifest, rows: pd.DataFrame) -> pd.DataFrame:
    """Raw rows with the constants of the dataset and every column that is read, as objects."""
    constants = {c: value for c, value in spec.constants.items() if c not in rows}
    rows = rows.assign(**constants)
    packed = ("findings", *SUMS, *SUMS.values(), "mask_id")
    rows = rows.reindex(columns=list(dict.fromkeys([*rows, *COLUMNS, *PATIENT, *packed])))
    rows = rows.astype({c: object for c in rows if c != "_row"})
    # the rule of the findings knows what its own words for nothing mean
    read = [c for c in (*COLUMNS, *PATIENT, *packed) if c != "findings"]
    return rows.assign(**{c: without_blanks(rows[c]) for c in read})


def _fetched_masks(rows: pd.DataFrame) -> pd.Series:
    """Where `fetch` puts the public mask of an image; NaN for an image without one."""
    masked = rows["path"].where(rows["mask_id"].notna()).astype(object)
    return masked.map(lambda path: f"masks/{PurePosixPath(path).stem}.png", na_action="ignore")


def _paths(folder: Path, rows: pd.DataFrame, column: str, problems: Problems) -> pd.Series:
    """Paths of a column in the dataset's folder; addresses stay. Those of Windows get slashes."""
    texts = rows[column].astype(object)  # floats where none is known
    drive = texts.str.match(r"[A-Za-z]:[\\/]|\\\\")
    foreign = drive.eq(True) & (os.name != "nt")
    problems.add(
        rows, foreign, column, "is a path of another computer; write it relative to the folder"
    )
    return rows[column].map(lambda path: _inside(folder, path), na_action="ignore")


def _inside(folder: Path, path: str) -> str:
    """The path in the dataset's folder, or beside it; an address stays as it is."""
    if "://" in path:
        return path
    if "\\" in path and not (folder / path).exists():
        path = path.replace("\\", "/")
    if ".." in path:
        return os.path.normpath(folder / path)
    if path.startswith("./") and path[2:3] != "/":
        path = path[2:]
    # a table may have hundreds of thousands of rows: pathlib only where it changes the path
    return str(folder / path) if "./" in path or "//" in path else os.path.join(folder, path)


LAST_DAY = 36_500  # of `visit`: a hundred years; a larger number is a date, such as 20200301


def check(
    table: pd.DataFrame, apart: bool = True, problems: Problems | None = None
) -> pd.DataFrame:
    """The table with its numbers as float and its columns in order, after its values were checked.

    Args:
        table: in table form, behind `_file` and `_row`.
        apart: refuse a group that is in two splits.
        problems: what was found wrong before.

    Returns:
        The columns `vocabulary.COLUMNS` and `PATIENT`, then `_file` and `_row`.

    Raises:
        ValueError: values are wrong; the message names file, row and column of the first 20.
    """
    problems = problems or Problems()
    blank = table["group_id"].isna()
    problems.add(table, table["path"].isna(), "path", "cell: every row needs an image")
    problems.add(table, blank, "patient_id", "cell: splits need it")
    problems.add(table, table["split"].isna() & ~blank, "split", "cell")
    _check_repeats(table, problems)
    for column, allowed in (
        ("view", vocabulary.VIEWS),
        ("split", vocabulary.SPLITS),
        ("diagnosis", vocabulary.DIAGNOSES),
        ("cause", vocabulary.CAUSES),
        ("sex", vocabulary.SEXES),
    ):
        wrong = table[column].notna() & ~table[column].isin(list(allowed))
        problems.add(table, wrong, column, _none_of(allowed))
    for columns, highest in ((FINDINGS + ZONES, 1), (BRIXIA + SECOND, 3)):
        table = _check_numbers(table, columns, highest, problems)
    visit = to_numbers(table["visit"])
    odd = table["visit"].notna() & (visit.isna() | (visit.abs() > LAST_DAY))
    problems.add(table, odd, "visit", _no_visit)
    table = table.assign(visit=visit)
    problems.raise_if_any()
    if apart:
        _check_apart(table)
    return table[[*COLUMNS, *PATIENT, "_file", "_row"]].reset_index(drop=True)


def _check_repeats(table: pd.DataFrame, problems: Problems) -> None:
    """Note images that are listed a second time, with the row of the first."""
    first = table.drop_duplicates("path").set_index("path")["_row"]
    again = table["path"].notna() & table["path"].duplicated()
    problems.add(
        table, again, "path", lambda path: f"is listed twice, first in row {first[path]:.0f}"
    )


def _none_of(allowed: Iterable[str]) -> Callable[[object], str]:
    """Sentence for a value that is none of the allowed words; names the nearest."""
    words = list(allowed)

    def sentence(value: object) -> str:
        return f"is none of {words}{nearest(plain(value), words)}"

    return sentence


def _check_numbers(
    table: pd.DataFrame, columns: tuple[str, ...], highest: int, problems: Problems
) -> pd.DataFrame:
    """The table with columns of whole numbers from 0 to `highest` as float."""
    numbers = {}
    for column in columns:
        numbers[column] = to_numbers(table[column])
        odd = table[column].notna() & ~numbers[column].isin(range(highest + 1))
        problems.add(table, odd, column, f"is no whole number from 0 to {highest}")
    return table.assign(**numbers)


def _no_visit(value: object) -> str:
    """Sentence for a visit that cannot be read."""
    text = str(value)
    if to_numbers(pd.Series([text], dtype=object), decimal_comma=True).abs().le(LAST_DAY).all():
        return "has a decimal comma; write a decimal point"
    return (
        "is no number: write the number of the visit, or days since onset; cxrkit data convert "
        "makes days of dates"
    )


def _check_apart(table: pd.DataFrame) -> None:
    """Raise ValueError where a group has images in two splits."""
    crossing = leaks(table)
    if not len(crossing):
        return
    lines = []
    for group, splits in crossing[: tables.SHOWN].items():
        rows = table.loc[table["group_id"] == group, "_row"]
        lines.append(f"group {group!r} is in {splits} (rows {', '.join(map(str, rows[:5]))})")
    more = f"; and {len(crossing) - len(lines)} more groups" * (len(crossing) > len(lines))
    raise ValueError(f"{table['_file'].iloc[0]}: {'; '.join(lines)}{more}; split by patient")


def _hash_number(text: str) -> int:
    """A number from 0 to 16**12 - 1 that depends on the text alone."""
    return int(hashlib.sha256(text.encode()).hexdigest()[:12], 16)


def split_of(group_id: str) -> str:
    """train, val or test (70 / 10 / 20 %) by a hash of the group: the same on every machine.

    Example:
        >>> split_of("patient 1") == split_of("patient 1")
        True
    """
    u = _hash_number(f"{SALT}:{group_id}") / 16**12
    if u < vocabulary.SPLITS["train"]:
        return "train"
    if u >= 1 - vocabulary.SPLITS["test"]:
        return "test"
    return "val"


def fold_of(group_id: str, folds: int) -> int:
    """Number of the fold, 0 to folds - 1, by a hash of the group alone."""
    return _hash_number(f"{SALT}:fold:{group_id}") % folds


def leaks(table: pd.DataFrame) -> pd.Series:
    """Groups with images in more than one split.

    Args:
        table: with `group_id` and `split`.

    Returns:
        The splits as text, by group_id; empty when patients are kept apart.
    """
    pairs = table.drop_duplicates(["group_id", "split"])
    torn = pairs[pairs["group_id"].duplicated(keep=False)].groupby("group_id")["split"]
    return torn.agg(lambda names: ", ".join(sorted(names)))


def has(table: pd.DataFrame, what: str) -> bool:
    """Whether any row of the table carries `what`.

    Args:
        table: in table form.
        what: a key of `vocabulary.HAS`: "findings", "diagnosis", "view", "severity", "readers",
            "lungs" or "lesion".
    """
    columns = vocabulary.HAS[vocabulary.known(what, vocabulary.HAS, "question")]
    return bool(table[list(columns)].notna().any(axis=None))


def select_views(
    table: pd.DataFrame, choices: Choices = Choices()
) -> tuple[pd.DataFrame, dict[str, int]]:
    """The frontal images of a table.

    Args:
        table: in table form.
        choices: `views` "all" keeps images of unknown view too.

    Returns:
        The table, and how many images of each view were left out.
    """
    frontal = table["view"].isin(["PA", "AP"])
    if choices.views == "all":
        frontal |= table["view"].isna()
    left_out = table.loc[~frontal, "view"].fillna("unknown").value_counts()
    counted = {str(view): int(count) for view, count in left_out.items()}
    return table[frontal].reset_index(drop=True), counted


def counts(table: pd.DataFrame, questions: Iterable[str]) -> dict[str, int]:
    """How many rows of a table there are of each kind.

    Args:
        table: in table form.
        questions: "films" (rows), "groups", a column ("brixia_A": where it is known) or a column
            and a value ("view=PA"), as the keys of `Manifest.expected`.
    """

    def count(question: str) -> int:
        column, _, value = question.partition("=")
        if column == "films":
            return len(table)
        if column == "groups":
            return table["group_id"].nunique()
        if not value:
            return int(table[column].notna().sum())
        wanted = float(value) if value in ("0", "1") else value
        return int((table[column] == wanted).sum())

    return {question: count(question) for question in questions}
