"""Report: one printable HTML file with the ledger, the figures and every metric of a profile.

It lies in the folder of the run. The executed lessons lie beside it as HTML, so that a number leads
to the cell that made it.
"""

from __future__ import annotations

import hashlib
import re
import warnings
from itertools import groupby
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
from nbformat import NotebookNode

from cxrkit import NOTICE
from cxrkit.config import profiles
from cxrkit.config.choices import OPEN_CHOICES
from cxrkit.config.sections import Profile
from cxrkit.config.settings_file import get_profile
from cxrkit.reproduction import claims, comparisons, dashboard, grid_rows, ledger, runner, templates
from cxrkit.storage import artifacts, atomic, locations, recorded

LESSONS = {  # SPEC 4: those that are missing are listed as not run
    "00_start_here": "What the kit is, the physics of a radiograph, the virtual hospitals",
    "01_preprocessing": "Equalise, blur, normalise, resize",
    "02_backbone": "Ten findings with DenseNet-121 and PCAM",
    "03_segmentation": "Lungs with AdaIN codes",
    "03b_attention": "Two marks on a grid: what positions and attention are needed for",
    "04_corpus_vit": "The transformer on the feature corpus: three diagnoses",
    "05_saliency": "Relevance that is exact, and a benchmark of saliency methods",
    "06_severity": "The severity map, six zones, a score of 0 to 6",
    "07_ablations": "Which choice moves the result, and by how much",
    "08_shortcuts": "What a model learns when the hospital reveals the answer",
    "09_reading_room": "One patient at a time",
}
LONGEST = 40  # rows of a recorded result that the page shows


# lessons


def lesson_entries(folder: Path) -> list[dict[str, Any]]:
    """What the report says of each lesson, in order.

    Args:
        folder: of the run.

    Returns:
        One entry for each lesson of the kit, and for any other that has a source or was run.
    """
    outputs = {path.name.split(".")[0] for path in folder.glob("[0-9][0-9]*_*.ipynb")}
    names = outputs | {path.stem for path in runner.lesson_sources()}
    titles = LESSONS | dict.fromkeys(names - set(LESSONS), "")
    return [lesson_entry(name, title, folder) for name, title in sorted(titles.items())]


def lesson_entry(name: str, title: str, folder: Path) -> dict[str, Any]:
    """What the report says of one lesson.

    Args:
        name: of its source.
        title: what it is about.
        folder: of the run.

    Returns:
        name, title, status ("ran", "failed" or "not run"), link, figures; of one that ran also its
        record, and `cells` (`stage_links`).
    """
    path, record = folder / f"{name}.ipynb", folder / f"{name}.json"
    failed = folder / f"{name}.failed.ipynb"
    entry = {"name": name, "title": title, "status": "not run", "figures": [], "link": None}
    if failed.exists():
        return entry | {"status": "failed", "link": failed.name}
    if not (path.exists() and record.exists()):
        return entry
    notebook = nbformat.read(path, as_version=4)
    page = as_html(notebook, path).name
    return {
        **entry,
        **atomic.read_json(record),
        "status": "ran",
        "link": page,
        "figures": marked_figures(notebook),
        "cells": stage_links(notebook, page),
    }


def marked_figures(notebook: NotebookNode) -> list[tuple[str, str]]:
    """Each picture in a cell tagged `report`.

    Args:
        notebook: executed.

    Returns:
        (caption, PNG in base64); the caption is the last heading before the picture.
    """
    found, heading = [], ""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            headings = re.findall(r"^#+ +(.*)", cell.source, re.M)
            heading = headings[-1] if headings else heading
        elif cell.cell_type == "code" and "report" in cell.metadata.get("tags", []):
            for output in cell.outputs:
                picture = output.get("data", {}).get("image/png")
                if picture:
                    found.append((heading, "".join(picture.split())))
    return found


def as_html(notebook: NotebookNode, path: Path) -> Path:
    """The executed lesson as one HTML file beside it, which fetches nothing to be shown.

    Args:
        notebook: executed.
        path: of the notebook.

    Returns:
        Path of the page; it is made again only where it is of another notebook.
    """
    page = path.with_suffix(".html")
    # clocks of two machines differ, so the page says which notebook it shows
    digest = hashlib.sha256(nbformat.writes(notebook).encode()).hexdigest()
    mark = f"<!-- notebook {digest} -->"
    if page.exists() and page.read_text("utf-8").endswith(mark):
        return page
    from nbconvert import HTMLExporter  # a second to import

    addresses = (
        "require_js_url",
        "mathjax_url",
        "jquery_url",
        "html_manager_semver_range",
        "widget_renderer_url",
    )
    exporter = HTMLExporter(template_name="lab", **dict.fromkeys(addresses, ""))
    text, _ = exporter.from_notebook_node(notebook)
    atomic.write_atomic(page, text + mark)
    return page


