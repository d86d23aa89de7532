"""The ledger never guesses; the report shows what ran, says what did not, and needs nothing from
outside.
"""

import dataclasses
import os
import re
import time

import nbformat
import numpy as np
import pandas as pd
import pytest

from cxrkit.config import choices, profiles, vocabulary
from cxrkit.config.vocabulary import COLUMNS, ZONES
from cxrkit.evaluation import trained_seeds
from cxrkit.pipeline import stages, task_data
from cxrkit.reproduction import execution, ledger, report, runner
from cxrkit.storage import artifacts, atomic, recorded
from tests.conftest import CHECKOUT
from tests.fakes import trees
from tests.fakes.lessons import FIGURE, code, lesson, markdown

# SPEC 2, read numbers, written out by hand: (quantity, paper).
READ = {
    "severity, external hospital CNUH: MSE": "1.682",
    "severity, external hospital YNU: MSE": "1.677",
    "severity, external hospital KNUH: MSE": "1.607",
    "severity, external hospital CNUH: MAE": "1.028",
    "severity, external hospital YNU: MAE": "1.102",
    "severity, external hospital KNUH: MAE": "0.930",
    "severity, external hospital CNUH: CC": "0.781",
    "severity, external hospital YNU: CC": "0.777",
    "severity, external hospital KNUH: CC": "0.682",
    "severity, external hospital CNUH: R2": "0.572",
    "severity, external hospital YNU: R2": "0.572",
    "severity, external hospital KNUH: R2": "0.432",
    "severity, five readers against their majority: MSE": "1.683",
    "AP films, external hospital CNUH: AUC": ">= 0.800",
    "CheXpert, films kept: PA": "29,420",
    "CheXpert, films kept: AP": "161,427",
    "CheXpert, films in all": "224,316",
    "channels of the corpus, at 16 x 16": "1024",
    # claims of the text (sections 5.5 and 5.6)
    "the proposed model against all others in diagnosis": "better",
    "the proposed model against all others in severity": "better",
    "each part of the proposed model against what replaces it": "better",
    "maximum pooling, and a hospital beside Brixia, against what replaces them": "better",
}


def test_the_ledger_has_the_numbers_of_the_text_and_no_other():
    assert {row.quantity: row.paper for row in ledger.paper_rows() if row.paper} == READ
    beyond = {
        row.status for row in ledger.paper_rows() if row.table == "Beyond the paper" or row.fairness
    }
    assert beyond == {"not in the paper"}
    assert all(
        row.status in ("not available", *beyond) for row in ledger.paper_rows() if not row.paper
    )
    assert all(row.status != "not available" for row in ledger.paper_rows() if row.paper)


def test_every_row_and_key_is_one_of_its_kind():
    rows = ledger.paper_rows()
    assert len({row.key for row in rows}) == len({row.quantity for row in rows}) == len(rows)
    assert {row.table for row in rows} >= {f"Table {i}" for i in range(4, 11)} | {
        f"Figure {i}" for i in range(1, 9)
    }


def test_figures_and_tables_come_in_the_order_of_the_paper():
    seen = list(
        dict.fromkeys(
            row.table for row in ledger.paper_rows() if row.table[:5] in ("Figur", "Table")
        )
    )
    assert seen == [
        "Figure 1",
        "Figure 2",
        "Figure 3",
        "Figure 4",
        "Tables 1 to 3",
        "Table 4",
        "Table 5",
        "Figure 5",
        "Table 6",
        "Figure 6",
        "Figure 7",
        "Table 7",
        "Table 8",
        "Table 9",
        "Table 10",
        "Figure 8",
    ]


def test_what_the_text_says_twice_is_called_contradictory():
    """Its films in all less the lateral ones are not its PA and AP films; its MSEs and its channels
    have two values.
    """
    twice = {
        row.quantity for row in ledger.paper_rows() if row.status == "contradictory in the text"
    }
    assert twice == {
        "CheXpert, films in all",
        "channels of the corpus, at 16 x 16",
        *(f"severity, external hospital {name}: MSE" for name in ("CNUH", "YNU", "KNUH")),
    }
    assert 224_316 - 32_387 != 29_420 + 161_427


