"""Leakage: one patient, or nearly the same film, on both sides of a split.

Films are compared by a difference hash of 256 bits: the usual 64 are too few for chest films, which
all look alike (of 4,383 public films, 87 pairs of different patients agree in all 64 bits; of 256,
the nearest such pair differs in 15). At 12 bits it finds films that were re-encoded, resized or
made brighter; a film cropped by 2 % or more it does not.
"""

import os
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pandas as pd

from cxrkit.data import manifests
from cxrkit.data.images import load_image
from cxrkit.data.preprocessing import to_uint8

SIDE = 16
NEAR = 12  # bits of SIDE * SIDE in which two prints of one film may differ


def dhash(image):
    """Grey (H, W) -> 256 bits as uint8 (32,): is each of 16x16 cells brighter than its left
    neighbour?
    """
    small = cv2.resize(to_uint8(image), (SIDE + 1, SIDE), interpolation=cv2.INTER_AREA)
    return np.packbits(small[:, 1:] > small[:, :-1])


def hashes(paths):
    """dhash of every film, uint8 (N, 32). Raises data.ImageError for a film that cannot be read."""
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        return np.array(list(pool.map(lambda path: dhash(load_image(path).pixels), paths))).reshape(
            -1, SIDE * SIDE // 8
        )


def near_pairs(codes, near=NEAR, block=256):
    """Pairs of codes (N, 32) that differ in at most `near` bits -> (first, second, bits), first <
    second.
    """
    words = np.ascontiguousarray(codes).view(np.uint64)  # (N, 4)
    found = []
    for start in range(0, len(words), block):
        bits = np.bitwise_count(words[start : start + block, None] ^ words[None, start:]).sum(
            -1, dtype=np.uint16
        )
        first, second = np.nonzero(np.triu(bits <= near, 1))
        found.append(np.stack([first + start, second + start, bits[first, second]], 1))
    return np.concatenate(found or [np.empty((0, 3), int)]).astype(int).T


def find(table, codes=None):
    """Leaks of a table -> DataFrame kind, what, splits, detail; empty when patients and films are
    kept apart.
    """
    rows = [
        ("patient", group, splits, f"{int((table['group_id'] == group).sum())} films")
        for group, splits in manifests.leaks(table).items()
    ]
    first, second, bits = near_pairs(hashes(table["path"]) if codes is None else codes)
    splits, paths = table["split"].to_numpy(), table["path"].to_numpy()
    rows += [
        (
            "near-duplicate",
            f"{paths[i]} = {paths[j]}",
            f"{splits[i]}, {splits[j]}",
            f"{n} of {SIDE * SIDE} bits differ",
        )
        for i, j, n in zip(first, second, bits)
        if splits[i] != splits[j]
    ]
    return pd.DataFrame(rows, columns=["kind", "what", "splits", "detail"])
