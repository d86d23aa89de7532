"""The package as a whole: who imports whom, what importing costs, and that lists of dependencies
agree.
"""

import ast
import importlib
import re
import subprocess
import sys
import tomllib

import pytest
import yaml

from tests.conftest import CHECKOUT

# SPEC 3: a module imports only those to its left.
ORDER = (
    "choices profiles artifacts mapped results schema labels manifest severity transfer fetch "
    "anatomy devices disease patterns film "
    "cohort films preprocess images data leakage backbone segmentation adversarial variation "
    "transformer baselines relevance "
    "saliency resampling metrics batches checkpoint machine crew train memory findings networks "
    "audit overlap lungs diagnosis contrasts "
    "contrastive followup localisation quantification readers evidence court dial dependencies "
    "selection stages experiments "
    "comparisons plan plots curves maps widgets inspection predict edits room quiz sheets panels "
    "pages doctor watch notebooks ledger "
    "report cli"
).split()
# models import torch, each other and severity
MODELS = {
    "backbone",
    "segmentation",
    "adversarial",
    "variation",
    "transformer",
    "baselines",
    "relevance",
    "saliency",
}
MODULES = sorted(path.stem for path in (CHECKOUT / "cxrkit").glob("[!_]*.py"))


def imported(tree):
    """Every module that the code imports anywhere, as dotted names; `from cxrkit import x` gives
    cxrkit.x.
    """
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ("cxrkit." * (node.level > 0) + (node.module or "")).rstrip(".")
            names |= {base} | {f"{base}.{alias.name}" for alias in node.names}
    return names


def wrong_imports(module, source):
    """The imports that break a rule of SPEC 3, in words."""
    names = imported(ast.parse(source))
    kit = {name.split(".")[1] for name in names if name.startswith("cxrkit.")} & set(ORDER)
    place = ORDER.index(module)
    wrong = [
        f"{module} imports {name}, which stands below it"
        for name in sorted(kit)
        if ORDER.index(name) >= place
    ]
    if module in MODELS:
        wrong += [
            f"{module} is a model and imports {name}"
            for name in sorted(kit - MODELS - {"severity"})
        ]
    if place < ORDER.index("plots") and any(name.split(".")[0] == "matplotlib" for name in names):
        wrong.append(f"{module} imports matplotlib, which belongs to plots and below")
    if module not in ("widgets", "pages") and any(
        name.split(".")[0] == "ipywidgets" for name in names
    ):
        wrong.append(f"{module} imports ipywidgets, which belongs to widgets and pages")
    return wrong


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_one_way(module):
    assert module in ORDER, (
        f"say in tests/test_imports.py (and in the layout of the package) where {module} stands"
    )
    assert wrong_imports(module, (CHECKOUT / "cxrkit" / f"{module}.py").read_text()) == []


@pytest.mark.parametrize(
    "module, line",
    [
        ("data", "from cxrkit import train"),
        ("data", "import cxrkit.train as t"),
        ("data", "from cxrkit.train import fit"),
        ("data", "def f():\n    from . import train"),
        ("backbone", "from cxrkit.profiles import Choices"),
        ("stages", "import matplotlib.pyplot as plt"),
        ("plots", "from ipywidgets import IntSlider"),
        ("data", "from cxrkit import data"),
    ],
)
def test_a_wrong_import_is_seen(module, line):
    assert len(wrong_imports(module, line)) == 1


@pytest.mark.parametrize(
    "module, line",
    [
        ("backbone", "from cxrkit import severity\nimport torch"),
        ("plots", "import matplotlib"),
        ("widgets", "import ipywidgets"),
        ("stages", "from cxrkit import NOTICE, train"),
        ("data", "import trainer"),
    ],
)
def test_a_right_import_passes(module, line):
    assert wrong_imports(module, line) == []


@pytest.mark.parametrize("module", MODULES)
def test_every_module_imports_and_says_what_it_holds(module):
    assert importlib.import_module(f"cxrkit.{module}").__doc__


@pytest.mark.parametrize("command", [["--help"], ["reproduce", "--help"], ["--version"]])
def test_help_imports_nothing_heavy(command):
    code = (
        "import sys\nfrom cxrkit.cli import main\ntry: main(sys.argv[1:])\nexcept SystemExit as "
        "end: assert end.code == 0\n"
        "heavy = {'torch', 'torchvision', 'pandas', 'matplotlib', 'cv2', 'papermill', 'numpy'} & "
        "set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run(
        [sys.executable, "-c", code, *command], check=True, capture_output=True, timeout=30
    )


def test_every_import_is_a_declared_dependency():
    """What another package happens to bring today may be gone tomorrow."""
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    declared = {
        re.match(r"[\w-]+", line).group()
        for line in sum(project["optional-dependencies"].values(), project["dependencies"])
    }
    # its own foundations
    declared |= {"IPython", "jupyter_client"} if "ipykernel" in declared else set()
    names = {
        "PIL": "pillow",
        "cv2": "opencv-python",
        "sklearn": "scikit-learn",
        "gdcm": "python-gdcm",
    }
    used = {
        name.split(".")[0]
        for path in (CHECKOUT / "cxrkit").glob("*.py")
        for name in imported(ast.parse(path.read_text()))
    }
    used -= {*sys.stdlib_module_names, "cxrkit", ""}
    assert {names.get(name, name) for name in used} - declared == set()


@pytest.mark.parametrize("name", ["environment.yml", "binder/environment.yml"])
def test_conda_environments_list_every_requirement(name):
    """conda's files repeat pyproject's ranges, since conda does not read it; nothing may be missing
    or older.
    """
    conda = {"torch": "pytorch-cpu", "opencv-python": "py-opencv", "matplotlib": "matplotlib-base"}
    wanted = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]["dependencies"]
    listed = [
        line
        for line in yaml.safe_load((CHECKOUT / name).read_text())["dependencies"]
        if isinstance(line, str)
    ]
    have = dict(re.match(r"([\w-]+)(?:>=?|=)?(.*)", line).groups() for line in listed)
    for line in wanted:
        package, low = re.match(r"([\w-]+)>=(.*)", line).groups()
        there = have[conda.get(package, package)]
        assert low.split(".")[:2] == there.split(".")[:2], (
            f"{package}: pyproject {low}, {name} {there}"
        )


def test_constraints_fit_the_ranges_and_any_build_of_torch():
    from packaging.requirements import Requirement

    lines = [
        line
        for line in (CHECKOUT / "constraints.txt").read_text().splitlines()
        if "==" in line and line[0] != "#"
    ]
    pins = {
        re.sub("[-_.]+", "-", name).lower(): version
        for name, version in (line.split("==") for line in lines)
    }
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    for line in sum(project["optional-dependencies"].values(), project["dependencies"]):
        need = Requirement(line)
        if need.name == "cxrkit":
            continue  # an extra that takes in another
        assert need.specifier.contains(pins[re.sub("[-_.]+", "-", need.name).lower()]), line
    assert not [name for name in pins if name.startswith(("nvidia", "cuda", "triton"))]
