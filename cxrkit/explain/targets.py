"""Targets: which output of a corpus ViT is explained.

A target is a class for all images, the class of each image, a sequence of classes for each image,
or a function of the outputs. n outputs explained, B batch, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeGuard

import numpy as np
import torch

Outputs = dict[str, torch.Tensor]
Target = int | torch.Tensor | np.ndarray | Sequence[int] | Callable[[Outputs], torch.Tensor]


def asks_for_several(target: Target) -> TypeGuard[Sequence[int]]:
    """Whether a target asks for several maps of each image.

    A list does. A tensor or array (B,) names one class an image.
    """
    if callable(target) or isinstance(target, (torch.Tensor, np.ndarray)):
        return False
    return np.ndim(target) == 1


def one_class_an_image(target: Target) -> bool:
    """Whether a target is a tensor or array (B,): the class of each image."""
    return isinstance(target, (torch.Tensor, np.ndarray)) and target.ndim == 1


def check_length(target: Target, images: int) -> None:
    """Make sure that a target (B,) has a class for each image.

    Raises:
        ValueError: it has more or fewer.
    """
    if one_class_an_image(target) and len(target) != images:
        raise ValueError(
            f"{len(target)} classes for a batch of {images} images: a tensor names one class an "
            "image; for the maps of several classes give a list"
        )


def target_of(target: Target, part: slice) -> Target:
    """The target of a part of the images."""
    return target[part] if one_class_an_image(target) else target


def class_numbers(target: Target, B: int, K: int) -> torch.Tensor:
    """Classes that a target asks for.

    Args:
        target: a class for all images, (B,) the class of each image, or a sequence of n classes.
        B: number of images.
        K: number of classes that the model has.

    Returns:
        (n, B), a row for each output that is explained.

    Raises:
        ValueError: the model does not have such a class, there is none at all, or a (B,) has
            another length.
    """
    check_length(target, B)
    classes = torch.as_tensor(target).long()
    if one_class_an_image(target):
        classes = classes[None]  # (1, B)
    else:
        classes = classes.reshape(-1, 1).expand(-1, B)  # (n, B)
    if not classes.numel() or classes.min() < 0 or classes.max() >= K:
        asked = sorted(set(classes.flatten().tolist()))
        raise ValueError(f"classes {asked}, but the model has 0 to {K - 1}")
    return classes


def explained_values(outputs: Outputs, target: Target) -> list[torch.Tensor]:
    """The numbers to be explained: logits of classes, or what a function of the outputs returns.

    Args:
        outputs: what the model returned for B images.
        target: see the module.

    Returns:
        n tensors (B,) that carry gradients.

    Raises:
        ValueError: see `class_numbers`; or a function does not return (B,).
    """
    logits = outputs["logits"]  # (B, K)
    if not callable(target):
        classes = class_numbers(target, *logits.shape).to(logits.device)  # (n, B)
        return [logits.gather(1, row[:, None])[:, 0] for row in classes]
    value = target(outputs)
    if value.shape != logits.shape[:1]:
        raise ValueError(
            f"the target function returned {tuple(value.shape)}, not one number for each of "
            f"{len(logits)} images"
        )
    return [value]
