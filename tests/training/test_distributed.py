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
from cxrkit.config import profiles, sections
from cxrkit.config.choices import Choices
from cxrkit.config.sections import Training
from cxrkit.models import simclr
from cxrkit.models.adain_networks import Translator
from cxrkit.pipeline import stages
from cxrkit.storage.artifacts import Store
from cxrkit.storage.atomic import read_json
from cxrkit.tasks.diagnosis import DiagnosisTask
from cxrkit.training import batches, checkpoint, distributed, loop, losses
from tests.conftest import CHECKOUT
from tests.fakes import processes, trees

pytestmark = pytest.mark.integration  # each test starts the processes of a training

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
    """What each of the two processes does before it makes stages.

    A whole run, then the same cut before update 4 and taken up again; other trainings; a gradient.
    """
    rank = os.environ["RANK"]
    checkpoint.save_tensors(folder / f"whole-{rank}", run(folder / "whole").state_dict())
    with pytest.raises(OSError):
        run(folder / "cut", stop_before=4)
    checkpoint.save_tensors(folder / f"cut-{rank}", run(folder / "cut").state_dict())
    checkpoint.save_tensors(
        folder / f"stop-{rank}",
        {},
        one=distributed.any_rank(rank == "1", CPU),
        none=distributed.any_rank([], CPU),
    )
    for name, train in OTHER_TRAININGS.items():
        checkpoint.save_tensors(folder / f"{name}-{rank}", train())
    views = {"gradient": contrastive_gradient(slice(int(rank), None, 2))}
    checkpoint.save_tensors(folder / f"views-{rank}", views)
    refusal = r"a batch of 7 cannot be split evenly over 2 processes: start one of \[1, 7\] of them"
    with pytest.raises(ValueError, match=refusal):
        loop.fit(Net(), loss, data(), replace(TRAINING, batch=7), device=CPU, progress=False)


def contrastive_gradient(rows):
    """Gradient of SimCLR's loss in the weights of a linear map of the images `rows`, averaged over
    the processes where there are several.
    """
    views = torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(2))
    model = nn.Linear(5, 4, bias=False)
    nn.init.eye_(model.weight)

    def compare(model, batch):
        first, second = (distributed.gather(model(view)) for view in batch["views"])
        return simclr.nt_xent(first, second)

    module = loop.LossModule(model, compare)
    if distributed.join_process_group()[1] > 1:
        module = distributed.data_parallel(module)
    module({"views": views[:, rows]})["loss"].backward()
    return model.weight.grad


STYLE_DIM = 4


def translator():
    """Small networks, in float64: absolute differences have gradients that rounding turns round."""
    torch.manual_seed(0)
    return Translator(32, (8, 16), (8, 16, 16), STYLE_DIM, latent_dim=4, hidden=16).double()


def train_adversarially():
    """The segmenter's adversarial losses by both sides at once -> its weights.

    The loss calls parts of its model several times, freezes one of them for a while, and
    differentiates twice (R1); `mapping` takes no part. Styles come with the data, so that nothing
    is random.
    """
    nets, g = translator(), torch.Generator().manual_seed(3)
    images = batches.Tensors(
        image=torch.randn(40, 1, 32, 32, generator=g).double(),
        domain=torch.arange(40) % 2,
        style=torch.randn(40, STYLE_DIM, generator=g).double(),
        other=torch.randn(40, STYLE_DIM, generator=g).double(),
    )

    def adversarial(nets, batch):
        domain = batch["domain"]
        found = losses.translation_losses(
            nets, batch["image"], domain, 1 - domain, batch["style"], batch["other"]
        )
        return {"loss": sum(found.values()), **found}

    training = Training("sgd", lr=0.05, batch=4, steps=4, accumulate=2, clip=2.0)
    loop.fit(nets, adversarial, images, training, device=CPU, progress=False)
    return nets.state_dict()


