"""The court: which saliency map deserves belief? Every method is judged film by film, against the true lesion and against the model.

B films, C channels of the corpus, h w its grid, S px of the masks. A map is read as it would be shown: enlarged bilinearly to S,
and only its positive part counts as mass. Values that a map does not allow, such as the mass of an empty one, are NaN.
"""

import copy
import time
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from scipy import stats

from cxrkit import metrics
from cxrkit.saliency import METHODS, upsample

CRITERIA = {  # name -> what it measures, and whether more of it (+1) or less (-1) speaks for a method
    "pointing": ("pointing game: strongest cell touches the lesion", 1),
    "lesion": ("share of the map inside the lesion", 1),
    "lungs": ("share of the map inside the lungs", 1),
    "deletion": ("class probability, strongest cells deleted first (area)", -1),
    "insertion": ("class probability, strongest cells inserted first (area)", 1),
    "stability": ("rank correlation with the map of a noisier film", 1),
    "randomised": ("rank correlation with the map of shuffled weights", -1),
    "seconds": ("seconds a map", -1),
}


class Case(NamedTuple):
    """Films of one class with their truth, as one model sees them."""

    corpus: torch.Tensor  # (B, C, h, w)
    shaken: torch.Tensor  # (B, C, h, w), of the same films with a little noise
    lesion: np.ndarray  # bool (B, S, S)
    lungs: np.ndarray  # bool (B, S, S)
    groups: np.ndarray  # (B,) patients


def touched(lesion, grid):
    """Cells that a lesion reaches into: bool (B, S, S) -> bool (B, h, w)."""
    return F.adaptive_max_pool2d(torch.as_tensor(lesion, dtype=torch.float32)[:, None], grid)[:, 0].numpy() > 0


def pointing(maps, lesion):
    """1 where the strongest cell of the map touches the lesion, else 0: maps (B, h, w), lesion (B, S, S) -> (B,).

    The point is the middle of that cell, where the enlarged map peaks, and the tolerance half a cell to each side. A constant map
    points nowhere and misses.
    """
    flat = torch.as_tensor(maps).flatten(1).numpy()
    hit = np.take_along_axis(touched(lesion, maps.shape[-2:]).reshape(len(flat), -1), flat.argmax(1)[:, None], axis=1)[:, 0]
    return (hit & (np.ptp(flat, axis=1) > 0)).astype(float)


def mass(maps, mask):
    """Share of the positive part of the enlarged map that lies in a mask: maps (B, h, w), mask bool (B, S, S) -> (B,)."""
    large = upsample(torch.as_tensor(maps).clamp(min=0), mask.shape[-2:]).double().numpy()
    whole = large.sum((1, 2))
    return np.divide((large * mask).sum((1, 2)), whole, out=np.full(len(large), np.nan), where=whole > 0)


def rank_correlation(a, b):
    """Spearman's, film by film: maps (B, h, w) twice -> (B,); NaN for a constant map."""
    a, b = (stats.rankdata(torch.as_tensor(m).flatten(1).numpy(), axis=1) for m in (a, b))
    a, b = (m - m.mean(1, keepdims=True) for m in (a, b))
    scale = np.sqrt((a**2).sum(1) * (b**2).sum(1))
    return np.divide((a * b).sum(1), scale, out=np.full(len(a), np.nan), where=scale > 0)


@torch.no_grad()
def removal(score, corpus, maps, steps=8):
    """Deletion and insertion (Petsiuk et al. 2018) on the cells of the corpus, in the order of a map.

    A deleted cell becomes the film's mean cell. score: corpus (B, C, h, w) -> (B,). Returns both curves, (B, steps + 1) each, at
    0, 1/steps ... 1 of the cells; insertion is deletion in the opposite order read backwards.
    """
    B, C, h, w = corpus.shape
    mean = corpus.mean((2, 3), keepdim=True)
    place = maps.flatten(1).argsort(dim=1, descending=True, stable=True).argsort(dim=1)       # (B, h*w): 0 = strongest
    curves = []
    for order in (place, h * w - 1 - place):
        gone = [(order < round(step / steps * h * w)).view(B, 1, h, w) for step in range(steps + 1)]
        curves.append(torch.stack([score(torch.where(cells, mean, corpus)) for cells in gone], dim=1))
    return curves[0], curves[1].flip(1)


