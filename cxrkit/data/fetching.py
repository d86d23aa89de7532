"""The public images of a dataset: fetched from their addresses or a mirror, verified, prepared."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable, Iterator, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

import cv2
import numpy as np
import pandas as pd
import requests
from tqdm import tqdm

from cxrkit.data import manifests, schema
from cxrkit.data.downloads import SCHEMES, FetchError, Unreachable, accept, download, sha256
from cxrkit.data.sources import parse
from cxrkit.data.tables import SHOWN
from cxrkit.storage.atomic import read_json, write_atomic, write_json
from cxrkit.storage.locations import data_root

# code -> longest side in px, 0 = kept; None = untouched
PREPARE = {"": None, "grey": 0, "640": 640, "512": 512}
# in a fetched folder: path -> sha256 of files prepared here, since encoders differ in their bytes
RECORD = "prepared.json"

Row = dict[str, Any]  # of the table that `plan` gives


def prepare(data: bytes, how: str) -> bytes:
    """A public image as the kit keeps it: shrunk by area average, 8-bit grey, JPEG quality 90.

    Args:
        data: bytes of the public file.
        how: key of PREPARE, which gives the longest side.

    Returns:
        Bytes of the JPEG.

    Raises:
        FetchError: the bytes are no image.
    """
    image = cv2.imdecode(
        np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE | cv2.IMREAD_IGNORE_ORIENTATION
    )
    if image is None:
        raise FetchError("not an image that OpenCV reads")
    longest = PREPARE[how]
    h, w = image.shape
    if longest and max(h, w) > longest:
        scale = longest / max(h, w)
        size = round(w * scale), round(h * scale)
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()


def prepare_mask(
    data: bytes, shape: tuple[int, int], place: str, above: int | None = None
) -> bytes:
    """A public lung mask as the kit keeps it: 255 lung, 127 ignore, 0 else, in the image's shape.

    Args:
        data: bytes of the public file.
        shape: (H, W) of the image.
        place: "film", or "square" where it covers the image's centred square; outside of that
            nothing is known (127).
        above: where edges are grey: lung is what is brighter than this.

    Returns:
        Bytes of a PNG.

    Raises:
        FetchError: the bytes are no such mask.
    """
    mask = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
    if mask is not None and above is not None:
        mask = np.where(mask > above, 255, 0).astype(np.uint8)
    if mask is None or not np.isin(mask, (0, 127, 255)).all():
        raise FetchError("not a mask of 0, 127 and 255")
    h, w = shape
    if place == "film":
        whole = cv2.resize(mask, (w, h), interpolation=cv2.INTER_NEAREST)
    else:
        side = min(shape)
        top, left = (h - side) // 2, (w - side) // 2
        whole = np.full(shape, 127, np.uint8)
        square = cv2.resize(mask, (side, side), interpolation=cv2.INTER_NEAREST)
        whole[top : top + side, left : left + side] = square
    return cv2.imencode(".png", whole)[1].tobytes()


def plan(name: str) -> pd.DataFrame:
    """What has to be fetched of a public dataset.

    Args:
        name: of the dataset.

    Returns:
        `manifests.image_list` with blanks filled in, and `url`, `digest` (public sha256),
        `prepared`, `mask`, `mask_url`.

    Raises:
        ValueError: the dataset has no public images; the message says how to obtain it.
    """
    spec, table = schema.load(name), manifests.image_list(name)
    if table is None:
        raise ValueError(f"{name} cannot be fetched film by film. How to obtain it: {spec.obtain}")
    wanted = ["source", "source_path", "sha256_source", "prepared", "mask_id", "mask_sha256"]
    missing = [column for column in wanted if column not in table]
    table = table.reindex(columns=[*table, *missing]).astype(dict.fromkeys(wanted, object))
    table["source"] = table["source"].fillna(next(iter(spec.sources)))
    names = table["path"].map(lambda path: PurePosixPath(path).name)
    public = zip(table["source"], table["source_path"].fillna(names), strict=True)
    table["url"] = [_address(spec, source, path) for source, path in public]
    table["digest"] = table["sha256_source"].fillna(table["sha256"])
    table["prepared"] = table["prepared"].fillna("")
    table["bytes"] = table["bytes"].astype(int)
    masks = table["path"].map(lambda path: f"masks/{PurePosixPath(path).stem}.png")
    table["mask"] = masks.where(table["mask_id"].notna())
    table["mask_url"] = table["mask_id"].map(
        lambda i: _address(spec, _masks_of(spec).source, f"{i}.png"), na_action="ignore"
    )
    return table


def _masks_of(spec: schema.Manifest) -> schema.Masks:
    """Where the lung masks of a dataset lie, for a table that names some."""
    if spec.masks is None:
        raise ValueError(f"{spec.name}.json has no field masks, but its images have a mask_id")
    return spec.masks


def _address(spec: schema.Manifest, key: str, path: str) -> str:
    """Address of a public file; `key` names its source."""
    source = spec.sources[key]
    inside = f"{source.folder}/{path}".lstrip("/")
    return spec.address.format(repo=source.repo, commit=source.commit, path=quote(inside))


def announce(name: str, table: pd.DataFrame, mirror: str | os.PathLike | None) -> str:
    """The sentence shown before anything is fetched: how many files and bytes.

    Args:
        name: of the dataset.
        table: of what is missing, as `plan` gives it.
        mirror: folder that it comes from, if any; then all sizes are known.
    """
    known = table if mirror else table[table["prepared"] == ""]
    masks, unknown = int(table["mask"].notna().sum()), len(table) - len(known)
    size = known["bytes"].sum() / 1e6
    text = (
        f"{name}: {len(table)} films and {masks} masks to get, {size:.1f} MB in {len(known)} films"
    )
    if not mirror and unknown + masks:
        text += f"; {unknown} larger originals and {masks} masks are of unknown size"
    return text


@dataclass
class _Job:
    """One call of `fetch`: where files come from and go to, and what was learnt on the way."""

    spec: schema.Manifest
    folder: Path
    mirror: str | os.PathLike | None
    record: MutableMapping[str, str]  # path -> sha256 of what was prepared here
    connection: dict[str, Any]  # keyword arguments of `download`
    patience: int  # images without an answer, after which the others are not tried
    silent: list[str] = field(default_factory=list)  # images whose address did not answer


def fetch(
    name: str,
    root: str | os.PathLike | None = None,
    mirror: str | os.PathLike | None = None,
    jobs: int = 4,
    say: Callable[[str], Any] = print,
    schemes: tuple[str, ...] = SCHEMES,
    pause: float = 1.0,
) -> list[str]:
    """Get all images, masks and label files of a public dataset into <data root>/<name>.

    What is there and right stays. A file that failed leaves `.part` or `.bad` behind, never its own
    name.

    Args:
        name: of the dataset.
        root: folder of all datasets; default CXRKIT_DATA, else `data/` of the store.
        mirror: folder with <name>/..., verified by the prepared sha256, instead of the network.
        jobs: downloads at a time.
        say: called with the sentence of `announce`.
        schemes: of the addresses that are allowed.
        pause: seconds after the first failed try.

    Returns:
        One sentence for each failure.

    Raises:
        FetchError: the disk is too small.
    """
    spec, table, folder = schema.load(name), plan(name), data_root(root) / name
    folder.mkdir(parents=True, exist_ok=True)
    record = _read_record(folder)
    todo = table[[not _is_right(row, folder, record) for row in table.to_dict("records")]]
    say(announce(name, todo, mirror))
    _check_room(folder, int(todo["bytes"].sum() * (1.2 if mirror else 4)))
    connection = {"session": requests.Session(), "schemes": schemes, "pause": pause}
    job = _Job(spec, folder, mirror, record, connection, patience=jobs)
    try:
        with ThreadPoolExecutor(jobs) as pool:
            done = pool.map(lambda row: _get_image(job, row), todo.to_dict("records"))
            failures = [failure for failure in tqdm(done, name, len(todo), disable=None) if failure]
    finally:
        write_json(folder / RECORD, dict(record))
    return failures + _get_labels(job)


def _read_record(folder: Path) -> dict[str, str]:
    """Path -> sha256 of the files that were prepared here."""
    return read_json(folder / RECORD) if (folder / RECORD).exists() else {}


def _check_room(folder: Path, need: int) -> None:
    """Raise FetchError where the disk has less than `need` bytes free."""
    free = shutil.disk_usage(folder).free
    if need > free:
        raise FetchError(
            f"{folder}: about {need / 1e6:.0f} MB needed, {free / 1e6:.0f} MB free; set "
            "CXRKIT_DATA elsewhere"
        )


def _files(row: Row) -> Iterator[tuple[str, Any]]:
    """(path, sha256) of an image and of its mask, if it has one."""
    for path, digest in ((row["path"], row["sha256"]), (row["mask"], row["mask_sha256"])):
        if isinstance(path, str):
            yield path, digest


def _is_right(row: Row, folder: Path, record: MutableMapping[str, str]) -> bool:
    """Whether image and mask are there with the bytes of the manifest or of the record."""
    return all(
        (folder / path).exists() and sha256(folder / path) == record.get(path, digest)
        for path, digest in _files(row)
    )


def _get_image(job: _Job, row: Row) -> str | None:
    """Get one image and its mask; returns None, or the sentence of the failure."""
    if len(job.silent) >= job.patience:
        return f"{row['path']}: not tried, since the network does not answer; run again"
    try:
        if job.mirror:
            for path, digest in _files(row):
                _copy(Path(job.mirror) / job.spec.name / path, job.folder / path, digest)
                job.record.pop(path, None)
        else:
            _get_public(job, row)
    except (FetchError, OSError) as error:
        if isinstance(error, Unreachable):
            job.silent.append(row["path"])
        return f"{row['path']}: {error}" if row["path"] not in str(error) else str(error)
    return None


def _copy(source: Path, path: Path, digest: str | None) -> None:
    """Copy a file of the mirror, verified."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    if not source.exists():
        raise FetchError(f"{source} is not in the mirror")
    shutil.copyfile(source, part)
    accept(part, path, digest)


