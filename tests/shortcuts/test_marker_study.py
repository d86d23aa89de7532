"""The marker study on made-up hospitals: markers by hand, corners that must be empty, and a letter
that must be learnt.
"""

from dataclasses import replace

import cv2
import numpy as np
import pandas as pd
import pytest
import torch

from cxrkit.config import profiles, sections
from cxrkit.config.vocabulary import DIAGNOSES
from cxrkit.models import factory
from cxrkit.shortcuts import marker_study
from cxrkit.simulation import hospital as hospital_module
from cxrkit.simulation import radiograph
from cxrkit.storage.atomic import read_json

SIZE = 128
PROFILE = replace(
    profiles.demo(),
    image_size=64,
    transformer=sections.ViT(embed_dim=16, depth=1, num_heads=2),
    backbone=sections.DenseNet(
        growth_rate=4, block_config=(1, 1, 1, 1), num_init_features=8, stem=1, stride=16
    ),
)


@pytest.fixture(scope="module")
def images():
    """Six images of smooth grey with noise, each with a marker in the corner, and their rows."""
    rng, rows, pixels = np.random.default_rng(0), [], []
    for i in range(6):
        image = (100 + 40 * np.linspace(0, 1, SIZE)[None] + rng.normal(0, 2, (SIZE, SIZE))).astype(
            np.uint8
        )
        top, left, bottom, right = radiograph.write_marker(image, radiograph.MARKERS[i % 3], rng)
        pixels.append(image)
        rows.append(
            {
                "row": i,
                "number": i,
                "diagnosis": DIAGNOSES[i // 2],
                "group_id": f"g{i}",
                "marker_top": top,
                "marker_left": left,
                "marker_bottom": bottom,
                "marker_right": right,
            }
        )
    return np.stack(pixels), pd.DataFrame(rows)


@pytest.fixture(scope="module")
def marked(images):
    torch.manual_seed(0)
    return marker_study.mark_images(
        images[1], images[0], factory.build_backbone(PROFILE).eval(), PROFILE
    )


def test_markers_follow_rho_as_they_do_in_a_hospital():
    """Exact at rho = 1, a third by chance at 0, and as often as `Hospital` writes them in
    between.
    """
    codes = np.arange(3000) % 3
    assert (marker_study.draw_markers(codes, 1.0) == codes).all()
    for rho in (0.0, 0.5):
        own = (marker_study.draw_markers(codes, rho) == codes).mean()
        hospital = hospital_module.Hospital("alder", rho=rho, n=3000)
        theirs = np.mean(
            [
                hospital.marker_of(i, DIAGNOSES[codes[i]]) == radiograph.MARKERS[codes[i]]
                for i in range(3000)
            ]
        )
        assert own == pytest.approx((1 + 2 * rho) / 3, abs=0.03) and own == pytest.approx(
            theirs, abs=0.04
        )
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\]"):
        marker_study.draw_markers(codes, 1.5)


def test_an_erased_marker_is_gone_and_the_rest_stays(images):
    for image, row in zip(images[0], images[1].to_dict("records"), strict=True):
        clean = marker_study.erase_marker(image, row)
        box = (
            slice(max(0, row["marker_top"]), row["marker_bottom"]),
            slice(row["marker_left"], row["marker_right"]),
        )
        assert image[box].max() > 170 > 155 > clean[box].max(), (
            "bright letters, then the grey of the image, which is 146 at most"
        )
        outside = np.ones_like(image, bool)
        outside[box] = False
        assert (clean[outside] == image[outside]).all()


def test_between_two_markers_only_the_corner_changes(images):
    clean = marker_study.erase_marker(images[0][0], images[1].iloc[0])
    (one, box), (other, _) = (
        marker_study.write_marker(clean, 0, 5),
        marker_study.write_marker(clean, 2, 5),
    )
    again, _ = marker_study.write_marker(clean, 0, 5)
    changed = np.argwhere(one != other)
    assert (one == again).all() and len(changed) > 10
    assert changed.max() < SIZE // 3 and changed[:, 0].min() >= box[0], (
        "in the upper corner, at one height"
    )


