"""Film: from line integrals to grey values. Beer-Lambert transmission, scatter, quantum noise,
detector blur, display processing.

S film size in px; line integrals are in units of 1 (attenuation x length); grey is uint8, white =
dense, as radiologists read it.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from cxrkit.simulation.anatomy import apart

# what the technician puts on the film; tied to the diagnosis by `rho`
MARKERS = ("R", "R ER", "R ICU")


@dataclass(frozen=True)
class Detector:
    """A hospital's machine and its display processing."""

    blur: float = 0.5  # px at 256, standard deviation of the point spread
    photons: float = 2e5  # per pixel behind the thinnest part
    scatter: float = 0.4  # scattered over primary energy behind the grid
    sharpen: float = 0.8  # unsharp masking
    # share of the coarse density that is taken out, so that lungs and mediastinum are seen together
    flatten: float = 0.5
    gamma: float = 1.0
    border: float = 0.0  # share of films with a visible collimation border


@dataclass(frozen=True)
class Look:
    """What two dimensions can change about a chest: a patient keeps `bone` ... `fat`, every film
    has its own `angle` and `shift`.
    """

    bone: float
    vessels: float
    lung: float  # 1/mm added per mm of lung: from emphysema (negative) to a poor breath
    girdle: float
    fat: float  # line integral of the chest wall
    breast: float
    zoom: float
    angle: float  # degrees
    shift: tuple[float, float]  # share of the film
    bend: np.ndarray  # (2, 5, 5) px at 256


def draw_look(patient_rng, film_rng):
    """Draw the look of a film from the generator of the patient and of the film."""
    r = patient_rng
    breast = r.uniform(0.15, 0.5) if r.random() < 0.45 else 0.0
    return Look(
        float(r.uniform(0.65, 1.35)),
        float(r.uniform(0.6, 1.7)),
        float(r.normal(0, 0.0009)),
        float(r.uniform(0.2, 1.1)),
        float(r.uniform(0, 0.9)),
        float(breast),
        float(r.normal(1.0, 0.05)),
        float(film_rng.normal(0, 2.2)),
        tuple(float(v) for v in film_rng.normal(0, 0.018, 2)),
        r.normal(0, 1.5, (2, 5, 5)).astype(np.float32),
    )


def _breasts(chest, amount):
    """Two soft shadows over the lower zones: line integral (S, S)."""
    S, s = chest.size, chest.size // 4
    rows, columns = np.mgrid[:s, :s].astype(np.float32) / s
    bottom = np.where((chest.right | chest.left).any(axis=1))[0][-1] / S
    out = np.zeros((s, s), np.float32)
    for lung in (chest.right, chest.left):
        centre = np.where(lung.any(axis=0))[0].mean() / S
        d = ((columns - centre) / 0.17) ** 2 + ((rows - bottom + 0.10) / 0.15) ** 2
        out += np.sqrt(np.clip(1 - d, 0, 1))
    return cv2.resize(np.float32(amount) * cv2.GaussianBlur(out, (0, 0), 0.6), (S, S))


def line_integral(chest, look):
    """The healthy chest of one patient: line integrals (S, S)."""
    soft, bone, girdle, vessels = chest.integrals
    total = (
        soft
        + look.bone * bone
        + look.girdle * girdle
        + look.vessels * vessels
        + look.lung * chest.lung_depth
        + look.fat * chest.padding
    )
    return total + _breasts(chest, look.breast) if look.breast else total


