"""One reader that turns any dataset into the same checked table, one row an image.

A dataset is `data_manifests/<name>.json` (`schema.Manifest`) and, for the public images,
`<name>.csv` beside it: one row an image with its address, hashes, group and split. Park et al.
(section 4) do not say how patients were split; here it is by group.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd

from cxrkit.config import vocabulary
from cxrkit.config.choices import Choices
from cxrkit.config.vocabulary import BRIXIA, COLUMNS, FINDINGS, SECOND, ZONES
from cxrkit.data import schema
from cxrkit.data.labels import ALIASES, RULES, diagnosis, digits, plain, standard_terms
from cxrkit.data.schema import Cut, Manifest, load, manifest_dir
from cxrkit.storage.locations import data_root

# of 400 tried, the image counts nearest to 70/10/20 in every public source; no label was looked at
SALT = "cxrkit-83"


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


def read_csv(path: str | Path, separator: str = ",") -> pd.DataFrame:
    """Table file -> text columns, blanks as NaN, no outer spaces; a BOM and CRLF do not matter.

    Args:
        path: of the file.
        separator: between the columns.

    Returns:
        Its columns, and `_file` and `_row` (2 = first line below the header) for messages.

    Raises:
        ValueError: it is no table; the message names the file.
    """
    try:
        table = pd.read_csv(
            path,
            sep=separator,
            dtype=object,
            encoding="utf-8-sig",
            keep_default_na=False,
            index_col=False,
        )
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a readable table: {error}") from None
    table.columns = table.columns.str.strip()
    table = table.apply(lambda column: column.str.strip()).replace("", np.nan)
    return table.assign(_file=str(path), _row=np.arange(2, len(table) + 2))


def _refuse(table: pd.DataFrame, bad: pd.Series, column: str, why: str) -> None:
    """Raise ValueError with file, row, column and value of the first True in `bad`, if any."""
    if bad.any():
        first = table.loc[bad.idxmax()]
        raise ValueError(
            f"{first['_file']}, row {first['_row']}, column {column}: {first[column]!r} {why}"
        )


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
    table = read_csv(path)
    outside = table["path"].fillna("..").map(leaves)
    _refuse(table, outside, "path", "is no path inside the dataset's folder")
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
    """
    spec, folder = load(name), folder_of(name, root)
    rows = _rows(spec, folder)
    labels = [table for table in spec.tables if table.key and (folder / table.file).exists()]
    for table in labels:
        rows = _join(rows, table, folder)
    if not labels and any(table.key for table in spec.tables):
        warnings.warn(
            f"{name}: no label file in {folder}, labels stay unknown; run: cxrkit data fetch "
            f"{name}",
            stacklevel=2,
        )
    return check(_to_table_form(spec, rows, folder, choices), apart)


def _rows(spec: Manifest, folder: Path) -> pd.DataFrame:
    """Raw rows: of the list in data_manifests, of the files that match `glob`, or of the tables."""
    rows = image_list(spec.name)
    if rows is not None:
        return rows
    rows = _found_rows(spec, folder) if spec.glob else _listed_rows(spec, folder)
    if not len(rows):
        raise FileNotFoundError(
            f"{spec.name}: no images listed in {folder}. How to obtain them: {spec.obtain}"
        )
    if spec.repeats:
        return rows.drop_duplicates("path", ignore_index=True)
    return rows.reset_index(drop=True)


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
            parts.append(_columns(read_csv(folder / table.file, table.separator), table))
    return pd.concat(parts) if parts else pd.DataFrame()


def _columns(raw: pd.DataFrame, table: schema.Table) -> pd.DataFrame:
    """Their columns -> ours: by the table's map, or, where that is empty, by names and aliases."""
    if not table.columns:
        return _columns_by_name(raw, table)
    ours = raw[["_file", "_row"]].copy()
    for name, theirs in table.columns.items():
        ours[name] = _column(raw, table, theirs)
    return ours


def _columns_by_name(raw: pd.DataFrame, table: schema.Table) -> pd.DataFrame:
    """Columns under our own names or their aliases -> ours."""
    names = {c: ALIASES["column"].get(plain(c), c) for c in raw if not c.startswith("_")}
    ours = raw.rename(columns=names)
    for name in ours.columns[ours.columns.duplicated()]:
        theirs = raw.columns[ours.columns == name].tolist()
        raise ValueError(f"{table.file}: the columns {theirs} all mean {name!r}; keep one")
    return ours


def _column(raw: pd.DataFrame, table: schema.Table, theirs: str | list[str] | Cut) -> pd.Series:
    """One column of ours: theirs, the first not blank of several, or cut out of theirs."""
    if isinstance(theirs, list):
        columns = theirs
    else:
        columns = [theirs.column if isinstance(theirs, Cut) else theirs]
    for column in columns:
        if column not in raw:
            known = [c for c in raw if not c.startswith("_")]
            raise ValueError(f"{table.file}: no column {column!r}; it has {known}")
    value = raw[columns].bfill(axis=1).iloc[:, 0]
    if isinstance(theirs, Cut):
        return value.str.extract(theirs.pattern, expand=False)
    return value


def _join(rows: pd.DataFrame, table: schema.Table, folder: Path) -> pd.DataFrame:
    """Fill what is unknown in `rows` from an annotation file, by the public name of the image."""
    keyed = table.model_copy(update={"columns": {**table.columns, "key": table.key}})
    labels = _columns(read_csv(folder / table.file, table.separator), keyed)
    labels = labels.drop(columns=["_file", "_row"])
    labels["key"] = labels["key"].map(_file_name, na_action="ignore")
    labels = labels.dropna(subset="key").drop_duplicates("key").set_index("key")
    public = rows["source_path"].fillna(rows["path"]) if "source_path" in rows else rows["path"]
    found = labels.reindex(public.map(_file_name)).set_axis(rows.index)
    filled = {c: rows[c].fillna(found[c]) if c in rows else found[c] for c in found}
    return rows.assign(**filled)


