"""Many images: files, folders, and the command `cxrkit predict`."""

import hashlib
import re
import shutil
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from cxrkit import NOTICE, __version__, cli
from cxrkit.config.vocabulary import DIAGNOSES, FRAMINGS, ZONES
from cxrkit.explain.methods import DEFAULT_METHOD, METHODS
from cxrkit.inference import files, load_models, predictor, trained


@pytest.fixture(scope="module")
def folder(images, tmp_path_factory):
    """Two images of one stem, a truncated JPEG, an empty file, a text file and a hidden one."""
    folder = tmp_path_factory.mktemp("in")
    (folder / "sub").mkdir()
    shutil.copy(images["path"][0], folder / "film.png")
    shutil.copy(images["path"][1], folder / "sub" / "film.png")
    cv2.imwrite(str(folder / "cut.jpg"), cv2.imread(images["path"][2]))
    (folder / "cut.jpg").write_bytes((folder / "cut.jpg").read_bytes()[:1500])
    (folder / "empty.dcm").write_bytes(b"")
    (folder / "notes.txt").write_text("not a film")
    (folder / ".hidden.png").write_bytes(b"no film")
    return folder


def call(*arguments):
    """Numbers are asked for: the random segmenter finds no lungs, so every image is unusable."""
    return refused(*arguments, "--even-unusable")


def refused(*arguments):
    """The command as a user gives it."""
    return CliRunner().invoke(cli.main, ["predict", *map(str, arguments)])


def test_a_broken_file_is_named_and_skipped_and_the_rest_is_predicted(folder, weights, tmp_path):
    result = call(folder, "--out", tmp_path / "out", "--weights", weights, "--maps")
    assert result.exit_code == 1 and NOTICE in result.output and "made-up" in result.output
    assert "Traceback" not in result.output and not isinstance(result.exception, ValueError)
    assert result.output.count("skipped") == 2
    assert "cut.jpg" in result.output and "empty.dcm: empty file" in result.output
    table = pd.read_csv(tmp_path / "out" / "predictions.csv")
    head = ["path", "p_normal", "p_other", "p_covid", "severity", *ZONES, "warnings"]
    kinds = ("lungs", "severity", *(f"saliency_{name}" for name in DIAGNOSES), "overlay")
    new = ["view", "model", "version", "usable", "unusable_because", "novelty", "sha256"]
    late = ["html", *(f"dicom_{kind}" for kind in files.DICOM_FILES)]
    assert list(table) == [*head, *new, *(f"map_{kind}" for kind in kinds), *late]
    digest = load_models(weights=weights).digest()
    assert set(table["model"]) == {f"demo-{digest}"} and set(table["version"]) == {__version__}
    assert list(table["path"]) == [str(folder / "film.png"), str(folder / "sub" / "film.png")]
    np.testing.assert_allclose(table[["p_normal", "p_other", "p_covid"]].sum(axis=1), 1, atol=2e-4)
    np.testing.assert_allclose(table[list(ZONES)].sum(axis=1), table["severity"], atol=4e-4)
    written = pd.read_csv(tmp_path / "out" / "predictions.csv", dtype=str)
    numbers = written[["p_normal", "p_other", "p_covid", "severity", *ZONES]].to_numpy().ravel()
    assert all(re.fullmatch(r"\d\.\d{4}", number) for number in numbers)
    maps = table[[f"map_{kind}" for kind in kinds]].to_numpy()  # (2, 6)
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        *("predictions.csv", "not_read.csv", "about.txt", "predict_record.jsonl"),
        *maps.ravel(),
    }
    for row, shape, path in zip(maps, ((128, 128), (108, 128)), table["path"], strict=True):
        paths = [tmp_path / "out" / name for name in row]
        *maps_of_film, overlay = [cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in paths]
        assert {one.shape for one in maps_of_film} == {shape}
        assert overlay.ndim == 3 and overlay.shape[1] >= 4 * shape[1]
        assert {name.rsplit("-")[0] for name in row} == {"film"}
        content = hashlib.sha256(Path(path).read_bytes()).hexdigest()
        assert content in set(table["sha256"]), path
    not_read = pd.read_csv(tmp_path / "out" / "not_read.csv")
    assert {Path(name).name for name in not_read["name"]} == {
        *("cut.jpg", "empty.dcm", "notes.txt", ".hidden.png")
    }
    about = (tmp_path / "out" / "about.txt").read_text()
    about, method = about.split("Saliency maps: ")
    assert NOTICE in about and about in result.output and method.startswith("method attnlrp")
    assert (
        "Learnt from virtual patients alone, so expect these to fail on real films: diagnosis_pa, "
        "diagnosis_ap, seg" in about
    )


