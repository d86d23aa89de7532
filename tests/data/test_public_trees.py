"""Public trees as they lie on disks: every layout that trips a reader gives the same images, labels
and masks as its easy form, and every form of mask is the one it stands for.
"""

import csv
import re
import tarfile
import warnings

import cv2
import numpy as np
import pandas as pd
import pytest

from cxrkit.config.choices import Choices
from cxrkit.config.vocabulary import CAUSES, FINDINGS, ZONES
from cxrkit.data import (
    downloads,
    fetching,
    images,
    manifests,
    masks,
    preprocessing,
    public_masks,
    public_trees,
    raw_pixels,
    schema,
    sources,
)
from tests.conftest import CHECKOUT
from tests.fakes import trees


@pytest.fixture(scope="module")
def hard(tmp_path_factory):
    return trees.build_hard(tmp_path_factory.mktemp("hard"))


@pytest.fixture(scope="module")
def easy(tmp_path_factory):
    root = tmp_path_factory.mktemp("easy")
    for tree in (trees.chexpert, trees.nih_chestxray14, trees.brixia):
        tree(root / tree.__name__)
    return root


def read(name, root):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return manifests.read_manifest(name, root)


def test_every_reader_of_a_manifest_is_there():
    named = {schema.load(name).reader for name in schema.names()} - {None}
    assert named == set(public_trees.READERS)


@pytest.mark.parametrize("name", trees.HARD_TREES)
def test_every_film_and_mask_of_every_hard_layout_can_be_read(hard, name):
    pytest.importorskip("pydicom", reason="needs the extra: pip install 'cxrkit[dicom]'")
    table = read(name, hard)
    assert (
        len(table) and table["path"].is_unique and table["path"].map(lambda p: ".." not in p).all()
    )
    for film in table.to_dict("records"):
        size = images.load_image(film["path"]).pixels.shape
        assert size == ((2048, 2048) if name == "jsrt" else (160, 140))
        if isinstance(film["lung_mask"], str):
            mask = masks.load_mask(film["lung_mask"])
            assert {0, 255} <= set(np.unique(mask)) <= {0, 127, 255}
            assert 0.1 < (mask == 255).mean() < 0.4
            assert mask.shape[0] / mask.shape[1] == pytest.approx(size[0] / size[1])


def test_a_tree_that_is_not_there_says_how_to_obtain_it(tmp_path):
    for name in schema.names():
        if schema.load(name).reader:
            with pytest.raises(FileNotFoundError, match="How to obtain them"):
                manifests.read_manifest(name, tmp_path)


# CheXpert, NIH


def same(a, b):
    """Two tables are the same films in the same order, whatever the folders."""
    left, right = (table.drop(columns=["path"]) for table in (a, b))
    pd.testing.assert_frame_equal(left, right)
    for ours, theirs in zip(a["path"], b["path"], strict=True):
        assert np.array_equal(cv2.imread(ours), cv2.imread(theirs))


def test_four_archives_side_by_side_are_one_chexpert(hard, easy):
    same(read("chexpert", hard), read("chexpert", easy))


def test_each_archive_may_be_given_as_the_folder(hard, easy):
    first = hard / "chexpert" / "CheXpert-v1.0 batch 1 (validate & csv)"
    same(read("chexpert", first), read("chexpert", easy))


def test_chexpert_small_keeps_its_prefix_and_is_found_one_folder_down(tmp_path, easy):
    trees.chexpert_small(tmp_path / "chexpert")
    same(read("chexpert", tmp_path), read("chexpert", easy))


@pytest.mark.parametrize("layout", ["easy", "hard", "small"])
def test_the_validation_films_of_chexpert_are_found_in_its_folder(easy, hard, tmp_path, layout):
    """They are a test whatever the hash of the patient says, of the hospital of `chexpert`."""
    roots = {"easy": easy, "hard": hard, "small": tmp_path}
    if layout == "small":
        trees.chexpert_small(tmp_path / "chexpert")
    table = read("chexpert_valid", roots[layout])
    assert len(table) == 4 and set(table["view"]) == {"PA", "AP"}
    assert set(table["split"]) == {"test"} and set(table["site"]) == {"chexpert"}
    ill = table["patient_id"].str[-1].astype(int) % 2 == 0
    assert (table["no_finding"] == 1 - ill).all() and (table["edema"] == ill).all()
    assert all(images.load_image(path).pixels.shape == (160, 140) for path in table["path"])
    everyone = read("chexpert", roots[layout])
    assert not set(everyone["group_id"]) & set(table["group_id"])
    pd.testing.assert_frame_equal(read("chexpert_valid", roots[layout] / "chexpert"), table)


