"""Models trained with several seeds: AUC and paired differences with intervals over two levels.

A result depends on the seed of a training and on the patients of the test. A draw takes seeds and
whole groups of patients, both with replacement. Of S seeds the deviations from their mean are
stretched by sqrt(S / (S - 1)): few seeds drawn again spread too little (Davison & Hinkley 1997,
section 3.8). With one seed the interval is over the groups alone.

S seeds, n rows, G groups.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, special

from cxrkit.evaluation import metrics
from cxrkit.evaluation.resampling import LIMITS

DRAWS = 4000  # the smallest p-value is 2 / (1 + DRAWS)
SIGNIFICANT = 0.05
CONCLUSIONS = ("better", "worse", "equivalent", "undecided")


def pair_counts(y: ArrayLike, p: ArrayLike, groups: ArrayLike) -> tuple[np.ndarray, ...]:
    """How often a positive of one group scores above a negative of another; ties count half.

    Args:
        y: labels 0 or 1, (n,).
        p: scores, (n,).
        groups: group of each row, (n,).

    Returns:
        Pairs in order (G, G), row = group of the positive; positives and negatives of each group,
        (G,) each.
    """
    positive, scores = np.asarray(y, float) == 1, np.asarray(p, float)
    number = np.unique(np.asarray(groups), return_inverse=True)[1]
    member = np.eye(number.max() + 1)[number]  # (n, G)
    above = scores[positive][:, None] > scores[~positive]
    ties = scores[positive][:, None] == scores[~positive]
    in_order = member[positive].T @ (above + 0.5 * ties) @ member[~positive]
    return in_order, member[positive].sum(0), member[~positive].sum(0)


def auc_draws(
    y: ArrayLike, scores: ArrayLike, groups: ArrayLike, draws: int = DRAWS, seed: int = 0
) -> np.ndarray:
    """AUC of each seed on the same draws of whole groups.

    Args:
        y: labels 0 or 1, (n,).
        scores: of each seed, (S, n).
        groups: group of each row, (n,).
        draws: how many.
        seed: of the draws.

    Returns:
        (draws, S); NaN where a draw has one class only.
    """
    n_groups = len(np.unique(np.asarray(groups)))
    rng = np.random.default_rng(seed)
    times = rng.multinomial(n_groups, np.full(n_groups, 1 / n_groups), size=draws).astype(float)
    columns = []
    for one in np.asarray(scores, float):
        in_order, positives, negatives = pair_counts(y, one, groups)
        pairs = (times @ positives) * (times @ negatives)  # (draws,)
        ordered = ((times @ in_order) * times).sum(1)
        columns.append(np.where(pairs > 0, ordered / np.maximum(pairs, 1), np.nan))
    return np.stack(columns, axis=1)


def draw_seeds(values: np.ndarray, seed: int = 1) -> np.ndarray:
    """Means over drawn seeds, with the stretch that few seeds need.

    Args:
        values: of each draw of groups and each seed, (draws, S).
        seed: of the draws.

    Returns:
        (draws,).
    """
    draws, n_seeds = values.shape
    mean = values.mean(axis=1)
    if n_seeds < 2:
        return mean
    chosen = np.random.default_rng(seed).integers(n_seeds, size=(draws, n_seeds))
    drawn = np.take_along_axis(values, chosen, axis=1).mean(axis=1)
    return mean + math.sqrt(n_seeds / (n_seeds - 1)) * (drawn - mean)


def auc_of_seeds(
    y: ArrayLike, scores: ArrayLike, groups: ArrayLike, draws: int = DRAWS
) -> dict[str, float]:
    """Mean AUC of several seeds with its 95 % interval over seeds and groups.

    Args:
        y: labels 0 or 1, (n,).
        scores: of each seed, (S, n).
        groups: group of each row, (n,).
        draws: of the bootstrap.

    Returns:
        value, low and high; the limits are cut to [0, 1].
    """
    value = float(np.mean([metrics.auc(y, one) for one in np.asarray(scores)]))
    drawn = draw_seeds(auc_draws(y, scores, groups, draws))
    low, high = np.clip(np.nanpercentile(drawn, LIMITS), 0, 1)
    return {"value": value, "low": float(low), "high": float(high)}


def auc_difference_of_seeds(
    y: ArrayLike, scores: ArrayLike, other: ArrayLike, groups: ArrayLike, draws: int = DRAWS
) -> dict[str, float]:
    """Mean difference of AUC of two models, paired by seed and by patient.

    Args:
        y: labels 0 or 1, (n,).
        scores: of each seed, (S, n).
        other: of the model that is subtracted, (S, n), with the same seeds in the same order.
        groups: group of each row, (n,).
        draws: of the bootstrap.

    Returns:
        difference, low, high (95 %) and the two-sided p_value.

    Raises:
        ValueError: the two have different shapes.
    """
    first, second = np.asarray(scores, float), np.asarray(other, float)
    if first.shape != second.shape:
        raise ValueError(f"scores {first.shape} and other {second.shape}: not paired")
    by_seed = [metrics.auc(y, a) - metrics.auc(y, b) for a, b in zip(first, second, strict=True)]
    less = auc_draws(y, first, groups, draws) - auc_draws(y, second, groups, draws)
    drawn = draw_seeds(less)
    defined = drawn[np.isfinite(drawn)]
    low, high = np.percentile(defined, LIMITS)
    opposite = min((defined <= 0).sum(), (defined >= 0).sum())
    tail = (1 + opposite) / (1 + len(defined))  # never 0: so many draws cannot show that
    return {
        "difference": float(np.mean(by_seed)),
        "low": float(low),
        "high": float(high),
        "p_value": float(min(1, 2 * tail)),
    }


def mean_of_seeds(
    values: ArrayLike, errors: ArrayLike, same_patients: bool = False
) -> dict[str, float]:
    """Mean over seeds, with its interval over seeds and patients.

    The bootstrap of two levels, without drawing. Level one takes S of the seeds with replacement,
    their deviations stretched as in `draw_seeds`; level two moves each taken seed by the normal law
    of its patients. So the mean has a mixture of normal laws, one for each choice of seeds, whose
    quantiles are found exactly.

    The spread of the seeds holds that of their patients too, so the interval is on the safe side
    unless trainings differ far more than patients make them: with three seeds a 95 % interval
    covers in 99 of 100 studies where trainings do not differ at all, 95 where they differ as much
    as patients do, 90 where twice as much. A t interval covers in 95 of 100 and is 1.4 to 2 times
    as wide (tests/evaluation/test_trained_seeds.py).

    Args:
        values: of each seed, (S,).
        errors: standard errors over the patients of each seed, (S,).
        same_patients: all seeds are evaluated on the same ones, whose luck no mean evens out:
            they move all seeds alike. False = each seed has patients of its own.

    Returns:
        value, low, high (95 %), the standard_error and the two-sided p_value of 0.

    Raises:
        ValueError: the two have different lengths, or more than ten seeds.
    """
    x, sd = np.asarray(values, float), np.asarray(errors, float)
    if x.shape != sd.shape or x.ndim != 1 or not 1 <= len(x) <= 10:
        raise ValueError(f"values {x.shape} and errors {sd.shape}: one of each for 1 to 10 seeds")
    n_seeds, mean = len(x), x.mean()
    stretch = math.sqrt(n_seeds / (n_seeds - 1)) if n_seeds > 1 else 0.0
    taken = np.array(list(itertools.combinations_with_replacement(range(n_seeds), n_seeds)))
    times = (taken[:, :, None] == np.arange(n_seeds)).sum(axis=1)  # (choices, S)
    ways = math.factorial(n_seeds) / special.factorial(times).prod(axis=1)
    weights = ways / ways.sum()
    centers = mean + stretch * (times @ x / n_seeds - mean)
    of_patients = times @ sd if same_patients else np.sqrt(times @ sd**2)
    spreads = np.maximum(of_patients / n_seeds, 1e-12)

    def below(limit: float) -> float:
        return float(weights @ special.ndtr((limit - centers) / spreads))

    span = float(np.ptp(centers) + 10 * spreads.max())
    ends = [
        optimize.brentq(lambda t, p=p: below(t) - p / 100, mean - span, mean + span) for p in LIMITS
    ]
    variance = weights @ ((centers - mean) ** 2 + spreads**2)
    return {
        "value": float(mean),
        "low": float(ends[0]),
        "high": float(ends[1]),
        "standard_error": math.sqrt(variance),
        "p_value": min(1.0, 2 * min(below(0.0), 1 - below(0.0))),
    }


def conclude(difference: float, low: float, high: float, p_value: float, margin: float) -> str:
    """One of CONCLUSIONS for a difference of which more is better.

    Args:
        difference: of the two models.
        low: lower end of its 95 % interval.
        high: upper end.
        p_value: two-sided; of several comparisons, adjusted for their number (`metrics.holm`).
        margin: differences inside +-margin are too small to matter.

    Returns:
        "better" or "worse" where the p-value is below SIGNIFICANT; "equivalent" where the whole
        interval lies inside the margin; else "undecided", also for NaN.
    """
    if p_value < SIGNIFICANT:
        return "better" if difference > 0 else "worse"
    if -margin < low and high < margin:
        return "equivalent"
    return "undecided"
