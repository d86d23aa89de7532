"""Stages side by side: each after all that it depends on, as many at a time as asked for, and none
is left behind.
"""

import multiprocessing
import os
import signal
import time
from dataclasses import replace

import psutil
import pytest

from cxrkit.config import profiles
from cxrkit.pipeline import stages
from cxrkit.reproduction import runner, side_by_side
from cxrkit.reproduction.side_by_side import Step
from cxrkit.storage.artifacts import Store
from tests.fakes import calls

DEMO = profiles.demo()


def make(folder, steps, jobs=2):
    lines = []
    failed = side_by_side.make(
        steps, folder, jobs, folder / "logs", say=lines.append, function=calls.stage
    )
    return failed, lines


def moment(folder, name, ending):
    return float((folder / f"{name}.{ending}").read_text().split()[0])


def test_each_stage_waits_for_those_before_it_and_no_other(tmp_path):
    """A diamond: first, then two at the same time, then last."""
    steps = {
        "last": Step("last", 0, ("left", "right")),
        "left": Step("left", 3, ("first",)),
        "right": Step("right", 3, ("first",)),
        "first": Step("first", 0, ()),
    }
    failed, lines = make(tmp_path, steps)
    assert failed == []
    began = {name: moment(tmp_path, name, "began") for name in steps}
    ended = {name: moment(tmp_path, name, "ended") for name in steps}
    assert ended["first"] <= min(began["left"], began["right"])
    assert max(ended["left"], ended["right"]) <= began["last"]
    assert max(began["left"], began["right"]) < min(ended["left"], ended["right"])
    assert len(lines) == 4 and lines[0].strip().startswith("[1/4] first: made in ")
    assert lines[3].strip().startswith("[4/4] last: made in ")
    log = (tmp_path / "logs" / "left.log").read_text()
    assert log == "progress of left, threads 1\n"
    assert os.environ.get("TQDM_MININTERVAL") is None, "for the processes alone"


def test_one_at_a_time_begins_with_the_longest_chain(tmp_path):
    steps = {
        "alone": Step("alone", 0, ()),
        "end": Step("end", 0, ("begin",)),
        "begin": Step("begin", 0, ()),
    }
    failed, lines = make(tmp_path, steps, jobs=1)
    assert failed == [] and lines[0].strip().startswith("[1/3] begin:")
    spans = sorted((moment(tmp_path, n, "began"), moment(tmp_path, n, "ended")) for n in steps)
    assert all(spans[i][1] <= spans[i + 1][0] for i in range(2))


def test_what_fails_stops_what_depends_on_it_and_nothing_else(tmp_path):
    steps = {
        "bad": Step("bad", "fail", ()),
        "killed": Step("killed", "die", ()),
        "after": Step("after", 0, ("bad",)),
        "other": Step("other", 0, ()),
    }
    failed, lines = make(tmp_path, steps)
    assert failed == ["after", "bad", "killed"]
    assert (tmp_path / "other.ended").exists() and not (tmp_path / "after.began").exists()
    told = "\n".join(lines)
    assert f"bad: FAILED ValueError: bad cannot be made (see {tmp_path}/logs/bad.log)" in told
    assert "killed: FAILED ChildProcessError" in told and "perhaps for lack of memory" in told
    assert "ValueError: bad cannot be made" in (tmp_path / "logs" / "bad.log").read_text()


@pytest.mark.integration
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_every_stage_after_its_checkpoint(tmp_path, number):
    steps = {name: Step(name, 300, ()) for name in ("left", "right", "third")}
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=calls.stages_side_by_side, args=(tmp_path, steps))
    process.start()
    files = [tmp_path / f"{name}.began" for name in steps]
    until = time.monotonic() + 120
    while sum(file.exists() for file in files) < 2:
        assert time.monotonic() < until and process.is_alive()
        time.sleep(0.05)
    time.sleep(0.5)  # until they wait for SIGTERM
    os.kill(process.pid, number)
    process.join(60)
    assert process.exitcode not in (None, 0)
    begun = [file for file in files if file.exists()]
    assert len(begun) == 2, "the third waits for a place"
    for file in begun:
        assert file.with_suffix(".checkpoint").exists() and not file.with_suffix(".ended").exists()
        assert not psutil.pid_exists(int(file.read_text().split()[1]))


# which stages


def names_of(found):
    return {step.stage for step in found.values()}


def test_the_steps_of_lessons_are_what_is_missing(tmp_path):
    store = Store(tmp_path)
    everything = side_by_side.steps_of(DEMO, store)
    assert names_of(everything) == {
        *("cohort", "backbone", "segmenter", "diagnosis_pa", "diagnosis_ap", "severity"),
        *("saliency_benchmark", "severity_choices", "marker_study"),
    }
    for name, step in everything.items():
        expected = {
            stages.folder_of(p, s, store).name for s, p in stages.upstream(DEMO, step.stage)
        }
        assert set(step.before) == expected, name
    few = side_by_side.steps_of(DEMO, store, ["02_backbone", "00_start_here"])
    assert names_of(few) == {"cohort", "backbone"}
    stages.folder_of(DEMO, "backbone", store).mkdir()
    fewer = side_by_side.steps_of(DEMO, store, ["04"])
    assert names_of(fewer) == {"cohort", "diagnosis_pa", "diagnosis_ap", "marker_study"}
    cohort = stages.folder_of(DEMO, "cohort", store).name
    before = {step.stage: step.before for step in fewer.values()}
    assert before["cohort"] == () and before["diagnosis_pa"] == (cohort,)
    assert before["diagnosis_ap"] == (cohort,) and cohort in before["marker_study"]


def test_a_profile_without_virtual_images_draws_no_cohort_for_itself(tmp_path):
    real = replace(DEMO, manifests=("nih_cxr14",))
    found = side_by_side.steps_of(real, Store(tmp_path), ["02"])
    assert names_of(found) == {"backbone"}


def test_every_lesson_is_listed():
    assert set(side_by_side.STAGES_OF_LESSON) == {
        runner.number_of(p.stem) for p in runner.lesson_sources()
    }
