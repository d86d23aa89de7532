"""Run Tables 7 to 10 with whole budgets and commit what they give: `make grid`. Resumes; a finished
stage is loaded.

Cells go seed by seed, the most telling first; each is written to cxrkit/results/grid.json as soon
as it is done, with commit and date.
"""

import argparse
from dataclasses import replace

import filelock

from cxrkit.config import profiles
from cxrkit.reproduction import comparisons, environment, results
from cxrkit.reproduction import grid as grid_module
from cxrkit.storage import artifacts, remote

TASKS = {"diagnosis": grid_module.DIAGNOSIS, "severity": grid_module.SEVERITY}


def chosen(profile, only, with_choices, stages):
    """The cells of one seed whose name begins with one of `only` (all without) -> (them and what
    they are compared with, them).
    """
    grid = grid_module.cells(profile) + (grid_module.open_choices(profile) if with_choices else [])
    asked = [
        cell
        for cell in grid
        if cell.stage in stages and (not only or cell.name.lower().startswith(only))
    ]
    named, needed = {(cell.stage, cell.name): cell for cell in grid}, set(asked)
    while others := {named[cell.stage, cell.against] for cell in needed} - needed:
        needed |= others
    return [cell for cell in grid if cell in needed], asked


def keep(row, store, same_settings=True):
    """Put a row into cxrkit/results/grid.json in the place of an older one of the same cell and
    seed, one process at a time.

    same_settings: whether also in the place of one of the same settings. A cell that was not asked
    for, but made for others to be compared with, does not replace it: the differences beside it
    were taken from that. Nor does one that lost what it is compared with.
    """
    same = ("profile", "table", "cell", "stage", "seed")
    with filelock.FileLock(store.root / "grid.lock"):
        old = results.read("grid")["rows"] if "grid" in results.names() else []
        before = [other for other in old if all(other[name] == row[name] for name in same)]
        if not same_settings and any(other["key"] == row["key"] for other in before):
            return
        rows = [other for other in old if other not in before] + [row]
        results.write("grid", rows, {"command": "make grid", **environment.provenance()})


def record(cell, against, store, asked):
    """Measure a finished cell, without a difference where `against` failed and is None, and keep
    its row -> None, or what failed here.
    """
    try:
        row = comparisons.measure(cell, store, against)
        keep(
            row | {name: environment.provenance()[name] for name in ("commit", "date")},
            store,
            asked and against is not None,
        )
    except Exception as error:  # whatever it is: the other cells go on
        return f"not measured: {type(error).__name__}: {error}"


def work(grid, asked, store, scheduler, workers):
    """Make the cells of one seed and record each as soon as what it is compared with has ended too;
    yields (cell, what is to be said of it, whether it failed).
    """
    named, ended, waiting = {(cell.stage, cell.name): cell for cell in grid}, {}, []
    for cell, error in grid_module.run(grid, store, scheduler, workers):
        yield cell, error or "done", bool(error)
        ended[cell.stage, cell.name] = error
        waiting += [] if error else [cell]
        for ready in [c for c in waiting if (c.stage, c.against) in ended]:
            waiting.remove(ready)
            lost = ended[ready.stage, ready.against]
            problem = record(
                ready, None if lost else named[ready.stage, ready.against], store, ready in asked
            )
            if problem or lost:
                yield (
                    ready,
                    problem or f"no difference: {ready.against}, which it is compared with, failed",
                    bool(problem),
                )


def main(arguments=None):
    """Exit status 1 if a cell failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "only",
        nargs="*",
        metavar="CELL",
        help="beginnings of names, such as ResNet or 'SimCLR: ours' [all]",
    )
    parser.add_argument("--profile", default="demo")
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
    options = parser.parse_args(arguments)
    store, failed = artifacts.Store(wait=-1), 0
    if options.url:
        store = remote.Shared(options.url, store.root)
    profile, only = profiles.get(options.profile), tuple(name.lower() for name in options.only)
    for seed in options.seeds if options.seeds is not None else profile.grid.seeds:
        grid, asked = chosen(
            replace(profile, seed=seed),
            only,
            options.choices,
            [TASKS[task] for task in options.task],
        )
        for cell, said, bad in work(grid, asked, store, options.scheduler, options.workers):
            print(f"seed {seed}, {cell.table}, {cell.name}, {cell.stage}: {said}", flush=True)
            failed += bad
    return int(failed > 0)


if __name__ == "__main__":
    raise SystemExit(main())