def test_every_image_is_held_with_every_marker(images, marked):
    assert {name: tuple(x.shape[:2]) for name, x in marked.inputs.items()} == dict.fromkeys(
        marker_study.PROBES, (3, 6)
    )
    assert (
        marked.inputs["pixels"].shape[2:] == (1, 64, 64)
        and marked.inputs["first layers"].shape[3:] == marked.inputs["corpus"].shape[3:]
    )
    markers = np.array([0, 1, 2, 0, 1, 2])
    picked = marked.with_marker("pixels", markers)
    for i, marker in enumerate(markers):
        assert torch.equal(picked[i], marked.inputs["pixels"][marker, i].float())
    gap = (marked.inputs["pixels"][0] - marked.inputs["pixels"][2]).abs().amax((0, 1))
    assert gap[:20, :32].max() > 0.2 and gap[32:, 40:].max() < 0.1


def test_without_a_marker_there_is_nothing_to_exchange(images):
    torch.manual_seed(0)
    bare = marker_study.mark_images(
        images[1], images[0], factory.build_backbone(PROFILE).eval(), PROFILE, "marker erased"
    )
    assert all(torch.equal(x[0], x[1]) and torch.equal(x[0], x[2]) for x in bare.inputs.values())


def test_linear_probe_starts_at_chance_and_standardises():
    features = torch.randn(50, 2, 3, 3) * 7 + 4
    probe = marker_study.LinearProbe(features)
    assert marker_study.probabilities(probe, features) == pytest.approx(1 / 3, abs=0.2)
    z = (features.flatten(1) - probe.mean) / probe.spread
    assert z.mean(0).abs().max() < 1e-5 and torch.allclose(z.std(0), torch.ones(18), atol=1e-2)


def test_a_letter_is_learnt_at_one_and_not_at_zero(monkeypatch):
    """Images of noise in which only the marker differs: at rho = 1 the probe follows it, at 0 it
    may not.
    """
    rng = np.random.default_rng(0)
    codes = np.arange(240) % 3
    noise = torch.tensor(rng.normal(0, 1, (240, 1, 4, 4)), dtype=torch.float32)
    lettered = noise.expand(3, -1, -1, -1, -1).clone()
    for marker in range(3):
        lettered[marker, :, 0, 0, marker] = 3
    table = pd.DataFrame({"group_id": np.arange(240)})
    noisy = marker_study.MarkedImages(
        table, codes, {"pixels": lettered.half()}, np.zeros((3, 240, 4), int)
    )
    monkeypatch.setattr(marker_study, "BOOTSTRAP_DRAWS", 20)
    training = replace(marker_study.PROBE_TRAINING, lr=1e-2, steps=80)
    found = {}
    for rho in (0.0, 1.0):
        model = marker_study.fit_model(
            marker_study.LinearProbe,
            noisy.with_marker("pixels", marker_study.draw_markers(codes, rho)),
            codes,
            training,
        )
        found[rho] = (
            marker_study.flip_rate(marker_study.exchange_markers(model, noisy, "pixels")),
            marker_study.auc_with_interval(model, noisy, "pixels", codes)["value"],
        )
    assert found[1.0][0] > 0.9 and found[1.0][1] > 0.98
    assert found[0.0][0] < 0.7 and found[0.0][1] < 0.9


def test_balanced_draws_make_every_pair_equally_likely():
    codes, markers = np.array([0, 0, 0, 0, 1, 1, 1, 2]), np.array([0, 0, 0, 1, 1, 1, 0, 2])
    chances = marker_study.balanced_weights(codes, markers)
    totals = pd.Series(chances).groupby([codes, markers]).sum()
    np.testing.assert_allclose(totals, 1)


def test_the_flip_rate_counts_images_whose_answer_changes():
    p = np.zeros((3, 4, 3))
    p[:, :, 0] = 1
    assert marker_study.flip_rate(p) == 0
    p[2, 1] = (0, 0, 2)
    assert marker_study.flip_rate(p) == 0.25


