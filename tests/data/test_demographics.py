"""Sex and age of patients, as tables write them."""

import pandas as pd
import pytest

from cxrkit.config.vocabulary import COLUMNS
from cxrkit.data import labels, manifests
from tests.fakes import trees


def local(folder, text):
    (folder / "films.csv").write_text(text)
    return manifests.read_patients("local", folder)


@pytest.mark.parametrize(
    "text, years",
    [
        ("60", 60),
        ("060Y", 60),
        ("0.5", 0.5),
        ("18 months", 1.5),
        ("45yrs", 45),
        ("006M", 0.5),
        ("26W", 26 / 52.1775),
        ("paediatric (1-5 years)", None),
        ("60-70", None),
        (None, None),
        (48, 48),
        (48.0, 48),
    ],
)
def test_ages_become_years(text, years):
    (found,) = labels.age(pd.Series([text], dtype=object))
    assert (pd.isna(found) and years is None) or found == pytest.approx(years)


def test_a_users_table_is_read(tmp_path):
    text = "path,patient_id,sex,age\na.png,p,female,34\nb.png,q,M,007Y\n"
    text += "c.png,r,,\nd.png,s,unknown,\n"
    table = local(tmp_path, text)
    assert table["sex"].tolist()[:2] == ["F", "M"]
    assert table["sex"].isna().tolist()[2:] == [True, True]
    assert table["age"].tolist()[:2] == [34, 7] and table["age"].isna().sum() == 2


@pytest.mark.parametrize(
    "row, said",
    [
        ("a.png,p,girl,3", "films.csv, row 2, column sex: 'girl' is none of"),
        ("a.png,p,F,old", "films.csv, row 2, column age: 'old' is no age in years"),
        ("a.png,p,F,1930", "films.csv, row 2, column age: '1930' is no age in years"),
    ],
)
def test_a_wrong_cell_is_named(tmp_path, row, said):
    with pytest.raises(ValueError, match=said):
        local(tmp_path, f"path,patient_id,sex,age\n{row}\n")


def test_the_table_form_stays_as_it_is(tmp_path):
    """No model and no key of an artifact depends on sex or age."""
    local(tmp_path, "path,patient_id,sex,age\na.png,p,F,34\n")
    assert list(manifests.read_manifest("local", tmp_path)) == list(COLUMNS)


def test_a_public_set_gives_what_it_has(tmp_path):
    table = "patientid,offset,sex,age,finding,view,modality,folder,filename,license\n"
    table += "2,0,M,65,Pneumonia/Viral/COVID-19,PA,X-ray,images,a.jpg,CC0\n"
    table += "3,0,,not stated,Pneumonia/Viral/COVID-19,PA,X-ray,images,b.jpg,CC0\n"
    (tmp_path / "metadata.csv").write_text(table)
    found = manifests.read_patients("cohen_full", tmp_path)
    assert found["sex"].tolist()[0] == "M" and found["age"].tolist()[0] == 65
    assert found[["sex", "age"]].isna().all(axis=1).tolist() == [False, True]


def test_a_release_without_them_is_read_too(tmp_path):
    table = "patientid,offset,finding,view,filename\n2,0,Pneumonia/Viral/COVID-19,PA,a.jpg\n"
    (tmp_path / "metadata.csv").write_text(table)
    assert manifests.read_patients("cohen_full", tmp_path)[["sex", "age"]].isna().all(axis=None)


def test_a_prepared_copy_fills_what_the_tables_leave_open(tmp_path):
    local(tmp_path, "path,patient_id,sex,age\nimages/a.png,p,,\nimages/b.png,q,F,30\n")
    labels_csv = "file,sex,age\nimages/a.png,M,71\nimages/b.png,M,\nimages/c.png,F,1\n"
    (tmp_path / "labels.csv").write_text(labels_csv)
    found = manifests.read_patients("local", tmp_path)
    assert found["sex"].tolist() == ["M", "F"] and found["age"].tolist() == [71, 30]


def patients(name, tree, root):
    tree(root / name)
    found = manifests.read_patients(name, root)
    return found["sex"].fillna("").tolist(), found["age"].fillna(-1).tolist()


def test_readings_of_montgomery_say_sex_and_age(tmp_path):
    sex, age = patients("montgomery", trees.montgomery, tmp_path)
    assert sex == ["M", "F"] * 4 and age == list(range(20, 28))


def test_readings_of_shenzhen_say_them_in_words(tmp_path):
    sex, age = patients("shenzhen_full", trees.shenzhen_full, tmp_path)
    assert sex == ["M", "F", "M", "F", "M", ""]
    assert age == [45, 30, pytest.approx(8 / 12), 24, -1, -1]


def test_tags_of_bimcv_say_sex_and_age(tmp_path):
    trees.bimcv_of_today(tmp_path / "bimcv_covid19")
    found = manifests.read_patients("bimcv_covid19", tmp_path)
    found["number"] = found["path"].str.extract(r"sub-S(\d+)_")[0].astype(int)
    found = found[found["number"] < 90000]  # those are lateral, and say neither
    assert found[["sex", "age"]].isna().all(axis=1).sum() == 1
    known = found.dropna()
    assert len(known) > 5 and (known["sex"] == [*map("MF".__getitem__, known["number"] % 2)]).all()
    assert (known["age"] == 20 + known["number"] % 60).all()


def test_brixia_gives_the_age_in_groups_of_five_years(tmp_path):
    trees.brixia(tmp_path / "brixia")
    numbers = [int(path.stem) for path in (tmp_path / "brixia" / "dicom_clean").iterdir()]
    found = manifests.read_patients("brixia", tmp_path)
    found = found.set_index(found["path"].str.extract(r"(\d+)\.dcm")[0].astype(int))
    for number in numbers:
        assert found.loc[number, "sex"] == "MF"[number % 2]
        assert found.loc[number, "age"] == 5 * (4 + number % 14) + 2.5
