"""The artifacts that come with the kit: each is of a profile as it is now, whole, and small."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import ship
import torch

from cxrkit.config import profiles
from cxrkit.pipeline import derived, makers, stages
from cxrkit.reproduction import inventory
from cxrkit.storage import atomic, growing, integrity, locations, provenance
from cxrkit.storage.artifacts import Store
from cxrkit.storage.integrity import DamagedArtifact
from cxrkit.training import checkpoint

DEMO = profiles.demo()
WEIGHT = torch.linspace(-3, 3, 64).reshape(8, 8) + 1e-4


def shipped():
    return sorted(locations.SHIPPED.iterdir()) if locations.SHIPPED.is_dir() else []


# what is in the package


def test_every_shipped_artifact_has_the_key_of_its_profile_as_it_is_now():
    """Who changes a recipe ships its result anew (make ship), or takes it out."""
    assert inventory.orphans(locations.SHIPPED) == []


def test_every_shipped_artifact_is_as_it_was_listed():
    for folder in shipped():
        assert integrity.read_list(folder), f"{folder.name} has no {integrity.LIST}"
        assert integrity.faults(folder) == [], folder.name
        listed = set(integrity.read_list(folder)) | {integrity.LIST}
        there = {
            file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()
        }
        assert there == listed, folder.name
        assert all(file.endswith(ship.SUFFIXES) for file in there), f"pixels in {folder.name}"
        settings = atomic.read_json(folder / "settings.json")
        stage = folder.name.partition("-")[0]
        assert Store("x").folder(stage, settings).name == folder.name


def test_the_shipped_artifacts_are_small():
    assert sum(inventory.size_of(folder) for folder in shipped()) <= ship.LARGEST


# the tool, on a made-up store


def fill(folder):
    """What a stage leaves, and what is not shipped."""
    checkpoint.save_tensors(folder / "weights.safetensors", {"w": WEIGHT}, profile={"a": 1})
    (folder / "teacher").mkdir()
    checkpoint.save_tensors(folder / "teacher" / "weights.safetensors", {"w": WEIGHT})
    (folder / "checkpoint.safetensors").write_bytes(b"x" * 99)
    np.save(folder / "images.npy", np.zeros((4, 8, 8), np.uint8))
    (folder / "0.png").write_bytes(b"png")
    atomic.write_json(folder / "metrics.json", {"external": {"auc": {"value": 0.9, "low": 0.8}}})
    path = [f"store:{stages.folder_of(DEMO, 'cohort', Store('x')).name}/images.npy#3"]
    pd.DataFrame({"path": path, "p": [0.5]}).to_csv(folder / "predictions.csv", index=False)
    if folder.name.startswith("cohort"):
        (folder / "films.csv").write_text("path,url\nimages.npy#0,virtual://alder/0\n")


def finish(store, profile, stage, noted=True):
    """A made-up artifact of a stage, with or without the note of how it was made."""
    folder = store.load_or_make(stage, stages.settings(profile, stage), fill)
    if noted:
        with provenance.noted(
            provenance.note_of(store.root, folder.name), folder, "cpu", seed=profile.seed
        ):
            pass
    return folder


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def test_what_is_shipped_is_taken_by_an_empty_store(tmp_path, store, layer, capsys):
    source = finish(store, DEMO, "backbone")
    lines = []
    total = ship.ship(ship.plan(DEMO), store, layer, say=lines.append)
    (folder,) = layer.iterdir()
    assert folder.name == source.name and total == inventory.size_of(folder)
    assert sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*.*")) == [
        "files.json",
        "metrics.json",
        "predictions.csv",
        "settings.json",
        "shipped.json",
        "teacher/weights.safetensors",
        "weights.safetensors",
    ]
    assert integrity.faults(folder) == [] and inventory.orphans(layer) == []
    note = atomic.read_json(folder / "shipped.json")
    assert note["made"] == provenance.read_note(store.root, source.name)
    assert (note["profile"], note["seed"], note["weights"]) == ("demo", 0, "float32")
    assert note["left_out"] == ["0.png", "checkpoint.safetensors", "images.npy"]
    assert "segmenter-" in " ".join(lines) and "not made, not shipped" in " ".join(lines)
    assert lines[-1] == f"in all: {total / 1e6:.2f} MB of at most 25 MB"
    empty = Store(tmp_path / "empty")
    assert (
        stages.resolve(DEMO, "backbone", empty) == folder == stages.fetch(DEMO, "backbone", empty)
    )
    assert stages.is_done(DEMO, "backbone", empty) and not empty.root.exists()
    assert stages.finished(DEMO, "backbone", empty) == folder
    assert capsys.readouterr().out.startswith(f"{folder.name} comes with the kit (made ")
    assert torch.equal(checkpoint.load_tensors(folder / "weights.safetensors")[0]["w"], WEIGHT)


def test_more_than_the_limit_is_refused_and_the_layer_stays(store, layer):
    finish(store, DEMO, "backbone")
    ship.ship(ship.plan(DEMO), store, layer, say=str)
    before = {file: file.read_bytes() for file in layer.rglob("*.*")}
    finish(store, DEMO, "segmenter")
    with pytest.raises(ValueError, match=r"more than 0.005 MB, nothing was written.*--stages"):
        ship.ship(ship.plan(DEMO), store, layer, largest=5000, say=str)
    assert {file: file.read_bytes() for file in layer.rglob("*.*")} == before
    assert [path.name for path in layer.parent.iterdir() if "shipping" in path.name] == []


def test_what_cannot_be_accounted_for_is_not_shipped(store, layer):
    source = finish(store, DEMO, "backbone", noted=False)
    with pytest.raises(ValueError, match="how it was made was not noted"):
        ship.ship(ship.plan(DEMO), store, layer, say=str)
    ship.ship(ship.plan(DEMO), store, layer, without_note=True, say=str)
    assert "not noted" in provenance.describe(layer / source.name)
    (source / "metrics.json").write_text("{}")
    with pytest.raises(DamagedArtifact):
        ship.ship(ship.plan(DEMO), store, layer, without_note=True, say=str)


def test_a_changed_recipe_leaves_an_orphan_that_the_next_shipping_removes(store, layer):
    old = replace(DEMO, backbone_training=replace(DEMO.backbone_training, steps=7))
    source = finish(store, old, "backbone")
    ship.ship(ship.plan(old), store, layer, say=str)
    assert inventory.orphans(layer) == [layer / source.name]
    (layer / "notes").mkdir()
    assert inventory.orphans(layer) == [layer / source.name, layer / "notes"]
    new = finish(store, DEMO, "backbone")
    lines = []
    ship.ship(ship.plan(DEMO), store, layer, say=lines.append)
    assert [folder.name for folder in layer.iterdir()] == [new.name]
    assert f"{source.name}: no profile needs it any more, removed" in lines


def test_another_seed_of_the_profile_is_no_orphan(store, layer):
    seeded = replace(DEMO, seed=2)
    source = finish(store, seeded, "backbone")
    ship.ship(ship.plan(seeded), store, layer, say=str)
    assert [folder.name for folder in layer.iterdir()] == [source.name]
    assert inventory.orphans(layer) == []


def test_cells_of_the_grid_come_without_weights(store, layer):
    steps = ship.plan(DEMO, grid=True)
    cells = {name: step for name, step in steps.items() if step.cell}
    assert set(steps) - set(cells) == set(ship.plan(DEMO))
    name, step = next((n, s) for n, s in cells.items() if s.stage == "severity")
    finish(store, step.profile, "severity")
    ship.ship({name: step}, store, layer, say=str)
    assert not list((layer / name).rglob("*.safetensors"))
    assert (layer / name / "metrics.json").exists()
    assert provenance.lacks_weights(layer / name) and integrity.faults(layer / name) == []


@pytest.mark.parametrize("change", [4e-4, 6e-4])
def test_weights_in_16_bit_where_no_headline_moves(store, layer, monkeypatch, change):
    """The stage evaluates the rounded weights again; its metrics and tables are then shipped."""

    def evaluate(folder, profile, inputs):
        weight = checkpoint.load_tensors(folder / "weights.safetensors")[0]["w"]
        assert weight.dtype == torch.float16 and inputs["cohort"].is_dir()
        (folder / "predictions.csv").write_text("path,p\n,0.25\n")
        found = {"auc": {"value": 0.9 + change, "low": 0.7}}
        atomic.write_json(folder / "metrics.json", {"external": found})

    monkeypatch.setitem(
        stages.STAGES, "backbone", replace(stages.STAGES["backbone"], make=evaluate)
    )
    with pytest.raises(ValueError, match="cannot be evaluated again without cohort"):
        finish(store, DEMO, "backbone")
        ship.ship(ship.plan(DEMO), store, layer, bits=16, say=str)
    finish(store, DEMO, "cohort")
    source = stages.folder_of(DEMO, "backbone", store)
    ship.ship(ship.plan(DEMO), store, layer, bits=16, say=str)
    folder = layer / source.name
    note, in_16 = atomic.read_json(folder / "shipped.json"), change <= 5e-4
    assert note["moved"]["metric"] == "external.auc.value"
    assert note["moved"]["by"] == pytest.approx(change)
    assert note["weights"] == ("float16" if in_16 else "float32")
    auc = atomic.read_json(folder / "metrics.json")["external"]["auc"]["value"]
    assert auc == pytest.approx(0.9 + change * in_16)
    assert ("0.25" in (folder / "predictions.csv").read_text()) == in_16
    for name in ("weights.safetensors", "teacher/weights.safetensors"):
        tensors, state = checkpoint.load_tensors(folder / name)
        assert state == ({"profile": {"a": 1}} if name == "weights.safetensors" else {})
        if not in_16:
            assert torch.equal(tensors["w"], WEIGHT)
            continue
        assert tensors["w"].dtype == torch.float16
        # 11 bits of mantissa: half a unit of the last one
        assert (tensors["w"].float() - WEIGHT).abs().le(WEIGHT.abs() * 2**-11).all()
        model = torch.nn.Linear(8, 8, bias=False)
        model.weight.data.zero_()
        model.load_state_dict({"weight": tensors["w"]})
        assert model.weight.dtype == torch.float32 and model.weight.abs().max() > 1


def test_the_headline_that_moved_most():
    before = {"external": {"a": {"auc": {"value": 0.5, "low": 0.1}}, "mse": {"value": 2.0}}}
    after = {"external": {"a": {"auc": {"value": 0.51, "low": 0.9}}, "mse": {"value": 1.97}}}
    assert ship.largest_move(before, before)["by"] == 0
    moved = ship.largest_move(before, after)
    assert moved["metric"] == "external.mse.value" and moved["by"] == pytest.approx(0.03)
    del after["external"]["a"]
    with pytest.raises(ValueError, match="other metrics.*external.a.auc.value"):
        ship.largest_move(before, after)


def test_no_pixels_are_shipped():
    assert not any(ship.is_shipped(locations.Path(name)) for name in ("images.npy", "a.png"))


def test_a_cohort_is_shipped_as_its_table(store, layer, capsys):
    """No film comes along: a store makes its own cohort from the table, and begins without one."""
    source = finish(store, DEMO, "cohort")
    ship.ship(ship.plan(DEMO), store, layer, say=str)
    (folder,) = layer.iterdir()
    assert sorted(file.name for file in folder.iterdir()) == [
        "files.json",
        "films.csv.gz",
        "metrics.json",
        "settings.json",
        "shipped.json",
    ]
    assert integrity.faults(folder) == [] and inventory.orphans(layer) == []
    assert "images.npy" in atomic.read_json(folder / "shipped.json")["left_out"]
    empty = Store(layer.parent / "empty")
    assert not stages.is_done(DEMO, "cohort", empty) and not empty.root.exists()
    made = stages.resolve(DEMO, "cohort", empty)
    assert made == empty.root / source.name and stages.is_done(DEMO, "cohort", empty)
    assert (made / "films.csv").read_bytes() == (source / "films.csv").read_bytes()
    assert f"{folder.name} comes with the kit" in capsys.readouterr().out
    assert growing.grows(made)
    assert set(integrity.read_list(made)) == {"films.csv", "metrics.json", "settings.json"}
    (made / "drawn.npy").write_bytes(b"later")
    assert stages.resolve(DEMO, "cohort", empty) == made and integrity.faults(made) == []
    lines = []
    ship.ship(ship.plan(DEMO), empty, layer, say=lines.append)
    assert f"{folder.name}: not drawn as a whole, not shipped" in lines and folder.is_dir()


def test_masks_that_a_table_names_are_shipped_with_it_and_go_with_it(store, layer):
    masks = np.random.default_rng(0).choice(np.uint8([0, 127, 255]), (5, 8, 8))
    made = store.load_or_make(
        "masks", {"segmenter": "x"}, lambda folder: np.save(folder / "masks.npy", masks)
    )
    source = finish(store, DEMO, "severity")
    table = f"path,lung_mask\na,store:{made.name}/masks.npy#0\nb,store:{made.name}/masks.npy#1\n"
    (source / "predictions.csv").write_text(table)
    integrity.write_list(source)
    steps = ship.plan(DEMO)
    found = ship.masks_of(steps, store)
    assert [(name, step.of) for name, step in found.items()] == [(made.name, source.name)]
    ship.ship(steps | found, store, layer, say=str)
    folder = layer / made.name
    assert integrity.faults(folder) == [] and inventory.orphans(layer) == []
    assert np.array_equal(derived.unpack_masks(folder), masks)
    empty = Store(layer.parent / "empty")
    assert empty.shipped(made.name) == folder and provenance.lacks_pixels(folder)
    assert empty.locate(made.name) == empty.root / made.name
    note = atomic.read_json(folder / "shipped.json")
    assert note["made"] == provenance.read_note(store.root, source.name)
    atomic.write_json(folder / "shipped.json", {**note, "of": "severity-000000000000"})
    assert inventory.orphans(layer) == [folder]
    # the masks of an older table are an orphan there, and are what is shipped
    ship.ship(steps | found, store, layer, say=str)
    assert inventory.orphans(layer) == [] and integrity.faults(folder) == []


def test_a_damaged_table_of_a_cohort_is_refused(store, layer):
    source = finish(store, DEMO, "cohort")
    ship.ship(ship.plan(DEMO), store, layer, say=str)
    (layer / source.name / "films.csv.gz").write_bytes(b"torn")
    with pytest.raises(DamagedArtifact, match=r"films\.csv\.gz.*CXRKIT_FRESH=1"):
        stages.resolve(DEMO, "cohort", Store(layer.parent / "empty"))


def test_fresh_draws_a_cohort_whose_table_comes_with_the_kit(store, layer, monkeypatch):
    finish(store, DEMO, "cohort")
    ship.ship(ship.plan(DEMO), store, layer, say=str)
    asked = []
    monkeypatch.setattr(
        makers.virtual_hospitals, "draw_cohort", lambda folder, *_: asked.append(folder)
    )
    monkeypatch.setenv("CXRKIT_FRESH", "1")
    stages.resolve(DEMO, "cohort", Store(layer.parent / "empty"))
    assert len(asked) == 1
