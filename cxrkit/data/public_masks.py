"""Masks of public sets that are not one image file of 0 and 255.

The address of such a mask is a path as in a table (`sources`):

- `leftMask/MCUCXR_0001_0.png`, `left lung/JPCLN001.gif`: one lung; the other lies in the folder
  beside it under the same name (Montgomery, SCR);
- `CHNCXR_0001_0_mask.png`: grey edges (the community's masks of Shenzhen);
- `ChestX-Ray8.csv#4711`: the record of CheXmask that begins at byte 4711, with run lengths;
- `structure.csv#12`: crops with their place (General Blockchain's segmentations), found by row 12,
  which is any row of the film.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np
import pandas as pd
from PIL import Image

from cxrkit.data.sources import Address
from cxrkit.data.tables import LONGEST_CELL

OTHER_SIDE = {"leftMask": "rightMask", "left lung": "right lung"}
GREY_EDGES = re.compile(r"CHNCXR_\d+_[01]_mask\.png")
INSIDE = 127  # what is brighter is inside, where edges are grey
# the crops are coloured on black; their makers' colours are brighter than this in some channel
COLOURED = 60
CLASSES = {
    "lungs": ("Left Lung", "Right Lung"),
    "lesion": ("Ground Glass Opacities", "Consolidation"),
}
csv.field_size_limit(LONGEST_CELL)


def read(address: Address, kind: str) -> np.ndarray | None:
    """A mask in one of the forms above.

    Args:
        address: its path, parsed.
        kind: "lungs" or "lesion"; it is read for crops only.

    Returns:
        uint8 (H, W) of 0 and 255, or None where the address has another form.

    Raises:
        ValueError: the file is not in that form; the message names it.
    """
    file = address.file
    if address.row is not None and file.name == "structure.csv":
        return _placed(file, address.row, kind)
    if address.row is not None and file.suffix == ".csv":
        parts = run_length_masks(file, address.row)
        return parts["left"] | parts["right"]
    if file.parent.name in OTHER_SIDE:
        other = file.parent.with_name(OTHER_SIDE[file.parent.name]) / file.name
        return _binary(file) | _binary(other)
    return _binary(file) if GREY_EDGES.fullmatch(file.name) else None


def _binary(file: Path) -> np.ndarray:
    """An image file -> 255 where it is brighter than INSIDE, else 0; a mask of 0 and 1 as well."""
    try:
        with Image.open(file) as raster:
            mask = np.asarray(raster.convert("L"))
    except OSError as error:
        raise ValueError(f"{file}: no readable mask ({error}); fetch it again") from None
    inside = mask > (INSIDE if mask.max(initial=0) > 1 else 0)
    return np.where(inside, 255, 0).astype(np.uint8)


# run lengths (CheXmask)


def run_length_index(file: Path, name: str) -> pd.DataFrame:
    """Where each record of a table of CheXmask begins; the masks themselves are not read.

    Args:
        file: such as `OriginalResolution/ChestX-Ray8.csv`, of several GB.
        name: its column of the films' names.

    Returns:
        `name`, `quality` (mean Dice by reverse classification accuracy) and `address`.

    Raises:
        ValueError: a column is missing; the message names the file.
    """
    with open(file, "rb") as table:
        head = _header(table)
        for column in (name, "Dice RCA (Mean)"):
            if column not in head:
                raise ValueError(f"{file}: no column {column!r}; it has {head}")
        at, quality = head.index(name), head.index("Dice RCA (Mean)")
        rows = []
        for start, record in _records(table):
            cells = _first_cells(record, max(at, quality) + 1)
            rows.append((cells[at], float(cells[quality] or "nan"), f"{file}#{start}"))
    return pd.DataFrame(rows, columns=["name", "quality", "address"])


def run_length_masks(file: Path, start: int) -> dict[str, np.ndarray]:
    """The masks of one record of CheXmask.

    Args:
        file: the table.
        start: byte at which the record begins.

    Returns:
        `left`, `right` (lung) and `heart`, uint8 (H, W) of 0 and 255.
    """
    with open(file, "rb") as table:
        head = _header(table)
        table.seek(start)
        _, record = next(_records(table))
    cells = dict(zip(head, next(csv.reader([record.decode()])), strict=True))
    shape = int(float(cells["Height"])), int(float(cells["Width"]))
    columns = {"left": "Left Lung", "right": "Right Lung", "heart": "Heart"}
    return {part: decode_runs(cells[column], shape) for part, column in columns.items()}


def decode_runs(runs: str, shape: tuple[int, int]) -> np.ndarray:
    """Run lengths -> mask: "start length start length ...", row by row, the first pixel is 1.

    Args:
        runs: the cell of the table.
        shape: (H, W).

    Returns:
        uint8 (H, W) of 0 and 255.
    """
    numbers = np.array(runs.split(), int)
    edges = np.zeros(shape[0] * shape[1] + 1, int)
    starts, ends = numbers[::2] - 1, numbers[::2] - 1 + numbers[1::2]
    np.add.at(edges, starts, 1)
    np.add.at(edges, ends, -1)
    return np.where(np.cumsum(edges[:-1]) > 0, 255, 0).astype(np.uint8).reshape(shape)


def _header(table: BinaryIO) -> list[str]:
    """Columns of an open table; its records follow."""
    return next(csv.reader([table.readline().decode("utf-8-sig")]))


def _records(table: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Each record with the byte at which it begins; a quoted cell may hold line ends."""
    start, position = table.tell(), table.tell()
    lines: list[bytes] = []
    quotes = 0
    for line in table:
        lines.append(line)
        position += len(line)
        quotes += line.count(b'"')
        if quotes % 2 == 0:
            yield start, b"".join(lines).rstrip(b"\r\n")
            start, quotes = position, 0
            lines = []


