"""Results by subgroup: bands, counts and scores against hand-worked ones."""

import math

import numpy as np
import pandas as pd

from cxrkit.config.profiles import demo
from cxrkit.config.vocabulary import ZONES
from cxrkit.evaluation.subgroups import age_band, break_down
from cxrkit.reproduction import subgroups


def people():
    return pd.DataFrame(
        {
            "group_id": ["a", "a", "b", "c", "d"],
            "sex": ["F", "F", "M", None, "M"],
            "age": [17, 18, 59.9, None, 75],
            "view": ["PA", "AP", "PA", "PA", None],
            "site": ["x", "x", "y", "y", "y"],
            "value": [1.0, 2.0, 3.0, 4.0, 5.0],
        }
    )


def mean(table):
    return table["value"].mean(), math.nan, math.nan


def test_bands_have_their_limits_below():
    ages = pd.Series([0, 17.99, 18, 39, 40, 59.9, 60, 74, 75, 110, np.nan])
    assert age_band(ages).tolist() == [
        *["under 18"] * 2,
        *["18 to 39"] * 2,
        *["40 to 59"] * 2,
        *["60 to 74"] * 2,
        *["75 and over"] * 2,
        "unknown",
    ]


def test_each_group_has_its_images_patients_and_score():
    table = break_down(people(), mean)
    rows = table[["by", "group", "images", "patients", "value"]].to_numpy().tolist()
    assert rows == [
        ["all", "all", 5, 4, 3.0],
        ["sex", "F", 2, 1, 1.5],
        ["sex", "M", 2, 2, 4.0],
        ["sex", "unknown", 1, 1, 4.0],
        ["age", "under 18", 1, 1, 1.0],
        ["age", "18 to 39", 1, 1, 2.0],
        ["age", "40 to 59", 1, 1, 3.0],
        ["age", "75 and over", 1, 1, 5.0],
        ["age", "unknown", 1, 1, 4.0],
        ["view", "AP", 1, 1, 2.0],
        ["view", "PA", 3, 3, 8 / 3],
        ["view", "unknown", 1, 1, 5.0],
        ["site", "x", 2, 1, 1.5],
        ["site", "y", 3, 3, 4.0],
    ]
    assert table["low"].isna().all()


def test_what_nobody_knows_is_left_out():
    table = people().assign(sex=None, age=np.nan)
    assert set(break_down(table, mean)["by"]) == {"all", "view", "site"}


def test_the_auc_is_that_of_the_known_diagnoses():
    table = pd.DataFrame(
        {
            "diagnosis": ["covid19", "normal", "covid19", "other_infection", None],
            "p_covid19": [0.9, 0.1, 0.4, 0.5, 0.99],
            "group_id": list("abcde"),
        }
    )
    value, low, high = subgroups.covid_auc(table)
    assert value == 0.75 and 0 < low < value < high < 1  # 3 of 4 pairs are in order
    assert all(math.isnan(one) for one in subgroups.covid_auc(table[:1]))


def test_the_error_of_the_severity_is_squared():
    table = pd.DataFrame([[1, 0, 0, 0, 0, 0], [1, 1, 1, 0, 0, 0]], columns=list(ZONES)).assign(
        score=[2.0, 1.0], group_id=["a", "b"]
    )
    table = table.reindex(columns=[*table, *[f"brixia_{zone}" for zone in "ABCDEF"]])
    value, _, _ = subgroups.severity_mse(table, demo().choices)
    assert value == (1 + 4) / 2


def test_sex_and_age_come_by_the_path_of_the_original():
    predictions = pd.DataFrame({"path": ["masked", "b"], "origin": ["a", None]})
    patients = pd.DataFrame({"path": ["a", "b"], "sex": ["F", None], "age": [40.0, 3.0]})
    found = subgroups.with_patients(predictions, patients)
    assert found["sex"].tolist()[0] == "F" and pd.isna(found["sex"][1])
    assert found["age"].tolist() == [40.0, 3.0]
