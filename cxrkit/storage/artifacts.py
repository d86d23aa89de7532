"""Store: results on disk, each in a folder named by its stage and a hash of the settings behind it;
load, or make once.
"""

import hashlib
import json
import os
from pathlib import Path

import filelock
import platformdirs

from cxrkit.config import paths
from cxrkit.storage.atomic import write_json


def canonical(settings):
    """Settings as the JSON text that is hashed: sorted keys, no spaces, so that the order of fields
    never matters.
    """
    return json.dumps(settings, sort_keys=True, separators=(",", ":"), allow_nan=False)


def key(settings):
    """12 hex digits that name the settings."""
    return hashlib.sha256(canonical(settings).encode()).hexdigest()[:12]


def default_root():
    """`CXRKIT_STORE`, else `artifacts/` of the checkout, else the user's cache folder."""
    if os.environ.get("CXRKIT_STORE"):
        return Path(os.environ["CXRKIT_STORE"]).expanduser().resolve()
    if checkout := paths.checkout():
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
