"""The table of claims: every number from a committed file, every word by the rule."""

import json
import math
from dataclasses import replace

import pytest

from cxrkit.config import paths, profiles
from cxrkit.evaluation import trained_seeds
from cxrkit.reproduction import claims, grid, grid_rows, report
from cxrkit.reproduction.grid import DIAGNOSIS, PROPOSED, SEVERITY
from cxrkit.storage import recorded

WORDS = {*trained_seeds.CONCLUSIONS, claims.NOT_RUN, claims.NO_ROW}
STEADY = (-0.001, 0.0, 0.001)  # around a difference, over three seeds


def row(cell, seed, difference, key="other", metric="auc", **more):
    """A recorded row of a cell that differs from the proposed model by so much."""
    stage = cell.stage
    value = 0.8 if metric == "auc" else 2.0
    return {
        "table": cell.table,
        "cell": cell.name,
        "stage": stage,
        "against": cell.against,
        "profile": "demo",
        "seed": seed,
        "key": key,
        "metric": metric,
        "value": value + difference,
        "low": value + difference - 0.05,
        "high": value + difference + 0.05,
        "difference": difference,
        "difference_low": difference - 0.002,
        "difference_high": difference + 0.002,
        **dict.fromkeys(grid_rows.COSTS, 3600.0),
        **more,
    }


def rows_of(differences, **more):
    """Rows of three seeds of every cell; the difference by the name of the cell, otherwise 0."""
    found = []
    for cell in grid.grid_cells(profiles.demo()):
        metric = grid_rows.METRICS[cell.stage][0]
        if cell.name == PROPOSED:
            continue
        for seed, noise in enumerate(STEADY):
            difference = differences.get(cell.name, 0.0) + noise
            found.append(row(cell, seed, difference, metric=metric, **more))
    return found


def line_of(lines, name):
    return next(line for line in lines if line["claim"].startswith(name))


def test_every_claim_has_a_section_a_word_and_cells_that_exist():
    names = {(cell.name, cell.stage) for cell in grid.grid_cells(profiles.demo())}
    for claim in claims.CLAIMS:
        assert {(cell, claim.stage) for cell in claim.cells} <= names
        assert claim.paper in ("", *trained_seeds.CONCLUSIONS)
        assert bool(claim.paper) == bool(claim.quote)
        assert bool(claim.cells) != bool(claim.virtual or claim.public)
    assert len({claim.name for claim in claims.CLAIMS}) == len(claims.CLAIMS)


def test_each_line_ends_in_a_word():
    for line in claims.claims_table():
        for images in claims.IMAGES:
            evidence = line[images]
            assert evidence.conclusion in WORDS
            assert (evidence.gap is None) == (evidence.conclusion in ("not run", "no such row"))
            if evidence.gap:
                value, low, high = evidence.gap
                assert low <= value <= high and evidence.metric in ("AUC", "MSE")
                assert f"{value:+.3f} [{low:+.3f}, {high:+.3f}]" in evidence.text
        assert line["conclusion"]


@pytest.mark.parametrize(
    ("paper", "virtual", "public", "answer"),
    [
        ("better", "better", "better", "holds"),
        ("better", "better", "not run", "holds on virtual hospitals"),
        ("better", "better", "undecided", "holds on virtual hospitals"),
        ("better", "worse", "not run", "does not hold on virtual hospitals"),
        ("better", "equivalent", "worse", "does not hold"),
        (
            "equivalent",
            "equivalent",
            "better",
            "holds on virtual hospitals; does not hold on public films",
        ),
        ("better", "undecided", "not run", "undecided"),
        ("better", "not run", "not run", "not run"),
        ("", "worse", "not run", "worse on virtual hospitals"),
        ("", "worse", "worse", "worse"),
    ],
)
def test_whether_a_claim_is_carried(paper, virtual, public, answer):
    assert claims.carried(paper, {"virtual": virtual, "public": public}) == answer


