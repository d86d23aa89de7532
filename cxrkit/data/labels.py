"""Labels: the one table of spellings, and the rules that turn what a source writes into our numbers
(section 4; SPEC 2.1).
"""

import re

import numpy as np
import pandas as pd

from cxrkit.config.vocabulary import COLUMNS, FINDINGS, VIEWS, known

# Kind -> our word -> the other spellings in use. Case, spaces and signs never matter: "AP Supine" =
# ap_supine.
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
        "bacterial viral fungal tuberculosis "
        "sars mers_cov influenza h1n1 varicella herpes streptococcus klebsiella legionella "
        "chlamydophila "
        "e_coli mycoplasma nocardia staphylococcus mrsa pneumocystis aspergillosis",
    },
    "finding": {
        **dict.fromkeys(FINDINGS, ""),
        "no_finding": "normal",
        "opacity": "lung_opacity",
        "pleural_effusion": "effusion",
        "support_device": "support_devices",
    },
}


def plain(text):
    """Spelling without case, spaces and signs: "AP Supine" -> "ap_supine"."""
    return re.sub(r"[^a-z0-9]+", "_", str(text).lower()).strip("_")


ALIASES = {
    kind: {
        spelling: ours or np.nan
        for ours, others in words.items()
        for spelling in (plain(ours), *others.split())
    }
    for kind, words in SPELLINGS.items()
}


def words(kind, column, extra=(), strict=True):
    """Column of spellings -> our words. Unknown ones stay (so that the check names them) or, if not
    strict, become NaN.
    """
    spellings = {**ALIASES[kind], **{plain(theirs): ours for theirs, ours in dict(extra).items()}}
    return column.map(
        {v: spellings.get(plain(v), v if strict else np.nan) for v in column.dropna().unique()}
    )


def diagnosis(rows, extra=(), from_findings=True):
    """Diagnosis column, else the first word of the findings that names one: "Edema|Pneumonia",
    "Pneumonia/Viral/SARS".
    """
    given = words("diagnosis", rows["diagnosis"], extra).astype(object)
    items = rows["findings"].dropna().str.split("|").explode().str.split("/").str[-1]
    first = words("diagnosis", items, extra, strict=False).groupby(level=0).first().astype(object)
    return given.fillna(first) if from_findings else given


def digits(rows, packed, columns):
    """Six zone values from their own columns, else from one text: "021100", "0,2,1,1,0,0", or
    "21100" with the zero lost.
    """
    text = rows[packed].dropna().str.replace(r"[^0-9]", "", regex=True).str.zfill(len(columns))
    # a wrong count is refused by the check
    text = text.where(text.str.len() == len(columns), "x" * len(columns))
    return rows[list(columns)].fillna(
        pd.DataFrame({c: text.str[i] for i, c in enumerate(columns)}, rows.index)
    )


def _given(rows, words_of, choices):
    """Columns under our own names: 0, 1, blank = unknown."""
    return rows[list(FINDINGS)]


def _named(rows, words_of, choices):
    """Our columns, and a list in our words ("edema|pleural effusion"): those named are 1, the
    others 0, a blank list unknown.

    Raises ValueError with file and row for a word that is no finding.
    """
    items = words("finding", rows["findings"].dropna().str.split("|").explode())
    for at in items.index[~items.isin(FINDINGS)][:1]:
        raise ValueError(
            f"{rows.at[at, '_file']}, row {rows.at[at, '_row']}, column findings: "
            f"{rows.at[at, 'findings']!r} "
            f"holds a word that is no finding; known: {', '.join(FINDINGS)}"
        )
    listed = pd.DataFrame({f: (items == f).groupby(level=0).any().astype(float) for f in FINDINGS})
    return rows[list(FINDINGS)].fillna(listed.reindex(rows.index))


def _listed(rows, words_of, choices):
    """A list in the source's words: 1 if any word of a finding is in it, else 0; NaN where the
    source has no word for it.
    """
    cells = {
        cell: {plain(word) for word in cell.split("|")}
        for cell in rows["findings"].dropna().unique()
    }
    table = {
        f: {
            cell: float(not inside.isdisjoint(map(plain, theirs))) for cell, inside in cells.items()
        }
        for f, theirs in words_of.items()
    }
    return pd.DataFrame({f: rows["findings"].map(table.get(f, {})) for f in FINDINGS}, rows.index)


# Choices.uncertain -> what a -1 of CheXpert becomes for a finding. A blank is 0 in every reading
# (author practice).
UNCERTAIN = {
    "mixed": lambda finding: 1.0 if finding in ("edema", "atelectasis") else 0.0,
    "ignore": lambda finding: np.nan,
    "zeros": lambda finding: 0.0,
    "ones": lambda finding: 1.0,
}


def _columns(rows, words_of, choices):
    """A column for each finding with 1, 0, -1 (uncertain) or blank, as CheXpert has them (Irvin et
    al. 2019).
    """
    uncertain = UNCERTAIN[known(choices.uncertain, UNCERTAIN, "reading of uncertain labels")]
    numbers = rows[list(FINDINGS)].fillna("0").replace({"1.0": 1.0, "1": 1.0, "0.0": 0.0, "0": 0.0})
    return pd.DataFrame(
        {f: numbers[f].replace({"-1.0": uncertain(f), "-1": uncertain(f)}) for f in FINDINGS}
    )


RULES = {None: _given, "named": _named, "listed": _listed, "columns": _columns}
