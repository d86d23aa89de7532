"""The grid: what it shares and keeps apart, a failed cell, comparisons worked by hand, and a
cluster that loses a worker mid-run.
"""

import os
import pickle
import signal
import threading
import time
from collections import Counter
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import cv2
import jupytext
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import special, stats

import cxrkit.reproduction
from cxrkit.config import profiles, sections
from cxrkit.config.vocabulary import DIAGNOSES
from cxrkit.data import datasets
from cxrkit.evaluation import metrics, trained_seeds
from cxrkit.models import factory
from cxrkit.pipeline import stages, task_data
from cxrkit.reproduction import comparisons, grid_leaves, grid_rows, ledger
from cxrkit.reproduction import grid as grid_module
from cxrkit.reproduction.grid import DIAGNOSIS, PROPOSED, SEVERITY, Cell
from cxrkit.storage import artifacts, recorded, remote
from cxrkit.tasks import diagnosis
from cxrkit.training import checkpoint
from cxrkit.training import loop as loop_module
from tests.conftest import CHECKOUT
from tests.fakes import processes
from tests.fakes.real_profiles import begins_as_virtual

pytestmark = pytest.mark.usefixtures("few_draws")
SIZE = 64
# alike in every process
QUICK = sections.Training(
    "adamw", lr=1e-3, batch=8, steps=2, log_every=1, checkpoint_every=1, threads=1
)


