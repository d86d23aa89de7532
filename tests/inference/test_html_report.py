"""The page of a film: complete, escaped, without network, readable."""

import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from cxrkit import NOTICE, cli
from cxrkit.config.vocabulary import DIAGNOSES
from cxrkit.inference import html_report, predictor

MADE_BY = {"version": "cxrkit 1.2", "models": "mini-0123 (<here>)"}
EVIL = '"><script>alert(1)</script>.png'


def a_prediction(**changes):
    values = {
        "probs": dict(zip(DIAGNOSES, (0.125, 0.25, 0.625), strict=True)),
        "array": np.array([[0.11, 0.44], [0.22, 0.55], [0.33, 0.66]]),
        "severity": 2.31,
        "view": "PA",
        "maps": {},
        "warnings": ("too small: <b>40</b> px",),
        "overlay": np.zeros((50, 40, 3), np.uint8),
        "shown": np.zeros((48, 40), np.uint8),
        "novelty": 0.83,
    }
    return predictor.Prediction(**{**values, **changes})


class Page(HTMLParser):
    """Tags with attributes, and text, of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.words = [], [], []
        self.feed(text)
        assert self.open == [], "every tag is closed"

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())

    def named(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def page(prediction, name="film.png"):
    said = html_report.Statements("It is a score.", "pa: off by 0.30", MADE_BY)
    return html_report.html_report(prediction, name, said)


def test_a_page_says_all_that_was_predicted_and_what_it_is_not():
    found = Page(page(a_prediction()))
    for words in (
        *(NOTICE, "film.png", "0.12", "0.25", "0.62", "Severity: 2.3 of 6", "It is a score."),
        *("0.11", "0.44", "0.66", "patient's right", "cxrkit 1.2", "mini-0123", "view PA"),
        *("off by 0.30", "Novelty: 0.83"),
    ):
        assert words in found.text, words
    assert found.text.index(NOTICE) < found.text.index("0.25"), "first what it is not"
    rows = re.findall(r"(upper|middle|lower) ([\d.]+) ([\d.]+)", found.text)
    assert rows == [
        *(("upper", "0.11", "0.44"), ("middle", "0.22", "0.55"), ("lower", "0.33", "0.66"))
    ]


def test_what_comes_from_outside_is_escaped_and_nothing_is_loaded():
    text = page(a_prediction(), EVIL)
    found = Page(text)
    tags = {tag for tag, _ in found.tags}
    assert not tags & {"script", "link", "iframe", "b", "a"} and EVIL in found.text
    assert "too small: <b>40</b> px" in found.text and "(<here>)" in found.text
    text = re.sub(r"base64,[^\"]*", "", text)
    assert not re.search(r"https?:|//\w|url\(|@import| on\w+=", text)
    policy = [one["content"] for one in found.named("meta") if "http-equiv" in one]
    assert policy == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]


def test_pictures_have_words_and_their_size():
    found = Page(page(a_prediction()))
    assert [(one["width"], one["height"]) for one in found.named("img")] == [
        *(("40", "50"), ("40", "48"))
    ]
    for one in found.named("img"):
        assert len(one["alt"]) > 20 and one["src"].startswith("data:image/jpeg;base64,")
    assert found.named("html") == [{"lang": "en"}] and len(found.named("h1")) == 1
    assert len(found.named("main")) == 1 and all("scope" in one for one in found.named("th"))


def test_an_unusable_film_has_its_reasons_and_no_numbers():
    reason = "the file says Modality CT: no radiograph"
    nothing = predictor.without_numbers([reason, "too small"], [reason], np.zeros((9, 9), np.uint8))
    found = Page(page(nothing))
    assert reason in found.text and "No numbers are given" in found.text
    assert "Severity" not in found.text and "nan" not in found.text.lower()
    assert "Probabilities" not in found.text and len(found.named("img")) == 1
    asked = Page(page(a_prediction(unusable=(reason,), warnings=(reason,))))
    assert "Not usable" in asked.text and "Severity: 2.3" in asked.text
    assert asked.text.count(reason) == 1 and "No warnings." in asked.text


def luminance(colour):
    """Relative luminance of #rgb or #rrggbb (WCAG 2)."""
    digits = colour[1:] if len(colour) == 7 else "".join(2 * one for one in colour[1:])
    parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    parts = [one / 12.92 if one <= 0.04045 else ((one + 0.055) / 1.055) ** 2.4 for one in parts]
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]


@pytest.mark.parametrize("rule", ["body", ".notice"])
def test_text_stands_out_by_seven_to_one(rule):
    style = re.search(rf"^{re.escape(rule)} {{(.*?)}}", page(a_prediction()), re.M | re.S)[1]
    ink = re.search(r"(?<!-)\bcolor: (#\w+)", style)[1]
    paper = re.search(r"background: (#\w+)", style)[1]
    bright, dark = sorted((luminance(ink), luminance(paper)), reverse=True)
    assert (bright + 0.05) / (dark + 0.05) >= 7


def test_the_command_writes_a_page_and_names_it(images, weights, tmp_path):
    out = tmp_path / "out"
    asked = ["predict", images["path"][1], "--view", "PA", "--weights", weights, "--out", out]
    asked = [*map(str, asked), "--html"]
    found = CliRunner().invoke(cli.main, asked)
    assert found.exit_code == 0
    row = pd.read_csv(out / "predictions.csv", dtype=str).iloc[0]
    first = Page((out / row["html"]).read_text())
    assert row["usable"] == "no" and "No numbers are given" in first.text
    assert row["sha256"] in first.text and row["model"] in first.text
    assert "0 images predicted, 1 finished before" in CliRunner().invoke(cli.main, asked).output
    asked += ["--even-unusable", "--overwrite"]
    assert CliRunner().invoke(cli.main, asked).exit_code == 0
    again = Page((out / row["html"]).read_text())
    assert "Severity:" in again.text and len(again.named("img")) == 2
