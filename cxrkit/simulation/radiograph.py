"""The radiograph: from line integrals to grey values.

Beer-Lambert transmission, scatter, quantum noise, detector blur, and display processing: sharpening
at four scales, a tone curve, local equalisation on some machines, collimation and text.

S px of a side of the chest's maps, F = S/2 px of a side of the film; line integrals are in units of
1 (attenuation x length); grey is uint8, white = dense, as radiologists read it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from scipy.interpolate import PchipInterpolator

from cxrkit.simulation.anatomy import Chest, separate_lungs
from cxrkit.simulation.atlases import WATER

# letters that the technician puts on the film; tied to the diagnosis by `rho`
MARKERS = ("R", "R ER", "R ICU")
MARKER_GREY = 235
BORDER_GREY = 8
# other text that films carry: what is written says nothing about the diagnosis
LABELS = {
    "PA": ("PA", "ERECT", "CHEST PA", "10:42"),
    "AP": ("AP ERECT", "SEMI ERECT", "SUPINE", "MOBILE", "AP", "07:15"),
}
FONTS = (cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_DUPLEX)
TONE_FILE = Path(__file__).parent / "tones.json"
# rows and columns of a film, as shares, whose grey quantiles make a tone curve
MIDDLE_ROWS, MIDDLE_COLUMNS = (0.12, 0.85), (0.12, 0.88)
# standard deviations of the blurs that are sharpened away, px at 256, and their weights
SHARPENING = ((0.55, 1.3), (0.9, 0.9), (2.0, 0.45), (5.0, 0.25))
SCATTER_LIMIT = 0.06  # scatter comes from the body, not from the open beam
MID_MAGNIFICATION = 1.09  # of the middle of the chest, to place what is drawn on the map


@dataclass(frozen=True)
class Detector:
    """A hospital's machine and its display processing."""

    blur: float = 0.3  # px at 256, standard deviation of the point spread
    photons: float = 2e5  # per pixel behind the thinnest part
    scatter: float = 0.4  # scattered over primary energy behind the grid
    sharpen: float = 1.2  # unsharp masking
    equalize: float = 0.5  # share of films with local equalisation
    tone: str = "nih"  # source of real films whose grey quantiles its tone curves follow
    border: float = 0.15  # share of films with a visible collimation border
    text: float = 0.3  # share of films with text beside the marker


@dataclass(frozen=True)
class Appearance:
    """What two dimensions can change about a chest.

    `arms`, `width`, `aspect`, `angle` and `shift` differ on every film; the others belong to the
    patient.
    """

    bone: float  # factor of the line integral of the ribs
    spine: float
    girdle: float
    vessels: float
    lung: float  # 1/mm added per mm of lung: from emphysema (negative) to a poor breath
    fat: float  # shells of fat that the body wears, 0 to 2
    breast: float  # line integral, 0 = none
    breast_shape: tuple[float, float]  # mm: half width, and how low they hang
    arms: float  # mm, radius of the arms; 0 = out of the way
    arm_angle: float  # rad, how far they are spread
    width: float  # share of the map's width that the film shows
    aspect: float  # height of the pixels over their width
    angle: float  # degrees
    shift: tuple[float, float]  # share of the film
    bend: np.ndarray  # (2, 5, 5) px at 256
    raised: tuple[float, float] = (0.0, 0.0)  # mm, half diaphragms (`disease.volume_loss`)


