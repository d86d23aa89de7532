"""The examples in the docstrings of public names run and say what they show."""

import ast
import doctest
import importlib
import inspect
import sys

import pytest

from cxrkit.pipeline.run import Run
from cxrkit.teaching import exercises
from tests.conftest import CHECKOUT
from tests.fakes import rooms
from tests.repository.test_architecture import PACKAGES

# Public names that an example explains. Those whose source a lesson prints have theirs on the pages
# of docs/api; those that need a finished store or a training, in docs/extend.md and the lessons.
EXPLAINED = {
    "data": "equalize blur resize normalize clean_mask zones roi_pool brixia_to_array "
    "severity_score coverage split_of read_manifest load_image",
    "models": "adain Classifier UNet",
    "training": "pick_device seed_everything",
    "evaluation": "auc macro_auc auc_ci delong_test operating_point brier ece quadratic_kappa "
    "bland_altman holm dice jaccard bootstrap paired_bootstrap",
    "explain": "attnlrp explain",
    "simulation": "Hospital",
    "storage": "key",
}


# Every public name stands in an example, of its docstring or of its page in docs/api, but:
NOT_SHOWN = {
    "data.Choices": "on the page of config",
    "data.fetch": "needs the network, or a prepared copy",
    "explain.CorpusViT": "on the page of models",
    "explain.EvaluationSet": "needs a finished store: lesson 05",
    "explain.Explanation": "a protocol; docs/extend.md has a method of one's own",
    "explain.evaluation_set": "needs a finished store: lesson 05",
    "explain.make_sample": "needs a finished store: lesson 05",
    "explain.read_all_boxes": "needs real films: docs/mini.md",
    "explain.read_boxes": "needs real films: docs/mini.md",
    "explain.through_backbone": "needs a trained backbone: lesson 05",
    "reproduction.CannotRun": "what `reproduce` raises",
    "reproduction.describe_in_subprocess": "`describe_plan` in a process of its own",
    "reproduction.reproduce": "runs whole lessons: README.md",
    "shortcuts.source_probes": "fits many linear models: tests/shortcuts",
    "shortcuts.trivial_probes": "fits many linear models: tests/shortcuts",
    "teaching.LiveTraining": "needs a trained model and its films: lessons 02 to 06",
    "teaching.train_yourself": "needs a trained model and its films: lessons 02 to 06",
    "storage.write_result": "writes into the package",
}


def public():
    """Functions and classes of all packages: {(package, name): object}."""
    found = {}
    for package in PACKAGES:
        module = importlib.import_module(f"cxrkit.{package}")
        for name in getattr(module, "__all__", ()):
            one = getattr(module, name)
            if inspect.isfunction(one) or inspect.isclass(one):
                found[package, name] = one
    return found


PUBLIC = public()


def test_every_public_name_has_a_docstring():
    assert [key for key, one in PUBLIC.items() if not inspect.getdoc(one)] == []


def examples(one):
    """The doctest of a function or class, with the names of its module."""
    names = vars(sys.modules[one.__module__])
    finder = doctest.DocTestFinder(recurse=False, exclude_empty=True)
    return [test for test in finder.find(one, globs=dict(names)) if test.examples]


@pytest.mark.parametrize("package", EXPLAINED)
def test_the_promised_names_have_an_example(package):
    without = [name for name in EXPLAINED[package].split() if not examples(PUBLIC[package, name])]
    assert without == []


WITH_EXAMPLES = {f"{package}.{name}": one for (package, name), one in PUBLIC.items()}


@pytest.mark.parametrize("name", [name for name, one in WITH_EXAMPLES.items() if examples(one)])
def test_examples_say_what_they_show(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for test in examples(WITH_EXAMPLES[name]):
        found = []
        doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(test, out=found.append)
        assert not found, "".join(found)


FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
PAGES = sorted((CHECKOUT / "docs" / "api").glob("*.md"))


def names_in_examples(package):
    """Names that the page of a package takes from it: `package.name`, or imported from it."""
    page = CHECKOUT / "docs" / "api" / f"{package}.md"
    found = doctest.DocTestParser().get_examples(page.read_text("utf-8").replace("```", ""))
    names = set()
    for node in ast.walk(ast.parse("".join(each.source for each in found))):
        if isinstance(node, ast.ImportFrom) and node.module == f"cxrkit.{package}":
            names |= {alias.name for alias in node.names}
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            names |= {node.attr} if node.value.id == package else set()
    return names


@pytest.mark.parametrize("package", dict.fromkeys(package for package, _ in PUBLIC))
def test_every_public_name_stands_in_an_example(package):
    on_page = names_in_examples(package)
    names = {name: one for (of, name), one in PUBLIC.items() if of == package}
    without = {name for name, one in names.items() if name not in on_page and not examples(one)}
    known = {name.split(".")[1] for name in NOT_SHOWN if name.split(".")[0] == package}
    assert without == known


def a_finished_run(folder):
    """The run that the page of the reading room begins with: few films, and random weights."""
    rooms.fill(folder, rooms.SMALL)
    return {"run": Run(rooms.SMALL, folder)}


GIVEN = {"reading_room": a_finished_run}  # page -> what makes the names that it is given


@pytest.mark.parametrize("page", [page.stem for page in PAGES if ">>>" in page.read_text("utf-8")])
def test_examples_of_the_pages_say_what_they_show(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CXRKIT_STORE", str(tmp_path / "store"))
    # a page begins as a new session, whatever hints other tests have asked for
    monkeypatch.setattr(exercises, "_hints_given", {})
    path = CHECKOUT / "docs" / "api" / f"{page}.md"
    names = GIVEN[page](tmp_path / "given") if page in GIVEN else {}
    text = path.read_text("utf-8").replace("```", "")
    test = doctest.DocTestParser().get_doctest(text, names, path.name, str(path), 0)
    found = []
    doctest.DocTestRunner(optionflags=FLAGS).run(test, out=found.append)
    assert test.examples and not found, "".join(found)
