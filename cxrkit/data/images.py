"""Images: a film from PNG, JPEG, TIFF or DICOM as one grey array with its metadata, or a clear word
on what is wrong.
"""

import warnings
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from PIL import Image as Raster
from PIL import ImageOps

from cxrkit.data import sources
from cxrkit.data.labels import ALIASES, plain

SMALLEST = 32  # px; below that there is no film
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
    """A file that cannot serve as a film; the message names it and says what to do."""


@dataclass(frozen=True)
class Image:
    """A film: `pixels` uint8 or uint16 (H, W), bright = dense; never holds a name or an identifier."""

    pixels: np.ndarray
    range: tuple  # (lowest, highest) grey value in pixels
    bits: int  # stored bits per grey value in the file
    view: str | None = None  # PA, AP ... where the file says so
    photometric: str = "MONOCHROME2"  # as in the file; MONOCHROME1 has been inverted
    spacing: tuple | None = None  # (row, column) mm per pixel at the detector
    notes: tuple = field(default=())  # what was done or is missing, in words


def load_image(path, empty=False):
    """File, row of a drawn cohort (`images.npy#7`, see `films`) or virtual patient
    (`virtual://...`) -> Image.

    Colour becomes luminance, alpha lies on black, EXIF rotation and palettes are applied,
    MONOCHROME1 is inverted, rescale and VOI LUT or window of a DICOM are applied. Raises ImageError
    for anything that is not one sound grey film, and, unless `empty`, for one of a single grey
    value.
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
    reader = (
        _dicom if head[128:] == b"DICM" or path.suffix.lower() in (".dcm", ".dicom") else _raster
    )
    return _checked(reader(path), path, empty)


def _checked(image, path, empty=False):
    """Image with its range, if the pixels are one film."""
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


def load_images(paths):
    """Read what can be read -> (dict path -> Image, list of (path, reason)); damaged files do not
    stop the batch.
    """
    images, failures = {}, []
    for path in paths:
        try:
            images[str(path)] = load_image(path)
        except ImageError as error:
            failures.append((str(path), str(error)))
    return images, failures


def _raster(path):
    """PNG, JPEG, TIFF and whatever else Pillow reads; unlike cv2.imread it raises on a truncated
    file.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Raster.DecompressionBombWarning)
            with Raster.open(path) as raster:
                if getattr(raster, "n_frames", 1) > 1:
                    raise ImageError(f"{path}: {raster.n_frames} frames, not one image; export one")
                raster.load()
                return _grey(ImageOps.exif_transpose(raster), path)
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


def _grey(raster, path):
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


def _unsigned(values, path):
    """Any numbers (H, W) -> uint8 or uint16, with the same order and, where they fit, the same
    values.
    """
    if not np.isfinite(values).all():
        raise ImageError(f"{path}: NaN or infinite pixels; export it again as integers")
    if values.dtype in (np.uint8, np.uint16):
        return np.ascontiguousarray(values)
    low, high = float(values.min()), float(values.max())
    if values.dtype.kind in "iu" and high - low <= 65535:
        shift = 0 if low >= 0 and high <= 65535 else int(low)
        return (values.astype(np.int64) - shift).astype(np.uint16)
    return np.rint((values - low) * (65535 / max(high - low, 1e-12))).astype(np.uint16)


def _dicom(path):
    """One-frame DICOM of any photometric interpretation; compressed ones need python-gdcm (the
    extra `dicom`).
    """
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
            "or install the "
            "plugins: pip install 'cxrkit[dicom]'"
        ) from None
    spacing = dataset.get("ImagerPixelSpacing") or dataset.get("PixelSpacing")
    view = ALIASES["view"].get(plain(dataset.get("ViewPosition") or "unknown"))
    view = view if isinstance(view, str) else None
    return Image(
        values,
        (),
        int(dataset.BitsStored),
        view,
        str(dataset.PhotometricInterpretation),
        spacing and tuple(float(s) for s in spacing),
        notes if view else (*notes, "no view in the file"),
    )


@lru_cache(maxsize=2**20)
def view_of(path):
    """View of a DICOM file ("PA", "AP", "L" ...) by its tag, None where it says nothing; only the
    header is read.
    """
    try:
        import pydicom

        position = pydicom.dcmread(
            path, stop_before_pixels=True, specific_tags=["ViewPosition"], force=True
        ).get("ViewPosition")
    except Exception:  # without pydicom, or damaged: reading its pixels will say so
        return None
    view = ALIASES["view"].get(plain(position or "unknown"))
    return view if isinstance(view, str) else None


def _warn_of_identifiers(dataset, path):
    named = [tag for tag in IDENTIFIERS if str(dataset.get(tag) or "").strip()]
    if named and path.parent not in WARNED:  # once for a folder of thousands
        WARNED.add(path.parent)
        warnings.warn(
            f"{path.name}: carries patient identifiers ({', '.join(named)}), and so may others "
            "beside it; the kit keeps none, "
            "but de-identify the files before they leave your hospital",
            stacklevel=4,
        )


def _dicom_values(dataset, path):
    """Grey values (H, W) as a viewer shows them: modality LUT, VOI LUT or window, inversion ->
    (uint8 or uint16, notes).
    """
    from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi_lut

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
    background = raw == padding if padding is not None else np.zeros(raw.shape, bool)
    if np.any(~background):
        values = np.clip(values, values[~background].min(), values[~background].max())
    if photometric == "MONOCHROME1":
        top = (
            2 ** int(dataset.BitsStored) - 1
            if values is raw or np.array_equal(values, raw)
            else values.min() + values.max()
        )
        values = top - values.astype(np.float64 if values.dtype.kind == "f" else np.int64)
    values = np.where(background, values.min(), values)
    if raw.dtype == np.uint8 and values.min() >= 0 and values.max() <= 255:
        return np.rint(values).astype(np.uint8), ()
    return _unsigned(values, path), ()
