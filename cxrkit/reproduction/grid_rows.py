"""A finished cell of the grid as a flat row: metric, difference, costs, curve of the training.

One seed shows the variation between patients and nothing of the variation between trainings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from sklearn.metrics import mean_squared_error
from torch import nn

from cxrkit.config import profiles
from cxrkit.config.sections import Profile, Training
from cxrkit.data.datasets import external_or_test
from cxrkit.evaluation import metrics, resampling
from cxrkit.evaluation.summaries import metrics_of
from cxrkit.models import factory
from cxrkit.models.corpus_vit import CorpusViT
from cxrkit.pipeline import makers, stages
from cxrkit.reproduction import grid
from cxrkit.reproduction.grid import DIAGNOSIS, SEVERITY, Cell
from cxrkit.shortcuts import within_source
from cxrkit.storage.artifacts import Store
from cxrkit.storage.atomic import read_json
from cxrkit.tasks import diagnosis, severity
from cxrkit.training import memory

DIFFERENCE = ("difference", "difference_low", "difference_high")
COSTS = ("parameters", "steps", "seconds", "seconds_before", "memory_gb")
DRAWS = 1000  # of patients, for an interval
FLAT = 0.01  # improvement over the last quarter of a training that ended flat
FOLDS = "crossvalidated.csv"  # predictions of the models of folds
MOST_POINTS = 24  # of a curve that a row keeps

# stage -> metric in its metrics.json, statistic of truth and prediction, and the sign of "better"
METRICS = {
    DIAGNOSIS: ("auc", metrics.macro_auc, 1),
    SEVERITY: ("mse", mean_squared_error, -1),
}


def fetch_finished(cell: Cell, store: Store) -> None:
    """Copy a finished cell to this machine from where the store shares it.

    With it come the earlier stages whose seconds are counted, and that of the folds.
    """
    if cell.profile.folds:
        stages.fetch(cell.profile, fold_stage(cell), store)
    for stage, profile in ((cell.stage, cell.profile), *earlier_trainings(cell)):
        stages.fetch(profile, stage, store)


def measure_cell(cell: Cell, store: Store, against: Cell | None = None) -> dict[str, Any]:
    """A finished cell as a flat row.

    Args:
        cell: a finished cell.
        store: where its artifact lies.
        against: the finished cell that it is compared with; None, as where that one failed, gives a
            row without a difference.

    Returns:
        The metric with its interval by patient, the difference from `against` on the same images,
        the curve of its training (`training_curve`), the version of the virtual hospitals where it
        saw them (`same_patients` where it did not), and the costs.

    Raises:
        ValueError: the two were evaluated on other images.
    """
    fetch_finished(cell, store)
    row = {
        "table": cell.table,
        "cell": cell.name,
        "stage": cell.stage,
        "against": cell.against,
        "profile": cell.profile.name,
        "seed": cell.seed,
        "key": cell.key,
        "metric": METRICS[cell.stage][0],
        **cell_metric(cell, store),
        **cell_costs(cell, store),
        **training_curve(read_json(cell.folder(store) / "history.json")),
    }
    if "virtual" in cell.profile.manifests:
        row["hospitals"] = stages.stage_of("cohort").version
    else:
        row["same_patients"] = True  # in every seed
    if against is not None and against is not cell:
        fetch_finished(against, store)
        gap = compare_cells(cell, against, store)
        row |= dict(zip(DIFFERENCE, (gap["difference"], gap["low"], gap["high"])))
    return row


def fold_stage(cell: Cell) -> str:
    """The stage that makes the models of folds, if any: one of the diagnosis for both views."""
    joint = cell.stage == DIAGNOSIS and cell.profile.sources.joint_views
    return "diagnosis" if joint else cell.stage


def fold_predictions(cell: Cell, store: Store) -> pd.DataFrame | None:
    """Predictions of all images by models of folds, which never saw the patient.

    Public films are evaluated so, as a test split alone would hold too few of them: the diagnosis
    inside each source, as between sources the source gives it away.

    Args:
        cell: a finished cell.
        store: where its artifact lies.

    Returns:
        The table; None where there are no folds, or no source with two classes to tell apart.
    """
    path = stages.folder_of(cell.profile, fold_stage(cell), store) / FOLDS
    if not cell.profile.folds or not path.exists():
        return None
    table = store.read_table(path)
    if cell.stage == SEVERITY:
        return table[table["threshold"] == cell.profile.choices.brixia_threshold]
    return table if within_source.two_class_sources(table) else None


def cell_metric(cell: Cell, store: Store) -> dict[str, Any]:
    """The metric of a finished cell on external images; on the test split where there are none.

    Where there are folds, of all images by folds (`fold_predictions`).

    Args:
        cell: a finished cell.
        store: where its artifact lies.

    Returns:
        value, low, high, n; and `by_folds`, True, where there are folds.
    """
    by_folds = fold_predictions(cell, store)
    if by_folds is not None:
        y, p, groups, statistic = _of_folds(cell, by_folds)
        ends = resampling.bootstrap(statistic, y, p, groups=groups, draws=DRAWS)
        return {**dict(zip(("value", "low", "high"), ends)), "n": len(y), "by_folds": True}
    found = read_json(cell.folder(store) / "metrics.json")
    split = "external" if "external" in found else "test"
    return metrics_of(found, split)[METRICS[cell.stage][0]]


def validation_score(cell: Cell, store: Store) -> float:
    """What chooses between trainings of one seed: on validation patients of the training hospitals.

    Args:
        cell: a finished cell.
        store: where its artifact lies.

    Returns:
        Of the diagnosis the best AUC of the training; of severity minus the MSE of the score on all
        validation images whose zones are known, those of the diagnosis too. Higher is better.
    """
    if cell.stage == DIAGNOSIS:
        history = read_json(cell.folder(store) / "history.json")
        return max(row["score"] for row in history if row.get("score") is not None)
    inputs = stages.inputs_of(cell.profile, SEVERITY, store)
    table = makers.scored_validation_images(cell.profile, inputs)
    task = severity.SeverityTask(cell.profile, store)
    predictions = task.predict(task.load(cell.folder(store)), table)
    truth = severity.true_scores(table, cell.profile.choices)
    return -mean_squared_error(truth, predictions["score"])


class Predictions(NamedTuple):
    """What a metric is computed from.

    Attributes:
        truth: (n,); by folds, codes of `within_source.two_class_problems` for the diagnosis.
        predictions: (n, K) or (n,).
        groups: patient of each image, (n,).
        statistic: the metric, of truth and predictions.
    """

    truth: np.ndarray
    predictions: np.ndarray
    groups: np.ndarray
    statistic: Callable[..., float]


def cell_predictions(cell: Cell, store: Store) -> Predictions:
    """What `cell_metric` is computed from.

    Args:
        cell: a finished cell.
        store: where its artifact lies.
    """
    by_folds = fold_predictions(cell, store)
    if by_folds is not None:
        return _of_folds(cell, by_folds)
    statistic = METRICS[cell.stage][1]
    table = external_or_test(store.read_table(cell.folder(store) / "predictions.csv"))
    groups = table["group_id"].to_numpy()
    if cell.stage == DIAGNOSIS:
        probabilities = table[diagnosis.PROBABILITIES].to_numpy()
        return Predictions(diagnosis.codes(table), probabilities, groups, statistic)
    truth = severity.true_scores(table, cell.profile.choices)
    return Predictions(truth, table["score"].to_numpy(), groups, statistic)


def _of_folds(cell: Cell, table: pd.DataFrame) -> Predictions:
    """`cell_predictions` from a table of `fold_predictions`."""
    if cell.stage == DIAGNOSIS:
        return Predictions(*within_source.two_class_problems(table), within_source.mean_auc)
    known = table[table["truth"].notna()]
    columns = (known[name].to_numpy() for name in ("truth", "score", "group_id"))
    return Predictions(*columns, METRICS[cell.stage][1])


def compare_cells(cell: Cell, against: Cell, store: Store, draws: int = DRAWS) -> dict[str, float]:
    """Cell minus `against` on the same draws of patients.

    Args:
        cell: a finished cell.
        against: another of the same stage.
        store: where both lie.
        draws: of patients.

    Returns:
        As `resampling.paired_bootstrap`.

    Raises:
        ValueError: they were evaluated on other images, or with another truth.
    """
    y, p, groups, statistic = cell_predictions(cell, store)
    other_y, other_p, other_groups, _ = cell_predictions(against, store)
    same_images = list(groups) == list(other_groups)
    if not same_images or not np.array_equal(y, other_y, equal_nan=True):
        raise ValueError(
            f"{cell.name} and {against.name} were not evaluated on the same images with the same "
            "truth"
        )
    known = np.isfinite(y)
    return resampling.paired_bootstrap(
        statistic, y[known], p[known], other_p[known], groups=groups[known], draws=draws
    )


def cell_costs(cell: Cell, store: Store) -> dict[str, float]:
    """What a cell takes.

    Args:
        cell: a finished cell.
        store: where its artifact lies.

    Returns:
        A value for each of COSTS: parameters, steps, seconds of its own training and of what its
        weights were trained on before, and GB of one training step.
    """
    profile = cell.profile
    map_head = cell.stage == SEVERITY
    training = grid.own_training(profile, cell.stage)
    whole = factory.build_classifier(profile, map_head)
    side = profile.image_size * profile.variant.zoom
    trained, shape = network_builder(profile, map_head), (1, side, side)
    # the transformer alone trains, on a corpus computed once
    if cell.stage == DIAGNOSIS and profile.transformer.frozen:
        vit = whole.transformer
        if not isinstance(vit, CorpusViT):
            raise TypeError(f"a frozen backbone needs a CorpusViT, not a {type(vit).__name__}")
        trained = network_builder(profile, map_head, "transformer")
        shape = (vit.patch_embed.proj.in_channels, *vit.grid)
    seconds_before = 0.0
    for stage, other in earlier_trainings(cell):
        folder = stages.folder_of(other, stage, store)
        if folder.exists():
            seconds_before += training_seconds(folder, grid.training_of(other, stage))
    return {
        "parameters": sum(weight.numel() for weight in whole.parameters()),
        "steps": training.steps,
        "seconds": training_seconds(cell.folder(store), training),
        "seconds_before": seconds_before,
        "memory_gb": memory.training_bytes(trained, shape, training) / 2**30,
    }


def network_builder(
    profile: Profile, map_head: bool, part: str | None = None
) -> Callable[[], nn.Module]:
    """A function that builds the model of a profile, or one part of it."""

    def build() -> nn.Module:
        model = factory.build_classifier(profile, map_head)
        return getattr(model, part) if part else model

    return build


def earlier_trainings(cell: Cell) -> list[tuple[str, Profile]]:
    """The stages that trained the weights which a cell begins with.

    Args:
        cell: any cell.

    Returns:
        (stage, its profile), in the order of the trainings.
    """
    profile, variant = cell.profile, cell.profile.variant
    virtual = profile.severity.virtual if cell.stage == SEVERITY else profile.sources.virtual
    if virtual:
        home = profiles.virtual(profile)
        return [*earlier_trainings(replace(cell, profile=home)), (cell.stage, home)]
    names = []
    if variant.initial_weights == "findings":
        of_backbone = variant.model in ("corpus_vit", "densenet")
        names.append("backbone" if of_backbone else "feature_extractor")
    if variant.contrastive:
        names.append("contrastive")
    if cell.stage == SEVERITY and profile.choices.severity_start == "classifier":
        names.append(DIAGNOSIS)
    return [(name, profile) for name in names]


def training_seconds(folder: Path, training: Training) -> float:
    """Seconds of a training by its history.json; validation and evaluation do not count.

    Args:
        folder: of the artifact.
        training: gives the images of a step.

    Returns:
        The steps of each row times their images, over the speed of that row.
    """
    rows = [row for row in read_json(folder / "history.json") if row.get("images_per_s")]
    steps = np.diff([0, *(row["step"] for row in rows)])
    seconds = 0.0
    for count, row in zip(steps, rows):
        seconds += count * training.batch * training.accumulate / row["images_per_s"]
    return float(seconds)


def training_curve(history: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """How a training went, and whether it was flat at its end.

    It converged where the last quarter of its steps brought no more than FLAT: in the best score of
    validation, where one was kept at MOST_POINTS / 4 steps or more, otherwise in the mean training
    loss of a quarter, as a share of the loss at the start.

    Args:
        history: rows of a history.json, with `step`, `loss` and perhaps `score`.

    Returns:
        `curve`, at most MOST_POINTS "step:value" with a blank between; `curve_of`, "score" or
        "loss"; and `converged`. {} for fewer than four points.
    """
    rows = [row for row in history if row.get("loss") is not None]
    scored = [row for row in rows if row.get("score") is not None]
    of, rows = ("score", scored) if len(scored) >= MOST_POINTS / 4 else ("loss", rows)
    if len(rows) < 4:
        return {}
    steps, values = (np.array([row[name] for row in rows], float) for name in ("step", of))
    last, before = steps > 0.75 * steps[-1], steps <= 0.75 * steps[-1]
    if of == "score":
        gained = values.max() - values[before].max()
    else:
        earlier = before & (steps > 0.5 * steps[-1])
        earlier = earlier if earlier.any() else before
        gained = (values[earlier].mean() - values[last].mean()) / abs(values[0] or 1)
    parts = np.array_split(np.arange(len(rows)), min(MOST_POINTS, len(rows)))
    points = [f"{steps[part[-1]]:.0f}:{values[part].mean():.3f}" for part in parts]
    return {"curve": " ".join(points), "curve_of": of, "converged": bool(gained <= FLAT)}
