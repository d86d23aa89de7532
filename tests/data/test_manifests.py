"""Manifests: the schema, the one reader on made-up files of every form, splits, leakage, and the
real films where they are.
"""

import json
import re
from typing import get_args

import numpy as np
import pandas as pd
import pytest

from cxrkit.config import paths, vocabulary
from cxrkit.config.choices import Choices
from cxrkit.data import labels, leakage, manifests, schema
from cxrkit.data.tables import Problems

PUBLIC = ("cohen", "cxnet", "hannover", "kermany", "kermany_224", "nih_cxr14", "nih_cxr14_64px")
LINE = "CheXpert-v1.0/train/patient{:05d}/study1/view1_frontal.jpg,Female,60,{},{},{}"
HEAD = (
    "Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Enlarged Cardiomediastinum,Cardiomegaly,Lung "
    "Opacity,Lung Lesion,Edema,"
    "Consolidation,Pneumonia,Atelectasis,Pneumothorax,Pleural Effusion,Pleural "
    "Other,Fracture,Support Devices"
)


def write(folder, name, text, newline="\n", bom=False):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(
        (b"\xef\xbb\xbf" if bom else b"") + text.replace("\n", newline).encode()
    )


def chexpert(folder, **form):
    """All cases of a CheXpert cell (1, 0, -1, blank) in every finding; the last three rows are
    views.
    """
    views = [("Frontal", "AP")] * 3 + [
        ("Frontal", "PA"),
        ("Lateral", ""),
        ("Frontal", "LL"),
        ("Frontal", ""),
    ]
    cells = ["1.0", "0.0", "-1.0", "", "", "", ""]
    rows = [
        LINE.format(i, *view, ",".join([cell] * 14))
        for i, (view, cell) in enumerate(zip(views, cells))
    ]
    write(folder, "train.csv", "\n".join([HEAD, *rows]) + "\n", **form)


# schema


@pytest.mark.parametrize("name", schema.names())
def test_every_manifest_says_what_a_user_needs(name):
    spec = schema.load(name)
    assert spec.name == name and spec.about and spec.obtain and spec.licence
    assert spec.citation or name == "local"
    assert set(spec.findings) <= set(vocabulary.FINDINGS) and set(spec.paper) <= set(spec.expected)


def test_a_manifest_may_provide_whatever_can_be_asked():
    assert set(get_args(vocabulary.Question)) == set(vocabulary.HAS)


def test_manifest_errors_name_file_and_field(tmp_path, monkeypatch):
    good = json.loads((schema.manifest_dir() / "local.json").read_text())
    monkeypatch.setattr(schema, "manifest_dir", lambda: tmp_path)
    for change, message in [
        ({"colour": 1}, "x.json, field colour"),
        ({"provides": ["moon"]}, "x.json, field provides.0"),
        ({"licence_class": "free"}, "x.json, field licence_class"),
        ({"tables": [{"key": 1}]}, "tables.0.file"),
    ]:
        (tmp_path / "x.json").write_text(json.dumps({**good, **change}))
        with pytest.raises(ValueError, match=re.escape(message)):
            schema.load("x")
    with pytest.raises(ValueError, match="unknown dataset 'y'; known: \\['x'\\]"):
        schema.load("y")


def test_a_wheel_finds_its_own_copy(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "PACKAGE", tmp_path / "site" / "cxrkit")
    assert schema.manifest_dir() == tmp_path / "site" / "cxrkit" / "data_manifests"


def test_no_label_under_non_commercial_terms_is_in_the_repository():
    for name in PUBLIC:
        table = manifests.image_list(name)
        scores = [c for c in table if re.search("brixia|extent|opacity|survival|icu|age|sex", c)]
        assert not scores
        if name == "cohen":
            assert not {"findings", "diagnosis", "view", "site", "patient_id"} & set(table)


# reading


@pytest.mark.parametrize(
    "reading, uncertain",
    [
        ("mixed", {"edema": 1.0, "atelectasis": 1.0, "cardiomegaly": 0.0}),
        ("zeros", {"edema": 0.0, "pneumonia": 0.0}),
        ("ones", {"edema": 1.0, "support_device": 1.0}),
        ("ignore", {"edema": np.nan, "no_finding": np.nan}),
    ],
)
@pytest.mark.parametrize("form", [{}, {"newline": "\r\n", "bom": True}])
def test_chexpert_cells(tmp_path, reading, uncertain, form):
    chexpert(tmp_path, **form)
    table = manifests.read_manifest("chexpert", tmp_path, Choices(uncertain=reading))
    found = table[list(vocabulary.FINDINGS)]
    # 1, 0 and a blank
    assert (found.iloc[0] == 1).all() and (found.iloc[1] == 0).all() and (found.iloc[3] == 0).all()
    for finding, value in uncertain.items():
        np.testing.assert_equal(found[finding].iloc[2], value)
    assert table["view"].fillna("?").tolist() == ["AP", "AP", "AP", "PA", "L", "LL", "?"]
    assert table["path"][0] == str(tmp_path / "train/patient00000/study1/view1_frontal.jpg")
    assert (
        table["patient_id"][6] == "patient00006" and table["group_id"][6] == "chexpert:patient00006"
    )


