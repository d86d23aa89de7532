"""Choices that need no training: the finished severity model, evaluated with each other value."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import mean_squared_error
from torch import nn

from cxrkit.config import profiles
from cxrkit.config.choices import Choices
from cxrkit.data import lung_zones
from cxrkit.evaluation import resampling
from cxrkit.storage.atomic import write_json
from cxrkit.tasks import severity
from cxrkit.tasks.severity import SeverityTask
from cxrkit.training import loop

CHOICES = ("zone_height", "zone_origin", "lung_sides", "severity_score")
DRAWS = 1000  # of patients, for an interval


def make(folder: Path, task: SeverityTask, model: nn.Module, table: pd.DataFrame) -> None:
    """Write what each other value of CHOICES changes.

    Args:
        folder: gets metrics.json, whose `choices` have for each "choice=value" the change of the
            MSE: value, low, high and n.
        task: of the profile.
        model: the trained one.
        table: images with lung masks, (n rows).
    """
    write_json(folder / "metrics.json", {"choices": effects(task, model, table)})


def effects(
    task: SeverityTask, model: nn.Module, table: pd.DataFrame
) -> dict[str, dict[str, dict[str, float]]]:
    """Change of the MSE of the score, by choice.

    Args:
        task: of the profile.
        model: the trained one.
        table: images with lung masks, (n rows).

    Returns:
        "choice=value" -> {"mse": leaf of value, low, high (95 %, over patients) and n}.
    """
    profile = task.profile
    maps, inside = _maps(task, model, table)
    truth, groups = severity.true_scores(table, profile.choices), table["group_id"].to_numpy()

    def score(choices: Choices) -> np.ndarray:
        raw = lung_zones.roi_pool(maps, inside, profile.variant.pooling, choices)
        arrays = severity.calibrated(model, raw).numpy()  # (n, 3, 2)
        return lung_zones.severity_score(arrays, choices.severity_score)  # (n,)

    own, found = score(profile.choices), {}
    for name, other in profiles.ablations(profile).items():
        if name.partition("=")[0] not in CHOICES:
            continue
        gap = resampling.paired_bootstrap(
            mean_squared_error, truth, score(other.choices), own, groups, DRAWS
        )
        leaf = {"value": gap["difference"], "low": gap["low"], "high": gap["high"]}
        found[name] = {"mse": leaf | {"n": len(truth)}}
    return found


def _maps(
    task: SeverityTask, model: nn.Module, table: pd.DataFrame
) -> tuple[torch.Tensor, torch.Tensor]:
    """Severity maps of images, 0 outside the lungs, (n, 1, H, W); lungs, bool (n, H, W)."""

    def forward(model: nn.Module, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        severity_map = severity.read_severity(model, batch, task.profile.choices)["severity_map"]
        return {"map": severity_map, "mask": batch["lung_mask"]}

    found = loop.evaluate(model, task.dataset(table), ("map", "mask"), forward=forward)
    inside = severity.inside_lungs(found["mask"], found["map"].shape[-2:])
    return found["map"] * inside[:, None], inside
