"""The paper's scale on public data alone, small, on stand-ins of the public trees."""

import re
import shutil
import warnings
from dataclasses import replace

import click
import pandas as pd
import pytest
from click.testing import CliRunner

from cxrkit import cli
from cxrkit.config import profiles
from cxrkit.config.settings_file import write_settings
from cxrkit.data.datasets import split_parts
from cxrkit.pipeline import stages, task_data
from cxrkit.reproduction import plan
from cxrkit.storage.artifacts import Store
from cxrkit.storage.atomic import read_json
from cxrkit.tasks import segmentation
from tests.conftest import CHECKOUT
from tests.fakes import listed, trees

pytest.importorskip("pydicom", reason="needs the extra: pip install 'cxrkit[dicom]'")
PUBLIC = profiles.public()
TINY = profiles.dry(profiles.demo())
SMALL = replace(
    TINY,
    name="small_public",
    manifests=PUBLIC.manifests,
    external=PUBLIC.external,
    sources=PUBLIC.sources,
    severity=PUBLIC.severity,
    image_size=64,
    segmenter=replace(
        PUBLIC.segmenter,
        size=32,
        widths=(8, 16),
        discriminator_widths=(8, 16, 16),
        unet_widths=(8, 16),
        hidden=16,
    ),
)
# every dataset in the layout that is hardest to read
OWN = {**trees.HARD_TREES, **{tree.__name__: tree for tree in listed.TREES}}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """The trees that `public` names, and no other."""
    folder = tmp_path_factory.mktemp("trees")
    for name in PUBLIC.manifests:
        OWN[name](folder / name)
    return folder


@pytest.fixture(scope="module")
def store(root, tmp_path_factory):
    return Store(tmp_path_factory.mktemp("store"), data=root)


@pytest.fixture(scope="module")
def tables(store):
    return {task: task_data.images_for(PUBLIC, task, store) for task in task_data.TASKS}


def datasets_of(table):
    return set(table["dataset"])