def test_views_left_out_are_counted(tmp_path):
    chexpert(tmp_path)
    table = manifests.read_manifest("chexpert", tmp_path)
    kept, out = manifests.select_views(table)
    assert len(kept) == 4 and out == {"L": 1, "LL": 1, "unknown": 1}
    assert len(manifests.select_views(table, Choices(views="all"))[0]) == 5


def test_nih_list_and_its_diagnosis(tmp_path):
    write(
        tmp_path,
        "Data_Entry_2017_v2020.csv",
        "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,"
        "View Position\n00000061_000.png,Edema|Effusion,0,61,50,M,AP\n00000062_000.png,No "
        "Finding,0,62,50,M,PA\n"
        "00000063_000.png,Hernia,0,63,50,M,PA\n00000064_000.png,Mass|Pneumonia,0,64,50,M,PA\n",
    )
    table = manifests.read_manifest("nih_chestxray14", tmp_path)
    assert table["edema"].tolist() == [1, 0, 0, 0] and table["opacity"].tolist() == [1, 0, 0, 1]
    assert table["no_finding"].tolist() == [0, 1, 0, 0] and table["support_device"].isna().all()
    assert table["diagnosis"].fillna("?").tolist() == ["?", "normal", "?", "other_infection"]
    # as in nih_cxr14, so that a patient has one split everywhere
    assert table["group_id"][0] == "n00000061"


def test_rsna_takes_a_film_once(tmp_path):
    write(
        tmp_path,
        "stage_2_detailed_class_info.csv",
        "patientId,class\na,Lung Opacity\na,Lung Opacity\nb,Normal\n"
        "c,No Lung Opacity / Not Normal\n",
    )
    table = manifests.read_manifest("rsna", tmp_path)
    assert table["path"].str.endswith(".dcm").all() and table["opacity"].tolist() == [1, 0, 0]
    assert table["diagnosis"].fillna("?").tolist() == ["other_infection", "normal", "?"]


def test_brixia_scores_lose_no_leading_zero(tmp_path):
    write(
        tmp_path,
        "metadata_global_v2.csv",
        "Filename;BrixiaScore;BrixiaScoreGlobal;ConsensusTestset;Subject\n"
        "1.dcm;001123;7;0;s\n2.dcm;30;3;1;t\n",
    )
    table = manifests.read_manifest("brixia", tmp_path)
    assert table[list(vocabulary.BRIXIA)].to_numpy().tolist() == [
        [0, 0, 1, 1, 2, 3],
        [0, 0, 0, 0, 3, 0],
    ]


def test_bimcv_reads_file_names(tmp_path):
    for name in (
        "sub-S03044_ses-E06139_run-1_bp-chest_vp-ap_dx.png",
        "sub-S03044_ses-E06140_run-1_bp-chest_vp-pa_cr.png",
    ):
        write(tmp_path / "sub-S03044" / "ses-E0" / "mod-rx", name, "")
    table = manifests.read_manifest("bimcv_covid19", tmp_path)
    assert table["view"].tolist() == ["AP", "PA"] and set(table["patient_id"]) == {"S03044"}
    assert table["split"].nunique() == 1 and (table["diagnosis"] == "covid19").all()


COHEN = """patientid,offset,sex,age,finding,view,modality,folder,filename,license
1,0,M,65,Pneumonia/Viral/COVID-19,PA,X-ray,images,{0},
2,0,M,65,Pneumonia/Bacterial/Klebsiella,AP Supine,X-ray,images,{1},
3,0,M,65,No Finding,AP,X-ray,images,{2},
4,0,F,1,todo,L,X-ray,images,elsewhere.png,
"""


