"""Cohorts drawn to disk: the films of the hospitals, interrupted, in other processes, in memory."""

import os

import joblib
import numpy as np
import psutil
import pytest

from cxrkit.config.sections import CohortSettings
from cxrkit.simulation import cohort, hospital

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


def test_an_interrupted_run_goes_on_and_ends_the_same(drawn, tmp_path):
    (tmp_path / "chunks").mkdir()
    groups = list(cohort.plan_cohort(TINY, 0).groupby(["site", "body"]))
    for (site, body), rows in groups[:2]:
        cohort._draw_chunk(tmp_path / "chunks" / f"{site}-{body:02d}.npz", rows, TINY, 0)
    (tmp_path / "chunks" / "torn.999.part").write_bytes(b"half")
    cohort.draw_cohort(tmp_path, TINY, seed=0, workers=1)
    assert cohort.cohort_digest(tmp_path) == cohort.cohort_digest(drawn.folder)
    assert np.array_equal(cohort.Cohort(tmp_path).images, drawn.images)


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

    def parallel(n_jobs, **options):
        asked.append(n_jobs)
        return lambda jobs: iter(())

    monkeypatch.setattr(cohort, "available_memory", lambda: available)
    monkeypatch.setattr(cohort.os, "cpu_count", lambda: 3)
    monkeypatch.setattr(cohort.joblib, "Parallel", parallel)
    monkeypatch.setattr(cohort, "_join", lambda *_: None)
    cohort.draw_cohort(tmp_path, TINY, seed=0)
    assert asked == [workers]
