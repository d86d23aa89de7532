"""Files: predictions for many images, as a table and as maps; the command `cxrkit predict`."""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image as Raster
from PIL import PngImagePlugin
from tqdm import tqdm

from cxrkit import __version__
from cxrkit.config import vocabulary
from cxrkit.config.vocabulary import DIAGNOSES
from cxrkit.data import preprocessing
from cxrkit.explain.methods import DEFAULT_METHOD, METHODS
from cxrkit.inference import dicom_out as dicom_writer
from cxrkit.inference import dicom_tags, html_report, predictor, search
from cxrkit.inference.calibration_statement import calibration_statement
from cxrkit.inference.outputs import (
    ABOUT,
    NOT_READ,
    TABLE,
    Entry,
    NotOursError,
    OutputError,
    OutputFolder,
    csv_text,
    open_folder,
)
from cxrkit.inference.predictor import COLUMNS, Prediction
from cxrkit.inference.search import SUFFIXES, NotRead, printable
from cxrkit.inference.severity_statement import severity_statement
from cxrkit.inference.trained import Models

if TYPE_CHECKING:
    import pydicom

MAPS = ("lungs", "severity", *(f"saliency_{name}" for name in DIAGNOSES), "overlay")
DICOM_FILES = ("image", "overlay", "seg", "sr")  # of `dicom_out.dicom_files`
DICOM_OUT = ("sc", "all")  # the secondary captures, or all of DICOM_FILES
TABLE_COLUMNS = (
    *COLUMNS,
    *("view", "model", "version", "usable", "unusable_because", "novelty", "sha256"),
    *(f"map_{name}" for name in MAPS),
    "html",
    *(f"dicom_{name}" for name in DICOM_FILES),
)
NOT_READ_COLUMNS = ("kind", "name", "count", "reason")
NAME_DIGITS = 10  # hexadecimal digits of the path in the name of a map
STEM_BYTES = 60  # of an image's name in the name of a map
SHOWN = {  # by `Sources.framing`
    "whole": "",
    "crop": "the model is shown the box around the lungs; ",
    "lungs": "the model is shown the lungs alone; ",
}
UNUSED_TAG = "a DICOM tag with a value that cxrkit predict does not use"


@dataclass(frozen=True)
class Wanted:
    """Which files each image gets beside its row.

    Attributes:
        maps: Maps as PNG.
        html: A page to look at.
        dicom_out: One of DICOM_OUT; None = no DICOM files.
        keep_patient: DICOM files keep patient and study of the input.
    """

    maps: bool = False
    html: bool = False
    dicom_out: str | None = None
    keep_patient: bool = False

    def kinds(self) -> list[str]:
        """The kinds of files by name, as the record keeps them."""
        kinds = ["maps"] * self.maps + ["html"] * self.html
        return kinds + [f"dicom {self.dicom_out}"] * bool(self.dicom_out)


@dataclass
class Result:
    """What became of the images of one call.

    Attributes:
        predicted: How many were predicted now.
        unchanged: How many were finished by an earlier run.
        failures: What failed, in words; empty where every image was predicted.
        not_read: What was passed over, and what failed.
        own_maps: How many own maps were passed over.
        unusable: How many of those predicted now are unusable.
    """

    predicted: int = 0
    unchanged: int = 0
    failures: list[str] = field(default_factory=list)
    not_read: list[NotRead] = field(default_factory=list)
    own_maps: int = 0
    unusable: int = 0


def unique_stems(paths: Iterable[Path | str]) -> list[str]:
    """First part of the names of the maps of each image: its stem, and a hash of its path.

    It does not depend on the other images, and differs for any two of them.

    Args:
        paths: Of images, each once.

    Returns:
        <stem>-<10 hexadecimal digits>; letters that a file system may refuse become "_".
    """
    hashes = [_path_hash(path) for path in paths]
    short = Counter(one[:NAME_DIGITS] for one in hashes)
    stems = []
    for path, one in zip(paths, hashes, strict=True):
        stem = re.sub(r"[^\w .()+,=@-]|[\udc80-\udcff]", "_", Path(path).stem)
        stem = stem.encode()[:STEM_BYTES].decode("utf-8", "ignore")
        digits = NAME_DIGITS if short[one[:NAME_DIGITS]] == 1 else len(one)
        stems.append(f"{stem}-{one[:digits]}")
    return stems


