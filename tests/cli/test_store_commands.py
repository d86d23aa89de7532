"""The command line and the disk: stores are verified, and what the disk refuses is one line."""

import os

import pytest
from click.testing import CliRunner

from cxrkit import cli
from cxrkit.pipeline import stages
from cxrkit.reproduction import environment, report, runner, verification
from cxrkit.storage import integrity
from cxrkit.storage.artifacts import Store
from cxrkit.storage.atomic import write_atomic, write_json
from tests.fakes.disks import largest_file


def call(*arguments):
    return CliRunner().invoke(cli.main, [str(argument) for argument in arguments])


@pytest.fixture
def store(tmp_path):
    """Three artifacts, and what lies beside them."""
    store = Store(tmp_path / "store")
    for stage in ("backbone", "severity", "masks"):
        store.load_or_make(
            stage, {"a": 1}, lambda part: write_json(part / "metrics.json", [0.5] * 99)
        )
    (store.root / "runs" / "demo").mkdir(parents=True)
    (store.root / "data" / "cohen").mkdir(parents=True)
    return store


def spoil(folder):
    """Zeros at the end of a file."""
    file = folder / "metrics.json"
    data = file.read_bytes()
    file.write_bytes(data[:-50] + bytes(50))


# verify


def test_verify_reads_every_artifact_and_names_what_is_damaged(store):
    result = call("store", "verify", "--out", store.root)
    assert result.exit_code == 0, result.output
    assert f"{store.root}: 3 artifacts, 0 damaged" in result.output
    folder = store.folder("severity", {"a": 1})
    spoil(folder)
    result = call("store", "verify", "--out", store.root)
    assert result.exit_code == 1 and "3 artifacts, 1 damaged" in result.output
    assert f"damaged: {folder.name}: metrics.json is not what was written" in result.output
    assert f"cxrkit store verify --out {store.root} --delete-damaged" in result.output
    assert folder.exists()


def test_verify_deletes_what_is_damaged_and_the_next_run_makes_it_anew(store):
    folder = store.folder("severity", {"a": 1})
    spoil(folder)
    left = store.root / "runs" / "demo" / "report.html.gone-host.4.0123456789ab.part"
    users = store.root / "data" / "cohen" / "a.png.gone-host.4.0123456789ab.part"
    for path in (left, users):
        path.write_bytes(b"")
        os.utime(path, (1e9, 1e9))
    result = call("store", "verify", "--out", store.root, "--delete-damaged")
    assert result.exit_code == 0, result.output
    assert "deleted: 1 artifacts, 1 temporary files" in result.output
    assert not folder.exists() and not left.exists() and users.exists()
    made = store.load_or_make(
        "severity", {"a": 1}, lambda part: write_json(part / "metrics.json", [])
    )
    assert made == folder and call("store", "verify", "--out", store.root).exit_code == 0


def test_verify_of_older_artifacts_and_of_none(store, tmp_path):
    (store.folder("masks", {"a": 1}) / integrity.LIST).unlink()
    result = call("store", "verify", "--out", store.root)
    assert (
        result.exit_code == 0 and "of 1 of them only the lengths could be compared" in result.output
    )
    result = call("store", "verify", "--out", tmp_path / "nothing")
    assert result.exit_code == 0 and "0 artifacts, 0 damaged" in result.output


def test_verify_reads_image_caches(tmp_path, store):
    import cv2
    import numpy as np

    from cxrkit.data.cache import cached_images

    cv2.imwrite(str(tmp_path / "a.png"), np.arange(1600, dtype=np.uint8).reshape(40, 40))
    images = cached_images([tmp_path / "a.png"], 32, store=store)
    assert not any(one.faults for one in verification.verify_store(store))
    os.truncate(images.files[0], 500)
    found = {one.folder.name: one.faults for one in verification.verify_store(store)}
    faults = found[images.files[0].parent.name]
    assert len(faults) == 1 and images.files[0].name in faults[0]


# what the disk refuses


