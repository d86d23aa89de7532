"""DICOM files of a prediction: secondary captures, a segmentation and a structured report.

Secondary captures (PS3.3 A.8) need pydicom alone. The segmentation (A.51) and the report (TID 1500
of PS3.16) are made by highdicom. Without `header` nothing of the input's patient or study stands in
them: names are empty, and all UIDs follow from the content of the film and the models.

H W image as it is stored, h w the overlay.
"""

from __future__ import annotations

import datetime
import importlib.util
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cxrkit import NOTICE, __version__
from cxrkit.config.vocabulary import DIAGNOSES, ZONES
from cxrkit.data import lung_zones
from cxrkit.inference.dicom_tags import MAKER
from cxrkit.inference.predictor import Prediction
from cxrkit.inference.search import MAP_MARK

if TYPE_CHECKING:
    import pydicom
    from highdicom.sr import (  # pyright: ignore[reportMissingImports]
        MeasurementsAndQualitativeEvaluations,
    )

PATIENT = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex")
STUDY = (
    *("StudyInstanceUID", "StudyDate", "StudyTime", "StudyID", "AccessionNumber"),
    *("ReferringPhysicianName", "StudyDescription"),
)
MODEL_NAME = "cxrkit predict"
SCHEME = "99CXRKIT"  # of codes that no public scheme has
SEVERITY_MEANING = "Likelihood of disease in a zone of the lungs, 0 to 1"
SUM_MEANING = "Sum of the likelihoods of six zones, 0 to 6"
NEEDS_HIGHDICOM = (
    "a DICOM segmentation and report need highdicom: pip install 'cxrkit[dicom-out]'; or ask for "
    "--dicom-out sc"
)


@dataclass(frozen=True)
class Maker:
    """What made a prediction, as DICOM files say it.

    Attributes:
        model: Name of the models (`files.model_name`).
        threshold: From where on the severity map shows a lesion.
    """

    model: str
    threshold: float


def missing() -> str:
    """What has to be installed before `dicom_files` can give all files; empty = nothing."""
    return "" if importlib.util.find_spec("highdicom") else NEEDS_HIGHDICOM


def dicom_files(
    prediction: Prediction,
    shown: np.ndarray,
    content: str,
    maker: Maker,
    header: pydicom.Dataset | None = None,
    everything: bool = True,
) -> dict[str, bytes]:
    """The DICOM files of a prediction.

    Args:
        prediction: With maps.
        shown: The film without marks, uint8 (H, W).
        content: Hash of the film's file.
        maker: See `Maker`.
        header: Of the film's DICOM file, whose patient and study are kept; None = anonymous.
        everything: Also the segmentation and the report.

    Returns:
        Content by kind: `overlay`, a picture to look at; without `header` also `image`, the film
        that the others refer to; `seg`, the lungs and what the severity map calls a lesion; `sr`,
        the six zones, their sum and the probabilities.
    """
    made = {}
    names = _patient_and_study(header, content, maker)
    if header is None:
        source = _secondary_capture(names, shown, "image", 1, "Film as the models were given it")
        made["image"] = source
    else:
        source = header
    overlay = _secondary_capture(names, prediction.overlay, "overlay", 2, "Severity map and zones")
    made["overlay"] = overlay
    if everything:
        source = _as_source(source, names, prediction.maps["lungs"].shape)
        made["seg"] = _segmentation(prediction, source, names, maker)
        made["sr"] = _report(prediction, source, names, maker)
    return {kind: _bytes(dataset) for kind, dataset in made.items()}


def _patient_and_study(
    header: pydicom.Dataset | None, content: str, maker: Maker
) -> dict[str, Any]:
    """Values of PATIENT and STUDY, and what UIDs are made of."""
    found: dict[str, Any] = dict.fromkeys((*PATIENT, *STUDY), "")
    if header is not None:
        found |= {name: header.get(name) or "" for name in found}
    found["seed"] = (content, maker.model, __version__)
    found["StudyInstanceUID"] = found["StudyInstanceUID"] or _uid(found, "study")
    return found


def _uid(names: Mapping[str, Any], kind: str) -> str:
    """A UID that follows from the film, the models and `kind`."""
    from pydicom.uid import generate_uid

    return str(generate_uid(entropy_srcs=[*names["seed"], kind]))


