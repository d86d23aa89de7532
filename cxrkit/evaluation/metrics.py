"""Metrics: AUC, operating point, severity, agreement, calibration, and model against model.

Arrays in, numbers out. A label that is NaN is unknown, and its row is left out; what is undefined
is NaN, never 0 or 1. `groups` (n,) names the patient of each row: several images of one patient are
not several pieces of evidence.

n rows, k score vectors, C classes, G groups.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, special, stats

from cxrkit.evaluation import resampling

Z95 = stats.norm.ppf(0.975)
RATES = ("threshold", "sensitivity", "specificity", "accuracy")


def _rows(
    y: ArrayLike, *scores: ArrayLike, groups: ArrayLike | None = None, binary: bool = True
) -> tuple[np.ndarray, ...]:
    """Rows with a known label as float64 arrays, then group numbers 0..G-1.

    Raises ValueError for unequal lengths, scores that are not finite, or binary labels other than 0
    and 1.
    """
    y = np.asarray(y, dtype=np.float64)
    vectors = [np.asarray(s, dtype=np.float64) for s in scores]
    names = np.arange(len(y)) if groups is None else np.asarray(groups)
    if {len(a) for a in (*vectors, names)} != {len(y)}:
        raise ValueError(
            f"unequal lengths: labels {len(y)}, scores {[len(s) for s in vectors]}, groups "
            f"{len(names)}"
        )
    known = ~np.isnan(y)
    y, names = y[known], names[known]
    vectors = [s[known] for s in vectors]
    if binary and not ((y == 0) | (y == 1)).all():
        raise ValueError(
            f"labels must be 0, 1 or NaN, not {np.setdiff1d(y, (0, 1))[:5]}; for classes see "
            "macro_auc"
        )
    if not all(np.isfinite(s).all() for s in vectors):
        raise ValueError("scores of rows with a known label must be finite")
    numbers = np.arange(len(y))
    if groups is not None:
        numbers = np.unique(names, return_inverse=True)[1]
    return y, *vectors, numbers


# ranking


def auc(y: ArrayLike, p: ArrayLike) -> float:
    """Area under the ROC curve: the chance that a positive scores above a negative.

    Args:
        y: Labels 0, 1 or NaN, (n,).
        p: Scores, (n,). Ties count half.

    Returns:
        0 to 1; NaN with one class.

    Raises:
        ValueError: For unequal lengths, other labels, or scores that are not finite.

    Example:
        >>> auc([0, 1, 0, 1], [0.1, 0.9, 0.5, 0.4])  # 3 of 4 pairs are in order
        0.75
    """
    y, p, _ = _rows(y, p)
    positive = y == 1
    m, n = positive.sum(), (~positive).sum()
    if not (m and n):
        return math.nan
    return float((stats.rankdata(p)[positive].sum() / m - (m + 1) / 2) / n)


def macro_auc(y: ArrayLike, p: ArrayLike, classes: Iterable[int] | None = None) -> float:
    """Mean one-vs-rest AUC.

    Args:
        y: Class numbers or NaN, (n,).
        p: Scores, (n, C).
        classes: Those to average over; None = all.

    Returns:
        0 to 1; NaN if one of the classes is missing, or alone.

    Example:
        >>> scores = np.array([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8]])
        >>> macro_auc([0, 1, 2], scores)
        1.0
    """
    y, p = np.asarray(y, dtype=np.float64), np.asarray(p)
    known = np.where(np.isnan(y), np.nan, 1)
    if classes is None:
        classes = range(p.shape[1])
    return float(np.mean([auc((y == c) * known, p[:, c]) for c in classes]))


def balanced_accuracy(y: ArrayLike, p: ArrayLike) -> float:
    """Mean over the classes of the share of their images whose highest score is their own.

    Args:
        y: Class numbers, (n,).
        p: Scores, (n, C).

    Returns:
        0 to 1, over the classes that occur; NaN without rows.
    """
    y = np.asarray(y)
    if len(y) == 0:
        return math.nan
    hit = np.argmax(p, axis=1) == y
    return float(np.mean([hit[y == c].mean() for c in np.unique(y)]))


def delong(
    y: ArrayLike, *scores: ArrayLike, groups: ArrayLike | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """AUC of k score vectors on the same rows, and their covariance.

    DeLong 1988 by midranks (Sun & Xu 2014, n log n, ties exact), in the form of Obuchowski 1997 for
    rows that come in groups; with one row a group the two agree.

    Args:
        y: Labels 0, 1 or NaN, (n,).
        scores: k score vectors, (n,) each.
        groups: Patient of each row, (n,).

    Returns:
        AUC (k,) and covariance (k, k). The AUC is NaN with one class, the covariance with a class
        in fewer than two groups.

    Raises:
        ValueError: As `auc`.
    """
    y, *vectors, group = _rows(y, *scores, groups=groups)
    positive, k = y == 1, len(vectors)
    m, n = positive.sum(), (~positive).sum()
    if not (m and n):
        return np.full(k, np.nan), np.full((k, k), np.nan)
    p = np.stack(vectors, axis=1)  # (rows, k)
    ranks = np.stack([stats.rankdata(s) for s in vectors], axis=1)  # (rows, k)
    # (m, k) share of negatives below each positive, (n, k) share of positives above each negative
    v10 = (ranks[positive] - stats.rankdata(p[positive], axis=0)) / n
    v01 = 1 - (ranks[~positive] - stats.rankdata(p[~positive], axis=0)) / m
    theta = v10.mean(0)  # (k,)
    G = group.max() + 1
    d10, d01 = np.zeros((G, k)), np.zeros((G, k))  # deviations, summed by group
    np.add.at(d10, group[positive], v10 - theta)
    np.add.at(d01, group[~positive], v01 - theta)
    i10, i01 = len(np.unique(group[positive])), len(np.unique(group[~positive]))
    if min(i10, i01) < 2:
        return theta, np.full((k, k), np.nan)
    cross = d10.T @ d01 * G / (G - 1)
    own = d10.T @ d10 * i10 / (i10 - 1) / m**2 + d01.T @ d01 * i01 / (i01 - 1) / n**2
    return theta, own + (cross + cross.T) / (m * n)


def auc_ci(
    y: ArrayLike,
    p: ArrayLike,
    method: str = "delong",
    groups: ArrayLike | None = None,
    seed: int = 0,
) -> tuple[float, float, float]:
    """AUC with its 95 % interval.

    Args:
        y: Labels 0, 1 or NaN, (n,).
        p: Scores, (n,).
        method: "delong": normal on the logit scale, so that the limits stay inside (0, 1); where
            that variance is 0 (AUC of 0 or 1) the score interval of Newcombe 2006 (method 5).
            "bootstrap": percentiles of 2,000 draws of groups.
        groups: Patient of each row, (n,).
        seed: Seed of the bootstrap.

    Returns:
        AUC, low, high. All are NaN with one class; the limits are NaN with a class in one group
        only.

    Raises:
        ValueError: For an unknown method, and as `auc`.

    Example:
        >>> value, low, high = auc_ci([0, 1, 0, 1], [0.1, 0.9, 0.5, 0.4])
        >>> value, 0 < low < value < high < 1
        (0.75, True)
    """
    if method == "bootstrap":
        return resampling.bootstrap(auc, y, p, groups=groups, seed=seed)
    if method != "delong":
        raise ValueError(f"unknown method {method!r}; known: ['delong', 'bootstrap']")
    (area,), ((variance,),) = delong(y, p, groups=groups)
    if not np.isfinite(variance):
        return float(area), math.nan, math.nan
    if variance < 1e-12 or area in (0, 1):
        label, _, group = _rows(y, p, groups=groups)
        m, n = (len(np.unique(group[label == c])) for c in (1, 0))
        return _newcombe(area, m, n)
    half = Z95 * math.sqrt(variance) / (area * (1 - area))
    center = special.logit(area)
    return float(area), float(special.expit(center - half)), float(special.expit(center + half))


def _newcombe(area: float, m: int, n: int) -> tuple[float, float, float]:
    """AUC with the score interval of Newcombe 2006 (method 5), from m positives and n negatives."""
    k = (m + n) / 2 - 1

    def gap(t: float, side: int) -> float:
        variance = t * (1 - t) / (m * n) * (1 + k * (1 - t) / (2 - t) + k * t / (1 + t))
        return side * (t - area) - Z95 * math.sqrt(variance)

    low, high = 0.0, 1.0
    if area > 0:
        low = optimize.brentq(gap, 1e-12, area - 1e-12, args=(-1,))
    if area < 1:
        high = optimize.brentq(gap, area + 1e-12, 1 - 1e-12, args=(1,))
    return float(area), low, high


# operating point


def at_threshold(y: ArrayLike, p: ArrayLike, threshold: float) -> dict[str, float]:
    """Rates of calling p >= threshold positive.

    Args:
        y: Labels 0, 1 or NaN, (n,).
        p: Scores, (n,).
        threshold: NaN (`operating_point` found none) calls nothing: all rates are NaN.

    Returns:
        `threshold`, `sensitivity`, `specificity`, `accuracy`; NaN where nothing is counted.

    Raises:
        ValueError: As `auc`.
    """
    y, p, _ = _rows(y, p)
    if math.isnan(threshold):
        return dict.fromkeys(RATES, math.nan)
    right = (p >= threshold) == y
    counted = {"sensitivity": right[y == 1], "specificity": right[y == 0], "accuracy": right}
    rates = {"threshold": float(threshold)}
    for name, hits in counted.items():
        rates[name] = float(hits.mean()) if len(hits) else math.nan
    return rates


def operating_point(y: ArrayLike, p: ArrayLike, sensitivity: float = 0.8) -> dict[str, float]:
    """The highest threshold that reaches the sensitivity, with its rates.

    Choose it on validation and carry it over with `at_threshold` (choice 18).

    Args:
        y: Labels 0, 1 or NaN, (n,).
        p: Scores, (n,).
        sensitivity: To reach, in (0, 1].

    Returns:
        As `at_threshold`; all NaN when a class is missing.

    Raises:
        ValueError: For another sensitivity, and as `auc`.

    Example:
        >>> point = operating_point([0, 0, 1, 1], [0.1, 0.6, 0.5, 0.9], sensitivity=1.0)
        >>> point["threshold"], point["sensitivity"], point["specificity"]
        (0.5, 1.0, 0.5)
    """
    if not 0 < sensitivity <= 1:
        raise ValueError(f"sensitivity must be in (0, 1], not {sensitivity}")
    y, p, _ = _rows(y, p)
    positives = np.sort(p[y == 1])[::-1]
    if len(positives) in (0, len(y)):
        return dict.fromkeys(RATES, math.nan)
    needed = math.ceil(sensitivity * len(positives) - 1e-9)  # 0.07 * 100 is 7.000000000000001
    return at_threshold(y, p, positives[needed - 1])


# severity and agreement


def severity_metrics(y: ArrayLike, p: ArrayLike) -> dict[str, float]:
    """Errors and correlation of a predicted score.

    Args:
        y: True score or NaN, (n,).
        p: Predicted score, (n,).

    Returns:
        `mse`, `mae`, `cc` (Pearson), `r2` (1 - residual / variance about the mean of y). `cc` and
        `r2` are NaN for constants or one row, all are NaN without rows.

    Raises:
        ValueError: For unequal lengths or scores that are not finite.
    """
    y, p, _ = _rows(y, p, binary=False)
    if len(y) == 0:
        return dict.fromkeys(("mse", "mae", "cc", "r2"), math.nan)
    cc, r2 = math.nan, math.nan
    if np.ptp(y) > 0:
        r2 = float(1 - np.sum((y - p) ** 2) / np.sum((y - y.mean()) ** 2))
        if np.ptp(p) > 0:
            cc = float(np.corrcoef(y, p)[0, 1])
    return {
        "mse": float(np.mean((y - p) ** 2)),
        "mae": float(np.mean(np.abs(y - p))),
        "cc": cc,
        "r2": r2,
    }


def quadratic_kappa(a: ArrayLike, b: ArrayLike) -> float:
    """Cohen's kappa with squared weights of two scores of the same images.

    The expected disagreement, summed over all pairs of the margins, is var(a) + var(b) + (mean(a) -
    mean(b))^2.

    Args:
        a: First score or NaN, (n,).
        b: Second score, (n,).

    Returns:
        At most 1; NaN without rows, and when both give one and the same score throughout.

    Raises:
        ValueError: For unequal lengths or scores that are not finite.

    Example:
        >>> quadratic_kappa([0, 1, 2, 3], [0, 1, 2, 3])
        1.0
    """
    a, b, _ = _rows(a, b, binary=False)
    if len(a) == 0:
        return math.nan
    expected = a.var() + b.var() + (a.mean() - b.mean()) ** 2
    return float(1 - np.mean((a - b) ** 2) / expected) if expected > 0 else math.nan


def bland_altman(a: ArrayLike, b: ArrayLike) -> dict[str, float]:
    """Agreement of two measurements of the same images (Bland & Altman 1986).

    Args:
        a: First measurement or NaN, (n,).
        b: Second measurement, (n,).

    Returns:
        `bias` = mean(a - b), its `sd`, and the 95 % limits `low`, `high` = bias -+ 1.96 sd; NaN for
        fewer than two rows.

    Raises:
        ValueError: For unequal lengths or scores that are not finite.

    Example:
        >>> bland_altman([2.0, 3.0, 4.0], [1.0, 2.0, 3.0])["bias"]
        1.0
    """
    a, b, _ = _rows(a, b, binary=False)
    bias, sd = math.nan, math.nan
    if len(a) > 1:
        bias = float(np.mean(a - b))
        sd = float(np.std(a - b, ddof=1))
    return {"bias": bias, "sd": sd, "low": bias - Z95 * sd, "high": bias + Z95 * sd}


# calibration and use


def reliability(y: ArrayLike, p: ArrayLike, bins: int = 10) -> dict[str, np.ndarray]:
    """Reliability diagram over equal bins of a probability.

    Args:
        y: Labels 0, 1 or NaN, (n,).
        p: Probabilities, (n,).
        bins: How many bins of [0, 1].

    Returns:
        `n`, `predicted` (mean p) and `observed` (share of positives), (bins,) each; NaN in an empty
        bin.

    Raises:
        ValueError: For p outside [0, 1], and as `auc`.
    """
    y, p, _ = _rows(y, p)
    if len(p) and (p.min() < 0 or p.max() > 1):
        raise ValueError(
            "calibration needs probabilities in [0, 1]; apply a sigmoid or softmax to logits"
        )
    index = np.minimum((p * bins).astype(int), bins - 1)
    n = np.bincount(index, minlength=bins)
    with np.errstate(invalid="ignore"):
        return {
            "n": n,
            "predicted": np.bincount(index, p, bins) / n,
            "observed": np.bincount(index, y, bins) / n,
        }


def ece(y: ArrayLike, p: ArrayLike, bins: int = 10) -> float:
    """Expected calibration error: `|observed - predicted|` averaged over bins by their count.

    Args:
        y: Labels 0, 1 or NaN, (n,).
        p: Probabilities, (n,).
        bins: How many bins of [0, 1].

    Returns:
        0 to 1; NaN without rows.

    Raises:
        ValueError: As `reliability`.

    Example:
        >>> ece([0, 1], [0.5, 0.5])  # half of them come true
        0.0
    """
    table = reliability(y, p, bins)
    total = table["n"].sum()
    if total == 0:
        return math.nan
    error = np.abs(table["observed"] - table["predicted"])
    return float(np.nansum(table["n"] * error) / total)


def brier(y: ArrayLike, p: ArrayLike) -> float:
    """Brier score: mean squared error of a probability.

    Args:
        y: Labels 0, 1 or NaN, (n,).
        p: Probabilities, (n,).

    Returns:
        0 to 1; NaN without rows.

    Raises:
        ValueError: As `auc`.

    Example:
        >>> brier([0, 1], [0.5, 0.5])
        0.25
    """
    y, p, _ = _rows(y, p)
    return float(np.mean((y - p) ** 2)) if len(y) else math.nan


def decision_curve(
    y: ArrayLike, p: ArrayLike, thresholds: ArrayLike | None = None
) -> dict[str, np.ndarray]:
    """Net benefit TP/n - FP/n * t/(1 - t) at thresholds t (Vickers & Elkin 2006).

    Args:
        y: Labels 0, 1 or NaN, (n,).
        p: Probabilities, (n,).
        thresholds: In [0, 1); None = 0.01 to 0.99.

    Returns:
        `thresholds`, and the net benefit of the `model` and of treating `all`, (thresholds,) each.
        Treating nobody has net benefit 0.

    Raises:
        ValueError: Without rows, for thresholds outside [0, 1), and as `auc`.
    """
    y, p, _ = _rows(y, p)
    t = np.arange(1, 100) / 100 if thresholds is None else np.asarray(thresholds, dtype=float)
    if len(y) == 0 or t.min() < 0 or t.max() >= 1:
        raise ValueError("a decision curve needs rows with a known label and thresholds in [0, 1)")
    called = p[None] >= t[:, None]  # (thresholds, rows)
    return {
        "thresholds": t,
        "model": _net_benefit(y, called, t),
        "all": _net_benefit(y, np.ones_like(called), t),
    }


def _net_benefit(y: np.ndarray, called: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Net benefit of calling rows positive, `called` (thresholds, rows) -> (thresholds,)."""
    true_positives = (called & (y == 1)).mean(1)
    false_positives = (called & (y == 0)).mean(1)
    return true_positives - false_positives * t / (1 - t)