def test_every_stage_and_figure_has_a_lesson_that_is_planned():
    assert {lesson for lesson, _ in ledger.LESSON_CALLS.values()} | {
        row.lesson for row in ledger.paper_rows() if row.lesson
    } <= set(report.LESSONS)


def test_tables_1_to_3_count_films_and_groups():
    """By hand: three films of two patients at one site."""
    table = pd.DataFrame(
        {
            "source": "a",
            "view": ["PA", "PA", "AP"],
            "diagnosis": ["normal", "normal", "covid19"],
            "group_id": [1, 1, 2],
        }
    )
    counted = ledger.count_images(table, "diagnosis", list(vocabulary.DIAGNOSES))
    assert counted.to_dict("records") == [
        {"source": "a", "view": "AP", "normal": "-", "other_infection": "-", "covid19": "1 (1)"},
        {"source": "a", "view": "PA", "normal": "2 (1)", "other_infection": "-", "covid19": "-"},
    ]


def test_tables_1_to_3_draw_nothing_and_count_every_task(tmp_path, monkeypatch):
    """Five images of one site and an external one; severity by hand: six zones involved, none, and
    one unknown.
    """
    store, demo = artifacts.Store(tmp_path), profiles.demo()
    assert ledger.dataset_tables(demo, store) == {} and not list(tmp_path.iterdir()), (
        "a report draws nothing"
    )
    images = pd.DataFrame(
        {
            "group_id": [1, 1, 2, 3, 3],
            "view": ["PA", "PA", "PA", "AP", None],
            "external": [False] * 4 + [True],
            "site": ["a"] * 4 + ["b"],
            "dataset": "virtual",
            "diagnosis": ["normal"] * 4 + ["covid19"],
            "pneumonia": 1.0,
            "opacity": [1, 0, 0, 0, 0],
        }
    ).reindex(columns=[*COLUMNS, "external"])
    images.loc[0, list(ZONES)], images.loc[1, list(ZONES)] = 1, 0
    monkeypatch.setattr(task_data, "images_for", lambda *_: images.copy())
    store.folder("cohort", stages.settings(demo, "cohort")).mkdir(parents=True)
    tables = {
        title[:7]: table.set_index(["source", "view"])
        for title, table in ledger.dataset_tables(demo, store).items()
    }
    assert list(tables) == ["Table 1", "Table 2", "Table 3"]
    inside, outside = ("virtual, a", "PA"), ("virtual, b (external)", "unknown")
    assert tables["Table 1"].loc[inside, ["opacity", "pneumonia", "edema"]].tolist() == [
        "1 (1)",
        "3 (2)",
        "-",
    ]
    assert tables["Table 2"].loc[outside].tolist() == ["-", "-", "1 (1)"]
    assert tables["Table 3"].loc[inside].to_dict() == {
        "score 0": "1 (1)",
        "score 6": "1 (1)",
        "unknown": "1 (1)",
    }


def test_ours_stands_beside_the_paper_with_its_interval():
    measured = {
        "severity": {
            "sites": {"CNUH": {"mse": {"value": 1.5, "low": 1.2, "high": 1.8, "n": 90}, "mae": 0.9}}
        }
    }
    lines = {line["quantity"]: line for line in ledger.ledger_table(measured)}
    mse, mae = (
        lines["severity, external hospital CNUH: MSE"],
        lines["severity, external hospital CNUH: MAE"],
    )
    assert (mse["paper"], mse["measured"], mse["interval"]) == ("1.682", 1.5, [1.2, 1.8])
    assert "1.657" in mse["why"] and "3.93" in mse["why"], (
        "the contradiction and the constant guess are shown"
    )
    assert (mae["measured"], mae["interval"]) == (0.9, None)
    assert lines["severity, external hospital YNU: MSE"]["measured"] is None


def words(lines, table):
    return [line["conclusion"] for line in lines if line["table"] == table]


