"""The finished models of a profile by sex, age band, view and site."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping

import numpy as np
import pandas as pd

from cxrkit.config.choices import Choices
from cxrkit.config.sections import Profile
from cxrkit.config.vocabulary import PATIENT
from cxrkit.data import manifests
from cxrkit.evaluation import metrics, resampling
from cxrkit.evaluation.subgroups import Score, break_down
from cxrkit.pipeline import stages
from cxrkit.storage.artifacts import Store
from cxrkit.tasks.severity import true_scores

DIAGNOSIS_STAGES = ("diagnosis_pa", "diagnosis_ap")
PARTS = ("test", "external")  # images that trained nothing
DRAWS = 1000  # of patients, for an interval


def covid_auc(table: pd.DataFrame) -> tuple[float, float, float]:
    """AUC of COVID-19 against the rest, with its interval by patient."""
    known = table[table["diagnosis"].notna()]
    truth = known["diagnosis"].eq("covid19").to_numpy(float)
    if len(np.unique(truth)) < 2:
        return math.nan, math.nan, math.nan
    return metrics.auc_ci(truth, known["p_covid19"].to_numpy(), groups=known["group_id"])


def severity_mse(table: pd.DataFrame, choices: Choices) -> tuple[float, float, float]:
    """Mean squared error of the severity 0-6, with its interval by patient."""
    truth = true_scores(table, choices)  # (n,)
    known = np.isfinite(truth)
    if not known.any():
        return math.nan, math.nan, math.nan
    errors = (truth - table["score"].to_numpy())[known] ** 2
    groups = table["group_id"].to_numpy()[known]
    return resampling.bootstrap(np.mean, errors, groups=groups, draws=DRAWS)


def subgroup_table(profile: Profile, store: Store) -> pd.DataFrame:
    """Results of the finished stages of a profile by subgroup.

    Args:
        profile: whose stages.
        store: where they lie; its data folder has the tables that say sex and age.

    Returns:
        `stage`, `images_of` (test or external), `metric`, then the columns of
        `subgroups.break_down`. Virtual patients have neither sex nor age.

    Raises:
        ValueError: no stage that diagnoses or scores severity is finished.
    """
    scores: Mapping[str, tuple[str, Score]] = {
        **dict.fromkeys(DIAGNOSIS_STAGES, ("AUC of COVID-19", covid_auc)),
        "severity": ("MSE", lambda table: severity_mse(table, profile.choices)),
    }
    patients = patients_of(profile, store)
    parts = []
    for stage, (metric, score) in scores.items():
        folder = stages.finished(profile, stage, store)
        if not folder:
            continue
        predictions = with_patients(store.read_table(folder / "predictions.csv"), patients)
        for name in PARTS:
            part = predictions[predictions["part"] == name]
            if len(part):
                table = break_down(part, score)
                parts.append(table.assign(stage=stage, images_of=name, metric=metric))
    if not parts:
        raise ValueError(
            f"no stage of {[*scores]} is finished; run: cxrkit reproduce --profile {profile.name}"
        )
    whole = pd.concat(parts, ignore_index=True)
    first = ["stage", "images_of", "metric"]
    return whole[[*first, *(column for column in whole if column not in first)]]


def patients_of(profile: Profile, store: Store) -> pd.DataFrame:
    """Sex and age by path, of the datasets of a profile that are here."""
    parts = [pd.DataFrame(columns=["path", *PATIENT], dtype=object)]
    for name in profile.manifests:
        if name == "virtual":
            continue
        try:
            parts.append(manifests.read_patients(name, store.data))
        except FileNotFoundError as error:
            warnings.warn(f"{name}: sex and age stay unknown: {error}", stacklevel=2)
    return pd.concat(parts, ignore_index=True).drop_duplicates("path")


def with_patients(predictions: pd.DataFrame, patients: pd.DataFrame) -> pd.DataFrame:
    """Predictions with `sex` and `age` by their path; unknown = NaN.

    A prediction of a masked copy of an image has the path of the original in `origin`.
    """
    paths = predictions["path"]
    if "origin" in predictions:
        paths = predictions["origin"].fillna(paths)
    by_path = patients.set_index("path")
    return predictions.assign(**{name: paths.map(by_path[name]) for name in PATIENT})
