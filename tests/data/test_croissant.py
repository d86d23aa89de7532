"""Croissant metadata of every manifest, validated by the library of the format."""

import json

import pandas as pd
import pytest
from click.testing import CliRunner

from cxrkit.cli import main
from cxrkit.data import croissant, downloads, schema

LISTED = [name for name in schema.names() if (schema.manifest_dir() / f"{name}.csv").is_file()]


@pytest.mark.parametrize("name", schema.names())
def test_files_and_columns_are_those_of_the_manifest(name):
    found = croissant.metadata(name)
    files = {one["@id"]: one["sha256"] for one in found["distribution"]}
    assert set(files) == {f"{name}.json"} | ({f"{name}.csv"} if name in LISTED else set())
    for file, digest in files.items():
        assert downloads.sha256(schema.manifest_dir() / file) == digest
    manifest = schema.load(name)
    assert manifest.licence in found["license"] and manifest.obtain in found["description"]
    if name in LISTED:
        (records,) = found["recordSet"]
        columns = [field["source"]["extract"]["column"] for field in records["field"]]
        assert columns == list(pd.read_csv(schema.manifest_dir() / f"{name}.csv", nrows=1))


def written(name, folder):
    """The metadata with the files it names beside it."""
    path = folder / f"{name}.croissant.json"
    done = CliRunner().invoke(main, ["data", "croissant", name, "--out", str(path)])
    assert done.exit_code == 0, done.output
    for one in json.loads(path.read_text())["distribution"]:
        (folder / one["@id"]).write_bytes((schema.manifest_dir() / one["@id"]).read_bytes())
    return path


@pytest.mark.parametrize("name", schema.names())
def test_the_library_of_the_format_finds_no_error(name, tmp_path):
    library = pytest.importorskip("mlcroissant")
    dataset = library.Dataset(jsonld=written(name, tmp_path))  # raises ValidationError
    assert not list(dataset.metadata.ctx.issues.errors)


def test_the_library_reads_the_records(tmp_path):
    library = pytest.importorskip("mlcroissant")
    dataset = library.Dataset(jsonld=written("hannover", tmp_path))
    records = list(dataset.records("images"))
    table = pd.read_csv(schema.manifest_dir() / "hannover.csv", dtype=str)
    assert len(records) == len(table)
    assert records[0]["images/path"] in (table["path"][0], table["path"][0].encode())


def test_an_unknown_name_is_refused():
    done = CliRunner().invoke(main, ["data", "croissant", "nothing"])
    assert done.exit_code == 1 and "unknown dataset 'nothing'" in done.output


@pytest.mark.parametrize(
    "citation, address",
    [
        ("A. Author, Title (2020), doi:10.6084/m9.figshare.12275009.", "m9.figshare.12275009"),
        ("B. Author, Title, Mendeley (2018), doi 10.17632/rscbjbr9sj.2.", "17632/rscbjbr9sj.2"),
    ],
)
def test_the_address_is_the_doi_without_the_full_stop(citation, address):
    manifest = schema.load("local").model_copy(update={"citation": [citation]})
    found = croissant.address_of(manifest)
    assert found.startswith("https://doi.org/10.") and found.endswith(address)
