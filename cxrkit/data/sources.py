"""What the `path` of a table may say, and which module opens an address that is no file.

A path is a file (`folder/a.png`), a row of a stack of images (`folder/images.npy#7`), a row of
packed masks (`folder/lungs#7`, see `simulation.cohort`), or the address of a registered scheme
(`virtual://alder/7?seed=0`). Rows of a stack that grows (`storage.growing`) are made by the module
of FILLERS when they are first asked for.
"""

import importlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from cxrkit.storage import growing

SCHEMES = {"virtual": "cxrkit.simulation.hospital"}  # scheme -> module with `from_url`
# file beside a stack that says what its rows are -> module whose `fill(folder, rows)` makes them
FILLERS = {"films.csv": "cxrkit.simulation.cohort"}


@dataclass(frozen=True)
class Address:
    """The parts of a path of a table: a scheme and the whole text, or a file and a row in it."""

    text: str
    scheme: str = ""
    file: Path = Path()
    row: int | None = None


def parse(path: str | os.PathLike) -> Address:
    """The parts of a path.

    Args:
        path: text of a table's cell, or a path.
    """
    text = str(path)
    scheme, separator, _ = text.partition("://")
    if separator:
        return Address(text, scheme=scheme)
    file, _, row = text.rpartition("#")
    if file and row.isdigit():
        return Address(text, file=Path(file), row=int(row))
    return Address(text, file=Path(text))


def register(scheme: str, module: str) -> None:
    """Let a module open the addresses of a scheme.

    Args:
        scheme: what stands before `://`.
        module: dotted name of a module with `from_url`; it is imported at the first address.
    """
    SCHEMES[scheme] = module


def opener(scheme: str) -> ModuleType:
    """The module that opens a scheme.

    Args:
        scheme: what stands before `://`.

    Raises:
        ValueError: the scheme is unknown; the message lists the known ones.
    """
    if scheme not in SCHEMES:
        raise ValueError(f"unknown scheme {scheme}://; known: {sorted(SCHEMES)}")
    return importlib.import_module(SCHEMES[scheme])


def fill(paths: Iterable[str | os.PathLike]) -> None:
    """Let every row be there that some paths name.

    Rows that are missing are made together, which is cheaper than one by one.

    Args:
        paths: as in a column of a table; those of no growing stack are left alone.
    """
    rows: dict[Path, list[int]] = {}
    for path in paths:
        address = parse(path)
        if address.row is not None:
            rows.setdefault(address.file.parent, []).append(address.row)
    for folder, wanted in rows.items():
        if len(growing.missing(folder, wanted)):
            _filler(folder).fill(folder, wanted)


def _filler(folder: Path) -> ModuleType:
    """The module that makes the rows of a growing stack."""
    for name, module in FILLERS.items():
        if (folder / name).exists():
            return importlib.import_module(module)
    raise FileNotFoundError(
        f"{folder} lacks the table of its rows ({', '.join(FILLERS)}); delete the folder and run "
        "again: it will be made anew"
    )


def content_file(file: str | os.PathLike) -> Path:
    """The file whose content stands for an image file: for a stack of FILLERS its table.

    Rows of a growing stack come later, and its first and last bytes then change.

    Args:
        file: as `parse` gives it.
    """
    file = Path(file)
    if file.suffix == ".npy":
        for name in FILLERS:
            if (file.parent / name).exists():
                return file.parent / name
    return file
