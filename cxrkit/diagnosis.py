"""Diagnosis: the corpus ViT's task. Normal, other infection or COVID-19 from one film, judged on hospitals never seen (3.2, 4, 5.1).

PA and AP films have models of their own, and each external hospital is reported by itself. B batch, K classes, S image size.
"""

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import nn

from cxrkit import batches, checkpoint, findings, metrics, train
from cxrkit.artifacts import write_json
from cxrkit.backbone import load_features
from cxrkit.data import CXRDataset, parts
from cxrkit.findings import interval, number
from cxrkit.schema import DIAGNOSES
from cxrkit.transformer import CorpusViT

PROBABILITIES = [f"p_{name}" for name in DIAGNOSES]
SENSITIVITY = 0.8  # that the operating point must reach (section 5)
DRAWS = 400  # of patients, for an interval


class Network(nn.Module):
    """Backbone and corpus ViT in one: image (B, 1, S, S) -> dict of `CorpusViT`; the weights of the two keep their names."""

    def __init__(self, features, transformer):
        super().__init__()
        self.features, self.transformer = features, transformer

    def forward(self, image):
        return self.transformer(self.features(image))


def network(profile, map_head=False):
    """The profile's whole model with random weights."""
    backbone, sizes, choices = findings.network(profile), profile.transformer, profile.choices
    vit = CorpusViT(backbone.out_channels, profile.image_size // profile.backbone.stride, sizes.embed_dim, sizes.depth, sizes.num_heads,
                    round(choices.mlp_dim * sizes.embed_dim / 768), map_head=map_head, map_scale=choices.map_scale, fused=True)
    return Network(backbone.features, vit)


def load(folder, profile):
    """The trained model of a finished stage, in evaluation mode; `transformer.fused = False` opens its attention to hooks."""
    return checkpoint.load_weights(network(profile), folder / "weights.safetensors")


HEADS = {  # choice 10: how three logits become a loss and probabilities
    "softmax": (F.cross_entropy, lambda logits: logits.softmax(-1)),
    "binary": (lambda logits, truth: F.binary_cross_entropy_with_logits(logits, F.one_hot(truth, logits.shape[-1]).to(logits)),
               torch.sigmoid),
}


def of_view(table, view):
    """The films of one view, "PA" or "AP"."""
    return table[table["view"] == view].reset_index(drop=True)


def class_weights(table):
    """Chance of each film to be drawn so that the classes come equally often: (n,), mean 1."""
    counts = table["diagnosis"].map(table["diagnosis"].value_counts())
    return (len(table) / counts / table["diagnosis"].nunique()).to_numpy()


def dataset(table, profile, store=None, augmented=False):
    """Films of a table as the backbone sees them."""
    return CXRDataset(table, profile.image_size, profile.choices, train=augmented, store=store)


def corpus(model, table, profile, store=None):
    """The features of all films, computed once, as a dataset: `features` (n, C, h, w) and `diagnosis` (n,)."""
    films = dataset(table, profile, store)
    features = train.evaluate(model.features, films, ("features",), forward=lambda part, batch: {"features": part(batch["image"])})
    return batches.Tensors(features=features["features"], diagnosis=films.diagnosis)


def make(folder, profile, table, store=None, backbone=None):
    """Train on the internal sites of `table` (films of one view) and judge on the others, into `folder`.

    Leaves weights.safetensors, history.json, metrics.json and predictions.csv (a row a film of val, test and external). backbone:
    state dict whose `features.*` the model begins with. Raises ValueError for a class without training films.
    """
    split = parts(table)
    missing = set(DIAGNOSES) - set(split["train"]["diagnosis"])
    if missing:
        raise ValueError(f"no training film is {', '.join(sorted(missing))}: check the manifests, views and splits of the profile")
    torch.manual_seed(profile.seed)
    model = network(profile)
    if backbone is not None:
        load_features(model, backbone)
    fit(model, folder, profile, split, store)
    judged = {name: predict(model, split[name], profile, store) for name in ("val", "test", "external") if len(split[name])}
    pd.concat(judged.values(), ignore_index=True).to_csv(folder / "predictions.csv", index=False)
    write_json(folder / "metrics.json", {"images": {name: len(part) for name, part in split.items()}, **report(judged, profile.choices)})


