"""Metrics: AUC with its interval, operating point, severity, agreement, calibration, and tests of
model against model.

Arrays in, numbers out. A label that is NaN is unknown, and its row is left out; what is undefined
is NaN, never 0 or 1. `groups` (n,) names the patient of each row: several films of one patient are
not several pieces of evidence.
"""

import math

import numpy as np
from scipy import optimize, special, stats

from cxrkit.evaluation import resampling

Z95 = stats.norm.ppf(0.975)


def _rows(y, *scores, groups=None, binary=True):
    """Rows with a known label as float64 arrays, then group numbers 0..G-1.

    Raises ValueError for unequal lengths, scores that are not finite, or binary labels other than 0
    and 1.
    """
    y, *scores = (np.asarray(a, dtype=np.float64) for a in (y, *scores))
    names = np.arange(len(y)) if groups is None else np.asarray(groups)
    if {len(a) for a in (*scores, names)} != {len(y)}:
        raise ValueError(
            f"unequal lengths: labels {len(y)}, scores {[len(s) for s in scores]}, groups "
            f"{len(names)}"
        )
    known = ~np.isnan(y)
    y, scores, names = y[known], [s[known] for s in scores], names[known]
    if binary and not ((y == 0) | (y == 1)).all():
        raise ValueError(
            f"labels must be 0, 1 or NaN, not {np.setdiff1d(y, (0, 1))[:5]}; for classes see "
            "macro_auc"
        )
    if not all(np.isfinite(s).all() for s in scores):
        raise ValueError("scores of rows with a known label must be finite")
    return (
        y,
        *scores,
        np.arange(len(y)) if groups is None else np.unique(names, return_inverse=True)[1],
    )


# ranking


def auc(y, p):
    """Area under the ROC curve: chance that a positive scores above a negative, ties counting half.
    NaN with one class.
    """
    y, p, _ = _rows(y, p)
    positive = y == 1
    m, n = positive.sum(), (~positive).sum()
    return float((stats.rankdata(p)[positive].sum() / m - (m + 1) / 2) / n) if m and n else math.nan


def macro_auc(y, p, classes=None):
    """Mean one-vs-rest AUC: y (n,) class numbers, p (n, C). NaN if one of `classes` (default all)
    is missing or alone.
    """
    y, p = np.asarray(y, dtype=np.float64), np.asarray(p)
    known = np.where(np.isnan(y), np.nan, 1)
    return float(
        np.mean(
            [
                auc((y == c) * known, p[:, c])
                for c in (range(p.shape[1]) if classes is None else classes)
            ]
        )
    )


def balanced_accuracy(y, p):
    """Mean over the classes that occur of the share of their films whose highest score is their
    own: y (n,), p (n, C).
    """
    y, hit = np.asarray(y), np.argmax(p, axis=1) == np.asarray(y)
    return float(np.mean([hit[y == c].mean() for c in np.unique(y)])) if len(y) else math.nan


def delong(y, *scores, groups=None):
    """AUC of k score vectors on the same rows, and their covariance: (k,), (k, k).

    DeLong 1988 by midranks (Sun & Xu 2014, n log n, ties exact), in the form of Obuchowski 1997 for
    rows that come in groups; with one row a group the two agree. NaN AUC with one class, NaN
    covariance with a class in fewer than two groups.
    """
    y, *scores, group = _rows(y, *scores, groups=groups)
    positive, k = y == 1, len(scores)
    m, n = positive.sum(), (~positive).sum()
    if not (m and n):
        return np.full(k, np.nan), np.full((k, k), np.nan)
    ranks = np.stack([stats.rankdata(s) for s in scores], axis=1)  # (rows, k)
    # (m, k) share of negatives below
    v10 = (ranks[positive] - stats.rankdata(np.stack(scores, 1)[positive], axis=0)) / n
    # (n, k) share of positives above
    v01 = 1 - (ranks[~positive] - stats.rankdata(np.stack(scores, 1)[~positive], axis=0)) / m
    theta, G = v10.mean(0), group.max() + 1
    d10, d01 = np.zeros((G, k)), np.zeros((G, k))
    np.add.at(d10, group[positive], v10 - theta)
    np.add.at(d01, group[~positive], v01 - theta)
    i10, i01 = len(np.unique(group[positive])), len(np.unique(group[~positive]))
    if min(i10, i01) < 2:
        return theta, np.full((k, k), np.nan)
    cross = d10.T @ d01 * G / (G - 1)
    own = d10.T @ d10 * i10 / (i10 - 1) / m**2 + d01.T @ d01 * i01 / (i01 - 1) / n**2
    return theta, own + (cross + cross.T) / (m * n)


