"""Stand-in copies of the paper's datasets in their public layouts, with synthetic chests.

Folders, file formats, tables and spellings are those of the public releases.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from cxrkit.data.manifests import split_of

NAME = "Doe^Jane"  # of the patient in every DICOM file: must be found nowhere else
VIEWS = ("PA", "AP")
PARTS = {"train": 2, "val": 1, "test": 1}  # patients for each class and view
CHEXPERT = (
    "No Finding",
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
)


def patients(group: str, split: str, count: int, start: int = 0) -> list[int]:
    """The first numbers from `start` whose group, such as "n00000061", falls into a split."""
    found, number = [], start
    while len(found) < count:
        if split_of(group.format(number)) == split:
            found.append(number)
        number += 1
    return found


def everyone(
    group: str, classes: tuple, parts: dict[str, int] = PARTS
) -> list[tuple[int, str, str, object]]:
    """(number, split, view, class): so many patients of every split for each view and class."""
    out = []
    kinds = [(view, name) for view in VIEWS for name in classes]
    for i, (view, name) in enumerate(kinds):
        for split, count in parts.items():
            for number in patients(group, split, count, 1000 * i):
                out.append((number, split, view, name))
    return out


def chest(
    seed: int, ill: bool = False, size: tuple[int, int] = (160, 140)
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A synthetic radiograph, its lungs and its lesion: uint8 (H, W), the masks 0/255.

    Dark ellipses, ribs, noise, and a bright spot where `ill`.
    """
    rng, (h, w) = np.random.default_rng(seed), size
    lungs, lesion = np.zeros(size, np.uint8), np.zeros(size, np.uint8)
    axes = round(0.15 * w), round(0.33 * h)
    for side in (0.3, 0.7):
        centre = round((side + rng.normal(0, 0.01)) * w), round((0.5 + rng.normal(0, 0.02)) * h)
        cv2.ellipse(lungs, centre, axes, 0, 0, 360, 255, -1)
    if ill:
        centre = round(rng.choice([0.3, 0.7]) * w), round(rng.uniform(0.3, 0.7) * h)
        cv2.circle(lesion, centre, round(0.1 * w), 255, -1)
        lesion &= lungs
    ribs = 12 * np.sin(np.arange(h) / h * 40)[:, None]
    image = 170 + ribs - 100 * (lungs > 0) + 70 * (lesion > 0) + rng.normal(0, 6, size)
    image = np.clip(cv2.GaussianBlur(image, (5, 5), 0), 0, 255)
    return np.uint8(image), lungs, lesion


def save(path: Path, pixels: np.ndarray) -> None:
    """Write pixels (H, W) as the ending of the path says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels)


def dicom(path: Path, pixels: np.ndarray, view: str, inverted: bool) -> None:
    """Write a 12-bit DICOM file with a view and the name of a patient."""
    import pydicom
    from pydicom.uid import (
        DigitalXRayImageStorageForPresentation,
        ExplicitVRLittleEndian,
        generate_uid,
    )

    path.parent.mkdir(parents=True, exist_ok=True)
    dataset, deep = pydicom.Dataset(), pixels.astype(np.uint16) * 16
    kind, uid = DigitalXRayImageStorageForPresentation, generate_uid()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = kind
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = uid
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PixelRepresentation = 1, 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.PhotometricInterpretation = "MONOCHROME1" if inverted else "MONOCHROME2"
    dataset.ViewPosition = view
    dataset.PatientName = NAME
    dataset.PixelData = (4095 - deep if inverted else deep).tobytes()
    dataset.save_as(path, enforce_file_format=True)


def table(path: Path, rows: list[dict], separator: str = ",") -> None:
    """Write rows as a CSV with the line ends of Windows, as annotation files have them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(path, index=False, sep=separator, lineterminator="\r\n")


def chexpert(root: Path) -> None:
    """train.csv and train/patientNNNNN/study1/, with patients enough for an AUC in the test.

    A lateral image lies beside the first frontal one.
    """
    rows = []
    parts = {**PARTS, "test": 10}
    for number, split, view, ill in everyone("chexpert:patient{:05d}", (False, True), parts):
        kinds = ("frontal", "lateral") if number == 0 else ("frontal",)
        for kind in kinds:
            name = f"train/patient{number:05d}/study1/view1_{kind}.jpg"
            save(root / name, chest(number, ill)[0])
            rng = np.random.default_rng(number)
            signs = list(rng.choice(["1.0", "0.0", "-1.0", ""], len(CHEXPERT)))
            if split == "test":
                signs = ["1.0" if (finding == "No Finding") != ill else "" for finding in CHEXPERT]
            rows.append(
                {
                    "Path": f"CheXpert-v1.0/{name}",
                    "Sex": "Female",
                    "Age": 60,
                    "Frontal/Lateral": kind.title(),
                    "AP/PA": view if kind == "frontal" else "",
                    **dict(zip(CHEXPERT, signs, strict=True)),
                }
            )
    table(root / "train.csv", rows)