def _secondary_capture(
    names: Mapping[str, Any], pixels: np.ndarray | None, kind: str, number: int, description: str
) -> pydicom.Dataset:
    """A picture, uint8 (h, w) or (h, w, 3), as Secondary Capture Image Storage."""
    import pydicom
    from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage

    assert pixels is not None
    dataset = pydicom.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = _uid(names, kind)
    for name in (*PATIENT, *STUDY):
        setattr(dataset, name, names[name])
    if not names["StudyDescription"]:
        del dataset.StudyDescription
    now = datetime.datetime.now()
    dataset.ContentDate, dataset.ContentTime = f"{now:%Y%m%d}", f"{now:%H%M%S}"
    dataset.Modality, dataset.ConversionType = "OT", "WSD"
    dataset.Manufacturer, dataset.ManufacturerModelName = MAKER, MODEL_NAME
    dataset.SoftwareVersions = __version__
    dataset.SeriesInstanceUID = _uid(names, f"series {kind}")
    dataset.SeriesNumber, dataset.InstanceNumber = 9000 + number, 1
    dataset.SeriesDescription, dataset.ImageComments = description, NOTICE
    dataset.ImageType, dataset.PatientOrientation = ["DERIVED", "SECONDARY"], ["L", "F"]
    dataset.BodyPartExamined = "CHEST"  # which is not paired: no Laterality
    dataset.Rows, dataset.Columns = pixels.shape[:2]
    dataset.SamplesPerPixel = 3 if pixels.ndim == 3 else 1
    dataset.PhotometricInterpretation = "RGB" if pixels.ndim == 3 else "MONOCHROME2"
    if pixels.ndim == 3:
        dataset.PlanarConfiguration = 0
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelRepresentation = 7, 0
    raw = np.ascontiguousarray(pixels, np.uint8).tobytes()
    dataset.add_new("PixelData", "OB", raw + b"\0" * (len(raw) % 2))
    return dataset


def _as_source(
    source: pydicom.Dataset, names: Mapping[str, Any], shape: tuple[int, ...]
) -> pydicom.Dataset:
    """What the segmentation and the report refer to: ids and size alone."""
    import pydicom

    found = pydicom.Dataset()
    for name in (*PATIENT, *STUDY):
        setattr(found, name, names[name])
    for name in ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID"):
        setattr(found, name, source.get(name) or _uid(names, f"of the input: {name}"))
    found.Modality = source.get("Modality") or "OT"
    found.Rows, found.Columns = shape
    for name in ("ImagerPixelSpacing", "PixelSpacing", "PatientOrientation"):
        if source.get(name):
            setattr(found, name, source.get(name))
    return found


def _segmentation(
    prediction: Prediction, source: pydicom.Dataset, names: Mapping[str, Any], maker: Maker
) -> pydicom.Dataset:
    """Right lung, left lung, and where the severity map reaches its threshold; binary."""
    import highdicom  # pyright: ignore[reportMissingImports]
    from highdicom import seg, sr  # pyright: ignore[reportMissingImports]
    from pydicom.sr.codedict import codes

    right, left = lung_zones.sides(prediction.maps["lungs"])
    lesion = prediction.maps["severity"] >= maker.threshold
    algorithm = highdicom.AlgorithmIdentificationSequence(
        name=MODEL_NAME, family=codes.cid7162.ArtificialIntelligence, version=__version__
    )
    anatomy, altered = (
        codes.SCT.AnatomicalStructure,
        codes.SCT.MorphologicallyAbnormalStructure,
    )
    segments = {
        "Right lung": (right, anatomy, sr.CodedConcept("3341006", "SCT", "Right lung"), None),
        "Left lung": (left, anatomy, sr.CodedConcept("44029006", "SCT", "Left lung"), None),
        f"Severity map from {maker.threshold:.2f}": (
            lesion,
            altered,
            codes.SCT.Lesion,
            [codes.SCT.Lung],
        ),
    }
    descriptions = [
        seg.SegmentDescription(
            segment_number=number,
            segment_label=label,
            segmented_property_category=category,
            segmented_property_type=kind,
            algorithm_type=seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=algorithm,
            anatomic_regions=regions,
        )
        for number, (label, (_, category, kind, regions)) in enumerate(segments.items(), 1)
    ]
    masks = np.stack([mask for mask, *_ in segments.values()], axis=-1)[None]  # (1, H, W, 3)
    made = seg.Segmentation(
        source_images=[source],
        pixel_array=masks.astype(np.uint8),
        segmentation_type=seg.SegmentationTypeValues.BINARY,
        segment_descriptions=descriptions,
        series_instance_uid=_uid(names, "series seg"),
        series_number=9003,
        sop_instance_uid=_uid(names, "seg"),
        instance_number=1,
        manufacturer=MAKER,
        manufacturer_model_name=MODEL_NAME,
        software_versions=__version__,
        device_serial_number=maker.model,
        content_description="Lungs and severity map",
        content_label="CXRKIT",
        omit_empty_frames=False,
        series_description="Lungs and severity map",
    )
    made.PatientOrientation = source.get("PatientOrientation") or ""  # unknown: empty, not absent
    return made


