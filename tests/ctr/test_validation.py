"""What a validation decides: the best, the patience, the plateau; alone and in whole runs."""

import logging
import math
from dataclasses import replace

import pytest
import torch

from ctr.config import TrainerConfig
from ctr.distributed import Process
from ctr.validation import Standing, Validation

ALONE = Process(0, 1, 1, torch.device("cpu"))


class Log:
    """Takes rows as a run's log does."""

    def __init__(self):
        self.rows = []

    def write(self, kind, step, values):
        self.rows.append((kind, step, values))


def validated(values, **settings):
    """A validation that has found `values` of its metric, after steps 10, 20 and so on."""
    config = TrainerConfig(**{"keep_best": "auc", **settings})
    config.validate()
    found = iter(values)
    validation = Validation(lambda: {config.keep_best: next(found)}, config, ALONE)
    for step in range(10, 10 * len(values) + 1, 10):
        validation.run(step, Log())
    return validation


def test_without_a_split_nothing_happens():
    validation, log = Validation(None, TrainerConfig(), ALONE), Log()
    validation.run(10, log)
    assert log.rows == []
    assert validation.standing == Standing()


def test_what_was_found_is_logged_and_without_a_metric_not_judged():
    validation, log = Validation(lambda: {"auc": 0.5}, TrainerConfig(), ALONE), Log()
    validation.run(10, log)
    assert log.rows == [("valid", 10, {"auc": 0.5})]
    assert validation.standing == Standing()


@pytest.mark.parametrize(
    ("metric", "values", "best", "worse"),
    [
        ("auc", [0.5, 0.7, 0.6, 0.65], 20, 2),
        ("gauc", [0.5, 0.5], 10, 1),
        ("log_loss", [0.5, 0.3, 0.4], 20, 1),
        ("auc", [math.nan, 0.5, math.nan], 20, 1),
        ("auc", [math.nan], None, 1),
    ],
)
def test_the_best_is_remembered_and_those_after_it_are_counted(metric, values, best, worse):
    standing = validated(values, keep_best=metric).standing
    assert (standing.best and standing.best["step"]) == best
    assert standing.worse == worse


def test_patience_ends_after_so_many_in_a_row():
    assert not validated([0.5, 0.4, 0.6, 0.5], patience=2).exhausted
    assert validated([0.5, 0.4, 0.6, 0.5, 0.6], patience=2).exhausted
    assert not validated([0.5, 0.4, 0.3, 0.2]).exhausted


def test_a_plateau_takes_its_factor_each_time_and_never_gives_it_back():
    assert validated([0.5, 0.4, 0.6, 0.5, 0.6], plateau=0.5).standing.rate_factor == 0.125
    assert validated([0.5, 0.4]).standing.rate_factor == 1.0


def resumed(validation, **settings):
    """Another start of the run, which goes on from what was stored."""
    other = Validation(None, replace(validation.config, **settings), ALONE)
    other.restore(validation.stored())
    return other


def test_a_restored_one_goes_on_where_it_stood():
    validation = validated([0.5, 0.4], patience=2, plateau=0.5)
    other = resumed(validation)
    assert other.standing == validation.standing
    other.measure = lambda: {"auc": 0.45}
    other.run(30, Log())
    assert other.exhausted
    assert other.standing.rate_factor == 0.25


def test_a_checkpoint_of_before_there_was_a_patience_begins_to_count():
    validation = Validation(None, TrainerConfig(keep_best="auc", patience=2), ALONE)
    validation.restore({"best": {"step": 5, "value": 0.5}})
    assert validation.standing == Standing({"step": 5, "value": 0.5}, 0, 1.0)


def test_another_metric_begins_anew_and_says_so(caplog):
    validation = validated([0.5, 0.4], plateau=0.5)
    with caplog.at_level(logging.WARNING):
        other = resumed(validation, keep_best="log_loss")
    assert "of step 10, was chosen by auc" in caplog.text
    assert other.standing == Standing(None, 0, 0.5)
    assert resumed(validation, keep_best=None, plateau=None).standing == validation.standing
