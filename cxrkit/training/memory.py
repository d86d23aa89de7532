"""Memory of one training step, counted without computing it: weights, gradients, optimiser, and
what the backward pass will need.
"""

import torch

MOMENTS = {"adamw": 2, "adam": 2, "sgd": 1}  # numbers that an optimiser remembers of each weight
PRECISIONS = {"float32": torch.float32, "bf16": torch.bfloat16}


def kept_for_backward(model, *inputs):
    """Bytes that autograd keeps from one forward pass for the backward pass, weights left out; a
    shared storage counts once.

    Works on `meta`, where nothing is computed and no memory is used.
    """
    return kept_during(lambda: model(*inputs), model.parameters())


def kept_during(call, weights):
    """Bytes that autograd keeps for backward passes while `call` runs, `weights` left out."""
    weights, kept = {weight.untyped_storage()._cdata for weight in weights}, {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage  # held, so that its address is not given to another
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        call()
    return sum(storage.nbytes() for address, storage in kept.items() if address not in weights)


def training_bytes(make, shape, training, precision="float32"):
    """Bytes that one update needs: make() -> model, shape of its input without the batch, training:
    `profiles.Training`.

    Weights, gradients and moments are float32 at any precision; with bf16 autocast adds a bf16 copy
    of the weights. Not counted: work space of the convolutions, the gradients under way and what
    the driver takes, a few hundred MB to 1 GB. Raises ValueError for an unknown precision, KeyError
    for an unknown optimiser.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"unknown precision {precision!r}; known: {list(PRECISIONS)}")
    dtype = PRECISIONS[precision]
    with torch.device("meta"):
        model = make().to(dtype).train()
        kept = kept_for_backward(model, torch.empty(training.batch, *shape, dtype=dtype))
    weights = sum(weight.numel() for weight in model.parameters())
    return kept + weights * (4 * (2 + MOMENTS[training.optimizer]) + 2 * (dtype != torch.float32))
