"""The layer below a store: artifacts that come with the kit, taken where the store lacks them."""

import pickle

import numpy as np
import pandas as pd
import pytest

from cxrkit.data import cache
from cxrkit.storage import atomic, integrity, locations, provenance, remote
from cxrkit.storage.artifacts import Store
from cxrkit.storage.integrity import DamagedArtifact

SETTINGS = {"seed": 0}
MADE = {
    "date": "2026-11-29 01:02 UTC",
    "commit": "0123456789ab",
    "system": "Linux x86_64",
    "cores": 2,
    "device": "cpu",
    "seconds": 83.2,
    "seed": 5,
}


def put(layer, stage="backbone", settings=SETTINGS, files=(("metrics.json", "{}"),), **note):
    """A finished artifact of the layer."""
    folder = layer / Store().folder(stage, settings).name
    folder.mkdir()
    for name, text in files:
        (folder / name).write_text(text)
    atomic.write_json(folder / "settings.json", settings)
    atomic.write_json(folder / "shipped.json", {"made": MADE, "weights": "none", **note})
    integrity.write_list(folder)
    return folder


def state_of(folder):
    """Every file below a folder with its time, and every folder: what reading must not change."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def refuse(folder):
    pytest.fail("made, although it comes with the kit")


def make(folder):
    (folder / "metrics.json").write_text('{"made": "here"}')


def test_a_missing_artifact_is_taken_from_the_layer_which_is_only_read(tmp_path, layer, capsys):
    folder = put(layer)
    before = state_of(layer)
    store = Store(tmp_path / "store")
    assert store.load_or_make("backbone", SETTINGS, refuse) == folder
    assert store.folder("backbone", SETTINGS) == store.fetch("backbone", SETTINGS) == folder
    assert store.has("backbone", SETTINGS)
    assert store.from_any_data("backbone", SETTINGS) == [folder]
    assert state_of(layer) == before and not store.root.exists()
    said = capsys.readouterr().out
    assert said == (
        f"{folder.name} comes with the kit (made 2026-11-29 01:02 UTC at 0123456789ab on "
        "Linux x86_64, 2 cores, cpu, in 83 s, seed 5; CXRKIT_FRESH=1 makes it here)\n"
    )
    store.load_or_make("backbone", SETTINGS, refuse)
    assert capsys.readouterr().out == "", "said once in a process"


def test_the_store_comes_first_and_other_settings_are_made(tmp_path, layer, capsys):
    store = Store(tmp_path / "store")
    own = store.load_or_make("backbone", SETTINGS, make)
    shipped = put(layer)
    assert own == store.root / shipped.name
    assert store.load_or_make("backbone", SETTINGS, refuse) == store.folder("backbone", SETTINGS)
    assert store.folder("backbone", SETTINGS) == own
    assert store.from_any_data("backbone", SETTINGS) == [own]
    other = store.load_or_make("backbone", {"seed": 1}, make)
    assert other.parent == store.root and capsys.readouterr().out == ""


@pytest.mark.parametrize("value", ["1", "yes"])
def test_fresh_leaves_the_layer_out(tmp_path, layer, monkeypatch, value):
    put(layer)
    monkeypatch.setenv("CXRKIT_FRESH", value)
    store = Store(tmp_path / "store")
    assert not store.has("backbone", SETTINGS) and not store.from_any_data("backbone", SETTINGS)
    assert store.load_or_make("backbone", SETTINGS, make).parent == store.root
    monkeypatch.setenv("CXRKIT_FRESH", "0")
    assert Store(tmp_path / "another").has("backbone", SETTINGS)


def test_a_damaged_artifact_of_the_layer_is_refused_with_another_next_step(tmp_path, layer):
    folder = put(layer)
    (folder / "metrics.json").write_text("[]")
    store = Store(tmp_path / "store")
    with pytest.raises(DamagedArtifact, match="install cxrkit again, or set CXRKIT_FRESH=1"):
        store.load_or_make("backbone", SETTINGS, refuse)


def test_one_without_weights_serves_for_its_numbers_alone(tmp_path, layer):
    folder = put(layer, weights=provenance.LEFT_OUT)
    store = Store(tmp_path / "store")
    assert store.load_or_make("backbone", SETTINGS, refuse) == folder
    whole = store.load_or_make("backbone", SETTINGS, make, whole=True)
    assert whole == store.root / folder.name == store.load_or_make("backbone", SETTINGS, refuse)
    complete = put(layer, settings={"seed": 2})
    assert store.load_or_make("backbone", {"seed": 2}, refuse, whole=True) == complete


def test_a_store_on_another_machine_takes_the_layer_of_its_own_kit(tmp_path, layer, monkeypatch):
    put(layer)
    sent = pickle.dumps(Store(tmp_path / "store"))
    elsewhere = tmp_path / "site-packages"
    layer.rename(elsewhere)
    monkeypatch.setattr(locations, "SHIPPED", elsewhere)
    assert pickle.loads(sent).folder("backbone", SETTINGS).parent == elsewhere
    monkeypatch.setenv("CXRKIT_FRESH", "1")
    without = pickle.dumps(Store(tmp_path / "store"))
    monkeypatch.delenv("CXRKIT_FRESH")
    assert pickle.loads(without).layer is None, "fresh where it was begun, fresh on every worker"


def test_a_remote_store_takes_from_the_layer_before_it_fetches(tmp_path, layer):
    pytest.importorskip("fsspec")
    url = f"file://{tmp_path}/shared"
    first = remote.RemoteStore(url, tmp_path / "first")
    first.load_or_make("backbone", SETTINGS, make)
    folder = put(layer)
    second = remote.RemoteStore(url, tmp_path / "second")
    assert second.fetch("backbone", SETTINGS) == folder
    assert second.load_or_make("backbone", SETTINGS, refuse) == folder
    assert second.from_any_data("backbone", SETTINGS) == [folder], "one artifact, not two"
    assert first.from_any_data("backbone", SETTINGS) == [first.root / folder.name]


# paths


def test_paths_of_a_shipped_table_lead_to_wherever_each_artifact_lies(tmp_path, layer):
    cohort, masks, gone = "cohort-000000000001", "masks-000000000002", "masks-000000000003"
    rows = [f"store:{cohort}/images.npy#7", f"store:{masks}/masks.npy#0", "virtual://alder/7"]
    rows += [f"store:{gone}/masks.npy#3", "data:cohen/a.png"]
    text = pd.DataFrame({"path": rows, "p": 0.5}).to_csv(index=False)
    folder = put(layer, files=[("predictions.csv", text)])
    (layer / masks).mkdir()
    store = Store(tmp_path / "store", tmp_path / "data")
    (store.root / cohort).mkdir(parents=True)
    table = store.read_table(folder / "predictions.csv")
    assert list(table["path"]) == [
        f"{store.root}/{cohort}/images.npy#7",
        f"{layer}/{masks}/masks.npy#0",
        "virtual://alder/7",
        f"{store.root}/{gone}/masks.npy#3",
        f"{tmp_path}/data/cohen/a.png",
    ]
    assert store.relatives(table["path"]) == rows, "no path of the layer reaches the disk"
    assert [store.absolute(text) for text in rows] == list(table["path"])
    assert store.absent(table) == {gone}
    store.write_table(tmp_path / "again.csv", table)
    assert (tmp_path / "again.csv").read_text() == text
    (store.root / masks).mkdir()  # made here meanwhile: the store comes first
    assert store.read_table(folder / "predictions.csv")["path"][1].startswith(str(store.root))


def test_images_of_the_layer_are_cached_under_the_name_that_they_have_in_a_store(tmp_path, layer):
    cohort = "cohort-000000000001"
    stack = np.random.default_rng(0).integers(0, 256, (2, 64, 64), np.uint8)
    store = Store(tmp_path / "store")
    for root in (layer, store.root):
        (root / cohort).mkdir(parents=True)
        np.save(root / cohort / "images.npy", stack)
    for root in (layer, store.root):
        cache.cached_images([f"{root}/{cohort}/images.npy#1"], 32, store=store)
    (index,) = store.root.glob("images-*/index.jsonl")
    assert len(index.read_text().splitlines()) == 1
    assert f'"store:{cohort}/images.npy#1"' in index.read_text()
    assert not list(layer.glob("images-*"))


def test_a_kit_inside_of_the_store_still_names_its_layer_as_the_store(tmp_path, monkeypatch):
    inside = tmp_path / "cxrkit" / "layer"
    inside.mkdir(parents=True)
    monkeypatch.setattr(locations, "SHIPPED", inside)
    monkeypatch.delenv("CXRKIT_FRESH")
    store = Store(tmp_path)
    assert store.relative(inside / "cohort-1" / "a.npy") == "store:cohort-1/a.npy"
    assert store.relative(tmp_path / "cohort-1" / "a.npy") == "store:cohort-1/a.npy"


# how an artifact was made


def test_the_note_counts_what_interrupted_processes_worked(tmp_path, monkeypatch):
    note, part = provenance.note_of(tmp_path, "backbone-1"), tmp_path / "backbone-1.part"
    part.mkdir()
    clock = {"now": 1000.0}
    monkeypatch.setattr(provenance.time, "time", lambda: clock["now"])
    monkeypatch.setattr(provenance.time, "monotonic", lambda: clock["now"])
    with pytest.raises(KeyboardInterrupt), provenance.noted(note, part, "cpu", seed=3):
        (part / "checkpoint").write_text("")
        provenance.os.utime(part / "checkpoint", (1060.0, 1060.0))
        raise KeyboardInterrupt
    assert provenance.read_note(tmp_path, "backbone-1") is None, "nothing is finished"
    clock["now"] = 5000.0
    with provenance.noted(note, part, "cpu", seed=3):
        clock["now"] = 5040.0
    made = provenance.read_note(tmp_path, "backbone-1")
    assert made["seconds"] == 100.0  # 60 until the last file of the first process, and 40
    assert made["seed"] == 3 and made["device"] == "cpu" and made["commit"] and made["cores"]
    (part / "checkpoint").unlink()
    with provenance.noted(note, part, "cpu", seed=3):  # deleted, and made anew from nothing
        clock["now"] = 5047.0
    assert provenance.read_note(tmp_path, "backbone-1")["seconds"] == 7.0
    assert provenance.read_note(tmp_path, "backbone-2") is None
