"""Disease as added attenuation: what each lesion does to the voxels of a lung.

A `Lesion` lives in the coordinates of the atlas (z up, y to the front, x from the patient's right
to the left; mm), so that the same patient shows the same disease in PA, in AP and at the next
visit. Its kind says which share w in [0, 1] of every lung voxel it replaces by tissue of another
density. The film then sees the sum of w x (new - old) attenuation along each ray. Vessels and heart
borders vanish inside a consolidation for that reason alone: both sides have the same density
(silhouette sign).

D depth slices, h w rows and columns of the lungs' box in a `Chest`, S pixels of the film.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np

from cxrkit.config.vocabulary import FINDINGS
from cxrkit.simulation.anatomy import SLICE_SPACING, WATER, Chest, load_atlas

HILA = {"right": (199.0, 120.0, 140.0), "left": (203.0, 120.0, 212.0)}  # z, y, x mm in the atlas
MIDLINE = 176.0  # x, mm
# added line integral before the pixel counts as lesion: 6 mm of solid lung, or 12 mm of half-filled
MIN_LESION = 0.12


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

    def distance(self, centre: Sequence[float], radius: Sequence[float]) -> np.ndarray:
        """Distance (D, h, w) from `centre` (z, y, x mm) in units of `radius`."""
        return np.sqrt(
            ((self.z - centre[0]) / radius[0]) ** 2
            + ((self.x - centre[2]) / radius[2]) ** 2
            + ((self.y - centre[1]) / radius[1]) ** 2
        )

    def coarse(self) -> Region:
        """Every second row and column."""
        volumes = (self.z, self.x, self.wall, self.lung)
        z, x, wall, lung = (volume[:, ::2, ::2] for volume in volumes)
        return Region(z, self.y, x, wall, lung)


# texture


@lru_cache(maxsize=1)
def _noise_block() -> np.ndarray:
    """Periodic smooth noise, int8 (128 * 128 * 128,) in steps of 1/32, mean 0, deviation 1.

    Its blobs are 6 to 16 voxels large.
    """
    white = np.random.default_rng(7).standard_normal((128, 128, 128), dtype=np.float32)
    axes = (np.fft.fftfreq(128), np.fft.fftfreq(128), np.fft.rfftfreq(128))
    frequency = np.sqrt(sum(f**2 for f in np.meshgrid(*axes, indexing="ij")))
    low_pass = np.exp(-((frequency / 0.05) ** 2))
    smooth = np.fft.irfftn(np.fft.rfftn(white) * low_pass)
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
    offsets = np.random.default_rng(seed).integers(0, 128, 3).astype(np.float32)
    index = []
    for axis, offset in zip((region.z, region.y, region.x), offsets, strict=True):
        index.append((axis * np.float32(1 / grain) + offset).astype(np.int32) & 127)
    flat = (index[0] << 14) | (index[1] << 7) | index[2]  # (D, h, w)
    return _noise_block()[flat] * np.float32(1 / 32)


# Kinds of lesions: (lesion, region) -> share of each voxel that is replaced, (D, h, w) in [0, 1].


def _blob(lesion: Lesion, region: Region, grain: np.ndarray, edge: float) -> np.ndarray:
    """Ellipsoid with a ragged border: 1 inside, falling to 0 over `edge` radii.

    `grain` (D, h, w) is the noise that frays the border.
    """
    d = region.distance(lesion.centre, lesion.radius)
    return np.clip((1 + 0.35 * lesion.texture * grain - d) / edge, 0, 1)


def consolidation(lesion: Lesion, region: Region) -> np.ndarray:
    """Air spaces full of fluid: dense, sharp at the fissure, with air bronchograms by texture."""
    grain = noise(region, lesion.seed)
    open_airways = np.where(np.abs(grain) < 0.12 * lesion.texture, np.float32(0.6), np.float32(1))
    return _blob(lesion, region, grain, edge=0.25) * open_airways


def ground_glass(lesion: Lesion, region: Region) -> np.ndarray:
    """Half-filled air spaces: hazy, patchy, along the pleura."""
    grain = noise(region, lesion.seed)
    patchy = np.clip(0.75 + 0.5 * lesion.texture * grain, 0, 1)
    peripheral = np.where(region.wall < 22, np.float32(1), np.float32(0.55))
    return _blob(lesion, region, grain, edge=0.5) * patchy * peripheral


def nodule(lesion: Lesion, region: Region) -> np.ndarray:
    """A small round density."""
    return np.clip((1 - region.distance(lesion.centre, lesion.radius)) / 0.3, 0, 1)


def cavity(lesion: Lesion, region: Region) -> np.ndarray:
    """A shell around air: its wall is about a third of the radius and ragged outside."""
    d = region.distance(lesion.centre, lesion.radius) - 0.12 * noise(region, lesion.seed)
    outside = np.clip((1 - d) / 0.15, 0, 1)
    inside = np.clip((d - 0.62) / 0.1, 0, 1)
    return outside * inside


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
    return np.clip(1.5 - np.abs(z) / lesion.radius[0], 0, 1) * np.clip((1 - across) / 0.2, 0, 1)


def haze(lesion: Lesion, region: Region) -> np.ndarray:
    """Edema: bat-wing haze around the hilum, denser towards the base."""
    d = region.distance(lesion.centre, lesion.radius)
    gravity = np.clip(1.15 - (region.z - 120.0) / 350.0, 0.4, 1.2)
    patchy = 0.8 + 0.35 * lesion.texture * noise(region, lesion.seed, grain=1.75)
    return np.clip(np.exp(-(d**2)) * gravity * patchy, 0, 1)


def fluid(lesion: Lesion, region: Region) -> np.ndarray:
    """Free pleural fluid: a level at z = centre[0] with a meniscus along the wall.

    `radius` is the height of the meniscus in mm, and the mm of fluid that layer behind the lung.
    """
    meniscus = lesion.radius[0] * np.exp(-region.wall / 14.0)
    upright = np.clip((lesion.centre[0] + meniscus - region.z) / 12.0, 0, 1)
    behind = np.where(region.y < lesion.centre[1], np.float32(0.9), np.float32(0))
    layered = np.clip((lesion.radius[1] - region.wall) / 4.0, 0, 1) * behind
    return np.maximum(upright, layered)


def _sample_grown(
    shape: np.ndarray, region: Region, centre: Sequence[float], factor: Sequence
) -> np.ndarray:
    """A shape of the atlas, grown by `factor` (z, y, x) around `centre`, at a region: (D, h, w)."""
    spacing = load_atlas().spacing
    axes = (  # in the order of the shape: coordinates, centre, factor, mm of a voxel
        (region.y, centre[1], factor[1], SLICE_SPACING),
        (region.z, centre[0], factor[0], spacing),
        (region.x, centre[2], factor[2], spacing),
    )
    index = []
    for (axis, c, f, step), n in zip(axes, shape.shape, strict=True):
        voxel = (c + (axis - c) / f) / step
        index.append(np.clip(voxel.astype(np.int32), 0, n - 1))
    return shape[tuple(index)] * np.float32(1 / 255)


def _collapsed_lung(lesion: Lesion, region: Region) -> np.ndarray:
    """The lung of the atlas, shrunk towards its hilum by `radius[2]`, more at the apex."""
    up = np.clip((region.z - 90.0) / lesion.radius[0], 0.15, 1)
    hilum = HILA["left" if lesion.centre[2] > MIDLINE else "right"]
    along = 1 - 0.6 * lesion.radius[2] * up
    across = 1 - lesion.radius[2] * up
    return _sample_grown(load_atlas().lung_shape, region, hilum, (along, along, across))


def air(lesion: Lesion, region: Region) -> np.ndarray:
    """Pneumothorax: air without vessels outside the edge of the lung."""
    return np.clip(2.5 * (0.5 - _collapsed_lung(lesion, region)) + 0.5, 0, 1)


def pleural_line(lesion: Lesion, region: Region) -> np.ndarray:
    """The thin white edge of a collapsed lung."""
    return np.exp(-(((_collapsed_lung(lesion, region) - 0.5) / 0.16) ** 2))


def big_heart(lesion: Lesion, region: Region) -> np.ndarray:
    """Lung taken by a heart `radius[0]` times as wide."""
    factor = lesion.radius[0]
    factors = (1 + 0.6 * (factor - 1), factor, factor)
    heart = _sample_grown(load_atlas().heart_shape, region, lesion.centre, factors)
    return np.clip((heart - 0.35) / 0.3, 0, 1)


class LesionKind(NamedTuple):
    """What a kind of lesion does."""

    share: Callable[[Lesion, Region], np.ndarray]  # of each voxel that it replaces
    findings: tuple[str, ...]  # that it causes
    in_extent: bool  # whether it counts in the lesion mask


# "opacity" is any lesion of the lung itself
KINDS = {
    "consolidation": LesionKind(consolidation, ("opacity", "consolidation"), True),
    "ground_glass": LesionKind(ground_glass, ("opacity",), True),
    "nodule": LesionKind(nodule, ("opacity",), True),
    "cavity": LesionKind(cavity, ("opacity",), True),
    "plate": LesionKind(plate, ("opacity", "atelectasis"), True),
    "collapse": LesionKind(consolidation, ("opacity", "atelectasis"), True),
    "haze": LesionKind(haze, ("opacity", "edema"), True),
    "fluid": LesionKind(fluid, ("pleural_effusion",), False),
    "air": LesionKind(air, ("pneumothorax",), False),
    "pleural_line": LesionKind(pleural_line, ("pneumothorax",), False),
    "big_heart": LesionKind(big_heart, ("cardiomegaly",), False),
    "full_heart": LesionKind(big_heart, (), False),  # a heart at the upper end of normal
}
WHOLE_LUNG_KINDS = ("fluid", "air", "pleural_line")  # they reach all of the lung of their lobes
# small or thin; the others are computed on every second row and column
FINE_KINDS = ("nodule", "cavity", "plate", "full_heart")


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
    )
    return box, region


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
    if lesion.kind == "haze":
        return 1.9 * z, 1.9 * y, 1.9 * x
    if lesion.kind in ("big_heart", "full_heart"):
        up, forwards, sideways = load_atlas().heart_reach * lesion.radius[0] + 8
        return up, forwards, sideways
    return 1.45 * z + 3, 1.45 * y + 3, 1.45 * x + 3


def _share(lesion: Lesion, region: Region) -> np.ndarray:
    """Share of each voxel (D, h, w) that the lesion replaces, inside its lobes."""
    share_of = KINDS[lesion.kind].share
    if lesion.kind in FINE_KINDS:
        return share_of(lesion, region) * region.lung
    coarse = share_of(lesion, region.coarse())  # (D, h/2, w/2)
    h, w = region.lung.shape[1:]
    share = np.empty(region.lung.shape, np.float32)
    # voxel 2i of the chest is voxel i of the coarse grid
    half = np.float32([[0.5, 0, 0], [0, 0.5, 0]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    for k, plane in enumerate(coarse):
        share[k] = cv2.warpAffine(plane, half, (w, h), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    share *= region.lung
    return share


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
    added = np.zeros((chest.size, chest.size), np.float32)
    extent = np.zeros((chest.size, chest.size), np.float32)
    free = np.ones(chest.lobes.shape, np.float32)
    for lesion in lesions:
        found = _region(chest, lesion)
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
    return added, extent


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
