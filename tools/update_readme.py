"""Write tables of results into the documents: python tools/update_readme.py [--check].

Every number was written by a command, to cxrkit/storage/recorded_results/*.json, to docs/lab/*.json
or to the metrics of an artifact that comes with the kit; this script only puts it between two
markers of a document. With --check it changes nothing and fails where a table is not what the JSON
says.
"""

import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from cxrkit.config import profiles
from cxrkit.config.vocabulary import FRAMINGS
from cxrkit.evaluation.localisation import MEASURES
from cxrkit.evaluation.summaries import value_text
from cxrkit.pipeline import stages
from cxrkit.reproduction import claims, comparisons, grid, runner
from cxrkit.reproduction.grid_leaves import own_keys
from cxrkit.reproduction.grid_rows import DIFFERENCE
from cxrkit.shortcuts.within_source import comparison_table
from cxrkit.storage import locations
from cxrkit.storage.artifacts import key
from cxrkit.storage.atomic import read_json
from cxrkit.storage.recorded import read_result

ROOT = Path(__file__).resolve().parent.parent
START = "<!-- {}: made by tools/update_readme.py -->"
END = "<!-- end of {} -->"
ENDS = ("value", "low", "high")  # of a recorded number with its interval
MAP = {
    "dice": "map: Dice at the threshold of validation",
    "auprc": "map: average precision of lung pixels",
    "chance": "the same by chance",
    "pointing": "map: hottest point of an involved zone on the lesion",
    "pointing_chance": "the same by chance",
}
MAP_AUROC = {
    "map": "map: AUROC of lung pixels",
    "taught by the outlines": "the same features, **taught by the outlines** cell by cell, AUROC",
    "taught by the outlines and place": "the same, which also knows the place of a cell",
}
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
REAL_MODELS = ("corpus ViT", "linear probe", "thumbnails")  # of benchmarks/real_films.py
QUESTIONS = {"inside": "the source has taught", "across": "left out"}
FRAMED = {"whole": "whole films", "crop": "box around the lungs", "lungs": "lungs alone"}
SWEEP_MODELS = (  # of benchmarks/attention_pays.py, the proposed one first
    "corpus ViT",
    "ViT without positions",
    "ViT with even attention",
    "MLP on tokens side by side",
    "MLP on a bag of tokens",
    "linear on the mean token",
)
NOT_RUN = "not run"
LOST = "not available"  # cells of the paper's tables that are lost


def spread(values: pd.Series) -> str:
    """Mean of the seeds, with the lowest and the highest: "0.89 (0.88 to 0.91)"."""
    return f"{values.mean():.2f} ({values.min():.2f} to {values.max():.2f})"


def rows() -> list[tuple[str, str, str, str]]:
    """Rows of the table: what is measured, the paper's number, ours, and the study."""
    findings = pd.DataFrame(read_result("seeds_backbone")["rows"])
    diagnosis = pd.DataFrame(read_result("seeds_diagnosis")["rows"])
    severity = pd.DataFrame(read_result("seeds_severity")["rows"])
    lungs = pd.DataFrame(read_result("segmenter_large")["rows"])
    pooled = pd.DataFrame(read_result("seeds_pooling")["rows"])
    pooled = pooled.pivot(index="seed", columns="pool", values="auc")
    gain = pooled["pcam"] - pooled["average"]
    dice = lungs[
        (lungs["measure"] == "dice") & (lungs["group"] == "abnormal") & lungs["minus"].isna()
    ]
    dice = dice.set_index("network")
    out = [
        ("ten findings, mean AUC", LOST, spread(findings["auc"]), "seeds_backbone"),
        ("the same, PCAM minus average pooling", LOST, spread(gain), "seeds_pooling"),
    ]
    for view, cell in (("PA", LOST), ("AP", "at least 0.800")):
        auc = diagnosis[diagnosis["view"] == view]["auc"]
        label = f"diagnosis, {view} images, macro AUC"
        out.append((label, cell, spread(auc), "seeds_diagnosis"))
    out += [
        ("severity 0-6, MSE", "1.682, 1.677, 1.607", spread(severity["mse"]), "seeds_severity"),
        ("severity 0-6, R2", "0.572, 0.572, 0.432", spread(severity["r2"]), "seeds_severity"),
        ("a constant guess of severity, MSE", LOST, spread(severity["constant"]), "seeds_severity"),
    ]
    names = {"student": "AdaIN student", "unet_normal": "plain U-Net on the same masks"}
    for network, label in names.items():
        cell = value_text(dice.loc[network], digits=3)
        out.append((f"lungs on abnormal images, Dice, {label}", LOST, cell, "segmenter_large"))
    return out


