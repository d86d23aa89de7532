"""Exercises of lesson 02, the backbone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
import torch

from cxrkit.evaluation import at_threshold, operating_point
from cxrkit.models.densenet import average_pool, max_pool, pcam_pool
from cxrkit.tasks.findings import twins
from cxrkit.teaching.behaviour import (
    drawn_fault,
    fresh_generator,
    function_fault,
    output_of,
    telling_inputs,
)
from cxrkit.teaching.exercises import Exercise
from cxrkit.teaching.sealed import number_fault

SENSITIVITY = 0.8  # of exercise 02.4


def _weights_over_findings(features: torch.Tensor, logit_map: torch.Tensor) -> torch.Tensor:
    probability = logit_map.sigmoid()
    weight = probability / probability.sum(dim=1, keepdim=True)
    return torch.einsum("bkhw,bchw->bkc", weight, features)


def _softmax_of_logits(features: torch.Tensor, logit_map: torch.Tensor) -> torch.Tensor:
    weight = logit_map.flatten(2).softmax(dim=-1).view_as(logit_map)
    return torch.einsum("bkhw,bchw->bkc", weight, features)


def _unscaled(features: torch.Tensor, logit_map: torch.Tensor) -> torch.Tensor:
    return torch.einsum("bkhw,bchw->bkc", logit_map.sigmoid(), features)


def pcam_fault(answer: object) -> str:
    """What is wrong with `pcam(features, logit_map)`."""
    g = fresh_generator()
    inputs = []
    for B, C, K, h, w in ((1, 6, 1, 4, 4), (2, 5, 3, 3, 4)):
        features = torch.rand(B, C, h, w, generator=g)
        inputs.append((features, 3 * torch.randn(B, K, h, w, generator=g)))
    wrong = {
        "it is the plain mean: every cell has the same weight": average_pool,
        "it is the maximum": max_pool,
        "the weights are probabilities, but do not sum to 1 over the cells": _unscaled,
        "softmax of the logits is not it: PCAM divides probabilities by their sum": (
            _softmax_of_logits
        ),
        "the weights sum to 1 over the findings; they must over the cells": _weights_over_findings,
    }
    return function_fault(answer, pcam_pool, inputs, wrong, ("the pooled features",))


def scale_fault(answer: object) -> str:
    """What is wrong with the value of PCAM between mean and maximum."""
    right = "29680b0a8af53b452ec1de64"
    wrong = {
        "065c4bc4f580d588cf8e3325": "that is the plain mean, PCAM at a scale of 0",
        "fb8b985b07590fad6f0ec0d0": "that is the maximum, PCAM at a very large scale",
        "64d30a46483d4408eb63d0c0": (
            "that is a softmax of the logits; PCAM divides probabilities by their sum"
        ),
    }
    return number_fault("02.2", answer, right, 0.005, wrong)


def _table(rng: np.random.Generator) -> pd.DataFrame:
    """Random labels with an identical and an opposite pair, unknown ones, and a constant."""
    a, b = rng.integers(0, 2, (2, 30)).astype(float)
    a[:2], b[:4] = (0, 1), (0, 1, 1, 0)
    hidden = a.copy()
    hidden[rng.permutation(np.arange(2, 30))[:5]] = np.nan
    columns = {"a": a, "b": b, "same_as_a": hidden, "not_b": 1 - b, "never": np.zeros(30)}
    return pd.DataFrame(columns)


def _found(pairs: Iterable[Sequence[str]]) -> set[frozenset[str]]:
    return {frozenset(pair) for pair in pairs}


def twins_fault(answer: object) -> str:
    """What is wrong with `say_the_same(labels)`, compared with `tasks.findings.twins`."""
    labels = _table(np.random.default_rng())
    found, fault = output_of(answer, labels)
    if fault:
        return fault
    pairs = _found(found)
    expected, opposite = set(), set()
    for text in twins(labels):
        a, b = text.split(" = ")
        pair = frozenset((a, b.removeprefix("1 - ")))
        expected.add(pair)
        if "1 - " in b:
            opposite.add(pair)
    if pairs == expected:
        return ""
    if pairs == expected - opposite:
        return "identical pairs are found, opposite ones are not: they say the same too"
    if any("never" in pair for pair in pairs):
        return "a finding that no film has says nothing, so it cannot say the same as another"
    if expected - pairs and not pairs - expected:
        return "a pair is missing; an unknown label (NaN) must not count as a difference"
    return "there are pairs whose labels differ"


def package_carry(
    y_val: np.ndarray, p_val: np.ndarray, y_far: np.ndarray, p_far: np.ndarray
) -> float:
    """Sensitivity at another hospital of a threshold that was chosen on validation."""
    threshold = operating_point(y_val, p_val, SENSITIVITY)["threshold"]
    return at_threshold(y_far, p_far, threshold)["sensitivity"]


def _chosen_far(
    y_val: np.ndarray, p_val: np.ndarray, y_far: np.ndarray, p_far: np.ndarray
) -> float:
    return operating_point(y_far, p_far, SENSITIVITY)["sensitivity"]


def _on_validation(
    y_val: np.ndarray, p_val: np.ndarray, y_far: np.ndarray, p_far: np.ndarray
) -> float:
    return operating_point(y_val, p_val, SENSITIVITY)["sensitivity"]


def _draw_hospitals() -> tuple:
    """Labels and scores of validation films, and of another hospital whose scores are shifted."""
    rng = np.random.default_rng()
    y_val, y_far = rng.permutation(np.arange(203) % 2), rng.permutation(np.arange(157) % 2)
    p_val = y_val + rng.normal(size=203)
    p_far = y_far + rng.normal(size=157) + rng.choice([-0.7, 0.9])
    return y_val, p_val, y_far, p_far


def carry_fault(answer: object) -> str:
    """What is wrong with `carry(y_val, p_val, y_far, p_far)`."""
    wrong = {
        "the threshold was chosen on the far films, so its sensitivity holds by construction": (
            _chosen_far
        ),
        "that is the sensitivity on the validation films": _on_validation,
    }
    inputs = [telling_inputs(_draw_hospitals, package_carry, wrong) for _ in range(2)]
    return function_fault(answer, package_carry, inputs, wrong, ("the sensitivity",))


def package_step(
    weight: torch.Tensor, features: torch.Tensor, labels: torch.Tensor, learning_rate: float
) -> torch.Tensor:
    """One step of gradient descent of a linear model on binary cross-entropy, by torch itself.

    Args:
        weight: (C,).
        features: (n, C).
        labels: 0 or 1 (n,).
        learning_rate: how far a step goes along the gradient.

    Returns:
        The new weight (C,).
    """
    weight = weight.clone().requires_grad_()
    loss = torch.nn.functional.binary_cross_entropy_with_logits(features @ weight, labels)
    loss.backward()
    torch.optim.SGD([weight], learning_rate).step()
    return weight.detach()


def _uphill(weight: torch.Tensor, *others: torch.Tensor) -> torch.Tensor:
    return 2 * weight - package_step(weight, *others)


def _sum_of_images(
    weight: torch.Tensor, features: torch.Tensor, labels: torch.Tensor, learning_rate: float
) -> torch.Tensor:
    return package_step(weight, features, labels, learning_rate * len(features))


def _step_alone(weight: torch.Tensor, *others: torch.Tensor) -> torch.Tensor:
    return weight - package_step(weight, *others)


def _without_sigmoid(
    weight: torch.Tensor, features: torch.Tensor, labels: torch.Tensor, learning_rate: float
) -> torch.Tensor:
    error = features @ weight - labels
    return weight - learning_rate * (error[:, None] * features).mean(dim=0)


def _draw_batch() -> tuple:
    g = fresh_generator()
    features, weight = torch.randn(12, 4, generator=g), torch.randn(4, generator=g)
    return weight, features, (torch.rand(12, generator=g) < 0.5).float(), 0.3


def step_fault(answer: object) -> str:
    """What is wrong with `one_step(weight, features, labels, learning_rate)`."""
    wrong = {
        "the loss grows: a step goes against the gradient": _uphill,
        "the loss is the mean over the films, so its gradient is a mean too": _sum_of_images,
        "that is the change; wanted is the new weight": _step_alone,
        "the error is probability minus label, and the probability needs a sigmoid": (
            _without_sigmoid
        ),
    }
    return drawn_fault(answer, _draw_batch, package_step, wrong, ("the weight",))


EXERCISES = (
    Exercise(
        "02.1",
        "core",
        (
            "`logit_map.sigmoid()` is the probability of each finding in each cell.",
            "`sum(dim=(2, 3), keepdim=True)` adds up the cells of each finding. What must a weight "
            "be divided by to sum to 1?",
            "Every finding pools all C features with its own weights: the sum over h and w of "
            "weight (B, K, h, w) times features (B, C, h, w) is "
            "`torch.einsum('bkhw,bchw->bkc', ...)`.",
        ),
        pcam_fault,
        "Your function gives what models.pcam_pool gives, for any number of findings.",
    ),
    Exercise(
        "02.2",
        "warm-up",
        (
            "`models.pcam_pool` does the work; the feature map and the logit map are given.",
            "With logits of +1 and -1 a sure cell has the probability sigmoid(1), another one "
            "sigmoid(-1).",
            "Two cells of sixteen hold the feature. Their share of the sum of all sixteen "
            "probabilities is the answer.",
        ),
        scale_fault,
        "Logits near 0 give the plain mean, large ones the mean of the sure cells: the network "
        "chooses by the size of its logits.",
    ),
    Exercise(
        "02.3",
        "core",
        (
            "Two columns say the same if one is known as soon as the other is.",
            "Compare each pair of columns where both are known; a column with one value in all "
            "films says nothing.",
            "`labels[[a, b]].dropna()` leaves the rows to compare. A pair counts if all rows are "
            "equal, or if in all rows one is 1 minus the other.",
        ),
        twins_fault,
        "Two such findings have one AUC between them: a table with both counts one result twice.",
    ),
    Exercise(
        "02.4",
        "project",
        (
            "A hospital has to choose its threshold before it sees the films to come.",
            "`evaluation.operating_point` gives the threshold that reaches a sensitivity; "
            "`evaluation.at_threshold` applies one.",
            "Choose on (y_val, p_val) for a sensitivity of 0.8, apply to (y_far, p_far), return "
            "the sensitivity there.",
        ),
        carry_fault,
        "A threshold that finds eight in ten here finds another share elsewhere, because scores "
        "shift with the hospital.",
    ),
    Exercise(
        "02.5",
        "core",
        (
            "Three quantities: the probability of each film, its error, and the gradient.",
            "The derivative of the mean cross-entropy by the weight is the mean over the films of "
            "(probability - label) times features.",
            "New weight = weight - learning_rate * features.T @ (probability - label) / n.",
        ),
        step_fault,
        "That is all that training repeats: with more layers the gradient comes from autograd.",
    ),
)
