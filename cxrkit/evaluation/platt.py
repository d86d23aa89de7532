"""Platt scaling: what a value is worth as a probability (Platt 1999).

A line of the log-odds, fitted on images that trained nothing.
"""

from __future__ import annotations

import numpy as np
from sklearn.linear_model import LogisticRegression

from cxrkit.models.zone_calibration import NEAREST


def fit_line(values: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
    """Slope and offset of sigmoid(slope * logit(value) + offset), by logistic regression.

    Args:
        values: in (0, 1), (n,).
        labels: 0 or 1, both present, (n,).
        weights: of the images, (n,).

    Returns:
        Slope, at least 0, and offset. Where positive images have lower values than negative ones
        the slope is 0, so that a higher value never means less.
    """
    clipped = np.clip(values.astype(float), NEAREST, 1 - NEAREST)
    logits = np.log(clipped / (1 - clipped))
    model = LogisticRegression(C=10.0).fit(logits[:, None], labels.astype(int), weights)
    slope, offset = float(model.coef_[0, 0]), float(model.intercept_[0])
    if slope >= 0:
        return slope, offset
    share = np.average(labels, weights=weights)
    return 0.0, float(np.log(share / (1 - share)))


def fit_zones(
    array: np.ndarray, truth: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The line of each zone that is involved in some images and free in others.

    Args:
        array: raw values of n images, (n, 3, 2); 0 = the zone is absent.
        truth: 0 or 1, NaN where unknown, (n, 3, 2).
        weights: of the images, (n,).

    Returns:
        Slope (3, 2) and offset (3, 2), 1 and 0 where nothing can be fitted.
    """
    slope, offset = np.ones((3, 2)), np.zeros((3, 2))
    for zone in np.ndindex(3, 2):
        values, labels = array[:, *zone], truth[:, *zone]
        known = (values > 0) & ~np.isnan(labels)
        if len(np.unique(labels[known])) < 2:
            continue
        slope[zone], offset[zone] = fit_line(values[known], labels[known], weights[known])
    return slope, offset
