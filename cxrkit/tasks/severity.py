"""Severity: a map of where the disease lies, learnt from six ones and zeros an image (section 3.3).

PA and AP images train together (section 4). B batch, H W severity map, S image size; an array is
3x2 with row 0 = upper zone, column 0 = patient's right = image left, unless `choices.array_columns`
says the other way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import nn

from cxrkit.config.choices import Choices
from cxrkit.config.sections import Profile, Training
from cxrkit.config.vocabulary import BRIXIA, SECOND, ZONES, known
from cxrkit.data import lung_zones
from cxrkit.data.datasets import CXRDataset, severity_arrays
from cxrkit.data.images import load_image
from cxrkit.data.masks import letterbox
from cxrkit.evaluation import follow_up, localisation, metrics, platt, resampling
from cxrkit.evaluation.summaries import by_split, interval_dict, json_number, mean_dict
from cxrkit.models.factory import build_classifier
from cxrkit.tasks.segmentation import SegmentationTask
from cxrkit.tasks.task import WEIGHTS, State, Tables, Task
from cxrkit.training import checkpoint, loop
from cxrkit.training.devices import device_of

# columns of predictions, in the order of the true ones
PREDICTED = [f"p_{zone}" for zone in ZONES]
DRAWS = 400  # of patients, for an interval
ERRORS = ("mse", "mae", "cc", "r2")
HALVES = ("gate_logits", "local_logits")  # of a map with local evidence
HALF_WEIGHT = 0.5  # of the loss of each half alone
HEALTHY_SHARE = 0.25  # of the images that are drawn, where healthy ones train as zeros
# ranges of true scores, lowest and highest, of the conditional bias
RANGES = ((0, 0), (1, 2), (3, 4), (5, 6))


def inside_lungs(lung_mask: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Lung masks at the size of a map.

    Args:
        lung_mask: (B, S, S) of 0, 127 (nobody has annotated here: no lung) and 255.
        size: (H, W).

    Returns:
        bool (B, H, W), resized to the nearest.
    """
    inside = (lung_mask == 255)[:, None].float()  # (B, 1, S, S)
    return F.interpolate(inside, size, mode="nearest-exact")[:, 0] > 0.5  # (B, H, W)


def segmented_lungs(
    task: SegmentationTask, segmenter: nn.Module, table: pd.DataFrame, profile: Profile
) -> np.ndarray:
    """The segmenter's masks where the severity model looks.

    Returns:
        uint8 (n, S, S) of 0, 255, and 127 in the border that `choices.resize` "pad" adds.
    """
    masks = task.segment(segmenter, table, size=profile.image_size)
    placed = []
    for mask, path in zip(masks, table["path"], strict=True):
        shape = (1, 1)
        if profile.choices.resize != "plain":
            shape = load_image(path).pixels.shape
        placed.append(place_mask(mask, shape, profile))
    return np.stack(placed)


def place_mask(mask: np.ndarray, shape: Sequence[int], profile: Profile) -> np.ndarray:
    """A mask of the whole image where the model sees that image.

    Args:
        mask: bool, the image plainly resized.
        shape: (H, W) of the image as it is stored.
        profile: gives the size S and the kind of resize.

    Returns:
        uint8 (S, S), as `segmented_lungs`.
    """
    size, grey = profile.image_size, np.where(mask, 255, 0).astype(np.uint8)
    if profile.choices.resize == "plain":
        return cv2.resize(grey, (size, size), interpolation=cv2.INTER_NEAREST)
    original = cv2.resize(grey, tuple(shape[::-1]), interpolation=cv2.INTER_NEAREST)
    return letterbox(original, size)


