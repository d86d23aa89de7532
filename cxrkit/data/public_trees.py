"""Readers of public sets whose tree on disk says more, or other things, than one table can.

A reader takes a manifest and the folder of its dataset and gives raw rows: text columns under our
names, `_file` and `_row` for messages, and paths relative to the folder or absolute.
`manifests.read_manifest` checks them and brings them into the table form. docs/data.md lists the
trees and where each layout is described.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from cxrkit.data import manifests, public_masks, raw_pixels, tables
from cxrkit.data.labels import ALIASES, plain
from cxrkit.data.schema import Manifest

Row = dict[str, Any]


def nearest(folder: Path, name: str) -> Path | None:
    """The file or folder of a name that lies in a folder, or one or two levels below.

    Archives are unpacked with or without the folders around them.

    Args:
        folder: where the search starts.
        name: of the file or folder.

    Returns:
        The nearest one, the first by name of several; None where there is none.
    """
    for depth in ("", "*/", "*/*/"):
        found = sorted(folder.glob(depth + name))
        if found:
            return found[0]
    return None


def _inside(folder: Path, path: Path) -> str:
    """A path relative to the dataset's folder; it may lead out of it, to a folder beside it."""
    return Path(os.path.relpath(path, folder)).as_posix()


def _frame(rows: Iterable[Row], file: Path) -> pd.DataFrame:
    """Rows found in a tree, numbered from 1."""
    table = pd.DataFrame(list(rows))
    return table.assign(_file=str(file), _row=np.arange(1, len(table) + 1))


def _files(folder: Path | None, suffixes: tuple[str, ...]) -> list[Path]:
    """The files of a folder with one of several endings, sorted; none where there is no folder."""
    if folder is None or not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in suffixes)


# CheXpert


def chexpert(spec: Manifest, folder: Path) -> pd.DataFrame:
    """`train.csv` or `valid.csv`, and the films beside it or in the four archives of today.

    Those are `CheXpert-v1.0 batch 1 (validate & csv)` with the table and batches 2 to 4 with the
    patients of `train/`. Paths begin with `CheXpert-v1.0/` or `CheXpert-v1.0-small/`.
    """
    table = spec.tables[0]
    file = nearest(_folder_of_chexpert(spec, folder), table.file)
    if file is None:
        return pd.DataFrame()
    rows = manifests.read_columns(table, file.parent)
    places = {}
    if not (file.parent / "train").is_dir():
        places = _places_of_patients(folder, file.parent.parent)
    base, paths = _inside(folder, file.parent), []
    for path, patient in zip(rows["path"], rows["patient_id"], strict=True):
        place = places.get(patient)
        paths.append(f"{place}/{path.removeprefix('train/')}" if place else f"{base}/{path}")
    return rows.assign(path=paths)


def _folder_of_chexpert(spec: Manifest, folder: Path) -> Path:
    """The folder itself; for the validation films, which lie with the others, that of `chexpert`.

    It lies in the folder of all datasets, or beside the folder.
    """
    if spec.name == "chexpert" or (folder / spec.tables[0].file).exists():
        return folder
    for place in (folder / "chexpert", folder.parent / "chexpert"):
        if place.is_dir():
            return place
    return folder


def _places_of_patients(folder: Path, around: Path) -> dict[str, str]:
    """Patient -> the folder that holds the patient's folder, in archives unpacked side by side."""
    places = {}
    for batch in sorted(around.glob("CheXpert-v1.0 batch*")):
        for place in (batch, batch / "train"):
            if place.is_dir():
                where = _inside(folder, place)
                for entry in os.scandir(place):
                    if entry.name.startswith("patient"):
                        places[entry.name] = where
    return places


# NIH ChestX-ray14


def nih(spec: Manifest, folder: Path) -> pd.DataFrame:
    """The table under either of its names, and films in `images/` or Kaggle's `images_001/images/`.

    The first table of the manifest that is there counts.
    """
    for table in spec.tables:
        file = nearest(folder, table.file)
        if file is not None:
            break
    else:
        return pd.DataFrame()
    rows = manifests.read_columns(table, file.parent)
    places = {}
    for images in sorted(file.parent.glob("images_*/images")):
        where = _inside(folder, images)
        places.update((entry.name, where) for entry in os.scandir(images))
    usual = _inside(folder, file.parent / "images")
    place = rows["path"].map(lambda name: places.get(name, usual))
    return rows.assign(path=place + "/" + rows["path"])


