"""The paper's cells that a person read: what the ledger takes, and what a wrong file says."""

import json

import pytest

from cxrkit.reproduction import ledger, paper_cells

KEY = "comparison.diagnosis.resnet_50.auc"
QUANTITY = "diagnosis with ResNet-50: AUC"
GOOD = {
    "cell": KEY,
    "quantity": QUANTITY,
    "value": 0.5,
    "source": "a journal, page 1, Table 7",
    "reader": "A. Reader",
}


@pytest.fixture
def write(tmp_path):
    """Function that writes a file of cells and gives its path."""

    def make(*cells, text=None):
        path = tmp_path / "cells.json"
        path.write_text(json.dumps({"cells": list(cells)}) if text is None else text)
        return path

    return make


def line_of(path, quantity=QUANTITY):
    lines = {line["quantity"]: line for line in ledger.ledger_table({}, path)}
    return lines[quantity]


def test_the_file_of_the_kit_has_every_lost_cell_and_no_value():
    """Who has the journal at hand fills it in; it is what `template` writes."""
    fillable = ledger.fillable_cells()
    assert paper_cells.FILE.read_text("utf-8") == paper_cells.template(fillable)
    assert paper_cells.read_cells(fillable, ledger.HOSPITALS, paper_cells.FILE) == {}
    lost = {
        row.key
        for row in ledger.paper_rows()
        if row.status == ledger.LOST and row.table in ledger.COMPARED
    }
    assert lost <= set(fillable) and KEY in fillable


def test_without_a_reader_a_cell_stays_not_available(write):
    line = line_of(write({**GOOD, "value": None, "source": "", "reader": ""}))
    assert (line["paper"], line["status"]) == ("", "not available")


def test_a_cell_that_was_read_stands_with_its_source_and_reader(write):
    line = line_of(write(GOOD))
    assert (line["paper"], line["status"]) == ("0.5", "read in another source")
    assert "a journal, page 1, Table 7, read by A. Reader" in line["why"]


def test_a_value_of_each_hospital(write):
    values = {"CNUH": 0.5, "YNU": 0.625, "KNUH": 1}
    line = line_of(write({**GOOD, "value": values}))
    assert line["paper"] == "0.5, 0.625, 1 (CNUH, YNU, KNUH)"


def test_a_bound_of_the_text_gives_way_to_a_number(write):
    key = "diagnosis_ap.sites.CNUH.auc"
    quantity = ledger.fillable_cells()[key]
    line = line_of(write({**GOOD, "cell": key, "quantity": quantity, "value": 0.75}), quantity)
    assert line["paper"] == "0.75"


def test_our_number_is_compared_with_the_paper_only_at_the_same_hospital(write):
    key = "diagnosis_pa.sites.CNUH.auc"
    path = write({**GOOD, "cell": key, "quantity": "", "value": 0.75})
    leaf = {"value": 0.9, "low": 0.85, "high": 0.95}
    for site, than in (("CNUH", "the paper's number"), ("dogwood", "chance (0.5)")):
        lines = ledger.ledger_table({"diagnosis_pa": {"sites": {site: {"auc": leaf}}}}, path)
        line = next(one for one in lines if one["quantity"] == ledger.fillable_cells()[key])
        assert (line["conclusion"], line["than"]) == ("better", than)


def test_the_environment_names_another_file(write, monkeypatch):
    monkeypatch.setenv(paper_cells.VARIABLE, str(write(GOOD)))
    assert line_of(None)["paper"] == "0.5"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"cell": "comparison.diagnosis.nobody.auc"}, "no such cell"),
        ({"cell": "severity.sites.CNUH.mse"}, "no such cell, or the text gives its number"),
        ({"quantity": "diagnosis with ViT: AUC"}, "correct cell or quantity"),
        ({"value": "0.5"}, "a value is a number without quotes"),
        ({"value": True}, "a value is a number without quotes"),
        ({"value": 93.4}, "is not between 0 and 1; as a share that is 0.934"),
        ({"value": -0.1}, "is not between 0 and 1"),
        ({"value": {"CNHU": 0.5}}, "unknown hospital 'CNHU'; known: ['CNUH', 'YNU', 'KNUH']"),
        ({"value": {}}, "write a number, or null"),
        ({"source": " "}, "its source is empty"),
        ({"reader": ""}, "its reader is empty"),
        ({"readers": "two"}, "a cell has the fields cell, value, source, reader, quantity"),
    ],
    ids=lambda value: value if isinstance(value, str) else next(iter(value)),
)
def test_a_wrong_cell_names_file_cell_and_repair(write, change, said):
    path = write({**GOOD, "cell": "diagnosis_pa.sites.YNU.auc", "quantity": ""}, GOOD | change)
    with pytest.raises(ValueError) as raised:
        ledger.ledger_table({}, path)
    assert str(raised.value).startswith(f"{path}, cell 2") and said in str(raised.value)


def test_a_cell_that_stands_twice_is_refused(write):
    with pytest.raises(ValueError, match="cell 2 .*it stands twice; delete one"):
        ledger.ledger_table({}, write(GOOD, GOOD))


@pytest.mark.parametrize("text", ["{", "[]", '{"cell": []}', '{"cells": {}}'])
def test_a_file_of_another_form_names_one_to_compare_with(write, text):
    path = write(text=text)
    with pytest.raises(ValueError) as raised:
        ledger.ledger_table({}, path)
    assert str(path) in str(raised.value) and str(paper_cells.FILE) in str(raised.value)


def test_a_missing_file_names_the_variable(tmp_path):
    with pytest.raises(ValueError, match="no such file; CXRKIT_PAPER_CELLS names it"):
        ledger.ledger_table({}, tmp_path / "none.json")
