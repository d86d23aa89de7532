"""Image files (PNG, JPEG, TIFF, DICOM) -> one grey array with its metadata, or what is wrong."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from PIL import Image as Raster
from PIL import ImageOps

from cxrkit.data import raw_pixels, sources
from cxrkit.data.labels import ALIASES, plain

if TYPE_CHECKING:
    import pydicom

SMALLEST = 32  # px; a smaller image is no radiograph
IDENTIFIERS = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "OtherPatientIDs",
    "PatientAddress",
    "AccessionNumber",
    "ReferringPhysicianName",
)
WARNED = set()  # folders


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
    """

    pixels: np.ndarray
    range: tuple[int, ...]
    bits: int
    view: str | None = None
    photometric: str = "MONOCHROME2"
    spacing: tuple[float, ...] | None = None
    notes: tuple[str, ...] = field(default=())


def load_image(path: str | os.PathLike, empty: bool = False) -> Image:
    """Read one radiograph.

    Colour becomes luminance, alpha lies on black, EXIF rotation and palettes are applied,
    MONOCHROME1 is inverted, rescale and VOI LUT or window of a DICOM are applied.

    Args:
        path: a file, a row of a cohort (`images.npy#7`, see `simulation.cohort`) or the address of
            a virtual patient (`virtual://...`).
        empty: accept an image of a single grey value.

    Raises:
        ImageError: it is not one sound grey image; the message names the file and the next step.
    """
    address = sources.parse(path)
    if address.scheme:
        patient = sources.opener(address.scheme).from_url(address.text)
        return _checked(Image(patient.image, (), 8, patient.view, notes=("synthetic",)), path)
    if address.row is not None and address.file.suffix == ".npy" and address.file.is_file():
        pixels = np.load(address.file, mmap_mode="r")[address.row]
        return _checked(Image(pixels, (), 8, notes=("synthetic",)), path)
    path = Path(path)
    if not path.is_file():
        raise ImageError(
            f"{path}: no such file; check the path in the table, or run: cxrkit data verify NAME"
        )
    with open(path, "rb") as f:
        head = f.read(132)
    if not head:
        raise ImageError(f"{path}: empty file; fetch it again")
    is_dicom = head[128:] == b"DICM" or path.suffix.lower() in (".dcm", ".dicom")
    read = _dicom if is_dicom else _jsrt if path.suffix.lower() == ".img" else _raster
    return _checked(read(path), path, empty)


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
    return Image(**{**vars(image), "pixels": pixels, "range": (int(low), int(high))})


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


