"""Edits of an image, to see what the models look at.

Markers are painted or erased, lungs or one cell erased. Each entry of EDITS changes pixels in
place.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from cxrkit.simulation.radiograph import MARKERS, erase_marker, write_marker

Box = tuple[slice, slice]  # rows, columns
# (pixels uint8 (H, W), lungs bool (H, W), framed cell or None, box of the marker or None)
Edit = Callable[[np.ndarray, np.ndarray, Box | None, Box | None], None]


def _erase_marker(
    pixels: np.ndarray, lungs: np.ndarray, cell: Box | None, marker: Box | None
) -> None:
    """What lies around the marker grows over it."""
    if marker:
        pixels[:] = erase_marker(pixels, marker)


def _paint_marker(text: str) -> Edit:
    def paint(pixels: np.ndarray, lungs: np.ndarray, cell: Box | None, marker: Box | None) -> None:
        _erase_marker(pixels, lungs, cell, marker)
        write_marker(pixels, text, np.random.default_rng(0))

    return paint


def _fill(pixels: np.ndarray, where: np.ndarray | Box | None) -> None:
    """The chosen pixels become the mean grey of the image."""
    pixels[where] = round(float(pixels.mean()))


def _erase_lungs(
    pixels: np.ndarray, lungs: np.ndarray, cell: Box | None, marker: Box | None
) -> None:
    _fill(pixels, lungs)


def _erase_all_but_lungs(
    pixels: np.ndarray, lungs: np.ndarray, cell: Box | None, marker: Box | None
) -> None:
    _fill(pixels, ~lungs)


def _erase_cell(
    pixels: np.ndarray, lungs: np.ndarray, cell: Box | None, marker: Box | None
) -> None:
    _fill(pixels, cell)


EDITS: dict[str, Edit | None] = {
    "nothing": None,
    **{f"paint the marker {text}": _paint_marker(text) for text in MARKERS},
    "erase the marker": _erase_marker,
    "erase the lungs": _erase_lungs,
    "erase all but the lungs": _erase_all_but_lungs,
    "erase the framed cell": _erase_cell,
}


def asks_for_cell(edit: str) -> bool:
    """Whether an edit depends on the framed cell."""
    return EDITS[edit] is _erase_cell
