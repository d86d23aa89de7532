"""A folder for a model hub: safetensors, settings, and a model card whose front matter a hub reads.

The front matter follows the hub's schema of model cards: licence, tags, datasets, metrics, and the
measured values as `model-index`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from cxrkit import NOTICE, __version__
from cxrkit.config.sections import Profile
from cxrkit.config.vocabulary import DIAGNOSES, FINDINGS, ZONES
from cxrkit.data import schema
from cxrkit.evaluation.summaries import value_text
from cxrkit.inference import trained
from cxrkit.inference.trained import Models, Part
from cxrkit.storage.artifacts import Store
from cxrkit.storage.atomic import write_atomic, write_json
from cxrkit.training import checkpoint

TITLES = {
    "diagnosis": "diagnosis of PA and AP films",
    "diagnosis_pa": "diagnosis of PA films",
    "diagnosis_ap": "diagnosis of AP films",
    "segmenter": "lung segmentation",
    "severity": "severity of COVID-19",
}
TASKS = {"segmenter": "image-segmentation"}  # of the hub; all others classify
METRICS = {"auc": "roc_auc", "dice": "dice", "mse": "mse", "mae": "mae", "r2": "r_squared"}
SPLITS = ("test", "external")


def export_hub(
    folder: Path,
    profile: Profile,
    store: Store | None = None,
    weights: Path | None = None,
) -> Path:
    """Write the trained networks of a profile as a hub expects them.

    Args:
        folder: gets <stage>.safetensors, config.json and README.md; files of these names are
            overwritten.
        profile: whose networks.
        store: where finished stages lie; None = `Store()`.
        weights: folder with files of `tools/ship_weights.py`, in place of the store.

    Returns:
        Path of the model card.

    Raises:
        FileNotFoundError: no complete set of weights; see `load_models`.
    """
    models = trained.load_models(profile, store, weights)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config = {"library": "cxrkit", "version": __version__, "parts": {}}
    for stage, part in models.networks.items():
        settings = part.profile.to_dict()
        checkpoint.save_tensors(
            folder / f"{stage}.safetensors",
            part.network.state_dict(),
            profile=settings,
            licence=part.licence,
        )
        config["parts"][stage] = {"file": f"{stage}.safetensors", "profile": settings}
    config |= {"diagnoses": DIAGNOSES, "findings": FINDINGS, "zones": ZONES}
    write_json(folder / "config.json", config)
    card = folder / "README.md"
    write_atomic(card, model_card(models))
    return card


def model_card(models: Models) -> str:
    """The model card: YAML front matter between two lines of dashes, then Markdown."""
    front = yaml.safe_dump(front_matter(models), sort_keys=False, allow_unicode=True, width=100)
    lines = [
        f"---\n{front}---",
        "# cxrkit: models for chest X-rays",
        f"**{NOTICE}**",
        "The method of Park et al. 2021: a convolutional network that has learnt common findings "
        "gives the tokens of a vision transformer that diagnoses; a map of the same features gives "
        "the severity of six lung zones.",
        models.about.partition("\n")[2].strip(),
        "## Files",
        "\n".join(f"- `{stage}.safetensors`: {TITLES[stage]}" for stage in models.networks),
        "## Use",
        "```python\nfrom pathlib import Path\n\nimport cxrkit\nfrom cxrkit.inference import "
        'load_models\n\nmodels = load_models(weights=Path("this_folder"))\n'
        'cxrkit.predict("film.png", models)\n```',
        "## Measured",
        measured_table(models),
    ]
    return "\n\n".join(lines) + "\n"


def front_matter(models: Models) -> dict[str, Any]:
    """What a hub reads: see its schema of model cards."""
    names = sorted({name for part in models.networks.values() for name in part.profile.manifests})
    results = [one for stage, part in models.networks.items() for one in _results(stage, part)]
    used = sorted({metric["type"] for one in results for metric in one["metrics"]})
    measured = {}
    if results:
        measured = {"metrics": used, "model-index": [{"name": "cxrkit", "results": results}]}
    return {
        **licence_fields(names),
        "library_name": "cxrkit",
        "pipeline_tag": "image-classification",
        "tags": ["chest-x-ray", "medical", "vision-transformer", "covid-19", "explainability"],
        "datasets": names,
        **measured,
    }


def licence_fields(datasets: list[str]) -> dict[str, str]:
    """The licence of weights by the terms of the images that trained them.

    Args:
        datasets: names of manifests.

    Returns:
        Apache-2.0 where all of them may be passed on, else a licence of its own name.
    """
    terms = {name: schema.load(name) for name in datasets}
    if all(one.licence_class == "permissive" for one in terms.values()):
        return {"license": "apache-2.0"}
    said = "; ".join(f"{name}: {one.licence}" for name, one in terms.items())
    return {
        "license": "other",
        "license_name": "research-and-teaching-only",
        "license_details": said,
    }


def _results(stage: str, part: Part) -> list[dict[str, Any]]:
    """Measured values of a part, in the form of the hub's model-index."""
    task = {"type": TASKS.get(stage, "image-classification"), "name": TITLES[stage]}
    found = []
    for split in SPLITS:
        metrics = [
            {"type": METRICS[path[-1]], "name": ".".join(path), "value": value["value"]}
            for path, value in _values(part.metrics.get(split))
        ]
        if metrics:
            dataset = {"type": "+".join(part.profile.manifests), "name": f"{split} images"}
            found.append({"task": task, "dataset": dataset, "metrics": metrics})
    return found


def _values(node: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], dict]]:
    """Values with an interval among nested metrics, with their paths."""
    if not isinstance(node, Mapping):
        return
    is_value = path and path[-1] in METRICS and node.get("value") is not None
    if is_value:
        yield path, dict(node)
        return
    for name, inner in node.items():
        yield from _values(inner, (*path, str(name)))


def measured_table(models: Models) -> str:
    """Measured values with their intervals, as a table in Markdown."""
    lines = ["| part | images | metric | value [95 % interval] | n |", "|---|---|---|---|---|"]
    for stage, part in models.networks.items():
        for split in SPLITS:
            for path, one in _values(part.metrics.get(split)):
                text = value_text({"low": None, **one}, digits=3)
                name = re.sub(r"[|]", "/", ".".join(path))
                lines.append(f"| {stage} | {split} | {name} | {text} | {one.get('n', '')} |")
    if len(lines) == 2:
        return "What was measured does not lie beside these weights."
    return "\n".join(lines)
