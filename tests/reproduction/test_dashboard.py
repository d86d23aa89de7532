"""The page on a running grid: states that several processes write, curves, nothing from outside."""

import os
import re
from dataclasses import replace

import psutil
import pytest

from cxrkit.config import profiles
from cxrkit.reproduction import dashboard, grid, grid_rows
from cxrkit.storage import artifacts, atomic

DEMO = profiles.demo()
CELLS = [
    cell
    for seed in (0, 1)
    for cell in grid.grid_cells(replace(DEMO, seed=seed))
    if cell.table == "Table 7"
]
CURVE = {"curve": "10:0.50 20:0.70 30:0.71", "curve_of": "score", "converged": True}


@pytest.fixture
def store(tmp_path):
    return artifacts.Store(tmp_path)


def row_of(cell, **more):
    return {
        "table": cell.table,
        "cell": cell.name,
        "stage": cell.stage,
        "against": cell.against,
        "profile": "demo",
        "seed": cell.seed,
        "key": cell.key,
        "metric": "auc",
        "value": 0.8,
        "low": 0.7,
        "high": 0.9,
        **dict.fromkeys(grid_rows.COSTS, 1.0),
        **more,
    }


def entry(cell, rows, store):
    return dashboard.cell_entry(cell, rows, dashboard._read(store), store)


def page_of(rows, store, tmp_path):
    path = tmp_path / "grid.html"
    dashboard.write_dashboard(path, DEMO, CELLS, rows, store)
    return path.read_text()


def test_a_recorded_row_is_done_with_its_curve_and_one_of_other_settings_is_not(store):
    first, second = CELLS[:2]
    done = entry(first, [row_of(first, **CURVE)], store)
    assert done["state"] == "done" and done["text"] == "AUC 0.800 [0.700, 0.900]"
    assert "<polyline" in done["curve"] and done["note"] == "converged (score)"
    assert entry(first, [row_of(first)], store)["note"] == "no curve kept"
    rising = [row_of(first, **CURVE | {"converged": False})]
    doubled = dashboard.cell_entry(first, rising, {}, store, flat={first.name})
    assert doubled["note"] == "converged (twice the steps bring too little)"
    old = entry(second, [row_of(second, key="of older settings")], store)
    assert (old["state"], old["note"]) == ("not run", "recorded with other settings")


def test_a_curve_comes_from_the_artifact_where_the_row_has_none(store):
    cell = CELLS[0]
    history = [{"step": step, "loss": 1.0 / step} for step in range(1, 9)]
    atomic.write_json(cell.folder(store) / "history.json", history)
    assert entry(cell, [], store)["text"] == "made, and not recorded yet"
    found = entry(cell, [row_of(cell)], store)
    assert "<polyline" in found["curve"] and found["note"] == "not converged (loss)"


def test_states_of_several_processes_are_kept(store, monkeypatch):
    running, failed, queued, gone = CELLS[:4]
    dashboard.mark(store, running, dashboard.RUNNING)
    dashboard.mark(store, failed, dashboard.FAILED, "RuntimeError: it broke")
    dashboard.mark(store, queued, dashboard.QUEUED)
    child = psutil.Popen(["sleep", "0"])
    child.wait()
    monkeypatch.setattr(os, "getpid", lambda: child.pid)  # a process that has ended
    dashboard.mark(store, gone, dashboard.RUNNING)
    monkeypatch.undo()
    states = [entry(cell, [], store)["state"] for cell in CELLS[:5]]
    assert states == ["running", "failed", "queued", "stopped", "not run"]
    assert entry(failed, [], store)["text"] == "RuntimeError: it broke"
    part = queued.folder(store)
    part.with_name(part.name + ".part").mkdir()
    assert entry(queued, [], store)["state"] == "running"
    dashboard.forget_running(store)
    states = [entry(cell, [], store)["state"] for cell in CELLS[:4]]
    assert states == ["not run", "failed", "not run", "stopped"]
    dashboard.mark(store, failed, dashboard.DONE)
    assert entry(failed, [], store)["state"] == "not run"


def test_the_page_counts_and_shows_every_cell_and_fetches_nothing(store, tmp_path):
    rows = [row_of(cell, **CURVE) for cell in CELLS[:3]]
    dashboard.mark(store, CELLS[4], dashboard.FAILED, "<b>ValueError</b>")
    page = page_of(rows, store, tmp_path)
    assert "3 done" in page and "1 failed" in page and f"{len(CELLS) - 4} not run" in page
    assert page.count('class="state') == len(CELLS)
    assert page.count("<svg") == 3
    assert "&lt;b&gt;ValueError" in page and "<script" not in page
    assert not re.findall(r"""(?:src|href)=|https?:|@import|url\(""", page)
    assert "http-equiv" not in page, "nothing runs: the page stays as it is"


def test_while_cells_run_the_page_reloads_itself(store, tmp_path):
    dashboard.mark(store, CELLS[0], dashboard.RUNNING)
    assert '<meta http-equiv="refresh"' in page_of([], store, tmp_path)


def test_the_word_of_a_cell_stands_beside_it(store, tmp_path):
    names = {cell.name for cell in CELLS}
    rows = []
    for seed, noise in enumerate((-0.001, 0.0, 0.001)):
        for cell in grid.grid_cells(replace(DEMO, seed=seed)):
            if cell.name in names and cell.table == "Table 7":
                less = dict.fromkeys(grid_rows.DIFFERENCE, -0.1 + noise)
                more = {} if cell.name == grid.PROPOSED else less
                rows.append(row_of(cell, **more))
    shown = [cell for seed in (0, 1, 2) for cell in grid.grid_cells(replace(DEMO, seed=seed))]
    path = tmp_path / "grid.html"
    dashboard.write_dashboard(path, DEMO, shown, rows, store)
    words = re.findall(
        r"<td>(better|worse|equivalent|undecided|the proposed model|not run)</td></tr>",
        path.read_text(),
    )
    assert words.count("worse") == len(names) - 1 and words.count("the proposed model") == 1


def test_a_curve_is_drawn_inside_its_frame():
    svg = dashboard.curve_svg("1:0.5 2:0.9 3:0.1")
    points = [pair.split(",") for pair in re.search(r'points="(.*?)"', svg)[1].split()]
    x, y = ([float(value) for value in values] for values in zip(*points, strict=True))
    assert x == sorted(x) and 0 <= min(x) and max(x) <= dashboard.WIDTH
    assert min(y) == y[1] and max(y) == y[2] and max(y) <= dashboard.HEIGHT
    assert dashboard.curve_svg("1:0.5 2:0.5") and dashboard.curve_svg("") == ""


def test_a_begun_cell_is_announced_before_it_is_made(store, monkeypatch):
    seen = []
    monkeypatch.setattr(grid, "make_stage", lambda *_: seen.append("made"))
    list(grid.run_cells(CELLS[:2], store, begun=lambda cell: seen.append(cell.name)))
    assert seen == [CELLS[0].name, "made", CELLS[1].name, "made"]
