"""Measure how far trainings of a profile lie apart: the margins of `cxrkit verify --retrain`.

    python tools/retraining_margins.py --profile quick --store DIR     # resumes

Trains the stages of each seed into the store and writes their headline metrics, with the margins
that follow from them, to cxrkit/storage/retraining_margins.json, beside the shipped artifacts.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from pathlib import Path

from cxrkit.config.settings_file import get_profile
from cxrkit.reproduction import agreement
from cxrkit.storage import atomic, locations, provenance
from cxrkit.storage.artifacts import Store
from cxrkit.training.devices import pick_device


def main() -> None:
    """Train what is missing, and write the margins of one profile; those of others stay."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="quick")
    parser.add_argument("--store", type=Path, required=True, help="where the trainings go")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=2, help="trainings at a time")
    parser.add_argument("--out", type=Path, default=agreement.MARGINS)
    options = parser.parse_args()
    if len(set(options.seeds)) < 2:
        parser.error("margins need at least two seeds")
    os.environ[locations.FRESH] = "1"  # also for the processes that train
    profile, store = get_profile(options.profile), Store(options.store)
    trainings = []
    for seed in options.seeds:
        seeded = replace(profile, seed=seed)
        agreement.train(seeded, store, options.jobs)
        trainings.append(agreement.trained_headlines(seeded, store))
    command = f"python tools/retraining_margins.py --profile {profile.name} --store DIR"
    margins = {
        "made": {
            "command": command,
            "seeds": options.seeds,
            **provenance.facts(str(pick_device())),
        },
        "stages": agreement.margins_of(trainings, profile),
    }
    known = atomic.read_json(options.out) if options.out.exists() else {}
    atomic.write_json(options.out, {**known, profile.name: margins})
    print(f"{options.out}: margins of profile {profile.name}")


if __name__ == "__main__":
    main()
