"""Measures of a saliency map, image by image: where it points, and whether the model agrees.

A map is read as it would be shown: enlarged bilinearly to S, and only its positive part counts as
mass. What a map does not allow, such as the mass of an empty one, is NaN.

B images, C channels of the corpus, h w its grid, S px of the masks.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from scipy import stats

from cxrkit.explain.chunks import CHUNK, device_for, slices
from cxrkit.explain.methods import upsample
from cxrkit.models.corpus_vit import CorpusViT


def near(
    lesion: np.ndarray | torch.Tensor, grid: tuple[int, int], tolerance: float = 1.0
) -> np.ndarray:
    """Cells whose middle lies within `tolerance` cells of the lesion, to each side.

    Args:
        lesion: bool (B, S, S).
        grid: (h, w).
        tolerance: in cells; 0.5 asks that the lesion reach into the cell itself.

    Returns:
        bool (B, h, w).

    Raises:
        ValueError: the tolerance is below 0.5, where a lesion could hide between the middles.
    """
    if tolerance < 0.5:
        raise ValueError(f"tolerance {tolerance}: at least 0.5, the cell itself")
    h, w = grid
    mask = torch.as_tensor(lesion, dtype=torch.float32)[:, None]  # (B, 1, S, S)
    fine = F.adaptive_max_pool2d(mask, (16 * h, 16 * w))  # (B, 1, 16h, 16w)
    r = round(16 * tolerance)
    return F.max_pool2d(fine, 2 * r, stride=16, padding=r - 8)[:, 0].numpy() > 0


def pointing(
    maps: torch.Tensor, lesion: np.ndarray | torch.Tensor, tolerance: float = 1.0
) -> np.ndarray:
    """Pointing game: 1 where the map's strongest point is near the lesion, else 0.

    That point is the middle of the strongest cell, where the enlarged map peaks. A constant map
    points nowhere and misses.

    Args:
        maps: (B, h, w).
        lesion: bool (B, S, S).
        tolerance: in cells (`near`).

    Returns:
        (B,).
    """
    flat = torch.as_tensor(maps).flatten(1).numpy()  # (B, h*w)
    cells = near(lesion, maps.shape[-2:], tolerance).reshape(len(flat), -1)  # (B, h*w)
    hit = cells[np.arange(len(flat)), flat.argmax(1)]
    varies = np.ptp(flat, axis=1) > 0
    return (hit & varies).astype(float)


def mass(maps: torch.Tensor, mask: np.ndarray) -> np.ndarray:
    """Share of the positive part of the enlarged map that lies in a mask.

    Args:
        maps: (B, h, w).
        mask: bool (B, S, S).

    Returns:
        (B,), NaN for a map without positive part.
    """
    positive = torch.as_tensor(maps).clamp(min=0)
    large = upsample(positive, mask.shape[-2:]).double().numpy()  # (B, S, S)
    inside, total = (large * mask).sum((1, 2)), large.sum((1, 2))
    share = np.full(len(large), np.nan)
    return np.divide(inside, total, out=share, where=total > 0)


def map_size(maps: torch.Tensor) -> np.ndarray:
    """How much a map says in favour of its output: the sum of its positive part.

    Args:
        maps: (..., h, w).

    Returns:
        (...).
    """
    return torch.as_tensor(maps).clamp(min=0).double().sum((-2, -1)).numpy()


def centred_ranks(maps: torch.Tensor) -> np.ndarray:
    """Ranks of the cells of each map minus their mean: (B, h, w) -> (B, h*w)."""
    ranks = stats.rankdata(torch.as_tensor(maps).flatten(1).numpy(), axis=1)
    return ranks - ranks.mean(1, keepdims=True)


def rank_correlation(a: torch.Tensor, b: torch.Tensor) -> np.ndarray:
    """Spearman's correlation of two maps, image by image.

    Args:
        a: maps (B, h, w).
        b: others of the same images.

    Returns:
        (B,), NaN where a map is constant.
    """
    ranks_a, ranks_b = centred_ranks(a), centred_ranks(b)
    scale = np.sqrt((ranks_a**2).sum(1) * (ranks_b**2).sum(1))
    correlation = np.full(len(scale), np.nan)
    return np.divide((ranks_a * ranks_b).sum(1), scale, out=correlation, where=scale > 0)


@torch.no_grad()
def removal(
    score: Callable[[torch.Tensor], torch.Tensor],
    corpus: torch.Tensor,
    maps: torch.Tensor,
    steps: int = 8,
    *,
    device: torch.device | None = None,
    chunk: int = CHUNK,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Deletion and insertion (Petsiuk et al. 2018) on the cells of the corpus.

    Cells go in the order of a map; a deleted cell becomes the image's mean cell. Insertion is
    deletion in the opposite order read backwards.

    Args:
        score: corpus of a chunk, on the device -> (B,), such as the probability of a class.
        corpus: (B, C, h, w).
        maps: (B, h, w).
        steps: into which the cells are divided.
        device: where the model of `score` lies; default: `pick_device()`.
        chunk: images that are scored at once.

    Returns:
        Both curves, (B, steps + 1) each, at 0, 1/steps ... 1 of the cells, on the CPU.
    """
    device = device_for(corpus, device)
    deletion, insertion = [], []
    for part in slices(len(corpus), chunk):
        cells = corpus[part].to(device)  # (b, C, h, w) of the chunk
        order = maps[part].flatten(1).to(device).argsort(dim=1, descending=True, stable=True)
        strongest_first = order.argsort(dim=1)  # (b, h*w): 0 = strongest
        weakest_first = order.shape[1] - 1 - strongest_first
        deletion.append(deletion_curve(score, cells, strongest_first, steps).cpu())
        insertion.append(deletion_curve(score, cells, weakest_first, steps).flip(1).cpu())
    return torch.cat(deletion), torch.cat(insertion)


