"""Patterns: how each disease spreads over the lobes, as lists of lesions drawn at random.

The numbers follow textbook radiology. Every pattern takes a NumPy generator and returns a list of
`disease.Lesion` in canonical coordinates (`atlases`: z up, y to the front, x from the patient's
right to the left; mm). `source` names the CT that the patient's body comes from, because a focus
must lie inside its lungs. Patterns know nothing of views, hospitals or pixels.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from cxrkit.simulation.atlases import LUNG_BOX, SIDES, SLICE_SPACING, SOURCES, load_atlas
from cxrkit.simulation.disease import AIR_HU, HILA, LUNG_BOTTOM, LUNG_TOP, MIDLINE, Lesion

RIGHT_LOBES, LEFT_LOBES = SIDES
BOTH_LUNGS = RIGHT_LOBES + LEFT_LOBES
LOBE_CHANCES = (0.18, 0.17, 0.27, 0.15, 0.23)  # of a lobar pneumonia, in the order of BOTH_LUNGS
APEX = LUNG_TOP - 6.0  # z where apical disease is most frequent

# (z, y, x, mm to the surface of the lung) of n points -> relative chance of each, (n,)
Weight = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], np.ndarray]


class LungPoints(NamedTuple):
    """Points inside the lungs of a CT, about one in 150 voxels."""

    points: np.ndarray  # (n, 3) canonical z, y, x in mm
    lobes: np.ndarray  # (n,)
    wall: np.ndarray  # (n,) mm to the surface of the lung


@lru_cache(maxsize=len(SOURCES))
def lung_points(source: str) -> LungPoints:
    """Points inside the lungs of a CT.

    Args:
        source: a name in `atlases.SOURCES`.

    Returns:
        The points, in a fixed order.
    """
    atlas = load_atlas(source)
    voxels = np.argwhere((atlas.labels >= 1) & (atlas.labels <= 5))[::60]  # (n, 3)
    depth, row, column = voxels.T
    axes = [row * atlas.pitch[0], depth * SLICE_SPACING, column * atlas.pitch[1]]
    points = atlas.origin + atlas.stretch * np.stack(axes, axis=1).astype(np.float64)
    lobes = atlas.labels[depth, row, column]
    wall = atlas.wall_distance[depth, row, column // 2].astype(np.float64)
    return LungPoints(points, lobes, wall)


def draw_point(
    rng: np.random.Generator, lobes: Sequence[int], weight: Weight, source: str
) -> tuple[tuple[float, float, float], int]:
    """Draw a point in some lobes.

    Args:
        rng: source of the choice.
        lobes: that it may lie in.
        weight: chance of each place.
        source: the CT.

    Returns:
        Canonical z, y, x in mm, and its lobe.
    """
    points, lobe_of, _ = lung_points(source)
    i = int(np.searchsorted(_cumulative(source, tuple(lobes), weight), rng.random(), side="right"))
    z, y, x = points[i].tolist()
    return (z, y, x), int(lobe_of[i])


@lru_cache(maxsize=64)
def _cumulative(source: str, lobes: tuple[int, ...], weight: Weight) -> np.ndarray:
    """Cumulative chance of the points of a CT, rising to 1: (n,)."""
    points, lobe_of, wall = lung_points(source)
    chance = np.isin(lobe_of, lobes) * weight(*points.T, wall)
    total = np.cumsum(chance)
    return total / total[-1]


def make_lesion(
    rng: np.random.Generator,
    kind: str,
    centre: tuple[float, float, float],
    radius: float | Sequence[float] | np.ndarray,
    lobes: Sequence[int],
    hu: float,
    texture: float = 0.5,
) -> Lesion:
    """Make a lesion with a random seed of its noise."""
    radius = tuple(float(r) for r in np.broadcast_to(radius, 3))
    seed = int(rng.integers(2**31 - 8))
    return Lesion(kind, centre, radius, tuple(lobes), float(hu), float(texture), seed)


def lung_of(lobe: int) -> tuple[int, ...]:
    """All lobes on the side of a lobe."""
    return RIGHT_LOBES if lobe in RIGHT_LOBES else LEFT_LOBES


# weights


def _central(z: np.ndarray, y: np.ndarray, x: np.ndarray, wall: np.ndarray) -> np.ndarray:
    return np.minimum(wall, 25)


def _apical(z: np.ndarray, y: np.ndarray, x: np.ndarray, wall: np.ndarray) -> np.ndarray:
    return np.exp((z - APEX) / 22.0) * (wall > 4)


def _upper(z: np.ndarray, y: np.ndarray, x: np.ndarray, wall: np.ndarray) -> np.ndarray:
    return np.exp((z - APEX) / 45.0) * (wall > 5)


def _above_the_domes(z: np.ndarray, y: np.ndarray, x: np.ndarray, wall: np.ndarray) -> np.ndarray:
    return np.exp(-(((z - 160.0) / 32.0) ** 2)) * (wall > 8) * (z > 125)


# diseases


def covid(rng: np.random.Generator, burden: float, source: str = SOURCES[0]) -> list[Lesion]:
    """COVID-19: bilateral, peripheral, lower-zone ground glass with consolidated cores.

    In many severe patients the bases are filled altogether (`disease.confluent`).

    Args:
        rng: source of all numbers.
        burden: in (0, 1], how much of the lungs is involved.
        source: the CT; unused, because the pattern follows the chest wall of any.

    Returns:
        The lesions; cores come before the ground glass around them.
    """
    del source
    centre = (150.0, 110.0, MIDLINE)
    extent = 0.2 + 0.8 * burden
    right_share = float(np.clip(rng.normal(0.5, 0.12), 0.2, 0.8))
    glass = make_lesion(
        rng, "viral_glass", centre, extent, BOTH_LUNGS, rng.uniform(-330, -90), right_share
    )
    lesions = [glass]
    if burden > 0.3:
        core = make_lesion(
            rng, "viral_core", centre, extent, BOTH_LUNGS, rng.uniform(-60, 30), right_share
        )
        # the same seed: cores lie inside the glass
        core = Lesion(
            core.kind, core.centre, core.radius, core.lobes, core.hu, core.texture, glass.seed
        )
        lesions.insert(0, core)
    if rng.random() < 0.85 * np.clip((burden - 0.45) / 0.3, 0, 1):
        lesions = _filled_bases(rng, burden) + lesions
    return lesions


def _filled_bases(rng: np.random.Generator, burden: float) -> list[Lesion]:
    """Consolidation of one base in a quarter of the patients, of both in the others."""
    sides = [RIGHT_LOBES, LEFT_LOBES]
    if rng.random() < 0.25:
        sides = [sides[int(rng.integers(2))]]
    height = rng.uniform(70, 120) + 45.0 * burden
    lesions = []
    for side in sides:
        radius = (max(height + rng.normal(0, 18), 30.0), 1.0, 1.0)
        ragged = rng.uniform(0.4, 1.0)
        centre = (LUNG_BOTTOM, 115.0, MIDLINE)
        lesions.append(
            make_lesion(rng, "confluent", centre, radius, side, rng.uniform(-30, 45), ragged)
        )
    return lesions


def bacterial(rng: np.random.Generator, source: str = SOURCES[0]) -> list[Lesion]:
    """Bacterial pneumonia: one lobe, at times two, filled homogeneously up to its fissure.

    A third has a parapneumonic effusion.
    """
    lesions = []
    count = 1 + (rng.random() < 0.25)
    for lobe in rng.choice(BOTH_LUNGS, size=count, replace=False, p=LOBE_CHANCES):
        lobes = (int(lobe),)
        centre, _ = draw_point(rng, lobes, _central, source)
        radius = rng.uniform(34, 70) * rng.uniform(0.85, 1.2, 3)
        hu = rng.uniform(-90, 45)
        texture = rng.uniform(0.3, 0.9)
        lesions.append(make_lesion(rng, "consolidation", centre, radius, lobes, hu, texture))
    if rng.random() < 0.33:
        side = lung_of(lesions[0].lobes[0])
        lesions += effusion(rng, sides=(side,), large=0.3)
    return lesions


def tuberculosis(rng: np.random.Generator, source: str = SOURCES[0]) -> list[Lesion]:
    """Post-primary tuberculosis: apical patchy infiltrate with cavities and satellite nodules.

    In half of the patients there is a second infiltrate, which may lie in the other apex.
    """
    side = RIGHT_LOBES if rng.random() < 0.55 else LEFT_LOBES
    infiltrates = [side]
    if rng.random() < 0.5:
        infiltrates.append(BOTH_LUNGS)
    lesions = []
    for lobes in infiltrates:
        centre, lobe = draw_point(rng, lobes, _apical, source)
        lung = lung_of(lobe)
        if rng.random() < 0.65:
            radius = rng.uniform(12, 22) * rng.uniform(0.85, 1.15, 3)
            hu = rng.uniform(-60, 30)
            lesions.append(make_lesion(rng, "cavity", centre, radius, lung, hu))
        spread = rng.uniform(14, 26) * np.array([1.0, 1.2, 1.0])
        lesions.append(make_lesion(rng, "nodules", centre, spread, lung, rng.uniform(-60, 30)))
        radius = rng.uniform(18, 34, 3)
        hu = rng.uniform(-300, -60)
        lesions.append(make_lesion(rng, "consolidation", centre, radius, lung, hu, 1.0))
    for _ in range(rng.integers(3, 10)):
        lobes = side if rng.random() < 0.7 else BOTH_LUNGS
        centre, lobe = draw_point(rng, lobes, _upper, source)
        radius = float(np.clip(rng.lognormal(1.5, 0.4), 2.5, 10))
        lesions.append(make_lesion(rng, "nodule", centre, radius, lung_of(lobe), 20))
    return lesions


def effusion(
    rng: np.random.Generator,
    sides: Sequence[tuple[int, ...]] | None = None,
    large: float = 0.5,
) -> list[Lesion]:
    """Pleural effusion with its meniscus, from a blunted angle to half a lung.

    Args:
        rng: source of all numbers.
        sides: lobes of each lung that has one; None draws one or both sides.
        large: chance of a large one.

    Returns:
        One lesion a side.
    """
    if sides is None:
        options = ((RIGHT_LOBES,), (LEFT_LOBES,), (RIGHT_LOBES, LEFT_LOBES))
        sides = options[rng.choice(3, p=(0.35, 0.3, 0.35))]
    lowest, highest = (60, 125) if rng.random() < large else (28, 60)
    level = LUNG_BOTTOM + rng.uniform(lowest, highest)
    lesions = []
    for side in sides:
        centre = (float(level + rng.normal(0, 8)), 115.0, 0.0)
        lesions.append(make_lesion(rng, "fluid", centre, rng.uniform(45, 75), side, 10))
    return lesions


def edema(rng: np.random.Generator) -> list[Lesion]:
    """Pulmonary edema: wings of a bat, septal lines, and in half of them small effusions."""
    reach = rng.uniform(0.85, 1.3)
    hu = rng.uniform(-380, -80)
    lesions = []
    walls = {"right": LUNG_BOX[0, 2] + 8.0, "left": LUNG_BOX[1, 2] - 8.0}  # x at the chest wall
    for side, outwards, lobes in (("right", -14, RIGHT_LOBES), ("left", 14, LEFT_LOBES)):
        z, y, x = HILA[side]
        centre = (z - 15, y, x + outwards)
        radius = reach * rng.uniform(0.9, 1.12) * np.array([66.0, 75.0, 50.0])
        texture = rng.uniform(0.3, 0.9)
        lesions.append(make_lesion(rng, "haze", centre, radius, lobes, hu, texture))
        base = (LUNG_BOTTOM + 85.0, 110.0, walls[side])
        size = (45.0, 40.0, 20.0)
        lesions.append(make_lesion(rng, "septal_lines", base, size, lobes, rng.uniform(0, 60)))
    if rng.random() < 0.5:
        lesions += effusion(rng, large=0.15)
    return lesions


def pneumothorax(rng: np.random.Generator) -> list[Lesion]:
    """Air between chest wall and lung on one side, with its pleural line.

    It reaches from a rim at the apex to a third of the lung.
    """
    side = RIGHT_LOBES if rng.random() < 0.55 else LEFT_LOBES
    towards = 1 if side == LEFT_LOBES else -1
    centre = (0.0, 0.0, MIDLINE + towards)
    radius = (rng.uniform(200, 250), 1.0, rng.uniform(14, 50))
    line = make_lesion(rng, "pleural_line", centre, radius, side, 0)
    air = make_lesion(rng, "air", centre, radius, side, AIR_HU)
    return [line, air]


def atelectasis(rng: np.random.Generator, source: str = SOURCES[0]) -> list[Lesion]:
    """Collapsed lung: plates at the bases, 4 to 8 mm thick, or a whole lower lobe.

    A collapsed lower lobe is a wedge behind the heart; the chest is drawn together.
    """
    if rng.random() < 0.45:
        return [_collapsed_lobe(rng)]
    plates = []
    for _ in range(rng.integers(1, 4)):
        centre, lobe = draw_point(rng, BOTH_LUNGS, _above_the_domes, source)
        radius = (rng.uniform(2.0, 4.0), rng.uniform(9, 18), rng.uniform(24, 48))
        texture = rng.uniform(0, 1)
        plates.append(make_lesion(rng, "plate", centre, radius, lung_of(lobe), 10, texture))
    return plates


def _collapsed_lobe(rng: np.random.Generator) -> Lesion:
    """`radius`: percent that the wedge widens, mm that the dome is raised, mm of width above."""
    side = "left" if rng.random() < 0.6 else "right"
    lobes = LEFT_LOBES if side == "left" else RIGHT_LOBES
    radius = (rng.uniform(34, 52), rng.uniform(12, 26), rng.uniform(8, 16))
    return make_lesion(rng, "collapse", HILA[side], radius, lobes, rng.uniform(0, 45), 0.2)


def _heart_ratio(source: str) -> float:
    """Width of the heart over that of the lungs in a CT."""
    reach = load_atlas(source).heart_reach[2]
    return float(2 * reach / (LUNG_BOX[1, 2] - LUNG_BOX[0, 2]))


def cardiomegaly(rng: np.random.Generator, source: str = SOURCES[0]) -> list[Lesion]:
    """A heart that takes 0.58 to 0.72 of the width of the lungs."""
    return [_wide_heart(rng, "big_heart", rng.uniform(0.58, 0.72) / _heart_ratio(source), source)]


def normal_heart(rng: np.random.Generator, source: str = SOURCES[0]) -> list[Lesion]:
    """Half of all hearts are as wide as a normal one may be, where the CT's is narrower."""
    factor = rng.uniform(0.43, 0.48) / _heart_ratio(source)
    if rng.random() < 0.5 and factor > 1.02:
        return [_wide_heart(rng, "full_heart", factor, source)]
    return []


def _wide_heart(rng: np.random.Generator, kind: str, factor: float, source: str) -> Lesion:
    """The heart at `factor` times its width."""
    centre = tuple(load_atlas(source).heart.tolist())
    return make_lesion(rng, kind, centre, factor, BOTH_LUNGS, 40)
