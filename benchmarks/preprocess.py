"""How fast are preprocessing and the cached loader?

    python benchmarks/preprocess.py [--mirror DIR] [--images N] [--size S]

Prints a table: images/s of `preprocess` beside the bare OpenCV calls, and of the cached loader
beside decoding and preprocessing every image anew, on the same images in the same run, one thread.
Bars: at least 0.8 and 20 times. The median of 5 rounds counts.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import torch

from cxrkit.data import datasets, images, manifests, preprocessing
from cxrkit.storage.artifacts import Store

ROUNDS = 5
SIDE = 1024  # px of a made-up image
BATCH = 16
PREPROCESS_BAR, LOADER_BAR = 0.8, 20


def synthetic_images(folder: Path, n: int) -> pd.DataFrame:
    """n made-up PNG images of 1024x1024 px as a table."""
    rng = np.random.default_rng(0)
    for i in range(n):
        coarse = rng.uniform(20, 230, (12, 12))
        smooth = cv2.resize(coarse, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
        pixels = np.clip(smooth + rng.normal(0, 4, smooth.shape), 0, 255)
        cv2.imwrite(str(folder / f"{i}.png"), np.uint8(pixels))
    rows = [f"{i}.png,p{i},PA,synthetic\n" for i in range(n)]
    (folder / "films.csv").write_text("path,patient_id,view,site\n" + "".join(rows))
    return manifests.read_manifest("local", folder)


def real_images(mirror: Path, n: int) -> pd.DataFrame:
    """n prepared images as a table.

    They are spread over the Brixia-scored ones (full-size originals and 640 px copies) and the PNGs
    from Hannover.
    """
    parts = [manifests.read_manifest(name, mirror) for name in ("cohen", "hannover")]
    table = pd.concat(parts, ignore_index=True)
    table = table[table["brixia_A"].notna() | (table["dataset"] == "hannover")]
    chosen = np.linspace(0, len(table) - 1, min(n, len(table))).astype(int)
    return table.iloc[chosen].reset_index(drop=True)


def bare(image: np.ndarray, size: int) -> np.ndarray:
    """The four steps of preprocessing with nothing around them: (H, W) -> float32 (S, S)."""
    image = cv2.GaussianBlur(cv2.equalizeHist(image), (3, 3), 0)
    how = cv2.INTER_AREA if max(image.shape) > size else cv2.INTER_LINEAR
    return (cv2.resize(image, (size, size), interpolation=how).astype(np.float32) - 128) / 64


def drop(results: Iterable[object]) -> None:
    """Take one after the other and keep none, as a training loop does."""
    for _ in results:
        pass


def rates(n: int, **ways: Callable[[], None]) -> dict[str, float]:
    """Images/s of each way over n images: the median of ROUNDS.

    The ways take turns, so that a busy machine slows all alike.
    """
    seconds = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - start)
    return {name: n / statistics.median(times) for name, times in seconds.items()}


def measure(table: pd.DataFrame, size: int, store: Store) -> dict[str, float]:
    """Images/s of preprocessing, of the bare calls, of the cached loader, and of decoding anew."""
    paths = list(table["path"])
    grey = [images.load_image(path).pixels for path in paths]
    np.testing.assert_array_equal(bare(grey[0], size), preprocessing.preprocess(grey[0], size))
    dataset = datasets.CXRDataset(table, size, store=store)

    def by_kit() -> None:
        drop(preprocessing.preprocess(image, size) for image in grey)

    def by_hand() -> None:
        drop(bare(image, size) for image in grey)

    def cached() -> None:
        drop(datasets.make_loader(dataset, BATCH))

    def decoded() -> None:
        drop(preprocessing.preprocess(images.load_image(path).pixels, size) for path in paths)

    return rates(len(table), by_kit=by_kit, bare=by_hand, cached=cached, decoded=decoded)


def report(found: dict[str, float]) -> None:
    """Print the table of `measure`."""
    of_kit, of_cache = found["by_kit"] / found["bare"], found["cached"] / found["decoded"]
    print(f"{'':34}{'images/s':>10}{'ratio':>8}{'bar':>6}")
    print(f"{'bare OpenCV calls':34}{found['bare']:10.0f}")
    print(f"{'preprocess':34}{found['by_kit']:10.0f}{of_kit:8.2f}{PREPROCESS_BAR:6}")
    print(f"{'decode and preprocess each time':34}{found['decoded']:10.0f}")
    loader = f"cached loader, batches of {BATCH}"
    print(f"{loader:34}{found['cached']:10.0f}{of_cache:8.1f}{LOADER_BAR:6}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--mirror", type=Path, help="folder with prepared images; synthetic PNGs without it"
    )
    parser.add_argument("--images", type=int, default=96)
    parser.add_argument("--size", type=int, default=512)
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        if options.mirror:
            table, what = real_images(options.mirror, options.images), "real images"
        else:
            table, what = synthetic_images(Path(folder), options.images), "synthetic images"
        sides = [max(images.load_image(path).pixels.shape) for path in table["path"]]
        print(
            f"{len(table)} {what}, median {int(np.median(sides))} px on the longest side, to "
            f"{options.size} px, one thread"
        )
        report(measure(table, options.size, Store(Path(folder) / "store")))


if __name__ == "__main__":
    main()