def test_every_row_of_tables_4_to_10_ends_in_a_word():
    """Also where nothing ran; no other table has words."""
    known = {*trained_seeds.CONCLUSIONS, "not run"}
    leaf = {"value": 0.9, "low": 0.8, "high": 0.95}
    measured = ledger.grid_measurements(CHECKOUT / "artifacts", profiles.demo())
    measured |= {"diagnosis_pa": {"sites": {"dogwood": {"auc": leaf}}}}
    for lines in (ledger.ledger_table({}), ledger.ledger_table(measured)):
        for number in range(4, 11):
            found = words(lines, f"Table {number}")
            assert found and set(found) <= known, number
        others = {line["table"] for line in lines} - set(ledger.COMPARED)
        assert {word for table in others for word in words(lines, table)} == {""}
    assert set(words(ledger.ledger_table({}), "Table 7")) == {"not run"}
    ran = [line for line in lines if line["table"] in ("Table 7", "Table 8")]
    assert all(line["conclusion"] != "not run" for line in ran if line["measured"] is not None)


def test_our_own_row_is_the_first_of_each_table_and_is_measured_against_all_others():
    lines = ledger.ledger_table(ledger.grid_measurements(CHECKOUT / "artifacts", profiles.demo()))
    for number in range(7, 11):
        first = next(line for line in lines if line["table"] == f"Table {number}")
        assert "proposed" in first["quantity"] or "without any change" in first["quantity"]
        assert first["measured"] is not None and first["than"] == "all others"
        assert first["gap"][1] <= first["gap"][0] <= first["gap"][2] and first["detectable"] > 0


def test_no_interval_of_an_auc_leaves_0_to_1_in_the_ledger():
    lines = ledger.ledger_table(ledger.measurements(CHECKOUT / "artifacts", profiles.demo()))
    found = [line for line in lines if line["quantity"].endswith(": AUC") and line["interval"]]
    assert len(found) >= 20
    for line in found:
        low, high = line["interval"]
        assert 0 <= low <= line["measured"] <= high <= 1, line["quantity"]


@pytest.mark.parametrize(
    ("metric", "leaf", "word"),
    [
        ("auc", {"value": 0.9, "low": 0.8, "high": 0.95}, "better"),
        ("auc", {"value": 0.5, "low": 0.495, "high": 0.505}, "equivalent"),
        ("auc", {"value": 0.6, "low": 0.45, "high": 0.7}, "undecided"),
        ("auc", {"value": 0.6, "low": None, "high": None}, "undecided"),
        ("sensitivity", {"value": 0.7, "low": 0.65, "high": 0.75}, "worse"),
        ("accuracy", {"value": 0.7, "low": 0.65, "high": 0.75}, "undecided"),
        ("accuracy", {"value": 0.7, "low": 0.67, "high": 0.75}, "better"),
    ],
)
def test_one_training_is_compared_with_a_model_without_skill(metric, leaf, word):
    lines = ledger.ledger_table({"diagnosis_pa": {"sites": {"elm": {metric: leaf}}}})
    line = next(line for line in lines if line["table"] == "Table 4" and line["measured"])
    assert line["conclusion"] == word
    if leaf["low"]:  # by hand: half widths, normal quantiles of 95 % and of four in five
        seen = (1.96 + 0.8416) * (leaf["high"] - leaf["low"]) / 2 / 1.96
        assert line["detectable"] == pytest.approx(seen, abs=1e-6)


def test_an_error_is_compared_with_a_constant_guess_on_the_same_images():
    mse = {"value": 1.5, "low": 1.2, "high": 1.8}
    for guess, word in ((3.0, "better"), (1.0, "worse"), (1.7, "undecided")):
        site = {"mse": mse, "constant": {"mse": {"value": guess}}}
        lines = ledger.ledger_table({"severity": {"sites": {"elm": site}}})
        line = next(line for line in lines if line["quantity"].endswith("CNUH: MSE"))
        assert (line["conclusion"], line["than"]) == (word, "a constant guess")


