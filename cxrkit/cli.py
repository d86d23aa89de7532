"""The command `cxrkit`. Imports wait inside the commands, so that `--help` answers at once."""

import sys
from pathlib import Path

import click

from cxrkit import NOTICE, __version__

PROFILE = click.option(
    "--profile",
    default="demo",
    show_default=True,
    help="demo (virtual hospitals, CPU), mini or paper.",
)
OUT = click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=None,
    help="Store for results [default: CXRKIT_STORE, else artifacts/ of the checkout, else the "
    "user's cache].",
)


@click.group(epilog=NOTICE)
@click.version_option(__version__, package_name="cxrkit")
def main():
    """cxrkit: the reference kit for chest X-ray transformers (Park et al. 2021)."""


@main.group()
def data():
    """List, fetch and verify datasets, and look for leakage between splits."""


ROOT = click.option(
    "--root",
    "--mirror",
    "root",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=None,
    help="Folder of the datasets, or of this one [default: CXRKIT_DATA, else data/ of the store].",
)


@data.command("list")
def list_datasets():
    """All datasets: films, licence, what their rows carry, how to obtain them."""
    from cxrkit.data import schema

    for name in schema.names():
        spec = schema.load(name)
        click.echo(
            f"{name:16} {spec.expected.get('films', '?'):>7} films  {spec.licence_class:32} "
            f"{', '.join(spec.provides)}"
        )
        click.echo(f"{'':16} {spec.title}\n{'':16} obtain: {spec.obtain}")


