"""The court: which saliency map deserves belief? Every method is judged film by film, against the
true lesion and against the model.

B films, C channels of the corpus, h w its grid, S px of the masks; what is measured on a map stands
in `evidence`.
"""

import itertools
import time
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pandas as pd
import torch

from cxrkit.config.vocabulary import DIAGNOSES
from cxrkit.data import cache, datasets, images
from cxrkit.evaluation import resampling, summaries
from cxrkit.explain.measures import area, cascade, mass, near, pointing, rank_correlation, removal
from cxrkit.explain.methods import METHODS
from cxrkit.storage.atomic import write_json
from cxrkit.tasks import diagnosis

COVID = DIAGNOSES.index("covid19")
LARGEST = 0.15  # of the lungs: where more is ill, pointing at any place in the lungs is right
NOISE = 0.05  # standard deviation on the prepared film, about 3 grey levels

# name -> what it measures, and whether more of it (+1) or less (-1) speaks for a method
CRITERIA = {
    "pointing": ("pointing game: strongest point within one cell of the lesion", 1),
    "touching": ("pointing game: strongest cell touches the lesion", 1),
    "lesion": ("share of the map inside the lesion", 1),
    "lungs": ("share of the map inside the lungs", 1),
    "deletion": ("class probability, strongest cells deleted first (area)", -1),
    "insertion": ("class probability, strongest cells inserted first (area)", 1),
    "stability": ("rank correlation with the map of a noisier film", 1),
    "randomised": ("size of the rank correlation with the map of shuffled weights", -1),
    "seconds": ("seconds a map", -1),
}


class Case(NamedTuple):
    """Films of one class with their truth, as one model sees them."""

    corpus: torch.Tensor  # (B, C, h, w)
    shaken: torch.Tensor  # (B, C, h, w), of the same films with a little noise
    lesion: np.ndarray  # bool (B, S, S)
    lungs: np.ndarray  # bool (B, S, S)
    groups: np.ndarray  # (B,) patients


def randomised(model, corpus, target, methods=METHODS, seed=0, parts=0):
    """Rank correlation of each method's maps with those of the trained model, part after part of
    `cascade`; parts: the first few, 0 = all.

    Returns a DataFrame: part, method, film, value.
    """
    before = {name: METHODS[name](model, corpus, target) for name in methods}
    return pd.concat(
        [
            _rows(
                rank_correlation(before[name], METHODS[name](shuffled, corpus, target)),
                part=part,
                method=name,
            )
            for part, shuffled in itertools.islice(cascade(model, seed), parts or None)
            for name in methods
        ],
        ignore_index=True,
    )


def _rows(values, **names):
    return pd.DataFrame({**names, "film": range(len(values)), "value": values})


def judge(model, case, target, score, methods=METHODS, few=24):
    """Every method on every criterion and film: DataFrame method, criterion, film, group, value;
    `chance` where it is known.

    target: a class. score: corpus -> (B,) the probability of that class. The costly criteria,
    stability and randomised weights (all of them), are judged on the first `few` films.
    """
    corpus, grid, parts = case.corpus, case.corpus.shape[-2:], []
    chance = {
        "pointing": near(case.lesion, grid).mean((1, 2)),
        "touching": near(case.lesion, grid, 0.5).mean((1, 2)),
        "lesion": case.lesion.mean((1, 2)),
        "lungs": case.lungs.mean((1, 2)),
    }
    parts += [_rows(value, method="chance", criterion=name) for name, value in chance.items()]
    *_, (_, shuffled) = cascade(model)
    for name in methods:
        start = time.perf_counter()
        maps = METHODS[name](model, corpus, target)
        seconds = (time.perf_counter() - start) / len(maps)
        deletion, insertion = removal(score, corpus, maps)
        values = {
            "pointing": pointing(maps, case.lesion),
            "touching": pointing(maps, case.lesion, 0.5),
            "lesion": mass(maps, case.lesion),
            "lungs": mass(maps, case.lungs),
            "deletion": area(deletion),
            "insertion": area(insertion),
            "stability": rank_correlation(
                maps[:few], METHODS[name](model, case.shaken[:few], target)
            ),
            "randomised": np.abs(
                rank_correlation(maps[:few], METHODS[name](shuffled, corpus[:few], target))
            ),
            "seconds": np.full(len(maps), seconds),
        }
        parts += [
            _rows(value, method=name, criterion=criterion) for criterion, value in values.items()
        ]
    rows = pd.concat(parts, ignore_index=True)
    return rows.assign(group=np.asarray(case.groups)[rows["film"]])


