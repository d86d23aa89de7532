"""Do severity maps find lesions better than maps that see no film?

    python tools/severity_lesions.py                          # demo: the virtual hospitals
    python tools/severity_lesions.py --profile mini --data DIR   # mini: radiologists' outlines

AUROC of the map among the pixels of the lungs, beside height, distance from the midline and the
mean lesion of other patients, with paired intervals by patient. For demo these are the images of
hospitals that no training saw, and the mean lesion is that of validation. For a profile that is
cross-validated on Cohen's collection they are the films of `cohen_lesions`, each read by the model
of the fold that does not know its patient, and the map is also measured by average precision and by
its hottest point in each involved zone. Minutes, once the models are finished. Written to
cxrkit/storage/recorded_results/severity_lesions.json; a profile keeps the rows of the others.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from cxrkit.evaluation import localisation
from cxrkit.pipeline.run import Run
from cxrkit.pipeline.task_data import images_for
from cxrkit.reproduction import environment
from cxrkit.storage import recorded

NAME = "severity_lesions"
OUTLINED = "cohen_lesions"  # films on which radiologists outlined lesions
FOLDS = "threshold1"  # folder of the models that were cross-validated at the paper's threshold


def virtual(run: Run) -> dict[str, Any]:
    """External images of the virtual hospitals, whose lesions are known."""
    result = run.severity
    external, known = (
        part[part["lesion_mask"].notna()].reset_index(drop=True)
        for part in (result.external, result.validation)
    )
    maps = result.task.maps(result.model, external)
    return localisation.against_priors(maps, external, run.profile, run.store, reference=known)


def outlined(run: Run) -> dict[str, Any]:
    """Films with outlined lesions, each read by a model that does not know the patient."""
    result = run.severity
    folds = result.table("crossvalidated.csv")
    fold_of = (
        folds[folds["threshold"] == 1].drop_duplicates("group_id").set_index("group_id")["fold"]
    )
    films = images_for(replace(run.profile, manifests=(OUTLINED,)), "lesion", run.store)
    films = run.with_masks(films.reset_index(drop=True))
    # a patient without scores trained no fold
    fold = films["group_id"].map(fold_of).fillna(fold_of.min()).astype(int).to_numpy()
    maps: dict[int, np.ndarray] = {}
    for number in np.unique(fold):
        model = result.task.load(result.folder / FOLDS / f"fold{number}")
        rows = np.flatnonzero(fold == number)
        found = result.task.maps(model, films.iloc[rows].reset_index(drop=True))
        maps |= dict(zip(rows.tolist(), found, strict=True))
    whole = np.stack([maps[i] for i in range(len(films))])
    found = localisation.against_priors(whole, films, run.profile, run.store)
    measured = localisation.evaluate_maps({"films": (whole, films)}, run.profile, run.store)
    return found | {name: measured["films"][name] for name in localisation.MEASURES}


def rows_of(images: str, profile: str, found: dict[str, Any]) -> list[dict[str, Any]]:
    """Flat rows for the recorded result."""
    best = found["best_prior"]
    return [
        {"profile": profile, "images": images, "map": name, "best_prior": best, **value}
        for name, value in found.items()
        if name != "best_prior"
    ]


def main() -> None:
    """Measure one profile and record its rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="demo")
    parser.add_argument("--store", default=None, help="folder of artifacts")
    parser.add_argument("--data", default=None, help="folder of the real films")
    options = parser.parse_args()
    run = Run(options.profile, options.store, options.data)
    real = bool(run.profile.folds)
    images = f"films of {OUTLINED}" if real else "virtual, hospitals that no training saw"
    rows = rows_of(images, run.profile.name, outlined(run) if real else virtual(run))
    kept = []
    if NAME in recorded.result_names():
        kept = [
            row for row in recorded.read_result(NAME)["rows"] if row["profile"] != options.profile
        ]
    made = {"command": "python tools/severity_lesions.py", **environment.provenance()}
    recorded.write_result(NAME, [*kept, *rows], made)
    print(pd.DataFrame(rows)[["map", "value", "low", "high", "n"]].to_string(index=False))


if __name__ == "__main__":
    main()
