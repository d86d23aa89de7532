"""The same small search for every model of Table 7: its learning rate, and how long it trains.

    python tools/learning_rates.py           # make rates; four hours on one core

First each model trains `grid.trial_steps` steps with each of `grid.trial_rates`, and with WIDER
times the largest as long as that is the best. Then the best rate, and the profile's own, train as
long as the row of Table 7. Last, the better of the two trains twice as long, and again, while that
brings more than `grid_rows.FLAT` and the steps are no more than `grid.most_steps`. One seed;
validation patients of the training hospitals alone decide. It resumes: a finished training is
loaded.
Written to cxrkit/storage/recorded_results/learning_rates.json; rates and steps that differ from the
profile's are set as `grid.chosen_rates` and `grid.chosen_steps`.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from cxrkit.config import profiles
from cxrkit.config.sections import Profile
from cxrkit.pipeline import stages
from cxrkit.reproduction import environment, grid, grid_rows
from cxrkit.reproduction.watch import signals_raise_exit
from cxrkit.storage import recorded
from cxrkit.storage.artifacts import Store
from cxrkit.storage.atomic import read_json

WIDER = 3  # times the largest rate that was tried


def trial_row(cell: grid.Cell, store: Store) -> dict[str, Any]:
    """What is kept of a finished training: its best score on validation, and what it cost."""
    training = cell.profile.transformer_training
    history = read_json(cell.folder(store) / "history.json")
    scores = [row["score"] for row in history if row.get("score") is not None]
    return {
        "profile": cell.profile.name,
        "cell": cell.name,
        "rate": training.lr,
        "steps": training.steps,
        "score": max(scores),
        "seconds": grid_rows.training_seconds(cell.folder(store), training),
    }


class Search:
    """The rows of the search, written as trainings end.

    Args:
        store: where the trainings lie.
        workers: processes of one thread; 0 = one training after the other.
    """

    def __init__(self, store: Store, workers: int) -> None:
        self.store, self.workers = store, workers
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
            training = cell.profile.transformer_training
            text = f"{cell.name}, learning rate {training.lr:g}, {training.steps} steps"
            print(f"{text}: {error or 'done'}", flush=True)
            self.failed = self.failed or bool(error)
            if not error:
                self.rows[cell.key] = trial_row(cell, self.store)
                recorded.write_result("learning_rates", list(self.rows.values()), self.made)

    def first_round(self, profile: Profile) -> dict[str, float]:
        """Short trials of each model: name -> its best rate."""
        waiting, done, found = grid.trial_cells(profile), [], {}
        while waiting:
            self.run(waiting)
            done += waiting
            waiting = []
            for best in self.best(done):
                training = best.profile.transformer_training
                found[best.name] = training.lr
                trials = [cell for cell in done if cell.name == best.name]
                # of all that were tried: one that failed is not tried again
                if training.lr == max(cell.profile.transformer_training.lr for cell in trials):
                    wider = replace(training, lr=float(f"{WIDER * training.lr:.6g}"))
                    other = replace(best.profile, transformer_training=wider)
                    waiting.append(replace(best, profile=other))
        return found

    def second_round(self, profile: Profile, rates: dict[str, float]) -> list[grid.Cell]:
        """The best rate of each model and the profile's own, as long as its row: the better one."""
        own, trials = profile.transformer_training.lr, []
        for name, rate in rates.items():
            trials += grid.whole_trials(profile, name, dict.fromkeys((own, rate)))
        self.run(trials)
        return self.best(trials)

    def last_round(self, cells: list[grid.Cell]) -> None:
        """Twice the steps, and again, as long as that brings something."""
        while cells:
            longer = {cell: grid.twice_as_long(cell) for cell in cells}
            self.run(filter(None, longer.values()))
            cells = []
            for cell, twice in longer.items():
                ended = twice is not None and twice.key in self.rows
                if ended and self.score(twice) - self.score(cell) > grid_rows.FLAT:
                    cells.append(twice)

    def best(self, trials: list[grid.Cell]) -> list[grid.Cell]:
        """Of each model the finished trial with the highest score."""
        by_name: dict[str, list[grid.Cell]] = {}
        for cell in trials:
            if cell.key in self.rows:
                by_name.setdefault(cell.name, []).append(cell)
        return [max(ended, key=self.score) for ended in by_name.values()]

    def score(self, cell: grid.Cell) -> float:
        """Of a finished trial, on validation."""
        return self.rows[cell.key]["score"]


def main() -> int:
    """Exit status 1 if a training failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=0, metavar="N", help="processes")
    options = parser.parse_args()
    demo, search = profiles.demo(), Search(Store(), options.workers)
    with signals_raise_exit():
        search.last_round(search.second_round(demo, search.first_round(demo)))
    return int(search.failed)


if __name__ == "__main__":
    raise SystemExit(main())
