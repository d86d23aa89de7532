"""Findings: the backbone's task. Ten findings from one image, at hospitals that no training saw.

Evaluated by AUC, calibration and place. B batch, K findings, h w grid of the corpus, S image size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import nn

from cxrkit.config.choices import Choices
from cxrkit.config.sections import Training
from cxrkit.config.vocabulary import FEWEST, FINDINGS
from cxrkit.data import manifests
from cxrkit.data.datasets import CXRDataset, image_dataset
from cxrkit.evaluation import metrics, resampling
from cxrkit.evaluation.summaries import by_split, interval_dict, json_number
from cxrkit.models.factory import build_backbone
from cxrkit.models.pretrained import load_features
from cxrkit.simulation.hospital import finding_mask_from_url
from cxrkit.tasks.task import Inputs, State, Tables, Task
from cxrkit.training import loop
from cxrkit.training.devices import device_of

LOGITS = [f"logit_{name}" for name in FINDINGS]  # columns of predictions
DRAWS = 400  # of patients, for an interval
FLIP = 0.2  # chance that the features of a training image are mirrored, as images are


def cross_entropy(logits: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Binary cross-entropy over the known labels.

    Args:
        logits: (B, K).
        truth: (B, K) of 0, 1 and NaN for unknown.

    Returns:
        The mean over the known labels, a scalar; 0 where none is known.
    """
    known = ~torch.isnan(truth)  # (B, K)
    each = F.binary_cross_entropy_with_logits(logits, truth.nan_to_num(), reduction="none")
    return (each * known).sum() / known.sum().clamp(min=1)


