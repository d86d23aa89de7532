"""Anatomies: one real chest CT bent into many chests, and their X-ray projection.

The atlas (`atlas/thorax.npz`) is a volume (z feet to head, y back to front, x patient's right to
left) at 1.5 mm. A `Body` holds the numbers that bend it. `project` makes the `Chest` of a body in
one view: every depth slice is resampled to the detector's pixels at its own magnification. The rays
of a point source then run along the depth axis, and projection is a plain sum.

D depth slices, Y Z X voxels of the atlas file, S detector pixels to a side, h w box of the lungs;
lengths in mm, line integrals in units of 1 (attenuation x length).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from scipy import ndimage

ATLAS_FILE = Path(__file__).parent / "atlas" / "thorax.npz"
WATER = 0.02  # 1/mm, attenuation of water at about 65 keV, the effective energy of a chest film
SLICE_SPACING = 3.0  # mm between depth slices
# mm from source to detector; AP films are taken at the bed
SOURCE_DISTANCE = {"PA": 1800.0, "AP": 1100.0}
DETECTOR_DISTANCE = 150.0  # mm from the middle of the chest to the detector
LOBES = (
    "upper_lobe_right",
    "middle_lobe_right",
    "lower_lobe_right",
    "upper_lobe_left",
    "lower_lobe_left",
)
SIDES = ((1, 2, 3), (4, 5))  # labels of the lobes of the right and of the left lung
LUNG_HU = -860.0
SOFT_HU = 40.0
# mm above the middle of the lungs: the centre of the film, because the domes of the diaphragm hide
# the posterior recess of the lungs
CENTRE_OFFSET = 20.0
MIN_LUNG_DEPTH = 12.0  # mm of lung on a ray before a radiologist calls the pixel lung


@dataclass(frozen=True)
class Atlas:
    """The CT as attenuation channels and labels, with depth slices SLICE_SPACING apart.

    The four channels are soft tissue and air, bone, shoulder girdle, and lung vessels.
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

    def index(self, name: str) -> int:
        """Number of a label."""
        return self.names.index(name)


def _split_tissues(attenuation: np.ndarray, labels: np.ndarray, names: tuple) -> np.ndarray:
    """Split attenuation, uint8 (Y, Z, X), into the channels of the atlas (Y, Z, X, 4)."""
    soft = np.uint8(100 + SOFT_HU / 10)
    lung_grey = np.uint8(100 + LUNG_HU / 10)
    girdle = np.isin(labels, [names.index(n) for n in ("clavicles", "scapulae", "humeri")])
    bone = np.isin(labels, [names.index(n) for n in ("ribs", "vertebrae")])
    lung = (labels >= 1) & (labels <= len(LOBES))
    excess = np.where(attenuation > soft, attenuation - soft, 0).astype(np.uint8)
    is_vessel = lung & (attenuation > lung_grey + 10)
    vessel = np.where(is_vessel, attenuation - lung_grey, 0).astype(np.uint8)
    parts = [excess * bone, excess * girdle, vessel]
    rest = attenuation - sum(parts)
    return np.stack([rest, *parts], axis=-1).astype(np.uint8)  # (Y, Z, X, 4)


def _group_slices(volume: np.ndarray, step: int) -> np.ndarray:
    """Group `step` neighbouring slices: (Y, ...) -> (D, step, ...)."""
    n = volume.shape[0] // step
    return volume[: n * step].reshape(n, step, *volume.shape[1:])


