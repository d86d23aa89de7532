"""Check built packages: sizes, what is inside, and an installation without the net that predicts.

    python tools/check_wheels.py dist            # make wheels

The clean environment sees the libraries of this one, but no cxrkit: both wheels are installed into
it from the folder alone. Then `cxrkit predict` reads a virtual image, and `cxrkit lessons` writes
the lessons.
"""

import argparse
import csv
import os
import subprocess
import sys
import sysconfig
import tempfile
import venv
import zipfile
from pathlib import Path

LARGEST = {"cxrkit": 20e6, "cxrkit_models": 60e6}  # bytes of a wheel
WEIGHTS = (".safetensors", ".pt", ".pth", ".onnx")
PIXELS = (".dcm", ".png", ".jpg", ".jpeg", ".npy", ".nii", ".gz.nii")
OWN = ("cxrkit", "_cxrkit", "__editable__")  # beginnings of our own entries among installed ones
DRAW = """
import sys
import cv2
from cxrkit.simulation import Hospital
cv2.imwrite(sys.argv[1], Hospital("alder", seed=1, n=1, size=128)[0].image)
"""


def wheels_in(folder):
    """{name: path} of the two wheels of a folder.

    Raises:
        SystemExit: one is missing or there are several.
    """
    found = {}
    for name in LARGEST:
        paths = sorted(folder.glob(f"{name}-*.whl"))
        if len(paths) != 1:
            sys.exit(f"{folder}: {len(paths)} wheels of {name}, not one; make wheels builds them")
        found[name] = paths[0]
    return found


def faults(name, path):
    """What is wrong with a wheel: sentences."""
    size = path.stat().st_size
    found = []
    if size > LARGEST[name]:
        found.append(f"{path.name}: {size / 1e6:.1f} MB, at most {LARGEST[name] / 1e6:g}")
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    for one in names:
        if "weights/research" in one:
            found.append(f"{path.name}: {one} is not for everybody")
        if name == "cxrkit" and one.endswith(WEIGHTS):
            found.append(f"{path.name}: {one} belongs to cxrkit-models")
        if name == "cxrkit_models" and one.endswith(PIXELS):
            found.append(f"{path.name}: {one} may hold pixels")
    if name == "cxrkit_models":
        for needed in ("open/quality_model.safetensors", "open/LICENSE-NOTE.md", "SOURCES.md"):
            if not any(one.endswith(needed) for one in names):
                found.append(f"{path.name}: {needed} is missing")
    return found


def clean_environment(folder):
    """A new environment that sees the libraries of this one without cxrkit: its interpreter."""
    libraries = folder / "libraries"
    libraries.mkdir()
    here = [Path(one) for one in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}]
    # and those that a .pth file shows to this environment
    here += [Path(one) for one in sys.path if Path(one).name == "site-packages"]
    for entry in sorted({entry for site in here for entry in site.iterdir()}):
        link = libraries / entry.name
        if not entry.name.startswith(OWN) and entry.suffix != ".pth" and not link.exists():
            link.symlink_to(entry)
    venv.create(folder / "venv", with_pip=True)
    bin_folder = folder / "venv" / ("Scripts" if os.name == "nt" else "bin")
    python = bin_folder / "python"
    if (libraries / "setuptools").exists():  # that of a new environment may be too old for torch
        run([python, "-m", "pip", "uninstall", "--yes", "--quiet", "setuptools"], folder)
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = subprocess.run([python, "-c", code], check=True, capture_output=True, text=True)
    (Path(site.stdout.strip()) / "libraries.pth").write_text(f"{libraries}\n")
    return python


def run(command, folder):
    """Run a command in a folder where no checkout and no store is in sight."""
    hidden = ("PYTHONPATH", "CXRKIT_STORE", "CXRKIT_DATA", "CXRKIT_FRESH", "CXRKIT_WEIGHTS")
    env = {name: value for name, value in os.environ.items() if name not in hidden}
    # no other place of packages, whatever the machine's own settings of pip say
    env = {name: value for name, value in env.items() if not name.startswith("PIP_")}
    env |= {"PIP_CONFIG_FILE": os.devnull, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    env |= {"HOME": str(folder), "XDG_CACHE_HOME": str(folder / "cache")}
    env |= {"XDG_DATA_HOME": str(folder / "data")}
    done = subprocess.run(
        [str(part) for part in command], cwd=folder, env=env, capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout


def install_and_try(wheels, folder):
    """Install both wheels offline and use them; what was found, as sentences."""
    python = clean_environment(folder)
    links = next(iter(wheels.values())).parent.resolve()
    run(
        [python, "-m", "pip", "install", "--no-index", "--find-links", links, "--pre"]
        + ["cxrkit-models"],
        folder,
    )
    where = run([python, "-c", "import cxrkit; print(cxrkit.__file__)"], folder).strip()
    if not Path(where).is_relative_to(folder):
        sys.exit(f"cxrkit was imported from {where}, not from the new environment")
    command = python.with_name("cxrkit")
    run([python, "-c", DRAW, "film.png"], folder)
    said = run([command, "predict", "film.png", "--view", "PA", "--out", "results"], folder)
    with open(folder / "results" / "predictions.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if len(rows) != 1 or not 0 <= float(rows[0]["severity"]) <= 6:
        sys.exit(f"predictions.csv is not as it should be: {rows}")
    run([command, "lessons", "lessons"], folder)
    lessons = len(list((folder / "lessons").glob("*.ipynb")))
    if lessons < 10:
        sys.exit(f"cxrkit lessons wrote {lessons} lessons")
    return [said.strip(), f"one image predicted, {lessons} lessons written"]


def main():
    """Check the wheels of a folder; exit status 1 where something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    wheels = wheels_in(parser.parse_args().folder)
    problems = [fault for name, path in wheels.items() for fault in faults(name, path)]
    if problems:
        sys.exit("\n".join(problems))
    for path in wheels.values():
        print(f"{path.name}: {path.stat().st_size / 1e6:.2f} MB")
    with tempfile.TemporaryDirectory() as folder:
        print("\n".join(install_and_try(wheels, Path(folder).resolve())))


if __name__ == "__main__":
    main()
