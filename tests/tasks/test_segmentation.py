"""The segmenter's task on made-up chests: who teaches, who is judged, and that no abnormal mask is
looked at.
"""

import json
from dataclasses import replace

import cv2
import numpy as np
import pandas as pd
import pytest
import torch

from cxrkit.config import profiles
from cxrkit.config.profiles import Segmenter, Training
from cxrkit.config.vocabulary import COLUMNS, ZONES
from cxrkit.pipeline import dependencies
from cxrkit.storage.artifacts import Store
from cxrkit.tasks import segmentation
from cxrkit.training import loop

pytestmark = pytest.mark.usefixtures("few_draws")
SIZE = 32
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
        judge_widths=(4, 6),
        unet_widths=(6, 8, 12),
        hidden=8,
        residual=True,
    ),
)


def chest(rng, ill):
    """A bright film with two dark lungs; an ill one has half of a lung as bright as the rest."""
    film, mask = np.full((SIZE, SIZE), 180.0), np.zeros((SIZE, SIZE), np.uint8)
    top, bottom = rng.integers(5, 9), rng.integers(23, 27)
    mask[top:bottom, 4:14], mask[top:bottom, 18:28] = 255, 255
    film[mask > 0] = 60
    if ill:
        film[top : (top + bottom) // 2, 4:14] = 180
    return (film + rng.normal(0, 8, film.shape)).clip(0, 255).astype(np.uint8), mask


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """20 films of 20 patients on disk: every second is ill, the last six are from an external site."""
    folder, rng, rows = tmp_path_factory.mktemp("chests"), np.random.default_rng(0), []
    for i in range(20):
        film, mask = chest(rng, ill=i % 2)
        cv2.imwrite(str(folder / f"{i}.png"), film)
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
    roles = segmentation.roles(TINY, table)["role"]
    assert list(roles) == ["normal", "abnormal"] * 4 + ["val"] * 2 + ["test"] * 10


def test_a_patient_who_teaches_is_not_judged_and_an_unmasked_one_may_teach(table):
    """Real films: Brixia sum <= 3 teaches the drawing; unmasked films are the abnormal ones, unless
    their patient is judged.
    """
    changed = table.copy()
    changed.loc[:, [c for c in COLUMNS if c.startswith("brixia_")]] = 0.0
    changed.loc[1:, "brixia_A"] = 3.0
    changed.loc[2:, "brixia_B"] = 1.0
    changed.loc[[3, 5, 7], "lung_mask"] = np.nan
    # p4 has a mask and does not teach: it will be judged, so its film 5 teaches nothing
    changed.loc[5, "group_id"] = "p4"
    changed.loc[6, "group_id"] = "p0"  # p0 teaches: its film 6 is not judged
    profile = replace(
        TINY,
        segmenter=replace(
            TINY.segmenter,
            normal="brixia <= 3",
            abnormal="lung_mask.isna() and diagnosis == 'covid19'",
        ),
    )
    roles = segmentation.roles(profile, changed)["role"]
    assert list(roles[:8]) == ["normal", "normal", "test", "abnormal", "test", "", "", "abnormal"]


def test_a_domain_without_films_is_refused(table):
    profile = replace(TINY, segmenter=replace(TINY.segmenter, normal="diagnosis == 'nobody'"))
    with pytest.raises(ValueError, match="0 patients with a normal mask"):
        segmentation.roles(profile, table)


def pairs_of(table, store, profile=TINY):
    roles = segmentation.roles(profile, table)
    return segmentation.Pairs(
        *(
            segmentation.dataset(roles[roles["role"] == name], profile, store)
            for name in ("abnormal", "normal")
        )
    )


def test_pairs_never_hand_out_an_abnormal_mask(table, store):
    batch = pairs_of(table, store).batch([0, 1, 2])
    assert set(batch) == {"abnormal", "normal", "lung_mask"}
    lung = batch["lung_mask"] == 255
    # dark all over: these are the masks of the normal films
    assert (batch["normal"][:, 0][lung] < 0).all()


def test_stage_one_does_not_feel_the_masks_of_abnormal_films(table, store, tmp_path):
    upset = table.copy()
    upset.loc[upset["diagnosis"] == "covid19", "lung_mask"] = table["lung_mask"][0]
    losses = []
    for films in (table, upset):
        torch.manual_seed(0)
        nets = segmentation.translator(TINY)
        losses.append(
            float(
                segmentation.adaptation_loss(TINY, nets, pairs_of(films, store).batch([0, 1]))[
                    "loss"
                ].detach()
            )
        )
    assert losses[0] == losses[1]


def test_the_losses_are_weighted_as_the_profile_says(table, store):
    batch = pairs_of(table, store).batch([0, 1])

    def loss(**weights):
        torch.manual_seed(3)
        nets = segmentation.translator(TINY)
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
        nets = segmentation.translator(profile)
        nets.step += step
        torch.manual_seed(4)
        return float(segmentation.adaptation_loss(profile, nets, batch)["loss"])

    none = loss(replace(profile, segmenter=replace(profile.segmenter, diversity=0.0)), 0)
    full, half, end = (none - loss(profile, step) for step in (0, 1, 2))  # of two steps
    assert (
        full > 0 and half == pytest.approx(full / 2, rel=1e-2) and end == pytest.approx(0, abs=1e-6)
    )


def test_without_translation_the_teacher_sees_the_film_as_it_is(table, store):
    plain = replace(TINY, segmenter=replace(TINY.segmenter, translate=False))
    nets, image = segmentation.translator(plain), torch.randn(2, 1, SIZE, SIZE)
    torch.testing.assert_close(
        segmentation.teach(plain, nets, image), nets.generator(image)["logits"]
    )
    assert not torch.allclose(
        segmentation.teach(TINY, nets, image), nets.generator(image)["logits"]
    )
    assert set(segmentation.adaptation_loss(plain, nets, pairs_of(table, store).batch([0]))) == {
        "loss",
        "lungs",
    }


def test_the_student_draws_in_use_as_it_did_in_training(table, store):
    """The trap of the public fork: another style code in evaluation than in training. The code of
    training is the self code.
    """
    torch.manual_seed(0)
    nets = segmentation.translator(TINY).eval()
    student = segmentation.network(TINY)
    torch.nn.init.normal_(student.self_code)
    test = segmentation.roles(TINY, table).query("role == 'test'").reset_index(drop=True)
    image = segmentation.dataset(test, TINY, store).batch(range(len(test)))["image"]
    with torch.no_grad():
        # about half of the pixels are lung
        student.to_mask.bias -= student(image, self_code=True)["logits"].mean()
    logits = student(image, self_code=True)["logits"]
    loss = segmentation.student_loss(TINY, nets, student, {"abnormal": image, "normal": image})
    torch.testing.assert_close(
        loss["abnormal"], (logits - segmentation.teach(TINY, nets, image)).abs().mean()
    )
    torch.testing.assert_close(loss["loss"], 10 * loss["abnormal"] + loss["normal"])
    drawn = segmentation.predict(student, test, TINY, store)
    np.testing.assert_array_equal(
        drawn, [segmentation.to_mask(one[0].detach().numpy(), SIZE) for one in logits]
    )
    other = segmentation.masks(
        student, lambda model, image: model(image)["logits"], test, TINY, store
    )
    assert (drawn != other).any()


def test_a_unet_learns_the_planted_lungs(table, store, tmp_path):
    """Taught by normal films alone it draws normal lungs, and leaves out what is as bright as the
    chest wall.
    """
    profile = replace(TINY, unet_training=replace(QUICK, lr=1e-2, batch=8, steps=60))
    roles = segmentation.roles(profile, table)
    model = segmentation.fit_unet(
        tmp_path, profile, roles[segmentation.unet_films(profile, roles)["unet_normal"]], store
    )
    test = roles[roles["role"] == "test"].reset_index(drop=True)
    judged = segmentation.judge(
        model, lambda model, image: model(image)["logits"], test, profile, store
    )
    by = judged.groupby("diagnosis")[["dice", "dice_right", "dice_left"]].mean()
    assert by.loc["normal", "dice"] > 0.9 and by.loc["covid19", "dice_left"] > 0.85
    assert by.loc["covid19", "dice_right"] < by.loc["normal", "dice_right"] - 0.1


def test_a_stage_is_made_cut_off_and_gone_on_with(table, store, tmp_path, monkeypatch):
    segmentation.make(tmp_path / "whole", TINY, table, store)
    fit, calls = loop.fit, []

    def cut_off(*args, **options):
        calls.append(options["folder"].name)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return fit(*args, **options)

    monkeypatch.setattr(loop, "fit", cut_off)
    with pytest.raises(KeyboardInterrupt):
        segmentation.make(tmp_path / "cut", TINY, table, store)
    segmentation.make(tmp_path / "cut", TINY, table, store)
    one, two = ((tmp_path / name / "weights.safetensors").read_bytes() for name in ("whole", "cut"))
    assert one == two
    result = json.loads((tmp_path / "whole" / "metrics.json").read_text())
    assert result["images"] == {"test": 10, "normal": 4, "abnormal": 4, "val": 2, "judged": 10}
    assert set(result["external"]) == {
        "student",
        "teacher",
        "direct",
        "unet_normal",
        "unet_both",
        "gain",
        "headroom",
    }
    assert (
        result["external1"]["site"] == "b"
        and result["external"]["student"]["abnormal"]["dice"]["n"] == 3
    )
    loaded = [
        segmentation.load(tmp_path / "whole", TINY, name) for name in segmentation.NETWORKS
    ] + [segmentation.load_teacher(tmp_path / "whole", TINY)]
    assert not any(model.training for model in loaded)


@pytest.mark.parametrize("name", ["student", "unet_both"])
def test_the_network_of_the_profile_is_delivered(table, store, tmp_path, name):
    profile = replace(TINY, segmenter=replace(TINY.segmenter, deliver=name, judged=1))
    segmentation.make(tmp_path, profile, table, store)
    image = torch.randn(1, 1, SIZE, SIZE)
    delivered, others = segmentation.load(tmp_path, profile), set(segmentation.NETWORKS) - {name}
    assert torch.equal(
        delivered.draw(image), segmentation.load(tmp_path, profile, name).draw(image)
    )
    assert not any(
        torch.equal(delivered.draw(image), segmentation.load(tmp_path, profile, other).draw(image))
        for other in others
    )


def test_an_unknown_network_is_refused_before_the_training(table, store, tmp_path):
    with pytest.raises(ValueError, match="unet_both"):
        segmentation.make(
            tmp_path,
            replace(TINY, segmenter=replace(TINY.segmenter, deliver="teacher")),
            table,
            store,
        )
    assert not list(tmp_path.iterdir())


def test_virtual_films_teach_only_the_second_unet_and_by_their_share(
    table, store, tmp_path, monkeypatch
):
    """12 own films of which 4 normal ones teach, 8 virtual ones: a virtual share of 0.75 is 0.75 /
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
    own, lent = table[:12].copy(), table[12:].assign(external=False, split="train")
    own.loc[own["diagnosis"] == "covid19", "lung_mask"] = np.nan
    asked = {}
    fit = loop.fit

    def spy(model, loss, dataset, training, **options):
        asked[options["folder"].name] = (len(dataset), options.get("sample_weights"))
        return fit(model, loss, dataset, training, **options)

    monkeypatch.setattr(loop, "fit", spy)
    segmentation.make(tmp_path, profile, own, store, lent)
    assert (
        asked["unet_normal"][0] == 4
        and asked["unet_normal"][1] is None
        and asked["teacher"][0] == 4
    )
    films, chances = asked["unet_both"]
    assert films == 12 and chances == pytest.approx([0.25 / 4] * 4 + [0.75 / 8] * 8)
    judged = pd.read_csv(tmp_path / "predictions.csv")
    assert set(judged["path"]) <= set(own["path"])


def test_datasets_are_drawn_evenly_however_many_films_they_have():
    films = pd.DataFrame({"dataset": ["a"] * 2 + ["b"] * 6, "role": "normal"})
    assert segmentation.chances(TINY, films) == pytest.approx([0.5 / 2] * 2 + [0.5 / 6] * 6)
    assert segmentation.chances(TINY, films[:2]) is None


def test_a_mirrored_film_is_drawn_in_the_mirror():
    torch.manual_seed(0)
    model, image = segmentation.unet(TINY).eval(), torch.randn(1, 1, SIZE, SIZE)
    once, both = model.draw(image), segmentation.draw(model, image, mirror=True)
    torch.testing.assert_close(segmentation.draw(model, image), once)
    torch.testing.assert_close(both, segmentation.draw(model, image.flip(-1), mirror=True).flip(-1))
    assert not torch.allclose(once, model.draw(image.flip(-1)).flip(-1))


def test_the_stage_is_named_by_what_it_reads():
    demo = profiles.demo()
    again = dependencies.settings(replace(demo, transformer=profiles.ViT(depth=9)), "segmenter")
    assert again == dependencies.settings(demo, "segmenter")
    assert (
        dependencies.settings(
            replace(demo, segmenter=replace(demo.segmenter, cycle=9.0)), "segmenter"
        )
        != again
    )
    lent = replace(demo, segmenter=replace(demo.segmenter, virtual=0.5))
    assert dependencies.settings(lent, "segmenter")["virtual"] == dependencies.settings(
        demo, "cohort"
    )


def test_masks_come_at_the_size_asked_for(table, store):
    test = segmentation.roles(TINY, table).query("role == 'test'").reset_index(drop=True)
    assert segmentation.masks(
        segmentation.network(TINY), segmentation.draw, test, TINY, store, size=48
    ).shape == (
        len(test),
        48,
        48,
    )
