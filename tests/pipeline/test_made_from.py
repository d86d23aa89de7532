"""Stages know the images that they were made from: other data are another artifact, the same data
elsewhere are the same.
"""

import os
import shutil
from dataclasses import replace

import cv2
import numpy as np
import pandas as pd
import pytest

from cxrkit.config import profiles
from cxrkit.data import fingerprints, manifests
from cxrkit.pipeline import derived, made_from, stages
from cxrkit.pipeline.made_from import MissingData
from cxrkit.pipeline.stages import Need, Stage
from cxrkit.storage.artifacts import Store
from cxrkit.storage.atomic import read_json, write_json
from tests.fakes.real_profiles import begins_as_virtual
from tests.pipeline.test_stages import PROFILES

LOCAL = replace(profiles.demo(), name="ours", manifests=("local",))
HEADER = ["path", "patient_id", "view", "diagnosis", "findings", "array", "split"]
TASKS = ("diagnosis", "findings")


def films():
    """Nine films: with a diagnosis and findings, the last two with a severity alone."""
    rows = []
    for i in range(9):
        name = ("normal", "other_infection", "covid19")[i % 3]
        findings = "edema" if i % 3 else "no_finding"
        row = [f"{i}.png", f"p{i}", "PA", name, findings, "", ("train", "val", "test")[i // 3]]
        if i > 6:
            row[3:6] = ["", "", "110000"]
        rows.append(row)
    return pd.DataFrame(rows, columns=HEADER)


def write(folder, table):
    folder.mkdir(parents=True, exist_ok=True)
    for i, path in enumerate(table["path"]):
        if not (folder / path).exists():
            rng = np.random.default_rng(i)
            cv2.imwrite(str(folder / path), rng.integers(0, 256, (9, 9), np.uint8))
    table.to_csv(folder / "films.csv", index=False)


@pytest.fixture
def store(tmp_path):
    write(tmp_path / "A" / "local", films())
    return Store(tmp_path / "store", tmp_path / "A")


def digest(store, tasks=TASKS):
    return made_from.images_digest(LOCAL, tasks, store)


# the digest


def test_the_same_data_elsewhere_in_another_order_at_another_time_are_the_same(store, tmp_path):
    before = digest(store)
    shutil.copytree(tmp_path / "A", tmp_path / "B" / "deep")
    turned = films().iloc[::-1][sorted(HEADER)]
    turned.to_csv(
        tmp_path / "B" / "deep" / "local" / "films.csv", index=False, lineterminator="\r\n"
    )
    for file in (tmp_path / "B" / "deep" / "local").iterdir():
        os.utime(file, (1e9, 1e9))
    assert digest(Store(tmp_path / "other", tmp_path / "B" / "deep")) == before
    assert digest(store) == before and len(before) == 64


CHANGES = {
    "label": ("diagnosis", "covid19"),
    "finding": ("findings", "edema"),
    "split": ("split", "val"),
    "view": ("view", "AP"),
    "patient": ("patient_id", "p77"),
}


@pytest.mark.parametrize("column, value", CHANGES.values(), ids=CHANGES)
def test_a_row_that_changes_is_other_data(store, tmp_path, column, value):
    before = digest(store)
    table = films()
    table.loc[0, column] = value
    write(tmp_path / "A" / "local", table)
    assert digest(store) != before


def test_other_pixels_another_name_and_another_number_of_films_are_other_data(store, tmp_path):
    folder, seen = tmp_path / "A" / "local", [digest(store)]
    shutil.copy(folder / "1.png", folder / "0.png")
    seen.append(digest(store))
    table = films()
    (folder / "2.png").rename(folder / "two.png")
    table.loc[2, "path"] = "two.png"
    write(folder, table)
    seen.append(digest(store))
    write(folder, table[table["path"] != "3.png"])
    seen.append(digest(store))
    assert len(set(seen)) == 4


def test_pixels_that_change_at_the_same_length_and_time_are_other_data(store, tmp_path):
    """`cp -p` and `touch -r` keep size and time of modification."""
    file, before = tmp_path / "A" / "local" / "0.png", digest(store)
    status, data = file.stat(), bytearray(file.read_bytes())
    data[-20] ^= 255
    file.write_bytes(bytes(data))
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert digest(store) != before


def test_films_that_a_task_does_not_use_change_nothing(store, tmp_path):
    """A corrected severity, a film more of that kind, and a lateral one."""
    folder, before = tmp_path / "A" / "local", digest(store)
    severity = digest(store, ("severity",))
    table = films()
    table.loc[8, "array"] = "000011"
    table.loc[9] = ["new.png", "p9", "PA", "", "", "001100", "train"]
    table.loc[10] = ["side.png", "p10", "LL", "covid19", "edema", "", "train"]
    write(folder, table)
    assert digest(store) == before and digest(store, ("severity",)) != severity
    assert made_from.images_digest(profiles.demo(), ("diagnosis",), store) == ""
    assert made_from.images_digest(LOCAL, (), store) == ""


def test_the_manifest_of_public_images_says_their_content(tmp_path):
    """No file is opened; of a mask neither."""
    name = "cohen"
    listed = manifests.image_list(name)
    folder = tmp_path / name / "images"
    folder.mkdir(parents=True)
    (tmp_path / name / listed["path"][0]).write_bytes(b"not read")
    profile = replace(LOCAL, manifests=(name,))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fingerprints, "fingerprint", lambda file: pytest.fail(f"{file} was opened"))
        made_from._listed_contents(name, tmp_path / name)
        dataset = made_from._dataset(name, profile, Store(tmp_path / "store", tmp_path))
    for path, sha256 in zip(listed["path"][:5], listed["sha256"][:5], strict=True):
        assert dataset.contents[str(tmp_path / name / path)] == sha256
    assert len(dataset.contents) >= len(listed)


def test_many_files_are_looked_at_once_and_remembered_on_disk(store, tmp_path, monkeypatch):
    monkeypatch.setattr(fingerprints, "MANY", 2)
    monkeypatch.setattr(fingerprints, "SETTLED", -1)
    before = digest(store)
    kept = list((store.root / "fingerprints").iterdir())
    assert [file.name for file in kept] == ["local.json"]
    monkeypatch.setattr(fingerprints, "_taken", {})
    monkeypatch.setattr(fingerprints, "_looked", {})
    monkeypatch.setattr(fingerprints, "fingerprint", lambda file: pytest.fail(f"{file} was read"))
    assert digest(store) == before
    kept[0].write_text('{"damaged')
    monkeypatch.undo()
    assert digest(store) == before


# what stages make of it


@pytest.fixture
def toys(monkeypatch):
    """Two stages that write down how many films they are given; -> names as they are made."""
    made = []

    def fill(name, task):
        def make(folder, profile, inputs):
            made.append(name)
            assert not (folder / "checkpoint").exists() or name == "first"
            write_json(folder / "given.json", len(inputs.images(profile, task)))

        return make

    def needs(profile):
        return [Need("first", "first", profile, "after first")]

    table = (
        Stage(
            "first", ("seed",), fill("first", "findings"), stages.nothing, lambda p: ("findings",)
        ),
        Stage("last", ("seed",), fill("last", "severity"), needs, lambda p: ("severity",)),
    )
    monkeypatch.setattr(stages, "STAGES", {stage.name: stage for stage in table})
    return made


def test_other_data_are_another_artifact_and_the_differences_are_said(store, tmp_path, toys):
    old = stages.resolve(LOCAL, "last", store)
    assert toys == ["first", "last"] and stages.resolve(LOCAL, "last", store) == old
    table = films()
    table.loc[8, "array"] = "000011"
    write(tmp_path / "A" / "local", table)
    with pytest.warns(
        UserWarning, match=rf"{old.name} stays .* other images: rows that differ: 1 changed: "
    ) as said:
        new = stages.resolve(LOCAL, "last", store)
    assert "8.png (labels rul=1 rml=1 lml=0 lll=0 -> rul=0 rml=0 lml=1 lll=1)" in str(
        said[0].message
    )
    assert new != old and new.name[:-9] == old.name[:-9] and old.is_dir()
    assert toys == ["first", "last", "last"], "the findings have not changed"
    write(tmp_path / "A" / "local", films())
    assert stages.resolve(LOCAL, "last", store) == old, "the old data find the old artifact"
    assert len(made_from.read(new)) == 9


def test_a_change_before_a_stage_makes_it_again(store, tmp_path, toys):
    old = stages.resolve(LOCAL, "last", store)
    table = films()
    table.loc[0, "findings"] = "edema"
    write(tmp_path / "A" / "local", table)
    with pytest.warns(UserWarning, match="other images"):
        assert stages.resolve(LOCAL, "last", store) != old
    assert toys == ["first", "last"] * 2


def test_a_training_never_goes_on_over_other_data(store, tmp_path, toys):
    folder = stages.folder_of(LOCAL, "last", store)
    part = folder.with_name(f"{folder.name}.part")
    part.mkdir(parents=True)
    (part / "checkpoint").write_text("step 10")
    table = films()
    table.loc[8, "array"] = "000011"
    write(tmp_path / "A" / "local", table)
    stages.resolve(LOCAL, "last", store)  # asserts that it was given no checkpoint
    assert (part / "checkpoint").exists()


def test_where_the_images_are_not_what_was_made_from_them_is_found(store, tmp_path, toys):
    done = stages.resolve(LOCAL, "last", store)
    elsewhere = Store(store.root, tmp_path / "nothing")
    assert stages.resolve(LOCAL, "last", elsewhere) == done
    assert stages.finished(LOCAL, "last", elsewhere) == done
    assert stages.folder_of(LOCAL, "last", elsewhere) == done
    assert stages.is_done(LOCAL, "last", elsewhere)
    assert not stages.is_done(replace(LOCAL, seed=5), "last", elsewhere)
    assert stages.finished(replace(LOCAL, seed=5), "last", elsewhere) is None
    with pytest.raises(MissingData, match="local: no images listed in .*How to obtain"):
        stages.resolve(replace(LOCAL, seed=5), "last", elsewhere)
    shutil.copytree(done, done.with_name(f"{done.name[:-8]}01234567"))
    with pytest.raises(MissingData, match=r"cannot be said which of these .*01234567.*--data"):
        stages.resolve(LOCAL, "last", elsewhere)


def test_images_that_are_listed_and_not_there_are_missing(store, tmp_path):
    for file in (tmp_path / "A" / "local").glob("*.png"):
        file.unlink()
    with pytest.raises(MissingData, match="local: no image of it in .*/local"):
        digest(store)


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_whatever_comes_before_a_stage_has_its_images_or_virtual_ones(profile):
    """`used_tasks` asks one profile for the images of all."""
    for name in stages.STAGES:
        for _, other in stages.upstream(profile, name):
            same = other.manifests == profile.manifests and other.sources == profile.sources
            assert same or not made_from.real_manifests(other)


def test_stages_of_virtual_patients_have_the_keys_they_had(tmp_path):
    store = Store(tmp_path)
    for name in stages.STAGES:
        demo = profiles.demo()
        expected = store.folder(name, stages.settings(demo, name))
        assert stages.folder_of(demo, name, store) == expected
    mini = profiles.mini()
    assert stages.data_digest(mini, "marker_study", store) == ""
    assert stages.used_tasks(mini, "severity") == ("diagnosis", "findings", "lungs", "severity")
    own = begins_as_virtual()
    assert stages.used_tasks(own, "severity") == ("diagnosis", "lungs", "severity")


def test_masks_are_made_again_for_other_pixels(store, tmp_path):
    file = tmp_path / "A" / "local" / "0.png"
    cohort = str(store.root / "cohort-0123456789ab" / "images.npy#1")
    before = derived.digest(store, [str(file)]), derived.digest(store, [cohort])
    shutil.copy(tmp_path / "A" / "local" / "1.png", file)
    assert derived.digest(store, [str(file)]) != before[0]
    assert derived.digest(store, [cohort]) == before[1]


def test_differences_count_and_name_rows():
    columns = list(made_from.ROW)
    old = pd.DataFrame(
        [["d", f"{i}.png", *"spgtv", "edema=1 opacity=0", "", "c"] for i in range(9)]
    )
    old.columns = columns
    new = old.copy()
    new.loc[3, "labels"] = "edema=1 opacity=1"
    new.loc[4, "content"] = "k"
    new = pd.concat([new.iloc[2:], old.iloc[:1].assign(path="z.png")])
    text = made_from.differences(old, new, shown=9)
    assert text.startswith("rows that differ: 2 changed, 1 new, 2 gone: ")
    assert "d/3.png (labels opacity=0 -> opacity=1)" in text
    assert "d/4.png (content c -> k)" in text and "d/z.png (new)" in text
    assert "d/0.png (gone)" in text and "d/5.png" not in text
    assert made_from.differences(old, old) == "no row differs"
    assert text != made_from.differences(old, new, shown=1)


def test_the_settings_of_an_artifact_stay_those_that_are_hashed(store, toys):
    folder = stages.resolve(LOCAL, "first", store)
    assert read_json(folder / "settings.json") == {"recipe": 1, "seed": 0}
    assert sorted(path.name for path in folder.iterdir()) == [
        "files.json",
        "given.json",
        "made_from.csv.gz",
        "settings.json",
    ]
