"""The claims of the paper, each with what holds on virtual hospitals and on public films.

Every number is read from a committed file: recorded_results/grid.json, docs/lab, and the metrics
of the demo's diagnosis. Where a file has nothing on a claim, the claim was "not run" there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import pandas as pd
from scipy import stats

from cxrkit.config import paths, profiles
from cxrkit.config.sections import Profile
from cxrkit.evaluation import metrics, trained_seeds
from cxrkit.evaluation.summaries import metrics_of
from cxrkit.pipeline import stages
from cxrkit.reproduction import comparisons, grid, grid_leaves, grid_rows
from cxrkit.reproduction.comparisons import BETTER, EQUIVALENT, NOT_RUN, OPEN
from cxrkit.reproduction.grid import DIAGNOSIS, FROM_FINDINGS, SEVERITY
from cxrkit.reproduction.ledger import NOT_IN_PAPER
from cxrkit.simulation.hospital import ARRANGEMENT
from cxrkit.storage import locations, recorded
from cxrkit.storage.artifacts import key
from cxrkit.storage.atomic import read_json

HOLDS, FAILS = "holds", "does not hold"
UNPROVEN = "not shown"  # better than baselines that have not converged or learnt nothing
NO_ROW = "no such row"
IMAGES = {"virtual": "virtual hospitals", "public": "public films"}
CNNS = ("ResNet-50", "ResNet-152", "DenseNet-121")
TRANSFORMERS = ("ViT", "hybrid ViT")
MAPS = ("10 weighted maps", "3 infection maps", "pneumonia map")
FEWER_LAYERS = ("2 layers, 4 heads", "4 layers, 8 heads")
BAG_OF_SWEEP, PLACES_OF_SWEEP = "MLP on a bag of tokens", "MLP on tokens side by side"
USUAL = {"arrangement": ARRANGEMENT, "images": 720}  # of the sweep: as the demo's hospitals


@dataclass(frozen=True)
class Evidence:
    """What one set of films says on a claim.

    Attributes:
        conclusion: a word of `trained_seeds.CONCLUSIONS`, NOT_RUN, or NO_ROW.
        gap: the difference and both ends of its 95 % interval; above 0 where the first of the two
            that the claim names is better. None where nothing ran.
        metric: "AUC" or "MSE".
        why: what the difference is of, and what to know.
        detectable: the smallest difference that could have been seen; None where not known.
        source: the file that it was read from.
        caveat: what weakens it, in few words.
        weak: whether a baseline is at chance, or not known to have converged: to be better than it
            shows little.
    """

    conclusion: str = NOT_RUN
    gap: tuple[float, float, float] | None = None
    metric: str = ""
    why: str = ""
    detectable: float | None = None
    source: str = ""
    caveat: str = ""
    weak: bool = False

    @property
    def text(self) -> str:
        """Difference, interval, word and caveat: "+0.066 [+0.046, +0.085] AUC: better"."""
        if self.gap is None:
            return self.conclusion
        value, low, high = self.gap
        text = f"{value:+.3f} [{low:+.3f}, {high:+.3f}] {self.metric}: {self.conclusion}"
        return f"{text} ({self.caveat})" if self.caveat else text


Reader = Callable[[], Evidence]


@dataclass(frozen=True)
class Claim:
    """A claim of the paper: one thing against another.

    Attributes:
        name: first against second.
        section: of the paper.
        paper: the word that the paper has for it.
        quote: its words.
        cells: of the grid that the proposed model is compared with; () = not of the grid.
        stage: of these cells.
        virtual: reads the evidence of virtual hospitals, where that is not the grid.
        public: the same for public films.
    """

    name: str
    section: str
    paper: str
    quote: str
    cells: tuple[str, ...] = ()
    stage: str = DIAGNOSIS
    virtual: Reader | None = None
    public: Reader | None = None


# evidence


def evidence_of_grid(
    claim: Claim, profile: Profile, tables: Mapping[str, pd.DataFrame]
) -> Evidence:
    """The recorded rows of the grid of a profile, on a claim.

    Args:
        claim: with cells.
        profile: demo for virtual hospitals, mini for public films.
        tables: of `grid_leaves.recorded_rows`.
    """
    cells = grid.grid_cells(profile)
    names = {cell.name for cell in cells if cell.stage == claim.stage and cell.name in claim.cells}
    if not names:
        return Evidence(NO_ROW)
    if claim.stage not in tables:
        return Evidence()
    table = tables[claim.stage]
    baselines = table[table["cell"].isin(claim.cells)]
    found = comparisons.proposed_against(baselines, claim.stage, len(names))
    if not found:
        return Evidence()
    seeds = int(baselines.loc[baselines["cell"] == found["closest"], "compared"].iloc[0])
    few = "" if seeds >= comparisons.FEWEST_SEEDS else _count(seeds)
    closest = f"closest: {found['closest']}" if len(claim.cells) > 1 else ""
    why = [closest, "" if few else _count(seeds)]
    weak = weak_baselines(baselines)
    where, sizes = evaluated_on(baselines, claim.stage), sizes_of(claim, profile)
    measured = baselines["difference"].notna().sum()
    part = f"{measured} of {len(names)} baselines measured" if measured < len(names) else ""
    caveats = (where, sizes, few, part, versions_of(baselines), weak)
    return Evidence(
        found["value"],
        tuple(found["gap"]),
        grid_rows.METRICS[claim.stage][0].upper(),
        "; ".join(filter(None, why)),
        found["detectable"],
        "recorded_results/grid.json",
        "; ".join(filter(None, caveats)),
        bool(weak),
    )


def weak_baselines(baselines: pd.DataFrame) -> str:
    """What rows of `over_seeds` say of baselines that it is no feat to be better than.

    Returns:
        Those at chance, those that have not converged, and those of which that is not known; ""
        for none.
    """
    by_reason: dict[str, list[str]] = {}
    for row in baselines.to_dict("records"):
        reasons = [] if row["training"] == comparisons.CONVERGED else [row["training"]]
        if row["metric"] == "auc" and row["value"] < grid_leaves.CHANCE:
            reasons = ["at chance", row["training"]]
        if reasons:
            by_reason.setdefault(", ".join(reasons), []).append(row["cell"])
    if list(by_reason.values()) == [baselines["cell"].tolist()]:
        each = "baseline" if len(baselines) == 1 else "baselines"
        return f"{each}: {next(iter(by_reason))}"
    return "; ".join(f"{', '.join(cells)} {reason}" for reason, cells in by_reason.items())


def grid_note(rows: list[dict[str, Any]] | None = None) -> str:
    """What to know of all rows of the grid that the table reads: their hospitals, their curves.

    Args:
        rows: as in `claims_table`.
    """
    rows = recorded_grid() if rows is None else rows
    facts = []
    for profile in (profiles.demo(), profiles.mini()):
        for stage, table in grid_leaves.recorded_rows(profile, rows).items():
            without = int((table["training"] == comparisons.NO_CURVE).sum())
            text = f"of {without} of {len(table)} cells no curve was kept" if without else ""
            known = "; ".join(filter(None, (grid_leaves.note_on_rows(table), text)))
            if known:
                facts.append(f"The grid of {profile.name}, {stage}: {known}")
    return ". ".join(facts)


def evaluated_on(baselines: pd.DataFrame, stage: str) -> str:
    """What rows of `over_seeds` were evaluated on, where that is not external hospitals."""
    if not baselines["by_folds"].any():
        return ""
    return "by folds of patients" + (" inside each source" if stage == DIAGNOSIS else "")


def versions_of(baselines: pd.DataFrame) -> str:
    """Which baselines were measured on an earlier version of the hospitals, or otherwise."""
    parts = []
    for note, part in baselines[baselines["note"] != ""].groupby("note", sort=False):
        cells = "" if len(part) == len(baselines) else f"{', '.join(part['cell'])}: "
        parts.append(f"{cells}{str(note).partition(',')[0]}")
    return "; ".join(parts)


def sizes_of(claim: Claim, profile: Profile) -> str:
    """What stands for the paper's layers and pixels in a profile of other sizes."""
    if claim.cells == FEWER_LAYERS:
        sizes = profile.transformer, profile.grid.middle, profile.grid.small
        own, *fewer = (f"{size.depth} layers of {size.num_heads} heads" for size in sizes)
        return f"here {own} against {' and '.join(fewer)}".replace("1 layers", "1 layer")
    if claim.cells == ("1024 px input",):
        return f"here {profile.image_size} px against {2 * profile.image_size}"
    return ""


