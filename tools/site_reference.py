"""What the tests of the page in site/ expect: answers of the package and of the kernel-based room.

    python tools/site_reference.py FOLDER [--films DIR] [--mirror DIR] [options of site_images.py]

FOLDER gets, as JSON with arrays as base64:

- films.json: the answers of `predict` for each film of the list;
- room.json: what the reading room of lesson 09 shows of ten of them, and what it knows of them;
- real.json: the answers for real films, where there is a mirror, with their paths. Their pixels
  are not copied;
- arrays.json: the preprocessing of arrays of all kinds;
- files/: files of every kind that the page reads, and damaged ones;
- own/: a visitor's own networks, here of random weights and other sizes, as `cxrkit export` writes
  them from a folder of weights, and their answers.
"""

import base64
import os
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np
import site_images
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cxrkit.config import profiles
from cxrkit.config.vocabulary import DIAGNOSES
from cxrkit.data import manifests, preprocessing
from cxrkit.data.images import load_image
from cxrkit.inference import export, predictor, quality, trained
from cxrkit.reading_room import quiz
from cxrkit.reading_room.state import MODEL_VIEWS, Room
from cxrkit.storage.atomic import write_atomic, write_json
from tests.fakes import mutations, radiograph_files, small_models

ROOT = Path(__file__).resolve().parents[1]
ARRAYS = 60  # of random sizes, depths and contents
HOSTILE = 200  # damaged files
IN_ROOM = 10  # films that are compared with the kernel-based room
REAL = {  # datasets of a mirror -> how many of their films
    "nih_cxr14": 4,
    "nih_cxr14_multi": 2,
    "cohen": 4,
    "hannover": 3,
    "cxnet": 2,
    "kermany": 2,
    "shenzhen": 3,
}
EDITS = {"outside": "erase all but the lungs"}  # of the page -> of the room
SEED = 0


def text(values):
    """uint8, uint16 or float32 values as base64."""
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode()


def expected(pixels, view, models, backbone):
    """The answers of the package for one film."""
    found = predictor.predict(pixels, models, view, maps=False, even_unusable=True)
    mask, lung_probs = predictor.segment_lungs(pixels, models.parts["segmenter"])
    profile = models.parts["severity"].profile
    image = predictor.network_input(pixels, profile)
    answer = {
        "probs": list(found.probs.values()),
        "severity": found.severity,
        "array": six(found.array),
        "lungs": text(mask.astype(np.uint8)),
        "warnings": list(found.warnings),
        "quantities": quality.quantities(pixels),
        "lung_contrast": site_images.number(quality.lung_contrast(pixels, mask)),
        "input": text(preprocessing.prepare(pixels, image.shape[-1], profile.choices)),
    }
    if backbone is not None:
        with torch.no_grad():
            answer["findings"] = backbone(image)["logits"].sigmoid()[0].tolist()
    return answer


# the kernel-based room


def in_room(run, table):
    """What the kernel-based room shows of films of the list.

    Args:
        run: of the films, whose networks the page holds.
        table: the rows of the list.

    Returns:
        `films` by their name on the page, the tables of the room, and the columns of its answers.
    """
    room = Room(run)
    places = np.linspace(0, len(table) - 1, IN_ROOM).round().astype(int)
    films = {}
    for place in places:
        name = f"film{place + 1:02d}"
        sample = room._sample(table.iloc[place : place + 1], name)
        room.samples[sample.name] = sample
        films[name] = shown(room, sample)
        row = quiz.grade_answer(room, sample.name, "reader", DIAGNOSES[0], ())
    calibration = {
        view: {
            name: [[int(n), *pair] for n, *pair in zip(*bins(room, view, name), strict=True)]
            for name in DIAGNOSES
        }
        for view in MODEL_VIEWS
    }
    return {
        "films": films,
        "thresholds": {view: room.thresholds(view) for view in MODEL_VIEWS},
        "calibration": calibration,
        "noise_limit": room.noise_limit(),
        "answer_columns": list(row),
    }


def bins(room, view, name):
    """Counts, mean predictions and observed shares of a calibration, empty bins as None."""
    found = room.calibration(view, name)
    columns = [found["n"]]
    for key in ("predicted", "observed"):
        columns.append([float(p) if n else None for n, p in zip(found["n"], found[key])])
    return columns


