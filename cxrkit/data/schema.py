"""What `data_manifests/<name>.json` may say of a dataset."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cxrkit.config import paths
from cxrkit.config.vocabulary import HAS, Question, known

Licence = Literal[
    "permissive",
    "permissive_as_listed",
    "noncommercial",
    "noncommercial_noderivs",
    "not_stated",
    "research_only",
    "collection_cc_by_origin_unclear",
    "mixed",
    "your_own",
]

Https = Annotated[str, Field(pattern="^(https://.+)?$")]  # a manifest leads nowhere else


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Source(_Strict):
    """A public repository at one commit.

    An image lies there under `folder`/<source_path>, or under the name of our file.
    """

    repo: str
    commit: str
    folder: str = ""


class Cut(_Strict):
    """A column of ours cut out of one of theirs by a pattern with one group."""

    column: str
    pattern: str


class Table(_Strict):
    """An annotation file.

    With `key` (a column of public file names) it labels images; without, its rows are the images.
    """

    file: str  # in the dataset's folder
    address: Https | None = None  # where `cxrkit data fetch` gets it
    sha256: str | None = None  # where it is known
    separator: str = ""  # only where the header fits several; it is found by `tables.read_table`
    key: str | None = None
    # ours -> theirs; a list = the first not blank; empty = our names or aliases
    columns: dict[str, str | list[str] | Cut] = {}
    unread: list[str] = []  # columns that are there on purpose and mean nothing to the kit
    dates: str = ""  # form of the dates in `visit`, such as "%Y%m%d"; blank = numbers


class Masks(_Strict):
    """Lung masks <mask_id>.png in a source: 255 lung, 127 ignore, 0 else.

    They cover the whole image ("film") or its centred square.
    """

    source: str
    place: Literal["film", "square"]
    above: int | None = None  # where edges are grey: lung is what is brighter than this


class Manifest(_Strict):
    """One dataset."""

    name: str
    title: str
    about: str
    obtain: str
    licence: str
    licence_class: Licence
    citation: list[str]
    provides: list[Question]  # what its rows may carry
    group: str = ""  # group_id from patient_id, such as "n{:0>8}"; blank = <name>:<patient_id>
    path: str = "{}"  # where an image lies in the folder
    tables: list[Table] = []
    repeats: bool = False  # an image may fill several rows of a table (boxes); the first counts
    glob: str | None = None  # lists the images where no table does
    pattern: str | None = None  # named groups of a found path
    reader: str | None = (
        None  # key of `public_trees.READERS`, where a tree needs a reader of its own
    )
    lowest_quality: float = 0  # of an automatic mask, where its makers measured one
    same_patients: list[str] = []  # datasets that show the same patients under other names
    constants: dict[str, str] = {}  # columns with one value for all images
    # how findings are read (`labels.RULES`)
    rule: Literal["named", "listed", "columns"] | None = None
    findings: dict[str, list[str]] = {}  # for "listed": ours -> their words, any of which makes a 1
    words: dict[str, str] = {}  # spellings of a diagnosis that hold for this source alone
    sources: dict[str, Source] = {}
    address: Https = ""  # of a public file, with {repo}, {commit}, {path}
    masks: Masks | None = None
    # counts of the release: "films", "groups", "view=PA", "diagnosis=covid19", "brixia_A" ...;
    # a list where several releases are right
    expected: dict[str, int | list[int]] = {}
    paper: dict[str, int] = {}  # what Park et al. state of the same counts

    def has(self, what: str) -> bool:
        """Whether rows of this dataset may carry `what`; `manifests.has` asks a table instead.

        Args:
            what: a key of HAS, such as "lesion".
        """
        return known(what, HAS, "question") in self.provides


def overlapping(names: Collection[str]) -> list[tuple[str, str]]:
    """Pairs of datasets of a collection that show the same patients under other names.

    Args:
        names: of datasets.

    Returns:
        (name, the dataset among `names` whose patients it shows again), sorted.
    """
    pairs = []
    for name in sorted(names):
        pairs += [(name, other) for other in load(name).same_patients if other in names]
    return pairs


def say_overlaps(taken: Collection[str], root: Path) -> list[str]:
    """What a plan says of datasets that show the same patients under other names.

    Args:
        taken: datasets of a profile.
        root: folder of all datasets.

    Returns:
        A sentence for each such dataset that the profile takes, or that lies in `root` unused.
    """
    there = {name for name in names() if name in taken or (root / name).is_dir()}
    lines = []
    for name, other in overlapping({*taken, *there}):
        if name in taken and other in taken:
            lines.append(
                f"{name} shows patients of {other} under other names: results of the two are not "
                f"independent; leave one out, as in --profile NAME-{name}"
            )
        elif other in taken:
            lines.append(f"{name} stays out: its films are those of {other} under other names")
    return lines


def manifest_dir() -> Path:
    """The checkout's `data_manifests/`, else the copy inside the installed package."""
    checkout = paths.PACKAGE.parent / "data_manifests"
    return checkout if checkout.is_dir() else paths.PACKAGE / "data_manifests"


def names() -> list[str]:
    """Names of all datasets, sorted."""
    return sorted(path.stem for path in manifest_dir().glob("*.json"))


def load(name: str) -> Manifest:
    """The manifest of a dataset.

    Args:
        name: of the dataset.

    Raises:
        ValueError: the name is unknown (the message lists the known ones), or the file is wrong
            (the message names file and field).
    """
    path = manifest_dir() / f"{known(name, names(), 'dataset')}.json"
    try:
        return Manifest.model_validate_json(path.read_text("utf-8"))
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(
            f"{path.name}, field {'.'.join(map(str, first['loc'])) or '-'}: {first['msg']}"
        ) from None
