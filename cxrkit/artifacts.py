"""Store: results on disk, each in a folder named by its stage and a hash of the settings behind it;
load, or make once.
"""

import hashlib
import json
import os
from pathlib import Path

import filelock
import platformdirs


def canonical(settings):
    """Settings as the JSON text that is hashed: sorted keys, no spaces, so that the order of fields
    never matters.
    """
    return json.dumps(settings, sort_keys=True, separators=(",", ":"), allow_nan=False)


def key(settings):
    """12 hex digits that name the settings."""
    return hashlib.sha256(canonical(settings).encode()).hexdigest()[:12]


def write_atomic(path, data):
    """Write bytes or text to `path` through a temporary neighbour and a rename: a reader sees the
    old file or the new one.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with open(part, "wb") as f:
            f.write(data.encode() if isinstance(data, str) else data)
            f.flush()
            os.fsync(f.fileno())
    except OSError:  # a full disk: what was written would only fill it further
        part.unlink(missing_ok=True)  # it may not even have been opened
        raise
    os.replace(part, path)


def write_json(path, value):
    """`write_atomic` of indented JSON; NaN is refused, since JSON has none (write null)."""
    write_atomic(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def read_json(path):
    """JSON file -> value. Raises ValueError naming the file when it is damaged."""
    try:
        return json.loads(Path(path).read_text())
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path} is no valid JSON ({error}); delete its folder and run the stage again"
        ) from error


def default_root():
    """`CXRKIT_STORE`, else `artifacts/` of the checkout, else the user's cache folder."""
    if os.environ.get("CXRKIT_STORE"):
        return Path(os.environ["CXRKIT_STORE"]).expanduser().resolve()
    checkout = Path(__file__).resolve().parent.parent
    if (checkout / "pyproject.toml").exists():
        return checkout / "artifacts"
    return Path(platformdirs.user_cache_dir("cxrkit"))


class Store:
    """A folder of finished stages.

    `store.load_or_make("backbone", settings, make)` returns the folder `backbone-<key>`; where it
    is missing, `make(folder)` fills `backbone-<key>.part`, which is renamed when `make` returns: a
    folder without `.part` is always complete. The `.part` folder survives a kill, so a training
    that checkpoints into it goes on from there. `data` is the folder of the real films, None for
    where `cxrkit data fetch` puts them. wait: seconds to wait for another process that is making
    the same artifact, -1 = as long as it takes.
    """

    def __init__(self, root=None, data=None, wait=0):
        self.root = Path(root) if root else default_root()
        self.data, self.wait = data, wait

    def folder(self, stage, settings):
        """Where the artifact lies, or would lie."""
        return self.root / f"{stage}-{key(settings)}"

    def has(self, stage, settings):
        """Whether the artifact is finished."""
        return self.folder(stage, settings).exists()

    def fetch(self, stage, settings):
        """`folder`; what `has` knows lies there afterwards, to be read."""
        return self.folder(stage, settings)

    def load_or_make(self, stage, settings, make):
        """Folder of a finished stage; `make(folder)` is called only if it is missing.

        Raises RuntimeError if another process is making the same artifact, and is not done after
        `wait` seconds.
        """
        done = self.folder(stage, settings)
        if done.exists():
            return done
        part = done.with_name(done.name + ".part")
        part.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(done.with_name(done.name + ".lock"))
        try:
            lock.acquire(timeout=self.wait)
        except filelock.Timeout:
            raise RuntimeError(
                f"{done.name} is being made by another process; wait for it, "
                "or set CXRKIT_STORE to another folder"
            ) from None
        try:
            if not done.exists():
                make(part)
                write_json(part / "settings.json", settings)
                os.replace(part, done)
        finally:
            lock.release()
        return done


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
