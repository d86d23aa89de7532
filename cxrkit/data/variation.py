"""Variation: what a segmenter should not mind. Other crops and mirror images, other grey scales,
other disease.

Films of one hospital look alike, and a network taught by them alone draws badly elsewhere. Here
each film of a batch is changed at random, its mask along with it. B batch, S image size; images are
one channel in [-1, 1]; masks are uint8 of 0, 127 (ignore), 255.
"""

import math

import torch
import torch.nn.functional as F


def vary(image, mask):
    """Random copies: image (B, 1, S, S), mask (B, S, S) -> the same shapes and ranges, drawn from
    torch's own generator.
    """
    image, mask = move(image, mask)
    return regrade(opacify(image, mask)), mask


def uniform(n, low, high):
    """n numbers from [low, high): (n,)."""
    return low + (high - low) * torch.rand(n)


def move(image, mask):
    """Turn (15 deg), zoom (0.75-1.3), stretch, shift (10 % of the side) and mirror (half of the
    films) both alike.

    Outside the film lies an even black, grey or white, which is no lung: many films come in such a
    frame.
    """
    n = len(image)
    angle, zoom, stretch = (
        uniform(n, -0.26, 0.26),
        uniform(n, math.log(0.75), math.log(1.3)).exp(),
        uniform(n, -0.12, 0.12).exp(),
    )
    mirror = torch.where(torch.rand(n) < 0.5, -1.0, 1.0)
    across, down = angle.cos() / zoom, angle.sin() / zoom  # of the output's axes in the input
    theta = torch.stack(
        [
            torch.stack([mirror * across * stretch, -down * stretch, uniform(n, -0.2, 0.2)], dim=1),
            # (B, 2, 3)
            torch.stack([mirror * down / stretch, across / stretch, uniform(n, -0.2, 0.2)], dim=1),
        ],
        dim=1,
    )
    grid = F.affine_grid(theta, image.shape, align_corners=False)  # (B, S, S, 2)
    outside = (grid.abs() > 1).any(dim=-1)  # (B, S, S)
    moved = F.grid_sample(image, grid, padding_mode="border", align_corners=False)
    moved = torch.where(
        outside[:, None], uniform(n, -1.5, 1.5).clamp(-1, 1)[:, None, None, None], moved
    )
    drawn = F.grid_sample(mask[:, None].float(), grid, mode="nearest", align_corners=False)[:, 0]
    return moved, drawn.to(torch.uint8)


def opacify(image, mask, chance=0.5):
    """Paint clouds as bright as the chest wall into the lungs of some films: consolidation, which
    the mask must not leave out.
    """
    n, size = len(image), image.shape[-1]
    clouds = sum(
        F.interpolate(torch.randn(n, 1, k, k), (size, size), mode="bicubic") for k in (3, 5, 9)
    )
    density = (
        torch.sigmoid(4 * (clouds - uniform(n, -1, 2)[:, None, None, None]))
        * uniform(n, 0.3, 1)[:, None, None, None]
    )
    density = density * (torch.rand(n) < chance)[:, None, None, None]
    # (B, 1, S, S), soft at the border
    lung = F.avg_pool2d((mask == 255)[:, None].to(image.dtype), 5, stride=1, padding=2)
    wall = (mask == 0)[:, None]
    mean = (image * wall).sum((1, 2, 3)) / wall.sum((1, 2, 3)).clamp(min=1)
    bright = (mean + uniform(n, -0.1, 0.5))[:, None, None, None].clamp(max=1)
    return image + density * lung * (bright - image).clamp(min=0)


def regrade(image):
    """Another film and scanner: equalised (a quarter of the films) or not, window, gamma, blur,
    noise.
    """
    n, shape = len(image), (len(image), 1, 1, 1)
    grey = (image + 1) / 2
    grey = torch.where((torch.rand(n) < 0.25).view(shape), equalize(grey), grey)
    low, high = uniform(n, -0.15, 0.25).view(shape), uniform(n, 0.75, 1.15).view(shape)
    grey = ((grey - low) / (high - low)).clamp(0, 1) ** uniform(n, -0.6, 0.6).exp().view(shape)
    grey = torch.where(
        (torch.rand(n) < 0.3).view(shape),
        F.avg_pool2d(grey, 3, stride=1, padding=1, count_include_pad=False),
        grey,
    )
    return ((grey + uniform(n, 0, 0.06).view(shape) * torch.randn_like(grey)) * 2 - 1).clamp(-1, 1)


def equalize(grey):
    """Histogram equalisation of each film: (B, 1, S, S) in [0, 1] -> the share of its pixels that
    are darker or as dark, of 256 greys.
    """
    levels = (grey * 255).long().flatten(1)  # (B, S * S)
    counts = torch.zeros(len(grey), 256).scatter_add_(
        1, levels, torch.ones_like(levels, dtype=torch.float32)
    )
    return (counts.cumsum(1) / levels.shape[1]).gather(1, levels).view_as(grey)