def test_on_the_papers_own_hospital_the_papers_number_is_the_measure():
    mse = {"value": 1.2, "low": 1.0, "high": 1.4}
    site = {"mse": mse, "constant": {"mse": {"value": 1.1}}}
    lines = ledger.ledger_table({"severity": {"sites": {"CNUH": site}}})
    line = next(line for line in lines if line["quantity"].endswith("CNUH: MSE"))
    assert (line["conclusion"], line["than"]) == ("better", "the paper's number")
    assert line["gap"] == pytest.approx([1.2 - 1.682, 1.0 - 1.682, 1.4 - 1.682])


def test_curves_of_the_grid_are_shown_where_rows_keep_them(tmp_path, monkeypatch):
    """A model at chance without a curve is called so; none is drawn that no row holds."""
    row = {"profile": "demo", "table": "Table 7", "cell": "ViT", "stage": "diagnosis_pa"}
    with monkeypatch.context() as patch:
        patch.setattr(report, "curve_rows", lambda profile: [])
        page = report.write_report("demo", tmp_path).read_text()
        assert "whether a model had converged is not known" in text_of(page)
    kept = {"seed": 0, "curve": "10:0.5 20:0.52", "curve_of": "score", "converged": True}
    monkeypatch.setattr(report.claims, "recorded_grid", lambda: [row | kept, row | {"seed": 1}])
    (found,) = report.curve_rows(profiles.demo())
    assert found["training"] == "converged" and found["svg"].count("<polyline") == 1
    assert report.curve_rows(profiles.mini()) == []


def figure_cells(lesson):
    """Sources of the code cells of a committed lesson."""
    notebook = nbformat.read(CHECKOUT / "notebooks" / f"{lesson}.ipynb", as_version=4)
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@pytest.mark.parametrize("number", range(1, 9))
def test_a_figure_leads_to_its_own_picture(number):
    """One cell of the lesson makes it; Figure 3 has a printed model in place of a picture."""
    row = next(row for row in ledger.paper_rows() if row.key == f"figure{number}")
    lesson, call = ledger.LESSON_CALLS[row.key]
    found = [cell for cell in figure_cells(lesson) if call in cell.source]
    assert lesson == row.lesson and len(found) == 1
    # committed lessons hold films as JPEG (tools/build_notebooks.py)
    kinds = {kind for output in found[0].outputs for kind in output.get("data", {})}
    shown = bool(kinds & {"image/png", "image/jpeg"})
    assert shown == (number != 3)


def test_counts_of_chexpert_come_from_its_table(tmp_path):
    trees.chexpert(tmp_path / "chexpert")
    store = artifacts.Store(tmp_path / "store", data=tmp_path)
    counted = ledger.dataset_counts(profiles.paper(), store)
    lines = {line["quantity"]: line["measured"] for line in ledger.ledger_table(counted)}
    assert lines["CheXpert, films in all"] == 53  # one of them lateral
    pa, ap = (lines[f"CheXpert, films kept: {view}"] for view in ("PA", "AP"))
    assert pa + ap == 52 and pa == ap
    assert ledger.dataset_counts(profiles.paper(), artifacts.Store(tmp_path)) == {}
    assert ledger.dataset_counts(profiles.demo(), store) == {}


