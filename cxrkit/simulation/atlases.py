"""Atlases: three real chest CTs as channels of attenuation and labels, from which bodies are bent.

An atlas file (`atlas/<source>.npz`) is a volume (z feet to head, y back to front, x patient's right
to left). Ribs, shoulder girdle and lung vessels keep the voxels of the CT across (0.65 to 0.84 mm);
soft tissue, spine and labels take two in one. `load_atlas` puts a neck, shoulders, flanks and fat
around the scan, so that no ray leaves the known body and nothing is ever mirrored.

*Canonical coordinates* (z, y, x in mm) are those of the first CT. The box of the lungs of every
other CT is stretched onto its box. Therefore a lesion at one canonical point lies in the same part
of the lung in all of them.

D depth slices, Z rows (z), X columns (x) of the stored voxels; F = X fine columns of thin bone.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from scipy import ndimage

from cxrkit.storage import mapped

ATLAS_FOLDER = Path(__file__).parent / "atlas"
SOURCES = ("lidc", "lung_dx_a0001", "lung_dx_a0002")
WATER = 0.02  # 1/mm, attenuation of water at about 65 keV, the effective energy of a chest film
SLICE_SPACING = 3.0  # mm between depth slices
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
# corners z, y, x of the box of the lungs in canonical coordinates, mm: that of the first CT
LUNG_BOX = np.array([[42.5, 36.0, 55.5], [302.5, 225.0, 307.5]])
# mm that soft tissue is continued above, below and beside the scan
NECK, WAIST, FLANK = 160.0, 120.0, 90.0
FAT = (14.0, 30.0)  # mm of the two shells of fat that a body can wear
FADING = 40  # fine rows over which a bone that the scan cuts off fades out
FAT_GREY = 90.0  # attenuation of fat, 100 = water


@dataclass(frozen=True)
class Atlas:
    """One CT. Attenuation is stored with 100 = water; bone and vessels hold what they add."""

    source: str
    # uint8 (D, Z', X', 2): soft tissue with air, and spine; padded, see `margin`
    soft: np.ndarray
    shells: np.ndarray  # uint8 (D/2, Z'/2, X'/2, 2): the two shells of fat around the body
    fine: np.ndarray  # uint8 (D, F, F, 2): ribs and lung vessels, square voxels
    girdle: tuple[np.ndarray, np.ndarray]  # uint8 (D, F, F) each: clavicles, scapulae with humeri
    labels: np.ndarray  # uint8 (D, Z, X)
    names: tuple[str, ...]
    spacing: float  # mm of a fine voxel, both ways
    pitch: tuple[float, float]  # mm of a voxel of soft tissue and labels: z, x
    margin: tuple[float, float]  # mm that `soft` begins below and beside the scan: z, x
    # float32 (D, Z, X/2), mm of a lung voxel to the surface of its lung, and to the chest wall
    wall_distance: np.ndarray
    costal_distance: np.ndarray
    centre: np.ndarray  # own z, y, x mm that the film is centred on
    origin: np.ndarray  # canonical = origin + stretch * own mm, z, y, x
    stretch: np.ndarray
    heart: np.ndarray  # canonical z, y, x, middle of the heart
    heart_shape: np.ndarray  # uint8 (D, Z, X), 0-255: the heart, rounded
    heart_reach: np.ndarray  # (z, y, x) canonical mm, half its size
    # canonical z, y, x of the middle of the trachea, from its top to the carina (n, 3)
    trachea: np.ndarray
    tumours: np.ndarray  # (n, 2, 3): own centre and radius, mm, of what was taken out

    def index(self, name: str) -> int:
        """Number of a label."""
        return self.names.index(name)

    def attenuation(self) -> np.ndarray:
        """All channels as one volume on the grid of the labels, 100 = water, float32 (D, Z, X)."""
        D, Z, X = self.labels.shape
        top, side = (round(m / p) for m, p in zip(self.margin, self.pitch, strict=True))
        total = self.soft[:, top : top + Z, side : side + X].astype(np.float32).sum(axis=-1)
        for k in range(D):
            parts = [self.fine[k, ..., 0], self.fine[k, ..., 1], *(g[k] for g in self.girdle)]
            for part in parts:
                scanned = np.ascontiguousarray(part[:-FADING])
                total[k] += cv2.resize(scanned, (X, Z), interpolation=cv2.INTER_AREA)
        return total

    def to_own(self, z: np.ndarray, y: np.ndarray, x: np.ndarray) -> list[np.ndarray]:
        """Canonical coordinates in mm -> own ones, z, y, x."""
        axes = zip((z, y, x), self.origin, self.stretch, strict=True)
        return [(axis - o) / s for axis, o, s in axes]


@lru_cache(maxsize=len(SOURCES))
def load_atlas(source: str = SOURCES[0]) -> Atlas:
    """Read an atlas, once a process.

    Args:
        source: a name in SOURCES.

    Returns:
        The atlas, depth first.

    Raises:
        FileNotFoundError: naming the tool that builds it.
    """
    path = ATLAS_FOLDER / f"{source}.npz"
    if not path.exists():
        raise FileNotFoundError(
            f"{path} is missing: reinstall cxrkit, or build it with tools/build_atlas.py"
        )
    with mapped.PARSING, np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    names = tuple(str(name) for name in arrays["names"])
    dz, _, dx = (float(step) for step in arrays["spacing"])
    labels = arrays["labels"]
    pitch = (dz, 2 * dx)
    voxel = np.array([dz, SLICE_SPACING, 2 * dx])
    lungs = _voxels(np.isin(labels, SIDES[0] + SIDES[1]), voxel)  # (n, 3) z, y, x mm
    low, high = lungs.min(0), lungs.max(0)
    stretch = (LUNG_BOX[1] - LUNG_BOX[0]) / (high - low)
    origin = LUNG_BOX[0] - stretch * low
    heart = labels == names.index("heart")
    heart_voxels = origin + stretch * _voxels(heart, voxel)
    rounded = ndimage.gaussian_filter(heart.astype(np.float32), (1.5, 1.8, 3))
    wall, costal = _distances(labels, pitch)
    soft, margin = _padded(arrays["soft"], arrays["spine"], pitch, low[0], high[0])
    return Atlas(
        source=source,
        soft=soft,
        shells=_fat_shells(soft[..., 0], pitch),
        fine=_fine(arrays["ribs"], arrays["vessels"], dz / dx),
        girdle=(_square(arrays["clavicles"], dz / dx), _square(arrays["scapulae"], dz / dx)),
        labels=labels,
        names=names,
        spacing=dx,
        pitch=pitch,
        margin=margin,
        wall_distance=wall,
        costal_distance=costal,
        centre=(low + high) / 2 + np.array([CENTRE_OFFSET, 0, 0]),
        origin=origin,
        stretch=stretch,
        heart=heart_voxels.mean(0),
        heart_shape=(rounded * 255).astype(np.uint8),
        heart_reach=np.ptp(heart_voxels, axis=0) / 2,
        trachea=origin + stretch * _centre_line(labels == names.index("trachea"), voxel),
        tumours=arrays["tumours"],
    )


def _voxels(mask: np.ndarray, voxel: np.ndarray) -> np.ndarray:
    """Own z, y, x in mm of the voxels of a mask (D, Z, X): (n, 3)."""
    depth, row, column = np.nonzero(mask)
    return np.stack([row, depth, column], axis=1) * voxel


def _square(channel: np.ndarray, ratio: float) -> np.ndarray:
    """A thin structure (D, Z, F) with rows as fine as its columns.

    Where the scan cuts a bone off at its top, it fades out over some rows more.
    """
    rows = round(channel.shape[1] * ratio)
    fading = np.exp(-np.arange(FADING) / (FADING / 3))[:, None]
    out = np.zeros((len(channel), rows + FADING, channel.shape[2]), np.uint8)
    for plane, target in zip(channel, out, strict=True):
        if plane.any():
            size = (channel.shape[2], rows)
            fine = cv2.resize(plane, size, interpolation=cv2.INTER_CUBIC)
            target[:rows] = fine
            target[rows:] = fading * cv2.blur(fine[-8:], (9, 9)).mean(axis=0)
    return out


def _fine(ribs: np.ndarray, vessels: np.ndarray, ratio: float) -> np.ndarray:
    """Ribs and vessels beside one another (D, F, F, 2)."""
    return np.stack([_square(ribs, ratio), _square(vessels, ratio)], axis=-1)


def _distances(labels: np.ndarray, pitch: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Mm of a lung voxel to the surface of its lung, and to the chest wall, (D, Z, X/2) each.

    Lungs are closed first, so that vessels of the hilum are no surface. The chest wall is the
    border of the *axial convex hull of both lungs*: mediastinum and diaphragm are no part of it.
    The apex counts as wall too.
    """
    lobes = labels[:, :, ::2]
    spacing = (SLICE_SPACING, pitch[0], 2 * pitch[1])
    wall = np.zeros(lobes.shape, np.float32)
    for side in SIDES:
        lung = ndimage.binary_closing(np.isin(lobes, side), iterations=2)
        distance = ndimage.distance_transform_edt(lung, sampling=spacing)
        wall = np.maximum(wall, distance.astype(np.float32))
    both = np.isin(lobes, SIDES[0] + SIDES[1])
    costal = np.zeros(lobes.shape, np.float32)
    for row in range(lobes.shape[1]):
        points = np.argwhere(both[:, row])
        if len(points) < 20:
            continue
        hull = np.zeros((lobes.shape[0], lobes.shape[2]), np.uint8)
        cv2.fillConvexPoly(hull, cv2.convexHull(points[:, ::-1].astype(np.int32)), 1)
        costal[:, row] = ndimage.distance_transform_edt(hull, sampling=spacing[::2])
    rows = np.arange(lobes.shape[1])[:, None]
    column = both.any(axis=0)  # (Z, X/2)
    top = np.where(column, rows, 0).max(axis=0)  # (X/2,) highest lung row of each column
    to_apex = np.where(top > 0, np.maximum(top - rows, 0) * pitch[0], 1e3)
    return wall, np.minimum(costal, to_apex[None]).astype(np.float32)


