"""The reader of tables: any dialect is read back equal, what is ambiguous is refused, every row is
known by the line on which it stands.
"""

import csv
import datetime
import io
import re
import time
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cxrkit.data import patients, tables
from cxrkit.data.tables import Problems, read_table, read_with_form

quick = settings(
    max_examples=60,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
NAMES = ("path", "patient_id", "Finding Labels", "größe", "x")


def written(folder, content):
    path = folder / "table.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def cells(letters):
    """Texts that have no outer space and begin no comment."""
    return st.text(letters, max_size=8).filter(
        lambda text: text == tables._clean(text) and not text.startswith("#")
    )


# no carriage return by itself: the writer leaves it bare, and bare it ends a line
SIGNS = list("aZ019 ,;|\t\"'.#-_/\\\n=")
ANY = st.one_of(
    st.sampled_from(SIGNS),
    st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\ufeff"),
)
WESTERN = st.sampled_from([*SIGNS, *"äöüÄÖÜßéèç"])


@st.composite
def files(draw):
    """(bytes of a table in some dialect, its cells, the line of each row)."""
    encoding = draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32", "cp1252"]))
    separator = draw(st.sampled_from(tables.SEPARATORS))
    end = draw(st.sampled_from(["\n", "\r\n", "\r"]))
    quoting = (
        csv.QUOTE_ALL if end == "\r" else draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]))
    )
    width = draw(st.integers(2, len(NAMES)))
    text = cells(WESTERN if encoding == "cp1252" else ANY)
    first = text.filter(bool)
    rows = draw(st.lists(st.tuples(first, *[text] * (width - 1)), max_size=6))
    kept, lines = io.StringIO(newline=""), []
    writer = csv.writer(kept, delimiter=separator, lineterminator=end, quoting=quoting)
    if draw(st.booleans()):
        kept.write(f"sep={separator}{end}")
    kept.write(draw(st.sampled_from(["", end, f'# "made", by{end}'])))
    writer.writerow(NAMES[:width])
    for row in rows:
        kept.write(draw(st.sampled_from(["", end, separator * (width - 1) + end])))
        lines.append(len(re.findall("\r\n|\r|\n", kept.getvalue())) + 1)
        writer.writerow(row)
    kept.write(draw(st.sampled_from(["", end, 2 * (separator * (width - 1) + end)])))
    return kept.getvalue().encode(encoding), [NAMES[:width], *rows], lines


@quick
@given(files())
def test_any_dialect_is_read_back_equal(tmp_path, made):
    data, (header, *rows), lines = made
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Windows-1252
        table = read_table(written(tmp_path, data))
    assert table.columns.tolist() == [*header, "_file", "_row"]
    assert table[list(header)].fillna("").to_numpy().tolist() == [list(row) for row in rows]
    assert table["_row"].tolist() == lines


