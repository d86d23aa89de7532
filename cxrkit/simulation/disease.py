"""Disease as added attenuation: what each lesion does to the voxels of a lung, and the patterns
that make a diagnosis.

A `Lesion` lives in the coordinates of the atlas (z up, y to the front, x from the patient's right
to the left; mm), so that the same patient shows the same disease in PA, in AP and at the next
visit. Its kind says which share w in [0, 1] of every lung voxel it replaces by tissue of another
density; the film then sees the sum of w x (new - old) attenuation along each ray. Vessels and heart
borders vanish inside a consolidation for that reason alone: both sides have the same density
(silhouette sign).

D depth slices, h w rows and columns of the lungs' box in a `Chest`, S pixels of the film.
"""

from dataclasses import dataclass, replace
from functools import lru_cache

import cv2
import numpy as np

from cxrkit.config.vocabulary import FINDINGS
from cxrkit.simulation.anatomy import DEPTH, WATER, load_atlas

HILA = {"right": (199.0, 120.0, 140.0), "left": (203.0, 120.0, 212.0)}  # z, y, x mm in the atlas
MIDLINE = 176.0  # x, mm
# added line integral before the pixel counts as lesion: 6 mm of solid lung, or 12 mm of half-filled
MIN_LESION = 0.12


@dataclass(frozen=True)
class Lesion:
    """One lesion. `hu` is the density that it brings; `texture` in [0, 1] how patchy it is; `seed`
    picks its noise.
    """

    kind: str
    centre: tuple[float, float, float]
    radius: tuple[float, float, float]
    lobes: tuple[int, ...]
    hu: float
    texture: float
    seed: int


@dataclass(frozen=True)
class Region:
    """The voxels around a lesion: coordinates in mm and what is there."""

    z: np.ndarray  # (D, h, w)
    y: np.ndarray  # (D, 1, 1)
    x: np.ndarray
    wall: np.ndarray  # mm to the surface of the lung
    lung: np.ndarray  # bool, inside the lesion's lobes

    def distance(self, centre, radius):
        """(D, h, w) distance from `centre` in units of `radius`."""
        return np.sqrt(
            ((self.z - centre[0]) / radius[0]) ** 2
            + ((self.x - centre[2]) / radius[2]) ** 2
            + ((self.y - centre[1]) / radius[1]) ** 2
        )


# --- texture
# -----------------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _noise_block():
    """Periodic smooth noise, int8 (128, 128, 128) in steps of 1/32, mean 0, standard deviation 1:
    blobs of 6 to 16 voxels.
    """
    white = np.random.default_rng(7).standard_normal((128, 128, 128), dtype=np.float32)
    frequency = np.sqrt(
        sum(
            f**2
            for f in np.meshgrid(
                np.fft.fftfreq(128), np.fft.fftfreq(128), np.fft.rfftfreq(128), indexing="ij"
            )
        )
    )
    smooth = np.fft.irfftn(np.fft.rfftn(white) * np.exp(-((frequency / 0.05) ** 2)))
    return np.clip((smooth - smooth.mean()) / smooth.std() * 32, -127, 127).astype(np.int8).ravel()


def noise(region, seed, grain=1.25):
    """(D, h, w) noise at the voxels of a region, `grain` mm a noise voxel; the same place and seed
    give the same value.
    """
    offsets = np.random.default_rng(seed).integers(0, 128, 3).astype(np.float32)
    axes = (region.z, region.y, region.x)
    index = [
        ((axis * np.float32(1 / grain) + o).astype(np.int32) & 127)
        for axis, o in zip(axes, offsets, strict=True)
    ]
    return _noise_block()[(index[0] << 14) | (index[1] << 7) | index[2]] * np.float32(1 / 32)


# --- kinds: (lesion, region) -> share of each voxel that is replaced, (D, h, w) in [0, 1]
# ---------------------------------------