def tiny(**changes):
    """A profile of one hospital's 90 films whose every stage takes a second."""
    demo = profiles.demo()
    return replace(
        demo,
        manifests=("local",),
        image_size=SIZE,
        backbone=sections.DenseNet(
            growth_rate=8, block_config=(1, 1, 1, 1), num_init_features=8, stem=1, stride=16
        ),
        transformer=sections.ViT(embed_dim=16, depth=1, num_heads=2),
        backbone_training=QUICK,
        transformer_training=QUICK,
        grid=replace(
            demo.grid,
            widths=(4, 6, 8, 10),
            resnet_50=(1, 1, 1, 1),
            vit=sections.ViT(16, 1, 2),
            steps=1,
            max_images=9,
        ),
        **changes,
    )


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Films of noise with findings and a diagnosis, a patient each."""
    folder, rng, rows = tmp_path_factory.mktemp("images"), np.random.default_rng(0), []
    for i in range(90):
        cv2.imwrite(str(folder / f"{i}.png"), rng.integers(0, 256, (SIZE, SIZE), dtype=np.uint8))
        rows.append(
            {
                "path": f"{i}.png",
                "patient_id": f"p{i}",
                "view": "PA",
                "site": "here",
                "diagnosis": DIAGNOSES[i % 3],
                "findings": ("no finding", "pneumonia", "edema")[i % 3],
                "split": ("train", "train", "train", "val", "test")[i // 3 % 5],
            }
        )
    pd.DataFrame(rows).to_csv(folder / "films.csv", index=False)
    return folder


# keys


def test_a_variant_shares_what_it_does_not_touch():
    profile = profiles.demo()
    keys = {(cell.name, cell.stage): cell.key for cell in grid_module.grid_cells(profile)}
    assert len(set(keys.values())) == len(keys)
    for cell in grid_module.grid_cells(profile):
        shared = stages.settings(cell.profile, "backbone") == stages.settings(profile, "backbone")
        assert shared == (cell.name != "proposed, average-pooled backbone"), cell.name
    pooled = grid_module.vary(profile, pooling="average", sites=("alder",))
    assert stages.settings(pooled, DIAGNOSIS) == stages.settings(profile, DIAGNOSIS)
    assert not [
        name for name in stages.settings(profile, SEVERITY) if name.startswith("variant.")
    ], "the paper's own model has no variant"


def test_every_row_of_the_ledger_has_its_cell():
    names = {
        (cell.table, ledger.slug(cell.name)) for cell in grid_module.grid_cells(profiles.paper())
    }
    wanted = {
        (row.table, row.key.split(".")[2])
        for row in ledger.paper_rows()
        if row.key.startswith(("comparison.", "ablation."))
    }
    ours = ledger.slug(PROPOSED)  # stands in all four tables, and is a cell of two of them
    wanted -= {("Table 9", ours), ("Table 10", ours)}
    assert wanted and wanted <= names


def test_a_rehearsal_trains_shortly_and_leaves_the_backbone_alone():
    profile = profiles.demo()
    full, short = grid_module.grid_cells(profile), grid_module.rehearsal_cells(profile)
    for cell, quick in zip(full, short, strict=True):
        assert (
            quick.key != cell.key
            and quick.profile.transformer_training.steps
            == quick.profile.severity_training.steps
            == 8
        )
        own = cell.name == "proposed, average-pooled backbone"
        assert (
            stages.settings(quick.profile, "backbone") == stages.settings(cell.profile, "backbone")
        ) != own
    assert grid_module.rehearsal_cells(profiles.paper()) == grid_module.grid_cells(profiles.paper())


def test_on_real_films_only_a_model_with_the_same_weights_begins_as_that_of_the_virtual_hospitals():
    profile = begins_as_virtual()
    kept = {cell.name for cell in grid_module.grid_cells(profile) if cell.profile.sources.virtual}
    assert kept == {
        cell.name for cell in grid_module.grid_cells(profile) if cell.profile.severity.virtual
    }
    assert kept == {"proposed", "frozen backbone", "ROI average pooling", "Brixia alone"}
    # what begins as another model has its weights, name by name; the calibration of that model is
    # of virtual films, and stays behind
    for cell in grid_module.grid_cells(profile):
        if cell.name in kept:
            models = [
                factory.build_classifier(other, map_head=cell.stage == SEVERITY)
                for other in (cell.profile, profiles.virtual(profile))
            ]
            shapes = [
                {
                    name: tensor.shape
                    for name, tensor in model.state_dict().items()
                    if not name.startswith("calibration.")
                }
                for model in models
            ]
            assert shapes[0] == shapes[1], cell.name


def test_what_is_upstream_is_what_the_key_holds():
    hybrid = grid_module.fair_comparisons(profiles.demo())["hybrid ViT, from findings"]
    simclr = grid_module.ablations(profiles.demo())["SimCLR: proposed"][0]
    assert [stage for stage, _ in stages.upstream(hybrid, DIAGNOSIS)] == [
        "cohort",
        "feature_extractor",
    ]
    assert [stage for stage, _ in stages.upstream(simclr, DIAGNOSIS)] == [
        "cohort",
        "backbone",
        "contrastive",
    ]
    assert [stage for stage, _ in stages.upstream(simclr, "contrastive")] == [
        "cohort",
        "backbone",
    ]
    assert "contrastive" in stages.settings(
        simclr, DIAGNOSIS
    ) and "contrastive" not in stages.settings(hybrid, DIAGNOSIS)


def test_what_the_grid_trains_beside_the_own_models():
    """Demo: the average-pooled backbone, a ResNet that learns findings, three SimCLR, and a model a
    cell save for the proposed model in both tasks; eight begin with random weights, and have the
    steps of a backbone, and others have steps that were chosen.
    """
    profile = profiles.demo()
    found = grid_module.extra_trainings(replace(profile, grid=replace(profile.grid, steps=0)))
    kinds = Counter(training.steps for training in found.values())
    models = Counter(
        cell.stage for cell in grid_module.grid_cells(profile) if cell.name != PROPOSED
    )
    longer, of_severity = (
        Counter(steps for _, steps in grid_module.search_of(profile, stage).chosen_steps)
        for stage in (DIAGNOSIS, SEVERITY)
    )
    assert kinds == longer | of_severity | {
        profile.severity_training.steps: models[SEVERITY] - of_severity.total(),
        profile.transformer_training.steps: models[DIAGNOSIS] - 8 - longer.total(),
        profile.backbone_training.steps: 2 + 8,
        profile.grid.pretraining.steps: 3,
    }
    dry = profiles.get("paper+dry")
    assert {training.steps for training in grid_module.extra_trainings(dry).values()} == {1}
    assert {
        training.batch * training.accumulate
        for training in grid_module.extra_trainings(dry).values()
    } == {1, 2}, "1 at 1024 px"


def test_weights_of_the_virtual_hospitals_count_in_the_budget():
    """Models that begin as those of the demo: the demo's trainings count, a backbone of their own
    that gave them nothing does not.
    """
    profile = begins_as_virtual()
    learnt = {
        stage: grid_rows.earlier_trainings(Cell("Table 7", PROPOSED, stage, profile))
        for stage in (DIAGNOSIS, SEVERITY)
    }
    home = replace(profiles.demo(), seed=profile.seed)
    assert learnt[DIAGNOSIS] == [("backbone", home), (DIAGNOSIS, home)]
    assert learnt[SEVERITY] == [("backbone", home), (DIAGNOSIS, home), (SEVERITY, home)]


def test_committed_differences_are_of_the_committed_values():
    """A row's difference was taken from the row that it stands beside: the same training of the
    model it is compared with.
    """
    rows = recorded.read_result("grid")["rows"]
    same = ("profile", "hospitals", "seed", "stage")
    values = {(*(row.get(name) for name in same), row["cell"]): row["value"] for row in rows}
    for row in rows:
        if "difference" in row:
            other = values[*(row.get(name) for name in same), row["against"]]
            assert row["value"] - row["difference"] == pytest.approx(other, abs=1e-5), (
                row["seed"],
                row["table"],
                row["cell"],
            )


def test_few_films_are_whole_splits_cut_by_the_seed():
    table = pd.DataFrame(
        {
            "path": range(60),
            "split": ["train", "val", "test"] * 20,
            "external": [False] * 30 + [True] * 30,
            "diagnosis": None,
        }
    )
    profile = grid_module.vary(profiles.demo(), max_images=7)
    cut = task_data.few(table, profile)
    assert len(cut) == 4 * 7 and cut["external"].sum() == 7
    assert task_data.few(table, profile).equals(cut) and not task_data.few(
        table, replace(profile, seed=1)
    ).equals(cut)
    assert task_data.few(table, profiles.demo()) is table
    assert task_data.few(table[:0], profile).empty


def test_few_films_have_every_diagnosis_that_there_is():
    """Two films in 200 show COVID-19: a draw of 6 would miss them, and nothing could be trained."""
    rare = ["normal"] * 150 + ["other_infection"] * 48 + ["covid19"] * 2
    table = pd.DataFrame({"split": "train", "external": False, "diagnosis": rare})
    for most in (3, 6):
        cut = task_data.few(table, grid_module.vary(profiles.mini(), max_images=most))
        assert Counter(cut["diagnosis"]) == dict.fromkeys(set(rare), most // 3)


# running


@pytest.mark.integration
def test_a_failed_cell_is_reported_and_the_rest_goes_on(tmp_path, images):
    store, profile = artifacts.Store(tmp_path, images), tiny()
    profile = replace(profile, grid=replace(profile.grid, scratch_steps=0))
    three = {
        PROPOSED: profile,
        "ViT from findings": grid_module.vary(profile, model="vit"),
        "ViT": grid_module.baselines(profile)["ViT"],
    }
    grid = [Cell("Table 7", name, DIAGNOSIS, other) for name, other in three.items()]
    found = {cell.name: error for cell, error in grid_module.run_cells(grid, store)}
    assert found[PROPOSED] is None and found["ViT"] is None
    assert (
        "ValueError: the ViT reads pixels: it has no feature extractor"
        in found["ViT from findings"]
    )
    rows = [grid_rows.measure_cell(cell, store, grid[0]) for cell in (grid[0], grid[2])]
    own, other = (
        datasets.split_parts(store.read_table(cell.folder(store) / "predictions.csv"))["test"]
        for cell in (grid[0], grid[2])
    )
    truth = diagnosis.codes(own)
    areas = [
        metrics.macro_auc(truth, part[diagnosis.PROBABILITIES].to_numpy()) for part in (own, other)
    ]
    assert rows[0]["value"] == pytest.approx(areas[0]) and "difference" not in rows[0]
    assert rows[1]["difference"] == pytest.approx(areas[1] - areas[0])
    assert rows[1]["seconds_before"] == 0 < rows[0]["seconds_before"], (
        "the proposed model depends on a backbone, and that counts"
    )
    seen = ledger.grid_measurements(tmp_path, profile)["comparison"]["diagnosis"]
    assert (
        list(seen) == [PROPOSED, "vit"]
        and [seen[name]["auc"]["value"] for name in seen] == [row["value"] for row in rows]
        and {seen[name]["auc"]["why"] for name in seen} == {"one seed, no ranking"}
    )


def test_what_begins_with_random_weights_has_a_budget_of_its_own():
    """And nothing else has: the models that learnt the findings had the steps of that before."""
    demo = profiles.demo()
    longer = replace(demo, grid=replace(demo.grid, scratch_steps=9000))
    found = {(c.name, c.stage): c for c in grid_module.grid_cells(longer)}
    plain = {(c.name, c.stage): c for c in grid_module.grid_cells(demo)}
    scratch = set()
    for name, cell in found.items():
        training = cell.profile.transformer_training
        if training.steps == 9000:
            scratch.add(name[0])
            assert cell.profile.variant.initial_weights == "random"
        else:
            assert cell.key == plain[name].key
    baselines = {"ResNet-50", "ResNet-152", "DenseNet-121", "ViT", "hybrid ViT"}
    simclr = {"SimCLR: ViT", "SimCLR: hybrid ViT"}
    assert scratch == baselines | simclr | {f"{PROPOSED}, from scratch"}


def test_of_two_that_make_an_artifact_one_waits_for_the_other(tmp_path):
    made, started = [], threading.Event()

    def slow(folder):
        started.set()
        time.sleep(0.5)
        made.append(folder)

    first = threading.Thread(
        target=lambda: artifacts.Store(tmp_path).load_or_make("x", {"a": 1}, slow)
    )
    first.start()
    started.wait()
    folder = artifacts.Store(tmp_path).load_or_make("x", {"a": 1}, made.append)
    first.join()
    assert folder.exists() and len(made) == 1


@pytest.mark.parametrize("scheme", ["file", "memory"])
def test_an_artifact_travels_by_an_address(tmp_path, scheme):
    """Made on one machine, found on the other; images stay at home, and what was cut off on its way
    is made again.
    """
    pytest.importorskip("fsspec", reason='needs the extra cluster: pip install "cxrkit[cluster]"')
    url, made = f"{scheme}://{tmp_path}/far", []

    def make(folder):
        made.append(folder)
        (folder / "deep").mkdir(exist_ok=True)
        (folder / "deep" / "weights.bin").write_bytes(b"1234")

    here, there = (remote.RemoteStore(url, tmp_path / name) for name in ("here", "there"))
    for store in (here, there):
        assert (
            store.load_or_make("backbone", {"a": 1}, make) / "deep" / "weights.bin"
        ).read_bytes() == b"1234"
    assert len(made) == 1
    files, path = here._remote()
    files.rm_file(f"{path}/{here.folder('backbone', {'a': 1}).name}/settings.json")
    remote.RemoteStore(url, tmp_path / "third").load_or_make("backbone", {"a": 1}, make)
    assert len(made) == 2, "without its settings an artifact at the address is not complete"
    for store in (here, there):
        store.load_or_make("images", {"a": 1}, make)
    assert len(made) == 4


@pytest.mark.integration
def test_a_cell_that_a_worker_made_in_a_root_of_its_own_is_seen_and_measured_here(
    tmp_path, images, monkeypatch
):
    """The worker's CXRKIT_STORE is its root; the leader, which holds nothing, makes nothing again
    and fetches what `measure` reads.
    """
    pytest.importorskip("fsspec", reason='needs the extra cluster: pip install "cxrkit[cluster]"')
    leader, profile = (
        remote.RemoteStore(f"file://{tmp_path}/far", tmp_path / "leader", images),
        tiny(),
    )
    grid = [
        Cell("Table 7", PROPOSED, DIAGNOSIS, profile),
        Cell(
            "Table 9",
            "frozen backbone",
            DIAGNOSIS,
            grid_module.vary(profile, replace(profile.transformer, frozen=True)),
        ),
    ]
    monkeypatch.delenv("CXRKIT_STORE", raising=False)
    assert pickle.loads(pickle.dumps(leader)).root == leader.root
    monkeypatch.setenv("CXRKIT_STORE", str(tmp_path / "worker"))
    worker = pickle.loads(pickle.dumps(leader))
    monkeypatch.delenv("CXRKIT_STORE")
    assert (worker.root, worker.url, worker.data) == (tmp_path / "worker", leader.url, images)
    assert [grid_module.make_stage(cell.stage, cell.profile, worker) for cell in grid] == [
        None,
        None,
    ]
    monkeypatch.setattr(grid_module, "make_stage", None)
    assert (
        list(grid_module.run_cells(grid, leader)) == [(cell, None) for cell in grid]
        and not leader.root.exists()
    )
    proposed, frozen = (
        grid_rows.measure_cell(grid[0], leader),
        grid_rows.measure_cell(grid[1], leader, grid[0]),
    )
    assert proposed == grid_rows.measure_cell(grid[0], worker) and proposed["seconds_before"] > 0, (
        "the backbone's seconds count"
    )
    assert frozen == grid_rows.measure_cell(grid[1], worker, grid[0]) and "difference" in frozen
    assert not leader.has("images", {"a": 1}) and not leader.fetch("backbone", {"a": 1}).exists()


def test_without_dask_the_next_step_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "distributed", None)
    with pytest.raises(RuntimeError, match=r'pip install "cxrkit\[cluster\]"'):
        list(
            grid_module.run_cells(
                [Cell("Table 7", PROPOSED, DIAGNOSIS, tiny())], artifacts.Store(tmp_path), workers=2
            )
        )


@pytest.mark.slow
def test_a_scheduler_two_workers_and_one_of_them_killed_lose_nothing(tmp_path, images):
    """The worker that trains the backbone dies in the middle: another goes on from its checkpoint,
    not from step 0, to the same weights, to the bit.
    """
    distributed = pytest.importorskip(
        "distributed", reason='needs the extra cluster: pip install "cxrkit[cluster]"'
    )
    dask = pytest.importorskip("dask")
    profile = tiny()
    profile = replace(profile, backbone_training=replace(QUICK, steps=60, checkpoint_every=3))
    store, alone = (
        artifacts.Store(tmp_path / "grid", images),
        artifacts.Store(tmp_path / "alone", images),
    )
    grid = [
        Cell("Table 7", PROPOSED, DIAGNOSIS, profile),
        Cell(
            "Table 9",
            "frozen backbone",
            DIAGNOSIS,
            grid_module.vary(profile, replace(profile.transformer, frozen=True)),
        ),
    ]
    part = stages.folder_of(profile, "backbone", store).with_suffix(".part")
    processes.serve()  # the workers fork from there
    with (
        dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"}),
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None, silence_logs=50
        ) as cluster,
    ):
        with distributed.Client(cluster) as client:
            client.run(note_first_steps, tmp_path)
            busy = threading.Thread(
                target=kill_the_busy, args=(client, part / "checkpoint.safetensors", killed := [])
            )
            busy.start()
            found = {
                cell.name: error
                for cell, error in grid_module.run_cells(
                    grid, store, scheduler=cluster.scheduler_address
                )
            }
            busy.join()
    assert found == {PROPOSED: None, "frozen backbone": None} and len(killed) == 1
    first, second = sorted(int(line.read_text()) for line in tmp_path.glob("first-*"))
    assert first == 0 < second < 60 and second % 3 == 0, (
        "the second worker starts at a checkpoint of the first"
    )
    whole = checkpoint.load_tensors(
        stages.resolve(profile, "backbone", alone) / "weights.safetensors"
    )[0]
    again = checkpoint.load_tensors(
        stages.resolve(profile, "backbone", store) / "weights.safetensors"
    )[0]
    assert all(torch.equal(whole[name], again[name]) for name in whole)


@pytest.fixture
def crowd(monkeypatch):
    """Stages that take 0.3 s and make nothing; of each, how many ran at that moment."""
    running, seen = [], []

    def busy(profile, name, store):
        running.append(profile.seed)
        time.sleep(0.3)
        seen.append(len(running))
        running.remove(profile.seed)

    monkeypatch.setattr(stages, "resolve", busy)
    monkeypatch.setattr(stages, "upstream", lambda profile, stage: [])
    return seen


FOUR = [Cell("Table 7", str(seed), DIAGNOSIS, tiny(seed=seed)) for seed in range(4)]


@pytest.mark.parametrize("gpus, at_once", [({"GPU": 1}, 1), (None, 2)])
def test_a_worker_that_offers_a_gpu_gets_one_task_at_a_time_even_if_the_cluster_has_yet_to_start_it(
    tmp_path, crowd, gpus, at_once
):
    distributed = pytest.importorskip(
        "distributed", reason='needs the extra cluster: pip install "cxrkit[cluster]"'
    )
    with distributed.LocalCluster(
        n_workers=0, threads_per_worker=2, processes=False, resources=gpus, dashboard_address=None
    ) as cluster:
        cluster.adapt(minimum=0, maximum=1, interval="50ms")
        with pytest.warns(UserWarning, match="no worker at .* yet: waiting for a first one"):
            found = list(
                grid_module.run_cells(
                    FOUR, artifacts.Store(tmp_path), scheduler=cluster.scheduler_address
                )
            )
    assert {cell.name: error for cell, error in found} == dict.fromkeys("0123") and len(crowd) == 4
    assert max(crowd) == at_once


def test_as_many_workers_as_asked_for(tmp_path, crowd, monkeypatch):
    """Whatever the cores of this machine; threads stand for the processes here."""
    distributed = pytest.importorskip(
        "distributed", reason='needs the extra cluster: pip install "cxrkit[cluster]"'
    )
    monkeypatch.setattr(
        distributed, "LocalCluster", partial(distributed.LocalCluster, processes=False)
    )
    workers = (os.cpu_count() or 1) % 3 + 1
    assert [
        error
        for _, error in grid_module.run_cells(FOUR, artifacts.Store(tmp_path), workers=workers)
    ] == [None] * 4
    assert max(crowd) == workers


def test_cells_that_need_the_same_masks_at_once_wait_for_each_other(tmp_path, monkeypatch):
    distributed = pytest.importorskip(
        "distributed", reason='needs the extra cluster: pip install "cxrkit[cluster]"'
    )
    monkeypatch.setattr(
        distributed, "LocalCluster", partial(distributed.LocalCluster, processes=False)
    )
    made = []

    def slow(folder):
        time.sleep(0.3)
        made.append(folder)

    monkeypatch.setattr(
        stages, "resolve", lambda profile, name, store: store.load_or_make("masks", {}, slow)
    )
    monkeypatch.setattr(stages, "upstream", lambda profile, stage: [])
    store = artifacts.Store(tmp_path)
    assert [error for _, error in grid_module.run_cells(FOUR, store, workers=2)] == [None] * 4
    assert len(made) == 1


def note_first_steps(folder):
    """From now on this process writes the step at which it starts, or goes on with, the training of
    a backbone.
    """
    train = loop_module._train

    def noting(run, *args):
        if run.folder.name.startswith("backbone"):
            (folder / f"first-{os.getpid()}").write_text(str(run.step))
        return train(run, *args)

    loop_module._train = noting


def kill_the_busy(client, checkpoint_file, killed):
    """Kill the worker that is busy once the checkpoint is there."""
    pids = client.run(os.getpid)
    end = time.monotonic() + 300
    while not checkpoint_file.exists():
        if time.monotonic() > end:  # a failure of the test, not a test that never ends
            return
        time.sleep(0.05)
    for worker, tasks in client.processing().items():
        if any("backbone" in str(task) for task in tasks):
            os.kill(pids[worker], signal.SIGKILL)
            killed.append(worker)


# over seeds


def rows(differences, cell="ViT", table="Table 7", stage=DIAGNOSIS):
    costs = dict.fromkeys(grid_rows.COSTS, 1.0)
    return [
        {
            "table": table,
            "cell": cell,
            "stage": stage,
            "against": PROPOSED,
            "metric": "auc",
            "seed": seed,
            "value": 0.9 + d,
            "low": 0.8,
            "high": 0.95,
            "difference": d,
            "difference_low": d - 0.002,
            "difference_high": d + 0.002,
            **costs,
        }
        for seed, d in enumerate(differences)
    ]


def test_three_seeds_by_hand():
    """-0.02, -0.03, -0.04 with patients that move each by little: of 27 choices of three seeds one
    gives the lowest, three the next, ... So 2.5 % lie below a point of the lowest step, at
    sqrt(3/2) * -0.01 from the mean. By Holm the larger of two p-values stays, the smaller doubles.
    """
    table = comparisons.over_seeds(
        rows([-0.02, -0.03, -0.04]) + rows([0.01, -0.01, 0.0], "ResNet-50")
    ).set_index("cell")
    vit = table.loc["ViT"]
    error = 0.002 / 1.959964 / 3**0.5  # of the patients
    step = stats.norm(-0.03 - 1.5**0.5 * 0.01, error)  # the next step lies seven errors higher
    assert vit["difference"] == pytest.approx(-0.03)
    assert vit["difference_low"] == pytest.approx(step.ppf(0.025 * 27), abs=1e-5)
    assert vit["difference_high"] == pytest.approx(-0.06 - vit["difference_low"])
    assert vit["standard_error"] == pytest.approx((0.01**2 / 3 + error**2) ** 0.5)
    assert vit["p_value"] < 1e-9 and vit["holm"] == pytest.approx(2 * vit["p_value"])
    assert (
        table.loc["ResNet-50", "p_value"] == pytest.approx(1)
        and table.loc["ResNet-50", "seeds"] == 3
    )


def test_one_seed_keeps_its_patients_interval_and_has_no_p():
    one = comparisons.over_seeds(rows([-0.02])).iloc[0]
    assert one[["value", "low", "high"]].tolist() == [0.88, 0.8, 0.95] and np.isnan(one["p_value"])
    assert one[["difference_low", "difference_high"]].tolist() == pytest.approx([-0.022, -0.018])


def test_a_seed_without_a_difference_counts_for_the_value_alone():
    """Where what a cell is compared with failed, in one seed or in all."""
    three, one = rows([-0.02, -0.03, -0.04]), rows([-0.02])
    for row in (three[2], one[0]):
        for name in grid_rows.DIFFERENCE:
            del row[name]
    mean, alone = comparisons.over_seeds(three), comparisons.over_seeds(one)
    assert mean.loc[0, ["seeds", "compared"]].tolist() == [3, 2] and mean.loc[
        0, "value"
    ] == pytest.approx(0.87)
    assert mean.loc[0, "difference"] == pytest.approx(-0.025) and np.isnan(mean.loc[0, "p_value"])
    assert (
        comparisons.conclusion(mean)
        == "no ranking: fewer than three seeds (2 of the least measured)"
    )
    assert alone.loc[0, "value"] == 0.88 and np.isnan(alone.loc[0, "difference"])
    assert comparisons.conclusion(alone) == "nothing is compared yet"


CLEAR = [0.020, 0.021, 0.019]  # far more than the spread of seeds and patients


@pytest.mark.parametrize(
    "differences, sentence",
    [
        ([-0.02], "no ranking: fewer than three seeds (1 of the least measured)"),
        ([-d for d in CLEAR], "proposed is better than ViT"),
        (CLEAR, "proposed is worse than ViT"),
        ([-0.02, 0.02, 0.01], "proposed is undecided against ViT"),
    ],
)
def test_a_rank_is_claimed_only_where_three_seeds_carry_it(differences, sentence):
    assert comparisons.conclusion(comparisons.over_seeds(rows(differences))) == sentence


def test_a_conclusion_names_who_is_compared_with_whom():
    """SimCLR's gain for the ViT is a gain over the ViT, not over the proposed model."""
    simclr = [{**row, "against": "ViT"} for row in rows(CLEAR, "SimCLR: ViT")]
    table = comparisons.over_seeds(
        rows([-d for d in CLEAR]) + rows([-0.02, 0.02, 0.01], "ResNet-50") + simclr
    )
    assert (
        comparisons.conclusion(table)
        == "proposed is better than ViT; undecided against ResNet-50. ViT is worse than SimCLR: ViT"
    )


