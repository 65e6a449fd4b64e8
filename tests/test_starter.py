"""Forks of the starter are as clean as processes that python starts, and end as those do."""

import json
import multiprocessing
import os
import sys
import time

import pytest
from torch.multiprocessing.spawn import ProcessRaisedException

from tests import starter

SHOWS = """
import json, logging, os, random, signal, sys
import hydra, numpy, torch
from hydra.core.global_hydra import GlobalHydra
import ctr.trainer
assert __name__ == "__main__"
assert not GlobalHydra.instance().is_initialized()
assert not torch.distributed.is_initialized()
assert logging.getLogger().level == logging.WARNING
assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
assert signal.getsignal(signal.SIGINT) == signal.default_int_handler
print(json.dumps({
    "argv": sys.argv, "folder": os.getcwd(), "environment": dict(os.environ),
    "random": [random.random(), numpy.random.rand()], "torch": torch.rand(1).item(),
    "openmp": os.environ["OMP_WAIT_POLICY"],
}))
print("said", file=sys.stderr)
"""


@pytest.fixture
def script(tmp_path):
    def write(text):
        (tmp_path / "script.py").write_text(text)
        return str(tmp_path / "script.py")

    return write


def _look(rank, out):
    threads = len(os.listdir("/proc/self/task"))
    # What each process imports by itself costs every start; nothing that a fork would break is in.
    modules = {name: name in sys.modules for name in (*starter.PRELOADED, "polars", "pyarrow")}
    (out / f"{rank}.json").write_text(json.dumps({"threads": threads, "modules": modules}))


def test_the_server_has_imported_all_and_started_no_thread(tmp_path):
    starter.spawn(_look, (tmp_path,), nprocs=2)
    for rank in (0, 1):
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        assert found["threads"] == 1
        absent = {name for name, there in found["modules"].items() if not there}
        assert absent == {"polars", "pyarrow"}


def test_a_program_finds_what_torchrun_gives_it(script, tmp_path, monkeypatch):
    monkeypatch.setenv("SET_BY_THE_TEST", "1")
    # The server has it from tests/conftest.py.
    monkeypatch.delenv("OMP_NUM_THREADS")
    done = starter.run(2, script(SHOWS), "a=1", "b", folder=tmp_path)
    assert done.codes == [0, 0], done.stderr
    assert done.errors == ["said\n"] * 2
    shown = [json.loads(text) for text in done.outs]
    assert all(first != second for first, second in zip(*(f["random"] for f in shown), strict=True))
    assert shown[0]["torch"] == shown[1]["torch"]
    for rank, found in enumerate(shown):
        assert found["argv"] == [script(SHOWS), "a=1", "b"]
        assert found["folder"] == str(tmp_path)
        assert found["openmp"] == "PASSIVE"
        environment = found["environment"]
        assert environment["SET_BY_THE_TEST"] == "1"
        assert "OMP_NUM_THREADS" not in environment
        names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
        assert [environment[name] for name in names] == [str(rank)] * 2 + ["2"] * 2
    monkeypatch.delenv("SET_BY_THE_TEST")
    alone = json.loads(starter.run(None, script(SHOWS)).stdout)
    assert alone["folder"] == str(starter.ROOT)
    assert "SET_BY_THE_TEST" not in alone["environment"]
    assert not {"RANK", "WORLD_SIZE", "MASTER_PORT"} & alone["environment"].keys()


def test_one_that_fails_ends_the_others(script):
    began = time.monotonic()
    text = "import os, time, sys\nsys.exit(3) if os.environ['RANK'] == '1' else time.sleep(100)"
    done = starter.run(2, script(text))
    assert time.monotonic() - began < 60
    assert done.codes == [-15, 3]
    assert done.returncode in done.codes
    done = starter.run(1, script("1 / 0"))
    assert done.codes == [1]
    assert "ZeroDivisionError" in done.stderr


def _raises(rank):
    raise ValueError(f"of rank {rank}")


def test_what_a_function_raises_reaches_the_test():
    with pytest.raises(ProcessRaisedException, match="of rank 0"):
        starter.spawn(_raises, (), nprocs=1)


def test_one_that_hangs_is_killed(script):
    with pytest.raises(TimeoutError, match="after 2 s"):
        starter.run(1, script("import time\ntime.sleep(1000)"), timeout=2)
    assert multiprocessing.active_children() == []
