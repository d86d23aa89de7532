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