@lru_cache(maxsize=1)
def load_atlas() -> Atlas:
    """Read the atlas, once a process.

    Returns:
        The atlas, depth first.

    Raises:
        FileNotFoundError: naming the tool that builds it.
    """
    if not ATLAS_FILE.exists():
        raise FileNotFoundError(
            f"{ATLAS_FILE} is missing: reinstall cxrkit, or build it with tools/build_atlas.py"
        )
    with np.load(ATLAS_FILE) as file:
        names = tuple(str(name) for name in file["names"])
        spacing = float(file["spacing"])
        attenuation = file["attenuation"].transpose(1, 0, 2)  # (Y, Z, X)
        labels = file["labels"].transpose(1, 0, 2)  # (Y, Z, X)
    step = round(SLICE_SPACING / spacing)
    channels = _group_slices(_split_tissues(attenuation, labels, names), step)
    channels = channels.mean(axis=1).round().astype(np.uint8)  # (D, Z, X, 4)
    labels = np.ascontiguousarray(_group_slices(labels, step)[:, 0])  # (D, Z, X)

    voxel = np.array([spacing, SLICE_SPACING, spacing])  # z, y, x mm
    heart = labels == names.index("heart")
    heart_voxels = np.argwhere(heart.transpose(1, 0, 2)) * voxel  # (n, 3) z, y, x mm
    lungs = (labels >= 1) & (labels <= len(LOBES))
    lung_voxels = np.argwhere(lungs.transpose(1, 0, 2)) * voxel  # (n, 3)
    middle = (lung_voxels.min(0) + lung_voxels.max(0)) / 2
    lung_shape, wall_distance = _round_lungs(labels, spacing)
    heart_shape = ndimage.gaussian_filter(heart.astype(np.float32), (1.5, 3, 3))
    return Atlas(
        channels=channels,
        labels=labels,
        names=names,
        spacing=spacing,
        centre=middle + np.array([CENTRE_OFFSET, 0, 0]),
        wall_distance=wall_distance,
        heart=heart_voxels.mean(0),
        heart_shape=(heart_shape * 255).astype(np.uint8),
        heart_reach=np.ptp(heart_voxels, axis=0) / 2,
        lung_shape=(lung_shape * 255).astype(np.uint8),
    )


def _round_lungs(labels: np.ndarray, spacing: float) -> tuple[np.ndarray, np.ndarray]:
    """Rounded shape of both lungs in [0, 1], and mm to their surface, float32 (D, Z, X) each.

    They are rounded by 6 mm, so that the vessels of the hilum are no surface.
    """
    lung_shape = np.zeros(labels.shape, np.float32)
    wall_distance = np.zeros(labels.shape, np.float32)
    sampling = (SLICE_SPACING, spacing, spacing)
    for lobes in SIDES:
        shape = ndimage.gaussian_filter(np.isin(labels, lobes).astype(np.float32), (2, 4, 4))
        distance = ndimage.distance_transform_edt(shape > 0.4, sampling=sampling)
        lung_shape = np.maximum(lung_shape, shape)
        wall_distance = np.maximum(wall_distance, distance.astype(np.float32))
    return lung_shape, wall_distance


@dataclass(frozen=True)
class Body:
    """How one chest differs from the atlas: a pure function of the generator that drew it."""

    scale: tuple[float, float, float]  # z, y, x
    turn: float  # rad about the long axis
    lean: float  # rad forwards or back (lordotic films)
    # mm that the right and left half of the diaphragm stand lower (deeper breath) than the atlas's
    domes: tuple[float, float]
    # mm, (2, 4, 6, 5): free-form shift of z and x on a coarse grid over depth, height and width
    bend: np.ndarray


def make_body(rng: np.random.Generator) -> Body:
    """Draw a body shape at random.

    Args:
        rng: source of all its numbers. Shifts of the control grid have 3 mm standard deviation.

    Returns:
        The body.
    """
    size = rng.normal(1.0, 0.05)
    scale = tuple(float(np.clip(size * rng.normal(1, 0.04), 0.85, 1.15)) for _ in range(3))
    return Body(
        scale=scale,
        turn=float(rng.normal(0, 0.04)),
        lean=float(rng.normal(0, 0.05)),
        domes=tuple(float(d) for d in rng.normal(-6, 9, 2)),
        bend=rng.normal(0, 3.0, (2, 4, 6, 5)).astype(np.float32),
    )


