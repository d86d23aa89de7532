"""Changes between films of one patient, by hand."""

import numpy as np
import pandas as pd
import pytest

from cxrkit.config.choices import Choices
from cxrkit.config.vocabulary import COLUMNS, ZONES
from cxrkit.evaluation import follow_up


def table(rows):
    """(patient, visit, true severity, predicted score) -> a table of predictions."""
    images = pd.DataFrame(rows, columns=["patient_id", "visit", "truth", "score"])
    arrays = pd.DataFrame(
        [[1.0] * n + [0.0] * (6 - n) for n in images["truth"]], columns=list(ZONES)
    )
    images = (
        images.assign(group_id=images["patient_id"])
        .drop(columns="truth")
        .reindex(columns=[*COLUMNS, "score"])
    )
    return images.drop(columns=list(ZONES)).join(arrays)


ROWS = [
    ("a", 2, 4, 4.5),
    ("a", 0, 1, 1.5),
    ("a", 1, 3, 2.5),
    ("b", 0, 2, 2.0),
    ("c", 5, 6, 5.0),
    ("c", 9, 6, 5.5),
    ("d", np.nan, 0, 0.1),
    ("d", 3, 0, 0.2),
    ("e", 1, 1, 1.0),
    ("e", 1, 5, 5.0),
]


def test_pairs_are_consecutive_films_of_a_patient_in_order():
    pairs = follow_up.changes(table(ROWS), Choices())
    assert pairs[["patient_id", "before", "after", "predicted", "true"]].to_numpy().tolist() == [
        ["a", 0, 1, 1.0, 2.0],
        ["a", 1, 2, 2.0, 1.0],
        ["c", 5, 9, 0.5, 0.0],
    ]


def test_series_leaves_out_single_films_and_films_without_an_order():
    kept = follow_up.series(table(ROWS))
    assert kept["patient_id"].tolist() == ["a", "a", "a", "c", "c"] and kept["visit"].tolist() == [
        0,
        1,
        2,
        5,
        9,
    ]


def test_noise_is_the_spread_of_predicted_minus_true():
    pairs = follow_up.changes(table(ROWS), Choices())
    sd = follow_up.noise(pairs)
    assert sd == pytest.approx(np.std([-1.0, 1.0, 0.5], ddof=1))
    assert follow_up.exceeds_noise(pairs, 1.0).tolist() == [False, True, False]  # 1.96 and more
    assert np.isnan(follow_up.noise(pairs.iloc[:1]))


def test_noise_alone_is_flagged_once_in_twenty_and_large_changes_are_caught():
    rng = np.random.default_rng(0)
    true = rng.choice([0.0, 3.0, -3.0], 6000, p=(0.5, 0.25, 0.25))
    pairs = pd.DataFrame({"predicted": true + rng.normal(0, 0.7, 6000), "true": true})
    out = follow_up.report(pairs, follow_up.noise(pairs))
    assert out["sd"] == pytest.approx(0.7, rel=0.03) and out["false_alarms"][
        "value"
    ] == pytest.approx(0.05, abs=0.01)
    assert out["caught"]["value"] > 0.98 and out["caught"]["n"] == (true != 0).sum()
    none = follow_up.report(pairs.assign(true=1.0), 0.7)
    assert none["false_alarms"] == {"value": None, "n": 0}
