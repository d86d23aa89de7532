"""Exercises of lesson 04, the corpus ViT."""

from __future__ import annotations

import numpy as np
import torch

from cxrkit.evaluation import delong_test, holm
from cxrkit.models.corpus_vit import Attention
from cxrkit.teaching.behaviour import fresh_generator, function_fault, output_of, telling_inputs
from cxrkit.teaching.exercises import Exercise
from cxrkit.teaching.sealed import word_fault

CLASSES = 3


def package_heads(
    tokens: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, num_heads: int
) -> torch.Tensor:
    """What the heads of the package's own module say, side by side.

    Args:
        tokens: (T, D).
        weight: of queries, keys and values, one below the other (3 D, D).
        bias: (3 D,).
        num_heads: N, a divisor of D.

    Returns:
        (T, D), before the last linear layer.
    """
    D = tokens.shape[1]
    module = Attention(D, num_heads).requires_grad_(False)
    module.qkv.weight.copy_(weight)
    module.qkv.bias.copy_(bias)
    module.proj.weight.copy_(torch.eye(D))
    module.proj.bias.zero_()
    return module(tokens[None])[0]


def _one_head(tokens: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, N: int) -> object:
    return package_heads(tokens, weight, bias, 1)


def _root_of_embedding(
    tokens: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, N: int
) -> torch.Tensor:
    D = tokens.shape[1]
    scale = torch.ones(3 * D)
    scale[:D] = N**-0.5  # the root of d * N in place of that of d
    return package_heads(tokens, weight * scale[:, None], bias * scale, N)


def _interleaved(
    tokens: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, N: int
) -> torch.Tensor:
    D = tokens.shape[1]
    order = torch.arange(D).view(-1, N).T.reshape(-1)  # every N-th number to one head
    rows = torch.cat([order, D + order, 2 * D + order])
    said = package_heads(tokens, weight[rows], bias[rows], N)
    return said


def heads_fault(answer: object) -> str:
    """What is wrong with `several_heads(tokens, weight, bias, num_heads)`."""
    g = fresh_generator()
    inputs = []
    for T, D, N in ((5, 8, 2), (7, 12, 3)):
        arrays = [torch.randn(*size, generator=g) for size in ((T, D), (3 * D, D), (3 * D,))]
        inputs.append((*arrays, N))
    wrong = {
        "it is one head over all D numbers: the heads must not share their fits": _one_head,
        "the fits are divided by the root of D; each head has only d = D / N numbers": (
            _root_of_embedding
        ),
        "every N-th number goes to one head; a head takes d numbers in a row": _interleaved,
    }
    return function_fault(answer, package_heads, inputs, wrong, ("the output",))


def mirror_fault(answer: object) -> str:
    """What is wrong with the letters of the relations that a mirrored corpus keeps."""
    letters = "".join(sorted(str(answer).lower().replace(",", "").replace(" ", "")))
    right = "042d556e171ccb277b7927cf"
    sides = "left and right change places in a mirror"
    wrong = {
        "4965ea4ca05a16d2e7c43c1c": sides,
        "6663eed3aa4708193156e8a2": sides,
        "5919bfecc82157f0f14dae5f": sides,
        "9c335f1cdfe0f0e53a0c7865": sides,
        "0068e55919d159aa31d28108": "one more: are two cells farther apart in a mirror?",
        "310e30b51346c3579cb11c9d": "one more: does a mirror turn the film upside down?",
    }
    return word_fault("04.2", letters, right, wrong)


def _is_distribution(p: np.ndarray) -> bool:
    return bool((p >= 0).all() and np.allclose(p.sum(axis=1), 1, atol=1e-6))


def shares_fault(answer: object) -> str:
    """What is wrong with `correct(p, share)`; what must hold of the odds is tested."""
    rng = np.random.default_rng()
    p = rng.dirichlet(np.ones(CLASSES), 50)  # (n, K)
    share = rng.dirichlet(2 * np.ones(CLASSES))  # (K,)
    found, fault = output_of(answer, p, share)
    if fault:
        return fault
    found = np.asarray(found, float)
    if found.shape != p.shape:
        return f"probabilities of shape {p.shape} became {found.shape}"
    # the odds of class 0 against class 1 must change by the ratio of the two shares
    change = (found[:, 0] / found[:, 1]) / (p[:, 0] / p[:, 1])
    ratio = share[0] / share[1]
    if np.allclose(change, 1 / ratio):
        return "the odds move the wrong way: a common class must become more probable"
    if np.allclose(change, 1):
        return "the odds are as before"
    if not np.allclose(change, ratio):
        return "the odds of two classes must change by the ratio of their shares"
    if not _is_distribution(found):
        return "the odds are right, but the rows do not sum to 1 any more"
    return ""


