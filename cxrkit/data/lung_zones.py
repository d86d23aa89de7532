"""Severity geometry: the lungs, their six zones, severity arrays, Brixia and severity scores.

Park et al. 2021, section 3.3: each lung is cut at 5/12 and 2/3 of the height into upper, middle and
lower zone; the largest value of the severity map inside a zone is its value; the sum of six values
is the severity. What the text leaves open is a field of `Choices` and decided there. Pure
functions; nothing here knows files or models.

B batch, H W image; a 3x2 array has row 0 = upper zone, column 0 = patient's right = image left.
"""

from __future__ import annotations

from typing import overload

import cv2
import numpy as np
import torch

from cxrkit.config.choices import Choices

CUTS = (5 / 12, 2 / 3)
# right/left upper/middle/lower lung zone
ZONE_NAMES = (("rul", "lul"), ("rml", "lml"), ("rll", "lll"))
DEBRIS = 0.05  # a component below this share of the largest one is no lung


def _as_bool(mask: np.ndarray) -> np.ndarray:
    """Mask of 0/1 or 0/255 -> bool. Raises ValueError on other values, such as 127 = ignore."""
    if mask.dtype == bool:
        return mask
    if not np.isin(mask, (0, 1, 255)).all():
        found = np.unique(mask)[:8].tolist()
        raise ValueError(
            f"lung mask holds {found}; only 0, 1 and 255 are allowed (127 = ignore must be settled "
            "first)"
        )
    return mask > 0


