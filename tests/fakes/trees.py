"""Stand-in copies of public datasets in their public layouts, with synthetic chests.

Folders, file formats, tables and spellings are those of the public releases (docs/data.md names the
source of each). `build` writes the paper's datasets as they are easiest to read, `build_hard` the
same patients in the layouts that trip a reader, and the sets that are public alone.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from PIL import Image

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

    A lateral image lies beside the first frontal one. valid.csv and valid/ hold other patients.
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
    rows = []
    for number in range(64541, 64545):
        ill = number % 2 == 0
        name = f"valid/patient{number}/study1/view1_frontal.jpg"
        save(root / name, chest(number, ill)[0])
        signs = {finding: str(float((finding == "No Finding") != ill)) for finding in CHEXPERT}
        rows.append(
            {
                "Path": f"CheXpert-v1.0/{name}",
                "Sex": "Male",
                "Age": 70,
                "Frontal/Lateral": "Frontal",
                "AP/PA": VIEWS[number // 2 % 2],
                **signs,
            }
        )
    table(root / "valid.csv", rows)


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
                "StudyDate": 20200301 + number % 28,
                "Sex": "MF"[number % 2],
                "AgeAtStudyDateFiveYear": 4 + number % 14,
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
    """Data_Entry_2017_v2020.csv and images/, with patients enough for an AUC in the test."""
    rows, names = [], ("No Finding", "Pneumonia|Infiltration")
    for number, _, view, name in everyone("n{:0>8}", names, {**PARTS, "test": 10}):
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
                "offset": 3 * i,
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


# the same patients in layouts that trip a reader


def chexpert_in_batches(root: Path) -> None:
    """Four archives side by side: the table in the first, the patients in the others."""
    first = root / "CheXpert-v1.0 batch 1 (validate & csv)"
    chexpert(first)
    for i, patient in enumerate(sorted((first / "train").iterdir())):
        batch = root / f"CheXpert-v1.0 batch {2 + i % 3} (train {1 + i % 3})"
        batch.mkdir(exist_ok=True)
        shutil.move(patient, batch / patient.name)
    (first / "train").rmdir()


def chexpert_small(root: Path) -> None:
    """`CheXpert-v1.0-small/`, with that prefix in the table and a byte order mark."""
    inside = root / "CheXpert-v1.0-small"
    chexpert(inside)
    for file in (inside / "train.csv", inside / "valid.csv"):
        text = file.read_text().replace("CheXpert-v1.0/", "CheXpert-v1.0-small/")
        file.write_text(text, "utf-8-sig")


def nih_of_kaggle(root: Path) -> None:
    """Kaggle's copy: images_001/images/ ..., the older table with split headings."""
    nih_chestxray14(root)
    for i, image in enumerate(sorted((root / "images").iterdir())):
        place = root / f"images_{1 + i % 3:03d}" / "images"
        place.mkdir(parents=True, exist_ok=True)
        shutil.move(image, place / image.name)
    (root / "images").rmdir()
    rows = pd.read_csv(root / "Data_Entry_2017_v2020.csv", dtype=str)
    more = {"OriginalImage[Width": "2500", "Height]": "2048", "y]": "0.168", "Unnamed: 11": ""}
    rows.assign(**more).to_csv(root / "Data_Entry_2017.csv", index=False)
    (root / "Data_Entry_2017_v2020.csv").unlink()


def brixia_as_downloaded(root: Path) -> None:
    """Tables with a byte order mark in data/, DICOM two folders deep, the consensus set."""
    brixia(root / "data")
    file = root / "data" / "metadata_global_v2.csv"
    rows = pd.read_csv(file, sep=";", dtype=str)
    rows.to_csv(file, index=False, sep=";", encoding="utf-8-sig")
    shutil.move(root / "data" / "dicom_clean", root / "dicom" / "dicom_clean")
    consensus = []
    for film, score in rows[["Filename", "BrixiaScore"]].head(3).itertuples(index=False):
        modes = {f"Mode{zone}": min(3, int(digit) + 1) for zone, digit in zip("ABCDEF", score)}
        means = {f"Mean{zone}": mode - 0.2 for zone, mode in zip("ABCDEF", modes.values())}
        consensus.append({"Filename": film, **modes, **means, "ModeGlobal": sum(modes.values())})
    file = root / "data" / "metadata_consensus_v1.csv"
    pd.DataFrame(consensus).to_csv(file, index=False, encoding="utf-8-sig")


BIMCV_ENDINGS = {  # what stands between session and .png -> view of the name
    "run-1_bp-chest_vp-{}_dx": True,
    "run-1_bp-chest_cr": False,
    "acq-2_run-1_bp-chest_vp-{}_cr": True,
    "run-1_bp-chest_dx": False,
}


