"""Cohorts drawn to disk: the films of the hospitals, interrupted, in other processes, in memory."""

import errno
import multiprocessing
import os

import joblib
import numpy as np
import psutil
import pytest

from cxrkit.config.choices import Choices
from cxrkit.config.sections import CohortSettings
from cxrkit.data import cache, images, masks
from cxrkit.simulation import cohort, hospital
from cxrkit.storage import growing
from cxrkit.storage.artifacts import Store

TINY = CohortSettings(findings=9, diagnosis=9, severity=9, size=64)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cohort")
    cohort.draw_cohort(folder, TINY, seed=0, workers=1)
    return cohort.Cohort(folder)


def test_drawn_films_are_the_hospitals_films(drawn):
    assert len(drawn) == 27 and drawn.images.shape == (27, 64, 64)
    for row in (0, 13, 26):
        patient = hospital.from_url(drawn.table.url[row])
        assert np.array_equal(drawn.images[row], patient.image)
        assert np.array_equal(drawn.lesion(row), patient.lesion)
        for lung, wanted in zip(drawn.lungs(row), patient.lungs, strict=True):
            assert np.array_equal(lung, wanted)
        assert np.array_equal(drawn.arrays(row), patient.array)
        assert drawn.findings(row).tolist() == list(patient.findings.values())


def test_an_interrupted_run_goes_on_and_ends_the_same(drawn, tmp_path, monkeypatch):
    draw, calls = cohort._draw_rows, []

    def interrupted(folder, films, lines):
        if len(calls) == 3:
            raise KeyboardInterrupt
        calls.append(lines)
        return draw(folder, films, lines)

    monkeypatch.setattr(cohort, "_draw_rows", interrupted)
    monkeypatch.setattr(cohort, "MOST_THREADS", 1)
    with pytest.raises(KeyboardInterrupt):
        cohort.draw_cohort(tmp_path, TINY, seed=0, workers=1)
    assert not (tmp_path / "films.csv").exists() and growing.grows(tmp_path)
    (tmp_path / "lines" / "torn.999.part").write_bytes(b"half")
    times = {path: path.stat().st_mtime_ns for path in calls}
    monkeypatch.setattr(cohort, "_draw_rows", draw)
    monkeypatch.setattr(cohort.shutil, "rmtree", lambda folder: None)
    cohort.draw_cohort(tmp_path, TINY, seed=0, workers=1)
    assert {path: path.stat().st_mtime_ns for path in calls} == times, "drawn once"
    assert cohort.cohort_digest(tmp_path) == cohort.cohort_digest(drawn.folder)
    assert np.array_equal(cohort.Cohort(tmp_path).images, drawn.images)


@pytest.mark.integration
def test_digest_is_the_same_in_other_processes(drawn, tmp_path):
    """Two new interpreters with their own hash seeds plan the same films and draw them alike."""
    cohort.draw_cohort(tmp_path, TINY, seed=0, workers=2)
    below = psutil.Process().children(recursive=True)
    assert not [one for one in below if "popen_loky" in " ".join(one.cmdline())], "idle workers"
    assert cohort.cohort_digest(tmp_path) == cohort.cohort_digest(drawn.folder)
    pid, elsewhere = joblib.Parallel(2)(
        [joblib.delayed(os.getpid)(), joblib.delayed(cohort.plan_cohort)(TINY, 0)]
    )
    assert pid != os.getpid() and elsewhere.equals(cohort.plan_cohort(TINY, 0))


def test_no_films_no_cohort(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"Run\(profile\)\.cohort"):
        cohort.Cohort(tmp_path)


def test_available_memory_is_the_least_of_machine_container_and_hub(tmp_path, monkeypatch):
    monkeypatch.delenv("MEM_LIMIT", raising=False)
    free = cohort.available_memory(tmp_path)
    assert free > 1e7
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("123\n")
    assert cohort.available_memory(tmp_path) > free / 2
    (tmp_path / "memory.max").write_text("1500000\n")
    (tmp_path / "memory.current").write_text("400000\n")
    assert cohort.available_memory(tmp_path) == 1_100_000
    monkeypatch.setenv("MEM_LIMIT", "1000")
    assert cohort.available_memory(tmp_path) == 0


