"""Readers: the severity model cross-validated on films that two radiologists scored, against one of
them.

One split of 142 real films leaves 36 to judge on; five folds by patient judge on all of them. On
the same folds, in the same run: the second reader, a constant guess, and a ridge regression on a
16x16 thumbnail, which sees no disease but knows the hospital. What may be claimed is a paired
difference with its interval (section 5.3 claims "comparable to experienced radiologists" without
one).
"""

from dataclasses import replace

import numpy as np
import pandas as pd

from cxrkit.config.choices import OPEN_CHOICES
from cxrkit.evaluation import linear_probe, resampling
from cxrkit.evaluation.summaries import in_folds
from cxrkit.tasks import severity

DRAWS = 2000
RIVALS = ("reader", "constant", "ridge")


def crossvalidate(folder, profile, table, store=None, start=()):
    """The table with the values that a model gave each film without having seen its patient
    (`quantification.predict`), and `fold`, `constant`, `ridge`, `reader` and `truth` on the 0-6
    score. Each fold trains in `folder` and goes on there after a kill.
    """
    groups = table["group_id"].to_numpy()
    fold = linear_probe.fold_of(groups, profile.folds, profile.seed)
    truth = severity.score_of(table, profile.choices)
    trivial = linear_probe.refit(
        linear_probe.features("equalised thumbnail", table, profile, store),
        truth,
        groups,
        fold,
        "ridge",
    )
    known = table.assign(
        constant=[truth[fold != k].mean() for k in fold], ridge=np.clip(trivial, 0, 6), truth=truth
    )
    whole = in_folds(
        known,
        fold,
        lambda k, films: severity.fit(folder / f"fold{k}", profile, films, (), store, start),
        lambda model, films: severity.predict(model, films, profile, store),
    )
    return whole.assign(reader=severity.second_reader(whole, profile.choices))


def compare(judged):
    """Errors of the model and of its rivals on the same films, and the paired difference in MSE,
    model - rival, with its interval.
    """
    groups, truth = judged["group_id"].to_numpy(), judged["truth"].to_numpy()

    def mse(y, p):
        return float(np.mean((y - p) ** 2))

    out = {name: severity.errors(truth, judged[name], groups) for name in ("score", *RIVALS)}
    out["difference"] = {
        name: resampling.paired_bootstrap(
            mse, truth, judged["score"], judged[name], groups=groups, draws=DRAWS
        )
        for name in RIVALS
    }
    return {"model": out.pop("score"), **out}


def study(folder, profile, table, store=None, start=()):
    """Cross-validation of all films of `table` at every reading of the zone score (choice 1) ->
    dict "threshold1", "threshold2".

    Where patients have several films, `followup` tells their changes from noise, which is measured
    on these very films.
    """
    out, whole = {}, []
    for threshold in OPEN_CHOICES["brixia_threshold"][1]:
        chosen = replace(profile, choices=replace(profile.choices, brixia_threshold=threshold))
        judged = crossvalidate(folder / f"threshold{threshold}", chosen, table, store, start)
        out[f"threshold{threshold}"] = {
            **compare(judged),
            **severity.follow({"test": judged}, chosen.choices),
        }
        whole.append(judged.assign(threshold=threshold))
    pd.concat(whole, ignore_index=True).to_csv(folder / "crossvalidated.csv", index=False)
    return out