def bimcv_of_today(root: Path) -> None:
    """covid19_posi/, names with and without a view, stored pixels with their tags beside them.

    Every second film is MONOCHROME1, and every fourth has a LUT in place of its window; lesions
    are outlined on some. Three films are lateral, by their name or by their tags alone, and one
    lies in the tree of the negative set.
    """
    endings = list(BIMCV_ENDINGS)
    for i, (number, _, view, _) in enumerate(everyone("bimcv_covid19:S{:05d}", ("covid19",))):
        ending = endings[i % len(endings)].format(view.lower())
        image, _, lesion = chest(number, True)
        stored = image.astype(np.uint16) * 16 + 7
        tags = {"00185101": view, "0008103E": f"TORAX {view}", "00080020": f"202003{1 + i:02d}"}
        if i:  # one does not say
            tags |= {"00100040": "MF"[number % 2], "00101010": f"{20 + number % 60:03d}Y"}
        inverted = i % 2 == 1
        if i % 4 > 1:
            tags |= lut_in_place_of_window()
        film = bimcv_film(root / "covid19_posi", number, ending, stored, tags, inverted)
        if i % 3 > 0:
            save(root / "lesion_masks" / film.name, lesion)
    lateral = {"vp-ll_dx": "TORAX LAT", "vp-lateral_cr": "LATERAL", "vp-pa_dx": "ERECT LAT"}
    for i, (ending, description) in enumerate(lateral.items()):
        stored = chest(i)[0].astype(np.uint16) * 16
        tags = {"0008103E": description, "00080020": "20200401"}
        bimcv_film(root / "covid19_posi", 90000 + i, f"run-1_bp-chest_{ending}", stored, tags)
    bimcv_film(root / "covid19_neg", 99999, endings[0].format("pa"), stored, tags)


