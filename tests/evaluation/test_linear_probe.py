"""Linear probes against loops and closed forms, planted shortcuts that must be found, and noise in
which nothing may be.
"""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch

from cxrkit.config import profiles
from cxrkit.config.vocabulary import COLUMNS
from cxrkit.data import datasets, masked_images, preprocessing
from cxrkit.data.cache import cached_images
from cxrkit.data.images import load_image
from cxrkit.evaluation import linear_probe, metrics
from cxrkit.storage.artifacts import Store

SIZE = 64


def noise_images(n, seed=0, low=60, high=200):
    return np.random.default_rng(seed).integers(low, high, (n, SIZE, SIZE)).astype(np.uint8)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """24 films of noise: PNGs of three sites, with one square lung each; in site b the border is
    bright, in site c the lung.
    """
    folder, images, rows = tmp_path_factory.mktemp("films"), noise_images(24, low=100, high=140), []
    lung = np.zeros((SIZE, SIZE), np.uint8)
    lung[16:48, 16:48] = 255
    lung[16:20, 16:48] = 127  # these rows are not annotated
    cv2.imwrite(str(folder / "lung.png"), lung)
    for i, image in enumerate(images):
        site = "abc"[i % 3]
        image[:4] += np.uint8(40 * (site == "b"))
        image[24:40, 24:40] += np.uint8(40 * (site == "c"))
        cv2.imwrite(str(folder / f"{i}.png"), image)
        rows.append(
            {
                "path": str(folder / f"{i}.png"),
                "site": site,
                "group_id": f"g{i // 2}",
                "lung_mask": str(folder / "lung.png"),
            }
        )
    return pd.DataFrame(rows).reindex(columns=COLUMNS)


PROFILE = replace(profiles.demo(), image_size=SIZE)


def test_thumbnails_are_means_of_blocks_and_the_border_is_their_ring():
    images = noise_images(3)
    means = images.reshape(3, 16, 4, 16, 4).mean((2, 4)) / 255
    # resize rounds to whole levels
    np.testing.assert_allclose(
        linear_probe.thumbnails(images), means.reshape(3, 256), atol=0.5 / 255
    )
    ring = np.array(
        [
            [means[i, y, x] for y in range(16) for x in range(16) if {y, x} & {0, 15}]
            for i in range(3)
        ]
    )
    np.testing.assert_allclose(linear_probe.border(images), ring, atol=0.5 / 255)


def test_grey_statistics_are_those_of_numpy():
    images = noise_images(4)
    want = [[f.mean(), f.std(), *np.histogram(f, 16, (0, 256))[0] / f.size] for f in images]
    np.testing.assert_allclose(linear_probe.histogram(images), want)
    np.testing.assert_allclose(linear_probe.statistics(images), np.array(want)[:, :2])


def test_blackened_films_keep_the_lungs_to_the_grey_level_and_nothing_else(table, tmp_path):
    masked_images.blacken(tmp_path, table[:3])
    for i in range(3):
        image, black = (
            cv2.imread(path, cv2.IMREAD_GRAYSCALE)
            for path in (table["path"][i], str(tmp_path / f"{i}.png"))
        )
        want = np.zeros_like(image)
        want[20:48, 16:48] = image[20:48, 16:48]  # rows 16 to 19 are not annotated
        np.testing.assert_array_equal(black, want)
        inside = np.zeros(image.shape, bool)
        inside[20:48, 16:48] = True
        seen = preprocessing.equalize(black)[inside]
        # the lungs, and one black pixel
        alone = preprocessing.equalize(np.append(image[inside], np.uint8(0))[None])[0, :-1]
        np.testing.assert_allclose(seen, alone, atol=1)


def test_what_is_read_of_a_blackened_film_is_known_from_its_lungs_alone(table, tmp_path):
    """The same lungs in two films, one with a white letter: no stretch tells them apart, when they
    are blackened or when the blackened file is read.
    """
    (tmp_path / "black").mkdir()
    image = cv2.imread(table["path"][0], cv2.IMREAD_GRAYSCALE)
    for i, letter in enumerate((110, 255)):
        image[2:12, 2:12] = letter
        cv2.imwrite(str(tmp_path / f"{i}.png"), image)
    films = table[:2].assign(path=[str(tmp_path / f"{i}.png") for i in range(2)])
    masked_images.blacken(tmp_path / "black", films)
    paths = [str(tmp_path / "black" / f"{i}.png") for i in range(2)]
    want = np.zeros_like(image)
    want[20:48, 16:48] = image[20:48, 16:48]
    assert (preprocessing.to_uint8(want) != want).any(), "a stretch would move these greys"
    seen = preprocessing.prepare(want, SIZE, replace(PROFILE.choices, stretch="min_max"))
    for kind, expected in {"grey": want, "image": seen}.items():
        for found in cached_images(paths, SIZE, PROFILE.choices, kind, Store(tmp_path / "store")):
            np.testing.assert_array_equal(found, expected)


