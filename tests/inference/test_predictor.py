"""One image in, everything out: against the path that training and evaluation take."""

from dataclasses import replace
from functools import partial

import cv2
import numpy as np
import pandas as pd
import pytest
import torch

from cxrkit.config.choices import Choices
from cxrkit.config.vocabulary import DIAGNOSES, ZONES
from cxrkit.data import masked_images, preprocessing
from cxrkit.inference import novelty, predictor, quality
from cxrkit.storage.artifacts import Store
from cxrkit.tasks import diagnosis, severity
from cxrkit.tasks.diagnosis import DiagnosisTask
from cxrkit.tasks.segmentation import SegmentationTask
from cxrkit.tasks.severity import SeverityTask
from tests.data.test_datasets import dicom
from tests.fakes import radiograph_files
from tests.fakes.small_models import SIZE, small_profile
from tests.inference.test_quality import needs_quality_model

# the random segmenter of these tests finds no lungs, for which an image is unusable
predict = partial(predictor.predict, even_unusable=True)


def grey(path):
    return cv2.imread(path, cv2.IMREAD_GRAYSCALE)


def with_masks(images, folder):
    return images.assign(lung_mask=[f"{folder / 'masks.npy'}#{i}" for i in range(len(images))])


# the same path as in training


def test_an_image_is_treated_as_in_training_and_evaluation(models, images, tmp_path):
    """The tasks go through the image cache and batches; `predict` through one image."""
    store, own = Store(tmp_path), small_profile()
    networks = {name: part.network for name, part in models.parts.items()}
    segmentation = SegmentationTask(own, store)
    masks = segmentation.segment(networks["segmenter"], images)
    assert 0.02 < masks.mean() < 0.98, "random networks must find something to compare"
    lungs = severity.segmented_lungs(segmentation, networks["segmenter"], images, own)
    np.save(tmp_path / "masks.npy", lungs)
    scored = SeverityTask(own, store).predict(networks["severity"], with_masks(images, tmp_path))
    for view in ("PA", "AP"):
        table = DiagnosisTask(own, store).predict(networks[f"diagnosis_{view.lower()}"], images)
        want = table[diagnosis.PROBABILITIES].to_numpy()
        assert np.ptp(want, axis=0).max() > 1e-3, "all images alike: nothing is compared"
        got = [predict(path, models, view, maps=False) for path in images["path"]]
        np.testing.assert_allclose([list(one.probs.values()) for one in got], want, atol=1e-5)
    rows = pd.DataFrame([one.row("") for one in got])
    np.testing.assert_allclose(rows[list(ZONES)], scored[severity.PREDICTED], atol=1e-5)
    np.testing.assert_allclose(rows["severity"], scored["score"], atol=1e-5)


def framed_files(images, folder, framing):
    """The images as the training frames them."""
    if framing == "lungs":
        masked_images.blacken(folder, images)
        return images.assign(path=[str(folder / f"{i}.png") for i in range(len(images))])
    names = masked_images.crop_images(folder, images)
    return images.assign(path=[str(folder / name) for name in names["path"]])


@pytest.mark.parametrize("framing", ["crop", "lungs"])
def test_a_model_that_sees_a_part_of_the_film_is_shown_nothing_else(
    models, images, tmp_path, framing
):
    """The files of the training on the segmenter's masks, against `predict`, which segments."""
    part, store = models.parts["diagnosis_pa"], Store(tmp_path)
    segmenter = models.parts["segmenter"].network
    segmentation = SegmentationTask(small_profile(), store)
    lungs = severity.segmented_lungs(segmentation, segmenter, images, small_profile())
    np.save(tmp_path / "masks.npy", lungs)
    (tmp_path / "framed").mkdir()
    framed = framed_files(with_masks(images, tmp_path), tmp_path / "framed", framing)
    table = DiagnosisTask(small_profile(), store).predict(part.network, framed)
    want = table[diagnosis.PROBABILITIES].to_numpy()
    sources = replace(part.profile.sources, framing=framing)
    own = replace(part, profile=replace(part.profile, sources=sources))
    blind = replace(models, parts={**models.parts, "diagnosis_pa": own})

    def probabilities(which):
        found = [predict(path, which, "PA", maps=False) for path in images["path"]]
        return np.array([list(one.probs.values()) for one in found])

    np.testing.assert_allclose(probabilities(blind), want, atol=1e-5)
    assert np.abs(want - probabilities(models)).max() > 1e-3


