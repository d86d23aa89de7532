"""Do severity maps find lesions better than maps that see no film?

    python tools/severity_lesions.py                          # demo: the virtual hospitals
    python tools/severity_lesions.py --profile mini --data DIR   # mini: radiologists' outlines

AUROC of the map among the pixels of the lungs, beside height, distance from the midline and the
mean lesion of other patients, with paired intervals by patient. For demo these are the images of
hospitals that no training saw, and the mean lesion is that of validation. For a profile that is
cross-validated on Cohen's collection they are the films of `cohen_lesions`, each read by the model
of the fold that does not know its patient, and the map is also measured by average precision and by
its hottest point in each involved zone. Beside it stands what the same features could show: a
linear map that the outlines themselves teach, by the same folds, with and without the place of a
cell. It is no row that counts, since severity is learnt from weak labels; it says how much of the
distance to the truth these labels leave and how much the features. Minutes, once the models are
finished. Written to cxrkit/storage/recorded_results/severity_lesions.json; a profile keeps the rows
of the others.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pandas as pd
import torch

from cxrkit.evaluation import linear_probe, localisation, priors
from cxrkit.pipeline.run import Run
from cxrkit.pipeline.task_data import images_for
from cxrkit.reproduction import environment
from cxrkit.storage import recorded
from cxrkit.training import loop

NAME = "severity_lesions"
OUTLINED = "cohen_lesions"  # films on which radiologists outlined lesions
FOLDS = "threshold1"  # folder of the models that were cross-validated at the paper's threshold
PLACE = (priors.height, priors.from_midline)
TRAINED = ("trained on the outlines", "trained on the outlines and place")


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
    for name, trained in trained_maps(run, films, fold, whole.shape[-1]):
        found[name] = localisation.against_priors(trained, films, run.profile, run.store)["map"]
    measured = localisation.evaluate_maps({"films": (whole, films)}, run.profile, run.store)
    return found | {name: measured["films"][name] for name in localisation.MEASURES}


def trained_maps(
    run: Run, films: pd.DataFrame, fold: np.ndarray, size: int
) -> Iterator[tuple[str, np.ndarray]]:
    """Maps by a logistic regression of each cell's features on the outlines of the other folds.

    Args:
        run: its severity model's corpus gives the features.
        films: N, with `lesion_mask` and `lung_mask`.
        fold: of each film, (N,).
        size: of the maps.

    Yields:
        A name and log-odds, (N, size, size): of the features, and of the features with the place of
        a cell, which is its height in the lungs and its distance from the midline.
    """
    result = run.severity
    images = result.task.dataset(films)
    corpora = loop.evaluate(result.model, images, ("corpus",), device=run.device, forward=corpus)
    features = corpora["corpus"].permute(0, 2, 3, 1).numpy()  # (N, h, w, C)
    lesions, lungs = localisation.true_masks(films, run.profile, run.store, size)
    of_lung = shares(lungs, features)  # (N, h, w)
    ill = shares(lesions & lungs, features) > 0.5 * of_lung
    where = [shares(np.stack([prior(one) for one in lungs]), features) for prior in PLACE]
    placed = np.concatenate([features, np.stack(where, axis=-1)], axis=-1)
    for name, known in zip(TRAINED, (features, placed), strict=True):
        cells = linear_probe.out_of_fold_cells(known, ill, of_lung > 0.5, fold)
        enlarged = [cv2.resize(one, (size, size), interpolation=cv2.INTER_LINEAR) for one in cells]
        yield name, np.stack(enlarged)


def corpus(network: torch.nn.Module, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The corpus of a batch."""
    return {"corpus": network.corpus(batch["image"])}


def shares(masks: np.ndarray, features: np.ndarray) -> np.ndarray:
    """Mean of masks (N, H, W) over each cell of features (N, h, w, C): (N, h, w)."""
    h, w = features.shape[1:3]
    small = [
        cv2.resize(one.astype(np.float32), (w, h), interpolation=cv2.INTER_AREA) for one in masks
    ]
    return np.stack(small)


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