def test_only_a_file_that_says_so_keeps_its_greys(table, tmp_path):
    masked_images.blacken(tmp_path, table[:1])
    assert load_image(tmp_path / "0.png").scaled and not load_image(table["path"][0]).scaled
    everywhere = np.full((SIZE, SIZE), 255, np.uint8)
    for stretch in ("robust", "min_max"):
        pixels = noise_images(1)[0].astype(np.uint16) * 100
        pixels[0, 0] = 65535  # far outside of the others
        np.testing.assert_array_equal(
            masked_images.only_lungs(pixels, everywhere, stretch),
            preprocessing.to_uint8(pixels, stretch),
        )


def test_where_no_lung_was_found_the_film_stays():
    image = noise_images(1)[0]
    np.testing.assert_array_equal(
        masked_images.only_lungs(image, np.full((8, 8), 127, np.uint8)), image
    )
    deep = masked_images.only_lungs(image.astype(np.uint16) * 100, np.full((8, 8), 255, np.uint8))
    assert deep.dtype == np.uint8 and deep.max() == 255


def test_an_edited_film_has_the_bytes_of_the_film_as_it_came(table, tmp_path):
    masked_images.blacken(tmp_path, table[:2])
    edited = table[:2].assign(path=[str(tmp_path / f"{i}.png") for i in range(2)])
    before, after = (
        linear_probe.trivial_features(
            "file size", images, PROFILE, Store(tmp_path / "store")
        ).ravel()
        for images in (table[:2], edited)
    )
    assert list(after) == [Path(path).stat().st_size for path in edited["path"]] != list(before)
    known = edited.assign(origin=table["path"][:2])
    assert list(
        linear_probe.trivial_features(
            "file size", known, PROFILE, Store(tmp_path / "store")
        ).ravel()
    ) == list(before)
    assert (
        list(masked_images.with_original_images(known)["path"]) == list(table["path"][:2])
        and masked_images.with_original_images(edited) is edited
    )


def test_covered_pixels_say_nothing_and_the_rest_stays():
    images, gone = noise_images(2), np.zeros((2, SIZE, SIZE), bool)
    gone[0, 10:30, 5:50], gone[1] = True, True
    covered = masked_images.cover(images, gone)
    assert (covered[0][gone[0]] == round(images[0][~gone[0]].mean())).all() and (
        covered[0][~gone[0]] == images[0][~gone[0]]
    ).all()
    other = images.copy()
    other[gone] = 3
    assert (masked_images.cover(other, gone) == covered).all() and (covered[1] == 0).all()
    assert images[0][gone[0]].std() > 0, "the films given stay as they are"


def test_features_come_from_the_right_pixels(table, tmp_path):
    """What a feature may not see may change without changing it; every feature reads 24 films."""
    store, site = Store(tmp_path), table["site"].to_numpy()
    found = {
        name: linear_probe.trivial_features(name, table, PROFILE, store)
        for name in linear_probe.FEATURES
    }
    assert (
        {len(x) for x in found.values()} == {24}
        and found["thumbnail"].shape == (24, 256)
        and found["border"].shape == (24, 60)
    )
    assert found["file size"][:, 0].tolist() == [
        Path(path).stat().st_size for path in table["path"]
    ]

    def gap(name, a):
        return np.abs(found[name][site == a].mean(0) - found[name][site == "a"].mean(0)).max()

    assert gap("border", "b") > 0.1 > 0.04 > gap("border", "c"), (
        "the ring sees the border, not the lung"
    )
    assert gap("lungs only", "c") > 0.1 > 0.04 > gap("lungs only", "b")
    removed = found["lungs removed"].reshape(24, 16, 16)
    assert np.ptp(removed[:, 4:12, 4:12], axis=(1, 2)).max() == 0, (
        "one grey where the lung was, and where nothing is annotated"
    )
    assert (found["lung shape"] == found["lung shape"][0]).all() and found["lung shape"][0].reshape(
        16, 16
    )[5:12, 4:12].min() == 1
    assert found["lung shape"].sum() == 24 * 7 * 8, "rows that are not annotated are no lung"
    with pytest.raises(ValueError, match="1 of 24 films have no lung mask"):
        linear_probe.trivial_features(
            "lungs removed", table.assign(lung_mask=[None, *table["lung_mask"][1:]]), PROFILE, store
        )
    with pytest.raises(ValueError, match="unknown trivial feature"):
        linear_probe.trivial_features("luck", table, PROFILE, store)


