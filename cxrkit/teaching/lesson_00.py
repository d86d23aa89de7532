"""Exercises of lesson 00, where the films come from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from cxrkit.simulation import patterns
from cxrkit.simulation.disease import Lesion
from cxrkit.teaching.behaviour import drawn_fault, output_of
from cxrkit.teaching.exercises import Exercise

EDGE = 10  # columns at each side, of exercise 00.2
DARK = 20  # grey level, of exercise 00.2
PATIENTS = 40  # of exercise 00.3


def package_magnification(distance: float, height: float) -> float:
    """How much larger a point source draws what lies above the detector.

    Args:
        distance: of source and detector, in mm.
        height: of the object above the detector, in mm.
    """
    return 1 / (1 - height / distance)


def _of_height(distance: float, height: float) -> float:
    return 1 + height / distance


def _inverse(distance: float, height: float) -> float:
    return 1 - height / distance


def _near_source(distance: float, height: float) -> float:
    return distance / height


def _draw_beam() -> tuple[float, float]:
    rng = np.random.default_rng()
    return float(rng.uniform(900, 2000)), float(rng.uniform(80, 300))


def magnification_fault(answer: object) -> str:
    """What is wrong with `magnification(distance, height)`."""
    wrong = {
        "that is what the object is smaller by; on the film it is larger": _inverse,
        "close, for small heights only: compare two similar triangles with their tip at the "
        "source": _of_height,
        "measure both sides of the triangles from the source, not from the detector": _near_source,
    }
    return drawn_fault(answer, _draw_beam, package_magnification, wrong, ("the magnification",))


def package_black_edges(images: np.ndarray) -> float:
    """Share of films whose left and right edge are dark on average.

    Args:
        images: grey values (n, H, W), uint8.
    """
    width = images.shape[2]
    columns = [*range(EDGE), *range(width - EDGE, width)]
    return float((images[:, :, columns].astype(float).mean(axis=(1, 2)) < DARK).mean())


def _left_alone(images: np.ndarray) -> float:
    return float((images[:, :, :EDGE].mean(axis=(1, 2)) < DARK).mean())


def _rows(images: np.ndarray) -> float:
    return package_black_edges(images.transpose(0, 2, 1))


def _pixels(images: np.ndarray) -> float:
    edges = np.concatenate([images[:, :, :EDGE], images[:, :, -EDGE:]], axis=2)
    return float((edges < DARK).mean())


def _draw_images() -> tuple[np.ndarray]:
    rng = np.random.default_rng()
    images = rng.integers(60, 255, (23, 48, 40), dtype=np.uint8)
    for edge in (np.s_[:, :, :EDGE], np.s_[:, :, -EDGE:], np.s_[:, :EDGE], np.s_[:, -EDGE:]):
        dark = rng.random(23) < 0.6
        images[dark] = _darkened(images[dark], edge, rng)
    return (images,)


def _darkened(images: np.ndarray, edge: tuple, rng: np.random.Generator) -> np.ndarray:
    images = images.copy()
    images[edge] = rng.integers(0, 12, images[edge].shape)
    return images


def edges_fault(answer: object) -> str:
    """What is wrong with `black_edges(films)`."""
    wrong = {
        "only the left edge is measured; take the last ten columns too": _left_alone,
        "those are the first and last rows; columns are the last dimension": _rows,
        "that is the share of dark pixels; asked is the share of films with a dark mean": _pixels,
    }
    return drawn_fault(answer, _draw_images, package_black_edges, wrong, ("the share",))


def kinds_fault(answer: object) -> str:
    """What is wrong with `mean_of_each_kind(patients)`."""
    rng = np.random.default_rng()
    patients = [patterns.tuberculosis(rng) for _ in range(PATIENTS)]
    found, fault = output_of(answer, patients)
    if fault:
        return fault
    if not isinstance(found, dict):
        return f"wanted is a dictionary kind -> number, not a {type(found).__name__}"
    total = Counter(lesion.kind for patient in patients for lesion in patient)
    if set(found) != set(total):
        return f"the kinds of these patients are {sorted(total)}, not {sorted(map(str, found))}"
    if all(np.isclose(found[kind], total[kind] / PATIENTS) for kind in total):
        return ""
    if all(found[kind] == total[kind] for kind in total):
        return "those are the totals; divide by the number of patients"
    if all(np.isclose(found[kind], _share_with(patients, kind)) for kind in total):
        return "that is the share of patients with the kind; one patient can have several of them"
    if np.isclose(sum(found.values()), 1):
        return "those are shares of all lesions; asked is the mean number in a patient"
    return "the kinds are right, the numbers are not"


def _share_with(patients: Sequence[Sequence[Lesion]], kind: str) -> float:
    return float(np.mean([kind in [lesion.kind for lesion in patient] for patient in patients]))


EXERCISES = (
    Exercise(
        "00.1",
        "warm-up",
        (
            "Draw the source, the object and its shadow: two triangles share the tip at the "
            "source and have the same angles.",
            "In similar triangles all sides have the same ratio. Both distances are measured from "
            "the source.",
            "The shadow is at `distance` from the source, the object at `distance - height`. The "
            "magnification is their ratio.",
        ),
        magnification_fault,
        "The nearer the source and the farther from the detector, the larger: that is AP.",
    ),
    Exercise(
        "00.2",
        "core",
        (
            "First one number a film: the mean grey of its two edges.",
            "The last dimension holds the columns. `np.concatenate` puts the first ten and the "
            "last ten side by side.",
            "Mean over the last two dimensions, compare with 20, mean of the answers over the "
            "films.",
        ),
        edges_fault,
        "Hospitals that collimate have black edges. A model can tell them apart without a lung.",
    ),
    Exercise(
        "00.3",
        "project",
        (
            "Each patient is a list of lesions, and each lesion has a `kind`.",
            "`collections.Counter` counts the kinds of all lesions of all patients.",
            "Count the kinds over all patients, then divide each count by the number of patients.",
        ),
        kinds_fault,
        "Tuberculosis is many small things at the top of the lungs: nodules and cavities.",
    ),
)
