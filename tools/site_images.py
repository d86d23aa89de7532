"""Virtual films for the page in site/: pictures, truth and AttnLRP maps.

    python tools/site_images.py FOLDER [--count 20] [--profile NAME] [--store DIR]

Writes films.json and PNG files into FOLDER. Nothing of it is committed.
"""

import argparse
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from cxrkit import Run
from cxrkit.config.vocabulary import DIAGNOSES, FINDINGS, ZONES
from cxrkit.data.images import load_image
from cxrkit.data.masks import load_mask
from cxrkit.explain.methods import DEFAULT_METHOD, METHODS
from cxrkit.inference import predictor, trained
from cxrkit.simulation import hospital
from cxrkit.storage.atomic import write_atomic, write_json

SERIES = 2  # patients whose films of several visits are on the list
VISITS = 3  # films of each of them, at most
COUNT = 20  # films on the list
SEED = 0


def choose(diagnosis, severity, count):
    """Films of hospitals that no training saw: series first, then each diagnosis and view alike.

    Args:
        diagnosis: table of the images with a diagnosis.
        severity: table of the images with a severity, several of a patient.
        count: how many films.

    Returns:
        Rows of both tables, in the order of the list.
    """
    diagnosis, severity = usable(diagnosis), usable(severity)
    chosen = []
    patients = severity.groupby("patient_id", sort=True)
    for _, rows in sorted(patients, key=lambda pair: -pair[1]["severity"].std())[:SERIES]:
        chosen.append(rows.sort_values("visit").head(VISITS))
    rng = np.random.default_rng(SEED)
    groups = [
        rows.loc[rng.permutation(rows.index.to_numpy())]
        for _, rows in diagnosis.groupby(["diagnosis", "view"])
    ]
    left = count - sum(map(len, chosen))
    for turn in range(left):
        group, place = groups[turn % len(groups)], turn // len(groups)
        chosen.append(group.iloc[place : place + 1])
    return pd.concat(chosen, ignore_index=True)


def usable(table):
    """The frontal films of external hospitals."""
    return table[table["external"].astype(bool) & table["view"].isin(predictor.FRONTAL)]


def png(values):
    """A PNG file of uint8 values (H, W)."""
    return cv2.imencode(".png", values)[1].tobytes()


def number(value):
    """A number for JSON; None where it is unknown."""
    return None if value is None or np.isnan(float(value)) else float(value)


def describe(i, row, pixels, models):
    """A film of films.json, without its pictures."""
    part = models.parts[f"diagnosis_{row['view'].lower()}"]
    corpus = part.network.corpus(predictor.network_input(pixels, part.profile))
    transformer = part.network.transformer
    cells = METHODS[DEFAULT_METHOD](transformer, corpus.detach(), range(len(DIAGNOSES)))[0]
    relevance = {
        name: np.round(one.numpy().astype(float), 6).tolist()
        for name, one in zip(DIAGNOSES, cells, strict=True)
    }
    name = f"film{i + 1:02d}"
    return {
        "id": name,
        "site": row["site"],
        "view": row["view"],
        "visit": int(row["visit"]),
        "patient": row["patient_id"],
        "external": bool(row["external"]),
        "diagnosis": row["diagnosis"],
        "findings": {finding: number(row[finding]) for finding in FINDINGS},
        "zones": [number(row[zone]) for zone in ZONES],
        "severity": number(row["severity"]),
        "width_mm": hospital.SITES[row["site"]].field_mm,
        "image": f"{name}.png",
        "lungs": f"{name}_lungs.png",
        "lesion": f"{name}_lesion.png",
        "relevance": relevance,
    }


def write_films(folder, table, models):
    """Pictures and films.json; returns what films.json holds.

    Raises:
        ValueError: a film is one of a patient: its pixels would enter the page.
    """
    if not (table["dataset"] == "virtual").all():
        raise ValueError("the list of the page takes virtual films alone, not those of patients")
    films = []
    for i, row in enumerate(table.to_dict("records")):
        pixels = load_image(row["path"]).pixels
        film = describe(i, row, pixels, models)
        write_atomic(folder / film["image"], png(pixels))
        write_atomic(folder / film["lungs"], png(load_mask(row["lung_mask"], "lungs")))
        lesion = row["lesion_mask"]
        mask = load_mask(lesion, "lesion") if isinstance(lesion, str) else np.zeros_like(pixels)
        write_atomic(folder / film["lesion"], png(mask))
        films.append(film)
    about = {"map_method": DEFAULT_METHOD, "models": models.digest()}
    write_json(folder / "films.json", {**about, "films": films})
    return films


def opened(options):
    """The run whose networks the page holds, that of its films, and the rows of the films.

    Films are virtual whatever the networks learnt from: no pixels of patients enter the page.

    Args:
        options: `profile`, `store` and `count` of the command line.
    """
    run = Run(options.profile, options.store)
    home = run.virtual
    return run, home, choose(home.images("diagnosis"), home.images("severity"), options.count)


def arguments(description):
    """The options that say which films are on the list."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=COUNT, help="films on the list")
    parser.add_argument("--profile", default="demo", help="whose networks the page holds")
    parser.add_argument("--store", type=Path, help="where finished stages lie")
    return parser


def main():
    """Write the films."""
    options = arguments(__doc__).parse_args()
    run, _, table = opened(options)
    models = trained.load_models(run.profile, run.store)
    films = write_films(options.folder, table, models)
    print(f"{len(films)} films: {options.folder / 'films.json'}")


if __name__ == "__main__":
    main()