def outcome(path):
    """What reading a table gives: the table and its form, or the sentence; and what is said."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            table, form = read_with_form(path)
        except ValueError as error:
            return str(error), None, []
    return table, form, [str(warning.message) for warning in said]


LINE = st.lists(st.text([*"aZ0 .#=/\t'", "\xa0", "é"], max_size=4), min_size=1, max_size=4)
# most lines as wide as the first, so that many tables need no care
PLAIN = st.tuples(
    st.sampled_from(tables.SEPARATORS),
    st.lists(LINE, min_size=1, max_size=6),
    st.booleans(),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.sampled_from(["", "\n", "\r\n\n", " \n"]),
)


@quick
@given(PLAIN)
def test_a_plain_table_is_read_as_with_care(tmp_path_factory, made):
    separator, rows, even, end, tail = made
    if even:
        rows = [[*row, "", "", ""][: len(rows[0])] for row in rows]
    text = end.join(separator.join(row) for row in rows) + tail
    path = written(tmp_path_factory.mktemp("plain"), text)
    fast, form, said = outcome(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "_plain_columns", lambda *_: None)
        careful, careful_form, careful_said = outcome(path)
    if isinstance(careful, str):
        assert fast == careful
        return
    pd.testing.assert_frame_equal(fast, careful, check_exact=True)
    assert (form, said) == (careful_form, careful_said)


def test_what_is_plain_and_what_needs_care():
    plain = ["path,Follow-up #\r\n", " a.png , =1\r\n", ",\r\n", "b.png,\r\n", "\r\n"]
    rows, columns = tables._plain_columns(plain, ",")
    assert rows.tolist() == [1, 2, 4]  # line 3 is blank
    assert columns[0].tolist() == ["path", "a.png", "b.png"]
    assert columns[1][:2].tolist() == ["Follow-up #", "=1"] and pd.isna(columns[1][2])
    careful = (
        ["path,x\n", '"a",1\n'],
        ["path,x\n", "# a,1\n"],
        ["path,x\n", "\n", "a,1\n"],
        ["path,x\n", "a\n"],
        ["path\n", "a\n"],
        ["path,x\n", "a,\u200b\n"],
        ["path,x\n", f"{'a' * tables.LONGEST_CELL},1\n"],
        [],
    )
    assert all(tables._plain_columns(lines, ",") is None for lines in careful)


def test_a_table_of_many_rows_takes_no_time(tmp_path):
    """As wide as CheXpert's, a tenth as long: 0.2 s of processor time, with care 0.6 s."""
    row = "train/patient{i:05}/study1/view1_frontal.jpg,Female,68,Frontal,AP" + 14 * ",1.0"
    lines = [",".join(f"column {i}" for i in range(19)), *(row.format(i=i) for i in range(22_000))]
    path = written(tmp_path, "\n".join(lines))
    start = time.process_time()
    table = read_table(path)
    assert time.process_time() - start < 2
    assert table.shape == (22_000, 21) and table["column 0"].iloc[-1].startswith("train/patient21")