def _blob(lesion, region, grain, edge):
    """Ellipsoid whose border the noise `grain` frays: 1 inside, falling to 0 over `edge` radii."""
    d = region.distance(lesion.centre, lesion.radius)
    return np.clip((1 + 0.35 * lesion.texture * grain - d) / edge, 0, 1)


def consolidation(lesion, region):
    """Air spaces full of fluid: dense, sharp at the fissure, with air bronchograms where the
    texture says so.
    """
    grain = noise(region, lesion.seed)
    open_airways = np.where(np.abs(grain) < 0.12 * lesion.texture, np.float32(0.6), np.float32(1))
    return _blob(lesion, region, grain, edge=0.25) * open_airways


def ground_glass(lesion, region):
    """Half-filled air spaces: hazy, patchy, hugging the pleura."""
    grain = noise(region, lesion.seed)
    patchy = np.clip(0.75 + 0.5 * lesion.texture * grain, 0, 1)
    return (
        _blob(lesion, region, grain, edge=0.5)
        * patchy
        * np.where(region.wall < 22, np.float32(1), np.float32(0.55))
    )


def nodule(lesion, region):
    """A small round density."""
    return np.clip((1 - region.distance(lesion.centre, lesion.radius)) / 0.3, 0, 1)


def cavity(lesion, region):
    """A shell around air: wall about a third of the radius, ragged outside."""
    d = region.distance(lesion.centre, lesion.radius) - 0.12 * noise(region, lesion.seed)
    return np.clip((1 - d) / 0.15, 0, 1) * np.clip((d - 0.62) / 0.1, 0, 1)


def plate(lesion, region):
    """Discoid atelectasis: a thin disc; `radius` = (half thickness, depth, width), `texture` tilts
    it.
    """
    tilt = 1.2 * (lesion.texture - 0.5)
    z = (
        region.z
        - lesion.centre[0]
        - tilt * (region.x - lesion.centre[2])
        + 1.2 * noise(region, lesion.seed, grain=3.0)
    )
    across = np.hypot(
        (region.x - lesion.centre[2]) / lesion.radius[2],
        (region.y - lesion.centre[1]) / lesion.radius[1],
    )
    return np.clip(1.5 - np.abs(z) / lesion.radius[0], 0, 1) * np.clip((1 - across) / 0.2, 0, 1)


def haze(lesion, region):
    """Edema: bat-wing haze around the hilum, denser towards the base."""
    d = region.distance(lesion.centre, lesion.radius)
    gravity = np.clip(1.15 - (region.z - 120.0) / 350.0, 0.4, 1.2)
    return np.clip(
        np.exp(-(d**2))
        * gravity
        * (0.8 + 0.35 * lesion.texture * noise(region, lesion.seed, grain=1.75)),
        0,
        1,
    )


def fluid(lesion, region):
    """Free pleural fluid: a level at z = centre[0] with a meniscus climbing the wall; radius[1] mm
    of it layer behind the lung.
    """
    meniscus = lesion.radius[0] * np.exp(-region.wall / 14.0)
    upright = np.clip((lesion.centre[0] + meniscus - region.z) / 12.0, 0, 1)
    behind = np.where(region.y < lesion.centre[1], np.float32(0.9), np.float32(0))
    layered = np.clip((lesion.radius[1] - region.wall) / 4.0, 0, 1) * behind
    return np.maximum(upright, layered)


def _look_up(shape, region, centre, factor):
    """(D, h, w) in [0, 1]: a shape of the atlas after it has grown by `factor` (z, y, x) around
    `centre`.
    """
    steps = (DEPTH, load_atlas().spacing, load_atlas().spacing)
    at = [
        (c + (axis - c) / f) / step
        for axis, c, f, step in zip(
            (region.y, region.z, region.x),
            (centre[1], centre[0], centre[2]),
            (factor[1], factor[0], factor[2]),
            steps,
            strict=True,
        )
    ]
    index = tuple(
        np.clip(a.astype(np.int32), 0, n - 1) for a, n in zip(at, shape.shape, strict=True)
    )
    return shape[index] * np.float32(1 / 255)


