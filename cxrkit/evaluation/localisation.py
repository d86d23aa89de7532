"""Severity maps against the true extent of the lesions, which only the virtual hospitals know.

The paper shows its maps beside annotated lesions (Figure 7, 12 images) and gives no number; here
are three. N images, H W map.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pandas as pd
from sklearn.metrics import average_precision_score

from cxrkit.data import lung_zones
from cxrkit.data.cache import cached_images
from cxrkit.evaluation import overlap, resampling
from cxrkit.evaluation.summaries import interval_dict

if TYPE_CHECKING:
    from cxrkit.config.choices import Choices
    from cxrkit.config.sections import Profile
    from cxrkit.storage.artifacts import Store

THRESHOLDS = np.arange(1, 20) / 20  # tried for contours
HALF = 9  # index of the threshold 0.5
MEASURES = ("auprc", "chance", "pointing", "pointing_chance")  # beside dice
DRAWS = 400  # of patients, for an interval


def evaluate_maps(
    maps: Mapping[str, tuple[np.ndarray, pd.DataFrame]],
    profile: Profile,
    store: Store | None = None,
) -> dict[str, dict[str, Any]]:
    """Severity maps of each split against the true lesions.

    Args:
        maps: {"val": (maps, table), ...}: maps (N, H, W) in [0, 1] and the table of their images,
            which all have a `lesion_mask` and a `lung_mask`.
        profile: Its image size and choices.
        store: Where the image cache lies.

    Returns:
        {split: measures} of the splits in which a lesion lies in a lung. Each measure is a mean
        over images with such a lesion, with its interval by patient: `dice` at the contour
        `threshold` that is best on validation and carried over; `auprc`, average precision of the
        lung's pixels, beside the lesion's share of the lung (`chance`); `pointing`, the share of
        the truly involved zones whose largest value lies on the lesion, beside the lesion's share
        of those zones (`pointing_chance`). Without "val" the threshold is that of HALF, and
        `threshold_from` says "fixed".
    """
    found = {}
    for split, (severity_maps, table) in maps.items():
        compared = _compare_all(severity_maps, table, profile, store)
        if len(compared["groups"]):
            found[split] = compared
    fixed = "val" not in found
    best = HALF if fixed else int(found["val"]["dice"].mean(axis=0).argmax())
    out = {}
    for split, images in found.items():
        groups = images["groups"]
        out[split] = {
            "threshold": float(THRESHOLDS[best]),
            "dice": _mean(images["dice"][:, best], groups),
            **{name: _mean(images[name], groups) for name in MEASURES},
        }
        if fixed:
            out[split]["threshold_from"] = "fixed"
    return out


def _mean(values: np.ndarray, groups: np.ndarray) -> dict[str, float | int | None]:
    """Mean of the values (n,) that are known, with its interval by patient."""
    triple = resampling.bootstrap(np.nanmean, values, groups=groups, draws=DRAWS)
    return interval_dict(triple, int(np.isfinite(values).sum()))


def _compare_all(
    maps: np.ndarray, table: pd.DataFrame, profile: Profile, store: Store | None
) -> dict[str, np.ndarray]:
    """`compare_with_lesion` of the images with a lesion: arrays (n, ...), and their `groups`."""
    size = maps.shape[-1]
    at_size = (profile.image_size, profile.choices)
    lesions = cached_images(table["lesion_mask"], *at_size, kind="lesion", store=store)
    lungs = cached_images(table["lung_mask"], *at_size, kind="lungs", store=store)
    rows, kept = [], []
    for i, severity_map in enumerate(maps):
        lesion = _fit_mask(lesions[i], size)
        lung = _fit_mask(lungs[i], size)
        if (lesion & lung).any():
            rows.append(compare_with_lesion(severity_map, lesion & lung, lung, profile.choices))
            kept.append(i)
    names = ("dice", *MEASURES)
    out = {name: np.array([row[name] for row in rows]) for name in names}
    out["groups"] = table["group_id"].to_numpy()[kept]
    return out


def _fit_mask(mask: np.ndarray, size: int) -> np.ndarray:
    """A mask (S, S) of 0, 127, 255 at the size of the map: bool (size, size)."""
    return cv2.resize(mask, (size, size), interpolation=cv2.INTER_NEAREST_EXACT) == 255


def compare_with_lesion(
    severity_map: np.ndarray, lesion: np.ndarray, lung: np.ndarray, choices: Choices
) -> dict[str, Any]:
    """One severity map against the true lesion.

    Args:
        severity_map: In [0, 1], (H, W).
        lesion: Bool, inside the lung, (H, W).
        lung: Bool, (H, W).
        choices: How the lung is divided into zones.

    Returns:
        The values of `evaluate_maps` for one image; `dice` at each of THRESHOLDS.
    """
    zones = lung_zones.zones(lung[None], choices)[0].reshape(6, *lung.shape)  # (6, H, W)
    involved = [zone for zone in zones if (zone & lesion).any()]
    hits = []
    for zone in involved:
        highest = np.argmax(np.where(zone, severity_map, -1))
        hits.append(lesion.flat[highest])
    return {
        "dice": [overlap.dice(lesion, severity_map >= cut) for cut in THRESHOLDS],
        "auprc": average_precision_score(lesion[lung], severity_map[lung]),
        "chance": lesion[lung].mean(),
        "pointing": np.mean(hits),
        "pointing_chance": np.mean([lesion[zone].mean() for zone in involved]),
    }
