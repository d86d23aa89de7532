"""Tables of documents on virtual hospitals: docs/virtual_hospitals.md and others."""

import sys
from collections.abc import Collection, Iterator
from typing import Any

import pandas as pd
from table_text import ENDS, MAP, NOT_RUN, ROOT, head, line, triple_text

from cxrkit.config import profiles
from cxrkit.config.sections import Profile
from cxrkit.evaluation.summaries import value_text
from cxrkit.pipeline import stages
from cxrkit.reproduction import grid
from cxrkit.reproduction.grid_leaves import brings_more, own_keys, recorded_rows
from cxrkit.reproduction.grid_rows import DIFFERENCE, METRICS
from cxrkit.storage import locations
from cxrkit.storage.artifacts import key
from cxrkit.storage.atomic import read_json
from cxrkit.storage.recorded import read_result

CORPUS_MEASURES = ("macro AUC", "COVID-19 against other")
CORPUS_ROWS = {
    "transformer": "**corpus ViT**",
    "trained without positions": "trained without positions",
    "trained with even attention": "trained with even attention",
    "mean pooling": "mean pooling in place of the transformer",
    "shuffled": "tokens shuffled at test",
    "without positions": "positions zeroed at test",
    "even attention": "even attention at test",
}
# readers of tokens that are the true lesions -> the difference, and what was asked of it
TOKEN_ROWS = {
    "transformer": ("", ""),
    "mean pooling": ("minus mean pooling", "at least 0.30"),
    "trained without positions": ("minus trained without positions", "at least 0.15"),
    "trained with even attention": ("minus trained with even attention", "reported"),
    "tokens shuffled at test": ("cost of shuffling", "at least 0.25"),
}
POINTING = {  # of tools/seeds.py
    "touching": "all",
    "touching, small lesions": "small",
}
SWEEP_MODELS = (  # of benchmarks/attention_pays.py, the proposed one first
    "corpus ViT",
    "ViT without positions",
    "ViT with even attention",
    "MLP on tokens side by side",
    "MLP on a bag of tokens",
    "linear on the mean token",
)
END_TO_END = ("corpus ViT, end to end", "DenseNet-121, end to end")  # in the sweep of the corpus


def by_row(
    name: str, label: str, column: str, cells: list[str]
) -> Iterator[tuple[str, dict[str, Any], list[str]]]:
    """Rows of a table from the flat rows of a recorded result.

    Args:
        name: of the result.
        label: the column that tells the rows of the table apart.
        column: the column that tells their cells apart.
        cells: of a row, values of `column`.

    Yields:
        The label, the recorded values by `column`, and the texts of the cells.
    """
    found = pd.DataFrame(read_result(name)["rows"])
    for row, part in found.groupby(label, sort=False):
        values = part.set_index(column).to_dict("index")
        yield str(row), values, [value_text(values[cell]) for cell in cells]


def severity_designs() -> list[str]:
    """Designs of the severity model, a row each."""
    measures = {
        "MSE": "MSE",
        "normal images": "read on normal images",
        "read at 5-6": "read at 5 to 6",
        "map auprc": "average precision",
        "map dice": "Dice",
        "map pointing": "hottest point on the lesion",
    }
    lines = head("design", *measures.values())
    for design, _, cells in by_row("severity_designs", "design", "measure", [*measures]):
        lines.append(line(design, *cells))
    return lines


def severity_external() -> list[str]:
    """The demo's severity model at hospitals that no training saw."""
    name = f"severity-{key(stages.settings(profiles.demo(), 'severity'))}"
    folder = locations.SHIPPED / name
    if not folder.is_dir():
        sys.exit(f"{name} does not come with the kit: train it, then make ship")
    metrics = read_json(folder / "metrics.json")
    external = metrics["external"]
    lines = head("", "model", "constant guess", "second reader")
    for measure in ("mse", "r2", "mae", "cc"):
        values = [external, external["constant"], external["second_reader"]]
        cells = [
            value_text(part[measure]) if part[measure]["low"] is not None else "none"
            for part in values
        ]
        lines.append(line(measure.upper(), *cells))
    for row in external["by_truth"]:
        label = f"read at a true score of {row['low']}"
        label += f" to {row['high']} (mean {row['true']:.1f})" if row["high"] else ""
        lines.append(f"| {label} | {value_text(row['read'])} | | |")
    healthy = metrics["healthy"]["score"]
    lines.append(f"| read on {healthy['n']} normal images | {value_text(healthy)} | | |")
    for measure, label in MAP.items():
        lines.append(f"| {label} | {value_text(external['map'][measure])} | | |")
    return lines


