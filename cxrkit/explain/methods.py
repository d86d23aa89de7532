"""Saliency: `METHODS[name](model, inputs, target)` explains an output of the corpus ViT by
relevance or by one of its rivals.

Every method takes what `relevance` takes: the corpus (B, C, h, w) and a class, the class of each
image, a sequence of n classes, or a function of the outputs -> (B,); it returns (B, h, w), for a
sequence (B, n, h, w). Model and gradients are left as they were. B batch, C channels of the corpus,
h w grid, T = 1 + h*w tokens, D embed, N heads.
"""

import contextlib
import functools

import torch
import torch.nn.functional as F
from torch import nn

from cxrkit.explain.deep_taylor import recorded, relevance, several, values_of

__all__ = ["METHODS", "BLIND", "relevance", "through_backbone", "upsample"]


@contextlib.contextmanager
def _graph():
    """Gradients on, also inside a caller's no_grad or inference_mode."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


def _each(method):
    """A method for one target an image, made to take a sequence of classes as well."""

    @functools.wraps(method)
    def explain(model, inputs, target, **options):
        if several(target):
            return torch.stack([explain(model, inputs, one, **options) for one in target], dim=1)
        return method(model, inputs, target, **options)

    return explain


def _gradient(model, inputs, target):
    """Gradient of the explained value with respect to the corpus, (B, C, h, w)."""
    with _graph():
        inputs = inputs.detach().clone().requires_grad_()
        return torch.autograd.grad(values_of(model(inputs), target)[0].sum(), inputs)[0]


def _attention(model, inputs, target=None):
    """Attention of every block (B, N, T, T), and the gradients of the explained value with respect
    to each (None without target).
    """
    with _graph(), recorded(model) as seen:
        outputs = model(inputs.detach().clone().requires_grad_())
        matrices = [seen[block.attn.softmax][1] for block in model.blocks]
        gradients = target is not None and torch.autograd.grad(
            values_of(outputs, target)[0].sum(), matrices
        )
    return [matrix.detach() for matrix in matrices], gradients or None


def _roll(model, matrices):
    """Row of the class token, itself left out, in the product of the matrices (B, T, T) from the
    last block down -> (B, h, w).
    """
    row = functools.reduce(
        lambda row, matrix: row @ matrix, reversed(matrices[:-1]), matrices[-1][:, :1]
    )
    return row[:, 0, 1:].unflatten(1, model.grid)


@_each
def raw_attention(model, inputs, target):
    """Where the class token looks in the last block, mean over heads; says the same of every class."""
    matrices, _ = _attention(model, inputs)
    return matrices[-1].mean(1)[:, 0, 1:].unflatten(1, model.grid)


@_each
def rollout(model, inputs, target):
    """Attention rollout (Abnar & Zuidema 2020): product over blocks of (A + I) / 2, A the mean over
    heads; the same for every class.
    """
    matrices, _ = _attention(model, inputs)
    identity = torch.eye(matrices[0].shape[-1], dtype=inputs.dtype, device=inputs.device)
    return _roll(model, [(matrix.mean(1) + identity) / 2 for matrix in matrices])


@_each
def gradient_rollout(model, inputs, target):
    """Chefer et al. 2021: product over blocks of I + mean over heads of max(gradient x attention,
    0); no relevance rules.
    """
    matrices, gradients = _attention(model, inputs, target)
    identity = torch.eye(matrices[0].shape[-1], dtype=inputs.dtype, device=inputs.device)
    return _roll(
        model,
        [identity + (g * A).clamp(min=0).mean(1) for A, g in zip(matrices, gradients, strict=True)],
    )


@_each
def attention_gradcam(model, inputs, target):
    """Grad-CAM with the last block's heads as channels: the class token's attention, each head
    weighted by its mean gradient.
    """
    matrices, gradients = _attention(model, inputs, target)
    row, slope = matrices[-1][:, :, 0, 1:], gradients[-1][:, :, 0, 1:]  # (B, N, h*w) each
    return (row * slope.mean(-1, keepdim=True)).mean(1).clamp(min=0).unflatten(1, model.grid)


@_each
def gradcam(model, inputs, target):
    """Grad-CAM on the corpus (Selvaraju et al. 2017): channels weighted by their mean gradient,
    positive part.
    """
    weight = _gradient(model, inputs, target).mean((2, 3), keepdim=True)  # (B, C, 1, 1)
    return (weight * inputs).sum(1).clamp(min=0)


@_each
def smoothgrad(model, inputs, target, samples=16, noise=0.15, seed=0):
    """Size of the mean gradient under noise (Smilkov et al. 2017), summed over channels; noise:
    part of each image's range.
    """
    generator = torch.Generator(inputs.device).manual_seed(seed)
    sigma = noise * (inputs.amax((1, 2, 3), keepdim=True) - inputs.amin((1, 2, 3), keepdim=True))
    total = torch.zeros_like(inputs)
    for _ in range(samples):
        # one for all images
        shake = torch.randn(
            inputs.shape[1:], generator=generator, dtype=inputs.dtype, device=inputs.device
        )
        total += _gradient(model, inputs + sigma * shake, target)
    return (total / samples).abs().sum(1)


@_each
def integrated_gradients(model, inputs, target, steps=16):
    """Sundararajan et al. 2017 from an all-zero corpus, midpoint rule, summed over channels: sums
    to value minus value at zero.
    """
    total = torch.zeros_like(inputs)
    for step in range(steps):
        total += _gradient(model, inputs * ((step + 0.5) / steps), target)
    return (inputs * total / steps).sum(1)


@_each
def occlusion(model, inputs, target, window=3):
    """How much the value falls when `window` x `window` cells are set to 0: mean over the windows
    that cover a cell.
    """
    B, _, h, w = inputs.shape
    drop, covered = (
        torch.zeros(B, h, w, dtype=inputs.dtype, device=inputs.device) for _ in range(2)
    )
    with torch.no_grad():
        whole = values_of(model(inputs), target)[0]  # (B,)
        for top in range(max(h - window, 0) + 1):
            for left in range(max(w - window, 0) + 1):
                hidden, at = inputs.clone(), (slice(top, top + window), slice(left, left + window))
                hidden[:, :, *at] = 0
                drop[:, *at] += (whole - values_of(model(hidden), target)[0])[:, None, None]
                covered[:, *at] += 1
    return drop / covered


@_each
def fullgrad(model, inputs, target):
    """FullGrad (Srinivas & Fleuret 2019): sizes of gradient x input and of gradient x bias at every
    token, without rescaling.

    Covers the biases of the projection, all linear layers and LayerNorms of the blocks and the
    learned positions. GELU, softmax and LayerNorm have implicit biases that are not covered, so the
    parts do not sum to the output; nor are the map head's.
    """
    with _graph(), recorded(model) as seen:
        inputs = inputs.detach().clone().requires_grad_()
        value = values_of(model(inputs), target)[0].sum()
        layers = {
            m: out
            for m, (_, out) in seen.items()
            if isinstance(m, (nn.Linear, nn.LayerNorm)) and out.ndim == 3
        }
        first = seen[model.blocks[0].norm1][0][0]  # (B, T, D)
        at_inputs, at_first, *at_layers = torch.autograd.grad(
            value, [inputs, first, *layers.values()], allow_unused=True
        )
    biases = [
        (model.pos_embed + model.patch_embed.proj.bias, at_first),
        *zip((layer.bias for layer in layers), at_layers),
    ]
    # (B, h*w)
    tokens = sum((bias * g).detach().abs().sum(-1) for bias, g in biases if g is not None)[:, 1:]
    return (at_inputs * inputs.detach()).sum(1).abs() + tokens.unflatten(1, model.grid)


@_each
def random(model, inputs, target, seed=0):
    """Uniform noise: what a method must beat."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(len(inputs), *model.grid, generator=generator).to(inputs)