def test_a_lower_error_is_better_in_severity():
    table = comparisons.over_seeds(rows(CLEAR, stage=SEVERITY))
    assert comparisons.conclusion(table) == "proposed is better than ViT"


def test_the_interval_of_an_auc_stays_below_one():
    """0.999, 0.99 and 0.9: on their own scale an interval ends above 1, on the logit scale below.
    An MSE has no such bound.
    """
    listed = rows([0.099, 0.09, 0.0])
    for row in listed:
        row["low"], row["high"] = row["value"] - 0.001, row["value"] + 0.0005
    value, low, high = comparisons.over_seeds(listed).loc[0, ["value", "low", "high"]]
    assert value == pytest.approx((0.999 + 0.99 + 0.9) / 3)
    logits = special.logit([0.999, 0.99, 0.9])
    error = 1.5**0.5 * (logits.mean() - logits[2])  # all of the seeds taken are the worst
    assert special.logit(low) == pytest.approx(logits.mean() - error, abs=0.05)
    assert value < high < 1
    severity = comparisons.over_seeds([{**row, "metric": "mse"} for row in listed])
    assert severity.loc[0, "high"] > 1


@pytest.mark.parametrize(
    "aucs",
    [[1.0, 1.0, 1.0], [0.0, 0.0], [0.5, 1.0], [0.0, 1.0, 0.5], [0.999, 0.2], [0.51, 0.9, 0.99, 1]],
)
def test_no_interval_of_an_auc_leaves_0_to_1(aucs):
    """Nor leaves its own value outside; a t interval without the logit scale does both."""
    table = comparisons.over_seeds(rows([auc - 0.9 for auc in aucs]))
    value, low, high = table.loc[0, ["value", "low", "high"]]
    assert 0 <= low <= value <= high <= 1