def lungs_seeds() -> list[str]:
    """Lungs of the demo with three seeds: tools/seeds.py."""
    heads = ("images", "seed", "n", "student", "`unet_normal`", "`unet_both`")
    lines = head(*heads, "student minus `unet_normal`")
    rows = pd.DataFrame(read_result("seeds_segmenter")["rows"])
    rows = rows.sort_values("group", kind="stable").replace({"zones_4_6": "4-6 zones ill"})
    for row in rows.to_dict("records"):
        dice = [f"{row[name]:.3f}" for name in ("student", "unet_normal", "unet_both")]
        gain = triple_text([row[f"gain_{end}"] for end in ENDS], 3)
        cells = [row["group"], str(row["seed"]), str(row["n"]), *dice, gain]
        lines.append(line(*cells))
    return lines


LARGER_RUN = {  # rows of tools/segmenter_large.py: network, and the one that it is compared with
    "student": ("student", ""),
    "without going through normal": ("ablation", ""),
    "`unet_normal`": ("unet_normal", ""),
    "`unet_both`": ("unet_both", ""),
    "student minus `unet_normal`": ("student", "unet_normal"),
    "student minus the one without": ("student", "ablation"),
    "teacher minus direct": ("teacher", "direct"),
    "`unet_both` minus `unet_normal`": ("unet_both", "unet_normal"),
}


def lungs_large() -> list[str]:
    """Lungs with ten times the demo's budget, with and without the adversarial part."""
    groups = {"zones_4_6": "4-6 zones ill", "bright": "bright"}
    heads = []
    for name in groups.values():
        heads += [f"{name}: Dice", f"{name}: lesion missed, %"]
    lines = head("", *heads)
    rows = pd.DataFrame(read_result("segmenter_large")["rows"]).fillna({"minus": ""})
    rows = rows.set_index(["network", "minus", "group", "measure"])
    for text, pair in LARGER_RUN.items():
        cells = []
        for group in groups:
            for measure, scale, digits in (("dice", 1, 3), ("missed", 100, 1)):
                row = rows.loc[(*pair, group, measure)]
                cells.append(triple_text([scale * row[end] for end in ENDS], digits))
        lines.append(line(text, *cells))
    return lines


SEVERITY_BARS = {  # of tools/seeds.py -> in words, and what the project asks for
    "mse": ("MSE", "at most 1.2"),
    "r2": ("R2", "at least 0.6"),
    "normal images": ("read on normal images", "at most 0.5"),
    "dice": (MAP["dice"], "at least 0.40"),
    "auprc": (MAP["auprc"], "at least 0.45"),
    "pointing": (MAP["pointing"], "at least 0.6"),
}


def severity_seeds() -> list[str]:
    """The demo's severity with three seeds, beside the bars: tools/seeds.py."""
    rows = pd.DataFrame(read_result("seeds_severity")["rows"]).set_index("seed")
    lines = head("", "asked for", *(f"seed {seed}" for seed in rows.index))
    for name, (text, bar) in SEVERITY_BARS.items():
        lines.append(line(text, bar, *(f"{value:.2f}" for value in rows[name])))
    return lines


def severity_priors() -> list[str]:
    """Severity maps beside maps that see no film: AUROC in the lungs."""
    names = {
        "map": "**severity map**",
        "height": "height in the lungs",
        "from_midline": "distance from the midline",
        "mean_lesion": "mean lesion of other patients",
        "map_minus_best_prior": "map minus the best of these",
    }
    lines = head("images", "n", *names.values())
    for images, values, cells in by_row("severity_lesions", "images", "map", [*names]):
        lines.append(line(images, str(values["map"]["n"]), *cells))
    return lines


def learnt_corpus() -> list[str]:
    """What places and attention are worth on the demo's corpus: benchmarks/corpus.py."""
    found = read_json(ROOT / "docs" / "lab" / "corpus.json")
    seeds = found["seeds"]
    lines = head("seed", "model", *CORPUS_MEASURES, "full model minus it, the same")
    for one in seeds:
        for name, measured in one["external"].items():
            less = one["transformer minus"].get(name)
            cells = [triple_text(measured[measure], 3) for measure in CORPUS_MEASURES]
            cells.append(triple_text(less[CORPUS_MEASURES[1]], 3) if less else "")
            lines.append(line(str(one["seed"]), CORPUS_ROWS[name], *cells))
    fields = ", ".join(sorted({str(one["receptive field, px"]) for one in seeds}))
    cells = ", ".join(f"{one['cell-wise AUC of lesions']:.2f}" for one in seeds)
    return [
        *lines,
        "",
        f"A token sees {fields} px of 128. A linear head on the frozen corpus finds the cells that "
        f"a lesion covers with AUC {cells}.",
    ]


