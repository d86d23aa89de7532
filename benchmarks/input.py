"""Input at scale: reading the table, decoding once, opening again, and drawing shuffled batches,
for growing numbers of films.

    python benchmarks/input.py [--films 1000 10000 100000] [--side 96] [--size 64] [--folder DIR]

Films are made up: 64 different ones of `side` px under as many names as asked (hard links), decoded
to `size` px. Linear = the last column stays level.
"""

import argparse
import os
import resource
import tempfile
import time
import warnings
from pathlib import Path

import cv2
import numpy as np
import torch

from cxrkit.data import cache, datasets, manifests
from cxrkit.storage.artifacts import Store

DISTINCT = 64
BATCHES = 200  # of 8 films


def films(folder, count, side):
    """`films.csv` and that many PNG files in `folder`."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(DISTINCT):
        blurred = cv2.GaussianBlur(rng.normal(128, 400, (side, side)), (0, 0), side / 16)
        cv2.imwrite(
            str(folder / f"{i}.png"),
            np.uint8(np.clip(blurred + rng.normal(0, 4, (side, side)), 0, 255)),
        )
    for i in range(DISTINCT, count):
        os.link(folder / f"{i % DISTINCT}.png", folder / f"{i}.png")
    rows = "".join(
        f"{i}.png,p{i},{'AP' if i % 3 else 'PA'},S,{'edema' if i % 5 else 'no finding'}\n"
        for i in range(count)
    )
    (folder / "films.csv").write_text("path,patient_id,view,site,findings\n" + rows)


def clock(call):
    """(seconds, result) of a call."""
    began = time.perf_counter()
    result = call()
    return time.perf_counter() - began, result


def measure(folder, count, side, size):
    """One line of the table."""
    films(folder / "films", count, side)
    store = Store(folder / "store")
    table_s, table = clock(lambda: manifests.read("local", folder / "films"))
    decode_s, dataset = clock(lambda: datasets.CXRDataset(table, size, train=True, store=store))
    again_s, _ = clock(lambda: datasets.CXRDataset(table, size, train=True, store=store))
    order = np.random.default_rng(1).permutation(count)
    draws = [order[i % count : i % count + 8].tolist() for i in range(0, 8 * BATCHES, 8)]
    draw_s, _ = clock(lambda: [dataset.batch(draw) for draw in draws])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"{count:>8,} {table_s:>8.2f} {decode_s:>9.2f} {count / decode_s:>9.0f} {again_s:>8.2f} "
        f"{8 * BATCHES / draw_s:>10.0f} "
        f"{peak:>8.2f} {1e6 * (table_s + decode_s + again_s) / count:>10.0f}",
        flush=True,
    )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--films", type=int, nargs="+", default=[1_000, 10_000])
    parser.add_argument("--side", type=int, default=96, help="px of the files")
    parser.add_argument("--size", type=int, default=64, help="px of the cache")
    parser.add_argument("--folder", type=Path, default=None)
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    print(
        f"{cache.cpus()} cores, torch with {torch.get_num_threads()} threads, files of {asked.side} "
        f"px, cache of {asked.size} px"
    )
    print(
        f"{'films':>8} {'table s':>8} {'decode s':>9} {'images/s':>9} {'again s':>8} "
        f"{'drawn/s*':>10} {'peak GB':>8} {'us a film':>10}"
        "\n(* images/s of shuffled, augmented batches of 8)"
    )
    for count in asked.films:
        with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
            measure(Path(folder), count, asked.side, asked.size)


if __name__ == "__main__":
    main()
