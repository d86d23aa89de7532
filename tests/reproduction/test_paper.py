"""The paper's data in their public layouts, on stand-ins: what is read, what it will cost, and the
whole path, small and at full size.
"""

import warnings
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import PurePosixPath
from types import SimpleNamespace

import numpy as np
import pandas as pd
import papermill
import pytest
import torch
import yaml
from click.testing import CliRunner

from cxrkit import cli
from cxrkit.config import profiles
from cxrkit.config.choices import Choices
from cxrkit.config.sections import Training
from cxrkit.config.vocabulary import FINDINGS
from cxrkit.data import datasets, images, manifests, masks
from cxrkit.pipeline import stages, task_data
from cxrkit.reproduction import execution, grid, plan
from cxrkit.storage.artifacts import Store
from cxrkit.storage.atomic import read_json
from cxrkit.training import devices
from tests.conftest import CHECKOUT
from tests.fakes import trees

pytest.importorskip("pydicom", reason="needs the extra: pip install 'cxrkit[dicom]'")
PAPER = profiles.paper()
TINY = profiles.dry(profiles.demo())
SMALL = replace(
    TINY,
    name="small",
    manifests=PAPER.manifests,
    external=PAPER.external,
    sources=PAPER.sources,
    severity=PAPER.severity,
    image_size=64,
    segmenter=replace(
        PAPER.segmenter,
        size=32,
        widths=(8, 16),
        discriminator_widths=(8, 16, 16),
        unet_widths=(8, 16),
        hidden=16,
    ),
)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return trees.build(tmp_path_factory.mktemp("trees"))


@pytest.fixture(scope="module")
def store(root, tmp_path_factory):
    return Store(tmp_path_factory.mktemp("store"), data=root)