# model against model


def delong_test(
    y: ArrayLike, p_a: ArrayLike, p_b: ArrayLike, groups: ArrayLike | None = None
) -> dict[str, float]:
    """AUC of two models on the same images, and the test of their difference (`delong`).

    Args:
        y: Labels 0, 1 or NaN, (n,).
        p_a: Scores of model A, (n,).
        p_b: Scores of model B, (n,).
        groups: Patient of each row, (n,).

    Returns:
        `auc_a`, `auc_b`, `difference` (A - B), its 95 % limits `low`, `high`, and the two-sided
        `p_value`, which is 1 for one and the same ranking.

    Raises:
        ValueError: As `auc`.

    Example:
        >>> y = [0, 0, 1, 1, 0, 1]
        >>> found = delong_test(y, [0.1, 0.2, 0.9, 0.8, 0.3, 0.7], [0.5, 0.1, 0.4, 0.9, 0.6, 0.2])
        >>> found["auc_a"], found["auc_a"] > found["auc_b"]
        (1.0, True)
    """
    areas, cov = delong(y, p_a, p_b, groups=groups)
    difference = areas[0] - areas[1]
    sd = np.sqrt(np.maximum(cov[0, 0] + cov[1, 1] - 2 * cov[0, 1], 0))
    p_value = math.nan
    if sd >= 1e-9:
        p_value = 2 * stats.norm.sf(abs(difference) / sd)
    elif sd < 1e-9 and abs(difference) < 1e-9:  # one and the same ranking
        p_value = 1.0
    return {
        "auc_a": float(areas[0]),
        "auc_b": float(areas[1]),
        "difference": float(difference),
        "low": float(difference - Z95 * sd),
        "high": float(difference + Z95 * sd),
        "p_value": float(p_value),
    }


def holm(p_values: ArrayLike) -> np.ndarray:
    """p-values adjusted for their number (Holm 1979).

    Args:
        p_values: In any order, (n,). A NaN does not count.

    Returns:
        Adjusted p-values in the order given, (n,); a NaN stays NaN.

    Example:
        >>> [round(float(p), 2) for p in holm([0.01, 0.04, 0.03])]
        [0.03, 0.06, 0.06]
    """
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p)[: np.isfinite(p).sum()]  # NaN sorts last
    adjusted = np.full(p.shape, np.nan)
    factors = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(p[order] * factors))
    return adjusted
