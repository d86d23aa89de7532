"""DICOM files -> one grey image as a viewer shows it, or what is wrong.

The steps are those of DICOM PS3.3 C.11 and C.12, and PS3.4 N.2: stored values, modality LUT or
rescale, VOI LUT or window, inversion. What a header states wrongly is not believed: the image is
read without it, with a warning, or refused.
"""

from __future__ import annotations

import io
import math
import re
import struct
import warnings
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image as Raster

from cxrkit.data import jpeg
from cxrkit.data.image_types import (
    FILE_LIMIT,
    Image,
    ImageError,
    check_size,
    luminance,
    unsigned,
)
from cxrkit.data.labels import ALIASES, plain

if TYPE_CHECKING:
    import pydicom

IDENTIFIERS = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "OtherPatientIDs",
    "PatientAddress",
    "PatientTelephoneNumbers",
    "AccessionNumber",
    "ReferringPhysicianName",
)
WARNED = set()  # folders
DICOM_SUFFIXES = (".dcm", ".dicom")
# what may contradict the picture or the user; codes alone, since free text may hold names
CONTEXT = (
    "Modality",
    "BodyPartExamined",
    "ViewPosition",
    "PatientOrientation",
    "PatientAge",
    "Laterality",
    "ImageLaterality",
    "FieldOfViewHorizontalFlip",
    "FieldOfViewRotation",
    "PresentationIntentType",
    "PresentationLUTShape",
    "PixelIntensityRelationship",
    "BurnedInAnnotation",
    "LossyImageCompression",
)
CODE = re.compile(r"[A-Z0-9 _.\-\\]{1,24}")
USED = frozenset(
    "Rows Columns SamplesPerPixel PhotometricInterpretation PlanarConfiguration NumberOfFrames "
    "BitsAllocated BitsStored HighBit PixelRepresentation PixelPaddingValue "
    "PixelPaddingRangeLimit SmallestImagePixelValue LargestImagePixelValue RescaleSlope "
    "RescaleIntercept RescaleType ModalityLUTSequence WindowCenter WindowWidth "
    "WindowCenterWidthExplanation VOILUTFunction VOILUTSequence PixelSpacing ImagerPixelSpacing "
    "ViewPosition PresentationLUTShape RedPaletteColorLookupTableDescriptor "
    "GreenPaletteColorLookupTableDescriptor BluePaletteColorLookupTableDescriptor "
    "RedPaletteColorLookupTableData GreenPaletteColorLookupTableData "
    "BluePaletteColorLookupTableData".split()
)
SHOWN_GROUPS = (0x0018, 0x0020, 0x0028, 0x2050)  # acquisition, relation, image, presentation
DEFLATED = b"1.2.840.10008.1.2.1.99"
FIRST = 2**20  # bytes of a deflated file that must hold the size of its picture
SPARE = 64 * 2**20  # bytes that a header may take beside its pixels
JPEG_EXTENDED = "1.2.840.10008.1.2.4.51"
JPEG_BASELINE = "1.2.840.10008.1.2.4.50"
JPEG_2000 = ("1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91")
PIXEL_DATA = (b"\xe0\x7f\x10\x00", b"\x7f\xe0\x00\x10")  # its tag, in both byte orders


@dataclass
class Findings:
    """What the reader remarks while it goes through a file."""

    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


@dataclass
class Grey:
    """Grey values on their way to the screen, with the range that their step can give."""

    values: np.ndarray  # (H, W)
    low: float
    high: float


def dicom_kind(path: Path) -> str:
    """Whether a file of any name is a DICOM file, by its content.

    Args:
        path: of the file.

    Returns:
        "preamble" where DICM stands at byte 128, "bare" where pydicom finds an image without it,
        else an empty text.

    Raises:
        OSError: it cannot be opened.
    """
    with open(path, "rb") as file:
        head = file.read(132)
    if head[128:] == b"DICM":
        return "preamble"
    group = head[:2]
    if group not in (b"\x02\x00", b"\x08\x00", b"\x00\x08"):  # of a first DICOM tag
        return ""
    try:
        import pydicom

        header = pydicom.dcmread(path, force=True, stop_before_pixels=True)
        return "bare" if header.get("SOPClassUID") and header.get("Rows") else ""
    except Exception:  # without pydicom, or something else that starts with these bytes
        return ""


