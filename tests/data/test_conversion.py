"""A hospital's table in its own form -> films.csv: what it says, writes, keeps and refuses."""

import re

import pytest
from click.testing import CliRunner

from cxrkit.cli import main
from cxrkit.data import conversion, manifests

GERMAN = (
    "\ufeff# export of the archive\r\n"
    "filename;Patient ID;view;visit;array;weight;lung opacity\r\n"
    "sub\\a.png;12;PA;01.03.2020 08:30;11000,0;50;1\r\n"
    ";;;;;;\r\n"
    'b.png;12;AP;04.03.2020 20:30;110000;50;"0,0"\r\n'
    "c.png;13;AP;;NA;50;\r\n"
)


def hospital(folder, text, name="films.csv"):
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(text.encode())
    return folder


def convert(folder, **options):
    said = []
    return conversion.convert(folder, say=said.append, **options), said


def test_a_german_export_becomes_ours(tmp_path):
    folder = hospital(tmp_path / "h", GERMAN)
    rows, said = convert(folder, columns={"path": "filename"}, lost_zeros=True)
    assert (folder / "films.csv").read_text() == (
        "path,patient_id,view,visit,array,opacity\n"
        "sub\\a.png,12,PA,0,011000,1\n"
        "b.png,12,AP,3.5,110000,0.0\n"
        "c.png,13,AP,,,\n"
    )
    assert (folder / "films_original.csv").read_bytes() == GERMAN.encode()
    assert sorted(path.name for path in folder.iterdir()) == ["films.csv", "films_original.csv"]
    assert said == [
        "read as utf-8 text with a semicolon between the columns",
        "left out: 1 lines that begin with #",
        "column 'filename' becomes path",
        "column 'Patient ID' becomes patient_id",
        "column 'weight' is left out",
        "column 'lung opacity' becomes opacity",
        "column opacity: 1 decimal commas, such as 0,0 = 0.0",
        "column visit: dates of the form %d.%m.%Y become days since the patient's first image",
        "column array: zeros put in front of 1 numbers",
        f"the table as it was is kept as {folder / 'films_original.csv'}",
        f"{folder / 'films.csv'}: 3 images of 2 patients",
    ]
    table = manifests.read_manifest("local", folder)
    assert table["visit"].dropna().tolist() == [0, 3.5] and table["rml"].dropna().tolist() == [1, 1]
    assert rows["_row"].tolist() == [3, 5, 6]


@pytest.mark.parametrize(
    "text, options, message",
    [
        ("filename;patient_id\na;p\n", {}, "no column 'path'; .*is 'filename' meant"),
        ("path;patient_id;array\na;p;11000\n", {}, "row 2, column array: '11000' is a number of f"),
        (
            "path,patient_id,array\na,p,011000\nb,q,11000\n",
            {"lost_zeros": True},
            "row 2 kept its zero in front, so the short cells .row 3. lack another digit",
        ),
        (
            "path,patient_id,visit\na,p,01/02/2020\nb,q,03/04/2020\n",
            {},
            "'01/02/2020' may be of the form %d/%m/%Y or %m/%d/%Y; give --dates",
        ),
        (
            "path,patient_id,visit\na,p,2020-03-01\nb,q,2020-03-02\nc,r,3\nd,r,first\n",
            {},
            "row 4, column visit: '3' is no date of the form %Y-%m-%d, .*\n.*row 5, .*'first'",
        ),
        ("path,patient_id,visit\na,p,1\nb,q,2\nc,r,2020-01-01\n", {}, "row 4, .* is no number, as"),
        ("path;patient_id;view\na;p;up\nb;q;down\n", {}, "row 2, column view: .*\n.*row 3, column"),
        ("path,patient_id\na,p\n", {"columns": {"pth": "x"}}, "unknown column 'pth'; is 'path' me"),
        ("path,patient_id\na,p\n", {"columns": {"view": "x"}}, "no column 'x'; it has"),
        ("path,file,patient_id\na,b,p\n", {}, "the columns .* all mean 'path'; keep one"),
    ],
)
def test_what_is_wrong_or_ambiguous_is_refused_and_nothing_changes(
    tmp_path, text, options, message
):
    folder = hospital(tmp_path / "h", text)
    with pytest.raises(ValueError, match=message):
        convert(folder, **options)
    assert [path.name for path in folder.iterdir()] == ["films.csv"]
    assert (folder / "films.csv").read_bytes() == text.encode()


def test_the_order_of_dates_can_be_given(tmp_path):
    text = "path,patient_id,visit\na,p,01/02/2020\nb,p,03/02/2020\n"
    for order, days in (("dmy", [0, 2]), ("mdy", [0, 60])):
        folder = hospital(tmp_path / order, text)
        convert(folder, dates=order)
        assert manifests.read_manifest("local", folder)["visit"].tolist() == days


def test_the_column_that_is_named_goes_before_one_called_so(tmp_path):
    folder = hospital(tmp_path / "h", "path,image,patient_id\n1,a.png,p\n")
    _, said = convert(folder, columns={"path": "image"})
    assert manifests.read_manifest("local", folder)["path"].tolist() == [str(folder / "a.png")]
    assert "column 'path' is left out" in said[1]


def test_nothing_is_overwritten(tmp_path):
    folder = hospital(tmp_path / "h", "path;patient_id\na;p\n")
    hospital(folder, "kept", "films_original.csv")
    with pytest.raises(FileExistsError, match="films_original.csv is there and is not overwritten"):
        convert(folder)
    other = hospital(tmp_path / "i", "path,patient_id\na,p\n")
    hospital(other, "path;patient_id\nb;q\n", "export.csv")
    with pytest.raises(FileExistsError, match="films.csv is there"):
        convert(other, table="export.csv")
    (other / "films.csv").unlink()
    convert(other, table="export.csv")
    assert sorted(path.name for path in other.iterdir()) == ["export.csv", "films.csv"]


def test_a_table_in_our_form_stays_equal(tmp_path):
    text = 'path,patient_id,findings,visit\n"a,b.png",0012,edema|pneumonia,3\nc,p,,\n'
    folder = hospital(tmp_path / "h", text)
    convert(folder)
    assert (folder / "films.csv").read_text() == text


def test_an_image_called_like_a_comment_stays_an_image(tmp_path):
    folder = hospital(tmp_path / "h", 'path;patient_id\n"#a";p\n')
    convert(folder)
    assert manifests.read_manifest("local", folder)["path"].tolist() == [str(folder / "#a")]


def test_the_command(tmp_path):
    folder = hospital(tmp_path / "h", GERMAN)
    arguments = ["data", "convert", str(folder), "--column", "path=filename"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 1 and re.search("row 3, column array: '11000,0'", result.stderr)
    result = CliRunner().invoke(main, [*arguments, "--lost-zeros"])
    assert result.exit_code == 0 and "3 images of 2 patients" in result.output
    result = CliRunner().invoke(main, ["data", "convert", str(folder), "--column", "path"])
    assert result.exit_code == 2 and "write OURS=THEIRS" in result.stderr
