"""Leakage: one patient, or nearly the same image, on both sides of a split.

Images are compared by a difference hash of 256 bits. The usual 64 are too few for chest images,
which all look alike: of 4,383 public images, 87 pairs of different patients agree in all 64 bits;
of 256, the nearest such pair differs in 15. At 12 bits the hash finds images that were re-encoded,
resized or made brighter; an image that was cropped by 2 % or more it does not find.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pandas as pd

from cxrkit.data import manifests
from cxrkit.data.images import load_image
from cxrkit.data.preprocessing import to_uint8

SIDE = 16
NEAR = 12  # bits of SIDE * SIDE in which two copies of one image may differ


def dhash(image: np.ndarray) -> np.ndarray:
    """Difference hash: is each of 16x16 cells brighter than its left neighbour?

    Args:
        image: grey (H, W).

    Returns:
        256 bits as uint8 (32,).
    """
    small = cv2.resize(to_uint8(image), (SIDE + 1, SIDE), interpolation=cv2.INTER_AREA)
    return np.packbits(small[:, 1:] > small[:, :-1])


def hashes(paths: Iterable[str]) -> np.ndarray:
    """`dhash` of every image, uint8 (N, 32). Raises ImageError for one that cannot be read."""

    def read(path: str) -> np.ndarray:
        return dhash(load_image(path).pixels)

    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        codes = list(pool.map(read, paths))
    return np.array(codes).reshape(-1, SIDE * SIDE // 8)  # (N, 32)


def near_pairs(codes: np.ndarray, near: int = NEAR, block: int = 256) -> np.ndarray:
    """Pairs of codes that differ in at most `near` bits.

    Args:
        codes: uint8 (N, 32).
        near: largest number of bits.
        block: codes that are compared with all others at a time.

    Returns:
        (3, pairs): first, second, bits; first < second.
    """
    packed = np.ascontiguousarray(codes).view(np.uint64)  # (N, 4)
    found = [np.empty((0, 3), int)]
    for start in range(0, len(packed), block):
        different = packed[start : start + block, None] ^ packed[None, start:]  # (block, n, 4)
        bits = np.bitwise_count(different).sum(-1, dtype=np.uint16)  # (block, n)
        first, second = np.nonzero(np.triu(bits <= near, 1))
        found.append(np.stack([first + start, second + start, bits[first, second]], 1))
    return np.concatenate(found).astype(int).T


def find_leaks(table: pd.DataFrame, codes: np.ndarray | None = None) -> pd.DataFrame:
    """The leaks of a table.

    Args:
        table: with `path`, `group_id` and `split`.
        codes: `hashes` of its images, where they are known.

    Returns:
        `kind`, `what`, `splits`, `detail`; empty when patients and images are kept apart.
    """
    rows = []
    for group, splits in manifests.leaks(table).items():
        images = int((table["group_id"] == group).sum())
        rows.append(("patient", group, splits, f"{images} images"))
    if codes is None:
        codes = hashes(table["path"])
    split, path = table["split"].to_numpy(), table["path"].to_numpy()
    for i, j, bits in near_pairs(codes).T:
        if split[i] != split[j]:
            what = f"{path[i]} = {path[j]}"
            detail = f"{bits} of {SIDE * SIDE} bits differ"
            rows.append(("near-duplicate", what, f"{split[i]}, {split[j]}", detail))
    return pd.DataFrame(rows, columns=["kind", "what", "splits", "detail"])
