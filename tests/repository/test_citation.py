"""CITATION.cff has the fields of its schema and the version of the package."""

import datetime
import re

import yaml

import cxrkit
from tests.conftest import CHECKOUT

CITATION = yaml.safe_load((CHECKOUT / "CITATION.cff").read_text(encoding="utf-8"))


def test_the_version_is_that_of_the_package():
    """A version under development cites the release that it leads to."""
    assert CITATION["version"] == re.sub(r"\.dev\d+$", "", cxrkit.__version__)


def test_the_release_has_a_date_once_it_is_out():
    is_out = ".dev" not in cxrkit.__version__
    assert ("date-released" in CITATION) == is_out
    if is_out:
        assert isinstance(CITATION["date-released"], datetime.date)


def test_required_fields_are_there():
    assert {"cff-version", "message", "title", "authors", "license"} <= set(CITATION)
    assert CITATION["repository-code"].startswith("https://")


def test_dois_have_their_form():
    dois = [one["value"] for one in CITATION.get("identifiers", []) if one["type"] == "doi"]
    dois += [CITATION["preferred-citation"]["doi"]]
    assert all(re.fullmatch(r"10\.\d{4,}/\S+", doi) for doi in dois)


def test_the_changelog_has_the_version():
    text = (CHECKOUT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"\n## {CITATION['version']}" in text
