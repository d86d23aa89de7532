"""Films from files of every kind, the errors of damaged ones, the image cache, the dataset and its
loader.
"""

import pickle
import shutil
import threading
import time
import warnings

import cv2
import filelock
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image as Raster

from cxrkit.config import sections, vocabulary
from cxrkit.config.choices import OPEN_CHOICES, Choices
from cxrkit.data import augmentation, cache, datasets, manifests, masks, preprocessing, schema
from cxrkit.data import images as images_module
from cxrkit.storage.artifacts import Store
from cxrkit.storage.atomic import read_json
from tests.fakes import processes

# 60 x 80 px
GREY = np.uint8(cv2.resize(np.random.default_rng(0).uniform(20, 230, (6, 8)), (80, 60)))
DEEP = GREY.astype(np.uint16) * 16 + 5  # 12 bits of 16


def save(path, pixels, mode=None, **options):
    image = Raster.fromarray(pixels)
    (image.convert(mode) if mode else image).save(path, **options)
    return path


# pictures


@pytest.mark.parametrize(
    "name, pixels, mode, tolerance",
    [
        ("a.png", GREY, None, 0),
        ("a.tif", GREY, None, 0),
        ("a.bmp", GREY, None, 0),
        ("a.jpg", GREY, None, 4),
        ("rgb.png", GREY, "RGB", 0),
        ("rgba.png", GREY, "RGBA", 0),
        ("la.png", GREY, "LA", 0),
        ("rgb.jpg", GREY, "RGB", 4),
        ("palette.png", GREY, "P", 0),
        ("cmyk.jpg", GREY, "CMYK", 6),
        ("deep.png", DEEP, None, 0),
        ("deep.tif", DEEP, None, 0),
    ],
)
def test_pictures_read_alike(tmp_path, name, pixels, mode, tolerance):
    options = {"quality": 95} if name.endswith("jpg") else {}
    image = images_module.load_image(save(tmp_path / name, pixels, mode, **options))
    assert image.pixels.dtype == pixels.dtype and image.bits == 8 * pixels.dtype.itemsize
    assert np.abs(image.pixels.astype(int) - pixels).max() <= tolerance
    assert image.range == (image.pixels.min(), image.pixels.max())
    assert bool(image.notes) == (mode is not None)


