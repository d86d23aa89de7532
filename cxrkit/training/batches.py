"""Batches in a reproducible order that can be entered at any position.

A dataset is anything with `len` and `dataset[i]` -> dict of tensors. Where it offers
`dataset.batch(indices)`, a whole batch is gathered at once.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch.utils.data import DataLoader, default_collate

Batch = dict[str, torch.Tensor]


class Tensors(dict):
    """Tensors of equal length as a dataset, for example a cached corpus with its labels.

    `Tensors(features=..., target=...)`: a name gives its tensor, a number one item.
    """

    def __len__(self) -> int:
        return len(next(iter(self.values()), ()))

    def __getitem__(self, key: str | int) -> torch.Tensor | Batch:
        return super().__getitem__(key) if isinstance(key, str) else self.batch(key)

    def batch(self, indices: Sequence[int] | int) -> Batch:
        """Rows `indices` of every tensor: dict of (len(indices), ...)."""
        return {name: tensor[indices] for name, tensor in self.items()}


class Order:
    """Endless stream of indices: epoch after epoch, each shuffled by (seed, epoch).

    A batch may span two epochs, so that every image is seen equally often whatever the batch.

    Args:
        n: Images of the dataset.
        seed: Seed of the shuffling.
        weights: Chances of a draw, (n,). With them an epoch is `n` draws with replacement instead
            of every image once.

    Raises:
        ValueError: For an empty dataset.
    """

    def __init__(self, n: int, seed: int, weights: Sequence[float] | None = None) -> None:
        if n == 0:
            raise ValueError(
                "the dataset is empty: check the split and the filters of its manifest"
            )
        self.n = n
        self.seed = seed
        self.chances = None
        if weights is not None:
            self.chances = np.asarray(weights, dtype=float) / np.sum(weights)
        self.epoch = functools.lru_cache(maxsize=2)(self.epoch)

    def epoch(self, number: int) -> np.ndarray:
        """Indices of one epoch, (n,)."""
        rng = np.random.default_rng([self.seed, number])
        if self.chances is None:
            return rng.permutation(self.n)
        return rng.choice(self.n, self.n, p=self.chances)

    def take(self, start: int, count: int) -> list[int]:
        """The `count` indices from position `start` of the stream."""
        return [int(self.epoch(i // self.n)[i % self.n]) for i in range(start, start + count)]


def fetch(dataset: object, indices: Sequence[int]) -> Batch:
    """Batch of the dataset: dict of (len(indices), ...)."""
    if hasattr(dataset, "batch"):
        return dataset.batch(indices)
    return default_collate([dataset[i] for i in indices])


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Tensors of a batch on the device; other values stay as they are."""
    moved = {}
    for name, value in batch.items():
        moved[name] = value.to(device, non_blocking=True) if torch.is_tensor(value) else value
    return moved


class SeededBatches:
    """(position, indices) -> (indices, batch): the part that a loader's worker does.

    Torch's CPU generator is seeded by the position in the stream, so that random augmentation comes
    out the same in any worker and after any restart.
    """

    def __init__(self, dataset: object, seed: int) -> None:
        self.dataset = dataset
        self.seed = seed

    def __getitem__(self, item: tuple[int, list[int]]) -> tuple[list[int], Batch]:
        position, indices = item
        seed = np.random.SeedSequence([self.seed, position]).generate_state(1)[0]
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(int(seed))
            return indices, fetch(self.dataset, indices)


def stream(
    dataset: object,
    order: Order,
    batch: int,
    seed: int,
    start: int = 0,
    rank: int = 0,
    world: int = 1,
    workers: int = 0,
    pin_memory: bool = False,
) -> Iterator[tuple[list[int], Batch]]:
    """Endless iterator of (indices, batch).

    Args:
        dataset: What the batches are fetched from.
        order: The order of its images.
        batch: Images of one batch, of all processes together.
        seed: Seed of the random augmentation.
        start: Position of the first image in the order.
        rank: Number of this process. It takes its even part of each batch.
        world: How many processes share a batch.
        workers: Processes that prepare batches ahead; 0 = this one prepares them.
        pin_memory: Whether batches lie in page-locked memory, for CUDA.

    Returns:
        The iterator: the indices of this process's part, and its tensors on the CPU.

    Raises:
        ValueError: With the numbers of processes that would do, where `batch` cannot be split
            evenly over `world` processes.
    """
    if batch % world:
        fits = [n for n in range(1, batch + 1) if batch % n == 0]
        raise ValueError(
            f"a batch of {batch} cannot be split evenly over {world} processes: start one of "
            f"{fits} of them, or change `batch` of this training, which is then another training "
            "with another key"
        )
    part = batch // world
    items = (
        (position, order.take(position, part))
        for position in itertools.count(start + rank * part, batch)
    )
    loader = DataLoader(
        SeededBatches(dataset, seed),
        sampler=items,
        batch_size=None,
        num_workers=workers,
        pin_memory=pin_memory,
        # Its own: making the iterator must not draw from the generator that a checkpoint restores.
        generator=torch.Generator(),
    )
    return iter(loader)
