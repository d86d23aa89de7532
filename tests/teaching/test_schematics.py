"""Schematics are well-formed SVG, and every word lies on its page and in its box."""

from xml.etree import ElementTree

import pytest

from cxrkit import teaching

SVG = "{http://www.w3.org/2000/svg}"
WIDTH = 0.6  # of a letter, in font sizes


@pytest.mark.parametrize("name", teaching.SCHEMATICS)
def test_a_schematic_is_a_drawing_whose_words_fit(name):
    page = ElementTree.fromstring(teaching.schematic(name)._repr_svg_())
    width, height = int(page.get("width")), int(page.get("height"))
    assert page.find(f"{SVG}title").text and width <= 900
    boxes = [box for box in page.iter(f"{SVG}rect") if box.get("rx")]
    words = list(page.iter(f"{SVG}text"))
    assert words and len(boxes) >= 4
    for word in words:
        x, y, size = (float(word.get(key)) for key in ("x", "y", "font-size"))
        half = len(word.text) * size * WIDTH / 2
        assert x - half >= -4 and x + half <= width + 4 and 0 < y < height, word.text
        for box in boxes:
            left, top = float(box.get("x")), float(box.get("y"))
            right, below = left + float(box.get("width")), top + float(box.get("height"))
            if left < x < right and top < y < below:
                assert x - half > left - 6 and x + half < right + 6, word.text


def test_a_schematic_is_named_where_no_picture_is_shown():
    """The address of an object would differ in each run of a notebook."""
    assert repr(teaching.schematic("one_head")) == "schematic: One attention head"


def test_an_unknown_schematic_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="pcam"):
        teaching.schematic("nothing")
