"""The radiograph: from line integrals to grey values.

Beer-Lambert transmission, scatter, quantum noise, detector blur, and display processing.

S film size in px; line integrals are in units of 1 (attenuation x length); grey is uint8, white =
dense, as radiologists read it.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from cxrkit.simulation.anatomy import Chest, separate_lungs

# letters that the technician puts on the film; tied to the diagnosis by `rho`
MARKERS = ("R", "R ER", "R ICU")
MARKER_GREY = 235
BORDER_GREY = 8


@dataclass(frozen=True)
class Detector:
    """A hospital's machine and its display processing."""

    blur: float = 0.5  # px at 256, standard deviation of the point spread
    photons: float = 2e5  # per pixel behind the thinnest part
    scatter: float = 0.4  # scattered over primary energy behind the grid
    sharpen: float = 0.8  # unsharp masking
    # share of the coarse density that is taken out, so that lungs and mediastinum are both seen
    flatten: float = 0.5
    gamma: float = 1.0
    border: float = 0.0  # share of films with a visible collimation border


@dataclass(frozen=True)
class Appearance:
    """What two dimensions can change about a chest.

    `angle` and `shift` differ on every film; the others belong to the patient.
    """

    bone: float  # factor of the line integral, as `vessels` and `girdle`
    vessels: float
    lung: float  # 1/mm added per mm of lung: from emphysema (negative) to a poor breath
    girdle: float
    fat: float  # line integral of the chest wall
    breast: float  # line integral, 0 = none
    zoom: float
    angle: float  # degrees
    shift: tuple[float, float]  # share of the film
    bend: np.ndarray  # (2, 5, 5) px at 256


def draw_appearance(patient_rng: np.random.Generator, image_rng: np.random.Generator) -> Appearance:
    """Draw the appearance of a film at random.

    Args:
        patient_rng: the same for all films of a patient.
        image_rng: of this film.

    Returns:
        The appearance.
    """
    breast = 0.0
    if patient_rng.random() < 0.45:
        breast = patient_rng.uniform(0.15, 0.5)
    return Appearance(
        bone=float(patient_rng.uniform(0.65, 1.35)),
        vessels=float(patient_rng.uniform(0.6, 1.7)),
        lung=float(patient_rng.normal(0, 0.0009)),
        girdle=float(patient_rng.uniform(0.2, 1.1)),
        fat=float(patient_rng.uniform(0, 0.9)),
        breast=float(breast),
        zoom=float(patient_rng.normal(1.0, 0.05)),
        angle=float(image_rng.normal(0, 2.2)),
        shift=tuple(float(v) for v in image_rng.normal(0, 0.018, 2)),
        bend=patient_rng.normal(0, 1.5, (2, 5, 5)).astype(np.float32),
    )


def _breasts(chest: Chest, amount: float) -> np.ndarray:
    """Two soft shadows over the lower zones: line integral (S, S)."""
    S = chest.size
    s = S // 4  # soft shadows need no finer grid
    rows, columns = np.mgrid[:s, :s].astype(np.float32) / s
    bottom = np.where((chest.right | chest.left).any(axis=1))[0][-1] / S
    out = np.zeros((s, s), np.float32)
    for lung in (chest.right, chest.left):
        centre = np.where(lung.any(axis=0))[0].mean() / S
        d = ((columns - centre) / 0.17) ** 2 + ((rows - bottom + 0.10) / 0.15) ** 2
        out += np.sqrt(np.clip(1 - d, 0, 1))
    soft = cv2.GaussianBlur(out, (0, 0), 0.6)  # (s, s)
    return cv2.resize(np.float32(amount) * soft, (S, S))


def line_integral(chest: Chest, appearance: Appearance) -> np.ndarray:
    """The healthy chest of one patient.

    Args:
        chest: a body in one view.
        appearance: of the film.

    Returns:
        Line integrals (S, S).
    """
    soft, bone, girdle, vessels = chest.integrals
    total = (
        soft
        + appearance.bone * bone
        + appearance.girdle * girdle
        + appearance.vessels * vessels
        + appearance.lung * chest.lung_depth
        + appearance.fat * chest.padding
    )
    if appearance.breast:
        total = total + _breasts(chest, appearance.breast)
    return total


