"""Findings of `mini` on films of the NIH where each finding has its own films.

    python tools/real_findings.py --mirror DIR [--store DIR]

The films of `nih_cxr14` are pneumonias and normals, so that ten findings there are nearly one.
Those of `nih_cxr14_multi` are of other patients and hold each finding apart; they teach nothing.
Models: the findings head of `mini`; equalised thumbnails, trained on the same films as it; a linear
model of the same ImageNet features, trained on the 64 px films of `nih_cxr14_64px`, which hold each
finding apart too; and one that these very films teach, by folds of patients: what the features
could show. Written to cxrkit/storage/recorded_results/real_findings.json.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from torch import nn

from cxrkit.config import profiles
from cxrkit.config.vocabulary import FINDINGS
from cxrkit.data import manifests
from cxrkit.data.manifests import fold_of
from cxrkit.evaluation import linear_probe, metrics, resampling
from cxrkit.evaluation.summaries import interval_dict
from cxrkit.pipeline.run import Run
from cxrkit.pipeline.task_data import images_for
from cxrkit.reproduction import environment
from cxrkit.storage import recorded
from cxrkit.tasks.findings import LOGITS, FindingsTask
from cxrkit.tasks.frozen_backbone import corpora_of, mean_and_maximum

APART = "nih_cxr14_multi"  # films that teach nothing
SMALL = "nih_cxr14_64px"
FEWEST = 10  # films with a finding, and without it
DRAWS = 2000  # of patients, for an interval
FOLDS = 5


def films_of(run: Run) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Those that teach the findings of `mini`, and those of other patients with findings apart."""
    both = replace(run.profile, manifests=(*run.profile.manifests, APART))
    table = images_for(both, "findings", run.store)
    apart = table["dataset"] == APART
    train = table[~apart & (table["split"] == "train")]
    unseen = apart & ~table["group_id"].isin(table["group_id"][~apart])
    return train.reset_index(drop=True), table[unseen].reset_index(drop=True)


def small_films(run: Run, test: pd.DataFrame) -> pd.DataFrame:
    """Films of SMALL, of other patients."""
    table = manifests.read_manifest(SMALL, run.store.data, run.profile.choices)
    return table[~table["group_id"].isin(test["group_id"])].reset_index(drop=True)


def features_of(task: FindingsTask, model: nn.Module, table: pd.DataFrame) -> np.ndarray:
    """Mean and maximum of the backbone's features of each film, (n, 2 C)."""
    corpora = corpora_of(model, task.dataset(table), table, task.store, task.device)
    return mean_and_maximum(corpora)


def trained_on_these(features: np.ndarray, y: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Scores (n,) of a linear model of a finding, by folds of patients."""
    folds = np.array([fold_of(group, FOLDS) for group in groups])
    return linear_probe.out_of_fold_predictions(features, y, groups, folds)[:, 1]


def trained_elsewhere(train: pd.DataFrame, finding: str, x: np.ndarray) -> Any:
    """A linear model of features (n, d) of other films; None where they show no such finding."""
    y = train[finding].to_numpy(float)
    known = np.isfinite(y)
    patients = train["group_id"].to_numpy()[known]
    if min(len(set(patients[y[known] == label])) for label in (0, 1)) < 2:
        return None
    return linear_probe.fit_probe(x[known], y[known].astype(int), patients)


def main() -> None:
    """Predict, compare, record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mirror", required=True, help="folder with prepared real films")
    parser.add_argument("--store", help="folder of the artifacts (default: that of the kit)")
    options = parser.parse_args()
    run = Run(profiles.mini(), options.store, options.mirror)
    task, model = run.task(FindingsTask), run.backbone.model
    train, test = films_of(run)
    scores_of_all = task.predict(model, test)[LOGITS].to_numpy()
    other = small_films(run, test)
    features, other_features = (features_of(task, model, films) for films in (test, other))
    small, small_train = (
        linear_probe.trivial_features("equalised thumbnail", films, run.profile, run.store)
        for films in (test, train)
    )
    groups, rows = test["group_id"].to_numpy(), []
    for number, name in enumerate(FINDINGS):
        y = test[name].to_numpy(float)
        known = np.isfinite(y)
        if min((y == 0).sum(), (y == 1).sum()) < FEWEST:
            continue
        scores = {"model": scores_of_all[:, number], "features": np.full(len(y), np.nan)}
        scores["features"][known] = trained_on_these(
            features[known], y[known].astype(int), groups[known]
        )
        for kind, (films, x, own) in {
            "thumbnails": (train, small_train, small),
            "64 px films": (other, other_features, features),
        }.items():
            linear = trained_elsewhere(films, name, x)
            if linear is not None:
                scores[kind] = linear.predict_proba(own)[:, 1]
        on_known = {model: score[known] for model, score in scores.items()}
        rows.append(row_of(name, y[known], on_known, groups[known]))
    recorded.write_result(
        "real_findings",
        rows,
        {
            "command": "python tools/real_findings.py --mirror DIR",
            **environment.provenance(),
            "films": len(test),
            "patients": int(test["group_id"].nunique()),
        },
    )


def row_of(
    name: str, y: np.ndarray, scores: dict[str, np.ndarray], groups: np.ndarray
) -> dict[str, Any]:
    """AUC of each model on a finding, and the model minus thumbnails, with intervals."""
    row: dict[str, Any] = {"finding": name, "with": int(y.sum()), "without": int((y == 0).sum())}
    for model, score in scores.items():
        triple = resampling.bootstrap(metrics.auc, y, score, groups=groups, draws=DRAWS)
        row[model] = interval_dict(triple, len(y))
    if "thumbnails" in scores:
        row["minus thumbnails"] = resampling.paired_bootstrap(
            metrics.auc, y, scores["model"], scores["thumbnails"], groups=groups, draws=DRAWS
        )
    return row


if __name__ == "__main__":
    main()
