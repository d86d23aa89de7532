"""Quantification: the severity task. A map of where the disease lies, learnt from six ones and
zeros a film (section 3.3).

B batch, H W severity map, S image size; an array is 3x2 with row 0 = upper zone, column 0 =
patient's right = image left, unless `choices.array_columns` says the other way. PA and AP films go
together (section 4).
"""

from dataclasses import replace

import cv2
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

from cxrkit.config import vocabulary
from cxrkit.config.vocabulary import SECOND, ZONES
from cxrkit.data import lung_zones
from cxrkit.data.datasets import CXRDataset, arrays, parts
from cxrkit.data.images import load_image
from cxrkit.data.masks import letterbox
from cxrkit.evaluation import follow_up, localisation, metrics, resampling
from cxrkit.evaluation.summaries import by_place, interval, number
from cxrkit.models import classifier, factory
from cxrkit.storage.atomic import write_json
from cxrkit.tasks import segmentation
from cxrkit.training import checkpoint, loop

# columns of a judged table, in the order of the true ones
PREDICTED = [f"p_{zone}" for zone in ZONES]
DRAWS = 400  # of patients, for an interval


def network(profile):
    """The profile's severity model with random weights: backbone and corpus ViT with the map head
    (`networks.Network`).
    """
    return factory.network(profile, map_head=True)


def load(folder, profile):
    """The trained model of a finished stage."""
    return checkpoint.load_weights(network(profile), folder / "weights.safetensors")


def inside_lungs(lung_mask, size):
    """Lung mask (B, S, S) of 0, 127, 255 -> bool (B, *size), nearest; what nobody has drawn (127)
    is no lung.
    """
    inside = (lung_mask == 255)[:, None].float()
    return F.interpolate(inside, size, mode="nearest-exact")[:, 0] > 0.5


def predicted_lungs(segmenter, table, profile, store=None):
    """The segmenter's masks where the model looks: uint8 (n, S, S) of 0, 255, and 127 in the border
    that `choices.resize` "pad" adds.
    """
    masks = segmentation.predict(segmenter, table, profile, store)
    shapes = (
        (1, 1) if profile.choices.resize == "plain" else load_image(path).pixels.shape
        for path in table["path"]
    )
    return np.stack([placed(mask, shape, profile) for mask, shape in zip(masks, shapes)])


def placed(mask, shape, profile):
    """A bool mask of the whole film, plainly resized, where the model sees the film of this shape:
    uint8 (S, S), as `predicted_lungs`.
    """
    size, grey = profile.image_size, np.where(mask, 255, 0).astype(np.uint8)
    if profile.choices.resize == "plain":
        return cv2.resize(grey, (size, size), interpolation=cv2.INTER_NEAREST)
    return letterbox(cv2.resize(grey, shape[::-1], interpolation=cv2.INTER_NEAREST), size)


SIGMOIDS = {  # choice 7 -> map inside and outside the lungs
    "before_mask": lambda logits, inside: logits.sigmoid() * inside,
    "after_mask": lambda logits, inside: (logits * inside).sigmoid(),  # 0.5 outside the lungs
}


def read(model, batch, choices, how="max"):
    """Film and lung mask -> dict `severity_map` (B, 1, H, W) times the lung mask, and `array` (B,
    3, 2), pooled from it.

    Zones hold lung pixels only, so the order of sigmoid and mask (choice 7) changes the map outside
    the lungs and no array.
    """
    logits = model(batch["image"])["severity_logits"].float()  # (B, 1, H, W); in bf16 0.999 is 1
    inside = inside_lungs(batch["lung_mask"], logits.shape[-2:])  # (B, H, W)
    shown = SIGMOIDS[choices.sigmoid](logits, inside[:, None])  # (B, 1, H, W)
    return {"severity_map": shown, "array": lung_zones.roi_pool(shown, inside, how, choices)}


def cross_entropy(array, truth):
    """Binary cross-entropy of each value: arrays (B, 3, 2) -> (B, 3, 2). Pooled from a map, they
    have no logits that a loss could take.
    """
    # which would refuse probabilities; these are float32 (`read`)
    with torch.autocast(array.device.type, enabled=False):
        return F.binary_cross_entropy(array.clamp(1e-6, 1 - 1e-6), truth, reduction="none")


LOSSES = {"mse": lambda array, truth: (array - truth).square(), "bce": cross_entropy}