METHODS = {
    "relevance": relevance,
    "raw_attention": raw_attention,
    "rollout": rollout,
    "gradient_rollout": gradient_rollout,
    "attention_gradcam": attention_gradcam,
    "gradcam": gradcam,
    "smoothgrad": smoothgrad,
    "integrated_gradients": integrated_gradients,
    "occlusion": occlusion,
    "fullgrad": fullgrad,
    "random": random,
}
BLIND = ("raw_attention", "rollout", "random")  # say the same of every class


def upsample(maps, size):
    """Maps (..., h, w) -> (..., H, W), bilinear; size: px of a square, or (H, W)."""
    size = (size, size) if isinstance(size, int) else tuple(size)
    flat = maps.reshape(-1, 1, *maps.shape[-2:])
    return F.interpolate(flat, size, mode="bilinear", align_corners=False).view(
        *maps.shape[:-2], *size
    )


def through_backbone(features, image, maps):
    """A map of the corpus carried on to the pixels: gradient x input of the cells' strengths, each
    cell worth its entry of the map.

    features: image (B, 1, H, W) -> corpus (B, C, h, w), such as `backbone.features`; maps (B, h, w)
    -> (B, H, W), signed. A cell's strength is the sum of its channels. Sums to the sum of the maps
    in a network of convolutions, ReLU and pooling without bias, where no cell is 0; BatchNorm's
    shifts take a share of their own. A pixel of mid grey is 0 to the network and gets nothing.
    """
    with _graph():
        image = image.detach().clone().requires_grad_()
        strength = features(image).sum(1)  # (B, h, w)
        value = (maps * strength / strength.detach().clamp(min=1e-6)).sum()
        return (image * torch.autograd.grad(value, image)[0]).detach().sum(1)
