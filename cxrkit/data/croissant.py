"""Croissant metadata of a manifest: JSON-LD that dataset search engines and loaders read.

After version 1.0 of the format (mlcommons.org/croissant). What the kit knows of a dataset is
written, and no more: its terms, how to obtain it, and, for the public films, the list of images
with addresses, hashes, groups and splits.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pandas as pd

from cxrkit import __version__
from cxrkit.data import downloads, schema
from cxrkit.data.schema import Manifest

CONFORMS_TO = "http://mlcommons.org/croissant/1.0"
CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataBiases": "cr:dataBiases",
    "dataCollection": "cr:dataCollection",
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "personalSensitiveInformation": "cr:personalSensitiveInformation",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
# of columns of the lists of images; every other column is text
MEANINGS = {
    "path": "image, relative to the folder of the dataset",
    "source_path": "where the image lies at its public address",
    "sha256": "of the prepared image",
    "sha256_source": "of the image at its public address",
    "bytes": "size of the prepared image",
    "group_id": "patients who may not be on both sides of a split",
    "split": "train, val or test",
    "licence_class": "terms of this image",
}


def metadata(name: str) -> dict[str, Any]:
    """The Croissant metadata of a dataset.

    Args:
        name: of the dataset (`schema.names`).

    Returns:
        JSON-LD as nested dicts and lists.

    Raises:
        ValueError: the name is unknown.
    """
    manifest = schema.load(name)
    folder = schema.manifest_dir()
    files = [_file(folder / f"{name}.json", "application/json")]
    records = []
    table = folder / f"{name}.csv"
    if table.is_file():
        files.append(_file(table, "text/csv"))
        records.append(_records(table))
    found = {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": CONFORMS_TO,
        "name": name,
        "description": f"{manifest.title}. {manifest.about} How to obtain it: {manifest.obtain}",
        "license": f"{manifest.licence} ({manifest.licence_class})",
        "citeAs": " ".join(manifest.citation) or manifest.title,
        "version": re.sub(r"\.dev\d+$", "", __version__),
        "keywords": ["chest X-ray", *manifest.provides],
        "isLiveDataset": False,
        "personalSensitiveInformation": "Radiographs of persons, without names.",
        "distribution": files,
    }
    if address_of(manifest):
        found["url"] = address_of(manifest)
    if records:
        found["recordSet"] = records
    return found


def address_of(manifest: Manifest) -> str:
    """A page of the dataset: of its public repository, else of a DOI it cites; "" for none."""
    for source in manifest.sources.values():
        return f"https://github.com/{source.repo}"
    for citation in manifest.citation:
        doi = re.search(r"\b(10\.\d{4,}/[^\s,;]+[^\s,;.])", citation)
        if doi:
            return f"https://doi.org/{doi[1]}"
    return ""


def _file(path: Path, encoding: str) -> dict[str, Any]:
    """A file that lies beside the metadata."""
    return {
        "@type": "cr:FileObject",
        "@id": path.name,
        "name": path.name,
        "contentUrl": path.name,
        "encodingFormat": encoding,
        "sha256": downloads.sha256(path),
    }


def _records(path: Path) -> dict[str, Any]:
    """The record set of a list of images: one record an image, one field a column."""
    fields = []
    for column in pd.read_csv(path, nrows=0).columns:
        kind = "sc:Integer" if column == "bytes" else "sc:Text"
        fields.append(
            {
                "@type": "cr:Field",
                "@id": f"images/{column}",
                "name": column,
                "description": MEANINGS.get(column, column.replace("_", " ")),
                "dataType": kind,
                "source": {"fileObject": {"@id": path.name}, "extract": {"column": column}},
            }
        )
    return {
        "@type": "cr:RecordSet",
        "@id": "images",
        "name": "images",
        "description": "One record an image; no pixels.",
        "field": fields,
    }
