"""Agreement of lung masks with the truth, by lung and kind of image, and method against method.

H W image, N images. Masks are bool; truth is uint8 of 0, 127 (ignore), 255.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import cv2
import numpy as np
import pandas as pd
from scipy import ndimage

from cxrkit.data import lung_zones
from cxrkit.data.masks import IGNORE
from cxrkit.evaluation import resampling
from cxrkit.evaluation.summaries import SITES, interval_dict, mean_dict, value_text

MEASURES = ("dice", "jaccard", "assd", "dice_right", "dice_left", "missed")
MEASURE_DRAWS = 300  # of patients, for the interval of a measure
OPAQUE = 0.3  # of a lung's area: a lesion that covers more makes an opaque lung
# of the way from healthy lung to the chest wall: a lesion that is brighter may be taken for wall
BRIGHT = 0.5
BASELINE = "unet_normal"  # the network that saw normal lungs only
GAINS = {"gain": "student", "headroom": "unet_both"}  # over the baseline, by which network


# one mask against the truth


def _masks(
    truth: np.ndarray, mask: np.ndarray, ignore: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The truth without what is ignored, the mask, and what is ignored: bool (H, W) each."""
    truth, mask = np.asarray(truth), np.asarray(mask)
    if truth.shape != mask.shape:
        raise ValueError(f"masks of different size: truth {truth.shape}, mask {mask.shape}")
    skip = np.zeros(truth.shape, bool) if truth.dtype == bool else truth == ignore
    return (truth != 0) & ~skip, mask != 0, skip


def dice(truth: np.ndarray, mask: np.ndarray, ignore: int = IGNORE) -> float:
    """Dice coefficient of two masks, `2 |A and B| / (|A| + |B|)`.

    Args:
        truth: bool, or uint8 of 0, `ignore`, 255, (H, W).
        mask: bool, or 0 and other values, (H, W).
        ignore: Value of the truth where nothing is compared.

    Returns:
        0 to 1; NaN if both are empty.

    Raises:
        ValueError: For masks of different size.

    Example:
        >>> round(dice(np.array([[True, True, False]]), np.array([[True, False, False]])), 3)
        0.667
    """
    a, b, skip = _masks(truth, mask, ignore)
    total = a.sum() + (b & ~skip).sum()
    return float(2 * (a & b).sum() / total) if total else math.nan


def jaccard(truth: np.ndarray, mask: np.ndarray, ignore: int = IGNORE) -> float:
    """Jaccard index of two masks, `|A and B| / |A or B|`.

    Args:
        truth: bool, or uint8 of 0, `ignore`, 255, (H, W).
        mask: bool, or 0 and other values, (H, W).
        ignore: Value of the truth where nothing is compared.

    Returns:
        0 to 1; NaN if both are empty.

    Raises:
        ValueError: For masks of different size.

    Example:
        >>> jaccard(np.array([[True, True, False]]), np.array([[True, False, False]]))
        0.5
    """
    a, b, skip = _masks(truth, mask, ignore)
    union = ((a | b) & ~skip).sum()
    return float((a & b).sum() / union) if union else math.nan


def surface_distance(
    truth: np.ndarray, mask: np.ndarray, spacing: float = 1.0, ignore: int = IGNORE
) -> float:
    """Mean distance between the outlines of two masks, over the points of both (ASSD).

    An outline made by the edge of the ignored area is none, and outline points inside that area do
    not count.

    Args:
        truth: bool, or uint8 of 0, `ignore`, 255, (H, W).
        mask: bool, or 0 and other values, (H, W).
        spacing: Length of a pixel.
        ignore: Value of the truth where nothing is compared.

    Returns:
        In units of `spacing`; NaN if one mask is empty.

    Raises:
        ValueError: For masks of different size.
    """
    a, b, skip = _masks(truth, mask, ignore)
    edge_a = a & ~ndimage.binary_erosion(a | skip)
    edge_b = b & ~ndimage.binary_erosion(b) & ~skip
    if not (edge_a.any() and edge_b.any()):
        return math.nan
    distances = [_distance_to(edge_b)[edge_a], _distance_to(edge_a)[edge_b]]
    return spacing * float(np.concatenate(distances).mean(dtype=float))


def _distance_to(edge: np.ndarray) -> np.ndarray:
    """Distance of each pixel to the nearest pixel of an outline, (H, W)."""
    return cv2.distanceTransform((~edge).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)