def loss(choices, how="max"):
    """The loss for `train.fit`: choice 8 over the zones that are known and in the film; 0 for a
    batch without any.
    """

    def of(model, batch):
        array, truth = read(model, batch, choices, how)["array"], batch["array"]  # (B, 3, 2)
        known = ~truth.isnan()
        return (
            LOSSES[choices.severity_loss](array, truth.nan_to_num()) * known
        ).sum() / known.sum().clamp(min=1)

    return of


def dataset(table, profile, store=None, augmented=False):
    """Films of a table with their lung masks; a flip swaps the columns of the array."""
    how = replace(profile.choices, augmentation=profile.quantifier.augmentation)
    return CXRDataset(
        table,
        profile.image_size,
        how,
        train=augmented,
        flip=profile.quantifier.flip,
        masks=True,
        store=store,
    )


def set_aside(table, site):
    """Alternation (section 4): one training hospital becomes the external test, and those external
    before are left out.

    Raises ValueError, with the training hospitals, for another site.
    """
    inside = table[~table["external"].astype(bool)]
    vocabulary.known(site, set(inside["site"]), "training hospital")
    return inside.assign(external=inside["site"] == site).reset_index(drop=True)


def trained_at(table, sites):
    """The films without those of training hospitals (or datasets) that are not among `sites`
    ("Brixia alone", Table 10); () = all.

    Raises ValueError, with the training hospitals, for an unknown one.
    """
    inside = ~table["external"].astype(bool)
    for site in sites:
        vocabulary.known(
            site,
            set(table.loc[inside, "site"]) | set(table.loc[inside, "dataset"]),
            "training hospital",
        )
    chosen = table["site"].isin(sites) | table["dataset"].isin(sites) if sites else True
    return table[~inside | chosen].reset_index(drop=True)


def make(folder, profile, table, store=None, start=()):
    """Train on the internal sites of `table` (its `lung_mask` gives the zones) and judge on the
    others, into `folder`.

    Leaves weights.safetensors, history.json, metrics.json and predictions.csv (a row a film of val,
    test and external). start: state dicts that the model begins with (`networks.adopt`). Returns
    the metrics. The validation MSE picks the step where the training says `eval_every`. Films that
    another task lends (column `lent`) teach the model, and not the constant guess beside it.
    """
    split = parts(table)
    own = ~split["train"].get("lent", pd.Series(False, split["train"].index)).astype(bool)
    model = fit(folder, profile, split["train"], split["val"], store, start)
    judged = {
        name: predict(model, split[name], profile, store)
        for name in ("val", "test", "external")
        if len(split[name])
    }
    result = {
        "images": {name: len(part) for name, part in split.items()},
        **report(judged, split["train"][own], profile.choices),
    }
    drawn = {
        name: (maps(model, table, profile, store), table)
        for name, table in judged.items()
        if table["lesion_mask"].notna().all()
    }
    for name, found in localisation.places(drawn, profile, store).items():
        result[name]["map"] = found
    result |= follow(judged, profile.choices)
    pd.concat(judged.values(), ignore_index=True).to_csv(folder / "predictions.csv", index=False)
    write_json(folder / "metrics.json", result)
    return result


def fit(folder, profile, table, val=(), store=None, start=()):
    """Train on one table -> the model in evaluation mode."""
    torch.manual_seed(profile.seed)
    model = network(profile)
    classifier.adopt(model, *start)
    if profile.quantifier.frozen:
        model.features.requires_grad_(False)
    training = profile.severity_training

    def validate(model):
        judged = predict(model, val, profile, store)
        return {
            "score": -metrics.severity_metrics(score_of(val, profile.choices), judged["score"])[
                "mse"
            ]
        }

    loop.fit(
        model,
        loss(profile.choices, profile.variant.pooling),
        dataset(table, profile, store, augmented=True),
        training,
        folder=folder,
        seed=profile.seed,
        validate=validate if training.eval_every and len(val) else None,
    )
    return model


def follow(judged, choices):
    """What change between two films of a patient is more than noise: measured on val and test,
    judged on external films.
    """
    at_home = follow_up.changes(
        pd.concat([judged[name] for name in ("val", "test") if name in judged] or [pd.DataFrame()]),
        choices,
    )
    away = follow_up.changes(judged["external"], choices) if "external" in judged else at_home
    sd = follow_up.noise(at_home)
    return {"followup": follow_up.report(away, sd)} if np.isfinite(sd) else {}


