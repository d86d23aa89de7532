"""The plan of ten weeks names every exercise once, in the column of its level."""

import re

from cxrkit import teaching
from tests.conftest import CHECKOUT

COLUMNS = {"warm-up": 2, "core": 3, "project": 4}
EXERCISE = r"\d\d[a-z]?\.\d"


def rows_of_plan():
    """Cells of each week of the plan."""
    page = (CHECKOUT / "docs" / "teaching.md").read_text()
    plan = page.split("## Ten weeks")[1].split("\n## ")[0]
    lines = [line for line in plan.splitlines() if re.match(r"\| \d", line)]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_plan_has_every_exercise_once_and_in_the_column_of_its_level():
    rows = rows_of_plan()
    assert [row[0] for row in rows] == [str(week) for week in range(1, 11)]
    for level, column in COLUMNS.items():
        planned = [name for row in rows for name in re.findall(EXERCISE, row[column])]
        exercises = teaching.list_exercises().values()
        assert sorted(planned) == sorted(each.name for each in exercises if each.level == level)


def test_an_exercise_is_planned_in_the_week_of_its_lesson():
    for row in rows_of_plan():
        lessons = row[1].split(", ")
        for name in re.findall(EXERCISE, " ".join(row[2:5])):
            assert name.split(".")[0] in lessons
