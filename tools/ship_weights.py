"""Put the finished models of a profile into the package, small and with all that a user must know
of them.

    python tools/ship_weights.py --profile mini --mirror DIR          # make weights MIRROR=DIR

Each stage goes to cxrkit/weights/open or, where a film or score of another source than OPEN had a
part in it or in what it starts from, to cxrkit/weights/research: <stage>.safetensors (matrices in
16 bit, its profile and licence in the header), beside it card.json (recipe, films, metrics, groups
never seen, what rounding changed) and LICENSE-NOTE.md. A stage that has not run is named and not
shipped; with several --profile the first that has a stage gives it.
"""

import argparse
import hashlib
import re
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from cxrkit import NOTICE
from cxrkit.config import profiles
from cxrkit.data import datasets, schema
from cxrkit.inference.predictor import NETWORKS, SHIPPED
from cxrkit.models import factory
from cxrkit.pipeline import dependencies, stages, task_data
from cxrkit.reproduction import environment, ledger
from cxrkit.storage.artifacts import Store
from cxrkit.storage.atomic import read_json, write_atomic, write_json
from cxrkit.tasks import diagnosis, segmentation, severity
from cxrkit.training import checkpoint, loop

# terms that allow passing on, with attribution
OPEN = {"virtual", "nih_cxr14", "nih_cxr14_64px", "kermany", "kermany_224", "hannover"}
STAGES = {"backbone": factory.backbone_network, **NETWORKS}
TASKS = {
    "backbone": ("findings",),
    "segmenter": ("lungs", "diagnosis"),
    "diagnosis_pa": ("diagnosis",),
    "diagnosis_ap": ("diagnosis",),
    "severity": ("severity",),
}
# taught the inspector, which lies in open/
INSPECTED = {"virtual", "nih_cxr14", "hannover", "kermany", "kermany_224"}
LARGEST, WHOLE = 6e6, 20e6  # bytes of a file, of all
ROUNDING = 0.01  # that a probability, or a zone, may move
MODEL_CARD = Path(__file__).resolve().parent.parent / "MODEL_CARD.md"
FILMS = 64  # on which that is measured


def ancestry(profile, stage):
    """The stages that a stage stands on, itself first: list of (stage, profile)."""
    found = [(stage, profile)]
    for before in dependencies.upstream(profile, stage):
        found += ancestry(before[1], before[0])
    return found


def films(profile, stage, store):
    """The films of one stage that has films: table with `taught` (trained on, or chose the step to
    stop at).
    """
    tables = [task_data.for_task(profile, task, store) for task in TASKS[stage]]
    if stage.startswith("diagnosis"):
        # of both views: one model may have learnt from both
        tables = [stages.diagnosis_films(profile, store)[0]]
    table = pd.concat(tables).drop_duplicates("path", ignore_index=True)
    return table.assign(
        taught=~table["external"].astype(bool) & table["split"].isin(["train", "val"])
    )


def teachers(profile, stage, store):
    """Datasets and groups that had a part in a stage or in what it stands on: (sorted names, set of
    group ids).
    """
    tables = [films(own, one, store) for one, own in ancestry(profile, stage) if one in TASKS]
    taught = pd.concat([table[table["taught"]] for table in tables])
    lent = {
        "virtual"
        for _, own in ancestry(profile, stage)
        if own.segmenter.virtual or dict(own.sources.shares).get("virtual")
    }
    return sorted(set(taught["dataset"]) | lent), set(taught["group_id"])


def rounded(tensors):
    """Matrices in 16 bit; vectors stay as they are: the deviations of a normalisation can be too
    small for 16 bit.
    """
    return {
        name: t.half() if t.is_floating_point() and t.ndim > 1 else t for name, t in tensors.items()
    }


