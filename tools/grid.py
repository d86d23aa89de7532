"""Run Tables 7 to 10 with whole budgets and record what they give: `make grid`.

It resumes: a finished stage is loaded. Cells go seed by seed, the most informative first; each is
written to cxrkit/storage/recorded_results/grid.json as soon as it is done, with commit and date.
Beside it lies grid.html, a page that says what is done, running, failed and not run.
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from typing import Any

import filelock

from cxrkit.config.sections import Profile
from cxrkit.config.settings_file import get_profile
from cxrkit.reproduction import dashboard, environment, grid_rows
from cxrkit.reproduction import grid as grid_module
from cxrkit.reproduction.grid import Cell
from cxrkit.reproduction.watch import signals_raise_exit
from cxrkit.storage import recorded, remote
from cxrkit.storage.artifacts import Store

TASKS = {"diagnosis": grid_module.DIAGNOSIS, "severity": grid_module.SEVERITY}
# fields that name a row
SAME_CELL = ("profile", "table", "cell", "stage", "seed", "hospitals", "steps")


def chosen(
    profile: Profile, only: tuple[str, ...], with_choices: bool, stages: Sequence[str]
) -> tuple[list[Cell], list[Cell]]:
    """The cells of one seed that are asked for.

    Args:
        profile: with the seed.
        only: names in lowercase, or beginnings of names; () = all.
        with_choices: also every other value of the open choices.
        stages: those whose cells are meant.

    Returns:
        These cells and all that they are compared with; and these cells alone.
    """
    cells = grid_module.grid_cells(profile)
    if with_choices:
        cells += grid_module.open_choice_cells(profile)
    asked, names = [], {cell.name.lower() for cell in cells}
    for cell in cells:
        if cell.stage in stages and (not only or _is_meant(cell.name.lower(), only, names)):
            asked.append(cell)
    named, needed, waiting = _by_name(cells), set(), list(asked)
    while waiting:
        cell = waiting.pop()
        if cell not in needed:
            needed.add(cell)
            waiting.append(named[cell.stage, cell.against])
    return [cell for cell in cells if cell in needed], asked


def _is_meant(name: str, only: Sequence[str], names: Collection[str]) -> bool:
    """Whether one of `only` is this name, or the beginning of it and no whole name itself."""
    return any(name == one or (one not in names and name.startswith(one)) for one in only)


def _by_name(cells: Sequence[Cell]) -> dict[tuple[str, str], Cell]:
    """(stage, name) -> cell."""
    return {(cell.stage, cell.name): cell for cell in cells}


def keep(row: dict[str, Any], store: Store, same_settings: bool = True) -> None:
    """Record a row in the place of an older one of the same cell and seed, one process at a time.

    Rows of an earlier version of the virtual hospitals and of other steps stay: they are what is
    known of a cell until enough seeds are done (`grid_leaves.recorded_rows`).

    A cell that was not asked for, but made for others to be compared with, does not replace one of
    the same settings: the differences beside it were taken from that one. A row without the
    difference that it should have does not either.

    Args:
        row: of `grid_rows.measure_cell`.
        store: its folder holds the lock.
        same_settings: whether the row also replaces one of the same settings.
    """
    with filelock.FileLock(store.root / "grid.lock"):
        rows = []
        if "grid" in recorded.result_names():
            rows = recorded.read_result("grid")["rows"]
        others = []
        for other in rows:
            if any(other.get(name) != row.get(name) for name in SAME_CELL):
                others.append(other)
            elif not same_settings and other["key"] == row["key"]:
                return
        made = {"command": "make grid", **environment.provenance()}
        recorded.write_result("grid", [*others, row], made)


def record(cell: Cell, against: Cell | None, store: Store, asked: bool) -> str | None:
    """Measure a finished cell and keep its row.

    Args:
        cell: finished.
        against: what it is compared with; None where that failed.
        store: where both lie.
        asked: whether the cell was asked for.

    Returns:
        None, or what failed here.
    """
    try:
        row = grid_rows.measure_cell(cell, store, against)
        origin = environment.provenance()
        row |= {name: origin[name] for name in ("commit", "date")}
        keep(row, store, same_settings=asked and against is not None)
    except Exception as error:  # whatever it is: the other cells go on
        return f"not measured: {type(error).__name__}: {error}"
    return None


def work(
    cells: Sequence[Cell],
    asked: Sequence[Cell],
    store: Store,
    scheduler: str | None,
    workers: int,
    begun: Callable[[Cell], object] | None = None,
) -> Iterator[tuple[Cell, str, bool]]:
    """Make the cells of one seed; record each as soon as what it is compared with has ended too.

    Args:
        cells: what to make.
        asked: those of them that were asked for.
        store: where the artifacts go.
        scheduler: as in `grid.run_cells`.
        workers: as in `grid.run_cells`.
        begun: as in `grid.run_cells`.

    Yields:
        (cell, message, whether it failed).
    """
    named, ended, waiting = _by_name(cells), {}, []
    running = grid_module.run_cells(cells, store, scheduler, workers, begun)
    with contextlib.closing(running):
        for cell, error in running:
            yield cell, error or "done", bool(error)
            ended[cell.stage, cell.name] = error
            if not error:
                waiting.append(cell)
            for ready in [other for other in waiting if (other.stage, other.against) in ended]:
                waiting.remove(ready)
                lost = ended[ready.stage, ready.against]
                against = None if lost else named[ready.stage, ready.against]
                problem = record(ready, against, store, ready in asked)
                if problem:
                    yield ready, problem, True
                elif lost:
                    message = f"no difference: {ready.against}, which it is compared with, failed"
                    yield ready, message, False


class Page:
    """The page beside the recorded rows, written as cells begin and end.

    Args:
        profile: of the grid.
        seeds: all that the page shows.
        with_choices: whether it shows the open choices too.
        store: of the grid.
        on_workers: whether cells are handed to workers, which begin when they can.
    """

    def __init__(
        self,
        profile: Profile,
        seeds: Sequence[int],
        with_choices: bool,
        store: Store,
        on_workers: bool,
    ) -> None:
        self.profile, self.store = profile, store
        self.begins_as = dashboard.QUEUED if on_workers else dashboard.RUNNING
        self.cells = []
        for seed in seeds:
            self.cells += grid_module.grid_cells(replace(profile, seed=seed))
            if with_choices:
                self.cells += grid_module.open_choice_cells(replace(profile, seed=seed))

    def begin(self, cell: Cell) -> None:
        """A cell begins, or is handed to the workers."""
        dashboard.mark(self.store, cell, self.begins_as)
        self.write()

    def end(self, cell: Cell, message: str, failed: bool) -> None:
        """A cell is done, or failed."""
        state = dashboard.FAILED if failed else dashboard.DONE
        dashboard.mark(self.store, cell, state, message)
        self.write()

    def close(self) -> None:
        """This process ends: nothing of it runs any more."""
        dashboard.forget_running(self.store)
        self.write()

    def write(self) -> None:
        """Write the page."""
        rows = []
        if "grid" in recorded.result_names():
            rows = recorded.read_result("grid")["rows"]
        path = recorded.FOLDER / "grid.html"
        dashboard.write_dashboard(path, self.profile, self.cells, rows, self.store)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "only",
        nargs="*",
        metavar="CELL",
        help="whole names, such as ViT, or beginnings of several, such as ResNet or SimCLR [all]",
    )
    parser.add_argument("--profile", default="demo", help="name, or path of a settings file")
    parser.add_argument("--seeds", nargs="*", type=int, help="[those of the profile]")
    parser.add_argument("--task", choices=TASKS, nargs="*", default=list(TASKS), help="[both]")
    parser.add_argument(
        "--choices", action="store_true", help="also every other value of the open choices"
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=0,
        metavar="N",
        help="processes of one thread on this machine",
    )
    parser.add_argument(
        "--scheduler", metavar="ADDRESS", help="of a Dask cluster, such as tcp://10.0.0.1:8786"
    )
    parser.add_argument(
        "--url", help="share finished stages through an fsspec address instead of a folder"
    )
    parser.add_argument(
        "--page", action="store_true", help="write the page grid.html alone, and make nothing"
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 1 if a cell failed."""
    options = parse(arguments)
    store, any_failed = Store(), False
    if options.url:
        store = remote.RemoteStore(options.url, store.root)
    profile, only = get_profile(options.profile), tuple(name.lower() for name in options.only)
    stages = [TASKS[task] for task in options.task]
    seeds = profile.grid.seeds if options.seeds is None else options.seeds
    shown = sorted({*profile.grid.seeds, *seeds})
    on_workers = bool(options.scheduler or options.workers)
    page = Page(profile, shown, options.choices, store, on_workers)
    page.write()
    # a cluster that was started here ends with this process
    with signals_raise_exit(), contextlib.closing(page):
        for seed in () if options.page else seeds:
            cells, asked = chosen(replace(profile, seed=seed), only, options.choices, stages)
            steps = work(cells, asked, store, options.scheduler, options.workers, page.begin)
            for cell, message, failed in steps:
                print(
                    f"seed {seed}, {cell.table}, {cell.name}, {cell.stage}: {message}", flush=True
                )
                page.end(cell, message, failed)
                any_failed = any_failed or failed
    return int(any_failed)


if __name__ == "__main__":
    raise SystemExit(main())