@pytest.mark.parametrize(
    "arguments",
    [
        ["report"],
        ["reproduce", "--set", "seed=3"],
        ["stage", "cohort"],
        ["store", "list"],
        ["store", "verify"],
        ["store", "clean", "--yes"],
    ],
)
def test_a_store_in_a_place_that_cannot_be_written_is_one_line(tmp_path, arguments):
    (tmp_path / "file").write_text("in the way")
    result = call(*arguments, "--out", tmp_path / "file" / "store")
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    if result.exit_code:
        assert "Traceback" not in result.output and "Error: " in result.output
        assert str(tmp_path / "file") in result.output


def test_a_full_disk_is_one_line(tmp_path):
    with largest_file(100):
        result = call("report", "--out", tmp_path / "store")
    assert result.exit_code == 1 and isinstance(result.exception, SystemExit)
    line = result.output.strip().splitlines()[-1]
    assert line.startswith("Error: ") and "File too large" in line and "CXRKIT_STORE" in line
    assert "report.html" in line and not list((tmp_path / "store").rglob("*.part"))


def test_an_error_of_the_disk_in_any_command_is_one_line(monkeypatch, tmp_path):
    """Also where the command itself does not expect one."""

    def refused(root):
        raise OSError(30, "Read-only file system", "/store/x")

    monkeypatch.setattr(environment, "examine", refused)
    result = call("doctor", "--out", tmp_path)
    assert result.exit_code == 1
    assert result.output.startswith("Error: /store/x: Read-only file system; make room or allow")


def test_a_write_that_fails_names_the_file_that_was_asked_for(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError) as caught:
        write_atomic(tmp_path / "file" / "a.json", "{}")
    assert caught.value.filename == str(tmp_path / "file" / "a.json")


# one place


@pytest.mark.parametrize("name", ["CXRKIT_STORE", "CXRKIT_DATA", "CXRKIT_MIRROR"])
def test_a_relative_path_of_the_environment_is_one_place(tmp_path, monkeypatch, name):
    """A lesson's kernel works in another folder and inherits the environment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(name, "here")
    call("store", "list", "--out", tmp_path / "store")
    assert os.environ[name] == str(tmp_path / "here")


def test_the_data_of_a_store_stay_where_they_were(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = Store("store", "data")
    (tmp_path / "deep").mkdir()
    monkeypatch.chdir(tmp_path / "deep")
    assert store.roots == {"store": tmp_path / "store", "data": tmp_path / "data"}


def test_doctor_compares_a_known_film(monkeypatch):
    found = environment.check_drawing(None)
    assert found.status == "ok", found
    monkeypatch.setattr(environment, "GREY_TOLERANCE", -1.0)
    assert environment.check_drawing(None).status == "note"
    monkeypatch.undo()
    monkeypatch.setitem(environment.KNOWN_PIXELS, "lesion", 999)
    found = environment.check_drawing(None)
    assert found.status == "note" and "comes out differently" in found.value


# the layer of artifacts that come with the kit


def test_fresh_reaches_the_lessons_and_the_stages(tmp_path, monkeypatch):
    """Kernels inherit the environment."""
    seen = {}

    def remember(name, result):
        def call(*args, **kwargs):
            seen[name] = os.environ["CXRKIT_FRESH"]
            return result

        return call

    monkeypatch.setattr(runner, "reproduce", remember("lessons", []))
    monkeypatch.setattr(report, "write_report", remember("report", tmp_path))
    monkeypatch.setattr(stages, "resolve", remember("stage", tmp_path))
    for words, expected in (((), "0"), (("--fresh",), "1")):
        monkeypatch.setenv("CXRKIT_FRESH", "0")
        assert call("reproduce", "--out", tmp_path, *words).exit_code == 0
        monkeypatch.setenv("CXRKIT_FRESH", "0")
        assert call("stage", "backbone", "--out", tmp_path, *words).exit_code == 0
        assert seen == {"lessons": expected, "report": expected, "stage": expected}


def test_stage_prints_the_folder_alone(tmp_path, monkeypatch):
    """What is said of a shipped artifact would spoil FOLDER=$(cxrkit stage ...)."""

    def resolve(*args):
        print("backbone-1 comes with the kit")
        return tmp_path / "backbone-1"

    monkeypatch.setattr(stages, "resolve", resolve)
    result = call("stage", "backbone", "--out", tmp_path)
    assert result.stdout == f"{tmp_path / 'backbone-1'}\n"
    assert "comes with the kit" in result.stderr
