"""Tables that the paper's own hospitals make: Table 6 in turn, AP by CNUH alone, Figure 7."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from cxrkit.config import profiles
from cxrkit.pipeline import makers, stages, task_data
from cxrkit.reproduction import grid, ledger
from cxrkit.storage.artifacts import Store
from cxrkit.storage.atomic import read_json, write_json
from cxrkit.tasks import severity
from tests.fakes import trees

PAPER = profiles.paper()


def hospitals(**more):
    """Two images of each hospital of the paper, of Brixia and of a hospital that always trains."""
    sites = [*profiles.HOSPITALS, "brixia", "here"]
    table = pd.DataFrame({"site": np.repeat(sites, 2), "path": range(10)}).assign(**more)
    table["dataset"] = table["site"].where(table["site"] == "brixia", "local")
    table["group_id"] = [f"g{i}" for i in range(10)]
    return task_data.with_external(table, PAPER.external)


@pytest.mark.parametrize("site", profiles.HOSPITALS)
def test_one_hospital_tests_and_the_two_others_train_with_brixia(site):
    table = severity.hold_out(hospitals(), site, profiles.HOSPITALS)
    external = table["external"]
    assert set(table.loc[external, "site"]) == {site}
    assert set(table.loc[~external, "site"]) == {*profiles.HOSPITALS, "brixia", "here"} - {site}


def test_without_turns_external_hospitals_are_left_out():
    table = severity.hold_out(hospitals(), "here")
    assert set(table["site"]) == {"here", "brixia"}
    with pytest.raises(ValueError, match="unknown training hospital 'CNUH'"):
        severity.hold_out(hospitals(), "CNUH")


def test_a_patient_of_the_held_out_hospital_trains_at_no_other():
    table = hospitals()
    table.loc[table["path"] == 9, "group_id"] = "g0"  # one of "here" was seen at CNUH too
    held = severity.hold_out(table, "CNUH", profiles.HOSPITALS)
    assert 9 not in set(held["path"]) and len(held) == 9


def test_brixia_alone_is_another_training_than_ours():
    """With the three hospitals aside both trained on the same images."""
    turns = severity.hold_out(hospitals(), "CNUH", profiles.HOSPITALS)
    alone = severity.trained_at(turns, PAPER.grid.alone)
    assert set(turns.loc[~turns["external"], "site"]) == {"brixia", "here", "YNU", "KNUH"}
    assert set(alone.loc[~alone["external"], "site"]) == {"brixia"}
    assert set(alone.loc[alone["external"], "site"]) == {"CNUH"}
    assert "Brixia alone" not in {cell.name for cell in grid.grid_cells(profiles.public())}


def test_ap_sets_one_hospital_aside_and_pa_three():
    for view, expected in (("PA", profiles.HOSPITALS), ("AP", profiles.HOSPITALS[:1])):
        seen = task_data.external_to_view(hospitals(), PAPER, view)
        assert set(seen.loc[seen["external"], "site"]) == set(expected)
    key = stages.settings(PAPER, "diagnosis_pa")
    assert "sources.external_ap" not in key
    assert stages.settings(PAPER, "diagnosis_ap")["sources.external_ap"] == ("cohen_full", "CNUH")


def test_table_6_is_put_together_from_three_models(tmp_path):
    """Each hospital's numbers come from the model that never saw it."""
    store, rows = Store(tmp_path), {}
    paper = replace(PAPER, manifests=("virtual",))  # no real image enters a key
    for i, need in enumerate(stages.needs_of_alternation(paper)):
        assert need.profile.severity.held_out == need.role

        def make(folder, value=float(i)):
            leaf = {"value": value, "low": value - 1, "high": value + 1, "n": 9}
            write_json(folder / "metrics.json", {"external": {"mse": leaf}, "sites": {}})

        store.load_or_make("severity", stages.settings(need.profile, "severity"), make)
        rows[need.role] = float(i)
    folder = stages.resolve(paper, "alternation", store)
    found = read_json(folder / "metrics.json")["sites"]
    assert {site: metrics["mse"]["value"] for site, metrics in found.items()} == rows
    measured = ledger.measurements(tmp_path, paper)
    shown = {row["quantity"]: row["measured"] for row in ledger.ledger_table(measured)}
    for site, value in rows.items():
        assert shown[f"severity, external hospital {site}: MSE"] == value


def test_a_profile_without_turns_says_how_to_name_them(tmp_path):
    with pytest.raises(ValueError, match=r"severity.alternation=\[north,south\]"):
        stages.resolve(profiles.demo(), "alternation", Store(tmp_path))


def test_outlined_images_are_those_without_a_severity_that_trained_nothing(tmp_path, monkeypatch):
    """Figure 7: of twelve outlined films of another set none has an array."""
    trees.local(tmp_path / "local")
    frame = pd.read_csv(tmp_path / "local" / "films.csv", dtype=str)
    frame.loc[frame["site"] == "here", ["array", "split"]] = ["", "test"]
    frame.to_csv(tmp_path / "local" / "films.csv", index=False)
    only = replace(PAPER, manifests=("local",), external=())
    store = Store(tmp_path / "store", data=tmp_path)
    inputs = makers.StageInputs(store, {"segmenter": tmp_path / "segmenter-0"})
    monkeypatch.setattr(makers, "with_masks", lambda profile, table, *_: table)
    known = task_data.images_for(only, "severity", store)
    found = makers.outlined_images(only, inputs, known)
    assert set(found["site"]) == {"here"} and len(found) == 6
    assert found["lesion_mask"].notna().all() and set(found["split"]) == {"test"}
    assert not len(makers.outlined_images(profiles.demo(), inputs, known))
