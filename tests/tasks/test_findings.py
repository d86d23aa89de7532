"""The findings task against hand-worked numbers, planted maps and a tiny training; the keys of its
stage; committed results.
"""

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from cxrkit.config import profiles, sections
from cxrkit.config.choices import Choices
from cxrkit.config.sections import CohortSettings, DenseNet, Training
from cxrkit.config.vocabulary import COLUMNS, FINDINGS
from cxrkit.data import manifests
from cxrkit.data.datasets import split_parts
from cxrkit.evaluation import metrics
from cxrkit.pipeline import stages
from cxrkit.pipeline.task_data import images_for
from cxrkit.simulation import cohort as virtual_hospitals
from cxrkit.simulation import hospital as hospital_module
from cxrkit.storage import recorded
from cxrkit.storage.artifacts import Store
from cxrkit.storage.atomic import read_json
from cxrkit.tasks import findings
from cxrkit.tasks.findings import LOGITS, FindingsTask
from cxrkit.tasks.task import Inputs
from cxrkit.training import checkpoint

pytestmark = pytest.mark.usefixtures("few_draws")
CPU = torch.device("cpu")  # weights are compared to the bit
TINY = replace(
    profiles.demo(),
    image_size=64,
    cohort=CohortSettings(findings=45, diagnosis=6, severity=6, size=64),
    backbone=DenseNet(
        growth_rate=4, block_config=(1, 1, 1, 1), num_init_features=8, stem=1, stride=16
    ),
    backbone_training=Training("adamw", lr=2e-3, batch=4, steps=6, log_every=2, checkpoint_every=2),
)


