"""What a DICOM header says against a prediction."""

from dataclasses import replace

import numpy as np
import pytest
from pydicom import Dataset

from cxrkit.config import profiles
from cxrkit.inference import dicom_tags, predictor
from tests.data.test_datasets import dicom

PIXELS = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64)


@pytest.mark.parametrize(
    "tags, words",
    [
        ({}, None),
        ({"Modality": "DX", "BodyPartExamined": "PORT CHEST", "PatientAge": "064Y"}, None),
        ({"Modality": "CT"}, "Modality CT"),
        ({"BodyPartExamined": "HAND"}, "BodyPartExamined HAND"),
        ({"PatientAge": "017Y"}, "017Y"),
        ({"PatientAge": "018Y"}, None),
        ({"PatientAge": "011M"}, "children"),
        ({"PatientOrientation": ["L", "F"]}, None),
        ({"PatientOrientation": ["R", "F"]}, "flipped left to right"),
        ({"PatientOrientation": ["A", "F"]}, "no frontal film"),
        ({"PatientOrientation": ["H", "L"]}, "not upright"),
        ({"PresentationIntentType": "FOR PROCESSING"}, "FOR PROCESSING"),
        ({"PresentationIntentType": "FOR PRESENTATION"}, None),
        ({"FieldOfViewHorizontalFlip": "YES"}, "which side is left"),
        ({"FieldOfViewHorizontalFlip": "NO", "FieldOfViewRotation": "0"}, None),
        ({"FieldOfViewRotation": "90"}, "upright"),
    ],
)
def test_what_a_header_says_against_a_chest_film(tags, words):
    header = Dataset()
    for keyword, value in tags.items():
        setattr(header, keyword, value)
    found = dicom_tags.header_warnings(header)
    assert (words is None and not found) or (len(found) == 1 and words in found[0])


def test_ages_of_dicom():
    ages = {"064Y": 64, "18M": 1.5, "052W": 52 * 7 / 365.25, "005D": 5 / 365.25, "40": 40}
    for text, years in ages.items():
        assert dicom_tags.age_in_years(text) == pytest.approx(years)
    assert dicom_tags.age_in_years("") is dicom_tags.age_in_years("old") is None


def test_unused_tags_are_named_without_their_values():
    header = Dataset()
    header.KVP, header.PatientName, header.Modality = "120", "A^B", "CR"
    header.StudyDescription, header.BitsStored = "", 12
    assert dicom_tags.unused_tags(header) == ["KVP"]


def test_every_image_of_a_folder_has_the_warning_of_identifiers(tmp_path):
    """In whatever order they are read: each row stands for itself."""
    for name in ("a.dcm", "b.dcm"):
        dicom(tmp_path / name, PIXELS, PatientName="A^B", Modality="CT")
    for name in ("b.dcm", "a.dcm", "b.dcm"):
        _, notes = predictor.open_image(tmp_path / name)
        assert any("identifiers" in note for note in notes), name
        assert any("Modality CT" in note for note in notes), name
        assert "A^B" not in " ".join(notes)


def test_a_view_that_is_asked_for_against_the_tag_is_said(models):
    views, notes = predictor.choose_views(models, "PA", "AP")
    assert views == ["PA"] and len(notes) == 1 and "the file says view AP" in notes[0]
    views, notes = predictor.choose_views(models, "PA", "L")
    assert views == ["PA"] and any("frontal" in note for note in notes)
    assert predictor.choose_views(models, "PA", "PA") == (["PA"], ())
    assert predictor.choose_views(models, "PA", None) == (["PA"], ())


@pytest.mark.parametrize(
    "probs, score, warned",
    [
        ((0.9, 0.05, 0.05), 5.0, True),
        ((0.1, 0.8, 0.1), 3.1, True),
        ((0.9, 0.05, 0.05), 1.0, False),
        ((0.1, 0.1, 0.8), 5.0, False),
    ],
)
def test_a_severity_that_the_diagnosis_contradicts_is_said(probs, score, warned):
    profile = profiles.demo()
    notes = predictor.severity_notes(np.array(probs), score, profile)
    assert bool(notes) == warned
    assert not warned or ("contradicts" in notes[0] and "and normal ones" in notes[0])
    left_out = replace(profile, severity=replace(profile.severity, healthy="left_out"))
    alone = predictor.severity_notes(np.array(probs), score, left_out)
    assert not warned or alone[0].endswith("COVID-19 alone")
