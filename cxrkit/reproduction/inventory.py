"""Inventory: what lies in a store, how large it is, and which profiles of the kit need it."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import filelock
import pandas as pd

from cxrkit.config import profiles
from cxrkit.config.sections import Profile
from cxrkit.config.settings_file import get_profile
from cxrkit.pipeline import stages
from cxrkit.reproduction import grid
from cxrkit.storage import integrity
from cxrkit.storage.artifacts import Store, key
from cxrkit.storage.atomic import read_json

COLUMNS = ["name", "stage", "bytes", "profiles"]
# made from artifacts and datasets, not by a stage
DERIVED = ("images", "masks", "blackened", "cropped")
SETTINGS = "settings.json"
RUN_SETTINGS = "settings.yaml"  # of a changed profile, beside its lessons
REMOVED = ".removed"  # ends the name of a folder whose removal has begun


def _collect(profile: Profile, name: str, steps: set[tuple[str, Profile]]) -> None:
    """Add a stage and all that it depends on to the steps."""
    if (name, profile) in steps:
        return
    steps.add((name, profile))
    for before, other in stages.upstream(profile, name):
        _collect(other, before, steps)


@lru_cache
def needed_by(profile: Profile, cells: bool = True) -> dict[str, tuple[str, Profile]]:
    """The artifacts that a profile needs.

    Args:
        profile: of the lessons.
        cells: those of its grid at all seeds too.

    Returns:
        Name, without the part for real images -> the stage and its profile.
    """
    steps: set[tuple[str, Profile]] = set()
    for name in stages.STAGES:
        _collect(profile, name, steps)
    for seed in sorted({profile.seed, *profile.grid.seeds}) if cells else ():
        seeded = replace(profile, seed=seed)
        for cell in (
            *grid.grid_cells(seeded),
            *grid.rehearsal_cells(seeded),
            *grid.open_choice_cells(seeded),
        ):
            _collect(cell.profile, cell.stage, steps)
    return {f"{name}-{key(stages.settings(other, name))}": (name, other) for name, other in steps}


def orphans(layer: Path) -> list[Path]:
    """Artifacts that come with the kit and that their profile, as it is now, does not need.

    Args:
        layer: their folder (`locations.SHIPPED`).
    """
    needed, found = {}, []
    for folder in sorted(layer.iterdir()) if layer.is_dir() else []:
        note = folder / integrity.SHIPPED_NOTE
        if not note.is_file():
            found.append(folder)
            continue
        of = read_json(note)
        asked = of["profile"], of["seed"]
        if asked not in needed:
            needed[asked] = needed_by(replace(get_profile(of["profile"]), seed=of["seed"]))
        if of.get("of", folder.name) not in needed[asked]:
            found.append(folder)
    return found


class _Needs:
    """Which of some profiles need an artifact or a derived folder."""

    def __init__(self, known: Sequence[Profile], store: Store) -> None:
        self.known, self.store = known, store
        self.needed = {profile.name: needed_by(profile) for profile in known}

    def of(self, folder: Path) -> list[str]:
        """Names of the profiles that need a folder of the store."""
        if folder.name.endswith(REMOVED):
            return []
        stage = _stage_of(folder.name)
        if stage not in DERIVED:
            return [name for name, needed in self.needed.items() if self._is_one_of(folder, needed)]
        settings = read_json(folder / SETTINGS)
        origin = settings.get("dataset" if stage == "images" else "segmenter")
        if not isinstance(origin, str):
            return []  # as an earlier version of the kit wrote it: nothing finds it again
        if stage == "images":
            return self._of_dataset(folder, origin)
        return self._of_name(folder, origin)

    def _is_one_of(self, folder: Path, needed: dict[str, tuple[str, Profile]]) -> bool:
        """Whether an artifact has the settings of a needed one, and its images where they are here.

        Where the images are not here, or a table of them is wrong, it counts as needed.
        """
        own = "-".join(folder.name.split("-")[:2])
        if own not in needed:
            return False
        stage, profile = needed[own]
        try:
            return integrity.data_of(folder) == stages.data_digest(profile, stage, self.store)
        except (FileNotFoundError, ValueError):
            return True

    def _of_name(self, folder: Path, name: str) -> list[str]:
        """Profiles that need the artifact that a derived folder was made from."""
        origin = folder.with_name(name)
        if _stage_of(name) in DERIVED and not origin.is_dir():
            return []
        return self.of(origin)

    def _of_dataset(self, folder: Path, dataset: str) -> list[str]:
        """Profiles that read a cache of images of "store:<artifact>", "data:<name>" or "files"."""
        where, _, name = dataset.partition(":")
        if where == "store":
            return self._of_name(folder, name)
        if where == "data":
            return [profile.name for profile in self.known if name in profile.manifests]
        return ["files outside of the store"]


def _stage_of(name: str) -> str:
    """The stage in the name of an artifact."""
    return name.partition("-")[0]


def _is_artifact(folder: Path) -> bool:
    """Whether a folder is a finished stage, a derived folder, or what is left of a removed one."""
    name = folder.name.removesuffix(REMOVED)
    if not integrity.NAME.fullmatch(name) or _stage_of(name) not in (*stages.STAGES, *DERIVED):
        return False
    if folder.is_symlink() or not folder.is_dir():
        return False
    return folder.name.endswith(REMOVED) or (folder / SETTINGS).is_file()


def _artifact_folders(root: Path) -> list[Path]:
    """The artifacts of a store, sorted; nothing else in it."""
    if not root.is_dir():
        return []
    return [folder for folder in sorted(root.iterdir()) if _is_artifact(folder)]


def size_of(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _profiles(store: Store, keep: Sequence[str]) -> list[Profile]:
    """Those to keep; by default those of the kit, and changed ones that ran in this store."""
    if keep:
        return [get_profile(name) for name in keep]
    changed = sorted(store.root.glob(f"runs/*/{RUN_SETTINGS}"))
    return [get_profile(name) for name in (*profiles.PROFILES, *map(str, changed))]


def inventory(store: Store, keep: Sequence[str] = ()) -> pd.DataFrame:
    """Every artifact of a store.

    Args:
        store: whose folder is listed; lessons (runs/) and datasets (data/) are no artifacts.
        keep: names or settings files of the profiles that are asked; () = all of the kit, and
            those that `cxrkit reproduce --set` left in runs/ of the store.

    Returns:
        `name` of the folder, `stage`, `bytes`, and `profiles`, the names of those that need it.

    Raises:
        ValueError: a profile is unknown.
    """
    needs = _Needs(_profiles(store, keep), store)
    rows = []
    for folder in _artifact_folders(store.root):
        needed = ", ".join(needs.of(folder))
        rows.append((str(folder), _stage_of(folder.name), size_of(folder), needed))
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
            # a folder under its own name is always whole, also after a kill
            half = folder.with_name(folder.name.removesuffix(REMOVED) + REMOVED)
            folder.rename(half)
            shutil.rmtree(half)
        finally:
            lock.release()


def as_text(table: pd.DataFrame) -> str:
    """An inventory as text: a line an artifact, and the sum of the bytes."""
    lines = []
    for row in table.itertuples():
        needed = row.profiles or "no profile"
        lines.append(f"{Path(row.name).name:36} {row.bytes / 1e6:9.1f} MB  {needed}")
    lines.append(f"{'in all':36} {table['bytes'].sum() / 1e6:9.1f} MB")
    return "\n".join(lines)
