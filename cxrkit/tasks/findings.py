"""Findings: the backbone's task. Ten findings from one film, judged on hospitals never seen: AUC,
calibration, and place.

B batch, K findings, h w grid of the corpus, S image size.
"""

from dataclasses import replace

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

from cxrkit.config.vocabulary import FEWEST, FINDINGS
from cxrkit.data import manifests
from cxrkit.data.datasets import dataset, parts
from cxrkit.evaluation import metrics, resampling
from cxrkit.evaluation.summaries import by_place, in_folds, interval, number
from cxrkit.models.factory import backbone_network
from cxrkit.models.pretrained import load_features
from cxrkit.simulation import hospital
from cxrkit.storage.atomic import write_json
from cxrkit.training import checkpoint, loop

LOGITS = [f"logit_{name}" for name in FINDINGS]
DRAWS = 400  # of patients, for an interval


def load(folder, profile):
    """The trained backbone of a finished stage."""
    return checkpoint.load_weights(backbone_network(profile), folder / "weights.safetensors")


def loss(model, batch):
    """`cross_entropy` of the logits of a batch."""
    return cross_entropy(model(batch["image"])["logits"], batch["findings"])


def cross_entropy(logits, truth):
    """Binary cross-entropy, mean over the labels that are known (not NaN); 0 where none is. logits,
    truth (B, K) -> scalar.
    """
    known = ~torch.isnan(truth)  # (B, K)
    each = F.binary_cross_entropy_with_logits(logits, truth.nan_to_num(), reduction="none")
    return (each * known).sum() / known.sum().clamp(min=1)


