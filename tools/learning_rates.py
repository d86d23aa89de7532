"""The same small search for every model of Table 7: the learning rate that it trains with.

    python tools/learning_rates.py           # make rates; an hour and a half on one core

Each model trains `grid.trial_steps` steps with each of `grid.trial_rates`, one seed, and is scored
on validation patients of the training hospitals alone. It resumes: a finished trial is loaded.
Written to cxrkit/storage/recorded_results/learning_rates.json; the rates that differ from the
profile's are set as `grid.chosen_rates`.
"""

from __future__ import annotations

import argparse
from typing import Any

from cxrkit.config import profiles
from cxrkit.pipeline import stages
from cxrkit.reproduction import environment, grid, grid_rows
from cxrkit.reproduction.watch import signals_raise_exit
from cxrkit.storage import recorded
from cxrkit.storage.artifacts import Store
from cxrkit.storage.atomic import read_json


def trial_row(cell: grid.Cell, store: Store) -> dict[str, Any]:
    """What is kept of a finished trial: its best score on validation, and what it cost."""
    training = cell.profile.transformer_training
    history = read_json(cell.folder(store) / "history.json")
    scores = [row["score"] for row in history if row.get("score") is not None]
    return {
        "cell": cell.name,
        "rate": training.lr,
        "score": max(scores),
        "steps": training.steps,
        "seconds": grid_rows.training_seconds(cell.folder(store), training),
    }


def main() -> int:
    """Train, score, record: the file grows with every trial. Exit status 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=0, metavar="N", help="processes")
    options = parser.parse_args()
    demo, store = profiles.demo(), Store()
    made = {
        "command": "make rates",
        **environment.provenance(),
        "hospitals": stages.stage_of("cohort").version,
    }
    cells, rows, failed = grid.trial_cells(demo), {}, False
    with signals_raise_exit():
        for cell, error in grid.run_cells(cells, store, workers=options.workers):
            rate = cell.profile.transformer_training.lr
            print(f"{cell.name}, learning rate {rate:g}: {error or 'done'}", flush=True)
            failed = failed or bool(error)
            if not error:
                rows[cell.key] = trial_row(cell, store)
            in_order = [rows[other.key] for other in cells if other.key in rows]
            recorded.write_result("learning_rates", in_order, made)
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main())