def compare_masks(
    truth: np.ndarray,
    mask: np.ndarray,
    lesion: np.ndarray | None = None,
    image: np.ndarray | None = None,
) -> dict[str, float]:
    """Agreement of the mask of one image with the truth.

    Args:
        truth: uint8 of 0, 127 (ignore), 255, (H, W).
        mask: bool (H, W).
        lesion: uint8, 255 where the lesion is, (H, W).
        image: Grey levels, uint8 (H, W).

    Returns:
        `dice`, `jaccard`; `assd`, the mean distance of the outlines in % of the image side;
        `dice_right`, `dice_left` of each lung; `opaque`, the largest share of a lung that the
        lesion covers; `missed`, the share of the lesion that the mask leaves out (NaN without one);
        `bright`, its `lesion_brightness` (NaN without image).
    """
    right, left = lung_zones.sides(truth == 255)
    mask_right, mask_left = lung_zones.sides(mask)
    lesion_in_lung = np.zeros_like(right)
    if lesion is not None:
        lesion_in_lung = (lesion == 255) & (truth == 255)
    missed = math.nan
    if lesion_in_lung.any():
        missed = (lesion_in_lung & ~mask).sum() / lesion_in_lung.sum()
    bright = math.nan
    if image is not None:
        bright = lesion_brightness(image, truth == 255, lesion_in_lung)
    covered = [(lesion_in_lung & lung).sum() / max(lung.sum(), 1) for lung in (right, left)]
    ignored = truth == IGNORE
    return {
        "dice": dice(truth, mask),
        "jaccard": jaccard(truth, mask),
        "assd": surface_distance(truth, mask, spacing=100 / truth.shape[0]),
        "dice_right": dice(_truth_of_lung(right, ignored), mask_right),
        "dice_left": dice(_truth_of_lung(left, ignored), mask_left),
        "opaque": max(covered),
        "missed": missed,
        "bright": bright,
    }


def _truth_of_lung(lung: np.ndarray, ignored: np.ndarray) -> np.ndarray:
    """One lung as truth, uint8 (H, W) of 0, 127, 255."""
    return np.where(ignored, IGNORE, 255 * lung).astype(np.uint8)


