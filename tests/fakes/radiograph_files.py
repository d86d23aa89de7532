"""Radiographs written as every kind of file that the readers take, as DICOM with any header."""

from __future__ import annotations

import io
import zlib
from pathlib import Path

import cv2
import numpy as np
from PIL import Image as Raster

DROPPED = object()  # as the value of a tag: leave it out


def dicom_dataset(pixels: np.ndarray, **tags: object):
    """A DX image, explicit little endian; tags override what follows from the pixels."""
    import pydicom
    from pydicom.uid import (
        DigitalXRayImageStorageForPresentation,
        ExplicitVRLittleEndian,
        generate_uid,
    )

    dataset = pydicom.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    kind = DigitalXRayImageStorageForPresentation
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = kind
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = generate_uid()
    colour = pixels.ndim == 3
    dataset.Rows, dataset.Columns = pixels.shape[:2]
    dataset.SamplesPerPixel = pixels.shape[2] if colour else 1
    dataset.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
    if colour:
        dataset.PlanarConfiguration = 0
    dataset.BitsAllocated = dataset.BitsStored = 8 * pixels.dtype.itemsize
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    dataset.ViewPosition = "PA"
    for name, value in tags.items():
        if value is DROPPED:
            delattr(dataset, name)
        else:
            setattr(dataset, name, value)
    dataset.HighBit = dataset.BitsStored - 1
    content = pixels.tobytes()
    dataset.PixelData = content + b"\0" * (len(content) % 2)
    dataset["PixelData"].VR = "OB" if pixels.dtype.itemsize == 1 else "OW"
    return dataset


def write_dicom(path: Path, pixels: np.ndarray, **tags: object) -> Path:
    """The same as a file."""
    dicom_dataset(pixels, **tags).save_as(path, enforce_file_format=True)
    return path


def write_deflated(path: Path, pixels: np.ndarray, **tags: object) -> Path:
    """A file in the deflated transfer syntax."""
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    dataset = dicom_dataset(pixels, **tags)
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    dataset.save_as(path, enforce_file_format=True)
    return path


def compress(source: Path, target: Path, syntax: str) -> Path:
    """A file in another transfer syntax, by its name in GDCM."""
    import gdcm

    reader, change = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax()
    writer = gdcm.ImageWriter()
    reader.SetFileName(str(source))
    assert reader.Read()
    change.SetTransferSyntax(gdcm.TransferSyntax(getattr(gdcm.TransferSyntax, syntax)))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer.SetFileName(str(target))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()
    return target


def write_baseline_jpeg_dicom(path: Path, grey: np.ndarray) -> Path:
    """A DICOM file that holds an 8-bit JPEG."""
    from pydicom.encaps import encapsulate
    from pydicom.uid import JPEGBaseline8Bit

    dataset = dicom_dataset(grey)
    stream = cv2.imencode(".jpg", grey)[1].tobytes()
    dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    dataset.PixelData = encapsulate([stream])
    dataset["PixelData"].is_undefined_length = True
    dataset["PixelData"].VR = "OB"
    dataset.save_as(path, enforce_file_format=True)
    return path


def tiff(pixels: np.ndarray, **tags: int) -> bytes:
    """A TIFF file with tags of one's own, such as 262 (photometric) = 0 (white is zero)."""
    content = io.BytesIO()
    image = Raster.fromarray(pixels)
    image.save(content, "TIFF", tiffinfo={int(name[1:]): value for name, value in tags.items()})
    return content.getvalue()


def grey_alpha_png(grey: np.ndarray, alpha: np.ndarray) -> bytes:
    """A PNG file of grey and alpha in 16 bits, which no library at hand writes."""

    def chunk(name: bytes, data: bytes) -> bytes:
        crc = zlib.crc32(name + data).to_bytes(4, "big")
        return len(data).to_bytes(4, "big") + name + data + crc

    h, w = grey.shape
    rows = np.stack([grey, alpha], -1).astype(">u2").reshape(h, -1)
    lines = b"".join(b"\0" + row.tobytes() for row in rows)
    header = w.to_bytes(4, "big") + h.to_bytes(4, "big") + bytes([16, 4, 0, 0, 0])
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(lines)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(name, data) for name, data in parts)


def every_reader(folder: Path, grey: np.ndarray) -> dict[str, Path]:
    """One sound file for each reader and decoder: name -> path.

    Args:
        folder: where they go.
        grey: uint8 (H, W).
    """
    deep = grey.astype(np.uint16) * 16
    found = {}

    def keep(name: str, content: bytes) -> None:
        found[name] = folder / name
        found[name].write_bytes(content)

    keep("grey.png", cv2.imencode(".png", grey)[1].tobytes())
    keep("deep.png", cv2.imencode(".png", deep)[1].tobytes())
    keep("rgb48.png", cv2.imencode(".png", cv2.merge([deep] * 3))[1].tobytes())
    keep("la16.png", grey_alpha_png(deep, np.full_like(deep, 65535)))
    keep("grey.jpg", cv2.imencode(".jpg", grey)[1].tobytes())
    progressive = [cv2.IMWRITE_JPEG_PROGRESSIVE, 1, cv2.IMWRITE_JPEG_RST_INTERVAL, 4]
    keep("progressive.jpg", cv2.imencode(".jpg", cv2.merge([grey] * 3), progressive)[1].tobytes())
    keep("plain.tif", tiff(deep))
    for name, how in {"lzw": "tiff_lzw", "deflate": "tiff_adobe_deflate"}.items():
        content = io.BytesIO()
        Raster.fromarray(grey).save(content, "TIFF", compression=how)
        keep(f"{name}.tif", content.getvalue())
    found["plain.dcm"] = write_dicom(folder / "plain.dcm", deep, BitsStored=12)
    found["deflated.dcm"] = write_deflated(folder / "deflated.dcm", deep, BitsStored=12)
    found["jpeg.dcm"] = write_baseline_jpeg_dicom(folder / "jpeg.dcm", grey)
    for name in ("RLELossless", "JPEG2000Lossless", "JPEGLosslessProcess14_1", "JPEGLSLossless"):
        found[f"{name}.dcm"] = compress(found["plain.dcm"], folder / f"{name}.dcm", name)
    return found
