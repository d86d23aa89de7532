"""Less memory for more time: what a forward pass kept is computed again in the backward pass.

Chen et al. 2016 (activation checkpointing), and Gao et al. 2021 (cached gradients of a contrastive
loss): the result is that of the plain update, for about a third more time.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

# classes of the blocks that are computed again: of torchvision, of the kit's ViT, of timm
BLOCKS = ("_DenseLayer", "Bottleneck", "Block", "PreActBottleneck")
# called with a block and its arguments as they are kept (`memory.kept_during` counts them)
watchers: list[Callable[[partial[Any], tuple[Any, ...]], None]] = []


@contextlib.contextmanager
def _statistics_kept(module: nn.Module) -> Iterator[None]:
    """Batch norm normalises by the batch and leaves its running statistics as they are."""
    norms = [
        one for one in module.modules() if isinstance(one, _BatchNorm) and one.track_running_stats
    ]
    before = [(norm.momentum, copy.deepcopy(norm.num_batches_tracked)) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, (momentum, seen) in zip(norms, before, strict=True):
            norm.momentum = momentum
            norm.num_batches_tracked = seen


def again(module: nn.Module, function: Callable[..., Any], *args: Any) -> Any:
    """function(*args), of which the arguments alone are kept for the backward pass.

    Args:
        module: holds the batch norms that the function runs; the second pass leaves their running
            statistics alone.
        function: a computation on tensors.
        *args: its arguments.
    """
    # a dense block appends to the list that it hands to its layers
    args = tuple(list(value) if isinstance(value, list) else value for value in args)
    for watch in watchers:
        watch(partial(_quiet, module, function), args)
    contexts = partial(_both_contexts, module)
    return checkpoint(function, *args, use_reentrant=False, context_fn=contexts)


def _both_contexts(module: nn.Module) -> tuple[Any, Any]:
    return contextlib.nullcontext(), _statistics_kept(module)


def _quiet(module: nn.Module, function: Callable[..., Any], *args: Any) -> Any:
    with _statistics_kept(module):
        return function(*args)


@contextlib.contextmanager
def recomputed(model: nn.Module, wanted: bool = True) -> Iterator[None]:
    """Inside, the forward passes of the model keep the inputs of its BLOCKS alone.

    Args:
        model: any; one without such blocks keeps all.
        wanted: False changes nothing.
    """
    blocks = []
    if wanted:
        blocks = [one for one in model.modules() if type(one).__name__ in BLOCKS]
    for block in blocks:
        block.forward = partial(again, block, block.forward)
    try:
        yield
    finally:
        for block in blocks:
            del block.forward


def in_parts(
    module: nn.Module,
    function: Callable[[torch.Tensor], torch.Tensor],
    rows: torch.Tensor,
    most: int,
) -> torch.Tensor:
    """function(rows), a few rows at a time, of which the backward pass keeps the rows alone.

    The gradients are those of the whole where no row depends on another. Batch norm makes them
    depend: a module that has some takes all rows at once.

    Args:
        module: that the function runs.
        function: (n, ...) -> (n, ...), row by row.
        rows: (N, ...).
        most: rows of one pass; 0 = all, and everything is kept.

    Returns:
        (N, ...).
    """
    norms = any(isinstance(one, _BatchNorm) and one.training for one in module.modules())
    if not most or norms:
        return function(rows)
    return torch.cat([again(module, function, part) for part in rows.split(most)])