def lesion_brightness(image: np.ndarray, lung: np.ndarray, lesion: np.ndarray) -> float:
    """Mean grey of the lesion between that of healthy lung and that of the chest wall.

    Args:
        image: Grey levels, (H, W).
        lung: bool (H, W).
        lesion: bool, inside the lung, (H, W).

    Returns:
        0 where the lesion is as bright as the healthy lung of the image, 1 where it is as bright as
        the chest wall close by; NaN where one of the three has no pixel.
    """
    reach = 2 * (image.shape[0] // 32) + 1
    wall = (cv2.dilate(lung.astype(np.uint8), np.ones((reach, reach))) > 0) & ~lung
    healthy = lung & ~lesion
    if not (lesion.any() and healthy.any() and wall.any()):
        return math.nan
    grey_lesion, grey_healthy, grey_wall = (
        float(image[part].mean()) for part in (lesion, healthy, wall)
    )
    if grey_wall == grey_healthy:
        return math.nan
    return (grey_lesion - grey_healthy) / (grey_wall - grey_healthy)


# groups of images; an image may be in several


def _normal(table: pd.DataFrame) -> pd.Series:
    return table["diagnosis"] == "normal"


def _abnormal(table: pd.DataFrame) -> pd.Series:
    return table["diagnosis"].isin(["other_infection", "covid19"])


def _no_zone(table: pd.DataFrame) -> pd.Series:
    return table["zones"] == 0


def _few_zones(table: pd.DataFrame) -> pd.Series:
    return table["zones"].between(1, 3)


def _many_zones(table: pd.DataFrame) -> pd.Series:
    return table["zones"].between(4, 6)


def _opaque(table: pd.DataFrame) -> pd.Series:
    return table["opaque"] > OPAQUE


def _bright(table: pd.DataFrame) -> pd.Series:
    return table["bright"] > BRIGHT


GROUPS: dict[str, Callable[[pd.DataFrame], pd.Series]] = {
    "normal": _normal,
    "abnormal": _abnormal,
    "zones_0": _no_zone,
    "zones_1_3": _few_zones,
    "zones_4_6": _many_zones,
    "opaque": _opaque,
    "bright": _bright,
}


def split_groups(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """{group: its rows} for the groups that have any."""
    parts = {group: table[rows(table)] for group, rows in GROUPS.items()}
    return {group: part for group, part in parts.items() if len(part)}


# tables of compared masks


def report(compared: pd.DataFrame) -> dict[str, Any]:
    """Agreement of several networks, by split and site.

    Args:
        compared: Rows of `compare_masks` with `path`, `group_id`, `dataset`, `site`, `external`,
            `diagnosis`, `zones`, and the `network` that made the mask.

    Returns:
        `test` (internal) and `external`, where there are such images: {network: {group: measures}}
        and the gains (`gains`); `sites`, where there are external ones: {site: {network: {group:
        measures}}}, sorted by name; `by_dataset`, where there are several: {dataset: as `test`}.
    """
    external = compared["external"].astype(bool)
    out = {}
    for split, part in {"test": compared[~external], "external": compared[external]}.items():
        if len(part):
            out[split] = {**by_network(part), **gains(part)}
    if external.any():
        sites = compared[external].groupby("site")
        out[SITES] = {str(site): by_network(part) for site, part in sites}
    if compared["dataset"].nunique() > 1:
        out["by_dataset"] = {
            name: {**by_network(part), **gains(part)} for name, part in compared.groupby("dataset")
        }
    return out


def by_network(compared: pd.DataFrame) -> dict[str, dict[str, dict]]:
    """Measures of each network by group.

    Args:
        compared: As in `report`.

    Returns:
        {network: {group: {measure: value, low, high, n}}}, intervals by patient.
    """
    out = {}
    for network, part in compared.groupby("network", sort=False):
        out[network] = {group: measures(rows) for group, rows in split_groups(part).items()}
    return out


def measures(compared: pd.DataFrame) -> dict[str, dict]:
    """Mean of each measure over the images for which it is known, with its interval by patient."""
    out = {}
    for name in MEASURES:
        known = compared[compared[name].notna()]
        if len(known):
            out[name] = mean_dict(
                known[name].to_numpy(float), known["group_id"].to_numpy(), MEASURE_DRAWS
            )
    return out


def gains(compared: pd.DataFrame) -> dict[str, dict]:
    """Gains in Dice over the network that saw normal lungs only, image by image.

    Args:
        compared: As in `report`.

    Returns:
        `gain` of the student, and `headroom` of the network that saw masks of abnormal lungs too:
        what such masks are worth, and so the most that there is to gain without them. Each is there
        only if its networks are.
    """
    present = set(compared["network"])
    return {
        name: gain(compared, network)
        for name, network in GAINS.items()
        if {network, BASELINE} <= present
    }


def gain(
    compared: pd.DataFrame,
    network: str = "student",
    baseline: str = BASELINE,
    measure: str = "dice",
) -> dict[str, dict]:
    """Mean difference of two networks in a measure on the same images, by group.

    Args:
        compared: As in `report`.
        network: The network.
        baseline: The one that it is compared with.
        measure: A column of the table.

    Returns:
        {group: value, low, high, n}, intervals by patient.
    """
    others = compared[compared["network"] == baseline].set_index("path")[measure]
    pairs = compared[compared["network"] == network]
    pairs = pairs.assign(more=pairs[measure] - pairs["path"].map(others)).dropna(subset="more")
    out = {}
    for group, part in split_groups(pairs).items():
        triple = resampling.bootstrap(np.mean, part["more"], groups=part["group_id"])
        out[group] = interval_dict(triple, len(part))
    return out


def group_label(group: str) -> str:
    """A key of GROUPS as a label: "zones_1_3" -> "zones 1-3"."""
    return group.replace("_", " ", 1).replace("_", "-")


def summary_table(
    result: Mapping[str, Any], split: str = "external", measure: str = "dice"
) -> pd.DataFrame:
    """One split of a report as a table.

    Args:
        result: What `report` returned.
        split: "test" or "external".
        measure: One of MEASURES.

    Returns:
        A row for each network, a column for each group, cells "value [low, high]".
    """
    rows = {}
    for network, groups in result[split].items():
        if network not in GAINS:
            rows[network] = {group: _cell(found.get(measure)) for group, found in groups.items()}
    return pd.DataFrame(rows).T.reindex(columns=list(GROUPS))


def _cell(interval: dict | None) -> str:
    if interval is None or interval["low"] is None:
        return "-"
    return value_text(interval, digits=3)
