"""The reading room without a kernel: what it keeps, what it says against the stages' own
predictions, and what its pages answer.
"""

from dataclasses import replace

import cv2
import numpy as np
import pandas as pd
import pytest
import torch

from cxrkit import reading_room
from cxrkit.config.vocabulary import DIAGNOSES, SECOND, ZONES
from cxrkit.data import lung_zones
from cxrkit.data.images import ImageError
from cxrkit.evaluation import metrics
from cxrkit.explain import deep_taylor
from cxrkit.reading_room import figures, layout, pages, quiz
from cxrkit.reading_room.edits import EDITS
from cxrkit.reading_room.figures import PanelState
from cxrkit.reading_room.state import real_samples, rezone, token_similarity
from cxrkit.tasks import diagnosis
from cxrkit.tasks.diagnosis import PROBABILITIES
from cxrkit.training.devices import device_of
from tests.fakes import rooms
from tests.fakes.card import CARD, Card


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    folder = tmp_path_factory.mktemp("store")
    rooms.fill(folder)
    return rooms.room(folder)


@pytest.fixture(scope="module")
def sample(room):
    return next(iter(room.samples.values()))


@pytest.fixture
def followed(room):
    return next(sample for sample in room.samples.values() if len(room.visits(sample)) == 3)


def png(pixels):
    return cv2.imencode(".png", pixels)[1].tobytes()


# the list


def test_the_list_shows_external_hospitals_and_tells_no_diagnosis(room):
    rows = pd.concat([sample.row for sample in room.samples.values()])
    assert rows["external"].all()
    assert not rows["path"].duplicated().any()
    for name in room.samples:
        assert not any(word in name for word in (*DIAGNOSES, "covid", "severity"))


def test_visits_of_a_patient_come_in_order(room, followed, sample):
    visits = room.visits(followed)
    numbers = [visit.visit for visit in visits]
    assert numbers == sorted(numbers)
    assert followed in visits
    assert {visit.patient_id for visit in visits} == {followed.patient_id}


def test_real_images_bring_a_second_reader_and_say_that_they_are_real(room, mirror):
    samples = real_samples(mirror, 2)
    assert [sample.origin for sample in samples] == ["real", "real"]
    first = samples[0]
    truth = room.truth(first)
    assert set(np.unique(truth.severity_array)) <= {0, 1}
    assert set(np.unique(truth.second_array)) <= {0, 1}
    assert truth.lesion_mask is None
    room.samples[first.name] = first
    for panel in figures.PANELS:
        figure = figures.draw_panel(room, PanelState(panel, first.name, truth=True))
        assert "research use only" in texts(figure)
    row = quiz.grade_answer(room, first.name, "Ada", "covid19", set())
    assert not np.isnan(row["reader_zones"])
    del room.samples[first.name]


# what it predicts, against the way the stages predict it


def test_the_room_predicts_what_the_stages_predict(room, sample):
    """Second path: the dataset, its cache and the tasks' own `predict`, calibrated."""
    prediction = room.predict(sample)
    rows = sample.row.reset_index(drop=True)
    diagnosed = room.diagnoses[sample.view].task.predict(room.models[sample.view], rows)
    temperature = room.diagnoses[sample.view].metrics["temperature"]
    head = room.profile.choices.class_head
    expected = diagnosis.calibrated(diagnosed, temperature, head)[PROBABILITIES].to_numpy()[0]
    np.testing.assert_allclose(expected, prediction.diagnosis, atol=1e-5)
    masked = room.run.with_masks(rows)
    arrays = room.run.severity.task.arrays(room.severity_model, masked)
    np.testing.assert_allclose(arrays[0], prediction.severity_array, atol=1e-5)
    assert prediction.severity == pytest.approx(prediction.severity_array.sum())


