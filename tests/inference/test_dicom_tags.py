"""What a DICOM header says against a prediction."""

from dataclasses import replace

import numpy as np
import pytest
from pydicom import Dataset

from cxrkit.config import profiles
from cxrkit.inference import dicom_tags, predictor, quality
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


@pytest.mark.parametrize(
    "tags, words",
    [
        ({"Modality": "DX", "BodyPartExamined": "CHEST", "ViewPosition": "PA"}, ""),
        ({"Modality": "CR", "BodyPartExamined": "PORT CHEST", "ViewPosition": "AP"}, ""),
        ({"Modality": "CT"}, "Modality CT: no radiograph"),
        ({"Modality": "MR"}, "Modality MR"),
        ({"Modality": "SEG"}, "Modality SEG"),
        ({"Modality": "RF"}, ""),  # a chest film may come from a fluoroscopy room
        ({"Modality": "XRAY"}, ""),  # no word of the standard
        ({"BodyPartExamined": "HAND"}, "BodyPartExamined HAND: no chest"),
        ({"BodyPartExamined": "LEFT ANKLES"}, "no chest"),
        ({"BodyPartExamined": "CSPINE"}, "no chest"),
        ({"BodyPartExamined": "CHEST_ABDOMEN"}, ""),
        ({"BodyPartExamined": "POUMON"}, ""),  # a word that the kit does not know
        ({"PatientOrientation": ["A", "F"]}, "no frontal film"),
        ({"PatientOrientation": "P\\F"}, "no frontal film"),
        ({"PatientOrientation": ["R", "F"]}, ""),
        ({"ViewPosition": "LAO"}, "an oblique view"),
        ({"ViewPosition": "FRONTAL"}, ""),
        ({"Manufacturer": "cxrkit"}, "cxrkit predict made this file"),
        ({"PatientAge": "004Y", "PresentationIntentType": "FOR PROCESSING"}, ""),
    ],
)
def test_which_words_of_a_header_make_a_film_unusable(tags, words):
    header = Dataset()
    for keyword, value in tags.items():
        setattr(header, keyword, value)
    for given in (header, tags):
        found = dicom_tags.unusable_by_header(given)
        assert (not words and not found) or (len(found) == 1 and words in found[0])
        assert set(found) <= set(dicom_tags.header_warnings(header))


def test_words_of_no_standard_are_warned_of():
    for tags in ({"Modality": "XRAY"}, {"BodyPartExamined": "POUMON"}, {"ViewPosition": "XYZ"}):
        header = Dataset()
        for keyword, value in tags.items():
            setattr(header, keyword, value)
        assert len(dicom_tags.header_warnings(header)) == 1


def test_a_lateral_film_and_a_ct_have_no_numbers_and_say_why(models, tmp_path, monkeypatch):
    """The pixels are left out of it: the quality control has nothing to say."""
    monkeypatch.setattr(quality.QualityControl, "check", lambda *of: quality.Checked([], []))
    rest = {"ViewPosition": "PA", "Modality": "DX"}
    made = {
        "sound": rest,
        "lateral": {**rest, "ViewPosition": "LL"},
        "ct": {**rest, "Modality": "CT"},
    }
    paths = {name: dicom(tmp_path / f"{name}.dcm", PIXELS, **tags) for name, tags in made.items()}
    found = {name: predictor.predict(path, models, maps=False) for name, path in paths.items()}
    assert found["sound"].usable and found["sound"].has_numbers and found["sound"].view == "PA"
    for name, words in (("lateral", "the file says view LL"), ("ct", "Modality CT")):
        assert not found[name].usable and not found[name].has_numbers
        assert np.isnan([*found[name].probs.values(), *found[name].array.ravel()]).all()
        assert words in found[name].unusable[0] and found[name].unusable[0] in found[name].warnings
        asked = predictor.predict(paths[name], models, maps=False, even_unusable=True)
        assert asked.has_numbers and asked.unusable == found[name].unusable
    opened, _ = predictor.open_image(paths["ct"])
    assert not predictor.predict(opened, models, maps=False).usable, "an Image has its tags too"
