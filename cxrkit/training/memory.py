"""Memory of one training step, counted without computing it.

Counted are weights, gradients, the numbers of the optimiser, and what the backward pass will need.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Iterable

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

    Args:
        call: The computation; what it returns is not used.
        weights: Tensors that are left out of the count.

    Returns:
        Bytes; a storage that several tensors share counts once.
    """
    left_out = {weight.untyped_storage()._cdata for weight in weights}
    kept = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        # The storage is held, so that its address is not given to another one.
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage
        return tensor

    def unpack(tensor: torch.Tensor) -> torch.Tensor:
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        call()
    return sum(storage.nbytes() for address, storage in kept.items() if address not in left_out)


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
        kept = kept_for_backward(model, torch.empty(training.batch, *shape, dtype=dtype))
    weights = sum(weight.numel() for weight in model.parameters())
    numbers = 1 + 1 + MOMENTS[training.optimizer]  # weight, gradient and moments
    each = FLOAT32_BYTES * numbers
    if dtype == torch.bfloat16:
        each += BF16_BYTES
    return kept + each * weights