def test_being_better_than_baselines_that_may_not_have_converged_is_not_enough():
    better = {"virtual": "better", "public": "not run"}
    unproven = f"{claims.UNPROVEN} on virtual hospitals"
    assert claims.carried("better", better, {"virtual"}) == unproven
    assert claims.carried("better", better, {"public"}) == "holds on virtual hospitals"
    worse = {"virtual": "worse", "public": "not run"}
    assert claims.carried("better", worse, {"virtual"}) == "does not hold on virtual hospitals"
    # where the paper has no word, too
    assert claims.carried("", better, {"virtual"}) == unproven
    assert claims.carried("", better) == "better on virtual hospitals"


def test_being_better_than_models_that_learnt_nothing_is_not_enough():
    """A flat curve at chance may be that of a training that has not begun to learn."""
    known = {"converged": True, "curve": "1:0.5 2:0.5 3:0.5 4:0.5", "curve_of": "score"}
    name = "the proposed model against CNNs, diagnosis"
    for gap, answer in ((-0.3, claims.UNPROVEN), (-0.1, "holds")):
        for more in ({}, known):
            rows = rows_of(dict.fromkeys(claims.CNNS, gap), **more)
            found = line_of(claims.claims_table(rows), name)["conclusion"]
            expected = answer if more else claims.UNPROVEN
            assert found == f"{expected} on virtual hospitals"


def test_the_words_follow_the_rows():
    """Baselines that are 0.05 worse, a frozen backbone that is better, SimCLR within the margin; of
    an MSE less is better.
    """
    rows = rows_of(
        dict.fromkeys(claims.CNNS, -0.05)
        | {"frozen backbone": 0.05, "10 weighted maps": -0.02, "ROI average pooling": 0.5},
        converged=True,
    )
    lines = claims.claims_table(rows)
    better = line_of(lines, "the proposed model against CNNs, diagnosis")
    assert better["virtual"].conclusion == "better"
    assert better["virtual"].gap[0] == pytest.approx(0.05)
    assert better["conclusion"] == "holds on virtual hospitals"
    assert line_of(lines, "a trained backbone")["virtual"].conclusion == "worse"
    assert line_of(lines, "a trained backbone")["conclusion"].startswith("does not hold")
    simclr = line_of(lines, "without SimCLR")
    assert simclr["virtual"].conclusion == "equivalent"
    assert simclr["conclusion"] == "holds on virtual hospitals"
    # one of the three maps is worse, the others are equivalent: equivalent, not better
    assert line_of(lines, "the corpus before PCAM")["virtual"].conclusion == "equivalent"
    pooled = line_of(lines, "maximum against average")["virtual"]
    assert pooled.conclusion == "better" and pooled.gap[0] == pytest.approx(0.5)
    on_films = {line["claim"]: line["public"].conclusion for line in lines[:7]}
    assert set(on_films.values()) == {"not run", "no such row"}
    assert line_of(lines, "a trained backbone")["public"].conclusion == "no such row"
    assert line_of(lines, "the corpus before PCAM")["public"].conclusion == "not run"


def test_one_seed_decides_nothing_and_no_row_is_not_run():
    one = [row for row in rows_of({"frozen backbone": -0.2}) if row["seed"] == 0]
    found = line_of(claims.claims_table(one), "a trained")["virtual"]
    assert found.conclusion == "undecided" and found.caveat.startswith("one seed")
    three = line_of(claims.claims_table(rows_of({})), "a trained")["virtual"]
    assert "seed" not in three.caveat and three.why == "3 seeds"
    assert line_of(claims.claims_table([]), "a trained")["virtual"].conclusion == "not run"


def test_baselines_that_nobody_measured_are_counted():
    rows = rows_of({})
    line = line_of(claims.claims_table(rows), "12 layers")
    assert "measured" not in line["virtual"].caveat
    rows = [row for row in rows if row["cell"] != "4 layers, 8 heads"]
    line = line_of(claims.claims_table(rows), "12 layers")
    assert "1 of 2 baselines measured" in line["virtual"].caveat
    assert line["virtual"].conclusion == "undecided"


