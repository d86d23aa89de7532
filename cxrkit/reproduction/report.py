"""The report: one printable HTML file with the ledger, every lesson's marked figures and every
metric of a profile.

Beside it lie the executed lessons as HTML, so that a number leads to the cell that made it.
"""

import re
import warnings
from itertools import groupby
from pathlib import Path

import jinja2
import nbformat
import pandas as pd

from cxrkit import NOTICE
from cxrkit.config import choices as choices_module
from cxrkit.config import profiles
from cxrkit.reproduction import ledger, results, runner
from cxrkit.storage import artifacts, atomic

LESSONS = {  # SPEC 4: those that are missing are listed as not run
    "00_start_here": "What the kit is, the physics of a radiograph, the virtual hospitals",
    "01_preprocessing": "Equalise, blur, normalise, resize",
    "02_backbone": "Ten findings with DenseNet-121 and PCAM",
    "03_segmentation": "Lungs with AdaIN codes",
    "04_corpus_vit": "The transformer on the feature corpus: three diagnoses",
    "05_saliency": "Relevance that is exact, and its rivals in court",
    "06_severity": "The severity map, six zones, a score of 0 to 6",
    "07_ablations": "Which choice moves the result, and by how much",
    "08_shortcuts": "What a model learns when the hospital gives the answer away",
    "09_reading_room": "One patient at a time",
}


LONGEST = 40  # rows of a committed result that the page shows


def figures(notebook):
    """(caption, PNG in base64) of each picture in a cell tagged `report`; the caption is the last
    heading before it.
    """
    found, heading = [], ""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            heading = (re.findall(r"^#+ +(.*)", cell.source, re.M) or [heading])[-1]
        elif cell.cell_type == "code" and "report" in cell.metadata.get("tags", []):
            pictures = [
                output.data["image/png"]
                for output in cell.outputs
                if "image/png" in output.get("data", {})
            ]
            found += [(heading, "".join(picture.split())) for picture in pictures]
    return found


def lesson(name, title, folder, root):
    """What the report says of one lesson: status "ran", "failed" or "not run", costs, link and
    figures.
    """
    path, record, failed = (
        folder / f"{name}.ipynb",
        folder / f"{name}.json",
        folder / f"{name}.failed.ipynb",
    )
    entry = {
        "name": name,
        "title": title,
        "status": "failed" if failed.exists() else "not run",
        "figures": [],
        "link": None,
    }
    if failed.exists():
        return entry | {"link": failed.relative_to(root).as_posix()}
    if not (path.exists() and record.exists()):
        return entry
    notebook = nbformat.read(path, as_version=4)
    page = as_html(notebook, path).relative_to(root).as_posix()
    return (
        entry
        | atomic.read_json(record)
        | {
            "status": "ran",
            "link": page,
            "figures": figures(notebook),
            "cells": cells(notebook, page),
        }
    )


def as_html(notebook, path):
    """The executed lesson as one HTML file beside it, made again only when the lesson is newer;
    nothing is fetched to show it.
    """
    page = path.with_suffix(".html")
    if not page.exists() or page.stat().st_mtime < path.stat().st_mtime:
        from nbconvert import HTMLExporter  # a second to import

        nowhere = dict.fromkeys(
            (
                "require_js_url",
                "mathjax_url",
                "jquery_url",
                "html_manager_semver_range",
                "widget_renderer_url",
            ),
            "",
        )
        atomic.write_atomic(
            page, HTMLExporter(template_name="lab", **nowhere).from_notebook_node(notebook)[0]
        )
    return page


def cells(notebook, page):
    """Where in a lesson's page each stage is made, and its first marked figure: {stage or "figure":
    link}.
    """
    found, codes = {}, [cell for cell in notebook.cells if cell.cell_type == "code"]
    for cell in codes[::-1]:  # the first of several counts
        found |= {
            stage: cell.id for stage, (_, call) in ledger.PLACES.items() if call in cell.source
        }
        found |= {"figure": cell.id} if "report" in cell.metadata.get("tags", []) else {}
    return {what: f"{page}#cell-id={name}" for what, name in found.items()}


def lessons(folder, root):
    """One entry a lesson of the kit, in order, and of any other that has a source or was run."""
    outputs = {path.name.split(".")[0] for path in folder.glob("[0-9][0-9]_*.ipynb")}
    names = outputs | {path.stem for path in runner.sources()}
    titles = LESSONS | dict.fromkeys(names - set(LESSONS), "")
    return [lesson(name, title, folder, root) for name, title in sorted(titles.items())]


