"""Contrasts against hand-worked tables, a planted shortcut that a thumbnail must find, and a model
that knows more than it.
"""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from cxrkit.config import profiles
from cxrkit.config.vocabulary import COLUMNS, DIAGNOSES
from cxrkit.data import masked_images
from cxrkit.evaluation.metrics import auc
from cxrkit.pipeline import dependencies, stages, task_data
from cxrkit.shortcuts import within_source
from cxrkit.storage.artifacts import Store
from cxrkit.tasks.diagnosis import PROBABILITIES

SIZE, PROFILE = 32, replace(profiles.demo(), image_size=32)


@pytest.fixture(autouse=True)
def two_rivals(monkeypatch):
    monkeypatch.setattr(within_source, "RIVALS", ("thumbnail", "mean and SD"))


def films(folder, classes, bright, dataset="nih_cxr14", first=1000):
    """Films of noise of one dataset; in the share `bright` of the films of the second class a
    corner is brighter. Patients from `first`.
    """
    rng, rows = np.random.default_rng(len(classes) + first), []
    for i, name in enumerate(classes):
        image = rng.integers(60, 200, (SIZE, SIZE)).astype(np.uint8)
        image[:8, :8] += np.uint8(50 * (name == classes[1] and rng.random() < bright))
        path = folder / f"{dataset}{i}.png"
        cv2.imwrite(str(path), image)
        rows.append(
            {
                "path": str(path),
                "dataset": dataset,
                "site": dataset,
                "view": ("PA", "AP")[i // 2 % 2],
                "diagnosis": name,
                "group_id": f"n{first + 50 * i}",
                "fold": i // 4 % 2,
                "external": dataset == "cohen",
            }
        )
    return pd.DataFrame(rows).reindex(columns=[*COLUMNS, "external", "fold"])


def told(table, how):
    """The table with probabilities: "truth", or "nothing"."""
    p = np.full((len(table), 3), 1 / 3)
    if how == "truth":
        p = 0.1 + 0.7 * (table["diagnosis"].to_numpy()[:, None] == np.array(DIAGNOSES))
    return table.assign(**dict(zip(PROBABILITIES, p.T, strict=True)))


def test_leaning_by_hand():
    p = [[0.2, 0.4, 0.4], [0.5, 0.25, 0.25], [0.0, 1.0, 0.0]]
    np.testing.assert_allclose(
        within_source.lean(p, "other_infection", "normal"),
        [np.log(2), -np.log(2), -np.log(within_source.TINY)],
    )
    np.testing.assert_allclose(
        within_source.lean(p, "covid19", "other_infection"), [0, 0, np.log(within_source.TINY)]
    )


def test_ties_of_source_and_class():
    table = pd.DataFrame(
        {"dataset": list("aabbc"), "diagnosis": ["normal", "other_infection"] * 2 + ["covid19"]}
    )
    counts, area = within_source.ties(table)
    assert counts.loc["c"].to_dict() == {
        "normal": 0,
        "other_infection": 0,
        "covid19": 1,
        "only": "covid19",
    }
    assert list(counts["only"]) == ["-", "-", "covid19"]
    # covid19 is certain (1); normal and other infection are guessed at 1/2 against one sure 0 and
    # two equal: (1 + 1/2 + 1/2) / 3
    assert area == pytest.approx((1 + 2 / 3 + 2 / 3) / 3)


def test_inside_a_source_a_planted_shortcut_counts_for_the_thumbnail(tmp_path):
    table = films(tmp_path, ["normal", "other_infection"] * 32, bright=1.0)
    found = within_source.inside(told(table, "nothing"), PROFILE, Store(tmp_path / "store"))
    assert list(found) == ["PA", "PA, shared band", "AP", "AP, shared band"]
    one = found["PA"]
    assert (
        one["n"] == [16, 16]
        and one["auc"]["value"] == 0.5
        and one["rivals"]["thumbnail"]["value"] > 0.95
    )
    assert (
        one["gain"]["difference"]
        == pytest.approx(0.5 - one["gain"]["values"][one["gain"]["rival"]])
        and one["gain"]["high"] < 0
    )
    number = table["group_id"].str[1:].astype(int)
    band = (table["view"] == "PA") & (number >= 1280) & (number <= 3956)
    assert sum(found["PA, shared band"]["n"]) == band.sum() < 32


def test_inside_a_source_a_model_that_knows_beats_the_best_of_them(tmp_path):
    table = films(tmp_path, ["normal", "other_infection"] * 32, bright=0.3)
    table = pd.concat(
        [table, table[:4].assign(dataset="elsewhere"), table[:4].assign(diagnosis="covid19")],
        ignore_index=True,
    )
    found = within_source.inside(told(table, "truth"), PROFILE, Store(tmp_path / "store"))
    assert all(one["auc"]["value"] == 1 and one["gain"]["low"] > 0 for one in found.values())
    assert found["AP"]["n"] == [16, 16], "other sources and classes take no part"
    assert within_source.table(found).loc["PA", "films"] == "16 + 16"


def test_away_the_thumbnails_learn_from_the_films_that_taught_ours(tmp_path):
    classes = ["other_infection", "covid19"] * 20
    away = films(tmp_path, classes, bright=1.0, dataset="cohen")
    taught = pd.concat(
        [
            films(tmp_path, ["normal", "covid19", "other_infection"] * 12, 1.0, "far", first=5000),
            films(
                tmp_path, ["normal", "covid19", "other_infection"] * 12, 0.0, "virtual", first=9000
            ),
        ],
        ignore_index=True,
    )
    judged = told(
        pd.concat([away, away.assign(dataset="other", diagnosis="normal")], ignore_index=True),
        "nothing",
    )
    found = within_source.away(judged, taught, PROFILE, Store(tmp_path / "store"))
    assert list(found) == ["all", "PA", "AP"] and found["all"]["n"] == [20, 20]
    areas = {name: one["value"] for name, one in found["all"]["rivals"].items()}
    assert set(areas) == {
        f"{name}, {what}"
        for name in ("thumbnail", "equalised thumbnail")
        for what in ("real films", "all films")
    }
    assert areas["thumbnail, real films"] > 0.95 and found["all"]["auc"]["value"] == auc(
        [0, 1], [0, 0]
    )


def test_a_source_that_paints_its_borders_is_known_by_them_and_so_is_its_only_diagnosis(
    tmp_path, monkeypatch
):
    """Films of three sources; one has a bright border and all of the COVID-19, the lungs of all
    films are alike.
    """
    monkeypatch.setattr(within_source, "PROBES", ("border", "lungs removed", "lungs only"))
    two = ["normal", "other_infection"] * 20
    parts = [
        films(tmp_path, two, 0.0, "a"),
        films(tmp_path, two, 0.0, "b", 5000),
        films(tmp_path, ["covid19", "covid19"] * 20, 0.0, "c", 9000),
    ]
    for path in parts[2]["path"]:
        image = cv2.imread(path, cv2.IMREAD_GRAYSCALE)
        image[:2] = 255
        cv2.imwrite(path, image)
    lung = np.zeros((SIZE, SIZE), np.uint8)
    lung[8:24, 8:24] = 255
    cv2.imwrite(str(tmp_path / "lung.png"), lung)
    table = pd.concat(parts, ignore_index=True).assign(lung_mask=str(tmp_path / "lung.png"))
    found = within_source.probes(table, replace(PROFILE, folds=3), Store(tmp_path / "store"))
    assert list(found) == ["source", "diagnosis"] and set(found["source"]) == {
        *within_source.PROBES,
        "chance",
    }
    values = {
        asked: {
            name: scores["balanced_accuracy"]["value"]
            for name, scores in told.items()
            if name != "chance"
        }
        for asked, told in found.items()
    }
    # the third source for sure, the other two by chance: (1 + 1/2 + 1/2) / 3
    for told in values.values():
        assert told["border"] == pytest.approx(2 / 3, abs=0.12) and told[
            "lungs removed"
        ] == pytest.approx(2 / 3, abs=0.12)
        assert told["lungs only"] == pytest.approx(1 / 3, abs=0.15)
    assert (
        found["source"]["chance"] == pytest.approx(1 / 3)
        and found["source"]["border"]["auc"]["n"] == 120
    )


def test_of_each_patient_one_film_is_probed_and_of_a_source_a_limited_number(tmp_path, monkeypatch):
    monkeypatch.setattr(within_source, "PROBES", ("mean and SD",))
    monkeypatch.setattr(within_source, "MOST", 16)
    table = pd.concat(
        [
            films(tmp_path, ["covid19", "normal"] * 15, 0.0, "a"),
            films(tmp_path, ["covid19", "normal"] * 4, 0.0, "b", 5000),
        ],
        ignore_index=True,
    )
    twice = pd.concat([table, table], ignore_index=True)
    found = within_source.probes(twice, replace(PROFILE, folds=2), Store(tmp_path / "store"))
    assert found["source"]["mean and SD"]["auc"]["n"] == 16 + 8


def drawn(table, folder, value=255):
    """The table with a mask for each film: the left half, or another value everywhere."""
    mask = np.full((SIZE, SIZE), value, np.uint8)
    mask[:, 16:] = 0 if value == 255 else value
    cv2.imwrite(str(folder / f"lung{value}.png"), mask)
    return table.assign(lung_mask=str(folder / f"lung{value}.png"))


def test_films_with_nothing_but_lungs_are_made_once_and_remember_what_they_were(
    tmp_path, monkeypatch
):
    """Real films get the lungs of `stages.masks`, virtual ones keep their own."""
    table = films(tmp_path, ["normal", "other_infection"], 0.0)
    table = drawn(table, tmp_path, 0).assign(dataset=["nih_cxr14", "virtual"])
    table.loc[1, "lung_mask"] = drawn(table, tmp_path)["lung_mask"][1]
    monkeypatch.setattr(stages, "masks", lambda profile, rows, store: drawn(rows, tmp_path))
    found = stages.lungs_only(PROFILE, table, Store(tmp_path / "store"))
    assert list(found["origin"]) == list(table["path"]) and found.drop(
        columns="origin"
    ).columns.equals(table.columns)
    for before, after in zip(found["origin"], found["path"], strict=True):
        film, black = (cv2.imread(path, cv2.IMREAD_GRAYSCALE) for path in (before, after))
        np.testing.assert_array_equal(black, np.where(np.arange(SIZE) < 16, film, 0))
    made = Path(found["path"][0]).stat().st_mtime_ns
    assert (
        Path(stages.lungs_only(PROFILE, table, Store(tmp_path / "store"))["path"][0])
        .stat()
        .st_mtime_ns
        == made
    )
    monkeypatch.setattr(stages, "masks", lambda profile, rows, store: drawn(rows, tmp_path, 0))
    assert (
        stages.lungs_only(PROFILE, table, Store(tmp_path / "store"))["path"][0] != found["path"][0]
    ), "other lungs are other films"
    with pytest.raises(ValueError, match="resize must be 'plain', not 'pad'"):
        stages.lungs_only(replace(PROFILE, choices=replace(PROFILE.choices, resize="pad")), table)


def test_a_model_of_lungs_alone_is_judged_beside_whole_films_and_beside_lungs_alone(
    tmp_path, monkeypatch
):
    """The shortcut lies outside of the lungs: whoever sees whole films has it, whoever sees lungs
    has not.
    """
    monkeypatch.setattr(within_source, "PROBES", ("border",))
    whole = drawn(films(tmp_path, ["normal", "other_infection"] * 32, bright=1.0), tmp_path)
    (tmp_path / "black").mkdir()
    flipped = np.zeros((SIZE, SIZE), np.uint8)
    flipped[:, 16:] = 255  # away from the bright corner
    cv2.imwrite(str(tmp_path / "far.png"), flipped)
    masked_images.blacken(tmp_path / "black", whole.assign(lung_mask=str(tmp_path / "far.png")))
    seen = whole.assign(
        origin=whole["path"], path=[str(tmp_path / "black" / f"{i}.png") for i in range(len(whole))]
    )
    far = drawn(
        films(tmp_path, ["other_infection", "covid19"] * 8, 0.0, "cohen", 5000), tmp_path
    ).assign(origin=lambda t: t["path"])
    taught = pd.concat([seen, far.assign(group_id="x" + far["group_id"])], ignore_index=True)
    found = within_source.report(
        told(seen, "nothing"),
        told(far, "nothing"),
        taught,
        replace(PROFILE, folds=2),
        Store(tmp_path / "store"),
    )
    assert set(found) == {"inside", "inside_lungs", "away", "source_alone", "probes"}
    assert (
        found["inside"]["PA"]["rivals"]["thumbnail"]["value"]
        > 0.95
        > 0.75
        > found["inside_lungs"]["PA"]["rivals"]["thumbnail"]["value"]
    )
    assert found["probes"]["source"]["border"]["auc"]["n"] == 80


@pytest.mark.parametrize("lungs_only", [True, False])
def test_who_sees_nothing_but_lungs_depends_on_who_draws_them(lungs_only):
    mini = replace(profiles.mini(), sources=replace(profiles.mini().sources, lungs_only=lungs_only))
    other = replace(mini, segmenter=replace(mini.segmenter, mirror=not mini.segmenter.mirror))
    for stage in ("diagnosis", "diagnosis_pa", "court"):
        assert (
            dependencies.settings(mini, stage) == dependencies.settings(other, stage)
        ) != lungs_only, stage
    assert (("segmenter", other) in dependencies.upstream(other, "diagnosis")) == lungs_only


def test_the_court_shows_a_model_of_lungs_what_it_sees_and_judges_by_the_true_lungs(
    tmp_path, monkeypatch
):
    drawn_from = drawn(films(tmp_path, ["normal", "covid19"], 0.0, "virtual"), tmp_path).assign(
        split=["train", "test"]
    )
    monkeypatch.setattr(task_data, "for_task", lambda profile, task, store: drawn_from)
    sees = replace(PROFILE, sources=replace(PROFILE.sources, lungs_only=True))
    assert stages.exhibits(PROFILE, Store(tmp_path / "store")) is drawn_from
    found = stages.exhibits(sees, Store(tmp_path / "store"))
    assert len(found) == 1 and found["lung_mask"][0] == drawn_from["lung_mask"][1], (
        "training films are not judged"
    )
    film, black = (
        cv2.imread(path, cv2.IMREAD_GRAYSCALE) for path in (found["origin"][0], found["path"][0])
    )
    np.testing.assert_array_equal(black, np.where(np.arange(SIZE) < 16, film, 0))