def test_one_seed_keeps_an_interval_inside_0_to_1():
    """Also where a row was recorded with another interval than that of a bootstrap."""
    one = [{**rows([0.05])[0], "low": 0.7, "high": 1.031}]
    assert comparisons.over_seeds(one).loc[0, ["low", "high"]].tolist() == [0.7, 1.0]


def test_an_auc_outside_0_to_1_is_refused():
    with pytest.raises(ValueError, match=r"an AUC outside \[0, 1\]: \[1.2"):
        comparisons.over_seeds(rows([0.3, 0.0, 0.0]))


@pytest.mark.parametrize(
    ("differences", "stage", "word"),
    [
        (CLEAR, DIAGNOSIS, "better"),
        (CLEAR, SEVERITY, "worse"),  # of an error less is better
        ([-d for d in CLEAR], DIAGNOSIS, "worse"),
        ([0.0005, -0.0005, 0.0], DIAGNOSIS, "equivalent"),
        ([0.02, -0.02, 0.01], DIAGNOSIS, "undecided"),
        ([0.02, -0.02, 0.01], SEVERITY, "equivalent"),  # 0.15 of MSE is the margin
        ([0.0001, -0.0001], DIAGNOSIS, "undecided"),  # two seeds rank none
        ([0.0001], SEVERITY, "undecided"),
    ],
)
def test_a_row_ends_in_one_of_four_words(differences, stage, word):
    metric = grid_rows.METRICS[stage][0]
    listed = [{**r, "metric": metric} for r in rows(differences, stage=stage)]
    found = comparisons.over_seeds(listed).iloc[0]
    assert found["conclusion"] == word
    assert np.isnan(found["detectable"]) == (len(differences) < 3)


