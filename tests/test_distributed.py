"""Two gloo processes started by torchrun against one process with the doubled batch."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from cxrkit import batches, checkpoint, machine, train
from cxrkit.profiles import Training

CPU = torch.device("cpu")
ONE = Training(optimizer="sgd", lr=0.1, batch=8, steps=6, accumulate=2, clip=0.5, schedule="cosine", checkpoint_every=2,
               eval_every=2)
TWO = replace(ONE, batch=4)  # per process


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


def run(training, folder, stop_before=None):
    """Train; the gradients of the first update, as the optimiser gets them, are saved beside the folder -> the model."""
    model, updates = Net(), []

    def watch(optimizer, args, kwargs):
        if len(updates) == stop_before:
            raise OSError("power cut")
        if not updates and stop_before is None:
            grads = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
            checkpoint.save_tensors(f"{folder}-grad-{os.environ.get('RANK', '-')}", grads)
        updates.append(1)

    hook = register_optimizer_step_pre_hook(watch)
    try:
        train.fit(model, loss, data(), training, validate=lambda m: {"score": float(m.head.weight.norm())}, folder=folder,
                  device=CPU, progress=False)
    finally:
        hook.remove()
    return model


def child(folder):
    """What each of the two processes does: a whole run, then the same cut before update 4 and taken up again."""
    rank = os.environ["RANK"]
    checkpoint.save_tensors(folder / f"whole-{rank}", run(TWO, folder / "whole").state_dict())
    with pytest.raises(OSError):
        run(TWO, folder / "cut", stop_before=4)
    checkpoint.save_tensors(folder / f"cut-{rank}", run(TWO, folder / "cut").state_dict())
    checkpoint.save_tensors(folder / f"stop-{rank}", {}, one=machine.anywhere(rank == "1", CPU), none=machine.anywhere([], CPU))
    torch.distributed.destroy_process_group()


def test_two_processes_equal_one_with_the_doubled_batch(tmp_path):
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
    done = subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", __file__,
                           str(tmp_path)], env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    read = lambda name: checkpoint.load_tensors(tmp_path / name)  # noqa: E731

    one = run(ONE, tmp_path / "one")
    want = read("one-grad--")[0]
    for rank in "01":
        got = read(f"whole-grad-{rank}")[0]
        assert set(want) == set(got) - {"unused.weight", "unused.bias"} and max(g.abs().max() for g in want.values()) > 0.01
        for name in want:
            torch.testing.assert_close(got[name], want[name], rtol=0, atol=1e-6)
    for name, tensor in one.state_dict().items():
        two = read("whole-0")[0][name]
        torch.testing.assert_close(two, tensor, rtol=0, atol=1e-5)
        for other in ("whole-1", "cut-0", "cut-1", "whole/weights.safetensors"):  # the same on both, and whether cut or not
            assert torch.equal(read(other)[0][name], two)
    assert [read(f"stop-{rank}")[1] for rank in "01"] == [{"one": True, "none": False}] * 2  # Ctrl-C on one stops both
    history = read("whole/weights.safetensors")[1]["history"]
    assert [row["step"] for row in history] == [2, 4, 6] and history[-1]["score"] is not None


if __name__ == "__main__":
    child(Path(sys.argv[1]))
