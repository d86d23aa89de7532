"""One film in, everything out: against the path that training and testing take, hand-made files and
planted faults.
"""

import shutil
from dataclasses import replace

import cv2
import judge_lungs
import numpy as np
import pandas as pd
import pytest
import ship_weights
import torch
from click.testing import CliRunner

from cxrkit import NOTICE, cli
from cxrkit.config import profiles
from cxrkit.config.choices import Choices
from cxrkit.config.profiles import Segmenter
from cxrkit.config.vocabulary import COLUMNS, DIAGNOSES, ZONES
from cxrkit.data import images, masked_images, preprocessing
from cxrkit.inference import predictor, quality
from cxrkit.pipeline import dependencies
from cxrkit.simulation import hospital
from cxrkit.storage.artifacts import Store
from cxrkit.storage.atomic import read_json
from cxrkit.tasks import diagnosis, segmentation, severity
from cxrkit.training import checkpoint
from tests.data.test_datasets import dicom

SIZE = 64
needs_inspector = pytest.mark.skipif(
    not predictor.INSPECTOR.exists(),
    reason="no inspector.safetensors: run make inspector MIRROR=DIR",
)


needs_shipped = pytest.mark.skipif(
    not (predictor.SHIPPED / "research" / "segmenter.safetensors").exists(),
    reason="no shipped segmenter",
)


def profile(**changes):
    """Models that are quick to make."""
    return replace(
        profiles.demo(),
        image_size=SIZE,
        backbone=profiles.DenseNet(
            growth_rate=8, block_config=(2, 2, 2, 2), num_init_features=8, stem=1, stride=16
        ),
        segmenter=Segmenter(size=32, widths=(8, 8), residual=True),
        transformer=profiles.ViT(embed_dim=32, depth=2, num_heads=2),
        **changes,
    )


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Folder of random networks, shipped as `tools/ship_weights.py` does: in 16 bit, with profile
    and licence in the header.
    """
    folder = tmp_path_factory.mktemp("weights")
    for i, (stage, network) in enumerate(predictor.NETWORKS.items()):
        torch.manual_seed(i)
        state = {
            name: t + 0.1 * torch.randn_like(t)
            if t.is_floating_point() and "var" not in name
            else t
            for name, t in network(profile()).state_dict().items()
        }
        checkpoint.save_tensors(
            folder / f"{stage}.safetensors",
            ship_weights.rounded(state),
            profile=profile().to_dict(),
            licence="made-up",
        )
    return folder


@pytest.fixture(scope="module")
def models(weights):
    return predictor.load(profiles.mini(), weights=weights)


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """Four virtual films as PNG, two of them cut so that they are not square -> DataFrame as a
    stage sees it.
    """
    folder, paths = tmp_path_factory.mktemp("films"), []
    for i, site in enumerate(list(hospital.SITES)[:4]):
        image = hospital.Hospital(site, n=1, size=128)[0].image
        paths.append(str(folder / f"film{i}.png"))
        cv2.imwrite(paths[-1], image[: 128 - 20 * (i % 2)])
    return (
        pd.DataFrame({"path": paths})
        .reindex(columns=list(COLUMNS))
        .assign(external=False, split="test")
    )


# the same path as in training


def test_a_film_is_read_as_training_and_testing_read_it(models, films, tmp_path):
    """`diagnosis.predict`, `lungs.predict` and `quantification` go through the image cache and
    batches; `predict` through one film.
    """
    store, own, nets = (
        Store(tmp_path),
        profile(),
        {name: part.network for name, part in models.parts.items()},
    )
    masks = segmentation.predict(nets["segmenter"], films, own, store)
    assert 0.02 < masks.mean() < 0.98, "random networks must draw something, or nothing is compared"
    np.save(tmp_path / "masks.npy", severity.predicted_lungs(nets["segmenter"], films, own, store))
    scored = severity.predict(
        nets["severity"],
        films.assign(lung_mask=[f"{tmp_path / 'masks.npy'}#{i}" for i in range(len(films))]),
        own,
        store,
    )
    for view in ("PA", "AP"):
        want = diagnosis.predict(nets[f"diagnosis_{view.lower()}"], films, own, store)[
            diagnosis.PROBABILITIES
        ].to_numpy()
        assert np.ptp(want, axis=0).max() > 1e-3, "all films alike: nothing is compared"
        got = [predictor.predict(path, models, view, maps=False) for path in films["path"]]
        np.testing.assert_allclose([list(one.probs.values()) for one in got], want, atol=1e-5)
    rows = pd.DataFrame([one.row("") for one in got])
    np.testing.assert_allclose(rows[list(ZONES)], scored[severity.PREDICTED], atol=1e-5)
    np.testing.assert_allclose(rows["severity"], scored["score"], atol=1e-5)


def test_a_model_that_sees_nothing_but_lungs_is_shown_nothing_else(models, films, tmp_path):
    """`audit.blacken` on the masks of the segmenter, as in training, against `predict`, which draws
    them itself.
    """
    part, store = models.parts["diagnosis_pa"], Store(tmp_path)
    np.save(
        tmp_path / "masks.npy",
        severity.predicted_lungs(models.parts["segmenter"].network, films, profile(), store),
    )
    (tmp_path / "black").mkdir()
    masked_images.blacken(
        tmp_path / "black",
        films.assign(lung_mask=[f"{tmp_path / 'masks.npy'}#{i}" for i in range(len(films))]),
    )
    black = films.assign(path=[str(tmp_path / "black" / f"{i}.png") for i in range(len(films))])
    want = diagnosis.predict(part.network, black, profile(), store)[
        diagnosis.PROBABILITIES
    ].to_numpy()
    own = replace(
        part, profile=replace(part.profile, sources=replace(part.profile.sources, lungs_only=True))
    )
    blind = replace(models, parts={**models.parts, "diagnosis_pa": own})
    got = [
        list(predictor.predict(path, blind, "PA", maps=False).probs.values())
        for path in films["path"]
    ]
    np.testing.assert_allclose(got, want, atol=1e-5)
    assert (
        np.abs(
            want
            - [
                list(predictor.predict(path, models, "PA", maps=False).probs.values())
                for path in films["path"]
            ]
        ).max()
        > 1e-3
    )


@pytest.mark.parametrize("resize", ["plain", "pad"])
def test_a_place_in_the_film_is_the_same_place_in_its_maps(resize):
    """A disc in a film that is not square, through the model's square and back."""
    film = np.zeros((150, 220), np.uint8)
    cv2.circle(film, (170, 40), 12, 255, -1)
    own = replace(profile(), choices=Choices(resize=resize))
    square = preprocessing.resize(film, SIZE, resize)
    back = predictor.to_film(np.float32(square), film.shape, own)
    assert back.shape == film.shape
    assert np.unravel_index(back.argmax(), back.shape) == pytest.approx((40, 170), abs=8)


