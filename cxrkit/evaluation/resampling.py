"""Bootstrap of patients: any statistic with its interval, and the difference between two models.

A statistic is a function arrays -> number. Where it is undefined (one class only) it is NaN, and
that draw does not count. `groups` (n,) names the patient of each row: several images of one patient
are not several pieces of evidence. A draw takes as many patients as there are, with replacement.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

Statistic = Callable[..., float]
LIMITS = (2.5, 97.5)  # percentiles of a 95 % interval


def resample(
    statistic: Statistic,
    *arrays: np.ndarray,
    groups: np.ndarray | None = None,
    draws: int = 2000,
    seed: int = 0,
) -> np.ndarray:
    """Values of a statistic on draws of whole groups with replacement.

    Args:
        statistic: `statistic(*arrays)` -> number.
        arrays: Arrays of n rows.
        groups: Patient of each row, (n,); None = each row is a patient.
        draws: How many draws.
        seed: Seed of the draws.

    Returns:
        The values, (draws,); NaN where the statistic is undefined. All are NaN for a single group:
        one patient says nothing of others.
    """
    columns = [np.asarray(a) for a in arrays]
    rows = np.arange(len(columns[0]))
    number = rows
    if groups is not None:
        number = np.unique(np.asarray(groups), return_inverse=True)[1]
    ends = np.cumsum(np.bincount(number))[:-1]
    members = np.split(rows[np.argsort(number, kind="stable")], ends)  # rows of each group
    rng = np.random.default_rng(seed)
    values = np.full(draws, math.nan)
    if len(members) <= 1:
        return values
    for i in range(draws):
        chosen = rng.integers(len(members), size=len(members))
        if groups is not None:
            chosen = np.concatenate([members[g] for g in chosen])
        values[i] = statistic(*(column[chosen] for column in columns))
    return values


def bootstrap(
    statistic: Statistic,
    *arrays: np.ndarray,
    groups: np.ndarray | None = None,
    draws: int = 2000,
    seed: int = 0,
) -> tuple[float, float, float]:
    """A statistic with its 95 % percentile interval by draws of patients.

    Args:
        statistic: `statistic(*arrays)` -> number.
        arrays: Arrays of n rows.
        groups: Patient of each row, (n,); None = each row is a patient.
        draws: How many draws.
        seed: Seed of the draws.

    Returns:
        Value, low, high. Draws on which the statistic is undefined are left out; the limits are NaN
        where they are more than half, and for a single patient.

    Example:
        >>> value, low, high = bootstrap(np.mean, np.array([1.0, 2.0, 3.0, 4.0]), draws=200)
        >>> value, low < value < high
        (2.5, True)
    """
    values = resample(statistic, *arrays, groups=groups, draws=draws, seed=seed)
    defined = values[np.isfinite(values)]
    low, high = math.nan, math.nan
    if len(defined) > draws / 2:
        low, high = np.percentile(defined, LIMITS)
    return float(statistic(*arrays)), float(low), float(high)


def paired_bootstrap(
    statistic: Statistic,
    y: np.ndarray,
    p_a: np.ndarray,
    p_b: np.ndarray,
    groups: np.ndarray | None = None,
    draws: int = 2000,
    seed: int = 0,
) -> dict[str, float]:
    """Difference of two models in a statistic, on the same draws of patients.

    Args:
        statistic: statistic(y, p) -> number.
        y: Truth, n rows.
        p_a: Predictions of model A, n rows.
        p_b: Predictions of model B, n rows.
        groups: Patient of each row, (n,); None = each row is a patient.
        draws: How many draws.
        seed: Seed of the draws.

    Returns:
        `difference` (A - B), `low`, `high` and the two-sided `p_value`; all NaN where the
        difference is undefined on half of the draws or more.

    Example:
        >>> y = np.array([1.0, 2.0, 3.0, 4.0])
        >>> error = lambda y, p: float(np.mean((y - p) ** 2))
        >>> paired_bootstrap(error, y, y + 1, y, draws=200)["difference"]
        1.0
    """

    def difference(y: np.ndarray, a: np.ndarray, b: np.ndarray) -> float:
        return statistic(y, a) - statistic(y, b)

    values = resample(difference, y, p_a, p_b, groups=groups, draws=draws, seed=seed)
    defined = values[np.isfinite(values)]
    if len(defined) <= draws / 2:
        return dict.fromkeys(("difference", "low", "high", "p_value"), math.nan)
    opposite = min((defined <= 0).sum(), (defined >= 0).sum())
    tail = (1 + opposite) / (1 + len(defined))  # never 0: so many draws cannot show that
    low, high = np.percentile(defined, LIMITS)
    return {
        "difference": float(difference(np.asarray(y), np.asarray(p_a), np.asarray(p_b))),
        "low": float(low),
        "high": float(high),
        "p_value": float(min(1, 2 * tail)),
    }
