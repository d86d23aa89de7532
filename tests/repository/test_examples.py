"""The examples in the docstrings of public names run and say what they show."""

import doctest
import importlib
import inspect
import re
import sys

import pytest

from tests.conftest import CHECKOUT
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


# Every public name of these stands in an example, of its docstring or of its page in docs/api, but:
COMPLETE = ("config", "data", "explain", "storage", "training")
NOT_SHOWN = {
    "data.Choices": "on the page of config",
    "data.fetch": "needs the network, or a prepared copy",
    "explain.EvaluationSet": "needs a finished store: lesson 05",
    "explain.Explanation": "a protocol; docs/extend.md has a method of one's own",
    "explain.evaluation_set": "needs a finished store: lesson 05",
    "explain.make_sample": "needs a finished store: lesson 05",
    "explain.read_all_boxes": "needs real films: docs/mini.md",
    "explain.read_boxes": "needs real films: docs/mini.md",
    "explain.through_backbone": "needs a trained backbone: lesson 05",
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


def names_in_examples(page):
    """Words of the examples of a page."""
    found = doctest.DocTestParser().get_examples(page.read_text("utf-8").replace("```", ""))
    return set(re.findall(r"\w+", "".join(each.source for each in found)))


@pytest.mark.parametrize("package", COMPLETE)
def test_every_public_name_stands_in_an_example(package):
    on_page = names_in_examples(CHECKOUT / "docs" / "api" / f"{package}.md")
    names = {name: one for (of, name), one in PUBLIC.items() if of == package}
    without = {name for name, one in names.items() if name not in on_page and not examples(one)}
    known = {name.removeprefix(f"{package}.") for name in NOT_SHOWN if name.startswith(package)}
    assert without == known


@pytest.mark.parametrize("page", [page for page in PAGES if ">>>" in page.read_text("utf-8")])
def test_examples_of_the_pages_say_what_they_show(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CXRKIT_STORE", str(tmp_path / "store"))
    text = page.read_text("utf-8").replace("```", "")
    test = doctest.DocTestParser().get_doctest(text, {}, page.name, str(page), 0)
    found = []
    doctest.DocTestRunner(optionflags=FLAGS).run(test, out=found.append)
    assert test.examples and not found, "".join(found)
