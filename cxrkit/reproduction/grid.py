"""The paper's Tables 7 to 10 as a grid of cells: which models are compared, and how they are made.

A cell is a profile and a stage, and its result is the metrics.json of that stage. Cells share the
earlier stages that they depend on. The grid runs in this process, on a few workers, or on a Dask
cluster. It resumes: a stage that is in the store is loaded. A cell that fails is reported and the
others go on. Models are compared on the same images of the same seed; the repetitions are seeds,
each with its own patients.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from cxrkit.config import profiles, sections
from cxrkit.pipeline import stages
from cxrkit.simulation import cohort
from cxrkit.storage import artifacts

if TYPE_CHECKING:
    from distributed import Client, Future

PROPOSED = "proposed"  # name of the paper's own model in every row of the grid
DIAGNOSIS, SEVERITY = "diagnosis_pa", "severity"  # the two stages that have cells
FROM_FINDINGS = "DenseNet-121, from findings"
AVERAGE_POOLED = f"{PROPOSED}, average-pooled backbone"
# a stage that has cells -> the field of the profile that says how it trains, and that of the grid
# which says how its rate and steps are searched for
TRAININGS = {DIAGNOSIS: "transformer_training", SEVERITY: "severity_training"}
SEARCHES = {DIAGNOSIS: "diagnosis_search", SEVERITY: "severity_search"}


@dataclass(frozen=True)
class Cell:
    """One number of a table: what a stage of a profile reaches at the external hospitals.

    Attributes:
        table: the table of the paper, or "choices".
        name: the row of that table.
        stage: DIAGNOSIS or SEVERITY.
        profile: all settings, with the variant and the seed of this cell.
        against: name of the cell of the same stage that it is compared with.
    """

    table: str
    name: str
    stage: str
    profile: sections.Profile
    against: str = PROPOSED

    @property
    def seed(self) -> int:
        """The seed of its patients and of its first weights."""
        return self.profile.seed

    @property
    def key(self) -> str:
        """Its settings in 12 hex digits: an older result with another key is of another cell."""
        return self.key_of(self.stage)

    def key_of(self, stage: str) -> str:
        """The key of an artifact that this cell depends on, such as its backbone."""
        return artifacts.key(stages.settings(self.profile, stage))

    @property
    def depends_on(self) -> list[str]:
        """Names of the stages before its own, each once."""
        return list(dict.fromkeys(name for name, _ in stages.upstream(self.profile, self.stage)))

    def folder(self, store: artifacts.Store) -> Path:
        """Where its artifact lies, or would lie."""
        return stages.folder_of(self.profile, self.stage, store)

    def done(self, store: artifacts.Store) -> bool:
        """Whether its artifact is finished, here or at the address of the store."""
        return stages.is_done(self.profile, self.stage, store)


# the models


def vary(
    profile: sections.Profile, transformer: sections.ViT | None = None, **variant: Any
) -> sections.Profile:
    """The profile with another variant of the model, or another transformer.

    The paper's own model may begin with the weights of the virtual hospitals. A variant whose
    weights differ in name or shape, or were trained differently, cannot: it begins as it would
    without them.

    Args:
        profile: the settings to depart from.
        transformer: sizes of another transformer; None keeps that of the profile.
        **variant: fields of `sections.Variant`.

    Returns:
        A new profile.
    """
    other = replace(
        profile,
        transformer=transformer or profile.transformer,
        variant=replace(profile.variant, **variant),
    )
    # these three change what is trained on and what is read out, but no weight
    harmless = replace(
        other.variant,
        pooling=profile.variant.pooling,
        sites=profile.variant.sites,
        max_images=profile.variant.max_images,
    )
    thawed = replace(other.transformer, frozen=profile.transformer.frozen)
    if harmless == profile.variant and thawed == profile.transformer:
        return other
    return _without_virtual_weights(other)


def _without_virtual_weights(profile: sections.Profile) -> sections.Profile:
    """The profile whose models do not begin as those of the virtual hospitals."""
    return replace(
        profile,
        sources=replace(profile.sources, virtual=False),
        severity=replace(profile.severity, virtual=False),
    )


def _recomputed(profile: sections.Profile) -> sections.Profile:
    """The profile whose diagnosis keeps less for the backward pass, where the grid asks for it."""
    training = profile.transformer_training
    again = profile.grid.recompute or training.recompute
    return replace(profile, transformer_training=replace(training, recompute=again))


def baselines(profile: sections.Profile) -> dict[str, sections.Profile]:
    """The models of Tables 7 and 8 that the paper compares its own with.

    Args:
        profile: the settings that the baselines share with the proposed model.

    Returns:
        Name of the row -> its profile.
    """
    grid = profile.grid
    large = _recomputed(profile)  # more tokens, or more stages, than the proposed model
    resnet = {"model": "resnet", "initial_weights": grid.initial_weights, "widths": grid.widths}
    return {
        "ResNet-50": vary(profile, **resnet, layers=grid.resnet_50),
        "ResNet-152": vary(profile, **resnet, layers=grid.resnet_152),
        "DenseNet-121": vary(profile, model="densenet", initial_weights=grid.initial_weights),
        "ViT": vary(large, grid.vit, model="vit", initial_weights=grid.initial_weights),
        "hybrid ViT": vary(
            large,
            model=grid.hybrid,
            initial_weights=grid.initial_weights,
            widths=grid.widths,
            layers=grid.hybrid_layers,
        ),
    }


def fair_comparisons(profile: sections.Profile) -> dict[str, sections.Profile]:
    """Rows that the paper lacks and a fair comparison needs.

    They are baselines that were trained on the findings too, the proposed model without that
    pre-training, and the proposed model without PCAM.

    Args:
        profile: the settings that all rows share.

    Returns:
        Name of the row -> its profile.
    """
    models = baselines(profile)
    average = replace(profile, backbone=replace(profile.backbone, pool="average"))
    rows = {
        FROM_FINDINGS: vary(profile, model="densenet"),
        "hybrid ViT, from findings": vary(
            models["hybrid ViT"],
            initial_weights="findings",
            pretraining=profile.backbone_training,
        ),
        f"{PROPOSED}, from scratch": vary(profile, initial_weights="random"),
        AVERAGE_POOLED: _without_virtual_weights(average),
    }
    if profile.grid.initial_weights != "random":
        for name, other in models.items():
            rows[f"{name}, from scratch"] = vary(other, initial_weights="random")
    return rows


def ablations(profile: sections.Profile) -> dict[str, tuple[sections.Profile, str]]:
    """The rows of Table 9.

    Args:
        profile: the settings of the proposed model.

    Returns:
        Name of the row -> (its profile, the name of the cell that it is compared with).
    """
    grid = profile.grid
    pretraining = replace(
        grid.pretraining,
        recompute=grid.recompute or grid.pretraining.recompute,
        micro_batch=grid.micro_batch or grid.pretraining.micro_batch,
    )
    simclr = {"contrastive": True, "pretraining": pretraining}
    large = _recomputed(profile)
    of_proposed = {
        "10 weighted maps": vary(profile, corpus="ten_maps"),
        "3 infection maps": vary(profile, corpus="infection_maps"),
        "pneumonia map": vary(profile, corpus="pneumonia_map"),
        "frozen backbone": vary(profile, replace(profile.transformer, frozen=True)),
        "2 layers, 4 heads": vary(profile, grid.small),
        "4 layers, 8 heads": vary(profile, grid.middle),
        "1024 px input": vary(large, zoom=2),
        f"SimCLR: {PROPOSED}": vary(profile, **simclr),
    }
    if profile.transformer.frozen:  # nothing trains the backbone any further, nor SimCLR
        del of_proposed["frozen backbone"], of_proposed[f"SimCLR: {PROPOSED}"]
    rows = {name: (other, PROPOSED) for name, other in of_proposed.items()}
    if profile.transformer.frozen:
        return rows
    models = baselines(profile)
    for name in ("ViT", "hybrid ViT"):
        rows[f"SimCLR: {name}"] = (vary(models[name], **simclr), name)
    return rows


# the cells


def grid_cells(profile: sections.Profile) -> list[Cell]:
    """All cells of Tables 7 to 10 for the seed of the profile, the most informative first.

    A profile with a frozen backbone has no other models: on weights that nobody trained they would
    be no rivals.

    Args:
        profile: the settings of the proposed model.

    Returns:
        Cells of diagnosis, then of severity. Each name stands once in a stage.
    """
    first, extra = {}, {}
    if not profile.transformer.frozen:
        models, extra = baselines(profile), fair_comparisons(profile)
        first = {FROM_FINDINGS: extra[FROM_FINDINGS], **models}
    rows = [Cell("Table 7", PROPOSED, DIAGNOSIS, profile)]
    for name, other in {**first, **extra}.items():
        rows.append(Cell("Table 7", name, DIAGNOSIS, other))
    for name, (other, against) in ablations(profile).items():
        rows.append(Cell("Table 9", name, DIAGNOSIS, other, against))
    rows.append(Cell("Table 8", PROPOSED, SEVERITY, profile))
    for name, other in first.items():
        rows.append(Cell("Table 8", name, SEVERITY, other))
    average, alone = vary(profile, pooling="average"), vary(profile, sites=profile.grid.alone)
    rows.append(Cell("Table 10", "ROI average pooling", SEVERITY, average))
    if profile.grid.alone:
        rows.append(Cell("Table 10", "Brixia alone", SEVERITY, alone))
    return [_trained(cell) for cell in rows]


def _trained(cell: Cell) -> Cell:
    """The cell whose diagnosis and severity have the learning rate and the steps of its row.

    A model that begins with the findings has had the steps of their training before; one that
    begins with random weights gets `grid.scratch_steps` in the diagnosis, unless others were
    chosen. A row that varies a model has the rate and the steps of the row that it is compared
    with.
    """
    profile = cell.profile
    row = cell.against if cell.table in ("Table 9", "Table 10", "choices") else cell.name
    from_scratch = profile.variant.initial_weights == "random"
    diagnosis = profile.transformer_training
    steps = (from_scratch and profile.grid.scratch_steps) or diagnosis.steps
    diagnosis = _chosen(replace(diagnosis, steps=steps), profile.grid.diagnosis_search, row)
    severity = _chosen(profile.severity_training, profile.grid.severity_search, row)
    trained = replace(profile, transformer_training=diagnosis, severity_training=severity)
    return replace(cell, profile=trained)


def _chosen(training: sections.Training, search: sections.Search, row: str) -> sections.Training:
    """The training with what a search chose for a row."""
    return replace(
        training,
        lr=dict(search.chosen_rates).get(row, training.lr),
        steps=dict(search.chosen_steps).get(row, training.steps),
    )


# the search for rates and steps


def search_of(profile: sections.Profile, stage: str) -> sections.Search:
    """The search for the models of Table 7 (DIAGNOSIS) or Table 8 (SEVERITY)."""
    return getattr(profile.grid, SEARCHES[stage])


def trial_cells(profile: sections.Profile, stage: str) -> list[Cell]:
    """The first round of a search: each model of the table with each rate.

    All models have the same rates and steps (`sections.Search`); the paper's own has no more than
    the others. Only validation images of the training hospitals may choose.

    Args:
        profile: the settings that the models share.
        stage: DIAGNOSIS or SEVERITY.

    Returns:
        A cell for each model and rate, named as the row of the table.
    """
    search, cells = search_of(profile, stage), []
    for name, other in _searched(profile).items():
        row = _trained(Cell("trials", name, stage, other))
        for rate in search.rates:
            cells.append(with_training(row, lr=rate, steps=search.steps))
    return cells


def whole_trials(
    profile: sections.Profile, stage: str, name: str, rates: Iterable[float]
) -> list[Cell]:
    """The second round: a model with the steps that it has before any are chosen.

    Args:
        profile: as for `trial_cells`.
        stage: as for `trial_cells`.
        name: of the row.
        rates: the best of the first round.

    Returns:
        A cell for each rate. That of the rate which is chosen is the cell of the table, unless more
        steps are chosen too.
    """
    model, cells = _searched(profile)[name], []
    for rate in rates:
        choice = {"chosen_rates": ((name, rate),), "chosen_steps": ()}
        chosen = replace(search_of(profile, stage), **choice)
        other = replace(model, grid=replace(model.grid, **{SEARCHES[stage]: chosen}))
        cells.append(_trained(Cell("trials", name, stage, other)))
    return cells


def twice_as_long(trial: Cell) -> Cell | None:
    """The last round: the trial with twice the steps; None beyond those of its search."""
    longer = doubled(trial)
    most = search_of(trial.profile, trial.stage).most_steps
    return longer if own_training(longer.profile, longer.stage).steps <= most else None


def own_training(profile: sections.Profile, stage: str) -> sections.Training:
    """How a stage that has cells trains."""
    return getattr(profile, TRAININGS[stage])


def with_training(cell: Cell, **changes: Any) -> Cell:
    """The cell with other fields of the training of its stage."""
    training = replace(own_training(cell.profile, cell.stage), **changes)
    return replace(cell, profile=replace(cell.profile, **{TRAININGS[cell.stage]: training}))


def doubled(cell: Cell) -> Cell:
    """The cell with twice the steps of its own stage."""
    return with_training(cell, steps=2 * own_training(cell.profile, cell.stage).steps)


def _searched(profile: sections.Profile) -> dict[str, sections.Profile]:
    """The models that have a search: name of the row of Tables 7 and 8 -> its profile."""
    findings = fair_comparisons(profile)[FROM_FINDINGS]
    return {PROPOSED: profile, FROM_FINDINGS: findings, **baselines(profile)}


def open_choice_cells(profile: sections.Profile) -> list[Cell]:
    """A cell for every other value of the open choices that can change a result of this profile.

    Args:
        profile: its `grid.choices` names those choices (SPEC 2.1).

    Returns:
        Cells of table "choices", named "choice=value".
    """
    rows = []
    for name, other in profiles.ablations(profile).items():
        choice = name.partition("=")[0]
        if choice not in profile.grid.choices:
            continue
        own = stages.settings(profile, DIAGNOSIS)
        same_diagnosis = stages.settings(other, DIAGNOSIS) == own
        stage = SEVERITY if same_diagnosis else DIAGNOSIS
        rows.append(_trained(Cell("choices", name, stage, other)))
    return rows


def rehearsal_cells(profile: sections.Profile) -> list[Cell]:
    """The cells of the grid with very short trainings.

    They show that everything runs, and nothing about which model is better: all have one learning
    rate.

    Args:
        profile: its `grid` gives `steps`, `batch` and `max_images` of the rehearsal.

    Returns:
        As many cells as `grid_cells`, with other keys; the same cells where `grid.steps` is 0.
    """
    if not profile.grid.steps:
        return grid_cells(profile)
    no_choice = sections.Search()
    alike = replace(profile.grid, diagnosis_search=no_choice, severity_search=no_choice)
    cells = grid_cells(replace(profile, grid=alike))
    return [replace(cell, profile=_shortened(cell.profile, profile)) for cell in cells]


def _shortened(profile: sections.Profile, base: sections.Profile) -> sections.Profile:
    """The profile with the steps, batch and images of a rehearsal of `base`.

    A backbone that equals that of `base` keeps its training: it is shared, not rehearsed.
    """
    grid, variant = base.grid, profile.variant
    changes = {"steps": grid.steps, "warmup": 0, "eval_every": 0}
    if grid.batch:
        changes |= {"batch": max(1, grid.batch // variant.zoom), "accumulate": 1}
    backbone_training, pretraining = profile.backbone_training, variant.pretraining
    if profile.backbone != base.backbone:
        backbone_training = replace(backbone_training, **changes)
    if pretraining:
        pretraining = replace(pretraining, **changes)
    return replace(
        profile,
        transformer_training=replace(profile.transformer_training, **changes),
        severity_training=replace(profile.severity_training, **changes),
        backbone_training=backbone_training,
        variant=replace(variant, pretraining=pretraining, max_images=grid.max_images),
    )


# the trainings


def training_of(profile: sections.Profile, stage: str) -> sections.Training | None:
    """How a stage of a profile trains.

    Args:
        profile: all settings.
        stage: any stage.

    Returns:
        Its optimiser, batch and steps; None for a stage that no cell trains.
    """
    if stage == "backbone":
        return profile.backbone_training
    if stage == "feature_extractor":
        return profile.variant.pretraining or profile.backbone_training
    if stage == "contrastive":
        return profile.variant.pretraining
    return own_training(profile, stage) if stage in TRAININGS else None


def extra_steps(profile: sections.Profile) -> dict[str, tuple[str, sections.Profile, str]]:
    """What lesson 07 trains in addition to the profile's own models.

    Args:
        profile: the settings of the proposed model.

    Returns:
        Key of the artifact -> (stage, its profile, name of the first cell that needs it), each
        artifact once.
    """
    own = {}
    for stage in (DIAGNOSIS, SEVERITY):
        own |= _steps_up_to(profile, stage, PROPOSED)
    every = {}
    for cell in rehearsal_cells(profile):
        every = _steps_up_to(cell.profile, cell.stage, cell.name) | every
    return {key: step for key, step in every.items() if key not in own}


def extra_trainings(profile: sections.Profile) -> dict[str, sections.Training]:
    """The trainings of `extra_steps`, by key of the artifact."""
    found = {}
    for key, (stage, its_profile, _) in extra_steps(profile).items():
        training = training_of(its_profile, stage)
        if training is not None:
            found[key] = training
    return found


def _steps_up_to(
    profile: sections.Profile, stage: str, cell: str
) -> dict[str, tuple[str, sections.Profile, str]]:
    """The trainings of a stage and of all stages that it depends on, by key of the artifact."""
    found = {}
    if training_of(profile, stage) is not None:
        found[artifacts.key(stages.settings(profile, stage))] = (stage, profile, cell)
    for earlier, its_profile in stages.upstream(profile, stage):
        found |= _steps_up_to(its_profile, earlier, cell)
    return found


# running


def make_stage(
    stage: str, profile: sections.Profile, store: artifacts.Store, *before: str | None
) -> str | None:
    """Make one stage, unless an earlier one failed. It runs inside a worker, so it never raises.

    Args:
        stage: name of the stage.
        profile: all settings.
        store: where the artifact goes.
        *before: what this function returned for the stages that this one depends on.

    Returns:
        None, or a sentence on what failed: the error of an earlier stage or of this one.
    """
    for error in before:
        if error:
            return error
    try:
        stages.resolve(profile, stage, store)
    except Exception as error:  # whatever it is: the other cells go on
        return f"{stage}: {type(error).__name__}: {error}"
    return None


def default_workers() -> int:
    """Processes that make cells on this machine; 0 = one cell after the other, in this process.

    Two where cores and memory are enough; none beside a card, which all would share, and none
    without dask.
    """
    if torch.cuda.is_available() or not find_spec("distributed"):
        return 0
    by_memory = int(cohort.available_memory() // cohort.BYTES_PER_WORKER)
    return min(2, os.cpu_count() or 1, by_memory)


def run_cells(
    cells: Iterable[Cell],
    store: artifacts.Store,
    scheduler: str | None = None,
    workers: int = 0,
    begun: Callable[[Cell], object] | None = None,
) -> Iterator[tuple[Cell, str | None]]:
    """Make the cells of a list.

    On a cluster every worker needs the same store: a shared folder, or `RemoteStore`, where a
    finished cell may lie at the address alone (`grid_rows.fetch_finished` copies it here).
    Workers that offer the resource GPU get one task for each GPU. A task whose worker dies goes to
    another worker, which resumes its training from the last checkpoint.

    Args:
        cells: what to make.
        store: where the artifacts go.
        scheduler: address of a Dask scheduler, such as "tcp://10.0.0.1:8786".
        workers: processes of one thread on this machine; 0 = none.
        begun: called with each cell as it begins; on workers, as it is handed to them.

    Yields:
        (cell, None or what failed), each as soon as it is done; finished cells first.

    Raises:
        RuntimeError: workers are asked for and the extra `cluster` is missing.
    """
    finished, rest = [], []
    for cell in cells:
        (finished if cell.done(store) else rest).append(cell)
    for cell in finished:
        yield cell, None
    if rest and (scheduler or workers):
        for cell in rest:
            if begun:
                begun(cell)
        yield from _run_on_cluster(rest, store, scheduler, workers)
        return
    for cell in rest:
        if begun:
            begun(cell)
        yield cell, make_stage(cell.stage, cell.profile, store)


def _run_on_cluster(
    cells: list[Cell], store: artifacts.Store, scheduler: str | None, workers: int
) -> Iterator[tuple[Cell, str | None]]:
    """`run_cells` as tasks of a Dask cluster: that of `scheduler`, or one of local processes."""
    try:
        import dask.config
        from distributed import Client, LocalCluster, as_completed
    except ImportError as error:
        raise RuntimeError('a grid on workers needs dask: pip install "cxrkit[cluster]"') from error
    settings = {
        # a stage may start processes of its own (rendering a cohort), which a daemon must not
        "distributed.worker.daemon": False,
        "distributed.nanny.pre-spawn-environ": {
            "OMP_NUM_THREADS": "1",
            "OMP_WAIT_POLICY": "PASSIVE",
        },
    }
    with dask.config.set(settings), contextlib.ExitStack() as stack:
        cluster = scheduler
        if not scheduler:
            cluster = LocalCluster(
                n_workers=workers, threads_per_worker=1, memory_limit=0, dashboard_address=None
            )
            stack.enter_context(cluster)
        client = stack.enter_context(Client(cluster))
        options = {"resources": {"GPU": 1}} if "GPU" in _offered_resources(client) else {}
        tasks, cells_of = {}, {}
        for cell in cells:
            future = _submit(client, tasks, cell.stage, cell.profile, store, options)
            cells_of.setdefault(future, []).append(cell)
        for future in as_completed(cells_of):
            if future.status == "error":
                error = f"its workers died: {future.exception()}"
            else:
                error = future.result()
            for cell in cells_of[future]:
                yield cell, error


def _offered_resources(client: Client) -> set[str]:
    """Names of the resources that the workers offer, as soon as there is a worker.

    An adaptive cluster starts its first worker only for a task, here for an empty one.
    """
    scheduler = client.scheduler_info(n_workers=-1)
    if not scheduler["workers"]:
        warnings.warn(
            f"no worker at {scheduler['address']} yet: waiting for a first one", stacklevel=2
        )
    client.submit(os.getpid, pure=False).result()
    names = set()
    for worker in client.scheduler_info(n_workers=-1)["workers"].values():
        names |= set(worker["resources"])
    return names


def _submit(
    client: Client,
    tasks: dict[str, Future],
    stage: str,
    profile: sections.Profile,
    store: artifacts.Store,
    options: dict[str, Any],
) -> Future:
    """The task of a stage, after the tasks of the stages that it depends on.

    `tasks` collects them by name of the artifact, so that each artifact has one task.
    """
    name = stages.folder_of(profile, stage, store).name
    if name in tasks:
        return tasks[name]
    before = []
    if not stages.is_done(profile, stage, store):
        for earlier, its_profile in stages.upstream(profile, stage):
            before.append(_submit(client, tasks, earlier, its_profile, store, options))
    key = f"{name}-{os.urandom(4).hex()}"
    tasks[name] = client.submit(make_stage, stage, profile, store, *before, key=key, **options)
    return tasks[name]
