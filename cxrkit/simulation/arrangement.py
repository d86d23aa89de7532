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

from cxrkit.simulation.anatomy import lung_masks
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
STRETCH = (1.0, 1.6, 1.0)  # z, y, x: a focus is deeper than it is wide
FOCI = (3, 6)  # fewest and most
DENSITY = (-60.0, 60.0)  # HU of the ground glass
CORE_DENSITY = (-40.0, 40.0)  # HU of a consolidated core
TEXTURE = (0.0, 0.3)  # of the ground glass: share of its grain
CORE_CHANCE = 1.0
CORE_SIZE = 0.7  # of the radius
RIM = 0.4  # share of the radius over which a focus fades
THIN = 4.0  # mm of a focus on a ray that are not seen yet; twice as much is seen well
ATTEMPTS = 40  # to place a focus
APART = 1.2  # wanted distance of two foci, 1 = they touch
SEEN_SHARE = 0.85  # of a focus that is wanted inside the outline of the lungs
AREA_SHARE = 0.6  # of the sum of the foci's ellipses that must be seen


class Focus(NamedTuple):
    """One focus: canonical centre and radius (z, y, x mm), and its lobe."""

    centre: np.ndarray
    radius: np.ndarray
    lobe: int


class LungGrid(NamedTuple):
    """The lungs of a CT on a canonical grid of GRID mm."""

    side: np.ndarray  # uint8 (y, z, x): 1 right, 2 left, 0 outside
    seen: np.ndarray  # bool (z, x), inside the lungs as a radiologist outlines them
    axes: tuple[np.ndarray, np.ndarray, np.ndarray]  # canonical mm of z, y, x, each (n,)


@lru_cache(maxsize=len(SOURCES))
def lung_grid(source: str) -> LungGrid:
    """The lungs of a CT, and what a frontal film shows of them.

    Args:
        source: a name in `atlases.SOURCES`.

    Returns:
        Sides, outline and axes of the grid.
    """
    atlas = load_atlas(source)
    axes = tuple(np.arange(low, high, GRID) for low, high in LUNG_BOX.T)
    own = atlas.to_own(*axes)
    steps = (atlas.pitch[0], SLICE_SPACING, atlas.pitch[1])
    row, depth, column = (np.round(a / s).astype(int) for a, s in zip(own, steps, strict=True))
    labels = atlas.labels[np.ix_(depth, row, column)]  # (y, z, x)
    side = np.zeros(labels.shape, np.uint8)
    for number, lobes in enumerate(SIDES, start=1):
        side[np.isin(labels, lobes)] = number
    abdomen = labels == atlas.index("below_diaphragm")
    # rows of a film run from the apices down
    right, left, below = (
        (part.sum(axis=0) * GRID)[::-1] for part in (side == 1, side == 2, abdomen)
    )
    outlines = lung_masks(np.stack([right, left]), below, GRID)
    return LungGrid(side, (outlines[0] | outlines[1])[::-1], axes)


def seen_area(foci: list[Focus], factor: float, source: str) -> float:
    """Area of foci in the frontal projection.

    What lies behind the diaphragm, or beside the lungs' outline, is not seen and not counted.

    Args:
        foci: where they lie.
        factor: of their radii.
        source: the CT.

    Returns:
        mm^2; a pixel counts in full where the foci are thick.
    """
    side, seen, (z, y, x) = lung_grid(source)
    filled = np.zeros(side.shape, np.float32)
    for focus in foci:
        squares, box = [], []
        for axis, c, r in zip(
            (y, z, x), focus.centre[[1, 0, 2]], factor * focus.radius[[1, 0, 2]], strict=True
        ):
            near = np.where(np.abs(axis - c) < r)[0]
            span = slice(near[0], near[-1] + 1) if len(near) else slice(0, 0)
            box.append(span)
            squares.append(((axis[span] - c) / r) ** 2)
        box = tuple(box)
        d = np.sqrt(squares[0][:, None, None] + squares[1][None, :, None] + squares[2])
        own = side[box] == (1 if focus.lobe in RIGHT_LOBES else 2)
        filled[box] = np.maximum(filled[box], np.clip((1 - d) / RIM, 0, 1) * own)
    thick = filled.sum(axis=0) * GRID
    return float((np.clip((thick - THIN) / THIN, 0, 1) * seen).sum() * GRID**2)


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
    """Foci side by side in the projection: overlap would be a denser texture of its own.

    A place where a focus is not seen in full, or touches another, is drawn again. Of places that
    all fall short, the best is taken.
    """
    foci = []
    wanted = _places(rng, infection, len(radii), places)
    for (lobes, weight), radius in zip(wanted, radii, strict=True):
        best, best_fit = None, -np.inf
        for _ in range(ATTEMPTS):
            centre, lobe = draw_point(rng, lobes, weight, source)
            focus = Focus(np.array(centre), radius, lobe)
            gap = min((_gap(focus, other) for other in foci), default=APART)
            fit = min(gap, APART) + min(_seen_share(focus, source), SEEN_SHARE)
            if fit > best_fit:
                best, best_fit = focus, fit
            if fit >= APART + SEEN_SHARE:
                break
        foci.append(best)
    return foci


def _seen_share(focus: Focus, source: str) -> float:
    """Share of a focus' ellipse that lies inside the outline of the lungs."""
    grid = lung_grid(source)
    z, _, x = grid.axes
    d = ((z[:, None] - focus.centre[0]) / focus.radius[0]) ** 2
    ellipse = d + ((x - focus.centre[2]) / focus.radius[2]) ** 2 < 1
    whole = np.pi * focus.radius[0] * focus.radius[2] / GRID**2
    return float((ellipse & grid.seen).sum() / whole)


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