def test_the_chain_of_the_docs_is_one_of_real_commands():
    """Extras, datasets, commands and options of the block that a reader copies."""
    text = (CHECKOUT / "docs" / "paper.md").read_text()
    chain = text.split("```bash\n", 1)[1].split("```", 1)[0]
    extras = re.search(r'-e "\.\[(.+)\]"', chain)
    assert extras and {"lessons", "dicom", "weights"} <= set(extras[1].split(","))
    listed = re.search(r"for name in (.+); do", chain)
    assert listed and set(listed[1].split()) == set(PUBLIC.manifests)
    options = re.search(r'P="(.+)"', chain)
    assert options
    commands = []
    for line in chain.replace("$P", options[1]).splitlines():
        words = line.strip().lstrip("# ").split("#")[0].split()
        if words[:1] == ["cxrkit"]:
            commands.append(words[1:])
    assert len(commands) > 8
    for words in commands:
        command = cli.main
        while isinstance(command, click.Group):
            command = command.commands[words.pop(0)]
        known = {name for parameter in command.params for name in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= known, (command.name, words)


def test_public_names_no_private_data():
    assert "local" not in PUBLIC.manifests and set(PUBLIC.external) <= set(PUBLIC.manifests)
    paper = profiles.paper()
    for name in ("image_size", "backbone", "transformer", "segmenter"):
        assert getattr(PUBLIC, name) == getattr(paper, name)
    for name in ("backbone", "segmenter", "student", "unet", "transformer", "severity"):
        assert getattr(PUBLIC, f"{name}_training") == getattr(paper, f"{name}_training")


def test_public_masks_teach_the_lungs_and_some_a_diagnosis(tables):
    """Normal masks are those of 68 children and of adults; what trains elsewhere is another."""
    adults = {*profiles.TUBERCULOSIS, *profiles.NODULES}
    # V7's masks lie in the clone of cohen_full
    assert datasets_of(tables["lungs"]) == {*profiles.MASKED, *adults, "cohen_full"}
    assert not datasets_of(tables["diagnosis"]) & {*profiles.MASKED, *profiles.NODULES}
    both = pd.concat([tables["lungs"], tables["diagnosis"]]).drop_duplicates("path")
    roles = segmentation.assign_roles(PUBLIC, both.reset_index(drop=True))
    normal = roles[(roles["role"] == "normal") & roles["lung_mask"].notna()]
    assert {"kermany", "montgomery"} <= datasets_of(normal) <= {"kermany", *adults}
    assert (normal["dataset"] == "kermany").sum() > 30
    for held_out in ("cohen", "cohen_full"):
        assert set(roles.loc[roles["dataset"] == held_out, "role"]) <= {"test", ""}


def test_all_of_chexpert_trains_the_findings_and_other_films_test_them(tables, store):
    """Its validation films are of the same hospital; those of NIH train nothing anywhere."""
    films = dict(iter(tables["findings"].groupby("dataset")))
    assert set(films) == {"chexpert", *profiles.FINDINGS_TESTS}
    assert set(films["chexpert"]["split"]) == {"train"} and len(films["chexpert"]) > 40
    assert set(films["chexpert_valid"]["split"]) == {"test"}
    external = {name: set(rows["external"].astype(bool)) for name, rows in films.items()}
    assert external == {"chexpert": {False}, "chexpert_valid": {False}, "nih_chestxray14": {True}}
    diagnosed = split_parts(tables["diagnosis"])
    trains = pd.concat([diagnosed["train"], diagnosed["val"]])
    assert len(films["nih_chestxray14"]) and not set(trains["group_id"]) & set(
        films["nih_chestxray14"]["group_id"]
    )
    divided = replace(PUBLIC, choices=replace(PUBLIC.choices, pretraining_images="split"))
    other = task_data.images_for(divided, "findings", store)
    kept = other[other["dataset"] == "chexpert"]
    assert set(kept["split"]) == {"train", "val", "test"} and len(kept) == len(films["chexpert"])


def test_without_films_that_test_the_split_of_chexpert_stays(root, tmp_path):
    (tmp_path / "chexpert").symlink_to(root / "chexpert")
    names = tuple(n for n in PUBLIC.manifests if n not in profiles.FINDINGS_TESTS)
    alone = replace(PUBLIC, manifests=names)
    table = task_data.images_for(alone, "findings", Store(tmp_path / "store", data=tmp_path))
    assert datasets_of(table) == {"chexpert"}
    assert set(table["split"]) == {"train", "val", "test"} and not table["external"].any()


def test_tuberculosis_is_another_infection_beside_normal_films_of_its_hospital(tables):
    """As the stand-ins were written: of eight films four are ill, of six three."""
    for name, ill in (("montgomery", 4), ("shenzhen_full", 3)):
        films = tables["diagnosis"][tables["diagnosis"]["dataset"] == name]
        assert set(films["diagnosis"]) == {"normal", "other_infection"}
        assert (films["diagnosis"] == "other_infection").sum() == ill
        assert (films["cause"] == "tuberculosis").any() and not films["external"].any()


def test_severity_trains_on_brixia_and_is_tested_elsewhere(tables):
    parts = split_parts(tables["severity"])
    assert datasets_of(parts["train"]) == {"brixia"}
    assert datasets_of(parts["external"]) == {"cohen"}


def test_a_dataset_that_serves_no_task_is_not_read(tmp_path):
    """CheXpert and NIH are enough for the backbone."""
    trees.chexpert(tmp_path / "chexpert")
    trees.nih_chestxray14(tmp_path / "nih_chestxray14")
    table = task_data.images_for(PUBLIC, "findings", Store(tmp_path / "store", data=tmp_path))
    assert datasets_of(table) == {"chexpert", *profiles.FINDINGS_TESTS}


@pytest.mark.parametrize(
    ("absent", "parts"),
    [
        ("chexpert", {"backbone"}),
        ("brixia", {"diagnosis", "segmenter", "severity"}),
        ("kermany", {"segmenter"}),
        ("montgomery", {"diagnosis", "segmenter"}),
        ("jsrt", {"segmenter"}),
    ],
)
def test_what_lacks_its_data_fails_alone_with_the_next_step(root, tmp_path, absent, parts):
    for name in PUBLIC.manifests:
        if name != absent:
            (tmp_path / name).symlink_to(root / name)
    store = Store(tmp_path / "store", data=tmp_path)
    _, planned, problems = plan.plan_parts(SMALL, store, plan.PARTS)
    assert {line.partition(":")[0] for line in problems} == parts
    assert all(f"--profile small_public-{absent}" in line for line in problems)
    names = {name for training in planned for name in training.images}
    assert ("backbone" in names) == ("backbone" not in parts)
    # without a set that takes turns, none of the two models can be made
    turns = {f"severity without {site}" for site in profiles.TURNS}
    assert names & turns == (set() if "severity" in parts else turns)


def test_no_normal_mask_stops_the_segmenter_alone(root, tmp_path):
    """The plan of a profile whose films have no normal mask names the segmenter, and goes on."""
    normal = ("kermany", *profiles.TUBERCULOSIS, *profiles.NODULES)
    without = replace(SMALL, manifests=tuple(n for n in SMALL.manifests if n not in normal))
    store = Store(tmp_path, data=root)
    _, planned, problems = plan.plan_parts(without, store, plan.PARTS)
    assert len(problems) == 1 and problems[0].startswith("segmenter: 0 patients with a normal mask")
    assert {"backbone", "diagnosis PA", "severity without brixia"} <= {
        name for training in planned for name in training.images
    }
    with pytest.raises(plan.MissingData, match="segmenter: 0 patients"):
        plan.plan_parts(without, store, ["segmenter"])


def test_the_plan_of_one_lesson_reads_what_that_lesson_needs(root, tmp_path, few_draws):
    assert plan.parts_of(["02"]) == ("backbone",) and plan.parts_of(["05_saliency"]) == (
        "backbone",
        "diagnosis",
    )
    assert plan.parts_of(()) == tuple(plan.PARTS) and plan.parts_of(["01"]) == ()
    for name in ("chexpert", "nih_chestxray14"):
        shutil.copytree(root / name, tmp_path / name)
    said = plan.describe_plan(SMALL, Store(tmp_path / "store", data=tmp_path), ("02",))
    assert "backbone" in said and "cannot be made" not in said and "severity" not in said


@pytest.mark.integration
def test_every_stage_runs_on_public_trees(store, few_draws):
    """The small twin of the dry run at full size."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = {
            name: stages.resolve(SMALL, name, store)
            for name in ("backbone", "segmenter", "diagnosis_pa", "diagnosis_ap", "severity")
        }
    found = {name: read_json(folder / "metrics.json") for name, folder in made.items()}
    assert set(found["backbone"]["sites"]) == {"nih_chestxray14"} and "test" in found["backbone"]
    assert found["backbone"]["images"]["val"] == 0
    assert set(found["diagnosis_pa"]["sites"]) == {"cohen_full"}
    assert set(found["severity"]["sites"]) == {"cohen"}
    assert found["severity"]["outlined"]["map"]  # Figure 7, on lesions of BIMCV
    turns = {need.role: need.profile for need in stages.needs_of_alternation(SMALL)}
    assert tuple(turns) == profiles.TURNS
    assert stages.folder_of(turns["cohen"], "severity", store) == made["severity"]
    assert found["segmenter"]["images"]["evaluated"] > 20


@pytest.fixture
def as_a_user(root, monkeypatch):
    """A user's environment: his trees, and the artifacts that come with the kit.

    Lesson 05 points at lesions of the virtual hospitals. Their table is among these artifacts;
    without it the whole cohort would be drawn.
    """
    # `reproduce` sets it for its kernels: here it is put back
    monkeypatch.setenv("CXRKIT_DATA", str(root))
    monkeypatch.delenv("CXRKIT_FRESH")


@pytest.mark.slow
@pytest.mark.timeout(2 * 3600)
def test_lessons_02_to_07_run_small_on_public_trees(root, tmp_path, as_a_user):
    """The same command with small networks: every cell of every lesson, in minutes."""
    settings = write_settings(replace(SMALL, lesson_minutes=60), tmp_path / "small_public.yaml")
    lessons = [part for number in cli.DRY_LESSONS for part in ("--only", number)]
    asked = ["--profile", str(settings), "--data", str(root), "--out", str(tmp_path / "store")]
    called = CliRunner().invoke(cli.main, ["reproduce", *asked, *lessons])
    assert called.exit_code == 0, called.output
    assert "FAILED" not in called.output and "without each of cohen, brixia" in called.output


@pytest.mark.slow
@pytest.mark.timeout(6 * 3600)
def test_a_dry_run_of_public_at_full_size(root, tmp_path, as_a_user):
    """Lessons 02 to 07 on public trees alone, by one command."""
    asked = ["--profile", "public", "--data", str(root), "--out", str(tmp_path), "--dry-run"]
    called = CliRunner().invoke(cli.main, ["reproduce", *asked])
    assert called.exit_code == 0, called.output
    assert "cannot be made" not in called.output
    assert called.output.index("hours on this machine") < called.output.index("[1/6] 02_backbone")
