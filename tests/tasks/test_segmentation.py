"""The segmenter's task on made-up chests: which images train, which are evaluated, and that no
abnormal mask is looked at.
"""

import json
from dataclasses import replace
from functools import partial

import cv2
import numpy as np
import pandas as pd
import pytest
import torch

from cxrkit.config import profiles, sections
from cxrkit.config.sections import Segmenter, Training
from cxrkit.config.vocabulary import COLUMNS, ZONES
from cxrkit.pipeline import stages
from cxrkit.storage.artifacts import Store
from cxrkit.tasks import segmentation
from cxrkit.tasks.segmentation import SegmentationTask
from cxrkit.tasks.task import Inputs
from cxrkit.training import loop

pytestmark = pytest.mark.usefixtures("few_draws")
SIZE = 32
CPU = torch.device("cpu")  # weights are compared to the bit
QUICK = Training("adam", lr=2e-3, batch=4, steps=2, log_every=1)
TINY = replace(
    profiles.demo(),
    image_size=SIZE,
    segmenter_training=QUICK,
    student_training=QUICK,
    unet_training=QUICK,
    segmenter=Segmenter(
        size=SIZE,
        widths=(4, 6, 8),
        discriminator_widths=(4, 6),
        unet_widths=(6, 8, 12),
        hidden=8,
        residual=True,
    ),
)


