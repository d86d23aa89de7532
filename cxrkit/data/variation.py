"""Random changes that a segmenter must be robust to: crop, mirror, grey scale, disease.

Images of one hospital look alike, and a network trained on them alone segments others badly.
Each image of a batch is changed at random, its mask along with it.

B batch, S image size; images are one channel in [-1, 1]; masks are uint8 of 0, 127 (ignore), 255.
Random numbers come from torch's own generator.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F


def vary(image: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Random copies of images and their masks.

    Args:
        image: (B, 1, S, S) in [-1, 1].
        mask: (B, S, S) of 0, 127, 255.

    Returns:
        The same shapes and ranges.
    """
    image, mask = move(image, mask)
    return regrade(opacify(image, mask)), mask


def uniform(n: int, low: float, high: float) -> torch.Tensor:
    """Uniform random numbers from [low, high): (n,)."""
    return low + (high - low) * torch.rand(n)


def move(image: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Rotate, zoom, stretch, shift and mirror images and masks alike.

    15 degrees, zoom 0.75 to 1.3, shift by 10 % of the side; half of the images are mirrored.
    Outside of the image lies an even black, grey or white, which is no lung: many images come in
    such a frame.

    Args:
        image: (B, 1, S, S) in [-1, 1].
        mask: (B, S, S) of 0, 127, 255.

    Returns:
        The same shapes and ranges.
    """
    n = len(image)
    angle = uniform(n, -0.26, 0.26)
    zoom = uniform(n, math.log(0.75), math.log(1.3)).exp()
    stretch = uniform(n, -0.12, 0.12).exp()
    mirror = torch.where(torch.rand(n) < 0.5, -1.0, 1.0)
    across, down = angle.cos() / zoom, angle.sin() / zoom  # of the output's axes in the input
    first = [mirror * across * stretch, -down * stretch, uniform(n, -0.2, 0.2)]
    second = [mirror * down / stretch, across / stretch, uniform(n, -0.2, 0.2)]
    theta = torch.stack([torch.stack(first, dim=1), torch.stack(second, dim=1)], dim=1)  # (B, 2, 3)
    grid = F.affine_grid(theta, image.shape, align_corners=False)  # (B, S, S, 2)
    outside = (grid.abs() > 1).any(dim=-1)  # (B, S, S)
    moved = F.grid_sample(image, grid, padding_mode="border", align_corners=False)
    frame = uniform(n, -1.5, 1.5).clamp(-1, 1)[:, None, None, None]
    moved = torch.where(outside[:, None], frame, moved)  # (B, 1, S, S)
    planes = mask[:, None].float()  # (B, 1, S, S)
    moved_mask = F.grid_sample(planes, grid, mode="nearest", align_corners=False)[:, 0]
    return moved, moved_mask.to(torch.uint8)


def opacify(image: torch.Tensor, mask: torch.Tensor, chance: float = 0.5) -> torch.Tensor:
    """Paint clouds as bright as the chest wall into the lungs of some images.

    They stand for consolidation, which the mask must not leave out.

    Args:
        image: (B, 1, S, S) in [-1, 1].
        mask: (B, S, S) of 0, 127, 255.
        chance: that an image gets clouds.

    Returns:
        (B, 1, S, S).
    """
    n, size = len(image), image.shape[-1]
    clouds = 0
    for cells in (3, 5, 9):
        noise = torch.randn(n, 1, cells, cells)
        clouds = clouds + F.interpolate(noise, (size, size), mode="bicubic")
    level = uniform(n, -1, 2)[:, None, None, None]
    strength = uniform(n, 0.3, 1)[:, None, None, None]
    density = torch.sigmoid(4 * (clouds - level)) * strength
    density = density * (torch.rand(n) < chance)[:, None, None, None]  # (B, 1, S, S)
    lung = (mask == 255)[:, None].to(image.dtype)
    lung = F.avg_pool2d(lung, 5, stride=1, padding=2)  # (B, 1, S, S), soft at the border
    wall = (mask == 0)[:, None]
    mean = (image * wall).sum((1, 2, 3)) / wall.sum((1, 2, 3)).clamp(min=1)  # (B,)
    bright = (mean + uniform(n, -0.1, 0.5))[:, None, None, None].clamp(max=1)
    return image + density * lung * (bright - image).clamp(min=0)


def regrade(image: torch.Tensor) -> torch.Tensor:
    """The image as another scanner shows it: equalised or not, window, gamma, blur, noise.

    Args:
        image: (B, 1, S, S) in [-1, 1].

    Returns:
        The same shape and range.
    """
    n, shape = len(image), (len(image), 1, 1, 1)
    grey = (image + 1) / 2
    equalized = (torch.rand(n) < 0.25).view(shape)
    grey = torch.where(equalized, equalize(grey), grey)
    low, high = uniform(n, -0.15, 0.25).view(shape), uniform(n, 0.75, 1.15).view(shape)
    gamma = uniform(n, -0.6, 0.6).exp().view(shape)
    grey = ((grey - low) / (high - low)).clamp(0, 1) ** gamma
    blurred = (torch.rand(n) < 0.3).view(shape)
    soft = F.avg_pool2d(grey, 3, stride=1, padding=1, count_include_pad=False)
    grey = torch.where(blurred, soft, grey)
    noise = uniform(n, 0, 0.06).view(shape) * torch.randn_like(grey)
    return ((grey + noise) * 2 - 1).clamp(-1, 1)


def equalize(grey: torch.Tensor) -> torch.Tensor:
    """Histogram equalisation of each image.

    Args:
        grey: (B, 1, S, S) in [0, 1].

    Returns:
        The share of its pixels that are darker or as dark, of 256 greys, (B, 1, S, S).
    """
    levels = (grey * 255).long().flatten(1)  # (B, S * S)
    ones = torch.ones_like(levels, dtype=torch.float32)
    counts = torch.zeros(len(grey), 256).scatter_add_(1, levels, ones)  # (B, 256)
    return (counts.cumsum(1) / levels.shape[1]).gather(1, levels).view_as(grey)
