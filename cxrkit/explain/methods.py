"""Methods: `METHODS[name](model, inputs, target)` explains an output of the corpus ViT.

They are relevance and what it is compared with. Every method takes what `relevance` takes: the
corpus (B, C, h, w), a target (`targets`), a device and a chunk; it returns (B, h, w), for a
sequence of n classes (B, n, h, w), on the CPU. Weights, gradients and mode of the model are not
touched.

B batch, C channels of the corpus, h w its grid, T = 1 + h*w tokens, D embed, N heads.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import nn

from cxrkit.explain.attention_lrp import attnlrp
from cxrkit.explain.chunks import (
    CHUNK,
    device_for,
    explain_in_chunks,
    gradients_on,
    move,
    slices,
)
from cxrkit.explain.deep_taylor import MeanTokens, prefix_of, recorded, relevance
from cxrkit.explain.targets import Target, asks_for_several, explained_values
from cxrkit.models.corpus_vit import CorpusViT

__all__ = [
    "METHODS",
    "CLASS_INDEPENDENT",
    "DEFAULT_METHOD",
    "Explanation",
    "through_backbone",
    "upsample",
]


class Explanation(Protocol):
    """What an entry of METHODS is; beside these arguments it may have options of its own."""

    def __call__(
        self,
        model: CorpusViT,
        inputs: torch.Tensor,
        target: Target,
        *,
        device: torch.device | None = None,
        chunk: int = CHUNK,
    ) -> torch.Tensor:
        """Explain outputs of a model.

        Args:
            model: the corpus ViT; it is moved to `device` and stays there.
            inputs: the corpus, (B, C, h, w).
            target: see `targets`.
            device: where to compute; default: `pick_device()`.
            chunk: images that are explained at once.

        Returns:
            (B, h, w), or (B, n, h, w) for a sequence of n classes, on the CPU.
        """
        ...


def in_chunks(method: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Make an entry of METHODS from a function that explains one chunk for one target an image."""

    @functools.wraps(method)
    def explain(
        model: CorpusViT,
        inputs: torch.Tensor,
        target: Target,
        *,
        device: torch.device | None = None,
        chunk: int = CHUNK,
        **options: Any,
    ) -> torch.Tensor:
        def explain_chunk(part: torch.Tensor, target: Target) -> torch.Tensor:
            if not asks_for_several(target):
                return method(model, part, target, **options)
            maps = [method(model, part, one, **options) for one in target]
            return torch.stack(maps, dim=1)  # (B, n, h, w)

        return explain_in_chunks(explain_chunk, model, inputs, target, device, chunk)

    # `help` shows the options of the method, then device and chunk
    added = inspect.signature(explain, follow_wrapped=False).parameters
    named = inspect.signature(method).parameters
    shared = [added["device"], added["chunk"]]
    explain.__signature__ = inspect.Signature([*named.values(), *shared])
    return explain


def gradient_of(model: CorpusViT, inputs: torch.Tensor, target: Target) -> torch.Tensor:
    """Gradient of the explained value with respect to the corpus, (B, C, h, w)."""
    with gradients_on():
        inputs = inputs.detach().clone().requires_grad_()
        value = explained_values(model(inputs), target)[0].sum()
        return torch.autograd.grad(value, inputs)[0]


def attention_of(model: CorpusViT, inputs: torch.Tensor) -> list[torch.Tensor]:
    """Attention matrices of every block, (B, N, T, T) each."""
    with torch.inference_mode(False), torch.no_grad(), recorded(model) as seen:
        model(inputs.clone())
    return [seen[block.attn.softmax][1] for block in model.blocks]