def origins(entries):
    """{fact: the values over all lessons that ran}, so that a mixture of commits or machines is
    seen.
    """
    facts = {}
    for entry in entries:
        for name, value in entry.get("provenance", {}).items():
            if str(value) not in facts.setdefault(name, []):
                facts[name].append(str(value))
    dates = sorted(facts.get("date", []))
    return facts | ({"date": [dates[0], dates[-1]] if len(dates) > 1 else dates} if dates else {})


def number(value):
    """A metric for print: three decimals for a float, thousands marked for a count, NaN and None
    said in words.
    """
    if value is None or value != value:
        return "undefined"
    if isinstance(value, float):
        return f"{value:.3f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def link_of(entries, lesson, what):
    """Link into the page of a lesson that ran, at the cell of a stage, or at the top; None where it
    has not run.
    """
    found = next(
        (entry for entry in entries if entry["name"] == lesson and entry["status"] == "ran"), None
    )
    return found and found["cells"].get(what, found["link"])


def brief(value):
    """A value of a result for print: `number`, a blank for what is not known, no pretence of many
    digits.
    """
    return "" if value is None or value != value else number(value)


def counted(profile, root, data):
    """Tables 1 to 3 for our data; none where the films are not there."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that labels are missing shows in the table
        try:
            return ledger.datasets(profile, artifacts.Store(root, data))
        except FileNotFoundError:
            return {}


def choices(profile):
    """Every question that the paper leaves open: what it asks, the value of this run, the others,
    and what the change did where that was measured.
    """
    rows, measured = [], effects()
    for name, (question, known) in choices_module.OPEN_CHOICES.items():
        value = getattr(profile.choices, name)
        others = [
            {"value": text, "effect": measured.get(f"{name}={other}", "")}
            for other, text in known.items()
            if other != value
        ]
        rows.append({"name": name, "question": question, "value": known[value], "others": others})
    return rows


def effects():
    """{"choice=value": what it changed, in words} from the committed grid (`tools/grid.py
    --choices`).
    """
    rows = results.read("grid")["rows"] if "grid" in results.names() else []
    return {
        row[
            "cell"
        ]: "{difference:+.3f} [{difference_low:+.3f}, {difference_high:+.3f}] {metric} ({profile}, "
        "seed {seed})".format(**row)
        for row in rows
        if row["table"] == "choices" and "difference" in row
    }


def long_runs():
    """The committed results of runs that no lesson repeats: list of dict name, made, table (first
    LONGEST rows), rows.
    """
    found = []
    for name in results.names():
        result = results.read(name)
        table = pd.DataFrame(result["rows"])
        found.append(
            {"name": name, "made": result["made"], "table": table.head(LONGEST), "rows": len(table)}
        )
    return found


def context(profile, root, data=None):
    """All that the page shows, as plain values."""
    entries, measured = (
        lessons(root / "runs" / profile.name, root),
        ledger.measurements(root, profile),
    )
    rows = [
        row
        | {"link": link_of(entries, row["lesson"], "figure" if row["picture"] else row["stage"])}
        for row in ledger.table(measured | ledger.sizes(profile))
    ]
    made = [
        stage | {"link": link_of(entries, stage["lesson"], stage["stage"])}
        for stage in ledger.made(root, profile)
    ]
    return {
        "notice": NOTICE,
        "profile": profile,
        "synthetic": profile.manifests == ("virtual",),
        "lessons": entries,
        "origins": origins(entries),
        "ledger": [
            (name, list(part)) for name, part in groupby(rows, key=lambda row: row["table"])
        ],
        "metrics": {k: ledger.flat(v) for k, v in measured.items()},
        "made": made,
        "datasets": counted(profile, root, data),
        "choices": choices(profile),
        "long_runs": long_runs(),
        "seconds": sum(entry.get("seconds", 0) for entry in entries),
        "missing": [entry["name"] for entry in entries if entry["status"] != "ran"],
    }


def render(values):
    """HTML text; every value is escaped."""
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    page = jinja2.Environment(
        loader=loader,
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page.filters |= {"number": number, "brief": brief}
    return page.get_template("report.html.j2").render(values)


def write(profile, root=None, data=None):
    """Write `<root>/report.html` for the profile of this name and return its path; data: the folder
    of real films, as in `Store`.

    Raises ValueError for an unknown profile.
    """
    root = Path(root).resolve() if root else artifacts.default_root()
    atomic.write_atomic(root / "report.html", render(context(profiles.get(profile), root, data)))
    return root / "report.html"
