"""Artifacts are what was written: every kind of damage is noticed, at little cost, and named."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

from cxrkit.storage import atomic, integrity, mapped, remote
from cxrkit.storage.artifacts import Store
from cxrkit.storage.integrity import DamagedArtifact
from cxrkit.training import checkpoint
from tests.fakes.disks import largest_file

SETTINGS = {"seed": 0}
BIG = integrity.SMALL + 1


def make(folder):
    """Weights, a small table, a large array, and a second network in a folder of its own."""
    checkpoint.save_tensors(folder / "weights.safetensors", {"w": torch.arange(2000.0)})
    atomic.write_json(folder / "metrics.json", {"auc": 0.75})
    (folder / "table.csv").write_text("a,b\n1,2\n")
    np.save(folder / "images.npy", np.arange(BIG, dtype=np.uint8))
    (folder / "teacher").mkdir()
    checkpoint.save_tensors(folder / "teacher" / "weights.safetensors", {"w": torch.ones(9)})


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "store")
    store.load_or_make("backbone", SETTINGS, make)
    return store


def spoil(folder, how, name="weights.safetensors"):
    """Damage an artifact as interrupted copies and failing disks do."""
    file = folder / name
    if how == "empty":
        shutil.rmtree(folder)
        folder.mkdir()
    elif how == "missing":
        file.unlink()
    elif how == "cut":
        os.truncate(file, file.stat().st_size // 2)
    elif how == "zeroed":
        data = file.read_bytes()
        file.write_bytes(data[: len(data) // 2] + bytes(len(data) - len(data) // 2))


def load(store):
    """What every stage does with an artifact that is there."""
    return store.load_or_make("backbone", SETTINGS, lambda folder: pytest.fail("made again"))


@pytest.mark.parametrize("name", ["weights.safetensors", "metrics.json", "table.csv", "images.npy"])
@pytest.mark.parametrize("how", ["missing", "cut", "zeroed"])
def test_a_damaged_file_is_named_with_the_next_step(store, name, how):
    folder = load(store)
    spoil(folder, how, name)
    assert any(name in line for line in integrity.faults(folder))
    if (name, how) == ("images.npy", "zeroed"):
        assert load(store) == folder, "large files are read as a whole by `store verify` alone"
        return
    with pytest.raises(DamagedArtifact) as caught:
        load(store)
    assert name in str(caught.value) and "Delete the folder" in str(caught.value)
    assert f"cxrkit store verify --out {store.root} --delete-damaged" in str(caught.value)


def test_an_empty_artifact_and_a_damaged_list_are_no_finished_ones(store):
    folder = load(store)
    (folder / integrity.LIST).write_text('{"weights.safetensors": {"byt')
    with pytest.raises(DamagedArtifact, match="files.json is no list of files"):
        load(store)
    assert integrity.faults(folder) == ["files.json is no list of files"]
    spoil(folder, "empty")
    with pytest.raises(DamagedArtifact, match="it is empty"):
        load(store)


@pytest.mark.parametrize("name", ["weights.safetensors", "teacher/weights.safetensors"])
def test_weights_are_compared_each_time_they_are_read(store, name):
    folder = load(store)
    checkpoint.load_tensors(folder / name)
    spoil(folder, "zeroed", name)
    with pytest.raises(DamagedArtifact, match=f"{name} is not what was written"):
        checkpoint.load_tensors(folder / name)


def test_a_file_is_read_once_for_as_long_as_it_does_not_change(store, monkeypatch):
    read = []
    digest = integrity.sha256_of

    def counted(path):
        read.append(path.name)
        return digest(path)

    monkeypatch.setattr(integrity, "sha256_of", counted)
    monkeypatch.setattr(integrity, "_seen", {})
    folder = load(store)
    first = len(read)
    assert first == 5 and "images.npy" not in read
    load(store)
    assert len(read) == first
    (folder / "table.csv").write_text("a,b\n1,3\n")  # of the same length
    with pytest.raises(DamagedArtifact, match="table.csv is not what was written"):
        load(store)


def test_what_is_read_of_one_artifact_is_bounded(monkeypatch):
    files = {f"{i:03}.png": {"bytes": 2**20, "sha256": ""} for i in range(100)}
    assert len(integrity._small(files)) == integrity.MOST // 2**20
    assert integrity._small({"a": {"bytes": BIG, "sha256": ""}}) == []


@pytest.mark.parametrize("how", ["cut", "empty file"])
@pytest.mark.parametrize("name", ["weights.safetensors", "images.npy"])
def test_of_an_artifact_without_a_list_lengths_are_compared(store, name, how):
    """Older stores, and weights that were handed over alone."""
    folder = load(store)
    (folder / integrity.LIST).unlink()
    assert load(store) == folder and integrity.faults(folder) == []
    size = (folder / name).stat().st_size
    os.truncate(folder / name, 0 if how == "empty file" else size - 1)
    with pytest.raises(DamagedArtifact, match=name):
        load(store)


def test_a_file_with_the_name_of_the_list_elsewhere_is_none_of_ours(tmp_path):
    checkpoint.save_tensors(tmp_path / "weights.safetensors", {"w": torch.ones(3)})
    (tmp_path / integrity.LIST).write_text('{"weights.safetensors": "somebody else\'s"}')
    assert checkpoint.load_tensors(tmp_path / "weights.safetensors")[0]["w"].sum() == 3


def test_the_names_of_artifacts():
    from pathlib import Path

    assert integrity.NAME.fullmatch("backbone-5e7256131400")
    assert integrity.data_of(Path("backbone-5e7256131400")) == ""
    assert integrity.data_of(Path("diagnosis_pa-5e7256131400-0123abcd")) == "0123abcd"
    for other in ("backbone-5e7256131400.part", "runs", "backbone-5e72561", "a-5e7256131400-xyz"):
        assert not integrity.NAME.fullmatch(other)


# temporary files


def test_two_writers_of_one_file_never_share_a_temporary_name(tmp_path, monkeypatch):
    """Two containers have the same process number, and may have the same host name."""
    monkeypatch.setattr(atomic.os, "getpid", lambda: 7)
    names = {atomic.temporary(tmp_path / "metrics.json").name for _ in range(100)}
    assert len(names) == 100 and all(atomic.LEFTOVER.search(name) for name in names)
    long = atomic.temporary(tmp_path / ("x" * 250))
    assert len(long.name) <= 255
    long.write_bytes(b"")


def test_leftovers_of_killed_writers_are_removed_and_nothing_else(tmp_path):
    code = (
        "import os, signal, sys, pathlib\nfrom cxrkit.storage import atomic\n"
        "atomic.os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "atomic.write_json(sys.argv[1], [1])"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path / "deep" / "a.json"], check=False)
    killed = list((tmp_path / "deep").glob("*.part"))
    assert len(killed) == 1
    alive = atomic.temporary(tmp_path / "deep" / "b.json")
    elsewhere = tmp_path / "deep" / "c.json.other-host.4.0123456789ab.part"
    old = tmp_path / "deep" / "d.json.other-host.4.0123456789ab.part"
    users = tmp_path / "deep" / "film.part"
    for path in (alive, elsewhere, old, users):
        path.write_bytes(b"")
    os.utime(old, (1e9, 1e9))
    assert sorted(atomic.remove_leftovers(tmp_path)) == sorted([*killed, old])
    assert alive.exists() and elsewhere.exists() and users.exists()


def test_an_artifact_that_is_made_anew_begins_without_leftovers(tmp_path):
    store = Store(tmp_path)
    part = store.folder("backbone", SETTINGS).with_suffix(".part")
    part.mkdir(parents=True)
    left = part / "metrics.json.gone-host.3.0123456789ab.part"
    left.write_bytes(b"half")
    os.utime(left, (1e9, 1e9))
    folder = store.load_or_make("backbone", SETTINGS, make)
    assert not list(folder.rglob("*.part")) and integrity.faults(folder) == []


@pytest.mark.parametrize("reserves", [True, False])
def test_a_file_has_its_whole_room_before_it_is_written_to(tmp_path, monkeypatch, reserves):
    """Where the system cannot reserve room, as on macOS, zeros are written."""
    if not reserves:
        monkeypatch.delattr(mapped.os, "posix_fallocate", raising=False)
    array = mapped.begin(tmp_path / "a.npy", (300, 100, 100))
    status = os.stat(tmp_path / "a.npy")
    assert status.st_blocks * 512 >= status.st_size == array.offset + 3_000_000
    array[:] = 7
    array.flush()
    assert (np.load(tmp_path / "a.npy") == 7).all()
    with pytest.raises(OSError, match=r"b.npy: no room for 0.0 GB .*CXRKIT_STORE"):
        with largest_file(10**6):
            mapped.begin(tmp_path / "b.npy", (300, 100, 100))
    assert not (tmp_path / "b.npy").exists()


def test_an_artifact_that_is_damaged_on_its_way_is_not_taken(tmp_path):
    pytest.importorskip("fsspec", reason='needs the extra cluster: pip install "cxrkit[cluster]"')
    url = f"file://{tmp_path}/far"
    here = remote.RemoteStore(url, tmp_path / "here")
    folder = here.load_or_make("backbone", SETTINGS, make)
    spoil(tmp_path / "far" / folder.name, "zeroed")
    there = remote.RemoteStore(url, tmp_path / "there")
    with pytest.raises(DamagedArtifact, match=f"{folder.name} at file://.*weights.safetensors"):
        there.load_or_make("backbone", SETTINGS, make)
    assert not there.folder("backbone", SETTINGS).exists()