def read(path: Path) -> Image:
    """One-frame DICOM of any photometric interpretation.

    Args:
        path: of the file.

    Raises:
        ImageError: it is damaged, too large, of several frames, or cannot be decoded here.
    """
    try:
        import pydicom
    except ImportError:
        raise ImageError(
            f"{path}: a DICOM file; install the reader: pip install 'cxrkit[dicom]'"
        ) from None
    dataset, found = None, Findings()
    try:
        _refuse_bomb(path)
        with jpeg.LISTENING, warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            force = path.suffix.lower() in DICOM_SUFFIXES or dicom_kind(path) == "bare"
            dataset = pydicom.dcmread(path, force=force)
            _ = dataset.group_dataset(0x0028)  # its values are checked when they are read
        if caught:  # their words may quote what is in the file
            found.warnings.append(f"{len(caught)} parts of the header are not to the standard")
        _warn_of_identifiers(dataset, path)
        _check_header(dataset, path)
        _supply_syntax(dataset, found)
        return _image(dataset, _pixels(dataset, path, found), found)
    except ImageError:
        raise
    except Exception as error:  # pydicom raises many kinds; all mean that this file cannot be read
        raise ImageError(
            f"{path}: unreadable DICOM ({type(error).__name__}: {error}); {_next_step(dataset)}"
        ) from None


def _image(dataset: pydicom.Dataset, pixels: np.ndarray, found: Findings) -> Image:
    """The pixels with what the header says of them."""
    view, spacing = named_view(dataset.get("ViewPosition")), _spacing(dataset, found)
    if not view:
        found.notes.append("no view in the file")
    return Image(
        pixels,
        (),
        int(dataset.BitsStored),
        view,
        str(dataset.PhotometricInterpretation),
        spacing,
        notes=tuple(found.notes),
        warnings=tuple(found.warnings),
        tags=_context(dataset),
        unused_tags=_unused(dataset),
    )


def _spacing(dataset: pydicom.Dataset, found: Findings) -> tuple[float, ...] | None:
    """Distance of rows and of columns, mm; None where the header gives none, or no sound one."""
    try:
        given = dataset.get("ImagerPixelSpacing") or dataset.get("PixelSpacing")
        spacing = tuple(float(side) for side in given or ())
    except (TypeError, ValueError):  # text that is no number, or one number alone
        spacing = (0.0,)
    if not spacing:
        return None
    if len(spacing) == 2 and all(math.isfinite(side) and side > 0 for side in spacing):
        return spacing
    found.warnings.append("the pixel spacing is no pair of positive numbers; it is not used")
    return None


def _next_step(dataset: pydicom.Dataset | None) -> str:
    """What can be done about a file whose pixels cannot be decoded."""
    from pydicom.pixels.decoders.base import get_decoder

    damaged = "it is damaged, or not to the standard: fetch it again, or export it uncompressed"
    syntax = getattr(getattr(dataset, "file_meta", None), "TransferSyntaxUID", None)
    if syntax is None:
        return damaged
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        return f"nothing here decodes {syntax.name}: export it uncompressed"
    if decoder.is_available:
        return damaged
    return f"{syntax.name} needs a decoder: pip install 'cxrkit[dicom]', or export it uncompressed"


# before anything is decoded


def _refuse_bomb(path: Path) -> None:
    """Refuse a deflated file that expands over the limits, before it is expanded."""
    with open(path, "rb") as f:
        head = f.read(4096)
        start = _deflated_start(head, path)
        if start is None:
            return
        f.seek(start)
        expander, first, total = zlib.decompressobj(-zlib.MAX_WBITS), b"", 0
        allowed = FILE_LIMIT
        while chunk := f.read(2**16):
            while chunk:
                part = expander.decompress(chunk, FIRST)
                chunk, total = expander.unconsumed_tail, total + len(part)
                if len(first) < FIRST:
                    first += part
                    allowed = min(allowed, _allowed(first, path))
                if total > allowed:
                    raise ImageError(
                        f"{path}: expands to more than {allowed:,} bytes, the limit for the size "
                        "that it states; export it uncompressed"
                    )