def _get_public(job: _Job, row: Row) -> None:
    """Image and mask from their public addresses, prepared where the manifest says so."""
    path, untouched = job.folder / row["path"], row["prepared"] == ""
    if not _is_right({**row, "mask": None}, job.folder, job.record):
        if untouched:
            download(row["url"], path, row["digest"], row["bytes"], **job.connection)
        else:
            original = path.with_name(path.name + ".source")
            download(row["url"], original, row["digest"], None, **job.connection)
            write_atomic(path, prepare(original.read_bytes(), row["prepared"]))
            original.unlink()
            job.record[row["path"]] = sha256(path)
    if isinstance(row["mask"], str):
        mask, original = job.folder / row["mask"], job.folder / (row["mask"] + ".source")
        download(row["mask_url"], original, **job.connection)
        image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        if image is None:
            raise FetchError(f"{path} is not an image")
        masks = _masks_of(job.spec)
        prepared = prepare_mask(original.read_bytes(), image.shape, masks.place, masks.above)
        write_atomic(mask, prepared)
        original.unlink()
        job.record[row["mask"]] = sha256(mask)


def _get_labels(job: _Job) -> list[str]:
    """Label files from the mirror, or from their public addresses; returns the failures.

    The addresses are pinned by commit; the sha256 is not always known.
    """
    failures = []
    for table in job.spec.tables:
        path = job.folder / table.file
        source = Path(job.mirror) / job.spec.name / table.file if job.mirror else None
        try:
            if source and source.exists():
                _copy(source, path, table.sha256)
            elif table.address and not job.mirror and not path.exists():
                download(table.address, path, table.sha256, **job.connection)
        except (FetchError, OSError) as error:
            failures.append(str(error))
    return failures


