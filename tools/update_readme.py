"""Write README's table of results from the recorded JSON: python tools/update_readme.py [--check].

Every number of the table was written by a command to cxrkit/storage/recorded_results/*.json; this
script only puts it between the two markers of README.md. With --check it changes nothing and fails
where the table is not what the JSON says.
"""

import sys
from pathlib import Path

import pandas as pd

from cxrkit.storage.recorded import read_result

README = Path(__file__).resolve().parent.parent / "README.md"
START = "<!-- results: made by tools/update_readme.py -->"
END = "<!-- end of results -->"
LOST = "not available"  # cells of the paper's tables that are lost


def spread(values: pd.Series) -> str:
    """Mean of the seeds, with the lowest and the highest: "0.89 (0.88 to 0.91)"."""
    return f"{values.mean():.2f} ({values.min():.2f} to {values.max():.2f})"


def with_interval(row: pd.Series) -> str:
    """A value with its 95 % interval: "0.97 [0.96, 0.98]"."""
    return f"{row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"


def rows() -> list[tuple[str, str, str, str]]:
    """Rows of the table: what is measured, the paper's number, ours, and the command."""
    findings = pd.DataFrame(read_result("seeds_backbone")["rows"])
    diagnosis = pd.DataFrame(read_result("seeds_diagnosis")["rows"])
    severity = pd.DataFrame(read_result("seeds_severity")["rows"])
    lungs = pd.DataFrame(read_result("segmenter_large")["rows"])
    pcam = findings[findings["pool"] == "pcam"]["auc"]
    average = findings[findings["pool"] == "average"]["auc"]
    usual = severity[severity["held_out"] == "usual"]
    dice = lungs[
        (lungs["measure"] == "dice") & (lungs["group"] == "abnormal") & lungs["minus"].isna()
    ]
    dice = dice.set_index("network")
    out = [
        ("ten findings, mean AUC, PCAM pooling", LOST, spread(pcam), "`make seeds STUDY=backbone`"),
        ("the same, average pooling", LOST, spread(average), "`make seeds STUDY=backbone`"),
    ]
    for view, cell in (("PA", LOST), ("AP", "at least 0.800")):
        auc = diagnosis[diagnosis["view"] == view]["auc"]
        label = f"diagnosis, {view} images, macro AUC"
        out.append((label, cell, spread(auc), "`make seeds STUDY=diagnosis`"))
    out += [
        (
            "severity 0-6, MSE",
            "1.682, 1.677, 1.607",
            spread(usual["mse"]),
            "`make seeds STUDY=severity`",
        ),
        (
            "severity 0-6, R2",
            "0.572, 0.572, 0.432",
            spread(usual["r2"]),
            "`make seeds STUDY=severity`",
        ),
        (
            "a constant guess of severity, MSE",
            LOST,
            spread(usual["constant"]),
            "`make seeds STUDY=severity`",
        ),
    ]
    names = {"student": "AdaIN student", "unet_normal": "plain U-Net on the same masks"}
    for network, label in names.items():
        cell = with_interval(dice.loc[network])
        out.append((f"lungs on abnormal images, Dice, {label}", LOST, cell, "`make segmenter`"))
    return out


def table() -> str:
    """The table in Markdown, between the markers."""
    version = read_result("seeds_diagnosis")["made"]["hospitals"]
    lines = [
        START,
        "| at hospitals that no training saw | paper "
        f"| virtual hospitals, version {version} | made by |",
        "|---|---|---|---|",
    ]
    lines += [f"| {' | '.join(row)} |" for row in rows()]
    return "\n".join([*lines, END])


def main() -> None:
    """Write or check the table."""
    text = README.read_text("utf-8")
    before, _, rest = text.partition(START)
    _, _, after = rest.partition(END)
    wanted = f"{before}{table()}{after}"
    if "--check" in sys.argv[1:]:
        sys.exit(0 if wanted == text else "README.md: run python tools/update_readme.py")
    README.write_text(wanted, "utf-8")


if __name__ == "__main__":
    main()
