"""A stand-in for a graphics card on any machine: a second device whose tensors hold real values, on
the CPU.

As on a real card, a tensor gets there by `.to(CARD)` and back by `.cpu()`, an operation refuses
tensors that lie apart (except numbers, and indices from the CPU), and NumPy gets none of them;
models train there as they do on the CPU. It is slow, and knows nothing of streams, of mixed
precision (tests/training/test_mixed_precision.py) or of what the arithmetic of a card rounds
otherwise.

Underneath it is torch's `meta`, the one other device that every build of torch can compute
gradients on. Torch copies no Python numbers there: `torch.tensor([1, 2], device=CARD)` and the
index `x[:, [1, 2]]` hold garbage.
"""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

CARD = torch.device("meta")
CPU = torch.device("cpu")
MOVES = ("aten._to_copy", "aten.copy_")
INDEXES = ("aten.index.", "aten.index_put")


class OnCard(torch.Tensor):
    """A tensor on the card; `held` has its values."""

    @staticmethod
    def __new__(cls, held):
        self = torch.Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            layout=held.layout,
            device=CARD,
        )
        self.held = held
        return self

    def __repr__(self):
        return f"OnCard({tuple(self.shape)}, {self.dtype})"

    @classmethod
    def __torch_dispatch__(cls, operation, types, args=(), kwargs=None):
        return compute(operation, args, kwargs or {})


class Card(TorchDispatchMode):
    """Inside, tensors can be made on the card and moved to it."""

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        return compute(operation, args, kwargs or {})


def compute(operation, args, kwargs):
    """An operation on values of the card or of the CPU.

    Raises RuntimeError where they lie apart.
    """
    given = [value for value in tree_flatten((args, kwargs))[0] if isinstance(value, torch.Tensor)]
    on_card = [value for value in given if isinstance(value, OnCard)]
    on_cpu = [value for value in given if not isinstance(value, OnCard)]
    refuse_two_devices(operation, on_card, on_cpu)
    asked = kwargs.get("device")
    result_on_card = bool(on_card) if asked is None else torch.device(asked) == CARD
    # what works in place returns its own tensor
    same = {id(values_of(tensor)): tensor for tensor in given}

    def lift(value):
        if not isinstance(value, torch.Tensor) or id(value) in same:
            return same.get(id(value), value)
        return OnCard(value) if result_on_card else value

    result = operation(*tree_map(values_of, args), **tree_map(values_of, kwargs))
    return tree_map(lift, result)


def refuse_two_devices(operation, on_card, on_cpu):
    """Raises RuntimeError unless the operation is one that may take tensors of both devices."""
    may_mix = str(operation).startswith(MOVES + INDEXES)
    if on_card and any(tensor.dim() for tensor in on_cpu) and not may_mix:
        raise RuntimeError(
            f"{operation}: tensors on two devices: {on_card} and "
            f"{[tuple(tensor.shape) for tensor in on_cpu]} on the CPU"
        )


def values_of(value):
    """What the CPU computes with in place of a tensor of the card, or of a device."""
    if isinstance(value, torch.device):
        return CPU
    return value.held if isinstance(value, OnCard) else value