def test_the_radiologist_on_duty_is_compared_with_the_majority_of_five(tmp_path):
    """By hand: in the stand-in the majority is the score on duty and one more, so every zone is
    involved, and the duty misses those that it scored 0. The paper's 1.683 is not filled by it.
    """
    trees.brixia_as_downloaded(tmp_path / "brixia")
    missed = []
    for film in sorted((tmp_path / "brixia/dicom/dicom_clean").iterdir()):
        digits = np.random.default_rng(int(film.stem)).integers(0, 4, 6)
        missed.append((int(film.stem), int((digits == 0).sum())))
    first = trees.everyone("brixia:s{}", ("covid19",))[:3]
    expected = np.mean([dict(missed)[number] ** 2 for number, *_ in first])
    found = ledger.readers(profiles.public(), artifacts.Store(tmp_path / "store", data=tmp_path))
    lines = {line["quantity"]: line for line in ledger.ledger_table(found)}
    duty = lines["severity, the radiologist on duty against that majority: MSE"]
    assert duty["measured"] == pytest.approx(expected) and expected > 0
    assert (duty["paper"], duty["status"]) == ("", "not in the paper")
    paper = lines["severity, five readers against their majority: MSE"]
    assert (paper["paper"], paper["measured"]) == ("1.683", None) and "not their" in paper["why"]
    assert ledger.readers(profiles.public(), artifacts.Store(tmp_path / "none")) == {}
    assert ledger.readers(profiles.demo(), artifacts.Store(tmp_path / "s", data=tmp_path)) == {}


def test_fair_rows_are_shown_where_measured_and_ours_stands_among_all():
    leaf = {"value": 0.9, "low": 0.8, "high": 0.95}
    cells = {"proposed": {"auc": leaf}, "densenet_121_from_findings": {"auc": leaf}}
    lines = ledger.ledger_table({"comparison": {"diagnosis": cells}})
    shown = [line for line in lines if line["table"] == "Table 7"]
    assert [line["measured"] for line in shown if line["measured"]] == [0.9, 0.9]
    assert shown[0]["quantity"] == "diagnosis with the proposed model: AUC"
    fair = [line for line in shown if line["status"] == "not in the paper"]
    assert [line["quantity"] for line in fair] == [
        "diagnosis with DenseNet-121, from findings: AUC"
    ]


def test_our_hospital_is_named_beside_its_numbers():
    """The form that the reports of tasks leave; a number that is missing names nobody."""
    leaf = {"value": 0.9, "low": 0.8, "high": 0.95, "n": 60}
    measured = {
        "diagnosis_pa": {
            "sites": {"dogwood": {"auc": leaf, "optimistic": {"accuracy": {"value": 1.0}}}}
        },
        "diagnosis_ap": {"sites": {"elm": {"auc": leaf}}},
    }
    lines = {line["quantity"]: line for line in ledger.ledger_table(measured)}
    first = lines["PA films, external hospital CNUH: AUC"]
    assert (first["measured"], first["interval"], first["why"]) == (
        0.9,
        [0.8, 0.95],
        "ours: dogwood",
    )
    assert (
        lines["AP films, external hospital CNUH: AUC"]["why"]
        == "ours: elm; a bound in the text, no value"
    )
    assert (
        lines["PA films, external hospital CNUH: accuracy"]["measured"] is None
        and not lines["PA films, external hospital CNUH: accuracy"]["why"]
    )


def test_each_hospital_of_the_paper_gets_the_site_of_its_own_name():
    """The paper's order is CNUH, YNU, KNUH, the alphabetical one CNUH, KNUH, YNU; another external
    collection of the run stands beside none of them.
    """
    numbers = {"CNUH": 0.1, "KNUH": 0.2, "YNU": 0.3, "cohen_full": 0.4}
    sites = {
        name: {"auc": {"value": value}, "mse": {"value": value}} for name, value in numbers.items()
    }
    measured = {stage: {"sites": sites} for stage in ("diagnosis_pa", "diagnosis_ap", "severity")}
    lines = {line["quantity"]: line for line in ledger.ledger_table(measured)}
    for name in ("CNUH", "YNU", "KNUH"):
        cells = [
            lines[f"PA films, external hospital {name}: AUC"],
            lines[f"severity, external hospital {name}: MSE"],
        ]
        assert [cell["measured"] for cell in cells] == [numbers[name]] * 2
        assert not any("ours:" in cell["why"] for cell in cells)
    assert lines["AP films, external hospital CNUH: AUC"]["measured"] == numbers["CNUH"]
    del sites["YNU"]
    lines = {line["quantity"]: line for line in ledger.ledger_table(measured)}
    assert lines["severity, external hospital YNU: MSE"]["measured"] is None
    assert lines["severity, external hospital KNUH: MSE"]["measured"] == numbers["KNUH"]


