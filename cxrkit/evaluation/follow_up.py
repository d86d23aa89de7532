"""Severity of one patient over time, and which changes are larger than the noise of the prediction.

The paper wants its score for "serial follow-up of severity" (section 1). A score that moves by 0.4
between two images says nothing unless the prediction itself varies less. The noise is measured
where the truth is known: the spread of (predicted change - true change) over pairs of images of one
patient, which is the standard deviation of a Bland-Altman plot of changes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from cxrkit.data import lung_zones
from cxrkit.data.datasets import severity_arrays
from cxrkit.evaluation import metrics

if TYPE_CHECKING:
    from cxrkit.config.choices import Choices

LARGE_CHANGE = 2  # points of the severity score, 0 to 6


def series(table: pd.DataFrame) -> pd.DataFrame:
    """Images of patients who have at least two at known times.

    Args:
        table: Images with `patient_id` and `visit`.

    Returns:
        Its rows, by patient in the order of `visit`. Of two images of one day only the first
        counts: they have no order.
    """
    known = table[table["visit"].notna()]
    known = known[~known.duplicated(["patient_id", "visit"])]
    several = known.groupby("patient_id")["visit"].transform("size") >= 2
    return known[several].sort_values(["patient_id", "visit"], kind="stable").reset_index(drop=True)


def changes(table: pd.DataFrame, choices: Choices) -> pd.DataFrame:
    """Changes between consecutive images of a patient.

    Args:
        table: Images with the predicted `score` and, where known, the true zones.
        choices: How zones become a score.

    Returns:
        One row a pair: `patient_id`, `group_id`, `before` and `after` (visits), `predicted` and
        `true` change; `true` is NaN where a zone is unknown.
    """
    rows = series(table)
    rows = rows.assign(truth=lung_zones.severity_score(severity_arrays(rows, choices)))
    following = rows.groupby("patient_id")[["visit", "score", "truth"]].shift(-1)
    pairs = pd.DataFrame(
        {
            "patient_id": rows["patient_id"],
            "group_id": rows["group_id"],
            "before": rows["visit"],
            "after": following["visit"],
            "predicted": following["score"] - rows["score"],
            "true": following["truth"] - rows["truth"],
        }
    )
    return pairs[following["visit"].notna()].reset_index(drop=True)


def noise(pairs: pd.DataFrame) -> float:
    """Standard deviation of (predicted - true) change, over pairs of known truth.

    Args:
        pairs: The table of `changes`.

    Returns:
        The standard deviation in points of the score; NaN for fewer than two pairs.
    """
    known = pairs[pairs["true"].notna()]
    return metrics.bland_altman(known["predicted"], known["true"])["sd"]


def exceeds_noise(pairs: pd.DataFrame, sd: float) -> np.ndarray:
    """Which predicted changes are larger than noise alone makes in 19 of 20 pairs.

    Args:
        pairs: The table of `changes`.
        sd: What `noise` measured.

    Returns:
        bool (n,).
    """
    return (pairs["predicted"].abs() > metrics.Z95 * sd).to_numpy()


def report(pairs: pd.DataFrame, sd: float) -> dict[str, Any]:
    """How well changes are distinguished from noise.

    Args:
        pairs: The table of `changes`.
        sd: What `noise` measured.

    Returns:
        `sd`, `limit` (1.96 sd), `pairs`, and shares with their number of pairs: `false_alarms`
        among pairs without true change, `caught` among true changes of at least 2 points, and
        `direction`, the share of these whose direction is right. A share of no pairs is None.
    """
    flagged = exceeds_noise(pairs, sd)
    unchanged = pairs["true"] == 0
    large = pairs["true"].abs() >= LARGE_CHANGE
    right = np.sign(pairs["predicted"]) == np.sign(pairs["true"])
    return {
        "sd": float(sd),
        "limit": float(metrics.Z95 * sd),
        "pairs": len(pairs),
        "false_alarms": _share(flagged, unchanged),
        "caught": _share(flagged & right, large),
        "direction": _share(right, large),
    }


def _share(hits: pd.Series | np.ndarray, among: pd.Series) -> dict[str, float | int | None]:
    """Share of hits among some pairs."""
    value = float(hits[among].mean()) if among.any() else None
    return {"value": value, "n": int(among.sum())}
