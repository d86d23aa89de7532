"""Inventory: what lies in a store, how large it is, and which profiles of the kit need it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import filelock
import pandas as pd

from cxrkit.config import profiles
from cxrkit.config.sections import Profile
from cxrkit.config.settings_file import get_profile
from cxrkit.pipeline import stages
from cxrkit.reproduction import grid
from cxrkit.storage.artifacts import Store, key
from cxrkit.storage.atomic import read_json

COLUMNS = ["name", "stage", "bytes", "profiles"]
DERIVED = ("images", "masks", "blackened")  # made from artifacts and datasets, not by a stage
SETTINGS = "settings.json"


def _steps(profile: Profile, name: str) -> Iterator[tuple[str, Profile]]:
    """A stage and all that it depends on."""
    yield name, profile
    for before, other in stages.upstream(profile, name):
        yield from _steps(other, before)


def needed_by(profile: Profile) -> set[str]:
    """Names of the artifacts that a profile needs, those of its grid and rehearsal included."""
    wanted = [(profile, name) for name in stages.STAGES]
    cells = [
        *grid.grid_cells(profile),
        *grid.rehearsal_cells(profile),
        *grid.open_choice_cells(profile),
    ]
    wanted += [(cell.profile, cell.stage) for cell in cells]
    names: set[str] = set()
    for start, name in wanted:
        for step, other in _steps(start, name):
            names.add(f"{step}-{key(stages.settings(other, step))}")
    return names


class _Needs:
    """Which of some profiles need an artifact or a derived folder."""

    def __init__(self, known: Sequence[Profile]) -> None:
        self.known = known
        self.names = {profile.name: needed_by(profile) for profile in known}

    def of(self, folder: Path) -> list[str]:
        """Names of the profiles that need a folder of the store."""
        stage = folder.name.rpartition("-")[0]
        if stage not in DERIVED:
            return [name for name, needed in self.names.items() if folder.name in needed]
        settings = read_json(folder / SETTINGS)
        if stage == "masks":
            return self._of_name(folder, str(settings["segmenter"]))
        if stage == "blackened":
            return [p.name for p in self.known if p.sources.lungs_only]
        return self._of_dataset(folder, str(settings["dataset"]))

    def _of_name(self, folder: Path, name: str) -> list[str]:
        """Profiles that need the artifact that a derived folder was made from."""
        origin = folder.with_name(name)
        return self.of(origin) if origin.is_dir() else []

    def _of_dataset(self, folder: Path, dataset: str) -> list[str]:
        """Profiles that read the images of a cache: "store:<artifact>", "data:<name>" or "files"."""
        where, _, name = dataset.partition(":")
        if where == "store":
            return self._of_name(folder, name)
        if where == "data":
            return [profile.name for profile in self.known if name in profile.manifests]
        return ["files outside of the store"]


def _artifact_folders(root: Path) -> list[Path]:
    """Finished folders of stages and derived folders, sorted; nothing else in the store."""
    known = {*stages.STAGES, *DERIVED}
    found = []
    for folder in sorted(root.iterdir()) if root.is_dir() else []:
        stage, _, digest = folder.name.rpartition("-")
        is_key = len(digest) == 12 and set(digest) <= set("0123456789abcdef")
        if folder.is_dir() and stage in known and is_key and (folder / SETTINGS).is_file():
            found.append(folder)
    return found


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _kit_profiles(keep: Sequence[str]) -> list[Profile]:
    return [get_profile(name) for name in keep or profiles.PROFILES]


def inventory(store: Store, keep: Sequence[str] = ()) -> pd.DataFrame:
    """Every artifact of a store.

    Args:
        store: whose folder is listed; lessons (runs/) and datasets (data/) are no artifacts.
        keep: names or settings files of the profiles that are asked; () = all of the kit.

    Returns:
        `name` of the folder, `stage`, `bytes`, and `profiles`, the names of those that need it.

    Raises:
        ValueError: a profile is unknown.
    """
    needs = _Needs(_kit_profiles(keep))
    rows = []
    for folder in _artifact_folders(store.root):
        stage = folder.name.rpartition("-")[0]
        rows.append((str(folder), stage, _size(folder), ", ".join(needs.of(folder))))
    return pd.DataFrame(rows, columns=COLUMNS)


def unneeded(store: Store, keep: Sequence[str] = ()) -> pd.DataFrame:
    """The artifacts that none of the profiles needs, in the form of `inventory`."""
    table = inventory(store, keep)
    return table[table["profiles"] == ""].reset_index(drop=True)


def remove(table: pd.DataFrame) -> None:
    """Remove artifacts of an inventory; one that a process is making anew is left alone."""
    for name in table["name"]:
        folder = Path(name)
        lock = filelock.FileLock(folder.with_name(f"{folder.name}.lock"))
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            continue
        try:
            shutil.rmtree(folder)
        finally:
            lock.release()


def as_text(table: pd.DataFrame) -> str:
    """An inventory as text: a line an artifact, and the sum of the bytes."""
    lines = []
    for row in table.itertuples():
        needed = row.profiles or "no profile"
        lines.append(f"{Path(row.name).name:36} {row.bytes / 1e6:9.1f} MB  {needed}")
    lines.append(f"{'together':36} {table['bytes'].sum() / 1e6:9.1f} MB")
    return "\n".join(lines)
