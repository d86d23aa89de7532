"""Linear probes: how far does one get without seeing disease?

Trivial features of images, linear models on them, and a model against the best of these. A model
that does not clearly beat a 16x16 thumbnail, the border of the image or the size of its file has
shown nothing about lungs. Folds are whole patients, or whole sources (leave-one-source-out).

n images, d features, K classes, S image size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV, GroupKFold, StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cxrkit.config.choices import Choices
from cxrkit.config.vocabulary import known
from cxrkit.data.cache import CachedImages, cached_images
from cxrkit.data.datasets import image_dataset
from cxrkit.data.masked_images import cover
from cxrkit.evaluation import metrics, resampling
from cxrkit.evaluation.summaries import interval_dict
from cxrkit.training import loop

if TYPE_CHECKING:
    import torch
    from torch import nn

    from cxrkit.config.sections import Profile
    from cxrkit.storage.artifacts import Store

THUMBNAIL = 16  # px
DRAWS = 400  # of patients, for an interval
CELLS = 1e-3  # inverse of the penalty on a linear model of cells
INNER_FOLDS = 3  # inside the training images, to choose a penalty


# features of pixels: uint8 (n, S, S) -> (n, d)


def thumbnails(images: Iterable[np.ndarray]) -> np.ndarray:
    """16x16 area means, (n, 256) in [0, 1]."""
    rows = []
    for image in images:
        small = cv2.resize(
            np.asarray(image), (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA
        )  # (16, 16)
        rows.append(small.ravel() / 255.0)
    return np.stack(rows)


def border(images: Iterable[np.ndarray]) -> np.ndarray:
    """The outermost ring of the thumbnail, (n, 60)."""
    inside = np.zeros((THUMBNAIL, THUMBNAIL), bool)
    inside[1:-1, 1:-1] = True
    return thumbnails(images)[:, ~inside.ravel()]


def statistics(images: Iterable[np.ndarray]) -> np.ndarray:
    """Mean and standard deviation of the grey levels, (n, 2)."""
    return np.array([(image.mean(), image.std()) for image in images])


def histogram(images: Sequence[np.ndarray]) -> np.ndarray:
    """Mean, standard deviation and the shares of 16 bins of grey, (n, 18)."""
    bins = []
    for image in images:
        counts = np.bincount(np.asarray(image).ravel() >> 4, minlength=16)
        bins.append(counts / image.size)
    return np.hstack([statistics(images), np.array(bins)])


def file_sizes(paths: Iterable[str], images: Iterable[np.ndarray]) -> np.ndarray:
    """Bytes of each image's file, (n, 1).

    Args:
        paths: Path of each image.
        images: Their pixels. An image without a file of its own counts the bytes of its PNG.

    Returns:
        float (n, 1).
    """
    sizes = []
    for path, image in zip(paths, images, strict=True):
        if Path(path).is_file():
            sizes.append(Path(path).stat().st_size)
        else:
            sizes.append(len(cv2.imencode(".png", np.asarray(image))[1]))
    return np.array(sizes, float)[:, None]


# features of the images of a table, by name


def load_pixels(
    table: pd.DataFrame, profile: Profile, store: Store | None = None, kind: str = "grey"
) -> CachedImages:
    """Pixels of the images of a table, or of their lung masks, from the image cache.

    Args:
        table: The images.
        profile: Its image size and choices.
        store: Where the image cache lies.
        kind: "grey" (resized plainly, 8 bits in the grey values of their file), "image" (equalised,
            as the model sees them) or "lungs" (masks of 0, 127, 255).

    Returns:
        n images, uint8 (S, S) each.

    Raises:
        ValueError: For "lungs", where an image has no lung mask.
    """
    size, choices = profile.image_size, profile.choices
    if kind == "grey":
        # the limits of a stretch lie anywhere in an image: bright lungs would darken its border
        choices = replace(choices, stretch="min_max")
    if kind != "lungs":
        return cached_images(table["path"], size, choices, kind, store)
    missing = int(table["lung_mask"].isna().sum())
    if missing:
        raise ValueError(
            f"{missing} of {len(table)} films have no lung mask: take the segmenter's "
            "(`run.with_masks(table)`), or leave them out"
        )
    # The default choices resize plainly, as "grey" does.
    return cached_images(table["lung_mask"], size, Choices(), kind, store)


def _thumbnail(table: pd.DataFrame, profile: Profile, store: Store | None) -> np.ndarray:
    return thumbnails(load_pixels(table, profile, store))


def _equalised_thumbnail(table: pd.DataFrame, profile: Profile, store: Store | None) -> np.ndarray:
    return thumbnails(load_pixels(table, profile, store, "image"))


def _statistics(table: pd.DataFrame, profile: Profile, store: Store | None) -> np.ndarray:
    return statistics(load_pixels(table, profile, store))


def _histogram(table: pd.DataFrame, profile: Profile, store: Store | None) -> np.ndarray:
    return histogram(load_pixels(table, profile, store))


def _file_size(table: pd.DataFrame, profile: Profile, store: Store | None) -> np.ndarray:
    """Of the image as it came: an edited one has its path in `origin`."""
    return file_sizes(table.get("origin", table["path"]), load_pixels(table, profile, store))


def _border(table: pd.DataFrame, profile: Profile, store: Store | None) -> np.ndarray:
    return border(load_pixels(table, profile, store))


def _lungs_removed(table: pd.DataFrame, profile: Profile, store: Store | None) -> np.ndarray:
    """What is not annotated goes with the lungs."""
    lungs = load_pixels(table, profile, store, "lungs").gather()
    return thumbnails(cover(load_pixels(table, profile, store).gather(), lungs != 0))


def _lungs_only(table: pd.DataFrame, profile: Profile, store: Store | None) -> np.ndarray:
    """What is not annotated goes with the rest."""
    lungs = load_pixels(table, profile, store, "lungs").gather()
    return thumbnails(cover(load_pixels(table, profile, store).gather(), lungs != 255))


def _lung_shape(table: pd.DataFrame, profile: Profile, store: Store | None) -> np.ndarray:
    lungs = load_pixels(table, profile, store, "lungs").gather()
    return thumbnails(np.where(lungs == 255, np.uint8(255), np.uint8(0)))


FEATURES: dict[str, Callable[[pd.DataFrame, Profile, Store | None], np.ndarray]] = {
    "thumbnail": _thumbnail,
    "equalised thumbnail": _equalised_thumbnail,
    "mean and SD": _statistics,
    "histogram": _histogram,
    "file size": _file_size,
    "border": _border,
    "lungs removed": _lungs_removed,
    "lungs only": _lungs_only,
    "lung shape": _lung_shape,
}


def trivial_features(
    name: str, table: pd.DataFrame, profile: Profile, store: Store | None = None
) -> np.ndarray:
    """Trivial features of the images of a table.

    Args:
        name: A key of FEATURES.
        table: The images; with `lung_mask` where the feature needs lungs.
        profile: Its image size and choices.
        store: Where the image cache lies.

    Returns:
        (n, d).

    Raises:
        ValueError: For an unknown name, or where a lung mask is missing.
    """
    return FEATURES[known(name, FEATURES, "trivial feature")](table, profile, store)


def pooled_features(
    model: nn.Module,
    table: pd.DataFrame,
    profile: Profile,
    store: Store | None = None,
    device: torch.device | str | None = None,
) -> np.ndarray:
    """Features of a trained network, averaged over the image.

    Args:
        model: A network with `features`: image -> (B, C, h, w). It is left on the device.
        table: The images.
        profile: How they are prepared.
        store: Where the image cache lies.
        device: Where to compute; None = `training.pick_device()`.

    Returns:
        (n, C).
    """

    def pool(network: nn.Module, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"pooled": network.features(batch["image"]).mean((2, 3))}  # (B, C)

    images = image_dataset(table, profile, store)
    return loop.evaluate(model, images, ("pooled",), device=device, forward=pool)["pooled"].numpy()


# linear models on features


@dataclass(frozen=True)
class LinearModel:
    """A kind of linear model and how its penalty is chosen."""

    estimator: BaseEstimator
    penalty: str  # its parameter in the pipeline
    values: np.ndarray  # to choose from
    scoring: str  # by which


MODELS = {
    # multinomial for more than two classes
    "logistic": LinearModel(
        LogisticRegression(max_iter=2000, class_weight="balanced", tol=1e-3),
        "logisticregression__C",
        np.logspace(-4, 0, 5),
        "neg_log_loss",
    ),
    "ridge": LinearModel(Ridge(), "ridge__alpha", np.logspace(1, 5, 9), "neg_mean_squared_error"),
}


def fit_probe(
    x: np.ndarray, y: np.ndarray, groups: np.ndarray, kind: str = "logistic"
) -> GridSearchCV:
    """Fit a linear model of standardised features; its penalty is chosen by folds of patients.

    Args:
        x: Features, (n, d).
        y: Class numbers, or for "ridge" numbers, (n,).
        groups: Patient of each image, (n,).
        kind: "logistic" for classes, "ridge" for numbers.

    Returns:
        The fitted estimator.

    Raises:
        ValueError: For no images, or a class of fewer than two patients.
    """
    model = MODELS[known(kind, MODELS, "linear model")]
    groups = np.asarray(groups)
    if kind == "logistic":
        parts = [y == label for label in np.unique(y)]
    else:
        parts = [np.full(len(y), True)]
    patients = min((len(set(groups[part])) for part in parts), default=0)
    k = min(INNER_FOLDS, patients)
    if k < 2:
        raise ValueError(
            f"{len(y)} films to learn from, and a class of fewer than two patients: leave that "
            "class, or that fold, out"
        )
    folds = StratifiedGroupKFold(k) if kind == "logistic" else GroupKFold(k)
    pipeline = make_pipeline(StandardScaler(), model.estimator)
    search = GridSearchCV(pipeline, {model.penalty: model.values}, cv=folds, scoring=model.scoring)
    return search.fit(x, y, groups=groups)


def assign_folds(groups: np.ndarray, k: int, seed: int = 0) -> np.ndarray:
    """Number of the fold of every image: whole groups, folds of equal size.

    Args:
        groups: Patient of each image, (n,).
        k: How many folds.
        seed: Seed of the division.

    Returns:
        (n,) in [0, k).

    Raises:
        ValueError: For fewer groups than k.
    """
    if len(set(groups)) < k:
        raise ValueError(
            f"{len(set(groups))} groups do not fill {k} folds; lower `folds` in the profile"
        )
    fold = np.empty(len(groups), int)
    splits = GroupKFold(k, shuffle=True, random_state=seed).split(groups, groups=groups)
    for number, (_, held_out) in enumerate(splits):
        fold[held_out] = number
    return fold


def out_of_fold_predictions(
    x: np.ndarray, y: np.ndarray, groups: np.ndarray, fold: np.ndarray, kind: str = "logistic"
) -> np.ndarray:
    """Predictions for each image by a model fitted without its fold, or any patient in it.

    Args:
        x: Features, (n, d).
        y: Class numbers 0 to K - 1, or for "ridge" numbers, (n,).
        groups: Patient of each image, (n,).
        fold: Number of its fold (`assign_folds`), or its source for leave-one-source-out, (n,).
        kind: "logistic" or "ridge".

    Returns:
        (n, K) probabilities, for "ridge" (n,) numbers. A class that no other fold has gets
        probability 0.

    Raises:
        ValueError: As `fit_probe`.
    """
    groups, fold = np.asarray(groups), np.asarray(fold)
    out = np.zeros(len(y))
    if kind == "logistic":
        out = np.zeros((len(y), int(np.max(y)) + 1))
    for name in np.unique(fold):
        held_out = fold == name
        # Patients may have images in several sources.
        inside = ~held_out & ~np.isin(groups, groups[held_out])
        model = fit_probe(x[inside], y[inside], groups[inside], kind)
        if kind == "logistic":
            classes = model.classes_.astype(int)
            out[np.ix_(held_out, classes)] = model.predict_proba(x[held_out])
        else:
            out[held_out] = model.predict(x[held_out])
    return out


def out_of_fold_cells(
    x: np.ndarray, y: np.ndarray, inside: np.ndarray, fold: np.ndarray
) -> np.ndarray:
    """Log-odds of each cell of an image's grid, by a model that the cells of other folds taught.

    The penalty is fixed (CELLS): cells of one image are too alike for folds of cells to choose it.

    Args:
        x: Features of the cells, (n, h, w, d).
        y: Whether each cell is positive, bool (n, h, w).
        inside: Which cells teach, bool (n, h, w).
        fold: Number of each image's fold, (n,); all images of a patient share one.

    Returns:
        (n, h, w), of all cells.
    """
    out = np.zeros(y.shape)
    for name in np.unique(fold):
        held_out = fold == name
        teach = inside & ~held_out[:, None, None]
        model = make_pipeline(StandardScaler(), LogisticRegression(C=CELLS, max_iter=500))
        model.fit(x[teach], y[teach])
        found = model.decision_function(x[held_out].reshape(-1, x.shape[-1]))
        out[held_out] = found.reshape(-1, *y.shape[1:])
    return out


# how good the predictions are


def mean_over_sites(statistic: Callable[..., float]) -> Callable[..., float]:
    """The mean of a statistic over sites: scores of different hospitals are never ranked together.

    Args:
        statistic: statistic(y, p) -> number.

    Returns:
        The same as a statistic (y, p, site).
    """

    def mean(y: np.ndarray, p: np.ndarray, site: np.ndarray) -> float:
        values = [statistic(y[site == name], p[site == name]) for name in np.unique(site)]
        return float(np.mean(values))

    return mean


def evaluate_probe(
    y: np.ndarray,
    p: np.ndarray,
    groups: np.ndarray,
    site: np.ndarray | None = None,
    draws: int = DRAWS,
) -> dict[str, dict]:
    """Scores of a probe's predictions, each with its interval by patient.

    Args:
        y: Class numbers, (n,).
        p: Probabilities, (n, K).
        groups: Patient of each image, (n,).
        site: Site of each image, (n,). With it the scores are means over the sites.
        draws: Draws of patients.

    Returns:
        `auc` (one-vs-rest, mean over the classes) and `balanced_accuracy`.
    """
    out = {}
    for name, statistic in {
        "auc": metrics.macro_auc,
        "balanced_accuracy": metrics.balanced_accuracy,
    }.items():
        arrays = [y, p]
        if site is not None:
            statistic = mean_over_sites(statistic)
            arrays.append(np.asarray(site))
        triple = resampling.bootstrap(statistic, *arrays, groups=groups, draws=draws)
        out[name] = interval_dict(triple, len(y))
    return out


def compare_with_best(
    statistic: Callable[..., float],
    y: np.ndarray,
    p: np.ndarray,
    baselines: Mapping[str, np.ndarray],
    groups: np.ndarray,
    best: Callable = max,
    draws: int = DRAWS,
) -> dict[str, Any]:
    """A model's score minus that of the best baseline on the same images.

    The best is chosen on these very images, which favours it.

    Args:
        statistic: statistic(y, p) -> number.
        y: Truth, (n,).
        p: Predictions of the model, n rows.
        baselines: name -> predictions like `p`, fitted on the folds that `p` comes from.
        groups: Patient of each image, (n,).
        best: `max`, or `min` where the statistic is an error.
        draws: Draws of patients.

    Returns:
        `baseline` (the name of the best one), `difference`, `low`, `high`, `p_value`, and
        `values` (the statistic of each baseline).
    """
    values = {name: float(statistic(y, scores)) for name, scores in baselines.items()}
    name = best(values, key=values.get)
    difference = resampling.paired_bootstrap(
        statistic, y, p, baselines[name], groups=groups, draws=draws
    )
    return {"baseline": name, **difference, "values": values}


def run_probes(
    names: Iterable[str],
    y: np.ndarray,
    table: pd.DataFrame,
    fold: np.ndarray,
    profile: Profile,
    store: Store | None = None,
    site: np.ndarray | None = None,
    more: Mapping[str, np.ndarray] | None = None,
    draws: int = DRAWS,
) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """Linear models on trivial features, fitted without each fold.

    Args:
        names: Keys of FEATURES.
        y: Class numbers, (n,).
        table: The images.
        fold: Number of each image's fold, (n,).
        profile: Its image size and choices.
        store: Where the image cache lies.
        site: As in `evaluate_probe`.
        more: Further features, name -> (n, d), such as those of a backbone (`pooled_features`).
        draws: Draws of patients.

    Returns:
        A table with a row for each `features` and `score` (value, low, high, n), and the
        predictions, name -> (n, K) probabilities.
    """
    groups = table["group_id"].to_numpy()
    features = {name: trivial_features(name, table, profile, store) for name in names}
    features |= dict(more or {})
    predictions = {
        name: out_of_fold_predictions(x, y, groups, fold) for name, x in features.items()
    }
    rows = []
    for name, p in predictions.items():
        for score, interval in evaluate_probe(y, p, groups, site, draws).items():
            rows.append({"features": name, "score": score, **interval})
    return pd.DataFrame(rows), predictions
