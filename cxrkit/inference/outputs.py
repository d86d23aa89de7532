"""Output folder of `cxrkit predict`: rows and maps that survive a kill, and files of the user.

The record, predict_record.jsonl, is written ahead of everything else. Its first line holds the
settings of the predictions. Then come lines of three kinds: `files` names files before they are
written, with the hash of their content; `image` holds a finished row; `map_method` says what makes
the maps, once maps are asked for. What the record does not name was not written by this command,
and is not overwritten. predictions.csv follows from the record.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import json
import os
import re
import shutil
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import filelock

from cxrkit.inference.search import RECORD
from cxrkit.storage.atomic import write_atomic

TABLE, NOT_READ, ABOUT, LOCK = "predictions.csv", "not_read.csv", "about.txt", ".predict.lock"
FORMAT = 1  # of the record
BYTES_PER_IMAGE = 4096  # of row and record
REWRITE_AFTER = 100  # replaced rows, before the table is written anew


class OutputError(RuntimeError):
    """The output folder cannot take the results; the message names it and the next step."""


class NotOursError(OutputError):
    """A file that stands in the way was not written by `cxrkit predict`."""


@dataclass
class Entry:
    """A finished image.

    Attributes:
        image: Absolute path, printable.
        content: SHA-256 of the file, in hexadecimal digits.
        row: Cells of predictions.csv.
        maps: Names of its maps and other files.
        tags: DICOM tags that were not used.
        kinds: Which kinds of files were asked for with it: some of `files.KINDS`.
    """

    image: str
    content: str
    row: list[str]
    maps: list[str] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)


def digest(content: bytes) -> str:
    """SHA-256 in hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def csv_text(rows: Sequence[Sequence[object]]) -> str:
    """Rows of cells as CSV."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


class OutputFolder:
    """The folder that gets predictions; made by `open_folder`.

    Attributes:
        folder: Where it lies.
        entries: Finished images by `Entry.image`, in the order of the table.
        map_method: Makes the maps of the diagnoses; None while no maps were asked for.
    """

    def __init__(self, folder: Path, settings: dict[str, Any], columns: Sequence[str]) -> None:
        self.folder, self.columns = folder, list(columns)
        self.first_line = {"cxrkit predict": FORMAT, "settings": settings, "columns": self.columns}
        self.entries: dict[str, Entry] = {}
        self.map_method: str | None = None
        self._written: dict[str, set[str]] = {}  # file -> hashes of what was written there
        self._lines = set(csv_text([self.columns]).split("\n"))  # all that the table ever had
        self._overwrite = False
        self._behind = 0  # rows that the record has, and the table not yet

    # at the start

    def check(self, images: int) -> None:
        """Make the folder and see whether it takes files.

        Args:
            images: How many are to be predicted.

        Raises:
            OutputError: It cannot be made or written, or there is no room for the table.
        """
        probe = self.folder / f".probe.{os.getpid()}.part"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            probe.write_bytes(b"x")
            probe.unlink()
            free = shutil.disk_usage(self.folder).free
        except OSError as error:
            with contextlib.suppress(OSError):
                probe.unlink(missing_ok=True)
            raise OutputError(
                f"{self.folder}: cannot be written ({error.strerror}); choose another folder with "
                "--out"
            ) from error
        need = BYTES_PER_IMAGE * (images + 16)
        if free < need:
            raise OutputError(
                f"{self.folder}: {free / 1e6:.1f} MB free, the table of {images} images needs "
                f"{need / 1e6:.1f} MB; make room, or choose another folder with --out"
            )

    def start(self, overwrite: bool) -> None:
        """Take up earlier results, or begin.

        Args:
            overwrite: Begin anew, and overwrite files that stand in the way.

        Raises:
            OutputError: The results there are of other models or options, or were changed, or a
                file of the user has the name of one of ours.
        """
        self._overwrite = overwrite
        if (self.folder / RECORD).is_file():
            try:
                self._read_record(check_settings=not overwrite)
            except OutputError:
                if not overwrite:
                    raise
        if overwrite:
            self._remove_own()
        self._remove_parts()
        if not (self.folder / RECORD).is_file():
            for name in (RECORD, TABLE, NOT_READ, ABOUT):
                self._refuse_foreign(name)
            self._write(RECORD, (json.dumps(self.first_line) + "\n").encode())
        self._repair_table()

    def _read_record(self, check_settings: bool) -> None:
        """Fill `entries` from the record; a last line that was cut off is removed."""
        path = self.folder / RECORD
        content = path.read_bytes()
        good = content.rfind(b"\n") + 1
        try:
            first, *lines = [json.loads(line) for line in content[:good].splitlines()]
            same_format = first["cxrkit predict"] == FORMAT
            settings, columns = first["settings"], first["columns"]
            for line in lines:
                self._take(line)
        except (ValueError, KeyError, TypeError) as error:
            raise OutputError(
                f"{path}: no sound record of cxrkit predict; choose another folder with --out, or "
                "begin anew with --overwrite"
            ) from error
        wanted = self.first_line["settings"]
        changed = [name for name in wanted if settings.get(name) != wanted[name]]
        if columns != self.columns or not same_format:
            changed.append("columns")
        if check_settings and changed:
            raise OutputError(
                f"{self.folder} holds results of other {' and '.join(changed)}; choose another "
                "folder with --out, or replace them with --overwrite"
            )
        if good < len(content):
            os.truncate(path, good)

    def _take(self, line: dict[str, Any]) -> None:
        """A line of the record, after the first."""
        if "files" in line:
            for name, content_hash in line["files"].items():
                self._written.setdefault(name, set()).add(content_hash)
        elif "map_method" in line:
            self.map_method = str(line["map_method"])
        else:
            entry = Entry(**line["image"])
            self.entries[entry.image] = entry
            self._lines.update(csv_text([entry.row]).split("\n"))

    def _remove_own(self) -> None:
        """Remove what earlier runs wrote, as far as it is still as they wrote it."""
        for name in self._written:
            if self._is_own(name):
                (self.folder / name).unlink(missing_ok=True)
        for name in (TABLE, RECORD):
            (self.folder / name).unlink(missing_ok=True)
        self.entries, self._written, self.map_method = {}, {}, None

    def _remove_parts(self) -> None:
        """Remove temporary files that a kill left behind."""
        own = "|".join(map(re.escape, (TABLE, RECORD, ".probe", *self._written)))
        names = re.compile(
            rf"({own})(\.[\w-]+)?\.\d+(\.[0-9a-f]{{12}})?\.part"
        )  # see storage.atomic
        for path in [*self.folder.glob("*.part"), *self.folder.glob(".*.part")]:
            if names.fullmatch(path.name):
                path.unlink(missing_ok=True)

    def _repair_table(self) -> None:
        """Bring predictions.csv to the state of the record.

        A table with a line that the record does not know was changed by someone else.
        """
        path, wanted = self.folder / TABLE, self._table()
        if os.path.lexists(path) and not self._overwrite:
            have = path.read_text("utf-8", "surrogateescape")
            *lines, cut_off = have.split("\n")
            known = self._lines.issuperset(lines) and any(
                line.startswith(cut_off) for line in self._lines
            )
            if not known or path.is_symlink():
                raise NotOursError(
                    f"{path} was changed since cxrkit predict wrote it; move it away, choose "
                    "another folder with --out, or begin anew with --overwrite"
                )
            if have == wanted:
                return
        self._write(TABLE, wanted.encode())

    def _table(self) -> str:
        return csv_text([self.columns, *(entry.row for entry in self.entries.values())])

    def use_map_method(self, method: str) -> None:
        """Remember what makes the maps: those of one folder are all made alike.

        Args:
            method: Name of the method.

        Raises:
            OutputError: The maps there are of another method, or the record cannot be written.
        """
        unknown = self.map_method is None and any(one.maps for one in self.entries.values())
        if self.map_method == method:
            return
        if self.map_method or unknown:
            kept = f"go on with --map-method {self.map_method}, " if self.map_method else ""
            raise OutputError(
                f"{self.folder} holds maps of {self.map_method or 'a method that nobody noted'}, "
                f"not of {method}: {kept}choose another folder with --out, or replace them with "
                "--overwrite"
            )
        self._append(RECORD, json.dumps({"map_method": method}) + "\n")
        self.map_method = method

    # own files

    def _is_own(self, name: str) -> bool:
        """Whether a file is still as this command wrote it."""
        path = self.folder / name
        if path.is_symlink() or not path.is_file():
            return False
        return digest(path.read_bytes()) in self._written.get(name, set())

    def _refuse_foreign(self, name: str) -> None:
        path = self.folder / name
        if self._overwrite or not os.path.lexists(path) or self._is_own(name):
            return
        raise NotOursError(
            f"{path} exists and was not written by cxrkit predict; move it away, choose another "
            "folder with --out, or allow it with --overwrite"
        )

    def write_files(self, files: dict[str, bytes]) -> None:
        """Write files, each whole or not at all, and none that would replace a file of the user.

        Args:
            files: Content by name.

        Raises:
            NotOursError: A file of that name is not ours; none is written.
            OutputError: They cannot be written.
        """
        for name in files:
            self._refuse_foreign(name)
        hashes = {name: digest(content) for name, content in files.items()}
        new = {name: one for name, one in hashes.items() if one not in self._written.get(name, ())}
        if new:
            self._append(RECORD, json.dumps({"files": new}) + "\n")
        for name, one in new.items():
            self._written.setdefault(name, set()).add(one)
        for name, content in files.items():
            path = self.folder / name
            if not path.is_file() or digest(path.read_bytes()) != hashes[name]:
                self._write(name, content)

    # rows

    def kinds_of(self, image: str, content: str) -> list[str]:
        """Which kinds of files an earlier run gave for an image of this content.

        Args:
            image: See `Entry`.
            content: See `Entry`.
        """
        entry = self.entries.get(image)
        return entry.kinds if entry and entry.content == content else []

    def is_finished(self, image: str, content: str, kinds: Collection[str]) -> bool:
        """Whether an image needs no further prediction.

        Args:
            image: See `Entry`.
            content: See `Entry`.
            kinds: Of the files that are wanted for it; an unusable image may have none of them.
        """
        entry = self.entries.get(image)
        if entry is None or entry.content != content:
            return False
        if not kinds:
            return True
        given = set(kinds) <= set(entry.kinds)
        return given and all((self.folder / name).is_file() for name in entry.maps)

    def add(self, entry: Entry) -> None:
        """Write a row; it is on the disk when this returns.

        Args:
            entry: Replaces an earlier one of the same image.

        Raises:
            OutputError: It cannot be written; the rows before it are kept.
        """
        replaces = entry.image in self.entries
        line = {"image": asdict(entry)}
        self._append(RECORD, json.dumps(line) + "\n")
        self._take(line)
        if not replaces:
            self._append(TABLE, csv_text([entry.row]))
            return
        self._behind += 1
        if self._behind >= REWRITE_AFTER:
            self.finish()

    def finish(self) -> None:
        """Write rows that replace others to the table."""
        if self._behind:
            self._write(TABLE, self._table().encode())
        self._behind = 0

    def _write(self, name: str, content: bytes) -> None:
        """Write a file, whole or not at all."""
        try:
            write_atomic(self.folder / name, content)
        except OSError as error:
            raise self._full(self.folder / name, error) from error

    def _append(self, name: str, text: str) -> None:
        """Append to a file and wait for the disk; after an error the file is as it was."""
        path, length = self.folder / name, None
        try:
            with open(path, "ab") as file:
                length = file.tell()
                file.write(text.encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            if length is not None:
                with contextlib.suppress(OSError):
                    os.truncate(path, length)
            raise self._full(path, error) from error

    def _full(self, path: Path, error: OSError) -> OutputError:
        return OutputError(
            f"{path}: cannot be written ({error.strerror}); the rows so far are kept in "
            f"{self.folder / TABLE}. Make room and repeat the command: it goes on from there"
        )


@contextlib.contextmanager
def open_folder(
    folder: Path,
    settings: dict[str, Any],
    columns: Sequence[str],
    images: int = 0,
    overwrite: bool = False,
) -> Iterator[OutputFolder]:
    """An output folder, checked and locked, with the results of earlier runs.

    Args:
        folder: Made where it is missing.
        settings: What the predictions depend on; earlier results must have the same.
        columns: Of predictions.csv.
        images: How many are to be predicted.
        overwrite: Begin anew.

    Raises:
        OutputError: It cannot take the results.
    """
    output = OutputFolder(folder, settings, columns)
    output.check(images)
    lock = filelock.FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise OutputError(
            f"{folder}: another cxrkit predict writes there; wait for it, or choose another folder "
            "with --out"
        ) from None
    try:
        output.start(overwrite)
        try:
            yield output
        finally:
            output.finish()
    finally:
        with contextlib.suppress(OSError):  # first, so that nobody locks a file without a name
            (folder / LOCK).unlink()
        lock.release()