def _count(seeds: int) -> str:
    """How many seeds, in words."""
    return f"{seeds} seeds" if seeds > 1 else "one seed"


def of_sweep(
    name: str = "attention_pays",
    tokens: str = "true lesions as tokens",
    minus: str = BAG_OF_SWEEP,
) -> Evidence:
    """The corpus ViT against a model of the same tokens, virtual hospitals.

    Args:
        name: of the sweep's file in docs/lab.
        tokens: what the models read there.
        minus: that model.
    """
    path = paths.lab_result(name)
    found = read_json(path) if path.exists() else {}
    for row in found.get("differences", []):
        setting = {name: row[name] for name in USUAL}
        if row["minus"] == minus and setting == USUAL:
            return Evidence(
                row["conclusion"],
                (row["difference"], row["low"], row["high"]),
                "AUC",
                _count(row["seeds"]),
                source=f"docs/lab/{name}.json",
                caveat=tokens,
            )
    return Evidence()


def of_probe() -> Evidence:
    """The corpus ViT against a linear model of the same features, inside sources of public films.

    The mean over the sources, whose patients are not the same.
    """
    found = _public_images()
    if not found:
        return Evidence()
    pairs = [pair["minus linear probe"] for pair in found["inside"]["pairs"]]
    gap, error = _mean_over(
        [pair["difference"] for pair in pairs], [pair["high"] - pair["low"] for pair in pairs]
    )
    return _normal(
        gap,
        error,
        f"mean of {len(pairs)} sources",
        "docs/lab/real_films.json",
        "against a linear model of the same ImageNet features, one seed",
    )