def test_other_sites_stand_in_where_no_hospital_of_the_paper_was_measured():
    sites = {name: {} for name in ("fir", "dogwood", "elm", "yew")}
    beside = ledger.sites_beside_paper({"external": {}, "sites": sites})
    assert beside == {"CNUH": "dogwood", "YNU": "elm", "KNUH": "fir"}
    assert ledger.sites_beside_paper({"test": {}}) == {}


def test_a_paired_difference_is_a_number_with_its_interval_and_its_baseline():
    """The form of `within_source`: the best of the others is named, and what each of them scored is
    left to metrics.json.
    """
    gain = {
        "baseline": "thumbnail",
        "difference": -0.11,
        "low": -0.17,
        "high": -0.06,
        "p_value": 0.005,
        "values": {"thumbnail": 0.91},
    }
    lines = {
        line["quantity"]: line
        for line in ledger.ledger_table(
            {"diagnosis": {"within_source": {"internal": {"PA": {"gain": gain}}}}}
        )
    }
    line = next(
        line
        for quantity, line in lines.items()
        if quantity.startswith("the same, PA, above the best")
    )
    assert (line["measured"], line["interval"], line["why"], line["status"]) == (
        -0.11,
        [-0.17, -0.06],
        "against thumbnail",
        "not in the paper",
    )


@pytest.fixture(scope="module")
def save():
    """Function that stores metrics for a stage; all stages depend on the same two fields here,
    whatever they need in the kit.
    """
    with pytest.MonkeyPatch.context() as patch:
        fields = ("image_size", "choices.resize")
        small = {
            name: dataclasses.replace(stage, fields=fields, upstream=stages.nothing)
            for name, stage in stages.STAGES.items()
        }
        patch.setattr(stages, "STAGES", small)
        # its cells have settings of their own
        patch.setattr(ledger, "grid_measurements", lambda root, profile: {})

        def make(root, stage, profile, metrics):
            return artifacts.Store(root).load_or_make(
                stage,
                stages.settings(profile, stage),
                lambda folder: atomic.write_json(folder / "metrics.json", metrics),
            )

        yield make


def test_measurements_are_of_finished_stages_of_this_profile(save, tmp_path):
    demo = profiles.demo()
    save(tmp_path, "severity", demo, {"sites": {"dogwood": {"mse": 2.0}}})
    save(tmp_path, "severity", profiles.mini(), {"sites": {"dogwood": {"mse": 9.0}}})
    save(
        tmp_path,
        "severity",
        profiles.ablations(demo)["resize=pad"],
        {"sites": {"dogwood": {"mse": 7.0}}},
    )
    half = artifacts.Store(tmp_path).folder("backbone", stages.settings(demo, "backbone"))
    atomic.write_json(half.with_name(half.name + ".part") / "metrics.json", {"auc": 1.0})
    assert ledger.measurements(tmp_path, demo) == {"severity": {"sites": {"dogwood": {"mse": 2.0}}}}


@pytest.fixture(scope="module")
def page(save, tmp_path_factory):
    """report.html after one lesson that ran, one that failed and one stage with metrics."""
    root = tmp_path_factory.mktemp("store")
    source = root / "00_start_here.py"
    source.write_text(lesson(markdown("## Ribs & clavicles"), FIGURE, code("print('unmarked')")))
    runner.run_lesson(source, root / "runs" / "demo", {"profile": "demo"}, 60)
    bad = root / "01_preprocessing.py"
    bad.write_text(lesson(code("1 / 0")))
    with pytest.raises(execution.LessonFailed):
        runner.run_lesson(bad, root / "runs" / "demo", {"profile": "demo"}, 60)
    save(
        root,
        "severity",
        profiles.demo(),
        {"sites": {"dogwood": {"mse": {"value": 1.25, "low": 1.0, "high": 1.5, "n": 1234}}}},
    )
    return report.write_report("demo", root).read_text()


def text_of(page):
    return " ".join(re.sub(r"<style>.*?</style>|<[^>]+>", " ", page, flags=re.S).split())