def shown(room, sample):
    """The predictions and the truth that the room shows of a sample."""
    found, truth = room.predict(sample), room.truth(sample)
    answer = answers(found)
    answer |= {
        "finding_maps": text(found.finding_maps.astype(np.float32)),
        "severity_map": text(found.severity_map.astype(np.float32)),
        "attention": text(found.attention.astype(np.float32)),
        "edits": {name: answers(room.predict(sample, edit)) for name, edit in EDITS.items()},
        "width_mm": sample.width_mm,
        "diagnosis": truth.diagnosis,
        "true_findings": [site_images.number(value) for value in truth.findings],
        "true_zones": [site_images.number(value) for value in six(truth.severity_array)],
    }
    for key in ("lung_mask", "lesion_mask"):
        mask = getattr(truth, key)
        answer[f"true_{key}"] = None if mask is None else text(mask.astype(np.uint8))
    return answer


def answers(found):
    """The numbers of a prediction of the room."""
    return {
        "probs": found.diagnosis.tolist(),
        "findings": found.findings.tolist(),
        "lungs": text(found.lung_mask.astype(np.uint8)),
        "array": six(found.severity_array),
        "severity": found.severity,
    }


def six(array):
    """Severity array (3, 2) as six values, the patient's right lung first."""
    return [float(value) for value in (*array[:, 0], *array[:, 1])]


# real films


def real(mirror, models, backbone):
    """Real films of each dataset of a mirror: where they lie, and the answers of the package."""
    found = []
    for name, count in REAL.items():
        table = manifests.read_manifest(name, mirror)
        table = table[table["view"].isin(MODEL_VIEWS)].drop_duplicates("group_id")
        table = table.sample(min(count, len(table)), random_state=SEED)
        for row in table.to_dict("records"):
            pixels = load_image(row["path"]).pixels
            answer = expected(pixels, row["view"], models, backbone)
            del answer["input"]  # a small copy of the film
            found.append({"path": row["path"], "view": row["view"], **answer})
    return found


def mirror_of(given):
    """The folder of real films: what was asked for, else where the tests of Python look."""
    folder = Path(
        given or os.environ.get("CXRKIT_MIRROR") or ROOT.parent / "shared" / "data"
    ).resolve()
    return folder if folder.is_dir() else None


# other networks


def own(folder, films):
    """Networks of random weights and other sizes, exported, and their answers.

    Args:
        folder: gets `models/` and `films.json`.
        films: folder of the page's films, of which three are predicted.
    """
    profile = profiles.mini()
    with tempfile.TemporaryDirectory() as weights:
        small_models.write_weights(Path(weights))
        export.export_onnx(folder / "models", profile, weights=Path(weights))
        models = trained.load_models(profile, weights=Path(weights))
    found = {}
    for name in ("film01", "film07", "film08"):
        pixels = load_image(films / f"{name}.png").pixels
        found[name] = {view: expected(pixels, view, models, None) for view in predictor.FRONTAL}
    write_json(folder / "films.json", found)


# arrays and files


def random_array(rng):
    """Pixels of a random size, depth and content."""
    height, width = rng.integers(33, 420, 2)
    shape = (height, width)
    deep = rng.random() < 0.5
    kind = rng.integers(0, 4)
    if kind == 0:
        values = rng.random(shape)
    elif kind == 1:  # smooth, as a film
        values = cv2.GaussianBlur(rng.random(shape), (0, 0), 15)
        values = (values - values.min()) / np.ptp(values)
    elif kind == 2:  # few grey values
        values = rng.integers(0, 4, shape) / 4
    else:  # a narrow range with a letter at the top
        values = 0.2 + 0.1 * cv2.GaussianBlur(rng.random(shape), (0, 0), 5)
        values[2:9, 3:12] = 1
    if deep:
        return np.rint(values * rng.choice([1023, 4095, 65535])).astype(np.uint16)
    return np.rint(values * 255).astype(np.uint8)


