"""Comparison: which method of the saliency benchmark is better, said in words that code chose.

Methods are compared on the same images, and intervals come from draws of whole patients. Several
comparisons of one question share an error of 5 % (Holm 1979). A comparison ends in one of the words
of `trained_seeds.CONCLUSIONS`. Two intervals that overlap decide nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from cxrkit.evaluation import metrics, trained_seeds
from cxrkit.evaluation.resampling import LIMITS
from cxrkit.evaluation.summaries import value_text
from cxrkit.explain.criteria import CRITERIA

CONCLUSIONS = trained_seeds.CONCLUSIONS
DRAWS = 2000  # the smallest p is 2 / (1 + DRAWS): with Holm that decides among 50 methods
# Differences inside +-EQUIVALENT are too small to matter; the criteria but seconds lie in [0, 1].
EQUIVALENT = 0.05
KEPT = 0.5  # rank correlation from which a map counts as the same map
NOT_COMPARED = ("chance", "random")  # the best is chosen among the others


def mean_of_draws(
    values: np.ndarray, groups: np.ndarray, draws: int = DRAWS, seed: int = 0
) -> np.ndarray:
    """Means over draws of whole groups with replacement.

    Args:
        values: (n,).
        groups: patient of each value, (n,).
        draws: how many.
        seed: of the draws.

    Returns:
        (draws,); all NaN for fewer than two groups: one patient says nothing of others.
    """
    number = np.unique(np.asarray(groups), return_inverse=True)[1]
    sums, counts = np.bincount(number, weights=values), np.bincount(number)
    if len(counts) < 2:
        return np.full(draws, np.nan)
    chosen = np.random.default_rng(seed).integers(len(counts), size=(draws, len(counts)))
    return sums[chosen].sum(1) / counts[chosen].sum(1)


def mean_difference(values: np.ndarray, groups: np.ndarray, draws: int = DRAWS) -> dict[str, float]:
    """Mean of paired differences with interval and two-sided p-value.

    Args:
        values: a difference for each image, (n,).
        groups: patient of each image, (n,).
        draws: of the bootstrap.

    Returns:
        difference, low, high (95 %), p_value and n.
    """
    found = mean_of_draws(values, groups, draws)
    low, high = np.percentile(found, LIMITS)
    opposite = min((found <= 0).sum(), (found >= 0).sum())
    p_value = min(1.0, 2 * (1 + opposite) / (1 + draws))  # never 0: draws cannot show that
    return {
        "difference": values.mean(),
        "low": low,
        "high": high,
        "p_value": p_value if np.isfinite(low) else np.nan,
        "n": len(values),
    }


def conclude(line: pd.Series, criterion: str) -> str:
    """One of `trained_seeds.CONCLUSIONS` for a line with difference, low, high and holm."""
    sign = CRITERIA[criterion][1]
    low, high = sorted((sign * line["low"], sign * line["high"]))
    margin = 0.0 if criterion == "seconds" else EQUIVALENT  # no difference of times is too small
    return trained_seeds.conclude(sign * line["difference"], low, high, line["holm"], margin)


def by_method(rows: pd.DataFrame, criterion: str) -> pd.DataFrame:
    """Values of a criterion: a row an image, its patient in the index, and a column a method."""
    part = rows[rows["criterion"] == criterion]
    image_columns = [name for name in ("view", "image", "group") if name in part]
    return part.pivot(index=image_columns, columns="method", values="value")


def compare(
    wide: pd.DataFrame, pairs: Sequence[tuple[str, str]], criterion: str, draws: int
) -> pd.DataFrame:
    """Paired differences of columns, with Holm over all pairs.

    Args:
        wide: of `by_method`.
        pairs: of columns; the second is subtracted from the first.
        criterion: key of CRITERIA.
        draws: of the bootstrap.

    Returns:
        A row a pair: method, other, difference, low, high, p_value, n, holm, conclusion.
    """
    lines = []
    for method, other in pairs:
        values = (wide[method] - wide[other]).dropna()
        found = dict.fromkeys(("difference", "low", "high", "p_value"), np.nan) | {"n": 0}
        if len(values):
            groups = values.index.get_level_values("group").to_numpy()
            found = mean_difference(values.to_numpy(), groups, draws)
        lines.append({"method": method, "other": other, **found})
    columns = ["method", "other", "difference", "low", "high", "p_value", "n"]
    table = pd.DataFrame(lines, columns=columns)
    table["holm"] = metrics.holm(table["p_value"])
    table["conclusion"] = [conclude(line, criterion) for _, line in table.iterrows()]
    return table


def paired_differences(
    rows: pd.DataFrame, method: str, criterion: str, draws: int = DRAWS
) -> pd.DataFrame:
    """One method minus each other on the same images, with 95 % intervals over patients.

    Args:
        rows: of `benchmark`.
        method: the one from which others are subtracted.
        criterion: key of CRITERIA.
        draws: of the bootstrap.

    Returns:
        A row for each other method, its name as the index `other`: difference, low, high, p_value,
        n, holm (the p-value adjusted for the number of others), and conclusion: whether the method
        is better or worse than the other, equivalent, or undecided.
    """
    wide = by_method(rows, criterion)
    pairs = [(method, other) for other in wide.columns if other != method]
    table = compare(wide, pairs, criterion, draws)
    return table.set_index("other").drop(columns="method")


def rank_methods(rows: pd.DataFrame, draws: int = DRAWS) -> pd.DataFrame:
    """Which method is best on each criterion, by paired differences.

    Noise takes no part: it is stable and costs nothing; nor does a method that is defined on the
    images of one patient only, where others are on more.

    Args:
        rows: of `benchmark`.
        draws: of the bootstrap.

    Returns:
        A row for each criterion: best, value, `not clearly worse` and `not above chance` (lists of
        methods; None where chance is not known).
    """
    lines = []
    for criterion in CRITERIA:
        lines.append({"criterion": criterion, **rank_on_one(rows, criterion, draws)})
    return pd.DataFrame(lines).set_index("criterion")


def rank_on_one(rows: pd.DataFrame, criterion: str, draws: int) -> dict[str, Any]:
    """One line of `rank_methods`."""
    wide, sign = by_method(rows, criterion), CRITERIA[criterion][1]
    patients = wide.groupby(level="group").count().gt(0).sum()  # of each method
    methods = [name for name in wide if name not in NOT_COMPARED and patients[name]]
    if not methods:
        return {
            "best": None,
            "value": np.nan,
            "not clearly worse": [],
            "not above chance": None,
        }
    if patients[methods].max() > 1:
        methods = [name for name in methods if patients[name] > 1]
    best = (sign * wide[methods].mean()).idxmax()
    ahead = compare(wide, [(best, name) for name in methods if name != best], criterion, draws)
    not_above_chance = None
    if "chance" in wide:
        above = compare(wide, [(name, "chance") for name in methods], criterion, draws)
        not_above_chance = list(above.loc[above["conclusion"] != "better", "method"])
    return {
        "best": best,
        "value": wide[best].mean(),
        "not clearly worse": list(ahead.loc[ahead["conclusion"] != "better", "other"]),
        "not above chance": not_above_chance,
    }


def summarise_cascade(rows: pd.DataFrame, draws: int = DRAWS) -> pd.DataFrame:
    """How alike maps stay while weights are shuffled: means with 95 % intervals over patients.

    Args:
        rows: of `randomise_in_steps`.
        draws: of the bootstrap.

    Returns:
        A row for each method and part, in the order of shuffling: method, part, value, low, high,
        n, and map: "kept", "lost" or "undecided", as the interval lies above KEPT, below or on both
        sides; "none" where no image has a map.
    """
    lines = []
    for (method, part), group in rows.groupby(["method", "part"], sort=False):
        measured = group.dropna(subset="value")
        line = {"method": method, "part": part, "value": np.nan, "low": np.nan, "high": np.nan}
        if len(measured):
            values = measured["value"].to_numpy()
            found = mean_of_draws(values, measured["group"].to_numpy(), draws)
            low, high = np.percentile(found, LIMITS)
            line |= {"value": values.mean(), "low": low, "high": high}
        lines.append({**line, "n": len(measured), "map": _state_of_map(line)})
    return pd.DataFrame(lines)


def _state_of_map(line: dict[str, Any]) -> str:
    if np.isnan(line["value"]):
        return "none"
    if line["low"] > KEPT:
        return "kept"
    return "lost" if line["high"] < KEPT else "undecided"


def read_cascade(table: pd.DataFrame) -> dict[str, str]:
    """What a cascade shows: a sentence for each method.

    Args:
        table: of `summarise_cascade`.

    Returns:
        method -> sentence.
    """
    sentences = {}
    for method, part in table.groupby("method", sort=False):
        state, names = list(part["map"]), list(part["part"])
        texts = [value_text(line) for line in part.to_dict("records")]
        kept = next((i for i, each in enumerate(state) if each != "kept"), len(state))
        lost = next((i for i, each in enumerate(state) if each == "lost"), None)
        if set(state) == {"none"}:
            ending = "is empty on every image: no map, nothing to lose"
        elif lost is None and kept == len(state):
            ending = f"is never lost ({texts[-1]} at the end): it does not depend on the weights"
        elif lost == 0:
            ending = f"is lost with the first part, {names[0]} ({texts[0]})"
        elif lost is None:
            ending = f"is never clearly lost ({texts[-1]} at the end)"
        else:
            ending = f"is lost from {names[lost]} on ({texts[lost]})"
        begin = ""
        if 0 < kept < len(state):
            through = names[kept - 1]
            begin = f"hardly depends on the weights down to {through} ({texts[kept - 1]}), and "
        sentences[str(method)] = f"the map of {method} {begin}{ending}"
    return sentences


def typical_images(probabilities: np.ndarray, labels: np.ndarray) -> list[int]:
    """An image of each class that is typical of it, chosen by rule.

    It is the one with the median probability of its class among the images of that class that the
    model calls right, or, where it calls none right, among all of them; of an even number, the
    lower one. The surest image is not typical: see "saturation" in CRITERIA.

    Args:
        probabilities: (n, K).
        labels: class of each image, (n,).

    Returns:
        K rows.

    Raises:
        ValueError: there is no image of a class.
    """
    rows = []
    for k in range(probabilities.shape[1]):
        right = np.flatnonzero((labels == k) & (probabilities.argmax(1) == k))
        if not len(right):
            right = np.flatnonzero(labels == k)
        if not len(right):
            raise ValueError(f"no image is of class {k}: there is no example")
        order = np.argsort(probabilities[right, k], kind="stable")
        rows.append(int(right[order[(len(right) - 1) // 2]]))
    return rows
