"""How fast are preprocessing and the cached loader? python benchmarks/preprocess.py [--mirror DIR]
[--films N] [--size S]

Prints a table: images/s of `preprocess` beside the bare OpenCV calls, and of the cached loader
beside decoding and preprocessing every film anew, on the same films in the same run, one thread.
Bars: at least 0.8 and 20 times. The median of 5 rounds counts.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import torch

from cxrkit.data import datasets, images, manifests, preprocessing
from cxrkit.storage.artifacts import Store

ROUNDS = 5


def synthetic(folder, n):
    """n made-up PNG films of 1024x1024 px as a table."""
    rng = np.random.default_rng(0)
    for i in range(n):
        smooth = cv2.resize(
            rng.uniform(20, 230, (12, 12)), (1024, 1024), interpolation=cv2.INTER_CUBIC
        )
        cv2.imwrite(
            str(folder / f"{i}.png"),
            np.uint8(np.clip(smooth + rng.normal(0, 4, smooth.shape), 0, 255)),
        )
    rows = [f"{i}.png,p{i},PA,synthetic\n" for i in range(n)]
    (folder / "films.csv").write_text("path,patient_id,view,site\n" + "".join(rows))
    return manifests.read("local", folder)


def real(mirror, n):
    """n films spread over the Brixia-scored ones (full-size originals and 640 px copies), with
    Hannover's PNGs, as a table.
    """
    table = pd.concat(
        [manifests.read(name, mirror) for name in ("cohen", "hannover")], ignore_index=True
    )
    table = table[table["brixia_A"].notna() | (table["dataset"] == "hannover")]
    return table.iloc[np.linspace(0, len(table) - 1, min(n, len(table))).astype(int)].reset_index(
        drop=True
    )


def bare(image, size):
    """The same four steps with nothing around them."""
    image = cv2.GaussianBlur(cv2.equalizeHist(image), (3, 3), 0)
    how = cv2.INTER_AREA if max(image.shape) > size else cv2.INTER_LINEAR
    return (cv2.resize(image, (size, size), interpolation=how).astype(np.float32) - 128) / 64


def drop(results):
    """Take one after the other and keep none, as a training loop does."""
    for _ in results:
        pass


def rates(n, **ways):
    """Images/s of each way over n images: the median of ROUNDS, taken in turns so that a busy
    machine hits all alike.
    """
    seconds = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - start)
    return {name: n / statistics.median(times) for name, times in seconds.items()}


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--mirror", type=Path, help="folder with prepared films; synthetic PNGs without it"
    )
    parser.add_argument("--films", type=int, default=96)
    parser.add_argument("--size", type=int, default=512)
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        table = (
            real(options.mirror, options.films)
            if options.mirror
            else synthetic(Path(folder), options.films)
        )
        report(
            table,
            options.size,
            Store(Path(folder) / "store"),
            "real films" if options.mirror else "synthetic films",
        )


def report(table, size, store, what):
    """Measure both pairs on the films of a table and print them."""
    n, paths = len(table), list(table["path"])
    grey = [images.load_image(path).pixels for path in paths]
    np.testing.assert_array_equal(bare(grey[0], size), preprocessing.preprocess(grey[0], size))
    dataset = datasets.CXRDataset(table, size, store=store)
    found = rates(
        n,
        ours=lambda: drop(preprocessing.preprocess(image, size) for image in grey),
        bare=lambda: drop(bare(image, size) for image in grey),
        cached=lambda: drop(datasets.make_loader(dataset, 16)),
        decode=lambda: drop(
            preprocessing.preprocess(images.load_image(path).pixels, size) for path in paths
        ),
    )
    print(
        f"{n} {what}, median {int(np.median([max(g.shape) for g in grey]))} px on the longest "
        f"side, to {size} px, one thread"
    )
    print(f"{'':34}{'images/s':>10}{'ratio':>8}{'bar':>6}")
    print(f"{'bare OpenCV calls':34}{found['bare']:10.0f}")
    print(
        f"{'preprocess.preprocess':34}{found['ours']:10.0f}{found['ours'] / found['bare']:8.2f}{0.8:6}"
    )
    print(f"{'decode and preprocess each time':34}{found['decode']:10.0f}")
    print(
        f"{'cached loader, batches of 16':34}{found['cached']:10.0f}{found['cached'] / found['decode']:8.1f}{20:6}"
    )


if __name__ == "__main__":
    main()
