"""Exercises of lesson 07, ablations."""

from __future__ import annotations

import numpy as np
import torch
from scipy import stats

from cxrkit.evaluation import holm
from cxrkit.models.simclr import TEMPERATURE, nt_xent
from cxrkit.teaching.behaviour import drawn_fault, fresh_generator
from cxrkit.teaching.exercises import BLANK, Exercise

PAPER_SEEDS, ALPHA, SMALL = 3, 0.05, 0.01  # the rule of exercise 07.3


def _no_cosine(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    z = torch.cat([a, b])
    fits = (z @ z.T / TEMPERATURE).fill_diagonal_(-torch.inf)
    return torch.nn.functional.cross_entropy(fits, torch.arange(len(z)).roll(len(a)))


def _no_temperature(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return nt_xent(a, b, 1.0)


def _with_itself(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    z = torch.nn.functional.normalize(torch.cat([a, b]), dim=1)
    return torch.nn.functional.cross_entropy(
        z @ z.T / TEMPERATURE, torch.arange(len(z)).roll(len(a))
    )


def _one_way(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    a, b = (torch.nn.functional.normalize(x, dim=1) for x in (a, b))
    return torch.nn.functional.cross_entropy(a @ b.T / TEMPERATURE, torch.arange(len(a)))


def _summed(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return nt_xent(a, b) * 2 * len(a)


def _draw_views() -> tuple[torch.Tensor, torch.Tensor]:
    g = fresh_generator()
    a = torch.randn(5, 6, generator=g)
    return a, a + 0.7 * torch.randn(5, 6, generator=g)


def contrast_fault(answer: object) -> str:
    """What is wrong with `contrastive_loss(a, b)`."""
    wrong = {
        "the vectors must have length 1, so that products are cosines": _no_cosine,
        "the cosines must be divided by the temperature": _no_temperature,
        "a view is a candidate for itself: leave it out": _with_itself,
        "every view looks among all others, also among those of its own kind": _one_way,
        "that is the sum over the views; the loss is their mean": _summed,
    }
    return drawn_fault(answer, _draw_views, nt_xent, wrong, ("the loss",))


def _bonferroni(p: np.ndarray) -> np.ndarray:
    return np.minimum(1, p * len(p))


def _not_cut(p: np.ndarray) -> np.ndarray:
    order = np.argsort(p)
    adjusted = np.empty(len(p))
    adjusted[order] = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    return adjusted


def _not_monotone(p: np.ndarray) -> np.ndarray:
    ranks = np.argsort(np.argsort(p))
    return np.minimum(1, p * (len(p) - ranks))


def _sorted(p: np.ndarray) -> np.ndarray:
    return np.sort(holm(p))


def _draw_p_values() -> tuple[np.ndarray]:
    rng = np.random.default_rng()
    small = rng.uniform(0.001, 0.02, 2)
    return (rng.permutation([*small, small.max() * 1.05, rng.uniform(0.3, 0.9), 0.6]),)


def holm_fault(answer: object) -> str:
    """What is wrong with `adjust(p)`."""
    wrong = {
        "that is Bonferroni: the second smallest is multiplied by one less": _bonferroni,
        "a p-value cannot be above 1": _not_cut,
        "an adjusted p-value may not be below that of a smaller p": _not_monotone,
        "the values are right, but in another order than they came": _sorted,
    }
    return drawn_fault(answer, _draw_p_values, holm, wrong, ("the p-values",))


def package_decision(seeds: int, p: float, low: float, high: float) -> int:
    """The rule of exercise 07.3: 1 publish, -1 no difference, 0 more seeds."""
    publish = seeds >= PAPER_SEEDS and p < ALPHA
    equal = low > -SMALL and high < SMALL
    return int(publish) or -int(equal)


def _ignores_seeds(seeds: int, p: float, low: float, high: float) -> int:
    return package_decision(PAPER_SEEDS, p, low, high)


def _zero_inside(seeds: int, p: float, low: float, high: float) -> int:
    first = package_decision(seeds, p, -1, 1)
    return first or -int(low < 0 < high)


WORDS = ("more seeds", "publish", "no difference")


def decision_fault(answer: object) -> str:
    """What is wrong with `decide(seeds, p, low, high)`."""
    if not callable(answer):
        return f"the answer is a function, not a {type(answer).__name__}"
    cases = [
        (3, 0.01, 0.02, 0.06),
        (1, 0.01, 0.02, 0.06),
        (3, 0.40, -0.004, 0.006),
        (3, 0.40, -0.05, 0.03),
        (5, 0.049, -0.08, -0.01),
        (2, 0.20, -0.002, 0.008),
    ]
    found = [answer(*case) for case in cases]
    if any(word is ... for word in found):
        return BLANK
    unknown = [word for word in found if word not in WORDS]
    if unknown:
        return f"the answers are 'publish', 'no difference' or 'more seeds', not {unknown[0]!r}"
    if found == [WORDS[package_decision(*case)] for case in cases]:
        return ""
    if found == [WORDS[_ignores_seeds(*case)] for case in cases]:
        return "a single seed is published: the rule asks for three"
    if found == [WORDS[_zero_inside(*case)] for case in cases]:
        return "an interval that holds 0 is not yet 'no difference': it may be wide"
    wrong = next(
        case
        for case, word in zip(cases, found, strict=True)
        if word != WORDS[package_decision(*case)]
    )
    return f"seeds {wrong[0]}, p {wrong[1]}, interval {wrong[2:]} is decided against the rule"


def package_smallest(spread: float, n: int) -> float:
    """Smallest mean difference of two models that n seeds can show.

    Args:
        spread: standard deviation of one model's AUC between seeds.
        n: number of seeds.
    """
    low, high = stats.t.interval(0.95, n - 1, scale=spread * np.sqrt(2 / n))
    return float(high - low) / 2


def _normal(spread: float, n: int) -> float:
    return float(stats.norm.ppf(0.975)) * spread * np.sqrt(2 / n)


def _one_model(spread: float, n: int) -> float:
    return package_smallest(spread, n) / np.sqrt(2)


def _not_of_mean(spread: float, n: int) -> float:
    return package_smallest(spread, n) * np.sqrt(n)


def _one_sided(spread: float, n: int) -> float:
    return float(stats.t.ppf(0.95, n - 1)) * spread * np.sqrt(2 / n)


def _draw_spread() -> tuple[float, int]:
    rng = np.random.default_rng()
    return float(rng.uniform(0.02, 0.3)), int(rng.integers(3, 9))


def smallest_fault(answer: object) -> str:
    """What is wrong with `smallest_difference(spread, n)`."""
    wrong = {
        "1.96 is for many seeds; with few, t has heavier tails": _normal,
        "the luck of two models adds up: the variance of a difference is twice as large": (
            _one_model
        ),
        "a mean of n varies less than one value: divide by the root of n": _not_of_mean,
        "an interval of 95 % leaves 2.5 % on each side": _one_sided,
    }
    return drawn_fault(answer, _draw_spread, package_smallest, wrong, ("the difference",))


EXERCISES = (
    Exercise(
        "07.1",
        "core",
        (
            "Put both views into one tensor z of 2B rows, each of length 1. View i and view i + B "
            "are the same film.",
            "`z @ z.T / models.TEMPERATURE` are the fits. A view may not choose itself: set the "
            "diagonal to minus infinity.",
            "For each row: log of the sum of exp over the row, minus the fit of its twin; then the "
            "mean over the rows.",
        ),
        contrast_fault,
        "Your loss gives what models.nt_xent gives. A guess costs log(2B - 1).",
    ),
    Exercise(
        "07.2",
        "core",
        (
            "The smallest p is multiplied by n, the next one by n - 1, and so on.",
            "Keep the largest value so far: a later one may not be below it. None may be above 1.",
            "Loop over `enumerate(np.argsort(p))`: largest = max(largest, min(1, p[i] * (n - "
            "rank))), stored at place i.",
        ),
        holm_fault,
        "Your function gives what evaluation.holm gives.",
    ),
    Exercise(
        "07.3",
        "warm-up",
        (
            "Three answers, asked for in the order of the rule.",
            "Publish needs two things at once; no difference looks at the interval alone.",
            "if seeds >= 3 and p < 0.05: publish; otherwise, if both ends of the interval lie "
            "between -0.01 and 0.01: no difference; otherwise more seeds.",
        ),
        decision_fault,
        "The rule was fixed before the numbers were seen. Now apply it to the table above.",
    ),
    Exercise(
        "07.4",
        "project",
        (
            "The standard error of the mean of n differences, times a quantile.",
            "A difference of two models has the root of 2 times the spread of one. "
            "`scipy.stats.t.ppf(0.975, n - 1)` is the quantile.",
            "Quantile times spread times the root of (2 / n).",
        ),
        smallest_fault,
        "Twice as many seeds do not halve it: the root of n is slow, though t helps at first.",
    ),
)
