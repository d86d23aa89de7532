"""Images of which a part is covered: black outside of the lungs, or the lungs gone."""

import cv2
import numpy as np

from cxrkit.data import preprocessing
from cxrkit.data.images import load_image
from cxrkit.data.masks import load_mask


def cover(films, gone):
    """Films with the pixels of `gone` (bool, n, S, S) replaced by the mean grey of what is left of
    the same film.
    """
    films = np.array(films)
    for film, out in zip(films, gone, strict=True):
        film[out] = np.rint(film[~out].mean()) if not out.all() else 0
    return films


def only_lungs(pixels, mask):
    """A film, uint8 or uint16 (H, W), black outside of a lung mask of the whole film, uint8 (h, w)
    of 0, 127, 255 -> uint8 (H, W).

    Histogram equalisation leaves out the lowest grey, so what it then does to the lungs is known
    from the lungs alone. What nobody has drawn (127) is black too. A mask without lungs leaves the
    film as it is.
    """
    grey = preprocessing.to_uint8(pixels)
    lung = cv2.resize(mask, grey.shape[::-1], interpolation=cv2.INTER_NEAREST) == 255
    return np.where(lung, grey, np.uint8(0)) if lung.any() else grey


def blacken(folder, table):
    """Films of a table with nothing but their lungs (`only_lungs`), one PNG a film in its own size:
    `folder`/0.png, 1.png, ...
    """
    for i, (path, drawn) in enumerate(zip(table["path"], table["lung_mask"], strict=True)):
        black = only_lungs(load_image(path).pixels, load_mask(drawn))
        cv2.imwrite(str(folder / f"{i}.png"), black, [cv2.IMWRITE_PNG_COMPRESSION, 1])


def whole(table):
    """The table with its films as they came, where they were edited (`origin`)."""
    return table.assign(path=table["origin"]) if "origin" in table else table
