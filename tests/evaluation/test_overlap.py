"""Masks compared: against scikit-learn, a slow loop over outlines, and films worked by hand."""

import math

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as sk

from cxrkit.evaluation import overlap


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_overlap_by_hand_and_sklearn(rng):
    a, b = rng.integers(0, 2, (2, 20, 30)).astype(bool)
    assert overlap.dice(a, b) == pytest.approx(sk.f1_score(a.ravel(), b.ravel()))
    assert overlap.jaccard(a, b) == pytest.approx(sk.jaccard_score(a.ravel(), b.ravel()))
    assert math.isnan(overlap.dice(a & False, b & False)) and math.isnan(
        overlap.jaccard(a & False, b & False)
    )
    truth = np.where(rng.random((20, 30)) < 0.3, 127, a * 255).astype(np.uint8)
    inside = truth != 127
    assert overlap.dice(truth, b * 255) == pytest.approx(sk.f1_score(a[inside], b[inside]))
    assert overlap.jaccard(truth, b) == pytest.approx(sk.jaccard_score(a[inside], b[inside]))
    with pytest.raises(ValueError, match="different size"):
        overlap.dice(a, b[:10])


def slow_surface_distance(a, b):
    """Outline pixels have a 4-neighbour outside; every pair of outline pixels."""

    def outline(mask):
        padded = np.pad(mask, 1)
        return [
            (i, j)
            for i, j in np.argwhere(mask)
            if not all(
                padded[i + 1 + di, j + 1 + dj] for di, dj in ((0, 1), (1, 0), (0, -1), (-1, 0))
            )
        ]

    ea, eb = outline(a), outline(b)
    return np.mean(
        [min(math.dist(p, q) for q in other) for own, other in ((ea, eb), (eb, ea)) for p in own]
    )


def test_surface_distance(rng):
    a, b = np.zeros((2, 24, 24), bool)
    a[4:15, 3:12], b[6:18, 5:12] = True, True
    assert overlap.surface_distance(a, b) == pytest.approx(slow_surface_distance(a, b))
    assert overlap.surface_distance(a, b, spacing=0.5) == pytest.approx(
        slow_surface_distance(a, b) / 2
    )
    assert overlap.surface_distance(a, a) == 0 and math.isnan(
        overlap.surface_distance(a, b & False)
    )
    # a lung that the ignored area cuts has no outline there, and the prediction may go on inside it
    truth = np.where(np.arange(24) < 8, a * 255, 127).astype(np.uint8)
    assert overlap.surface_distance(truth, a) == 0
    assert overlap.surface_distance(np.where(truth == 127, 0, truth), a) > 0.5


def test_compare_by_hand():
    truth, lesion = np.zeros((20, 40), np.uint8), np.zeros((20, 40), np.uint8)
    truth[4:14, 2:12], truth[4:14, 22:32] = 255, 255
    lesion[4:9, 2:12] = 255
    mask = truth == 255
    mask[4:9, 2:12] = False
    out = overlap.compare_masks(truth, mask, lesion)
    assert out["dice"] == pytest.approx(2 * 150 / 350) and out["jaccard"] == pytest.approx(
        150 / 200
    )
    assert out["dice_right"] == pytest.approx(100 / 150) and out["dice_left"] == 1
    assert out["opaque"] == 0.5 and out["missed"] == 1
    assert np.isnan(overlap.compare_masks(truth, mask)["missed"])
    assert overlap.compare_masks(truth, truth == 255)["assd"] == 0


def test_brightness_runs_from_healthy_lung_to_the_chest_wall():
    lung, ill = np.zeros((32, 32), bool), np.zeros((32, 32), bool)
    lung[8:24, 4:14], ill[8:12, 4:14] = True, True
    image = np.full((32, 32), 200, np.uint8)
    image[lung] = 50
    for grey, bright in ((50, 0), (125, 0.5), (200, 1), (20, -0.2)):
        image[ill] = grey
        assert overlap.lesion_brightness(image, lung, ill) == pytest.approx(bright)
        assert overlap.compare_masks(
            255 * lung.astype(np.uint8), lung, 255 * ill.astype(np.uint8), image
        )["bright"] == pytest.approx(bright)
    assert np.isnan(overlap.lesion_brightness(image, lung, lung)) and np.isnan(
        overlap.lesion_brightness(image, lung, ~lung & False)
    )


def test_what_is_not_annotated_does_not_count():
    truth = np.zeros((20, 40), np.uint8)
    truth[4:14, 2:12], truth[4:14, 22:32], truth[14:] = 255, 255, 127
    mask = truth == 255
    mask[14:18] = True
    assert overlap.compare_masks(truth, mask)["dice"] == 1


def test_gain_pairs_the_films_of_two_networks():
    rows = [
        {
            "path": f"{i}",
            "group_id": f"g{i // 2}",
            "diagnosis": "covid19",
            "zones": 5,
            "opaque": 0.4,
            "bright": 0.1,
            "network": name,
            "dice": 0.8 + 0.01 * i + (0.05 if name == "student" else 0),
        }
        for i in range(8)
        for name in ("student", "unet_normal")
    ]
    out = overlap.gain(pd.DataFrame(rows).sample(frac=1, random_state=0))
    assert set(out) == {"abnormal", "zones_4_6", "opaque"} and out["opaque"]["n"] == 8
    assert [out["opaque"][k] for k in ("value", "low", "high")] == pytest.approx([0.05] * 3)


def test_headroom_is_the_ceiling_above_the_unet_of_normal_lungs():
    rows = pd.DataFrame(
        {
            "path": [*"ab"],
            "group_id": [*"ab"],
            "diagnosis": "covid19",
            "zones": 5,
            "opaque": 0.0,
            "bright": 0.1,
        }
    )
    compared = pd.concat(
        [
            rows.assign(network=name, dice=dice)
            for name, dice in {"student": 0.90, "unet_normal": 0.92, "unet_both": 0.95}.items()
        ]
    )
    out = overlap.gains(compared)
    assert out["gain"]["zones_4_6"]["value"] == pytest.approx(-0.02) and out["headroom"][
        "zones_4_6"
    ]["value"] == pytest.approx(0.03)
    assert set(overlap.gains(compared[compared["network"] != "unet_both"])) == {"gain"}


def test_report_has_an_entry_for_each_external_site():
    rows = pd.DataFrame(
        {
            "path": [*"abcd"],
            "group_id": [*"abcd"],
            "dataset": "made",
            "site": [*"xxyz"],
            "external": [0, 0, 1, 1],
            "diagnosis": "normal",
            "zones": 0,
            "opaque": 0.0,
            "bright": np.nan,
            "network": "student",
            **dict.fromkeys(overlap.MEASURES, 0.9),
        }
    )
    both = pd.concat([rows, rows.assign(network="unet_normal")])
    out = overlap.report(both)
    assert (
        list(out) == ["test", "external", "sites"]
        and list(out["sites"]) == ["y", "z"]
        and list(out["sites"]["z"]) == ["student", "unet_normal"]
    )
    assert out["test"]["student"]["normal"]["dice"] == {
        "value": 0.9,
        "low": 0.9,
        "high": 0.9,
        "n": 2,
    }
    assert overlap.summary_table(out).loc["student", "normal"] == "0.900 [0.900, 0.900]"