def test_the_detectable_difference_counts_the_comparisons_of_the_table():
    """By hand as below; a second cell halves the share of the error that each test gets: z of
    0.9875 is 2.2414.
    """
    one = comparisons.over_seeds(rows([-0.02, -0.03, -0.04])).loc[0]
    two = comparisons.over_seeds(
        rows([-0.02, -0.03, -0.04]) + rows([0.0, 0.01, 0.02], "ResNet-50")
    ).loc[0]
    assert one["detectable"] == pytest.approx(2.8016 * one["standard_error"], rel=1e-4)
    assert two["detectable"] == pytest.approx((2.2414 + 0.8416) * two["standard_error"], rel=1e-4)


def test_every_committed_row_ends_in_a_word_with_its_interval_inside():
    table = comparisons.over_seeds(recorded.read_result("grid")["rows"])
    compared = table[table["difference"].notna()]
    assert len(compared) and set(compared["conclusion"]) <= set(trained_seeds.CONCLUSIONS)
    assert set(table.loc[table["difference"].isna(), "conclusion"]) == {""}
    aucs = table[table["metric"] == "auc"]
    assert aucs["low"].ge(0).all() and aucs["high"].le(1).all()
    assert (aucs["low"].le(aucs["value"]) & aucs["value"].le(aucs["high"])).all()


