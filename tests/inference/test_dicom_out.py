"""DICOM files of a prediction: opened by pydicom, held against the tables of the standard."""

import io
import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from cxrkit import NOTICE, cli
from cxrkit.config.vocabulary import DIAGNOSES, ZONES
from cxrkit.inference import dicom_out, dicom_tags, files, predictor, search
from tests.data.test_datasets import dicom

pydicom = pytest.importorskip("pydicom", reason="needs the extra: pip install 'cxrkit[dicom]'")

H, W = 120, 100
MAKER = dicom_out.Maker("mini-0123", 0.5)
NAMED = {"PatientName": "Doe^Jane", "PatientID": "CASE-4711", "AccessionNumber": "ORDER-7731"}


def needs_highdicom():
    return pytest.importorskip("highdicom", reason="needs: pip install 'cxrkit[dicom-out]'")


def a_prediction():
    """Two lungs, the left one in the right half of the image, and a lesion in its upper corner."""
    lungs, severity = np.zeros((H, W), bool), np.zeros((H, W))
    lungs[20:100, 10:40] = lungs[20:100, 60:90] = True
    severity[20:40, 60:90] = 0.9
    return predictor.Prediction(
        probs=dict(zip(DIAGNOSES, (0.2, 0.3, 0.5), strict=True)),
        array=np.array([[0.01, 0.04], [0.02, 0.05], [0.03, 0.06]]),
        severity=0.21,
        view="PA",
        maps={"lungs": lungs, "severity": severity},
        warnings=(),
        overlay=np.arange(60 * 51 * 3, dtype=np.uint8).reshape(60, 51, 3),
    )


def datasets(everything=True, header=None):
    shown = np.tile(np.arange(W, dtype=np.uint8), (H, 1))
    made = dicom_out.dicom_files(a_prediction(), shown, "5a", MAKER, header, everything)
    return {kind: pydicom.dcmread(io.BytesIO(content)) for kind, content in made.items()}


def check_modules(dataset):
    """Every attribute that a mandatory module of its IOD requires (types 1 and 2).

    Two are left out, whose tables do not know a condition: what functional groups hold stands in
    the shared or in the single ones, and only an IMAGE among content items has a reference.
    """
    tables = pytest.importorskip("highdicom._standard_utils", reason="cxrkit[dicom-out]")
    iod = tables.get_sop_class_iod_map()[dataset.SOPClassUID]
    modules = [one["key"] for one in tables.get_iod_module_map()[iod] if one["usage"] == "M"]
    for module in modules:
        if not module.endswith(("functional-groups", "sr-document-content")):
            tables.check_required_attributes(dataset, module)
    return modules


@pytest.mark.skipif(not shutil.which("dciodvfy"), reason="needs dciodvfy of dicom3tools")
@pytest.mark.parametrize("kept", [False, True])
def test_another_validator_finds_no_error(tmp_path, kept):
    """dciodvfy knows the conditions that the tables of `check_modules` leave out."""
    needs_highdicom()
    header = None
    if kept:
        study = pydicom.uid.generate_uid()
        path = dicom(
            tmp_path / "a.dcm", np.ones((H, W), np.uint16), StudyInstanceUID=study, **NAMED
        )
        header = dicom_tags.read_header(path)
    for kind, dataset in datasets(header=header).items():
        file = tmp_path / f"{kind}.dcm"
        dataset.save_as(file)
        said = subprocess.run(["dciodvfy", file], capture_output=True, text=True, timeout=60)
        errors = [line for line in said.stderr.splitlines() if line.startswith(("Error", "Abort"))]
        assert not errors, (kind, errors)
        assert "SCImage" in said.stderr or kind in ("seg", "sr")  # it knew what it read


def test_secondary_captures_need_pydicom_alone(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "highdicom", None)
    made = datasets(everything=False)
    assert list(made) == ["image", "overlay"]
    overlay, image = made["overlay"], made["image"]
    np.testing.assert_array_equal(overlay.pixel_array, a_prediction().overlay)
    assert (image.pixel_array == np.arange(W)).all() and image.pixel_array.shape == (H, W)
    for dataset in made.values():
        assert dataset.SOPClassUID.name == "Secondary Capture Image Storage"
        assert dataset.ImageComments == NOTICE and dataset.ConversionType == "WSD"
        assert dicom_tags.unusable_by_header(dataset) == ("cxrkit predict made this file: no film",)


def test_the_required_attributes_of_the_standard_are_there():
    needs_highdicom()
    made = datasets()
    assert list(made) == ["image", "overlay", "seg", "sr"]
    modules = {kind: check_modules(dataset) for kind, dataset in made.items()}
    assert "sc-equipment" in modules["overlay"] and "segmentation-image" in modules["seg"]
    assert "sr-document-content" in modules["sr"]
    del made["overlay"].ConversionType
    with pytest.raises(AttributeError, match="ConversionType"):
        check_modules(made["overlay"])