def across_sources() -> Evidence:
    """Sources of public films that no training saw, against the same sources where one did."""
    found, gaps, widths = _public_images(), [], []
    if not found:
        return Evidence()
    inside = {pair["source"]: pair["corpus ViT"] for pair in found["inside"]["pairs"]}
    for pair in found["across"]["pairs"]:
        unseen, seen = pair["corpus ViT"], inside[pair["source"]]
        gaps.append(unseen["value"] - seen["value"])
        # two models on the same films: as if these were others, which is too wide, if anything
        widths.append(math.hypot(*(part["high"] - part["low"] for part in (unseen, seen))))
    gap, error = _mean_over(gaps, widths)
    mean = found["across"]["mean"]["corpus ViT"]
    why = f"AUC {mean:.2f} at sources that no training saw"
    caveat = f"mean of {len(gaps)} sources, one seed"
    return _normal(gap, error, why, "docs/lab/real_films.json", caveat)


def _public_images() -> dict[str, Any]:
    """What benchmarks/real_films.py measured as `mini` sees films; {} where it was not run."""
    path = paths.lab_result("real_films")
    found = read_json(path) if path.exists() else {}
    return found.get(profiles.mini().sources.framing, {})


def across_hospitals() -> Evidence:
    """Virtual hospitals that no training saw, against new patients of those that one did."""
    settings = stages.settings(profiles.demo(), DIAGNOSIS)
    path = locations.SHIPPED / f"{DIAGNOSIS}-{key(settings)}" / "metrics.json"
    if not path.exists():
        return Evidence()
    measured = read_json(path)
    seen, unseen = (metrics_of(measured, split)["auc"] for split in ("test", "external"))
    error = math.hypot(*((part["high"] - part["low"]) for part in (seen, unseen)))
    return _normal(
        unseen["value"] - seen["value"],
        error / (2 * metrics.Z95),
        f"AUC {unseen['value']:.2f} at hospitals that no training saw",
        "metrics.json of the demo's diagnosis",
        "one training, PA; other patients there",
    )


def _mean_over(gaps: list[float], widths: list[float]) -> tuple[float, float]:
    """Mean of independent differences and its standard error, from widths of their intervals."""
    n = len(gaps)
    return sum(gaps) / n, math.hypot(*widths) / (2 * metrics.Z95) / n


def _normal(gap: float, error: float, why: str, source: str, caveat: str = "") -> Evidence:
    """Evidence of a difference of AUC with its standard error."""
    low, high = gap - metrics.Z95 * error, gap + metrics.Z95 * error
    p_value = float(2 * stats.norm.sf(abs(gap) / error))
    word = trained_seeds.conclude(gap, low, high, p_value, comparisons.MARGINS["auc"])
    detectable = float(metrics.Z95 + stats.norm.ppf(comparisons.POWER)) * error
    return Evidence(word, (gap, low, high), "AUC", why, detectable, source, caveat)


# the claims

