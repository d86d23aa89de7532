"""What must hold of the virtual hospitals' films, measured; writes one JSON file.

    python benchmarks/hospitals.py films --data /data/cxr --out docs/lab/hospitals_films.json
    python benchmarks/hospitals.py arrangement --out docs/lab/hospitals_arrangement.json
    python benchmarks/hospitals.py tokens --out docs/lab/hospitals_tokens.json
    python benchmarks/hospitals.py lungs --out docs/lab/hospitals_lungs.json

`films` compares normal and COVID-19 films of many anatomies with real films (textures, layout,
share of the lungs lost to mid-grey), and measures hearts, pneumothoraces, tubes and speed.
`arrangement` asks how well area, number and sizes of the lesions alone tell COVID-19 from other
infections, and how well their places do. `tokens` trains readers on the true lesion share of each
cell, and writes the result that lesson 03b shows too. `lungs` trains a U-Net on normal films and
asks what it loses on lungs with dense zones.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import torch
from scipy import ndimage
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cxrkit.data import lung_zones
from cxrkit.evaluation import dice
from cxrkit.models import CorpusViT, UNet
from cxrkit.pipeline import stages
from cxrkit.simulation import anatomy, arrangement, atlases, disease, patterns, support_devices
from cxrkit.simulation.hospital import SITES, WARDS, Hospital
from cxrkit.storage import recorded

REAL = ("nih_cxr14", "hannover", "cohen")
SIZE = 256
CELLS = 8  # cells of a film to a side
LUNG_SIZE = 128  # px of a side of the films of `lungs`
DENSE_SHARE = 0.25  # of a zone that is lesion, from which it counts as dense


# samples


def pick(hospital: Hospital, body: int, view: str, diagnosis: str) -> int | None:
    """First film of an anatomy in a view with a diagnosis and no device, if there is one."""
    for i in range(len(hospital)):
        if hospital.body_of(i) == body and hospital.view_of(i) == view:
            condition = hospital.condition_of(i)
            if condition.diagnosis == diagnosis and not condition.devices:
                return i
    return None


def square(image: np.ndarray) -> np.ndarray:
    """The middle square of a real film at SIZE."""
    height, width = image.shape
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    middle = image[top : top + side, left : left + side]
    return cv2.resize(middle, (SIZE, SIZE), interpolation=cv2.INTER_AREA)


def real_films(root: Path, n: int) -> tuple[list[np.ndarray], list[str]]:
    """Up to n films of each source of REAL, and the group of each."""
    images, groups = [], []
    for source in REAL:
        table = pd.read_csv(root / source / "labels.csv", low_memory=False)
        for i in np.random.default_rng(1).permutation(len(table))[:n]:
            image = cv2.imread(str(root / source / table["file"][i]), cv2.IMREAD_GRAYSCALE)
            if image is not None and min(image.shape) >= SIZE:
                images.append(square(image))
                groups.append(f"{source}-{table['group_id'][i]}")
    return images, groups


def real_masks(root: Path, source: str, n: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """COVID-19 films of a source with their lung masks."""
    table = pd.read_csv(root / source / "labels.csv", low_memory=False)
    table = table[table["mask"].notna() & (table["class3"] == "covid19")].reset_index(drop=True)
    for i in np.linspace(0, len(table) - 1, min(n, len(table))).astype(int):
        image = cv2.imread(str(root / source / table["file"][i]), cv2.IMREAD_GRAYSCALE)
        mask = cv2.imread(str(root / source / table["mask"][i]), cv2.IMREAD_GRAYSCALE)
        if image is not None and mask is not None:
            yield square(image), square(mask) > 200


# features


def lung_guess(grey: np.ndarray) -> np.ndarray:
    """The dark part of the middle of a film, the same guess for real and virtual ones."""
    soft = cv2.GaussianBlur(cv2.equalizeHist(grey), (0, 0), 4)
    S = len(grey)
    middle = np.zeros(grey.shape, bool)
    middle[S // 6 : int(0.72 * S), S // 8 : -S // 8] = True
    guess = middle & (soft < 130) & (soft > 8)
    return guess if guess.sum() >= 500 else np.ones_like(guess)


def bands(grey: np.ndarray, mask: np.ndarray) -> list[float]:
    """Standard deviation of the equalised film between blurs of 0.5, 1, 2, 4 and 8 px."""
    equal = cv2.equalizeHist(grey).astype(np.float32)
    blurred = [cv2.GaussianBlur(equal, (0, 0), sigma) for sigma in (0.5, 1, 2, 4, 8)]
    return [float((a - b)[mask].std()) for a, b in zip(blurred, blurred[1:], strict=False)]


def slope(grey: np.ndarray) -> float:
    """Slope of the power spectrum of the equalised film between 4 and 110 cycles."""
    equal = cv2.equalizeHist(grey).astype(np.float32) - 128
    window = np.hanning(SIZE)
    power = np.abs(np.fft.fftshift(np.fft.fft2(equal * np.outer(window, window)))) ** 2
    rows, columns = np.indices(power.shape) - SIZE // 2
    radius = np.hypot(rows, columns).astype(int)
    mean = np.bincount(radius.ravel(), power.ravel()) / np.bincount(radius.ravel())
    frequency = np.arange(4, 110)
    return float(np.polyfit(np.log(frequency), np.log(mean[4:110]), 1)[0])


def features(grey: np.ndarray) -> dict[str, list[float]]:
    """Groups of features of one film."""
    equal = cv2.equalizeHist(grey).astype(np.float32)
    mask = lung_guess(grey)
    fine = equal - cv2.GaussianBlur(equal, (0, 0), 1.5)
    across = cv2.Sobel(equal, cv2.CV_32F, 1, 0)
    along = cv2.Sobel(equal, cv2.CV_32F, 0, 1)
    angle = ((np.arctan2(along, across) % np.pi) / np.pi * 8).astype(int) % 8
    edges = np.bincount(angle[mask], np.hypot(across, along)[mask], 8)

    def grid(values: np.ndarray) -> list[float]:
        return cv2.resize(values, (6, 6), interpolation=cv2.INTER_AREA).ravel().tolist()

    return {
        "texture": [*bands(grey, mask), *bands(grey, np.ones_like(mask)), slope(grey)],
        "edges": (edges / edges.sum()).tolist(),
        "fine layout": np.sqrt(grid(fine**2)).tolist(),
        "coarse layout": grid(equal),
        "histogram": (np.bincount(grey.ravel() >> 4, minlength=16) / grey.size).tolist(),
        "mean, deviation, black, white": [
            float(grey.mean()),
            float(grey.std()),
            float((grey < 5).mean()),
            float((grey > 250).mean()),
        ],
    }


def grouped_auc(x: np.ndarray, y: np.ndarray, groups: np.ndarray, trees: bool = False) -> float:
    """Out-of-fold AUC of a linear model, or of trees, over five folds of whole groups."""
    p = np.zeros(len(y))
    for train, test in GroupKFold(5).split(x, y, groups):
        if trees:
            model = HistGradientBoostingClassifier(max_iter=150, random_state=0)
        else:
            model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
        p[test] = model.fit(x[train], y[train]).predict_proba(x[test])[:, 1]
    return float(roc_auc_score(y, p))


def lost_share(grey: np.ndarray, lungs: np.ndarray) -> float:
    """Share of the eroded lungs that is brighter than half way from dark lung to dense body."""
    inner = cv2.erode(lungs.astype(np.uint8), np.ones((7, 7), np.uint8)) > 0
    if inner.sum() < 200:
        return np.nan
    rows = np.where(lungs.any(axis=1))[0]
    columns = np.where(lungs.any(axis=0))[0]
    around = np.zeros(grey.shape, bool)
    around[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = True
    dark = np.percentile(grey[inner], 10)
    dense = np.percentile(grey[around & ~lungs], 75)
    return float((grey[inner] > (dark + dense) / 2).mean())


def quantiles(values: list[float]) -> dict[str, float]:
    """Median, tenth and ninetieth percentile, and number."""
    low, middle, high = np.nanpercentile(values, (10, 50, 90))
    return {"q10": float(low), "median": float(middle), "q90": float(high), "n": len(values)}


# one anatomy


def heart_ratio(chest: anatomy.Chest) -> tuple[float, float]:
    """Widths of the heart over that of the lungs, and of the heart in px."""
    heart = np.ptp(np.where(chest.heart.any(axis=0))[0])
    lungs = np.ptp(np.where((chest.right | chest.left).any(axis=0))[0])
    return float(heart / lungs), float(heart)


def pneumothorax_change(chest: anatomy.Chest, seed: int) -> tuple[float, float, float]:
    """Share of the side outside the line that becomes darker, brighter, and the mean change.

    Outside the line are rays through at least 6 mm of air in the side's lung.
    """
    rng = np.random.default_rng(seed)
    lesions = patterns.pneumothorax(rng)
    change, _ = disease.add_lesions(chest, lesions)
    box, region = disease._region(chest, lesions[1])
    depth = (disease.air(lesions[1], region) * region.lung).sum(axis=0) * chest.step
    outside = np.zeros((chest.size // 2,) * 2, bool)
    top, left = chest.box[0].start + box[1].start, chest.box[1].start + box[2].start
    outside[top : top + depth.shape[0], left : left + depth.shape[1]] = depth >= 6.0
    small = cv2.resize(change, outside.shape, interpolation=cv2.INTER_AREA)[outside]
    return float((small < -0.01).mean()), float((small > 0.01).mean()), float(small.mean())


def tip_is_inside(chest: anatomy.Chest, seed: int) -> bool:
    """Whether the tip of a tube lies in the shadow of the windpipe."""
    path = support_devices.tube_path(chest.source, np.random.default_rng(seed))
    column, row = np.round(chest.pixel_of([path[-1]])[0]).astype(int)
    return bool(chest.trachea[row, column])


def speed(n: int) -> dict[str, float]:
    """Films a second of one core, each ward, of an anatomy that is projected before."""
    rates = {}
    for ward in WARDS:
        hospital = Hospital("alder", ward=ward, n=6000)
        body, view = hospital.body_of(0), hospital.view_of(0)
        chosen = []
        for i in range(len(hospital)):
            patient, _ = hospital.patient_of(i)
            if hospital.body_of(patient) == body and hospital.view_of(i) == view:
                chosen.append(i)
        hospital[chosen[0]]
        start = time.process_time()
        for i in chosen[1 : n + 1]:
            hospital[i]
        rates[ward] = n / (time.process_time() - start)
    return rates


def measure_films(root: Path, bodies: int, real: int) -> dict:
    """All that one pass over the anatomies measures."""
    virtual, groups, lost, covered, ratios, widths = [], [], [], [], [], []
    darker, tips, projection = [], [], []
    for site in SITES:
        hospital = Hospital(site, n=4000)
        for body in range(bodies):
            start = time.process_time()
            chest = hospital.chest(body, "PA")
            projection.append(time.process_time() - start)
            ratio, width = heart_ratio(chest)
            ratios.append(ratio)
            darker += [pneumothorax_change(chest, seed) for seed in range(3)]
            tips += [tip_is_inside(chest, seed) for seed in range(5)]
            for diagnosis in ("normal", "covid19"):
                i = pick(hospital, body, "PA", diagnosis)
                if i is None:
                    continue
                patient = hospital[i]
                if diagnosis == "normal":
                    virtual.append(patient.image)
                    groups.append(patient.group_id)
                else:
                    lungs = patient.lungs[0] | patient.lungs[1]
                    lost.append(lost_share(patient.image, lungs))
                    covered.append(float(patient.lesion.sum() / lungs.sum()))
            if body % 4 == 0:
                widths.append(heart_ratio(hospital.chest(body, "AP"))[1] / width)
        print(site, len(virtual), flush=True)
    images, real_groups = real_films(root, real)
    rows = [features(image) for image in images + virtual]
    y = np.r_[np.zeros(len(images)), np.ones(len(virtual))]
    together = np.array(real_groups + groups)
    aucs = {}
    for name in rows[0]:
        aucs[name] = grouped_auc(np.array([row[name] for row in rows]), y, together)
    everything = np.array([sum(row.values(), []) for row in rows])
    aucs["all"] = grouped_auc(everything, y, together)
    darker = np.array(darker)
    return {
        "real against virtual, AUC": aucs,
        "films": {"real": len(images), "virtual": len(virtual), "anatomies": len(set(groups))},
        "bands and slope, median": {
            "real": np.median([r["texture"] for r in rows[: len(images)]], axis=0).tolist(),
            "virtual": np.median([r["texture"] for r in rows[len(images) :]], axis=0).tolist(),
        },
        "heart over thorax, PA": quantiles(ratios),
        "heart width, AP over PA": quantiles(widths),
        "pneumothorax outside the line": {
            "darker": quantiles(darker[:, 0].tolist()),
            "brighter": quantiles(darker[:, 1].tolist()),
            "mean change": float(darker[:, 2].mean()),
        },
        "tube tips in the windpipe": {"inside": int(np.sum(tips)), "of": len(tips)},
        "lungs lost to mid-grey, COVID-19": {
            "virtual": quantiles(lost),
            **{
                source: quantiles([lost_share(*pair) for pair in real_masks(root, source, 80)])
                for source in ("cohen", "hannover")
            },
        },
        "lesion share of the lungs, COVID-19": quantiles(covered),
        "projection, CPU s": quantiles(projection),
        "films a second and core": speed(40),
    }


# arrangement


def lesion_features(extent: np.ndarray, chest: anatomy.Chest) -> tuple[list[float], list[float]]:
    """What the true lesion map says without places, and with them."""
    right, left = (mask[::2, ::2] for mask in (chest.right, chest.left))
    lesion = (extent[::2, ::2] >= disease.MIN_LESION) & (right | left)
    pieces, n = ndimage.label(lesion)
    sizes = np.sort(np.bincount(pieces.ravel())[1:])[::-1]
    sizes = sizes[sizes >= 6]
    padded = np.zeros(6)
    padded[: min(len(sizes), 6)] = sizes[:6]
    depth = extent[::2, ::2][lesion]
    counts = [float(lesion.sum()), float(len(sizes)), *padded.tolist()]
    counts += [float(depth.mean()), float(depth.std())] if len(depth) else [0.0, 0.0]
    zones = lung_zones.coverage(lesion, lung_zones.zones_of_sides(right, left)).ravel()  # (6,)
    sides = [float((lesion & right).sum()), float((lesion & left).sum())]
    total = max(sum(sides), 1.0)
    rows = np.where(lesion)[0]
    lungs = np.where(right | left)[0]
    height = [(np.percentile(rows, q) - lungs.min()) / np.ptp(lungs) for q in (10, 50, 90)]
    wall = cv2.distanceTransform((right | left).astype(np.uint8), cv2.DIST_L2, 3)[lesion]
    places = [min(sides) / total, *np.sort(zones), *zones, *height, float(wall.mean())]
    return counts, counts + [float(v) for v in places]


def measure_arrangement(patients: int, bodies: int) -> dict:
    """Oracle AUCs of COVID-19 against other infections at arrangement 0 and 1."""
    out = {}
    worlds = (("0", 0.0, "textbook"), ("1, textbook", 1.0, "textbook"), ("1, sides", 1.0, "sides"))
    chests = []
    for site in ("alder", "elm", "fir"):
        hospital = Hospital(site, n=10, size=128)
        chests += [(site, body, hospital.chest(body, "PA")) for body in range(bodies)]
    for name, share, places in worlds:
        without, with_places, y, groups = [], [], [], []
        for k in range(patients):
            site, body, chest = chests[k % len(chests)]
            rng = np.random.default_rng([7, k])
            covid = rng.random() < 0.5
            kind = "covid" if covid else ("bacterial" if rng.random() < 0.62 else "tuberculosis")
            if share:
                lesions = arrangement.draw_infection(rng, kind, places, chest.source)
            elif covid:
                lesions = patterns.covid(rng, rng.uniform(0.15, 1), chest.source)
            else:
                lesions = getattr(patterns, kind)(rng, chest.source)
            _, extent = disease.add_lesions(chest, lesions)
            if (extent >= disease.MIN_LESION).sum() < 20:
                continue
            try:
                a, b = lesion_features(extent, chest)
            except (ValueError, IndexError):  # nothing of it inside the lungs' outline
                continue
            without.append(a)
            with_places.append(b)
            y.append(int(covid))
            groups.append(f"{site}{body}")
        y, groups = np.array(y), np.array(groups)
        result = {"patients": len(y)}
        for label, x in (("without places", without), ("with places", with_places)):
            x = np.array(x)
            result[label] = {
                "linear": grouped_auc(x, y, groups),
                "trees": grouped_auc(x, y, groups, trees=True),
            }
        out[name] = result
        print(name, result, flush=True)
    return out


# tokens: the true lesion share of each cell


def token_sets(
    patients: int, bodies: int, places: str
) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Tokens (n, 1, CELLS, CELLS) and COVID-19 or not (n,) of training and external patients.

    Training bodies come from the first two CTs, external ones from the third.
    """
    sets = []
    for sources, n, seed in ((atlases.SOURCES[:2], patients, 1), (atlases.SOURCES[2:], 500, 2)):
        chests = []
        for k in range(bodies):
            body = anatomy.make_body(np.random.default_rng([seed, k]), sources[k % len(sources)])
            chests.append(anatomy.project(body, "PA", size=128))
        tokens, y = [], []
        for k in range(n):
            rng = np.random.default_rng([seed, k, 5])
            chest = chests[k % bodies]
            covid = rng.random() < 0.5
            kind = "covid" if covid else ("bacterial" if rng.random() < 0.62 else "tuberculosis")
            lesions = arrangement.draw_infection(rng, kind, places, chest.source)
            _, extent = disease.add_lesions(chest, lesions)
            lesion = ((extent >= disease.MIN_LESION) & (chest.right | chest.left))[8:120, 8:120]
            share = cv2.resize(
                lesion.astype(np.float32), (CELLS, CELLS), interpolation=cv2.INTER_AREA
            )
            tokens.append(share[None])
            y.append(int(covid))
        sets.append((np.array(tokens, np.float32), np.array(y)))
    return sets[0], sets[1]


