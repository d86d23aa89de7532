"""How fast is `cxrkit predict`?

    python benchmarks/predict.py [--profile P] [--weights DIR] [--images N] [--side PX] [--out FILE]

Prints the seconds to load the models, and those of an image (median, worst, and of processor) with
and without maps, for virtual images enlarged to --side px and written as PNG, as a hospital's
export would be. Bar: 2 s an image after the start, on 2 cores. With --out docs/lab/predict.json it
is the table of docs/predict.md.
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import cv2
import torch

from cxrkit.config import profiles
from cxrkit.inference import files, load_models, predict
from cxrkit.reproduction import environment
from cxrkit.simulation import hospital
from cxrkit.storage.atomic import write_json

BAR = 2.0  # s an image


def write_images(folder, count, side):
    """Virtual images as PNG files -> their paths."""
    paths, sites = [], list(hospital.SITES)
    for i in range(count):
        patients = hospital.Hospital(sites[i % 6], seed=5, n=count, size=256)
        image = cv2.resize(patients[i].image, (side, side), interpolation=cv2.INTER_CUBIC)
        paths.append(str(folder / f"{i}.png"))
        cv2.imwrite(paths[-1], image)
    return paths


def seconds(models, path, maps, folder):
    """(time, processor time) of one image, its maps written."""
    start, cpu = time.perf_counter(), time.process_time()
    found = predict(path, models, maps=maps, even_unusable=True)
    files.write_maps(found, folder, "image")
    return time.perf_counter() - start, time.process_time() - cpu


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--profile", default="mini")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--images", type=int, default=12)
    parser.add_argument("--side", type=int, default=2048)
    parser.add_argument("--out", type=Path, help="also write the numbers to this JSON file")
    options = parser.parse_args()
    start = time.perf_counter()
    models = load_models(profiles.get(options.profile), weights=options.weights)
    found = {
        "command": "python benchmarks/predict.py",
        **environment.provenance(),
        "profile": options.profile,
        "side": options.side,
        "bar": BAR,
        "other work": round(os.getloadavg()[0], 1),  # processes that ran in the last minute
        "loading": round(time.perf_counter() - start, 1),
        "rows": [],
    }
    print(f"{models.origin}, {torch.get_num_threads()} threads; loaded in {found['loading']} s")
    with tempfile.TemporaryDirectory() as name:
        paths = write_images(Path(name), options.images, options.side)
        for maps in (False, True):
            seconds(models, paths[0], maps, Path(name))  # the first image pays for imports
            times, cpu = zip(*(seconds(models, path, maps, Path(name)) for path in paths))
            row = {
                "maps": maps,
                "images": len(paths),
                "median": round(statistics.median(times), 2),
                "worst": round(max(times), 2),
                "processor": round(statistics.median(cpu), 2),
            }
            found["rows"].append(row)
            print(
                f"{len(paths)} images of {options.side} px, {'with' if maps else 'without'} maps: "
                f"median {row['median']} s, worst {row['worst']} s an image, {row['processor']} s "
                f"of processor   (bar {BAR:g})"
            )
    if options.out:
        write_json(options.out, found)


if __name__ == "__main__":
    main()