def auc_ci(y, p, method="delong", groups=None, seed=0):
    """AUC with its 95 % interval: (auc, low, high). All NaN with one class; limits NaN with a class
    in one group only.

    delong: normal on the logit scale, so that the limits stay inside (0, 1); where that variance is
    0 (AUC of 0 or 1) the score interval of Newcombe 2006 (method 5). bootstrap: percentiles of
    2,000 draws of groups. Raises ValueError for an unknown method.
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
        return _newcombe(area, *(len(np.unique(group[label == c])) for c in (1, 0)))
    half = Z95 * math.sqrt(variance) / (area * (1 - area))
    return float(area), *(
        float(special.expit(special.logit(area) + side * half)) for side in (-1, 1)
    )


def _newcombe(area, m, n):
    k = (m + n) / 2 - 1

    def gap(t, side):
        return side * (t - area) - Z95 * math.sqrt(
            t * (1 - t) / (m * n) * (1 + k * (1 - t) / (2 - t) + k * t / (1 + t))
        )

    low = optimize.brentq(gap, 1e-12, area - 1e-12, args=(-1,)) if area > 0 else 0.0
    high = optimize.brentq(gap, area + 1e-12, 1 - 1e-12, args=(1,)) if area < 1 else 1.0
    return float(area), low, high


# operating point


def at_threshold(y, p, threshold):
    """dict threshold, sensitivity, specificity, accuracy of calling p >= threshold positive; NaN
    where nothing is counted.

    A threshold of NaN (`operating_point` found none) calls nothing: all NaN.
    """
    y, p, _ = _rows(y, p)
    if math.isnan(threshold):
        return dict.fromkeys(("threshold", "sensitivity", "specificity", "accuracy"), math.nan)
    right = (p >= threshold) == y
    rates = {"sensitivity": right[y == 1], "specificity": right[y == 0], "accuracy": right}
    rates = {name: float(hits.mean()) if len(hits) else math.nan for name, hits in rates.items()}
    return {"threshold": float(threshold), **rates}


def operating_point(y, p, sensitivity=0.8):
    """The highest threshold that reaches the sensitivity, as the dict of `at_threshold`; all NaN
    when a class is missing.

    Choose it on validation and carry it over with `at_threshold` (choice 18). Raises ValueError
    unless 0 < sensitivity <= 1.
    """
    if not 0 < sensitivity <= 1:
        raise ValueError(f"sensitivity must be in (0, 1], not {sensitivity}")
    y, p, _ = _rows(y, p)
    positives = np.sort(p[y == 1])[::-1]
    if len(positives) in (0, len(y)):
        return dict.fromkeys(("threshold", "sensitivity", "specificity", "accuracy"), math.nan)
    needed = math.ceil(sensitivity * len(positives) - 1e-9)  # 0.07 * 100 is 7.000000000000001
    return at_threshold(y, p, positives[needed - 1])


# severity and agreement


def severity_metrics(y, p):
    """dict mse, mae, cc (Pearson), r2 (1 - residual / variance about the mean of y); cc, r2 NaN for
    constants or one row.
    """
    y, p, _ = _rows(y, p, binary=False)
    if len(y) == 0:
        return dict.fromkeys(("mse", "mae", "cc", "r2"), math.nan)
    varied = np.ptp(y) > 0
    return {
        "mse": float(np.mean((y - p) ** 2)),
        "mae": float(np.mean(np.abs(y - p))),
        "cc": float(np.corrcoef(y, p)[0, 1]) if varied and np.ptp(p) > 0 else math.nan,
        "r2": float(1 - np.sum((y - p) ** 2) / np.sum((y - y.mean()) ** 2)) if varied else math.nan,
    }


def quadratic_kappa(a, b):
    """Cohen's kappa with squared weights of two readers' scores (n,); NaN when both give one and
    the same score throughout.

    The expected disagreement, summed over all pairs of the margins, is var(a) + var(b) + (mean(a) -
    mean(b))^2.
    """
    a, b, _ = _rows(a, b, binary=False)
    if len(a) == 0:
        return math.nan
    expected = a.var() + b.var() + (a.mean() - b.mean()) ** 2
    return float(1 - np.mean((a - b) ** 2) / expected) if expected > 0 else math.nan


def bland_altman(a, b):
    """Agreement of two readings: dict bias = mean(a - b), sd, and the 95 % limits low, high = bias
    -+ 1.96 sd.
    """
    a, b, _ = _rows(a, b, binary=False)
    bias, sd = (
        (float(np.mean(a - b)), float(np.std(a - b, ddof=1)))
        if len(a) > 1
        else (math.nan, math.nan)
    )
    return {"bias": bias, "sd": sd, "low": bias - Z95 * sd, "high": bias + Z95 * sd}


# calibration and use


def reliability(y, p, bins=10):
    """Table over equal bins of p in [0, 1]: dict n, predicted (mean p), observed (share of
    positives), each (bins,).

    An empty bin has NaN. Raises ValueError for p outside [0, 1].
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


