"""Cells of the grid compared: difference from ours on the same films, over seeds, with Holm's
correction, and beside it what each costs.

One seed says how far luck of the patients reaches and nothing of luck in training: it ranks nobody.
Readings are open choices that a trained model can be read with.
"""

from dataclasses import replace

import numpy as np
import pandas as pd
from scipy import stats

from cxrkit.config import profiles
from cxrkit.data import lung_zones
from cxrkit.data.datasets import arrays, unseen
from cxrkit.evaluation import metrics, resampling
from cxrkit.models import factory
from cxrkit.pipeline import dependencies, stages, task_data
from cxrkit.reproduction import grid
from cxrkit.reproduction.grid import DIAGNOSIS, OURS, SEVERITY
from cxrkit.storage.atomic import read_json
from cxrkit.tasks import diagnosis, severity
from cxrkit.training import loop, memory

# stage -> metric in its metrics.json, statistic of truth and prediction, and the sign of "better"
METRICS = {
    DIAGNOSIS: ("auc", metrics.macro_auc, 1),
    SEVERITY: ("mse", lambda y, p: float(np.mean((y - p) ** 2)), -1),
}
DIFFERENCE = ("difference", "difference_low", "difference_high")
COSTS = ("parameters", "steps", "seconds", "seconds_before", "memory_gb")


def gather(cell, store):
    """Bring a finished cell, and the stages before it whose seconds are counted, here from where
    the store shares them.
    """
    for stage, profile in ((cell.stage, cell.profile), *lessons_before(cell)):
        store.fetch(stage, dependencies.settings(profile, stage))


def measure(cell, store, against=None):
    """A finished cell as a flat row: metric with its interval by patient, difference from the cell
    `against` on the same films, costs.

    Without `against`, as where that failed, the row has no difference.
    """
    gather(cell, store)
    leaf = result(cell, store)
    row = {
        "table": cell.table,
        "cell": cell.name,
        "stage": cell.stage,
        "against": cell.against,
        "profile": cell.profile.name,
        "seed": cell.seed,
        "key": cell.key,
        "metric": METRICS[cell.stage][0],
        **leaf,
        **costs(cell, store),
    }
    if against is not None and against is not cell:
        gather(against, store)
        gap = compare(cell, against, store)
        row |= dict(zip(DIFFERENCE, (gap["difference"], gap["low"], gap["high"])))
    return row


def result(cell, store):
    """The metric of a finished cell at hospitals never seen, where there are none on the test: dict
    value, low, high, n.
    """
    found = read_json(cell.folder(store) / "metrics.json")
    return found.get("external", found.get("test", {}))[METRICS[cell.stage][0]]


def judged(cell, store):
    """The films of hospitals never seen (where there are none, of the test): truth, prediction and
    patient of each.
    """
    table = unseen(pd.read_csv(cell.folder(store) / "predictions.csv", low_memory=False))
    if cell.stage == DIAGNOSIS:
        return (
            diagnosis.codes(table),
            table[diagnosis.PROBABILITIES].to_numpy(),
            table["group_id"].to_numpy(),
        )
    return (
        lung_zones.score(arrays(table, cell.profile.choices)),
        table["score"].to_numpy(),
        table["group_id"].to_numpy(),
    )


def compare(cell, against, store, draws=1000):
    """Cell minus `against` on the same draws of patients: dict of `resampling.paired_bootstrap`.
    Raises ValueError for other films.
    """
    (y, p, groups), (truth, q, others) = judged(cell, store), judged(against, store)
    if list(groups) != list(others) or not np.array_equal(y, truth, equal_nan=True):
        raise ValueError(
            f"{cell.name} and {against.name} were not judged on the same films with the same truth"
        )
    known = np.isfinite(y)
    return resampling.paired_bootstrap(
        METRICS[cell.stage][1], y[known], p[known], q[known], groups=groups[known], draws=draws
    )