def stage_links(notebook: NotebookNode, page: str) -> dict[str, str]:
    """Where in the page of a lesson each stage is made, and where its first marked figure is.

    Args:
        notebook: executed.
        page: name of its page.

    Returns:
        Stage, or "figure" -> link.
    """
    found = {}
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        link = f"{page}#cell-id={cell.id}"
        for stage, (_, call) in ledger.LESSON_CALLS.items():
            if call in cell.source:
                found.setdefault(stage, link)  # the first of several counts
        if "report" in cell.metadata.get("tags", []):
            found.setdefault("figure", link)
    return found


def link_of(entries: list[dict[str, Any]], lesson: str, what: str) -> str | None:
    """Link into the page of a lesson.

    Args:
        entries: of `lesson_entries`.
        lesson: its name.
        what: a stage, or "figure".

    Returns:
        The link to that cell, or to the top where there is no such cell; None where the lesson has
        not run.
    """
    for entry in entries:
        if entry["name"] == lesson and entry["status"] == "ran":
            return entry["cells"].get(what, entry["link"])
    return None


def origins(entries: list[dict[str, Any]]) -> dict[str, list[str]]:
    """Where the numbers come from, so that a mixture of commits or machines is seen.

    Args:
        entries: of `lesson_entries`.

    Returns:
        Fact -> its values over all lessons that ran; of the dates the first and the last.
    """
    facts = {}
    for entry in entries:
        for name, value in entry.get("provenance", {}).items():
            values = facts.setdefault(name, [])
            if str(value) not in values:
                values.append(str(value))
    dates = sorted(facts.get("date", []))
    if len(dates) > 1:
        facts["date"] = [dates[0], dates[-1]]
    return facts


# numbers in print


def number(value: Any) -> str:
    """A metric for print: three decimals for a float, thousands marked for a count.

    NaN and None are "undefined".
    """
    if value is None or value != value:
        return "undefined"
    if isinstance(value, float):
        return f"{value:.3f}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value)


def gap_text(gap: list[float] | None) -> str:
    """A difference with its interval: "-0.066 [-0.085, -0.046]"; "" for none."""
    if gap is None:
        return ""
    value, low, high = gap
    return f"{value:+.3f} [{low:+.3f}, {high:+.3f}]"


def brief(value: Any) -> str:
    """A value of a recorded result for print: `number`, and a blank for what is not known."""
    return "" if value is None or value != value else number(value)


# the other parts of the page