def test_an_unusable_film_has_a_reason_and_no_numbers_unless_they_are_asked_for(
    images, weights, tmp_path
):
    """The random segmenter finds no lungs."""
    path, out = images["path"][0], tmp_path / "out"
    asked = (path, "--view", "PA", "--weights", weights, "--maps")
    result = refused(*asked, "--out", out)
    assert result.exit_code == 0 and "1 images predicted (1 of them unusable" in result.output
    row = pd.read_csv(out / "predictions.csv", dtype=str).iloc[0]
    numbers = ["p_normal", "p_other", "p_covid", "severity", *ZONES]
    assert row["usable"] == "no" and row[numbers].isna().all()
    assert "lungs not found" in row["unusable_because"]
    assert set(row["unusable_because"].split("; ")) <= set(row["warnings"].split("; "))
    assert not list(out.glob("*.png")) and row[[f"map_{kind}" for kind in files.MAPS]].isna().all()
    assert "0 images predicted, 1 finished before" in refused(*asked, "--out", out).output

    mixed = refused(*asked, "--out", out, "--even-unusable")
    assert mixed.exit_code == 1 and "other answers for unusable films" in mixed.output
    assert refused(*asked, "--out", out, "--even-unusable", "--overwrite").exit_code == 0
    row = pd.read_csv(out / "predictions.csv", dtype=str).iloc[0]
    assert (
        row["usable"] == "no" and row[numbers].notna().all() and len(list(out.glob("*.png"))) == 6
    )


def test_all_predicted_is_0_and_nothing_to_predict_is_1(images, weights, tmp_path):
    path = images["path"][0]
    result = call(path, "--view", "PA", "--out", tmp_path / "a", "--weights", weights)
    assert result.exit_code == 0
    (tmp_path / "void").mkdir()
    result = call(tmp_path / "void", "--out", tmp_path / "b", "--weights", weights)
    assert result.exit_code == 1 and "no film in" in result.output
    result = call(tmp_path / "gone.png", "--out", tmp_path / "c", "--weights", weights)
    assert result.exit_code == 1 and "no such file" in result.output


def maps_of(out):
    """Content of the saliency maps in a folder, by name."""
    return {path.name: path.read_bytes() for path in out.glob("*_saliency_*.png")}


def test_the_command_offers_every_method_that_explains_the_best_first():
    assert {*cli.MAP_METHODS, "random"} == set(METHODS)
    assert cli.MAP_METHODS[0] == DEFAULT_METHOD


def test_maps_of_another_method_are_not_mixed_into_a_folder(images, weights, tmp_path):
    path, out = images["path"][0], tmp_path / "out"
    asked = (path, "--view", "PA", "--weights", weights, "--maps")
    assert call(*asked, "--map-method", "rollout", "--out", out).exit_code == 0
    before, table = maps_of(out), (out / "predictions.csv").read_bytes()
    assert len(set(before.values())) == 1  # of three classes: rollout knows none
    assert "method rollout" in (out / "about.txt").read_text()

    refused = call(*asked, "--map-method", "relevance", "--out", out)
    assert refused.exit_code == 1 and "Traceback" not in refused.output
    assert "go on with --map-method rollout, choose another folder with --out" in refused.output
    assert "--overwrite" in refused.output
    assert maps_of(out) == before and (out / "predictions.csv").read_bytes() == table
    assert call(*asked, "--map-method", "rollout", "--out", out).exit_code == 0  # goes on
    # rows do not depend on the method, so a call without maps asks for none
    assert call(*asked[:-1], "--out", out).exit_code == 0
    assert "method rollout" in (out / "about.txt").read_text()

    assert call(*asked, "--out", out, "--overwrite").exit_code == 0
    assert len(set(maps_of(out).values())) == 3  # the default tells classes apart
    assert f"method {DEFAULT_METHOD}" in (out / "about.txt").read_text()


def test_maps_may_be_asked_for_after_the_rows_by_any_method(images, weights, tmp_path):
    path, late, at_once = images["path"][0], tmp_path / "late", tmp_path / "at_once"
    asked = (path, "--view", "PA", "--weights", weights, "--map-method", "gradcam")
    assert call(*asked, "--out", late).exit_code == 0  # no maps, so no method yet
    assert "method" not in (late / "about.txt").read_text()
    assert call(*asked, "--out", late, "--maps").exit_code == 0
    assert call(*asked, "--out", at_once, "--maps").exit_code == 0
    assert maps_of(late) == maps_of(at_once) and len(maps_of(late)) == 3
    for name in ("predictions.csv", "about.txt"):
        assert (late / name).read_bytes() == (at_once / name).read_bytes()


