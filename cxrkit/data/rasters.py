"""PNG, JPEG, TIFF and whatever else Pillow reads -> one grey image in the depth of the file."""

from __future__ import annotations

import struct
import warnings
import zlib
from pathlib import Path

import cv2
import numpy as np
from PIL import Image as Raster
from PIL import ImageOps

from cxrkit.data import jpeg
from cxrkit.data.image_types import SCALED, Image, ImageError, check_size, luminance, unsigned

PNG = b"\x89PNG\r\n\x1a\n"
TIFF = {b"II*\0": "<", b"MM\0*": ">"}  # -> byte order
PHOTOMETRIC, BITS = 262, 258  # tags of a TIFF file
COMPRESSION, LENGTHS = 259, 279
NEEDED = ((256,), (257,), (PHOTOMETRIC,), (273, 324), (LENGTHS, 325))  # either of a pair


def read(path: Path) -> Image:
    """The image in a file.

    Args:
        path: of the file.

    Raises:
        ImageError: it is damaged, too large, holds several images, or is no image.
    """
    try:
        content = path.read_bytes()
        remarks = _check_png(content, path) if content.startswith(PNG) else ()
        with jpeg.LISTENING, warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            raster = Raster.open(path)
        with raster:
            remarks += _remarks(caught)
            check_size(path, *raster.size)
            if getattr(raster, "n_frames", 1) > 1:
                raise ImageError(f"{path}: {raster.n_frames} frames, not one image; export one")
            if content.startswith(b"\xff\xd8"):
                remarks += _check_jpeg(content, path)
            if content[:4] in TIFF:
                remarks += _check_tiff(raster, content)
            return _grey(raster, content, path, remarks)
    except ImageError:
        raise
    except Exception as error:  # damaged files raise many kinds in Pillow
        raise ImageError(
            f"{path}: not an image, or a damaged one ({error}); fetch or export it again"
        ) from None


def _remarks(caught: list[warnings.WarningMessage]) -> tuple[str, ...]:
    """What Pillow remarks on a header; a size over the limit is refused in our own words."""
    others = [w for w in caught if not issubclass(w.category, Raster.DecompressionBombWarning)]
    return tuple(f"the header is not to the standard ({str(w.message)[:120]})" for w in others)


def _check_png(content: bytes, path: Path) -> tuple[str, ...]:
    """Compare the checksums of a PNG file, which Pillow leaves out for the pixels."""
    place = len(PNG)
    while place + 12 <= len(content):
        length, name = struct.unpack(">I4s", content[place : place + 8])
        end = place + 8 + length
        stated = content[end : end + 4]
        if len(stated) < 4:
            break
        if zlib.crc32(content[place + 4 : end]) != int.from_bytes(stated, "big"):
            raise ImageError(
                f"{path}: a damaged one, the checksum of its part {name!r} at byte {place} is "
                "wrong; fetch or export it again"
            )
        if name == b"IEND":
            return ()
        place = end + 4
    raise ImageError(f"{path}: a damaged one, cut off before its end; fetch or export it again")


def _check_tiff(raster: Raster.Image, content: bytes) -> tuple[str, ...]:
    """What libtiff would remark on the directory of a TIFF file; Pillow keeps it to itself."""
    order = TIFF[content[:4]]
    start = struct.unpack(order + "I", content[4:8])[0]
    count = struct.unpack(order + "H", content[start : start + 2])[0]
    places = range(start + 2, start + 2 + 12 * count, 12)
    tags = [struct.unpack(order + "HH", content[place : place + 4]) for place in places]
    numbers = [number for number, _ in tags]
    remarks = []
    if numbers != sorted(set(numbers)) or any(not 1 <= kind <= 18 for _, kind in tags):
        remarks.append("the directory of the file is out of order: compare it with its source")
    missing = [names[0] for names in NEEDED if not set(names) & set(numbers)]
    if missing:
        remarks.append(f"the directory lacks tag {missing[0]}: compare it with its source")
    known = raster.tag_v2  # pyright: ignore[reportAttributeAccessIssue]
    if known.get(COMPRESSION, 1) == 1 and LENGTHS in known:
        bits = sum(known.get(BITS, (1,)))
        needed = (raster.width * bits + 7) // 8 * raster.height
        if sum(known[LENGTHS]) != needed:
            remarks.append("the directory states another number of bytes than the picture needs")
    return tuple(remarks)


