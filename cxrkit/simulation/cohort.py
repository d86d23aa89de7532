"""Cohorts: films of the virtual hospitals drawn to disk, and read back.

A folder holds `images.npy` uint8 (N, S, S); `right.npy`, `left.npy` and `lesion.npy`, one bit a
pixel, (N, S*S/8); and `films.csv`, the manifest with one row a film: path `images.npy#<row>`,
labels, split, and `url`, which makes the film again. The stacks are memory-mapped. Every film is a
pure function of its url. Therefore films can be drawn in any order by any number of processes, and
an interrupted run goes on where it was.

The labels need the drawn film, so a new cohort is drawn as a whole. Where its table is known, as
that of the demo which comes with the kit, each film is drawn when it is first asked for: the stacks
grow (`storage.growing`).

N films, S film size in px.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import TYPE_CHECKING, Any

import joblib
import numpy as np
import pandas as pd
import psutil
from numpy.typing import DTypeLike
from tqdm.auto import tqdm

from cxrkit.config.machine import cpus
from cxrkit.config.vocabulary import FINDINGS, SECOND, ZONES
from cxrkit.simulation.atlases import load_atlas
from cxrkit.simulation.hospital import (
    SITES,
    WARDS,
    Hospital,
    Patient,
    from_url,
    parse_url,
)
from cxrkit.simulation.workers import (
    end_workers,
    one_opencv_thread,
    return_memory,
    start_worker,
)
from cxrkit.storage import growing, mapped
from cxrkit.storage.atomic import write_atomic, write_json

if TYPE_CHECKING:
    from cxrkit.config.sections import CohortSettings

SITE_WEIGHTS = {"internal": 2, "external": 1}  # films that a site gives, in proportion
# bytes that must be free for each process that draws, with three atlases and torch
BYTES_PER_WORKER = 1.7e9
BYTES_PER_THREAD = 0.3e9  # the same for each thread of a process that draws already
MASKS = ("right", "left", "lesion")
STACKS = ("images", *MASKS)
TABLE = "films.csv.gz"  # of a packed cohort
MOST_THREADS = 4  # that draw in one process: more would wait for the interpreter
LONG = 20  # projected anatomies from which on the progress is shown ...
MANY = 200  # ... and from which on processes draw, if memory allows: each reads the CTs again
_loading = threading.Lock()


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


def drawn_row(url: str, ward: str) -> dict[str, Any]:
    """The line of films.csv of a film, which is drawn for it: its labels need the pixels.

    Args:
        url: that makes the film.
        ward: that it lies in.
    """
    _load_atlas_of(url)
    return _row(from_url(url), url, ward)


def _planned_rows(settings: CohortSettings, seed: int) -> pd.DataFrame:
    """The films of `plan_cohort` with their `row` in the stacks, and `url`, which makes them."""
    plan = plan_cohort(settings, seed)
    urls = []
    for row in plan.itertuples():
        hospital = ward_of(row.site, row.ward, row.n, settings, seed)
        urls.append(hospital.url(row.index))
    return plan.assign(row=np.arange(len(plan)), url=urls)


def _draw_rows(folder: Path, rows: pd.DataFrame, lines: Path | None = None) -> int:
    """Draw films of one anatomy into the stacks of a folder.

    Runs in a thread or in a worker process. Films that are there already are not drawn again.

    Args:
        folder: of the cohort, its stacks reserved.
        rows: `row`, `url` and `ward` of each.
        lines: file for their lines of the table; None where the table is there.

    Returns:
        Number of the films.
    """
    if not len(growing.missing(folder, rows["row"])):
        return len(rows)
    _load_atlas_of(rows["url"].iloc[0])
    stacks = {name: [] for name in STACKS}
    table = []
    for row in rows.itertuples():
        patient = from_url(row.url)
        right, left = patient.lungs
        stacks["images"].append(patient.image)
        for name, mask in (("right", right), ("left", left), ("lesion", patient.lesion)):
            stacks[name].append(np.packbits(mask))  # (S*S/8,)
        table.append(_row(patient, row.url, row.ward))
    if lines:  # before the films: what the stacks hold must have its lines
        write_atomic(lines, pd.DataFrame(table).to_csv(index=False))
    arrays = {f"{name}.npy": np.stack(stack) for name, stack in stacks.items()}
    growing.write(folder, list(rows["row"]), arrays)
    return len(rows)


def _load_atlas_of(url: str) -> None:
    """Read the CT behind a film; threads that need the same one read it once."""
    with _loading:
        load_atlas(_source_of(url))


def _source_of(url: str) -> str:
    """The CT that the anatomy of a film is bent from."""
    hospital, i = parse_url(url)
    patient, _ = hospital.patient_of(i)
    return hospital.source_of(hospital.body_of(patient))


def _reserve(folder: Path, total: int, size: int, whole: bool) -> None:
    """Make the stacks of a cohort, or check those that are there."""
    shapes = {"images.npy": (total, size, size)}
    shapes |= {f"{name}.npy": (total, size * size // 8) for name in MASKS}
    growing.reserve(folder, shapes, whole)


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
    lines = folder / "lines"
    lines.mkdir(parents=True, exist_ok=True)
    plan = _planned_rows(settings, seed)
    if not growing.grows(folder):
        growing.begin(folder, len(plan))
    _reserve(folder, len(plan), settings.size, whole=True)
    jobs, files = [], []
    for (site, body), group in plan.groupby(["site", "body"]):
        files.append(lines / f"{site}-{body:02d}.csv")
        jobs.append((folder, group, files[-1]))
    _draw_all(jobs, workers or fitting_workers(len(jobs)))
    _finish(folder, [pd.read_csv(file) for file in files])


def fitting_workers(jobs: int, bytes_each: float = BYTES_PER_WORKER) -> int:
    """Number of processes: at most one a job and a core, and as fit into memory; at least one.

    Args:
        jobs: what there is to do.
        bytes_each: memory of a process; by default of one that draws.
    """
    fitting = int(available_memory() // bytes_each)
    return max(1, min(os.cpu_count() or 1, jobs, fitting))


def _draw_all(jobs: list[tuple[Any, ...]], workers: int) -> None:
    """Let worker processes, or threads of this one, draw, and show the progress.

    Args:
        jobs: arguments of `_draw_rows`, a job an anatomy.
        workers: number of processes; with 1 this process draws, by as many threads as it has cores
            and as fit into `available_memory`.
    """
    pool = None
    if workers > 1:
        parallel = joblib.Parallel(
            workers,
            return_as="generator_unordered",
            initializer=start_worker,
            initargs=(os.getpid(),),
        )
        drawn = parallel(joblib.delayed(_draw_rows)(*job) for job in jobs)
    else:
        threads = min(cpus(), len(jobs), MOST_THREADS)
        fitting = int(available_memory() // BYTES_PER_THREAD)
        pool = ThreadPoolExecutor(max(1, min(threads, fitting)))
        futures = [pool.submit(_draw_rows, *job) for job in jobs]
        drawn = (future.result() for future in as_completed(futures))
    total = sum(len(rows) for _, rows, *_ in jobs)
    few = len(jobs) < LONG  # is done before anybody asks how far it is
    try:
        with (
            one_opencv_thread(),
            tqdm(total=total, desc="virtual hospitals", unit="film", disable=few) as bar,
        ):
            for n in drawn:
                bar.update(n)
    finally:
        if pool is None:
            end_workers()
        else:
            pool.shutdown(cancel_futures=True)
            return_memory()


def _finish(folder: Path, tables: list[pd.DataFrame]) -> None:
    """Write films.csv and metrics.json of a folder whose stacks are whole."""
    table = pd.concat(tables, ignore_index=True)
    N = len(table)
    table.insert(0, "path", [f"images.npy#{i}" for i in range(N)])
    table["lung_mask"] = [f"lungs#{i}" for i in range(N)]
    table["lesion_mask"] = [f"lesion#{i}" for i in range(N)]
    write_atomic(folder / "films.csv", table.to_csv(index=False))
    metrics = {
        "films": N,
        "patients": int(table["patient_id"].nunique()),
        "digest": cohort_digest(folder),
    }
    write_json(folder / "metrics.json", metrics)
    growing.finish(folder)
    shutil.rmtree(folder / "lines")


def pack_cohort(drawn: str | Path, folder: str | Path) -> None:
    """Write what tells the films of a drawn cohort: its table, compressed, and its numbers.

    Args:
        drawn: folder of the cohort.
        folder: where `films.csv.gz` and `metrics.json` go.

    Raises:
        ValueError: not all of its films are drawn.
    """
    drawn, folder = Path(drawn), Path(folder)
    if growing.grows(drawn):
        raise ValueError(
            f"{drawn} comes from a table of the kit, and draws films where they are asked for; "
            "draw all of them with CXRKIT_FRESH=1 in an empty store"
        )
    packed = gzip.compress((drawn / "films.csv").read_bytes(), mtime=0)  # the same on every day
    write_atomic(folder / TABLE, packed)
    write_atomic(folder / "metrics.json", (drawn / "metrics.json").read_bytes())


def unpack_cohort(packed: str | Path, folder: str | Path) -> None:
    """Begin a cohort of which no film is drawn yet: `fill` draws those that are asked for.

    Args:
        packed: where `pack_cohort` wrote it.
        folder: of the new cohort.
    """
    packed, folder = Path(packed), Path(folder)
    table = gzip.decompress((packed / TABLE).read_bytes())
    write_atomic(folder / "films.csv", table)
    write_atomic(folder / "metrics.json", (packed / "metrics.json").read_bytes())
    rows = pd.read_csv(folder / "films.csv")
    growing.begin(folder, len(rows))
    _reserve(folder, len(rows), _size_of(rows), whole=False)


def fill(folder: str | Path, rows: Sequence[int] | np.ndarray) -> None:
    """Draw those films of a cohort that are not drawn yet; anatomy by anatomy, all cores at once.

    After an interruption the next call goes on. Of several processes one draws, the others wait.

    Args:
        folder: of the cohort.
        rows: numbers of the films, (n,).

    Raises:
        ValueError: a stack is damaged.
        OSError: there is no room on the disk.
    """
    folder = Path(folder)
    if not len(growing.missing(folder, rows)):
        return
    with growing.locked(folder):
        needed = growing.missing(folder, rows)  # another process may have drawn since
        if not len(needed):
            return
        table = pd.read_csv(folder / "films.csv")
        _reserve(folder, len(table), _size_of(table), whole=False)
        asked = table.assign(row=np.arange(len(table))).loc[needed]
        groups = [group for _, group in asked.groupby(["group_id", "view"])]
        # of one CT after another: each is read once, and late where it is not needed
        groups.sort(key=lambda group: _source_of(group["url"].iloc[0]))
        jobs = [(folder, group[["row", "url", "ward"]]) for group in groups]
        _draw_all(jobs, fitting_workers(len(jobs)) if len(jobs) >= MANY else 1)


def _size_of(table: pd.DataFrame) -> int:
    """Side of the films of a table, px."""
    return parse_url(table["url"].iloc[0])[0].size


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
        sha.update(mapped.view(Path(folder) / f"{name}.npy"))
    return sha.hexdigest()


class Images:
    """The films of a cohort as an array uint8 (N, S, S) that is read by its first axis.

    Films that are not drawn yet are drawn when they are read: ask for many at once.
    """

    dtype = np.dtype(np.uint8)
    ndim = 3

    def __init__(self, folder: Path, shape: tuple[int, int, int]) -> None:
        self.folder, self.shape = folder, shape

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> np.ndarray:
        return _read(self.folder, "images", len(self), index)

    def __array__(self, dtype: DTypeLike = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[:], dtype)


def _read(folder: Path, name: str, total: int, index: Any) -> np.ndarray:
    """Part of a stack by an index of numpy, its films drawn."""
    first = index[0] if isinstance(index, tuple) else index
    fill(folder, np.arange(total)[first].ravel())
    return mapped.view(folder / f"{name}.npy")[index]


class Cohort:
    """A cohort: `table`, `images` uint8 (N, S, S), and the truth by row.

    The methods take a row number, or an array of them that gives their result a first axis. Where
    the table came with the kit, films are drawn when they are first asked for (`fill`).

    Args:
        folder: where `draw_cohort` or `unpack_cohort` wrote it.

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
        size = _size_of(self.table)
        self.images = Images(self.folder, (len(self.table), size, size))

    def __len__(self) -> int:
        return len(self.table)

    def _mask(self, name: str, rows: int | np.ndarray) -> np.ndarray:
        bits = _read(self.folder, name, len(self), rows)
        return mapped.unpack(bits, self.images.shape[-1]).astype(bool)

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
