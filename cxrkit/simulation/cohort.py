"""Cohorts: films of the virtual hospitals drawn to disk, and read back.

A folder holds `images.npy` uint8 (N, S, S); `right.npy`, `left.npy` and `lesion.npy`, one bit a
pixel, (N, S*S/8); and `films.csv`, the manifest with one row a film: path `images.npy#<row>`,
labels, split, and `url`, which makes the film again. The stacks are memory-mapped. Every film is a
pure function of its url. Therefore films can be drawn in any order by any number of processes, and
an interrupted run goes on where it was.

N films, S film size in px.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import joblib
import numpy as np
import pandas as pd
import psutil
from tqdm.auto import tqdm

from cxrkit.config.vocabulary import FINDINGS, SECOND, ZONES
from cxrkit.simulation.hospital import SITES, WARDS, Hospital, Patient
from cxrkit.simulation.workers import end_workers, start_worker
from cxrkit.storage import mapped
from cxrkit.storage.atomic import temporary, write_atomic, write_json

if TYPE_CHECKING:
    from cxrkit.config.sections import CohortSettings

SITE_WEIGHTS = {"internal": 2, "external": 1}  # films that a site gives, in proportion
# bytes that must be free for each process that draws, with three atlases and torch
BYTES_PER_WORKER = 1.7e9
MASKS = ("right", "left", "lesion")
STACKS = ("images", *MASKS)


def plan_cohort(settings: CohortSettings, seed: int) -> pd.DataFrame:
    """List the films to draw.

    Args:
        settings: number of films of each ward, which the sites share by SITE_WEIGHTS.
        seed: of the hospitals.

    Returns:
        One row a film: site, ward, index, n, body, view. It is sorted by anatomy and view, so that
        each is projected once.
    """
    weights = np.array([SITE_WEIGHTS[site.role] for site in SITES.values()], float)
    shares = np.cumsum(weights) / weights.sum()  # of the films up to and including a site
    rows = []
    for ward in WARDS:
        ends = np.round(np.concatenate([[0], shares * getattr(settings, ward)]))
        counts = np.diff(ends).astype(int)
        for site, n in zip(SITES, counts, strict=True):
            hospital = ward_of(site, ward, int(n), settings, seed)
            for i in range(n):
                patient, _ = hospital.patient_of(i)
                body = hospital.body_of(patient)
                rows.append((site, ward, i, int(n), body, hospital.view_of(i)))
    table = pd.DataFrame(rows, columns=["site", "ward", "index", "n", "body", "view"])
    order = ["site", "body", "view", "ward", "index"]
    return table.sort_values(order, kind="stable").reset_index(drop=True)


def ward_of(site: str, ward: str, n: int, settings: CohortSettings, seed: int) -> Hospital:
    """A ward of `n` films with the size, confounding and arrangement of a cohort."""
    return Hospital(
        site, seed, settings.rho, ward, n, settings.size, settings.arrangement, settings.places
    )


def _row(patient: Patient, url: str, ward: str) -> dict[str, Any]:
    """One line of films.csv."""
    # the right column first, top to bottom
    zones = {zone: int(v) for zone, v in zip(ZONES, patient.array.T.ravel(), strict=True)}
    second = {zone: int(v) for zone, v in zip(SECOND, patient.second.T.ravel(), strict=True)}
    top, left, bottom, right = patient.marker_box
    return {
        "site": patient.site,
        "patient_id": patient.patient_id,
        "group_id": patient.group_id,
        "view": patient.view,
        "split": patient.split,
        "diagnosis": patient.diagnosis,
        **patient.findings,
        **zones,
        **second,
        "severity": patient.severity,
        "visit": patient.visit,
        "ward": ward,
        "external": int(SITES[patient.site].role == "external"),
        "marker": patient.marker,
        "marker_top": top,
        "marker_left": left,
        "marker_bottom": bottom,
        "marker_right": right,
        "url": url,
    }


def _draw_chunk(chunk: Path, rows: pd.DataFrame, settings: CohortSettings, seed: int) -> int:
    """Draw the films of one anatomy into `chunk` (.npz) and give their number.

    Runs in a worker process. A chunk that is there already is not drawn again.
    """
    import cv2

    cv2.setNumThreads(1)
    if chunk.exists():
        return len(rows)
    stacks = {name: [] for name in STACKS}
    lines = []
    for row in rows.itertuples():
        hospital = ward_of(row.site, row.ward, row.n, settings, seed)
        patient = hospital[row.index]
        right, left = patient.lungs
        stacks["images"].append(patient.image)
        stacks["right"].append(right)
        stacks["left"].append(left)
        stacks["lesion"].append(patient.lesion)
        lines.append(_row(patient, hospital.url(row.index), row.ward))
    packed = {"images": np.stack(stacks["images"])}  # (n, S, S)
    for name in MASKS:
        bits = np.stack(stacks[name]).reshape(len(rows), -1)  # (n, S*S)
        packed[name] = np.packbits(bits, axis=1)  # (n, S*S/8)
    part = temporary(chunk)
    with open(part, "wb") as file:
        np.savez(file, **packed)
    pd.DataFrame(lines).to_csv(chunk.with_suffix(".csv"), index=False)
    os.replace(part, chunk)
    return len(rows)


def available_memory(cgroup: str | Path = "/sys/fs/cgroup") -> int:
    """Memory that may still be taken, of the machine or of the container.

    The least counts: free memory of the machine, cgroup 2 or 1, and JupyterHub's MEM_LIMIT.

    Args:
        cgroup: folder of the control group.

    Returns:
        Bytes.
    """
    available = [psutil.virtual_memory().available]
    hub_limit = os.environ.get("MEM_LIMIT", "")
    if hub_limit.isdigit():
        available.append(int(hub_limit) - psutil.Process().memory_info().rss)
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        try:
            limit_bytes = int((Path(cgroup) / limit).read_text())
            used_bytes = int((Path(cgroup) / used).read_text())
        except (OSError, ValueError):  # no such file, or "max": no limit
            continue
        available.append(limit_bytes - used_bytes)
    return max(min(available), 0)


def draw_cohort(
    folder: str | Path, settings: CohortSettings, seed: int, workers: int | None = None
) -> None:
    """Draw a cohort to disk and show the progress; after an interruption, the next call goes on.

    Args:
        folder: where the stacks and films.csv go.
        settings: number and size of the films.
        seed: of the hospitals.
        workers: number of processes; by default as many as there are cores and as fit into
            `available_memory`. A single one is this process itself.
    """
    folder = Path(folder)
    (folder / "chunks").mkdir(parents=True, exist_ok=True)
    groups = []
    for (site, body), rows in plan_cohort(settings, seed).groupby(["site", "body"]):
        groups.append((folder / "chunks" / f"{site}-{body:02d}.npz", rows))
    if not workers:
        fitting = int(available_memory() // BYTES_PER_WORKER)
        workers = max(1, min(os.cpu_count() or 1, len(groups), fitting))
    jobs = [joblib.delayed(_draw_chunk)(chunk, rows, settings, seed) for chunk, rows in groups]
    options = {}
    if workers > 1:
        options = {"initializer": start_worker, "initargs": (os.getpid(),)}
    parallel = joblib.Parallel(n_jobs=workers, return_as="generator_unordered", **options)
    total = sum(len(rows) for _, rows in groups)
    try:
        with tqdm(total=total, desc="virtual hospitals", unit="film") as bar:
            for n in parallel(jobs):
                bar.update(n)
    finally:
        if workers > 1:
            end_workers()
    _join([chunk for chunk, _ in groups], folder)


def _join(chunks: list[Path], folder: Path) -> None:
    """Write the stacks and films.csv from the chunks, and remove the chunks."""
    tables = [pd.read_csv(chunk.with_suffix(".csv")) for chunk in chunks]
    table = pd.concat(tables, ignore_index=True)
    N = len(table)
    table.insert(0, "path", [f"images.npy#{i}" for i in range(N)])
    for name in STACKS:
        _join_stack(chunks, name, folder / f"{name}.npy", N)
    table["lung_mask"] = [f"lungs#{i}" for i in range(N)]
    table["lesion_mask"] = [f"lesion#{i}" for i in range(N)]
    write_atomic(folder / "films.csv", table.to_csv(index=False))
    metrics = {
        "films": N,
        "patients": int(table["patient_id"].nunique()),
        "digest": cohort_digest(folder),
    }
    write_json(folder / "metrics.json", metrics)
    shutil.rmtree(folder / "chunks")


def _join_stack(chunks: list[Path], name: str, path: Path, total: int) -> None:
    """Write one stack of `total` films, chunk by chunk, so that it need not fit into memory."""
    mapped.write_parts(path, (_read_chunk(chunk, name) for chunk in chunks), total)


def _read_chunk(chunk: Path, name: str) -> np.ndarray:
    """One of the arrays of a chunk."""
    with np.load(chunk) as file:
        return file[name]


def cohort_digest(folder: str | Path) -> str:
    """Hash of the table and the ground truth of a drawn cohort.

    Grey values are left out, because they may differ by a level between machines.

    Args:
        folder: of the cohort.

    Returns:
        sha256, as hexadecimal digits.
    """
    sha = hashlib.sha256((Path(folder) / "films.csv").read_bytes())
    for name in MASKS:
        sha.update(np.load(Path(folder) / f"{name}.npy", mmap_mode="r"))
    return sha.hexdigest()


class Cohort:
    """A drawn cohort: `table`, `images` uint8 (N, S, S) memory-mapped, and the truth by row.

    The methods take a row number, or an array of them that gives their result a first axis.

    Args:
        folder: where `draw_cohort` wrote it.

    Raises:
        FileNotFoundError: naming what draws it, if the folder is not there.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if not (self.folder / "films.csv").exists():
            raise FileNotFoundError(
                f"{self.folder} holds no drawn cohort: cxrkit.Run(profile).cohort draws it"
            )
        self.table = pd.read_csv(self.folder / "films.csv")
        self.images = np.load(self.folder / "images.npy", mmap_mode="r")
        self._bits = {}
        for name in MASKS:
            self._bits[name] = np.load(self.folder / f"{name}.npy", mmap_mode="r")

    def __len__(self) -> int:
        return len(self.table)

    def _mask(self, name: str, rows: int | np.ndarray) -> np.ndarray:
        return mapped.unpack(self._bits[name][rows], self.images.shape[-1]).astype(bool)

    def lungs(self, rows: int | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Right and left lung, bool (..., S, S) each."""
        return self._mask("right", rows), self._mask("left", rows)

    def lesion(self, rows: int | np.ndarray) -> np.ndarray:
        """Lesion mask, bool (..., S, S)."""
        return self._mask("lesion", rows)

    def findings(self, rows: int | np.ndarray) -> np.ndarray:
        """The ten findings, float32 (..., 10) of 0/1."""
        return self.table.loc[rows, list(FINDINGS)].to_numpy(np.float32)

    def arrays(self, rows: int | np.ndarray) -> np.ndarray:
        """Severity arrays, float32 (..., 3, 2)."""
        flat = self.table.loc[rows, list(ZONES)].to_numpy(np.float32)  # (..., 6)
        return np.stack([flat[..., :3], flat[..., 3:]], axis=-1)  # (..., 3, 2)
