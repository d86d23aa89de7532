"""Metrics keyed by split and site, their readers, and predictions by folds."""

import json
import math

import numpy as np
import pandas as pd
import pytest

from cxrkit.evaluation import metrics_of, sites_of
from cxrkit.evaluation.summaries import by_split, cross_predict, interval_dict, value_text


def count(table):
    return {"n": len(table)}


TEST = pd.DataFrame({"site": ["home", "home", "home"]})
# twelve sites, so that a number in alphabetical order would put the tenth before the second
EXTERNAL = pd.DataFrame({"site": [f"site{i % 12}" for i in reversed(range(25))]})


def test_metrics_are_keyed_by_split_and_external_sites_by_name():
    found = by_split({"test": TEST, "external": EXTERNAL}, count)
    assert list(found) == ["test", "external", "sites"]
    assert found["test"] == {"n": 3} and found["external"] == {"n": 25}
    assert list(found["sites"]) == sorted(f"site{i}" for i in range(12))
    assert found["sites"]["site0"] == {"n": 3} and found["sites"]["site11"] == {"n": 2}


def test_without_external_images_there_are_no_sites():
    found = by_split({"val": TEST, "test": TEST}, count)
    assert list(found) == ["val", "test"] and sites_of(found) == {}


def test_readers_take_what_was_written_and_name_what_is_missing():
    written = {"images": {"train": 9}, **by_split({"val": TEST, "external": EXTERNAL}, count)}
    found = json.loads(json.dumps(written))
    assert metrics_of(found, "external") == {"n": 25}
    assert list(sites_of(found)) == list(found["sites"])
    for absent in ("test", "images", "sites", "external1"):
        with pytest.raises(ValueError, match=rf"no metrics of '{absent}'.*\['val', 'external'\]"):
            metrics_of(found, absent)


def test_each_fold_is_predicted_by_a_model_of_the_others():
    table = pd.DataFrame({"y": [1.0, 2.0, 3.0, 4.0]})
    found = cross_predict(
        table,
        [0, 1, 1, 0],
        lambda number, images: (number, images["y"].sum()),
        lambda model, images: images.assign(model=model[0], total=model[1]),
    )
    assert found["y"].tolist() == [1, 4, 2, 3] and found["fold"].tolist() == [0, 0, 1, 1]
    assert found["model"].tolist() == [0, 0, 1, 1] and found["total"].tolist() == [5, 5, 5, 5]


def test_an_interval_has_no_nan():
    assert interval_dict((0.5, math.nan, np.inf), np.int64(7)) == {
        "value": 0.5,
        "low": None,
        "high": None,
        "n": 7,
    }


@pytest.mark.parametrize(
    "interval, text",
    [
        ({"value": 1.538, "low": 1.44, "high": 1.651}, "1.54 [1.44, 1.65]"),
        ({"value": 0.5, "low": None, "high": None}, "0.50"),
        ({"difference": 0.1, "low": -0.05, "high": 0.25, "n": 9}, "+0.10 [-0.05, 0.25]"),
    ],
)
def test_an_interval_in_words(interval, text):
    assert value_text(interval) == text
