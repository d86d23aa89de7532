"""The reading room without a kernel: what it keeps, what it says against the stages' own
predictions, and what its pages answer.
"""

from dataclasses import replace

import cv2
import numpy as np
import pandas as pd
import pytest

from cxrkit.config.vocabulary import DIAGNOSES, ZONES
from cxrkit.data import lung_zones
from cxrkit.data.images import ImageError
from cxrkit.evaluation import metrics
from cxrkit.explain import deep_taylor
from cxrkit.pipeline import stages
from cxrkit.reading_room import figures, layout, pages, quiz
from cxrkit.reading_room.edits import EDITS
from cxrkit.reading_room.figures import State
from cxrkit.reading_room.state import alike, real_films, rezone
from cxrkit.tasks import diagnosis, severity
from tests.fakes import rooms


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    folder = tmp_path_factory.mktemp("store")
    rooms.fill(folder)
    return rooms.room(folder)


@pytest.fixture(scope="module")
def case(room):
    return next(iter(room.cases.values()))


@pytest.fixture
def followed(room):
    return next(case for case in room.cases.values() if len(room.visits(case)) == 3)


def png(pixels):
    return cv2.imencode(".png", pixels)[1].tobytes()


# the list


def test_the_list_shows_unseen_hospitals_and_tells_no_diagnosis(room):
    rows = pd.concat([case.row for case in room.cases.values()])
    assert rows["external"].all() and not rows["path"].duplicated().any()
    assert not [
        name
        for name in room.cases
        if any(word in name for word in (*DIAGNOSES, "covid", "severity"))
    ]


def test_visits_of_a_patient_come_in_order(room, followed, case):
    visits = room.visits(followed)
    assert [visit.visit for visit in visits] == sorted(
        visit.visit for visit in visits
    ) and followed in visits
    assert {visit.patient for visit in visits} == {followed.patient}


def test_real_films_bring_a_second_reader_and_say_that_they_are_real(room, mirror):
    cases = real_films(mirror, 2)
    assert [case.origin for case in cases] == ["real", "real"]
    truth = room.truth(cases[0])
    assert (
        set(np.unique(truth.array)) <= {0, 1}
        and set(np.unique(truth.second)) <= {0, 1}
        and truth.lesion is None
    )
    room.cases[cases[0].name] = cases[0]
    for panel in figures.PANELS:
        assert "research use only" in texts(
            figures.draw(room, State(panel, cases[0].name, truth=True))
        )
    assert not np.isnan(quiz.mark(room, cases[0].name, "Ada", "covid19", set())["reader_zones"])
    del room.cases[cases[0].name]


# what it says, against the way the stages say it


def test_the_room_says_what_the_stages_predict(room, case):
    """Second path: the dataset, its cache and the tasks' own `predict`."""
    reading = room.read(case)
    told = diagnosis.predict(room.models[case.view], case.row, room.profile, room.store)
    np.testing.assert_allclose(
        told[diagnosis.PROBABILITIES].to_numpy()[0], reading.diagnosis, atol=1e-5
    )
    masked = stages.masks(room.profile, case.row.reset_index(drop=True), room.store)
    graded = severity.arrays_of(room.severity, masked, room.profile, room.store)
    np.testing.assert_allclose(graded[0], reading.array, atol=1e-5)
    assert reading.severity == pytest.approx(reading.array.sum())


def test_relevance_and_attention_are_those_of_the_model(room, case):
    reading, vit = room.read(case), room.models[case.view].transformer
    for layer in (0, 1):
        expected = deep_taylor.relevance(vit, reading.corpus, [0, 1, 2], layer)[0].numpy()
        np.testing.assert_allclose(room.relevance(case, start_layer=layer), expected, atol=1e-6)
    assert reading.attention.shape == (2, 2, 17, 17) and reading.tokens.shape == (3, 17, 32)
    np.testing.assert_allclose(reading.attention.sum(-1), 1, atol=1e-5)


def test_a_film_goes_through_the_models_once(room, case, monkeypatch):
    first = room.read(case)
    monkeypatch.setattr(type(room), "look", lambda *_: pytest.fail("computed again"))
    assert room.read(case) is first and room.read(case, cell=(2, 2)) is first


def test_alike_is_the_cosine_by_a_slow_loop():
    tokens = np.random.default_rng(0).normal(size=(2, 1 + 6, 5))
    found = alike(tokens, (1, 2), (2, 3))
    for n in range(2):
        own = tokens[n, 1 + 5]
        for i in range(6):
            other = tokens[n, 1 + i]
            assert found[n, i // 3, i % 3] == pytest.approx(
                own @ other / np.linalg.norm(own) / np.linalg.norm(other)
            )


