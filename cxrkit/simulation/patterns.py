"""Patterns: how each disease spreads over the lobes, as lists of lesions drawn at random.

The numbers follow textbook radiology. Every pattern takes a NumPy generator and returns a list of
`disease.Lesion` in the atlas's coordinates (z up, y to the front, x from the patient's right to the
left; mm). Patterns know nothing of views, hospitals or pixels.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np

from cxrkit.simulation.anatomy import SIDES, SLICE_SPACING, load_atlas
from cxrkit.simulation.disease import HILA, MIDLINE, Lesion

RIGHT_LOBES, LEFT_LOBES = SIDES
BOTH_LUNGS = RIGHT_LOBES + LEFT_LOBES
LOWER_LOBES = (3, 5)
LUNG_TOP = 296.0  # z of the apex, mm

# (z, y, x, mm to the surface of the lung) of n points -> relative chance of each, (n,)
Weight = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], np.ndarray]


@lru_cache(maxsize=1)
def _lung_points() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points inside the lungs, one voxel in 150.

    Returns z, y, x in mm (n, 3), the lobe (n,), and mm to the surface (n,).
    """
    atlas = load_atlas()
    voxels = np.argwhere((atlas.labels >= 1) & (atlas.labels <= 5))[::150]  # (n, 3)
    depth, row, column = voxels.T
    axes = [row * atlas.spacing, depth * SLICE_SPACING, column * atlas.spacing]
    points = np.stack(axes, axis=1).astype(np.float64)  # (n, 3)
    lobes = atlas.labels[depth, row, column]  # (n,)
    wall = atlas.wall_distance[depth, row, column].astype(np.float64)  # (n,)
    return points, lobes, wall


def _draw_point(
    rng: np.random.Generator, lobes: Sequence[int], weight: Weight
) -> tuple[tuple[float, float, float], int]:
    """Draw a point (z, y, x mm) in some lobes, by weight, and its lobe."""
    points, lobe_of, wall = _lung_points()
    chance = np.isin(lobe_of, lobes).astype(np.float64)
    chance *= weight(*points.T, wall)
    i = rng.choice(len(points), p=chance / chance.sum())
    z, y, x = points[i].tolist()
    return (z, y, x), int(lobe_of[i])


