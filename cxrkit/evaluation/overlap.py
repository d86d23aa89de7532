"""Overlap: how well lung masks agree with the truth, lung by lung, for each kind of film, and
method against method.

H W image, N films. Masks are bool; truth is uint8 of 0, 127 (ignore), 255.
"""

import math

import cv2
import numpy as np
import pandas as pd
from scipy import ndimage

from cxrkit.data import lung_zones
from cxrkit.data.masks import IGNORE
from cxrkit.evaluation import resampling
from cxrkit.evaluation.summaries import interval

MEASURES = ("dice", "jaccard", "assd", "dice_right", "dice_left", "missed")
OPAQUE = 0.3  # of a lung's area: a lesion that covers more makes an opaque lung
# of the way from healthy lung to the chest wall: a lesion that is brighter may be taken for wall
BRIGHT = 0.5


def _masks(truth, mask, ignore):
    truth, mask = np.asarray(truth), np.asarray(mask)
    if truth.shape != mask.shape:
        raise ValueError(f"masks of different size: truth {truth.shape}, mask {mask.shape}")
    skip = np.zeros(truth.shape, bool) if truth.dtype == bool else truth == ignore
    return (truth != 0) & ~skip, mask != 0, skip


def dice(truth, mask, ignore=IGNORE):
    """2 |A and B| / (|A| + |B|) of two masks (H, W), where the truth is not `ignore`; NaN if both
    are empty.
    """
    a, b, skip = _masks(truth, mask, ignore)
    total = a.sum() + (b & ~skip).sum()
    return float(2 * (a & b).sum() / total) if total else math.nan


def jaccard(truth, mask, ignore=IGNORE):
    """|A and B| / |A or B| of two masks (H, W), where the truth is not `ignore`; NaN if both are
    empty.
    """
    a, b, skip = _masks(truth, mask, ignore)
    union = ((a | b) & ~skip).sum()
    return float((a & b).sum() / union) if union else math.nan