def chest(rng, ill):
    """A bright image with two dark lungs; an ill one has half of a lung as bright as the rest."""
    image, mask = np.full((SIZE, SIZE), 180.0), np.zeros((SIZE, SIZE), np.uint8)
    top, bottom = rng.integers(5, 9), rng.integers(23, 27)
    mask[top:bottom, 4:14], mask[top:bottom, 18:28] = 255, 255
    image[mask > 0] = 60
    if ill:
        image[top : (top + bottom) // 2, 4:14] = 180
    return (image + rng.normal(0, 8, image.shape)).clip(0, 255).astype(np.uint8), mask


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """20 images of 20 patients: every second is ill, the last six are of an external site."""
    folder, rng, rows = tmp_path_factory.mktemp("chests"), np.random.default_rng(0), []
    for i in range(20):
        image, mask = chest(rng, ill=i % 2)
        cv2.imwrite(str(folder / f"{i}.png"), image)
        cv2.imwrite(str(folder / f"{i}_mask.png"), mask)
        rows.append(
            {
                "path": str(folder / f"{i}.png"),
                "lung_mask": str(folder / f"{i}_mask.png"),
                "dataset": "made",
                "site": "a" if i < 14 else "b",
                "group_id": f"p{i}",
                "external": i >= 14,
                "split": "train" if i < 8 else "val" if i < 10 else "test",
                "diagnosis": "covid19" if i % 2 else "normal",
                **dict.fromkeys(ZONES, float(i % 2)),
            }
        )
    whole = pd.DataFrame(rows)
    missing = [c for c in COLUMNS if c not in whole]
    return pd.concat([whole, pd.DataFrame(np.nan, whole.index, missing)], axis=1).astype(
        {"lesion_mask": object}
    )


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return Store(tmp_path_factory.mktemp("store"))


def test_roles_follow_split_site_and_diagnosis(table):
    roles = segmentation.assign_roles(TINY, table)["role"]
    assert list(roles) == ["normal", "abnormal"] * 4 + ["val"] * 2 + ["test"] * 10


def test_a_patient_who_trains_is_not_evaluated_and_an_unmasked_one_may_train(table):
    """Real images: Brixia sum <= 3 trains the segmentation; images without a mask are the abnormal
    ones, unless their patient is evaluated.
    """
    changed = table.copy()
    changed.loc[:, [c for c in COLUMNS if c.startswith("brixia_")]] = 0.0
    changed.loc[1:, "brixia_A"] = 3.0
    changed.loc[2:, "brixia_B"] = 1.0
    changed.loc[[3, 5, 7], "lung_mask"] = np.nan
    # p4 has a mask and does not train: it will be evaluated, so its image 5 trains nothing
    changed.loc[5, "group_id"] = "p4"
    changed.loc[6, "group_id"] = "p0"  # p0 trains: its image 6 is not evaluated
    profile = replace(
        TINY,
        segmenter=replace(
            TINY.segmenter,
            normal="brixia <= 3",
            abnormal="lung_mask.isna() and diagnosis == 'covid19'",
        ),
    )
    roles = segmentation.assign_roles(profile, changed)["role"]
    assert list(roles[:8]) == ["normal", "normal", "test", "abnormal", "test", "", "", "abnormal"]


def test_a_domain_without_images_is_refused(table):
    profile = replace(TINY, segmenter=replace(TINY.segmenter, normal="diagnosis == 'nobody'"))
    with pytest.raises(ValueError, match="0 patients with a normal mask"):
        segmentation.assign_roles(profile, table)


def task_of(store, profile=TINY):
    return SegmentationTask(profile, store, CPU)


def pairs_of(table, store, profile=TINY):
    roles = segmentation.assign_roles(profile, table)
    domains = [
        task_of(store, profile).dataset(roles[roles["role"] == name])
        for name in ("abnormal", "normal")
    ]
    return segmentation.Pairs(*domains)


def test_pairs_never_give_an_abnormal_mask(table, store):
    batch = pairs_of(table, store).batch([0, 1, 2])
    assert set(batch) == {"abnormal", "normal", "lung_mask"}
    lung = batch["lung_mask"] == 255
    # dark all over: these are the masks of the normal images
    assert (batch["normal"][:, 0][lung] < 0).all()


def test_stage_one_does_not_depend_on_the_masks_of_abnormal_images(table, store, tmp_path):
    changed = table.copy()
    changed.loc[changed["diagnosis"] == "covid19", "lung_mask"] = table["lung_mask"][0]
    losses = []
    for rows in (table, changed):
        torch.manual_seed(0)
        nets = segmentation.build_translator(TINY)
        batch = pairs_of(rows, store).batch([0, 1])
        losses.append(float(segmentation.adaptation_loss(TINY, nets, batch)["loss"].detach()))
    assert losses[0] == losses[1]


def test_the_losses_are_weighted_as_the_profile_says(table, store):
    batch = pairs_of(table, store).batch([0, 1])

    def loss(**weights):
        torch.manual_seed(3)
        nets = segmentation.build_translator(TINY)
        torch.manual_seed(4)
        return segmentation.adaptation_loss(
            replace(TINY, segmenter=replace(TINY.segmenter, diversity=0.0, r1=0.0, **weights)),
            nets,
            batch,
        )

    parts, base = loss(), float(loss()["loss"].detach())
    for weight, name in (("segment", "lungs"), ("style", "style"), ("cycle", "cycle")):
        more = float(loss(**{weight: getattr(TINY.segmenter, weight) + 1})["loss"].detach())
        assert more - base == pytest.approx(float(parts[name].detach()), rel=1e-3)


def test_diversity_falls_to_zero(table, store):
    batch, profile = (
        pairs_of(table, store).batch([0, 1]),
        replace(TINY, segmenter=replace(TINY.segmenter, r1=0.0)),
    )

    def loss(profile, step):
        torch.manual_seed(3)
        nets = segmentation.build_translator(profile)
        nets.step += step
        torch.manual_seed(4)
        return float(segmentation.adaptation_loss(profile, nets, batch)["loss"])

    none = loss(replace(profile, segmenter=replace(profile.segmenter, diversity=0.0)), 0)
    full, half, end = (none - loss(profile, step) for step in (0, 1, 2))  # of two steps
    assert (
        full > 0 and half == pytest.approx(full / 2, rel=1e-2) and end == pytest.approx(0, abs=1e-6)
    )


def test_without_translation_the_teacher_sees_the_image_as_it_is(table, store):
    plain = replace(TINY, segmenter=replace(TINY.segmenter, translate=False))
    nets, image = segmentation.build_translator(plain), torch.randn(2, 1, SIZE, SIZE)
    direct = segmentation.direct_logits(nets, image)
    torch.testing.assert_close(direct, nets.generator(image)["logits"])
    torch.testing.assert_close(segmentation.teacher_logits(plain, nets, image), direct)
    assert not torch.allclose(segmentation.teacher_logits(TINY, nets, image), direct)
    assert set(segmentation.adaptation_loss(plain, nets, pairs_of(table, store).batch([0]))) == {
        "loss",
        "lungs",
    }


def test_the_student_segments_in_use_as_it_did_in_training(table, store):
    """The trap of the public fork: another style code in evaluation than in training. The code of
    training is the self code.
    """
    torch.manual_seed(0)
    nets = segmentation.build_translator(TINY).eval()
    task = task_of(store)
    student = task.network()
    torch.nn.init.normal_(student.self_code)
    test = task.test_images(segmentation.assign_roles(TINY, table))
    image = task.dataset(test).batch(range(len(test)))["image"]
    with torch.no_grad():
        # about half of the pixels are lung
        student.to_mask.bias -= student(image, self_code=True)["logits"].mean()
    logits = student(image, self_code=True)["logits"]
    loss = segmentation.student_loss(TINY, nets, student, {"abnormal": image, "normal": image})
    torch.testing.assert_close(
        loss["abnormal"], (logits - segmentation.teacher_logits(TINY, nets, image)).abs().mean()
    )
    torch.testing.assert_close(loss["loss"], 10 * loss["abnormal"] + loss["normal"])
    segmented = task.segment(student, test)
    np.testing.assert_array_equal(
        segmented, [segmentation.to_mask(one[0].detach().numpy(), SIZE) for one in logits]
    )
    other = task.masks(student, logits_of, test, SIZE)
    assert (segmented != other).any()


def logits_of(model, image):
    return model(image)["logits"]


def test_a_unet_learns_the_planted_lungs(table, store, tmp_path):
    """Trained on normal images alone it segments normal lungs, and leaves out what is as bright as
    the chest wall.
    """
    profile = replace(TINY, unet_training=replace(QUICK, lr=1e-2, batch=8, steps=60))
    task, roles = task_of(store, profile), segmentation.assign_roles(profile, table)
    model = task.fit(tmp_path, roles[segmentation.unet_rows(roles)["unet_normal"]])
    test = roles[roles["role"] == "test"].reset_index(drop=True)
    agreement = task.compare(model, logits_of, test)
    by = agreement.groupby("diagnosis")[["dice", "dice_right", "dice_left"]].mean()
    assert by.loc["normal", "dice"] > 0.9 and by.loc["covid19", "dice_left"] > 0.85
    assert by.loc["covid19", "dice_right"] < by.loc["normal", "dice_right"] - 0.1


def test_a_stage_is_made_cut_off_and_gone_on_with(table, store, tmp_path, monkeypatch):
    task = task_of(store)
    task.make(tmp_path / "whole", Inputs(table))
    fit, calls = loop.fit, []

    def cut_off(*args, **options):
        calls.append(options["folder"].name)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return fit(*args, **options)

    monkeypatch.setattr(loop, "fit", cut_off)
    with pytest.raises(KeyboardInterrupt):
        task.make(tmp_path / "cut", Inputs(table))
    task.make(tmp_path / "cut", Inputs(table))
    one, two = ((tmp_path / name / "weights.safetensors").read_bytes() for name in ("whole", "cut"))
    assert one == two
    result = json.loads((tmp_path / "whole" / "metrics.json").read_text())
    assert result["images"] == {"test": 10, "normal": 4, "abnormal": 4, "val": 2, "evaluated": 10}
    assert result["output_network"] == TINY.segmenter.output_network
    assert set(result["external"]) == {
        "student",
        "teacher",
        "direct",
        "unet_normal",
        "unet_both",
        "gain",
        "headroom",
    }
    assert list(result["sites"]) == ["b"]
    assert result["external"]["student"]["abnormal"]["dice"]["n"] == 3
    loaded = [task.load(tmp_path / "whole", name) for name in segmentation.NETWORKS]
    loaded.append(task.load_teacher(tmp_path / "whole"))
    assert not any(model.training for model in loaded)


@pytest.mark.parametrize("name", ["student", "unet_both"])
def test_the_output_network_is_that_of_the_profile(table, store, tmp_path, name):
    profile = replace(
        TINY, segmenter=replace(TINY.segmenter, output_network=name, max_eval_images=1)
    )
    task = task_of(store, profile)
    task.make(tmp_path, Inputs(table))
    image = torch.randn(1, 1, SIZE, SIZE)
    output, others = task.load(tmp_path).segment(image), set(segmentation.NETWORKS) - {name}
    assert torch.equal(output, task.load(tmp_path, name).segment(image))
    assert not any(
        torch.equal(output, task.load(tmp_path, other).segment(image)) for other in others
    )


def test_an_unknown_network_is_refused_before_the_training(table, store, tmp_path):
    with pytest.raises(ValueError, match="unet_both"):
        wrong = replace(TINY, segmenter=replace(TINY.segmenter, output_network="teacher"))
        task_of(store, wrong).make(tmp_path, Inputs(table))
    assert not list(tmp_path.iterdir())


def test_virtual_images_train_only_the_second_unet_and_by_their_share(
    table, store, tmp_path, monkeypatch
):
    """12 own images of which 4 normal ones train, 8 virtual ones: a virtual share of 0.75 is 0.75 /
    8 for each of these.
    """
    profile = replace(
        TINY,
        segmenter=replace(
            TINY.segmenter,
            virtual=0.75,
            normal="diagnosis == 'normal'",
            abnormal="lung_mask.isna() and diagnosis == 'covid19'",
        ),
    )
    own, auxiliary = table[:12].copy(), table[12:].assign(external=False, split="train")
    own.loc[own["diagnosis"] == "covid19", "lung_mask"] = np.nan
    asked = {}
    fit = loop.fit

    def spy(model, loss, dataset, training, **options):
        asked[options["folder"].name] = (len(dataset), options.get("sample_weights"))
        return fit(model, loss, dataset, training, **options)

    monkeypatch.setattr(loop, "fit", spy)
    task_of(store, profile).make(tmp_path, Inputs(own, auxiliary=auxiliary))
    assert (
        asked["unet_normal"][0] == 4
        and asked["unet_normal"][1] is None
        and asked["teacher"][0] == 4
    )
    count, weights = asked["unet_both"]
    assert count == 12 and weights == pytest.approx([0.25 / 4] * 4 + [0.75 / 8] * 8)
    predictions = store.read_table(tmp_path / "predictions.csv")
    assert set(predictions["path"]) <= set(own["path"])


def test_datasets_are_drawn_evenly_however_many_images_they_have():
    table = pd.DataFrame({"dataset": ["a"] * 2 + ["b"] * 6, "role": "normal"})
    weights = segmentation.unet_sample_weights(TINY, table)
    assert weights == pytest.approx([0.5 / 2] * 2 + [0.5 / 6] * 6)
    assert segmentation.unet_sample_weights(TINY, table[:2]) is None


def test_a_mirrored_image_has_the_mirrored_mask():
    torch.manual_seed(0)
    model, image = segmentation.build_unet(TINY).eval(), torch.randn(1, 1, SIZE, SIZE)
    mirrored = partial(segmentation.lung_logits, model, mirror=True)
    once, both = model.segment(image), mirrored(image)
    torch.testing.assert_close(segmentation.lung_logits(model, image), once)
    torch.testing.assert_close(both, mirrored(image.flip(-1)).flip(-1))
    assert not torch.allclose(once, model.segment(image.flip(-1)).flip(-1))


def test_the_stage_is_named_by_what_it_reads():
    demo = profiles.demo()
    again = stages.settings(replace(demo, transformer=sections.ViT(depth=9)), "segmenter")
    assert again == stages.settings(demo, "segmenter")
    changed = replace(demo, segmenter=replace(demo.segmenter, cycle=9.0))
    assert stages.settings(changed, "segmenter") != again
    auxiliary = replace(demo, segmenter=replace(demo.segmenter, virtual=0.5))
    found = stages.settings(auxiliary, "segmenter")["virtual"]
    assert found == stages.settings(demo, "cohort")


def test_masks_come_at_the_size_asked_for(table, store):
    task = task_of(store)
    test = task.test_images(segmentation.assign_roles(TINY, table))
    masks = task.masks(task.network(), segmentation.lung_logits, test, 48)
    assert masks.shape == task.segment(task.network(), test, 48).shape == (len(test), 48, 48)
