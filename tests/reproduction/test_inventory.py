"""The inventory of a store: what is needed, by whom, and that nothing else is ever removed."""

from dataclasses import replace

import filelock
import pytest
from click.testing import CliRunner

from cxrkit import cli
from cxrkit.config import profiles
from cxrkit.config.settings_file import write_settings
from cxrkit.pipeline import stages
from cxrkit.reproduction import grid, inventory
from cxrkit.storage.artifacts import Store
from cxrkit.storage.atomic import write_json


def artifact(root, name, **settings):
    """A finished folder of 1000 bytes beside its settings."""
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "weights.safetensors").write_bytes(bytes(1000))
    write_json(folder / "settings.json", settings)
    return folder


@pytest.fixture
def store(tmp_path):
    """A backbone of demo, one of nobody, masks, image caches, lessons, data and half a stage."""
    store, demo = Store(tmp_path), profiles.demo()
    segmenter = stages.folder_of(demo, "segmenter", store).name
    cohort = stages.folder_of(demo, "cohort", store).name
    artifact(tmp_path, stages.folder_of(demo, "backbone", store).name)
    artifact(tmp_path, segmenter)
    artifact(tmp_path, cohort)
    artifact(tmp_path, "backbone-000000000000")
    artifact(tmp_path, "masks-111111111111", segmenter=segmenter)
    artifact(tmp_path, "masks-222222222222", segmenter="segmenter-333333333333")
    artifact(tmp_path, "images-444444444444", dataset=f"store:{cohort}")
    artifact(tmp_path, "images-555555555555", dataset="data:cohen")
    artifact(tmp_path, "images-666666666666", dataset="store:cohort-777777777777")
    (tmp_path / "runs" / "demo").mkdir(parents=True)
    (tmp_path / "data" / "cohen").mkdir(parents=True)
    (tmp_path / "severity-888888888888.part").mkdir()
    (tmp_path / "notes").mkdir()
    return store


def names(table):
    return [name.rpartition("/")[2] for name in table["name"]]


def test_each_artifact_is_listed_with_the_profiles_that_need_it(store):
    table = inventory.inventory(store).assign(short=lambda t: names(t)).set_index("short")
    assert len(table) == 9 and not {"runs", "data", "notes"} & set(table.index)
    backbone = stages.folder_of(profiles.demo(), "backbone", store).name
    # mini begins as the backbone of the demo, and the marker study of every profile uses it
    assert table.loc[backbone, "profiles"] == "demo, mini, public, paper"
    assert table.loc["backbone-000000000000", "profiles"] == ""
    assert "demo" in table.loc["masks-111111111111", "profiles"]
    assert table.loc["masks-222222222222", "profiles"] == ""
    assert "demo" in table.loc["images-444444444444", "profiles"]
    assert table.loc["images-555555555555", "profiles"] == "mini, public"
    assert table.loc["images-666666666666", "profiles"] == ""
    assert (table["bytes"] > 1000).all() and (table["bytes"] < 1200).all()


def test_every_cell_of_the_grid_is_needed():
    needed = inventory.needed_by(profiles.demo())
    for cell in [*grid.grid_cells(profiles.demo()), *grid.rehearsal_cells(profiles.demo())]:
        assert f"{cell.stage}-{cell.key}" in needed


def test_only_what_no_profile_needs_is_removed(store):
    root = store.root
    asked = CliRunner().invoke(cli.main, ["store", "clean", "--out", str(root)])
    assert asked.exit_code == 0 and "nothing removed" in asked.output
    before = sorted(path.name for path in root.iterdir())
    assert "backbone-000000000000" in before
    done = CliRunner().invoke(cli.main, ["store", "clean", "--out", str(root), "--yes"])
    assert done.exit_code == 0 and "removed: 3 folders" in done.output
    gone = {"backbone-000000000000", "masks-222222222222", "images-666666666666"}
    left = {path.name for path in root.iterdir() if not path.name.endswith(".lock")}
    assert set(before) - left == gone


def test_what_another_process_makes_anew_is_left_alone(store):
    table = inventory.unneeded(store)
    folder = store.root / "backbone-000000000000"
    with filelock.FileLock(folder.with_name(f"{folder.name}.lock")):
        inventory.remove(table[table["name"] == str(folder)])
    assert folder.is_dir()


def test_keep_names_the_profiles_that_count(store):
    kept = inventory.inventory(store, ["mini"]).set_index("name")
    cohen = str(store.root / "images-555555555555")
    assert kept.loc[cohen, "profiles"] == "mini"
    only_demo = inventory.inventory(store, ["demo"]).set_index("name")
    assert only_demo.loc[cohen, "profiles"] == ""
    asked = CliRunner().invoke(
        cli.main, ["store", "clean", "--out", str(store.root), "--keep", "nobody"]
    )
    assert asked.exit_code == 1 and "unknown profile 'nobody'" in asked.output


def test_an_empty_store_is_said_to_be_empty(tmp_path):
    asked = CliRunner().invoke(cli.main, ["store", "list", "--out", str(tmp_path)])
    assert asked.exit_code == 0 and "empty" in asked.output


def test_all_seeds_of_the_grid_are_needed():
    demo = profiles.demo()
    needed = inventory.needed_by(demo)
    for seed in demo.grid.seeds:
        for cell in grid.grid_cells(replace(demo, seed=seed)):
            assert f"{cell.stage}-{cell.key}" in needed


def test_what_a_changed_profile_made_in_this_store_is_needed_by_it(store):
    ours = replace(profiles.demo(), name="ours", seed=77)
    folder = artifact(store.root, stages.folder_of(ours, "cohort", store).name)
    assert folder.name in names(inventory.unneeded(store))
    write_settings(ours, store.root / "runs" / "ours" / "settings.yaml")
    table = inventory.inventory(store).set_index("name")
    assert table.loc[str(folder), "profiles"] == "ours"
    assert folder.name in names(inventory.unneeded(store, ["demo"]))


def test_folders_of_an_earlier_version_are_needed_by_nobody(store):
    for stage, settings in (("images", {"films": 3}), ("masks", {"segmenter": {"recipe": 2}})):
        folder = artifact(store.root, f"{stage}-999999999999", **settings)
        assert folder.name in names(inventory.unneeded(store))


def test_a_removal_that_was_cut_off_is_completed_and_links_are_left_alone(store, monkeypatch):
    table = inventory.unneeded(store)

    def cut_off(folder):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(inventory.shutil, "rmtree", cut_off)
        with pytest.raises(KeyboardInterrupt):
            inventory.remove(table)
    assert not (store.root / "backbone-000000000000").exists(), "never half of an artifact"
    elsewhere = artifact(store.root / "notes", "backbone-aaaaaaaaaaaa")
    (store.root / elsewhere.name).symlink_to(elsewhere)
    left = inventory.unneeded(store)
    assert "backbone-000000000000.removed" in names(left) and elsewhere.name not in names(left)
    inventory.remove(left)
    assert inventory.unneeded(store).empty and elsewhere.is_dir()