def costs(cell, store):
    """What a cell takes: parameters, seconds of its own training and of what its weights learnt
    before, GB of one training step.
    """
    profile, training = cell.profile, cell.profile.transformer_training
    network = factory.network
    if cell.stage == SEVERITY:
        training, network = profile.severity_training, severity.network
    whole, side = network(profile), profile.image_size * profile.variant.zoom
    trained, shape = (lambda: network(profile)), (1, side, side)
    # the transformer alone trains, on a corpus computed once
    if cell.stage == DIAGNOSIS and profile.transformer.frozen:
        trained, shape = (
            (lambda: network(profile).transformer),
            (whole.transformer.patch_embed.proj.in_channels, *whole.transformer.grid),
        )
    before = [
        (store.folder(stage, dependencies.settings(other, stage)), grid.TRAININGS[stage](other))
        for stage, other in lessons_before(cell)
    ]
    return {
        "parameters": sum(weight.numel() for weight in whole.parameters()),
        "steps": training.steps,
        "seconds": seconds(cell.folder(store), training),
        "seconds_before": sum(seconds(folder, part) for folder, part in before if folder.exists()),
        "memory_gb": memory.training_bytes(trained, shape, training) / 2**30,
    }


def lessons_before(cell):
    """The stages whose weights a cell begins with: list of (stage, its profile)."""
    profile, variant = cell.profile, cell.profile.variant
    if (
        cell.stage == SEVERITY
        and profile.quantifier.virtual
        or cell.stage == DIAGNOSIS
        and profile.sources.virtual
    ):
        virtual = replace(cell, profile=dependencies.virtual(profile))
        return [*lessons_before(virtual), (cell.stage, virtual.profile)]
    learnt = (
        ["backbone" if variant.model in ("corpus_vit", "densenet") else "trunk"]
        if variant.start == "findings"
        else []
    )
    classifier = (
        [DIAGNOSIS]
        if cell.stage == SEVERITY and profile.choices.severity_start == "classifier"
        else []
    )
    return [
        (stage, profile) for stage in learnt + ["contrastive"] * variant.contrastive + classifier
    ]


def seconds(folder, training):
    """Seconds of training by history.json: steps of each row over its speed; validation and
    evaluation do not count.
    """
    rows = [row for row in read_json(folder / "history.json") if row.get("images_per_s")]
    steps = np.diff([0, *(row["step"] for row in rows)])
    return float(
        sum(
            step * training.batch * training.accumulate / row["images_per_s"]
            for step, row in zip(steps, rows)
        )
    )


# over seeds