class TwoHeads(nn.Module):
    """A head for each kind of row; a batch of one kind leaves the other head unused."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.heads = nn.ModuleList(nn.Linear(3, 1) for _ in range(2))


def train_two_heads():
    """Batches of two rows: with two processes each has one row, and so one head, of which the other
    process may know nothing.
    """
    model, g = TwoHeads(), torch.Generator().manual_seed(4)
    rows = batches.Tensors(x=torch.randn(20, 3, generator=g), kind=torch.arange(20) % 2)

    def own_head(model, batch):
        each = []
        for x, kind in zip(batch["x"], batch["kind"].tolist(), strict=True):
            each.append((model.heads[kind](x) - 1).square().sum())
        return torch.stack(each).mean()

    training = Training("sgd", lr=0.05, batch=2, steps=8, accumulate=2)
    loop.fit(model, own_head, rows, training, device=CPU, progress=False)
    return model.state_dict()


OTHER_TRAININGS = {"adversarial": train_adversarially, "heads": train_two_heads}


@pytest.fixture(scope="module")
def data_root(tmp_path_factory):
    """Folder of a hospital `local` with images of two sites, of which "far" is external; every
    class, finding, zone and lung is known.
    """
    root, rows = tmp_path_factory.mktemp("data"), []
    for i in range(30):
        image, lungs, _ = trees.chest(i, i % 3 > 0, (64, 64))
        trees.save(root / "local" / f"{i}.png", image)
        trees.save(root / "local" / f"lungs{i}.png", lungs)
        rows.append(
            {
                "path": f"{i}.png",
                "patient_id": f"p{i}",
                "view": "PA",
                "site": "far" if i >= 24 else "near",
                "diagnosis": ("normal", "other_infection", "covid19")[i % 3],
                "lung_mask": f"lungs{i}.png",
                "findings": ("no finding", "edema", "opacity|pneumonia")[i % 3],
                "array": ("000000", "111100", "111111")[i % 3],
                "split": ("train", "train", "val", "test")[i // 3 % 4],
            }
        )
    trees.table(root / "local" / "films.csv", rows)
    return root


def profile(seed=0):
    """The smallest models; two updates a training, six of the transformer. Nothing random disturbs
    those: there is no augmentation or batch norm.
    """
    small = profiles.dry(profiles.demo())
    return replace(
        small,
        manifests=("local",),
        external=("far",),
        seed=seed,
        image_size=64,
        choices=Choices(augmentation="none"),
        backbone=sections.DenseNet(
            growth_rate=8, block_config=(1, 1, 1, 1), num_init_features=8, stem=1, stride=16
        ),
        transformer=sections.ViT(embed_dim=32, depth=1, num_heads=2, frozen=True),
        transformer_training=Training(
            "sgd", lr=0.1, batch=8, steps=6, eval_every=3, checkpoint_every=2, threads=1
        ),
        # Adam divides by the size of a gradient, and so makes rounding large where that is near 0
        severity_training=replace(small.severity_training, optimizer="sgd", lr=0.1),
        segmenter=replace(
            small.segmenter,
            size=32,
            widths=(8, 16),
            discriminator_widths=(8, 16, 16),
            unet_widths=(8, 16),
            hidden=16,
        ),
    )


def run_stage(name, root, out, seed=0):
    """`cxrkit stage` of this file's profile."""
    cli.chosen_profile = lambda *asked: profile(seed)
    cli.main(["stage", name, "--data", str(root), "--out", str(out)], standalone_mode=False)


