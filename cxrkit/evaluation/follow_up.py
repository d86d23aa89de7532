"""Follow-up: severity of one patient over time, and which changes are larger than the noise of the
reading.

The paper wants its score for "serial follow-up of severity" (section 1). A score that moves by 0.4
between two films has said nothing unless the reading itself moves less. Noise is measured where the
truth is known: the spread of (read change - true change) over pairs of films of one patient, which
is the standard deviation of a Bland-Altman plot of changes.
"""

import numpy as np
import pandas as pd

from cxrkit.data import lung_zones
from cxrkit.data.datasets import arrays
from cxrkit.evaluation import metrics


def series(table):
    """Films of patients who have at least two at known times, in the order of `visit`."""
    known = table[table["visit"].notna()]
    known = known[~known.duplicated(["patient_id", "visit"])]  # two films of one day have no order
    several = known.groupby("patient_id")["visit"].transform("size") >= 2
    return known[several].sort_values(["patient_id", "visit"], kind="stable").reset_index(drop=True)


def changes(table, choices):
    """Consecutive films of a patient: one row a pair, with `before`, `after` (visits), `read`
    (change of `score`), `true`.
    """
    rows = series(table).assign(truth=lambda t: lung_zones.score(arrays(t, choices)))
    pairs = rows.groupby("patient_id")[["visit", "score", "truth"]].shift(-1)
    out = pd.DataFrame(
        {
            "patient_id": rows["patient_id"],
            "group_id": rows["group_id"],
            "before": rows["visit"],
            "after": pairs["visit"],
            "read": pairs["score"] - rows["score"],
            "true": pairs["truth"] - rows["truth"],
        }
    )
    return out[pairs["visit"].notna()].reset_index(drop=True)


def noise(pairs):
    """Standard deviation of (read - true) change over pairs of known truth; NaN for fewer than two."""
    known = pairs[pairs["true"].notna()]
    return metrics.bland_altman(known["read"], known["true"])["sd"]


def beyond(pairs, sd):
    """Is a read change larger than noise alone makes it in 19 of 20 pairs? bool (n,)."""
    return (pairs["read"].abs() > metrics.Z95 * sd).to_numpy()


def report(pairs, sd):
    """How changes are told from noise: dict `sd`, `limit` (1.96 sd), `false_alarms` among pairs
    without true change, `caught` among true changes of at least 2, and whether their direction is
    right. Shares are None where there is no such pair.
    """
    flagged, still, large = beyond(pairs, sd), pairs["true"] == 0, pairs["true"].abs() >= 2
    right = np.sign(pairs["read"]) == np.sign(pairs["true"])

    def share(hits, among):
        return {"value": float(hits[among].mean()) if among.any() else None, "n": int(among.sum())}

    return {
        "sd": float(sd),
        "limit": float(metrics.Z95 * sd),
        "pairs": len(pairs),
        "false_alarms": share(flagged, still),
        "caught": share(flagged & right, large),
        "direction": share(right, large),
    }
