"""What the `path` of a table may say, and which module opens an address that is no file.

A path is a file (`folder/a.png`), a row of a stack of images (`folder/images.npy#7`), a row of
packed masks (`folder/lungs#7`, see `simulation.cohort`), or the address of a registered scheme
(`virtual://alder/7?seed=0`).
"""

import importlib
import os
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

SCHEMES = {"virtual": "cxrkit.simulation.hospital"}  # scheme -> module with `from_url`


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
