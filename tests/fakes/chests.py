"""Bodies, chests and lesions whose projections have closed forms."""

import numpy as np

from cxrkit.simulation.anatomy import Body, Chest
from cxrkit.simulation.disease import Lesion

UNBENT = Body((1.0, 1.0, 1.0), 0.0, 0.0, (0.0, 0.0), np.zeros((2, 4, 6, 5), np.float32))


def planted(kind, centre, radius, lobes, hu=40.0):
    """A round lesion without texture."""
    return Lesion(kind, tuple(centre), (radius,) * 3, lobes, hu, 0.0, 0)


def lung_box(size=64):
    """A box of lung of 40 slices, 6 mm each, at one density."""
    shape = (40, size, size)
    mm = np.arange(size, dtype=np.float32) * 4
    z, x = np.meshgrid(mm[::-1], mm, indexing="ij")
    flat = np.zeros((size, size), np.float32)
    return Chest(
        view="PA",
        size=size,
        integrals=np.zeros((4, size, size), np.float32),
        padding=flat,
        lung_depth=flat,
        right=flat > 0,
        left=flat > 0,
        box=(slice(0, size),) * 2,
        tissue=np.full(shape, 14.0, np.float32),
        vessels=np.zeros(shape, np.float32),
        lobes=np.ones(shape, np.uint8),
        wall_distance=np.full(shape, 50.0, np.float32),
        z=np.broadcast_to(z, shape).copy(),
        x=np.broadcast_to(x, shape).copy(),
        y=np.arange(40, dtype=np.float32) * 6,
        step=6.0,
        lobe_boxes={1: (slice(0, 40), slice(0, size), slice(0, size))},
    )