def milestones_of(decay: str, steps: int, epoch: float) -> tuple[tuple[int, ...], float]:
    """Choice 13: steps after which the learning rate falls, and the factor.

    Args:
        decay: the value of `choices.lr_decay`.
        steps: of the training.
        epoch: steps of one pass over the training images.
    """
    if decay == "epochs_10_15":
        return (round(10 * epoch), round(15 * epoch)), 0.5
    return (2 * steps // 3,), 0.1


def with_decay(training: Training, images: int, choices: Choices) -> Training:
    """A training with the milestones of choice 13 for a number of images.

    Other schedules than "step" stay as they are.
    """
    if training.schedule != "step":
        return training
    epoch = images / (training.batch * training.accumulate)
    milestones, decay = milestones_of(choices.lr_decay, training.steps, epoch)
    return replace(training, milestones=milestones, decay=decay)


class FindingsTask(Task):
    """The DenseNet with PCAM pooling, or another feature extractor, learns the ten findings."""

    name = "findings"

    def network(self) -> nn.Module:
        """The backbone of the profile, or of its variant, with random weights."""
        return build_backbone(self.profile)

    def initialise(self, initial_weights: Sequence[State] = ()) -> nn.Module:
        """The backbone before its training; of a state dict it takes `features.*`, all of them."""
        torch.manual_seed(self.profile.seed)
        model = self.network()
        for state in initial_weights:
            load_features(model, state)
        model.features.requires_grad_(not self.profile.backbone.frozen)
        return model

    def reads_corpora(self, model: nn.Module) -> bool:
        """Whether the head alone learns."""
        return self.profile.backbone.frozen

    def corpus_flip(self) -> float:
        """As often as images are mirrored, where they are augmented."""
        return FLIP if self.profile.backbone.augment else 0.0

    def forward(self, model: nn.Module, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Outputs of the model for images, or for their features where the batch holds these."""
        if "features" in batch:
            return model.read(batch["features"])
        return model(batch["image"])

    def dataset(self, table: pd.DataFrame, train: bool = False) -> CXRDataset:
        """Images of a table as the backbone sees them."""
        augmented = train and self.profile.backbone.augment
        return image_dataset(table, self.profile, self.store, augmented)

    def loss(self, model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """`cross_entropy` of the logits of a batch."""
        return cross_entropy(self.forward(model, batch)["logits"], batch["findings"])

    def training(self, images: int) -> Training:
        """The profile's training of the backbone, its milestones by choice 13."""
        return with_decay(self.profile.backbone_training, images, self.profile.choices)

    def score(self, model: nn.Module, table: pd.DataFrame, data: Any) -> float:
        """Mean AUC over the findings."""
        found = loop.evaluate(model, data, device=device_of(model), forward=self.forward)
        logits = found["logits"].numpy()
        return mean_auc(table[list(FINDINGS)].to_numpy(), logits)

    def predict(self, model: nn.Module, table: pd.DataFrame) -> pd.DataFrame:
        """The table with a column of logits for each finding (`LOGITS`)."""
        data = self.data(model, table)
        found = loop.evaluate(model, data, device=self.device, forward=self.forward)
        logits = found["logits"]  # (n, K)
        return table.assign(**dict(zip(LOGITS, logits.numpy().T, strict=True)))

    def evaluate(self, predictions: Tables, train: pd.DataFrame) -> dict[str, Any]:
        """`scores` of each part and each external site."""
        return by_split(predictions, scores)

    def more_predictions(self, folder: Path, inputs: Inputs) -> Tables:
        """With `profile.folds`: internal images, each by a backbone that never saw its patient."""
        if not self.profile.folds:
            return {}
        internal = inputs.table[~inputs.table["external"].astype(bool)]
        fold = internal["group_id"].map(lambda group: manifests.fold_of(group, self.profile.folds))
        return {"folds": self.cross_validate(folder, internal, fold.to_numpy(), inputs)}


def mean_auc(truth: np.ndarray, scores: np.ndarray) -> float:
    """Mean AUC over the findings for which both values occur; NaN if there is none.

    Args:
        truth: (n, K) of 0, 1 and NaN.
        scores: (n, K).
    """
    areas = [metrics.auc(truth[:, k], scores[:, k]) for k in range(truth.shape[1])]
    return float(np.nanmean(areas)) if np.isfinite(areas).any() else np.nan


def is_evaluable(table: pd.DataFrame, finding: str) -> bool:
    """Whether a table has enough patients with a finding, and images without it, for an AUC."""
    positive = table[finding] == 1
    patients = table.loc[positive, "patient_id"].nunique()
    return patients >= FEWEST and bool((table[finding] == 0).any())


def scores(table: pd.DataFrame, seed: int = 0) -> dict[str, Any]:
    """How well the findings of one table are predicted.

    Args:
        table: of `FindingsTask.predict`.
        seed: of the bootstrap.

    Returns:
        Nested dict ready for JSON: `findings` with AUC (DeLong by patient), ECE and Brier score
        each; their mean AUC (bootstrap of patients) and ECE; `same`, findings whose label says no
        more than another's. A finding of fewer than FEWEST patients has no AUC and takes no part in
        the mean.
    """
    groups, findings = table["group_id"].to_numpy(), {}
    evaluable = [name for name in FINDINGS if is_evaluable(table, name)]
    for name in FINDINGS:
        known = table[name].notna().to_numpy()
        y = table.loc[known, name].to_numpy()
        logit = table.loc[known, f"logit_{name}"].to_numpy()
        probability = 1 / (1 + np.exp(-logit.astype(float)))
        area = (np.nan,) * 3
        if name in evaluable:
            area = metrics.auc_ci(y, logit, groups=groups[known])
        findings[name] = {
            "auc": interval_dict(area, int(y.sum())),
            "ece": json_number(metrics.ece(y, probability)),
            "brier": json_number(metrics.brier(y, probability)),
        }
    mean = (np.nan,) * 3
    if evaluable:
        truth = table[evaluable].to_numpy()
        logits = table[[f"logit_{name}" for name in evaluable]].to_numpy()
        mean = resampling.bootstrap(mean_auc, truth, logits, groups=groups, draws=DRAWS, seed=seed)
    errors = [np.nan if one["ece"] is None else one["ece"] for one in findings.values()]
    return {
        "findings": findings,
        "auc": interval_dict(mean, len(table)),
        "ece": json_number(np.nanmean(errors)),
        "same": twins(table[list(FINDINGS)]),
    }


def twins(labels: pd.DataFrame) -> list[str]:
    """Pairs of findings with one label, or opposite ones, in every image.

    Returns:
        Such as ["opacity = pneumonia", "opacity = 1 - no_finding"].
    """
    pairs = []
    names = list(labels)
    for i, a in enumerate(names):
        for b in names[:i]:
            both = labels[[a, b]].dropna()
            if not len(both) or both[a].nunique() != 2:
                continue
            if (both[a] == both[b]).all():
                pairs.append(f"{a} = {b}")
            if (both[a] == 1 - both[b]).all():
                pairs.append(f"{a} = 1 - {b}")
    return pairs


def pointing(task: FindingsTask, model: nn.Module, table: pd.DataFrame) -> pd.DataFrame:
    """Pointing game on virtual images: is the highest cell of a finding's map on the finding?

    The truth is the pixels that the finding's own lesions or devices change
    (`simulation.Hospital.finding_mask`). Slow, because each image is rendered again.

    Args:
        task: of the model.
        model: gives `logit_map` (B, K, h, w).
        table: virtual images.

    Returns:
        A row for each finding present: finding, group_id, `hit` (0/1) and `chance`, the share of
        the cells that the finding touches.
    """
    output = loop.evaluate(model, task.dataset(table), ("logit_map",), device=task.device)
    maps = output["logit_map"].numpy()  # (n, K, h, w)
    rows = []
    for image, cells in zip(table.to_dict("records"), maps, strict=True):
        for name in FINDINGS[1:]:
            if image[name] != 1:
                continue
            truth = finding_mask_from_url(image["url"], name)  # (S, S)
            S = truth.shape[0]
            h, w = cells.shape[1:]
            touched = truth.reshape(h, S // h, w, S // w).any(axis=(1, 3))  # (h, w)
            highest = cells[FINDINGS.index(name)].argmax()
            rows.append(
                {
                    "finding": name,
                    "group_id": image["group_id"],
                    "hit": float(touched.flat[highest]),
                    "chance": touched.mean(),
                }
            )
    return pd.DataFrame(rows)