def results() -> list[str]:
    """README's table."""
    lines = [
        "| at hospitals that no training saw | paper | virtual hospitals | version | made by |",
        "|---|---|---|---|---|",
    ]
    for label, paper, ours, study in rows():
        made = read_result(study)["made"]
        cells = (label, paper, ours, f"{made['hospitals']}", f"`{made['command']}`")
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def paper_claims() -> list[str]:
    """The paper's claims, and what holds here."""
    table = claims.claims_frame()
    lines = [f"| {' | '.join(table.columns)} |", "|---" * len(table.columns) + "|"]
    lines += [f"| {' | '.join(row)} |" for row in table.to_numpy().tolist()]
    note = claims.grid_note()
    notes = [claims.claim_legend(), claims.compute_split()] + ([f"{note}."] if note else [])
    return [*lines, "", " ".join(notes)]


def lessons() -> list[str]:
    """How long each lesson takes, in one run from an empty store."""
    found = read_result("demo_lessons")
    rows = pd.DataFrame(found["rows"])
    each = ", ".join(
        f"{runner.number_of(row.lesson)} {row.seconds:.0f} s"
        for row in rows.itertuples(index=False)
    )
    made = found["made"]
    return [
        f"`make demo` from an empty store on {made['cores']} cores, two lessons at a time: {each}; "
        f"all of them in {made['seconds']} s, at most {rows['peak_gb'].max():.2f} GB each."
    ]


def lessons_table() -> list[str]:
    """Memory and time of each lesson: tools/record_lessons.py."""
    rows = read_result("demo_lessons")["rows"]
    cells = {"lesson": [row["lesson"].split("_")[0] for row in rows]}
    cells["GB"] = [f"{row['peak_gb']:.2f}" for row in rows]
    cells["seconds"] = [f"{row['seconds']:.0f}" for row in rows]
    lines = [f"| {name} | {' | '.join(values)} |" for name, values in cells.items()]
    return [lines[0], "|---" * (len(rows) + 1) + "|", *lines[1:]]


