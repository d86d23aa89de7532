"""Audit: how far does one get without seeing disease? Trivial features of films, linear models on
them, and our model against the best.

A model that does not clearly beat a 16x16 thumbnail, the border of the film or the size of its file
has shown nothing about lungs. Folds are whole patients, or whole sources (leave-one-source-out). n
films, d features, K classes, S px.
"""

from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV, GroupKFold, StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cxrkit.config.choices import Choices
from cxrkit.config.vocabulary import known
from cxrkit.data.cache import cached
from cxrkit.data.datasets import dataset
from cxrkit.data.masked_images import cover
from cxrkit.evaluation import metrics, resampling
from cxrkit.evaluation.summaries import interval
from cxrkit.training import loop

THUMBNAIL = 16  # px
DRAWS = 400  # of patients, for an interval
INNER = 3  # folds inside the training films that choose a penalty


# features: uint8 (n, S, S) -> (n, d)


def thumbnails(films):
    """16x16 area means, (n, 256) in [0, 1]."""
    side = (THUMBNAIL, THUMBNAIL)
    return np.stack(
        [
            cv2.resize(np.asarray(film), side, interpolation=cv2.INTER_AREA).ravel() / 255.0
            for film in films
        ]
    )


def border(films):
    """The outermost ring of the thumbnail, (n, 60)."""
    inside = np.zeros((THUMBNAIL, THUMBNAIL), bool)
    inside[1:-1, 1:-1] = True
    return thumbnails(films)[:, ~inside.ravel()]


def statistics(films):
    """Mean and standard deviation of the grey levels, (n, 2)."""
    return np.array([(film.mean(), film.std()) for film in films])


def histogram(films):
    """Mean, standard deviation and the shares of 16 bins of grey, (n, 18)."""
    bins = np.array(
        [np.bincount(np.asarray(film).ravel() >> 4, minlength=16) / film.size for film in films]
    )
    return np.hstack([statistics(films), bins])


def file_sizes(paths, films):
    """Bytes of each film's file, (n, 1); of a film without a file of its own, the bytes of its PNG."""
    return np.array(
        [
            [
                Path(path).stat().st_size
                if Path(path).is_file()
                else len(cv2.imencode(".png", np.asarray(film))[1])
            ]
            for path, film in zip(paths, films, strict=True)
        ],
        float,
    )


def read(table, profile, store=None, kind="grey"):
    """Films of a table (kind "grey"), or equalised as the model sees them ("film"), or their lung
    masks ("lungs"): uint8 (n, S, S).

    Raises ValueError where a film has no lung mask.
    """
    if kind != "lungs":
        return np.load(
            cached(table["path"], profile.image_size, profile.choices, kind, store), mmap_mode="r"
        )
    missing = int(table["lung_mask"].isna().sum())
    if missing:
        raise ValueError(
            f"{missing} of {len(table)} films have no lung mask: take the segmenter's "
            "(stages.masks), or leave them out"
        )
    # "grey" is resized plainly
    return np.load(
        cached(table["lung_mask"], profile.image_size, Choices(), "lungs", store), mmap_mode="r"
    )


# name -> (table, profile, store) -> (n, d); what nobody has drawn (127) goes, with the lungs and
# with the rest. An edited
FEATURES = {
    # film has an `origin`: the path of the film as it came
    "thumbnail": lambda *of: thumbnails(read(*of)),
    "equalised thumbnail": lambda *of: thumbnails(read(*of, "film")),
    "mean and SD": lambda *of: statistics(read(*of)),
    "histogram": lambda *of: histogram(read(*of)),
    "file size": lambda table, *of: file_sizes(
        table.get("origin", table["path"]), read(table, *of)
    ),
    "border": lambda *of: border(read(*of)),
    "lungs removed": lambda *of: thumbnails(cover(read(*of), read(*of, "lungs") != 0)),
    "lungs only": lambda *of: thumbnails(cover(read(*of), read(*of, "lungs") != 255)),
    "lung shape": lambda *of: thumbnails(
        np.where(read(*of, "lungs") == 255, np.uint8(255), np.uint8(0))
    ),
}


def features(name, table, profile, store=None):
    """Trivial features of the films of a table by name (a key of FEATURES), (n, d); the films come
    from the image cache.
    """
    return FEATURES[known(name, FEATURES, "trivial feature")](table, profile, store)


def pooled(model, table, profile, store=None):
    """What a trained network has learnt to see: its features (B, C, h, w), averaged over the film
    -> (n, C).
    """
    return loop.evaluate(
        model,
        dataset(table, profile, store),
        ("pooled",),
        forward=lambda network, batch: {"pooled": network.features(batch["image"]).mean((2, 3))},
    )["pooled"].numpy()


# linear models on them


MODELS = {  # kind -> estimator, its penalty, values to choose from, and by which score
    "logistic": (
        LogisticRegression(max_iter=2000, class_weight="balanced", tol=1e-3),
        "logisticregression__C",
        np.logspace(-4, 0, 5),
        "neg_log_loss",
    ),  # multinomial for more than two classes
    "ridge": (Ridge(), "ridge__alpha", np.logspace(1, 5, 9), "neg_mean_squared_error"),
}


