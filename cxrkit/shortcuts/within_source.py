"""Contrasts: a diagnosis judged inside one source, against models that see no disease, where
hospital and class are tied together.

Of real public films, COVID-19 comes from other hospitals than most normals: a pooled score rewards
whoever knows the hospital. Inside one source the hospital says nothing, but the view, the year and
the size of the file still do, so ours must beat the best of the trivial models (`audit`), refitted
on the same films and folds, by a paired difference (section 5.1 has no such comparison). n films.
"""

import numpy as np
import pandas as pd

from cxrkit.config.vocabulary import DIAGNOSES
from cxrkit.data import masked_images
from cxrkit.evaluation import linear_probe, metrics
from cxrkit.evaluation.summaries import interval

# source and classes of the contrast inside one source, by folds
INSIDE = ("nih_cxr14", "normal", "other_infection")
# and of the one in a source that no training has seen
AWAY = ("cohen", "other_infection", "covid19")
RIVALS = ("thumbnail", "equalised thumbnail", "mean and SD", "file size")  # of audit.FEATURES
BAND = (1280, 3956)  # patient numbers of the NIH that both classes have
# of audit.FEATURES
PROBES = ("thumbnail", "border", "lungs removed", "lungs only", "lung shape", "file size")
MOST = 200  # films of a dataset that are probed, of different patients
TINY = 1e-6


def lean(p, positive, negative):
    """How much probabilities (n, K) lean to one class rather than another: log of their ratio,
    (n,).
    """
    of = {
        name: np.log(np.clip(np.asarray(p)[:, DIAGNOSES.index(name)], TINY, None))
        for name in (positive, negative)
    }
    return of[positive] - of[negative]


def ties(table):
    """How far the source alone gives the class away: (DataFrame of films by dataset and class with
    `only` = classes that no other dataset has, macro AUC of guessing each film's class from the
    shares of its dataset).
    """
    counts = pd.crosstab(table["dataset"], table["diagnosis"]).reindex(
        columns=list(DIAGNOSES), fill_value=0
    )
    shares = counts.div(counts.sum(axis=1), axis=0).loc[table["dataset"]].to_numpy()
    alone = [name for name in DIAGNOSES if (counts[name] > 0).sum() == 1]
    only = [
        ", ".join(name for name in alone if counts.loc[source, name]) or "-"
        for source in counts.index
    ]
    return counts.assign(only=only), metrics.macro_auc(
        table["diagnosis"].map(DIAGNOSES.index).to_numpy(), shares
    )


def probes(table, profile, store=None):
    """How far films give away their source, and their diagnosis, to linear models that see no
    disease, in folds by patient.

    -> {"source": {feature: {"auc", "balanced_accuracy"}}, "diagnosis": ...} for PROBES, and
    `chance`, the balanced accuracy of guessing. At most MOST films of a dataset, one of each
    patient; all must have a lung mask.
    """
    rows = (
        table.drop_duplicates("group_id")
        .sample(frac=1, random_state=profile.seed)
        .groupby("dataset")
        .head(MOST)
        .reset_index(drop=True)
    )
    fold, out = linear_probe.fold_of(rows["group_id"].to_numpy(), profile.folds, profile.seed), {}
    for name, column in (("source", "dataset"), ("diagnosis", "diagnosis")):
        y = rows[column].astype("category").cat.codes.to_numpy(int)
        found, _ = linear_probe.probe(PROBES, y, rows, fold, profile, store)
        by_feature = found.set_index("score").groupby("features")
        out[name] = {
            feature: part.drop(columns="features").to_dict("index") for feature, part in by_feature
        }
        out[name]["chance"] = 1 / rows[column].nunique()
    return out


def judge(y, ours, rivals, groups):
    """One contrast: dict n (of each class), `auc` of ours and of each rival with intervals by
    patient, `gain` over the best of them.

    y (n,) 0/1; ours and rivals {name: (n,)}: scores that rise with the class 1.
    """
    groups, area = (
        np.asarray(groups),
        lambda p: interval(metrics.auc_ci(y, p, groups=np.asarray(groups)), len(y)),
    )
    return {
        "n": [int((y == 0).sum()), int((y == 1).sum())],
        "auc": area(ours),
        "rivals": {name: area(p) for name, p in rivals.items()},
        "gain": linear_probe.against_best(metrics.auc, y, ours, rivals, groups),
    }