# Brixia

AGE_GROUP = "AgeAtStudyDateFiveYear"  # 0 is 0 to 4 years, 1 is 5 to 9, and so on


def brixia(spec: Manifest, folder: Path) -> pd.DataFrame:
    """`metadata_global_v2.csv` and `dicom_clean/`, anywhere in the unpacked tree.

    The age is the middle of five years: the release says no more.
    """
    table = spec.tables[0]
    file = nearest(folder, table.file)
    if file is None:
        return pd.DataFrame()
    rows = manifests.read_columns(table, file.parent)
    rows["path"] = _dicom_folder(folder, file) + "/" + rows["path"]
    raw = tables.read_table(file)
    if "StudyDate" in raw:
        rows["visit"] = days_since_first(raw["StudyDate"], rows["patient_id"])
    if AGE_GROUP in raw:
        rows["age"] = 5 * pd.to_numeric(raw[AGE_GROUP], errors="coerce") + 2.5  # the middle
    return rows


def brixia_consensus(spec: Manifest, folder: Path) -> pd.DataFrame:
    """The 150 films that five radiologists read: their majority, beside the reading of the day.

    Majority scores (`ModeA` to `ModeF`) become `brixia_*`, the score of the radiologist on duty
    (`BrixiaScore` of the other table) `brixia2_*`. The scores of the five are not in the release.
    """
    beside = folder if nearest(folder, spec.tables[0].file) else folder.parent / "brixia"
    file, everyone = (nearest(beside, table.file) for table in spec.tables)
    if file is None or everyone is None:
        return pd.DataFrame()
    rows = manifests.read_columns(spec.tables[0], file.parent)
    daily = manifests.read_columns(spec.tables[1], everyone.parent).drop(columns=["_file", "_row"])
    rows = rows.merge(daily, on="path", how="left", validate="1:1")
    return rows.assign(path=_dicom_folder(folder, everyone) + "/" + rows["path"])


def _dicom_folder(folder: Path, file: Path) -> str:
    """Where the DICOM files of Brixia lie, for a table of the set."""
    found = nearest(file.parent, "dicom_clean") or nearest(file.parent.parent, "dicom_clean")
    return _inside(folder, found or file.parent / "dicom_clean")


def days_since_first(dates: pd.Series, patients: pd.Series) -> pd.Series:
    """Days since the first film of each patient.

    Args:
        dates: text: `20200312`, `2020-03-12`, or a number of days.
        patients: of each date.

    Returns:
        Numbers; NaN where no date is known.
    """
    text = dates.astype("str").str.removesuffix(".0")
    moments = pd.to_datetime(text, format="%Y%m%d", errors="coerce")
    moments = moments.fillna(pd.to_datetime(text, format="%Y-%m-%d", errors="coerce"))
    days = (moments - pd.Timestamp(0)).dt.days.astype(float)
    if days.isna().all():
        days = pd.to_numeric(dates, errors="coerce").astype(float)
    return days - days.groupby(patients).transform("min")


# BIMCV-COVID19+

BIMCV_NAME = re.compile(
    r"sub-(?P<patient_id>[^_]+)_ses-(?P<session>[^_]+)_"
    r"(?:.*_)?bp-(?:chest|thorax)_(?:vp-(?P<view>[^_]+)_)?(?:.*_)?(?:cr|dx)\.png$"
)
LATERAL = re.compile(r"\bLAT(ERAL)?\b")  # in a description of a series
FRONTAL = re.compile(r"\b(PA|AP)\b")


def bimcv(spec: Manifest, folder: Path) -> pd.DataFrame:
    """Films of `sub-*/ses-*/mod-rx/`, under `covid19_posi/` as today or at the top as before.

    The view stands in the name (`_vp-pa_`), or in the DICOM tags of the JSON beside the film, or
    nowhere. Where the tags call the series lateral and nothing else, that counts: some names are
    wrong. A lesion mask of the same name in `lesion_masks/` belongs to its film.
    """
    rows = []
    for place in ("", "*/"):
        for path in sorted(folder.glob(f"{place}sub-*/ses-*/mod-rx/*.png")):
            name = BIMCV_NAME.match(path.name)
            if name and "_neg" not in path.relative_to(folder).parts[0]:
                rows.append(_bimcv_row(folder, path, name))
    table = _frame(rows, folder)
    if len(table):
        table["visit"] = days_since_first(table["date"], table["patient_id"])
    return table


