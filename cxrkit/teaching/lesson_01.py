"""Exercises of lesson 01, preprocessing."""

from __future__ import annotations

import numpy as np

from cxrkit.data.preprocessing import equalize
from cxrkit.teaching.behaviour import drawn_fault, output_of
from cxrkit.teaching.exercises import Exercise
from cxrkit.teaching.sealed import word_fault

LEVELS_APART = 1  # two roundings of one value
BORDER, GREY = 20, 8  # width and grey level of the frame of exercise 01.3


def _draw_image() -> np.ndarray:
    """A film of uneven greys, many of them the darkest, (60, 80)."""
    rng = np.random.default_rng()
    values = rng.gamma(2.0, 18.0, (60, 80)) + 14
    return values.clip(24, 231).astype(np.uint8)


def _stretched(image: np.ndarray) -> np.ndarray:
    low, high = float(image.min()), float(image.max())
    return ((image - low) / (high - low) * 255).round()


def _ranks(image: np.ndarray) -> np.ndarray:
    """Share of pixels at most as bright, without sending the darkest level to 0."""
    ordered = np.sort(image, axis=None)
    return np.searchsorted(ordered, image, side="right") / image.size * 255


def _ranks_below(image: np.ndarray) -> np.ndarray:
    """Share of pixels that are darker."""
    ordered = np.sort(image, axis=None)
    return np.searchsorted(ordered, image, side="left") / image.size * 255


def equalize_fault(answer: object) -> str:
    """What is wrong with `equalise(image)`, against OpenCV by way of the package."""
    image = _draw_image()
    found, fault = output_of(answer, image.copy())
    if fault:
        return fault
    found = np.asarray(found)
    if found.shape != image.shape:
        return f"a film of shape {image.shape} became {found.shape}"
    if np.issubdtype(found.dtype, np.floating) and found.max() <= 1:
        return "the values are shares, 0 to 1; spread them over 0 to 255"
    if _within(found, equalize(image)):
        return ""
    if _within(found, _stretched(image)):
        return "that stretches the range of the greys; equalisation replaces a grey by its rank"
    if _within(found, _ranks(image)):
        return "the ranks are right, but the darkest level of the film must become 0"
    if _within(found, _ranks_below(image)):
        return "count the pixels that are at most as bright, the equally bright ones too"
    apart = np.abs(found.astype(float) - equalize(image)).max()
    return f"it differs from the package's by up to {apart:.0f} grey levels"


def _within(found: np.ndarray, expected: np.ndarray) -> bool:
    return bool(np.abs(found.astype(float) - expected).max() <= LEVELS_APART)


def package_inside_moves(image: np.ndarray) -> float:
    """How far a dark frame moves the equalised pixels inside it, in mean grey levels.

    Args:
        image: grey values (H, W), uint8.
    """
    inside = image[BORDER:-BORDER, BORDER:-BORDER]
    framed = np.pad(inside, BORDER, constant_values=GREY)
    difference = equalize(framed).astype(float) - equalize(image).astype(float)
    return float(np.abs(difference[BORDER:-BORDER, BORDER:-BORDER]).mean())


def _wraps_around(image: np.ndarray) -> float:
    framed = np.pad(image[BORDER:-BORDER, BORDER:-BORDER], BORDER, constant_values=GREY)
    wrapped = np.abs(equalize(framed) - equalize(image))  # uint8
    return float(wrapped[BORDER:-BORDER, BORDER:-BORDER].mean())


def _whole_image(image: np.ndarray) -> float:
    framed = np.pad(image[BORDER:-BORDER, BORDER:-BORDER], BORDER, constant_values=GREY)
    return float(np.abs(equalize(framed).astype(float) - equalize(image)).mean())


def _against_raw(image: np.ndarray) -> float:
    framed = np.pad(image[BORDER:-BORDER, BORDER:-BORDER], BORDER, constant_values=GREY)
    difference = equalize(framed).astype(float) - image
    return float(np.abs(difference[BORDER:-BORDER, BORDER:-BORDER]).mean())


def _draw_one_image() -> tuple[np.ndarray]:
    return (_draw_image(),)


def frame_fault(answer: object) -> str:
    """What is wrong with `inside_moves(image)`."""
    wrong = {
        "uint8 has no negative numbers: 3 - 5 is 254; convert before you subtract": _wraps_around,
        "the frame itself is counted; take the mean over the inside alone": _whole_image,
        "compare with the equalised film, not with the raw one": _against_raw,
    }
    return drawn_fault(answer, _draw_one_image, package_inside_moves, wrong, ("the mean change",))


def twice_fault(answer: object) -> str:
    """What is wrong with the letter of what a second equalisation does."""
    wrong = {
        "a55950e9ad398429d39443d9": "the histogram is flat already: is there anything to spread?",
        "643e8268fc81c6ef60ce7dd5": "equalisation goes by ranks, and ranks have no way back",
    }
    return word_fault("01.2", answer, "d0a39823ac7971df06d4450c", wrong)


def normalisation_fault(answer: object) -> str:
    """What is wrong with the name of the normalisation that gives all films one mean."""
    wrong = {
        "aa22a74878a831a9be8a88c7": "it treats every film alike, so a brighter film stays brighter"
    }
    return word_fault("01.4", answer, "93b721a59d9235edb312b1ee", wrong)


EXERCISES = (
    Exercise(
        "01.1",
        "core",
        (
            "`np.bincount(image.ravel(), minlength=256)` counts the pixels of each grey level.",
            "Its `cumsum` is the number of pixels at most as bright as each level. The darkest "
            "level of the film becomes 0.",
            "A table of 256 entries: (below - below[darkest]) / (pixels - below[darkest]) * 255, "
            "rounded, cut to 0 and 255, as uint8; then `table[image]`.",
        ),
        equalize_fault,
        "Your function gives what OpenCV gives, to one grey level.",
    ),
    Exercise(
        "01.2",
        "warm-up",
        (
            "Look at the histogram of the second panel of the chain.",
            "Equalisation replaces a grey by its rank. What is the rank of a rank?",
            "Try it: the mean of the absolute difference of one and two equalisations, in grey "
            "levels.",
        ),
        twice_fault,
        "A flat histogram is its own image: ranks of ranks are the ranks.",
    ),
    Exercise(
        "01.3",
        "core",
        (
            "Two equalised films are compared: the original, and a copy with a frame.",
            "Set the outer 20 pixels of a copy to 8. Convert to int before you subtract.",
            "`framed[20:-20, 20:-20]` is the inside: equalise both whole films, subtract, cut out "
            "the inside, then the mean of the absolute values.",
        ),
        frame_fault,
        "The grey of the lungs depends on pixels that show no lung.",
    ),
    Exercise(
        "01.4",
        "warm-up",
        (
            "Try both on two films, one twice as bright as the other.",
            "One of them uses the same two numbers for all films, the other those of the film.",
            "`data.normalize(film, how).mean()` for each film of the first figure.",
        ),
        normalisation_fault,
        "It takes the film's own mean away. After equalisation there is little left to gain.",
    ),
)
