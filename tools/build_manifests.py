"""Write data_manifests/<name>.csv for the public images from a prepared copy of them.

    python tools/build_manifests.py COPY

A maintainer runs it when that copy changes. It keeps addresses, hashes, groups and, where their
terms allow, labels. A value that can be derived is left blank (see `fetching.plan`): source_path =
the same file name, sha256_source = sha256, prepared = untouched. Scores and metadata under
non-commercial terms (Cohen, Brixia) never get in: LABELS lists what may.
"""

from __future__ import annotations

import argparse
import posixpath
from pathlib import Path

import numpy as np
import pandas as pd

from cxrkit.data import manifests, schema
from cxrkit.storage.atomic import write_atomic

PREPARED = {
    "downscaled to longest side 640 px, 8-bit grayscale JPEG q90": "640",
    "downscaled to longest side 512 px, 8-bit grayscale JPEG q90": "512",
    "8-bit grayscale JPEG q90": "grey",
}
LABELS = {
    "cohen": [],
    "cxnet": ["view"],
    "hannover": ["view"],
    "kermany": ["finding"],
    "kermany_224": ["finding"],
    "nih_cxr14": ["view", "finding"],
    "nih_cxr14_64px": ["view", "finding"],
}


# the films of `classroom`: (dataset, diagnosis) -> how many
CLASSROOM = {
    ("hannover", "covid19"): 20,
    ("kermany", "normal"): 10,
    ("kermany", "other_infection"): 10,
    ("nih_cxr14", "normal"): 10,
    ("nih_cxr14", "other_infection"): 10,
}


def manifest_rows(spec: schema.Manifest, table: pd.DataFrame) -> pd.DataFrame:
    """Rows of the prepared copy as rows of the manifest.

    Args:
        spec: of the dataset.
        table: labels.csv of the copy, as text.

    Returns:
        Sorted by path, without columns that are constant by definition or empty.
    """
    key_of_repo = {source.repo: key for key, source in spec.sources.items()}
    sources = table["source_repo"].map(key_of_repo)
    inside = []
    for path, key in zip(table["source_path"], sources):
        inside.append(posixpath.relpath(path, spec.sources[key].folder or "."))
    names = [posixpath.basename(path) for path in table["file"]]
    unchanged = np.array(names) == inside
    differs = table["sha256_source"] != table["sha256"]
    columns = {
        "path": table["file"],
        "source": sources,
        "source_path": np.where(unchanged, "", inside),
        "sha256": table["sha256"],
        "sha256_source": table["sha256_source"].where(differs, ""),
        "bytes": table["bytes"],
        "prepared": table["modified"].map(PREPARED).fillna(""),
        "group_id": table["group_id"],
        "split": table["group_id"].map(manifests.split_of),
        "licence_class": table["licence_class"],
        "mask_id": table.get("mask_source_id", ""),
        "mask_sha256": table["mask_sha256"],
    }
    for column in LABELS[spec.name]:
        columns["findings" if column == "finding" else column] = table[column]
    rows = pd.DataFrame(columns)
    left_out = [name for name in ("source", "licence_class") if rows[name].nunique() == 1]
    for name in rows:
        if not rows[name].replace("", np.nan).notna().any():
            left_out.append(name)
    return rows.drop(columns=left_out).sort_values("path")


def classroom_rows() -> pd.DataFrame:
    """Rows of `classroom`: of CLASSROOM's datasets, one film of each patient.

    Films of the test split come first, then by name.

    Raises:
        ValueError: a dataset has no list, or too few patients.
    """
    parts, taken = [], set()
    for (name, diagnosis), count in CLASSROOM.items():
        source, table = next(iter(schema.load(name).sources)), manifests.image_list(name)
        if table is None:
            raise ValueError(f"{name} has no list of public images")
        labels = manifests.read_manifest(name)  # row by row as the list
        table = table.assign(view=labels["view"], diagnosis=labels["diagnosis"])
        table = table[table["diagnosis"] == diagnosis]
        table = table.assign(later=table["split"] != "test").sort_values(["later", "path"])
        table = table[~table["group_id"].isin(taken)].drop_duplicates("group_id").head(count)
        taken |= set(table["group_id"])
        if len(table) < count:
            raise ValueError(f"{name}: {len(table)} patients with {diagnosis}, not {count}")
        file = table["path"].map(posixpath.basename)
        parts.append(
            pd.DataFrame(
                {
                    "path": "images/" + name + "_" + file,
                    "source": source,
                    "source_path": table.get("source_path", file).replace("", pd.NA).fillna(file),
                    "sha256": table["sha256"],
                    "sha256_source": table.get("sha256_source", ""),
                    "bytes": table["bytes"],
                    "prepared": table.get("prepared", ""),
                    "group_id": table["group_id"],
                    "split": table["split"],
                    "view": table["view"],
                    "diagnosis": diagnosis,
                }
            )
        )
    return pd.concat(parts).sort_values("path")


def main() -> None:
    """Write the CSV of each source of the copy and say how many bytes it has."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("copy", type=Path, help="folder with <name>/labels.csv")
    options = parser.parse_args()
    for name in LABELS:
        table = pd.read_csv(options.copy / name / "labels.csv", dtype=str)
        rows = manifest_rows(schema.load(name), table)
        write(name, rows)
    write("classroom", classroom_rows())


def write(name: str, rows: pd.DataFrame) -> None:
    """Write the CSV of a dataset and say how many bytes it has."""
    text = rows.to_csv(index=False, lineterminator="\n")
    write_atomic(schema.manifest_dir() / f"{name}.csv", text)
    print(f"{name}: {len(rows)} images, {len(text)} bytes")


if __name__ == "__main__":
    main()
