"""Edits: a film changed by hand, to see what the models look at: markers painted or taken away,
lungs or one cell erased.

Each entry of EDITS writes on uint8 pixels (H, W), told the lungs, bool (H, W), the framed cell and
the marker's box, both as slices.
"""

import numpy as np

from cxrkit.simulation.radiograph import MARKERS, erase_marker, write_marker


def _unmarked(pixels, lung, cell, box):
    """What lies around the marker grows over it."""
    if box:
        pixels[:] = erase_marker(pixels, box)


def _marked(text):
    def paint(pixels, lung, cell, box):
        _unmarked(pixels, lung, cell, box)
        write_marker(pixels, text, np.random.default_rng(0))

    return paint


def _erased(where):
    """The chosen pixels become the film's mean grey."""

    def erase(pixels, lung, cell, box):
        pixels[where(lung, cell)] = round(float(pixels.mean()))

    return erase


EDITS = {
    "nothing": None,
    **{f"paint the marker {text}": _marked(text) for text in MARKERS},
    "erase the marker": _unmarked,
    "erase the lungs": _erased(lambda lung, cell: lung),
    "erase all but the lungs": _erased(lambda lung, cell: ~lung),
    "erase the framed cell": _erased(lambda lung, cell: cell),
}
