"""Manifest: one reader that turns any dataset into the same checked table, one row a film, and
splits it by patient.

A dataset is `data_manifests/<name>.json` (`schema.Manifest`) and, for the public films,
`<name>.csv` beside it: one row a film with its address, hashes, group and split. Park et al.
(section 4) do not say how patients were split; here by group.
"""

import hashlib
import os
import warnings
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd

from cxrkit.config import vocabulary
from cxrkit.config.choices import Choices
from cxrkit.config.vocabulary import BRIXIA, COLUMNS, FINDINGS, SECOND, ZONES
from cxrkit.data import schema
from cxrkit.data.labels import ALIASES, RULES, diagnosis, digits, plain, words
from cxrkit.data.schema import Cut, load, manifest_dir
from cxrkit.storage.artifacts import default_root

Manifest, names = schema.Manifest, schema.names


def data_root(root=None):
    """Where fetched datasets lie: `root`, else CXRKIT_DATA, else `data/` of the store."""
    return Path(root or os.environ.get("CXRKIT_DATA") or default_root() / "data").expanduser()


def folder_of(name, root=None):
    """A dataset's folder: <root>/<name> where that exists, else `root` itself, taken as the
    dataset's own folder.
    """
    inside = data_root(root) / name
    return inside if inside.is_dir() or root is None else data_root(root)


def read_csv(path, separator=","):
    """Table file -> text columns, blanks as NaN, no outer spaces, plus `_file` and `_row` (2 =
    first line below the header).

    BOM and CRLF do not matter. Raises ValueError naming the file.
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


def _refuse(table, bad, column, why):
    """Raise ValueError with file, row, column and value of the first True in `bad`, if there is
    one.
    """
    if bad.any():
        first = table.loc[bad.idxmax()]
        raise ValueError(
            f"{first['_file']}, row {first['_row']}, column {column}: {first[column]!r} {why}"
        )


def films(name):
    """The public films of a dataset as its CSV lists them (text columns), or None. Refuses paths
    that leave the folder.
    """
    path = manifest_dir() / f"{name}.csv"
    if not path.exists():
        return None
    table = read_csv(path)
    outside = (
        table["path"]
        .fillna("..")
        .map(lambda p: PurePosixPath(p).is_absolute() or ".." in PurePosixPath(p).parts)
    )
    _refuse(table, outside, "path", "is no path inside the dataset's folder")
    return table


def read(name, root=None, choices=Choices(), apart=True):
    """Dataset by name -> checked DataFrame with `schema.COLUMNS`, one row a film; unknown = NaN,
    paths under the folder.

    `root` is the folder of all datasets or of this one. Films of every view are kept (see
    `select_views`). Raises ValueError naming file, row and column (with `apart` also for a group in
    two splits); FileNotFoundError saying how to obtain the data.
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
    return check(_shape(spec, rows, folder, choices), apart)


def _rows(spec, folder):
    """Raw rows: the CSV in data_manifests, else the tables that list films, else the files that
    match `glob`.
    """
    rows = films(spec.name)
    if rows is not None:
        return rows
    if spec.glob:
        paths = pd.Series(
            sorted(p.relative_to(folder).as_posix() for p in folder.glob(spec.glob)), dtype="str"
        )
        rows = paths.str.extract(spec.pattern).assign(
            path=paths, _file=str(folder), _row=np.arange(1, len(paths) + 1)
        )
    else:
        tables = [
            table for table in spec.tables if not table.key and (folder / table.file).exists()
        ]
        raw = [_columns(read_csv(folder / table.file, table.separator), table) for table in tables]
        rows = pd.concat(raw or [pd.DataFrame()])
    if not len(rows):
        raise FileNotFoundError(
            f"{spec.name}: no films listed in {folder}. How to obtain them: {spec.obtain}"
        )
    return (
        rows.drop_duplicates("path", ignore_index=True)
        if spec.repeats
        else rows.reset_index(drop=True)
    )


def _columns(raw, table):
    """Their columns -> ours: by the table's map, or, where that is empty, by our own names and
    their aliases.
    """
    if not table.columns:
        ours = raw.rename(
            columns={c: ALIASES["column"].get(plain(c), c) for c in raw if not c.startswith("_")}
        )
        for name in ours.columns[ours.columns.duplicated()]:
            theirs = raw.columns[ours.columns == name].tolist()
            raise ValueError(f"{table.file}: the columns {theirs} all mean {name!r}; keep one")
        return ours
    ours = raw[["_file", "_row"]].copy()
    for name, theirs in table.columns.items():
        columns = (
            [theirs.column]
            if isinstance(theirs, Cut)
            else [theirs]
            if isinstance(theirs, str)
            else theirs
        )
        for column in columns:
            if column not in raw:
                raise ValueError(
                    f"{table.file}: no column {column!r}; it has "
                    f"{[c for c in raw if not c.startswith('_')]}"
                )
        value = raw[columns].bfill(axis=1).iloc[:, 0]
        ours[name] = (
            value.str.extract(theirs.pattern, expand=False) if isinstance(theirs, Cut) else value
        )
    return ours


def _join(rows, table, folder):
    """Fill what is unknown in `rows` from an annotation file, film by film through the public file
    name in its `key` column.
    """
    keyed = table.model_copy(update={"columns": {**table.columns, "key": table.key}})
    labels = _columns(read_csv(folder / table.file, table.separator), keyed).drop(
        columns=["_file", "_row"]
    )
    labels["key"] = labels["key"].map(_base, na_action="ignore")
    labels = labels.dropna(subset="key").drop_duplicates("key").set_index("key")
    public = rows["source_path"].fillna(rows["path"]) if "source_path" in rows else rows["path"]
    found = labels.reindex(public.map(_base)).set_axis(rows.index)
    return rows.assign(**{c: rows[c].fillna(found[c]) if c in rows else found[c] for c in found})


