"""DICOM tags: what a header says that speaks against a prediction, and what of it was not used."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cxrkit.data.dicom import DICOM_SUFFIXES, IDENTIFIERS, dicom_kind, named_view
from cxrkit.data.labels import plain

if TYPE_CHECKING:
    import pydicom

IDENTIFIED = "carries patient identifiers"
ADULT = 18  # years; children are out of the scope of MODEL_CARD.md
YEARS = {"Y": 1.0, "M": 1 / 12, "W": 7 / 365.25, "D": 1 / 365.25}  # units of a DICOM age
RADIOGRAPHY = ("CR", "DX", "RG", "DR", "OT", "SC")  # DR is no term of the standard, but is met
# codes of PS3.3 C.7.3.1.1.1 that are never a radiograph of the chest; RF and XA may be one
OTHER_MODALITIES = frozenset(
    "AR AS AU BDUS BI BMD CT DG DOC ECG EPS ES FID GM HC HD IO IOL IVOCT IVUS KER KO LEN LS M3D MG "
    "MR NM OAM OCT OP OPM OPT OPTENF OPV PLAN POS PR PT PX REG RESP RTDOSE RTIMAGE RTPLAN RTRECORD "
    "RTSTRUCT RWV SEG SM SMR SR SRF STAIN TG US VA XC".split()
)
# words of PS3.16 Annex L (and their usual short forms) that name a part which shows no whole lungs
OTHER_PARTS = frozenset(
    "ABDOMEN ABDOMINAL ANKLE ARM BLADDER BRAIN BREAST CALCANEUS CAROTID CLAVICLE COCCYX CSPINE EAR "
    "ELBOW EXTREMITY EYE FACE FACIAL FEMUR FIBULA FINGER FOOT FOREARM HAND HEAD HEEL HIP HUMERUS "
    "JAW KIDNEY KNEE LEG LIVER LSPINE LUMBAR MANDIBLE MAXILLA NECK NOSE ORBIT PATELLA PELVIS "
    "SACRUM SCAPULA SHOULDER SINUS SKULL SPINE SSPINE STERNUM TEETH TEMPORAL THIGH THUMB TIBIA TOE "
    "TOOTH TSPINE UTERUS WRIST ZYGOMA".split()
)
FRONTAL_OR_UNKNOWN = ("frontal", "unknown")
OBLIQUE = frozenset("LAO RAO LPO RPO LLO RLO".split())
MAKER = "cxrkit"  # Manufacturer of the DICOM files that `cxrkit predict` writes
CHEST_WORDS = ("CHEST", "THORAX", "LUNG", "THX", "TORAX", "RIB", "PULM")
USED = {  # by the reader or by `header_warnings`
    *("ViewPosition", "ImagerPixelSpacing", "PixelSpacing", "SpecificCharacterSet"),
    *("Modality", "BodyPartExamined", "PatientAge", "PatientOrientation"),
    *("PresentationIntentType", "FieldOfViewHorizontalFlip", "FieldOfViewRotation"),
    *("SOPClassUID", "SOPInstanceUID", "PresentationLUTShape", "Manufacturer"),
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
        _position,
        _own,
    )
    return tuple(text for check in checks if (text := check(header)))


def unusable_by_header(header: pydicom.Dataset | Mapping[str, str]) -> tuple[str, ...]:
    """Those of `header_warnings` for which a film is unusable.

    The header names a modality or a part of the body that shows no whole lungs, or a view that is
    not frontal, or says that the kit made the file. A word that no standard knows is a warning.

    Args:
        header: See `read_header`; or `Image.tags`.
    """
    found = []
    if _text(header, "Modality") in OTHER_MODALITIES:
        found.append(_modality(header))
    words = re.findall(r"[A-Z]+", _text(header, "BodyPartExamined"))
    singular = [word.removesuffix("S") for word in words]
    if not OTHER_PARTS.isdisjoint((*words, *singular)):
        found.append(_body_part(header))
    orientation = _orientation(header)
    if orientation.endswith(NO_FRONTAL):
        found.append(orientation)
    if _text(header, "ViewPosition") in OBLIQUE:
        found.append(_position(header))
    found.append(_own(header))
    return tuple(text for text in found if text)


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


def _text(header: pydicom.Dataset | Mapping[str, Any], keyword: str) -> str:
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


def _modality(header: pydicom.Dataset | Mapping[str, Any]) -> str:
    modality = _text(header, "Modality")
    if not modality or modality in RADIOGRAPHY:
        return ""
    return f"the file says Modality {modality}: no radiograph"


def _body_part(header: pydicom.Dataset | Mapping[str, Any]) -> str:
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


NO_FRONTAL = ": no frontal film"


def _orientation(header: pydicom.Dataset | Mapping[str, Any]) -> str:
    """Rows must run to the patient's left, columns to the feet."""
    value = header.get("PatientOrientation")
    if isinstance(value, str):  # of `Image.tags`
        value = value.split("\\")
    if not value or len(value) != 2:
        return ""
    row, column = (str(one).strip().upper() for one in value)
    if not row or not column or (row[0] == "L" and column[0] == "F"):
        return ""
    shown = f"the file says PatientOrientation {row}\\{column}"
    if row[0] == "R" and column[0] == "F":
        return f"{shown}: flipped left to right"
    if {row[0], column[0]} & {"A", "P"}:
        return f"{shown}{NO_FRONTAL}"
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


def _position(header: pydicom.Dataset | Mapping[str, Any]) -> str:
    """A view that the standard knows is used, or warned of where the models are chosen."""
    text = _text(header, "ViewPosition")
    if not text or plain(text) in FRONTAL_OR_UNKNOWN or named_view(text) is not None:
        return ""
    what = "an oblique view" if text in OBLIQUE else "a view that the kit does not know"
    return f"the file says ViewPosition {text}: {what}"


def _own(header: pydicom.Dataset | Mapping[str, Any]) -> str:
    if _text(header, "Manufacturer") != MAKER.upper():
        return ""
    return "cxrkit predict made this file: no film"