def test_colour_is_luminance_and_alpha_lies_on_black(tmp_path):
    red = np.zeros((40, 40, 3), np.uint8)
    red[:, 20:, 0] = 200
    # 0.299 * 200
    assert set(np.unique(images_module.load_image(save(tmp_path / "red.png", red)).pixels)) == {
        0,
        60,
    }
    clear = np.full((40, 40, 4), 180, np.uint8)
    clear[:, :20, 3], clear[:, 20:, 3] = 0, 255
    assert images_module.load_image(save(tmp_path / "clear.png", clear)).pixels[
        0, [0, 39]
    ].tolist() == [
        0,
        180,
    ]
    coloured = Raster.fromarray(GREY // 64).convert("P")
    coloured.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255])
    coloured.save(tmp_path / "p.png")
    lut = np.array([0, 76, 150, 29])
    assert np.abs(images_module.load_image(tmp_path / "p.png").pixels - lut[GREY // 64]).max() <= 1


def test_exif_rotation_is_applied(tmp_path):
    exif = Raster.Exif()
    exif[274] = 6  # to be turned by 90 degrees clockwise
    save(tmp_path / "turned.png", GREY, exif=exif)
    np.testing.assert_array_equal(
        images_module.load_image(tmp_path / "turned.png").pixels, np.rot90(GREY, -1)
    )


def test_floats_and_32_bit_are_scaled(tmp_path):
    for name, pixels in {
        "f.tif": (GREY / 7).astype(np.float32) - 3,
        "i.tif": GREY.astype(np.int32) * 1000 - 7,
    }.items():
        found = images_module.load_image(save(tmp_path / name, pixels)).pixels
        wanted = (GREY - GREY.min()) / float(GREY.max() - GREY.min()) * 65535
        assert found.dtype == np.uint16 and np.abs(found - wanted).max() <= 1


def test_bilevel(tmp_path):
    assert set(np.unique(images_module.load_image(save(tmp_path / "1.png", GREY, "1")).pixels)) == {
        0,
        255,
    }


def damaged(folder):
    """name -> (how it is made, part of the message)."""
    whole_png, whole_jpg = (cv2.imencode(kind, GREY)[1].tobytes() for kind in (".png", ".jpg"))
    frames = [Raster.fromarray(GREY), Raster.fromarray(GREY)]
    nan = GREY.astype(np.float32)
    nan[3, 3] = np.nan
    return {
        "cut.png": (lambda p: p.write_bytes(whole_png[: len(whole_png) // 2]), "damaged one"),
        "cut.jpg": (lambda p: p.write_bytes(whole_jpg[: len(whole_jpg) // 2]), "damaged one"),
        "empty.png": (lambda p: p.write_bytes(b""), "empty file"),
        "page.png": (lambda p: p.write_text("<html>not found</html>"), "not an image"),
        "tiny.png": (lambda p: save(p, GREY[:8, :8]), "8x8 px is too small"),
        "black.png": (lambda p: save(p, GREY * 0), "every pixel is 0"),
        "nan.tif": (lambda p: save(p, nan), "NaN or infinite"),
        "frames.tif": (
            lambda p: frames[0].save(p, save_all=True, append_images=frames[1:]),
            "2 frames",
        ),
        "gone.png": (lambda p: None, "no such file"),
        "text.dcm": (lambda p: p.write_text("hello " * 50), "unreadable DICOM|without pixels"),
    }


@pytest.mark.parametrize("name", list(damaged(None)))
def test_damaged_files_are_named(tmp_path, name):
    make, message = damaged(tmp_path)[name]
    make(tmp_path / name)
    with pytest.raises(images_module.ImageError, match=f"{name}: .*({message})"):
        images_module.load_image(tmp_path / name)


def test_a_batch_goes_on(tmp_path):
    for name, (make, _) in damaged(tmp_path).items():
        make(tmp_path / name)
    save(tmp_path / "good.png", GREY)
    images, failures = images_module.load_images(
        [*sorted(tmp_path.iterdir()), tmp_path / "good.png"]
    )
    # "gone" is not listed
    assert list(images) == [str(tmp_path / "good.png")] and len(failures) == len(damaged(None)) - 1
    assert all(str(path) in reason for path, reason in failures)


# DICOM


def dicom(path, pixels, photometric="MONOCHROME2", bits=12, **tags):
    """A minimal uncompressed DICOM film; tags None are left out."""
    pydicom = pytest.importorskip("pydicom", reason="needs the extra: pip install 'cxrkit[dicom]'")
    from pydicom.uid import (
        DigitalXRayImageStorageForPresentation,
        ExplicitVRLittleEndian,
        generate_uid,
    )

    dataset = pydicom.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = (
        DigitalXRayImageStorageForPresentation
    )
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = generate_uid()
    dataset.Rows, dataset.Columns = pixels.shape[:2]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = (
        (3 if pixels.ndim == 3 else 1),
        photometric,
    )
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = (
        8 * pixels.dtype.itemsize,
        bits,
        bits - 1,
    )
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    if pixels.ndim == 3:
        dataset.PlanarConfiguration = 0
    dataset.PixelData = pixels.tobytes()
    for name, value in tags.items():
        setattr(dataset, name, value)
    dataset.save_as(path, enforce_file_format=True)
    return path


def correlation(a, b):
    return np.corrcoef(a.ravel().astype(float), b.ravel().astype(float))[0, 1]


@pytest.mark.parametrize("bits", [12, 16])
def test_dicom_keeps_its_values(tmp_path, bits):
    deep = GREY.astype(np.uint16) * 2 ** (bits - 8)
    image = images_module.load_image(
        dicom(tmp_path / "a.dcm", deep, bits=bits, ViewPosition="AP", ImagerPixelSpacing=[0.2, 0.3])
    )
    np.testing.assert_array_equal(image.pixels, deep)
    assert (image.bits, image.view, image.spacing, image.photometric) == (
        bits,
        "AP",
        (0.2, 0.3),
        "MONOCHROME2",
    )


def test_monochrome1_is_inverted(tmp_path):
    image = images_module.load_image(dicom(tmp_path / "a.dcm", DEEP, "MONOCHROME1"))
    np.testing.assert_array_equal(image.pixels, 4095 - DEEP)
    assert (
        image.photometric == "MONOCHROME1"
        and image.notes == ("no view in the file",)
        and image.view is None
    )
    assert (
        images_module.load_image(dicom(tmp_path / "b.dcm", GREY, "MONOCHROME1", 8)).pixels.dtype
        == np.uint8
    )


def test_rescale_and_window(tmp_path):
    rescaled = images_module.load_image(
        dicom(tmp_path / "a.dcm", DEEP, RescaleSlope=2, RescaleIntercept=-1000)
    ).pixels
    assert correlation(rescaled, DEEP) > 0.99999
    image = images_module.load_image(
        dicom(tmp_path / "b.dcm", DEEP, WindowCenter=2000, WindowWidth=1000)
    )
    shown = np.clip((DEEP.astype(float) - 1999.5) / 999 + 0.5, 0, 1)  # DICOM PS3.3 C.11.2.1.2.1
    assert np.abs(preprocessing.to_uint8(image.pixels) - 255 * shown).max() <= 1
    inverted = images_module.load_image(
        dicom(tmp_path / "c.dcm", DEEP, "MONOCHROME1", WindowCenter=2000, WindowWidth=1000)
    )
    assert np.abs(preprocessing.to_uint8(inverted.pixels) - 255 * (1 - shown)).max() <= 1


def test_voi_lut(tmp_path):
    pydicom = pytest.importorskip("pydicom")
    lut = pydicom.Dataset()
    lut.LUTDescriptor = [4096, 0, 16]
    lut.add_new("LUTData", "OW", (np.arange(4096) // 2048 * 40000).astype("<u2").tobytes())
    path = dicom(tmp_path / "a.dcm", DEEP, VOILUTSequence=pydicom.Sequence([lut]))
    np.testing.assert_array_equal(images_module.load_image(path).pixels, DEEP // 2048 * 40000)


def test_padding_is_background(tmp_path):
    padded = DEEP.astype(np.int16)
    padded[:, :10] = -2000
    for photometric, sign in (("MONOCHROME2", 1), ("MONOCHROME1", -1)):
        path = dicom(tmp_path / "a.dcm", padded, photometric, 16, PixelPaddingValue=-2000)
        pixels = images_module.load_image(path).pixels
        assert (pixels[:, :10] == pixels.min()).all()
        assert correlation(pixels[:, 10:], sign * padded[:, 10:].astype(int)) > 0.99999


def test_colour_and_frames(tmp_path):
    image = images_module.load_image(
        dicom(tmp_path / "rgb.dcm", np.stack([GREY] * 3, -1), "RGB", 8)
    )
    assert np.abs(image.pixels.astype(int) - GREY).max() <= 1 and image.notes[0] == "RGB made grey"
    with pytest.raises(images_module.ImageError, match="two.dcm: 2 frames"):
        images_module.load_image(
            dicom(tmp_path / "two.dcm", DEEP.reshape(2, 30, 80)[0], NumberOfFrames=2)
        )


@pytest.mark.parametrize(
    "syntax", ["RLELossless", "JPEG2000Lossless", "JPEGLosslessProcess14_1", "JPEGLSLossless"]
)
def test_compressed_syntaxes(tmp_path, syntax):
    gdcm = pytest.importorskip("gdcm", reason="needs the extra: pip install 'cxrkit[dicom]'")
    source = dicom(tmp_path / "a.dcm", DEEP)
    reader, change, writer = (
        gdcm.ImageReader(),
        gdcm.ImageChangeTransferSyntax(),
        gdcm.ImageWriter(),
    )
    reader.SetFileName(str(source))
    assert reader.Read()
    change.SetTransferSyntax(gdcm.TransferSyntax(getattr(gdcm.TransferSyntax, syntax)))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer.SetFileName(str(tmp_path / "b.dcm"))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()
    pydicom = pytest.importorskip("pydicom")
    assert pydicom.dcmread(tmp_path / "b.dcm").file_meta.TransferSyntaxUID.is_compressed
    np.testing.assert_array_equal(images_module.load_image(tmp_path / "b.dcm").pixels, DEEP)


def test_names_of_patients_are_warned_of_and_kept_nowhere(tmp_path):
    path = dicom(tmp_path / "a.dcm", DEEP, PatientName="Doe^Jane", PatientID="4711")
    with pytest.warns(
        UserWarning, match=r"a.dcm: carries patient identifiers \(PatientName, PatientID\)"
    ) as caught:
        image = images_module.load_image(path)
    said = repr(image) + " ".join(str(w.message) for w in caught)
    assert "Doe" not in said and "4711" not in said
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        images_module.load_image(dicom(tmp_path / "b.dcm", DEEP, PatientName="", PatientID=""))


# cache, dataset, loader


@pytest.fixture
def films(tmp_path):
    """A table of 10 made-up films with labels; every second has a mask."""
    rng = np.random.default_rng(5)
    head = "path,patient_id,view,site,findings,diagnosis,array,brixia,lung_mask\n"
    rows = []
    for i in range(10):
        save(tmp_path / f"{i}.png", np.uint8(cv2.resize(rng.uniform(0, 255, (9, 9)), (90, 70))))
        mask = np.zeros((70, 90), np.uint8)
        mask[20:50, 10:40], mask[:5] = 255, 127
        save(tmp_path / f"m{i}.png", mask)
        score = ["110000,", ",300012", ","][i % 3]
        label = f"{'edema' if i else ''},{['covid19', ''][i % 2]}"
        mask_file = "" if i % 2 else f"m{i}.png"
        rows.append(f"{i}.png,p{i},PA,S,{label},{score},{mask_file}\n")
    (tmp_path / "films.csv").write_text(head + "".join(rows))
    return manifests.read_manifest("local", tmp_path)


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def test_cache_holds_the_preprocessed_films(films, store):
    found = cache.cached_images(films["path"], 48, store=store)
    assert len(found) == 10 and found[0].shape == (48, 48) and found[0].dtype == np.uint8
    for path, pixels in zip(films["path"], found, strict=True):
        np.testing.assert_array_equal(
            pixels, preprocessing.prepare(images_module.load_image(path).pixels, 48)
        )


def counted(monkeypatch, kind="image"):
    """The paths that are decoded from now on."""
    calls, decode = [], cache.DECODERS[kind]

    def count(path, size, choices):
        calls.append(path)
        return decode(path, size, choices)

    monkeypatch.setitem(cache.DECODERS, kind, count)
    return calls


def test_cache_is_made_once_and_follows_settings_and_files(films, store, monkeypatch):
    calls = counted(monkeypatch)
    first = cache.cached_images(films["path"], 48, store=store)
    assert cache.cached_images(films["path"], 48, store=store).files == first.files
    assert len(calls) == 10
    # done on the fly
    other = cache.cached_images(films["path"], 48, Choices(normalize="zscore"), store=store)
    assert other.files == first.files
    padded = cache.cached_images(films["path"], 48, Choices(resize="pad"), store=store)
    assert padded.files != first.files and len(calls) == 20
    assert cache.cached_images(films["path"], 32, store=store).files != first.files
    save(films["path"][0], GREY)
    changed = cache.cached_images(films["path"], 48, store=store)
    assert not np.array_equal(changed[0], first[0]) and len(calls) == 31


def test_an_image_is_decoded_once_whatever_list_asks_for_it(films, store, monkeypatch):
    calls, paths = counted(monkeypatch), films["path"]
    parts = [paths[:4], paths[2:7], paths[[9, 0, 9]], paths[::-1]]
    found = [cache.cached_images(part, 48, store=store) for part in parts]
    assert sorted(calls) == sorted(paths)
    assert len(list(store.root.glob("images-*/"))) == 1
    whole = cache.cached_images(paths, 48, store=store).gather()
    np.testing.assert_array_equal(found[0].gather(), whole[:4])
    np.testing.assert_array_equal(found[1].gather([4, 0]), whole[[6, 2]])
    np.testing.assert_array_equal(found[2].gather(), whole[[9, 0, 9]])
    np.testing.assert_array_equal(found[3].gather(), whole[::-1])
    with pytest.raises(IndexError):
        found[0][4]


def test_a_list_may_span_datasets(films, tmp_path, store):
    """One folder for each dataset, each artifact, and the files of nowhere; unknown masks too."""
    for name in ("one", "two"):
        save_all = tmp_path / "data" / name / "deep"
        save_all.mkdir(parents=True)
        for i in range(3):
            shutil.copy(films["path"][i + 3 * (name == "two")], save_all / f"{i}.png")
    (store.root / "cohort-1").mkdir(parents=True)
    stack = np.stack([cv2.resize(GREY, (64, 64))] * 2)
    stack[1] = stack[1][::-1]
    np.save(store.root / "cohort-1" / "images.npy", stack)
    store.data = tmp_path / "data"
    paths = [
        str(tmp_path / "data" / "two" / "deep" / "1.png"),
        f"{store.root}/cohort-1/images.npy#1",
        films["path"][0],
        str(tmp_path / "data" / "one" / "deep" / "1.png"),
        f"{store.root}/cohort-1/images.npy#0",
    ]
    found = cache.cached_images(paths, 48, store=store)
    for path, pixels in zip(paths, found, strict=True):
        expected = preprocessing.prepare(images_module.load_image(path).pixels, 48)
        np.testing.assert_array_equal(pixels, expected)
    datasets_of = {read_json(file)["dataset"] for file in store.root.glob("images-*/settings.json")}
    assert datasets_of == {"data:one", "data:two", "store:cohort-1", "files"}
    lungs = cache.cached_images(
        [np.nan, None, films["lung_mask"][0]], 48, kind="lungs", store=store
    )
    assert (lungs.gather([0, 1]) == 127).all() and 255 in lungs[2]
    assert pickle.loads(pickle.dumps(found))[1].tolist() == found[1].tolist()
    assert len(cache.cached_images([], 48, store=store)) == 0


def test_a_moved_store_and_a_copied_dataset_are_not_decoded_again(films, tmp_path, monkeypatch):
    (tmp_path / "data" / "set").mkdir(parents=True)
    for path in films["path"]:
        shutil.copy(path, tmp_path / "data" / "set")
    paths = [tmp_path / "data" / "set" / f"{i}.png" for i in range(10)]
    before = cache.cached_images(paths, 48, store=Store(tmp_path / "a", tmp_path / "data")).gather()
    shutil.copytree(tmp_path / "data", tmp_path / "copy", copy_function=shutil.copyfile)
    shutil.move(tmp_path / "a", tmp_path / "b")
    calls = counted(monkeypatch)
    moved = [tmp_path / "copy" / "set" / f"{i}.png" for i in range(10)]
    found = cache.cached_images(moved, 48, store=Store(tmp_path / "b", tmp_path / "copy"))
    np.testing.assert_array_equal(found.gather(), before)
    assert not calls


def index_of(store):
    """The only index in a store."""
    (file,) = store.root.glob("images-*/index.jsonl")
    return file


def test_cache_goes_on_after_a_kill(films, store, monkeypatch):
    calls, decode = [], cache.DECODERS["image"]

    def killed(path, size, choices):
        calls.append(path)
        if len(calls) == 7:
            raise KeyboardInterrupt
        return decode(path, size, choices)

    monkeypatch.setattr(cache, "CHUNK", 4)
    monkeypatch.setitem(cache.DECODERS, "image", killed)
    with pytest.raises(KeyboardInterrupt):
        cache.cached_images(films["path"], 48, store=store)
    with open(index_of(store), "a") as f:
        f.write('["data:')  # a line that the kill has cut short
    calls[:] = ["x"] * 7
    found = cache.cached_images(films["path"], 48, store=store)
    # the first chunk of four was kept
    assert sorted(calls[7:]) == sorted(films["path"][4:])
    np.testing.assert_array_equal(
        found.gather([0, 9]), [decode(films["path"][i], 48, Choices()) for i in (0, 9)]
    )
    assert len(index_of(store).read_text().splitlines()) == 10 and len(found.files) == 1


def test_cache_lists_every_film_that_cannot_be_read(films, store):
    for i in (2, 5):
        open(films["path"][i], "wb").write(b"damaged")
    with pytest.raises(
        images_module.ImageError, match=r"2 of 10 images cannot be read(.|\n)*2.png(.|\n)*5.png"
    ):
        cache.cached_images(films["path"], 48, store=store)


def test_room_of_a_damaged_film_is_used_when_it_is_repaired(films, store, monkeypatch):
    whole = open(films["path"][5], "rb").read()
    open(films["path"][5], "wb").write(b"damaged")
    with pytest.raises(images_module.ImageError):
        cache.cached_images(films["path"], 48, store=store)
    folder = index_of(store).parent
    assert len((folder / "failures.txt").read_text().splitlines()) == 1
    assert len(index_of(store).read_text().splitlines()) == 9
    room = sorted(path.name for path in folder.glob("*.npy"))
    open(films["path"][5], "wb").write(whole)
    calls = counted(monkeypatch)
    found = cache.cached_images(films["path"], 48, store=store)
    assert calls == [films["path"][5]] and found.gather().shape == (10, 48, 48)
    np.testing.assert_array_equal(
        found[5], preprocessing.prepare(images_module.load_image(films["path"][5]).pixels, 48)
    )
    assert sorted(path.name for path in folder.glob("*.npy")) == room == ["images-0-10.npy"]
    assert not (folder / "failures.txt").exists()


@pytest.mark.parametrize(
    "damage",
    [
        lambda file: file.write_bytes(file.read_bytes()[:-1]),
        lambda file: file.write_bytes(file.read_bytes() + b"0"),
        lambda file: file.write_bytes(b""),
        lambda file: file.write_bytes(file.read_bytes().replace(b"'shape'", b"'shape ")),
        lambda file: np.save(file, np.load(file)[:9]),
        lambda file: np.save(file, np.load(file).astype(np.int8)),
        lambda file: file.unlink(),
    ],
    ids=["cut", "longer", "empty", "header", "shape", "type", "gone"],
)
def test_a_finished_cache_is_looked_at_before_it_is_used(films, store, damage):
    (file,) = cache.cached_images(films["path"], 48, store=store).files
    damage(file)
    message = r"images-0-10.npy is damaged .*; delete the folder .*images-\w+ and run again"
    for paths in (films["path"], films["lung_mask"][:1]):  # also where more would be appended
        with pytest.raises(ValueError, match=message):
            cache.cached_images(paths, 48, store=store)
    shutil.rmtree(file.parent)
    assert cache.cached_images(films["path"], 48, store=store).gather().shape == (10, 48, 48)


def test_a_damaged_index_is_noticed(films, store):
    cache.cached_images(films["path"], 48, store=store)
    index_of(store).write_text("x\n" + index_of(store).read_text())
    with pytest.raises(ValueError, match=r"index.jsonl is damaged .*; delete the folder .*images-"):
        cache.cached_images(films["path"], 48, store=store)


def test_a_hole_between_the_files_is_noticed(films, store):
    for end in (3, 6, 10):
        found = cache.cached_images(films["path"][:end], 48, store=store)
    assert [file.name for file in found.files] == [
        "images-0-3.npy",
        "images-3-6.npy",
        "images-6-10.npy",
    ]
    found.files[1].unlink()
    with pytest.raises(ValueError, match=r"images-3-6.npy is damaged .*; delete the folder"):
        cache.cached_images(films["path"], 48, store=store)


def fill(root, paths):
    """What each of two processes does."""
    cache.CHUNK = 4
    cache.cached_images(paths, 48, store=Store(root))


@pytest.mark.integration
def test_two_processes_fill_one_cache(films, tmp_path, store, monkeypatch):
    paths = films["path"].tolist()
    errors = [tmp_path / f"errors{i}.txt" for i in range(2)]
    running = [
        processes.start(file, fill, store.root, part)
        for file, part in zip(errors, (paths[:8], paths[2:][::-1]), strict=True)
    ]
    for process, file in zip(running, errors, strict=True):
        code, said = processes.end(process, file)
        assert code == 0, said
    assert len(index_of(store).read_text().splitlines()) == 10
    calls = counted(monkeypatch)
    for path, pixels in zip(paths, cache.cached_images(paths, 48, store=store), strict=True):
        np.testing.assert_array_equal(
            pixels, preprocessing.prepare(images_module.load_image(path).pixels, 48)
        )
    assert not calls


def test_waiting_for_another_process_is_announced(films, store, monkeypatch):
    found = cache.cached_images(films["path"][:1], 48, store=store)
    folder = found.files[0].parent
    held = threading.Event()

    def hold():
        with filelock.FileLock(folder.with_name(folder.name + ".lock")):
            held.set()
            time.sleep(0.5)

    monkeypatch.setattr(cache, "PATIENCE", 0.05)
    other = threading.Thread(target=hold)
    other.start()
    held.wait()
    with pytest.warns(UserWarning, match=f"waiting for the process that decodes into {folder}"):
        assert len(cache.cached_images(films["path"], 48, store=store)) == 10
    other.join()


def test_arrays(films):
    found = datasets.severity_arrays(films)
    assert found[0].tolist() == [[1, 0], [1, 0], [0, 0]]  # 110000: right upper and middle
    assert found[1].tolist() == [[1, 0], [0, 1], [0, 1]]  # Brixia 300012 at >= 1
    assert np.isnan(found[2]).all()
    assert datasets.severity_arrays(films, Choices(brixia_threshold=2))[1].tolist() == [
        [1, 0],
        [0, 0],
        [0, 1],
    ]
    assert datasets.severity_arrays(films, Choices(array_columns="patient_left"))[0].tolist() == [
        [0, 1],
        [0, 1],
        [0, 0],
    ]


def test_items(films, store):
    item = datasets.CXRDataset(films, 48, masks=True, store=store)[0]
    np.testing.assert_array_equal(
        item["image"][0],
        preprocessing.preprocess(images_module.load_image(films["path"][0]).pixels, 48),
    )
    assert (
        item["image"].shape == (1, 48, 48)
        and item["findings"].isnan().all()
        and item["diagnosis"] == 2
    )
    assert item["lung_mask"].dtype == torch.uint8 and set(item["lung_mask"].unique().tolist()) == {
        0,
        127,
        255,
    }
    dataset = datasets.CXRDataset(films, 48, masks=True, store=store)
    assert (dataset[1]["lung_mask"] == 127).all() and dataset[1]["diagnosis"] == -1
    assert dataset[1]["findings"].tolist() == [
        float(name == "edema") for name in vocabulary.FINDINGS
    ]
    grey = datasets.CXRDataset(films, 48, kind="grey", store=store)[0]["image"]
    grey8 = preprocessing.to_uint8(images_module.load_image(films["path"][0]).pixels)
    raw = preprocessing.resize(grey8, 48)
    np.testing.assert_allclose(grey[0], raw / 127.5 - 1, atol=1e-6)


def test_mask_follows_the_film(films, store):
    """With padding the mask takes the same place as the film, and the padding is ignored."""
    item = datasets.CXRDataset(films, 90, Choices(resize="pad"), masks=True, store=store)[0]
    assert (item["lung_mask"][70:] == 127).all() and (item["lung_mask"][20:50, 10:40] == 255).all()
    assert (item["image"][0, 70:] == 0).all()


def test_masks_with_other_values_are_refused(tmp_path):
    with pytest.raises(
        images_module.ImageError, match=r"m.png: a mask holds 0, 127 \(ignore\) and 255"
    ):
        masks.load_mask(save(tmp_path / "m.png", GREY))
    ones = np.zeros((40, 40), np.uint8)
    ones[:20] = 1
    assert set(np.unique(masks.load_mask(save(tmp_path / "ones.png", ones)))) == {0, 255}


def test_augment_moves_image_and_mask_together():
    image, mask = np.full((64, 64), 100, np.uint8), np.zeros((64, 64), np.uint8)
    image[20:40, 10:30], mask[20:40, 10:30] = 200, 255
    flips = 0
    for seed in range(200):
        moved, moved_mask, flipped = augmentation.augment(
            image, mask, generator=torch.Generator().manual_seed(seed)
        )
        agree = ((moved > 150) == (moved_mask == 255)).mean()
        rows, columns = np.nonzero(moved_mask == 255)
        column = 63 - columns.mean() if flipped else columns.mean()
        flips += flipped
        # 5 % shift, 15 degrees about the middle
        assert agree > 0.97 and np.hypot(rows.mean() - 29.5, column - 19.5) < 9
        assert 0.85 < (moved_mask == 255).sum() / 400 < 1.15  # scale 0.95 to 1.05, squared
    assert 20 <= flips <= 60
    assert set(augmentation.AUGMENT) == set(OPEN_CHOICES["augmentation"][1])


def test_augment_by_shift_only_moves_pixels():
    """What stays in view is the film itself, grey value for grey value; the mask goes along."""
    image = np.random.default_rng(0).integers(0, 256, (60, 60), np.uint8)
    padded, mask = (
        np.pad(image, 3, constant_values=128),
        np.where(image > 99, 255, 0).astype(np.uint8),
    )
    padded_mask, seen = np.pad(mask, 3, constant_values=127), set()
    for seed in range(60):
        moved, moved_mask, flipped = augmentation.augment(
            image, mask, how="shift", generator=torch.Generator().manual_seed(seed)
        )
        if flipped:
            moved, moved_mask = moved[:, ::-1], moved_mask[:, ::-1]
        places = [
            (y, x)
            for y in range(7)
            for x in range(7)
            if np.array_equal(padded[y : y + 60, x : x + 60], moved)
        ]
        assert len(places) == 1
        ((y, x),) = places
        assert np.array_equal(padded_mask[y : y + 60, x : x + 60], moved_mask)
        seen.add((y, x, flipped))
    assert len({place[:2] for place in seen}) > 20 and {place[2] for place in seen} == {False, True}


def test_augment_by_scanner_moves_as_shift_does_and_keeps_the_order_of_smooth_greys():
    ramp = np.linspace(0, 255, 64 * 64).astype(np.uint8).reshape(64, 64)
    lungs = np.zeros((64, 64), np.uint8)
    lungs[10:40, 20:50] = 255
    changed = set()
    for seed in range(20):
        both = []
        for how in ("shift", "scanner"):
            generator = torch.Generator().manual_seed(seed)
            both.append(augmentation.augment(ramp, lungs, how=how, generator=generator))
        (shifted, shifted_mask, flipped), (image, mask, flipped_too) = both
        assert flipped == flipped_too
        np.testing.assert_array_equal(mask, shifted_mask)
        assert image.dtype == np.uint8
        # rows of the ramp grow darker to lighter under every window, gamma, blur and grain
        inner = image[8:-8, 8:-8].astype(float).mean(axis=1)
        steps = np.diff(inner[2:-2])
        assert steps.min() > -3
        changed.add(round(float(np.abs(image.astype(float) - shifted).mean())))
    assert len(changed) > 5  # other machines each time


def test_augment_none_and_unknown():
    image, mask, flipped = augmentation.augment(GREY[:60, :60], how="none")
    assert (
        image is not None and np.array_equal(image, GREY[:60, :60]) and mask is None and not flipped
    )
    known = r"\['affine', 'none', 'scanner', 'shift'\]"
    with pytest.raises(ValueError, match=f"unknown augmentation 'cutout'; known: {known}"):
        augmentation.augment(GREY, how="cutout")


def test_a_flip_swaps_the_columns_of_the_array(films, store):
    dataset = datasets.CXRDataset(films, 48, train=True, flip=1.0, store=store)
    assert dataset[0]["array"].tolist() == [[0, 1], [0, 1], [0, 0]]
    assert datasets.CXRDataset(films, 48, train=True, flip=0.0, store=store)[0][
        "array"
    ].tolist() == [
        [1, 0],
        [1, 0],
        [0, 0],
    ]


def test_loader_is_decided_by_its_generator_alone(films, store):
    dataset = datasets.CXRDataset(films, 48, train=True, masks=True, store=store)

    def epochs(seed, workers):
        loader = datasets.make_loader(dataset, 4, torch.Generator().manual_seed(seed), workers)
        return [batch for _ in range(2) for batch in loader]

    one, two, other = epochs(1, 0), epochs(1, 2), epochs(2, 0)
    for a, b in zip(one, two):
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)
    assert any(not torch.equal(a["image"], b["image"]) for a, b in zip(one, other))
    assert not torch.equal(one[0]["index"], one[3]["index"])  # a new order in the second epoch
    assert sorted(torch.cat([b["index"] for b in one[:3]]).tolist()) == list(range(10))
    plain = torch.cat([batch["index"] for batch in datasets.make_loader(dataset, 4)])
    assert plain.tolist() == list(range(10))


def test_virtual_patients_are_films(store):
    from cxrkit.simulation import hospital

    drawn = hospital.Hospital(next(iter(hospital.SITES)))
    url, patient = drawn.url(3), drawn[3]
    image = images_module.load_image(url)
    np.testing.assert_array_equal(image.pixels, patient.image)
    assert image.view == patient.view and "synthetic" in image.notes
    np.testing.assert_array_equal(masks.load_mask(url) == 255, patient.lungs[0] | patient.lungs[1])
    np.testing.assert_array_equal(masks.load_mask(url, "lesion") == 255, patient.lesion)
    found = cache.cached_images(pd.Series([url]), 64, store=store)
    np.testing.assert_array_equal(found[0], preprocessing.prepare(patient.image, 64))


def test_a_drawn_cohort_is_read_like_any_dataset(tmp_path, store):
    from cxrkit.simulation import cohort

    cohort.draw_cohort(
        tmp_path / "virtual",
        sections.CohortSettings(findings=12, diagnosis=12, severity=12, size=64),
        seed=0,
        workers=1,
    )
    drawn, table = cohort.Cohort(tmp_path / "virtual"), manifests.read_manifest("virtual", tmp_path)
    assert len(table) == len(drawn) and all(
        manifests.has(table, what) for what in schema.load("virtual").provides
    )
    right, left = drawn.lungs(5)
    np.testing.assert_array_equal(
        images_module.load_image(table["path"][5]).pixels, drawn.images[5]
    )
    np.testing.assert_array_equal(masks.load_mask(table["lung_mask"][5]) == 255, right | left)
    np.testing.assert_array_equal(
        masks.load_mask(table["lesion_mask"][5], "lesion") == 255, drawn.lesion(5)
    )
    np.testing.assert_array_equal(
        datasets.severity_arrays(table), drawn.arrays(np.arange(len(drawn)))
    )
    batch = datasets.CXRDataset(table, 32, masks=True, store=store).batch([5, 6])
    assert batch["image"].shape == (2, 1, 32, 32) and set(batch["lung_mask"].unique().tolist()) == {
        0,
        255,
    }


# the real films


@pytest.mark.integration
def test_every_brixia_scored_film_loads(mirror, store):
    table = manifests.read_manifest("cohen", mirror)
    table = table[table["brixia_A"].notna()].reset_index(drop=True)
    images, failures = images_module.load_images(table["path"])
    assert len(images) == 142 and failures == []
    dataset = datasets.CXRDataset(table, 128, masks=True, store=store)
    batch = next(iter(datasets.make_loader(dataset, 142)))
    assert (
        batch["image"].isfinite().all()
        and batch["image"].std() > 0.5
        and not batch["array"].isnan().any()
    )
    inside = batch["image"][:, 0][batch["lung_mask"] == 255].mean()
    assert inside < batch["image"].mean()  # lungs are darker than the rest: masks lie on them
