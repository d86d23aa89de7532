"""Resampling: any statistic with its interval, and the difference between two models, by drawing
patients with replacement.

A statistic is a function arrays -> number; where it is undefined (one class only) it is NaN, and
that draw does not count. `groups` (n,) names the patient of each row: several films of one patient
are not several pieces of evidence.
"""

import math

import numpy as np


def resample(statistic, *arrays, groups=None, draws=2000, seed=0):
    """Values of statistic(*arrays) on draws of whole groups with replacement, (draws,); NaN where
    it is undefined.

    One patient says nothing of others: of a single group all values are NaN.
    """
    arrays = [np.asarray(a) for a in arrays]
    rows = np.arange(len(arrays[0]))
    number = rows if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    members = np.split(rows[np.argsort(number, kind="stable")], np.cumsum(np.bincount(number))[:-1])
    rng = np.random.default_rng(seed)
    values = np.full(draws, math.nan)
    for i in range(draws if len(members) > 1 else 0):
        drawn = rng.integers(len(members), size=len(members))
        chosen = drawn if groups is None else np.concatenate([members[g] for g in drawn])
        values[i] = statistic(*(a[chosen] for a in arrays))
    return values


def bootstrap(statistic, *arrays, groups=None, draws=2000, seed=0):
    """Statistic with its 95 % percentile interval by drawing patients: (value, low, high).

    Draws on which it is undefined (one class only) are left out; the limits are NaN when they are
    more than half, and for a single patient.
    """
    values = resample(statistic, *arrays, groups=groups, draws=draws, seed=seed)
    good = values[np.isfinite(values)]
    low, high = np.percentile(good, (2.5, 97.5)) if len(good) > draws / 2 else (math.nan, math.nan)
    return float(statistic(*arrays)), float(low), float(high)


def paired_bootstrap(statistic, y, p_a, p_b, groups=None, draws=2000, seed=0):
    """statistic(y, p_a) - statistic(y, p_b) on the same draws of patients: dict difference, low,
    high, p_value (two-sided).
    """

    def difference(y, a, b):
        return statistic(y, a) - statistic(y, b)

    values = resample(difference, y, p_a, p_b, groups=groups, draws=draws, seed=seed)
    good = values[np.isfinite(values)]
    if len(good) <= draws / 2:
        return dict.fromkeys(("difference", "low", "high", "p_value"), math.nan)
    # never 0: so many draws cannot show that
    tail = (1 + min((good <= 0).sum(), (good >= 0).sum())) / (1 + len(good))
    low, high = np.percentile(good, (2.5, 97.5))
    return {
        "difference": float(difference(*map(np.asarray, (y, p_a, p_b)))),
        "low": float(low),
        "high": float(high),
        "p_value": float(min(1, 2 * tail)),
    }
