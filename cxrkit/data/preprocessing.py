"""Histogram equalisation, 3x3 Gaussian blur, resize, normalisation; arrays in, arrays out.

Park et al. 2021, section 4 (implementation details); what the text leaves open is a field of
`Choices` (SPEC 2.1).
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from cxrkit.config.choices import Choices
from cxrkit.config.vocabulary import known

GREY = 128  # padding; becomes 0 under the default normalisation
LIMITS_SIZE = 256  # px, longer side of the image whose extremes are the limits of the stretch
OUTLIER = 1.0  # times the distance of the 1st and 99th percentile; see `stretch_limits`


def stretch_limits(image: np.ndarray) -> tuple[float, float, int]:
    """The grey values that become black and white, and how many pixels are far outside of them.

    They are the extremes of the image, averaged over blocks to at most 256 px, after outliers are
    left out, and never tighter than the 1st and the 99th percentile. An outlier lies further
    outside of these percentiles than they lie apart: a dead pixel, or a letter written at
    the top of a deeper range. The limits do not depend on the size of an image, nor on the depth in
    which it is stored, and an image without noise or outliers keeps all its grey values apart.

    Args:
        image: any numbers (H, W).

    Returns:
        Lowest and highest grey, and the number of outliers.
    """
    p1, p99, low, high, outliers = _percentiles_and_extremes(image)
    if outliers:  # they must not reach into the averages of their neighbours
        image = np.where((image < low) | (image > high), p1 + (p99 - p1) // 2, image)
    small = _shrunk(image, LIMITS_SIZE)
    return float(min(small.min(), p1)), float(max(small.max(), p99)), outliers


def extremes_without_outliers(image: np.ndarray) -> tuple[float, float, int]:
    """Lowest and highest grey value that is no outlier, and the number of outliers.

    Args:
        image: any numbers (H, W).
    """
    _, _, low, high, outliers = _percentiles_and_extremes(image)
    return float(low), float(high), outliers


def _percentiles_and_extremes(image: np.ndarray) -> tuple[Any, Any, Any, Any, int]:
    """The 1st and 99th percentile, the extremes without outliers, and the number of these."""
    values, counts = _histogram(image)
    shares = np.cumsum(counts) / counts.sum()
    p1, p99 = (values[np.searchsorted(shares, share)] for share in (0.01, 0.99))
    if p1 == p99:  # nearly everything has one value: what differs is the picture
        return values[0], values[-1], values[0], values[-1], 0
    beyond = OUTLIER * (float(p99) - float(p1))
    near = (values >= float(p1) - beyond) & (values <= float(p99) + beyond)  # (n,)
    return p1, p99, values[near][0], values[near][-1], int(counts[~near].sum())


def _histogram(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The grey values of an image in ascending order, and how often each occurs."""
    if image.dtype in (np.uint8, np.uint16):
        levels = 256 if image.dtype == np.uint8 else 65536
        counts = cv2.calcHist([image], [0], None, [levels], [0, levels]).ravel()
        values = np.flatnonzero(counts)
        return values.astype(image.dtype), counts[values]
    return np.unique(image, return_counts=True)


def _shrunk(image: np.ndarray, longest: int) -> np.ndarray:
    """The image with its longer side brought down to `longest` px; a smaller one as it is."""
    scale = longest / max(image.shape)
    if scale >= 1:
        return image
    h, w = (max(1, round(side * scale)) for side in image.shape)
    # in floats: rounded averages would depend on the depth in which the image is stored
    return cv2.resize(image.astype(np.float32), (w, h), interpolation=cv2.INTER_AREA)


def _robust(image: np.ndarray) -> np.ndarray:
    low, high, _ = stretch_limits(image)
    return _linear(image, low, high)


def _min_max(image: np.ndarray) -> np.ndarray:
    """uint8 as it is, anything else by its extremes."""
    if image.dtype == np.uint8:
        return image
    return _linear(image, float(image.min()), float(image.max()))


