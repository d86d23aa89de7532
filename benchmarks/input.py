"""Input at scale: reading the table, decoding once, opening again, and drawing shuffled batches.

    python benchmarks/input.py [--images 1000 10000 100000] [--side 96] [--size 64] [--folder DIR]

Images are made up: 64 different ones of `side` px under as many names as asked (hard links),
decoded to `size` px. The cost is linear where the last column stays level.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from cxrkit.data import cache, datasets, manifests
from cxrkit.storage.artifacts import Store

DISTINCT = 64  # different images
BATCHES, BATCH = 200, 8


def write_images(folder: Path, count: int, side: int) -> None:
    """`films.csv` and that many PNG files of `side` px in a folder."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(DISTINCT):
        smooth = cv2.GaussianBlur(rng.normal(128, 400, (side, side)), (0, 0), side / 16)
        pixels = np.clip(smooth + rng.normal(0, 4, (side, side)), 0, 255)
        cv2.imwrite(str(folder / f"{i}.png"), np.uint8(pixels))
    for i in range(DISTINCT, count):
        os.link(folder / f"{i % DISTINCT}.png", folder / f"{i}.png")
    rows = []
    for i in range(count):
        view = "AP" if i % 3 else "PA"
        finding = "edema" if i % 5 else "no finding"
        rows.append(f"{i}.png,p{i},{view},S,{finding}\n")
    (folder / "films.csv").write_text("path,patient_id,view,site,findings\n" + "".join(rows))


def clock(call: Callable[[], Any]) -> tuple[float, Any]:
    """(seconds, result) of a call."""
    began = time.perf_counter()
    result = call()
    return time.perf_counter() - began, result


def measure(folder: Path, count: int, side: int, size: int) -> str:
    """One line of the table."""
    write_images(folder / "films", count, side)
    store = Store(folder / "store")
    table_s, table = clock(lambda: manifests.read_manifest("local", folder / "films"))

    def open_dataset() -> datasets.CXRDataset:
        return datasets.CXRDataset(table, size, train=True, store=store)

    decode_s, dataset = clock(open_dataset)
    again_s, _ = clock(open_dataset)
    order = np.random.default_rng(1).permutation(count)
    draws = []
    for i in range(0, BATCH * BATCHES, BATCH):
        start = i % count
        draws.append(order[start : start + BATCH].tolist())
    draw_s, _ = clock(lambda: [dataset.batch(draw) for draw in draws])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    microseconds = 1e6 * (table_s + decode_s + again_s) / count
    return (
        f"{count:>8,} {table_s:>8.2f} {decode_s:>9.2f} {count / decode_s:>9.0f} {again_s:>8.2f} "
        f"{BATCH * BATCHES / draw_s:>10.0f} {peak:>8.2f} {microseconds:>11.0f}"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, nargs="+", default=[1_000, 10_000])
    parser.add_argument("--side", type=int, default=96, help="px of the files")
    parser.add_argument("--size", type=int, default=64, help="px of the cache")
    parser.add_argument("--folder", type=Path, default=None)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    print(
        f"{cache.cpus()} cores, torch with {torch.get_num_threads()} threads, files of "
        f"{options.side} px, cache of {options.size} px"
    )
    print(
        f"{'images':>8} {'table s':>8} {'decode s':>9} {'images/s':>9} {'again s':>8} "
        f"{'batched/s*':>10} {'peak GB':>8} {'us an image':>11}"
        f"\n(* images/s of shuffled, augmented batches of {BATCH})"
    )
    for count in options.images:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            print(measure(Path(folder), count, options.side, options.size), flush=True)


if __name__ == "__main__":
    main()
