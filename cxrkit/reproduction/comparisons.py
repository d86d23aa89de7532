"""Comparisons of the grid: differences on the same images, over seeds, with Holm's correction.

Beside a difference stands what each cell costs. One seed shows the variation between patients and
nothing of the variation between trainings, so it ranks no model. Post-training choices are open
choices that a trained model can be evaluated with, without another training.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy import special, stats
from torch import nn

from cxrkit.config import profiles
from cxrkit.config.choices import Choices
from cxrkit.config.sections import Profile, Training
from cxrkit.data import lung_zones
from cxrkit.data.datasets import external_or_test
from cxrkit.evaluation import metrics, resampling
from cxrkit.evaluation.summaries import metrics_of
from cxrkit.models import factory
from cxrkit.models.corpus_vit import CorpusViT
from cxrkit.pipeline import stages
from cxrkit.pipeline.derived import with_masks
from cxrkit.pipeline.task_data import images_for
from cxrkit.reproduction import grid
from cxrkit.reproduction.grid import DIAGNOSIS, PROPOSED, SEVERITY, Cell
from cxrkit.storage.artifacts import Store
from cxrkit.storage.atomic import read_json
from cxrkit.tasks import diagnosis, severity
from cxrkit.tasks.severity import SeverityTask
from cxrkit.training import loop, memory

DIFFERENCE = ("difference", "difference_low", "difference_high")
COSTS = ("parameters", "steps", "seconds", "seconds_before", "memory_gb")
SIGNIFICANT = 0.05  # an adjusted p below it ranks two models
FEWEST_SEEDS = 3  # that rank them
POWER = 0.8  # chance to see the smallest effect that a study could have seen
DRAWS = 1000  # of patients, for an interval


def mean_squared_error(y: np.ndarray, p: np.ndarray) -> float:
    """MSE of scores: (n,), (n,) -> scalar."""
    return float(np.mean((y - p) ** 2))


# stage -> metric in its metrics.json, statistic of truth and prediction, and the sign of "better"
METRICS = {
    DIAGNOSIS: ("auc", metrics.macro_auc, 1),
    SEVERITY: ("mse", mean_squared_error, -1),
}


# one cell


def fetch_finished(cell: Cell, store: Store) -> None:
    """Copy a finished cell to this machine from where the store shares it.

    With it come the earlier stages whose seconds are counted.
    """
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
        and the costs.

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
    }
    if against is not None and against is not cell:
        fetch_finished(against, store)
        gap = compare_cells(cell, against, store)
        row |= dict(zip(DIFFERENCE, (gap["difference"], gap["low"], gap["high"])))
    return row


def cell_metric(cell: Cell, store: Store) -> dict[str, Any]:
    """The metric of a finished cell on external images; on the test split where there are none.

    Args:
        cell: a finished cell.
        store: where its artifact lies.

    Returns:
        value, low, high, n.
    """
    found = read_json(cell.folder(store) / "metrics.json")
    split = "external" if "external" in found else "test"
    return metrics_of(found, split)[METRICS[cell.stage][0]]


def cell_predictions(cell: Cell, store: Store) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What `cell_metric` is computed from.

    Args:
        cell: a finished cell.
        store: where its artifact lies.

    Returns:
        Truth (n,), predictions (n, K) or (n,), and the patient of each image (n,).
    """
    table = external_or_test(store.read_table(cell.folder(store) / "predictions.csv"))
    groups = table["group_id"].to_numpy()
    if cell.stage == DIAGNOSIS:
        return diagnosis.codes(table), table[diagnosis.PROBABILITIES].to_numpy(), groups
    truth = severity.true_scores(table, cell.profile.choices)
    return truth, table["score"].to_numpy(), groups


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
    y, p, groups = cell_predictions(cell, store)
    other_y, other_p, other_groups = cell_predictions(against, store)
    same_images = list(groups) == list(other_groups)
    if not same_images or not np.array_equal(y, other_y, equal_nan=True):
        raise ValueError(
            f"{cell.name} and {against.name} were not evaluated on the same images with the same "
            "truth"
        )
    known = np.isfinite(y)
    statistic = METRICS[cell.stage][1]
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
    training = profile.severity_training if map_head else profile.transformer_training
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


# over seeds