def _first_cells(record: bytes, count: int) -> list[str]:
    """The first cells of a record, without parsing the long ones behind them."""
    cells = record.split(b",", count)[:count]
    if any(b'"' in cell for cell in cells):
        return next(csv.reader([record.decode()]))[:count]
    return [cell.decode() for cell in cells]


# crops with their place


@lru_cache(maxsize=4)
def placed_crops(file: Path) -> pd.DataFrame:
    """`structure.csv`: a row for each crop, with its row number from 1 as `row`.

    Args:
        file: of the clone.

    Returns:
        Text columns as in the file, and `row`, `Top`, `Left` as numbers.
    """
    table = pd.read_csv(file, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    needed = ["Template Name", "Filename", "Mask", "Resolution", "Top", "Left"]
    missing = [column for column in needed if column not in table]
    if missing:
        raise ValueError(f"{file}: no column {missing[0]!r}; it has {list(table)}")
    places = {column: table[column].astype(int) for column in ("Top", "Left")}
    return table.assign(row=np.arange(1, len(table) + 1), **places)


def _placed(file: Path, row: int, kind: str) -> np.ndarray:
    """All crops of a kind on the film of a row, each in its place, on a canvas of its size."""
    table = placed_crops(file)
    image = table.iloc[row - 1]["Filename"]
    crops = table[(table["Filename"] == image) & table["Template Name"].isin(CLASSES[kind])]
    width, height = map(int, table.iloc[row - 1]["Resolution"].split("x"))
    canvas = np.zeros((height, width), np.uint8)
    for crop in crops.to_dict("records"):
        pixels = cv2.imread(str(file.parent / crop["Mask"]), cv2.IMREAD_COLOR)
        if pixels is None:
            raise ValueError(f"{file.parent / crop['Mask']}: no readable mask; fetch it again")
        top, left = crop["Top"], crop["Left"]
        place = canvas[top : top + pixels.shape[0], left : left + pixels.shape[1]]
        place[(pixels > COLOURED).any(axis=2)[: place.shape[0], : place.shape[1]]] = 255
    return canvas
