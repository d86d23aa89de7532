"""Preprocess: histogram equalisation, 3x3 Gaussian blur, resize, normalisation; arrays in, arrays
out.

Park et al. 2021, section 4 (implementation details); what the text leaves open is a field of
`Choices` (SPEC 2.1).
"""

import cv2
import numpy as np

from cxrkit.config.choices import Choices
from cxrkit.config.vocabulary import known

GREY = 128  # padding; becomes 0 under the default normalisation


def to_uint8(image):
    """Grey (H, W) -> uint8: uint8 as it is; anything else min-max scaled to 0-255, since
    equalizeHist takes uint8 only.
    """
    if image.dtype == np.uint8:
        return image
    low, high = float(image.min()), float(image.max())
    return np.rint((image - low) * (255 / max(high - low, 1e-12))).astype(np.uint8)


def equalize(image):
    """Histogram equalisation: uint8 or uint16 (H, W) -> uint8 (H, W) with a nearly flat histogram."""
    return cv2.equalizeHist(to_uint8(image))


def blur(image):
    """3x3 Gaussian, weights 1-2-1 / 4 each way, edges mirrored: (H, W) -> (H, W), same dtype."""
    return cv2.GaussianBlur(image, (3, 3), 0)


def _plain(image, size):
    h, w = image.shape
    # area average when shrinking: no aliasing of ribs and noise
    how = cv2.INTER_AREA if max(h, w) > size else cv2.INTER_LINEAR
    return cv2.resize(image, (size, size), interpolation=how)


def _pad(image, size):
    h, w = image.shape
    scale = size / max(h, w)
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    inner = cv2.resize(
        image, (max(1, round(w * scale)), max(1, round(h * scale))), interpolation=how
    )
    return cv2.copyMakeBorder(
        inner, 0, size - inner.shape[0], 0, size - inner.shape[1], cv2.BORDER_CONSTANT, value=GREY
    )


RESIZE = {"plain": _plain, "pad": _pad}


def resize(image, size=512, how="plain"):
    """(H, W) -> (size, size): `how` is Choices.resize, "plain" (text) or "pad" (author: aspect
    kept, rest grey).
    """
    return RESIZE[known(how, RESIZE, "resize")](image, size)


def _zscore(image):
    return (image - image.mean()) / max(float(image.std()), 1e-6)


NORMALIZE = {
    "fixed": lambda image: (image - 128) / 64,
    # mean over the three channels of ImageNet's mean and deviation
    "imagenet": lambda image: (image / 255 - 0.449) / 0.226,
    "zscore": _zscore,
    # [-1, 1], the segmenter's input; no value of Choices
    "signed": lambda image: image / 127.5 - 1,
}


def normalize(image, how="fixed", out=None):
    """Grey 0-255 (..., H, W) -> float32 of the same shape: `how` is Choices.normalize; "fixed"
    gives [-2, 1.98].

    A uint8 (H, W) goes through a table of 256 values, written into `out` where that is given.
    """
    way = NORMALIZE[known(how, NORMALIZE, "normalisation")]
    if image.dtype == np.uint8 and image.ndim == 2 and how != "zscore":
        return cv2.LUT(image, way(np.arange(256, dtype=np.float32)), dst=out)
    found = way(np.asarray(image, np.float32)).astype(np.float32, copy=False)
    return found if out is None else np.copyto(out, found)


ORDER = {
    "equalize_first": lambda image, size, how: resize(blur(equalize(image)), size, how),
    "resize_first": lambda image, size, how: blur(equalize(resize(to_uint8(image), size, how))),
}


def prepare(image, size=512, choices=Choices()):
    """Everything before normalisation: uint8 or uint16 (H, W) -> uint8 (size, size). This is what
    the image cache keeps.
    """
    return ORDER[known(choices.order, ORDER, "order")](image, size, choices.resize)


def preprocess(image, size=512, choices=Choices()):
    """A film as the networks see it: uint8 or uint16 (H, W) -> float32 (size, size).

    Choices read: resize, order, normalize (SPEC 2.1, rows 15, 17, 20). Raises ValueError for
    another shape or dtype.
    """
    if getattr(image, "ndim", 0) != 2 or image.dtype not in (np.uint8, np.uint16):
        raise ValueError(
            f"preprocess takes uint8 or uint16 (H, W), got {getattr(image, 'dtype', type(image))} "
            f"{getattr(image, 'shape', '')}; read the file with data.load_image(path).pixels"
        )
    return normalize(prepare(image, size, choices), choices.normalize)