def dataset_tables(profile: Profile, root: Path, data: Path | None) -> dict[str, pd.DataFrame]:
    """Tables 1 to 3 for our data; none where the images are not there."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that labels are missing shows in the table
        try:
            return ledger.dataset_tables(profile, artifacts.Store(root, data))
        except FileNotFoundError:
            return {}


def open_choice_rows(profile: Profile) -> list[dict[str, Any]]:
    """Every question that the paper leaves open.

    Args:
        profile: of the run.

    Returns:
        name, question, value of this run, and the others, each with what the change did, or "not
        measured".
    """
    rows, effects = [], choice_effects()
    for name, (question, known) in OPEN_CHOICES.items():
        value = profiles.choice_of(profile, name)
        others = []
        for other, text in known.items():
            if other != value:
                effect = effects.get(f"{name}={other}", "not measured")
                others.append({"value": text, "effect": effect})
        # `mini` starts its backbone from that of the virtual hospitals, which is no reading
        text = known.get(value, str(value))
        rows.append({"name": name, "question": question, "value": text, "others": others})
    return rows


def choice_effects() -> dict[str, str]:
    """What open choices changed, by the recorded grid (`tools/grid.py --choices`).

    Returns:
        "choice=value" -> the change in words.
    """
    if "grid" not in recorded.result_names():
        return {}
    text = (
        "{difference:+.3f} [{difference_low:+.3f}, {difference_high:+.3f}] {metric} ({profile}, "
        "seed {seed})"
    )
    effects = {}
    for row in recorded.read_result("grid")["rows"]:
        if row["table"] == "choices" and "difference" in row:
            effects[row["cell"]] = text.format(**row)
    return effects


def curve_rows(profile: Profile) -> list[dict[str, Any]]:
    """The trainings of the grid that kept their curve, of a profile.

    Args:
        profile: whose name the recorded rows bear.

    Returns:
        table, cell, stage, seed, svg, curve_of, and training: converged or not.
    """
    found = []
    for row in claims.recorded_grid():
        if row["profile"] != profile.name or not row.get("curve"):
            continue
        training = comparisons.CONVERGED if row["converged"] else comparisons.NOT_CONVERGED
        shown = {name: row[name] for name in ("table", "cell", "stage", "seed", "curve_of")}
        svg = dashboard.curve_svg(row["curve"])
        found.append(shown | {"svg": svg, "training": training})
    return found


def long_runs() -> list[dict[str, Any]]:
    """The recorded results of runs that no lesson repeats.

    Returns:
        name, made, table (the first LONGEST rows), and the number of rows of each.
    """
    found = []
    for name in recorded.result_names():
        result = recorded.read_result(name)
        table = pd.DataFrame(result["rows"]).drop(columns="curve", errors="ignore")
        found.append(
            {"name": name, "made": result["made"], "table": table.head(LONGEST), "rows": len(table)}
        )
    return found


# the page


def run_folder(profile: Profile, root: Path) -> Path:
    """The folder of a profile's run, which holds its lessons and its report."""
    return root / "runs" / profile.name


def context(profile: Profile, root: Path, data: Path | None = None) -> dict[str, Any]:
    """All that the page shows, as plain values.

    Args:
        profile: of the run.
        root: of the store.
        data: folder of the real images, as in `Store`.
    """
    entries = lesson_entries(run_folder(profile, root))
    measured = ledger.measurements(root, profile, data)
    store = artifacts.Store(root, data)
    counted = ledger.dataset_counts(profile, store) | ledger.readers(profile, store)
    rows, lines = [], claims.claims_table()
    for row in ledger.ledger_table(measured | ledger.model_sizes(profile) | counted):
        rows.append(row | {"link": link_of(entries, row["lesson"], row["stage"])})
    made = []
    for stage in ledger.finished_stages(root, profile, data):
        made.append(stage | {"link": link_of(entries, stage["lesson"], stage["stage"])})
    by_table = groupby(rows, key=lambda row: row["table"])
    return {
        "notice": NOTICE,
        "profile": profile,
        "synthetic": profile.manifests == ("virtual",),
        "lessons": entries,
        "origins": origins(entries),
        "claims": lines,
        "claim_notes": [*claims.claim_notes(lines), claims.compute_split()],
        "claim_legend": claims.claim_legend(),
        "grid_note": claims.grid_note(),
        "margins": comparisons.MARGINS,
        "ledger": [(name, list(part)) for name, part in by_table],
        "metrics": {stage: ledger.flatten(metrics) for stage, metrics in measured.items()},
        "made": made,
        "datasets": dataset_tables(profile, root, data),
        "choices": open_choice_rows(profile),
        "curves": curve_rows(profile),
        "flat": grid_rows.FLAT,
        "long_runs": long_runs(),
        "seconds": sum(entry.get("seconds", 0) for entry in entries),
        "missing": [entry["name"] for entry in entries if entry["status"] != "ran"],
    }


def render(values: dict[str, Any]) -> str:
    """The page as HTML text; every value is escaped."""
    filters = {"number": number, "brief": brief, "gap": gap_text}
    return templates.render("report.html.j2", values, filters)


def write_report(
    profile: str | Profile, root: Path | None = None, data: Path | None = None
) -> Path:
    """Write `<root>/runs/<name of the profile>/report.html`.

    Args:
        profile: a profile, its name, or the path of a settings file.
        root: of the store; default `locations.default_root()`.
        data: folder of the real images, as in `Store`.

    Returns:
        Path of the report.

    Raises:
        ValueError: the profile is unknown.
        OSError: the report cannot be written.
    """
    root = Path(root).resolve() if root else locations.default_root()
    asked = profile if isinstance(profile, Profile) else get_profile(profile)
    page = run_folder(asked, root) / "report.html"
    text = render(context(asked, root, data))
    page.parent.mkdir(parents=True, exist_ok=True)
    atomic.write_atomic(page, text)
    return page
