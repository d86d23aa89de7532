"""Cells of the paper's tables that a person read in the journal, for the ledger.

Tables 1 to 10 are lost from the text that the kit works from. Who has the paper at hand fills in
`paper_cells.json` beside this module, or a copy of it that CXRKIT_PAPER_CELLS names: a list of

    {"cell": "comparison.diagnosis.resnet_50.auc", "quantity": "diagnosis with ResNet-50: AUC",
     "value": 0.5, "source": "journal, volume, page, Table 7", "reader": "name of who read it"}

`cell` is a key of the ledger, and `quantity` says it in words. `value` is a number, or one for each
external hospital, {"CNUH": 0.5, "YNU": 0.5, "KNUH": 0.5}; null stays "not available".
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

FILE = Path(__file__).with_name("paper_cells.json")
VARIABLE = "CXRKIT_PAPER_CELLS"  # path of another such file
BETWEEN_0_AND_1 = ("auc", "sensitivity", "specificity", "accuracy")
NOT_NEGATIVE = ("mse", "mae")
AT_MOST_1 = ("cc", "r2")


class PaperCell(BaseModel):
    """A cell of the paper.

    Attributes:
        cell: key of a row of the ledger.
        value: the number, or one for each hospital by name; None = not available.
        source: journal, page and table.
        reader: who read it there.
        quantity: what the row says, in words.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    cell: str
    value: float | int | dict[str, float | int] | None
    source: str = ""
    reader: str = ""
    quantity: str = ""

    @property
    def values(self) -> dict[str, float]:
        """Its numbers by hospital; one number for all has the name ""."""
        if isinstance(self.value, dict):
            return self.value
        return {} if self.value is None else {"": self.value}

    @property
    def text(self) -> str:
        """The value as the ledger prints it: "0.5", or "0.5, 0.6 (CNUH, YNU)"."""
        names = [name for name in self.values if name]
        shown = ", ".join(f"{value:g}" for value in self.values.values())
        return f"{shown} ({', '.join(names)})" if names else shown


def default_file() -> Path:
    """The file that CXRKIT_PAPER_CELLS names, else that of the package."""
    named = os.environ.get(VARIABLE)
    return Path(named).expanduser() if named else FILE


def read_cells(
    fillable: Mapping[str, str], hospitals: Iterable[str], path: Path | None = None
) -> dict[str, PaperCell]:
    """The cells that somebody has read.

    Args:
        fillable: key -> words of the rows whose number the text does not give.
        hospitals: names that a value may be of.
        path: of the file; None = `default_file`.

    Returns:
        Key -> cell, of those that have a value.

    Raises:
        ValueError: the file is missing, is no JSON, or a cell of it is wrong; the message names the
            file, the cell and the repair.
    """
    path = path or default_file()
    found: dict[str, PaperCell] = {}
    seen = set()
    for number, entry in enumerate(_entries(path), start=1):
        where = f"{path}, cell {number}"
        cell = _parsed(entry, where)
        where += f" ({cell.cell})"
        if cell.cell in seen:
            raise ValueError(f"{where}: it stands twice; delete one of the two")
        seen.add(cell.cell)
        _check_name(cell, where, fillable)
        if cell.value is not None:
            _check_value(cell, where, tuple(hospitals))
            found[cell.cell] = cell
    return found


def template(fillable: Mapping[str, str]) -> str:
    """The file with every cell and no value.

    Args:
        fillable: as in `read_cells`.
    """
    cells = []
    for key, quantity in fillable.items():
        cells.append({"cell": key, "quantity": quantity, "value": None, "source": "", "reader": ""})
    return json.dumps({"cells": cells}, indent=1) + "\n"


def _entries(path: Path) -> list[Any]:
    """The list of cells of a file."""
    if not path.is_file():
        raise ValueError(f"{path}: no such file; {VARIABLE} names it: copy {FILE} there")
    try:
        content = json.loads(path.read_text("utf-8"))
    except ValueError as error:  # also of the encoding
        raise ValueError(f"{path} is no JSON: {error}; compare it with {FILE}") from None
    if not isinstance(content, dict) or not isinstance(content.get("cells"), list):
        raise ValueError(f'{path}: it must be {{"cells": [...]}}; compare it with {FILE}')
    return content["cells"]


def _parsed(entry: Any, where: str) -> PaperCell:
    """An entry of the list, its fields and types checked."""
    try:
        return PaperCell.model_validate(entry)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "the cell"
        fields = ", ".join(PaperCell.model_fields)
        raise ValueError(
            f"{where}: {field}: {first['msg']}; a cell has the fields {fields}, and a value is a "
            "number without quotes"
        ) from None


def _check_name(cell: PaperCell, where: str, fillable: Mapping[str, str]) -> None:
    """Refuse a cell that is no row of the ledger, or one whose number the text gives."""
    if cell.cell not in fillable:
        raise ValueError(
            f"{where}: no such cell, or the text gives its number; the {len(fillable)} cells that "
            f"can be filled stand in {FILE}"
        )
    if cell.quantity and cell.quantity != fillable[cell.cell]:
        raise ValueError(
            f"{where}: its quantity is {fillable[cell.cell]!r}, not {cell.quantity!r}; correct "
            "cell or quantity, so that both mean one row"
        )


def _check_value(cell: PaperCell, where: str, hospitals: tuple[str, ...]) -> None:
    """Refuse a value without source or reader, of an unknown hospital, or out of its range."""
    for field in ("source", "reader"):
        if not getattr(cell, field).strip():
            raise ValueError(f"{where}: its {field} is empty; say where it was read, and by whom")
    if not cell.values:
        raise ValueError(f"{where}: no value; write a number, or null")
    unknown = sorted(set(cell.values) - {"", *hospitals})
    if unknown:
        raise ValueError(f"{where}: unknown hospital {unknown[0]!r}; known: {list(hospitals)}")
    metric = cell.cell.rpartition(".")[2]
    low, high = _range(metric)
    for value in cell.values.values():
        if not low <= value <= high:
            hint = f"; as a share that is {value / 100:g}" if 1 < value <= 100 else ""
            raise ValueError(
                f"{where}: {metric.upper()} {value:g} is not between {low:g} and {high:g}{hint}"
            )


def _range(metric: str) -> tuple[float, float]:
    """Smallest and largest value of a metric."""
    if metric in BETWEEN_0_AND_1:
        return 0.0, 1.0
    if metric in NOT_NEGATIVE:
        return 0.0, 36.0  # squared error of a score from 0 to 6
    if metric in AT_MOST_1:
        return -math.inf, 1.0
    return -math.inf, math.inf