# curves


@pytest.mark.parametrize(
    ("values", "of", "converged"),
    [
        ([0.5, 0.7, 0.8, 0.9, 0.90, 0.901, 0.902, 0.903], "score", True),
        ([0.5, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9], "score", False),
        ([0.9, 0.91, 0.92, 0.92, 0.5, 0.5, 0.5, 0.5], "score", True),  # the best one is kept
        ([1.0, 0.8, 0.6, 0.5, 0.45, 0.45, 0.45, 0.445], "loss", True),
        ([1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3], "loss", False),
        ([1.1, 1.1, 1.1, 1.1, 1.1, 1.1, 1.1, 1.1], "loss", True),  # at chance, and flat
    ],
)
def test_whether_a_training_ended_flat(values, of, converged):
    history = []
    for step, value in enumerate(values, start=1):
        history.append({"step": 10 * step, "loss": 1.0} | {of: value})
    found = grid_rows.training_curve(history)
    assert (found["converged"], found["curve_of"]) == (converged, of)
    points = [pair.split(":") for pair in found["curve"].split()]
    assert [float(value) for _, value in points] == pytest.approx(values, abs=1e-3)
    assert [int(step) for step, _ in points] == [10 * step for step in range(1, 9)]


def test_a_long_curve_is_thinned_and_a_short_one_says_nothing():
    history = [{"step": step, "loss": 1 / step} for step in range(1, 1001)]
    curve = grid_rows.training_curve(history)["curve"].split()
    assert len(curve) == grid_rows.MOST_POINTS and curve[-1].startswith("1000:")
    assert grid_rows.training_curve(history[:3]) == {}
    gone = [{"step": step, "loss": None} for step in range(1, 9)]
    assert grid_rows.training_curve(gone) == {}


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        ([True, True, True], "converged"),
        ([True, False, True], "not converged"),
        ([True, None, True], "no curve kept"),
        ([None, None, None], "no curve kept"),
    ],
)
def test_a_cell_converged_where_every_seed_did(flags, word):
    listed = rows([-0.4, -0.4, -0.41])
    for row, flag in zip(listed, flags, strict=True):
        if flag is not None:
            row["converged"] = flag
    found = comparisons.over_seeds(listed).iloc[0]
    assert found["training"] == word
    note = grid_leaves.training_note(found)
    assert note.startswith("at chance") == (word != "not converged") or "at chance" in note
    assert ("unknown" in note) == (word == "no curve kept")