def test_relevance_on_the_marker_is_a_share(marked, monkeypatch):
    """A share between 0 and 1, beside the share of cells with letters: counted here by hand."""
    monkeypatch.setattr(marker_study, "BOOTSTRAP_DRAWS", 20)
    torch.manual_seed(0)
    model, markers = (
        marker_study.small_vit(marked.inputs["first layers"][0], PROFILE).eval(),
        np.zeros(6, int),
    )
    found = marker_study.relevance_on_marker(model, marked, "first layers", markers, SIZE)
    cell = SIZE // marked.inputs["first layers"].shape[-1]
    cells = [
        len(
            {
                (y // cell, x // cell)
                for y in range(max(0, top), bottom)
                for x in range(max(0, left), right)
            }
        )
        for top, left, bottom, right in marked.boxes[0]
    ]
    assert (
        found["chance"] == pytest.approx(np.mean(cells) / (SIZE // cell) ** 2)
        and 0 <= found["value"] <= 1
        and found["n"] == 6
    )


def test_splits_are_apart_and_the_external_one_is_whole():
    rows = [
        {
            "ward": "diagnosis",
            "external": int(i % 3 == 2),
            "split": ("train", "val", "test")[i % 2 + (i % 4 == 1)],
            "row": i,
        }
        for i in range(300)
    ]
    splits = marker_study.select_images(pd.DataFrame(rows))
    assert not set(splits["train"]["row"]) & (
        set(splits["internal"]["row"]) | set(splits["external"]["row"])
    )
    assert (splits["train"]["split"] == "train").all() and (
        splits["internal"]["split"] != "train"
    ).all()
    assert splits["external"]["external"].all() and len(splits["external"]) == 100


def test_the_whole_study_leaves_its_files(images, tmp_path, monkeypatch):
    """Columns and keys that lesson 08 and the figures read."""
    pixels, table = images
    monkeypatch.setattr(marker_study, "BOOTSTRAP_DRAWS", 5)
    short = replace(marker_study.PROBE_TRAINING, steps=2)
    monkeypatch.setattr(marker_study, "PROBE_TRAINING", short)
    monkeypatch.setattr(marker_study, "VIT_TRAINING", short)
    monkeypatch.setattr(marker_study, "RHOS", (0.0, 1.0))
    mask = np.zeros((SIZE, SIZE), np.uint8)
    mask[30:100, 20:110] = 255
    cv2.imwrite(str(tmp_path / "lung.png"), mask)

    patients = pd.concat([table] * 3, ignore_index=True).assign(
        ward="diagnosis",
        external=np.arange(18) // 6 == 2,
        split=np.where(np.arange(18) < 6, "train", "test"),
        group_id=np.arange(18),
        lung_mask="lung.png",
    )

    class Cohort:
        folder, table, images = tmp_path, patients, np.concatenate([pixels] * 3)

        def __len__(self):
            return len(self.table)

    backbone = factory.build_backbone(PROFILE).eval()
    marker_study.make(tmp_path, PROFILE, Cohort(), backbone)
    sweep, fixes = (pd.read_csv(tmp_path / f"{name}.csv") for name in ("sweep", "fixes"))
    measured = ["flip_rate", "value", "low", "high", "n"]
    assert list(sweep.columns) == ["probe", "rho", "split", *measured]
    assert list(fixes.columns) == ["fix", "rho", *measured]
    assert set(sweep["probe"]) == set(marker_study.PROBES)
    assert set(sweep["split"]) == {"internal", "external"}
    assert list(fixes["fix"].unique()) == list(marker_study.FIXES)
    assert (fixes.loc[fixes["fix"] == "marker erased", "flip_rate"] == 0).all()
    exchanged = np.load(tmp_path / "exchanged.npz")
    assert exchanged["first_layers"].shape == (2, 3, 6, 3)
    assert exchanged["rows"].tolist() == list(range(12, 18))
    found = read_json(tmp_path / "metrics.json")
    assert found["images"] == {"train": 6, "internal": 6, "external": 6}
    assert set(found["network"]["rho1"]) == {"internal", "external", "flip_rate", "relevance"}
    assert set(found["flip_rate"]) == set(marker_study.PROBES)
    assert not backbone.features.transition1._forward_hooks


def test_probes_compute_on_the_device_that_is_named(images):
    """A tensor on the meta device has no values: all works there but the copy to the CPU."""
    meta = torch.device("meta")
    copy_fails = pytest.raises(NotImplementedError, match="Cannot copy out of meta tensor")
    backbone = factory.build_backbone(PROFILE).eval()
    with copy_fails:
        marker_study.embed(backbone, list(images[0]), PROFILE, meta)
    assert not backbone.features.transition1._forward_hooks
    features = torch.randn(5, 2, 3, 3)
    with copy_fails:
        marker_study.probabilities(marker_study.LinearProbe(features), features, meta)
