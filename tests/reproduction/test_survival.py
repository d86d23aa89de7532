"""Runs survive: a full disk, a lost worker, a damaged film, a killed cache. Kills and NaN in
training are in test_train, two runs in one folder in test_artifacts.
"""

import contextlib
import errno
import os
import resource
import signal
import time
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cxrkit.config.sections import Training
from cxrkit.data import cache, datasets, manifests
from cxrkit.data.images import ImageError
from cxrkit.storage.artifacts import Store
from cxrkit.storage.atomic import write_atomic
from cxrkit.training import checkpoint, loop
from tests.fakes import processes

CPU = torch.device("cpu")
# alike in every process
TRAINING = Training(lr=0.01, batch=4, steps=12, checkpoint_every=3, threads=1)


class Pixels:
    """A dataset of one item at a time; `trouble(i)` may do anything before item i is handed out."""

    def __init__(self, trouble=lambda i: None):
        self.image, self.trouble = (
            torch.randn(40, 1, 8, 8, generator=torch.Generator().manual_seed(0)),
            trouble,
        )

    def __len__(self):
        return len(self.image)

    def __getitem__(self, i):
        self.trouble(i)
        return {"image": self.image[i], "target": torch.tensor(i % 2)}


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))


def loss(model, batch):
    return F.cross_entropy(model(batch["image"]), batch["target"])


def fit(folder, trouble=lambda i: None, workers=0):
    model = net()
    loop.fit(
        model,
        loss,
        Pixels(trouble),
        TRAINING,
        folder=folder,
        device=CPU,
        progress=False,
        workers=workers,
    )
    return model.state_dict()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Weights of a run that nothing happened to."""
    return fit(tmp_path_factory.mktemp("whole"))


def same(a, b):
    return all(torch.equal(a[name], b[name]) for name in a | b)


@contextlib.contextmanager
def largest_file(size):
    """No file may grow beyond `size` bytes: the kernel refuses, as it does on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_leaves_the_last_checkpoint_and_no_rest(tmp_path, whole):
    seen = []

    def fills(i):
        seen.append(i)
        if len(seen) == 4 * 7:  # in step 7, after two checkpoints
            resource.setrlimit(
                resource.RLIMIT_FSIZE, (2000, resource.getrlimit(resource.RLIMIT_FSIZE)[1])
            )

    with pytest.raises(OSError), largest_file(resource.RLIM_INFINITY):
        fit(tmp_path, fills)
    assert checkpoint.load_tensors(tmp_path / "checkpoint.safetensors")[1][
        "step"
    ] == 6 and not list(tmp_path.glob("*.part"))
    assert same(fit(tmp_path), whole)


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    write_atomic(tmp_path / "a", "old")
    with pytest.raises(OSError), largest_file(10):
        write_atomic(tmp_path / "a", "x" * 100)
    assert [path.name for path in tmp_path.iterdir()] == ["a"] and (
        tmp_path / "a"
    ).read_text() == "old"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES])
def test_a_write_that_cannot_begin_says_why(tmp_path, monkeypatch, code):
    def refused(*_):
        raise OSError(code, os.strerror(code))

    write_atomic(tmp_path / "a", "old")
    monkeypatch.setattr("builtins.open", refused)
    with pytest.raises(OSError, match=os.strerror(code)) as error:
        write_atomic(tmp_path / "a", "new")
    monkeypatch.undo()
    assert error.value.errno == code and (tmp_path / "a").read_text() == "old"


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="this system cannot reserve room")
def test_a_cache_without_room_is_refused_before_it_starts(tmp_path, images):
    with (
        pytest.raises(OSError, match=r"images.npy: no room for 0.1 GB .*CXRKIT_STORE"),
        largest_file(10**6),
    ):
        cache.cached_images(images, 1024, store=Store(tmp_path / "store"))


def lose_a_worker(folder):
    """What the stopped process does: a training whose worker is killed at film 7."""

    def killed(i):
        if i == 7 and torch.utils.data.get_worker_info():
            os.kill(os.getpid(), signal.SIGKILL)

    fit(folder, killed, workers=2)


def test_a_lost_worker_stops_the_run_and_the_next_goes_on(tmp_path, whole):
    # in a process of its own: torch raises at any later line of the one whose worker was killed
    errors = tmp_path / "errors.txt"
    code, said = processes.end(processes.start(errors, lose_a_worker, tmp_path), errors)
    assert code == 1 and "Error" in said  # torch's words depend on when it notices
    assert not (tmp_path / "weights.safetensors").exists()
    assert same(fit(tmp_path, workers=2), whole)


def test_a_film_that_cannot_be_read_in_mid_epoch_is_named(tmp_path, whole):
    seen = []

    def damaged(i):
        seen.append(i)
        if len(seen) > 4 * 5:
            raise ImageError(f"film{i}.png: not an image")

    with pytest.raises(ImageError, match=r"film\d+.png"):
        fit(tmp_path, damaged)
    assert checkpoint.load_tensors(tmp_path / "checkpoint.safetensors")[1]["step"] == 3
    assert same(fit(tmp_path), whole)


@pytest.fixture
def images(tmp_path):
    """Paths of 120 films."""
    rng = np.random.default_rng(0)
    for i in range(120):
        cv2.imwrite(str(tmp_path / f"{i}.png"), rng.integers(0, 256, (64, 64), np.uint8))
    return [str(tmp_path / f"{i}.png") for i in range(120)]


def test_training_does_not_notice_a_film_that_is_damaged_after_it_was_decoded(tmp_path, images):
    table = "path,patient_id,view,site\n" + "".join(
        f"{Path(path).name},p{i},PA,S\n" for i, path in enumerate(images)
    )
    (tmp_path / "films.csv").write_text(table)
    dataset = datasets.CXRDataset(
        manifests.read_manifest("local", tmp_path), 32, store=Store(tmp_path / "store")
    )
    before = dataset.batch(range(120))["image"]
    Path(images[5]).write_bytes(b"damaged")
    assert torch.equal(dataset.batch(range(120))["image"], before)
    with pytest.raises(
        ImageError,
        match=r"1 of 120 images cannot be read \(all of them: .*failures.txt\)(.|\n)*5.png",
    ):
        datasets.CXRDataset(
            manifests.read_manifest("local", tmp_path), 32, store=Store(tmp_path / "store")
        )


def slow_cache(folder, root):
    """What the killed process does: a cache of which every film takes 5 ms."""
    decode = cache.DECODERS["image"]

    def slow(*arguments):
        time.sleep(0.005)
        return decode(*arguments)

    cache.DECODERS["image"], cache.CHUNK = slow, 8
    cache.cached_images([f"{folder}/{i}.png" for i in range(120)], 48, store=Store(root))


def test_a_cache_killed_at_any_moment_ends_the_same(tmp_path, images):
    index, kills, errors = None, 0, tmp_path / "errors.txt"
    for rows in (16, 56):
        process = processes.start(errors, slow_cache, tmp_path, tmp_path / "store")
        while process.is_alive():
            index = next((tmp_path / "store").glob("images-*/index.jsonl"), None)
            if index and len(index.read_bytes().splitlines()) >= rows:
                os.kill(process.pid, signal.SIGKILL)
                kills += 1
                break
            time.sleep(0.002)
        process.join()
    assert kills == 2 and len(index.read_bytes().splitlines()) < 120
    found = cache.cached_images(images, 48, store=Store(tmp_path / "store"))
    other = cache.cached_images(pd.Series(images), 48, store=Store(tmp_path / "other"))
    assert np.array_equal(found.gather(), other.gather())
    assert len(found.files) == 1  # the room that was taken at first
