"""Counts of a run: the time of training, and of the search in it."""

import time

import pytest
import torch

from ctr.distributed import Process
from ctr.faults import SpikeWatch
from ctr.progress import Progress, Stopwatch, Window

ALONE = Process(0, 1, 1, torch.device("cpu"))


@pytest.fixture
def progress():
    return Progress(SpikeWatch(None), Window(torch.zeros(())))


def test_what_lies_between_stop_and_start_is_not_counted(progress, monkeypatch):
    now, searched = [100.0], [7.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    watch = Stopwatch(lambda: searched[0])
    for _ in range(2):
        assert watch.start() == now[0]
        now[0] += 3.0
        searched[0] += 1.5
        watch.stop(progress)
        # A validation, which searches as well.
        now[0] += 50.0
        searched[0] += 40.0
    assert (progress.seconds, progress.search_seconds) == (6.0, 3.0)


def test_the_time_of_before_a_resume_is_kept(progress):
    progress.seconds, progress.search_seconds = 6.0, 3.0
    stored = {**progress.stored({"epoch": 0}, ALONE, None), "step": 4}
    other = Progress(SpikeWatch(None), Window(torch.zeros(())))
    other.restore(stored, ALONE)
    assert (other.seconds, other.search_seconds) == (6.0, 3.0)
    del stored["search_seconds"]
    other.restore(stored, ALONE)
    assert other.search_seconds == 0.0