def test_a_baseline_at_chance_is_named_with_what_is_known_of_its_training():
    known = {"converged": True, "curve": "1:0.5 2:0.5 3:0.5 4:0.5", "curve_of": "score"}
    for more, text in (({}, "no curve kept"), (known, "converged")):
        lines = claims.claims_table(rows_of({"ResNet-152": -0.3}, **more))
        caveat = line_of(lines, "the proposed model against CNNs, diagnosis")["virtual"].caveat
        assert f"ResNet-152 at chance, {text}" in caveat
        assert ("ResNet-50, DenseNet-121 no curve kept" in caveat) == (text == "no curve kept")
    still = rows_of({}, **known | {"converged": False})
    caveat = line_of(claims.claims_table(still), "the proposed model against CNNs")[
        "virtual"
    ].caveat
    assert caveat.endswith("baselines: not converged")


def test_better_than_baselines_of_which_no_curve_was_kept_shows_nothing_in_either_task():
    """An AUC at chance is not the only sign of a training that was too short."""
    for task, stage, gap in (("diagnosis", DIAGNOSIS, -0.2), ("severity", SEVERITY, 0.5)):
        rows = rows_of(dict.fromkeys(claims.CNNS, gap))
        table = claims.claims_table([row for row in rows if row["stage"] == stage])
        line = line_of(table, f"the proposed model against CNNs, {task}")
        assert line["virtual"].conclusion == "better" and line["virtual"].weak
        assert line["virtual"].caveat.endswith("; baselines: no curve kept")
        assert line["conclusion"] == f"{claims.UNPROVEN} on virtual hospitals"


def test_rows_of_an_earlier_version_say_so_and_give_way_to_own_ones():
    old = rows_of({"frozen backbone": -0.2}, hospitals=2)
    evidence = line_of(claims.claims_table(old), "a trained")["virtual"]
    assert "version 2" in evidence.caveat and "version 2" in claims.grid_note(old)
    own = []
    for seed, noise in enumerate(STEADY):
        for cell in grid.grid_cells(replace(profiles.demo(), seed=seed)):
            if cell.name == PROPOSED or cell.stage != grid.DIAGNOSIS:
                continue
            own.append(row(cell, seed, 0.1 + noise, key=cell.key, hospitals=3))
    last = next(i for i, one in enumerate(own[::-1]) if one["cell"] == "frozen backbone")
    lines = claims.claims_table([*old, *own[: -1 - last], *own[len(own) - last :]])
    assert "version 2" in line_of(lines, "a trained")["virtual"].caveat, "it has two seeds"
    assert "version" not in line_of(lines, "12 layers")["virtual"].caveat, "others have three"
    assert "1 of " in claims.grid_note([*old, *own[: -1 - last], *own[len(own) - last :]])
    lines = claims.claims_table([*old, *own])
    evidence = line_of(lines, "a trained")["virtual"]
    assert evidence.gap[0] == pytest.approx(-0.1) and "version" not in evidence.caveat
    severity = line_of(lines, "maximum against average")["virtual"]
    assert "version 2" in severity.caveat, "the other task keeps the older rows"


def test_the_line_of_the_sweep_is_that_of_its_file():
    found = json.loads(paths.lab_result("attention_pays").read_text())
    (wanted,) = [
        one
        for one in found["differences"]
        if one["minus"] == claims.BAG_OF_SWEEP
        and all(one[name] == value for name, value in claims.USUAL.items())
    ]
    (learnt,) = [claim for claim in claims.CLAIMS if "learnt" in claim.name and claim.virtual]
    tokens = "the demo's tokens"
    assert claims.of_sweep("attention_pays_corpus", tokens) == learnt.virtual()
    assert learnt.virtual().source == "docs/lab/attention_pays_corpus.json"
    evidence = claims.of_sweep()
    assert evidence.gap == (wanted["difference"], wanted["low"], wanted["high"])
    assert evidence.conclusion == wanted["conclusion"]


@pytest.fixture
def lab(tmp_path, monkeypatch):
    """Function that puts a result in the place of docs/lab."""
    monkeypatch.setattr(paths, "lab_result", lambda name: tmp_path / f"{name}.json")

    def put(name, content):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))

    return put