def true_tokens() -> list[str]:
    """What places are worth where tokens are the true lesions: benchmarks/hospitals.py tokens."""
    found = read_json(ROOT / "docs" / "lab" / "hospitals_tokens.json")
    lines = head("model", "AUC, COVID-19 against other", "full model minus it", "bar")
    for name, (difference, bar) in TOKEN_ROWS.items():
        values = found[name] if isinstance(found[name], list) else [found[name]]
        each = ", ".join(f"{value:.3f}" for value in values)
        less = f"{found['differences'][difference]:.3f}" if difference else ""
        lines.append(line(name, each, less, bar))
    return lines


def pointing() -> list[str]:
    """Share of films whose hottest point lies on the lesion, by seed: tools/seeds.py."""
    found = read_result("seeds_saliency_benchmark")
    if found["made"]["hospitals"] != stages.stage_of("cohort").version:
        return [
            "Not measured on the present hospitals yet (`make seeds STUDY=saliency_benchmark`)."
        ]
    rows = pd.DataFrame(found["rows"])
    asked = [name for name in rows["criterion"].unique() if name.startswith("touching")]
    seeds = sorted(rows["seed"].unique())
    heads = [f"{POINTING[name]}, seed {seed}" for name in asked for seed in seeds]
    lines = head("method", *heads)
    table = rows.pivot_table(index="method", columns=["criterion", "seed"], values="value")
    for method in table.mean(axis=1).sort_values(ascending=False).index:
        cells = [f"{table.loc[method, (name, seed)]:.2f}" for name in asked for seed in seeds]
        lines.append(line(method, *cells))
    films = rows.groupby(["criterion", "seed"])["n"].max()
    counts = "; ".join(
        f"{POINTING[name]}: " + ", ".join(f"{films[name, seed]:.0f}" for seed in seeds)
        for name in asked
    )
    return [
        *lines,
        "",
        f"Small: the quarter with the smallest lesions. Films of each seed, {counts}.",
    ]


def baselines(
    stage: str = grid.DIAGNOSIS,
    tables: Collection[str] = ("Table 7",),
    profile: Profile | None = None,
) -> list[str]:
    """Rows of the grid that are of the present settings, however many seeds of them there are.

    Args:
        stage: of the two that have cells.
        tables: of the paper.
        profile: of the grid; None = demo.
    """
    profile = profile or profiles.demo()
    keys = own_keys(profile)
    recorded = [row for row in read_result("grid")["rows"] if row["key"] in keys]
    found = recorded_rows(profile, recorded)[stage].set_index("cell").to_dict("index")
    metric = METRICS[stage][0].upper()
    heads = (metric, "minus the proposed model", "steps", "training", "minutes")
    lines = head("model", "seeds", *heads)
    for cell in grid.grid_cells(profile):
        if cell.stage != stage or cell.table not in tables:
            continue
        own, row = cell.name == grid.PROPOSED, found.get(cell.name)
        name = f"**{cell.name}**" if own else cell.name
        if row is None:
            lines.append(line(name, NOT_RUN, *[""] * len(heads)))
            continue
        gap = "" if own else triple_text([row[one] for one in DIFFERENCE], 3)
        cells = (
            f"{row['seeds']}",
            triple_text([row[one] for one in ENDS], 3),
            f"{gap} **{row['conclusion']}**" if gap else "",
            f"{row['steps']:.0f}",
            row["training"],
            f"{row['seconds'] / 60:.0f}",
        )
        lines.append(line(name, *cells))
    return lines