CLAIMS = (
    Claim(
        "the corpus before PCAM against maps after it",
        "5.6.2",
        BETTER,
        "the common feature before PCAM operation achieved best performance",
        MAPS,
    ),
    Claim(
        "a trained backbone against a frozen one",
        "5.6",
        BETTER,
        "it is better to train weights than to freeze them",
        ("frozen backbone",),
    ),
    Claim(
        "12 layers and 12 heads against fewer",
        "5.6.1",
        BETTER,
        "12 layers and 12 heads per layer works the best",
        FEWER_LAYERS,
    ),
    Claim(
        "512 px against 1024 px",
        "5.6",
        BETTER,
        "increasing the resolution of input CXR does rather deteriorate than improve",
        ("1024 px input",),
    ),
    Claim(
        "without SimCLR against with it",
        "5.6",
        EQUIVALENT,
        "the benefit of self-supervised pre-training was not prominent",
        (f"SimCLR: {grid.PROPOSED}",),
    ),
    Claim(
        "maximum against average pooling of a zone",
        "5.6",
        BETTER,
        "the ROI maxpooling method outperforms the ROI average-pooling",
        ("ROI average pooling",),
        SEVERITY,
    ),
    Claim(
        "more hospitals against Brixia alone",
        "5.6",
        BETTER,
        "the performance was detrimental when the institutional datasets are all excluded",
        ("Brixia alone",),
        SEVERITY,
    ),
    Claim(
        "the proposed model against CNNs, diagnosis",
        "5.5",
        BETTER,
        "our model outperformed not only the CNN-base models",
        CNNS,
    ),
    Claim(
        "the proposed model against CNNs, severity",
        "5.5",
        BETTER,
        "for both classification and severity quantification tasks",
        CNNS,
        SEVERITY,
    ),
    Claim(
        "the proposed model against other transformers, diagnosis",
        "5.5",
        BETTER,
        "but also the Transformer-based models in all of the external test datasets",
        TRANSFORMERS,
    ),
    Claim(
        "the proposed model against a CNN that learnt the same findings, diagnosis",
        NOT_IN_PAPER,
        "",
        "",
        (FROM_FINDINGS,),
    ),
    Claim(
        "the proposed model against a CNN that learnt the same findings, severity",
        NOT_IN_PAPER,
        "",
        "",
        (FROM_FINDINGS,),
        SEVERITY,
    ),
    Claim(
        "attention and places against a bag of the same tokens",
        "1",
        BETTER,
        "not only add up the meaning but also consider the location and relationship",
        virtual=of_sweep,
    ),
    Claim(
        "attention against an MLP on the same tokens side by side",
        NOT_IN_PAPER,
        "",
        "",
        virtual=partial(of_sweep, minus=PLACES_OF_SWEEP),
    ),
    Claim(
        "attention and places against a bag of learnt tokens",
        "1",
        BETTER,
        "not only add up the meaning but also consider the location and relationship",
        virtual=partial(of_sweep, "attention_pays_corpus", "the demo's tokens"),
        public=of_probe,
    ),
    Claim(
        "hospitals that no training saw against its own",
        "5.5",
        EQUIVALENT,
        "superb and stable performance in real-world application",
        virtual=across_hospitals,
        public=across_sources,
    ),
)


def carried(paper: str, found: Mapping[str, str], weak: Collection[str] = ()) -> str:
    """Whether a claim holds here, and where.

    Args:
        paper: the word that the paper has; "" where it has none.
        found: our words on it, by the names of IMAGES.
        weak: those where a baseline may not have converged: being better than it shows nothing.

    Returns:
        HOLDS where our word is the paper's, FAILS where it is another one that is decided; with the
        films in words where it is decided on one kind alone. OPEN where it is decided on none,
        NOT_RUN where nothing ran. Where the paper has no word, our word stands in place of both.
        UNPROVEN in place of each where we are better than baselines of `weak`.
    """
    decided = {}
    for images, word in found.items():
        if word in (OPEN, NOT_RUN, NO_ROW):
            continue
        answer = (HOLDS if word == paper else FAILS) if paper else word
        if word == BETTER and images in weak and answer != FAILS:
            answer = UNPROVEN
        decided[IMAGES[images]] = answer
    if not decided:
        return OPEN if OPEN in found.values() else NOT_RUN
    if len(decided) == len(IMAGES) and len(set(decided.values())) == 1:
        return next(iter(decided.values()))
    return "; ".join(f"{answer} on {images}" for images, answer in decided.items())


