"""Run: everything that a tiny profile makes, from nothing, as lessons ask for it."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import ship
import torch

from cxrkit.config import profiles, sections
from cxrkit.config.sections import CohortSettings, DenseNet, Training, ViT
from cxrkit.config.settings_file import write_settings
from cxrkit.pipeline import derived, stages
from cxrkit.pipeline.run import Run
from cxrkit.simulation import cohort as virtual_hospitals
from cxrkit.storage import recorded
from cxrkit.storage.artifacts import Store
from cxrkit.tasks.diagnosis import PROBABILITIES
from cxrkit.training import loop

pytestmark = pytest.mark.usefixtures("few_draws")
SIZE = 64
QUICK = Training("adamw", lr=1e-3, batch=8, steps=2, log_every=1)
TINY = replace(
    profiles.demo(),
    image_size=SIZE,
    cohort=CohortSettings(findings=12, diagnosis=60, severity=30, size=SIZE),
    backbone=DenseNet(
        growth_rate=4, block_config=(1, 1, 1, 1), num_init_features=8, stem=1, stride=16
    ),
    backbone_training=QUICK,
    segmenter=replace(
        profiles.demo().segmenter,
        size=32,
        widths=(4, 6),
        discriminator_widths=(4, 6),
        unet_widths=(4, 6),
        max_eval_images=4,
    ),
    segmenter_training=QUICK,
    student_training=QUICK,
    unet_training=QUICK,
    transformer=ViT(embed_dim=16, depth=1, num_heads=2),
    transformer_training=QUICK,
    severity_training=QUICK,
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The run of the tiny profile, its cohort drawn in this process: others would import torch."""
    store = Store(tmp_path_factory.mktemp("store"))
    store.load_or_make(
        "cohort",
        stages.settings(TINY, "cohort"),
        lambda folder: virtual_hospitals.draw_cohort(folder, TINY.cohort, TINY.seed, workers=1),
    )
    return Run(TINY, store.root, device=torch.device("cpu"))


def test_a_model_its_predictions_and_its_metrics(run):
    found = run.diagnosis("PA")
    assert found is run.diagnosis("PA") and found.folder == run.folder("diagnosis_pa")
    assert list(found.metrics["sites"]) == ["dogwood", "elm", "fir"]
    assert [row["step"] for row in found.history] == [1, 2]
    table = found.predictions
    assert set(table["view"]) == {"PA"} and set(table["part"]) == {"val", "test", "external"}
    again = found.task.predict(found.model, table)
    np.testing.assert_allclose(again[PROBABILITIES], table[PROBABILITIES], atol=1e-5)
    assert not found.model.training and found.model is found.model
    assert found.external["external"].all() and (found.validation["split"] == "val").all()
    assert len(found.external) == (table["part"] == "external").sum()
    assert len(found.validation) == (table["part"] == "val").sum()
    assert found.unseen_part == "external" and found.unseen.equals(found.external)
    found.predictions = table.assign(external=False)  # as where every source trains
    assert found.unseen_part == "test" and (found.unseen["split"] == "test").all()
    found.predictions = table
    assert "diagnosis_pa-" in repr(found) and "demo" in repr(run)
    with pytest.raises(ValueError, match="unknown view 'lateral'; known: .*AP.*PA"):
        run.diagnosis("lateral")


def test_models_of_the_other_tasks(run):
    assert run.backbone.model.head.out_channels == 10 and "auc" in run.backbone.metrics["external"]
    assert set(run.segmenter.history) >= {"teacher", "student", "unet_normal"}
    assert run.segmenter.metrics["output_network"] == TINY.segmenter.output_network
    assert "mse" in run.severity.metrics["external"] and "score" in run.severity.predictions
    masked = run.with_masks(run.images("severity"))
    assert masked["lung_mask"].str.contains("/masks-").all()


def test_images_and_the_cohort(run):
    assert len(run.cohort) == 102 and len(run.images("findings")) == 12
    assert len(run.diagnosis_images) == len(run.images("diagnosis")) == 60
    assert run.pixels(run.images("findings")[:3]).shape == (3, SIZE, SIZE)
    with pytest.raises(ValueError, match="unknown task 'age'"):
        run.images("age")


def test_a_stage_without_a_model_says_so(run):
    with pytest.raises(ValueError, match="cohort-.* holds no model"):
        run.result("cohort").model  # noqa: B018


def test_the_virtual_run_is_itself_or_another_in_the_same_store(run):
    home = Run("demo", run.store.root)
    assert home.virtual is home
    other = Run("mini", run.store.root, device=run.device).virtual
    assert other.profile == profiles.demo() and other.store.root == run.store.root
    assert other.device == run.device