def run_member(root, out, port, rank, dies_before):
    """What one of two processes does that no torchrun watches: it may die before an update of the
    transformer.
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
    run_stage("diagnosis_pa", root, out)


@pytest.fixture(scope="module")
def one(data_root, few_draws, tmp_path_factory):
    """(store of one process with all stages, store with the backbone alone, for two processes to go
    on from).
    """
    done, begun = (tmp_path_factory.mktemp(name) for name in ("one", "two"))
    backbone = stages.resolve(profile(), "backbone", Store(done, data_root))
    shutil.copytree(backbone, begun / backbone.name)
    stages.resolve(profile(), "diagnosis_pa", Store(done, data_root))
    return done, begun


@pytest.fixture(scope="module")
def two(one, data_root, tmp_path_factory):
    """(standard output of two processes that torchrun started with this file, the folder of their
    trainings); stages go on from the backbone.
    """
    folder = tmp_path_factory.mktemp("child")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    paths = [str(path) for path in (folder, data_root, one[1])]
    done = subprocess.run(
        [*torchrun, "--nproc-per-node", "2", __file__, *paths],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(CHECKOUT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout, folder


def read(path):
    return checkpoint.load_tensors(path)[0]


def artifact(store, seed=0, name="diagnosis_pa", data=None):
    """Where it lies; without the images, where the only one of its settings lies."""
    return stages.folder_of(profile(seed), name, Store(store, data))


def test_a_training_of_two_processes_equals_that_of_one(two, tmp_path):
    folder, one = two[1], run(tmp_path / "one")
    want = read(tmp_path / "one-grad--")
    for rank in "01":
        got = read(folder / f"whole-grad-{rank}")
        assert set(want) == set(got) and max(g.abs().max() for g in want.values()) > 0.01
        for name in want:
            torch.testing.assert_close(got[name], want[name], rtol=0, atol=1e-6)
    for name, tensor in one.state_dict().items():
        first = read(folder / "whole-0")[name]
        torch.testing.assert_close(first, tensor, rtol=0, atol=1e-5)
        # the same on both, and whether cut or not
        for other in ("whole-1", "cut-0", "cut-1", "whole/weights.safetensors"):
            assert torch.equal(read(folder / other)[name], first)
    stopped = [checkpoint.load_tensors(folder / f"stop-{rank}")[1] for rank in "01"]
    assert stopped == [{"one": True, "none": False}] * 2  # Ctrl-C on one stops both
    history = checkpoint.load_tensors(folder / "whole/weights.safetensors")[1]["history"]
    assert [row["step"] for row in history] == [2, 4, 6] and history[-1]["score"] is not None


@pytest.mark.parametrize("rank", "01")
def test_images_of_one_process_are_compared_with_those_of_the_other(two, rank):
    found = read(two[1] / f"views-{rank}")["gradient"]
    torch.testing.assert_close(found, contrastive_gradient(slice(None)), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", OTHER_TRAININGS)
def test_losses_that_call_parts_of_their_model_equal_those_of_one_process(two, name):
    """DistributedDataParallel sees parts unused in some processes, and gradients of gradients."""
    want = OTHER_TRAININGS[name]()
    first, second = (read(two[1] / f"{name}-{rank}") for rank in "01")
    for weight, tensor in want.items():
        exact = 1e-12 if tensor.dtype == torch.float64 else 1e-5
        torch.testing.assert_close(first[weight], tensor, rtol=0, atol=exact)
        assert torch.equal(first[weight], second[weight])


def test_other_trainings_move_what_they_train():
    """Else equality would prove nothing."""
    nets = largest_move(train_adversarially(), translator().state_dict())
    for name, moved in nets.items():
        assert (moved == 0) == (name in ("mapping", "step")) and (moved == 0 or moved > 0.01)
    heads = largest_move(train_two_heads(), TwoHeads().state_dict())
    assert min(heads.values()) > 0.01


def largest_move(after, before):
    """{part of the model: largest change of a weight}."""
    moved = {}
    for name, tensor in after.items():
        part = name.partition(".")[0]
        change = float((tensor - before[name]).abs().max())
        moved[part] = max(change, moved.get(part, 0.0))
    return moved


def test_stages_of_two_processes_equal_those_of_one(one, two, data_root):
    done, begun = one
    folders = [artifact(begun), artifact(begun), artifact(begun, 1)]
    folders.append(artifact(begun, 1, "segmenter"))
    assert two[0].splitlines() == [str(folder) for folder in folders]
    assert sorted({path.name.partition("-")[0] for path in begun.iterdir() if path.is_dir()}) == [
        "backbone",
        "corpora",
        "diagnosis_pa",
        "images",
        "made",
        "segmenter",
    ] and not list(begun.rglob("*.part"))
    same, nested, whole = artifact(begun), artifact(begun, 1), artifact(done)
    assert (
        {path.name for path in same.iterdir()}
        == {path.name for path in nested.iterdir()}
        == {path.name for path in whole.iterdir()}
    )
    backbone = read(artifact(done, name="backbone") / "weights.safetensors")
    task = DiagnosisTask(profile(), Store(done, data_root))
    start = task.initialise((backbone,)).state_dict()
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


def run_both(data_root, out, dies, dies_before):
    """Two processes make the diagnosis -> exit code and standard error of each."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    started = []
    for rank in range(2):
        errors = out / f"errors{rank}.txt"
        own_end = dies_before if rank == dies else None
        process = processes.start(errors, run_member, data_root, out, port, rank, own_end)
        started.append((process, errors))
    # a process that waits for the other does so for days: three minutes find it on a busy machine
    return [processes.end(process, errors, timeout=180) for process, errors in started]


@pytest.mark.parametrize("dies", [0, 1])
def test_when_one_process_fails_the_other_does_not_wait_and_the_next_call_goes_on(
    one, data_root, tmp_path, dies
):
    done, _ = one
    backbone = artifact(done, name="backbone")
    shutil.copytree(backbone, tmp_path / backbone.name)
    ends = run_both(data_root, tmp_path, dies, dies_before=5)
    assert [code for code, _ in ends] == [1, 1] and "power cut" in ends[dies][1]
    unmade = artifact(tmp_path, data=data_root)
    part = unmade.with_name(unmade.name + ".part")
    assert checkpoint.load_tensors(part / "checkpoint.safetensors")[1]["step"] == 4
    ends = run_both(data_root, tmp_path, dies, dies_before=None)
    assert [code for code, _ in ends] == [0, 0] and not list(tmp_path.rglob("*.part"))
    want = read(artifact(done) / "weights.safetensors")
    for name, tensor in read(artifact(tmp_path) / "weights.safetensors").items():
        torch.testing.assert_close(tensor, want[name], rtol=0, atol=1e-5)


if __name__ == "__main__":
    trained, *paths = map(Path, sys.argv[1:])
    child(trained)
    run_stage("diagnosis_pa", *paths)
    make, DiagnosisTask.make = DiagnosisTask.make, None
    run_stage("diagnosis_pa", *paths)  # only loads
    DiagnosisTask.make = make
    run_stage("diagnosis_pa", *paths, seed=1)  # and the backbone before it
    run_stage("segmenter", *paths, seed=1)
