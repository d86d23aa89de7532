"""Targets: which output of a corpus ViT is explained.

A target is a class for all images, the class of each image, a function of the outputs, or a
sequence of classes and functions. Two kinds of functions are ready:

- a class: "what speaks for this class?" Its logit alone, whatever the other logits are.
- `Margin`: "why this class rather than the next best?" What speaks for both cancels.
- `LogOdds`: "why this class rather than all others together?" It is log(p / (1 - p)).

None of them saturates. A probability does: its gradient is the gradient of the log-odds times
p * (1 - p), so the surer the model, the smaller the map. Never explain a probability.

n outputs explained, B batch, K classes.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeGuard, cast

import numpy as np
import torch

Outputs = dict[str, torch.Tensor]
Function = Callable[[Outputs], torch.Tensor]
Target = int | torch.Tensor | np.ndarray | Function | Sequence[int | Function]


@dataclass(frozen=True, eq=False)
class AgainstOthers(abc.ABC):
    """A class against the others; see `Margin` and `LogOdds`.

    Attributes:
        classes: a class for all images, or (B,) the class of each, such as `logits.argmax(1)`.
    """

    classes: int | torch.Tensor | np.ndarray

    @abc.abstractmethod
    def __call__(self, outputs: Outputs) -> torch.Tensor:
        """The number of each image that is explained, (B,)."""

    def split(self, outputs: Outputs) -> tuple[torch.Tensor, torch.Tensor]:
        """The logit of the class (B,), and the logits of the others (B, K - 1).

        Args:
            outputs: with `logits` (B, K).

        Raises:
            ValueError: the model has one output, or no such class.
        """
        logits = outputs["logits"]  # (B, K)
        B, K = logits.shape
        if K < 2:
            raise ValueError(
                "a model with one output has no other class to compare with: the target is 0, or "
                "a function of the outputs"
            )
        chosen = class_numbers(self.classes, B, K)[0].to(logits.device)  # (B,)
        others = (chosen[:, None] + torch.arange(1, K, device=logits.device)) % K  # (B, K - 1)
        return logits.gather(1, chosen[:, None])[:, 0], logits.gather(1, others)


class Margin(AgainstOthers):
    """Logit of a class minus the largest other logit: why this rather than the next best?"""

    def __call__(self, outputs: Outputs) -> torch.Tensor:
        """The margin of each image, (B,)."""
        own, others = self.split(outputs)
        return own - others.amax(1)


class LogOdds(AgainstOthers):
    """Log-odds of a class, log(p / (1 - p)) of its softmax: why this rather than all others?"""

    def __call__(self, outputs: Outputs) -> torch.Tensor:
        """The log-odds of each image, (B,)."""
        own, others = self.split(outputs)
        return own - others.logsumexp(1)


def asks_for_several(target: Target) -> TypeGuard[Sequence[int | Function]]:
    """Whether a target asks for several maps of each image.

    A list does. A tensor or array (B,) names one class an image.
    """
    return isinstance(target, Sequence)


def one_class_an_image(target: Target) -> TypeGuard[torch.Tensor | np.ndarray]:
    """Whether a target is a tensor or array (B,): the class of each image."""
    return isinstance(target, (torch.Tensor, np.ndarray)) and target.ndim == 1


def check_length(target: Target, images: int) -> None:
    """Make sure that a target (B,) has a class for each image.

    Raises:
        ValueError: it has more or fewer.
    """
    if asks_for_several(target):
        for one in target:
            check_length(one, images)
    if isinstance(target, AgainstOthers):
        target = target.classes
    if one_class_an_image(target) and len(target) != images:
        raise ValueError(
            f"{len(target)} classes for a batch of {images} images: a tensor names one class an "
            "image; for the maps of several classes give a list"
        )


def target_of(target: Target, part: slice) -> Target:
    """The target of a part of the images."""
    if asks_for_several(target):
        return [cast("int | Function", target_of(one, part)) for one in target]
    if isinstance(target, AgainstOthers):
        classes = cast("int | torch.Tensor", target_of(target.classes, part))
        return replace(target, classes=classes)
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
    if asks_for_several(target) and any(callable(one) for one in target):
        return [explained_values(outputs, one)[0] for one in target]
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
