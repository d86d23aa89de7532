"""Where results and real images lie, and paths in tables that survive a move of either folder.

In memory a path is absolute. On disk it starts with the name of the folder that it lies in:
`store:cohort-f7134555c53a/images.npy#7`, `data:cohen/images/a.png`. Anything else, such as an
address (`virtual://alder/7`) or a file of another folder, stays as it is.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import platformdirs

from cxrkit.config import paths

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import pandas as pd

PATH_COLUMNS = ("path", "lung_mask", "lesion_mask", "origin")

# finished artifacts that come with the kit: the read-only layer below every store
SHIPPED = paths.bundled("storage/shipped_artifacts")
FRESH = "CXRKIT_FRESH"  # set: nothing is taken from that layer


def fix_environment() -> None:
    """Make CXRKIT_STORE, CXRKIT_DATA and CXRKIT_MIRROR absolute, for this process and its children.

    A lesson's kernel works in another folder, where a relative path would mean another place.
    """
    for name in ("CXRKIT_STORE", "CXRKIT_DATA", "CXRKIT_MIRROR"):
        value = os.environ.get(name)
        if value and not os.path.isabs(value):
            os.environ[name] = str(Path(value).expanduser().resolve())


def default_root() -> Path:
    """Where results lie: CXRKIT_STORE, else `artifacts/` of the checkout, else the user's cache."""
    fix_environment()
    if os.environ.get("CXRKIT_STORE"):
        return Path(os.environ["CXRKIT_STORE"]).resolve()
    checkout = paths.checkout()
    if checkout:
        return checkout / "artifacts"
    return Path(platformdirs.user_cache_dir("cxrkit"))


def data_root(root: str | os.PathLike | None = None) -> Path:
    """Where real images lie: `root`, else CXRKIT_DATA, else `data/` of the default store."""
    fix_environment()
    chosen = root or os.environ.get("CXRKIT_DATA") or default_root() / "data"
    return Path(chosen).expanduser().resolve()


def fetched_weights() -> Path:
    """Where `cxrkit models fetch` puts weights: CXRKIT_WEIGHTS, else the user's data folder."""
    chosen = os.environ.get("CXRKIT_WEIGHTS")
    return Path(chosen or Path(platformdirs.user_data_dir("cxrkit")) / "weights").expanduser()


def shipped_root() -> Path | None:
    """Where the artifacts that come with the kit lie; None where CXRKIT_FRESH is set."""
    fresh = os.environ.get(FRESH, "") not in ("", "0")
    return None if fresh or not SHIPPED.is_dir() else SHIPPED


def relative(path: str | os.PathLike, roots: Mapping[str, Path]) -> str:
    """A path as it is written to disk.

    Args:
        path: an absolute path, also with a `#row`; anything else stays as it is.
        roots: name -> absolute folder; of folders inside each other the inner one counts.
    """
    text = str(path)
    for name, root in sorted(roots.items(), key=lambda item: -len(str(item[1]))):
        folder = str(root).rstrip(os.sep) + os.sep
        if text.startswith(folder):
            return f"{name}:{text[len(folder) :].replace(os.sep, '/')}"
    return text


def absolute(text: str, roots: Mapping[str, Path]) -> str:
    """A path as it is used in memory; the inverse of `relative`.

    Args:
        text: what `relative` gave, perhaps on another machine.
        roots: name -> absolute folder on this machine.
    """
    name, colon, rest = text.partition(":")
    if colon and name in roots:
        return str(roots[name] / rest)
    return text


def map_paths(table: pd.DataFrame, convert: Callable[[str], str]) -> pd.DataFrame:
    """The table with `convert` applied to every known path of PATH_COLUMNS."""
    converted = {
        column: table[column].map(convert, na_action="ignore")
        for column in PATH_COLUMNS
        if column in table
    }
    return table.assign(**converted)
