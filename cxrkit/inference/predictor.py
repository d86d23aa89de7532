"""Predictor: one image in; diagnosis, severity, maps and warnings out.

The image takes exactly the way that images took in training. Not a diagnostic device.

H W image as it is stored, S px input of the models, s px input of the segmenter, h w grid of the
corpus, K diagnoses.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import pandas as pd
import torch

from cxrkit.config import vocabulary
from cxrkit.config.sections import Profile
from cxrkit.config.vocabulary import DIAGNOSES, ZONES
from cxrkit.data import masked_images, preprocessing
from cxrkit.data.images import Image, load_image
from cxrkit.explain.methods import DEFAULT_METHOD, METHODS
from cxrkit.inference import dicom_tags, novelty, quality
from cxrkit.inference.overlay import severity_overlay, shown_image, to_image_size
from cxrkit.inference.trained import Models, Part
from cxrkit.models.classifier import Classifier
from cxrkit.models.corpus_vit import CorpusViT
from cxrkit.tasks import diagnosis, segmentation
from cxrkit.tasks import severity as severity_task
from cxrkit.training.devices import device_of, pick_device

PROBABILITIES = ("p_normal", "p_other", "p_covid")  # columns, in the order of DIAGNOSES
COLUMNS = ("path", *PROBABILITIES, "severity", *ZONES, "warnings")
FRONTAL = ("PA", "AP")
SEVERE = 3.0  # of 6: from here on a score contradicts a film that is called normal
CONTOUR = 0.5  # of a severity map whose model was measured against no lesions


@dataclass(frozen=True)
class Prediction:
    """What the models predict for one image.

    An unusable image has no numbers unless they were asked for: NaN everywhere, no maps, no view.

    Attributes:
        probs: Probability of each of DIAGNOSES, calibrated on validation films.
        array: float (3, 2) in [0, 1]; rows upper to lower zone, column 0 = patient's right.
        severity: 0 to 6.
        view: Of the diagnosis model that was used; "PA+AP" for one that has learnt both, or for
            the mean of two.
        maps: By name, each (H, W): "lungs" bool, "severity" and "saliency_<class>" in [0, 1].
        warnings: Why the prediction may be wrong, in words.
        overlay: Film, severity map and contours in one picture, uint8 (h, w, 3), RGB; None without
            maps.
        unusable: Those of the warnings for which the image is unusable; empty for a usable one.
        shown: The image without marks, as large as the overlay, uint8 (h, w); None without maps.
        novelty: Share of validation films that lie nearer to the training (`novelty.novelty`), the
            least of the models that were asked; NaN where none of them has statistics.
    """

    probs: dict[str, float]
    array: np.ndarray
    severity: float
    view: str
    maps: dict[str, np.ndarray]
    warnings: tuple[str, ...]
    overlay: np.ndarray | None = None
    unusable: tuple[str, ...] = ()
    shown: np.ndarray | None = None
    novelty: float = np.nan

    @property
    def usable(self) -> bool:
        """Whether the image is a frontal chest film that the models can read."""
        return not self.unusable

    @property
    def has_numbers(self) -> bool:
        """False for an unusable image whose numbers were not asked for."""
        return not np.isnan(self.severity)

    def row(self, path: Path | str) -> dict[str, object]:
        """The row of the image in predictions.csv, by COLUMNS.

        Args:
            path: Of the image.
        """
        zones = [*self.array[:, 0], *self.array[:, 1]]
        return {
            "path": str(path),
            **dict(zip(PROBABILITIES, self.probs.values(), strict=True)),
            "severity": self.severity,
            **dict(zip(ZONES, zones, strict=True)),
            "warnings": "; ".join(self.warnings),
        }


def predict(
    image: Image | np.ndarray | Path | str,
    models: Models,
    view: str | None = None,
    maps: bool = True,
    device: torch.device | str | None = None,
    map_method: str = DEFAULT_METHOD,
    even_unusable: bool = False,
) -> Prediction:
    """Diagnosis, severity, maps and warnings of one image.

    Args:
        image: A file, an `Image`, or pixels, uint8 or uint16 (H, W), bright = dense.
        models: See `load_models`. They are moved to `device` and left there.
        view: "PA" or "AP" picks the diagnosis model. Without it the DICOM tag does. Where there is
            none, the mean of both models is given, with a warning.
        maps: Also give the maps.
        device: Where to compute; None = `pick_device()`.
        map_method: Makes the maps of the diagnoses; a key of `cxrkit.explain.METHODS`.
        even_unusable: Predict also for an image that is no frontal chest film that the models can
            read (`Prediction.unusable`); else such an image gets warnings and no numbers.

    Returns:
        The prediction, on the CPU.

    Raises:
        ImageError: The file is not one sound grey image.
        ValueError: The view or the method is unknown.
    """
    vocabulary.known(map_method, tuple(METHODS), "map method")
    if view is not None:
        vocabulary.known(view, FRONTAL, "view")
    models.to(device or pick_device())
    opened, reader_notes = open_image(image)
    refusals = header_refusals(image, opened)
    reader_notes = (*reader_notes, *(text for text in refusals if text not in reader_notes))
    pixels = opened.pixels  # (H, W)
    mask, lung_probs = segment_lungs(pixels, models.parts["segmenter"])  # (S, S), (2, s, s)
    names, view_notes = choose_views(models, view, opened.view)
    checked = models.quality.check(pixels, mask, models.image_size, lung_probs)
    not_frontal = [text for text in view_notes if text.startswith(quality.FAULTS["not_frontal"])]
    unusable = (*checked.unusable, *not_frontal, *refusals)
    severity_part = models.parts["severity"]
    choices = opened.choices(severity_part.profile.choices)
    shown = shown_image(pixels, choices) if maps else None
    if unusable and not even_unusable:
        notes = (*checked.warnings, *view_notes, *reader_notes)
        return without_numbers(notes, unusable, shown)

    probs, relevance, novelties = [], [], []
    for name in names:
        part = models.parts[f"diagnosis_{name.lower()}"]
        class_probs, class_maps, features = diagnose_and_features(
            pixels, mask, part, maps, map_method
        )
        probs.append(class_probs)
        relevance.append(class_maps)
        novelties.append(novelty_of(features, part))
    newness = float(np.nanmin([*novelties, np.inf]))
    newness = newness if np.isfinite(newness) else np.nan
    mean_probs = np.mean(probs, axis=0)  # (K,)
    array, score, severity_map = predict_severity(pixels, mask, severity_part)

    found, overlay = {}, None
    if maps:
        lungs = to_image_size(mask, pixels.shape)  # (H, W)
        found = {"lungs": lungs, "severity": severity_map * lungs}
        found |= saliency_maps(np.mean(relevance, axis=0))
        overlay = severity_overlay(
            pixels, lungs, found["severity"], score, contour_of(severity_part), choices
        )
    return Prediction(
        probs=dict(zip(DIAGNOSES, mean_probs.tolist(), strict=True)),
        array=array,
        severity=score,
        view="+".join(names if models.views_apart else FRONTAL),
        maps=found,
        warnings=(
            *checked.warnings,
            *filter(None, [novelty.warning(newness)]),
            *severity_notes(mean_probs, score, severity_part.profile),
            *view_notes,
            *reader_notes,
        ),
        overlay=overlay,
        unusable=unusable,
        shown=shown,
        novelty=newness,
    )


def novelty_of(features: np.ndarray, part: Part) -> float:
    """How new a film is to a diagnosis model; NaN where its metrics hold no statistics.

    Args:
        features: See `diagnose_and_features`.
        part: A diagnosis model; `metrics["novelty"]` holds `novelty.statistics`.
    """
    known = part.metrics.get("novelty")
    return float(novelty.novelty(features[None], known)[0]) if known else np.nan


def without_numbers(
    notes: Sequence[str], unusable: Sequence[str], shown: np.ndarray | None = None
) -> Prediction:
    """What is said of an unusable image.

    Args:
        notes: Warnings.
        unusable: See `Prediction`.
        shown: See `Prediction`.
    """
    return Prediction(
        probs=dict.fromkeys(DIAGNOSES, np.nan),
        array=np.full((3, 2), np.nan),
        severity=np.nan,
        view="",
        maps={},
        warnings=tuple(notes),
        unusable=tuple(unusable),
        shown=shown,
    )


def contour_of(part: Part) -> float:
    """From where on a severity map shows a lesion: the best contour on validation, else CONTOUR."""
    return part.metrics.get("val", {}).get("map", {}).get("threshold", CONTOUR)


def open_image(image: Image | np.ndarray | Path | str) -> tuple[Image, tuple[str, ...]]:
    """A path, an `Image` or pixels -> the image, and what the reader warns of."""
    if isinstance(image, np.ndarray):
        limits = (int(image.min()), int(image.max()))
        return Image(image, limits, bits=8 * image.dtype.itemsize), ()
    if isinstance(image, Image):
        return image, ()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        opened = load_image(image)
    # other libraries' warnings may quote what is in the file, so they are not passed on
    prefix = f"{Path(image).name}: "
    texts = [str(warning.message) for warning in caught]
    notes = [text.removeprefix(prefix) for text in texts if text.startswith(prefix)]
    header = dicom_tags.read_header(image)
    if header is not None:
        # the reader warns of identifiers once for a folder; here each row must stand for itself
        notes = [text for text in notes if dicom_tags.IDENTIFIED not in text]
        notes += dicom_tags.header_warnings(header)
    return opened, tuple(notes)


def header_refusals(image: Image | np.ndarray | Path | str, opened: Image) -> tuple[str, ...]:
    """Why the header of an image's file makes it unusable.

    Args:
        image: What was asked for.
        opened: The same, opened.
    """
    header = None
    if isinstance(image, (str, Path)):
        header = dicom_tags.read_header(image)
    return dicom_tags.unusable_by_header(opened.tags if header is None else header)


def severity_notes(probs: np.ndarray, score: float, profile: Profile) -> tuple[str, ...]:
    """Warns of a score that the diagnosis contradicts.

    A severity model learns from films of COVID-19, and by the choice `severity.healthy` from normal
    ones. What it says of another film has no ground.

    Args:
        probs: Of DIAGNOSES, (K,).
        score: Severity, 0 to 6.
        profile: Of the severity model.
    """
    learnt_from = "COVID-19 alone"
    if profile.severity.healthy == "zeros":
        learnt_from = "COVID-19 and normal ones"
    likeliest = DIAGNOSES[int(np.argmax(probs))]
    if score <= SEVERE or likeliest == "covid19":
        return ()
    return (
        f"severity {score:.1f} contradicts the diagnosis {likeliest}: it was learnt from films of "
        f"{learnt_from}",
    )


def choose_views(
    models: Models, wanted: str | None, tag: str | None
) -> tuple[list[str], tuple[str, ...]]:
    """The diagnosis models that serve an image.

    Args:
        models: One of the two diagnoses may be missing.
        wanted: The view that the caller gives: PA, AP or None.
        tag: The view that the file states: any word or None.

    Returns:
        Views whose predictions are averaged, and what to warn of.
    """
    have = [name for name in FRONTAL if f"diagnosis_{name.lower()}" in models.parts]
    view, notes = wanted or tag, []
    if tag and tag not in FRONTAL:
        notes.append(f"{quality.FAULTS['not_frontal']}: the file says view {tag}")
    if wanted and tag and wanted != tag:
        notes.append(f"view {wanted} was asked for, but the file says view {tag}")
    if view in have:
        return [view], tuple(notes)
    if not models.views_apart:  # one model has learnt from both
        return have[:1], tuple(notes)
    first = f"the {have[0]} model was used"
    if view in FRONTAL:
        return have, (*notes, f"no model of {view} films: {first}")
    how = "mean of the PA and AP models" if len(have) > 1 else first
    return have, (*notes, f"view unknown: {how}")


def network_input(image: Image | np.ndarray, profile: Profile) -> torch.Tensor:
    """The image as the networks saw images in training.

    Args:
        image: Pixels, uint8 or uint16 (H, W), or an image, whose greys may be final (`scaled`).
        profile: Gives size and preprocessing.

    Returns:
        float32 (1, 1, S, S).
    """
    size, choices = profile.variant.zoom * profile.image_size, profile.choices
    if isinstance(image, Image):
        image, choices = image.pixels, image.choices(choices)
    square = preprocessing.preprocess(image, size, choices)  # (S, S)
    return torch.from_numpy(square)[None, None]


def visible(pixels: np.ndarray, mask: np.ndarray, profile: Profile) -> Image | np.ndarray:
    """What the diagnosis of a profile sees: the whole image, the box around its lungs, or lungs.

    Args:
        pixels: uint8 or uint16 (H, W).
        mask: Lungs of the whole image, bool of any size.
        profile: `sources.framing` decides.

    Returns:
        Pixels, or an image of the lungs, whose greys are as final as those of the files that
        `masked_images.blacken` writes.
    """
    framing = profile.sources.framing
    shown = masked_images.frame(pixels, as_lungs(mask), framing, profile.choices.stretch)
    if framing != "lungs":
        return shown
    return Image(shown, (int(shown.min()), int(shown.max())), bits=8, scaled=True)


def as_lungs(mask: np.ndarray) -> np.ndarray:
    """A bool mask (h, w) as masks are stored: 0 and 255."""
    return np.where(mask, np.uint8(255), np.uint8(0))


def place_maps(
    maps: np.ndarray, shape: tuple[int, int], mask: np.ndarray, profile: Profile
) -> np.ndarray:
    """Maps of what the diagnosis sees, where that lies in the whole image; 0 elsewhere.

    Args:
        maps: (K, h, w).
        shape: (H, W) of the image.
        mask: Lungs of the whole image, bool of any size.
        profile: `sources.framing` decides.

    Returns:
        float32 (K, H, W).
    """
    box: tuple[slice, slice] = (slice(0, shape[0]), slice(0, shape[1]))
    if profile.sources.framing == "crop":
        box = masked_images.lung_box(as_lungs(mask), shape)
    size = (box[0].stop - box[0].start, box[1].stop - box[1].start)
    placed = np.zeros((len(maps), *shape), np.float32)
    for whole, one in zip(placed, maps, strict=True):
        whole[box] = to_image_size(one, size, profile)
    return placed


def lungs_input(pixels: np.ndarray, profile: Profile) -> np.ndarray:
    """The image as the segmenter sees it.

    Args:
        pixels: uint8 or uint16 (H, W).
        profile: Of the segmenter.

    Returns:
        float32 (s, s) in [-1, 1].
    """
    grey = preprocessing.to_uint8(pixels, profile.choices.stretch)
    return preprocessing.normalize(preprocessing.resize(grey, profile.segmenter.size), "signed")


def lung_mask(pixels: np.ndarray, part: Part) -> np.ndarray:
    """Clean lung mask, bool (S, S), of the whole image resized plainly."""
    return segment_lungs(pixels, part)[0]


def segment_lungs(pixels: np.ndarray, part: Part) -> tuple[np.ndarray, np.ndarray]:
    """Lungs of an image, and how sure the segmenter is of them.

    Args:
        pixels: uint8 or uint16 (H, W).
        part: The segmenter.

    Returns:
        Clean mask, bool (S, S), and the probability of lung on the image and on its mirror image,
        float32 (2, s, s), the second flipped back.
    """
    grey = lungs_input(pixels, part.profile)
    image = torch.from_numpy(grey)[None, None].to(device_of(part.network))  # (1, 1, s, s)
    with torch.no_grad():
        straight = segmentation.lung_logits(part.network, image)
        mirrored = segmentation.lung_logits(part.network, image.flip(-1)).flip(-1)
    both = torch.cat([straight, mirrored])[:, 0].cpu()  # (2, s, s)
    logits = both.mean(0) if part.profile.segmenter.mirror else both[0]
    mask = segmentation.to_mask(logits.numpy(), part.profile.image_size)
    return mask, both.sigmoid().numpy()


def diagnose(
    pixels: np.ndarray,
    mask: np.ndarray,
    part: Part,
    maps: bool = True,
    map_method: str = DEFAULT_METHOD,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Probabilities of the diagnoses, and where each comes from.

    Args:
        pixels: uint8 or uint16 (H, W).
        mask: Lungs of the whole image, bool (S, S), for a model that sees nothing else (`visible`).
        part: A diagnosis model.
        maps: Also say where they come from.
        map_method: Says it; a key of `cxrkit.explain.METHODS`.

    Returns:
        Probabilities (K,), and maps (K, H, W), or None without `maps`. A negative value speaks
        against the diagnosis.
    """
    probs, found, _ = diagnose_and_features(pixels, mask, part, maps, map_method)
    return probs, found