def _file_name(path: str) -> str:
    return PurePosixPath(path).name


def _to_table_form(
    spec: Manifest, rows: pd.DataFrame, folder: Path, choices: Choices
) -> pd.DataFrame:
    """Raw rows -> the columns of the table form, behind `_file` and `_row`."""
    rows = _with_all_columns(spec, rows)
    out = rows[["_file", "_row", "split", "lesion_mask"]].assign(
        dataset=spec.name, site=rows["site"].fillna(spec.name)
    )
    out["path"] = rows["path"].map(spec.path.format, na_action="ignore")
    out["patient_id"] = rows["patient_id"].fillna(rows["group_id"])
    group = (spec.group or spec.name + ":{}").format
    out["group_id"] = rows["group_id"].fillna(out["patient_id"].map(group, na_action="ignore"))
    out["split"] = rows["split"].fillna(out["group_id"].map(split_of, na_action="ignore"))
    out["view"] = standard_terms("view", rows["view"])
    supine = rows["view"].map(lambda view: "supine" in view.lower(), na_action="ignore")
    out["supine"] = supine.eq(True)
    # the user's own words for findings name no cause
    out["diagnosis"] = diagnosis(rows, spec.words, spec.rule != "named")
    out["visit"] = pd.to_numeric(rows["visit"], errors="coerce")
    out["lung_mask"] = rows["lung_mask"].fillna(_fetched_masks(rows))
    for column in ("path", "lung_mask", "lesion_mask"):
        out[column] = out[column].map(lambda path: _inside(folder, path), na_action="ignore")
    findings = RULES[spec.rule](rows, spec.findings, choices)
    severity = [
        digits(rows, "array", ZONES),
        digits(rows, "brixia", BRIXIA),
        digits(rows, "brixia2", SECOND),
    ]
    return pd.concat([out, findings, *severity], axis=1)


def _with_all_columns(spec: Manifest, rows: pd.DataFrame) -> pd.DataFrame:
    """Raw rows with the constants of the dataset and every column that is read, as objects."""
    constants = {c: value for c, value in spec.constants.items() if c not in rows}
    rows = rows.assign(**constants)
    packed = ("findings", "array", "brixia", "brixia2", "mask_id")
    rows = rows.reindex(columns=list(dict.fromkeys([*rows, *COLUMNS, *packed])))
    return rows.astype({c: object for c in rows if c != "_row"})


def _fetched_masks(rows: pd.DataFrame) -> pd.Series:
    """Where `fetch` puts the public mask of an image; NaN for an image without one."""
    masks = rows["path"].map(
        lambda path: f"masks/{PurePosixPath(path).stem}.png", na_action="ignore"
    )
    return masks.where(rows["mask_id"].notna())


def _inside(folder: Path, path: str) -> str:
    """The path in the dataset's folder; an address stays as it is."""
    return path if "://" in path else str(folder / path)


def check(table: pd.DataFrame, apart: bool = True) -> pd.DataFrame:
    """The table with its numbers as float and its columns in order, after its values were checked.

    Args:
        table: in table form, behind `_file` and `_row`.
        apart: refuse a group that is in two splits.

    Raises:
        ValueError: a value is wrong; the message names file, row and column.
    """
    for column in ("path", "group_id", "split"):
        why = "is missing: splits need a patient_id" if column == "group_id" else "is missing"
        _refuse(table, table[column].isna(), column, why)
    _refuse(table, table["path"].duplicated(), "path", "is listed twice")
    for column, allowed in (
        ("view", vocabulary.VIEWS),
        ("split", vocabulary.SPLITS),
        ("diagnosis", vocabulary.DIAGNOSES),
    ):
        wrong = table[column].notna() & ~table[column].isin(list(allowed))
        _refuse(table, wrong, column, f"is none of {list(allowed)}")
    for columns, highest in ((FINDINGS + ZONES, 1), (BRIXIA + SECOND, 3)):
        numbers = table[list(columns)].apply(pd.to_numeric, errors="coerce").astype(float)
        for column in columns:
            odd = table[column].notna() & ~numbers[column].isin(range(highest + 1))
            _refuse(table, odd, column, f"is no whole number from 0 to {highest}")
        table = table.assign(**numbers)
    crossing = leaks(table) if apart else ()
    if len(crossing):
        raise ValueError(
            f"{table['_file'].iloc[0]}: group {crossing.index[0]!r} is in {crossing.iloc[0]}; "
            "split by patient"
        )
    return table[list(COLUMNS)].reset_index(drop=True)


def _hash_number(text: str) -> int:
    """A number from 0 to 16**12 - 1 that depends on the text alone."""
    return int(hashlib.sha256(text.encode()).hexdigest()[:12], 16)


def split_of(group_id: str) -> str:
    """train, val or test (70 / 10 / 20 %) by a hash of the group: the same on every machine."""
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
    pairs = table.drop_duplicates(["group_id", "split"]).groupby("group_id")["split"]
    splits = pairs.agg(lambda names: ", ".join(sorted(names)))
    return splits[splits.str.contains(",")]


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
    left_out = table.loc[~frontal, "view"].fillna("unknown").value_counts().to_dict()
    return table[frontal].reset_index(drop=True), left_out


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
