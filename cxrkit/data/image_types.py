"""What an image file becomes: `Image`, or `ImageError`, and the limits of both kinds of reader."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

import numpy as np

from cxrkit.config.choices import Choices
from cxrkit.data import preprocessing

SMALLEST = 32  # px; a smaller image is no radiograph
PIXEL_LIMIT = 89_478_485  # of one image, whatever the container
SCALED = "cxrkit:scaled"  # key of the text in a PNG file that sets `Image.scaled`
FILE_LIMIT = 2**30  # bytes of one file, and of what a deflated one expands to


class ImageError(ValueError):
    """A file that cannot serve as an image; the message names it and the next step."""


@dataclass(frozen=True)
class Image:
    """A radiograph; it never holds a name or an identifier.

    Attributes:
        pixels: uint8 or uint16 (H, W), bright = dense.
        range: lowest and highest grey value in `pixels`.
        bits: stored bits per grey value in the file.
        view: PA, AP ... where the file says so.
        photometric: as in the file; MONOCHROME1 has been inverted.
        spacing: mm per pixel at the detector, (row, column).
        notes: what was done or is missing, in words.
        warnings: why the pixels may be wrong, in words.
        tags: what a DICOM file says of itself beside the pixels, by keyword: short codes alone
            (`dicom.CONTEXT`).
        unused_tags: keywords of further elements of acquisition and display, which are not used.
        scaled: the grey values are final: no stretch may move them (`masked_images.blacken`).
    """

    pixels: np.ndarray
    range: tuple[int, ...]
    bits: int
    view: str | None = None
    photometric: str = "MONOCHROME2"
    spacing: tuple[float, ...] | None = None
    notes: tuple[str, ...] = field(default=())
    warnings: tuple[str, ...] = field(default=())
    tags: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    unused_tags: tuple[str, ...] = field(default=())
    scaled: bool = False

    def choices(self, choices: Choices) -> Choices:
        """The choices by which its pixels are prepared: `stretch` departs where it is `scaled`.

        Args:
            choices: those of the profile.
        """
        return replace(choices, stretch="min_max") if self.scaled else choices


def check_size(path: Path, width: int, height: int) -> None:
    """Refuse an image before it is decoded, if it is larger than any radiograph.

    Args:
        path: of the file.
        width: in pixels, as its header says.
        height: likewise.

    Raises:
        ImageError: it has more than PIXEL_LIMIT pixels.
    """
    if width * height > PIXEL_LIMIT:
        raise ImageError(
            f"{path}: {width}x{height} px is over the limit of {PIXEL_LIMIT:,} pixels for one "
            "image; export it smaller"
        )


def unsigned(values: np.ndarray, path: Path) -> tuple[np.ndarray, tuple[str, ...]]:
    """Any numbers (H, W) -> uint8 or uint16 in the same order; the same values where they fit.

    Args:
        values: integers or floats (H, W).
        path: of the file.

    Returns:
        The pixels, and a note where outliers were clipped.

    Raises:
        ImageError: a value is not finite.
    """
    if not np.isfinite(values).all():
        raise ImageError(f"{path}: NaN or infinite pixels; export it again as integers")
    if values.dtype in (np.uint8, np.uint16):
        return np.ascontiguousarray(values), ()
    low, high = float(values.min()), float(values.max())
    if values.dtype.kind in "iu" and high - low <= 65535:
        shift = 0 if low >= 0 and high <= 65535 else int(low)
        return (values.astype(np.int64) - shift).astype(np.uint16), ()
    # 16 bits must hold the picture, not the distance to a single wild value
    low, high, outliers = preprocessing.extremes_without_outliers(values)
    scaled = (np.clip(values, low, high) - low) * (65535 / max(high - low, 1e-12))
    return np.rint(scaled).astype(np.uint16), clipping_note(outliers)


def clipping_note(outliers: int) -> tuple[str, ...]:
    """A note on pixels that the stretch to 0-255 clips.

    Args:
        outliers: their number, see `preprocessing.stretch_limits`.
    """
    if not outliers:
        return ()
    return (f"clipped: {outliers} pixels lie far outside of the other grey values",)


def luminance(colour: np.ndarray) -> np.ndarray:
    """Grey of a colour image, in its own depth; alpha lies on black.

    Args:
        colour: uint8 or uint16 (H, W, C), C = 2 (grey, alpha), 3 (RGB) or 4 (RGB, alpha).

    Returns:
        (H, W) of the same dtype.
    """
    channels = colour.shape[2]
    values = colour.astype(np.float64)
    if channels <= 2:
        grey = values[..., 0]
    else:
        grey = values[..., :3] @ np.array([0.299, 0.587, 0.114])
    if channels in (2, 4):
        grey = grey * (values[..., -1] / np.iinfo(colour.dtype).max)
    return np.rint(grey).astype(colour.dtype)
