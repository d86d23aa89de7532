"""The classroom set: open licences alone, one film of each patient, as their datasets hold them."""

import posixpath
import shutil
from pathlib import Path

import pytest

from cxrkit.cli import main
from cxrkit.data import manifests, schema
from cxrkit.teaching import classroom_images

SOURCES = ("hannover", "kermany", "nih_cxr14")


def source_of(path):
    """Dataset and path of a film there."""
    name = posixpath.basename(path)
    dataset = next(one for one in SOURCES if name.startswith(f"{one}_"))
    return dataset, f"images/{name.removeprefix(f'{dataset}_')}"


def test_it_holds_one_film_of_each_patient_and_open_licences_alone():
    table = manifests.image_list("classroom")
    assert table["group_id"].is_unique and len(table) == 60
    assert table["diagnosis"].value_counts().to_dict() == dict.fromkeys(
        ("normal", "other_infection", "covid19"), 20
    )
    for path, film in table.set_index("path").iterrows():
        dataset, there = source_of(path)
        assert schema.load(dataset).licence_class == "permissive"
        own = manifests.image_list(dataset).set_index("path").loc[there]
        for column in ("sha256", "bytes", "group_id", "split"):
            assert film[column] == own[column], path
    assert set(schema.load("classroom").same_patients) >= set(SOURCES)


def test_its_diagnoses_are_those_of_the_datasets():
    table = manifests.read_manifest("classroom", "nowhere")
    for dataset in SOURCES:
        own = manifests.read_manifest(dataset, "nowhere")
        own = own.assign(name=own["path"].map(posixpath.basename)).set_index("name")["diagnosis"]
        for path, diagnosis in zip(table["path"], table["diagnosis"], strict=True):
            name, there = source_of(path)
            if name == dataset:
                assert own[posixpath.basename(there)] == diagnosis


def test_without_films_it_says_how_to_get_them(tmp_path, capsys):
    assert classroom_images(tmp_path) is None
    assert "run `cxrkit data fetch classroom`" in capsys.readouterr().out


def test_the_films_that_are_here_are_found(tmp_path):
    first = manifests.read_manifest("classroom", tmp_path)["path"][:2]
    for path in first:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_bytes(b"film")
    assert classroom_images(tmp_path)["path"].tolist() == list(first)


@pytest.mark.integration
def test_it_is_fetched_and_verified(mirror, tmp_path):
    copy = tmp_path / "mirror" / "classroom"
    (copy / "images").mkdir(parents=True)
    for path in manifests.image_list("classroom")["path"]:
        dataset, there = source_of(path)
        shutil.copy(mirror / dataset / there, copy / path)
    arguments = ["data", "fetch", "classroom", "--mirror", str(copy.parent)]
    with pytest.raises(SystemExit) as end:
        main([*arguments, "--root", str(tmp_path / "data")])
    assert end.value.code == 0 and len(classroom_images(tmp_path / "data")) == 60
