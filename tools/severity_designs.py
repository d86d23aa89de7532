"""What makes a severity map show lesions, and read health as health: six designs side by side.

    python tools/severity_designs.py         # make severity; half an hour on one core

Designs of the severity model are trained for the same number of steps from the demo's classifier,
from 3x2 arrays alone, and compared on validation patients of the training hospitals: COVID-19 films
of the severity and of the diagnosis ward, and normal ones. The first is the paper's head; each
further one changes one thing more, and the last is the demo's. It resumes: a design that is
finished is loaded from the store. Written to cxrkit/storage/recorded_results/severity_designs.json.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from cxrkit.config import profiles
from cxrkit.config.sections import Profile
from cxrkit.data.datasets import split_parts
from cxrkit.evaluation import localisation
from cxrkit.pipeline import stages
from cxrkit.pipeline.run import Run
from cxrkit.reproduction import environment
from cxrkit.storage import recorded
from cxrkit.tasks import severity

STEPS = 1000
MEASURES = ("dice", "auprc", "chance", "pointing", "pointing_chance")


def designs(profile: Profile) -> dict[str, Profile]:
    """From the paper's head to the profile's own, one change after another."""
    own = profile.choices
    choices = replace(own, severity_loss="mse", map_evidence="tokens", zone_maximum="pixel")
    plain = replace(profile.severity, calibration="none")
    paper = replace(profile, choices=choices, severity=replace(plain, healthy="left_out"))
    zeros = replace(paper, severity=plain)
    entropy = replace(zeros, choices=replace(choices, severity_loss=own.severity_loss))
    local = replace(zeros, choices=replace(own, zone_maximum="pixel"))
    return {
        "the paper's head": paper,
        "+ healthy films as zeros": zeros,
        "+ cross-entropy": entropy,
        "+ local evidence": local,
        "+ calibrated zones": replace(local, severity=profile.severity),
        "the same, with the highest tenth of a zone": replace(
            local, choices=replace(own, zone_maximum="tenth"), severity=profile.severity
        ),
    }


def validation_images(run: Run) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Scored COVID-19 images and normal ones of validation patients, with lung masks."""
    both = pd.concat([run.images("severity"), run.diagnosis_images], ignore_index=True)
    val = run.with_masks(split_parts(both[both["diagnosis"] != "other_infection"])["val"])
    covid = val[val["diagnosis"] == "covid19"].reset_index(drop=True)
    normal = val[val["diagnosis"] == "normal"].reset_index(drop=True)
    return covid, severity.as_zeros(normal)


def rows_of(design: str, run: Run, covid: pd.DataFrame, normal: pd.DataFrame) -> list[dict]:
    """What is kept of a design: flat rows of its values on validation."""
    task, model, choices = run.severity.task, run.severity.model, run.profile.choices
    guess = float(np.nanmean(severity.true_scores(covid, choices)))
    found = severity.scores(task.predict(model, covid), guess, choices)
    maps = {"val": (task.maps(model, covid), covid)}
    placed = localisation.evaluate_maps(maps, run.profile, run.store)["val"]
    healthy = task.read_healthy(model, normal)
    values = {"MSE": found["mse"], "R2": found["r2"], "normal images": healthy["score"]}
    for row in found["by_truth"]:
        values[f"read at {row['low']}-{row['high']}"] = row["read"]
    values |= {f"map {name}": placed[name] for name in MEASURES}
    return [{"design": design, "measure": name, **value} for name, value in values.items()]


def main() -> None:
    """Train, compare, record: the file grows with every design."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", default=None, help="folder of artifacts")
    options = parser.parse_args()
    demo = profiles.demo()
    short = replace(demo, severity_training=replace(demo.severity_training, steps=STEPS))
    made = {
        "command": "python tools/severity_designs.py",
        **environment.provenance(),
        "hospitals": stages.stage_of("cohort").version,
        "steps": STEPS,
    }
    rows: list[dict[str, Any]] = []
    images = validation_images(Run(short, options.store))
    for name, design in designs(short).items():
        start = time.process_time()
        run = Run(design, options.store)
        rows += rows_of(name, run, *images)
        print(f"{name}: {time.process_time() - start:.0f} CPU s", flush=True)
        recorded.write_result("severity_designs", rows, made)


if __name__ == "__main__":
    main()