def baselines(differences):
    """Rows of Table 7 of every baseline with these differences."""
    found = []
    for name in comparisons.BASELINES:
        found += rows(differences, name)
    return found


@pytest.mark.parametrize(
    ("better", "last", "value"),
    [
        ([-d for d in CLEAR], [-d for d in CLEAR], "better"),
        ([-d for d in CLEAR], CLEAR, "worse"),
        ([-d for d in CLEAR], [-0.02, 0.02, 0.01], "undecided"),
        ([-d for d in CLEAR], [0.0005, -0.0005, 0.0], "equivalent"),
        ([-0.02], [-0.02], "undecided"),
    ],
)
def test_whether_a_claim_holds_is_decided_by_its_baselines(better, last, value):
    listed = baselines(better)[: -len(last)] + rows(last, "hybrid ViT")
    found = comparisons.conclusions(comparisons.over_seeds(listed))
    assert found["table_7"]["value"] == value
    assert set(found) == {"table_7", "table_7_fair"}
    assert found["table_7_fair"]["value"] == ("worse" if value == "worse" else "undecided")
    assert "5 of 6 baselines measured" in found["table_7_fair"]["why"]
    assert "closest: " in found["table_7"]["why"]


def test_the_smallest_effect_by_hand():
    """One baseline: z of 0.975 and of 0.8 are 1.9600 and 0.8416."""
    seen = comparisons.smallest_effect(0.01, 3, 1)
    assert seen == pytest.approx(0.028016, abs=1e-6)
    assert comparisons.smallest_effect(0.01, 3, 5) > seen
    assert np.isnan(comparisons.smallest_effect(0.01, 1, 1))


