"""Evidence: what can be measured on a saliency map, film by film: where it points, what lies in it,
whether the model agrees.

B films, C channels of the corpus, h w its grid, S px of the masks. A map is read as it would be
shown: enlarged bilinearly to S, and only its positive part counts as mass. What a map does not
allow, such as the mass of an empty one, is NaN.
"""

import copy

import numpy as np
import torch
import torch.nn.functional as F
from scipy import stats

from cxrkit.explain.methods import upsample


def near(lesion, grid, tolerance=1.0):
    """Cells whose middle lies within `tolerance` cells of the lesion, to each side: bool (B, S, S)
    -> bool (B, h, w).

    0.5 asks that the lesion reach into the cell itself. Raises ValueError below 0.5, where a lesion
    could hide between the middles.
    """
    if tolerance < 0.5:
        raise ValueError(f"tolerance {tolerance}: at least 0.5, the cell itself")
    h, w = grid
    fine = F.adaptive_max_pool2d(
        torch.as_tensor(lesion, dtype=torch.float32)[:, None], (16 * h, 16 * w)
    )
    r = round(16 * tolerance)
    return F.max_pool2d(fine, 2 * r, stride=16, padding=r - 8)[:, 0].numpy() > 0


def pointing(maps, lesion, tolerance=1.0):
    """1 where the map's strongest point is within `tolerance` cells of the lesion, else 0: maps (B,
    h, w), lesion (B, S, S) -> (B,).

    That point is the middle of the strongest cell, where the enlarged map peaks. A constant map
    points nowhere and misses.
    """
    flat = torch.as_tensor(maps).flatten(1).numpy()
    hit = np.take_along_axis(
        near(lesion, maps.shape[-2:], tolerance).reshape(len(flat), -1),
        flat.argmax(1)[:, None],
        axis=1,
    )[:, 0]
    return (hit & (np.ptp(flat, axis=1) > 0)).astype(float)


def mass(maps, mask):
    """Share of the positive part of the enlarged map that lies in a mask: maps (B, h, w), mask bool
    (B, S, S) -> (B,).
    """
    large = upsample(torch.as_tensor(maps).clamp(min=0), mask.shape[-2:]).double().numpy()
    whole = large.sum((1, 2))
    return np.divide(
        (large * mask).sum((1, 2)), whole, out=np.full(len(large), np.nan), where=whole > 0
    )


def rank_correlation(a, b):
    """Spearman's, film by film: maps (B, h, w) twice -> (B,); NaN for a constant map."""
    a, b = (stats.rankdata(torch.as_tensor(m).flatten(1).numpy(), axis=1) for m in (a, b))
    a, b = (m - m.mean(1, keepdims=True) for m in (a, b))
    scale = np.sqrt((a**2).sum(1) * (b**2).sum(1))
    return np.divide((a * b).sum(1), scale, out=np.full(len(a), np.nan), where=scale > 0)


@torch.no_grad()
def removal(score, corpus, maps, steps=8):
    """Deletion and insertion (Petsiuk et al. 2018) on the cells of the corpus, in the order of a
    map.

    A deleted cell becomes the film's mean cell. score: corpus (B, C, h, w) -> (B,). Returns both
    curves, (B, steps + 1) each, at 0, 1/steps ... 1 of the cells; insertion is deletion in the
    opposite order read backwards.
    """
    B, C, h, w = corpus.shape
    mean = corpus.mean((2, 3), keepdim=True)
    # (B, h*w): 0 = strongest
    place = maps.flatten(1).argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    curves = []
    for order in (place, h * w - 1 - place):
        gone = [(order < round(step / steps * h * w)).view(B, 1, h, w) for step in range(steps + 1)]
        curves.append(
            torch.stack([score(torch.where(cells, mean, corpus)) for cells in gone], dim=1)
        )
    return curves[0], curves[1].flip(1)


def area(curve):
    """Mean height of curves (B, steps + 1) at equal distances, by trapezoids -> (B,)."""
    return ((curve[:, :-1] + curve[:, 1:]) / 2).mean(1).numpy()


def cascade(model, seed=0):
    """One copy of the model with ever more of its weights shuffled, from the head down (Adebayo et
    al. 2018).

    Yields (name of the part just shuffled, the copy); each tensor keeps its values and loses their
    order.
    """
    model, generator = copy.deepcopy(model), torch.Generator().manual_seed(seed)
    parts = {"head": [*model.norm.parameters(), *model.head.parameters()]}
    parts |= {
        f"block {i}": list(model.blocks[i].parameters()) for i in reversed(range(len(model.blocks)))
    }
    parts["projection"] = [model.cls_token, model.pos_embed, *model.patch_embed.parameters()]
    for name, tensors in parts.items():
        for tensor in tensors:
            tensor.data = tensor.data.flatten()[
                torch.randperm(tensor.numel(), generator=generator)
            ].view_as(tensor)
        yield name, model
