"""The command line: what it runs, what it refuses, and its exit status."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from functools import partial

import pytest
from click.testing import CliRunner

from cxrkit import __version__, cli
from cxrkit.config import profiles, settings_file
from cxrkit.config.choices import Choices
from cxrkit.pipeline import stages
from cxrkit.reproduction import environment, plan, report, runner
from cxrkit.storage import artifacts
from tests.fakes.lessons import CHECKED, FIGURE, code, lesson


@pytest.fixture
def lessons(tmp_path, monkeypatch):
    """Folder of percent sources that the command sees as the kit's lessons."""
    folder = tmp_path / "src"
    folder.mkdir()
    monkeypatch.setattr(runner, "lessons_folder", lambda: folder)
    return folder


def call(*arguments):
    return CliRunner().invoke(cli.main, [str(argument) for argument in arguments])


@pytest.mark.integration
def test_lessons_that_have_nothing_to_make_run_side_by_side(lessons, tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "lessons_at_a_time", lambda: 2)
    waits = "import time, pathlib\nuntil = time.monotonic() + 60\n"
    other_has_begun = (
        "while not pathlib.Path(f'{out}/%s').exists():\n    assert time.monotonic() < until\n"
    )
    for name, other in (("10_first", "11_second"), ("11_second", "10_first")):
        begins = f"pathlib.Path(f'{{out}}/{name}').touch()\n"
        (lessons / f"{name}.py").write_text(lesson(code(waits + begins + other_has_begun % other)))
    (lessons / "12_third.py").write_text(lesson(code("raise ValueError('no such film')")))
    result = call("reproduce", "--out", tmp_path / "store")
    assert result.exit_code == 1, "the third fails, and the others go on"
    lines = result.output.splitlines()
    assert lines[0] == "2 lessons at a time, each on one core: 10_first, 11_second, 12_third"
    for line, number in zip(lines[1:4], (1, 2, 3)):
        assert line.startswith(f"[{number}/3] ")
    assert "12_third" in lines[1] and "(running: " in lines[1] and "(running" not in lines[3]
    assert "12_third: FAILED 12_third: cell In [" in result.output
    assert "raised ValueError: no such film" in result.output
    assert "failed: 12_third" in result.output
    again = call("reproduce", "--out", tmp_path / "store")
    assert again.output.count("up to date (ran in ") == 2


@pytest.mark.integration
def test_reproduce_runs_every_lesson_and_writes_the_report(lessons, tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "lessons_at_a_time", lambda: 1)
    (lessons / "00_first.py").write_text(lesson(CHECKED, FIGURE))
    (lessons / "01_second.py").write_text(lesson(code("print(profile, out)")))
    first = call("reproduce", "--out", tmp_path / "store")
    assert first.exit_code == 0, first.output
    assert (
        "[1/2] 00_first ... (then: 01_second)" in first.output
        and "[2/2] 01_second ... (then: nothing)" in first.output
    )
    report = tmp_path / "store" / "runs" / "demo" / "report.html"
    assert first.output.rstrip().endswith(f"report: {report}")
    assert sorted(path.name for path in (tmp_path / "store" / "runs" / "demo").iterdir()) == [
        "00_first.html",
        "00_first.ipynb",
        "00_first.json",
        "01_second.html",
        "01_second.ipynb",
        "01_second.json",
        "report.html",
    ]
    assert (
        f"demo {tmp_path / 'store'}"
        in (tmp_path / "store" / "runs" / "demo" / "01_second.ipynb").read_text()
    )
    second = call("reproduce", "--out", tmp_path / "store")
    assert second.exit_code == 0 and second.output.count("up to date") == 2
    page = report.read_text()
    assert 'href="00_first.html"' in page and "data:image/png;base64,iVBOR" in page


def test_a_failing_lesson_gives_1_and_the_rest_still_runs(lessons, tmp_path):
    (lessons / "00_bad.py").write_text(lesson(code("1 / 0")))
    (lessons / "01_good.py").write_text(lesson())
    result = call("reproduce", "--out", tmp_path)
    assert result.exit_code == 1
    assert "FAILED 00_bad: cell In [3] raised ZeroDivisionError: division by zero" in result.output
    runs = tmp_path / "runs" / "demo"
    assert (runs / "00_bad.failed.ipynb").exists() and (runs / "01_good.ipynb").exists()
    assert (
        "failed: 00_bad" in result.output
        and 'class="tag failed"' in (runs / "report.html").read_text()
    )


