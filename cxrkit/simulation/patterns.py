"""Patterns: how each disease spreads over the lobes, as lists of lesions drawn at random. Textbook
radiology, in numbers.

Every function takes a NumPy generator and returns a list of `disease.Lesion` in the atlas's
coordinates (z up, y front, x from the patient's right; mm). The drawing knows nothing of views,
hospitals or pixels.
"""

from functools import lru_cache

import numpy as np

from cxrkit.simulation.anatomy import DEPTH, load_atlas
from cxrkit.simulation.disease import HILA, MIDLINE, Lesion

RIGHT, LEFT = (1, 2, 3), (4, 5)
BOTH = RIGHT + LEFT
LOWER = (3, 5)
LUNG_TOP = 296.0  # z of the apex, mm


@lru_cache(maxsize=1)
def _lung_points():
    """Places inside the lungs: (n, 3) z, y, x in mm; (n,) lobe; (n,) mm to the surface. One voxel
    in 150.
    """
    atlas = load_atlas()
    at = np.argwhere((atlas.labels >= 1) & (atlas.labels <= 5))[::150]
    depth, row, column = at.T
    place = np.stack([row * atlas.spacing, depth * DEPTH, column * atlas.spacing], axis=1).astype(
        np.float64
    )
    return (
        place,
        atlas.labels[depth, row, column],
        atlas.wall_distance[depth, row, column].astype(np.float64),
    )


def _place(rng, lobes, weight=None):
    """A random place in the lobes -> ((z, y, x) mm, lobe); `weight(z, y, x, wall)` prefers some
    places.
    """
    place, lobe, wall = _lung_points()
    chance = np.isin(lobe, lobes).astype(np.float64)
    if weight is not None:
        chance *= weight(*place.T, wall)
    i = rng.choice(len(place), p=chance / chance.sum())
    return tuple(float(v) for v in place[i]), int(lobe[i])


def _lesion(rng, kind, centre, radius, lobes, hu, texture=0.5):
    radius = tuple(float(r) for r in np.broadcast_to(radius, 3))
    return Lesion(
        kind, centre, radius, tuple(lobes), float(hu), float(texture), int(rng.integers(2**31))
    )


def _side(lobe):
    return RIGHT if lobe in RIGHT else LEFT


def covid(rng, burden):
    """COVID-19: several bilateral foci, peripheral and lower-zone, ground glass with consolidated
    cores. `burden` in (0, 1].
    """

    def preferred(z, y, x, wall):
        low = (z > 115) / (1 + np.exp((z - 195.0) / 25.0))
        lateral = np.clip((np.abs(x - MIDLINE) - 45.0) / 35.0, 0.05, 1)
        return (0.12 + low) * np.exp(-wall / 9.0) * lateral

    lesions = []
    for i in range(2 + rng.poisson(1 + 9 * burden)):
        lobes = (BOTH, RIGHT, LEFT)[
            0 if i > 1 or burden < 0.25 else 1 + (i + int(rng.integers(2))) % 2
        ]
        centre, lobe = _place(rng, lobes, preferred)
        radius = rng.uniform(15, 22 + 16 * burden) * rng.uniform(0.8, 1.25, 3)
        lesions.append(
            _lesion(
                rng,
                "ground_glass",
                centre,
                radius,
                _side(lobe),
                rng.uniform(-380, -120),
                rng.uniform(0.4, 1),
            )
        )
        if rng.random() < 0.15 + 0.5 * burden:
            lesions.insert(
                0,
                _lesion(
                    rng,
                    "consolidation",
                    centre,
                    0.55 * radius,
                    _side(lobe),
                    rng.uniform(-60, 30),
                    0.9,
                ),
            )
    return lesions


def bacterial(rng):
    """Bacterial pneumonia: one lobe, at times two, filled homogeneously up to its fissure; a
    parapneumonic effusion in a third.
    """
    lesions = []
    for lobe in rng.choice(
        BOTH, size=1 + (rng.random() < 0.25), replace=False, p=(0.18, 0.17, 0.27, 0.15, 0.23)
    ):
        centre, _ = _place(rng, (int(lobe),), lambda z, y, x, wall: np.minimum(wall, 25))
        radius = rng.uniform(28, 62) * rng.uniform(0.85, 1.2, 3)
        lesions.append(
            _lesion(
                rng,
                "consolidation",
                centre,
                radius,
                (int(lobe),),
                rng.uniform(-150, 40),
                rng.uniform(0.2, 0.7),
            )
        )
    if rng.random() < 0.33:
        lesions += effusion(rng, sides=(_side(lesions[0].lobes[0]),), large=0.3)
    return lesions