def reposition(
    integral: np.ndarray, extent: np.ndarray, chest: Chest, appearance: Appearance
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Turn, shift and bend a film and its ground truth by the same map.

    Args:
        integral: line integrals (S, S), mirrored beyond their edge.
        extent: line integral of the lesions (S, S), 0 beyond its edge.
        chest: its lung masks.
        appearance: angle, zoom, shift and bend.

    Returns:
        Line integrals (S, S), extent (S, S), and right and left lung, bool (S, S), at least a pixel
        apart.
    """
    columns, rows = _sampling_maps(chest.size, appearance)
    moved = cv2.remap(integral, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    truth = np.dstack([extent, chest.right, chest.left]).astype(np.float32)  # (S, S, 3)
    truth = cv2.remap(truth, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
    right, left = separate_lungs(truth[..., 1] >= 0.5, truth[..., 2] >= 0.5)
    return moved, truth[..., 0], right, left


def _sampling_maps(size: int, appearance: Appearance) -> list[np.ndarray]:
    """Column and row (S, S) of the chest that each pixel of the film shows."""
    S = size
    turn = cv2.getRotationMatrix2D((S / 2, S / 2), appearance.angle, appearance.zoom)
    turn[:, 2] += np.array(appearance.shift) * S
    back = cv2.invertAffineTransform(turn).astype(np.float32)  # (2, 3)
    axis = np.arange(S, dtype=np.float32)
    maps = []
    for bend, (a, b, c) in zip(appearance.bend, back, strict=True):
        smooth = cv2.resize(bend, (S // 8, S // 8), interpolation=cv2.INTER_CUBIC)
        shift = cv2.resize(smooth * np.float32(S / 256), (S, S))
        shift += (a * axis + c)[None, :] + (b * axis)[:, None]
        maps.append(shift)
    return maps


def detect(integral: np.ndarray, detector: Detector, rng: np.random.Generator) -> np.ndarray:
    """Measure line integrals: transmission, scatter, quantum noise, blur, minus the logarithm.

    Args:
        integral: line integrals (S, S).
        detector: of the hospital.
        rng: source of the noise.

    Returns:
        Measured log signal (S, S).
    """
    S = integral.shape[0]
    # the beam hardens: thick parts absorb less than in proportion
    hard = integral / (1 + 0.03 * integral)
    primary = np.exp(-hard)
    small = cv2.resize(primary, (S // 4, S // 4), interpolation=cv2.INTER_AREA)
    fog = cv2.GaussianBlur(small, (0, 0), S / 36)
    signal = primary + detector.scatter * cv2.resize(fog, (S, S))
    noise = rng.standard_normal((S, S), dtype=np.float32)
    signal += np.sqrt(signal / (detector.photons * rng.uniform(0.5, 1.6))) * noise
    signal = cv2.GaussianBlur(signal, (0, 0), detector.blur * S / 256)
    return -np.log(np.maximum(signal, 1e-5))


def develop(
    log_signal: np.ndarray, detector: Detector, view: str, rng: np.random.Generator
) -> np.ndarray:
    """Display processing: even out the coarse density, sharpen, then window and gamma.

    Its parameters differ a little on every film.

    Args:
        log_signal: (S, S).
        detector: of the hospital.
        view: "PA" or "AP".
        rng: source of the differences.

    Returns:
        Grey values (S, S), float32 in [0, 1].
    """
    S = log_signal.shape[0]
    small = cv2.resize(log_signal, (S // 4, S // 4), interpolation=cv2.INTER_AREA)
    coarse = cv2.resize(cv2.GaussianBlur(small, (0, 0), S / 40), (S, S))
    fine = cv2.GaussianBlur(log_signal, (0, 0), 2.2 * S / 256)
    flatten = np.clip(detector.flatten * rng.uniform(0.7, 1.3), 0, 0.85)
    sharpen = detector.sharpen * rng.uniform(0.6, 1.4)
    picture = log_signal - flatten * coarse + sharpen * (log_signal - fine)
    middle = picture[S // 12 : -S // 12 : 2, S // 12 : -S // 12 : 2]
    percentiles = (rng.uniform(0.2, 5.0), rng.uniform(96.0, 99.8))
    low, high = np.percentile(middle, percentiles)
    width = high - low
    low = low - rng.uniform(0, 0.12) * width
    high = high + rng.uniform(0, 0.25) * width
    picture = np.clip((picture - low) / (high - low), 0, 1)
    gamma = detector.gamma * np.exp(rng.normal(0, 0.28)) * (1.0 if view == "PA" else 0.95)
    return picture**gamma


def write_marker(
    grey: np.ndarray, marker: str, rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """Burn a marker into the upper corner on the patient's right.

    Args:
        grey: film, uint8 (S, S), changed in place.
        marker: its letters.
        rng: source of its position.

    Returns:
        Box of the marker: top, left, bottom, right px.
    """
    S = grey.shape[0]
    font = cv2.FONT_HERSHEY_SIMPLEX
    scale = 0.42 * S / 256
    thickness = max(1, S // 256)
    (width, height), _ = cv2.getTextSize(marker, font, scale, thickness)
    left = int(rng.integers(S // 40, S // 12))
    bottom = int(height + rng.integers(S // 40, S // 14))
    cv2.putText(grey, marker, (left, bottom), font, scale, MARKER_GREY, thickness, cv2.LINE_AA)
    return bottom - height - 2, left - 1, bottom + 3, left + width + 1


def erase_marker(grey: np.ndarray, box: tuple[slice, slice]) -> np.ndarray:
    """Paint over a marker with what surrounds it.

    Only the corner that holds the marker is painted.

    Args:
        grey: film, uint8 (H, W).
        box: rows and columns that the marker covers.

    Returns:
        A new film, uint8 (H, W).
    """
    out = grey.copy()
    corner = tuple(slice(0, side.stop + 8) for side in box)
    hole = np.zeros_like(grey[corner])
    hole[box] = 1
    out[corner] = cv2.inpaint(np.ascontiguousarray(grey[corner]), hole, 3, cv2.INPAINT_TELEA)
    return out


def expose(
    integral: np.ndarray, detector: Detector, view: str, marker: str, rng: np.random.Generator
) -> tuple[np.ndarray, tuple[int, int, int, int]]:
    """Make the film of line integrals, with its marker.

    Args:
        integral: line integrals (S, S).
        detector: of the hospital.
        view: "PA" or "AP".
        marker: letters of the technician's marker.
        rng: source of noise, processing, border and position of the marker.

    Returns:
        Film, uint8 (S, S), and the marker's box: top, left, bottom, right px.
    """
    S = integral.shape[0]
    log_signal = detect(integral, detector, rng)
    developed = develop(log_signal, detector, view, rng)
    grey = (developed * 255).round().astype(np.uint8)
    if rng.random() < detector.border:
        top, bottom, left, right = rng.integers(0, S // 24, 4)
        grey[:top] = BORDER_GREY
        grey[S - bottom :] = BORDER_GREY
        grey[:, :left] = BORDER_GREY
        grey[:, S - right :] = BORDER_GREY
    box = write_marker(grey, marker, rng)
    return grey, box
