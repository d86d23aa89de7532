"""Findings: the backbone's task. Ten findings from one film, judged on hospitals never seen: AUC, calibration, and place.

B batch, K findings, h w grid of the corpus, S image size.
"""

from dataclasses import asdict, replace

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

from cxrkit import checkpoint, metrics, train
from cxrkit.artifacts import write_json
from cxrkit.backbone import Backbone, load_features
from cxrkit.data import CXRDataset, parts
from cxrkit.schema import FINDINGS

LOGITS = [f"logit_{name}" for name in FINDINGS]


def network(profile):
    """The profile's backbone with random weights."""
    sizes = asdict(profile.backbone)
    del sizes["start"]
    return Backbone(**sizes)


def load(folder, profile):
    """The trained backbone of a finished stage."""
    return checkpoint.load_weights(network(profile), folder / "weights.safetensors")


def loss(model, batch):
    """Binary cross-entropy, mean over the labels that are known; 0 for a batch without any."""
    known = ~torch.isnan(batch["findings"])                                                   # (B, K)
    each = F.binary_cross_entropy_with_logits(model(batch["image"])["logits"], batch["findings"].nan_to_num(), reduction="none")
    return (each * known).sum() / known.sum().clamp(min=1)


DECAYS = {  # choice 13 -> updates after which the learning rate falls, and the factor; `epoch` counts updates
    "epochs_10_15": lambda steps, epoch: ((round(10 * epoch), round(15 * epoch)), 0.5),
    "two_thirds": lambda steps, epoch: ((2 * steps // 3,), 0.1),
}


def with_decay(training, films, choices):
    """The training with the milestones of choice 13 for a number of films; other schedules than "step" stay as they are."""
    if training.schedule != "step":
        return training
    milestones, decay = DECAYS[choices.lr_decay](training.steps, films / (training.batch * training.accumulate))
    return replace(training, milestones=milestones, decay=decay)


def dataset(table, profile, store, augmented=False):
    """Films of a table as the backbone sees them."""
    return CXRDataset(table, profile.image_size, profile.choices, train=augmented, store=store)


def make(folder, profile, table, store=None, start=None, places=None):
    """Train the backbone on the internal sites of `table` and judge it on the others, into `folder`.

    Leaves weights.safetensors, history.json, metrics.json and predictions.csv (a row a film of test and external). start: state
    dict whose `features.*` the backbone begins with. places: truth for the pointing game (`Places`), where there is one.
    """
    split = parts(table)
    torch.manual_seed(profile.seed)
    model = network(profile)
    if start is not None:
        load_features(model, start)
    training = with_decay(profile.backbone_training, len(split["train"]), profile.choices)
    val, truth = dataset(split["val"], profile, store), split["val"][list(FINDINGS)].to_numpy()

    def validate(model):
        return {"score": mean_auc(truth, train.evaluate(model, val)["logits"].numpy())}

    train.fit(model, loss, dataset(split["train"], profile, store, augmented=True), training, folder=folder, seed=profile.seed,
              validate=validate if training.eval_every and len(val) else None)
    judged = {name: predict(model, split[name], profile, store) for name in ("val", "test", "external") if len(split[name])}
    result = {"images": {name: len(part) for name, part in split.items()}, **report(judged)}
    if places is not None:
        result["pointing"] = places.judge(model, profile, store)
    pd.concat(judged.values(), ignore_index=True).to_csv(folder / "predictions.csv", index=False)
    write_json(folder / "metrics.json", result)


def predict(model, table, profile, store=None):
    """The table with a column of logits for each finding (LOGITS)."""
    logits = train.evaluate(model, dataset(table, profile, store))["logits"].numpy()
    return table.assign(**dict(zip(LOGITS, logits.T, strict=True)))


def mean_auc(truth, scores):
    """Mean AUC over the findings for which both values occur: truth, scores (n, K) -> float, NaN if there is none."""
    areas = [metrics.auc(truth[:, k], scores[:, k]) for k in range(truth.shape[1])]
    return float(np.nanmean(areas)) if np.isfinite(areas).any() else np.nan


def report(judged):
    """Metrics of tables with logits, {"test": ..., "external": ...}; each external site also on its own, as external1, 2, ..."""
    out = {name: scores(table) for name, table in judged.items()}
    if "external" in judged:
        for i, (site, part) in enumerate(judged["external"].groupby("site"), start=1):
            out[f"external{i}"] = {"site": site, **scores(part)}
    return out


def scores(table, seed=0):
    """AUC by finding (DeLong by patient) and mean (bootstrap of patients), calibration: a nested dict ready for JSON."""
    groups, out = table["group_id"].to_numpy(), {}
    for name, column in zip(FINDINGS, LOGITS, strict=True):
        known = table[name].notna().to_numpy()
        y, logit = table.loc[known, name].to_numpy(), table.loc[known, column].to_numpy()
        probability = 1 / (1 + np.exp(-logit.astype(float)))
        out[name] = {"auc": interval(metrics.auc_ci(y, logit, groups=groups[known]), int(y.sum())),
                     "ece": number(metrics.ece(y, probability)), "brier": number(metrics.brier(y, probability))}
    truth, logits = table[list(FINDINGS)].to_numpy(), table[LOGITS].to_numpy()
    mean = metrics.bootstrap(mean_auc, truth, logits, groups=groups, draws=400, seed=seed)
    return {"findings": out, "auc": interval(mean, len(table)), "ece": number(np.nanmean([o["ece"] or np.nan for o in out.values()]))}


def number(value):
    """float, None where it is not finite: JSON has no NaN."""
    return float(value) if np.isfinite(value) else None


def interval(triple, n):
    """(value, low, high) -> dict value, low, high, n, as the report prints it."""
    return {**dict(zip(("value", "low", "high"), map(number, triple), strict=True)), "n": int(n)}
