"""The severity task against hand-worked arrays, slow loops, planted lesions and a training that
must find them.
"""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from cxrkit.config import profiles
from cxrkit.config.choices import Choices
from cxrkit.config.vocabulary import BRIXIA, COLUMNS, SECOND, ZONES
from cxrkit.data import datasets
from cxrkit.data import masks as masks_module
from cxrkit.evaluation import localisation, metrics
from cxrkit.models import classifier
from cxrkit.pipeline import dependencies, stages, task_data
from cxrkit.storage.artifacts import Store
from cxrkit.storage.atomic import read_json
from cxrkit.tasks import reader_study, segmentation, severity

pytestmark = pytest.mark.usefixtures("few_draws")
SIZE = 64


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
        backbone=profiles.DenseNet(
            growth_rate=8, block_config=(2, 2, 2, 2), num_init_features=8, stem=1, stride=16
        ),
        transformer=profiles.ViT(embed_dim=32, depth=1, num_heads=2),
        quantifier=profiles.Quantifier(augmentation="none", masks="drawn"),
        severity_training=profiles.Training("adamw", lr=3e-3, batch=8, steps=4, checkpoint_every=0),
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
    masks[1, 8:20] = 127  # nobody has drawn the top of the second
    return {
        "image": torch.randn(n, 1, SIZE, SIZE, generator=generator),
        "lung_mask": masks,
        "array": torch.tensor([[[1.0, 0], [0, 1], [torch.nan, 0]]] * n),
    }


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """A table of 48 films on disk: noise, and a bright disc in each involved zone."""
    folder, rng = tmp_path_factory.mktemp("films"), np.random.default_rng(0)
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
    table = pd.DataFrame(rows).reindex(columns=[*COLUMNS, "external"])
    places = {"path": "images", "lesion_mask": "lesions", "lung_mask": "masks"}
    return table.assign(
        **{
            column: [f"{folder / stem}.npy#{i}" for i in range(48)]
            for column, stem in places.items()
        }
    )


# the map becomes an array


