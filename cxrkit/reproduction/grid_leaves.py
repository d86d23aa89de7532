"""What the ledger shows for Tables 7 to 10: recorded rows of the grid, or cells of this machine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import pandas as pd

from cxrkit.config.sections import Profile
from cxrkit.pipeline import stages
from cxrkit.reproduction import grid
from cxrkit.reproduction.comparisons import (
    CLAIM_OF_ALL,
    CONVERGED,
    FEWEST_SEEDS,
    NO_CURVE,
    NOT_CONVERGED,
    OPEN,
    conclusions,
    over_seeds,
)
from cxrkit.reproduction.grid import DIAGNOSIS, PROPOSED, SEVERITY, Cell
from cxrkit.reproduction.grid_rows import DIFFERENCE, METRICS, cell_metric
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
    summaries, notes = recorded_rows(profile, rows)
    for stage in (DIAGNOSIS, SEVERITY):
        task = "diagnosis" if stage == DIAGNOSIS else "severity"
        leaves = _live_leaves([cell for cell in cells if cell.stage == stage], store)
        table, note = summaries.get(stage), notes.get(stage, "")
        if table is not None and (not note or len(leaves) < 2):
            shown = {row["cell"]: _leaf(row, note) for row in table.to_dict("records")}
            leaves = shown if note else leaves | shown
            for claim, leaf in conclusions(table).items():
                why = "; ".join(filter(None, (note, leaf["why"])))
                claims[claim] = {"holds": leaf | {"why": why}}
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


def _against_all(leaf: dict[str, Any], claim: dict[str, Any]) -> dict[str, Any]:
    """The leaf of the proposed model, with the word on it against all that it is compared with."""
    if not claim:
        return leaf | {"conclusion": OPEN, "than": "the others, of which none was measured"}
    on_all = claim["holds"]
    word = {name: on_all[name] for name in ("detectable", "gap")}
    return leaf | word | {"conclusion": on_all["value"], "than": "all others"}


def recorded_rows(
    profile: Profile, rows: Iterable[dict[str, Any]]
) -> tuple[dict[str, pd.DataFrame], dict[str, str]]:
    """The recorded rows that speak of a profile, summarised over seeds.

    Args:
        profile: whose name the rows bear.
        rows: of recorded_results/grid.json.

    Returns:
        Stage -> `over_seeds` of Tables 7 to 10: of the rows of the profile's own settings, where
        these compare each cell over FEWEST_SEEDS seeds that rows of other settings compare; else of
        the latter, the latest version of the virtual hospitals alone. Stage -> a note on those of
        other settings, "" for own ones.
    """
    of_profile = [row for row in rows if row["profile"] == profile.name]
    if not of_profile:
        return {}, {}
    keys, tables, notes = own_keys(profile), {}, {}
    for stage in (DIAGNOSIS, SEVERITY):
        named = [row for row in of_profile if row["stage"] == stage]
        named = [row for row in named if row["table"].startswith("Table")]
        own = [row for row in named if row["key"] in keys]
        others = [row for row in named if row["key"] not in keys]
        version = max((row.get("hospitals", 0) for row in others), default=0)
        others = [row for row in others if row.get("hospitals", 0) == version]
        if own and _compared(others) <= _compared(own, FEWEST_SEEDS):
            tables[stage], notes[stage] = over_seeds(own), ""
        elif others:
            tables[stage], notes[stage] = over_seeds(others), _note_on(version)
    return tables, notes


def own_keys(profile: Profile) -> set[str]:
    """Keys of all cells of the grid of a profile, of each of its seeds."""
    keys = set()
    for seed in profile.grid.seeds:
        keys |= {cell.key for cell in grid.grid_cells(replace(profile, seed=seed))}
    return keys


def _compared(rows: Iterable[Mapping[str, Any]], seeds: int = 1) -> set[str]:
    """Names of the cells that are compared over so many seeds or more."""
    counts = Counter(row["cell"] for row in rows if "difference" in row)
    return {cell for cell, count in counts.items() if count >= seeds}


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


def _leaf(row: dict[str, Any], note: str) -> dict[str, Any]:
    """A row of `over_seeds` for the ledger: value, interval, word, and what to know."""
    seeds = f"mean of {row['seeds']} seeds" if row["seeds"] > 1 else "one seed, no ranking"
    why = [f"{seeds}, external hospitals", note, training_note(row)]
    leaf = {name: float(row[name]) for name in ("value", "low", "high")}
    if row["conclusion"]:
        leaf |= {name: row[name] for name in ("conclusion", "detectable")}
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
