"""Runs survive: a full disk, a lost worker, a damaged film, a killed cache. Kills and NaN in
training are in test_train, two runs in one folder in test_artifacts.
"""

import errno
import os
import random
import resource
import shutil
import signal
import time
from pathlib import Path

import cv2
import nbformat
import numpy as np
import pandas as pd
import psutil
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cxrkit.config.sections import CohortSettings, Training
from cxrkit.data import cache, datasets, manifests
from cxrkit.data.images import ImageError
from cxrkit.reproduction import report, runner
from cxrkit.simulation import cohort, workers
from cxrkit.storage import integrity
from cxrkit.storage.artifacts import Store
from cxrkit.storage.atomic import remove_leftovers, write_atomic, write_json
from cxrkit.training import checkpoint, loop
from tests.fakes import processes
from tests.fakes.disks import largest_file
from tests.fakes.lessons import code, lesson

pytestmark = pytest.mark.integration  # processes are killed at many moments

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


# kill -9 at random moments: nothing lost, no process left, the same bytes at the end

TINY_COHORT = CohortSettings(findings=2, diagnosis=3, severity=3, size=48)
LESSON = lesson(
    code(
        "import time\nfrom cxrkit.storage.artifacts import Store\n"
        "def make(folder):\n"
        "    for i in range(8):\n"
        "        time.sleep(0.1)\n"
        "        (folder / f'{i}.txt').write_text(str(i))\n"
        "print(len(list(Store(out).load_or_make('backbone', {'a': 1}, make).glob('*.txt'))))"
    )
)


def draw(root, count):
    """Draw a tiny cohort into the store in a number of processes."""
    Store(root).load_or_make(
        "cohort", {"n": 1}, lambda part: cohort.draw_cohort(part, TINY_COHORT, 0, count)
    )


def decode(root, folder):
    """Decode 120 films."""
    slow_cache(folder, root)


def report_of(root):
    """Write the report of a store with one lesson that ran."""
    report.write_report("demo", root)


def reproduce(root, sources):
    """Run a lesson that makes an artifact."""
    runner.lessons_folder = lambda: sources
    failed = runner.reproduce({"profile": "demo"}, root, say=lambda text: None)
    assert not failed


def contents(root, kind):
    """What must be the same after any number of kills: relative path -> bytes."""
    if kind == "decoding":
        paths = [f"{root.parent}/{i}.png" for i in range(120)]
        return {"images": cache.cached_images(paths, 48, store=Store(root)).gather().tobytes()}
    if kind == "report":
        page = (root / "runs" / "demo" / "report.html").read_bytes()
        return {"report": page, "lesson": (root / "runs" / "demo" / "00_a.html").read_bytes()}
    folders = [folder for folder in root.iterdir() if integrity.is_artifact(folder)]
    found = {}
    for folder in folders:
        assert integrity.faults(folder) == []
        for file in folder.rglob("*"):
            if file.is_file():
                found[file.relative_to(root).as_posix()] = file.read_bytes()
    if kind == "reproduce":
        notebook = nbformat.read(root / "runs" / "demo" / "00_a.ipynb", 4)
        found["lesson"] = notebook.cells[-1].outputs[0].text.encode()
    return found


def prepare(root, kind):
    """Put what a kind of work begins with beside its store; -> function and its arguments."""
    root.mkdir(parents=True)
    sources = root.parent / "src"
    sources.mkdir(exist_ok=True)
    (sources / "00_a.py").write_text(LESSON)
    if kind == "decoding":
        rng = np.random.default_rng(0)
        for i in range(120):
            image = rng.integers(0, 256, (64, 64), np.uint8)
            cv2.imwrite(str(root.parent / f"{i}.png"), image)
        return decode, (root, root.parent)
    if kind == "report":
        run = root / "runs" / "demo"
        run.mkdir(parents=True)
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# A", id="a")])
        nbformat.write(notebook, run / "00_a.ipynb")
        write_json(run / "00_a.json", {"seconds": 1.0, "peak_gb": 0.1, "provenance": {}})
        return report_of, (root,)
    if kind == "reproduce":
        return reproduce, (root, sources)
    return draw, (root, 2 if kind == "drawing in workers" else 1)


def family(pid):
    """The processes below a process."""
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def left_over(processes_below, seconds=20):
    """Those that are still at work after some seconds."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        alive = [p for p in processes_below if p.is_running() and p.status() != "zombie"]
        if not alive:
            return []
        time.sleep(0.1)
    return alive


def killed_at_random(tmp_path, kind, kills):
    """The work of a kind, killed so many times, then ended, against that of an untroubled run."""
    errors, rng = tmp_path / "errors.txt", random.Random(kills)
    processes.end(processes.start(errors, os.getpid), errors, 300)  # the server is there
    function, arguments = prepare(tmp_path / "calm" / "store", kind)
    began = time.monotonic()
    assert processes.end(processes.start(errors, function, *arguments), errors, 300)[0] == 0
    seconds = time.monotonic() - began
    calm = contents(tmp_path / "calm" / "store", kind)
    killed, folder = 0, tmp_path / "killed0"
    function, arguments = prepare(folder / "store", kind)
    while killed < kills:
        process = processes.start(errors, function, *arguments)
        process.join(rng.uniform(0, seconds))
        if process.is_alive():
            below = family(process.pid)
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            assert left_over(below) == []
            killed += 1
            continue
        assert process.exitcode == 0, errors.read_text()
        assert contents(folder / "store", kind) == calm
        folder = tmp_path / f"killed{killed}"  # it came to its end: the next one is killed anew
        if folder.exists():
            shutil.rmtree(folder)
        function, arguments = prepare(folder / "store", kind)
    status, said = processes.end(processes.start(errors, function, *arguments), errors, 300)
    assert status == 0, said
    assert contents(folder / "store", kind) == calm and calm
    remove_leftovers(folder)
    assert not list(folder.rglob("*.part"))


@pytest.mark.parametrize("kind, kills", [("drawing", 1), ("decoding", 2), ("report", 1)])
def test_work_that_is_killed_ends_the_same(tmp_path, kind, kills):
    killed_at_random(tmp_path, kind, kills)


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", ["drawing", "drawing in workers", "decoding", "report", "reproduce"]
)
def test_work_that_is_killed_20_times_ends_the_same(tmp_path, kind):
    killed_at_random(tmp_path, kind, 20)


def start_worker(file):
    """What the killed process does: one worker, which waits for work."""
    parent = os.getpid()
    if os.fork() == 0:
        workers.end_with(parent)
        Path(file).write_text(str(os.getpid()))
        time.sleep(60)
        os._exit(0)
    time.sleep(60)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_worker_ends_with_the_process_that_started_it(tmp_path):
    process = processes.start(tmp_path / "errors.txt", start_worker, tmp_path / "pid")
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        assert process.is_alive()
        time.sleep(0.05)
    worker = psutil.Process(int((tmp_path / "pid").read_text()))
    time.sleep(1.5)
    assert worker.is_running(), "not before"
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert left_over([worker], 10) == []
