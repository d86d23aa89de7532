"""Support devices: tubes, lines, pacemakers and electrodes as metal shadows on the anatomy.

S film size in px; points are z, y, x in mm of the atlas; attenuation is a line integral.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from cxrkit.simulation.anatomy import Chest

Point = tuple[float, float, float]

SCALE = 2  # shadows are rendered this much finer than the film and averaged
TRACHEA_X, TRACHEA_Y = 178.0, 125.0  # mm in the atlas
# down to where the vena cava enters the heart
CAVA = [(275.0, 130.0, 150.0), (235.0, 135.0, 152.0), (190.0, 140.0, 155.0)]
# kind -> chance that a patient with any device has it
CHANCES = {
    "tube": 0.35,
    "feeding_tube": 0.25,
    "central_line": 0.45,
    "pacemaker": 0.25,
    "leads": 0.4,
}


def draw_devices(rng: np.random.Generator) -> list[tuple[str, int]]:
    """Draw a random set of devices.

    Args:
        rng: source of all numbers.

    Returns:
        Kind and seed of each, at least one.
    """
    kinds = [kind for kind, chance in CHANCES.items() if rng.random() < chance]
    if not kinds:
        kinds = [rng.choice(list(CHANCES))]
    return [(str(kind), int(rng.integers(2**31))) for kind in kinds]


def _smooth_curve(points: np.ndarray, n: int = 60) -> np.ndarray:
    """Catmull-Rom curve through control points in the plane: (k, 2) -> (n, 2)."""
    p = np.asarray(points, float)
    p = np.vstack([2 * p[0] - p[1], p, 2 * p[-1] - p[-2]])  # (k + 2, 2)
    t = np.linspace(0, len(p) - 3 - 1e-9, n)
    i = t.astype(int)
    u = (t % 1)[:, None]
    a, b, c, d = p[i], p[i + 1], p[i + 2], p[i + 3]  # (n, 2) each
    linear = c - a
    square = 2 * a - 5 * b + 4 * c - d
    cubic = 3 * b - 3 * c + d - a
    return 0.5 * (2 * b + linear * u + square * u**2 + cubic * u**3)


class _Canvas:
    """Line integral (S, S) of curves and shapes on a chest; lengths are px of a 256 px film."""

    def __init__(self, chest: Chest) -> None:
        self.chest = chest
        self.integral = np.zeros((chest.size, chest.size), np.float32)

    def line(self, control_points: Sequence[Point], width: float, attenuation: float) -> None:
        """Add a smooth curve through points of the atlas."""
        path = _smooth_curve(self.chest.pixel_of(control_points))  # (n, 2)
        path = np.round(path * SCALE).astype(np.int32).reshape(-1, 1, 2)
        fine = self._blank()
        cv2.polylines(fine, [path], False, 255, max(1, self._length(width)), cv2.LINE_AA)
        self._add(fine, attenuation)

    def disc(self, point: Point, radius: float, attenuation: float) -> None:
        """Add a disc around a point of the atlas."""
        x, y = self._pixel(point)
        fine = self._blank()
        cv2.circle(fine, (int(x), int(y)), self._length(radius), 255, -1, cv2.LINE_AA)
        self._add(fine, attenuation)

    def plate(
        self, point: Point, size: tuple[float, float], angle: float, attenuation: float
    ) -> None:
        """Add a rectangle with rounded corners around a point of the atlas; `angle` in degrees."""
        x, y = self._pixel(point)
        sides = tuple(side * SCALE * self.chest.size / 256 for side in size)
        box = cv2.boxPoints(((float(x), float(y)), sides, angle)).astype(np.int32)
        fine = self._blank()
        cv2.fillConvexPoly(fine, box, 255)
        # a thick outline rounds the corners
        cv2.polylines(fine, [box], True, 255, self._length(7), cv2.LINE_AA)
        self._add(fine, attenuation)

    def _blank(self) -> np.ndarray:
        return np.zeros((self.chest.size * SCALE,) * 2, np.uint8)

    def _add(self, fine: np.ndarray, attenuation: float) -> None:
        """Average a finer shadow, uint8, onto the canvas."""
        shadow = cv2.resize(fine, self.integral.shape, interpolation=cv2.INTER_AREA)
        self.integral += shadow * (attenuation / 255.0)

    def _pixel(self, point: Point) -> np.ndarray:
        """Column and row of a point on the finer grid, int32 (2,)."""
        return np.round(self.chest.pixel_of([point])[0] * SCALE).astype(np.int32)

    def _length(self, pixels: float) -> int:
        """Px of a 256 px film -> px of the finer grid."""
        return round(pixels * SCALE * self.chest.size / 256)


def tube(canvas: _Canvas, rng: np.random.Generator) -> None:
    """Endotracheal tube: from the neck to a few centimetres above the carina.

    It has a radio-opaque stripe.
    """
    tip = rng.uniform(215, 250)
    path = [
        (330, TRACHEA_Y, TRACHEA_X + 4),
        (290, TRACHEA_Y, TRACHEA_X + rng.normal(0, 2)),
        (tip, TRACHEA_Y, TRACHEA_X - 3),
    ]
    stripe = [(z, y, x + 2) for z, y, x in path]
    canvas.line(path, 6.0, 0.12)
    canvas.line(stripe, 1.0, 0.45)


def feeding_tube(canvas: _Canvas, rng: np.random.Generator) -> None:
    """Nasogastric tube: down the midline, through the hiatus, into the stomach on the left."""
    path = [
        (330, 110, 182),
        (250, 105, 184),
        (170, 100, 186),
        (115, 105, 196),
        (85, 120, 215 + rng.normal(0, 8)),
    ]
    canvas.line(path, 1.6, 0.35)


def central_line(canvas: _Canvas, rng: np.random.Generator) -> None:
    """Venous catheter: from the neck or under a clavicle into the superior vena cava."""
    starts = [
        [(335, 130, 140), (300, 130, 146)],
        [(272, 150, 90), (287, 145, 122)],
        [(280, 150, 262), (287, 145, 215), (268, 140, 175)],
    ]
    start = starts[rng.integers(3)]
    end = CAVA[: rng.integers(2, 4)]
    canvas.line([*start, *end], 1.2, 0.45)


def pacemaker(canvas: _Canvas, rng: np.random.Generator) -> None:
    """A generator under the left clavicle and a lead to the apex of the right ventricle."""
    pocket = (262 + rng.normal(0, 6), 170.0, 268 + rng.normal(0, 6))
    canvas.plate(pocket, (18, 13), rng.uniform(-25, 25), 1.1)
    lead = [
        pocket,
        (285, 150, 225),
        (268, 140, 172),
        (200, 140, 156),
        (150, 160, 182),
        (138, 180, 205 + rng.normal(0, 6)),
    ]
    canvas.line(lead, 1.0, 0.7)


def electrodes(canvas: _Canvas, rng: np.random.Generator) -> None:
    """Electrodes on the skin and their wires."""
    spots = ((270, 95), (270, 260), (130, 90), (125, 280), (190, 200))  # z, x
    for z, x in spots[: rng.integers(2, 6)]:
        spot = (z + rng.normal(0, 10), 200.0, x + rng.normal(0, 10))
        canvas.disc(spot, 3.0, 0.5)
        bend = (spot[0] - 30, 200, spot[2] + rng.normal(0, 15))
        end = (30, 200, 180 + rng.normal(0, 60))
        canvas.line([spot, bend, end], 0.9, 0.3)


DEVICES = {
    "tube": tube,
    "feeding_tube": feeding_tube,
    "central_line": central_line,
    "pacemaker": pacemaker,
    "leads": electrodes,
}


def project_devices(chest: Chest, devices: Sequence[tuple[str, int]]) -> np.ndarray:
    """Project the devices of a patient.

    Args:
        chest: a body in one view.
        devices: kind and seed of each.

    Returns:
        Line integral (S, S).
    """
    canvas = _Canvas(chest)
    for kind, seed in devices:
        DEVICES[kind](canvas, np.random.default_rng(seed))
    return canvas.integral
