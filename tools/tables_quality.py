"""Tables of docs/predict.md on what the quality model warns of: tools/fit_quality_model.py."""

from typing import Any

import pandas as pd
from table_text import head, line

from cxrkit.storage.recorded import read_result

SOURCES = {  # datasets -> in words; those that the model has seen first
    "nih_cxr14": "NIH",
    "hannover": "Hannover",
    "kermany": "Kermany, large",
    "kermany_224": "Kermany, 224 px",
    "virtual": "virtual",
    "cohen": "**Cohen**",
    "cxnet": "**CXNet**",
    "nih_cxr14_multi": "**NIH, other patients**",
    "shenzhen": "**Shenzhen**",
}
FAULTS = ("inverted", "turned", "flipped", "cropped", "drawn", "tilted", "photographed")
FIXED = (  # changes that are the same for every film
    "turned by 10 degrees",
    "turned by 15 degrees",
    "photographed from a screen",
    "an arrow",
    "a banner of text",
)
SURROUND = "white surround"
SEEN = {"test": "test split", "foreign": "never"}
SHOWN = {"train": "yes, other examples", "new": "**no**"}  # pictures that are no film


def percent(share: float) -> str:
    """A share in percent, 100 without a decimal: "97.4", "100"."""
    text = f"{100 * share:.1f}"
    return "100" if text == "100.0" else text


def _rows() -> pd.DataFrame:
    return pd.DataFrame(read_result("quality_model")["rows"])


def warnings() -> list[str]:
    """Each fault of each source: hits, and alarms on untouched films."""
    rows = _rows()
    names = list(FAULTS)
    names[0] += ": hit / false"
    lines = head("films (n)", "seen", *names, "not frontal: false", "any: false")
    whole = rows[rows["change"].isna()].set_index(["films", "fault"])
    for source, name in SOURCES.items():
        part = whole.loc[source]
        cells = [_hits(part.loc[fault]) for fault in FAULTS]
        cells += [percent(part.loc[fault, "false_alarms"]) for fault in ("not_frontal", "any")]
        of_any = part.loc["any"]
        lines.append(line(f"{name} ({of_any['n']:.0f})", SEEN[of_any["seen"]], *cells))
    return lines


def _hits(row: Any) -> str:
    return f"{percent(row['hits'])} / {percent(row['false_alarms'])}"


def fixed_changes() -> list[str]:
    """Each fixed change: the warning that fits, and any new warning."""
    rows = _rows()
    rows = rows[rows["change"].isin([*FIXED, SURROUND])].set_index(["films", "change"])
    lines = head("films", *FIXED, f"{SURROUND}: called inverted")
    for source, name in SOURCES.items():
        cells = []
        for change in FIXED:
            row = rows.loc[(source, change)]
            cells.append(f"{percent(row['hits'])} / {percent(row['new_any'])}")
        inverted = rows.loc[(source, SURROUND), "new"]["inverted"]
        lines.append(line(name, *cells, percent(inverted)))
    return lines


def not_frontal() -> list[str]:
    """Pictures that are no frontal film."""
    rows = _rows()
    pictures = rows[(rows["fault"] == "not_frontal") & ~rows["films"].isin(SOURCES)]
    lines = head("pictures", "shown in training", "called so, %", "any warning of the network, %")
    for row in pictures.to_dict("records"):
        called, warned = percent(row["hits"]), percent(row["hits_any"])
        lines.append(line(row["films"], SHOWN[row["seen"]], called, warned))
    return lines


def out_of_range() -> list[str]:
    """Films that are called out of the training range, as they are and changed."""
    rows = _rows()
    rates = rows[rows["fault"] == "out of range"].set_index(["films", "change"])["rate"].unstack()
    counts = rows[rows["fault"] == "out of range"].groupby("films")["n"].first()
    changes = [name for name in rows["change"].dropna().unique() if name in rates.columns]
    lines = head("films (n)", *changes)
    for source, name in SOURCES.items():
        cells = [f"{100 * rates.loc[source, change]:.0f}" for change in changes]
        lines.append(line(f"{name} ({counts[source]})", *cells))
    return lines