def test_maps_of_a_crop_lie_where_the_crop_lay():
    """Lungs in rows 40 to 79 and columns 20 to 139 of 100 x 150: margins of 3 and 10 px."""
    profile = small_profile()
    profile = replace(profile, sources=replace(profile.sources, framing="crop"))
    mask = np.zeros((100, 150), bool)
    mask[40:80, 20:140] = True
    placed = predictor.place_maps(np.ones((3, 4, 4), np.float32), (100, 150), mask, profile)
    expected = np.zeros((100, 150), np.float32)
    expected[37:83, 10:150] = 1
    np.testing.assert_allclose(placed, np.stack([expected] * 3), atol=1e-6)


@pytest.mark.parametrize("resize", ["plain", "pad"])
def test_a_place_in_the_image_is_the_same_place_in_its_maps(resize):
    """A disc in an image that is not square, through the model's square and back."""
    image = np.zeros((150, 220), np.uint8)
    cv2.circle(image, (170, 40), 12, 255, -1)
    own = replace(small_profile(), choices=Choices(resize=resize))
    square = preprocessing.resize(image, SIZE, resize)
    back = predictor.to_image_size(np.float32(square), image.shape, own)
    assert back.shape == image.shape
    assert np.unravel_index(back.argmax(), back.shape) == pytest.approx((40, 170), abs=8)


def test_maps_have_the_size_of_the_image_and_keep_to_the_lungs(models, images):
    found = predict(images["path"][1], models, "PA")
    assert set(found.maps) == {"lungs", "severity", *(f"saliency_{name}" for name in DIAGNOSES)}
    assert {values.shape for values in found.maps.values()} == {(108, 128)}
    assert (found.maps["severity"][~found.maps["lungs"]] == 0).all()
    assert 0 < found.maps["severity"].max() <= 1
    heat = np.stack([found.maps[f"saliency_{name}"] for name in DIAGNOSES])
    assert heat.min() >= 0 and heat.max() == pytest.approx(1), "one scale for the three classes"


def test_the_maps_are_made_by_the_method_that_was_asked_for(models, images):
    def saliency(**options):
        found = predict(images["path"][1], models, "PA", **options)
        return np.stack([found.maps[f"saliency_{name}"] for name in DIAGNOSES])

    default, attnlrp = saliency(), saliency(map_method="attnlrp")
    np.testing.assert_allclose(default, attnlrp)
    assert np.abs(saliency(map_method="relevance") - attnlrp).max() > 0.01
    with pytest.raises(ValueError, match="unknown map method 'magic'; known: .*attnlrp"):
        saliency(map_method="magic")


def test_arrays_work_as_paths_do(models, images):
    pixels = grey(images["path"][0])
    a, b = predict(pixels, models), predict(images["path"][0], models)
    assert a.probs == b.probs and a.severity == b.severity and a.warnings == b.warnings
    # min-max scaled before equalising: nearly the same image
    sixteen = predict(pixels.astype(np.uint16) * 200, models)
    assert sixteen.probs == pytest.approx(a.probs, abs=0.05)


# device


def test_the_device_is_the_one_asked_for_else_the_fastest(models, images, monkeypatch):
    asked = []
    monkeypatch.setattr(type(models), "to", lambda self, device: asked.append(str(device)))
    monkeypatch.setattr(predictor, "pick_device", lambda: torch.device("cpu"))
    predict(images["path"][0], models, "PA", maps=False, device="cpu")
    monkeypatch.setattr(predictor, "pick_device", lambda: torch.device("meta"))
    predict(images["path"][0], models, "PA", maps=False)
    assert asked == ["cpu", "meta"]