def _base(path):
    return PurePosixPath(path).name


def _shape(spec, rows, folder, choices):
    """Raw rows -> the columns of the table form, behind `_file` and `_row`."""
    rows = rows.assign(**{c: v for c, v in spec.constants.items() if c not in rows})
    rows = rows.reindex(
        columns=list(
            dict.fromkeys([*rows, *COLUMNS, "findings", "array", "brixia", "brixia2", "mask_id"])
        )
    )
    rows = rows.astype({c: object for c in rows if c != "_row"})
    out = rows[["_file", "_row", "split", "lesion_mask"]].assign(
        dataset=spec.name, site=rows["site"].fillna(spec.name)
    )
    out["path"] = rows["path"].map(spec.path.format, na_action="ignore")
    out["patient_id"] = rows["patient_id"].fillna(rows["group_id"])
    group = (spec.group or spec.name + ":{}").format
    out["group_id"] = rows["group_id"].fillna(out["patient_id"].map(group, na_action="ignore"))
    out["split"] = rows["split"].fillna(out["group_id"].map(split_of, na_action="ignore"))
    out["view"] = words("view", rows["view"])
    out["supine"] = (
        rows["view"].map(lambda view: "supine" in view.lower(), na_action="ignore").eq(True)
    )
    # your own words for findings say no cause
    out["diagnosis"] = diagnosis(rows, spec.words, spec.rule != "named")
    out["visit"] = pd.to_numeric(rows["visit"], errors="coerce")
    drawn = rows["path"].map(
        lambda path: f"masks/{PurePosixPath(path).stem}.png", na_action="ignore"
    )
    out["lung_mask"] = rows["lung_mask"].fillna(drawn.where(rows["mask_id"].notna()))
    for column in ("path", "lung_mask", "lesion_mask"):
        out[column] = out[column].map(
            lambda path: path if "://" in path else str(folder / path), na_action="ignore"
        )
    parts = [
        digits(rows, "array", ZONES),
        digits(rows, "brixia", BRIXIA),
        digits(rows, "brixia2", SECOND),
    ]
    return pd.concat([out, RULES[spec.rule](rows, spec.findings, choices), *parts], axis=1)


def check(table, apart=True):
    """Table form with sound values (numbers as float), columns in order. Raises ValueError naming
    file, row and column.
    """
    for column in ("path", "group_id", "split"):
        why = "is missing: splits need a patient_id" if column == "group_id" else "is missing"
        _refuse(table, table[column].isna(), column, why)
    _refuse(table, table["path"].duplicated(), "path", "stands twice")
    for column, allowed in (
        ("view", vocabulary.VIEWS),
        ("split", vocabulary.SPLITS),
        ("diagnosis", vocabulary.DIAGNOSES),
    ):
        _refuse(
            table,
            table[column].notna() & ~table[column].isin(list(allowed)),
            column,
            f"is none of {list(allowed)}",
        )
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


# of 400 tried, the film counts nearest to 70/10/20 in every public source; no label was looked at
SALT = "cxrkit-83"


def split_of(group_id):
    """train / val / test (70 / 10 / 20 %) from a hash of the group alone: the same in every
    dataset, on every machine.
    """
    u = int(hashlib.sha256(f"{SALT}:{group_id}".encode()).hexdigest()[:12], 16) / 16**12
    return (
        "train"
        if u < vocabulary.SPLITS["train"]
        else "test"
        if u >= 1 - vocabulary.SPLITS["test"]
        else "val"
    )


def fold_of(group_id, folds):
    """Number of the fold, 0 to folds - 1, from a hash of the group alone."""
    return int(hashlib.sha256(f"{SALT}:fold:{group_id}".encode()).hexdigest()[:12], 16) % folds


def leaks(table):
    """Groups with films in more than one split -> Series of the splits, by group_id; empty when
    patients are kept apart.
    """
    splits = (
        table.drop_duplicates(["group_id", "split"])
        .groupby("group_id")["split"]
        .agg(lambda s: ", ".join(sorted(s)))
    )
    return splits[splits.str.contains(",")]


def has(table, what):
    """Does any row of the table carry `what` ("findings", "diagnosis", "view", "severity",
    "readers", "lungs", "lesion")?
    """
    return bool(
        table[list(vocabulary.HAS[vocabulary.known(what, vocabulary.HAS, "question")])]
        .notna()
        .any(axis=None)
    )


def select_views(table, choices=Choices()):
    """Frontal films -> (table, dict of the counts left out by view). Choices.views "all" keeps
    films of unknown view too.
    """
    frontal = table["view"].isin(["PA", "AP"]) | (table["view"].isna() & (choices.views == "all"))
    return table[frontal].reset_index(drop=True), table.loc[~frontal, "view"].fillna(
        "unknown"
    ).value_counts().to_dict()


def counts(table, questions):
    """{"films": n, "groups": n, "view=PA": n, "brixia_A": n known} for the questions asked (keys of
    Manifest.expected).
    """

    def one(question):
        column, _, value = question.partition("=")
        if column in ("films", "groups"):
            return len(table) if column == "films" else table["group_id"].nunique()
        wanted = float(value) if value in ("0", "1") else value
        return int((table[column] == wanted).sum() if value else table[column].notna().sum())

    return {question: one(question) for question in questions}