@dataclass
class Chest:
    """A body in one view.

    Maps are (S, S). Volumes (D/2, h, w) cover the box of the lungs, two depth slices in one.
    """

    view: str
    size: int
    # (4, S, S) line integrals of soft tissue, bone, shoulder girdle, lung vessels
    integrals: np.ndarray
    padding: np.ndarray  # (S, S) in [0, 1], where the chest wall carries fat
    lung_depth: np.ndarray  # (S, S) mm of lung on the ray
    right: np.ndarray  # bool (S, S), the right lung as a radiologist outlines it
    left: np.ndarray  # bool (S, S)
    box: tuple[slice, slice]  # where the volumes lie in the (S, S) maps
    tissue: np.ndarray  # float32 (D/2, h, w), 100 = water, without the lung vessels
    vessels: np.ndarray  # float32 (D/2, h, w), what the lung vessels add
    lobes: np.ndarray  # uint8 (D/2, h, w), 0 outside, 1-5 as LOBES
    wall_distance: np.ndarray  # float32 (D/2, h, w) mm to the surface of the lung
    z: np.ndarray  # float32 (D/2, h, w) atlas coordinates of every voxel, mm
    x: np.ndarray  # float32 (D/2, h, w)
    y: np.ndarray  # float32 (D/2,)
    step: float  # mm of depth that a slice of the volumes stands for
    lobe_boxes: dict[int, tuple[slice, slice, slice]]  # lobe -> its box in the volumes

    def pixel_of(self, points: Iterable[tuple[float, float, float]]) -> np.ndarray:
        """Find where points of the atlas fall on the film, to about a millimetre.

        Args:
            points: n triples z, y, x in mm.

        Returns:
            Column and row in px, float32 (n, 2).
        """
        return np.array([self._pixel_of(*point) for point in points], np.float32)

    def _pixel_of(self, z: float, y: float, x: float) -> np.ndarray:
        """Column and row of one point, by a linear fit to the voxels around it."""
        k = int(np.abs(self.y - y).argmin())
        Z, X = self.z[k, ::16, ::16], self.x[k, ::16, ::16]
        rows, columns = np.indices(Z.shape)
        rows = 16 * rows + self.box[0].start
        columns = 16 * columns + self.box[1].start
        inputs = np.stack([Z.ravel(), X.ravel(), np.ones(Z.size)], axis=1)
        outputs = np.stack([columns.ravel(), rows.ravel()], axis=1)
        near = np.exp(-((Z - z) ** 2 + (X - x) ** 2).ravel() / (2 * 60.0**2)) + 1e-6
        fit = np.linalg.lstsq(inputs * near[:, None], outputs * near[:, None], rcond=None)[0]
        return np.array([z, x, 1.0]) @ fit