def _split_fused(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both lungs in one component, cut where its middle third has the least height."""
    columns = np.where(mask.any(axis=0))[0]
    left, width = columns[0], len(columns)
    third = slice(left + width // 3, left + 2 * width // 3 + 1)
    cut = third.start + int(mask[:, third].sum(axis=0).argmin())
    right_lung, left_lung = mask.copy(), mask.copy()
    right_lung[:, cut:] = False
    left_lung[:, : cut + 1] = False
    return right_lung, left_lung


def sides(mask: np.ndarray, choices: Choices = Choices()) -> tuple[np.ndarray, np.ndarray]:
    """Right and left lung of a lung mask.

    The two largest components are the lungs. Fallbacks: one component that covers both halves of
    the image by at least a quarter of its area each is two fused lungs and is cut; any other single
    component is one lung, on the side of its centre; an empty mask gives two empty ones.

    Args:
        mask: (H, W), bool or 0/1 or 0/255.
        choices: `lung_sides` "midline" cuts at the middle column instead.

    Returns:
        Two bool (H, W), the patient's right lung (image left) first.

    Raises:
        ValueError: other mask values.
    """
    mask = _as_bool(np.asarray(mask))
    half = mask.shape[1] // 2
    empty = np.zeros_like(mask)
    if choices.lung_sides == "midline":
        right, left = mask.copy(), mask.copy()
        right[:, half:] = False
        left[:, :half] = False
        return right, left
    n, pieces, stats, centres = cv2.connectedComponentsWithStats(
        mask.astype(np.uint8), connectivity=4
    )
    order = 1 + np.argsort(-stats[1:, cv2.CC_STAT_AREA], kind="stable")[:2]
    if n == 1:
        return empty, empty.copy()
    if n > 2 and stats[order[1], cv2.CC_STAT_AREA] >= DEBRIS * stats[order[0], cv2.CC_STAT_AREA]:
        first, second = sorted(order, key=lambda piece: centres[piece][0])
        return pieces == first, pieces == second
    lung = pieces == order[0]
    if 0.25 <= lung[:, :half].sum() / lung.sum() <= 0.75:
        return _split_fused(lung)
    return (lung, empty) if centres[order[0]][0] < half else (empty, lung)


def zones_of_sides(
    right: np.ndarray,
    left: np.ndarray,
    choices: Choices = Choices(),
    cuts: tuple[float, float] = CUTS,
) -> np.ndarray:
    """Zones of lungs whose sides are known; see `zones`.

    Args:
        right: the patient's right lung (image left), bool (H, W).
        left: the other lung, bool (H, W).
        choices: `zone_height`, `zone_origin` and `array_columns` are read.
        cuts: shares of the height at which the lungs are cut.

    Returns:
        bool (3, 2, H, W).
    """
    H = right.shape[0]
    both, image = right | left, np.ones_like(right)
    extents = {"joint": (both, both), "own": (right, left), "image": (image, image)}
    extents = extents[choices.zone_height]
    out = np.zeros((3, 2, *right.shape), bool)
    for column, (lung, extent) in enumerate(zip((right, left), extents, strict=True)):
        rows = np.where(extent.any(axis=1))[0]
        if len(rows) == 0:
            continue
        top, height = rows[0], rows[-1] - rows[0] + 1
        origin = top if choices.zone_origin == "lungs" else 0
        # 0 above 5/12, 1 above 2/3, else 2
        zone_of_row = np.digitize((np.arange(H) + 0.5 - origin) / height, cuts)
        out[:, column] = lung & (zone_of_row[:, None] == np.arange(3)[:, None, None])
    return out if choices.array_columns == "patient_right" else out[:, ::-1]


@overload
def zones(lung_mask: np.ndarray, choices: Choices = ...) -> np.ndarray: ...
@overload
def zones(lung_mask: torch.Tensor, choices: Choices = ...) -> torch.Tensor: ...
def zones(
    lung_mask: np.ndarray | torch.Tensor, choices: Choices = Choices()
) -> np.ndarray | torch.Tensor:
    """The six zones of lung masks.

    A pixel row r lies at f = (r + 0.5 - top) / (bottom - top + 1) of the height of the lungs: zone
    0 if f < 5/12, 1 if f < 2/3, else 2 (Park et al. 2021, section 3.3; SPEC 2.1 choices 2 to 5).

    Args:
        lung_mask: (B, H, W), bool or 0/1 or 0/255, NumPy or torch.
        choices: `lung_sides`, `zone_height`, `zone_origin` and `array_columns` are read.

    Returns:
        bool (B, 3, 2, H, W) of the same kind.

    Raises:
        ValueError: another shape or other mask values.

    Example:
        >>> lungs = np.zeros((1, 24, 20), bool)
        >>> lungs[0, :, 1:8] = lungs[0, :, 12:19] = True  # two lungs, 24 px high
        >>> found = zones(lungs)  # (B, 3, 2, H, W)
        >>> [int(found[0, row, 0].any(axis=1).sum()) for row in range(3)]  # 5/12, 3/12, 4/12
        [10, 6, 8]
    """
    if isinstance(lung_mask, torch.Tensor):
        masks = lung_mask.detach().cpu().numpy()
    else:
        masks = np.asarray(lung_mask)
    if masks.ndim != 3:
        raise ValueError(f"lung_mask has shape {masks.shape}; expected (B, H, W)")
    out = np.stack([zones_of_sides(*sides(mask, choices), choices) for mask in masks])
    if isinstance(lung_mask, torch.Tensor):
        return torch.from_numpy(out).to(lung_mask.device)  # (B, 3, 2, H, W)
    return out  # (B, 3, 2, H, W)


def coverage(lesion: np.ndarray, zone_masks: np.ndarray) -> np.ndarray:
    """Share of each zone that a lesion covers.

    Args:
        lesion: bool (H, W).
        zone_masks: bool (3, 2, H, W).

    Returns:
        (3, 2) in [0, 1]; 0 for an absent zone.

    Example:
        >>> lesion = np.array([[True, False]])
        >>> zone = np.zeros((3, 2, 1, 2), bool)
        >>> zone[0, 0] = True  # one zone of both pixels
        >>> float(coverage(lesion, zone)[0, 0])
        0.5
    """
    area = zone_masks.sum(axis=(-2, -1))
    return (zone_masks & lesion).sum(axis=(-2, -1)) / np.maximum(area, 1)


def areas(involved: np.ndarray, lung_mask: np.ndarray, choices: Choices = Choices()) -> np.ndarray:
    """Share of each zone that is involved, for several images.

    Args:
        involved: bool (B, H, W).
        lung_mask: (B, H, W), as for `zones`.
        choices: as for `zones`.

    Returns:
        (B, 3, 2) in [0, 1]; 0 for an absent zone.
    """
    six = zones(np.asarray(lung_mask), choices)  # (B, 3, 2, H, W)
    pairs = zip(np.asarray(involved), six, strict=True)
    return np.stack([coverage(lesion, zone_masks) for lesion, zone_masks in pairs])


def contours(
    severity_map: np.ndarray, lung_mask: np.ndarray, threshold: float = 0.5
) -> list[np.ndarray]:
    """Outlines of the lesions: where a severity map is high inside the lungs.

    Holes have outlines of their own. Section 5.3 and Figure 6: the map "can also be used to contour
    lesions".

    Args:
        severity_map: (H, W) in [0, 1].
        lung_mask: (H, W), bool or 0/1 or 0/255.
        threshold: lowest value of a lesion.

    Returns:
        Closed outlines, (n, 2) each: x, y in pixels.
    """
    involved = (np.asarray(severity_map) >= threshold) & _as_bool(np.asarray(lung_mask))
    found, _ = cv2.findContours(involved.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    return [np.vstack([points[:, 0], points[:1, 0]]) for points in found]


def _max_pool(values: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
    return torch.where(inside, values, -torch.inf).amax(dim=(-2, -1))


def _top_pool(values: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
    """Mean of the highest tenth of the pixels, rounded up."""
    pixels = inside.sum(dim=(-2, -1))  # (B, 3, 2)
    counted = ((pixels + 9) // 10).clamp(min=1)  # (B, 3, 2)
    most = int(counted.max())
    highest = torch.where(inside, values, -torch.inf).flatten(-2).topk(most).values
    counts = torch.arange(most, device=values.device) < counted[..., None]  # (B, 3, 2, most)
    return torch.where(counts, highest, 0.0).sum(dim=-1) / counted


def _average_pool(values: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
    return (values * inside).sum(dim=(-2, -1)) / inside.sum(dim=(-2, -1)).clamp(min=1)


POOLS = {"max": _max_pool, "average": _average_pool}  # values, inside (B, 3, 2, H, W) -> (B, 3, 2)
MAXIMA = {"pixel": _max_pool, "tenth": _top_pool}  # choice `zone_maximum`, the same


def roi_pool(
    severity_map: torch.Tensor,
    lung_mask: torch.Tensor,
    how: str = "max",
    choices: Choices = Choices(),
) -> torch.Tensor:
    """ROI pooling of a severity map into its array (section 3.3); differentiable.

    Args:
        severity_map: (B, 1, H, W) in [0, 1].
        lung_mask: (B, H, W), bool or 0/1 or 0/255, of the same size.
        how: "max" (the paper) or "average" over the lung pixels of a zone.
        choices: as for `zones`; `zone_maximum` says what counts as the maximum.

    Returns:
        (B, 3, 2); a zone that is absent gives 0, never NaN.

    Raises:
        ValueError: the sizes differ, or `how` is unknown.

    Example:
        >>> lungs = torch.zeros(1, 24, 20, dtype=torch.bool)
        >>> lungs[0, :, 1:8] = lungs[0, :, 12:19] = True
        >>> severity_map = torch.zeros(1, 1, 24, 20)
        >>> severity_map[0, 0, 0, 2] = 0.9  # the patient's right upper zone
        >>> [round(value, 1) for value in roi_pool(severity_map, lungs).flatten().tolist()]
        [0.9, 0.0, 0.0, 0.0, 0.0, 0.0]
    """
    if how not in POOLS:
        raise ValueError(f"roi_pool how={how!r}; known: {list(POOLS)}")
    if severity_map.shape[-2:] != lung_mask.shape[-2:]:
        raise ValueError(
            f"severity map {tuple(severity_map.shape[-2:])} and lung mask "
            f"{tuple(lung_mask.shape[-2:])} differ in size; "
            "resize the mask with nearest neighbours"
        )
    six = zones(lung_mask, choices)
    inside = torch.as_tensor(six, device=severity_map.device)  # (B, 3, 2, H, W)
    pool = MAXIMA[choices.zone_maximum] if how == "max" else POOLS[how]
    pooled = pool(severity_map[:, :, None], inside)  # (B, 3, 2)
    return torch.where(inside.any(dim=-1).any(dim=-1), pooled, torch.zeros_like(pooled))


@overload
def brixia_to_array(scores: np.ndarray, threshold: float = ...) -> np.ndarray: ...
@overload
def brixia_to_array(scores: torch.Tensor, threshold: float = ...) -> torch.Tensor: ...
def brixia_to_array(
    scores: np.ndarray | torch.Tensor, threshold: float = 1
) -> np.ndarray | torch.Tensor:
    """Brixia zone scores -> severity array.

    A, B, C run down the patient's right lung (image left), D, E, F down the left (Borghesi and
    Maroldi 2020).

    Args:
        scores: (..., 6), 0-3 in the order A-F, NumPy or torch.
        threshold: lowest score of a zone that counts as involved.

    Returns:
        float (..., 3, 2) of 0/1 of the same kind; NaN stays NaN.

    Raises:
        ValueError: the last axis does not hold six zones.

    Example:
        >>> brixia_to_array(np.array([0, 2, 1, 0, 0, 3])).tolist()
        [[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]]
    """
    if scores.shape[-1] != 6:
        raise ValueError(
            f"Brixia scores have shape {tuple(scores.shape)}; the last axis must hold the six "
            "zones A-F"
        )
    lib = torch if isinstance(scores, torch.Tensor) else np
    values = scores * 1.0
    involved = lib.where(lib.isnan(values), values, (scores >= threshold) * 1.0)
    return lib.stack([involved[..., :3], involved[..., 3:]], -1)  # (..., 3, 2)


@overload
def severity_score(array: np.ndarray, how: str = ...) -> np.ndarray: ...
@overload
def severity_score(array: torch.Tensor, how: str = ...) -> torch.Tensor: ...
def severity_score(
    array: np.ndarray | torch.Tensor, how: str = "soft"
) -> np.ndarray | torch.Tensor:
    """Severity score of severity arrays (section 3.3).

    Args:
        array: (..., 3, 2), NumPy or torch.
        how: "soft", the sum of the six values, or "hard", of the values thresholded at 0.5.

    Returns:
        (...), 0 to 6.

    Raises:
        ValueError: `how` is unknown.

    Example:
        >>> array = np.array([[0.9, 0.1], [0.6, 0.0], [0.0, 0.0]])
        >>> round(float(severity_score(array)), 1), float(severity_score(array, "hard"))
        (1.6, 2.0)
    """
    if how not in ("soft", "hard"):
        raise ValueError(f"score how={how!r}; known: ['soft', 'hard']")
    if how == "hard":
        array = (array >= 0.5) * 1.0
    return array.sum(-1).sum(-1)
