"""Images that are black outside of the lungs: made once, keyed by who drew the lungs, and what the
saliency benchmark is given of them.
"""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from cxrkit.config import profiles
from cxrkit.config.vocabulary import COLUMNS
from cxrkit.pipeline import derived, makers, stages
from cxrkit.storage.artifacts import Store

SIZE, PROFILE = 32, replace(profiles.demo(), image_size=32)
SEGMENTER = Path("segmenter-none")  # masks come from elsewhere in these tests


def images_of(folder, classes, dataset="nih_cxr14"):
    """A table of images of noise."""
    rng, rows = np.random.default_rng(len(classes)), []
    for i, name in enumerate(classes):
        path = str(folder / f"{dataset}{i}.png")
        cv2.imwrite(path, rng.integers(60, 200, (SIZE, SIZE)).astype(np.uint8))
        rows.append({"path": path, "dataset": dataset, "diagnosis": name, "external": False})
    return pd.DataFrame(rows).reindex(columns=[*COLUMNS, "external"])


def with_mask(table, folder, value=255):
    """The table with a mask for each image: the left half, or another value everywhere."""
    mask = np.full((SIZE, SIZE), value, np.uint8)
    mask[:, 16:] = 0 if value == 255 else value
    cv2.imwrite(str(folder / f"lung{value}.png"), mask)
    return table.assign(lung_mask=str(folder / f"lung{value}.png"))


def left_half_alone(path):
    """An image, black outside of its left half."""
    return np.where(np.arange(SIZE) < 16, cv2.imread(path, cv2.IMREAD_GRAYSCALE), 0)


def test_images_with_nothing_but_lungs_are_made_once_and_remember_what_they_were(
    tmp_path, monkeypatch
):
    """Real images get the lungs of the segmenter, virtual ones keep their own."""
    table = images_of(tmp_path, ["normal", "other_infection"])
    table = with_mask(table, tmp_path, 0).assign(dataset=["nih_cxr14", "virtual"])
    table.loc[1, "lung_mask"] = with_mask(table, tmp_path)["lung_mask"][1]
    store = Store(tmp_path / "store")

    def segmented(value):
        def masks(profile, rows, store, segmenter):
            return with_mask(rows, tmp_path, value)

        monkeypatch.setattr(derived, "with_masks", masks)

    segmented(255)
    found = derived.lungs_only(PROFILE, table, store, SEGMENTER)
    assert list(found["origin"]) == list(table["path"])
    assert found.drop(columns="origin").columns.equals(table.columns)
    for before, after in zip(found["origin"], found["path"], strict=True):
        black = cv2.imread(after, cv2.IMREAD_GRAYSCALE)
        np.testing.assert_array_equal(black, left_half_alone(before))
    made = Path(found["path"][0]).stat().st_mtime_ns
    again = derived.lungs_only(PROFILE, table, store, SEGMENTER)
    assert Path(again["path"][0]).stat().st_mtime_ns == made
    segmented(0)
    others = derived.lungs_only(PROFILE, table, store, SEGMENTER)
    assert others["path"][0] != found["path"][0], "other lungs are other images"
    padded = replace(PROFILE, choices=replace(PROFILE.choices, resize="pad"))
    with pytest.raises(ValueError, match="resize must be 'plain', not 'pad'"):
        derived.lungs_only(padded, table, store, SEGMENTER)


@pytest.mark.parametrize("lungs_only", [True, False])
def test_who_sees_nothing_but_lungs_depends_on_who_segments_them(lungs_only):
    mini = replace(profiles.mini(), sources=replace(profiles.mini().sources, lungs_only=lungs_only))
    other = replace(mini, segmenter=replace(mini.segmenter, mirror=not mini.segmenter.mirror))
    for stage in ("diagnosis", "diagnosis_pa", "saliency_benchmark"):
        same = stages.settings(mini, stage) == stages.settings(other, stage)
        assert same != lungs_only, stage
    assert (("segmenter", other) in stages.upstream(other, "diagnosis")) == lungs_only


def test_the_saliency_benchmark_is_given_what_the_model_sees_and_the_true_lungs(
    tmp_path, monkeypatch
):
    table = images_of(tmp_path, ["normal", "covid19"], "virtual")
    table = with_mask(table, tmp_path).assign(split=["train", "test"])
    monkeypatch.setattr(makers, "images_for", lambda profile, task, store, cohort: table)
    inputs = makers.StageInputs(Store(tmp_path / "store"), {"segmenter": SEGMENTER})
    assert makers.saliency_images(PROFILE, inputs) is table
    sees = replace(PROFILE, sources=replace(PROFILE.sources, lungs_only=True))
    found = makers.saliency_images(sees, inputs)
    assert len(found) == 1, "training images are not evaluated"
    assert found["lung_mask"][0] == table["lung_mask"][1]
    black = cv2.imread(found["path"][0], cv2.IMREAD_GRAYSCALE)
    np.testing.assert_array_equal(black, left_half_alone(found["origin"][0]))