def test_kaggles_copy_of_nih_is_nih(hard, easy):
    same(read("nih_chestxray14", hard), read("nih_chestxray14", easy))


def test_of_two_tables_of_nih_the_newer_counts_once(tmp_path):
    trees.nih_chestxray14(tmp_path / "nih_chestxray14")
    table = read("nih_chestxray14", tmp_path)
    newer = tmp_path / "nih_chestxray14" / "Data_Entry_2017_v2020.csv"
    newer.with_name("Data_Entry_2017.csv").write_text(newer.read_text().replace("PA", "AP"))
    pd.testing.assert_frame_equal(read("nih_chestxray14", tmp_path), table)


# Brixia


def test_brixia_as_downloaded_is_brixia(hard, easy):
    pytest.importorskip("pydicom", reason="needs the extra: pip install 'cxrkit[dicom]'")
    ours, theirs = read("brixia", hard), read("brixia", easy)
    pd.testing.assert_frame_equal(ours.drop(columns="path"), theirs.drop(columns="path"))
    assert [path.rsplit("/")[-1] for path in ours["path"]] == [
        path.rsplit("/")[-1] for path in theirs["path"]
    ]


def test_visits_are_days_since_the_first_film_of_the_patient():
    patients = pd.Series(["a", "b", "a", "a", "b"])
    plain = pd.Series(["20200228", "20200305", "20200301", "20200227", None])
    assert public_trees.days_since_first(plain, patients).tolist()[:4] == [1, 0, 3, 0]
    assert np.isnan(public_trees.days_since_first(plain, patients)[4])
    iso = pd.Series(["2020-02-28", "2020-03-05", "2020-03-01", "2020-02-27", None])
    expected = public_trees.days_since_first(plain, patients)
    pd.testing.assert_series_equal(public_trees.days_since_first(iso, patients), expected)
    numbered = pd.Series(["3", "7", "5", "2.0", None])
    assert public_trees.days_since_first(numbered, patients).tolist()[:4] == [1, 0, 3, 0]


def test_the_consensus_of_five_readers_stands_beside_the_reader_on_duty(hard):
    """By hand: the stand-in's majority is the daily score of each zone and one more, at most 3."""
    table, daily = read("brixia_consensus", hard), read("brixia", hard)
    assert len(table) == 3 and set(table["group_id"]) <= set(daily["group_id"])
    daily = daily.set_index("path").loc[table["path"]]
    for zone in "ABCDEF":
        assert table[f"brixia2_{zone}"].tolist() == daily[f"brixia_{zone}"].tolist()
        assert table[f"brixia_{zone}"].tolist() == [
            min(3, score + 1) for score in daily[f"brixia_{zone}"]
        ]


@pytest.mark.parametrize(
    ("found", "nearest"), [(4703, 4703), (4695, 4695), (4694, 4695), (42, 4695), (5000, 4703)]
)
def test_both_releases_of_brixia_are_right(found, nearest):
    assert fetching._nearest(found, schema.load("brixia").expected["films"]) == nearest


def test_a_split_archive_is_unpacked_from_its_first_part(tmp_path):
    film = tmp_path / "film.dcm"
    film.write_bytes(np.random.default_rng(0).bytes(100_000))
    whole = tmp_path / "whole.tar.gz"
    with tarfile.open(whole, "w:gz") as pack:
        pack.add(film, "dicom_clean/1.dcm")
    data, parts = whole.read_bytes(), tmp_path / "parts"
    parts.mkdir()
    for i, ending in enumerate(("aa", "ab", "ac")):
        (parts / f"dicom.tar.gz.{ending}").write_bytes(data[i * 40_000 : (i + 1) * 40_000])
    (parts / "dicom.tar.gz.aa.part").write_bytes(b"of another program")
    written = downloads.extract(parts / "dicom.tar.gz.aa", tmp_path / "out")
    assert [path.read_bytes() for path in written] == [film.read_bytes()]
    (parts / "dicom.tar.gz.ab").unlink()
    with pytest.raises(downloads.FetchError, match="dicom.tar.gz.aa: damaged"):
        downloads.extract(parts / "dicom.tar.gz.aa", tmp_path / "other")