def _collapsed_lung(lesion, region):
    """The lung of the atlas shrunk towards its hilum by `radius[2]`, more at the apex."""
    up = np.clip((region.z - 90.0) / lesion.radius[0], 0.15, 1)
    hilum = HILA["left" if lesion.centre[2] > MIDLINE else "right"]
    along, across = 1 - 0.6 * lesion.radius[2] * up, 1 - lesion.radius[2] * up
    return _look_up(load_atlas().lung_shape, region, hilum, (along, along, across))


def air(lesion, region):
    """Pneumothorax: air without vessels outside the edge of the lung."""
    return np.clip(2.5 * (0.5 - _collapsed_lung(lesion, region)) + 0.5, 0, 1)


def pleural_line(lesion, region):
    """The thin white edge of a collapsed lung."""
    return np.exp(-(((_collapsed_lung(lesion, region) - 0.5) / 0.16) ** 2))


def big_heart(lesion, region):
    """Lung taken by a heart `radius[0]` times as wide."""
    factor = lesion.radius[0]
    return np.clip(
        (
            _look_up(
                load_atlas().heart_shape,
                region,
                lesion.centre,
                (1 + 0.6 * (factor - 1), factor, factor),
            )
            - 0.35
        )
        / 0.3,
        0,
        1,
    )


# kind -> (field, the findings it causes, does it count in the lesion extent map). Opacity is any
# lesion of the lung itself.
KINDS = {
    "consolidation": (consolidation, ("opacity", "consolidation"), True),
    "ground_glass": (ground_glass, ("opacity",), True),
    "nodule": (nodule, ("opacity",), True),
    "cavity": (cavity, ("opacity",), True),
    "plate": (plate, ("opacity", "atelectasis"), True),
    "collapse": (consolidation, ("opacity", "atelectasis"), True),
    "haze": (haze, ("opacity", "edema"), True),
    "fluid": (fluid, ("pleural_effusion",), False),
    "air": (air, ("pneumothorax",), False),
    "pleural_line": (pleural_line, ("pneumothorax",), False),
    "big_heart": (big_heart, ("cardiomegaly",), False),
    "full_heart": (big_heart, (), False),  # a heart at the upper end of normal
}
EVERYWHERE = ("fluid", "air", "pleural_line")  # kinds whose reach is the whole lung of their lobes
# small or thin; the others are worked out on every second row and column
FINE = ("nodule", "cavity", "plate", "full_heart")


def _in_lobes(labels, lobes):
    """Which voxels lie in `lobes`, a run of consecutive numbers."""
    return (labels >= lobes[0]) & (labels <= lobes[-1])


