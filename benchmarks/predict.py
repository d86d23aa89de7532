"""How fast is `cxrkit predict`?

    python benchmarks/predict.py [--profile P] [--weights DIR] [--images N] [--side PX]

Prints the seconds to load the models, and those of an image (median, worst, and of processor) with
and without maps, for virtual images enlarged to --side px and written as PNG, as a hospital's
export would be. Bar: 2 s an image after the start, on 2 cores.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import cv2
import torch

from cxrkit.config import profiles
from cxrkit.inference import files, load_models, predict
from cxrkit.simulation import hospital


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
    options = parser.parse_args()
    start = time.perf_counter()
    models = load_models(profiles.get(options.profile), weights=options.weights)
    print(
        f"{models.origin}, {torch.get_num_threads()} threads; models loaded in "
        f"{time.perf_counter() - start:.1f} s"
    )
    with tempfile.TemporaryDirectory() as name:
        paths = write_images(Path(name), options.images, options.side)
        for maps, how in ((False, "without"), (True, "with")):
            seconds(models, paths[0], maps, Path(name))  # the first image pays for imports
            times, cpu = zip(*(seconds(models, path, maps, Path(name)) for path in paths))
            print(
                f"{len(paths)} images of {options.side} px, {how} maps: median "
                f"{statistics.median(times):.2f} s, worst {max(times):.2f} s an image, "
                f"{statistics.median(cpu):.2f} s of processor   (bar 2)"
            )


if __name__ == "__main__":
    main()
