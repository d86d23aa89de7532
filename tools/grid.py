"""Run Tables 7 to 10 with whole budgets and commit what they give: `make grid`. Resumes; a finished stage is loaded.

Cells go seed by seed, the most telling first; each is written to cxrkit/results/grid.json as soon as it is done, with commit and date.
"""

import argparse
from dataclasses import replace

import filelock

from cxrkit import artifacts, comparisons, doctor, experiments, profiles, results

TASKS = {"diagnosis": experiments.DIAGNOSIS, "severity": experiments.SEVERITY}


def chosen(profile, only, with_choices, stages):
    """The cells of one seed whose name begins with one of `only` (all without) -> (them and those that they are compared with, them)."""
    grid = experiments.cells(profile) + (experiments.open_choices(profile) if with_choices else [])
    asked = [cell for cell in grid if cell.stage in stages and (not only or cell.name.lower().startswith(only))]
    needed = {(cell.stage, cell.against) for cell in asked}
    return [cell for cell in grid if cell in asked or (cell.stage, cell.name) in needed], asked


def keep(row, store, asked=True):
    """Put a row into cxrkit/results/grid.json in the place of an older one of the same cell and seed, one process at a time.

    A cell that was not asked for, but made for others to be compared with, does not replace a row of the same settings: the differences
    beside it were taken from that.
    """
    same = ("profile", "table", "cell", "stage", "seed")
    with filelock.FileLock(store.root / "grid.lock"):
        old = results.read("grid")["rows"] if "grid" in results.names() else []
        before = [other for other in old if all(other[name] == row[name] for name in same)]
        if not asked and any(other["key"] == row["key"] for other in before):
            return
        rows = [other for other in old if other not in before] + [row]
        results.write("grid", rows, {"command": "make grid", **doctor.provenance()})


def main(arguments=None):
    """Exit status 1 if a cell failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("only", nargs="*", metavar="CELL", help="beginnings of names, such as ResNet or 'SimCLR: ours' [all]")
    parser.add_argument("--profile", default="demo")
    parser.add_argument("--seeds", nargs="*", type=int, help="[those of the profile]")
    parser.add_argument("--task", choices=TASKS, nargs="*", default=list(TASKS), help="[both]")
    parser.add_argument("--choices", action="store_true", help="also every other value of the open choices")
    parser.add_argument("--workers", type=int, default=0, metavar="N", help="processes of one thread on this machine")
    parser.add_argument("--scheduler", metavar="ADDRESS", help="of a Dask cluster, such as tcp://10.0.0.1:8786")
    parser.add_argument("--url", help="share finished stages through an fsspec address instead of a folder")
    options = parser.parse_args(arguments)
    store, failed = artifacts.Store(wait=-1), 0
    if options.url:
        store = artifacts.Shared(options.url, store.root)
    profile, only = profiles.get(options.profile), tuple(name.lower() for name in options.only)
    for seed in options.seeds if options.seeds is not None else profile.grid.seeds:
        grid, asked = chosen(replace(profile, seed=seed), only, options.choices, [TASKS[task] for task in options.task])
        named = {(cell.stage, cell.name): cell for cell in grid}
        done, waiting = set(), []
        for cell, error in experiments.run(grid, store, options.scheduler, options.workers):
            print(f"seed {seed}, {cell.table}, {cell.name}, {cell.stage}: {error or 'done'}", flush=True)
            failed += bool(error)
            done |= set() if error else {cell}
            waiting += [] if error else [cell]
            for ready in [c for c in waiting if named[c.stage, c.against] in done]:
                waiting.remove(ready)
                row = comparisons.measure(ready, store, named[ready.stage, ready.against])
                keep(row | {name: doctor.provenance()[name] for name in ("commit", "date")}, store, ready in asked)
    return int(failed > 0)


if __name__ == "__main__":
    raise SystemExit(main())
