"""Comparisons of the grid: differences on the same images, over seeds, with Holm's correction.

Beside a difference stands what each cell costs. One seed shows the variation between patients and
nothing of the variation between trainings, so it ranks no model. Post-training choices are open
choices that a trained model can be evaluated with, without another training.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import special, stats
from sklearn.metrics import mean_squared_error
from torch import nn

from cxrkit.config import profiles
from cxrkit.config.sections import Profile, Training
from cxrkit.data.datasets import external_or_test
from cxrkit.evaluation import metrics, resampling, trained_seeds
from cxrkit.evaluation.summaries import metrics_of
from cxrkit.models import factory
from cxrkit.models.corpus_vit import CorpusViT
from cxrkit.pipeline import stages
from cxrkit.reproduction import grid
from cxrkit.reproduction.grid import DIAGNOSIS, PROPOSED, SEVERITY, Cell
from cxrkit.storage.artifacts import Store
from cxrkit.storage.atomic import read_json
from cxrkit.tasks import diagnosis, severity
from cxrkit.training import memory

DIFFERENCE = ("difference", "difference_low", "difference_high")
COSTS = ("parameters", "steps", "seconds", "seconds_before", "memory_gb")
SIGNIFICANT = 0.05  # an adjusted p below it ranks two models
FEWEST_SEEDS = 3  # that rank them
POWER = 0.8  # chance to see the smallest effect that a study could have seen
DRAWS = 1000  # of patients, for an interval
MARGINS = {"auc": 0.01, "mse": 0.15}  # differences inside +-margin are too small to matter
BETTER, WORSE, EQUIVALENT, OPEN = trained_seeds.CONCLUSIONS
NOT_RUN = "not run"
FLAT = 0.01  # improvement over the last quarter of a training that ended flat
MOST_POINTS = 24  # of a curve that a row keeps
CONVERGED, NOT_CONVERGED, NO_CURVE = "converged", "not converged", "no curve kept"
CHANCE = 0.6  # a model whose AUC is below it has learnt next to nothing


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
        the curve of its training (`training_curve`), the version of the virtual hospitals where it
        saw them, and the costs.

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


# over seeds


def over_seeds(rows: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """Rows of `measure_cell` summarised to one row for each cell.

    Each seed has its own patients and its own weights, so the variation between seeds holds both.
    One seed has no interval over seeds: its difference keeps that of a bootstrap over patients.
    Costs are the smallest of the seeds, because other work on a machine only adds to them.

    Args:
        rows: of any cells and seeds.

    Returns:
        Means over the seeds and the difference, with intervals over seeds and patients
        (`trained_seeds.mean_of_seeds`), and p adjusted by Holm in each table. `compared` counts the
        seeds that have a difference: there is none where the cell that a cell is compared with
        failed. `conclusion` is the word on the difference (`word_on`; "" where nothing is
        compared), and `detectable` the smallest difference that so many seeds would have shown
        (`smallest_effect`, for as many comparisons as the table has). `training` is CONVERGED where
        all seeds say so, NOT_CONVERGED where one does not, else NO_CURVE.
    """
    table = pd.DataFrame([dict.fromkeys(DIFFERENCE, np.nan) | row for row in rows])
    lines = []
    for (name, cell, stage), part in table.groupby(["table", "cell", "stage"], sort=False):
        gap = _mean(part, *DIFFERENCE)
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
                **dict(zip(DIFFERENCE, (gap["value"], gap["low"], gap["high"]))),
                "p_value": gap["p_value"],
                "standard_error": gap["standard_error"],
                "training": _training(part),
                **part[list(COSTS)].min(),
            }
        )
    out = pd.DataFrame(lines)
    by_table = out.groupby("table")["p_value"]
    out["holm"] = by_table.transform(lambda p: metrics.holm(p.to_numpy()))
    tests = by_table.transform("count")
    out["conclusion"] = [word_on(row) for row in out.to_dict("records")]
    out["detectable"] = [
        smallest_effect(error, seeds, max(1, count))
        for error, seeds, count in zip(out["standard_error"], out["compared"], tests, strict=True)
    ]
    return out


def word_on(row: Mapping[str, Any]) -> str:
    """The word on a cell against the one that it is compared with.

    Args:
        row: of `over_seeds`, with `holm`.

    Returns:
        One of BETTER, WORSE, EQUIVALENT and OPEN, by MARGINS; "" where there is no difference.
        Fewer than FEWEST_SEEDS seeds say nothing of the luck of a training: OPEN.
    """
    if not np.isfinite(row["difference"]):
        return ""
    if row["compared"] < FEWEST_SEEDS:
        return OPEN
    _, _, sign = METRICS[row["stage"]]
    gain, *ends = (sign * row[name] for name in DIFFERENCE)
    low, high = sorted(ends)
    return trained_seeds.conclude(gain, low, high, row["holm"], MARGINS[row["metric"]])


def _mean(part: pd.DataFrame, value: str, low: str, high: str) -> dict[str, float]:
    """`trained_seeds.mean_of_seeds` of a column; one seed keeps its own interval.

    Fewer than FEWEST_SEEDS seeds have no p-value.
    """
    known = part.dropna(subset=[value])
    x, ends = known[value].to_numpy(float), known[[low, high]].to_numpy(float)
    names = ("value", "low", "high", "standard_error", "p_value")
    if not len(x):
        return dict.fromkeys(names, np.nan)
    errors = (ends[:, 1] - ends[:, 0]) / (2 * metrics.Z95)
    if len(x) == 1:
        return dict(zip(names, (x[0], *ends[0], errors[0], np.nan), strict=True))
    found = trained_seeds.mean_of_seeds(x, errors)
    return found if len(x) >= FEWEST_SEEDS else found | {"p_value": np.nan}


def _mean_value(part: pd.DataFrame) -> tuple[float, float, float]:
    """`_mean` of the metric; the interval of an AUC is that of the logit scale: inside [0, 1]."""
    known = part["value"].dropna()
    found = _mean(part, "value", "low", "high")
    if part["metric"].iloc[0] != "auc" or not len(known):
        return found["value"], found["low"], found["high"]
    if not known.between(0, 1).all():
        raise ValueError(f"an AUC outside [0, 1]: {known.tolist()}")
    if len(known) == 1:
        low, high = np.clip((found["low"], found["high"]), 0, 1)
        return found["value"], float(low), float(high)
    columns = part[["value", "low", "high"]].dropna(subset="value")
    on_logits = _mean(special.logit(columns.clip(1e-6, 1 - 1e-6)), "value", "low", "high")
    low, high = special.expit((on_logits["low"], on_logits["high"]))
    value = float(known.mean())  # equal seeds at 0 or 1 leave an interval of one point beside it
    return value, min(value, float(low)), max(value, float(high))


def _training(part: pd.DataFrame) -> str:
    """Whether the trainings of all seeds ended flat, by what their rows hold."""
    if "converged" not in part or part["converged"].isna().all():
        return NO_CURVE
    if (part["converged"] == False).any():  # noqa: E712 (NaN is neither)
        return NOT_CONVERGED
    return NO_CURVE if part["converged"].isna().any() else CONVERGED


def conclusion(table: pd.DataFrame) -> str:
    """What a table of `over_seeds` shows: a sentence for each model that others are compared with.

    The sentence names the models that it is better than, worse than, equivalent to, and those where
    that is undecided, by the words of `word_on`. Fewer than FEWEST_SEEDS seeds rank none.

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
    sentences = []
    for name, part in others.groupby("against", sort=False):
        turned = part["conclusion"].map(_turned)
        clauses = []
        for word, text in CLAUSES.items():
            cells = part.loc[turned == word, "cell"]
            if len(cells):
                clauses.append(f"{text} {' / '.join(cells)}")
        sentences.append(f"{name} is {'; '.join(clauses)}")
    return ". ".join(sentences)