def _centre_line(trachea: np.ndarray, voxel: np.ndarray) -> np.ndarray:
    """Own z, y, x in mm of the middle of the trachea in each row, from the top to the carina.

    The carina is the first row from the top that is more than 24 mm wide.
    """
    line = []
    for row in np.where(trachea.any(axis=(0, 2)))[0][::-1]:
        depth, column = np.nonzero(trachea[:, row])
        if np.ptp(column) * voxel[2] > 24.0 and len(line) > 10:
            break
        line.append(np.array([row, depth.mean(), column.mean()]) * voxel)
    return np.array(line)


# what lies around the scan


def _padded(
    soft: np.ndarray, spine: np.ndarray, pitch: tuple[float, float], bottom: float, apex: float
) -> tuple[np.ndarray, tuple[float, float]]:
    """Soft tissue and spine with flanks, shoulders, neck and waist, uint8 (D, Z', X', 2).

    The scan shows a circle. Beyond it the nearest voxel of the body is carried outwards, by nothing
    at the waist and by 50 mm at the shoulders. The neck is the uppermost slice, narrowed; the waist
    is the lowest one, continued.

    Args:
        soft: (D, Z, X).
        spine: (D, Z, X).
        pitch: mm of a voxel, z and x.
        bottom: own z of the lowest lung voxel, mm.
        apex: own z of the highest.

    Returns:
        The channels, and the mm below and beside the scan at which they begin.
    """
    D, Z, X = soft.shape
    above, below = round(NECK / pitch[0]), round(WAIST / pitch[0])
    side = round(FLANK / pitch[1])
    out = np.zeros((D, below + Z + above, X + 2 * side, 2), np.uint8)
    z = np.arange(Z) * pitch[0]
    height = (z - bottom) / (apex - bottom)  # 0 at the lowest recess, 1 at the apex
    reach = np.interp(height, [-0.2, 0.25, 0.6, 0.8, 1.0, 1.15], [0, 4, 14, 28, 44, 50])
    out[:, below : below + Z, :, 0] = _carried_outwards(soft, reach, pitch[1], side)
    out[:, below : below + Z, side : side + X, 1] = spine
    body = out[..., 0]
    across = np.abs(np.arange(X + 2 * side) - (X / 2 + side)) * pitch[1]  # mm from the middle
    top = ndimage.gaussian_filter(body[:, below + Z - 4 : below + Z].mean(1), (1, 3))
    muscle = _neck(top)
    waist = ndimage.gaussian_filter(body[:, below : below + 3].mean(1), (1, 2))
    for step in range(above):
        height = step * pitch[0]
        half = np.interp(height, [0, 25, 60, 100], [235, 130, 68, 62])
        share = np.exp(-height / 20.0)  # of the uppermost slice, which goes over into muscle
        plane = share * top + (1 - share) * muscle
        out[:, below + Z + step, :, 0] = plane / (1 + np.exp((across - half) / 9.0))
    faint = ndimage.gaussian_filter(waist, (4, 14))  # bowel would be drawn out to streaks
    for step in range(below):
        share = np.exp((step - below) * pitch[0] / 12.0)  # of the lowest slices
        out[:, step, :, 0] = share * waist + (1 - share) * faint
    for rows, stack in ((slice(below + Z, None), spine[:, -8:]), (slice(0, below), spine[:, :8])):
        column = 0.6 * ndimage.gaussian_filter(stack.astype(np.float32).mean(1), (1, 3))
        out[:, rows, side : side + X, 1] = column[:, None]
    return out, (below * pitch[0], side * pitch[1])