def _deflated_start(head: bytes, path: Path) -> int | None:
    """Where the deflated part of a file begins; None for a file that is not deflated."""
    if head[128:132] != b"DICM" or DEFLATED not in head[132:]:
        return None
    tag, length = head[132:140], struct.unpack("<I", head[140:144])[0]
    if tag[:6] != b"\x02\x00\x00\x00UL":
        raise ImageError(f"{path}: a deflated file without the length of its head; export it again")
    start = 144 + length
    return start if DEFLATED in head[:start] else None


def _allowed(first: bytes, path: Path) -> int:
    """How many bytes a deflated file may expand to, by the size of the picture that it states."""
    from pydicom.filereader import read_dataset

    def at_pixels(tag: Any, vr: str | None, length: int) -> bool:
        return tag >= 0x7FE00010

    try:
        header = read_dataset(io.BytesIO(first), False, True, stop_when=at_pixels)
        rows, columns = int(header.Rows), int(header.Columns)
        size = int(header.BitsAllocated) // 8 * int(header.get("SamplesPerPixel") or 1)
    except Exception:  # the beginning of a header, or none at all: the limit of all files holds
        return FILE_LIMIT
    check_size(path, columns, rows)
    return rows * columns * max(size, 1) + SPARE


def _check_header(dataset: pydicom.Dataset, path: Path) -> None:
    """Refuse what has no picture, several, or one over the limit."""
    if "PixelData" not in dataset:
        content = path.read_bytes()
        if any(tag in content for tag in PIXEL_DATA):
            raise ImageError(
                f"{path}: damaged, its pixel data is cut off; fetch it again or export it again"
            )
        raise ImageError(f"{path}: a DICOM file without pixels; export the image itself")
    if int(dataset.get("NumberOfFrames") or 1) > 1:
        raise ImageError(f"{path}: {dataset.NumberOfFrames} frames, not one image; export one")
    check_size(path, int(dataset.Columns), int(dataset.Rows))


def _supply_syntax(dataset: pydicom.Dataset, found: Findings) -> None:
    """Where no transfer syntax is stated, take that by which the tags were read.

    Not for compressed pixels: nothing says how they are compressed.
    """
    from pydicom import uid

    if "TransferSyntaxUID" in dataset.file_meta or dataset["PixelData"].is_undefined_length:
        return
    implicit, little = dataset.original_encoding
    if implicit:
        syntax = uid.ImplicitVRLittleEndian
    else:
        syntax = uid.ExplicitVRLittleEndian if little else uid.ExplicitVRBigEndian
    dataset.file_meta.TransferSyntaxUID = syntax
    found.notes.append(f"no transfer syntax in the file: read as {syntax.name}")


def _warn_of_identifiers(dataset: pydicom.Dataset, path: Path) -> None:
    """Warn once for a folder that its files carry identifiers of patients."""
    named = [tag for tag in IDENTIFIERS if str(dataset.get(tag) or "").strip()]
    if named and path.parent not in WARNED:
        WARNED.add(path.parent)
        warnings.warn(
            f"{path.name}: carries patient identifiers ({', '.join(named)}), and so may others "
            "beside it; the kit keeps none, "
            "but de-identify the files before they leave your hospital",
            stacklevel=5,
        )


# the pixels


def _pixels(dataset: pydicom.Dataset, path: Path, found: Findings) -> np.ndarray:
    """Pixels as a viewer shows them, uint8 or uint16 (H, W)."""
    from pydicom.pixels.processing import apply_color_lut

    raw, photometric = _decoded(dataset, path, found), dataset.PhotometricInterpretation
    if photometric == "PALETTE COLOR":
        raw = apply_color_lut(raw, dataset)
    if raw.ndim == 3:  # YBR has become RGB
        found.notes.append(f"{photometric} made grey")
        return luminance(raw if raw.dtype == np.uint8 else raw.astype(np.uint16))
    raw, bits = _without_unused_bits(raw, dataset, found)
    background = _padding(raw, dataset)
    grey = _windowed(_rescaled(raw, bits, dataset, found), dataset, found)
    values = grey.values
    if _is_inverted(dataset):
        values = grey.low + grey.high - values
    if background.any() and not background.all():
        values = np.where(background, values[~background].min(), values)
    if np.array_equal(values, np.rint(values)):
        values = values.astype(np.int64)
    if raw.dtype.itemsize == 1 and values.min() >= 0 and values.max() <= 255:
        return np.rint(values).astype(np.uint8)
    pixels, clipped = unsigned(values, path)
    found.notes += clipped
    return pixels


