"""Agreement: whether results that come with the kit are those that the code of today gives.

`cxrkit store verify` compares bytes with a list of digests. Here the results themselves are made
again: the keys from the profile, the labels and the pixels of some films, what the shipped weights
say of them, and, where it is asked for, the trainings of a small profile.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from cxrkit.data.masks import load_mask
from cxrkit.pipeline import stages
from cxrkit.pipeline.run import Result, Run
from cxrkit.reproduction import inventory, side_by_side
from cxrkit.simulation import cohort
from cxrkit.storage import integrity, locations
from cxrkit.storage.artifacts import key
from cxrkit.storage.atomic import read_json
from cxrkit.tasks.diagnosis import PROBABILITIES
from cxrkit.tasks.findings import LOGITS
from cxrkit.tasks.severity import PREDICTED, segmented_lungs

if TYPE_CHECKING:
    from cxrkit.config.sections import Profile
    from cxrkit.storage.artifacts import Store

TOLERANCE = 1e-3  # of a probability, of a Dice, of the share of a mask's pixels
IMAGES = 20  # of each stage, drawn and predicted again
# stages of which nothing comes with the kit -> why
NOT_SHIPPED = {
    "feature_extractor": "it trains for cells of the grid alone",
    "contrastive": "it trains for cells of the grid alone",
    "diagnosis": "one model of both views, of profiles with sources.joint_views",
    "alternation": "no hospitals take turns in the demo",
}
MARGINS = Path(locations.__file__).with_name("retraining_margins.json")


@dataclass(frozen=True)
class Comparison:
    """One comparison.

    Attributes:
        stage: whose result was compared.
        what: was compared.
        missed: by how much it differs from what comes with the kit; NaN counts as too much.
        allowed: by how much it may.
        detail: what a reader needs to know beside the numbers.
    """

    stage: str
    what: str
    missed: float
    allowed: float
    detail: str = ""

    @property
    def ok(self) -> bool:
        """Whether it lies within what is allowed."""
        return self.missed <= self.allowed


def as_text(checks: Iterable[Comparison]) -> str:
    """A line a check, for a terminal."""
    found = list(checks)
    width = max((len(one.what) for one in found), default=0)
    lines = [f"{'stage':20} {'what':{width}} {'differs by':>10} {'allowed':>8}"]
    for one in found:
        numbers = f"{one.missed:10.2g} {one.allowed:8.2g}"
        line = f"{one.stage:20} {one.what:{width}} {numbers}  {'ok' if one.ok else 'MISSED'}"
        lines.append(f"{line}  {one.detail}".rstrip())
    missed = sum(not one.ok for one in found)
    lines.append(f"{len(found)} checks, {missed} missed")
    return "\n".join(lines)


def check_shipped(profile: Profile, store: Store, images: int = IMAGES) -> list[Comparison]:
    """`check_keys` and `check_predictions` of a profile whose results come with the kit.

    Args:
        profile: such as demo.
        store: where films are drawn; those that it holds already are taken.
        images: of each stage.

    Returns:
        The keys alone where one of them missed.

    Raises:
        ValueError: nothing of the profile comes with the kit, or it is left out.
    """
    if store.layer is None:
        raise ValueError("CXRKIT_FRESH leaves out what comes with the kit: unset it")
    checks = check_keys(profile, store.layer)
    if all(not one.ok for one in checks if one.stage in PREDICTIONS):
        raise ValueError(
            f"nothing of profile {profile.name} comes with the kit: compare its trainings "
            "(--retrain)"
        )
    if not all(one.ok for one in checks):  # what is missing would be trained
        return checks
    return [*checks, *check_predictions(profile, store, images)]


# keys


def check_keys(profile: Profile, layer: Path) -> list[Comparison]:
    """Whether every stage of a profile has its artifact, under the key of today, and whole.

    Args:
        profile: whose results come with the kit.
        layer: folder of the artifacts that come with the kit.

    Returns:
        A check a stage that is shipped, and one of the whole layer: artifacts that no profile of
        today needs.
    """
    checks = []
    for stage in stages.STAGES:
        if stage in NOT_SHIPPED:
            continue
        settings = stages.settings(profile, stage)
        folder = layer / f"{stage}-{key(settings)}"
        faults = _faults(folder, settings)
        checks.append(Comparison(stage, "key and files", len(faults), 0, "; ".join(faults)))
    names = [folder.name for folder in inventory.orphans(layer)]
    checks.append(Comparison("all", "artifacts of other keys", len(names), 0, ", ".join(names)))
    return checks


def _faults(folder: Path, settings: dict[str, Any]) -> list[str]:
    """What is wrong with a shipped artifact, a line each."""
    if not folder.is_dir():
        return [f"{folder.name} does not come with the kit: make ship"]
    faults = list(integrity.faults(folder))
    if read_json(folder / "settings.json") != json.loads(json.dumps(settings)):
        faults.append(f"{folder.name}/settings.json has other settings than the profile")
    return faults


# predictions


def check_predictions(profile: Profile, store: Store, images: int = IMAGES) -> list[Comparison]:
    """Whether shipped labels and predictions are found again on films that are drawn here.

    The saliency benchmark and the marker study are not made again: their models are, or they
    train.

    Args:
        profile: whose results come with the kit.
        store: where the films are drawn; those that it holds already are taken.
        images: of each stage, spread over its sites and splits.
    """
    run = Run(profile, store.root)
    checks = [_check_labels(run, images)]
    for stage, (values_of, what) in PREDICTIONS.items():
        result = _result_of(run, stage)
        table = _spread(_finished_network(result), images)
        again = _predicted(result, table)
        checks.append(_compare(stage, what, values_of(table), values_of(again)))
    checks.append(_check_masks(run, images))
    return checks


def _predicted(result: Result, table: pd.DataFrame) -> pd.DataFrame:
    """The table with what the model of a result says of its images now."""
    if result.task is None:
        raise ValueError(f"{result.folder.name} holds no model")
    return result.task.predict(result.model, table)


def _check_labels(run: Run, images: int) -> Comparison:
    """Labels and places of markers of films that are drawn again, against their lines."""
    table = _spread(run.cohort.table, images)
    drawn = [cohort.drawn_row(row.url, row.ward) for row in table.itertuples()]
    again = pd.DataFrame(drawn)
    differ = []
    for column in again:
        old, new = (one[column].fillna("").astype(str).to_numpy() for one in (table, again))
        if (old != new).any():
            differ.append(f"{column} of {int((old != new).sum())} films")
    return Comparison("cohort", f"labels of {len(table)} films", len(differ), 0, ", ".join(differ))


def _check_masks(run: Run, images: int) -> Comparison:
    """Lung masks of the severity model, against those of the shipped segmenter."""
    table = _spread(run.severity.predictions, images)
    segmenter = run.segmenter
    again = segmented_lungs(segmenter.task, segmenter.model, table, run.profile)  # (n, S, S)
    shipped = np.stack([load_mask(path) for path in table["lung_mask"]])
    return _compare("segmenter", "masks, share of pixels", shipped != again, 0, worst_of_image=True)


def _compare(
    stage: str, what: str, old: np.ndarray, new: np.ndarray | int, worst_of_image: bool = False
) -> Comparison:
    """The largest difference; `worst_of_image`: of the means over each film."""
    difference = np.abs(np.asarray(old, float) - new)
    if worst_of_image:
        difference = difference.reshape(len(difference), -1).mean(1)
    return Comparison(stage, what, float(difference.max()), TOLERANCE, f"{len(difference)} films")


def _spread(table: pd.DataFrame, images: int) -> pd.DataFrame:
    """Rows of a table at equal distances: tables are sorted by split and site."""
    rows = np.unique(np.linspace(0, len(table) - 1, min(images, len(table))).round().astype(int))
    return table.iloc[rows].reset_index(drop=True)


def _finished_network(result: Result) -> pd.DataFrame:
    """The predictions of the network that counts: the table of the segmenter has all."""
    table = result.predictions
    if "network" not in table:
        return table
    return table[table["network"] == result.metrics["output_network"]]


def _finding_probabilities(table: pd.DataFrame) -> np.ndarray:
    return 1 / (1 + np.exp(-table[list(LOGITS)].to_numpy(float)))  # (n, K)


def _class_probabilities(table: pd.DataFrame) -> np.ndarray:
    return table[list(PROBABILITIES)].to_numpy(float)  # (n, K)


def _zone_probabilities(table: pd.DataFrame) -> np.ndarray:
    return table[list(PREDICTED)].to_numpy(float)  # (n, 6)


def _dice(table: pd.DataFrame) -> np.ndarray:
    return table[["dice"]].to_numpy(float)  # (n, 1)


def _result_of(run: Run, stage: str) -> Result:
    if stage.startswith("diagnosis_"):
        return run.diagnosis(stage.removeprefix("diagnosis_").upper())
    return getattr(run, stage)


# stage -> the numbers of its predictions that are compared, and their name
PREDICTIONS = {
    "backbone": (_finding_probabilities, "probabilities of findings"),
    "segmenter": (_dice, "Dice with the true lungs"),
    "diagnosis_pa": (_class_probabilities, "probabilities of classes"),
    "diagnosis_ap": (_class_probabilities, "probabilities of classes"),
    "severity": (_zone_probabilities, "probabilities of zones"),
}


# trainings


def headlines(profile: Profile, stage: str, metrics: dict[str, Any]) -> dict[str, float]:
    """The metrics by which two trainings of a stage are compared: {path in metrics.json: value}.

    Args:
        profile: of the stage.
        stage: a key of STAGES.
        metrics: its metrics.json.

    Returns:
        Empty for a stage that trains no model of its own.
    """
    output = profile.segmenter.output_network
    paths = {
        "backbone": ("external.auc.value",),
        "segmenter": (
            f"external.{output}.normal.dice.value",
            f"external.{output}.abnormal.dice.value",
        ),
        "diagnosis_pa": ("external.auc.value",),
        "diagnosis_ap": ("external.auc.value",),
        "severity": ("external.mse.value",),
        "marker_study": ("network.rho0.external.value", "network.rho1.flip_rate"),
    }
    return {path: _at(metrics, path) for path in paths.get(stage, ())}


def _at(metrics: dict[str, Any], path: str) -> float:
    """A number of nested dicts by its dotted path."""
    found: Any = metrics
    for name in path.split("."):
        found = found[name]
    return float(found)


def trained_headlines(profile: Profile, store: Store) -> dict[str, dict[str, float]]:
    """`headlines` of the finished stages of a profile that have some."""
    found = {}
    for stage in stages.STAGES:
        folder = stages.finished(profile, stage, store)
        if folder is None:
            continue
        own = headlines(profile, stage, read_json(folder / "metrics.json"))
        if own:
            found[stage] = own
    return found


def train(profile: Profile, store: Store, jobs: int, say: Callable[[str], object] = print) -> None:
    """Make the stages that the lessons open and that are missing in a store.

    Args:
        profile: of virtual patients.
        store: a layer below it is left out by its owner (`CXRKIT_FRESH`).
        jobs: stages at a time.
        say: called with a line for each stage as it is finished.

    Raises:
        ValueError: a stage failed.
    """
    store.wait = -1
    steps = side_by_side.steps_of(profile, store)
    failed = side_by_side.make(steps, store, jobs, store.root / "stages", stages.resolve, say)
    if failed:
        raise ValueError(f"not made: {', '.join(failed)} (see {store.root / 'stages'})")


def margins_of(trainings: list[dict[str, dict[str, float]]], profile: Profile) -> dict[str, Any]:
    """What a training may give, by trainings of several seeds.

    A value counts as agreeing where it lies at most as far outside of the values of the seeds as
    these lie apart: another machine rounds otherwise, which moves a training as another seed does.

    Args:
        trainings: `trained_headlines` of each seed.
        profile: its keys say which settings the margins hold for.

    Returns:
        {stage: {"key": of today, "metrics": {path: {"values", "low", "high"}}}}.
    """
    found = {}
    for stage in trainings[0]:
        metrics = {}
        for path in trainings[0][stage]:
            values = [one[stage][path] for one in trainings]
            apart = max(values) - min(values)
            metrics[path] = {
                "values": values,
                "low": min(values) - apart,
                "high": max(values) + apart,
            }
        found[stage] = {"key": key(stages.settings(profile, stage)), "metrics": metrics}
    return found


def read_margins(profile: Profile, file: Path = MARGINS) -> dict[str, Any]:
    """The margins of a profile, by stage.

    Raises:
        ValueError: none were measured.
    """
    known = read_json(file) if file.exists() else {}
    if profile.name not in known:
        raise ValueError(
            f"no margins of profile {profile.name} were measured; known: {sorted(known)}. Measure "
            f"them: python tools/retraining_margins.py --profile {profile.name}"
        )
    return known[profile.name]["stages"]


def check_trainings(profile: Profile, store: Store, margins: dict[str, Any]) -> list[Comparison]:
    """Whether the trained stages of a store lie within the margins of their profile.

    Args:
        profile: that its margins were measured for.
        store: where its stages were trained.
        margins: of `read_margins`.

    Returns:
        A check a metric. A stage whose settings changed since its margins were measured misses.
    """
    trained = trained_headlines(profile, store)
    checks = []
    for stage, margin in margins.items():
        if margin["key"] != key(stages.settings(profile, stage)):
            detail = "its settings changed: python tools/retraining_margins.py measures anew"
            checks.append(Comparison(stage, "settings of its margins", 1, 0, detail))
            continue
        for path, of_metric in margin["metrics"].items():
            value = trained.get(stage, {}).get(path, np.nan)
            low, high = of_metric["low"], of_metric["high"]
            outside = max(low - value, value - high, 0.0) if np.isfinite(value) else np.nan
            detail = f"{value:.3f} in [{low:.3f}, {high:.3f}]"
            checks.append(Comparison(stage, path, outside, 0, detail))
    return checks