def verify(name: str, root: str | os.PathLike | None = None) -> tuple[list[str], pd.DataFrame]:
    """Check a copy of a dataset.

    Images with a row in the manifest are hashed; of a full dataset the tables are counted, and
    every image and mask that they list must lie on the disk.

    Args:
        name: of the dataset.
        root: as for `read_manifest`.

    Returns:
        Problems, each naming its file; and counts: found, expected, paper, difference.
    """
    spec, folder = schema.load(name), manifests.folder_of(name, root)
    fetched = manifests.image_list(name) is not None
    table = manifests.numbered_rows(name, root)
    problems = _wrong_files(name, folder) if fetched else missing_files(table, folder)
    found = manifests.counts(table, spec.expected or {"films": 0, "groups": 0})
    expected = {what: _nearest(found[what], right) for what, right in spec.expected.items()}
    counts = pd.DataFrame(
        {"found": found, "expected": expected, "paper": spec.paper}, dtype="Int64"
    )
    counts["paper - expected"] = counts["paper"] - counts["expected"]
    wrong = counts[(counts["found"] != counts["expected"]).fillna(False)]
    for what, row in wrong.iterrows():
        problems.append(f"{name}: {what}: {row['found']} found, {row['expected']} expected")
    return problems, counts


def missing_files(table: pd.DataFrame, folder: Path) -> list[str]:
    """A sentence for each image or mask that a table lists and that is missing or empty.

    Args:
        table: of `manifests.numbered_rows`.
        folder: of the dataset.

    Returns:
        The first 20 of each column, with the row, and how many more there are.
    """
    problems, lying = [], {}
    for column in ("path", "lung_mask", "lesion_mask"):
        listed = table.loc[table[column].notna(), ["_file", "_row", column]]
        listed = listed[np.array([not parse(path).scheme for path in listed[column]], bool)]
        with ThreadPoolExecutor(8) as pool:  # a network share answers slowly
            wrong = list(pool.map(_no_file, listed[column], chunksize=256))
        bad = listed.assign(wrong=wrong)
        bad = bad[bad["wrong"] != ""]
        if len(bad) and not lying:
            lying = _files_by_name(folder)
        for file, row, path, what in bad.head(SHOWN).itertuples(index=False):
            near = lying.get(PurePosixPath(path).name.casefold(), "")
            hint = f"; there is {near}" * (bool(near) and near != path)
            problems.append(f"{file}, row {row}, column {column}: {path}: {what}{hint}")
        if len(bad) > SHOWN:
            more, count = len(bad) - SHOWN, len(listed)
            problems.append(f"column {column}: and {more} more of {count} files, {len(bad)} in all")
    return problems