# BIMCV


def test_views_of_bimcv_come_from_the_name_or_the_tags(hard):
    """Names without a view, laterals by name and by tags alone; the negative set stays out."""
    table = read("bimcv_covid19", hard)
    of_patient = table.set_index("patient_id")["view"]
    for number, _, view, _ in trees.everyone("bimcv_covid19:S{:05d}", ("covid19",)):
        assert of_patient.pop(f"S{number:05d}") == view
    assert of_patient.to_dict() == {"S90000": "L", "S90001": "L", "S90002": "L"}


def test_a_name_without_a_view_and_without_tags_is_a_film_of_unknown_view(tmp_path):
    folder = tmp_path / "bimcv_covid19"
    for path in (
        "sub-S03113/ses-E06208/mod-rx/sub-S03113_ses-E06208_run-1_bp-chest_cr.png",
        "sub-S10095/ses-E19000/mod-rx/sub-S10095_ses-E19000_acq-1_run-1_bp-chest_dx.png",
        "sub-S10096/ses-E19000/mod-rx/sub-S10096_ses-E19000_run-1_bp-chest_vp-oblique_dx.png",
    ):
        trees.save(folder / path, trees.chest(0)[0])
    table = read("bimcv_covid19", tmp_path)
    assert table["patient_id"].tolist() == ["S03113", "S10095", "S10096"]
    assert table["view"].isna().all() and set(table["diagnosis"]) == {"covid19"}


def test_visits_and_lesion_masks_of_bimcv(tmp_path):
    folder = tmp_path / "bimcv_covid19"
    image, _, lesion = trees.chest(1, True)
    stored = image.astype(np.uint16) * 16
    for session, day in (("run-1_bp-chest_vp-ap_dx", 3), ("run-2_bp-chest_vp-ap_dx", 9)):
        path = trees.bimcv_film(folder, 1, session, stored, {"00080020": f"2020040{day}"})
    trees.save(folder / "lesion_masks" / path.name, lesion)
    table = read("bimcv_covid19", tmp_path)
    assert table["visit"].tolist() == [0, 6]
    assert table["lesion_mask"].notna().tolist() == [False, True]
    assert np.array_equal(masks.load_mask(table["lesion_mask"][1], "lesion"), lesion)


def test_every_film_of_bimcv_is_bright_for_dense_and_some_have_their_lesions(hard):
    """Windows and LUTs, turned ones too: lungs are darker than what is around them."""
    table = read("bimcv_covid19", hard).query("view != 'L'")
    for film in table.to_dict("records"):
        _, lungs, lesion = trees.chest(int(film["patient_id"][1:]), True)
        grey = images.load_image(film["path"]).pixels
        assert grey[(lungs > 0) & (lesion == 0)].mean() < grey[lungs == 0].mean()
        if isinstance(film["lesion_mask"], str):
            assert np.array_equal(masks.load_mask(film["lesion_mask"], "lesion"), lesion)
    assert 0 < table["lesion_mask"].notna().sum() < len(table)


def tensor(path, order="text"):
    return preprocessing.prepare(images.load_image(path).pixels, 64, Choices())


@pytest.mark.parametrize("window", [True, False])
def test_a_monochrome1_film_and_its_inverse_are_the_same_tensor(tmp_path, window):
    """With a window, and with the stored bits alone; each is bright where the body is dense."""
    image, lungs, lesion = trees.chest(3, True)
    stored = image.astype(np.uint16) * 16 + 7
    none = {} if window else {"00281050": None, "00281051": None}
    made = []
    for number, inverted in enumerate((False, True)):
        ending = "run-1_bp-chest_vp-pa_dx"
        made.append(trees.bimcv_film(tmp_path, number, ending, stored, none, inverted))
    films = [images.load_image(path) for path in made]
    assert [film.photometric for film in films] == ["MONOCHROME2", "MONOCHROME1"]
    assert np.array_equal(films[0].pixels, films[1].pixels)
    assert np.array_equal(tensor(made[0]), tensor(made[1]))
    grey = films[1].pixels
    assert grey[(lungs > 0) & (lesion == 0)].mean() < grey[lungs == 0].mean()
    # a reader that leaves the tags alone would see the negative
    made[1].with_suffix(".json").unlink()
    assert not np.array_equal(tensor(made[0]), tensor(made[1]))


