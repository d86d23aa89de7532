"""The severity map over its film, with contours: what a reader looks at, not a bare grey map.

H W the film as it is stored, h w the picture.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image as Raster
from PIL import ImageDraw, ImageFont

from cxrkit import NOTICE
from cxrkit.config.choices import Choices
from cxrkit.config.sections import Profile
from cxrkit.data import lung_zones, preprocessing

LUNG = (86, 180, 233)  # RGB, sky blue: colour-blind eyes see it beside the white
CONTOUR = (255, 255, 255)
OPACITY = 0.6  # of the map where it is 1
LONGEST = 1024  # px: a larger film is shown smaller
SMALLEST = 512  # px: a smaller film is enlarged, so that lines and letters are fine beside it
LETTERS = 9  # px, the smallest
LEGEND = (
    "severity {score:.1f} of 6: white line from {threshold:.2f}, blue line: lungs and their zones"
)


def severity_overlay(
    pixels: np.ndarray,
    lungs: np.ndarray,
    severity_map: np.ndarray,
    score: float,
    threshold: float,
    choices: Choices,
) -> np.ndarray:
    """Film, severity map and contours in one picture, with a line that says what is seen.

    Args:
        pixels: uint8 or uint16 (H, W).
        lungs: bool (H, W).
        severity_map: (H, W) in [0, 1], 0 outside the lungs.
        score: Severity, 0 to 6.
        threshold: Of the white contour, in (0, 1).
        choices: How greys are stretched and lungs are divided.

    Returns:
        uint8 (h, w, 3), RGB. The longer side of the film is SMALLEST to LONGEST px; the lines of
        text stand below it.
    """
    grey = shown_image(pixels, choices)
    heat = to_image_size(severity_map.astype(np.float32), grey.shape)
    inside = to_image_size(lungs, grey.shape)
    heat = np.clip(heat, 0, 1) * inside
    colours = cv2.applyColorMap(np.rint(255 * heat).astype(np.uint8), cv2.COLORMAP_MAGMA)
    share = OPACITY * heat[..., None]
    grey_rgb = np.repeat(grey[..., None], 3, axis=2)
    picture = np.rint((1 - share) * grey_rgb + share * colours[..., ::-1]).astype(np.uint8)
    picture = np.ascontiguousarray(picture)
    width = max(1, round(max(grey.shape) / 400))
    zones = lung_zones.zones(inside[None], choices)[0]  # (3, 2, h, w)
    for zone in zones.reshape(-1, *inside.shape):
        _outline(picture, zone, LUNG, width)
    _outline(picture, heat >= threshold, CONTOUR, width)
    return _with_text(picture, (LEGEND.format(score=score, threshold=threshold), NOTICE))


def shown_image(pixels: np.ndarray, choices: Choices) -> np.ndarray:
    """The film alone, as large as its overlay.

    Args:
        pixels: uint8 or uint16 (H, W).
        choices: How greys are stretched.

    Returns:
        uint8 (h, w).
    """
    grey = preprocessing.to_uint8(pixels, choices.stretch)
    return cv2.resize(grey, _size(pixels.shape), interpolation=cv2.INTER_AREA)


def _size(shape: Sequence[int]) -> tuple[int, int]:
    """(w, h) of the picture of an image (H, W)."""
    scale = np.clip(max(shape), SMALLEST, LONGEST) / max(shape)
    return max(1, round(shape[1] * scale)), max(1, round(shape[0] * scale))


def to_image_size(
    values: np.ndarray, shape: Sequence[int], profile: Profile | None = None
) -> np.ndarray:
    """A map of the square that a model sees -> the size of the image.

    Args:
        values: Square; bool is resized to the nearest, all else linearly.
        shape: (H, W) of the image.
        profile: Whose resize made the square; the grey border of "pad" is cut off. None = plain.

    Returns:
        (H, W) of the same type.
    """
    if profile and profile.choices.resize == "pad":
        h, w = (max(1, round(side * values.shape[0] / max(shape))) for side in shape)
        values = values[:h, :w]
    size = (shape[1], shape[0])
    if values.dtype == bool:
        grey = cv2.resize(values.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
        return grey.astype(bool)
    return cv2.resize(values, size, interpolation=cv2.INTER_LINEAR)


def _outline(picture: np.ndarray, mask: np.ndarray, colour: Sequence[int], width: int) -> None:
    """Draw the edges of a mask into a picture."""
    edges, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(picture, edges, -1, tuple(colour), width, cv2.LINE_AA)


def _with_text(picture: np.ndarray, lines: Sequence[str]) -> np.ndarray:
    """The picture with lines of text below it, broken where it is too narrow for them."""
    height, width = picture.shape[:2]
    letters = max(LETTERS, round(width / 46))
    font = ImageFont.load_default(letters)
    left = letters // 2
    broken = [part for line in lines for part in _broken(line, font, width - 2 * left)]
    step = round(1.5 * letters)
    sheet = Raster.new("RGB", (width, height + step * len(broken) + letters), "black")
    sheet.paste(Raster.fromarray(picture))
    draw = ImageDraw.Draw(sheet)
    for i, line in enumerate(broken):
        draw.text((left, height + left + step * i), line, fill="white", font=font)
    return np.asarray(sheet)


def _broken(line: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """A line broken between words, so that none is wider than `width` px unless a word is."""
    out = [""]
    for word in line.split():
        longer = f"{out[-1]} {word}".strip()
        if out[-1] and font.getlength(longer) > width:
            out.append(word)
        else:
            out[-1] = longer
    return out