def outputs(stage, network, table, profile, store):
    """What a user reads from a stage: probabilities, or severity arrays, (n, ...)."""
    if stage == "severity":
        return severity.arrays_of(network, table, profile, store)
    if stage.startswith("diagnosis"):
        return diagnosis.predict(network, table, profile, store)[diagnosis.PROBABILITIES].to_numpy()
    if stage == "segmenter":
        return (
            loop.evaluate(
                network,
                segmentation.dataset(table, profile, store),
                forward=lambda model, batch: {"logits": model.draw(batch["image"])},
            )["logits"]
            .sigmoid()
            .numpy()
        )
    return (
        loop.evaluate(network, datasets.dataset(table, profile, store), ("logits",))["logits"]
        .sigmoid()
        .numpy()
    )


def moved(stage, tensors, profile, table, store):
    """The largest change that rounding makes to the outputs of some test films."""
    table = (
        table[~table["taught"]]
        .sample(min(FILMS, (~table["taught"]).sum()), random_state=0)
        .reset_index(drop=True)
    )
    table = stages.masks(profile, table, store) if stage == "severity" else table
    found = []
    for state in (tensors, rounded(tensors)):
        network = STAGES[stage](profile)
        network.load_state_dict(state)
        found.append(outputs(stage, network.eval(), table, profile, store))
    return float(np.abs(found[0] - found[1]).max()), len(table)


def ship(profile, stage, folder, store, out):
    """One finished stage into its shelf below `out` -> (shelf, what card.json says of it). Raises
    ValueError for one that is too large or that rounding changes too much.
    """
    names, groups = teachers(profile, stage, store)
    shelf = "open" if set(names) <= OPEN else "research"
    tensors, table = (
        checkpoint.load_tensors(folder / "weights.safetensors")[0],
        films(profile, stage, store),
    )
    metrics = read_json(folder / "metrics.json")
    # one model for both views: its contrasts stand with the whole
    if stage.startswith("diagnosis") and profile.sources.together:
        whole = (
            store.folder("diagnosis", dependencies.settings(profile, "diagnosis")) / "metrics.json"
        )
        metrics |= {"contrasts": read_json(whole)["contrasts"]}
    change, tried = moved(stage, tensors, profile, table, store)
    path, licence = out / shelf / f"{stage}.safetensors", f"{shelf}: {', '.join(names)}"
    checkpoint.save_tensors(path, rounded(tensors), profile=profile.to_dict(), licence=licence)
    if change > ROUNDING or path.stat().st_size > LARGEST:
        path.unlink()
        raise ValueError(
            f"{stage}: rounding moves an output by {change:.4f} (at most {ROUNDING}), or it has "
            f"over {LARGEST:.0f} bytes"
        )
    unseen = sorted(set(table["group_id"]) - groups)
    counts = (
        table.groupby(["dataset", "taught"])
        .size()
        .unstack(fill_value=0)
        .rename(columns={True: "taught", False: "unseen"})
    )
    return shelf, {
        "file": path.name,
        "bytes": path.stat().st_size,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "profile": profile.name,
        "recipe": dependencies.settings(profile, stage),
        "films_of": names,
        "films": counts.to_dict("index"),
        "rounding": {"largest_change": change, "films": tried},
        "metrics": metrics,
        "groups_never_seen": unseen
        if profile.manifests != ("virtual",)
        else "test splits and external sites",
    }


TERMS = {
    "open": "May be passed on with attribution of the sources below; code and weights: Apache-2.0 "
    "as far as they are ours.",
    "research": "For research and teaching. Films or scores of some sources below are under "
    "non-commercial, unclear or mixed terms: do "
    "not use these weights commercially.",
}


def note(shelf, names):
    """LICENSE-NOTE.md of a shelf."""
    specs = [schema.load(name) for name in names]
    lines = [
        f"- **{spec.name}**: {spec.title}. {spec.licence} ({spec.licence_class}). "
        f"{' '.join(spec.citation)}"
        for spec in specs
    ]
    head = f"# Weights: {shelf}\n\n{TERMS[shelf]}\n{NOTICE}\nNo film is in the weights; they learnt from the training splits of:\n\n"
    return head + "\n".join(lines) + "\n"


