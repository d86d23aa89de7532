"""Support devices: tubes, lines, pacemakers and electrodes as metal shadows on the anatomy.

A tube runs along the middle of the windpipe of the patient's own CT. S px of a side of the chest's
maps; points are canonical z, y, x in mm; widths are mm in the patient; attenuation is a line
integral.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from scipy.interpolate import CubicSpline

from cxrkit.simulation.anatomy import Chest
from cxrkit.simulation.atlases import load_atlas

Point = tuple[float, float, float]

SCALE = 2  # shadows are rendered this much finer than the map and averaged
SUBPIXEL = 4  # bits of the fraction of a pixel
# kind -> chance that a patient with any device has it
CHANCES = {
    "tube": 0.35,
    "feeding_tube": 0.25,
    "central_line": 0.45,
    "pacemaker": 0.25,
    "leads": 0.4,
}
TIP_ABOVE_CARINA = (30.0, 65.0)  # mm


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


def _smooth_curve(points: np.ndarray, n: int = 80) -> np.ndarray:
    """Smooth curve through control points in the plane: (k, 2) -> (n, 2)."""
    p = np.asarray(points, float)
    length = np.concatenate([[0], np.cumsum(np.hypot(*np.diff(p, axis=0).T) ** 0.5)])
    return CubicSpline(length, p)(np.linspace(0, length[-1], n))


class _Canvas:
    """Line integral (S, S) of curves and shapes on a chest; lengths in mm."""

    def __init__(self, chest: Chest) -> None:
        self.chest = chest
        self.integral = np.zeros((chest.size, chest.size), np.float32)
        self.pixels = chest.size / chest.field_mm * 1.09  # px of a mm in the middle of the chest

    def line(
        self, control_points: Sequence[Point], width: float, attenuation: float, offset: float = 0.0
    ) -> None:
        """Add a smooth curve through points, `offset` mm to the left of them."""
        path = _smooth_curve(self.chest.pixel_of(control_points))  # (n, 2)
        path[:, 0] += offset * self.pixels
        self.stroke(path, width, attenuation)

    def stroke(self, path: np.ndarray, width: float, attenuation: float) -> None:
        """Add a curve given in px of the map (n, 2)."""
        points = np.round((path + 0.5) * SCALE * 2**SUBPIXEL).astype(np.int32).reshape(-1, 1, 2)
        fine = self._blank()
        thickness = max(1, self._length(width))
        cv2.polylines(fine, [points], False, 255, thickness, cv2.LINE_AA, SUBPIXEL)
        self._add(fine, attenuation)

    def disc(self, point: Point, radius: float, attenuation: float) -> None:
        """Add a disc with a denser rim around a point."""
        x, y = self._pixel(point)
        fine = self._blank()
        cv2.circle(fine, (int(x), int(y)), self._length(radius), 150, -1, cv2.LINE_AA)
        cv2.circle(fine, (int(x), int(y)), self._length(0.45 * radius), 255, -1, cv2.LINE_AA)
        self._add(fine, attenuation)

    def plate(
        self, point: Point, size: tuple[float, float], angle: float, attenuation: float
    ) -> None:
        """Add an oval plate around a point; `size` its half axes, `angle` in degrees."""
        x, y = self._pixel(point)
        axes = tuple(self._length(side) for side in size)
        fine = self._blank()
        cv2.ellipse(fine, (int(x), int(y)), axes, angle, 0, 360, 255, -1, cv2.LINE_AA)
        self._add(fine, attenuation)

    def _blank(self) -> np.ndarray:
        return np.zeros((self.chest.size * SCALE,) * 2, np.uint8)

    def _add(self, fine: np.ndarray, attenuation: float) -> None:
        """Average a finer shadow, uint8, onto the canvas."""
        shadow = cv2.resize(fine, self.integral.shape, interpolation=cv2.INTER_AREA)
        self.integral += shadow * np.float32(attenuation / 255.0)

    def _pixel(self, point: Point) -> np.ndarray:
        """Column and row of a point on the finer grid, int32 (2,)."""
        return np.round((self.chest.pixel_of([point])[0] + 0.5) * SCALE).astype(np.int32)

    def _length(self, mm: float) -> int:
        """Mm -> px of the finer grid."""
        return max(1, round(mm * SCALE * self.pixels))


def tube_path(source: str, rng: np.random.Generator) -> list[Point]:
    """Middle line of an endotracheal tube, from the neck to its tip.

    Args:
        source: the CT.
        rng: source of the height of the tip.

    Returns:
        Canonical points; the last one is the tip, above the carina.
    """
    trachea = load_atlas(source).trachea[::-1]  # (n, 3), from the carina to its top
    carina, top = trachea[0, 0], trachea[-1, 0]
    tip = min(carina + rng.uniform(*TIP_ABOVE_CARINA), top - 5.0)
    levels = np.linspace(top, tip, 6)
    inside = [np.interp(levels, trachea[:, 0], trachea[:, axis]) for axis in range(3)]
    path = np.stack(inside, axis=1)  # (6, 3)
    above = [(top + up, *path[0, 1:].tolist()) for up in (75.0, 50.0, 25.0)]
    return above + [tuple(point) for point in path.tolist()]


def tube(canvas: _Canvas, rng: np.random.Generator) -> None:
    """Endotracheal tube: down the windpipe to a few centimetres above the carina.

    It has a radio-opaque stripe.
    """
    path = tube_path(canvas.chest.source, rng)
    canvas.line(path, 10.0, 0.05)
    canvas.line(path, 7.0, -0.03)  # its lumen
    canvas.line(path, 1.3, 0.5, offset=2.5)


def feeding_tube(canvas: _Canvas, rng: np.random.Generator) -> None:
    """Nasogastric tube: down the midline, through the hiatus, into the stomach on the left."""
    path = [
        (382, 110, 183),
        (285, 105, 184),
        (192, 100, 186),
        (112, 105, 189),
        (80, 115, 209),
        (67, 125, 241 + rng.normal(0, 8)),
    ]
    canvas.line(path, 3.4, 0.12)
    canvas.line(path, 1.5, 0.4)


def central_line(canvas: _Canvas, rng: np.random.Generator) -> None:
    """Venous catheter: from the neck or under a clavicle into the superior vena cava."""
    tip = 220 + rng.normal(0, 9)
    starts = [
        [(382, 130, 156), (315, 130, 159)],
        [(287, 150, 31), (310, 145, 86), (304, 145, 136)],
        [(287, 150, 330), (310, 145, 272), (302, 140, 205), (290, 140, 165)],
    ]
    start = starts[rng.integers(3)]
    canvas.line([*start, (272, 135, 155), (tip, 135, 154)], 2.0, 0.45)


def pacemaker(canvas: _Canvas, rng: np.random.Generator) -> None:
    """A generator under the left clavicle and a lead to the apex of the right ventricle."""
    pocket = (260 + rng.normal(0, 6), 170.0, 279 + rng.normal(0, 6))
    canvas.plate(pocket, (25, 20), rng.uniform(-30, 30), 1.5)
    lead = [
        (pocket[0] + 8, 170, pocket[2] - 18),
        (286, 150, 241),
        (284, 140, 186),
        (256, 140, 158),
        (192, 140, 153),
        (145, 160, 181),
        (131, 180, 219 + rng.normal(0, 6)),
    ]
    canvas.line(lead, 2.2, 0.7)


def electrodes(canvas: _Canvas, rng: np.random.Generator) -> None:
    """Electrodes on the skin and their wires, most of which leave the film sideways."""
    spots = ((267, 86), (270, 279), (132, 81), (122, 276), (200, 190))  # z, x
    size = canvas.chest.size
    for z, x in spots[: rng.integers(2, 6)]:
        spot = (z + rng.normal(0, 12), 200.0, x + rng.normal(0, 12))
        canvas.disc(spot, 6.0, 0.45)
        column, row = canvas.chest.pixel_of([spot])[0]
        if rng.random() < 0.7:
            end = (-20.0 if column < size / 2 else size + 20.0, rng.uniform(0.15, 0.95) * size)
        else:
            end = (column + rng.normal(0, 0.1) * size, size + 20.0)
        half = ((column + end[0]) / 2, (row + end[1]) / 2 + rng.normal(0, 0.06) * size)
        path = np.array([(column, row), half, end])
        canvas.stroke(_smooth_curve(path), 1.3, 0.3)


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
