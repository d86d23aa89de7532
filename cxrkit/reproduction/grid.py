"""Tables 7 to 10 as a grid: a cell is a profile and a stage, its result that stage's metrics.json;
cells share what they stand on.

Runs here, on a few workers, or on a Dask cluster, and resumes: a stage that is in the store is
loaded. A cell that fails is reported and the rest goes on. Models are compared on the same films of
the same seed; seeds, each with patients of its own, are the repetitions.
"""

import contextlib
import os
import warnings
from dataclasses import dataclass, replace

from cxrkit.config import profiles
from cxrkit.pipeline import dependencies, stages
from cxrkit.pipeline.dependencies import upstream
from cxrkit.storage import artifacts

OURS = "ours"
DIAGNOSIS, SEVERITY = "diagnosis_pa", "severity"


@dataclass(frozen=True)
class Cell:
    """One number of a table: what a stage of a profile reaches at hospitals never seen, compared
    with the cell `against` of the stage.
    """

    table: str
    name: str
    stage: str
    profile: profiles.Profile
    against: str = OURS

    @property
    def seed(self):
        return self.profile.seed

    @property
    def key(self):
        """Settings of the stage in 12 hex digits: an older result with another key is of another
        cell.
        """
        return artifacts.key(dependencies.settings(self.profile, self.stage))

    def folder(self, store):
        """Where its artifact lies, or would lie."""
        return store.folder(self.stage, dependencies.settings(self.profile, self.stage))

    def done(self, store):
        """Whether its artifact is finished, here or at the address of the store."""
        return store.has(self.stage, dependencies.settings(self.profile, self.stage))


def vary(profile, transformer=None, **variant):
    """The profile with another variant of the model, or another transformer.

    One that has not the weights of the paper's own model by name and shape, or has learnt others,
    cannot begin as that of the virtual hospitals: it begins as it would without them.
    """
    other = replace(
        profile,
        transformer=transformer or profile.transformer,
        variant=replace(profile.variant, **variant),
    )
    same = replace(
        other.variant,
        pooling=profile.variant.pooling,
        sites=profile.variant.sites,
        films=profile.variant.films,
    )
    if (
        same == profile.variant
        and replace(other.transformer, frozen=profile.transformer.frozen) == profile.transformer
    ):
        return other
    return _without_virtual(other)


def _without_virtual(profile):
    return replace(
        profile,
        sources=replace(profile.sources, virtual=False),
        quantifier=replace(profile.quantifier, virtual=False),
    )


def rivals(profile):
    """The models of Tables 7 and 8: name -> profile."""
    grid = profile.grid
    resnet = {"model": "resnet", "start": grid.start, "widths": grid.widths}
    return {
        "ResNet-50": vary(profile, **resnet, layers=grid.resnet_50),
        "ResNet-152": vary(profile, **resnet, layers=grid.resnet_152),
        "DenseNet-121": vary(profile, model="densenet", start=grid.start),
        "ViT": vary(profile, grid.vit, model="vit", start=grid.start),
        "hybrid ViT": vary(
            profile,
            model=grid.hybrid,
            start=grid.start,
            widths=grid.widths,
            layers=grid.hybrid_layers,
        ),
    }


def fair(profile):
    """The rows that the paper lacks: rivals that have seen the findings too, and ours without what
    it owes to them or to PCAM.
    """
    hybrid = rivals(profile)["hybrid ViT"]
    scratch = {
        f"{name}, from scratch": vary(other, start="random")
        for name, other in rivals(profile).items()
    }
    return {
        "DenseNet-121, from findings": vary(profile, model="densenet"),
        "hybrid ViT, from findings": vary(
            hybrid, start="findings", pretraining=profile.backbone_training
        ),
        "ours, from scratch": vary(profile, start="random"),
        "ours, average-pooled backbone": _without_virtual(
            replace(profile, backbone=replace(profile.backbone, pool="average"))
        ),
        **(scratch if profile.grid.start != "random" else {}),
    }


