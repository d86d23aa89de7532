"""Augmentation of an image and its mask alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cv2
import numpy as np
import torch

from cxrkit.config.vocabulary import known
from cxrkit.data import preprocessing
from cxrkit.data.masks import IGNORE

# size, chance of a flip, generator -> (2x3 matrix or None, whether to flip)
Transform = Callable[[int, float, torch.Generator | None], tuple[np.ndarray | None, bool]]


def _affine(size: int, flip: float, generator: torch.Generator | None) -> tuple[np.ndarray, bool]:
    """Random 2x3 matrix about the centre and whether to flip.

    +-15 degrees, 5 % shift, 0.95 to 1.05 scale.
    """
    draws = 2 * torch.rand(5, generator=generator, dtype=torch.float64) - 1
    angle, across, down, scale, coin = draws.tolist()
    centre = (size - 1) / 2
    matrix = cv2.getRotationMatrix2D((centre, centre), 15 * angle, 1 + 0.05 * scale)
    matrix[:, 2] += 0.05 * size * across, 0.05 * size * down
    return matrix, (coin + 1) / 2 < flip


def _shift(size: int, flip: float, generator: torch.Generator | None) -> tuple[np.ndarray, bool]:
    """Random shift by whole pixels (at most 5 % of the size) and whether to flip.

    No grey value is interpolated, so thin lines stay sharp.
    """
    draws = torch.rand(3, generator=generator, dtype=torch.float64)
    across, down, coin = draws.tolist()
    x = round((2 * across - 1) * 0.05 * size)
    y = round((2 * down - 1) * 0.05 * size)
    matrix = np.array([[1, 0, x], [0, 1, y]], dtype=np.float64)
    return matrix, coin < flip


def _none(size: int, flip: float, generator: torch.Generator | None) -> tuple[None, bool]:
    return None, False


def _scanner(image: np.ndarray, generator: torch.Generator | None) -> np.ndarray:
    """The image as another machine shows it: window, gamma, blurred or sharpened, noise.

    Grey values are what differs most between hospitals, and no place of a lesion changes.
    """
    low, high, gamma, kind, scale, strength, noise = torch.rand(
        7, generator=generator, dtype=torch.float64
    ).tolist()
    black, white = -0.12 + 0.27 * low, 0.85 + 0.27 * high
    levels = np.clip((np.arange(256) / 255 - black) / (white - black), 0, 1)
    levels = levels ** np.exp(gamma - 0.5)  # exponents of 0.6 to 1.6
    grey = cv2.LUT(image, (255 * levels).astype(np.float32))
    if kind < 0.4:
        grey = cv2.GaussianBlur(grey, (0, 0), 0.3 + 0.7 * scale)
    elif kind < 0.8:
        smooth = cv2.GaussianBlur(grey, (0, 0), 0.8 + 2.2 * scale)
        grey = grey + 1.2 * strength * (grey - smooth)
    grain = torch.randn(image.shape, generator=generator).numpy()
    return np.clip(grey + 6 * noise * grain, 0, 255).astype(np.uint8)


AUGMENT: dict[str, Transform] = {
    "affine": _affine,
    "shift": _shift,
    "scanner": _shift,
    "none": _none,
}
# those that also change grey values
REGRADE = {"scanner": _scanner}


def augment(
    image: np.ndarray,
    mask: np.ndarray | None = None,
    how: str = "affine",
    flip: float = 0.2,
    generator: torch.Generator | None = None,
) -> tuple[np.ndarray, np.ndarray | None, bool]:
    """Random copy of an image and its mask.

    Args:
        image: uint8 (S, S).
        mask: uint8 (S, S).
        how: `Choices.augmentation`, a key of AUGMENT.
        flip: chance of a flip.
        generator: default torch's own, which `training.fit` seeds by the position in the stream.

    Returns:
        (image, mask, whether they were flipped); outside of the image lies 128, outside of the
        mask 127.

    Raises:
        ValueError: `how` is unknown.
    """
    return _augment(image, mask, known(how, AUGMENT, "augmentation"), flip, generator)


def _augment(
    image: np.ndarray,
    mask: np.ndarray | None,
    how: str,
    flip: float,
    generator: torch.Generator | None,
) -> tuple[np.ndarray, np.ndarray | None, bool]:
    matrix, flipped = AUGMENT[how](image.shape[0], flip, generator)
    if matrix is not None:
        image = cv2.warpAffine(
            image, matrix, image.shape[::-1], flags=cv2.INTER_LINEAR, borderValue=preprocessing.GREY
        )
    if matrix is not None and mask is not None:
        mask = cv2.warpAffine(
            mask, matrix, mask.shape[::-1], flags=cv2.INTER_NEAREST, borderValue=IGNORE
        )
    if flipped:
        image = image[:, ::-1]
        mask = None if mask is None else mask[:, ::-1]
    if how in REGRADE:
        image = REGRADE[how](np.ascontiguousarray(image), generator)
    return image, mask, flipped


def augment_batch(
    images: np.ndarray,
    masks: np.ndarray | None,
    how: str,
    flip: float,
    seeds: Sequence[int | None],
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    """Random copies of a batch, image by image.

    Args:
        images: uint8 (B, S, S).
        masks: uint8 (B, S, S).
        how: `Choices.augmentation`, a key of AUGMENT.
        flip: chance of a flip.
        seeds: of each image; None draws from torch's own generator.

    Returns:
        (images, masks, whether each was flipped (B,)).

    Raises:
        ValueError: `how` is unknown.
    """
    known(how, AUGMENT, "augmentation")
    images = images.copy()
    masks = None if masks is None else masks.copy()
    flips = np.zeros(len(images), bool)
    for i, seed in enumerate(seeds):
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        mask = None if masks is None else masks[i]
        images[i], mask, flips[i] = _augment(images[i], mask, how, flip, generator)
        if masks is not None:
            masks[i] = mask
    return images, masks, flips