def verdict(rows, draws=1000):
    """Means with 95 % intervals over patients: `judge`'s rows -> DataFrame method, criterion,
    value, low, high, n.

    A film whose value is NaN is left out; n counts those that remain.
    """
    lines = []
    for (criterion, method), part in rows.dropna(subset="value").groupby(
        ["criterion", "method"], sort=False
    ):
        value, low, high = resampling.bootstrap(
            np.mean, part["value"].to_numpy(), groups=part["group"].to_numpy(), draws=draws
        )
        lines.append(
            {
                "method": method,
                "criterion": criterion,
                "value": value,
                "low": low,
                "high": high,
                "n": len(part),
            }
        )
    return pd.DataFrame(lines)


def against(rows, method, criterion, draws=1000):
    """One method minus each other on the same films, with 95 % intervals over patients -> DataFrame
    other, difference, low, high, n.

    Sharper than comparing two intervals of `verdict`: what makes a film hard for both falls out.
    """
    part = rows[rows["criterion"] == criterion]
    films = [name for name in ("view", "film", "group") if name in part]
    wide = part.pivot(index=films, columns="method", values="value")
    gaps = wide.drop(columns=method).rsub(wide[method], axis=0)
    lines = []
    for other, gap in gaps.items():
        gap = gap.dropna()
        found = resampling.bootstrap(
            np.mean, gap.to_numpy(), groups=gap.index.get_level_values("group"), draws=draws
        )
        lines.append(
            dict(
                zip(
                    ("other", "difference", "low", "high", "n"),
                    (other, *found, len(gap)),
                    strict=True,
                )
            )
        )
    return pd.DataFrame(lines).set_index("other")


def ranking(table):
    """Who answers each question best: `verdict`'s table -> DataFrame criterion, best, value, `not
    clearly worse`, `not above chance`.

    A method counts as worse than the best, or as above chance, only if the two intervals do not
    overlap. Noise takes no part: it is stable and costs nothing; nor does a method without an
    interval, where others have one.
    """
    lines = []
    for name, (_, sign) in CRITERIA.items():
        part = table[table["criterion"] == name].set_index("method")
        methods, luck = (
            part.drop(index=["chance", "random"], errors="ignore"),
            part.filter(items=["chance"], axis=0),
        )
        methods = methods[methods["low"].notna() | methods["low"].isna().all()]
        low, high = (
            sign * methods[edge] for edge in (("low", "high") if sign > 0 else ("high", "low"))
        )
        best = (sign * methods["value"]).idxmax()
        close = [m for m in methods.index if m != best and high[m] >= low[best]]
        beaten = [
            m for m in methods.index if len(luck) and methods.loc[m, "low"] <= luck["high"].iloc[0]
        ]
        lines.append(
            {
                "criterion": name,
                "best": best,
                "value": methods.loc[best, "value"],
                "not clearly worse": close,
                "not above chance": beaten if len(luck) else None,
            }
        )
    return pd.DataFrame(lines).set_index("criterion")


