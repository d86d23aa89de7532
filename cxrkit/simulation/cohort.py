"""Films: a cohort of the virtual hospitals drawn to disk, as memory-mapped stacks with one row a
film, and read back.

A folder holds `images.npy` uint8 (N, S, S); `right.npy`, `left.npy` and `lesion.npy`, one bit a
pixel, (N, S*S/8); and `films.csv`, the manifest: path `images.npy#<row>`, labels, split, and `url`,
which draws the film anew. Every film is a pure function of its url, so films can be drawn in any
order by any number of processes, and an interrupted drawing goes on where it was.
"""

import hashlib
import os
import shutil
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import psutil
from tqdm.auto import tqdm

from cxrkit.config.vocabulary import FINDINGS, ZONES
from cxrkit.simulation.hospital import SITES, WARDS, Hospital
from cxrkit.storage import mapped
from cxrkit.storage.atomic import write_atomic, write_json

SHARES = {"internal": 2, "external": 1}  # films that a site gives for one of the others
# bytes that must be free for each process that draws; one takes 0.98 GB, torch among it
WORKER = 1.2e9
STACKS = {"images": np.uint8, "right": bool, "left": bool, "lesion": bool}


def plan(cohort, seed):
    """The films to draw: DataFrame with site, ward, index and n, sorted by anatomy and view so that
    each is projected once.

    cohort: `profiles.Cohort`; every ward's number of films is divided over the sites by SHARES.
    """
    rows = []
    weights = np.array([SHARES[site.role] for site in SITES.values()], float)
    for ward in WARDS:
        total = getattr(cohort, ward)
        counts = np.diff(
            np.round(np.concatenate([[0], np.cumsum(weights) / weights.sum() * total]))
        ).astype(int)
        for site, n in zip(SITES, counts, strict=True):
            hospital = Hospital(site, seed, cohort.rho, ward, int(n), cohort.size)
            rows += [
                (
                    site,
                    ward,
                    i,
                    int(n),
                    hospital.body_of(hospital.patient_of(i)[0]),
                    hospital.view_of(i),
                )
                for i in range(n)
            ]
    table = pd.DataFrame(rows, columns=["site", "ward", "index", "n", "body", "view"])
    return table.sort_values(["site", "body", "view", "ward", "index"], kind="stable").reset_index(
        drop=True
    )


def _row(film, url, ward):
    """One line of films.csv."""
    # the right column first, top to bottom
    array = {zone: int(v) for zone, v in zip(ZONES, film.array.T.ravel(), strict=True)}
    top, left, bottom, right = film.marker_box
    return {
        "site": film.site,
        "patient_id": film.patient_id,
        "group_id": film.group_id,
        "view": film.view,
        "split": film.split,
        "diagnosis": film.diagnosis,
        **film.findings,
        **array,
        "severity": film.severity,
        "visit": film.visit,
        "ward": ward,
        "external": int(SITES[film.site].role == "external"),
        "marker": film.marker,
        "marker_top": top,
        "marker_left": left,
        "marker_bottom": bottom,
        "marker_right": right,
        "url": url,
    }


def _draw_chunk(chunk, rows, cohort, seed):
    """Draw the films of one anatomy into `chunk` (.npz), unless that was done before. Runs in a
    worker process.
    """
    import cv2

    cv2.setNumThreads(1)
    if chunk.exists():
        return len(rows)
    films, lines = [], []
    for row in rows.itertuples():
        hospital = Hospital(row.site, seed, cohort.rho, row.ward, row.n, cohort.size)
        film = hospital[row.index]
        films.append((film.image, *film.lungs, film.lesion))
        lines.append(_row(film, hospital.url(row.index), row.ward))
    stacks = {name: np.stack(s) for name, s in zip(STACKS, zip(*films, strict=True), strict=True)}
    packed = {
        name: s if name == "images" else np.packbits(s.reshape(len(s), -1), axis=1)
        for name, s in stacks.items()
    }
    part = chunk.with_suffix(f".{os.getpid()}.part")
    with open(part, "wb") as f:
        np.savez(f, **packed)
    pd.DataFrame(lines).to_csv(chunk.with_suffix(".csv"), index=False)
    os.replace(part, chunk)
    return len(rows)


def memory_left(cgroup="/sys/fs/cgroup"):
    """Bytes that may still be taken: of the machine, or of the container where that allows less
    (cgroup 2 or 1, JupyterHub's MEM_LIMIT).
    """
    left = [psutil.virtual_memory().available]
    if os.environ.get("MEM_LIMIT", "").isdigit():
        left.append(int(os.environ["MEM_LIMIT"]) - psutil.Process().memory_info().rss)
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        try:
            left.append(
                int((Path(cgroup) / limit).read_text()) - int((Path(cgroup) / used).read_text())
            )
        except (OSError, ValueError):  # no such file, or "max": no limit
            pass
    return max(min(left), 0)