def test_the_page_needs_nothing_from_outside(page):
    assert not re.findall(
        r"""(?:src|href)=["'](?!data:image/png;base64,|00_start_here.html|01_|#)""", page
    )
    assert (
        "http" not in page
        and "<script" not in page
        and "@import" not in page
        and "url(" not in page
    )


def test_the_page_says_what_it_is(page):
    text = text_of(page)
    assert text.count("Not a diagnostic device") == 2 and "synthetic" in text
    assert "1 of 11 lessons ran" in text and "0 seed" in text


def test_what_ran_what_failed_and_what_did_not_run(page):
    text = text_of(page)
    assert (
        "Not run: 01_preprocessing, 02_backbone, 03_segmentation, 03b_attention, "
        "04_corpus_vit, 05_saliency, 06_severity" in text
    )
    assert re.search(r"00_start_here What the kit is.*? ran \d+ s 0\.\d+ GB", text)
    assert "resize failed" in text and 'href="01_preprocessing.failed.ipynb"' in page
    assert page.count("<figure>") == 1 and "Ribs &amp; clavicles (synthetic)" in page


def test_numbers_stand_with_their_intervals(page):
    text = text_of(page)
    assert (
        "external hospital CNUH: MSE 1.682 ? 1.250 1.000 – 1.500 undecided against a constant "
        "guess ours: dogwood; the same" in text
    )
    assert "external hospital YNU: MSE 1.677 ? not run not run" in text
    assert "PA films, external hospital CNUH: AUC not available not run not run" in text
    assert "sites.dogwood.mse 1.250 1.000 – 1.500 1,234" in text


def test_a_number_leads_to_the_first_cell_that_makes_it(tmp_path):
    """Two cells call the stage: the first counts; its id is an anchor of the lesson's own page,
    which fetches nothing.
    """
    code = [
        nbformat.v4.new_code_cell(text)
        for text in (
            "import cxrkit",
            "a = run.severity.folder",
            "b = run.severity.folder",
        )
    ]
    code[2].metadata["tags"] = ["report"]
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_markdown_cell("# run.severity"), *code]
    )
    page = report.as_html(notebook, tmp_path / "06_severity.ipynb")
    links = report.stage_links(notebook, "runs/06.html")
    assert links == {
        "severity": f"runs/06.html#cell-id={code[1].id}",
        "figure": f"runs/06.html#cell-id={code[2].id}",
    }
    html = page.read_text()
    assert f'id="cell-id={code[1].id}"' in html and not re.findall(
        r"""(?:src|href)=["']https?:""", html
    )
    entries = [
        {"name": "06_severity", "status": "ran", "link": "top", "cells": links},
        {"name": "05_saliency", "status": "failed"},
    ]
    assert report.link_of(entries, "06_severity", "severity") == links["severity"]
    assert (
        report.link_of(entries, "06_severity", "backbone") == "top"
        and report.link_of(entries, "05_saliency", "saliency_benchmark") is None
    )


def test_every_open_choice_stands_with_what_it_changed(monkeypatch):
    """An effect is shown only where a committed result names the choice and its interval."""
    profile = profiles.demo()
    values = choices.OPEN_CHOICES["severity_loss"][1]
    other = next(value for value in values if value != profile.choices.severity_loss)
    row = {
        "table": "choices",
        "cell": f"severity_loss={other}",
        "difference": 0.25,
        "difference_low": 0.1,
        "difference_high": 0.4,
        "metric": "mse",
        "profile": "demo",
        "seed": 0,
    }
    result = {
        "made": {},
        "rows": [
            row,
            {"table": "Table 8", "cell": "proposed"},
            {"table": "choices", "cell": "zone_origin=row0"},
        ],
    }
    monkeypatch.setattr(recorded, "result_names", lambda: ["grid"])
    monkeypatch.setattr(recorded, "read_result", lambda name: result)
    rows = {row["name"]: row for row in report.open_choice_rows(profile)}
    # what has one value is no choice
    several = {name for name, (_, values) in choices.OPEN_CHOICES.items() if len(values) > 1}
    assert set(rows) == several
    assert rows["severity_loss"]["others"] == [
        {
            "value": values[other],
            "effect": "+0.250 [+0.100, +0.400] mse (demo, seed 0)",
        }
    ]
    assert rows["zone_origin"]["others"][0]["effect"] == "not measured"


