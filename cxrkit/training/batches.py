"""Batches in a reproducible order that can be entered at any position: what a training draws from a
dataset.

A dataset is anything with `len` and `dataset[i]` -> dict of tensors; where it offers
`dataset.batch(indices)`, a whole batch is gathered at once.
"""

import functools
import itertools

import numpy as np
import torch
from torch.utils.data import DataLoader, default_collate


class Tensors(dict):
    """Tensors of equal length as a dataset, e.g. a cached corpus with its labels:
    `Tensors(features=..., target=...)`.
    """

    def __len__(self):
        return len(next(iter(self.values()), ()))

    def __getitem__(self, key):
        return super().__getitem__(key) if isinstance(key, str) else self.batch(key)

    def batch(self, indices):
        """Rows `indices` of every tensor: dict of (len(indices), ...)."""
        return {name: tensor[indices] for name, tensor in self.items()}


class Mapped(Tensors):
    """`Tensors` of which one, `name`, stays in a .npy file and is read batch by batch: it may be
    larger than the memory.
    """

    def __init__(self, file, name, **tensors):
        super().__init__(**tensors)
        self.file, self.name, self._open = file, name, None

    def __getstate__(self):
        # another process opens the file itself instead of receiving a copy of it
        return {**vars(self), "_open": None}

    def batch(self, indices):
        """As that of `Tensors`."""
        if self._open is None:
            self._open = np.load(self.file, mmap_mode="r")
        return {self.name: torch.from_numpy(self._open[indices]), **super().batch(indices)}


class Order:
    """Endless stream of indices: epoch after epoch of all `n`, shuffled anew by (seed, epoch).

    A batch may span two epochs, so every image is seen equally often whatever the batch. With
    `weights` (n,), an epoch is `n` draws with those chances instead. Raises ValueError for an empty
    dataset.
    """

    def __init__(self, n, seed, weights=None):
        if n == 0:
            raise ValueError(
                "the dataset is empty: check the split and the filters of its manifest"
            )
        self.n, self.seed = n, seed
        self.chances = (
            None if weights is None else np.asarray(weights, dtype=float) / np.sum(weights)
        )
        self.epoch = functools.lru_cache(maxsize=2)(self.epoch)

    def epoch(self, number):
        """Indices of one epoch, (n,)."""
        rng = np.random.default_rng([self.seed, number])
        return (
            rng.permutation(self.n)
            if self.chances is None
            else rng.choice(self.n, self.n, p=self.chances)
        )

    def take(self, start, count):
        """The `count` indices from position `start` of the stream."""
        return [int(self.epoch(i // self.n)[i % self.n]) for i in range(start, start + count)]


def fetch(dataset, indices):
    """Batch of the dataset: dict of (len(indices), ...)."""
    return (
        dataset.batch(indices)
        if hasattr(dataset, "batch")
        else default_collate([dataset[i] for i in indices])
    )


def to_device(batch, device):
    """Tensors of a batch on the device; other values stay as they are."""
    return {
        name: v.to(device, non_blocking=True) if torch.is_tensor(v) else v
        for name, v in batch.items()
    }


class Fetch:
    """(position, indices) -> (indices, batch): the part that a loader's worker does.

    torch's CPU generator is seeded by the position in the stream: random augmentation comes out the
    same in any worker and after any restart.
    """

    def __init__(self, dataset, seed):
        self.dataset, self.seed = dataset, seed

    def __getitem__(self, item):
        position, indices = item
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(
                int(np.random.SeedSequence([self.seed, position]).generate_state(1)[0])
            )
            return indices, fetch(self.dataset, indices)


def stream(dataset, order, batch, seed, start=0, rank=0, world=1, workers=0, pin_memory=False):
    """Endless iterator of (indices, batch) from position `start`; of each `batch`, process `rank`
    of `world` takes its even part.

    Raises ValueError, with the numbers of processes that would do, where there is no even part.
    """
    if batch % world:
        fits = [n for n in range(1, batch + 1) if batch % n == 0]
        raise ValueError(
            f"a batch of {batch} cannot be split evenly over {world} processes: start one of "
            f"{fits} of them, or change "
            "`batch` of this training, which is then another training with another key"
        )
    part = batch // world
    items = (
        (position, order.take(position, part))
        for position in itertools.count(start + rank * part, batch)
    )
    # a generator of its own: making the iterator must not draw from the one that a checkpoint
    # restores
    return iter(
        DataLoader(
            Fetch(dataset, seed),
            sampler=items,
            batch_size=None,
            num_workers=workers,
            pin_memory=pin_memory,
            generator=torch.Generator(),
        )
    )