def _path_hash(path: Path | str) -> str:
    return hashlib.sha256(os.fsencode(os.path.abspath(path))).hexdigest()


def encode_maps(prediction: Prediction, stem: str) -> dict[str, bytes]:
    """The maps of a prediction as PNG, at the size of the image.

    Args:
        prediction: With maps.
        stem: First part of the file names.

    Returns:
        Content of <stem>_lungs.png (0 or 255), <stem>_severity.png and
        <stem>_saliency_<class>.png (0 to 255 for 0 to 1), and <stem>_overlay.png, in colour
        (`overlay.severity_overlay`), by name. A text in each file says that it is a map, so that it
        is not read as an image.
    """
    pictures = {
        name: np.rint(values.astype(np.float32) * 255).astype(np.uint8)
        for name, values in prediction.maps.items()
    }
    if prediction.overlay is not None:
        pictures["overlay"] = prediction.overlay
    text = PngImagePlugin.PngInfo()
    text.add_text("Software", search.MAP_MARK.decode())
    files = {}
    for name, picture in pictures.items():
        png = io.BytesIO()
        Raster.fromarray(picture).save(png, "png", pnginfo=text, compress_level=1)
        files[f"{stem}_{name}.png"] = png.getvalue()
    return files


def write_maps(prediction: Prediction, folder: Path, stem: str) -> None:
    """Write the maps of a prediction; see `encode_maps`.

    Args:
        prediction: With maps.
        folder: Gets the files; those of the same names are overwritten.
        stem: First part of the file names.
    """
    for name, content in encode_maps(prediction, stem).items():
        (folder / name).write_bytes(content)