def draw(folder, cohort, seed, workers=None):
    """Draw a cohort into `folder`; interrupted, it goes on at the next call. Shows progress.

    `workers` processes, by default as many as there are cores and as fit into `memory_left`; a
    single one is this process itself.
    """
    folder = Path(folder)
    (folder / "chunks").mkdir(parents=True, exist_ok=True)
    groups = [
        (folder / "chunks" / f"{site}-{body:02d}.npz", rows)
        for (site, body), rows in plan(cohort, seed).groupby(["site", "body"])
    ]
    workers = workers or max(1, min(os.cpu_count() or 1, len(groups), int(memory_left() // WORKER)))
    jobs = joblib.Parallel(n_jobs=workers, return_as="generator_unordered")(
        joblib.delayed(_draw_chunk)(chunk, rows, cohort, seed) for chunk, rows in groups
    )
    with tqdm(
        total=sum(len(rows) for _, rows in groups), desc="virtual hospitals", unit="film"
    ) as bar:
        for n in jobs:
            bar.update(n)
    _join([chunk for chunk, _ in groups], folder)


def _join(chunks, folder):
    """Chunks -> the stacks and films.csv, then the chunks go."""
    table = pd.concat(
        [pd.read_csv(chunk.with_suffix(".csv")) for chunk in chunks], ignore_index=True
    )
    table.insert(0, "path", [f"images.npy#{i}" for i in range(len(table))])
    for name in STACKS:
        stack = None
        row = 0
        for chunk in chunks:
            with np.load(chunk) as f:
                part = f[name]
            if stack is None:
                stack = np.lib.format.open_memmap(
                    folder / f"{name}.npy", "w+", part.dtype, (len(table), *part.shape[1:])
                )
            stack[row : row + len(part)] = part
            row += len(part)
        stack.flush()
    table["lung_mask"] = [f"lungs#{i}" for i in range(len(table))]
    table["lesion_mask"] = [f"lesion#{i}" for i in range(len(table))]
    write_atomic(folder / "films.csv", table.to_csv(index=False))
    write_json(
        folder / "metrics.json",
        {
            "films": len(table),
            "patients": int(table["patient_id"].nunique()),
            "digest": digest(folder),
        },
    )
    shutil.rmtree(folder / "chunks")


def digest(folder):
    """sha256 over the table and the truth (not the grey values, which may differ by a level between
    machines).
    """
    sha = hashlib.sha256((Path(folder) / "films.csv").read_bytes())
    for name in ("right", "left", "lesion"):
        sha.update(np.load(Path(folder) / f"{name}.npy", mmap_mode="r"))
    return sha.hexdigest()


class Films:
    """A drawn cohort: `table` (DataFrame), `images` uint8 (N, S, S) memory-mapped, and the truth by
    row.

    Raises FileNotFoundError that names the stage when the folder is not there.
    """

    def __init__(self, folder):
        self.folder = Path(folder)
        if not (self.folder / "films.csv").exists():
            raise FileNotFoundError(
                f"{self.folder} holds no drawn cohort: run stages.cohort(profile, store)"
            )
        self.table = pd.read_csv(self.folder / "films.csv")
        self.images = np.load(self.folder / "images.npy", mmap_mode="r")
        self._bits = {
            name: np.load(self.folder / f"{name}.npy", mmap_mode="r")
            for name in ("right", "left", "lesion")
        }

    def __len__(self):
        return len(self.table)

    def _mask(self, name, rows):
        return mapped.unpack(self._bits[name][rows], self.images.shape[-1]).astype(bool)

    def lungs(self, rows):
        """Right and left lung, bool (..., S, S) each, for a row number or an array of them."""
        return self._mask("right", rows), self._mask("left", rows)

    def lesion(self, rows):
        """Lesion extent, bool (..., S, S)."""
        return self._mask("lesion", rows)

    def findings(self, rows):
        """The ten findings, float32 (..., 10) of 0/1."""
        return self.table.loc[rows, list(FINDINGS)].to_numpy(np.float32)

    def arrays(self, rows):
        """Severity arrays, float32 (..., 3, 2)."""
        flat = self.table.loc[rows, list(ZONES)].to_numpy(np.float32)
        return np.stack([flat[..., :3], flat[..., 3:]], axis=-1)