def trial_rates(stage: str = grid.DIAGNOSIS) -> list[str]:
    """The search for rate and steps of each model of Table 7 or 8: tools/learning_rates.py."""
    searched = {cell.name for cell in grid.trial_cells(profiles.demo(), stage)}
    rows = pd.DataFrame(read_result("learning_rates")["rows"])
    rows = rows[(rows["stage"] == stage) & rows["cell"].isin(searched)].copy()
    if rows.empty:
        return [f"The search was {NOT_RUN}."]
    *_, sign = METRICS[stage]  # a score is higher where it is better
    rows["cell"] = pd.Categorical(rows["cell"], rows["cell"].unique())  # keeps their order
    scores = rows.pivot_table("score", ["cell", "steps"], "rate", observed=True)
    minutes = rows.groupby(["cell", "steps"], observed=True)["seconds"].sum() / 60
    lines = head("model", "steps", *(f"{rate:g}" for rate in scores.columns), "minutes")
    for (name, steps), values in scores.iterrows():
        best, cells = values.idxmax(), []
        for rate, value in values.items():
            text = "" if pd.isna(value) else f"{sign * value:.3f}"
            cells.append(f"**{text}**" if rate == best else text)
        lines.append(line(name, str(steps), *cells, f"{minutes[name, steps]:.0f}"))
    return lines


def doubled_rows() -> list[str]:
    """Rows of Tables 9 and 10, and twice as long: tools/learning_rates.py --rows."""
    demo = profiles.demo()
    rows = {row["key"]: row for row in read_result("learning_rates")["rows"]}
    heads = ("on validation", "steps", "as long as in the table", "twice as long", "brings")
    lines = head("model", *heads)
    for cell in grid.grid_cells(demo):
        if cell.table not in ("Table 9", "Table 10"):
            continue
        steps = grid.own_training(cell.profile, cell.stage).steps
        own, twice = rows.get(cell.key), rows.get(grid.doubled(cell).key)
        if not (own and twice):
            continue
        metric, _, sign = METRICS[cell.stage]
        scores = (f"{sign * row['score']:.3f}" for row in (own, twice))
        more = brings_more(cell.stage, own["score"], twice["score"])
        word = "more than the margin" if more else "no more than the margin"
        lines.append(line(cell.name, metric.upper(), str(steps), *scores, word))
    return lines if len(lines) > 2 else [f"None was trained twice as long: {NOT_RUN}."]


def attention_pays(name: str = "attention_pays") -> list[str]:
    """Models of the same tokens over arrangement and training films, from docs/lab/<name>.json."""
    path = ROOT / "docs" / "lab" / f"{name}.json"
    found = read_json(path) if path.exists() else {}
    if not found.get("aucs"):
        return [f"The sweep was {NOT_RUN}."]
    aucs, differences = (pd.DataFrame(found[name]) for name in ("aucs", "differences"))
    end_to_end = END_TO_END if set(END_TO_END) & set(aucs["model"]) else ()
    models = (*SWEEP_MODELS, *end_to_end)
    lines = head("arrangement", "training films", *models)
    for at, part in _by_setting(aucs):
        rows = part.set_index("model").to_dict("index")
        cells = [_sweep_cell(rows.get(model)) for model in models]
        lines.append(line(*at, *cells))
    proposed, *others = SWEEP_MODELS
    less = [f"minus {name}" for name in others]
    less[0] = f"{proposed} {less[0]}"
    if end_to_end:
        others.append(end_to_end[1])
        less.append(", minus ".join(end_to_end))
    lines += ["", *head("arrangement", "training films", *less)]
    for at, part in _by_setting(differences):
        rows = part.set_index("minus").to_dict("index")
        cells = [_sweep_cell(rows.get(model), "difference") for model in others]
        lines.append(line(*at, *cells))
    picture = f"![AUC of models over arrangement and training films](img/{name}.png)"
    return [picture, "", *lines, "", *(f"- {one}" for one in _sweep_facts(found, aucs))]


def _by_setting(rows: pd.DataFrame) -> Iterator[tuple[tuple[str, str], pd.DataFrame]]:
    """Rows of each setting, and the first cells of its line: one sweep, then the other."""
    usual = rows["images"].mode()[0]
    for _, sweep in rows.groupby(rows["images"] != usual):
        for (arrangement, images), part in sweep.groupby(["arrangement", "images"]):
            yield (f"{arrangement:g}", str(images)), part


def _sweep_cell(row: dict[str, Any] | None, column: str = "value") -> str:
    """A value with its interval, and the word where there is one."""
    if row is None:
        return NOT_RUN
    text = triple_text([row[column], row["low"], row["high"]], 3)
    return f"{text} **{row['conclusion']}**" if "conclusion" in row else text