def test_cohen_labels_from_the_public_files(tmp_path):
    """Made-up labels for three film names of the manifest; the public files have this form."""
    names = (
        manifests.image_list("cohen")["path"]
        .str.removeprefix("images/")[lambda n: n.str.endswith(".jpg")]
        .iloc[1:4]
        .tolist()
    )
    names = [
        row.source_path or row.path
        for row in manifests.image_list("cohen").fillna("").itertuples()
        if row.path.removeprefix("images/") in names
    ]
    names = [name.removeprefix("images/") for name in names]
    write(tmp_path, "metadata.csv", COHEN.format(*names))
    write(
        tmp_path,
        "public-annotations.csv",
        "filename,S-A,S-B,S-C,S-D,S-E,S-F,S-Global,J-A,J-B,J-C,J-D,J-E,J-F,J-Global\n"
        f"{names[0]},0,1,2,3,0,1,7,1,1,1,1,1,1,6\n",
        newline="\r\n",
        bom=True,
    )
    table = manifests.read_manifest("cohen", tmp_path)
    known = table[table["view"].notna()]
    assert known["diagnosis"].tolist() == ["covid19", "other_infection", "normal"]
    assert known["supine"].tolist() == [False, True, False] and known["view"].tolist() == [
        "PA",
        "AP",
        "AP",
    ]
    scored = table[table["brixia_A"].notna()]
    assert scored[list(vocabulary.BRIXIA)].to_numpy().tolist() == [[0, 1, 2, 3, 0, 1]]
    assert scored[list(vocabulary.SECOND)].to_numpy().tolist() == [[1] * 6]
    assert table["diagnosis"].notna().sum() == 3


def test_missing_labels_are_said(tmp_path):
    with pytest.warns(UserWarning, match="cohen: no label file .* cxrkit data fetch cohen"):
        assert manifests.read_manifest("cohen", tmp_path)["diagnosis"].isna().all()


LOCAL = "path,patient_id,view,site,findings,diagnosis,brixia,array,lung_mask,lesion_mask\n"


def test_your_own_hospital(tmp_path):
    write(
        tmp_path,
        "films.csv",
        LOCAL
        + 'a.dcm,p1,ap supine,S,Lung Opacity|support devices,COVID-19,"0,1,2,3,0,1",,m/a.png,\n'
        "b.png,p2,,S,,SARS,,011000,,l/b.png\nc.png,p2,PA,S,no finding,,,,,\n",
        newline="\r\n",
        bom=True,
    )
    table = manifests.read_manifest("local", tmp_path)
    assert table.columns.tolist() == list(vocabulary.COLUMNS)
    assert table.loc[0, ["opacity", "support_device", "edema"]].tolist() == [1, 1, 0]
    assert table.loc[1, list(vocabulary.FINDINGS)].isna().all()
    assert table["diagnosis"].fillna("?").tolist() == ["covid19", "other_infection", "?"]
    assert table.loc[0, list(vocabulary.BRIXIA)].tolist() == [0, 1, 2, 3, 0, 1]
    assert table.loc[1, list(vocabulary.ZONES)].tolist() == [0, 1, 1, 0, 0, 0]
    assert table["supine"].tolist() == [True, False, False] and table["view"].fillna(
        "?"
    ).tolist() == ["AP", "?", "PA"]
    assert table["split"][1] == table["split"][2] and table["lung_mask"][0] == str(
        tmp_path / "m/a.png"
    )
    assert (
        manifests.has(table, "lesion")
        and manifests.has(table, "severity")
        and not manifests.has(table, "readers")
    )


def test_aliases_of_columns(tmp_path):
    write(
        tmp_path,
        "films.csv",
        "file,Patient ID,view,source,class3,lung_opacity,Brixia A\na.png,p,PA,here,covid19,1,2\n",
    )
    table = manifests.read_manifest("local", tmp_path)
    assert table.loc[0, ["site", "diagnosis", "opacity", "brixia_A", "patient_id"]].tolist() == [
        "here",
        "covid19",
        1,
        2,
        "p",
    ]


@pytest.mark.parametrize(
    "row, message",
    [
        ("a.png,p,sideways,S,,,,,,", r"films.csv, row 3, column view: 'sideways' is none of"),
        (
            "a.png,p,PA,S,edema|gout,,,,,",
            r"films.csv, row 3, column findings: 'edema\|gout' holds a word that is no finding",
        ),
        (
            "a.png,p,PA,S,,flu-like,,,,",
            r"films.csv, row 3, column diagnosis: 'flu-like' is none of",
        ),
        (
            "a.png,p,PA,S,,,000004,,,",
            r"films.csv, row 3, column brixia_F: '4' is no whole number from 0 to 3",
        ),
        ("a.png,p,PA,S,,,1234567,,,", r"films.csv, row 3, column brixia: '1234567' holds no six"),
        (
            "a.png,p,PA,S,,,,200000,,",
            r"films.csv, row 3, column rul: '2' is no whole number from 0 to 1",
        ),
        (
            "a.png,,PA,S,,,,,,",
            r"films.csv, row 3, column patient_id: blank cell: splits need it",
        ),
        (",p,PA,S,,,,,,", r"films.csv, row 3, column path: blank cell: every row needs an"),
        ("ok.png,p,PA,S,,,,,,", r"films.csv, row 3, column path: '.*ok.png' is listed twice"),
    ],
)
def test_errors_name_file_row_and_column(tmp_path, row, message):
    write(tmp_path, "films.csv", LOCAL + "ok.png,q,PA,S,,,,,,\n" + row + "\n")
    with pytest.raises(ValueError, match=message):
        manifests.read_manifest("local", tmp_path)