def test_a_film_without_a_file_has_the_size_of_its_png(tmp_path):
    images = noise_images(2)
    images[1] = 7
    noisy, flat = linear_probe.file_sizes(["images.npy#0", "images.npy#1"], images)[:, 0]
    cv2.imwrite(str(tmp_path / "film.png"), images[0])
    assert noisy == (tmp_path / "film.png").stat().st_size > flat


def test_pooled_features_are_means_over_the_film(table, tmp_path):
    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.features = torch.nn.Conv2d(1, 5, 3)

    torch.manual_seed(0)
    network, store = Network(), Store(tmp_path)
    got = linear_probe.pooled_features(network, table, PROFILE, store, device="cpu")
    with torch.no_grad():
        one = network.features(datasets.image_dataset(table, PROFILE, store)[7]["image"][None])[0]
    np.testing.assert_allclose(got[7], one.reshape(5, -1).mean(1), rtol=1e-5)


def test_folds_keep_patients_together_and_use_every_film_once():
    groups = np.array([f"g{i // 3}" for i in range(30)])
    fold = linear_probe.assign_folds(groups, 5, seed=1)
    assert sorted(np.bincount(fold)) == [6] * 5
    assert all(len(set(fold[groups == group])) == 1 for group in groups)
    assert np.array_equal(
        fold, linear_probe.assign_folds(groups, 5, seed=1)
    ) and not np.array_equal(fold, linear_probe.assign_folds(groups, 5, seed=2))
    with pytest.raises(ValueError, match="lower `folds`"):
        linear_probe.assign_folds(groups, 11)


def test_ridge_is_ridge_regression_with_the_penalty_of_least_error():
    """Closed form on standardised columns: (X'X + a I)^-1 X'(y - mean)."""
    rng = np.random.default_rng(0)
    x, weights = rng.normal(size=(80, 6)), np.array([1.0, -0.5, 0, 0, 0.3, 0])
    y, groups, fold = 3 + x @ weights, np.arange(80), np.arange(80) // 40
    got = linear_probe.out_of_fold_predictions(x, y, groups, fold, "ridge")
    inside, z = x[:40], (x - x[:40].mean(0)) / x[:40].std(0)
    normal = z[:40].T @ z[:40] + 10 * np.eye(inside.shape[1])  # no noise: the least penalty
    want = y[:40].mean() + z[40:] @ np.linalg.solve(normal, z[:40].T @ (y[:40] - y[:40].mean()))
    np.testing.assert_allclose(got[40:], want, atol=1e-8)


def test_a_planted_shortcut_is_found_and_noise_is_not():
    rng = np.random.default_rng(0)
    y, groups = np.arange(150) % 3, np.arange(150) // 2
    noise = rng.normal(size=(150, 10))
    planted = noise + 3 * np.eye(10)[y]
    fold = linear_probe.assign_folds(groups, 5)
    found, lost = (
        linear_probe.evaluate_probe(
            y, linear_probe.out_of_fold_predictions(x, y, groups, fold), groups
        )
        for x in (planted, noise)
    )
    assert found["auc"]["value"] > 0.95 and found["balanced_accuracy"]["value"] > 0.85
    # three standard errors
    assert (
        abs(lost["auc"]["value"] - 0.5) < 0.12
        and abs(lost["balanced_accuracy"]["value"] - 1 / 3) < 0.15
    )
    assert (
        found["auc"]["low"] <= found["auc"]["value"] <= found["auc"]["high"]
        and found["auc"]["n"] == 150
    )


def test_nothing_of_a_held_out_patient_is_learnt():
    """Each patient has a label at random and a code of his own: remembered, the code gives the
    label; held out, it gives nothing.
    """
    rng = np.random.default_rng(1)
    groups = np.repeat(np.arange(40), 4)
    y, x = (
        rng.permutation(np.arange(40) % 2)[groups],
        np.eye(40)[groups] + rng.normal(0, 0.01, (160, 40)),
    )
    apart, mixed = (
        metrics.auc(
            y,
            linear_probe.out_of_fold_predictions(x, y, groups if safe else np.arange(160), fold)[
                :, 1
            ],
        )
        for safe, fold in (
            (True, linear_probe.assign_folds(groups, 4)),
            (False, np.arange(160) % 4),
        )
    )
    assert mixed > 0.95 and apart < 0.6
    # every patient has films in both sources: leaving a source out must leave him out too
    sources = np.arange(160) % 2
    with pytest.raises(ValueError, match="0 films to learn from"):
        linear_probe.out_of_fold_predictions(x, y, groups, sources)


