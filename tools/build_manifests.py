"""Write data_manifests/<name>.csv for the public films from a prepared copy of them: python
tools/build_manifests.py COPY.

A maintainer runs it when that copy changes. It keeps addresses, hashes, groups and, where their
terms allow, labels. A value that can be derived is left blank (see `fetch.plan`): source_path = the
same file name, sha256_source = sha256, prepared = untouched. Scores and metadata under
non-commercial terms (Cohen, Brixia) never get in: LABELS lists what may.
"""

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


def films(spec, table):
    """Rows of the prepared copy (labels.csv as text) -> rows of the manifest."""
    source = table["source_repo"].map({s.repo: key for key, s in spec.sources.items()})
    inside = [
        posixpath.relpath(path, spec.sources[key].folder or ".")
        for path, key in zip(table["source_path"], source)
    ]
    same = np.array([posixpath.basename(path) for path in table["file"]]) == inside
    rows = pd.DataFrame(
        {
            "path": table["file"],
            "source": source,
            "source_path": np.where(same, "", inside),
            "sha256": table["sha256"],
            "sha256_source": table["sha256_source"].where(
                table["sha256_source"] != table["sha256"], ""
            ),
            "bytes": table["bytes"],
            "prepared": table["modified"].map(PREPARED).fillna(""),
            "group_id": table["group_id"],
            "split": table["group_id"].map(manifests.split_of),
            "licence_class": table["licence_class"],
            "mask_id": table.get("mask_source_id", ""),
            "mask_sha256": table["mask_sha256"],
            **{"findings" if c == "finding" else c: table[c] for c in LABELS[spec.name]},
        }
    )
    constant = [c for c in ("source", "licence_class") if rows[c].nunique() == 1]
    empty = [c for c in rows if not rows[c].replace("", np.nan).notna().any()]
    return rows.drop(columns=constant + empty).sort_values("path")


def main():
    """Write the CSV of each source of the copy and say how many bytes it has."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("copy", type=Path, help="folder with <name>/labels.csv")
    for name in LABELS:
        table = pd.read_csv(parser.parse_args().copy / name / "labels.csv", dtype=str)
        text = films(schema.load(name), table).to_csv(index=False, lineterminator="\n")
        write_atomic(schema.manifest_dir() / f"{name}.csv", text)
        print(f"{name}: {len(table)} films, {len(text)} bytes")


if __name__ == "__main__":
    main()
