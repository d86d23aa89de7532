"""Store: finished stages on disk, each in a folder named by stage and a hash of its settings."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cxrkit.storage import integrity, locations, provenance
from cxrkit.storage.atomic import remove_leftovers, write_atomic, write_json
from cxrkit.storage.integrity import is_artifact
from cxrkit.storage.locks import announced_lock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import pandas as pd


def canonical(settings: Any) -> str:
    """Settings as the JSON text that is hashed: sorted keys, so that their order never matters."""
    return json.dumps(settings, sort_keys=True, separators=(",", ":"), allow_nan=False)


def key(settings: Any) -> str:
    """12 hex digits that name the settings.

    Args:
        settings: anything that JSON can hold.

    Raises:
        ValueError: the settings hold NaN or an infinite number.

    Example:
        >>> key({"a": 1, "b": 2}) == key({"b": 2, "a": 1})
        True
    """
    return hashlib.sha256(canonical(settings).encode()).hexdigest()[:12]


class Store:
    """A folder of finished stages, and the place of the real images beside it.

    `store.load_or_make("backbone", settings, make)` returns the folder `backbone-<key>`. Where it
    is missing, `make(folder)` fills `backbone-<key>.part`, which is renamed when `make` returns: a
    folder without `.part` is always complete. The `.part` folder survives a kill, so a training
    that checkpoints into it goes on from there. An artifact of real images has a second part in its
    name, `backbone-<key>-<data>`, by the images: those of other data lie beside each other.

    Below the folder lies a layer that is only read: the artifacts that come with the kit
    (`tools/ship.py`). What is missing in the folder is taken from there, under the same name, and
    made only where the layer lacks it too. An artifact whose pixels are not in the layer is made in
    the folder, from what the layer has of it. CXRKIT_FRESH=1 leaves the layer out.

    Attributes:
        root: the folder, absolute.
        layer: folder of the artifacts that come with the kit; None = none is taken from there.
        data: folder of the real images; None = where `cxrkit data fetch` puts them.
    """

    def __init__(
        self,
        root: str | os.PathLike | None = None,
        data: str | os.PathLike | None = None,
    ) -> None:
        self.root = Path(root).expanduser().resolve() if root else locations.default_root()
        # absolute at once: the working directory may change
        self.data = Path(data).expanduser().resolve() if data else None
        self.layer = locations.shipped_root()

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self.layer:  # on another machine the kit lies elsewhere
            self.layer = locations.shipped_root()

    def folder(self, stage: str, settings: Any, data: str = "") -> Path:
        """Where the artifact lies, in the store or the layer, or would lie in the store.

        Args:
            stage: name of the stage.
            settings: what its result depends on.
            data: digest of the real images that it is made from; "" where settings say all.
        """
        name = f"{stage}-{key(settings)}"
        return self.locate(f"{name}-{data}" if data else name)

    def locate(self, name: str) -> Path:
        """`folder`, by the name of the artifact."""
        own = self.root / name
        if own.exists():
            return own
        shipped = self.shipped(name)
        return shipped if shipped and not provenance.lacks_pixels(shipped) else own

    def shipped(self, name: str) -> Path | None:
        """The folder of the layer that has the name of an artifact; None = it has none.

        One that lacks its pixels is no finished artifact. Its stage makes the artifact from it.
        """
        if not self.layer or not (self.layer / name).is_dir():
            return None
        return self.layer / name

    def shipped_for(self, part: Path) -> Path | None:
        """What the layer has of the artifact that is being made; None = nothing.

        Args:
            part: the folder that `load_or_make` lets it be made in.

        Raises:
            DamagedArtifact: what the layer has is damaged.
        """
        shipped = self.shipped(part.name.removesuffix(".part"))
        if shipped:
            integrity.check(shipped)
        return shipped

    def has(self, stage: str, settings: Any, data: str = "") -> bool:
        """Whether the artifact is finished."""
        return self.folder(stage, settings, data).exists()

    def fetch(self, stage: str, settings: Any, data: str = "") -> Path:
        """`folder`, with the artifact in it where `has` knows one."""
        return self.folder(stage, settings, data)

    def from_any_data(self, stage: str, settings: Any) -> list[Path]:
        """The finished artifacts of these settings, whatever images they were made from."""
        name = f"{stage}-{key(settings)}"
        found = {}
        for root in (self.layer, self.root):  # what lies in the store comes first
            for path in root.glob(f"{name}*") if root else ():
                if is_artifact(path) and not provenance.lacks_pixels(path):
                    found[path.name] = path
        return [found[name] for name in sorted(found)]

    def load_or_make(
        self,
        stage: str,
        settings: Any,
        make: Callable[[Path], Any],
        data: str = "",
        whole: bool = False,
    ) -> Path:
        """Folder of a finished stage. Where another process makes it, this one waits and says so.

        Args:
            stage: name of the stage.
            settings: what its result depends on.
            make: fills the folder that it is given; called only if the artifact is missing.
            data: digest of the real images that it is made from; "" where settings say all.
            whole: an artifact of the layer that lacks its weights counts as missing.

        Raises:
            DamagedArtifact: the artifact is not as it was made.
        """
        done = self.folder(stage, settings, data)
        if whole and provenance.lacks_weights(done):
            done = self.root / done.name
        if done.exists():
            integrity.check(done)
            if done.parent == self.layer:
                provenance.say_shipped(done)
            return done
        part = done.with_name(done.name + ".part")
        part.mkdir(parents=True, exist_ok=True)
        lock = done.with_name(done.name + ".lock")
        maker = f"the process that makes {done.name} in {self.root}"
        with announced_lock(lock, maker, stacklevel=4):
            if not done.exists():
                part.mkdir(exist_ok=True)  # the one that was waited for may have been deleted since
                remove_leftovers(part)
                self._fill(part, done.name, settings, make)
                os.replace(part, done)
        return done

    def _fill(self, part: Path, name: str, settings: Any, make: Callable[[Path], Any]) -> None:
        """Make an artifact in its unfinished folder, and list what it holds."""
        (part / integrity.LIST).unlink(missing_ok=True)  # of a call that was killed at its end
        make(part)
        write_json(part / "settings.json", settings)
        integrity.write_list(part)

    @property
    def roots(self) -> dict[str, Path]:
        """The folders that paths on disk are relative to, by the name written before them."""
        return {"store": self.root, "data": locations.data_root(self.data)}

    def relative(self, path: str | os.PathLike) -> str:
        """A path as it is written to disk: `store:...`, `data:...`, or as it is.

        Args:
            path: an absolute path, also with a `#row`, or an address.
        """
        return self.relatives([path])[0]

    def relatives(self, paths: Iterable[str | os.PathLike]) -> list[str]:
        """`relative` of many paths."""
        convert = self._to_disk()
        return [convert(str(path)) for path in paths]

    def absolute(self, text: str) -> str:
        """A path from disk as it is used in memory; the inverse of `relative`."""
        return self._from_disk()(text)

    def _to_disk(self) -> Callable[[str], str]:
        """`relative`, with the folders looked up once. The layer counts as the store."""
        roots = self.roots
        layer = {"store": self.layer} if self.layer else {}
        return lambda text: locations.relative(locations.relative(text, layer), roots)

    def _from_disk(self) -> Callable[[str], str]:
        """`absolute`, with the folders looked up once, those of artifacts in store or layer too."""
        roots, found = self.roots, {}

        def convert(text: str) -> str:
            artifact = _artifact_in(text)
            if not artifact:
                return locations.absolute(text, roots)
            if artifact not in found:
                found[artifact] = self.locate(artifact).parent
            return locations.absolute(text, {"store": found[artifact]})

        return convert

    def absent(self, table: pd.DataFrame) -> set[str]:
        """Names of the artifacts that a table refers to and that are not here.

        Args:
            table: rows with absolute paths, as of `read_table`.
        """
        names = set()
        for column in locations.PATH_COLUMNS:
            if column in table:
                texts = self.relatives(table[column].dropna())
                names |= {_artifact_in(text) for text in texts}
        return {name for name in names if name and not self.locate(name).exists()}

    def write_table(self, path: str | os.PathLike, table: pd.DataFrame) -> None:
        """Write a table as CSV, with the paths of its columns relative to the store or the data.

        Args:
            path: the file; it is replaced as a whole.
            table: rows with absolute paths in the columns of `locations.PATH_COLUMNS`.
        """
        moved = locations.map_paths(table, self._to_disk())
        write_atomic(path, moved.to_csv(index=False))

    def read_table(self, path: str | os.PathLike) -> pd.DataFrame:
        """A table that `write_table` wrote, with absolute paths on this machine."""
        import pandas as pd  # heavy, and only needed here

        table = pd.read_csv(path, low_memory=False)
        return locations.map_paths(table, self._from_disk())


def _artifact_in(text: str) -> str:
    """The first folder of a path of the store as it is on disk; "" for any other path."""
    name, colon, rest = text.partition(":")
    folder, slash, _ = rest.partition("/")
    return folder if name == "store" and colon and slash else ""
