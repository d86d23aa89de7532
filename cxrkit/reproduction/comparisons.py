"""Comparisons of the grid over seeds: intervals, Holm's correction, and the word that each ends in.

Fewer than three seeds rank no model. What the paper claims of all rows of a table is decided here
too, by the numbers alone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from scipy import special, stats

from cxrkit.evaluation import metrics, trained_seeds
from cxrkit.reproduction import grid
from cxrkit.reproduction.grid import DIAGNOSIS, PROPOSED, SEVERITY
from cxrkit.reproduction.grid_rows import COSTS, DIFFERENCE, METRICS

SIGNIFICANT = 0.05  # an adjusted p below it ranks two models
FEWEST_SEEDS = 3  # that rank them
POWER = 0.8  # chance to see the smallest effect that a study could have seen
MARGINS = {"auc": 0.01, "mse": 0.15}  # differences inside +-margin are too small to matter
BETTER, WORSE, EQUIVALENT, OPEN = trained_seeds.CONCLUSIONS
NOT_RUN = "not run"
CONVERGED, NOT_CONVERGED, NO_CURVE = "converged", "not converged", "no curve kept"


def over_seeds(rows: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """Rows of `measure_cell` summarised to one row for each cell.

    Each seed of the virtual hospitals has its own patients and its own weights, so the variation
    between seeds holds both. On real films the patients are the same (`same_patients`).
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
        all seeds say so, NOT_CONVERGED where one does not, else NO_CURVE. `by_folds`: evaluated by
        folds of patients, not at external hospitals.
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
                "by_folds": "by_folds" in part and bool(part["by_folds"].eq(True).any()),
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
    same = "same_patients" in known and bool(known["same_patients"].eq(True).any())
    found = trained_seeds.mean_of_seeds(x, errors, same)
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
    ends = ["value", "low", "high"]
    columns = part.dropna(subset="value")
    logits = special.logit(columns[ends].clip(1e-6, 1 - 1e-6))
    on_logits = _mean(columns.assign(**logits), *ends)
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


def conclusions(
    table: pd.DataFrame, cells: Collection[str] | None = None
) -> dict[str, dict[str, Any]]:
    """The proposed model against all baselines of each claim, decided by the numbers alone.

    It is better where it is better than each baseline, with a p below SIGNIFICANT, by Holm over the
    baselines of the claim, over FEWEST_SEEDS seeds or more. It is worse where one baseline is
    better by the same test. It is equivalent where it is better than each baseline or equivalent to
    it (MARGINS) and not better than all. Everything else is undecided.

    Args:
        table: of `over_seeds`.
        cells: names of the cells that the profile has: a claim asks for no others; None = all.

    Returns:
        Claim -> `value`, one of BETTER, WORSE, EQUIVALENT and OPEN; `closest`, the baseline that is
        ahead of the others; `gap`, the difference to it with both ends of its interval (`low` and
        `high` too), positive where the proposed model is better; `detectable`, the smallest
        difference that could have been seen, None for too few seeds; and `why`. Claims of which no
        baseline was measured are left out.
    """
    found = {}
    for claim, (name, stage, every) in CLAIMS.items():
        baselines = [cell for cell in every if cells is None or cell in cells]
        rows = table[(table["table"] == name) & table["cell"].isin(baselines)]
        leaf = proposed_against(rows, stage, len(baselines))
        if leaf:
            found[claim] = leaf
    return found


def proposed_against(rows: pd.DataFrame, stage: str, baselines: int) -> dict[str, Any]:
    """`conclusions` of one claim.

    Args:
        rows: of `over_seeds`, the baselines of the claim.
        stage: DIAGNOSIS or SEVERITY.
        baselines: how many the claim has, measured or not.

    Returns:
        As the values of `conclusions`; {} where no baseline was measured.
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
        f"closest: {closest['cell']}, {metric.upper()} {ahead.min():+.3f} "
        "(+ = the proposed model is better)",
        f"{seeds} seeds" if seeds > 1 else "one seed, no ranking",
    ]
    if np.isfinite(seen):
        why.append(f"smallest difference that this study could have seen: {seen:.3f}")
    if len(rows) < baselines:
        why.append(f"{len(rows)} of {baselines} baselines measured")
    return {
        "value": _word_on_all(words, baselines),
        "gap": [float(ahead.iloc[nearest]), low, high],
        "closest": closest["cell"],
        "low": low,
        "high": high,
        "detectable": seen if np.isfinite(seen) else None,
        "why": "; ".join(why),
    }


def _turned(word: str) -> str:
    """The word on A against B, from that on B against A."""
    return {BETTER: WORSE, WORSE: BETTER}.get(word, word)


def _word_on_all(words: list[str], baselines: int) -> str:
    """One word on the proposed model, from those against each baseline that was measured."""
    if WORSE in words:
        return WORSE
    if OPEN in words or len(words) < baselines:
        return OPEN
    return EQUIVALENT if EQUIVALENT in words else BETTER


def smallest_effect(standard_error: float, seeds: int, baselines: int) -> float:
    """The difference that a study of this size sees in four of five repetitions (POWER).

    By the normal law, with Bonferroni's share of the error for each baseline.

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