def lut_in_place_of_window() -> dict[str, object]:
    """Tags of a VOI LUT of 12 bits in and 8 out, and of no window."""
    lut = {
        "00283002": {"Value": [4096, 0, 8]},
        "00283006": {"Value": [i // 16 for i in range(4096)]},
    }
    return {"00283010": lut, "00281050": None, "00281051": None}


def bimcv_film(
    root: Path,
    number: int,
    ending: str,
    stored: np.ndarray,
    tags: dict[str, object],
    inverted: bool = False,
) -> Path:
    """Write one 12-bit film and the JSON beside it; returns its path.

    A MONOCHROME1 film holds the negative, and its window is the mirrored one.
    """
    folder = root / f"sub-S{number:05d}" / f"ses-E{number:05d}" / "mod-rx"
    path = folder / f"sub-S{number:05d}_ses-E{number:05d}_{ending}.png"
    save(path, 4095 - stored if inverted else stored)
    known = {
        "00280004": "MONOCHROME1" if inverted else "MONOCHROME2",
        "00280101": 12,
        "00281050": 4096 - 2000 if inverted else 2000,
        "00281051": 3600,
        **tags,
    }
    elements = {tag: {"vr": "UN", "Value": [value]} for tag, value in known.items()}
    path.with_suffix(".json").write_text(json.dumps(elements))
    return path


def cohen_with_masks(root: Path) -> None:
    """The clone, and V7's masks beside it: PNG under any ending, with 127; one without lungs."""
    cohen_full(root)
    for i, kind in enumerate(("lungs", "ignored", "none")):
        mask = chest(i)[1]
        mask[:20] = 127 if kind == "ignored" else mask[:20]
        png = cv2.imencode(".png", mask * (kind != "none"))[1].tobytes()
        (root / "semantic_masks_v7labs_lungs").mkdir(exist_ok=True)
        (root / "semantic_masks_v7labs_lungs" / f"{i}.jpg").write_bytes(png)


# sets that are public alone


def montgomery(root: Path) -> None:
    """MontgomerySet/: films, readings, and a mask for each lung."""
    root = root / "MontgomerySet"
    for number in range(8):
        ill = number % 2
        stem = f"MCUCXR_{number:04d}_{ill}"
        image, lungs, _ = chest(number, bool(ill))
        right, left = lungs.copy(), lungs.copy()
        right[:, lungs.shape[1] // 2 :] = 0
        left[:, : lungs.shape[1] // 2] = 0
        save(root / "CXR_png" / f"{stem}.png", image)
        save(root / "ManualMask" / "leftMask" / f"{stem}.png", left)
        save(root / "ManualMask" / "rightMask" / f"{stem}.png", right)
        about = f"Patient's Sex: {'MF'[ill]}\nPatient's Age: {20 + number:03d}Y\n"
        text = about + ("infiltrates" if ill else "normal")
        (root / "ClinicalReadings").mkdir(exist_ok=True)
        (root / "ClinicalReadings" / f"{stem}.txt").write_text(text)
    save(root / "CXR_png" / "Thumbs.png", image)  # as systems leave behind


def shenzhen_full(root: Path) -> None:
    """ChinaSet_AllFiles/ twice, as archives nest, and the community's masks with grey edges."""
    inside = root / "ChinaSet_AllFiles" / "ChinaSet_AllFiles"
    readings = ["normal", "bilateral PTB", "normal", "right upper pneumonia", "normal", "STB"]
    about = ["male 45yrs", "Female, 30 yrs", "male,8 months", "Female ,24yr", "Male", ""]
    for number, (reading, whose) in enumerate(zip(readings, about, strict=True)):
        stem = f"CHNCXR_{number:04d}_{int(reading != 'normal')}"
        image, lungs, _ = chest(number, reading != "normal")
        save(inside / "CXR_png" / f"{stem}.png", cv2.cvtColor(image, cv2.COLOR_GRAY2BGR))
        if number:  # some have none
            edges = cv2.GaussianBlur(lungs, (5, 5), 0)
            save(root / "mask" / "mask" / f"{stem}_mask.png", edges)
        (inside / "ClinicalReadings").mkdir(exist_ok=True)
        (inside / "ClinicalReadings" / f"{stem}.txt").write_text(f"{whose}\n{reading}\n")


def chest_of_jsrt(number: int) -> tuple[np.ndarray, np.ndarray]:
    """A radiograph and its lungs at the side of JSRT, in blocks of 8 x 8."""
    block = np.ones((8, 8), np.uint8)
    image, lungs, _ = chest(number, size=(256, 256))
    return np.kron(image, block), np.kron(lungs, block)


def jsrt(root: Path) -> None:
    """All247images/*.IMG, and the masks of SCR as GIF in two folds."""
    for number, kind in enumerate(("JPCLN", "JPCNN")):
        stem = f"{kind}{1 + number:03d}"
        image, lungs = chest_of_jsrt(number)
        dark = 4095 - image.astype(np.uint16) * 16
        (root / "All247images").mkdir(parents=True, exist_ok=True)
        (root / "All247images" / f"{stem}.IMG").write_bytes(dark.astype(">u2").tobytes())
        small = cv2.resize(lungs, (1024, 1024), interpolation=cv2.INTER_NEAREST)
        for side, half in (("right lung", np.s_[:, 512:]), ("left lung", np.s_[:, :512])):
            mask = small.copy()
            mask[half] = 0
            folder = root / "scratch" / f"fold{1 + number}" / "masks" / side
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(mask).save(folder / f"{stem}.gif")


def runs(mask: np.ndarray) -> str:
    """Run lengths of a mask, pixel by pixel: "start length ...", the first pixel is 1."""
    out: list[int] = []
    inside = False
    for i, pixel in enumerate(mask.ravel() > 0):
        if pixel and not inside:
            out += [i + 1, 0]
        if pixel:
            out[-1] += 1
        inside = bool(pixel)
    return " ".join(map(str, out))


def chexmask(root: Path) -> None:
    """OriginalResolution/*.csv for the first NIH and CheXpert films beside; the last is poor.

    Landmarks are an array as numpy prints it: a quoted cell with line ends.
    """
    tables = {
        "ChestX-Ray8.csv": ("Image Index", "nih_chestxray14", "*.png"),
        "CheXpert.csv": ("Path", "chexpert", "patient0*/*/*frontal.jpg"),
        "VinDr-CXR.csv": ("image_id", "", ""),
    }
    for file, (column, beside, pattern) in tables.items():
        rows = []
        films = sorted((root.parent / beside).rglob(pattern))[:4] if beside else [Path("a.dicom")]
        for i, path in enumerate(films):
            lungs = chest(i)[1]
            right, left = lungs.copy(), lungs.copy()
            right[:, lungs.shape[1] // 2 :] = 0
            left[:, : lungs.shape[1] // 2] = 0
            name = path.name if column != "Path" else "train/" + "/".join(path.parts[-3:])
            rows.append(
                {
                    column: name,
                    "Dice RCA (Mean)": 0.9 if i < 3 else 0.65,
                    "Dice RCA (Max)": 0.95,
                    "Landmarks": str(np.arange(240).reshape(120, 2)),
                    "Left Lung": runs(left),
                    "Right Lung": runs(right),
                    "Heart": "1 3",
                    "Height": lungs.shape[0],
                    "Width": lungs.shape[1],
                }
            )
        place = root / "OriginalResolution" / file
        place.parent.mkdir(parents=True, exist_ok=True)
        pd.DataFrame(rows).to_csv(place, index=False)


TREES = (chexpert, brixia, bimcv_covid19, nih_chestxray14, cohen_full, local)


def build(root: Path) -> Path:
    """Write all of them, each into a folder of its name; returns `root`."""
    for tree in TREES:
        tree(root / tree.__name__)
    return root


def chexpert_valid(root: Path) -> None:
    """Its films lie in the folder of chexpert: there is no other."""


HARD_TREES = {
    "chexpert": chexpert_in_batches,
    "chexpert_valid": chexpert_valid,
    "brixia": brixia_as_downloaded,
    "bimcv_covid19": bimcv_of_today,
    "nih_chestxray14": nih_of_kaggle,
    "cohen_full": cohen_with_masks,
    "local": local,
    "montgomery": montgomery,
    "shenzhen_full": shenzhen_full,
    "jsrt": jsrt,
    "chexmask": chexmask,  # after the films that it masks
}


def build_hard(root: Path) -> Path:
    """Write the hard layouts, each into a folder of its dataset's name; returns `root`."""
    for name, tree in HARD_TREES.items():
        tree(root / name)
    return root
