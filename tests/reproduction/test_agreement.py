"""What comes with the kit is made again and found equal; what differs is found, and by how much."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from cxrkit import cli
from cxrkit.config import profiles
from cxrkit.data import preprocessing
from cxrkit.pipeline import stages
from cxrkit.reproduction import agreement
from cxrkit.simulation import hospital
from cxrkit.storage import atomic, integrity, locations
from cxrkit.storage.artifacts import Store, key

DEMO = profiles.demo()
FEW = 2  # films of a stage: all of them are drawn here


@pytest.fixture
def store(tmp_path, monkeypatch):
    """An empty store above what comes with the kit."""
    monkeypatch.delenv("CXRKIT_FRESH")
    return Store(tmp_path / "store")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """A store with the films that the checks of this module draw, and what they found first."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("CXRKIT_FRESH")
        store = Store(tmp_path_factory.mktemp("store"))
        return store, agreement.check_shipped(DEMO, store, FEW)


# what comes with the kit


def test_every_stage_comes_with_the_kit_or_is_named_as_one_that_does_not():
    """A new stage is either shipped or listed with its reason; a listed one is not shipped."""
    shipped = {
        folder.name for folder in locations.SHIPPED.iterdir() if not folder.name.startswith(".")
    }
    for stage in stages.STAGES:
        name = f"{stage}-{key(stages.settings(DEMO, stage))}"
        assert (name in shipped) == (stage not in agreement.NOT_SHIPPED), name
    assert set(agreement.NOT_SHIPPED) < set(stages.STAGES)


def test_the_settings_of_every_shipped_stage_are_those_of_its_profile():
    """Who changes what a stage reads sees it here, although the folder still has its old name."""
    for one in agreement.check_keys(DEMO, locations.SHIPPED):
        assert one.ok, one


@pytest.mark.integration
def test_shipped_results_are_found_again_on_films_that_are_drawn_here(drawn):
    """Fails where drawing, preparing, a network or a prediction changed without a new key."""
    _, found = drawn
    assert [one for one in found if not one.ok] == []
    compared = {one.stage for one in found if one.allowed == agreement.TOLERANCE}
    assert compared == set(agreement.PREDICTIONS)
    text = agreement.as_text(found)
    assert text.endswith(f"{len(found)} checks, 0 missed") and "MISSED" not in text


# what would go unnoticed


def missed(found):
    return {one.stage for one in found if not one.ok}


def test_another_preparation_of_images_is_found(drawn, monkeypatch):
    """Three grey levels more, without a new key: every model says something else."""
    store, _ = drawn
    for folder in store.root.glob("images-*"):  # what was prepared of the drawn films
        if folder.is_dir():
            shutil.rmtree(folder)
    prepare = preprocessing.prepare

    def brighter(*args, **options):
        image = prepare(*args, **options).astype(int)
        return np.clip(image + 3, 0, 255).astype(np.uint8)

    monkeypatch.delenv("CXRKIT_FRESH")
    monkeypatch.setattr(preprocessing, "prepare", brighter)
    found = agreement.check_predictions(DEMO, store, FEW)
    assert missed(found) >= {"backbone", "diagnosis_pa", "diagnosis_ap", "severity"}
    assert "MISSED" in agreement.as_text(found)


def test_labels_that_are_drawn_otherwise_are_found(store, monkeypatch):
    from_url = hospital.from_url

    def healthier(url):
        patient = from_url(url)
        return replace(patient, array=np.zeros_like(patient.array))

    monkeypatch.setattr(agreement.cohort, "from_url", healthier)
    run = agreement.Run(DEMO, store.root)
    one = agreement._check_labels(run, 6)
    assert not one.ok and one.missed > 0
    assert "of" in one.detail and "films" in one.detail


def test_a_missing_a_changed_and_a_damaged_artifact_are_named(tmp_path):
    layer = tmp_path / "layer"
    shutil.copytree(locations.SHIPPED, layer)

    def folder_of(stage):
        return layer / f"{stage}-{key(stages.settings(DEMO, stage))}"

    shutil.rmtree(folder_of("segmenter"))
    (folder_of("severity") / "metrics.json").write_text("{}")
    settings = folder_of("backbone") / "settings.json"
    atomic.write_json(settings, {**atomic.read_json(settings), "seed": 4})
    integrity.write_list(folder_of("backbone"))
    (layer / "backbone-000000000000").mkdir()
    found = {one.stage: one for one in agreement.check_keys(DEMO, layer)}
    assert missed(found.values()) == {"segmenter", "severity", "backbone", "all"}
    assert "does not come with the kit" in found["segmenter"].detail
    assert "metrics.json" in found["severity"].detail
    assert "other settings" in found["backbone"].detail
    assert found["all"].detail == "backbone-000000000000" and found["cohort"].ok


def test_where_a_key_missed_nothing_is_trained(tmp_path, store, monkeypatch):
    store.layer = tmp_path / "layer"
    shutil.copytree(locations.SHIPPED, store.layer)
    shutil.rmtree(store.layer / f"severity-{key(stages.settings(DEMO, 'severity'))}")
    found = agreement.check_shipped(DEMO, store)
    assert missed(found) == {"severity"} and not store.root.exists()