def exhibits(table, profile, store=None, most=None):
    """The films to be judged: COVID-19 of test and external hospitals, whose lesion covers at most
    LARGEST of the lungs.

    -> (table, lesion bool (n, S, S), lungs bool (n, S, S)), spread over all films if there are more
    than `most`, by default profile.court_films. Raises ValueError where nobody has drawn lesions.
    """
    split = datasets.parts(table)
    films = pd.concat([split["test"], split["external"]], ignore_index=True)
    films = films[
        (films["diagnosis"] == DIAGNOSES[COVID])
        & films["lesion_mask"].notna()
        & films["lung_mask"].notna()
    ]
    if films.empty:
        raise ValueError(
            "the court needs COVID-19 films with lesion and lung masks; among public data only "
            "virtual hospitals have them"
        )
    lesion, lungs = (
        np.load(
            cache.cached(films[f"{kind}_mask"], profile.image_size, profile.choices, name, store)
        )
        == 255
        for kind, name in (("lesion", "lesion"), ("lung", "lungs"))
    )
    share = (lesion & lungs).sum((1, 2)) / np.maximum(lungs.sum((1, 2)), 1)
    rows = np.flatnonzero((share > 0) & (share <= LARGEST))
    most = most or profile.court_films
    rows = rows[np.linspace(0, len(rows) - 1, most).astype(int)] if len(rows) > most else rows
    return films.iloc[rows].reset_index(drop=True), lesion[rows], lungs[rows]


@torch.no_grad()
def case(model, films, lesion, lungs, profile, store=None):
    """The films of `exhibits` as one model (`networks.Network`) sees them, once as they are and
    once with NOISE.
    """
    # (B, 1, S, S)
    image = diagnosis.dataset(films, profile, store).batch(range(len(films)))["image"]
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(profile.seed))
    return Case(
        model.features(image),
        model.features(image + NOISE * noise),
        lesion,
        lungs,
        films["group_id"].to_numpy(),
    )


def make(folder, profile, table, models, store=None):
    """Judge the models of the views, {"PA": `networks.Network`, ...}, each on at most
    profile.court_films films, a third of them on the costly criteria, into `folder`.

    Leaves rows.csv (`judge`), cascade.csv (`randomised`, first view) and metrics.json: method ->
    criterion -> value with interval.
    """
    parts, probabilities, few = (
        [],
        diagnosis.HEADS[profile.choices.class_head][1],
        max(1, profile.court_films // 3),
    )
    for i, (view, model) in enumerate(models.items()):
        films, lesion, lungs = exhibits(diagnosis.of_view(table, view), profile, store)
        seen = case(model, films, lesion, lungs, profile, store)
        rows = judge(
            model.transformer,
            seen,
            COVID,
            lambda x, vit=model.transformer: probabilities(vit(x)["logits"])[:, COVID],
            few=few,
        )
        parts.append(rows.assign(view=view, site=films["site"].to_numpy()[rows["film"]]))
        if i == 0:
            shuffled = randomised(
                model.transformer,
                seen.corpus[:few],
                COVID,
                seed=profile.seed,
                parts=profile.court_parts,
            )
            shuffled.to_csv(folder / "cascade.csv", index=False)
    rows = pd.concat(parts, ignore_index=True)
    rows.to_csv(folder / "rows.csv", index=False)
    table = verdict(rows)
    write_json(
        folder / "metrics.json",
        {
            "films": {view: int(n) for view, n in rows.groupby("view")["film"].nunique().items()},
            **{
                method: {
                    line.criterion: summaries.interval((line.value, line.low, line.high), line.n)
                    for line in part.itertuples()
                }
                for method, part in table.groupby("method", sort=False)
            },
        },
    )


def read_boxes(folder, size):
    """Radiologists' boxes of real films: a folder with bbox.csv (file, finding, x, y, w, h in px)
    -> (paths, bool (n, size, size)).

    Boxes of one film make one mask. Raises FileNotFoundError without bbox.csv.
    """
    boxes, masks = pd.read_csv(Path(folder) / "bbox.csv"), {}
    for row in boxes.itertuples():
        path = str(Path(folder) / row.file)
        if path not in masks:
            masks[path] = np.zeros(images.load_image(path).pixels.shape, np.uint8)
        masks[path][round(row.y) : round(row.y + row.h), round(row.x) : round(row.x + row.w)] = 1
    return list(masks), np.stack(
        [cv2.resize(mask, (size, size), interpolation=cv2.INTER_NEAREST) for mask in masks.values()]
    ) > 0
