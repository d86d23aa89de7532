"""Summaries that every task writes: places, folds, and intervals ready for JSON."""

import numpy as np
import pandas as pd


def in_folds(table, fold, fit, predict):
    """The table with what `predict` adds, each film judged by a model that saw nothing of its fold,
    and `fold`.

    fold: the number of each film's fold, (n,); fit(k, films) -> model; predict(model, films) ->
    films with more columns.
    """
    fold, judged = np.asarray(fold), []
    for k in np.unique(fold):
        model = fit(k, table[fold != k].reset_index(drop=True))
        judged.append(predict(model, table[fold == k].reset_index(drop=True)).assign(fold=k))
    return pd.concat(judged, ignore_index=True)


def by_place(judged, scores):
    """Judged tables, {"test": ..., "external": ...}, and a function of one table -> {place: its
    dict}.

    Each external site is also judged on its own, as external1, external2, ... with its name as
    `site`.
    """
    out = {name: scores(table) for name, table in judged.items()}
    if "external" in judged:
        for i, (site, part) in enumerate(judged["external"].groupby("site"), start=1):
            out[f"external{i}"] = {"site": site, **scores(part)}
    return out


def number(value):
    """float, None where it is not finite: JSON has no NaN."""
    return float(value) if np.isfinite(value) else None


def interval(triple, n):
    """(value, low, high) -> dict value, low, high, n, as the report prints it."""
    return {**dict(zip(("value", "low", "high"), map(number, triple), strict=True)), "n": int(n)}
