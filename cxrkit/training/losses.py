"""Losses of the AdaIN segmenter (Oh & Ye 2021): those of StarGAN v2 that move films between
domains, and those that draw lungs.

`nets` is a `segmentation.Translator`. B batch, H W image, S style.
"""

import contextlib

import torch
import torch.nn.functional as F


def nonsaturating(logits, real):
    """-log of the discriminator's probability that all are real, or that none is: logits (B,) ->
    scalar (Goodfellow et al. 2014).
    """
    return F.softplus(-logits if real else logits).mean()


def r1(logits, image):
    """Half the squared gradient of the real logits in the image, mean over the batch (Mescheder et
    al. 2018).
    """
    (gradient,) = torch.autograd.grad(logits.sum(), image, create_graph=True)  # (B, 1, H, W)
    return 0.5 * gradient.square().flatten(1).sum(1).mean()


@contextlib.contextmanager
def frozen(module):
    """Inside, what is computed sends no gradient to the weights of `module`; gradients still flow
    through it.
    """
    trained = [weight for weight in module.parameters() if weight.requires_grad]
    for weight in trained:
        weight.requires_grad_(False)
    try:
        yield module
    finally:
        for weight in trained:
            weight.requires_grad_(True)


def translation_losses(nets, image, domain, target, style, other=None, penalty=True):
    """Both sides of the game: image (B, 1, H, W) of `domain` (B,) goes to `target` (B,) with
    `style` (B, S) -> dict of scalars.

    The discriminator's: `real`, `fake` (the new film carries no gradient) and, with `penalty`,
    `r1`. The generator's: `adversarial` (the discriminator's weights carry none), `style` (the
    style read off the new film is the one asked for), `cycle` (with its own style the film comes
    back) and, given another style, `diversity` (two styles give two films: to be maximised). Both
    sides thus share one backward pass and one optimiser; they descend at the same time instead of
    in turn.
    """
    fake = nets.generator(image, style)["image"]
    source = image.detach().clone().requires_grad_(penalty)
    logits = nets.discriminator(source, domain)
    losses = {
        "real": nonsaturating(logits, True),
        "fake": nonsaturating(nets.discriminator(fake.detach(), target), False),
    }
    if penalty:
        losses["r1"] = r1(logits, source)
    with frozen(nets.discriminator):
        losses["adversarial"] = nonsaturating(nets.discriminator(fake, target), True)
    losses["style"] = F.l1_loss(nets.encoder(fake, target), style)
    losses["cycle"] = F.l1_loss(nets.generator(fake, nets.encoder(image, domain))["image"], image)
    if other is not None:
        with torch.no_grad():
            second = nets.generator(image, other)["image"]
        losses["diversity"] = F.l1_loss(fake, second)
    return losses


def weighted_cross_entropy(logits, mask, weights=(0.7, 1.0)):
    """Mean cross-entropy of lung against background, each pixel weighted by its class; pixels of
    127 (ignore) do not count.

    logits (B, 1, H, W), mask (B, H, W) of 0, 127, 255, weights (background, lung) -> scalar, 0
    where nothing is drawn.
    """
    lung = (mask == 255)[:, None].to(logits.dtype)  # (B, 1, H, W)
    weight = torch.where(lung > 0, weights[1], weights[0]) * (mask != 127)[:, None]
    each = F.binary_cross_entropy_with_logits(logits, lung, reduction="none")
    return (each * weight).sum() / weight.sum().clamp(min=1e-6)


def consistency(student, teacher):
    """Mean absolute difference of logits (B, 1, H, W); the teacher carries no gradient."""
    return F.l1_loss(student, teacher.detach())
