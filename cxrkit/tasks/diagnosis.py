"""Diagnosis: the corpus ViT's task. Normal, other infection or COVID-19 from one film, judged on
hospitals never seen (3.2, 4, 5.1).

PA and AP films have models of their own, and each external hospital is reported by itself. B batch,
K classes, S image size.
"""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

from cxrkit.config.vocabulary import DIAGNOSES, known
from cxrkit.data import datasets, manifests
from cxrkit.data.datasets import parts
from cxrkit.evaluation import metrics, resampling
from cxrkit.evaluation.summaries import by_place, in_folds, interval, number
from cxrkit.models.classifier import adopt
from cxrkit.models.factory import network
from cxrkit.storage import mapped
from cxrkit.storage.atomic import write_json
from cxrkit.training import batches, checkpoint, loop

PROBABILITIES = [f"p_{name}" for name in DIAGNOSES]
SENSITIVITY = 0.8  # that the operating point must reach (section 5)
RATES = ("sensitivity", "specificity", "accuracy")
DRAWS = 400  # of patients, for an interval


def load(folder, profile):
    """The trained model of a finished stage, in evaluation mode; `transformer.fused = False` opens
    its attention to hooks.
    """
    return checkpoint.load_weights(network(profile), folder / "weights.safetensors")


def dataset(table, profile, store=None, augmented=False):
    """Films of a table as the model sees them, `variant.zoom` times as large as its backbone's."""
    larger = replace(profile, image_size=profile.variant.zoom * profile.image_size)
    return datasets.dataset(table, larger, store, augmented)


HEADS = {  # choice 10: how three logits become a loss and probabilities
    "softmax": (F.cross_entropy, lambda logits: logits.softmax(-1)),
    "binary": (
        lambda logits, truth: F.binary_cross_entropy_with_logits(
            logits, F.one_hot(truth, logits.shape[-1]).to(logits)
        ),
        torch.sigmoid,
    ),
}


def of_view(table, view):
    """The films of one view, "PA" or "AP"."""
    return table[table["view"] == view].reset_index(drop=True)


def codes(table):
    """Number of each film's class, (n,). Raises ValueError for a diagnosis that is not one of
    DIAGNOSES, or missing.
    """
    unknown = sorted({str(name) for name in table["diagnosis"] if name not in DIAGNOSES})
    if unknown:
        raise ValueError(
            f"unknown diagnosis {', '.join(unknown)}; known: {list(DIAGNOSES)}; leave out films "
            "without one"
        )
    return table["diagnosis"].map(DIAGNOSES.index).to_numpy(int)


def class_weights(table):
    """Chance of each film to be drawn so that the classes come equally often: (n,), mean 1."""
    counts = table["diagnosis"].map(table["diagnosis"].value_counts())
    return (len(table) / counts / table["diagnosis"].nunique()).to_numpy()


def draw_weights(table, shares=()):
    """Chance of each film to be drawn, (n,), mean 1: `class_weights`, or, with
    `profile.sources.shares`, each dataset by its share.

    Raises ValueError for a dataset of the table without a share.
    """
    if not shares:
        return class_weights(table)
    missing = sorted(set(table["dataset"]) - set(dict(shares)))
    if missing:
        raise ValueError(
            f"no share of the draws for {', '.join(missing)}: name them in profile.sources.shares, "
            "with 0 to leave them out"
        )
    classes = table.groupby("dataset")["diagnosis"].transform("nunique")
    weights = (
        table["dataset"].map(dict(shares))
        / classes
        / table.groupby(["dataset", "diagnosis"])["path"].transform("size")
    )
    return (weights / weights.mean()).to_numpy()


# profile.sources.contrast -> bool (n, K): classes that a film's loss weighs against each other
CONTRASTS = {
    "all": lambda table: np.ones((len(table), len(DIAGNOSES)), bool),
    "own": lambda table: np.stack(
        [
            table["dataset"].isin(set(table.loc[table["diagnosis"] == name, "dataset"]))
            for name in DIAGNOSES
        ],
        1,
    ),
}
NEVER = -1e4  # logit of a class that takes no part


def corpus(model, table, profile, file, store=None):
    """The corpus of all films, computed once, as a dataset: `features` (n, C, h, w) and `diagnosis`
    (n,). The features go into `file`, 1 MB a film at paper size, and are read from there.
    """
    films, array, done = dataset(table, profile, store), None, 0
    for part in loop.outputs(
        model,
        films,
        ("features",),
        forward=lambda model, batch: {"features": model.corpus(batch["image"])},
    ):
        rows = part["features"].numpy()  # (B, C, h, w)
        if array is None:
            array = mapped.begin(file, (len(films), *rows.shape[1:]), rows.dtype)
        array[done : done + len(rows)] = rows
        done += len(rows)
    array.flush()
    return batches.Mapped(
        file, "features", diagnosis=films.diagnosis, index=torch.arange(len(films))
    )


