"""Paths that survive a move: relative on disk, absolute in memory."""

import os
import shutil

import numpy as np
import pandas as pd
import pytest

from cxrkit.storage import locations
from cxrkit.storage.artifacts import Store
from cxrkit.storage.locations import data_root, default_root
from cxrkit.storage.remote import RemoteStore

ADDRESS = "virtual://alder/7?seed=0"


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store", data=tmp_path / "real")


def test_paths_are_relative_to_the_store_or_the_data(tmp_path, store):
    for absolute, relative in {
        f"{tmp_path}/store/cohort-f7134555c53a/images.npy#7": (
            "store:cohort-f7134555c53a/images.npy#7"
        ),
        f"{tmp_path}/real/cohen/images/a b.png": "data:cohen/images/a b.png",
        f"{tmp_path}/real/cohen/#1/a#2.png": "data:cohen/#1/a#2.png",
        f"{tmp_path}/store2/a.png": f"{tmp_path}/store2/a.png",
        ADDRESS: ADDRESS,
        "images.npy#7": "images.npy#7",
    }.items():
        assert store.relative(absolute) == relative
        assert store.absolute(relative) == absolute
        assert store.relative(relative) == relative and store.absolute(absolute) == absolute
    assert store.relative(tmp_path / "real" / "a.png") == "data:a.png"
    assert store.absolute("https://host/a.png") == "https://host/a.png"


@pytest.mark.parametrize(
    "root, data, path, relative",
    [
        ("s", "s/data", "s/data/cohen/a.png", "data:cohen/a.png"),
        ("s", "s/data", "s/masks-1/masks.npy#3", "store:masks-1/masks.npy#3"),
        ("d/s", "d", "d/s/masks-1/masks.npy#3", "store:masks-1/masks.npy#3"),
        ("d/s", "d", "d/cohen/a.png", "data:cohen/a.png"),
    ],
)
def test_of_folders_inside_each_other_the_inner_one_counts(tmp_path, root, data, path, relative):
    store = Store(tmp_path / root, tmp_path / data)
    assert store.relative(tmp_path / path) == relative
    assert store.absolute(relative) == str(tmp_path / path)


def test_a_relative_root_means_one_place(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CXRKIT_STORE", "results")
    monkeypatch.setenv("CXRKIT_DATA", "real")
    stores = [Store(), Store("results"), RemoteStore("memory://far", "results")]
    roots = [store.root for store in stores]
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert [store.root for store in stores] == roots == 3 * [tmp_path / "results"]
    assert Store(tmp_path / "a" / ".." / "b").root == tmp_path / "b"


def test_real_images_lie_where_the_user_says(tmp_path, monkeypatch):
    monkeypatch.delenv("CXRKIT_DATA", raising=False)
    monkeypatch.setenv("CXRKIT_STORE", str(tmp_path / "store"))
    assert data_root() == default_root() / "data" == Store().roots["data"]
    monkeypatch.setenv("CXRKIT_DATA", str(tmp_path / "real"))
    assert data_root() == tmp_path / "real" == Store().roots["data"]
    assert data_root(tmp_path / "own") == tmp_path / "own"
    assert Store(data=tmp_path / "own").roots["data"] == tmp_path / "own"
    assert data_root("~/x").is_absolute()


def table_of(store):
    """Three rows with paths of every kind."""
    root, data = store.root, store.data
    return pd.DataFrame(
        {
            "path": [f"{root}/cohort-1/images.npy#7", f"{data}/cohen/a.png", ADDRESS],
            "lung_mask": [f"{root}/cohort-1/lungs#7", np.nan, f"{root}/masks-1/masks.npy#0"],
            "lesion_mask": [np.nan, np.nan, np.nan],
            "origin": [f"{data}/cohen/a.png", "/mnt/other/b.png", ADDRESS],
            "url": [ADDRESS, f"{root}/not/a/path/column", "store:x"],
            "p_covid19": [0.1, 1 / 3, np.nan],
        }
    )


def test_a_table_survives_a_move(tmp_path, store):
    before = table_of(store)
    given = before.copy()
    store.write_table(store.root / "diagnosis-1" / "predictions.csv", given)
    pd.testing.assert_frame_equal(given, before)  # the caller's table is left as it is
    text = (store.root / "diagnosis-1" / "predictions.csv").read_text()
    kept = text.replace(f"{store.root}/not/a/path/column", "")
    assert str(tmp_path) not in kept and "store:cohort-1/images.npy#7" in kept
    pd.testing.assert_frame_equal(
        store.read_table(store.root / "diagnosis-1" / "predictions.csv"), before
    )
    shutil.move(store.root, tmp_path / "moved")
    moved = Store(tmp_path / "moved", data=tmp_path / "mnt" / "real")
    after = moved.read_table(moved.root / "diagnosis-1" / "predictions.csv")
    expected = table_of(moved).assign(url=before["url"])
    pd.testing.assert_frame_equal(after, expected)


def test_a_table_without_paths_is_written_whole_or_not_at_all(store, monkeypatch):
    file = store.root / "rows.csv"
    store.write_table(file, pd.DataFrame({"method": ["a"], "value": [0.5]}))

    def full_disk(*_):
        raise OSError("no space left")

    monkeypatch.setattr(os, "replace", full_disk)
    with pytest.raises(OSError):
        store.write_table(file, pd.DataFrame({"method": ["b"], "value": [0.7]}))
    assert store.read_table(file).to_dict("records") == [{"method": "a", "value": 0.5}]


def test_path_columns_are_those_of_the_tables():
    from cxrkit.config import vocabulary

    masks = {column for column in vocabulary.COLUMNS if column.endswith("_mask")}
    assert set(locations.PATH_COLUMNS) == {"path", "origin"} | masks
