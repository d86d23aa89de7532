"""Research weights are fetched after their terms were accepted, and verified."""

import shutil

import pytest
from click.testing import CliRunner

from cxrkit.cli import main
from cxrkit.data.downloads import FetchError
from cxrkit.inference import research_weights, trained
from cxrkit.storage import locations
from cxrkit.storage.atomic import read_json
from tests.conftest import CHECKOUT

RESEARCH = CHECKOUT / "cxrkit" / "inference" / "weights" / "research"
pytestmark = pytest.mark.skipif(not RESEARCH.is_dir(), reason="a checkout has the folder")


def test_the_list_is_that_of_the_folder():
    """`make weights` writes both."""
    assert read_json(research_weights.LIST) == research_weights.listing(RESEARCH)


def test_what_was_fetched_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("CXRKIT_WEIGHTS", str(tmp_path / "mine"))
    monkeypatch.setattr(trained, "SHIPPED", tmp_path / "none")
    options = ["models", "fetch", "--from", str(RESEARCH)]
    done = CliRunner().invoke(main, options, input="y\n")
    assert done.exit_code == 0, done.output
    assert "Not a diagnostic device" in done.output
    assert research_weights.listing(tmp_path / "mine" / "research") == read_json(
        research_weights.LIST
    )
    found = trained.weights_in_folder(locations.fetched_weights())
    assert not trained.missing(found)


def test_without_consent_no_weights_come(tmp_path, monkeypatch):
    monkeypatch.setenv("CXRKIT_WEIGHTS", str(tmp_path))
    done = CliRunner().invoke(main, ["models", "fetch", "--from", str(RESEARCH)], input="n\n")
    assert done.exit_code == 1 and "not accepted" in done.output
    assert not list(tmp_path.rglob("*.safetensors"))


def test_another_file_is_refused(tmp_path):
    source = tmp_path / "source"
    shutil.copytree(RESEARCH, source)
    with open(source / "severity.safetensors", "ab") as file:
        file.write(b"x")
    with pytest.raises(FetchError, match=r"severity\.safetensors: bytes"):
        research_weights.fetch(str(source), tmp_path / "out", accepts=lambda terms: True)
    assert not (tmp_path / "out" / "severity.safetensors").exists()


def test_only_https_is_fetched(tmp_path):
    with pytest.raises(FetchError, match="only https"):
        research_weights.fetch("ftp://somewhere/research", tmp_path, accepts=lambda terms: True)