def test_maps_have_the_size_of_the_film_and_keep_to_the_lungs(models, films):
    found = predictor.predict(films["path"][1], models, "PA")
    assert set(found.maps) == {"lungs", "severity", *(f"saliency_{name}" for name in DIAGNOSES)}
    assert {values.shape for values in found.maps.values()} == {(108, 128)}
    assert (found.maps["severity"][~found.maps["lungs"]] == 0).all() and 0 < found.maps[
        "severity"
    ].max() <= 1
    heat = np.stack([found.maps[f"saliency_{name}"] for name in DIAGNOSES])
    assert heat.min() >= 0 and heat.max() == pytest.approx(1), "one scale for the three classes"


def test_arrays_work_as_paths_do(models, films):
    pixels = cv2.imread(films["path"][0], cv2.IMREAD_GRAYSCALE)
    a, b = predictor.predict(pixels, models), predictor.predict(films["path"][0], models)
    assert a.probs == b.probs and a.severity == b.severity and a.warnings == b.warnings
    # min-max scaled before equalising: nearly the same film
    sixteen = predictor.predict(pixels.astype(np.uint16) * 200, models)
    assert sixteen.probs == pytest.approx(a.probs, abs=0.05)


# views


def test_the_view_asked_for_then_the_tag_then_both(models, films, tmp_path):
    pixels = cv2.imread(films["path"][0], cv2.IMREAD_GRAYSCALE)
    tagged = dicom(tmp_path / "a.dcm", pixels.astype(np.uint16) * 16, ViewPosition="AP")
    only = {view: predictor.predict(tagged, models, view, maps=False) for view in ("PA", "AP")}
    assert only["PA"].probs != only["AP"].probs
    assert predictor.predict(tagged, models, maps=False).probs == only["AP"].probs
    blank = predictor.predict(
        dicom(tmp_path / "b.dcm", pixels.astype(np.uint16) * 16), models, maps=False
    )
    assert blank.view == "PA+AP" and "view unknown: mean of the PA and AP models" in blank.warnings
    assert blank.probs == pytest.approx(
        {k: (only["PA"].probs[k] + only["AP"].probs[k]) / 2 for k in DIAGNOSES}
    )
    side = predictor.predict(
        dicom(tmp_path / "c.dcm", pixels.astype(np.uint16) * 16, ViewPosition="LL"),
        models,
        maps=False,
    )
    assert any("the file says view LL" in text for text in side.warnings) and side.view == "PA+AP"


