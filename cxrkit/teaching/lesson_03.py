"""Exercises of lesson 03, lungs."""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage

from cxrkit.data.masks import clean_mask
from cxrkit.models.adain_networks import adain
from cxrkit.teaching.behaviour import drawn_fault, fresh_generator
from cxrkit.teaching.exercises import Exercise
from cxrkit.teaching.sealed import word_fault


def _gamma_alone(x: torch.Tensor, gamma: torch.Tensor, beta: torch.Tensor) -> torch.Tensor:
    return adain(x, gamma - 1, beta)


def _exchanged(x: torch.Tensor, gamma: torch.Tensor, beta: torch.Tensor) -> torch.Tensor:
    return adain(x, beta, gamma)


def _over_batch(x: torch.Tensor, gamma: torch.Tensor, beta: torch.Tensor) -> torch.Tensor:
    normal = torch.nn.functional.batch_norm(x, None, None, training=True)
    return normal * (1 + gamma)[..., None, None] + beta[..., None, None]


def _over_channels(x: torch.Tensor, gamma: torch.Tensor, beta: torch.Tensor) -> torch.Tensor:
    normal = torch.nn.functional.layer_norm(x, x.shape[1:])
    return normal * (1 + gamma)[..., None, None] + beta[..., None, None]


def _variance(x: torch.Tensor, gamma: torch.Tensor, beta: torch.Tensor) -> torch.Tensor:
    spread = x.std(dim=(2, 3), correction=0)
    return adain(x, (1 + gamma) / spread - 1, beta)


def _draw_features() -> tuple[torch.Tensor, ...]:
    g = fresh_generator()
    sizes = ((3, 4, 7, 6), (3, 4), (3, 4))
    x, gamma, beta = (torch.randn(*size, generator=g) for size in sizes)
    return 3 * x + 1, gamma, beta


def adain_fault(answer: object) -> str:
    """What is wrong with `adain(x, gamma, beta)`."""
    wrong = {
        "the new spread is 1 + gamma, so that gamma = 0 changes nothing": _gamma_alone,
        "gamma and beta have changed places": _exchanged,
        "that is batch normalisation: each image has its own mean and spread": _over_batch,
        "the channels share one mean; each channel has its own": _over_channels,
        "divide by the standard deviation, not by the variance": _variance,
    }
    return drawn_fault(answer, _draw_features, adain, wrong, ("the features",))


def hole_fault(answer: object) -> str:
    """What is wrong with the number of lung pixels in a hole that was filled with 1."""
    wrong = {"c8866373c8a940fa13974d61": "1 of 255 is not above half of the range"}
    return word_fault("03.2", answer, "45f8e6ed9aea3986437f14e1", wrong)


def package_missed(lesion: np.ndarray, lungs: np.ndarray, mask: np.ndarray) -> float:
    """Share of the lesion inside the lungs that a mask leaves out.

    Args:
        lesion: bool (H, W).
        lungs: the truth, bool (H, W).
        mask: of a network, bool (H, W).
    """
    kept = mask[lesion & lungs]
    return 1 - float(kept.mean())


def _with_outside(lesion: np.ndarray, lungs: np.ndarray, mask: np.ndarray) -> float:
    return 1 - float(mask[lesion].mean())


def _kept(lesion: np.ndarray, lungs: np.ndarray, mask: np.ndarray) -> float:
    return float(mask[lesion & lungs].mean())


def _of_lungs(lesion: np.ndarray, lungs: np.ndarray, mask: np.ndarray) -> float:
    return float((lesion & lungs & ~mask).sum() / lungs.sum())


def _draw_masks() -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng()
    return tuple(rng.random((24, 24)) < share for share in (0.3, 0.5, 0.45))


def missed_fault(answer: object) -> str:
    """What is wrong with `missed(lesion, lungs, mask)`."""
    wrong = {
        "that is the share that the mask keeps": _kept,
        "only the part of the lesion inside the true lungs counts": _with_outside,
        "divide by the lesion, not by the lungs": _of_lungs,
    }
    return drawn_fault(answer, _draw_masks, package_missed, wrong, ("the share",))


def _all_pieces(mask: np.ndarray) -> np.ndarray:
    return ndimage.binary_fill_holes(mask)


def _holes_left(mask: np.ndarray) -> np.ndarray:
    return mask & clean_mask(mask)


def _largest_alone(mask: np.ndarray) -> np.ndarray:
    pieces, _ = ndimage.label(mask)
    largest = np.bincount(pieces.ravel())[1:].argmax() + 1
    return ndimage.binary_fill_holes(pieces == largest)


def _draw_lungs() -> tuple[np.ndarray]:
    """Two lungs of two sizes with holes, and two specks, bool (30, 40)."""
    rng = np.random.default_rng()
    mask = np.zeros((30, 40), bool)
    a, b = rng.integers(22, 28), rng.integers(12, 20)
    mask[2:a, 3:16], mask[4:b, 20:36] = True, True
    for column, bottom in ((5, a), (23, b)):
        row = int(rng.integers(6, bottom - 4))
        mask[row : row + 2, column : column + 3] = False
    mask[29, rng.integers(0, 39)] = mask[0, rng.integers(0, 39)] = True
    return (mask,)


def clean_fault(answer: object) -> str:
    """What is wrong with `clean(mask)`."""
    wrong = {
        "the holes are filled, but the specks are still there": _all_pieces,
        "the specks are gone, but the holes are not filled": _holes_left,
        "a chest has two lungs: keep the two largest pieces": _largest_alone,
    }
    return drawn_fault(answer, _draw_lungs, clean_mask, wrong, ("the mask",))


EXERCISES = (
    Exercise(
        "03.1",
        "core",
        (
            "First forget, then give: mean 0 and standard deviation 1, then the new ones.",
            "Mean and spread are those of each channel of each image: `dim=(2, 3), keepdim=True`. "
            "`correction=0` divides by the number of pixels.",
            "normal = (x - mean) / sqrt(variance + 1e-5); the answer is (1 + gamma) * normal + "
            "beta, with gamma and beta as `[:, :, None, None]`.",
        ),
        adain_fault,
        "Your function gives what models.adain gives.",
    ),
    Exercise(
        "03.2",
        "warm-up",
        (
            "What is half of the range 0 to 255?",
            "A pixel is lung where its value is above 127.",
            "The hole now holds ones. Count those that are above 127.",
        ),
        hole_fault,
        "The hole is still a hole. A mask of 0 and 255 must be filled with 255.",
    ),
    Exercise(
        "03.3",
        "core",
        (
            "Which pixels can be missed at all? Those of the lesion that lie in the true lungs.",
            "`&` joins two masks, `~` turns one round, `sum()` counts.",
            "Count the pixels of lesion and lungs that are not in the mask, and divide by the "
            "count of lesion and lungs.",
        ),
        missed_fault,
        "Dice looks at the whole lung; this looks where a severity score must count.",
    ),
    Exercise(
        "03.4",
        "project",
        (
            "`scipy.ndimage.label` numbers the pieces of a mask.",
            "`np.bincount` of the numbers gives the sizes; piece 0 is the background.",
            "Keep the two largest pieces with `np.isin`, then `ndimage.binary_fill_holes`.",
        ),
        clean_fault,
        "Your function gives what data.clean_mask gives.",
    ),
)