def test_relevance_and_attention_are_those_of_the_model(room, sample):
    prediction, vit = room.predict(sample), room.models[sample.view].transformer
    for layer in (0, 1):
        expected = deep_taylor.relevance(vit, prediction.corpus, [0, 1, 2], layer)[0].numpy()
        np.testing.assert_allclose(room.relevance(sample, start_layer=layer), expected, atol=1e-6)
    assert prediction.attention.shape == (2, 2, 17, 17)
    assert prediction.tokens.shape == (3, 17, 32)
    np.testing.assert_allclose(prediction.attention.sum(-1), 1, atol=1e-5)


def test_an_image_goes_through_the_models_once(room, sample, monkeypatch):
    first = room.predict(sample)
    monkeypatch.setattr(type(room), "predict_pixels", lambda *_: pytest.fail("computed again"))
    assert room.predict(sample) is first
    assert room.predict(sample, cell=(2, 2)) is first


def test_models_on_another_device_predict_the_same(room, sample):
    """On the stand-in for a graphics card, which refuses tensors that lie apart."""
    expected = room.predict(sample)
    relevance = room.relevance(sample)
    networks = [*room.models.values(), room.backbone, room.severity_model, room.segmenter.network]
    with Card():
        try:
            for network in networks:
                network.to(CARD)
            assert {device_of(network) for network in networks} == {CARD}
            found = room.predict_pixels(sample.pixels, sample.view)
            again = room._relevance(sample, "nothing", None, 0)
            upload = room.upload("card.png", png(sample.pixels))
        finally:
            for network in networks:
                network.cpu()
    for name, value in vars(expected).items():
        np.testing.assert_allclose(vars(found)[name], value, atol=1e-5, err_msg=name)
    assert found.corpus.device == torch.device("cpu")
    np.testing.assert_allclose(again, relevance, atol=1e-6)
    del room.samples[upload.name]


def test_token_similarity_is_the_cosine_by_a_slow_loop():
    tokens = np.random.default_rng(0).normal(size=(2, 1 + 6, 5))
    found = token_similarity(tokens, (1, 2), (2, 3))
    for n in range(2):
        own = tokens[n, 1 + 5]
        for i in range(6):
            other = tokens[n, 1 + i]
            assert found[n, i // 3, i % 3] == pytest.approx(
                own @ other / np.linalg.norm(own) / np.linalg.norm(other)
            )


def test_rezone_with_the_papers_lines_gives_the_array_and_with_others_moves_it(room, sample):
    lung_mask, heat = np.zeros((64, 64), bool), np.zeros((64, 64), np.float32)
    lung_mask[4:60, 6:28] = lung_mask[4:60, 36:58] = True
    heat[30, 10] = 0.9  # row 30 of lungs from 4 to 59: 47 % of the height, the middle zone
    prediction = replace(room.predict(sample), lung_mask=lung_mask, severity_map=heat)
    zones, array = rezone(prediction, lung_zones.CUTS)
    assert array[1, 0] == pytest.approx(0.9)
    assert rezone(prediction, (0.6, 0.8))[1][0, 0] == pytest.approx(0.9)
    np.testing.assert_array_equal(zones, lung_zones.zones(lung_mask[None])[0])
    assert array.sum() == pytest.approx(0.9)


def test_calibration_counts_external_images(room):
    table = room.calibration("PA", "covid19")
    external = room.diagnoses["PA"].external
    assert table["n"].tolist() == [0, len(external), 0, 0, 0]  # all say one third
    share = (external["diagnosis"] == "covid19").mean()
    assert table["observed"][1] == pytest.approx(share)
    expected = metrics.reliability(np.zeros(len(external)), external["p_covid19"], 5)
    np.testing.assert_array_equal(table["n"], expected["n"])


# edits


