"""Masks of lungs and lesions: read, fitted to the square that a network sees, cleaned."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from cxrkit.config.choices import Choices
from cxrkit.data import public_masks, sources
from cxrkit.data.images import ImageError, load_image
from cxrkit.storage import mapped

IGNORE = 127  # in a lung mask: not annotated; loss and metric leave it out


def load_mask(path: str | os.PathLike, kind: str = "lungs") -> np.ndarray:
    """Read a mask.

    Args:
        path: a mask file, a row of the masks of a cohort or of the segmenter, the address of a
            virtual patient, or a mask of a public set in a form of its own (`public_masks`).
        kind: "lungs" or "lesion"; it is read where one address holds both.

    Returns:
        uint8 (H, W) of 0, 127 (ignore), 255.

    Raises:
        ImageError: it is no such mask; the message names the file.
    """
    address = sources.parse(path)
    if address.scheme:
        patient = sources.opener(address.scheme).from_url(address.text)
        inside = patient.lesion if kind == "lesion" else patient.lungs[0] | patient.lungs[1]
        return np.where(inside, 255, 0).astype(np.uint8)
    sources.fill([path])
    if address.row is not None and address.file.name in ("lungs", "lesion"):
        return _rendered(address.file, address.row)
    # the segmenter's masks; one may be empty, which `load_image` takes for damage
    if address.row is not None and address.file.suffix == ".npy":
        return mapped.view(address.file)[address.row]
    try:
        public = public_masks.read(address, kind)
    except ValueError as error:
        raise ImageError(str(error)) from None
    if public is not None:
        return public
    mask = load_image(path, empty=True).pixels  # a normal image has an empty mask of lesions
    if not np.isin(mask, (0, 1, IGNORE, 255)).all():
        raise ImageError(
            f"{path}: a mask holds 0, 127 (ignore) and 255 (or 1), not "
            f"{np.unique(mask)[:6].tolist()}"
        )
    return mask if mask.max() > 1 else mask * np.uint8(255)


def _rendered(stack: Path, row: int) -> np.ndarray:
    """Row of `lungs` or `lesion` in a cohort's folder, where each lung is one bit a pixel."""
    side = mapped.view(stack.with_name("images.npy")).shape[-1]
    names = ("right", "left") if stack.name == "lungs" else (stack.name,)
    rows = [mapped.view(stack.with_name(f"{name}.npy"))[row] for name in names]
    return mapped.unpack(np.bitwise_or.reduce(rows), side) * np.uint8(255)


def fitted_mask(path: Any, size: int, choices: Choices, kind: str) -> np.ndarray:
    """Mask of one image at the size and place that `choices.resize` gives the image.

    Args:
        path: as for `load_mask`; NaN where no mask is known.
        size: side in pixels.
        choices: `resize` is read.
        kind: "lungs" or "lesion".

    Returns:
        uint8 (size, size); all IGNORE where no mask is known.
    """
    if not isinstance(path, (str, os.PathLike)):
        return np.full((size, size), IGNORE, np.uint8)
    mask = load_mask(path, kind)
    if choices.resize == "plain":
        return cv2.resize(mask, (size, size), interpolation=cv2.INTER_NEAREST)
    return letterbox(mask, size)


def letterbox(mask: np.ndarray, size: int) -> np.ndarray:
    """Mask (H, W) -> (size, size) as `preprocessing.resize` "pad" places the image.

    The aspect is kept, the rest is IGNORE.
    """
    h, w = (max(1, round(side * size / max(mask.shape))) for side in mask.shape)
    inner = cv2.resize(mask, (w, h), interpolation=cv2.INTER_NEAREST)
    return cv2.copyMakeBorder(inner, 0, size - h, 0, size - w, cv2.BORDER_CONSTANT, value=IGNORE)


def clean_mask(mask: np.ndarray) -> np.ndarray:
    """The two largest components of a mask, their holes filled.

    A component is connected over edges, not corners, as in `lung_zones.sides`; a hole is background
    that cannot reach the border of the image that way.

    Args:
        mask: (H, W), bool or 0/1 or 0/255.

    Returns:
        bool (H, W).

    Raises:
        ValueError: another shape, or other values (127 = ignore has no place in a prediction).

    Example:
        >>> mask = np.zeros((5, 9), bool)
        >>> mask[1:4, 1:4], mask[1:4, 5:8], mask[0, 8] = True, True, True
        >>> mask[2, 2] = False  # a hole
        >>> int(clean_mask(mask).sum())  # two lungs of 9 pixels; the third piece is gone
        18
    """
    mask = np.asarray(mask)
    if mask.ndim != 2 or not (mask.dtype == bool or np.isin(mask, (0, 1, 255)).all()):
        raise ValueError(
            f"clean_mask takes one mask (H, W) of bool, 0/1 or 0/255, not {mask.dtype} {mask.shape}"
        )
    inside = (mask > 0).astype(np.uint8)
    _, pieces, stats, _ = cv2.connectedComponentsWithStats(inside, connectivity=4)
    largest = 1 + np.argsort(-stats[1:, cv2.CC_STAT_AREA], kind="stable")[:2]
    lungs = np.isin(pieces, largest)
    # a ring of background joins all that is outside
    outside = np.pad(~lungs, 1, constant_values=True).astype(np.uint8)
    cv2.floodFill(outside, None, (0, 0), 2, flags=4)
    return outside[1:-1, 1:-1] != 2
