"""Schema: what `data_manifests/<name>.json` may say of a dataset, and the columns of the one table
form for all of them.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cxrkit.config import paths
from cxrkit.config.vocabulary import HAS, known

LICENCES = (
    "permissive",
    "permissive_as_listed",
    "noncommercial",
    "noncommercial_noderivs",
    "not_stated",
    "research_only",
    "collection_cc_by_origin_unclear",
    "mixed",
    "your_own",
)


Https = Annotated[str, Field(pattern="^(https://.+)?$")]  # a manifest leads nowhere else


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Source(_Strict):
    """A public repository at one commit; a film lies there under `folder`/<source_path, else the
    name of our file>.
    """

    repo: str
    commit: str
    folder: str = ""


class Cut(_Strict):
    """A column of ours cut out of one of theirs by a pattern with one group."""

    column: str
    pattern: str


class Table(_Strict):
    """An annotation file. With `key` (a column of public file names) it labels films; without, its
    rows are the films.
    """

    file: str  # in the dataset's folder
    address: Https | None = None  # where `cxrkit data fetch` gets it
    sha256: str | None = None  # where it is known
    separator: str = ","
    key: str | None = None
    # ours -> theirs; a list = the first not blank; empty = our names or aliases
    columns: dict[str, str | list[str] | Cut] = {}


class Masks(_Strict):
    """Lung masks <mask_id>.png in a source, drawn on the whole film or on its centred square; 255
    lung, 127 ignore, 0 else.
    """

    source: str
    place: Literal["film", "square"]


class Manifest(_Strict):
    """One dataset."""

    name: str
    title: str
    about: str
    obtain: str
    licence: str
    licence_class: Literal[LICENCES]
    citation: list[str]
    provides: list[Literal[tuple(HAS)]]  # what its rows may carry
    group: str = ""  # group_id from patient_id, such as "n{:0>8}"; blank = <name>:<patient_id>
    path: str = "{}"  # where a film lies in the folder
    tables: list[Table] = []
    repeats: bool = False  # one film may fill several rows of a table (boxes); the first counts
    glob: str | None = None  # lists the films where no table does
    pattern: str | None = None  # named groups of a found path
    constants: dict[str, str] = {}  # columns with one value for all films
    # how findings are read (`labels.RULES`)
    rule: Literal["named", "listed", "columns"] | None = None
    findings: dict[str, list[str]] = {}  # for "listed": ours -> their words, any of which makes a 1
    words: dict[str, str] = {}  # spellings of a diagnosis that hold for this source alone
    sources: dict[str, Source] = {}
    address: Https = ""  # of a public file, with {repo}, {commit}, {path}
    masks: Masks | None = None
    # counts of the release: "films", "groups", "view=PA", "diagnosis=covid19", "brixia_A" ...
    expected: dict[str, int] = {}
    paper: dict[str, int] = {}  # what Park et al. state of the same counts

    def has(self, what):
        """May rows of this dataset carry `what` (a key of HAS, such as "lesion")? `manifest.has`
        asks a table instead.
        """
        return known(what, HAS, "question") in self.provides


def manifest_dir():
    """The checkout's `data_manifests/`, else the copy inside the installed package."""
    checkout = paths.PACKAGE.parent / "data_manifests"
    return checkout if checkout.is_dir() else paths.PACKAGE / "data_manifests"


def names():
    """Names of all datasets, sorted."""
    return sorted(path.stem for path in manifest_dir().glob("*.json"))


def load(name):
    """Manifest by name. Raises ValueError naming file and field, or the known names."""
    path = manifest_dir() / f"{known(name, names(), 'dataset')}.json"
    try:
        return Manifest.model_validate_json(path.read_text("utf-8"))
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(
            f"{path.name}, field {'.'.join(map(str, first['loc'])) or '-'}: {first['msg']}"
        ) from None
