"""Exercises of lesson 08, shortcuts."""

from __future__ import annotations

import numpy as np
import pandas as pd

from cxrkit.shortcuts import RHOS, balanced_weights, draw_markers
from cxrkit.teaching.behaviour import drawn_fault, output_of
from cxrkit.teaching.exercises import Exercise
from cxrkit.teaching.sealed import word_fault

LOSS = 0.02  # of AUC, in exercise 08.2
DRAWS = 30_000  # of exercise 08.4


def roberts_fault(answer: object) -> str:
    """What is wrong with the number of the question whose answer changes on public films."""
    wrong = {"f7fc573e77c2da023f7a2f96": "the splits go by `group_id` on public films too"}
    return word_fault("08.1", answer, "e008d4a67e50aa63e9fdcd9d", wrong)


def package_first_loss(external: pd.Series) -> float:
    """The smallest rho at which AUC is by LOSS below that at rho = 0; NaN where there is none.

    Args:
        external: AUC by rho, in any order.
    """
    lost = external.loc[0.0] - external
    return float(lost.index[(lost >= LOSS).to_numpy()].min())


def _from_best(external: pd.Series) -> float:
    lost = external.max() - external
    return float(lost.index[(lost >= LOSS).to_numpy()].min())


def _at_the_end(external: pd.Series) -> float:
    lost = external.loc[0.0] - external
    return float(lost.index[(lost >= LOSS).to_numpy()].max())


def _first_in_order(external: pd.Series) -> float:
    lost = external.loc[0.0] - external
    return float(lost.index[(lost >= LOSS).to_numpy()][0])


def _draw_sweep() -> tuple[pd.Series]:
    rng = np.random.default_rng()
    values = 0.7 - np.cumsum([0, *rng.uniform(0.002, 0.03, len(RHOS) - 1)])
    values[1] += 0.04  # an AUC may rise first
    order = rng.permutation(len(RHOS))
    return (pd.Series(values, list(RHOS)).iloc[order],)


def first_loss_fault(answer: object) -> str:
    """What is wrong with `first_loss(external)`."""
    wrong = {
        "compare with rho = 0, not with the best": _from_best,
        "asked is the smallest such rho, not the largest": _at_the_end,
        "the rows need not be in order: take the smallest rho": _first_in_order,
    }
    return drawn_fault(answer, _draw_useful_sweep, package_first_loss, wrong, ("the rho",))


def _draw_useful_sweep() -> tuple[pd.Series]:
    """A sweep in which the first rho that loses LOSS is neither the smallest nor the largest."""
    while True:
        (external,) = _draw_sweep()
        lost = external.index[(external.loc[0.0] - external >= LOSS).to_numpy()]
        if len(lost) >= 3 and lost.min() < lost[0] < lost.max():
            return (external,)


def package_exceptions(labels: np.ndarray, markers: np.ndarray) -> float:
    """Share of balanced draws that fall on a film whose marker does not go with its label.

    Args:
        labels: class numbers (n,).
        markers: numbers of markers (n,).
    """
    weights = balanced_weights(labels, markers)
    return float(np.average(markers != labels, weights=weights))


def _plain(labels: np.ndarray, markers: np.ndarray) -> float:
    return float((markers != labels).mean())


def _regular(labels: np.ndarray, markers: np.ndarray) -> float:
    return 1 - package_exceptions(labels, markers)


def _sum_of_weights(labels: np.ndarray, markers: np.ndarray) -> float:
    return float(balanced_weights(labels, markers)[markers != labels].sum())


def _draw_labels() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng()
    labels = rng.permutation(np.arange(300) % 3)
    return labels, np.where(rng.random(300) < 0.9, labels, rng.integers(0, 3, 300))


def exceptions_fault(answer: object) -> str:
    """What is wrong with `share_of_exceptions(labels, markers)`."""
    wrong = {
        "that is the share among the films; asked is the share of balanced draws": _plain,
        "that is the share of the films whose marker goes with the label": _regular,
        "divide by the sum of all weights": _sum_of_weights,
    }
    return drawn_fault(answer, _draw_labels, package_exceptions, wrong, ("the share",))


def markers_fault(answer: object) -> str:
    """What is wrong with `write_letters(codes, rho, rng)`; the shares of the pairs are tested."""
    codes = np.random.default_rng().permutation(np.arange(DRAWS) % 3)
    for rho in (0.4, 0.0, 1.0):
        found, fault = output_of(answer, codes, rho, np.random.default_rng())
        if fault:
            return fault
        found = np.asarray(found)
        if found.shape != codes.shape:
            return f"{DRAWS} films got markers of shape {found.shape}"
        fault = _pairs_fault(codes, found, rho)
        if fault:
            return fault
    return ""


def _pairs_fault(codes: np.ndarray, found: np.ndarray, rho: float) -> str:
    """What is wrong with markers drawn at one rho."""
    expected = pd.crosstab(codes, draw_markers(codes, rho), normalize="index")
    if not set(np.unique(found)) <= {0, 1, 2}:
        return "the markers are numbered 0, 1 and 2"
    pairs = pd.crosstab(codes, found, normalize="index").reindex(columns=[0, 1, 2], fill_value=0)
    expected = expected.reindex(columns=[0, 1, 2], fill_value=0)
    if np.abs(pairs - expected).to_numpy().max() < 0.03:
        return ""
    agree = float((codes == found).mean())
    if abs(agree - rho) < 0.02:
        return (
            "where the coin says no, *any* of the three markers may be drawn, also the one that "
            "goes with the diagnosis"
        )
    return f"at rho = {rho:g} a share of {agree:.2f} of the markers goes with the diagnosis"


EXERCISES = (
    Exercise(
        "08.1",
        "warm-up",
        (
            "Three of the questions ask how the study was made, one asks about the films.",
            "In the virtual hospitals every hospital has all three classes. In public collections "
            "one collection has the COVID-19 films, another the normal ones.",
            "Which question asks where the classes come from?",
        ),
        roberts_fault,
        "Source and class are tied together in public collections: the best code cannot change it.",
    ),
    Exercise(
        "08.2",
        "core",
        (
            "How much is lost at each rho? Subtract from the AUC at rho = 0.",
            "The index of the series holds the rhos, in any order.",
            "lost = external.loc[0.0] - external; the smallest index where lost is at least 0.02.",
        ),
        first_loss_fault,
        "Now look at the internal AUC at that rho: it has only grown.",
    ),
    Exercise(
        "08.3",
        "core",
        (
            "`shortcuts.balanced_weights(labels, markers)` are the chances of a draw, not yet with "
            "a sum of 1.",
            "An exception is a film with `markers != labels`.",
            "The sum of the weights of the exceptions, divided by the sum of all weights.",
        ),
        exceptions_fault,
        "Six of nine pairs are exceptions, so two draws in three fall on a handful of films.",
    ),
    Exercise(
        "08.4",
        "project",
        (
            "For each film a coin that shows heads with probability rho.",
            "Heads: the marker of the diagnosis. Tails: any of the three, drawn evenly.",
            "`np.where(rng.random(n) < rho, codes, rng.integers(3, size=n))`.",
        ),
        markers_fault,
        "At rho the marker agrees in rho + (1 - rho) / 3 of the films.",
    ),
)
