"""A page on the grid while it runs: what is done, running, failed and not run, with curves.

The page is plain HTML without scripts and fetches nothing. Several processes may work on one grid,
such as the tasks of a job array: what runs and what failed stands in a file of their store.
"""

from __future__ import annotations

import html
import os
import platform
from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import psutil

from cxrkit.config.sections import Profile
from cxrkit.reproduction import comparisons, grid_leaves, grid_rows, templates
from cxrkit.reproduction.comparisons import NOT_RUN
from cxrkit.reproduction.grid import Cell
from cxrkit.storage.artifacts import Store
from cxrkit.storage.atomic import read_json, write_atomic, write_json

DONE, RUNNING, QUEUED, FAILED, STOPPED = "done", "running", "queued", "failed", "stopped"
STATES = (DONE, RUNNING, QUEUED, FAILED, STOPPED, NOT_RUN)
STATE_FILE = "grid_state.json"  # in the store
WIDTH, HEIGHT = 132, 30  # px of a curve


# what runs, and what failed


def _now() -> str:
    """The time, in UTC, to the minute."""
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")


def _name(cell: Cell) -> str:
    """A name for a cell that no other cell has, also of another seed or of other settings."""
    return f"{cell.stage}-{cell.key}"


def mark(store: Store, cell: Cell, state: str, message: str = "") -> None:
    """Say in the store what became of a cell.

    Args:
        store: of the grid.
        cell: of the grid.
        state: RUNNING; QUEUED, handed to workers; FAILED; or DONE, which forgets what was said.
        message: what failed.
    """
    entry = {
        "state": state,
        "message": message,
        "since": _now(),
        "host": platform.node(),
        "process": os.getpid(),
    }
    with filelock.FileLock(store.root / "grid_state.lock"):
        states = _read(store)
        states.pop(_name(cell), None)
        if state != DONE:
            states[_name(cell)] = entry
        write_json(store.root / STATE_FILE, states)


def forget_running(store: Store) -> None:
    """Forget what this process was about to make: it ends."""
    with filelock.FileLock(store.root / "grid_state.lock"):
        kept = {}
        for name, entry in _read(store).items():
            own = (entry["host"], entry["process"]) == (platform.node(), os.getpid())
            if not own or entry["state"] == FAILED:
                kept[name] = entry
        write_json(store.root / STATE_FILE, kept)


def _read(store: Store) -> dict[str, dict[str, Any]]:
    """Name of a cell -> its entry; {} where nothing was said yet."""
    path = store.root / STATE_FILE
    return read_json(path) if path.exists() else {}


def _alive(entry: dict[str, Any]) -> bool:
    """Whether the process of an entry may still run; one of another machine may."""
    return entry["host"] != platform.node() or psutil.pid_exists(entry["process"])


# the page


def cell_entry(
    cell: Cell,
    rows: Iterable[dict[str, Any]],
    states: dict[str, dict[str, Any]],
    store: Store,
    flat: Collection[str] = (),
) -> dict[str, Any]:
    """What the page says of a cell.

    Args:
        cell: of the grid.
        rows: recorded.
        states: of the store.
        store: where a curve may lie that no row keeps.
        flat: names of the cells of its stage to which twice the steps bring too little.

    Returns:
        `state`, one of STATES; `text`; `curve`, an SVG or ""; and `note`.
    """
    wanted = (cell.profile.name, cell.table, cell.name, cell.stage, cell.seed)
    note = ""
    for row in rows:
        if wanted != tuple(row[name] for name in ("profile", "table", "cell", "stage", "seed")):
            continue
        if row["key"] == cell.key:
            return _of_row(row, cell, store, cell.name in flat)
        note = "recorded with other settings"
    entry = states.get(_name(cell))
    if entry is None and cell.folder(store).exists():
        return {"state": DONE, "text": "made, and not recorded yet", "curve": "", "note": note}
    if entry is None:
        return {"state": NOT_RUN, "text": "", "curve": "", "note": note}
    state, folder = entry["state"], cell.folder(store)
    if state == QUEUED and folder.with_name(f"{folder.name}.part").exists():
        state = RUNNING  # a worker on this disk has begun
    if state != FAILED and not _alive(entry):
        state = STOPPED
    text = entry["message"] or f"since {entry['since']}"
    return {"state": state, "text": text, "curve": "", "note": note}