def test_edits_change_what_they_say_and_nothing_else():
    pixels = np.random.default_rng(0).integers(60, 120, (64, 64), dtype=np.uint8)
    lungs = np.zeros((64, 64), bool)
    lungs[10:50, 10:50] = True
    cell = slice(16, 32), slice(0, 16)
    marker = slice(2, 10), slice(2, 20)
    changed = {}
    for name, edit in EDITS.items():
        if edit:
            after = pixels.copy()
            edit(after, lungs, cell, marker)
            changed[name] = after != pixels
    assert not (changed["erase the lungs"] & ~lungs).any()
    assert not (changed["erase all but the lungs"] & lungs).any()
    assert changed["erase the lungs"][lungs].mean() > 0.9
    assert changed["erase all but the lungs"][~lungs].mean() > 0.9
    assert changed["erase the framed cell"][cell].mean() > 0.9
    assert changed["erase the framed cell"].sum() <= 256
    assert not changed["erase the marker"][10:].any()
    assert changed["erase the marker"][marker].any()
    assert changed["paint the marker R ICU"].any()
    assert not changed["paint the marker R ICU"][32:].any()


def test_an_edit_reaches_the_models_and_leaves_the_sample(room, sample):
    before = sample.pixels.copy()
    for edit in list(EDITS)[1:]:
        room.predict(sample, edit, (1, 1))
    assert np.array_equal(sample.pixels, before)
    edited = room.predict(sample, "erase the framed cell", (1, 1)).diagnosis
    assert not np.allclose(edited, room.predict(sample).diagnosis, atol=1e-6)
    one = room.predict(sample, "erase the framed cell", (0, 0)).image
    other = room.predict(sample, "erase the framed cell", (3, 3)).image
    assert not np.array_equal(one, other)
    with pytest.raises(ValueError, match="unknown edit"):
        room.predict(sample, "paint a moustache")


# uploads


def test_an_uploaded_image_joins_the_list_with_warnings(room):
    noise = np.random.default_rng(0).integers(0, 256, (300, 200), dtype=np.uint8)
    sample = room.upload("../../mine.png", png(noise), "AP")
    assert room.samples[sample.name] is sample
    assert sample.view == "AP"
    assert sample.origin == "uploaded"
    assert sample.notes
    assert np.array_equal(sample.pixels, noise)
    assert room.truth(sample).diagnosis is None
    for panel in figures.PANELS:
        figures.draw_panel(room, PanelState(panel, sample.name, truth=True))
    summary = figures.summarise(room, PanelState(sample=sample.name))
    assert "virtual films alone" in summary
    del room.samples[sample.name]


def test_names_and_notes_of_a_file_are_shown_as_they_are(room):
    """Dollars are no formula and angle brackets no HTML: both come from outside."""
    noise = np.random.default_rng(0).integers(0, 256, (90, 90), dtype=np.uint8)
    sample = room.upload("a$b_{, <b>.png", png(noise))
    sample = replace(sample, notes=("<script>x</script>",))
    room.samples[sample.name] = sample
    for panel in ("follow-up", "prediction"):
        assert layout.to_bytes(figures.draw_panel(room, PanelState(panel, sample.name)))
    assert "<script>" not in figures.summarise(room, PanelState(sample=sample.name))
    del room.samples[sample.name]


@pytest.mark.parametrize(
    "content",
    [b"", b"no image", png(np.zeros((80, 80), np.uint8)), png(np.eye(80, dtype=np.uint8) * 9)[:60]],
)
def test_a_broken_file_is_refused_by_its_own_name(room, content):
    before = list(room.samples)
    with pytest.raises(ImageError, match="^broken.png"):
        room.upload("broken.png", content)
    assert list(room.samples) == before


# panels


def texts(figure):
    return " ".join(
        text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text"))
    )


@pytest.mark.parametrize("panel", figures.PANELS)
def test_every_panel_says_what_it_is(room, followed, panel):
    figure = figures.draw_panel(room, PanelState(panel, followed.name, truth=True))
    shown = texts(figure)
    for text in ("synthetic", "Not a diagnostic device", followed.name, "5 cm"):
        assert text in shown
    assert layout.to_bytes(figure)[:2] == b"\xff\xd8"
    assert layout.to_bytes(figure, "png")[:4] == b"\x89PNG"
    assert b"<svg" in layout.to_bytes(figure, "svg")


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
def test_every_control_changes_the_figure(room, sample, panel, change):
    state = PanelState(panel, sample.name)
    before = layout.to_bytes(figures.draw_panel(room, state))
    assert layout.to_bytes(figures.draw_panel(room, replace(state, **change))) != before


