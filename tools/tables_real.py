"""Tables of documents on real films: docs/mini.md, docs/predict.md and others."""

import sys
from typing import Any

import pandas as pd
from table_text import (
    ENDS,
    MAP,
    ROOT,
    difference_text,
    head,
    line,
    met_text,
    spread,
    triple_text,
)

from cxrkit.config import profiles
from cxrkit.config.vocabulary import FRAMINGS
from cxrkit.evaluation.localisation import MEASURES
from cxrkit.evaluation.summaries import value_text
from cxrkit.shortcuts.within_source import comparison_table
from cxrkit.storage.atomic import read_json
from cxrkit.storage.recorded import read_result

MAP_AUROC = {
    "map": "map: AUROC of lung pixels",
    "trained on the outlines": "the same features, **trained on the outlines** cell by cell, AUROC",
    "trained on the outlines and place": "the same, which also knows the place of a cell",
}
REAL_MODELS = ("corpus ViT", "linear probe", "thumbnails")  # of benchmarks/real_films.py
NO_DISEASE = ("thumbnails of whole films", "bytes of the file", "age and sex")  # models there
FINDING_MODELS = {  # of tools/real_findings.py -> what they are trained on
    "model": "`mini`",
    "thumbnails": "equalised thumbnails",
    "64 px films": "the same features, trained on `nih_cxr14_64px`",
    "features": "the same features, **trained on these films**",
}
QUESTIONS = {"inside": "trained on the source", "across": "left out"}
FRAMED = {"whole": "whole films", "crop": "box around the lungs", "lungs": "lungs alone"}


def real_lesions() -> list[str]:
    """The severity map on films of Cohen's whose lesions radiologists outlined.

    Beside it what a linear map of the same features shows that these outlines teach.
    """
    rows = {
        row["map"]: row
        for row in read_result("severity_lesions")["rows"]
        if row["profile"] == "mini"
    }
    lines = head("measure", "n", "value")
    for name, label in {**{name: MAP[name] for name in MEASURES}, **MAP_AUROC}.items():
        lines.append(f"| {label} | {rows[name]['n']} | {value_text(rows[name])} |")
    return lines


def real_films() -> list[str]:
    """Inside and across sources of real films, as `mini` sees them: benchmarks/real_films.py."""
    framing = profiles.mini().sources.framing
    found = read_json(ROOT / "docs" / "lab" / "real_films.json")[framing]
    heads = ["films", *REAL_MODELS, *(f"ViT minus {name}" for name in REAL_MODELS[1:])]
    lines = []
    for question, text in QUESTIONS.items():
        lines += ["", *head(f"{text}: source", *heads)]
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
    less = [difference_text(row[f"minus {model}"]) for model in REAL_MODELS[1:]]
    return line(name, classes, *areas, *less)


def no_disease() -> list[str]:
    """Models that see no disease, beside the corpus ViT: benchmarks/real_films.py."""
    found = read_json(ROOT / "docs" / "lab" / "real_films.json")[profiles.mini().sources.framing]
    names = (REAL_MODELS[0], *NO_DISEASE)
    lines = head("", "source", *names)
    for question, text in QUESTIONS.items():
        read = found[question]["read by radiologists"]
        rows = [(row["source"], row) for row in found[question]["pairs"]]
        for source, row in (*rows, (f"{read['source']}, read by radiologists", read)):
            lines.append(line(text, source, *(value_text(row[name]) for name in names)))
    return lines


def findings_apart() -> list[str]:
    """Findings on films that hold each of them apart: tools/real_findings.py."""
    rows = read_result("real_findings")["rows"]
    lines = head("finding", "films with, without", *FINDING_MODELS.values())
    for row in rows:
        areas = [value_text(row[name]) for name in FINDING_MODELS]
        films = f"{row['with']}, {row['without']}"
        lines.append(line(row["finding"].replace("_", " "), films, *areas))
    means = [f"**{_mean_area(rows, name):.2f}**" for name in FINDING_MODELS]
    return [*lines, f"| mean | | {' | '.join(means)} |"]


