"""Search: which files are images, and what is not read, with the reason."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from cxrkit.data.dicom import DICOM_SUFFIXES, dicom_kind

RASTER_SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".tif", ".tiff", ".webp", ".bmp"),
    *(".jp2", ".j2k", ".pgm", ".pnm", ".ppm", ".gif"),
)
SUFFIXES = (*RASTER_SUFFIXES, *DICOM_SUFFIXES)
PACKED = (".gz", ".zip", ".tar", ".tgz", ".bz2", ".xz", ".7z", ".rar", ".zst")
TABLES = (".csv", ".tsv", ".xls", ".xlsx", ".parquet")

RECORD = "predict_record.jsonl"  # a folder that holds it is an output folder
OUTPUTS = ("predictions.csv", "not_read.csv", "about.txt", RECORD, ".predict.lock")
MAP_MARK = b"a map of cxrkit predict"  # in the head of each map that `cxrkit predict` writes
MAP_HEAD = 512  # bytes in which the mark lies

BYTES_ESCAPED = re.compile(r"\\x[89a-f][0-9a-f]")


@dataclass(frozen=True)
class NotRead:
    """What a search passed over.

    Attributes:
        kind: "file", "folder" or "tag".
        name: Path, or the keyword of a DICOM tag.
        reason: In words.
        count: How many files it concerns.
    """

    kind: str
    name: str
    reason: str
    count: int = 1


@dataclass
class Found:
    """The result of a search.

    Attributes:
        images: Files to read, in order, each once.
        not_read: What was passed over.
        own_maps: How many maps of earlier runs were passed over.
    """

    images: list[Path] = field(default_factory=list)
    not_read: list[NotRead] = field(default_factory=list)
    own_maps: int = 0


def printable(text: str) -> str:
    r"""A path as text that any file and terminal can hold.

    Bytes of a name that are no UTF-8 (`os.fsdecode` makes lone surrogates of them) become `\xNN`.
    Where a name holds such bytes, or itself reads like them, its backslashes are doubled, so that
    `path_of_text` finds the way back.

    Args:
        text: A path, or words with a path in them.
    """
    surrogates = any("\ud800" <= letter <= "\udfff" for letter in text)
    if not surrogates and not BYTES_ESCAPED.search(text):
        return text
    doubled = text.replace("\\", "\\\\")
    return re.sub("[\udc80-\udcff]", lambda match: f"\\x{ord(match[0]) - 0xDC00:02x}", doubled)


def path_of_text(text: str) -> Path:
    """The path that `printable` wrote.

    Args:
        text: A value of the column `path` of predictions.csv.
    """
    if not BYTES_ESCAPED.search(text):
        return Path(text)

    def original(match: re.Match) -> str:
        return "\\" if match[0] == "\\\\" else chr(0xDC00 + int(match[0][2:], 16))

    return Path(re.sub(r"\\\\|\\x[89a-f][0-9a-f]", original, text))


def list_images(paths: Iterable[Path | str]) -> list[Path]:
    """Image files, and those in folders: `find_images` without what was passed over."""
    return find_images(paths).images


def find_images(paths: Iterable[Path | str]) -> Found:
    """Image files, and those in folders at any depth.

    A file that is named is taken as it is, unless it is a map of `cxrkit predict`. In folders, a
    file is an image by SUFFIXES, or where it starts as a DICOM file does. Links to folders are
    followed, each folder is read once. Hidden files and folders are passed over.

    Args:
        paths: Files and folders.
    """
    search = _Search()
    for path in map(Path, paths):
        if path.is_dir():
            search.folder(path)
        elif is_own_map(path):
            search.found.own_maps += 1
        else:
            search.take(path)
    return search.found


class _Search:
    """State of a search: what was found, and which folders and files were seen."""

    def __init__(self) -> None:
        self.found = Found()
        self._folders: set[tuple[int, int]] = set()  # device and inode
        self._files: set[str] = set()

    def take(self, path: Path) -> None:
        """An image, if it was not taken before."""
        absolute = os.path.abspath(path)
        if absolute not in self._files:
            self._files.add(absolute)
            self.found.images.append(path)

    def pass_over(self, kind: str, path: Path, reason: str) -> None:
        self.found.not_read.append(NotRead(kind, printable(str(path)), reason))

    def folder(self, top: Path) -> None:
        """All images of a folder, in the order of their paths."""
        before = len(self.found.images)
        real, links = [top], []
        while real or links:
            is_link = not real
            folder = links.pop(0) if is_link else real.pop()
            for entry in self._entries(folder, is_link):
                if entry.name.startswith("."):
                    self._hidden(folder, entry)
                elif entry.is_dir():
                    (links if entry.is_symlink() else real).append(Path(entry.path))
                else:
                    self._file(Path(entry.path))
        self.found.images[before:] = sorted(self.found.images[before:])

    def _entries(self, folder: Path, is_link: bool) -> list[os.DirEntry[str]]:
        """What lies in a folder; nothing where it was read before or cannot be read."""
        try:
            status = folder.stat()
            if (status.st_dev, status.st_ino) in self._folders:
                if is_link:
                    self.pass_over("folder", folder, "a link to a folder that was read already")
                return []
            self._folders.add((status.st_dev, status.st_ino))
            with os.scandir(folder) as entries:
                inside = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            self.pass_over("folder", folder, f"cannot be opened: {error.strerror}")
            return []
        if any(entry.name == RECORD for entry in inside):
            inside = [entry for entry in inside if entry.name not in OUTPUTS]
        return inside

    def _hidden(self, folder: Path, entry: os.DirEntry[str]) -> None:
        kind = "folder" if entry.is_dir() else "file"
        self.pass_over(kind, folder / entry.name, f"hidden {kind}")

    def _file(self, path: Path) -> None:
        """A file in a folder: an image, a map of an earlier run, or passed over."""
        if is_own_map(path):
            self.found.own_maps += 1
            return
        reason = why_not(path)
        if reason:
            self.pass_over("file", path, reason)
        else:
            self.take(path)


def why_not(path: Path) -> str:
    """Why a file in a folder is not read as an image; empty where it is.

    Args:
        path: Of the file.
    """
    if not path.exists():
        return "a link to nothing"
    if not path.is_file():
        return "no regular file"
    suffix = path.suffix.lower()
    if path.name.upper() == "DICOMDIR":
        return "the directory of a DICOM medium: it holds no image"
    if suffix in SUFFIXES:
        return ""
    try:
        if dicom_kind(path):
            return ""
    except OSError as error:
        return f"cannot be opened: {error.strerror}"
    if suffix in PACKED:
        return "packed: unpack it first"
    if suffix in TABLES:
        return "a table: cxrkit predict uses none of its columns"
    return f"no image: suffix {suffix}" if suffix else "no image: no suffix and no DICOM file"


def is_own_map(path: Path) -> bool:
    """Whether a file is a map or a DICOM file that `cxrkit predict` wrote, wherever it lies now.

    Args:
        path: Of the file.
    """
    if path.suffix.lower() not in (".png", ".dcm") or not path.is_file():
        return False
    try:
        with open(path, "rb") as file:
            return MAP_MARK in file.read(MAP_HEAD)
    except OSError:
        return False
