"""The output folder: what is the user's stays, what is ours survives."""

import errno
import json
import multiprocessing
import os
import random
import shutil
import signal
import threading
import time
from types import SimpleNamespace

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from tqdm import tqdm

from cxrkit import cli
from cxrkit.config.vocabulary import DIAGNOSES
from cxrkit.data.images import ImageError
from cxrkit.inference import files, outputs, predictor, search

MODELS = SimpleNamespace(digest=lambda: "made-up", about="made-up models\n", parts={}, networks={})
NEVER = "no image"  # content of a file that fails


def made_up(path, models, view=None, maps=True, *rest):
    """A prediction that follows from the content of the file, without networks."""
    grey = cv2.imdecode(np.frombuffer(path.read_bytes() or b"x", np.uint8), cv2.IMREAD_GRAYSCALE)
    if grey is None:
        raise ImageError(f"{path}: {NEVER}")
    share = float(grey.mean() / 255)
    names = ("lungs", "severity", *(f"saliency_{name}" for name in DIAGNOSES)) if maps else ()
    return predictor.Prediction(
        probs=dict(zip(DIAGNOSES, (share, 1 - share, 0.0), strict=True)),
        array=np.full((3, 2), share),
        severity=6 * share,
        view=view or "PA+AP",
        maps=dict.fromkeys(names, grey / 255),
        warnings=("made-up, with a comma; and\na line",),
    )


@pytest.fixture(autouse=True)
def without_networks(monkeypatch, request):
    if "slow" not in request.keywords:
        monkeypatch.setattr(predictor, "predict", made_up)


@pytest.fixture
def films(tmp_path):
    """A folder with six images, a damaged one and a text."""
    folder, rng = tmp_path / "films", np.random.default_rng(0)
    folder.mkdir()
    for i in range(6):
        cv2.imwrite(str(folder / f"{i}.png"), rng.integers(0, 256, (40, 50), np.uint8))
    (folder / "broken.jpg").write_bytes(b"x")
    (folder / "notes.txt").write_text("mine")
    return folder


def run(paths, out, **options):
    lines = []
    options = {"maps": True, "progress": False, "say": lines.append, **options}
    failures = files.predict_files(paths, out, MODELS, **options)
    return failures, lines[0]


def contents(folder):
    """Every file below a folder, also hidden ones."""
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def table(out):
    return pd.read_csv(out / "predictions.csv")


def rows_in_record(out):
    """How many predictions the record holds; it is written before the table."""
    record = out / "predict_record.jsonl"
    return record.read_text().count('{"image": {') if record.exists() else 0


# the user's files


def test_nothing_of_the_user_is_overwritten_and_own_maps_are_no_images(films):
    """The output folder is the folder of the films, and the command is repeated three times."""
    mine = contents(films)
    failures, line = run([films], films)
    assert len(failures) == 1 and NEVER in failures[0]
    assert line.startswith("6 images predicted, 1 failed, 1 files passed over; predictions.csv")
    first = contents(films)
    assert {name: first[name] for name in mine} == mine
    for named in ([films], sorted(films.glob("*.png")), [films, films]):
        _, line = run(named, films)
        assert line.startswith("0 images predicted, 6 finished before") and "30 own" in line
    assert contents(films).keys() == first.keys()
    assert contents(films)["predictions.csv"] == first["predictions.csv"]


def test_a_map_in_another_folder_is_no_image_either(films, tmp_path):
    run([films], tmp_path / "out")
    shutil.copytree(tmp_path / "out", films / "copied")
    _, line = run([films], tmp_path / "second")
    assert line.startswith("6 images predicted") and "30 own maps" in line


@pytest.mark.parametrize("name", ["predictions.csv", "not_read.csv", "about.txt", "map"])
def test_a_file_of_the_user_that_stands_in_the_way_is_kept(films, tmp_path, name):
    out = tmp_path / "out"
    out.mkdir()
    if name == "map":
        name = f"{files.unique_stems([films / '3.png'])[0]}_lungs.png"
    (out / name).write_text("mine")
    if name.endswith("lungs.png"):
        failures, _ = run([films], out)
        assert len(failures) == 2 and name in failures[1] + failures[0]
        assert len(table(out)) == 5
    else:
        with pytest.raises(outputs.NotOursError, match=name):
            run([films], out)
        assert contents(out) == {name: b"mine"}
    assert (out / name).read_text() == "mine"
    run([films], out, overwrite=True)
    assert (out / name).read_bytes() != b"mine" and len(table(out)) == 6


