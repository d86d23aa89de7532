"""The package as a whole: who imports whom, and what importing costs."""

import ast
import graphlib
import importlib
import subprocess
import sys

import pytest

from tests.conftest import CHECKOUT

# A package imports only those before it.
PACKAGES = (
    "config",
    "storage",
    "data",
    "simulation",
    "models",
    "training",
    "evaluation",
    "tasks",
    "explain",
    "shortcuts",
    "pipeline",
    "inference",
    "viz",
    "teaching",
    "reproduction",
    "reading_room",
    "cli",
)
MODULES = sorted(
    path.relative_to(CHECKOUT).with_suffix("").as_posix().replace("/", ".")
    for path in (CHECKOUT / "cxrkit").rglob("[!_]*.py")
)


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


def kit_modules(module, source):
    """Dotted names of the kit's modules that the source of `module` imports when it runs."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            node.body = [ast.Pass()]  # for annotations alone
    return {name for name in imported(tree) if name in MODULES and name != module}


def wrong_imports(module, source):
    """The imports that break a rule of the architecture, in words."""
    names = imported(ast.parse(source))
    package = module.split(".")[1]
    place = PACKAGES.index(package)
    wrong = []
    for name in sorted({name.split(".")[1] for name in names if name.startswith("cxrkit.")}):
        if name in PACKAGES and PACKAGES.index(name) > place:
            wrong.append(f"{module} imports {name}, which stands above it")
    foreign = {name.split(".")[0] for name in names}
    if package == "models":
        kit = {name.split(".")[1] for name in names if name.startswith("cxrkit.")}
        wrong += [
            f"{module} is a model and imports {name}"
            for name in sorted(kit - {"config", "models"} & set(PACKAGES))
        ]
    if place < PACKAGES.index("viz") and "matplotlib" in foreign:
        wrong.append(f"{module} imports matplotlib, which belongs to viz and above")
    if "ipywidgets" in foreign and module not in (
        "cxrkit.viz.sliders",
        "cxrkit.reading_room.pages",
    ):
        wrong.append(f"{module} imports ipywidgets, which belongs to sliders and pages")
    return wrong


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_one_way(module):
    path = CHECKOUT / (module.replace(".", "/") + ".py")
    assert wrong_imports(module, path.read_text()) == []


def test_no_module_imports_itself_through_others():
    graph = {}
    for module in MODULES:
        path = CHECKOUT / (module.replace(".", "/") + ".py")
        graph[module] = kit_modules(module, path.read_text())
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError with the circle


def test_the_trained_model_stands_on_few_modules():
    """Whoever loads weights meets the models and their words: no data, no simulation."""
    reached, waiting = set(), {"cxrkit.models.classifier", "cxrkit.models.corpus_vit"}
    while waiting:
        module = waiting.pop()
        reached.add(module)
        path = CHECKOUT / (module.replace(".", "/") + ".py")
        waiting |= kit_modules(module, path.read_text()) - reached
    assert len(reached) <= 5
    assert {name.split(".")[1] for name in reached} <= {"config", "models"}


@pytest.mark.parametrize(
    "module, line",
    [
        ("cxrkit.data.images", "from cxrkit.training import loop"),
        ("cxrkit.data.images", "import cxrkit.training.loop as t"),
        ("cxrkit.data.images", "from cxrkit.training.loop import fit"),
        ("cxrkit.data.images", "def f():\n    from cxrkit.simulation import hospital"),
        ("cxrkit.models.densenet", "from cxrkit.data import masks"),
        ("cxrkit.pipeline.stages", "import matplotlib.pyplot as plt"),
        ("cxrkit.viz.style", "from ipywidgets import IntSlider"),
    ],
)
def test_a_wrong_import_is_seen(module, line):
    assert len(wrong_imports(module, line)) == 1


@pytest.mark.parametrize(
    "module, line",
    [
        ("cxrkit.models.densenet", "from cxrkit.config import vocabulary\nimport torch"),
        ("cxrkit.viz.style", "import matplotlib"),
        ("cxrkit.viz.sliders", "import ipywidgets"),
        ("cxrkit.pipeline.stages", "from cxrkit import NOTICE\nfrom cxrkit.training import loop"),
        ("cxrkit.data.images", "import trainer"),
    ],
)
def test_a_right_import_passes(module, line):
    assert wrong_imports(module, line) == []


@pytest.mark.parametrize("module", MODULES)
def test_every_module_imports_and_says_what_it_holds(module):
    assert importlib.import_module(module).__doc__


@pytest.mark.parametrize("package", PACKAGES)
def test_every_package_says_what_it_holds(package):
    assert importlib.import_module(f"cxrkit.{package}").__doc__


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
