"""Arrangement: infections that differ in where their foci lie, and in nothing else.

Every patient drawn here has three to eight foci of one texture, one law of sizes and one total
area, whatever the infection. Only the places differ:

- `textbook`: COVID-19 on both sides, basal and peripheral; bacterial pneumonia in one lobe;
  tuberculosis in the apices.
- `sides`, the strict world: every infection is basal and peripheral; COVID-19 on both sides, any
  other on one.

Therefore no count and no texture tells COVID-19 from another infection, and a model that compares
places does.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from cxrkit.simulation.atlases import LUNG_BOX, SIDES, SLICE_SPACING, SOURCES, load_atlas
from cxrkit.simulation.disease import MIDLINE, Lesion
from cxrkit.simulation.patterns import (
    APEX,
    BOTH_LUNGS,
    LEFT_LOBES,
    LOBE_CHANCES,
    RIGHT_LOBES,
    Weight,
    draw_point,
    lung_of,
    make_lesion,
)

PLACES = ("textbook", "sides")
GRID = 6.0  # mm of a voxel of the lungs on which areas are measured
RADII = (12.0, 18.0)  # mm
STRETCH = (1.0, 2.0, 1.0)  # z, y, x: a focus is deeper than it is wide
FOCI = (3, 6)  # fewest and most
DENSITY = (-60.0, 60.0)  # HU of the ground glass
CORE_DENSITY = (-40.0, 40.0)  # HU of a consolidated core
TEXTURE = (0.0, 0.3)  # of the ground glass: share of its grain
CORE_CHANCE = 1.0
CORE_SIZE = 0.7  # of the radius
AREA_SHARE = 0.8  # of the sum of the foci's ellipses that must be seen


class Focus(NamedTuple):
    """One focus: canonical centre and radius (z, y, x mm), and its lobe."""

    centre: np.ndarray
    radius: np.ndarray
    lobe: int


@lru_cache(maxsize=len(SOURCES))
def _lung_grid(source: str) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Side of the lung on a canonical grid of 6 mm, 1 right, 2 left, 0 outside; z, y, x axes."""
    atlas = load_atlas(source)
    axes = [np.arange(low, high, GRID) for low, high in LUNG_BOX.T]
    own = atlas.to_own(*axes)
    steps = (atlas.pitch[0], SLICE_SPACING, atlas.pitch[1])
    row, depth, column = (np.round(a / s).astype(int) for a, s in zip(own, steps, strict=True))
    labels = atlas.labels[np.ix_(depth, row, column)]  # (y, z, x)
    side = np.zeros(labels.shape, np.uint8)
    for number, lobes in enumerate(SIDES, start=1):
        side[np.isin(labels, lobes)] = number
    z, y, x = (a.astype(np.float32) for a in axes)
    return side, (z[None, :, None], y[:, None, None], x[None, None, :])


def seen_area(foci: list[Focus], factor: float, source: str) -> float:
    """Area of foci in the frontal projection.

    Args:
        foci: where they lie.
        factor: of their radii.
        source: the CT.

    Returns:
        mm^2 in which they are thick; a pixel counts in full from 12 mm on.
    """
    side, (z, y, x) = _lung_grid(source)
    filled = np.zeros(side.shape, bool)
    for focus in foci:
        squares, box = [], []
        for axis, c, r in zip(
            (y, z, x), focus.centre[[1, 0, 2]], focus.radius[[1, 0, 2]], strict=True
        ):
            near = np.where(np.abs(axis.ravel() - c) < factor * r)[0]
            span = slice(near[0], near[-1] + 1) if len(near) else slice(0, 0)
            box.append(span)
            squares.append(((axis.ravel()[span] - c) / r) ** 2)
        box = tuple(box)
        d = squares[0][:, None, None] + squares[1][None, :, None] + squares[2]
        own = side[box] == (1 if focus.lobe in RIGHT_LOBES else 2)
        filled[box] |= (d < factor**2) & own
    thick = filled.sum(axis=0) * GRID
    return float(np.clip(thick / 12.0, 0, 1).sum() * GRID**2)


def factor_for_area(foci: list[Focus], target: float, source: str) -> float:
    """The factor of the radii at which foci show an area, by bisection.

    What the chest wall cuts off, or what overlaps, would else tell the places by the area alone.

    Args:
        foci: where they lie.
        target: mm^2.
        source: the CT.
    """
    low, high = 0.6, 1.9
    for _ in range(7):
        middle = (low + high) / 2
        if seen_area(foci, middle, source) < target:
            low = middle
        else:
            high = middle
    return (low + high) / 2


