"""Interventions on a trained corpus ViT: what it loses without places or without attention.

Each takes something away from the finished model at test time. *Shuffling* is the honest one of
them: the tokens stay within what the model has seen. Zeroed positions and even attention also move
them to where the model has never been, and so cost something even where the answer never used what
is missing. The sure test is a model that was *trained* without (`ViT.positions`, `ViT.even`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import torch

from cxrkit.models.corpus_vit import CorpusViT


@contextmanager
def shuffled(transformer: CorpusViT, seed: int = 0) -> Iterator[None]:
    """The cells of the corpus stand in another order, one and the same for all images."""
    h, w = transformer.grid
    order = torch.randperm(h * w, generator=torch.Generator().manual_seed(seed))

    def shuffle(module: CorpusViT, inputs: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        (features,) = inputs
        return (features.flatten(2)[..., order].unflatten(2, (h, w)),)

    hook = transformer.register_forward_pre_hook(shuffle)
    try:
        yield
    finally:
        hook.remove()


@contextmanager
def without_positions(transformer: CorpusViT) -> Iterator[None]:
    """The learned positions are 0."""
    kept = transformer.pos_embed.detach().clone()
    with torch.no_grad():
        transformer.pos_embed.zero_()
    try:
        yield
    finally:
        with torch.no_grad():
            transformer.pos_embed.copy_(kept)


@contextmanager
def even_attention(transformer: CorpusViT) -> Iterator[None]:
    """Every token looks at all tokens alike."""
    kept = transformer.even
    transformer.even = True
    try:
        yield
    finally:
        transformer.even = kept


INTERVENTIONS: dict[str, Callable[[CorpusViT], AbstractContextManager[None]]] = {
    "shuffled": shuffled,
    "without_positions": without_positions,
    "even_attention": even_attention,
}