def content_hash(path: Path) -> str:
    """SHA-256 of a file; empty where it cannot be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""


def predict_files(
    paths: Iterable[Path | str],
    out: Path | str,
    models: Models,
    view: str | None = None,
    maps: bool = False,
    progress: bool = True,
    device: torch.device | str | None = None,
    overwrite: bool = False,
    say: Callable[[str], object] | None = None,
    map_method: str = DEFAULT_METHOD,
    even_unusable: bool = False,
    html: bool = False,
    dicom_out: str | None = None,
    keep_patient: bool = False,
) -> list[str]:
    """Predict for files and folders. An image that fails does not stop the others.

    Each row is on the disk before the next image is looked at. The same call goes on where an
    earlier one was interrupted: an image is predicted again only where its content has changed.

    Args:
        paths: See `find_images`.
        out: Folder that gets predictions.csv, not_read.csv, about.txt, the record and, with `maps`,
            the maps. Rows of earlier runs with the same models and view stay in the table.
        models: See `load_models`.
        view: "PA" or "AP" for all images; None = as `predict` finds it.
        maps: Also write the maps.
        progress: Show a progress bar on a terminal.
        device: Where to compute; None = `pick_device()`.
        overwrite: Begin anew, and overwrite files that stand in the way.
        say: Gets the closing line.
        map_method: Makes the maps of the diagnoses; a key of `cxrkit.explain.METHODS`.
        even_unusable: Give numbers and maps also for unusable images; see `predict`.
        html: Also write a page of each image to look at (`html_report`).
        dicom_out: "sc" writes the overlay as a DICOM secondary capture, "all" also a segmentation
            and a structured report; None = no DICOM files.
        keep_patient: These keep patient and study of an input that is a DICOM file; else nothing
            of them stands there.

    Returns:
        What failed, in words; empty where every image was predicted.

    Raises:
        OutputError: The folder cannot take the results, or holds maps of another method; rows that
            were written are kept.
        ValueError: The method or the choice of DICOM files is unknown.
    """
    vocabulary.known(map_method, tuple(METHODS), "map method")
    if dicom_out:
        vocabulary.known(dicom_out, DICOM_OUT, "choice of DICOM files")
        _check_dicom_out(dicom_out)
    asked, wanted = list(paths), Wanted(maps, html, dicom_out, keep_patient)
    settings = {
        "models": models.digest(),
        "view": view,
        "version of cxrkit": __version__,
        "answers for unusable films": even_unusable,
        "patients in DICOM files": keep_patient,
    }
    count, kinds = len(asked), wanted.kinds()

    def ask(path: Path, kinds: Collection[str]) -> Prediction:
        return predictor.predict(path, models, view, bool(kinds), device, map_method, even_unusable)

    common = {"model": model_name(models), "version": __version__}
    writer = Writer(models, common, keep_patient)

    with open_folder(Path(out), settings, TABLE_COLUMNS, count, overwrite) as output:
        if maps:  # the other files hold no saliency
            output.use_map_method(map_method)
        output.write_files({ABOUT: about_text(models, output.map_method).encode()})
        found = search.find_images(asked)
        output.check(len(found.images))
        result = Result(not_read=list(found.not_read), own_maps=found.own_maps)
        bar = tqdm(found.images, unit="image", disable=None if progress else True)
        for path, stem in zip(bar, unique_stems(found.images), strict=True):
            _one_image(path, stem, output, ask, kinds, writer, result)
        output.write_files({NOT_READ: not_read_text(result, output, found.images).encode()})
    if say:
        say(closing_line(result, output))
    if not found.images:
        names = printable(", ".join(map(str, asked)))
        result.failures.append(f"no film in {names}: {', '.join(SUFFIXES)} are read")
    return result.failures


def _one_image(
    path: Path,
    stem: str,
    output: OutputFolder,
    ask: Callable[[Path, Collection[str]], Prediction],
    kinds: Collection[str],
    writer: Writer,
    result: Result,
) -> None:
    """Predict for one image, unless an earlier run did; write its files and its row."""
    image, content = printable(os.path.abspath(path)), content_hash(path)
    if content and output.is_finished(image, content, kinds):
        result.unchanged += 1
        return
    kinds = sorted({*kinds, *output.kinds_of(image, content)})
    try:
        prediction = ask(path, kinds)
        header = dicom_tags.read_header(path)
        made = writer.files(prediction, path, header, content, kinds)
    except Exception as error:
        # whatever is wrong with one image of ten thousand, the rest must be predicted
        _fail(result, path, error)
        return
    files = {f"{stem}_{name}": content for name, content in made.values()}
    try:
        output.write_files(files)
    except NotOursError as error:
        _fail(result, path, error)
        return
    row = {
        **prediction.row(printable(str(path))),
        **writer.common,
        "view": prediction.view,
        "usable": "yes" if prediction.usable else "no",
        "unusable_because": "; ".join(prediction.unusable),
        "novelty": prediction.novelty,
        "sha256": content,
    }
    row |= {column: f"{stem}_{name}" for column, (name, _) in made.items()}
    cells = [_cell(row.get(column, "")) for column in TABLE_COLUMNS]
    tags = [] if header is None else dicom_tags.unused_tags(header)
    output.add(Entry(image, content, cells, list(files), tags, kinds))
    result.predicted += 1
    result.unusable += not prediction.usable


@dataclass(frozen=True)
class Writer:
    """Makes the files of an image.

    Attributes:
        models: That predict.
        common: Cells that all rows share: `model` and `version`.
        keep_patient: See `Wanted`.
    """

    models: Models
    common: Mapping[str, str]
    keep_patient: bool = False

    def files(
        self,
        prediction: Prediction,
        path: Path,
        header: pydicom.Dataset | None,
        content: str,
        kinds: Collection[str],
    ) -> dict[str, tuple[str, bytes]]:
        """The files of an image.

        Args:
            prediction: With maps where `kinds` names any.
            path: Of the image.
            header: Of a DICOM file.
            content: Hash of the file.
            kinds: See `Wanted.kinds`.

        Returns:
            By column of predictions.csv: last part of the name, and content. An unusable image
            without numbers has an HTML page alone.
        """
        made = {}
        if "maps" in kinds:
            for name, png in encode_maps(prediction, "").items():
                kind = name.removeprefix("_")
                made[f"map_{kind.removesuffix('.png')}"] = (kind, png)
        if "html" in kinds:
            said = html_report.Statements(
                self._statement(), calibration_text(self.models), self._made_by(content)
            )
            page = html_report.html_report(prediction, printable(path.name), said)
            made["html"] = ("report.html", page.encode())
        everything = "dicom all" in kinds
        if (everything or "dicom sc" in kinds) and prediction.has_numbers:
            kept = header if self.keep_patient else None
            shown = self._shown(path) if kept is None else np.empty(0)
            severity = self.models.parts["severity"]
            maker = dicom_writer.Maker(self.common["model"], predictor.contour_of(severity))
            found = dicom_writer.dicom_files(prediction, shown, content, maker, kept, everything)
            for kind, data in found.items():
                made[f"dicom_{kind}"] = (f"{kind}.dcm", data)
        return made

    def _statement(self) -> str:
        severity = self.models.parts["severity"]
        return severity_statement(severity.metrics, severity.profile.choices.brixia_threshold)

    def _made_by(self, content: str) -> dict[str, str]:
        """What stands at the end of a page."""
        return {
            "version": f"cxrkit {self.common['version']}",
            "models": f"{self.common['model']} ({self.models.origin})",
            "terms of their training films": self.models.licence,
            "SHA-256 of the film": content,
        }

    def _shown(self, path: Path) -> np.ndarray:
        """The film as the models were given it, uint8 (H, W)."""
        opened, _ = predictor.open_image(path)
        choices = opened.choices(self.models.parts["severity"].profile.choices)
        return preprocessing.to_uint8(opened.pixels, choices.stretch)


def _check_dicom_out(choice: str) -> None:
    """Refuse DICOM files that cannot be made here, before the first film."""
    missing = dicom_writer.missing() if choice == "all" else ""
    if missing:
        raise OutputError(missing)


def model_name(models: Models) -> str:
    """Which models predict, in one word: the profiles that made them and a hash of all of them.

    Args:
        models: That predict.
    """
    names = dict.fromkeys(part.profile.name for part in models.parts.values())
    return "-".join((*names, models.digest()))


def _cell(value: object) -> str:
    """A cell of predictions.csv; numbers, those of numpy too, have four digits; NaN is blank."""
    if isinstance(value, (float, np.floating)):
        return "" if np.isnan(value) else f"{value:.4f}"
    return str(value)


def _fail(result: Result, path: Path, error: Exception) -> None:
    """Remember an image that was skipped; messages of the kit name the file themselves."""
    name = str(path)
    reason = str(error)
    if name not in reason:
        reason = f"{name}: {type(error).__name__}: {error}"
    result.failures.append(printable(f"skipped {reason}"))
    reason = reason.removeprefix(f"{name}: ")
    result.not_read.append(NotRead("file", printable(name), printable(reason)))


def about_text(models: Models, map_method: str | None) -> str:
    """The content of about.txt: `Models.about`, calibration, and what makes the maps.

    Args:
        models: That predict.
        map_method: See `OutputFolder`.
    """
    about = models.about + calibration_text(models)
    if map_method is None:
        return about
    return f"{about}Saliency maps: method {map_method} (docs/explain.md).\n"


def calibration_text(models: Models) -> str:
    """What each diagnosis model is shown, and how far its probabilities are off, a line each.

    Args:
        models: That predict.
    """
    lines = [
        f"{stage}: {SHOWN[part.profile.sources.framing]}{calibration_statement(part.metrics)}\n"
        for stage, part in models.networks.items()
        if stage.startswith("diagnosis")
    ]
    return "".join(dict.fromkeys(lines))


def not_read_text(result: Result, output: OutputFolder, images: Sequence[Path]) -> str:
    """The content of not_read.csv: files, folders, and tags that no prediction uses.

    Args:
        result: Of the images.
        output: Knows the tags of finished images.
        images: Of this call.
    """
    tags: Counter[str] = Counter()
    for path in images:
        entry = output.entries.get(printable(os.path.abspath(path)))
        if entry:
            tags.update(entry.tags)
    rows = [
        *result.not_read,
        *(NotRead("tag", name, UNUSED_TAG, tags[name]) for name in sorted(tags)),
    ]
    return csv_text(
        [NOT_READ_COLUMNS, *((one.kind, one.name, one.count, one.reason) for one in rows)]
    )


def closing_line(result: Result, output: OutputFolder) -> str:
    """What became of the images, in words.

    Args:
        result: Of the images.
        output: Where the results lie.
    """
    parts = [f"{result.predicted} images predicted"]
    if result.unusable:
        parts[0] += f" ({result.unusable} of them unusable: see {TABLE})"
    if result.unchanged:
        parts.append(f"{result.unchanged} finished before")
    failed = len(result.failures)
    passed = Counter(one.kind for one in result.not_read)
    if failed:
        parts.append(f"{failed} failed")
    if passed["file"] > failed:
        parts.append(f"{passed['file'] - failed} files passed over")
    if passed["folder"]:
        parts.append(f"{passed['folder']} folders passed over")
    if result.own_maps:
        parts.append(f"{result.own_maps} own maps passed over")
    return (
        f"{', '.join(parts)}; {TABLE} has {len(output.entries)} rows; what was not read or not "
        f"used: {output.folder / NOT_READ}"
    )