def _decoded(dataset: pydicom.Dataset, path: Path, found: Findings) -> np.ndarray:
    """Stored values (H, W) or (H, W, 3), with whatever lies in their unused bits."""
    from pydicom.pixels.utils import pixel_array

    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax.is_encapsulated:
        _check_stream(dataset, path, found)
        with jpeg.printed_remarks() as remarks:
            if syntax == JPEG_EXTENDED and dataset.BitsStored > 8:
                raw = _with_gdcm(dataset, path)
            else:
                raw = pixel_array(dataset, correct_unused_bits=False)
        _heed(remarks, path, found)
    else:
        _check_length(dataset, path, found)
        raw = pixel_array(dataset, correct_unused_bits=False)
    wanted = (int(dataset.Rows), int(dataset.Columns))
    if raw.shape[:2] != wanted:
        raise ValueError(f"{raw.shape} pixels where the header states {wanted}")
    return raw


def _check_length(dataset: pydicom.Dataset, path: Path, found: Findings) -> None:
    """Warn of pixel data that is longer than the header says; what is shorter is refused later."""
    samples = int(dataset.Rows) * int(dataset.Columns) * int(dataset.SamplesPerPixel)
    expected = (samples * int(dataset.BitsAllocated) + 7) // 8
    if dataset.PhotometricInterpretation == "YBR_FULL_422":
        expected = expected * 2 // 3
    if len(dataset.PixelData) > expected + expected % 2:
        found.warnings.append(
            f"{len(dataset.PixelData)} bytes of pixels where the header states {expected}: the "
            "picture may be another one"
        )


def _check_stream(dataset: pydicom.Dataset, path: Path, found: Findings) -> None:
    """Refuse a compressed picture of another size than the header's, and a torn one."""
    from pydicom.encaps import generate_frames

    stream = next(generate_frames(dataset.PixelData, number_of_frames=1))
    size = jpeg.frame_size(stream)
    stated = (int(dataset.Columns), int(dataset.Rows))
    if size is not None and size != stated:
        raise ImageError(
            f"{path}: the header states {stated[0]}x{stated[1]} px, the compressed picture "
            f"{size[0]}x{size[1]}; export it again"
        )
    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax == JPEG_BASELINE:
        words = jpeg.remark(stream)
        _heed([words] if words else [], path, found)
    if syntax in JPEG_2000:  # GDCM lets a torn stream pass, Pillow refuses it
        with Raster.open(io.BytesIO(stream)) as picture:
            picture.load()


def _heed(remarks: list[str], path: Path, found: Findings) -> None:
    """Refuse a stream that libjpeg calls torn; warn of what else it remarks."""
    for words in dict.fromkeys(remarks):
        if jpeg.is_torn(words):
            raise ImageError(f"{path}: damaged, libjpeg says {words!r}; fetch or export it again")
        found.warnings.append(f"libjpeg says {words!r}: compare the picture with its source")


def _with_gdcm(dataset: pydicom.Dataset, path: Path) -> np.ndarray:
    """JPEG of 12 bits, which pydicom's plugins leave to others and GDCM itself decodes."""
    try:
        import gdcm
    except ImportError:
        raise ImageError(
            f"{path}: JPEG of 12 bits; install its decoder: pip install 'cxrkit[dicom]'"
        ) from None
    reader = gdcm.ImageReader()
    reader.SetFileName(str(path))
    if not reader.Read():
        raise ValueError("GDCM cannot decode it")
    content = reader.GetImage().GetBuffer().encode("utf-8", "surrogateescape")
    kind = np.dtype(np.int16 if dataset.PixelRepresentation else np.uint16)
    shape = (int(dataset.Rows), int(dataset.Columns))
    return np.frombuffer(content, kind.newbyteorder("<")).astype(kind).reshape(shape)


