"""The classroom set: openly licensed real films that a teacher may show beside the virtual ones."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from cxrkit.data import manifests

NAME = "classroom"


def classroom_images(root: str | Path | None = None) -> pd.DataFrame | None:
    """The films of the classroom set that are here; without any, it says how to get them.

    Args:
        root: folder of all datasets; default CXRKIT_DATA, else `data/` of the store.

    Returns:
        A table as of `data.read_manifest`, or None.
    """
    table = manifests.read_manifest(NAME, root)
    here = table[[Path(path).is_file() for path in table["path"]]]
    if len(here):
        return here.reset_index(drop=True)
    print(f"not available here: run `cxrkit data fetch {NAME}`")
    return None
