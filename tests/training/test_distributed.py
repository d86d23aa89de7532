"""Two gloo processes against one with the same settings: a training, and whole stages."""

import os
import shutil
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from cxrkit import cli
from cxrkit.config import profiles
from cxrkit.config.choices import Choices
from cxrkit.config.profiles import Training
from cxrkit.models import simclr
from cxrkit.pipeline import dependencies, stages
from cxrkit.storage.artifacts import Store
from cxrkit.storage.atomic import read_json
from cxrkit.tasks import diagnosis
from cxrkit.training import batches, checkpoint, distributed, loop
from tests.conftest import CHECKOUT
from tests.fakes import processes, trees

CPU = torch.device("cpu")
TRAINING = Training(
    optimizer="sgd",
    lr=0.1,
    batch=8,
    steps=6,
    accumulate=2,
    clip=0.5,
    schedule="cosine",
    checkpoint_every=2,
    eval_every=2,
)


class Net(nn.Module):
    """Batch norm with trainable scale but frozen statistics: SyncBatchNorm needs CUDA."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm, self.head = nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.Linear(6, 2)
        self.unused = nn.Linear(2, 2)  # a head of another task must not stall the processes

    def forward(self, image):
        return {"logits": self.head(F.relu(self.norm.eval()(self.conv(image))).mean((2, 3)))}


def data():
    g = torch.Generator().manual_seed(1)
    return batches.Tensors(image=torch.randn(50, 1, 8, 8, generator=g), target=torch.arange(50) % 2)


def loss(model, batch):
    return F.cross_entropy(model(batch["image"])["logits"], batch["target"])


def run(folder, stop_before=None):
    """Train; the gradients of the first update, as the optimiser gets them, are saved beside the
    folder -> the model.
    """
    model, updates = Net(), []

    def watch(optimizer, args, kwargs):
        if len(updates) == stop_before:
            raise OSError("power cut")
        if not updates and stop_before is None:
            grads = {
                name: weight.grad
                for name, weight in model.named_parameters()
                if weight.grad is not None
            }
            checkpoint.save_tensors(f"{folder}-grad-{os.environ.get('RANK', '-')}", grads)
        updates.append(1)

    hook = register_optimizer_step_pre_hook(watch)
    try:
        loop.fit(
            model,
            loss,
            data(),
            TRAINING,
            validate=lambda m: {"score": float(m.head.weight.norm())},
            folder=folder,
            device=CPU,
            progress=False,
        )
    finally:
        hook.remove()
    return model


def child(folder):
    """What each of the two processes does: a whole run, then the same cut before update 4 and taken
    up again, then stages.
    """
    rank = os.environ["RANK"]
    checkpoint.save_tensors(folder / f"whole-{rank}", run(folder / "whole").state_dict())
    with pytest.raises(OSError):
        run(folder / "cut", stop_before=4)
    checkpoint.save_tensors(folder / f"cut-{rank}", run(folder / "cut").state_dict())
    checkpoint.save_tensors(
        folder / f"stop-{rank}",
        {},
        one=distributed.anywhere(rank == "1", CPU),
        none=distributed.anywhere([], CPU),
    )
    checkpoint.save_tensors(
        folder / f"views-{rank}", {"gradient": gradient(slice(int(rank), None, 2))}
    )
    with pytest.raises(
        ValueError,
        match=r"a batch of 7 cannot be split evenly over 2 processes: start one of \[1, 7\] of them",
    ):
        loop.fit(Net(), loss, data(), replace(TRAINING, batch=7), device=CPU, progress=False)


def gradient(mine):
    """Gradient of SimCLR's loss in the weights of a linear map of the films `mine`, averaged over
    the processes where there are several.
    """
    views = torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(2))
    model = nn.Linear(5, 4, bias=False)
    nn.init.eye_(model.weight)
    simclr.nt_xent(*(distributed.gather(model(view[mine])) for view in views)).backward()
    if distributed.join()[1] > 1:
        distributed.average_gradients([model.weight])
    return model.weight.grad


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """Folder of a hospital `local` with films of two sites, of which "far" is set aside; every
    class, finding, zone and lung is known.
    """
    root, rows = tmp_path_factory.mktemp("films"), []
    for i in range(30):
        name, site = ("normal", "other_infection", "covid19")[i % 3], ("near", "far")[i >= 24]
        film, lungs, _ = trees.chest(i, i % 3 > 0, (64, 64))
        trees.save(root / "local" / f"{i}.png", film)
        trees.save(root / "local" / f"lungs{i}.png", lungs)
        rows.append(
            {
                "path": f"{i}.png",
                "patient_id": f"p{i}",
                "view": "PA",
                "site": site,
                "diagnosis": name,
                "lung_mask": f"lungs{i}.png",
                "findings": ("no finding", "edema", "opacity|pneumonia")[i % 3],
                "array": ("000000", "111100", "111111")[i % 3],
                "split": ("train", "train", "val", "test")[i // 3 % 4],
            }
        )
    trees.table(root / "local" / "films.csv", rows)
    return root


def profile(seed=0):
    """The smallest models; two updates a training, six of the transformer; nothing random disturbs
    those: no augmentation or batch norm.
    """
    small = profiles.dry(profiles.demo())
    return replace(
        small,
        manifests=("local",),
        external=("far",),
        seed=seed,
        image_size=64,
        choices=Choices(augmentation="none"),
        backbone=profiles.DenseNet(
            growth_rate=8, block_config=(1, 1, 1, 1), num_init_features=8, stem=1, stride=16
        ),
        transformer=profiles.ViT(embed_dim=32, depth=1, num_heads=2, frozen=True),
        transformer_training=Training(
            "sgd", lr=0.1, batch=8, steps=6, eval_every=3, checkpoint_every=2, threads=1
        ),
        segmenter=replace(
            small.segmenter,
            size=32,
            widths=(8, 16),
            judge_widths=(8, 16, 16),
            unet_widths=(8, 16),
            hidden=16,
        ),
    )


def stage(name, root, out, seed=0):
    """`cxrkit stage` of this file's profile."""
    profiles.get = lambda _: profile(seed)
    cli.main(["stage", name, "--data", str(root), "--out", str(out)], standalone_mode=False)