def test_a_patient_in_two_splits_is_refused(tmp_path):
    write(
        tmp_path,
        "films.csv",
        "path,patient_id,view,site,split\na.png,p,PA,S,train\nb.png,p,PA,S,test\nc.png,q,PA,S,val\n",
    )
    with pytest.raises(ValueError, match="group 'local:p' is in test, train .rows 2, 3.; split by"):
        manifests.read_manifest("local", tmp_path)
    assert manifests.leaks(manifests.read_manifest("local", tmp_path, apart=False)).to_dict() == {
        "local:p": "test, train"
    }


def test_missing_data_says_how_to_obtain_it(tmp_path):
    with pytest.raises(
        FileNotFoundError, match="chexpert: no images listed in .* How to obtain them: Register"
    ):
        manifests.read_manifest("chexpert", tmp_path)
    write(tmp_path, "train.csv", "Path,Sex\nx,y\n")
    with pytest.raises(ValueError, match="train.csv: no column 'AP/PA'"):
        manifests.read_manifest("chexpert", tmp_path)
    write(tmp_path, "train.csv", "")
    with pytest.raises(ValueError, match="train.csv: not a readable table"):
        manifests.read_manifest("chexpert", tmp_path)


def test_films_may_not_leave_their_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(manifests, "manifest_dir", lambda: tmp_path)
    write(tmp_path, "x.csv", "path,sha256\nimages/a.png,0\n../b.png,0\n")
    with pytest.raises(
        ValueError, match=r"x.csv, row 3, column path: '../b.png' is no path inside"
    ):
        manifests.image_list("x")


# tables that people have


def local(folder, text, images=("a.png", "b.png", "c.png")):
    for name in images:
        write((folder / name).parent, (folder / name).name, "x")
    write(folder, "films.csv", text)
    return manifests.read_manifest("local", folder)


def scores(written, column, total=""):
    """Raw rows of one packed column, and what `digits` makes of them."""
    names = vocabulary.ZONES if column == "array" else vocabulary.BRIXIA
    rows = pd.DataFrame({"_file": "t.csv", "_row": range(2, len(written) + 2), column: written})
    rows = rows.assign(**dict.fromkeys(names, np.nan), **{f"{column}_sum": total or np.nan})
    problems = Problems()
    return labels.digits(rows.astype({column: object}), column, names, problems), problems


def test_six_digits_in_every_form_or_refused():
    """All 64 arrays, written as text, as lists, and as numbers that may have lost zeros."""
    arrays = [f"{i:06b}" for i in range(64)]
    truth = [[int(digit) for digit in array] for array in arrays]
    for form in (
        str,
        ",".join,
        "; ".join,
        lambda array: str([int(digit) for digit in array]),
        lambda array: str(np.array([float(digit) for digit in array])),
        lambda array: f"'{array}",
    ):
        found, problems = scores([form(array) for array in arrays], "array")
        assert found.astype(float).to_numpy().tolist() == truth and not problems.found
    for form in ("{}", "{}.0", "{},0"):
        found, problems = scores([form.format(int(array)) for array in arrays], "array")
        read = found.notna().all(axis=1).to_numpy()
        assert (found[read].astype(float).to_numpy() == np.array(truth)[read]).all()
        assert read.sum() == len(problems.found) == 32  # half of them began with a zero
    found, problems = scores([f"{int(array):.1E}" for array in arrays], "array")
    assert found.isna().all(axis=None) and len(problems.found) == 64


