"""Anatomies: one real chest CT bent into many chests, and the X-ray geometry that sees them.

The atlas (`atlas/thorax.npz`) is a volume (z feet to head, y back to front, x patient's right to
left) at 1.5 mm. A `Body` holds the numbers that bend it. `project` looks at a body from one view:
every depth slice is resampled straight onto the detector's pixels at its own magnification, so that
the rays of a point source run along the depth axis and projection is a plain sum.

D depth slices, S detector pixels a side; lengths in mm, line integrals in units of 1 (attenuation x
length).
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from scipy import ndimage

ATLAS = Path(__file__).parent / "atlas" / "thorax.npz"
WATER = 0.02  # 1/mm, attenuation of water at about 65 keV, the effective energy of a chest film
DEPTH = 3.0  # mm between depth slices
# mm from source to detector; AP films are taken at the bed
SOURCE_DISTANCE = {"PA": 1800.0, "AP": 1100.0}
LOBES = (
    "upper_lobe_right",
    "middle_lobe_right",
    "lower_lobe_right",
    "upper_lobe_left",
    "lower_lobe_left",
)
LUNG_HU, SOFT_HU = -860.0, 40.0
# mm above the middle of the lungs: the centre of the film, since their posterior recess hides below
# the domes
AIM = 20.0
MIN_LUNG = 12.0  # mm of lung on a ray before a reader calls the pixel lung


@dataclass(frozen=True)
class Atlas:
    """The CT as four attenuation channels (soft tissue and air, bone, shoulder girdle, lung
    vessels) and labels at DEPTH spacing.
    """

    channels: np.ndarray  # uint8 (D, Z, X, 4), 100 = water
    labels: np.ndarray  # uint8 (D, Z, X)
    names: tuple[str, ...]
    spacing: float
    centre: np.ndarray  # (z, y, x) mm that the film is centred on
    wall_distance: np.ndarray  # float32 (D, Z, X) mm from a lung voxel to the surface of its lung
    heart: np.ndarray  # (z, y, x) mm, middle of the heart
    heart_shape: np.ndarray  # uint8 (D, Z, X), 0-255: the heart, rounded
    heart_reach: np.ndarray  # (z, y, x) mm, half its size
    lung_shape: np.ndarray  # uint8 (D, Z, X), 0-255: both lungs, rounded

    def index(self, name):
        """Number of a label."""
        return self.names.index(name)


def _split_tissues(attenuation, labels, names):
    """(Y, Z, X) uint8 attenuation -> (Y, Z, X, 4): what is left without it, bone, shoulder girdle,
    lung vessels.
    """
    soft = np.uint8(100 + SOFT_HU / 10)
    lung_grey = np.uint8(100 + LUNG_HU / 10)
    girdle = np.isin(labels, [names.index(n) for n in ("clavicles", "scapulae", "humeri")])
    bone = np.isin(labels, [names.index(n) for n in ("ribs", "vertebrae")])
    lung = (labels >= 1) & (labels <= len(LOBES))
    excess = np.where(attenuation > soft, attenuation - soft, 0).astype(np.uint8)
    vessel = np.where(lung & (attenuation > lung_grey + 10), attenuation - lung_grey, 0).astype(
        np.uint8
    )
    parts = [excess * bone, excess * girdle, vessel]
    return np.stack([attenuation - sum(parts), *parts], axis=-1).astype(np.uint8)


def _to_depth(volume, step, reduce):
    """Average or pick `step` neighbouring slices along the first axis."""
    n = volume.shape[0] // step
    groups = volume[: n * step].reshape(n, step, *volume.shape[1:])
    return reduce(groups)


@lru_cache(maxsize=1)
def load_atlas():
    """The atlas, depth first; read once a process. Raises FileNotFoundError naming the builder when
    it is missing.
    """
    if not ATLAS.exists():
        raise FileNotFoundError(
            f"{ATLAS} is missing: reinstall cxrkit, or build it with tools/build_atlas.py"
        )
    with np.load(ATLAS) as f:
        names, spacing = tuple(str(n) for n in f["names"]), float(f["spacing"])
        # (Y, Z, X)
        attenuation, labels = (f[k].transpose(1, 0, 2) for k in ("attenuation", "labels"))
    step = round(DEPTH / spacing)
    channels = _to_depth(
        _split_tissues(attenuation, labels, names),
        step,
        lambda g: g.mean(axis=1).round().astype(np.uint8),
    )
    labels = np.ascontiguousarray(_to_depth(labels, step, lambda g: g[:, 0]))
    place = np.array([spacing, DEPTH, spacing])
    heart_voxels = np.argwhere(labels.transpose(1, 0, 2) == names.index("heart")) * place
    lungs = (labels >= 1) & (labels <= len(LOBES))
    lung_voxels = np.argwhere(lungs.transpose(1, 0, 2)) * place
    wall, lung_shape = np.zeros(labels.shape, np.float32), np.zeros(labels.shape, np.float32)
    # rounded by 6 mm, so that the vessels of the hilum are no surface
    for lobes in ((1, 2, 3), (4, 5)):
        shape = ndimage.gaussian_filter(np.isin(labels, lobes).astype(np.float32), (2, 4, 4))
        distance = ndimage.distance_transform_edt(shape > 0.4, sampling=(DEPTH, spacing, spacing))
        lung_shape = np.maximum(lung_shape, shape)
        wall = np.maximum(wall, distance.astype(np.float32))
    heart = ndimage.gaussian_filter(
        (labels == names.index("heart")).astype(np.float32), (1.5, 3, 3)
    )
    return Atlas(
        channels,
        labels,
        names,
        spacing,
        (lung_voxels.min(0) + lung_voxels.max(0)) / 2 + np.array([AIM, 0, 0]),
        wall,
        heart_voxels.mean(0),
        (heart * 255).astype(np.uint8),
        np.ptp(heart_voxels, axis=0) / 2,
        (lung_shape * 255).astype(np.uint8),
    )


@dataclass(frozen=True)
class Body:
    """How one chest differs from the atlas: a pure function of the generator that drew it."""

    scale: tuple[float, float, float]  # z, y, x
    turn: float  # rad about the long axis: the patient stands a little askew
    lean: float  # rad forwards or back (lordotic films)
    # mm that the right and left half of the diaphragm stand lower (deeper breath) than the atlas's
    domes: tuple[float, float]
    # mm, (2, 4, 6, 5): free-form shift of z and x on a coarse grid over depth, height and width
    bend: np.ndarray


def make_body(rng):
    """Draw a body shape. Shifts of the control grid have 3 mm standard deviation."""
    size = rng.normal(1.0, 0.05)
    scale = tuple(float(np.clip(size * rng.normal(1, 0.04), 0.85, 1.15)) for _ in range(3))
    return Body(
        scale,
        float(rng.normal(0, 0.04)),
        float(rng.normal(0, 0.05)),
        tuple(float(d) for d in rng.normal(-6, 9, 2)),
        rng.normal(0, 3.0, (2, 4, 6, 5)).astype(np.float32),
    )


@dataclass
class Chest:
    """A body seen from one view. Maps are (S, S); volumes (D/2, h, w) cover the box of the lungs,
    two depth slices in one.
    """

    view: str
    size: int
    # (4, S, S) line integrals of soft tissue, bone, shoulder girdle, lung vessels
    integrals: np.ndarray
    padding: np.ndarray  # (S, S) in [0, 1], where the chest wall carries fat
    lung_depth: np.ndarray  # (S, S) mm of lung on the ray
    right: np.ndarray  # bool (S, S), the right lung as a reader draws it
    left: np.ndarray
    box: tuple[slice, slice]  # where the volumes lie in the (S, S) maps
    tissue: np.ndarray  # float32 (D/2, h, w), 100 = water, without the lung vessels
    vessels: np.ndarray  # float32 (D/2, h, w), what the lung vessels add
    lobes: np.ndarray  # uint8 (D/2, h, w), 0 outside, 1-5 as LOBES
    wall_distance: np.ndarray  # float32 (D/2, h, w) mm to the surface of the lung
    z: np.ndarray  # float32 (D/2, h, w) atlas coordinates of every voxel, mm
    x: np.ndarray
    y: np.ndarray  # float32 (D/2,)
    step: float  # mm of depth that a slice of the volumes stands for
    lobe_boxes: dict  # lobe -> its three slices in the volumes

    def pixel_of(self, points):
        """Where points of the atlas fall on the film: (n, 3) z, y, x in mm -> (n, 2) column, row in
        px, to about a millimetre.
        """
        out = []
        for z, y, x in points:
            k = int(np.abs(self.y - y).argmin())
            Z, X = self.z[k, ::16, ::16], self.x[k, ::16, ::16]
            rows, columns = (16 * i + self.box[a].start for a, i in enumerate(np.indices(Z.shape)))
            seen = np.stack([Z.ravel(), X.ravel(), np.ones(Z.size)], axis=1)
            near = np.exp(-((Z - z) ** 2 + (X - x) ** 2).ravel() / (2 * 60.0**2)) + 1e-6
            fit = np.linalg.lstsq(
                seen * near[:, None],
                np.stack([columns.ravel(), rows.ravel()], axis=1) * near[:, None],
                rcond=None,
            )[0]
            out.append(np.array([z, x, 1.0]) @ fit)
        return np.array(out, np.float32)


def _slice_maps(atlas, body, view, size, field_mm):
    """Yield (depth index in the atlas, atlas row map, atlas column map) for each depth slice of the
    body, back to front.
    """
    S, D = size, len(atlas.labels) // 2 * 2
    zc, yc, xc = atlas.centre
    sz, sy, sx = body.scale
    # mm at the middle of the chest
    pixels = (np.arange(S, dtype=np.float32) + 0.5 - S / 2) * field_mm / S
    distance = SOURCE_DISTANCE[view]
    # the detector stands in front of the chest in PA, behind it in AP
    towards = 1 if view == "PA" else -1
    middle = distance / (distance - 150.0)
    bends = [
        [cv2.resize(plane, (S, S), interpolation=cv2.INTER_CUBIC) for plane in axis]
        for axis in body.bend
    ]
    for k in range(D):
        y = (k * DEPTH - yc) * sy  # mm in front of the middle of the lungs
        to_detector = 150.0 - towards * y
        # mm at this depth on the ray of each pixel
        across = pixels * np.float32(middle * (distance - to_detector) / distance)
        x, z = across[None, :], -across[:, None]
        plane = np.clip(k / (D - 1) * 3, 0, 2.999)
        lower, t = int(plane), plane - int(plane)
        dz, dx = (cv2.addWeighted(axis[lower], 1 - t, axis[lower + 1], t, 0) for axis in bends)
        low = np.exp(-(((z + 85.0) / 55.0) ** 2))  # the domes lie about 85 mm below the centre
        side = 1 / (1 + np.exp(-x / 12.0))  # 0 right, 1 left
        dz += low * (body.domes[0] * (1 - side) + body.domes[1] * side)
        dz += z + (body.lean * y)
        dx += x + (body.turn * y)
        scale_z, scale_x = (
            np.float32(1 / (sz * atlas.spacing)),
            np.float32(1 / (sx * atlas.spacing)),
        )
        yield (
            k,
            dz * scale_z + np.float32(zc / atlas.spacing),
            dx * scale_x + np.float32(xc / atlas.spacing),
        )


def project(body, view, size=256, field_mm=270.0):
    """Look at `body` from `view` ("PA" or "AP") on a square film of `size` pixels that spans
    `field_mm` at the chest -> Chest.
    """
    atlas = load_atlas()
    marks = np.zeros((1, 256, 3), np.uint8)  # label -> (right lung, left lung, abdomen)
    marks[0, 1:4, 0] = marks[0, 4:6, 1] = marks[0, atlas.index("below_diaphragm"), 2] = 1
    sums, counts = np.zeros((size, size * 4), np.float32), np.zeros((size, size, 3), np.float32)
    slices = []
    for k, rows, columns in _slice_maps(atlas, body, view, size, field_mm):
        tissue = cv2.remap(
            atlas.channels[k], columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101
        )
        labels = cv2.remap(
            atlas.labels[k], columns, rows, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REFLECT_101
        )
        cv2.accumulate(tissue.reshape(size, -1), sums)
        cv2.accumulate(cv2.LUT(cv2.merge([labels] * 3), marks), counts)
        slices.append((tissue, labels, rows, columns))
    ray = DEPTH * body.scale[1]
    depths = counts.transpose(2, 0, 1) * ray  # (3, S, S) mm
    right, left = lung_outlines(depths[:2], depths[2], field_mm / size)
    integrals = sums.reshape(size, size, 4).transpose(2, 0, 1) * (WATER / 100 * ray)
    return _chest(atlas, view, integrals, depths[0] + depths[1], right, left, slices, ray)


def lung_outlines(depths, below, pixel_mm):
    """Lungs as a reader draws them (spec 1.1): rays with enough lung that do not pass below the
    diaphragm, the sides a pixel apart.

    depths (2, S, S) mm of right and left lung on each ray, below (S, S) mm of abdomen on it ->
    right, left bool (S, S).
    """
    abdomen = below >= 2 * DEPTH
    masks = []
    for side in range(2):
        lung = (depths[side] >= MIN_LUNG) & (depths[side] >= depths[1 - side])
        lung &= (
            ~_beneath_dome(lung & abdomen, medial=1 - 2 * side, margin=round(20 / pixel_mm))
            & ~abdomen
        )
        disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * round(5 / pixel_mm) + 1,) * 2)
        lung = cv2.morphologyEx(lung.astype(np.uint8), cv2.MORPH_OPEN, disc)
        _, pieces, stats, _ = cv2.connectedComponentsWithStats(lung, connectivity=4)
        largest = (pieces == stats[1:, cv2.CC_STAT_AREA].argmax() + 1).astype(np.uint8)
        outline, _ = cv2.findContours(largest, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        masks.append(cv2.drawContours(largest, outline, -1, 1, cv2.FILLED) > 0)
    return apart(*masks)


def _beneath_dome(hidden, medial, margin):
    """Pixels on the spine's side of the dome and more than `margin` px under its top: lung there is
    seen through the abdomen.

    hidden (S, S) = lung behind the abdomen; medial = +1 if the spine lies at higher columns, else
    -1.
    """
    rows = np.where(hidden.any(axis=1))[0]
    out = np.zeros_like(hidden)
    if len(rows):
        passed = np.maximum.accumulate(hidden[:, ::medial], axis=1)[:, ::medial]
        out[rows[0] + margin :] = passed[rows[0] + margin :]
    return out


def apart(right, left):
    """Take from the left lung what touches the right one, so that at least one pixel lies between
    the sides.
    """
    near = cv2.dilate(right.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    return right, left & ~near


def _chest(atlas, view, integrals, lung_depth, right, left, slices, ray):
    """Cut the volumes to the box of the lungs and put the Chest together. Two slices make one of
    the volumes.
    """
    rows, columns = np.where(lung_depth > 0)
    box = (slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1))
    volumes = []
    for k in range(0, len(slices), 2):
        tissue, labels, z, x = (plane[box] for plane in slices[k + 1])
        pair = cv2.addWeighted(
            np.ascontiguousarray(slices[k][0][box]),
            0.5,
            np.ascontiguousarray(tissue),
            0.5,
            0,
            dtype=cv2.CV_32F,
        )
        wall = cv2.remap(
            atlas.wall_distance[k + 1], x, z, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101
        )
        volumes.append(
            (
                pair[..., 0] + pair[..., 1] + pair[..., 2],
                pair[..., 3],
                labels,
                wall,
                z * atlas.spacing,
                x * atlas.spacing,
            )
        )
    matter, vessels, labels, wall, z, x = (
        np.stack(planes) for planes in zip(*volumes, strict=True)
    )
    lobes = np.where(labels <= len(LOBES), labels, 0).astype(np.uint8)
    boxes = {lobe: at for lobe, at in enumerate(ndimage.find_objects(lobes), start=1) if at}
    y = (np.arange(len(lobes), dtype=np.float32) * 2 + 1) * DEPTH
    padding = cv2.GaussianBlur(
        np.clip(integrals[0] / integrals[0].max() * 3, 0, 1), (0, 0), len(lung_depth) / 20
    )
    return Chest(
        view,
        len(lung_depth),
        np.ascontiguousarray(integrals),
        padding,
        lung_depth,
        right,
        left,
        box,
        matter,
        vessels,
        lobes,
        wall,
        z,
        x,
        y,
        2 * ray,
        boxes,
    )
