"""The table of spellings, and the rules that turn what a source writes into our numbers.

Park et al. 2021, section 4; what the text leaves open is a field of `Choices` (SPEC 2.1).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

import numpy as np
import pandas as pd

from cxrkit.config.choices import Choices
from cxrkit.config.vocabulary import COLUMNS, FINDINGS, PATIENT, SPLITS, VIEWS, known
from cxrkit.data.tables import Problems, nearest, to_numbers, without_blanks

# columns that hold the sum of six values, by which the six are checked -> what they are packed in
SUMS = {"array_sum": "array", "brixia_sum": "brixia", "brixia2_sum": "brixia2"}

# Kind -> our word -> the other spellings in use; case, spaces and signs do not matter:
# "AP Supine" = ap_supine.
SPELLINGS = {
    "column": {
        **dict.fromkeys((*COLUMNS, *PATIENT, "array", "brixia", "brixia2", *SUMS), ""),
        "path": "file",
        "site": "source",
        "diagnosis": "class3",
        "cause": "aetiology",
        "findings": "finding",
        "lung_mask": "mask",
        "opacity": "lung_opacity",
        "support_device": "support_devices",
        "pleural_effusion": "effusion",
        "brixia_sum": "brixiascoreglobal brixia_global",
    },
    "split": {**dict.fromkeys(SPLITS, ""), "train": "training", "val": "valid validation"},
    "view": {
        **dict.fromkeys(VIEWS, ""),
        "PA": "posteroanterior",
        "AP": "ap_supine ap_erect anteroposterior",
        "L": "lateral",
        "other": "axial coronal",
        "": "frontal unknown",
    },  # "" = unknown
    "sex": {"F": "female woman", "M": "male man", "": "unknown other o u"},
    "diagnosis": {
        "normal": "no_finding healthy",
        "covid19": "covid_19 covid_19_ards sars_cov_2",
        "other_infection": "pneumonia bacterial_pneumonia viral_pneumonia fungal_pneumonia "
        "bacterial viral fungal tuberculosis sars mers_cov influenza h1n1 varicella herpes "
        "streptococcus klebsiella legionella chlamydophila e_coli mycoplasma nocardia "
        "staphylococcus mrsa pneumocystis aspergillosis",
    },
    "cause": {
        "bacterial": "bacteria bacterial_pneumonia streptococcus klebsiella legionella "
        "chlamydophila e_coli mycoplasma nocardia staphylococcus mrsa",
        "tuberculosis": "tb ptb stb pulmonary_tuberculosis",
        "viral": "virus viral_pneumonia covid19 covid_19 covid_19_ards sars_cov_2 sars mers_cov "
        "influenza h1n1 varicella herpes",
        "fungal": "fungus fungal_pneumonia pneumocystis aspergillosis",
        "": "unspecified",
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


def cause(rows: pd.DataFrame, from_findings: bool = True) -> pd.Series:
    """What caused the infection: of its column, else of the diagnosis, else of the findings.

    Args:
        rows: with `cause`, `diagnosis` and `findings`, such as "Pneumonia/Viral/SARS".
        from_findings: whether findings may name a cause.
    """
    given = standard_terms("cause", rows["cause"]).astype(object)
    named = standard_terms("cause", rows["diagnosis"], strict=False)
    given = given.fillna(named.astype(object))
    if not from_findings:
        return given
    # the last word of a path is the nearest: tuberculosis of "Pneumonia/Bacterial/Tuberculosis"
    items = rows["findings"].dropna().str.split("|").explode().str.split("/").explode()
    named = standard_terms("cause", items, strict=False).dropna()
    return given.fillna(named.groupby(level=0).last().astype(object))


AGE = r"0*(\d+(?:\.\d+)?)\s*(y|yrs?|years?|m|months?|w|weeks?|d|days?)?"
PER_YEAR = {"y": 1.0, "m": 12.0, "w": 52.1775, "d": 365.25}  # units of an age in a year


def age(column: pd.Series) -> pd.Series:
    """Ages in years of text such as 60, 060Y or 18 months; NaN where unknown or no age.

    Args:
        column: text or numbers, NaN unknown.
    """
    parts = column.astype(str).str.strip().str.lower().str.extract(f"^{AGE}$")
    unit = parts[1].fillna("y").str[0].map(PER_YEAR)
    return pd.to_numeric(parts[0]) / unit


# what people write above a column -> the columns of ours that they may mean; none is taken unasked
MEANT = {
    "path": "filename file_name filepath file_path image image_path image_id img picture dicom",
    "patient_id": "patient patientid subject subject_id case case_id pid id mrn participant",
    "view": "view_position viewposition projection position",
    "site": "hospital institution centre center clinic",
    "diagnosis": "label class disease dx target category",
    "findings": "finding_labels labels pathology pathologies report_labels",
    "sex": "gender patient_sex patient_gender",
    "age": "patient_age years",
    "visit": "date study_date studydate acquisition_date exam_date day offset time follow_up",
    "split": "set fold subset partition",
    "lung_mask": "lung lungs lung_segmentation",
    "lesion_mask": "lesion lesions lesion_segmentation",
    "brixia": "brixia_score brixiascore score",
    "array": "severity_array zones severity",
}


def meant(column: str, columns: Collection[str]) -> str:
    """Which column of ours a name may stand for: "; is 'path' meant?", or blank.

    Args:
        column: as the table has it.
        columns: names of ours that are possible.
    """
    for ours, theirs in MEANT.items():
        if ours in columns and plain(column) in theirs.split():
            return f"; is {ours!r} meant?"
    return nearest(plain(column), columns)


SIX = "six digits as text, such as 021100"
LOST = f"is a number of fewer than six digits: zeros in front may be lost; write {SIX}"


def digits(
    rows: pd.DataFrame, packed: str, columns: tuple[str, ...], problems: Problems
) -> pd.DataFrame:
    """Six zone values from their own columns, else from one text.

    A text is six digits, "0,2,1,1,0,0", or a number of six digits. Of a number with fewer, such as
    the 21100.0 that pandas and Excel make of 021100, leading zeros may be lost, or a digit was
    left out: it is refused, unless the table's own sum of the six agrees with it.

    Args:
        rows: raw rows, with the sum of the six in <packed>_sum, NaN unknown.
        packed: column of the text.
        columns: the six columns.
        problems: gathers what cannot be read.
    """
    total = to_numbers(rows[f"{packed}_sum"])
    six, short, odd = {}, {}, {}
    for row, text in rows[packed].dropna().items():
        found, whole_number = six_digits(str(text))
        if len(found) == len(columns):
            six[row] = found
        elif found and whole_number and total[row] == sum(map(int, found)):
            six[row] = found.zfill(len(columns))
        else:
            (short if found and len(found) < len(columns) else odd)[row] = text
    problems.add(rows, rows.index.isin(list(short)), packed, LOST)
    problems.add(rows, rows.index.isin(list(odd)), packed, f"holds no six digits; write {SIX}")
    text = pd.Series(six, dtype=object).reindex(rows.index)
    unpacked = {column: text.str[i] for i, column in enumerate(columns)}
    values = rows[list(columns)].fillna(pd.DataFrame(unpacked, rows.index))
    _compare_sums(rows, packed, values, problems)
    return values


def six_digits(text: str) -> tuple[str, bool]:
    """The digits of a text of zones, and whether the text is one whole number.

    "021100" and "21100.0" are whole numbers; "0,2,1,1,0,0" and "[0. 2. 1. 1. 0. 0.]" are digits one
    by one. Blank digits = neither; so is "1.1E+05", which may have been 110011.
    """
    text = text.strip().strip("'\"[](){}").strip()
    number = re.fullmatch(r"(\d+)([.,]0*)?", text)
    if number:
        return number[1], True
    items = re.split(r"\s*[,;/|_-]\s*|\s+", text)
    if len(items) == 6 and all(re.fullmatch(r"\d(\.0*)?", item) for item in items):
        return "".join(item[0] for item in items), False
    return "", False


def _compare_sums(
    rows: pd.DataFrame, packed: str, values: pd.DataFrame, problems: Problems
) -> None:
    """Note rows whose six values do not have the sum that the table states."""
    column = f"{packed}_sum"
    stated, numbers = to_numbers(rows[column]), values.apply(to_numbers)
    problems.add(rows, rows[column].notna() & stated.isna(), column, "is no number")
    sums = numbers.sum(axis=1).where(numbers.notna().all(axis=1))
    wrong = (stated - sums).abs() > 0.001
    for row in rows.index[wrong]:
        problems.say(
            rows["_file"][row],
            rows["_row"][row],
            f"column {column}: {rows[column][row]!r} is not the sum of the six values, "
            f"{sums[row]:.0f}",
        )


# by themselves, not by `plain`, which would take -1 for 1
FLAGS = {
    **dict.fromkeys("true yes y t positive pos present".split(), "1"),
    **dict.fromkeys("false no n f negative neg absent".split(), "0"),
}


def flags(rows: pd.DataFrame) -> pd.DataFrame:
    """The findings columns with yes, no, true, false ... as 1 and 0; the rest stays."""

    def flag(value: object) -> object:
        return FLAGS.get(str(value).casefold(), value)

    return rows[list(FINDINGS)].apply(lambda column: column.map(flag, na_action="ignore"))


def _given(
    rows: pd.DataFrame, words_of: Mapping[str, list[str]], choices: Choices, problems: Problems
) -> pd.DataFrame:
    """Columns under our own names: 0, 1, blank = unknown."""
    return flags(rows)


def _named(
    rows: pd.DataFrame, words_of: Mapping[str, list[str]], choices: Choices, problems: Problems
) -> pd.DataFrame:
    """Our columns, and a list in our words ("edema|pleural effusion").

    Those named are 1, the others 0, a blank list unknown. Noted: a word that is no finding, and
    "none", which may mean that nothing is known or that nothing was found.
    """
    listed = rows["findings"]
    nothing = listed.map(lambda text: plain(text) in ("none", "nil"), na_action="ignore").eq(True)
    problems.add(
        rows, nothing, "findings", "may mean unknown (leave it blank) or healthy (no_finding)"
    )
    listed = without_blanks(listed.mask(nothing, np.nan))
    items = standard_terms("finding", listed.dropna().str.split("|").explode())
    wrong = items[~items.isin(FINDINGS)]
    problems.add(
        rows,
        pd.Series(rows.index.isin(wrong.index), rows.index),
        "findings",
        "holds a word that is no finding; names are joined by |; known: " + ", ".join(FINDINGS),
    )
    found = {f: (items == f).groupby(level=0).any().astype(float) for f in FINDINGS}
    return flags(rows).fillna(pd.DataFrame(found).reindex(rows.index))


def _listed(
    rows: pd.DataFrame, words_of: Mapping[str, list[str]], choices: Choices, problems: Problems
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
    rows: pd.DataFrame, words_of: Mapping[str, list[str]], choices: Choices, problems: Problems
) -> pd.DataFrame:
    """A column for each finding with 1, 0, -1 (uncertain) or blank (Irvin et al. 2019)."""
    uncertain = UNCERTAIN[known(choices.uncertain, UNCERTAIN, "reading of uncertain labels")]
    out = {}
    for finding in FINDINGS:
        numbers = to_numbers(rows[finding])
        # what is no number stays, so that the check names it
        values = numbers.astype(object).fillna(rows[finding]).fillna(0.0)
        out[finding] = values.mask(numbers.eq(-1), uncertain[finding])
    return pd.DataFrame(out)


# Manifest.rule -> raw rows, Manifest.findings, choices, problems -> the columns FINDINGS
RULES = {None: _given, "named": _named, "listed": _listed, "columns": _columns}