def deletion_curve(
    score: Callable[[torch.Tensor], torch.Tensor],
    corpus: torch.Tensor,
    rank: torch.Tensor,
    steps: int,
) -> torch.Tensor:
    """Score while cells are deleted by their rank (B, h*w), 0 first: (B, steps + 1)."""
    B, _, h, w = corpus.shape
    mean = corpus.mean((2, 3), keepdim=True)  # (B, C, 1, 1)
    heights = []
    for step in range(steps + 1):
        deleted = (rank < round(step / steps * h * w)).view(B, 1, h, w)
        heights.append(score(torch.where(deleted, mean, corpus)))
    return torch.stack(heights, dim=1)


def area(curve: torch.Tensor) -> np.ndarray:
    """Mean height of curves at equal distances, by trapezoids: (B, steps + 1) -> (B,)."""
    return ((curve[:, :-1] + curve[:, 1:]) / 2).mean(1).numpy()


def cascade(model: CorpusViT, seed: int = 0) -> Iterator[tuple[str, CorpusViT]]:
    """One copy of the model with ever more of its weights shuffled, from the head down.

    The cascading randomisation of Adebayo et al. 2018. Each tensor keeps its values and loses their
    order.

    Args:
        model: the corpus ViT; it is not touched.
        seed: of the order.

    Yields:
        Name of the part that was shuffled last, and the copy, the same one each time.
    """
    model = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    parts = {"head": [*model.norm.parameters(), *model.head.parameters()]}
    for i in reversed(range(len(model.blocks))):
        parts[f"block {i}"] = list(model.blocks[i].parameters())
    parts["projection"] = [model.cls_token, model.pos_embed, *model.patch_embed.parameters()]
    for name, tensors in parts.items():
        for tensor in tensors:
            order = torch.randperm(tensor.numel(), generator=generator).to(tensor.device)
            tensor.data = tensor.data.flatten()[order].view_as(tensor)
        yield name, model