def sigmoid_before_mask(logits: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
    """Choice 7, the default: 0 outside the lungs."""
    return logits.sigmoid() * inside


def sigmoid_after_mask(logits: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
    """Choice 7, the other reading: 0.5 outside the lungs."""
    return (logits * inside).sigmoid()


SIGMOIDS = {"before_mask": sigmoid_before_mask, "after_mask": sigmoid_after_mask}


def squared_error(array: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Squared error of each value: (B, 3, 2), (B, 3, 2) -> (B, 3, 2)."""
    return (array - truth).square()


def cross_entropy(array: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Binary cross-entropy of each value: (B, 3, 2), (B, 3, 2) -> (B, 3, 2).

    The values are pooled from a map, so they have no logits that a loss could take.
    """
    # autocast would refuse probabilities; these are float32 (`read_severity`)
    with torch.autocast(array.device.type, enabled=False):
        return F.binary_cross_entropy(array.clamp(1e-6, 1 - 1e-6), truth, reduction="none")


LOSSES = {"mse": squared_error, "bce": cross_entropy}  # choice 8


def forward(model: nn.Module, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Outputs of the model for images, or for their features where the batch holds these."""
    if "features" in batch:
        return model(features=model.corpus_of(batch["features"]))
    return model(batch["image"])


def read_severity(
    model: nn.Module, batch: dict[str, torch.Tensor], choices: Choices, pooling: str = "max"
) -> dict[str, torch.Tensor]:
    """Severity map and array of a batch.

    Zones hold lung pixels only, so the order of sigmoid and mask (choice 7) changes the map outside
    the lungs and no array.

    Args:
        model: gives `severity_logits` (B, 1, H, W).
        batch: `image` (B, 1, S, S), or its `features`, and `lung_mask` (B, S, S).
        choices: readings of the paper.
        pooling: of a zone, "max" or "average".

    Returns:
        `severity_map` (B, 1, H, W) times the lung mask, and `array` (B, 3, 2), pooled from it and
        calibrated where the model has a calibration.
    """
    found = forward(model, batch)
    read = read_logits(found["severity_logits"], batch["lung_mask"], choices, pooling)
    return {**read, "array": calibrated(model, read["array"])}


def calibrated(model: nn.Module, array: torch.Tensor) -> torch.Tensor:
    """Zone values (B, 3, 2) after the calibration of a model, where it has one."""
    calibration = getattr(model, "calibration", None)
    return array if calibration is None else calibration(array)


def read_logits(
    logits: torch.Tensor, lung_mask: torch.Tensor, choices: Choices, pooling: str
) -> dict[str, torch.Tensor]:
    """As `read_severity`, from logits (B, 1, H, W) that are known, without calibration."""
    logits = logits.float()  # in bf16 0.999 would be 1
    inside = inside_lungs(lung_mask, logits.shape[-2:])  # (B, H, W)
    severity_map = SIGMOIDS[choices.sigmoid](logits, inside[:, None])  # (B, 1, H, W)
    array = lung_zones.roi_pool(severity_map, inside, pooling, choices)  # (B, 3, 2)
    return {"severity_map": severity_map, "array": array}


def hold_out(table: pd.DataFrame, site: str, alternation: Sequence[str] = ()) -> pd.DataFrame:
    """Alternation (section 4): one hospital becomes the external test.

    Those external before are left out, except the others that take turns with it: these train. A
    hospital that takes its turn though it was not external trains other stages, such as the
    classifier that the severity model begins with: only images of its test split remain.

    Args:
        table: images with `site`, `group_id` and `external`.
        site: the hospital.
        alternation: hospitals that take turns.

    Raises:
        ValueError: no such hospital trains or takes turns; the message lists them.
    """
    external = table["external"].astype(bool) & ~table["site"].isin(alternation)
    internal = table[~external]
    known(site, set(internal["site"]), "training hospital")
    held_out = internal["site"] == site
    if alternation:  # patients may have been seen at two hospitals
        left_out = ~held_out & internal["group_id"].isin(internal.loc[held_out, "group_id"])
        trained_elsewhere = held_out & ~internal["external"].astype(bool)
        if trained_elsewhere.any():
            left_out |= trained_elsewhere & (internal["split"] != "test")
        internal, held_out = internal[~left_out], held_out[~left_out]
    return internal.assign(external=held_out).reset_index(drop=True)


def trained_at(table: pd.DataFrame, sites: Sequence[str]) -> pd.DataFrame:
    """The images without those of other training hospitals ("Brixia alone", Table 10).

    Args:
        table: images with `site`, `dataset` and `external`.
        sites: training hospitals or datasets that stay; () = all.

    Raises:
        ValueError: a site is unknown; the message lists the training hospitals.
    """
    internal = ~table["external"].astype(bool)
    names = set(table.loc[internal, "site"]) | set(table.loc[internal, "dataset"])
    for site in sites:
        known(site, names, "training hospital")
    return table[~internal | is_at(table, sites)].reset_index(drop=True)


def is_at(table: pd.DataFrame, sites: Sequence[str]) -> pd.Series:
    """Whether each image is of one of some sites or datasets; () = all."""
    if not sites:
        return pd.Series(True, index=table.index)
    return table["site"].isin(sites) | table["dataset"].isin(sites)


class SeverityTask(Task):
    """The corpus ViT with the map head learns six zones from weak labels."""

    name = "severity"

    def network(self) -> nn.Module:
        """Backbone and corpus ViT with the map head (`models.Classifier`), with random weights."""
        return build_classifier(self.profile, map_head=True)

    def dataset(self, table: pd.DataFrame, train: bool = False) -> CXRDataset:
        """Images of a table with their lung masks; a flip swaps the columns of the array."""
        settings = self.profile.severity
        return CXRDataset(
            table,
            self.profile.image_size,
            replace(self.profile.choices, augmentation=settings.augmentation),
            train=train,
            flip=settings.flip,
            masks=True,
            store=self.store,
        )

    def reads_corpora(self, model: nn.Module) -> bool:
        """Whether the backbone is frozen; local evidence needs the pixels."""
        return self.profile.severity.frozen and getattr(model, "evidence", None) is None

    def corpus_flip(self) -> float:
        """As often as images are mirrored."""
        return self.profile.severity.flip

    def training(self, images: int) -> Training:
        """The profile's training for severity."""
        return self.profile.severity_training

    def sample_weights(self, table: pd.DataFrame) -> np.ndarray | None:
        """Chance of each training image to be drawn: HEALTHY_SHARE is shared by normal ones.

        Returns:
            (n,), or None, every image equally often, where no healthy ones train as zeros.
        """
        healthy = table["diagnosis"].eq("normal").to_numpy()
        if self.profile.severity.healthy != "zeros" or healthy.all() or not healthy.any():
            return None
        scored = (1 - HEALTHY_SHARE) / (~healthy).sum()
        return np.where(healthy, HEALTHY_SHARE / healthy.sum(), scored)

    def initialise(self, initial_weights: Sequence[State] = ()) -> nn.Module:
        """The model before its training; with `severity.frozen` its backbone stays as it is."""
        model = super().initialise(initial_weights)
        if self.profile.severity.frozen:
            model.features.requires_grad_(False)
        return model

    def loss(self, model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Choice 8 over the zones that are known and in the image; 0 for a batch without any.

        With local evidence (`choices.map_evidence`) each half of the product must also answer by
        itself, at HALF_WEIGHT: else one could say yes everywhere and leave the answer to the other.
        """
        found = forward(model, batch)
        loss = self._error(found["severity_logits"], batch)
        for name in HALVES:
            if name in found:
                loss = loss + HALF_WEIGHT * self._error(found[name], batch)
        return loss

    def calibrate(self, model: nn.Module, folder: Path, table: pd.DataFrame) -> dict[str, Any]:
        """Fit the calibration of each zone (`severity.calibration`), where there are images.

        Normal images weigh HEALTHY_SHARE, as in the training.

        Returns:
            {"calibration": slope and offset of each zone}, {} where there is none.
        """
        calibration = getattr(model, "calibration", None)
        if calibration is None or table.empty:
            return {}
        calibration.set_lines(np.ones((3, 2)), np.zeros((3, 2)))  # what is fitted are raw values
        truth = severity_arrays(table, self.profile.choices)
        weights = self.sample_weights(table)
        if weights is None:
            weights = np.ones(len(table))
        weights = weights * len(table) / weights.sum()
        calibration.set_lines(*platt.fit_zones(self.arrays(model, table), truth, weights))
        checkpoint.replace_weights(model, folder / WEIGHTS)
        return {"calibration": calibration.lines()}

    def _error(self, logits: torch.Tensor, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        choices, pooling = self.profile.choices, self.profile.variant.pooling
        array = read_logits(logits, batch["lung_mask"], choices, pooling)["array"]  # (B, 3, 2)
        truth = batch["array"]  # (B, 3, 2)
        known = ~truth.isnan()
        each = LOSSES[choices.severity_loss](array, truth.nan_to_num())  # (B, 3, 2)
        return (each * known).sum() / known.sum().clamp(min=1)

    def score(self, model: nn.Module, table: pd.DataFrame, data: Any) -> float:
        """Minus the MSE of the 0-6 score."""
        arrays = self._arrays(model, data, device_of(model))
        predictions = add_predictions(table, arrays, self.profile.choices)
        truth = true_scores(table, self.profile.choices)
        return -metrics.severity_metrics(truth, predictions["score"])["mse"]

    def _arrays(self, model: nn.Module, data: Any, device: torch.device | None) -> np.ndarray:
        choices, pooling = self.profile.choices, self.profile.variant.pooling

        def read(model: nn.Module, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            return read_severity(model, batch, choices, pooling)

        found = loop.evaluate(model, data, ("array",), device=device, forward=read)
        return found["array"].numpy()

    def arrays(self, model: nn.Module, table: pd.DataFrame) -> np.ndarray:
        """Predicted arrays of a table, (n, 3, 2)."""
        return self._arrays(model, self.data(model, table), self.device)

    def predict(self, model: nn.Module, table: pd.DataFrame) -> pd.DataFrame:
        """The table with the six values and the score (`add_predictions`)."""
        return add_predictions(table, self.arrays(model, table), self.profile.choices)

    def maps(self, model: nn.Module, table: pd.DataFrame) -> np.ndarray:
        """Severity maps times lung masks, (n, H, W) in [0, 1]."""

        def read(model: nn.Module, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            return read_severity(model, batch, self.profile.choices)

        output = loop.evaluate(
            model, self.data(model, table), ("severity_map",), device=self.device, forward=read
        )
        return output["severity_map"][:, 0].numpy()

    def evaluate(self, predictions: Tables, train: pd.DataFrame) -> dict[str, Any]:
        """`report` of the predictions. Auxiliary images train no constant guess."""
        if "auxiliary" in train:
            train = train[~train["auxiliary"].astype(bool)]
        return report(predictions, train, self.profile.choices)

    def more_metrics(
        self, model: nn.Module, predictions: Tables, metrics: dict[str, Any]
    ) -> dict[str, Any]:
        """Maps against true lesions, and changes between the images of a patient."""
        with_lesions = {}
        for name, table in predictions.items():
            outlined = table[table["lesion_mask"].notna()].reset_index(drop=True)
            if len(outlined):
                with_lesions[name] = (self.maps(model, outlined), outlined)
        found = localisation.evaluate_maps(with_lesions, self.profile, self.store)
        for name, result in found.items():
            metrics[name]["map"] = result
        return evaluate_follow_up(predictions, self.profile.choices)

    def read_healthy(self, model: nn.Module, table: pd.DataFrame) -> dict[str, Any]:
        """What the model reads where there is nothing to find.

        Args:
            model: trained.
            table: images without disease (`as_zeros`), with `lung_mask`.

        Returns:
            `score`, the mean score, whose truth is 0, and `involved`, the share of images with a
            zone of at least 0.5, with intervals by patient.
        """
        predictions = self.predict(model, table)
        groups = predictions["group_id"].to_numpy()
        involved = (predictions[PREDICTED] >= 0.5).any(axis=1)
        return {
            "score": mean_dict(predictions["score"].to_numpy(float), groups, DRAWS),
            "involved": mean_dict(involved.to_numpy(float), groups, DRAWS),
        }

    def read_unscored(self, model: nn.Module, table: pd.DataFrame) -> list[dict[str, Any]]:
        """What the model reads where nobody has scored: ill films should read above healthy ones.

        Args:
            model: trained.
            table: images with `diagnosis` and `lung_mask` whose patients did not train the model.

        Returns:
            For each dataset and diagnosis `score`, the mean score with its interval by patient,
            and, beside normal images of the same dataset, `auc`, how often an image reads above a
            normal one.
        """
        predictions = self.predict(model, table)
        out = []
        for (dataset, name), rows in predictions.groupby(["dataset", "diagnosis"]):
            row = {"dataset": dataset, "diagnosis": name}
            groups = rows["group_id"].to_numpy()
            row["score"] = mean_dict(rows["score"].to_numpy(float), groups, DRAWS)
            normal = predictions.query("dataset == @dataset and diagnosis == 'normal'")
            if name != "normal" and len(normal):
                both = pd.concat([normal, rows])
                ill = (both["diagnosis"] != "normal").to_numpy(float)
                area = metrics.auc_ci(ill, both["score"], groups=both["group_id"].to_numpy())
                row["auc"] = interval_dict(area, len(both))
            out.append(row)
        return out

    def compare_lesions(self, model: nn.Module, table: pd.DataFrame) -> dict[str, Any]:
        """Maps of images whose lesions are outlined and whose severity is unknown (Figure 7).

        Args:
            model: trained.
            table: images with `lung_mask` and `lesion_mask`.

        Returns:
            {"map": measures of `localisation.evaluate_maps`}, {} where no lesion lies in a lung.
        """
        maps = {"outlined": (self.maps(model, table), table)}
        found = localisation.evaluate_maps(maps, self.profile, self.store)
        return {"map": found["outlined"]} if found else {}


def as_zeros(table: pd.DataFrame) -> pd.DataFrame:
    """The table with no zone involved in any image: what images without disease are scored."""
    nothing = dict.fromkeys((*ZONES, *BRIXIA), 0.0)
    return table.assign(**nothing, **dict.fromkeys(SECOND, np.nan))


def evaluate_follow_up(predictions: Tables, choices: Choices) -> dict[str, Any]:
    """What change between two images of a patient is more than noise.

    The noise is measured on val and test, the changes are evaluated on external images, where there
    are any.

    Returns:
        {"followup": ...}, or {} where no noise can be measured.
    """
    internal = [predictions[name] for name in ("val", "test") if name in predictions]
    pairs = follow_up.changes(pd.concat(internal or [pd.DataFrame()]), choices)
    external = pairs
    if "external" in predictions:
        external = follow_up.changes(predictions["external"], choices)
    deviation = follow_up.noise(pairs)
    if not np.isfinite(deviation):
        return {}
    return {"followup": follow_up.report(external, deviation)}


def add_predictions(table: pd.DataFrame, array: np.ndarray, choices: Choices) -> pd.DataFrame:
    """The table with what a severity model predicts.

    Args:
        table: n images.
        array: (n, 3, 2).
        choices: choice 2 says which column is which lung, choice 9 which score counts.

    Returns:
        The table with the six values (`PREDICTED`, named after zones of the patient), `score`, and
        both its readings, `soft` and `hard`.
    """
    sided = array if choices.array_columns == "patient_right" else array[:, :, ::-1]
    six = np.concatenate([sided[:, :, 0], sided[:, :, 1]], axis=1)  # (n, 6)
    zones = dict(zip(PREDICTED, six.T, strict=True))
    both = {how: lung_zones.severity_score(array, how) for how in ("soft", "hard")}
    return table.assign(**zones, score=both[choices.severity_score], **both)


def true_scores(table: pd.DataFrame, choices: Choices) -> np.ndarray:
    """True severity 0-6 of a table, (n,); NaN where a zone is unknown."""
    return lung_zones.severity_score(severity_arrays(table, choices))


def second_reader_scores(table: pd.DataFrame, choices: Choices) -> np.ndarray:
    """Score of the second radiologist, (n,); NaN where there is none."""
    brixia = table[list(SECOND)].to_numpy(np.float32)  # (n, 6)
    return lung_zones.severity_score(lung_zones.brixia_to_array(brixia, choices.brixia_threshold))


def report(predictions: Tables, train: pd.DataFrame, choices: Choices) -> dict[str, Any]:
    """Metrics of tables of predictions, by part and external site.

    Args:
        predictions: {"val": ..., "test": ..., "external": ...}, tables of `SeverityTask.predict`.
        train: training images, whose mean score is the constant guess; where none has a score, as
            in a rehearsal on few images, there is no guess (NaN).
        choices: readings of the paper.
    """
    known = true_scores(train, choices)
    known = known[np.isfinite(known)]
    guess = float(known.mean()) if len(known) else np.nan
    return by_split(predictions, lambda table: scores(table, guess, choices))


def scores(table: pd.DataFrame, guess: float, choices: Choices) -> dict[str, Any]:
    """How well the severity of one table is predicted.

    Args:
        table: of `SeverityTask.predict`.
        guess: the constant score that is compared with the model; NaN where there is none.
        choices: readings of the paper.

    Returns:
        MSE, MAE, CC, R2 of the score with intervals by patient, both readings of the score, the
        mean score by the true one (`by_truth`), each zone, Bland-Altman and quadratic kappa;
        beside them the constant guess and, where there is one, the second radiologist
        (`second_reader`).
    """
    truth, groups = true_scores(table, choices), table["group_id"].to_numpy()
    bland_altman = metrics.bland_altman(table["score"], truth)
    kappa = resampling.bootstrap(
        metrics.quadratic_kappa, truth, np.rint(table["score"]), groups=groups, draws=DRAWS
    )
    constant = dict.fromkeys(ERRORS, interval_dict((np.nan, np.nan, np.nan), 0))
    if np.isfinite(guess):
        constant = errors(truth, np.full(len(table), guess), groups)
    out = {
        **errors(truth, table["score"], groups),
        "constant": constant,
        "soft": errors(truth, table["soft"], groups),
        "hard": errors(truth, table["hard"], groups),
        "by_truth": by_truth(truth, table["score"].to_numpy(), groups),
        "zones": by_zone(table, choices),
        "bland_altman": {name: json_number(value) for name, value in bland_altman.items()},
        "kappa": interval_dict(kappa, len(table)),
    }
    second = second_reader_scores(table, choices)
    both = ~np.isnan(second) & ~np.isnan(truth)
    if both.any():
        out["second_reader"] = errors(truth[both], second[both], groups[both])
    return out


def errors(truth: np.ndarray, score: np.ndarray, groups: np.ndarray) -> dict[str, Any]:
    """MSE (the main metric), MAE, CC and R2, each with its interval by patient.

    Args:
        truth: (n,), NaN where unknown.
        score: (n,).
        groups: patient of each image, (n,).
    """
    known = ~np.isnan(truth)
    out = {}
    for name in ERRORS:

        def one(y: np.ndarray, p: np.ndarray, name: str = name) -> float:
            return metrics.severity_metrics(y, p)[name]

        triple = resampling.bootstrap(
            one, truth[known], np.asarray(score)[known], groups=groups[known], draws=DRAWS
        )
        out[name] = interval_dict(triple, known.sum())
    return out


def by_truth(truth: np.ndarray, score: np.ndarray, groups: np.ndarray) -> list[dict[str, Any]]:
    """Conditional bias: the mean score that is read at each range of true scores.

    A model that always says the mean has no bias on the whole and a large one in each range.

    Args:
        truth: (n,) in 0 to 6, NaN where unknown.
        score: (n,).
        groups: patient of each image, (n,).

    Returns:
        One dict for each of RANGES that has an image: `low`, `high`, `true`, the mean truth, and
        `read`, the mean score with its interval by patient.
    """
    out = []
    for low, high in RANGES:
        rows = (truth >= low) & (truth <= high)
        if not rows.any():
            continue
        read = mean_dict(score[rows], groups[rows], DRAWS)
        out.append({"low": low, "high": high, "true": float(truth[rows].mean()), "read": read})
    return out


def by_zone(table: pd.DataFrame, choices: Choices) -> dict[str, Any]:
    """AUC (DeLong by patient) and agreement at 0.5 of each of the six zones."""
    truth, groups, out = severity_arrays(table, choices), table["group_id"].to_numpy(), {}
    if choices.array_columns != "patient_right":
        truth = truth[:, :, ::-1]

    def agreement(a: np.ndarray, b: np.ndarray) -> float:
        return np.mean(a == b)

    for i, (zone, column) in enumerate(zip(ZONES, PREDICTED, strict=True)):
        y, p = truth[:, i % 3, i // 3], table[column].to_numpy()
        known = ~np.isnan(y)
        agreed = resampling.bootstrap(
            agreement, y[known], p[known] >= 0.5, groups=groups[known], draws=DRAWS
        )
        out[zone] = {
            "auc": interval_dict(metrics.auc_ci(y, p, groups=groups), int((y == 1).sum())),
            "agreement": interval_dict(agreed, known.sum()),
        }
    return out
