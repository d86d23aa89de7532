"""Augmentation of images and their masks together."""

import cv2
import numpy as np
import torch

from cxrkit.config.vocabulary import known
from cxrkit.data import preprocessing
from cxrkit.data.masks import IGNORE


def _affine(size, flip, generator):
    """Random 2x3 matrix about the centre (+-15 deg, 5 % shift, 0.95-1.05 scale) and whether to flip
    (chance `flip`).
    """
    angle, across, down, scale, coin = (
        2 * torch.rand(5, generator=generator, dtype=torch.float64) - 1
    ).tolist()
    centre = (size - 1) / 2
    matrix = cv2.getRotationMatrix2D((centre, centre), 15 * angle, 1 + 0.05 * scale)
    matrix[:, 2] += 0.05 * size * across, 0.05 * size * down
    return matrix, (coin + 1) / 2 < flip


def _shift(size, flip, generator):
    """Random whole pixels (5 % of the size at most) and whether to flip: no grey value is
    interpolated, so thin lines stay sharp.
    """
    across, down, coin = torch.rand(3, generator=generator, dtype=torch.float64).tolist()
    x, y = (round((2 * u - 1) * 0.05 * size) for u in (across, down))
    return np.float64([[1, 0, x], [0, 1, y]]), coin < flip


AUGMENT = {"affine": _affine, "shift": _shift, "none": lambda size, flip, generator: (None, False)}


def augment(image, mask=None, how="affine", flip=0.2, generator=None):
    """Random copy of uint8 (S, S) and its mask -> (image, mask, flipped); outside the film 128,
    outside the mask 127.

    `generator`: torch.Generator, else torch's own (which `train.fit` seeds by the position in the
    stream).
    """
    matrix, flipped = AUGMENT[known(how, AUGMENT, "augmentation")](image.shape[0], flip, generator)
    turn = (lambda a: a[:, ::-1]) if flipped else (lambda a: a)
    if matrix is not None:
        image = cv2.warpAffine(
            image, matrix, image.shape[::-1], flags=cv2.INTER_LINEAR, borderValue=preprocessing.GREY
        )
        if mask is not None:
            mask = cv2.warpAffine(
                mask, matrix, mask.shape[::-1], flags=cv2.INTER_NEAREST, borderValue=IGNORE
            )
    return turn(image), mask if mask is None else turn(mask), flipped
