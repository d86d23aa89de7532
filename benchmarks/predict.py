"""How fast is `cxrkit predict`? python benchmarks/predict.py [--profile P] [--weights DIR] [--films
N] [--side PX]

Prints seconds to load the models and the seconds a film (median and worst, and of processor) with
and without maps, for virtual films enlarged to --side px and written as PNG, as a hospital's export
would be. Bar: 2 s a film after the start, on 2 cores.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import cv2
import torch

from cxrkit.config import profiles
from cxrkit.inference import predictor
from cxrkit.simulation import hospital


def films(folder, n, side):
    """n virtual films as PNG files."""
    paths = []
    for i in range(n):
        image = hospital.Hospital(list(hospital.SITES)[i % 6], seed=5, n=n, size=256)[i].image
        paths.append(str(folder / f"{i}.png"))
        cv2.imwrite(paths[-1], cv2.resize(image, (side, side), interpolation=cv2.INTER_CUBIC))
    return paths


def seconds(models, path, maps, folder):
    """(time, processor time) of one film, its maps written."""
    start, cpu = time.perf_counter(), time.process_time()
    predictor.write_maps(predictor.predict(path, models, maps=maps), folder, "film")
    return time.perf_counter() - start, time.process_time() - cpu


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="mini")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--films", type=int, default=12)
    parser.add_argument("--side", type=int, default=2048)
    options = parser.parse_args()
    start = time.perf_counter()
    models = predictor.load(profiles.get(options.profile), weights=options.weights)
    print(
        f"{models.origin}, {torch.get_num_threads()} threads; models loaded in "
        f"{time.perf_counter() - start:.1f} s"
    )
    with tempfile.TemporaryDirectory() as name:
        paths = films(Path(name), options.films, options.side)
        for maps, how in ((False, "without"), (True, "with")):
            seconds(models, paths[0], maps, Path(name))  # the first film pays for imports
            times, cpu = zip(*(seconds(models, path, maps, Path(name)) for path in paths))
            print(
                f"{len(paths)} films of {options.side} px, {how} maps: median "
                f"{statistics.median(times):.2f} s, "
                f"worst {max(times):.2f} s a film, {statistics.median(cpu):.2f} s of processor   "
                "(bar 2)"
            )


if __name__ == "__main__":
    main()
