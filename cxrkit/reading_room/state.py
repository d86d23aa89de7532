"""The state of the reading room: a list of samples, and everything the models predict for each.

Predictions are computed once and kept. There are no widgets and no figures here.

S px of an image as shown, s px as the models see it, K findings, C channels and h w grid of the
corpus, T = 1 + h*w tokens, D embed, L blocks, N heads, H W severity map. A severity array (3, 2)
has row 0 = upper zone, column 0 = patient's right = left of the image.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pandas as pd
import torch
from torch import nn

from cxrkit.config.choices import Choices
from cxrkit.config.vocabulary import DIAGNOSES, FINDINGS, HAS, VIEWS, known
from cxrkit.data import lung_zones, manifests, preprocessing
from cxrkit.data.cache import DECODERS
from cxrkit.data.datasets import external_or_test, severity_arrays
from cxrkit.data.images import load_image
from cxrkit.evaluation import follow_up, metrics
from cxrkit.explain import deep_taylor
from cxrkit.inference import predictor, trained
from cxrkit.inference.quality import load_quality_control
from cxrkit.models.corpus_vit import CorpusViT
from cxrkit.reading_room.edits import EDITS, asks_for_cell
from cxrkit.simulation import hospital
from cxrkit.tasks import diagnosis, severity
from cxrkit.training.devices import device_of

if TYPE_CHECKING:
    from cxrkit.pipeline.run import Run

DISPLAY_SIZE = 256  # px of an image on the page
MAX_SINGLE = 18  # samples of patients with one image on the list
MAX_FOLLOWED = 4  # patients with several images on the list
MAX_REAL = 12  # real images on the list
ORIGINS = {  # where a sample comes from, and how a figure says so
    "virtual": "synthetic",
    "real": "real film, research use only",
    "uploaded": "your film",
}
MODEL_VIEWS = VIEWS[:2]  # PA and AP, each with a diagnosis model


@dataclass(frozen=True, eq=False)
class Sample:
    """An image on the list, with what is known of it before any prediction.

    Attributes:
        name: on the list.
        pixels: uint8 or uint16 (H, W).
        view: PA or AP; it selects the diagnosis model.
        origin: a key of ORIGINS.
        width_mm: width of the image at the patient, where it is known.
        patient_id: "" where it is unknown.
        visit: orders the images of a patient.
        row: the sample's line of a table, where it has one.
        notes: warnings about an uploaded file.
    """

    name: str
    pixels: np.ndarray
    view: str
    origin: str
    width_mm: float | None = None
    patient_id: str = ""
    visit: float = 0.0
    row: pd.DataFrame | None = field(default=None, repr=False)
    notes: tuple[str, ...] = ()

    @property
    def marker(self) -> tuple[slice, slice] | None:
        """Rows and columns that the technician's marker covers; None where they are unknown."""
        if self.row is None or "marker_top" not in self.row or self.row["marker_top"].isna().any():
            return None
        first = self.row.iloc[0]
        top, left = max(int(first["marker_top"]), 0), max(int(first["marker_left"]), 0)
        return slice(top, int(first["marker_bottom"])), slice(left, int(first["marker_right"]))


@dataclass(frozen=True, eq=False)
class Prediction:
    """What all models predict for one image.

    Attributes:
        image: uint8 (S, S), as shown.
        model_input: uint8 (s, s), equalised and blurred.
        findings: probabilities (K,).
        finding_maps: probabilities of the cells (K, h, w).
        corpus: (1, C, h, w) of the diagnosis model, on the CPU.
        tokens: (1 + L, T, D), before the first block and after each.
        attention: (L, N, T, T).
        diagnosis: probabilities (3,).
        lung_mask: bool (s, s).
        severity_map: (H, W) in [0, 1], 0 outside the lungs.
        severity_array: (3, 2) in [0, 1].
    """

    image: np.ndarray
    model_input: np.ndarray
    findings: np.ndarray
    finding_maps: np.ndarray
    corpus: torch.Tensor
    tokens: np.ndarray
    attention: np.ndarray
    diagnosis: np.ndarray
    lung_mask: np.ndarray
    severity_map: np.ndarray
    severity_array: np.ndarray

    @property
    def severity(self) -> float:
        """The severity score, 0-6: the sum of the six values."""
        return float(self.severity_array.sum())


