"""The image cache: decoded, preprocessed images as one uint8 array on disk, made once."""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tqdm import tqdm

from cxrkit.config.choices import Choices
from cxrkit.config.vocabulary import known
from cxrkit.data import preprocessing
from cxrkit.data.images import ImageError, load_image
from cxrkit.data.masks import fitted_mask
from cxrkit.storage import mapped
from cxrkit.storage.artifacts import Store
from cxrkit.storage.atomic import write_atomic

CHUNK = 64  # films between two notes of how far the cache is


READ = {  # what the cache can hold: path, size, choices -> uint8 (S, S)
    "film": lambda path, size, choices: preprocessing.prepare(
        load_image(path).pixels, size, choices
    ),
    # segmenter
    "grey": lambda path, size, choices: preprocessing.resize(
        preprocessing.to_uint8(load_image(path).pixels), size
    ),
    "lungs": lambda path, size, choices: fitted_mask(path, size, choices, "lungs"),
    "lesion": lambda path, size, choices: fitted_mask(path, size, choices, "lesion"),
}


def _settings(paths, size, choices, kind):
    """What the cached pixels depend on; a file changed on disk (size, time) counts as another file."""
    real = [str(p).rpartition(".npy#")[0] + ".npy" if ".npy#" in str(p) else p for p in paths]
    stats = [os.stat(p) if isinstance(p, str) and Path(p).is_file() else None for p in real]
    files = [[str(p), s and s.st_size, s and s.st_mtime_ns] for p, s in zip(paths, stats)]
    digest = hashlib.sha256(repr(files).encode()).hexdigest()
    return {
        "kind": kind,
        "size": size,
        "resize": choices.resize,
        "order": choices.order,
        "films": len(files),
        "files": digest,
    }


def cached(paths, size=512, choices=Choices(), kind="film", store=None):
    """All films at one size, uint8 (N, size, size), in one file of the store: made once, gone on
    with after a kill -> its path.

    `kind` is a key of READ. Raises ImageError listing every film that cannot be read, OSError
    before the start where the disk is full, ValueError where the finished file is not as it was
    made.
    """
    read, paths = READ[known(kind, READ, "kind of image")], list(paths)
    shape = len(paths), size, size

    def make(folder):
        file, note = folder / "images.npy", folder / "done.txt"
        done = int(note.read_text()) if note.exists() else 0
        array = mapped.begin(file, shape, mode="r+" if done else "w+")
        failures = []
        with (
            ThreadPoolExecutor(cpus()) as pool,
            tqdm(total=len(paths), desc=kind, disable=None) as bar,
        ):
            for start in range(done, len(paths), CHUNK):
                part = range(start, min(start + CHUNK, len(paths)))
                failures += [
                    f
                    for f in pool.map(
                        lambda i: _fill(array, i, read, paths[i], size, choices), part
                    )
                    if f
                ]
                bar.update(len(part))
                if not failures:
                    array.flush()
                    write_atomic(note, str(part.stop))
        if failures:
            # mended or dropped, they make another list of films, under another key: this file would
            # only fill the disk
            del array
            note.unlink(missing_ok=True)
            file.unlink()
            write_atomic(folder / "failures.txt", "\n".join(failures))
            listed = "\n  ".join(failures[:20])
            raise ImageError(
                f"{len(failures)} of {len(paths)} films cannot be read (all of them: "
                f"{folder / 'failures.txt'}); mend or drop "
                f"them:\n  {listed}"
            )

    done = (store or Store()).load_or_make(
        "images", _settings(paths, size, choices, kind), make
    ) / "images.npy"
    mapped.check(done, shape)
    return done


def cpus():
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _fill(array, i, read, path, size, choices):
    try:
        array[i] = read(path, size, choices)
    except ImageError as error:
        return str(error)
