"""Fetch: the public films of a dataset from their addresses or from a prepared mirror; said first,
verified, then prepared.
"""

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from urllib.parse import quote

import cv2
import numpy as np
import pandas as pd
import requests
from tqdm import tqdm

from cxrkit.data import manifests, schema
from cxrkit.data.download import SCHEMES, FetchError, Unreachable, accept, download, sha256
from cxrkit.storage.atomic import read_json, write_atomic, write_json

# code -> longest side in px, 0 = kept; None = untouched
PREPARE = {"": None, "grey": 0, "640": 640, "512": 512}
# in a fetched folder: path -> sha256 of files prepared here, since encoders differ in their bytes
RECORD = "prepared.json"


def prepare(data, how):
    """Bytes of a public film -> bytes of ours: longest side at most `PREPARE[how]` px (area
    average), 8-bit grey, JPEG q90.

    Raises FetchError when the bytes are no image.
    """
    image = cv2.imdecode(
        np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE | cv2.IMREAD_IGNORE_ORIENTATION
    )
    if image is None:
        raise FetchError("not an image that OpenCV reads")
    longest, (h, w) = PREPARE[how], image.shape
    if longest and max(h, w) > longest:
        scale = longest / max(h, w)
        image = cv2.resize(
            image, (round(w * scale), round(h * scale)), interpolation=cv2.INTER_AREA
        )
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()


def prepare_mask(data, shape, place):
    """Bytes of a public lung mask -> PNG bytes at the film's shape (H, W), nearest: 255 lung, 127
    ignore, 0 else.

    `place` "square": it was drawn on the film's centred square; outside that nothing is known
    (127).
    """
    mask = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
    if mask is None or not np.isin(mask, (0, 127, 255)).all():
        raise FetchError("not a mask of 0, 127 and 255")
    (h, w), side = shape, min(shape)
    if place == "film":
        return cv2.imencode(".png", cv2.resize(mask, (w, h), interpolation=cv2.INTER_NEAREST))[
            1
        ].tobytes()
    whole, top, left = np.full(shape, 127, np.uint8), (h - side) // 2, (w - side) // 2
    whole[top : top + side, left : left + side] = cv2.resize(
        mask, (side, side), interpolation=cv2.INTER_NEAREST
    )
    return cv2.imencode(".png", whole)[1].tobytes()


def plan(name):
    """Films of a public dataset with `url`, `digest` (public sha256), `prepared`, `mask`,
    `mask_url`; blanks filled in.

    Raises ValueError for a dataset without public films, saying how to obtain it.
    """
    spec, table = schema.load(name), manifests.films(name)
    if table is None:
        raise ValueError(f"{name} cannot be fetched film by film. How to obtain it: {spec.obtain}")
    wanted = ["source", "source_path", "sha256_source", "prepared", "mask_id", "mask_sha256"]
    table = table.reindex(columns=[*table, *(c for c in wanted if c not in table)]).astype(
        dict.fromkeys(wanted, object)
    )
    table["source"] = table["source"].fillna(next(iter(spec.sources)))
    inside = table["source_path"].fillna(table["path"].map(lambda path: PurePosixPath(path).name))
    table["url"] = [_address(spec, source, path) for source, path in zip(table["source"], inside)]
    table["digest"], table["prepared"] = (
        table["sha256_source"].fillna(table["sha256"]),
        table["prepared"].fillna(""),
    )
    table["bytes"] = table["bytes"].astype(int)
    table["mask"] = (
        table["path"]
        .map(lambda path: f"masks/{PurePosixPath(path).stem}.png")
        .where(table["mask_id"].notna())
    )
    table["mask_url"] = table["mask_id"].map(
        lambda i: _address(spec, spec.masks.source, f"{i}.png"), na_action="ignore"
    )
    return table


def _address(spec, key, path):
    source = spec.sources[key]
    return spec.address.format(
        repo=source.repo, commit=source.commit, path=quote(f"{source.folder}/{path}".lstrip("/"))
    )


def announce(name, table, mirror):
    """The sentence said before anything is fetched: how many files and bytes, and how many of
    unknown size.
    """
    known = table if mirror else table[table["prepared"] == ""]
    masks, unknown = int(table["mask"].notna().sum()), len(table) - len(known)
    later = (
        f"; {unknown} larger originals and {masks} masks are of unknown size"
        if not mirror and unknown + masks
        else ""
    )
    size = known["bytes"].sum() / 1e6
    return f"{name}: {len(table)} films and {masks} masks to get, {size:.1f} MB in {len(known)} films{later}"