def over_seeds(rows: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """Rows of `measure_cell` summarised to one row for each cell.

    Each seed has its own patients and its own weights, so the variation between seeds holds both.
    One seed has no interval over seeds: its difference keeps that of a bootstrap over patients.
    Costs are the smallest of the seeds, because other work on a machine only adds to them.

    Args:
        rows: of any cells and seeds.

    Returns:
        Means over the seeds, the difference with a t interval over them, and p adjusted by Holm in
        each table. `compared` counts the seeds that have a difference: there is none where the cell
        that a cell is compared with failed.
    """
    table = pd.DataFrame([dict.fromkeys(DIFFERENCE, np.nan) | row for row in rows])
    lines = []
    for (name, cell, stage), part in table.groupby(["table", "cell", "stage"], sort=False):
        lines.append(
            {
                "table": name,
                "cell": cell,
                "stage": stage,
                "against": part["against"].iloc[0],
                "metric": part["metric"].iloc[0],
                "seeds": len(part),
                **dict(zip(("value", "low", "high"), _mean_value(part))),
                "compared": part["difference"].count(),
                **dict(zip(DIFFERENCE, _mean(part, *DIFFERENCE))),
                "p_value": _p_value(part["difference"].dropna()),
                "standard_error": _standard_error(part),
                **part[list(COSTS)].min(),
            }
        )
    out = pd.DataFrame(lines)
    out["holm"] = out.groupby("table")["p_value"].transform(lambda p: metrics.holm(p.to_numpy()))
    return out


def _mean(part: pd.DataFrame, value: str, low: str, high: str) -> tuple[float, float, float]:
    """Mean of a column over seeds and its t interval; one seed keeps its own interval."""
    known = part.dropna(subset=[value])
    x = known[value].to_numpy(float)
    if not len(x):
        return np.nan, np.nan, np.nan
    if len(x) == 1:
        return tuple(known[[value, low, high]].iloc[0])
    half = stats.t.ppf(0.975, len(x) - 1) * x.std(ddof=1) / len(x) ** 0.5
    return x.mean(), x.mean() - half, x.mean() + half


def _mean_value(part: pd.DataFrame) -> tuple[float, float, float]:
    """`_mean` of the metric; that of an AUC on the logit scale, so that it stays in [0, 1]."""
    known = part["value"].dropna()
    if part["metric"].iloc[0] != "auc" or len(known) < 2 or not known.between(0, 1).all():
        return _mean(part, "value", "low", "high")
    inside = known.clip(1e-6, 1 - 1e-6)
    center = special.logit(inside)
    _, low, high = _mean(pd.DataFrame({"value": center}), "value", "value", "value")
    return known.mean(), float(special.expit(low)), float(special.expit(high))


def _standard_error(part: pd.DataFrame) -> float:
    """Standard error of the mean difference over seeds; of one seed that over patients."""
    known = part.dropna(subset=["difference"])
    if len(known) > 1:
        return float(known["difference"].std(ddof=1) / len(known) ** 0.5)
    if len(known) == 1:
        low, high = known.iloc[0][["difference_low", "difference_high"]]
        return float((high - low) / (2 * metrics.Z95))
    return np.nan


def _p_value(differences: pd.Series) -> float:
    """Two-sided t test of the mean difference over seeds; NaN for fewer than FEWEST_SEEDS."""
    if len(differences) < FEWEST_SEEDS:
        return np.nan
    return float(stats.ttest_1samp(differences, 0).pvalue)


def conclusion(table: pd.DataFrame) -> str:
    """What a table of `over_seeds` shows: a sentence for each model that others are compared with.

    The sentence names the models that it is ahead of, those that it is behind, both with an
    adjusted p < 0.05 over three seeds or more, and those that it is not distinguishable from. Fewer
    seeds rank none.

    Args:
        table: rows of one stage.

    Returns:
        One line of text.
    """
    others = table[table["difference"].notna()]
    if others.empty:
        return "nothing is compared yet"
    fewest = int(others["compared"].min())
    if fewest < FEWEST_SEEDS:
        return f"no ranking: fewer than three seeds ({fewest} of the least measured)"
    sign = METRICS[table["stage"].iloc[0]][2]
    gain = sign * others["difference"].where(others["holm"] < SIGNIFICANT, 0)
    sentences = []
    for name, part in others.groupby("against", sort=False):
        gains = np.sign(gain[part.index])
        clauses = []
        for words, direction in (("ahead of", -1), ("behind", 1), ("not distinguishable from", 0)):
            cells = part.loc[gains == direction, "cell"]
            if len(cells):
                clauses.append(f"{words} {' / '.join(cells)}")
        sentences.append(f"{name} is {'; '.join(clauses)}")
    return ". ".join(sentences)


BASELINES = ("ResNet-50", "ResNet-152", "DenseNet-121", "ViT", "hybrid ViT")
ABLATIONS = (  # rows of Table 9 that depart from the proposed model
    "2 layers, 4 heads",
    "4 layers, 8 heads",
    "10 weighted maps",
    "3 infection maps",
    "pneumonia map",
    "frozen backbone",
    "1024 px input",
)
# what the paper claims: name of the claim -> its table, the stage, and the cells that the proposed
# model must be better than; "fair" adds models that learnt the findings too
CLAIMS = {
    "table_7": ("Table 7", DIAGNOSIS, BASELINES),
    "table_7_fair": ("Table 7", DIAGNOSIS, (*BASELINES, grid.FROM_FINDINGS)),
    "table_8": ("Table 8", SEVERITY, BASELINES),
    "table_8_fair": ("Table 8", SEVERITY, (*BASELINES, grid.FROM_FINDINGS)),
    "table_9": ("Table 9", DIAGNOSIS, ABLATIONS),
    "table_10": ("Table 10", SEVERITY, ("ROI average pooling", "Brixia alone")),
}
YES, NO, OPEN = "yes", "no", "undecided"


def conclusions(table: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Whether each claim of the paper holds here, decided by the numbers alone.

    It holds where the proposed model is better than each rival, with a p below SIGNIFICANT, by Holm
    over the rivals of the claim, over FEWEST_SEEDS seeds or more. It does not where one rival is
    better by the same test. Everything else is undecided.

    Args:
        table: of `over_seeds`.

    Returns:
        Claim -> `value` (YES, NO or OPEN); `low` and `high`, the interval of the difference to the
        closest rival, positive where the proposed model is better; and `why`. Claims of which no
        rival was measured are left out.
    """
    found = {}
    for claim, (name, stage, baselines) in CLAIMS.items():
        rows = table[
            (table["table"] == name)
            & (table["stage"] == stage)
            & table["cell"].isin(baselines)
            & (table["against"] == PROPOSED)
            & table["difference"].notna()
        ]
        if len(rows):
            found[claim] = _conclusion(rows, stage, len(baselines))
    return found


def _conclusion(rows: pd.DataFrame, stage: str, baselines: int) -> dict[str, Any]:
    """The conclusion on one claim, from the rows of its rivals that were measured."""
    metric, _, sign = METRICS[stage]
    ahead = -sign * rows["difference"]  # of the proposed model
    holm = pd.Series(metrics.holm(rows["p_value"].to_numpy()), rows.index)
    ranked = (rows["compared"] >= FEWEST_SEEDS) & (holm < SIGNIFICANT)
    value = OPEN
    if (ranked & (ahead < 0)).any():
        value = NO
    elif len(rows) == baselines and (ranked & (ahead > 0)).all():
        value = YES
    closest = rows.loc[ahead.idxmin()]
    seeds = int(rows["compared"].min())
    seen = smallest_effect(closest["standard_error"], seeds, baselines)
    ends = -sign * closest[["difference_low", "difference_high"]].to_numpy(float)
    low, high = (float(end) for end in sorted(ends))
    why = [
        f"closest: {closest['cell']}, {metric.upper()} {ahead.min():+.3f} (+ = ours is better)",
        f"{seeds} seeds" if seeds > 1 else "one seed, no ranking",
    ]
    if np.isfinite(seen):
        why.append(f"smallest difference that this study could have seen: {seen:.3f}")
    if len(rows) < baselines:
        why.append(f"{len(rows)} of {baselines} rivals measured")
    return {"value": value, "low": low, "high": high, "why": "; ".join(why)}


def smallest_effect(standard_error: float, seeds: int, baselines: int) -> float:
    """The difference that a study of this size sees in four of five repetitions (POWER).

    By the t test over seeds, with Bonferroni's share of the error for each rival.

    Args:
        standard_error: of the mean difference.
        seeds: how many it is over.
        baselines: of the claim.

    Returns:
        A difference; NaN for fewer than FEWEST_SEEDS seeds, which rank no model.
    """
    if seeds < FEWEST_SEEDS:
        return np.nan
    t = stats.t(seeds - 1)
    factor = t.ppf(1 - SIGNIFICANT / 2 / baselines) + t.ppf(POWER)
    return float(factor * standard_error)


# choices that need no training

POST_TRAINING_CHOICES = ("zone_height", "zone_origin", "lung_sides", "severity_score")


def post_training_effects(profile: Profile, store: Store) -> list[dict[str, Any]]:
    """The trained severity model, evaluated with each other value of POST_TRAINING_CHOICES.

    Args:
        profile: whose severity model is evaluated; it is made where it is missing.
        store: where its artifact lies.

    Returns:
        Rows choice, value, low, high: the change of the MSE on external images.
    """
    model, maps, inside, table = _severity_maps(profile, store)
    truth, groups = severity.true_scores(table, profile.choices), table["group_id"].to_numpy()

    def score(choices: Choices) -> np.ndarray:
        pooling = profile.variant.pooling
        raw = lung_zones.roi_pool(maps, inside, pooling, choices)
        arrays = severity.calibrated(model, raw).numpy()  # (n, 3, 2)
        return lung_zones.severity_score(arrays, choices.severity_score)  # (n,)

    own, rows = score(profile.choices), []
    for name, other in profiles.ablations(profile).items():
        if name.partition("=")[0] not in POST_TRAINING_CHOICES:
            continue
        gap = resampling.paired_bootstrap(
            mean_squared_error, truth, score(other.choices), own, groups=groups, draws=DRAWS
        )
        rows.append(
            {"choice": name, "value": gap["difference"], "low": gap["low"], "high": gap["high"]}
        )
    return rows


def _severity_maps(
    profile: Profile, store: Store
) -> tuple[nn.Module, torch.Tensor, torch.Tensor, pd.DataFrame]:
    """Severity maps of external images, 0 outside the lungs.

    Returns:
        The model, on the CPU; maps (n, 1, H, W); lungs, bool (n, H, W); the table of the n images.
    """
    cohort = None
    if "virtual" in profile.manifests:
        cohort = stages.resolve(profile, "cohort", store)
    table = external_or_test(images_for(profile, "severity", store, cohort))
    table = with_masks(profile, table, store, stages.resolve(profile, "segmenter", store))
    task = SeverityTask(profile, store)
    model = task.load(stages.resolve(profile, "severity", store))

    def forward(model: nn.Module, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        severity_map = severity.read_severity(model, batch, profile.choices)["severity_map"]
        return {"map": severity_map, "mask": batch["lung_mask"]}

    found = loop.evaluate(model, task.dataset(table), ("map", "mask"), forward=forward)
    inside = severity.inside_lungs(found["mask"], found["map"].shape[-2:])  # (n, H, W)
    return model.cpu(), found["map"] * inside[:, None], inside, table


# for the ledger


def grid_metrics(
    profile: Profile, store: Store, rows: Iterable[dict[str, Any]] = ()
) -> dict[str, dict[str, Any]]:
    """What the ledger shows for Tables 7 to 10.

    Args:
        profile: whose cells are shown.
        store: where cells of this machine lie.
        rows: recorded rows; those of other settings are left out.

    Returns:
        {"comparison": {task: {cell: {metric: leaf}}}, "ablation": the same}, from the recorded rows
        of the profile's own settings, otherwise from cells that are finished in the store; and
        "conclusion": {"claims": {claim: {"holds": leaf}}}, from recorded rows alone.
    """
    out = {"comparison": {}, "ablation": {}, "conclusion": {}}
    keys = set()
    for seed in profile.grid.seeds:
        keys |= {cell.key for cell in grid.grid_cells(replace(profile, seed=seed))}
    own = [row for row in rows if row["profile"] == profile.name and row["key"] in keys]
    summary = {}
    if own:
        whole = over_seeds(own)
        for row in whole.to_dict("records"):
            summary[row["cell"], row["stage"]] = row
        leaves = {claim: {"holds": leaf} for claim, leaf in conclusions(whole).items()}
        out["conclusion"]["claims"] = leaves
    for cell in grid.grid_cells(profile):
        leaf = _leaf(summary.get((cell.name, cell.stage)), cell, store)
        if leaf is None:
            continue
        part = out["comparison" if cell.table in ("Table 7", "Table 8") else "ablation"]
        task = "diagnosis" if cell.stage == DIAGNOSIS else "severity"
        part.setdefault(task, {})[cell.name] = {METRICS[cell.stage][0]: leaf}
    return out


def _leaf(row: dict[str, Any] | None, cell: Cell, store: Store) -> dict[str, Any] | None:
    """Value, interval and number of seeds of a cell; None where nothing was measured."""
    if row is not None:
        seeds = f"mean of {row['seeds']} seeds" if row["seeds"] > 1 else "one seed, no ranking"
        leaf = {name: float(row[name]) for name in ("value", "low", "high")}
        return {**leaf, "why": f"{seeds}, external hospitals"}
    if (cell.folder(store) / "metrics.json").exists():
        return {**cell_metric(cell, store), "why": "one seed, no ranking"}
    return None
