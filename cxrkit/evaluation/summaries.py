"""Summaries that every task writes: metrics by split and site, folds, and intervals ready for JSON.

Metrics are keyed by name: `{"val": ..., "test": ..., "external": ..., "sites": {"elm": ...}}`.
`sites` holds the external sites, each alone, with what `external` holds for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from cxrkit.evaluation import resampling

Metrics = dict[str, Any]
SPLITS = ("val", "test", "external", "folds")  # what tasks write; `folds` by cross-validation
SITES = "sites"


def by_split(
    predictions: Mapping[str, pd.DataFrame], scores: Callable[[pd.DataFrame], Metrics]
) -> dict[str, Metrics]:
    """Metrics of each split, and of each external site.

    Args:
        predictions: Tables of predictions, {"test": ..., "external": ...}.
        scores: scores(table) -> the metrics of one table.

    Returns:
        {split: metrics} in the order given, and, where there is "external", {"sites": {site:
        metrics}}, sorted by name. Read it with `metrics_of` and `sites_of`.
    """
    out = {split: scores(table) for split, table in predictions.items()}
    if "external" in predictions:
        out[SITES] = by_site(predictions["external"], scores)
    return out


def by_site(table: pd.DataFrame, scores: Callable[[pd.DataFrame], Metrics]) -> dict[str, Metrics]:
    """Metrics of each site of a table, {site: metrics}, sorted by name."""
    return {str(site): scores(part) for site, part in table.groupby("site")}


def metrics_of(metrics: Mapping[str, Any], split: str) -> Metrics:
    """Metrics of one split.

    Args:
        metrics: What `by_split` returned, or a metrics.json that holds it.
        split: One of SPLITS.

    Returns:
        Its metrics.

    Raises:
        ValueError: Naming the splits that there are, if it is absent.
    """
    if split not in SPLITS or split not in metrics:
        present = [name for name in SPLITS if name in metrics]
        raise ValueError(
            f"no metrics of {split!r}; there are those of {present}. A split without images has "
            "none: check the manifests and `external` of the profile"
        )
    return metrics[split]


def sites_of(metrics: Mapping[str, Any]) -> dict[str, Metrics]:
    """Metrics of the external sites, each alone.

    Args:
        metrics: What `by_split` returned, or a metrics.json that holds it.

    Returns:
        {site: metrics}, sorted by name; {} without external images.
    """
    return dict(metrics.get(SITES, {}))


def cross_predict(
    table: pd.DataFrame,
    fold: Iterable[int],
    fit: Callable[[int, pd.DataFrame], Any],
    predict: Callable[[Any, pd.DataFrame], pd.DataFrame],
) -> pd.DataFrame:
    """Predictions for every image, by a model that saw nothing of its fold.

    Args:
        table: The images.
        fold: Number of each image's fold, (n,).
        fit: fit(number, images) -> a model trained on the images of the other folds.
        predict: predict(model, images) -> these images with more columns.

    Returns:
        The table of `predict` for all images, fold after fold, with a column `fold`.
    """
    fold = np.asarray(fold)
    parts = []
    for number in np.unique(fold):
        model = fit(number, table[fold != number].reset_index(drop=True))
        part = predict(model, table[fold == number].reset_index(drop=True))
        parts.append(part.assign(fold=number))
    return pd.concat(parts, ignore_index=True)


def json_number(value: float) -> float | None:
    """float, None where it is not finite: JSON has no NaN."""
    return float(value) if np.isfinite(value) else None


def interval_dict(triple: tuple[float, float, float], n: int) -> dict[str, float | int | None]:
    """A value with its interval, as the report prints it.

    Args:
        triple: Value, low, high.
        n: How many images it comes from.

    Returns:
        `value`, `low`, `high` (None where not finite) and `n`.
    """
    value, low, high = triple
    return {
        "value": json_number(value),
        "low": json_number(low),
        "high": json_number(high),
        "n": int(n),
    }


def value_text(interval: Mapping[str, Any], digits: int = 2) -> str:
    """A value with its interval, such as "1.54 [1.44, 1.65]"; without one the value alone.

    Args:
        interval: as `interval_dict`, or with `difference` in place of `value`: then with its sign,
            "+0.10 [0.05, 0.15]".
        digits: after the point.
    """
    low, high = interval["low"], interval["high"]
    if "difference" in interval:
        text = f"{interval['difference']:+.{digits}f}"
    else:
        text = f"{interval['value']:.{digits}f}"
    return text if low is None else f"{text} [{low:.{digits}f}, {high:.{digits}f}]"


def mean_dict(values: np.ndarray, groups: np.ndarray, draws: int) -> dict[str, float | int | None]:
    """Mean of the values that are known, with its interval by patient, as `interval_dict`.

    Args:
        values: (n,), NaN where unknown.
        groups: patient of each, (n,).
        draws: of patients.
    """
    triple = resampling.bootstrap(np.nanmean, values, groups=groups, draws=draws)
    return interval_dict(triple, int(np.isfinite(values).sum()))
