"""Tables of images -> tensors, from the image cache, so that no epoch decodes again.

B batch, S image size, K findings.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Sized
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from cxrkit.config.choices import Choices
from cxrkit.config.vocabulary import BRIXIA, DIAGNOSES, FINDINGS, ZONES
from cxrkit.data import lung_zones, preprocessing
from cxrkit.data.augmentation import augment_batch
from cxrkit.data.cache import cached_images

if TYPE_CHECKING:
    from cxrkit.config.sections import Profile
    from cxrkit.storage.artifacts import Store

Item = int | tuple[int, int]  # index of an image, or index and seed of its augmentation


def split_parts(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The parts of a table: "train", "val", "test", and "external", which is in none of the others.

    Args:
        table: with the columns `split` and `external`.
    """
    external = table["external"].astype(bool)
    parts = {}
    for name in ("train", "val", "test"):
        parts[name] = table[~external & (table["split"] == name)].reset_index(drop=True)
    parts["external"] = table[external].reset_index(drop=True)
    return parts


def external_or_test(table: pd.DataFrame) -> pd.DataFrame:
    """The images of external hospitals, or, where there are none, those of the test split."""
    external = table["external"].astype(bool)
    if external.any():
        return table[external].reset_index(drop=True)
    return table[table["split"] == "test"].reset_index(drop=True)


def severity_arrays(table: pd.DataFrame, choices: Choices = Choices()) -> np.ndarray:
    """Severity arrays of a table: from its zones, else from its Brixia scores.

    Args:
        table: with the columns ZONES and BRIXIA.
        choices: `brixia_threshold` and `array_columns` are read.

    Returns:
        float32 (N, 3, 2) of 0/1, NaN where unknown.
    """
    zones = table[list(ZONES)].to_numpy(np.float32)  # (N, 6)
    from_zones = np.stack([zones[:, :3], zones[:, 3:]], -1)  # (N, 3, 2), column 0 = patient's right
    scores = table[list(BRIXIA)].to_numpy(np.float32)  # (N, 6)
    from_scores = lung_zones.brixia_to_array(scores, choices.brixia_threshold)  # (N, 3, 2)
    arrays = np.where(np.isnan(from_zones), from_scores, from_zones).astype(np.float32)
    if choices.array_columns == "patient_right":
        return arrays
    return arrays[:, :, ::-1].copy()


