"""The image cache: each image is decoded and preprocessed once and kept as uint8 on disk.

There is one folder for each dataset, size and way of preprocessing. It holds the images in the
order in which they were first asked for:

- `images-<first>-<end>.npy`, uint8 (end - first, S, S): the rows from `first` to before `end`;
- `index.jsonl`: line i names the image in row i by its path, which is relative to the store or the
  data root, and by the content of its file. A row without a line is free.
"""

from __future__ import annotations

import contextlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from tqdm import tqdm

from cxrkit.config.choices import Choices
from cxrkit.config.machine import cpus
from cxrkit.config.vocabulary import known
from cxrkit.data import preprocessing, sources
from cxrkit.data.fingerprints import fingerprint
from cxrkit.data.images import ImageError, load_image
from cxrkit.data.masks import fitted_mask
from cxrkit.storage import mapped
from cxrkit.storage.artifacts import Store
from cxrkit.storage.atomic import read_json, write_atomic, write_json
from cxrkit.storage.locks import PATIENCE, announced_lock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

VERSION = 1  # raise it when an image file is decoded to other pixels than before
CHUNK = 64  # images between two entries in the index


def _decode_image(path: str, size: int, choices: Choices) -> np.ndarray:
    image = load_image(path)
    return preprocessing.prepare(image.pixels, size, image.choices(choices))


def _decode_grey(path: str, size: int, choices: Choices) -> np.ndarray:
    """The segmenter's input."""
    image = load_image(path)
    grey = preprocessing.to_uint8(image.pixels, image.choices(choices).stretch)
    return preprocessing.resize(grey, size)


def _decode_lungs(path: str, size: int, choices: Choices) -> np.ndarray:
    return fitted_mask(path, size, choices, "lungs")


def _decode_lesion(path: str, size: int, choices: Choices) -> np.ndarray:
    return fitted_mask(path, size, choices, "lesion")


DECODERS = {  # what the cache can hold: path, size, choices -> uint8 (S, S)
    "image": _decode_image,
    "grey": _decode_grey,
    "lungs": _decode_lungs,
    "lesion": _decode_lesion,
}


class Entry(NamedTuple):
    """What names a cached image: another path or another content of the file is another image."""

    path: str  # relative to the store or the data root
    bytes: int | None  # length of the file; None = there is no file, as for a virtual patient
    content: str | None  # hash of its head and tail


class CachedImages:
    """Images of one size in the cache, in the order they were asked for.

    `len(images)`, `images[i]` -> uint8 (S, S), and iteration. The files are opened at the first
    access, in each process anew.

    Attributes:
        files: the files that hold them.
    """

    def __init__(
        self, files: Sequence[Path], file_of: np.ndarray, row_of: np.ndarray, size: int
    ) -> None:
        self.files = list(files)
        self.size = size
        self._file_of, self._row_of = file_of, row_of  # (N,) each: index into `files`, row in it
        self._open: list[np.ndarray] | None = None

    def __getstate__(self) -> dict[str, Any]:
        # a loader's worker opens the files itself instead of receiving a copy of them
        return {**vars(self), "_open": None}

    def __len__(self) -> int:
        return len(self._row_of)

    def __getitem__(self, i: int) -> np.ndarray:
        if self._open is None:
            self._open = [mapped.view(file) for file in self.files]
        return np.asarray(self._open[self._file_of[i]][self._row_of[i]])  # (S, S)

    def gather(self, indices: Iterable[int] | None = None) -> np.ndarray:
        """Some images, by default all, in memory: uint8 (n, S, S)."""
        rows = range(len(self)) if indices is None else list(indices)
        out = np.empty((len(rows), self.size, self.size), np.uint8)
        for pixels, i in zip(out, rows, strict=True):
            pixels[:] = self[i]
        return out


