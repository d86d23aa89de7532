"""A store whose finished artifacts also lie at an address, for machines without a shared folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cxrkit.storage.artifacts import Store
from cxrkit.storage.integrity import NAME, DamagedArtifact, faults
from cxrkit.storage.locations import default_root

if TYPE_CHECKING:
    from collections.abc import Callable


class RemoteStore(Store):
    """A store whose finished artifacts also lie at an fsspec URL (s3://, gs://, sftp:// ...).

    Each machine works in its own `root`; an artifact that is missing there is fetched, and one that
    was made there is sent. Its settings.json goes last: without it an artifact at the URL is not
    complete. Images and masks are large and quickly made again; they stay on each machine. Sent to
    another machine, as with a task of Dask, the store works in the CXRKIT_STORE of that one, or,
    where it has none, at the same path.

    Attributes:
        url: the address.
    """

    LOCAL_STAGES = ("images", "masks", "blackened", "cropped")

    def __init__(
        self,
        url: str,
        root: str | os.PathLike | None = None,
        data: str | os.PathLike | None = None,
    ) -> None:
        super().__init__(root, data)
        self.url = url.rstrip("/")

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if os.environ.get("CXRKIT_STORE"):
            self.root = default_root()

    def has(self, stage: str, settings: Any, data: str = "") -> bool:
        """Whether the artifact is finished, here or at the URL."""
        if super().has(stage, settings, data):
            return True
        if stage in self.LOCAL_STAGES:
            return False
        return self._is_remote(self.folder(stage, settings, data).name)

    def fetch(self, stage: str, settings: Any, data: str = "") -> Path:
        """`folder`, after the artifact was fetched into it where it lies at the URL alone."""
        folder = self.folder(stage, settings, data)
        if not folder.exists() and self.has(stage, settings, data):
            super().load_or_make(stage, settings, self._vanished, data)
        return folder

    def _vanished(self, part: Path) -> None:
        """What `fetch` makes where another process has deleted the artifact at the URL since."""
        raise FileNotFoundError(f"{part.stem} has been deleted at {self.url}; run its stage again")

    def from_any_data(self, stage: str, settings: Any) -> list[Path]:
        """The finished artifacts of these settings, here or at the URL."""
        found = {path.name: path for path in super().from_any_data(stage, settings)}
        files, path = self._remote()
        files.invalidate_cache()
        for folder in files.glob(f"{path}/{self.folder(stage, settings).name}*"):
            name = folder.rstrip("/").rpartition("/")[2]
            if NAME.fullmatch(name) and files.exists(f"{folder}/settings.json"):
                found.setdefault(name, self.root / name)
        return [found[name] for name in sorted(found)]

    def _fill(self, part: Path, name: str, settings: Any, make: Callable[[Path], Any]) -> None:
        """Fetch an artifact from the URL, or make it and send it there."""
        if name.partition("-")[0] in self.LOCAL_STAGES:
            super()._fill(part, name, settings, make)
        elif self._is_remote(name):
            self._fetch(name, part)
        else:
            super()._fill(part, name, settings, make)
            self._send(name, part)

    def _remote(self) -> tuple[Any, str]:
        """File system of the URL and the path in it."""
        import fsspec  # only needed here

        files, _, (path,) = fsspec.get_fs_token_paths(self.url)
        return files, path

    def _is_remote(self, name: str) -> bool:
        """Whether the artifact lies at the URL."""
        files, path = self._remote()
        files.invalidate_cache()  # others have written since
        return files.exists(f"{path}/{name}/settings.json")

    def _fetch(self, name: str, part: Path) -> None:
        """Copy the artifact from the URL into `part`."""
        files, path = self._remote()
        files.get(f"{path}/{name}/", f"{part}/", recursive=True)
        found = faults(part)
        if found:
            raise DamagedArtifact(
                f"{name} at {self.url} or on its way here was damaged: {found[0]}. Run again; "
                "where that does not help, delete it there, and it will be made anew"
            )

    def _send(self, name: str, part: Path) -> None:
        """Copy what lies in `part` to the URL, settings.json last."""
        files, path = self._remote()
        inside = [file for file in part.rglob("*") if file.is_file()]
        inside.sort(key=lambda file: (file == part / "settings.json", file))
        for file in inside:
            target = f"{path}/{name}/{file.relative_to(part).as_posix()}"
            files.makedirs(target.rpartition("/")[0], exist_ok=True)
            files.put_file(str(file), target)
