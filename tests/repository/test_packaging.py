"""Packaging: what is required, what is optional, and what a wheel says and holds."""

import ast
import json
import re
import subprocess
import sys
import tomllib

import pytest
import yaml
from binder_requirements import canonical, closure
from packaging.requirements import Requirement

from tests.conftest import CHECKOUT
from tests.repository.test_architecture import PACKAGES, imported

# packages that `cxrkit.predict` and the commands without a lesson use
CORE = PACKAGES[: PACKAGES.index("inference") + 1]
CORE_MODULES = ("__init__.py", "cli.py", "reproduction/environment.py")
DISTRIBUTIONS = {  # where the name of the import differs
    "PIL": "pillow",
    "cv2": "opencv-python",
    "gdcm": "python-gdcm",
    "lazy_loader": "lazy-loader",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}
# of the kernel of a notebook: none may be replaced where the kit is installed without extras
KERNEL = {
    "debugpy",
    "ipykernel",
    "ipyparallel",
    "ipython",
    "ipywidgets",
    "jupyter-client",
    "jupyter-core",
    "jupyter-server",
    "nbclient",
    "nbconvert",
    "nbformat",
    "notebook",
    "prompt-toolkit",
    "pyzmq",
    "tornado",
    "traitlets",
    "widgetsnbextension",
}
LESSONS = {  # the user's packages that the core does without, and what runs and builds lessons
    "jupyterlab",
    "ipywidgets",
    "matplotlib",
    "papermill",
    "nbval",
    "jupytext",
    "nbconvert",
    "nbformat",
    "ipykernel",
}


def project():
    return tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]


def names_of(lines):
    return {canonical(Requirement(line).name) for line in lines}


def pins(path):
    """{name: version} of a file of exact versions."""
    lines = [line for line in path.read_text().splitlines() if "==" in line and line[0] != "#"]
    return {canonical(name): version for name, version in (line.split("==") for line in lines)}


def distributions(modules):
    """The distributions that dotted modules come from, without Python's own and the kit."""
    tops = {name.split(".")[0] for name in modules} - {*sys.stdlib_module_names, "cxrkit", ""}
    return {canonical(DISTRIBUTIONS.get(name, name)) for name in tops}


def core_files():
    found = [CHECKOUT / "cxrkit" / name for name in CORE_MODULES]
    for package in CORE:
        found += sorted((CHECKOUT / "cxrkit" / package).rglob("*.py"))
    return found


class WithoutLazyParts(ast.NodeTransformer):
    """Takes out functions and what only a type checker reads."""

    def visit_FunctionDef(self, node):
        return None

    def visit_If(self, node):
        return None if "TYPE_CHECKING" in ast.unparse(node.test) else node


def imported_at_once(tree):
    """Modules that a file imports when it is imported itself."""
    return imported(WithoutLazyParts().visit(tree))


# what is required


def test_every_import_is_a_declared_dependency():
    """What another package happens to bring today may be gone tomorrow."""
    declared = names_of(sum(project()["optional-dependencies"].values(), project()["dependencies"]))
    # its own foundations
    declared |= {"ipython", "jupyter-client"} if "ipykernel" in declared else set()
    used = set()
    for path in (CHECKOUT / "cxrkit").rglob("*.py"):
        used |= distributions(imported(ast.parse(path.read_text())))
    assert used - declared == set()


def test_the_core_imports_what_is_required_and_nothing_is_required_beside_it():
    required = names_of(project()["dependencies"])
    at_once, ever = set(), set()
    for path in core_files():
        tree = ast.parse(path.read_text())
        ever |= distributions(imported(tree))
        at_once |= distributions(imported_at_once(tree))
    assert at_once - required == set(), "imported by the core, not required"
    assert required - ever == set(), "required, not imported by the core"


def test_the_lessons_are_an_extra_that_development_takes_in():
    extras = project()["optional-dependencies"]
    assert names_of(extras["lessons"]) >= LESSONS
    assert not names_of(project()["dependencies"]) & (LESSONS | KERNEL)
    assert "cxrkit[lessons,dicom-out,cluster,onnx,lite]" in extras["dev"]


WITHOUT_LESSONS = """
import importlib.abc, sys
BLOCKED = set(sys.argv[1].split(","))
class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"No module named {name!r}")
sys.meta_path.insert(0, Block())
import cxrkit
from cxrkit.inference import load_models
from cxrkit.simulation.hospital import SITES, Hospital
image = Hospital(list(SITES)[0], seed=1, n=1, size=128)[0].image
models = load_models(weights=sys.argv[2])
found = cxrkit.predict(image, models, "PA", device="cpu")
assert 0 <= found.severity <= 6 and len(found.maps) == 5
from click.testing import CliRunner
from cxrkit.cli import main
for command in (["--help"], ["data", "list"], ["predict", "--help"], ["stage", "--help"]):
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, (command, result.output)
"""


@pytest.mark.integration
def test_predict_works_where_the_lessons_are_not_installed():
    weights = CHECKOUT / "cxrkit" / "inference" / "weights"
    if not (weights / "research" / "segmenter.safetensors").exists():
        pytest.skip("no shipped weights")
    blocked = [*LESSONS, "IPython", "jupyter_client", "jupyter_core", "jinja2", "traitlets"]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_LESSONS, ",".join(blocked), str(weights)],
        capture_output=True,
        text=True,
        cwd=CHECKOUT,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr


# Colab


def colab():
    return pins(CHECKOUT / "tests" / "repository" / "colab_packages.txt")


@pytest.mark.parametrize("line", project()["dependencies"])
def test_colab_has_each_requirement_of_the_core(line):
    """Then pip, asked for the kit alone, installs the kit alone."""
    need = Requirement(line)
    there = colab()[canonical(need.name)].partition("+")[0]  # torch and its build
    assert need.specifier.contains(there), f"Colab has {need.name} {there}"


