"""How fast the geometry of severity is, and what one step of the map head costs.

    python benchmarks/severity.py          # half a minute on two cores

Prints seconds for the zones of 256 lung masks of 256x256 (bar: 1 s), for pooling a map over them
forward and backward, and for the contours of 256 maps.
"""

import time

import numpy as np
import torch

from cxrkit.data import lung_zones
from cxrkit.simulation import hospital


def masks(n=256, size=256):
    """Lung masks of virtual patients, bool (n, size, size): six films, mirrored and shifted into n
    different ones.
    """
    films = [
        np.logical_or(*hospital.Hospital(site, n=1, size=size)[0].lungs) for site in hospital.SITES
    ]
    return np.stack(
        [
            np.roll(films[i % 6][:, :: 1 if i % 2 else -1], i // 12 - n // 24, axis=0)
            for i in range(n)
        ]
    )


def seconds(work, repeats=3):
    """Least time of a few runs."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def main():
    lungs = masks()
    print(
        f"zones of {len(lungs)} masks of {lungs.shape[1]}x{lungs.shape[2]}: "
        f"{seconds(lambda: lung_zones.zones(lungs)):.2f} s   (bar 1)"
    )
    maps = torch.rand(
        16, 1, 256, 256, generator=torch.Generator().manual_seed(0), requires_grad=True
    )
    inside = torch.from_numpy(lungs[:16])
    for how in lung_zones.POOLS:
        cost = seconds(lambda how=how: lung_zones.roi_pool(maps, inside, how).sum().backward())
        print(f"roi_pool, {how}, forward and backward: {cost / 16 * 1000:.1f} ms a film")
    smooth = torch.nn.functional.avg_pool2d(maps, 15, 1, 7).detach().numpy()[:, 0]
    cost = seconds(
        lambda: [lung_zones.contours(one, lung, 0.5) for one, lung in zip(smooth, lungs)]
    )
    print(f"contours: {cost / 16 * 1000:.1f} ms a film")


if __name__ == "__main__":
    main()
