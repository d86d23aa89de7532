"""Put the finished stages of a profile into the package: the read-only layer below every store.

    python tools/ship.py --store DIR --profile demo          # make ship STORE=DIR

Each artifact goes to cxrkit/storage/shipped_artifacts under its own name: weights, metrics, history
and tables, no pixels (films are drawn when they are asked for) and no checkpoint. shipped.json says
how it was made, and files.json lists what it holds. What the profile no longer needs is removed
there. Nothing is written where all artifacts together would be larger than LARGEST.
"""

import argparse
import os
import re
import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from ship_weights import rounded

from cxrkit.config import profiles
from cxrkit.config.sections import Profile
from cxrkit.config.settings_file import get_profile
from cxrkit.pipeline import derived, stages
from cxrkit.pipeline.makers import StageInputs
from cxrkit.reproduction import inventory
from cxrkit.simulation import cohort
from cxrkit.storage import growing, integrity, locations, provenance
from cxrkit.storage.artifacts import Store
from cxrkit.storage.atomic import read_json, write_json
from cxrkit.training import checkpoint

LARGEST = 25e6  # bytes of all artifacts together
SUFFIXES = (".json", ".csv", ".gz", ".npz", ".safetensors")  # pixels are .npy or pictures
# Metrics by which models are compared; where weights are in 16 bit they may move by THIRD_DIGIT.
# The artifact then holds tables and metrics of these weights.
HEADLINES = r"(test|external)\.(.+\.)?(auc|dice|mse)\.value"
THIRD_DIGIT = 5e-4
# stages whose training goes on from finished weights to the evaluation
TRAINED = ("backbone", "feature_extractor", "segmenter", "diagnosis_pa", "diagnosis_ap", "severity")
# stages whose files are pixels -> what writes of one what its pixels can be made from
PACKED = {"cohort": cohort.pack_cohort, "masks": derived.pack_masks}


@dataclass(frozen=True)
class Step:
    """One artifact of a plan.

    `cell`: only the grid of lesson 07 asks for it, and reads its numbers: its weights stay here.
    `of`: the artifact whose table names these masks.
    """

    stage: str
    profile: Profile
    cell: bool
    of: str = ""


# what is shipped


def plan(profile, grid=False):
    """The artifacts that a profile needs: {name: Step}.

    Args:
        profile: of virtual patients.
        grid: those of the cells of lesson 07 too.
    """
    own = inventory.needed_by(profile, cells=False)
    found = inventory.needed_by(profile) if grid else own
    return {
        name: Step(stage, of, cell=name not in own) for name, (stage, of) in sorted(found.items())
    }


def masks_of(steps, store):
    """The segmenter's masks that tables of some artifacts name, which are read again: {name: Step}.

    Without them the first look at such a table would draw and segment all of its films.
    """
    found = {}
    for name, step in steps.items():
        table = store.root / name / "predictions.csv"
        if step.cell or not table.is_file():
            continue
        for masks in sorted(set(re.findall(r"store:(masks-[0-9a-f]{12})/", table.read_text()))):
            found[masks] = Step("masks", step.profile, cell=False, of=name)
    return found


def is_shipped(file):
    """Whether a file of an artifact goes into the package."""
    is_left = file.name in (integrity.LIST, integrity.SHIPPED_NOTE) or "checkpoint" in file.name
    return file.suffix in SUFFIXES and not is_left


def copy(step, source, target, bits, store):
    """Copy what is shipped of an artifact to the folder `target`.

    Returns:
        What shipped.json says of it: `weights`; `moved`, by how much weights in 16 bit move which
        headline most; `left_out`, the files that are not shipped; `pixels` of a cohort.
    """
    kept, left_out = [], []
    for file in sorted(file for file in source.rglob("*") if file.is_file()):
        takes = is_shipped(file) and not (step.cell and file.suffix == integrity.WEIGHTS)
        (kept if takes else left_out).append(file.relative_to(source).as_posix())
    left_out = [name for name in left_out if name != integrity.LIST]
    weights, moved = "float32", None
    if step.stage in PACKED:
        PACKED[step.stage](source, target)
        shutil.copyfile(source / "settings.json", target / "settings.json")
        return {
            "weights": "none",
            "moved": None,
            "pixels": provenance.LEFT_OUT,
            "left_out": left_out,
        }
    if not any(name.endswith(integrity.WEIGHTS) for name in kept):
        weights = provenance.LEFT_OUT if step.cell else "none"
    elif bits == 16 and step.stage in TRAINED:
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".again-") as folder:
            rounded_copy(source, Path(folder), kept)
            moved = evaluate_again(step, Path(folder), store)
            if moved["by"] <= THIRD_DIGIT:
                weights, source = "float16", Path(folder)
                rounded_copy(source, target, kept)
    if weights != "float16":
        for name in kept:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, target / name)
    return {"weights": weights, "moved": moved, "left_out": left_out}


def rounded_copy(source, target, names):
    """Copy files, matrices of weights in 16 bit."""
    for name in names:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(integrity.WEIGHTS):
            tensors, state = checkpoint.load_tensors(source / name)
            checkpoint.save_tensors(target / name, rounded(tensors), **state)
        else:
            shutil.copyfile(source / name, target / name)


def evaluate_again(step, folder, store):
    """Evaluate the finished weights of a copy of an artifact, and write its metrics and tables.

    A training whose weights are finished is not repeated: its stage goes on to the evaluation.

    Returns:
        `metric` that moved most, and `by` how much.

    Raises:
        ValueError: the store lacks what the stage depends on.
    """
    before = read_json(folder / "metrics.json")
    folders = {}
    for need in stages.stage_of(step.stage).upstream(step.profile):
        if need.used and not stages.is_done(need.profile, need.stage, store):
            raise ValueError(f"{step.stage} cannot be evaluated again without {need.stage}")
        if need.used:
            folders[need.role] = stages.fetch(need.profile, need.stage, store)
    made = StageInputs(store, folders)
    stages.stage_of(step.stage).make(folder, step.profile, made)
    return largest_move(before, read_json(folder / "metrics.json"))