def elements(**tags):
    return {getattr(raw_pixels, tag): {"Value": value} for tag, value in tags.items()}


def test_windows_and_luts_are_those_of_dicom():
    """Against pydicom on the same numbers, and one LUT by hand."""
    pydicom = pytest.importorskip("pydicom")
    from pydicom.pixels.processing import apply_windowing

    values = np.random.default_rng(0).integers(0, 4096, (40, 50)).astype(np.uint16)
    for centre, width in ((2000, 3600), (1000.5, 100), (2048, 4096), (3000, 2)):
        dataset = pydicom.Dataset()
        dataset.WindowCenter, dataset.WindowWidth = centre, width
        dataset.BitsStored, dataset.PixelRepresentation = 12, 0
        dataset.PhotometricInterpretation = "MONOCHROME2"
        expected = apply_windowing(values, dataset) / 4095
        ours, _ = raw_pixels.shown(values, elements(CENTRE=[centre], WIDTH=[width], BITS=[12]))
        assert np.abs(ours / 65535 - expected).max() < 1e-5
    lut = {
        raw_pixels.LUT_FORM: {"Value": [4, 10, 8]},
        raw_pixels.LUT_DATA: {"Value": [0, 51, 102, 255]},
    }
    stored = np.array([[9, 10, 11], [12, 13, 99]], np.uint16)
    ours, _ = raw_pixels.shown(stored, {raw_pixels.LUTS: {"Value": [lut]}})
    assert ours.tolist() == [[0, 0, 13107], [26214, 65535, 65535]]
    turned = elements(PHOTOMETRIC=["MONOCHROME1"])
    ours, notes = raw_pixels.shown(stored, {raw_pixels.LUTS: {"Value": [lut]}, **turned})
    assert ours.tolist() == [[65535, 65535, 52428], [39321, 0, 0]] and "inverted" in notes[0]


def test_rescale_comes_before_the_window():
    """By hand: 2 x + 5 through a window of 11 values about 10, 4.5 to 14.5."""
    tags = elements(SLOPE=[2], INTERCEPT=[5], CENTRE=[10], WIDTH=[11])
    ours, _ = raw_pixels.shown(np.array([[0, 1], [2, 9]], np.uint16), tags)
    assert ours.tolist() == [[round(65535 * x) for x in row] for row in ([0.05, 0.25], [0.45, 1])]


def test_a_window_beside_the_film_is_not_applied_and_said():
    values = np.arange(40, dtype=np.uint16).reshape(5, 8)
    pixels, notes = raw_pixels.shown(values, elements(CENTRE=[9000], WIDTH=[10]))
    assert np.array_equal(pixels, values) and "not applied" in notes[-1]


@pytest.mark.parametrize(
    "text", ["", "[1, 2]", "{", '{"00280004": 3}', '{"shape": "no tags"}', "null"]
)
def test_a_file_beside_a_png_that_holds_no_tags_is_left_alone(tmp_path, text):
    image = trees.chest(0)[0]
    trees.save(tmp_path / "a.png", image)
    (tmp_path / "a.json").write_text(text)
    assert np.array_equal(images.load_image(tmp_path / "a.png").pixels, image)


def test_tags_that_cannot_be_meant_are_named(tmp_path):
    trees.save(tmp_path / "a.png", trees.chest(0)[0])
    (tmp_path / "a.json").write_text('{"00281050": {"Value": ["x"]}, "00281051": {"Value": [9]}}')
    with pytest.raises(images.ImageError, match="a.json: not the DICOM tags of a.png"):
        images.load_image(tmp_path / "a.png")


# Cohen's collection


def test_masks_of_v7_are_found_by_the_whole_name_and_empty_ones_are_none(hard):
    table = read("cohen_full", hard)
    assert table["lung_mask"].notna().tolist()[:4] == [True, True, False, False]
    assert np.array_equal(masks.load_mask(table["lung_mask"][0]), trees.chest(0)[1])
    assert (masks.load_mask(table["lung_mask"][1])[:20] == 127).all()
    assert table["visit"].tolist() == [3 * i for i in range(len(table))]
    assert table["cause"][1] == "bacterial"