def over_seeds(rows):
    """Rows of `measure` -> a row a cell: means over its seeds, the difference with a t interval
    over them, and p adjusted by Holm in each table. Every seed has patients and weights of its own,
    so that their scatter holds both kinds of luck; one seed has no interval here, and its
    difference is a patient bootstrap's. Costs are the least of the seeds: other work on a machine
    only adds. `compared` counts the seeds that have a difference: where what a cell is compared
    with failed, there is none.
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
                **dict(zip(("value", "low", "high"), _mean(part, "value", "low", "high"))),
                "compared": part["difference"].count(),
                **dict(zip(DIFFERENCE, _mean(part, *DIFFERENCE))),
                "p_value": _p_value(part["difference"].dropna()),
                **part[list(COSTS)].min(),
            }
        )
    out = pd.DataFrame(lines)
    out["holm"] = out.groupby("table")["p_value"].transform(lambda p: metrics.holm(p.to_numpy()))
    return out


def _mean(part, value, low, high):
    known = part.dropna(subset=[value])
    x = known[value].to_numpy(float)
    if len(x) < 2:
        return tuple(known[[value, low, high]].iloc[0]) if len(x) else (np.nan,) * 3
    half = stats.t.ppf(0.975, len(x) - 1) * x.std(ddof=1) / len(x) ** 0.5
    return x.mean(), x.mean() - half, x.mean() + half


def _p_value(differences):
    """Two-sided t test of the mean difference over seeds; NaN for fewer than three."""
    return float(stats.ttest_1samp(differences, 0).pvalue) if len(differences) >= 3 else np.nan


def verdict(table):
    """What a table of `over_seeds` says, in a sentence for each model that others are compared
    with: whom it is ahead of, or behind, with an adjusted p < 0.05 over three seeds or more, and
    whom it cannot be told from. Fewer seeds rank nobody.
    """
    others = table[table["difference"].notna()]
    if others.empty:
        return "nothing is compared yet"
    if others["compared"].min() < 3:
        return f"no ranking: fewer than three seeds ({int(others['compared'].min())} of the least measured)"
    gain = METRICS[table["stage"].iloc[0]][2] * others["difference"].where(others["holm"] < 0.05, 0)
    said = []
    for name, part in others.groupby("against", sort=False):
        groups = {
            words: part.loc[np.sign(gain[part.index]) == sign, "cell"]
            for words, sign in (("ahead of", -1), ("behind", 1), ("not to be told from", 0))
        }
        said.append(
            f"{name} is "
            + "; ".join(
                f"{words} {' / '.join(cells)}" for words, cells in groups.items() if len(cells)
            )
        )
    return ". ".join(said)


# readings that need no training


READINGS = ("zone_height", "zone_origin", "lung_sides", "severity_score")


def readings(profile, store):
    """The severity model as it is, read with each other value of READINGS: rows choice, value, low,
    high (change of the MSE).
    """
    folder = stages.severity(profile, store)
    films = stages.masks(profile, unseen(task_data.for_task(profile, "severity", store)), store)
    maps = loop.evaluate(
        severity.load(folder, profile),
        severity.dataset(films, profile, store),
        ("map", "mask"),
        forward=lambda model, batch: {
            "map": model(batch["image"])["severity_map"],
            "mask": batch["lung_mask"],
        },
    )
    inside = severity.inside_lungs(maps["mask"], maps["map"].shape[-2:])  # (n, H, W)
    truth, groups = lung_zones.score(arrays(films, profile.choices)), films["group_id"].to_numpy()

    def score(choices):
        pooled = lung_zones.roi_pool(
            maps["map"] * inside[:, None], inside, profile.variant.pooling, choices
        ).numpy()
        return lung_zones.score(pooled, choices.severity_score)

    own, rows = score(profile.choices), []
    for name, other in profiles.ablations(profile).items():
        if name.partition("=")[0] in READINGS:
            gap = resampling.paired_bootstrap(
                METRICS[SEVERITY][1], truth, score(other.choices), own, groups=groups, draws=1000
            )
            rows.append(
                {"choice": name, "value": gap["difference"], "low": gap["low"], "high": gap["high"]}
            )
    return rows


def for_ledger(profile, store, rows=()):
    """What the ledger shows for Tables 7 to 10: {"comparison": ..., "ablation": ...} of committed
    rows of the profile's own settings, else of cells that are finished in the store.
    """
    out = {"comparison": {}, "ablation": {}}
    current = {(cell.name, cell.stage): cell for cell in grid.cells(profile)}
    keys = {
        cell.key for seed in profile.grid.seeds for cell in grid.cells(replace(profile, seed=seed))
    }
    mine = [row for row in rows if row["profile"] == profile.name and row["key"] in keys]
    summary = (
        {(row["cell"], row["stage"]): row for row in over_seeds(mine).to_dict("records")}
        if mine
        else {}
    )
    for (name, stage), cell in current.items():
        leaf = _leaf(summary.get((name, stage)), cell, store)
        if leaf and name != OURS:
            part = out["comparison" if cell.table in ("Table 7", "Table 8") else "ablation"]
            task = {DIAGNOSIS: "diagnosis", SEVERITY: "severity"}[stage]
            part.setdefault(task, {})[name] = {METRICS[stage][0]: leaf}
    return out


def _leaf(row, cell, store):
    """Value, interval and how many seeds stand behind it; None where nothing was measured."""
    if row is not None:
        seeds = f"mean of {row['seeds']} seeds" if row["seeds"] > 1 else "one seed, no ranking"
        return {
            **{name: float(row[name]) for name in ("value", "low", "high")},
            "why": f"{seeds}, hospitals never seen",
        }
    if (cell.folder(store) / "metrics.json").exists():
        return {**result(cell, store), "why": "one seed, no ranking"}
