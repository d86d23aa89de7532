"""How fast the geometry of severity is, and what one step of the map head costs.

    python benchmarks/severity.py          # half a minute on two cores

Prints seconds for the zones of 256 lung masks of 256x256 (bar: 1 s), for pooling a map over them
forward and backward, and for the contours of 256 maps.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch

from cxrkit.data import lung_zones
from cxrkit.simulation import hospital

MAPS = 16  # maps that are pooled and outlined


def lung_masks(n: int = 256, size: int = 256) -> np.ndarray:
    """Lung masks of virtual patients: one of each site, mirrored and shifted into n others.

    Returns:
        bool (n, size, size).
    """
    originals = []
    for site in hospital.SITES:
        right, left = hospital.Hospital(site, n=1, size=size)[0].lungs
        originals.append(np.logical_or(right, left))
    masks, sites = [], len(originals)
    for i in range(n):
        mask = originals[i % sites]
        if i % 2 == 0:
            mask = mask[:, ::-1]
        shift = i // (2 * sites) - n // (4 * sites)
        masks.append(np.roll(mask, shift, axis=0))
    return np.stack(masks)


def seconds(work: Callable[[], object], repeats: int = 3) -> float:
    """Least time of a few runs."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    """Measure and print."""
    lungs = lung_masks()
    found = seconds(lambda: lung_zones.zones(lungs))
    print(
        f"zones of {len(lungs)} masks of {lungs.shape[1]}x{lungs.shape[2]}: {found:.2f} s   (bar 1)"
    )
    generator = torch.Generator().manual_seed(0)
    maps = torch.rand(MAPS, 1, 256, 256, generator=generator, requires_grad=True)
    inside = torch.from_numpy(lungs[:MAPS])
    for how in lung_zones.POOLS:

        def pool(how: str = how) -> None:
            lung_zones.roi_pool(maps, inside, how).sum().backward()

        milliseconds = seconds(pool) / MAPS * 1000
        print(f"roi_pool, {how}, forward and backward: {milliseconds:.1f} ms an image")
    smooth = torch.nn.functional.avg_pool2d(maps, 15, 1, 7).detach().numpy()[:, 0]

    def outline() -> None:
        for severity_map, lung in zip(smooth, lungs):
            lung_zones.contours(severity_map, lung, 0.5)

    print(f"contours: {seconds(outline) / MAPS * 1000:.1f} ms an image")


if __name__ == "__main__":
    main()