def claims_table(rows: list[dict[str, Any]] | None = None) -> list[dict[str, Any]]:
    """Every claim with what holds here.

    Args:
        rows: of the grid; None = the recorded ones.

    Returns:
        One dict a claim: `claim`, `section`, `paper` (the paper's word), `quote`, `virtual` and
        `public` (`Evidence`), and `conclusion` (`carried`).
    """
    rows = recorded_grid() if rows is None else rows
    grids = {}
    for images, profile in (("virtual", profiles.demo()), ("public", profiles.mini())):
        grids[images] = (profile, grid_leaves.recorded_rows(profile, rows))
    lines = []
    for claim in CLAIMS:
        found = {}
        for images, (profile, tables) in grids.items():
            reader = claim.virtual if images == "virtual" else claim.public
            found[images] = reader() if reader else evidence_of_grid(claim, profile, tables)
        words = {images: evidence.conclusion for images, evidence in found.items()}
        weak = {images for images, evidence in found.items() if evidence.weak}
        lines.append(
            {
                "claim": claim.name,
                "section": claim.section,
                "paper": claim.paper,
                "quote": claim.quote,
                **found,
                "conclusion": carried(claim.paper, words, weak),
            }
        )
    return lines


def claims_frame(lines: list[Mapping[str, Any]] | None = None) -> pd.DataFrame:
    """`claims_table` as text, for a lesson or a document.

    Args:
        lines: of `claims_table`; None = of the committed files.
    """
    shown = []
    for line in claims_table() if lines is None else lines:
        shown.append(
            {
                "claim": line["claim"],
                "the paper": f"{line['paper']} ({line['section']})" if line["paper"] else NO_ROW,
                **{name: line[images].text for images, name in IMAGES.items()},
                "conclusion": line["conclusion"],
            }
        )
    return pd.DataFrame(shown)


def claim_notes(lines: list[Mapping[str, Any]] | None = None) -> list[str]:
    """What to know of the evidence, once each: a sentence for every claim that ran.

    Args:
        lines: as in `claims_frame`.
    """
    found = []
    for line in claims_table() if lines is None else lines:
        for images, name in IMAGES.items():
            evidence = line[images]
            if evidence.gap is None:
                continue
            seen = ""
            if evidence.detectable is not None:
                seen = f"; smallest difference that it could have seen: {evidence.detectable:.3f}"
            why = "; ".join(filter(None, (evidence.why, evidence.caveat)))
            found.append(f"{line['claim']}, {name}: {why}{seen} ({evidence.source})")
    return found


def claim_legend() -> str:
    """How to read the table: the sign of a difference, the words, the margins."""
    margins = " and ".join(
        f"{margin} {metric.upper()}" for metric, margin in comparisons.MARGINS.items()
    )
    return (
        "A difference is positive where the first of the two is better (a higher AUC, a lower "
        "MSE), beside the closest of several baselines, with its 95 % interval. Better and worse: "
        f"p below {comparisons.SIGNIFICANT}, adjusted for the baselines of a claim (Holm), over "
        f"{comparisons.FEWEST_SEEDS} seeds or more where trainings are compared. Equivalent: the "
        f"interval lies inside a margin of {margins}. Else undecided. {UNPROVEN.capitalize()}: "
        "better than baselines of which one has not converged or learnt nothing."
    )


def compute_split(rows: list[dict[str, Any]] | None = None) -> str:
    """Hours of the recorded trainings of the grid, in all and by table, and of the sweep.

    Args:
        rows: as in `claims_table`. What cells were trained on before is shared, and not counted.

    Returns:
        Sentences, which say so.
    """
    rows = recorded_grid() if rows is None else rows
    hours: dict[str, float] = {}
    for row in rows:
        hours[row["table"]] = hours.get(row["table"], 0.0) + row["seconds"] / 3600
    if not hours:
        return f"The grid was {NOT_RUN}."
    ordered = sorted(hours.items(), key=lambda item: (len(item[0]), item[0]))
    parts = ", ".join(f"{name} {value:.1f}" for name, value in ordered)
    total = sum(hours.values())
    text = (
        f"Hours of training of the {len(rows)} recorded cells: {total:.1f} ({parts}), without what "
        "they share, such as a backbone."
    )
    trials = grid_leaves.recorded_trials()
    if trials:
        hours_of_search = sum(row["seconds"] for row in trials) / 3600
        text += f" Of the search for learning rates: {hours_of_search:.1f}."
    sweeps = [paths.lab_result(name) for name in ("attention_pays", "attention_pays_corpus")]
    found = [read_json(path) for path in sweeps if path.exists()]
    seconds = [one["CPU seconds"] for one in found if "CPU seconds" in one]  # those that ended
    if seconds:
        text += f" Of the sweeps of tokens: {sum(seconds) / 3600:.1f}."
    return text


def recorded_grid() -> list[dict[str, Any]]:
    """The recorded rows of the grid; [] where there are none."""
    return recorded.read_result("grid")["rows"] if "grid" in recorded.result_names() else []