def test_rezone_with_the_papers_lines_gives_the_array_and_with_others_moves_it(room, case):
    lung, heat = np.zeros((64, 64), bool), np.zeros((64, 64), np.float32)
    lung[4:60, 6:28] = lung[4:60, 36:58] = True
    heat[30, 10] = 0.9  # row 30 of lungs from 4 to 59: 47 % of the height, the middle zone
    reading = vars(room.read(case)) | {"lungs": lung, "severity_map": heat}
    reading = type(room.read(case))(**reading)
    assert rezone(reading, lung_zones.CUTS)[1][1, 0] == pytest.approx(0.9) and rezone(
        reading, (0.6, 0.8)
    )[1][0, 0] == pytest.approx(0.9)
    zones, array = rezone(reading, lung_zones.CUTS)
    np.testing.assert_array_equal(zones, lung_zones.zones(lung[None])[0])
    assert array.sum() == pytest.approx(0.9)


def test_calibration_counts_unseen_films(room):
    table = room.calibration("PA", "covid19")
    away = room.judged["PA"].query("external")
    assert table["n"].tolist() == [0, len(away), 0, 0, 0]  # all say one third
    assert table["observed"][1] == pytest.approx((away["diagnosis"] == "covid19").mean())
    np.testing.assert_array_equal(
        table["n"], metrics.reliability(np.zeros(len(away)), away["p_covid19"], 5)["n"]
    )


# edits


def test_edits_change_what_they_say_and_nothing_else():
    pixels = np.random.default_rng(0).integers(60, 120, (64, 64), dtype=np.uint8)
    lung, cell, box = (
        np.zeros((64, 64), bool),
        (slice(16, 32), slice(0, 16)),
        (slice(2, 10), slice(2, 20)),
    )
    lung[10:50, 10:50] = True
    changed = {}
    for name, edit in EDITS.items():
        if edit:
            after = pixels.copy()
            edit(after, lung, cell, box)
            changed[name] = after != pixels
    assert (
        not (changed["erase the lungs"] & ~lung).any()
        and not (changed["erase all but the lungs"] & lung).any()
    )
    assert (
        changed["erase the lungs"][lung].mean() > 0.9
        and changed["erase all but the lungs"][~lung].mean() > 0.9
    )
    assert (
        changed["erase the framed cell"][cell].mean() > 0.9
        and changed["erase the framed cell"].sum() <= 256
    )
    assert not changed["erase the marker"][10:].any() and changed["erase the marker"][box].any()
    assert (
        changed["paint the marker R ICU"].any() and not changed["paint the marker R ICU"][32:].any()
    )


def test_an_edit_reaches_the_models_and_leaves_the_film(room, case):
    before = case.pixels.copy()
    for edit in list(EDITS)[1:]:
        room.read(case, edit, (1, 1))
    assert np.array_equal(case.pixels, before)
    assert not np.allclose(
        room.read(case, "erase the framed cell", (1, 1)).diagnosis,
        room.read(case).diagnosis,
        atol=1e-6,
    )
    one, other = (room.read(case, "erase the framed cell", cell).shown for cell in ((0, 0), (3, 3)))
    assert not np.array_equal(one, other)
    with pytest.raises(ValueError, match="unknown edit"):
        room.read(case, "paint a moustache")


# uploads


def test_an_uploaded_film_joins_the_list_with_warnings(room):
    noise = np.random.default_rng(0).integers(0, 256, (300, 200), dtype=np.uint8)
    case = room.upload("../../mine.png", png(noise), "AP")
    assert (
        room.cases[case.name] is case
        and case.view == "AP"
        and case.origin == "yours"
        and case.notes
    )
    assert np.array_equal(case.pixels, noise) and room.truth(case).diagnosis is None
    for panel in figures.PANELS:
        figures.draw(room, State(panel, case.name, truth=True))
    assert "virtual films alone" in figures.summary(room, State(film=case.name))
    del room.cases[case.name]


def test_names_and_notes_of_a_file_are_shown_as_they_are(room):
    """Dollars are no formula and angle brackets no HTML: both come from outside."""
    case = room.upload(
        "a$b_{, <b>.png", png(np.random.default_rng(0).integers(0, 256, (90, 90), dtype=np.uint8))
    )
    room.cases[case.name] = case = replace(case, notes=("<script>x</script>",))
    for panel in ("follow-up", "prediction"):
        assert layout.picture(figures.draw(room, State(panel, case.name)))
    assert "<script>" not in figures.summary(room, State(film=case.name))
    del room.cases[case.name]