def test_models_move_to_a_device_with_all_their_networks(models):
    copies = {
        name: replace(part, network=torch.nn.Linear(2, 2)) for name, part in models.parts.items()
    }
    quality_control = replace(models.quality, network=torch.nn.Linear(2, 2))
    moved = replace(models, parts=copies, quality=quality_control).to("meta")
    networks = [part.network for part in moved.parts.values()] + [moved.quality.network]
    assert {network.weight.device.type for network in networks} == {"meta"}


# views


def test_the_view_asked_for_then_the_tag_then_both(models, images, tmp_path):
    pixels = grey(images["path"][0]).astype(np.uint16) * 16
    tagged = dicom(tmp_path / "a.dcm", pixels, ViewPosition="AP")
    only = {view: predict(tagged, models, view, maps=False) for view in ("PA", "AP")}
    assert only["PA"].probs != only["AP"].probs
    assert predict(tagged, models, maps=False).probs == only["AP"].probs
    blank = predict(dicom(tmp_path / "b.dcm", pixels), models, maps=False)
    assert blank.view == "PA+AP" and "view unknown: mean of the PA and AP models" in blank.warnings
    mean = {name: (only["PA"].probs[name] + only["AP"].probs[name]) / 2 for name in DIAGNOSES}
    assert blank.probs == pytest.approx(mean)
    lateral = dicom(tmp_path / "c.dcm", pixels, ViewPosition="LL")
    side = predict(lateral, models, maps=False)
    assert any("the file says view LL" in text for text in side.warnings) and side.view == "PA+AP"


def test_one_model_of_both_views_says_so_whatever_the_film_is(models, images, tmp_path):
    joint = replace(models, parts=models.parts | {"diagnosis_ap": models.parts["diagnosis_pa"]})
    pixels = grey(images["path"][0]).astype(np.uint16) * 16
    for tags in ({}, {"ViewPosition": "PA"}, {"ViewPosition": "AP"}):
        found = predict(dicom(tmp_path / "film.dcm", pixels, **tags), joint, maps=False)
        assert found.view == "PA+AP"
        assert not any("view" in text for text in found.warnings)


def test_a_view_without_a_model_is_a_warning(models):
    parts = {name: part for name, part in models.parts.items() if name != "diagnosis_ap"}
    one = replace(models, parts=parts)
    assert predictor.choose_views(one, "AP", None) == (
        ["PA"],
        ("no model of AP films: the PA model was used",),
    )
    assert predictor.choose_views(one, None, None) == (
        ["PA"],
        ("view unknown: the PA model was used",),
    )
    with pytest.raises(ValueError, match="unknown view 'lateral'; known: .'AP', 'PA'."):
        predict(np.zeros((64, 64), np.uint8), models, "lateral")


# warnings


def test_identifiers_are_warned_of_and_not_repeated(images, models, tmp_path):
    pixels = grey(images["path"][0]).astype(np.uint16) * 16
    named = dicom(tmp_path / "a.dcm", pixels, PatientName="Doe^Jane")
    found = predict(named, models, "PA", maps=False)
    assert any("patient identifiers (PatientName)" in text for text in found.warnings)
    assert "Doe" not in " ".join(found.warnings)


@needs_quality_model
def test_an_image_without_faults_is_asked_for_its_lungs(models, images, monkeypatch):
    """The whole way through `predict`, with a quality model that never objects.

    The random segmenter finds no lungs, and the warning says so.
    """
    never = dict.fromkeys(quality.FAULTS, 2.0)
    lenient = replace(models, quality=replace(models.quality, thresholds=never))
    path = images["path"][0]
    mask, probs = predictor.segment_lungs(grey(path), models.parts["segmenter"])
    want = quality.lungs_missing(mask, grey(path), probs)
    assert want and want[0] in predict(path, lenient, "PA", maps=False).warnings
    monkeypatch.setattr(quality, "lungs_missing", lambda *of: [])
    found = predict(path, lenient, "PA", maps=False).warnings
    assert not any("lungs not found" in text for text in found)