def test_nothing_of_colabs_kernel_would_be_replaced():
    assert KERNEL <= set(colab())
    assert closure(project()["dependencies"]) & KERNEL == set()


def test_colab_runs_a_python_that_the_kit_accepts():
    assert project()["requires-python"] == ">=3.11", "Colab: 3.12"


def first_cell():
    """What the cell for Colab in docs/teaching.md asks pip for."""
    text = (CHECKOUT / "docs" / "teaching.md").read_text()
    return [Requirement(line) for line in re.findall(r'%pip install --quiet "(.+)"', text)]


def test_the_first_cell_for_colab_installs_the_kit_and_its_models_alone():
    """With an extra, pip would replace the kernel that runs the cell."""
    assert [(need.name, need.extras) for need in first_cell()] == [
        ("cxrkit", set()),
        ("cxrkit-models", set()),
    ]
    models = tomllib.loads((CHECKOUT / "packages/cxrkit-models/pyproject.toml").read_text())
    assert names_of(models["project"]["dependencies"]) == {"cxrkit"}


LESSON_SOURCES = sorted((CHECKOUT / "notebooks" / "src").glob("*.py"))


@pytest.mark.parametrize("lesson", [path.stem for path in LESSON_SOURCES])
def test_a_lesson_installs_nothing_and_imports_what_colab_has(lesson):
    source = (CHECKOUT / "notebooks" / "src" / f"{lesson}.py").read_text()
    assert not re.search(r"^[# ]*[%!] *(pip|conda)|\bpip install", source, re.M)
    assert distributions(imported(ast.parse(source))) <= set(colab())


def test_the_rehearsal_for_colab_replaced_nothing_and_ran_every_lesson():
    """`tools/colab_rehearsal.py`, with the versions of the list."""
    found = json.loads((CHECKOUT / "docs" / "lab" / "colab_rehearsal.json").read_text())
    assert found["changed_by_the_kit"] == []
    assert [row["lesson"] for row in found["rows"]] == [path.stem for path in LESSON_SOURCES]
    assert [row for row in found["rows"] if not row["passed"]] == []
    for name in ("torch", "numpy", "pandas", "ipython", "ipywidgets"):
        assert found["made"][name].partition("+")[0] == colab()[name].partition("+")[0]


# lists that repeat the requirements


def test_the_conda_environment_lists_every_requirement():
    """conda does not read pyproject, so its file repeats the ranges: none missing, none older."""
    conda = {"torch": "pytorch-cpu", "opencv-python": "py-opencv", "matplotlib": "matplotlib-base"}
    wanted = [*project()["dependencies"], *project()["optional-dependencies"]["lessons"]]
    listed = yaml.safe_load((CHECKOUT / "environment.yml").read_text())["dependencies"]
    pattern = re.compile(r"([\w-]+)(?:>=?|=)?(.*)")
    have = dict(pattern.match(line).groups() for line in listed if isinstance(line, str))
    for line in wanted:
        package, low = re.match(r"([\w-]+)>=(.*)", line).groups()
        there = have[conda.get(package, package)]
        assert low.split(".")[:2] == there.split(".")[:2], (
            f"{package}: pyproject {low}, environment.yml {there}"
        )


def test_constraints_fit_the_ranges_and_any_build_of_torch():
    pinned = pins(CHECKOUT / "constraints.txt")
    for line in sum(project()["optional-dependencies"].values(), project()["dependencies"]):
        need = Requirement(line)
        if need.name == "cxrkit":
            continue  # an extra that takes in another
        assert need.specifier.contains(pinned[canonical(need.name)]), line
    assert not [name for name in pinned if name.startswith(("nvidia", "cuda", "triton"))]


# the wheel


def build():
    return tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]


def test_weights_that_are_not_for_everybody_are_not_packaged():
    weights = "/cxrkit/inference/weights"
    assert (CHECKOUT / weights[1:] / "research").is_dir()
    assert weights in build()["exclude"]
    assert weights in build()["targets"]["sdist"]["exclude"], "a target's own list replaces it"
    assert "exclude" not in build()["targets"]["wheel"]


def test_what_a_wheel_takes_from_the_checkout_is_there():
    for source, target in build()["targets"]["wheel"]["force-include"].items():
        assert (CHECKOUT / source).is_dir() and not (CHECKOUT / target).exists(), source


def test_the_licence_names_the_atlas_too():
    assert project()["license"] == "Apache-2.0 AND MIT AND CC-BY-3.0 AND CC-BY-4.0"
    files = project()["license-files"]
    assert all((CHECKOUT / path).is_file() for path in files)
    atlas = (CHECKOUT / "cxrkit/simulation/atlas/README.md").read_text()
    for owed in ("MIT", "10.7937/K9/TCIA.2015.LO9QL9SX", "10.7937/TCIA.2020.NNC2-0461"):
        assert owed in atlas
    for name in ("by/3.0", "by/4.0"):
        assert f"creativecommons.org/licenses/{name}" in atlas
    assert {"LICENSE", "cxrkit/simulation/atlas/README.md"} <= set(files)


def test_the_package_is_typed():
    assert (CHECKOUT / "cxrkit" / "py.typed").exists()


# continuous integration


def test_public_ci_runs_the_same_script():
    jobs = yaml.safe_load((CHECKOUT / ".github" / "workflows" / "ci.yml").read_text())["jobs"]
    steps = [step for job in jobs.values() for step in job["steps"]]
    assert any("bash .ci/run" in step.get("run", "") for step in steps)
    assert any(step.get("with", {}).get("python-version") == "3.11" for step in steps)
