"""Disease as added attenuation: what each lesion does to the voxels of a lung.

A `Lesion` lives in canonical coordinates (`atlases`: z up, y to the front, x from the patient's
right to the left; mm), so that the same patient shows the same disease in PA, in AP and at the next
visit. Its kind says which share w in [0, 1] of every lung voxel it replaces by tissue of another
density. The film then sees the sum of w x (new - old) attenuation along each ray. Vessels and heart
borders vanish inside a consolidation for that reason alone: both sides have the same density
(silhouette sign).

Fluid, air and the lesions of COVID-19 follow the *costal distance*: mm to the chest wall, which is
the border of the axial convex hull of both lungs. The distance to the surface of the lung would
take mediastinum and diaphragm for chest wall.

D depth slices, h w rows and columns of the lungs' box in a `Chest`, S pixels of its maps.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np
from scipy import fft

from cxrkit.config.vocabulary import FINDINGS
from cxrkit.simulation.anatomy import Chest
from cxrkit.simulation.atlases import LUNG_BOX, SLICE_SPACING, SOURCES, WATER, load_atlas

HILA = {"right": (199.0, 120.0, 140.0), "left": (203.0, 120.0, 212.0)}  # canonical z, y, x mm
MIDLINE = 176.0  # x, mm
LUNG_BOTTOM, LUNG_TOP = LUNG_BOX[0, 0], LUNG_BOX[1, 0]  # z of the lowest recess and of the apices
# added line integral before the pixel counts as lesion: 6 mm of solid lung, or 12 mm of half-filled
MIN_LESION = 0.12
AIR_HU = -990.0
NOISES_KEPT = 4  # of a region; the two kinds of COVID-19 share three


@dataclass(frozen=True)
class Lesion:
    """One lesion of a patient."""

    kind: str  # a name in KINDS
    centre: tuple[float, float, float]  # z, y, x mm
    radius: tuple[float, float, float]  # z, y, x mm; some kinds read it as they say
    lobes: tuple[int, ...]  # consecutive labels of the lobes that it stays in
    hu: float  # density that it brings, Hounsfield units
    texture: float  # in [0, 1], how patchy it is
    seed: int  # of its noise


@dataclass(frozen=True)
class Region:
    """The voxels around a lesion: coordinates in mm and what is there."""

    z: np.ndarray  # (D, h, w)
    y: np.ndarray  # (D, 1, 1)
    x: np.ndarray  # (D, h, w)
    wall: np.ndarray  # (D, h, w) mm to the surface of the lung
    lung: np.ndarray  # bool (D, h, w), inside the lesion's lobes
    costal: np.ndarray | None = None  # (D, h, w) mm to the chest wall
    vessels: np.ndarray | None = None  # (D, h, w) attenuation of the lung vessels
    source: str = SOURCES[0]  # the CT
    # what was computed here before: the coarser region, and the like
    kept: dict = field(default_factory=dict, repr=False, compare=False)
    # the last few noises by seed and grain
    noises: dict = field(default_factory=dict, repr=False, compare=False)

    def distance(self, centre: Sequence[float], radius: Sequence[float]) -> np.ndarray:
        """Distance (D, h, w) from `centre` (z, y, x mm) in units of `radius`."""
        return np.sqrt(
            ((self.z - centre[0]) / radius[0]) ** 2
            + ((self.x - centre[2]) / radius[2]) ** 2
            + ((self.y - centre[1]) / radius[1]) ** 2
        )

    def coarse(self) -> Region:
        """Every second row and column; its lung reaches a voxel farther, to be interpolated."""
        if "coarse" not in self.kept:
            self.kept["coarse"] = self._coarse()
        return self.kept["coarse"]

    def _coarse(self) -> Region:
        def second(volume: np.ndarray | None) -> np.ndarray | None:
            return None if volume is None else np.ascontiguousarray(volume[:, ::2, ::2])

        return Region(
            z=second(self.z),
            y=self.y,
            x=second(self.x),
            wall=second(self.wall),
            lung=second(_grown(self.lung)),
            costal=second(self.costal),
            vessels=second(self.vessels),
            source=self.source,
        )

    def voxels(self) -> np.ndarray:
        """Flat numbers of the voxels in the lung, (n,)."""
        if "voxels" not in self.kept:
            self.kept["voxels"] = np.flatnonzero(self.lung)
        return self.kept["voxels"]

    def inside(self) -> Region:
        """The voxels of `voxels` alone; every array is (n,)."""
        if "inside" not in self.kept:
            self.kept["inside"] = self._inside()
        return self.kept["inside"]

    def _inside(self) -> Region:
        index = self.voxels()
        y = np.broadcast_to(self.y, self.lung.shape)

        def some(volume: np.ndarray | None) -> np.ndarray | None:
            return None if volume is None else volume.ravel()[index]

        return Region(
            z=some(self.z),
            y=some(y),
            x=some(self.x),
            wall=some(self.wall),
            lung=some(self.lung),
            costal=some(self.costal),
            source=self.source,
            # a strong reference would be a cycle, which holds megabytes until Python collects it
            kept={"outer": weakref.ref(self)},
        )

    def airways(self) -> np.ndarray:
        """Share (D, h, w) of bronchi, which run beside the large vessels.

        The CT shows few of them. A bronchus is drawn 3 mm above and lateral of each large vessel.
        """
        if "airways" not in self.kept:
            self.kept["airways"] = self._airways()
        return self.kept["airways"]

    def _airways(self) -> np.ndarray:
        if "outer" in self.kept:
            outer = self.kept["outer"]()
            return outer.airways().ravel()[outer.voxels()]
        if self.vessels is None:
            return np.zeros(self.lung.shape, np.float32)
        large = np.stack([cv2.GaussianBlur(plane, (0, 0), 0.8) for plane in self.vessels])
        return np.roll(np.clip((large - 18.0) / 25.0, 0, 1), (-1, 1), (1, 2))


def _grown(lung: np.ndarray) -> np.ndarray:
    """A mask (D, h, w) with the neighbours of its voxels in their slice."""
    disc = np.ones((3, 3), np.uint8)
    return np.stack([cv2.dilate(plane, disc) for plane in lung.astype(np.uint8)]) > 0


# texture


@lru_cache(maxsize=1)
def _noise_block() -> np.ndarray:
    """Periodic smooth noise, int8 (128 * 128 * 128,) in steps of 1/32, mean 0, deviation 1.

    Its blobs are 6 to 16 voxels large.
    """
    white = np.random.default_rng(7).standard_normal((128, 128, 128), dtype=np.float32)
    axes = (fft.fftfreq(128), fft.fftfreq(128), fft.rfftfreq(128))
    frequency = np.sqrt(sum(f**2 for f in np.meshgrid(*axes, indexing="ij")))
    low_pass = np.exp(-((frequency / 0.05) ** 2))
    smooth = fft.irfftn(fft.rfftn(white) * low_pass.astype(np.float32))
    scaled = (smooth - smooth.mean()) / smooth.std() * 32
    return np.clip(scaled, -127, 127).astype(np.int8).ravel()


def noise(region: Region, seed: int, grain: float = 1.25) -> np.ndarray:
    """Noise at the voxels of a region; the same point and seed give the same value.

    Args:
        region: voxels.
        seed: shifts the block of noise.
        grain: mm of a noise voxel.

    Returns:
        (D, h, w), mean 0 and standard deviation 1.
    """
    if (seed, grain) not in region.noises:
        while len(region.noises) >= NOISES_KEPT:
            region.noises.pop(next(iter(region.noises)))
        region.noises[seed, grain] = _noise(region, seed, grain)
    return region.noises[seed, grain]


def _noise(region: Region, seed: int, grain: float) -> np.ndarray:
    """Noise (D, h, w) as `noise` gives it."""
    offsets = np.random.default_rng(seed).integers(0, 128, 3).astype(np.float32)
    index = []
    for axis, offset in zip((region.z, region.y, region.x), offsets, strict=True):
        index.append((axis * np.float32(1 / grain) + offset).astype(np.int32) & 127)
    flat = (index[0] << 14) | (index[1] << 7) | index[2]  # (D, h, w)
    return _noise_block()[flat] * np.float32(1 / 32)


# Kinds of lesions: (lesion, region) -> share of each voxel that is replaced, (D, h, w) in [0, 1].


def _ramp(values: np.ndarray) -> np.ndarray:
    """Values cut to [0, 1]."""
    return np.clip(values, 0, 1)


def _blob(lesion: Lesion, region: Region, grain: np.ndarray, edge: float) -> np.ndarray:
    """Ellipsoid with a ragged border: 1 inside, falling to 0 over `edge` radii.

    `grain` (D, h, w) is the noise that frays the border.
    """
    d = region.distance(lesion.centre, lesion.radius)
    return _ramp((1 + 0.35 * lesion.texture * grain - d) / edge)


def consolidation(lesion: Lesion, region: Region) -> np.ndarray:
    """Air spaces full of fluid: dense, sharp at the fissure, with air bronchograms."""
    grain = noise(region, lesion.seed)
    filled = _blob(lesion, region, grain, edge=0.25)
    return filled * (1 - 0.85 * lesion.texture * region.airways())


def ground_glass(lesion: Lesion, region: Region) -> np.ndarray:
    """Half-filled air spaces: hazy and patchy, alike at every place of the lung."""
    grain = noise(region, lesion.seed)
    patchy = _ramp(0.75 + 0.5 * lesion.texture * grain)
    return _blob(lesion, region, grain, edge=0.5) * patchy


def _viral_field(lesion: Lesion, region: Region) -> np.ndarray:
    """Where COVID-19 settles: noise of three scales, above a threshold near the chest wall.

    The coarsest one spares whole zones, so that the number of involved zones varies.

    `radius[0]` is the burden in [0, 1.2], `texture` the share of the right lung: 0.5 both alike.
    """
    zonal = noise(region, lesion.seed + 3, grain=7.0)  # blobs of about 32 mm
    large = noise(region, lesion.seed, grain=3.1)  # 14 mm
    small = noise(region, lesion.seed + 1, grain=1.33)  # 6 mm
    preferred, side = _viral_preference(region)
    bias = -3.6 + 2.2 * lesion.radius[0]
    leaning = np.float32(1.2 * (1 - 2 * lesion.texture))
    return bias + preferred + leaning * side + zonal + 0.5 * large + 0.4 * small


def _viral_preference(region: Region) -> tuple[np.ndarray, np.ndarray]:
    """How much COVID-19 prefers each voxel, and its side: -1 right, 1 left; kept by the region."""
    if "viral" not in region.kept:
        peripheral = np.exp(-np.minimum(region.costal, region.wall + 6.0) / 16.0)
        low = _ramp((250.0 - region.z) / 130.0)
        back = _ramp((150.0 - region.y) / 110.0)
        preferred = 1.25 * peripheral + 1.2 * low + 0.35 * back
        side = np.tanh((region.x - MIDLINE) / 20.0)
        region.kept["viral"] = preferred.astype(np.float32), side.astype(np.float32)
    return region.kept["viral"]


def viral_glass(lesion: Lesion, region: Region) -> np.ndarray:
    """COVID-19: patchy ground glass on both sides, along the chest wall and low down."""
    reticular = 0.75 + 0.2 * noise(region, lesion.seed + 2, grain=0.6)
    return _ramp(_viral_field(lesion, region) / 0.55) * _ramp(reticular)


def viral_core(lesion: Lesion, region: Region) -> np.ndarray:
    """COVID-19: consolidation in the middle of the ground glass, with air bronchograms."""
    return _ramp((_viral_field(lesion, region) - 0.75) / 0.4) * (1 - 0.85 * region.airways())


def confluent(lesion: Lesion, region: Region) -> np.ndarray:
    """Severe COVID-19: all air spaces of a base are filled, from wall to wall.

    Both sides of the diaphragm and of the heart's border then have one density, and the border is
    lost. `radius[0]` is how far the filling reaches above the lowest recess, mm; it reaches higher
    behind, where a patient who lies is worst. Its upper border is ragged by `texture`.
    """
    large = noise(region, lesion.seed, grain=3.1)
    small = noise(region, lesion.seed + 1, grain=1.33)
    level = LUNG_BOTTOM + lesion.radius[0] + 0.25 * (lesion.centre[1] - region.y)
    ragged = lesion.texture * (26.0 * large + 9.0 * small)
    filled = _ramp((level + ragged - region.z) / 14.0)
    return filled * (1 - 0.6 * region.airways())


def nodule(lesion: Lesion, region: Region) -> np.ndarray:
    """A small round density with a soft edge."""
    return _ramp((1 - region.distance(lesion.centre, lesion.radius)) / 0.3)


def nodules(lesion: Lesion, region: Region) -> np.ndarray:
    """A cluster of 30 to 80 nodules of log-normal size around a centre, `radius` its spread."""
    rng = np.random.default_rng(lesion.seed)
    out = np.zeros(region.lung.shape, np.float32)
    rows, columns = region.z[:, :, :1].mean((0, 2)), region.x.mean((0, 1))
    for _ in range(int(rng.integers(30, 81))):
        point = rng.normal(lesion.centre, lesion.radius)
        size = float(np.clip(rng.lognormal(1.1, 0.45), 1.6, 9.0))
        box = []
        for axis, middle in zip((region.y.ravel(), rows, columns), point[[1, 0, 2]], strict=True):
            near = np.where(np.abs(axis - middle) < 1.6 * size + 8)[0]
            box.append(slice(near[0], near[-1] + 1) if len(near) else slice(0, 0))
        box = tuple(box)
        d = np.sqrt(
            (region.z[box] - point[0]) ** 2
            + (region.y[box[0]] - point[1]) ** 2
            + (region.x[box] - point[2]) ** 2
        )
        out[box] = np.maximum(out[box], _ramp((size - d) / (0.5 * size) + 0.3))
    return out


def cavity(lesion: Lesion, region: Region) -> np.ndarray:
    """A shell around air: its wall is about a third of the radius, uneven and ragged outside."""
    d = region.distance(lesion.centre, lesion.radius) - 0.12 * noise(region, lesion.seed)
    thick = 0.62 + 0.12 * noise(region, lesion.seed + 1, grain=2.0)
    return _ramp((1 - d) / 0.15) * _ramp((d - thick) / 0.1)


def plate(lesion: Lesion, region: Region) -> np.ndarray:
    """Discoid atelectasis: a thin disc.

    `radius` is half its thickness, its depth and its width; `texture` tilts it.
    """
    tilt = 1.2 * (lesion.texture - 0.5)
    ripple = 1.2 * noise(region, lesion.seed, grain=3.0)
    z = region.z - lesion.centre[0] - tilt * (region.x - lesion.centre[2]) + ripple
    across = np.hypot(
        (region.x - lesion.centre[2]) / lesion.radius[2],
        (region.y - lesion.centre[1]) / lesion.radius[1],
    )
    return _ramp(1.5 - np.abs(z) / lesion.radius[0]) * _ramp((1 - across) / 0.2)


def wedge(lesion: Lesion, region: Region) -> np.ndarray:
    """A collapsed lower lobe: a triangle behind the heart that widens towards the diaphragm.

    `centre` is the hilum that it hangs from, `radius[2]` its width there, `radius[0]` how fast it
    widens in percent. The film is drawn together as well (`volume_loss`).
    """
    outwards = np.sign(lesion.centre[2] - MIDLINE)
    down = lesion.centre[0] - region.z
    width = lesion.radius[2] + lesion.radius[0] / 100.0 * np.clip(down, 0, None)
    lateral = outwards * (region.x - MIDLINE) - 12.0
    behind = _ramp((lesion.centre[1] - 5.0 - 0.15 * down - region.y) / 8.0)
    return _ramp((width - lateral) / 4.0) * _ramp((down + 12.0) / 8.0) * behind


def _costal_of(region: Region) -> np.ndarray:
    """The distances to the chest wall (D, h, w), for kinds that lie by them."""
    if region.costal is None:
        raise ValueError("this region lacks distances to the chest wall")
    return region.costal


def haze(lesion: Lesion, region: Region) -> np.ndarray:
    """Edema: wings of a bat around the hila, free below the chest wall, and cuffs of the bronchi.

    `centre` is the hilum, `radius` the reach of the wing.
    """
    d = region.distance(lesion.centre, lesion.radius)
    free = _ramp((_costal_of(region) - 8.0) / 22.0)
    patchy = 0.85 + 0.3 * lesion.texture * noise(region, lesion.seed, grain=1.4)
    gravity = np.clip(1.15 - (region.z - 120.0) / 400.0, 0.6, 1.2)
    cuffs = 0.6 * region.airways() * np.exp(-((d / 1.4) ** 2))
    return _ramp(1.25 * np.exp(-0.9 * d**2) * free * patchy * gravity + cuffs)


def septal_lines(lesion: Lesion, region: Region) -> np.ndarray:
    """Kerley B lines: short thin sheets that stand on the lateral chest wall above the diaphragm.

    `centre` lies at the wall, `radius` holds how far up, forwards and inwards they reach.
    """
    rng = np.random.default_rng(lesion.seed)
    up, forwards, inwards = lesion.radius
    lateral = np.abs(region.y - lesion.centre[1]) < forwards
    distance = _costal_of(region)
    reached = np.flatnonzero((distance < inwards) & lateral)
    costal = distance.ravel()[reached]
    z, x = region.z.ravel()[reached], region.x.ravel()[reached] - lesion.centre[2]
    sheets = np.zeros(len(reached), np.float32)
    for level in rng.uniform(lesion.centre[0] - up, lesion.centre[0] + up, rng.integers(7, 14)):
        reach = rng.uniform(0.5, 1.0) * inwards
        tilt = rng.normal(0, 0.15)
        ripple = z - level - tilt * x
        near = (np.abs(ripple) < 2.5) & (costal < reach)
        sheets[near] = np.maximum(sheets[near], np.exp(-((ripple[near] / 1.0) ** 2)))
    out = np.zeros(region.lung.shape, np.float32)
    out.ravel()[reached] = 0.7 * sheets
    return out


def fluid(lesion: Lesion, region: Region) -> np.ndarray:
    """Free pleural fluid: a meniscus that climbs along the chest wall.

    It fills all below `centre[0]`; above, a layer that thins to nothing over `radius[0]` mm.
    """
    level, height = lesion.centre[0], lesion.radius[0]
    climbing = 34.0 * _ramp((level + height - region.z) / height) ** 3
    below = 60.0 * _ramp((level - region.z) / 10.0)
    thickness = np.where(region.z < level - 10.0, np.float32(1e3), climbing + below)
    return _ramp((thickness - region.costal) / 2.0 + 0.5)


def _collapse_depth(lesion: Lesion, region: Region) -> np.ndarray:
    """Mm of air between chest wall and lung: `radius[2]` at the apex, a quarter of it below."""
    apex = _ramp((region.z - (LUNG_TOP - lesion.radius[0])) / 200.0)
    return lesion.radius[2] * (0.25 + 0.75 * apex)


def air(lesion: Lesion, region: Region) -> np.ndarray:
    """Pneumothorax: air without vessels outside the edge of the lung."""
    return _ramp((_collapse_depth(lesion, region) - region.costal) / 1.6 + 0.5)


def pleural_line(lesion: Lesion, region: Region) -> np.ndarray:
    """The thin white edge of a collapsed lung, on its own side of the air.

    Half a millimetre of tissue: it is seen where the rays touch it, and hardly where they cross it.
    """
    inwards = (region.costal - _collapse_depth(lesion, region)) / 1.6
    return 0.35 * _ramp(1 - np.abs(inwards - 1.1) / 0.8)


def big_heart(lesion: Lesion, region: Region) -> np.ndarray:
    """Lung taken by a heart `radius[0]` times as wide."""
    factor = lesion.radius[0]
    up, down = 1 + 0.6 * (factor - 1), 1 + 1.4 * (factor - 1)  # it rests on the diaphragm
    atlas = load_atlas(region.source)
    spacing = (atlas.pitch[0], SLICE_SPACING, atlas.pitch[1])
    own = atlas.to_own(region.z, region.y, region.x)
    middle = atlas.to_own(*atlas.heart)
    index = []
    heights = np.where(own[0] < middle[0], np.float32(down), np.float32(up))
    for axis, c, f, step in zip(own, middle, (heights, factor, factor), spacing, strict=True):
        index.append(((c + (axis - c) / f) / step).astype(np.int32))
    shape = atlas.heart_shape
    row, depth, column = index
    row = np.clip(row, 0, shape.shape[1] - 1)
    depth = np.clip(depth, 0, shape.shape[0] - 1)
    column = np.clip(column, 0, shape.shape[2] - 1)
    heart = shape[depth, row, column] * np.float32(1 / 255)
    return _ramp((heart - 0.35) / 0.3)


class LesionKind(NamedTuple):
    """What a kind of lesion does."""

    share: Callable[[Lesion, Region], np.ndarray]  # of each voxel that it replaces
    findings: tuple[str, ...]  # that it causes
    in_extent: bool  # whether it counts in the lesion mask


# "opacity" is any lesion of the lung itself
KINDS = {
    "consolidation": LesionKind(consolidation, ("opacity", "consolidation"), True),
    "ground_glass": LesionKind(ground_glass, ("opacity",), True),
    "viral_glass": LesionKind(viral_glass, ("opacity",), True),
    "viral_core": LesionKind(viral_core, ("opacity", "consolidation"), True),
    "confluent": LesionKind(confluent, ("opacity", "consolidation"), True),
    "nodule": LesionKind(nodule, ("opacity",), True),
    "nodules": LesionKind(nodules, ("opacity",), True),
    "cavity": LesionKind(cavity, ("opacity",), True),
    "plate": LesionKind(plate, ("opacity", "atelectasis"), True),
    "collapse": LesionKind(wedge, ("opacity", "atelectasis"), True),
    "haze": LesionKind(haze, ("opacity", "edema"), True),
    "septal_lines": LesionKind(septal_lines, ("edema",), False),
    "fluid": LesionKind(fluid, ("pleural_effusion",), False),
    "air": LesionKind(air, ("pneumothorax",), False),
    "pleural_line": LesionKind(pleural_line, ("pneumothorax",), False),
    "big_heart": LesionKind(big_heart, ("cardiomegaly",), False),
    "full_heart": LesionKind(big_heart, (), False),  # a heart at the upper end of normal
}
# they reach all of the lung of their lobes
WHOLE_LUNG_KINDS = (
    "fluid",
    "air",
    "pleural_line",
    "viral_glass",
    "viral_core",
    "confluent",
    "haze",
    "collapse",
)
# small or thin; the others are computed on every second row and column
FINE_KINDS = (
    "nodule",
    "nodules",
    "cavity",
    "plate",
    "septal_lines",
    "air",
    "pleural_line",
    "full_heart",
)


def _region(chest: Chest, lesion: Lesion) -> tuple[tuple[slice, slice, slice], Region] | None:
    """The voxels that a lesion can reach, and their box (depth, rows, columns) in the volumes.

    None where it reaches no voxel.
    """
    if lesion.kind in WHOLE_LUNG_KINDS:
        span = _lobe_span(chest, lesion)
    else:
        span = _reach_span(chest, lesion)
    if any(len(indices) == 0 for indices in span):
        return None
    depth, rows, columns = (slice(indices[0], indices[-1] + 1) for indices in span)
    box = (depth, rows, columns)
    lobes = chest.lobes[box]
    lung = (lobes >= lesion.lobes[0]) & (lobes <= lesion.lobes[-1])
    region = Region(
        z=chest.z[box],
        y=chest.y[depth, None, None],
        x=chest.x[box],
        wall=chest.wall_distance[box],
        lung=lung,
        costal=chest.costal_distance[box],
        vessels=chest.vessels[box],
        source=chest.source,
    )
    return box, region


def _kept_region(chest: Chest, lesion: Lesion) -> tuple[tuple[slice, slice, slice], Region] | None:
    """As `_region`; the chest keeps those of whole lobes, which all of its films share."""
    if lesion.kind not in WHOLE_LUNG_KINDS:
        return _region(chest, lesion)
    if lesion.lobes not in chest.regions:
        chest.regions[lesion.lobes] = _region(chest, lesion)
    return chest.regions[lesion.lobes]


def _lobe_span(chest: Chest, lesion: Lesion) -> list[tuple[int, int]]:
    """First and last depth, row and column of the lesion's lobes."""
    boxes = [chest.lobe_boxes[lobe] for lobe in lesion.lobes if lobe in chest.lobe_boxes]
    span = []
    for axis in range(3):
        first = min(box[axis].start for box in boxes)
        last = max(box[axis].stop for box in boxes) - 1
        span.append((first, last))
    return span