def _no_file(path: str) -> str:
    """What is wrong with a file: blank, "no such file", "an empty file", "a folder"."""
    try:
        found = os.stat(parse(path).file)
    except (OSError, ValueError):
        return "no such file"
    if stat.S_ISDIR(found.st_mode):
        return "a folder, no image"
    return "" if found.st_size else "an empty file"


def _files_by_name(folder: Path) -> dict[str, str]:
    """Lower-case name -> one path of the files below a folder, to say where a lost one may be."""
    found = {}
    for home, _, names in os.walk(folder):
        for name in names:
            found.setdefault(name.casefold(), os.path.join(home, name))
    return found


def _nearest(found: int, right: int | list[int]) -> int:
    """The expected count; of those of several releases the one nearest to what was found."""
    return right if isinstance(right, int) else min(right, key=lambda count: abs(count - found))


def _wrong_files(name: str, folder: Path) -> list[str]:
    """A sentence for each image or mask that is missing or has other bytes than expected."""
    record = _read_record(folder)
    problems = []
    for row in tqdm(plan(name).to_dict("records"), name, disable=None):
        for path, digest in _files(row):
            file = folder / path
            if not file.exists():
                problems.append(f"{file}: missing; run: cxrkit data fetch {name}")
            elif sha256(file) != record.get(path, digest):
                problems.append(
                    f"{file}: sha256 differs from the manifest; delete it and fetch again"
                )
    return problems
