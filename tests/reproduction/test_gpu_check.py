"""The script for a card, its logic on a CPU: a check that fails is a line, and the others go on."""

import torch

from cxrkit.reproduction import cards
from cxrkit.storage.artifacts import Store
from tests.scripts import load_script

gpu_check = load_script("tools/gpu_check.py")
CPU = torch.device("cpu")


def test_a_check_that_raises_is_a_line_and_not_the_end():
    def wrong():
        raise RuntimeError("no kernel\nsecond line")

    line = gpu_check.attempt("a", wrong)
    assert (line.result, line.measured) == ("FAILED", "RuntimeError: no kernel")
    assert gpu_check.attempt("b", lambda: "5 images/s").result == "ok"


def test_every_training_of_models_and_grid_is_listed(tmp_path):
    lines = list(gpu_check.checks(CPU, True, Store(tmp_path), minutes=-1))
    assert {line.result for line in lines} == {"no time left"}
    names = [line.check for line in lines]
    assert len(names) > 20 and len(set(names)) == len(names)
    parts = ["update of backbone", "update of severity", "two processes", "torch.compile"]
    for part in [*parts, "update of lungs: teacher", "update of lungs: student", "relevance"]:
        assert any(name.startswith(part) for name in names)
    assert any("SimCLR" in name for name in names) and any("1024 px" in name for name in names)


def test_an_update_is_made_and_the_table_says_that_no_card_was_there():
    """The memory that the plan counts stands beside: weights 18 bytes each, and the work space."""
    planned = gpu_check.own_trainings(gpu_check.settings_of(True))[0]
    line = gpu_check.attempt("x", lambda: gpu_check.one_update(planned, "off", CPU, True))
    assert line.result == "ok" and "images/s" in line.measured
    least = cards.WORK_SPACE + 18 * sum(weight.numel() for weight in planned.make().parameters())
    counted = gpu_check.planned_memory(planned, planned.training, CPU)
    assert counted > least and f"{counted / 2**30:.1f} GB by the plan" in line.measured
    text = gpu_check.as_markdown([line], CPU)
    assert "CPU: not a card" in text and "| x | ok |" in text


def test_relevance_of_the_check_is_that_of_a_class():
    profile = gpu_check.settings_of(True)
    line = gpu_check.attempt("relevance", lambda: gpu_check.relevance(profile, CPU))
    assert (line.result, line.measured) == ("ok", "map (1, 4, 4), finite, none negative")