def _linear(image: np.ndarray, low: float, high: float) -> np.ndarray:
    """Grey from `low` to `high` -> uint8 from 0 to 255, saturated beyond."""
    if image.dtype in (np.uint8, np.uint16):  # each grey value once instead of each pixel
        levels = np.arange(256 if image.dtype == np.uint8 else 65536, dtype=np.float64)
        table = _linear(levels, low, high)
        return cv2.LUT(image, table) if image.dtype == np.uint8 else table[image]
    scaled = (image - low) * (255 / max(high - low, 1e-12))
    return np.rint(np.clip(scaled, 0, 255)).astype(np.uint8)


STRETCH = {"robust": _robust, "min_max": _min_max}


def to_uint8(image: np.ndarray, how: str = "robust") -> np.ndarray:
    """Grey of any depth -> uint8, black to white: what networks, lungs and displays start from.

    Args:
        image: any numbers (H, W).
        how: `Choices.stretch`.

    Returns:
        uint8 (H, W).

    Raises:
        ValueError: `how` is unknown.
    """
    return STRETCH[known(how, STRETCH, "stretch")](image)


def equalize(image: np.ndarray) -> np.ndarray:
    """Histogram equalisation.

    Args:
        image: uint8, or uint16, which is stretched to uint8 first (H, W).

    Returns:
        uint8 (H, W) with a nearly flat histogram.

    Example:
        >>> equalize(np.array([[0, 10], [10, 200]], np.uint8)).tolist()[1][1]
        255
    """
    return cv2.equalizeHist(image if image.dtype == np.uint8 else to_uint8(image))


def blur(image: np.ndarray) -> np.ndarray:
    """3x3 Gaussian, weights 1-2-1 / 4 each way, edges mirrored.

    Args:
        image: (H, W).

    Returns:
        (H, W) of the same dtype.

    Example:
        >>> blur(np.full((4, 4), 7, np.uint8)).tolist()[0]
        [7, 7, 7, 7]
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

    Example:
        >>> resize(np.zeros((40, 60), np.uint8), size=32).shape
        (32, 32)
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

    Example:
        >>> float(normalize(np.array([[0]], np.uint8))[0, 0])
        -2.0
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
    return blur(equalize(resize(image, size, how)))


ORDER = {"equalize_first": _equalize_first, "resize_first": _resize_first}


def _own_size(image: np.ndarray, size: int, how: str) -> np.ndarray:
    return image


def _double_size(image: np.ndarray, size: int, how: str) -> np.ndarray:
    """Twice the side of the input: the grey values and the grain no longer depend on the file."""
    if how == "pad":  # the border comes last; until then the aspect is kept
        scale = 2 * size / max(image.shape)
        height, width = (max(1, round(side * scale)) for side in image.shape)
        smaller = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        return cv2.resize(image, (width, height), interpolation=smaller)
    return resize(image, 2 * size, how)


WORKING_SIZE = {"double": _double_size, "own": _own_size}


def prepare(image: np.ndarray, size: int = 512, choices: Choices = Choices()) -> np.ndarray:
    """Everything before normalisation; this is what the image cache keeps.

    Args:
        image: uint8 or uint16 (H, W).
        size: side in pixels.
        choices: `stretch`, `working_size`, `order` and `resize` are read.

    Returns:
        uint8 (size, size).
    """
    order = ORDER[known(choices.order, ORDER, "order")]
    working = WORKING_SIZE[known(choices.working_size, WORKING_SIZE, "working size")]
    grey = to_uint8(image, choices.stretch)
    if choices.order == "equalize_first":  # the other order equalises at the size of the input
        grey = working(grey, size, choices.resize)
    return order(grey, size, choices.resize)


def preprocess(image: np.ndarray, size: int = 512, choices: Choices = Choices()) -> np.ndarray:
    """An image as the networks see it.

    Args:
        image: uint8 or uint16 (H, W).
        size: side in pixels.
        choices: `stretch`, `working_size`, `resize`, `order` and `normalize` are read.

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