def test_every_brixia_score_that_a_float_column_spoilt_is_right_or_refused():
    """All 4,096 scores; with the table's sum, zeros in front are put back."""
    numbers = [
        f"{i % 4}{i // 4 % 4}{i // 16 % 4}{i // 64 % 4}{i // 256 % 4}{i // 1024}"
        for i in range(4096)
    ]
    truth = np.array([[int(digit) for digit in number] for number in numbers])
    spoilt = [f"{float(number)}" for number in numbers]
    found, problems = scores(spoilt, "brixia")
    read = found.notna().all(axis=1).to_numpy()
    assert (found[read].astype(float).to_numpy() == truth[read]).all()
    assert read.sum() == 3072 and len(problems.found) == 1024  # three quarters begin with 1, 2, 3
    sums = [str(sum(row)) for row in truth]
    found, problems = scores(spoilt, "brixia", sums)
    assert (found.astype(float).to_numpy() == truth).all() and not problems.found
    wrong = [str(sum(row) + 1) for row in truth]
    assert len(scores(numbers, "brixia", wrong)[1].found) == 4096


@pytest.mark.parametrize(
    "text", ["12345", "1234567", "12345x", "1,2,3", "0,1,2,3,4.5,1", "1e3", "x"]
)
def test_what_is_no_six_digits_is_refused_with_its_own_text(tmp_path, text):
    with pytest.raises(
        ValueError, match=f"row 2, column brixia: {re.escape(repr(text))} .*six digits"
    ):
        local(tmp_path, f'path,patient_id,brixia\na.png,p,"{text}"\n')


def test_a_sum_that_contradicts_the_six_values_is_refused(tmp_path):
    head = "path,patient_id,brixia,BrixiaScoreGlobal\n"
    with pytest.raises(ValueError) as error:
        local(tmp_path, head + "a.png,p,112233,12\nb.png,q,112233,13\nc.png,r,000000,x\n")
    first, second = str(error.value).splitlines()
    assert "row 3, column brixia_sum: '13' is not the sum of the six values, 12" in first
    assert "row 4, column brixia_sum: 'x' is no number" in second
    zones = "path,patient_id,brixia_A,brixia_B,brixia_C,brixia_D,brixia_E,brixia_F,brixia_sum\n"
    with pytest.raises(ValueError, match="row 2, column brixia_sum: '4' is not .*, 3"):
        local(tmp_path, zones + "a.png,p,1,1,1,0,0,0,4\n")
    assert local(tmp_path, zones + "a.png,p,1,1,1,0,0,,4\n")["brixia_A"].tolist() == [1]


@pytest.mark.parametrize(
    "column, said",
    [
        ("diagnossis", "'diagnossis' is not read; is 'diagnosis' meant"),
        ("label", "'label' is not read; is 'diagnosis' meant"),
        ("finding_labels", "'finding_labels' is not read; is 'findings' meant"),
        ("Diagnosis_", "'Diagnosis_' is read as diagnosis"),
        ("class3", "'class3' is read as diagnosis"),
        ("weight", "'weight' is not read"),
        ("gender", "'gender' is not read; is 'sex' meant"),
    ],
)
def test_a_column_of_another_name_is_said(tmp_path, column, said):
    with pytest.warns(UserWarning, match=re.escape(said)):
        local(tmp_path, f"path,patient_id,{column}\na.png,p,\n")


def test_our_own_names_are_read_without_a_word(tmp_path, recwarn):
    table = local(tmp_path, " Path ,Patient ID,DIAGNOSIS,Lung-Mask\na.png,p,normal,\n")
    assert table["diagnosis"].tolist() == ["normal"] and not recwarn.list


@pytest.mark.parametrize("name", ["filename", "image", "Image_Path", "pth"])
def test_a_synonym_of_a_needed_column_is_suggested_not_taken(tmp_path, name):
    with pytest.raises(ValueError, match=f"no column 'path'; it has .*; is '{name}' meant\\?"):
        local(tmp_path, f"{name},patient_id\na.png,p\n")
    with pytest.raises(
        ValueError, match="no column 'patient_id': splits need it; .*'Subject' meant"
    ):
        local(tmp_path, "path,Subject\na.png,p\n")


@pytest.mark.parametrize(
    "text, reason",
    [
        ("path;patient_id\na.png;p\n", "';' stands between its columns"),
        ("path\tpatient_id\na.png\tp\n", "a tab stands between its columns"),
        ("sep=,\npath,patient_id\na.png,p\n", "it begins with a line sep="),
        ("# mine\npath,patient_id\na.png,p\n", r"comments, lines that begin with # \(row 1\)"),
    ],
)
def test_another_form_is_refused_with_the_command_that_rewrites_it(tmp_path, text, reason):
    with pytest.raises(ValueError, match=f"{reason}.*cxrkit data convert {tmp_path}"):
        local(tmp_path, text)