def test_a_table_or_map_that_the_user_changed_is_kept(films, tmp_path):
    out = tmp_path / "out"
    run([films], out)
    path = out / table(out)["map_lungs"][0]
    path.write_bytes(b"painted over")
    (films / "0.png").write_bytes((films / "1.png").read_bytes())  # its maps would be written anew
    failures, _ = run([films], out)
    assert any(path.name in one for one in failures) and path.read_bytes() == b"painted over"
    changed = (out / "predictions.csv").read_text().replace("made-up", "checked by me")
    (out / "predictions.csv").write_text(changed)
    with pytest.raises(outputs.NotOursError, match="was changed"):
        run([films], out)
    assert (out / "predictions.csv").read_text() == changed


# results


def test_an_empty_or_wrong_selection_leaves_the_table(films, tmp_path):
    run([films], tmp_path / "out")
    before = table(tmp_path / "out")
    (tmp_path / "void").mkdir()
    for path in (tmp_path / "void", films / "gone.png"):
        failures, _ = run([path], tmp_path / "out")
        assert len(failures) == 1
        pd.testing.assert_frame_equal(table(tmp_path / "out"), before)


def test_rows_of_another_selection_stay_and_a_changed_image_is_predicted_again(films, tmp_path):
    out = tmp_path / "out"
    run([films / "0.png", films / "1.png"], out, maps=False)
    assert run([films / "2.png", films / "1.png"], out, maps=False)[1].startswith(
        "1 images predicted, 1 finished before"
    )
    assert [path[-5:] for path in table(out)["path"]] == ["0.png", "1.png", "2.png"]
    (films / "1.png").write_bytes((films / "5.png").read_bytes())
    assert run([films], out, maps=False)[1].startswith("4 images predicted, 2 finished before")
    found = table(out).set_index(table(out)["path"].str[-5:])
    assert len(found) == 6 and found.loc["1.png", "p_normal"] == found.loc["5.png", "p_normal"]
    _, line = run([films], out)
    assert line.startswith("6 images predicted"), "maps were not there"
    assert table(out)["map_lungs"].notna().all()


def test_other_models_or_views_are_not_mixed(films, tmp_path):
    out = tmp_path / "out"
    run([films], out)
    first = contents(out)
    with pytest.raises(outputs.OutputError, match="other view"):
        run([films], out, view="PA")
    assert contents(out) == first
    run([films / "0.png"], out, view="PA", overwrite=True)
    assert list(table(out)["view"]) == ["PA"]
    assert len(list(out.glob("*.png"))) == 5, "maps of the replaced results are gone"


def test_names_that_are_no_utf8_keep_their_rows(films, tmp_path):
    odd = os.fsencode(films) + b"/M\xfcller, \n\xe9.png"
    shutil.copy(films / "0.png", odd)
    failures, _ = run([films], tmp_path / "out")
    assert len(failures) == 1
    found = [text for text in table(tmp_path / "out")["path"] if "ller" in text]
    assert os.fsencode(search.path_of_text(found[0])) == odd


def test_what_was_not_read_stands_in_a_file(films, tmp_path):
    run([films], tmp_path / "out")
    found = pd.read_csv(tmp_path / "out" / "not_read.csv")
    assert list(found) == ["kind", "name", "count", "reason"]
    assert dict(zip(found["name"], found["reason"], strict=True)) == {
        str(films / "notes.txt"): "no image: suffix .txt",
        str(films / "broken.jpg"): NEVER,
    }


# a folder that takes nothing


def test_the_folder_is_checked_before_the_first_image(films, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("mine")
    monkeypatch.setattr(predictor, "predict", lambda *arguments: pytest.fail("too early"))
    with pytest.raises(outputs.OutputError, match="cannot be written"):
        run([films], tmp_path / "file" / "out")
    room = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: room)
    with pytest.raises(outputs.OutputError, match="make room"):
        run([films], tmp_path / "out")


@pytest.mark.parametrize("allowed", range(3, 40, 4))
def test_a_full_disk_keeps_the_rows_so_far_and_the_command_goes_on(
    films, tmp_path, monkeypatch, allowed
):
    """After `allowed` waits for the disk there is no room: the file keeps a part of what it got."""
    run([films], tmp_path / "whole")
    right, calls = os.fsync, []

    def fsync(number):
        calls.append(number)
        if len(calls) > allowed:
            raise OSError(errno.ENOSPC, "No space left on device")
        right(number)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        with pytest.raises(outputs.OutputError, match="No space left"):
            run([films], tmp_path / "out")
    rows = rows_in_record(tmp_path / "out")
    assert not list((tmp_path / "out").glob("*.part"))
    if rows:
        assert len(table(tmp_path / "out")) in (rows, rows - 1)
    _, line = run([films], tmp_path / "out")
    assert line.startswith(f"{6 - rows} images predicted")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_two_processes_do_not_write_to_one_folder(films, tmp_path):
    with outputs.open_folder(tmp_path, {}, ["path"]):
        with pytest.raises(outputs.OutputError, match="another cxrkit predict"):
            run([films], tmp_path)
    assert set(contents(tmp_path)) - set(contents(films)) == {
        *("predictions.csv", "predict_record.jsonl")
    }