class CXRDataset(Dataset):
    """Images of a table with what is known of them, from the image cache.

    `dataset[i]` -> dict: `image` (1, S, S) float32; `findings` (K,), NaN unknown; `diagnosis`, -1
    unknown; `array` (3, 2), NaN unknown; `index`; with `masks` also `lung_mask` (S, S) uint8 of 0,
    127, 255.

    Args:
        table: as `read_manifest` gives it.
        size: S in pixels.
        choices: preprocessing, augmentation, and how severity arrays are read.
        train: augment by `choices.augmentation`; a flip swaps the columns of the array.
        flip: chance that an image is flipped.
        masks: give the lung masks too.
        kind: "image", or "grey" for the segmenter's input: plain resize, [-1, 1].
        store: where the cache lies.

    Raises:
        ImageError: images cannot be read; the message lists them.
    """

    def __init__(
        self,
        table: pd.DataFrame,
        size: int = 512,
        choices: Choices = Choices(),
        train: bool = False,
        flip: float = 0.2,
        masks: bool = False,
        kind: str = "image",
        store: Store | None = None,
    ) -> None:
        self.size, self.choices, self.kind, self.flip = size, choices, kind, flip
        self.augmentation = choices.augmentation if train else "none"
        self.images = cached_images(table["path"], size, choices, kind, store)
        self.masks = None
        if masks:
            placed = Choices() if kind == "grey" else choices  # a mask lies where its image does
            self.masks = cached_images(table["lung_mask"], size, placed, "lungs", store)
        self.findings = torch.tensor(table[list(FINDINGS)].to_numpy(np.float32))  # (N, K)
        codes = {name: code for code, name in enumerate(DIAGNOSES)}
        self.diagnosis = torch.tensor([codes.get(name, -1) for name in table["diagnosis"]])  # (N,)
        self.arrays = torch.tensor(severity_arrays(table, choices))  # (N, 3, 2)

    def __len__(self) -> int:
        return len(self.findings)

    def __getitem__(self, item: Item) -> dict[str, torch.Tensor]:
        return {name: values[0] for name, values in self.batch([item]).items()}

    def batch(self, items: Sequence[Item]) -> dict[str, torch.Tensor]:
        """Images with their labels.

        Args:
            items: each an index or (index, seed of its augmentation).

        Returns:
            dict of tensors (B, ...).
        """
        indices = [item[0] if isinstance(item, tuple) else item for item in items]
        seeds = [item[1] if isinstance(item, tuple) else None for item in items]
        images, masks, flips = augment_batch(
            self.images.gather(indices),
            None if self.masks is None else self.masks.gather(indices),
            self.augmentation,
            self.flip,
            seeds,
        )
        how = "signed" if self.kind == "grey" else self.choices.normalize
        # (B, 1, S, S)
        batch = {"image": torch.from_numpy(preprocessing.normalize_batch(images, how))[:, None]}
        batch |= self._known(indices)
        flipped = torch.from_numpy(flips)[:, None, None]  # (B, 1, 1)
        batch["array"] = torch.where(flipped, batch["array"].flip(-1), batch["array"])
        if self.masks is not None:
            batch["lung_mask"] = torch.from_numpy(masks)  # (B, S, S)
        return batch

    __getitems__ = batch  # a DataLoader asks for whole batches by this name

    def labels(self, indices: Sequence[int]) -> dict[str, torch.Tensor]:
        """`batch` without the images themselves, and without augmentation."""
        labels = self._known(indices)
        if self.masks is not None:
            labels["lung_mask"] = torch.from_numpy(self.masks.gather(indices))
        return labels

    def _known(self, indices: Sequence[int]) -> dict[str, torch.Tensor]:
        at = torch.tensor(indices)
        return {
            "findings": self.findings[at],  # (B, K)
            "diagnosis": self.diagnosis[at],  # (B,)
            "array": self.arrays[at],  # (B, 3, 2)
            "index": at,
        }


class SeededSampler(Sampler):
    """Shuffled (index, seed) pairs.

    The seed makes the augmentation of an image the same whichever worker does it.
    """

    def __init__(self, n: int, generator: torch.Generator) -> None:
        self.n, self.generator = n, generator

    def __len__(self) -> int:
        return self.n

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = torch.randperm(self.n, generator=self.generator)
        seeds = torch.randint(2**31, (self.n,), generator=self.generator)
        return iter(zip(order.tolist(), seeds.tolist(), strict=True))


def make_loader(
    dataset: Dataset | Sized,
    batch: int = 16,
    generator: torch.Generator | None = None,
    workers: int = 0,
) -> DataLoader:
    """DataLoader of a CXRDataset.

    For training, `training.fit` takes the dataset itself.

    Args:
        dataset: a CXRDataset.
        batch: B.
        generator: None = images in order; else they are shuffled and augmented as it alone decides.
        workers: processes that load; keep 0 in notebooks.
    """
    sampler = None if generator is None else SeededSampler(len(dataset), generator)
    return DataLoader(
        dataset,
        batch,
        sampler=sampler,
        num_workers=workers,
        persistent_workers=workers > 0,
        collate_fn=_unchanged,
    )


def _unchanged(batch: Any) -> Any:
    """`CXRDataset.batch` has put the batch together already."""
    return batch


def image_dataset(
    table: pd.DataFrame, profile: Profile, store: Store | None = None, augmented: bool = False
) -> CXRDataset:
    """Images of a table as the backbone of a profile sees them.

    Args:
        table: as `read_manifest` gives it.
        profile: its `image_size` and `choices` are read.
        store: where the image cache lies.
        augmented: augment by `choices.augmentation`.
    """
    return CXRDataset(table, profile.image_size, profile.choices, train=augmented, store=store)