@quick
@given(st.binary(max_size=200))
def test_bytes_are_a_table_or_a_sentence(tmp_path, data):
    path = written(tmp_path, data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            table = read_table(path)
        except ValueError as error:
            assert str(error).startswith(str(path))
        else:
            assert "_row" in table


def test_forms_of_the_wild(tmp_path):
    """Hand-worked: Excel in German, text cells of Excel, quoted line breaks, short rows."""
    text = (
        "sep=;\r\n# from the archive\r\npath;id;note;;\r\n"
        'a.png;="0012";"two\r\n# lines";;\r\n;;;;\r\n\r\nb.png;13\r\n'
    )
    table, form = read_with_form(written(tmp_path, text))
    assert form == tables.Form("utf-8", ";", True, (2,))
    assert table[["path", "id", "note"]].fillna("?").to_numpy().tolist() == [
        ["a.png", "0012", "two\r\n# lines"],
        ["b.png", "13", "?"],
    ]
    assert table["_row"].tolist() == [4, 8]


def test_the_header_of_nih_ends_in_nothing(tmp_path):
    """The public file's header has a comma inside of a name, twice, and one at its end."""
    text = "Image Index,Original[Width,Height],Spacing[x,y],\n1.png,10,20,0.1,0.2,\n"
    table = read_table(written(tmp_path, text))
    assert table.columns.tolist()[:5] == [
        "Image Index",
        "Original[Width",
        "Height]",
        "Spacing[x",
        "y]",
    ]


def test_a_column_without_a_name_gets_its_number(tmp_path):
    """pandas writes its row numbers so; a blank one is that of a spreadsheet."""
    table = read_table(written(tmp_path, ",path,,id\n0,a,,1\n1,b,,2\n"))
    assert table.columns.tolist() == ["column 1", "path", "id", "_file", "_row"]


def test_utf_16_without_a_mark_is_seen_by_its_zeros(tmp_path):
    for encoding in ("utf-16-le", "utf-16-be"):
        table, form = read_with_form(written(tmp_path, "path\tid\nä.png\t1\n".encode(encoding)))
        assert table["path"].tolist() == ["ä.png"] and form.encoding == encoding


def test_windows_1252_is_said_with_an_example(tmp_path):
    with pytest.warns(UserWarning, match="read as Windows-1252 .*for example 'Müller.png'"):
        table = read_table(written(tmp_path, "path,id\nMüller.png,1\n".encode("cp1252")))
    assert table["path"].tolist() == ["Müller.png"]


def test_a_comment_among_the_rows_is_said(tmp_path):
    with pytest.warns(UserWarning, match=r"1 lines below .* \(row 3\); put quotes"):
        table = read_table(written(tmp_path, 'path,id\na,1\n#b,2\n"#c",3\n'))
    assert table["path"].tolist() == ["a", "#c"]


@pytest.mark.parametrize(
    "content, message",
    [
        ("", "it is empty"),
        ("\n ,,\n", "it has no header"),
        (b"PK\x03\x04zip", "an Excel workbook or a zip archive: save the sheet as CSV"),
        (b"<!DOCTYPE html>", "the download failed"),
        (b"\x1f\x8b12", "packed by gzip: unpack it"),
        ('a,b\n1,"2\n3,4\n', "the quotes of row 2 do not close"),
        ('a,b\n"x"y,2\n', "the quotes of row 2 do not close"),
        ("a,b\n1,2,3\n4,5\n6,7,8,9\n", "row 4, has 4 cells, the header 2: put"),
        ("a,b,a\n1,2,3\n", "two columns have the name 'a'"),
        ("a,b;c\n1,2;3\n", "separate its columns equally well; write sep=, as the first line"),
        ("a,b\nä,".encode() + b"\xfc\n", "row 2: .*mixes UTF-8 with another encoding"),
        (b"a,b\n1,\x81\n", "row 2: .*no cp1252 text; save it as CSV UTF-8"),
        (b"a,b\n1,2\x00\n", "it holds zero bytes"),
        ("a,b\n1,2\n".encode("utf-16")[:-1], "no utf-16-le text"),
    ],
)
def test_what_is_no_table_is_refused_with_the_reason(tmp_path, content, message):
    with pytest.raises(ValueError, match=message):
        read_table(written(tmp_path, content))


def test_the_given_separator_only_breaks_ties(tmp_path):
    path = written(tmp_path, "a,b;c\n1,2;3\n")
    assert read_table(path, ";").columns.tolist()[:2] == ["a,b", "c"]
    assert read_table(written(tmp_path, "a,b\n1,2\n"), ";").columns.tolist()[:2] == ["a", "b"]


def test_problems_are_said_together_the_first_twenty(tmp_path):
    table = read_table(written(tmp_path, "path,id\n" + "".join(f"{i},{i}\n" for i in range(30))))
    problems = Problems()
    problems.raise_if_any()
    problems.add(table, table["id"].astype(int) >= 5, "id", "is too large")
    problems.say(table["_file"][0], 4, "is odd")
    with pytest.raises(ValueError) as error:
        problems.raise_if_any()
    lines = str(error.value).splitlines()
    assert len(lines) == 21 and lines[20] == "and 6 more of 26 problems"
    assert lines[0].endswith("table.csv, row 4, is odd")
    assert lines[1].endswith("table.csv, row 7, column id: '5' is too large")


# cells


def test_words_for_nothing_are_blank():
    words = ["NA", "nan", "None", "-", "unknown", "n/a", "#N/A", "<NA>", " NULL ", "?", "0", "nano"]
    found = tables.without_blanks(pd.Series([*words, np.nan], dtype=object))
    assert found.dropna().tolist() == ["0", "nano"]
    kept = tables.without_blanks(pd.Series(["None", "NA"], dtype=object), keep=["none"])
    assert kept.dropna().tolist() == ["None"]


@pytest.mark.parametrize(
    "text, point, comma",
    [
        ("3", 3, 3),
        ("-1.5", -1.5, -1.5),
        ("1e2", 100, 100),
        ("1,5", None, 1.5),
        ("1,500", None, None),  # or 1500
        ("-0,25", None, -0.25),
        ("1.500,5", None, None),
        ("inf", None, None),
        ("1e400", None, None),
        ("day 3", None, None),
        ("2020-03-01", None, None),
    ],
)
def test_numbers(text, point, comma):
    column = pd.Series([text], dtype=object)
    for number, wanted in (
        (tables.to_numbers(column)[0], point),
        (tables.to_numbers(column, decimal_comma=True)[0], comma),
    ):
        assert np.isnan(number) if wanted is None else number == wanted


@settings(quick, max_examples=25)
@given(
    st.lists(
        st.datetimes(datetime.datetime(1990, 1, 1), datetime.datetime(2060, 1, 1)),
        min_size=1,
        max_size=4,
    ),
    st.sampled_from(list(tables.DATES)),
    st.sampled_from(["", " %H:%M", "T%H:%M:%S"]),
)
def test_dates_become_days_since_the_first(times, form, clock):
    """Against datetime, which wrote them."""
    texts = pd.Series([time.strftime(form + clock) for time in times], dtype=object)
    read = [datetime.datetime.strptime(text, form + clock) for text in texts]
    dates = tables.to_dates(texts, form)
    assert dates.tolist() == read
    forms = tables.date_forms(texts)
    assert any(tables.to_dates(texts, other).tolist() == read for other in forms)
    days = tables.days_since_first(dates, pd.Series(["p"] * len(times)))
    slow = [(time - min(read)).total_seconds() / 86400 for time in read]
    np.testing.assert_allclose(days, slow, atol=1e-9)


def test_dates_of_two_patients_and_what_is_none():
    texts = ["01.03.2020", "31.02.2020", "3.3.2020 24:00", "04.03.2020 12:00", None, "05.03.2020"]
    dates = tables.to_dates(pd.Series(texts, dtype=object), "%d.%m.%Y")
    assert dates.isna().tolist() == [False, True, True, False, True, False]
    days = tables.days_since_first(dates, pd.Series(["p", "p", "p", "p", "q", None]))
    np.testing.assert_equal(days.to_numpy(), [0, np.nan, np.nan, 3.5, np.nan, np.nan])
    both = pd.Series(["01/02/2020", "03/04/2020"], dtype=object)
    assert tables.date_forms(both) == ["%d/%m/%Y", "%m/%d/%Y"]
    assert tables.date_forms(pd.Series(["01/02/2020", "03/14/2020"])) == ["%m/%d/%Y"]
    assert tables.date_forms(pd.Series(["01/01/2020"])) == ["%d/%m/%Y"]  # both mean one day


def test_nearest():
    assert tables.nearest("diagnossis", ["diagnosis", "view"]) == "; is 'diagnosis' meant?"
    assert tables.nearest("pa", ["PA", "AP"]) == "; is 'PA' meant?"
    assert tables.nearest("gout", ["edema"]) == ""


# patients


SPELLINGS = [
    ("12", "12.0", "0012", " 12 ", "12,0", "１２"),
    ("P1", "p1", "P01", "p001"),
    ("P-1", "p_1", "P 1", "p–01"),
    ("Straße", "STRASSE"),
]


def one(codes):
    rows = pd.DataFrame({"_file": "t.csv", "_row": range(2, len(codes) + 2)})
    problems = Problems()
    return patients.one_spelling(rows, pd.Series(codes, dtype=object), problems), problems


@pytest.mark.parametrize("codes", SPELLINGS)
def test_spellings_of_one_patient_are_one(codes):
    with pytest.warns(UserWarning, match="each taken as one patient"):
        found = one(codes)[0]
        again = one(codes[::-1])[0]
    assert found.nunique() == 1 and found[0] == again[0]  # whatever the order of the rows


def test_other_patients_stay_as_they_are(recwarn):
    codes = ["12", "120", "1-2", "P12", "12P", "1.2", "p.1", "100", "0", None, "12-a", "12-b"]
    found, problems = one(codes)
    assert found.fillna("?").tolist() == [code or "?" for code in codes]
    assert not recwarn.list and not problems.found


def test_a_code_that_a_spreadsheet_cut_is_refused():
    _, problems = one(["1.23457E+12", "1,2E+05", "1E5", "E+5"])
    assert [row for _, row, _ in problems.found] == [2, 3]