def _sweep_facts(found: dict[str, Any], aucs: pd.DataFrame) -> list[str]:
    """What a reader of the sweep's tables must know, from its file."""
    rows = pd.DataFrame(found["rows"])
    trained = rows[~rows["search"]]
    seeds = sorted(set(aucs["seeds"]))
    rates = trained.groupby("model", sort=False)["rate"].first()
    weights = found["recipe"]["weights"]
    models = [f"{name} {weights[name]} and {rate:g}" for name, rate in rates.items()]
    capped = trained[trained["end"] == "cap"].groupby("model", sort=False).size()
    at_cap = ", ".join(f"{n} of {name}" for name, n in capped.items()) or "none"
    n = len(found["external"]["covid"])
    end_to_end, apart = rows[~rows["model"].isin(SWEEP_MODELS)], ""
    if len(end_to_end):
        minutes = end_to_end["CPU seconds"].sum() / 60
        apart = f" ({len(end_to_end)} and {minutes:.0f} of these end to end, on films)"
    cap = found["recipe"]["cap, steps"]
    return [
        f"Seeds of each cell: {' or '.join(map(str, seeds))}. Tested on {n} patients of "
        f"{len(set(found['external']['anatomies'].split()))} anatomies.",
        f"Weights, and the learning rate that the search chose: {'; '.join(models)}.",
        f"Trainings: {len(rows)} with the search, {found['CPU seconds'] / 60:.0f} CPU minutes"
        f"{apart}. They end where the validation loss no longer falls, or at {cap} steps: "
        f"{at_cap}.",
        f"The words have a margin of {found['recipe']['margin']} AUC; the p-values of a line are "
        "adjusted for their number (Holm).",
    ]


def hospitals() -> list[str]:
    """What benchmarks/hospitals.py measured of the virtual hospitals, beside what was asked."""
    films, arrangement, lungs = (
        read_json(ROOT / "docs" / "lab" / f"hospitals_{name}.json")
        for name in ("films", "arrangement", "lungs")
    )
    by_kind = films["real against virtual, AUC"]
    line_of = films["pneumothorax outside the line"]
    darker, brighter = (f"{100 * line_of[way]['median']:.1f} %" for way in ("darker", "brighter"))
    tubes, lost = films["tube tips in the windpipe"], films["lungs lost to mid-grey, COVID-19"]
    speeds = films["films a second and core"]
    wards = ", ".join(speeds)
    heart, wider = films["heart over thorax, PA"], films["heart width, AP over PA"]
    of_lungs = {name: f"{one['median']:.3f}, {one['q90']:.3f}" for name, one in lost.items()}
    rows = [
        (
            "real against virtual by texture (bands and slope), AUC of a linear model, folds of "
            "whole anatomies and patients",
            "at most 0.80",
            f"{by_kind['texture']:.3f}",
        ),
        ("... by all features", "reported", f"{by_kind['all']:.3f}"),
        (
            "heart over thorax of PA films, median (10th to 90th percentile)",
            "0.42 to 0.50",
            f"{heart['median']:.3f} ({heart['q10']:.3f} to {heart['q90']:.3f})",
        ),
        ("width of the heart, AP over PA, median", "1.09 to 1.13", f"{wider['median']:.3f}"),
        (
            "side outside a pleural line that darkens, brightens (medians)",
            "at least 75 %, at most 2 %",
            f"{darker}, {brighter}",
        ),
        ("tips of tubes in the windpipe", "all", f"{tubes['inside']} of {tubes['of']}"),
        (
            "lungs lost to mid-grey on COVID-19 films, median and 90th percentile",
            "0.25 to 0.35, 0.40 to 0.47",
            of_lungs["virtual"],
        ),
        (
            "... on real films (Cohen; Hannover)",
            "",
            f"{of_lungs['cohen']}; {of_lungs['hannover']}",
        ),
        (
            f"films a second and core, wards {wards}, on a busy machine",
            "at least 25 on average",
            ", ".join(f"{speed:.0f}" for speed in speeds.values()),
        ),
    ]
    for places in ("textbook", "sides"):
        best = [
            max(arrangement[f"1, {places}"][how].values())
            for how in ("without places", "with places")
        ]
        rows.append(
            (
                f"arrangement 1, {places}: COVID-19 against other, the better of two oracles "
                "without places; with places",
                "at most 0.65; at least 0.97",
                "; ".join(f"{auc:.3f}" for auc in best),
            )
        )
    rows.append(
        (
            "mean Dice of a U-Net trained on normal films, lost on lungs with 4 to 6 dense zones",
            "at least 0.05",
            f"{lungs['Dice lost, means']:.3f}",
        )
    )
    lines = head("measured by `benchmarks/hospitals.py` (files in `docs/lab/`)", "bar", "found")
    return lines + [line(*row) for row in rows]
