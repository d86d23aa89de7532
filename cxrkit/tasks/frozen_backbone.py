"""Training on a frozen backbone: batches hold the corpus of each image, which is computed once.

B batch, C channels, h w grid.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
import torch
from torch import nn

from cxrkit.data.corpus_cache import CachedCorpora, cached_corpora
from cxrkit.data.datasets import CXRDataset
from cxrkit.storage.artifacts import Store
from cxrkit.training import loop

PART = 256  # corpora in memory at once


class CorpusDataset:
    """Images of a table as the corpora of a frozen backbone, with what is known of the images.

    A batch holds `features` (B, C, h, w) in place of `image`. With `flip` some are mirrored, cells,
    lung mask and array alike: the backbone would make nearly the same of the mirror image.

    Args:
        images: gives all but the corpora.
        corpora: of the same images, in their order.
        flip: chance that an image is mirrored, drawn from torch's generator.
    """

    def __init__(self, images: CXRDataset, corpora: CachedCorpora, flip: float = 0.0) -> None:
        self.images, self.corpora, self.flip = images, corpora, flip

    def __len__(self) -> int:
        return len(self.corpora)

    def batch(self, indices: Sequence[int]) -> dict[str, torch.Tensor]:
        """Corpora of some images with their labels: dict of tensors (B, ...)."""
        flips = torch.rand(len(indices)) < self.flip  # (B,)
        batch = self.images.labels(indices)
        for name in ("array", "lung_mask"):
            if name in batch:
                batch[name] = _mirrored(batch[name], flips)
        return {"features": _mirrored(self.corpora.gather(indices), flips), **batch}

    __getitems__ = batch  # a DataLoader asks for whole batches by this name


def _mirrored(values: torch.Tensor, flips: torch.Tensor) -> torch.Tensor:
    """Rows (B, ..., w) of which those with flips (B,) are mirrored."""
    which = flips.reshape(-1, *[1] * (values.dim() - 1))
    return torch.where(which, values.flip(-1), values)


def digest(module: nn.Module) -> str:
    """Hash of all weights of a module, which names them in the cache."""
    found = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        found.update(name.encode())
        found.update(value.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()[:16]


def corpora_of(
    model: nn.Module,
    images: CXRDataset,
    table: pd.DataFrame,
    store: Store,
    device: torch.device | None = None,
) -> CachedCorpora:
    """The corpora of all images of a table, from the cache where they are known.

    Args:
        model: its `features` are frozen.
        images: of the table, without augmentation.
        table: with `path`.
        store: where the cache lies.
        device: where missing ones are computed.
    """
    identity = {
        "backbone": digest(model.features),
        "size": images.size,
        **{
            name: getattr(images.choices, name)
            for name in ("resize", "order", "stretch", "working_size", "normalize")
        },
    }

    def forward(model: nn.Module, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"features": model.features(batch["image"])}

    def compute(rows: np.ndarray) -> Iterator[np.ndarray]:
        part = torch.utils.data.Subset(images, rows.tolist())
        outputs = loop.outputs(model, part, ("features",), batch=16, device=device, forward=forward)
        for output in outputs:
            yield output["features"].numpy()  # (B, C, h, w)

    return cached_corpora(table["path"].tolist(), identity, compute, store)


def corpus_dataset(
    model: nn.Module,
    images: CXRDataset,
    table: pd.DataFrame,
    store: Store,
    device: torch.device | None = None,
    flip: float = 0.0,
) -> CorpusDataset:
    """`CorpusDataset` of a table; arguments as for `corpora_of`."""
    return CorpusDataset(images, corpora_of(model, images, table, store, device), flip)


def mean_and_maximum(corpora: CachedCorpora) -> np.ndarray:
    """Mean and maximum over the cells of each corpus: what a linear model of features reads.

    Args:
        corpora: of n images (`corpora_of`).

    Returns:
        float32 (n, 2 C).
    """
    rows, n = [], len(corpora)
    for start in range(0, n, PART):
        corpus = corpora.gather(range(start, min(start + PART, n)))  # (n, C, h, w)
        rows.append(torch.cat([corpus.mean((2, 3)), corpus.amax((2, 3))], 1).numpy())
    return np.concatenate(rows)