def _make_lesion(
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
    seed = int(rng.integers(2**31))
    return Lesion(kind, centre, radius, tuple(lobes), float(hu), float(texture), seed)


def _lung_of(lobe: int) -> tuple[int, ...]:
    """All lobes on the side of a lobe."""
    return RIGHT_LOBES if lobe in RIGHT_LOBES else LEFT_LOBES


def covid(rng: np.random.Generator, burden: float) -> list[Lesion]:
    """COVID-19: bilateral, peripheral, lower-zone ground glass with consolidated cores.

    Args:
        rng: source of all numbers.
        burden: in (0, 1], how many foci and how large.

    Returns:
        The lesions; cores come before the ground glass around them.
    """

    def peripheral(z: np.ndarray, y: np.ndarray, x: np.ndarray, wall: np.ndarray) -> np.ndarray:
        low = (z > 115) / (1 + np.exp((z - 195.0) / 25.0))
        lateral = np.clip((np.abs(x - MIDLINE) - 45.0) / 35.0, 0.05, 1)
        return (0.12 + low) * np.exp(-wall / 9.0) * lateral

    lesions = []
    for i in range(2 + rng.poisson(1 + 9 * burden)):
        lobes = BOTH_LUNGS
        if i < 2 and burden >= 0.25:
            lobes = SIDES[(i + int(rng.integers(2))) % 2]
        centre, lobe = _draw_point(rng, lobes, peripheral)
        lung = _lung_of(lobe)
        radius = rng.uniform(15, 22 + 16 * burden) * rng.uniform(0.8, 1.25, 3)
        hu = rng.uniform(-380, -120)
        texture = rng.uniform(0.4, 1)
        lesions.append(_make_lesion(rng, "ground_glass", centre, radius, lung, hu, texture))
        if rng.random() < 0.15 + 0.5 * burden:
            hu = rng.uniform(-60, 30)
            core = _make_lesion(rng, "consolidation", centre, 0.55 * radius, lung, hu, 0.9)
            lesions.insert(0, core)
    return lesions


def bacterial(rng: np.random.Generator) -> list[Lesion]:
    """Bacterial pneumonia: one lobe, at times two, filled homogeneously up to its fissure.

    A third has a parapneumonic effusion.
    """

    def central(z: np.ndarray, y: np.ndarray, x: np.ndarray, wall: np.ndarray) -> np.ndarray:
        return np.minimum(wall, 25)

    lesions = []
    count = 1 + (rng.random() < 0.25)
    chances = (0.18, 0.17, 0.27, 0.15, 0.23)
    for lobe in rng.choice(BOTH_LUNGS, size=count, replace=False, p=chances):
        lobes = (int(lobe),)
        centre, _ = _draw_point(rng, lobes, central)
        radius = rng.uniform(28, 62) * rng.uniform(0.85, 1.2, 3)
        hu = rng.uniform(-150, 40)
        texture = rng.uniform(0.2, 0.7)
        lesions.append(_make_lesion(rng, "consolidation", centre, radius, lobes, hu, texture))
    if rng.random() < 0.33:
        side = _lung_of(lesions[0].lobes[0])
        lesions += effusion(rng, sides=(side,), large=0.3)
    return lesions


def tuberculosis(rng: np.random.Generator) -> list[Lesion]:
    """Post-primary tuberculosis: apical patchy infiltrate with cavities and satellite nodules.

    In half of the patients there is a second infiltrate, which may lie in the other apex.
    """

    def apical(z: np.ndarray, y: np.ndarray, x: np.ndarray, wall: np.ndarray) -> np.ndarray:
        return np.exp((z - LUNG_TOP) / 22.0) * (wall > 4)

    def upper(z: np.ndarray, y: np.ndarray, x: np.ndarray, wall: np.ndarray) -> np.ndarray:
        return np.exp((z - LUNG_TOP) / 45.0) * (wall > 5)

    side = RIGHT_LOBES if rng.random() < 0.55 else LEFT_LOBES
    infiltrates = [side]
    if rng.random() < 0.5:
        infiltrates.append(BOTH_LUNGS)
    lesions = []
    for lobes in infiltrates:
        centre, lobe = _draw_point(rng, lobes, apical)
        lung = _lung_of(lobe)
        if rng.random() < 0.65:
            radius = rng.uniform(11, 20)
            hu = rng.uniform(-60, 30)
            lesions.append(_make_lesion(rng, "cavity", centre, radius, lung, hu))
        radius = rng.uniform(16, 30, 3)
        hu = rng.uniform(-420, -120)
        lesions.append(_make_lesion(rng, "consolidation", centre, radius, lung, hu, 1.0))
    for _ in range(rng.integers(3, 10)):
        lobes = side if rng.random() < 0.7 else BOTH_LUNGS
        centre, lobe = _draw_point(rng, lobes, upper)
        radius = rng.uniform(3, 7.5)
        lesions.append(_make_lesion(rng, "nodule", centre, radius, _lung_of(lobe), 20))
    return lesions


def effusion(
    rng: np.random.Generator,
    sides: Sequence[tuple[int, ...]] | None = None,
    large: float = 0.5,
) -> list[Lesion]:
    """Pleural effusion, from a blunted angle to half a lung; part of it layers behind the lung.

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
    lowest, highest = (128, 195) if rng.random() < large else (98, 130)
    level = rng.uniform(lowest, highest)
    lesions = []
    for side in sides:
        centre = (float(level + rng.normal(0, 8)), 115.0, 0.0)
        radius = (rng.uniform(30, 70), rng.uniform(0, 14), 1.0)
        lesions.append(_make_lesion(rng, "fluid", centre, radius, side, 10))
    return lesions


def edema(rng: np.random.Generator) -> list[Lesion]:
    """Pulmonary edema: perihilar haze on both sides, more towards the bases."""
    reach = rng.uniform(52, 82)
    hu = rng.uniform(-420, -230)
    lesions = []
    for side, outwards, lobes in (("right", -14, RIGHT_LOBES), ("left", 14, LEFT_LOBES)):
        z, y, x = HILA[side]
        centre = (z - 18, y, x + outwards)
        radius = (reach * rng.uniform(0.9, 1.15), reach, reach * 0.85)
        texture = rng.uniform(0.3, 0.9)
        lesions.append(_make_lesion(rng, "haze", centre, radius, lobes, hu, texture))
    return lesions


def pneumothorax(rng: np.random.Generator) -> list[Lesion]:
    """Air between chest wall and lung on one side, with its pleural line.

    It reaches from a rim at the apex to a third of the lung.
    """
    side = RIGHT_LOBES if rng.random() < 0.55 else LEFT_LOBES
    towards = 1 if side == LEFT_LOBES else -1
    centre = (0.0, 0.0, MIDLINE + towards)
    radius = (rng.uniform(130, 220), 1.0, rng.uniform(0.10, 0.38))
    line = _make_lesion(rng, "pleural_line", centre, radius, side, -400)
    air = _make_lesion(rng, "air", centre, radius, side, -1000)
    return [line, air]


def atelectasis(rng: np.random.Generator) -> list[Lesion]:
    """Collapsed lung: plates at the bases, 4 to 8 mm thick, or a whole lower lobe.

    A collapsed lower lobe lies behind the heart or beside it.
    """
    if rng.random() < 0.45:
        return [_collapsed_lobe(rng)]

    def basal(z: np.ndarray, y: np.ndarray, x: np.ndarray, wall: np.ndarray) -> np.ndarray:
        return np.exp(-(((z - 160.0) / 32.0) ** 2)) * (wall > 8) * (z > 125)

    plates = []
    for _ in range(rng.integers(1, 4)):
        centre, lobe = _draw_point(rng, BOTH_LUNGS, basal)
        radius = (rng.uniform(2.0, 4.0), rng.uniform(9, 18), rng.uniform(24, 48))
        texture = rng.uniform(0, 1)
        plates.append(_make_lesion(rng, "plate", centre, radius, _lung_of(lobe), -60, texture))
    return plates


def _collapsed_lobe(rng: np.random.Generator) -> Lesion:
    lobe = int(rng.choice(LOWER_LOBES, p=(0.4, 0.6)))
    z = float(rng.uniform(115, 145))
    y = float(rng.uniform(75, 110))
    x = 138.0 if lobe == 3 else 222.0
    radius = (rng.uniform(40, 60), 45.0, rng.uniform(22, 36))
    hu = rng.uniform(-60, 40)
    return _make_lesion(rng, "collapse", (z, y, x), radius, (lobe,), hu, 0.2)


def cardiomegaly(rng: np.random.Generator) -> list[Lesion]:
    """A heart 1.3 to 1.6 times as wide."""
    return [_wide_heart(rng, "big_heart", rng.uniform(1.3, 1.6))]


def normal_heart(rng: np.random.Generator) -> list[Lesion]:
    """Half of all hearts are a little wider than the atlas's."""
    if rng.random() < 0.5:
        return [_wide_heart(rng, "full_heart", rng.uniform(1.02, 1.12))]
    return []


def _wide_heart(rng: np.random.Generator, kind: str, factor: float) -> Lesion:
    """The heart at `factor` times its width."""
    centre = tuple(load_atlas().heart.tolist())
    return _make_lesion(rng, kind, centre, factor, BOTH_LUNGS, 40)