def _raster(path: Path) -> Image:
    """PNG, JPEG, TIFF and whatever else Pillow reads.

    Unlike cv2.imread, Pillow raises on a truncated file.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Raster.DecompressionBombWarning)
            with Raster.open(path) as raster:
                if getattr(raster, "n_frames", 1) > 1:
                    raise ImageError(f"{path}: {raster.n_frames} frames, not one image; export one")
                raster.load()
                return _explained(_grey(ImageOps.exif_transpose(raster), path), path)
    except ImageError:
        raise
    except (
        OSError,
        SyntaxError,
        ValueError,
        Raster.DecompressionBombError,
        Raster.DecompressionBombWarning,
    ) as error:
        raise ImageError(
            f"{path}: not an image, or a damaged one ({error}); fetch or export it again"
        ) from None


def _explained(image: Image, path: Path) -> Image:
    """The image as the DICOM tags in a JSON file beside it say, where there is one (BIMCV)."""
    tags = raw_pixels.tags_beside(path) if path.suffix.lower() == ".png" else {}
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
    view = _view(raw_pixels.first_value(tags, raw_pixels.VIEW))
    return replace(
        image, pixels=pixels, view=view, photometric=photometric, notes=(*image.notes, *notes)
    )


def _jsrt(path: Path) -> Image:
    """A film of JSRT."""
    try:
        return Image(raw_pixels.jsrt(path), (), 12, notes=("high values are dark: inverted",))
    except ValueError as error:
        raise ImageError(str(error)) from None


def _grey(raster: Raster.Image, path: Path) -> Image:
    """Pillow image -> Image in 8 or 16 bit."""
    mode = raster.mode
    if mode not in ("L", "1", "F") and not mode.startswith("I"):
        if "A" in raster.mode or "transparency" in raster.info:
            raster = raster.convert("RGBA")
            raster = Raster.alpha_composite(Raster.new("RGBA", raster.size, "black"), raster)
        raster = raster.convert("RGB").convert("L")
    pixels = np.asarray(raster.convert("L") if mode == "1" else raster)
    notes = () if raster.mode == mode else (f"{mode} made grey",)
    return Image(_unsigned(pixels, path), (), 8 * pixels.dtype.itemsize, notes=notes)


def _unsigned(values: np.ndarray, path: Path) -> np.ndarray:
    """Any numbers (H, W) -> uint8 or uint16 in the same order; the same values where they fit."""
    if not np.isfinite(values).all():
        raise ImageError(f"{path}: NaN or infinite pixels; export it again as integers")
    if values.dtype in (np.uint8, np.uint16):
        return np.ascontiguousarray(values)
    low, high = float(values.min()), float(values.max())
    if values.dtype.kind in "iu" and high - low <= 65535:
        shift = 0 if low >= 0 and high <= 65535 else int(low)
        return (values.astype(np.int64) - shift).astype(np.uint16)
    return np.rint((values - low) * (65535 / max(high - low, 1e-12))).astype(np.uint16)


def _dicom(path: Path) -> Image:
    """One-frame DICOM of any photometric interpretation; compressed ones need python-gdcm."""
    try:
        import pydicom
    except ImportError:
        raise ImageError(
            f"{path}: a DICOM file; install the reader: pip install 'cxrkit[dicom]'"
        ) from None
    try:
        dataset = pydicom.dcmread(path, force=path.suffix.lower() in (".dcm", ".dicom"))
        _warn_of_identifiers(dataset, path)
        values, notes = _dicom_values(dataset, path)
    except ImageError:
        raise
    except Exception as error:  # pydicom raises many kinds; all mean that this file cannot be read
        raise ImageError(
            f"{path}: unreadable DICOM ({type(error).__name__}: {error}); export it uncompressed, "
            "or install the plugins: pip install 'cxrkit[dicom]'"
        ) from None
    spacing = dataset.get("ImagerPixelSpacing") or dataset.get("PixelSpacing")
    view = _view(dataset.get("ViewPosition"))
    return Image(
        values,
        (),
        int(dataset.BitsStored),
        view,
        str(dataset.PhotometricInterpretation),
        tuple(float(s) for s in spacing) if spacing else None,
        notes if view else (*notes, "no view in the file"),
    )


def _view(position: str | None) -> str | None:
    """The view that a DICOM tag names, None where it is blank or unknown."""
    view = ALIASES["view"].get(plain(position or "unknown"))
    return view if isinstance(view, str) else None


@lru_cache(maxsize=2**20)
def view_of(path: str) -> str | None:
    """View of a DICOM file ("PA", "AP", "L" ...) by its tag; only the header is read.

    Args:
        path: of the file.

    Returns:
        None where the file names no view, or cannot be read.
    """
    try:
        import pydicom

        header = pydicom.dcmread(
            path, stop_before_pixels=True, specific_tags=["ViewPosition"], force=True
        )
        position = header.get("ViewPosition")
    except Exception:  # without pydicom, or damaged: reading its pixels will say so
        return None
    return _view(position)


def _warn_of_identifiers(dataset: pydicom.Dataset, path: Path) -> None:
    """Warn once for a folder that its files carry identifiers of patients."""
    named = [tag for tag in IDENTIFIERS if str(dataset.get(tag) or "").strip()]
    if named and path.parent not in WARNED:
        WARNED.add(path.parent)
        warnings.warn(
            f"{path.name}: carries patient identifiers ({', '.join(named)}), and so may others "
            "beside it; the kit keeps none, "
            "but de-identify the files before they leave your hospital",
            stacklevel=4,
        )


def _dicom_values(dataset: pydicom.Dataset, path: Path) -> tuple[np.ndarray, tuple[str, ...]]:
    """Grey values, uint8 or uint16 (H, W), as a viewer shows them, and notes.

    Modality LUT, VOI LUT or window, and inversion are applied.
    """
    from pydicom.pixels.processing import apply_color_lut, apply_modality_lut, apply_voi_lut

    if "PixelData" not in dataset:
        raise ImageError(f"{path}: a DICOM file without pixels; export the image itself")
    if int(dataset.get("NumberOfFrames") or 1) > 1:
        raise ImageError(f"{path}: {dataset.NumberOfFrames} frames, not one image; export one")
    raw, photometric = dataset.pixel_array, dataset.PhotometricInterpretation
    if photometric == "PALETTE COLOR":
        raw = apply_color_lut(raw, dataset)
    if raw.ndim == 3:  # pydicom has decoded YBR to RGB
        scaled = raw if raw.dtype == np.uint8 else (raw >> 8).astype(np.uint8)
        return cv2.cvtColor(scaled, cv2.COLOR_RGB2GRAY), (f"{photometric} made grey",)
    values = apply_voi_lut(apply_modality_lut(raw, dataset), dataset)
    padding = dataset.get("PixelPaddingValue")
    background = np.zeros(raw.shape, bool) if padding is None else raw == padding
    if np.any(~background):
        values = np.clip(values, values[~background].min(), values[~background].max())
    if photometric == "MONOCHROME1":
        values = _inverted(values, raw, int(dataset.BitsStored))
    values = np.where(background, values.min(), values)
    if raw.dtype == np.uint8 and values.min() >= 0 and values.max() <= 255:
        return np.rint(values).astype(np.uint8), ()
    return _unsigned(values, path), ()


def _inverted(values: np.ndarray, raw: np.ndarray, bits: int) -> np.ndarray:
    """MONOCHROME1 values, bright for dense: by the stored bits, or by their range where mapped."""
    unmapped = values is raw or np.array_equal(values, raw)
    top = 2**bits - 1 if unmapped else values.min() + values.max()
    return top - values.astype(np.float64 if values.dtype.kind == "f" else np.int64)