# Montgomery, Shenzhen, JSRT


def test_tuberculosis_is_another_infection_with_its_own_cause(hard):
    table = read("montgomery", hard)
    assert table["diagnosis"].tolist() == ["normal", "other_infection"] * 4
    assert table["cause"].fillna("").tolist() == ["", "tuberculosis"] * 4
    assert set(table["view"]) == {"PA"} and table["lung_mask"].notna().all()
    table = read("shenzhen_full", hard)
    assert table["cause"].fillna("").tolist() == ["", "tuberculosis", "", "", "", "tuberculosis"]
    assert table["diagnosis"].value_counts().to_dict() == {"normal": 3, "other_infection": 3}
    assert table["lung_mask"].notna().tolist() == [False] + [True] * 5


def test_a_hospitals_own_tuberculosis_has_its_cause(hard):
    table = read("local", hard)
    ill = table["diagnosis"] == "other_infection"
    assert set(table["cause"][ill]) == {"tuberculosis"} and "tuberculosis" in CAUSES
    assert set(table["cause"][table["diagnosis"] == "covid19"]) == {"viral"}
    assert table["cause"][table["diagnosis"] == "normal"].isna().all()


def test_left_and_right_mask_are_the_lungs(hard):
    for row, path in enumerate(read("montgomery", hard)["lung_mask"]):
        assert np.array_equal(masks.load_mask(path), trees.chest(row, bool(row % 2))[1])
    for row, path in enumerate(read("jsrt", hard)["lung_mask"]):
        lungs = trees.chest_of_jsrt(row)[1]
        small = cv2.resize(lungs, (1024, 1024), interpolation=cv2.INTER_NEAREST)
        assert np.array_equal(masks.load_mask(path), small)


def test_grey_edges_are_cut_at_the_middle(hard):
    for row, path in enumerate(read("shenzhen_full", hard)["lung_mask"]):
        if isinstance(path, str):
            lungs = trees.chest(row, row in (1, 3, 5))[1]
            differ = masks.load_mask(path) != lungs
            assert 0 < differ.mean() < 0.01


def test_a_users_own_mask_keeps_what_is_to_be_ignored(tmp_path):
    """Its name ends like one of Shenzhen's; 127 must not become lung or background."""
    mask = np.zeros((64, 64), np.uint8)
    mask[8:30], mask[40:50] = 255, 127
    trees.save(tmp_path / "7_mask.png", mask)
    assert np.array_equal(masks.load_mask(tmp_path / "7_mask.png"), mask)


def test_the_other_lung_must_be_there(tmp_path):
    trees.montgomery(tmp_path / "montgomery")
    table = read("montgomery", tmp_path)
    lost = tmp_path / "montgomery" / "MontgomerySet" / "ManualMask" / "rightMask"
    sorted(lost.iterdir())[2].unlink()
    with pytest.raises(images.ImageError, match="rightMask/MCUCXR_0002_0.png: no readable mask"):
        masks.load_mask(table["lung_mask"][2])


def test_films_of_jsrt_are_bright_for_dense(hard):
    table = read("jsrt", hard)
    assert table["diagnosis"].fillna("").tolist() == ["", "normal"]
    for row, path in enumerate(table["path"]):
        image = trees.chest_of_jsrt(row)[0]
        assert np.array_equal(images.load_image(path).pixels, image.astype(np.uint16) * 16)


def test_an_img_of_another_size_is_refused(tmp_path):
    (tmp_path / "JPCLN001.IMG").write_bytes(bytes(100))
    with pytest.raises(images.ImageError, match="50 values, not 2048 x 2048"):
        images.load_image(tmp_path / "JPCLN001.IMG")


# CheXmask


def test_run_lengths_against_a_slow_loop():
    rng = np.random.default_rng(0)
    for _ in range(20):
        mask = (rng.random((7, 9)) < rng.random()) * np.uint8(255)
        assert np.array_equal(public_masks.decode_runs(trees.runs(mask), mask.shape), mask)
    assert public_masks.decode_runs("2 3", (2, 3)).tolist() == [[0, 255, 255], [255, 0, 0]]