def test_two_profiles_in_one_store_keep_their_reports(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "context", lambda profile, *_: {"profile": profile.name})
    monkeypatch.setattr(report, "render", lambda values: values["profile"])
    first, second = (report.write_report(name, tmp_path) for name in ("demo", "mini"))
    assert first == tmp_path / "runs" / "demo" / "report.html"
    assert (first.read_text(), second.read_text()) == ("demo", "mini")


def test_a_settings_file_has_a_report_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "context", lambda profile, *_: {"profile": profile})
    monkeypatch.setattr(report, "render", lambda values: str(values["profile"].seed))
    (tmp_path / "ours.yaml").write_text("base: demo\nseed: 7\n")
    page = report.write_report(str(tmp_path / "ours.yaml"), tmp_path)
    assert page == tmp_path / "runs" / "ours" / "report.html" and page.read_text() == "7"


def test_the_page_of_a_lesson_is_made_again_after_it_ran_again(tmp_path):
    """Also where the old page comes from a machine whose clock is ahead."""
    path = tmp_path / "01_preprocessing.ipynb"
    for text in ("first run", "second run"):
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(text)])
        page = report.as_html(notebook, path)
        assert text in page.read_text()
        os.utime(page, (time.time() + 2e5,) * 2)
    made = page.stat().st_mtime_ns
    assert report.as_html(notebook, path).stat().st_mtime_ns == made, "the same notebook"


def test_an_empty_store_gives_a_page_that_says_so(tmp_path):
    text = text_of(report.write_report("mini", tmp_path).read_text())
    assert (
        "0 of 11 lessons ran" in text
        and "cxrkit reproduce --profile mini" in text
        and "synthetic" not in text
    )
    assert "No finished stage in the store belongs to this profile yet" in text


@pytest.mark.parametrize(
    "value, shown",
    [
        (0.12345, "0.123"),
        (1234, "1,234"),
        (None, "undefined"),
        (float("nan"), "undefined"),
        (True, "True"),
        ("none", "none"),
    ],
)
def test_a_number_as_printed(value, shown):
    assert report.number(value) == shown


def test_a_mixture_of_commits_is_seen():
    entries = [
        {"provenance": {"commit": "a", "date": "2026-01-02"}},
        {},
        {"provenance": {"commit": "b", "date": "2026-01-01"}},
    ]
    assert report.origins(entries) == {"commit": ["a", "b"], "date": ["2026-01-01", "2026-01-02"]}


def test_a_profile_whose_numbers_show_nothing_says_so_before_any_of_them(tmp_path):
    page = report.render(report.context(profiles.quick(), tmp_path))
    assert 0 < page.index("No number of this run is a finding") < page.index("<table>")
    assert page.index("Profile quick:") < page.index("<table>")
    measured = report.render(report.context(profiles.demo(), tmp_path))
    assert "No number of this run is a finding" not in measured


def test_profile_values_are_escaped(tmp_path):
    values = report.context(profiles.demo(), tmp_path)
    values["profile"] = dataclasses.replace(values["profile"], name="<b>demo</b>")
    assert "<b>demo</b> profile" not in report.render(values)


def test_what_is_undefined_is_not_called_missing():
    leaf = {"value": None, "low": None, "high": None, "n": 3}
    lines = ledger.ledger_table({"diagnosis_pa": {"sites": {"here": {"auc": leaf}}}})
    row = next(
        line for line in lines if line["quantity"] == "PA films, external hospital CNUH: AUC"
    )
    assert row["measured"] != row["measured"] and row["interval"] is None
    assert row["why"] == "ours: here; undefined: not every class has films there"