@pytest.mark.integration
def test_a_killed_kernel_gives_1(lessons, tmp_path):
    (lessons / "00_killed.py").write_text(
        lesson(code("import os, signal; os.kill(os.getpid(), signal.SIGKILL)"))
    )
    result = call("reproduce", "--out", tmp_path)
    assert result.exit_code == 1 and "FAILED 00_killed: DeadKernelError" in result.output


@pytest.mark.integration
def test_only_runs_what_is_named(lessons, tmp_path):
    for name in ("00_a", "01_b", "02_c"):
        (lessons / f"{name}.py").write_text(lesson())
    result = call("reproduce", "--out", tmp_path, "--only", "01")
    assert result.exit_code == 0 and "[1/1] 01_b" in result.output
    assert [path.name for path in (tmp_path / "runs" / "demo").glob("*.ipynb")] == ["01_b.ipynb"]
    assert [path.stem for path in runner.lesson_sources(("02_c", "00"), lessons)] == [
        "00_a",
        "02_c",
    ], "by number or by name"
    result = call("reproduce", "--out", tmp_path, "--only", "07")
    assert result.exit_code == 1 and "no lesson 07; there are: 00_a, 01_b, 02_c" in result.output


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--profile", "huge"], "unknown profile 'huge'; known: ['demo', 'quick', 'mini', "),
        (["--mirror", "."], "no chosen lesson takes mirror; their parameters: out, profile"),
        (["--mirror", "/no/such/folder"], "does not exist"),
    ],
)
def test_reproduce_refuses_before_it_starts(lessons, tmp_path, arguments, message):
    (lessons / "00_a.py").write_text(lesson())
    result = call("reproduce", "--out", tmp_path / "store", *arguments)
    assert result.exit_code != 0 and message in result.output
    assert not (tmp_path / "store" / "runs").exists()


@pytest.mark.integration
def test_a_mirror_reaches_the_lessons_that_declare_it(lessons, tmp_path):
    (lessons / "00_a.py").write_text(lesson())
    (lessons / "01_b.py").write_text(
        lesson(code("print(mirror)"), parameters='profile = "demo"\nout = None\nmirror = None')
    )
    result = call("reproduce", "--out", tmp_path / "store", "--mirror", tmp_path)
    assert result.exit_code == 0, result.output
    assert f'"{tmp_path}\\n"' in (tmp_path / "store" / "runs" / "demo" / "01_b.ipynb").read_text()


def test_no_lessons_is_an_error(lessons, tmp_path):
    result = call("reproduce", "--out", tmp_path)
    assert result.exit_code == 1 and "no lesson in" in result.output


@pytest.fixture
def made(monkeypatch):
    """One stage, which writes down whose it is; -> (profile, folder of the real images) of each."""
    calls = []

    def make(folder, profile, inputs):
        calls.append((profile, inputs.store.data))

    table = {
        "lungs": stages.Stage("lungs", ("seed", "choices"), make, stages.nothing, stages.no_images)
    }
    monkeypatch.setattr(stages, "STAGES", table)
    return calls


def test_a_stage_is_made_into_the_store_and_named(tmp_path, made):
    result = call(
        "stage", "lungs", "--profile", "mini", "--data", tmp_path, "--out", tmp_path / "store"
    )
    folder = stages.folder_of(profiles.mini(), "lungs", artifacts.Store(tmp_path / "store"))
    assert result.exit_code == 0 and result.output == f"{folder}\n" and folder.is_dir()
    assert made == [(profiles.mini(), tmp_path)]
    result = call("stage", "heart", "--out", tmp_path / "store")
    assert result.exit_code == 1 and "unknown stage 'heart'; known: ['lungs']" in result.output