CLAUSES = {
    BETTER: "better than",
    WORSE: "worse than",
    EQUIVALENT: "equivalent to",
    OPEN: "undecided against",
}
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
CLAIM_OF_ALL = {  # the claim on all rows of a table that depart from the proposed model
    ("comparison", DIAGNOSIS): "table_7_fair",
    ("comparison", SEVERITY): "table_8_fair",
    ("ablation", DIAGNOSIS): "table_9",
    ("ablation", SEVERITY): "table_10",
}


def conclusions(table: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """The proposed model against all rivals of each claim, decided by the numbers alone.

    It is better where it is better than each rival, with a p below SIGNIFICANT, by Holm over the
    rivals of the claim, over FEWEST_SEEDS seeds or more. It is worse where one rival is better by
    the same test. It is equivalent where it is better than each rival or equivalent to it (MARGINS)
    and not better than all. Everything else is undecided.

    Args:
        table: of `over_seeds`.

    Returns:
        Claim -> `value`, one of BETTER, WORSE, EQUIVALENT and OPEN; `closest`, the rival that is
        ahead of the others; `gap`, the difference to it with both ends of its interval (`low` and
        `high` too), positive where the proposed model is better; `detectable`, the smallest
        difference that could have been seen; and `why`. Claims of which no rival was measured are
        left out.
    """
    found = {}
    for claim, (name, stage, baselines) in CLAIMS.items():
        rows = table[(table["table"] == name) & table["cell"].isin(baselines)]
        leaf = proposed_against(rows, stage, len(baselines))
        if leaf:
            found[claim] = leaf
    return found


def proposed_against(rows: pd.DataFrame, stage: str, baselines: int) -> dict[str, Any]:
    """`conclusions` of one claim.

    Args:
        rows: of `over_seeds`, the rivals of the claim.
        stage: DIAGNOSIS or SEVERITY.
        baselines: rivals of the claim, measured or not.

    Returns:
        As the values of `conclusions`; {} where no rival was measured.
    """
    compared = rows["difference"].notna() & (rows["against"] == PROPOSED)
    rows = rows[compared & (rows["stage"] == stage)]
    if rows.empty:
        return {}
    metric, _, sign = METRICS[stage]
    ahead = -sign * rows["difference"]  # of the proposed model
    ends = -sign * rows[list(DIFFERENCE[1:])].to_numpy(float)
    holm = metrics.holm(rows["p_value"].to_numpy())
    words = []
    for row, p in zip(rows.to_dict("records"), holm, strict=True):
        words.append(_turned(word_on(row | {"holm": p})))
    nearest = int(np.argmin(ahead.to_numpy()))
    low, high = sorted(ends[nearest].tolist())
    closest = rows.iloc[nearest]
    seeds = int(rows["compared"].min())
    seen = smallest_effect(closest["standard_error"], seeds, baselines)
    why = [
        f"closest: {closest['cell']}, {metric.upper()} {ahead.min():+.3f} (+ = ours is better)",
        f"{seeds} seeds" if seeds > 1 else "one seed, no ranking",
    ]
    if np.isfinite(seen):
        why.append(f"smallest difference that this study could have seen: {seen:.3f}")
    if len(rows) < baselines:
        why.append(f"{len(rows)} of {baselines} rivals measured")
    return {
        "value": _word_on_all(words, baselines),
        "gap": [float(ahead.iloc[nearest]), low, high],
        "closest": closest["cell"],
        "low": low,
        "high": high,
        "detectable": seen,
        "why": "; ".join(why),
    }


def _turned(word: str) -> str:
    """The word on A against B, from that on B against A."""
    return {BETTER: WORSE, WORSE: BETTER}.get(word, word)


def _word_on_all(words: list[str], baselines: int) -> str:
    """One word on the proposed model, from those against each rival that was measured."""
    if WORSE in words:
        return WORSE
    if OPEN in words or len(words) < baselines:
        return OPEN
    return EQUIVALENT if EQUIVALENT in words else BETTER


def smallest_effect(standard_error: float, seeds: int, baselines: int) -> float:
    """The difference that a study of this size sees in four of five repetitions (POWER).

    By the normal law, with Bonferroni's share of the error for each rival.

    Args:
        standard_error: of the mean difference.
        seeds: how many it is over.
        baselines: of the claim.

    Returns:
        A difference; NaN for fewer than FEWEST_SEEDS seeds, which rank no model.
    """
    if seeds < FEWEST_SEEDS:
        return np.nan
    factor = stats.norm.ppf(1 - SIGNIFICANT / 2 / baselines) + stats.norm.ppf(POWER)
    return float(factor * standard_error)


# choices that need no training


def post_training_effects(profile: Profile, store: Store) -> list[dict[str, Any]]:
    """The trained severity model, evaluated with other values of `severity_choices.CHOICES`.

    Args:
        profile: whose severity model is evaluated; it is made where it is missing.
        store: where its artifact lies.

    Returns:
        Rows choice, value, low, high: the change of the MSE on external images.
    """
    found = read_json(stages.resolve(profile, "severity_choices", store) / "metrics.json")
    rows = []
    for name, changed in found["choices"].items():
        rows.append(
            {"choice": name} | {end: changed["mse"][end] for end in ("value", "low", "high")}
        )
    return rows


# for the ledger


def grid_metrics(
    profile: Profile, store: Store, rows: Iterable[dict[str, Any]] = ()
) -> dict[str, dict[str, Any]]:
    """What the ledger shows for Tables 7 to 10.

    Args:
        profile: whose cells are shown.
        store: where cells of this machine lie.
        rows: recorded rows.

    Returns:
        {"comparison": {task: {cell: {metric: leaf}}}, "ablation": the same, the proposed model in
        both}, from the recorded rows of the profile's own settings, otherwise from cells that are
        finished in the store; where none of these is compared with the proposed model, from
        recorded rows of other settings (`recorded_rows`), and each leaf says so. And "conclusion":
        {"claims": {claim: {"holds": leaf}}}, from recorded rows alone.
    """
    out = {"comparison": {}, "ablation": {}, "conclusion": {}}
    claims, cells = {}, grid.grid_cells(profile)
    summaries, notes = recorded_rows(profile, rows)
    for stage in (DIAGNOSIS, SEVERITY):
        task = "diagnosis" if stage == DIAGNOSIS else "severity"
        leaves = _live_leaves([cell for cell in cells if cell.stage == stage], store)
        table, note = summaries.get(stage), notes.get(stage, "")
        if table is not None and (not note or len(leaves) < 2):
            shown = {row["cell"]: _leaf(row, note) for row in table.to_dict("records")}
            leaves = shown if note else leaves | shown
            for claim, leaf in conclusions(table).items():
                why = "; ".join(filter(None, (note, leaf["why"])))
                claims[claim] = {"holds": leaf | {"why": why}}
        for cell in cells:
            if cell.stage != stage or cell.name not in leaves:
                continue
            of_main_table = cell.table in ("Table 7", "Table 8")
            parts = ["comparison" if of_main_table else "ablation"]
            if cell.name == PROPOSED:
                parts = ["comparison", "ablation"]
            for part in parts:
                leaf = leaves[cell.name]
                if cell.name == PROPOSED:
                    leaf = _against_all(leaf, claims.get(CLAIM_OF_ALL[part, stage], {}))
                out[part].setdefault(task, {})[cell.name] = {METRICS[stage][0]: leaf}
    if claims:
        out["conclusion"]["claims"] = claims
    return out


def _against_all(leaf: dict[str, Any], claim: dict[str, Any]) -> dict[str, Any]:
    """The leaf of the proposed model, with the word on it against all that it is compared with."""
    if not claim:
        return leaf | {"conclusion": OPEN, "than": "the others, of which none was measured"}
    on_all = claim["holds"]
    word = {name: on_all[name] for name in ("detectable", "gap")}
    return leaf | word | {"conclusion": on_all["value"], "than": "all others"}


def recorded_rows(
    profile: Profile, rows: Iterable[dict[str, Any]]
) -> tuple[dict[str, pd.DataFrame], dict[str, str]]:
    """The recorded rows that speak of a profile, summarised over seeds.

    Args:
        profile: whose name the rows bear.
        rows: of recorded_results/grid.json.

    Returns:
        Stage -> `over_seeds` of Tables 7 to 10: of the rows of the profile's own settings, where
        FEWEST_SEEDS seeds of them are compared; else of the rows of other settings, the latest
        version of the virtual hospitals alone; own rows of fewer seeds where there are no others.
        Stage -> a note on those of other settings, "" for own ones.
    """
    of_profile = [row for row in rows if row["profile"] == profile.name]
    if not of_profile:
        return {}, {}
    keys = set()
    for seed in profile.grid.seeds:
        keys |= {cell.key for cell in grid.grid_cells(replace(profile, seed=seed))}
    tables, notes = {}, {}
    for stage in (DIAGNOSIS, SEVERITY):
        named = [row for row in of_profile if row["stage"] == stage]
        named = [row for row in named if row["table"].startswith("Table")]
        own = [row for row in named if row["key"] in keys]
        compared = {row["seed"] for row in own if "difference" in row}
        if len(compared) >= FEWEST_SEEDS:
            tables[stage], notes[stage] = over_seeds(own), ""
            continue
        others = [row for row in named if row["key"] not in keys]
        version = max((row.get("hospitals", 0) for row in others), default=0)
        others = [row for row in others if row.get("hospitals", 0) == version]
        if others:
            tables[stage], notes[stage] = over_seeds(others), _note_on(version)
        elif own:
            tables[stage], notes[stage] = over_seeds(own), ""
    return tables, notes


def _note_on(version: int) -> str:
    """What to know of rows of other settings; version 0 = of no virtual hospital, or unknown."""
    present = stages.stage_of("cohort").version
    if version in (0, present):
        return "other settings, now changed"
    return f"version {version} of the hospitals, now {present}"


def _live_leaves(cells: Iterable[Cell], store: Store) -> dict[str, dict[str, Any]]:
    """Leaves of the cells that are finished in a store; one seed ranks none of them."""
    leaves = {}
    for cell in cells:
        if (cell.folder(store) / "metrics.json").exists():
            leaves[cell.name] = {**cell_metric(cell, store), "why": "one seed, no ranking"}
            if cell.name != PROPOSED:
                leaves[cell.name] |= {"conclusion": OPEN, "than": cell.against}
    return leaves


def _leaf(row: dict[str, Any], note: str) -> dict[str, Any]:
    """A row of `over_seeds` for the ledger: value, interval, word, and what to know."""
    seeds = f"mean of {row['seeds']} seeds" if row["seeds"] > 1 else "one seed, no ranking"
    why = [f"{seeds}, external hospitals", note, training_note(row)]
    leaf = {name: float(row[name]) for name in ("value", "low", "high")}
    if row["conclusion"]:
        leaf |= {name: row[name] for name in ("conclusion", "detectable")}
        leaf["gap"] = [float(row[name]) for name in DIFFERENCE]
        leaf["than"] = row["against"]
    return leaf | {"why": "; ".join(filter(None, why))}


def training_note(row: Mapping[str, Any]) -> str:
    """What a row of `over_seeds` says of its training, where a reader must know it."""
    at_chance = row["metric"] == "auc" and row["value"] < CHANCE
    if row["training"] == NOT_CONVERGED:
        text = "not converged: the last quarter of its training still improved it"
    elif row["training"] == CONVERGED:
        text = CONVERGED if at_chance else ""
    else:
        text = f"whether it converged is unknown: {NO_CURVE}" if at_chance else ""
    return f"at chance (AUC below {CHANCE}); {text}" if at_chance else text