def fetch(name, root=None, mirror=None, jobs=4, say=print, schemes=SCHEMES, pause=1.0):
    """Get all films, masks and label files of a public dataset into <data root>/<name>; what is
    there and right stays.

    `mirror`: folder with <name>/..., verified by the prepared sha256. Returns the list of failures,
    one sentence each; a file that failed leaves `.part` or `.bad` behind, never its own name.
    Raises FetchError when the disk is too small.
    """
    spec, table, folder = schema.load(name), plan(name), manifests.data_root(root) / name
    folder.mkdir(parents=True, exist_ok=True)
    record = read_json(folder / RECORD) if (folder / RECORD).exists() else {}
    todo = table[[not _right(row, folder, record) for row in table.to_dict("records")]]
    say(announce(name, todo, mirror))
    need, free = int(todo["bytes"].sum() * (1.2 if mirror else 4)), shutil.disk_usage(folder).free
    if need > free:
        raise FetchError(
            f"{folder}: about {need / 1e6:.0f} MB needed, {free / 1e6:.0f} MB free; set "
            "CXRKIT_DATA elsewhere"
        )
    how = {"session": requests.Session(), "schemes": schemes, "pause": pause}
    silent = []  # films whose address did not answer; after `jobs` of them the rest is not tried
    try:
        with ThreadPoolExecutor(jobs) as pool:
            done = pool.map(
                lambda row: _film(row, spec, folder, mirror, record, how, silent, jobs),
                todo.to_dict("records"),
            )
            failures = [failure for failure in tqdm(done, name, len(todo), disable=None) if failure]
    finally:
        write_json(folder / RECORD, dict(record))
    return failures + _labels(spec, folder, mirror, how)


def _right(row, folder, record):
    """Are film and mask there with the bytes that the manifest, or the record of our own
    preparation, says?
    """
    pairs = [(row["path"], row["sha256"]), (row["mask"], row["mask_sha256"])]
    return all(
        (folder / path).exists() and sha256(folder / path) == record.get(path, digest)
        for path, digest in pairs
        if isinstance(path, str)
    )


def _film(row, spec, folder, mirror, record, how, silent, patience):
    """Get one film and its mask; returns None, or the sentence of the failure."""
    if len(silent) >= patience:
        return f"{row['path']}: not tried, since the network does not answer; run again"
    try:
        for path, digest in ((row["path"], row["sha256"]), (row["mask"], row["mask_sha256"])):
            if isinstance(path, str) and mirror:
                _copy(Path(mirror) / spec.name / path, folder / path, digest)
                record.pop(path, None)
        if not mirror:
            _public(row, spec, folder, record, how)
    except (FetchError, OSError) as error:
        if isinstance(error, Unreachable):
            silent.append(row["path"])
        return f"{row['path']}: {error}" if row["path"] not in str(error) else str(error)


def _copy(source, path, digest):
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    if not source.exists():
        raise FetchError(f"{source} is not in the mirror")
    shutil.copyfile(source, part)
    accept(part, path, digest)


def _public(row, spec, folder, record, how):
    """Film and mask from their public addresses; prepared where the manifest says so, and then
    recorded.
    """
    path, untouched = folder / row["path"], row["prepared"] == ""
    if not _right({**row, "mask": None}, folder, record):
        original = path if untouched else path.with_name(path.name + ".source")
        download(row["url"], original, row["digest"], row["bytes"] if untouched else None, **how)
        if not untouched:
            write_atomic(path, prepare(original.read_bytes(), row["prepared"]))
            original.unlink()
            record[row["path"]] = sha256(path)
    if isinstance(row["mask"], str):
        mask, raw = folder / row["mask"], folder / (row["mask"] + ".source")
        download(row["mask_url"], raw, **how)
        write_atomic(
            mask,
            prepare_mask(
                raw.read_bytes(),
                cv2.imread(str(path), cv2.IMREAD_GRAYSCALE).shape,
                spec.masks.place,
            ),
        )
        raw.unlink()
        record[row["mask"]] = sha256(mask)


def _labels(spec, folder, mirror, how):
    """Label files: copied from the mirror, or from their public addresses (pinned by commit; their
    sha256 is not known).
    """
    failures = []
    for table in spec.tables:
        source = mirror and Path(mirror) / spec.name / table.file
        try:
            if source and source.exists():
                _copy(source, folder / table.file, table.sha256)
            elif table.address and not mirror and not (folder / table.file).exists():
                download(table.address, folder / table.file, table.sha256, **how)
        except (FetchError, OSError) as error:
            failures.append(str(error))
    return failures


def verify(name, root=None):
    """Check a user's copy -> (list of problems, each naming its file; DataFrame of counts: found,
    expected, paper, difference).

    Films with a manifest row are hashed; a full dataset is counted from its tables alone. `root`:
    as for `manifest.read`.
    """
    spec, folder, problems = schema.load(name), manifests.folder_of(name, root), []
    if manifests.films(name) is not None:
        record = read_json(folder / RECORD) if (folder / RECORD).exists() else {}
        for row in tqdm(plan(name).to_dict("records"), name, disable=None):
            for path, digest in ((row["path"], row["sha256"]), (row["mask"], row["mask_sha256"])):
                if isinstance(path, str) and not (folder / path).exists():
                    problems.append(f"{folder / path}: missing; run: cxrkit data fetch {name}")
                elif isinstance(path, str) and sha256(folder / path) != record.get(path, digest):
                    problems.append(
                        f"{folder / path}: sha256 differs from the manifest; delete it and fetch "
                        "again"
                    )
    found = manifests.counts(manifests.read(name, root), spec.expected or {"films": 0, "groups": 0})
    table = pd.DataFrame(
        {"found": found, "expected": spec.expected, "paper": spec.paper}, dtype="Int64"
    )
    table["paper - expected"] = table["paper"] - table["expected"]
    wrong = table[(table["found"] != table["expected"]).fillna(False)]
    problems += [
        f"{name}: {what}: {row['found']} found, {row['expected']} expected"
        for what, row in wrong.iterrows()
    ]
    return problems, table
