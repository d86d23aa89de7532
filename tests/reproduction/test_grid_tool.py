"""`make grid`: whose row replaces whose, and that neither a failed cell nor an error of measuring
loses what others have reached.
"""

import re

import grid as tool
import pytest

from cxrkit.config import profiles
from cxrkit.reproduction import environment, grid_rows
from cxrkit.reproduction import grid as grid_module
from cxrkit.reproduction.grid import DIAGNOSIS, PROPOSED
from cxrkit.storage import artifacts, recorded

ROW = {
    "profile": "demo",
    "table": "Table 7",
    "cell": "ViT",
    "stage": DIAGNOSIS,
    "seed": 0,
    "key": "a",
}
ORDER = ["ResNet-152", PROPOSED, "ResNet-50"]  # in which the cells end


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    """A store and results of the test's own."""
    monkeypatch.setenv("CXRKIT_STORE", str(tmp_path / "store"))
    monkeypatch.setattr(recorded, "FOLDER", tmp_path / "results")
    monkeypatch.setattr(environment, "provenance", lambda: {"commit": "0", "date": "today"})


@pytest.fixture
def grid(monkeypatch):
    """Call the tool for the ResNets, with cells that make nothing: cells that fail, and those that
    cannot be measured, by name -> (exit status, rows by name).
    """

    def call(failing=(), unmeasured=()):
        def run(cells, *_):
            for cell in sorted(cells, key=lambda cell: ORDER.index(cell.name)):
                yield cell, "it broke" if cell.name in failing else None

        def measure(cell, store, against=None):
            if cell.name in unmeasured:
                raise FileNotFoundError("predictions.csv")
            gap = {}
            if against not in (None, cell):
                gap = dict.fromkeys(grid_rows.DIFFERENCE, 0.1)
            return {
                "profile": "demo",
                "table": cell.table,
                "cell": cell.name,
                "stage": cell.stage,
                "seed": 0,
                "key": cell.key,
                "against": cell.against,
                "metric": "auc",
                **dict.fromkeys(("value", "low", "high"), 0.8),
                **dict.fromkeys(grid_rows.COSTS, 1.0),
                **gap,
            }

        monkeypatch.setattr(grid_module, "run_cells", run)
        monkeypatch.setattr(grid_rows, "measure_cell", measure)
        status = tool.main(["ResNet", "--seeds", "0", "--task", "diagnosis"])
        return status, {row["cell"]: row for row in recorded.read_result("grid")["rows"]}

    return call


def test_a_row_replaces_that_of_its_cell_and_seed():
    """But not one of the same settings, where nobody asked for it."""
    store = artifacts.Store()
    for row, asked in (
        ({"value": 1}, True),
        ({"value": 2, "seed": 1}, True),
        ({"value": 3}, True),
        ({"value": 4}, False),
    ):
        tool.keep(ROW | row, store, asked)
    assert [(row["seed"], row["value"]) for row in recorded.read_result("grid")["rows"]] == [
        (1, 2),
        (0, 3),
    ]
    tool.keep(ROW | {"value": 5, "key": "b"}, store, False)
    assert [(row["seed"], row["value"]) for row in recorded.read_result("grid")["rows"]] == [
        (1, 2),
        (0, 5),
    ], "other settings: the old row is stale"
    tool.keep(ROW | {"value": 6, "key": "c", "hospitals": 4}, store, True)
    tool.keep(ROW | {"value": 7, "key": "d", "steps": 4800}, store, True)
    assert [row["value"] for row in recorded.read_result("grid")["rows"]] == [2, 5, 6, 7], (
        "a row of another version of the hospitals, or of other steps, stays"
    )


def test_every_cell_is_written_when_none_fails(grid, capsys):
    status, rows = grid()
    assert status == 0 and set(rows) == {PROPOSED, "ResNet-50", "ResNet-152"}
    assert [name for name, row in rows.items() if "difference" not in row] == [PROPOSED]
    assert capsys.readouterr().out.count(": done\n") == 3


def test_a_cell_outlives_the_failure_of_what_it_is_compared_with(grid, capsys):
    """It is written without a difference, whether it was done before that failure or after it, but
    not over a row that has one.
    """
    status, rows = grid(failing=[PROPOSED])
    said = capsys.readouterr().out
    assert (
        status == 1
        and set(rows) == {"ResNet-50", "ResNet-152"}
        and not any("difference" in row for row in rows.values())
    )
    assert (
        "proposed, diagnosis_pa: it broke" in said
        and said.count("no difference: proposed, which it is compared with, failed") == 2
    )
    assert (
        grid()[1]["ResNet-50"]["difference"]
        == grid(failing=[PROPOSED])[1]["ResNet-50"]["difference"]
        == 0.1
    )


def test_a_cell_that_cannot_be_measured_fails_alone(grid, capsys):
    status, rows = grid(unmeasured=["ResNet-152"])
    assert (
        status == 1 and set(rows) == {PROPOSED, "ResNet-50"} and "difference" in rows["ResNet-50"]
    )
    assert (
        "ResNet-152, diagnosis_pa: not measured: FileNotFoundError: predictions.csv"
        in capsys.readouterr().out
    )


def page_of(tmp_path):
    """Cell -> what the page says of it, for diagnosis and seed 0."""
    text = (tmp_path / "results" / "grid.html").read_text()
    line = (
        r'<tr><td>([^<]*)<br><span class="soft">diagnosis_pa</span></td>\s*'
        r"<td[^>]*><b>(.*?)</b>(.*?)</td>"
    )
    rows = re.findall(line, text)
    return {name: (state, rest) for name, state, rest in rows}


def test_the_page_says_what_is_done_failed_and_not_run(grid, tmp_path):
    grid(failing=["ResNet-50"])
    found = page_of(tmp_path)
    assert found["ResNet-152"][0] == found[PROPOSED][0] == "done"
    assert "AUC 0.800 [0.800, 0.800]" in found["ResNet-152"][1]
    assert found["ResNet-50"][0] == "failed" and "it broke" in found["ResNet-50"][1]
    assert found["ViT"][0] == "not run"
    grid()  # the next call makes it
    assert page_of(tmp_path)["ResNet-50"][0] == "done"


def test_the_page_alone_makes_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(grid_module, "run_cells", None)
    assert tool.main(["--page"]) == 0
    assert {state for state, _ in page_of(tmp_path).values()} == {"not run"}
    assert recorded.result_names() == []


def test_what_a_cell_is_compared_with_is_made_too_and_so_on():
    cells, asked = tool.chosen(profiles.demo(), ("simclr: vit",), False, [DIAGNOSIS])
    assert [cell.name for cell in cells] == [PROPOSED, "ViT", "SimCLR: ViT"] and [
        cell.name for cell in asked
    ] == ["SimCLR: ViT"]


def test_a_whole_name_means_that_cell_and_a_beginning_means_all_that_begin_so():
    asked = tool.chosen(profiles.demo(), ("hybrid vit", "resnet"), False, [DIAGNOSIS])[1]
    assert [cell.name for cell in asked] == ["ResNet-50", "ResNet-152", "hybrid ViT"]
    asked = tool.chosen(profiles.demo(), ("hybrid",), False, [DIAGNOSIS])[1]
    assert [cell.name for cell in asked] == ["hybrid ViT", "hybrid ViT, from findings"]