def test_a_segmentation_gives_lungs_and_lesion_back_at_their_place():
    needs_highdicom()
    made = datasets()
    found = made["seg"]
    right, left, lesion = found.pixel_array.astype(bool)  # (3, H, W)
    lungs = a_prediction().maps["lungs"]
    assert (right == (lungs & (np.arange(W) < W // 2))).all() and right.any()
    assert (left == (lungs & (np.arange(W) >= W // 2))).all()
    assert (lesion == (a_prediction().maps["severity"] >= MAKER.threshold)).all()
    assert not (lesion & right).any()
    labels = [segment.SegmentLabel for segment in found.SegmentSequence]
    assert labels == ["Right lung", "Left lung", "Severity map from 0.50"]
    frame = found.PerFrameFunctionalGroupsSequence[0]
    source = frame.DerivationImageSequence[0].SourceImageSequence[0]
    assert source.ReferencedSOPInstanceUID == made["image"].SOPInstanceUID
    assert found.StudyInstanceUID == made["image"].StudyInstanceUID


def test_a_report_gives_the_zones_back_by_their_codes():
    highdicom = needs_highdicom()
    made = datasets()
    report = highdicom.sr.ComprehensiveSR.from_dataset(made["sr"])
    assert report.CompletionFlag == "COMPLETE" and report.VerificationFlag == "UNVERIFIED"
    template = report.ContentTemplateSequence[0]
    assert (template.MappingResource, template.TemplateIdentifier) == ("DCMR", "1500")
    groups = {
        group.tracking_identifier: group for group in report.content.get_image_measurement_groups()
    }
    assert list(groups) == [*ZONES, "severity", "diagnosis"]
    array = a_prediction().array
    for name in ZONES:
        (measured,) = groups[name].get_measurements()
        row, column = "uml".index(name[1]), "rl".index(name[0])
        assert measured.value == pytest.approx(array[row, column]), name
        (site,) = groups[name].finding_sites
        height = {"u": "Upper", "m": "Middle", "l": "Lower"}[name[1]]
        assert (
            height in site.topographical_modifier.meaning
            if site.topographical_modifier
            else (height in site.value.meaning)
        )
        assert site.laterality.meaning == {"r": "Right", "l": "Left"}[name[0]]
    (total,) = groups["severity"].get_measurements()
    assert total.value == pytest.approx(0.21)
    assert [one.value for one in groups["diagnosis"].get_measurements()] == [0.2, 0.3, 0.5]


@pytest.mark.parametrize("full", [False, True])
def test_nothing_of_the_patient_is_kept_unless_it_is_asked_for(tmp_path, full):
    needs_highdicom()
    pixels = np.arange(H * W, dtype=np.uint16).reshape(H, W)
    study = pydicom.uid.generate_uid()
    described = {"PatientOrientation": ["L", "F"], "ImagerPixelSpacing": [0.2, 0.2]} if full else {}
    named = {**NAMED, **described}
    path = dicom(tmp_path / "a.dcm", pixels, StudyInstanceUID=study, Modality="DX", **named)
    header = dicom_tags.read_header(path)
    anonymous, kept = datasets(), datasets(header=header)
    for dataset in anonymous.values():
        text = str(dataset)
        assert not any(value in text for value in (*NAMED.values(), study, header.SOPInstanceUID))
        assert dataset.PatientName == "" and dataset.PatientID == ""
    assert list(kept) == ["overlay", "seg", "sr"], "they refer to the input itself"
    for dataset in kept.values():
        assert dataset.PatientID == "CASE-4711" and dataset.StudyInstanceUID == study
        check_modules(dataset)
    assert header.SOPInstanceUID in str(kept["seg"]) and header.SOPInstanceUID in str(kept["sr"])


def test_uids_follow_from_film_and_models():
    first, again = datasets(everything=False), datasets(everything=False)
    for kind in first:
        assert first[kind].SOPInstanceUID == again[kind].SOPInstanceUID
    assert first["image"].SOPInstanceUID != first["overlay"].SOPInstanceUID
    other = dicom_out.dicom_files(
        a_prediction(), np.zeros((H, W), np.uint8), "5b", MAKER, everything=False
    )
    other = pydicom.dcmread(io.BytesIO(other["image"]))
    assert other.StudyInstanceUID != first["image"].StudyInstanceUID


# the command


def call(*arguments):
    asked = ["predict", *map(str, arguments), "--even-unusable"]
    return CliRunner().invoke(cli.main, asked)


def test_the_command_writes_them_and_reads_none_of_them_as_a_film(images, weights, tmp_path):
    out, path = tmp_path / "out", images["path"][1]
    asked = (path, "--view", "PA", "--weights", weights, "--out", out, "--dicom-out", "sc")
    assert call(*asked).exit_code == 0
    row = pd.read_csv(out / "predictions.csv", dtype=str).iloc[0]
    assert row[["dicom_seg", "dicom_sr", "map_lungs", "html"]].isna().all()
    overlay = out / row["dicom_overlay"]
    assert pydicom.dcmread(overlay).pixel_array.ndim == 3
    assert pydicom.dcmread(out / row["dicom_image"]).pixel_array.shape == (108, 128)
    assert search.is_own_map(overlay) and search.find_images([out]).images == []
    assert "0 images predicted, 1 finished before" in call(*asked).output


def test_what_is_missing_is_said_before_the_first_film(images, weights, tmp_path, monkeypatch):
    monkeypatch.setattr(dicom_out, "missing", lambda: dicom_out.NEEDS_HIGHDICOM)
    out = tmp_path / "out"
    found = call(images["path"][0], "--weights", weights, "--out", out, "--dicom-out", "all")
    assert found.exit_code == 1 and "pip install 'cxrkit[dicom-out]'" in found.output
    assert not out.exists()
    with pytest.raises(ValueError, match="unknown choice of DICOM files 'sr'"):
        files.predict_files([], out, None, dicom_out="sr")