def members(root, out, port, rank, dies_before):
    """What a process without torchrun does: a member of a crew of two that may die before an update
    of the transformer.
    """
    os.environ |= {
        "RANK": str(rank),
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": str(port),
    }
    updates = []

    def watch(optimizer, args, kwargs):
        if len(updates) == dies_before:
            raise OSError("power cut")
        updates.append(1)

    register_optimizer_step_pre_hook(watch)
    stage("diagnosis_pa", root, out)


@pytest.fixture(scope="module")
def one(films, few_draws, tmp_path_factory):
    """(store of one process with all stages, store with the backbone alone, for two processes to go
    on from).
    """
    done, begun = (tmp_path_factory.mktemp(name) for name in ("one", "two"))
    backbone = stages.backbone(profile(), Store(done, films))
    shutil.copytree(backbone, begun / backbone.name)
    stages.transformer(profile(), "PA", Store(done, films))
    return done, begun


@pytest.fixture(scope="module")
def said(one, films, tmp_path_factory):
    """(what two processes that torchrun started with this file said, the folder of their
    trainings); stages go on from the backbone.
    """
    folder = tmp_path_factory.mktemp("child")
    env = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(CHECKOUT),
    }
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node",
            "2",
            __file__,
            *map(str, (folder, films, one[1])),
        ],
        env=env,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout, folder


def read(path):
    return checkpoint.load_tensors(path)[0]


def artifact(store, seed=0, name="diagnosis_pa"):
    return Store(store).folder(name, dependencies.settings(profile(seed), name))