def test_masks_of_chexmask_lie_on_the_films_beside_it(hard):
    table = read("chexmask", hard)
    assert table["site"].tolist() == ["nih_chestxray14"] * 3 + ["chexpert"] * 3  # one is too poor
    for dataset, films in table.groupby("site"):
        theirs = read(dataset, hard).set_index("path").loc[films["path"]]
        for column in ("group_id", "split", "view"):
            assert films[column].tolist() == theirs[column].tolist()
    for i, mask in enumerate(table["lung_mask"]):
        assert np.array_equal(masks.load_mask(mask), trees.chest(i % 3)[1])
    address = sources.parse(table["lung_mask"][4])
    parts = public_masks.run_length_masks(address.file, address.row)
    assert not (parts["left"] & parts["right"]).any() and np.flatnonzero(
        parts["heart"]
    ).tolist() == [
        0,
        1,
        2,
    ]


def test_the_quality_is_a_threshold_and_films_that_are_not_there_are_said(hard, monkeypatch):
    spec = schema.load("chexmask").model_copy(update={"lowest_quality": 0.6})
    monkeypatch.setattr(
        manifests, "load", lambda name: spec if name == "chexmask" else schema.load(name)
    )
    with pytest.warns(UserWarning, match="VinDr-CXR.csv: its films are not beside"):
        assert len(manifests.read_manifest("chexmask", hard)) == 8


def test_records_are_found_by_the_byte(hard):
    """Against the csv module, which reads the whole file."""
    file = hard / "chexmask" / "OriginalResolution" / "ChestX-Ray8.csv"
    with open(file, newline="") as text:
        whole = list(csv.DictReader(text))
    index = public_masks.run_length_index(file, "Image Index")
    assert index["name"].tolist() == [row["Image Index"] for row in whole]
    assert index["quality"].tolist() == [float(row["Dice RCA (Mean)"]) for row in whole]
    assert "\n" in whole[0]["Landmarks"]
    with pytest.raises(ValueError, match="no column 'dicom_id'"):
        public_masks.run_length_index(file, "dicom_id")


# labels and masks for films of other datasets


def test_readers_labels_stand_beside_the_text_labels(tmp_path):
    for name in ("nih_reader", "nih_cxr14"):
        (tmp_path / name).mkdir()
    head = "file,group_id,rsna_class,google_opacity,google_pneumothorax\n"
    rows = [
        "images/00000061_012.jpg,n00000061,Lung Opacity,,",
        "images/00000165_001.jpg,n00000165,Normal,NO,YES",
        "images/00000150_002.jpg,n00000150,No Lung Opacity / Not Normal,,",
        "images/00000061_015.jpg,n00000061,,YES,NO",
    ]
    text = head + "\n".join(rows) + "\n"
    (tmp_path / "nih_reader" / "nih_cxr14_readers.csv").write_text(text)
    table, listed = read("nih_reader", tmp_path), read("nih_cxr14", tmp_path)
    both = table.merge(listed, on="path", suffixes=("", "_text"))
    assert len(both) == 4 and (both["group_id"] == both["group_id_text"]).all()
    assert (both["split"] == both["split_text"]).all() and (both["view"] == both["view_text"]).all()
    assert table["diagnosis"].fillna("").tolist() == ["other_infection", "normal", "", ""]
    assert table["opacity"].tolist() == [1, 0, 0, 1]
    assert table["no_finding"].fillna(-1).tolist() == [0, 1, 0, -1]
    assert table["pneumothorax"].fillna(-1).tolist() == [-1, 1, -1, 0]
    assert (
        table[[f for f in FINDINGS if f not in ("opacity", "no_finding", "pneumothorax")]]
        .isna()
        .all(axis=None)
    )


STRUCTURE = (
    "#,Taxonomy,Class,Template Name,File Folder,Filename,Image,Tag,Mask,Resolution,Top,Left,Width,"
    "Height,Points"
)


