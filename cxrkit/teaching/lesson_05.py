"""Exercises of lesson 05, saliency."""

from __future__ import annotations

import numpy as np
import torch

from cxrkit.explain import LogOdds, linear_rule, near, pointing, relevance
from cxrkit.models.corpus_vit import CorpusViT
from cxrkit.teaching.behaviour import drawn_fault, fresh_generator
from cxrkit.teaching.exercises import Exercise

GRID, IMAGES, CLASSES, DEPTH = 4, 6, 3, 3
FARTHER = 2.0  # cells, of exercise 05.4
LEAST_ACTIVATION = 0.1  # of an output, where inputs and weights are about 1


def package_linear(x: torch.Tensor, weight: torch.Tensor, R: torch.Tensor) -> torch.Tensor:
    """Relevance of the inputs of a linear layer without bias, by the package's rule.

    Args:
        x: inputs (T, I).
        weight: (O, I).
        R: relevance of the outputs (T, O).

    Returns:
        (T, I).
    """
    layer = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False).requires_grad_(False)
    layer.weight.copy_(weight)
    return linear_rule(layer, (x,), layer(x), R[None])[0]


def _shared(products: torch.Tensor, R: torch.Tensor) -> torch.Tensor:
    """Relevance (T, O) shared out in proportion to products (T, O, I)."""
    total = products.sum(dim=2, keepdim=True)
    safe = torch.where(total == 0, torch.ones_like(total), total)
    return (products / safe * R[:, :, None]).sum(dim=1)


def _signed(x: torch.Tensor, weight: torch.Tensor, R: torch.Tensor) -> torch.Tensor:
    return _shared(x[:, None] * weight, R)


def _sizes(x: torch.Tensor, weight: torch.Tensor, R: torch.Tensor) -> torch.Tensor:
    return _shared((x[:, None] * weight).abs(), R)


def _positive_inputs(x: torch.Tensor, weight: torch.Tensor, R: torch.Tensor) -> torch.Tensor:
    return _shared(x.clamp(min=0)[:, None] * weight.clamp(min=0), R)


def _not_divided(x: torch.Tensor, weight: torch.Tensor, R: torch.Tensor) -> torch.Tensor:
    return ((x[:, None] * weight).clamp(min=0) * R[:, :, None]).sum(dim=1)


def _draw_layer() -> tuple[torch.Tensor, ...]:
    """Inputs, weights and relevance of a layer that activates an output clearly, or not at all.

    Between the two the package's rule is rounded: it takes |x||W| and x W from each other, and
    divides by a little more than their rest. A right answer would not agree with it.
    """
    g = fresh_generator()
    while True:
        x, weight = torch.randn(4, 5, generator=g), torch.randn(3, 5, generator=g)
        activated = (x[:, None] * weight).clamp(min=0).sum(2)  # (T, O)
        if ((activated == 0) | (activated > LEAST_ACTIVATION)).all():
            return x, weight, torch.rand(4, 3, generator=g)


def linear_fault(answer: object) -> str:
    """What is wrong with `share_out(x, weight, R)`."""
    wrong = {
        "products below 0 take part: what pulled the output down gets nothing": _signed,
        "sizes are shared out; a negative product counts as 0": _sizes,
        "a negative input with a negative weight adds to the output too": _positive_inputs,
        "divide by the sum over the inputs, so that no relevance is made or lost": _not_divided,
    }
    return drawn_fault(answer, _draw_layer, package_linear, wrong, ("the relevance",))


def _draw_model() -> CorpusViT:
    """A small corpus ViT with large random weights, so that its layers differ."""
    model = CorpusViT(
        in_channels=3, grid=GRID, embed_dim=8, depth=DEPTH, num_heads=2, mlp_dim=16
    ).requires_grad_(False)
    g = fresh_generator()
    for weight in model.parameters():
        weight.normal_(0, 0.6, generator=g)
    return model.eval()


def _draw_images() -> tuple[CorpusViT, torch.Tensor, np.ndarray]:
    corpus = torch.rand(IMAGES, 3, GRID, GRID, generator=fresh_generator())
    rng = np.random.default_rng()
    lesion = np.zeros((IMAGES, 64, 64), bool)
    for block in lesion:
        row, column = rng.integers(0, 48, 2)
        block[row : row + 12, column : column + 12] = True
    return _draw_model(), corpus, lesion


def package_by_layer(model: CorpusViT, corpus: torch.Tensor, lesion: np.ndarray) -> np.ndarray:
    """Share of films whose relevance for the last class hits, by the first block that takes part.

    Args:
        model: of depth L.
        corpus: (B, C, h, w).
        lesion: bool (B, S, S).

    Returns:
        (L,).
    """
    rates = np.empty(len(model.blocks))
    for first in range(len(rates)):
        found = relevance(model, corpus, CLASSES - 1, start_layer=first)
        rates[first] = pointing(found, lesion).mean()
    return rates


def _reversed(model: CorpusViT, corpus: torch.Tensor, lesion: np.ndarray) -> np.ndarray:
    return package_by_layer(model, corpus, lesion)[::-1]


def _first_class(model: CorpusViT, corpus: torch.Tensor, lesion: np.ndarray) -> np.ndarray:
    rates = []
    for first in range(len(model.blocks)):
        rates.append(pointing(relevance(model, corpus, 0, start_layer=first), lesion).mean())
    return np.array(rates)