def _bimcv_row(folder: Path, path: Path, name: re.Match) -> Row:
    """The row of one film, by its name and the tags beside it."""
    tags = raw_pixels.tags_beside(path)
    view = name["view"] or raw_pixels.first_value(tags, raw_pixels.VIEW)
    description = str(raw_pixels.first_value(tags, raw_pixels.DESCRIPTION) or "").upper()
    if LATERAL.search(description) and not FRONTAL.search(description):
        view = "L"
    if plain(view) not in ALIASES["view"]:
        view = None
    lesion = folder / "lesion_masks" / path.name
    return {
        "path": _inside(folder, path),
        "patient_id": name["patient_id"],
        "view": view,
        "date": raw_pixels.first_value(tags, raw_pixels.DATE),
        "sex": raw_pixels.first_value(tags, raw_pixels.SEX),
        "age": raw_pixels.first_value(tags, raw_pixels.AGE),
        "lesion_mask": _inside(folder, lesion) if lesion.exists() else None,
    }


# Montgomery and Shenzhen

READING = {"tuberculosis": r"\bP?S?TB\b|tubercul", "pneumonia": r"pneumonia"}
# "Patient's Sex: F" and "Patient's Age: 027Y" in Montgomery, "male 45yrs" or "Female, 30 yrs" in
# Shenzhen
READING_SEX = r"\bsex\W+(?P<sex>[MF])\b|\b(?P<word>female|male)\b"
READING_AGE = r"(?:\bage\W+|\b(?:fe)?male\W*)(?P<age>\d+\s*[a-z]*)"


def nlm_tuberculosis(spec: Manifest, folder: Path) -> pd.DataFrame:
    """`CXR_png/`, `ClinicalReadings/` and masks: names end with _0 (normal) or _1 (tuberculosis).

    A film whose reading says pneumonia and not tuberculosis is another infection of unknown cause.
    Sex and age stand in the reading.
    Masks are `ManualMask/leftMask` and `rightMask` (Montgomery), or `<name>_mask.png` (the
    community's masks of Shenzhen).
    """
    images = nearest(folder, "CXR_png")
    readings = nearest(folder, "ClinicalReadings")
    masks = _masks_by_name(folder)
    rows = []
    for path in _files(images, (".png",)):
        if not re.fullmatch(r"[A-Z]+CXR_\d+_[01]", path.stem):
            continue
        _, number, ill = path.stem.split("_")
        infection = ill == "1"
        reading = _reading(readings, path.stem)
        sex = re.search(READING_SEX, reading, re.IGNORECASE)
        age = re.search(READING_AGE, reading, re.IGNORECASE)
        rows.append(
            {
                "path": _inside(folder, path),
                "patient_id": number,
                "diagnosis": "other_infection" if infection else "normal",
                "cause": "tuberculosis" if infection and _is_tb(reading) else None,
                "sex": (sex["sex"] or sex["word"]) if sex else None,
                "age": age["age"] if age else None,
                "lung_mask": masks.get(path.stem),
            }
        )
    return _frame(rows, folder)


def _reading(readings: Path | None, stem: str) -> str:
    """The clinical reading of a film; blank where there is none."""
    file = readings / f"{stem}.txt" if readings else None
    return file.read_text("utf-8", errors="replace") if file and file.exists() else ""


def _is_tb(reading: str) -> bool:
    """Whether the reading of an ill film allows tuberculosis; True where there is no reading."""
    named = {word: re.search(how, reading, re.IGNORECASE) for word, how in READING.items()}
    return bool(named["tuberculosis"]) or not named["pneumonia"]


def _masks_by_name(folder: Path) -> dict[str, str]:
    """Name of a film -> its lung mask, in either form."""
    both = nearest(folder, "ManualMask/leftMask")
    if both is not None:
        return {path.stem: _inside(folder, path) for path in _files(both, (".png",))}
    found = {}
    for depth in ("mask", "masks", "*/mask", "*/masks", "*/mask/mask"):
        for place in folder.glob(depth):
            for path in _files(place, (".png",)):
                found[path.stem.removesuffix("_mask")] = _inside(folder, path)
    return found


# JSRT with the masks of SCR