def _region(chest, lesion):
    """The slices (depth, rows, columns) of the chest's volumes that a lesion can reach, and the
    Region there.
    """
    if lesion.kind in EVERYWHERE:
        boxes = [chest.lobe_boxes[lobe] for lobe in lesion.lobes if lobe in chest.lobe_boxes]
        span = [
            (min(box[axis].start for box in boxes), max(box[axis].stop for box in boxes) - 1)
            for axis in range(3)
        ]
    else:
        unusual = lesion.kind in ("plate", "haze", "big_heart", "full_heart")
        reach = _wide_reach(lesion) if unusual else [1.45 * r + 3 for r in lesion.radius]
        depth = np.where(np.abs(chest.y - lesion.centre[1]) < reach[1])[0]
        k = depth[len(depth) // 2] if len(depth) else 0
        span = [
            depth,
            np.where((np.abs(chest.z[k] - lesion.centre[0]) < reach[0]).any(axis=1))[0],
            np.where((np.abs(chest.x[k] - lesion.centre[2]) < reach[2]).any(axis=0))[0],
        ]
    if any(len(s) == 0 for s in span):
        return None, None
    at = tuple(slice(s[0], s[-1] + 1) for s in span)
    lung = _in_lobes(chest.lobes[at], lesion.lobes)
    return at, Region(
        chest.z[at], chest.y[at[0], None, None], chest.x[at], chest.wall_distance[at], lung
    )


def _wide_reach(lesion):
    """mm that the kinds with unusual radii reach up, forwards and sideways."""
    if lesion.kind == "plate":
        return (lesion.radius[2] * 0.7 + 10, lesion.radius[1] + 6, lesion.radius[2] + 6)
    if lesion.kind == "haze":
        return tuple(1.9 * r for r in lesion.radius)
    return tuple(load_atlas().heart_reach * lesion.radius[0] + 8)


def _share(lesion, region):
    """Share of each voxel (D, h, w) that the lesion replaces, inside its lobes."""
    field = KINDS[lesion.kind][0]
    if lesion.kind in FINE:
        return field(lesion, region) * region.lung
    coarse = field(
        lesion,
        Region(
            region.z[:, ::2, ::2], region.y, region.x[:, ::2, ::2], region.wall[:, ::2, ::2], None
        ),
    )
    h, w = region.lung.shape[1:]
    share = np.empty(region.lung.shape, np.float32)
    # voxel 2i of the chest is voxel i of the coarse field
    half = np.float32([[0.5, 0, 0], [0, 0.5, 0]])
    for k, plane in enumerate(coarse):
        share[k] = cv2.warpAffine(
            plane,
            half,
            (w, h),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        )
    share *= region.lung
    return share


def apply(chest, lesions, vessels=1.0, lung=0.0):
    """Put lesions into a chest -> line integral that all of them add (S, S), and that those of the
    lung itself add (S, S).

    `vessels` and `lung` say how this patient's lung differs from the chest's (`film.Look`): what is
    replaced is what was there. The first lesion to take a share of a voxel keeps it; later ones
    take from what is left, so a voxel is never counted twice.
    """
    added, extent = (np.zeros((chest.size, chest.size), np.float32) for _ in range(2))
    free = np.ones(chest.lobes.shape, np.float32)
    for lesion in lesions:
        at, region = _region(chest, lesion)
        if at is None:
            continue
        counts = KINDS[lesion.kind][2]
        share = _share(lesion, region)
        share *= free[at]
        free[at] -= share
        rays = (
            slice(chest.box[0].start + at[1].start, chest.box[0].start + at[1].stop),
            slice(chest.box[1].start + at[2].start, chest.box[1].start + at[2].stop),
        )
        new = 100 + lesion.hu / 10 - lung * 100 / WATER
        old = np.einsum("dhw,dhw->hw", share, chest.tissue[at]) + vessels * np.einsum(
            "dhw,dhw->hw", share, chest.vessels[at]
        )
        change = (new * share.sum(axis=0) - old) * (WATER / 100 * chest.step)
        added[rays] += change
        if counts:
            extent[rays] += change
    return added, extent


def findings_of(lesions, pneumonia, devices):
    """The ten findings, {name: 0 or 1}, of a list of lesions; `pneumonia` is 1 when their cause is
    an infection.
    """
    present = {name for lesion in lesions for name in KINDS[lesion.kind][1]}
    present |= {"pneumonia"} if pneumonia and "opacity" in present else set()
    present |= {"support_device"} if devices else set()
    # as CheXpert: a device alone leaves "no finding"
    present |= set() if present - {"support_device"} else {"no_finding"}
    return {name: int(name in present) for name in FINDINGS}


def scaled(lesions, factor):
    """The same lesions grown or shrunk by `factor`, for a follow-up; below 0.25 they are gone."""
    if factor < 0.25:
        return []
    return [replace(lesion, radius=tuple(r * factor for r in lesion.radius)) for lesion in lesions]
