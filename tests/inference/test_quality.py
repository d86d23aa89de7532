"""Warnings about images: hand-made masks, corrupted images, and pictures of something else."""

import evaluate_lungs
import fit_quality_model
import numpy as np
import pytest

from cxrkit.config import profiles
from cxrkit.data.images import load_image
from cxrkit.inference import predictor, quality, trained
from cxrkit.simulation import hospital

needs_quality_model = pytest.mark.skipif(
    not trained.QUALITY_MODEL.exists(),
    reason="no quality_model.safetensors: run make quality-model MIRROR=DIR",
)
needs_shipped = pytest.mark.skipif(
    not (trained.SHIPPED / "research" / "segmenter.safetensors").exists(),
    reason="no shipped segmenter",
)


def virtual_images(count):
    """Images of patients that no training saw, `count` of each hospital."""
    return [
        hospital.Hospital(site, seed=77, n=count)[i].image
        for site in hospital.SITES
        for i in range(count)
    ]


# by hand


def test_an_image_smaller_than_the_input_is_too_small():
    assert quality.too_small((100, 300), 128) == [
        "too small: 300x100 px, the models look at 128x128"
    ]
    assert quality.too_small((128, 128), 128) == []


def lung_pair(left=True, scale=1.0):
    mask = np.zeros((64, 64), bool)
    mask[10:54, 6:28] = True
    if left:
        mask[10 : 10 + int(44 * scale), 36:58] = True
    return mask


@pytest.mark.parametrize(
    "mask, word",
    [
        (lung_pair(), None),
        (lung_pair(False), "only one"),
        (lung_pair(scale=0.1), "far smaller"),
        (np.zeros((64, 64), bool), "0% of the film"),
        (lung_pair() & (np.eye(64) > 0), "of the film"),
    ],
)
def test_lungs_are_a_pair(mask, word):
    found = quality.lungs_missing(mask)
    assert (word is None and not found) or word in found[0]


def test_uncertainty_agreement_and_contrast_by_hand():
    mask = np.zeros((128, 128), bool)
    mask[32:96, 32:64] = True  # 1/8 of the image
    assert quality.uncertainty(mask.astype(float), mask) == 0
    assert quality.uncertainty(np.full((8, 8), 0.5), mask) == 8
    assert quality.uncertainty(np.full((8, 8), 0.9), mask) == pytest.approx(4 * 0.9 * 0.1 * 8)
    half = np.where(mask, 0.5, 0.0)
    assert quality.mirror_agreement(mask, mask) == 1
    assert quality.mirror_agreement(mask, ~mask) == 0
    assert quality.mirror_agreement(mask.astype(float), half) == pytest.approx(2 * 0.5 / 1.5)
    image = np.full((256, 256), 120, np.uint8)
    assert quality.lung_contrast(image, mask) == 0.5, "ties count half"
    image[64:192, 64:128] = 60
    assert quality.lung_contrast(image, mask) == 1
    assert quality.lung_contrast(255 - image, mask) == 0
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (128, 128)).astype(np.uint8)
    rows, columns = np.mgrid[:128, :128]
    # px to the lung, computed another way
    distance = np.maximum(np.maximum(32 - rows, rows - 95), np.maximum(32 - columns, columns - 63))
    ring = noise[(distance > 1) & (distance <= 6)].astype(int)
    pairs = ring[:, None] - noise[mask].astype(int)[None]
    want = ((pairs > 0) + 0.5 * (pairs == 0)).mean()
    assert quality.lung_contrast(noise, mask) == pytest.approx(want)
    assert np.isnan(quality.lung_contrast(image, np.zeros((128, 128), bool)))


@pytest.mark.parametrize(
    "fault, word",
    [
        ("none", None),
        ("bright", "brighter"),
        ("uncertain", "is uncertain"),
        ("mirror", "mirror image"),
    ],
)
def test_lungs_must_be_dark_certain_and_the_same_in_the_mirror(fault, word):
    mask = lung_pair()
    image, probs = np.where(mask, 60, 160).astype(np.uint8), np.stack([mask, mask]).astype(float)
    if fault == "bright":
        image = 220 - image
    if fault == "uncertain":
        probs = np.full_like(probs, 0.5)
    if fault == "mirror":
        probs[1] = np.roll(probs[1], 6, axis=0)
    found = quality.lungs_missing(mask, image, probs)
    assert (word is None and not found) or (len(found) == 1 and word in found[0])


