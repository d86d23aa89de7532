"""Exercises of lesson 06, severity."""

from __future__ import annotations

import numpy as np
import torch

from cxrkit.config.choices import Choices
from cxrkit.data.lung_zones import coverage, roi_pool, severity_score, zones, zones_of_sides
from cxrkit.teaching.behaviour import drawn_fault
from cxrkit.teaching.exercises import Exercise
from cxrkit.teaching.sealed import word_fault

SHARE = 0.01  # of a zone that a lesion must cover
Sides = tuple[np.ndarray, np.ndarray]


def _draw_sides(rng: np.random.Generator) -> Sides:
    """A right and a left lung as blocks, bool (48, 40)."""
    right, left = np.zeros((2, 48, 40), bool)
    top = int(rng.integers(6, 14))
    right[top : int(rng.integers(38, 46)), 3:17] = True
    left[top + 2 : int(rng.integers(36, 46)), 22:37] = True
    return right, left


def package_pool(heat: torch.Tensor, six: torch.Tensor) -> torch.Tensor:
    """Largest value of a map in each of six zones, by the package's own pooling.

    Args:
        heat: (H, W) in [0, 1].
        six: zones of it, bool (3, 2, H, W).

    Returns:
        (3, 2).
    """
    lungs = six.any(dim=0).any(dim=0)
    return roi_pool(heat[None, None], lungs[None])[0]


def _mean_of_zone(heat: torch.Tensor, six: torch.Tensor) -> torch.Tensor:
    lungs = six.any(dim=0).any(dim=0)
    return roi_pool(heat[None, None], lungs[None], "average")[0]


def _sides_exchanged(heat: torch.Tensor, six: torch.Tensor) -> torch.Tensor:
    return package_pool(heat, six).flip(1)


def _upside_down(heat: torch.Tensor, six: torch.Tensor) -> torch.Tensor:
    return package_pool(heat, six).flip(0)


def _whole_image(heat: torch.Tensor, six: torch.Tensor) -> torch.Tensor:
    return heat.max().expand(3, 2)


def _draw_heat() -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng()
    right, left = _draw_sides(rng)
    heat = torch.from_numpy(rng.random((48, 40))).float()
    return heat, torch.from_numpy(zones((right | left)[None])[0])


def pool_fault(answer: object) -> str:
    """What is wrong with `roi_max(heat, six)`."""
    wrong = {
        "that is the mean of each zone; one bright spot must be enough": _mean_of_zone,
        "left and right have changed places": _sides_exchanged,
        "upper and lower have changed places": _upside_down,
        "that is the maximum of the whole film": _whole_image,
    }
    return drawn_fault(answer, _draw_heat, package_pool, wrong, ("the array",))


def package_scores(arrays: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Soft and hard score of arrays (n, 3, 2)."""
    return severity_score(arrays, "soft"), severity_score(arrays, "hard")


def _mean_score(arrays: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    soft, hard = package_scores(arrays)
    return soft / 6, hard / 6


def _exchanged(arrays: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    soft, hard = package_scores(arrays)
    return hard, soft


def _rounded(arrays: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    soft = severity_score(arrays, "soft")
    return soft, soft.round()


def _draw_arrays() -> tuple[np.ndarray]:
    return (np.random.default_rng().random((9, 3, 2)),)


def scores_fault(answer: object) -> str:
    """What is wrong with `two_scores(arrays)`."""
    wrong = {
        "a score is the sum of six values, not their mean": _mean_score,
        "first the soft score, then the hard one": _exchanged,
        "the hard score cuts each of the six values at 0.5, before the sum": _rounded,
    }
    return drawn_fault(answer, _draw_arrays, package_scores, wrong, ("soft", "hard"))


def _array_of(lesion: np.ndarray, right: np.ndarray, left: np.ndarray, origin: str) -> np.ndarray:
    six = zones_of_sides(right, left, Choices(zone_origin=origin))
    return coverage(lesion, six) >= SHARE


def package_moved(lesion: np.ndarray, right: np.ndarray, left: np.ndarray) -> int:
    """Number of zones whose 0 or 1 changes where the lines start at row 0.

    Args:
        lesion: bool (H, W).
        right: the patient's right lung, bool (H, W).
        left: the other lung, bool (H, W).
    """
    own = _array_of(lesion, right, left, "lungs")
    return int((own != _array_of(lesion, right, left, "row0")).sum())


def _of_scores(lesion: np.ndarray, right: np.ndarray, left: np.ndarray) -> int:
    own = _array_of(lesion, right, left, "lungs").sum()
    return abs(int(own) - int(_array_of(lesion, right, left, "row0").sum()))


def _shares_moved(lesion: np.ndarray, right: np.ndarray, left: np.ndarray) -> int:
    shares = []
    for origin in ("lungs", "row0"):
        shares.append(coverage(lesion, zones_of_sides(right, left, Choices(zone_origin=origin))))
    return int((shares[0] != shares[1]).sum())


def _draw_lesion() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng()
    right, left = _draw_sides(rng)
    lesion = np.zeros_like(right)
    for _ in range(3):
        row, column = rng.integers(8, 40), rng.integers(3, 34)
        lesion[row : row + rng.integers(2, 9), column : column + 4] = True
    return lesion & (right | left), right, left


def moved_fault(answer: object) -> str:
    """What is wrong with `zones_moved(lesion, right, left)`."""
    wrong = {
        "two changes can cancel in the score: compare zone by zone": _of_scores,
        "compare ones and zeros, involved from a share of 1 % on, not the shares": _shares_moved,
    }
    return drawn_fault(answer, _draw_lesion, package_moved, wrong, ("the number of zones",))


def average_fault(answer: object) -> str:
    """What is wrong with the word for what average pooling does to a score."""
    wrong = {
        "5e375af92e7134b8d43401b9": "a mean is never above the largest value that it is a mean of"
    }
    return word_fault("06.4", answer, "8d04b015b8d3e8b8acd9de95", wrong)


EXERCISES = (
    Exercise(
        "06.1",
        "core",
        (
            "One number for each of six zones: a loop over three lines and two sides will do.",
            "`heat[six[line, side]]` are the values of one zone.",
            "An empty (3, 2) tensor, filled by two loops with the maximum of the values of each "
            "zone.",
        ),
        pool_fault,
        "Your pooling gives what data.roi_pool gives.",
    ),
    Exercise(
        "06.2",
        "warm-up",
        (
            "Both are sums of six values.",
            "The hard score first asks of each value whether it is above 0.5.",
            "`arrays.sum(axis=(1, 2))`, and the same of `arrays > 0.5`.",
        ),
        scores_fault,
        "An uncertain zone costs less as 0.5 than as a wrong 0 or 1: compare the two MSEs above.",
    ),
    Exercise(
        "06.3",
        "core",
        (
            "Two arrays of ones and zeros are compared, one for each way of drawing the lines.",
            "`data.zones_of_sides(right, left, data.Choices(zone_origin='row0'))` draws the lines "
            "with the slip; without choices it draws them right.",
            "`data.coverage(lesion, six) >= 0.01` is an array; count where the two differ.",
        ),
        moved_fault,
        "The slip moves the lines up, by more where the lungs start lower on the film.",
    ),
    Exercise(
        "06.4",
        "warm-up",
        (
            "Think of one zone with one bright spot.",
            "Which is larger: the largest of some numbers, or their mean?",
            "The answer is one of the three words, and it holds for every map.",
        ),
        average_fault,
        "A map that was trained for the maximum must be scored by the maximum.",
    ),
)