# containers


@pytest.mark.parametrize(
    "syntax, photometric, change",
    [
        (None, "MONOCHROME1", 0.0),
        (None, "MONOCHROME2", 0.0),
        ("JPEGLosslessProcess14_1", "MONOCHROME2", 0.0),
        ("JPEGLosslessProcess14_1", "MONOCHROME1", 0.0),
        ("JPEG2000Lossless", "MONOCHROME2", 0.0),
        ("JPEGLSLossless", "MONOCHROME2", 0.0),
        ("JPEGExtendedProcess2_4", "MONOCHROME2", 0.02),  # 12 bits, lossy
        ("JPEGExtendedProcess2_4", "MONOCHROME1", 0.02),
    ],
)
def test_a_film_of_12_bits_has_one_answer_however_it_is_stored(
    models, images, tmp_path, syntax, photometric, change
):
    """PresentationLUTShape INVERSE stands beside MONOCHROME1, or alone."""
    if syntax:
        pytest.importorskip("gdcm", reason="needs the extra: pip install 'cxrkit[dicom]'")
    deep = cv2.GaussianBlur(grey(images["path"][0]).astype(np.uint16) * 16, (0, 0), 1)
    tags = {"ViewPosition": "PA", "BitsStored": 12, "HighBit": 11}
    want = predict(dicom(tmp_path / "plain.dcm", deep, **tags), models, maps=False)
    tags |= {"PhotometricInterpretation": photometric, "PresentationLUTShape": "INVERSE"}
    path = dicom(tmp_path / "inverse.dcm", 4095 - deep, **tags)
    if syntax:
        path = radiograph_files.compress(path, tmp_path / "packed.dcm", syntax)
    found = predict(path, models, maps=False)
    assert found.probs == pytest.approx(want.probs, abs=max(change, 1e-6))
    assert found.severity == pytest.approx(want.severity, abs=max(6 * change, 1e-6))
    assert not any("inverted" in text for text in set(found.warnings) - set(want.warnings))
    wrong = predict(dicom(tmp_path / "wrong.dcm", 4095 - deep, ViewPosition="PA"), models, "PA")
    assert abs(wrong.severity - want.severity) > 6 * change + 1e-3, "else nothing is compared"


# novelty


def test_novelty_is_that_of_the_features_that_the_model_sees(models, images):
    """Statistics of the film itself and copies beside it, against the corpus of the network."""
    path, part = images["path"][0], models.parts["diagnosis_pa"]
    assert np.isnan(predict(path, models, "PA", maps=False).novelty), "no statistics, no score"
    image = predictor.network_input(grey(path), part.profile)
    with torch.no_grad():
        features = part.network.corpus(image).mean(dim=(2, 3))[0].numpy()
    rng = np.random.default_rng(0)
    near, held_out = (features + rng.normal(0, 1e-3, (40, len(features))) for _ in range(2))
    for shift, low, high in ((0.0, 0.0, 0.05), (1.0, 1.0, 1.0)):
        known = novelty.statistics(near + shift, held_out + shift)
        own = replace(part, metrics={"novelty": known})
        found = predict(
            path, replace(models, parts={**models.parts, "diagnosis_pa": own}), "PA", maps=False
        )
        assert low <= found.novelty <= high
        assert any("not seen before" in text for text in found.warnings) == (shift > 0)


# calibration


def test_probabilities_are_those_of_logits_divided_by_the_temperature(models, images):
    path, part = images["path"][0], models.parts["diagnosis_pa"]
    raw = np.array(list(predict(path, models, "PA", maps=False).probs.values()))
    own = replace(part, metrics={"temperature": 2.0})
    softer = replace(models, parts={**models.parts, "diagnosis_pa": own})
    found = np.array(list(predict(path, softer, "PA", maps=False).probs.values()))
    np.testing.assert_allclose(found, np.sqrt(raw) / np.sqrt(raw).sum(), atol=1e-6)
