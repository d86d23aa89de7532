"""Anatomies: real chest CTs bent into many chests, and their X-ray projection.

A `Body` names one of the source CTs (`atlases`) and holds the numbers that bend it. `project` makes
the `Chest` of a body in one view: every depth slice is resampled to the detector's pixels at its
own magnification. The rays of a point source then run along the depth axis, and projection is a
plain sum.

D depth slices, S detector pixels to a side, H = S/2 pixels of the coarser grid of soft tissue,
labels and lung volumes, h w box of the lungs on it; lengths in mm, line integrals in units of 1
(attenuation x length).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import cv2
import numpy as np
from scipy import ndimage

from cxrkit.simulation.atlases import (
    LOBES,
    SIDES,
    SLICE_SPACING,
    SOURCES,
    WATER,
    Atlas,
    load_atlas,
)

# mm from source to detector; AP films are taken at the bed
SOURCE_DISTANCE = {"PA": 1800.0, "AP": 1100.0}
DETECTOR_DISTANCE = 150.0  # mm from the middle of the chest to the detector
FIELD = 450.0  # mm, side of the map: a little more than a large detector
MIN_LUNG_DEPTH = 12.0  # mm of lung on a ray before a radiologist calls the pixel lung
MIN_HEART_DEPTH = 8.0  # mm of heart on a ray before the pixel is heart shadow
PARTS = ("right", "left", "below_diaphragm", "heart", "trachea")
# rows of `Chest.integrals`
CHANNELS = ("soft", "ribs", "spine", "girdle", "vessels")
COUNTED = 1024  # more than the depth slices of any CT
# fine voxels by which a pixel of the coarser grid may stand beside those of the finer one in it
NEAR = 24.0
COARSE = 64  # the bend is smooth: it is computed on so many points to a side


@dataclass(frozen=True)
class Body:
    """How one chest differs from its CT: a pure function of the generator that drew it."""

    scale: tuple[float, float, float]  # z, y, x
    turn: float  # rad about the long axis
    lean: float  # rad forwards or back (lordotic films)
    # mm that the right and left half of the diaphragm stand lower (deeper breath) than the CT's
    domes: tuple[float, float]
    # mm, (2, 4, 6, 5): free-form shift of z and x on a coarse grid over depth, height and width
    bend: np.ndarray
    source: str = SOURCES[0]  # the CT
    # mm that the left and the right border of the heart are drawn towards the spine
    heart: tuple[float, float] = (0.0, 0.0)
    mediastinum: float = 0.0  # mm that its right border is drawn towards the spine, at all depths
    clavicles: tuple[float, float] = (0.0, 0.0)  # mm down, and slope outwards
    scapulae: tuple[float, float] = (0.0, 0.0)  # mm outwards in PA, and mm up


class Habit(NamedTuple):
    """What a source CT needs to stand like any upright patient, and as bodies of the other CTs."""

    domes: tuple[float, float]  # means of `Body.domes`
    heart_left: tuple[float, float]  # least and most
    heart_right: tuple[float, float]
    mediastinum: tuple[float, float]
    clavicles: tuple[float, float]  # mm down
    slope: tuple[float, float]
    scapulae: tuple[float, float]
    contrast: tuple[float, float, float]  # of ribs, spine and girdle: thick slices dilute bone


# The arms of the first patient are half raised, those of the others fully. The second one breathes
# in deeply and has dense ribs. The third one is small and has slices of 8 mm; the tissue around her
# hilar tumour and a large pericardium push the right border of the mediastinum out.
HABITS = {
    "lidc": Habit(
        domes=(-2.0, -2.0),
        heart_left=(8.0, 30.0),
        heart_right=(2.0, 14.0),
        mediastinum=(-8.0, 5.0),
        clavicles=(2.0, 14.0),
        slope=(0.25, 0.55),
        scapulae=(8.0, 34.0),
        contrast=(1.0, 1.0, 1.0),
    ),
    "lung_dx_a0001": Habit(
        domes=(-13.0, -13.0),
        heart_left=(-12.0, 12.0),
        heart_right=(-16.0, 0.0),
        mediastinum=(-8.0, 5.0),
        clavicles=(-4.0, 6.0),
        slope=(0.0, 0.2),
        scapulae=(4.0, 20.0),
        contrast=(0.75, 0.9, 1.1),
    ),
    "lung_dx_a0002": Habit(
        domes=(7.0, -6.0),
        heart_left=(-22.0, 4.0),
        heart_right=(-14.0, 2.0),
        mediastinum=(16.0, 30.0),
        clavicles=(-4.0, 8.0),
        slope=(0.0, 0.25),
        scapulae=(4.0, 22.0),
        contrast=(0.9, 1.6, 1.6),
    ),
}
MOST_LOWERED = 14.0  # mm, of a half diaphragm
# how far a body's size goes from that of its own CT to that of the first one: the lungs of people
# differ more than those of three CTs, and each CT must yield small and large ones
COMMON_SIZE = 0.8


def make_body(rng: np.random.Generator, source: str = SOURCES[0]) -> Body:
    """Draw a body shape at random.

    Args:
        rng: source of all its numbers. Shifts of the control grid have 4.5 mm standard deviation.
        source: the CT that is bent, a name in `atlases.SOURCES`.

    Returns:
        The body.
    """
    size = rng.normal(1.0, 0.06)
    habit = HABITS[source]
    common = load_atlas(source).stretch ** COMMON_SIZE
    own = np.clip(size * rng.normal(1, 0.06, 3), 0.82, 1.2)
    domes = rng.normal(habit.domes, 10)
    return Body(
        scale=tuple(float(s) for s in own * common),
        turn=float(rng.normal(0, 0.07)),
        lean=float(rng.normal(0, 0.11)),
        # lowered further, they would bare lung under the heart
        domes=tuple(float(d) for d in np.clip(domes, np.subtract(habit.domes, 24), MOST_LOWERED)),
        bend=rng.normal(0, 4.5, (2, 4, 6, 5)).astype(np.float32),
        source=source,
        heart=(float(rng.uniform(*habit.heart_left)), float(rng.uniform(*habit.heart_right))),
        mediastinum=float(rng.uniform(*habit.mediastinum)),
        clavicles=(float(rng.uniform(*habit.clavicles)), float(rng.uniform(*habit.slope))),
        scapulae=(float(rng.uniform(*habit.scapulae)), float(rng.uniform(-8, 14))),
    )


@dataclass
class Chest:
    """A body in one view.

    Maps are (S, S). Volumes (D/2, h, w) cover the box of the lungs on the coarser grid (H, H), two
    depth slices in one. Their coordinates are canonical (`atlases`).
    """

    view: str
    size: int
    field_mm: float  # width of the map at the detector
    source: str  # the CT
    integrals: np.ndarray  # (5, S, S) line integrals of CHANNELS
    fat: np.ndarray  # (2, S, S) line integrals of the two shells of fat
    lung_depth: np.ndarray  # (S, S) mm of lung on the ray
    right: np.ndarray  # bool (S, S), the right lung as a radiologist outlines it
    left: np.ndarray  # bool (S, S)
    heart: np.ndarray  # bool (S, S), shadow of the heart
    trachea: np.ndarray  # bool (S, S), shadow of the windpipe
    box: tuple[slice, slice]  # where the volumes lie on the grid (H, H)
    tissue: np.ndarray  # float32 (D/2, h, w), 100 = water, without the lung vessels
    vessels: np.ndarray  # float32 (D/2, h, w), what the lung vessels add
    lobes: np.ndarray  # uint8 (D/2, h, w), 0 outside, 1-5 as LOBES
    wall_distance: np.ndarray  # float32 (D/2, h, w) mm to the surface of the lung
    costal_distance: np.ndarray  # float32 (D/2, h, w) mm to the chest wall
    z: np.ndarray  # float32 (D/2, h, w) canonical coordinates of every voxel, mm
    x: np.ndarray  # float32 (D/2, h, w)
    y: np.ndarray  # float32 (D/2,)
    step: float  # mm of depth that a slice of the volumes stands for
    lobe_boxes: dict[int, tuple[slice, slice, slice]]  # lobe -> its box in the volumes
    # what `disease` computed of lobes before
    regions: dict = field(default_factory=dict, repr=False, compare=False)

    def pixel_of(self, points: Iterable[tuple[float, float, float]]) -> np.ndarray:
        """Find where points fall on the map, to about a millimetre.

        Args:
            points: n triples z, y, x in canonical mm.

        Returns:
            Column and row in px of the (S, S) map, float32 (n, 2).
        """
        return np.array([self._pixel_of(*point) for point in points], np.float32)

    def _pixel_of(self, z: float, y: float, x: float) -> np.ndarray:
        """Column and row of one point, by a linear fit to the voxels around it."""
        k = int(np.abs(self.y - y).argmin())
        up, left = (axis[k, ::8, ::8].astype(np.float64) for axis in (self.z, self.x))
        up -= z
        left -= x
        near = np.exp((up**2 + left**2) / -(30.0**2)) + 1e-10  # squared weights
        rows = (8.0 * np.arange(up.shape[0]) + self.box[0].start)[:, None]
        columns = (8.0 * np.arange(up.shape[1]) + self.box[1].start)[None, :]
        ones = np.ones_like(up)
        known = np.stack([up, left, ones, columns * ones, rows * ones]).reshape(5, -1)
        products = (known[:3] * near.ravel()) @ known.T  # (3, 5): normal equations
        at_point = np.linalg.solve(products[:, :3], products[:, 3:])[2]
        return 2 * at_point + 0.5  # of the fine grid


class _Slice(NamedTuple):
    """One depth slice on the detector: own coordinates in mm that each pixel sees."""

    k: int
    z: np.ndarray  # float32 (H, H)
    x: np.ndarray  # float32 (H, H)


def _slices(atlas: Atlas, body: Body, view: str, size: int, field_mm: float) -> Iterator[_Slice]:
    """Yield the depth slices, back to front, on a grid of `size` pixels to a side."""
    D = len(atlas.labels) // 2 * 2
    zc, yc, xc = atlas.centre
    sz, sy, sx = body.scale
    distance = SOURCE_DISTANCE[view]
    towards = 1 if view == "PA" else -1  # the detector stands in front in PA, behind in AP
    fine = ((np.arange(size, dtype=np.float32) + 0.5) / size - 0.5) * np.float32(field_mm)
    few = ((np.arange(COARSE, dtype=np.float32) + 0.5) / COARSE - 0.5) * np.float32(field_mm)
    bends = []
    for axis in body.bend:
        bends.append([cv2.resize(p, (COARSE, COARSE), interpolation=cv2.INTER_CUBIC) for p in axis])
    for k in range(D):
        y = (k * SLICE_SPACING - yc) * sy  # mm in front of the middle of the lungs
        to_detector = DETECTOR_DISTANCE - towards * y
        shrink = np.float32((distance - to_detector) / distance)
        plane = np.clip(k / (D - 1) * 3, 0, 2.999)
        lower = int(plane)
        t = plane - lower
        dz, dx = (cv2.addWeighted(axis[lower], 1 - t, axis[lower + 1], t, 0) for axis in bends)
        _shift_organs(body, y, -few[:, None] * shrink, few[None, :] * shrink, dz, dx)
        dz = cv2.resize(dz, (size, size), interpolation=cv2.INTER_LINEAR)
        dx = cv2.resize(dx, (size, size), interpolation=cv2.INTER_LINEAR)
        dz += (body.lean * y - fine * shrink)[:, None]
        dx += (body.turn * y + fine * shrink)[None, :]
        dz *= np.float32(1 / sz)
        dx *= np.float32(1 / sx)
        dz += np.float32(zc)
        dx += np.float32(xc)
        yield _Slice(k, dz, dx)


def _shift_organs(
    body: Body, y: float, z: np.ndarray, x: np.ndarray, dz: np.ndarray, dx: np.ndarray
) -> None:
    """Lower the domes, draw heart and mediastinum in: adds to the shifts dz, dx (n, n), in place.

    Args:
        body: how far.
        y: depth of the slice, mm in front of the middle of the lungs.
        z: mm above the centre of the film (n, 1).
        x: mm to the left of it (1, n).
        dz: mm.
        dx: mm.
    """
    low = np.exp(-(((z + 85.0) / 52.0) ** 2))  # the domes lie about 85 mm below the centre
    side = 1 / (1 + np.exp(-x / 12.0))  # 0 right, 1 left
    dz += low * (body.domes[0] * (1 - side) + body.domes[1] * side)
    in_front = 1 / (1 + np.exp(-(y + 5.0) / 12.0))  # the heart lies in front of the spine
    level = np.exp(-(((z + 35.0) / 48.0) ** 2)) * in_front
    left, right = body.heart
    borders = left * np.exp(-(((x - 62.0) / 38.0) ** 2))
    borders -= right * np.exp(-(((x + 42.0) / 22.0) ** 2))
    dx += level * borders
    tall = np.exp(-((z / 85.0) ** 2)) * body.mediastinum
    dx -= tall * np.exp(-(((x + 44.0) / 33.0) ** 2))


def _remap(image: np.ndarray, rows: np.ndarray, columns: np.ndarray, method: int) -> np.ndarray:
    """Sample an image at rows and columns; outside it is air."""
    return cv2.remap(image, columns, rows, method, borderMode=cv2.BORDER_CONSTANT)


def _voxel_index(mm: np.ndarray, pitch: float, start: float = 0.0) -> np.ndarray:
    """Index of a voxel at own coordinates `mm`; voxel 0 lies `start` mm below their origin."""
    return (mm + np.float32(start)) * np.float32(1 / pitch)


_Box = tuple[slice, slice]


def _content(plane: np.ndarray) -> tuple[float, float, float, float] | None:
    """First and last row, first and last column of what is not 0 in a plane; None = all is 0."""
    channels = plane.size // (plane.shape[0] * plane.shape[1])
    left, top, width, height = cv2.boundingRect(plane.reshape(len(plane), -1))
    last = (left + width - 1) // channels
    return (top, top + height - 1, left // channels, last) if width else None


def _seen_in(
    content: tuple[float, float, float, float], rows: np.ndarray, columns: np.ndarray, margin: float
) -> _Box | None:
    """Where pixels may see some content, and a pixel around; None = none of them does.

    Args:
        content: its first and last row, first and last column.
        rows: row that each pixel sees (H, H).
        columns: column.
        margin: rows and columns by which these may be wrong.
    """
    top, bottom, left, right = content
    near = (rows > top - margin) & (rows < bottom + margin)
    near &= (columns > left - margin) & (columns < right + margin)
    x, y, width, height = cv2.boundingRect(near.view(np.uint8))
    if not width:
        return None
    H = len(rows)
    return slice(max(y - 1, 0), min(y + height + 1, H)), slice(max(x - 1, 0), min(x + width + 1, H))


def _finer(plane: np.ndarray, box: _Box) -> np.ndarray:
    """A box of a plane (H, H), at twice its size."""
    H = len(plane)
    wide = tuple(slice(max(side.start - 2, 0), min(side.stop + 2, H)) for side in box)
    part = plane[wide]
    fine = cv2.resize(part, (2 * part.shape[1], 2 * part.shape[0]))
    trimmed = []
    for side, outer in zip(box, wide, strict=True):
        start = 2 * (side.start - outer.start)
        trimmed.append(slice(start, start + 2 * (side.stop - side.start)))
    return np.ascontiguousarray(fine[tuple(trimmed)])


def _doubled(box: _Box) -> _Box:
    """A box of the coarser grid on the finer one."""
    rows, columns = box
    return slice(2 * rows.start, 2 * rows.stop), slice(2 * columns.start, 2 * columns.stop)


def _accumulate(plane: np.ndarray, total: np.ndarray, box: _Box) -> None:
    """Add a plane (h, w, ...) to a box of a sum (S, S, ...), in place."""
    part = total[box]
    np.add(part, plane, out=part)


class _Sums:
    """Sums over depth that `project` collects, slice by slice."""

    def __init__(self, atlas: Atlas, body: Body, view: str, size: int, field_mm: float) -> None:
        H, Q = size // 2, size // 4
        self.atlas, self.body, self.size = atlas, body, size
        self.field_mm = field_mm
        # scapulae are rolled off the lungs when the patient stands and puts the hands on the hips
        self.roll = 1.0 if view == "PA" else 0.35
        self.fine = np.zeros((size, size, 2), np.float32)
        self.girdle = np.zeros((size, size), np.float32)
        self.soft = np.zeros((H, H * 2), np.float32)
        self.fat = np.zeros((Q, Q * 2), np.float32)
        # one number counts the voxels of all parts: a digit each, in base COUNTED
        self.counts = np.zeros((H, H), np.float64)
        self.digit = np.zeros((1, 256), np.float64)
        for place, name in enumerate(PARTS):
            members = {"right": SIDES[0], "left": SIDES[1]}.get(name)
            self.digit[0, list(members or [atlas.index(name)])] += float(COUNTED) ** place

    def add(self, plane: _Slice) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Add a slice.

        Returns:
            Tissue (H, H), vessels (H, H) and labels (H, H) of the slice.
        """
        atlas, (k, z, x) = self.atlas, plane
        H = len(z)
        rows = _voxel_index(z, atlas.pitch[0], atlas.margin[0])
        columns = _voxel_index(x, atlas.pitch[1], atlas.margin[1] - atlas.spacing / 2)
        soft = _remap(atlas.soft[k], rows, columns, cv2.INTER_LINEAR)  # (H, H, 2)
        cv2.accumulate(soft.reshape(H, -1), self.soft)
        if k % 2 == 0:
            shell = _remap(
                atlas.shells[k // 2],
                np.ascontiguousarray(rows[::2, ::2]) * 0.5,
                np.ascontiguousarray(columns[::2, ::2]) * 0.5,
                cv2.INTER_LINEAR,
            )
            cv2.accumulate(shell.reshape(len(shell), -1), self.fat)
        labels = _remap(
            atlas.labels[k],
            _voxel_index(z, atlas.pitch[0]),
            _voxel_index(x, atlas.pitch[1]),
            cv2.INTER_NEAREST,
        )
        cv2.accumulate(cv2.LUT(labels, self.digit), self.counts)
        above = (atlas.pitch[0] - atlas.spacing) / 2  # rows were made finer around their middle
        rows, columns = _voxel_index(z, atlas.spacing, above), _voxel_index(x, atlas.spacing)
        tissue = soft[..., 0].astype(np.float32)
        tissue += soft[..., 1]
        vessels = np.zeros((H, H), np.uint8)
        content = _content(atlas.fine[k])
        box = _seen_in(content, rows, columns, NEAR) if content else None
        if box:
            fine = _remap(
                atlas.fine[k], _finer(rows, box), _finer(columns, box), cv2.INTER_LINEAR
            )  # (2h, 2w, 2)
            _accumulate(fine, self.fine, _doubled(box))
            tissue[box] += fine[::2, ::2, 0]
            vessels[box] = fine[::2, ::2, 1]
        self._add_girdle(k, rows, columns)
        return tissue, vessels, labels

    def _add_girdle(self, k: int, rows: np.ndarray, columns: np.ndarray) -> None:
        """Clavicles and scapulae, each moved in its own way; rows and columns are (H, H)."""
        atlas, body = self.atlas, self.body
        middle = np.float32(atlas.centre[2] / atlas.spacing)
        content = _content(atlas.girdle[0][k])
        if content:
            down, slope = body.clavicles
            shift = np.float32((down - 25.0 * slope) / atlas.spacing)

            def lowered(rows: np.ndarray, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
                outwards = np.abs(columns - middle) * np.float32(slope)
                return rows + outwards + shift, columns

            self._add_bone(atlas.girdle[0][k], content, rows, columns, lowered)
        content = _content(atlas.girdle[1][k])
        if content:
            out, up = body.scapulae

            def rolled(rows: np.ndarray, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
                side = np.where(columns > middle, np.float32(1), np.float32(-1))
                moved = columns - side * np.float32(out * self.roll / atlas.spacing)
                return rows - np.float32(up / atlas.spacing), moved

            self._add_bone(atlas.girdle[1][k], content, rows, columns, rolled)

    def _add_bone(
        self,
        plane: np.ndarray,
        content: tuple[float, float, float, float],
        rows: np.ndarray,
        columns: np.ndarray,
        move: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]],
    ) -> None:
        """Add a plane of a bone (F, F) where its content is seen after `move`."""
        box = _seen_in(content, *move(rows, columns), NEAR)
        if box:
            moved = move(_finer(rows, box), _finer(columns, box))
            bone = _remap(plane, *moved, cv2.INTER_LINEAR)
            _accumulate(bone, self.girdle, _doubled(box))

    def maps(self, ray: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Line integrals (5, S, S), fat (2, S, S), and mm of each part on the ray (P, H, H)."""
        S = self.size
        unit = WATER / 100 * ray
        fine = self.fine
        soft = self.soft.reshape(S // 2, S // 2, 2)
        soft = cv2.resize(soft, (S, S), interpolation=cv2.INTER_CUBIC)
        ribs, spine, girdle = HABITS[self.body.source].contrast
        rows = (
            soft[..., 0],
            ribs * fine[..., 0],
            spine * soft[..., 1],
            girdle * self.girdle,
            fine[..., 1],
        )
        integrals = np.stack(rows) * np.float32(unit)  # (5, S, S)
        fat = cv2.GaussianBlur(self.fat.reshape(S // 4, S // 4, 2), (0, 0), S / 400)
        fat = cv2.resize(fat, (S, S), interpolation=cv2.INTER_CUBIC)
        fat = np.ascontiguousarray(fat.transpose(2, 0, 1)) * np.float32(2 * unit)
        rest, counts = self.counts, []
        for _ in PARTS:
            rest, count = np.divmod(rest, COUNTED)
            counts.append(count.astype(np.float32))
        depths = np.stack(counts) * ray
        return integrals, np.maximum(fat, 0), depths


def project(body: Body, view: str, size: int = 512, field_mm: float = FIELD) -> Chest:
    """Project a body onto a square detector.

    Args:
        body: shape of the chest.
        view: "PA" or "AP".
        size: S, px of a side; even.
        field_mm: width of the map at the detector.

    Returns:
        Line integrals, lung masks and lung volumes.
    """
    atlas = load_atlas(body.source)
    sums = _Sums(atlas, body, view, size, field_mm)
    slices = []
    for plane in _slices(atlas, body, view, size // 2, field_mm):
        added = sums.add(plane)
        slices.append((*added, plane if plane.k % 2 else None))  # `_volumes` reads no other
    ray = SLICE_SPACING * body.scale[1]  # mm of one slice
    integrals, fat, depths = sums.maps(ray)
    right, left = lung_masks(depths[:2], depths[2], 2 * field_mm / size)
    lung_depth = depths[0] + depths[1]  # (H, H)
    right, left = separate_lungs(_enlarged(right) >= 0.5, _enlarged(left) >= 0.5)
    return Chest(
        view=view,
        size=size,
        field_mm=field_mm,
        source=body.source,
        integrals=integrals,
        fat=fat,
        lung_depth=_enlarged(lung_depth),
        right=right,
        left=left,
        heart=_enlarged(depths[3]) >= MIN_HEART_DEPTH,
        trachea=_enlarged(depths[4]) >= SLICE_SPACING,
        step=2 * ray,
        **_volumes(atlas, slices, lung_depth),
    )


def _enlarged(plane: np.ndarray) -> np.ndarray:
    """A plane of the coarser grid (H, H) at the size of the map (S, S)."""
    S = 2 * len(plane)
    return cv2.resize(plane.astype(np.float32), (S, S), interpolation=cv2.INTER_LINEAR)


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


def _volumes(atlas: Atlas, slices: list[tuple], lung_depth: np.ndarray) -> dict:
    """The volumes of a `Chest`, cut to the box of the lungs; two slices make one."""
    rows, columns = np.where(lung_depth > 0)
    box = (slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1))
    names = ("tissue", "vessels", "labels", "wall", "costal", "z", "x")
    planes = {name: [] for name in names}
    pitch = (atlas.pitch[0], 2 * atlas.pitch[1])  # of the distances
    for first, second in zip(slices[::2], slices[1::2], strict=True):
        for name, i in (("tissue", 0), ("vessels", 1)):
            pair = cv2.addWeighted(
                np.ascontiguousarray(first[i][box]),
                0.5,
                np.ascontiguousarray(second[i][box]),
                0.5,
                0,
                dtype=cv2.CV_32F,
            )
            planes[name].append(pair)
        _, _, labels, (k, z, x) = second
        z, x = np.ascontiguousarray(z[box]), np.ascontiguousarray(x[box])
        at = (_voxel_index(z, pitch[0]), _voxel_index(x, pitch[1]))
        planes["labels"].append(labels[box])
        planes["wall"].append(_remap(atlas.wall_distance[k], *at, cv2.INTER_LINEAR))
        planes["costal"].append(_remap(atlas.costal_distance[k], *at, cv2.INTER_LINEAR))
        planes["z"].append(np.float32(atlas.origin[0]) + np.float32(atlas.stretch[0]) * z)
        planes["x"].append(np.float32(atlas.origin[2]) + np.float32(atlas.stretch[2]) * x)
    volumes = {name: np.stack(stack) for name, stack in planes.items()}  # (D/2, h, w) each
    lobes = np.where(volumes["labels"] <= len(LOBES), volumes["labels"], 0).astype(np.uint8)
    lobe_boxes = {}
    for lobe, lobe_box in enumerate(ndimage.find_objects(lobes), start=1):
        if lobe_box is not None:
            lobe_boxes[lobe] = lobe_box
    depth = (np.arange(len(lobes), dtype=np.float32) * 2 + 1) * SLICE_SPACING  # own y, mm
    return {
        "box": box,
        "tissue": volumes["tissue"],
        "vessels": volumes["vessels"],
        "lobes": lobes,
        "wall_distance": volumes["wall"],
        "costal_distance": volumes["costal"],
        "z": volumes["z"],
        "x": volumes["x"],
        "y": np.float32(atlas.origin[1]) + np.float32(atlas.stretch[1]) * depth,
        "lobe_boxes": lobe_boxes,
    }