def jsrt(spec: Manifest, folder: Path) -> pd.DataFrame:
    """Films `JPCLN*` (a nodule) and `JPCNN*` (none) as .IMG or PNG, masks of SCR as GIF.

    The masks lie in `fold1/masks/` and `fold2/masks/`, in `left lung/` and `right lung/`.
    """
    images: dict[str, Path] = {}
    for depth in ("*", "*/*"):
        for path in sorted(folder.glob(depth)):
            if re.fullmatch(r"JPC(LN|NN)\d+\.(IMG|PNG)", path.name, re.IGNORECASE):
                images.setdefault(path.stem.upper(), path)
    masks = {}
    for place in ("left lung", "*/left lung", "*/*/left lung", "*/*/*/left lung"):
        for found in sorted(folder.glob(place)):
            masks.update({path.stem.upper(): path for path in _files(found, (".gif", ".png"))})
    rows = []
    for stem, path in sorted(images.items()):
        rows.append(
            {
                "path": _inside(folder, path),
                "patient_id": stem,
                "diagnosis": "normal" if stem.startswith("JPCNN") else None,
                "lung_mask": _inside(folder, masks[stem]) if stem in masks else None,
            }
        )
    return _frame(rows, folder)


# the collection of Cohen, with the masks of V7


def cohen_full(spec: Manifest, folder: Path) -> pd.DataFrame:
    """A clone of the repository, and V7's lung masks where they lie beside its images.

    `semantic_masks_v7labs_lungs/` has a mask under the full name of a film, PNG whatever its
    ending. One without lungs says that the film was not annotated (lateral films, slices).
    """
    file = nearest(folder, spec.tables[0].file)
    if file is None:
        return pd.DataFrame()
    rows = manifests.read_columns(spec.tables[0], file.parent)
    masks = nearest(folder, "semantic_masks_v7labs_lungs")
    lungs = {}
    for path in sorted(masks.iterdir()) if masks else []:
        with Image.open(path) as raster:
            if raster.getextrema() != (0, 0):
                lungs[path.name] = _inside(folder, path)
    images = _inside(folder, file.parent / "images")
    return rows.assign(lung_mask=rows["path"].map(lungs), path=f"{images}/" + rows["path"])


# CheXmask

# table of CheXmask -> its column of names, and the dataset of the kit that has the films
CHEXMASK = {
    "ChestX-Ray8.csv": ("Image Index", "nih_chestxray14"),
    "CheXpert.csv": ("Path", "chexpert"),
    "VinDr-CXR.csv": ("image_id", None),
    "Padchest.csv": ("ImageID", None),
    "MIMIC-CXR-JPG.csv": ("dicom_id", None),
}
TAKEN_OVER = ["path", "site", "patient_id", "group_id", "split", "view", "diagnosis"]


def chexmask(spec: Manifest, folder: Path) -> pd.DataFrame:
    """The films of other datasets beside this folder, with their masks of CheXmask.

    A table of `OriginalResolution/` counts where its films are there: those of NIH and CheXpert as
    the datasets of the kit, those of the others in a folder named like the table. A mask below
    `lowest_quality` (Dice by reverse classification accuracy) is left out with its film.
    """
    parts = []
    for name, (column, dataset) in CHEXMASK.items():
        file = nearest(folder, f"OriginalResolution/{name}") or nearest(folder, name)
        if file is None:
            continue
        masks = public_masks.run_length_index(file, column)
        masks = masks[masks["quality"] >= spec.lowest_quality]
        images = _images_of(dataset, folder.parent) if dataset else _loose_images(folder, file)
        if images.empty:
            warnings.warn(f"{file}: its films are not beside {folder}; left out", stacklevel=2)
            continue
        key = images["path"].map(_name_in_chexmask)
        addresses = masks.set_index(masks["name"].map(_name_in_chexmask))["address"]
        images = images.assign(lung_mask=key.map(addresses[~addresses.index.duplicated()]))
        images = images.dropna(subset="lung_mask")
        parts.append(images.assign(_file=str(file), _row=np.arange(1, len(images) + 1)))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def _images_of(dataset: str, root: Path) -> pd.DataFrame:
    """What the masks need of a dataset beside the folder; empty where it is not there."""
    try:
        return manifests.read_manifest(dataset, root)[TAKEN_OVER].assign(site=dataset)
    except FileNotFoundError:
        return pd.DataFrame()