def test_a_profile_without_shipped_results_and_a_layer_left_out_are_refused(tmp_path, store):
    with pytest.raises(ValueError, match=r"nothing of profile quick .*--retrain"):
        agreement.check_shipped(profiles.quick(), store)
    store.layer = None
    with pytest.raises(ValueError, match="CXRKIT_FRESH"):
        agreement.check_shipped(DEMO, store)


def test_numbers_beside_the_limit():
    def compared(*differences):
        old = np.zeros((2, 2))
        return agreement._compare("backbone", "p", old, old + np.reshape(differences, (2, 2)))

    assert compared(0, 1e-3, -1e-3, 0).ok
    worse = compared(0, 0, -2e-3, 0)
    assert not worse.ok and worse.missed == pytest.approx(2e-3)
    assert not compared(0, np.nan, 0, 0).ok
    masks = np.zeros((2, 100, 10), bool)
    masks[1, 0, :2] = True  # 2 of 1000 pixels of the second film
    of_masks = agreement._compare("segmenter", "masks", masks, 0, worst_of_image=True)
    assert of_masks.missed == pytest.approx(2e-3)


def test_films_are_spread_over_a_table():
    table = pd.DataFrame({"n": np.arange(101)})
    assert list(agreement._spread(table, 5)["n"]) == [0, 25, 50, 75, 100]
    assert len(agreement._spread(table[:3], 5)) == 3


# trainings


def test_headlines_are_metrics_that_every_trained_stage_has():
    trained = {*agreement.PREDICTIONS, "marker_study"}
    for stage in stages.STAGES:
        if stage in agreement.NOT_SHIPPED:
            continue
        name = f"{stage}-{key(stages.settings(DEMO, stage))}"
        metrics = atomic.read_json(locations.SHIPPED / name / "metrics.json")
        found = agreement.headlines(DEMO, stage, metrics)
        assert bool(found) == (stage in trained), stage
        assert np.isfinite(list(found.values())).all()


def finished(store, profile, auc):
    """A made-up backbone of a store."""

    def make(folder):
        metrics = {"external": {"auc": {"value": auc, "low": 0.0}}}
        atomic.write_json(folder / "metrics.json", metrics)

    store.load_or_make("backbone", stages.settings(profile, "backbone"), make)


def test_margins_are_as_wide_as_the_seeds_lie_apart_on_either_side(tmp_path):
    store, quick = Store(tmp_path), profiles.quick()
    seeded = [replace(quick, seed=seed) for seed in range(3)]
    for profile, auc in zip(seeded, (0.6, 0.65, 0.63), strict=True):
        finished(store, profile, auc)
    trainings = [agreement.trained_headlines(profile, store) for profile in seeded]
    assert trainings[1] == {"backbone": {"external.auc.value": 0.65}}
    margins = agreement.margins_of(trainings, quick)
    margin = margins["backbone"]["metrics"]["external.auc.value"]
    assert margin["low"] == pytest.approx(0.55) and margin["high"] == pytest.approx(0.7)
    assert margin["values"] == [0.6, 0.65, 0.63]
    for auc, outside in ((0.55, 0), (0.70, 0), (0.50, 0.05), (0.75, 0.05)):
        other = Store(tmp_path / str(auc))
        finished(other, quick, auc)
        (one,) = agreement.check_trainings(quick, other, margins)
        assert one.missed == pytest.approx(outside, abs=1e-9)
        assert one.ok == (outside == 0) or abs(one.missed) < 1e-9
    (one,) = agreement.check_trainings(quick, Store(tmp_path / "empty"), margins)
    assert not one.ok and np.isnan(one.missed)
    steps = replace(quick.backbone_training, steps=401)
    (one,) = agreement.check_trainings(replace(quick, backbone_training=steps), store, margins)
    assert not one.ok and "settings changed" in one.detail


def test_margins_that_come_with_the_kit_are_of_the_profiles_as_they_are():
    known = json.loads(agreement.MARGINS.read_text()) if agreement.MARGINS.exists() else {}
    for name, margins in known.items():
        profile = profiles.get(name)
        assert len(margins["made"]["seeds"]) >= 3
        assert set(margins["stages"]) == {*agreement.PREDICTIONS, "marker_study"}
        for stage, margin in margins["stages"].items():
            assert margin["key"] == key(stages.settings(profile, stage)), f"{name}: {stage}"
            for of_metric in margin["metrics"].values():
                assert of_metric["low"] <= min(of_metric["values"])
                assert max(of_metric["values"]) <= of_metric["high"]


def test_a_profile_without_margins_is_refused_before_anything_trains(tmp_path, monkeypatch):
    def refuse(*_):
        pytest.fail("trained without margins")

    monkeypatch.setattr(agreement, "train", refuse)
    command = ["verify", "--retrain", "--profile", "demo", "--out", str(tmp_path)]
    ended = CliRunner().invoke(cli.main, command)
    assert ended.exit_code == 1 and "no margins of profile demo were measured" in ended.output


def test_the_command_ends_with_status_1_where_a_check_missed(tmp_path, monkeypatch):
    one = agreement.Comparison("backbone", "p", 0.5, 1e-3, "20 films")
    for found, status in (([one], 1), ([replace(one, missed=0.0)], 0)):
        monkeypatch.setattr(agreement, "check_shipped", lambda *_, found=found: found)
        ended = CliRunner().invoke(cli.main, ["verify"])
        assert ended.exit_code == status, ended.output
        assert ("MISSED" in ended.output) == bool(status)