def _without_unused_bits(
    raw: np.ndarray, dataset: pydicom.Dataset, found: Findings
) -> tuple[np.ndarray, int]:
    """Stored values, and how many bits they need.

    Beyond BitsStored there may be an overlay, or values that the header understates. The reading
    that gives the smoother picture is the right one.
    """
    allocated, stored = 8 * raw.dtype.itemsize, int(dataset.BitsStored)
    if not 1 <= stored <= allocated:
        raise ValueError(f"BitsStored {stored} of {allocated}")
    shift = allocated - stored
    masked = np.right_shift(np.left_shift(raw, shift), shift)
    if np.array_equal(masked, raw):
        return raw, stored
    if _roughness(masked) < _roughness(raw):
        found.warnings.append(f"bits beyond the {stored} of a value were left out (an overlay?)")
        return masked, stored
    size = max(abs(int(raw.min())), int(raw.max()))
    bits = size.bit_length() + (raw.dtype.kind == "i")
    found.warnings.append(f"the header states {stored} bits, the values have {bits} and were kept")
    return raw, bits


def _roughness(values: np.ndarray) -> float:
    """Mean step between neighbours: what is cut off, or added, above leaves edges of its height."""
    values = values.astype(np.int64)
    return float(np.abs(np.diff(values, axis=0)).mean() + np.abs(np.diff(values, axis=1)).mean())


def _padding(raw: np.ndarray, dataset: pydicom.Dataset) -> np.ndarray:
    """Where no picture is, bool (H, W)."""
    first, last = dataset.get("PixelPaddingValue"), dataset.get("PixelPaddingRangeLimit")
    if first is None or first == "":
        return np.zeros(raw.shape, bool)
    first = _as_stored(first, raw)
    last = first if last is None or last == "" else _as_stored(last, raw)
    return (raw >= min(first, last)) & (raw <= max(first, last))


def _as_stored(value: Any, raw: np.ndarray) -> int:
    """A value of the header with the sign that the pixels have."""
    value, span = int(value), 2 ** (8 * raw.dtype.itemsize)
    if raw.dtype.kind == "i" and value >= span // 2:
        return value - span
    if raw.dtype.kind == "u" and value < 0:
        return value + span
    return value