@dataclass(frozen=True, eq=False)
class Truth:
    """What is known of an image; None or NaN where it is unknown.

    Attributes:
        diagnosis: a name in DIAGNOSES.
        findings: (K,) of 0 or 1.
        severity_array: (3, 2) of 0 or 1.
        second_array: (3, 2), of a second radiologist.
        lung_mask: bool (S, S).
        lesion_mask: bool (S, S).
    """

    diagnosis: str | None
    findings: np.ndarray
    severity_array: np.ndarray
    second_array: np.ndarray
    lung_mask: np.ndarray | None
    lesion_mask: np.ndarray | None


class Room:
    """The models of a run, and a list of samples to predict: `room.predict(room.samples[name])`.

    The samples are of hospitals that no training saw (where a run has none, of the test split), in
    random order. Predictions of the patients with several images are computed at the start.

    Args:
        run: gives the models and the images; what is missing is made.
        real_images: folder of prepared real images; some of them then join the list.
        remember: so many predictions are kept.

    Attributes:
        samples: name -> Sample.
        diagnoses: view -> result of the diagnosis stage, with `predictions` and `model`.
        models: view -> diagnosis model.
    """

    def __init__(self, run: Run, real_images: str | Path | None = None, remember: int = 64) -> None:
        self.run = run
        self.profile = run.profile
        self.diagnoses = {view: run.diagnosis(view) for view in MODEL_VIEWS}
        self.models = {view: result.model for view, result in self.diagnoses.items()}
        self.backbone = run.backbone.model
        self.severity_model = run.severity.model
        self.segmenter = trained.Part(run.segmenter.model, run.profile, licence="")
        self.quality = load_quality_control(trained.QUALITY_MODEL)

        self._kept_predictions = lru_cache(remember)(self._predict)
        self._kept_relevance = lru_cache(remember)(self._relevance)
        self._kept_truth = lru_cache(remember)(self._truth)
        self._kept_calibration = lru_cache(remember)(self._calibration)
        self._kept_thresholds = lru_cache(remember)(self._thresholds)

        followed = self._followed_samples()
        samples = [*self._single_samples(), *followed]
        if real_images:
            samples += real_samples(real_images)
        self.samples = {sample.name: sample for sample in samples}
        # a figure shows all images of a patient at once: better computed now than in a class
        for sample in followed:
            self.predict(sample)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns (h, w) of the corpus."""
        return _transformer_of(self.models["PA"]).grid

    @property
    def is_virtual(self) -> bool:
        """Whether the models were trained on virtual patients alone."""
        return self.profile.manifests == ("virtual",)

    # the list

    def _single_samples(self) -> list[Sample]:
        """Up to one image of each site, view and diagnosis, in random order."""
        table = external_or_test(self.run.images("diagnosis"))
        table = table[table["view"].isin(MODEL_VIEWS)]
        table = table.sample(frac=1, random_state=self.profile.seed)
        chosen = table.groupby(["site", "view", "diagnosis"], sort=False).head(1)[:MAX_SINGLE]
        chosen = chosen.sample(frac=1, random_state=self.profile.seed)
        samples = []
        for i, site in enumerate(chosen["site"]):
            samples.append(self._sample(chosen.iloc[i : i + 1], f"film {i + 1}, {site}"))
        return samples

    def _followed_samples(self) -> list[Sample]:
        """All images of the patients with the most images."""
        table = follow_up.series(external_or_test(self.run.images("severity")))
        table = table[table["view"].isin(MODEL_VIEWS)]
        counts = table["patient_id"].value_counts(sort=False)
        longest = counts.sort_values(ascending=False, kind="stable").index[:MAX_FOLLOWED]
        samples = []
        for letter, patient_id in zip("ABCDEFGH", longest, strict=False):
            rows = table[table["patient_id"] == patient_id]
            for i in range(len(rows)):
                name = f"patient {letter}, visit {i + 1}"
                samples.append(self._sample(rows.iloc[i : i + 1], name))
        return samples

    def _sample(self, row: pd.DataFrame, name: str) -> Sample:
        first = row.iloc[0]
        site = hospital.SITES.get(first["site"])
        return Sample(
            name=f"{name}, {first['view']}",
            pixels=load_image(first["path"]).pixels,
            view=first["view"],
            origin="virtual" if first["dataset"] == "virtual" else "real",
            width_mm=site.field_mm if site else None,
            patient_id=first["patient_id"],
            visit=float(first["visit"]) if pd.notna(first["visit"]) else 0.0,
            row=row,
        )

    def visits(self, sample: Sample) -> list[Sample]:
        """All samples of the same patient in the order of visits; the sample alone without any."""
        if not sample.patient_id:
            return [sample]
        same = []
        for other in self.samples.values():
            if other.patient_id == sample.patient_id and other.origin == sample.origin:
                same.append(other)
        return sorted(same, key=lambda other: other.visit) or [sample]

    def upload(self, name: str, content: bytes, view: str | None = None) -> Sample:
        """Put the image of a file on the list.

        Args:
            name: of the file.
            content: its bytes.
            view: PA or AP, where the file does not say; by default PA.

        Returns:
            The sample, with warnings of the quality control as notes.

        Raises:
            ImageError: the file is broken; the message names it.
            ValueError: the view is unknown.
        """
        with TemporaryDirectory() as folder:
            path = Path(folder) / f"upload{Path(name).suffix.lower()[:8]}"
            path.write_bytes(content)
            try:
                image = load_image(path)
            except ValueError as error:
                raise type(error)(str(error).replace(str(path), name)) from None
        if image.view in MODEL_VIEWS:
            view = image.view
        view = known(view or "PA", MODEL_VIEWS, "view")
        width_mm = image.spacing[1] * image.pixels.shape[1] if image.spacing else None
        mask, probs = predictor.segment_lungs(image.pixels, self.segmenter)
        warnings = self.quality.warnings(image.pixels, mask, self.profile.image_size, probs)
        sample = Sample(
            name=f"yours: {name}, {view}",
            pixels=image.pixels,
            view=view,
            origin="uploaded",
            width_mm=width_mm,
            notes=(*warnings, *image.notes),
        )
        self.samples[sample.name] = sample
        return sample

    # what the models predict

    def predict(
        self, sample: Sample, edit: str = "nothing", cell: tuple[int, int] = (0, 0)
    ) -> Prediction:
        """What all models predict for a sample, after an edit.

        Args:
            sample: on the list or not.
            edit: a key of EDITS.
            cell: (row, column) in the grid, for an edit that erases one.

        Raises:
            ValueError: the edit is unknown; the message lists the known ones.
        """
        known(edit, EDITS, "edit")
        return self._kept_predictions(sample, edit, _cell_of(edit, cell))

    def _predict(self, sample: Sample, edit: str, cell: tuple[int, int] | None) -> Prediction:
        apply = EDITS[edit]
        if apply is None:
            return self.predict_pixels(sample.pixels, sample.view)
        pixels = preprocessing.to_uint8(sample.pixels).copy()  # (H, W)
        height, width = pixels.shape
        small = self.predict(sample).lung_mask.astype(np.uint8)
        lungs = cv2.resize(small, (width, height), interpolation=cv2.INTER_NEAREST) > 0
        box = None
        if cell is not None:
            (row, column), (h, w) = cell, self.grid
            box = (
                slice(row * height // h, (row + 1) * height // h),
                slice(column * width // w, (column + 1) * width // w),
            )
        apply(pixels, lungs, box, sample.marker)
        return self.predict_pixels(pixels, sample.view)

    @torch.no_grad()
    def predict_pixels(self, pixels: np.ndarray, view: str) -> Prediction:
        """One image through all models, each on the device that it lies on.

        Args:
            pixels: uint8 or uint16 (H, W).
            view: PA or AP.
        """
        choices = self.profile.choices
        model_input = preprocessing.prepare(pixels, self.profile.image_size, choices)  # (s, s)
        normalized = preprocessing.normalize(model_input, choices.normalize)
        image = torch.from_numpy(normalized)[None, None]  # (1, 1, s, s)
        mask = predictor.lung_mask(pixels, self.segmenter)  # (s, s)

        findings = self.backbone(image.to(device_of(self.backbone)))

        model = self.models[view]
        visible = predictor.visible(pixels, mask, self.profile)
        visible = predictor.network_input(visible, self.profile)  # (1, 1, s, s)
        corpus = model.corpus(visible.to(device_of(model)))  # (1, C, h, w)
        vit = _transformer_of(model)
        with deep_taylor.recorded(vit) as recorded:
            logits = vit(corpus)["logits"]  # (1, 3)
        (first, *_), _ = recorded[vit.blocks[0].norm1]  # inputs, output
        tokens = [first, *(recorded[block.add2][1] for block in vit.blocks)]  # each (1, T, D)
        attention = [recorded[block.attn.softmax][1] for block in vit.blocks]  # each (1, N, T, T)
        _, to_probabilities = diagnosis.HEADS[choices.class_head]

        device = device_of(self.severity_model)
        lungs = severity.place_mask(mask, pixels.shape, self.profile)  # (s, s)
        batch = {
            "image": image.to(device),
            "lung_mask": torch.from_numpy(lungs)[None].to(device),
        }
        graded = severity.read_severity(self.severity_model, batch, choices)

        grey = preprocessing.to_uint8(pixels)
        return Prediction(
            image=preprocessing.resize(grey, DISPLAY_SIZE, choices.resize),
            model_input=model_input,
            findings=_to_numpy(findings["logits"][0].sigmoid()),
            finding_maps=_to_numpy(findings["logit_map"][0].sigmoid()),
            corpus=corpus.cpu(),
            tokens=_to_numpy(torch.cat(tokens)),
            attention=_to_numpy(torch.cat(attention)),
            diagnosis=_to_numpy(to_probabilities(logits / self._temperature(view))[0]),
            lung_mask=lungs == 255,
            severity_map=_to_numpy(graded["severity_map"][0, 0]),
            severity_array=_to_numpy(graded["array"][0]),
        )

    def relevance(
        self,
        sample: Sample,
        edit: str = "nothing",
        cell: tuple[int, int] = (0, 0),
        start_layer: int = 0,
    ) -> np.ndarray:
        """Relevance maps of the three diagnoses, (3, h, w).

        Args:
            sample: on the list or not.
            edit: a key of EDITS.
            cell: (row, column) in the grid, for an edit that erases one.
            start_layer: the first block that takes part.
        """
        return self._kept_relevance(sample, edit, _cell_of(edit, cell), start_layer)

    def _relevance(
        self, sample: Sample, edit: str, cell: tuple[int, int] | None, start_layer: int
    ) -> np.ndarray:
        corpus = self._kept_predictions(sample, edit, cell).corpus
        vit = self.models[sample.view].transformer
        classes = list(range(len(DIAGNOSES)))
        maps = deep_taylor.relevance(vit, corpus, classes, start_layer, device=device_of(vit))
        return _to_numpy(maps[0])

    # what is known

    def truth(self, sample: Sample) -> Truth:
        """What is known of a sample."""
        return self._kept_truth(sample)

    def _truth(self, sample: Sample) -> Truth:
        if sample.row is None:
            unknown = np.full((3, 2), np.nan)
            return Truth(None, np.full(len(FINDINGS), np.nan), unknown, unknown, None, None)
        first, choices = sample.row.iloc[0], self.profile.choices
        second = sample.row[list(HAS["readers"])].to_numpy(np.float32)  # (1, 6)
        return Truth(
            diagnosis=first["diagnosis"] if isinstance(first["diagnosis"], str) else None,
            findings=sample.row[list(FINDINGS)].to_numpy(np.float32)[0],
            severity_array=severity_arrays(sample.row, choices)[0],
            second_array=lung_zones.brixia_to_array(second, choices.brixia_threshold)[0],
            lung_mask=_known_mask(first["lung_mask"], "lungs", choices),
            lesion_mask=_known_mask(first["lesion_mask"], "lesion", choices),
        )

    def thresholds(self, view: str) -> dict[str, float]:
        """Diagnosis -> threshold of 80 % sensitivity on the validation images of a view."""
        return self._kept_thresholds(view)

    def _thresholds(self, view: str) -> dict[str, float]:
        return diagnosis.thresholds(self._calibrated(view, self.diagnoses[view].validation))

    def calibration(self, view: str, name: str, bins: int = 5) -> dict[str, np.ndarray]:
        """How often images have a diagnosis where the model predicts it with some probability.

        Args:
            view: PA or AP.
            name: in DIAGNOSES.
            bins: equal bins of the probability.

        Returns:
            Table of `metrics.reliability` over the images of external hospitals, or of the test
            split where there are none.
        """
        return self._kept_calibration(view, name, bins)

    def _calibration(self, view: str, name: str, bins: int) -> dict[str, np.ndarray]:
        predictions = external_or_test(self.diagnoses[view].predictions)
        predictions = self._calibrated(view, predictions)
        labels = (predictions["diagnosis"] == name).to_numpy(float)
        return metrics.reliability(labels, predictions[f"p_{name}"].to_numpy(), bins)

    def _temperature(self, view: str) -> float:
        """What the logits of a view's model are divided by, as `predict` does."""
        return diagnosis.temperature_of(self.diagnoses[view].metrics)

    def _calibrated(self, view: str, table: pd.DataFrame) -> pd.DataFrame:
        """A table of predictions with the probabilities that the room shows."""
        return diagnosis.calibrated(table, self._temperature(view), self.profile.choices.class_head)

    def noise_limit(self) -> float:
        """Change of the severity score that noise alone exceeds in 5 % of pairs of images.

        Infinite where the noise was not measured.
        """
        measured = self.run.severity.metrics.get("followup", {})
        return measured.get("limit", np.inf)


