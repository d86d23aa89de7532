"""Data: tables of films -> tensors. Decoded, preprocessed films are kept as one uint8 array on
disk, so no epoch decodes again.

B batch, S image size, K findings.
"""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler
from tqdm import tqdm

from cxrkit import mapped, preprocess, severity
from cxrkit.artifacts import Store, write_atomic
from cxrkit.choices import Choices
from cxrkit.images import Image, ImageError, load_image, load_images
from cxrkit.schema import BRIXIA, DIAGNOSES, FINDINGS, ZONES, known

__all__ = [
    "CXRDataset",
    "Image",
    "ImageError",
    "arrays",
    "augment",
    "cached",
    "load_image",
    "load_images",
    "load_mask",
    "make_loader",
    "parts",
]

IGNORE = 127  # in a lung mask: nobody has drawn here; loss and metric leave it out
CHUNK = 64  # films between two notes of how far the cache is


def load_mask(path, kind="lungs"):
    """Mask file, virtual patient or row of a drawn cohort -> uint8 (H, W) of 0, 127 (ignore), 255;
    `kind` "lungs" or "lesion".

    Raises ImageError naming the file for anything else.
    """
    if str(path).startswith("virtual://"):
        from cxrkit import cohort

        patient = cohort.from_url(str(path))
        inside = patient.lesion if kind == "lesion" else patient.lungs[0] | patient.lungs[1]
        return np.where(inside, 255, 0).astype(np.uint8)
    folder, _, row = str(path).rpartition("#")
    if row.isdigit() and folder.endswith((f"{os.sep}lungs", f"{os.sep}lesion")):
        return _drawn(Path(folder), int(row))
    # the segmenter's masks; one may be empty, which `load_image` takes for damage
    if row.isdigit() and folder.endswith(".npy"):
        return np.load(folder, mmap_mode="r")[int(row)]
    mask = load_image(path, empty=True).pixels  # a mask of the lesions of a normal film
    if not np.isin(mask, (0, 1, IGNORE, 255)).all():
        raise ImageError(
            f"{path}: a mask holds 0, 127 (ignore) and 255 (or 1), not "
            f"{np.unique(mask)[:6].tolist()}"
        )
    return mask if mask.max() > 1 else mask * np.uint8(255)


def _drawn(stack, row):
    """Row of `lungs` or `lesion` in a cohort's folder: one bit a pixel, right and left lung apart
    (see `films`).
    """
    from cxrkit import films

    side = np.load(stack.with_name("images.npy"), mmap_mode="r").shape[-1]
    names = ("right", "left") if stack.name == "lungs" else (stack.name,)
    bits = np.bitwise_or.reduce(
        [np.load(stack.with_name(f"{name}.npy"), mmap_mode="r")[row] for name in names]
    )
    return films.unpack(bits, side) * np.uint8(255)


def _mask(path, size, choices, kind):
    if not isinstance(path, str):
        return np.full((size, size), IGNORE, np.uint8)  # nobody has drawn this film
    mask = load_mask(path, kind)
    if choices.resize == "plain":
        return cv2.resize(mask, (size, size), interpolation=cv2.INTER_NEAREST)
    return letterbox(mask, size)


def letterbox(mask, size):
    """Mask (H, W) -> (size, size) as `preprocess.resize` "pad" places the film: aspect kept, the
    rest is IGNORE.
    """
    h, w = (max(1, round(side * size / max(mask.shape))) for side in mask.shape)
    inner = cv2.resize(mask, (w, h), interpolation=cv2.INTER_NEAREST)
    return cv2.copyMakeBorder(inner, 0, size - h, 0, size - w, cv2.BORDER_CONSTANT, value=IGNORE)