def ablated(profile):
    """Table 9: name -> (profile, what it is compared with)."""
    grid, models = profile.grid, rivals(profile)
    simclr = {"contrastive": True, "pretraining": grid.pretraining}
    alone = {
        "10 weighted maps": vary(profile, corpus="ten_maps"),
        "3 infection maps": vary(profile, corpus="infection_maps"),
        "pneumonia map": vary(profile, corpus="pneumonia_map"),
        "frozen backbone": vary(profile, replace(profile.transformer, frozen=True)),
        "2 layers, 4 heads": vary(profile, grid.small),
        "4 layers, 8 heads": vary(profile, grid.middle),
        "1024 px input": vary(profile, zoom=2),
        "SimCLR: ours": vary(profile, **simclr),
    }
    return {
        **{name: (other, OURS) for name, other in alone.items()},
        **{
            f"SimCLR: {name}": (vary(models[name], **simclr), name)
            for name in ("ViT", "hybrid ViT")
        },
    }


def cells(profile):
    """Tables 7 to 10 for the seed of the profile, the most telling first."""
    models, extra = rivals(profile), fair(profile)
    first = {**{name: extra[name] for name in ("DenseNet-121, from findings",)}, **models}
    rows = [
        Cell("Table 7", OURS, DIAGNOSIS, profile),
        *(Cell("Table 7", name, DIAGNOSIS, other) for name, other in {**first, **extra}.items()),
        *(
            Cell("Table 9", name, DIAGNOSIS, other, against)
            for name, (other, against) in ablated(profile).items()
        ),
        Cell("Table 8", OURS, SEVERITY, profile),
        *(Cell("Table 8", name, SEVERITY, other) for name, other in first.items()),
        Cell("Table 10", "ROI average pooling", SEVERITY, vary(profile, pooling="average")),
        Cell("Table 10", "Brixia alone", SEVERITY, vary(profile, sites=profile.grid.alone)),
    ]
    return rows


def open_choices(profile):
    """A cell for every other value of the open choices (SPEC 2.1) that can move a result of this
    profile (`grid.choices`).
    """
    found = {}
    for name, other in profiles.ablations(profile).items():
        if name.partition("=")[0] in profile.grid.choices:
            stage = (
                SEVERITY
                if dependencies.settings(other, DIAGNOSIS)
                == dependencies.settings(profile, DIAGNOSIS)
                else DIAGNOSIS
            )
            found[name] = Cell("choices", name, stage, other)
    return list(found.values())


def rehearsal(profile):
    """`cells` with `grid.steps` updates of `grid.batch` and `grid.films` films each: it shows that
    the machinery runs, and nothing of who is better.
    """
    return [replace(cell, profile=_short(cell.profile, profile)) for cell in cells(profile)]


