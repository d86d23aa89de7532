"""Chunks: explanations of many images on one device, a few images at a time.

Memory on the device grows with the chunk, not with the number of images. B images, C channels of
the corpus, h w its grid.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import nn

from cxrkit.explain.targets import Target, check_length, target_of
from cxrkit.training.devices import pick_device

CHUNK = 16  # images; at paper size relevance takes 0.35 GB an image, and 0.5 GB for three classes


def device_for(inputs: torch.Tensor, device: torch.device | None = None) -> torch.device:
    """The device on which inputs are explained.

    Args:
        inputs: what is explained.
        device: the caller's choice.

    Returns:
        `device`, by default `pick_device()`; the CPU for float64 on a Mac, whose GPU has no such
        numbers.
    """
    if device is not None:
        return torch.device(device)
    picked = pick_device()
    if picked.type == "mps" and inputs.dtype == torch.float64:
        return torch.device("cpu")
    return picked


def move(model: nn.Module, device: torch.device) -> None:
    """Move a model to a device, where it stays.

    Weights that move within a caller's `inference_mode` could never be trained again; so it is off
    meanwhile.
    """
    with torch.inference_mode(False):
        model.to(device)


@contextlib.contextmanager
def gradients_on() -> Iterator[None]:
    """Gradients inside the `with`, also within a caller's no_grad or inference_mode."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


def slices(n: int, chunk: int) -> list[slice]:
    """Slices of at most `chunk` images that cover n; for none a single empty one.

    Raises:
        ValueError: the chunk holds no image.
    """
    if chunk < 1:
        raise ValueError(f"chunk is {chunk}; it must be at least 1")
    return [slice(start, start + chunk) for start in range(0, max(n, 1), chunk)]


def map_in_chunks(
    function: Callable[[torch.Tensor], torch.Tensor],
    inputs: torch.Tensor,
    device: torch.device | None = None,
    chunk: int = CHUNK,
) -> torch.Tensor:
    """Apply a function of a batch to many images, a chunk at a time.

    Args:
        function: inputs of a chunk, on the device -> a tensor with a row for each image. Its
            network lies on the device already.
        inputs: (B, ...).
        device: where the function works; default: see `device_for`.
        chunk: images of one call.

    Returns:
        (B, ...) on the CPU.
    """
    device = device_for(inputs, device)
    rows = [function(inputs[part].to(device)).cpu() for part in slices(len(inputs), chunk)]
    return torch.cat(rows)


def explain_in_chunks(
    explain: Callable[[torch.Tensor, Target], torch.Tensor],
    model: nn.Module,
    inputs: torch.Tensor,
    target: Target,
    device: torch.device | None = None,
    chunk: int = CHUNK,
) -> torch.Tensor:
    """Maps of many images, a chunk at a time; the model is moved to the device and stays there.

    Args:
        explain: inputs and target of a chunk, both on the device -> its maps.
        model: the model that is explained.
        inputs: (B, C, h, w).
        target: see `targets`.
        device: default: see `device_for`.
        chunk: images that are explained at once.

    Returns:
        The maps, (B, ...), on the CPU.

    Raises:
        ValueError: a target (B,) of another length, or a chunk below 1.
    """
    check_length(target, len(inputs))
    device = device_for(inputs, device)
    move(model, device)
    maps = []
    for part in slices(len(inputs), chunk):
        maps.append(explain(inputs[part].to(device), target_of(target, part)).cpu())
    return torch.cat(maps)
