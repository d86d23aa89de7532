"""AUC within a source against tables worked out by hand, a planted shortcut that a thumbnail must
find, and a model that knows more than it.
"""

from dataclasses import replace

import cv2
import numpy as np
import pandas as pd
import pytest

from cxrkit.config import profiles
from cxrkit.config.vocabulary import COLUMNS, DIAGNOSES
from cxrkit.data import masked_images
from cxrkit.evaluation.metrics import auc
from cxrkit.shortcuts import within_source
from cxrkit.storage.artifacts import Store
from cxrkit.tasks.diagnosis import PROBABILITIES

SIZE, PROFILE = 32, replace(profiles.demo(), image_size=32)


@pytest.fixture(autouse=True)
def two_baselines(monkeypatch):
    monkeypatch.setattr(within_source, "BASELINES", ("thumbnail", "mean and SD"))


def images_of(folder, classes, bright, dataset="nih_cxr14", first=1000):
    """Images of noise of one dataset; in the share `bright` of the second class a corner is
    brighter. Patients from `first`.
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


def predicted(table, how):
    """The table with probabilities: "truth", or "nothing"."""
    p = np.full((len(table), 3), 1 / 3)
    if how == "truth":
        p = 0.1 + 0.7 * (table["diagnosis"].to_numpy()[:, None] == np.array(DIAGNOSES))
    return table.assign(**dict(zip(PROBABILITIES, p.T, strict=True)))


def test_source_and_class_by_hand():
    table = pd.DataFrame(
        {"dataset": list("aabbc"), "diagnosis": ["normal", "other_infection"] * 2 + ["covid19"]}
    )
    counts, area = within_source.source_class_table(table)
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
    table = images_of(tmp_path, ["normal", "other_infection"] * 32, bright=1.0)
    found = within_source.within_internal_source(
        predicted(table, "nothing"), PROFILE, Store(tmp_path / "store")
    )
    assert list(found) == ["all", "PA", "PA, shared band", "AP", "AP, shared band"]
    assert found["all"]["n"] == [32, 32]
    one = found["PA"]
    assert (
        one["n"] == [16, 16]
        and one["auc"]["value"] == 0.5
        and one["baselines"]["thumbnail"]["value"] > 0.95
    )
    assert (
        one["gain"]["difference"]
        == pytest.approx(0.5 - one["gain"]["values"][one["gain"]["baseline"]])
        and one["gain"]["high"] < 0
    )
    number = table["group_id"].str[1:].astype(int)
    band = (table["view"] == "PA") & (number >= 1280) & (number <= 3956)
    assert sum(found["PA, shared band"]["n"]) == band.sum() < 32


def test_inside_a_source_a_model_that_knows_beats_the_best_of_them(tmp_path):
    table = images_of(tmp_path, ["normal", "other_infection"] * 32, bright=0.3)
    table = pd.concat(
        [table, table[:4].assign(dataset="elsewhere"), table[:4].assign(diagnosis="covid19")],
        ignore_index=True,
    )
    found = within_source.within_internal_source(
        predicted(table, "truth"), PROFILE, Store(tmp_path / "store")
    )
    assert all(one["auc"]["value"] == 1 and one["gain"]["low"] > 0 for one in found.values())
    assert found["AP"]["n"] == [16, 16], "other sources and classes take no part"
    assert within_source.comparison_table(found).loc["PA", "images"] == "16 + 16"


def test_in_an_external_source_the_thumbnails_are_trained_as_the_model_is(tmp_path):
    classes = ["other_infection", "covid19"] * 20
    external = images_of(tmp_path, classes, bright=1.0, dataset="cohen")
    trained_on = pd.concat(
        [
            images_of(
                tmp_path, ["normal", "covid19", "other_infection"] * 12, 1.0, "far", first=5000
            ),
            images_of(
                tmp_path, ["normal", "covid19", "other_infection"] * 12, 0.0, "virtual", first=9000
            ),
        ],
        ignore_index=True,
    )
    predictions = predicted(
        pd.concat(
            [external, external.assign(dataset="other", diagnosis="normal")], ignore_index=True
        ),
        "nothing",
    )
    found = within_source.within_external_source(
        predictions, trained_on, PROFILE, Store(tmp_path / "store")
    )
    assert list(found) == ["all", "PA", "AP"] and found["all"]["n"] == [20, 20]
    areas = {name: one["value"] for name, one in found["all"]["baselines"].items()}
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
    """Images of three sources; one has a bright border and all of the COVID-19, the lungs of all
    are alike.
    """
    monkeypatch.setattr(within_source, "PROBE_FEATURES", ("border", "lungs removed", "lungs only"))
    two = ["normal", "other_infection"] * 20
    parts = [
        images_of(tmp_path, two, 0.0, "a"),
        images_of(tmp_path, two, 0.0, "b", 5000),
        images_of(tmp_path, ["covid19", "covid19"] * 20, 0.0, "c", 9000),
    ]
    for path in parts[2]["path"]:
        image = cv2.imread(path, cv2.IMREAD_GRAYSCALE)
        image[:2] = 255
        cv2.imwrite(path, image)
    lung = np.zeros((SIZE, SIZE), np.uint8)
    lung[8:24, 8:24] = 255
    cv2.imwrite(str(tmp_path / "lung.png"), lung)
    table = pd.concat(parts, ignore_index=True).assign(lung_mask=str(tmp_path / "lung.png"))
    found = within_source.source_probes(table, replace(PROFILE, folds=3), Store(tmp_path / "store"))
    assert list(found) == ["source", "diagnosis"] and set(found["source"]) == {
        *within_source.PROBE_FEATURES,
        "chance",
    }
    values = {
        asked: {
            name: scores["balanced_accuracy"]["value"]
            for name, scores in of_feature.items()
            if name != "chance"
        }
        for asked, of_feature in found.items()
    }
    # the third source for sure, the other two by chance: (1 + 1/2 + 1/2) / 3
    for of_feature in values.values():
        assert of_feature["border"] == pytest.approx(2 / 3, abs=0.12) and of_feature[
            "lungs removed"
        ] == pytest.approx(2 / 3, abs=0.12)
        assert of_feature["lungs only"] == pytest.approx(1 / 3, abs=0.15)
    assert (
        found["source"]["chance"] == pytest.approx(1 / 3)
        and found["source"]["border"]["auc"]["n"] == 120
    )


def test_of_each_patient_one_image_is_probed_and_of_a_source_a_limited_number(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(within_source, "PROBE_FEATURES", ("mean and SD",))
    monkeypatch.setattr(within_source, "MAX_IMAGES", 16)
    table = pd.concat(
        [
            images_of(tmp_path, ["covid19", "normal"] * 15, 0.0, "a"),
            images_of(tmp_path, ["covid19", "normal"] * 4, 0.0, "b", 5000),
        ],
        ignore_index=True,
    )
    twice = pd.concat([table, table], ignore_index=True)
    found = within_source.source_probes(twice, replace(PROFILE, folds=2), Store(tmp_path / "store"))
    assert found["source"]["mean and SD"]["auc"]["n"] == 16 + 8


def with_mask(table, folder):
    """The table with a mask for each image: the left half."""
    mask = np.full((SIZE, SIZE), 255, np.uint8)
    mask[:, 16:] = 0
    cv2.imwrite(str(folder / "lung.png"), mask)
    return table.assign(lung_mask=str(folder / "lung.png"))


@pytest.mark.slow
def test_a_model_of_lungs_alone_is_compared_with_whole_images_and_with_lungs_alone(
    tmp_path, monkeypatch
):
    """The shortcut lies outside of the lungs: only models of whole images find it."""
    monkeypatch.setattr(within_source, "PROBE_FEATURES", ("border",))
    whole = with_mask(images_of(tmp_path, ["normal", "other_infection"] * 32, bright=1.0), tmp_path)
    (tmp_path / "black").mkdir()
    flipped = np.zeros((SIZE, SIZE), np.uint8)
    flipped[:, 16:] = 255  # away from the bright corner
    cv2.imwrite(str(tmp_path / "far.png"), flipped)
    masked_images.blacken(tmp_path / "black", whole.assign(lung_mask=str(tmp_path / "far.png")))
    seen = whole.assign(
        origin=whole["path"], path=[str(tmp_path / "black" / f"{i}.png") for i in range(len(whole))]
    )
    far = with_mask(
        images_of(tmp_path, ["other_infection", "covid19"] * 8, 0.0, "cohen", 5000), tmp_path
    ).assign(origin=lambda t: t["path"])
    trained_on = pd.concat([seen, far.assign(group_id="x" + far["group_id"])], ignore_index=True)
    found = within_source.report(
        predicted(seen, "nothing"),
        predicted(far, "nothing"),
        trained_on,
        replace(PROFILE, folds=2),
        Store(tmp_path / "store"),
    )
    assert set(found) == {"internal", "internal_lungs", "external", "source_alone", "probes"}
    assert (
        found["internal"]["PA"]["baselines"]["thumbnail"]["value"]
        > 0.95
        > 0.75
        > found["internal_lungs"]["PA"]["baselines"]["thumbnail"]["value"]
    )
    assert found["probes"]["source"]["border"]["auc"]["n"] == 80


def test_a_source_that_trains_is_evaluated_by_its_folds(tmp_path):
    """Cohen's films train in `mini`, so no number of theirs comes from a model that knows them."""
    names = ["other_infection", "covid19"] * 8
    films = images_of(tmp_path, names, bright=1.0, dataset="cohen").assign(external=False)
    films.loc[films["diagnosis"] == "covid19", "view"] = "PA"
    predictions = predicted(films, "truth")
    found = within_source.report(
        predictions, predictions, films, replace(PROFILE, folds=2), Store(tmp_path / "store")
    )
    assert set(found) == {"by_source", "source_alone"}
    cohen = found["by_source"]["cohen"]
    assert list(cohen) == ["all", "PA"], "AP holds one class alone; bands are the NIH's"
    assert cohen["all"]["n"] == [8, 8] and cohen["all"]["auc"]["value"] == 1


