"""Stand-in copies of the paper's datasets in their public layouts: folders, file formats, tables
and spellings, with drawn chests.
"""

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


def patients(group, split, count, start=0):
    """The first `count` numbers from `start` whose group, such as "n00000061", falls into a split."""
    found, number = [], start
    while len(found) < count:
        found += [number] if split_of(group.format(number)) == split else []
        number += 1
    return found


def everyone(group, classes, parts=PARTS):
    """(number, split, view, class): that many patients of every split for each view and class."""
    return [
        (number, split, view, name)
        for i, (view, name) in enumerate((v, c) for v in VIEWS for c in classes)
        for split, count in parts.items()
        for number in patients(group, split, count, 1000 * i)
    ]


def chest(seed, ill=False, size=(160, 140)):
    """A drawn film -> uint8 (H, W), its lungs and its lesion, 0/255: dark ellipses, ribs, noise,
    and a bright spot where `ill`.
    """
    rng, (h, w) = np.random.default_rng(seed), size
    lungs, lesion = np.zeros(size, np.uint8), np.zeros(size, np.uint8)
    for side in (0.3, 0.7):
        centre = round((side + rng.normal(0, 0.01)) * w), round((0.5 + rng.normal(0, 0.02)) * h)
        cv2.ellipse(lungs, centre, (round(0.15 * w), round(0.33 * h)), 0, 0, 360, 255, -1)
    if ill:
        cv2.circle(
            lesion,
            (round(rng.choice([0.3, 0.7]) * w), round(rng.uniform(0.3, 0.7) * h)),
            round(0.1 * w),
            255,
            -1,
        )
        lesion &= lungs
    ribs = 12 * np.sin(np.arange(h) / h * 40)[:, None]
    film = 170 + ribs - 100 * (lungs > 0) + 70 * (lesion > 0) + rng.normal(0, 6, size)
    return np.uint8(np.clip(cv2.GaussianBlur(film, (5, 5), 0), 0, 255)), lungs, lesion


def save(path, pixels):
    """Write pixels (H, W) as the ending of the path says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels)


def dicom(path, pixels, view, inverted):
    """Write a 12-bit DICOM film with a view and the name of a patient."""
    import pydicom
    from pydicom.uid import (
        DigitalXRayImageStorageForPresentation,
        ExplicitVRLittleEndian,
        generate_uid,
    )

    path.parent.mkdir(parents=True, exist_ok=True)
    film, deep = pydicom.Dataset(), pixels.astype(np.uint16) * 16
    film.file_meta = pydicom.dataset.FileMetaDataset()
    film.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    film.file_meta.MediaStorageSOPClassUID = film.SOPClassUID = (
        DigitalXRayImageStorageForPresentation
    )
    film.file_meta.MediaStorageSOPInstanceUID = film.SOPInstanceUID = generate_uid()
    film.Rows, film.Columns = pixels.shape
    film.SamplesPerPixel, film.PixelRepresentation = 1, 0
    film.BitsAllocated, film.BitsStored, film.HighBit = 16, 12, 11
    film.PhotometricInterpretation, film.ViewPosition, film.PatientName = (
        "MONOCHROME1" if inverted else "MONOCHROME2",
        view,
        NAME,
    )
    film.PixelData = (4095 - deep if inverted else deep).tobytes()
    film.save_as(path, enforce_file_format=True)


def table(path, rows, separator=","):
    """Write a list of dicts as a CSV with the line ends of Windows, as annotation files have them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(path, index=False, sep=separator, lineterminator="\r\n")


def chexpert(root):
    """train.csv and train/patientNNNNN/study1/; a lateral film beside the first frontal one, and
    patients enough for an AUC in the test.
    """
    rows = []
    for number, split, view, ill in everyone(
        "chexpert:patient{:05d}", (False, True), {**PARTS, "test": 10}
    ):
        for kind in ("frontal", "lateral")[: 1 + (number == 0)]:
            name = f"train/patient{number:05d}/study1/view1_{kind}.jpg"
            save(root / name, chest(number, ill)[0])
            doubt = np.random.default_rng(number).choice(["1.0", "0.0", "-1.0", ""], len(CHEXPERT))
            signs = (
                ["1.0" if (name == "No Finding") != ill else "" for name in CHEXPERT]
                if split == "test"
                else doubt
            )
            rows.append(
                {
                    "Path": f"CheXpert-v1.0/{name}",
                    "Sex": "Female",
                    "Age": 60,
                    "Frontal/Lateral": kind.title(),
                    "AP/PA": view if kind == "frontal" else "",
                    **dict(zip(CHEXPERT, signs)),
                }
            )
    table(root / "train.csv", rows)


def brixia(root):
    """metadata_global_v2.csv with semicolons, and DICOM of both photometric kinds; the view is in
    the tag alone.
    """
    rows = []
    for number, _, view, _ in everyone("brixia:s{}", ("covid19",)):
        dicom(root / "dicom_clean" / f"{number}.dcm", chest(number, True)[0], view, number % 2 == 0)
        rows.append(
            {
                "Filename": f"{number}.dcm",
                "BrixiaScore": "".join(map(str, np.random.default_rng(number).integers(0, 4, 6))),
                "BrixiaScoreGlobal": 0,
                "ConsensusTestset": 0,
                "Subject": f"s{number}",
            }
        )
    table(root / "metadata_global_v2.csv", rows, ";")


def bimcv_covid19(root):
    """sub-*/ses-*/mod-rx/, 16-bit PNG; view and patient are in the file's name."""
    for number, _, view, _ in everyone("bimcv_covid19:S{:05d}", ("covid19",)):
        name = f"sub-S{number:05d}/ses-E{number:05d}/mod-rx/sub-S{number:05d}_ses-E{number:05d}_run-1_bp-chest_vp-{view.lower()}_dx.png"
        save(root / name, chest(number, True)[0].astype(np.uint16) * 200)


def nih_chestxray14(root):
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


def cohen_full(root):
    """metadata.csv and images/, of which one is a CT slice."""
    rows = []
    words = ("No Finding", "Pneumonia/Bacterial/Klebsiella", "Pneumonia/Viral/COVID-19")
    for i, (view, finding) in enumerate(
        2 * [(v, w) for v in VIEWS for w in words] + [("Axial", words[2])]
    ):
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


def local(root):
    """films.csv of four hospitals, three of them set aside, with DICOM, masks of lungs and lesions,
    and arrays.
    """
    rows = []
    names = ("normal", "tuberculosis", "covid-19")
    cases = [
        (site, view, name)
        for site in ("here", *2 * ("CNUH", "YNU", "KNUH"))
        for view in VIEWS
        for name in names
    ]
    for i, (site, view, name) in enumerate(cases):
        film, lungs, lesion = chest(i, name != "normal")
        file = f"{i}.dcm" if site == "CNUH" else f"{i}.png"
        if site == "CNUH":
            dicom(root / file, film, view, i % 2 == 0)
        else:
            save(root / file, film)
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


def build(root):
    """All of them under `root`, each in a folder of its name -> root."""
    for tree in TREES:
        tree(root / tree.__name__)
    return root
