"""A job in which a process hangs, is stopped, dies or fails ends, and says which one and where."""

import json
import os
import subprocess
import sys

import pytest

from ctr.stages import Stages
from ctr.verdict import Report, Seen, culprits, verdict
from ctr.watchdog import waits_in

CASES = ("hangs", "stopped", "dies", "fails", "slow")
# Of watched_job.
TIMEOUT, INTERVAL = 2.0, 0.2


def seen(age=0.0, silent=False, **report):
    values = {"moves": 7, "step": 3, "first": False, "stage": "forward", **report}
    return Seen(Report(**values), age, silent)


def judged(*reports):
    return verdict(dict(enumerate(reports)), timeout=10.0, grace=2.0)


@pytest.fixture(scope="module")
def out(repository, tmp_path_factory):
    out = tmp_path_factory.mktemp("watched")
    command = [sys.executable, "tests/ctr/watched_job.py", str(out), *CASES]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(repository)}
    done = subprocess.run(command, cwd=repository, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return out


def ended(out, case):
    found = json.loads((out / f"{case}.json").read_text())
    return found["codes"], found["seconds"], [(out / f"{case}.{r}").read_text() for r in (0, 1)]


def test_a_process_that_hangs_ends_all_of_them(out):
    codes, seconds, (first, second) = ended(out, "hangs")
    assert codes == [75, 75]
    assert TIMEOUT < seconds < TIMEOUT + 30 * INTERVAL
    for rank, text in enumerate((first, second)):
        assert text.startswith(f"error on rank {rank}: the job ends, since it stands still")
        assert "rank 1 stands still after step 3, in stage 'backward'" in text
        assert "watched_job.py" in text
        assert "rank 0 stands" not in text


def test_a_process_that_is_stopped_ends_the_others(out):
    codes, seconds, (first, _) = ended(out, "stopped")
    assert codes[0] == 75
    assert TIMEOUT < seconds < TIMEOUT + 30 * INTERVAL
    assert "rank 1 has not been heard of for" in first
    assert "last seen after step 3, in stage 'backward'" in first


def test_a_process_that_dies_is_named_by_those_that_fail_for_it(out):
    codes, _, (first, _) = ended(out, "dies")
    assert codes == [1, -9]
    assert "error on rank 0: rank 1 has not been heard of" in first
    assert "last seen after step 3, in stage 'backward'" in first


def test_a_process_that_fails_says_where(out):
    codes, _, both = ended(out, "fails")
    assert codes == [1, 1]
    for text in both:
        assert "rank 1 failed after step 3, in stage 'backward': ValueError: no such luck" in text


def test_a_validation_may_take_longer_than_a_step(out):
    codes, seconds, both = ended(out, "slow")
    assert codes == [0, 0]
    assert seconds > 1.5 * TIMEOUT
    assert both == ["", ""]


def test_who_waits_is_not_to_blame():
    # Rank 0 has entered the next stage and waits there for rank 1.
    assert culprits({0: seen(moves=8, standing=99.0), 1: seen(standing=98.0)}) == [1]
    # A call that waits tells more than a stage, which may have been entered by one of them only.
    assert culprits({0: seen(waits=True), 1: seen()}) == [1]
    assert culprits({0: seen(waits=True), 1: seen(moves=8)}) == [1]
    assert culprits({0: seen(waits=True, moves=8), 1: seen(waits=True)}) == [1]
    assert culprits({0: seen(waits=True), 1: seen(waits=True)}) == [0, 1]
    # One that is silent may be anywhere by now.
    assert culprits({0: seen(moves=5), 1: seen(silent=True)}) == [1]
    # Others fail for it.
    assert culprits({0: seen(silent=True), 1: seen(ended="RuntimeError: closed by peer")}) == [0]
    assert culprits({0: seen(moves=5), 1: seen(moves=2, ended="done")}) == [0]


def test_only_who_is_to_blame_has_to_hurry():
    assert judged(seen(moves=8, standing=25.0), seen(stage="checkpoint", standing=25.0)) is None
    assert "rank 1" in judged(seen(moves=8), seen(stage="checkpoint", standing=31.0))
    assert judged(seen(standing=9.0), seen(moves=8, standing=50.0)) is None
    assert judged(seen(first=True, standing=29.0)) is None
    assert judged(seen(standing=6.0, age=5.0, silent=True)) is not None


def test_all_are_named_where_nobody_is_behind():
    text = judged(seen(standing=11.0, waits=True), seen(standing=12.0, waits=True))
    assert "rank 0 stands still after step 3, in stage 'forward', for 11 s" in text
    assert "rank 1 stands still" in text


def test_others_get_a_moment_to_fail_themselves():
    failed = seen(ended="OutOfMemoryError: no room")
    assert judged(seen(standing=1.0), failed) is None
    later = seen(ended="OutOfMemoryError: no room", age=3.0)
    assert judged(seen(standing=1.0), later) == (
        "rank 1 failed after step 3, in stage 'forward': OutOfMemoryError: no room"
    )


def test_a_job_that_is_done_is_not_judged():
    assert judged(seen(ended="done", age=99.0), seen(ended="done", age=99.0)) is None


@pytest.mark.parametrize(
    ("file", "waits"),
    [
        ("torch/distributed/distributed_c10d.py", True),
        ("torchrec/distributed/comm_ops.py", True),
        ("torch/autograd/graph.py", True),
        ("torch/distributed/checkpoint/filesystem.py", False),
        ("torchrec/distributed/planner/planners.py", False),
        ("ctr/data/loader.py", False),
    ],
)
def test_who_writes_a_checkpoint_or_plans_waits_for_nobody(file, waits):
    assert waits_in(f"/usr/lib/python3/site-packages/{file}") == waits


def test_stages_tell_where_the_main_thread_is():
    stages = Stages()
    assert (stages.now.name, stages.now.moves) == ("start", 0)
    with stages.running("forward"), stages.running("search"):
        assert (stages.now.name, stages.now.moves) == ("search", 2)
    assert stages.now.moves == 4
    assert stages.now.name == "between stages"
    with pytest.raises(ValueError, match="no"), stages.running("update"):
        raise ValueError("no")
    assert stages.now.name == "update"