def _mean_area(rows: list[dict[str, Any]], model: str) -> float:
    """Mean AUC of a model over rows."""
    return sum(row[model]["value"] for row in rows) / len(rows)


def bars() -> list[str]:
    """What the project asks of real films, and what is reached."""
    framing = profiles.mini().sources.framing
    found = read_json(ROOT / "docs" / "lab" / "real_films.json")[framing]
    inside = {row["source"]: row for row in found["inside"]["pairs"]}
    across = found["across"]["pairs"]
    read = found["inside"]["read by radiologists"]
    vit, probe, thumbnails = REAL_MODELS
    left_out = {name: _mean_area(across, name) for name in REAL_MODELS}
    lowest = min(across, key=lambda row: row[vit]["value"])
    best = max((thumbnails, NO_DISEASE[0]), key=lambda name: read[name]["value"])
    apart = _mean_area(read_result("real_findings")["rows"], "model")
    minutes = read_result("mini_lessons")["made"]["seconds"] / 60
    lines = head("asked for", "measured", "")
    for source in ("nih_cxr14", "kermany"):
        less = inside[source][f"minus {probe}"]
        text = f"inside {source}: not below the linear probe by more than 0.02"
        lines.append(_bar(text, difference_text(less), less["difference"] >= -0.02))
    less = read[f"minus {best}"]
    text = f"radiologists' labels of the NIH: above {best}"
    lines.append(_bar(text, difference_text(less), less["difference"] > 0))
    area = inside["cohen"][vit]
    text = "COVID-19 inside Cohen's: AUC of 0.75"
    lines.append(_bar(text, value_text(area), area["value"] >= 0.75))
    text = "findings apart: mean AUC of 0.72"
    lines.append(_bar(text, f"{apart:.2f}", apart >= 0.72))
    for name, bar in ((vit, 0.65), (thumbnails, left_out[thumbnails]), (probe, left_out[probe])):
        asked = "of 0.65" if name == vit else f"above that of the {name}"
        shown = f"{left_out[vit]:.3f}" + ("" if name == vit else f" and {bar:.3f}")
        lines.append(_bar(f"each source left out: mean AUC {asked}", shown, left_out[vit] >= bar))
    text = "each source left out: none below 0.5"
    shown = f"lowest: {lowest[vit]['value']:.2f} ({lowest['source']})"
    lines.append(_bar(text, shown, lowest[vit]["value"] >= 0.5))
    text = "`make mini` on two cores: at most 90 minutes"
    lines.append(_bar(text, f"{minutes:.0f} minutes", minutes <= 90))
    return lines


def _bar(asked: str, measured: str, met: bool) -> str:
    """A line of `bars`."""
    return line(asked, measured, met_text(met))


def framings() -> list[str]:
    """What is shown of a film, inside and across sources: benchmarks/real_films.py --framing."""
    found = read_json(ROOT / "docs" / "lab" / "real_films.json")
    sources = [row["source"] for row in found["whole"]["inside"]["pairs"]]
    lines = head("shown", "model", *sources, "mean", "nih_cxr14, read by radiologists")
    for question, text in QUESTIONS.items():
        for framing in FRAMINGS:
            if framing not in found:
                continue
            part = found[framing][question]
            for name in REAL_MODELS:
                areas = [f"{row[name]['value']:.2f}" for row in part["pairs"]]
                areas.append(f"**{part['mean'][name]:.2f}**")
                areas.append(f"{part['read by radiologists'][name]['value']:.2f}")
                lines.append(line(f"{FRAMED[framing]}, {text}", name, *areas))
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
    """How long the stages and the lessons of one `make mini` took: tools/record_lessons.py."""
    found = read_result("mini_lessons")
    lines = head("", "minutes")
    for stage, seconds in found["made"]["stages"].items():
        if seconds >= 60:
            lines.append(f"| {stage.replace('_', ' ')} | {seconds / 60:.0f} |")
    lessons = sum(row["seconds"] for row in found["rows"]) / 60
    lines.append(f"| all lessons and the report | {lessons:.0f} |")
    whole = found["made"]["seconds"] / 60
    return [*lines, f"| **from the first stage to the end, two at a time** | **{whole:.0f}** |"]