def package_comparison(
    y: np.ndarray, p_a: np.ndarray, p_b: np.ndarray, groups: np.ndarray
) -> np.ndarray:
    """p-value of each class, DeLong's test of two models, adjusted by Holm.

    Args:
        y: class of each film (n,), 0 to K - 1.
        p_a: probabilities of model A (n, K).
        p_b: of model B (n, K).
        groups: patient of each film (n,).

    Returns:
        (K,).
    """
    return holm(_single(y, p_a, p_b, groups))


def _single(
    y: np.ndarray, p_a: np.ndarray, p_b: np.ndarray, groups: np.ndarray | None
) -> np.ndarray:
    """Without the adjustment."""
    values = []
    for k in range(p_a.shape[1]):
        values.append(delong_test(y == k, p_a[:, k], p_b[:, k], groups=groups)["p_value"])
    return np.array(values)


def _without_groups(y: np.ndarray, p_a: np.ndarray, p_b: np.ndarray, groups: object) -> np.ndarray:
    return holm(_single(y, p_a, p_b, None))


def _bonferroni(y: np.ndarray, p_a: np.ndarray, p_b: np.ndarray, groups: np.ndarray) -> np.ndarray:
    return np.minimum(1, CLASSES * _single(y, p_a, p_b, groups))


def _draw_comparison() -> tuple:
    """Labels, scores of two models, and the patients of 120 films, three a patient."""
    rng = np.random.default_rng()
    groups = np.repeat(np.arange(40), 3)
    y = np.repeat(rng.permutation(40) % CLASSES, 3)
    truth = np.eye(CLASSES)[y]
    of_patient = rng.normal(size=(40, CLASSES))[groups]  # films of one patient are alike
    scores = [truth + of_patient * scale + rng.normal(size=truth.shape) for scale in (0.6, 1.2)]
    p_a, p_b = (np.exp(s) / np.exp(s).sum(axis=1, keepdims=True) for s in scores)
    return y, p_a, p_b, groups


def comparison_fault(answer: object) -> str:
    """What is wrong with `compare(y, p_a, p_b, groups)`."""
    wrong = {
        "the p-values are not adjusted: three tests find a difference by luck more often": _single,
        "that is Bonferroni: valid, but Holm finds more with the same protection": _bonferroni,
        "films of one patient count as separate evidence: pass the groups": _without_groups,
    }
    inputs = [telling_inputs(_draw_comparison, package_comparison, wrong)]
    return function_fault(answer, package_comparison, inputs, wrong, ("the p-values",))


EXERCISES = (
    Exercise(
        "04.1",
        "core",
        (
            "A head is `one_head` on its own part of the numbers of Q, K and V.",
            "`chunk(3, dim=-1)` gives Q, K and V; `chunk(num_heads, dim=-1)` of each of them gives "
            "the heads' parts. Divide by the root of d, the numbers of one part.",
            "A loop over the heads: fit, softmax along the row, shares times the head's values; "
            "then `torch.cat(..., dim=-1)` of what the heads say.",
        ),
        heads_fault,
        "Your heads give what cxrkit.models.corpus_vit.Attention gives before its last layer.",
    ),
    Exercise(
        "04.2",
        "warm-up",
        (
            "Imagine two cells, one in each lung, and hold a mirror beside the film.",
            "A mirror changes one direction only. Does it change how far two cells are apart?",
            "Write all letters whose relation can still be read from the mirrored corpus.",
        ),
        mirror_fault,
        "So a mirrored corpus costs only what the model had learnt about sides.",
    ),
    Exercise(
        "04.3",
        "core",
        (
            "Training showed each class equally often. A hospital where a class is common should "
            "get a larger probability for it.",
            "Bayes: the odds of two classes are multiplied by the ratio of their shares.",
            "Weigh each column by the share of its class, then let each row sum to 1 again.",
        ),
        shares_fault,
        "The order of the films by the odds of two classes is as before, so their AUC is too; only "
        "calibration changes.",
    ),
    Exercise(
        "04.4",
        "project",
        (
            "`evaluation.delong_test` compares two models on one question: class k or not.",
            "One test a class makes K p-values. `evaluation.holm` adjusts them for their number.",
            "Loop over the columns, pass `groups` to each test, collect `p_value`, adjust once at "
            "the end.",
        ),
        comparison_fault,
        "Paired, by patient, and adjusted: three conditions, and none may be missing.",
    ),
)