def _measurements(
    prediction: Prediction, source: pydicom.Dataset, names: Mapping[str, Any], maker: Maker
) -> list[MeasurementsAndQualitativeEvaluations]:
    """The six zones, their sum, and the probabilities of the diagnoses."""
    from highdicom import sr  # pyright: ignore[reportMissingImports]
    from pydicom.sr.codedict import codes

    sides = {"r": codes.SCT.Right, "l": codes.SCT.Left}
    heights = {
        "u": codes.SCT.UpperZoneOfLung,
        "m": codes.SCT.MiddleZoneOfLung,
        "l": codes.SCT.LowerZoneOfLung,
    }
    algorithm = sr.AlgorithmIdentification(MODEL_NAME, __version__, parameters=[maker.model])
    unit = codes.UCUM.NoUnits
    image = sr.SourceImageForMeasurementGroup(source.SOPClassUID, source.SOPInstanceUID)

    def group(
        name: str, values: list[tuple[sr.CodedConcept, float]], site: sr.FindingSite
    ) -> sr.MeasurementsAndQualitativeEvaluations:
        tracking = sr.TrackingIdentifier(_uid(names, f"tracking {name}"), name)
        return sr.MeasurementsAndQualitativeEvaluations(
            tracking_identifier=tracking,
            algorithm_id=algorithm,
            finding_sites=[site],
            measurements=[sr.Measurement(code, value, unit) for code, value in values],
            source_images=[image],
        )

    zone = sr.CodedConcept("zone-severity", SCHEME, SEVERITY_MEANING)
    numbers = [*prediction.array[:, 0], *prediction.array[:, 1]]  # in the order of ZONES
    groups = []
    for name, value in zip(ZONES, numbers, strict=True):  # such as "rul": right, upper
        site = sr.FindingSite(heights[name[1]], sides[name[0]])
        groups.append(group(name, [(zone, round(float(value), 4))], site))
    both = sr.FindingSite(codes.SCT.Lung, codes.SCT.Bilateral)
    total = sr.CodedConcept("severity", SCHEME, SUM_MEANING)
    groups.append(group("severity", [(total, round(float(prediction.severity), 4))], both))
    classes = [
        (sr.CodedConcept(f"p-{name}", SCHEME, f"Probability of {name}"), prediction.probs[name])
        for name in DIAGNOSES
    ]
    rounded = [(code, round(float(value), 4)) for code, value in classes]
    groups.append(group("diagnosis", rounded, both))
    return groups


def _report(
    prediction: Prediction, source: pydicom.Dataset, names: Mapping[str, Any], maker: Maker
) -> pydicom.Dataset:
    """A report by TID 1500, neither final nor verified: nobody looked at it."""
    from highdicom import sr  # pyright: ignore[reportMissingImports]
    from pydicom.sr.codedict import codes

    device = sr.DeviceObserverIdentifyingAttributes(
        uid=_uid(names, "device"), name=MODEL_NAME, manufacturer_name=MAKER, model_name=maker.model
    )
    context = sr.ObservationContext(
        observer_device_context=sr.ObserverContext(codes.DCM.Device, device)
    )
    content = sr.MeasurementReport(
        observation_context=context,
        procedure_reported=sr.CodedConcept("399208008", "SCT", "Plain chest X-ray"),
        imaging_measurements=_measurements(prediction, source, names, maker),
        title=codes.DCM.ImagingMeasurementReport,
        referenced_images=[source] if _is_described(source) else None,
    )
    return sr.ComprehensiveSR(
        evidence=[source],
        content=content[0],
        series_instance_uid=_uid(names, "series sr"),
        series_number=9004,
        sop_instance_uid=_uid(names, "sr"),
        instance_number=1,
        manufacturer=MAKER,
        is_complete=True,
        is_final=False,
        is_verified=False,
        series_description="Severity of six zones (research only)",
    )


def _is_described(source: pydicom.Dataset) -> bool:
    """Whether an image has what TID 1603 says of a radiograph; a secondary capture needs nothing.

    An image without it is referred to by each measurement alone.
    """
    from pydicom.uid import SecondaryCaptureImageStorage

    if source.SOPClassUID == SecondaryCaptureImageStorage:
        return True
    return "PatientOrientation" in source and "ImagerPixelSpacing" in source


def _bytes(dataset: pydicom.Dataset) -> bytes:
    """A file whose unused preamble says that the kit made it."""
    dataset.preamble = MAP_MARK.ljust(128, b"\0")
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()