def test_a_measure_outside_its_range_is_named():
    grey = np.tile(np.arange(200, dtype=np.uint8), (100, 1))
    measured = quality.quantities(grey)
    assert measured["aspect"] == 2 and measured["contrast"] == pytest.approx(180 / 255, abs=0.02)
    assert measured["flat"] == pytest.approx(1 / 200)
    wide = dict.fromkeys(measured, (0, 10))
    assert quality.out_of_range(grey, wide) == []
    assert quality.out_of_range(grey, {**wide, "aspect": (0.7, 1.4)}) == [
        "out of the training range: width over height 2, trained on 0.7 to 1.4"
    ]


def test_painted_over_means_that_nothing_of_the_lungs_is_left():
    grey, lungs = np.full((120, 120), 150, np.uint8), np.zeros((120, 120), bool)
    lungs[30:90, 20:50], grey[30:90, 20:50] = True, 10
    painted = evaluate_lungs.paint_over(grey, lungs, np.random.default_rng(0))
    assert abs(float(painted[lungs].mean()) - 150) < 10 and painted[5, 100] == 150
    half = evaluate_lungs.left_half(lungs)
    assert half[:, 60:].sum() == 0 and half.sum() == lungs.sum()
    assert evaluate_lungs.window(grey, np.random.default_rng(1)).shape == (42, 42)


# trained


@pytest.mark.integration
@needs_shipped
def test_the_shipped_segmenter_finds_lungs_in_chest_images_and_none_in_other_pictures():
    """Images that no training saw, and corrupted ones; rates on real films: docs/predict.md."""
    part = trained.load_models(profiles.mini(), weights=trained.SHIPPED).parts["segmenter"]
    rng = np.random.default_rng(0)

    def warned(grey):
        mask, probs = predictor.segment_lungs(grey, part)
        return bool(quality.lungs_missing(mask, grey, probs))

    images = virtual_images(3)
    assert np.mean([warned(image) for image in images]) <= 0.15
    pictures = {
        **fit_quality_model.NEW,
        "hand": evaluate_lungs.hand,
        "gradient": evaluate_lungs.gradient,
    }
    for kind, draw in pictures.items():
        assert np.mean([warned(draw(rng)) for _ in range(8)]) >= 0.6, kind
    turned = [np.ascontiguousarray(np.rot90(image)) for image in images]
    assert np.mean([warned(image) for image in turned]) >= 0.7


@pytest.mark.integration
@needs_quality_model
def test_the_quality_model_sees_faults_and_leaves_sound_images_alone():
    """Virtual patients that no training saw (another seed).

    Corrupted in a known way, each warning comes; as they are, hardly one.
    """
    control = quality.load_quality_control(trained.QUALITY_MODEL)
    rng, images = np.random.default_rng(0), virtual_images(4)
    assert np.mean([bool(control.faults(image)) for image in images]) <= 0.1
    corruptions = {
        "inverted": lambda image: 255 - image,
        "turned": np.rot90,
        "flipped": lambda image: image[:, ::-1],
        "not_frontal": lambda image: rng.integers(0, 256, image.shape, np.uint8),
    }
    for name, corrupt in corruptions.items():
        hits = [
            quality.FAULTS[name] in control.faults(np.ascontiguousarray(corrupt(image)))
            for image in images
        ]
        assert np.mean(hits) >= 0.8, name
    for name in ("turned by 10 degrees", "turned by 15 degrees", "an arrow"):
        fault, change = fit_quality_model.FIXED[name]
        found = [quality.FAULTS[fault] in control.faults(change(image)) for image in images]
        assert np.mean(found) >= 0.8, name
    for name in ("tilted", "drawn", "photographed"):
        changed = [fit_quality_model.FAULTS[name](image, rng) for image in images]
        hits = [quality.FAULTS[name] in control.faults(image) for image in changed]
        assert np.mean(hits) >= 0.6, name
    white = [fit_quality_model.white_surround(image) for image in images]
    assert not any(quality.FAULTS["inverted"] in control.faults(image) for image in white)
    noise = rng.integers(0, 256, (300, 300), np.uint8)
    assert control.warnings(noise, lung_pair(), 128)[0] == quality.FAULTS["not_frontal"]