READ = {  # what the cache can hold: path, size, choices -> uint8 (S, S)
    "film": lambda path, size, choices: preprocess.prepare(load_image(path).pixels, size, choices),
    # segmenter
    "grey": lambda path, size, choices: preprocess.resize(
        preprocess.to_uint8(load_image(path).pixels), size
    ),
    "lungs": lambda path, size, choices: _mask(path, size, choices, "lungs"),
    "lesion": lambda path, size, choices: _mask(path, size, choices, "lesion"),
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


def parts(table):
    """A table with `split` and `external` -> {"train", "val", "test", "external"}: external sites
    are in none of the others.
    """
    inside = ~table["external"].astype(bool)
    return {
        **{
            name: table[inside & (table["split"] == name)].reset_index(drop=True)
            for name in ("train", "val", "test")
        },
        "external": table[~inside].reset_index(drop=True),
    }


def unseen(table):
    """The films of hospitals never seen, or, where there are none, those of the test split."""
    outside = table["external"].astype(bool)
    return table[outside if outside.any() else table["split"] == "test"].reset_index(drop=True)


def arrays(table, choices=Choices()):
    """Severity truth of a table: float32 (N, 3, 2) of 0/1, NaN where unknown; from the zones, else
    from the Brixia scores.
    """
    zones = table[list(ZONES)].to_numpy(np.float32)
    given = np.stack([zones[:, :3], zones[:, 3:]], -1)  # (N, 3, 2), column 0 = patient's right
    scored = severity.brixia_to_array(
        table[list(BRIXIA)].to_numpy(np.float32), choices.brixia_threshold
    )
    both = np.where(np.isnan(given), scored, given).astype(np.float32)
    return both if choices.array_columns == "patient_right" else both[:, :, ::-1].copy()


def _affine(size, flip, generator):
    """Random 2x3 matrix about the centre (+-15 deg, 5 % shift, 0.95-1.05 scale) and whether to flip
    (chance `flip`).
    """
    angle, across, down, scale, coin = (
        2 * torch.rand(5, generator=generator, dtype=torch.float64) - 1
    ).tolist()
    centre = (size - 1) / 2
    matrix = cv2.getRotationMatrix2D((centre, centre), 15 * angle, 1 + 0.05 * scale)
    matrix[:, 2] += 0.05 * size * across, 0.05 * size * down
    return matrix, (coin + 1) / 2 < flip


def _shift(size, flip, generator):
    """Random whole pixels (5 % of the size at most) and whether to flip: no grey value is
    interpolated, so thin lines stay sharp.
    """
    across, down, coin = torch.rand(3, generator=generator, dtype=torch.float64).tolist()
    x, y = (round((2 * u - 1) * 0.05 * size) for u in (across, down))
    return np.float64([[1, 0, x], [0, 1, y]]), coin < flip


AUGMENT = {"affine": _affine, "shift": _shift, "none": lambda size, flip, generator: (None, False)}


def augment(image, mask=None, how="affine", flip=0.2, generator=None):
    """Random copy of uint8 (S, S) and its mask -> (image, mask, flipped); outside the film 128,
    outside the mask 127.

    `generator`: torch.Generator, else torch's own (which `train.fit` seeds by the position in the
    stream).
    """
    matrix, flipped = AUGMENT[known(how, AUGMENT, "augmentation")](image.shape[0], flip, generator)
    turn = (lambda a: a[:, ::-1]) if flipped else (lambda a: a)
    if matrix is not None:
        image = cv2.warpAffine(
            image, matrix, image.shape[::-1], flags=cv2.INTER_LINEAR, borderValue=preprocess.GREY
        )
        if mask is not None:
            mask = cv2.warpAffine(
                mask, matrix, mask.shape[::-1], flags=cv2.INTER_NEAREST, borderValue=IGNORE
            )
    return turn(image), mask if mask is None else turn(mask), flipped


class CXRDataset(Dataset):
    """Films of a table (`manifest.read`) with what is known of them, from the image cache.

    `dataset[i]` -> dict: image (1, S, S) float32; findings (K,), NaN unknown; diagnosis, -1
    unknown; array (3, 2), NaN unknown; index; with `masks` also lung_mask (S, S) uint8 of 0, 127,
    255. `train` augments by choices.augmentation; a flip swaps the columns of the array. `kind`
    "grey" gives the segmenter's input: plain resize, [-1, 1].
    """

    def __init__(
        self,
        table,
        size=512,
        choices=Choices(),
        train=False,
        flip=0.2,
        masks=False,
        kind="film",
        store=None,
    ):
        self.size, self.choices, self.kind, self.flip = size, choices, kind, flip
        self.how = choices.augmentation if train else "none"
        self.files = [cached(table["path"], size, choices, kind, store)]
        if masks:
            self.files.append(
                cached(
                    table["lung_mask"],
                    size,
                    Choices() if kind == "grey" else choices,
                    "lungs",
                    store,
                )
            )
        self.findings = torch.tensor(table[list(FINDINGS)].to_numpy(np.float32))
        codes = {name: code for code, name in enumerate(DIAGNOSES)}
        self.diagnosis = torch.tensor([codes.get(name, -1) for name in table["diagnosis"]])
        self.arrays = torch.tensor(arrays(table, choices))
        self._open = None

    def __len__(self):
        return len(self.findings)

    def __getstate__(self):
        # a worker opens the files itself instead of receiving a copy of them
        return {**vars(self), "_open": None}

    def pixels(self, i):
        """[uint8 (S, S) of film i, and its mask]."""
        self._open = self._open or [np.load(file, mmap_mode="r") for file in self.files]
        return [np.asarray(array[i]) for array in self._open]

    def __getitem__(self, item):
        return {name: values[0] for name, values in self.batch([item]).items()}

    def batch(self, items):
        """The films `items`, each an index or (index, seed of its augmentation) -> dict of tensors
        (B, ...).
        """
        films, masks, flips = [], [], []
        for item in items:
            i, seed = item if isinstance(item, tuple) else (item, None)
            generator = None if seed is None else torch.Generator().manual_seed(seed)
            film, mask, flipped = augment(
                *self.pixels(i), how=self.how, flip=self.flip, generator=generator
            )
            films.append(film)
            masks += [] if mask is None else [mask]
            flips.append(flipped)
        at = torch.tensor([item[0] if isinstance(item, tuple) else item for item in items])
        # (B, 3, 2)
        array = torch.where(
            torch.tensor(flips)[:, None, None], self.arrays[at].flip(-1), self.arrays[at]
        )
        labels = {
            "findings": self.findings[at],
            "diagnosis": self.diagnosis[at],
            "array": array,
            "index": at,
        }
        out = {"image": self._scaled(films), **labels}
        return {**out, "lung_mask": torch.from_numpy(np.stack(masks))} if masks else out

    __getitems__ = batch  # a DataLoader asks for whole batches by this name

    def _scaled(self, films):
        """List of uint8 (S, S) -> (B, 1, S, S) float32 as the network sees them."""
        how = "signed" if self.kind == "grey" else self.choices.normalize
        out = np.empty((len(films), 1, self.size, self.size), np.float32)
        for row, film in zip(out, films):
            preprocess.normalize(film, how, out=row[0])
        return torch.from_numpy(out)


class Draws(Sampler):
    """(index, seed) pairs, shuffled: the seed makes a film's augmentation the same whichever worker
    does it.
    """

    def __init__(self, n, generator):
        self.n, self.generator = n, generator

    def __len__(self):
        return self.n

    def __iter__(self):
        order = torch.randperm(self.n, generator=self.generator).tolist()
        return iter(zip(order, torch.randint(2**31, (self.n,), generator=self.generator).tolist()))


def make_loader(dataset, batch=16, generator=None, workers=0):
    """DataLoader of a CXRDataset: in order, or, with a torch.Generator, shuffled and augmented in a
    way that it alone decides.

    Keep workers=0 in notebooks. For training, `train.fit` takes the dataset itself.
    """
    sampler = None if generator is None else Draws(len(dataset), generator)
    return DataLoader(
        dataset,
        batch,
        sampler=sampler,
        num_workers=workers,
        persistent_workers=workers > 0,
        collate_fn=_whole,
    )


def _whole(batch):
    return batch  # CXRDataset.batch has put it together