# choice 13 -> updates after which the learning rate falls, and the factor; `epoch` counts updates
DECAYS = {
    "epochs_10_15": lambda steps, epoch: ((round(10 * epoch), round(15 * epoch)), 0.5),
    "two_thirds": lambda steps, epoch: ((2 * steps // 3,), 0.1),
}


def with_decay(training, films, choices):
    """The training with the milestones of choice 13 for a number of films; other schedules than
    "step" stay as they are.
    """
    if training.schedule != "step":
        return training
    milestones, decay = DECAYS[choices.lr_decay](
        training.steps, films / (training.batch * training.accumulate)
    )
    return replace(training, milestones=milestones, decay=decay)


def make(folder, profile, table, store=None, start=None):
    """Train the backbone on the internal sites of `table` and judge it on the others, into
    `folder`.

    Leaves weights.safetensors, history.json, metrics.json and predictions.csv (a row a film of val,
    test and external). start: state dict whose `features.*` the backbone begins with. With
    `profile.folds`, every internal film is also judged by a backbone that never saw its patient
    (`folds` in metrics.json).
    """
    split = parts(table)
    model = fit(folder, profile, split["train"], split["val"], store, start)
    judged = {
        name: predict(model, split[name], profile, store)
        for name in ("val", "test", "external")
        if len(split[name])
    }
    if profile.folds:
        judged["folds"] = cross_validate(
            folder, profile, table[~table["external"].astype(bool)], store, start
        )
    whole = pd.concat(
        [part.assign(judged=name) for name, part in judged.items()], ignore_index=True
    )
    whole.to_csv(folder / "predictions.csv", index=False)
    write_json(
        folder / "metrics.json",
        {"images": {name: len(part) for name, part in split.items()}, **report(judged)},
    )


def fit(folder, profile, table, val=(), store=None, start=None):
    """Train on one table -> the backbone in evaluation mode. The validation AUC picks the step
    where the training says `eval_every`.
    """
    torch.manual_seed(profile.seed)
    model = backbone_network(profile)
    if start is not None:
        load_features(model, start)
    training = with_decay(profile.backbone_training, len(table), profile.choices)

    def validate(model):
        judged = predict(model, val, profile, store)
        return {"score": mean_auc(val[list(FINDINGS)].to_numpy(), judged[LOGITS].to_numpy())}

    loop.fit(
        model,
        loss,
        dataset(table, profile, store, profile.backbone.augment),
        training,
        folder=folder,
        seed=profile.seed,
        validate=validate if training.eval_every and len(val) else None,
    )
    return model


def cross_validate(folder, profile, table, store=None, start=None):
    """Grouped folds -> the table with logits, each from a backbone trained on the other folds'
    patients.
    """
    fold = table["group_id"].map(lambda group: manifests.fold_of(group, profile.folds))
    return in_folds(
        table,
        fold,
        lambda k, films: fit(folder / f"fold{k}", profile, films, store=store, start=start),
        lambda model, films: predict(model, films, profile, store),
    )


def predict(model, table, profile, store=None):
    """The table with a column of logits for each finding (LOGITS)."""
    logits = loop.evaluate(model, dataset(table, profile, store))["logits"].numpy()
    return table.assign(**dict(zip(LOGITS, logits.T, strict=True)))


def mean_auc(truth, scores):
    """Mean AUC over the findings for which both values occur: truth, scores (n, K) -> float, NaN if
    there is none.
    """
    areas = [metrics.auc(truth[:, k], scores[:, k]) for k in range(truth.shape[1])]
    return float(np.nanmean(areas)) if np.isfinite(areas).any() else np.nan


def report(judged):
    """Metrics of tables with logits (`by_place`)."""
    return by_place(judged, scores)


def scores(table, seed=0):
    """AUC by finding (DeLong by patient) and mean (bootstrap of patients), calibration: a nested
    dict ready for JSON.

    A finding of fewer than FEWEST patients has no AUC and takes no part in the mean. `same` lists
    findings whose label says no more than another's: it is that label, or its opposite, in every
    film.
    """
    groups, out = table["group_id"].to_numpy(), {}
    judged = [
        name
        for name in FINDINGS
        if table.loc[table[name] == 1, "patient_id"].nunique() >= FEWEST
        and (table[name] == 0).any()
    ]
    for name in FINDINGS:
        known = table[name].notna().to_numpy()
        y, logit = table.loc[known, name].to_numpy(), table.loc[known, f"logit_{name}"].to_numpy()
        probability = 1 / (1 + np.exp(-logit.astype(float)))
        area = metrics.auc_ci(y, logit, groups=groups[known]) if name in judged else (np.nan,) * 3
        out[name] = {
            "auc": interval(area, int(y.sum())),
            "ece": number(metrics.ece(y, probability)),
            "brier": number(metrics.brier(y, probability)),
        }
    truth, logits = table[judged].to_numpy(), table[[f"logit_{name}" for name in judged]].to_numpy()
    mean = (
        resampling.bootstrap(mean_auc, truth, logits, groups=groups, draws=DRAWS, seed=seed)
        if judged
        else (np.nan,) * 3
    )
    return {
        "findings": out,
        "auc": interval(mean, len(table)),
        "ece": number(np.nanmean([o["ece"] or np.nan for o in out.values()])),
        "same": twins(table[list(FINDINGS)]),
    }


def twins(labels):
    """Pairs of findings with one label, or opposite ones, in every film: ["opacity = pneumonia",
    "opacity = 1 - no_finding"].
    """
    pairs = []
    for i, a in enumerate(labels):
        for b in list(labels)[:i]:
            both = labels[[a, b]].dropna()
            if len(both) and both[a].nunique() == 2:
                pairs += [
                    f"{a} = {sign}{b}"
                    for sign, other in (("", both[b]), ("1 - ", 1 - both[b]))
                    if (both[a] == other).all()
                ]
    return pairs


def pointing(model, table, profile, store=None):
    """Pointing game on virtual films: does the highest cell of a finding's logit map lie on the
    finding?

    -> DataFrame, a row for each finding present: finding, group_id, `hit` (0/1) and `chance`, the
    share of the cells that the finding touches. Truth: the pixels that the finding's own lesions or
    devices change (`cohort.Hospital.where`). Slow: each is drawn anew.
    """
    # (n, K, h, w)
    maps = loop.evaluate(model, dataset(table, profile, store), ("logit_map",))["logit_map"].numpy()
    rows = []
    for film, cells in zip(table.to_dict("records"), maps, strict=True):
        for name in FINDINGS[1:]:
            if film[name] == 1:
                truth = hospital.place_from_url(film["url"], name)  # (S, S)
                h, w = cells.shape[1:]
                touched = truth.reshape(h, truth.shape[0] // h, w, truth.shape[1] // w).any(
                    axis=(1, 3)
                )
                hit = touched.flat[cells[FINDINGS.index(name)].argmax()]
                rows.append(
                    {
                        "finding": name,
                        "group_id": film["group_id"],
                        "hit": float(hit),
                        "chance": touched.mean(),
                    }
                )
    return pd.DataFrame(rows)