def _transformer_of(model: nn.Module) -> CorpusViT:
    """The corpus ViT of a diagnosis model; a network that it is compared with has none."""
    transformer = model.transformer
    if not isinstance(transformer, CorpusViT):
        raise TypeError(f"the reading room shows a CorpusViT, not a {type(transformer).__name__}")
    return transformer


def _cell_of(edit: str, cell: tuple[int, int]) -> tuple[int, int] | None:
    """The cell that an edit depends on, so that the others share one kept prediction."""
    if not asks_for_cell(edit):
        return None
    row, column = cell
    return row, column


def _to_numpy(tensor: torch.Tensor) -> np.ndarray:
    return tensor.cpu().numpy()


def _known_mask(path: object, kind: str, choices: Choices) -> np.ndarray | None:
    """A mask of a table, bool (S, S); None where the table names no file."""
    if not isinstance(path, str):
        return None
    return DECODERS[kind](path, DISPLAY_SIZE, choices) == 255


def real_samples(folder: str | Path, n: int = MAX_REAL) -> list[Sample]:
    """Samples of real patients that two radiologists scored, of known view, one a patient.

    Args:
        folder: of prepared real images; those of `cohen` are used.
        n: at most so many.
    """
    table = manifests.read_manifest("cohen", folder, Choices())
    scored = table["brixia_A"].notna() & table["brixia2_A"].notna()
    usable = table[scored & table["view"].isin(MODEL_VIEWS)].drop_duplicates("group_id")
    rows = usable.sample(min(n, len(usable)), random_state=0)
    samples = []
    for i, row in enumerate(rows.to_dict("records")):
        samples.append(
            Sample(
                name=f"real {i + 1}, {row['view']}",
                pixels=load_image(row["path"]).pixels,
                view=row["view"],
                origin="real",
                row=rows.iloc[i : i + 1],
            )
        )
    return samples