def fit(model, folder, profile, split, store=None):
    """Train the whole model, or on a frozen backbone the transformer alone, which then never runs the backbone again."""
    training, (loss_of, probabilities) = profile.transformer_training, HEADS[profile.choices.class_head]
    truth = split["val"]["diagnosis"].map(DIAGNOSES.index).to_numpy()
    frozen = profile.transformer.frozen
    part, inputs, key = (model.transformer, corpus, "features") if frozen else (model, dataset, "image")
    train_on = corpus(model, split["train"], profile, store) if frozen else dataset(split["train"], profile, store, augmented=True)
    val = inputs(*((model,) if frozen else ()), split["val"], profile, store) if training.eval_every and len(truth) else ()

    def loss(network, batch):
        return loss_of(network(batch[key])["logits"], batch["diagnosis"])

    def validate(network):
        logits = train.evaluate(network, val, forward=lambda network, batch: network(batch[key]))["logits"]
        return {"score": metrics.macro_auc(truth, probabilities(logits).numpy())}

    run = folder / "transformer" if frozen else folder
    train.fit(part, loss, train_on, training, folder=run, seed=profile.seed, validate=validate if len(val) else None,
              sample_weights=class_weights(split["train"]))
    if frozen:
        write_json(folder / "history.json", checkpoint.load_tensors(run / "weights.safetensors")[1]["history"])
        checkpoint.save_tensors(folder / "weights.safetensors", model.state_dict())
        (run / "weights.safetensors").unlink()


def predict(model, table, profile, store=None):
    """The table with a probability for each class (PROBABILITIES)."""
    probabilities = HEADS[profile.choices.class_head][1](train.evaluate(model, dataset(table, profile, store))["logits"])
    return table.assign(**dict(zip(PROBABILITIES, probabilities.numpy().T, strict=True)))


def report(judged, choices):
    """Metrics of tables of `predict`, {"val": ..., "test": ..., "external": ...}; each external site also as external1, 2, ...

    The operating points are chosen on validation, or, where choice 18 says so, on the films that they are judged on.
    """
    chosen = {name: thresholds(judged["val"]) for name in judged if "val" in judged}
    out = {name: scores(table, chosen.get(name), choices) for name, table in judged.items()}
    if "external" in judged:
        for i, (site, part) in enumerate(judged["external"].groupby("site"), start=1):
            out[f"external{i}"] = {"site": site, **scores(part, chosen.get("external"), choices)}
    return out


def thresholds(table):
    """The highest threshold of each class, against the rest, that reaches SENSITIVITY on these films: {class: threshold}."""
    return {name: metrics.operating_point(table["diagnosis"] == name, table[f"p_{name}"], SENSITIVITY)["threshold"] for name in DIAGNOSES}


def scores(table, carried, choices):
    """One table judged: per class AUC (DeLong by patient) and operating point, their means over the classes, calibration.

    carried: thresholds chosen elsewhere (None: there is no validation). The other way to choose them, on these very films, stands
    beside as `optimistic`.
    """
    groups = table["group_id"].to_numpy()
    own = thresholds(table)
    taken = own if carried is None or choices.threshold_from == "test" else carried
    classes = {name: one_class(table, name, taken[name]) for name in DIAGNOSES}
    truth, p = table["diagnosis"].map(DIAGNOSES.index).to_numpy(), table[PROBABILITIES].to_numpy()

    def macro(at):
        def rates(truth, p):
            return np.mean([list(metrics.at_threshold(truth == i, p[:, i], at[name]).values())[1:] for i, name in enumerate(DIAGNOSES)], 0)
        whole = ("sensitivity", "specificity", "accuracy")
        return {what: interval(metrics.bootstrap(lambda y, p, k=k: rates(y, p)[k], truth, p, groups=groups, draws=DRAWS), len(table))
                for k, what in enumerate(whole)}

    return {"n": {name: int((table["diagnosis"] == name).sum()) for name in DIAGNOSES},
            "auc": interval(metrics.bootstrap(metrics.macro_auc, truth, p, groups=groups, draws=DRAWS), len(table)),
            **macro(taken), "optimistic": macro(own), "classes": classes,
            "ece": number(metrics.ece((p.argmax(1) == truth).astype(float), p.max(1)))}


def one_class(table, name, threshold):
    """One class against the rest: dict auc, and threshold, sensitivity, specificity, accuracy at a threshold."""
    y, p = (table["diagnosis"] == name).to_numpy(float), table[f"p_{name}"].to_numpy()
    return {"auc": interval(metrics.auc_ci(y, p, groups=table["group_id"].to_numpy()), int(y.sum())),
            **{what: number(value) for what, value in metrics.at_threshold(y, p, threshold).items()}}


def transfer(table, sites=None):
    """Thresholds carried between hospitals: rows = where the COVID-19 threshold was chosen, columns = where it was used.

    -> DataFrame of sensitivities; the diagonal reaches SENSITIVITY by construction.
    """
    sites = sites or sorted(table["site"].unique())
    parts_of = {site: table[table["site"] == site] for site in sites}
    chosen = {site: thresholds(part)["covid19"] for site, part in parts_of.items()}
    rows = {a: {b: metrics.at_threshold(parts_of[b]["diagnosis"] == "covid19", parts_of[b]["p_covid19"], chosen[a])["sensitivity"]
                for b in sites} for a in sites}
    return pd.DataFrame(rows).T