def brixia(root: Path) -> None:
    """metadata_global_v2.csv with semicolons, and DICOM of both photometric kinds.

    The view is in the tag alone.
    """
    rows = []
    for number, _, view, _ in everyone("brixia:s{}", ("covid19",)):
        dicom(root / "dicom_clean" / f"{number}.dcm", chest(number, True)[0], view, number % 2 == 0)
        scores = np.random.default_rng(number).integers(0, 4, 6)
        rows.append(
            {
                "Filename": f"{number}.dcm",
                "BrixiaScore": "".join(map(str, scores)),
                "BrixiaScoreGlobal": scores.sum(),
                "ConsensusTestset": 0,
                "Subject": f"s{number}",
            }
        )
    table(root / "metadata_global_v2.csv", rows, ";")


def bimcv_covid19(root: Path) -> None:
    """sub-*/ses-*/mod-rx/, 16-bit PNG; view and patient are in the file's name."""
    for number, _, view, _ in everyone("bimcv_covid19:S{:05d}", ("covid19",)):
        folder = root / f"sub-S{number:05d}" / f"ses-E{number:05d}" / "mod-rx"
        name = f"sub-S{number:05d}_ses-E{number:05d}_run-1_bp-chest_vp-{view.lower()}_dx.png"
        save(folder / name, chest(number, True)[0].astype(np.uint16) * 200)


def nih_chestxray14(root: Path) -> None:
    """Data_Entry_2017_v2020.csv and images/."""
    rows = []
    for number, _, view, name in everyone("n{:0>8}", ("No Finding", "Pneumonia|Infiltration")):
        save(root / "images" / f"{number:08d}_000.png", chest(number, name != "No Finding")[0])
        rows.append(
            {
                "Image Index": f"{number:08d}_000.png",
                "Finding Labels": name,
                "Follow-up #": 0,
                "Patient ID": number,
                "Patient Age": 50,
                "Patient Gender": "M",
                "View Position": view,
            }
        )
    table(root / "Data_Entry_2017_v2020.csv", rows)


def cohen_full(root: Path) -> None:
    """metadata.csv and images/, of which one is a CT slice."""
    rows = []
    findings = ("No Finding", "Pneumonia/Bacterial/Klebsiella", "Pneumonia/Viral/COVID-19")
    radiographs = [(view, finding) for view in VIEWS for finding in findings]
    for i, (view, finding) in enumerate([*radiographs, *radiographs, ("Axial", findings[2])]):
        save(root / "images" / f"{i}.jpg", chest(i, finding != "No Finding")[0])
        rows.append(
            {
                "patientid": i,
                "offset": 0,
                "finding": finding,
                "view": view,
                "modality": "X-ray",
                "folder": "images",
                "filename": f"{i}.jpg",
            }
        )
    table(root / "metadata.csv", rows)


def local(root: Path) -> None:
    """films.csv of four hospitals, three of them external, with DICOM, masks and arrays."""
    rows = []
    sites = ("here", "CNUH", "YNU", "KNUH", "CNUH", "YNU", "KNUH")
    names = ("normal", "tuberculosis", "covid-19")
    kinds = [(site, view, name) for site in sites for view in VIEWS for name in names]
    for i, (site, view, name) in enumerate(kinds):
        image, lungs, lesion = chest(i, name != "normal")
        file = f"{i}.dcm" if site == "CNUH" else f"{i}.png"
        if site == "CNUH":
            dicom(root / file, image, view, i % 2 == 0)
        else:
            save(root / file, image)
        save(root / f"lungs/{i}.png", lungs)
        save(root / f"lesions/{i}.png", lesion)
        rows.append(
            {
                "path": file,
                "patient_id": f"{site}-{i}",
                "view": view,
                "site": site,
                "diagnosis": name,
                "array": "000000" if name == "normal" else "110010",
                "lung_mask": f"lungs/{i}.png",
                "lesion_mask": f"lesions/{i}.png",
                "split": "train",
            }
        )
    table(root / "films.csv", rows)


TREES = (chexpert, brixia, bimcv_covid19, nih_chestxray14, cohen_full, local)


def build(root: Path) -> Path:
    """Write all of them, each into a folder of its name; returns `root`."""
    for tree in TREES:
        tree(root / tree.__name__)
    return root