def test_a_run_whose_numbers_show_nothing_says_so_once(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("cxrkit.pipeline.run._said", set())
    Run("demo", tmp_path)
    assert capsys.readouterr().out == ""
    Run("quick", tmp_path).with_profile(replace(profiles.quick(), seed=1))
    said = capsys.readouterr().out
    assert said.startswith("profile quick: No number of this run is a finding")
    assert said.count("\n") == 1


def test_a_run_of_a_name_or_a_file(tmp_path):
    changed = replace(TINY, name="tiny")
    path = write_settings(changed, tmp_path / "tiny.yaml")
    assert Run(path, tmp_path).profile == Run(str(path), tmp_path).profile == changed
    assert Run("mini", tmp_path).profile == profiles.mini()
    with pytest.raises(ValueError, match="unknown profile 'big'"):
        Run("big", tmp_path)


def test_stages_that_start_from_the_virtual_hospitals_are_given_what_they_ask_for(run, monkeypatch):
    """A profile like mini: both views jointly, lungs alone, auxiliary virtual images, and the first
    weights of virtual hospitals, here all of the tiny cohort.
    """
    monkeypatch.setitem(profiles.PROFILES, "demo", lambda: TINY)
    mini = replace(
        TINY,
        backbone=replace(TINY.backbone, initial_weights="virtual"),
        segmenter=replace(TINY.segmenter, virtual=0.5),
        sources=sections.Sources(
            shares=(("virtual", 1.0),), joint_views=True, virtual=True, framing="lungs"
        ),
        severity=replace(TINY.severity, virtual=True),
    )
    found = run.with_profile(mini)
    joint, pa = found.diagnosis(), found.diagnosis("PA")
    assert (joint.folder / "weights.safetensors").read_bytes() == (
        pa.folder / "weights.safetensors"
    ).read_bytes()
    assert joint.predictions["path"].str.contains("/blackened-").all()
    assert found.diagnosis_images["origin"].notna().all()
    assert found.segmenter.metrics["images"]["virtual"] > 0
    assert "mse" in found.severity.metrics["external"]
    folds = run.with_profile(replace(mini, folds=2)).backbone
    assert folds.metrics["folds"]["auc"]["n"] == sum(folds.predictions["part"] == "folds") > 0


def test_an_empty_store_takes_what_comes_with_the_kit_and_makes_the_pixels(
    run, tmp_path, layer, monkeypatch
):
    """Nothing is trained. A table that names masks draws no film, a look at its films does."""
    made = {stage: run.folder(stage) for stage in ("diagnosis_pa", "severity", "segmenter")}
    steps = ship.plan(TINY)
    steps |= ship.masks_of(steps, run.store)
    ship.ship(steps, run.store, layer, without_note=True, say=str)
    before = {path: path.stat().st_mtime_ns for path in layer.rglob("*")}
    monkeypatch.setattr(loop, "fit", lambda *args, **kwargs: pytest.fail("trained"))
    monkeypatch.setattr(derived, "segmented_lungs", lambda *_: pytest.fail("segmented"))
    opened = Run(TINY, tmp_path / "empty", device=run.device)
    for stage, folder in made.items():
        assert opened.folder(stage) == layer / folder.name
    assert opened.severity.metrics == run.severity.metrics
    assert not opened.store.root.exists(), "numbers and weights need no pixels"
    table, expected = opened.severity.predictions, run.severity.predictions
    assert not opened.store.absent(table)
    assert not np.load(opened.folder("cohort") / "drawn.npy").any()
    assert {path.partition("-")[0] for path in table["path"].map(opened.store.relative)} == {
        "store:cohort"
    }
    for kind, column in (("image", "path"), ("lungs", "lung_mask"), ("lesion", "lesion_mask")):
        np.testing.assert_array_equal(
            opened.pixels(table, kind, column), run.pixels(expected, kind, column)
        )
    for result, of in (
        (opened.severity, run.severity),
        (opened.diagnosis("PA"), run.diagnosis("PA")),
    ):
        again = result.task.predict(result.model, result.predictions)
        theirs = of.task.predict(of.model, of.predictions)
        columns = [name for name in again if name.startswith("p_")]
        np.testing.assert_allclose(again[columns], theirs[columns], atol=1e-6)
    assert {path: path.stat().st_mtime_ns for path in layer.rglob("*")} == before


def test_a_model_that_came_without_weights_is_trained_when_it_is_asked_for(run, tmp_path, layer):
    folder = run.folder("backbone")
    step = replace(ship.plan(TINY)[folder.name], cell=True)
    ship.ship({folder.name: step}, run.store, layer, say=str)
    store = Store(tmp_path / "store")
    store.load_or_make(
        "cohort",
        stages.settings(TINY, "cohort"),
        lambda part: shutil.copytree(run.folder("cohort"), part, dirs_exist_ok=True),
    )
    opened = Run(TINY, store.root, device=run.device)
    assert opened.backbone.folder == layer / folder.name
    assert opened.backbone.metrics == run.backbone.metrics
    theirs = run.backbone.model.state_dict()
    for name, weight in opened.backbone.model.state_dict().items():
        torch.testing.assert_close(weight, theirs[name])
    assert (store.root / folder.name / "weights.safetensors").exists()


def test_a_study_of_earlier_virtual_hospitals_counts_as_not_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(recorded, "FOLDER", tmp_path)
    run = Run("demo", tmp_path)
    now = stages.stage_of("cohort").version
    for version, there in ((now, True), (now - 1, False)):
        recorded.write_result("seeds_x", [{"seed": 0}], {"hospitals": version})
        assert (run.recorded("seeds_x") is not None) == there
    recorded.write_result(
        "usable", [], {"command": "python tools/evaluate_usable.py"}
    )  # of real images
    assert run.recorded("usable") is not None and run.recorded("nothing") is None
