"""The same small search for every model of Tables 7 and 8: learning rate, and length of training.

    python tools/learning_rates.py           # make rates; eight hours on one core
    python tools/learning_rates.py --rows "Brixia alone"

Of the diagnosis, then of severity (`grid.diagnosis_search`, `grid.severity_search`): first each
model trains a few steps with each of some rates, and with WIDER times the largest as long as that
is the best. Then the profile's rate and the best other one train as long as the row of the table;
the other is taken where it brings more than the margin (`comparisons.MARGINS`). Last, the one that
was taken trains twice as long, and again, while that brings more than the margin and the steps are
no more than the search allows. One seed; validation patients of the training hospitals alone decide
(`grid_rows.validation_score`). It resumes: a finished training is loaded.

With --rows, rows of Tables 9 and 10 train with the rate and steps that they have from the model
that they vary, and twice as long: whether they have converged. Nothing is chosen by them.

Written to cxrkit/storage/recorded_results/learning_rates.json; rates and steps that differ from the
profile's are set as `chosen_rates` and `chosen_steps` of the search.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Collection, Iterable
from typing import Any

import filelock

from cxrkit.config import profiles
from cxrkit.config.sections import Profile
from cxrkit.pipeline import stages
from cxrkit.reproduction import environment, grid, grid_leaves, grid_rows
from cxrkit.reproduction.watch import signals_raise_exit
from cxrkit.storage import recorded
from cxrkit.storage.artifacts import Store

TASKS = {"diagnosis": grid.DIAGNOSIS, "severity": grid.SEVERITY}
WIDER = 3  # times the largest rate that was tried
SAME_TRIAL = ("stage", "cell", "rate", "steps")  # fields that name a recorded training


def trial_row(cell: grid.Cell, store: Store) -> dict[str, Any]:
    """What is kept of a finished training: its score on validation, and what it cost."""
    training = grid.own_training(cell.profile, cell.stage)
    return {
        "profile": cell.profile.name,
        "key": cell.key,
        "stage": cell.stage,
        "cell": cell.name,
        "rate": training.lr,
        "steps": training.steps,
        "score": grid_rows.validation_score(cell, store),
        "seconds": grid_rows.training_seconds(cell.folder(store), training),
    }


class Search:
    """The rows of the search for one stage, written as trainings end beside those of the others.

    Args:
        stage: DIAGNOSIS or SEVERITY of the grid.
        store: where the trainings lie.
        workers: processes of one thread; 0 = one training after the other.
        names: of models whose recorded rows all give way to those of this search.
    """

    def __init__(self, stage: str, store: Store, workers: int, names: Collection[str] = ()) -> None:
        self.stage, self.store, self.workers, self.names = stage, store, workers, names
        self.rows: dict[str, dict[str, Any]] = {}  # by key: a trial may be as long as the row
        self.failed = False
        self.made = {
            "command": "make rates",
            **environment.provenance(),
            "hospitals": stages.stage_of("cohort").version,
        }

    def run(self, cells: Iterable[grid.Cell]) -> None:
        """Train and record."""
        for cell, error in grid.run_cells(cells, self.store, workers=self.workers):
            self.failed = self.failed or bool(error)
            if not error:
                self.rows[cell.key] = trial_row(cell, self.store)
                self.write()
            training = grid.own_training(cell.profile, self.stage)
            text = f"{cell.name}, learning rate {training.lr:g}, {training.steps} steps"
            print(f"{text}: {error or 'recorded'}", flush=True)

    def write(self) -> None:
        """Record the rows beside those of others, which may run at the same time."""
        own = {self.name_of(row) for row in self.rows.values()}
        with filelock.FileLock(self.store.root / "learning_rates.lock"):
            others = []
            for row in grid_leaves.recorded_trials():
                searched = row["stage"] == self.stage and row["cell"] in self.names
                if not searched and self.name_of(row) not in own:
                    others.append(row)
            recorded.write_result("learning_rates", [*others, *self.rows.values()], self.made)

    def first_round(self, profile: Profile) -> dict[str, list[float]]:
        """Short trials of each model: name -> its rates, the best first."""
        waiting, done, found = grid.trial_cells(profile, self.stage), [], {}
        while waiting:
            self.run(waiting)
            done += waiting
            waiting = []
            for best in self.best(done):
                rate, trials = self.rate(best), [cell for cell in done if cell.name == best.name]
                ended = [cell for cell in trials if cell.key in self.rows]
                ended.sort(key=self.score, reverse=True)
                found[best.name] = [self.rate(cell) for cell in ended]
                # of all that were tried: one that failed is not tried again
                if rate == max(map(self.rate, trials)):
                    wider = float(f"{WIDER * rate:.6g}")
                    waiting.append(grid.with_training(best, lr=wider))
        return found

    def second_round(self, profile: Profile, rates: dict[str, list[float]]) -> list[grid.Cell]:
        """Two rates of each model, as long as its row: the one that goes on.

        They are the profile's own and the best other one: a short training of a model that has
        hardly begun to learn says little of a long one. The other is taken where it brings more.

        Args:
            profile: as for `first_round`.
            rates: of `first_round`.
        """
        own, pairs = grid.own_training(profile, self.stage).lr, []
        for name, tried in rates.items():
            others = [rate for rate in tried if rate != own]
            pairs.append(grid.whole_trials(profile, self.stage, name, [own, *others[:1]]))
        self.run(itertools.chain.from_iterable(pairs))
        chosen = []
        for pair in pairs:
            first, *more = [cell for cell in pair if cell.key in self.rows] or [None]
            if more and self.brings_more(first, more[0]):
                first = more[0]
            chosen.append(first)
        return list(filter(None, chosen))

    def last_round(self, cells: list[grid.Cell]) -> None:
        """Twice the steps, and again, as long as that brings something."""
        while cells:
            longer = {cell: grid.twice_as_long(cell) for cell in cells}
            self.run(filter(None, longer.values()))
            cells = []
            for cell, twice in longer.items():
                ended = twice is not None and twice.key in self.rows
                if ended and self.brings_more(cell, twice):
                    cells.append(twice)

    def double(self, cells: Iterable[grid.Cell]) -> None:
        """Rows as long as they train in their table, and twice as long."""
        for cell in cells:
            self.run([cell, grid.doubled(cell)])

    def best(self, trials: list[grid.Cell]) -> list[grid.Cell]:
        """Of each model the finished trial with the highest score."""
        by_name: dict[str, list[grid.Cell]] = {}
        for cell in trials:
            if cell.key in self.rows:
                by_name.setdefault(cell.name, []).append(cell)
        return [max(ended, key=self.score) for ended in by_name.values()]

    def brings_more(self, cell: grid.Cell, other: grid.Cell) -> bool:
        """Whether the other of two finished trials is better by more than the margin."""
        return grid_leaves.brings_more(self.stage, self.score(cell), self.score(other))

    def score(self, cell: grid.Cell) -> float:
        """Of a finished trial, on validation."""
        return self.rows[cell.key]["score"]

    def rate(self, cell: grid.Cell) -> float:
        """Learning rate of a trial."""
        return grid.own_training(cell.profile, self.stage).lr

    def name_of(self, row: dict[str, Any]) -> tuple[Any, ...]:
        """What no two recorded rows share."""
        return tuple(row[field] for field in SAME_TRIAL)


def varied_rows(profile: Profile, stage: str) -> dict[str, grid.Cell]:
    """Rows of Tables 9 and 10 of a stage, whose training is that of the model that they vary."""
    cells = grid.grid_cells(profile)
    varied = [cell for cell in cells if cell.table in ("Table 9", "Table 10")]
    return {cell.name: cell for cell in varied if cell.stage == stage}


def main() -> int:
    """Exit status 1 if a training failed."""
    demo, failed = profiles.demo(), False
    known = [name for stage in TASKS.values() for name in varied_rows(demo, stage)]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=0, metavar="N", help="processes")
    parser.add_argument("--task", nargs="*", choices=TASKS, default=list(TASKS), help="[both]")
    parser.add_argument(
        "--rows",
        nargs="*",
        choices=known,
        metavar="ROW",
        help=f"no search: whether these rows have converged; of {', '.join(known)}",
    )
    options = parser.parse_args()
    with signals_raise_exit():
        for task in options.task:
            stage, store = TASKS[task], Store()
            if options.rows is not None:
                varied = varied_rows(demo, stage)
                search = Search(stage, store, options.workers)
                search.double(varied[name] for name in options.rows if name in varied)
            else:
                names = {cell.name for cell in grid.trial_cells(demo, stage)}
                search = Search(stage, store, options.workers, names)
                search.last_round(search.second_round(demo, search.first_round(demo)))
            failed = failed or search.failed
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main())
