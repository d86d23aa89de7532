"""The diagnosis task against hand-worked tables, closed forms, planted signs that must be found,
and a backbone that must not run.
"""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from cxrkit.config import profiles, sections
from cxrkit.config.choices import Choices
from cxrkit.config.vocabulary import COLUMNS, DIAGNOSES
from cxrkit.data import manifests
from cxrkit.data.datasets import split_parts
from cxrkit.pipeline import stages
from cxrkit.pipeline.run import Run
from cxrkit.simulation import cohort
from cxrkit.storage.artifacts import Store
from cxrkit.storage.atomic import read_json
from cxrkit.tasks import diagnosis
from cxrkit.tasks.diagnosis import DiagnosisTask
from cxrkit.tasks.task import Inputs
from cxrkit.training import batches, checkpoint, loop
from cxrkit.training.optimizers import lr_factor

pytestmark = pytest.mark.usefixtures("few_draws")
SIZE, PER_SITE = 64, 30
CPU = torch.device("cpu")  # weights are compared to the bit


def profile(frozen=True, **training):
    """The smallest model that can learn the planted signs."""
    steps = {
        "optimizer": "adamw",
        "lr": 3e-3,
        "batch": 8,
        "steps": 6,
        "clip": 1.0,
        "log_every": 2,
        "eval_every": 3,
    } | training
    return replace(
        profiles.demo(),
        image_size=SIZE,
        choices=Choices(augmentation="none"),
        backbone=sections.DenseNet(
            growth_rate=8, block_config=(2, 2, 2, 2), num_init_features=8, stem=1, stride=16
        ),
        transformer=sections.ViT(embed_dim=32, depth=1, num_heads=2, frozen=frozen),
        transformer_training=sections.Training(**steps),
    )


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Images of three made-up hospitals: noise, one disc for other infection, one in each lung for
    COVID-19; "far" is external.
    """
    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    y, x = np.mgrid[:SIZE, :SIZE]
    images, rows = [], []
    for i in range(3 * PER_SITE):
        name, site = DIAGNOSES[i % 3], ("near", "next", "far")[i // PER_SITE]
        image = rng.integers(40, 80, (SIZE, SIZE))
        for cx in {"normal": (), "other_infection": (16,), "covid19": (16, 46)}[name]:
            image[(y - 34) ** 2 + (x - cx) ** 2 <= 50] += 120
        images.append(image)
        rows.append(
            {
                "diagnosis": name,
                "site": site,
                "view": "PA",
                "patient_id": f"p{i}",
                "group_id": f"g{i}",
                "dataset": "made-up",
                "split": ("train", "train", "train", "val", "test")[i // 3 % 5],
                "external": site == "far",
            }
        )
    np.save(folder / "images.npy", np.stack(images).astype(np.uint8))
    table = pd.DataFrame(rows).reindex(columns=[*COLUMNS, "external"])
    return table.assign(path=[f"{folder / 'images.npy'}#{i}" for i in range(len(table))])


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return Store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def made(table, store, tmp_path_factory):
    """The finished folder of a frozen backbone."""
    folder = tmp_path_factory.mktemp("frozen")
    make(folder, profile(), table, store)
    return folder


def make(folder, settings, table, store, *initial_weights, auxiliary=None):
    """The artifact of a table, made into a folder -> its metrics."""
    inputs = Inputs(table, initial_weights, auxiliary)
    return DiagnosisTask(settings, store, CPU).make(folder, inputs)


# heads, draws


def test_heads_by_hand():
    logits, truth = (
        torch.tensor([[0.0, math.log(2), 0.0], [0.0, 0.0, math.log(3)]]),
        torch.tensor([1, 0]),
    )
    loss, probabilities = diagnosis.HEADS["softmax"]
    torch.testing.assert_close(
        probabilities(logits), torch.tensor([[0.25, 0.5, 0.25], [0.2, 0.2, 0.6]])
    )
    assert float(loss(logits, truth)) == pytest.approx(-(math.log(0.5) + math.log(0.2)) / 2)
    loss, probabilities = diagnosis.HEADS["binary"]
    torch.testing.assert_close(
        probabilities(logits), torch.tensor([[0.5, 2 / 3, 0.5], [0.5, 0.5, 0.75]])
    )
    # six logits: right with chance 1/2, 2/3, 1/2, then 1/2, 1/2, 1/4
    assert float(loss(logits, truth)) == pytest.approx(
        -sum(map(math.log, (1 / 2, 2 / 3, 1 / 2, 1 / 2, 1 / 2, 1 / 4))) / 6
    )


def test_draws_are_even_over_classes():
    table = pd.DataFrame({"diagnosis": ["normal"] * 6 + ["covid19"] * 3 + ["other_infection"]})
    weights = diagnosis.class_weights(table)
    np.testing.assert_allclose(weights, [10 / 18] * 6 + [10 / 9] * 3 + [10 / 3])
    assert weights.mean() == pytest.approx(1)
    drawn = table["diagnosis"].to_numpy()[batches.Order(len(table), 0, weights).take(0, 6000)]
    assert all(abs((drawn == name).mean() - 1 / 3) < 0.03 for name in DIAGNOSES)


def test_draws_without_balance_are_those_of_the_table():
    """Choice: every image equally often, in all or in each dataset. a has 3 images, b has 1."""
    table = pd.DataFrame(
        {
            "dataset": ["a"] * 3 + ["b"],
            "diagnosis": ["normal", "normal", "covid19", "covid19"],
            "path": list("wxyz"),
        }
    )
    np.testing.assert_array_equal(diagnosis.draw_weights(table, balance="as_they_are"), np.ones(4))
    shares = (("a", 0.6), ("b", 0.4))
    weights = diagnosis.draw_weights(table, shares, "as_they_are")
    np.testing.assert_allclose(weights, [0.8, 0.8, 0.8, 1.6])
    natural = replace(profile(), choices=Choices(class_balance="as_they_are"))
    np.testing.assert_array_equal(DiagnosisTask(natural).sample_weights(table), np.ones(4))


def test_draws_by_shares_of_datasets_are_even_over_the_classes_of_each():
    table = pd.DataFrame(
        {
            "dataset": ["a"] * 6 + ["b"] * 2 + ["c"],
            "path": range(9),
            "diagnosis": ["normal"] * 4
            + ["covid19"] * 2
            + ["normal", "other_infection", "covid19"],
        }
    )
    weights = diagnosis.draw_weights(table, (("a", 0.6), ("b", 0.4), ("c", 0.0)))
    np.testing.assert_allclose(
        weights / weights.sum(), [0.3 / 4] * 4 + [0.3 / 2] * 2 + [0.2] * 2 + [0]
    )
    np.testing.assert_allclose(diagnosis.draw_weights(table), diagnosis.class_weights(table))
    with pytest.raises(ValueError, match="no share of the draws for c"):
        diagnosis.draw_weights(table, (("a", 0.6), ("b", 0.4)))


def test_an_image_trains_only_the_classes_of_its_dataset():
    table = pd.DataFrame(
        {
            "dataset": ["a", "a", "b", "c"],
            "diagnosis": ["normal", "other_infection", "covid19", "covid19"],
        }
    )
    table.loc[4] = ["c", "normal"]
    own = diagnosis.CLASS_MASKS["own"](table)
    np.testing.assert_array_equal(own, [[1, 1, 0], [1, 1, 0], [0, 0, 1], [1, 0, 1], [1, 0, 1]])
    assert diagnosis.CLASS_MASKS["all"](table).all()
    logits = torch.tensor([[0.3, -1.0, 2.0]] * 5, requires_grad=True)
    truth = torch.tensor([0, 1, 2, 2, 0])
    masked = logits.masked_fill(~torch.tensor(own), diagnosis.EXCLUDED)
    loss = torch.nn.functional.cross_entropy(masked, truth, reduction="none")
    by_hand = [
        math.log(1 + math.exp(-1.3)),
        math.log(1 + math.exp(1.3)),
        0,
        math.log(1 + math.exp(-1.7)),
        math.log(1 + math.exp(1.7)),
    ]
    np.testing.assert_allclose(loss.detach(), by_hand, rtol=1e-5)
    loss.sum().backward()
    assert logits.grad[2].abs().max() == 0 and not logits.grad[~torch.tensor(own)].any()


def test_the_loss_of_the_task_weighs_the_classes_of_the_mask():
    """A batch as training gives it: `class_mask` beside the images, of the rows that were drawn."""
    settings = replace(profile(), sources=sections.Sources(class_mask="own"))
    task, logits = DiagnosisTask(settings), torch.tensor([[0.3, -1.0, 2.0]] * 2)
    mask = torch.tensor([[True, True, False], [True, False, True]])

    class Images:
        def __len__(self):
            return 2

        def batch(self, indices):
            at = torch.tensor(indices)
            return {"image": logits[at], "diagnosis": torch.tensor([1, 0])[at], "index": at}

    batch = diagnosis.WithClassMask(Images(), mask).batch([1, 0])
    assert torch.equal(batch["class_mask"], mask[[1, 0]])
    loss = task.loss(lambda image: {"logits": image}, batch)
    by_hand = [math.log(1 + math.exp(1.7)), math.log(1 + math.exp(1.3))]
    assert float(loss) == pytest.approx(np.mean(by_hand))


@pytest.mark.parametrize("wrong", ["pneumonia", np.nan])
def test_an_unknown_class_is_refused_by_name(table, store, tmp_path, wrong):
    changed = table.assign(diagnosis=table["diagnosis"].where(table.index != 4, wrong))
    with pytest.raises(ValueError, match=f"unknown diagnosis {wrong}; known: .*'covid19'"):
        make(tmp_path, profile(), changed, store)


def test_a_class_without_training_images_is_refused_by_name(table, store, tmp_path):
    gone = table[(table["diagnosis"] != "covid19") | (table["split"] != "train")].reset_index(
        drop=True
    )
    with pytest.raises(ValueError, match="no training image is covid19"):
        make(tmp_path, profile(), gone, store)
    assert not any(tmp_path.iterdir())


# evaluation


def predicted(diagnoses, p_covid, site="near"):
    """A table as `predict` leaves it, a patient an image: what is not COVID-19 is shared by the
    other two, a little more for the true one.
    """
    table = pd.DataFrame(
        {"diagnosis": diagnoses, "p_covid19": np.array(p_covid, float), "site": site}
    )
    tilt = table["diagnosis"].map({"normal": 0.3, "other_infection": -0.3, "covid19": 0.0})
    table["p_normal"], table["p_other_infection"] = (
        (1 - table["p_covid19"]) * (0.5 + tilt),
        (1 - table["p_covid19"]) * (0.5 - tilt),
    )
    return table.assign(group_id=[f"{site}{i}" for i in range(len(table))])


VAL = predicted(
    ["covid19"] * 5 + ["normal", "other_infection"] * 2,
    [0.9, 0.8, 0.7, 0.6, 0.1, 0.65, 0.3, 0.2, 0.1],
)
FAR = predicted(
    ["covid19"] * 5 + ["normal", "other_infection"] * 2,
    [0.7, 0.62, 0.5, 0.4, 0.3, 0.61, 0.35, 0.2, 0.1],
    "far",
)


def test_the_operating_point_is_carried_from_validation():
    """Four of five images of COVID-19 reach 0.6 on validation; at the other hospital only two do,
    and 0.4 would have been needed.
    """
    found = diagnosis.report({"val": VAL, "external": FAR}, Choices())
    val, far = found["val"]["classes"]["covid19"], found["sites"]["far"]["classes"]["covid19"]
    assert [val[what] for what in ("threshold", *diagnosis.RATES)] == pytest.approx(
        [0.6, 0.8, 0.75, 7 / 9]
    )
    assert [far[what] for what in ("threshold", *diagnosis.RATES)] == pytest.approx(
        [0.6, 0.4, 0.75, 5 / 9]
    )
    assert list(found["sites"]) == ["far"]
    assert found["sites"]["far"]["n"] == {"normal": 2, "other_infection": 2, "covid19": 5}
    # 4 negatives: pairs won by each
    assert far["auc"]["value"] == pytest.approx((4 + 4 + 3 + 3 + 2) / 20) and far["auc"]["n"] == 5


def test_the_optimistic_choice_stands_beside_and_is_taken_where_choice_18_says_so():
    carried = diagnosis.report({"val": VAL, "external": FAR}, Choices())["external"]
    text = diagnosis.report({"val": VAL, "external": FAR}, Choices.text())["external"]
    assert (
        text["classes"]["covid19"]["threshold"] == pytest.approx(0.4)
        and text["classes"]["covid19"]["sensitivity"] == 0.8
    )
    assert (
        {what: text[what] for what in diagnosis.RATES}
        == text["optimistic"]
        == carried["optimistic"]
    )
    assert carried["sensitivity"]["value"] < text["sensitivity"]["value"] >= diagnosis.SENSITIVITY
    by_class = [carried["classes"][name] for name in DIAGNOSES]
    for what in diagnosis.RATES:
        assert carried[what]["value"] == pytest.approx(np.mean([one[what] for one in by_class]))
        assert carried[what]["low"] <= carried[what]["value"] <= carried[what]["high"]
    assert carried["auc"]["value"] == pytest.approx(
        np.mean([one["auc"]["value"] for one in by_class])
    )


def test_calibration_is_that_of_the_answer():
    sure = predicted(["covid19"] * 4, [0.9] * 4).assign(
        diagnosis=["covid19", "covid19", "covid19", "normal"]
    )
    assert diagnosis.scores(sure, None, Choices())["ece"] == pytest.approx(0.9 - 0.75)


@pytest.mark.parametrize("head", ["softmax", "binary"])
def test_the_temperature_takes_back_what_made_the_model_too_sure(head):
    rng = np.random.default_rng(0)
    logits = torch.from_numpy(rng.normal(size=(4000, 3)))
    honest = diagnosis.HEADS[head][1](logits).numpy()
    if head == "softmax":
        truth = np.array([rng.choice(3, p=row) for row in honest])
    else:  # of binary answers those films remain that have exactly one class
        drawn = rng.random(honest.shape) < honest
        logits, drawn = logits[drawn.sum(1) == 1], drawn[drawn.sum(1) == 1]
        truth = drawn.argmax(1)
    names = [diagnosis.DIAGNOSES[code] for code in truth]
    sure = diagnosis.HEADS[head][1](3 * logits).numpy()
    table = pd.DataFrame(sure, columns=diagnosis.PROBABILITIES).assign(diagnosis=names)
    temperature = diagnosis.fit_temperature(table, head)
    after = diagnosis.calibrated(table, temperature, head)
    p, q = table[diagnosis.PROBABILITIES].to_numpy(), after[diagnosis.PROBABILITIES].to_numpy()
    np.testing.assert_array_equal(p.argmax(1), q.argmax(1))
    if head == "softmax":
        assert temperature == pytest.approx(3, rel=0.1)
        np.testing.assert_allclose(q, diagnosis.HEADS[head][1](logits * 3 / temperature), atol=1e-4)
        assert diagnosis.calibration_error(table) > 0.1 > 0.03 > diagnosis.calibration_error(after)
    else:  # one class of three excludes the others, so the honest logits are not the best
        assert temperature > 1.5
    unchanged = diagnosis.calibrated(table, 1.0, head)[diagnosis.PROBABILITIES]
    np.testing.assert_allclose(unchanged, p, atol=1e-5)


def test_a_report_calibrates_on_validation_alone():
    found = diagnosis.report({"val": VAL, "external": FAR}, Choices())
    temperature = diagnosis.fit_temperature(VAL, "softmax")
    assert found["temperature"] == temperature
    expected = diagnosis.calibration_error(diagnosis.calibrated(FAR, temperature, "softmax"))
    assert (
        found["external"]["ece_calibrated"] == found["sites"]["far"]["ece_calibrated"] == expected
    )
    assert "temperature" not in diagnosis.report({"external": FAR}, Choices())


def test_a_site_without_a_class_has_no_number_for_it_and_none_is_invented():
    covid_only = diagnosis.report(
        {"val": VAL, "external": FAR[FAR["diagnosis"] == "covid19"]}, Choices()
    )["sites"]["far"]
    assert covid_only["auc"]["value"] is None and covid_only["sensitivity"]["value"] is None
    assert (
        covid_only["classes"]["normal"]["sensitivity"] is None
        and covid_only["classes"]["covid19"]["sensitivity"] == 0.4
    )
    blind = diagnosis.report(
        {"val": VAL[VAL["diagnosis"] != "covid19"], "external": FAR}, Choices()
    )["sites"]["far"]
    # nothing to carry
    assert [blind["classes"]["covid19"][what] for what in ("threshold", *diagnosis.RATES)] == [
        None
    ] * 4


def test_thresholds_move_between_hospitals():
    rates = diagnosis.transfer(pd.concat([VAL, FAR], ignore_index=True))
    assert rates.loc["near", "far"] == pytest.approx(0.4) and rates.loc[
        "far", "near"
    ] == pytest.approx(0.8)
    assert (np.diag(rates) >= diagnosis.SENSITIVITY).all()
    assert np.isnan(
        diagnosis.transfer(pd.concat([VAL, FAR[FAR["diagnosis"] == "normal"]]))["far"]
    ).all()


# training


class Watched(DiagnosisTask):
    """Keeps the weights before the training, and counts the images that the backbone saw."""

    def network(self):
        model = super().network()
        self.before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        self.passes = 0
        model.features.register_forward_hook(self._count)
        return model

    def _count(self, module, inputs, output):
        self.passes += len(output)


def run(table, store, folder, settings, kind=Watched):
    """A fresh model, trained -> (state before, model, count of images that the backbone saw)."""
    task, parts = kind(settings, store, CPU), split_parts(table)
    model = task.fit(folder, parts["train"], parts["val"])
    return task.before, model, task.passes


def test_a_frozen_backbone_sees_every_image_once_and_stays_to_the_bit(table, store, tmp_path):
    counts = table[~table["external"]]["split"].value_counts()
    own = Store(tmp_path / "store")
    before, model, passes = run(table, own, tmp_path / "6", profile(steps=6))
    assert passes == counts["train"] + counts["val"], "whatever the number of steps"
    assert run(table, own, tmp_path / "12", profile(steps=12))[2] == 0, "and never again"
    after = model.state_dict()
    assert any("running_mean" in name for name in after)
    assert all(
        torch.equal(before[name], after[name]) for name in after if name.startswith("features.")
    )
    assert not torch.equal(before["transformer.head.weight"], after["transformer.head.weight"])


def test_a_trained_backbone_moves_and_sees_every_step(table, store, tmp_path):
    before, model, passes = run(
        table, store, tmp_path, profile(frozen=False, steps=3, eval_every=0)
    )
    after = model.state_dict()
    assert passes == 3 * 8
    assert not torch.equal(before["features.conv0.weight"], after["features.conv0.weight"])
    assert not torch.equal(
        before["features.norm0.running_mean"], after["features.norm0.running_mean"]
    )


def test_frozen_training_is_the_same_from_corpus_and_from_image(table, store, tmp_path):
    """The corpus is what the backbone would have given at every step."""
    settings = profile(steps=4, eval_every=0)
    _, fast, _ = run(table, store, tmp_path / "corpus", settings)
    task = DiagnosisTask(settings, store, CPU)
    slow = task.initialise()
    assert not any(weight.requires_grad for weight in slow.features.parameters())
    train = split_parts(table)["train"]
    loop.fit(
        slow,
        lambda model, batch: diagnosis.HEADS["softmax"][0](
            model(batch["image"])["logits"], batch["diagnosis"]
        ),
        task.dataset(train),
        settings.transformer_training,
        seed=0,
        device=CPU,
        sample_weights=diagnosis.class_weights(train),
    )
    for name, tensor in slow.state_dict().items():
        torch.testing.assert_close(fast.state_dict()[name], tensor, rtol=1e-3, atol=1e-4)


@pytest.mark.integration
@pytest.mark.parametrize("head", ["softmax", "binary"])
def test_it_learns_the_planted_signs_for_a_hospital_never_seen(table, store, tmp_path, head):
    # the learning rate falls to 0: at its height the result hangs on the last steps, 0.81 to 1.00
    settings = profile(frozen=False, steps=120, eval_every=0, schedule="cosine", warmup=10)
    settings = replace(settings, choices=replace(settings.choices, class_head=head))
    make(tmp_path, settings, table, store)
    assert read_json(tmp_path / "metrics.json")["sites"]["far"]["auc"]["value"] > 0.9


def test_the_gradient_is_clipped_at_norm_1(table, store, tmp_path, monkeypatch):
    seen, clip = [], torch.nn.utils.clip_grad_norm_

    def watched(weights, most):
        weights = list(weights)
        before = clip(weights, most)
        seen.append(
            (
                float(before),
                math.sqrt(sum(float(w.grad.square().sum()) for w in weights if w.grad is not None)),
            )
        )
        return before

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", watched)
    run(table, store, tmp_path, profile(frozen=False, steps=3, eval_every=0))
    assert len(seen) == 3 and any(before > 1 for before, _ in seen)
    assert all(after == pytest.approx(min(before, 1), rel=1e-3) for before, after in seen)


# folders


def test_a_finished_folder_holds_what_it_says(made, table, store):
    found, kept = read_json(made / "metrics.json"), store.read_table(made / "predictions.csv")
    parts = split_parts(table)
    assert found["images"] == {name: len(part) for name, part in parts.items()}
    assert list(found["sites"]) == ["far"] and found["sites"]["far"]["auc"]["n"] == PER_SITE
    np.testing.assert_allclose(kept[diagnosis.PROBABILITIES].sum(axis=1), 1, atol=1e-5)
    assert kept["part"].value_counts().to_dict() == {
        name: len(part) for name, part in parts.items() if name != "train"
    }
    history = pd.DataFrame(read_json(made / "history.json"))
    assert history["step"].tolist() == [2, 3, 4, 6] and history["score"].notna().tolist() == [
        False,
        True,
        False,
        True,
    ]
    task = DiagnosisTask(profile(), store, CPU)
    again = task.predict(task.load(made), kept)
    np.testing.assert_allclose(
        again[diagnosis.PROBABILITIES], kept[diagnosis.PROBABILITIES], atol=1e-6
    )
    assert sorted(path.name for path in made.iterdir()) == [
        "history.json",
        "metrics.json",
        "predictions.csv",
        "weights.safetensors",
    ]


def test_it_begins_with_the_backbone_that_it_is_given(table, store, tmp_path, made):
    given = {
        name: 1.5 * tensor if tensor.is_floating_point() else tensor
        for name, tensor in checkpoint.load_tensors(made / "weights.safetensors")[0].items()
    }
    make(tmp_path, profile(), table, store, given)
    after = checkpoint.load_tensors(tmp_path / "weights.safetensors")[0]
    assert all(
        torch.equal(after[name], given[name]) for name in given if name.startswith("features.")
    )


@pytest.mark.parametrize("frozen", [True, False])
def test_an_interrupted_training_goes_on_to_the_same_weights(
    table, store, tmp_path, monkeypatch, frozen
):
    settings = profile(frozen, checkpoint_every=2)
    make(tmp_path / "whole", settings, table, store)
    update = loop.TrainingRun.update

    def killed(self, source):
        if self.step == 5:
            raise RuntimeError("killed")
        update(self, source)

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="killed"):
        patch.setattr(loop.TrainingRun, "update", killed)
        make(tmp_path / "again", settings, table, store)
    assert not (tmp_path / "again" / "metrics.json").exists()
    make(tmp_path / "again", settings, table, store)
    whole, again = (
        checkpoint.load_tensors(tmp_path / name / "weights.safetensors")[0]
        for name in ("whole", "again")
    )
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    assert read_json(tmp_path / "whole" / "metrics.json") == read_json(
        tmp_path / "again" / "metrics.json"
    )


@pytest.mark.integration
def test_the_stages_on_a_tiny_virtual_cohort(tmp_path):
    """From nothing to the metrics of both views: cohort, backbone, corpus ViT."""
    quick = sections.Training("adamw", lr=1e-3, batch=8, steps=2, log_every=1)
    settings = replace(
        profile(),
        cohort=sections.CohortSettings(findings=12, diagnosis=60, severity=0, size=SIZE),
        backbone_training=quick,
        transformer_training=quick,
    )
    store, found = Store(tmp_path), {}
    store.load_or_make(
        "cohort",
        stages.settings(settings, "cohort"),
        # starting processes takes longer
        lambda folder: cohort.draw_cohort(folder, settings.cohort, settings.seed, workers=1),
    )
    everything = Run(settings, store.root)
    for view in ("PA", "AP"):
        folder = stages.resolve(settings, f"diagnosis_{view.lower()}", store)
        found[view] = read_json(folder / "metrics.json")
        assert list(found[view]["sites"]) == ["dogwood", "elm", "fir"]
        assert everything.diagnosis(view).metrics == found[view]
    images = everything.images("diagnosis")
    assert sum(sum(one["images"].values()) for one in found.values()) == len(images) == 60
    with pytest.raises(ValueError, match="unknown view 'lateral'"):
        everything.diagnosis("lateral")


# the paper


def test_the_papers_schedule_at_five_steps():
    """Linear to step 500, then half a cosine to 10,000 (section 4)."""
    training = profiles.paper().transformer_training
    assert (
        training.optimizer,
        training.lr,
        training.momentum,
        training.clip,
        training.batch,
        training.steps,
    ) == ("sgd", 1e-3, 0.9, 1.0, 16, 10_000)
    expected = {
        0: 1 / 500,
        249: 0.5,
        500: 1.0,
        5250: 0.5,
        9999: 0.5 * (1 + math.cos(math.pi * 9499 / 9500)),
    }
    for step, factor in expected.items():
        assert lr_factor(step, training) == pytest.approx(factor, abs=1e-12)


@pytest.mark.slow
def test_two_true_size_steps(table, store, tmp_path):
    """DenseNet-121 and ViT-B at 512 px, end to end, with the paper's optimiser; only the batch is
    small.
    """
    paper = profiles.paper()
    settings = replace(
        paper,
        transformer_training=replace(paper.transformer_training, batch=2, steps=2, log_every=1),
    )
    before, model, _ = run(table, store, tmp_path, settings)
    assert sum(p.numel() for p in model.parameters()) == 92_997_507
    history = read_json(tmp_path / "history.json")
    assert [row["step"] for row in history] == [1, 2] and all(
        math.isfinite(row["loss"]) for row in history
    )
    assert [row["lr"] for row in history] == pytest.approx([1e-3 / 500, 2e-3 / 500])
    after = model.state_dict()
    assert all(torch.isfinite(tensor).all() for tensor in after.values())
    for name in (
        "features.conv0.weight",
        "features.denseblock4.denselayer16.conv2.weight",
        "transformer.blocks.0.attn.qkv.weight",
    ):
        assert not torch.equal(before[name], after[name])


def tied(table):
    """The made-up images with source and class tied: "left" has no COVID-19, "right" nothing else;
    both views.
    """
    covid = table["diagnosis"] == "covid19"
    return table.assign(
        dataset=np.where(table["external"], "apart", np.where(covid, "right", "left")),
        view=["PA", "AP"] * (len(table) // 2),
    )


def test_auxiliary_images_train_beside_a_tied_source_whose_patients_other_folds_predict(
    table, store, tmp_path
):
    sources = sections.Sources(
        shares=(("left", 1.0), ("right", 0.0), ("auxiliary", 1.0)), class_mask="own"
    )
    settings = replace(profile(steps=4), folds=2, sources=sources)
    own = tied(table)
    auxiliary = table[table["external"]].assign(dataset="auxiliary", external=False)
    task, inputs = DiagnosisTask(settings, store, CPU), Inputs(own, (), auxiliary)
    result = task.make(tmp_path, inputs)
    assert result["images"]["train"] == len(own[(own["split"] == "train") & ~own["external"]]), (
        "auxiliary images are not counted as own"
    )
    inner = own[~own["external"]].reset_index(drop=True)
    fold = inner["group_id"].map(lambda group: manifests.fold_of(group, 2)).to_numpy()
    folds = task.cross_validate(tmp_path, inner, fold, inputs)
    assert sorted(folds["path"]) == sorted(inner["path"])
    for k in (0, 1):
        model = task.load(tmp_path / f"fold{k}")
        mine = folds[folds["fold"] == k].reset_index(drop=True)
        again = task.predict(model, mine)
        np.testing.assert_allclose(
            mine[diagnosis.PROBABILITIES], again[diagnosis.PROBABILITIES], atol=1e-5
        )


def test_a_view_takes_its_images_from_the_model_of_both(table, store, tmp_path):
    whole, part = tmp_path / "whole", tmp_path / "part"
    part.mkdir()
    result = make(whole, profile(), tied(table), store)
    diagnosis.take_view(part, store, "AP", whole, profile().choices)
    taken = store.read_table(part / "predictions.csv")
    assert (
        set(taken["view"]) == {"AP"}
        and (part / "weights.safetensors").read_bytes()
        == (whole / "weights.safetensors").read_bytes()
    )
    found = read_json(part / "metrics.json")
    own = taken[taken["external"]]
    assert found["external"]["n"] == own["diagnosis"].value_counts().to_dict() and found["images"][
        "external"
    ] == len(own)
    assert sum(found["external"]["n"].values()) < sum(result["external"]["n"].values())
    assert found["temperature"] == result["temperature"], "one network has one temperature"


def test_log_ratio_by_hand():
    p = [[0.2, 0.4, 0.4], [0.5, 0.25, 0.25], [0.0, 1.0, 0.0]]
    np.testing.assert_allclose(
        diagnosis.log_ratio(p, "other_infection", "normal"),
        [np.log(2), -np.log(2), -np.log(diagnosis.SMALLEST_PROBABILITY)],
    )
    np.testing.assert_allclose(
        diagnosis.log_ratio(p, "covid19", "other_infection"),
        [0, 0, np.log(diagnosis.SMALLEST_PROBABILITY)],
    )


def test_covid_against_other_leaves_normal_images_out():
    truth = np.array([0, 1, 2, 2, 1])
    p = np.array(
        [[0.9, 0, 0.1], [0.5, 0.3, 0.2], [0.2, 0.1, 0.7], [0.8, 0.15, 0.05], [0.4, 0.1, 0.5]]
    )
    # COVID-19 over other infection: 7 and 1/3 of the two with it, 2/3 and 5 of the others
    assert diagnosis.covid_against_other(truth, p) == 0.5
    np.testing.assert_equal(diagnosis.covid_against_other(truth[:2], p[:2]), np.nan)