@data.command()
@click.argument("name")
@click.option(
    "--mirror",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    envvar="CXRKIT_MIRROR",
    default=None,
    help="Take prepared films from this folder instead of the public addresses [env: "
    "CXRKIT_MIRROR].",
)
@click.option(
    "--root",
    type=click.Path(file_okay=False, path_type=Path),
    default=None,
    help="Where to put them [default: CXRKIT_DATA, else data/ of the store].",
)
@click.option(
    "--archive",
    "archives",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    multiple=True,
    help="Unpack this archive of a full dataset, downloaded by hand; may be repeated.",
)
@click.option("--jobs", default=4, show_default=True, help="Downloads at a time.")
def fetch(name, mirror, root, archives, jobs):
    """Get the films of NAME, verified; says first how many bytes. Exit status 1 if a file failed,
    naming it.
    """
    from cxrkit.data import download, manifests, schema
    from cxrkit.data import fetch as fetching

    try:
        folder = manifests.data_root(root) / schema.load(name).name
        unpacked = [path for archive in archives for path in download.extract(archive, folder)]
        failures = [] if archives else fetching.fetch(name, root, mirror, jobs, say=click.echo)
    except (download.FetchError, ValueError, OSError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(
        f"{folder}: {len(unpacked)} files unpacked"
        if archives
        else f"{folder}: {len(failures)} failures"
    )
    _end(failures)


@data.command()
@click.argument("name")
@ROOT
def verify(name, root):
    """Check a copy of NAME against its manifest: hashes of films, counts of tables. Exit status 1
    on a difference.
    """
    from cxrkit.data import fetch as fetching

    try:
        problems, counts = fetching.verify(name, root)
    except (ValueError, OSError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(counts.dropna(axis=1, how="all").to_string(na_rep="-"))
    click.echo(f"{name}: {len(problems)} problems")
    _end(problems)


@data.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@ROOT
def leakage(names, root):
    """Look for patients and near-identical films in two splits, within and between NAMEs. Exit
    status 1 if there are any.
    """
    import pandas as pd

    from cxrkit.data import leakage as leaks
    from cxrkit.data import manifests

    try:
        table = pd.concat(
            [manifests.read(name, root, apart=False) for name in names], ignore_index=True
        )
        found = leaks.find(table)
    except (ValueError, OSError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(pd.crosstab(table["dataset"], table["split"], margins=True).to_string())
    _end([f"{row.kind}: {row.what} in {row.splits} ({row.detail})" for row in found.itertuples()])
    click.echo("no patient and no near-identical film in two splits")


def _end(problems):
    """List what went wrong on stderr and leave with status 1, if anything did."""
    for problem in problems[:20] + [f"... and {len(problems) - 20} more"] * (len(problems) > 20):
        click.echo(problem, err=True)
    if problems:
        sys.exit(1)


DRY = ("02", "03", "04", "05", "06", "07")  # lessons of a dry run


@main.command()
@PROFILE
@click.option(
    "--mirror",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=None,
    help="Folder with prepared films, instead of a download.",
)
@click.option(
    "--data",
    "data_dir",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=None,
    help="Folder with the full datasets, each in a folder of its name (docs/paper.md) [default: "
    "CXRKIT_DATA].",
)
@click.option(
    "--dry-run",
    is_flag=True,
    help="Full size, few films, two updates a training, lessons 02 to 07: does it all run here?",
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
@click.option("--force", is_flag=True, help="Run lessons again that are up to date.")
@OUT
def reproduce(profile, mirror, data_dir, dry_run, only_plan, only, scheduler, workers, force, out):
    """Run the notebooks headless, then write the report. Exit status 0 only if every lesson ran.

    PROFILE may leave datasets out: "paper-local" is paper without the dataset local. With --data or
    --dry-run the plan comes first: films, updates, hours, memory and disk, from an update measured
    on this machine.
    """
    from cxrkit.reproduction import report, runner
    from cxrkit.training import distributed

    if distributed.size() > 1:
        raise click.ClickException(
            "torchrun would run every lesson in each of its processes: make the stages with "
            "`torchrun ... -m cxrkit "
            "stage NAME` first, then run `cxrkit reproduce` without it"
        )
    profile, only = (f"{profile}+dry", only or DRY) if dry_run else (profile, only)
    parameters = {
        "profile": profile,
        "mirror": mirror and str(mirror.resolve()),
        "data": data_dir and str(data_dir.resolve()),
        "scheduler": scheduler,
        "workers": workers,
    }
    try:
        if data_dir or dry_run or only_plan:
            from cxrkit.config import profiles
            from cxrkit.reproduction import plan
            from cxrkit.storage import artifacts

            click.echo(plan.apart(profiles.get(profile), artifacts.Store(out, data_dir or mirror)))
        if only_plan:
            return
        failed = runner.reproduce(parameters, root=out, only=only, force=force)
        path = report.write(profile, root=out, data=mirror or data_dir)
    except (runner.CannotRun, ValueError, OSError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"report: {path}")
    if failed:
        click.echo(f"failed: {', '.join(failed)}", err=True)
        sys.exit(1)


@main.command()
@click.argument("name")
@PROFILE
@click.option(
    "--data",
    "data_dir",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=None,
    help="Folder of the datasets [default: CXRKIT_DATA, else data/ of the store].",
)
@OUT
def stage(name, profile, data_dir, out):
    """Make one stage, after those that it stands on, and say where it lies: cohort, backbone,
    segmenter, diagnosis_pa, diagnosis_ap, severity, court, dial ...

    What is in the store is loaded, what another process is making is waited for. On several GPUs,
    which then share each training: torchrun --standalone --nproc-per-node 4 -m cxrkit stage NAME
    ...
    """
    from cxrkit.config import profiles
    from cxrkit.config.vocabulary import known
    from cxrkit.pipeline import stages
    from cxrkit.storage import artifacts
    from cxrkit.training import distributed

    try:
        make = stages.MAKE[known(name, stages.MAKE, "stage")]
        folder = distributed.lead(
            lambda: make(profiles.get(profile), artifacts.Store(out, data_dir, wait=-1))
        )
    except (ValueError, OSError) as error:
        raise click.ClickException(str(error)) from error
    if folder:
        click.echo(folder)


@main.command()
@PROFILE
@OUT
def report(profile, out):
    """Write report.html from what is in the store, running nothing."""
    from cxrkit.reproduction import report as pages

    try:
        click.echo(f"report: {pages.write(profile, root=out)}")
    except ValueError as error:
        raise click.ClickException(str(error)) from error


@main.command()
@click.argument(
    "images", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="IMAGE..."
)
@click.option(
    "--out",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for predictions.csv and the maps.",
)
@click.option(
    "--profile", default="mini", show_default=True, help="Whose models: mini, demo or paper."
)
@click.option(
    "--view",
    type=click.Choice(["PA", "AP"]),
    default=None,
    help="View of all films [default: the DICOM tag, else both models].",
)
@click.option(
    "--weights",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=None,
    help="Folder with weights [default: the store's of this profile, else those that the kit "
    "ships].",
)
@click.option(
    "--maps",
    is_flag=True,
    help="Also write lungs, severity and saliency as PNG, at the size of the film.",
)
def predict(images, out, profile, view, weights, maps):
    """Read films (PNG, JPEG, TIFF, DICOM, or folders of them): diagnosis, severity, warnings.

    A file that cannot be read is skipped and named; the exit status is then 1.
    """
    from cxrkit.config import profiles
    from cxrkit.inference import predictor as predicting

    try:
        models = predicting.load(profiles.get(profile), weights=weights)
    except (FileNotFoundError, ValueError, RuntimeError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(models.about, nl=False)
    failures = predicting.run(images, out, models, view, maps)
    click.echo(f"{out / 'predictions.csv'}")
    _end(failures)


@main.command()
@OUT
@click.option("--json", "as_json", is_flag=True, help="Machine-readable.")
def doctor(out, as_json):
    """Check this machine for the kit and say what to do. Exit status 1 only if something blocks."""
    from cxrkit.reproduction import environment as checks

    found = checks.examine(out)
    click.echo(checks.as_json(found) if as_json else checks.as_text(found))
    sys.exit(1 if checks.blocking(found) else 0)


if __name__ == "__main__":
    main()
