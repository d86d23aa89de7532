"""What `make test` leaves to `make test-all`: no file that could be quick, and no folder."""

import ast
import re

import pytest

from tests.conftest import CHECKOUT

LEFT_OUT = {"integration", "slow"}
# every test of these starts processes, kernels or a browser
WHOLE = {"test_survival.py", "test_distributed.py", "test_room_browser.py"}
FILES = sorted((CHECKOUT / "tests").rglob("test_*.py"))


def marks(source):
    """Names of pytest's marks in a piece of code."""
    return set(re.findall(r"pytest\.mark\.(\w+)", source))


def quick_tests(path):
    """Names of the tests of a file that `make test` runs."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "pytestmark":
            if marks(ast.unparse(node.value)) & LEFT_OUT:
                return []
    tests = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    return [
        test.name
        for test in tests
        if test.name.startswith("test_")
        and not any(marks(ast.unparse(each)) & LEFT_OUT for each in test.decorator_list)
    ]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_file_has_a_quick_test(path):
    assert bool(quick_tests(path)) != (path.name in WHOLE)


def test_marks_are_seen(tmp_path):
    file = tmp_path / "test_a.py"
    file.write_text("@pytest.mark.integration\ndef test_a(): pass\n\ndef test_b(): pass\n")
    assert quick_tests(file) == ["test_b"]
    file.write_text("pytestmark = pytest.mark.slow\ndef test_a(): pass\n")
    assert quick_tests(file) == []


def test_make_test_is_quick_and_make_test_all_is_not():
    makefile = (CHECKOUT / "Makefile").read_text(encoding="utf-8")
    quick, whole = (
        re.search(rf"^{name}: .*\n((?:\t.*\n)+)", makefile, re.M)[1]
        for name in ("test", "test-all")
    )
    assert '-m "not slow and not integration" tests' in quick and "nbval" not in quick
    assert '-m "not slow"' in whole and "--nbval-lax" in whole and "tests notebooks" in whole
