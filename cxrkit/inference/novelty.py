"""Novelty: how far a film lies from the films of the training, in the features that decide.

The features are the mean over the grid of what the diagnosis model sees. Their distribution over
training films is described by a mean, a few principal axes with their variances, and one variance
for the rest (probabilistic principal components: Tipping and Bishop 1999, J. R. Stat. Soc. B 61).
The distance by that description is Mahalanobis'; it is compared with distances of films that did
not make the description, so that it reads as a share.

N films, C features, A axes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

AXES = 8
QUANTILES = 101  # of the distances, from the nearest to the farthest
DIGITS = 7  # significant ones in the statistics
SEEN = 0.99  # a film farther away than this share is said to be unlike those of the training
FEWEST = 20  # films; fewer describe nothing


def statistics(features: np.ndarray, held_out: np.ndarray, axes: int = AXES) -> dict[str, Any]:
    """What `novelty` compares with, ready for JSON: `metrics.json["novelty"]` of a diagnosis model.

    Args:
        features: Of training films, float (N, C).
        held_out: Of validation films, of other patients, float (M, C).
        axes: At most so many principal axes, A.

    Returns:
        `mean` (C), `axes` (A, C), `variances` (A), `rest` (one variance), and `distances`, the
        QUANTILES of the distances of the held-out films.

    Raises:
        ValueError: too few films, other numbers of features, or values that are not finite.
    """
    features, held_out = (np.asarray(one, np.float64) for one in (features, held_out))
    if min(len(features), len(held_out)) < FEWEST:
        raise ValueError(f"{len(features)} and {len(held_out)} films; at least {FEWEST} each")
    if features.shape[1:] != held_out.shape[1:] or features.ndim != 2:
        raise ValueError(f"features {features.shape} and {held_out.shape} do not fit")
    if not (np.isfinite(features).all() and np.isfinite(held_out).all()):
        raise ValueError("features that are not finite")
    N, C = features.shape
    mean = features.mean(axis=0)
    _, sizes, directions = np.linalg.svd(features - mean, full_matrices=False)
    variances = sizes**2 / (N - 1)
    A = min(axes, len(variances), C)
    beyond = C - A
    # without directions beyond the axes nothing lies around them, but for rounding
    rest = variances[A:].sum() / beyond if beyond else variances[-1]
    # along an axis no less than around it, so that no distance explodes
    floor = max(rest, 1e-12)
    found = {
        "mean": _rounded(mean),
        "axes": _rounded(directions[:A]),
        "variances": _rounded(np.maximum(variances[:A], floor)),
        "rest": float(f"{floor:.{DIGITS}g}"),
        "films": {"train": N, "val": len(held_out)},
    }
    far = distance(held_out, found)
    found["distances"] = _rounded(np.quantile(far, np.linspace(0, 1, QUANTILES)))
    return found


def _rounded(values: np.ndarray) -> list:
    """Nested lists of numbers of DIGITS significant digits."""
    if values.ndim > 1:
        return [_rounded(row) for row in values]
    return [float(f"{value:.{DIGITS}g}") for value in values]


def distance(features: np.ndarray, known: Mapping[str, Any]) -> np.ndarray:
    """Mahalanobis distance of films from those of the training.

    Args:
        features: float (N, C).
        known: See `statistics`.

    Returns:
        float (N,), 0 = the mean training film.
    """
    offset = np.asarray(features, np.float64) - np.asarray(known["mean"])  # (N, C)
    axes, variances = np.asarray(known["axes"]), np.asarray(known["variances"])
    along = offset @ axes.T  # (N, A)
    around = np.maximum((offset**2).sum(axis=1) - (along**2).sum(axis=1), 0)  # (N,)
    return np.sqrt((along**2 / variances).sum(axis=1) + around / known["rest"])


def novelty(features: np.ndarray, known: Mapping[str, Any]) -> np.ndarray:
    """Share of validation films that lie nearer to the training than these do.

    Args:
        features: float (N, C).
        known: See `statistics`.

    Returns:
        float (N,) in [0, 1]: 0.5 = as far as the middle one, 1 = farther than all.
    """
    quantiles = np.asarray(known["distances"])
    return np.interp(distance(features, known), quantiles, np.linspace(0, 1, len(quantiles)))


def warning(value: float) -> str:
    """What is said of a film of this novelty; empty for one like others.

    Args:
        value: See `novelty`; NaN = not known.
    """
    if not value > SEEN:
        return ""
    return (
        f"not seen before: farther from the training films than {value:.0%} of the validation films"
    )