def attention_and_gradients(
    model: CorpusViT, inputs: torch.Tensor, target: Target
) -> tuple[list[torch.Tensor], tuple[torch.Tensor, ...]]:
    """Attention matrices of every block, and the gradient of the explained value at each.

    All are (B, N, T, T).
    """
    with gradients_on(), recorded(model) as seen:
        outputs = model(inputs.detach().clone().requires_grad_())
        matrices = [seen[block.attn.softmax][1] for block in model.blocks]
        value = explained_values(outputs, target)[0].sum()
        gradients = torch.autograd.grad(value, matrices)
    return [matrix.detach() for matrix in matrices], gradients


def roll_out(model: CorpusViT, matrices: Sequence[torch.Tensor]) -> torch.Tensor:
    """Row that the head reads, in the product of matrices from the last block down.

    It is the row of the class token, itself left out.

    Args:
        model: the corpus ViT.
        matrices: of each block, (B, T, T).

    Returns:
        (B, h, w).
    """
    row = matrices[-1][:, :1]  # (B, 1, T)
    if isinstance(model.select, MeanTokens):
        row = matrices[-1][:, prefix_of(model) :].mean(1, keepdim=True)
    for matrix in reversed(matrices[:-1]):
        row = row @ matrix
    return row[:, 0, prefix_of(model) :].unflatten(1, model.grid)


@in_chunks
def raw_attention(model: CorpusViT, inputs: torch.Tensor, target: Target) -> torch.Tensor:
    """Where the class token looks in the last block, mean over heads; the same for every class."""
    last = attention_of(model, inputs)[-1]  # (B, N, T, T)
    return roll_out(model, [last.mean(1)])


@in_chunks
def rollout(model: CorpusViT, inputs: torch.Tensor, target: Target) -> torch.Tensor:
    """Attention rollout (Abnar & Zuidema 2020); the same for every class.

    Product over blocks of (A + I) / 2, A the mean over heads.
    """
    matrices = attention_of(model, inputs)
    identity = torch.eye(matrices[0].shape[-1], dtype=inputs.dtype, device=inputs.device)
    return roll_out(model, [(matrix.mean(1) + identity) / 2 for matrix in matrices])


@in_chunks
def gradient_rollout(model: CorpusViT, inputs: torch.Tensor, target: Target) -> torch.Tensor:
    """Gradient-weighted rollout (Chefer et al. 2021), without relevance rules.

    Product over blocks of I + mean over heads of max(gradient x attention, 0).
    """
    matrices, gradients = attention_and_gradients(model, inputs, target)
    identity = torch.eye(matrices[0].shape[-1], dtype=inputs.dtype, device=inputs.device)
    steps = []
    for matrix, gradient in zip(matrices, gradients, strict=True):
        steps.append(identity + (gradient * matrix).clamp(min=0).mean(1))  # (B, T, T)
    return roll_out(model, steps)


@in_chunks
def attention_gradcam(model: CorpusViT, inputs: torch.Tensor, target: Target) -> torch.Tensor:
    """Grad-CAM with the last block's heads as channels.

    The class token's attention, each head weighted by its mean gradient; positive part.
    """
    matrices, gradients = attention_and_gradients(model, inputs, target)
    read, cells = [0], slice(prefix_of(model), None)
    if isinstance(model.select, MeanTokens):
        read = cells
    row = matrices[-1][:, :, read, cells].mean(2)  # (B, N, h*w)
    slope = gradients[-1][:, :, read, cells].mean(2)  # (B, N, h*w)
    weighted = row * slope.mean(-1, keepdim=True)
    return weighted.mean(1).clamp(min=0).unflatten(1, model.grid)


@in_chunks
def gradcam(model: CorpusViT, inputs: torch.Tensor, target: Target) -> torch.Tensor:
    """Grad-CAM on the corpus (Selvaraju et al. 2017).

    Channels weighted by their mean gradient; positive part.
    """
    weight = gradient_of(model, inputs, target).mean((2, 3), keepdim=True)  # (B, C, 1, 1)
    return (weight * inputs).sum(1).clamp(min=0)


