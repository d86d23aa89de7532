"""The real tables of CheXpert and NIH, which travel with the package torchxrayvision: read whole,
with the counts of the release. `make oracles` installs it.
"""

import gzip
import importlib.util
import time
from pathlib import Path

import pytest

from cxrkit.data import manifests, schema

SPEC = importlib.util.find_spec("torchxrayvision")  # found, not imported: it imports torch
pytestmark = pytest.mark.skipif(
    SPEC is None, reason="needs the tables of the package: pip install torchxrayvision"
)
SECONDS = 60  # it took 5 on a quiet machine


@pytest.mark.parametrize(
    ("name", "packed", "table"),
    [
        ("chexpert", "chexpert_train.csv.gz", "train.csv"),
        ("nih_chestxray14", "Data_Entry_2017_v2020.csv.gz", "Data_Entry_2017_v2020.csv"),
        ("nih_chestxray14", "Data_Entry_2017_v2020.csv.gz", "Data_Entry_2017.csv"),
    ],
)
def test_a_real_table_is_read_with_no_problem(tmp_path, name, packed, table):
    source = Path(SPEC.submodule_search_locations[0]) / "data" / packed
    (tmp_path / table).write_bytes(gzip.decompress(source.read_bytes()))
    start = time.process_time()
    read = manifests.read_manifest(name, tmp_path)
    assert time.process_time() - start < SECONDS
    expected = schema.load(name).expected
    assert manifests.counts(read, expected) == expected
    assert read["path"].is_unique and not manifests.leaks(read).size
