"""Memory of one training step, counted without computing it.

Counted are weights, gradients, the numbers of the optimiser, and what the backward pass will need.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef

from cxrkit.training import recompute

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from cxrkit.config.sections import Training

MOMENTS = {"adamw": 2, "adam": 2, "sgd": 1}  # numbers that an optimiser remembers of each weight
DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16}
FLOAT32_BYTES, BF16_BYTES = 4, 2


def kept_for_backward(model: nn.Module, *inputs: torch.Tensor) -> int:
    """Bytes that autograd keeps from one forward pass for the backward pass.

    Args:
        model: The model. On `meta` nothing is computed and no memory is used.
        inputs: Its inputs, on the same device.

    Returns:
        Bytes, weights left out; a storage that several tensors share counts once.
    """
    return kept_during(lambda: model(*inputs), model.parameters())


def kept_during(call: Callable[[], object], weights: Iterable[torch.Tensor]) -> int:
    """Bytes that autograd keeps for backward passes while `call` runs.

    Of blocks that are computed again in the backward pass (`training.recompute`) these are their
    inputs, and what the largest of them keeps while it is computed again.

    Args:
        call: The computation; what it returns is not used.
        weights: Tensors that are left out of the count.

    Returns:
        Bytes; a storage that several tensors share counts once.
    """
    weights = tuple(weights)
    left_out = {weight.untyped_storage()._cdata for weight in weights}
    kept: dict[StorageWeakRef, int] = {}  # bytes of each storage

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        # a weak reference frees the memory after the backward pass, and keeps the address from
        # being given to another storage
        storage = tensor.untyped_storage()
        if storage._cdata not in left_out:
            kept.setdefault(StorageWeakRef(storage), storage.nbytes())
        return tensor

    def unpack(tensor: torch.Tensor) -> torch.Tensor:
        return tensor

    largest = 0
    counted = set()  # a block sees the same shapes again and again
    busy = False

    def watch(block: partial[Any], args: tuple[Any, ...]) -> None:
        nonlocal largest, busy
        if busy:  # a block inside of one that is being counted
            return
        for tensor in _tensors(args):
            pack(tensor)
        module = block.args[0]  # of `recompute.again`
        kind = (id(module), *(tensor.shape for tensor in _tensors(args)))
        if kind in counted:
            return
        counted.add(kind)
        busy = True
        largest = max(largest, kept_during(lambda: block(*args), weights))
        busy = False

    recompute.watchers.append(watch)
    try:
        with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
            call()
    finally:
        recompute.watchers.remove(watch)
    return sum(kept.values()) + largest


def _tensors(args: Iterable[Any]) -> Iterator[torch.Tensor]:
    """The tensors among arguments, those in lists included."""
    for value in args:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _tensors(value)


def training_bytes(
    make: Callable[[], nn.Module],
    shape: tuple[int, ...],
    training: Training,
    precision: str = "float32",
) -> int:
    """Bytes that one update needs.

    Weights, gradients and the optimiser's numbers are float32 at any precision; autocast adds a
    copy of the weights in bf16. Not counted: the work space of the convolutions, the gradients
    under way and what the driver takes, a few hundred MB to 1 GB.

    Args:
        make: Function that makes the model; it is called on `meta`.
        shape: Shape of the model's input without the batch, e.g. (1, 512, 512).
        training: Its batch and its optimiser are read.
        precision: A key of `DTYPES`.

    Returns:
        Bytes.

    Raises:
        ValueError: For an unknown precision.
        KeyError: For an unknown optimiser.
    """
    if precision not in DTYPES:
        raise ValueError(f"unknown precision {precision!r}; known: {list(DTYPES)}")
    dtype = DTYPES[precision]
    with torch.device("meta"):
        model = make().to(dtype).train()
        with recompute.recomputed(model, training.recompute):
            kept = kept_for_backward(model, torch.empty(training.batch, *shape, dtype=dtype))
    weights = sum(weight.numel() for weight in model.parameters())
    numbers = 1 + 1 + MOMENTS[training.optimizer]  # weight, gradient and moments
    each = FLOAT32_BYTES * numbers
    if dtype == torch.bfloat16:
        each += BF16_BYTES
    return kept + each * weights