@pytest.mark.parametrize(
    "content",
    [b"", b"no image", png(np.zeros((80, 80), np.uint8)), png(np.eye(80, dtype=np.uint8) * 9)[:60]],
)
def test_a_broken_file_is_refused_by_its_own_name(room, content):
    before = list(room.cases)
    with pytest.raises(ImageError, match="^broken.png"):
        room.upload("broken.png", content)
    assert list(room.cases) == before


# panels


def texts(figure):
    return " ".join(
        text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text"))
    )


@pytest.mark.parametrize("panel", figures.PANELS)
def test_every_panel_says_what_it_is(room, followed, panel):
    figure = figures.draw(room, State(panel, followed.name, truth=True))
    said = texts(figure)
    assert (
        "synthetic" in said
        and "Not a diagnostic device" in said
        and followed.name in said
        and "5 cm" in said
    )
    assert (
        layout.picture(figure)[:2] == b"\xff\xd8"
        and layout.picture(figure, "png")[:4] == b"\x89PNG"
    )
    assert b"<svg" in layout.picture(figure, "svg")


@pytest.mark.parametrize(
    "panel, change",
    [
        ("findings", {"finding": "edema"}),
        ("tokens", {"cell": (0, 0)}),
        ("attention", {"layer": 1}),
        ("attention", {"cell": (0, 0)}),
        ("relevance", {"layer": 1}),
        ("severity", {"threshold": 0.1}),
        ("zone lines", {"lines": (0.2, 0.5)}),
        ("prediction", {"disease": "normal"}),
        ("prediction", {"edit": "erase the lungs"}),
        ("prediction", {"truth": True}),
        ("preprocessing", {"edit": "paint the marker R ICU"}),
    ],
)
def test_every_control_changes_the_picture(room, case, panel, change):
    state = {"film": case.name, "panel": panel}
    assert layout.picture(figures.draw(room, State(**state))) != layout.picture(
        figures.draw(room, State(**state | change))
    )


def test_truth_is_shown_on_demand_alone(room, case):
    true = figures.NAMES[room.truth(case).diagnosis]
    assert f"{true} (true)" in texts(figures.draw(room, State("prediction", case.name, truth=True)))
    assert "true" not in texts(figures.draw(room, State("prediction", case.name))) + texts(
        figures.draw(room, State("severity", case.name))
    )


def test_unknown_names_are_refused_with_the_known_ones(room):
    for state in (State("x-ray vision"), State(film="film 99"), State(edit="none")):
        with pytest.raises(ValueError, match="known"):
            figures.draw(room, state)


def test_tinted_mixes_film_and_colour_by_alpha():
    image = np.full((2, 2), 100, np.uint8)
    assert (layout.tinted(image, np.zeros((2, 2)), "magma", 0, 1, 0.0) == 100).all()
    whole = layout.tinted(image, np.array([[0, 1], [-3, 9]]), "viridis", 0, 1, np.ones((2, 2)))
    assert whole[0, 0].tolist() == whole[1, 0].tolist() == [68, 1, 84] and whole[
        0, 1
    ].tolist() == whole[1, 1].tolist() == [253, 231, 36]


# the quiz


def test_an_answer_is_marked_by_hand(room):
    name = quiz.films(room)[0]
    truth = room.truth(room.cases[name])
    six = np.concatenate([truth.array[:, 0], truth.array[:, 1]])
    right = quiz.mark(
        room,
        name,
        "  Ada   L ",
        truth.diagnosis,
        {zone for zone, ill in zip(ZONES, six, strict=True) if ill},
    )
    assert (
        right["player"] == "Ada L" and right["diagnosis"] == right["true"] and right["zones"] == 1
    )
    assert right["severity"] == right["true_severity"] == six.sum()
    wrong = quiz.mark(
        room,
        name,
        "Bob",
        truth.diagnosis,
        {zone for zone, ill in zip(ZONES, six, strict=True) if not ill},
    )
    assert wrong["zones"] == 0 and np.isnan(wrong["reader_zones"])
    for bad in (("", "normal", set()), ("Eve", "flu", set()), ("Eve", "normal", {"rxl"})):
        with pytest.raises(ValueError):
            quiz.mark(room, name, *bad)