def fit(x, y, groups, kind="logistic"):
    """Linear model of standardised features (n, d), its penalty chosen by folds of patients inside
    these films -> fitted estimator.

    kind: "logistic" for classes, "ridge" for numbers. Raises ValueError for a class of fewer than
    two patients, or no films.
    """
    estimator, name, penalties, score = MODELS[known(kind, MODELS, "linear model")]
    parts = (
        [y == label for label in np.unique(y)] if kind == "logistic" else [np.full(len(y), True)]
    )
    k = min(INNER, min((len(set(np.asarray(groups)[part])) for part in parts), default=0))
    if k < 2:
        raise ValueError(
            f"{len(y)} films to learn from, and a class of fewer than two patients: leave that "
            "class, or that fold, out"
        )
    folds = StratifiedGroupKFold(k) if kind == "logistic" else GroupKFold(k)
    return GridSearchCV(
        make_pipeline(StandardScaler(), estimator), {name: penalties}, cv=folds, scoring=score
    ).fit(x, y, groups=groups)


def fold_of(groups, k, seed=0):
    """Number of the fold of every film, (n,) in [0, k): whole groups, folds of equal size. Raises
    ValueError for fewer groups than k.
    """
    if len(set(groups)) < k:
        raise ValueError(
            f"{len(set(groups))} groups do not fill {k} folds; lower `folds` in the profile"
        )
    fold = np.empty(len(groups), int)
    for number, (_, held_out) in enumerate(
        GroupKFold(k, shuffle=True, random_state=seed).split(groups, groups=groups)
    ):
        fold[held_out] = number
    return fold


def refit(x, y, groups, fold, kind="logistic"):
    """What each film is given by a model fitted without its fold, or any patient in it: (n, K)
    probabilities, "ridge" (n,) numbers.

    fold (n,): numbers (`fold_of`), or sources for leave-one-source-out; y: class numbers 0 to K -
    1. A class that no other fold has gets probability 0.
    """
    groups, fold = np.asarray(groups), np.asarray(fold)
    out = np.zeros((len(y), int(np.max(y)) + 1) if kind == "logistic" else len(y))
    for held in (fold == name for name in np.unique(fold)):
        # patients whose films lie in several sources
        inside = ~held & ~np.isin(groups, groups[held])
        model = fit(x[inside], y[inside], groups[inside], kind)
        if kind == "logistic":
            out[np.ix_(held, model.classes_.astype(int))] = model.predict_proba(x[held])
        else:
            out[held] = model.predict(x[held])
    return out


# judgement


def by_site(statistic):
    """The mean of a statistic (y, p) over the sites, as a statistic (y, p, site): hospitals' scores
    are never ranked against each other.
    """

    def mean(y, p, site):
        return float(
            np.mean([statistic(y[site == name], p[site == name]) for name in np.unique(site)])
        )

    return mean


def judge(y, p, groups, site=None, draws=DRAWS):
    """dict `auc` (one-vs-rest, mean over classes) and `balanced_accuracy` of p (n, K), each with
    its interval by patient.

    site (n,): both are means over the sites instead of scores of all films together.
    """
    out = {}
    for name, statistic in {
        "auc": metrics.macro_auc,
        "balanced_accuracy": metrics.balanced_accuracy,
    }.items():
        given = (statistic, y, p) if site is None else (by_site(statistic), y, p, np.asarray(site))
        out[name] = interval(resampling.bootstrap(*given, groups=groups, draws=draws), len(y))
    return out


def against_best(statistic, y, p, rivals, groups, best=max, draws=DRAWS):
    """Our scores minus the best rival's on the same films: dict `rival` (its name), difference,
    low, high, p_value, and `values`.

    rivals: name -> scores like p, refitted on the folds that p comes from. The best is chosen on
    these very films, which favours it; `best` is max, or min where the statistic is an error.
    """
    values = {name: float(statistic(y, scores)) for name, scores in rivals.items()}
    name = best(values, key=values.get)
    return {
        "rival": name,
        **resampling.paired_bootstrap(statistic, y, p, rivals[name], groups=groups, draws=draws),
        "values": values,
    }


def probe(names, y, table, fold, profile, store=None, site=None, more=(), draws=DRAWS):
    """Trivial models of `y` (n,) class numbers, refitted without each fold: (DataFrame of their
    scores, {name: (n, K) probabilities}).

    names: keys of FEATURES; more: further features, name -> (n, d), such as those of a backbone
    (`pooled`).
    """
    groups, given = (
        table["group_id"].to_numpy(),
        {**{name: features(name, table, profile, store) for name in names}, **dict(more)},
    )
    scores = {name: refit(x, y, groups, fold) for name, x in given.items()}
    rows = [
        {"features": name, "score": what, **value}
        for name, p in scores.items()
        for what, value in judge(y, p, groups, site, draws).items()
    ]
    return pd.DataFrame(rows), scores
