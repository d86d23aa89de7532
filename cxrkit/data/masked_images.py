"""Images of which a part is covered: black outside of the lungs, or without the lungs."""

from __future__ import annotations

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
    lung = cv2.resize(mask, grey.shape[::-1], interpolation=cv2.INTER_NEAREST) == 255
    return np.where(lung, grey, np.uint8(0)) if lung.any() else grey


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