def make_even(model: torch.nn.Module) -> None:
    """Give every token the same attention: queries and keys become 0."""
    for block in model.blocks:
        qkv = block.attn.qkv
        D = qkv.weight.shape[1]
        qkv.weight.data[: 2 * D] = 0
        qkv.bias.data[: 2 * D] = 0


def train_reader(
    x: torch.Tensor, y: torch.Tensor, steps: int, seed: int, frozen: str
) -> torch.nn.Module:
    """A transformer on tokens; `frozen` is "", "positions" or "attention", held at nothing."""
    torch.manual_seed(seed)
    model = CorpusViT(1, CELLS, 64, 3, 4, 256, num_classes=2)
    torch.nn.init.normal_(model.pos_embed, std=0.5)  # of the scale of the tokens
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)
    draw = torch.Generator().manual_seed(seed)
    for step in range(steps):
        if frozen == "positions":
            model.pos_embed.data.zero_()
        elif frozen == "attention":
            make_even(model)
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * min(1, (step + 1) / 50) * (1 + np.cos(np.pi * step / steps)) / 2
        rows = torch.randint(len(x), (64,), generator=draw)
        loss = torch.nn.functional.cross_entropy(model(x[rows])["logits"], y[rows])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    if frozen == "positions":
        model.pos_embed.data.zero_()
    elif frozen == "attention":
        make_even(model)
    return model.eval()