def test_the_mean_over_sources_never_compares_a_film_with_one_of_another_source(tmp_path):
    """By hand: inside the NIH one of four pairs stands wrong, at Shenzhen none, and all films of
    Shenzhen have higher scores. A third source has one class alone and does not count.
    """
    rows = [
        ("nih_cxr14", "normal", 0.1),
        ("nih_cxr14", "normal", 0.3),
        ("nih_cxr14", "other_infection", 0.2),
        ("nih_cxr14", "other_infection", 0.4),
        ("shenzhen", "normal", 0.7),
        ("shenzhen", "other_infection", 0.8),
        ("kermany_224", "normal", 0.5),
    ]
    table = pd.DataFrame(rows, columns=["dataset", "diagnosis", "p_other_infection"])
    table["p_normal"] = 1 - table["p_other_infection"]
    table = table.assign(p_covid19=0.0, group_id=[f"p{i}" for i in range(len(rows))])
    codes, scores, groups = within_source.two_class_problems(table)
    assert list(codes) == [0, 0, 1, 1, 2, 3] and list(groups) == [f"p{i}" for i in range(6)]
    assert within_source.mean_auc(codes, scores) == pytest.approx((0.75 + 1) / 2)
    with pytest.raises(ValueError, match="no source has two classes"):
        within_source.two_class_problems(table[4:5])


def test_without_the_sources_of_mini_the_source_alone_is_said(tmp_path):
    """Folds of another profile, such as one of the virtual hospitals alone."""
    names = ["normal", "other_infection", "covid19"] * 6
    films = images_of(tmp_path, names, bright=0.0, dataset="virtual")
    for far in (films, images_of(tmp_path, ["covid19"] * 3, 0.0, "cohen", 9000)):
        found = within_source.report(
            predicted(films, "truth"), predicted(far, "truth"), films, replace(PROFILE, folds=2)
        )
        assert set(found) == {"source_alone"}