def test_a_view_without_a_model_is_said(models):
    one = replace(
        models, parts={name: part for name, part in models.parts.items() if name != "diagnosis_ap"}
    )
    assert predictor.views(one, "AP", None) == (
        ["PA"],
        ("no model of AP films: the PA model was used",),
    )
    assert predictor.views(one, None, None) == (["PA"], ("view unknown: the PA model was used",))
    with pytest.raises(ValueError, match="unknown view 'lateral'; known: .'AP', 'PA'."):
        predictor.predict(np.zeros((64, 64), np.uint8), models, "lateral")


# the command


@pytest.fixture(scope="module")
def folder(films, tmp_path_factory):
    """A folder with two films of one stem, a truncated JPEG, an empty file, a text file and a
    hidden one.
    """
    folder = tmp_path_factory.mktemp("in")
    (folder / "sub").mkdir()
    shutil.copy(films["path"][0], folder / "film.png")
    shutil.copy(films["path"][1], folder / "sub" / "film.png")
    cv2.imwrite(str(folder / "cut.jpg"), cv2.imread(films["path"][2]))
    (folder / "cut.jpg").write_bytes((folder / "cut.jpg").read_bytes()[:1500])
    (folder / "empty.dcm").write_bytes(b"")
    (folder / "notes.txt").write_text("not a film")
    (folder / ".hidden.png").write_bytes(b"no film")
    return folder


def call(*arguments):
    return CliRunner().invoke(cli.main, ["predict", *map(str, arguments)])


def test_a_broken_file_is_named_and_skipped_and_the_rest_is_read(folder, weights, tmp_path):
    result = call(folder, "--out", tmp_path / "out", "--weights", weights, "--maps")
    assert result.exit_code == 1 and NOTICE in result.output and "made-up" in result.output
    assert "Traceback" not in result.output and not isinstance(result.exception, ValueError)
    assert (
        result.output.count("skipped") == 2
        and "cut.jpg" in result.output
        and "empty.dcm: empty file" in result.output
    )
    table = pd.read_csv(tmp_path / "out" / "predictions.csv")
    assert list(table) == ["path", "p_normal", "p_other", "p_covid", "severity", *ZONES, "warnings"]
    assert list(table["path"]) == [str(folder / "film.png"), str(folder / "sub" / "film.png")]
    np.testing.assert_allclose(table[["p_normal", "p_other", "p_covid"]].sum(axis=1), 1, atol=2e-4)
    np.testing.assert_allclose(table[list(ZONES)].sum(axis=1), table["severity"], atol=4e-4)
    kinds = ("lungs", "severity", *(f"saliency_{name}" for name in DIAGNOSES))
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "predictions.csv",
        "about.txt",
        *(f"{stem}_{kind}.png" for stem in ("film", "film_2") for kind in kinds),
    }
    for stem, shape in (("film", (128, 128)), ("film_2", (108, 128))):
        assert {
            cv2.imread(str(tmp_path / "out" / f"{stem}_{kind}.png"), cv2.IMREAD_UNCHANGED).shape
            for kind in kinds
        } == {shape}
    about = (tmp_path / "out" / "about.txt").read_text()
    assert NOTICE in about and about in result.output
    assert (
        "Learnt from virtual patients alone, so expect these to fail on real films: diagnosis_pa, "
        "diagnosis_ap, seg" in about
    )


def test_all_read_is_0_and_nothing_to_read_is_1(films, weights, tmp_path):
    assert (
        call(
            films["path"][0], "--view", "PA", "--out", tmp_path / "a", "--weights", weights
        ).exit_code
        == 0
    )
    (tmp_path / "void").mkdir()
    result = call(tmp_path / "void", "--out", tmp_path / "b", "--weights", weights)
    assert result.exit_code == 1 and "no film in" in result.output
    result = call(tmp_path / "gone.png", "--out", tmp_path / "c", "--weights", weights)
    assert result.exit_code == 1 and "no such file" in result.output