@torch.no_grad()
def reader_auc(model: torch.nn.Module, x: torch.Tensor, y: np.ndarray) -> float:
    """AUC of COVID-19 against other infections."""
    logits = model(x)["logits"]
    return float(roc_auc_score(y, (logits[:, 1] - logits[:, 0]).numpy()))


def measure_tokens(patients: int, bodies: int, steps: int, places: str) -> dict:
    """AUCs of readers of true tokens on the CT that none was trained on, three seeds each."""
    (x, y), (x_out, y_out) = token_sets(patients, bodies, places)
    inputs, targets, external = torch.tensor(x), torch.tensor(y), torch.tensor(x_out)
    mean = make_pipeline(StandardScaler(), LogisticRegression()).fit(x.mean((1, 2, 3))[:, None], y)
    out = {"places": places, "patients": {"train": len(y), "external": len(y_out)}}
    pooled = mean.predict_proba(x_out.mean((1, 2, 3))[:, None])[:, 1]
    out["mean pooling"] = float(roc_auc_score(y_out, pooled))
    shuffle = torch.randperm(CELLS * CELLS, generator=torch.Generator().manual_seed(3))
    shuffled = external.flatten(2)[..., shuffle].unflatten(2, (CELLS, CELLS))
    for name, frozen in (
        ("transformer", ""),
        ("trained without positions", "positions"),
        ("trained with even attention", "attention"),
    ):
        out[name] = []
        for seed in range(3):
            model = train_reader(inputs, targets, steps, seed, frozen)
            out[name].append(reader_auc(model, external, y_out))
            if not frozen:
                out.setdefault("tokens shuffled at test", []).append(
                    reader_auc(model, shuffled, y_out)
                )
            print(name, seed, out[name][-1], flush=True)
    full = np.mean(out["transformer"])
    out["differences"] = {
        "minus mean pooling": full - out["mean pooling"],
        "minus trained without positions": full - np.mean(out["trained without positions"]),
        "minus trained with even attention": full - np.mean(out["trained with even attention"]),
        "cost of shuffling": full - np.mean(out["tokens shuffled at test"]),
    }
    return out


