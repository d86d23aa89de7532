"""Write tables of results into the documents: python tools/update_readme.py [--check].

Every number was written by a command, to cxrkit/storage/recorded_results/*.json, to docs/lab/*.json
or to the metrics of an artifact that comes with the kit; this script only puts it between two
markers of a document. With --check it changes nothing and fails where a table is not what the JSON
says.
"""

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import pandas as pd
import tables_quality
import tables_real
import tables_virtual
from table_text import ROOT, head, line, spread

from cxrkit.config import profiles
from cxrkit.evaluation.summaries import value_text
from cxrkit.reproduction import claims, grid, runner
from cxrkit.storage.atomic import read_json
from cxrkit.storage.recorded import read_result

START = "<!-- {}: made by tools/update_readme.py -->"
END = "<!-- end of {} -->"
LOST = "not available"  # cells of the paper's tables that are lost


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
    first = "at hospitals that no training saw"
    lines = head(first, "paper", "virtual hospitals", "version", "made by")
    for label, paper, ours, study in rows():
        made = read_result(study)["made"]
        lines.append(line(label, paper, ours, f"{made['hospitals']}", f"`{made['command']}`"))
    return lines


def paper_claims() -> list[str]:
    """The paper's claims, and what holds here."""
    table = claims.claims_frame()
    lines = head(*table.columns)
    lines += [line(*row) for row in table.to_numpy().tolist()]
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
    return [
        *head("lesson", *(row["lesson"].split("_")[0] for row in rows)),
        line("GB", *(f"{row['peak_gb']:.2f}" for row in rows)),
        line("seconds", *(f"{row['seconds']:.0f}" for row in rows)),
    ]


def site_figures() -> list[str]:
    """Speed of the page without a server, and how far it departs from the package."""
    found = read_json(ROOT / "docs" / "lab" / "site.json")
    lines = head("measured", "found", "at most")
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
    measures = ("probability", "finding", "severity")
    lines = head("largest difference from", *measures, "least Dice of lungs")
    for part, name in SITE_SETS.items():
        if part not in found:
            continue
        worst = {"films": found["films"], **found[part]}
        values = [f"{worst[one]:.1g}" for one in measures]
        lines.append(line(name.format(**worst), *values, f"{worst['dice']:.4f}"))
    lines.append("| *at most* | 0.001 | 0.001 | 0.02 | 0.999 or more |")
    return lines


# (document, name of the markers) -> lines of the table
TABLES: dict[tuple[str, str], Callable[[], list[str]]] = {
    ("README.md", "results"): results,
    ("README.md", "claims"): paper_claims,
    ("README.md", "lessons"): lessons,
    ("docs/virtual_hospitals.md", "true tokens"): tables_virtual.true_tokens,
    ("docs/virtual_hospitals.md", "learnt corpus"): tables_virtual.learnt_corpus,
    ("docs/virtual_hospitals.md", "attention pays"): tables_virtual.attention_pays,
    ("docs/virtual_hospitals.md", "attention pays, corpus"): partial(
        tables_virtual.attention_pays, "attention_pays_corpus"
    ),
    ("docs/lungs.md", "real films"): tables_real.real_lungs,
    ("docs/lungs.md", "seeds"): tables_virtual.lungs_seeds,
    ("docs/lungs.md", "larger run"): tables_virtual.lungs_large,
    ("docs/mini.md", "minutes"): tables_real.mini_minutes,
    ("docs/mini.md", "bars"): tables_real.bars,
    ("docs/mini.md", "no disease"): tables_real.no_disease,
    ("docs/mini.md", "findings apart"): tables_real.findings_apart,
    ("docs/mini.md", "inside"): tables_real.inside_sources,
    ("docs/mini.md", "sources"): tables_real.real_films,
    ("docs/severity.md", "outlined films"): tables_real.real_lesions,
    ("docs/mini.md", "readers"): tables_real.readers,
    ("docs/mini.md", "unscored"): tables_real.unscored,
    ("docs/mini.md", "framings"): tables_real.framings,
    ("docs/teaching.md", "lessons"): lessons_table,
    ("docs/predict.md", "usable"): tables_real.usable,
    ("docs/predict.md", "speed"): tables_real.speed,
    ("docs/predict.md", "stored"): tables_real.stored,
    ("docs/predict.md", "sizes"): tables_real.sizes,
    ("docs/predict.md", "lungs found"): tables_real.lungs_found,
    ("docs/predict.md", "calibration"): tables_real.calibration,
    ("docs/predict.md", "warnings"): tables_quality.warnings,
    ("docs/predict.md", "fixed changes"): tables_quality.fixed_changes,
    ("docs/predict.md", "not frontal"): tables_quality.not_frontal,
    ("docs/predict.md", "out of range"): tables_quality.out_of_range,
    ("docs/site.md", "figures"): site_figures,
    ("docs/explain.md", "removal"): tables_real.removal,
    ("docs/explain.md", "pointing"): tables_virtual.pointing,
    ("docs/virtual_hospitals.md", "hospitals"): tables_virtual.hospitals,
    ("docs/virtual_hospitals.md", "baselines"): tables_virtual.baselines,
    ("docs/virtual_hospitals.md", "severity baselines"): partial(
        tables_virtual.baselines, grid.SEVERITY, ("Table 8", "Table 10")
    ),
    ("docs/virtual_hospitals.md", "ablations"): partial(
        tables_virtual.baselines, tables=("Table 9",)
    ),
    ("docs/mini.md", "ablations"): partial(
        tables_virtual.baselines, tables=("Table 7", "Table 9"), profile=profiles.mini()
    ),
    ("docs/virtual_hospitals.md", "learning rates"): tables_virtual.trial_rates,
    ("docs/virtual_hospitals.md", "doubled rows"): tables_virtual.doubled_rows,
    ("docs/virtual_hospitals.md", "severity search"): partial(
        tables_virtual.trial_rates, grid.SEVERITY
    ),
    ("docs/severity.md", "designs"): tables_virtual.severity_designs,
    ("docs/severity.md", "external hospitals"): tables_virtual.severity_external,
    ("docs/severity.md", "priors"): tables_virtual.severity_priors,
    ("docs/severity.md", "seeds"): tables_virtual.severity_seeds,
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