def _short(profile, base):
    if not base.grid.steps:
        return profile
    variant = profile.variant
    batch = (
        {"batch": max(1, base.grid.batch // variant.zoom), "accumulate": 1}
        if base.grid.batch
        else {}
    )

    def short(training):
        return training and replace(
            training, steps=base.grid.steps, warmup=0, eval_every=0, **batch
        )

    return replace(
        profile,
        transformer_training=short(profile.transformer_training),
        severity_training=short(profile.severity_training),
        backbone_training=profile.backbone_training
        if profile.backbone == base.backbone
        else short(profile.backbone_training),
        variant=replace(variant, pretraining=short(variant.pretraining), films=base.grid.films),
    )


TRAININGS = {  # stage -> its training
    "backbone": lambda profile: profile.backbone_training,
    "trunk": lambda profile: profile.variant.pretraining or profile.backbone_training,
    "contrastive": lambda profile: profile.variant.pretraining,
    DIAGNOSIS: lambda profile: profile.transformer_training,
    SEVERITY: lambda profile: profile.severity_training,
}


def trainings(profile):
    """What lesson 07 trains beside the profile's own models: {artifact: Training}, each artifact
    once.
    """

    def chain(stage, profile):
        if stage in TRAININGS:
            yield artifacts.key(dependencies.settings(profile, stage)), TRAININGS[stage](profile)
        for before in upstream(profile, stage):
            yield from chain(*before)

    own = dict(part for stage in (DIAGNOSIS, SEVERITY) for part in chain(stage, profile))
    every = dict(part for cell in rehearsal(profile) for part in chain(cell.stage, cell.profile))
    return {name: training for name, training in every.items() if name not in own}


def make(stage, profile, store, *before):
    """One stage, after those that it stands on -> None, or in words what failed: an error of theirs
    or its own.
    """
    with contextlib.suppress(StopIteration):
        return next(filter(None, before))
    try:
        stages.MAKE[stage](profile, store)
    except Exception as error:  # whatever it is: the other cells go on
        return f"{stage}: {type(error).__name__}: {error}"


def run(grid, store, scheduler=None, workers=0):
    """Make the cells of a list; yields (cell, None or what failed), each as soon as it is done.

    scheduler: address of a Dask scheduler; workers: processes of one thread on this machine, 0 =
    none. On a cluster every worker needs the same store: a shared folder, or `artifacts.Shared`,
    where a cell that is done may lie at the address alone (`comparisons.gather` fetches it).
    Workers that offer the resource GPU get one task a GPU. A task whose worker dies goes to
    another, where its training goes on from the last checkpoint. Raises RuntimeError where the
    extra `cluster` is missing.
    """
    done = [cell for cell in grid if cell.done(store)]
    yield from ((cell, None) for cell in done)
    rest = [cell for cell in grid if cell not in done]
    if rest and (scheduler or workers):
        yield from _on_cluster(rest, store, scheduler, workers)
    else:
        yield from ((cell, make(cell.stage, cell.profile, store)) for cell in rest)


def _on_cluster(grid, store, scheduler, workers):
    try:
        import dask
        from distributed import Client, LocalCluster, as_completed
    except ImportError as error:
        raise RuntimeError('a grid on workers needs dask: pip install "cxrkit[cluster]"') from error
    single = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    # a stage may start processes of its own (drawing a cohort), which a daemon must not
    settings = {"distributed.worker.daemon": False, "distributed.nanny.pre-spawn-environ": single}
    with dask.config.set(settings), contextlib.ExitStack() as stack:
        if not scheduler:
            scheduler = stack.enter_context(
                LocalCluster(
                    n_workers=workers, threads_per_worker=1, memory_limit=0, dashboard_address=None
                )
            )
        client, tasks = stack.enter_context(Client(scheduler)), {}
        options, futures = {"resources": {"GPU": 1}} if "GPU" in _offered(client) else {}, {}
        for cell in grid:
            futures.setdefault(
                _submit(client, tasks, cell.stage, cell.profile, store, options), []
            ).append(cell)
        for future in as_completed(futures):
            error = (
                f"its workers died: {future.exception()}"
                if future.status == "error"
                else future.result()
            )
            yield from ((cell, error) for cell in futures[future])


def _offered(client):
    """Names of the resources that workers offer, once there is one. A cluster that adapts starts it
    for a task: here for an empty one.
    """
    if not client.scheduler_info(n_workers=-1)["workers"]:
        warnings.warn(
            f"no worker at {client.scheduler.address} yet: waiting for a first one", stacklevel=2
        )
    client.submit(os.getpid, pure=False).result()
    return {
        name
        for worker in client.scheduler_info(n_workers=-1)["workers"].values()
        for name in worker["resources"]
    }


def _submit(client, tasks, stage, profile, store, options):
    """The task of a stage, after the tasks of what it stands on; one task an artifact."""
    settings = dependencies.settings(profile, stage)
    name = store.folder(stage, settings).name
    if name not in tasks:
        before = (
            []
            if store.has(stage, settings)
            else [
                _submit(client, tasks, *part, store, options) for part in upstream(profile, stage)
            ]
        )
        tasks[name] = client.submit(
            make, stage, profile, store, *before, key=f"{name}-{os.urandom(4).hex()}", **options
        )
    return tasks[name]