def arrays_of(model, table, profile, store=None):
    """Predicted arrays of a table, (n, 3, 2)."""
    return loop.evaluate(
        model,
        dataset(table, profile, store),
        ("array",),
        forward=lambda model, batch: read(model, batch, profile.choices, profile.variant.pooling),
    )["array"].numpy()


def predict(model, table, profile, store=None):
    """The table with the six values (PREDICTED, named after zones of the patient), `score` (choice
    9) and both its readings.
    """
    return judge(table, arrays_of(model, table, profile, store), profile.choices)


def judge(table, array, choices):
    """A table and arrays (n, 3, 2) -> the table of `predict`."""
    sided = array if choices.array_columns == "patient_right" else array[:, :, ::-1]
    both = {how: lung_zones.score(array, how) for how in ("soft", "hard")}
    zones = dict(
        zip(PREDICTED, np.concatenate([sided[:, :, 0], sided[:, :, 1]], axis=1).T, strict=True)
    )
    return table.assign(
        **zones, score=both[choices.severity_score], soft=both["soft"], hard=both["hard"]
    )


def maps(model, table, profile, store=None):
    """Severity maps times lung masks, (n, H, W) in [0, 1]."""
    return loop.evaluate(
        model,
        dataset(table, profile, store),
        ("severity_map",),
        forward=lambda model, batch: read(model, batch, profile.choices),
    )["severity_map"][:, 0].numpy()


def score_of(table, choices):
    """True severity 0-6 of a table, (n,); NaN where a zone is unknown."""
    return lung_zones.score(arrays(table, choices))


def second_reader(table, choices):
    """Score of the second reader, (n,); NaN where there is none."""
    return lung_zones.score(
        lung_zones.brixia_to_array(
            table[list(SECOND)].to_numpy(np.float32), choices.brixia_threshold
        )
    )


def report(judged, trained, choices):
    """Metrics of tables of `predict`, {"test": ..., "external": ...}; each external site also on
    its own, as external1, 2, ...
    """
    guess = float(np.nanmean(score_of(trained, choices)))
    return by_place(judged, lambda table: scores(table, guess, choices))


def scores(table, guess, choices):
    """How well one table is read: MSE, MAE, CC, R2 of the score with intervals by patient, both
    readings of the score, each zone, Bland-Altman and quadratic kappa; beside them a constant guess
    and, where there is one, the second reader.
    """
    truth, groups = score_of(table, choices), table["group_id"].to_numpy()
    out = {
        **errors(truth, table["score"], groups),
        "constant": errors(truth, np.full(len(table), guess), groups),
        **{how: errors(truth, table[how], groups) for how in ("soft", "hard")},
        "zones": by_zone(table, choices),
        "bland_altman": {
            name: number(value)
            for name, value in metrics.bland_altman(table["score"], truth).items()
        },
        "kappa": interval(
            resampling.bootstrap(
                metrics.quadratic_kappa, truth, np.rint(table["score"]), groups=groups, draws=DRAWS
            ),
            len(table),
        ),
    }
    other = second_reader(table, choices)
    both = ~np.isnan(other) & ~np.isnan(truth)
    return {**out, "reader": errors(truth[both], other[both], groups[both])} if both.any() else out


def errors(truth, score, groups):
    """MSE (the main metric), MAE, CC and R2, each with its interval by patient."""
    known, score = ~np.isnan(truth), np.asarray(score)

    def one(name):
        triple = resampling.bootstrap(
            lambda y, p: metrics.severity_metrics(y, p)[name],
            truth[known],
            score[known],
            groups=groups[known],
            draws=DRAWS,
        )
        return interval(triple, known.sum())

    return {name: one(name) for name in ("mse", "mae", "cc", "r2")}


def by_zone(table, choices):
    """AUC (DeLong by patient) and agreement at 0.5 of each of the six zones."""
    truth, groups, out = arrays(table, choices), table["group_id"].to_numpy(), {}
    truth = truth if choices.array_columns == "patient_right" else truth[:, :, ::-1]
    for i, (zone, column) in enumerate(zip(ZONES, PREDICTED, strict=True)):
        y, p = truth[:, i % 3, i // 3], table[column].to_numpy()
        known = ~np.isnan(y)
        agreement = resampling.bootstrap(
            lambda a, b: np.mean(a == b),
            y[known],
            p[known] >= 0.5,
            groups=groups[known],
            draws=DRAWS,
        )
        out[zone] = {
            "auc": interval(metrics.auc_ci(y, p, groups=groups), int((y == 1).sum())),
            "agreement": interval(agreement, known.sum()),
        }
    return out