def area(curve):
    """Mean height of curves (B, steps + 1) at equal distances, by trapezoids -> (B,)."""
    return ((curve[:, :-1] + curve[:, 1:]) / 2).mean(1).numpy()


def cascade(model, seed=0):
    """One copy of the model with ever more of its weights shuffled, from the head down (Adebayo et al. 2018).

    Yields (name of the part just shuffled, the copy); each tensor keeps its values and loses their order.
    """
    model, generator = copy.deepcopy(model), torch.Generator().manual_seed(seed)
    parts = {"head": [*model.norm.parameters(), *model.head.parameters()]}
    parts |= {f"block {i}": list(model.blocks[i].parameters()) for i in reversed(range(len(model.blocks)))}
    parts["projection"] = [model.cls_token, model.pos_embed, *model.patch_embed.parameters()]
    for name, tensors in parts.items():
        for tensor in tensors:
            tensor.data = tensor.data.flatten()[torch.randperm(tensor.numel(), generator=generator)].view_as(tensor)
        yield name, model


def randomised(model, corpus, target, methods=METHODS, seed=0):
    """Rank correlation of each method's maps with those of the trained model, part after part of `cascade`.

    Returns a DataFrame: part, method, film, value.
    """
    before = {name: METHODS[name](model, corpus, target) for name in methods}
    return pd.concat([_rows(rank_correlation(before[name], METHODS[name](shuffled, corpus, target)), part=part, method=name)
                      for part, shuffled in cascade(model, seed) for name in methods], ignore_index=True)


def _rows(values, **names):
    return pd.DataFrame({**names, "film": range(len(values)), "value": values})


def judge(model, case, target, score, methods=METHODS, few=24):
    """Every method on every criterion and film: DataFrame method, criterion, film, group, value; `chance` where it is known.

    target: a class. score: corpus -> (B,) the probability of that class. The costly criteria, stability and randomised weights (all
    of them), are judged on the first `few` films.
    """
    corpus, grid, parts = case.corpus, case.corpus.shape[-2:], []
    chance = {"pointing": touched(case.lesion, grid).mean((1, 2)), "lesion": case.lesion.mean((1, 2)), "lungs": case.lungs.mean((1, 2))}
    parts += [_rows(value, method="chance", criterion=name) for name, value in chance.items()]
    *_, (_, shuffled) = cascade(model)
    for name in methods:
        start = time.perf_counter()
        maps = METHODS[name](model, corpus, target)
        seconds = (time.perf_counter() - start) / len(maps)
        deletion, insertion = removal(score, corpus, maps)
        values = {"pointing": pointing(maps, case.lesion), "lesion": mass(maps, case.lesion), "lungs": mass(maps, case.lungs),
                  "deletion": area(deletion), "insertion": area(insertion),
                  "stability": rank_correlation(maps[:few], METHODS[name](model, case.shaken[:few], target)),
                  "randomised": rank_correlation(maps[:few], METHODS[name](shuffled, corpus[:few], target)),
                  "seconds": np.full(len(maps), seconds)}
        parts += [_rows(value, method=name, criterion=criterion) for criterion, value in values.items()]
    rows = pd.concat(parts, ignore_index=True)
    return rows.assign(group=np.asarray(case.groups)[rows["film"]])


def verdict(rows, draws=1000):
    """Means with 95 % intervals over patients: `judge`'s rows -> DataFrame method, criterion, value, low, high, n.

    A film whose value is NaN is left out; n counts those that remain.
    """
    lines = []
    for (criterion, method), part in rows.dropna(subset="value").groupby(["criterion", "method"], sort=False):
        value, low, high = metrics.bootstrap(np.mean, part["value"].to_numpy(), groups=part["group"].to_numpy(), draws=draws)
        lines.append({"method": method, "criterion": criterion, "value": value, "low": low, "high": high, "n": len(part)})
    return pd.DataFrame(lines)
