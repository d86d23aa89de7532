"""A test that needs real films skips where there are none; in CI it may not skip where they are."""

import pytest

from tests.conftest import CHECKOUT

TESTS = """
import pytest
def test_reads(mirror): assert (mirror / "cohen").is_dir()
def test_gives_up(mirror): pytest.skip("changed my mind")
def test_needs_none(): pytest.skip("another reason")
@pytest.mark.xfail(reason="known")
def test_known(mirror): assert False
"""


@pytest.fixture
def outcomes(pytester, monkeypatch):
    """Function (mirror folder, CI) -> outcomes of TESTS under the kit's conftest."""

    def run(folder, ci):
        monkeypatch.setenv("CXRKIT_MIRROR", str(folder))
        monkeypatch.setenv("CI", "1") if ci else monkeypatch.delenv("CI", raising=False)
        pytester.makeconftest((CHECKOUT / "tests" / "conftest.py").read_text())
        pytester.makepyfile(TESTS)
        return pytester.runpytest_inprocess("-q", "-p", "no:cacheprovider").parseoutcomes()

    return run


def test_films_there(outcomes, tmp_path):
    (tmp_path / "cohen").mkdir()
    assert outcomes(tmp_path, ci=False) == {"passed": 1, "skipped": 2, "xfailed": 1}
    assert outcomes(tmp_path, ci=True) == {"passed": 1, "failed": 1, "skipped": 1, "xfailed": 1}


def test_no_films(outcomes, tmp_path):
    assert outcomes(tmp_path / "missing", ci=True) == {"skipped": 4}


def test_an_empty_folder_is_an_error_not_a_skip(outcomes, tmp_path):
    assert outcomes(tmp_path, ci=False)["errors"] == 2