PICKED = {  # stage -> the numbers of its metrics.json that the model card shows
    "backbone": r"(test|external\d*)\.auc",
    "diagnosis": r"(test|external\d*)\.(auc|sensitivity|specificity)|contrasts\.((inside|away)\.\w+\.(auc|gain)|inside_lungs\.\w+\.gain)",
    "segmenter": r"(test|external\d*|by_dataset\.\w+)\.{delivered}\.(normal|abnormal)\.dice",
    "severity": r"(test|external\d*)\.((constant\.|reader\.)?mse|mae|cc)|folds\.threshold\d\.(model|constant|ridge|reader)\.mse",
}


def numbers(cards):
    """The table of MODEL_CARD.md from {shelf: {stage: card}}."""
    lines = [
        "| model | shelf | films of | measured on | value [95 % interval] | n |",
        "|---|---|---|---|---|---|",
    ]
    for shelf, card in cards.items():
        for stage, says in card.items():
            leaves = ledger.flat(says["metrics"])
            wanted = PICKED[stage.partition("_")[0]].replace(
                "{delivered}", str(says["metrics"].get("delivered"))
            )
            for name, leaf in leaves.items():
                if name.startswith("contrasts") and stage == "diagnosis_ap":
                    continue  # one model: they stand with the other view
                if re.fullmatch(wanted, name) and leaf.get("low") is not None:
                    site = leaves.get(f"{name.partition('.')[0]}.site", {}).get("value")
                    place = name + (f" ({site})" if site else "")
                    value = f"{leaf['value']:.3f} [{leaf['low']:.3f}, {leaf['high']:.3f}]"
                    taught = ", ".join(says["films_of"])
                    lines.append(
                        f"| {stage} ({says['profile']}) | {shelf} | {taught} | {place} | {value} | "
                        f"{leaf.get('n', '')} |"
                    )
    return "\n".join(lines)


def main():
    """Ship what is finished, say what is not."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--profile",
        action="append",
        choices=profiles.PROFILES,
        help="may be repeated: the first that has a stage",
    )
    parser.add_argument("--mirror", type=Path, default=None)
    parser.add_argument("--store", type=Path, default=None)
    parser.add_argument("--out", type=Path, default=SHIPPED)
    options = parser.parse_args()
    torch.set_num_threads(1)
    store, cards = Store(options.store, data=options.mirror), {"open": {}, "research": {}}
    for stage in STAGES:
        candidates = [
            (p, store.folder(stage, dependencies.settings(p, stage)))
            for p in map(profiles.get, options.profile or ["mini"])
        ]
        finished = [
            (p, folder) for p, folder in candidates if (folder / "weights.safetensors").exists()
        ]
        if not finished:
            print(f"{stage}: not run, not shipped")
            continue
        for shelf in cards:
            (options.out / shelf / f"{stage}.safetensors").unlink(missing_ok=True)
        shelf, card = ship(finished[0][0], stage, finished[0][1], store, options.out)
        cards[shelf][stage] = card
        print(
            f"{stage}: {shelf}, {card['bytes'] / 1e6:.2f} MB, rounding moves at most "
            f"{card['rounding']['largest_change']:.5f}"
        )
    for shelf, card in cards.items():
        names = {name for one in card.values() for name in one["films_of"]} | (
            INSPECTED if shelf == "open" else set()
        )
        (options.out / shelf / "card.json").unlink(missing_ok=True)
        (options.out / shelf / "LICENSE-NOTE.md").unlink(missing_ok=True)
        if card:
            made = {"command": "make weights", **environment.provenance()}
            write_json(options.out / shelf / "card.json", {"made": made, "models": card})
        if names:
            write_atomic(options.out / shelf / "LICENSE-NOTE.md", note(shelf, sorted(names)))
    if options.out == SHIPPED:
        text = MODEL_CARD.read_text()
        head, _, rest = text.partition("<!-- numbers -->")
        write_atomic(
            MODEL_CARD,
            f"{head}<!-- numbers -->\n{numbers(cards)}\n<!-- /numbers "
            f"-->{rest.partition('<!-- /numbers -->')[2]}",
        )
    if sum(path.stat().st_size for path in options.out.rglob("*.safetensors")) > WHOLE:
        raise ValueError(f"more than {WHOLE / 1e6} MB in all")


if __name__ == "__main__":
    main()