def inside_sources() -> list[str]:
    """The shipped diagnosis inside each source, by folds, beside trivial models."""
    within = real_metrics("diagnosis")["within_source"]
    lines = head("source", "films", "n", "model, AUC", "best trivial model", "its AUC", "gain")
    for source, parts in {"nih_cxr14": within["internal"], **within["by_source"]}.items():
        for label, row in comparison_table(parts).iterrows():
            values = [row["model, AUC"], row["best trivial model"], row["its AUC"], row["gain"]]
            lines.append(line(source, str(label), str(row["images"]), *values))
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
    less = [f"model minus {names[name]}" for name in others]
    lines = head("zone involved from", *names.values(), *less)
    folds = real_metrics("severity")["folds"]
    for threshold, found in folds.items():
        values = [value_text(found[name]["mse"]) for name in names]
        values += [difference_text(found["difference"][name]) for name in others]
        lines.append(line(threshold.removeprefix("threshold"), *values))
    lines += ["", *head("true score", "films", "mean", "read")]
    for row in folds["threshold1"]["by_truth"]:
        label = f"{row['low']} to {row['high']}" if row["high"] else "0"
        lines.append(
            f"| {label} | {row['read']['n']} | {row['true']:.1f} | {value_text(row['read'])} |"
        )
    heads = ("pairs of films of one patient", "a change beyond noise, from", "true changes")
    lines += ["", *head("zone involved from", *heads, "of these caught", "direction right")]
    for threshold, found in folds.items():
        pairs = found["followup"]
        changes = pairs["caught"]["n"]
        counts = (round(pairs[name]["value"] * changes) for name in ("caught", "direction"))
        of_pairs = (f"{pairs['pairs']}", f"{pairs['limit']:.1f} zones", f"{changes}")
        lines.append(line(threshold.removeprefix("threshold"), *of_pairs, *map(str, counts)))
    return lines


def real_lungs() -> list[str]:
    """Dice of each network of the shipped segmenter on real films that train nothing."""
    found = real_metrics("segmenter")["by_dataset"]
    columns = []
    for dataset, networks in found.items():
        for domain, row in networks["unet_both"].items():
            columns.append((dataset, domain, row["dice"]["n"]))
    lines = head("network", *(f"{dataset}, {domain} ({n})" for dataset, domain, n in columns))
    for network in ("student", "direct", "unet_normal", "unet_both"):
        cells = [value_text(found[one][network][domain]["dice"], 3) for one, domain, _ in columns]
        lines.append(line(network, *cells))
    return lines


def unscored() -> list[str]:
    """What the severity model reads where nobody has scored."""
    against = "AUC against normal films of the source"
    lines = head("source", "diagnosis", "films", "mean score read", against)
    for row in real_metrics("severity")["unscored"]:
        area = value_text(row["auc"]) if "auc" in row else ""
        score = row["score"]
        name = row["diagnosis"].replace("_", " ")
        lines.append(f"| {row['dataset']} | {name} | {score['n']} | {value_text(score)} | {area} |")
    return lines


def usable() -> list[str]:
    """What `predict` calls unusable: tools/evaluate_usable.py."""
    lines = head("pictures", "n", "called unusable")
    for row in read_result("usable")["rows"]:
        lines.append(f"| {row['pictures']} | {row['n']} | {100 * row['unusable']:.1f} % |")
    return lines


def stored() -> list[str]:
    """Films stored in other ways, and what that changes: tools/invariance.py."""
    heads = ("stored as", "films", "class changed", "of these silent")
    lines = head(*heads, "largest change of a probability", "bar")
    for row in read_result("invariance")["rows"]:
        met = "" if row["met"] is None else f"{row['bar']:.0%}: {met_text(row['met'])}"
        changed = f"{row['changed']} ({row['share']:.1%})"
        cells = (row["variant"], str(row["images"]), changed, str(row["silent"]))
        change = f"{row['largest_probability']:.2f}"
        lines.append(line(*cells, change, met))
    return lines