def _reach_span(chest: Chest, lesion: Lesion) -> list[np.ndarray]:
    """Depths, rows and columns within the reach of a lesion; rows and columns at its middle."""
    z, y, x = lesion.centre
    up, forwards, sideways = _reach(lesion)
    if lesion.kind in ("big_heart", "full_heart"):
        atlas = load_atlas(chest.source)
        z, y, x = atlas.heart
        up, forwards, sideways = atlas.heart_reach * lesion.radius[0] + 8
    depths = np.where(np.abs(chest.y - y) < forwards)[0]
    k = depths[len(depths) // 2] if len(depths) else 0
    rows = np.where((np.abs(chest.z[k] - z) < up).any(axis=1))[0]
    columns = np.where((np.abs(chest.x[k] - x) < sideways).any(axis=0))[0]
    return [depths, rows, columns]


def _reach(lesion: Lesion) -> tuple[float, float, float]:
    """Distances in mm that a lesion reaches up, forwards and sideways."""
    z, y, x = lesion.radius
    if lesion.kind == "plate":
        return x * 0.7 + 10, y + 6, x + 6
    if lesion.kind == "nodules":
        return 2.5 * z + 10, 2.5 * y + 10, 2.5 * x + 10
    return 1.45 * z + 3, 1.45 * y + 3, 1.45 * x + 3


def _share(lesion: Lesion, region: Region) -> np.ndarray:
    """Share of each voxel (D, h, w) that the lesion replaces, inside its lobes."""
    share_of = KINDS[lesion.kind].share
    if lesion.kind in FINE_KINDS and lesion.kind not in WHOLE_LUNG_KINDS:
        return share_of(lesion, region) * region.lung
    if lesion.kind in FINE_KINDS:
        fine = np.zeros(region.lung.shape, np.float32)
        fine.ravel()[region.voxels()] = share_of(lesion, region.inside())
        return fine * region.lung
    grid = region.coarse()
    coarse = np.zeros_like(grid.lung, dtype=np.float32)  # (D, h/2, w/2)
    coarse.ravel()[grid.voxels()] = share_of(lesion, grid.inside())
    D, h2, w2 = coarse.shape
    h, w = region.lung.shape[1:]
    # voxel 2i of the chest is voxel i of the coarse grid; all depths stand below one another
    half = np.float32([[0.5, 0, 0], [0, 0.5, 0]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    size = (w, D * 2 * h2)
    column = cv2.warpAffine(
        coarse.reshape(D * h2, w2), half, size, flags=flags, borderMode=cv2.BORDER_REPLICATE
    )
    return column.reshape(D, 2 * h2, w)[:, :h] * region.lung


def add_lesions(
    chest: Chest, lesions: Sequence[Lesion], vessels: float = 1.0, lung: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Put lesions into a chest.

    The first lesion to take a share of a voxel keeps it. Later ones take from what is left, so a
    voxel is never counted twice.

    Args:
        chest: a body in one view.
        lesions: in order of precedence.
        vessels: factor of this patient's lung vessels (`radiograph.Appearance`).
        lung: 1/mm that this patient's lung adds per mm (`radiograph.Appearance`).

    Returns:
        Line integral that all lesions add (S, S), and that those of the lung itself add (S, S).
    """
    H = chest.size // 2
    added = np.zeros((H, H), np.float32)
    extent = np.zeros((H, H), np.float32)
    free = np.ones(chest.lobes.shape, np.float32)
    for lesion in lesions:
        found = _kept_region(chest, lesion)
        if found is None:
            continue
        box, region = found
        share = _share(lesion, region)  # (D, h, w)
        share *= free[box]
        free[box] -= share
        new = 100 + lesion.hu / 10 - lung * 100 / WATER
        old_tissue = np.einsum("dhw,dhw->hw", share, chest.tissue[box])
        old_vessels = np.einsum("dhw,dhw->hw", share, chest.vessels[box])
        old = old_tissue + vessels * old_vessels  # (h, w)
        change = (new * share.sum(axis=0) - old) * (WATER / 100 * chest.step)  # (h, w)
        top, left = chest.box[0].start, chest.box[1].start
        _, rows, columns = box
        pixels = (
            slice(top + rows.start, top + rows.stop),
            slice(left + columns.start, left + columns.stop),
        )
        added[pixels] += change
        if KINDS[lesion.kind].in_extent:
            extent[pixels] += change
    size = (chest.size, chest.size)
    return cv2.resize(added, size), cv2.resize(extent, size)


def volume_loss(lesions: Sequence[Lesion]) -> tuple[float, float]:
    """How far collapsed lobes draw the chest together.

    Args:
        lesions: of a patient.

    Returns:
        Mm that the right and the left half of the diaphragm are raised. The heart moves over by
        half as much.
    """
    raised = [0.0, 0.0]
    for lesion in lesions:
        if lesion.kind == "collapse":
            raised[int(lesion.centre[2] > MIDLINE)] += lesion.radius[1]
    return raised[0], raised[1]


def findings_from_lesions(
    lesions: Sequence[Lesion], pneumonia: bool, devices: bool
) -> dict[str, int]:
    """The ten findings that a patient's lesions cause.

    Args:
        lesions: of the patient.
        pneumonia: whether the cause of the lesions is an infection.
        devices: whether the patient has a support device.

    Returns:
        Finding -> 0 or 1.
    """
    present = set()
    for lesion in lesions:
        present |= set(KINDS[lesion.kind].findings)
    if pneumonia and "opacity" in present:
        present.add("pneumonia")
    if not present:  # as in CheXpert, a device alone leaves "no finding"
        present.add("no_finding")
    if devices:
        present.add("support_device")
    return {name: int(name in present) for name in FINDINGS}


def scale_lesions(lesions: Sequence[Lesion], factor: float) -> list[Lesion]:
    """The lesions of a follow-up.

    Args:
        lesions: at their worst.
        factor: of their radii; below 0.25 they are gone.

    Returns:
        The same lesions, grown or shrunk.
    """
    if factor < 0.25:
        return []
    scaled = []
    for lesion in lesions:
        radius = tuple(r * factor for r in lesion.radius)
        scaled.append(replace(lesion, radius=radius))
    return scaled
