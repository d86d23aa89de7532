"""Data: tables of films -> tensors. Decoded, preprocessed films are kept as one uint8 array on
disk, so no epoch decodes again.

B batch, S image size, K findings.
"""

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from cxrkit.config.choices import Choices
from cxrkit.config.vocabulary import BRIXIA, DIAGNOSES, FINDINGS, ZONES
from cxrkit.data import lung_zones, preprocessing
from cxrkit.data.augmentation import augment
from cxrkit.data.cache import cached


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
    scored = lung_zones.brixia_to_array(
        table[list(BRIXIA)].to_numpy(np.float32), choices.brixia_threshold
    )
    both = np.where(np.isnan(given), scored, given).astype(np.float32)
    return both if choices.array_columns == "patient_right" else both[:, :, ::-1].copy()


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
            preprocessing.normalize(film, how, out=row[0])
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


def dataset(table, profile, store=None, augmented=False):
    """Films of a table as the backbone sees them."""
    return CXRDataset(table, profile.image_size, profile.choices, train=augmented, store=store)