# places


def _basal(z: np.ndarray, y: np.ndarray, x: np.ndarray, wall: np.ndarray) -> np.ndarray:
    low = (z > 115) / (1 + np.exp((z - 195.0) / 25.0))
    lateral = np.clip((np.abs(x - MIDLINE) - 45.0) / 35.0, 0.05, 1)
    return (0.05 + low) * np.exp(-wall / 9.0) * lateral


def _inner(z: np.ndarray, y: np.ndarray, x: np.ndarray, wall: np.ndarray) -> np.ndarray:
    return np.minimum(wall, 25.0) * (z > 100)


def _apical(z: np.ndarray, y: np.ndarray, x: np.ndarray, wall: np.ndarray) -> np.ndarray:
    return np.exp((z - APEX) / 19.0) * (wall > 4)


def _places(
    rng: np.random.Generator, infection: str, n: int, places: str
) -> list[tuple[tuple[int, ...], Weight]]:
    """Lobes and weight of each of n foci."""
    first = int(rng.integers(2))
    sides = (RIGHT_LOBES, LEFT_LOBES)
    one = sides[first]
    if infection == "covid":
        two = [(sides[(i + first) % 2], _basal) for i in range(2)]
        return two + [(BOTH_LUNGS, _basal)] * (n - 2)
    if places == "sides":
        return [(one, _basal)] * n
    if infection == "bacterial":
        lobe = int(rng.choice(BOTH_LUNGS, p=LOBE_CHANCES))
        return [((lobe,), _inner)] * n
    lobes = BOTH_LUNGS if rng.random() < 0.4 else one
    return [(one, _apical)] + [(lobes, _apical)] * (n - 1)


def _draw_foci(
    rng: np.random.Generator, infection: str, radii: np.ndarray, places: str, source: str
) -> list[Focus]:
    """Foci side by side in the projection: overlap would be a denser texture of its own."""
    foci = []
    wanted = _places(rng, infection, len(radii), places)
    for (lobes, weight), radius in zip(wanted, radii, strict=True):
        for attempt in range(25):
            centre, lobe = draw_point(rng, lobes, weight, source)
            focus = Focus(np.array(centre), radius, lobe)
            apart = 1.05 - 0.03 * attempt
            if all(_gap(focus, other) > apart for other in foci):
                break
        foci.append(focus)
    return foci


def _gap(a: Focus, b: Focus) -> float:
    """Distance in the projection in units of both radii; 1 = they touch."""
    away = np.hypot(a.centre[0] - b.centre[0], a.centre[2] - b.centre[2])
    return away / (a.radius[[0, 2]].mean() + b.radius[[0, 2]].mean())


def draw_infection(
    rng: np.random.Generator,
    infection: str,
    places: str = PLACES[0],
    source: str = SOURCES[0],
) -> list[Lesion]:
    """An infection by the common law; its name decides the places alone.

    Args:
        rng: source of all numbers.
        infection: "covid", "bacterial" or "tuberculosis".
        places: a name in PLACES.
        source: the CT.

    Returns:
        The lesions; cores come before the ground glass around them.
    """
    n = FOCI[0] + int(rng.binomial(FOCI[1] - FOCI[0], 0.4))
    radii = rng.uniform(*RADII, n)[:, None] * rng.uniform(0.8, 1.25, (n, 3)) * STRETCH
    looks = []
    for _ in range(n):
        hu, texture = rng.uniform(*DENSITY), rng.uniform(*TEXTURE)
        looks.append((hu, texture, rng.random() < CORE_CHANCE, rng.uniform(*CORE_DENSITY)))
    foci = _draw_foci(rng, infection, radii, places, source)
    target = AREA_SHARE * np.pi * float((radii[:, 0] * radii[:, 2]).sum())
    factor = factor_for_area(foci, target, source)
    lesions = []
    for focus, (hu, texture, has_core, core_hu) in zip(foci, looks, strict=True):
        lung = lung_of(focus.lobe)
        centre, radius = tuple(focus.centre.tolist()), factor * focus.radius
        lesions.append(make_lesion(rng, "ground_glass", centre, radius, lung, hu, texture))
        if has_core:
            inner = CORE_SIZE * radius
            core = make_lesion(rng, "consolidation", centre, inner, lung, core_hu, 0.9)
            lesions.insert(0, core)
    return lesions