def rezone(
    prediction: Prediction, cuts: tuple[float, float], choices: Choices = Choices()
) -> tuple[np.ndarray, np.ndarray]:
    """The zones of an image cut at other lines, and what its severity map gives in them.

    Args:
        prediction: of `Room.predict`.
        cuts: the two lines, as shares of the lungs' height.
        choices: readings of the paper.

    Returns:
        Zones, bool (3, 2, s, s), and the severity array (3, 2).
    """
    right, left = lung_zones.sides(prediction.lung_mask, choices)
    zones = lung_zones.zones_of_sides(right, left, choices, cuts)  # (3, 2, s, s)
    size = prediction.lung_mask.shape[::-1]
    large = cv2.resize(prediction.severity_map, size, interpolation=cv2.INTER_NEAREST)  # (s, s)
    array = np.zeros((3, 2), large.dtype)
    for row, column in np.ndindex(3, 2):
        array[row, column] = large[zones[row, column]].max(initial=0.0)
    return zones, array


def token_similarity(
    tokens: np.ndarray, cell: tuple[int, int], grid: tuple[int, int]
) -> np.ndarray:
    """Cosine of the token of one cell with that of every cell.

    Args:
        tokens: (n, T, D), the class token first.
        cell: (row, column) in the grid.
        grid: (h, w).

    Returns:
        (n, h, w) in [-1, 1].
    """
    cells = tokens[:, 1:]  # (n, h*w, D)
    cells = cells / np.linalg.norm(cells, axis=-1, keepdims=True).clip(1e-9)
    own = cells[:, cell[0] * grid[1] + cell[1]]  # (n, D)
    return np.einsum("ntd,nd->nt", cells, own).reshape(len(tokens), *grid)
