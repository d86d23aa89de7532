"""The severity task against hand-worked arrays, slow loops, planted lesions and a training that
must find them.
"""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from cxrkit.config import profiles, sections
from cxrkit.config.choices import Choices
from cxrkit.config.vocabulary import BRIXIA, COLUMNS, SECOND, ZONES
from cxrkit.data import datasets
from cxrkit.data import masks as masks_module
from cxrkit.evaluation import localisation, metrics
from cxrkit.models import classifier
from cxrkit.pipeline import derived, makers, stages
from cxrkit.pipeline.makers import StageInputs
from cxrkit.storage.artifacts import Store
from cxrkit.storage.atomic import read_json
from cxrkit.tasks import reader_study, severity
from cxrkit.tasks.segmentation import SegmentationTask
from cxrkit.tasks.severity import SeverityTask
from cxrkit.tasks.task import Inputs

pytestmark = pytest.mark.usefixtures("few_draws")
SIZE = 64
CPU = torch.device("cpu")  # weights are compared to the bit


def lung_mask():
    """Two lungs of 48 rows: zones end at 5/12 and 2/3 of them, rows 28 and 40."""
    mask = np.zeros((SIZE, SIZE), np.uint8)
    mask[8:56, 8:28] = mask[8:56, 36:56] = 255
    return mask


def profile(**changes):
    """The smallest model that can learn the task."""
    tiny = replace(
        profiles.demo(),
        image_size=SIZE,
        backbone=sections.DenseNet(
            growth_rate=8, block_config=(2, 2, 2, 2), num_init_features=8, stem=1, stride=16
        ),
        transformer=sections.ViT(embed_dim=32, depth=1, num_heads=2),
        severity=sections.Severity(augmentation="none", masks="annotated"),
        severity_training=sections.Training("adamw", lr=3e-3, batch=8, steps=4, checkpoint_every=0),
        choices=Choices(augmentation="none"),
    )
    return replace(tiny, **changes)


class Outputs(torch.nn.Module):
    """Stands for the network: the image is its own map of logits."""

    def forward(self, image):
        return {"severity_logits": image}


