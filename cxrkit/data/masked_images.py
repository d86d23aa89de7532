"""Images of which a part is shown: the box around the lungs, the lungs alone, all but the lungs.

H W image.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from PIL import Image as Raster
from PIL.PngImagePlugin import PngInfo

from cxrkit.data import preprocessing
from cxrkit.data.image_types import SCALED
from cxrkit.data.images import load_image
from cxrkit.data.masks import load_mask

VERSION = 2  # raise it when `blacken` writes other files than before
MARGIN = 1 / 12  # of the sides of the box around the lungs, on each side


def cover(images: np.ndarray, covered: np.ndarray) -> np.ndarray:
    """Images of which some pixels are replaced by the mean grey of the other pixels.

    Args:
        images: uint8 (N, S, S).
        covered: bool (N, S, S).

    Returns:
        uint8 (N, S, S); an image that is covered as a whole is 0.
    """
    images = np.array(images)
    for image, out in zip(images, covered, strict=True):
        image[out] = 0 if out.all() else np.rint(image[~out].mean())
    return images


def _fit(mask: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """A mask at the size of its image."""
    return cv2.resize(mask, tuple(shape[1::-1]), interpolation=cv2.INTER_NEAREST)


def only_lungs(pixels: np.ndarray, mask: np.ndarray, stretch: str = "robust") -> np.ndarray:
    """An image that is black outside of a lung mask.

    Histogram equalisation leaves out the lowest grey, so what it then does to the lungs is known
    from the lungs alone. What is not annotated (127) is black too. A mask without lungs leaves the
    image as it is.

    8 bits keep their grey values: the limits of a stretch are found in the whole image, so it would
    carry what lies outside into the lungs. No later stretch may move them either, whose limits
    would be those of the lungs and their size.

    Args:
        pixels: uint8 or uint16 (H, W).
        mask: of the whole image, uint8 (h, w) of 0, 127, 255.
        stretch: `Choices.stretch`, by which 16 bits become 8.

    Returns:
        uint8 (H, W).
    """
    grey = pixels if pixels.dtype == np.uint8 else preprocessing.to_uint8(pixels, stretch)
    lung = _fit(mask, grey.shape) == 255
    return np.where(lung, grey, np.uint8(0)) if lung.any() else grey


def lung_box(mask: np.ndarray, shape: Sequence[int]) -> tuple[slice, slice]:
    """Rows and columns of the box around the lungs, with MARGIN of its sides around it.

    Args:
        mask: of the whole image, uint8 (h, w) of 0, 127, 255.
        shape: (H, W) of the image.

    Returns:
        Slices of the image; all of it where the mask holds no lungs.

    Example:
        >>> mask = np.zeros((10, 10), np.uint8)
        >>> mask[2:6, 3:9] = 255
        >>> lung_box(mask, (100, 100))
        (slice(17, 63, None), slice(25, 95, None))
    """
    lung = _fit(mask, shape) == 255
    if not lung.any():
        return slice(0, shape[0]), slice(0, shape[1])
    box = []
    for axis, size in enumerate(shape[:2]):
        at = np.flatnonzero(lung.any(axis=1 - axis))
        margin = round(MARGIN * (at[-1] + 1 - at[0]))
        box.append(slice(max(0, int(at[0]) - margin), min(size, int(at[-1]) + 1 + margin)))
    return box[0], box[1]


def frame(pixels: np.ndarray, mask: np.ndarray, framing: str, stretch: str) -> np.ndarray:
    """What a diagnosis of some framing sees of an image.

    Args:
        pixels: uint8 or uint16 (H, W).
        mask: of the whole image, uint8 (h, w) of 0, 127, 255.
        framing: of FRAMINGS.
        stretch: as for `only_lungs`.

    Returns:
        The image; the box around its lungs (`lung_box`); or `only_lungs`, whose grey values are
        final.
    """
    if framing == "crop":
        return np.ascontiguousarray(pixels[lung_box(mask, pixels.shape)])
    return only_lungs(pixels, mask, stretch) if framing == "lungs" else pixels


def crop_images(folder: Path, table: pd.DataFrame) -> pd.DataFrame:
    """Write the box around the lungs of each image, and of its masks: `folder`/0.png, 1.png, ...

    Args:
        folder: where they go.
        table: with `path` and `lung_mask`.

    Returns:
        `path`, `lung_mask` and `lesion_mask` of each row, as file names in the folder; NaN where
        there is no lesion mask.
    """
    rows = []
    for i, row in enumerate(table.itertuples()):
        pixels, mask = load_image(row.path).pixels, load_mask(row.lung_mask)
        box = lung_box(mask, pixels.shape)
        whole = {"path": pixels, "lung_mask": _fit(mask, pixels.shape)}
        if isinstance(row.lesion_mask, str):
            whole["lesion_mask"] = _fit(load_mask(row.lesion_mask), pixels.shape)
        names = {}
        for column, values in whole.items():
            names[column] = f"{i}.png" if column == "path" else f"{i}-{column}.png"
            Raster.fromarray(np.ascontiguousarray(values[box])).save(
                folder / names[column], compress_level=1
            )
        rows.append(names)
    return pd.DataFrame(rows).reindex(columns=["path", "lung_mask", "lesion_mask"])


def blacken(folder: Path, table: pd.DataFrame, stretch: str = "robust") -> None:
    """Write the images of a table with nothing but their lungs: `folder`/0.png, 1.png, ...

    A text in each file says that its grey values are final (`Image.scaled`).

    Args:
        folder: where they go, one PNG an image in its own size.
        table: with `path` and `lung_mask`.
        stretch: as for `only_lungs`.
    """
    final = PngInfo()
    final.add_text(SCALED, "grey values are final")
    for i, (path, mask) in enumerate(zip(table["path"], table["lung_mask"], strict=True)):
        black = only_lungs(load_image(path).pixels, load_mask(mask), stretch)
        Raster.fromarray(black).save(folder / f"{i}.png", pnginfo=final, compress_level=1)


def with_original_images(table: pd.DataFrame) -> pd.DataFrame:
    """The table with its images as they came, where they were edited (`origin`)."""
    return table.assign(path=table["origin"]) if "origin" in table else table
