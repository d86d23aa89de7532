"""DICOM tags: what a header says that speaks against a prediction, and what of it was not used."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from cxrkit.data.dicom import DICOM_SUFFIXES, IDENTIFIERS, dicom_kind

if TYPE_CHECKING:
    import pydicom

IDENTIFIED = "carries patient identifiers"
ADULT = 18  # years; children are out of the scope of MODEL_CARD.md
YEARS = {"Y": 1.0, "M": 1 / 12, "W": 7 / 365.25, "D": 1 / 365.25}  # units of a DICOM age
RADIOGRAPHY = ("CR", "DX", "RG", "DR", "OT", "SC")  # DR is no term of the standard, but is met
CHEST_WORDS = ("CHEST", "THORAX", "LUNG", "THX", "TORAX", "RIB", "PULM")
USED = {  # by the reader or by `header_warnings`
    *("ViewPosition", "ImagerPixelSpacing", "PixelSpacing", "SpecificCharacterSet"),
    *("Modality", "BodyPartExamined", "PatientAge", "PatientOrientation"),
    *("PresentationIntentType", "FieldOfViewHorizontalFlip", "FieldOfViewRotation"),
    *("SOPClassUID", "SOPInstanceUID", "PresentationLUTShape"),
    *IDENTIFIERS,  # warned of
}
PIXEL_GROUPS = (0x0002, 0x0028, 0x7FE0)  # file format, description of pixels, pixels


def read_header(path: Path | str) -> pydicom.Dataset | None:
    """The header of a DICOM file; None for another file, and for one that cannot be read.

    Args:
        path: Of the file.
    """
    path = Path(path)
    try:
        if path.suffix.lower() not in DICOM_SUFFIXES and not dicom_kind(path):
            return None
        import pydicom

        return pydicom.dcmread(path, stop_before_pixels=True, force=True)
    except Exception:  # the reader of the pixels says what is wrong
        return None


def header_warnings(header: pydicom.Dataset) -> tuple[str, ...]:
    """What a header says that speaks against reading the image as an adult's frontal chest film.

    Args:
        header: See `read_header`.

    Returns:
        Warnings.
    """
    checks = (
        _identifiers,
        _modality,
        _body_part,
        _age,
        _orientation,
        _processing,
        _flip,
        _rotation,
    )
    return tuple(text for check in checks if (text := check(header)))


def unused_tags(header: pydicom.Dataset) -> list[str]:
    """Keywords of the tags that have a value which nothing here looks at.

    Args:
        header: See `read_header`.

    Returns:
        Sorted keywords; private tags and those of the pixels are left out.
    """
    return sorted(
        {
            element.keyword
            for element in header
            if element.keyword
            and element.tag.group not in PIXEL_GROUPS
            and element.keyword not in USED
            and not element.is_empty
        }
    )


def _text(header: pydicom.Dataset, keyword: str) -> str:
    """The value of a tag in capitals; empty where there is none."""
    return str(header.get(keyword) or "").strip().upper()


def _identifiers(header: pydicom.Dataset) -> str:
    named = [keyword for keyword in IDENTIFIERS if _text(header, keyword)]
    if not named:
        return ""
    return (
        f"{IDENTIFIED} ({', '.join(named)}): the kit keeps none, but de-identify the file before "
        "it leaves your hospital"
    )


def _modality(header: pydicom.Dataset) -> str:
    modality = _text(header, "Modality")
    if not modality or modality in RADIOGRAPHY:
        return ""
    return f"the file says Modality {modality}: no radiograph"


def _body_part(header: pydicom.Dataset) -> str:
    part = _text(header, "BodyPartExamined")
    if not part or any(word in part for word in CHEST_WORDS):
        return ""
    return f"the file says BodyPartExamined {part}: no chest"


def age_in_years(text: str) -> float | None:
    """A DICOM age such as 003Y, 018M, 02W or 005D in years; None where it is no age.

    Args:
        text: Value of PatientAge.
    """
    match = re.fullmatch(r"(\d{1,3})([YMWD]?)", text.strip().upper())
    if not match:
        return None
    return int(match[1]) * YEARS[match[2] or "Y"]


def _age(header: pydicom.Dataset) -> str:
    text = _text(header, "PatientAge")
    years = age_in_years(text)
    if years is None or years >= ADULT:
        return ""
    return f"PatientAge {text}: children are out of the scope of the models (MODEL_CARD.md)"


def _orientation(header: pydicom.Dataset) -> str:
    """Rows must run to the patient's left, columns to the feet."""
    value = header.get("PatientOrientation")
    if not value or isinstance(value, str) or len(value) != 2:
        return ""
    row, column = (str(one).strip().upper() for one in value)
    if not row or not column or (row[0] == "L" and column[0] == "F"):
        return ""
    shown = f"the file says PatientOrientation {row}\\{column}"
    if row[0] == "R" and column[0] == "F":
        return f"{shown}: flipped left to right"
    if {row[0], column[0]} & {"A", "P"}:
        return f"{shown}: no frontal film"
    return f"{shown}: not upright"


def _processing(header: pydicom.Dataset) -> str:
    if _text(header, "PresentationIntentType") != "FOR PROCESSING":
        return ""
    return (
        "the file says PresentationIntentType FOR PROCESSING: raw values of the detector, export "
        "it FOR PRESENTATION"
    )


def _flip(header: pydicom.Dataset) -> str:
    if _text(header, "FieldOfViewHorizontalFlip") != "YES":
        return ""
    return "the file says FieldOfViewHorizontalFlip YES: check which side is left"


def _rotation(header: pydicom.Dataset) -> str:
    text = _text(header, "FieldOfViewRotation")
    if text in ("", "0", "0.0"):
        return ""
    return f"the file says FieldOfViewRotation {text}: check that the film is upright"
