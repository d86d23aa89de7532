"""Masks of lungs and lesions: read, fitted to the square that a network sees, cleaned."""

import cv2
import numpy as np

from cxrkit.data import sources
from cxrkit.data.images import ImageError, load_image
from cxrkit.storage import mapped

IGNORE = 127  # in a lung mask: nobody has drawn here; loss and metric leave it out


def load_mask(path, kind="lungs"):
    """Mask file, virtual patient or row of a drawn cohort -> uint8 (H, W) of 0, 127 (ignore), 255;
    `kind` "lungs" or "lesion".

    Raises ImageError naming the file for anything else.
    """
    address = sources.parse(path)
    if address.scheme:
        patient = sources.opener(address.scheme).from_url(address.text)
        inside = patient.lesion if kind == "lesion" else patient.lungs[0] | patient.lungs[1]
        return np.where(inside, 255, 0).astype(np.uint8)
    if address.row is not None and address.file.name in ("lungs", "lesion"):
        return _rendered(address.file, address.row)
    # the segmenter's masks; one may be empty, which `load_image` takes for damage
    if address.row is not None and address.file.suffix == ".npy":
        return np.load(address.file, mmap_mode="r")[address.row]
    mask = load_image(path, empty=True).pixels  # a mask of the lesions of a normal film
    if not np.isin(mask, (0, 1, IGNORE, 255)).all():
        raise ImageError(
            f"{path}: a mask holds 0, 127 (ignore) and 255 (or 1), not "
            f"{np.unique(mask)[:6].tolist()}"
        )
    return mask if mask.max() > 1 else mask * np.uint8(255)


def _rendered(stack, row):
    """Row of `lungs` or `lesion` in a cohort's folder: one bit a pixel, right and left lung apart
    (`simulation.cohort`).
    """
    side = np.load(stack.with_name("images.npy"), mmap_mode="r").shape[-1]
    names = ("right", "left") if stack.name == "lungs" else (stack.name,)
    bits = np.bitwise_or.reduce(
        [np.load(stack.with_name(f"{name}.npy"), mmap_mode="r")[row] for name in names]
    )
    return mapped.unpack(bits, side) * np.uint8(255)


def fitted_mask(path, size, choices, kind):
    """Mask of one image at the size and place that `choices.resize` gives the image: uint8 (size,
    size); all IGNORE where `path` names none.
    """
    if not isinstance(path, str):
        return np.full((size, size), IGNORE, np.uint8)  # nobody has drawn this film
    mask = load_mask(path, kind)
    if choices.resize == "plain":
        return cv2.resize(mask, (size, size), interpolation=cv2.INTER_NEAREST)
    return letterbox(mask, size)


def letterbox(mask, size):
    """Mask (H, W) -> (size, size) as `preprocess.resize` "pad" places the film: aspect kept, the
    rest is IGNORE.
    """
    h, w = (max(1, round(side * size / max(mask.shape))) for side in mask.shape)
    inner = cv2.resize(mask, (w, h), interpolation=cv2.INTER_NEAREST)
    return cv2.copyMakeBorder(inner, 0, size - h, 0, size - w, cv2.BORDER_CONSTANT, value=IGNORE)


def clean_mask(mask):
    """Mask (H, W), bool or 0/1 or 0/255 -> bool (H, W): the two largest components, their holes
    filled.

    A component is connected over edges, not corners, as in `lung_zones.sides`; a hole is background
    that cannot reach the border of the image that way. Raises ValueError for another shape or other
    values (127 = ignore has no place in a prediction).
    """
    mask = np.asarray(mask)
    if mask.ndim != 2 or not (mask.dtype == bool or np.isin(mask, (0, 1, 255)).all()):
        raise ValueError(
            f"clean_mask takes one mask (H, W) of bool, 0/1 or 0/255, not {mask.dtype} {mask.shape}"
        )
    n, pieces, stats, _ = cv2.connectedComponentsWithStats(
        (mask > 0).astype(np.uint8), connectivity=4
    )
    largest = 1 + np.argsort(-stats[1:, cv2.CC_STAT_AREA], kind="stable")[:2]
    lungs = np.isin(pieces, largest)
    # a ring of background joins all that is outside
    outside = np.pad(~lungs, 1, constant_values=True).astype(np.uint8)
    cv2.floodFill(outside, None, (0, 0), 2, flags=4)
    return outside[1:-1, 1:-1] != 2