def make(folder, profile, table, store=None, start=(), lent=None):
    """Train on the internal sites of `table` (films of one view) and judge on the others, into
    `folder`.

    Leaves weights.safetensors, history.json, metrics.json and predictions.csv (a row a film of val,
    test and external). start: state dicts that the model begins with (`adopt`); lent: films of
    another profile that teach beside those of the table. Returns the metrics. Raises ValueError for
    a class without training films or an unknown one.
    """
    split = parts(table)
    images = {name: len(part) for name, part in split.items()}
    split["train"] = pd.concat([split["train"], lent], ignore_index=True)
    codes(split["train"])
    missing = set(DIAGNOSES) - set(split["train"]["diagnosis"])
    if missing:
        raise ValueError(
            f"no training film is {', '.join(sorted(missing))}: check the manifests, views and "
            "splits of the profile"
        )
    model = fit(begin(profile, start), folder, profile, split, store)
    judged = {
        name: predict(model, split[name], profile, store)
        for name in ("val", "test", "external")
        if len(split[name])
    }
    pd.concat(judged.values(), ignore_index=True).to_csv(folder / "predictions.csv", index=False)
    result = {"images": images, **report(judged, profile.choices)}
    write_json(folder / "metrics.json", result)
    return result


def begin(profile, start=()):
    """The profile's model before its training, with the weights of state dicts (`adopt`)."""
    torch.manual_seed(profile.seed)
    model = network(profile)
    adopt(model, *start)
    return model


def cross_validate(folder, profile, table, store=None, start=(), lent=None):
    """Grouped folds -> the films of `table` with probabilities, each from a model that never saw
    its patient, and `fold`.

    start: state dicts to begin with, which must not know the films of the table either. Leaves
    crossvalidated.csv.
    """

    def taught(k, films):
        split = {"train": pd.concat([films, lent], ignore_index=True), "val": films[:0]}
        return fit(begin(profile, start), folder / f"fold{k}", profile, split, store)

    fold = table["group_id"].map(lambda group: manifests.fold_of(group, profile.folds))
    whole = in_folds(
        table, fold, taught, lambda model, films: predict(model, films, profile, store)
    )
    whole.to_csv(folder / "crossvalidated.csv", index=False)
    return whole


def take(folder, profile, view, whole):
    """One view's part of a model taught by both (`profile.sources.together`), judged on its own
    films, into `folder`; `whole`: the folder of that model.
    """
    for name in ("weights.safetensors", "history.json"):
        shutil.copy(whole / name, folder / name)
    films = of_view(pd.read_csv(whole / "predictions.csv", low_memory=False), view)
    films.to_csv(folder / "predictions.csv", index=False)
    judged = {name: part for name, part in parts(films).items() if len(part)}
    write_json(
        folder / "metrics.json",
        {
            "images": {name: len(part) for name, part in judged.items()},
            **report(judged, profile.choices),
        },
    )


def fit(model, folder, profile, split, store=None):
    """Train the model in place and return it; on a frozen backbone the corpus is computed once, and
    no step runs the backbone again.

    split: tables "train" and "val" (`data.parts`). The validation AUC picks the step where the
    training says `eval_every`. The corpus lies in the folder until the training ends.
    """
    training, (loss_of, probabilities) = (
        profile.transformer_training,
        HEADS[profile.choices.class_head],
    )
    frozen = profile.transformer.frozen
    model.features.requires_grad_(not frozen)
    key, kept = "features" if frozen else "image", Path(folder) / "corpus"

    def films(name):
        if not frozen:
            return dataset(split[name], profile, store, augmented=name == "train")
        kept.mkdir(parents=True, exist_ok=True)
        return corpus(model, split[name], profile, kept / f"{name}.npy", store)

    def forward(network, batch):
        return network(**{key: batch[key]})

    # (n, K)
    taught = torch.tensor(
        CONTRASTS[known(profile.sources.contrast, CONTRASTS, "contrast")](split["train"])
    )

    def loss(network, batch):
        own = taught[batch["index"].cpu()].to(batch["index"].device)  # (B, K)
        return loss_of(
            forward(network, batch)["logits"].masked_fill(~own, NEVER), batch["diagnosis"]
        )

    def validate(network):
        judged = probabilities(loop.evaluate(network, val, forward=forward)["logits"])
        return {"score": metrics.macro_auc(codes(split["val"]), judged.numpy())}

    try:
        val = films("val") if training.eval_every and len(split["val"]) else None
        loop.fit(
            model,
            loss,
            films("train"),
            training,
            folder=folder,
            seed=profile.seed,
            validate=validate if val else None,
            sample_weights=draw_weights(split["train"], profile.sources.shares),
        )
    finally:
        shutil.rmtree(kept, ignore_errors=True)
    return model


