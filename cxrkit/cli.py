"""The command `cxrkit`. Imports wait inside the commands, so that `--help` answers at once."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from cxrkit import NOTICE, __version__

if TYPE_CHECKING:
    from cxrkit.config.sections import Profile
    from cxrkit.inference import Models

DRY_LESSONS = ("02", "03", "04", "05", "06", "07")  # of a dry run

# all of `explain.METHODS` but "random", which explains nothing; a test compares the two
MAP_METHODS = (
    "attnlrp",
    "relevance",
    "raw_attention",
    "rollout",
    "gradient_rollout",
    "attention_gradcam",
    "gradcam",
    "gradient_x_input",
    "smoothgrad",
    "integrated_gradients",
    "occlusion",
    "fullgrad",
)

FOLDER = click.Path(file_okay=False, path_type=Path)
EXISTING_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
EXISTING_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)

OUT = click.option(
    "--out",
    type=FOLDER,
    default=None,
    help="Store for results [default: CXRKIT_STORE, else artifacts/ of the checkout, else the "
    "user's cache].",
)
DATA = click.option(
    "--data",
    "data_dir",
    type=EXISTING_FOLDER,
    default=None,
    help="Folder with the datasets, each in a folder of its name (docs/paper.md) [default: "
    "CXRKIT_DATA, else data/ of the store].",
)
MIRROR = click.option(
    "--mirror",
    type=EXISTING_FOLDER,
    default=None,
    help="Folder with prepared images, instead of a download.",
)


def leave_out_layer() -> None:
    """For this process and those that it starts, the kernels of the lessons among them."""
    os.environ["CXRKIT_FRESH"] = "1"


def _ignore_layer(context: click.Context, option: click.Parameter, value: bool) -> bool:
    """The callback of `--fresh`."""
    if value:
        leave_out_layer()
    return value


FRESH = click.option(
    "--fresh",
    is_flag=True,
    expose_value=False,
    callback=_ignore_layer,
    help="Make everything here: take no finished stage that comes with the kit. CXRKIT_FRESH=1 "
    "does the same for a notebook.",
)
ROOT = click.option(
    "--root",
    "--mirror",
    "root",
    type=EXISTING_FOLDER,
    default=None,
    help="Folder of the datasets, or of this one [default: CXRKIT_DATA, else data/ of the store].",
)


def profile_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that choose a profile and change single fields of it."""
    options = (
        click.option(
            "--profile",
            default="demo",
            show_default=True,
            help="demo (virtual hospitals, CPU), quick (the same, trained in minutes), mini, "
            "public, paper; or a settings file.",
        ),
        click.option(
            "--set",
            "assignments",
            multiple=True,
            metavar="FIELD=VALUE",
            help="Another value for a field of the profile, e.g. --set seed=3 --set "
            "transformer_training.batch=4; may be repeated.",
        ),
        click.option(
            "--choices",
            type=click.Choice(["author", "text"]),
            default=None,
            help="The open choices as the authors' later code or as the paper's text has them.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


NO_WRITING = (
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOSPC,
    errno.EFBIG,
    getattr(errno, "EDQUOT", errno.ENOSPC),
)


def message_of(error: Exception) -> str:
    """An error in one line; of a file system that refuses, the file and the next step."""
    if not isinstance(error, OSError) or not error.strerror:
        return str(error)
    text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    if error.errno in NO_WRITING:
        text += (
            "; make room or allow writing there, or choose another folder: --out or CXRKIT_STORE"
        )
    return text


def fail(error: Exception) -> NoReturn:
    """End with the message of an error that the user can repair."""
    raise click.ClickException(message_of(error)) from error


class Commands(click.Group):
    """Commands that end in one line where the file system refuses or an artifact is damaged."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command that was asked for."""
        try:
            return super().invoke(ctx)
        except OSError as error:
            if error.errno == errno.EPIPE:  # `cxrkit ... | head`: click ends without a word
                raise
            fail(error)


def needs_extra(name: str, what: str) -> None:
    """End the command where an extra is missing, with the line that installs it."""
    from cxrkit.config.extras import MissingExtra, require_extra

    try:
        require_extra(name, what)
    except MissingExtra as error:
        fail(error)


def chosen_profile(name: str, assignments: Sequence[str], choices: str | None) -> Profile:
    """The profile of the command line; a wrong name or field ends the command."""
    from cxrkit.config.settings_file import resolve_profile

    try:
        return resolve_profile(name, assignments, choices)
    except ValueError as error:
        fail(error)


def end_with(problems: Sequence[str]) -> None:
    """List what went wrong on stderr and leave with status 1, if anything did."""
    shown = list(problems[:20])
    if len(problems) > 20:
        shown.append(f"... and {len(problems) - 20} more")
    for problem in shown:
        click.echo(problem, err=True)
    if problems:
        sys.exit(1)


@click.group(cls=Commands, epilog=NOTICE)
@click.version_option(__version__, package_name="cxrkit")
def main() -> None:
    """cxrkit: the reference kit for chest X-ray transformers (Park et al. 2021)."""
    from cxrkit.storage.locations import fix_environment

    fix_environment()


# data


@main.group()
def data() -> None:
    """List, fetch and verify datasets, and look for leakage between splits."""


@data.command("list")
def list_datasets() -> None:
    """All datasets: images, licence, what their rows carry, how to obtain them."""
    from cxrkit.data import schema

    for name in schema.names():
        spec = schema.load(name)
        right = spec.expected.get("films", "?")  # Brixia's owner published two counts
        count = " or ".join(map(str, right)) if isinstance(right, (list, tuple)) else str(right)
        carries = ", ".join(spec.provides)
        click.echo(f"{name:16} {count:>12} images  {spec.licence_class:32} {carries}")
        click.echo(f"{'':16} {spec.title}")
        click.echo(f"{'':16} obtain: {spec.obtain}")


@data.command()
@click.argument("name")
@click.option(
    "--mirror",
    type=EXISTING_FOLDER,
    envvar="CXRKIT_MIRROR",
    default=None,
    help="Take prepared images from this folder instead of the public addresses [env: "
    "CXRKIT_MIRROR].",
)
@click.option(
    "--root",
    type=FOLDER,
    default=None,
    help="Where to put them [default: CXRKIT_DATA, else data/ of the store].",
)
@click.option(
    "--archive",
    "archives",
    type=EXISTING_FILE,
    multiple=True,
    help="Unpack this archive of a full dataset, downloaded by hand; may be repeated.",
)
@click.option("--jobs", default=4, show_default=True, help="Downloads at a time.")
def fetch(
    name: str, mirror: Path | None, root: Path | None, archives: tuple[Path, ...], jobs: int
) -> None:
    """Get the images of NAME, verified; says first how many bytes.

    Exit status 1 if a file failed, naming it.
    """
    from cxrkit.data import downloads, fetching, schema
    from cxrkit.storage.locations import data_root

    failures: list[str] = []
    try:
        folder = data_root(root) / schema.load(name).name
        if archives:
            unpacked = sum(len(downloads.extract(archive, folder)) for archive in archives)
            click.echo(f"{folder}: {unpacked} files unpacked")
        else:
            failures = fetching.fetch(name, root, mirror, jobs, say=click.echo)
            click.echo(f"{folder}: {len(failures)} failures")
    except (downloads.FetchError, ValueError, OSError) as error:
        fail(error)
    end_with(failures)


@data.command()
@click.argument("name")
@ROOT
def verify(name: str, root: Path | None) -> None:
    """Check a copy of NAME against its manifest: hashes of images, counts of tables.

    Exit status 1 on a difference.
    """
    from cxrkit.data import fetching

    try:
        problems, counts = fetching.verify(name, root)
    except (ValueError, OSError) as error:
        fail(error)
    click.echo(counts.dropna(axis=1, how="all").to_string(na_rep="-"))
    click.echo(f"{name}: {len(problems)} problems")
    end_with(problems)


@data.command()
@click.argument("folder", type=EXISTING_FOLDER)
@click.option("--table", default="films.csv", show_default=True, help="The table in FOLDER.")
@click.option(
    "--column",
    "columns",
    multiple=True,
    metavar="OURS=THEIRS",
    help="A column that is called otherwise, e.g. --column path=filename; may be repeated.",
)
@click.option(
    "--dates",
    type=click.Choice(["dmy", "mdy", "ymd"]),
    default=None,
    help="Order of day, month and year in visit, where the dates fit several.",
)
@click.option(
    "--lost-zeros",
    is_flag=True,
    help="Digits of array and brixia became numbers: put zeros in front of the short ones.",
)
def convert(
    folder: Path, table: str, columns: tuple[str, ...], dates: str | None, lost_zeros: bool
) -> None:
    """Rewrite a table of your own in FOLDER as films.csv, and say what was taken as what.

    Semicolons, tabs, decimal commas, comments and dates are understood. A films.csv of another form
    is kept as films_original.csv; nothing is overwritten.
    """
    from cxrkit.data import conversion

    pairs = [pair.partition("=") for pair in columns]
    for ours, equals, theirs in pairs:
        if not (ours and equals and theirs):
            raise click.BadParameter(f"{ours}{equals}{theirs}: write OURS=THEIRS")
    names = {ours: theirs for ours, _, theirs in pairs}
    try:
        conversion.convert(folder, table, names, dates or "", lost_zeros, click.echo)
    except (ValueError, OSError) as error:
        fail(error)


@data.command("croissant")
@click.argument("name")
@click.option("--out", "path", type=click.Path(dir_okay=False, path_type=Path), default=None)
def write_croissant(name: str, path: Path | None) -> None:
    """Write the Croissant metadata of a dataset (JSON-LD), to the terminal or to the file --out."""
    import json

    from cxrkit.data import croissant
    from cxrkit.storage.atomic import write_atomic

    try:
        text = json.dumps(croissant.metadata(name), indent=2, ensure_ascii=False) + "\n"
    except ValueError as error:
        fail(error)
    if path is None:
        click.echo(text, nl=False)
        return
    write_atomic(path, text)
    click.echo(path)


@data.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@ROOT
def leakage(names: tuple[str, ...], root: Path | None) -> None:
    """Look for patients and near-identical images in two splits, within and between NAMEs.

    Exit status 1 if there are any.
    """
    import pandas as pd

    from cxrkit.data import leakage as leaks
    from cxrkit.data import manifests

    try:
        tables = [manifests.read_manifest(name, root, apart=False) for name in names]
        table = pd.concat(tables, ignore_index=True)
        found = leaks.find_leaks(table)
    except (ValueError, OSError) as error:
        fail(error)
    click.echo(pd.crosstab(table["dataset"], table["split"], margins=True).to_string())
    end_with(
        [f"{row.kind}: {row.what} in {row.splits} ({row.detail})" for row in found.itertuples()]
    )
    click.echo("no patient and no near-identical image in two splits")


# running


@main.command()
@profile_options
@MIRROR
@DATA
@click.option(
    "--dry-run",
    is_flag=True,
    help="Full size, few images, two steps a training, lessons 02 to 07: does it all run here?",
)
@click.option(
    "--plan", "only_plan", is_flag=True, help="Say what it will cost on this machine, and stop."
)
@click.option(
    "--only",
    multiple=True,
    metavar="LESSON",
    help="Run this lesson alone, by number or name, e.g. 04; may be repeated.",
)
@click.option(
    "--scheduler",
    metavar="ADDRESS",
    default=None,
    help="Run the grid of lesson 07 on this Dask cluster (docs/cluster.md).",
)
@click.option(
    "--workers",
    type=click.IntRange(0),
    default=None,
    help="Run it in so many processes of one thread on this machine.",
)
@click.option(
    "--jobs",
    type=click.IntRange(1),
    default=None,
    metavar="N",
    help="First make the stages that the lessons open, N at a time, then run the lessons, N at a "
    "time, each in a process of one thread [default: each lesson makes its own; where "
    "nothing is to be trained, two lessons at a time on a machine with two cores and 4 GB free].",
)
@click.option("--force", is_flag=True, help="Run lessons again that are up to date.")
@FRESH
@OUT
def reproduce(
    profile: str,
    assignments: tuple[str, ...],
    choices: str | None,
    mirror: Path | None,
    data_dir: Path | None,
    dry_run: bool,
    only_plan: bool,
    only: tuple[str, ...],
    scheduler: str | None,
    workers: int | None,
    jobs: int | None,
    force: bool,
    out: Path | None,
) -> None:
    """Run the notebooks headless, then write the report. Exit status 0 only if every lesson ran.

    PROFILE may leave datasets out: "paper-local" is paper without the dataset local. With --data or
    --dry-run the plan comes first: images, steps, hours, memory and disk, from a step measured on
    this machine.
    """
    needs_extra("lessons", "cxrkit reproduce")
    from cxrkit.config import profiles
    from cxrkit.config.settings_file import kit_profile, write_settings
    from cxrkit.reproduction import plan, report, runner
    from cxrkit.storage.artifacts import Store
    from cxrkit.training import distributed

    if distributed.world_size() > 1:
        raise click.ClickException(
            "torchrun would run every lesson in each of its processes: make the stages with "
            "`torchrun ... -m cxrkit stage NAME` first, then run `cxrkit reproduce` without it"
        )
    asked = chosen_profile(profile, assignments, choices)
    if dry_run:
        asked = replace(profiles.dry(asked), name=f"{asked.name}+dry")
        only = only or DRY_LESSONS
    profile = asked.name
    store = Store(out, data_dir or mirror)
    try:
        if asked != kit_profile(asked.name):
            # lessons run in processes of their own, and read the changed profile from a file
            path = store.root / "runs" / asked.name / "settings.yaml"
            profile = str(write_settings(asked, path).resolve())
        if data_dir or dry_run or only_plan:
            click.echo(plan.describe_in_subprocess(asked, store, only))
        if only_plan:
            return
        parameters = {
            "profile": profile,
            "mirror": mirror and str(mirror.resolve()),
            "data": data_dir and str(data_dir.resolve()),
            "scheduler": scheduler,
            "workers": workers,
        }
        failed = runner.reproduce(parameters, root=out, only=only, force=force, jobs=jobs or 0)
        path = report.write_report(profile, root=out, data=mirror or data_dir)
    except (runner.CannotRun, ValueError, OSError) as error:
        fail(error)
    click.echo(f"report: {path}")
    if failed:
        click.echo(f"failed: {', '.join(failed)}", err=True)
        sys.exit(1)


@main.command()
@click.argument("name")
@profile_options
@DATA
@FRESH
@OUT
def stage(
    name: str,
    profile: str,
    assignments: tuple[str, ...],
    choices: str | None,
    data_dir: Path | None,
    out: Path | None,
) -> None:
    """Make one stage, after those that it depends on, and say where it lies.

    NAME is cohort, backbone, segmenter, diagnosis_pa, diagnosis_ap, severity, saliency_benchmark,
    marker_study ... What is in the store, or comes with the kit, is loaded; what another process
    is making is waited for.
    On several GPUs, which then share each training: torchrun --standalone --nproc-per-node 4 -m
    cxrkit stage NAME ...
    """
    from cxrkit.pipeline import stages
    from cxrkit.storage.artifacts import Store
    from cxrkit.training import distributed

    asked = chosen_profile(profile, assignments, choices)
    store = Store(out, data_dir)
    try:
        stages.stage_of(name)
        with contextlib.redirect_stdout(sys.stderr):  # the folder alone goes to a script
            folder = distributed.on_rank0(lambda: stages.resolve(asked, name, store))
    except (ValueError, OSError) as error:
        fail(error)
    if folder:
        click.echo(folder)


@main.command("verify")
@profile_options
@click.option(
    "--images",
    type=click.IntRange(1),
    default=None,
    help="Of each stage, that are drawn and predicted again [default: 20, two minutes on a core].",
)
@click.option(
    "--retrain",
    is_flag=True,
    help="Train the stages of the profile instead, and compare their metrics with the margins of "
    "several seeds.",
)
@click.option(
    "--jobs", type=click.IntRange(1), default=2, show_default=True, help="Trainings at a time."
)
@click.option(
    "--out",
    type=FOLDER,
    default=None,
    help="Draw and train in this store, and take what it holds [default: a temporary one].",
)
def verify_results(
    profile: str,
    assignments: tuple[str, ...],
    choices: str | None,
    images: int | None,
    retrain: bool,
    jobs: int,
    out: Path | None,
) -> None:
    """Make results that come with the kit again: keys, labels, predictions, or trainings.

    Exit status 1 where one differs by more than is allowed. (`cxrkit store verify` compares the
    bytes of a store.)
    """
    from cxrkit.reproduction import agreement
    from cxrkit.storage.artifacts import Store

    asked = chosen_profile(profile, assignments, choices)
    if retrain:
        leave_out_layer()
    try:
        with contextlib.ExitStack() as stack:
            temporary = tempfile.TemporaryDirectory(prefix="cxrkit-verify-")
            store = Store(out or stack.enter_context(temporary))
            if retrain:
                margins = agreement.read_margins(asked)  # before hours of training
                agreement.train(asked, store, jobs, click.echo)
                found = agreement.check_trainings(asked, store, margins)
            else:
                found = agreement.check_shipped(asked, store, images or agreement.IMAGES)
    except (ValueError, OSError) as error:
        fail(error)
    click.echo(agreement.as_text(found))
    sys.exit(not all(one.ok for one in found))


@main.command()
@profile_options
@DATA
@OUT
def report(
    profile: str,
    assignments: tuple[str, ...],
    choices: str | None,
    data_dir: Path | None,
    out: Path | None,
) -> None:
    """Write the report from what is in the store, running nothing."""
    needs_extra("lessons", "cxrkit report")
    from cxrkit.reproduction.report import write_report

    asked = chosen_profile(profile, assignments, choices)
    try:
        click.echo(f"report: {write_report(asked, root=out, data=data_dir)}")
    except (ValueError, OSError) as error:
        fail(error)


@main.command()
@profile_options
@OUT
@DATA
@click.option("--csv", "path", type=click.Path(dir_okay=False, path_type=Path), default=None)
def subgroups(
    profile: str,
    assignments: tuple[str, ...],
    choices: str | None,
    out: Path | None,
    data_dir: Path | None,
    path: Path | None,
) -> None:
    """Show the finished models by sex, age band, view and site, with 95 % intervals by patient."""
    from cxrkit.reproduction.subgroups import subgroup_table
    from cxrkit.storage.artifacts import Store

    asked = chosen_profile(profile, assignments, choices)
    try:
        table = subgroup_table(asked, Store(out, data_dir))
        if path:
            table.to_csv(path, index=False)
    except (ValueError, OSError, RuntimeError) as error:
        fail(error)
    click.echo(path or table.to_string(index=False, float_format="%.3f", na_rep="-"))


@main.command("lessons")
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option("--nbgrader", is_flag=True, help="as assignments: each check in a locked cell")
@click.option(
    "--track",
    type=click.Choice(["bench", "story"]),
    default="bench",
    help="bench: whole lessons; story: about twelve cells of each, the others folded or left out",
)
@click.option("--slides", is_flag=True, help="slides of the story instead, one HTML file a lesson")
def copy_lessons(folder: Path, nbgrader: bool, track: str, slides: bool) -> None:
    """Copy the lessons, with blank exercises, into FOLDER; files there already stay as they are."""
    needs_extra("lessons", "cxrkit lessons")
    from cxrkit.reproduction import student_copies

    if nbgrader and (track == "story" or slides):
        fail(ValueError("--nbgrader goes with whole lessons: a story has no exercises"))
    try:
        if slides:
            written, kept = student_copies.write_slides(folder)
        elif track == "story":
            written, kept = student_copies.write_stories(folder)
        else:
            written, kept = student_copies.copy_lessons(folder, nbgrader)
    except (OSError, ValueError) as error:
        fail(error)
    click.echo(f"{len(written)} lessons written to {folder}, {len(kept)} were there before")


@main.command()
@click.argument(
    "images", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="IMAGE..."
)
@click.option(
    "--out",
    required=True,
    type=FOLDER,
    help="Folder for predictions.csv, not_read.csv and the maps. Repeat an interrupted command: it "
    "goes on from there.",
)
@click.option(
    "--profile", default="mini", show_default=True, help="Whose models: mini, demo or paper."
)
@click.option(
    "--view",
    type=click.Choice(["PA", "AP"]),
    default=None,
    help="View of all images [default: the DICOM tag, else both models].",
)
@click.option(
    "--weights",
    type=EXISTING_FOLDER,
    default=None,
    help="Folder with weights [default: the store's of this profile, else those that the kit "
    "ships].",
)
@click.option(
    "--maps",
    is_flag=True,
    help="Also write lungs, severity and saliency as PNG, at the size of the image.",
)
@click.option(
    "--map-method",
    type=click.Choice(MAP_METHODS),
    default=MAP_METHODS[0],
    show_default=True,
    help="Makes the saliency of --maps; docs/explain.md compares the methods. raw_attention and "
    "rollout give every class the same map.",
)
@click.option(
    "--html", is_flag=True, help="Also write a page for each film, to look at: needs no network."
)
@click.option(
    "--dicom-out",
    type=click.Choice(["sc", "all"]),
    default=None,
    help="Also write DICOM files: sc = the overlay as a secondary capture (needs cxrkit[dicom]); "
    "all = also a segmentation (lungs, severity map) and a structured report (six zones; needs "
    "cxrkit[dicom-out]).",
)
@click.option(
    "--keep-patient",
    is_flag=True,
    help="The files of --dicom-out keep patient and study of a DICOM input, to go back to its "
    "archive. Without it nothing of them stands there.",
)
@click.option(
    "--even-unusable",
    is_flag=True,
    help="Give numbers also for what is no frontal chest film that the models can read: a CT "
    "slice, a lateral film, a photo. Without it such a row says why it has none.",
)
@click.option(
    "--overwrite",
    is_flag=True,
    help="Begin anew: replace earlier results in --out, and files that stand in the way.",
)
def predict(
    images: tuple[Path, ...],
    out: Path,
    profile: str,
    view: str | None,
    weights: Path | None,
    maps: bool,
    map_method: str,
    html: bool,
    dicom_out: str | None,
    keep_patient: bool,
    even_unusable: bool,
    overwrite: bool,
) -> None:
    """Read images (PNG, JPEG, TIFF, DICOM, or folders of them): diagnosis, severity, warnings.

    A file that cannot be read is skipped and named; the exit status is then 1. What was passed over
    stands in not_read.csv.
    """
    from cxrkit.inference import OutputError, files, load_models, predict_files

    asked = chosen_profile(profile, (), None)
    try:
        models = load_models(asked, weights=weights)
    except (FileNotFoundError, ValueError, RuntimeError) as error:
        fail(error)
    _heed_profile(asked, models, weights)
    click.echo(files.about_text(models, None), nl=False)
    try:
        failures = predict_files(
            images,
            out,
            models,
            view,
            maps,
            overwrite=overwrite,
            say=click.echo,
            map_method=map_method,
            even_unusable=even_unusable,
            html=html,
            dicom_out=dicom_out,
            keep_patient=keep_patient,
        )
    except OutputError as error:
        fail(error)
    except KeyboardInterrupt:
        click.echo(f"\ninterrupted; repeat the command to go on: {out}", err=True)
        sys.exit(130)
    click.echo(f"{out / 'predictions.csv'}")
    end_with(failures)


def _heed_profile(asked: Profile, models: Models, weights: Path | None) -> None:
    """Refuse models of another profile than the one that was asked for.

    Where the profile is the default, or a folder of weights was named, it is said and no more.
    """
    names = dict.fromkeys(part.profile.name for part in models.parts.values())
    if list(names) == [asked.name]:
        return
    found = f"the models ({models.origin}) are of profile {' and '.join(names)}"
    source = click.get_current_context().get_parameter_source("profile")
    if weights or source is click.core.ParameterSource.DEFAULT:
        click.echo(f"note: {found}, not {asked.name}", err=True)
        return
    raise click.ClickException(
        f"--profile {asked.name} was asked for, but {found}. Leave --profile out to use them, or "
        "train those that you want: cxrkit reproduce --profile NAME"
    )


@main.command()
@click.option(
    "--onnx",
    "folder",
    type=FOLDER,
    default=None,
    help="Folder for the graphs and models.json.",
)
@click.option(
    "--hub",
    type=FOLDER,
    default=None,
    help="Folder for a model hub: safetensors, config.json and a model card (README.md).",
)
@profile_options
@click.option(
    "--weights",
    type=EXISTING_FOLDER,
    default=None,
    help="Folder with weights [default: the finished stages of the profile in the store].",
)
@OUT
def export(
    folder: Path | None,
    hub: Path | None,
    profile: str,
    assignments: tuple[str, ...],
    choices: str | None,
    weights: Path | None,
    out: Path | None,
) -> None:
    """Write the trained networks as ONNX graphs, for programs without Python, or for a model hub.

    models.json beside the graphs says how images are prepared and outputs are read. Each graph is
    compared with its network first; nothing is written where they disagree.
    """
    if not folder and not hub:
        raise click.UsageError("give --onnx DIR, --hub DIR or both")
    if folder:
        needs_extra("onnx", "cxrkit export")
    from cxrkit.storage.artifacts import Store

    asked = chosen_profile(profile, assignments, choices)
    try:
        if folder:
            from cxrkit.inference.export import export_onnx

            click.echo(export_onnx(folder, asked, Store(out), weights, click.echo))
        if hub:
            from cxrkit.inference.hub import export_hub

            click.echo(export_hub(hub, asked, Store(out), weights))
    except (RuntimeError, ImportError, ValueError, OSError) as error:
        fail(error)


@main.group()
def models() -> None:
    """Weights that no package holds."""


@models.command("fetch")
@click.option(
    "--from",
    "source",
    required=True,
    metavar="ADDRESS",
    help="Folder or https address of cxrkit/inference/weights/research of the repository.",
)
@click.option("--accept-terms", is_flag=True, help="Accept the terms without a question.")
def fetch_models(source: str, accept_terms: bool) -> None:
    """Get the research weights, after their terms were accepted; they are not for commercial use.

    They go to CXRKIT_WEIGHTS, else to the user's data folder, where `cxrkit predict` finds them.
    """
    from cxrkit.data.downloads import FetchError
    from cxrkit.inference import research_weights

    def accepts(terms: str) -> bool:
        click.echo(terms)
        return accept_terms or click.confirm("Do you accept these terms?")

    try:
        folder = research_weights.fetch(source, accepts=accepts, say=click.echo)
    except (FetchError, OSError) as error:
        fail(error)
    click.echo(folder)


# the store and the machine


@main.group()
def store() -> None:
    """See what the store holds and whether it is whole, and remove what no profile needs."""


@store.command("list")
@OUT
def list_store(out: Path | None) -> None:
    """Every artifact: its size, its stage, and the profiles that need it."""
    from cxrkit.reproduction import inventory
    from cxrkit.storage.artifacts import Store

    try:
        table = inventory.inventory(Store(out))
    except ValueError as error:
        fail(error)
    if not len(table):
        click.echo(f"{Store(out).root}: empty")
        return
    click.echo(inventory.as_text(table))


@store.command("verify")
@OUT
@click.option(
    "--delete-damaged",
    "deletes",
    is_flag=True,
    help="Delete damaged artifacts; the next run makes them anew.",
)
def verify_store(out: Path | None, deletes: bool) -> None:
    """Read every artifact and compare it with the digests that were written when it was finished.

    Exit status 1 on damage that remains.
    """
    from cxrkit.reproduction import verification
    from cxrkit.storage.artifacts import Store

    asked = Store(out)
    found = verification.verify_store(asked)
    click.echo(verification.as_text(asked, found))
    damaged = sum(bool(one.faults) for one in found)
    if not deletes:
        if damaged:
            click.echo(
                f"delete them, so that they are made anew: cxrkit store verify --out {asked.root} "
                "--delete-damaged",
                err=True,
            )
        sys.exit(bool(damaged))
    left = len(verification.remove_leftovers(asked))
    deleted = verification.delete(found)
    click.echo(f"deleted: {len(deleted)} artifacts, {left} temporary files of killed processes")
    sys.exit(len(deleted) < damaged)


@store.command()
@OUT
@click.option(
    "--keep",
    multiple=True,
    metavar="PROFILE",
    help="Keep what this profile needs [default: every profile of the kit]; may be repeated.",
)
@click.option("--yes", is_flag=True, help="Remove it; without this, only say what would go.")
def clean(out: Path | None, keep: tuple[str, ...], yes: bool) -> None:
    """Remove the artifacts that no profile needs."""
    from cxrkit.reproduction import inventory
    from cxrkit.storage.artifacts import Store

    try:
        table = inventory.unneeded(Store(out), keep)
    except ValueError as error:
        fail(error)
    if not len(table):
        click.echo("every artifact is needed by a profile")
        return
    click.echo(inventory.as_text(table))
    if yes:
        inventory.remove(table)
        click.echo(f"removed: {len(table)} folders")
    else:
        click.echo("nothing removed; run again with --yes")


@main.command()
@OUT
@click.option("--json", "as_json", is_flag=True, help="Machine-readable.")
def doctor(out: Path | None, as_json: bool) -> None:
    """Check this machine for the kit and say what to do. Exit status 1 only if something blocks."""
    from cxrkit.reproduction import environment

    found = environment.examine(out)
    click.echo(environment.as_json(found) if as_json else environment.as_text(found))
    sys.exit(1 if environment.blocking(found) else 0)


if __name__ == "__main__":
    main()