def test_a_film_that_breaks_the_model_does_not_stop_the_others(
    films, models, tmp_path, monkeypatch
):
    right = predictor.predict
    monkeypatch.setattr(
        predictor,
        "predict",
        lambda path, *rest: 1 / 0 if path.stem == "film1" else right(path, *rest),
    )
    failures = predictor.run(films["path"][:3], tmp_path, models, "PA", progress=False)
    assert failures == [f"skipped {films['path'][1]}: ZeroDivisionError: division by zero"]
    assert len(pd.read_csv(tmp_path / "predictions.csv")) == 2


def test_names_of_maps_never_meet():
    paths = [predictor.Path(p) for p in ("a/x.png", "b/x.png", "c/x_2.png", "d/X.jpg")]
    assert predictor.stems(paths) == ["x", "x_2", "x_2_2", "X_3"]


def test_identifiers_are_warned_of_and_not_repeated(films, models, tmp_path):
    pixels = cv2.imread(films["path"][0], cv2.IMREAD_GRAYSCALE).astype(np.uint16)
    found = predictor.predict(
        dicom(tmp_path / "a.dcm", pixels * 16, PatientName="Doe^Jane"), models, "PA", maps=False
    )
    assert any(
        "patient identifiers (PatientName)" in text for text in found.warnings
    ) and "Doe" not in " ".join(found.warnings)


# weights


def test_weights_come_from_the_folder_then_the_store_then_the_kit(weights, tmp_path, monkeypatch):
    monkeypatch.setattr(predictor, "SHIPPED", tmp_path / "shipped")
    with pytest.raises(
        FileNotFoundError, match="no complete set of weights .* cxrkit reproduce --profile demo"
    ):
        predictor.load(profile(), Store(tmp_path / "empty"))
    (tmp_path / "shipped" / "open").mkdir(parents=True)
    for stage in predictor.NETWORKS:
        shutil.copy(weights / f"{stage}.safetensors", tmp_path / "shipped" / "open")
    assert predictor.load(profile(), Store(tmp_path / "empty")).origin == "shipped with the kit"
    store = Store(tmp_path / "full")
    for stage in predictor.NETWORKS:
        own = store.folder(stage, dependencies.settings(profile(), stage))
        own.mkdir(parents=True)
        shutil.copy(weights / f"{stage}.safetensors", own / "weights.safetensors")
    assert predictor.load(profile(), store).origin == "the store, profile demo"
    assert predictor.load(profile(), store, weights).origin == f"weights in {weights}"
    (tmp_path / "half").mkdir()
    with pytest.raises(FileNotFoundError, match="half"):
        predictor.load(profile(), store, tmp_path / "half")


def test_a_shipped_file_carries_its_profile(weights):
    part = predictor.read_part("severity", weights / "severity.safetensors", profiles.paper())
    assert part.profile == profile() and part.licence == "made-up"


def test_rounding_halves_matrices_alone(weights):
    tensors, _ = checkpoint.load_tensors(weights / "severity.safetensors")
    assert {t.dtype for t in tensors.values() if t.ndim > 1} == {torch.float16}
    assert torch.float16 not in {t.dtype for t in tensors.values() if t.ndim < 2}, (
        "a running variance may be too small for 16 bit"
    )


def cards():
    return sorted(predictor.SHIPPED.rglob("card.json"))


@pytest.mark.skipif(not cards(), reason="no weights are shipped yet: run make weights")
def test_shipped_weights_are_small_and_say_what_they_are():
    files = list(predictor.SHIPPED.rglob("*.safetensors"))
    assert (
        max(path.stat().st_size for path in files) <= 6e6
        and sum(path.stat().st_size for path in files) <= 20e6
    )
    for card in cards():
        for stage, says in read_json(card)["models"].items():
            path = card.parent / says["file"]
            assert ship_weights.hashlib.sha256(path.read_bytes()).hexdigest() == says["sha256"]
            assert says["rounding"]["largest_change"] <= 0.01 and says["rounding"]["films"] >= 16
            assert (set(says["films_of"]) <= ship_weights.OPEN) == (card.parent.name == "open"), (
                stage
            )
            assert says["groups_never_seen"] and says["metrics"] and says["recipe"]
        assert "Not a diagnostic device" in (card.parent / "LICENSE-NOTE.md").read_text()
    assert predictor.enough(predictor.in_folder(predictor.SHIPPED))