def test_a_stage_of_a_changed_profile_and_of_a_settings_file(tmp_path, made):
    out = ("--out", tmp_path / "store")
    changed = call("stage", "lungs", "--set", "seed=3", "--choices", "author", *out)
    assert changed.exit_code == 0, changed.output
    (tmp_path / "ours.yaml").write_text("seed: 3\nchoices: author\n")
    same = call("stage", "lungs", "--profile", tmp_path / "ours.yaml", *out)
    assert same.output == changed.output and len(made) == 1, "the same settings, the same artifact"
    profile, _ = made[0]
    assert profile.seed == 3 and profile.choices == Choices.author()
    for wrong, message in (
        (("--set", "sed=3"), "Error: --set: sed: unknown field"),
        (("--set", "seed"), "'seed' is no assignment; write field=value"),
        (("--choices", "late"), "'late' is not one of 'author', 'text'"),
        (("--profile", tmp_path / "gone.toml"), "gone.toml: no such settings file"),
    ):
        refused = call("stage", "lungs", *wrong, *out)
        assert refused.exit_code != 0 and message in refused.output
    assert len(made) == 1


@pytest.fixture
def asked(monkeypatch):
    """Nothing is run; -> what `reproduce` asks of plan, runner and report."""
    calls = {}

    def describe(profile, store, only):
        calls.update(plan=profile, planned=only)
        return "a plan"

    def run(parameters, root, only, force, jobs):
        calls.update(parameters=parameters, only=only, jobs=jobs)
        return []

    def write_report(profile, root, data):
        calls["report"] = profile
        return "page"

    monkeypatch.setattr(plan, "describe_in_subprocess", describe)
    monkeypatch.setattr(runner, "reproduce", run)
    monkeypatch.setattr(report, "write_report", write_report)
    return calls


def test_lessons_and_report_read_a_changed_profile_from_a_file(tmp_path, asked):
    result = call("reproduce", "--out", tmp_path, "--set", "seed=3", "--plan")
    assert result.exit_code == 0 and result.output == "a plan\n" and "parameters" not in asked
    assert asked["planned"] == ()
    result = call("reproduce", "--out", tmp_path, "--set", "seed=3", "--jobs", 2)
    assert result.exit_code == 0 and asked["jobs"] == 2, result.output
    profile = settings_file.get_profile(asked["parameters"]["profile"])
    assert profile == asked["plan"] == replace(profiles.demo(), seed=3, name=profile.name)
    expected = tmp_path / "runs" / profile.name / "settings.yaml"
    assert asked["parameters"]["profile"] == asked["report"] == str(expected)


def test_lessons_and_report_read_a_profile_of_the_kit_by_its_name(tmp_path, asked):
    result = call("reproduce", "--out", tmp_path / "store", "--profile", "paper-local")
    assert result.exit_code == 0 and asked["parameters"]["profile"] == "paper-local"
    assert asked["report"] == "paper-local" and asked["only"] == ()
    assert not (tmp_path / "store").exists()


def test_a_dry_run_shortens_whatever_profile_is_asked_for(tmp_path, asked):
    call("reproduce", "--out", tmp_path, "--profile", "paper", "--dry-run")
    assert asked["parameters"]["profile"] == "paper+dry" and asked["only"] == cli.DRY_LESSONS
    assert asked["planned"] == cli.DRY_LESSONS, "the plan is of what runs"
    assert asked["plan"] == profiles.get("paper+dry")
    (tmp_path / "ours.yaml").write_text("base: paper\ntransformer_training: {batch: 4}\n")
    result = call("reproduce", "--out", tmp_path, "--profile", tmp_path / "ours.yaml", "--dry-run")
    assert result.exit_code == 0, result.output
    dry = settings_file.get_profile(asked["parameters"]["profile"])
    training = dry.transformer_training
    assert dry.name == "ours+dry" and dry == asked["plan"]
    assert (training.steps, training.batch * training.accumulate) == (2, 4)