def ece(y, p, bins=10):
    """Expected calibration error: |observed - predicted| averaged over bins by their count; NaN
    without rows.
    """
    table = reliability(y, p, bins)
    n = table["n"].sum()
    return (
        float(np.nansum(table["n"] * np.abs(table["observed"] - table["predicted"])) / n)
        if n
        else math.nan
    )


def brier(y, p):
    """Mean squared error of a probability; NaN without rows."""
    y, p, _ = _rows(y, p)
    return float(np.mean((y - p) ** 2)) if len(y) else math.nan


def decision_curve(y, p, thresholds=None):
    """Net benefit TP/n - FP/n * t/(1 - t) at thresholds t (default 0.01-0.99): dict thresholds,
    model, all (everyone treated).

    Treating nobody is 0. Raises ValueError without rows or for t outside [0, 1).
    """
    y, p, _ = _rows(y, p)
    t = np.arange(1, 100) / 100 if thresholds is None else np.asarray(thresholds, dtype=float)
    if len(y) == 0 or t.min() < 0 or t.max() >= 1:
        raise ValueError("a decision curve needs rows with a known label and thresholds in [0, 1)")
    called = p[None] >= t[:, None]  # (thresholds, rows)
    benefit = [
        (c & (y == 1)).mean(1) - (c & (y == 0)).mean(1) * t / (1 - t)
        for c in (called, np.ones_like(called))
    ]
    return {"thresholds": t, "model": benefit[0], "all": benefit[1]}


# model against model


def delong_test(y, p_a, p_b, groups=None):
    """AUC of two models on the same films: dict auc_a, auc_b, difference, low, high, p_value
    (two-sided).
    """
    areas, cov = delong(y, p_a, p_b, groups=groups)
    difference, sd = (
        areas[0] - areas[1],
        np.sqrt(np.maximum(cov[0, 0] + cov[1, 1] - 2 * cov[0, 1], 0)),
    )
    same = sd < 1e-9 and abs(difference) < 1e-9  # of one and the same ranking
    p_value = 1.0 if same else 2 * stats.norm.sf(abs(difference) / sd) if sd >= 1e-9 else math.nan
    return {
        "auc_a": float(areas[0]),
        "auc_b": float(areas[1]),
        "difference": float(difference),
        "low": float(difference - Z95 * sd),
        "high": float(difference + Z95 * sd),
        "p_value": float(p_value),
    }


def holm(p_values):
    """p-values adjusted for their number (Holm 1979), in the order given; a NaN stays NaN and does
    not count.
    """
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p)[: np.isfinite(p).sum()]  # NaN sorts last
    adjusted = np.full(p.shape, np.nan)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)))
    return adjusted
