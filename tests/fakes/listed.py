"""Stand-ins of the public datasets whose images the kit lists, with their lung masks."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd

from cxrkit.data.manifests import image_list
from tests.fakes import trees

KERMANY, HANNOVER, COHEN = "kermany", "hannover", "cohen"


def write_listed(root: Path, name: str) -> pd.DataFrame:
    """Write the images of a dataset's list, each with its mask, into `root`; returns the rows."""
    rows = image_list(name)
    for i, row in enumerate(rows.to_dict("records")):
        image, lungs, _ = trees.chest(i, True)
        trees.save(root / row["path"], image)
        if isinstance(row["mask_id"], str):
            trees.save(root / "masks" / f"{PurePosixPath(row['path']).stem}.png", lungs)
    return rows


def kermany(root: Path) -> None:
    """Children: normal and pneumonia, all with masks."""
    write_listed(root, KERMANY)


def hannover(root: Path) -> None:
    """COVID-19; some with masks."""
    write_listed(root, HANNOVER)


def cohen(root: Path) -> None:
    """COVID-19 with masks, and the Brixia scores of two readers."""
    rows = write_listed(root, COHEN)
    names = [PurePosixPath(path).name for path in rows["source_path"].fillna(rows["path"])]
    rng = np.random.default_rng(0)
    labels = pd.DataFrame({"cohen_filename": names, "view": "PA", "offset": 0})
    labels["finding"] = "Pneumonia/Viral/COVID-19"
    for reader in "SJ":
        for zone in "ABCDEF":
            labels[f"brixia_{reader}_{zone}"] = rng.integers(0, 4, len(rows))
        zones = [f"brixia_{reader}_{zone}" for zone in "ABCDEF"]
        labels[f"brixia_{reader}_Global"] = labels[zones].sum(axis=1)
    trees.table(root / "labels.csv", labels.to_dict("records"))


TREES = (kermany, hannover, cohen)


def build(root: Path) -> Path:
    """Write all of them, each into a folder of its name; returns `root`."""
    for tree in TREES:
        tree(root / tree.__name__)
    return root
