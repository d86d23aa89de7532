"""Quiz: a class reads films before it sees what the model says; every answer is kept, and readers,
model and truth stand side by side.

Zones are in the order of `schema.ZONES`: the patient's right lung from the top, then the left.
"""

import re
from pathlib import Path

import numpy as np
import pandas as pd

from cxrkit.config.vocabulary import DIAGNOSES, ZONES, known
from cxrkit.storage.atomic import write_atomic

LONGEST = 40  # letters of a player's name
PLAYED = 10  # films of one quiz


def films(room, n=PLAYED):
    """Names of up to n films whose diagnosis somebody knows, one a patient, in the order of the
    room's list.
    """
    seen, out = set(), []
    for name, case in room.cases.items():
        if case.patient not in seen and room.truth(case).diagnosis is not None and len(out) < n:
            out.append(name)
            seen |= {case.patient} - {""}
    return out


def _six(array):
    """Array (3, 2) -> six values in the order of ZONES."""
    return np.concatenate([array[:, 0], array[:, 1]])


def mark(room, name, player, diagnosis, zones):
    """One answer beside what the model says and what is true, as a row of the table.

    zones: the involved ones, a set of names in ZONES. Values nobody knows are NaN. Raises
    ValueError for an unknown diagnosis or zone, and for a player without a name.
    """
    player = " ".join(str(player).split())[:LONGEST]
    if not player:
        raise ValueError("who answers? write a name, or that of your team")
    known(diagnosis, DIAGNOSES, "diagnosis")
    guess = np.array([zone in {known(z, ZONES, "zone") for z in zones} for zone in ZONES], float)
    case = room.cases[known(name, room.cases, "film")]
    truth, reading = room.truth(case), room.read(case)
    true, model, second = _six(truth.array), (_six(reading.array) >= 0.5) * 1.0, _six(truth.second)
    row = {
        "player": player,
        "film": name,
        "diagnosis": diagnosis,
        "model": DIAGNOSES[int(reading.diagnosis.argmax())],
        "true": truth.diagnosis,
        **{zone: int(value) for zone, value in zip(ZONES, guess, strict=True)},
    }
    for who, six in (("zones", guess), ("model_zones", model), ("reader_zones", second)):
        row[who] = float(np.mean(six == true)) if not np.isnan([six, true]).any() else np.nan
    return {
        **row,
        "severity": guess.sum(),
        "model_severity": reading.severity,
        "reader_severity": second.sum(),
        "true_severity": true.sum(),
    }


def keep(folder, row):
    """Add an answer to the player's own file in `folder`; a second answer to the same film replaces
    the first.
    """
    slug = re.sub(r"[^a-z0-9]+", "-", row["player"].lower()).strip("-") or "player"
    path = Path(folder) / f"{slug}-{sum(map(ord, row['player'])) % 10_000:04}.csv"
    before = pd.read_csv(path) if path.exists() else pd.DataFrame()
    rows = [*(before[before["film"] != row["film"]].to_dict("records") if len(before) else []), row]
    write_atomic(path, as_csv(pd.DataFrame(rows)))


def answers(folder):
    """All answers of a class, one row an answer: every player's file in `folder`."""
    parts = [pd.read_csv(path) for path in sorted(Path(folder).glob("*.csv"))]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def standings(rows):
    """The class at a glance: a row a player, then the model and, where there is one, the second
    reader, on the films that were answered.

    Columns: films, `diagnosis` (share right), `zones` (share of the six read as the truth has
    them), `severity` (mean error, 0-6).
    """

    def line(part, diagnosis, zones, severity):
        return {
            "films": len(part),
            "diagnosis": (part[diagnosis] == part["true"]).mean() if diagnosis else np.nan,
            "zones": part[zones].mean(),
            "severity": (part[severity] - part["true_severity"]).abs().mean(),
        }

    out = {
        name: line(part, "diagnosis", "zones", "severity") for name, part in rows.groupby("player")
    }
    once = rows.drop_duplicates("film")
    out["the model"] = line(once, "model", "model_zones", "model_severity")
    read = once[once["reader_zones"].notna()]
    if len(read):
        out["the second reader"] = line(read, None, "reader_zones", "reader_severity")
    return pd.DataFrame(out).T.astype({"films": int}).round(2)


def as_csv(rows):
    """A table as CSV text that a spreadsheet may open: a name that begins like a formula is quoted."""
    safe = rows.assign(
        player=["'" + name if name[:1] in "=+-@" else name for name in rows["player"].astype(str)]
    )
    return safe.to_csv(index=False)