@in_chunks
def gradient_x_input(model: CorpusViT, inputs: torch.Tensor, target: Target) -> torch.Tensor:
    """Gradient x input, over channels: AttnLRP without its rules. Signed."""
    return (gradient_of(model, inputs, target) * inputs).sum(1)


@in_chunks
def smoothgrad(
    model: CorpusViT,
    inputs: torch.Tensor,
    target: Target,
    samples: int = 16,
    noise: float = 0.15,
    seed: int = 0,
) -> torch.Tensor:
    """Size of the mean gradient under noise (Smilkov et al. 2017), summed over channels.

    noise: standard deviation, as a part of each image's range. All images see the same noise.
    """
    generator = torch.Generator().manual_seed(seed)  # on the CPU: the same noise on any device
    largest = inputs.amax((1, 2, 3), keepdim=True)
    smallest = inputs.amin((1, 2, 3), keepdim=True)
    sigma = noise * (largest - smallest)  # (B, 1, 1, 1)
    total = torch.zeros_like(inputs)
    for _ in range(samples):
        draw = torch.randn(inputs.shape[1:], generator=generator, dtype=inputs.dtype)  # (C, h, w)
        total += gradient_of(model, inputs + sigma * draw.to(inputs.device), target)
    return (total / samples).abs().sum(1)


@in_chunks
def integrated_gradients(
    model: CorpusViT, inputs: torch.Tensor, target: Target, steps: int = 16
) -> torch.Tensor:
    """Integrated gradients (Sundararajan et al. 2017) from an all-zero corpus, over channels.

    By the midpoint rule. A map sums to the value minus the value at zero.
    """
    total = torch.zeros_like(inputs)
    for step in range(steps):
        total += gradient_of(model, inputs * ((step + 0.5) / steps), target)
    return (inputs * total / steps).sum(1)


@in_chunks
@torch.no_grad()
def occlusion(
    model: CorpusViT, inputs: torch.Tensor, target: Target, window: int = 3
) -> torch.Tensor:
    """How much the value falls when `window` x `window` cells are set to 0.

    Mean over the windows that cover a cell.
    """
    B, _, h, w = inputs.shape
    drop = torch.zeros(B, h, w, dtype=inputs.dtype, device=inputs.device)
    covered = torch.zeros_like(drop)
    visible = explained_values(model(inputs), target)[0]  # (B,)
    for top in range(max(h - window, 0) + 1):
        for left in range(max(w - window, 0) + 1):
            rows, columns = slice(top, top + window), slice(left, left + window)
            hidden = inputs.clone()
            hidden[:, :, rows, columns] = 0
            fall = visible - explained_values(model(hidden), target)[0]  # (B,)
            drop[:, rows, columns] += fall[:, None, None]
            covered[:, rows, columns] += 1
    return drop / covered


@in_chunks
def fullgrad(model: CorpusViT, inputs: torch.Tensor, target: Target) -> torch.Tensor:
    """FullGrad (Srinivas & Fleuret 2019): sizes of gradient x input and gradient x bias, unscaled.

    Covers the biases of the projection, all linear layers and LayerNorms of the blocks and the
    learned positions, at every token. GELU, softmax and LayerNorm have implicit biases that are not
    covered, so the parts do not sum to the output; nor are the map head's.
    """
    with gradients_on(), recorded(model) as seen:
        inputs = inputs.detach().clone().requires_grad_()
        value = explained_values(model(inputs), target)[0].sum()
        layers = {}
        for module, (_, output) in seen.items():
            if isinstance(module, (nn.Linear, nn.LayerNorm)) and output.ndim == 3:
                layers[module] = output  # (B, T, ...)
        (first,), _ = seen[model.blocks[0].norm1]  # (B, T, D)
        at_inputs, at_first, *at_layers = torch.autograd.grad(
            value, [inputs, first, *layers.values()], allow_unused=True
        )
    pairs = [(model.pos_embed + model.patch_embed.proj.bias, at_first)]
    for layer, gradient in zip(layers, at_layers, strict=True):
        pairs.append((layer.bias, gradient))
    of_biases = sum(
        (bias * gradient).detach().abs().sum(-1) for bias, gradient in pairs if gradient is not None
    )  # (B, T)
    of_inputs = (at_inputs * inputs.detach()).sum(1).abs()  # (B, h, w)
    return of_inputs + of_biases[:, prefix_of(model) :].unflatten(1, model.grid)


