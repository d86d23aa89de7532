"""Stored pixels that their own file does not explain: what they mean stands beside them.

- PNG of BIMCV-COVID19: raw values; the JSON file beside the film holds its DICOM tags, in the form
  of DICOM PS3.18 annex F.2 (`{"00280004": {"vr": "CS", "Value": ["MONOCHROME1"]}}`).
- `.IMG` of JSRT: 2048 x 2048 values of 12 bits in big-endian words, high where the film is dark.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

Tags = dict[str, Any]  # tag as eight hex digits -> its element

VIEW = "00185101"
DESCRIPTION = "0008103E"
DATE = "00080020"
SEX, AGE = "00100040", "00101010"
PHOTOMETRIC = "00280004"
BITS = "00280101"
INTERCEPT, SLOPE = "00281052", "00281053"
CENTRE, WIDTH = "00281050", "00281051"
LUTS, LUT_FORM, LUT_DATA = "00283010", "00283002", "00283006"
SHAPE = "20500020"

JSRT_SIDE = 2048
JSRT_TOP = 4095


def tags_beside(path: Path) -> Tags:
    """DICOM tags in the JSON file beside an image.

    Args:
        path: of the image.

    Returns:
        Empty where there is no such file, or where it holds something else.
    """
    try:
        tags = json.loads(path.with_suffix(".json").read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    is_dicom = isinstance(tags, dict) and any(re.fullmatch("[0-9A-F]{8}", tag) for tag in tags)
    return tags if is_dicom else {}


def first_value(tags: Tags, tag: str) -> Any:
    """First value of an element, None where it is missing or empty.

    Args:
        tags: as `tags_beside` gives them.
        tag: eight hex digits.
    """
    element = tags.get(tag)
    values = element.get("Value") if isinstance(element, dict) else None
    return values[0] if values else None


def is_inverted(tags: Tags) -> bool:
    """Whether high values are dark: by the presentation LUT shape, else MONOCHROME1."""
    shape = first_value(tags, SHAPE)
    return shape == "INVERSE" if shape else first_value(tags, PHOTOMETRIC) == "MONOCHROME1"


def shown(pixels: np.ndarray, tags: Tags) -> tuple[np.ndarray, tuple[str, ...]]:
    """Stored values -> what a viewer shows, bright for dense, as DICOM PS3.3 C.11 says.

    Rescale, then the VOI LUT or the window, then the inversion. A window that leaves a single grey
    value is not applied: some of the release are wrong.

    Args:
        pixels: stored values, unsigned (H, W).
        tags: of the same film.

    Returns:
        uint16 (H, W) over the whole range of the window or LUT, or, without one, the stored values,
        turned where high is dark; and notes in words.
    """
    values = pixels.astype(np.float64)
    slope, intercept = first_value(tags, SLOPE), first_value(tags, INTERCEPT)
    if slope is not None or intercept is not None:
        values = values * float(slope or 1) + float(intercept or 0)
    inverted = is_inverted(tags)
    notes = ("high values are dark: inverted",) if inverted else ()
    light = _by_lut(values, tags)
    if light is None:
        light = _by_window(values, tags)
    if light is not None and light.min() < light.max():
        light = -light if inverted else light
        return np.rint((light + 0.5) * 65535).astype(np.uint16), notes
    notes += ("no window" if light is None else "its window leaves no picture: not applied",)
    if inverted:
        pixels = _top(pixels, tags) - pixels.astype(np.int64)
    return np.clip(pixels, 0, 65535).astype(np.uint8 if pixels.max() < 256 else np.uint16), notes


def _top(pixels: np.ndarray, tags: Tags) -> int:
    """The highest value that the film can hold."""
    bits = first_value(tags, BITS)
    highest = int(pixels.max())
    return max(2 ** int(bits) - 1, highest) if bits else int(np.iinfo(pixels.dtype).max)


def _by_lut(values: np.ndarray, tags: Tags) -> np.ndarray | None:
    """Values through the first VOI LUT, -0.5 to 0.5; None where there is none."""
    lut = first_value(tags, LUTS)
    data = lut.get(LUT_DATA, {}).get("Value") if isinstance(lut, dict) else None
    form = lut.get(LUT_FORM, {}).get("Value") if isinstance(lut, dict) else None
    if not data or not form or len(form) < 3:
        return None
    top = 2 ** int(form[2]) - 1
    index = np.clip(values - int(form[1]), 0, len(data) - 1).astype(int)
    return np.clip((2 * np.asarray(data, float)[index] - top) / (2 * top), -0.5, 0.5)


def _by_window(values: np.ndarray, tags: Tags) -> np.ndarray | None:
    """Values through the first window, -0.5 to 0.5; None where there is none.

    The linear function of DICOM PS3.3 C.11.2.1.2 about its centre, so that a film and its negative
    give the same picture to the last bit.
    """
    centre, width = first_value(tags, CENTRE), first_value(tags, WIDTH)
    if centre is None or width is None or float(width) <= 1:
        return None
    return np.clip((values - (float(centre) - 0.5)) / (float(width) - 1), -0.5, 0.5)


def jsrt(path: Path) -> np.ndarray:
    """A film of JSRT, bright for dense.

    Args:
        path: of the .IMG file.

    Returns:
        uint16 (2048, 2048), 0 to 4095.

    Raises:
        ValueError: the file has another size.
    """
    values = np.fromfile(path, dtype=">u2")
    if values.size != JSRT_SIDE**2:
        raise ValueError(
            f"{path}: {values.size} values, not {JSRT_SIDE} x {JSRT_SIDE} as an .IMG of JSRT has"
        )
    dark = np.clip(values, 0, JSRT_TOP).reshape(JSRT_SIDE, JSRT_SIDE)
    return (JSRT_TOP - dark).astype(np.uint16)
