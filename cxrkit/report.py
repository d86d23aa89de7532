"""The report: one printable HTML file with the ledger, every lesson's marked figures and every metric of a profile."""

import re
from itertools import groupby
from pathlib import Path

import jinja2
import nbformat

from cxrkit import NOTICE, artifacts, ledger, notebooks, profiles

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


def figures(notebook):
    """(caption, PNG in base64) of each picture in a cell tagged `report`; the caption is the last heading before it."""
    found, heading = [], ""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            heading = (re.findall(r"^#+ +(.*)", cell.source, re.M) or [heading])[-1]
        elif cell.cell_type == "code" and "report" in cell.metadata.get("tags", []):
            pictures = [output.data["image/png"] for output in cell.outputs if "image/png" in output.get("data", {})]
            found += [(heading, "".join(picture.split())) for picture in pictures]
    return found


def lesson(name, title, folder, root):
    """What the report says of one lesson: status "ran", "failed" or "not run", costs, link and figures."""
    path, record, failed = folder / f"{name}.ipynb", folder / f"{name}.json", folder / f"{name}.failed.ipynb"
    entry = {"name": name, "title": title, "status": "failed" if failed.exists() else "not run", "figures": [], "link": None}
    if failed.exists():
        return entry | {"link": failed.relative_to(root).as_posix()}
    if not (path.exists() and record.exists()):
        return entry
    notebook = nbformat.read(path, as_version=4)
    return entry | artifacts.read_json(record) | {"status": "ran", "link": path.relative_to(root).as_posix(),
                                                  "figures": figures(notebook)}


def lessons(folder, root):
    """One entry a lesson of the kit, in order, and of any other that has a source or was run."""
    outputs = {path.name.split(".")[0] for path in folder.glob("[0-9][0-9]_*.ipynb")}
    names = outputs | {path.stem for path in notebooks.sources()}
    titles = LESSONS | dict.fromkeys(names - set(LESSONS), "")
    return [lesson(name, title, folder, root) for name, title in sorted(titles.items())]


def origins(entries):
    """{fact: the values over all lessons that ran}, so that a mixture of commits or machines is seen."""
    facts = {}
    for entry in entries:
        for name, value in entry.get("provenance", {}).items():
            if str(value) not in facts.setdefault(name, []):
                facts[name].append(str(value))
    dates = sorted(facts.get("date", []))
    return facts | ({"date": [dates[0], dates[-1]] if len(dates) > 1 else dates} if dates else {})


def number(value):
    """A metric for print: three decimals for a float, thousands marked for a count, NaN and None said in words."""
    if value is None or value != value:
        return "undefined"
    if isinstance(value, float):
        return f"{value:.3f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def context(profile, root):
    """All that the page shows, as plain values."""
    entries, measured = lessons(root / "runs" / profile.name, root), ledger.measurements(root, profile)
    tables = [(name, list(rows)) for name, rows in groupby(ledger.table(measured), key=lambda row: row["table"])]
    return {"notice": NOTICE, "profile": profile, "synthetic": profile.manifests == ("virtual",), "lessons": entries,
            "origins": origins(entries), "ledger": tables, "metrics": {k: ledger.flat(v) for k, v in measured.items()},
            "seconds": sum(entry.get("seconds", 0) for entry in entries),
            "missing": [entry["name"] for entry in entries if entry["status"] != "ran"]}


def render(values):
    """HTML text; every value is escaped."""
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    page = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
                              lstrip_blocks=True)
    page.filters["number"] = number
    return page.get_template("report.html.j2").render(values)


def write(profile, root=None):
    """Write `<root>/report.html` for the profile of this name and return its path. Raises ValueError for an unknown profile."""
    root = Path(root).resolve() if root else artifacts.default_root()
    artifacts.write_atomic(root / "report.html", render(context(profiles.get(profile), root)))
    return root / "report.html"
