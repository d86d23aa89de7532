"""Losses of the AdaIN segmenter (Oh & Ye 2021).

Those of StarGAN v2 move images between domains; the others segment the lungs. `nets` is an
`adain_networks.Translator`. B batch, H W image, S style.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn

if TYPE_CHECKING:
    from cxrkit.models.adain_networks import Translator


def nonsaturating(logits: torch.Tensor, real: bool) -> torch.Tensor:
    """Loss of a discriminator's answer (Goodfellow et al. 2014).

    Args:
        logits: Logits that an image is real, (B,).
        real: Whether the loss asks for "real".

    Returns:
        -log of the probability of that answer, mean over the batch: a scalar.
    """
    return F.softplus(-logits if real else logits).mean()


def r1(logits: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    """Gradient penalty of the discriminator on real images (Mescheder et al. 2018).

    Args:
        logits: Logits of the real images, (B,).
        image: These images, which require gradients, (B, 1, H, W).

    Returns:
        Half the squared norm of the logits' gradient in the image, mean over the batch: a scalar
        that can be differentiated once more.
    """
    (gradient,) = torch.autograd.grad(logits.sum(), image, create_graph=True)  # (B, 1, H, W)
    return 0.5 * gradient.square().flatten(1).sum(1).mean()


@contextlib.contextmanager
def frozen(module: nn.Module) -> Iterator[nn.Module]:
    """Inside the `with`, what is computed sends no gradient to the weights of `module`.

    Gradients still flow through it, to its inputs.
    """
    trained = [weight for weight in module.parameters() if weight.requires_grad]
    for weight in trained:
        weight.requires_grad_(False)
    try:
        yield module
    finally:
        for weight in trained:
            weight.requires_grad_(True)


def translation_losses(
    nets: Translator,
    image: torch.Tensor,
    domain: torch.Tensor,
    target: torch.Tensor,
    style: torch.Tensor,
    other: torch.Tensor | None = None,
    penalty: bool = True,
) -> dict[str, torch.Tensor]:
    """Losses of both sides of the adversarial training, for one translation of a batch.

    Generator and discriminator thus share one backward pass and one optimiser: they descend at the
    same time instead of in turn.

    Args:
        nets: Generator, style encoder and discriminator.
        image: Images to translate, (B, 1, H, W).
        domain: Number of their domain, (B,).
        target: Number of the domain that they go to, (B,).
        style: Style that they shall have there, (B, S).
        other: A second style, (B, S); without it there is no `diversity`.
        penalty: Whether to compute `r1`.

    Returns:
        Scalars. The discriminator's: `real`, `fake` (the new image carries no gradient) and `r1`.
        The generator's: `adversarial` (the discriminator's weights carry none), `style` (the style
        encoded from the new image against the one asked for), `cycle` (the image translated back
        with its own style) and `diversity` (the difference between the images of two styles, to be
        maximised).
    """
    fake = nets.generator(image, style)["image"]  # (B, 1, H, W)
    source = image.detach().clone().requires_grad_(penalty)
    logits = nets.discriminator(source, domain)  # (B,)
    losses = {
        "real": nonsaturating(logits, True),
        "fake": nonsaturating(nets.discriminator(fake.detach(), target), False),
    }
    if penalty:
        losses["r1"] = r1(logits, source)
    with frozen(nets.discriminator):
        losses["adversarial"] = nonsaturating(nets.discriminator(fake, target), True)
    losses["style"] = F.l1_loss(nets.encoder(fake, target), style)
    own_style = nets.encoder(image, domain)  # (B, S)
    losses["cycle"] = F.l1_loss(nets.generator(fake, own_style)["image"], image)
    if other is not None:
        with torch.no_grad():
            second = nets.generator(image, other)["image"]
        losses["diversity"] = F.l1_loss(fake, second)
    return losses


def weighted_cross_entropy(
    logits: torch.Tensor, mask: torch.Tensor, weights: tuple[float, float] = (0.7, 1.0)
) -> torch.Tensor:
    """Cross-entropy of lung against background, each pixel weighted by its class.

    Args:
        logits: Logits of lung, (B, 1, H, W).
        mask: 0 background, 255 lung, 127 not annotated, which does not count, (B, H, W).
        weights: Of background and of lung.

    Returns:
        The weighted mean over the pixels, a scalar; 0 where nothing is annotated.
    """
    lung = (mask == 255)[:, None].to(logits.dtype)  # (B, 1, H, W)
    weight = torch.where(lung > 0, weights[1], weights[0]) * (mask != 127)[:, None]
    each = F.binary_cross_entropy_with_logits(logits, lung, reduction="none")
    return (each * weight).sum() / weight.sum().clamp(min=1e-6)


def consistency(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Mean absolute difference of two networks' logits.

    Args:
        student: Logits of the student, (B, 1, H, W).
        teacher: Logits of the teacher, of the same shape; they carry no gradient.

    Returns:
        A scalar.
    """
    return F.l1_loss(student, teacher.detach())
