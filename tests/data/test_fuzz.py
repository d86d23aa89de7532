"""Anything at all as a film, a table, a manifest or a weights file: a sound result or the kit's own
error, never another, never a hang.
"""

import json
import pickle
import warnings

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from cxrkit.config import vocabulary
from cxrkit.data import datasets, images, labels, manifests, schema
from cxrkit.models import pretrained
from cxrkit.training import checkpoint
from tests.fakes import mutations, trees

pytestmark = pytest.mark.filterwarnings("ignore")  # spoilt files make every library warn
FAST = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
FILM = trees.chest(0, True, (64, 48))[0]
PNG, JPEG = (cv2.imencode(kind, FILM)[1].tobytes() for kind in (".png", ".jpg"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


@pytest.fixture(scope="module")
def deep(folder):
    """Bytes of a DICOM film."""
    pytest.importorskip("pydicom", reason="needs the extra: pip install 'cxrkit[dicom]'")
    trees.dicom(folder / "sound.dcm", FILM, "PA", True)
    return (folder / "sound.dcm").read_bytes()


def film_or_error(path, content):
    path.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            film = images.load_image(path)
        except images.ImageError as error:
            assert str(path) in str(error)
            return
    assert (
        film.pixels.ndim == 2
        and film.pixels.dtype in (np.uint8, np.uint16)
        and trees.NAME not in repr(film)
    )


def spoilt(content, places, cut):
    """Bytes with some overwritten and the end cut off."""
    content = bytearray(content)
    for place, value in places:
        content[place % len(content)] = value
    return bytes(content[: len(content) - cut % len(content)])


SPOIL = {
    "places": st.lists(st.tuples(st.integers(0, 2**20), st.integers(0, 255)), max_size=20),
    "cut": st.integers(0, 2**20) | st.just(0),
}


@FAST
@given(content=st.binary(max_size=300), ending=st.sampled_from(["png", "jpg", "dcm", "tif", ""]))
def test_any_bytes(folder, content, ending):
    film_or_error(folder / f"any.{ending}", content)


@FAST
@given(**SPOIL, kind=st.sampled_from(["png", "jpg"]))
def test_spoilt_films(folder, places, cut, kind):
    film_or_error(folder / f"spoilt.{kind}", spoilt(PNG if kind == "png" else JPEG, places, cut))


@FAST
@given(**SPOIL)
def test_spoilt_dicom(folder, deep, places, cut):
    film_or_error(folder / "spoilt.dcm", spoilt(deep, places, cut))
    images.view_of.cache_clear()
    assert images.view_of(str(folder / "spoilt.dcm")) in (None, *vocabulary.VIEWS)


@pytest.mark.parametrize("seed", [0, 1])
def test_damaged_files_are_refused_or_equal_or_warned_of(tmp_path, seed):
    """Over every reader and decoder: no damage that a format or a library reports passes in
    silence. `tools/fuzz_readers.py` runs thousands of the same mutations.
    """
    pytest.importorskip("gdcm", reason="needs the extra: pip install 'cxrkit[dicom]'")
    found = mutations.run(tmp_path, mutations.picture(), 192, seed)
    quiet = {name: counts["quiet"] for name, counts in found.items() if counts["quiet"]}
    assert not quiet, f"read in silence: {sorted(tmp_path.glob('quiet-*'))}"
    for name in ("grey.png", "deep.png", "rgb48.png", "la16.png"):
        assert set(found[name]) <= {"refused", "equal"}  # a checksum on every byte


CELL = st.text(max_size=8) | st.sampled_from(
    ["a.png", "p1", "PA", "edema", "covid19", "012301", "=1+1", "../x", "-1", "1e9", '"', "|"]
)


@FAST
@given(
    rows=st.lists(st.lists(CELL, min_size=1, max_size=6), max_size=5),
    bom=st.booleans(),
    quoted=st.booleans(),
    names=st.lists(
        st.sampled_from([*vocabulary.COLUMNS[:9], "findings", "array", "brixia", "file", "x", ""]),
        max_size=6,
    ),
)
@example(rows=[["", "../x", ""]], bom=False, quoted=False, names=[])  # no path at all
def test_any_table(folder, names, rows, bom, quoted):
    cell = (lambda text: '"' + text.replace('"', '""') + '"') if quoted else (lambda text: text)
    text = "\n".join(",".join(map(cell, row)) for row in [["path", "patient_id", *names], *rows])
    (folder / "films.csv").write_bytes(
        (b"\xef\xbb\xbf" if bom else b"") + text.encode("utf-8", "surrogatepass")
    )
    try:
        table = manifests.read_manifest("local", folder)
    except (ValueError, FileNotFoundError) as error:
        assert "local" in str(error) or "films.csv" in str(error)
        return
    assert (
        list(table.columns) == list(vocabulary.COLUMNS)
        and table["split"].isin(list(vocabulary.SPLITS)).all()
    )
    assert table["path"].is_unique and datasets.severity_arrays(table).shape == (len(table), 3, 2)


FIELDS = st.sampled_from([*schema.Manifest.model_fields, "x"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(FIELDS, inner, max_size=4),
    max_leaves=12,
)


@FAST
@given(value=JSON)
def test_any_manifest(folder, value):
    good = json.loads((schema.manifest_dir() / "local.json").read_text())
    (folder / "made_up.json").write_text(
        json.dumps({**good, **value} if isinstance(value, dict) else value)
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schema, "manifest_dir", lambda: folder)
        try:
            assert isinstance(schema.load("made_up"), schema.Manifest)
        except ValueError as error:
            assert "made_up.json" in str(error)


@pytest.mark.parametrize(
    "address",
    ["http://a.org/x", "ftp://a.org/x", "s3://bucket/x", "file:///etc/passwd", "javascript:x"],
)
def test_manifests_point_to_https_alone(folder, address):
    good = json.loads((schema.manifest_dir() / "local.json").read_text())
    for change in ({"address": address}, {"tables": [{"file": "x.csv", "address": address}]}):
        (folder / "bad.json").write_text(json.dumps({**good, **change}))
        with (
            pytest.MonkeyPatch.context() as patch,
            pytest.raises(ValueError, match="bad.json, field .*address"),
        ):
            patch.setattr(schema, "manifest_dir", lambda: folder)
            schema.load("bad")


@FAST
@given(content=st.binary(max_size=200))
def test_any_weights_file(folder, content):
    (folder / "weights.safetensors").write_bytes(content)
    try:
        assert isinstance(checkpoint.load_tensors(folder / "weights.safetensors")[0], dict)
    except ValueError as error:
        assert "weights.safetensors" in str(error)


class Bomb:
    """What a hostile pickle does: it runs code as it is loaded."""

    def __reduce__(self):
        return exec, ("raise SystemExit('a pickle was run')",)


@pytest.mark.parametrize(
    "write",
    [
        lambda path: torch.save({"w": torch.zeros(3)}, path),
        lambda path: path.write_bytes(pickle.dumps(Bomb())),
    ],
    ids=["torch", "hostile"],
)
def test_a_pickle_is_refused_with_a_way_out(folder, write):
    write(folder / "weights.safetensors")
    with pytest.raises(
        ValueError, match="no sound safetensors file .*pickle can run code; .*weights_only=True"
    ):
        checkpoint.load_weights(torch.nn.Linear(1, 1), folder / "weights.safetensors")


@FAST
@given(text=st.lists(st.text(max_size=6), max_size=4))
def test_spellings_never_break(text):
    for kind in ("view", "diagnosis", "finding"):
        found = labels.standard_terms(kind, pd.Series(text, dtype=object), strict=False)
        assert len(found) == len(text)


def test_published_weights_are_read_as_tensors_alone(monkeypatch):
    """torchvision's own files are pickles: nothing in them but tensors may come to life, and their
    hash is checked.
    """
    from torchvision.models import DenseNet121_Weights

    asked = {}
    monkeypatch.setattr(
        DenseNet121_Weights, "get_state_dict", lambda self, **how: asked.update(how) or {}
    )
    pretrained.load_imagenet_densenet()
    assert asked["weights_only"] and asked["check_hash"]
