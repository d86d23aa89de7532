"""What the ledger shows for Tables 7 to 10: recorded rows of the grid, or cells of this machine."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from cxrkit.config.sections import Profile
from cxrkit.pipeline import stages
from cxrkit.reproduction import grid
from cxrkit.reproduction.comparisons import (
    CLAIM_OF_ALL,
    CONVERGED,
    FEWEST_SEEDS,
    MARGINS,
    NO_CURVE,
    NOT_CONVERGED,
    OPEN,
    conclusions,
    over_seeds,
)
from cxrkit.reproduction.grid import DIAGNOSIS, PROPOSED, SEVERITY, Cell
from cxrkit.reproduction.grid_rows import DIFFERENCE, METRICS, cell_metric
from cxrkit.storage import recorded
from cxrkit.storage.artifacts import Store

CHANCE = 0.6  # a model whose AUC is below it has learnt next to nothing


def grid_metrics(
    profile: Profile, store: Store, rows: Iterable[dict[str, Any]] = ()
) -> dict[str, dict[str, Any]]:
    """What the ledger shows for Tables 7 to 10.

    Args:
        profile: whose cells are shown.
        store: where cells of this machine lie.
        rows: recorded rows.

    Returns:
        {"comparison": {task: {cell: {metric: leaf}}}, "ablation": the same, the proposed model in
        both}, from the recorded rows of the profile's own settings, otherwise from cells that are
        finished in the store; where none of these is compared with the proposed model, from
        recorded rows of other settings (`recorded_rows`), and each leaf says so. And "conclusion":
        {"claims": {claim: {"holds": leaf}}}, from recorded rows alone.
    """
    out = {"comparison": {}, "ablation": {}, "conclusion": {}}
    claims, cells = {}, grid.grid_cells(profile)
    summaries = recorded_rows(profile, rows)
    for stage in (DIAGNOSIS, SEVERITY):
        task = "diagnosis" if stage == DIAGNOSIS else "severity"
        live = _live_leaves([cell for cell in cells if cell.stage == stage], store)
        table = summaries.get(stage, pd.DataFrame(columns=["note"]))
        if len(live) > 1:  # cells of this machine are better than rows of other settings
            table = table[table["note"] == ""]
        leaves = {} if any(table["note"]) else live
        leaves = leaves | {row["cell"]: _leaf(row) for row in table.to_dict("records")}
        claims |= _claims(table, {cell.name for cell in cells if cell.stage == stage})
        for cell in cells:
            if cell.stage != stage or cell.name not in leaves:
                continue
            of_main_table = cell.table in ("Table 7", "Table 8")
            parts = ["comparison" if of_main_table else "ablation"]
            if cell.name == PROPOSED:
                parts = ["comparison", "ablation"]
            for part in parts:
                leaf = leaves[cell.name]
                if cell.name == PROPOSED:
                    leaf = _against_all(leaf, claims.get(CLAIM_OF_ALL[part, stage], {}))
                out[part].setdefault(task, {})[cell.name] = {METRICS[stage][0]: leaf}
    if claims:
        out["conclusion"]["claims"] = claims
    return out


def _claims(table: pd.DataFrame, cells: Collection[str]) -> dict[str, Any]:
    """Leaves of the conclusions on rows of `recorded_rows`; {} of none.

    Args:
        table: of one stage.
        cells: names of those that the profile has.
    """
    if table.empty:
        return {}
    note = note_on_rows(table)
    found = {}
    for claim, leaf in conclusions(table, cells).items():
        why = "; ".join(filter(None, (note, leaf["why"])))
        found[claim] = {"holds": leaf | {"why": why}}
    return found


def _against_all(leaf: dict[str, Any], claim: dict[str, Any]) -> dict[str, Any]:
    """The leaf of the proposed model, with the word on it against all that it is compared with."""
    if not claim:
        return leaf | {"conclusion": OPEN, "than": "the others, of which none was measured"}
    on_all = claim["holds"]
    word = {name: on_all[name] for name in ("detectable", "gap")}
    return leaf | word | {"conclusion": on_all["value"], "than": "all others"}


def recorded_rows(profile: Profile, rows: Iterable[dict[str, Any]]) -> dict[str, pd.DataFrame]:
    """The recorded rows that speak of a profile, summarised over seeds.

    Args:
        profile: whose name the rows bear.
        rows: of recorded_results/grid.json.

    Returns:
        Stage -> `over_seeds` of Tables 7 to 10. Of each cell the rows of the profile's own
        settings, where they are enough to compare it (FEWEST_SEEDS) or there are no others; else
        those of other settings, of the latest version of the virtual hospitals alone. The column
        `note` says so of these, and is "" for own ones. `training` of an own one is CONVERGED too
        where the search knows that twice the steps bring too little (`flat_when_doubled`).
    """
    of_profile = [row for row in rows if row["profile"] == profile.name]
    if not of_profile:
        return {}
    keys, found = own_keys(profile), {}
    for stage in (DIAGNOSIS, SEVERITY):
        of_stage = [row for row in of_profile if row["stage"] == stage]
        of_tables = [row for row in of_stage if row["table"].startswith("Table")]
        cells = dict.fromkeys(row["cell"] for row in of_tables)
        chosen, notes = [], {}
        for cell in cells:
            part, notes[cell] = _of_cell([row for row in of_tables if row["cell"] == cell], keys)
            chosen += part
        if chosen:
            table = over_seeds(chosen)
            table = table.assign(note=table["cell"].map(notes))
            own = (table["note"] == "") & table["cell"].isin(flat_when_doubled(profile, stage))
            table.loc[own, "training"] = CONVERGED
            found[stage] = table
    return found


def flat_when_doubled(
    profile: Profile, stage: str, trials: Iterable[Mapping[str, Any]] | None = None
) -> set[str]:
    """Rows of Table 7 or 8 to which twice the steps bring no more than the margin on validation.

    This says more of a training than its own curve, which rises at the end of any schedule whose
    rate falls to 0.

    Args:
        profile: whose rates and steps are meant.
        stage: DIAGNOSIS or SEVERITY.
        trials: rows of recorded_results/learning_rates.json; None = those.
    """
    rows = recorded_trials() if trials is None else trials
    scores, flat = {row["key"]: row["score"] for row in rows}, set()
    for cell in grid.grid_cells(profile):
        if cell.stage != stage:
            continue
        own, twice = scores.get(cell.key), scores.get(grid.doubled(cell).key)
        if own is not None and twice is not None and not brings_more(stage, own, twice):
            flat.add(cell.name)
    return flat


def brings_more(stage: str, own: float, other: float) -> bool:
    """Whether the other training has a score on validation better by more than the margin."""
    return other - own > MARGINS[METRICS[stage][0]]


def recorded_trials() -> list[dict[str, Any]]:
    """The recorded rows of the search; [] where there are none."""
    known = "learning_rates" in recorded.result_names()
    return recorded.read_result("learning_rates")["rows"] if known else []


def _of_cell(rows: list[dict[str, Any]], keys: Collection[str]) -> tuple[list[dict[str, Any]], str]:
    """The rows of a cell that speak of a profile, and the note on them (`recorded_rows`)."""
    own = [row for row in rows if row["key"] in keys]
    others = [row for row in rows if row["key"] not in keys]
    compared = sum("difference" in row for row in own)
    if own and (not others or compared >= FEWEST_SEEDS or own[0]["cell"] == PROPOSED):
        return own, ""
    version = max(row.get("hospitals", 0) for row in others)
    return [row for row in others if row.get("hospitals", 0) == version], _note_on(version)


def note_on_rows(table: pd.DataFrame) -> str:
    """How many rows of `recorded_rows` are of which other settings; "" for none."""
    older = table[table["note"] != ""]
    counts = older.groupby("note", sort=False).size()
    return "; ".join(f"{count} of {len(table)} cells: {note}" for note, count in counts.items())


def own_keys(profile: Profile) -> set[str]:
    """Keys of all cells of the grid of a profile, of each of its seeds."""
    keys = set()
    for seed in profile.grid.seeds:
        keys |= {cell.key for cell in grid.grid_cells(replace(profile, seed=seed))}
    return keys


def _note_on(version: int) -> str:
    """What to know of rows of other settings; version 0 = of no virtual hospital, or unknown."""
    present = stages.stage_of("cohort").version
    if version in (0, present):
        return "other settings, now changed"
    return f"version {version} of the hospitals, now {present}"


def _live_leaves(cells: Iterable[Cell], store: Store) -> dict[str, dict[str, Any]]:
    """Leaves of the cells that are finished in a store; one seed ranks none of them."""
    leaves = {}
    for cell in cells:
        if (cell.folder(store) / "metrics.json").exists():
            leaves[cell.name] = {**cell_metric(cell, store), "why": "one seed, no ranking"}
            if cell.name != PROPOSED:
                leaves[cell.name] |= {"conclusion": OPEN, "than": cell.against}
    return leaves


def _leaf(row: dict[str, Any]) -> dict[str, Any]:
    """A row of `over_seeds` for the ledger: value, interval, word, and what to know."""
    seeds = f"mean of {row['seeds']} seeds" if row["seeds"] > 1 else "one seed, no ranking"
    where = "folds of patients" if row["by_folds"] else "external hospitals"
    why = [f"{seeds}, {where}", row["note"], training_note(row)]
    leaf = {name: float(row[name]) for name in ("value", "low", "high")}
    if row["conclusion"]:
        seen = row["detectable"]
        leaf |= {"conclusion": row["conclusion"], "detectable": seen if np.isfinite(seen) else None}
        leaf["gap"] = [float(row[name]) for name in DIFFERENCE]
        leaf["than"] = row["against"]
    return leaf | {"why": "; ".join(filter(None, why))}


def training_note(row: Mapping[str, Any]) -> str:
    """What a row of `over_seeds` says of its training, where a reader must know it."""
    at_chance = row["metric"] == "auc" and row["value"] < CHANCE
    if row["training"] == NOT_CONVERGED:
        text = "not converged: the last quarter of its training still improved it"
    elif row["training"] == CONVERGED:
        text = CONVERGED if at_chance else ""
    else:
        text = f"whether it converged is unknown: {NO_CURVE}" if at_chance else ""
    return f"at chance (AUC below {CHANCE}); {text}" if at_chance else text