def record_tokens(result: dict) -> None:
    """Write what `tokens` measured as the recorded result that lesson 03b shows."""
    rows = [{"reader": "mean of the tokens", "seed": None, "auc": result["mean pooling"]}]
    for name, values in result.items():
        if isinstance(values, list):
            rows += [{"reader": name, "seed": seed, "auc": auc} for seed, auc in enumerate(values)]
    made = {
        "command": f"python benchmarks/hospitals.py tokens --places {result['places']}",
        "hospitals": stages.stage_of("cohort").version,
        **result["patients"],
        **result["measured"],
    }
    recorded.write_result("hospital_tokens", rows, made)


# lungs


def lung_films(
    ward: str, split: str, per_site: int
) -> tuple[torch.Tensor, np.ndarray, np.ndarray, list[str]]:
    """Films of the three internal sites without devices, of at most eight anatomies a site.

    Args:
        ward: "diagnosis" gives normal films alone, "severity" any.
        split: of the anatomies.
        per_site: most films of a site.

    Returns:
        Equalised films (n, 1, S, S) in [-1, 1], lungs bool (n, S, S), number of dense zones (n,)
        with -1 where a zone is involved and none is dense, and the anatomy of each.
    """
    images, lungs, dense, groups = [], [], [], []
    for site in ("alder", "birch", "cedar"):
        hospital = Hospital(site, ward=ward, n=3000, size=LUNG_SIZE)
        rows = []
        for i in range(len(hospital)):
            patient, _ = hospital.patient_of(i)
            body = hospital.body_of(patient)
            if hospital.split_of(patient) == split and body < 24 and hospital.view_of(i) == "PA":
                rows.append((body, i))
        taken = 0
        for _, i in sorted(rows, key=lambda row: (row[1] // 12, row[0])):
            condition = hospital.condition_of(i)
            is_wanted = ward == "severity" or condition.diagnosis == "normal"
            if condition.devices or not is_wanted:
                continue
            patient = hospital[i]
            right, left = patient.lungs
            shares = lung_zones.coverage(patient.lesion, lung_zones.zones_of_sides(right, left))
            zones = int((shares >= DENSE_SHARE).sum())
            images.append(cv2.equalizeHist(patient.image))
            lungs.append(right | left)
            dense.append(zones if zones or not patient.severity else -1)
            groups.append(patient.group_id)
            taken += 1
            if taken == per_site:
                break
    stack = torch.tensor(np.array(images, np.float32))[:, None] / 127.5 - 1
    return stack, np.array(lungs), np.array(dense), groups


def measure_lungs(films: int, steps: int) -> dict:
    """Dice of a U-Net that saw normal films alone, by the number of dense zones."""
    torch.manual_seed(0)
    x, lungs, _, _ = lung_films("diagnosis", "train", films)
    y = torch.tensor(lungs[:, None].astype(np.float32))
    print("training films", len(x), flush=True)
    model = UNet((16, 32, 64, 128), patch=2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    draw = torch.Generator().manual_seed(0)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * (1 + np.cos(np.pi * step / steps)) / 2
        rows = torch.randint(len(x), (8,), generator=draw)
        logits = model(x[rows])["logits"]
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    x_test, truth, dense, groups = lung_films("severity", "test", films)
    with torch.no_grad():
        parts = [model(part)["logits"][:, 0] > 0 for part in x_test.split(16)]
    masks = torch.cat(parts).numpy()
    scores = np.array([float(dice(a, b)) for a, b in zip(truth, masks, strict=True)])
    few, many = scores[dense == 0], scores[dense >= 4]
    return {
        "training films": len(x),
        "final loss": float(loss),
        "anatomies of the test": len(set(groups)),
        "Dice, no lesion": quantiles(few.tolist()) | {"mean": float(few.mean())},
        "Dice, 4 to 6 dense zones": quantiles(many.tolist()) | {"mean": float(many.mean())},
        "Dice lost, means": float(few.mean() - many.mean()),
    }


def _commit() -> str:
    """The commit of the checkout."""
    git = ("git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD")
    return subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()


def main() -> None:
    """Run one measurement and write its file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("films", "arrangement", "tokens", "lungs"))
    parser.add_argument("--data", type=Path, help="folder of the real films")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--bodies", type=int, default=20, help="anatomies of each site")
    parser.add_argument("--real", type=int, default=150, help="real films of each source")
    parser.add_argument("--patients", type=int, default=900)
    parser.add_argument("--steps", type=int, default=1000, help="of each reader of tokens")
    parser.add_argument("--lung-films", type=int, default=120, help="of each site and set")
    parser.add_argument("--places", default="textbook", choices=arrangement.PLACES)
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    start = time.process_time()
    if options.what == "films":
        result = measure_films(options.data, options.bodies, options.real)
    elif options.what == "arrangement":
        result = measure_arrangement(options.patients, options.bodies)
    elif options.what == "lungs":
        result = measure_lungs(options.lung_films, options.steps // 2)
    else:
        sizes = (options.patients, options.bodies, options.steps)
        result = measure_tokens(*sizes, options.places)
    result["measured"] = {
        "commit": _commit(),
        "date": time.strftime("%Y-%m-%d"),
        "CPU seconds": round(time.process_time() - start),
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    if options.what == "tokens":
        record_tokens(result)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