def test_where_the_files_are_missing_nothing_ran(lab):
    for reader in (claims.of_sweep, claims.of_probe, claims.across_sources):
        assert reader().conclusion == "not run"
    lab("attention_pays", {"rows": []})
    assert claims.of_sweep().conclusion == "not run"


def test_sources_that_no_training_saw_by_hand(lab):
    """Two sources, 0.9 and 0.8 inside, 0.6 and 0.7 across: -0.2 in the mean. Each of the four has a
    width of 0.04: the half width is 0.02 times the root of 4, over 2.
    """

    def pair(source, value):
        interval = {"value": value, "low": value - 0.02, "high": value + 0.02}
        gap = {"difference": 0.01, "low": -0.01, "high": 0.03, "p_value": 0.3}
        return {"source": source, "corpus ViT": interval, "minus linear probe": gap}

    found = {
        "inside": {"pairs": [pair("a", 0.9), pair("b", 0.8)]},
        "across": {"pairs": [pair("a", 0.6), pair("b", 0.7)], "mean": {"corpus ViT": 0.65}},
    }
    lab("real_films", {"whole": {}, profiles.mini().sources.framing: found})
    evidence = claims.across_sources()
    assert evidence.gap == pytest.approx((-0.2, -0.22, -0.18))
    assert evidence.conclusion == "worse" and "0.65" in evidence.why
    assert evidence.detectable == pytest.approx(0.02 * 2.8016 / 1.96, abs=1e-4)
    probe = claims.of_probe()  # 0.01 with half widths of 0.02: 0.02 / root of 2
    assert probe.gap == pytest.approx((0.01, 0.01 - 0.02 / 2**0.5, 0.01 + 0.02 / 2**0.5))
    assert probe.conclusion == "undecided"


def test_hours_are_those_of_the_rows(lab):
    rows = rows_of({})
    count = len(rows)
    text = claims.compute_split(rows)
    assert f"of the {count} recorded cells: {count:.1f} (" in text and "Table 10" in text
    assert claims.compute_split([]) == "The grid was not run."
    lab("attention_pays", {"CPU seconds": 7200})
    assert "sweeps of tokens: 2.0" in claims.compute_split(rows)
    lab("attention_pays_corpus", {"CPU seconds": 1800})
    assert "sweeps of tokens: 2.5" in claims.compute_split(rows)


def test_the_frame_and_the_notes_hold_every_number():
    lines = claims.claims_table()
    frame, notes = claims.claims_frame(lines), claims.claim_notes(lines)
    assert frame["claim"].tolist() == [claim.name for claim in claims.CLAIMS]
    ran = [line[images] for line in lines for images in claims.IMAGES if line[images].gap]
    assert len(notes) == len(ran)
    for evidence, note in zip(ran, notes, strict=True):
        assert evidence.source in note and evidence.caveat in note
        if evidence.detectable is not None:
            assert f"{evidence.detectable:.3f}" in note and math.isfinite(evidence.detectable)


def test_the_report_shows_them_first(tmp_path):
    page = report.write_report("mini", tmp_path).read_text()
    assert "seen from undefined" not in page  # the rows of mini are of one seed
    start, end = page.index("claims, and what holds here"), page.index("<h2>Lessons</h2>")
    assert start < end
    for line in claims.claims_table():
        assert line["claim"] in page[start:end]
        for images in claims.IMAGES:
            if line[images].gap:
                assert report.gap_text(line[images].gap) in page[start:end]


def test_the_committed_rows_of_the_grid_say_what_they_were_evaluated_on():
    rows = recorded.read_result("grid")["rows"]
    assert {row["stage"] for row in rows} == {DIAGNOSIS, SEVERITY}
    for row in rows:
        if row["profile"] == "mini":  # real films: the same ones in every seed, by folds
            assert row["by_folds"] and row["same_patients"] and "hospitals" not in row
        else:
            assert row["hospitals"] >= 1