@pytest.mark.parametrize("name", ["tilt", "photograph", "draw", "shutters", "side_marker"])
def test_a_corruption_changes_an_image_in_its_own_way(name):
    """Each is drawn from the generator alone, leaves its input, and changes a share of it."""
    grey = np.tile(np.arange(256, dtype=np.uint8), (256, 1))
    change, before = getattr(fit_quality_model, name), grey.copy()
    share = {"draw": (0.0005, 0.3), "side_marker": (0.0002, 0.02), "shutters": (0.0, 0.6)}
    for seed in range(20):
        changed = change(grey, np.random.default_rng(seed))
        assert changed.shape == grey.shape and changed.dtype == np.uint8
        np.testing.assert_array_equal(changed, change(grey, np.random.default_rng(seed)))
        np.testing.assert_array_equal(grey, before)
        low, high = share.get(name, (0.3, 1.0))
        assert low <= (changed != grey).mean() <= high, seed


def test_a_tilt_turns_by_the_angle_that_it_says():
    """A bar on a square film, against its angle by moments."""
    grey = np.zeros((256, 256), np.uint8)
    grey[124:132, 40:216] = 255
    for seed in range(10):
        turned = fit_quality_model.rotated(grey, 20, np.random.default_rng(seed))
        y, x = np.nonzero(turned > 200)
        slope = np.polyfit(x, y, 1)[0]  # rows run down
        angle = -np.degrees(np.arctan(slope))
        assert 14 < angle < 27, "20 degrees, before the film was squeezed by up to a quarter"


def test_training_shows_each_dataset_equally_often_and_marks_what_nobody_can_say(monkeypatch):
    monkeypatch.setattr(fit_quality_model, "POOL", 1)
    grey = np.full((6, 256, 256), 90, np.uint8)
    made = fit_quality_model.CorruptedImages(grey, np.array([*"aaaab", "c"]))
    assert [list(made.rows).count(i) for i in range(6)] == [1, 1, 1, 1, 4, 4]
    rng = np.random.default_rng(0)
    names = list(quality.FAULTS)
    for _ in range(60):
        _, label = made.corrupt(grey[0], rng)
        label = dict(zip(names, label, strict=True))
        assert np.isnan(label["flipped"]) == bool(label["turned"])
        assert not np.isnan(label["tilted"]) or label["photographed"]


@needs_quality_model
def test_real_films_of_other_sources_are_mostly_left_alone(mirror):
    control = quality.load_quality_control(trained.QUALITY_MODEL)
    files = sorted((mirror / "cohen" / "images").iterdir())[::12]
    films = [load_image(path).pixels for path in files]
    assert np.mean([bool(control.faults(film)) for film in films]) <= 0.25
    inverted = [np.subtract(film.max(), film) for film in films]
    hits = [quality.FAULTS["inverted"] in control.faults(film) for film in inverted]
    assert np.mean(hits) >= 0.9


@needs_quality_model
def test_unusable_are_some_of_the_warnings(monkeypatch):
    """By the rule that docs/predict.md states, whatever the networks say."""
    control = quality.load_quality_control(trained.QUALITY_MODEL)
    image, mask = np.tile(np.arange(200, dtype=np.uint8), (200, 1)), lung_pair()
    for name, text in quality.FAULTS.items():
        monkeypatch.setattr(quality.QualityControl, "faults", lambda *of, text=text: [text])
        found = control.check(image, mask, 128)
        assert (text in found.unusable) == (name in ("not_frontal", "inverted", "turned"))
        assert found.warnings == control.warnings(image, mask, 128)
    monkeypatch.setattr(quality.QualityControl, "faults", lambda *of: [])
    found = control.check(image, np.zeros_like(mask), 128)
    assert found.unusable == ["lungs not found: 0% of the film"]
    assert set(found.unusable) < {*found.warnings, "x"}