@pytest.mark.parametrize(
    "visit, why",
    [
        ("2020-03-01", "is no number: write the number of the visit, or days since onset; cxrkit"),
        ("20200301", "is no number"),  # a date, too
        ("43891", "is no number"),  # as Excel counts days
        ("1,5", "has a decimal comma; write a decimal point"),
        ("day 3", "is no number"),
        ("inf", "is no number"),
    ],
)
def test_a_visit_that_is_no_number_is_refused(tmp_path, visit, why):
    with pytest.raises(ValueError, match=f"row 2, column visit: '{visit}' {why}"):
        local(tmp_path, f'path,patient_id,visit\na.png,p,"{visit}"\n')


def test_visits_are_numbers(tmp_path):
    rows = "a.png,p,-3\nb.png,p,1.5\nc.png,p,unknown\n"
    table = local(tmp_path, "path,patient_id,visit\n" + rows)
    np.testing.assert_equal(table["visit"].to_numpy(), [-3, 1.5, np.nan])


@pytest.mark.parametrize("ids", [("12", "12.0"), ("0012", "12"), ("P1", "p1"), ("P-1", "P 1")])
def test_one_patient_in_two_spellings_has_one_split(tmp_path, ids):
    rows = "".join(f"{i}.png,{code}\n" for i, code in enumerate(ids * 3))
    with pytest.warns(UserWarning, match="each taken as one patient: ") as said:
        table = local(tmp_path, "path,patient_id\n" + rows)
    assert all(repr(code) in str(said[0].message) for code in ids)
    assert table["group_id"].nunique() == table["split"].nunique() == 1
    with pytest.warns(UserWarning), pytest.raises(ValueError, match="is in test, train .rows 2, 3"):
        local(tmp_path, f"path,patient_id,split\na.png,{ids[0]},train\nb.png,{ids[1]},test\n")


def test_all_wrong_cells_are_said_at_once_by_the_lines_of_the_file(tmp_path):
    with pytest.raises(ValueError) as error:
        local(
            tmp_path,
            "path,patient_id,view,findings,visit,edema\n"
            "a.png,p,PAA,,,\n\n"
            'b.png,,PA,"gout|\nedema",x,\n'
            "a.png,q,PA,none,,maybe\n,,,,,\n",
        )
    lines = [line.split("films.csv, ")[1] for line in str(error.value).splitlines()]
    assert [line.split(":")[0] for line in lines] == [
        "row 2, column view",
        "row 4, column findings",
        "row 4, column patient_id",
        "row 4, column visit",
        "row 6, column findings",
        "row 6, column path",
        "row 6, column edema",
    ]
    assert "is 'PA' meant?" in lines[0] and "listed twice, first in row 2" in lines[5]
    many = "path,patient_id,view\n" + "".join(f"{i}.png,p{i},up\n" for i in range(50))
    with pytest.raises(ValueError) as error:
        local(tmp_path, many)
    assert str(error.value).splitlines()[20:] == ["and 30 more of 50 problems"]


def test_words_of_truth_and_of_nothing(tmp_path):
    head = "path,patient_id,edema,pneumonia,opacity,site,diagnosis,split\n"
    rows = "a.png,p,TRUE,no,-,NA, Covid-19 ,Training\nb.png,q,Yes,0.0,nan,S,None,test\n"
    table = local(tmp_path, head + rows)
    assert table["edema"].tolist() == [1, 1] and table["pneumonia"].tolist() == [0, 0]
    assert table["opacity"].isna().all() and table["site"].tolist() == ["local", "S"]
    assert table["diagnosis"].fillna("?").tolist() == ["covid19", "?"]
    assert table["split"].tolist() == ["train", "test"]
    with pytest.raises(ValueError, match="column edema: '-1' is no whole number from 0 to 1"):
        local(tmp_path, head + "a.png,p,-1,,,,,\n")
    with pytest.raises(ValueError, match="row 2, column patient_id: blank cell"):
        local(tmp_path, "path,patient_id\na.png,nan\n")
    with pytest.raises(ValueError, match="'None' may mean unknown .* or healthy"):
        local(tmp_path, "path,patient_id,findings\na.png,p,None\n")
    blank = local(tmp_path, "path,patient_id,findings\na.png,p,unknown\n")
    assert blank[list(vocabulary.FINDINGS)].isna().all(axis=None)


def test_paths_of_windows(tmp_path):
    table = local(tmp_path, "path,patient_id\nsub\\a.png,p\n", images=("sub/a.png",))
    assert table["path"].tolist() == [str(tmp_path / "sub/a.png")]
    odd = local(tmp_path, "path,patient_id\nx\\a.png,p\n", images=("x\\a.png",))
    assert odd["path"].tolist() == [str(tmp_path / "x\\a.png")]
    for path in ("C:\\films\\a.png", "d:/a.png", "\\\\server\\share\\a.png"):
        with pytest.raises(ValueError, match="row 2, column path: .* path of another computer"):
            local(tmp_path, f"path,patient_id\n{path},p\n")