@pytest.mark.parametrize("available, workers", [(0, 1), (2e9, 1), (3.5e9, 2), (1e12, 3)])
def test_drawing_takes_as_many_processes_as_fit(tmp_path, monkeypatch, available, workers):
    asked = []
    monkeypatch.setattr(cohort, "available_memory", lambda: available)
    monkeypatch.setattr(cohort.os, "cpu_count", lambda: 3)
    monkeypatch.setattr(cohort, "_draw_all", lambda jobs, workers: asked.append(workers))
    monkeypatch.setattr(cohort, "_finish", lambda *_: None)
    monkeypatch.setattr(cohort.pd, "read_csv", lambda file: None)
    cohort.draw_cohort(tmp_path, TINY, seed=0)
    assert asked == [workers]


# films that are drawn when they are asked for


@pytest.fixture
def packed(drawn, tmp_path):
    """The table of a cohort as it comes with the kit."""
    cohort.pack_cohort(drawn.folder, tmp_path / "packed")
    return tmp_path / "packed"


@pytest.fixture
def asked(packed, tmp_path):
    """A cohort of which no film is drawn yet."""
    cohort.unpack_cohort(packed, tmp_path / "cohort")
    return cohort.Cohort(tmp_path / "cohort")


@pytest.fixture
def films_drawn(monkeypatch):
    """The urls of the films that are drawn in this process."""
    urls = []
    from_url = cohort.from_url

    def noted(url):
        urls.append(url)
        return from_url(url)

    monkeypatch.setattr(cohort, "from_url", noted)
    return urls


def test_a_packed_cohort_opens_without_a_film(packed, asked, drawn, films_drawn):
    assert asked.table.equals(drawn.table) and asked.images.shape == drawn.images.shape
    assert np.array_equal(asked.findings(4), drawn.findings(4)) and len(asked) == len(drawn)
    assert films_drawn == []
    assert sorted(path.name for path in asked.folder.iterdir()) == [
        "drawn.npy",
        "films.csv",
        "images.npy",
        "left.npy",
        "lesion.npy",
        "metrics.json",
        "right.npy",
    ]
    again = packed.with_name("again")
    cohort.pack_cohort(drawn.folder, again)
    for name in ("films.csv.gz", "metrics.json"):
        assert (again / name).read_bytes() == (packed / name).read_bytes()
    with pytest.raises(ValueError, match="CXRKIT_FRESH=1"):
        cohort.pack_cohort(asked.folder, again)


def test_films_that_are_asked_for_are_those_of_the_whole_cohort(asked, drawn, films_drawn):
    rows = np.array([20, 3, 20])
    assert np.array_equal(asked.images[rows], drawn.images[rows])
    assert sorted(films_drawn) == sorted(asked.table["url"][[3, 20]])
    for name in ("lungs", "lesion"):
        assert np.array_equal(getattr(asked, name)(rows), getattr(drawn, name)(rows))
        assert np.array_equal(getattr(asked, name)(3), getattr(drawn, name)(3))
    assert np.array_equal(asked.images[3], drawn.images[3])
    assert np.array_equal(asked.images[-7, :9], drawn.images[-7, :9])  # row 20
    assert len(films_drawn) == 2, "nothing twice"
    assert asked.images[np.zeros(0, int)].shape == (0, 64, 64) and len(films_drawn) == 2


def test_a_cohort_that_is_filled_is_the_whole_cohort(tmp_path):
    few = CohortSettings(findings=2, diagnosis=2, severity=0, size=64)
    cohort.draw_cohort(tmp_path / "drawn", few, seed=0, workers=1)
    cohort.pack_cohort(tmp_path / "drawn", tmp_path / "packed")
    cohort.unpack_cohort(tmp_path / "packed", tmp_path / "filled")
    drawn, filled = cohort.Cohort(tmp_path / "drawn"), cohort.Cohort(tmp_path / "filled")
    assert np.array_equal(np.asarray(filled.images), drawn.images)
    assert cohort.cohort_digest(filled.folder) == cohort.cohort_digest(drawn.folder)


def test_rows_that_are_not_drawn_take_no_room(asked):
    asked.images[5]
    stack = asked.folder / "images.npy"
    assert stack.stat().st_size > 27 * 64 * 64
    if hasattr(os.stat_result, "st_blocks"):
        assert stack.stat().st_blocks * 512 < 27 * 64 * 64 / 2


def test_an_interrupted_filling_keeps_what_is_whole(asked, drawn, monkeypatch):
    """A kill after some stacks of an anatomy are written: its films do not count."""
    asked.images[0]
    write = growing._write_rows

    def killed(file, rows, values):
        if file.name == "left.npy":
            raise KeyboardInterrupt
        write(file, rows, values)

    monkeypatch.setattr(growing, "_write_rows", killed)
    with pytest.raises(KeyboardInterrupt):
        asked.images[[1, 2, 26]]
    assert list(growing.missing(asked.folder, [0, 1, 2, 26])) == [1, 2, 26]
    monkeypatch.setattr(growing, "_write_rows", write)
    assert np.array_equal(asked.images[[0, 1, 2, 26]], drawn.images[[0, 1, 2, 26]])
    assert np.array_equal(asked.lesion(26), drawn.lesion(26))


