"""HTML report: one page for one film, to look at; self-contained, without script or network.

Everything that comes from outside (a file name, a warning) is escaped. The page says first what it
is not: a diagnosis.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from string import Template

import numpy as np
from PIL import Image as Raster

from cxrkit import NOTICE
from cxrkit.config.vocabulary import DIAGNOSES
from cxrkit.inference.predictor import Prediction

QUALITY = 88  # of the JPEG of a picture
NAMES = {"normal": "normal", "other_infection": "other infection", "covid19": "COVID-19"}
ROWS = ("upper", "middle", "lower")  # zones
OVERLAY_ALT = (
    "The film with the severity map in colour. Blue lines: lungs and their six zones. White lines: "
    "what the map calls a lesion."
)

PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="generator" content="cxrkit predict $version">
<title>$name: cxrkit predict</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff;
  max-width: 68rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.4rem; overflow-wrap: anywhere; }
h2 { font-size: 1.1rem; margin: 1.2rem 0 .3rem; }
.notice { background: #1a1a1a; color: #fff; padding: .6rem 1rem; font-weight: bold; }
.unusable { border: 3px solid #a50021; padding: .2rem 1rem; }
.warnings { border: 3px solid #8a5a00; padding: .2rem 1rem; }
.pictures { display: flex; flex-wrap: wrap; gap: 1rem; }
figure { margin: 0; flex: 1 1 22rem; }
img { max-width: 100%; height: auto; background: #000; }
figcaption { font-size: .9rem; }
table { border-collapse: collapse; }
th, td { text-align: left; padding: .2rem .8rem .2rem 0; }
td.number { font-variant-numeric: tabular-nums; text-align: right; }
td.bar { width: 16rem; }
.bar div { background: #0b5394; height: .9rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 0 1rem; font-size: .9rem; }
dd { margin: 0; overflow-wrap: anywhere; }
</style>
</head>
<body>
<p class="notice" role="note">$notice</p>
<main>
<h1>$name</h1>
$unusable
$warnings
$results
$pictures
<h2>Made by</h2>
<dl>
$made_by
</dl>
</main>
</body>
</html>
""")


@dataclass(frozen=True)
class Statements:
    """What must be said beside the numbers of a page.

    Attributes:
        severity: What the severity score means (`severity_statement`).
        calibration: How far the probabilities are off (`files.calibration_text`).
        made_by: What made the prediction, by its name: models, version, terms.
    """

    severity: str
    calibration: str
    made_by: Mapping[str, str]


def html_report(prediction: Prediction, name: str, said: Statements) -> str:
    """The page of one film.

    Args:
        prediction: Of the film, with maps.
        name: Of the film's file.
        said: See `Statements`.

    Returns:
        HTML.
    """
    results, unusable = "", ""
    if not prediction.usable:
        unusable = _box("unusable", "Not usable for these models", prediction.unusable)
        if not prediction.has_numbers:
            unusable += "<p>No numbers are given for this film.</p>"
    rest = [text for text in prediction.warnings if text not in prediction.unusable]
    if prediction.has_numbers:
        results = _probabilities(prediction, said.calibration)
        results += _severity(prediction, said.severity)
    return PAGE.substitute(
        name=escape(name),
        notice=escape(NOTICE),
        version=escape(said.made_by.get("version", "")),
        unusable=unusable,
        warnings=_box("warnings", "Warnings", rest) if rest else "<p>No warnings.</p>",
        results=results,
        pictures=_pictures(prediction),
        made_by="\n".join(
            f"<dt>{escape(key)}</dt><dd>{escape(value)}</dd>" for key, value in said.made_by.items()
        ),
    )


def _box(kind: str, title: str, lines: Sequence[str]) -> str:
    """A framed list."""
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f'<section class="{kind}"><h2>{escape(title)}</h2><ul>{items}</ul></section>'


def _probabilities(prediction: Prediction, calibration: str) -> str:
    rows = "".join(
        f'<tr><th scope="row">{escape(NAMES[name])}</th>'
        f'<td class="number">{prediction.probs[name]:.2f}</td>'
        f'<td class="bar" aria-hidden="true">'
        f'<div style="width: {100 * prediction.probs[name]:.0f}%"></div></td></tr>'
        for name in DIAGNOSES
    )
    return (
        "<h2>Probabilities</h2><table><thead><tr>"
        '<th scope="col">class</th><th scope="col">probability</th><td></td>'
        f"</tr></thead><tbody>{rows}</tbody></table>"
        f"<p>Model for view {escape(prediction.view)}. The model knows these three classes alone: "
        f"another disease gets one of their names. {escape(calibration)}</p>"
        f"{_newness(prediction)}"
    )


def _newness(prediction: Prediction) -> str:
    if np.isnan(prediction.novelty):
        return ""
    return (
        f"<p>Novelty: {prediction.novelty:.2f}, the share of validation films that are nearer to "
        "the training films than this one.</p>"
    )


def _severity(prediction: Prediction, statement: str) -> str:
    rows = "".join(
        f'<tr><th scope="row">{row}</th>'
        + "".join(f'<td class="number">{value:.2f}</td>' for value in values)
        + "</tr>"
        for row, values in zip(ROWS, prediction.array, strict=True)
    )
    return (
        f"<h2>Severity: {prediction.severity:.1f} of 6</h2>"
        "<table><caption>Six zones, each 0 to 1</caption><thead><tr><th scope='col'>zone</th>"
        '<th scope="col">patient\'s right</th><th scope="col">patient\'s left</th>'
        f"</tr></thead><tbody>{rows}</tbody></table><p>{escape(statement)}</p>"
    )


def _pictures(prediction: Prediction) -> str:
    figures = []
    if prediction.overlay is not None:
        alt = f"{OVERLAY_ALT} Severity {prediction.severity:.1f} of 6."
        figures.append(_figure(prediction.overlay, alt, OVERLAY_ALT))
    if prediction.shown is not None:
        caption = "The film as the models were given it."
        figures.append(_figure(prediction.shown, "The film without marks.", caption))
    if not figures:
        return ""
    return f'<h2>Pictures</h2><div class="pictures">{"".join(figures)}</div>'


def _figure(picture: np.ndarray, alt: str, caption: str) -> str:
    """A picture inside the page, uint8 (h, w) or (h, w, 3)."""
    height, width = picture.shape[:2]
    jpeg = io.BytesIO()
    Raster.fromarray(picture).save(jpeg, "jpeg", quality=QUALITY)
    data = base64.b64encode(jpeg.getvalue()).decode()
    return (
        f'<figure><img src="data:image/jpeg;base64,{data}" width="{width}" height="{height}" '
        f'alt="{escape(alt)}"><figcaption>{escape(caption)}</figcaption></figure>'
    )