class Given(torch.nn.Module):
    """Stands for the network: gives a tensor (n, ...) that it holds, image after image."""

    def __init__(self, name, values):
        super().__init__()
        self.name, self.values, self.at = name, values, 0

    def forward(self, image):
        self.at += len(image)
        return {self.name: self.values[self.at - len(image) : self.at]}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store with the tiny cohort drawn."""
    torch.set_num_threads(1)
    made = Store(tmp_path_factory.mktemp("store"))
    # in this process: others would import the kit anew
    made.load_or_make(
        "cohort",
        stages.settings(TINY, "cohort"),
        lambda folder: virtual_hospitals.draw_cohort(folder, TINY.cohort, TINY.seed, workers=1),
    )
    return made


@pytest.fixture(scope="module")
def table(store):
    """Images of the tiny cohort for the findings."""
    return images_for(TINY, "findings", store, stages.folder_of(TINY, "cohort", store))


@pytest.fixture(scope="module")
def task(store):
    return FindingsTask(TINY, store, CPU)


@pytest.fixture
def few(monkeypatch):
    """The tiny cohort has no finding in 20 patients of every part."""
    monkeypatch.setattr(findings, "FEWEST", 2)


# loss and schedule


def softplus(x):
    return math.log(1 + math.exp(x))


def test_loss_counts_known_labels_only():
    logits = torch.tensor([[0.0, 2.0, -1.0], [5.0, 3.0, 0.5]], requires_grad=True)
    labels = torch.tensor([[1.0, math.nan, 0.0], [math.nan, 0.0, math.nan]])
    batch = {"image": logits, "findings": labels}
    value = FindingsTask(TINY).loss(Given("logits", logits), batch)
    assert value == findings.cross_entropy(logits, labels)
    assert value.item() == pytest.approx((softplus(0) + softplus(-1) + softplus(3)) / 3, rel=1e-6)
    value.backward()
    assert torch.equal(logits.grad == 0, torch.isnan(labels))


def test_a_batch_without_labels_costs_nothing():
    logits = torch.randn(2, 3, requires_grad=True)
    batch = {"image": logits, "findings": torch.full((2, 3), math.nan)}
    value = FindingsTask(TINY).loss(Given("logits", logits), batch)
    value.backward()
    assert value.item() == 0 and not logits.grad.any()


def test_step_decay_of_both_readings():
    """1,000 images in batches of 4 x 2 are 125 steps an epoch."""
    training = Training(schedule="step", steps=3000, batch=4, accumulate=2)
    late = findings.with_decay(training, 1000, Choices(lr_decay="epochs_10_15"))
    assert late.milestones == (1250, 1875) and late.decay == 0.5
    third = findings.with_decay(training, 1000, Choices(lr_decay="two_thirds"))
    assert third.milestones == (2000,) and third.decay == 0.1
    assert replace(late, milestones=(), decay=0.1) == training
    assert findings.with_decay(replace(training, schedule="cosine"), 1000, Choices()) == replace(
        training, schedule="cosine"
    )


def test_the_papers_decay_never_fires_in_the_papers_steps():
    """160,000 steps of 8 of the 190,847 images are 6.7 epochs (choice 13)."""
    paper = profiles.paper()
    training = findings.with_decay(paper.backbone_training, 29_420 + 161_427, paper.choices)
    assert training.steps == 160_000 and f"{training.steps * training.batch / 190_847:.1f}" == "6.7"
    assert min(training.milestones) > training.steps


# scores


def test_mean_auc_leaves_out_what_has_one_class():
    truth = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 1], [1, 1, 0]], float)
    scores = np.array([[0.1, 0, 1], [0.9, 5, 1], [0.2, 2, 1], [0.8, 1, 1]])
    assert findings.mean_auc(truth, scores) == pytest.approx((1 + 0.5) / 2)
    assert math.isnan(findings.mean_auc(truth[:, 1:2], scores[:, 1:2]))


@pytest.fixture
def predictions():
    """100 images of 50 patients: cardiomegaly in 25 patients (ranked well), edema in 19 (38
    images), the rest in none or all.
    """
    rng = np.random.default_rng(0)
    patient = np.arange(100) // 2
    table = pd.DataFrame({name: np.zeros(100) for name in FINDINGS})
    table["cardiomegaly"], table["edema"] = patient % 2 == 0, patient < 19
    table["opacity"], table["pneumonia"], table["no_finding"] = (
        patient % 5 < 3,
        patient % 5 < 3,
        patient % 5 >= 3,
    )
    table = table.astype(float).assign(
        patient_id=[f"p{p}" for p in patient], group_id=[f"g{p}" for p in patient], site="elm"
    )
    table.loc[:9, "opacity"] = np.nan
    logits = {name: rng.normal(size=100) for name in LOGITS}
    return table.assign(
        **logits | {"logit_cardiomegaly": table["cardiomegaly"] + rng.normal(size=100)}
    )


def test_scores_by_hand(predictions):
    out = findings.scores(predictions)
    area = out["findings"]["cardiomegaly"]["auc"]
    truth, logit = (
        predictions["cardiomegaly"].to_numpy(),
        predictions["logit_cardiomegaly"].to_numpy(),
    )
    assert (
        area["value"] == pytest.approx(np.mean(logit[truth == 1][:, None] > logit[truth == 0]))
        and area["n"] == 50
    )
    assert (area["value"], area["low"], area["high"]) == pytest.approx(
        metrics.auc_ci(truth, logit, groups=predictions["group_id"])
    )
    probability = 1 / (1 + np.exp(-logit))
    assert out["findings"]["cardiomegaly"]["brier"] == pytest.approx(
        np.mean((probability - truth) ** 2)
    )
    shown = {name for name, found in out["findings"].items() if found["auc"]["value"] is not None}
    # edema: 38 images, but of 19 patients
    assert shown == {"no_finding", "cardiomegaly", "opacity", "pneumonia"}
    assert out["auc"]["value"] == pytest.approx(
        np.mean([out["findings"][name]["auc"]["value"] for name in shown])
    )
    assert out["auc"]["low"] < out["auc"]["value"] < out["auc"]["high"] and out["auc"]["n"] == 100
    # unknown labels are not counted
    assert out["findings"]["opacity"]["auc"]["n"] == int(predictions["opacity"].sum())
    json.dumps(out, allow_nan=False)


def test_a_finding_in_everybody_has_no_auc(predictions):
    out = findings.scores(predictions.assign(cardiomegaly=1.0))
    assert out["findings"]["cardiomegaly"]["auc"]["value"] is None
    json.dumps(out, allow_nan=False)


def test_labels_that_say_the_same_are_named(predictions):
    assert findings.scores(predictions)["same"] == [
        "opacity = 1 - no_finding",
        "pneumonia = 1 - no_finding",
        "pneumonia = opacity",
    ]
    assert findings.twins(
        pd.DataFrame(
            {"a": [0, 1, 1, np.nan], "b": [0, 1, 0, 1], "c": [1, 0, np.nan, 1.0], "d": [1, 1, 1, 1]}
        )
    ) == ["c = 1 - a"]


def test_every_external_site_stands_alone(predictions):
    both = pd.concat(
        [
            predictions,
            predictions.assign(site="fir", logit_cardiomegaly=-predictions["logit_cardiomegaly"]),
        ]
    )
    out = FindingsTask(TINY).evaluate({"external": both}, both[:0])
    assert list(out["sites"]) == ["elm", "fir"]
    areas = [site["findings"]["cardiomegaly"]["auc"]["value"] for site in out["sites"].values()]
    assert areas[0] == pytest.approx(1 - areas[1])


# folds


def test_folds_never_share_a_patient_and_are_always_the_same(tmp_path):
    table = pd.DataFrame(
        {
            "group_id": [f"g{i // 3}" for i in range(90)],
            "path": [f"{i}.png" for i in range(90)],
            "external": False,
        }
    )
    asked = []

    class Untrained(FindingsTask):
        def fit(self, folder, train, val=None, initial_weights=()):
            return SimpleNamespace(seen=set(train["group_id"]), folder=folder.name)

        def predict(self, model, table):
            asked.append(model.folder)
            groups = set(table["group_id"])
            assert model.seen.isdisjoint(groups)
            assert model.seen | groups == {f"g{i}" for i in range(30)}
            return table

    task = Untrained(replace(TINY, folds=5))

    def cross_validate(table):
        return task.more_predictions(tmp_path, Inputs(table))["folds"]

    once = cross_validate(table)
    assert sorted(once["path"]) == sorted(table["path"]) and asked == [f"fold{k}" for k in range(5)]
    assert (once["fold"] == once["group_id"].map(lambda group: manifests.fold_of(group, 5))).all()
    shuffled = cross_validate(table.sample(frac=1, random_state=1).reset_index(drop=True))
    assert once.set_index("path")["fold"].to_dict() == shuffled.set_index("path")["fold"].to_dict()


# pointing


def test_pointing_at_the_truth_hits_and_elsewhere_misses(task):
    """Maps made of the truth itself, on three images of a virtual ward: 1.0; turned round: 0; the
    chance is the share of cells, by hand.
    """
    hospital = hospital_module.Hospital("elm", ward="findings", n=30, size=64)
    # what each has, without drawing it
    found = pd.DataFrame([hospital.condition_of(i).findings() for i in range(30)])
    most = found.drop(columns="no_finding").sum(axis=1).nlargest(3).index
    urls = [hospital.url(int(i)) for i in most]
    table = (
        found.loc[most].reset_index(drop=True).assign(path=urls, url=urls, group_id=["a", "b", "b"])
    )
    table = table.reindex(columns=[*COLUMNS, "url"])
    cells, chance = np.zeros((3, 10, 8, 8), np.float32), []
    for i, url in enumerate(urls):
        for k, name in enumerate(FINDINGS):
            mask = hospital_module.finding_mask_from_url(url, name)
            for row in range(8):
                for column in range(8):
                    cells[i, k, row, column] = mask[
                        8 * row : 8 * row + 8, 8 * column : 8 * column + 8
                    ].any()
            chance += [cells[i, k].mean()] if k and table[name][i] == 1 else []
    played = findings.pointing(task, Given("logit_map", torch.from_numpy(cells)), table)
    assert (
        len(played)
        == len(chance)
        == found.loc[most].drop(columns="no_finding").to_numpy().sum()
        >= 9
    )
    assert played["hit"].eq(1).all() and played["chance"].tolist() == pytest.approx(chance)
    assert "no_finding" not in set(played["finding"]) and set(played["group_id"]) == {"a", "b"}
    turned = findings.pointing(task, Given("logit_map", -torch.from_numpy(cells)), table)
    assert turned["hit"].eq(0).all()


# the stage


def weights(folder):
    return checkpoint.load_tensors(folder / "weights.safetensors")[0]


@pytest.fixture(scope="module")
def trained(store):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(findings, "FEWEST", 2)
        yield stages.resolve(TINY, "backbone", store)


def test_the_stage_leaves_what_the_others_read(trained, table, task, store):
    split = split_parts(table)
    result, kept = (
        read_json(trained / "metrics.json"),
        store.read_table(trained / "predictions.csv"),
    )
    assert (
        result["images"] == {name: len(part) for name, part in split.items()}
        and sum(result["images"].values()) == 45
    )
    assert list(result["sites"]) == ["dogwood", "elm", "fir"]
    assert (
        sum(site["auc"]["n"] for site in result["sites"].values())
        == result["external"]["auc"]["n"]
        == len(split["external"])
    )
    assert kept["part"].value_counts().to_dict() == {
        name: len(split[name]) for name in ("val", "test", "external")
    }
    again = task.predict(task.load(trained), split["external"])
    np.testing.assert_allclose(
        again[LOGITS], kept.loc[kept["part"] == "external", LOGITS], atol=1e-5
    )
    assert [row["step"] for row in read_json(trained / "history.json")] == [2, 4, 6]
    assert set(kept.loc[kept["part"] != "external", "patient_id"]).isdisjoint(
        split["train"]["patient_id"]
    )


def test_a_stage_that_was_killed_goes_on_and_ends_the_same(trained, table, store, few, tmp_path):
    calls = []

    class Killed(FindingsTask):
        def loss(self, model, batch):
            calls.append(1)
            if len(calls) == 6:
                raise RuntimeError("power cut")
            return super().loss(model, batch)

    task = Killed(TINY, store, CPU)
    with pytest.raises(RuntimeError, match="power cut"):
        task.make(tmp_path, Inputs(table))
    assert len(calls) == 6 and not (tmp_path / "weights.safetensors").exists()
    task.make(tmp_path, Inputs(table))
    assert len(calls) == 6 + 2  # from the checkpoint of step 4
    want = weights(trained)
    assert all(torch.equal(tensor, want[name]) for name, tensor in weights(tmp_path).items())
    assert read_json(tmp_path / "metrics.json") == read_json(trained / "metrics.json")


def test_folds_evaluate_every_internal_image(table, store, few, tmp_path):
    profile = replace(TINY, folds=2, backbone_training=replace(TINY.backbone_training, steps=2))
    FindingsTask(profile, store, CPU).make(tmp_path, Inputs(table))
    internal = table[~table["external"]]
    result = read_json(tmp_path / "metrics.json")
    kept = store.read_table(tmp_path / "predictions.csv")
    assert result["folds"]["auc"]["n"] == len(internal)
    assert sorted(kept.loc[kept["part"] == "folds", "path"]) == sorted(internal["path"])


def test_validation_picks_the_step_of_the_best_auc(table, store, tmp_path):
    profile = replace(TINY, backbone_training=replace(TINY.backbone_training, eval_every=2))
    task, split = FindingsTask(profile, store, CPU), split_parts(table)
    model = task.fit(tmp_path, split["train"], split["val"])
    history = read_json(tmp_path / "history.json")
    logits = task.predict(model, split["val"])[LOGITS].to_numpy()
    best = max(row["score"] for row in history)
    assert len(history) == 3 and findings.mean_auc(
        split["val"][list(FINDINGS)].to_numpy(), logits
    ) == pytest.approx(best)


@pytest.mark.parametrize("network, stride", [("densenet", 16), ("efficientnet_lite0", 32)])
def test_on_a_frozen_backbone_the_head_alone_learns(table, store, tmp_path, network, stride):
    """Features stay to the bit, and logits of corpora are those of images."""
    backbone = replace(TINY.backbone, network=network, stride=stride, frozen=True)
    task = FindingsTask(replace(TINY, backbone=backbone), store, CPU)
    before = task.initialise().state_dict()
    model = task.fit(tmp_path, split_parts(table)["train"])
    after = model.state_dict()
    moved = {name for name in after if not torch.equal(before[name], after[name])}
    assert moved == {"head.weight", "head.bias"}
    val = split_parts(table)["val"]
    found = task.predict(model, val)[LOGITS].to_numpy()
    with torch.no_grad():
        logits = model(task.dataset(val).batch(range(len(val)))["image"])["logits"]
    np.testing.assert_allclose(found, logits.numpy(), atol=1e-5)


def test_an_unknown_backbone_is_refused_with_the_known_ones():
    unknown = replace(TINY, backbone=replace(TINY.backbone, network="vgg"))
    with pytest.raises(ValueError, match="unknown backbone.*densenet.*efficientnet_lite0"):
        FindingsTask(unknown).network()


def test_training_starts_from_the_weights_it_is_given(table, store, trained, tmp_path):
    still = replace(TINY, backbone_training=replace(TINY.backbone_training, lr=0.0, steps=1))
    start, few_images = weights(trained), table.iloc[:8].reset_index(drop=True)
    model = FindingsTask(still, store, CPU).fit(tmp_path, few_images, None, (start,))
    own = dict(model.named_parameters())
    assert all(
        torch.equal(tensor, start[name])
        for name, tensor in own.items()
        if name.startswith("features.")
    )
    # the head is new: other findings, other patients
    assert not torch.equal(own["head.weight"], start["head.weight"])


# keys


def of_backbone(profile):
    return stages.settings(profile, "backbone")


@pytest.mark.parametrize(
    "change",
    [
        {"transformer": sections.ViT(depth=1)},
        {"transformer_training": Training(steps=1)},
        {"severity_training": Training(steps=1)},
        {"choices": replace(TINY.choices, mlp_dim=2048)},
        {"lesson_minutes": 1},
        {"name": "other"},
    ],
)
def test_what_comes_after_the_backbone_leaves_its_key(change):
    assert of_backbone(replace(TINY, **change)) == of_backbone(TINY)


@pytest.mark.parametrize(
    "change",
    [
        {"image_size": 96},
        {"seed": 1},
        {"folds": 2},
        {"cohort": CohortSettings(findings=46)},
        {"backbone": replace(TINY.backbone, pool="average")},
        {"backbone_training": replace(TINY.backbone_training, steps=7)},
        {"choices": replace(TINY.choices, uncertain="ones")},
        {"choices": replace(TINY.choices, resize="pad")},
    ],
)
def test_what_the_backbone_depends_on_changes_its_key_and_that_of_what_follows(change):
    changed = replace(TINY, **change)
    assert of_backbone(changed) != of_backbone(TINY)
    assert stages.settings(changed, "diagnosis_pa")["after backbone"] == of_backbone(changed)


def test_a_start_from_the_virtual_hospitals_is_part_of_the_key():
    started = replace(TINY, seed=3, backbone=replace(TINY.backbone, initial_weights="virtual"))
    assert of_backbone(started)["start"] == of_backbone(
        replace(profiles.demo(), seed=3)
    ) and "start" not in of_backbone(TINY)
    assert of_backbone(started) != of_backbone(replace(TINY, seed=3))


def test_an_unknown_start_or_stage_is_refused_with_the_known_ones(store):
    with pytest.raises(
        ValueError, match="start of the backbone 'chexpert'.*imagenet.*random.*virtual"
    ):
        wrong = replace(TINY, backbone=replace(TINY.backbone, initial_weights="chexpert"))
        stages.resolve(wrong, "backbone", store)
    with pytest.raises(ValueError, match="stage 'spine'.*backbone"):
        stages.settings(TINY, "spine")


# committed results


def test_results_are_read_as_they_were_written(monkeypatch, tmp_path):
    monkeypatch.setattr(recorded, "FOLDER", tmp_path / "results")
    assert recorded.result_names() == []
    rows = [{"seed": 0, "pool": "pcam", "auc": 0.9}, {"seed": 1, "pool": "pcam", "auc": None}]
    recorded.write_result("seeds_backbone", rows, {"commit": "abc"})
    recorded.write_result("a", [], {})
    assert recorded.read_result("seeds_backbone") == {
        "made": {"commit": "abc"},
        "rows": rows,
    } and recorded.result_names() == ["a", "seeds_backbone"]
    with pytest.raises(FileNotFoundError, match="no result 'seeds'; there are: a, seeds_backbone"):
        recorded.read_result("seeds")
    with pytest.raises(ValueError):
        recorded.write_result("nan", [{"auc": math.nan}], {})


def test_committed_seeds_of_the_pooling_have_the_form_that_lesson_02_reads():
    if "seeds_pooling" not in recorded.result_names():
        pytest.skip("not measured yet: make seeds")
    study = recorded.read_result("seeds_pooling")
    rows = pd.DataFrame(study["rows"])
    assert (
        rows.groupby("pool")["seed"].nunique().to_dict()
        == {"average": len(rows) // 2, "pcam": len(rows) // 2}
        and len(rows) >= 6
    )
    assert rows[["auc", "hit", "hit_low", "hit_high", "chance"]].stack().between(0, 1).all() and {
        "commit",
        "command",
    } <= set(study["made"])
    hits = rows.pivot(index="seed", columns="pool", values="hit")
    gain = rows[rows["pool"] == "pcam"].set_index("seed")["gain"]
    assert (hits["pcam"] - hits["average"]).to_numpy() == pytest.approx(gain.to_numpy())