def cached_images(
    paths: Iterable[Any],
    size: int = 512,
    choices: Choices = Choices(),
    kind: str = "image",
    store: Store | None = None,
) -> CachedImages:
    """Images at one size from the cache; those that are missing are decoded first.

    An interrupted call loses at most CHUNK decoded images. Several processes may call at once: one
    decodes, the others wait.

    Args:
        paths: of images or masks, as in a column of a table; NaN for an unknown mask.
        size: S, side in pixels.
        choices: `stretch`, `working_size`, `resize` and `order` are read.
        kind: key of DECODERS.
        store: where the cache lies.

    Raises:
        ImageError: images cannot be read; the message lists them. All others are in the cache.
        OSError: the disk is too full for what is missing of a dataset; none of it was decoded.
        ValueError: a finished file is not as it was made; the message names the folder to delete.
    """
    known(kind, DECODERS, "kind of image")
    store = store or Store()
    paths = list(paths)
    entries = entries_of(paths, store)
    members: dict[str, list[int]] = {}  # dataset -> positions in `paths`
    for i, entry in enumerate(entries):
        members.setdefault(_dataset_of(entry.path), []).append(i)
    caches = {name: _Cache.of(store, name, size, choices, kind) for name in sorted(members)}
    failures = {}
    for name, cache in caches.items():
        failures[cache] = cache.fill({entries[i]: paths[i] for i in members[name]})
    _refuse(failures, len(paths))
    files: list[Path] = []
    file_of, row_of = np.zeros(len(paths), int), np.zeros(len(paths), int)
    for name, cache in caches.items():
        positions = members[name]
        index = cache.index()
        spans = cache.checked_spans(len(index))
        firsts = np.array([first for first, _ in spans])
        rows = np.array([index[entries[i]] for i in positions])
        span_of = np.searchsorted(firsts, rows, side="right") - 1
        file_of[positions] = len(files) + span_of
        row_of[positions] = rows - firsts[span_of]
        files += [cache.file(*span) for span in spans]
    return CachedImages(files, file_of, row_of, size)


def faults(folder: Path) -> list[str]:
    """What is wrong with a folder of the cache: a file that is missing, cut or no longer readable.

    Args:
        folder: of one dataset, size and way of preprocessing.

    Returns:
        One line that names the file, or none.
    """
    try:
        settings = read_json(folder / "settings.json")
        one = _Cache(
            folder, settings, lambda path: _decode_image(path, settings["size"], Choices())
        )
        one.checked_spans(len(one.index()))
    except (ValueError, KeyError, TypeError, FileNotFoundError) as error:
        return [str(error)]
    return []


def entries_of(paths: list[Any], store: Store) -> list[Entry]:
    """The entry of each path; a file that holds many images is read once.

    Args:
        paths: of images, as in a column of a table; NaN for an unknown mask.
        store: that relative paths belong to.
    """
    texts = [str(path) if isinstance(path, (str, os.PathLike)) else "" for path in paths]
    files = [str(sources.parse(text).file) for text in texts]
    unique = sorted(set(files))
    with ThreadPoolExecutor(2 * cpus()) as pool:
        found = pool.map(lambda file: fingerprint(sources.content_file(file)), unique)
        content = dict(zip(unique, found, strict=True))
    return [
        Entry(name, *content[file])
        for name, file in zip(store.relatives(texts), files, strict=True)
    ]


def _dataset_of(path: str) -> str:
    """The dataset or artifact that a relative path belongs to.

    Files outside of the store and the data root are one dataset, since their folders may be as many
    as the files.
    """
    name, colon, rest = path.partition(":")
    if colon and name in ("data", "store"):
        folder, slash, _ = rest.partition("/")
        return f"{name}:{folder}" if slash else name
    return sources.parse(path).scheme or "files"


def _refuse(failures: dict[_Cache, list[str]], asked: int) -> None:
    """Raise ImageError with what could not be read, if there is anything."""
    lines = [line for some in failures.values() for line in some]
    if not lines:
        return
    reports = ", ".join(str(cache.failures) for cache, some in failures.items() if some)
    listed = "\n  ".join(lines[:20])
    raise ImageError(
        f"{len(lines)} of {asked} images cannot be read (all of them: {reports}); "
        f"repair them or leave them out:\n  {listed}"
    )


