"""A store whose finished artifacts also lie at an address, for machines without a shared folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cxrkit.storage.artifacts import Store
from cxrkit.storage.atomic import write_json
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

    LOCAL_STAGES = ("images", "masks", "blackened")

    def __init__(
        self,
        url: str,
        root: str | os.PathLike | None = None,
        data: str | os.PathLike | None = None,
        wait: float = -1,
    ) -> None:
        super().__init__(root, data, wait)
        self.url = url.rstrip("/")

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if os.environ.get("CXRKIT_STORE"):
            self.root = default_root()

    def has(self, stage: str, settings: Any) -> bool:
        """Whether the artifact is finished, here or at the URL."""
        if super().has(stage, settings):
            return True
        if stage in self.LOCAL_STAGES:
            return False
        return self._is_remote(self.folder(stage, settings).name)

    def fetch(self, stage: str, settings: Any) -> Path:
        """`folder`, after the artifact was fetched into it where it lies at the URL alone."""
        folder = self.folder(stage, settings)
        if not folder.exists() and self.has(stage, settings):
            super().load_or_make(stage, settings, lambda part: self._fetch(folder.name, part))
        return folder

    def load_or_make(self, stage: str, settings: Any, make: Callable[[Path], Any]) -> Path:
        """Folder of a finished stage: as it is here, fetched from the URL, or made and sent there.

        Args and Raises are those of `Store.load_or_make`.
        """
        if stage in self.LOCAL_STAGES:
            return super().load_or_make(stage, settings, make)
        name = self.folder(stage, settings).name

        def fetch_or_make(part: Path) -> None:
            if self._is_remote(name):
                self._fetch(name, part)
                return
            make(part)
            write_json(part / "settings.json", settings)
            self._send(name, part)

        return super().load_or_make(stage, settings, fetch_or_make)

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

    def _send(self, name: str, part: Path) -> None:
        """Copy what lies in `part` to the URL, settings.json last."""
        files, path = self._remote()
        inside = [file for file in part.rglob("*") if file.is_file()]
        inside.sort(key=lambda file: (file == part / "settings.json", file))
        for file in inside:
            target = f"{path}/{name}/{file.relative_to(part).as_posix()}"
            files.makedirs(target.rpartition("/")[0], exist_ok=True)
            files.put_file(str(file), target)
