"""A scheduler that takes the machine away loses no step: checkpoint, status 75, and it goes on."""

import os
import signal
import subprocess
import sys

import pytest
import torch

from cxrkit.config.sections import Training
from cxrkit.training import interrupts, loop
from tests.conftest import CHECKOUT

JOB = CHECKOUT / "tools" / "slurm" / "stage.sbatch"
SUBMIT = CHECKOUT / "tools" / "slurm" / "submit.sh"


class Points:
    """Twenty numbers; the tenth batch sends a signal to this process, once."""

    def __init__(self, number=None):
        self.number, self.drawn = number, 0

    def __len__(self):
        return 20

    def batch(self, indices):
        self.drawn += 1
        if self.number and self.drawn == 10:
            os.kill(os.getpid(), self.number)
        return {"image": torch.tensor(indices, dtype=torch.float32)[:, None]}


def fit(folder, number=None):
    torch.manual_seed(0)
    model = torch.nn.Linear(1, 1)
    training = Training("adam", lr=0.1, batch=4, steps=25, checkpoint_every=100)
    loss = lambda m, batch: m(batch["image"]).square().mean()  # noqa: E731
    loop.fit(model, loss, Points(number), training, folder=folder, workers=0, progress=False)
    return model.state_dict()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_pre_empted_training_ends_with_a_checkpoint_and_goes_on_to_the_same_weights(
    tmp_path, number
):
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as stopped:
        fit(tmp_path / "a", number)
    assert stopped.value.code == interrupts.REQUEUE == 75
    assert (tmp_path / "a" / "checkpoint.safetensors").exists()
    assert signal.getsignal(number) == before
    resumed, whole = fit(tmp_path / "a"), fit(tmp_path / "b")
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


COMMAND = """
import signal, sys, time
caught = []
signal.signal(signal.SIGUSR1, lambda *_: caught.append(1))
print("started", sys.argv[1:], flush=True)
for _ in range(400):
    time.sleep(0.05)
    if caught:
        time.sleep(0.3)  # the update under way
        sys.exit(75)
"""


@pytest.mark.parametrize("asked", [signal.SIGUSR1, signal.SIGTERM])
def test_the_slurm_job_waits_for_the_checkpoint_and_goes_back_into_the_queue(tmp_path, asked):
    (tmp_path / "stage.py").write_text(COMMAND)
    queue = tmp_path / "scontrol"
    queue.write_text(f'#!/bin/bash\necho "$@" > {tmp_path}/requeued\n')
    queue.chmod(0o755)
    surroundings = {
        **os.environ,
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "CXRKIT": f"{sys.executable} {tmp_path}/stage.py",
        "SLURM_JOB_ID": "42",
    }
    job = subprocess.Popen(
        ["bash", str(JOB), "backbone", "--profile", "public"],
        env=surroundings,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert job.stdout.readline() == "started ['stage', 'backbone', '--profile', 'public']\n"
    job.send_signal(asked)
    assert job.wait(60) == 0
    assert (tmp_path / "requeued").read_text() == "requeue 42\n"


@pytest.mark.parametrize("status", [0, 3])
def test_any_other_end_of_the_command_is_that_of_the_job(tmp_path, status):
    surroundings = {**os.environ, "CXRKIT": f"bash -c 'exit {status}'"}
    (tmp_path / "end.sh").write_text(f"exit {status}\n")
    surroundings["CXRKIT"] = f"bash {tmp_path}/end.sh"
    assert subprocess.run(["bash", str(JOB), "backbone"], env=surroundings).returncode == status


def test_jobs_wait_for_the_stages_that_they_depend_on(tmp_path):
    fake = tmp_path / "sbatch"
    fake.write_text(
        f'#!/bin/bash\necho "$@" >> {tmp_path}/jobs\nwc -l < {tmp_path}/jobs | tr -d " "\n'
    )
    fake.chmod(0o755)
    surroundings = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", str(SUBMIT), "--profile", "public"],
        env=surroundings,
        capture_output=True,
        text=True,
        check=True,
    )
    jobs = (tmp_path / "jobs").read_text().splitlines()
    after = [[part for part in job.split() if part.startswith("--dep")] for job in jobs]
    assert after == [
        [],
        [],
        ["--dependency=afterok:1"],
        ["--dependency=afterok:1"],
        ["--dependency=afterok:3:2"],
        ["--dependency=afterok:3:4"],
    ]
    assert all(job.endswith("--profile public") for job in jobs)
    assert done.stdout.splitlines()[-1] == "saliency_benchmark 6"