def by_row(
    name: str, label: str, column: str, cells: list[str]
) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Rows of a table from the flat rows of a recorded result.

    Args:
        name: of the result.
        label: the column that tells the rows of the table apart.
        column: the column that tells their cells apart.
        cells: of a row, values of `column`.

    Yields:
        The label, the recorded values by `column`, and the text of the cells.
    """
    found = pd.DataFrame(read_result(name)["rows"])
    for row, part in found.groupby(label, sort=False):
        values = part.set_index(column).to_dict("index")
        yield str(row), values, " | ".join(value_text(values[cell]) for cell in cells)


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
    lines = ["| design | " + " | ".join(measures.values()) + " |", "|---" * 7 + "|"]
    for design, _, cells in by_row("severity_designs", "design", "measure", [*measures]):
        lines.append(f"| {design} | {cells} |")
    return lines


def severity_external() -> list[str]:
    """The demo's severity model at hospitals that no training saw."""
    name = f"severity-{key(stages.settings(profiles.demo(), 'severity'))}"
    folder = locations.SHIPPED / name
    if not folder.is_dir():
        sys.exit(f"{name} does not come with the kit: train it, then make ship")
    metrics = read_json(folder / "metrics.json")
    external = metrics["external"]
    lines = ["| | model | constant guess | second reader |", "|---|---|---|---|"]
    for measure in ("mse", "r2", "mae", "cc"):
        values = [external, external["constant"], external["second_reader"]]
        cells = [
            value_text(part[measure]) if part[measure]["low"] is not None else "none"
            for part in values
        ]
        lines.append(f"| {measure.upper()} | {' | '.join(cells)} |")
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
    lines = [
        f"| {' | '.join(heads)} | student minus `unet_normal` |",
        "|---" * (len(heads) + 1) + "|",
    ]
    rows = pd.DataFrame(read_result("seeds_segmenter")["rows"])
    rows = rows.sort_values("group", kind="stable").replace({"zones_4_6": "4-6 zones ill"})
    for row in rows.to_dict("records"):
        dice = [f"{row[name]:.3f}" for name in ("student", "unet_normal", "unet_both")]
        gain = _triple([row[f"gain_{end}"] for end in ENDS], 3)
        cells = [row["group"], str(row["seed"]), str(row["n"]), *dice, gain]
        lines.append(f"| {' | '.join(cells)} |")
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
    lines = [f"| | {' | '.join(heads)} |", "|---" * (1 + len(heads)) + "|"]
    rows = pd.DataFrame(read_result("segmenter_large")["rows"]).fillna({"minus": ""})
    rows = rows.set_index(["network", "minus", "group", "measure"])
    for text, pair in LARGER_RUN.items():
        cells = []
        for group in groups:
            for measure, scale, digits in (("dice", 1, 3), ("missed", 100, 1)):
                row = rows.loc[(*pair, group, measure)]
                cells.append(_triple([scale * row[end] for end in ENDS], digits))
        lines.append(f"| {text} | {' | '.join(cells)} |")
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
    lines = [
        "| | asked for | " + " | ".join(f"seed {seed}" for seed in rows.index) + " |",
        "|---" * (2 + len(rows)) + "|",
    ]
    for name, (text, bar) in SEVERITY_BARS.items():
        values = " | ".join(f"{value:.2f}" for value in rows[name])
        lines.append(f"| {text} | {bar} | {values} |")
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
    lines = ["| images | n | " + " | ".join(names.values()) + " |", "|---" * 7 + "|"]
    for images, values, cells in by_row("severity_lesions", "images", "map", [*names]):
        lines.append(f"| {images} | {values['map']['n']} | {cells} |")
    return lines


def real_lesions() -> list[str]:
    """The severity map on films of Cohen's whose lesions radiologists outlined.

    Beside it what a linear map of the same features shows that these outlines teach.
    """
    rows = {
        row["map"]: row
        for row in read_result("severity_lesions")["rows"]
        if row["profile"] == "mini"
    }
    lines = ["| measure | n | value |", "|---" * 3 + "|"]
    for name, label in {**{name: MAP[name] for name in MEASURES}, **MAP_AUROC}.items():
        lines.append(f"| {label} | {rows[name]['n']} | {value_text(rows[name])} |")
    return lines


def learnt_corpus() -> list[str]:
    """What places and attention are worth on the demo's corpus: benchmarks/corpus.py."""
    found = read_json(ROOT / "docs" / "lab" / "corpus.json")
    seeds = found["seeds"]
    lines = [
        "| seed | model | macro AUC | COVID-19 against other | full model minus it, the same |",
        "|---" * 5 + "|",
    ]
    for one in seeds:
        for name, measured in one["external"].items():
            less = one["transformer minus"].get(name)
            cells = [_triple(measured[measure], 3) for measure in CORPUS_MEASURES]
            cells.append(_triple(less[CORPUS_MEASURES[1]], 3) if less else "")
            row = (str(one["seed"]), CORPUS_ROWS[name], *cells)
            lines.append(f"| {' | '.join(row)} |")
    fields = ", ".join(sorted({str(one["receptive field, px"]) for one in seeds}))
    cells = ", ".join(f"{one['cell-wise AUC of lesions']:.2f}" for one in seeds)
    return [
        *lines,
        "",
        f"A token sees {fields} px of 128. A linear head on the frozen corpus finds the cells that "
        f"a lesion covers with AUC {cells}.",
    ]


