"""Derived images: masks of the segmenter, and images of which the diagnosis sees a part.

They lie in the store under the segmenter and the images that they were made from, once for all
tasks that use them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cxrkit.config.sections import Profile
from cxrkit.config.vocabulary import known
from cxrkit.data import fingerprints, masked_images, sources
from cxrkit.storage.artifacts import Store
from cxrkit.tasks.segmentation import SegmentationTask
from cxrkit.tasks.severity import segmented_lungs

PACKED_MASKS = "masks.npz"
CROPS = "crops.csv"  # file names of the crops of each image
MASK_ORIGINS = ("segmenter", "annotated")


def digest(store: Store, paths: Iterable[str]) -> str:
    """Hash of a list of images: paths that survive a move, and the content of real images.

    What lies in the store is determined by its name.
    """
    lines = []
    for path in paths:
        name = store.relative(path)
        if not name.startswith("store:") and "://" not in name:
            name = f"{name} {fingerprints.text_of(str(sources.parse(path).file))}"
        lines.append(name)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def with_masks(
    profile: Profile, table: pd.DataFrame, store: Store, segmenter: Path
) -> pd.DataFrame:
    """The table with the lung masks that severity is pooled in (section 3.3).

    They are the segmenter's, or, where `severity.masks` is "annotated", those of a radiologist or
    of the virtual truth for the images that have one.

    Args:
        profile: choices and size of the masks.
        table: images.
        store: where the masks go.
        segmenter: folder of the finished segmenter.
    """
    origin = known(profile.severity.masks, MASK_ORIGINS, "origin of masks")
    missing = table["lung_mask"].isna()
    if origin == "segmenter":
        missing = pd.Series(True, table.index)
    if not missing.any():
        return table
    rows = table[missing]

    def make(folder: Path) -> None:
        shipped = store.shipped_for(folder)
        if shipped:
            masks = unpack_masks(shipped)
        else:
            task = SegmentationTask(profile, store)
            masks = segmented_lungs(task, task.load(segmenter), rows, profile)
        np.save(folder / "masks.npy", masks)

    settings = {
        "segmenter": segmenter.name,
        "size": profile.image_size,
        "resize": profile.choices.resize,
        "images": digest(store, rows["path"]),
    }
    file = store.load_or_make("masks", settings, make) / "masks.npy"
    masks = pd.Series([f"{file}#{i}" for i in range(len(rows))], index=rows.index)
    return table.assign(lung_mask=table["lung_mask"].mask(missing, masks))


def pack_masks(made: Path, folder: Path) -> None:
    """Write the masks of a folder, compressed, as they come with the kit."""
    np.savez_compressed(folder / PACKED_MASKS, masks=np.load(made / "masks.npy"))


def unpack_masks(folder: Path) -> np.ndarray:
    """What `pack_masks` wrote: uint8 (n, S, S)."""
    with np.load(folder / PACKED_MASKS) as file:
        return file["masks"]


def framed(profile: Profile, table: pd.DataFrame, store: Store, segmenter: Path) -> pd.DataFrame:
    """The table with images of which only a part is shown (`Sources.framing`), made once.

    Lungs are the segmenter's, and those of virtual images the true ones.

    Args:
        profile: its framing is "crop" or "lungs".
        table: images.
        store: where the new ones go.
        segmenter: folder of the finished segmenter.

    Returns:
        The table with other paths; `origin` = the images as they came. With crops the masks of
        lungs and lesions are cropped too.

    Raises:
        ValueError: the masks are padded, so that they do not fit the whole image.
    """
    framing = profile.sources.framing
    if profile.choices.resize != "plain":
        raise ValueError(
            f"framing {framing!r} needs masks of the whole image: choices.resize must be 'plain', "
            f"not {profile.choices.resize!r}"
        )
    real = table["dataset"] != "virtual"
    segmented = with_masks(profile, table[real], store, segmenter)["lung_mask"]
    masked = table.assign(lung_mask=table["lung_mask"].mask(real, segmented))
    settings = {
        "segmenter": segmenter.name,
        "images": digest(store, [*masked["path"], *masked["lung_mask"]]),
        "stretch": profile.choices.stretch,
        "version": masked_images.VERSION,
    }
    if framing == "crop":
        settings["margin"] = masked_images.MARGIN
        return _cropped(masked, settings, store)

    def make(part: Path) -> None:
        masked_images.blacken(part, masked, profile.choices.stretch)

    folder = store.load_or_make("blackened", settings, make)
    paths = [str(folder / f"{i}.png") for i in range(len(table))]
    return masked.assign(origin=table["path"], path=paths)


def _cropped(masked: pd.DataFrame, settings: dict[str, Any], store: Store) -> pd.DataFrame:
    """The table with the boxes around the lungs."""

    def make(part: Path) -> None:
        names = masked_images.crop_images(part, masked)
        store.write_table(part / CROPS, names)

    folder = store.load_or_make("cropped", settings, make)
    names = pd.read_csv(folder / CROPS, dtype=str).set_axis(masked.index)
    paths = {name: f"{folder}/" + names[name] for name in names}
    return masked.assign(origin=masked["path"], **paths)
