"""Severity maps beside maps that see no film."""

from dataclasses import replace

import cv2
import numpy as np
import pandas as pd
import pytest

from cxrkit.config import profiles
from cxrkit.evaluation import localisation

SIZE = 64


def profile():
    """Masks are compared at the size at which they are drawn."""
    return replace(profiles.demo(), image_size=SIZE)


@pytest.fixture
def table(tmp_path):
    """Six patients with lungs of one shape; lesions low in the right one, in two places in turn."""
    lung = np.zeros((SIZE, SIZE), np.uint8)
    lung[10:50, 8:26] = lung[10:50, 38:56] = 255
    cv2.imwrite(str(tmp_path / "lungs.png"), lung)
    rows = []
    for i in range(6):
        lesion = np.zeros_like(lung)
        lesion[40:48, 10 + 7 * (i % 2) : 16 + 7 * (i % 2)] = 255
        path = tmp_path / f"lesion{i}.png"
        cv2.imwrite(str(path), lesion)
        rows.append((str(tmp_path / "lungs.png"), str(path), f"patient{i}"))
    return pd.DataFrame(rows, columns=["lung_mask", "lesion_mask", "group_id"])


def lesions_of(table):
    return np.stack([cv2.imread(path, 0) / 255.0 for path in table["lesion_mask"]])


def test_a_perfect_map_beats_every_prior_and_a_blind_one_none(table):
    perfect = localisation.against_priors(lesions_of(table), table, profile())
    assert perfect["map"]["value"] == pytest.approx(1)
    assert perfect["map_minus_best_prior"]["low"] > 0
    blind = np.zeros((6, SIZE, SIZE))
    found = localisation.against_priors(blind, table, profile())
    assert found["map"]["value"] == pytest.approx(0.5)
    assert found["map_minus_best_prior"]["high"] < 0


def test_height_is_counted_by_hand(table):
    """Lesion rows 40 to 47 of lung rows 10 to 49, pixel by pixel: a slow count of pairs."""
    found = localisation.against_priors(np.zeros((6, SIZE, SIZE)), table, profile())
    lung = cv2.imread(table["lung_mask"][0], 0) > 0
    lesion = lesions_of(table)[0] > 0
    rows = np.broadcast_to(np.arange(SIZE)[:, None], lung.shape)
    ill, well = rows[lesion & lung], rows[lung & ~lesion]
    wins = (ill[:, None] > well).sum() + 0.5 * (ill[:, None] == well).sum()
    assert found["height"]["value"] == pytest.approx(wins / (len(ill) * len(well)))


def test_the_mean_lesion_is_that_of_other_patients(table):
    """Two of the three other films of one place are left: an image does not see its own lesion."""
    alone = table.iloc[:2].reset_index(drop=True)  # the places differ, so each misleads the other
    misled = localisation.against_priors(np.zeros((2, SIZE, SIZE)), alone, profile())
    several = localisation.against_priors(np.zeros((6, SIZE, SIZE)), table, profile())
    own = localisation.against_priors(np.zeros((2, SIZE, SIZE)), alone, profile(), reference=alone)
    values = [one["mean_lesion"]["value"] for one in (misled, several, own)]
    assert values[0] < values[1] < values[2]


def test_what_cannot_be_compared_is_left_out(table):
    nothing = table.assign(lesion_mask=table["lung_mask"])  # all of the lungs: no pixel without
    assert localisation.against_priors(np.zeros((6, SIZE, SIZE)), nothing, profile()) == {}
    one = table.head(1)
    assert localisation.against_priors(np.zeros((1, SIZE, SIZE)), one, profile()) == {}