def slow_array(logits, mask):
    """Section 3.3 pixel by pixel: sigmoid, times the mask, largest value of each of six zones.
    Lines on the lungs that are drawn.
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
    films = batch()
    out = severity.read(Outputs(), films, Choices())
    for b in range(3):
        want = slow_array(films["image"][b, 0].double().numpy(), films["lung_mask"][b].numpy())
        np.testing.assert_allclose(out["array"][b].numpy(), want, atol=1e-6)
    assert (out["severity_map"][1, 0, 8:20] == 0).all()  # ignored rows are no lung


def test_order_of_sigmoid_and_mask_changes_the_outside_alone():
    films = batch()
    before, after = (
        severity.read(Outputs(), films, Choices(sigmoid=how))
        for how in ("before_mask", "after_mask")
    )
    inside = (films["lung_mask"] == 255)[:, None]
    assert torch.equal(before["array"], after["array"])
    assert torch.equal(before["severity_map"][inside], after["severity_map"][inside])
    assert (before["severity_map"][~inside] == 0).all() and (
        after["severity_map"][~inside] == 0.5
    ).all()


def test_mask_is_brought_to_the_size_of_the_map():
    films = batch()
    films["image"] = films["image"][:, :, ::2, ::2]
    inside = severity.inside_lungs(films["lung_mask"], (32, 32))
    assert inside[0].sum() == (films["lung_mask"][0] == 255).sum() / 4
    assert severity.read(Outputs(), films, Choices())["severity_map"].shape == (3, 1, 32, 32)


@pytest.mark.parametrize(
    "name, by_hand",
    [
        ("mse", lambda p, y: (p - y) ** 2),
        ("bce", lambda p, y: -(y * np.log(p) + (1 - y) * np.log(1 - p))),
    ],
)
def test_loss_by_hand_over_known_zones(name, by_hand):
    films = batch()
    choices = Choices(severity_loss=name)
    array = severity.read(Outputs(), films, choices)["array"].double().numpy()
    truth = films["array"].numpy()
    values = [by_hand(p, y) for p, y in zip(array.ravel(), truth.ravel()) if not np.isnan(y)]
    assert len(values) == 15
    assert severity.loss(choices)(Outputs(), films).item() == pytest.approx(
        np.mean(values), abs=1e-5
    )


def test_loss_without_a_label_is_zero_and_has_a_gradient():
    films = batch()
    films["array"][:] = torch.nan
    films["image"].requires_grad_()
    for name in severity.LOSSES:
        value = severity.loss(Choices(severity_loss=name))(Outputs(), films)
        value.backward()
        assert value.item() == 0 and films["image"].grad.isfinite().all()


# weights


def test_adopt_takes_what_fits_by_name_and_names_the_rest():
    torch.manual_seed(0)
    model, other = severity.network(profile()), severity.network(profile())
    backbone = {name: t for name, t in other.state_dict().items() if name.startswith("features.")}
    left = classifier.adopt(model, backbone | {"head.weight": torch.zeros(1)})
    assert left and all(name.startswith("transformer.") for name in left)
    image = torch.randn(2, 1, SIZE, SIZE)
    assert torch.equal(model.eval().features(image), other.eval().features(image))
    assert classifier.adopt(model, other.state_dict()) == []
    wide = severity.network(profile(transformer=profiles.ViT(embed_dim=48, depth=1, num_heads=2)))
    with pytest.raises(ValueError, match="must have the sizes"):
        classifier.adopt(wide, model.state_dict())


def test_positions_of_another_grid_are_interpolated():
    """A plane over the grid stays that plane inside; the class token keeps its own; the same grid
    is left as it is.
    """
    rows = torch.arange(4.0)[:, None].expand(4, 4).reshape(1, 16, 1)
    positions = torch.cat([torch.full((1, 1, 1), 99.0), rows], dim=1)
    wide = classifier.stretch(positions, (8, 8))
    assert wide.shape == (1, 65, 1) and wide[0, 0, 0] == 99
    inside = wide[0, 1:, 0].view(8, 8)[3:5]  # cell centres at 1.25 and 1.75 of the old rows
    torch.testing.assert_close(
        inside, torch.tensor([1.25, 1.75])[:, None].expand(2, 8), atol=0.05, rtol=0
    )
    assert classifier.stretch(positions, (4, 4)) is positions


# judging


def judged_table(n=40, seed=0, choices=Choices()):
    rng = np.random.default_rng(seed)
    table = pd.DataFrame({zone: (rng.random(n) < 0.5) * 1.0 for zone in ZONES}).reindex(
        columns=COLUMNS
    )
    table = table.assign(group_id=[f"g{i // 2}" for i in range(n)], site=["elm", "fir"] * (n // 2))
    array = datasets.arrays(table, choices) * 0.6 + 0.3 * rng.random((n, 3, 2))
    return severity.judge(table, array, choices), array


def test_judged_columns_follow_the_patient_whatever_the_array_shows():
    table, array = judged_table()
    assert (
        table["p_rll"].tolist() == array[:, 2, 0].tolist()
        and table["p_lul"].tolist() == array[:, 0, 1].tolist()
    )
    assert (
        table["soft"].to_numpy() == pytest.approx(array.sum((1, 2)))
        and (table["hard"] == (array >= 0.5).sum((1, 2))).all()
    )
    assert (table["score"] == table["soft"]).all()
    swapped = severity.judge(
        table, array[:, :, ::-1], Choices(array_columns="patient_left", severity_score="hard")
    )
    pd.testing.assert_frame_equal(swapped[severity.PREDICTED], table[severity.PREDICTED])
    assert (swapped["score"] == table["hard"]).all()


@pytest.mark.parametrize("columns", ["patient_right", "patient_left"])
def test_scores_agree_with_the_metrics_of_one_table(columns):
    choices = Choices(array_columns=columns)
    table, _ = judged_table(choices=choices)
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
    assert "reader" not in out


def test_second_reader_is_judged_where_there_is_one():
    table, _ = judged_table(8)
    table[list(ZONES)] = np.nan
    table[list(BRIXIA)] = [[2, 1, 0, 0, 3, 0]] * 8  # 3 zones at >= 1, 2 at >= 2
    # 4 zones at >= 1, 1 at >= 2
    table[list(SECOND)] = [[1, 1, 1, 0, 3, 0]] * 4 + [[np.nan] * 6] * 4
    out = {t: severity.scores(table, 3.0, Choices(brixia_threshold=t))["reader"] for t in (1, 2)}
    assert out[1]["mse"]["value"] == 1 and out[2]["mse"]["value"] == 1 and out[1]["mse"]["n"] == 4


def test_each_external_site_stands_on_its_own():
    table, _ = judged_table()
    out = severity.report({"external": table}, trained=table, choices=Choices())
    for i, site in enumerate(("elm", "fir"), start=1):
        part = table[table["site"] == site]
        assert (
            out[f"external{i}"]["site"] == site
            and out[f"external{i}"]["mse"]["n"] == len(part) == 20
        )
        want = metrics.severity_metrics(part[list(ZONES)].sum(axis=1), part["score"])["mse"]
        assert out[f"external{i}"]["mse"]["value"] == pytest.approx(want)


def test_a_map_against_a_planted_lesion():
    lung = lung_mask() == 255
    lesion = np.zeros_like(lung)
    lesion[10:20, 10:20] = lesion[44:50, 40:50] = True  # right upper and left lower zone
    perfect = localisation.against_lesion(lesion * 0.8, lesion, lung, Choices())
    assert perfect["auprc"] == pytest.approx(1) and perfect["pointing"] == 1
    # thresholds 0.05 to 0.8 keep it, 0.85 and more do not
    assert perfect["dice"] == pytest.approx([1.0] * 16 + [0.0] * 3)
    assert perfect["chance"] == pytest.approx(160 / (2 * 48 * 20))
    assert perfect["pointing_chance"] == pytest.approx((100 / (20 * 20) + 60 / (16 * 20)) / 2)
    elsewhere = np.zeros(lung.shape)
    elsewhere[10, 10] = elsewhere[55, 55] = 0.9  # hits the first lesion, misses the second
    assert localisation.against_lesion(elsewhere, lesion, lung, Choices())["pointing"] == 0.5


def test_alternation_sets_one_training_hospital_aside():
    table = pd.DataFrame({"site": ["a", "b", "b", "far"], "external": [False, False, False, True]})
    left = severity.set_aside(table, "b")
    assert left["site"].tolist() == ["a", "b", "b"] and left["external"].tolist() == [
        False,
        True,
        True,
    ]
    with pytest.raises(ValueError, match="training hospital 'far'"):
        severity.set_aside(table, "far")


# training


def test_training_finds_planted_lesions_from_weak_labels(films, tmp_path):
    """Six ones and zeros a film teach where the discs are: precision far above chance, score far
    better than a constant.
    """
    torch.set_num_threads(1)
    taught = profile(
        severity_training=profiles.Training(
            "adamw", lr=5e-3, batch=8, steps=150, schedule="cosine", clip=1.0, checkpoint_every=0
        )
    )
    # teach the model; the constant guess is the mean of the others
    lent = films["split"].eq("train") & films["rul"].eq(1)
    severity.make(tmp_path, taught, films.assign(lent=lent), Store(tmp_path / "store"))
    result = read_json(tmp_path / "metrics.json")
    score = films[list(ZONES)].sum(axis=1)
    guess = score[films["split"].eq("train") & ~films["external"] & ~lent].mean()
    assert lent.any() and result["external"]["constant"]["mse"]["value"] == pytest.approx(
        ((score[40:] - guess) ** 2).mean()
    )
    assert result["images"] == {"train": 20, "val": 10, "test": 10, "external": 8}
    assert result["external1"]["site"] == "far" and result["external1"]["mse"]["n"] == 8
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
    model = severity.load(tmp_path, taught)
    again = severity.predict(
        model, films.iloc[40:].reset_index(drop=True), taught, Store(tmp_path / "store")
    )
    kept = pd.read_csv(tmp_path / "predictions.csv")
    np.testing.assert_allclose(again["score"], kept.loc[kept["site"] == "far", "score"], atol=1e-4)


def test_a_frozen_backbone_stays_as_it_was(films, tmp_path):
    torch.manual_seed(1)
    start = severity.network(profile()).state_dict()
    frozen = profile(quantifier=profiles.Quantifier(frozen=True))
    model = severity.fit(
        tmp_path,
        frozen,
        films.iloc[:16].reset_index(drop=True),
        (),
        Store(tmp_path / "store"),
        (start,),
    )
    now = model.state_dict()
    assert all(
        torch.equal(now[name], start[name]) for name in start if name.startswith("features.")
    )
    assert any(
        not torch.equal(now[name], start[name])
        for name in start
        if name.startswith("transformer.map_head")
    )


# against readers


def test_comparison_is_paired_and_signed():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 7, 60).astype(float)
    table = pd.DataFrame(
        {
            "truth": truth,
            "score": truth + rng.normal(0, 0.5, 60),
            "reader": truth + rng.choice([-1, 1], 60),
            "constant": 3.0,
            "ridge": 3 + 0.1 * truth,
            "group_id": np.arange(60) // 2,
        }
    )
    out = reader_study.compare(table)
    assert out["reader"]["mse"]["value"] == 1 and out["constant"]["mse"]["value"] == pytest.approx(
        np.mean((truth - 3) ** 2)
    )
    for rival in reader_study.RIVALS:
        gap = out["difference"][rival]
        assert gap["difference"] == pytest.approx(
            out["model"]["mse"]["value"] - out[rival]["mse"]["value"]
        )
        # the model is better than each of them
        assert gap["low"] <= gap["difference"] <= gap["high"] < 0


def test_cross_validation_on_films_with_two_readers(films, tmp_path):
    """Every film gets values from a model of another fold; both readings of the zone score; rivals
    on the same rows.
    """
    rng = np.random.default_rng(1)
    scored = films.iloc[:20].copy()
    involved = scored[list(ZONES)].to_numpy()
    scored[list(BRIXIA)] = involved * rng.integers(1, 4, involved.shape)
    scored[list(SECOND)] = scored[list(BRIXIA)].to_numpy()
    scored[list(ZONES)] = np.nan
    result = reader_study.study(
        tmp_path, profile(folds=2), scored.reset_index(drop=True), Store(tmp_path / "store")
    )
    judged = pd.read_csv(tmp_path / "crossvalidated.csv")
    for threshold in (1, 2):
        part = judged[judged["threshold"] == threshold].set_index("path").loc[scored["path"]]
        truth = (scored[list(BRIXIA)].to_numpy() >= threshold).sum(axis=1)
        assert (part["truth"].to_numpy() == truth).all() and part["fold"].nunique() == 2
        for number in range(2):
            assert part["constant"][part["fold"] == number].to_numpy() == pytest.approx(
                truth[part["fold"] != number].mean()
            )
        out = result[f"threshold{threshold}"]
        assert out["reader"]["mse"]["value"] == 0 and out["model"]["mse"]["n"] == 20
        assert out["model"]["mse"]["value"] == pytest.approx(np.mean((part["score"] - truth) ** 2))
        assert out["difference"]["reader"]["difference"] == pytest.approx(
            out["model"]["mse"]["value"]
        )


@pytest.mark.parametrize(
    "origin, replaced", [("segmenter", [True, True, True]), ("drawn", [False, True, False])]
)
def test_masks_come_from_the_segmenter_or_fill_what_nobody_has_drawn(
    films, tmp_path, monkeypatch, origin, replaced
):
    table = films.iloc[:3].reset_index(drop=True).copy()
    table.loc[1, "lung_mask"] = np.nan
    asked = []

    def predicted(model, rows, profile, store):
        asked.append(rows["path"].tolist())
        return np.stack([np.full((SIZE, SIZE), 255 * (i % 2), np.uint8) for i in range(len(rows))])

    monkeypatch.setattr(severity, "predicted_lungs", predicted)
    monkeypatch.setattr(segmentation, "load", lambda folder, profile: None)
    monkeypatch.setattr(stages, "segmenter", lambda profile, store: None)
    chosen = profile(quantifier=profiles.Quantifier(masks=origin))
    got = stages.masks(chosen, table, Store(tmp_path))
    assert (got["lung_mask"] != table["lung_mask"]).tolist() == replaced and asked == [
        table["path"][replaced].tolist()
    ]
    row = 1 if origin == "segmenter" else 0
    assert (
        masks_module.load_mask(got["lung_mask"][1]) == 255 * row
    ).all()  # an empty mask is a mask
    stages.masks(chosen, table, Store(tmp_path))
    assert len(asked) == 1  # kept in the store


def test_stage_key_follows_what_the_model_starts_from():
    demo = profiles.demo()
    keys = {
        name: dependencies.settings(variant, "severity")
        for name, variant in {
            "classifier": demo,
            "backbone": replace(demo, choices=replace(demo.choices, severity_start="backbone")),
            "virtual": replace(demo, quantifier=replace(demo.quantifier, virtual=True)),
        }.items()
    }
    assert (
        keys["classifier"]["start"] == dependencies.settings(demo, "diagnosis_pa")
        and "start" not in keys["backbone"]
    )
    assert keys["virtual"]["start"] == dependencies.settings(demo, "severity")


def test_covid_films_of_the_diagnosis_teach_and_test_nothing(monkeypatch):
    """Taken are training films that show COVID-19, with known zones, not in the table yet and not
    of the hospital set aside.
    """

    def table(rows):
        return pd.DataFrame(
            rows, columns=["path", "site", "split", "external", "diagnosis", ZONES[0]]
        ).reindex(columns=[*COLUMNS, "external"])

    own = table(
        [("a", "near", "train", False, "covid19", 1), ("b", "far", "test", True, "covid19", 0)]
    )
    lent = table(
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
    monkeypatch.setattr(
        task_data,
        "for_task",
        lambda profile, task, store: {"severity": own, "diagnosis": lent}[task],
    )

    def films_of(**quantifier):
        return stages.severity_films(profile(quantifier=profiles.Quantifier(**quantifier)))

    def paths(**quantifier):
        return list(films_of(**quantifier)["path"])

    assert paths() == ["a", "b"] and list(films_of(diagnosed=True)["lent"]) == [
        False,
        False,
        True,
        True,
    ]
    assert paths(diagnosed=True) == ["a", "b", "c", "h"]
    assert paths(diagnosed=True, aside="next") == ["a", "b", "c"]