def site_figures() -> list[str]:
    """Speed of the page without a server, and how far it departs from the package."""
    found = read_json(ROOT / "docs" / "lab" / "site.json")
    lines = ["| measured | found | at most |", "|---" * 3 + "|"]
    for name, keys, bar, unit in SITE_ROWS:
        value = found
        for part in keys:
            value = value.get(part, {})
        if value:
            most = f"{bar} {unit}" if bar else "-"
            lines.append(f"| {name} | {value:.3g} {unit} | {most} |")
    damaged = found["damaged"]
    return [
        *lines,
        "",
        *site_differences(found),
        "",
        f"Of {damaged['files']} damaged files {damaged['refused']} were refused with a message and "
        "the others opened.",
    ]


SITE_ROWS = [  # what is measured, where it stands in site.json, at most, unit
    ("first film drawn after opening room.html from a disk", ["first_film_s"], 3, "s"),
    ("a control answers, median of 100", ["control_ms", "median"], 100, "ms"),
    ("a control answers, slowest of 100", ["control_ms", "slowest"], 300, "ms"),
    ("occlusion map, 36 windows", ["occlusion_s"], 1.5, "s"),
    ("room.html, compressed", ["megabytes", "file"], 25, "MB"),
    ("new answers after an edit, median", ["edit_ms", "median"], None, "ms"),
    ("3000 x 3400 px of 16 bits: opened and predicted", ["large", "opened_s"], None, "s"),
    ("3000 x 3400 px of 16 bits: the brush, median", ["large", "dab_ms"], None, "ms"),
]
SITE_SETS = {  # key of site.json -> with what the page is compared
    "worst": "the package, {films} virtual films",
    "real": "the package, {films} real films of a mirror",
    "room": "the kernel-based room, ten virtual films",
    "own": "the package, other networks of random weights",
}


def site_differences(found: dict[str, Any]) -> list[str]:
    """The largest differences of the page, over sets of films."""
    head = "| largest difference from | probability | finding | severity | least Dice of lungs |"
    lines = [head, "|---" * 5 + "|"]
    for part, name in SITE_SETS.items():
        if part not in found:
            continue
        worst = {"films": found["films"], **found[part]}
        values = [f"{worst[one]:.1g}" for one in ("probability", "finding", "severity")]
        lines.append(f"| {name.format(**worst)} | {' | '.join(values)} | {worst['dice']:.4f} |")
    lines.append("| *at most* | 0.001 | 0.001 | 0.02 | 0.999 or more |")
    return lines


def true_tokens() -> list[str]:
    """What places are worth where tokens are the true lesions: benchmarks/hospitals.py tokens."""
    found = read_json(ROOT / "docs" / "lab" / "hospitals_tokens.json")
    head = "| model | AUC, COVID-19 against other | full model minus it | bar |"
    lines = [head, "|---" * 4 + "|"]
    for name, (difference, bar) in TOKEN_ROWS.items():
        values = found[name] if isinstance(found[name], list) else [found[name]]
        each = ", ".join(f"{value:.3f}" for value in values)
        less = f"{found['differences'][difference]:.3f}" if difference else ""
        lines.append(f"| {name} | {each} | {less} | {bar} |")
    return lines


def real_films() -> list[str]:
    """Inside and across sources of real films, as `mini` sees them: benchmarks/real_films.py."""
    framing = profiles.mini().sources.framing
    found = read_json(ROOT / "docs" / "lab" / "real_films.json")[framing]
    heads = ["source", "films", *REAL_MODELS, *(f"ViT minus {name}" for name in REAL_MODELS[1:])]
    lines = []
    for question, text in QUESTIONS.items():
        lines += ["", f"| {text}: {' | '.join(heads)} |", "|---" * len(heads) + "|"]
        lines += [_pair_line(row, row["source"]) for row in found[question]["pairs"]]
        pairs, read = found[question]["pairs"], found[question]["read by radiologists"]
        lines.append(_mean_line(pairs, "mean"))
        lines.append(_pair_line(read, f"{read['source']}, read by radiologists"))
        others = [row for row in pairs if row["source"] != read["source"]]
        lines.append(_mean_line([read, *others], "mean with these labels of it"))
    return lines[1:]