def _slice_maps(
    atlas: Atlas, body: Body, view: str, size: int, field_mm: float
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Yield depth index, row map and column map of the atlas for each depth slice, back to front.

    The maps (S, S) say which voxel of the slice each pixel of the detector sees.
    """
    S = size
    D = len(atlas.labels) // 2 * 2
    zc, yc, xc = atlas.centre
    sz, sy, sx = body.scale
    pixels = (np.arange(S, dtype=np.float32) + 0.5 - S / 2) * field_mm / S  # mm in mid-chest
    distance = SOURCE_DISTANCE[view]
    towards = 1 if view == "PA" else -1  # the detector stands in front in PA, behind in AP
    magnification = distance / (distance - DETECTOR_DISTANCE)  # of the middle of the chest
    scale_z = np.float32(1 / (sz * atlas.spacing))
    scale_x = np.float32(1 / (sx * atlas.spacing))
    bends = []
    for axis in body.bend:
        bends.append([cv2.resize(p, (S, S), interpolation=cv2.INTER_CUBIC) for p in axis])
    for k in range(D):
        y = (k * SLICE_SPACING - yc) * sy  # mm in front of the middle of the lungs
        to_detector = DETECTOR_DISTANCE - towards * y
        # mm at this depth on the ray of each pixel
        across = pixels * np.float32(magnification * (distance - to_detector) / distance)  # (S,)
        x, z = across[None, :], -across[:, None]
        plane = np.clip(k / (D - 1) * 3, 0, 2.999)
        lower = int(plane)
        t = plane - lower
        dz, dx = (cv2.addWeighted(axis[lower], 1 - t, axis[lower + 1], t, 0) for axis in bends)
        low = np.exp(-(((z + 85.0) / 55.0) ** 2))  # the domes lie about 85 mm below the centre
        side = 1 / (1 + np.exp(-x / 12.0))  # 0 right, 1 left
        dz += low * (body.domes[0] * (1 - side) + body.domes[1] * side)
        dz += z + (body.lean * y)
        dx += x + (body.turn * y)
        rows = dz * scale_z + np.float32(zc / atlas.spacing)
        columns = dx * scale_x + np.float32(xc / atlas.spacing)
        yield k, rows, columns


def _resample(image: np.ndarray, rows: np.ndarray, columns: np.ndarray, method: int) -> np.ndarray:
    """Sample an image at rows and columns (S, S); it is mirrored at its border."""
    return cv2.remap(image, columns, rows, method, borderMode=cv2.BORDER_REFLECT_101)


def project(body: Body, view: str, size: int = 256, field_mm: float = 270.0) -> Chest:
    """Project a body onto a square film.

    Args:
        body: shape of the chest.
        view: "PA" or "AP".
        size: S, px of a side of the film.
        field_mm: width of the film in the middle of the chest.

    Returns:
        Line integrals, lung masks and lung volumes.
    """
    atlas = load_atlas()
    is_part = np.zeros((1, 256, 3), np.uint8)  # label -> in right lung, left lung, abdomen
    is_part[0, SIDES[0], 0] = 1
    is_part[0, SIDES[1], 1] = 1
    is_part[0, atlas.index("below_diaphragm"), 2] = 1
    sums = np.zeros((size, size * 4), np.float32)
    counts = np.zeros((size, size, 3), np.float32)
    slices = []
    for k, rows, columns in _slice_maps(atlas, body, view, size, field_mm):
        tissue = _resample(atlas.channels[k], rows, columns, cv2.INTER_LINEAR)  # (S, S, 4)
        labels = _resample(atlas.labels[k], rows, columns, cv2.INTER_NEAREST)  # (S, S)
        cv2.accumulate(tissue.reshape(size, -1), sums)
        cv2.accumulate(cv2.LUT(cv2.merge([labels] * 3), is_part), counts)
        slices.append((tissue, labels, rows, columns))
    ray = SLICE_SPACING * body.scale[1]  # mm of one slice
    depths = counts.transpose(2, 0, 1) * ray  # (3, S, S) mm
    right, left = lung_masks(depths[:2], depths[2], field_mm / size)
    integrals = sums.reshape(size, size, 4).transpose(2, 0, 1) * (WATER / 100 * ray)  # (4, S, S)
    return _make_chest(atlas, view, integrals, depths[0] + depths[1], right, left, slices, ray)


def lung_masks(
    depths: np.ndarray, below: np.ndarray, pixel_mm: float
) -> tuple[np.ndarray, np.ndarray]:
    """Lungs as a radiologist outlines them (spec 1.1).

    These are rays with enough lung that do not pass below the diaphragm. The sides are a pixel
    apart.

    Args:
        depths: mm of right and left lung on each ray (2, S, S).
        below: mm of abdomen on each ray (S, S).
        pixel_mm: width of a pixel.

    Returns:
        Right and left lung, bool (S, S) each.
    """
    abdomen = below >= 2 * SLICE_SPACING
    diameter = 2 * round(5 / pixel_mm) + 1
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (diameter, diameter))
    masks = []
    for side in range(2):
        lung = (depths[side] >= MIN_LUNG_DEPTH) & (depths[side] >= depths[1 - side])
        medial = 1 - 2 * side
        beneath = _beneath_dome(lung & abdomen, medial, margin=round(20 / pixel_mm))
        lung &= ~beneath & ~abdomen
        lung = cv2.morphologyEx(lung.astype(np.uint8), cv2.MORPH_OPEN, disc)
        _, pieces, stats, _ = cv2.connectedComponentsWithStats(lung, connectivity=4)
        largest = (pieces == stats[1:, cv2.CC_STAT_AREA].argmax() + 1).astype(np.uint8)
        outline, _ = cv2.findContours(largest, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        masks.append(cv2.drawContours(largest, outline, -1, 1, cv2.FILLED) > 0)
    return separate_lungs(*masks)


def _beneath_dome(hidden: np.ndarray, medial: int, margin: int) -> np.ndarray:
    """Pixels medial of the dome and more than `margin` px under its top, bool (S, S).

    Lung is seen there through the abdomen.

    Args:
        hidden: lung behind the abdomen, bool (S, S).
        medial: 1 if the spine lies at higher columns, else -1.
        margin: px.
    """
    rows = np.where(hidden.any(axis=1))[0]
    out = np.zeros_like(hidden)
    if len(rows):
        passed = np.maximum.accumulate(hidden[:, ::medial], axis=1)[:, ::medial]
        out[rows[0] + margin :] = passed[rows[0] + margin :]
    return out


def separate_lungs(right: np.ndarray, left: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Leave at least one pixel between the lungs: the left one loses what touches the right one.

    Args:
        right: bool (S, S).
        left: bool (S, S).

    Returns:
        Right and left lung.
    """
    near = cv2.dilate(right.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    return right, left & ~near


def _make_chest(
    atlas: Atlas,
    view: str,
    integrals: np.ndarray,
    lung_depth: np.ndarray,
    right: np.ndarray,
    left: np.ndarray,
    slices: list[tuple],
    ray: float,
) -> Chest:
    """Cut the volumes to the box of the lungs; two slices make one of the volumes."""
    rows, columns = np.where(lung_depth > 0)
    box = (slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1))
    planes = {name: [] for name in ("tissue", "vessels", "labels", "wall", "z", "x")}
    for k in range(0, len(slices), 2):
        first = np.ascontiguousarray(slices[k][0][box])  # (h, w, 4)
        tissue, labels, z, x = (plane[box] for plane in slices[k + 1])
        second = np.ascontiguousarray(tissue)
        pair = cv2.addWeighted(first, 0.5, second, 0.5, 0, dtype=cv2.CV_32F)  # (h, w, 4)
        planes["tissue"].append(pair[..., 0] + pair[..., 1] + pair[..., 2])
        planes["vessels"].append(pair[..., 3])
        planes["labels"].append(labels)
        planes["wall"].append(_resample(atlas.wall_distance[k + 1], z, x, cv2.INTER_LINEAR))
        planes["z"].append(z * atlas.spacing)
        planes["x"].append(x * atlas.spacing)
    volumes = {name: np.stack(stack) for name, stack in planes.items()}  # (D/2, h, w) each
    labels = volumes["labels"]
    lobes = np.where(labels <= len(LOBES), labels, 0).astype(np.uint8)
    lobe_boxes = {}
    for lobe, lobe_box in enumerate(ndimage.find_objects(lobes), start=1):
        if lobe_box is not None:
            lobe_boxes[lobe] = lobe_box
    soft = np.clip(integrals[0] / integrals[0].max() * 3, 0, 1)
    return Chest(
        view=view,
        size=len(lung_depth),
        integrals=np.ascontiguousarray(integrals),
        padding=cv2.GaussianBlur(soft, (0, 0), len(lung_depth) / 20),
        lung_depth=lung_depth,
        right=right,
        left=left,
        box=box,
        tissue=volumes["tissue"],
        vessels=volumes["vessels"],
        lobes=lobes,
        wall_distance=volumes["wall"],
        z=volumes["z"],
        x=volumes["x"],
        y=(np.arange(len(lobes), dtype=np.float32) * 2 + 1) * SLICE_SPACING,
        step=2 * ray,
        lobe_boxes=lobe_boxes,
    )
