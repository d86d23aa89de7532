"""Exercises of lesson 03b, attention."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression

from cxrkit.models.corpus_vit import Attention
from cxrkit.teaching.behaviour import fresh_generator, function_fault, output_of
from cxrkit.teaching.exercises import Exercise
from cxrkit.teaching.sealed import word_fault
from cxrkit.teaching.two_marks import draw_marks

GOOD, CHANCE = 0.97, 0.6  # accuracies that the features of 03b.4 are compared with


def package_head(
    tokens: torch.Tensor, W_Q: torch.Tensor, W_K: torch.Tensor, W_V: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention and answer of the package's own module with one head and no bias.

    Args:
        tokens: (T, D).
        W_Q: (D, D).
        W_K: (D, D).
        W_V: (D, D).

    Returns:
        Attention (T, T), answer (T, D).
    """
    D = tokens.shape[1]
    module = Attention(D, num_heads=1).requires_grad_(False)
    module.qkv.weight.copy_(torch.cat([W_Q.T, W_K.T, W_V.T]))
    module.qkv.bias.zero_()
    module.proj.weight.copy_(torch.eye(D))
    module.proj.bias.zero_()
    seen = []
    hook = module.softmax.register_forward_hook(lambda _, inputs, output: seen.append(output))
    answer = module(tokens[None])[0]  # (T, D)
    hook.remove()
    return seen[0][0, 0], answer


def _without_root(tokens: torch.Tensor, *weights: torch.Tensor) -> tuple:
    return package_head(tokens, weights[0] * tokens.shape[1] ** 0.5, *weights[1:])


def _by_columns(tokens: torch.Tensor, *weights: torch.Tensor) -> tuple:
    W_Q, W_K, W_V = weights
    attention = package_head(tokens, W_K, W_Q, W_V)[0].T
    return attention, attention @ (tokens @ W_V)


def _of_tokens(tokens: torch.Tensor, *weights: torch.Tensor) -> tuple:
    attention = package_head(tokens, *weights)[0]
    return attention, attention @ tokens


def head_fault(answer: object) -> str:
    """What is wrong with `one_head(tokens, W_Q, W_K, W_V)`."""
    g = fresh_generator()
    inputs = []
    for T, D in ((5, 4), (9, 16)):
        inputs.append(tuple(torch.randn(*size, generator=g) for size in ((T, D), *[(D, D)] * 3)))
    wrong = {
        "the fits are not divided by the root of d: softmax becomes too sharp": _without_root,
        "each column sums to 1: softmax must go along a row, over the tokens looked at": (
            _by_columns
        ),
        "the attention is right, but it weighs the tokens instead of their values": _of_tokens,
    }
    return function_fault(answer, package_head, inputs, wrong, ("the attention", "the answer"))


def features_fault(answer: object) -> str:
    """What is wrong with a function from images (n, 2, 8, 8) to features (n, F)."""
    rng = np.random.default_rng()
    sets = []
    for n in (600, 600):
        images, truth, _ = draw_marks(n, rng)
        features, fault = output_of(answer, images)
        if fault:
            return fault
        features = np.asarray(features, float)
        if features.ndim != 2 or len(features) != n:
            return f"{n} images gave features of shape {features.shape}; wanted is ({n}, F)"
        sets.append((features, truth.numpy()))
    model = LogisticRegression(max_iter=2000, C=100.0).fit(*sets[0])
    accuracy = model.score(*sets[1])
    if accuracy >= GOOD:
        return ""
    reached = f"a linear model of your features is right in {accuracy:.2f} of new images"
    if accuracy < CHANCE:
        return f"{reached}: no better than a guess, so they do not say where the marks lie"
    return f"{reached}; wanted is {GOOD}"


def matrix_fault(answer: object) -> str:
    """What is wrong with the number of entries of the attention matrix."""
    right = "235fa548919aac302aaed74b"
    wrong = {
        "770b79dc1b1694315070733c": "the class token looks and is looked at too",
        "d48bfcc6729c4faac6de6f3b": "that is the number of tokens, and of one row",
        "15eebbf0f631226231bc3ef8": "that is the number of cells; the matrix has a row a token",
        "cdc754bda829a8649dc599d0": "that is both heads together; asked is one",
    }
    return word_fault("03b.1", answer, right, wrong)


def switch_fault(answer: object) -> str:
    """What is wrong with the name of the honest intervention."""
    right = "1ba987e149ba2fa79e7a5c4d"
    wrong = {
        "95e6270c00811cd29838b75a": (
            "a token without a position is one that the model has never met"
        ),
        "ceb034c09d521faaf9803755": (
            "no layer was trained to take the mean of all tokens: what it makes of it is new too"
        ),
    }
    return word_fault("03b.3", str(answer).replace(" ", "_"), right, wrong)


EXERCISES = (
    Exercise(
        "03b.1",
        "warm-up",
        (
            "Every token looks at every token, itself included.",
            "How many tokens are there? The cells of the grid are not all of them.",
            "Add the class token to the cells, then count the pairs of a looker and a looked-at.",
        ),
        matrix_fault,
        "The matrix grows with the square of the number of tokens: twice the side of the grid, "
        "sixteen times the entries.",
    ),
    Exercise(
        "03b.2",
        "core",
        (
            "Read the equation from the inside: first Q, K and V, three matrix products.",
            "`K.T` is the transpose; d is the number of columns of Q. `softmax(dim=...)` needs the "
            "dimension along which the shares sum to 1.",
            "Four lines: the three products; fits = product of Q and the transposed K, over the "
            "root of d; softmax of the fits along dim 1; shares times values.",
        ),
        head_fault,
        "Your head gives what cxrkit.models.corpus_vit.Attention gives.",
    ),
    Exercise(
        "03b.3",
        "warm-up",
        (
            "Which of them gives the model tokens that it could have met in training?",
            "A token of a cell is content plus position. Zero positions are no position of any "
            "cell.",
            "It is the one that only exchanges which content stands at which position.",
        ),
        switch_fault,
        "The tokens stay within what the model knows, so its loss is due to places alone.",
    ),
    Exercise(
        "03b.4",
        "project",
        (
            "The noise is small: a threshold finds the marks.",
            "A count of marks in the whole grid says nothing. In which part of the grid would it?",
            "Two numbers an image are enough: how much stands above a threshold in each half of "
            "the columns, over both channels.",
        ),
        features_fault,
        "A person who knows the rule writes it in two numbers. The transformer found it from "
        "answers alone.",
    ),
)