def test_what_a_stage_stands_on_taught_it_too():
    """Severity that starts from the virtual hospitals; a film of Cohen in any of them makes the
    weights research only.
    """
    own = replace(profiles.mini(), quantifier=replace(profiles.mini().quantifier, virtual=True))
    stood = {(stage, p.name) for stage, p in ship_weights.ancestry(own, "severity")}
    assert {
        ("severity", "mini"),
        ("severity", "demo"),
        ("backbone", "mini"),
        ("segmenter", "mini"),
        ("backbone", "demo"),
    } <= stood


# warnings


def test_a_film_smaller_than_the_input_is_too_small():
    assert quality.too_small((100, 300), 128) == [
        "too small: 300x100 px, the models look at 128x128"
    ]
    assert quality.too_small((128, 128), 128) == []


def lung_pair(left=True, scale=1.0):
    mask = np.zeros((64, 64), bool)
    mask[10:54, 6:28] = True
    if left:
        mask[10 : 10 + int(44 * scale), 36:58] = True
    return mask


@pytest.mark.parametrize(
    "mask, word",
    [
        (lung_pair(), None),
        (lung_pair(False), "only one"),
        (lung_pair(scale=0.1), "far smaller"),
        (np.zeros((64, 64), bool), "0% of the film"),
        (lung_pair() & (np.eye(64) > 0), "of the film"),
    ],
)
def test_lungs_are_a_pair(mask, word):
    found = quality.lungs_missing(mask)
    assert (word is None and not found) or word in found[0]


def test_doubt_agreement_and_contrast_by_hand():
    mask = np.zeros((128, 128), bool)
    mask[32:96, 32:64] = True  # 1/8 of the film
    assert (
        quality.doubt(mask.astype(float), mask) == 0
        and quality.doubt(np.full((8, 8), 0.5), mask) == 8
    )
    assert quality.doubt(np.full((8, 8), 0.9), mask) == pytest.approx(4 * 0.9 * 0.1 * 8)
    half = np.where(mask, 0.5, 0.0)
    assert quality.agreement(mask, mask) == 1 and quality.agreement(mask, ~mask) == 0
    assert quality.agreement(mask.astype(float), half) == pytest.approx(2 * 0.5 / 1.5)
    film = np.full((256, 256), 120, np.uint8)
    assert quality.contrast(film, mask) == 0.5, "ties count half"
    film[64:192, 64:128] = 60
    assert quality.contrast(film, mask) == 1 and quality.contrast(255 - film, mask) == 0
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (128, 128)).astype(np.uint8)
    rows, columns = np.mgrid[:128, :128]
    # px to the lung, its own way
    distance = np.maximum(np.maximum(32 - rows, rows - 95), np.maximum(32 - columns, columns - 63))
    ring = noise[(distance > 1) & (distance <= 6)].astype(int)
    pairs = ring[:, None] - noise[mask].astype(int)[None]
    assert quality.contrast(noise, mask) == pytest.approx(((pairs > 0) + 0.5 * (pairs == 0)).mean())
    assert np.isnan(quality.contrast(film, np.zeros((128, 128), bool)))


@pytest.mark.parametrize(
    "fault, word",
    [("none", None), ("bright", "brighter"), ("doubt", "in doubt"), ("mirror", "mirror image")],
)
def test_lungs_must_be_dark_sure_and_the_same_in_the_mirror(fault, word):
    mask = lung_pair()
    film, probs = np.where(mask, 60, 160).astype(np.uint8), np.stack([mask, mask]).astype(float)
    if fault == "bright":
        film = 220 - film
    if fault == "doubt":
        probs = np.full_like(probs, 0.5)
    if fault == "mirror":
        probs[1] = np.roll(probs[1], 6, axis=0)
    found = quality.lungs_missing(mask, film, probs)
    assert (word is None and not found) or (len(found) == 1 and word in found[0])


@needs_shipped
def test_the_shipped_segmenter_finds_lungs_in_films_and_none_in_other_pictures():
    """Films that no training drew, and planted failures; rates on real films: docs/predict.md."""
    part, rng = (
        predictor.load(profiles.mini(), weights=predictor.SHIPPED).parts["segmenter"],
        np.random.default_rng(0),
    )

    def said(grey):
        mask, probs = predictor.drawn_lungs(grey, part)
        return bool(quality.lungs_missing(mask, grey, probs))

    films = [
        patient.image
        for site in hospital.SITES
        for patient in (hospital.Hospital(site, seed=77, n=3)[i] for i in range(3))
    ]
    assert np.mean([said(film) for film in films]) <= 0.15
    for kind, draw in {
        **judge_lungs.fit_inspector.NEW,
        "hand": judge_lungs.hand,
        "gradient": judge_lungs.gradient,
    }.items():
        assert np.mean([said(draw(rng)) for _ in range(8)]) >= 0.6, kind
    turned = [np.ascontiguousarray(np.rot90(film)) for film in films]
    assert np.mean([said(film) for film in turned]) >= 0.7