def tuberculosis(rng):
    """Post-primary tuberculosis: apical patchy infiltrate with cavities, satellite nodules, at
    times the other apex as well.
    """

    def apical(z, y, x, wall):
        return np.exp((z - LUNG_TOP) / 22.0) * (wall > 4)

    side = RIGHT if rng.random() < 0.55 else LEFT
    lesions = []
    for lobes in (side, BOTH) if rng.random() < 0.5 else (side,):
        centre, lobe = _place(rng, lobes, apical)
        if rng.random() < 0.65:
            lesions.append(
                _lesion(
                    rng, "cavity", centre, rng.uniform(11, 20), _side(lobe), rng.uniform(-60, 30)
                )
            )
        lesions.append(
            _lesion(
                rng,
                "consolidation",
                centre,
                rng.uniform(16, 30, 3),
                _side(lobe),
                rng.uniform(-420, -120),
                1.0,
            )
        )
    for _ in range(rng.integers(3, 10)):
        centre, lobe = _place(
            rng,
            side if rng.random() < 0.7 else BOTH,
            lambda z, y, x, wall: np.exp((z - LUNG_TOP) / 45.0) * (wall > 5),
        )
        lesions.append(_lesion(rng, "nodule", centre, rng.uniform(3, 7.5), _side(lobe), 20))
    return lesions


def effusion(rng, sides=None, large=0.5):
    """Pleural effusion of one or both sides: from a blunted angle to half a lung; part of it layers
    behind the lung.
    """
    if sides is None:
        sides = ((RIGHT,), (LEFT,), (RIGHT, LEFT))[rng.choice(3, p=(0.35, 0.3, 0.35))]
    level = rng.uniform(128, 195) if rng.random() < large else rng.uniform(98, 130)
    return [
        _lesion(
            rng,
            "fluid",
            (float(level + rng.normal(0, 8)), 115.0, 0.0),
            (rng.uniform(30, 70), rng.uniform(0, 14), 1.0),
            side,
            10,
        )
        for side in sides
    ]


def edema(rng):
    """Pulmonary edema: perihilar haze on both sides, more towards the bases."""
    reach, hu = rng.uniform(52, 82), rng.uniform(-420, -230)
    return [
        _lesion(
            rng,
            "haze",
            tuple(float(h + d) for h, d in zip(HILA[side], (-18, 0, sign * 14), strict=True)),
            (reach * rng.uniform(0.9, 1.15), reach, reach * 0.85),
            lobes,
            hu,
            rng.uniform(0.3, 0.9),
        )
        for side, sign, lobes in (("right", -1, RIGHT), ("left", 1, LEFT))
    ]


def pneumothorax(rng):
    """Air between chest wall and lung on one side, from a rim at the apex to a third of the lung,
    with its pleural line.
    """
    side = RIGHT if rng.random() < 0.55 else LEFT
    shape = (
        (0.0, 0.0, MIDLINE + (1 if side == LEFT else -1)),
        (rng.uniform(130, 220), 1.0, rng.uniform(0.10, 0.38)),
    )
    return [
        _lesion(rng, "pleural_line", *shape, side, -400),
        _lesion(rng, "air", *shape, side, -1000),
    ]


def atelectasis(rng):
    """Plates of collapsed lung at the bases, 4 to 8 mm thick, or a lower lobe drawn in behind the
    heart or beside it.
    """
    if rng.random() < 0.45:
        lobe = int(rng.choice(LOWER, p=(0.4, 0.6)))
        centre = (
            float(rng.uniform(115, 145)),
            float(rng.uniform(75, 110)),
            138.0 if lobe == 3 else 222.0,
        )
        return [
            _lesion(
                rng,
                "collapse",
                centre,
                (rng.uniform(40, 60), 45.0, rng.uniform(22, 36)),
                (lobe,),
                rng.uniform(-60, 40),
                0.2,
            )
        ]
    plates = []
    for _ in range(rng.integers(1, 4)):
        centre, lobe = _place(
            rng,
            BOTH,
            lambda z, y, x, wall: np.exp(-(((z - 160.0) / 32.0) ** 2)) * (wall > 8) * (z > 125),
        )
        plates.append(
            _lesion(
                rng,
                "plate",
                centre,
                (rng.uniform(2.0, 4.0), rng.uniform(9, 18), rng.uniform(24, 48)),
                _side(lobe),
                -60,
                rng.uniform(0, 1),
            )
        )
    return plates


def heart(rng, kind, factor):
    """The heart at `factor` times its width: "big_heart" (cardiomegaly) or "full_heart" (still
    normal).
    """
    return [_lesion(rng, kind, tuple(load_atlas().heart.tolist()), factor, BOTH, 40)]


def cardiomegaly(rng):
    """A heart 1.3 to 1.6 times as wide."""
    return heart(rng, "big_heart", rng.uniform(1.3, 1.6))


def normal_heart(rng):
    """Half of all hearts are a little wider than the atlas's."""
    return heart(rng, "full_heart", rng.uniform(1.02, 1.12)) if rng.random() < 0.5 else []