@pytest.mark.parametrize(
    "prefix",
    ["/data/train/CheXpert-v1.0/", "", "CheXpert-v1.0-small\\", "D:\\CheXpert-v1.0\\", "./"],
)
def test_chexpert_paths_behind_any_prefix(tmp_path, prefix):
    chexpert(tmp_path)
    text = (tmp_path / "train.csv").read_text()
    if "\\" in prefix:
        text = text.replace("train/patient", "train\\patient").replace("/study1/", "\\study1\\")
    write(
        tmp_path,
        "train.csv",
        text.replace("CheXpert-v1.0/", prefix).replace("CheXpert-v1.0\\", prefix),
    )
    table = manifests.read_manifest("chexpert", tmp_path)
    assert table["path"][0] == str(tmp_path / "train/patient00000/study1/view1_frontal.jpg")


def test_a_chexpert_path_without_a_patient_is_refused(tmp_path):
    chexpert(tmp_path)
    text = (tmp_path / "train.csv").read_text().replace("train/patient00002", "elsewhere/p2")
    write(tmp_path, "train.csv", text)
    with pytest.raises(
        ValueError, match="row 4, column Path: '.*' holds no path, which has the form"
    ):
        manifests.read_manifest("chexpert", tmp_path)


def test_rows_of_one_image_that_disagree_become_unknown_and_are_said(tmp_path):
    rows = "a,Normal\na,Lung Opacity\nb,Normal\nb,Normal\nc,Lung Opacity\nc,\n"
    write(tmp_path, "stage_2_detailed_class_info.csv", "patientId,class\n" + rows)
    with pytest.warns(UserWarning, match="disagree in 1 cells.*\n.*row 2 'Normal', row 3 'Lung Op"):
        table = manifests.read_manifest("rsna", tmp_path)
    np.testing.assert_equal(table["opacity"].to_numpy(), [np.nan, 0, 1])
    assert table["diagnosis"].fillna("?").tolist() == ["?", "normal", "other_infection"]


def test_rows_of_a_label_file_that_disagree_are_said(tmp_path):
    row = "1,0,M,65,Pneumonia/Viral/COVID-19,{},X-ray,images,0.jpg,\n"
    head = COHEN.splitlines(keepends=True)[0]
    write(tmp_path, "metadata.csv", head + row.format("PA") + row.format("AP") + row.format("PA"))
    with pytest.warns(UserWarning, match="0.jpg: column view: row 2 'PA', row 3 'AP', row 4 'PA'"):
        table = manifests.read_manifest("cohen", tmp_path)
    assert table["view"].isna().all() and (table["diagnosis"] == "covid19").sum() == 1


def test_dates_of_a_public_table_become_days(tmp_path, monkeypatch):
    spec = json.loads((schema.manifest_dir() / "local.json").read_text())
    columns = {"path": "f", "patient_id": "p", "visit": "StudyDate"}
    table = {"file": "t.csv", "dates": "%Y%m%d", "columns": columns}
    write(tmp_path, "x.json", json.dumps({**spec, "name": "x", "tables": [table]}))
    monkeypatch.setattr(schema, "manifest_dir", lambda: tmp_path)
    monkeypatch.setattr(manifests, "manifest_dir", lambda: tmp_path)
    write(tmp_path, "t.csv", "f;p;StudyDate\na;1;20200304\nb;1;20200301\nc;2;20190101\nd;2;\n")
    found = manifests.read_manifest("x", tmp_path)
    np.testing.assert_equal(found["visit"].to_numpy(), [3, 0, 0, np.nan])
    write(tmp_path, "t.csv", "f;p;StudyDate\na;1;20200304\nb;1;2020-03-01\n")
    with pytest.raises(
        ValueError, match="row 3, column visit: '2020-03-01' is no date of the form"
    ):
        manifests.read_manifest("x", tmp_path)
    write(tmp_path, "t.csv", "f;p;Studydate\na;1;20200304\n")
    with pytest.raises(ValueError, match="no column 'StudyDate'; .*; is 'Studydate' meant"):
        manifests.read_manifest("x", tmp_path)


def test_spellings_lead_to_one_word():
    views = labels.standard_terms(
        "view", pd.Series(["AP Supine", "Posteroanterior", "Lateral", "Axial", "Frontal"])
    )
    assert views.fillna("?").tolist() == ["AP", "PA", "L", "other", "?"]
    every = [
        word
        for kind in labels.SPELLINGS
        for ours, others in labels.SPELLINGS[kind].items()
        for word in [(kind, w) for w in (labels.plain(ours), *others.split())]
    ]
    assert len(every) == len(set(every))  # no spelling stands for two words


