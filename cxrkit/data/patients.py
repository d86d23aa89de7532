"""Codes of patients: two spellings of one patient must never fall into two splits."""

from __future__ import annotations

import re
import unicodedata
import warnings

import pandas as pd

from cxrkit.data.tables import SHOWN, Problems

# how a spreadsheet shows a long number, 1.23457E+12: its last digits are gone
CUT_NUMBER = re.compile(r"\d([.,]\d+)?[eE]\+\d+")


def key(code: str) -> str:
    """What is left of a code when spelling is taken away: 12, 12.0 and 0012 agree, P-1 and p_1 too.

    Case, spaces, kinds of hyphens, zeros in front of a number, and the ".0" that pandas adds do not
    matter.
    """
    text = unicodedata.normalize("NFKC", code).casefold()
    text = re.sub(r"[\s_\u2010-\u2015-]+", "-", text.strip())
    text = re.sub(r"^(\d+)[.,]0*$", r"\1", text)
    return re.sub(r"(?<!\d)0+(?=\d)", "", text)


def one_spelling(rows: pd.DataFrame, codes: pd.Series, problems: Problems) -> pd.Series:
    """Codes of patients or groups, with spellings of the same code made one, which is said.

    The shortest stands for all, the first in the alphabet of equals, so that the order of the rows
    does not matter; a code with one spelling stays.

    Args:
        rows: with `_file` and `_row`.
        codes: of the rows, NaN unknown.
        problems: gets the codes that a spreadsheet cut.
    """
    cut = codes.map(lambda code: bool(CUT_NUMBER.fullmatch(code)), na_action="ignore").eq(True)
    problems.add(rows, cut, "patient_id", "lost digits; export the column as text", codes)
    spellings = pd.Series(codes.dropna().unique(), dtype=object)
    keys = spellings.map(key)
    shared = keys.duplicated(keep=False)
    if not shared.any():
        return codes
    several = [
        sorted(same, key=lambda code: (len(code), code))
        for _, same in spellings[shared].groupby(keys[shared], sort=False)
    ]
    lines = [" = ".join(map(repr, same)) for same in several[:SHOWN]]
    more = f"; and {len(several) - SHOWN} more" * (len(several) > SHOWN)
    warnings.warn(
        f"{rows['_file'].iloc[0]}: patients in several spellings, each taken as one patient: "
        f"{'; '.join(lines)}{more}. Write one spelling",
        stacklevel=2,
    )
    return codes.replace({code: same[0] for same in several for code in same})
