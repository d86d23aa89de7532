"""The global random generators: seeded, saved in a checkpoint, and restored from it."""

import random

import numpy as np
import torch


def seed_everything(seed: int) -> None:
    """Seed the global generators of python, numpy and torch, on all devices.

    Args:
        seed: Any integer that is not negative; numpy takes its last 32 bits.

    Example:
        >>> import torch
        >>> seed_everything(3)
        >>> first = torch.rand(2)
        >>> seed_everything(3)
        >>> torch.equal(first, torch.rand(2))
        True
    """
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def rng_state() -> dict[str, object]:
    """State of the global generators of python, numpy and torch, as JSON values.

    Returns:
        `python`, `numpy`, `torch` (CPU) and `cuda`: a list with the state of the current CUDA
        device, or an empty list.
    """
    name, key, *position = np.random.get_state()
    cuda = []
    if torch.cuda.is_available():
        cuda.append(_to_hex(torch.cuda.get_rng_state()))
    return {
        "python": random.getstate(),
        "numpy": [name, key.tolist(), *position],
        "torch": _to_hex(torch.get_rng_state()),
        "cuda": cuda,
    }


def set_rng_state(state: dict) -> None:
    """Restore what `rng_state` gave, also after a passage through JSON.

    Args:
        state: The dict of `rng_state`. A CUDA state is left out on a machine without CUDA.
    """
    version, key, gauss = state["python"]
    random.setstate((version, tuple(key), gauss))
    np.random.set_state(tuple(state["numpy"]))
    torch.set_rng_state(_from_hex(state["torch"]))
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state(_from_hex(state["cuda"][0]))


def _to_hex(tensor: torch.Tensor) -> str:
    return tensor.numpy().tobytes().hex()


def _from_hex(text: str) -> torch.Tensor:
    return torch.frombuffer(bytearray.fromhex(text), dtype=torch.uint8)