def _of_row(row: dict[str, Any], cell: Cell, store: Store, flat: bool) -> dict[str, Any]:
    """The entry of a recorded row; `flat` overrules its curve (`grid_leaves.flat_when_doubled`)."""
    kept, history = row, cell.folder(store) / "history.json"
    if "curve" not in row and history.exists():
        kept = grid_rows.training_curve(read_json(history))
    text = f"{row['metric'].upper()} {row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
    note = comparisons.NO_CURVE
    if flat:
        note = f"{comparisons.CONVERGED} (twice the steps bring too little)"
    elif kept.get("curve"):
        word = comparisons.CONVERGED if kept["converged"] else comparisons.NOT_CONVERGED
        note = f"{word} ({kept['curve_of']})"
    curve = curve_svg(kept.get("curve", ""))
    return {"state": DONE, "text": text, "curve": curve, "note": note}


def curve_svg(curve: str) -> str:
    """A curve of `grid_rows.training_curve` as an SVG element; "" for none.

    Args:
        curve: "step:value" with a blank between.
    """
    if not curve:
        return ""
    points = np.array([[float(part) for part in pair.split(":")] for pair in curve.split()])
    steps, values = points.T
    span, height = np.ptp(steps) or 1.0, np.ptp(values) or 1.0
    x = 2 + (WIDTH - 4) * (steps - steps[0]) / span
    y = 2 + (HEIGHT - 4) * (values.max() - values) / height
    line = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
    title = f"from {values[0]:.3f} to {values[-1]:.3f}, {steps[-1]:.0f} steps"
    return (
        f'<svg width="{WIDTH}" height="{HEIGHT}" role="img" aria-label="{html.escape(title)}">'
        f"<title>{html.escape(title)}</title>"
        f'<polyline points="{line}" fill="none" stroke="currentColor" stroke-width="1.5"/></svg>'
    )


def context(
    profile: Profile, cells: Sequence[Cell], rows: Sequence[dict[str, Any]], store: Store
) -> dict[str, Any]:
    """All that the page shows, as plain values.

    Args:
        profile: of the grid.
        cells: of all seeds.
        rows: recorded.
        store: of the grid.
    """
    states, seeds = _read(store), sorted({cell.seed for cell in cells})
    stages = {cell.stage for cell in cells}
    flat = {stage: grid_leaves.flat_when_doubled(profile, stage) for stage in stages}
    tables: dict[str, dict[tuple[str, str], dict[int, dict[str, Any]]]] = {}
    for cell in sorted(cells, key=lambda cell: (len(cell.table), cell.table)):
        entry = cell_entry(cell, rows, states, store, flat[cell.stage])
        line = tables.setdefault(cell.table, {}).setdefault((cell.name, cell.stage), {})
        line[cell.seed] = entry
    found = [
        entry for lines in tables.values() for line in lines.values() for entry in line.values()
    ]
    counts = {state: sum(entry["state"] == state for entry in found) for state in STATES}
    return {
        "profile": profile.name,
        "written": _now(),
        "seeds": seeds,
        "tables": tables,
        "counts": counts,
        "refresh": counts[RUNNING] + counts[QUEUED] > 0,
        "words": _words(cells, rows),
    }


def _words(
    cells: Sequence[Cell], rows: Sequence[dict[str, Any]]
) -> dict[tuple[str, str, str], str]:
    """(table, name, stage) -> the word on a cell, over the seeds that are done."""
    keys = {cell.key for cell in cells}
    own = [row for row in rows if row["key"] in keys]
    if not own:
        return {}
    table = comparisons.over_seeds(own)
    return {
        (row["table"], row["cell"], row["stage"]): row["conclusion"]
        for row in table.to_dict("records")
    }


def write_dashboard(
    path: Path,
    profile: Profile,
    cells: Sequence[Cell],
    rows: Sequence[dict[str, Any]],
    store: Store,
) -> None:
    """Write the page.

    Args:
        path: of the page.
        profile: of the grid.
        cells: of all seeds.
        rows: recorded.
        store: of the grid.
    """
    values = context(profile, cells, rows, store)
    write_atomic(path, templates.render("dashboard.html.j2", values))