def test_a_claim_of_a_lower_error_has_the_sign_of_better():
    """Baselines whose MSE is 0.02 higher: we are 0.02 better, and the interval says so."""
    listed = []
    for name in comparisons.BASELINES:
        listed += [{**r, "metric": "mse"} for r in rows(CLEAR, name, "Table 8", SEVERITY)]
    found = comparisons.conclusions(comparisons.over_seeds(listed))["table_8"]
    assert found["value"] == "better" and 0 < found["low"] < 0.02 < found["high"]


def test_cells_of_other_films_are_not_compared(tmp_path):
    a, b = (
        Cell("Table 7", PROPOSED, DIAGNOSIS, tiny()),
        Cell("Table 7", "ViT", DIAGNOSIS, tiny(seed=1)),
    )
    for cell, name in ((a, "x"), (b, "y")):
        folder = cell.folder(artifacts.Store(tmp_path))
        folder.mkdir()
        pd.DataFrame(
            {
                "external": True,
                "split": "test",
                "group_id": [name],
                "diagnosis": "normal",
                **dict.fromkeys(diagnosis.PROBABILITIES, 0.0),
            }
        ).to_csv(folder / "predictions.csv")
    with pytest.raises(ValueError, match="ViT and proposed were not evaluated on the same images"):
        grid_rows.compare_cells(b, a, artifacts.Store(tmp_path))


def test_on_public_films_a_cell_is_evaluated_by_folds_inside_each_source(tmp_path, monkeypatch):
    """Worked by hand: the mean over two sources, and the error of severity at one threshold."""
    mini, store = profiles.mini(), artifacts.Store(tmp_path)
    folders = {"diagnosis": tmp_path / "joint", "severity": tmp_path / "severity"}
    monkeypatch.setattr(stages, "folder_of", lambda profile, stage, store: folders[stage])
    rows = [("nih_cxr14", name, p) for name, p in (("normal", 0.3), ("other_infection", 0.2))]
    rows += [("shenzhen", name, p) for name, p in (("normal", 0.5), ("other_infection", 0.9))]
    table = pd.DataFrame(rows, columns=["dataset", "diagnosis", "p_other_infection"])
    table = table.assign(p_normal=1 - table["p_other_infection"], p_covid19=0.0, path="a.png")
    scored = pd.DataFrame(
        {"truth": [4.0, 0.0, np.nan, 1.0], "score": [1.0, 1.0, 5.0, 1.0], "threshold": [1, 1, 1, 2]}
    )
    for folder, part in zip(folders.values(), (table, scored), strict=True):
        folder.mkdir()
        part.assign(path="a.png", group_id=[f"p{i}" for i in range(4)]).to_csv(
            folder / "crossvalidated.csv", index=False
        )
    both = [Cell("", PROPOSED, stage, mini) for stage in (DIAGNOSIS, SEVERITY)]
    found = [grid_rows.cell_metric(cell, store) for cell in both]
    assert [(one["value"], one["n"]) for one in found] == [(0.5, 4), ((9 + 1) / 2, 2)]
    assert all(one["by_folds"] for one in found)
    table[2:3].to_csv(folders["diagnosis"] / "crossvalidated.csv", index=False)
    one_class = grid_rows.fold_predictions(both[0], store)
    (folders["severity"] / "crossvalidated.csv").unlink()
    assert one_class is None is grid_rows.fold_predictions(both[1], store), "as without folds"


def test_seeds_of_the_same_films_do_not_even_out_their_luck():
    """As `mean_of_seeds` says; rows of virtual hospitals have patients of their own."""
    widths = []
    for more in ({}, {"same_patients": True}):
        table = comparisons.over_seeds([row | more for row in rows([0.02, 0.02, 0.02])])
        (line,) = table[table["cell"] == "ViT"].to_dict("records")
        widths.append(line["difference_high"] - line["difference_low"])
    assert widths[1] == pytest.approx(3**0.5 * widths[0])


def test_lesson_07_shows_its_table_where_no_row_is_recorded():
    """As in `quick` and `mini`: the table is empty then, with all columns."""
    lesson = jupytext.read(CHECKOUT / "notebooks" / "src" / "07_ablations.py")
    (cell,) = [c.source for c in lesson.cells if "tables = reproduction.recorded_rows" in c.source]
    profile = profiles.quick()
    cells = grid_module.grid_cells(profile)
    found = {
        "run": SimpleNamespace(profile=profile, recorded=lambda name: {"rows": [], "made": MADE}),
        "reproduction": cxrkit.reproduction,
        "tried": comparisons.over_seeds(rows([0.01, 0.02])),
        "grid": cells,
        "np": np,
        "pd": pd,
    }
    exec(cell, found)
    assert found["table"].empty and "note" in found["table"]


MADE = {"date": "-", "commit": "-"}
