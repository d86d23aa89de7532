"""The corpus cache: what a frozen backbone makes of each image, computed once, on disk as float32.

There is one folder for each backbone and way of preprocessing (`identity`). A call computes what is
missing and leaves two files: `corpora-<i>.npy`, float32 (n, C, h, w), and then
`corpora-<i>.json`, the image of each row by its path and the content of its file.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cxrkit.data.cache import Entry, entries_of
from cxrkit.storage import mapped
from cxrkit.storage.artifacts import Store
from cxrkit.storage.atomic import read_json, write_json
from cxrkit.storage.locks import announced_lock

CHUNK = 512  # images that one file holds at most, and that a kill can lose

Compute = Callable[[np.ndarray], Iterator[np.ndarray]]


class CachedCorpora:
    """Corpora of images in the order they were asked for; files are opened at the first access.

    Args:
        files: .npy files, float32 (n, C, h, w) each.
        file_of: index of each image's file, (N,).
        row_of: its row there, (N,).
    """

    def __init__(self, files: Sequence[Path], file_of: np.ndarray, row_of: np.ndarray) -> None:
        self.files = list(files)
        self._file_of, self._row_of = file_of, row_of
        self._open: list[np.ndarray] | None = None

    def __getstate__(self) -> dict[str, Any]:
        # a loader's worker opens the files itself instead of receiving a copy of them
        return {**vars(self), "_open": None}

    def __len__(self) -> int:
        return len(self._row_of)

    def gather(self, indices: Sequence[int]) -> torch.Tensor:
        """Corpora of some images, float32 (n, C, h, w)."""
        if self._open is None:
            self._open = [mapped.view(file) for file in self.files]
        rows = [self._open[self._file_of[i]][self._row_of[i]] for i in indices]
        return torch.from_numpy(np.stack(rows))


def cached_corpora(
    paths: Sequence[Any], identity: dict[str, Any], compute: Compute, store: Store
) -> CachedCorpora:
    """The corpora of images from the cache; those that are missing are computed first.

    An interrupted call loses at most CHUNK corpora. Several processes may call at once: one
    computes, the others wait.

    Args:
        paths: of images, as in a column of a table.
        identity: settings that name the backbone, its weights and the preprocessing.
        compute: numbers of images -> their corpora in parts, float (n, C, h, w) each.
        store: where the cache lies.

    Raises:
        OSError: there is no room on the disk.
        ValueError: a file is not as it was made; the message names the folder to delete.
    """
    folder = store.folder("corpora", identity)
    entries = entries_of(list(paths), store)
    if not set(entries) <= _places(folder).keys():
        folder.mkdir(parents=True, exist_ok=True)
        lock = folder.with_name(folder.name + ".lock")
        with announced_lock(lock, f"the process that computes into {folder}", stacklevel=3):
            write_json(folder / "settings.json", identity)
            _fill(folder, entries, compute)
    places = _places(folder)
    files = sorted({places[entry][0] for entry in entries})
    number = {file: i for i, file in enumerate(files)}
    file_of = np.array([number[places[entry][0]] for entry in entries], int)
    row_of = np.array([places[entry][1] for entry in entries], int)
    return CachedCorpora(files, file_of, row_of)


def _places(folder: Path) -> dict[Entry, tuple[Path, int]]:
    """Image -> file and row, of all corpora in a folder."""
    places = {}
    for index in sorted(folder.glob("corpora-*.json")):
        for row, entry in enumerate(read_json(index)):
            places[Entry(*entry)] = (index.with_suffix(".npy"), row)
    return places


def _fill(folder: Path, entries: list[Entry], compute: Compute) -> None:
    """Compute what is missing, CHUNK images to a file."""
    there = _places(folder)
    position = {entry: i for i, entry in enumerate(entries) if entry not in there}
    missing = list(position)
    for start in range(0, len(missing), CHUNK):
        chunk = missing[start : start + CHUNK]
        number = len(list(folder.glob("corpora-*.json")))
        file, part = folder / f"corpora-{number}.npy", folder / "new-corpora.npy"
        parts = compute(np.array([position[entry] for entry in chunk]))
        mapped.write_parts(
            part, (each.astype(np.float32, copy=False) for each in parts), len(chunk)
        )
        os.replace(part, file)
        write_json(file.with_suffix(".json"), chunk)