@pytest.fixture(scope="module")
def made(store, few_draws):
    """Folder of every stage, two updates each."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {
            name: stages.resolve(SMALL, name, store)
            for name in ("backbone", "segmenter", "diagnosis_pa", "diagnosis_ap", "severity")
        }


# what is read


def test_every_film_of_every_layout_can_be_read(root):
    for tree in trees.TREES:
        table = manifests.read_manifest(tree.__name__, root)
        assert len(table) >= 7 and all(
            images.load_image(path).pixels.shape == (160, 140) for path in table["path"]
        )


def test_what_serves_which_task(store):
    """Lateral films and slices are left out, Brixia's views come from its DICOM tags, and three
    hospitals are set aside by name.
    """
    tables = {task: task_data.images_for(PAPER, task, store) for task in task_data.TASKS}
    counts = tables["findings"]["dataset"].value_counts().to_dict()
    # of NIH ten patients of each view and class are in the test split
    assert counts == {"chexpert": 52, "chexpert_valid": 4, "nih_chestxray14": 40}
    assert all(set(table["view"]) == {"PA", "AP"} for table in tables.values())
    assert set(tables["severity"]["dataset"]) == {"brixia", "local"} and set(
        tables["lungs"]["dataset"]
    ) == {"local"}
    diagnosed = tables["diagnosis"]
    away = diagnosed["external"].astype(bool)
    assert set(diagnosed["site"][away]) == {"CNUH", "YNU", "KNUH", "cohen_full"} and "here" in set(
        diagnosed["site"][~away]
    )
    for split in ("train", "val", "test"):
        for view in trees.VIEWS:
            inside = diagnosed[~away & (diagnosed["split"] == split) & (diagnosed["view"] == view)]
            assert set(inside["diagnosis"]) == {"normal", "other_infection", "covid19"}


def test_inverted_films_look_like_the_others(root):
    """Brixia mixes MONOCHROME1 and 2: lungs are dark in both."""
    kinds = set()
    for path in sorted((root / "brixia" / "dicom_clean").iterdir()):
        film = images.load_image(path)
        _, lungs, lesion = trees.chest(int(path.stem), True)
        kinds.add(film.photometric)
        assert film.pixels[(lungs > 0) & (lesion == 0)].mean() < film.pixels[lungs == 0].mean()
    assert kinds == {"MONOCHROME1", "MONOCHROME2"}


def test_a_mask_of_no_lesion_is_a_mask(root):
    assert masks.load_mask(str(root / "local" / "lesions" / "0.png"), "lesion").max() == 0


def test_unknown_views_are_asked_of_dicom_alone(root):
    """A PNG cannot say its view; it stays unknown, and is kept or left out by choice 19 where a
    view is needed.
    """
    assert images.view_of(str(root / "bimcv_covid19")) is None
    assert {images.view_of(str(path)) for path in (root / "brixia" / "dicom_clean").iterdir()} == {
        "PA",
        "AP",
    }
    assert Choices().views == "known"


# the few films of a dry run


def swell(path, column, times, folder, prefix=""):
    """Rewrite a table so that every image stands in it `times` times, each under a name of its own.

    The names are hard links beside the image: a path with `..` in it would be the same image again.
    """
    rows = pd.read_csv(path, dtype=str, keep_default_na=False)
    copies = [rows]
    for k in range(1, times):
        names = [PurePosixPath(name) for name in rows[column]]
        others = [str(name.with_stem(f"{name.stem}_{k}")) for name in names]
        copies.append(rows.assign(**{column: others}))
        for name, other in zip(names, others, strict=True):
            here = folder / str(name).removeprefix(prefix)
            (folder / other.removeprefix(prefix)).hardlink_to(here)
    pd.concat(copies).to_csv(path, index=False)


def many(table, times=30):
    """The table with every film `times` times, each time of another patient."""
    copies = [
        table.assign(path=table["path"] + f"?{k}", group_id=table["group_id"] + f"?{k}")
        for k in range(times)
    ]
    return pd.concat(copies, ignore_index=True)


@pytest.mark.parametrize("task", task_data.TASKS)
@pytest.mark.parametrize("most", [1, 3])
def test_a_dry_run_takes_a_few_films_of_each_kind(store, task, most):
    """Counted by hand: dataset, hospital, split, view and diagnosis are all still there, three
    times at most; the order stays.
    """
    table, profile = many(task_data.images_for(PAPER, task, store)), replace(PAPER, max_images=most)
    few = task_data.subsample(table, profile, task)

    def kinds(films):
        return Counter(
            (f.dataset, f.site, bool(f.external), f.split, f.view, str(f.diagnosis))
            for f in films.itertuples()
        )

    assert set(kinds(few)) == set(kinds(table)) and min(kinds(table).values()) >= 30
    assert task == "findings" or set(kinds(few).values()) == {most}
    at = table["path"].tolist().index
    assert [at(path) for path in few["path"]] == sorted(set(map(at, few["path"])))
    pd.testing.assert_frame_equal(few, task_data.subsample(table, profile, task))
    assert list(few["path"]) != list(
        task_data.subsample(table, replace(profile, seed=1), task)["path"]
    )
    pd.testing.assert_frame_equal(table, task_data.subsample(table, PAPER, task))


def test_a_dry_run_sees_patients_enough_for_an_auc_of_every_finding(store):
    """Twenty with it and twenty without, in every split, and hardly more: the rest of the 1,560
    films stays away.
    """

    def patients(films):
        found = defaultdict(set)
        for film in films.to_dict("records"):
            for name in FINDINGS:
                if not np.isnan(film[name]):
                    found[film["split"], name, film[name]].add(film["group_id"])
        return {what: len(groups) for what, groups in found.items()}

    table = many(task_data.images_for(PAPER, "findings", store))
    few = task_data.subsample(table, replace(PAPER, max_images=3), "findings")
    assert set(patients(few)) == set(patients(table)) and min(patients(few).values()) >= 20
    assert few["group_id"].is_unique and len(few) < 400


def test_a_rare_kind_is_taken_whole_and_one_patient_is_not_all_of_a_kind():
    """Nine films of one patient and two of others: three patients; of a hospital with two films
    both.
    """
    table = pd.DataFrame(
        {
            "path": range(13),
            "group_id": ["a"] * 9 + list("bcde"),
            "dataset": "x",
            "site": ["s"] * 11 + ["t"] * 2,
            "external": False,
            "split": "test",
            "view": None,
            "diagnosis": np.nan,
        }
    )
    few = task_data.subsample(table, replace(PAPER, max_images=3), "diagnosis")
    assert sorted(few["group_id"]) == list("abcde")


@pytest.mark.integration
def test_a_dry_run_decodes_few_films_of_however_many(tmp_path, few_draws):
    """4,160 frontal films of CheXpert and as many of the NIH, all of them there: two trainings
    decode no more than of a quarter.
    """

    def decoded(times):
        root = tmp_path / str(times)
        for tree in (trees.chexpert, trees.nih_chestxray14, trees.bimcv_covid19):
            tree(root / tree.__name__)
        chexpert, nih = root / "chexpert", root / "nih_chestxray14"
        swell(chexpert / "train.csv", "Path", times, chexpert, "CheXpert-v1.0/")
        swell(nih / "Data_Entry_2017_v2020.csv", "Image Index", times, nih / "images")
        store = Store(tmp_path / f"store {times}", data=root)
        alone = replace(SMALL.sources, findings_tests=())
        names = ("chexpert", "nih_chestxray14", "bimcv_covid19")
        profile = replace(SMALL, manifests=names, sources=alone)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            stages.resolve(profile, "diagnosis_pa", store)
        assert sum(map(len, plan.task_tables(profile, store).values())) == (52 + 52) * times + 8
        return sum(
            len(file.read_bytes().splitlines()) for file in store.root.glob("images-*/index.jsonl")
        )

    few = decoded(20)
    print(f"decoded {few}")
    assert few == decoded(80) < 300


# the whole path


@pytest.mark.integration
def test_every_stage_runs_on_the_public_layouts(made):
    for name, folder in made.items():
        found = read_json(folder / "metrics.json")
        assert found and (folder / "weights.safetensors").exists(), name
    found = read_json(made["diagnosis_pa"] / "metrics.json")
    assert set(found["sites"]) == set(PAPER.external)
    assert set(read_json(made["severity"] / "metrics.json")["sites"]["CNUH"]) >= {
        "mse",
        "mae",
        "cc",
        "r2",
    }


def test_no_name_of_a_patient_is_written(made, store, root):
    """Every DICOM file carries one; nothing that the stages left does, not even inside an array."""
    assert any(trees.NAME.encode() in path.read_bytes() for path in root.rglob("*.dcm"))
    files = [path for path in store.root.rglob("*") if path.is_file()]
    assert len(files) > 30 and not [
        path for path in files if trees.NAME.encode() in path.read_bytes()
    ]


# what it will cost


def test_the_plan_counts_the_films_that_teach(store):
    tables = plan.task_tables(SMALL, store)
    count = {
        name: images
        for planned in plan.planned_trainings(SMALL, tables)
        for name, images in planned.images.items()
    }
    train = {task: datasets.split_parts(table)["train"] for task, table in tables.items()}
    # all of CheXpert trains the findings
    assert count["backbone"] == len(train["findings"]) == 52 and len(train["severity"]) == 4 + 6
    # Brixia and "here", and the two other hospitals with their twelve films each
    assert count["severity without CNUH"] == 4 + 6 + 2 * 12
    for view in trees.VIEWS:  # two patients of each class from elsewhere, and three from "here"
        assert (train["diagnosis"]["view"] == view).sum() == 2 * 4 + 3
    # of AP films CNUH alone is set aside: YNU and KNUH give six each
    assert count["diagnosis PA"] == 11 and count["diagnosis AP"] == 11 + 2 * 6
    assert count["lungs: unet_normal"] == 2 and count["lungs: unet_both"] == 6


@pytest.mark.integration
def test_the_plan_is_said_and_stops_where_the_disk_is_too_small(root, store, monkeypatch):
    (root / "rsna").mkdir()
    monkeypatch.setattr(plan.shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with warnings.catch_warnings(), pytest.raises(OSError, match="the disk is too small") as error:
        warnings.simplefilter("ignore")
        plan.describe_plan(replace(SMALL, max_images=1), store)
    count = {
        films: sum(
            len(task_data.images_for(replace(SMALL, max_images=films), task, store))
            for task in task_data.TASKS
        )
        for films in (0, 1)
    }
    # a film serves several tasks
    findings, diagnosis = 52 + 4 + 40, 8 + 8 + 52 + 12 + 42
    assert count[1] < count[0] == findings + 42 + diagnosis + (8 + 42)
    for word in (
        "profile small on",
        "rsna stays out: its films are those of nih_chestxray14 under other names",
        f"a dry run takes {count[1]} of these {count[0]} films",
        "lungs: student",
        "diagnosis AP",
        "decoding, once",
        "hours on this machine",
        "not counted: ",
        "further trainings",
        "memory:",
        "disk:",
    ):
        assert word in str(error.value)


def test_cost_is_worked_out_from_an_update():
    """160,000 updates of 8 films at half a second a film, and a model of a million weights under
    Adam.
    """
    cost = plan.Cost(
        "backbone",
        190_847,
        Training("adam", batch=8, steps=160_000),
        seconds=0.5,
        kept=2**20,
        weights=10**6,
        measured=2,
    )
    assert cost.seen == 1_280_000 and cost.hours == pytest.approx(1_280_000 / 2 / 3600)
    assert cost.memory == 8 * 2**20 + 4 * 4 * 10**6  # weights, gradients, two moments
    assert (
        replace(cost, training=replace(cost.training, optimizer="sgd", ema=0.9)).memory
        == 8 * 2**20 + 4 * 4 * 10**6
    )


def test_where_the_batch_does_not_fit_on_the_card_the_plan_measures_fewer_films_and_says_so(
    monkeypatch,
):
    tried, card = [], torch.device("cuda")  # named, not used

    def small_card(training, model, loss, batch, device):
        tried.append(len(batch["image"]))
        if tried[-1] > room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return 0.5, 2**20, 10**6, 1e9

    monkeypatch.setattr(plan, "measure_update", small_card)
    monkeypatch.setattr(devices, "pick_device", lambda: card)
    training = Training("adam", batch=16, steps=10)
    planned = plan.PlannedTraining({"PA": 5, "AP": 7}, training, lambda: None, None, 8)
    for room, tries in ((99, [16]), (5, [16, 8, 4]), (2, [16, 8, 4, 2])):
        tried.clear()
        costs = plan.training_costs([planned])
        assert tried == tries and [c.measured for c in costs] == [tries[-1]] * 2
        said = plan.oversized(costs)
        assert len(said) == (0 if room == 99 else 2)
        assert all(
            f"measured with {tries[-1]} films: the whole batch of 16 does not fit" in line
            for line in said
        )
    room = 1
    with pytest.raises(
        ValueError, match="an update of 2 films of 8 px does not fit on cuda: CUDA out of memory"
    ):
        plan.training_costs([planned])


def test_missing_datasets_are_named_all_at_once(root, tmp_path):
    for name in ("chexpert", "brixia"):
        (tmp_path / name).symlink_to(root / name)
    with pytest.raises(plan.MissingData) as error:
        plan.task_tables(PAPER, Store(tmp_path / "store", data=tmp_path))
    said = str(error.value)
    assert "chexpert" not in said and "brixia" not in said.split("--profile")[0]
    for name in PAPER.manifests[3:]:  # the validation films of CheXpert lie with the others
        assert f"{name}: no images listed" in said and f"--profile paper-{name}" in said


@pytest.mark.parametrize("few", [0, 1])
def test_films_that_a_table_lists_and_the_disk_lacks_are_counted(tmp_path, few):
    """Also those that a dry run would not take."""
    trees.chexpert(tmp_path / "chexpert")
    lost = sorted((tmp_path / "chexpert" / "train").rglob("*frontal.jpg"))[3]
    lost.unlink()
    only = replace(PAPER, manifests=("chexpert",), max_images=few)
    with pytest.raises(
        plan.MissingData, match=f"1 of 52 films for the findings are not there, the first: {lost}"
    ):
        plan.task_tables(only, Store(tmp_path / "store", data=tmp_path))


# headless


@pytest.mark.parametrize(
    "path", sorted((CHECKOUT / "notebooks" / "profiles").glob("*.yaml")), ids=lambda path: path.stem
)
def test_parameter_files_fit_every_lesson(path):
    given = yaml.safe_load(path.read_text())
    assert profiles.get(execution.Parameters(**given).profile)
    for lesson in sorted((CHECKOUT / "notebooks").glob("0*.ipynb")):
        assert set(given) <= set(papermill.inspect_notebook(str(lesson)))


@pytest.mark.integration
def test_reproduce_says_the_plan_first_and_stops_without_the_data(tmp_path):
    called = CliRunner().invoke(
        cli.main,
        [
            "reproduce",
            "--profile",
            "paper",
            "--data",
            str(tmp_path),
            "--out",
            str(tmp_path / "store"),
            "--dry-run",
        ],
    )
    assert (
        called.exit_code == 1
        and "chexpert: no images listed" in called.output
        and "--profile paper+dry-chexpert" in called.output
    )
    assert not (tmp_path / "store" / "runs").exists()


@pytest.mark.slow
@pytest.mark.timeout(6 * 3600)  # it took 64 minutes on two cores
def test_a_dry_run_at_full_size(root, tmp_path, monkeypatch):
    """Lessons 02 to 07 as on a GPU with the full datasets: 512 px, DenseNet-121, ViT-B, whole
    batches, two updates a training.

    The lesson of the grid goes on without cells whose published weights cannot be fetched; here
    they start at random instead.
    """
    # `reproduce` sets it for its kernels: here it is put back
    monkeypatch.setenv("CXRKIT_DATA", str(root))
    called = CliRunner().invoke(
        cli.main,
        [
            "reproduce",
            "--profile",
            "paper",
            "--data",
            str(root),
            "--out",
            str(tmp_path),
            "--dry-run",
        ],
    )
    assert called.exit_code == 0, called.output
    assert called.output.index("hours on this machine") < called.output.index("[1/6] 02_backbone")
    dry = profiles.get("paper+dry")
    offline = grid.rehearsal_cells(replace(dry, grid=replace(dry.grid, initial_weights="random")))
    assert [error for _, error in grid.run_cells(offline, Store(tmp_path, data=root))] == [
        None
    ] * len(offline)
