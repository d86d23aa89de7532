"""Verification: whether every artifact of a store is as it was made, byte by byte."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from tqdm.auto import tqdm

from cxrkit.data import cache
from cxrkit.reproduction import inventory
from cxrkit.storage import atomic, integrity
from cxrkit.storage.artifacts import Store

IMAGE_CACHE = "images"  # stage name of the folders of the image cache


@dataclass(frozen=True)
class Verified:
    """What was found of one artifact.

    Attributes:
        folder: of the artifact.
        faults: a line for each damaged file; none = it is whole.
        listed: whether every byte could be compared. An artifact that was made before the kit
            listed its files, and the image cache, are checked for lengths alone.
    """

    folder: Path
    faults: tuple[str, ...]
    listed: bool


def verify_store(store: Store, progress: bool | None = None) -> list[Verified]:
    """Read every finished artifact and every image cache of a store.

    Args:
        store: whose folder is read; lessons (runs/) and datasets (data/) are no artifacts.
        progress: show a bar; None = on a terminal.
    """
    folders = []
    if store.root.is_dir():
        folders = [path for path in sorted(store.root.iterdir()) if integrity.is_artifact(path)]
    sizes = {folder: inventory.size_of(folder) for folder in folders}
    found = []
    bar = tqdm(
        total=sum(sizes.values()),
        unit="B",
        unit_scale=True,
        desc="verify",
        disable=None if progress is None else not progress,
    )
    with bar:
        for folder in folders:
            found.append(_verify(folder))
            bar.update(sizes[folder])
    return found


def _verify(folder: Path) -> Verified:
    if folder.name.startswith(f"{IMAGE_CACHE}-"):
        return Verified(folder, tuple(cache.faults(folder)), listed=False)
    listed = (folder / integrity.LIST).exists()
    return Verified(folder, tuple(integrity.faults(folder)), listed)


def delete(found: Iterable[Verified]) -> list[Path]:
    """Delete the damaged artifacts; one that a process is making anew is left alone.

    Returns:
        The folders that are gone.
    """
    damaged = [one.folder for one in found if one.faults]
    inventory.remove(pd.DataFrame({"name": [str(folder) for folder in damaged]}))
    return [folder for folder in damaged if not folder.exists()]


def as_text(store: Store, found: list[Verified]) -> str:
    """What was found, for a terminal: a line for each fault, and the sum."""
    lines = []
    for one in found:
        lines += [f"damaged: {one.folder.name}: {fault}" for fault in one.faults]
    damaged = sum(bool(one.faults) for one in found)
    unlisted = sum(not one.listed for one in found)
    lines.append(f"{store.root}: {len(found)} artifacts, {damaged} damaged")
    if unlisted:
        lines.append(
            f"of {unlisted} of them only the lengths could be compared (image caches, and "
            "artifacts that were made before the kit listed their files)"
        )
    return "\n".join(lines)


def remove_leftovers(store: Store) -> list[Path]:
    """Remove the temporary files that killed processes have left in a store, its data excepted."""
    removed = []
    if not store.root.is_dir():
        return removed
    for folder in sorted(store.root.iterdir()):
        if folder.is_dir() and folder.name != "data" and folder != store.roots["data"]:
            removed += atomic.remove_leftovers(folder)
    return removed
