"""Reader study: the severity model against radiologists, on images that two of them scored.

One split of 142 real images leaves 36 to evaluate on; five folds by patient evaluate on all of
them. On the same folds, in the same run: the second radiologist, a constant guess, and a ridge
regression on a 16x16 thumbnail, which sees no disease but knows the hospital. What may be claimed
is a paired difference with its interval (section 5.3 claims "comparable to experienced
radiologists" without one).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cxrkit.config.choices import OPEN_CHOICES, Choices
from cxrkit.evaluation import linear_probe, resampling
from cxrkit.tasks import severity
from cxrkit.tasks.severity import SeverityTask
from cxrkit.tasks.task import Inputs

DRAWS = 2000
COMPARED = ("second_reader", "constant", "ridge")


def cross_validate(task: SeverityTask, folder: Path, inputs: Inputs) -> pd.DataFrame:
    """Predictions of models that never saw the patient, beside what they are compared with.

    Args:
        task: severity.
        folder: each fold trains in it, and goes on there after a kill.
        inputs: images of several patients with known scores; those marked `auxiliary` train beside
            every fold and are in none.

    Returns:
        The table of `SeverityTask.predict` with `fold`, and `constant`, `ridge`, `second_reader`
        and `truth` on the 0-6 score.
    """
    profile, inputs = task.profile, split_auxiliary(inputs)
    table = inputs.table
    groups = table["group_id"].to_numpy()
    fold = linear_probe.assign_folds(groups, profile.folds, profile.seed)
    truth = severity.true_scores(table, profile.choices)
    thumbnails = linear_probe.trivial_features("equalised thumbnail", table, profile, task.store)
    ridge = linear_probe.out_of_fold_predictions(thumbnails, truth, groups, fold, "ridge")
    known = table.assign(
        constant=[truth[fold != k].mean() for k in fold], ridge=np.clip(ridge, 0, 6), truth=truth
    )
    whole = task.cross_validate(folder, known, fold, inputs)
    return whole.assign(second_reader=severity.second_reader_scores(whole, profile.choices))


def split_auxiliary(inputs: Inputs) -> Inputs:
    """The same images, the `auxiliary` ones out of the table.

    Those of a patient in the table are left out: another fold would know the patient.
    """
    table = inputs.table
    if "auxiliary" not in table:
        return inputs
    beside = table["auxiliary"].astype(bool)
    scored = table[~beside].reset_index(drop=True)
    auxiliary = table[beside & ~table["group_id"].isin(scored["group_id"])]
    return replace(inputs, table=scored, auxiliary=auxiliary.reset_index(drop=True))


def compare(predictions: pd.DataFrame) -> dict[str, Any]:
    """Errors of the model and of what it is compared with, on the same images.

    Returns:
        `model` and an entry for each of COMPARED with its errors; `by_truth`, the score that the
        model reads by the true one; and `difference`, the paired difference in MSE, model - other,
        with its interval. Where no image has a second radiologist, as with virtual patients, there
        is no such entry.
    """
    groups, truth = predictions["group_id"].to_numpy(), predictions["truth"].to_numpy()

    def mse(y: np.ndarray, p: np.ndarray) -> float:
        return float(np.mean((y - p) ** 2))

    score = predictions["score"].to_numpy(float)
    out: dict[str, Any] = {
        "model": severity.errors(truth, score, groups),
        "by_truth": severity.by_truth(truth, score, groups),
    }
    compared = [name for name in COMPARED if predictions[name].notna().any()]
    for name in compared:
        out[name] = severity.errors(truth, predictions[name], groups)
    out["difference"] = {
        name: resampling.paired_bootstrap(
            mse, truth, predictions["score"], predictions[name], groups=groups, draws=DRAWS
        )
        for name in compared
    }
    return out


def second_reader_errors(table: pd.DataFrame) -> list[dict[str, Any]]:
    """How far two radiologists lie apart, beside a constant guess, at every reading of a zone.

    Args:
        table: images that two of them scored (`brixia_*` and `brixia2_*`); others are left out.

    Returns:
        Two rows for each threshold of a zone (choice 1): `threshold`, `guess` ("second reader" or
        "constant guess"), and the MSE of the 0-6 score against the first radiologist as `value`,
        `low`, `high` and `n`.

    Raises:
        ValueError: no image was scored by both.
    """
    rows = []
    for threshold in OPEN_CHOICES["brixia_threshold"][1]:
        choices = Choices(brixia_threshold=threshold)
        first = severity.true_scores(table, choices)
        second = severity.second_reader_scores(table, choices)
        both = ~np.isnan(first) & ~np.isnan(second)
        if not both.any():
            raise ValueError("no image of the table was scored by two radiologists")
        truth, groups = first[both], table["group_id"].to_numpy()[both]
        constant = np.full(len(truth), truth.mean())
        for name, guess in (("second reader", second[both]), ("constant guess", constant)):
            mse = severity.errors(truth, guess, groups)["mse"]
            rows.append({"threshold": threshold, "guess": name, **mse})
    return rows


def run(task: SeverityTask, folder: Path, inputs: Inputs) -> dict[str, Any]:
    """Cross-validation of all images at every reading of the zone score (choice 1).

    Where patients have several images, `followup` tells their changes from noise, which is measured
    on these very images. Leaves crossvalidated.csv.

    Returns:
        {"threshold1": ..., "threshold2": ...}.
    """
    out, whole = {}, []
    for threshold in OPEN_CHOICES["brixia_threshold"][1]:
        choices = replace(task.profile.choices, brixia_threshold=threshold)
        chosen = SeverityTask(replace(task.profile, choices=choices), task.store, task.device)
        name = f"threshold{threshold}"
        predictions = cross_validate(chosen, folder / name, inputs)
        follow_up = severity.evaluate_follow_up({"test": predictions}, choices)
        out[name] = {**compare(predictions), **follow_up}
        whole.append(predictions.assign(threshold=threshold))
    task.store.write_table(folder / "crossvalidated.csv", pd.concat(whole, ignore_index=True))
    return out