def test_truth_is_shown_on_demand_alone(room, sample):
    true = figures.DIAGNOSIS_NAMES[room.truth(sample).diagnosis]
    shown = figures.draw_panel(room, PanelState("prediction", sample.name, truth=True))
    assert f"{true} (true)" in texts(shown)
    for panel in ("prediction", "severity"):
        assert "true" not in texts(figures.draw_panel(room, PanelState(panel, sample.name)))


def test_unknown_names_are_refused_with_the_known_ones(room):
    for state in (
        PanelState("x-ray vision"),
        PanelState(sample="film 99"),
        PanelState(edit="none"),
    ):
        with pytest.raises(ValueError, match="known"):
            figures.draw_panel(room, state)


def test_blend_mixes_image_and_colour_by_alpha():
    image = np.full((2, 2), 100, np.uint8)
    assert (layout.blend(image, np.zeros((2, 2)), "magma", 0, 1, 0.0) == 100).all()
    values = np.array([[0, 1], [-3, 9]])
    whole = layout.blend(image, values, "viridis", 0, 1, np.ones((2, 2)))
    assert whole[0, 0].tolist() == whole[1, 0].tolist() == [68, 1, 84]
    assert whole[0, 1].tolist() == whole[1, 1].tolist() == [253, 231, 36]


# the quiz


def test_an_answer_is_graded_by_hand(room):
    name = quiz.quiz_samples(room)[0]
    truth = room.truth(room.samples[name])
    six = np.concatenate([truth.severity_array[:, 0], truth.severity_array[:, 1]])
    involved = {zone for zone, ill in zip(ZONES, six, strict=True) if ill}
    right = quiz.grade_answer(room, name, "  Ada   L ", truth.diagnosis, involved)
    assert right["player"] == "Ada L"
    assert right["diagnosis"] == right["true"]
    assert right["zones"] == 1
    assert right["severity"] == right["true_severity"] == six.sum()
    wrong = quiz.grade_answer(room, name, "Bob", truth.diagnosis, set(ZONES) - involved)
    assert wrong["zones"] == 0
    # the virtual hospitals have a second reader, whose scores lie in the table
    scores = room.samples[name].row.iloc[0][list(SECOND)].to_numpy(float)
    second = scores >= room.profile.choices.brixia_threshold
    assert wrong["reader_zones"] == pytest.approx(np.mean(second == six))
    assert wrong["reader_severity"] == second.sum()
    for bad in (("", "normal", set()), ("Eve", "flu", set()), ("Eve", "normal", {"rxl"})):
        with pytest.raises(ValueError):
            quiz.grade_answer(room, name, *bad)


def test_answers_of_a_class_are_kept_apart_and_scored(room, tmp_path):
    names = quiz.quiz_samples(room)
    first = names[0]
    assert len({room.samples[name].patient_id for name in names}) == len(names)
    for player, guess in (
        ("Ada", "covid19"),
        ("../Bob", "normal"),
        ("=SUM(A1)", "normal"),
        ("Ada", "normal"),
    ):
        quiz.save_answer(tmp_path, quiz.grade_answer(room, first, player, guess, set()))
    rows = quiz.read_answers(tmp_path)
    # Ada's second answer replaced her first
    assert len(rows) == 3
    assert len(list(tmp_path.iterdir())) == 3
    assert rows.set_index("player").loc["Ada", "diagnosis"] == "normal"
    assert "'=SUM(A1)" in set(rows["player"])
    table = quiz.scoreboard(rows)
    is_normal = room.truth(room.samples[first]).diagnosis == "normal"
    assert table.loc["Ada", "diagnosis"] == float(is_normal)
    assert table.loc["the model", "films"] == 1
    assert table.loc["the second reader", "films"] == 1
    unread = rows.assign(reader_zones=np.nan)  # where no second reader read the film
    assert "the second reader" not in quiz.scoreboard(unread).index