def _loose_images(folder: Path, file: Path) -> pd.DataFrame:
    """Films under the folder that is named like a table; a film is a patient of its own."""
    found = sorted((folder / file.stem).rglob("*.*"))
    images = [path for path in found if path.suffix.lower() in (".png", ".jpg", ".jpeg", ".dcm")]
    rows = []
    for path in images:
        rows.append(
            {"path": _inside(folder, path), "site": file.stem, "patient_id": f"{path.stem}"}
        )
    return pd.DataFrame(rows)


def _name_in_chexmask(path: str) -> str:
    """What names a film in both: `patient00001/study1/view1_frontal`, else the name of the file."""
    inside = re.search(r"patient\d+/.+$", path)
    name = PurePosixPath(inside[0] if inside else PurePosixPath(path).name)
    return (
        str(name.with_suffix("")) if name.suffix in (".png", ".jpg", ".jpeg", ".dcm") else str(name)
    )


# labels and masks for films of other datasets of the kit


def nih_reader(spec: Manifest, folder: Path) -> pd.DataFrame:
    """What radiologists said of films of `nih_cxr14` and `nih_cxr14_64px`, which lie beside.

    The class of RSNA 2018 where it is known, else the adjudicated labels of Majkowska et al. 2020.
    """
    parts = []
    for table in spec.tables:
        file = nearest(folder, table.file)
        if file is None:
            continue
        raw = tables.read_table(file)
        dataset = table.file.removesuffix("_readers.csv")
        listed = manifests.image_list(dataset)
        views = dict(zip(listed["path"], listed["view"], strict=True)) if listed is not None else {}
        rows = manifests.read_columns(table, file.parent)
        rows["view"] = rows["path"].map(views)
        rows["path"] = rows["path"].map(lambda path, at=dataset: f"../{at}/{path}")
        parts.append(rows.assign(**_reader_labels(raw)))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def _reader_labels(raw: pd.DataFrame) -> dict[str, pd.Series]:
    """0/1 by the two readings: an opacity, nothing at all, a pneumothorax."""
    said = {"YES": "1", "NO": "0"}
    rsna = raw["rsna_class"]
    opacity = rsna.eq("Lung Opacity").astype(int).astype(str).where(rsna.notna())
    normal = rsna.eq("Normal").astype(int).astype(str).where(rsna.notna())
    words = {"Normal": "normal", "Lung Opacity": "other_infection"}
    return {
        "opacity": opacity.fillna(raw["google_opacity"].map(said)),
        "no_finding": normal,
        "pneumothorax": raw["google_pneumothorax"].map(said),
        "diagnosis": rsna.map(words),
    }


def cohen_lesions(spec: Manifest, folder: Path) -> pd.DataFrame:
    """Masks of lesions on films of `cohen`: a prepared folder, or a clone of the repository.

    The prepared folder has `lesions.csv`, and its films lie in `cohen/` beside it. A clone has
    `structure.csv`, whose crops are put in their place when a mask is read; films that `cohen` does
    not list are left out, since their patients are unknown.
    """
    file = nearest(folder, spec.tables[0].file)
    if file is not None:
        rows = manifests.read_columns(spec.tables[0], file.parent)
        rows["path"] = "../cohen/" + rows["path"]
        return rows
    file = nearest(folder, "structure.csv")
    if file is None:
        return pd.DataFrame()
    crops = public_masks.placed_crops(file).drop_duplicates("Filename")
    listed = manifests.image_list("cohen")
    assert listed is not None  # it travels with the package
    known = listed.set_index(listed["path"].map(lambda path: PurePosixPath(path).name))
    rows = []
    for image in crops.to_dict("records"):
        if image["Filename"] in known.index:
            of_cohen = known.loc[image["Filename"]]
            address = f"{_inside(folder, file)}#{image['row']}"
            rows.append(
                {
                    "path": _inside(folder, file.parent / "images" / image["Filename"]),
                    "group_id": of_cohen["group_id"],
                    "split": of_cohen["split"],
                    "lung_mask": address,
                    "lesion_mask": address,
                }
            )
    return _frame(rows, file)


READERS: dict[str, Callable[[Manifest, Path], pd.DataFrame]] = {
    "bimcv": bimcv,
    "brixia": brixia,
    "brixia_consensus": brixia_consensus,
    "chexmask": chexmask,
    "chexpert": chexpert,
    "cohen_full": cohen_full,
    "cohen_lesions": cohen_lesions,
    "jsrt": jsrt,
    "nih": nih,
    "nih_reader": nih_reader,
    "nlm_tuberculosis": nlm_tuberculosis,
}