def surface_distance(truth, mask, spacing=1.0, ignore=IGNORE):
    """Mean distance between the two outlines, over the points of both (ASSD), `spacing` a pixel;
    NaN if one is empty.

    An outline made by the edge of the ignored area is none, and outline points inside that area do
    not count.
    """
    a, b, skip = _masks(truth, mask, ignore)
    edge_a = a & ~ndimage.binary_erosion(a | skip)
    edge_b = b & ~ndimage.binary_erosion(b) & ~skip
    if not (edge_a.any() and edge_b.any()):
        return math.nan
    to_b, to_a = (
        cv2.distanceTransform((~edge).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        for edge in (edge_b, edge_a)
    )
    return spacing * float(np.concatenate([to_b[edge_a], to_a[edge_b]]).mean(dtype=float))


def compare(truth, mask, lesion=None, film=None):
    """Agreement of one film: truth uint8 (H, W), mask bool (H, W), lesion uint8 (H, W), film uint8
    (H, W) -> dict.

    dice, jaccard; assd, the mean distance of the outlines in % of the image side; dice_right,
    dice_left of each lung; opaque, the largest share of a lung that the lesion covers, missed, the
    share of the lesion that the mask leaves out, and bright, its `brightness` (NaN without one).
    """
    right, left = lung_zones.sides(truth == 255)
    drawn = lung_zones.sides(mask)
    ignored = truth == IGNORE
    lungs = [np.where(ignored, IGNORE, 255 * lung).astype(np.uint8) for lung in (right, left)]
    ill = np.zeros_like(right) if lesion is None else (lesion == 255) & (truth == 255)
    return {
        "dice": dice(truth, mask),
        "jaccard": jaccard(truth, mask),
        "assd": surface_distance(truth, mask, spacing=100 / truth.shape[0]),
        "dice_right": dice(lungs[0], drawn[0]),
        "dice_left": dice(lungs[1], drawn[1]),
        "opaque": max((ill & lung).sum() / max(lung.sum(), 1) for lung in (right, left)),
        "missed": (ill & ~mask).sum() / ill.sum() if ill.any() else math.nan,
        "bright": math.nan if film is None else brightness(film, truth == 255, ill),
    }


def brightness(film, lung, ill):
    """Mean grey of the ill lung of a film, where 0 is that of its healthy lung and 1 that of the
    chest wall close by; else NaN.
    """
    reach = 2 * (film.shape[0] // 32) + 1
    wall = (cv2.dilate(lung.astype(np.uint8), np.ones((reach, reach))) > 0) & ~lung
    if not (ill.any() and (lung & ~ill).any() and wall.any()):
        return math.nan
    sick, well, outside = (float(film[where].mean()) for where in (ill, lung & ~ill, wall))
    return (sick - well) / (outside - well) if outside != well else math.nan


GROUPS = {  # name -> which rows of a judged table; a film may be in several
    "normal": lambda t: t["diagnosis"] == "normal",
    "abnormal": lambda t: t["diagnosis"].isin(["other_infection", "covid19"]),
    "zones_0": lambda t: t["zones"] == 0,
    "zones_1_3": lambda t: t["zones"].between(1, 3),
    "zones_4_6": lambda t: t["zones"].between(4, 6),
    "opaque": lambda t: t["opaque"] > OPAQUE,
    "bright": lambda t: t["bright"] > BRIGHT,
}


def report(judged):
    """Judged rows of several networks (`network`) -> {place: {network: {group: measures}, "gain":
    {group: interval}}}.

    Places: "test" (internal), "external", external1, 2, ... with "site", and each dataset where
    there are several. The gain is the Dice of the student above that of the U-Net that saw normal
    lungs only, film by film; the `headroom` is that of the ceiling above the same: what masks of
    abnormal lungs are worth, and so the most that there is to gain without them.
    """
    away = judged["external"].astype(bool)
    places = {"test": judged[~away], "external": judged[away]}
    out = {name: {**by_network(part), **gains(part)} for name, part in places.items() if len(part)}
    for i, (site, part) in enumerate(judged[away].groupby("site"), start=1):
        out[f"external{i}"] = {"site": site, **by_network(part)}
    if judged["dataset"].nunique() > 1:
        out["by_dataset"] = {
            name: {**by_network(part), **gains(part)} for name, part in judged.groupby("dataset")
        }
    return out


def gains(judged):
    """{"gain": student above unet_normal, "headroom": unet_both above unet_normal}, where these
    networks are among the judged.
    """
    pairs = {"gain": "student", "headroom": "unet_both"}
    return {
        what: gain(judged, ours)
        for what, ours in pairs.items()
        if {ours, "unet_normal"} <= set(judged["network"])
    }


def by_network(judged):
    """{network: {group: {films, dice, jaccard, ...}}}, each measure as value, low, high, n by a
    bootstrap of patients.
    """
    return {
        name: {
            group: measures(part[rows(part)]) for group, rows in GROUPS.items() if rows(part).any()
        }
        for name, part in judged.groupby("network", sort=False)
    }


def measures(part):
    """Mean of each measure over films, with its interval."""
    return {
        name: interval(
            resampling.bootstrap(np.nanmean, known[name], groups=known["group_id"], draws=300),
            len(known),
        )
        for name in MEASURES
        if len(known := part[part[name].notna()])
    }


def gain(judged, ours="student", theirs="unet_normal", measure="dice"):
    """Mean difference of two networks in a measure on the same films, by group, with its interval
    by patients.
    """
    other = judged[judged["network"] == theirs].set_index("path")[measure]
    pairs = judged[judged["network"] == ours]
    pairs = pairs.assign(more=pairs[measure] - pairs["path"].map(other)).dropna(subset="more")
    chosen = {group: pairs[rows(pairs)] for group, rows in GROUPS.items() if rows(pairs).any()}
    return {
        group: interval(
            resampling.bootstrap(np.mean, part["more"], groups=part["group_id"]), len(part)
        )
        for group, part in chosen.items()
    }


def words(group):
    """A key of GROUPS as a label: "zones_1_3" -> "zones 1-3"."""
    return group.replace("_", " ", 1).replace("_", "-")


def table(result, place="external", measure="dice"):
    """A report's place as a table: a row a network, a column a group, "value [low, high]"."""

    def cell(entry):
        return (
            "{value:.3f} [{low:.3f}, {high:.3f}]".format(**entry)
            if entry and entry["low"] is not None
            else "-"
        )

    networks = {
        name: groups
        for name, groups in result[place].items()
        if name not in ("gain", "headroom", "site")
    }
    return pd.DataFrame(
        {
            name: {group: cell(values.get(measure)) for group, values in groups.items()}
            for name, groups in networks.items()
        }
    ).T.reindex(columns=list(GROUPS))