def test_the_second_reader_stands_beside_the_model_where_there_is_one(room):
    row = quiz.grade_answer(room, quiz.quiz_samples(room)[0], "Ada", "normal", set())
    read = {"film": "real 1", "reader_zones": 0.5, "reader_severity": row["true_severity"] + 2}
    unread = {**row, "reader_zones": np.nan}
    table = quiz.scoreboard(pd.DataFrame([unread, {**row, **read}]))
    second = table.loc["the second reader", ["films", "zones", "severity"]]
    assert second.tolist() == [1, 0.5, 2]
    assert table.loc["Ada", "films"] == 2


# pages


def test_the_page_follows_its_controls(room, followed):
    page = pages.ReadingRoom(room)
    moves = {
        "panel": "attention",
        "row": 3,
        "layer": 2,
        "truth": True,
        "edit": "erase the lungs",
        "sample": followed.name,
    }
    for name, value in moves.items():
        before = page.picture.value
        page.controls[name].value = value
        assert page.message.value == ""
        assert page.picture.value != before or name == "truth"
    page.frame_cell(3, 1)
    assert page.state.cell == (3, 1)
    assert page.cells.children[3 * room.grid[1] + 1].button_style == "warning"
    page.turn(1)
    page.turn(-1)
    assert page.state.sample == followed.name
    page.controls["visit"].value = 3
    assert page.state.sample == room.visits(followed)[2].name
    page.controls["beside"].value = next(iter(room.samples))
    assert page.beside.value
    assert page.beside.layout.display is None
    shown = {name for name, control in page.controls.items() if control.layout.display != "none"}
    assert {"row", "column", "layer"} <= shown
    assert not {"threshold", "lines", "visit"} & shown


def test_the_page_survives_a_broken_upload_and_takes_a_sound_one(room):
    page = pages.ReadingRoom(room)
    before = page.picture.value
    page._add_file({"name": "<b>x</b>.png", "content": memoryview(b"nonsense")})
    assert "&lt;b&gt;x" in page.message.value
    assert page.picture.value == before
    noise = np.random.default_rng(1).integers(0, 256, (90, 90), dtype=np.uint8)
    page._add_file({"name": "mine.png", "content": memoryview(png(noise))})
    assert page.state.sample == "yours: mine.png, PA"
    assert page.message.value == ""
    assert page.picture.value != before
    del room.samples["yours: mine.png, PA"]


def test_an_error_is_shown_and_the_figure_stays(room, monkeypatch):
    page = pages.ReadingRoom(room)
    before = page.picture.value
    monkeypatch.setattr(figures, "draw_panel", lambda *_: 1 / 0)
    page.controls["panel"].value = "lungs"
    assert "division by zero" in page.message.value
    assert page.picture.value == before


@pytest.mark.parametrize(
    "kind, begin", [("png", "data:image/png;base64,iVBOR"), ("svg", "data:image/svg+xml;base64,")]
)
def test_saving_offers_a_file(room, kind, begin):
    page = pages.ReadingRoom(room)
    page.kind.value = kind
    page.save()
    assert begin in page.saved.value
    assert f'.{kind}"' in page.saved.value


def test_the_quiz_page_scores_and_exports(room, tmp_path):
    page = pages.QuizPage(room, tmp_path)
    page.grade()
    assert "who answers" in page.message.value
    assert page.table.value == ""
    page.player.value, page.guess.value = "<i>Ada</i>", "covid19"
    page.zones["rll"].value = True
    page.grade()
    assert "the model says" in page.message.value
    assert "the model" in page.table.value
    assert "<i>" not in page.table.value
    assert "data:text/csv;base64," in page.saved.value
    assert quiz.read_answers(tmp_path)["rll"].tolist() == [1]
    page.number.value = 2
    assert page.message.value == ""
    assert not page.zones["rll"].value


# the public face


@pytest.mark.parametrize("name", reading_room.__all__)
def test_every_public_name_is_there(name):
    assert getattr(reading_room, name) is not None
