"""Severity maps against the true extent of the lesions, and against priors that see no film.

The virtual hospitals know that extent, and of some real films radiologists outlined it. The paper
shows its maps beside annotated lesions (Figure 7, 12 images) and gives no number; here are four.
N images, H W map.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pandas as pd
from sklearn.metrics import average_precision_score, roc_auc_score

from cxrkit.data import lung_zones
from cxrkit.data.cache import cached_images
from cxrkit.evaluation import overlap, priors
from cxrkit.evaluation.summaries import mean_dict

if TYPE_CHECKING:
    from cxrkit.config.choices import Choices
    from cxrkit.config.sections import Profile
    from cxrkit.storage.artifacts import Store

THRESHOLDS = np.arange(1, 20) / 20  # tried for contours
HALF = 9  # index of the threshold 0.5
MEASURES = ("auprc", "chance", "pointing", "pointing_chance")  # beside dice
PRIORS = ("height", "from_midline", "mean_lesion")  # maps that see no film
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
            "dice": mean_dict(images["dice"][:, best], groups, DRAWS),
            **{name: mean_dict(images[name], groups, DRAWS) for name in MEASURES},
        }
        if fixed:
            out[split]["threshold_from"] = "fixed"
    return out


def against_priors(
    maps: np.ndarray,
    table: pd.DataFrame,
    profile: Profile,
    store: Store | None = None,
    reference: pd.DataFrame | None = None,
) -> dict[str, Any]:
    """AUROC of severity maps among the pixels of the lungs, beside maps that see no film.

    Args:
        maps: (N, H, W) in [0, 1].
        table: Of their images, which all have a `lesion_mask` and a `lung_mask`.
        profile: Its image size and choices.
        store: Where the image cache lies.
        reference: Images with lesions that make the mean lesion, such as those of validation; None
            = for each image those of other patients of `table`.

    Returns:
        `map`, `height`, `from_midline` and `mean_lesion`: the mean AUROC over images, with its
        interval by patient, of the images whose lungs have pixels with and without a lesion;
        `best_prior`, the name of the highest prior, and `map_minus_best_prior`, the paired
        difference. {} where fewer than two patients count.
    """
    lesions, lungs = true_masks(table, profile, store, maps.shape[-1])
    covered = (lesions & lungs).sum(axis=(1, 2))
    counted = np.flatnonzero((covered > 0) & (covered < lungs.sum(axis=(1, 2))))
    groups = table["group_id"].to_numpy()
    if len(np.unique(groups[counted])) < 2:
        return {}
    if reference is None:
        fits = _mean_lesions(lesions[counted], lungs[counted], groups[counted])
    else:
        known = true_masks(reference, profile, store, maps.shape[-1])
        some = known[1].any(axis=(1, 2))
        fits = [priors.mean_lesion(known[0][some], known[1][some])] * len(counted)
    values: dict[str, list[float]] = {name: [] for name in ("map", *PRIORS)}
    for i, fit in zip(counted, fits, strict=True):
        shown = (
            maps[i],
            priors.height(lungs[i]),
            priors.from_midline(lungs[i]),
            fit(lungs[i]),
        )
        for name, one in zip(values, shown, strict=True):
            values[name].append(roc_auc_score(lesions[i][lungs[i]], one[lungs[i]]))
    arrays = {name: np.array(found) for name, found in values.items()}
    best = max(PRIORS, key=lambda name: arrays[name].mean())
    out: dict[str, Any] = {
        name: mean_dict(found, groups[counted], DRAWS) for name, found in arrays.items()
    }
    less = arrays["map"] - arrays[best]
    return out | {
        "best_prior": best,
        "map_minus_best_prior": mean_dict(less, groups[counted], DRAWS),
    }


def _mean_lesions(lesions: np.ndarray, lungs: np.ndarray, groups: np.ndarray) -> list[Any]:
    """For each image the mean lesion of the other patients' images."""
    made = {}
    for group in np.unique(groups):
        others = groups != group
        made[group] = priors.mean_lesion(lesions[others], lungs[others])
    return [made[group] for group in groups]


def true_masks(
    table: pd.DataFrame, profile: Profile, store: Store | None, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Lesions and lungs of images at the size of a map, bool (N, size, size)."""
    at_size = (profile.image_size, profile.choices)
    found = []
    for column, kind in (("lesion_mask", "lesion"), ("lung_mask", "lungs")):
        masks = cached_images(table[column], *at_size, kind=kind, store=store)
        found.append(np.stack([_fit_mask(mask, size) for mask in masks]))
    return found[0], found[1]


def _compare_all(
    maps: np.ndarray, table: pd.DataFrame, profile: Profile, store: Store | None
) -> dict[str, np.ndarray]:
    """`compare_with_lesion` of the images with a lesion: arrays (n, ...), and their `groups`."""
    lesions, lungs = true_masks(table, profile, store, maps.shape[-1])
    rows, kept = [], []
    for i, severity_map in enumerate(maps):
        lesion, lung = lesions[i], lungs[i]
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