# splits and leakage


def test_splits_depend_on_the_group_alone_and_come_near_70_10_20():
    assert [manifests.split_of(g) for g in ("n00000061", "g6b01423b6a", "kIM-0001")] == [
        "train",
        "train",
        "train",
    ]
    share = pd.Series([manifests.split_of(i) for i in range(20000)]).value_counts(normalize=True)
    assert all(abs(share[name] - part) < 0.01 for name, part in vocabulary.SPLITS.items())
    rows = pd.concat([manifests.image_list(name) for name in PUBLIC])
    assert len(rows) == 4383
    assert (rows["split"] == rows["group_id"].map(manifests.split_of)).all()
    # six NIH patients, four of Kermany's and two of Cohen's are in two sources
    assert manifests.leaks(rows).empty


def test_counts():
    table = pd.DataFrame(
        {"group_id": ["a", "a", "b"], "view": ["PA", "AP", "PA"], "edema": [1.0, 0.0, np.nan]}
    )
    asked = ["films", "groups", "view=PA", "edema=1", "edema"]
    assert manifests.counts(table, asked) == dict(zip(asked, [3, 2, 2, 1, 2]))


def test_near_duplicates_are_found_and_other_films_are_not():
    rng = np.random.default_rng(0)
    import cv2

    films = [
        cv2.resize(rng.random((24, 24), np.float32), (300, 320), interpolation=cv2.INTER_CUBIC)
        for _ in range(40)
    ]
    films = [np.uint8(255 * np.clip(film, 0, 1)) for film in films]
    copies = [
        cv2.resize(films[0], (150, 160), interpolation=cv2.INTER_AREA),
        np.uint8(255 * (films[1] / 255) ** 0.7),
        cv2.imdecode(cv2.imencode(".jpg", films[2], [cv2.IMWRITE_JPEG_QUALITY, 40])[1], 0),
    ]
    codes = np.array([leakage.dhash(film) for film in films + copies])
    first, second, bits = leakage.near_pairs(codes, block=16)
    slow = [
        (i, j)
        for i in range(43)
        for j in range(i + 1, 43)
        if np.unpackbits(codes[i] ^ codes[j]).sum() <= leakage.NEAR
    ]
    assert list(zip(first, second)) == slow == [(0, 40), (1, 41), (2, 42)]
    table = pd.DataFrame(
        {
            "path": [f"{i}.png" for i in range(43)],
            "group_id": [str(i) for i in range(43)],
            "split": ["train"] * 40 + ["test", "train", "test"],
        }
    )
    found = leakage.find_leaks(table, codes)
    assert found["what"].tolist() == ["0.png = 40.png", "2.png = 42.png"] and set(
        found["splits"]
    ) == {"train, test"}


# the real films


@pytest.mark.parametrize("name", PUBLIC)
def test_real_tables(mirror, name):
    spec, table = schema.load(name), manifests.read_manifest(name, mirror)
    assert manifests.counts(table, spec.expected) == spec.expected
    assert [what for what in vocabulary.HAS if manifests.has(table, what)] == [
        what for what in vocabulary.HAS if spec.has(what)
    ]
    theirs = pd.read_csv(mirror / name / "labels.csv", dtype=str).set_index("file")
    theirs = theirs.loc[table["path"].str.split(f"/{name}/").str[-1]].reset_index()
    assert theirs["class3"].fillna("?").tolist() == table["diagnosis"].fillna("?").tolist()
    assert (
        theirs["view"].fillna("?").str.removesuffix(" Supine").tolist()
        == table["view"].fillna("?").tolist()
    )
    for finding in vocabulary.FINDINGS if "edema" in theirs else ():
        column = {"opacity": "lung_opacity", "support_device": "support_devices"}.get(
            finding, finding
        )
        np.testing.assert_array_equal(theirs[column].astype(float), table[finding], err_msg=finding)


def test_splitting_the_scored_films_by_image_leaks(mirror):
    """The public Brixia loader splits by image; the same films split by group do not leak."""
    table = manifests.read_manifest("cohen", mirror)
    table = table[table["brixia_A"].notna()]
    by_image = table.assign(
        split=np.where(np.random.default_rng(23).random(len(table)) < 0.75, "train", "test")
    )
    crossing = manifests.leaks(by_image)
    test = by_image[by_image["split"] == "test"]
    assert test["group_id"].isin(crossing.index).mean() > 0.2
    assert manifests.leaks(table).empty