def largest_move(before, after):
    """The headline of nested metrics that moved most: {"metric": its path, "by": how much}.

    Raises:
        ValueError: one of them is there on one side alone.
    """
    old, new = headlines(before), headlines(after)
    apart = sorted(old.keys() ^ new.keys())
    if apart:
        raise ValueError(f"evaluated again, the artifact has other metrics: {apart[:3]}")
    moves = {name: abs(old[name] - new[name]) for name in sorted(old)}
    metric = max(moves, key=moves.__getitem__, default="")
    return {"metric": metric, "by": moves.get(metric, 0.0)}


def headlines(metrics):
    """The numbers of HEADLINES by their paths."""
    found = dict(numbers_in(metrics))
    return {name: value for name, value in found.items() if re.fullmatch(HEADLINES, name)}


def numbers_in(value, path=()):
    """The numbers of nested dicts and lists, with their paths."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from numbers_in(inner, (*path, str(name)))
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from numbers_in(inner, (*path, str(i)))
    elif isinstance(value, (int, float)):
        yield ".".join(path), float(value)


def export(step, source, target, store, bits=32, without_note=False):
    """Write the shipped form of a finished artifact to the new folder `target`.

    Raises:
        DamagedArtifact: it is not as it was made.
        ValueError: how it was made was not noted.
    """
    found = integrity.faults(source)
    if found:
        raise integrity.DamagedArtifact(integrity.message(source, found))
    made = provenance.read_note(store.root, step.of or source.name)
    if not made and not without_note:
        raise ValueError(
            f"{source.name}: how it was made was not noted in {store.root / provenance.NOTES}; "
            "delete it and make it again, or ship it without (--without-note)"
        )
    target.mkdir(parents=True)
    weights = copy(step, source, target, bits, store)
    now = provenance.facts("")
    note = {
        "stage": step.stage,
        "profile": step.profile.name,
        "seed": step.profile.seed,
        "made": made,
        **({"of": step.of} if step.of else {}),
        "shipped": {"date": now["date"], "commit": now["commit"]},
        **weights,
    }
    write_json(target / integrity.SHIPPED_NOTE, note)
    integrity.write_list(target)


# the layer


def ship(steps, store, layer, bits=32, without_note=False, largest=LARGEST, say=print):
    """Put the finished artifacts of a plan into the layer, all of them or none.

    Returns:
        Bytes of the layer.

    Raises:
        ValueError: together they are larger than `largest`.
    """
    layer.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=layer.parent, prefix=".shipping-") as folder:
        new = Path(folder)
        for name, step in steps.items():
            source = store.root / name
            if not source.is_dir():
                say(f"{name}: not made, not shipped")
                continue
            if growing.grows(source):
                say(f"{name}: not drawn as a whole, not shipped")
                continue
            export(step, source, new / name, store, bits, without_note)
            note = read_json(new / name / integrity.SHIPPED_NOTE)
            size = inventory.size_of(new / name) / 1e6
            say(f"{name}: {size:.2f} MB, weights {note['weights']}")
        fresh = list(new.iterdir())
        # masks are an orphan while the table that names them is still to come
        gone = [one for one in inventory.orphans(layer) if not (new / one.name).exists()]
        there = list(layer.iterdir()) if layer.is_dir() else []
        kept = [one for one in there if one not in gone and not (new / one.name).exists()]
        total = sum(inventory.size_of(one) for one in [*fresh, *kept])
        say(f"in all: {total / 1e6:.2f} MB of at most {largest / 1e6:g} MB")
        if total > largest:
            raise ValueError(
                f"{total / 1e6:.2f} MB are more than {largest / 1e6:g} MB, nothing was written: "
                "ship fewer stages (--stages), or weights in 16 bit (--bits 16)"
            )
        layer.mkdir(exist_ok=True)
        for one in gone:
            say(f"{one.name}: no profile needs it any more, removed")
        for one in [*gone, *(layer / one.name for one in fresh if (layer / one.name).exists())]:
            shutil.rmtree(one) if one.is_dir() else one.unlink()
        for one in fresh:
            os.replace(one, layer / one.name)
    return total


def main():
    """Ship what is finished, say what is not."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="demo", choices=profiles.PROFILES)
    parser.add_argument("--store", type=Path, default=None)
    choices = [*sorted(stages.STAGES), "masks"]
    parser.add_argument("--stages", nargs="+", choices=choices, default=None)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], help="of the profile")
    parser.add_argument("--grid", action="store_true", help="the cells of lesson 07 too")
    parser.add_argument("--bits", type=int, choices=(16, 32), default=32, help="of matrices")
    parser.add_argument("--without-note", action="store_true")
    parser.add_argument("--out", type=Path, default=locations.SHIPPED)
    options = parser.parse_args()
    torch.set_num_threads(1)
    os.environ[locations.FRESH] = "1"  # what is in the layer already is no source
    store, steps = Store(options.store), {}
    for seed in options.seeds:
        profile = replace(get_profile(options.profile), seed=seed)
        steps |= plan(profile, options.grid)
    steps |= masks_of(steps, store)
    if options.stages:
        steps = {name: step for name, step in steps.items() if step.stage in options.stages}
    ship(steps, store, options.out, options.bits, options.without_note)


if __name__ == "__main__":
    main()