def random(
    model: CorpusViT,
    inputs: torch.Tensor,
    target: Target,
    *,
    device: torch.device | None = None,
    chunk: int = CHUNK,
    seed: int = 0,
) -> torch.Tensor:
    """Uniform noise, which a method must exceed; generated on the CPU for all images at once."""
    generator = torch.Generator().manual_seed(seed)
    maps = torch.rand(len(inputs), *model.grid, generator=generator).to(inputs.dtype)
    if not asks_for_several(target):
        return maps
    return torch.stack([maps] * len(target), dim=1)


METHODS: dict[str, Explanation] = {
    "relevance": relevance,
    "attnlrp": attnlrp,
    "raw_attention": raw_attention,
    "rollout": rollout,
    "gradient_rollout": gradient_rollout,
    "attention_gradcam": attention_gradcam,
    "gradcam": gradcam,
    "gradient_x_input": gradient_x_input,
    "smoothgrad": smoothgrad,
    "integrated_gradients": integrated_gradients,
    "occlusion": occlusion,
    "fullgrad": fullgrad,
    "random": random,
}
# Best in deletion and insertion on real films, and cheaper than relevance: docs/explain.md
DEFAULT_METHOD = "attnlrp"
CLASS_INDEPENDENT = ("raw_attention", "rollout", "random")  # the same map for every class


def upsample(maps: torch.Tensor, size: int | Sequence[int]) -> torch.Tensor:
    """Enlarge maps bilinearly.

    Args:
        maps: (..., h, w).
        size: px of a square, or (H, W).

    Returns:
        (..., H, W).
    """
    size = (size, size) if isinstance(size, int) else tuple(size)
    flat = maps.reshape(-1, 1, *maps.shape[-2:])
    large = F.interpolate(flat, size, mode="bilinear", align_corners=False)
    return large.view(*maps.shape[:-2], *size)


def through_backbone(
    features: nn.Module,
    image: torch.Tensor,
    maps: torch.Tensor,
    *,
    device: torch.device | None = None,
    chunk: int = CHUNK,
) -> torch.Tensor:
    """Carry a map of the corpus on to the pixels.

    Gradient x input of the cells' strengths, each cell worth its entry of the map; a cell's
    strength is the sum of its channels. Sums to the sum of the maps in a network of convolutions,
    ReLU and pooling without bias, where no cell is 0; BatchNorm's shifts take a share of their own.
    A pixel of mid grey is 0 to the network and gets nothing.

    Args:
        features: image (B, 1, H, W) -> corpus (B, C, h, w), such as `backbone.features`; it is
            moved to `device` and stays there.
        image: (B, 1, H, W), as the network reads it.
        maps: (B, h, w).
        device: where to compute; default: `pick_device()`.
        chunk: images of one pass.

    Returns:
        (B, H, W), signed, on the CPU.
    """
    device = device_for(image, device)
    move(features, device)
    pixels = []
    for part in slices(len(image), chunk):
        with gradients_on():
            pixel = image[part].detach().to(device).clone().requires_grad_()
            strength = features(pixel).sum(1)  # (B, h, w)
            share = strength / strength.detach().clamp(min=1e-6)
            value = (maps[part].to(device) * share).sum()
            gradient = torch.autograd.grad(value, pixel)[0]  # (B, 1, H, W)
        pixels.append((pixel * gradient).detach().sum(1).cpu())
    return torch.cat(pixels)
