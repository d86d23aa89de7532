"""The table of spellings, and the rules that turn what a source writes into our numbers.

Park et al. 2021, section 4; what the text leaves open is a field of `Choices` (SPEC 2.1).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
import pandas as pd

from cxrkit.config.choices import Choices
from cxrkit.config.vocabulary import COLUMNS, FINDINGS, VIEWS, known

# Kind -> our word -> the other spellings in use; case, spaces and signs do not matter:
# "AP Supine" = ap_supine.
SPELLINGS = {
    "column": {
        **dict.fromkeys((*COLUMNS, "array", "brixia", "brixia2"), ""),
        "path": "file",
        "site": "source",
        "diagnosis": "class3",
        "findings": "finding",
        "lung_mask": "mask",
        "opacity": "lung_opacity",
        "support_device": "support_devices",
        "pleural_effusion": "effusion",
    },
    "view": {
        **dict.fromkeys(VIEWS, ""),
        "PA": "posteroanterior",
        "AP": "ap_supine ap_erect anteroposterior",
        "L": "lateral",
        "other": "axial coronal",
        "": "frontal unknown",
    },  # "" = unknown
    "diagnosis": {
        "normal": "no_finding healthy",
        "covid19": "covid_19 covid_19_ards sars_cov_2",
        "other_infection": "pneumonia bacterial_pneumonia viral_pneumonia fungal_pneumonia "
        "bacterial viral fungal tuberculosis sars mers_cov influenza h1n1 varicella herpes "
        "streptococcus klebsiella legionella chlamydophila e_coli mycoplasma nocardia "
        "staphylococcus mrsa pneumocystis aspergillosis",
    },
    "finding": {
        **dict.fromkeys(FINDINGS, ""),
        "no_finding": "normal",
        "opacity": "lung_opacity",
        "pleural_effusion": "effusion",
        "support_device": "support_devices",
    },
}


def plain(text: object) -> str:
    """Spelling without case, spaces and signs: "AP Supine" -> "ap_supine"."""
    return re.sub(r"[^a-z0-9]+", "_", str(text).lower()).strip("_")


def _aliases(spellings: Mapping[str, str]) -> dict[str, str | float]:
    """Every spelling -> our word, NaN for "unknown"."""
    aliases = {}
    for ours, others in spellings.items():
        for spelling in (plain(ours), *others.split()):
            aliases[spelling] = ours or np.nan
    return aliases


ALIASES = {kind: _aliases(spellings) for kind, spellings in SPELLINGS.items()}


def standard_terms(
    kind: str, column: pd.Series, extra: Mapping[str, str] | None = None, strict: bool = True
) -> pd.Series:
    """A column of spellings -> our words.

    Args:
        kind: key of SPELLINGS.
        column: text, NaN unknown.
        extra: spellings of this source alone -> our words.
        strict: unknown spellings stay, so that the check names them; else they become NaN.
    """
    own = {plain(theirs): ours for theirs, ours in (extra or {}).items()}
    spellings = {**ALIASES[kind], **own}
    terms = {}
    for value in column.dropna().unique():
        terms[value] = spellings.get(plain(value), value if strict else np.nan)
    return column.map(terms)


def diagnosis(
    rows: pd.DataFrame, extra: Mapping[str, str] | None = None, from_findings: bool = True
) -> pd.Series:
    """The diagnosis of each row: of its column, else the first finding that names one.

    Args:
        rows: with `diagnosis` and `findings`, such as "Edema|Pneumonia" or "Pneumonia/Viral/SARS".
        extra: spellings of this source alone -> our words.
        from_findings: whether findings may name a diagnosis.
    """
    given = standard_terms("diagnosis", rows["diagnosis"], extra).astype(object)
    if not from_findings:
        return given
    items = rows["findings"].dropna().str.split("|").explode().str.split("/").str[-1]
    named = standard_terms("diagnosis", items, extra, strict=False)
    return given.fillna(named.groupby(level=0).first().astype(object))


def digits(rows: pd.DataFrame, packed: str, columns: tuple[str, ...]) -> pd.DataFrame:
    """Six zone values from their own columns, else from one text.

    Args:
        rows: raw rows.
        packed: column of the text: "021100", "0,2,1,1,0,0", or "21100" with the zero lost.
        columns: the six columns.
    """
    text = rows[packed].dropna().str.replace(r"[^0-9]", "", regex=True).str.zfill(len(columns))
    # a wrong count is refused by the check
    text = text.where(text.str.len() == len(columns), "x" * len(columns))
    unpacked = {column: text.str[i] for i, column in enumerate(columns)}
    return rows[list(columns)].fillna(pd.DataFrame(unpacked, rows.index))


def _given(rows: pd.DataFrame, words_of: Mapping[str, list[str]], choices: Choices) -> pd.DataFrame:
    """Columns under our own names: 0, 1, blank = unknown."""
    return rows[list(FINDINGS)]


def _named(rows: pd.DataFrame, words_of: Mapping[str, list[str]], choices: Choices) -> pd.DataFrame:
    """Our columns, and a list in our words ("edema|pleural effusion").

    Those named are 1, the others 0, a blank list unknown. Raises ValueError with file and row for a
    word that is no finding.
    """
    items = standard_terms("finding", rows["findings"].dropna().str.split("|").explode())
    wrong = items.index[~items.isin(FINDINGS)]
    if len(wrong):
        first = rows.loc[wrong[0]]
        raise ValueError(
            f"{first['_file']}, row {first['_row']}, column findings: {first['findings']!r} "
            f"holds a word that is no finding; known: {', '.join(FINDINGS)}"
        )
    listed = pd.DataFrame({f: (items == f).groupby(level=0).any().astype(float) for f in FINDINGS})
    return rows[list(FINDINGS)].fillna(listed.reindex(rows.index))


def _listed(
    rows: pd.DataFrame, words_of: Mapping[str, list[str]], choices: Choices
) -> pd.DataFrame:
    """A list in the source's words: 1 if any word of a finding is in it, else 0.

    NaN where the source has no word for a finding, or the list is blank.
    """
    cells = {}
    for cell in rows["findings"].dropna().unique():
        cells[cell] = {plain(word) for word in cell.split("|")}
    out = {}
    for finding in FINDINGS:
        theirs = {plain(word) for word in words_of.get(finding, ())}
        known_cells = cells if finding in words_of else {}
        values = {cell: float(not theirs.isdisjoint(words)) for cell, words in known_cells.items()}
        out[finding] = rows["findings"].map(values)
    return pd.DataFrame(out, rows.index)


# Choices.uncertain -> what a -1 of CheXpert becomes; a blank is 0 in all of them (author practice)
UNCERTAIN = {
    "mixed": {f: 1.0 if f in ("edema", "atelectasis") else 0.0 for f in FINDINGS},
    "ignore": dict.fromkeys(FINDINGS, np.nan),
    "zeros": dict.fromkeys(FINDINGS, 0.0),
    "ones": dict.fromkeys(FINDINGS, 1.0),
}


def _columns(
    rows: pd.DataFrame, words_of: Mapping[str, list[str]], choices: Choices
) -> pd.DataFrame:
    """A column for each finding with 1, 0, -1 (uncertain) or blank (Irvin et al. 2019)."""
    uncertain = UNCERTAIN[known(choices.uncertain, UNCERTAIN, "reading of uncertain labels")]
    numbers = rows[list(FINDINGS)].fillna("0").replace({"1.0": 1.0, "1": 1.0, "0.0": 0.0, "0": 0.0})
    out = {}
    for finding in FINDINGS:
        value = uncertain[finding]
        out[finding] = numbers[finding].replace({"-1.0": value, "-1": value})
    return pd.DataFrame(out)


# Manifest.rule -> raw rows, Manifest.findings, choices -> the columns FINDINGS
RULES = {None: _given, "named": _named, "listed": _listed, "columns": _columns}