def _mean_line(rows: list[dict[str, Any]], name: str) -> str:
    """Mean AUC of each model over pairs of classes."""
    means = [sum(row[model]["value"] for row in rows) / len(rows) for model in REAL_MODELS]
    return f"| {name} | | {' | '.join(f'**{mean:.2f}**' for mean in means)} | | |"


def _pair_line(row: dict[str, Any], name: str) -> str:
    """Two classes of a source as a line: films, AUC of each model, and the differences."""
    classes = ", ".join(
        f"{count} {label.replace('_', ' ')}"
        for label, count in zip(row["classes"], row["films"], strict=True)
    )
    areas = [value_text(row[model]) for model in REAL_MODELS]
    less = [_difference(row[f"minus {model}"]) for model in REAL_MODELS[1:]]
    return f"| {name} | {classes} | {' | '.join(areas + less)} |"


def framings() -> list[str]:
    """What is shown of a film, inside and across sources: benchmarks/real_films.py --framing."""
    found = read_json(ROOT / "docs" / "lab" / "real_films.json")
    sources = [row["source"] for row in found["whole"]["inside"]["pairs"]]
    heads = ["shown", "model", *sources, "mean", "nih_cxr14, read by radiologists"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for question, text in QUESTIONS.items():
        for framing in FRAMINGS:
            if framing not in found:
                continue
            part = found[framing][question]
            for name in REAL_MODELS:
                areas = [f"{row[name]['value']:.2f}" for row in part["pairs"]]
                areas.append(f"**{part['mean'][name]:.2f}**")
                areas.append(f"{part['read by radiologists'][name]['value']:.2f}")
                lines.append(f"| {FRAMED[framing]}, {text} | {name} | {' | '.join(areas)} |")
    return lines


def real_metrics(stage: str) -> dict[str, Any]:
    """Metrics of a shipped model of real films: tools/ship_weights.py."""
    for shelf in ("research", "open"):
        card = ROOT / "cxrkit" / "inference" / "weights" / shelf / "card.json"
        models = read_json(card)["models"] if card.exists() else {}
        if stage in models:
            return models[stage]["metrics"]
    sys.exit(f"no {stage} of real films is shipped: make mini, then make weights")


def mini_minutes() -> list[str]:
    """How long each stage of `mini` took to train, from the cards of its weights."""
    lines = ["| stage | minutes |", "|---|---|"]
    total = 0.0
    for shelf in ("open", "research"):
        card = read_json(ROOT / "cxrkit" / "inference" / "weights" / shelf / "card.json")
        for stage, entry in card["models"].items():
            if entry["profile"] == "mini":
                total += entry["made"]["seconds"]
                lines.append(f"| {stage} | {entry['made']['seconds'] / 60:.0f} |")
    return [*lines, f"| together | {total / 60:.0f} |"]


def inside_sources() -> list[str]:
    """The shipped diagnosis inside each source, by folds, beside trivial models."""
    within = real_metrics("diagnosis")["within_source"]
    lines = [
        "| source | films | n | model, AUC | best trivial model | its AUC | gain |",
        "|---" * 7 + "|",
    ]
    for source, parts in {"nih_cxr14": within["internal"], **within["by_source"]}.items():
        for label, row in comparison_table(parts).iterrows():
            values = [row["model, AUC"], row["best trivial model"], row["its AUC"], row["gain"]]
            lines.append(f"| {source} | {label} | {row['images']} | {' | '.join(values)} |")
    return lines


def readers() -> list[str]:
    """The severity of real films by folds, beside a second radiologist and models that see none."""
    names = {
        "model": "model",
        "second_reader": "second reader",
        "constant": "constant",
        "ridge": "ridge on a thumbnail",
    }
    others = list(names)[1:]
    heads = [*names.values(), *(f"model minus {names[name]}" for name in others)]
    lines = [f"| zone involved from | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    folds = real_metrics("severity")["folds"]
    for threshold, found in folds.items():
        values = [value_text(found[name]["mse"]) for name in names]
        values += [_difference(found["difference"][name]) for name in others]
        lines.append(f"| {threshold.removeprefix('threshold')} | {' | '.join(values)} |")
    lines += ["", "| true score | films | mean | read |", "|---" * 4 + "|"]
    for row in folds["threshold1"]["by_truth"]:
        label = f"{row['low']} to {row['high']}" if row["high"] else "0"
        lines.append(
            f"| {label} | {row['read']['n']} | {row['true']:.1f} | {value_text(row['read'])} |"
        )
    return lines


def real_lungs() -> list[str]:
    """Dice of each network of the shipped segmenter on real films that train nothing."""
    found = real_metrics("segmenter")["by_dataset"]
    columns = []
    for dataset, networks in found.items():
        for domain, row in networks["unet_both"].items():
            columns.append((dataset, domain, row["dice"]["n"]))
    heads = [f"{dataset}, {domain} ({n})" for dataset, domain, n in columns]
    lines = [f"| network | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    for network in ("student", "direct", "unet_normal", "unet_both"):
        cells = [value_text(found[one][network][domain]["dice"], 3) for one, domain, _ in columns]
        lines.append(f"| {network} | {' | '.join(cells)} |")
    return lines


def unscored() -> list[str]:
    """What the severity model reads where nobody has scored."""
    lines = [
        "| source | diagnosis | films | mean score read | AUC against normal films of the source |",
        "|---" * 5 + "|",
    ]
    for row in real_metrics("severity")["unscored"]:
        area = value_text(row["auc"]) if "auc" in row else ""
        score = row["score"]
        name = row["diagnosis"].replace("_", " ")
        lines.append(f"| {row['dataset']} | {name} | {score['n']} | {value_text(score)} | {area} |")
    return lines


def usable() -> list[str]:
    """What `predict` calls unusable: tools/evaluate_usable.py."""
    lines = ["| pictures | n | called unusable |", "|---" * 3 + "|"]
    for row in read_result("usable")["rows"]:
        lines.append(f"| {row['pictures']} | {row['n']} | {100 * row['unusable']:.1f} % |")
    return lines


def calibration() -> list[str]:
    """How far the probabilities of the diagnosis are off, before and after the temperature."""
    lines = ["| model | films | as trained | calibrated |", "|---" * 4 + "|"]
    seeds = pd.DataFrame(read_result("seeds_diagnosis")["rows"])
    for view, rows in seeds.groupby("view", sort=False):
        cells = " | ".join(spread(rows[name]) for name in ("ece", "ece_calibrated"))
        films = f"external hospitals, {len(rows)} seeds"
        lines.append(f"| virtual hospitals, {view} | {films} | {cells} |")
    real = real_metrics("diagnosis")
    cells = " | ".join(f"{real['test'][name]:.2f}" for name in ("ece", "ece_calibrated"))
    lines.append(
        f"| real films, PA and AP | {real['images']['test']} of the test split | {cells} |"
    )
    return lines


def removal() -> list[str]:
    """Deletion, insertion and saturation on real films: tools/saliency_real.py."""
    found = read_result("saliency_real")
    table = pd.DataFrame(found["rows"]).set_index(["method", "criterion"])
    counts = table["n"].groupby("criterion").max()
    names = {"deletion": "less", "insertion": "more", "saturation": "less"}
    head = [f"{name} ({better} is better)" for name, better in names.items()]
    lines = [f"| method | {' | '.join(head)} |", "|---" * (1 + len(names)) + "|"]
    for method in dict.fromkeys(name for name, _ in table.index):
        cells = []
        for criterion in names:
            if (method, criterion) not in table.index:
                cells.append("")
                continue
            row = table.loc[(method, criterion)]
            word = row["ahead_conclusion"]
            text = _triple(row[list(ENDS)].tolist(), 3)
            cells.append(text if pd.isna(word) else f"{text}, {word}")
        lines.append(f"| {' | '.join((method, *cells))} |")
    saturated = int(counts.get("saturation", 0))
    return [
        f"{found['made']['films']} films; saturation: {saturated} of them with p of at least 0.9.",
        "",
        *lines,
    ]


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
    head = [f"{POINTING[name]}, seed {seed}" for name in asked for seed in seeds]
    lines = [f"| method | {' | '.join(head)} |", "|---" * (1 + len(head)) + "|"]
    table = rows.pivot_table(index="method", columns=["criterion", "seed"], values="value")
    for method in table.mean(axis=1).sort_values(ascending=False).index:
        cells = [f"{table.loc[method, (name, seed)]:.2f}" for name in asked for seed in seeds]
        lines.append(f"| {method} | {' | '.join(cells)} |")
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


def baselines() -> list[str]:
    """Rows of Table 7 that are of the present settings, however many seeds of them there are."""
    keys = own_keys(profiles.demo())
    rows = [row for row in read_result("grid")["rows"] if row["key"] in keys]
    rows = [row for row in rows if row["table"] == "Table 7"]
    head = ("model", "seeds", "AUC", "minus the proposed model", "steps", "training", "minutes")
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    if not rows:
        return [*lines, "| none yet |" + " |" * (len(head) - 1)]
    for row in comparisons.over_seeds(rows).to_dict("records"):
        own = row["cell"] == grid.PROPOSED
        cells = (
            f"**{row['cell']}**" if own else row["cell"],
            f"{row['seeds']}",
            _triple([row["value"], row["low"], row["high"]], 3),
            "" if own else _triple([row[name] for name in DIFFERENCE], 3),
            f"{row['steps']:.0f}",
            row["training"],
            f"{row['seconds'] / 60:.0f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def trial_rates() -> list[str]:
    """The search for a learning rate of each model of Table 7: tools/learning_rates.py."""
    rows = pd.DataFrame(read_result("learning_rates")["rows"])
    scores = rows.pivot_table("score", ["cell", "steps"], "rate", sort=False)
    scores = scores[sorted(scores.columns)]
    minutes = rows.groupby(["cell", "steps"])["seconds"].sum() / 60
    heads = " | ".join(f"{rate:g}" for rate in scores.columns)
    lines = [f"| model | steps | {heads} | minutes |", "|---" * (3 + scores.shape[1]) + "|"]
    for (name, steps), values in scores.iterrows():
        best, cells = values.idxmax(), []
        for rate, value in values.items():
            text = "" if pd.isna(value) else f"{value:.3f}"
            cells.append(f"**{text}**" if rate == best else text)
        lines.append(f"| {name} | {steps} | {' | '.join(cells)} | {minutes[name, steps]:.0f} |")
    return lines


def attention_pays(name: str = "attention_pays") -> list[str]:
    """Models of the same tokens over arrangement and training films, from docs/lab/<name>.json."""
    path = ROOT / "docs" / "lab" / f"{name}.json"
    found = read_json(path) if path.exists() else {}
    if not found.get("aucs"):
        return [f"The sweep was {NOT_RUN}."]
    aucs, differences = (pd.DataFrame(found[name]) for name in ("aucs", "differences"))
    head = "| arrangement | training films | " + " | ".join(SWEEP_MODELS) + " |"
    lines = [head, "|---" * (2 + len(SWEEP_MODELS)) + "|"]
    for at, part in _by_setting(aucs):
        rows = part.set_index("model").to_dict("index")
        cells = [_sweep_cell(rows.get(model)) for model in SWEEP_MODELS]
        lines.append(f"| {at} | {' | '.join(cells)} |")
    proposed, *others = SWEEP_MODELS
    head = f"| arrangement | training films | {proposed} minus " + " | minus ".join(others) + " |"
    lines += ["", head, "|---" * (2 + len(others)) + "|"]
    for at, part in _by_setting(differences):
        rows = part.set_index("minus").to_dict("index")
        cells = [_sweep_cell(rows.get(model), "difference") for model in others]
        lines.append(f"| {at} | {' | '.join(cells)} |")
    picture = f"![AUC of six models over arrangement and training films](img/{name}.png)"
    return [picture, "", *lines, "", *(f"- {one}" for one in _sweep_facts(found, aucs))]


def _by_setting(rows: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Rows of each setting, and the first cells of its line: one sweep, then the other."""
    usual = rows["images"].mode()[0]
    for _, sweep in rows.groupby(rows["images"] != usual):
        for (arrangement, images), part in sweep.groupby(["arrangement", "images"]):
            yield f"{arrangement:g} | {images}", part


def _sweep_cell(row: dict[str, Any] | None, column: str = "value") -> str:
    """A value with its interval, and the word where there is one."""
    if row is None:
        return NOT_RUN
    text = _triple([row[column], row["low"], row["high"]], 3)
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
    return [
        f"Seeds of each cell: {' or '.join(map(str, seeds))}. Tested on {n} patients of "
        f"{len(set(found['external']['anatomies'].split()))} anatomies.",
        f"Weights, and the learning rate that the search chose: {'; '.join(models)}.",
        f"Trainings: {len(rows)} with the search, {found['CPU seconds'] / 60:.0f} CPU minutes. "
        f"They end where the validation loss no longer falls, or at {found['recipe']['cap, steps']}"
        f" steps: {at_cap}.",
        f"The words have a margin of {found['recipe']['margin']} AUC; the p-values of a line are "
        "adjusted for their number (Holm).",
    ]


def _difference(found: dict[str, float]) -> str:
    """Difference, low, high: "+0.02 [-0.01, +0.05]"."""
    value, low, high = (f"{found[name]:+.2f}" for name in ("difference", "low", "high"))
    return f"{value} [{low}, {high}]"


def _triple(values: list[float], digits: int) -> str:
    """Value, low, high: "0.840 [0.817, 0.863]"."""
    value, low, high = (f"{one:.{digits}f}" for one in values)
    return f"{value} [{low}, {high}]"


# (document, name of the markers) -> lines of the table
TABLES: dict[tuple[str, str], Callable[[], list[str]]] = {
    ("README.md", "results"): results,
    ("README.md", "claims"): paper_claims,
    ("README.md", "lessons"): lessons,
    ("docs/virtual_hospitals.md", "true tokens"): true_tokens,
    ("docs/virtual_hospitals.md", "learnt corpus"): learnt_corpus,
    ("docs/virtual_hospitals.md", "attention pays"): attention_pays,
    ("docs/virtual_hospitals.md", "attention pays, corpus"): partial(
        attention_pays, "attention_pays_corpus"
    ),
    ("docs/lungs.md", "real films"): real_lungs,
    ("docs/lungs.md", "seeds"): lungs_seeds,
    ("docs/lungs.md", "larger run"): lungs_large,
    ("docs/mini.md", "minutes"): mini_minutes,
    ("docs/mini.md", "inside"): inside_sources,
    ("docs/mini.md", "sources"): real_films,
    ("docs/severity.md", "outlined films"): real_lesions,
    ("docs/mini.md", "readers"): readers,
    ("docs/mini.md", "unscored"): unscored,
    ("docs/mini.md", "framings"): framings,
    ("docs/teaching.md", "lessons"): lessons_table,
    ("docs/predict.md", "usable"): usable,
    ("docs/predict.md", "calibration"): calibration,
    ("docs/site.md", "figures"): site_figures,
    ("docs/explain.md", "removal"): removal,
    ("docs/explain.md", "pointing"): pointing,
    ("docs/virtual_hospitals.md", "baselines"): baselines,
    ("docs/virtual_hospitals.md", "learning rates"): trial_rates,
    ("docs/severity.md", "designs"): severity_designs,
    ("docs/severity.md", "external hospitals"): severity_external,
    ("docs/severity.md", "priors"): severity_priors,
    ("docs/severity.md", "seeds"): severity_seeds,
}


def main() -> None:
    """Write or check the tables."""
    for (document, name), make in TABLES.items():
        path, start, end = ROOT / document, START.format(name), END.format(name)
        text = path.read_text("utf-8")
        before, _, rest = text.partition(start)
        _, _, after = rest.partition(end)
        wanted = "\n".join([before + start, *make(), end + after])
        if "--check" in sys.argv[1:]:
            if wanted != text:
                sys.exit(f"{document}: run python tools/update_readme.py")
        else:
            path.write_text(wanted, "utf-8")


if __name__ == "__main__":
    main()
