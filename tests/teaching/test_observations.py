"""What should have been seen in a figure is kept once, as Markdown."""

from IPython.core.formatters import DisplayFormatter

from cxrkit.teaching import what_to_see


def test_an_observation_is_shown_as_markdown_alone(monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.publish_display_data", shown.append)
    seen = what_to_see("One.", "", "Two.")
    assert DisplayFormatter().format(seen) == ({}, {})
    assert shown == [{"text/markdown": "**What you should have seen.** One. Two."}]
    assert repr(seen) == "**What you should have seen.** One. Two."