@dataclass(frozen=True, eq=False)
class _Cache:
    """One folder of the image cache."""

    folder: Path
    settings: dict[str, Any]
    decode: Callable[[Any], np.ndarray]  # path -> uint8 (S, S)

    @classmethod
    def of(cls, store: Store, dataset: str, size: int, choices: Choices, kind: str) -> _Cache:
        """The cache of a dataset."""
        settings = {
            "dataset": dataset,
            "kind": kind,
            "size": size,
            "resize": choices.resize,
            "order": choices.order,
            "stretch": choices.stretch,
            "working_size": choices.working_size,
            "version": VERSION,
        }
        decoder = DECODERS[kind]
        folder = store.folder("images", settings)
        return cls(folder, settings, lambda path: decoder(path, size, choices))

    @property
    def index_file(self) -> Path:
        """One line for each row that holds an image."""
        return self.folder / "index.jsonl"

    @property
    def failures(self) -> Path:
        """Report of the images that the last call could not read."""
        return self.folder / "failures.txt"

    def file(self, first: int, end: int) -> Path:
        """File of the rows from `first` to before `end`."""
        return self.folder / f"images-{first}-{end}.npy"

    def index(self) -> dict[Entry, int]:
        """Entry -> row. A last line that a kill has cut short counts for nothing."""
        if not self.index_file.exists():
            return {}
        lines = self.index_file.read_bytes().split(b"\n")[:-1]
        try:
            entries = json.loads(b"[" + b",".join(lines) + b"]")  # quicker than line by line
            return {Entry(*entry): row for row, entry in enumerate(entries)}
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"{self.index_file} is damaged ({error}); delete the folder {self.folder} "
                "and run again: it will be made anew"
            ) from error

    def spans(self) -> list[tuple[int, int]]:
        """(first, end) of every file of rows."""
        names = [path.stem.split("-") for path in self.folder.glob("images-*-*.npy")]
        return sorted((int(first), int(end)) for _, first, end in names)

    def checked_spans(self, used: int) -> list[tuple[int, int]]:
        """`spans`, if all files of `used` rows are there and whole; else ValueError naming one."""
        spans = self.spans()
        expected, end = [], 0
        for span in [*spans, (used, used)]:
            if span[0] > end:
                expected.append((end, span[0]))  # rows of which the file is missing
            expected.append(span)
            end = max(end, span[1])
        for first, end in expected:
            if end > first:
                side = self.settings["size"]
                mapped.check(self.file(first, end), (end - first, side, side))
        return spans

    def fill(self, wanted: dict[Entry, Any]) -> list[str]:
        """Decode what is missing of the wanted images (entry -> path).

        Returns a message for each image that cannot be read.
        """
        if wanted.keys() <= self.index().keys():
            return []
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._locked():
            index = self.index()  # another process may have decoded since
            missing = [item for item in wanted.items() if item[0] not in index]
            if not missing:
                return []
            self._recover()
            self.checked_spans(len(index))
            sources.fill(path for _, path in missing if isinstance(path, (str, os.PathLike)))
            self._reserve(len(index) + len(missing))
            failures = self._decode(missing, len(index))
        if failures:
            write_atomic(self.failures, "\n".join(failures) + "\n")
        return failures

    def _locked(self) -> contextlib.AbstractContextManager[None]:
        """Alone in this folder; a long wait is announced."""
        lock = self.folder.with_name(self.folder.name + ".lock")
        writer = f"the process that decodes into {self.folder}"
        return announced_lock(lock, writer, stacklevel=5, patience=PATIENCE)

    def _recover(self) -> None:
        """Remove what a killed process, or the last call, has left behind."""
        write_json(self.folder / "settings.json", self.settings)
        self.failures.unlink(missing_ok=True)
        if self.index_file.exists():
            whole = self.index_file.read_bytes().rfind(b"\n") + 1
            os.truncate(self.index_file, whole)

    def _reserve(self, rows: int) -> None:
        """Take the room on the disk for as many rows, before any page of them is touched."""
        spans = self.spans()
        have = spans[-1][1] if spans else 0
        if rows > have:
            part = self.folder / "new-images.npy"
            side = self.settings["size"]
            mapped.begin(part, (rows - have, side, side))
            os.replace(part, self.file(have, rows))

    def _decode(self, missing: list[tuple[Entry, Any]], first: int) -> list[str]:
        """Decode images into the rows from `first` on; returns what cannot be read."""

        def attempt(path: Any) -> np.ndarray | ImageError:
            try:
                return self.decode(path)
            except ImageError as error:
                return error

        arrays = {
            range(start, end): mapped.open_array(self.file(start, end), "r+")
            for start, end in self.spans()
            if end > first
        }
        title = f"{self.settings['kind']}, {self.settings['dataset']}"
        row, failures = first, []
        with (
            ThreadPoolExecutor(cpus()) as pool,
            tqdm(total=len(missing), desc=title, disable=None) as bar,
        ):
            for start in range(0, len(missing), CHUNK):
                chunk = missing[start : start + CHUNK]
                entered = []
                found = pool.map(attempt, [path for _, path in chunk])
                for (entry, _), pixels in zip(chunk, found, strict=True):
                    if isinstance(pixels, ImageError):
                        failures.append(str(pixels))
                        continue
                    rows = next(rows for rows in arrays if row in rows)
                    arrays[rows][row - rows.start] = pixels
                    entered.append(entry)
                    row += 1
                for array in arrays.values():
                    array.flush()
                self._enter(entered)  # after the pixels: what the index names must be there
                bar.update(len(chunk))
        return failures

    def _enter(self, entries: list[Entry]) -> None:
        """Append rows to the index."""
        lines = "".join(json.dumps(entry) + "\n" for entry in entries)
        with open(self.index_file, "ab") as f:
            f.write(lines.encode())
            f.flush()
            os.fsync(f.fileno())
