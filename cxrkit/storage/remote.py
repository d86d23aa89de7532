"""A store whose finished artifacts also lie at an fsspec address, for machines without a shared folder."""

import os

from cxrkit.storage.artifacts import Store, default_root
from cxrkit.storage.atomic import write_json


class Shared(Store):
    """A store whose finished artifacts also lie at an fsspec URL (s3://, gs://, sftp:// ...), for
    machines without a shared folder.

    Each machine works in its own `root`; an artifact that is missing there is fetched, and one that
    was made there is sent. Its settings.json goes last: without it an artifact at the URL is not
    complete. Images and masks, which are found by paths of this machine, stay here. Sent to another
    machine, as with a task of Dask, the store works in the `CXRKIT_STORE` of that one, or, where it
    has none, at the same path.
    """

    OWN = ("images", "masks", "blackened")

    def __init__(self, url, root, data=None, wait=-1):
        super().__init__(root, data, wait)
        self.url = url.rstrip("/")

    def __setstate__(self, state):
        self.__dict__.update(state)
        self.root = default_root() if os.environ.get("CXRKIT_STORE") else self.root

    def has(self, stage, settings):
        return (
            super().has(stage, settings)
            or stage not in self.OWN
            and self._sent(self.folder(stage, settings).name)
        )

    def fetch(self, stage, settings):
        folder = self.folder(stage, settings)
        if not folder.exists() and self.has(stage, settings):
            super().load_or_make(stage, settings, lambda part: self._fetch(folder.name, part))
        return folder

    def load_or_make(self, stage, settings, make):
        if stage in self.OWN:
            return super().load_or_make(stage, settings, make)
        name = self.folder(stage, settings).name
        return super().load_or_make(
            stage,
            settings,
            lambda part: self._fetch(name, part) or self._send(name, part, make, settings),
        )

    def _remote(self):
        import fsspec  # only needed here

        files, _, (path,) = fsspec.get_fs_token_paths(self.url)
        return files, path

    def _sent(self, name):
        """Whether the artifact lies at the URL."""
        files, path = self._remote()
        files.invalidate_cache()  # others have written since
        return files.exists(f"{path}/{name}/settings.json")

    def _fetch(self, name, part):
        """Whether the artifact lay at the URL and is now in `part`."""
        if not self._sent(name):
            return False
        files, path = self._remote()
        files.get(f"{path}/{name}/", f"{part}/", recursive=True)
        return True

    def _send(self, name, part, make, settings):
        make(part)
        write_json(part / "settings.json", settings)
        files, path = self._remote()
        inside = [
            file for file in part.rglob("*") if file.is_file() and file.name != "settings.json"
        ]
        for file in [*sorted(inside), part / "settings.json"]:
            target = f"{path}/{name}/{file.relative_to(part).as_posix()}"
            files.makedirs(target.rpartition("/")[0], exist_ok=True)
            files.put_file(str(file), target)