def test_an_unknown_method_is_named_before_anything_is_written(images, models, tmp_path):
    with pytest.raises(ValueError, match="map method 'lrp'"):
        files.predict_files(images["path"][:1], tmp_path / "out", models, map_method="lrp")
    assert not (tmp_path / "out").exists()
    result = call(images["path"][0], "--out", tmp_path / "out", "--map-method", "lrp")
    assert result.exit_code == 2 and "attnlrp" in result.output


def test_an_image_that_breaks_the_model_does_not_stop_the_others(
    images, models, tmp_path, monkeypatch
):
    right = predictor.predict
    monkeypatch.setattr(
        predictor,
        "predict",
        lambda path, *rest: 1 / 0 if path.stem == "film1" else right(path, *rest),
    )
    failures = files.predict_files(images["path"][:3], tmp_path, models, "PA", progress=False)
    assert failures == [f"skipped {images['path'][1]}: ZeroDivisionError: division by zero"]
    assert len(pd.read_csv(tmp_path / "predictions.csv")) == 2


def test_names_of_maps_never_meet_and_do_not_depend_on_the_others():
    paths = [Path(p) for p in ("a/x.png", "b/x.png", "c/x_2.png", "d/X.jpg")]
    names = files.unique_stems(paths)
    assert len({name.lower() for name in names}) == 4
    assert [files.unique_stems([path])[0] for path in paths] == names
    assert [name.split("-")[0] for name in names] == ["x", "x", "x_2", "X"]
    odd = files.unique_stems(["a/" + 80 * "肺" + ".png", "a/n\ne:w/\udce9.png"])
    assert all(len(f"{name}_saliency_other_infection.png".encode()) < 255 for name in odd)
    assert odd[1].startswith("_-") and "\n" not in odd[1]


def test_two_short_hashes_that_meet_get_whole_hashes(monkeypatch):
    monkeypatch.setattr(files, "_path_hash", lambda path: 12 * "a" + Path(path).parent.name)
    first, second = files.unique_stems(["1/x.png", "2/x.png"])
    assert first == f"x-{12 * 'a'}1" and second == f"x-{12 * 'a'}2"


def test_naming_ten_thousand_images_of_one_stem_takes_no_time():
    paths = [Path(f"/data/patient{i:05}/study1/view1_frontal.jpg") for i in range(10_000)]
    start = time.perf_counter()
    assert len(set(files.unique_stems(paths))) == 10_000
    assert time.perf_counter() - start < 2


def test_a_profile_that_was_asked_for_is_never_swapped(images, weights, tmp_path, monkeypatch):
    """The shipped files say which profile made them: here it is demo."""
    monkeypatch.setattr(trained, "SHIPPED", weights)
    monkeypatch.setattr(trained.locations, "fetched_weights", lambda: tmp_path / "none")
    monkeypatch.setenv("CXRKIT_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("CXRKIT_FRESH", "1")
    path, out = images["path"][0], tmp_path / "out"
    swapped = call(path, "--out", out, "--profile", "mini")
    assert swapped.exit_code == 1 and not out.exists()
    assert "--profile mini was asked for" in swapped.output and "profile demo" in swapped.output
    assert "cxrkit reproduce --profile" in swapped.output
    settings = tmp_path / "mine.yaml"
    settings.write_text("base: demo\nseed: 7\n")
    own = call(path, "--out", out, "--profile", settings)
    assert own.exit_code == 1 and "--profile mine was asked for" in own.output
    default = call(path, "--out", out)
    assert default.exit_code == 0 and "are of profile demo, not mini" in default.output
    named = call(path, "--out", tmp_path / "b", "--profile", "mini", "--weights", weights)
    assert named.exit_code == 0 and "are of profile demo, not mini" in named.output


def test_it_is_said_what_a_diagnosis_is_shown_of_a_film(models):
    part = models.parts["diagnosis_pa"]
    said = {}
    for framing in FRAMINGS:
        sources = replace(part.profile.sources, framing=framing)
        own = replace(part, profile=replace(part.profile, sources=sources))
        said[framing] = files.calibration_text(replace(models, parts={"diagnosis_pa": own}))
    assert "lungs alone" in said["lungs"] and "box around" in said["crop"]
    assert "shown" not in said["whole"]