def inside(judged, profile, store=None, contrast=INSIDE):
    """Two classes in one source, each film by a model of another fold -> {"PA": `judge`, "PA,
    shared band": ...}.

    judged: table of `diagnosis.predict` with `fold`. The rivals are refitted in each view, and in
    the band of patient numbers, on the same folds.
    """
    source, *classes = contrast
    rows = judged[(judged["dataset"] == source) & judged["diagnosis"].isin(classes)].reset_index(
        drop=True
    )
    known = {name: linear_probe.features(name, rows, profile, store) for name in RIVALS}
    ours = lean(rows[[f"p_{name}" for name in DIAGNOSES]], classes[1], classes[0])
    y, groups, fold = (
        (rows["diagnosis"] == classes[1]).to_numpy(int),
        rows["group_id"].to_numpy(),
        rows["fold"].to_numpy(),
    )
    band = rows["group_id"].str.extract(r"(\d+)", expand=False).astype(int).between(*BAND)
    out = {}
    for view in sorted(rows["view"].unique(), reverse=True):
        for label, chosen in {
            view: rows["view"] == view,
            f"{view}, shared band": (rows["view"] == view) & band,
        }.items():
            at = np.flatnonzero(chosen)
            rivals = {
                name: linear_probe.refit(x[at], y[at], groups[at], fold[at])[:, 1]
                for name, x in known.items()
            }
            out[label] = judge(y[at], ours[at], rivals, groups[at])
    return out


def away(judged, taught, profile, store=None, contrast=AWAY):
    """Two classes in a source that no training has seen -> {"all": `judge`, "PA": ..., "AP": ...}.

    taught: the films that trained ours. The thumbnails learn from the same ones, once with and once
    without those of the virtual hospitals.
    """
    source, *classes = contrast
    rows = judged[(judged["dataset"] == source) & judged["diagnosis"].isin(classes)].reset_index(
        drop=True
    )
    ours = lean(rows[[f"p_{name}" for name in DIAGNOSES]], classes[1], classes[0])
    y, groups, rivals = (
        (rows["diagnosis"] == classes[1]).to_numpy(int),
        rows["group_id"].to_numpy(),
        {},
    )
    films = {"real films": taught[taught["dataset"] != "virtual"], "all films": taught}
    for name in ("thumbnail", "equalised thumbnail"):
        x_new = linear_probe.features(name, rows, profile, store)
        for what, part in films.items():
            part = part.reset_index(drop=True)
            model = linear_probe.fit(
                linear_probe.features(name, part, profile, store),
                part["diagnosis"].map(DIAGNOSES.index).to_numpy(),
                part["group_id"].to_numpy(),
            )
            p = np.zeros((len(rows), len(DIAGNOSES)))
            p[:, model.classes_.astype(int)] = model.predict_proba(x_new)
            rivals[f"{name}, {what}"] = lean(p, classes[1], classes[0])
    parts = {
        "all": np.full(len(rows), True),
        **{view: (rows["view"] == view).to_numpy() for view in ("PA", "AP")},
    }
    return {
        label: judge(y[at], ours[at], {name: p[at] for name, p in rivals.items()}, groups[at])
        for label, at in parts.items()
    }


def report(folds, judged, taught, profile, store=None):
    """All of it: dict `inside` (of the cross-validated films), `away` (of the external films in
    `judged`), and `source_alone`, the macro AUC of guessing by the source, over all films of the
    profile.

    Where ours sees nothing but lungs, the trivial models see whole films, and in `inside_lungs` the
    films that ours sees; `probes` then says what a linear model reads from the borders (all films
    have a lung mask).
    """
    every = pd.concat([folds, judged[judged["external"].astype(bool)]], ignore_index=True)
    found = {
        "inside": inside(masked_images.whole(folds), profile, store),
        "source_alone": ties(every)[1],
        "away": away(masked_images.whole(judged), masked_images.whole(taught), profile, store),
    }
    if "origin" not in folds:
        return found
    return {
        **found,
        "inside_lungs": inside(folds, profile, store),
        "probes": probes(masked_images.whole(every), profile, store),
    }


def table(found):
    """`inside` or `away` for print: a row a contrast."""

    def cell(entry, key="value"):
        return f"{entry[key]:{'+' if key == 'difference' else ''}.2f} [{entry['low']:.2f}, {entry['high']:.2f}]"

    def row(one):
        best = one["gain"]["rival"]
        return {
            "films": " + ".join(map(str, one["n"])),
            "ours, AUC": cell(one["auc"]),
            "best trivial model": best,
            "its AUC": cell(one["rivals"][best]),
            "gain": cell(one["gain"], "difference"),
        }

    return pd.DataFrame({label: row(one) for label, one in found.items()}).T