def _fill(folder, rows, barrier):
    barrier.wait()
    cohort.fill(folder, rows)


@pytest.mark.integration
def test_two_processes_fill_one_cohort(asked, drawn):
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(2)
    halves = ([0, 2, 25], [0, 1, 26])
    processes = [
        context.Process(target=_fill, args=(asked.folder, rows, barrier)) for rows in halves
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    rows = sorted({*halves[0], *halves[1]})
    assert not len(growing.missing(asked.folder, rows))
    assert np.array_equal(asked.images[rows], drawn.images[rows])


@pytest.mark.integration
def test_many_anatomies_are_drawn_by_processes(asked, drawn, monkeypatch):
    monkeypatch.setattr(cohort, "MANY", 2)
    monkeypatch.setattr(cohort, "fitting_workers", lambda jobs: 2)
    monkeypatch.setattr(cohort, "from_url", None)  # not in this process
    rows = [0, 13, 26]
    assert np.array_equal(asked.images[rows], drawn.images[rows])


@pytest.mark.parametrize("name", ["images.npy", "left.npy"])
def test_a_damaged_stack_is_named(asked, name):
    asked.images[[3, 4]]
    with open(asked.folder / name, "r+b") as file:
        file.truncate(200)
    with pytest.raises(ValueError, match=rf"{name} is damaged.*delete the folder"):
        asked.images[[5]]
    with pytest.raises(ValueError, match=rf"{name} is damaged.*delete the folder"):
        asked.images[3], asked.lungs(3)
    (asked.folder / name).unlink()
    with pytest.raises(ValueError, match=rf"{name} is damaged.*delete the folder"):
        asked.images[[5]]


def test_a_full_disk_is_an_error_and_no_film(asked, monkeypatch):
    asked.images[0]

    def full(file):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(growing.os, "fsync", full)
    with pytest.raises(OSError, match=r"images.npy: No space left.*larger disk"):
        asked.images[1]
    assert list(growing.missing(asked.folder, [0, 1])) == [1]


# paths of tables


def paths_of(found, rows, column):
    return [str(found.folder / path) for path in found.table[column][rows]]


def test_paths_of_films_that_are_not_drawn_yet_can_be_read(asked, drawn, films_drawn):
    rows = [3, 20]
    (image,) = paths_of(asked, [3], "path")
    assert np.array_equal(images.load_image(image).pixels, drawn.images[3])
    for kind, column, expected in (
        ("lungs", "lung_mask", drawn.lungs(20)[0] | drawn.lungs(20)[1]),
        ("lesion", "lesion_mask", drawn.lesion(20)),
    ):
        (mask,) = paths_of(asked, [20], column)
        assert np.array_equal(masks.load_mask(mask, kind) == 255, expected)
    assert sorted(films_drawn) == sorted(asked.table["url"][rows]), "each film once"


def test_the_cache_asks_for_its_films_at_once_and_keeps_them_while_the_stack_grows(
    asked, drawn, monkeypatch, tmp_path
):
    calls, fill = [], cohort.fill

    def noted(folder, rows):
        calls.append(sorted(rows))
        fill(folder, rows)

    monkeypatch.setattr(cohort, "fill", noted)
    store, plain = Store(tmp_path), Choices()
    rows = [0, 1, 2]
    first = cache.cached_images(paths_of(asked, rows, "path"), 64, plain, "grey", store)
    expected = cache.cached_images(paths_of(drawn, rows, "path"), 64, plain, "grey", store)
    assert np.array_equal(first.gather(), expected.gather()) and calls == [rows]
    fill(asked.folder, [25, 26])  # the last bytes of the stack change
    (folder,) = {file.parent for file in first.files}
    index = (folder / "index.jsonl").read_bytes()
    again = cache.cached_images(paths_of(asked, rows, "path"), 64, plain, "grey", store)
    assert np.array_equal(again.gather(), first.gather())
    assert (folder / "index.jsonl").read_bytes() == index, "decoded once"


def test_a_stack_without_its_table_names_the_folder(asked):
    (asked.folder / "films.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"films\.csv\); delete the folder"):
        images.load_image(asked.folder / "images.npy#3")
