"""Tables that the paper's own hospitals make: Table 6 in turn, AP by CNUH alone, Figure 7."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from cxrkit.config import profiles, sections
from cxrkit.config.settings_file import write_settings
from cxrkit.pipeline import makers, stages, task_data
from cxrkit.reproduction import grid, ledger, runner
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


def test_a_hospital_that_trains_elsewhere_is_tested_on_its_test_split_alone():
    """In `public` Brixia's films train the classifier that the severity model begins with."""
    public = profiles.public()
    splits = ["train", "test", "train", "test"]
    table = pd.DataFrame({"site": np.repeat(profiles.TURNS, 2), "split": splits})
    table["dataset"], table["group_id"] = table["site"], [f"g{i}" for i in range(4)]
    table = task_data.with_external(table, public.external)
    cohen, brixia = (severity.hold_out(table, site, profiles.TURNS) for site in profiles.TURNS)
    assert cohen.loc[cohen["external"], "split"].tolist() == ["train", "test"]
    assert set(cohen.loc[~cohen["external"], "site"]) == {"brixia"}
    assert brixia.loc[brixia["external"], "split"].tolist() == ["test"]
    assert set(brixia.loc[~brixia["external"], "site"]) == {"cohen"}
    for without in ("public-cohen", "public-brixia"):
        assert profiles.get(without).severity == sections.Severity()


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


def shown_at_turns(tmp_path, profile):
    """Rows of Table 6 on the MSE, as the ledger shows them once all turns were measured."""
    virtual = replace(profile, manifests=("virtual",))  # no real image enters a key

    def make(folder):
        leaf = {"value": 1.0, "low": 0.5, "high": 1.5, "n": 9}
        metrics = {"mse": leaf, "constant": {"mse": leaf}}
        write_json(folder / "metrics.json", {"external": metrics, "sites": {}})

    store = Store(tmp_path)
    for need in stages.needs_of_alternation(virtual):
        store.load_or_make("severity", stages.settings(need.profile, "severity"), make)
    stages.resolve(virtual, "alternation", store)
    rows = ledger.ledger_table(ledger.measurements(tmp_path, virtual))
    measured = [row for row in rows if row["table"] == "Table 6" and row["measured"] is not None]
    return [row["why"] for row in measured]


def test_brixia_in_turn_is_tested_on_its_test_split_and_says_so(tmp_path):
    """In `public` its other films train the classifier; the paper's hospitals train nothing."""
    brixia, cohen = shown_at_turns(tmp_path / "public", profiles.public())
    assert brixia.startswith("ours: brixia; its test split alone: ")
    assert "its test split alone" not in cohen and cohen.startswith("ours: cohen; ")
    assert all("the same paragraph later says" in why for why in (brixia, cohen))
    of_paper = shown_at_turns(tmp_path / "paper", PAPER)
    assert len(of_paper) == 3 and not any("its test split" in why for why in of_paper)


@pytest.mark.parametrize(
    ("external", "noted"), [((), True), (("north",), False), (("local",), False)]
)
def test_a_hospital_of_local_is_external_by_its_name_or_with_all_of_local(external, noted):
    """As `severity.hold_out` has it."""
    profile = replace(PAPER, external=external)
    leaf = {"value": 1.0, "low": 0.5, "high": 1.5}
    found = ledger._with_notes({"north": {"mse": leaf, "n": 3}}, profile)["north"]
    assert ("note" in found["mse"]) == noted and found["n"] == 3
    table = pd.DataFrame({"site": "north", "dataset": "local", "split": ["train", "test"]})
    table["group_id"] = ["a", "b"]
    held = severity.hold_out(task_data.with_external(table, external), "north", ("north",))
    assert (len(held) == 1) == noted


@pytest.fixture
def no_kernel(monkeypatch):
    """Lessons are recorded as run, and what runs in another process runs here."""
    record = {"seconds": 1.0, "peak_gb": 0.1}
    monkeypatch.setattr(runner, "run_lesson", lambda *args: (record, True))
    monkeypatch.setattr(runner, "call_in_subprocess", lambda function, *args: function(*args))
    monkeypatch.setattr(runner, "_refuse_blocked", lambda root: None)


def test_reproduce_makes_table_6_after_the_lesson_on_severity(tmp_path, no_kernel):
    """One command: the rows of the ledger come from the models that it made."""
    paper = replace(PAPER, name="paper_here", manifests=("virtual",))
    settings = write_settings(paper, tmp_path / "paper_here.yaml")
    store, said = Store(tmp_path), []
    for need in stages.needs_of_alternation(paper):

        def make(folder):
            leaf = {"value": 1.0, "low": 0.5, "high": 1.5, "n": 9}
            write_json(folder / "metrics.json", {"external": {"mse": leaf}, "sites": {}})

        store.load_or_make("severity", stages.settings(need.profile, "severity"), make)
    given = {"profile": str(settings)}
    assert runner.reproduce(given, root=tmp_path, only=("04",), say=said.append) == []
    assert not stages.is_done(paper, "alternation", store), "lesson 04 needs no Table 6"
    assert runner.reproduce(given, root=tmp_path, only=("06",), say=said.append) == []
    assert stages.is_done(paper, "alternation", store)
    assert any("without each of CNUH, YNU, KNUH" in line for line in said)
    rows = ledger.ledger_table(ledger.measurements(tmp_path, paper))
    filled = [row for row in rows if row["table"] == "Table 6" and row["measured"] == 1.0]
    assert len(filled) == 3


def test_a_table_6_that_cannot_be_made_is_a_failure_with_its_reason(tmp_path, no_kernel):
    missing = replace(PAPER, name="missing", manifests=("local",))
    settings = write_settings(missing, tmp_path / "missing.yaml")
    said = []
    given = {"profile": str(settings), "data": str(tmp_path)}
    failed = runner.reproduce(given, root=tmp_path / "store", only=("06",), say=said.append)
    assert failed == ["alternation"]
    assert any("FAILED alternation" in line and "local: no images listed" in line for line in said)


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