# kills


def in_a_process(work, *arguments):
    """A forked process that runs `work`; it prints nothing.

    The lock of tqdm is shared with it, and would stay locked where it is killed in the middle.
    """

    def run_with_own_lock():
        tqdm.set_lock(threading.RLock())
        work(*arguments)

    process = multiprocessing.get_context("fork").Process(target=run_with_own_lock)
    process.start()
    return process


def test_a_killed_run_goes_on_and_ends_as_if_nothing_had_happened(films, tmp_path):
    """kill -9 at three random moments, and three times soon after the start."""
    start = time.perf_counter()
    run([films], tmp_path / "whole")
    seconds, rng = time.perf_counter() - start, random.Random(0)
    for name, waits in (("a", [rng.uniform(0, seconds) for _ in range(3)]), ("b", [0.02] * 3)):
        rows = 0
        for wait in waits:
            process = in_a_process(run, [films], tmp_path / name)
            time.sleep(wait)
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            assert rows_in_record(tmp_path / name) >= rows, "a row was lost"
            rows = rows_in_record(tmp_path / name)
        run([films], tmp_path / name)
        assert contents(tmp_path / name) == contents(tmp_path / "whole")


def remove_what_is_not_in_the_record(out):
    """What a run writes after a line of the record, when it was killed before that line."""
    lines = (out / "predict_record.jsonl").read_text().split("\n")[1:-1]
    lines = [json.loads(line) for line in lines]
    named = {name for line in lines for name in line.get("files", ())}
    for path in out.iterdir():
        if path.name not in named | {"predict_record.jsonl", "predictions.csv"}:
            path.unlink()
    rows = [line["image"]["row"] for line in lines if "image" in line]
    text = outputs.csv_text([files.TABLE_COLUMNS, *rows])
    (out / "predictions.csv").write_text(text)


def test_a_record_or_table_that_was_cut_anywhere_is_repaired(films, tmp_path):
    run([films], tmp_path / "whole")
    whole = contents(tmp_path / "whole")
    rng = random.Random(1)
    for name in ("predict_record.jsonl", "predictions.csv"):
        for _ in range(8):
            out = tmp_path / f"{name}-{rng.random()}"
            shutil.copytree(tmp_path / "whole", out)
            first = whole[name].index(b"\n") + 1
            os.truncate(out / name, rng.randrange(first, len(whole[name])))
            if name == "predict_record.jsonl":
                remove_what_is_not_in_the_record(out)
            run([films], out)
            assert contents(out) == whole


def test_a_damaged_record_is_refused(films, tmp_path):
    for text in ("", "{}\n", "[1]\n", json.dumps({"cxrkit predict": 1}) + "\n", "mine\n"):
        (tmp_path / "out").mkdir(exist_ok=True)
        (tmp_path / "out" / "predict_record.jsonl").write_text(text)
        with pytest.raises(outputs.OutputError, match="no sound record"):
            run([films], tmp_path / "out")
        assert contents(tmp_path / "out") == {"predict_record.jsonl": text.encode()}


def command(films, out, weights):
    """`cxrkit predict --maps`, alone in its session."""
    os.setsid()
    torch.set_num_threads(1)
    asked = [films, "--out", out, "--weights", weights, "--maps", "--even-unusable"]
    cli.main(["predict", *map(str, asked)])


@pytest.mark.slow
def test_the_command_survives_twenty_kills(images, weights, tmp_path):
    """With networks, killed at 20 random moments, against a run in one piece."""
    folder = tmp_path / "films"
    folder.mkdir()
    for i in range(200):
        shutil.copy(images["path"][i % 4], folder / f"{i}.png")
    began = time.perf_counter()
    process = in_a_process(command, folder, tmp_path / "whole", weights)
    process.join()
    seconds, rng, rows, killed = time.perf_counter() - began, random.Random(0), 0, 0
    assert process.exitcode == 0
    for _ in range(20):
        process = in_a_process(command, folder, tmp_path / "out", weights)
        time.sleep(rng.uniform(0, seconds / 10))
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        killed += process.exitcode == -signal.SIGKILL
        with pytest.raises(ProcessLookupError):  # nothing of its session is left
            os.killpg(process.pid, 0)
        assert rows_in_record(tmp_path / "out") >= rows, "a row was lost"
        rows = rows_in_record(tmp_path / "out")
    assert killed >= 15 and rows > 0, "the kills came too late or too early"
    process = in_a_process(command, folder, tmp_path / "out", weights)
    process.join()
    assert process.exitcode == 0
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