def test_answers_of_a_class_are_kept_apart_and_scored(room, tmp_path):
    names = quiz.films(room)
    assert len({room.cases[name].patient for name in names}) == len(names)
    for player, guess in (
        ("Ada", "covid19"),
        ("../Bob", "normal"),
        ("=SUM(A1)", "normal"),
        ("Ada", "normal"),
    ):
        quiz.keep(tmp_path, quiz.mark(room, names[0], player, guess, set()))
    rows = quiz.answers(tmp_path)
    # Ada's second answer took the place of her first
    assert len(rows) == 3 and len(list(tmp_path.iterdir())) == 3
    assert rows.set_index("player").loc["Ada", "diagnosis"] == "normal" and "'=SUM(A1)" in set(
        rows["player"]
    )
    table = quiz.standings(rows)
    assert table.loc["Ada", "diagnosis"] == float(
        room.truth(room.cases[names[0]]).diagnosis == "normal"
    )
    assert table.loc["the model", "films"] == 1 and "the second reader" not in table.index


def test_the_second_reader_stands_beside_the_model_where_there_is_one(room):
    row = quiz.mark(room, quiz.films(room)[0], "Ada", "normal", set())
    table = quiz.standings(
        pd.DataFrame(
            [
                row,
                {
                    **row,
                    "film": "real 1",
                    "reader_zones": 0.5,
                    "reader_severity": row["true_severity"] + 2,
                },
            ]
        )
    )
    assert (
        table.loc["the second reader", ["films", "zones", "severity"]].tolist() == [1, 0.5, 2]
        and table.loc["Ada", "films"] == 2
    )


# pages


def test_the_page_follows_its_controls(room, followed):
    page = pages.ReadingRoom(room)
    moves = {
        "panel": "attention",
        "row": 3,
        "layer": 2,
        "truth": True,
        "edit": "erase the lungs",
        "film": followed.name,
    }
    for name, value in moves.items():
        before = page.picture.value
        page.knobs[name].value = value
        assert page.message.value == "" and (page.picture.value != before or name == "truth")
    page.frame(3, 1)
    assert (
        page.state.cell == (3, 1)
        and page.cells.children[3 * room.grid[1] + 1].button_style == "warning"
    )
    page.turn(1)
    page.turn(-1)
    assert page.state.film == followed.name
    page.knobs["visit"].value = 3
    assert page.state.film == room.visits(followed)[2].name
    page.knobs["beside"].value = next(iter(room.cases))
    assert page.beside.value and page.beside.layout.display is None
    shown = {name for name, knob in page.knobs.items() if knob.layout.display != "none"}
    assert {"row", "column", "layer"} <= shown and not {"threshold", "lines", "visit"} & shown


def test_the_page_survives_a_broken_upload_and_takes_a_sound_one(room):
    page = pages.ReadingRoom(room)
    before = page.picture.value
    page._uploaded({"name": "<b>x</b>.png", "content": memoryview(b"nonsense")})
    assert "&lt;b&gt;x" in page.message.value and page.picture.value == before
    page._uploaded(
        {
            "name": "mine.png",
            "content": memoryview(
                png(np.random.default_rng(1).integers(0, 256, (90, 90), dtype=np.uint8))
            ),
        }
    )
    assert (
        page.state.film == "yours: mine.png, PA"
        and page.message.value == ""
        and page.picture.value != before
    )
    del room.cases["yours: mine.png, PA"]


def test_an_error_is_shown_and_the_picture_stays(room, monkeypatch):
    page = pages.ReadingRoom(room)
    before = page.picture.value
    monkeypatch.setattr(figures, "draw", lambda *_: 1 / 0)
    page.knobs["panel"].value = "lungs"
    assert "division by zero" in page.message.value and page.picture.value == before


@pytest.mark.parametrize(
    "kind, begin", [("png", "data:image/png;base64,iVBOR"), ("svg", "data:image/svg+xml;base64,")]
)
def test_saving_offers_a_file(room, kind, begin):
    page = pages.ReadingRoom(room)
    page.kind.value = kind
    page.save()
    assert begin in page.saved.value and f'.{kind}"' in page.saved.value


def test_the_quiz_page_scores_and_exports(room, tmp_path):
    page = pages.QuizPage(room, tmp_path)
    page.mark()
    assert "who answers" in page.message.value and page.table.value == ""
    page.player.value, page.guess.value = "<i>Ada</i>", "covid19"
    page.zones["rll"].value = True
    page.mark()
    assert (
        "the model says" in page.message.value
        and "the model" in page.table.value
        and "<i>" not in page.table.value
    )
    assert "data:text/csv;base64," in page.saved.value and quiz.answers(tmp_path)[
        "rll"
    ].tolist() == [1]
    page.number.value = 2
    assert page.message.value == "" and not page.zones["rll"].value
