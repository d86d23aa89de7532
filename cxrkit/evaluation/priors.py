"""Priors: maps of where lesions tend to lie that see no film, only the outline of its lungs.

A severity map must be better than these. Disease of the lungs often lies low and at the wall, so
that height or distance from the midline alone finds much of it. N images, H W px of a map.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

GRID = 32  # cells of the side of the box in which lesions of different lungs are averaged
BLUR = 1.0  # cells: a mean of few lesions is rough


def height(lung: np.ndarray) -> np.ndarray:
    """0 at the top of the lungs, 1 at their base.

    Args:
        lung: bool (H, W), not empty.

    Returns:
        float (H, W), 0 outside the lungs.
    """
    top, bottom, _, _ = _box(lung)
    rows = np.clip((np.arange(lung.shape[0]) - top) / max(bottom - 1 - top, 1), 0, 1)
    return rows[:, None] * lung


def from_midline(lung: np.ndarray) -> np.ndarray:
    """0 at the midline of the box around the lungs, 1 at its sides.

    Args:
        lung: bool (H, W), not empty.

    Returns:
        float (H, W), 0 outside the lungs.
    """
    _, _, left, right = _box(lung)
    middle, half = (left + right - 1) / 2, max((right - 1 - left) / 2, 0.5)
    columns = np.clip(np.abs(np.arange(lung.shape[1]) - middle) / half, 0, 1)
    return columns[None] * lung


def mean_lesion(lesions: np.ndarray, lungs: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """The mean lesion of images, in the box around their lungs, fitted to the lungs of another one.

    Args:
        lesions: bool (N, H, W).
        lungs: bool (N, H, W), none empty.

    Returns:
        prior(lung) -> float (H, W) in [0, 1], 0 outside the lungs: the share of the given images
        that have a lesion at that place of the box, slightly blurred.

    Raises:
        ValueError: no image is given.
    """
    if not len(lesions):
        raise ValueError("a mean lesion needs at least one image with a lesion")
    total = np.zeros((GRID, GRID), np.float32)
    for lesion, lung in zip(lesions, lungs, strict=True):
        top, bottom, left, right = _box(lung)
        part = (lesion & lung)[top:bottom, left:right].astype(np.float32)
        total += cv2.resize(part, (GRID, GRID), interpolation=cv2.INTER_AREA)
    mean = cv2.GaussianBlur(total / len(lesions), (0, 0), BLUR, borderType=cv2.BORDER_REPLICATE)

    def prior(lung: np.ndarray) -> np.ndarray:
        top, bottom, left, right = _box(lung)
        out = np.zeros(lung.shape, np.float32)
        size = (right - left, bottom - top)
        out[top:bottom, left:right] = cv2.resize(mean, size, interpolation=cv2.INTER_LINEAR)
        return out * lung

    return prior


def _box(lung: np.ndarray) -> tuple[int, int, int, int]:
    """Top, bottom, left and right of the box around a mask, the ends not in it.

    Raises:
        ValueError: the mask is empty.
    """
    rows, columns = np.flatnonzero(lung.any(axis=1)), np.flatnonzero(lung.any(axis=0))
    if not len(rows):
        raise ValueError("the lung mask is empty: a prior has no place to lie in")
    return rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
