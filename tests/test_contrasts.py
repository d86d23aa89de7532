"""Contrasts against hand-worked tables, a planted shortcut that a thumbnail must find, and a model that knows more than it."""

from dataclasses import replace

import cv2
import numpy as np
import pandas as pd
import pytest

from cxrkit import contrasts, profiles
from cxrkit.artifacts import Store
from cxrkit.diagnosis import PROBABILITIES
from cxrkit.metrics import auc
from cxrkit.schema import COLUMNS, DIAGNOSES

SIZE, PROFILE = 32, replace(profiles.demo(), image_size=32)


@pytest.fixture(autouse=True)
def two_rivals(monkeypatch):
    monkeypatch.setattr(contrasts, "RIVALS", ("thumbnail", "mean and SD"))


def films(folder, classes, bright, dataset="nih_cxr14", first=1000):
    """Films of noise of one dataset; in the share `bright` of the films of the second class a corner is brighter. Patients from `first`."""
    rng, rows = np.random.default_rng(len(classes) + first), []
    for i, name in enumerate(classes):
        image = rng.integers(60, 200, (SIZE, SIZE)).astype(np.uint8)
        image[:8, :8] += np.uint8(50 * (name == classes[1] and rng.random() < bright))
        path = folder / f"{dataset}{i}.png"
        cv2.imwrite(str(path), image)
        rows.append({"path": str(path), "dataset": dataset, "site": dataset, "view": ("PA", "AP")[i // 2 % 2], "diagnosis": name,
                     "group_id": f"n{first + 50 * i}", "fold": i // 4 % 2, "external": dataset == "cohen"})
    return pd.DataFrame(rows).reindex(columns=[*COLUMNS, "external", "fold"])


def told(table, how):
    """The table with probabilities: "truth", or "nothing"."""
    p = np.full((len(table), 3), 1 / 3)
    if how == "truth":
        p = 0.1 + 0.7 * (table["diagnosis"].to_numpy()[:, None] == np.array(DIAGNOSES))
    return table.assign(**dict(zip(PROBABILITIES, p.T, strict=True)))


def test_leaning_by_hand():
    p = [[0.2, 0.4, 0.4], [0.5, 0.25, 0.25], [0.0, 1.0, 0.0]]
    np.testing.assert_allclose(contrasts.lean(p, "other_infection", "normal"), [np.log(2), -np.log(2), -np.log(contrasts.TINY)])
    np.testing.assert_allclose(contrasts.lean(p, "covid19", "other_infection"), [0, 0, np.log(contrasts.TINY)])


def test_ties_of_source_and_class():
    table = pd.DataFrame({"dataset": list("aabbc"), "diagnosis": ["normal", "other_infection"] * 2 + ["covid19"]})
    counts, area = contrasts.ties(table)
    assert counts.loc["c"].to_dict() == {"normal": 0, "other_infection": 0, "covid19": 1, "only": "covid19"}
    assert list(counts["only"]) == ["-", "-", "covid19"]
    # covid19 is certain (1); normal and other infection are guessed at 1/2 against one sure 0 and two equal: (1 + 1/2 + 1/2) / 3
    assert area == pytest.approx((1 + 2 / 3 + 2 / 3) / 3)


def test_inside_a_source_a_planted_shortcut_counts_for_the_thumbnail(tmp_path):
    table = films(tmp_path, ["normal", "other_infection"] * 32, bright=1.0)
    found = contrasts.inside(told(table, "nothing"), PROFILE, Store(tmp_path / "store"))
    assert list(found) == ["PA", "PA, shared band", "AP", "AP, shared band"]
    one = found["PA"]
    assert one["n"] == [16, 16] and one["auc"]["value"] == 0.5 and one["rivals"]["thumbnail"]["value"] > 0.95
    assert one["gain"]["difference"] == pytest.approx(0.5 - one["gain"]["values"][one["gain"]["rival"]]) and one["gain"]["high"] < 0
    number = table["group_id"].str[1:].astype(int)
    band = (table["view"] == "PA") & (number >= 1280) & (number <= 3956)
    assert sum(found["PA, shared band"]["n"]) == band.sum() < 32


def test_inside_a_source_a_model_that_knows_beats_the_best_of_them(tmp_path):
    table = films(tmp_path, ["normal", "other_infection"] * 32, bright=0.3)
    table = pd.concat([table, table[:4].assign(dataset="elsewhere"), table[:4].assign(diagnosis="covid19")], ignore_index=True)
    found = contrasts.inside(told(table, "truth"), PROFILE, Store(tmp_path / "store"))
    assert all(one["auc"]["value"] == 1 and one["gain"]["low"] > 0 for one in found.values())
    assert found["AP"]["n"] == [16, 16], "other sources and classes take no part"
    assert contrasts.table(found).loc["PA", "films"] == "16 + 16"


def test_away_the_thumbnails_learn_from_the_films_that_taught_ours(tmp_path):
    classes = ["other_infection", "covid19"] * 20
    away = films(tmp_path, classes, bright=1.0, dataset="cohen")
    taught = pd.concat([films(tmp_path, ["normal", "covid19", "other_infection"] * 12, 1.0, "far", first=5000),
                        films(tmp_path, ["normal", "covid19", "other_infection"] * 12, 0.0, "virtual", first=9000)], ignore_index=True)
    judged = told(pd.concat([away, away.assign(dataset="other", diagnosis="normal")], ignore_index=True), "nothing")
    found = contrasts.away(judged, taught, PROFILE, Store(tmp_path / "store"))
    assert list(found) == ["all", "PA", "AP"] and found["all"]["n"] == [20, 20]
    areas = {name: one["value"] for name, one in found["all"]["rivals"].items()}
    assert set(areas) == {f"{name}, {what}" for name in ("thumbnail", "equalised thumbnail") for what in ("real films", "all films")}
    assert areas["thumbnail, real films"] > 0.95 and found["all"]["auc"]["value"] == auc([0, 1], [0, 0])