def draw_appearance(patient_rng: np.random.Generator, image_rng: np.random.Generator) -> Appearance:
    """Draw the appearance of a film at random.

    Args:
        patient_rng: the same for all films of a patient.
        image_rng: of this film.

    Returns:
        The appearance.
    """
    bone = patient_rng.uniform(1.3, 2.7)
    breast = patient_rng.uniform(0.2, 0.8) if patient_rng.random() < 0.45 else 0.0
    tilted = image_rng.random() < 0.08
    off_centre = image_rng.random() < 0.15
    return Appearance(
        bone=float(bone),
        spine=float(bone * patient_rng.uniform(0.5, 0.7)),
        girdle=float(bone * patient_rng.uniform(0.7, 0.95)),
        vessels=float(patient_rng.uniform(0.7, 1.6)),
        lung=float(patient_rng.normal(0.0004, 0.0009)),
        fat=float(np.clip(patient_rng.normal(0.55, 0.55), 0, 1.8)),
        breast=float(breast),
        breast_shape=(float(patient_rng.uniform(52, 72)), float(patient_rng.uniform(-15, 25))),
        bend=patient_rng.normal(0, 1.2, (2, 5, 5)).astype(np.float32),
        arms=float(image_rng.uniform(36, 50) if image_rng.random() < 0.9 else 0.0),
        arm_angle=float(image_rng.uniform(0.14, 0.66)),
        width=float(image_rng.uniform(0.9, 1.16)),
        aspect=float(image_rng.choice([1.0, image_rng.uniform(0.88, 1.14)], p=[0.7, 0.3])),
        angle=float(image_rng.normal(0, 7.0 if tilted else 2.2)),
        shift=tuple(float(v) for v in image_rng.normal(0, 0.06 if off_centre else 0.022, 2)),
    )


# the healthy chest


def _map_coordinates(chest: Chest, step: int) -> tuple[np.ndarray, np.ndarray]:
    """Mm to the left and above the middle of the map, at mid-chest, on every `step`-th pixel."""
    n = chest.size // step
    mm = ((np.arange(n, dtype=np.float32) + 0.5) / n - 0.5) * chest.field_mm / MID_MAGNIFICATION
    return mm[None, :], -mm[:, None]


def _breasts(chest: Chest, amount: float, shape: tuple[float, float]) -> np.ndarray:
    """Two half ellipsoids, rounder below than above: line integral (S, S)."""
    x, z = _map_coordinates(chest, 2)
    half, droop = shape
    level = -45.0 - droop
    below = z < level
    out = np.zeros(np.broadcast_shapes(x.shape, z.shape), np.float32)
    for side in (-1, 1):
        across = (side * x - 1.35 * half) / half
        along = (z - level) / (half * np.where(below, 0.95, 1.5))
        fading = np.where(below, 1, np.exp(-np.clip(z - level, 0, None) / 70.0))
        out += np.sqrt(np.clip(1 - across**2 - along**2, 0, 1)) * fading
    soft = cv2.GaussianBlur(np.float32(amount) * out, (0, 0), 4.0 / chest.field_mm * len(out))
    return cv2.resize(soft, (chest.size, chest.size))


def _arms(chest: Chest, radius: float, angle: float) -> np.ndarray:
    """Two upper arms with their bones, from the shoulders down: line integral (S, S)."""
    x, z = _map_coordinates(chest, 2)
    half = x.shape[1] // 2
    dx, dz = x[:, half:] - np.float32(176.0), z - np.float32(108.0)  # of the left arm
    sine, cosine = np.float32(np.sin(angle)), np.float32(np.cos(angle))
    along = dx * sine - dz * cosine
    away = (dx * cosine + dz * sine) ** 2
    shoulder = WATER / (1 + np.exp(np.clip((along + 12.0) / -12.0, -30, 30)))
    arm = 1.94 * np.sqrt(np.clip(radius**2 - away, 0, None))
    arm += 2.2 * np.sqrt(np.clip(11.5**2 - away, 0, None))  # bone
    arm -= 1.76 * np.sqrt(np.clip(7.5**2 - away, 0, None))  # marrow
    arm *= shoulder
    both = np.concatenate([arm[:, ::-1], arm], axis=1).astype(np.float32)
    return cv2.resize(both, (chest.size, chest.size))


def line_integral(chest: Chest, appearance: Appearance) -> np.ndarray:
    """The healthy chest of one patient.

    Args:
        chest: a body in one view.
        appearance: of the film.

    Returns:
        Line integrals (S, S).
    """
    soft, ribs, spine, girdle, vessels = chest.integrals
    total = soft.copy()
    for factor, channel in (
        (appearance.bone, ribs),
        (appearance.spine, spine),
        (appearance.girdle, girdle),
        (appearance.vessels, vessels),
        (appearance.lung, chest.lung_depth),
        (min(appearance.fat, 1.0), chest.fat[0]),
        (2 * max(appearance.fat - 1.0, 0.0), chest.fat[1]),
    ):
        if factor:
            cv2.scaleAdd(channel, factor, total, total)
    if appearance.breast:
        total += _breasts(chest, appearance.breast, appearance.breast_shape)
    if appearance.arms:
        total += _arms(chest, appearance.arms, appearance.arm_angle)
    return total


