"""Support devices: tubes, lines, pacemakers and electrodes as metal shadows that follow the
anatomy.
"""

import cv2
import numpy as np

SCALE = 2  # shadows are drawn this much finer than the film and averaged down
TRACHEA_X, TRACHEA_Y = 178.0, 125.0  # mm in the atlas
# down to where the cava enters the heart
CAVA = [(275.0, 130.0, 150.0), (235.0, 135.0, 152.0), (190.0, 140.0, 155.0)]

# Each kind: (chance that a patient with any device wears it)
CHANCES = {
    "tube": 0.35,
    "feeding_tube": 0.25,
    "central_line": 0.45,
    "pacemaker": 0.25,
    "leads": 0.4,
}


def draw(rng):
    """A random set of devices, at least one -> [(kind, seed)]."""
    kinds = [kind for kind, chance in CHANCES.items() if rng.random() < chance] or [
        rng.choice(list(CHANCES))
    ]
    return [(str(kind), int(rng.integers(2**31))) for kind in kinds]


def _curve(points, n=60):
    """(k, 3) control points -> (n, 3) points of a smooth curve through them (Catmull-Rom)."""
    p = np.asarray(points, float)
    p = np.vstack([2 * p[0] - p[1], p, 2 * p[-1] - p[-2]])
    t = np.linspace(0, len(p) - 3 - 1e-9, n)
    i, u = t.astype(int), (t % 1)[:, None]
    a, b, c, d = p[i], p[i + 1], p[i + 2], p[i + 3]
    return 0.5 * (
        2 * b + (c - a) * u + (2 * a - 5 * b + 4 * c - d) * u**2 + (3 * b - 3 * c + d - a) * u**3
    )


class _Canvas:
    """A film-sized sheet on which curves and shapes leave attenuation."""

    def __init__(self, chest):
        self.chest, self.sheet = chest, np.zeros((chest.size, chest.size), np.float32)

    def _layer(self, paint, attenuation):
        fine = np.zeros((self.chest.size * SCALE,) * 2, np.uint8)
        paint(fine)
        self.sheet += cv2.resize(fine, self.sheet.shape, interpolation=cv2.INTER_AREA) * (
            attenuation / 255.0
        )

    def pixels(self, points):
        return np.round(self.chest.pixel_of(points) * SCALE).astype(np.int32)

    def line(self, control_points, width, attenuation):
        """`width` in px of a 256 px film."""
        path = np.round(_smooth(self.chest.pixel_of(control_points)) * SCALE).astype(np.int32)
        thick = max(1, round(width * SCALE * self.chest.size / 256))
        self._layer(
            lambda sheet: cv2.polylines(
                sheet, [path.reshape(-1, 1, 2)], False, 255, thick, cv2.LINE_AA
            ),
            attenuation,
        )

    def disc(self, point, radius, attenuation):
        centre = tuple(int(v) for v in self.pixels([point])[0])
        width = round(radius * SCALE * self.chest.size / 256)
        self._layer(
            lambda sheet: cv2.circle(sheet, centre, width, 255, -1, cv2.LINE_AA), attenuation
        )

    def plate(self, point, size, angle, attenuation):
        centre = tuple(float(v) for v in self.pixels([point])[0])
        box = cv2.boxPoints(
            (centre, tuple(s * SCALE * self.chest.size / 256 for s in size), angle)
        ).astype(np.int32)
        rim = round(7 * SCALE * self.chest.size / 256)  # a thick outline rounds the corners
        self._layer(
            lambda sheet: cv2.polylines(
                cv2.fillConvexPoly(sheet, box, 255), [box], True, 255, rim, cv2.LINE_AA
            ),
            attenuation,
        )


def _smooth(pixels):
    return _curve(np.c_[pixels, np.zeros(len(pixels))])[:, :2]


def tube(canvas, rng):
    """Endotracheal tube: from the neck to a few centimetres above the carina, with its radio-opaque
    stripe.
    """
    tip = rng.uniform(215, 250)
    path = [
        (330, TRACHEA_Y, TRACHEA_X + 4),
        (290, TRACHEA_Y, TRACHEA_X + rng.normal(0, 2)),
        (tip, TRACHEA_Y, TRACHEA_X - 3),
    ]
    canvas.line(path, 6.0, 0.12)
    canvas.line([(z, y, x + 2) for z, y, x in path], 1.0, 0.45)


def feeding_tube(canvas, rng):
    """Nasogastric tube: down the midline, through the hiatus, into the stomach on the left."""
    path = [
        (330, 110, 182),
        (250, 105, 184),
        (170, 100, 186),
        (115, 105, 196),
        (85, 120, 215 + rng.normal(0, 8)),
    ]
    canvas.line(path, 1.6, 0.35)


def central_line(canvas, rng):
    """Venous catheter: from the neck or under a clavicle into the superior vena cava."""
    starts = [
        [(335, 130, 140), (300, 130, 146)],
        [(272, 150, 90), (287, 145, 122)],
        [(280, 150, 262), (287, 145, 215), (268, 140, 175)],
    ]
    canvas.line([*starts[rng.integers(3)], *CAVA[: rng.integers(2, 4)]], 1.2, 0.45)


def pacemaker(canvas, rng):
    """A generator under the left clavicle and a lead to the apex of the right ventricle."""
    pocket = (262 + rng.normal(0, 6), 170.0, 268 + rng.normal(0, 6))
    canvas.plate(pocket, (18, 13), rng.uniform(-25, 25), 1.1)
    canvas.line(
        [
            pocket,
            (285, 150, 225),
            (268, 140, 172),
            (200, 140, 156),
            (150, 160, 182),
            (138, 180, 205 + rng.normal(0, 6)),
        ],
        1.0,
        0.7,
    )


def leads(canvas, rng):
    """Electrodes on the skin and their wires."""
    for z, x in ((270, 95), (270, 260), (130, 90), (125, 280), (190, 200))[: rng.integers(2, 6)]:
        spot = (z + rng.normal(0, 10), 200.0, x + rng.normal(0, 10))
        canvas.disc(spot, 3.0, 0.5)
        canvas.line(
            [
                spot,
                (spot[0] - 30, 200, spot[2] + rng.normal(0, 15)),
                (30, 200, 180 + rng.normal(0, 60)),
            ],
            0.9,
            0.3,
        )


KINDS = {
    "tube": tube,
    "feeding_tube": feeding_tube,
    "central_line": central_line,
    "pacemaker": pacemaker,
    "leads": leads,
}


def shadow(chest, worn):
    """Line integral (S, S) of the devices `worn` [(kind, seed)] on a chest."""
    canvas = _Canvas(chest)
    for kind, seed in worn:
        KINDS[kind](canvas, np.random.default_rng(seed))
    return canvas.sheet