def _check_jpeg(content: bytes, path: Path) -> tuple[str, ...]:
    """Refuse a JPEG stream that libjpeg calls torn; warn of what else it remarks."""
    words = jpeg.remark(content)
    if words is None:
        return ()
    if jpeg.is_torn(words):
        raise ImageError(f"{path}: a damaged one, libjpeg says {words!r}; fetch or export it again")
    return (f"libjpeg says {words!r}: compare the picture with its source",)


def _grey(raster: Raster.Image, content: bytes, path: Path, remarks: tuple[str, ...]) -> Image:
    """Pillow image -> Image in 8 or 16 bit."""
    mode = raster.mode
    if _is_deep_colour(raster, content):
        pixels = _deep_colour(content, path)
        turned = _turn(pixels, raster.getexif().get(0x0112, 1))
        return Image(turned, (), 16, notes=("16-bit colour made grey",), warnings=remarks)
    raster.load()
    turned = ImageOps.exif_transpose(raster)
    if mode not in ("L", "1", "F") and not mode.startswith("I"):
        if "A" in mode or "transparency" in turned.info:
            turned = turned.convert("RGBA")
            turned = Raster.alpha_composite(Raster.new("RGBA", turned.size, "black"), turned)
        turned = turned.convert("RGB").convert("L")
    pixels = np.asarray(turned.convert("L") if mode == "1" else turned)
    notes = () if turned.mode == mode else (f"{mode} made grey",)
    pixels = _bright_is_dense(pixels, raster)
    bits = 8 * pixels.dtype.itemsize
    pixels, clipped = unsigned(pixels, path)
    scaled = SCALED in raster.info and pixels.dtype == np.uint8
    return Image(pixels, (), bits, notes=(*notes, *clipped), warnings=remarks, scaled=scaled)


def _is_deep_colour(raster: Raster.Image, content: bytes) -> bool:
    """Whether a file holds several channels of 16 bits, of which Pillow keeps the upper 8."""
    if content.startswith(PNG):
        return content[24] == 16 and content[25] in (2, 4, 6)  # bits and kind of colour, in IHDR
    depths = getattr(raster, "tag_v2", {}).get(BITS, ())
    return len(depths) > 1 and max(depths) > 8


def _deep_colour(content: bytes, path: Path) -> np.ndarray:
    """Grey, uint16 (H, W), of several channels of 16 bits."""
    found = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    if found is None or found.dtype != np.uint16:
        raise ImageError(
            f"{path}: colour of more than 8 bits that cannot be read in its depth; export it as "
            "16-bit grey"
        )
    if found.ndim == 3 and found.shape[2] > 2:
        found = found[..., [2, 1, 0, 3][: found.shape[2]]]  # OpenCV gives blue first
    return luminance(found) if found.ndim == 3 else found


def _turn(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Pixels as EXIF wants them shown, as `ImageOps.exif_transpose` does it."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.T
    rows = -1 if orientation in (3, 4, 7, 8) else 1
    columns = -1 if orientation in (2, 3, 6, 7) else 1
    return np.ascontiguousarray(pixels[::rows, ::columns])


def _bright_is_dense(pixels: np.ndarray, raster: Raster.Image) -> np.ndarray:
    """Grey of a TIFF file in which 0 is white, inverted; Pillow does so for 8 bits alone."""
    tags = getattr(raster, "tag_v2", {})
    if tags.get(PHOTOMETRIC) != 0 or raster.mode in ("1", "L", "P"):
        return pixels
    if pixels.dtype == np.uint16:
        return np.uint16(2 ** tags.get(BITS, (16,))[0] - 1) - pixels
    return -pixels.astype(np.int64 if pixels.dtype.kind in "iu" else np.float64)
