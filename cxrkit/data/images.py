"""Image files (PNG, JPEG, TIFF, DICOM) -> one grey array with its metadata, or what is wrong.

`rasters` and `dicom` read the two kinds of files; this module chooses between them and checks what
they give.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

from cxrkit.data import dicom, preprocessing, rasters, raw_pixels, sources
from cxrkit.data.dicom import view_of
from cxrkit.data.image_types import FILE_LIMIT, SMALLEST, Image, ImageError, clipping_note
from cxrkit.storage import mapped

__all__ = ["Image", "ImageError", "load_image", "load_images", "view_of"]


def load_image(path: str | os.PathLike, empty: bool = False) -> Image:
    """Read one radiograph.

    Colour becomes luminance in its own depth, alpha lies on black, EXIF rotation and palettes are
    applied, MONOCHROME1 is inverted, rescale and VOI LUT or window of a DICOM are applied.
    `Image.warnings` says why the pixels may be wrong; each is also a Python warning.

    Args:
        path: a file, a row of a cohort (`images.npy#7`, see `simulation.cohort`) or the address of
            a virtual patient (`virtual://...`).
        empty: accept an image of a single grey value.

    Raises:
        ImageError: it is not one sound grey image; the message names the file and the next step.

    Example:
        >>> import tempfile, cv2
        >>> folder = tempfile.TemporaryDirectory()
        >>> path = f"{folder.name}/film.png"
        >>> cv2.imwrite(path, np.arange(256, dtype=np.uint8).repeat(256).reshape(256, 256))
        True
        >>> load_image(path).pixels.shape
        (256, 256)
        >>> folder.cleanup()
    """
    address = sources.parse(path)
    if address.scheme:
        patient = sources.opener(address.scheme).from_url(address.text)
        return _checked(Image(patient.image, (), 8, patient.view, notes=("synthetic",)), path)
    sources.fill([path])
    if address.row is not None and address.file.suffix == ".npy" and address.file.is_file():
        pixels = mapped.view(address.file)[address.row]
        return _checked(Image(pixels, (), 8, notes=("synthetic",)), path)
    path = Path(path)
    if not path.is_file():
        raise ImageError(
            f"{path}: no such file; check the path in the table, or run: cxrkit data verify NAME"
        )
    with open(path, "rb") as f:
        size = os.fstat(f.fileno()).st_size
    if not size:
        raise ImageError(f"{path}: empty file; fetch it again")
    if size > FILE_LIMIT:
        raise ImageError(
            f"{path}: {size:,} bytes are over the limit of {FILE_LIMIT:,} for one image; export it "
            "smaller, or compressed"
        )
    is_dicom = path.suffix.lower() in dicom.DICOM_SUFFIXES or dicom.dicom_kind(path)
    read = dicom.read if is_dicom else _READERS.get(path.suffix.lower(), rasters.read)
    image = _checked(read(path), path, empty)
    for text in image.warnings:
        warnings.warn(f"{path.name}: {text}", stacklevel=2)
    return image


def _checked(image: Image, path: str | os.PathLike, empty: bool = False) -> Image:
    """The image with its range, if the pixels are one radiograph; else ImageError."""
    pixels = image.pixels
    if pixels.ndim != 2:
        raise ImageError(f"{path}: {pixels.ndim}-D, not one grey image; export one frame")
    if min(pixels.shape) < SMALLEST:
        raise ImageError(
            f"{path}: {pixels.shape[1]}x{pixels.shape[0]} px is too small for a film (at least "
            f"{SMALLEST})"
        )
    low, high = pixels.min(), pixels.max()
    if low == high and not empty:
        raise ImageError(
            f"{path}: every pixel is {low}; the file holds no picture, export it again"
        )
    notes = image.notes
    if pixels.dtype == np.uint16:  # the header of an 8-bit file leaves no room for wild values
        notes += clipping_note(preprocessing.stretch_limits(pixels)[2])
    return replace(image, range=(int(low), int(high)), notes=tuple(dict.fromkeys(notes)))


def load_images(
    paths: Iterable[str | os.PathLike],
) -> tuple[dict[str, Image], list[tuple[str, str]]]:
    """Read what can be read; damaged files do not stop the batch.

    Args:
        paths: as for `load_image`.

    Returns:
        The images by path, and (path, reason) of each file that cannot be read.
    """
    images, failures = {}, []
    for path in paths:
        try:
            images[str(path)] = load_image(path)
        except ImageError as error:
            failures.append((str(path), str(error)))
    return images, failures


def _png(path: Path) -> Image:
    """A PNG file, as the DICOM tags in a JSON file beside it say, where there is one (BIMCV)."""
    image, tags = rasters.read(path), raw_pixels.tags_beside(path)
    if not tags:
        return image
    try:
        pixels, notes = raw_pixels.shown(image.pixels, tags)
    except (TypeError, ValueError, OverflowError, AttributeError) as error:
        raise ImageError(
            f"{path.with_suffix('.json')}: not the DICOM tags of {path.name} ({error}); fetch it "
            "again, or take it away to read the stored pixels as they are"
        ) from None
    photometric = str(raw_pixels.first_value(tags, raw_pixels.PHOTOMETRIC) or image.photometric)
    view = dicom.named_view(raw_pixels.first_value(tags, raw_pixels.VIEW))
    return replace(
        image, pixels=pixels, view=view, photometric=photometric, notes=(*image.notes, *notes)
    )


def _jsrt(path: Path) -> Image:
    """A film of JSRT."""
    try:
        return Image(raw_pixels.jsrt(path), (), 12, notes=("high values are dark: inverted",))
    except ValueError as error:
        raise ImageError(str(error)) from None


_READERS = {".png": _png, ".img": _jsrt}  # suffix -> reader; all others go to `rasters`
