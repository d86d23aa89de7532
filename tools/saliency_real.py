"""Saliency methods on real films: do the cells of a map decide the model's answer?

    python tools/saliency_real.py --films DIR/cohen [--images N]       # minutes on one core

Deletion, insertion and saturation of COVID-19 films with the shipped diagnosis models, which have
trained on other images of some of these patients: these criteria ask what the model uses, not
whether it is right. Writes cxrkit/storage/recorded_results/saliency_real.json: for each criterion
and method the mean with its 95 % interval over patients, and `ahead_*`: the default method minus
this one on the same films, with Holm over the methods.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from cxrkit import explain
from cxrkit.data.images import load_image
from cxrkit.explain import methods, saliency_benchmark
from cxrkit.inference import predictor, trained
from cxrkit.reproduction import environment
from cxrkit.storage import recorded

NAME = "saliency_real"
METHODS = ("attnlrp", "relevance", "gradient_x_input", "random")
VIEWS = {"PA": "PA", "AP": "AP", "AP Supine": "AP"}


def films_of(folder, count):
    """COVID-19 films of a folder with a known view: some, spread over all, or all."""
    labels = pd.read_csv(folder / "labels.csv")
    labels = labels[(labels["class3"] == "covid19") & labels["view"].isin(VIEWS)]
    if count and count < len(labels):
        labels = labels.iloc[np.linspace(0, len(labels) - 1, count).astype(int)]
    return labels.reset_index(drop=True)


@torch.no_grad()
def corpora(films, folder, part, segmenter):
    """What the transformer of a diagnosis model reads of each film, (n, C, h, w)."""
    found = []
    for file in films["file"]:
        pixels = load_image(folder / file).pixels
        mask = predictor.lung_mask(pixels, segmenter)
        shown = predictor.visible(pixels, mask, part.profile)
        found.append(part.network.corpus(predictor.network_input(shown, part.profile)))
    return torch.cat(found)


def measure(films, folder, models, view, names):
    """Rows of the three criteria for the films of a view."""
    part = models.parts[f"diagnosis_{view.lower()}"]
    corpus = corpora(films, folder, part, models.parts["segmenter"])
    vit, groups = part.network.transformer, films["group_id"].to_numpy()
    score = saliency_benchmark.covid_probability(vit, part.profile)
    parts = [explain.measure_removal(vit, corpus, explain.COVID, score, groups, names)]
    for name in names:
        values = saliency_benchmark.larger_maps(
            explain.METHODS[name], vit, corpus, explain.COVID, score
        )
        line = {"method": name, "criterion": "saturation", "image": range(len(films))}
        parts.append(pd.DataFrame({**line, "value": values, "group": groups}))
    return pd.concat(parts, ignore_index=True).assign(view=view)


def as_records(rows):
    """Means and paired differences as flat dicts."""
    found = []
    for criterion, part in rows.dropna(subset="value").groupby("criterion", sort=False):
        ahead = explain.paired_differences(part, methods.DEFAULT_METHOD, criterion)
        columns = ["difference", "low", "high", "holm", "conclusion"]
        ahead = ahead[columns].add_prefix("ahead_")
        table = explain.summarise(part).set_index("method")
        for line in table.join(ahead).reset_index().to_dict("records"):
            found.append({name: value for name, value in line.items() if not pd.isna(value)})
    return found


def parse():
    """The options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--films", type=Path, required=True, help="folder with labels.csv")
    parser.add_argument("--methods", nargs="+", choices=explain.METHODS, default=METHODS)
    parser.add_argument("--images", type=int, default=0, help="so many films; 0 = all")
    return parser.parse_args()


def main():
    """Measure and write."""
    options = parse()
    torch.set_num_threads(1)
    models = trained.load_models(weights=trained.SHIPPED)
    films = films_of(options.films, options.images)
    parts = []
    for view, part in films.groupby(films["view"].map(VIEWS)):
        parts.append(
            measure(part.reset_index(drop=True), options.films, models, view, options.methods)
        )
    rows = pd.concat(parts, ignore_index=True)
    found = as_records(rows)
    print(pd.DataFrame(found).round(3).to_string())
    command = f"python tools/saliency_real.py --films DIR/{options.films.name}"
    if options.images:
        command += f" --images {options.images}"
    made = {"command": command, "films": len(films), **environment.provenance()}
    recorded.write_result(NAME, found, made)


if __name__ == "__main__":
    main()