@needs_inspector
def test_a_film_that_passes_the_inspector_is_asked_for_its_lungs(models, films, monkeypatch):
    """The whole way through `predict`, with an inspector that never objects: the random segmenter
    finds no lungs, and it is said.
    """
    lenient = replace(
        models,
        inspection=replace(models.inspection, thresholds=dict.fromkeys(quality.FAULTS, 2.0)),
    )
    mask, sure = predictor.drawn_lungs(
        cv2.imread(films["path"][0], cv2.IMREAD_GRAYSCALE), models.parts["segmenter"]
    )
    want = quality.lungs_missing(mask, cv2.imread(films["path"][0], cv2.IMREAD_GRAYSCALE), sure)
    assert (
        want and want[0] in predictor.predict(films["path"][0], lenient, "PA", maps=False).warnings
    )
    monkeypatch.setattr(quality, "lungs_missing", lambda *of: [])
    assert not any(
        "lungs not found" in text
        for text in predictor.predict(films["path"][0], lenient, "PA", maps=False).warnings
    )


def test_painted_over_means_that_nothing_of_the_lungs_is_left():
    grey, lungs = np.full((120, 120), 150, np.uint8), np.zeros((120, 120), bool)
    lungs[30:90, 20:50], grey[30:90, 20:50] = True, 10
    painted = judge_lungs.blank(grey, lungs, np.random.default_rng(0))
    assert abs(float(painted[lungs].mean()) - 150) < 10 and painted[5, 100] == 150
    assert (
        judge_lungs.half(lungs)[:, 60:].sum() == 0 and judge_lungs.half(lungs).sum() == lungs.sum()
    )
    assert judge_lungs.window(grey, np.random.default_rng(1)).shape == (42, 42)


def test_a_measure_outside_its_range_is_named():
    grey = np.tile(np.arange(200, dtype=np.uint8), (100, 1))
    measured = quality.quantities(grey)
    assert measured["aspect"] == 2 and measured["contrast"] == pytest.approx(180 / 255, abs=0.02)
    assert measured["flat"] == pytest.approx(1 / 200)
    wide = dict.fromkeys(measured, (0, 10))
    assert quality.out_of_range(grey, wide) == []
    assert quality.out_of_range(grey, {**wide, "aspect": (0.7, 1.4)}) == [
        "out of the training range: width over height 2, trained on 0.7 to 1.4"
    ]


@needs_inspector
def test_the_inspector_sees_planted_faults_and_leaves_sound_films_alone():
    """Virtual patients that no training drew (another seed): spoiled in a known way, each warning
    comes; as they are, hardly one.
    """
    look, rng = quality.load(predictor.INSPECTOR), np.random.default_rng(0)
    films = [
        patient.image
        for site in hospital.SITES
        for patient in (hospital.Hospital(site, seed=77, n=4)[i] for i in range(4))
    ]
    assert np.mean([bool(look.faults(film)) for film in films]) <= 0.1
    spoil = {
        "inverted": lambda film: 255 - film,
        "turned": np.rot90,
        "flipped": lambda film: film[:, ::-1],
        "not_frontal": lambda film: rng.integers(0, 256, film.shape, np.uint8),
    }
    for name, how in spoil.items():
        hits = [
            quality.FAULTS[name] in look.faults(np.ascontiguousarray(how(film))) for film in films
        ]
        assert np.mean(hits) >= 0.8, name
    assert (
        look.warnings(rng.integers(0, 256, (300, 300), np.uint8), lung_pair(), 128)[0]
        == quality.FAULTS["not_frontal"]
    )


@needs_inspector
def test_real_films_that_were_never_seen_are_mostly_left_alone(mirror):
    look = quality.load(predictor.INSPECTOR)
    files = sorted((mirror / "cohen" / "images").iterdir())[::12]
    films = [images.load_image(path).pixels for path in files]
    assert np.mean([bool(look.faults(film)) for film in films]) <= 0.25
    assert (
        np.mean(
            [
                quality.FAULTS["inverted"] in look.faults(np.subtract(film.max(), film))
                for film in films
            ]
        )
        >= 0.9
    )