def batch(seed=0, n=3):
    generator = torch.Generator().manual_seed(seed)
    masks = torch.from_numpy(np.stack([lung_mask()] * n))
    masks[1, 8:20] = 127  # nobody has annotated the top of the second
    return {
        "image": torch.randn(n, 1, SIZE, SIZE, generator=generator),
        "lung_mask": masks,
        "array": torch.tensor([[[1.0, 0], [0, 1], [torch.nan, 0]]] * n),
    }


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """48 images on disk: noise, and a bright disc in each involved zone."""
    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    images, lesions, rows = [], [], []
    centres = {
        "rul": (18, 18),
        "rml": (34, 18),
        "rll": (48, 18),
        "lul": (18, 46),
        "lml": (34, 46),
        "lll": (48, 46),
    }
    y, x = np.mgrid[:SIZE, :SIZE]
    for i in range(48):
        array = (rng.random(6) < 0.4).astype(float)
        lesion = np.zeros((SIZE, SIZE), bool)
        for zone, value in zip(ZONES, array):
            cy, cx = centres[zone]
            lesion |= (value == 1) & ((y - cy) ** 2 + (x - cx) ** 2 <= 16)
        images.append(np.where(lesion, 230, 60) + rng.integers(0, 20, (SIZE, SIZE)))
        lesions.append(lesion * 255)
        rows.append(
            dict(zip(ZONES, array))
            | {
                "patient_id": f"p{i // 2}",
                "group_id": f"g{i // 2}",
                "visit": i % 2,
                "split": ("train", "train", "val", "test")[i // 2 % 4],
                "external": i >= 40,
                "site": "far" if i >= 40 else "near",
                "dataset": "made-up",
                "view": "PA",
            }
        )
    for name, stack in (("images", images), ("lesions", lesions), ("masks", [lung_mask()] * 48)):
        np.save(folder / f"{name}.npy", np.stack(stack).astype(np.uint8))
    whole = pd.DataFrame(rows).reindex(columns=[*COLUMNS, "external"])
    stacks = {"path": "images", "lesion_mask": "lesions", "lung_mask": "masks"}
    paths = {
        column: [f"{folder / stem}.npy#{i}" for i in range(48)] for column, stem in stacks.items()
    }
    return whole.assign(**paths)


# the map becomes an array


def slow_array(logits, mask):
    """Section 3.3 pixel by pixel: sigmoid, times the mask, largest value of each of six zones.
    Lines on the lungs that are annotated.
    """
    lung = mask == 255
    rows = np.where(lung.any(axis=1))[0]
    out = np.zeros((3, 2))
    for r, c in np.argwhere(lung):
        f = (r + 0.5 - rows[0]) / (rows[-1] - rows[0] + 1)
        zone = 0 if f < 5 / 12 else 1 if f < 2 / 3 else 2
        column = 0 if c < SIZE / 2 else 1
        out[zone, column] = max(out[zone, column], 1 / (1 + np.exp(-logits[r, c])))
    return out


def test_read_against_a_slow_loop():
    images = batch()
    out = severity.read_severity(Outputs(), images, Choices())
    for b in range(3):
        want = slow_array(images["image"][b, 0].double().numpy(), images["lung_mask"][b].numpy())
        np.testing.assert_allclose(out["array"][b].numpy(), want, atol=1e-6)
    assert (out["severity_map"][1, 0, 8:20] == 0).all()  # ignored rows are no lung


def test_order_of_sigmoid_and_mask_changes_the_outside_alone():
    images = batch()
    before, after = (
        severity.read_severity(Outputs(), images, Choices(sigmoid=how))
        for how in ("before_mask", "after_mask")
    )
    inside = (images["lung_mask"] == 255)[:, None]
    assert torch.equal(before["array"], after["array"])
    assert torch.equal(before["severity_map"][inside], after["severity_map"][inside])
    assert (before["severity_map"][~inside] == 0).all() and (
        after["severity_map"][~inside] == 0.5
    ).all()


def test_mask_is_brought_to_the_size_of_the_map():
    images = batch()
    images["image"] = images["image"][:, :, ::2, ::2]
    inside = severity.inside_lungs(images["lung_mask"], (32, 32))
    assert inside[0].sum() == (images["lung_mask"][0] == 255).sum() / 4
    found = severity.read_severity(Outputs(), images, Choices())
    assert found["severity_map"].shape == (3, 1, 32, 32)


@pytest.mark.parametrize(
    "name, by_hand",
    [
        ("mse", lambda p, y: (p - y) ** 2),
        ("bce", lambda p, y: -(y * np.log(p) + (1 - y) * np.log(1 - p))),
    ],
)
def test_loss_by_hand_over_known_zones(name, by_hand):
    images = batch()
    choices = Choices(severity_loss=name)
    array = severity.read_severity(Outputs(), images, choices)["array"].double().numpy()
    truth = images["array"].numpy()
    values = [by_hand(p, y) for p, y in zip(array.ravel(), truth.ravel()) if not np.isnan(y)]
    assert len(values) == 15
    loss = SeverityTask(profile(choices=choices)).loss(Outputs(), images)
    assert loss.item() == pytest.approx(np.mean(values), abs=1e-5)


def test_loss_without_a_label_is_zero_and_has_a_gradient():
    images = batch()
    images["array"][:] = torch.nan
    images["image"].requires_grad_()
    for name in severity.LOSSES:
        task = SeverityTask(profile(choices=Choices(severity_loss=name)))
        value = task.loss(Outputs(), images)
        value.backward()
        assert value.item() == 0 and images["image"].grad.isfinite().all()


# weights


def network(settings):
    return SeverityTask(settings).network()


def test_load_matching_takes_what_fits_by_name_and_names_the_rest():
    torch.manual_seed(0)
    model, other = network(profile()), network(profile())
    backbone = {name: t for name, t in other.state_dict().items() if name.startswith("features.")}
    left = classifier.load_matching(model, backbone | {"head.weight": torch.zeros(1)})
    assert left and all(name.startswith("transformer.") for name in left)
    image = torch.randn(2, 1, SIZE, SIZE)
    assert torch.equal(model.eval().features(image), other.eval().features(image))
    assert classifier.load_matching(model, other.state_dict()) == []
    wide = network(profile(transformer=sections.ViT(embed_dim=48, depth=1, num_heads=2)))
    with pytest.raises(ValueError, match="must have the sizes"):
        classifier.load_matching(wide, model.state_dict())


def test_positions_of_another_grid_are_interpolated():
    """A plane over the grid stays that plane inside; the class token keeps its own; the same grid
    is left as it is.
    """
    rows = torch.arange(4.0)[:, None].expand(4, 4).reshape(1, 16, 1)
    positions = torch.cat([torch.full((1, 1, 1), 99.0), rows], dim=1)
    wide = classifier.resize_positions(positions, (8, 8))
    assert wide.shape == (1, 65, 1) and wide[0, 0, 0] == 99
    inside = wide[0, 1:, 0].view(8, 8)[3:5]  # cell centres at 1.25 and 1.75 of the old rows
    torch.testing.assert_close(
        inside, torch.tensor([1.25, 1.75])[:, None].expand(2, 8), atol=0.05, rtol=0
    )
    assert classifier.resize_positions(positions, (4, 4)) is positions


# evaluation


def predicted_table(n=40, seed=0, choices=Choices()):
    rng = np.random.default_rng(seed)
    table = pd.DataFrame({zone: (rng.random(n) < 0.5) * 1.0 for zone in ZONES}).reindex(
        columns=COLUMNS
    )
    table = table.assign(group_id=[f"g{i // 2}" for i in range(n)], site=["elm", "fir"] * (n // 2))
    array = datasets.severity_arrays(table, choices) * 0.6 + 0.3 * rng.random((n, 3, 2))
    return severity.add_predictions(table, array, choices), array


def test_predicted_columns_follow_the_patient_whatever_the_array_shows():
    table, array = predicted_table()
    assert (
        table["p_rll"].tolist() == array[:, 2, 0].tolist()
        and table["p_lul"].tolist() == array[:, 0, 1].tolist()
    )
    assert (
        table["soft"].to_numpy() == pytest.approx(array.sum((1, 2)))
        and (table["hard"] == (array >= 0.5).sum((1, 2))).all()
    )
    assert (table["score"] == table["soft"]).all()
    swapped = severity.add_predictions(
        table, array[:, :, ::-1], Choices(array_columns="patient_left", severity_score="hard")
    )
    pd.testing.assert_frame_equal(swapped[severity.PREDICTED], table[severity.PREDICTED])
    assert (swapped["score"] == table["hard"]).all()


def test_without_a_scored_training_image_there_is_no_constant_guess():
    table, _ = predicted_table()
    out = severity.scores(table, guess=np.nan, choices=Choices())
    assert {out["constant"][name]["value"] for name in severity.ERRORS} == {None}
    assert out["mse"]["value"] is not None


@pytest.mark.parametrize("columns", ["patient_right", "patient_left"])
def test_scores_agree_with_the_metrics_of_one_table(columns):
    choices = Choices(array_columns=columns)
    table, _ = predicted_table(choices=choices)
    out = severity.scores(table, guess=2.5, choices=choices)
    truth = table[list(ZONES)].sum(axis=1).to_numpy()
    want = metrics.severity_metrics(truth, table["score"])
    assert {name: out[name]["value"] for name in want} == pytest.approx(want)
    assert all(out[name]["low"] <= out[name]["value"] <= out[name]["high"] for name in want)
    assert (
        out["constant"]["mse"]["value"] == pytest.approx(np.mean((truth - 2.5) ** 2))
        and out["constant"]["cc"]["value"] is None
    )
    for zone in ZONES:
        assert out["zones"][zone]["auc"]["value"] == 1.0  # 0.6 and more against 0.3 and less
        assert out["zones"][zone]["agreement"]["value"] == 1.0
    assert "second_reader" not in out


def test_the_second_reader_stands_beside_a_constant_at_both_readings_of_a_zone():
    """Two films: (2, 1, 0, ...) and nothing; the second reader calls the first zone 1."""
    table = pd.DataFrame(0.0, index=range(3), columns=[*BRIXIA, *SECOND]).assign(
        **dict.fromkeys(ZONES, np.nan)
    )
    table.loc[0, list(BRIXIA[:2])] = 2.0, 1.0
    table.loc[0, SECOND[0]] = 1.0
    table.loc[2, list(SECOND)] = np.nan  # one reader alone: left out
    table["group_id"] = ["a", "b", "c"]
    rows = {
        (row["threshold"], row["guess"]): row for row in reader_study.second_reader_errors(table)
    }
    assert list(rows) == [
        (t, guess) for t in (1, 2) for guess in ("second reader", "constant guess")
    ]
    # scores at >= 1: first 2, 0, second 1, 0; at >= 2: first 1, 0, second 0, 0
    values = [row["value"] for row in rows.values()]
    assert values == [0.5, 1.0, 0.5, 0.25] and all(row["n"] == 2 for row in rows.values())
    with pytest.raises(ValueError, match="two radiologists"):
        reader_study.second_reader_errors(table[2:])


def test_second_reader_is_evaluated_where_there_is_one():
    table, _ = predicted_table(8)
    table[list(ZONES)] = np.nan
    table[list(BRIXIA)] = [[2, 1, 0, 0, 3, 0]] * 8  # 3 zones at >= 1, 2 at >= 2
    # 4 zones at >= 1, 1 at >= 2
    table[list(SECOND)] = [[1, 1, 1, 0, 3, 0]] * 4 + [[np.nan] * 6] * 4
    out = {
        t: severity.scores(table, 3.0, Choices(brixia_threshold=t))["second_reader"] for t in (1, 2)
    }
    assert out[1]["mse"]["value"] == 1 and out[2]["mse"]["value"] == 1 and out[1]["mse"]["n"] == 4


def test_each_external_site_stands_on_its_own():
    table, _ = predicted_table()
    out = severity.report({"external": table}, train=table, choices=Choices())
    assert list(out["sites"]) == ["elm", "fir"]
    for site, found in out["sites"].items():
        part = table[table["site"] == site]
        assert found["mse"]["n"] == len(part) == 20
        want = metrics.severity_metrics(part[list(ZONES)].sum(axis=1), part["score"])["mse"]
        assert found["mse"]["value"] == pytest.approx(want)


def test_a_map_against_a_planted_lesion():
    lung = lung_mask() == 255
    lesion = np.zeros_like(lung)
    lesion[10:20, 10:20] = lesion[44:50, 40:50] = True  # right upper and left lower zone
    perfect = localisation.compare_with_lesion(lesion * 0.8, lesion, lung, Choices())
    assert perfect["auprc"] == pytest.approx(1) and perfect["pointing"] == 1
    # thresholds 0.05 to 0.8 keep it, 0.85 and more do not
    assert perfect["dice"] == pytest.approx([1.0] * 16 + [0.0] * 3)
    assert perfect["chance"] == pytest.approx(160 / (2 * 48 * 20))
    assert perfect["pointing_chance"] == pytest.approx((100 / (20 * 20) + 60 / (16 * 20)) / 2)
    elsewhere = np.zeros(lung.shape)
    elsewhere[10, 10] = elsewhere[55, 55] = 0.9  # hits the first lesion, misses the second
    assert localisation.compare_with_lesion(elsewhere, lesion, lung, Choices())["pointing"] == 0.5


def test_alternation_holds_out_one_training_hospital():
    table = pd.DataFrame({"site": ["a", "b", "b", "far"], "external": [False, False, False, True]})
    left = severity.hold_out(table, "b")
    assert left["site"].tolist() == ["a", "b", "b"] and left["external"].tolist() == [
        False,
        True,
        True,
    ]
    with pytest.raises(ValueError, match="training hospital 'far'"):
        severity.hold_out(table, "far")


# training


@pytest.mark.integration
def test_training_finds_planted_lesions_from_weak_labels(table, tmp_path):
    """Six ones and zeros an image are enough to find the discs: precision far above chance, score
    far better than a constant.
    """
    torch.set_num_threads(1)
    # 20 images teach it: with seed 0 a CPU's rounding decides whether it finds them, with seed 1 it
    # did so at each of four rates and lengths
    longer = profile(
        seed=1,
        severity_training=sections.Training(
            "adamw", lr=5e-3, batch=8, steps=150, schedule="cosine", clip=1.0, checkpoint_every=0
        ),
    )
    # train the model; the constant guess is the mean of the others
    auxiliary = table["split"].eq("train") & table["rul"].eq(1)
    task = SeverityTask(longer, Store(tmp_path / "store"), CPU)
    task.make(tmp_path, Inputs(table.assign(auxiliary=auxiliary)))
    result = read_json(tmp_path / "metrics.json")
    score = table[list(ZONES)].sum(axis=1)
    guess = score[table["split"].eq("train") & ~table["external"] & ~auxiliary].mean()
    assert auxiliary.any() and result["external"]["constant"]["mse"]["value"] == pytest.approx(
        ((score[40:] - guess) ** 2).mean()
    )
    assert result["images"] == {"train": 20, "val": 10, "test": 10, "external": 8}
    assert list(result["sites"]) == ["far"] and result["sites"]["far"]["mse"]["n"] == 8
    assert result["test"]["mse"]["value"] < 0.5 * result["test"]["constant"]["mse"]["value"]
    found = result["test"]["map"]
    assert found["auprc"]["value"] > 3 * found["chance"]["value"] and 0 < found["threshold"] < 1
    assert result["followup"]["pairs"] == 4 and result["followup"]["sd"] > 0
    assert {f.name for f in tmp_path.iterdir()} >= {
        "weights.safetensors",
        "history.json",
        "metrics.json",
        "predictions.csv",
    }
    again = task.predict(task.load(tmp_path), table.iloc[40:].reset_index(drop=True))
    kept = task.store.read_table(tmp_path / "predictions.csv")
    assert kept["part"].value_counts().to_dict() == {"val": 10, "test": 10, "external": 8}
    np.testing.assert_allclose(again["score"], kept.loc[kept["site"] == "far", "score"], atol=1e-4)


def test_calibrated_zones_are_kept_in_the_weights(table, tmp_path):
    settings = sections.Severity(
        augmentation="none", masks="annotated", healthy="zeros", calibration="zones"
    )
    task = SeverityTask(profile(severity=settings), Store(tmp_path / "store"), CPU)
    table = table.assign(diagnosis="covid19")
    scored = table[table["split"].eq("val") & ~table["external"]]
    healthy = severity.as_zeros(scored).assign(diagnosis="normal")
    found = task.make(tmp_path, Inputs(table, calibration=healthy))["calibration"]
    model = task.load(tmp_path)
    raw = SeverityTask(profile(), task.store, CPU)
    plain = network(profile())
    classifier.load_matching(plain, model.state_dict())

    whole = pd.concat([scored, healthy], ignore_index=True)
    before, after = raw.arrays(plain, whole), task.arrays(model, whole)
    slope, offset = np.asarray(found["slope"]), np.asarray(found["offset"])
    expected = 1 / (1 + np.exp(-slope * np.log(before / (1 - before)) - offset))
    np.testing.assert_allclose(after, expected, atol=1e-4)
    assert np.abs(after - before).max() > 0.02
    # healthy images weigh a quarter, and each zone is read as often as it is involved
    truth = 0.75 * datasets.severity_arrays(scored, Choices()).mean(axis=0)
    weighted = np.average(after, axis=0, weights=task.sample_weights(whole))
    np.testing.assert_allclose(weighted, truth, atol=0.01)
    # what is calibrated already is calibrated from its raw values again
    again = task.calibrate(model, tmp_path, whole)["calibration"]
    np.testing.assert_allclose(again["slope"], slope, atol=1e-3)


def test_a_frozen_backbone_stays_as_it_was(table, tmp_path):
    torch.manual_seed(1)
    start = network(profile()).state_dict()
    frozen = profile(severity=sections.Severity(frozen=True))
    task = SeverityTask(frozen, Store(tmp_path / "store"), CPU)
    model = task.fit(tmp_path, table.iloc[:16].reset_index(drop=True), None, (start,))
    now = model.state_dict()
    assert all(
        torch.equal(now[name], start[name]) for name in start if name.startswith("features.")
    )
    assert any(
        not torch.equal(now[name], start[name])
        for name in start
        if name.startswith("transformer.map_head")
    )
    # what is read from corpora is what is read from images
    shown = table.iloc[:4].reset_index(drop=True)
    batch = task.dataset(shown).batch(range(4))
    with torch.no_grad():
        array = severity.read_severity(model, batch, frozen.choices)["array"]
    np.testing.assert_allclose(task.arrays(model, shown), array.numpy(), atol=1e-5)


# against readers


def test_comparison_is_paired_and_signed():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 7, 60).astype(float)
    table = pd.DataFrame(
        {
            "truth": truth,
            "score": truth + rng.normal(0, 0.5, 60),
            "second_reader": truth + rng.choice([-1, 1], 60),
            "constant": 3.0,
            "ridge": 3 + 0.1 * truth,
            "group_id": np.arange(60) // 2,
        }
    )
    out = reader_study.compare(table)
    assert out["second_reader"]["mse"]["value"] == 1
    assert out["constant"]["mse"]["value"] == pytest.approx(np.mean((truth - 3) ** 2))
    assert reader_study.COMPARED == ("second_reader", "constant", "ridge")
    for name in reader_study.COMPARED:
        gap = out["difference"][name]
        assert gap["difference"] == pytest.approx(
            out["model"]["mse"]["value"] - out[name]["mse"]["value"]
        )
        # the model is better than each of them
        assert gap["low"] <= gap["difference"] <= gap["high"] < 0
    # virtual patients have one true severity and no second radiologist
    alone = reader_study.compare(table.assign(second_reader=np.nan))
    assert set(alone) == {"model", "by_truth", "constant", "ridge", "difference"}
    assert set(alone["difference"]) == {"constant", "ridge"}


@pytest.mark.integration
def test_cross_validation_on_images_with_two_readers(table, tmp_path):
    """Every image gets values from a model of another fold; both readings of the zone score; what
    the model is compared with stands on the same rows.
    """
    rng = np.random.default_rng(1)
    scored = table.iloc[:20].copy()
    involved = scored[list(ZONES)].to_numpy()
    scored[list(BRIXIA)] = involved * rng.integers(1, 4, involved.shape)
    scored[list(SECOND)] = scored[list(BRIXIA)].to_numpy()
    scored[list(ZONES)] = np.nan
    task = SeverityTask(profile(folds=2), Store(tmp_path / "store"), CPU)
    result = reader_study.run(task, tmp_path, Inputs(scored.reset_index(drop=True)))
    predictions = task.store.read_table(tmp_path / "crossvalidated.csv")
    for threshold in (1, 2):
        part = predictions[predictions["threshold"] == threshold]
        part = part.set_index("path").loc[scored["path"]]
        truth = (scored[list(BRIXIA)].to_numpy() >= threshold).sum(axis=1)
        assert (part["truth"].to_numpy() == truth).all() and part["fold"].nunique() == 2
        for number in range(2):
            assert part["constant"][part["fold"] == number].to_numpy() == pytest.approx(
                truth[part["fold"] != number].mean()
            )
        out = result[f"threshold{threshold}"]
        assert out["second_reader"]["mse"]["value"] == 0 and out["model"]["mse"]["n"] == 20
        assert out["model"]["mse"]["value"] == pytest.approx(np.mean((part["score"] - truth) ** 2))
        assert out["difference"]["second_reader"]["difference"] == pytest.approx(
            out["model"]["mse"]["value"]
        )


def test_auxiliary_images_train_every_fold_and_are_in_none(table, tmp_path, monkeypatch):
    """Ten scored images, five healthy ones beside them, and one healthy image of a patient who is
    scored too, whom no fold may train with.
    """
    scored = table.iloc[:10].assign(auxiliary=False)
    healthy = severity.as_zeros(table.iloc[20:26]).assign(auxiliary=True, diagnosis="normal")
    healthy.loc[healthy.index[0], "group_id"] = scored["group_id"].iloc[0]
    both = pd.concat([scored, healthy], ignore_index=True)
    trained = []

    class Recorded(SeverityTask):
        def fit(self, folder, train, val=None, initial_weights=()):
            trained.append(train)
            return torch.nn.Identity()

        def predict(self, model, table):
            return table.assign(score=0.0)

    task = Recorded(profile(folds=2), Store(tmp_path / "store"), CPU)
    predictions = reader_study.cross_validate(task, tmp_path, Inputs(both))
    assert sorted(predictions["path"]) == sorted(scored["path"])
    assert len(trained) == 2
    for train in trained:
        beside = train["auxiliary"].astype(bool)
        assert list(train["path"][beside]) == list(healthy["path"].iloc[1:])
        assert set(train["path"][~beside]) < set(scored["path"])


@pytest.mark.parametrize(
    "origin, replaced", [("segmenter", [True, True, True]), ("annotated", [False, True, False])]
)
def test_masks_come_from_the_segmenter_or_fill_what_nobody_has_annotated(
    table, tmp_path, monkeypatch, origin, replaced
):
    table = table.iloc[:3].reset_index(drop=True).copy()
    table.loc[1, "lung_mask"] = np.nan
    asked = []

    def segmented(task, model, rows, profile):
        asked.append(rows["path"].tolist())
        return np.stack([np.full((SIZE, SIZE), 255 * (i % 2), np.uint8) for i in range(len(rows))])

    monkeypatch.setattr(derived, "segmented_lungs", segmented)
    monkeypatch.setattr(SegmentationTask, "load", lambda task, folder: None)
    chosen, segmenter = profile(severity=sections.Severity(masks=origin)), tmp_path / "segmenter-1"
    got = derived.with_masks(chosen, table, Store(tmp_path), segmenter)
    assert (got["lung_mask"] != table["lung_mask"]).tolist() == replaced and asked == [
        table["path"][replaced].tolist()
    ]
    row = 1 if origin == "segmenter" else 0
    assert (
        masks_module.load_mask(got["lung_mask"][1]) == 255 * row
    ).all()  # an empty mask is a mask
    derived.with_masks(chosen, table, Store(tmp_path), segmenter)
    assert len(asked) == 1  # kept in the store
    derived.with_masks(chosen, table, Store(tmp_path), tmp_path / "segmenter-2")
    assert len(asked) == 2  # of another segmenter


def test_an_unknown_origin_of_masks_is_refused_with_the_known_ones(table, tmp_path):
    wrong = profile(severity=sections.Severity(masks="guessed"))
    with pytest.raises(ValueError, match="origin of masks 'guessed'.*annotated.*segmenter"):
        derived.with_masks(wrong, table, Store(tmp_path), tmp_path)


def test_stage_key_follows_what_the_model_starts_from():
    demo = profiles.demo()
    keys = {
        name: stages.settings(variant, "severity")
        for name, variant in {
            "classifier": demo,
            "backbone": replace(demo, choices=replace(demo.choices, severity_start="backbone")),
            "virtual": replace(demo, severity=replace(demo.severity, virtual=True)),
        }.items()
    }
    assert (
        keys["classifier"]["start"] == stages.settings(demo, "diagnosis_pa")
        and "start" not in keys["backbone"]
    )
    assert keys["virtual"]["start"] == stages.settings(demo, "severity")


def test_images_of_the_diagnosis_train_and_test_nothing():
    """Taken are training images that show COVID-19, with known zones, and by choice normal ones as
    arrays of zeros; not those in the table already or of the hospital that is held out.
    """

    def table(rows):
        return pd.DataFrame(
            rows, columns=["path", "site", "split", "external", "diagnosis", ZONES[0]]
        ).reindex(columns=[*COLUMNS, "external"])

    own = table(
        [("a", "near", "train", False, "covid19", 1), ("b", "far", "test", True, "covid19", 0)]
    )
    other = table(
        [
            ("a", "near", "train", False, "covid19", 1),
            ("c", "near", "train", False, "covid19", 0),
            ("d", "near", "val", False, "covid19", 1),
            ("e", "near", "train", False, "normal", 0),
            ("f", "near", "train", False, "covid19", np.nan),
            ("g", "far", "train", True, "covid19", 1),
            ("h", "next", "train", False, "covid19", 1),
        ]
    )

    class Given(StageInputs):
        def images(self, profile, task):
            return {"severity": own, "diagnosis": other}[task]

    def images_of(**changes):
        settings = profile(severity=sections.Severity(**changes))
        return makers.severity_images(settings, Given(Store(), {}))

    def paths(**changes):
        return list(images_of(**changes)["path"])

    assert paths() == ["a", "b"]
    marked = images_of(auxiliary_diagnosis=True)["auxiliary"]
    assert list(marked) == [False, False, True, True]
    assert paths(auxiliary_diagnosis=True) == ["a", "b", "c", "h"]
    assert paths(auxiliary_diagnosis=True, held_out="next") == ["a", "b", "c"]
    assert paths(healthy="zeros") == ["a", "b", "e"]
    assert paths(auxiliary_diagnosis=True, healthy="zeros") == ["a", "b", "c", "h", "e"]
    healthy = images_of(healthy="zeros").iloc[-1]
    assert healthy["auxiliary"] and (healthy[[*ZONES, *BRIXIA]] == 0).all()
    with pytest.raises(ValueError, match="use of healthy images 'ones'"):
        paths(healthy="ones")
    other["dataset"] = "somewhere"
    assert paths(healthy="zeros", healthy_datasets=("elsewhere",)) == ["a", "b"]
    assert paths(healthy="zeros", healthy_datasets=("somewhere",)) == ["a", "b", "e"]


def test_two_trainings_are_told_apart_by_all_validation_images_with_known_zones(monkeypatch):
    """Those of severity, and of the diagnosis those that show COVID-19; each image once."""
    known, unknown = dict.fromkeys(ZONES, 1), {}

    def table(*rows):
        columns = ("path", "split", "external", "diagnosis")
        found = [dict(zip(columns, row[:4], strict=True)) | row[4] for row in rows]
        return pd.DataFrame(found).reindex(columns=[*COLUMNS, "external"])

    own = table(
        ("a", "val", False, "covid19", known),
        ("b", "train", False, "covid19", known),
        ("c", "test", True, "covid19", known),
    )
    other = table(
        ("a", "val", False, "covid19", known),
        ("d", "val", False, "covid19", known),
        ("e", "val", False, "covid19", unknown),
        ("f", "val", False, "normal", known),
        ("g", "train", False, "covid19", known),
    )

    class Given(StageInputs):
        def images(self, profile, task):
            return {"severity": own, "diagnosis": other}[task]

    monkeypatch.setattr(
        makers, "with_masks", lambda profile, table, *rest: table.assign(lung_mask="masks#0")
    )
    found = makers.scored_validation_images(profile(), Given(Store(), {"segmenter": "none"}))
    assert list(found["path"]) == ["a", "d"] and set(found["lung_mask"]) == {"masks#0"}


def test_a_quarter_of_what_is_drawn_is_healthy():
    table = pd.DataFrame({"diagnosis": ["normal", "covid19", np.nan, "covid19"]})
    task = SeverityTask(profile(severity=sections.Severity(healthy="zeros")), Store(), CPU)
    np.testing.assert_allclose(task.sample_weights(table), [0.25, 0.25, 0.25, 0.25])
    weights = task.sample_weights(table.iloc[[0, 0, 1, 2, 3]])
    np.testing.assert_allclose(weights, [0.125, 0.125, 0.25, 0.25, 0.25])
    assert task.sample_weights(table.iloc[1:]) is None
    assert SeverityTask(profile(), Store(), CPU).sample_weights(table) is None


def test_each_half_of_the_map_answers_by_itself():
    """Three maps of one film: the loss is that of the product and half of each half's."""

    class Three(torch.nn.Module):
        def forward(self, image):
            names = ("severity_logits", "gate_logits", "local_logits")
            return dict(zip(names, (image, image - 1, image + 1), strict=True))

    task, film = SeverityTask(profile(), Store(), CPU), batch(n=3)

    def alone(shift):
        return task.loss(Outputs(), {**film, "image": film["image"] + shift})

    torch.testing.assert_close(
        task.loss(Three(), film), alone(0) + 0.5 * alone(-1) + 0.5 * alone(1)
    )


def test_healthy_images_are_read_where_nothing_has_trained(monkeypatch):
    """Normal images of external hospitals, of no patient who trains, as zeros with lung masks."""
    rows = [
        ("a", "one", "train", False, "normal"),
        ("b", "two", "test", True, "normal"),
        ("c", "three", "test", True, "covid19"),
        ("d", "four", "test", True, "normal"),
    ]
    columns = ["path", "group_id", "split", "external", "diagnosis"]
    other = pd.DataFrame(rows, columns=columns).reindex(columns=[*COLUMNS, "external"])
    trained = other.assign(group_id=["four", "x", "y", "z"])

    class Given(StageInputs):
        def images(self, profile, task):
            assert task == "diagnosis"
            return other

    def marked(profile, table, store, segmenter):
        return table.assign(lung_mask="masks#0")

    monkeypatch.setattr(makers, "with_masks", marked)
    given = Given(Store(), {"segmenter": "none"})

    def healthy(**changes):
        settings = profile(severity=sections.Severity(**changes))
        return makers.healthy_images(settings, given, trained)

    found = healthy(healthy="zeros")
    assert list(found["path"]) == ["b"] and (found[list(ZONES)] == 0).all(axis=None)
    assert list(healthy(auxiliary_diagnosis=True)["path"]) == ["b"]
    assert healthy().empty
    # where some datasets give the zeros, those of the others count, trained or not by the split
    other["dataset"] = ["far", "near", "near", "near"]
    assert list(healthy(healthy="zeros", healthy_datasets=("near",))["path"]) == ["a"]


def test_the_reading_of_healthy_images_by_hand():
    """Two patients: scores 0.5 and 1.5 of one, 4 of the other, who alone has a zone over 0.5."""
    scores = np.array([0.5, 1.5, 4.0])
    zones = np.array([[0.1] * 6, [0.49] * 6, [0.9] + [0.1] * 5])

    class Read(SeverityTask):
        def predict(self, model, table):
            return table.assign(score=scores, **dict(zip(severity.PREDICTED, zones.T)))

    task = Read(profile(), Store(), CPU)
    found = task.read_healthy(torch.nn.Identity(), pd.DataFrame({"group_id": ["p", "p", "q"]}))
    assert found["score"]["value"] == pytest.approx(2.0) and found["score"]["n"] == 3
    assert found["involved"]["value"] == pytest.approx(1 / 3)
    assert found["score"]["low"] == pytest.approx(1.0)  # patient p alone
    assert found["score"]["high"] == pytest.approx(4.0)


def test_what_is_read_where_nobody_has_scored_by_hand():
    """At one source the ill read above three of four healthy films; at another all are ill."""
    rows = [("here", "normal", score) for score in (0, 1, 2, 4)]
    rows += [("here", "covid19", 3), ("there", "covid19", 5)]
    table = pd.DataFrame(rows, columns=["dataset", "diagnosis", "score"])
    table["group_id"] = [f"p{i}" for i in range(len(table))]

    class Read(SeverityTask):
        def predict(self, model, table):
            return table

    ill, healthy, there = Read(profile(), Store(), CPU).read_unscored(torch.nn.Identity(), table)
    assert (ill["dataset"], ill["diagnosis"], ill["score"]["value"]) == ("here", "covid19", 3)
    assert ill["auc"]["value"] == pytest.approx(3 / 4)
    assert healthy["score"]["value"] == pytest.approx(7 / 4) and "auc" not in healthy
    assert there["score"]["value"] == 5 and "auc" not in there


def test_unscored_images_are_of_patients_who_train_nothing(monkeypatch):
    """At most so many of each source and diagnosis."""
    rows = [(f"{i}", f"p{i}", "far", "normal") for i in range(5)] + [("5", "p5", "far", "covid19")]
    other = pd.DataFrame(rows, columns=["path", "group_id", "dataset", "diagnosis"])

    class Given(StageInputs):
        def images(self, profile, task):
            return other

    monkeypatch.setattr(makers, "MOST_HEALTHY", 2)
    monkeypatch.setattr(makers, "with_masks", lambda profile, table, store, segmenter: table)
    given = Given(Store(), {"segmenter": "none"})
    found = makers.unscored_images(profile(), given, other.iloc[[0]])
    assert "p0" not in set(found["group_id"])
    assert found["diagnosis"].value_counts().to_dict() == {"normal": 2, "covid19": 1}


def test_conditional_bias_of_a_model_that_always_says_the_mean():
    """Of scores 0, 0, 1, 5 and 6 it says 2.4: 2.4 too much for the healthy, 3.1 too little at 5-6.

    No image has 3 or 4, and the unknown one counts nowhere.
    """
    truth = np.array([0, 0, 1, 5, 6, np.nan])
    found = severity.by_truth(truth, np.full(6, 2.4), np.arange(6))
    ranges = [(row["low"], row["high"], row["true"], row["read"]["n"]) for row in found]
    assert ranges == [(0, 0, 0.0, 2), (1, 2, 1.0, 1), (5, 6, 5.5, 2)]
    assert all(row["read"]["value"] == pytest.approx(2.4) for row in found)