def diagnose_and_features(
    pixels: np.ndarray,
    mask: np.ndarray,
    part: Part,
    maps: bool = True,
    map_method: str = DEFAULT_METHOD,
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    """As `diagnose`, with what the model saw of the image.

    Args:
        pixels: uint8 or uint16 (H, W).
        mask: Lungs of the whole image, bool (S, S).
        part: A diagnosis model.
        maps: Also say where the diagnoses come from.
        map_method: See `diagnose`.

    Returns:
        Probabilities (K,), maps (K, H, W) or None, and the mean of the corpus over the grid (C,).
    """
    model, profile = cast(Classifier, part.network), part.profile
    device = device_of(model)
    image = network_input(visible(pixels, mask, profile), profile).to(device)
    with torch.no_grad():
        corpus = model.corpus(image)  # (1, C, h, w)
        logits = model(features=corpus)["logits"]  # (1, K)
    _, to_probabilities = diagnosis.HEADS[profile.choices.class_head]
    probs = to_probabilities(logits / diagnosis.temperature_of(part.metrics))[0].cpu().numpy()
    features = corpus.float().mean(dim=(2, 3))[0].cpu().numpy()  # (C,)
    if not maps:
        return probs, None, features
    transformer, classes = cast(CorpusViT, model.transformer), range(len(DIAGNOSES))
    cells = METHODS[map_method](transformer, corpus, classes, device=device)[0]  # (K, h, w)
    shape = (pixels.shape[0], pixels.shape[1])
    return probs, place_maps(cells.cpu().numpy(), shape, mask, profile), features


def saliency_maps(relevance: np.ndarray) -> dict[str, np.ndarray]:
    """Positive part of maps (K, H, W) -> maps in [0, 1] by name; the diagnoses share one scale."""
    relevance = np.maximum(relevance, 0)
    largest = max(relevance.max(), 1e-12)
    names = [f"saliency_{name}" for name in DIAGNOSES]
    return {name: one / largest for name, one in zip(names, relevance, strict=True)}


def predict_severity(
    pixels: np.ndarray, mask: np.ndarray, part: Part
) -> tuple[np.ndarray, float, np.ndarray]:
    """Severity of an image inside its lungs.

    Args:
        pixels: uint8 or uint16 (H, W).
        mask: Lungs of the whole image, bool (S, S).
        part: The severity model.

    Returns:
        Array (3, 2) in [0, 1] with the patient's right in column 0, score 0 to 6, and severity map
        (H, W) in [0, 1].
    """
    profile, device = part.profile, device_of(part.network)
    lungs = severity_task.place_mask(mask, pixels.shape, profile)  # (S, S)
    batch = {
        "image": network_input(pixels, profile).to(device),
        "lung_mask": torch.from_numpy(lungs)[None].to(device),
    }
    with torch.no_grad():
        output = severity_task.read_severity(part.network, batch, profile.choices)
    table = severity_task.add_predictions(
        pd.DataFrame(index=[0]), output["array"].cpu().numpy(), profile.choices
    )
    zones = table[severity_task.PREDICTED].to_numpy()[0]  # (6,), the right lung first
    cells = output["severity_map"][0, 0].cpu().numpy()
    return (
        zones.reshape(2, 3).T,
        float(table["score"][0]),
        to_image_size(cells, pixels.shape, profile),
    )
