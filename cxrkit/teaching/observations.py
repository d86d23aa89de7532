"""What a learner should have seen in a figure, with numbers that the lesson has just computed."""

from __future__ import annotations

LEAD = "**What you should have seen.**"


class Observation:
    """Two or three sentences below a figure; a notebook shows them as Markdown."""

    def __init__(self, text: str) -> None:
        self.text = f"{LEAD} {text}"

    def __repr__(self) -> str:
        return self.text

    def _ipython_display_(self) -> None:
        """Show it as Markdown alone: IPython would add the same sentences as plain text."""
        from IPython.display import publish_display_data

        publish_display_data({"text/markdown": self.text})


def what_to_see(*sentences: str) -> Observation:
    """Say what a figure shows.

    The sentences are built from the values that the figure draws. So they are true of whatever
    model a lesson has loaded, and no number in them is typed.

    Args:
        sentences: in order; an empty one is left out.
    """
    return Observation(" ".join(sentence for sentence in sentences if sentence))
