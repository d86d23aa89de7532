"""Many images: files, folders, and the command `cxrkit predict`."""

import shutil
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from cxrkit import NOTICE, cli
from cxrkit.config.vocabulary import DIAGNOSES, ZONES
from cxrkit.inference import files, predictor


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
    return CliRunner().invoke(cli.main, ["predict", *map(str, arguments)])


def test_a_broken_file_is_named_and_skipped_and_the_rest_is_predicted(folder, weights, tmp_path):
    result = call(folder, "--out", tmp_path / "out", "--weights", weights, "--maps")
    assert result.exit_code == 1 and NOTICE in result.output and "made-up" in result.output
    assert "Traceback" not in result.output and not isinstance(result.exception, ValueError)
    assert result.output.count("skipped") == 2
    assert "cut.jpg" in result.output and "empty.dcm: empty file" in result.output
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
        paths = [tmp_path / "out" / f"{stem}_{kind}.png" for kind in kinds]
        assert {cv2.imread(str(path), cv2.IMREAD_UNCHANGED).shape for path in paths} == {shape}
    about = (tmp_path / "out" / "about.txt").read_text()
    assert NOTICE in about and about in result.output
    assert (
        "Learnt from virtual patients alone, so expect these to fail on real films: diagnosis_pa, "
        "diagnosis_ap, seg" in about
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


def test_names_of_maps_never_meet():
    paths = [Path(p) for p in ("a/x.png", "b/x.png", "c/x_2.png", "d/X.jpg")]
    assert files.unique_stems(paths) == ["x", "x_2", "x_2_2", "X_3"]
