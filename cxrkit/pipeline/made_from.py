"""Made from: the real images that a stage uses, as a table, and what differs between two of them.

A stage is found again by its settings and by its images. Virtual patients are determined by their
settings; of real images the rows of their manifests count: path in the dataset, patient, split,
view, labels, and content. Where the data lie, in which order, and when they were written does not.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import warnings
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import pandas as pd

from cxrkit.config.sections import Profile
from cxrkit.config.vocabulary import COLUMNS
from cxrkit.data import fingerprints, manifests, schema, sources
from cxrkit.pipeline import task_data
from cxrkit.storage.artifacts import Store
from cxrkit.storage.atomic import write_atomic

FILE = "made_from.csv.gz"
PLAIN = ("dataset", "path", "site", "patient_id", "group_id", "split", "view")
MASKS = ("lung_mask", "lesion_mask")
LABELS = tuple(name for name in COLUMNS if name not in (*PLAIN, *MASKS))
ROW = (*PLAIN, "labels", "masks", "content")
DIGITS = 8  # of the digest in the name of an artifact

PROBED = 20  # images that are looked for, to know whether a dataset is here

_tables: dict[tuple[str, ...], tuple[object, pd.DataFrame]] = {}
_digests: dict[tuple[object, ...], str] = {}


class MissingData(FileNotFoundError):
    """The images of a profile are not here; the message says which, and how to obtain them."""


class Dataset(NamedTuple):
    """A dataset as it lies here.

    Attributes:
        table: of `read_manifest`.
        folder: where its images lie.
        contents: file -> what stands for its content, "" where there is no file.
        state: digest of all that.
    """

    table: pd.DataFrame
    folder: Path
    contents: dict[str, str]
    state: str


def real_manifests(profile: Profile) -> list[str]:
    """Names of the datasets of a profile that hold real images."""
    return [name for name in profile.manifests if name != "virtual"]


def images_digest(profile: Profile, tasks: tuple[str, ...], store: Store) -> str:
    """Digest of the real images that serve any of the tasks; "" where there are none.

    Args:
        profile: its `manifests` name the datasets.
        tasks: keys of `task_data.TASKS`.
        store: knows where the images lie.

    Raises:
        MissingData: a dataset is not here.
        ValueError: a table is wrong; the message names file, row and column.
    """
    if not tasks:
        return ""
    datasets = _read(profile, tasks, store)
    own = profile.sources
    named = (own.findings_datasets, own.findings_tests, own.diagnosis_datasets)
    selection = (tasks, *named, *(part.state for part in datasets))
    if selection not in _digests:
        text = _as_csv(_serving(datasets, profile, tasks))
        _digests[selection] = hashlib.sha256(text).hexdigest() if text else ""
    return _digests[selection]


def images_table(profile: Profile, tasks: tuple[str, ...], store: Store) -> pd.DataFrame:
    """The real images that serve any of the tasks: the columns ROW, sorted. Arguments as above."""
    return _serving(_read(profile, tasks, store), profile, tasks)


def _serving(datasets: list[Dataset], profile: Profile, tasks: tuple[str, ...]) -> pd.DataFrame:
    parts = [pd.DataFrame(columns=list(ROW), dtype=str)]
    for dataset in datasets:
        used = pd.Series(False, dataset.table.index)
        for task in tasks:
            used |= task_data.serves(dataset.table, profile, task)
        parts.append(_rows(dataset, used))
    whole = pd.concat(parts, ignore_index=True)
    return whole.sort_values(["dataset", "path"], ignore_index=True)


def _as_csv(rows: pd.DataFrame) -> bytes:
    return rows.to_csv(index=False, lineterminator="\n").encode() if len(rows) else b""


# reading


def _read(profile: Profile, tasks: tuple[str, ...], store: Store) -> list[Dataset]:
    """The datasets that can serve any of the tasks: the others need not be here."""
    asked = {name for task in tasks for name in task_data.serving_datasets(profile, task)}
    return [_dataset(name, profile, store) for name in real_manifests(profile) if name in asked]


def _dataset(name: str, profile: Profile, store: Store) -> Dataset:
    """A dataset; its tables are read again only where they have changed."""
    spec, folder = schema.load(name), manifests.folder_of(name, store.data)
    tables = [schema.manifest_dir() / f"{name}.{suffix}" for suffix in ("csv", "json")]
    tables += [folder / table.file for table in spec.tables]
    state: list[object] = [fingerprints.status(file) for file in tables]
    if spec.glob:
        state.append(sorted(str(path) for path in folder.glob(spec.glob)))
    asked = (name, str(folder), profile.choices.uncertain)
    then, table = _tables.get(asked, (None, None))
    if table is None or then != state:
        table = _read_table(name, profile, store)
        _tables[asked] = state, table
    _refuse_missing(name, table, folder)
    contents = _contents(name, table, folder, store)
    digest = hashlib.sha256(repr((asked, state)).encode())
    for file, content in contents.items():
        digest.update(f"{file}\0{content}\n".encode())
    return Dataset(table, folder, contents, digest.hexdigest())


def _read_table(name: str, profile: Profile, store: Store) -> pd.DataFrame:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the stage that reads it will warn
        try:
            return manifests.read_manifest(name, store.data, profile.choices)
        except FileNotFoundError as error:
            raise MissingData(str(error)) from None


def _refuse_missing(name: str, table: pd.DataFrame, folder: Path) -> None:
    """Raise MissingData where none of some images of a dataset is there."""
    paths = table["path"]
    some = [*paths[:PROBED], *paths[:: max(1, len(paths) // PROBED)]]
    if not any("://" in path or sources.parse(path).file.exists() for path in some):
        raise MissingData(
            f"{name}: no image of it in {folder}. How to obtain them: {schema.load(name).obtain}"
        )


def _contents(name: str, table: pd.DataFrame, folder: Path, store: Store) -> dict[str, str]:
    """What stands for the content of each file: the manifest's sha256, else a fingerprint."""
    contents = _listed_contents(name, folder)
    files = {}
    for column in ("path", *MASKS):
        files |= dict.fromkeys(str(sources.parse(path).file) for path in table[column].dropna())
    others = [file for file in files if file not in contents and file != "."]
    found = fingerprints.fingerprints(others, store.root / "fingerprints" / f"{name}.json")
    known = {file: contents[file] for file in files if file in contents}
    return known | dict(zip(others, found, strict=True))


