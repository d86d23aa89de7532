"""Results by subgroup: sex, age band, view and site, each with its interval and its counts.

A subgroup with few patients gets its interval too, which is then wide; one without both classes
gets no value. A difference between subgroups is no finding while their intervals overlap: groups
differ in severity, view and hospital too.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from cxrkit.config.vocabulary import AGE_BANDS
from cxrkit.evaluation.summaries import json_number

BY = ("sex", "age", "view", "site")
UNKNOWN = "unknown"
ALL = "all"
COLUMNS = ["by", "group", "images", "patients", "value", "low", "high"]
Score = Callable[[pd.DataFrame], tuple[float, float, float]]


def age_band(age: pd.Series) -> pd.Series:
    """Names of the age bands, such as "40 to 59"; "unknown" where no age is known.

    Args:
        age: years, NaN unknown.

    Example:
        >>> age_band(pd.Series([0.5, 17.9, 18, 90, None])).tolist()
        ['under 18', 'under 18', '18 to 39', '75 and over', 'unknown']
    """
    names = [f"{low} to {high - 1}" for low, high in zip(AGE_BANDS, AGE_BANDS[1:])]
    names[0] = f"under {AGE_BANDS[1]}"
    names.append(f"{AGE_BANDS[-1]} and over")
    bands = pd.cut(pd.to_numeric(age), [*AGE_BANDS, np.inf], right=False, labels=names)
    return bands.astype(object).fillna(UNKNOWN)


def break_down(table: pd.DataFrame, score: Score) -> pd.DataFrame:
    """A score of all images, and by each of BY.

    Args:
        table: predictions with `group_id` and any of the columns BY; `age` in years.
        score: score(table) -> value, low, high; NaN where it is undefined.

    Returns:
        One row a subgroup: `by`, `group`, `images`, `patients`, `value`, `low`, `high` (None where
        undefined). Age bands are in order, other groups by name, the unknown ones last. A column
        of which nothing is known is left out.
    """
    rows = [_row(ALL, ALL, table, score)]
    for name in BY:
        if name not in table or table[name].isna().all():
            continue
        groups = age_band(table[name]) if name == "age" else table[name].fillna(UNKNOWN)
        for group in sorted(groups.unique(), key=_order):
            rows.append(_row(name, group, table[groups == group], score))
    return pd.DataFrame(rows, columns=COLUMNS)


def _order(group: object) -> tuple[bool, bool, str]:
    """Key that sorts names of groups: the youngest first, the unknown ones last."""
    text = str(group)
    return text == UNKNOWN, not text.startswith("under "), text


def _row(by: str, group: object, part: pd.DataFrame, score: Score) -> list[object]:
    """A row of the table of `break_down`."""
    triple = [json_number(number) for number in score(part)]
    return [by, group, len(part), part["group_id"].nunique(), *triple]