def _neck(top: np.ndarray) -> np.ndarray:
    """The uppermost slice (D, X), its gaps filled with muscle, smooth; the windpipe stays open."""
    disc = ndimage.generate_binary_structure(2, 1)
    solid = np.pad(top > 50, 12)
    solid = ndimage.binary_closing(solid, disc, iterations=10)
    filled = ndimage.binary_fill_holes(solid)[12:-12, 12:-12].astype(np.float32)
    middle = top.shape[1] // 2
    near = slice(middle - 12, middle + 12)
    muscle = 103.0 * ndimage.gaussian_filter(filled, (2, 5))
    muscle[:, near] = np.minimum(
        muscle[:, near], np.maximum(top[:, near], 100.0 * (top[:, near] > 40))
    )
    return ndimage.gaussian_filter(muscle, (0.7, 1.0))


def _carried_outwards(soft: np.ndarray, reach: np.ndarray, pitch_x: float, side: int) -> np.ndarray:
    """Soft tissue (D, Z, X + 2 side), continued by `reach` mm (Z,) beyond the scanned circle."""
    D, Z, X = soft.shape
    wide = np.zeros((D, Z, X + 2 * side), np.uint8)
    wide[:, :, side : side + X] = soft
    depth = (np.arange(D) - D / 2)[:, None] * SLICE_SPACING
    across = (np.arange(X + 2 * side) - (X / 2 + side))[None] * pitch_x
    inside = np.hypot(depth * 0.9, across) < X / 2 * pitch_x - 4.0  # (D, X')
    distance, nearest = ndimage.distance_transform_edt(
        ~inside, sampling=(SLICE_SPACING, pitch_x), return_indices=True
    )
    for row in range(Z):
        plane = wide[:, row] * inside
        carried = plane[tuple(nearest)]
        grown = (distance < reach[row]) & ~inside & (carried > 60)
        wide[:, row] = np.where(grown, np.clip(carried, 92, 106), plane)
    smooth = ndimage.gaussian_filter(wide, (1.5, 3.0, 1.5))
    return np.where(inside[:, None], wide, smooth)


def _fat_shells(soft: np.ndarray, pitch: tuple[float, float]) -> np.ndarray:
    """Two shells of fat around the filled body, uint8 (D/2, Z'/2, X'/2, 2).

    The body is filled first, or fat would lie in the lungs.
    """
    small = soft[::2, ::2, ::2]
    body = ndimage.uniform_filter((small > 55).astype(np.float32), 3) > 0.4
    disc = ndimage.generate_binary_structure(2, 1)
    filled = []
    for row in range(body.shape[1]):
        plane = np.pad(body[:, row], 10)
        plane = ndimage.binary_closing(plane, disc, iterations=8)
        filled.append(ndimage.binary_fill_holes(plane)[10:-10, 10:-10])
    spacing = (2 * SLICE_SPACING, 2 * pitch[0], 2 * pitch[1])
    away = ndimage.distance_transform_edt(~np.stack(filled, axis=1), sampling=spacing)
    shells = [np.clip((mm - away) / 6.0, 0, 1) * (away > 0) * FAT_GREY for mm in FAT]
    return np.stack(shells, axis=-1).astype(np.uint8)