def predict(model, table, profile, store=None):
    """The table with a probability for each class (PROBABILITIES)."""
    probabilities = HEADS[profile.choices.class_head][1](
        loop.evaluate(model, dataset(table, profile, store))["logits"]
    )
    return table.assign(**dict(zip(PROBABILITIES, probabilities.numpy().T, strict=True)))


def report(judged, choices):
    """Metrics of tables of `predict`, {"val": ..., "test": ..., "external": ...}; each external
    site also as external1, 2, ...

    The operating points are chosen on validation, or, where choice 18 says so, on the films that
    they are judged on.
    """
    carried = thresholds(judged["val"]) if "val" in judged else None
    return by_place(judged, lambda table: scores(table, carried, choices))


def thresholds(table):
    """The highest threshold of each class, against the rest, that reaches SENSITIVITY on these
    films: {class: threshold}.
    """
    return {
        name: metrics.operating_point(table["diagnosis"] == name, table[f"p_{name}"], SENSITIVITY)[
            "threshold"
        ]
        for name in DIAGNOSES
    }


def scores(table, carried, choices):
    """One table judged: per class AUC and operating point (`one_class`), their means over the
    classes, calibration (ECE of the answer).

    carried: thresholds chosen elsewhere (None: there is no validation). The other way to choose
    them, on these very films, stands beside as `optimistic`. A mean over the classes is null where
    one of them has no film.
    """
    own, truth, p = thresholds(table), codes(table), table[PROBABILITIES].to_numpy()
    at = own if carried is None or choices.threshold_from == "test" else carried
    area = resampling.bootstrap(metrics.macro_auc, truth, p, groups=table["group_id"], draws=DRAWS)
    return {
        "n": {name: int((table["diagnosis"] == name).sum()) for name in DIAGNOSES},
        "auc": interval(area, len(table)),
        **mean_rates(table, at),
        "optimistic": mean_rates(table, own),
        "classes": {name: one_class(table, name, at[name]) for name in DIAGNOSES},
        "ece": number(metrics.ece((p.argmax(1) == truth).astype(float), p.max(1))),
    }


def mean_rates(table, at):
    """Means over the classes, each against the rest at its threshold, with intervals by patient:
    sensitivity, specificity, accuracy.

    at: {class: threshold}, held fixed: the intervals say nothing of how sure the choice of the
    thresholds is.
    """
    at = np.array([at[name] for name in DIAGNOSES])
    positive = codes(table)[:, None] == np.arange(len(DIAGNOSES))  # (n, K)
    right = (table[PROBABILITIES].to_numpy() >= at) == positive  # (n, K)
    # (RATES, n, K)
    counted = np.stack([positive, ~positive, np.ones_like(positive)]) & ~np.isnan(at)

    def mean(right, counted):
        # 0/0 is NaN: a class without films, or without a threshold
        with np.errstate(invalid="ignore"):
            return np.mean((right & counted).sum(0) / counted.sum(0))

    return {
        what: interval(
            resampling.bootstrap(mean, right, films, groups=table["group_id"], draws=DRAWS),
            len(table),
        )
        for what, films in zip(RATES, counted, strict=True)
    }


def one_class(table, name, threshold):
    """One class against the rest: dict auc (DeLong by patient; its n counts films of the class),
    and threshold and RATES there.
    """
    y, p = (table["diagnosis"] == name).to_numpy(float), table[f"p_{name}"].to_numpy()
    return {
        "auc": interval(metrics.auc_ci(y, p, groups=table["group_id"].to_numpy()), int(y.sum())),
        **{what: number(value) for what, value in metrics.at_threshold(y, p, threshold).items()},
    }


def transfer(table, name="covid19"):
    """Thresholds carried between hospitals: rows = where the class's threshold was chosen, columns
    = where it was used.

    -> DataFrame of sensitivities, NaN where a hospital has no film of the class; the diagonal
    reaches SENSITIVITY by construction.
    """
    y, sites = (
        table["diagnosis"] == name,
        {site: table["site"] == site for site in sorted(table["site"].unique())},
    )
    chosen = {
        a: metrics.operating_point(y[at], table.loc[at, f"p_{name}"], SENSITIVITY)["threshold"]
        for a, at in sites.items()
    }
    return pd.DataFrame(
        {
            b: {
                a: metrics.at_threshold(y[at], table.loc[at, f"p_{name}"], chosen[a])["sensitivity"]
                for a in sites
            }
            for b, at in sites.items()
        }
    )