def speed() -> list[str]:
    """Seconds that a film takes: benchmarks/predict.py."""
    found = read_json(ROOT / "docs" / "lab" / "predict.json")
    lines = head("maps", "films", "median, s", "worst, s", "of processor, s", "bar")
    for row in found["rows"]:
        met = f"{found['bar']:g} s: {met_text(row['median'] <= found['bar'])}"
        times = (f"{row[name]:.2f}" for name in ("median", "worst", "processor"))
        lines.append(line("yes" if row["maps"] else "no", str(row["images"]), *times, met))
    note = (
        f"Films of {found['side']} x {found['side']} px, models of {found['profile']}, on "
        f"{found['cores']} cores ({found['system']}), threads: {found['threads']}; processes that "
        f"ran there in the minute before: {found['other work']}. Loading took "
        f"{found['loading']:.0f} s."
    )
    return [*lines, "", note]


def sizes() -> list[str]:
    """Films at half and double the size, by source: tools/invariance.py --only size."""
    rows = pd.DataFrame(read_result("invariance_size")["rows"]).fillna({"source": "all"})
    variants = rows["variant"].unique()
    columns = []
    for name in variants:
        columns += [f"{name}: changed, silent", "mean, largest change"]
    lines = head("films", "n", *columns)
    for source, part in rows.groupby("source", sort=False):
        cells = [source, str(part["images"].iloc[0])]
        for row in part.to_dict("records"):
            bar = f": {met_text(row['met'])}" if source == "all" else ""
            cells.append(f"{row['changed']} ({row['share']:.1%}), {row['silent']}{bar}")
            cells.append(f"{row['mean_probability']:.3f}, {row['largest_probability']:.2f}")
        lines.append(line(*cells))
    return lines


def lungs_found() -> list[str]:
    """How often "lungs not found" is warned of: tools/evaluate_lungs.py."""
    lines = head("pictures", "n", "warned, %")
    for row in read_result("lungs_found")["rows"]:
        if "warned" in row:
            lines.append(f"| {row['pictures']} | {row['n']} | {100 * row['warned']:.0f} |")
    return lines


def calibration() -> list[str]:
    """How far the probabilities of the diagnosis are off, before and after the temperature."""
    lines = head("model", "films", "as trained", "calibrated")
    seeds = pd.DataFrame(read_result("seeds_diagnosis")["rows"])
    for view, rows in seeds.groupby("view", sort=False):
        cells = [spread(rows[name]) for name in ("ece", "ece_calibrated")]
        films = f"external hospitals, {len(rows)} seeds"
        lines.append(line(f"virtual hospitals, {view}", films, *cells))
    real = real_metrics("diagnosis")
    cells = [f"{real['test'][name]:.2f}" for name in ("ece", "ece_calibrated")]
    films = f"{real['images']['test']} of the test split"
    return [*lines, line("real films, PA and AP", films, *cells)]


def removal() -> list[str]:
    """Deletion, insertion and saturation on real films: tools/saliency_real.py."""
    found = read_result("saliency_real")
    table = pd.DataFrame(found["rows"]).set_index(["method", "criterion"])
    counts = table["n"].groupby("criterion").max()
    names = {"deletion": "less", "insertion": "more", "saturation": "less"}
    lines = head("method", *(f"{name} ({better} is better)" for name, better in names.items()))
    for method in dict.fromkeys(name for name, _ in table.index):
        cells = []
        for criterion in names:
            if (method, criterion) not in table.index:
                cells.append("")
                continue
            row = table.loc[(method, criterion)]
            word = row["ahead_conclusion"]
            text = triple_text(row[list(ENDS)].tolist(), 3)
            cells.append(text if pd.isna(word) else f"{text}, {word}")
        lines.append(line(method, *cells))
    saturated = int(counts.get("saturation", 0))
    return [
        f"{found['made']['films']} films; saturation: {saturated} of them with p of at least 0.9.",
        "",
        *lines,
    ]
