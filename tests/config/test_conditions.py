"""Conditions of a settings file: what pandas makes of them, without running what stands in them."""

import numpy as np
import pandas as pd
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxrkit.config import conditions, profiles
from cxrkit.config.sections import Segmenter

TABLE = pd.DataFrame(
    {
        "diagnosis": ["normal", "covid19", "other_infection", None, "normal"],
        "lung_mask": [None, "a.png", "b.png", "c.png", None],
        "brixia": [0.0, 3.0, 12.0, np.nan, np.nan],
        "zones": [0.0, 4.0, 6.0, 2.0, np.nan],
    }
)


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("diagnosis == 'normal'", [0, 4]),
        ("diagnosis != 'normal' and zones >= 4", [1, 2]),
        ("lung_mask.notna() and (diagnosis == 'normal' or brixia <= 3)", [1]),
        ("diagnosis in ('other_infection', 'covid19')", [1, 2]),
        ("not diagnosis in ['covid19'] and (zones > -1)", [0, 2, 3]),
        ("0 < brixia < 12 or brixia.isna()", [1, 3, 4]),
        ("zones > brixia", [1]),
        ("  zones not in (4, 6.0)\n", [0, 3, 4]),
    ],
)
def test_by_hand(text, rows):
    assert np.flatnonzero(conditions.parse(text)(TABLE)).tolist() == rows


NUMBER = st.sampled_from(["brixia", "zones"])
WORD = st.sampled_from(["diagnosis", "lung_mask"])
SIMPLE = st.one_of(
    st.builds(
        "{} {} {}".format,
        NUMBER,
        st.sampled_from(["==", "!=", "<", "<=", ">", ">="]),
        st.sampled_from(["0", "3", "-1", "4.5", "zones"]),
    ),
    st.builds("{} {} 'normal'".format, WORD, st.sampled_from(["==", "!="])),
    st.builds("{} {} ('normal', 'covid19')".format, WORD, st.sampled_from(["in", "not in"])),
    st.builds("{}.{}()".format, WORD | NUMBER, st.sampled_from(["notna", "isna"])),
)
ANY = st.recursive(
    SIMPLE,
    lambda inner: st.one_of(
        st.builds("({}) {} ({})".format, inner, st.sampled_from(["and", "or"]), inner),
        st.builds("not ({})".format, inner),
    ),
    max_leaves=6,
)


@settings(max_examples=60, deadline=None, database=None)
@given(ANY)
def test_the_rows_are_those_of_pandas(text):
    found = conditions.parse(text)(TABLE)
    assert found.tolist() == TABLE.eval(text, engine="python").astype(bool).tolist()


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('x')",
        "diagnosis.map(print)",
        "diagnosis.notna(axis=0)",
        "@x == 1",
        "zones",
        "zones + 1",
        "zones = 1",
        "zones == brixia + 1",
        "zones is None",
        "diagnosis in diagnosis",
        "'a' == 'a'",
        "(lambda: 1)()",
        "[x for x in zones]",
        "diagnosis == 'normal' & zones == 0",
        "zones ==",
        "",
        "not " * 400 + "zones == 1",
        "(" * 300 + "zones == 1" + ")" * 300,
        "zones == 1 or " * 200 + "zones == 1",
    ],
)
def test_what_is_no_condition_is_refused_with_the_setting(text):
    with pytest.raises(ValueError, match=r"^segmenter.normal: .* is no condition: "):
        conditions.parse(text, "segmenter.normal")


def test_a_missing_column_and_a_wrong_kind_are_named():
    with pytest.raises(ValueError, match="segmenter.normal: .* asks for the column 'brixa'"):
        conditions.parse("brixa <= 3", "segmenter.normal")(TABLE)
    with pytest.raises(ValueError, match="segmenter.normal: .* does not fit the columns"):
        conditions.parse("diagnosis <= 3", "segmenter.normal")(TABLE)


def test_a_profile_refuses_it_before_anything_runs():
    with pytest.raises(ValueError, match="segmenter.abnormal"):
        Segmenter(abnormal="__import__('os')")
    with pytest.raises(pydantic.ValidationError, match="segmenter.normal: .* no condition"):
        pydantic.TypeAdapter(Segmenter).validate_python({"normal": "open('x')"})


@pytest.mark.parametrize("name", ["demo", "mini", "paper"])
def test_every_profile_has_conditions(name):
    rules = profiles.get(name).segmenter
    assert all(conditions.parse(text) for text in (rules.normal, rules.abnormal))