def clone_of_lesions(root):
    """A clone of the public repository: crops in colour with their place, one film unknown."""
    listed = manifests.image_list("cohen")["path"].iloc[1].rsplit("/")[-1]
    lines = [STRUCTURE]
    crops = [
        ("Ground Glass Opacities", 3, 10, 6, 4),
        ("Consolidation", 20, 30, 5, 5),
        ("Left Lung", 0, 0, 40, 60),
        ("Tubings", 50, 50, 8, 8),
    ]
    for film in (listed, "of somebody else.png"):
        save = trees.save
        save(root / "images" / film, trees.chest(5, size=(64, 80))[0])
        for i, (name, top, left, width, height) in enumerate(crops):
            crop = np.zeros((height, width, 3), np.uint8)
            crop[:, 1:] = (0, 200, 30)
            crop[:, 0] = 50  # darker than a colour
            mask = f"masks/{film[:6]}_{i}.png"
            save(root / mask, crop)
            lines.append(f'{i},,"x","{name}",,"{film}",images/h.jpg,t,{mask},80x64,{top},{left},,,')
    (root / "structure.csv").write_text("\n".join(lines) + "\n")
    return listed


def test_crops_lie_in_their_place_on_the_film(tmp_path):
    """By hand: columns and rows of two lesions of a film; the first column of a crop is black."""
    listed = clone_of_lesions(tmp_path / "cohen_lesions")
    table = read("cohen_lesions", tmp_path)
    assert [path.rsplit("/")[-1] for path in table["path"]] == [listed]
    of_cohen = manifests.image_list("cohen").iloc[1]
    assert table[["group_id", "split"]].iloc[0].tolist() == of_cohen[["group_id", "split"]].tolist()
    expected = np.zeros((64, 80), np.uint8)
    expected[3:7, 11:16] = 255
    expected[20:25, 31:35] = 255
    assert np.array_equal(masks.load_mask(table["lesion_mask"][0], "lesion"), expected)
    lungs = masks.load_mask(table["lung_mask"][0], "lungs")
    assert lungs[:60, 1:40].all() and lungs.astype(bool).sum() == 60 * 39


def test_prepared_lesions_lie_on_the_films_of_cohen(mirror):
    """Real masks where a prepared copy is: every film and mask is there, none is empty of lungs."""
    table = read("cohen_lesions", mirror)
    cohen = manifests.image_list("cohen").set_index("path")
    assert len(table) == 76 and table["lesion_mask"].notna().all()
    for film in table.to_dict("records")[::15]:
        listed = cohen.loc[f"images/{film['path'].rsplit('/')[-1]}"]
        assert (film["group_id"], film["split"]) == (listed["group_id"], listed["split"])
        lesion, lungs = (masks.load_mask(film[c]) for c in ("lesion_mask", "lung_mask"))
        assert lesion.shape == lungs.shape == images.load_image(film["path"]).pixels.shape
        assert lungs.any()


def test_shenzhens_zones_are_kept_from_the_severity_labels():
    """They say where tuberculosis is, not how severe COVID-19 is."""
    listed = manifests.image_list("shenzhen")
    assert listed["zones"].notna().sum() == 93 and not set(ZONES) & set(listed)
    assert not schema.load("shenzhen").has("severity")


@pytest.mark.parametrize(
    ("names", "pairs"),
    [
        (["rsna", "nih_chestxray14", "chexpert"], [("rsna", "nih_chestxray14")]),
        (["rsna", "chexpert"], []),
        (["nih_chestxray14"], []),
    ],
)
def test_datasets_of_the_same_patients_are_named(names, pairs):
    assert schema.overlapping(names) == pairs


def test_films_of_nih_under_other_names_are_said_where_both_are_there(tmp_path):
    taken = ("chexpert", "nih_chestxray14")
    assert schema.say_overlaps(taken, tmp_path) == []
    (tmp_path / "rsna").mkdir()
    assert schema.say_overlaps(taken, tmp_path) == [
        "rsna stays out: its films are those of nih_chestxray14 under other names"
    ]
    assert schema.say_overlaps(("chexpert",), tmp_path) == []
    said = schema.say_overlaps((*taken, "rsna"), tmp_path)
    assert len(said) == 1 and "--profile NAME-rsna" in said[0]


def test_the_docs_list_every_tree_and_count_them():
    text = (CHECKOUT / "docs" / "data.md").read_text()
    listed = re.findall(r"^\| `(\w+)` \|.*\|.*\|.*\|.*\|$", text, re.MULTILINE)
    trees_of_files = {n for n in schema.names() if manifests.image_list(n) is None} - {"virtual"}
    assert sorted(listed) == sorted(trees_of_files)
    lists = len(schema.names()) - 1 - len(trees_of_files)
    assert (len(listed), lists) == (15, 10)
    assert "15 trees of files, and ten lists of public films" in text