def test_a_training_of_two_processes_equals_that_of_one(said, tmp_path):
    folder, one = said[1], run(tmp_path / "one")
    want = read(tmp_path / "one-grad--")
    for rank in "01":
        got = read(folder / f"whole-grad-{rank}")
        assert set(want) == set(got) and max(g.abs().max() for g in want.values()) > 0.01
        for name in want:
            torch.testing.assert_close(got[name], want[name], rtol=0, atol=1e-6)
    for name, tensor in one.state_dict().items():
        two = read(folder / "whole-0")[name]
        torch.testing.assert_close(two, tensor, rtol=0, atol=1e-5)
        # the same on both, and whether cut or not
        for other in ("whole-1", "cut-0", "cut-1", "whole/weights.safetensors"):
            assert torch.equal(read(folder / other)[name], two)
    stopped = [checkpoint.load_tensors(folder / f"stop-{rank}")[1] for rank in "01"]
    assert stopped == [{"one": True, "none": False}] * 2  # Ctrl-C on one stops both
    history = checkpoint.load_tensors(folder / "whole/weights.safetensors")[1]["history"]
    assert [row["step"] for row in history] == [2, 4, 6] and history[-1]["score"] is not None
    for rank in "01":  # films of one process are told from those of the other
        torch.testing.assert_close(
            read(folder / f"views-{rank}")["gradient"], gradient(slice(None)), rtol=0, atol=1e-6
        )


def test_stages_of_two_processes_equal_those_of_one(one, said, films):
    done, begun = one
    places = [artifact(begun), artifact(begun), artifact(begun, 1), artifact(begun, 1, "segmenter")]
    assert said[0].splitlines() == [str(place) for place in places]
    assert sorted({path.name.partition("-")[0] for path in begun.iterdir() if path.is_dir()}) == [
        "backbone",
        "diagnosis_pa",
        "images",
        "segmenter",
    ] and not list(begun.rglob("*.part"))
    same, nested, whole = artifact(begun), artifact(begun, 1), artifact(done)
    assert (
        {path.name for path in same.iterdir()}
        == {path.name for path in nested.iterdir()}
        == {path.name for path in whole.iterdir()}
    )
    start = diagnosis.begin(profile(), stages.beginning(profile(), Store(done, films))).state_dict()
    moved = {
        name: (tensor - start[name]).abs().max()
        for name, tensor in read(whole / "weights.safetensors").items()
    }
    assert max(moved.values()) > 0.01
    for name, tensor in read(whole / "weights.safetensors").items():
        torch.testing.assert_close(
            read(same / "weights.safetensors")[name], tensor, rtol=0, atol=1e-5
        )
    found, nested, want = (read_json(folder / "metrics.json") for folder in (same, nested, whole))
    assert keys(found) == keys(nested) == keys(want)
    assert found["test"]["auc"]["value"] == pytest.approx(want["test"]["auc"]["value"], abs=1e-3)


def keys(value):
    """Names in nested dicts."""
    return {name: keys(inner) for name, inner in value.items()} if isinstance(value, dict) else ...


@pytest.mark.parametrize("dies", [0, 1])
def test_when_one_process_fails_the_other_does_not_wait_and_the_next_call_goes_on(
    one, films, tmp_path, dies
):
    done, begun = one
    backbone = artifact(done, name="backbone")
    shutil.copytree(backbone, tmp_path / backbone.name)

    def both(dies_before):
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        errors = [tmp_path / f"errors{rank}.txt" for rank in range(2)]
        crew = [
            processes.start(
                errors[rank],
                members,
                films,
                tmp_path,
                port,
                rank,
                dies_before if rank == dies else None,
            )
            for rank in range(2)
        ]
        return [processes.end(*member) for member in zip(crew, errors, strict=True)]

    ends = both(5)
    assert [code for code, _ in ends] == [1, 1] and "power cut" in ends[dies][1]
    part = artifact(tmp_path).with_name(artifact(tmp_path).name + ".part")
    assert checkpoint.load_tensors(part / "checkpoint.safetensors")[1]["step"] == 4
    assert [code for code, _ in both(None)] == [0, 0] and not list(tmp_path.rglob("*.part"))
    want = read(artifact(done) / "weights.safetensors")
    for name, tensor in read(artifact(tmp_path) / "weights.safetensors").items():
        torch.testing.assert_close(tensor, want[name], rtol=0, atol=1e-5)


if __name__ == "__main__":
    trained, *paths = map(Path, sys.argv[1:])
    child(trained)
    stage("diagnosis_pa", *paths)
    make, diagnosis.make = diagnosis.make, None
    stage("diagnosis_pa", *paths)  # only loads
    diagnosis.make = make
    stage("diagnosis_pa", *paths, seed=1)  # and the backbone before it
    stage("segmenter", *paths, seed=1)