def test_a_class_that_no_other_source_has_gets_nothing():
    y, site = np.array([0, 1] * 20 + [0, 2] * 10), np.repeat(["a", "b"], [40, 20])
    x = np.random.default_rng(0).normal(size=(60, 3))
    p = linear_probe.out_of_fold_predictions(x, y, np.arange(60), site)
    assert (p[site == "b", 2] == 0).all() and (p[site == "a", 1] == 0).all()
    np.testing.assert_allclose(p.sum(1), 1)
    with pytest.raises(ValueError, match="fewer than two patients"):
        linear_probe.fit_probe(x, np.r_[y[:-1], 3], np.arange(60))


def test_scores_of_hospitals_are_averaged_not_pooled():
    """Perfect inside each hospital, opposite between them: pooled ranking is chance, the mean over
    sites is 1.
    """
    y, site = np.tile([0, 1], 20), np.repeat(["a", "b"], 20)
    score = y + 10.0 * (site == "b")
    p = np.stack([-score, score], 1)
    assert linear_probe.evaluate_probe(y, p, np.arange(40), site, draws=50)["auc"]["value"] == 1
    assert linear_probe.evaluate_probe(y, p, np.arange(40), draws=50)["auc"][
        "value"
    ] == pytest.approx(0.75)
    assert linear_probe.mean_over_sites(metrics.macro_auc)(y, p, site) == 1


def test_the_model_is_compared_with_the_best_baseline_on_the_same_images():
    rng = np.random.default_rng(0)
    y, groups = np.arange(200) % 2, np.arange(200) // 2
    scores = {"weak": y + rng.normal(0, 3, 200), "strong": y + rng.normal(0, 1, 200)}
    model = y + rng.normal(0, 0.2, 200)
    out = linear_probe.compare_with_best(metrics.auc, y, model, scores, groups)
    assert out["baseline"] == "strong" and out["low"] > 0
    assert out["difference"] == pytest.approx(
        metrics.auc(y, model) - metrics.auc(y, scores["strong"])
    )
    assert out["values"] == {name: metrics.auc(y, p) for name, p in scores.items()}

    def mse(y, p):
        return float(np.mean((y - p) ** 2))

    worse = linear_probe.compare_with_best(mse, y, np.full(200, 5.0), scores, groups, best=min)
    assert worse["baseline"] == "strong" and worse["low"] > 0, "an error: more is worse"


def test_a_source_is_told_from_the_border(table, tmp_path):
    y = table["site"].map("abc".index).to_numpy()
    rows, scores = linear_probe.run_probes(
        ["border", "lung shape"],
        y,
        table,
        linear_probe.assign_folds(table["group_id"].to_numpy(), 4),
        PROFILE,
        Store(tmp_path),
        more={"the label itself": np.eye(3)[y]},
    )
    value = rows.set_index(["features", "score"])["value"]
    assert list(scores) == ["border", "lung shape", "the label itself"] and scores[
        "border"
    ].shape == (24, 3)
    assert (
        value["the label itself", "auc"] == 1
        and value["border", "auc"] > 0.7
        and 0.2 < value["lung shape", "auc"] < 0.7
    )


# cells


def test_cells_are_predicted_by_other_folds_alone():
    """Feature 0 shows the truth; feature 1 shows it in fold 0, and its opposite elsewhere."""
    rng = np.random.default_rng(0)
    fold = np.repeat(np.arange(4), 20)
    y = rng.random((80, 12, 12)) < 0.5
    planted = np.where(fold == 0, 1, -1)[:, None, None] * (2 * y - 1.0)
    noise = rng.normal(0, 0.1, y.shape)
    inside = np.ones_like(y)
    inside[:, 0] = False  # of the first row of cells the labels are wrong, and teach nothing
    wrong = y.copy()
    wrong[:, 0] = ~y[:, 0]
    own = linear_probe.out_of_fold_cells((2 * y - 1.0 + noise)[..., None], wrong, inside, fold)
    assert ((own > 0) == y).all()
    other = linear_probe.out_of_fold_cells((planted + noise)[..., None], wrong, inside, fold)
    assert ((other[fold == 0] > 0) != y[fold == 0]).all()
    assert ((other[fold > 0] > 0) == y[fold > 0]).all()
