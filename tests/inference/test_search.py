"""Which files are images, and what is passed over with a reason."""

import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from cxrkit.data import dicom as dicom_files
from cxrkit.data import images
from cxrkit.inference import search
from tests.data.test_datasets import dicom


@pytest.fixture
def png(tmp_path_factory):
    path = tmp_path_factory.mktemp("png") / "film.png"
    cv2.imwrite(str(path), np.arange(64 * 64, dtype=np.uint8).reshape(64, 64))
    return path


def reasons(found):
    return {Path(one.name).name: one.reason for one in found.not_read}


def test_a_dicom_file_is_known_by_its_content_and_everything_else_is_named(png, tmp_path):
    disc = tmp_path / "disc"
    (disc / "DICOM").mkdir(parents=True)
    dicom(disc / "DICOM" / "IM000001", np.arange(64 * 64, dtype=np.uint16).reshape(64, 64))
    shutil.copy(disc / "DICOM" / "IM000001", disc / "a.ima")
    shutil.copy(disc / "DICOM" / "IM000001", disc / "DICOMDIR")
    for suffix in (".webp", ".bmp", ".jp2", ".pgm"):
        shutil.copy(png, disc / f"film{suffix}")
    for name in ("film.dcm.gz", "table.csv", "README", "notes.txt", "short"):
        (disc / name).write_bytes(b"\x08\x00" if name == "short" else b"something else")
    os.mkfifo(disc / "pipe.png")
    os.symlink("nowhere.png", disc / "broken.png")
    found = search.find_images([disc])
    assert [path.relative_to(disc).as_posix() for path in found.images] == [
        *("DICOM/IM000001", "a.ima", "film.bmp", "film.jp2", "film.pgm", "film.webp"),
    ]
    assert reasons(found) == {
        "DICOMDIR": "the directory of a DICOM medium: it holds no image",
        "film.dcm.gz": "packed: unpack it first",
        "table.csv": "a table: cxrkit predict uses none of its columns",
        "README": "no image: no suffix and no DICOM file",
        "short": "no image: no suffix and no DICOM file",
        "notes.txt": "no image: suffix .txt",
        "pipe.png": "no regular file",
        "broken.png": "a link to nothing",
    }


def test_a_dicom_file_without_preamble_is_known_to_pydicom(tmp_path):
    path = dicom(tmp_path / "IM1", np.arange(64 * 64, dtype=np.uint16).reshape(64, 64))
    assert dicom_files.dicom_kind(path) == "preamble"
    bare = tmp_path / "IM2"
    content = Path(path).read_bytes()
    bare.write_bytes(content[132:])
    assert dicom_files.dicom_kind(bare) == "bare"
    assert search.why_not(bare) == ""
    whole = images.load_image(path)
    np.testing.assert_array_equal(images.load_image(bare).pixels, whole.pixels)
    # the tag 0002,0000 holds the length of the file's head, which may be missing too
    head = 144 + int.from_bytes(content[140:144], "little")
    bare.write_bytes(content[head:])
    assert dicom_files.dicom_kind(bare) == "bare"
    np.testing.assert_array_equal(images.load_image(bare).pixels, whole.pixels)
    bare.write_bytes(b"\x08\x00" + bytes(500))
    assert dicom_files.dicom_kind(bare) == ""
    assert search.why_not(bare) == "no image: no suffix and no DICOM file"


def test_links_are_followed_once_and_hidden_folders_are_said(png, tmp_path):
    top, other = tmp_path / "top", tmp_path / "other"
    for folder in (top / "sub", other / "deep", top / ".ipynb_checkpoints"):
        folder.mkdir(parents=True)
        shutil.copy(png, folder / "x.png")
    shutil.copy(png, top / ".hidden.png")
    os.symlink(other, top / "link")
    os.symlink(other, top / "second")
    os.symlink(top, other / "deep" / "loop")
    found = search.find_images([top, top / "sub"])
    assert [path.relative_to(top).as_posix() for path in found.images] == [
        "link/deep/x.png",
        "sub/x.png",
    ]
    assert reasons(found) == {
        ".ipynb_checkpoints": "hidden folder",
        ".hidden.png": "hidden file",
        "second": "a link to a folder that was read already",
        "loop": "a link to a folder that was read already",
    }


def test_a_folder_that_cannot_be_opened_is_said(tmp_path, monkeypatch):
    (tmp_path / "closed").mkdir()
    right = os.scandir

    def refuse(path):
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied")
        return right(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert reasons(search.find_images([tmp_path])) == {
        "closed": "cannot be opened: Permission denied"
    }


@pytest.mark.parametrize(
    "name, text",
    [
        (b"film.png", "film.png"),
        ("Müller 肺.png".encode(), "Müller 肺.png"),
        (b"M\xfcller.png", r"M\xfcller.png"),
        (rb"M\xfcller.png", r"M\\xfcller.png"),
        (b"a\\b\xe9", r"a\\b\xe9"),
        (rb"C:\xray", r"C:\xray"),
    ],
)
def test_names_that_are_no_utf8_are_printable_and_come_back(name, text):
    path = os.fsdecode(name)
    assert search.printable(path) == text
    text.encode()
    assert os.fsencode(search.path_of_text(text)) == name
