"""Images of which the diagnosis sees a part, the box around the lungs or the lungs alone: made
once, keyed by who drew the lungs, and what the saliency benchmark is given of them.
"""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from cxrkit.config import profiles
from cxrkit.config.vocabulary import COLUMNS, FRAMINGS
from cxrkit.data import masked_images
from cxrkit.pipeline import derived, makers, stages
from cxrkit.storage.artifacts import Store

SIZE = 32


def profile_of(framing):
    demo = profiles.demo()
    return replace(demo, image_size=SIZE, sources=replace(demo.sources, framing=framing))


PROFILE = profile_of("lungs")
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
    found = derived.framed(PROFILE, table, store, SEGMENTER)
    assert list(found["origin"]) == list(table["path"])
    assert found.drop(columns="origin").columns.equals(table.columns)
    for before, after in zip(found["origin"], found["path"], strict=True):
        black = cv2.imread(after, cv2.IMREAD_GRAYSCALE)
        np.testing.assert_array_equal(black, left_half_alone(before))
    made = Path(found["path"][0]).stat().st_mtime_ns
    again = derived.framed(PROFILE, table, store, SEGMENTER)
    assert Path(again["path"][0]).stat().st_mtime_ns == made
    segmented(0)
    others = derived.framed(PROFILE, table, store, SEGMENTER)
    assert others["path"][0] != found["path"][0], "other lungs are other images"
    padded = replace(PROFILE, choices=replace(PROFILE.choices, resize="pad"))
    with pytest.raises(ValueError, match="resize must be 'plain', not 'pad'"):
        derived.framed(padded, table, store, SEGMENTER)


def test_a_crop_is_the_box_around_the_lungs_and_so_are_its_masks(tmp_path, monkeypatch):
    """Lungs in rows 8 to 19 and columns 4 to 15: a twelfth of 12 px is a margin of 1."""
    table = images_of(tmp_path, ["normal", "covid19"])
    lung, lesion = np.zeros((2, SIZE, SIZE), np.uint8)
    lung[8:20, 4:16] = 255
    lesion[10:14, 6:9] = 255
    for name, mask in (("lung", lung), ("lesion", lesion)):
        cv2.imwrite(str(tmp_path / f"{name}.png"), mask)
    table["lesion_mask"] = [None, str(tmp_path / "lesion.png")]
    monkeypatch.setattr(
        derived,
        "with_masks",
        lambda profile, rows, store, segmenter: rows.assign(lung_mask=str(tmp_path / "lung.png")),
    )
    store = Store(tmp_path / "store")
    found = derived.framed(profile_of("crop"), table, store, SEGMENTER)
    assert list(found["origin"]) == list(table["path"])
    box = slice(7, 21), slice(3, 17)
    for before, after in zip(found["origin"], found["path"], strict=True):
        whole, part = (cv2.imread(path, cv2.IMREAD_GRAYSCALE) for path in (before, after))
        np.testing.assert_array_equal(part, whole[box])
    masks = cv2.imread(found["lung_mask"][0], 0), cv2.imread(found["lesion_mask"][1], 0)
    np.testing.assert_array_equal(masks[0], lung[box])
    np.testing.assert_array_equal(masks[1], lesion[box])
    assert pd.isna(found["lesion_mask"][0])


def test_a_mask_without_lungs_crops_nothing():
    image = np.arange(30, dtype=np.uint16).reshape(5, 6)
    empty = np.full((5, 6), 127, np.uint8)  # nobody has annotated here
    np.testing.assert_array_equal(masked_images.frame(image, empty, "crop", "robust"), image)


def test_an_unknown_framing_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="unknown framing of the diagnosis 'box'; known: .*crop"):
        profile_of("box")


@pytest.mark.parametrize("framing", FRAMINGS)
def test_what_a_diagnosis_sees_may_depend_on_who_segments_the_lungs(framing):
    mini = replace(profiles.mini(), sources=replace(profiles.mini().sources, framing=framing))
    other = replace(mini, segmenter=replace(mini.segmenter, mirror=not mini.segmenter.mirror))
    for stage in ("diagnosis", "diagnosis_pa", "saliency_benchmark"):
        same = stages.settings(mini, stage) == stages.settings(other, stage)
        assert same == (framing == "whole"), stage
    needed = ("segmenter", other) in stages.upstream(other, "diagnosis")
    assert needed == (framing != "whole")


def test_the_saliency_benchmark_is_given_what_the_model_sees_and_the_true_lungs(
    tmp_path, monkeypatch
):
    table = images_of(tmp_path, ["covid19", "covid19"], "virtual")
    table = with_mask(table, tmp_path).assign(split=["train", "test"], view="PA")
    table["lesion_mask"] = table["lung_mask"]
    monkeypatch.setattr(makers, "images_for", lambda profile, task, store, cohort: table)
    inputs = makers.StageInputs(Store(tmp_path / "store"), {"segmenter": SEGMENTER})
    assert makers.saliency_images(profile_of("whole"), inputs) is table
    found = makers.saliency_images(PROFILE, inputs)
    assert len(found) == 1, "training images are not evaluated"
    assert found["lung_mask"][0] == table["lung_mask"][1]
    black = cv2.imread(found["path"][0], cv2.IMREAD_GRAYSCALE)
    np.testing.assert_array_equal(black, left_half_alone(found["origin"][0]))


def test_few_virtual_images_are_framed_for_the_saliency_benchmark(tmp_path, monkeypatch):
    """Each is drawn first, which takes most of a second: not all of the hospitals' films."""
    few = replace(PROFILE, saliency_images=1)
    table = images_of(tmp_path, ["covid19"] * 15 + ["normal"], "virtual")
    table = with_mask(table, tmp_path).assign(split="test", view=["PA", "AP"] * 8)
    table["lesion_mask"] = table["lung_mask"]
    table.loc[0, "lesion_mask"] = None
    monkeypatch.setattr(makers, "images_for", lambda profile, task, store, cohort: table)
    inputs = makers.StageInputs(Store(tmp_path / "store"), {"segmenter": SEGMENTER})
    found = makers.saliency_images(few, inputs)
    taken = found.groupby("view")["origin"].agg(list)
    paths = table["path"].tolist()
    # evenly from the first to the last of those with lesions: 2, 4 .. 14 and 1, 3 .. 13
    assert taken["PA"] == [paths[i] for i in (2, 6, 10, 14)]
    assert taken["AP"] == [paths[i] for i in (1, 5, 9, 13)]
