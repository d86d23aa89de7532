"""Bodies, chests and lesions whose projections have closed forms."""

from dataclasses import replace

import numpy as np

from cxrkit.simulation.anatomy import Body, Chest
from cxrkit.simulation.disease import Lesion

UNBENT = Body((1.0, 1.0, 1.0), 0.0, 0.0, (0.0, 0.0), np.zeros((2, 4, 6, 5), np.float32))


def unbent(source):
    """The unbent body of a CT."""
    return replace(UNBENT, source=source)


def planted(kind, centre, radius, lobes, hu=40.0):
    """A round lesion without texture."""
    return Lesion(kind, tuple(centre), (radius,) * 3, lobes, hu, 0.0, 0)


def lung_box(size=64):
    """A box of lung of 40 slices, 6 mm each, at one density; its map is twice as fine."""
    shape = (40, size, size)
    mm = np.arange(size, dtype=np.float32) * 4
    z, x = np.meshgrid(mm[::-1], mm, indexing="ij")
    flat = np.zeros((2 * size, 2 * size), np.float32)
    return Chest(
        view="PA",
        size=2 * size,
        field_mm=4.0 * size,
        source="lidc",
        integrals=np.zeros((5, *flat.shape), np.float32),
        fat=np.zeros((2, *flat.shape), np.float32),
        lung_depth=flat,
        right=flat > 0,
        left=flat > 0,
        heart=flat > 0,
        trachea=flat > 0,
        box=(slice(0, size),) * 2,
        tissue=np.full(shape, 14.0, np.float32),
        vessels=np.zeros(shape, np.float32),
        lobes=np.ones(shape, np.uint8),
        wall_distance=np.full(shape, 50.0, np.float32),
        costal_distance=np.full(shape, 50.0, np.float32),
        z=np.broadcast_to(z, shape).copy(),
        x=np.broadcast_to(x, shape).copy(),
        y=np.arange(40, dtype=np.float32) * 6,
        step=6.0,
        lobe_boxes={1: (slice(0, 40), slice(0, size), slice(0, size))},
    )