def _same_for_all(model: CorpusViT, corpus: torch.Tensor, lesion: np.ndarray) -> np.ndarray:
    return np.full(len(model.blocks), package_by_layer(model, corpus, lesion)[0])


def layers_fault(answer: object) -> str:
    """What is wrong with `hits_by_layer(model, corpus, lesion)`."""
    wrong = {
        "the order is turned round: the first entry is that of all blocks": _reversed,
        "explain the last class, number 2": _first_class,
        "every entry is that of all blocks: pass `start_layer`": _same_for_all,
    }
    return drawn_fault(answer, _draw_images, package_by_layer, wrong, ("the shares",))


def package_rather(model: CorpusViT, corpus: torch.Tensor, a: int, b: int) -> torch.Tensor:
    """Relevance for class a rather than class b.

    Args:
        model: the corpus ViT.
        corpus: (B, C, h, w).
        a: number of the class that is explained.
        b: number of the class that it is compared with.

    Returns:
        (B, h, w).
    """
    one, other = torch.eye(CLASSES)[[a, b]]
    return relevance(model, corpus, lambda out: out["logits"] @ (one - other))


def _difference_of_maps(model: CorpusViT, corpus: torch.Tensor, a: int, b: int) -> torch.Tensor:
    both = relevance(model, corpus, [a, b])
    return both[:, 0] - both[:, 1]


def _alone(model: CorpusViT, corpus: torch.Tensor, a: int, b: int) -> torch.Tensor:
    return relevance(model, corpus, a)


def _odds(model: CorpusViT, corpus: torch.Tensor, a: int, b: int) -> torch.Tensor:
    return relevance(model, corpus, LogOdds(a))


def _draw_pair() -> tuple[CorpusViT, torch.Tensor, int, int]:
    model, corpus, _ = _draw_images()
    a, b = np.random.default_rng().permutation(CLASSES)[:2]
    return model, corpus, int(a), int(b)


def rather_fault(answer: object) -> str:
    """What is wrong with `rather_than(model, corpus, a, b)`."""
    wrong = {
        "that is the difference of two maps; explain the difference of two logits": (
            _difference_of_maps
        ),
        "that explains class a alone": _alone,
        "that is class a against all others together": _odds,
    }
    return drawn_fault(answer, _draw_pair, package_rather, wrong, ("the map",))


def package_farther(lesion: np.ndarray) -> float:
    """Chance of a hit where two cells are forgiven.

    Args:
        lesion: bool (B, S, S).
    """
    return float(near(lesion, (GRID * 2, GRID * 2), FARTHER).mean())


def _one_cell(lesion: np.ndarray) -> float:
    return float(near(lesion, (GRID * 2, GRID * 2)).mean())


def _images_hit(lesion: np.ndarray) -> float:
    return float(near(lesion, (GRID * 2, GRID * 2), FARTHER).any(axis=(1, 2)).mean())


def _draw_lesions() -> tuple[np.ndarray]:
    return (_draw_images()[2],)


def farther_fault(answer: object) -> str:
    """What is wrong with `chance_within_two(lesion)`."""
    wrong = {
        "that is the chance within one cell": _one_cell,
        "a random point picks one cell: take the share of cells, not of films": _images_hit,
    }
    return drawn_fault(answer, _draw_lesions, package_farther, wrong, ("the chance",))


EXERCISES = (
    Exercise(
        "05.1",
        "core",
        (
            "For each token and each output: what did each input add? That is a product `x * w`.",
            "`x[:, None, :] * weight[None]` holds all products (T, O, I). Those below 0 become 0.",
            "Divide the products by their sum over the inputs (where it is above 0), multiply by "
            "R[:, :, None], and sum over the outputs.",
        ),
        linear_fault,
        "Your rule gives what explain.linear_rule gives, and the sum of the relevance is kept.",
    ),
    Exercise(
        "05.2",
        "core",
        (
            "`explain.relevance` has a `start_layer`: 0 is all blocks, the largest is the last "
            "block alone.",
            "`explain.pointing(map, lesion)` gives 1 or 0 for each film.",
            "A loop over `range(len(model.blocks))`: relevance for class 2 from that block on, "
            "pointing, mean.",
        ),
        layers_fault,
        "Now run it on `model.transformer`, `seen.corpus` and `lesion` of this lesson.",
    ),
    Exercise(
        "05.3",
        "project",
        (
            "The target of `explain.relevance` may be a function of the outputs.",
            "The outputs are a dictionary; `out['logits']` is (B, 3).",
            "A function that returns logit a minus logit b, one number for each film.",
        ),
        rather_fault,
        "Now exchange a and b: the map is the same. Relevance and gradient both change their sign, "
        "and the map is their product; it shows what decides between two classes, not for which.",
    ),
    Exercise(
        "05.4",
        "warm-up",
        (
            "Chance is what a point drawn at random would reach.",
            "`explain.near(lesion, grid, tolerance)` marks the cells that would count as a hit. "
            "The grid of this exercise is (8, 8).",
            "The mean over all cells of all films, with a tolerance of 2.",
        ),
        farther_fault,
        "The more a game forgives, the nearer is chance to 1: report it beside every hit rate.",
    ),
)
