"""Localisation: severity maps against the true extent of the lesions, which only the virtual
hospitals know.

The paper shows pictures of its maps beside drawn lesions (Figure 7, 12 films) and gives no number;
here are three. H W map.
"""

import cv2
import numpy as np
from sklearn.metrics import average_precision_score

from cxrkit.data import lung_zones
from cxrkit.data.cache import cached
from cxrkit.evaluation import overlap, resampling
from cxrkit.evaluation.summaries import interval

CUTS = np.arange(1, 20) / 20  # thresholds tried for contours
DRAWS = 400  # of patients, for an interval


def places(drawn, profile, store=None):
    """Maps (N, H, W) and their tables, {"val": (maps, table), ...}, against the true lesions ->
    {"val": {...}, ...}; {} without val.

    `dice` at the contour threshold that is best on validation and carried over; `auprc`, average
    precision of the lung's pixels, beside the lesion's share of the lung (`chance`): both are means
    over films with a lesion. `pointing`: share of the truly involved zones whose largest value lies
    on the lesion, beside the lesion's share of those zones.
    """
    films = {
        name: _against_truth(found, table, profile, store) for name, (found, table) in drawn.items()
    }
    if "val" not in films:
        return {}
    best = int(films["val"]["dice"].mean(axis=0).argmax())
    out = {}
    for name, film in films.items():

        def mean(values, groups=film["groups"]):
            return interval(
                resampling.bootstrap(np.nanmean, values, groups=groups, draws=DRAWS),
                int(np.isfinite(values).sum()),
            )

        out[name] = {
            "threshold": float(CUTS[best]),
            "dice": mean(film["dice"][:, best]),
            **{
                what: mean(film[what])
                for what in ("auprc", "chance", "pointing", "pointing_chance")
            },
        }
    return out


def _against_truth(found, table, profile, store):
    """Films with a lesion: dict `dice` (n, CUTS), `auprc`, `chance`, `pointing`, `pointing_chance`
    (n,), and their `groups`.
    """
    size, rows, kept = found.shape[-1], [], []
    lesions, masks = (
        np.load(
            cached(table[column], profile.image_size, profile.choices, kind, store), mmap_mode="r"
        )
        for column, kind in (("lesion_mask", "lesion"), ("lung_mask", "lungs"))
    )
    for i, severity_map in enumerate(found):
        lesion, lung = (
            cv2.resize(m[i], (size, size), interpolation=cv2.INTER_NEAREST_EXACT) == 255
            for m in (lesions, masks)
        )
        if (lesion & lung).any():
            rows.append(against_lesion(severity_map, lesion & lung, lung, profile.choices))
            kept.append(i)
    return {
        **{name: np.array([row[name] for row in rows]) for name in rows[0]},
        "groups": table["group_id"].to_numpy()[kept],
    }


def against_lesion(severity_map, lesion, lung, choices):
    """One map (H, W) against the lesion, bool (H, W) inside the lung: the values of `places` for
    one film.
    """
    zones = lung_zones.zones(lung[None], choices)[0].reshape(6, *lung.shape)
    involved = [zone for zone in zones if (zone & lesion).any()]
    hits = [lesion.flat[np.argmax(np.where(zone, severity_map, -1))] for zone in involved]
    return {
        "dice": [overlap.dice(lesion, severity_map >= cut) for cut in CUTS],
        "auprc": average_precision_score(lesion[lung], severity_map[lung]),
        "chance": lesion[lung].mean(),
        "pointing": np.mean(hits),
        "pointing_chance": np.mean([lesion[zone].mean() for zone in involved]),
    }