def _rescaled(raw: np.ndarray, bits: int, dataset: pydicom.Dataset, found: Findings) -> Grey:
    """Modality LUT or rescale (PS3.3 C.11.1)."""
    low, high = (
        (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if raw.dtype.kind == "i" else (0, 2**bits - 1)
    )
    grey = Grey(raw.astype(np.int64), low, high)
    sequence = dataset.get("ModalityLUTSequence")
    if sequence:
        return _looked_up(grey, sequence[0], raw.dtype.kind == "i")
    slope, intercept = (
        _number(dataset.get("RescaleSlope")),
        _number(dataset.get("RescaleIntercept")),
    )
    if slope == 0 or (slope is not None and not np.isfinite(slope)):
        found.warnings.append(f"RescaleSlope {slope:g} is not valid: the values were not rescaled")
        return grey
    if slope in (None, 1.0) and intercept in (None, 0.0):
        return grey
    slope, intercept = 1.0 if slope is None else slope, intercept or 0.0
    ends = sorted((low * slope + intercept, high * slope + intercept))
    return Grey(grey.values * slope + intercept, *ends)


def _windowed(grey: Grey, dataset: pydicom.Dataset, found: Findings) -> Grey:
    """VOI LUT or window (PS3.3 C.11.2); the first where there are several."""
    sequence = dataset.get("VOILUTSequence")
    if sequence:
        return _looked_up(grey, sequence[0], grey.low < 0)
    center, width = _number(dataset.get("WindowCenter")), _number(dataset.get("WindowWidth"))
    if center is None or width is None:
        return grey
    how = str(dataset.get("VOILUTFunction") or "LINEAR").strip().upper()
    if how not in WINDOWS:
        found.warnings.append("VOILUTFunction is unknown: the window was applied as LINEAR")
        how = "LINEAR"
    if not np.isfinite([center, width]).all() or width < (1 if how == "LINEAR" else 1e-9):
        found.warnings.append(f"WindowWidth {width:g} is not valid: no window was applied")
        return grey
    top = 255 if grey.low >= 0 and grey.high <= 255 else 65535
    shown = np.clip(WINDOWS[how](grey.values.astype(np.float64), center, width), 0, 1)
    if shown.min() == shown.max() and grey.values.min() < grey.values.max():
        found.warnings.append("the window of the file shows nothing of it: no window was applied")
        return grey
    return Grey(np.rint(shown * top), 0, top)


def _linear(values: np.ndarray, center: float, width: float) -> np.ndarray:
    """PS3.3 C.11.2.1.2.1."""
    if width == 1:
        return (values > center - 0.5).astype(np.float64)
    return (values - (center - 0.5)) / (width - 1) + 0.5


def _linear_exact(values: np.ndarray, center: float, width: float) -> np.ndarray:
    """PS3.3 C.11.2.1.3.2."""
    return (values - center) / width + 0.5


def _sigmoid(values: np.ndarray, center: float, width: float) -> np.ndarray:
    """PS3.3 C.11.2.1.3.1."""
    return 1 / (1 + np.exp(np.clip(-4 * (values - center) / width, -700, 700)))


WINDOWS = {"LINEAR": _linear, "LINEAR_EXACT": _linear_exact, "SIGMOID": _sigmoid}


def _looked_up(grey: Grey, item: pydicom.Dataset, signed: bool) -> Grey:
    """Grey values through a LUT of any depth (PS3.3 C.11.1.1)."""
    entries, first, bits = (int(value) for value in item.LUTDescriptor)
    entries = entries or 65536
    if signed and first >= 2**15:
        first -= 2**16
    data = item.LUTData
    if isinstance(data, bytes):
        kind = "u1" if len(data) in (entries, entries + entries % 2) else "<u2"
        table = np.frombuffer(data, kind)[:entries]
    else:
        table = np.atleast_1d(np.asarray(data, np.int64))[:entries]
    if len(table) != entries:
        raise ValueError(f"a LUT of {len(table)} values, stated are {entries}")
    place = np.clip(np.rint(grey.values).astype(np.int64) - first, 0, entries - 1)
    high = max(2**bits - 1, int(table.max()))
    return Grey(table.astype(np.int64)[place], 0, high)


def _number(value: Any) -> float | None:
    """The first number of an element, None where it is empty."""
    if value is None or value == "":
        return None
    if isinstance(value, Iterable) and not isinstance(value, str):
        values = list(value)
        return _number(values[0]) if values else None
    return float(value)


def _is_inverted(dataset: pydicom.Dataset) -> bool:
    """Whether low values are to be shown white; a file may say so twice."""
    shape = str(dataset.get("PresentationLUTShape") or "").strip().upper()
    return dataset.PhotometricInterpretation == "MONOCHROME1" or shape == "INVERSE"


# what the header says beside the pixels


def _context(dataset: pydicom.Dataset) -> dict[str, str]:
    """The codes of CONTEXT that a file has."""
    found = {}
    for name in CONTEXT:
        value = dataset.get(name)
        parts = value if isinstance(value, Iterable) and not isinstance(value, str) else [value]
        text = "\\".join(str(part) for part in parts if part not in (None, ""))
        if CODE.fullmatch(text):
            found[name] = text
    return found


def _unused(dataset: pydicom.Dataset) -> tuple[str, ...]:
    """Keywords of the elements of acquisition and display that nothing here uses."""
    found = []
    for tag in dataset.keys():
        shown = tag.group in SHOWN_GROUPS or 0x6000 <= tag.group <= 0x601E
        if shown and not tag.is_private:
            name = _keyword(tag)
            if name and name not in USED and not name.endswith("UID"):
                found.append(name)
    return tuple(dict.fromkeys(found))


def _keyword(tag: Any) -> str:
    """The standard's name of an element; "" for one that it does not know."""
    from pydicom.datadict import keyword_for_tag

    return keyword_for_tag(tag)


def named_view(position: str | None) -> str | None:
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
    return named_view(position)