def place(integral, extent, chest, look):
    """Turn, shift and bend a film and its truth together.

    integral, extent (S, S) -> the same and right, left lung bool (S, S), at least a pixel apart.
    """
    S = chest.size
    turn = cv2.getRotationMatrix2D((S / 2, S / 2), look.angle, look.zoom)
    turn[:, 2] += np.array(look.shift) * S
    back = cv2.invertAffineTransform(turn)
    axis = np.arange(S, dtype=np.float32)
    back = back.astype(np.float32)
    at = [
        cv2.resize(
            cv2.resize(b, (S // 8, S // 8), interpolation=cv2.INTER_CUBIC) * np.float32(S / 256),
            (S, S),
        )
        for b in look.bend
    ]
    for map_, (a, b, c) in zip(at, back, strict=True):
        map_ += (a * axis + c)[None, :] + (b * axis)[:, None]
    truth = np.dstack([extent, chest.right, chest.left]).astype(np.float32)
    truth = cv2.remap(truth, at[0], at[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
    right, left = apart(truth[..., 1] >= 0.5, truth[..., 2] >= 0.5)
    return (
        cv2.remap(integral, at[0], at[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101),
        truth[..., 0],
        right,
        left,
    )


def detect(integral, detector, rng):
    """Line integrals (S, S) -> measured log signal (S, S): transmission, scatter, quantum noise,
    blur, minus the logarithm.
    """
    S = integral.shape[0]
    # the beam hardens: thick parts absorb less than in proportion
    hard = integral / (1 + 0.03 * integral)
    primary = np.exp(-hard)
    fog = cv2.GaussianBlur(
        cv2.resize(primary, (S // 4, S // 4), interpolation=cv2.INTER_AREA), (0, 0), S / 36
    )
    signal = primary + detector.scatter * cv2.resize(fog, (S, S))
    noise = rng.standard_normal((S, S), dtype=np.float32)
    signal += np.sqrt(signal / (detector.photons * rng.uniform(0.5, 1.6))) * noise
    signal = cv2.GaussianBlur(signal, (0, 0), detector.blur * S / 256)
    return -np.log(np.maximum(signal, 1e-5))


def develop(log_signal, detector, view, rng):
    """Display processing: coarse density evened out, edges sharpened, window and gamma that differ
    a little on every film.

    (S, S) -> float32 in [0, 1].
    """
    S = log_signal.shape[0]
    small = cv2.resize(log_signal, (S // 4, S // 4), interpolation=cv2.INTER_AREA)
    coarse = cv2.resize(cv2.GaussianBlur(small, (0, 0), S / 40), (S, S))
    fine = cv2.GaussianBlur(log_signal, (0, 0), 2.2 * S / 256)
    flatten = np.clip(detector.flatten * rng.uniform(0.7, 1.3), 0, 0.85)
    picture = (
        log_signal
        - flatten * coarse
        + detector.sharpen * rng.uniform(0.6, 1.4) * (log_signal - fine)
    )
    middle = picture[S // 12 : -S // 12 : 2, S // 12 : -S // 12 : 2]
    low, high = np.percentile(middle, (rng.uniform(0.2, 5.0), rng.uniform(96.0, 99.8)))
    low, high = (
        low - rng.uniform(0, 0.12) * (high - low),
        high + rng.uniform(0, 0.25) * (high - low),
    )
    picture = np.clip((picture - low) / (high - low), 0, 1)
    return picture ** (
        detector.gamma * np.exp(rng.normal(0, 0.28)) * (1.0 if view == "PA" else 0.95)
    )


def write_marker(grey, marker, rng):
    """Burn the marker into the upper corner of the patient's right -> (top, left, bottom, right)
    px.
    """
    S = grey.shape[0]
    scale, thick = 0.42 * S / 256, max(1, S // 256)
    (width, height), _ = cv2.getTextSize(marker, cv2.FONT_HERSHEY_SIMPLEX, scale, thick)
    left, bottom = int(rng.integers(S // 40, S // 12)), int(height + rng.integers(S // 40, S // 14))
    cv2.putText(
        grey, marker, (left, bottom), cv2.FONT_HERSHEY_SIMPLEX, scale, 235, thick, cv2.LINE_AA
    )
    return bottom - height - 2, left - 1, bottom + 3, left + width + 1


def erase_marker(grey, box):
    """Film, uint8 (H, W), with its marker painted over by what surrounds it; box: rows and columns
    that it covers, as slices.

    Only the corner that holds the marker is painted.
    """
    corner, out = tuple(slice(0, side.stop + 8) for side in box), grey.copy()
    hole = np.zeros_like(grey[corner])
    hole[box] = 1
    out[corner] = cv2.inpaint(np.ascontiguousarray(grey[corner]), hole, 3, cv2.INPAINT_TELEA)
    return out


def expose(integral, detector, view, marker, rng):
    """Line integrals (S, S) -> film uint8 (S, S) with its marker, and the marker's box (top, left,
    bottom, right) px.
    """
    S = integral.shape[0]
    grey = (
        (develop(detect(integral, detector, rng), detector, view, rng) * 255)
        .round()
        .astype(np.uint8)
    )
    if rng.random() < detector.border:
        sides = rng.integers(0, S // 24, 4)
        grey[: sides[0]] = grey[S - sides[1] :] = 8
        grey[:, : sides[2]] = grey[:, S - sides[3] :] = 8
    return grey, write_marker(grey, marker, rng)