def reposition(
    integral: np.ndarray, extent: np.ndarray, chest: Chest, appearance: Appearance
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Turn, shift, crop and bend a chest and its ground truth onto the film by the same map.

    Args:
        integral: line integrals (S, S); beyond the map the body goes on as at its edge.
        extent: line integral of the lesions (S, S), 0 beyond its edge.
        chest: its lung masks.
        appearance: angle, width, shift, bend and what is drawn together.

    Returns:
        Line integrals (F, F), extent (F, F), and right and left lung, bool (F, F), at least a pixel
        apart.
    """
    columns, rows = _sampling_maps(chest, appearance)
    coarser = 2 * appearance.width  # map pixels to one of the film
    integral = cv2.GaussianBlur(integral, (0, 0), max(0.22 * coarser, 0.05))
    moved = cv2.remap(integral, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    truth = np.dstack([extent, chest.right, chest.left]).astype(np.float32)  # (S, S, 3)
    truth = cv2.remap(truth, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
    right, left = separate_lungs(truth[..., 1] >= 0.5, truth[..., 2] >= 0.5)
    return moved, truth[..., 0], right, left


def _sampling_maps(chest: Chest, appearance: Appearance) -> tuple[np.ndarray, np.ndarray]:
    """Column and row (F, F) of the chest that each pixel of the film shows."""
    S, F = chest.size, chest.size // 2
    angle = np.deg2rad(appearance.angle)
    cosine, sine = np.cos(angle), np.sin(angle)
    step = S / F * appearance.width
    turn = np.array([[cosine, -sine], [sine, cosine]]) * step
    turn[:, 1] *= appearance.aspect
    axis = np.arange(F, dtype=np.float32) + 0.5 - F / 2
    maps = []
    for bend, (a, b), shift in zip(appearance.bend, turn, appearance.shift, strict=True):
        smooth = cv2.resize(bend, (F // 4, F // 4), interpolation=cv2.INTER_CUBIC)
        grid = cv2.resize(smooth * np.float32(S / 256), (F, F))
        grid += np.float32(a) * axis[None, :] + np.float32(b) * axis[:, None]
        grid += np.float32(S / 2 - 0.5 - shift * F * step)
        maps.append(grid)
    columns, rows = maps
    if any(appearance.raised):
        _draw_together(columns, rows, chest, appearance.raised)
    return columns, rows


def _draw_together(
    columns: np.ndarray, rows: np.ndarray, chest: Chest, raised: tuple[float, float]
) -> None:
    """Volume loss: raise half the diaphragm, and move the heart over; changes the maps in place."""
    pixels = chest.size / chest.field_mm * MID_MAGNIFICATION  # px of a mm
    x = (columns - chest.size / 2) / pixels
    z = (chest.size / 2 - rows) / pixels
    left = 1 / (1 + np.exp(-x / 12.0))
    domes = np.exp(-(((z + 80.0) / 45.0) ** 2))
    rows += domes * ((1 - left) * raised[0] + left * raised[1]) * np.float32(pixels)
    middle = np.exp(-((x / 60.0) ** 2) - ((z + 30.0) / 60.0) ** 2)
    columns += middle * np.float32(0.5 * (raised[0] - raised[1]) * pixels)


# the detector


def detect(integral: np.ndarray, detector: Detector, rng: np.random.Generator) -> np.ndarray:
    """Measure line integrals: transmission, scatter, quantum noise, blur, minus the logarithm.

    Args:
        integral: line integrals (F, F).
        detector: of the hospital.
        rng: source of the noise.

    Returns:
        Measured log signal (F, F).
    """
    F = integral.shape[0]
    # the beam hardens: thick parts absorb less than in proportion
    hard = integral / (1 + 0.03 * integral)
    primary = np.exp(-hard)
    small = cv2.resize(primary, (F // 4, F // 4), interpolation=cv2.INTER_AREA)
    fog = cv2.GaussianBlur(small, (0, 0), F / 36)
    scatter = detector.scatter * rng.uniform(0.7, 1.4)
    signal = primary + scatter * cv2.resize(np.minimum(fog, SCATTER_LIMIT), (F, F))
    noise = rng.standard_normal((F, F), dtype=np.float32)
    signal += np.sqrt(signal / (detector.photons * rng.uniform(0.4, 2.0))) * noise
    signal = cv2.GaussianBlur(signal, (0, 0), detector.blur * F / 256)
    return -np.log(np.maximum(signal, 1e-5))


@lru_cache(maxsize=1)
def _tones() -> dict:
    """Grey quantiles of real films: source -> mean (q,) and components (c, q); `levels` (q,)."""
    return json.loads(TONE_FILE.read_text())


def draw_tone(name: str, rng: np.random.Generator) -> np.ndarray:
    """Draw grey quantiles like those of a film of a real source.

    Args:
        name: of the source, a key of `tones.json`.
        rng: source of the differences between films.

    Returns:
        Rising grey values, (q,) in [0, 1], at `levels` of `tones.json`.
    """
    tone = _tones()[name]
    components = np.array(tone["components"])  # (c, q), each times its standard deviation
    weights = np.clip(rng.standard_normal(len(components)), -2.2, 2.2)
    greys = np.array(tone["mean"]) + weights @ components
    least = 2.0 * np.arange(len(greys))
    rising = np.maximum.accumulate(greys - least) + least
    return np.clip(rising, 0, 255) / 255


def develop(
    log_signal: np.ndarray, detector: Detector, view: str, rng: np.random.Generator
) -> np.ndarray:
    """Display processing: sharpen at four scales, then a tone curve, then local equalisation.

    Its parameters differ on every film of a hospital.

    Args:
        log_signal: (F, F).
        detector: of the hospital.
        view: "PA" or "AP"; bed films are a little harder.
        rng: source of the differences.

    Returns:
        Grey values (F, F), float32 in [0, 1].
    """
    F = log_signal.shape[0]
    sharpen = detector.sharpen * rng.uniform(0.5, 1.6)
    picture = log_signal.copy()
    blurred = log_signal
    for i, (sigma, weight) in enumerate(SHARPENING):
        before = log_signal if i < 2 else blurred
        blurred = cv2.GaussianBlur(before, (0, 0), sigma * F / 256)
        picture += np.float32(sharpen * weight) * (before - blurred)
    top, bottom = (round(v * F) for v in MIDDLE_ROWS)
    left, right = (round(v * F) for v in MIDDLE_COLUMNS)
    middle = picture[top:bottom:2, left:right:2]
    levels = _tones()["levels"]
    knots = np.percentile(middle, levels)
    knots += np.arange(len(knots)) * 1e-4  # rising even where the film is flat
    greys = draw_tone(detector.tone, rng)
    grey = _tone_curve(picture, knots, greys)
    if rng.random() < detector.equalize:
        tiles = int(rng.integers(2, 5))
        clahe = cv2.createCLAHE(rng.uniform(1.0, 2.5), (tiles, tiles))
        equal = clahe.apply((grey * 255).astype(np.uint8)).astype(np.float32) / 255
        mix = np.float32(rng.uniform(0.15, 0.6)) * (1.0 if view == "PA" else 0.8)
        grey = cv2.addWeighted(grey, 1 - mix, equal, mix, 0)
    return grey


def _tone_curve(picture: np.ndarray, knots: np.ndarray, greys: np.ndarray) -> np.ndarray:
    """Map signal to grey by a smooth rising curve through the knots, straight beyond them."""
    low, high = float(picture.min()), float(picture.max())
    foot = (greys[1] - greys[0]) / (knots[1] - knots[0])
    shoulder = (greys[-1] - greys[-2]) / (knots[-1] - knots[-2])
    x = [min(low, knots[0]) - 1e-3, *knots, max(high, knots[-1]) + 1e-3]
    y = [greys[0] + foot * (x[0] - knots[0]), *greys, greys[-1] + shoulder * (x[-1] - knots[-1])]
    axis = np.linspace(x[0], x[-1], 1024)
    curve = PchipInterpolator(x, y)(axis)
    index = (picture - x[0]) * np.float32(1023 / (x[-1] - x[0]))
    return np.clip(curve, 0, 1).astype(np.float32)[index.astype(np.int32)]


# on the film


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
    font = FONTS[int(rng.integers(len(FONTS)))]
    scale = rng.uniform(0.34, 0.52) * S / 256
    thickness = max(1, S // 256)
    (width, height), _ = cv2.getTextSize(marker, font, scale, thickness)
    left = int(rng.integers(S // 40, S // 8))
    bottom = int(height + rng.integers(S // 40, S // 7))
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


def write_label(grey: np.ndarray, label: str, rng: np.random.Generator) -> None:
    """Burn other text into the film, away from the marker's corner.

    Args:
        grey: film, uint8 (S, S), changed in place.
        label: its letters.
        rng: source of its position, size and brightness.
    """
    S = grey.shape[0]
    font = FONTS[int(rng.integers(len(FONTS)))]
    scale = rng.uniform(0.24, 0.36) * S / 256
    (width, height), _ = cv2.getTextSize(label, font, scale, 1)
    right = rng.random() < 0.7
    left = S - width - int(rng.integers(2, S // 10)) if right else int(rng.integers(2, S // 10))
    if right and rng.random() < 0.7:
        bottom = height + int(rng.integers(2, S // 8))
    else:
        bottom = S - int(rng.integers(3, S // 12))
    brightness = int(rng.integers(185, 256))
    cv2.putText(grey, label, (max(left, 0), bottom), font, scale, brightness, 1, cv2.LINE_AA)


def collimate(grey: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Blacken what the collimator shuts out: a frame that is seldom square to the film.

    Args:
        grey: film, uint8 (S, S).
        rng: source of its sides, their angle and how black it is.

    Returns:
        A new film.
    """
    S = grey.shape[0]
    sides = rng.integers(0, S // 12, 4) * (rng.random(4) < 0.6)
    if rng.random() < 0.35:  # a film that is higher than wide, or wider than high
        pair = slice(0, 2) if rng.random() < 0.5 else slice(2, 4)
        sides[pair] = int(rng.integers(S // 24, S // 9))
    open_beam = np.zeros((S, S), np.uint8)
    open_beam[sides[0] : S - sides[1], sides[2] : S - sides[3]] = 255
    turn = cv2.getRotationMatrix2D((S / 2, S / 2), rng.normal(0, 1.0), 1)
    open_beam = cv2.warpAffine(open_beam, turn, (S, S), borderMode=cv2.BORDER_REPLICATE)
    black = int(rng.choice([0, 0, 5, BORDER_GREY, 20]))
    share = open_beam.astype(np.float32) / 255
    return (grey * share + black * (1 - share)).astype(np.uint8)


def expose(
    integral: np.ndarray, detector: Detector, view: str, marker: str, rng: np.random.Generator
) -> tuple[np.ndarray, tuple[int, int, int, int]]:
    """Make the film of line integrals, with its marker.

    Args:
        integral: line integrals (F, F).
        detector: of the hospital.
        view: "PA" or "AP".
        marker: letters of the technician's marker.
        rng: source of noise, processing, border and position of the marker.

    Returns:
        Film, uint8 (F, F), and the marker's box: top, left, bottom, right px.
    """
    log_signal = detect(integral, detector, rng)
    developed = develop(log_signal, detector, view, rng)
    grey = (developed * 255).round().astype(np.uint8)
    if rng.random() < detector.border:
        grey = collimate(grey, rng)
    if rng.random() < detector.text:
        write_label(grey, str(rng.choice(LABELS[view])), rng)
    box = write_marker(grey, marker, rng)
    return grey, box