def _listed_contents(name: str, folder: Path) -> dict[str, str]:
    """The digests that the manifest of a public dataset states, by file."""
    listed, contents = manifests.image_list(name), {}
    if listed is None:
        return contents
    place = schema.load(name).path
    if "sha256" in listed:
        for path, digest in zip(listed["path"], listed["sha256"], strict=True):
            contents[str(folder / place.format(path))] = digest
    if "mask_sha256" in listed:
        for path, digest in zip(listed["path"], listed["mask_sha256"], strict=True):
            contents[str(folder / "masks" / f"{PurePosixPath(path).stem}.png")] = digest
    return {file: digest for file, digest in contents.items() if isinstance(digest, str)}


# rows as they are compared


def _rows(dataset: Dataset, used: pd.Series) -> pd.DataFrame:
    """Some rows of a dataset: the columns ROW, all text, "" for what is unknown."""
    table = dataset.table[used]
    rows = table[list(PLAIN)].astype(object).where(table[list(PLAIN)].notna(), "")
    rows["path"] = [_relative(path, dataset.folder) for path in rows["path"]]
    rows["labels"] = _joined({name: table[name] for name in LABELS})
    masks = {}
    for column in MASKS:
        masks[column] = table[column].map(
            lambda path: f"{_relative(path, dataset.folder)}@{_content(path, dataset)}",
            na_action="ignore",
        )
    rows["masks"] = _joined(masks)
    rows["content"] = [_content(path, dataset) for path in table["path"]]
    return rows.astype(str)[list(ROW)]


def _relative(path: str, folder: Path) -> str:
    """A path as it is in any copy of the dataset."""
    prefix = str(folder) + os.sep
    return path[len(prefix) :].replace(os.sep, "/") if path.startswith(prefix) else path


def _content(path: str, dataset: Dataset) -> str:
    return dataset.contents.get(str(sources.parse(path).file), "")


def _joined(columns: dict[str, pd.Series]) -> list[str]:
    """One text a row: "diagnosis=covid19 edema=1", without what is unknown."""
    words = []
    for name, column in columns.items():
        known = column.map(_word, na_action="ignore")
        words.append([f"{name}={word}" if isinstance(word, str) else "" for word in known])
    return [" ".join(filter(None, row)) for row in zip(*words, strict=True)]


def _word(value: object) -> str | None:
    """A label as text: whole numbers without a point; None for a mark that is not set."""
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else None
    return f"{value:g}" if isinstance(value, (int, float)) else str(value)


# what an artifact notes, and how it differs


def write(folder: Path, rows: pd.DataFrame) -> None:
    """Note in an artifact which images it is made from."""
    write_atomic(folder / FILE, gzip.compress(_as_csv(rows), mtime=0))


def read(folder: Path) -> pd.DataFrame | None:
    """What `write` noted; None for an artifact without it."""
    path = folder / FILE
    if not path.exists():
        return None
    return pd.read_csv(path, dtype=str, keep_default_na=False)


def differences(old: pd.DataFrame, new: pd.DataFrame, shown: int = 3) -> str:
    """In which rows two tables of images differ: counts, and the first few.

    Args:
        old: table of `images_table`.
        new: another one.
        shown: number of rows that are named.
    """
    both = old.merge(new, on=["dataset", "path"], how="outer", indicator=True).fillna("")
    others = [name for name in ROW if name not in ("dataset", "path")]
    named, counts = [], {"changed": 0, "new": 0, "gone": 0}
    kinds = {"both": "changed", "right_only": "new", "left_only": "gone"}
    for row in both.to_dict("records"):
        kind, parts = kinds[str(row["_merge"])], []
        if kind == "changed":
            for name in others:
                before, after = _apart(str(row[f"{name}_x"]), str(row[f"{name}_y"]))
                if before != after:
                    parts.append(f"{name} {before or 'unknown'} -> {after or 'unknown'}")
            if not parts:
                continue
        counts[kind] += 1
        if len(named) < shown:
            named.append(f"{row['dataset']}/{row['path']} ({', '.join(parts) or kind})")
    total = ", ".join(f"{count} {kind}" for kind, count in counts.items() if count)
    return f"rows that differ: {total}: {'; '.join(named)}" if named else "no row differs"


def _apart(before: str, after: str) -> tuple[str, str]:
    """The words in which two texts differ."""
    old, new = before.split(" "), after.split(" ")
    if len(old) == 1 and len(new) == 1:
        return before, after
    return (
        " ".join(word for word in old if word not in new),
        " ".join(word for word in new if word not in old),
    )