def test_reproduce_refuses_torchrun_and_says_what_to_run(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    result = call("reproduce", "--out", tmp_path / "store")
    assert (
        result.exit_code == 1
        and "torchrun ... -m cxrkit stage NAME" in result.output
        and not (tmp_path / "store").exists()
    )


def test_the_package_runs_as_a_module_as_torchrun_calls_it():
    done = subprocess.run(
        [sys.executable, "-m", "cxrkit", "stage", "--help"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0 and "torchrun --standalone" in done.stdout


@pytest.mark.parametrize(
    "check, step", [("check_kernel", "ipykernel install"), ("check_packages", "pip install")]
)
def test_an_environment_that_blocks_gives_the_next_step(
    lessons, tmp_path, monkeypatch, check, step
):
    (lessons / "00_a.py").write_text(lesson())
    broken = {
        "check_kernel": environment.Check(
            "kernel", "blocks", "no Jupyter kernel", "python -m ipykernel install"
        ),
        "check_packages": environment.Check(
            "packages", "blocks", "torch missing", environment.INSTALL
        ),
    }[check]
    monkeypatch.setattr(environment, "BEFORE_A_RUN", (lambda root: broken,))
    result = call("reproduce", "--out", tmp_path)
    assert (
        result.exit_code == 1
        and broken.value in result.output
        and f"next step: {broken.todo}" in result.output
    )
    assert step in result.output


def test_a_store_that_cannot_be_written_blocks(tmp_path, monkeypatch):
    checks = (environment.check_python, environment.check_store)  # no kernel is started
    monkeypatch.setattr(environment, "examine", partial(environment.examine, checks=checks))
    (tmp_path / "file").write_text("in the way")
    found = environment.check_store(tmp_path / "file" / "store")
    assert found.status == "blocks" and "CXRKIT_STORE" in found.todo
    assert call("doctor", "--out", tmp_path / "file" / "store").exit_code != 0


@pytest.mark.integration
def test_doctor_says_ready_here_and_json_says_the_same(tmp_path):
    result = call("doctor", "--out", tmp_path)
    assert result.exit_code == 0 and result.output.rstrip().endswith("Ready."), result.output
    found = json.loads(call("doctor", "--out", tmp_path, "--json").output)
    assert found["ready"] is True
    assert [check["name"] for check in found["checks"]] == [
        "python",
        "packages",
        "device",
        "threads",
        "memory",
        "paper",
        "drawing",
        "store",
        "mirror",
        "kernel",
        "extras",
    ]


def test_doctor_sees_what_is_missing_or_too_old():
    from packaging.requirements import Requirement

    needs = [Requirement(text) for text in ("no-such-package", "click>=99", "click>=1")]
    missing, old = environment.unmet_requirements(needs)
    assert missing == "no-such-package" and old.startswith("click ") and ">=99" in old


@pytest.mark.parametrize("value, todo", [("4000", "more threads than cores"), ("two", "number")])
def test_doctor_sees_odd_thread_settings(monkeypatch, value, todo):
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    found = environment.check_threads(None)
    assert found.status == "note" and todo in found.todo


def test_doctor_finds_the_mirror_or_says_that_the_path_is_wrong(monkeypatch, tmp_path):
    (tmp_path / "cohen").mkdir()
    monkeypatch.setenv("CXRKIT_MIRROR", str(tmp_path))
    assert environment.check_mirror(None).value == f"{tmp_path} (1 folders)"
    monkeypatch.setenv("CXRKIT_MIRROR", str(tmp_path / "gone"))
    assert environment.check_mirror(None).status == "note"
    monkeypatch.delenv("CXRKIT_MIRROR")
    assert environment.check_mirror(None).status == "ok"


def test_a_kernel_of_another_environment_blocks(tmp_path, monkeypatch):
    spec = tmp_path / "kernels" / "python3"
    spec.mkdir(parents=True)
    (spec / "kernel.json").write_text(
        json.dumps(
            {
                "argv": [str(tmp_path / "python"), "-m", "x"],
                "display_name": "Other",
                "language": "python",
            }
        )
    )
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    found = environment.check_kernel(None)
    assert (
        found.status == "blocks"
        and "another interpreter" in found.value
        and "ipykernel install" in found.todo
    )


def test_the_installed_command_answers(tmp_path):
    script = os.path.join(os.path.dirname(sys.executable), "cxrkit")
    result = subprocess.run([script, "--version"], capture_output=True, text=True, cwd=tmp_path)
    assert (result.returncode, result.stdout) == (0, f"cxrkit, version {__version__}\n"), (
        result.stderr
    )


def test_report_writes_without_running_and_refuses_an_unknown_profile(tmp_path):
    page = tmp_path / "runs" / "demo" / "report.html"
    assert call("report", "--out", tmp_path).output == f"report: {page}\n"
    unknown = call("report", "--profile", "huge", "--out", tmp_path)
    assert unknown.exit_code == 1 and "known: ['demo'" in unknown.output


def test_provenance_names_commit_and_versions_but_no_machine():
    facts = environment.provenance()
    assert {"date", "commit", "torch", "numpy", "device", "cores"} <= set(facts)
    assert os.uname().nodename not in json.dumps(facts) if hasattr(os, "uname") else True
