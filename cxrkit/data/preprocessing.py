"""Histogram equalisation, 3x3 Gaussian blur, resize, normalisation; arrays in, arrays out.

Park et al. 2021, section 4 (implementation details); what the text leaves open is a field of
`Choices` (SPEC 2.1).
"""

from __future__ import annotations

import cv2
import numpy as np

from cxrkit.config.choices import Choices
from cxrkit.config.vocabulary import known

GREY = 128  # padding; becomes 0 under the default normalisation


def to_uint8(image: np.ndarray) -> np.ndarray:
    """Grey (H, W) -> uint8: uint8 as it is, anything else stretched to 0-255.

    `equalizeHist` takes uint8 only.
    """
    if image.dtype == np.uint8:
        return image
    low, high = float(image.min()), float(image.max())
    return np.rint((image - low) * (255 / max(high - low, 1e-12))).astype(np.uint8)


def equalize(image: np.ndarray) -> np.ndarray:
    """Histogram equalisation.

    Args:
        image: uint8 or uint16 (H, W).

    Returns:
        uint8 (H, W) with a nearly flat histogram.
    """
    return cv2.equalizeHist(to_uint8(image))


def blur(image: np.ndarray) -> np.ndarray:
    """3x3 Gaussian, weights 1-2-1 / 4 each way, edges mirrored.

    Args:
        image: (H, W).

    Returns:
        (H, W) of the same dtype.
    """
    return cv2.GaussianBlur(image, (3, 3), 0)


def _plain(image: np.ndarray, size: int) -> np.ndarray:
    """(H, W) -> (size, size), the aspect is lost."""
    # area average when shrinking: no aliasing of ribs and noise
    how = cv2.INTER_AREA if max(image.shape) > size else cv2.INTER_LINEAR
    return cv2.resize(image, (size, size), interpolation=how)


def _pad(image: np.ndarray, size: int) -> np.ndarray:
    """(H, W) -> (size, size), top left, the rest grey."""
    h, w = image.shape
    scale = size / max(h, w)
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    width, height = max(1, round(w * scale)), max(1, round(h * scale))
    inner = cv2.resize(image, (width, height), interpolation=how)
    below, right = size - height, size - width
    return cv2.copyMakeBorder(inner, 0, below, 0, right, cv2.BORDER_CONSTANT, value=GREY)


RESIZE = {"plain": _plain, "pad": _pad}


def resize(image: np.ndarray, size: int = 512, how: str = "plain") -> np.ndarray:
    """Make an image square.

    Args:
        image: (H, W).
        size: side in pixels.
        how: `Choices.resize`: "plain" (text) or "pad" (author: aspect kept, rest grey).

    Returns:
        (size, size) of the same dtype.

    Raises:
        ValueError: `how` is unknown.
    """
    return RESIZE[known(how, RESIZE, "resize")](image, size)


def _fixed(image: np.ndarray) -> np.ndarray:
    return (image - 128) / 64


def _imagenet(image: np.ndarray) -> np.ndarray:
    """By the mean, over the three channels, of ImageNet's mean and deviation."""
    return (image / 255 - 0.449) / 0.226


def _zscore(image: np.ndarray) -> np.ndarray:
    return (image - image.mean()) / max(float(image.std()), 1e-6)


def _signed(image: np.ndarray) -> np.ndarray:
    """[-1, 1], the segmenter's input; no value of Choices."""
    return image / 127.5 - 1


NORMALIZE = {"fixed": _fixed, "imagenet": _imagenet, "zscore": _zscore, "signed": _signed}


def normalize(image: np.ndarray, how: str = "fixed", out: np.ndarray | None = None) -> np.ndarray:
    """Grey values -> the range that a network takes.

    A uint8 (H, W) goes through a table of 256 values.

    Args:
        image: (..., H, W), 0-255.
        how: `Choices.normalize`; "fixed" gives [-2, 1.98]; "signed" is the segmenter's.
        out: float32 array of the same shape to write into.

    Returns:
        float32 of the same shape; `out` where it is given.

    Raises:
        ValueError: `how` is unknown.
    """
    convert = NORMALIZE[known(how, NORMALIZE, "normalisation")]
    if image.dtype == np.uint8 and image.ndim == 2 and how != "zscore":
        table = convert(np.arange(256, dtype=np.float32))
        direct = out is not None and out.flags.c_contiguous  # OpenCV writes into no other array
        found = cv2.LUT(image, table, dst=out if direct else None)
    else:
        found = convert(np.asarray(image, np.float32)).astype(np.float32, copy=False)
    if out is None:
        return found
    if found is not out:
        out[...] = found
    return out


def normalize_batch(images: np.ndarray, how: str = "fixed") -> np.ndarray:
    """A batch as a network takes it, each image as `normalize` gives it.

    Args:
        images: uint8 (B, S, S).
        how: `Choices.normalize`, or "signed".

    Returns:
        float32 (B, S, S).
    """
    B, H, W = images.shape
    if how != "zscore":  # pointwise: the table of grey values serves all images at once
        return normalize(images.reshape(B * H, W), how).reshape(B, H, W)
    return np.stack([normalize(image, how) for image in images])


def _equalize_first(image: np.ndarray, size: int, how: str) -> np.ndarray:
    return resize(blur(equalize(image)), size, how)


def _resize_first(image: np.ndarray, size: int, how: str) -> np.ndarray:
    return blur(equalize(resize(to_uint8(image), size, how)))


ORDER = {"equalize_first": _equalize_first, "resize_first": _resize_first}


def prepare(image: np.ndarray, size: int = 512, choices: Choices = Choices()) -> np.ndarray:
    """Everything before normalisation; this is what the image cache keeps.

    Args:
        image: uint8 or uint16 (H, W).
        size: side in pixels.
        choices: `order` and `resize` are read.

    Returns:
        uint8 (size, size).
    """
    order = ORDER[known(choices.order, ORDER, "order")]
    return order(image, size, choices.resize)


def preprocess(image: np.ndarray, size: int = 512, choices: Choices = Choices()) -> np.ndarray:
    """An image as the networks see it.

    Args:
        image: uint8 or uint16 (H, W).
        size: side in pixels.
        choices: `resize`, `order` and `normalize` are read (SPEC 2.1, rows 15, 17, 20).

    Returns:
        float32 (size, size).

    Raises:
        ValueError: another shape or dtype.
    """
    if getattr(image, "ndim", 0) != 2 or image.dtype not in (np.uint8, np.uint16):
        raise ValueError(
            f"preprocess takes uint8 or uint16 (H, W), got {getattr(image, 'dtype', type(image))} "
            f"{getattr(image, 'shape', '')}; read the file with data.load_image(path).pixels"
        )
    return normalize(prepare(image, size, choices), choices.normalize)