def arrays(choices, size):
    """Random arrays with what the preprocessing makes of them."""
    rng = np.random.default_rng(SEED)
    found = []
    for _ in range(ARRAYS):
        pixels = random_array(rng)
        grey = preprocessing.to_uint8(pixels, choices.stretch)
        found.append(
            {
                "height": pixels.shape[0],
                "width": pixels.shape[1],
                "bits": 8 * pixels.dtype.itemsize,
                "pixels": text(pixels),
                "grey": text(grey),
                "equalized": text(preprocessing.equalize(grey)),
                "blurred": text(preprocessing.blur(grey)),
                "resized": text(preprocessing.resize(grey, size)),
                "prepared": text(preprocessing.prepare(pixels, size, choices)),
                "quantities": quality.quantities(pixels),
            }
        )
    return found


def dicom_variants(folder):
    """DICOM files whose header changes what is shown, by name."""
    deep = (mutations.picture().astype(np.uint16) * 16).clip(0, 4095)
    wide = (deep * 16).astype(np.uint16)
    half = (deep.astype(np.int32) - 2048).astype(np.int16)
    window = {"WindowCenter": 1500, "WindowWidth": 1800}
    variants = {
        "monochrome1": (deep, {"BitsStored": 12, "PhotometricInterpretation": "MONOCHROME1"}),
        "window": (deep, {"BitsStored": 12, **window}),
        "exact": (deep, {"BitsStored": 12, **window, "VOILUTFunction": "LINEAR_EXACT"}),
        "sigmoid": (deep, {"BitsStored": 12, **window, "VOILUTFunction": "SIGMOID"}),
        "rescale": (deep, {"BitsStored": 12, "RescaleSlope": "2", "RescaleIntercept": "-100"}),
        "signed": (half, {}),
        "sixteen": (wide, {"PhotometricInterpretation": "MONOCHROME1", **window}),
        "inverse": (deep, {"BitsStored": 12, "PresentationLUTShape": "INVERSE"}),
        "padding": (deep, {"BitsStored": 12, "PixelPaddingValue": int(deep[0, 0])}),
        "byte": (mutations.picture(), {}),
        "colour": (np.dstack([mutations.picture()] * 3), {}),
    }
    return {
        f"{name}.dcm": radiograph_files.write_dicom(folder / f"{name}.dcm", pixels, **tags)
        for name, (pixels, tags) in variants.items()
    }


def files(folder):
    """Sound files of every kind that the page reads, damaged ones, and what the package reads."""
    folder.mkdir(parents=True, exist_ok=True)
    sound = radiograph_files.every_reader(folder, mutations.picture())
    sound = {name: path for name, path in sound.items() if path.suffix != ".tif"}
    sound |= dicom_variants(folder)
    found = {}
    for name, path in sound.items():
        pixels = load_image(path).pixels
        found[name] = {
            "height": pixels.shape[0],
            "width": pixels.shape[1],
            "bits": 8 * pixels.dtype.itemsize,
            "pixels": text(pixels),
        }
    write_json(folder / "sound.json", found)
    rng = np.random.default_rng(SEED)
    names = list(sound)
    for i in range(HOSTILE):
        name = names[i % len(names)]
        change = mutations.MUTATIONS[i // len(names) % len(mutations.MUTATIONS)]
        damaged = change(sound[name].read_bytes(), rng)
        write_atomic(folder / "damaged" / f"{i:03d}-{change.__name__}-{name}", damaged)


def main():
    """Write the reference."""
    parser = site_images.arguments(__doc__)
    parser.add_argument("--films", type=Path, default=ROOT / "site" / "build" / "films")
    parser.add_argument("--mirror", type=Path, help="folder with prepared real films")
    options = parser.parse_args()
    folder = options.folder
    run, home, table = site_images.opened(options)
    models, backbone = trained.load_models(run.profile, run.store), run.backbone.model

    found = {}
    for i, row in enumerate(table.to_dict("records")):
        pixels = load_image(row["path"]).pixels
        found[f"film{i + 1:02d}"] = expected(pixels, row["view"], models, backbone)
    write_json(folder / "films.json", found)
    if run is home:
        write_json(folder / "room.json", in_room(run, table))
    mirror = mirror_of(options.mirror)
    write_json(folder / "real.json", real(mirror, models, backbone) if mirror else [])
    choices, size = run.profile.choices, run.profile.image_size
    write_json(folder / "arrays.json", arrays(choices, size))
    files(folder / "files")
    own(folder / "own", options.films)
    print(f"answers of the package: {folder}")


if __name__ == "__main__":
    main()
